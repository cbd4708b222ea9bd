"""Rows in portions bounded by their number and by their bytes, so that memory does not grow with a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

MOST_COLUMNS = 10_000  # of a table: one with more is no table of texts
Row = TypeVar("Row")


def portions(rows: Iterable[Row], *, most: int, size: int, of: Callable[[Row], int]) -> Iterator[list[Row]]:
    """Yield rows in lists, none of them empty; a list ends with the row that makes it large enough.

    Args:
        rows: of a file, read as they are needed.
        most: rows of a list.
        size: bytes from which on a list is large enough.
        of: a row -> the bytes that it takes.

    >>> list(portions(["a", "bc", "d", "efg"], most=3, size=3, of=len))
    [['a', 'bc'], ['d', 'efg']]
    """
    some: list[Row] = []
    taken = 0
    for row in rows:
        some.append(row)
        taken += of(row)
        if len(some) >= most or taken >= size:
            yield some
            some, taken = [], 0
    if some:
        yield some


def bytes_of(*texts: str) -> int:
    """Return the bytes that some texts take in memory: up to four for each character.

    >>> bytes_of("x" * 1000) < bytes_of("x" * 1000 + "😀")
    True
    """
    return sum(map(sys.getsizeof, texts))


def twice_in(names: Iterable[str]) -> str | None:
    """Return the first name that stands among some for the second time, None where each stands once.

    >>> twice_in(["text", "label", "text"]), twice_in(["text", "label"])
    ('text', None)
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
