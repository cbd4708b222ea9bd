"""CSV and TSV dialects: line ends, quotes, headers. Nothing is lost silently."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY, make_rows

from lstm_sentiment import evaluate, load, predict
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.data.formats.dialects import BARE, KeptReturns, SwallowedRows
from lstm_sentiment.data.formats.readers import read_chunks
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError
from lstm_sentiment.experiment.train import run

ROWS = [(f"good {i}", "pos") if i % 2 else (f"bad {i}", "neg") for i in range(400)]


def records(file: Path, **how: Any) -> list[tuple[str, ...]]:
    with open_source(str(file), **how) as source:
        frames = [chunk.frame for chunk in read_chunks(source)]
    return [tuple(row) for frame in frames for row in frame.itertuples(index=False)]


def lines_of(file: Path, **how: Any) -> list[int]:
    with open_source(str(file), **how) as source:
        return [line for chunk in read_chunks(source) for line in chunk.lines.tolist()]


# -- line ends -------------------------------------------------------------------------------------

RETURNS = [("a\rb", "pos"), ("\rc", "neg"), ("d\r", "pos"), ("e\r\rf", "neg"), ("j", "neg")]
RETURNS += [('g "h\ri', "pos")]


def test_a_bare_carriage_return_is_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    frame = pd.DataFrame(RETURNS * 100, columns=["text", "label"])
    frame.to_csv(file, index=False)
    assert b"a\rb,pos\n" in file.read_bytes()  # the fault
    assert records(file) == RETURNS * 100
    assert lines_of(file) == list(range(2, 602))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_carriage_returns_are_kept_for_any_line_end(tmp_path: Path, end: str, separator: str) -> None:
    file = tmp_path / ("rows.csv" if separator == "," else "rows.tsv")
    rows = [row for row in RETURNS if '"' not in row[0] and not row[0].endswith("\r")]
    text = end.join(separator.join(row) for row in [("text", "label"), *rows]) + end
    file.write_bytes(text.encode())
    assert records(file) == rows


def test_old_mac_files_and_mixed_ones_work_as_before(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    for content in (b"text,label\ra,x\rb,y\r", b"text,label\ra,x\r\nb,y\n", b"text,label\na,x\rb,y\r\n"):
        file.write_bytes(content)
        assert records(file) == [("a", "x"), ("b", "y")]
    file.write_bytes(b'text,label\na,x\r"b\rb",y\r\n"c\r\nc",x\r')
    assert records(file) == [("a", "x"), ("b\rb", "y"), ("c\r\nc", "x")]


def test_a_file_that_fits_neither_dialect_names_the_character(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"text,label\na\rb,x\nc,x\rd,y\n")
    with pytest.raises(DataError) as caught:
        records(file)
    reported = str(caught.value).replace(str(file), "FILE").split("\n")
    assert reported[0] == "FILE:3: 3 fields where the header has 2; quote fields that hold a comma"
    assert "other lines contain a carriage return (\\r)" in reported[1]


@pytest.mark.parametrize(
    "text", ["a\rb\r\nc\r", "\r\r\n\r", "", "a\r\n", "\r", "a\r\rb\n", "\r" * 5000 + "a\n"]
)
def test_a_bare_return_does_not_end_a_line(text: str) -> None:
    lines = list(KeptReturns(io.StringIO(text, newline="")))
    whole = text[:-1] + "\n" if text.endswith("\r") else text
    expected = whole.replace("\r\n", "\0").replace("\r", BARE).replace("\0", "\r\n")
    assert "".join(lines) == expected
    assert len(lines) == whole.count("\n")


# -- quotes ----------------------------------------------------------------------------------------


def test_literal_quotes_are_recognised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(f'"{text}', label) if i == 50 else (text, label) for i, (text, label) in enumerate(ROWS)]
    rows[90] = ('he said "no" and "never"', "neg")
    file = tmp_path / "rows.tsv"
    file.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    with caplog.at_level(logging.WARNING):
        assert records(file) == rows
    assert "read as data.quoting none" in caplog.text
    assert records(file, quoting="none") == rows


def test_backslashes_before_quotes_are_recognised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*ROWS[:9], ('she said "so, so"', "neg"), ("a, b", "pos"), ('"', "neg")]
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out, doublequote=False, escapechar="\\", quoting=csv.QUOTE_ALL)
        writer.writerows([("text", "label"), *rows])
    with caplog.at_level(logging.WARNING):
        assert records(file) == rows
    assert "read as data.quoting backslash" in caplog.text
    with pytest.raises(DataError, match="set data\\.quoting"):
        records(file, quoting="double")


def swallowing(separator: str) -> str:
    """A table in which a quote at line 51 swallows forty rows, and others need their quotes."""
    rows = [[text, label] for text, label in ROWS]
    rows[10][0] = f'"a{separator}b"'
    rows[49][0] = f'"{rows[49][0]}'
    rows[89][0] = f'{rows[89][0]}"'
    return "".join(separator.join(row) + "\n" for row in [["text", "label"], *rows])


@pytest.mark.parametrize(("name", "separator"), [("rows.csv", ","), ("rows.tsv", "\t")])
def test_an_open_quote_never_swallows_rows(tmp_path: Path, name: str, separator: str) -> None:
    file = tmp_path / name
    file.write_text(swallowing(separator))
    with pytest.raises(DataError, match=r":51: a quoted field contains other rows: .*none if"):
        records(file)
    plain = list(csv.reader(io.StringIO(swallowing(separator)), delimiter=separator))
    assert len(plain) == 401 - 40  # the fault: the usual reading loses forty rows
    assert len(records(file, quoting="double")) == 360  # and who asks for it gets it


def test_one_swallowed_row_is_found_too(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('text,label\n"x, y",pos\nok,neg\n"oh,pos\nno",neg\n')
    with pytest.raises(DataError, match=":4: a quoted field contains other rows"):
        records(file)


def test_line_breaks_within_quotes_do_not_start_rows(tmp_path: Path) -> None:
    poem = "roses are red, violets\nare blue, so\nam I, now\nbye"
    rows = [*ROWS[:40], (poem, "pos"), ("a,neg-ish\nb,positive\nc", "neg")]
    file = tmp_path / "rows.csv"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(file, index=False)
    assert records(file) == rows


def test_real_quotes_are_not_taken_for_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('text,label\n"a",x\n"b",y\n"c,x\n')
    with pytest.raises(DataError, match=":4: a quote is opened here and never closed"):
        records(file)
    file.write_text('text\n"a\n')  # of one column everything fits
    with pytest.raises(DataError, match="never closed"):
        records(file)


def test_a_column_of_many_values_is_not_a_label_column() -> None:
    found = SwallowedRows(",", 2)
    for i in range(200):
        assert found.in_record([f"text {i}", "pos"]) == 0
    assert found.in_record(["so\ntext 3,thing\nx", "pos"]) == 0
    assert found.in_record(["so\ntext 3,pos\nx", "pos"]) == 1


# -- headers ---------------------------------------------------------------------------------------


def train_on(file: Path, out: Path, *argv: str) -> dict[str, Any]:
    flags = [f"--data.train={file}", f"--out={out}", *TINY, "--trainer.epochs=1", "--baseline=false", *argv]
    return run(parse_config(flags, program="test", description=""))


def test_a_file_without_a_header_is_read_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.csv"
    rows = [(text, label) for text, label in make_rows(240)]
    file.write_text("".join(f'"{text}",{label}\n' for text, label in rows))
    assert records(file, header=False) == rows
    assert lines_of(file, header=False) == list(range(1, 241))
    with pytest.raises(DataError, match=r"data\.header false and data\.text_column 1 or so"):
        train_on(file, tmp_path / "run")
    columns = ("--data.text_column=1", "--data.label_column=2")
    metrics = train_on(file, tmp_path / "run", "--data.header=false", *columns)
    assert metrics["test"]["rows"] == 24
    predict.main([str(tmp_path / "run"), "--file", str(file), "--no-header"])
    assert len(capsys.readouterr().out.splitlines()) == 240
    evaluate.main([str(tmp_path / "run"), str(file), "--no-header"])
    assert "240" in capsys.readouterr().out
    assert load(tmp_path / "run").labels == ["negative", "neutral", "positive"]


def test_following_the_hint_loses_no_first_row(tmp_path: Path) -> None:
    """Regression: naming the columns after the first row."""
    file = tmp_path / "rows.csv"
    file.write_text("".join(f"{text},{label}\n" for text, label in ROWS))
    with pytest.raises(
        DataError, match=r":1: the first line looks like a row: 'neg' is a label in other rows"
    ):
        train_on(file, tmp_path / "run", "--data.text_column=bad 0", "--data.label_column=neg")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("begin", ["", "\n\n"])
def test_blank_lines_and_quoted_breaks_count_without_a_header(tmp_path: Path, begin: str) -> None:
    file = tmp_path / "rows.tsv"
    file.write_text(f'{begin}"a\nb"\tx\n\nc\ty\n')
    assert records(file, header=False) == [("a\nb", "x"), ("c", "y")]
    first = begin.count("\n") + 1
    assert lines_of(file, header=False) == [first, first + 3]
    file.write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        records(file, header=False)
