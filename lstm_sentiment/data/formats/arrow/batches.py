"""Arrow batches to columns of Python values, in parts of bounded memory.

Legend: R rows of a batch.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.data.sources.sources import MAX_LINE, Source
from lstm_sentiment.errors import DataError, escaped, shown
from lstm_sentiment.text.portions import MOST_COLUMNS, first_duplicate

Part = tuple[dict[str, list[Any]], range]
Numbers = npt.NDArray[np.int64]
SLICE_ROWS = 1 << 16
VALUE_BYTES = 32  # memory of a value as a Python object, in addition to its text
CHARACTER_BYTES = 4  # at most
RECORD_VALUES = 8  # size of a small map, in values
MOST_WITHIN = 1 << 20  # values of a dictionary inside lists
MOST_ROW_BYTES = 1 << 26  # as Python values: two million numbers, or four texts of maximum length
TEXTS = {"string", "binary", "large_string", "large_binary"}
VIEWS = {"string_view", "binary_view"}
LISTS = {"list", "large_list", "map"}
LIST_VIEWS = {"list_view", "large_list_view"}
REFERRING = VIEWS | LIST_VIEWS | {"dictionary", "run_end_encoded", "dense_union", "sparse_union"}


@contextlib.contextmanager
def refusing(source: Source, kind: str) -> Iterator[None]:
    """Convert Arrow errors of a block to a `DataError` with the file's name.

    Args:
        source: being read.
        kind: of file, for messages.

    Raises:
        DataError: the block raised an Arrow error, or has values that Python cannot represent.

    Example::

        with refusing(source, "Feather"): ...
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # or a date out of range
        problem = escaped(str(error), 300)
        message = f"is not a readable {kind} file: {problem}; write it again"
        raise DataError(message, file=source.name) from None


def check_names(names: list[str], source: Source) -> None:
    """Refuse duplicate column names, and too many columns.

    Args:
        names: of the columns.
        source: for messages.

    Raises:
        DataError: there are any.

    >>> from pathlib import Path
    >>> check_names(["text", "text"], Source(name="a.feather", path=Path("a.feather")))
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.DataError: a.feather: names column 'text' twice; rename one
    """
    if len(names) > MOST_COLUMNS:
        problem = f"has {len(names):,} columns; at most {MOST_COLUMNS:,} are read: remove some"
        raise DataError(problem, file=source.name)
    twice = first_duplicate(names)
    if twice is not None:
        raise DataError(f"names column {shown(twice)} twice; rename one", file=source.name)


def parts_of(batches: Iterator[Any], source: Source, rows: int, size: int) -> Iterator[Part]:
    """Regroup batches into parts of Python values, with the 1-based number of each row (R,).

    As Python values, since pandas would turn an integer column with nulls into floats. No batch is
    kept while the next one is made.

    Args:
        batches: of a file, with one schema, generated lazily.
        source: for messages.
        rows: maximum per part.
        size: bytes of Python values at which a part ends.

    Raises:
        DataError: a row of more than `MOST_ROW_BYTES`, a text of more than `MAX_LINE` bytes, or a column
            of a type whose size is unknown.

    >>> import pyarrow as pa
    >>> from pathlib import Path
    >>> batches = iter([pa.record_batch({"text": ["so", "no", "yes"]}), pa.record_batch({"text": ["ah"]})])
    >>> list(parts_of(batches, Source(name="a.feather", path=Path("a.feather")), 2, 1 << 22))
    [({'text': ['so', 'no']}, range(1, 3)), ({'text': ['yes', 'ah']}, range(3, 5))]
    """
    columns: dict[str, list[Any]] = {}
    start, count, taken = 1, 0, 0
    for batch in _slices(batches):
        end_R = np.cumsum(_bytes_of_rows(batch, source, start + count))
        first = before = 0
        while first < len(end_R):
            stop = int(np.searchsorted(end_R, before + size - taken)) + 1  # the row that fills the part
            stop = min(stop, first + rows - count, len(end_R))
            _extend(columns, batch.slice(first, stop - first))
            count += stop - first
            taken += int(end_R[stop - 1]) - before
            first, before = stop, int(end_R[stop - 1])
            if count >= rows or taken >= size:
                yield columns, range(start, start + count)
                start, columns, count, taken = start + count, {}, 0, 0
        del batch
    if count:
        yield columns, range(start, start + count)


def _extend(columns: dict[str, list[Any]], batch: Any) -> None:
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        columns.setdefault(name, []).extend(column.to_pylist())


def _slices(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield batches in slices of a limited number of rows."""
    for batch in batches:
        for first in range(0, batch.num_rows, SLICE_ROWS):
            yield batch.slice(first, SLICE_ROWS)
        del batch


def _bytes_of_rows(batch: Any, source: Source, start: int) -> Numbers:
    """Estimate the bytes of each row as Python values (R,).

    Args:
        batch: with validated offsets.
        source: for messages.
        start: 1-based number of its first row.
    """
    first_R = np.arange(batch.num_rows)
    taken_R = np.zeros(batch.num_rows, np.int64)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            of_column_R = _taken(column, first_R, first_R + 1)
        except TypeError as error:
            problem = f"holds {error}, which is not read; remove the column, or write it as text"
            raise DataError(problem, file=source.name, column=name) from None
        _check_lengths(of_column_R, column.type, name, source, start)
        taken_R += of_column_R
    largest = int(np.argmax(taken_R))
    if taken_R[largest] > MOST_ROW_BYTES:
        found = f"the row takes {int(taken_R[largest]):,} bytes of memory, more than {MOST_ROW_BYTES:,}"
        problem = f"{found}; remove columns of long lists"
        raise DataError(problem, file=source.name, line=start + largest)
    return taken_R


def _check_lengths(taken_R: Numbers, kind: Any, name: str, source: Source, start: int) -> None:
    """Refuse texts beyond the length limit of the other formats."""
    if _name(kind.value_type if _name(kind) == "dictionary" else kind) in TEXTS | VIEWS:
        longest = int(np.argmax(taken_R))
        if taken_R[longest] - VALUE_BYTES > MAX_LINE * CHARACTER_BYTES:
            problem = f"a text of more than {MAX_LINE:,} bytes; write one text per row, or shorten it"
            raise DataError(problem, file=source.name, line=start + longest, column=name)


def _taken(column: Any, first_R: Numbers, end_R: Numbers) -> Numbers:
    """Estimate the bytes of ranges of a column as Python values (R,).

    Values inside lists are not copied: the lists' offsets give their ranges.

    Raises:
        TypeError: lists of a type with arbitrary references.
    """
    name, own_R = _name(column.type), (end_R - first_R) * VALUE_BYTES
    if name in TEXTS | LISTS:
        first_R, end_R = (_offsets(column)[place_R].astype(np.int64) for place_R in (first_R, end_R))
    if name in TEXTS:
        return own_R + CHARACTER_BYTES * (end_R - first_R)
    if name in LISTS:
        values = [column.keys, column.items] if name == "map" else [column.values]
        return own_R + sum(_taken(of, first_R, end_R) for of in values)
    if name == "fixed_size_list":
        first_R, end_R = ((place_R + column.offset) * column.type.list_size for place_R in (first_R, end_R))
        return own_R + _taken(column.values, first_R, end_R)
    if name == "struct":
        fields = map(column.field, range(column.type.num_fields))
        own_R *= RECORD_VALUES
        return own_R + sum(_taken(field, first_R, end_R) for field in fields)
    if name == "fixed_size_binary":
        width: int = column.type.byte_width
        return own_R + (end_R - first_R) * width
    if name == "extension":
        return _taken(column.storage, first_R, end_R)
    if name in REFERRING:
        single = (end_R - first_R == 1).all()
        if not single and name == "dictionary" and len(column.dictionary) <= MOST_WITHIN:
            places = np.arange(len(column.dictionary))
            longest = int(_taken(column.dictionary, places, places + 1).max(initial=0))
            return own_R + (end_R - first_R) * longest
        if not single or name.endswith("union"):
            raise TypeError(f"values of the type {shown(str(column.type), 60)}")
        return own_R + _taken_elsewhere(column, name, first_R)
    return own_R


def _taken_elsewhere(column: Any, name: str, place_R: Numbers) -> Numbers:
    """Estimate the bytes of referenced values at some positions (R,)."""
    if name in VIEWS:  # 16 bytes each, of which the first four are the length
        lengths = np.frombuffer(column.buffers()[1], np.int32, offset=16 * column.offset)[::4]
        length_R: Numbers = lengths[place_R].astype(np.int64)
        return CHARACTER_BYTES * length_R
    if name in LIST_VIEWS:
        first_R, size_R = (of.to_numpy().astype(np.int64)[place_R] for of in (column.offsets, column.sizes))
        return _taken(column.values, first_R, first_R + size_R)
    if name == "run_end_encoded":
        place_R = np.searchsorted(column.run_ends.to_numpy(), place_R + column.offset, side="right")
        return _taken(column.values, place_R, place_R + 1)
    if not len(column.dictionary):
        return np.zeros(len(place_R), np.int64)
    place_R = column.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)[place_R]
    return _taken(column.dictionary, place_R, place_R + 1)


def _offsets(column: Any) -> npt.NDArray[Any]:
    """Return the offsets of texts or lists (R + 1,)."""
    kind: Any = np.int64 if _name(column.type).startswith("large") else np.int32
    buffer = column.buffers()[1]
    if buffer is None or not buffer.size:  # no values
        return np.zeros(len(column) + 1, kind)
    return np.frombuffer(buffer, kind, len(column) + 1, column.offset * np.dtype(kind).itemsize)


def _name(kind: Any) -> str:
    """Return the name of a type without its parameters.

    >>> import pyarrow as pa
    >>> _name(pa.list_(pa.string())), _name(pa.binary(4)), _name(pa.timestamp("us"))
    ('list', 'fixed_size_binary', 'timestamp')
    """
    return re.split(r"[<\[(]", str(kind))[0]
