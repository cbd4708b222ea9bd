"""Parquet page headers: of every writer, and without trust in declared sizes."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lstm_sentiment.data.formats.arrow import batches, parquet_pages
from lstm_sentiment.data.formats.arrow.parquet import read_parquet
from lstm_sentiment.data.formats.arrow.parquet_headers import PageError
from lstm_sentiment.data.formats.arrow.parquet_pages import MOST_BYTES, Pages, pages_of, rows_at_once
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError

RANDOM = random.Random(0)
WORDS = ["so", "good", "bad", "😀"]
TABLE = pa.table({
    "text": [" ".join(RANDOM.choices(WORDS, k=RANDOM.randrange(60))) for _ in range(3000)],
    "label": ["a", "b", None] * 1000,
    "n": list(range(3000)),
    "share": [0.5, None, 1.5] * 1000,
    "flag": [True, False, None] * 1000,
    "tags": [["x", "y"], [], None] * 1000,
    "facts": [{"a": 1, "b": "so"}, None, {"a": None, "b": "no"}] * 1000,
    "kind": pa.array(["p", "q", "r"] * 1000).dictionary_encode(),
    "when": pa.array(range(3000), pa.timestamp("us")),
    "key": pa.array([b"abcd", b"efgh", b"ijkl"] * 1000, pa.binary(4)),
})  # fmt: skip
WRITERS: dict[str, dict[str, Any]] = {
    "plain": {"compression": "none"},
    "snappy": {"compression": "snappy"},
    "gzip": {"compression": "gzip"},
    "brotli": {"compression": "brotli"},
    "lz4": {"compression": "lz4"},
    "zstd": {"compression": "zstd"},
    "no dictionary": {"use_dictionary": False},
    "second version of pages": {"data_page_version": "2.0"},
    "small pages": {"data_page_size": 500, "dictionary_pagesize_limit": 500},
    "small row groups": {"row_group_size": 100},
    "checksums": {"write_page_checksum": True},
    "page index": {"write_page_index": True},
    "no statistics": {"write_statistics": False},
    "no schema of Arrow": {"store_schema": False},
    "delta": {
        "use_dictionary": False,
        "column_encoding": {"text": "DELTA_BYTE_ARRAY", "n": "DELTA_BINARY_PACKED"},
    },
    "delta of lengths": {"use_dictionary": False, "column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY"}},
    "split": {"use_dictionary": False, "column_encoding": {"share": "BYTE_STREAM_SPLIT"}},
}


def written(folder: Path, table: pa.Table = TABLE, **options: Any) -> Path:
    pq.write_table(table, folder / "rows.parquet", **options)
    return folder / "rows.parquet"


def pages(file: Path, column: str, group: int = 0) -> Pages:
    opened = pq.ParquetFile(file)
    facts = opened.metadata.row_group(group)
    [place] = [i for i in range(facts.num_columns) if facts.column(i).path_in_schema == column]
    return pages_of(file, facts.column(place), opened.schema.column(place), category=column == "kind")


@pytest.mark.parametrize("name", WRITERS)
def test_pages_of_every_writer_are_read(tmp_path: Path, name: str) -> None:
    file = written(tmp_path, **WRITERS[name])
    opened = pq.ParquetFile(file)
    for group in range(min(2, opened.metadata.num_row_groups)):
        facts = opened.metadata.row_group(group)
        for column in ("text", "label", "n", "share", "flag", "facts.a", "facts.b", "when", "key"):
            found = pages(file, column, group)
            assert found.rows_P.sum() == facts.num_rows, column
            assert found.kept > 0
            lengths = [len(str(text).encode()) for text in TABLE["text"].slice(group * 100, 100).to_pylist()]
            if column == "text":
                assert found.window(100) >= sum(lengths)
    with open_source(str(file)) as source:
        parts = list(read_parquet(source, 5_000, 1 << 30))
    assert [list(numbers) for _, numbers in parts] == [list(range(1, 3001))]
    for column in TABLE.column_names:
        assert parts[0][0][column] == TABLE[column].to_pylist(), column


@pytest.mark.parametrize(("rows", "size"), [(7, 1 << 30), (5_000, 5_000), (64, 20_000), (1, 1)])
@pytest.mark.parametrize("name", ["plain", "no dictionary", "small row groups"])
def test_chunks_of_any_size_have_the_same_rows(tmp_path: Path, name: str, rows: int, size: int) -> None:
    file = written(tmp_path, TABLE.slice(0, 400), **WRITERS[name])
    with open_source(str(file)) as source:
        parts = list(read_parquet(source, rows, size))
    assert max(len(numbers) for _, numbers in parts) <= rows
    texts = [text for columns, _ in parts for text in columns["text"]]
    assert texts == TABLE["text"].slice(0, 400).to_pylist()
    assert [number for _, numbers in parts for number in numbers] == list(range(1, 401))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("deep", [False, True])
def test_rows_starting_in_pages_of_lists_are_counted(tmp_path: Path, version: str, deep: bool) -> None:
    lists: list[Any] = [
        [RANDOM.randrange(9) for _ in range(RANDOM.choice([0, 1, 2, 30]))] for _ in range(3000)
    ]
    lists[1000:1500] = [[1]] * 500  # runs
    lists[2000] = [7] * 5_000
    lists[17] = None
    if deep:
        lists = [None if one is None else [one, one] for one in lists]
    options = {"use_dictionary": False, "data_page_size": 2_000, "data_page_version": version}
    file = written(tmp_path, pa.table({"x": lists}), **options)
    [name] = [pq.ParquetFile(file).metadata.row_group(0).column(0).path_in_schema]
    found = pages(file, name)
    assert len(found.rows_P) > 20
    assert found.rows_P.sum() == 3000
    assert found.most_of_row == (10_000 if deep else 5_000) * 24
    assert found.window(1) >= found.most_of_row
    assert found.window(1) < found.window(100) < found.window(3000) == found.bytes_P.sum()


def test_a_page_without_a_row_start_continues_the_previous_row() -> None:
    found = Pages(kept=0, rows_P=np.array([2, 0, 1]), bytes_P=np.array([10, 20, 30]), longest=0)
    assert [found.window(rows) for rows in (1, 2, 3)] == [30, 60, 60]


def test_large_lists_are_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    """Embedding columns, as in data sets for search: three million numbers in one row group."""
    vectors = [[i / 7] * 1_000 for i in range(3_000)]
    file = written(
        tmp_path, pa.table({"text": ["so"] * 3_000, "x": pa.array(vectors, pa.list_(pa.float32()))})
    )
    found = pages(file, "x.list.element")
    assert rows_at_once([found], 5_000) == 512
    with open_source(str(file)) as source:
        parts = list(read_parquet(source, 5_000, 1 << 22))
    assert sum(len(numbers) for _, numbers in parts) == 3_000
    assert parts[0][0]["x"][7] == pytest.approx(vectors[7])
    one = written(tmp_path, pa.table({"x": [[0.5] * 3_000_000, [1.5]]}), use_dictionary=False)
    with (
        pytest.raises(DataError, match="row_group_size, or remove large columns"),
        open_source(str(one)) as source,
    ):
        list(read_parquet(source, 5_000, 1 << 22))


def test_unreadable_levels_count_as_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, pa.table({"x": [[1, 2]] * 500}), compression="zstd", use_dictionary=False)
    monkeypatch.setitem(parquet_pages.CODECS, "ZSTD", "nonesuch")
    found = pages(file, "x.list.element")
    assert (found.rows_P.sum(), found.most_of_row) == (0, 1000 * 24)
    assert rows_at_once([found], 5_000) == 5_000


def test_the_longest_text_of_a_dictionary_bounds_the_rows_at_a_time(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    file = written(tmp_path, pa.table({"text": ["so", long] * 500}))
    found = pages(file, "text")
    assert found.longest == len(long)
    assert found.window(100) == 100 * len(long)
    assert rows_at_once([found], 5_000) == 16
    short = written(tmp_path, pa.table({"text": ["so", "good"] * 500}))
    assert pages(short, "text").longest == 4
    assert rows_at_once([pages(short, "text")], 5_000) == 5_000


def test_an_undecodable_dictionary_counts_by_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, pa.table({"text": ["so", "x" * 1000] * 50}), compression="zstd")
    monkeypatch.setitem(parquet_pages.CODECS, "ZSTD", "nonesuch")
    assert pages(file, "text").longest == 1010  # two texts, and four bytes for the length of each


def test_oversized_pages_are_refused_before_decompression() -> None:
    rows_P, bytes_P = np.array([10, 10]), np.array([MOST_BYTES // 4, MOST_BYTES // 4])
    large = Pages(kept=MOST_BYTES // 4, rows_P=rows_P, bytes_P=bytes_P, longest=0)
    assert rows_at_once([Pages(kept=0, rows_P=rows_P, bytes_P=np.array([1, 1]), longest=0)], 5_000) == 5_000
    with pytest.raises(
        PageError, match=r"bytes of memory at a time, .* write it with a smaller row_group_size"
    ):
        rows_at_once([large, large], 5_000)


def varint(number: int) -> bytes:
    """Return a signed Thrift varint."""
    number, found = number << 1, b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def header(size: int, *, packed: int = 10, values: int = 2, more: bytes = b"") -> bytes:
    """Return the header of a page of plain values."""
    of_data = b"\x15" + varint(values) + b"\x15\x00\x15\x06\x15\x06" + more + b"\x00"
    return b"\x15\x00\x15" + varint(size) + b"\x15" + varint(packed) + b"\x2c" + of_data + b"\x00"


def crafted(folder: Path, content: bytes, **facts: Any) -> Pages:
    """Return the pages of a column chunk of these bytes."""
    (folder / "chunk").write_bytes(content)
    described = {
        "data_page_offset": 0,
        "dictionary_page_offset": None,
        "num_values": 2,
        "compression": "ZSTD",
    }
    described |= {"total_compressed_size": len(content), "physical_type": "BYTE_ARRAY", **facts}
    column = SimpleNamespace(max_repetition_level=0, path="text", length=0)
    return pages_of(folder / "chunk", SimpleNamespace(**described), column, category=False)


def test_a_header_that_declares_gigabytes_is_refused(tmp_path: Path) -> None:
    """Arrow allocates as much memory as a header declares."""
    found = crafted(tmp_path, header(2**31 - 1) + b"x" * 10)
    assert found.bytes_P.tolist() == [2**31 - 1]
    with pytest.raises(PageError, match="takes 8,589,934,588 bytes of memory at a time"):
        rows_at_once([found], 5_000)


def test_all_pages_of_a_column_chunk_are_checked(tmp_path: Path) -> None:
    found = crafted(tmp_path, (header(100) + b"x" * 10) * 3, num_values=6)
    assert (found.rows_P.tolist(), found.bytes_P.tolist()) == ([2, 2, 2], [100] * 3)
    assert [found.window(rows) for rows in (1, 2, 3, 4, 100)] == [100, 200, 200, 300, 300]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", None),
        (b"\x00" * 40, "a page has an invalid header"),
        (b"\xff" * 400, "invalid header|too large|nested"),
        (header(100)[:5], "it ends within a page"),
        (header(100, packed=-1 & 0x7FFFFFFF) + b"x", None),
        (b"\x1c" * 400, "nested too deeply"),
        (b"\x15\x00\x19\xf5\xff\xff\xff\xff\x0f", "header is too large"),
        (b"\x15\x00" * 5_000, "header is too large|invalid header"),
        (b"\x15" + b"\xff" * 20, "a number that is too large"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, content: bytes, says: str | None) -> None:
    if says is None:
        crafted(tmp_path, content)
        return
    with pytest.raises(
        PageError, match=rf"is not a readable Parquet file: .*({says}).*; (write it again|copy it again)"
    ):
        crafted(tmp_path, content)


def test_any_bytes_are_read_or_refused(tmp_path: Path) -> None:
    randomness = random.Random(0)
    good = (header(100) + b"x" * 10) * 3
    for _ in range(2_000):
        content = bytearray(good)
        for _ in range(randomness.randrange(1, 6)):
            content[randomness.randrange(len(content))] = randomness.randrange(256)
        try:
            found = crafted(tmp_path, bytes(content), num_values=6)
            rows_at_once([found], 5_000)
        except PageError:
            continue


def test_an_oversized_text_is_refused_with_its_row(tmp_path: Path) -> None:
    file = written(tmp_path, pa.table({"text": ["so", "x" * 4_194_305]}))
    with pytest.raises(DataError) as caught, open_source(str(file)) as source:
        list(read_parquet(source, 5_000, 1 << 22))
    assert str(caught.value) == (
        f"{file}:2: column 'text': a text of more than 4,194,304 bytes; write one text per row, or shorten it"
    )


def test_a_table_of_very_many_columns_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_COLUMNS", 3)
    file = written(tmp_path, pa.table({name: ["so"] for name in "abcd"}))
    with (
        pytest.raises(DataError, match="has 4 columns; at most 3 are read: remove some"),
        open_source(str(file)) as source,
    ):
        list(read_parquet(source, 5_000, 1 << 22))


def test_a_footer_of_many_megabytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(b"PAR1" + b"\0" * 100 + (1 << 25).to_bytes(4, "little") + b"PAR1")
    with (
        pytest.raises(DataError, match="its footer takes more than 16,777,216 bytes"),
        open_source(str(file)) as source,
    ):
        list(read_parquet(source, 5_000, 1 << 22))
