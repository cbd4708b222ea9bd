"""What the pages of a Parquet file take in memory, told by their headers before any of them is unpacked.

A page of 100 bytes may unpack to gigabytes, and so may a dictionary to whose one long value a million rows
refer. Arrow takes memory for whatever a header says, and for as many rows at a time as it is asked for: how
many that may be is found here.

    column chunk: [dictionary page] data page, data page, ...    each a header (Thrift, compact) and its bytes

Legend: P data pages of a column chunk.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.errors import shown

MOST_BYTES = 160 << 20  # of memory for a row group's pages, and for the rows that are asked for at a time
COPIES = 3  # of rows that are asked for: Arrow gathers them in memory that it doubles
MOST_LISTED = 1 << 20  # values of lists in a row group: all of them may be of one row
STEPS = (512, 64, 16, 4, 1)  # rows asked for at a time where more could take too much
VALUE_BYTES = 24  # of a value in a list, besides its own bytes
DATA, DICTIONARY, DATA_V2 = 0, 2, 3  # kinds of page
PLAIN, DELTA_LENGTHS = 0, 6  # encodings of text in which no value takes more than its bytes
KNOWN = (PLAIN, DELTA_LENGTHS, 2, 8)  # and the two that refer to the dictionary page
CODECS = {"LZ4": "lz4_raw"}  # where pyarrow's metadata and its decompression differ
DEEPEST, MOST_ITEMS = 8, 1000  # of a header


class PageError(ValueError):
    """A file whose pages are not as Parquet has them, or too large; the message says what would help."""


@dataclass(frozen=True, kw_only=True)
class Pages:
    """The pages of a column in a row group.

    Args:
        kept: bytes of the dictionary and of the largest data page.
        rows_P: rows of each data page; one for all, where their values are those of lists, which may be of
            one row, or of categories, which Arrow gathers.
        bytes_P: bytes of each data page of texts whose values take no more than that; 0 for others.
        longest: bytes of the longest value that pages refer to, in a dictionary or before, or of each number.
    """

    kept: int
    rows_P: npt.NDArray[np.int64] = field(repr=False)
    bytes_P: npt.NDArray[np.int64] = field(repr=False)
    longest: int

    def window(self, rows: int) -> int:
        """Return the bytes that so many rows in a row may take, at most."""
        if not len(self.rows_P):
            return 0
        end_P = np.cumsum(self.rows_P)
        total = np.concatenate([[0], np.cumsum(self.bytes_P)])
        behind_P = np.searchsorted(end_P - self.rows_P, end_P - 1 + rows)  # the page behind the last of them
        return int((total[behind_P] - total[:-1]).max()) + rows * self.longest


def rows_at_once(columns: list[Pages], most: int) -> int:
    """Return how many rows of a row group may be asked for at a time.

    Raises:
        PageError: the pages are too large for any.

    >>> rows_P, bytes_P = np.array([100]), np.array([1000])
    >>> short, long = (Pages(kept=1000, rows_P=rows_P, bytes_P=bytes_P, longest=n) for n in (9, 1 << 20))
    >>> rows_at_once([short], 5000), rows_at_once([short, long], 5000)
    (5000, 16)
    """
    kept, taken = sum(pages.kept for pages in columns), 0
    for rows in (most, *(step for step in STEPS if step < most)):
        taken = kept + COPIES * sum(pages.window(rows) for pages in columns)
        if taken <= MOST_BYTES:
            return rows
    raise PageError(
        f"takes {taken:,} bytes of memory at a time, more than {MOST_BYTES:,}; write it with a smaller "
        "row_group_size"
    )


def pages_of(path: Path, chunk: Any, column: Any, *, category: bool) -> Pages:
    """Return the pages of a column in a row group.

    Args:
        path: of the file.
        chunk: pyarrow's metadata of the column in the row group.
        column: pyarrow's description of the column.
        category: whether Arrow reads it as a dictionary.

    Raises:
        PageError: the headers are damaged, or the column holds lists of very many values.
    """
    listed = column.max_repetition_level > 0  # what its pages say are values, and not rows
    if listed and chunk.num_values > MOST_LISTED:
        raise PageError(
            f"has lists of {chunk.num_values:,} values in a row group of column {shown(column.path)}, more "
            f"than {MOST_LISTED:,}; leave the column out, or write it with a smaller row_group_size"
        )
    text = chunk.physical_type == "BYTE_ARRAY"
    fixed = column.length if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY" else 0
    rows, sizes = array("q"), array("q")
    longest, dictionary, largest = 0 if text else max(fixed, VALUE_BYTES), 0, 0
    start, first = chunk.data_page_offset, chunk.dictionary_page_offset
    if first and 0 < first < start:
        start = first
    with path.open("rb") as file:
        place, end, seen = start, start + chunk.total_compressed_size, 0
        while place < end and seen < chunk.num_values:
            file.seek(place)
            kind, size, packed, values, encoding = _header(file)
            place = file.tell() + packed
            if kind == DICTIONARY:
                dictionary = max(dictionary, size)
                if text and size <= MOST_BYTES:
                    longest = max(longest, _longest(file.read(packed), size, chunk.compression))
            elif kind in (DATA, DATA_V2):
                seen += values
                largest = max(largest, size)
                if text and encoding not in KNOWN:
                    longest = max(longest, size)
                rows.append(values)
                sizes.append(size if text and encoding in (PLAIN, DELTA_LENGTHS) else 0)
    if listed or category:  # all of it may be in memory whatever is asked for
        rows, sizes = array("q", [1]), array("q", [sum(sizes) + listed * seen * (VALUE_BYTES + longest)])
        longest = 0 if listed else longest
    rows_P, bytes_P = np.array(rows, np.int64), np.array(sizes, np.int64)
    return Pages(kept=dictionary + largest, rows_P=rows_P, bytes_P=bytes_P, longest=longest)


def _longest(packed: bytes, size: int, codec: str) -> int:
    """Return the bytes of the longest text in a dictionary page, or of all where it cannot be unpacked."""
    import pyarrow as pa

    codec = CODECS.get(codec, codec.lower())
    try:
        page = packed if codec == "uncompressed" else pa.decompress(packed, size, codec)
    except (pa.ArrowException, OSError, ValueError):
        return size
    content = memoryview(page)
    place = longest = 0
    while place + 4 <= len(content):
        length = int.from_bytes(content[place : place + 4], "little")
        longest, place = max(longest, length), place + 4 + length
    return min(longest, size)


def _header(file: IO[bytes]) -> tuple[int, int, int, int, int]:
    """Return a page's kind, its bytes, those in the file, its values and their encoding."""
    header = _struct(file, 0)
    try:
        kind, size, packed = header[1], header[2], header[3]
        of_kind = header.get({DATA: 5, DICTIONARY: 7, DATA_V2: 8}.get(kind, 0), {})
        values, encoding = of_kind.get(1, 0), of_kind.get(4 if kind == DATA_V2 else 2, 0)
        if min(size, packed, values) < 0:
            raise TypeError
    except (KeyError, TypeError, AttributeError):
        raise _damaged("a page has no header as Parquet writes it; write it anew") from None
    return kind, size, packed, values, encoding


def _damaged(problem: str) -> PageError:
    return PageError(f"is no readable Parquet file: {problem}")


def _struct(file: IO[bytes], depth: int) -> dict[int, Any]:
    """Return the numbers and structs of a struct in Thrift's compact protocol, by their field numbers."""
    if depth > DEEPEST:
        raise _damaged("a page's header is nested too deeply; write it anew")
    found: dict[int, Any] = {}
    number = 0
    while byte := _byte(file):
        number = number + (byte >> 4) if byte >> 4 else _zigzag(file)
        found[number] = _value(file, byte & 15, depth)
        if len(found) > MOST_ITEMS:
            raise _damaged("a page's header holds too much; write it anew")
    return found


def _value(file: IO[bytes], kind: int, depth: int) -> Any:
    """Return a value that is a number or a struct; read past one of another kind."""
    if kind in (1, 2):  # true and false, which take no bytes
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
            raise _damaged("a page's header holds too much; write it anew")
        for _ in range(count):
            _byte(file) if byte & 15 in (1, 2) else _value(file, byte & 15, depth + 1)
    elif kind == 12:
        return _struct(file, depth + 1)
    else:
        raise _damaged("a page has no header as Parquet writes it; write it anew")
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
            raise _damaged("a page's header holds a number that is too large; write it anew")


def _zigzag(file: IO[bytes]) -> int:
    value = _varint(file)
    return (value >> 1) ^ -(value & 1)
