"""Reading files, folders, packages and URLs, and errors of unreadable ones."""

from __future__ import annotations

import bz2
import contextlib
import csv
import datetime
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lstm_sentiment.data.formats import readers
from lstm_sentiment.data.formats.readers import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    as_text,
    pick_column,
    read_chunks,
)
from lstm_sentiment.data.formats.writers import WRITTEN, open_table
from lstm_sentiment.data.sources import sources
from lstm_sentiment.data.sources.names import (
    COMPRESSIONS,
    DELIMITERS,
    FORMATS,
    TREES,
    compression_of,
    format_of,
)
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError, MissingExtraError

Rows = list[tuple[str, str]]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}
# What breaks readers: separators, quotes, every kind of line end, values that look like others.
VALUES = st.one_of(
    st.text("a,;\t\"'\n\r\x85\u2028\x0b\x1c\\ é😀#", max_size=12),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    st.sampled_from(
        ["NA", "null", "None", "nan", "", "007", "1e5", "True", "-inf", "=1+1", "2020-01-01", "1_0"]
    ),
)


def delimited(rows: Rows, delimiter: str = ",") -> bytes:
    """Return rows as CSV with all fields quoted, by Python's writer."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(
        [("text", "label"), *rows]
    )
    return out.getvalue().encode()


def json_lines(rows: Rows, *, ascii_only: bool = False) -> bytes:
    records = ({"text": text, "label": label} for text, label in rows)
    return "".join(json.dumps(r, ensure_ascii=ascii_only) + "\n" for r in records).encode()


def parquet(columns: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def encodings_of(rows: Rows) -> dict[str, bytes]:
    """Return the same rows in every format."""
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    return {
        ".csv": delimited(rows),
        ".tsv": delimited(rows, "\t"),
        ".jsonl": json_lines(rows),
        ".parquet": parquet({"text": pa.array(texts, pa.string()), "label": pa.array(labels, pa.string())}),
    }


def read(
    name: Path | str, *, classes: list[str] | None = None, **options: str
) -> tuple[pd.DataFrame, list[int]]:
    """Return the rows of a source and their lines."""
    with open_source(str(name), **options) as source:
        chunks = list(read_chunks(source, classes=classes))
    assert all(len(chunk.frame) == len(chunk.lines) for chunk in chunks)
    frame = pd.concat([chunk.frame for chunk in chunks], ignore_index=True)
    return frame, [int(line) for chunk in chunks for line in chunk.lines]


def pairs(name: Path | str, **options: str) -> Rows:
    frame, _ = read(name, **options)
    return [
        (as_text(text), as_text(label)) for text, label in zip(frame["text"], frame["label"], strict=True)
    ]


def refusal(file: Path, content: bytes | None = None, **options: str) -> str:
    """Return the error message of a file with this content, with FILE for its path."""
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(file, **options)
    message = str(caught.value)
    assert message.replace("\n", "").isprintable()
    return message.replace(str(file), "FILE")


# --- every format gives the same rows ---


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6))
@example([('a,"b"\n\r\r\n\t\x85\u2028', "NA"), ("", ""), (" ", "\t"), ("\ufeff", "007")])
@settings(max_examples=50, deadline=None)
def test_every_format_gives_the_same_rows(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> None:
    folder = tmp_path_factory.getbasetemp()
    for ending, content in encodings_of(rows).items():
        file = folder / f"same{ending}"
        file.write_bytes(content)
        assert pairs(file, quoting="double") == rows, ending


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_every_compression_gives_the_same_rows(tmp_path: Path, ending: str, compression: str) -> None:
    rows = [('good, "very"\ngood 😀', "positive"), ("NA", "007"), ("", "x")]
    file = tmp_path / f"rows{ending}{compression}"
    file.write_bytes(COMPRESS[compression](encodings_of(rows)[ending]))
    assert pairs(file) == rows
    assert file.read_bytes()[:4] != b"text" or not compression


def test_a_compressed_parquet_file_is_read_or_refused(tmp_path: Path) -> None:
    """The extension .parquet.gz means Parquet in gzip; such a file must not be reported as damaged."""
    file = tmp_path / "rows.parquet.gz"
    file.write_bytes(gzip.compress(parquet({"text": ["a"], "label": ["x"]})))
    outcome = ""
    try:
        outcome = str(pairs(file))
    except DataError as error:
        outcome = str(error).replace(str(file), "FILE")
    assert outcome == "[('a', 'x')]" or "compress" in outcome


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_escaped_json_gives_the_same_rows(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> None:
    file = tmp_path_factory.getbasetemp() / "escaped.jsonl"
    file.write_bytes(json_lines(rows, ascii_only=True))
    assert pairs(file) == rows


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_values_are_never_converted(tmp_path: Path, ending: str) -> None:
    values = ["NA", "null", "None", "nan", "N/A", "", "007", "1e5", "1.0", "True", "-inf", "#N/A", " 1 "]
    file = tmp_path / f"values{ending}"
    file.write_bytes(encodings_of([(value, value) for value in values])[ending])
    frame, _ = read(file)
    assert frame["text"].tolist() == values
    assert frame["label"].tolist() == values


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("values", [["007", "1", "20"], ["1.0", "1e5", "-inf"], ["True", "False", "True"]])
def test_a_column_of_numbers_alone_stays_text(tmp_path: Path, ending: str, values: list[str]) -> None:
    file = tmp_path / f"values{ending}"
    file.write_bytes(encodings_of([(value, value) for value in values])[ending])
    frame, _ = read(file)
    assert frame["text"].tolist() == values
    assert frame["label"].tolist() == values


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 7])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_chunks_keep_rows_and_line_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, chunk_rows: int
) -> None:
    rows = [(f"text {i}" + "\nmore" * (i % 3), str(i % 2)) for i in range(7)]
    file = tmp_path / f"rows{ending}"
    file.write_bytes(encodings_of(rows)[ending])
    whole, lines = read(file)
    monkeypatch.setattr(readers, "CHUNK_ROWS", chunk_rows)
    with open_source(str(file)) as source:
        largest = max(len(chunk.frame) for chunk in read_chunks(source))
    assert chunk_rows - 1 <= largest <= chunk_rows  # the first one of a CSV file has a row less
    parts, part_lines = read(file)
    assert [(row.text, row.label) for row in parts.itertuples()] == rows
    assert part_lines == lines
    pd.testing.assert_frame_equal(parts, whole)


# --- lines ---


def test_line_numbers_are_where_rows_begin(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'text,label\na,x\n"b\n\nb",y\n\n   \nc,x\r\n"d\r\nd",y\r\ne,x')
    frame, lines = read(file)
    assert frame["text"].tolist() == ["a", "b\n\nb", "c", "d\r\nd", "e"]
    assert lines == [2, 3, 8, 9, 11]


def test_a_header_may_take_several_lines(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'text,"long\n\nname",label\na,1,x\nb,2,y\n')
    frame, lines = read(file)
    assert (list(frame.columns), lines) == (["text", "long\n\nname", "label"], [4, 5])


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]))
@settings(max_examples=50, deadline=None)
def test_the_line_of_a_row_is_that_of_its_text(
    tmp_path_factory: pytest.TempPathFactory, rows: Rows, line_end: str
) -> None:
    """Reference: count the line ends before each row while writing it."""
    file = tmp_path_factory.getbasetemp() / "lines.csv"
    content, lines = f"text,label{line_end}", []
    for text, label in rows:
        end = None if line_end == "\r" else "\n"  # the header's own line end decides
        lines.append(1 + len(io.StringIO(content, newline=end).readlines()))
        doubled = text.replace('"', '""'), label.replace('"', '""')
        content += '"{}","{}"'.format(*doubled) + line_end
    file.write_bytes(content.encode())
    frame, found = read(file, quoting="double")
    assert list(zip(frame["text"], frame["label"], strict=True)) == rows
    assert found == lines


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_is_read(tmp_path: Path, line_end: bytes) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(line_end.join([b"text,label", b"a b,x", b" c,y", b"", b"  d ,x"]))
    frame, lines = read(file)
    assert (frame["text"].tolist(), lines) == (["a b", " c", "  d "], [2, 3, 5])
    assert refusal(file, line_end.join([b"text,label", b"a", b"b,y"])).startswith("FILE:2: 1 field ")


def test_blank_lines_before_the_header_are_skipped(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"\n\ntext,label\na,x\n")
    frame, lines = read(file)
    assert (frame["text"].tolist(), lines) == (["a"], [4])


def test_a_file_of_one_column_keeps_its_empty_texts(tmp_path: Path) -> None:
    """A quoted empty field is a row; an empty line is not."""
    file = tmp_path / "rows.csv"
    file.write_bytes(b'text\na\n""\n\n" "\nb\n')
    frame, lines = read(file)
    assert (frame["text"].tolist(), lines) == (["a", "", " ", "b"], [2, 3, 5, 6])


# --- structure of CSV and TSV ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "FILE: is empty"),
        (b"\n\n", "FILE: is empty"),
        (b"text,label\n", "FILE: has no rows"),
        (b"text,label", "FILE: has no rows"),
        (b"text,label\n\n \n", "FILE: has no rows"),
        (b"text,label\na\n", "FILE:2: 1 field where the header has 2"),
        (
            b"text,label\na,x\nb, c,y\n",
            "FILE:3: 3 fields where the header has 2; quote fields that hold a comma",
        ),
        (b"text,label\na,x,\nb,y,\n", "FILE:2: 3 fields where the header has 2: the row ends with a comma"),
        (b'text,label\n"a\n\na",x\nb\n', "FILE:5: 1 field where the header has 2"),
        (b'text,label\n"a\r\na",x\r\n"b\r\nb",y,z\r\n', "FILE:4: 3 fields where the header has 2"),
        (b'text,label\n"a","x"\n"b,y\nc,x\n', "FILE:3: a quote is opened here and never closed"),
        (b'text,label\n"a","x"\n"b" c,y\n', "FILE:3: text follows a closing quote"),
        (b'text,label\na,x\n"b\nc "d" e",y\n', "FILE:3: text follows a closing quote"),
        (b"text,label,text\na,x,b\n", "FILE:1: the header names column 'text' twice"),
    ],
)
def test_a_malformed_row_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    assert refusal(tmp_path / "rows.csv", content).startswith(message)
    if b";" not in content:
        assert refusal(tmp_path / "rows.tsv", content.replace(b",", b"\t")).startswith(
            message.replace("a comma", "a tab")
        )


def test_a_bad_row_far_down_is_found_before_the_first_row_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "CHUNK_ROWS", 2)
    file = tmp_path / "rows.csv"
    file.write_bytes(b"text,label\n" + b"a,x\n" * 50 + b"b\n")
    with open_source(str(file)) as source, pytest.raises(DataError, match=":52: 1 field "):
        next(iter(read_chunks(source)))


def test_a_quote_inside_an_unquoted_field_is_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b'text,label\n5" screen,x\n "b",y\n')
    assert pairs(file) == [('5" screen', "x"), (' "b"', "y")]


def test_a_long_field_is_read(tmp_path: Path) -> None:
    long = "word, " * 50_000
    file = tmp_path / "rows.csv"
    file.write_bytes(delimited([(long, "x"), ("b", "y")]))
    assert pairs(file) == [(long, "x"), ("b", "y")]


def test_an_unnamed_column_gets_no_pandas_name(tmp_path: Path) -> None:
    """An index column of another program is not picked and keeps its empty name."""
    file = tmp_path / "rows.csv"
    file.write_bytes(b",text,label\n0,a,x\n")
    frame, _ = read(file)
    assert [str(c) for c in frame.columns] == ["", "text", "label"]


# --- encodings ---


def test_a_byte_order_mark_is_not_part_of_the_header(tmp_path: Path) -> None:
    for ending, content in (".csv", delimited([("a", "x")])), (".jsonl", json_lines([("a", "x")])):
        file = tmp_path / f"rows{ending}"
        file.write_bytes(b"\xef\xbb\xbf" + content)
        for name in ("utf-8", "UTF8", "utf_8"):
            assert pairs(file, encoding=name) == [("a", "x")]


@pytest.mark.parametrize("name", ["utf-16", "UTF-16", "utf16", "utf_16", "U16"])
def test_utf_16_is_read_under_any_of_its_names(tmp_path: Path, name: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(delimited([("é😀\nb", "x")]).decode().encode("utf-16"))
    assert pairs(file, encoding=name) == [("é😀\nb", "x")]


def test_utf_16_read_as_another_encoding_is_named(tmp_path: Path) -> None:
    for name in ("utf-16", "utf-16-be"):
        content = ("\ufeff" * (name != "utf-16") + "text,label\na,x\n").encode(name)
        message = refusal(tmp_path / "rows.csv", content)
        assert message == "FILE: is UTF-16 by its byte order mark; set data.encoding utf-16"


@pytest.mark.parametrize("compression", ["", ".gz"])
def test_an_undecodable_byte_is_refused_with_line_and_position(tmp_path: Path, compression: str) -> None:
    rows = [("word " * 5000, "x"), ("café", "y")]
    content = delimited(rows).decode().encode("latin-1")
    file = tmp_path / f"rows.csv{compression}"
    message = refusal(file, COMPRESS[compression](content))
    assert message.startswith("FILE:3: byte 0xe9 at position 5 is not utf-8; set data.encoding")
    assert "latin-1" in message
    assert pairs(file, encoding="latin-1") == rows
    assert refusal(file, encoding="ascii").startswith("FILE:3: byte 0xe9 at position 5 is not ascii")


def test_an_undecodable_byte_is_replaced_on_request(tmp_path: Path) -> None:
    for ending, content in (".csv", delimited([("café", "x")])), (".jsonl", json_lines([("café", "x")])):
        file = tmp_path / f"rows{ending}"
        file.write_bytes(content.decode().encode("latin-1"))
        assert pairs(file, encoding_errors="replace") == [("caf\ufffd", "x")]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_a_truncated_character_at_the_end_is_refused(tmp_path: Path, ending: str) -> None:
    content = b'{"text": "a", "label": "x"}\n' if ending == ".jsonl" else b"text\na\n"
    assert refusal(tmp_path / f"rows{ending}", content + "é".encode()[:1]).startswith("FILE:")


# --- damaged files ---


LONG = [(f"text {i * 7919}", str(i % 2)) for i in range(2000)]


@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_a_damaged_compressed_file_is_refused_by_name(tmp_path: Path, compression: str) -> None:
    whole = COMPRESS[compression](delimited(LONG))
    middle = len(whole) // 2
    flipped = bytes(255 - byte for byte in whole[middle : middle + 40])
    damages = {"cut": whole[:middle], "not compressed": delimited(LONG)}
    if compression != ".zst":  # which has a checksum only if its writer enabled it
        damages["flipped"] = whole[:middle] + flipped + whole[middle + 40 :]
    for content in damages.values():
        assert refusal(tmp_path / f"rows.csv{compression}", content).startswith("FILE:")


@pytest.mark.parametrize("format_", [".csv", ".jsonl", ".txt"])
@pytest.mark.parametrize("compression", [".gz", ".bz2", ".xz", ".zst"])
def test_a_truncated_file_with_undecodable_bytes_is_refused(
    tmp_path: Path, compression: str, format_: str
) -> None:
    """The search for the line of the bytes reads the file again, to its damaged end."""
    noise = np.random.default_rng(0).integers(32, 127, 200_000, np.uint8).tobytes()
    packed = COMPRESS[compression](b"text,label\n\xff" + noise)
    message = refusal(tmp_path / f"rows{format_}{compression}", packed[: len(packed) // 2])
    assert "cannot be read: " in message or "is not utf-8" in message


def test_an_xz_file_may_have_several_streams_and_padding(tmp_path: Path) -> None:
    rows = [("so good", "x"), ("so bad", "y")]
    first, second = (lzma.compress(part) for part in (delimited(rows[:1]), b'"so bad","y"\n'))
    file = tmp_path / "rows.csv.xz"
    for content in (first + second, first + bytes(8) + second + bytes(4), first + second + b"no stream"):
        file.write_bytes(content)
        assert pairs(file) == rows
    assert lzma.decompress(first + second) == delimited(rows)  # the reference
    assert refusal(file, (first + second)[:-9]).startswith("FILE: cannot be read: the file is truncated")


def test_the_memory_of_xz_decompression_is_bounded(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    packed = io.BytesIO()
    # Written by hand: compressing with such a dictionary would take ten gigabytes.
    whole = lzma.compress(delimited(LONG), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}])
    place = whole.index(b"\x21\x01") + 2  # LZMA2, one byte of properties
    header = bytearray(whole[12 : 12 + 4 * (whole[12] + 1)])
    header[place - 12] = lzma._encode_filter_properties(filters[0])[0]  # type: ignore[attr-defined]
    header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "little")
    packed.write(whole[:12] + header + whole[12 + len(header) :])
    message = refusal(tmp_path / "rows.csv.xz", packed.getvalue())
    assert message == (
        "FILE: cannot be read: its dictionary takes more than 104,857,600 bytes of memory; use xz -9 or "
        "less; copy or write it again"
    )
    assert len(lzma.decompress(packed.getvalue())) == len(
        delimited(LONG)
    )  # the control: the library gives it


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_an_undecodable_byte_in_a_very_long_line_is_located(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setattr(sources, "MAX_LINE", 101)
    width = len("x".encode(encoding))
    bad = b"\xff" if encoding == "utf-8" else b"\x00\xd8x\x00"
    content = "text\n".encode(encoding) + "x".encode(encoding) * 300 + bad + "y\n".encode(encoding)
    message = refusal(tmp_path / "rows.csv", content, encoding=encoding)
    # Bytes of UTF-16 are split at the first one of a line break.
    where = "0xff at position 301" if encoding == "utf-8" else f"0x00 at position {300 * width + 2}"
    assert message.startswith(f"FILE:2: byte {where} is not {encoding}; set data.encoding"), message


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    whole = parquet({"text": ["a"] * 100, "label": ["x"] * 100})
    for content in (b"", b"PAR1 nothing", delimited(LONG), whole[: len(whole) // 2], whole[:-10]):
        assert refusal(tmp_path / "rows.parquet", content).startswith(
            "FILE: is not a readable Parquet file: "
        )


def test_a_parquet_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    ends = pa.array([0, 3], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(b"a\xffb")])
    assert refusal(tmp_path / "rows.parquet", parquet({"text": text, "label": ["x"]})).startswith("FILE: ")


# --- JSON lines ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n\n{"text": }\n', "FILE:3: not JSON at column 10: Expecting value"),
        (b'{"text": "a"},\n{"text": "b"}\n', "FILE:1: text after the object, at column 14"),
        (b'{"text": "a"} {"text": "b"}\n', "FILE:1: text after the object, at column 15"),
        (b'{"text": "a"}\n{"text": "b"', "FILE:2: not JSON at column 13: "),
        (b'{\n  "text": "a"\n}\n', "FILE:1: an object over several lines begins here"),
        (b'{"text": "a"}\n["b"]\n', "FILE:2: each line must be one JSON object"),
        (b'{"text": "a"}\n"b"\n', "FILE:2: each line must be one JSON object"),
        (b"null\n", "FILE:1: each line must be one JSON object"),
        (b"[" * 100_000 + b"\n", "FILE:1: a JSON array begins here"),
        (b'{"text": ' + b"[" * 100_000 + b"\n", "FILE:1: not JSON: nested too deeply"),
        (b'{"text": "a"}\n{"text": ' + b"9" * 5000 + b"}\n", "FILE:2: not JSON: "),
        (b"", "FILE: has no rows"),
        (b"\n \n", "FILE: has no rows"),
    ],
)
def test_a_line_that_is_not_a_json_object_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    assert refusal(tmp_path / "rows.jsonl", content).startswith(message)


def test_only_a_newline_ends_a_json_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(
        '{"text": "a\u2028b\x85c\u2029d\x0b", "label": "x"}\n \n{"text": "e", "label": "y"}'.encode()
    )
    with pytest.raises(DataError, match=":1: not JSON at column"):  # a bare \x0b is not JSON
        read(file)
    file.write_bytes(
        '{"text": "a\u2028b\x85c\u2029d", "label": "x"}\r\n \n{"text": "e", "label": "y"}'.encode()
    )
    frame, lines = read(file)
    assert (frame["text"].tolist(), lines) == (["a\u2028b\x85c\u2029d", "e"], [1, 3])


def test_json_values_become_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    records = [
        {"text": 7, "label": 0},
        {"text": None, "label": True},
        {"text": 1.5, "label": "0"},
        {"label": 1},
    ]
    file.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert pairs(file) == [("7", "0"), ("", "true"), ("1.5", "0"), ("", "1")]


# --- Parquet ---


def test_parquet_values_become_text(tmp_path: Path) -> None:
    """A missing value does not turn the integers of its column into 1.0."""
    file = tmp_path / "rows.parquet"
    columns = {
        "int": pa.array([1, None, 3], pa.int64()),
        "bool": pa.array([True, None, False]),
        "date": pa.array([datetime.date(2020, 1, 2), None, None]),
        "text": pa.array(["NA", None, ""]),
        "dictionary": pa.array(["b", "a", None]).dictionary_encode(),
        "float": pa.array([1.0, None, float("nan")]),
    }
    file.write_bytes(parquet(columns))
    frame, lines = read(file)
    found = {name: [as_text(value) for value in frame[name]] for name in frame.columns}
    assert found == {
        "int": ["1", "", "3"],
        "bool": ["true", "", "false"],
        "date": ["2020-01-02", "", ""],
        "text": ["NA", "", ""],
        "dictionary": ["b", "a", ""],
        "float": ["1.0", "", ""],
    }
    assert lines == [1, 2, 3]


def test_parquet_without_rows_is_refused(tmp_path: Path) -> None:
    empty = parquet({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())})
    assert refusal(tmp_path / "rows.parquet", empty) == "FILE: has no rows; add one for each text"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("NA", "NA"),
        (None, ""),
        (float("nan"), ""),
        (pd.NA, ""),
        (np.float64("nan"), ""),
        (True, "true"),
        (np.bool_(False), "false"),
        (np.int64(3), "3"),
        (1.5, "1.5"),
        (["a"], "['a']"),
    ],
)
def test_stored_values_as_text(value: object, text: str) -> None:
    assert as_text(value) == text


# --- folders ---


def class_folders(root: Path, texts: dict[str, list[str]]) -> Path:
    for name, of_class in texts.items():
        (root / name).mkdir(parents=True)
        for i, text in enumerate(of_class):
            (root / name / f"{i}.txt").write_bytes(text.encode())
    return root


def test_a_folder_has_a_subfolder_of_texts_per_class(tmp_path: Path) -> None:
    root = class_folders(
        tmp_path / "root", {"pos": ["good\r\n", "fine 😀"], "neg": ["bad, bad"], "empty": []}
    )
    (root / "pos" / "notes.md").write_text("x", encoding="utf-8")
    (root / "readme.txt").write_text("x", encoding="utf-8")
    assert pairs(root) == [("bad, bad", "neg"), ("good\r\n", "pos"), ("fine 😀", "pos")]
    frame, lines = read(root)
    assert frame["file"].tolist() == ["neg/0.txt", "pos/0.txt", "pos/1.txt"]
    assert lines == [1, 2, 3]


def test_only_the_requested_class_folders_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folders(tmp_path / "root", {"neg": ["a", "b"], "pos": ["c"], "unsup": ["d"] * 3})
    monkeypatch.setattr(readers, "CHUNK_ROWS", 2)
    frame, lines = read(root, classes=["pos", "neg", "neutral"])
    assert sorted(frame["label"]) == ["neg", "neg", "pos"]
    assert lines == [1, 2, 3]
    with pytest.raises(DataError, match="neutral; it has neg, pos, unsup"):
        read(root, classes=["neutral"])


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    expected = f"{tmp_path}: a folder must hold tables, or one subfolder of .txt files per class"
    for make in (lambda: None, lambda: (tmp_path / "neg").mkdir(), lambda: (tmp_path / "a.md").touch()):
        make()
        with pytest.raises(DataError) as caught:
            read(tmp_path)
        assert str(caught.value) == expected


def test_an_undecodable_text_file_is_refused_by_name(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "root", {"neg": ["a"], "pos": ["b"]})
    bad = root / "pos" / "1.txt"
    bad.write_bytes(b"caf\xe9")
    with pytest.raises(DataError) as caught:
        read(root)
    assert str(caught.value).startswith(f"{bad}: byte 3 is not utf-8")
    assert pairs(root, encoding_errors="replace")[-1] == ("caf\ufffd", "pos")
    assert pairs(root, encoding="latin-1")[-1] == ("café", "pos")


# --- packages ---


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package with a data file, and a file outside of it."""
    folder = tmp_path / "site" / "corpora_for_tests"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "raise RuntimeError('a data package is not imported')", encoding="utf-8"
    )
    (folder / "data" / "rows.csv").write_bytes(delimited([("a", "x")]))
    (folder.parent / "secret.csv").write_bytes(delimited([("b", "y")]))
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder


def test_a_file_inside_a_package_is_read_without_importing_it(package: Path) -> None:
    assert pairs("package:corpora_for_tests/data/rows.csv") == [("a", "x")]
    assert "corpora_for_tests" not in sys.modules


@pytest.mark.parametrize("inside", ["../secret.csv", "data/../../secret.csv", "/etc/secret.csv"])
def test_a_path_outside_the_package_is_refused(package: Path, inside: str) -> None:
    with pytest.raises(DataError, match="is outside of the package"):
        read(f"package:corpora_for_tests/{inside}")


def test_a_link_to_outside_the_package_is_refused(package: Path) -> None:
    (package / "data" / "link.csv").symlink_to(package.parent / "secret.csv")
    with pytest.raises(DataError, match="is outside of the package"):
        read("package:corpora_for_tests/data/link.csv")


def test_a_missing_file_inside_a_package_is_refused(package: Path) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        read("package:corpora_for_tests/data/row.csv")
    assert "Did you mean 'rows.csv'?" in str(caught.value)


@pytest.mark.parametrize("name", ["not_installed_anywhere", "no-name", "os.path", "", "csv"])
def test_a_package_that_is_not_installed_is_refused(name: str) -> None:
    """So are a module that is not a package and an invalid name."""
    with pytest.raises(MissingExtraError) as caught:
        read(f"package:{name}/rows.csv")
    assert f"the package '{name}' is not installed" in str(caught.value)


# --- names and URLs ---


def test_urls_that_fsspec_opens_are_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv.gz"
    file.write_bytes(gzip.compress(delimited([("a", "x")])))
    assert pairs(f"file://{file}") == [("a", "x")]
    memory = fsspec.filesystem("memory")
    memory.pipe("/corpus/rows.jsonl", json_lines([("b", "y")]))
    try:
        assert pairs("memory://corpus/rows.jsonl") == [("b", "y")]
    finally:
        memory.rm("/corpus", recursive=True)


def test_a_fetched_file_is_removed_with_its_source(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(delimited([("a", "x")]))
    with open_source(f"file://{file}") as source:
        fetched = source.path
        assert fetched.is_file()
        assert fetched != file
    assert not fetched.parent.exists()
    with contextlib.suppress(ZeroDivisionError), open_source(f"file://{file}") as source:
        fetched = source.path
        raise ZeroDivisionError
    assert not fetched.parent.exists()


@pytest.mark.parametrize(
    "url",
    [
        "nothing://corpus/rows.csv",
        "file:///no/such/rows.csv",
        "memory://no/rows.csv",
        "http://localhost:port/rows.csv",
        "http://local host/rows.csv",
        "http://localhost:1/rows.csv",
    ],
)
def test_a_url_that_cannot_be_fetched_is_refused(url: str) -> None:
    with pytest.raises(DataError) as caught:
        read(url)
    assert str(caught.value).startswith(f"{url}: cannot be fetched: ")


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").touch()
    message = refusal(tmp_path / "review.csv")
    assert message == "FILE: no such file or folder; name an existing one. Did you mean 'reviews.csv'?"
    assert refusal(tmp_path / "zzz.parquet") == "FILE: no such file or folder; name an existing one."
    assert refusal(tmp_path / "no" / "folder" / "rows.csv").startswith("FILE: no such file or folder;")


@pytest.mark.parametrize("name", ["rows.doc", "rows", "rows.xls", "rows.csv.7z", "rows.pkl", "rows.gz"])
def test_an_unknown_extension_is_refused_with_the_supported_ones(tmp_path: Path, name: str) -> None:
    message = refusal(tmp_path / name, b"x")
    assert all(ending in message for ending in (*FORMATS, *COMPRESSIONS))


@pytest.mark.parametrize(
    ("name", "kind", "compression"),
    [
        ("a.csv", ".csv", ""),
        ("A.CSV", ".csv", ""),
        ("a.b.tsv.gz", ".tsv", ".gz"),
        ("a.CSV.GZ", ".csv", ".gz"),
        ("https://x.org/a.jsonl.xz?token=b.csv", ".jsonl", ".xz"),
        ("dir.csv/a.parquet", ".parquet", ""),
        ("a.jsonl.zst", ".jsonl", ".zst"),
        ("a.csv.bz2", ".csv", ".bz2"),
    ],
)
def test_formats_are_chosen_by_extension(name: str, kind: str, compression: str) -> None:
    assert (format_of(name), compression_of(name)) == (kind, compression)


# --- columns ---


@pytest.mark.parametrize("candidates", [TEXT_COLUMNS, LABEL_COLUMNS])
def test_the_only_candidate_is_picked(candidates: tuple[str, ...]) -> None:
    for name in [*candidates, f" {candidates[0].title()}"]:
        assert pick_column("auto", ["id", name, "date"], candidates=candidates, key="k", file="f") == name


@pytest.mark.parametrize("rating", ["rating", "Stars", "score", "target"])
def test_a_rating_is_the_label_if_there_is_no_other(rating: str) -> None:
    how: dict[str, Any] = {"candidates": LABEL_COLUMNS, "key": "data.label_column", "file": "a.csv"}
    assert pick_column("auto", ["text", rating], **how) == rating
    assert pick_column("auto", [rating, "sentiment"], **how) == "sentiment"
    with pytest.raises(DataError, match=r"several of .* among its columns"):
        pick_column("auto", [rating, "rating " if rating != "rating" else "stars"], **how)


def test_a_named_column_is_used() -> None:
    columns = ["text", "review"]
    assert pick_column("review", columns, candidates=TEXT_COLUMNS, key="k", file="f") == "review"


@pytest.mark.parametrize(
    ("wanted", "columns", "parts"),
    [
        ("auto", ["text", "review", "id"], ["several of text, review", "'text', 'review', 'id'"]),
        ("auto", ["good film", "1"], ["none of text, review", "'good film', '1'"]),
        ("auto", ["Text", "text "], ["several of text", "'Text', 'text '"]),
        ("reveiw", ["review", "id"], ["no column 'reveiw'", "'review', 'id'", "Did you mean 'review'?"]),
        ("auto", ["\x1b[31m"], ["\\x1b"]),
    ],
)
def test_an_ambiguous_column_is_refused(wanted: str, columns: list[str], parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        pick_column(wanted, columns, candidates=TEXT_COLUMNS, key="data.text_column", file="a.csv")
    message = str(caught.value)
    assert message.startswith("a.csv: ")
    assert all(part in message for part in [*parts, "data.text_column"])
    assert message.isprintable()


@pytest.mark.parametrize("ending", sorted({*FORMATS} - {*DELIMITERS, *TREES}))
def test_every_format_has_a_reader(ending: str) -> None:
    """A format without one would be an AttributeError or a KeyError for the user."""
    assert callable(readers.reader_of(ending))


@pytest.mark.parametrize("ending", WRITTEN)
def test_every_written_format_is_read_back(ending: str, tmp_path: Path) -> None:
    rows = {"text": ["so good", "so-so"], "label": ["positive", "neutral"]}
    with open_table(str(tmp_path / f"rows{ending}")) as write:
        write(pd.DataFrame(rows))
    with open_source(str(tmp_path / f"rows{ending}")) as source:
        (chunk,) = readers.read_chunks(source)
    assert chunk.frame.to_dict("list") == rows


def test_a_format_that_is_only_read_is_not_written(tmp_path: Path) -> None:
    """Output has another format then; a KeyError would be the alternative."""
    with pytest.raises(DataError, match=r"ends in none of \.csv"), open_table(str(tmp_path / "rows.txt")):
        pass
    assert not list(tmp_path.iterdir())
