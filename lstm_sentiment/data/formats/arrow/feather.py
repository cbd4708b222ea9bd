"""Feather (Arrow IPC) reader: batch sizes are checked before decompression.

Legend: R rows of a part.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

from lstm_sentiment.data.formats.arrow.batches import Part, check_names, parts_of, refusing
from lstm_sentiment.data.sources.sources import Source
from lstm_sentiment.errors import DataError

MOST_BATCH_BYTES = (
    192 << 20
)  # decompressed, of one batch and the dictionaries: programs usually write 65,536 rows in each
LEAST_ROWS = 1 << 16  # of a batch; further rows take at least a byte each
DICTIONARY = 2  # message type
FILE_MARK, STREAM_MARK = b"ARROW1", b"\xff\xff\xff\xff"


def read_feather(source: Source, rows: int, size: int) -> Iterator[Part]:
    """Yield columns in parts, and the 1-based number of each row (R,).

    Both Arrow IPC formats are read: the file format (Feather version 2), and the stream format of Hugging
    Face datasets.

    Args:
        source: from `open_source`.
        rows: maximum per part.
        size: bytes at which a part ends.

    Raises:
        DataError: it is not a complete Feather file, decompresses to too much, or has duplicate columns.

    Example::

        with open_source("reviews.feather") as source:
            for columns, numbers in read_feather(source, 5_000, 1 << 22): ...
    """
    import pyarrow as pa

    begin = _check_ends(source)
    with refusing(source, "Feather"), pa.memory_map(str(source.path)) as file:
        file.seek(begin)
        _check_messages(pa.ipc.MessageReader.open_stream(file), source)
        file.seek(begin)  # a file is a stream followed by an index
        with pa.ipc.open_stream(file, options=pa.ipc.IpcReadOptions(use_threads=False)) as batches:
            check_names(batches.schema.names, source)
            yield from parts_of(map(_validated, batches), source, rows, size)


def _validated(batch: Any) -> Any:
    """Validate a batch's offsets, texts and indices, which are used unchecked later."""
    batch.validate(full=True)
    return batch


def _check_ends(source: Source) -> int:
    """Check magic bytes at both ends of a Feather file; return the offset of its messages."""
    with source.path.open("rb") as file:
        head, size = file.read(8), file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read(8)
    problem = ""
    if head[:4] == b"FEA1":
        problem = "it is of version 1; write it again"
    elif not head.startswith((FILE_MARK, STREAM_MARK)):
        problem = "it does not begin with ARROW1; rename it to its real format"
    elif not tail.endswith(FILE_MARK if head.startswith(FILE_MARK) else STREAM_MARK + bytes(4)) or size < 16:
        problem = "it is truncated; copy it again"
    if problem:
        raise DataError(f"is not a readable Feather file: {problem}", file=source.name)
    return len(head) if head.startswith(FILE_MARK) else 0


def _check_messages(messages: Any, source: Source) -> None:
    """Refuse a file whose batches would decompress to too much, before decompression."""
    dictionaries = 0
    for message in messages:
        if message.type not in ("record batch", "dictionary"):
            continue
        try:
            rows, size = _unpacked(memoryview(message.metadata), memoryview(message.body))
        except (struct.error, IndexError) as error:
            raise ValueError(str(error)) from None
        dictionaries += size if message.type == "dictionary" else 0
        problem = ""
        size = dictionaries + (size if message.type == "record batch" else 0)
        if size > MOST_BATCH_BYTES:
            found = f"a batch decompresses to {size:,} bytes, more than {MOST_BATCH_BYTES:,}"
            problem = f"{found}; write it in smaller ones (pandas: chunksize=5000)"
        elif rows > max(LEAST_ROWS, size):
            problem = f"a batch has {rows:,} rows in {size:,} bytes; write it without run-end encoding"
        if problem:
            raise DataError(problem, file=source.name)


def _unpacked(metadata: memoryview, body: memoryview) -> tuple[int, int]:
    """Return the rows of a message, and its decompressed bytes.

    Source: Message.fbs of Arrow. A compressed buffer begins with its size, or -1 if uncompressed.
    """
    (message,) = struct.unpack_from("<I", metadata, 0)
    batch = _reference(metadata, _field(metadata, message, 2))
    if metadata[_field(metadata, message, 1)] == DICTIONARY:
        batch = _reference(metadata, _field(metadata, batch, 1))
    length = _field(metadata, batch, 0)
    rows = struct.unpack_from("<q", metadata, length)[0] if length else 0
    packed = bool(_field(metadata, batch, 3))
    vector = _reference(metadata, _field(metadata, batch, 2))
    size = 0
    for number in range(struct.unpack_from("<I", metadata, vector)[0]):
        place, stored = struct.unpack_from("<qq", metadata, vector + 4 + 16 * number)
        inside = struct.unpack_from("<q", body, place)[0] if packed and stored >= 8 else -1
        size += stored if inside < 0 else inside
    return rows, size


def _field(metadata: memoryview, table: int, number: int) -> int:
    """Return the position of a flatbuffer table's field, 0 if it is missing."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    (size,) = struct.unpack_from("<H", metadata, vtable)
    place = 4 + 2 * number
    offset = struct.unpack_from("<H", metadata, vtable + place)[0] if place < size else 0
    return table + offset if offset else 0


def _reference(metadata: memoryview, place: int) -> int:
    """Return the position that a field refers to."""
    found: int = place + struct.unpack_from("<I", metadata, place)[0]
    return found
