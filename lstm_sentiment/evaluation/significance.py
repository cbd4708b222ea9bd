"""Significance tests for two classifiers on the same rows: paired bootstrap and McNemar.

Legend: R rows, C classes, N resamples, U distinct triples of truth and the two predictions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from lstm_sentiment.evaluation.metrics import confusion_scores

RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 500
LEVEL = 0.95  # of the intervals
Array = npt.NDArray[Any]


def compare(truth_R: Array, first_R: Array, second_R: Array, labels: list[str]) -> dict[str, Any]:
    """Compare the predictions of two classifiers, row by row.

    Intervals are those of a paired bootstrap: rows are drawn with replacement, with both predictions
    (Berg-Kirkpatrick et al. 2012, "An empirical investigation of statistical significance in NLP").
    The p-value is that of the exact McNemar test: under equal accuracy, the probability that the rows which
    only one of them gets right are divided at least as unevenly.

    Args:
        truth_R: class indices (R,).
        first_R: predictions of the first classifier, class indices (R,).
        second_R: predictions of the second one.
        labels: class names, C of them.

    Returns:
        `rows`; `scores`: name -> `first`, `second`, `difference` (second - first) and its `low` and
        `high`; `only_first_right`, `only_second_right`, `mcnemar_p`.

    >>> truth_R = np.array([0, 1] * 20)
    >>> found = compare(truth_R, truth_R, np.zeros(40, int), ["negative", "positive"])
    >>> found["scores"]["accuracy"]["difference"], found["only_first_right"], found["mcnemar_p"] < 0.001
    (-0.5, 20, True)
    """
    cells_3U, counts_U = np.unique(np.stack([truth_R, first_R, second_R]), axis=1, return_counts=True)
    parts = [_both_scores(counts_NU, cells_3U, labels) for counts_NU in _resamples(counts_U)]
    first, second = (
        {name: np.concatenate([part[i][name] for part in parts]) for name in parts[0][i]} for i in (0, 1)
    )
    only_first = int(((first_R == truth_R) & (second_R != truth_R)).sum())
    only_second = int(((first_R != truth_R) & (second_R == truth_R)).sum())
    unlike = only_first + only_second
    return {
        "rows": len(truth_R),
        "scores": {name: _difference(first[name], second[name]) for name in first},
        "only_first_right": only_first,
        "only_second_right": only_second,
        "mcnemar_p": float(binomtest(only_first, unlike).pvalue) if unlike else 1.0,
    }


def score_intervals(confusion: list[list[int]], labels: list[str]) -> dict[str, dict[str, float]]:
    """Return bootstrap confidence intervals of the scores.

    Drawing rows with replacement is drawing cells of their confusion matrix.

    Args:
        confusion: rows by truth (down) and prediction (across), (C, C).
        labels: class names.

    Returns:
        score -> `value`, and the 95 % interval `low` to `high` of 10,000 resamples.

    >>> found = score_intervals([[40, 10], [10, 40]], ["negative", "positive"])["accuracy"]
    >>> found["value"], 0.71 <= found["low"] <= 0.73, 0.87 <= found["high"] <= 0.89
    (0.8, True, True)
    """
    counts_CC = np.array(confusion)
    truth_U, predicted_U = counts_CC.nonzero()
    counts_U = counts_CC[truth_U, predicted_U]
    parts = [_scores(counts_NU, truth_U, predicted_U, labels) for counts_NU in _resamples(counts_U)]
    intervals = {}
    for name in parts[0]:
        values_N = np.concatenate([part[name] for part in parts])
        low, high = _interval(values_N[1:])
        intervals[name] = {"value": float(values_N[0]), "low": low, "high": high}
    return intervals


def comparison_lines(found: dict[str, Any], first: str, second: str) -> list[str]:
    """Return a comparison as lines of text, with a verdict."""
    lines = [
        f"A: {first}",
        f"B: {second}",
        f"{found['rows']:,} rows{'':<6} {'A':>8} {'B':>8} {'B - A':>9}   95 % of resamples",
    ]
    for name, of in found["scores"].items():
        lines.append(
            f"  {name:<14} {of['first']:>8.4f} {of['second']:>8.4f} {of['difference']:>+9.4f}   "
            f"{of['low']:+.4f} to {of['high']:+.4f}"
        )
    p, more = found["mcnemar_p"], found["only_second_right"] - found["only_first_right"]
    lines.append(
        f"  only A right: {found['only_first_right']:,}; only B right: {found['only_second_right']:,}; "
        f"McNemar p = {p:.3g}"
    )
    if p < 1 - LEVEL:
        lines.append(f"{'B' if more > 0 else 'A'} is right more often, beyond chance")
    else:
        lines.append("these rows do not show that one is right more often than the other")
    return lines


def _resamples(counts_U: Array) -> Iterator[Array]:
    """Yield the observed counts (1, U), then multinomial resamples, (some, U) at a time."""
    yield counts_U[None]
    random, rows = np.random.default_rng(0), int(counts_U.sum())
    for start in range(0, RESAMPLES, RESAMPLES_AT_ONCE):
        yield random.multinomial(rows, counts_U / rows, min(RESAMPLES_AT_ONCE, RESAMPLES - start))


def _difference(first_N: Array, second_N: Array) -> dict[str, float]:
    difference_N = second_N - first_N
    low, high = _interval(difference_N[1:])
    return {
        "first": float(first_N[0]),
        "second": float(second_N[0]),
        "difference": float(difference_N[0]),
        "low": low,
        "high": high,
    }


def _interval(values_N: Array) -> tuple[float, float]:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values_N, [tail, 100 - tail])
    return float(low), float(high)


def _both_scores(counts_NU: Array, cells_3U: Array, labels: list[str]) -> list[dict[str, Array]]:
    return [_scores(counts_NU, cells_3U[0], predicted_U, labels) for predicted_U in cells_3U[1:]]


def _scores(counts_NU: Array, truth_U: Array, predicted_U: Array, labels: list[str]) -> dict[str, Array]:
    """Return every metric (N,) of rows that occur `counts_NU` times with these truths and predictions."""
    classes = len(labels)
    cell_U = truth_U * classes + predicted_U
    in_cell_UK = cell_U[:, None] == np.arange(classes * classes)
    return confusion_scores((counts_NU @ in_cell_UK).reshape(-1, classes, classes), labels)
