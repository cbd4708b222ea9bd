"""Parquet files to frames of stored values, in memory that does not grow with the file.

Legend: R rows of a frame.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.errors import DataError, escaped, shown
from lstm_sentiment.reading.parquet_pages import PageError, pages_of, rows_at_once
from lstm_sentiment.reading.portions import MOST_COLUMNS, twice_in
from lstm_sentiment.reading.sources import MAX_LINE, Source

if TYPE_CHECKING:
    import pandas as pd

Lines = npt.NDArray[np.int64]
MOST_FOOTER_BYTES = 1 << 24  # of the description of row groups and columns
BUFFER_BYTES = 1 << 20  # of each column that is read at a time; else all of a row group's would be
VALUE_BYTES = 16  # of memory that a value takes, besides its text
PYTHON_BYTES = 8  # of memory for each byte of other values


def read_parquet(source: Source, rows: int, size: int) -> Iterator[tuple[pd.DataFrame, Lines]]:
    """Yield frames of values as stored, and the 1-based number of each row (R,).

    Args:
        source: from `open_source`.
        rows: of one frame, at most.
        size: bytes from which on a frame is large enough.

    Raises:
        DataError: it is damaged, or its pages would take too much memory.

    Example::

        with open_source("reviews.parquet") as source:
            for frame, lines_R in read_parquet(source, 5_000, 1 << 22): ...
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_ends(source)
    start = 1
    try:
        with pq.ParquetFile(source.path, page_checksum_verification=True, buffer_size=BUFFER_BYTES) as file:
            _check_names(file.schema_arrow.names, source)
            for some in _portions(_batches(file, source, rows), rows, size):
                frame = _frame(pa.Table.from_batches(some))
                yield frame, np.arange(start, start + len(frame))
                start += len(frame)
    except PageError as error:
        raise DataError(str(error), file=source.name) from None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # or a date that Python lacks
        problem = escaped(str(error), 300)
        raise DataError(f"is no readable Parquet file: {problem}; write it anew", file=source.name) from None


def _batches(file: Any, source: Source, rows: int) -> Iterator[Any]:
    """Yield a file's rows in batches of as many rows as memory allows."""
    start = 1
    categories = _categories(file.schema_arrow)
    for group in range(file.metadata.num_row_groups):
        facts = file.metadata.row_group(group)
        described = ((facts.column(i), file.schema.column(i)) for i in range(facts.num_columns))
        columns = [
            pages_of(source.path, chunk, column, category=column.path in categories)
            for chunk, column in described
        ]
        for batch in file.iter_batches(batch_size=rows_at_once(columns, rows), row_groups=[group]):
            _check_lengths(batch, start, source)
            yield batch
            start += len(batch)


def _categories(schema: Any) -> set[str]:
    """Return the columns that are read as dictionaries: those of which Arrow's schema in the file says so."""
    import pyarrow as pa

    return {field.name for field in schema if pa.types.is_dictionary(field.type)}


def _check_lengths(batch: Any, start: int, source: Source) -> None:
    """Refuse a text that is longer than those of any other format may be."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        lengths_R = _lengths(column)
        if lengths_R is not None and len(lengths_R) and lengths_R.max() > MAX_LINE:
            raise DataError(
                f"a text of more than {MAX_LINE:,} bytes; write one text per row",
                file=source.name,
                line=start + int(np.argmax(lengths_R)),
                column=name,
            )


def _lengths(column: Any) -> Lines | None:
    """Return the bytes of each text of a column (R,), None for a column of other things."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        of_values = _lengths(column.dictionary)
        if of_values is None or not len(of_values):
            return None
        places = column.indices.fill_null(0).to_numpy(zero_copy_only=False)
        of_rows: Lines = of_values[places]
        return of_rows
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if not any(kind(column.type) for kind in kinds):
        return None
    found: Lines = pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _bytes_of_rows(batch: Any) -> Lines:
    """Return what each row takes as Python values, about (R,): a character may take four bytes."""
    taken_R = np.full(len(batch), VALUE_BYTES * batch.num_columns, np.int64)
    for column in batch.columns:
        lengths_R = _lengths(column)
        taken_R += PYTHON_BYTES * column.nbytes // len(batch) if lengths_R is None else 4 * lengths_R
    return taken_R


def _portions(batches: Iterator[Any], rows: int, size: int) -> Iterator[list[Any]]:
    """Cut and gather batches, so that each list of them has as many rows and bytes as a frame."""
    some: list[Any] = []
    count = taken = 0
    for batch in batches:
        end_R = np.cumsum(_bytes_of_rows(batch))
        start = before = 0
        while start < len(batch):
            stop = int(np.searchsorted(end_R, before + size - taken)) + 1  # the row that fills it
            stop = min(stop, start + rows - count, len(batch))
            some.append(batch.slice(start, stop - start))
            count += stop - start
            taken += int(end_R[stop - 1]) - before
            start, before = stop, int(end_R[stop - 1])
            if count >= rows or taken >= size:
                yield some
                some, count, taken = [], 0, 0
    if some:
        yield some


def _frame(table: Any) -> pd.DataFrame:
    """Return rows by way of Python values: pandas' own types would turn a column with gaps into floats."""
    import pandas as pd

    return pd.DataFrame(
        {
            name: pd.Series(table.column(i).to_pylist(), dtype=object)
            for i, name in enumerate(table.schema.names)
        }
    )


def _check_names(names: list[str], source: Source) -> None:
    if len(names) > MOST_COLUMNS:
        problem = f"has {len(names):,} columns; at most {MOST_COLUMNS:,} are read: leave some out"
        raise DataError(problem, file=source.name)
    twice = twice_in(names)
    if twice is not None:
        raise DataError(f"names column {shown(twice)} twice; rename one", file=source.name)


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
