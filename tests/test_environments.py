"""Unusual environments: other encodings, no home folder, other option spellings."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, make_rows, write_csv

from lstm_sentiment import evaluate, load, predict, train
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import log_to, say, speak_utf8
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.errors import ConfigError, DiskError
from lstm_sentiment.estimator import SentimentEstimator
from lstm_sentiment.experiment.train import run
from lstm_sentiment.system import cache_folder as caching
from lstm_sentiment.system.cache_folder import cache_folder, notes_folder

EMOJI = "good room 😀"


# Runs predict on the text of the command line, then on standard input, as two processes would.
TWICE = """
import runpy, sys

run, text = sys.argv[1:]
for argv in ([run, text], [run]):
    sys.argv[1:] = argv
    try:
        runpy.run_module("lstm_sentiment.predict", run_name="__main__", alter_sys=True)
    except SystemExit as left:
        assert not left.code
"""


def test_output_of_a_process_is_utf8_in_the_c_locale(trained_run: Path) -> None:
    inherited = {name: of for name, of in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    said = subprocess.run(
        [sys.executable, "-c", TWICE, str(trained_run), EMOJI],
        input=f"{EMOJI}\né\n".encode(), capture_output=True, check=False, timeout=300,
        env={**inherited, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert (said.returncode, said.stderr) == (0, b"")
    check_predicted(said.stdout)


def check_predicted(output: bytes) -> None:
    """Check the output of predict for a text of the command line, then for two lines of standard input."""
    of_argument, *of_stdin = output.decode("utf-8").splitlines()
    assert EMOJI in of_argument
    assert [json.loads(line)["text"] for line in of_stdin] == [EMOJI, "é"]


def as_process(main: Callable[[list[str]], None], *argv: str, encoding: str, stdin: str = "") -> bytes:
    """Run a command as a process whose streams have an encoding, and return its output."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *argv])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding=encoding))
        patch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as left:
            run_command(main)
    assert not left.value.code
    return out.buffer.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_output_is_utf8_whatever_the_encoding(trained_run: Path, encoding: str) -> None:
    of_argument = as_process(predict.main, str(trained_run), EMOJI, encoding=encoding)
    of_stdin = as_process(predict.main, str(trained_run), encoding=encoding, stdin=f"{EMOJI}\né\n")
    check_predicted(of_argument + of_stdin)


def test_labels_with_emoji_are_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = write_csv(tmp_path / "data.csv", [(text, f"{label} 😀") for text, label in make_rows(120)])
    argv = [f"--data.train={data}", f"--out={tmp_path / 'run'}", *TINY, "--trainer.epochs=1"]
    said = as_process(train.main, *argv, "--pretrained=null", "--baseline=false", encoding="cp1252")
    assert "Logging error" not in capfd.readouterr().err
    assert "positive 😀" in said.decode("utf-8")
    assert "positive 😀" in (tmp_path / "run" / "labels.json").read_text(encoding="utf-8")


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_a_terminal_replaces_unsupported_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal(io.BytesIO(), encoding="cp1252")
    with pytest.raises(UnicodeEncodeError):  # the fault
        terminal.write(EMOJI)
    monkeypatch.setattr(sys, "stdout", terminal)
    say(f"{EMOJI} é")
    speak_utf8()
    terminal.write(EMOJI)
    terminal.flush()
    shown = terminal.buffer.getvalue().decode("cp1252")  # type: ignore[attr-defined]
    assert shown.split("\n") == ["good room \\U0001f600 é", "good room \\U0001f600"]


def test_unencodable_characters_lose_no_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        log_to(stream, logging.INFO)
        logging.getLogger("lstm_sentiment.x").info("label %s", EMOJI)
    finally:
        root.handlers[:], root.level = handlers, level
    stream.flush()
    assert stream.buffer.getvalue() == b"label good room \\U0001f600\n"  # type: ignore[attr-defined]
    assert "Logging error" not in capsys.readouterr().err


# -- no home folder --------------------------------------------------------------------------------


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Remove home and cache folder from the environment; return the temporary folder."""
    for name in (caching.VARIABLE, "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr(caching.tempfile, "tempdir", str(tmp_path))
    caching._temporary.cache_clear()
    return tmp_path


def test_loading_needs_no_home_and_writes_nothing(homeless: Path, trained_run: Path) -> None:
    assert load(trained_run, device="cpu").predict("good")[0].label
    assert not list(homeless.glob("lstm_sentiment-*"))
    assert not notes_folder().exists()


def test_training_without_a_home_works_in_a_temporary_folder(
    homeless: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_csv(homeless / "data.csv", make_rows(120))
    argv = [f"--data.train={data}", f"--out={homeless / 'run'}", *TINY, "--trainer.epochs=1"]
    run(parse_config([*argv, "--baseline=false"], program="", description=""))
    reported = [r.getMessage() for r in caplog.records if "LSTM_SENTIMENT_CACHE" in r.getMessage()]
    expected = (
        "there is no home folder: text is tokenised again in each process; set LSTM_SENTIMENT_CACHE to "
    )
    assert reported == [f"{expected}cache it"]
    assert cache_folder().parent == homeless


def test_an_unwritable_home_counts_as_missing(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path(os.devnull))
    assert cache_folder().parent == homeless
    assert f"{os.devnull}/.cache/lstm_sentiment cannot be written" in caplog.text
    monkeypatch.setattr(Path, "home", lambda: homeless)
    assert cache_folder() == homeless / ".cache" / "lstm_sentiment"  # the control
    monkeypatch.setenv(caching.VARIABLE, "/named")
    assert cache_folder() == Path("/named")


def test_no_writable_folder_is_an_error(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(**_: object) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(caching.tempfile, "mkdtemp", nowhere)
    with pytest.raises(DiskError, match="set LSTM_SENTIMENT_CACHE to a folder that can"):
        cache_folder()


# -- options ---------------------------------------------------------------------------------------


def test_options_accept_hyphens_and_underscores(
    trained_run: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = set()
    for text, below in [("--text_column", "--abstain-below"), ("--text-column", "--abstain_below")]:
        predict.main([str(trained_run), "--file", str(reviews), text, "text", f"{below}=0.9"])
        answers.add(capsys.readouterr().out)
    assert len(answers) == 1
    evaluate.main([str(trained_run), str(reviews), "--label-column=label", f"--out={tmp_path / 'a.json'}"])
    config = parse_config(
        ["--data.text-column", "a_b-c", "--trainer.batch-size=7"], program="", description=""
    )
    assert (config.data.text_column, config.trainer.batch_size) == ("a_b-c", 7)
    with pytest.raises(ConfigError, match="no such option"):
        parse_config(["--data.text-colum=x"], program="", description="")
    with pytest.raises(ConfigError, match="--text-columns: no such option"):
        predict.main([str(trained_run), "--text-columns", "x"])


def test_arguments_after_a_double_hyphen_are_text(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict.main([str(trained_run), "--", "--text-column"])
    assert "--text-column" in capsys.readouterr().out


def test_an_estimator_logs_to_a_limited_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    rows = [(f"{word} {i}", f"{word} 😀") for i in range(20) for word in ("good", "bad")]
    estimator = SentimentEstimator(epochs=1, embedding_size=8, hidden_size=8, threads=1, verbose=True)
    package = logging.getLogger("lstm_sentiment")
    monkeypatch.setattr(package, "hasHandlers", lambda: False)
    estimator.fit(*map(list, zip(*rows, strict=True)))
    stream.flush()
    assert b"good \\U0001f600" in stream.buffer.getvalue()  # type: ignore[attr-defined]
