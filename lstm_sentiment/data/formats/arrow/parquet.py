"""Parquet reader: columns of Python values, in bounded memory.

Legend: R rows of a part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from lstm_sentiment.data.formats.arrow.batches import Part, check_names, parts_of, refusing
from lstm_sentiment.data.formats.arrow.parquet_headers import PageError
from lstm_sentiment.data.formats.arrow.parquet_pages import pages_of, rows_at_once
from lstm_sentiment.data.sources.sources import Source
from lstm_sentiment.errors import DataError

MOST_FOOTER_BYTES = 1 << 24  # metadata of row groups and columns
BUFFER_BYTES = 1 << 20  # read buffer per column, instead of a whole row group


def read_parquet(source: Source, rows: int, size: int) -> Iterator[Part]:
    """Yield columns in parts, and the 1-based number of each row (R,).

    Args:
        source: from `open_source`.
        rows: maximum per part.
        size: bytes at which a part ends.

    Raises:
        DataError: it is not a complete Parquet file, its pages would take too much memory, or it has
            duplicate columns.

    Example::

        with open_source("reviews.parquet") as source:
            for columns, numbers in read_parquet(source, 5_000, 1 << 22): ...
    """
    import pyarrow.parquet as pq

    _check_ends(source)
    with (
        refusing(source, "Parquet"),
        pq.ParquetFile(source.path, page_checksum_verification=True, buffer_size=BUFFER_BYTES) as file,
    ):
        check_names(file.schema_arrow.names, source)
        yield from parts_of(_batches(file, source, rows), source, rows, size)


def _batches(file: Any, source: Source, rows: int) -> Iterator[Any]:
    """Yield a file's rows in batches, as large as the memory limit allows."""
    categories = _categories(file.schema_arrow)
    for group in range(file.metadata.num_row_groups):
        facts = file.metadata.row_group(group)
        described = ((facts.column(i), file.schema.column(i)) for i in range(facts.num_columns))
        try:
            columns = [
                pages_of(source.path, chunk, column, category=column.path in categories)
                for chunk, column in described
            ]
            most = rows_at_once(columns, rows)
        except PageError as error:
            raise DataError(str(error), file=source.name) from None
        yield from file.iter_batches(batch_size=most, row_groups=[group])


def _categories(schema: Any) -> set[str]:
    """Return the columns that the Arrow schema in the file declares as dictionaries."""
    import pyarrow as pa

    return {field.name for field in schema if pa.types.is_dictionary(field.type)}


def _check_ends(source: Source) -> None:
    """Check the magic bytes and footer size of a Parquet file."""
    with source.path.open("rb") as file:
        head, size = file.read(4), file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        *length, tail = file.read(4), file.read(4)
    problem = ""
    if b"PARE" in (head, tail):
        problem = "it is encrypted; write it without encryption"
    elif head != b"PAR1":
        problem = "it does not begin with PAR1; rename it to its real format"
    elif tail != b"PAR1" or size < 12:
        problem = "it is truncated; copy it again"
    elif int.from_bytes(length[0], "little") > MOST_FOOTER_BYTES:
        problem = f"its footer takes more than {MOST_FOOTER_BYTES:,} bytes; write it with larger row groups"
    if problem:
        raise DataError(f"is not a readable Parquet file: {problem}", file=source.name)
