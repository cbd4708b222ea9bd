"""Further formats: workbooks, archives, JSON arrays, Feather, plain lines."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import logging
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pytest
from conftest import make_rows
from pyarrow import feather

from lstm_sentiment import predict
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import DataConfig, TextConfig
from lstm_sentiment.data.corpus import Corpus, load_texts, prepare
from lstm_sentiment.data.formats import json_arrays, readers, workbooks
from lstm_sentiment.data.formats.readers import read_chunks
from lstm_sentiment.data.formats.writers import open_table
from lstm_sentiment.data.sources import sources
from lstm_sentiment.data.sources import zip_files as archives
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import ConfigError, DataError, MissingExtraError
from lstm_sentiment.prediction import score_file as answers
from lstm_sentiment.prediction.classifier import load
from lstm_sentiment.text.tokenizers import Tokenizer

Records = list[dict[str, Any]]
SHEET = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def read(file: Path, *, labelled: bool = True, **how: Any) -> tuple[Records, list[int]]:
    """Return the records of a file and their lines."""
    with open_source(str(file), **how) as source:
        chunks = list(read_chunks(source, labelled=labelled))
    records = [record for chunk in chunks for record in chunk.frame.to_dict("records")]
    return records, [line for chunk in chunks for line in chunk.lines.tolist()]


def refusal(file: Path, content: bytes | str | None = None, **how: Any) -> str:
    """Return the error message of a file, without its folder."""
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        read(file, **how)
    message = str(caught.value)
    assert message.replace("\n", "").isprintable()
    return message.replace(f"{file.parent}/", "")


def zipped(file: Path, **members: str | bytes) -> Path:
    """Write an archive; __ in names of members becomes a dot."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return file


def trained(file: Path, tmp_path: Path, **data: Any) -> Corpus:
    """Return the corpus that training reads from a file."""
    config = DataConfig(train=str(file), test=None, **data)
    return prepare(config, TextConfig(min_frequency=1), seed=0, cache=tmp_path / "cache")


# --- workbooks ---


def workbook(file: Path, *rows: list[Any], **sheets: list[list[Any]]) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "reviews"
    for row in rows:
        sheet.append(row)
    for name, others in sheets.items():
        more = book.create_sheet(name)
        for row in others:
            more.append(row)
    book.save(file)
    return file


def test_a_sheet_is_read_with_types_and_row_numbers(tmp_path: Path) -> None:
    day = datetime.datetime(2020, 1, 2, 3, 4)
    file = workbook(
        tmp_path / "a.xlsx",
        ["text", "label", None, "when"],
        ["so good", 1, "x", day],
        [None, None, None, None],
        [" 007 ", 0.5, True, None],
        ["=1+1 is two\nlines", "NA"],
    )
    records, lines = read(file)
    assert records[0] == {"text": "so good", "label": 1, "C": "x", "when": day}
    assert records[1] == {"text": " 007 ", "label": 0.5, "C": True, "when": None}
    assert lines == [2, 4, 5]


def test_formulas_have_cached_values_and_escapes_are_decoded(tmp_path: Path) -> None:
    """Excel writes a carriage return as _x000D_, and keeps the last value of each formula."""
    book = workbook(tmp_path / "base.xlsx", ["text", "label"])
    row = '<row r="2"><c r="A2" t="inlineStr"><is><t>so_x000D_good</t></is></c>'
    row += '<c r="B2"><f>1+1</f><v>2</v></c></row></sheetData>'
    file = edited(book, tmp_path / "a.xlsx", lambda xml: xml.replace("</sheetData>", row))
    assert read(file)[0] == [{"text": "so\rgood", "label": 2}]


def edited(
    book: Path, file: Path, edit: Callable[[str], str], part: str = "xl/worksheets/sheet1.xml"
) -> Path:
    """Rewrite a workbook with one part changed."""
    with zipfile.ZipFile(book) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, edit(content.decode()) if name == part else content)
    return file


def test_the_first_visible_sheet_is_read_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = workbook(tmp_path / "a.xlsx", ["x"], [1], More=[["text", "label"], ["so", "a"]], Rest=[["y"], [2]])
    book = openpyxl.load_workbook(file)
    book["reviews"].sheet_state = "hidden"
    book.save(file)
    assert read(file)[0] == [{"text": "so", "label": "a"}]
    reported = "a.xlsx: sheet 'More' of 'More', 'Rest' is read; set data.sheet (--sheet) for another"
    assert reported in caplog.text
    caplog.clear()
    assert read(file, sheet="reviews")[0] == [{"x": 1}]
    assert caplog.text == ""
    known = "the workbook has 'reviews', 'More', 'Rest'. Did you mean 'More'?"
    assert refusal(file, sheet="Mor") == f"a.xlsx: no sheet 'Mor' (data.sheet, --sheet); {known}"


def test_a_sheet_may_lack_a_header(tmp_path: Path) -> None:
    file = workbook(tmp_path / "a.xlsx", ["so good", 1], ["so bad", 0])
    expected = [{"1": "so good", "2": 1}, {"1": "so bad", "2": 0}]
    assert read(file, header=False) == (expected, [1, 2])
    rows = [["so good", "pos"], *([f"text {n}", ("pos", "neg")[n % 2]] for n in range(40))]
    with pytest.raises(DataError, match="the first line looks like a row: 'pos' is a label in other rows"):
        trained(workbook(tmp_path / "b.xlsx", *rows), tmp_path, text_column="so good", label_column="pos")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["text", "text"], ["a", "b"]], "a.xlsx:1: the header names column 'text' twice; rename one"),
        ([["text"], ["a", None, "over"]], "a.xlsx:2: 'over' in column C is beyond the header; name that "
         "column, or remove it"),
        ([["text", "label"]], "a.xlsx: has no rows; add one for each text"),
        ([], "a.xlsx: has no rows; add one for each text"),
    ],
)  # fmt: skip
def test_a_sheet_that_is_not_a_table_is_refused(tmp_path: Path, rows: list[list[Any]], message: str) -> None:
    assert refusal(workbook(tmp_path / "a.xlsx", *rows)) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\n", "is not a readable Excel workbook: BadZipFile File is not a zip file; save it "
         "again"),
        (b"\xd0\xcf\x11\xe0" + bytes(40), "is an old Excel workbook, or one with a password; save "
         "it as .xlsx "
         "without one"),
        (b"", "is not a readable Excel workbook: BadZipFile File is not a zip file; save it again"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_workbook_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    assert refusal(tmp_path / "a.xlsx", content) == f"a.xlsx: {message}"


HOSTILE: dict[str, tuple[str, str]] = {  # content after the header -> message
    "row number": ('<row r="1048577"/>', "holds more than 1,048,576 rows or texts"),
    "row of no number": ('<row r="-1"/>', "holds more than 1,048,576 rows or texts"),
    "wide row": ("<row>" + "<c/>" * 100_001 + "</row>", "holds more than 100,000 elements in one row"),
    "long row": (f"<row><c><v>{'1' * (5 << 20)}</v></c></row>", "holds more than 4,194,304 bytes in one row"),
    "no rows": (f"<a>{'1' * (9 << 20)}</a>", "holds more than 8,388,608 bytes outside of its rows"),
    "many elements": ("<a/>" * 100_001, "holds more than 100,000 elements outside of its rows"),
    "large": (f"<row><c><v>{'1' * (70 << 20)}</v></c></row>", r"unpacks to 73,[\d,]+ bytes"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_workbook_that_would_take_much_memory_is_refused(tmp_path: Path, kind: str) -> None:
    rows, message = HOSTILE[kind]
    book = workbook(tmp_path / "base.xlsx", ["text", "label"])
    file = edited(book, tmp_path / "a.xlsx", lambda xml: xml.replace("</sheetData>", rows + "</sheetData>"))
    said = rf"a\.xlsx: its part 'xl/worksheets/sheet1\.xml' {message}; save the sheet as \.csv"
    assert re.fullmatch(said, refusal(file))
    assert file.stat().st_size < 1_000_000


def test_xml_that_defines_entities_is_refused(tmp_path: Path) -> None:
    book = workbook(tmp_path / "base.xlsx", ["text", "label"], ["a", "b"])

    def define(xml: str) -> str:
        return '<!DOCTYPE a [<!ENTITY x "yyy">]>' + xml[xml.index("<worksheet") :]

    said = refusal(edited(book, tmp_path / "a.xlsx", define))
    assert "its part 'xl/worksheets/sheet1.xml' defines XML entities, which workbooks do not use" in said


def test_parts_read_as_a_whole_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = workbook(tmp_path / "base.xlsx", ["text", "label"], ["a", "b"])

    def grow(xml: str) -> str:
        return xml.replace("</styleSheet>", f"<a{' ' * 28}/>" * 400_000 + "</styleSheet>")

    file = edited(book, tmp_path / "a.xlsx", grow, part="xl/styles.xml")
    assert re.search(r"its part 'xl/styles\.xml' unpacks to 12,[\d,]+ bytes", refusal(file))
    monkeypatch.setattr(workbooks, "MOST_TREE_BYTES", 1 << 30)
    assert "holds more than 100,000 elements outside of its rows" in refusal(file)
    monkeypatch.setattr(workbooks, "MOST_ELEMENTS", 1 << 30)  # the control arm: nothing else is in the way
    assert read(file)[0] == [{"text": "a", "label": "b"}]


def test_without_openpyxl_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workbook(tmp_path / "a.xlsx", ["text", "label"], ["a", "b"])
    for name in [name for name in sys.modules if name.split(".")[0] == "openpyxl"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(MissingExtraError, match=r"needs openpyxl: pip install 'lstm_sentiment\[excel\]'"):
        read(file)
    with pytest.raises(MissingExtraError, match=r"\[excel\]"), open_table(str(tmp_path / "out.xlsx")):
        pass
    assert not (tmp_path / "out.xlsx").exists()


# --- zip archives ---


def test_an_archive_of_one_table_is_read_for_any_name(tmp_path: Path) -> None:
    table = "text,label\nso good,1\n"
    expected = [{"text": "so good", "label": "1"}], [2]
    assert read(zipped(tmp_path / "a.zip", reviews__csv=table)) == expected
    assert read(zipped(tmp_path / "b.csv.zip", anything=table)) == expected
    assert read(zipped(tmp_path / "c.csv.zip", reviews__tsv=table.replace(",", "\t"))) == expected
    assert (
        read(zipped(tmp_path / "d.zip", reviews__json='[{"text": "so good", "label": "1"}]'))[0]
        == expected[0]
    )
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.mkdir("folder")
        archive.writestr("folder/reviews.csv", table)
        archive.writestr("__MACOSX/folder/._reviews.csv", b"\0")
        archive.writestr("folder/.DS_Store", b"\0")
    assert read(tmp_path / "e.zip") == expected


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a__csv": "", "b__csv": ""}, "holds 2 files ('a.csv', 'b.csv'); put one table into it, or "
         "unpack it and "
         "name one of them"),
        ({}, "is empty; put one table into it, or unpack it and name one of them"),
        ({"a__parquet": ""}, "its file 'a.parquet' is Parquet, which is already compressed; unpack it"),
        ({"a__xlsx": ""}, "its file 'a.xlsx' is an Excel workbook, which is already compressed; unpack it"),
        ({"a__csv__gz": ""}, "its file 'a.csv.gz' is itself compressed; unpack it"),
        ({"a__doc": ""}, "its file 'a.doc' has a name that ends in none of .csv .tsv .jsonl .json "
         ".parquet .feather "
         ".xlsx .txt .ptb .tree; rename it and pack it again"),
        ({"xl/workbook__xml": "", "a": ""}, "is an Excel workbook; rename it to end in .xlsx"),
    ],
)  # fmt: skip
def test_an_archive_of_something_else_is_refused_by_name(
    tmp_path: Path, members: dict[str, str], message: str
) -> None:
    assert refusal(zipped(tmp_path / "a.zip", **members)) == f"a.zip: {message}"


def test_a_damaged_or_locked_archive_is_refused(tmp_path: Path) -> None:
    rows = "".join(f"a text {number},{number % 2}\n" for number in range(2000))
    whole = zipped(tmp_path / "a.zip", a__csv="text,label\n" + rows).read_bytes()
    message = refusal(tmp_path / "cut.zip", whole[:-30])
    assert message == "cut.zip: is not a readable zip archive: File is not a zip file; copy or write it again"
    for place in range(60, 3000, 300):
        flipped = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        assert re.match(r"flipped\.zip(:\d+)?: ", refusal(tmp_path / "flipped.zip", flipped)), place
    place = whole.index(b"PK\x01\x02") + 8
    locked = whole[:place] + b"\x01" + whole[place + 1 :]
    assert refusal(tmp_path / "b.zip", locked).endswith("'a.csv' is encrypted; unpack it with its password")
    method = whole[: place + 2] + b"\x09" + whole[place + 3 :]
    assert "compression method" in refusal(tmp_path / "c.zip", method)


def test_reading_an_archive_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading an endless line stops at the maximal length."""
    taken = 0
    real = zipfile.ZipExtFile.read1

    def counted(file: zipfile.ZipExtFile, size: int) -> bytes:
        nonlocal taken
        found = real(file, size)
        taken += len(found)
        return found

    monkeypatch.setattr(sources, "MAX_LINE", 1 << 20)
    monkeypatch.setattr(zipfile.ZipExtFile, "read1", counted)
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.jsonl", "w") as out:
        for _ in range(100):
            out.write(b" " * (1 << 20))
    assert "longer than 1,048,576 characters" in refusal(file)
    assert taken < 4 << 20


def test_an_archive_of_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_DIRECTORY_BYTES", 1 << 16)
    file = zipped(tmp_path / "a.zip", **{f"member{number}": "" for number in range(3000)})
    assert refusal(file) == "a.zip: contains too many files; unpack it"
    assert refusal(file.rename(tmp_path / "a.xlsx")) == "a.xlsx: contains too many files; unpack it"


# --- JSON arrays ---

ROWS = [{"text": "so good", "label": 1}, {"text": "so bad", "label": 0}]
TREE = {"text": {"0": "so good", "1": "so bad"}, "label": {"0": 1, "1": 0}}


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (json.dumps(ROWS), [1, 2]),
        (json.dumps(ROWS, indent=1), [2, 6]),
        ("[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n", [2, 3]),
        ("\n".join(map(json.dumps, ROWS)), [1, 2]),
        ("\n\n".join(json.dumps(row, indent=2) for row in ROWS), [1, 6]),
        ("\ufeff \n" + json.dumps(ROWS), [1, 2]),
    ],
)
def test_objects_are_read_as_an_array_or_concatenated(tmp_path: Path, content: str, lines: list[int]) -> None:
    """Line numbers are those where objects start; for an array on one line, their index."""
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    assert read(tmp_path / "a.json") == (ROWS, lines)


def test_an_array_is_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"text": f"text {number} " + '\\"}],é😀' * (number % 50), "label": -1.5e10} for number in range(999)
    ]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    whole = read(file)
    assert whole == (rows, list(range(1, 1000)))
    monkeypatch.setattr(readers, "CHUNK_ROWS", 7)
    for piece in (1, 2, 3, 1000):
        monkeypatch.setattr(json_arrays, "PIECE", piece)
        assert read(file) == whole, piece


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"} {"text": "b"}]', "1: at column 16: '{\"text\": \"b\"}]' found where , or "
         "] should be"),
        ('[{"text": "a"},\n]', "2: at column 1: an object should follow the comma; remove the comma"),
        ('[{"text": "a"},\n {"text": b}]', "2: at column 11: not JSON: Expecting value"),
        ('[{"text": "a"},\n {"text": "b}]', "2: at column 11: not JSON: Unterminated string starting at"),
        ('[{"text": "a"}', "1: at column 15: the file ends within the array; copy it again"),
        ('[{"text": "a"}] x', "1: at column 17: 'x' follows the array; remove it"),
        ('[{"text": "a", "text": "b"}]', "1: at column 2: duplicate key 'text'; remove one"),
        ("[1, 2]", "1: at column 2: '1, 2]' found where an object {...} should begin; use an "
         "array of objects"),
        ('"text"', "1: at column 1: '\"text\"' found where an object {...} should begin"),
        ("]", "1: at column 1: ']' found where an object {...} should begin"),
        ("[" * 100_000, "1: at column 2: '[[[[[[[[[[[[[[[[[[[[' found where an object {...} should begin"),
        ('[{"a": ' + "[" * 100_000, "1: at column 2: nested too deeply; flatten it"),
        ('[{"a": ' + "9" * 5000 + "}]", "1: at column 2: a number with too many digits; write it in quotes"),
        (json.dumps(TREE), "1: is one object with the columns or rows 'text', 'label'; use an "
         "array of objects "
         "[{...}, ...]: pandas writes it with orient='records'"),
        (json.dumps({"version": 1, "data": ROWS}), "1: is one object, whose 'data' is the array of rows; "
         "save that alone: jq '.data' OLD > NEW.json"),
        ("[]", " has no rows; add one for each text"),
        ("", " has no rows; add one for each text"),
    ],
)  # fmt: skip
def test_json_of_another_shape_is_refused_with_its_place(tmp_path: Path, content: str, message: str) -> None:
    assert refusal(tmp_path / "a.json", content).startswith(f"a.json:{message}")


def test_pandas_columns_are_distinguished_from_a_record_of_lists(tmp_path: Path) -> None:
    row = {"text": "so", "label": 1, "spans": [{"from": 0}]}
    (tmp_path / "a.json").write_text(json.dumps(row))
    assert read(tmp_path / "a.json")[0] == [row]
    assert "orient='records'" in refusal(tmp_path / "b.json", pd.DataFrame(ROWS).to_json(orient="split"))
    (tmp_path / "c.json").write_text(pd.DataFrame(ROWS).to_json(orient="records"))
    assert read(tmp_path / "c.json")[0] == ROWS


def test_an_object_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_arrays, "MAX_LINE", 1 << 18)
    content = json.dumps({"rows": [{"text": "so good"}] * 100_000})
    said = refusal(tmp_path / "a.json", content)
    assert said.endswith("if its 'rows' is the array of rows, save that alone: jq '.rows' OLD > NEW.json")
    assert "an object of more than 262,144 characters begins here" in said


def task(text: str, *choices: list[str], **facts: Any) -> dict[str, Any]:
    """Return a task in Label Studio's export format; each list has the choices of one annotator."""
    annotations = [
        {"id": n, "was_cancelled": False, "ground_truth": False, "result": [
            {"from_name": "sentiment", "to_name": "text", "type": "choices", "value": {"choices": chosen}}
        ]} for n, chosen in enumerate(choices)
    ]  # fmt: skip
    return {
        "id": 1,
        "data": {"text": text, "source": "shop"},
        "annotations": annotations,
        "predictions": [],
        **facts,
    }


def test_tasks_of_label_studio_are_rows(tmp_path: Path) -> None:
    skipped = task("skipped", ["Negative"], ["Positive"])
    skipped["annotations"][0]["was_cancelled"] = True
    checked = task("checked", ["Negative"], ["Positive"])
    checked["annotations"][1]["ground_truth"] = True
    tasks = [
        task("good", ["Positive"]),
        task("agreed", ["Negative"], ["Negative"]),
        skipped,
        checked,
        task("new"),
    ]
    (tmp_path / "a.json").write_text(json.dumps(tasks, indent=1))
    records, _ = read(tmp_path / "a.json")
    assert [(record["text"], record["sentiment"]) for record in records] == [
        ("good", "Positive"),
        ("agreed", "Negative"),
        ("skipped", "Positive"),
        ("checked", "Positive"),
        ("new", None),
    ]
    assert all(record["source"] == "shop" for record in records)


def test_tasks_are_trained_on_and_disagreement_is_named(tmp_path: Path) -> None:
    tasks = [task(f"text {number}", [("Positive", "Negative")[number % 2]]) for number in range(40)]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    assert trained(tmp_path / "a.json", tmp_path).labels == ["Negative", "Positive"]
    tasks[6] = task("unclear", ["Positive"], ["Negative"])
    tasks[8] = task("both", ["Positive", "Negative"])
    (tmp_path / "b.json").write_text(json.dumps(tasks))
    with pytest.raises(DataError) as caught:
        trained(tmp_path / "b.json", tmp_path)
    assert [line.rpartition("b.json:")[2] for line in str(caught.value).splitlines()] == [
        f"{row}: column 'sentiment': has several labels: 'Positive', 'Negative'; remove all but one, the "
        "classifier predicts one "
        "per text" for row in (7, 9)
    ]  # fmt: skip


def test_unlabelled_tasks_behind_labelled_ones_can_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a whole chunk of them no task has the control."""
    monkeypatch.setattr(readers, "CHUNK_ROWS", 30)
    tasks = [task(f"text {number}", [("Positive", "Negative")[number % 2]]) for number in range(40)]
    tasks += [task(f"more {number}") for number in range(60)]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    with pytest.raises(DataError, match=r"a\.json:41: has no label; .* map \"\" to null"):
        trained(tmp_path / "a.json", tmp_path)
    labels = {"Negative": "bad", "Positive": "good", "": None}
    assert len(trained(tmp_path / "a.json", tmp_path, labels=labels).train) == 36


def test_lists_of_one_label_are_labels(tmp_path: Path) -> None:
    """The format of Doccano."""
    rows = [{"text": f"text {n}", "label": [("good", "bad")[n % 2]]} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert trained(tmp_path / "a.jsonl", tmp_path).labels == ["bad", "good"]


# --- Feather ---


@pytest.mark.parametrize("compression", ["zstd", "lz4", "uncompressed"])
def test_feather_is_read_with_its_types(tmp_path: Path, compression: Any) -> None:
    labels = pa.array(["good", None, "good"]).dictionary_encode()
    table = pa.table({"text": ["so", "", None], "label": labels, "stars": pa.array([5, None, 1], pa.int8())})
    feather.write_feather(table, tmp_path / "a.feather", compression=compression)
    with pa.ipc.new_stream(
        tmp_path / "b.arrow", table.schema
    ) as writer:  # as Hugging Face's datasets keep them
        writer.write_table(table, max_chunksize=2)
    for name in ("a.feather", "b.arrow"):
        records, numbers = read(tmp_path / name)
        assert records == table.to_pylist()
        assert numbers == [1, 2, 3]


def test_many_rows_of_feather_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "CHUNK_ROWS", 400)
    monkeypatch.setattr(readers, "CHUNK_BYTES", 1 << 18)
    texts = [f"{number} " * (number % 90) for number in range(3000)]
    feather.write_feather(pa.table({"text": texts}), tmp_path / "a.feather", chunksize=1000)
    with open_source(str(tmp_path / "a.feather")) as source:
        sizes = [sum(map(len, chunk.frame["text"])) for chunk in read_chunks(source)]
    assert 1000 < max(sizes) < 1 << 17
    records, numbers = read(tmp_path / "a.feather")
    assert ([record["text"] for record in records], numbers) == (texts, list(range(1, 3001)))


def test_damaged_or_foreign_feather_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, pa.schema([("text", pa.string())])) as writer:
        writer.write_batch(pa.record_batch({"text": ["so"]}))
    stream = out.getvalue()
    feather.write_feather(pa.table({"text": ["so good"] * 100}), tmp_path / "a.feather")
    whole = (tmp_path / "a.feather").read_bytes()
    begins = "c.feather: is not a readable Feather file: "
    cut, other = (
        "it is truncated; copy it again",
        "it does not begin with ARROW1; rename it to its real format",
    )
    assert refusal(tmp_path / "c.feather", whole[:-9]) == begins + cut
    assert refusal(tmp_path / "c.feather", stream[:-8]) == begins + cut
    assert refusal(tmp_path / "c.feather", b"text,label\n") == begins + other
    assert refusal(tmp_path / "c.feather", b"") == begins + other
    assert (
        refusal(tmp_path / "c.feather", b"FEA1" + bytes(40)) == begins + "it is of version 1; write it again"
    )
    for place in range(8, len(whole) - 8, 7):
        flipped = whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :]
        (tmp_path / "c.feather").write_bytes(flipped)
        with contextlib.suppress(DataError):  # or the flipped bit is none of the text
            read(tmp_path / "c.feather")


def run_ends() -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 2], pa.int32()), pa.array(["good"]))


BOMBS: dict[str, Callable[[], pa.Array]] = {
    "large": lambda: pa.array(["\0" * (1 << 20)] * 300, pa.large_string()),
    "dictionary": lambda: pa.array(["\0" * (300 << 20)]).dictionary_encode(),
    "run ends": run_ends,
    "nothing": lambda: pa.nulls(10**9),
}


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("form", ["file", "stream"])
def test_feather_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, kind: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = pa.record_batch({"text": BOMBS[kind]()})
    make = pa.ipc.new_file if form == "file" else pa.ipc.new_stream
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with make(tmp_path / "a.feather", batch.schema, options=options) as writer:
        writer.write_batch(batch)
    assert (tmp_path / "a.feather").stat().st_size < 200_000
    monkeypatch.setattr(pa.ipc, "open_stream", lambda *_, **__: pytest.fail("it was unpacked"))
    problem = (
        r"a batch decompresses to 31\d,\d{3},\d{3} bytes"
        if kind in ("large", "dictionary")
        else r"a batch has "
    )
    assert re.match(rf"a\.feather: {problem}", refusal(tmp_path / "a.feather"))


# --- files of lines ---


def test_lines_of_fasttext_are_rows(tmp_path: Path) -> None:
    content = "\n__label__good so  good \n\n__label__2\tbad __label__\nso plain\n"
    (tmp_path / "a.txt").write_text(content)
    records, lines = read(tmp_path / "a.txt")
    assert lines == [2, 4, 5]
    assert records[0] == {"text": "so  good", "label": "good"}
    assert records[1]["label"] == ["2", ""]
    assert records[2] == {"text": "so plain", "label": ""}


def test_fasttext_is_trained_on_and_several_labels_are_refused_with_their_lines(tmp_path: Path) -> None:
    lines = [f"__label__{('1', '2')[number % 2]} text {number}" for number in range(40)]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    corpus = trained(tmp_path / "train.txt", tmp_path, labels={1: "bad", 2: "good"})
    assert corpus.labels == ["bad", "good"]
    assert "__label__1" not in corpus.vocabulary.tokens
    lines[4] += " __label__2"
    lines[7] = "__label__1 __label__2 both"
    (tmp_path / "train.txt").write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        trained(tmp_path / "train.txt", tmp_path)
    assert "train.txt:5: column 'label': has several labels: '1', '2'; remove all but one" in str(
        caught.value
    )
    assert "train.txt:8: column 'label'" in str(caught.value)
    with pytest.raises(ConfigError, match=r"data\.phrases: .*train\.txt has none: only trees do"):
        trained(tmp_path / "train.txt", tmp_path, phrases=0.5)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["so good, really\t1", "a bore\t0", "dull\t0"], "its lines look like fields with tabs "
         "between, such as 'so "
         "good, really\\t1'; rename it to end in .tsv and, if the first line is a row, set data.header false "
         "(--no-header), text_column 1 and label_column 2"),
        (["0,7,so good and long", "1,8,\"a bore, really\""], "its lines look like fields with "
         "commas between, such as "
         "'0,7,so good and long'; rename it to end in .csv and, if the first line is a row, set "
         "data.header false "
         "(--no-header), text_column 3 and label_column 1"),
        (["Profit rose @ 3 % .@positive", "It fell .@negative"], "its lines end in @ and a label, "
         "such as 'Profit rose "
         "@ 3 % .@positive'; write a tab for the last @ of each (sed 's/@\\([^@]*\\)$/\\t\\1/' OLD "
         "> NEW.tsv) and set "
         "data.header false (--no-header), data.quoting none (--quoting none), text_column 1 and "
         "label_column 2"),
        (['{"text": "so"}', '{"text": "no"}'], "its lines are JSON objects; rename it to end in .jsonl"),
        (["so good, and long", "dull"], "'so good, and long' is a text without a label; begin each "
         "line with one, such "
         "as __label__positive, write trees such as (4 (2 so) (4 good)), or use a table, such as a "
         ".csv file"),
    ],
)  # fmt: skip
def test_lines_of_another_format_are_named_in_the_error(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    expected = f"a.txt:2: {message}"
    assert refusal(tmp_path / "a.txt", "\n" + "\n".join(lines) + "\n").replace("\\\\", "\\") == expected


def test_the_suggested_fix_for_texts_with_an_at_sign_works(tmp_path: Path) -> None:
    lines = [f'He said "so {n} @ 3 % .@{("good", "bad")[n % 2]}' for n in range(40)]
    said = refusal(tmp_path / "a.txt", "\n".join(lines) + "\n")
    command = re.search(r"\((sed .*?) OLD > NEW\.tsv\)", said)
    assert command is not None
    made = subprocess.run(
        f"{command[1]} a.txt > b.tsv", shell=True, cwd=tmp_path, capture_output=True, check=True, text=True
    )
    assert made.stderr == ""
    corpus = trained(
        tmp_path / "b.tsv", tmp_path, header=False, quoting="none", text_column="1", label_column="2"
    )
    assert corpus.labels == ["bad", "good"]
    assert len(corpus.train) == 36


def test_plain_lines_are_texts_if_no_labels_are_needed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text('(not a tree) so good\n\n"quoted"\tas is\r\nlast', newline="")
    expected = [(1, "(not a tree) so good"), (2, ""), (3, '"quoted"\tas is'), (4, "last")]
    records, lines = read(tmp_path / "a.txt", labelled=False)
    assert [(record["line"], record["text"]) for record in records] == expected
    assert lines == [1, 2, 3, 4]
    tokenizer = Tokenizer("words", lowercase=True)
    store = load_texts(str(tmp_path / "a.txt"), DataConfig(), tokenizer, tmp_path / "cache")
    assert len(store.hashes) == 4
    (tmp_path / "b.txt").write_text("(4 (2 so) (4 good))\n(1 bad)\n")
    assert [record["text"] for record in read(tmp_path / "b.txt", labelled=False)[0]] == ["so good", "bad"]


# --- commands ---


def test_predictions_of_plain_lines_keep_their_numbers(
    tmp_path: Path, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new.txt").write_text("a great day\n\nan awful day\n")
    predict.main([str(trained_run), "--file", str(tmp_path / "new.txt")])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(record["line"], record["text"]) for record in found] == [
        (1, "a great day"), (2, ""), (3, "an awful day")
    ]  # fmt: skip
    assert [found[place]["predicted_label"] for place in (0, 2)] == ["positive", "negative"]


@pytest.mark.parametrize("ending", [".xlsx", ".json", ".feather", ".csv.zip", ".jsonl.zip", ".ndjson", ".pq"])
def test_rows_are_labelled_and_scored_in_every_format(tmp_path: Path, trained_run: Path, ending: str) -> None:
    rows = make_rows(30, seed=5)
    given = tmp_path / f"given{ending}"
    with open_table(str(given)) as write:
        write(pd.DataFrame(rows, columns=["text", "label"], dtype=object))
    predict.main([str(trained_run), "--file", str(given), "--out", str(tmp_path / f"out{ending}")])
    records, _ = read(tmp_path / f"out{ending}")
    assert [(record["text"], record["label"]) for record in records] == rows
    classifier = load(trained_run)
    expected = classifier.predict_proba([text for text, _ in rows])
    found = [[float(r[f"probability_{label}"]) for label in classifier.labels] for r in records]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    truth_R, _ = answers.predict_file(classifier, str(given))
    assert [classifier.labels[truth] for truth in truth_R] == [label for _, label in rows]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"given{ending}", f"out{ending}"]


def test_text_of_a_workbook_is_never_a_formula(tmp_path: Path) -> None:
    values = ["=1+1", "#N/A", "-5", "_x000D_", "a\r\nb", "\x01\x1b", " spaced ", "007", "😀"]
    others = [1, 2.5, True, None, datetime.date(2020, 1, 2), 2**60, float("nan"), {"a": 1}, "x"]
    with open_table(str(tmp_path / "a.xlsx")) as write:
        write(pd.DataFrame({"text": values, "other": pd.Series(others, dtype=object)}))
    records, _ = read(tmp_path / "a.xlsx")
    assert [record["text"] for record in records] == values
    sheet = openpyxl.load_workbook(tmp_path / "a.xlsx").active
    assert {cell.data_type for cell in sheet["A"]} == {"s"}
    found = [record["other"] for record in records]
    assert found[:4] == [1, 2.5, True, None]
    assert found[4:] == [datetime.datetime(2020, 1, 2), str(2**60), None, '{"a": 1}', "x"]


def test_values_a_workbook_cannot_store_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(
            DataError, match=r"out\.xlsx: a text has 32,768 characters, and a cell of Excel 32,767"
        ),
        open_table(str(tmp_path / "out.xlsx")) as write,
    ):
        write(pd.DataFrame({"text": ["x" * 32_768]}))
    assert list(tmp_path.iterdir()) == []


def test_the_sheet_can_be_set_by_setting_and_option(tmp_path: Path, trained_run: Path) -> None:
    rows = [["text", "label"], *map(list, make_rows(30))]
    file = workbook(tmp_path / "a.xlsx", ["x"], [1], rows=rows)
    assert len(trained(file, tmp_path, sheet="rows").train) == 27
    predict.main([str(trained_run), "--file", str(file), "--sheet", "rows", "--out", str(tmp_path / "b.csv")])
    assert len(read(tmp_path / "b.csv")[0]) == 30
    assert Config().data.sheet is None


def test_a_note_of_the_sheet_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = workbook(tmp_path / "a.xlsx", ["text"], ["so"], more=[["text"]])
    with caplog.at_level(logging.WARNING):
        read(file)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_unknown_extensions_list_supported_formats(tmp_path: Path) -> None:
    for ending, words in (
        (".xls", "save it as .xlsx"),
        (".pkl", "a pickle"),
        (".tar.gz", "an archive; unpack it"),
    ):
        said = refusal(tmp_path / f"a{ending}", b"x")
        assert words in said
        assert ".csv .tsv .jsonl .json .parquet .feather .xlsx .txt .ptb .tree (also with .gz" in said
