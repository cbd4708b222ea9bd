"""Line iterator for CSV parsers: counts lines and limits the size of a record."""

from __future__ import annotations

from collections.abc import Iterator

from lstm_sentiment.data.formats.dialects import Dialect
from lstm_sentiment.data.sources.sources import MAX_LINE, Source
from lstm_sentiment.errors import DataError

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
MOST_SEPARATORS = 1_000_000  # of one row: each field takes fifty times its size in the file


class RecordLines:
    """Iterates over lines for a parser; keeps the lines of the current record and limits their size.

    Args:
        lines: of a file.
        dialect: of the file.
        source: for messages.

    >>> import csv
    >>> from pathlib import Path
    >>> source = Source(name="a.csv", path=Path("a.csv"))
    >>> lines = RecordLines(iter(['"so\\n', 'good",pos\\n']), Dialect(delimiter=","), source)
    >>> next(csv.reader(lines)), lines.line, lines.record()
    (['so\\ngood', 'pos'], 2, '"so\\ngood",pos\\n')
    """

    def __init__(self, lines: Iterator[str], dialect: Dialect, source: Source) -> None:
        self._lines, self._delimiter, self._name = lines, dialect.delimiter, source.name
        self.line = 0  # the last one consumed
        self._parts: list[str] = []
        self._counted = self._size = self._separators = 0

    def forget(self) -> None:
        """Start a new record."""
        self._parts = []
        if self._counted:
            self._counted = self._size = self._separators = 0

    def record(self) -> str:
        """Return the lines of the record, and start a new one."""
        content = "".join(self._parts)
        self.forget()
        return content

    def numbered(self) -> Iterator[tuple[int, str]]:
        """Yield the remaining lines with their numbers."""
        return enumerate(self._lines, start=self.line + 1)

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.line += 1
            if self._parts or len(line) > MOST_SEPARATORS:  # else the line limit is enough
                self._parts.append(line)
                self._check()
            else:
                self._parts = [line]
            yield line

    def _check(self) -> None:
        for line in self._parts[self._counted :]:
            self._size += len(line)
            self._separators += line.count(self._delimiter)
        self._counted = len(self._parts)
        problem = ""
        if self._size > MAX_LINE:
            problem = (
                f"a row of more than {MAX_LINE:,} characters begins here; close its quote, or shorten it"
            )
        elif self._separators > MOST_SEPARATORS:
            found = f"{MOST_SEPARATORS:,} {SEPARATORS[self._delimiter]}"
            problem = f"a row of more than {found} begins here; end each row with a line break"
        if problem:
            raise DataError(problem, file=self._name, line=self.line - len(self._parts) + 1)
