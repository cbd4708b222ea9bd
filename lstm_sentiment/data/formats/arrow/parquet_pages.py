"""Memory use of Parquet pages, computed from their headers before decompression.

A page of 100 bytes may decompress to gigabytes, and so may a dictionary whose one long value is referenced by
a million rows. Arrow allocates whatever a header declares, for as many rows as it is asked for: this module
finds how many are safe.

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

from lstm_sentiment.data.formats.arrow.parquet_headers import (
    DATA,
    DATA_V2,
    DICTIONARY,
    RLE,
    Header,
    PageError,
    read_header,
)

MOST_BYTES = 160 << 20  # memory for a row group's pages, and for the rows requested at a time
COPIES = 3  # of requested rows: Arrow gathers them in a buffer that it doubles
STEPS = (512, 64, 16, 4, 1)  # rows requested at a time if more could take too much
VALUE_BYTES = 24  # of a number; of a text in a list, in addition to its own bytes
PLAIN, DELTA_LENGTHS = 0, 6  # encodings of text in which values are stored in full
KNOWN = (PLAIN, DELTA_LENGTHS, 2, 8)  # and the two dictionary encodings
CODECS = {"LZ4": "lz4_raw"}  # where names in pyarrow's metadata and its decompression differ
BLOCK = 1 << 16  # bytes scanned at a time, per bit of width


@dataclass(frozen=True, kw_only=True)
class Pages:
    """The pages of a column in a row group.

    Args:
        kept: bytes of the dictionary and of the largest data page.
        rows_P: rows that begin in each data page; a single entry for categories, which Arrow gathers.
        bytes_P: bytes of each data page of texts stored in full, or of lists; 0 for others.
        longest: bytes of the longest referenced value, in a dictionary or earlier, or of each number; 0 for
            lists.
        most_of_row: maximum bytes of a row of lists, if known.
    """

    kept: int
    rows_P: npt.NDArray[np.int64] = field(repr=False)
    bytes_P: npt.NDArray[np.int64] = field(repr=False)
    longest: int
    most_of_row: int | None = None

    def window(self, rows: int) -> int:
        """Return the maximum bytes of this many consecutive rows."""
        if not len(self.rows_P):
            return 0
        end_P = np.cumsum(self.rows_P)
        total = np.concatenate([[0], np.cumsum(self.bytes_P)])
        # Up to the page after the last; a page in which no row begins belongs to the previous row.
        begin_P = np.where(self.rows_P > 0, end_P - self.rows_P, end_P - 1)
        behind_P = np.searchsorted(begin_P, np.maximum(end_P - 1, 0) + rows)
        found = int((total[behind_P] - total[:-1]).max()) + rows * self.longest
        return found if self.most_of_row is None else min(found, rows * self.most_of_row)


def rows_at_once(columns: list[Pages], most: int) -> int:
    """Return how many rows of a row group can be requested at a time.

    Raises:
        PageError: the pages are too large even for one.

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
        "row_group_size, or remove large columns"
    )


def pages_of(path: Path, chunk: Any, column: Any, *, category: bool) -> Pages:
    """Read the page headers of a column in a row group.

    Args:
        path: of the file.
        chunk: pyarrow's metadata of the column in the row group.
        column: pyarrow's description of the column.
        category: whether Arrow reads the column as a dictionary.

    Raises:
        PageError: the headers are damaged.
    """
    listed = column.max_repetition_level  # if nonzero, pages count values, not rows
    text = chunk.physical_type == "BYTE_ARRAY"
    fixed = column.length if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY" else 0
    rows, counts, sizes = array("q"), array("q"), array("q")
    lists = _Lists(chunk.compression, listed)
    longest, dictionary, largest = 0 if text else max(fixed, VALUE_BYTES), 0, 0
    start, first = chunk.data_page_offset, chunk.dictionary_page_offset
    if first and 0 < first < start:
        start = first
    with path.open("rb") as file:
        place, end, seen = start, start + chunk.total_compressed_size, 0
        while place < end and seen < chunk.num_values:
            file.seek(place)
            page = read_header(file)
            place = file.tell() + page.packed
            if page.kind == DICTIONARY:
                dictionary = max(dictionary, page.size)
                if text and page.size <= MOST_BYTES:
                    content = _unpacked(file.read(page.packed), page.size, chunk.compression)
                    longest = max(longest, page.size if content is None else _longest(content, page.size))
            elif page.kind in (DATA, DATA_V2):
                seen += page.values
                largest = max(largest, page.size)
                if text and page.encoding not in KNOWN:
                    longest = max(longest, page.size)
                rows.append(lists.rows_in(file, page) if listed else page.values)
                counts.append(page.values)
                sizes.append(page.size if text and page.encoding in (PLAIN, DELTA_LENGTHS) else 0)
    rows_P, bytes_P, most_of_row = np.array(rows, np.int64), np.array(sizes, np.int64), None
    if listed:
        each, longest = longest + VALUE_BYTES * text, 0
        most_of_row = None if category or bytes_P.any() else lists.longest * each
        bytes_P = bytes_P + np.array(counts, np.int64) * each
    if category:  # may be entirely in memory whatever is requested
        rows_P, bytes_P = np.array([1]), bytes_P.sum(keepdims=True)
    return Pages(
        kept=dictionary + largest, rows_P=rows_P, bytes_P=bytes_P, longest=longest, most_of_row=most_of_row
    )


class _Lists:
    """Row starts in the pages of a list column, and the number of values of the longest row.

    Args:
        codec: of the column.
        highest: repetition level, 1 for lists and more for lists in them.

    >>> lists = _Lists("SNAPPY", 1)
    >>> lists.take(memoryview(bytes([6, 0, 3, 0b11111010])), 3 + 8)  # three zeros, eight bits
    5
    >>> lists.longest  # of the last row: a zero and five ones
    6
    """

    def __init__(self, codec: str, highest: int) -> None:
        self._codec, self._width = codec, highest.bit_length()
        self._values, self.longest = 0, 0  # of the current row, and of the longest

    def rows_in(self, file: IO[bytes], page: Header) -> int:
        """Return how many rows begin in a page, 0 if unknown.

        Args:
            file: at the page's content.
            page: its header.
        """
        if page.kind == DATA_V2:
            return self.take(memoryview(file.read(min(page.levels, page.packed))), page.values)
        content = None
        if page.size <= MOST_BYTES and page.level_encoding == RLE:
            content = _unpacked(file.read(page.packed), page.size, self._codec)
        levels = b"" if content is None else content[4 : 4 + int.from_bytes(content[:4], "little")]
        return self.take(memoryview(levels), page.values)

    def take(self, levels: memoryview, count: int) -> int:
        """Count the zeros of a page's repetition levels, which are run-length encoded or bit-packed."""
        begun = seen = place = 0
        while seen < count and place < len(levels):
            head, place = _varint_at(levels, place)
            if head & 1:
                end = min(place + (head >> 1) * self._width, len(levels))
                for first in range(place, end, BLOCK * self._width):
                    packed = np.frombuffer(levels[first : min(end, first + BLOCK * self._width)], np.uint8)
                    bits = np.unpackbits(packed, bitorder="little")
                    numbers = bits[: len(bits) // self._width * self._width].reshape(-1, self._width)
                    numbers = numbers[: count - seen]
                    begun += self._begin(np.flatnonzero(~numbers.any(1)), len(numbers))
                    seen += len(numbers)
                place = end
            else:
                size, run = (self._width + 7) // 8, min(head >> 1, count - seen)
                if any(levels[place : place + size]) or not run:
                    self._values += run
                else:  # rows of one value each
                    begun += run
                    self._begin(np.zeros(1, np.int64), 1)
                seen, place = seen + run, place + size
        self._values += count - seen  # unknown ones
        self.longest = max(self.longest, self._values)
        return begun

    def _begin(self, places: npt.NDArray[np.int64], count: int) -> int:
        """Record rows that begin at some of `count` values; return how many."""
        if not len(places):
            self._values += count
            return 0
        between = int(np.diff(places).max(initial=0))
        self.longest = max(self.longest, self._values + int(places[0]), between)
        self._values = count - int(places[-1])
        return len(places)


def _unpacked(packed: bytes, size: int, codec: str) -> memoryview | None:
    """Return a page's decompressed content, None if that fails."""
    import pyarrow as pa

    codec = CODECS.get(codec, codec.lower())
    try:
        page = packed if codec == "uncompressed" else pa.decompress(packed, size, codec)
        return memoryview(page).cast("B")  # Arrow's has signed bytes
    except (pa.ArrowException, OSError, ValueError):
        return None


def _longest(content: memoryview, size: int) -> int:
    """Return the length of the longest text in a dictionary page, in bytes."""
    place = longest = 0
    while place + 4 <= len(content):
        length = int.from_bytes(content[place : place + 4], "little")
        longest, place = max(longest, length), place + 4 + length
    return min(longest, size)


def _varint_at(content: memoryview, place: int) -> tuple[int, int]:
    """Decode a varint at a position; return it and the next position."""
    value = shift = 0
    while place < len(content):
        byte, place = content[place], place + 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128 or shift > 63:
            break
    return value, place
