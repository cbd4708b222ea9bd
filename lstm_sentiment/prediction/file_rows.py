"""Single rows of a file: by their numbers, or those that a classifier predicts worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from lstm_sentiment.config.sections import DataConfig
from lstm_sentiment.data.formats.readers import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    Chunk,
    column_labels,
    column_texts,
    pick_column,
    read_chunks,
)
from lstm_sentiment.data.labels import entries_of
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError, without_secrets
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.prediction.labelled_rows import labelled_chunks


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """A row of a file.

    Args:
        shard: its file, of a source of several; else empty.
        number: 1-based line of the file at which it begins, as in messages and reports (row number for
            formats without lines).
        text: as in the file.
        label: its class, or the label as in the file if it is none of the classes; None without labels.
    """

    shard: str
    number: int
    text: str
    label: str | None

    @property
    def place(self) -> str:
        """The number, after the file if the source has several.

        >>> FileRow(shard="in/a.csv", number=7, text="so good", label=None).place
        'in/a.csv:7'
        """
        return f"{self.shard}:{self.number}" if self.shard else str(self.number)


def numbered_rows(
    classifier: SentimentClassifier,
    file: str,
    numbers: Sequence[int],
    *,
    text_column: str = "auto",
    label_column: str = "auto",
    **how: Any,
) -> list[FileRow]:
    """Return rows of a file by their numbers, in the order of the numbers.

    Args:
        classifier: whose columns and classes are looked for.
        file: one file, in any format of training data, or plain lines; labels are optional.
        numbers: of the rows (see `FileRow`).
        text_column: column of the text; auto detects it.
        label_column: column of the label; auto detects it, if there is one.
        how: further arguments of `open_source`: encoding, quoting, header and sheet.

    Raises:
        DataError: the file or a column cannot be used; there is no row of a number; there are several files.

    Example::

        numbered_rows(classifier, "reviews.csv", [476, 12])[0].text
    """
    found: dict[int, FileRow] = {}
    seen: list[int] = []
    with open_source(file, encoding_errors="replace", **how) as source:
        if len(source.files) > 1:
            problem = f"is {len(source.files):,} files, each with rows of these numbers; name one of them"
            raise DataError(problem, file=source.name)
        for chunk in read_chunks(source, labelled=False):
            seen += chunk.lines.tolist()
            chosen_R = np.isin(chunk.lines, numbers)
            if chosen_R.any():
                found |= _rows(chunk.part(chosen_R), classifier, (text_column, label_column))
            if len(found) == len(set(numbers)):
                return [found[number] for number in numbers]
    missing = next(number for number in numbers if number not in found)
    near = sorted(sorted(seen, key=lambda number: abs(number - missing))[:2])
    raise DataError(
        f"no row begins at line {missing}: rows have the number of the line at which they begin, as in "
        f"messages, from {seen[0]} to {seen[-1]}; the nearest are {' and '.join(map(str, near))}",
        file=file,
    )


def worst_rows(classifier: SentimentClassifier, file: str, count: int, **how: Any) -> list[FileRow]:
    """Return the rows of a labelled file with the highest loss, that is the least probable labels, first.

    Args:
        classifier: to predict with.
        file: labelled rows, in any format of training data.
        count: number of rows; all if the file has fewer.
        how: columns and further arguments of `labelled_chunks`.

    Raises:
        DataError: the file, a column or a label cannot be used; or no row has a class.

    Example::

        worst_rows(classifier, "reviews.csv", 20)[0].label
    """
    labels, worst = classifier.labels, list[tuple[float, FileRow]]()
    chunks = labelled_chunks(file, labels, classifier.label_map, trained=classifier.config.data, **how)
    for chunk in tqdm(chunks, desc="predict", unit=" chunks", disable=None):
        probabilities_RC = classifier.predict_proba(chunk.texts)
        of_label_R = probabilities_RC[np.arange(len(chunk.texts)), chunk.truth_R]
        for r in np.argsort(of_label_R, kind="stable")[:count].tolist():
            label = labels[chunk.truth_R[r]]
            row = FileRow(
                shard=_shard(chunk.file, file), number=int(chunk.lines_R[r]), text=chunk.texts[r], label=label
            )
            worst.append((float(of_label_R[r]), row))
        worst = sorted(worst, key=lambda found: found[0])[:count]
    return [row for _, row in worst]


def _rows(chunk: Chunk, classifier: SentimentClassifier, wanted: tuple[str, str]) -> dict[int, FileRow]:
    file = chunk.file
    trained, columns = classifier.config.data, [str(column) for column in chunk.frame.columns]
    of_text = pick_column(
        wanted[0],
        columns,
        candidates=TEXT_COLUMNS,
        key="--text-column",
        file=file,
        trained=trained.text_column,
    )
    of_label = _label_column(wanted[1], columns, trained, file)
    texts = column_texts(chunk, of_text, file)
    labels: list[str | None] = [None] * len(texts)
    if of_label is not None:
        values = column_labels(chunk, of_label, file)
        classes = {label: label for label in classifier.labels} | dict(classifier.label_map)
        entries = entries_of(set(values), classes)
        labels = [classes[entries[value]] if value in entries else None for value in values]
        labels = [label or value or None for label, value in zip(labels, values, strict=True)]
    return {
        number: FileRow(shard="", number=number, text=text, label=label)
        for number, text, label in zip(chunk.lines.tolist(), texts, labels, strict=True)
    }


def _shard(file: str, named: str) -> str:
    return "" if file == without_secrets(named) else file


def _label_column(wanted: str, columns: list[str], trained: DataConfig, file: str) -> str | None:
    """Return the column of the labels, None if there is none to find."""
    usual = [column for column in columns if column.strip().lower() in LABEL_COLUMNS]
    if wanted == "auto" and trained.label_column not in columns and len(usual) != 1:
        return None
    return pick_column(
        wanted,
        columns,
        candidates=LABEL_COLUMNS,
        key="--label-column",
        file=file,
        trained=trained.label_column,
    )
