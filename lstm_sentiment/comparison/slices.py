"""Slices of labelled rows: by a column, by the length of the text, or by source.

Legend: R rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.data.formats.readers import as_text
from lstm_sentiment.errors import DataError, did_you_mean, escaped, listed, shown
from lstm_sentiment.evaluation.significance import system_intervals
from lstm_sentiment.prediction.labelled_rows import LabelledChunk
from lstm_sentiment.text.tokenization import words

LENGTH, SOURCE = "length", "source"  # unless the file has a column of this name
MOST_SLICES = 20  # values of a column; numbers with more are cut into quartiles
FEW_ROWS = 30  # smaller slices are marked: their intervals say little
MISSING = "(missing)"
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Some of the rows.

    Args:
        name: of the slice, such as ``1 to 12 tokens``.
        rows_R: whether each row belongs to it, bool.
    """

    name: str
    rows_R: Array


@dataclass(frozen=True, kw_only=True)
class SliceScores:
    """Scores of a slice.

    Args:
        name: of the slice.
        rows: their number.
        few: whether they are fewer than `FEW_ROWS`.
        without: classes that no row of the slice has; they count 0 in averages over classes.
        scores: metric -> value and interval, see `system_intervals`.
    """

    name: str
    rows: int
    few: bool
    without: list[str]
    scores: dict[str, dict[str, float]]


def slice_values(by: str, chunk: LabelledChunk, *, seen: bool = False) -> list[str]:
    """Return what rows are sliced by: the values of a column, numbers of tokens, or the file's name.

    Args:
        by: name of a column, ``length`` or ``source``; a column takes precedence.
        chunk: the rows.
        seen: whether an earlier chunk had the column; rows without it then have missing values.

    Raises:
        DataError: no such column.
    """
    columns = [str(column) for column in chunk.frame.columns]
    if by in columns:
        return [as_text(value).strip() for value in chunk.frame[by]]
    if seen:
        return [""] * len(chunk.texts)
    if by == LENGTH:
        return [str(len(words(text))) for text in chunk.texts]
    if by == SOURCE:
        return [chunk.file] * len(chunk.texts)
    known = [*columns, LENGTH, SOURCE]
    raise DataError(
        f"no column {shown(by)} (--slices); the file has {listed(columns, quoted=True)}, and "
        f"{LENGTH} and {SOURCE} are known too.{did_you_mean(by, known)}",
        file=chunk.file,
    )


def slices_of(by: str, values_R: Sequence[str]) -> list[Slice]:
    """Return the slices of rows by their values (see `slice_values`).

    Up to 20 distinct values are a slice each. More numbers are cut into quartiles; of other values the 20
    most frequent are a slice each, and the rest one more. The length of a text is always cut into quartiles.

    Args:
        by: as for `slice_values`.
        values_R: of the rows; empty if missing.

    >>> [(of.name, of.rows_R.tolist()) for of in slices_of("stars", ["5", "", "4", "5"])]
    [('4', [False, False, True, False]), ('5', [True, False, False, True]), ('(missing)', [False, True, \
False, False])]
    >>> [of.name for of in slices_of("length", ["1", "2", "3", "4", "5", "6", "7", "8"])]
    ['1 to 2 tokens', '3 to 4 tokens', '5 to 6 tokens', '7 to 8 tokens']
    """
    counts = Counter(value for value in values_R if value)
    numbers = {value: _number(value) for value in counts}
    all_numbers = all(number is not None for number in numbers.values())
    unit = " tokens" if by == LENGTH else ""
    if counts and all_numbers and (len(counts) > MOST_SLICES or by == LENGTH):
        name_of = _quartiles(values_R, {value: number or 0.0 for value, number in numbers.items()}, unit)
    elif len(counts) > MOST_SLICES:
        frequent = [value for value, _ in counts.most_common(MOST_SLICES)]
        other = f"({len(counts) - MOST_SLICES:,} other values)"
        name_of = {value: value for value in sorted(frequent)} | dict.fromkeys(
            sorted(counts.keys() - set(frequent)), other
        )
    else:
        order: Callable[[str], Any] = numbers.get if all_numbers else str.casefold
        name_of = {value: value for value in sorted(counts, key=order)}
    if any(not value for value in values_R):
        name_of[""] = MISSING
    names_R = np.array([name_of[value] for value in values_R], object)
    return [Slice(name=name, rows_R=names_R == name) for name in dict.fromkeys(name_of.values())]


def slice_scores(
    slices: Sequence[Slice], truth_R: Array, predicted_SR: Array, labels: list[str]
) -> list[SliceScores]:
    """Return the scores of each slice, with 95 % intervals.

    Args:
        slices: of the rows.
        truth_R: class indices (R,).
        predicted_SR: class indices (R,), or (S, R) for S seeds.
        labels: class names.

    >>> slices = slices_of("stars", ["4", "5", "5"])
    >>> found = slice_scores(slices, np.array([0, 1, 1]), np.array([0, 1, 0]), ["no", "yes"])
    >>> [(of.name, of.rows, of.few, of.without, of.scores["accuracy"]["value"]) for of in found]
    [('4', 1, True, ['yes'], 1.0), ('5', 2, True, ['no'], 0.5)]
    """
    predicted_SR = np.atleast_2d(predicted_SR)
    found = []
    for of in slices:
        truth = truth_R[of.rows_R]
        found.append(
            SliceScores(
                name=of.name,
                rows=len(truth),
                few=len(truth) < FEW_ROWS,
                without=[label for i, label in enumerate(labels) if i not in truth],
                scores=system_intervals(truth, predicted_SR[:, of.rows_R], labels),
            )
        )
    return found


def slice_notes(found: Sequence[SliceScores]) -> list[str]:
    """Return the explanations of the marks in tables of slices: ``few rows`` and ``*``.

    >>> slice_notes([])
    []
    """
    notes = []
    if any(of.few for of in found):
        notes.append(f"few rows: fewer than {FEW_ROWS}, too few to conclude anything")
    if any(of.without for of in found):
        notes.append("*: no row of some class, which counts 0 in averages over classes")
    return notes


def mark(of: SliceScores) -> str:
    """Return the marks of a slice (see `slice_notes`).

    >>> mark(SliceScores(name="4", rows=3, few=True, without=["neutral"], scores={}))
    '* few rows'
    """
    return " ".join(word for word, true in (("*", of.without), ("few rows", of.few)) if true)


def slice_lines(by: str, found: Sequence[SliceScores], metrics: dict[str, str]) -> list[str]:
    """Return the scores of slices as lines of text.

    Args:
        by: what the rows are sliced by.
        found: the slices.
        metrics: to show, with their titles.
    """
    names = [escaped(of.name, 40) for of in found]
    width = max([*map(len, names), len(by) + 3, 14])
    head = "".join(f"  {title:>10}  95 % interval   " for title in metrics.values())
    lines = [f"{'by ' + escaped(by, 40):<{width + 2}} {'rows':>8}{head}".rstrip()]
    for name, of in zip(names, found, strict=True):
        cells = "".join(
            f"  {of.scores[metric]['value']:>10.4f}  "
            f"{of.scores[metric]['low']:.4f} to {of.scores[metric]['high']:.4f}"
            for metric in metrics
        )
        lines.append(f"  {name:<{width}} {of.rows:>8,}{cells}  {mark(of)}".rstrip())
    return [*lines, *(f"  {note}" for note in slice_notes(found))]


def _number(value: str) -> float | None:
    """Return the number that a value spells, None if it spells none."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in value else None


def _quartiles(values_R: Sequence[str], numbers: dict[str, float], unit: str) -> dict[str, str]:
    """Return value -> name of its quartile, in order of size."""
    edges = np.unique(np.quantile([numbers[value] for value in values_R if value], [0.25, 0.5, 0.75]))
    order = sorted(numbers, key=lambda value: numbers[value])
    bins: dict[int, list[str]] = {}
    for value in order:
        bins.setdefault(int(np.searchsorted(edges, numbers[value])), []).append(value)
    name_of: dict[str, str] = {}
    for inside in bins.values():
        first, last = inside[0], inside[-1]
        name = f"{first}{unit}" if numbers[first] == numbers[last] else f"{first} to {last}{unit}"
        name_of |= dict.fromkeys(inside, name)
    return name_of
