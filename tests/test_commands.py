"""The commands train, predict and evaluate: output, files, errors."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import COMMANDS, TINY, make_rows, write_csv

import lstm_sentiment
import lstm_sentiment.data.formats.readers
from lstm_sentiment import evaluate, predict, train
from lstm_sentiment.adaptation.resolving import user_keys
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.command_line import given_keys, parse_config, parse_settings
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import DataError, RunError
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.pretraining.config import PretrainConfig

CONFIGS = Path(__file__).parent.parent / "configs"
LABELS = ["negative", "neutral", "positive"]
ADDED = ["predicted_label", "predicted_score", *(f"probability_{label}" for label in LABELS)]


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Restore logging, which `train` sends to stdout."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data file has codes as labels, trained once for this module."""
    folder = tmp_path_factory.mktemp("commands")
    codes = {label: str(2 * code) for code, label in enumerate(LABELS)}
    data = write_csv(folder / "data.csv", [(text, codes[label]) for text, label in make_rows(240)])
    argv = [
        f"--data.train={data}",
        "--data.labels={0: negative, 2: neutral, 4: positive}",
        f"--out={folder / 'run'}",
        "--trainer.epochs=5",
        "--baseline=false",
    ]
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        train.main([*TINY, *argv])
    root.handlers[:], root.level = handlers, level
    return folder / "run"


@pytest.fixture
def classifier(trained: Path) -> SentimentClassifier:
    return lstm_sentiment.load(trained, device="cpu")


def fail(
    main: Callable[[list[str]], None],
    argv: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[int, str]:
    """Run a command as ``python -m`` does; return its exit code and the one line it prints on stderr."""
    monkeypatch.setattr(sys, "argv", ["command", *argv])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run_command(main)
    errors = capsys.readouterr().err
    assert errors.startswith("error: "), errors
    assert "Traceback" not in errors
    assert isinstance(left.value.code, int)
    return left.value.code, errors


def strictly(line: str) -> Any:
    """Parse strict JSON, without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON: {line}")

    return json.loads(line, parse_constant=refuse)


# -- train -----------------------------------------------------------------------------------------


def test_train_prints_a_summary(reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main([*TINY, f"--data.train={reviews}", f"--out={tmp_path / 'run'}", "--trainer.epochs=5"])
    printed = capsys.readouterr().out
    for expected in (
        str(reviews),
        "192 rows: negative 64, neutral 64, positive 64",
        "24 rows: negative 8, neutral 8, positive 8",
        "first loss 1.",
        "ln(3) = 1.099: as expected",
        "epoch 5/5",
        " tokens/s * (best so far)\n",
        "baseline majority",
        "baseline tfidf_logistic_regression",
        str(tmp_path / "run"),
    ):
        assert expected in printed
    assert printed.count("epoch ") >= 5
    report = [line.split() for line in printed.splitlines() if line.strip().startswith(tuple(LABELS))]
    assert [words[0] for words in report] == LABELS, "one line per class"
    assert all(len(words) == 8 for words in report)


def test_metrics_have_validation_test_and_baselines(
    reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*TINY, f"--data.train={reviews}", f"--out={tmp_path / 'run'}", "--trainer.epochs=1"])
    metrics = strictly((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    for scores in (metrics["validation"], metrics["test"], *metrics["baselines"].values()):
        assert {"accuracy", "macro_f1", "macro_recall"} <= scores.keys()
    test = metrics["test"]
    assert f"accuracy {test['accuracy']:.4f}   macro-F1 {test['macro_f1']:.4f}" in capsys.readouterr().out


def test_resume_only_needs_the_folder(
    reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train.main([*TINY, f"--data.train={reviews}", f"--out={out}", "--trainer.epochs=1", "--baseline=false"])
    before = (out / "best" / "model.safetensors").read_bytes()
    capsys.readouterr()
    train.main(["--out", str(out), "--resume", "true"])
    assert "resuming at step 12 of 12" in capsys.readouterr().out
    assert (out / "best" / "model.safetensors").read_bytes() == before


def test_train_does_not_overwrite_a_run_by_default(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "best" / "model.safetensors").read_bytes()
    data = str(trained.parent / "data.csv")
    code, error = fail(train.main, ["--data.train", data, "--out", str(trained)], monkeypatch, capsys)
    assert code == 2
    assert "--resume true" in error
    assert "--overwrite true" in error
    assert (trained / "best" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--trainer.epoch", "3"], "Did you mean 'trainer.epochs'?"),
        (["--trainer.epochs", "0"], "trainer.epochs: must be at least 1"),
        (["--data.train", "missing.csv"], "missing.csv: no such file"),
        (["--config", "missing.yaml"], "missing.yaml: no such file"),
        (["--trainer.device", "gpu"], "trainer.device"),
        (["--resume", "true", "--overwrite", "true"], "contradicts"),
    ],
)
def test_an_invalid_argument_of_train_is_one_message(
    argv: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, error = fail(train.main, argv, monkeypatch, capsys)
    assert code == 2
    assert expected in error
    assert not list(tmp_path.iterdir())


def test_a_damaged_run_exits_with_3(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train.main([*TINY, f"--data.train={reviews}", f"--out={out}", "--trainer.epochs=1", "--baseline=false"])
    (out / "best" / "model.safetensors").write_bytes(b"damaged")
    code, error = fail(predict.main, [str(out), "great"], monkeypatch, capsys)
    assert code == 3
    assert "best/model.safetensors" in error


# -- predict: texts and lines ----------------------------------------------------------------------


def test_predict_prints_one_line_per_text(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict.main([str(trained), "this is awful", "superb :-)", ""])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("negative ")
    assert lines[0].endswith("this is awful")
    assert lines[1].startswith("positive ")
    shares = [
        float(word.rstrip(")")) for word in lines[0].split() if word.rstrip(")").replace(".", "").isdigit()
    ]
    assert sum(shares) == pytest.approx(1, abs=0.002)


def give_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


def test_predict_prints_a_json_line_per_input_line(
    trained: Path,
    classifier: SentimentClassifier,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = ["awful", "", "größe 😀 superb", 'say "so-so"', "a\u2028b\u0085c"] + [
        f"great {i}" for i in range(600)
    ]
    give_stdin(monkeypatch, "\n".join(texts).encode())
    predict.main([str(trained)])
    answers = [strictly(line) for line in capsys.readouterr().out.split("\n") if line]
    assert [answer["text"] for answer in answers] == texts
    for answer, expected in zip(answers, classifier.predict(texts), strict=True):
        assert answer["label"] == expected.label
        assert answer["score"] == pytest.approx(expected.score, abs=1e-6)
        assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)


def test_predict_accepts_invalid_utf_8(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_stdin(monkeypatch, b"great \xe9\xff\n\x00awful\r\n")
    predict.main([str(trained)])
    answers = [strictly(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == ["great \ufffd\ufffd", "\x00awful"]


def test_predict_of_no_lines_prints_nothing(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    give_stdin(monkeypatch, b"")
    predict.main([str(trained)])
    assert capsys.readouterr().out == ""


def test_predict_prints_texts_typed_in_another_encoding(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python passes invalid UTF-8 of argv as unpaired surrogates, which cannot be printed."""
    predict.main([str(trained), "great caf\udce9"])
    assert capsys.readouterr().out.startswith("positive ")


# -- predict: files --------------------------------------------------------------------------------

ROWS = [
    {"id": "007", "text": "awful food", "note": ""},
    {"id": "1e5", "text": 'superb, really "superb"\nand lovely', "note": "NA"},
    {"id": "", "text": "", "note": "größe 😀"},
    {"id": "-0", "text": "so-so and okay", "note": " spaces "},
    {"id": "1_0", "text": "the best best best " * 30, "note": "null"},
]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format of the extension, without the package."""
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        opener: Any = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "wt", encoding="utf-8", newline="") as out:
            delimiter = "\t" if ".tsv" in path.name else ","
            writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read such a file without the package."""
    if path.name.endswith(".parquet"):
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    if path.name.endswith(".jsonl"):
        return [strictly(line) for line in path.read_text("utf-8").split("\n") if line]
    opener: Any = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if ".tsv" in path.name else ","))


@pytest.mark.parametrize("out", ["o.csv", "o.tsv", "o.jsonl", "o.parquet", "o.csv.gz"])
@pytest.mark.parametrize("file", ["i.csv", "i.tsv", "i.jsonl", "i.parquet", "i.csv.gz"])
def test_predict_keeps_columns_rows_and_their_order(
    trained: Path,
    classifier: SentimentClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    out: str,
) -> None:
    """Across three chunks."""
    monkeypatch.setattr(lstm_sentiment.data.formats.readers, "CHUNK_ROWS", 2)
    source = write_rows(tmp_path / file, ROWS)
    predict.main([str(trained), "--file", str(source), "--out", str(tmp_path / out)])
    found = read_rows(tmp_path / out)
    assert [list(row) for row in found] == [["id", "text", "note", *ADDED]] * len(ROWS)
    assert [{name: row[name] for name in ("id", "text", "note")} for row in found] == ROWS
    for row, expected in zip(found, classifier.predict([r["text"] for r in ROWS]), strict=True):
        assert row["predicted_label"] == expected.label
        assert float(row["predicted_score"]) == pytest.approx(expected.score, abs=1e-6)
        for label in LABELS:
            probability = float(row[f"probability_{label}"])
            assert probability == pytest.approx(expected.probabilities[label], abs=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file, out])


SOME_MISSING = [{"text": "great", "n": 1}, {"text": None, "n": 2}, {"text": "", "n": 3}, {"n": 4}]
SOME_MISSING += [{"text": None, "n": 5}, {"text": None, "n": 6}]


@pytest.mark.parametrize("out", ["o.csv", "o.jsonl", "o.parquet"])
@pytest.mark.parametrize("file", ["i.jsonl", "i.parquet"])
def test_rows_without_a_text_are_left_out_or_have_no_label(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    out: str,
) -> None:
    """Also where they fill a chunk; they are counted on stderr, and so are empty texts."""
    monkeypatch.setattr(lstm_sentiment.data.formats.readers, "CHUNK_ROWS", 2)
    source, written = write_rows(tmp_path / file, SOME_MISSING), tmp_path / out
    argv = [str(trained), f"--file={source}", f"--out={written}"]
    for flags, kept in (([], [1, 2, 3, 4, 5, 6]), (["--on-missing=skip"], [1, 3])):
        capsys.readouterr()
        predict.main([*argv, *flags])
        done = "left out of the output" if flags else "given no label"
        assert capsys.readouterr().err.splitlines() == [
            f"{source}: texts that are missing and were {done}: 4",
            f"{source}: texts without a token, whose labels do not depend on them: 1",
        ]
        found = read_rows(written)
        assert [int(row["n"]) for row in found] == kept
        assert [bool(row["predicted_label"]) for row in found] == [n in (1, 3) for n in kept]
        assert [row["predicted_score"] not in ("", None) for row in found] == [n in (1, 3) for n in kept]
    written.unlink()
    with pytest.raises(DataError, match=r"i\.\w+:2: column 'text': the text is missing; .*--on-missing skip"):
        predict.main([*argv, "--on-missing=raise"])
    assert not written.exists()


def test_lines_without_a_token_are_marked(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"great\n\n"), encoding="utf-8"))
    predict.main([str(trained)])
    assert [strictly(line).get("unread") for line in capsys.readouterr().out.splitlines()] == [None, True]
    predict.main([str(trained), ""])
    assert "[no token was read]" in capsys.readouterr().out


def test_predict_without_out_prints_rows_as_json(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict.main([str(trained), "--file", str(write_rows(tmp_path / "a.csv", ROWS))])
    found = [strictly(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in found] == [row["id"] for row in ROWS]
    assert all(list(row) == ["id", "text", "note", *ADDED] for row in found)


def test_column_types_are_preserved(trained: Path, tmp_path: Path) -> None:
    rows = [{"text": "great", "n": 7, "ok": True, "share": 0.5, "tags": ["a"], "big": 2**60}]
    rows += [{"text": "awful", "n": None, "ok": False, "share": None, "tags": [], "big": 2**60 + 1}]
    for ending in ("jsonl", "parquet"):
        source = write_rows(tmp_path / f"in.{ending}", rows)
        predict.main([str(trained), "--file", str(source), "--out", str(tmp_path / f"out.{ending}")])
        found = read_rows(tmp_path / f"out.{ending}")
        assert [{name: row[name] for name in rows[0]} for row in found] == rows


def test_json_rows_may_have_different_keys(trained: Path, tmp_path: Path) -> None:
    """Missing values may be omitted or null, but not NaN, which is not JSON."""
    rows: list[dict[str, Any]] = [
        {"text": "great", "id": 7},
        {"text": "awful"},
        {"text": "so-so", "stars": 2},
    ]
    source = write_rows(tmp_path / "in.jsonl", rows)
    predict.main([str(trained), "--file", str(source), "--out", str(tmp_path / "out.jsonl")])
    found = read_rows(tmp_path / "out.jsonl")
    assert [(row["text"], row.get("id"), row.get("stars")) for row in found] == [
        ("great", 7, None),
        ("awful", None, None),
        ("so-so", None, 2),
    ]


@pytest.mark.parametrize("chunk_rows", [1, 2, 5000])
@pytest.mark.parametrize("out", ["o.csv", "o.parquet", "o.jsonl"])
def test_keys_of_some_rows_are_written_for_any_chunk_size(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int, out: str
) -> None:
    monkeypatch.setattr(lstm_sentiment.data.formats.readers, "CHUNK_ROWS", chunk_rows)
    rows: list[dict[str, Any]] = [
        {"text": "great"},
        {"text": "awful", "id": "a"},
        {"text": "so", "stars": "2"},
    ]
    source = write_rows(tmp_path / "in.jsonl", rows)
    predict.main([str(trained), "--file", str(source), "--out", str(tmp_path / out)])
    found = read_rows(tmp_path / out)
    if out == "o.jsonl":
        assert [list(row) for row in found] == [[*row, *ADDED] for row in rows]
    else:
        assert [list(row) for row in found] == [["text", "id", "stars", *ADDED]] * 3
        assert [[row["id"] or None, row["stars"] or None] for row in found] == [
            [None, None],
            ["a", None],
            [None, "2"],
        ]


def test_a_table_of_too_many_keys_is_refused(trained: Path, tmp_path: Path) -> None:
    rows = [{"text": "great", **{f"k{i}_{j}": 1 for j in range(100)}} for i in range(101)]
    source = write_rows(tmp_path / "in.jsonl", rows)
    with pytest.raises(DataError) as caught:
        predict.main([str(trained), "--file", str(source), "--out", str(tmp_path / "o.csv")])
    assert str(caught.value) == (
        f"{source}: its rows have more than 10,000 distinct keys, too many for a table: remove some, or name "
        "a .jsonl file with --out"
    )
    predict.main([str(trained), "--file", str(source), "--out", str(tmp_path / "o.jsonl")])
    assert len(read_rows(tmp_path / "o.jsonl")) == 101


def test_non_finite_numbers_are_written_as_valid_json(trained: Path, tmp_path: Path) -> None:
    """Parquet can store infinity and NaN, also in lists."""
    rows = [{"text": "great", "x": math.inf, "xs": [1.0, math.nan]}, {"text": "awful", "x": 1.5, "xs": []}]
    source = write_rows(tmp_path / "in.parquet", rows)
    predict.main([str(trained), "--file", str(source), "--out", str(tmp_path / "out.jsonl")])
    found = read_rows(tmp_path / "out.jsonl")
    assert [row["predicted_label"] for row in found] == ["positive", "negative"]
    assert (found[1]["x"], found[1]["xs"]) == (1.5, [])


def test_a_column_that_begins_with_missing_values_can_be_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its type is taken from the input file, not from the first chunk."""
    monkeypatch.setattr(lstm_sentiment.data.formats.readers, "CHUNK_ROWS", 2)
    rows = [{"text": "great", "reply_to": value} for value in (None, None, 12, 13)]
    source = write_rows(tmp_path / "in.parquet", rows)
    predict.main([str(trained), "--file", str(source), "--out", str(tmp_path / "out.parquet")])
    assert [row["reply_to"] for row in read_rows(tmp_path / "out.parquet")] == [None, None, 12, 13]


@pytest.mark.parametrize("out", ["o.csv", "o.jsonl", "o.parquet"])
def test_an_unpaired_surrogate_does_not_stop_training(trained: Path, tmp_path: Path, out: str) -> None:
    r"""JSON can contain a lone "\ud83d", as in tweets truncated inside an emoji."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "great \\ud83d"}\n{"text": "awful"}\n', "utf-8")
    predict.main([str(trained), "--file", str(source), "--out", str(tmp_path / out)])
    assert [row["predicted_label"] for row in read_rows(tmp_path / out)] == ["positive", "negative"]


def test_predict_finds_the_text_column(trained: Path, tmp_path: Path) -> None:
    rows = [{"review": "awful", "text": "superb", "body": "so-so okay plain"}]
    source = str(write_rows(tmp_path / "in.csv", rows))
    labels = {}
    for column in ("review", "text", "body"):
        predict.main(
            [
                str(trained),
                "--file",
                source,
                "--text-column",
                column,
                "--out",
                str(tmp_path / f"{column}.jsonl"),
            ]
        )
        labels[column] = read_rows(tmp_path / f"{column}.jsonl")[0]["predicted_label"]
    assert labels == {"review": "negative", "text": "positive", "body": "neutral"}


def test_predict_may_replace_its_own_input(trained: Path, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "a.csv", ROWS)
    predict.main([str(trained), "--file", str(source), "--out", str(source)])
    assert [row["id"] for row in read_rows(source)] == [row["id"] for row in ROWS]
    assert list(read_rows(source)[0]) == ["id", "text", "note", *ADDED]


BROKEN = {
    "quote.csv": 'text\nfine\n"never closed\n',
    "fields.csv": "id,text\n1,fine\n2,fine\n3,fine,more\n",
    "fields.tsv": "id\ttext\n1\tfine\n2\n",
    "half.jsonl": '{"text": "fine"}\n' * 4 + '{"text": "fi',
    "list.jsonl": '{"text": "fine"}\n' * 4 + "[1]\n",
    "taken.csv": "text,predicted_label\nfine,x\n",
    "column.csv": "id,body\n1,fine\n",
    "both.csv": "text,review\na,b\n",
    "empty.csv": "",
    "header.csv": "text\n",
    "no.parquet": "text\nfine\n",
}


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_file_leaves_nothing_behind(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    out: str,
) -> None:
    """Even if the first thousand rows are valid; an existing file is kept."""
    monkeypatch.setattr(lstm_sentiment.data.formats.readers, "CHUNK_ROWS", 2)
    (tmp_path / name).write_text(BROKEN[name], "utf-8")
    argv = [str(trained), "--file", str(tmp_path / name), "--out", str(tmp_path / out)]
    code, error = fail(predict.main, argv, monkeypatch, capsys)
    assert code == 2
    assert name in error
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / out).write_text("before")
    fail(predict.main, argv, monkeypatch, capsys)
    assert (tmp_path / out).read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, out])


# -- evaluate --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["names", "codes", "both"])
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_evaluate_reports_and_writes_scores(
    trained: Path,
    classifier: SentimentClassifier,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spelling: str,
    ending: str,
) -> None:
    """A file may have codes, as the training data, or class names."""
    rows = make_rows(31, seed=4)
    spelled: list[Any] = [
        label if spelling == "names" or (spelling == "both" and i % 2) else str(2 * LABELS.index(label))
        for i, (_, label) in enumerate(rows)
    ]
    if spelling == "codes" and ending != "csv":
        spelled = [int(code) for code in spelled]
    columns = [{"text": text, "label": label} for (text, _), label in zip(rows, spelled, strict=True)]
    file = write_rows(tmp_path / f"held_out.{ending}", columns)
    evaluate.main([str(trained), str(file), "--out", str(tmp_path / "scores.json")])
    scores = strictly((tmp_path / "scores.json").read_text())
    answers = [prediction.label for prediction in classifier.predict(text for text, _ in rows)]
    right = sum(answer == label for answer, (_, label) in zip(answers, rows, strict=True))
    assert scores["rows"] == 31
    assert scores["accuracy"] == pytest.approx(right / 31)
    assert scores["file"] == str(file)
    for i, label in enumerate(LABELS):
        assert scores["per_class"][label]["rows"] == sum(truth == label for _, truth in rows)
        assert scores["confusion"][i][i] == sum(
            answer == truth == label for answer, (_, truth) in zip(answers, rows, strict=True)
        )
    printed = capsys.readouterr().out
    assert f"accuracy {right / 31:.4f}" in printed
    assert all(label in printed for label in LABELS)
    assert str(tmp_path / "scores.json") in printed


@pytest.mark.parametrize(
    ("label", "advice"),
    [
        ("5", "was not trained with this label: write the names into the file, or delete such rows"),
        ("awful", "Correct it, or delete such rows"),
        ("", "has no label; add one, or delete the row"),
    ],
)
def test_unknown_labels_for_a_finished_run_get_advice_that_can_be_followed(
    trained: Path, tmp_path: Path, label: str, advice: str
) -> None:
    """A finished run has no setting for them."""
    file = write_csv(tmp_path / "other.csv", [("great", "positive"), ("so-so", label)])
    with pytest.raises(DataError, match=r"other\.csv:3") as found:
        evaluate.main([str(trained), str(file)])
    assert advice in str(found.value)
    assert "data.labels" not in str(found.value)


def test_evaluate_writes_into_the_run_by_default(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_csv(tmp_path / "held_out.csv", make_rows(9, seed=4))
    evaluate.main([str(trained), str(file)])
    assert str(trained / "evaluation.json") in capsys.readouterr().out
    written = trained / "evaluation.json"
    assert strictly(written.read_text())["rows"] == 9
    written.unlink()


def test_evaluate_equals_the_test_report_of_training(reviews: Path, tmp_path: Path) -> None:
    """The same rows, scored by training and as a file."""
    held_out = write_csv(tmp_path / "held_out.csv", make_rows(40, seed=4))
    argv = [f"--data.train={reviews}", f"--data.test={held_out}", f"--out={tmp_path / 'run'}"]
    train.main([*TINY, *argv, "--trainer.epochs=4", "--baseline=false"])
    evaluate.main([str(tmp_path / "run"), str(held_out), "--device", "cpu"])
    expected = strictly((tmp_path / "run" / "metrics.json").read_text())["test"]
    found = strictly((tmp_path / "run" / "evaluation.json").read_text())
    assert found["confusion"] == expected["confusion"]
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert found["macro_f1"] == pytest.approx(expected["macro_f1"])


def test_evaluate_names_the_line_of_an_unknown_label(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_csv(tmp_path / "a.csv", [("fine", "neutral"), ("great", "postive")])
    code, error = fail(
        evaluate.main, [str(trained), str(file), "--out", str(tmp_path / "o.json")], monkeypatch, capsys
    )
    assert code == 2
    assert f"{file}:3: " in error
    assert "Did you mean 'positive'?" in error
    assert not (tmp_path / "o.json").exists()


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("main", "argv", "expected"),
    [
        (predict.main, ["MISSING", "great"], "MISSING: is not a run folder"),
        (evaluate.main, ["MISSING", "FILE"], "MISSING: is not a run folder"),
        (predict.main, ["RUN", "--file", "missing.csv"], "missing.csv: no such file"),
        (evaluate.main, ["RUN", "missing.csv"], "missing.csv: no such file"),
        (predict.main, ["RUN", "--file", "FILE", "--text_column", "txt"], "--text-column"),
        (evaluate.main, ["RUN", "FILE", "--label_column", "lable"], "Did you mean 'label'?"),
        (evaluate.main, ["RUN", "FILE", "--text_column", "body"], "'text', 'label'"),
        (predict.main, ["RUN", "great", "--file", "FILE"], "not both"),
        (predict.main, ["RUN", "great", "--out", "o.csv"], "--out needs --file"),
        (predict.main, ["RUN", "--out", "o.csv"], "--out needs --file"),
        (predict.main, ["RUN", "--file", "FILE", "--out", "o.pdf"], "o.pdf"),
        (predict.main, ["RUN", "--file", "FILE", "--out", "missing/o.csv"], "missing/o.csv"),
        (evaluate.main, ["RUN", "FILE", "--out", "missing/o.json"], "missing/o.json"),
        (predict.main, ["RUN", "--file", "FILE", "--encoding", "utf-9"], "utf-9"),
        (evaluate.main, ["RUN", "FILE", "--encoding", "utf-9"], "utf-9"),
        (predict.main, ["RUN", "great", "--device", "gpu"], "gpu"),
        (evaluate.main, ["RUN", "FILE", "--device", "cuda:99"], "cuda:99"),
        (predict.main, [], "run"),
        (evaluate.main, ["RUN"], "file"),
        (predict.main, ["RUN", "--fiel", "FILE"], "--fiel"),
        (predict.main, ["RUN", "--file", "notes.pdf"], "notes.pdf"),
    ],
)
def test_an_input_error_is_one_message_and_exit_code_2(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[list[str]], None],
    argv: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "FILE.csv", make_rows(6))
    (tmp_path / "notes.pdf").write_text("fine")
    before = sorted(path.name for path in tmp_path.iterdir())
    places = {"RUN": str(trained), "FILE": "FILE.csv"}
    code, error = fail(main, [places.get(word, word) for word in argv], monkeypatch, capsys)
    assert code == 2
    assert expected in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_commands_do_not_change_their_data(trained: Path, tmp_path: Path) -> None:
    """Prediction writes nothing into the run or next to the file."""
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    source = write_rows(tmp_path / "a.csv", ROWS)
    content = source.read_bytes()
    predict.main([str(trained), "--file", str(source), "--out", str(tmp_path / "o.csv")])
    predict.main([str(trained), "great"])
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before
    assert source.read_bytes() == content


# -- as processes ----------------------------------------------------------------------------------


def test_commands_run_as_modules(trained: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "lstm_sentiment.predict", str(trained)],
        input="awful\nsuperb 😀\n".encode(),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    answers = [strictly(line) for line in result.stdout.decode("utf-8").splitlines()]
    assert [answer["label"] for answer in answers] == ["negative", "positive"]
    assert result.stderr == b""


# Prints the help of each command after its name; none may have imported torch.
HELP_OF_ALL = """
import runpy, sys

for name in sys.argv[1:]:
    print(end=f"\\0{name}\\n")
    sys.argv = ["x", "--help"]
    try:
        runpy.run_module(f"lstm_sentiment.{name}", run_name="__main__")
    except SystemExit as left:
        assert left.code in (0, None), (name, left.code)
    assert "torch" not in sys.modules, name
"""


def test_help_and_usage_errors_do_not_import_torch() -> None:
    result = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL, *COMMANDS], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    shown = dict(part.split("\n", 1) for part in result.stdout.split("\0")[1:])
    helped = [name for name in COMMANDS if "usage" in shown.get(name, "").lower()]
    assert helped == list(COMMANDS)


# -- configurations --------------------------------------------------------------------------------


def test_there_is_a_configuration_for_each_corpus() -> None:
    found = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert {"tweets", "movies", "imdb", "sst2", "sst5", "tweeteval", "smoke"} <= found


def test_every_configuration_can_be_read() -> None:
    files = sorted(CONFIGS.glob("*.yaml"))
    assert files
    for file in files:
        kind: type = PretrainConfig if file.stem.startswith("pretrain-") else Config
        assert isinstance(parse_settings(kind, ["--config", str(file)], program="test", description=""), kind)
        first = file.read_text("utf-8").splitlines()[0]
        assert first.startswith("#"), f"{file} must open with the command that uses it"


def test_the_tweets_configuration_is_the_default() -> None:
    """Also for automatic choices: settings of a file are explicit, even if equal to the default."""
    argv = ["--config", str(CONFIGS / "tweets.yaml")]
    config = parse_config(argv, program="test", description="")
    assert config == Config()
    assert user_keys(config, given_keys(argv)) == {"data.train"}


# -- calibrated probabilities ----------------------------------------------------------------------


def test_training_reports_calibration_and_label_sets(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    facts = metrics["calibration"]
    assert 0.05 <= facts["temperature"] <= 20
    for split in ("validation", "test"):
        assert facts[split]["ece_after"] == metrics[split]["ece"]
        assert set(facts[split]["label_sets"]) == {"0.8", "0.9", "0.95"}
        assert all(1 <= of["labels"] <= 3 for of in facts[split]["label_sets"].values())
    assert all(name in metrics["test"] for name in ("flip_rate", "polar_f1", "ordinal_error"))


def test_predict_prints_sets_abstentions_and_details(
    trained: Path, classifier: SentimentClassifier, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked = ["--coverage", "0.99", "--abstain-below", "1", "--details"]
    predict.main([str(trained), "qwertz asdfgh", *asked])
    shown = capsys.readouterr().out
    expected = classifier.predict("qwertz asdfgh", coverage=0.99)[0].label_set
    assert expected is not None
    assert shown.startswith("(unsure)   (negative ")
    assert shown.endswith(f"  qwertz asdfgh  [{' or '.join(expected)}; 100 % unknown, 0 cut]\n")

    file = write_csv(tmp_path / "in.csv", [("qwertz", "2"), ("", "2")])
    predict.main([str(trained), "--file", str(file), "--out", str(tmp_path / "out.csv"), *asked])
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["predicted_label"] for row in rows] == ["", ""]
    sets = [p.label_set or [] for p in classifier.predict(["qwertz", ""], coverage=0.99)]
    assert [row["label_set"] for row in rows] == ["|".join(of_row) for of_row in sets]
    details = [(row["unknown_share"], row["cut_tokens"], row["unread"]) for row in rows]
    assert details == [("1.0", "0", "false"), ("0.0", "0", "true")]

    predict.main([str(trained), "--file", str(file), *asked])
    records = [strictly(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["predicted_label"] for record in records] == [None, None]


@pytest.mark.parametrize("flags", [("--coverage", "90"), ("--abstain-below", "2")])
def test_an_invalid_fraction_is_a_usage_error(
    trained: Path, flags: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = fail(predict.main, [str(trained), "good", *flags], monkeypatch, capsys)
    assert code == 2
    assert "must lie between 0 and 1" in errors


def test_a_metric_undefined_for_the_classes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(text, "sport" if label == "neutral" else "politics") for text, label in make_rows(60)]
    data = write_csv(tmp_path / "data.csv", rows)
    argv = [f"--data.train={data}", f"--out={tmp_path / 'run'}", "--trainer.metric=flip_rate", *TINY]
    code, errors = fail(train.main, argv, monkeypatch, capsys)
    assert code == 2
    assert errors.startswith("error: trainer.metric: 'flip_rate' needs classes named negative and positive")
    assert not (tmp_path / "run").exists()


def test_a_polarity_metric_can_select_the_best_epoch(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", make_rows(120))
    argv = [f"--data.train={data}", f"--out={tmp_path / 'run'}", "--trainer.metric=flip_rate", *TINY]
    train.main([*argv, "--trainer.epochs=3", "--baseline=false"])
    log = [strictly(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    best = json.loads((tmp_path / "run" / "metrics.json").read_text())["best_epoch"]
    rates = [entry["validation_flip_rate"] for entry in log]
    assert rates[best - 1] == min(rates)


def test_a_run_that_does_not_exist_gets_the_name_of_one_that_does(trained_run: Path) -> None:
    meant = trained_run.with_name("rnu")
    message = f"{meant}: is not a run folder (it does not exist). Did you mean '{trained_run.name}'?"
    with pytest.raises(RunError) as caught:
        lstm_sentiment.load(meant)
    assert str(caught.value) == message
