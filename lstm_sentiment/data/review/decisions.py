"""Reads a table of suspect rows, as the command `suspects` writes and a person reviews it.

A row of the table names a row of the data by line and hash of the text, so that a table of other data, or of
data that have changed since, is detected. The text itself is for the reader: programs that edit tables change
line breaks and spaces.

Legend: S rows of the table, R rows of the data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.data.formats.readers import Chunk, column_texts, pick_column, read_chunks
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError, Problems, shown

COLUMNS = (
    "source", "line", "text", "label", "prediction", "probability", "label_probability",
    "reason", "other", "score", "text_hash", "decision",
)  # fmt: skip
DROP = "drop"
_HASH = re.compile("h[0-9a-f]{16}")
_LINE = re.compile(r"([0-9]{1,15})(\.0*)?")  # a spreadsheet may write 17 as 17.0
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Reviewed:
    """A row of a table of suspects.

    Args:
        source: file of the data.
        line: of the row in that file.
        hash: of its text (see `readers.text_hash`).
        decision: empty to leave the row as it is, ``drop``, or its right label.
        at: line of the table.
    """

    source: str
    line: int
    hash: int
    decision: str
    at: int


def hash_cell(hashed: int) -> str:
    """Return a text's hash as a cell; the letter prevents spreadsheets from reading a number.

    >>> hash_cell(255)
    'h00000000000000ff'
    """
    return f"h{hashed:016x}"


def read_suspects(file: str) -> list[Reviewed]:
    """Return the rows of a table of suspects.

    Columns other than source, line, text_hash and decision are ignored; without a column decision all
    decisions are empty.

    Args:
        file: a table in any format.

    Raises:
        DataError: a missing column, or an invalid line or hash, with file and line.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "suspects.csv"
    >>> _ = file.write_text("source,line,text_hash,decision\\na.csv,17,h00000000000000ff, drop\\n")
    >>> read_suspects(str(file))
    [Reviewed(source='a.csv', line=17, hash=255, decision='drop', at=2)]
    """
    found: list[Reviewed] = []
    problems = Problems[DataError]()
    with open_source(file, encoding_errors="replace") as opened:  # texts are not used
        for chunk in read_chunks(opened, may_be_empty=True):
            found += _rows_of(chunk, file, problems)
    problems.raise_any()
    return found


def _rows_of(chunk: Chunk, file: str, problems: Problems[DataError]) -> list[Reviewed]:
    columns = [str(column) for column in chunk.frame.columns]
    for name in ("source", "line", "text_hash"):
        pick_column(name, columns, candidates=(), key="written by the command suspects", file=file)
    sources, lines, hashes = (column_texts(chunk, name, file) for name in ("source", "line", "text_hash"))
    decided = "decision" in columns
    decisions = column_texts(chunk, "decision", file) if decided else [""] * len(lines)
    found = []
    for at, source, line, hashed, decision in zip(
        chunk.lines.tolist(), sources, lines, hashes, decisions, strict=True
    ):
        number, digits = _LINE.fullmatch(line.strip()), _HASH.fullmatch(hashed.strip())
        if number is None:
            problem = f"{shown(line)} is not the number of a line; restore what the command suspects wrote"
            problems.add(DataError(problem, file=file, line=at, column="line"))
        elif digits is None:
            problem = f"{shown(hashed)} is not the hash of a text; restore what the command suspects wrote"
            problems.add(DataError(problem, file=file, line=at, column="text_hash"))
        else:
            found.append(
                Reviewed(
                    source=source.removeprefix("'"),  # of a table that is safe in spreadsheets
                    line=int(number[1]),
                    hash=int(digits[0][1:], 16),
                    decision=decision.strip(),
                    at=at,
                )
            )
    return found


def to_leave_out(reviewed: Sequence[Reviewed]) -> list[Reviewed]:
    """Return the rows that training leaves out: those with a decision, or all if none has one.

    A row whose decision is a label is among them: its label in the data is wrong.

    >>> rows = [Reviewed(source="a", line=n, hash=n, decision=of, at=n) for n, of in enumerate(["", "drop"])]
    >>> [row.line for row in to_leave_out(rows)], [row.line for row in to_leave_out(rows[:1])]
    ([1], [0])
    """
    decided = [row for row in reviewed if row.decision]
    return decided or list(reviewed)


def matching_rows(
    reviewed: Sequence[Reviewed],
    lines_R: Array,
    hashes_R: Array,
    *,
    files: Sequence[str] = (),
    rows_F: Array | None = None,
) -> Array:
    """Return whether each row of the data is named by a table (R,).

    A row is named by its line and the hash of its text. If no row of the data has that line and that text, as
    in a file whose rows have been reordered, all rows with the text are named.

    Args:
        reviewed: rows of the table.
        lines_R: lines of the data's rows.
        hashes_R: hashes of their texts.
        files: of the data; of several, a row has to be in the file that the table names, if this is one.
        rows_F: rows of each file, which follow each other.

    >>> rows = [Reviewed(source="a", line=2, hash=7, decision="", at=2)]
    >>> matching_rows(rows, np.array([2, 3, 4]), np.array([7, 7, 8], np.uint64)).tolist()
    [True, False, False]
    >>> matching_rows(rows, np.array([9, 3, 4]), np.array([7, 7, 8], np.uint64)).tolist()
    [True, True, False]
    """
    if len(files) > 1 and rows_F is not None and {row.source for row in reviewed} <= set(files):
        ends_F = np.cumsum(rows_F)
        found_R = np.zeros(len(lines_R), bool)
        for file, start, end in zip(files, ends_F - rows_F, ends_F, strict=True):
            here = [row for row in reviewed if row.source == file]
            found_R[start:end] = matching_rows(here, lines_R[start:end], hashes_R[start:end])
        return found_R
    named = {(row.line, row.hash) for row in reviewed}
    wanted = np.array(sorted({row.hash for row in reviewed}), np.uint64)
    chosen_R = np.isin(hashes_R, wanted)
    places = np.flatnonzero(chosen_R)
    pairs = list(zip(lines_R[places].tolist(), hashes_R[places].tolist(), strict=True))
    found = {pair[1] for pair in pairs if pair in named}
    chosen_R[places] = [pair in named or pair[1] not in found for pair in pairs]
    return chosen_R
