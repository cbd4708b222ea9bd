"""Significance tests for two systems on the same rows: paired bootstrap and McNemar; Holm's correction.

A system is a classifier, or the same training with several seeds, whose scores are averaged.

Legend: R rows, C classes, K cells of a confusion matrix, S seeds of a system, N resamples, U distinct columns
of truth and predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import binomtest

from lstm_sentiment.evaluation.metrics import confusion_scores

RESAMPLES = 10_000
RESAMPLES_AT_ONCE = 500
MOST_COUNTS = 20_000_000  # of the resamples at once
LEVEL = 0.95  # of the intervals
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference between the scores of two systems.

    Args:
        first: score of the first system on all rows; the mean over its seeds.
        second: that of the second.
        difference: second - first.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided p-value of the bootstrap: twice the share of resamples in which the difference is zero or
            has the other sign.
    """

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Comparison of two systems on the same rows.

    Args:
        rows: that both predicted.
        scores: metric -> difference.
        only_first_right: rows that only the first predicts correctly; None with several seeds.
        only_second_right: rows that only the second predicts correctly; None with several seeds.
        mcnemar_p: p-value of the exact McNemar test; None with several seeds.
    """

    rows: int
    scores: dict[str, Difference]
    only_first_right: int | None = None
    only_second_right: int | None = None
    mcnemar_p: float | None = None


def compare(truth_R: Array, first_SR: Array, second_SR: Array, labels: list[str]) -> Comparison:
    """Compare the predictions of two systems, row by row.

    Intervals are those of a paired bootstrap: rows are drawn with replacement, with all their predictions
    (Berg-Kirkpatrick et al. 2012, "An empirical investigation of statistical significance in NLP"). Of a
    system with S seeds, S - 1 are drawn with replacement, too (S of them would vary too little, by the factor
    (S - 1) / S): the interval covers another sample of rows and of seeds. The p-value of single classifiers
    is that of the exact McNemar test: under equal accuracy, the probability that the rows which only one of
    them gets right are divided at least as unevenly.

    Args:
        truth_R: class indices (R,).
        first_SR: predictions of the first system, class indices (R,), or (S, R) with several seeds.
        second_SR: predictions of the second one; its number of seeds may differ.
        labels: class names, C of them.

    >>> truth_R = np.array([0, 1] * 20)
    >>> found = compare(truth_R, truth_R, np.zeros(40, int), ["negative", "positive"])
    >>> found.scores["accuracy"].difference, found.only_first_right, found.mcnemar_p < 0.001
    (-0.5, 20, True)
    """
    first_SR, second_SR = np.atleast_2d(first_SR), np.atleast_2d(second_SR)
    seeds = len(first_SR)
    columns = np.concatenate([truth_R[None], first_SR, second_SR])
    cells, counts_U = np.unique(columns, axis=1, return_counts=True)
    first = _resampled(cells[: seeds + 1], counts_U, labels, stream=1)
    second = _resampled(cells[[0, *range(seeds + 1, len(cells))]], counts_U, labels, stream=2)
    scores = {name: _difference(first[name], second[name]) for name in first}
    if len(columns) > 3:
        return Comparison(rows=len(truth_R), scores=scores)
    only_first = int(((first_SR[0] == truth_R) & (second_SR[0] != truth_R)).sum())
    only_second = int(((first_SR[0] != truth_R) & (second_SR[0] == truth_R)).sum())
    unlike = only_first + only_second
    return Comparison(
        rows=len(truth_R),
        scores=scores,
        only_first_right=only_first,
        only_second_right=only_second,
        mcnemar_p=float(binomtest(only_first, unlike).pvalue) if unlike else 1.0,
    )


def system_intervals(truth_R: Array, predicted_SR: Array, labels: list[str]) -> dict[str, dict[str, float]]:
    """Return the scores of a system with confidence intervals.

    Args:
        truth_R: class indices (R,).
        predicted_SR: class indices (R,), or (S, R) with several seeds.
        labels: class names.

    Returns:
        score -> `value`, the mean over seeds; the 95 % interval `low` to `high` of 10,000 resamples of rows
        and seeds; and with several seeds `spread`, the standard deviation over seeds.

    >>> found = system_intervals(np.array([0, 1]), np.array([[0, 1], [0, 0]]), ["no", "yes"])["accuracy"]
    >>> found["value"], round(found["spread"], 3)
    (0.75, 0.354)
    """
    predicted_SR = np.atleast_2d(predicted_SR)
    cells, counts_U = np.unique(np.concatenate([truth_R[None], predicted_SR]), axis=1, return_counts=True)
    found = {name: _value(values_N) for name, values_N in _resampled(cells, counts_U, labels).items()}
    if len(predicted_SR) > 1:
        alone = [_scores(counts_U[None], _cells_of(cells[0], row_U, labels), labels) for row_U in cells[1:]]
        for name, of in found.items():
            of["spread"] = float(np.std([score[name][0] for score in alone], ddof=1))
    return found


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
    cells = np.stack(counts_CC.nonzero())
    found = _resampled(cells, counts_CC[tuple(cells)], labels)
    return {name: _value(values_N) for name, values_N in found.items()}


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the given order.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none becomes smaller than the one
    before it, or larger than 1. So the probability of any false positive stays below the level.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values, kind="stable").tolist()):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = least
    return corrected


def _resampled(cells: Array, counts_U: Array, labels: list[str], *, stream: int = 1) -> dict[str, Array]:
    """Return every metric of a system on all rows, then on each resample, (1 + N,).

    Args:
        cells: distinct columns of truth and predictions, (1 + S, U).
        counts_U: rows of each.
        labels: class names.
        stream: of random numbers that draw seeds; different for two systems.
    """
    of_seeds = [_cells_of(cells[0], predicted_U, labels) for predicted_U in cells[1:]]
    random, parts = np.random.default_rng([0, stream]), list[dict[str, Array]]()
    for counts_NU in _resamples(counts_U):
        scores = [_scores(counts_NU, cells_UK, labels) for cells_UK in of_seeds]
        share_NS = np.full((len(counts_NU), len(scores)), 1 / len(scores))
        if parts and len(scores) > 1:
            drawn = len(scores) - 1
            share_NS = random.multinomial(drawn, share_NS[0], len(counts_NU)) / drawn
        of_metrics = {name: np.stack([of[name] for of in scores], axis=1) for name in scores[0]}
        parts.append({name: (share_NS * score_NS).sum(axis=1) for name, score_NS in of_metrics.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _resamples(counts_U: Array) -> Iterator[Array]:
    """Yield the observed counts (1, U), then multinomial resamples, (some, U) at a time."""
    yield counts_U[None]
    random, rows = np.random.default_rng(0), int(counts_U.sum())
    at_once = max(1, min(RESAMPLES_AT_ONCE, MOST_COUNTS // len(counts_U)))
    for start in range(0, RESAMPLES, at_once):
        yield random.multinomial(rows, counts_U / rows, min(at_once, RESAMPLES - start))


def _difference(first_N: Array, second_N: Array) -> Difference:
    """Return the difference of a score on all rows (the first value) with the interval of the resamples."""
    difference_N = second_N - first_N
    of = _value(difference_N)
    drawn_N = difference_N[1:]
    other_sign = min(int((drawn_N <= 0).sum()), int((drawn_N >= 0).sum()))
    return Difference(
        first=float(first_N[0]),
        second=float(second_N[0]),
        difference=of["value"],
        low=of["low"],
        high=of["high"],
        p=min(1.0, 2 * (other_sign + 1) / (len(drawn_N) + 1)),
    )


def _value(values_N: Array) -> dict[str, float]:
    """Return the value on all rows, which comes first, and the interval of the resamples."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values_N[1:], [tail, 100 - tail])
    return {"value": float(values_N[0]), "low": float(low), "high": float(high)}


def _cells_of(truth_U: Array, predicted_U: Array, labels: list[str]) -> csr_array:
    """Return which cell of the confusion matrix each column is in, (U, K)."""
    cell_U = truth_U * len(labels) + predicted_U
    ones = (np.ones(len(cell_U)), (np.arange(len(cell_U)), cell_U))
    return csr_array(ones, shape=(len(cell_U), len(labels) ** 2))


def _scores(counts_NU: Array, cells_UK: csr_array, labels: list[str]) -> dict[str, Array]:
    """Return every metric (N,) of rows that occur `counts_NU` times in these cells."""
    return confusion_scores((counts_NU @ cells_UK).reshape(-1, len(labels), len(labels)), labels)
