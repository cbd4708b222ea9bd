"""Writing tables, completely or not at all."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lstm_sentiment.data.formats.readers import as_text, read_chunks
from lstm_sentiment.data.formats.writers import open_table, to_json_line
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError

ENDINGS = [
    *(".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zst"),
    *(".tsv", ".tsv.gz", ".jsonl", ".jsonl.bz2", ".jsonl.zst", ".parquet"),
]
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.decompress,
    "bz2": bz2.decompress,
    "xz": lzma.decompress,
    "zst": lambda content: pa.input_stream(pa.py_buffer(content), compression="zstd").read(),
}
VALUES = st.one_of(
    st.text("a,;\t\"'\n\r\x85\u2028\\ é😀#", max_size=10),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10),
    st.sampled_from(["NA", "", "007", "True", "nan", "=1+1"]),
)
Rows = list[tuple[str, str]]


def frame_of(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["text", "label"], dtype=object)


def write(file: Path, *parts: Rows) -> None:
    with open_table(str(file)) as append:
        for rows in parts:
            append(frame_of(rows))


def read_back(file: Path, quoting: str = "auto") -> Rows:
    with open_source(str(file), quoting=quoting) as source:
        frame = pd.concat([chunk.frame for chunk in read_chunks(source)])
    assert list(frame.columns) == ["text", "label"]
    return [
        (as_text(text), as_text(label)) for text, label in zip(frame["text"], frame["label"], strict=True)
    ]


@pytest.mark.parametrize("ending", ENDINGS)
def test_tables_round_trip(tmp_path: Path, ending: str) -> None:
    rows = [('good, "very"\n\tgood 😀\x85\u2028', "positive"), ("NA", "007"), ("", ""), (" d\r\ne ", "True")]
    file = tmp_path / f"rows{ending}"
    write(file, rows[:1], rows[1:])
    assert read_back(file) == rows
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5), st.integers(0, 5))
@example([("a\rb", "x")], 0)
@example([("#", ""), ("#\t\n", "\n")], 0)
@settings(max_examples=40, deadline=None)
def test_any_text_round_trips(tmp_path_factory: pytest.TempPathFactory, rows: Rows, cut: int) -> None:
    """Where the dialect is guessed, all but values that look like rows: a delimiter and the end of a line."""
    for ending, delimiter in ((".csv", ","), (".tsv", "\t"), (".jsonl", None), (".parquet", None)):
        file = tmp_path_factory.getbasetemp() / f"written{ending}"
        write(file, *(part for part in (rows[:cut], rows[cut:]) if part))
        assert read_back(file, quoting="double") == rows, ending
        values = [value for row in rows for value in row]
        if delimiter is None or not any(delimiter in value and {*"\r\n"} & {*value} for value in values):
            assert read_back(file) == rows, ending


def test_a_single_column_of_empty_texts_round_trips(tmp_path: Path) -> None:
    for ending in (".csv", ".tsv", ".jsonl", ".parquet"):
        file = tmp_path / f"rows{ending}"
        with open_table(str(file)) as append:
            append(pd.DataFrame({"text": ["a", "", " ", "b"]}, dtype=object))
        with open_source(str(file)) as source:
            texts = [text for chunk in read_chunks(source) for text in chunk.frame["text"]]
        assert texts == ["a", "", " ", "b"], ending


@pytest.mark.parametrize("ending", [e for e in ENDINGS if e.count(".") == 2])
def test_the_extension_selects_the_compression(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"rows{ending}", [("a", "x")])
    content = DECOMPRESS[ending.rsplit(".", 1)[1]]((tmp_path / f"rows{ending}").read_bytes())
    write(tmp_path / f"plain{Path(ending).stem or ending}", [("a", "x")])
    expected = {".csv": "text,label\r\na,x\r\n", ".tsv": "text\tlabel\r\na\tx\r\n"}
    format_ = "." + ending.split(".")[1]
    assert content.decode() == expected.get(format_, '{"text": "a", "label": "x"}\n')


def test_a_compressed_parquet_name_is_honoured_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet.gz"
    try:
        write(file, [("a", "x")])
    except DataError:
        assert list(tmp_path.iterdir()) == []
    else:
        table = pq.read_table(io.BytesIO(gzip.decompress(file.read_bytes())))
        assert table.to_pylist() == [{"text": "a", "label": "x"}]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("rows_before", [0, 1])
def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path, ending: str, rows_before: int) -> None:
    file = tmp_path / f"rows{ending}"

    def interrupted() -> None:
        with open_table(str(file)) as append:
            for _ in range(rows_before):
                append(frame_of([("a", "x")]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_old_file_is_kept_when_writing_fails(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows{ending}"
    write(file, [("before", "x")])

    def interrupted() -> None:
        with open_table(str(file)) as append:
            append(frame_of([("after", "y")]))
            assert read_back(file) == [("before", "x")]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_back(file) == [("before", "x")]
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    write(file, [("after", "y")])
    assert read_back(file) == [("after", "y")]


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.xls", "rows.zip", "rows.json.rar"])
def test_an_unknown_extension_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"\.csv \.tsv \.jsonl \.json \.parquet"):
        write(tmp_path / name, [("a", "x")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".csv", ".jsonl.gz", ".csv.zst", ".parquet"])
def test_an_unwritable_path_is_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / f"folder{ending}").mkdir()
    for place in (f"missing/rows{ending}", f"file/rows{ending}", f"folder{ending}"):
        with pytest.raises(DataError) as caught:
            write(tmp_path / place, [("a", "x")])
        assert str(caught.value).startswith(f"{tmp_path / place}: cannot be written: ")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", f"folder{ending}"]


@pytest.mark.parametrize("ending", [".csv", ".tsv.gz", ".jsonl", ".parquet"])
def test_an_unpaired_surrogate_is_refused_or_replaced(tmp_path: Path, ending: str) -> None:
    """JSON can escape one; UTF-8 cannot encode it."""
    file = tmp_path / f"rows{ending}"
    try:
        write(file, [("a\ud83d", "x")])
    except DataError as error:
        message = str(error)
        assert list(tmp_path.iterdir()) == []
    else:
        message = f"{file}: "
        assert read_back(file) in ([("a\ufffd", "x")], [("a?", "x")], [("a\ud83d", "x")])
    assert message.startswith(f"{file}: ")


def test_parquet_refuses_a_value_of_another_type(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"

    def mixed() -> None:
        with open_table(str(file)) as append:
            append(pd.DataFrame({"text": ["a"], "n": [1]}))
            append(pd.DataFrame({"text": ["b"], "n": ["many"]}))

    with pytest.raises(DataError, match=r"write \.jsonl instead"):
        mixed()
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_text_are_written_as_json(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"n": [1, 2], "flag": [True, None], "map": [{"neg": 0.5}, {}], "list": [[1, "a"], []]}, dtype=object
    )
    csv_file, json_file = tmp_path / "rows.csv", tmp_path / "rows.jsonl"
    for file in (csv_file, json_file):
        with open_table(str(file)) as append:
            append(frame)
    with open_source(str(csv_file)) as source:
        records = next(read_chunks(source)).frame.to_dict("records")
    assert records == [
        {"n": "1", "flag": "true", "map": '{"neg": 0.5}', "list": '[1, "a"]'},
        {"n": "2", "flag": "", "map": "{}", "list": "[]"},
    ]
    lines = [json.loads(line) for line in json_file.read_text(encoding="utf-8").splitlines()]
    assert lines == frame.to_dict("records")


def test_a_json_line_is_one_line_of_readable_text() -> None:
    line = to_json_line({"text": "é\n\r😀", 7: pd.Timestamp("2020-01-02")})
    assert line == '{"text": "é\\n\\r😀", "7": "2020-01-02 00:00:00"}'


@pytest.mark.parametrize("ending", [".csv", ".tsv.gz", ".parquet", ".feather", ".xlsx"])
def test_later_rows_must_have_the_columns_of_the_first(tmp_path: Path, ending: str) -> None:
    """Regression: values were written below other columns."""
    file = tmp_path / f"rows{ending}"
    with open_table(str(file)) as append:
        append(pd.DataFrame({"text": ["a"], "label": ["x"]}))
        append(pd.DataFrame({"label": ["y"], "text": ["b"]}))
        append(pd.DataFrame({"text": ["c"]}))
    assert read_back(file) == [("a", "x"), ("b", "y"), ("c", "")]

    def more() -> None:
        with open_table(str(file)) as append:
            append(pd.DataFrame({"text": ["a"]}))
            append(pd.DataFrame({"text": ["a"], "stars": ["5"]}))

    with pytest.raises(DataError, match=r"have more columns \('stars'\); write \.jsonl instead"):
        more()
    assert read_back(file) == [("a", "x"), ("b", "y"), ("c", "")]
