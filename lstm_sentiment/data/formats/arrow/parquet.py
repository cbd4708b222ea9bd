"""Parquet files to columns of Python values, in memory that does not grow with the file.

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

MOST_FOOTER_BYTES = 1 << 24  # of the description of row groups and columns
BUFFER_BYTES = 1 << 20  # of each column that is read at a time; else all of a row group's would be


def read_parquet(source: Source, rows: int, size: int) -> Iterator[Part]:
    """Yield columns of at most some rows, and the 1-based number of each row (R,).

    Args:
        source: from `open_source`.
        rows: of one part, at most.
        size: bytes from which on a part is large enough.

    Raises:
        DataError: it is no whole Parquet file, or its pages would take too much memory; two columns have
            one name.

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
    """Yield a file's rows in batches of as many rows as memory allows."""
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
    """Return the columns that are read as dictionaries: those of which Arrow's schema in the file says so."""
    import pyarrow as pa

    return {field.name for field in schema if pa.types.is_dictionary(field.type)}


def _check_ends(source: Source) -> None:
    """Tell what is no whole Parquet file by its first four and last eight bytes."""
    with source.path.open("rb") as file:
        head, size = file.read(4), file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        *length, tail = file.read(4), file.read(4)
    problem = ""
    if b"PARE" in (head, tail):
        problem = "it is encrypted; write it without encryption"
    elif head != b"PAR1":
        problem = "it does not begin with PAR1; let its name end in what it is"
    elif tail != b"PAR1" or size < 12:
        problem = "it is cut off; copy it again"
    elif int.from_bytes(length[0], "little") > MOST_FOOTER_BYTES:
        problem = f"its footer takes more than {MOST_FOOTER_BYTES:,} bytes; write it with larger row groups"
    if problem:
        raise DataError(f"is no readable Parquet file: {problem}", file=source.name)
