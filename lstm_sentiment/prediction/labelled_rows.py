"""Labelled rows of a file, with the classes of a run, for scoring.

Legend: R rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.config.sections import DataConfig, name_of
from lstm_sentiment.data.formats.readers import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    Chunk,
    column_labels,
    column_texts,
    pick_column,
    read_chunks,
)
from lstm_sentiment.data.labels import Places, entries_of, unknown_labels
from lstm_sentiment.data.numbering import LONGEST, MOST_LABELS
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class LabelledChunk:
    """Consecutive labelled rows of a file that have a class; R of them.

    Args:
        file: that they are from.
        texts: of the rows.
        text_column: that they are from.
        truth_R: class indices.
        lines_R: 1-based line in the file (row number for formats without lines).
        places_R: 0-based place among all rows of the source, also those without a class.
        frame: the rows with all columns.
        count: rows of the chunk, also those without a class.
    """

    file: str
    texts: list[str]
    text_column: str
    truth_R: Array
    lines_R: Array
    places_R: Array
    frame: pd.DataFrame
    count: int


def labelled_chunks(
    file: str | Sequence[str],
    labels: list[str],
    label_map: Mapping[str, str | None],
    *,
    trained: DataConfig | None = None,
    text_column: str = "auto",
    label_column: str = "auto",
    **how: Any,
) -> Iterator[LabelledChunk]:
    """Yield the labelled rows of a file, chunk by chunk.

    Args:
        file: labelled rows, in any format of training data; several files as for `open_source`.
        labels: class names.
        label_map: label in files -> class name, or None for rows that training leaves out; they are left out
            here too.
        trained: data of the run, whose columns are preferred; None for none.
        text_column: column of the text; auto detects it.
        label_column: column of the label, spelt as in the training data or as the class name.
        how: further arguments of `open_source`: encoding, quoting, header and sheet.

    Raises:
        DataError: the file, a column or a label cannot be used; or no row has a class.

    Example::

        for chunk in labelled_chunks("test.csv", classifier.labels, classifier.label_map):
            print(len(chunk.texts), chunk.truth_R)
    """
    classes = {label: label for label in labels} | dict(label_map)
    index: dict[str | None, int] = {label: i for i, label in enumerate(labels)}
    index[None] = -1
    trained, unknown, place, found = trained or DataConfig(), dict[str, Places](), 0, False
    with open_source(file, encoding_errors="replace", **how) as source:
        for chunk in read_chunks(source):
            of_text, of_label = _columns(chunk, (text_column, label_column), trained)
            values = column_labels(chunk, of_label, chunk.file)
            entries = entries_of(set(values), classes)
            for label, line in zip(values, chunk.lines.tolist(), strict=True):
                if label not in entries:
                    first = Places(file=chunk.file, line=line, row=len(unknown), count=0)
                    places = unknown.get(label[:LONGEST], first)
                    unknown[label[:LONGEST]] = replace(places, count=places.count + 1)
            if unknown:  # no more rows; collect further labels, unless this is a column of texts
                if len(unknown) > MOST_LABELS:
                    break
                continue
            class_R = np.array([index[classes[entries[label]]] for label in values], np.int64)
            yield _with_class(chunk, class_R, place, of_text)
            place += len(values)
            found = found or bool((class_R >= 0).any())
    unknown_labels(unknown, classes, trained=True).raise_any()
    if not found:
        problem = "every row is left out by the run's data.labels; give rows of its classes"
        raise DataError(problem, file=name_of(file))


def _with_class(chunk: Chunk, class_R: Array, place: int, of_text: str) -> LabelledChunk:
    """Return the rows of a chunk that have a class; `place` is that of its first row."""
    kept_R = class_R >= 0
    rows = chunk.part(kept_R)
    return LabelledChunk(
        file=chunk.file,
        texts=column_texts(rows, of_text, chunk.file),
        text_column=of_text,
        truth_R=class_R[kept_R],
        lines_R=rows.lines,
        places_R=place + np.flatnonzero(kept_R),
        frame=rows.frame,
        count=len(class_R),
    )


def _columns(chunk: Chunk, wanted: tuple[str, str], trained: DataConfig) -> tuple[str, str]:
    """Return the text column and the label column."""
    file = chunk.file
    columns = [str(c) for c in chunk.frame.columns]
    text, label = (
        pick_column(name, columns, candidates=candidates, key=f"--{kind}-column", file=file, trained=known)
        for kind, name, known, candidates in (
            ("text", wanted[0], trained.text_column, TEXT_COLUMNS),
            ("label", wanted[1], trained.label_column, LABEL_COLUMNS),
        )
    )
    return text, label
