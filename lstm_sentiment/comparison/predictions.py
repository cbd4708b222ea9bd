"""Predictions in a file: of any system, for the rows of another file.

Legend: R rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.comparison.rows import ID, Rows, key_of
from lstm_sentiment.config.sections import code_of
from lstm_sentiment.data.formats.readers import (
    TEXT_COLUMNS,
    Chunk,
    as_text,
    column_labels,
    column_texts,
    read_chunks,
)
from lstm_sentiment.data.labels import entries_of
from lstm_sentiment.data.sources.names import TABLES, format_of, has_format
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError, Problems, did_you_mean, listed, shown, without_secrets
from lstm_sentiment.system.files import local_path

PREFIX = "probability_"
LABELS = ("predicted_label", "prediction", "predicted", "label")  # the first that a file has
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PredictedColumns:
    """Which columns of a file hold predictions.

    Args:
        probabilities: column of each class, in the order of the classes; empty for a column of labels.
        label: column of labels; empty if there are probabilities.
    """

    probabilities: tuple[str, ...] = ()
    label: str = ""


def is_predictions(name: str) -> bool:
    """Whether a name is that of a table, not of a run folder.

    >>> is_predictions("theirs.csv"), is_predictions("runs/reviews")
    (True, False)
    """
    return has_format(name) and not local_path(name).is_dir()


def read_predictions(file: str, rows: Rows) -> Array:
    """Return the classes (R,) that a file predicts for rows.

    Args:
        file: a table with a row for each row of `rows.file`, in the same order. Its predictions are in
            columns of probabilities, ``probability_NAME`` or ``NAME`` for each class, or in a column of
            labels: ``predicted_label``, ``prediction``, ``predicted`` or ``label``. If it has the texts or a
            column ``id``, they must be those of the rows.
        rows: that it predicts.

    Raises:
        DataError: no such columns; a value that is not a class or a probability; other rows. With file, line
            and column.

    Example::

        predicted_R = read_predictions("theirs.csv", read_rows("test.csv", labels, label_map))
    """
    format_of(file, among=TABLES)
    parts, count, problems = list[Array](), 0, Problems[DataError]()
    with open_source(file) as source:
        for chunk in read_chunks(source, labelled=False):
            columns = [str(column) for column in chunk.frame.columns]
            found = predicted_columns(columns, rows.labels, file=chunk.file)
            _check_rows(chunk, count, rows, problems)
            if found.probabilities:
                parts.append(_most_probable(chunk, found.probabilities, problems))
            else:
                parts.append(_classes(chunk, found.label, rows, problems))
            count += len(chunk.lines)
    if count != rows.count:
        problem = (
            f"has {count:,} rows, but {without_secrets(rows.file)} has {rows.count:,}; give a prediction"
        )
        raise DataError(f"{problem} for each of them, in the same order", file=file)
    problems.raise_any()
    return np.concatenate(parts)[rows.places_R]


def predicted_columns(columns: Sequence[str], labels: Sequence[str], *, file: str) -> PredictedColumns:
    """Return the columns with predictions: probabilities of all classes, or else a column of labels.

    Args:
        columns: of the file.
        labels: class names.
        file: for messages.

    Raises:
        DataError: probabilities of other classes, or of some classes only; or no column of either kind.

    >>> predicted_columns(["text", "bad", "good"], ["bad", "good"], file="a.csv").probabilities
    ('bad', 'good')
    >>> predicted_columns(["text", "prediction", "label"], ["bad", "good"], file="a.csv").label
    'prediction'
    """
    prefixed = [column for column in columns if column.startswith(PREFIX)]
    for column in prefixed:
        name = column.removeprefix(PREFIX)
        if name not in labels:
            hint = did_you_mean(name, labels) or " Remove the column, or rename it"
            problem = f"{shown(name)} is not one of the classes {listed(labels)}.{hint}"
            raise DataError(problem, file=file, line=1, column=column)
    for prefix in (PREFIX, ""):
        found = [f"{prefix}{label}" for label in labels]
        missing = [column for column in found if column not in columns]
        if not missing:
            return PredictedColumns(probabilities=tuple(found))
        if prefixed and prefix == PREFIX:
            problem = f"has no column {listed(missing, quoted=True)}; give the probabilities of all classes"
            raise DataError(problem, file=file)
    for column in LABELS:
        if column in columns:
            return PredictedColumns(label=column)
    raise DataError(
        f"no predictions among its columns {listed(columns, quoted=True)}; give a probability for each "
        f"class, {listed((PREFIX + label for label in labels), most=3)}, or a label in a column {LABELS[1]}",
        file=file,
    )


def _most_probable(chunk: Chunk, columns: Sequence[str], problems: Problems[DataError]) -> Array:
    """Return the most probable class of each row; add values that are not probabilities to the problems."""
    file, probabilities_RC = chunk.file, np.zeros((len(chunk.lines), len(columns)))
    for c, column in enumerate(columns):
        for r, (value, line) in enumerate(zip(chunk.frame[column], chunk.lines.tolist(), strict=True)):
            probability = _probability(as_text(value) if not isinstance(value, list | dict) else "a list")
            if probability is None:
                problem = f"{shown(str(value))} is not a probability; write a number from 0 to 1"
                problems.add(DataError(problem, file=file, line=line, column=column))
            probabilities_RC[r, c] = probability or 0.0
    most_R: Array = probabilities_RC.argmax(axis=1)
    return most_R


def _probability(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and 0 <= number <= 1 else None


def _classes(chunk: Chunk, column: str, rows: Rows, problems: Problems[DataError]) -> Array:
    """Return the class of each row; add labels that are not classes to the problems."""
    file, values = chunk.file, column_labels(chunk, column, chunk.file)
    classes = {label: label for label in rows.labels} | dict(rows.label_map)
    entries = entries_of(set(values), {name: of for name, of in classes.items() if of is not None})
    index: dict[str | None, int] = {label: i for i, label in enumerate(rows.labels)}
    for value, line in zip(values, chunk.lines.tolist(), strict=True):
        if value not in entries:
            problem = f"{shown(value)} is not one of the classes {listed(rows.labels)}."
            problem += did_you_mean(value, rows.labels) or " Correct it"
            problem = problem if value else "has no prediction; give a class for every row"
            problems.add(DataError(problem, file=file, line=line, column=column))
    return np.array([index[classes[entries[value]]] if value in entries else 0 for value in values], np.int64)


def _check_rows(chunk: Chunk, start: int, rows: Rows, problems: Problems[DataError]) -> None:
    """Add rows whose text or id is not that of the row in the same place to the problems.

    Args:
        chunk: of the predictions.
        start: place of its first row.
        rows: that are predicted.
        problems: to add to.
    """
    file = chunk.file
    columns = [str(column) for column in chunk.frame.columns]
    usual = (column for column in columns if column.strip().lower() in TEXT_COLUMNS)
    of_text = rows.text_column if rows.text_column in columns else next(usual, None)
    first, last = np.searchsorted(rows.places_R, [start, start + len(chunk.lines)])
    places_S = rows.places_R[first:last] - start
    for name, column in (("text", of_text), (ID, ID if ID in columns else None)):
        if column is None or name not in rows.keys:
            continue
        values = column_texts(chunk, column, file)
        for row, place in enumerate(places_S.tolist(), start=int(first)):
            value = values[place] if name == "text" else code_of(values[place])  # 7 and 7.0 are one id
            if key_of(value) != rows.keys[name][row]:
                where = f"{rows.files_R[row]}:{int(rows.lines_R[row])}"
                problem = f"{shown(values[place], 30)} is not the {name} of {where}; keep the rows in order"
                problems.add(DataError(problem, file=file, line=int(chunk.lines[place]), column=column))
