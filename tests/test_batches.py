"""Arrow batches as Python values: the same rows for any chunking, and bounded row sizes."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lstm_sentiment.data.formats.arrow import batches as module
from lstm_sentiment.data.formats.arrow.batches import MOST_ROW_BYTES, parts_of
from lstm_sentiment.data.sources.sources import MAX_LINE, Source
from lstm_sentiment.errors import DataError

SOURCE = Source(name="a.feather", path=Path("a.feather"))
TEXTS = ["so", "", None, "good \U0001f600", "x" * 300]
COLUMNS: dict[str, Any] = {
    "texts": pa.array(TEXTS),
    "large texts": pa.array(TEXTS, pa.large_string()),
    "views of texts": pa.array(TEXTS, pa.string_view()),
    "bytes": pa.array([b"ab", b"", None, b"c", b"d" * 300]),
    "bytes of one length": pa.array([b"ab", b"cd", None, b"ef", b"gh"], pa.binary(2)),
    "numbers": pa.array([1, 2, None, 4, 5]),
    "flags": pa.array([True, None, False, True, True]),
    "nothing": pa.nulls(5),
    "dates": pa.array([datetime.date(2026, 11, 30)] * 5),
    "categories": pa.array(TEXTS).dictionary_encode(),
    "lists": pa.array([[1, 2], [], None, [3], [4, 5, 6]]),
    "large lists": pa.array([[1, 2], [], None, [3], [4, 5, 6]], pa.large_list(pa.int64())),
    "lists of one length": pa.array([[1, 2], [3, 4], None, [5, 6], [7, 8]], pa.list_(pa.int64(), 2)),
    "lists of texts": pa.array([["so", "good"], [], None, [""], ["x" * 300, None]]),
    "lists of lists": pa.array([[["so"], []], [], None, [["a", "b"]], [["x" * 300]]]),
    "lists of categories": pa.ListArray.from_arrays([0, 2, 2, 3, 3, 5], pa.array(TEXTS).dictionary_encode()),
    "views of lists": pa.array([[1, 2], [], None, [3], [4, 5, 6]], pa.list_view(pa.int64())),
    "maps": pa.array([[("a", 1)], [], None, [("b", 2), ("c", 3)], []], pa.map_(pa.string(), pa.int64())),
    "records": pa.array([{"a": "so", "b": 1}, None, {"a": None, "b": 2}, {"a": "x" * 300}, {}]),
    "lists of records": pa.array([[{"a": "so"}], [], None, [{"a": "x" * 300}, {"a": None}], []]),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["so", "x" * 300])),
}


CUTS = ((20, 100, 1 << 30, 99), (3, 4, 1 << 30, 2), (7, 100, 1, 5), (20, 3, 500, 20))


def size_of(value: Any) -> int:
    """Return the bytes of a Python value and of those in it, without what Python shares."""
    if value is None or isinstance(value, bool):
        return 0
    inner = list(value.items()) if isinstance(value, dict) else value
    more = sum(map(size_of, inner)) if isinstance(inner, list | tuple) else 0
    return sys.getsizeof(value) + more


def in_slices(batch: Any, rows: int) -> Iterator[Any]:
    return (batch.slice(first, rows) for first in range(0, len(batch), rows))


@pytest.mark.parametrize("name", COLUMNS)
def test_rows_do_not_depend_on_the_batch_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    column = pa.concat_arrays([COLUMNS[name]] * 4)
    batch = pa.record_batch({"n": pa.array(range(20)), "x": column})
    for cut, rows, size, slices in (
        (20, 100, 1 << 30, 99),
        (3, 4, 1 << 30, 2),
        (7, 100, 1, 5),
        (20, 3, 500, 20),
    ):
        monkeypatch.setattr(module, "SLICE_ROWS", slices)
        parts = list(parts_of(in_slices(batch, cut), SOURCE, rows, size))
        assert [number for _, numbers in parts for number in numbers] == list(range(1, 21))
        assert [value for columns, _ in parts for value in columns["x"]] == column.to_pylist()
        assert [value for columns, _ in parts for value in columns["n"]] == list(range(20))
        assert max(len(numbers) for _, numbers in parts) <= (rows if size > 1 else 1)


@pytest.mark.parametrize("name", COLUMNS)
def test_the_size_of_a_row_is_known_without_its_values(name: str) -> None:
    """Also for a slice, whose offsets do not start at zero; never much less than Python's own size."""
    batch = pa.record_batch({"x": pa.concat_arrays([COLUMNS[name]] * 2)})
    taken_R = module._bytes_of_rows(batch, SOURCE, 1)
    assert module._bytes_of_rows(batch.slice(3, 5), SOURCE, 1).tolist() == taken_R[3:8].tolist()
    for taken, value in zip(taken_R, batch.column(0).to_pylist(), strict=True):
        assert 2.5 * taken + 60 >= size_of(value)


LONG = MOST_ROW_BYTES // module.VALUE_BYTES + 1
ROWS_TOO_LONG: dict[str, Any] = {
    "numbers": pa.array([[1], [0] * LONG, [2]], pa.list_(pa.int8())),
    "a view of numbers": pa.array([[1], [0] * LONG, [2]], pa.list_view(pa.int8())),
    "lists": pa.array([[[1]], [[0] * LONG], [[2]]], pa.list_(pa.list_(pa.int8()))),
    "texts": pa.array([["a"], ["x" * 1000] * (MOST_ROW_BYTES // 4000), ["b"]]),
    "records": pa.array([[{"a": 1}], [{"a": 0}] * LONG, []], pa.list_(pa.struct([("a", pa.int8())]))),
    "categories": pa.ListArray.from_arrays(
        [0, 1, 61, 61], pa.array(["a", *["x" * MAX_LINE] * 60]).dictionary_encode()
    ),
}


@pytest.mark.parametrize("name", ROWS_TOO_LONG)
def test_an_oversized_row_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pa.record_batch({"text": ["so"] * 3, "x": ROWS_TOO_LONG[name]})
    says = r"a\.feather:\d: the row takes [\d,]+ bytes of memory, more than 67,108,864; remove columns of"
    with pytest.raises(DataError, match=says):
        list(parts_of(iter([batch]), SOURCE, 5_000, 1 << 22))
    monkeypatch.setattr(module, "MOST_ROW_BYTES", 1 << 40)  # the control: nothing else is in the way
    assert sum(len(numbers) for _, numbers in parts_of(iter([batch.slice(2)]), SOURCE, 5_000, 1 << 22)) == 1


KINDS = [pa.string(), pa.large_string(), pa.string_view()]


@pytest.mark.parametrize("kind", [*KINDS, None])
def test_an_oversized_text_is_refused(kind: Any) -> None:
    texts = pa.array(["so", "x" * (MAX_LINE + 1)])
    batch = pa.record_batch({"text": texts.cast(kind) if kind else texts.dictionary_encode()})
    with pytest.raises(DataError) as caught:
        list(parts_of(iter([batch]), SOURCE, 5_000, 1 << 22))
    assert str(caught.value) == (
        "a.feather:2: column 'text': a text of more than 4,194,304 bytes; write one text per row, "
        "or shorten it"
    )
    whole = pa.record_batch({"text": ["x" * MAX_LINE]})
    [(columns, _)] = parts_of(iter([whole]), SOURCE, 5_000, 1 << 22)
    assert len(columns["text"][0]) == MAX_LINE


def test_values_of_unknown_size_are_refused() -> None:
    union = pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [pa.array(["so", "no"])])
    views = pa.ListArray.from_arrays([0, 2, 2], pa.array(["so", "no"], pa.string_view()))
    for column, kind in ((union, "sparse_union<0: string=0>"), (views, "string_view")):
        batch = pa.record_batch({"text": ["so", "no"], "x": column})
        with pytest.raises(DataError) as caught:
            list(parts_of(iter([batch]), SOURCE, 5_000, 1 << 22))
        assert str(caught.value) == (
            f"a.feather: column 'x': holds values of the type '{kind}', which is not read; remove the "
            "column, or write it as text"
        )


def test_no_batch_is_held_while_the_next_one_is_made() -> None:
    """A Feather batch may unpack to 200 MB."""
    import weakref

    made: list[Any] = []
    alive: list[int] = []

    class Batch:
        """Fake batch; Arrow's own batches do not support weak references."""

        def __init__(self, batch: Any) -> None:
            self._batch, self.num_rows = batch, batch.num_rows

        def slice(self, first: int, count: int) -> Any:
            found = Batch(self._batch.slice(first, count))
            made.append(weakref.ref(found))
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self._batch, name)

    def batches() -> Iterator[Any]:
        for _ in range(5):
            alive.append(sum(one() is not None for one in made))
            batch = Batch(pa.record_batch({"text": ["so"] * 10}))
            made.append(weakref.ref(batch))
            yield batch
            del batch

    assert sum(len(numbers) for _, numbers in parts_of(batches(), SOURCE, 4, 1 << 22)) == 50
    assert alive == [0] * 5
