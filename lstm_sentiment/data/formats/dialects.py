"""CSV and TSV dialects: line ends, quoting; detection of unclosed quotes.

Legend: R records of a file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

QUOTINGS = ("double", "backslash", "none")
BARE = "\ufdd0"  # noncharacter that replaces a carriage return within a line
MANY_VALUES = 100  # distinct values of a column; more are not labels
LONG_VALUE = 100  # characters; longer values are not labels
WIDE = 1_000  # columns; further ones are not checked
_BARE_RETURN = re.compile(r"\r(?!\n)")
_LINE = re.compile(r"[^\n]*\n")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """CSV dialect.

    Args:
        delimiter: a comma or a tab.
        quoting: ``double``: a quote inside a quoted field is doubled; ``backslash``: it follows a
            backslash; ``none``: quotes are ordinary text.
        returns_end_lines: whether a bare carriage return ends a line, as on old Macs.
    """

    delimiter: str
    quoting: str = "double"
    returns_end_lines: bool = False

    @property
    def for_csv(self) -> dict[str, Any]:
        """Arguments for `csv.reader`."""
        found: dict[str, Any] = {"delimiter": self.delimiter, "strict": True}
        if self.quoting == "none":
            found |= {"quoting": csv.QUOTE_NONE}
        if self.quoting == "backslash":
            found |= {"doublequote": False, "escapechar": "\\"}
        return found

    @property
    def for_pandas(self) -> dict[str, Any]:
        """Arguments for `pandas.read_csv`."""
        found: dict[str, Any] = {"sep": self.delimiter}
        if self.quoting == "none":
            found |= {"quoting": csv.QUOTE_NONE}
        if self.quoting == "backslash":
            found |= {"doublequote": False, "escapechar": "\\"}
        return found

    def lines(self, text: IO[str]) -> IO[str] | KeptReturns:
        """Wrap a text so that its lines end as in this dialect."""
        return text if self.returns_end_lines else KeptReturns(text)


class KeptReturns:
    """Text wrapper that replaces bare carriage returns by `BARE`, so that they do not end a line.

    >>> import io
    >>> text = KeptReturns(io.StringIO("a\\rb,x\\r\\nc,y\\n", newline=""))
    >>> [line.replace(BARE, "|") for line in text]
    ['a|b,x\\r\\n', 'c,y\\n']
    """

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self.kept = False  # whether any was found so far

    def readline(self, size: int = -1) -> str:
        """Return the rest of a line with its end, at most `size` characters."""
        line = self._text.readline(size)
        while line.endswith("\r") and (size < 0 or len(line) < size):
            more = self._text.readline(size - len(line) if size > 0 else -1)
            if not more:  # the last line of the file: its end
                self.kept = True
                return line[:-1].replace("\r", BARE) + "\n"
            line += more
        if "\r" not in line:
            return line
        found = _BARE_RETURN.sub(BARE, line)
        self.kept = self.kept or found != line
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.readline, "")


class SwallowedRows:
    """Detects records that contain other records, after a quote that was opened by mistake.

    A line within a field counts as a record if it has as many fields as the header, and one of them repeats
    an earlier value of a column with few distinct values, such as labels.

    Args:
        delimiter: of fields.
        width: number of fields of the header.

    >>> found = SwallowedRows(",", 2)
    >>> found.in_record(["good", "pos"]), found.in_record(["so\\nbad,pos\\nfine, too", "pos"])
    (0, 1)
    """

    def __init__(self, delimiter: str, width: int) -> None:
        self._delimiter = delimiter
        self._width = width
        self._open = list(range(min(width, WIDE) if width > 1 else 0))  # columns that may be labels
        self._values: list[set[str]] = [set() for _ in self._open]  # empty for columns that are not

    def in_record(self, record: list[str]) -> int:
        """Return how many records a record's fields seem to contain; remember its values."""
        swallowed = 0
        for place, field in enumerate(record if self._values else ()):
            if "\n" in field:
                lines = (found[0] for found in _LINE.finditer(field))
                first = next(lines)
                if self._delimiter in first:
                    swallowed += self._is_record([*record[:place], *self._fields(first)])
                swallowed += sum(self._is_record(self._fields(line)) for line in lines)
        if not swallowed and len(record) == self._width:
            for place in self._open:
                seen, value = self._values[place], record[place]
                seen.add(value.strip())
                if len(seen) > MANY_VALUES or len(value) > LONG_VALUE:
                    seen.clear()
                    self._open = [other for other in self._open if other != place]
        return swallowed

    def _fields(self, line: str) -> list[str]:
        return line.rstrip("\r\n").split(self._delimiter, self._width)

    def _is_record(self, fields: list[str]) -> bool:
        if len(fields) != self._width:
            return False
        pairs = zip(map(str.strip, fields), self._values, strict=False)
        return any(value != "" and value in seen for value, seen in pairs)
