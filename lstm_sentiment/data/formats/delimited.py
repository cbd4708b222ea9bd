"""CSV and TSV files to frames of text: pandas reads, after a strict pass that checks every record.

pandas alone fills short rows, drops what is over in long ones, and knows no lines.

Legend: R records of a file.
"""

from __future__ import annotations

import csv
import itertools
import logging
from array import array
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from lstm_sentiment.data.formats.dialects import BARE, QUOTINGS, Dialect, SwallowedRows
from lstm_sentiment.data.sources.sources import MAX_LINE, Source, open_text, text_lines
from lstm_sentiment.errors import DataError, Problems, escaped, shown

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

Lines = npt.NDArray[np.int64]
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
ENDINGS = {",": ".csv", "\t": ".tsv"}


def read_delimited(source: Source, delimiter: str, rows: int) -> Iterator[tuple[pd.DataFrame, Lines]]:
    """Yield frames of at most some rows, every value as text, and the 1-based line that each row starts at.

    Args:
        source: from `open_source`.
        delimiter: a comma or a tab.
        rows: of one frame, at most.

    Raises:
        DataError: records that do not fit, with their lines: of many the first ten.

    Example::

        with open_source("reviews.csv") as source:
            for frame, lines_R in read_delimited(source, ",", 5_000): ...
    """
    import pandas as pd  # takes a third of a second: not to answer a text

    dialect, checked_R = _settle(source, delimiter)
    if not (checked_R > 0).any():
        return
    lines_R = np.concatenate([[0], checked_R])  # of the blank line that _Rest begins with
    start = 0
    with open_text(source) as opened:
        text = dialect.lines(opened)
        first = _next_record(csv.reader(iter(text.readline, ""), **dialect.for_csv)) if source.header else []
        frames = pd.read_csv(
            cast(IO[str], _Rest(text)),
            header=None,
            names=[name.replace(BARE, "\r") for name in first] or _numbers(_width(source, dialect)),
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            index_col=False,
            skip_blank_lines=False,
            chunksize=rows,
            **dialect.for_pandas,
        )
        for frame in frames:
            lines = lines_R[start : start + len(frame)]
            start += len(frame)
            if len(lines) == len(frame):
                kept = frame[lines > 0].reset_index(drop=True)
                if not dialect.returns_end_lines:
                    kept = kept.replace(BARE, "\r", regex=True)
                yield kept, lines[lines > 0]
    if start != len(lines_R):
        raise DataError(
            f"two parsers disagree: {len(lines_R) - 1} or {start - 1} rows; save it as .jsonl or .parquet",
            file=source.name,
        )


def _numbers(width: int) -> list[str]:
    """Return the names of columns that have none.

    >>> _numbers(2)
    ['1', '2']
    """
    return [str(place) for place in range(1, width + 1)]


def _width(source: Source, dialect: Dialect) -> int:
    with open_text(source) as text:
        return len(_next_record(csv.reader(dialect.lines(text), **dialect.for_csv)))


def _settle(source: Source, delimiter: str) -> tuple[Dialect, Lines]:
    """Find out how a file is written; return that, and the line of each record as `_check` does.

    The usual way is tried first. Another one is taken where every record of the file is that way, and told.

    Raises:
        DataError: what is wrong with the file, read the usual way or as ``data.quoting`` says.
    """
    with open_text(source) as text:
        old_mac = _ends_with_return(text_lines(text, source))
    wanted = source.quoting if source.quoting in QUOTINGS else "double"
    usual = Dialect(delimiter=delimiter, quoting=wanted, returns_end_lines=old_mac)
    try:
        return usual, _check(source, usual)
    except DataError as error:
        problem = error
    signs = _signs(source)
    others = [replace(usual, returns_end_lines=True)] if signs["\r"] and not old_mac else []
    if source.quoting == "auto":
        others += [replace(usual, quoting="backslash")] if signs['\\"'] else []
        others += [replace(usual, quoting="none")] if signs['"'] else []
    for other in others:
        try:
            lines_R = _check(source, other, guessing=True)
        except DataError:
            continue
        if other.quoting != usual.quoting:
            log.warning("%s: read as data.quoting %s, as all its rows are", source.name, other.quoting)
        return other, lines_R
    if signs["\r"] and not old_mac:
        more = "lines end in \\n by the header, and a carriage return (\\r) stands in others; write \\n there"
        problem.args = (f"{problem}\n{DataError(more, file=source.name)}",)
    raise problem


def _ends_with_return(lines: Iterator[str]) -> bool:
    """Whether the first line that holds something ends with a carriage return alone."""
    line = next((line for line in lines if line.strip()), "")
    return line.endswith("\r")


def _signs(source: Source) -> dict[str, bool]:
    """Return which signs a file holds that may mean several things."""
    found = {'"': False, '\\"': False, "\r": False}
    with open_text(source) as text:
        for line in text_lines(text, source):
            found['"'] |= '"' in line
            found['\\"'] |= '\\"' in line
            found["\r"] |= line.endswith("\r")
    return found


class _Rest:
    """What is left of a text, behind a blank line: where it begins to read, pandas takes a U+FEFF away."""

    def __init__(self, text: Any) -> None:
        self._text, self._begun = text, False

    def read(self, size: int = -1) -> str:
        """Return some characters, none at the end."""
        if self._begun:
            return str(self._text.read(size))
        self._begun = True
        return "\n"

    def __iter__(self) -> Iterator[str]:  # pandas asks whether it could
        return iter(self._text)


def _check(source: Source, dialect: Dialect, *, guessing: bool = False) -> Lines:
    """Check every record's quotes and number of fields; return the line it starts at, 0 for a blank one."""
    csv.field_size_limit(MAX_LINE)
    lines = array("q")
    problems = Problems[DataError]()
    delimiter = dialect.delimiter
    with open_text(source) as text:
        reader = csv.reader(text_lines(cast(IO[str], dialect.lines(text)), source), **dialect.for_csv)
        start = 1
        try:
            header = _next_record(reader)
            if source.header or not header:
                _check_header(header, delimiter, source, reader.line_num)
            swallowed = SwallowedRows(delimiter, len(header))
            records: Iterator[list[str]] = reader
            if source.header:
                start = reader.line_num + 1
            else:  # blank lines in front of the first record are none
                start = reader.line_num - sum(field.count("\n") for field in header)
                lines.extend([0] * (start - 1))
                records = itertools.chain([header], reader)
            quoted = opened = 0
            for row in records:
                blank = not row or (row[0].isspace() and len(row) == 1 and len(header) > 1)
                if not blank and len(row) != len(header):
                    problem = _misfit(row, header, delimiter)
                    problems.add(DataError(problem, file=source.name, line=start))
                elif source.quoting != "double" and dialect.quoting != "none" and swallowed.in_record(row):
                    problems.add(DataError(SWALLOWED, file=source.name, line=start))
                if guessing and dialect.quoting == "none":
                    opened += sum(field[:1] == '"' for field in row)
                    quoted += sum(len(field) > 1 and field[0] == field[-1] == '"' for field in row)
                lines.append(0 if blank else start)
                start = reader.line_num + 1
            if guessing and dialect.quoting == "none" and (len(header) < 2 or 2 * quoted > opened):
                problems.add(DataError("its quotes mean something", file=source.name))
        except csv.Error as error:
            problems.add(DataError(_csv_problem(str(error)), file=source.name, line=start))
    problems.raise_any()
    return np.array(lines, np.int64)


def _next_record(reader: Iterator[list[str]]) -> list[str]:
    """Return the first record that is no blank line."""
    return next((record for record in reader if record), [])


def _misfit(row: list[str], header: list[str], delimiter: str) -> str:
    """Say why a row does not have the fields of the header."""
    comma = "a tab" if delimiter == "\t" else "a comma"
    counts = f"{len(row)} field{'' if len(row) == 1 else 's'} where the header has {len(header)}"
    if len(row) == len(header) + 1 and not row[-1]:
        return f"{counts}: the row ends with {comma}; remove it, or name one more column in line 1"
    if len(row) < len(header):
        return f"{counts}, in {shown(delimiter.join(row), 30)}; add what is missing"
    return f"{counts}; quote fields that hold {comma}"


SWALLOWED = (
    "the row holds others in a quoted field: is a quote opened here by mistake? Close it, or set "
    "data.quoting: none if quotes mean nothing in this file, double if the field is meant"
)


def _csv_problem(message: str) -> str:
    """Say what Python's csv module found wrong, and how to mend it."""
    if "unexpected end of data" in message:
        return "a quote is opened here and never closed; close it, or set data.quoting"
    if "expected after" in message:
        return "text follows a closing quote; write a quote inside a quoted field twice, or set data.quoting"
    if "field larger than" in message:
        return f"a field of more than {MAX_LINE:,} characters begins here; close its quote"
    return f"{escaped(message)}; quote the field"


def _check_header(header: list[str], delimiter: str, source: Source, line: int) -> None:
    if not header:
        raise DataError(
            "is empty; give it a header such as text,label and a row for each text", file=source.name
        )
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(
            f"the header names column {shown(twice)} twice; rename one", file=source.name, line=line
        )
    others = [separator for separator in SEPARATORS if separator != delimiter and separator in header[0]]
    if len(header) == 1 and others:
        ending = ENDINGS.get(others[0])
        found = f"the header {shown(header[0])} holds {SEPARATORS[others[0]]} and no {SEPARATORS[delimiter]}"
        raise DataError(
            f"{found}; {f'name it {ending}' if ending else 'save it with commas'}",
            file=source.name,
            line=line,
        )
