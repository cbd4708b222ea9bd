"""Measure how well suspect rows are found: flip labels at random, and count how many of them are listed.

    python scripts/label_noise.py --out label-noise.jsonl \\
        phrasebank=financial_phrasebank_50agree.parquet sst2=sst2/dev.parquet,sst2/test.parquet

Of each corpus (tables with the columns text and label, the codes 0, 1, or 0, 1, 2) training rows are sampled
with each seed, and a tenth of their labels replaced by another class, drawn uniformly. All rows are ranked by
the out-of-fold probability of their label, by the command `suspects` and by its linear model alone; precision
and recall of the flips are those of the first tenth. Then a classifier is trained on all rows, without the
listed rows and with the true labels, and scored on test rows with their true labels. The log has a line for
each corpus and seed; the table of all is printed.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from result_log import commit_of, markdown, read_log, repository

from lstm_sentiment.adaptation.resolving import resolve
from lstm_sentiment.cleaning.rows import all_rows
from lstm_sentiment.cleaning.search import WRONG_LABEL, find_suspects, predict_all
from lstm_sentiment.cleaning.table import write_suspects
from lstm_sentiment.config.schema import Config, DataConfig, TrainerConfig
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.evaluation.confident_learning import find_label_errors
from lstm_sentiment.experiment.train import run
from lstm_sentiment.system.devices import set_up_cpu

ROOT = Path(__file__).parents[1]
NAMES = {2: ["negative", "positive"], 3: ["negative", "neutral", "positive"]}
GIVEN = frozenset({"pretrained", "adapt", "data.validation", "data.test"})
PRUNINGS = ("noise_rate", "class", "both")


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(prog="label_noise", description=__doc__.split("\n")[0])
    parser.add_argument("corpora", nargs="+", metavar="NAME=FILE[,FILE]")
    parser.add_argument("--rows", type=int, default=3000, help="training rows, at most")
    parser.add_argument("--test-rows", type=int, default=2000, help="test rows, at most")
    parser.add_argument("--noise", type=float, default=0.1, help="share of the labels that are flipped")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--pretrained", default="starter", help="as for train")
    parser.add_argument("--out", type=Path, required=True, help="log to append to")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    set_up_cpu(options.threads)
    facts = repository(ROOT, "lstm_sentiment", "scripts/label_noise.py")
    for seed in range(options.seeds):
        for named in options.corpora:
            name, _, files = named.partition("=")
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
    for file, rows in (("noisy", train.assign(label=noisy)), ("true", train), ("test", test)):
        rows.to_json(folder / f"{file}.jsonl", orient="records", lines=True, force_ascii=False)
    config = Config(
        out=str(folder / "run"),
        pretrained=None if options.pretrained == "null" else options.pretrained,
        adapt="auto" if options.pretrained == "null" else "frozen",
        baseline=False,
        overwrite=True,
        data=DataConfig(train=str(folder / "noisy.jsonl"), validation=None, test=None),
        trainer=TrainerConfig(threads=options.threads),
    )
    found = ranked(config, flipped)
    started = time.perf_counter()
    suspects = find_suspects(config, given=GIVEN)
    found["suspects_s"] = round(time.perf_counter() - started, 1)
    write_suspects(suspects, str(folder / "suspects.csv"))
    wrong = [row.line - 1 for row in suspects.suspects if WRONG_LABEL in row.reasons]
    found["listed"] = shares(np.array(wrong, np.int64), flipped)
    if config.pretrained is not None:
        found["macro_f1"] = trained(config, folder)
    return {"rows": count, "test_rows": len(test), "flips": len(flipped), **found}


def ranked(config: Config, flipped: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return precision and recall of the flips among the first rows of each ranking, and by each pruning."""
    plan = resolve(config, GIVEN, cache=cache_folder())
    if plan.corpus is None:
        raise SystemExit("label_noise: needs a classifier to start from")
    rows = all_rows(plan.corpus, grouped=False)
    predicted = predict_all(plan, rows)
    lines_R, labels_R, found = rows.lines() - 1, rows.data.labels, {}
    for name, probabilities_RC in (
        ("blend", predicted.probabilities_RC), ("linear", predicted.linear_RC)
    ):  # fmt: skip
        own_R = probabilities_RC[np.arange(len(labels_R)), labels_R]
        first = np.argsort(own_R, kind="stable")[: len(flipped)]
        found[name] = {"first": shares(lines_R[first], flipped)} | {
            by: shares(lines_R[find_label_errors(labels_R, probabilities_RC, by=by).rows], flipped)
            for by in PRUNINGS
        }
    return found | {"model": predicted.model}


def shares(chosen: np.ndarray[Any, Any], flipped: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return how many rows were chosen, and the precision and recall of the flips among them."""
    hits = int(np.isin(chosen, flipped).sum())
    precision, recall = hits / max(1, len(chosen)), hits / max(1, len(flipped))
    return {"rows": len(chosen), "precision": round(precision, 4), "recall": round(recall, 4)}


def trained(config: Config, folder: Path) -> dict[str, float]:
    """Return the macro-F1 on test rows of classifiers trained on all, unsuspected and true rows."""
    noisy = replace(config.data, test=str(folder / "test.jsonl"))
    of_rows = {
        "all rows": noisy,
        "without suspects": replace(noisy, exclude_rows=str(folder / "suspects.csv")),
        "true labels": replace(noisy, train=str(folder / "true.jsonl")),
    }
    return {
        name: round(run(replace(config, data=data), given=GIVEN)["test"]["macro_f1"], 4)
        for name, data in of_rows.items()
    }


def table(entries: list[dict[str, Any]]) -> str:
    """Return the means over seeds, with standard deviations, as Markdown."""
    of_corpus: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        of_corpus[entry["corpus"]].append(entry)
    head = ["corpus", "rows", "precision = recall at 10 %", "linear model", "listed", "precision", "recall"]
    head += ["macro-F1, all rows", "without suspects", "true labels"]
    rows = []
    for name, of in of_corpus.items():
        cells = [f"{name} ({len(of)})", f"{of[0]['rows']:,}"]
        cells += [
            spread([entry[model]["first"]["precision"] for entry in of]) for model in ("blend", "linear")
        ]
        cells += [f"{np.mean([entry['listed']['rows'] for entry in of]):.0f}"]
        cells += [spread([entry["listed"][share] for entry in of]) for share in ("precision", "recall")]
        cells += [
            spread([entry["macro_f1"][which] for entry in of])
            for which in ("all rows", "without suspects", "true labels")
        ]
        rows.append(cells)
    commits = ", ".join(sorted({commit_of(entry) for entry in entries}))
    return f"{markdown(head, rows)}\n\nCommit {commits}."


def spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
