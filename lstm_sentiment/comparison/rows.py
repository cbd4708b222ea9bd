"""The labelled rows that systems are compared on.

Legend: R rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.comparison.slices import slice_values
from lstm_sentiment.config.sections import MAX_CLASSES, DataConfig, code_of
from lstm_sentiment.data.formats.readers import (
    LABEL_COLUMNS,
    as_text,
    column_labels,
    pick_column,
    read_chunks,
)
from lstm_sentiment.data.numbering import label_number
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError, listed
from lstm_sentiment.prediction.labelled_rows import labelled_chunks

ID = "id"  # column by which rows of two files are matched, like the text
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Labelled rows of a file that have a class; R of them.

    Args:
        file: as the user named it.
        labels: class names.
        label_map: label in files -> class name, or None.
        truth_R: class indices.
        lines_R: 1-based line in the file.
        files_R: the file, one of several if `file` is a folder of shards or a glob.
        places_R: 0-based place among all rows of the source.
        count: rows of the file, also those without a class.
        text_column: of the texts.
        keys: `text` and, if the file has it, `id` -> a hash of each row's value (see `key_of`).
        slices: what rows are sliced by -> value of each row (see `slices.slice_values`).
    """

    file: str
    labels: list[str]
    label_map: Mapping[str, str | None]
    truth_R: Array
    lines_R: Array
    files_R: Array
    places_R: Array
    count: int
    text_column: str
    keys: dict[str, Array]
    slices: dict[str, list[str]]


def read_rows(
    file: str,
    labels: list[str],
    label_map: Mapping[str, str | None],
    *,
    trained: DataConfig | None = None,
    slices: Sequence[str] = (),
    **how: Any,
) -> Rows:
    """Read the labelled rows of a file, without their texts.

    Args:
        file: labelled rows, in any format of training data.
        labels: class names.
        label_map: label in files -> class name, or None for rows to leave out.
        trained: data of a run, whose columns are preferred.
        slices: what rows are sliced by: columns, ``length``, ``source``.
        how: columns and further arguments of `labelled_chunks`.

    Raises:
        DataError: as `labelled_chunks`; or there is no column to slice by.

    Example::

        rows = read_rows("test.csv", classifier.labels, classifier.label_map, slices=["length"])
    """
    values: dict[str, list[str]] = {by: [] for by in slices}
    columns, keys, count, of_text = set[str](), dict[str, list[int]](), 0, ""
    arrays: dict[str, list[Array]] = {"truth_R": [], "lines_R": [], "places_R": []}
    files: list[Array] = []
    for chunk in labelled_chunks(file, labels, label_map, trained=trained, **how):
        for by, of in values.items():
            of += slice_values(by, chunk, seen=by in columns)
        columns |= set(map(str, chunk.frame.columns))
        keys.setdefault("text", []).extend(map(key_of, chunk.texts))
        if ID in chunk.frame.columns:
            keys.setdefault(ID, []).extend(key_of(code_of(as_text(value))) for value in chunk.frame[ID])
        for name, parts in arrays.items():
            parts.append(getattr(chunk, name))
        files.append(np.full(len(chunk.texts), chunk.file, object))
        count += chunk.count
        of_text = chunk.text_column
    joined = {name: np.concatenate(parts) for name, parts in arrays.items()}
    return Rows(
        file=file,
        labels=labels,
        label_map=label_map,
        count=count,
        text_column=of_text,
        keys={name: np.array(of) for name, of in keys.items() if len(of) == len(joined["truth_R"])},
        slices=values,
        files_R=np.concatenate(files),
        **joined,
    )


def key_of(value: str) -> int:
    """Return a hash of a text, the same for all spellings of its white space.

    >>> key_of("so  good ") == key_of("so good") != key_of("so bad")
    True
    """
    return hash(" ".join(value.split()))


def labels_in(file: str, *, label_column: str = "auto", **how: Any) -> list[str]:
    """Return the labels of a file as class names, sorted; for comparisons without a run.

    Args:
        file: labelled rows.
        label_column: column of the label; auto detects it.
        how: further arguments of `open_source`.

    Raises:
        DataError: the file or the column cannot be used; it has a single label, or more than 100.

    Example::

        labels_in("test.csv")  # ["negative", "positive"]
    """
    numbers: dict[str, int] = {}
    how.pop("text_column", None)
    with open_source(file, encoding_errors="replace", **how) as source:
        for chunk in read_chunks(source):
            columns = [str(column) for column in chunk.frame.columns]
            column = pick_column(
                label_column, columns, candidates=LABEL_COLUMNS, key="--label-column", file=chunk.file
            )
            labels_R = column_labels(chunk, column, chunk.file)
            for label, line in zip(labels_R, chunk.lines.tolist(), strict=True):
                label_number(numbers, label, file=chunk.file, line=line)
    labels = sorted(label for label in numbers if label)
    if not 1 < len(labels) <= MAX_CLASSES:
        found = listed(labels, most=5, quoted=True)
        raise DataError(
            f"{len(labels):,} different labels ({found}); 2 to {MAX_CLASSES} are needed; name the right "
            "column with --label-column",
            file=file,
        )
    return labels
