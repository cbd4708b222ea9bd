"""Fuzzing: for any file and any state of a run folder only errors of this package are raised.

Each failing input found by a fuzzer is a regression test here.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
from collections.abc import Iterator
from encodings.aliases import aliases
from pathlib import Path

import fuzzing
import guided
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import run_machine
from fuzzing_models import TARGETS, graph, model_facts, try_inputs
from hypothesis import HealthCheck, settings

from lstm_sentiment.checkpoints.untrusted_files import json_of, yaml_of
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.data.formats.readers import Chunk, read_chunks
from lstm_sentiment.data.formats.writers import to_json_line
from lstm_sentiment.data.sources.sources import Source, open_source
from lstm_sentiment.data.word_vectors import load_vectors
from lstm_sentiment.deployment import runtime
from lstm_sentiment.errors import CheckpointError, ConfigError, DataError
from lstm_sentiment.system.files import local_path
from lstm_sentiment.text.tokenizers import Vocabulary

HERE = Path(__file__).parent


def rows_of(file: Path, **options: str) -> list[dict[str, object]]:
    with open_source(str(file), **options) as source:
        return [row for chunk in read_chunks(source) for row in chunk.frame.to_dict("records")]


def settings_of(file: Path, content: bytes) -> object:
    file.write_bytes(content)
    return parse_config([f"--config={file}"], program="train", description="")


# -- the fuzzers themselves ------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_parsers_raise_only_sentiment_errors(name: str, tmp_path: Path) -> None:
    """The same inputs in each run; scripts/fuzz and scripts/soak use others."""
    try_inputs(TARGETS[name], TARGETS[name].count, tmp_path, same=True)


class TestRuns(run_machine.Runs.TestCase):
    """Saves, kills, damage and restarts in any order."""

    settings = settings(
        max_examples=12,
        stateful_step_count=20,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize(
    ("mistake", "error"), [("raises", IndexError), ("obeyed", AssertionError), ("changed", AssertionError)]
)
def test_a_faulty_parser_is_detected(
    mistake: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a foreign error, an unescaped message, a wrong value."""

    def broken(source: Source) -> Iterator[Chunk]:
        for chunk in read_chunks(source):
            if mistake == "raises" and "é" in str(chunk.frame):
                raise IndexError
            if mistake == "obeyed":
                raise DataError(f"{source.name} \x1b[31m")
            yield Chunk(frame=chunk.frame.replace("é", "e"), lines=chunk.lines)

    data = b"\0" + "text,label\né,x\n".encode()
    fuzzing.delimited(data, tmp_path)
    monkeypatch.setattr(fuzzing, "read_chunks", broken)
    with pytest.raises(error):
        fuzzing.delimited(data, tmp_path)


def test_a_message_may_hold_an_emoji_of_several_parts(tmp_path: Path) -> None:
    fuzzing.delimited("\0text,label\n\U0001f469\u200d<\n".encode(), tmp_path)


@pytest.mark.skipif(
    not guided.installed() and "CI" not in os.environ, reason="there is no atheris for this system"
)
def test_coverage_guidance_finds_what_random_inputs_do_not(tmp_path: Path) -> None:
    [found] = guided.run(["hidden"], seconds=60, at_once=1, failures=tmp_path)
    assert found.failure is not None
    assert found.failure.read_bytes()[1:5] == b"fuzz"
    assert found.inputs < 2**20


def test_an_input_can_be_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(HERE.parent / "scripts"))
    replay = importlib.import_module("fuzz").main
    file = tmp_path / "json_lines-crash-1"
    file.write_bytes(b'\0{"text": "so"}\n')
    replay(["--replay", str(file)])
    assert capsys.readouterr().out == "json_lines: passed\n"
    monkeypatch.setattr(fuzzing, "as_text", lambda value: None)
    with pytest.raises(AttributeError):
        replay(["--replay", str(file)])
    for argv in (["--replay", str(tmp_path / "other-crash")], ["jsonlines"], ["--seconds", "3"]):
        with pytest.raises(ConfigError):
            replay(argv)


# -- tables ----------------------------------------------------------------------------------------


ODD_ENCODINGS = ("undefined", "punycode", "idna", "unicode_escape", "a\0", "\ud800", "")


def test_every_encoding_that_python_knows_is_read_or_refused(tmp_path: Path) -> None:
    """Some decode to bytes instead of text, some do not report the position of an error."""
    file = tmp_path / "rows.csv"
    contents = [b"text,label\na,b\n", b"text,label\n+2AA-,\xff\n", b"\xff\xfe\0", b"text,label\n\\ud800,b\n"]
    read = set()
    for name in sorted({*aliases.values(), *ODD_ENCODINGS}):
        for content in contents:
            file.write_bytes(content)
            with fuzzing.refused_only_by(DataError, naming=str(file)):
                json.dumps(rows_of(file, encoding=name), ensure_ascii=False).encode()
                read.add(name)
    assert {"utf_8", "latin_1", "cp1252", "utf_7"} <= read
    assert not {"rot_13", "base64_codec", "hex_codec", "undefined", "a\0"} & read


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-16-le", "utf-32", "shift_jis"])
def test_a_file_is_blamed_on_the_line_that_cannot_be_decoded(tmp_path: Path, encoding: str) -> None:
    """Also if a line break has several bytes, whose last one looks like the next line."""
    file = tmp_path / "rows.csv"
    bad = b"\xd8\xd8" if "16" in encoding else b"\xff" * 4  # two first halves of a character
    text = "text,label\n" + "あ,x\n" * 3
    file.write_bytes(text.encode(encoding) + 2 * bad)
    with pytest.raises(DataError) as caught:
        rows_of(file, encoding=encoding)
    assert caught.value.line == 5


def test_utf_16_without_a_byte_order_mark_is_refused(tmp_path: Path) -> None:
    """Regression: the search for the undecodable line failed for the same reason."""
    (tmp_path / "rows.csv").write_bytes(bytes(11) + b"\xdc")
    with pytest.raises(DataError):
        rows_of(tmp_path / "rows.csv", encoding="utf-16")


def test_a_byte_order_mark_within_the_first_row_is_kept(tmp_path: Path) -> None:
    """At the start of its input pandas takes it for that of the file, and a quote after it opens a field."""
    file = tmp_path / "rows.csv"
    file.write_bytes('text,label\n\ufeffgood,x\n\ufeff"a",y\n'.encode())
    assert [row["text"] for row in rows_of(file)] == ["\ufeffgood", '\ufeff"a"']
    file.write_bytes('\ufefftext,label\n\ufeff"a,b,c"\n'.encode())
    with pytest.raises(DataError, match="3 fields where the header has 2"):
        rows_of(file)


@pytest.mark.parametrize("record", ["a\r\n", "a\r", '"a\r\nb""c"\r\n', "é😀\n", '""\n'])
def test_a_record_at_a_pandas_buffer_boundary_is_intact(tmp_path: Path, record: str) -> None:
    """pandas reads 256 KiB at a time; every position within the records is at the boundary once."""
    file = tmp_path / "rows.csv"
    rows = [record.replace("\n", ",x\n") if record.endswith("\n") else "a,x\r"] * 3
    for shift in range(0, 2 * len("".join(rows)) + 4):
        text = "text,label\n" + "-" * (2**18 - shift) + ",x\n" + "".join(rows)
        file.write_bytes(text.encode())
        expected = list(csv.reader(io.StringIO(text, newline="")))[1:]
        if all(len(row) == 2 for row in expected):
            assert [[row["text"], row["label"]] for row in rows_of(file)] == expected, shift


@pytest.mark.parametrize(
    "name", ["a\0.csv", "\ud800.csv", "~no-such-user/a.csv", "package:json/\0", "http://[/a.csv"]
)
def test_an_invalid_file_name_is_refused(name: str) -> None:
    with pytest.raises(DataError) as caught, open_source(name):
        pass
    assert str(caught.value).isprintable() or "http" in name
    if "http" not in name and "package" not in name:
        with pytest.raises(DataError):
            local_path(name)


@pytest.mark.parametrize("depth", [101, 600, 900, 5000])
def test_too_deeply_nested_json_is_refused(tmp_path: Path, depth: int) -> None:
    """Regression: an escaped unpaired surrogate and writing such a row caused recursion."""
    file = tmp_path / "rows.jsonl"
    for opened, closed in (("[", "]"), ('{"a":', "}")):
        value = opened * (depth - 1) + "1" + closed * (depth - 1)
        file.write_text(f'{{"text": "\\ud800", "other": {value}}}\n')
        with pytest.raises(DataError, match="nested") as caught:
            rows_of(file)
        assert caught.value.line == 1
    file.write_text('{"text": "\\ud800", "other": ' + "[" * 99 + "]" * 99 + "}\n")
    [row] = rows_of(file)
    assert json.loads(to_json_line(row))["text"] == "\ufffd"


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**31 - 1], pa.date32()),
        pa.array([2**62], pa.timestamp("us")),
        pa.array([2**62], pa.duration("s")),
        pa.array([-(2**62)], pa.timestamp("us", "UTC")),
    ],
)
def test_a_time_out_of_python_range_is_refused(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"text": ["so"], "at": column}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        rows_of(tmp_path / "rows.parquet")


def test_a_duplicate_parquet_column_is_refused(tmp_path: Path) -> None:
    """Regression: the last one was read silently."""
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="names column 'text' twice"):
        rows_of(tmp_path / "rows.parquet")


# -- word vectors ----------------------------------------------------------------------------------


def test_vector_lines_of_wrong_length_do_not_compensate(tmp_path: Path) -> None:
    """Regression: a tab was counted as part of a number but separated two, shifting all later vectors."""
    file = tmp_path / "vectors.txt"
    file.write_bytes(b"so 1\t2 3\ngood  4\n")
    with pytest.raises(
        ConfigError, match=r"vectors\.txt:1: the line of 'so': '1\\t2' is not a finite number"
    ):
        load_vectors(str(file), Vocabulary(["so"]), size=2, seed=0, cache=tmp_path)


def test_vectors_too_large_for_a_mean_are_refused(tmp_path: Path) -> None:
    """Regression: unknown words had infinite vectors."""
    file = tmp_path / "vectors.txt"
    file.write_bytes(b"so 3e38 1\ngood -3e38 2\nbad 3e38 3\n")
    with pytest.raises(ConfigError, match="too large"):
        load_vectors(str(file), Vocabulary(["so", "unknown"]), size=2, seed=0, cache=tmp_path)


# -- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b'seed: "\\UFFFFFFFF"',
        b'seed: "\\U00110000"',
        b"%YAML " + b"9" * 5000 + b".1\n--- {}",
        b'out: "a\\0b"',
        b'out: "\\ud800"',
        b"""seed: "!!int ''" """,
        b'data: {labels: "[&a [1, 1], *a]"}',
    ],
)
def test_yaml_that_breaks_pyyaml_is_refused_with_its_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.yaml"
    with pytest.raises(ConfigError) as caught:
        settings_of(file, b"\n" + content if b"%" not in content else content)
    assert f"{file}:{1 if b'%' in content else 2}: " in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["labels", "validation", "max_rows", "encoding_errors"])
def test_yaml_in_quotes_does_not_grow(tmp_path: Path, name: str) -> None:
    """Regression: a quoted value was parsed as YAML again, which could expand exponentially."""
    bomb = "[&a [x, x, x, x, x, x, x, x, x, x]"
    for one, other in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f", &{other} [{', '.join([f'*{one}'] * 10)}]"
    with pytest.raises(ConfigError, match="an alias"):
        settings_of(tmp_path / "config.yaml", f'data:\n  {name}: "{bomb}]"\n'.encode())


@pytest.mark.parametrize(
    "text",
    [
        "*.csv",
        "*a",
        "a & b",
        "! wow",
        "!important",
        "[*",
        "{",
        "a: b: c",
        "5 * 3",
        "https://a/*b",
        "!!bool maybe",
    ],
)
def test_plain_text_is_unchanged(text: str) -> None:
    assert parse_config(["--data.text_column", text], program="x", description="").data.text_column == text


def test_a_control_character_on_the_command_line_is_shown(tmp_path: Path) -> None:
    for argv in (["\x01"], ["--trainer.epoch\x16=3"], ["--trainer.epochs", "\x1b[31m"]):
        with pytest.raises(ConfigError) as caught:
            parse_config(argv, program="x", description="")
        assert str(caught.value).replace("\n", "").isprintable()


# -- run folders -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"a: !!int ''", b"a: !!bool maybe", b"a: !!timestamp x", b"a: !!set {b}", b'a: "\\UFFFFFFFF"', b'"\\0"'],
)
def test_yaml_of_a_run_with_a_tag_or_an_invalid_character_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.yaml:1"):
        yaml_of(tmp_path / "config.yaml")


def test_an_unpaired_surrogate_in_json_of_a_run_is_refused(tmp_path: Path) -> None:
    """Regression: a class of that name could be predicted but not printed."""
    (tmp_path / "labels.json").write_text('{"labels": ["a", "\\uD83D"], "map": {}}')
    with pytest.raises(CheckpointError, match=r"labels\.json: is not JSON"):
        json_of(tmp_path / "labels.json")
    (tmp_path / "labels.json").write_text('{"labels": ["\\ud83d\\ude00"]}')
    assert json_of(tmp_path / "labels.json") == {"labels": ["😀"]}


def test_invalid_metadata_of_an_export_is_a_value_error(tmp_path: Path) -> None:
    whole = model_facts()
    (tmp_path / runtime.MODEL).write_bytes(graph())
    for name in ("labels", "text", "vocabulary", "thresholds"):
        facts = {key: value for key, value in whole.items() if key != name}
        (tmp_path / runtime.FACTS).write_text(json.dumps(facts))
        with pytest.raises(ValueError, match=r"model\.json: is malformed"):
            runtime.Classifier(tmp_path)
    for content in ("{", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass")):
        (tmp_path / runtime.FACTS).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ValueError, match=r"model\.json: is not JSON"):
            runtime.Classifier(tmp_path)
    (tmp_path / runtime.FACTS).write_text(json.dumps(whole))
    assert runtime.Classifier(tmp_path).predict("so")[0].label in ("neg", "pos")
