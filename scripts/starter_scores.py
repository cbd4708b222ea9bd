"""Score a starter and three word lists on labelled texts that it has not seen.

    scripts/reproduce starter-zero --data FOLDER
    python scripts/starter_scores.py runs/no-films --data FOLDER --left-out

By default the official test sets are scored, which no starter is trained on; --left-out scores the corpora of
scripts/starter.yaml that the run was trained without. In two classes the prediction is the more probable of
negative and positive, and the metric accuracy; in three classes the metric is macro-F1, on TweetEval macro
recall.

VADER: a compound of at least 0.05 is positive, of at most -0.05 negative, as its authors say; TextBlob:
polarity above 0.05 or below -0.05; AFINN: the sign of the sum. In two classes a sum of 0 or more is positive.

Legend: R rows, C classes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml
from make_starter import LABELS, TABLE, letters, read_corpus
from sklearn.metrics import f1_score, recall_score

from lstm_sentiment.evaluation.calibration import coverage_of
from lstm_sentiment.evaluation.metrics import calibration_error
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.system.devices import set_up_cpu
from lstm_sentiment.system.files import write_json

Array = npt.NDArray[Any]
FOLD_5 = {0: 0, 1: 0, 2: 1, 3: 2, 4: 2}
TESTS: dict[str, tuple[str, dict[int, int], str]] = {
    "TweetEval": ("tweeteval_sentiment/test.parquet", {0: 0, 1: 1, 2: 2}, "macro recall"),
    "SST-2": ("sst2/test.parquet", {0: 0, 1: 2}, "accuracy"),
    "SST, 3 classes": ("sst5/test.parquet", FOLD_5, "macro-F1"),
    "IMDB": ("imdb/test.parquet", {0: 0, 1: 2}, "accuracy"),
    "Financial PhraseBank": ("financial_phrasebank_50agree.parquet", {0: 0, 1: 1, 2: 2}, "macro-F1"),
}
DEVELOPMENT: dict[str, tuple[str, dict[int, int], str]] = {
    "TweetEval, validation": ("tweeteval_sentiment/val.parquet", {0: 0, 1: 1, 2: 2}, "macro recall"),
    "SST-2, dev": ("sst2/dev.parquet", {0: 0, 1: 2}, "accuracy"),
    "SST, 3 classes, dev": ("sst5/dev.parquet", FOLD_5, "macro-F1"),
}


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Labelled texts.

    Args:
        name: of the set.
        texts: R of them.
        truth_R: indices into `LABELS`.
        metric: macro recall, accuracy or macro-F1.
    """

    name: str
    texts: list[str]
    truth_R: Array
    metric: str


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(prog="starter_scores", description=__doc__.split("\n")[0])
    parser.add_argument("run", help="a run folder, or starter")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--development", action="store_true", help="validation files instead of test files")
    parser.add_argument(
        "--rows", type=int, default=0, help="at most so many of each set, drawn with seed 0; 0: all"
    )
    parser.add_argument("--no-word-lists", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    set_up_cpu(options.threads)
    classifier = load(options.run, device="cpu")
    sets = left_out(options) if options.left_out else files(options)
    lists = {} if options.no_word_lists else word_lists()
    found = []
    for rows in sets:
        entry = {
            "set": rows.name,
            "metric": rows.metric,
            "rows": len(rows.texts),
            **of_classifier(classifier, rows),
        }
        for name, sums_of in lists.items():
            entry[name] = scored(
                _from_sums(np.array([sums_of(text) for text in rows.texts]), rows, name), rows
            )
        found.append(entry)
        print(
            "  ".join(
                f"{key} {value:.3f}" if isinstance(value, float) else f"{value}"
                for key, value in entry.items()
            ),
            flush=True,
        )
    for name in ("starter", *lists):
        print(f"mean {name} {np.mean([entry[name] for entry in found]):.3f}")
    if options.out:
        write_json(options.out, found)


def files(options: argparse.Namespace) -> list[Rows]:
    """Return the official sets."""
    found = []
    for name, (file, names, metric) in (DEVELOPMENT if options.development else TESTS).items():
        rows = _some(pd.read_parquet(options.data / file), options.rows)
        found.append(
            Rows(name=name, texts=rows.text.tolist(), truth_R=rows.label.map(names).to_numpy(), metric=metric)
        )
    return found


def left_out(options: argparse.Namespace) -> list[Rows]:
    """Return the corpora of the table that the run was not trained on."""
    table = yaml.safe_load(TABLE.read_text())
    trained = {of["name"] for of in json.loads((Path(options.run) / "corpora.json").read_text())["corpora"]}
    never = {letters(text) for file in table["never"] for text in pd.read_parquet(options.data / file).text}
    found = []
    for name, of in table["corpora"].items():
        if name in trained or name == "sst_phrases" or of.get("open") == "only":
            continue
        rows = read_corpus(name, of, options.data)
        rows = _some(
            rows[[letters(text) not in never for text in rows.text]].drop_duplicates("text"), options.rows
        )
        metric = "macro-F1" if 1 in set(rows.label) else "accuracy"
        found.append(Rows(name=name, texts=rows.text.tolist(), truth_R=rows.label.to_numpy(), metric=metric))
    return found


def _some(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    return rows.sample(most, random_state=0) if most and len(rows) > most else rows


def of_classifier(classifier: SentimentClassifier, rows: Rows) -> dict[str, float]:
    """Return the score, the calibration error and the coverage and size of 90 % label sets."""
    probabilities_RC = classifier.predict_proba(rows.texts)[
        :, [classifier.labels.index(label) for label in LABELS]
    ]
    sets_RC = classifier.calibration.label_sets(probabilities_RC, 0.9)
    if rows.metric == "accuracy":
        probabilities_RC = (
            probabilities_RC * [1, 0, 1] / probabilities_RC[:, [0, 2]].sum(axis=1, keepdims=True)
        )
    return {
        "starter": scored(probabilities_RC.argmax(axis=1), rows),
        "ece": calibration_error(rows.truth_R, probabilities_RC),
        "coverage": coverage_of(sets_RC, rows.truth_R)["coverage"],
        "labels": coverage_of(sets_RC, rows.truth_R)["labels"],
    }


def scored(predictions_R: Array, rows: Rows) -> float:
    """Return the score of predictions (R,), indices into `LABELS`, by the metric of the rows."""
    if rows.metric == "accuracy":
        return float((predictions_R == rows.truth_R).mean())
    classes = np.unique(rows.truth_R)
    if rows.metric == "macro recall":
        return float(recall_score(rows.truth_R, predictions_R, labels=classes, average="macro"))
    return float(f1_score(rows.truth_R, predictions_R, labels=classes, average="macro"))


def _from_sums(sums_R: Array, rows: Rows, name: str) -> Array:
    if rows.metric == "accuracy":
        return np.where(sums_R >= 0, 2, 0)
    bound = 0.5 if name == "AFINN" else 0.05
    return np.where(sums_R >= bound, 2, np.where(sums_R <= -bound, 0, 1))


def word_lists() -> dict[str, Callable[[str], float]]:
    """Return the three word lists by name: each takes a text and returns its sum."""
    from afinn import Afinn
    from textblob import TextBlob
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    vader, afinn = SentimentIntensityAnalyzer(), Afinn(emoticons=True)
    return {
        "VADER": lambda text: vader.polarity_scores(text)["compound"],
        "TextBlob": lambda text: TextBlob(text).sentiment.polarity,
        "AFINN": afinn.score,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
