"""Measure how well wrong labels are found: flip labels at random, and count how many of them are listed.

    python scripts/label_noise.py --out label-noise.jsonl \\
        phrasebank=financial_phrasebank_50agree.parquet sst2=sst2/dev.parquet,sst2/test.parquet

Of each corpus (tables with the columns text and label, the codes 0, 1, or 0, 1, 2) training rows are sampled
with each seed, and a tenth of their labels replaced by another class, drawn uniformly. All rows are ranked by
the out-of-fold probability of their label, as the command `suspects` does, and by that of its linear model
alone; precision and recall of the flips are those of the first tenth. Then classifiers are fitted over the
frozen LSTM, as training with few rows does, and scored on test rows with their true labels: on all rows,
without the rows listed as wrong labels, without the first tenth of the rows, with these corrected, and with
all true labels. The log has a line for each corpus and seed; the table of all is printed. Corpora and seeds
that the log has are not run again.

Legend: R rows, C classes, P pooled features.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from result_log import commit_of, markdown, read_log, repository

from lstm_sentiment.adaptation.fitting import fit_frozen, pooled_features
from lstm_sentiment.adaptation.resolving import resolve
from lstm_sentiment.adaptation.start import Start
from lstm_sentiment.cleaning.out_of_fold import FrozenLSTM, folds_with_groups, out_of_fold
from lstm_sentiment.config.schema import Config, TrainerConfig
from lstm_sentiment.config.sections import DataConfig
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.evaluation.confident_learning import find_label_errors
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.experiment.train import initial_model
from lstm_sentiment.models.network import TfidfBranch, WideAndDeep
from lstm_sentiment.system.devices import set_up_cpu
from lstm_sentiment.system.distributed import Processes

ROOT = Path(__file__).parents[1]
NAMES = {2: ["negative", "positive"], 3: ["negative", "neutral", "positive"]}
GIVEN = frozenset({"pretrained", "adapt", "data.validation", "data.test"})
CPU = torch.device("cpu")
TRAINED = [
    "all rows",
    "without the listed",
    "without the first tenth",
    "first tenth corrected",
    "true labels",
]
Array = npt.NDArray[Any]


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(prog="label_noise", description=__doc__.split("\n")[0])
    parser.add_argument("corpora", nargs="+", metavar="NAME=FILE[,FILE]")
    parser.add_argument("--rows", type=int, default=3000, help="training rows, at most")
    parser.add_argument("--test-rows", type=int, default=2000, help="test rows, at most")
    parser.add_argument("--noise", type=float, default=0.1, help="share of the labels that are flipped")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="log to append to")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    set_up_cpu(options.threads)
    facts = repository(ROOT, "lstm_sentiment", "scripts/label_noise.py")
    done = {(entry["corpus"], entry["seed"]) for entry in read_log(options.out)}
    for seed in range(options.seeds):
        for named in options.corpora:
            name, _, files = named.partition("=")
            if (name, seed) in done:
                continue
            frame = read_corpus(files.split(","))
            with tempfile.TemporaryDirectory() as folder:
                entry = facts | {"corpus": name, "seed": seed, **measure(frame, seed, options, Path(folder))}
            with options.out.open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")
            print(json.dumps(entry), flush=True)
    print(table(read_log(options.out)))


def read_corpus(files: list[str]) -> pd.DataFrame:
    """Return the distinct texts of files, with class names as labels."""
    frame = pd.concat([pd.read_parquet(file, columns=["text", "label"]) for file in files])
    frame = frame.drop_duplicates("text", ignore_index=True)
    names = NAMES[frame["label"].nunique()]
    return frame.assign(label=[names[code] for code in frame["label"]])


def measure(frame: pd.DataFrame, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the results of one corpus and seed."""
    random = np.random.default_rng(seed)
    shuffled = frame.iloc[random.permutation(len(frame))]
    count = min(options.rows, 3 * len(frame) // 4)
    train, test = shuffled[:count], shuffled[count : count + options.test_rows]
    names = sorted(frame["label"].unique())
    flipped = np.sort(random.permutation(count)[: round(options.noise * count)])
    noisy = train["label"].tolist()
    for row in flipped:
        noisy[row] = random.choice([name for name in names if name != noisy[row]])
    for file, rows in (("train", train.assign(label=noisy)), ("test", test)):
        rows.to_json(folder / f"{file}.jsonl", orient="records", lines=True, force_ascii=False)
    data = DataConfig(train=f"{folder}/train.jsonl", validation=None, test=f"{folder}/test.jsonl")
    trainer = TrainerConfig(threads=options.threads)
    config = Config(pretrained="starter", adapt="frozen", data=data, trainer=trainer)
    plan = resolve(config, GIVEN, cache=cache_folder())
    assert plan.corpus is not None
    assert plan.start is not None
    network = initial_model(plan.config, plan.corpus, start=plan.start, fitted=False).eval()
    assert isinstance(network, WideAndDeep)
    rows_R = plan.corpus.train.store.lines[plan.corpus.train.rows] - 1  # a line for each row
    true_R = np.array([plan.corpus.labels.index(name) for name in train["label"]])[rows_R]
    found = {"rows": count, "test_rows": len(test), "flips": len(flipped)}
    return found | results(network, plan.start, plan.corpus, np.isin(rows_R, flipped), true_R)


def results(
    network: WideAndDeep, start: Start, corpus: Corpus, flipped_R: Array, true_R: Array
) -> dict[str, Any]:
    """Return precision and recall of the rankings, and the scores after training."""
    assert corpus.test is not None
    began, train = time.perf_counter(), corpus.train
    branch = TfidfBranch(len(corpus.vocabulary), len(corpus.labels), buckets=network.ngrams.buckets)
    frozen = FrozenLSTM(start=start, lstm=network.lstm, device=CPU)
    folds = folds_with_groups(train, None, seed=0)
    with torch.no_grad():
        predicted = out_of_fold(train, corpus.labels, branch, folds, frozen=frozen)
    seconds = time.perf_counter() - began
    found: dict[str, Any] = {"model": predicted.model, "seconds": round(seconds, 1)}
    every, count = np.arange(len(train)), int(flipped_R.sum())
    for name, probabilities_RC in (("linear", predicted.linear_RC), ("blend", predicted.probabilities_RC)):
        first = np.argsort(probabilities_RC[every, train.labels], kind="stable")[:count]
        listed = find_label_errors(train.labels, probabilities_RC).rows
        found[name] = {"first": shares(first, flipped_R), "listed": shares(listed, flipped_R)}
    corrected_R = train.labels.copy()
    corrected_R[first] = true_R[first]
    of_rows = [(every, train.labels), (np.setdiff1d(every, listed), train.labels)]
    of_rows += [(np.setdiff1d(every, first), train.labels), (every, corrected_R), (every, true_R)]
    features = [
        pooled_features(network.lstm, of, device=CPU, processes=Processes()) for of in (train, corpus.test)
    ]
    found["macro_f1"] = {
        name: trained(network, start, corpus, (rows, labels_R), features)
        for name, (rows, labels_R) in zip(TRAINED, of_rows, strict=True)
    }
    return found


@torch.no_grad()
def trained(
    network: WideAndDeep, start: Start, corpus: Corpus, learned: tuple[Array, Array], features: list[Array]
) -> float:
    """Return the macro-F1 on test rows after training on some rows with some labels."""
    rows, labels_R = learned
    part = corpus.train.joined(corpus.train.store, corpus.train.rows[rows], labels_R[rows])
    fit_frozen(
        network, start, part, features[0][rows],
        labels=corpus.labels, row_weights=np.ones(len(rows)), metric="macro_f1", seed=0,
    )  # fmt: skip
    assert isinstance(corpus.test, TextDataset)
    of_lstm_RC = network.lstm.head(torch.from_numpy(features[1]))
    of_ngrams_RC = predict_logits(network.ngrams, corpus.test, device=CPU, batch_size=256)
    logits_RC = network.shares[0] * of_lstm_RC + network.shares[1] * of_ngrams_RC
    scores = score(corpus.test.labels, logits_RC.double().softmax(1).numpy(), corpus.labels)
    return round(float(scores["macro_f1"]), 4)


def shares(chosen: Array, flipped_R: Array) -> dict[str, Any]:
    """Return how many rows were chosen, and the precision and recall of the flips among them."""
    hits = int(flipped_R[chosen].sum())
    precision, recall = hits / max(1, len(chosen)), hits / max(1, int(flipped_R.sum()))
    return {"rows": len(chosen), "precision": round(precision, 4), "recall": round(recall, 4)}


def table(entries: list[dict[str, Any]]) -> str:
    """Return the means over seeds, with standard deviations, as two tables in Markdown."""
    of_corpus: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        of_corpus[entry["corpus"]].append(entry)
    flips, scores = [], []
    for name, of in of_corpus.items():
        first = [
            spread([entry[model]["first"]["precision"] for entry in of]) for model in ("blend", "linear")
        ]
        listed = [f"{np.mean([entry['blend']['listed']['rows'] for entry in of]):.0f}"]
        listed += [spread([entry["blend"]["listed"][of_] for entry in of]) for of_ in ("precision", "recall")]
        flips.append([name, f"{of[0]['rows']:,}", *first, *listed])
        scores.append([name, *(spread([entry["macro_f1"][which] for entry in of]) for which in TRAINED)])
    found = markdown(
        ["corpus", "rows", "first tenth", "linear model alone", "rows listed", "precision", "recall"], flips
    )
    commits = ", ".join(sorted({commit_of(entry) for entry in entries}))
    return f"{found}\n\n{markdown(['corpus', *TRAINED], scores)}\n\nCommit {commits}."


def spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
