"""Feather (Arrow) files to columns of Python values: their batches are measured before they are unpacked.

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
)  # unpacked, of one batch and the dictionaries: programs write 65,536 rows in each
LEAST_ROWS = 1 << 16  # of a batch; more rows take a byte each at least
DICTIONARY = 2  # what a message holds, in the format's numbers
FILE_MARK, STREAM_MARK = b"ARROW1", b"\xff\xff\xff\xff"


def read_feather(source: Source, rows: int, size: int) -> Iterator[Part]:
    """Yield columns of at most some rows, and the 1-based number of each row (R,).

    Both forms of Arrow's files are read: that of Feather version 2, and the stream that Hugging Face's
    datasets keep.

    Args:
        source: from `open_source`.
        rows: of one part, at most.
        size: bytes from which on a part is large enough.

    Raises:
        DataError: it is no whole Feather file, or one that unpacks to too much; two columns have one name.

    Example::

        with open_source("reviews.feather") as source:
            for columns, numbers in read_feather(source, 5_000, 1 << 22): ...
    """
    import pyarrow as pa

    begin = _check_ends(source)
    with refusing(source, "Feather"), pa.memory_map(str(source.path)) as file:
        file.seek(begin)
        _check_messages(pa.ipc.MessageReader.open_stream(file), source)
        file.seek(begin)  # a file is a stream, with an index behind it
        with pa.ipc.open_stream(file, options=pa.ipc.IpcReadOptions(use_threads=False)) as batches:
            check_names(batches.schema.names, source)
            yield from parts_of(map(_validated, batches), source, rows, size)


def _validated(batch: Any) -> Any:
    """Return a batch whose offsets, texts and numbers were looked at: they are used without a check."""
    batch.validate(full=True)
    return batch


def _check_ends(source: Source) -> int:
    """Tell what is no whole Feather file by its first and last bytes; return where its messages begin."""
    with source.path.open("rb") as file:
        head, size = file.read(8), file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read(8)
    problem = ""
    if head[:4] == b"FEA1":
        problem = "it is of version 1; write it anew"
    elif not head.startswith((FILE_MARK, STREAM_MARK)):
        problem = "it does not begin with ARROW1; let its name end in what it is"
    elif not tail.endswith(FILE_MARK if head.startswith(FILE_MARK) else STREAM_MARK + bytes(4)) or size < 16:
        problem = "it is cut off; copy it again"
    if problem:
        raise DataError(f"is no readable Feather file: {problem}", file=source.name)
    return len(head) if head.startswith(FILE_MARK) else 0


def _check_messages(messages: Any, source: Source) -> None:
    """Refuse a file whose parts would unpack to more than a batch of texts takes, before any is unpacked."""
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
            found = f"a batch unpacks to {size:,} bytes, more than {MOST_BATCH_BYTES:,}"
            problem = f"{found}; write it in smaller ones (pandas: chunksize=5000)"
        elif rows > max(LEAST_ROWS, size):
            problem = f"a batch has {rows:,} rows in {size:,} bytes; write it without run-end encoding"
        if problem:
            raise DataError(problem, file=source.name)


def _unpacked(metadata: memoryview, body: memoryview) -> tuple[int, int]:
    """Return how many rows a message holds, and how many bytes they are once they are unpacked.

    Source: Message.fbs of the Arrow format. A packed buffer begins with its size, or -1 if it is plain.
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
    """Return where a field of a flatbuffer's table stands, 0 if it is left out."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    (size,) = struct.unpack_from("<H", metadata, vtable)
    place = 4 + 2 * number
    offset = struct.unpack_from("<H", metadata, vtable + place)[0] if place < size else 0
    return table + offset if offset else 0


def _reference(metadata: memoryview, place: int) -> int:
    """Return where what a field refers to stands."""
    found: int = place + struct.unpack_from("<I", metadata, place)[0]
    return found
