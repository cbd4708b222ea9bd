"""CSV and TSV reader: pandas, after a strict pass that checks every record.

pandas alone pads short rows, truncates long ones, and does not report lines. It is given batches of records,
so that memory is bounded by bytes and not by rows.

Legend: R records of a frame.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from lstm_sentiment.data.formats.dialects import BARE, QUOTINGS, Dialect, KeptReturns, SwallowedRows
from lstm_sentiment.data.formats.record_lines import SEPARATORS, RecordLines
from lstm_sentiment.data.sources.names import DELIMITERS
from lstm_sentiment.data.sources.sources import MAX_LINE, Source, open_text, text_lines
from lstm_sentiment.errors import DataError, Problems, escaped, shown
from lstm_sentiment.text.portions import MOST_COLUMNS, first_duplicate, portions

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

Lines = npt.NDArray[np.int64]
ENDINGS = {delimiter: ending for ending, delimiter in DELIMITERS.items()}
CELL_BYTES = 8  # memory of a field in a frame, in addition to its text


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Dialect of a file, and facts from a pass over all its records.

    Args:
        dialect: see `Dialect`.
        width: number of fields.
        rows: non-blank records, without the header.
        plain: whether each is a single line, and no line is blank.
        returns: whether there is a carriage return within a line, or as the last line's end.
    """

    dialect: Dialect
    width: int
    rows: int
    plain: bool
    returns: bool


def read_delimited(
    source: Source, delimiter: str, rows: int, size: int
) -> Iterator[tuple[pd.DataFrame, Lines]]:
    """Yield frames, every value as text, and the 1-based line that each row starts at.

    Args:
        source: from `open_source`.
        delimiter: a comma or a tab.
        rows: maximum per frame.
        size: bytes at which a frame ends.

    Raises:
        DataError: invalid records, with their lines (the first ten).

    Example::

        with open_source("reviews.csv") as source:
            for frame, lines_R in read_delimited(source, ",", 5_000, 1 << 22): ...
    """
    layout = _settle(source, delimiter)
    dialect = layout.dialect
    if not layout.rows:
        return
    with open_text(source) as opened:
        text = dialect.lines(opened) if layout.returns else opened
        lines = iter(functools.partial(text.readline, MAX_LINE + 1), "")  # checked before
        taken = RecordLines(lines, dialect, source)
        reader = csv.reader(taken, **dialect.for_csv)
        names = _numbers(layout.width)
        if source.header:
            names = [name.replace(BARE, "\r") for name in _next_record(reader)]
        taken.forget()
        records = taken.numbered() if layout.plain else _numbered(reader, taken, layout.width)
        cells = CELL_BYTES * layout.width
        for some in portions(records, most=rows, size=size, of=lambda of: cells + sys.getsizeof(of[1])):
            lines_R, contents = zip(*some, strict=True)
            frame = _frame("".join(contents), names, dialect)
            if len(frame) != len(some):
                raise DataError(
                    f"two parsers disagree: {len(some)} or {len(frame)} rows; save it as .jsonl or .parquet",
                    file=source.name,
                    line=some[0][0],
                )
            yield frame, np.array(lines_R, np.int64)


def _frame(content: str, names: list[str], dialect: Dialect) -> pd.DataFrame:
    """Parse records to a frame."""
    import pandas as pd  # slow import, not needed to predict single texts

    # A blank row goes first: pandas removes a U+FEFF at the start of its input.
    frame: pd.DataFrame = pd.read_csv(
        io.StringIO(f"\n{content}", newline=""),
        header=None,
        names=names,
        dtype=object,  # Python's strings, not Arrow's: every value is used as one
        keep_default_na=False,
        na_filter=False,
        index_col=False,
        skip_blank_lines=False,
        **dialect.for_pandas,
    )
    frame = frame.iloc[1:].reset_index(drop=True)
    return frame.replace(BARE, "\r", regex=True) if BARE in content else frame


def _numbered(reader: Any, taken: RecordLines, width: int) -> Iterator[tuple[int, str]]:
    """Yield each non-blank record as written, with its first line."""
    start = taken.line + 1
    for row in reader:
        content = taken.record()
        if not _is_blank(row, width):
            yield start, content
        start = taken.line + 1


def _is_blank(row: list[str], width: int) -> bool:
    return not row or (row[0].isspace() and len(row) == 1 and width > 1)


def _numbers(width: int) -> list[str]:
    """Return default column names.

    >>> _numbers(2)
    ['1', '2']
    """
    return [str(place) for place in range(1, width + 1)]


def _settle(source: Source, delimiter: str) -> Layout:
    """Detect the dialect of a file.

    The default dialect is tried first. Another one is used, and logged, if every record matches it.

    Raises:
        DataError: what is wrong with the file, in the default dialect or the one of ``data.quoting``.
    """
    with open_text(source) as text:
        old_mac = _ends_with_return(text_lines(text, source))
    wanted = source.quoting if source.quoting in QUOTINGS else "double"
    usual = Dialect(delimiter=delimiter, quoting=wanted, returns_end_lines=old_mac)
    try:
        return _check(source, usual)
    except DataError as error:
        problem = error
    signs = _signs(source)
    others = [replace(usual, returns_end_lines=True)] if signs["\r"] and not old_mac else []
    if source.quoting == "auto":
        others += [replace(usual, quoting="backslash")] if signs['\\"'] else []
        others += [replace(usual, quoting="none")] if signs['"'] else []
    for other in others:
        try:
            layout = _check(source, other, guessing=True)
        except DataError:
            continue
        if other.quoting != usual.quoting:
            log.warning("%s: read as data.quoting %s, which all its rows match", source.name, other.quoting)
        return layout
    if signs["\r"] and not old_mac:
        more = "the header line ends in \\n, but other lines contain a carriage return (\\r); write \\n there"
        problem.args = (f"{problem}\n{DataError(more, file=source.name)}",)
    raise problem


def _ends_with_return(lines: Iterator[str]) -> bool:
    """Whether the first non-blank line ends with a bare carriage return."""
    line = next((line for line in lines if line.strip()), "")
    return line.endswith("\r")


def _signs(source: Source) -> dict[str, bool]:
    """Return which ambiguous characters a file contains."""
    found = {'"': False, '\\"': False, "\r": False}
    with open_text(source) as text:
        for line in text_lines(text, source):
            found['"'] |= '"' in line
            found['\\"'] |= '\\"' in line
            found["\r"] |= line.endswith("\r")
    return found


def _check(source: Source, dialect: Dialect, *, guessing: bool = False) -> Layout:
    """Check every record's quotes and number of fields."""
    csv.field_size_limit(MAX_LINE)
    problems = Problems[DataError]()
    delimiter, rows, plain = dialect.delimiter, 0, True
    with open_text(source) as text:
        lines = dialect.lines(text)
        taken = RecordLines(text_lines(cast(IO[str], lines), source), dialect, source)
        reader = csv.reader(taken, **dialect.for_csv)
        start = 1
        try:
            header = _next_record(reader)
            if source.header or not header:
                _check_header(header, delimiter, source, taken.line)
            width = len(header)
            swallowed = SwallowedRows(delimiter, width)
            records: Iterator[list[str]] = reader
            if source.header:
                start = taken.line + 1
            else:  # blank lines before the first record do not count
                start = taken.line - sum(field.count("\n") for field in header)
                plain = start == 1
                records = itertools.chain([header], reader)
            quoted = opened = 0
            looked_into = source.quoting != "double" and dialect.quoting != "none"
            forget, in_record = taken.forget, swallowed.in_record
            forget()
            for row in records:
                forget()
                blank = len(row) < 2 and _is_blank(row, width)
                if not blank and len(row) != width:
                    problem = _misfit(row, header, delimiter)
                    problems.add(DataError(problem, file=source.name, line=start))
                    if guessing:  # one misfit rules the dialect out
                        break
                elif looked_into and in_record(row):
                    problems.add(DataError(SWALLOWED, file=source.name, line=start))
                if guessing and dialect.quoting == "none":
                    opened += sum(field[:1] == '"' for field in row)
                    quoted += sum(len(field) > 1 and field[0] == field[-1] == '"' for field in row)
                line = taken.line
                rows += not blank
                plain = plain and line == start and not blank
                start = line + 1
            if guessing and dialect.quoting == "none" and (width < 2 or 2 * quoted > opened):
                problems.add(DataError("its quotes mean something", file=source.name))
        except csv.Error as error:
            problems.add(DataError(_csv_problem(str(error)), file=source.name, line=start))
    problems.raise_any()
    returns = isinstance(lines, KeptReturns) and lines.kept
    return Layout(dialect=dialect, width=width, rows=rows, plain=plain, returns=returns)


def _next_record(reader: Iterator[list[str]]) -> list[str]:
    """Return the first non-blank record."""
    return next((record for record in reader if record), [])


def _misfit(row: list[str], header: list[str], delimiter: str) -> str:
    """Explain why a row does not match the header's fields."""
    comma = "a tab" if delimiter == "\t" else "a comma"
    counts = f"{len(row)} field{'' if len(row) == 1 else 's'} where the header has {len(header)}"
    if len(row) == len(header) + 1 and not row[-1]:
        return f"{counts}: the row ends with {comma}; remove it, or name one more column in line 1"
    if len(row) < len(header):
        return f"{counts}, in {shown(delimiter.join(row), 30)}; add what is missing"
    return f"{counts}; quote fields that hold {comma}"


SWALLOWED = (
    "a quoted field contains other rows: is a quote opened here by mistake? Close it, or set "
    "data.quoting: none if quotes are ordinary text in this file, double if the field is intended"
)


def _csv_problem(message: str) -> str:
    """Translate a message of Python's csv module, with the way to fix it."""
    if "unexpected end of data" in message:
        return "a quote is opened here and never closed; close it, or set data.quoting"
    if "expected after" in message:
        return "text follows a closing quote; write a quote inside a quoted field twice, or set data.quoting"
    if "field larger than" in message:
        return f"a field of more than {MAX_LINE:,} characters begins here; close its quote, or shorten it"
    return f"{escaped(message)}; quote the field"


def _check_header(header: list[str], delimiter: str, source: Source, line: int) -> None:
    if not header:
        raise DataError("is empty; add a header such as text,label and a row for each text", file=source.name)
    if len(header) > MOST_COLUMNS:
        problem = f"has {len(header):,} columns; at most {MOST_COLUMNS:,} are read: remove some"
        raise DataError(problem, file=source.name, line=line)
    twice = first_duplicate(header)
    if twice is not None:
        raise DataError(
            f"the header names column {shown(twice)} twice; rename one", file=source.name, line=line
        )
    others = [separator for separator in SEPARATORS if separator != delimiter and separator in header[0]]
    if len(header) == 1 and others:
        ending = ENDINGS.get(others[0])
        found = f"the header {shown(header[0])} has {SEPARATORS[others[0]]} and no {SEPARATORS[delimiter]}"
        raise DataError(
            f"{found}; {f'name it {ending}' if ending else 'save it with commas'}",
            file=source.name,
            line=line,
        )
