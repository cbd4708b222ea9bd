"""Batching of rows by count and bytes, so that memory does not grow with the file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

MOST_COLUMNS = 10_000  # of a table
Row = TypeVar("Row")


def portions(rows: Iterable[Row], *, most: int, size: int, of: Callable[[Row], int]) -> Iterator[list[Row]]:
    """Yield rows in non-empty lists; a list ends with the row that reaches a limit.

    Args:
        rows: of a file, consumed lazily.
        most: rows of a list.
        size: bytes at which a list ends.
        of: row -> its bytes.

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
    """Return the memory of texts in bytes: up to four per character.

    >>> bytes_of("x" * 1000) < bytes_of("x" * 1000 + "😀")
    True
    """
    return sum(map(sys.getsizeof, texts))


def first_duplicate(names: Iterable[str]) -> str | None:
    """Return the first duplicate name, None if all are distinct.

    >>> first_duplicate(["text", "label", "text"]), first_duplicate(["text", "label"])
    ('text', None)
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
