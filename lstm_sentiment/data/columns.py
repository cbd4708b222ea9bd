"""Extract text, label, group and weight columns from a source's rows."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lstm_sentiment.config.sections import code_of
from lstm_sentiment.data.formats.lines import PHRASE
from lstm_sentiment.data.formats.readers import (
    LABEL_COLUMNS,
    REPLACEMENT,
    TEXT_COLUMNS,
    Chunk,
    as_text,
    check_header_is_not_row,
    column_labels,
    column_texts,
    pick_column,
    read_chunks,
    text_hash,
)
from lstm_sentiment.data.numbering import group_number, label_number
from lstm_sentiment.data.sources.names import DELIMITERS
from lstm_sentiment.data.sources.sources import Source
from lstm_sentiment.errors import DataError, Problems, shown

MOST_WEIGHT = 1_000_000  # of a row


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns and row filter of a source (see `DataConfig`); `label` None reads no labels."""

    text: str = "auto"
    label: str | None = "auto"
    group: str | None = None
    weight: str | None = None
    filter: tuple[tuple[str, str], ...] = ()
    classes: tuple[str, ...] | None = None
    phrases: bool = False


class Rows:
    """Reads a source's columns; yields the texts in batches and collects everything else.

    Args:
        source: from `open_source`; of one file or several.
        columns: which are read.

    Example::

        rows = Rows(source, Columns())
        for texts in rows.texts(): ...
        rows.labels  # of all texts
    """

    def __init__(self, source: Source, columns: Columns) -> None:
        self._source, self._columns = source, columns
        self.label_numbers: dict[str, int] = {}
        self._group_numbers: dict[str, int] = {}
        self.labels, self.groups, self.weights = array("i"), array("i"), array("d")
        self.hashes, self.lines, self.phrases = array("Q"), array("q"), array("b")
        self.filtered = self.replaced = self.swallowed = self.swallowed_line = self.swallowed_shard = 0
        self.counts = [0] * len(source.files)  # rows of each file
        self._problems, self._label_column = Problems[DataError](), ""

    def texts(self) -> Iterator[list[str]]:
        """Yield the texts in batches.

        Raises:
            DataError: invalid rows or columns, with file and line.
        """
        classes = list(self._columns.classes) if self._columns.classes else None
        labelled = self._columns.label is not None
        for chunk in read_chunks(
            self._source, classes=classes, phrases=self._columns.phrases, labelled=labelled
        ):
            yield self._take(chunk)
        check_header_is_not_row(self._source, self._label_column, self.label_numbers, self._problems)
        self._problems.raise_any()

    def _take(self, chunk: Chunk) -> list[str]:
        name, wanted = chunk.file, self._columns
        columns = [str(c) for c in chunk.frame.columns]
        text_column = pick_column(
            wanted.text, columns, candidates=TEXT_COLUMNS, key="data.text_column", file=name
        )
        for column, value in wanted.filter:
            pick_column(column, columns, candidates=(), key="data.filter", file=name)
            keep = np.array([code_of(as_text(found)) == value for found in chunk.frame[column]], bool)
            self.filtered += int((~keep).sum())
            chunk = chunk.part(keep)
        texts = column_texts(chunk, text_column, name)
        self.counts[chunk.shard] += len(texts)
        self._take_labels(chunk, columns)
        if wanted.group is None:
            self.groups.extend([0] * len(texts))
        else:
            pick_column(wanted.group, columns, candidates=(), key="data.group_column", file=name)
            numbers = self._group_numbers
            groups = column_texts(chunk, wanted.group, name)
            self.groups.extend(group_number(numbers, group) for group in groups)
        self._take_weights(chunk, columns)
        self.hashes.extend(map(text_hash, texts))
        self.lines.extend(chunk.lines.tolist())
        self.phrases.extend(chunk.frame[PHRASE] if wanted.phrases else [False] * len(texts))
        self.replaced += sum(REPLACEMENT in text for text in texts)
        for text, line in zip(texts, chunk.lines, strict=True):
            if "\n" in text and self._holds_rows(text):
                self.swallowed += 1
                if self.swallowed == 1:
                    self.swallowed_line, self.swallowed_shard = int(line), chunk.shard
        return texts

    def _holds_rows(self, text: str) -> bool:
        """Whether a line of a text looks like a row with a label, as after an unclosed quote."""
        separator = DELIMITERS.get(self._source.format)
        fields = (part.split(separator)[1:] for part in text.split("\n")[:-1] if separator)
        return any(field.strip() in self.label_numbers for of_line in fields for field in of_line)

    def _take_weights(self, chunk: Chunk, columns: list[str]) -> None:
        column, name = self._columns.weight, chunk.file
        if column is None:
            self.weights.extend([1.0] * len(chunk.lines))
            return
        pick_column(column, columns, candidates=(), key="data.weight_column", file=name)
        for value, line in zip(column_texts(chunk, column, name), chunk.lines.tolist(), strict=True):
            with contextlib.suppress(ValueError):
                if 0 <= float(value) <= MOST_WEIGHT:
                    self.weights.append(float(value))
                    continue
            problem = f"{shown(value)} is not a weight; write a number from 0 to {MOST_WEIGHT:,}"
            self._problems.add(DataError(problem, file=name, line=line, column=column))
            self.weights.append(1.0)

    def _take_labels(self, chunk: Chunk, columns: list[str]) -> None:
        name, wanted = chunk.file, self._columns.label
        if wanted is None:
            self.labels.extend([0] * len(chunk.lines))
            return
        column = pick_column(wanted, columns, candidates=LABEL_COLUMNS, key="data.label_column", file=name)
        self._label_column = column
        numbers = self.label_numbers
        labels = zip(column_labels(chunk, column, name), chunk.lines.tolist(), strict=True)
        self.labels.extend(label_number(numbers, label, file=name, line=line) for label, line in labels)
