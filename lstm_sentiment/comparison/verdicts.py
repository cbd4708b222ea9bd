"""Comparison of several systems with the first one, with verdicts as sentences.

Legend: R rows, S seeds.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.comparison.slices import Slice, SliceScores, slice_scores
from lstm_sentiment.evaluation.metrics import LOWER_IS_BETTER, METRICS, title_of
from lstm_sentiment.evaluation.significance import (
    LEVEL,
    Comparison,
    Difference,
    compare,
    holm,
    system_intervals,
)

CHANCE = round(1 - LEVEL, 9)  # p-values from which on a difference is within chance
FEW_SEEDS = 5  # with fewer, intervals over seeds are rough
LETTERS = string.ascii_uppercase  # names of the systems
NEW = "new"  # the slice of rows that no system was trained on
POINTS = {name for name in METRICS if name != "ordinal_error"}  # metrics shown in points: 1 is 0.01
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a comparison says about one metric.

    Args:
        metric: its name.
        ahead: letter of the system that is ahead, None if they are level.
        p: p-value, corrected for the number of comparisons.
        sentence: the verdict in a sentence.
    """

    metric: str
    ahead: str | None
    p: float
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A system compared with the first one.

    Args:
        letter: of the system; that of the first is A.
        compared: on all rows.
        verdicts: on the metric and on accuracy, about rows that no system was trained on, if there are any.
        slices: what rows are sliced by -> the comparison on each slice.
    """

    letter: str
    compared: Comparison
    verdicts: tuple[Verdict, ...]
    slices: dict[str, list[Comparison]]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Systems compared on the same rows.

    Args:
        file: the rows.
        titles: letter -> name of the system.
        seeds: letter -> number of its seeds, 1 for a single classifier.
        metric: of the verdicts, next to accuracy.
        scores: letter -> score -> value and interval.
        pairs: each further system with the first one.
        slices: what rows are sliced by -> letter -> scores of each slice.
        seen: how many rows some system was trained on; the verdicts are about the others, if there are any.
        training: for each system that was trained on some rows, a sentence on how many.
    """

    file: str
    titles: dict[str, str]
    seeds: dict[str, int]
    metric: str
    scores: dict[str, dict[str, dict[str, float]]]
    pairs: list[Pair]
    slices: dict[str, dict[str, list[SliceScores]]]
    seen: int = 0
    training: tuple[str, ...] = ()

    @property
    def metrics(self) -> list[str]:
        """The metrics of the verdicts."""
        return list(dict.fromkeys([self.metric, "accuracy"]))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.pairs[0].compared.rows


def compare_all(
    *,
    file: str,
    titles: Sequence[str],
    truth_R: Array,
    predictions: Sequence[Array],
    labels: list[str],
    metric: str,
    slices: Mapping[str, Sequence[Slice]] | None = None,
    seen_R: Array | None = None,
    training: Sequence[str] = (),
) -> Compared:
    """Compare every further system with the first one.

    The p-values of each metric are corrected for the number of comparisons by Holm's method. They are those
    of McNemar's test for the accuracy of single classifiers, and of the bootstrap otherwise.

    Args:
        file: the rows.
        titles: of the systems, two to 26.
        truth_R: class indices (R,).
        predictions: of each system, class indices (S, R) for S seeds.
        labels: class names.
        metric: of the verdicts, next to accuracy.
        slices: what rows are sliced by -> the slices.
        seen_R: whether some system was trained on each row, bool (R,); None if none was on any.
        training: for each system that was trained on some rows, a sentence on how many.

    >>> truth_R = np.array([0, 1] * 30)
    >>> found = compare_all(
    ...     file="test.csv", titles=["ours", "theirs"], truth_R=truth_R, labels=["no", "yes"],
    ...     predictions=[truth_R, 1 - truth_R], metric="macro_f1",
    ... )
    >>> print(found.pairs[0].verdicts[1].sentence)
    A is ahead of B by 100.0 points of accuracy (95 %: 100.0 to 100.0; McNemar p < 0.001)
    """
    letters, sliced = LETTERS[: len(titles)], dict(slices or {})
    predicted_by = dict(zip(letters, predictions, strict=True))
    return Compared(
        file=file,
        titles=dict(zip(letters, titles, strict=True)),
        seeds={letter: len(np.atleast_2d(made)) for letter, made in predicted_by.items()},
        metric=metric,
        scores={letter: system_intervals(truth_R, made, labels) for letter, made in predicted_by.items()},
        pairs=_pairs(truth_R, predicted_by, labels, metric=metric, sliced=sliced, seen_R=seen_R),
        slices={
            by: {letter: slice_scores(of, truth_R, made, labels) for letter, made in predicted_by.items()}
            for by, of in sliced.items()
        },
        seen=0 if seen_R is None else int(seen_R.sum()),
        training=tuple(training),
    )


def about_of(found: Compared) -> str:
    """Return which rows the verdicts are about, if some system was trained on some rows.

    >>> truth_R = np.array([0, 1] * 30)
    >>> found = compare_all(
    ...     file="test.csv", titles=["ours", "theirs"], truth_R=truth_R, labels=["no", "yes"],
    ...     predictions=[truth_R, truth_R], metric="macro_f1", seen_R=np.arange(60) < 20,
    ... )
    >>> about_of(found)
    'on the 40 rows that no system was trained on'
    """
    if not found.seen:
        return ""
    if found.seen == found.rows:
        return "every row was trained on by some system: this says little about new texts"
    return f"on the {found.rows - found.seen:,} rows that no system was trained on"


def p_text(p: float) -> str:
    """Return a p-value for a sentence, with enough digits to see on which side of the limit it lies.

    >>> p_text(0.0312), p_text(0.0001), p_text(0.04996)
    ('p = 0.031', 'p < 0.001', 'p = 0.04996')
    """
    if p < 0.001:
        return "p < 0.001"
    digits = next((n for n in range(3, 9) if (float(f"{p:.{n}f}") < CHANCE) == (p < CHANCE)), 9)
    return f"p = {p:.{digits}f}"


def notes_of(found: Compared) -> list[str]:
    """Return which rows systems were trained on, how p-values were corrected, and who has few seeds."""
    notes = list(found.training)
    if len(found.pairs) > 1:
        notes.append(
            f"p-values are corrected for {len(found.pairs)} comparisons with A by Holm's method, each metric "
            "by itself; intervals are not"
        )
    few = [letter for letter, seeds in found.seeds.items() if 1 < seeds < FEW_SEEDS]
    if few:
        notes.append(
            f"{' and '.join(few)}: fewer than {FEW_SEEDS} seeds say little about others; intervals are rough"
        )
    return notes


def _pairs(
    truth_R: Array,
    predicted_by: Mapping[str, Array],
    labels: list[str],
    *,
    metric: str,
    sliced: Mapping[str, Sequence[Slice]],
    seen_R: Array | None,
) -> list[Pair]:
    """Compare each further system with the first: on all rows, on slices and, for verdicts, on new rows."""
    (_, first), *others = predicted_by.items()
    compared = [compare(truth_R, first, other, labels) for _, other in others]
    judged = compared
    if seen_R is not None and seen_R.any() and not seen_R.all():
        new = Slice(name=NEW, rows_R=~seen_R)
        judged = [_on(new, truth_R, first, other, labels) for _, other in others]
    verdicts = _verdicts(judged, "".join(predicted_by), list(dict.fromkeys([metric, "accuracy"])))
    on_slices = [
        {by: [_on(each, truth_R, first, other, labels) for each in of] for by, of in sliced.items()}
        for _, other in others
    ]
    return [
        Pair(letter=letter, compared=found, verdicts=of, slices=on)
        for (letter, _), found, of, on in zip(others, compared, verdicts, on_slices, strict=True)
    ]


def _on(of: Slice, truth_R: Array, first_SR: Array, second_SR: Array, labels: list[str]) -> Comparison:
    """Return the comparison on the rows of a slice."""
    first_SR, second_SR = (np.atleast_2d(of_system)[:, of.rows_R] for of_system in (first_SR, second_SR))
    return compare(truth_R[of.rows_R], first_SR, second_SR, labels)


def _verdicts(
    compared: Sequence[Comparison], letters: str, metrics: Sequence[str]
) -> list[tuple[Verdict, ...]]:
    """Return the verdicts of each comparison, with p-values corrected for their number."""
    of_metrics = []
    for metric in metrics:
        tests = [_test(found, metric) for found in compared]
        corrected = holm([p for p, _ in tests])
        of_metrics.append([
            _verdict(found.scores[metric], metric, letter=letter, p=p, test=test)
            for found, letter, p, (_, test) in zip(compared, letters[1:], corrected, tests, strict=True)
        ])  # fmt: skip
    return list(zip(*of_metrics, strict=True))


def _test(found: Comparison, metric: str) -> tuple[float, str]:
    """Return the p-value of a metric's test, and the test's name if it is not the bootstrap."""
    if metric == "accuracy" and found.mcnemar_p is not None:
        return found.mcnemar_p, "McNemar "
    return found.scores[metric].p, ""


def _verdict(of: Difference, metric: str, *, letter: str, p: float, test: str) -> Verdict:
    """Return the verdict on a metric of a system with this letter, compared with A."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    second_ahead = sign * of.difference > 0
    ahead, behind = (letter, "A") if second_ahead else ("A", letter)
    factor, unit = (100, " points of ") if metric in POINTS else (1, " of ")
    digits = 1 if metric in POINTS else 3
    ends = sorted((1 if second_ahead else -1) * sign * end * factor for end in (of.low, of.high))
    low, high = (f"{round(end, digits) + 0.0:.{digits}f}" for end in ends)  # never -0.0
    effect = f"{abs(of.difference) * factor:.{digits}f}{unit}{title_of(metric)}"
    note = ", where lower is better" if metric in LOWER_IS_BETTER else ""
    within = f"95 %: {low} to {high}; {test}{p_text(p)}"
    if p < CHANCE and of.difference:
        sentence = f"{ahead} is ahead of {behind} by {effect}{note} ({within})"
        return Verdict(metric=metric, ahead=ahead, p=p, sentence=sentence)
    favour = f" in favour of {ahead}" if of.difference else ""
    sentence = f"A and {letter} are level: the difference of {effect}{favour} ({within}) is within chance"
    return Verdict(metric=metric, ahead=None, p=p, sentence=sentence)
