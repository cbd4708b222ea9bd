"""Parser of Parquet page headers (Thrift compact protocol), for untrusted files."""

from __future__ import annotations

from typing import IO, Any, NamedTuple

DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # page types
RLE = 3  # encoding of repetition levels, which mark the start of rows
DEEPEST, MOST_ITEMS = 8, 1000  # of a header


class PageError(ValueError):
    """Invalid or too large pages; the message says how to fix it."""


class Header(NamedTuple):
    """A page header.

    Args:
        kind: page type.
        size: uncompressed bytes.
        packed: compressed bytes.
        values: number of values.
        encoding: of the values.
        level_encoding: of repetition levels, in a version 1 page.
        levels: bytes of repetition levels, in a version 2 page.
    """

    kind: int
    size: int
    packed: int
    values: int
    encoding: int
    level_encoding: int
    levels: int


def read_header(file: IO[bytes]) -> Header:
    """Read a page's header.

    Args:
        file: at the header; afterwards at the page's content.

    Raises:
        PageError: it is damaged.

    >>> import io
    >>> read_header(io.BytesIO(bytes.fromhex("1500152c1514 2c1504150015061506 0000"))).values
    2
    """
    header = _struct(file, 0)
    try:
        kind, size, packed = header[1], header[2], header[3]
        of_kind = header.get({DATA: 5, DICTIONARY: 7, DATA_V2: 8}.get(kind, 0), {})
        values, encoding = of_kind.get(1, 0), of_kind.get(4 if kind == DATA_V2 else 2, 0)
        level_encoding, levels = of_kind.get(4, RLE), of_kind.get(6, 0)
        if min(size, packed, values, levels if kind == DATA_V2 else 0) < 0:
            raise TypeError
    except (KeyError, TypeError, AttributeError):
        raise _damaged("a page has an invalid header; write it again") from None
    return Header(kind, size, packed, values, encoding, level_encoding, levels)


def _damaged(problem: str) -> PageError:
    return PageError(f"is not a readable Parquet file: {problem}")


def _struct(file: IO[bytes], depth: int) -> dict[int, Any]:
    """Return the numbers and structs of a Thrift struct by field number."""
    if depth > DEEPEST:
        raise _damaged("a page's header is nested too deeply; write it again")
    found: dict[int, Any] = {}
    number = 0
    while byte := _byte(file):
        number = number + (byte >> 4) if byte >> 4 else _zigzag(file)
        found[number] = _value(file, byte & 15, depth)
        if len(found) > MOST_ITEMS:
            raise _damaged("a page's header is too large; write it again")
    return found


def _value(file: IO[bytes], kind: int, depth: int) -> Any:
    """Return a value that is a number or a struct; skip other types."""
    if kind in (1, 2):  # true and false, which have no payload
        return kind == 1
    if kind == 3:
        return _byte(file)
    if kind in (4, 5, 6):
        return _zigzag(file)
    if kind in (7, 8):
        file.seek(8 if kind == 7 else _varint(file), 1)
    elif kind in (9, 10):
        byte = _byte(file)
        count = byte >> 4 if byte >> 4 < 15 else _varint(file)
        if count > MOST_ITEMS:
            raise _damaged("a page's header is too large; write it again")
        for _ in range(count):
            _byte(file) if byte & 15 in (1, 2) else _value(file, byte & 15, depth + 1)
    elif kind == 12:
        return _struct(file, depth + 1)
    else:
        raise _damaged("a page has an invalid header; write it again")
    return None


def _byte(file: IO[bytes]) -> int:
    read = file.read(1)
    if not read:
        raise _damaged("it ends within a page; copy it again")
    return read[0]


def _varint(file: IO[bytes]) -> int:
    value = shift = 0
    while True:
        byte = _byte(file)
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value
        if shift > 63:
            raise _damaged("a page's header has a number that is too large; write it again")


def _zigzag(file: IO[bytes]) -> int:
    value = _varint(file)
    return (value >> 1) ^ -(value & 1)
