"""CSV and TSV files to frames of text: pandas reads, after a strict pass that checks every record.

pandas alone fills short rows, drops what is over in long ones, and knows no lines.

Legend: R records of a file.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from lstm_sentiment.errors import DataError, Problems, escaped, shown
from lstm_sentiment.reading.sources import MAX_LINE, Source, open_text, text_lines

if TYPE_CHECKING:
    import pandas as pd

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

    lines_R = np.concatenate([[0], _check(source, delimiter)])  # of the blank line that _Rest begins with
    if not (lines_R > 0).any():
        return
    start = 0
    with open_text(source) as text:
        header = _next_record(csv.reader(text, delimiter=delimiter))
        frames = pd.read_csv(
            cast(IO[str], _Rest(text)),
            sep=delimiter,
            header=None,
            names=header,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            index_col=False,
            skip_blank_lines=False,
            chunksize=rows,
        )
        for frame in frames:
            lines = lines_R[start : start + len(frame)]
            start += len(frame)
            if len(lines) == len(frame):
                yield frame[lines > 0].reset_index(drop=True), lines[lines > 0]
    if start != len(lines_R):
        raise DataError(
            f"two parsers disagree: {len(lines_R) - 1} or {start - 1} rows; save it as .jsonl or .parquet",
            file=source.name,
        )


class _Rest:
    """What is left of a text, behind a blank line: where it begins to read, pandas takes a U+FEFF away."""

    def __init__(self, text: IO[str]) -> None:
        self._text, self._begun = text, False

    def read(self, size: int = -1) -> str:
        """Return some characters, none at the end."""
        if self._begun:
            return self._text.read(size)
        self._begun = True
        return "\n"

    def __iter__(self) -> Iterator[str]:  # pandas asks whether it could
        return self._text


def _check(source: Source, delimiter: str) -> Lines:
    """Check every record's quotes and number of fields; return the line it starts at, 0 for a blank one."""
    csv.field_size_limit(MAX_LINE)
    lines = array("q")
    problems = Problems[DataError]()
    with open_text(source) as text:
        reader = csv.reader(text_lines(text, source), delimiter=delimiter, strict=True)
        start = 1
        try:
            header = _next_record(reader)
            _check_header(header, delimiter, source, reader.line_num)
            start = reader.line_num + 1
            for row in reader:
                blank = not row or (row[0].isspace() and len(row) == 1 and len(header) > 1)
                if not blank and len(row) != len(header):
                    problem = _misfit(row, header, delimiter)
                    problems.add(DataError(problem, file=source.name, line=start))
                lines.append(0 if blank else start)
                start = reader.line_num + 1
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


def _csv_problem(message: str) -> str:
    """Say what Python's csv module found wrong, and how to mend it."""
    if "unexpected end of data" in message:
        return "a quote is opened here and never closed; close it, and write one inside a field twice"
    if "expected after" in message:
        return "text follows a closing quote; write a quote inside a quoted field twice, without a backslash"
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
