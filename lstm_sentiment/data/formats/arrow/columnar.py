"""Parquet and Feather (Arrow) files to columns of Python values, checked and read batch by batch.

Legend: R rows of a part.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import Any

from lstm_sentiment.data.sources.sources import Source
from lstm_sentiment.errors import DataError, escaped, shown

Part = tuple[dict[str, list[Any]], range]
MOST_BATCH_BYTES = 1 << 28  # unpacked, of one batch of Feather: programs write 65,536 rows in each
MOST_PART_BYTES = 1 << 24
LEAST_ROWS = 1 << 16  # of a batch; more rows take a byte each at least
DICTIONARY = 2  # what a message holds, in the format's numbers
FILE_MARK, STREAM_MARK = b"ARROW1", b"\xff\xff\xff\xff"


def read_parquet(source: Source, rows: int) -> Iterator[Part]:
    """Yield columns of at most some rows, and the 1-based number of each row (R,).

    Args:
        source: from `open_source`.
        rows: of one part, at most.

    Raises:
        DataError: it is no whole Parquet file; two columns have one name.

    Example::

        with open_source("reviews.parquet") as source:
            for columns, numbers in read_parquet(source, 5_000): ...
    """
    import pyarrow.parquet as pq

    _check_parquet(source)
    with (
        _refusing(source, "Parquet"),
        pq.ParquetFile(source.path, page_checksum_verification=True) as file,
    ):
        _check_names(file.schema_arrow.names, source)
        yield from _parts(file.iter_batches(batch_size=rows), rows)


def read_feather(source: Source, rows: int) -> Iterator[Part]:
    """Yield columns of at most some rows, and the 1-based number of each row (R,).

    Both forms of Arrow's files are read: that of Feather version 2, and the stream that Hugging Face's
    datasets keep.

    Args:
        source: from `open_source`.
        rows: of one part, at most.

    Raises:
        DataError: it is no whole Feather file, or one that unpacks to too much; two columns have one name.

    Example::

        with open_source("reviews.feather") as source:
            for columns, numbers in read_feather(source, 5_000): ...
    """
    import pyarrow as pa

    begin = _check_feather(source)
    with _refusing(source, "Feather"), pa.memory_map(str(source.path)) as file:
        file.seek(begin)
        _check_messages(pa.ipc.MessageReader.open_stream(file), source)
        file.seek(begin)  # a file is a stream, with an index behind it
        with pa.ipc.open_stream(file, options=pa.ipc.IpcReadOptions(use_threads=False)) as batches:
            _check_names(batches.schema.names, source)
            yield from _parts(map(_validated, batches), rows)


def _validated(batch: Any) -> Any:
    """Return a batch whose offsets, texts and numbers were looked at: they are used without a check."""
    batch.validate(full=True)
    return batch


def _parts(batches: Any, rows: int) -> Iterator[Part]:
    """Cut batches into parts, as Python values: types of pandas would turn a column with gaps into floats."""
    start = 1
    for batch in batches:
        first = 0
        while first < batch.num_rows:
            part = batch.slice(first, rows)
            if part.nbytes > MOST_PART_BYTES:
                part = part.slice(0, max(1, part.num_rows * MOST_PART_BYTES // part.nbytes))
            columns = {name: part.column(i).to_pylist() for i, name in enumerate(part.schema.names)}
            yield columns, range(start, start + part.num_rows)
            start, first = start + part.num_rows, first + part.num_rows


@contextlib.contextmanager
def _refusing(source: Source, kind: str) -> Iterator[None]:
    """Raise what goes wrong in Arrow as a `DataError`."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # or a date that Python lacks
        problem = escaped(str(error), 200)
        raise DataError(f"is no readable {kind} file: {problem}; write it anew", file=source.name) from None


def _check_names(names: list[str], source: Source) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"names column {shown(twice)} twice; rename one", file=source.name)


def _check_parquet(source: Source) -> None:
    """Tell what is no whole Parquet file by its first and last four bytes."""
    with source.path.open("rb") as file:
        head, size = file.read(4), file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4))
        tail = file.read(4)
    problem = ""
    if b"PARE" in (head, tail):
        problem = "it is encrypted; write it without encryption"
    elif head != b"PAR1":
        problem = "it does not begin with PAR1; let its name end in what it is"
    elif tail != b"PAR1" or size < 12:
        problem = "it is cut off; copy it again"
    if problem:
        raise DataError(f"is no readable Parquet file: {problem}", file=source.name)


def _check_feather(source: Source) -> int:
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
        if max(size, dictionaries) > MOST_BATCH_BYTES:
            problem = f"a batch unpacks to {size:,} bytes; write it in smaller ones (pandas: chunksize=5000)"
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
