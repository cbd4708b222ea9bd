"""Error analysis of the report: mistakes, accuracy by length, doubtful labels, unknown words.

Legend: R rows of a split, C classes.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from lstm_sentiment.config.sections import DataConfig
from lstm_sentiment.data.corpus import Corpus, original_texts
from lstm_sentiment.data.dataset import TextDataset, count_tokens
from lstm_sentiment.data.formats.readers import text_hash
from lstm_sentiment.errors import SentimentError, escaped
from lstm_sentiment.evaluation.calibration import Calibration
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import reliability_bins
from lstm_sentiment.models.network import WideAndDeep, shown_logits, unmerged
from lstm_sentiment.prediction.classifier import SentimentClassifier

LISTED = 20  # rows per table
WORDS = 40  # unknown words that are listed
MOST_ROWS = 20_000  # training or validation rows examined; of more, a sample
LENGTH_BINS = 8
SHOWN_CHARACTERS = 1_000  # of a text
BATCH_SIZE = 256
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row in a table of the report.

    Args:
        split: train, validation or test.
        source: which of `data.train`, `data.validation` and `data.test` it is from, by name.
        file: of the source.
        line: 1-based line (or row, for formats without lines) in that file.
        given: its label.
        predicted: the most probable label.
        given_probability: of its label, calibrated.
        predicted_probability: of the most probable label.
        text: as in the file, truncated to 1,000 characters; its tokens where `original` is false.
        original: whether the text is the file's.
        store_row: row in the token store of the source.
        hash: of the text (see `columns.text_hash`).
    """

    split: str
    source: str
    file: str
    line: int
    given: str
    predicted: str
    given_probability: float
    predicted_probability: float
    text: str
    original: bool
    store_row: int
    hash: int


def gather(classifier: SentimentClassifier, corpus: Corpus, *, seed: int) -> dict[str, Any]:
    """Predict a run's rows and return the error analysis.

    Args:
        classifier: of the run.
        corpus: its rows.
        seed: of the sample of more than 20,000 training rows.

    Returns:
        `held_out` (test; without test rows validation; without these, where rows are cross-validated, train),
        `reliability` (before and after calibration, see `metrics.reliability_bins`), `lengths` (accuracy with
        its 95 % interval by tokens of a text), `mistakes` (the most confident ones), `doubtful` (rows whose
        label looks wrong), `doubtful_share` and `looked_through` per split, `fitted` (training rows without
        these, see `fits_its_rows`), `unknown_words` with counts, `unknown_distinct`.
    """
    held_out = held_out_split(corpus)
    random = np.random.default_rng(seed)
    evidence: dict[str, Any] = {"held_out": held_out, "doubtful_share": {}, "looked_through": {}}
    evidence["fitted"] = len(corpus.train) if fits_its_rows(classifier, corpus) else 0
    doubtful: list[Row] = []
    for name, rows in corpus.splits.items():
        fitted = name == "train" and evidence["fitted"]
        if fitted and name != held_out:
            continue
        places = np.arange(len(rows))
        if name != held_out and len(rows) > MOST_ROWS:
            places = np.sort(random.choice(len(rows), MOST_ROWS, replace=False))
        part = rows.part(places)
        probabilities_RC, uncalibrated_RC = _probabilities(classifier, part)
        if name == held_out:
            evidence |= _of_held_out(name, part, probabilities_RC, uncalibrated_RC, corpus)
        if fitted:
            continue
        suspects = doubtful_labels(part.labels, probabilities_RC)
        evidence["doubtful_share"][name] = len(suspects) / len(part)
        evidence["looked_through"][name] = len(part)
        doubtful += [_row(name, part, int(i), probabilities_RC, corpus) for i in suspects[:LISTED]]
    evidence["doubtful"] = sorted(doubtful, key=lambda row: row.given_probability)[:LISTED]
    for name in ("mistakes", "doubtful"):
        evidence[name] = _with_original_texts(evidence[name], classifier.config.data)
    return evidence


def fits_its_rows(classifier: SentimentClassifier, corpus: Corpus) -> bool:
    """Return whether a run fits its training rows so closely that predictions of them say little of labels.

    So it is with a linear model of words next to the LSTM, and where there are so few rows that they are
    cross-validated: the wrong labels are learned, too.

    Args:
        classifier: of the run.
        corpus: its rows.

    Example::

        fits_its_rows(classifier, corpus)
    """
    return corpus.cross_validated or isinstance(unmerged(classifier.model), WideAndDeep)


def worst_mistakes(classifier: SentimentClassifier, corpus: Corpus) -> list[Row]:
    """Return the most confident mistakes among a run's held-out rows, at most 20.

    Args:
        classifier: of the run.
        corpus: its rows.

    Example::

        worst_mistakes(classifier, corpus)[0].text
    """
    name = held_out_split(corpus)
    part = corpus.splits[name]
    found = _of_held_out(name, part, *_probabilities(classifier, part), corpus)
    return _with_original_texts(found["mistakes"], classifier.config.data)


def held_out_split(corpus: Corpus) -> str:
    """Return the split that a report scores: test, or validation, or train where rows are cross-validated."""
    return "test" if corpus.test is not None else "train" if corpus.cross_validated else "validation"


def _probabilities(classifier: SentimentClassifier, rows: TextDataset) -> tuple[Array, Array]:
    """Return the probabilities (R, C) of rows, calibrated and not."""
    network, device = unmerged(classifier.model), classifier.device
    logits_RS = predict_logits(network, rows, device=device, batch_size=BATCH_SIZE)
    calibrated_RC, uncalibrated_RC = (
        of.probabilities(shown_logits(classifier.model, logits_RS, temperature=of.temperature).numpy())
        for of in (classifier.calibration, Calibration())
    )
    return calibrated_RC, uncalibrated_RC


def doubtful_labels(truth_R: Array, probabilities_RC: Array) -> Array:
    """Return the rows whose label looks wrong, most doubtful first (confident learning).

    A row is doubtful if another class is at least as probable as on average among the rows with that label,
    and more probable than its own label (Northcutt
    et al. 2021, "Confident learning: estimating uncertainty in dataset labels").

    Args:
        truth_R: class indices (R,).
        probabilities_RC: calibrated, (R, C).

    >>> truth_R = np.array([0, 0, 0, 1, 1, 1])
    >>> first_R = np.array([0.9, 0.8, 0.1, 0.2, 0.1, 0.3])  # the third one looks like the other class
    >>> doubtful_labels(truth_R, np.stack([first_R, 1 - first_R], axis=1)).tolist()
    [2]
    """
    rows_R = np.arange(len(truth_R))
    own_R = probabilities_RC[rows_R, truth_R]
    count_C = np.bincount(truth_R, minlength=probabilities_RC.shape[1])
    usual_C = np.bincount(truth_R, own_R, probabilities_RC.shape[1]) / np.maximum(count_C, 1)
    usual_C[count_C == 0] = np.inf  # classes without rows are ignored
    other_RC = (probabilities_RC >= usual_C) & (probabilities_RC > own_R[:, None])
    suspects = np.flatnonzero(other_RC.any(axis=1))
    ordered: Array = suspects[np.argsort(own_R[suspects], kind="stable")]
    return ordered


def _of_held_out(
    name: str, rows: TextDataset, probabilities_RC: Array, uncalibrated_RC: Array, corpus: Corpus
) -> dict[str, Any]:
    predicted_R = probabilities_RC.argmax(axis=1)
    wrong = np.flatnonzero(predicted_R != rows.labels)
    wrong = wrong[np.argsort(-probabilities_RC[wrong].max(axis=1), kind="stable")][:LISTED]
    counts = count_tokens(rows.store, rows.rows)
    known = set(corpus.vocabulary.tokens)
    unknown = [
        i for i in np.argsort(-counts, kind="stable") if counts[i] and rows.store.tokens[i] not in known
    ]
    return {
        "reliability": {
            "before": reliability_bins(rows.labels, uncalibrated_RC),
            "after": reliability_bins(rows.labels, probabilities_RC),
        },
        "lengths": accuracy_by_length(rows.full_lengths, predicted_R == rows.labels),
        "mistakes": [_row(name, rows, int(i), probabilities_RC, corpus) for i in wrong],
        "unknown_words": {rows.store.tokens[i]: int(counts[i]) for i in unknown[:WORDS]},
        "unknown_distinct": len(unknown),
    }


def accuracy_by_length(lengths_R: Array, right_R: Array) -> list[dict[str, float]]:
    """Return accuracy by length, with Wilson's 95 % interval, in at most eight bins of about equal size.

    Args:
        lengths_R: tokens of each text (R,).
        right_R: whether the prediction is correct, bool (R,).

    >>> accuracy_by_length(np.array([1, 2, 3, 4]), np.array([True, True, False, False]))[0]["accuracy"]
    1.0
    """
    edges = np.unique(np.quantile(lengths_R, np.linspace(0, 1, LENGTH_BINS + 1)[1:], method="inverted_cdf"))
    bin_R = np.searchsorted(edges, lengths_R)
    bins = []
    for b in np.unique(bin_R):
        lengths, right = lengths_R[bin_R == b], right_R[bin_R == b]
        interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
        bins.append(
            {
                "shortest": int(lengths.min()),
                "longest": int(lengths.max()),
                "rows": len(right),
                "accuracy": float(right.mean()),
                "low": float(interval.low),
                "high": float(interval.high),
            }
        )
    return bins


def _row(split: str, rows: TextDataset, place: int, probabilities_RC: Array, corpus: Corpus) -> Row:
    predicted, given = int(probabilities_RC[place].argmax()), int(rows.labels[place])
    store_row = int(rows.rows[place])
    file, line = rows.store.place(store_row)
    return Row(
        split=split,
        source="train" if rows.store is corpus.train.store else split,
        file=file,
        line=line,
        given=corpus.labels[given],
        predicted=corpus.labels[predicted],
        given_probability=float(probabilities_RC[place, given]),
        predicted_probability=float(probabilities_RC[place, predicted]),
        text=_shown(" ".join(rows.store.tokens[i] for i in rows.token_ids(place))),
        original=False,
        store_row=store_row,
        hash=int(rows.store.hashes[store_row]),
    )


def _with_original_texts(rows: list[Row], data: DataConfig) -> list[Row]:
    """Return rows with their texts as in the files, where these can be read; URLs are not fetched again."""
    texts: dict[tuple[str, int], str] = {}
    for source in {row.source for row in rows if "://" not in row.file}:
        with contextlib.suppress(SentimentError):
            wanted = [row.store_row for row in rows if row.source == source]
            found = original_texts(getattr(data, source), data, wanted)
            texts |= {(source, store_row): text for store_row, text in found.items()}
    return [
        replace(row, text=_shown(texts[row.source, row.store_row].strip()), original=True)
        if (row.source, row.store_row) in texts and text_hash(texts[row.source, row.store_row]) == row.hash
        else row
        for row in rows
    ]


def _shown(text: str) -> str:
    plain = escaped(text, keep="\n\t")
    return plain if len(plain) <= SHOWN_CHARACTERS else plain[:SHOWN_CHARACTERS] + " …"
