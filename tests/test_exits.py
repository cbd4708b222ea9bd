"""Exit codes of failed writes, and leftovers of stopped commands."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faults
import pytest
from attacks import GOOD_RUN
from conftest import TINY, make_rows, time_limit, write_csv
from forks import Job, start_code

from lstm_sentiment import (
    compare,
    doctor,
    evaluate,
    explain,
    export,
    predict,
    pretrain,
    report,
    suspects,
    train,
)
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import log_to
from lstm_sentiment.data.formats.writers import open_table
from lstm_sentiment.data.word_vectors import load_vectors
from lstm_sentiment.system.files import unfinished
from lstm_sentiment.text.tokenizers import Vocabulary

Main = Callable[[list[str]], None]
FULL = Path("/dev/full")
NO_ROOM = "cannot be written: No space left on device"
TOO_LARGE = "cannot be written: File too large"
linux = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
needs_mount = pytest.mark.skipif(
    bool(faults.no_disk_to_fill()), reason=f"cannot mount a small disk: {faults.no_disk_to_fill()}"
)
MAINS: dict[str, Main] = {
    "train": train.main,
    "predict": predict.main,
    "evaluate": evaluate.main,
    "compare": compare.main,
    "report": report.main,
    "explain": explain.main,
    "doctor": doctor.main,
    "suspects": suspects.main,
    "export": export.main,
    "pretrain": pretrain.main,
}


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    import logging

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # What other tests left may write to a stream that is closed.
    root.handlers[:] = [one for one in handlers if type(one).__module__.startswith("_pytest")]
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a run, labelled and unlabelled rows."""
    shutil.copytree(GOOD_RUN, tmp_path / "run")
    rows = [("great", "positive"), ("awful", "negative"), ("usual", "neutral")] * 40
    write_csv(tmp_path / "rows.csv", rows)
    write_csv(tmp_path / "train.csv", make_rows(120))
    return tmp_path


def arguments(command: str, place: Path, out: Path) -> list[str]:
    """Return a command line that writes the output of a command to `out`."""
    run, rows = str(place / "run"), str(place / "rows.csv")
    alone = ["--pretrained=null", "--data.validation=null", "--data.test=null", "--trainer.threads=1"]
    quick = [*TINY, "--trainer.epochs=1", f"--out={out}"]
    return {
        "train": [f"--data.train={place / 'train.csv'}", "--pretrained=null", "--baseline=false", *quick],
        "predict": [run, f"--file={rows}", f"--out={out}.csv"],
        "evaluate": [run, rows, f"--out={out}.json"],
        "compare": [run, run, rows, f"--out={out}.json"],
        "report": [run],
        "explain": [run, "great", "--method=occlusion", f"--html={out}.html", f"--json={out}.json"],
        "doctor": [run, f"--json={out}.json"],
        "suspects": [str(place / "train.csv"), *alone, f"--out={out}.csv"],
        "export": [run, f"--out={out}"],
        "pretrain": [f"--data.train={place / 'train.csv'}", *quick],
    }[command]


def code_of(main: Main, argv: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command like a process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["command", *argv])
    with pytest.raises(SystemExit) as left:
        run_command(main)
    return left.value.code


@contextlib.contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Limit the file size, so that writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def left_in(folder: Path) -> list[str]:
    """Return the unfinished files in a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name != ".lock")


@linux
@pytest.mark.parametrize("command", MAINS)
def test_a_full_stdout_is_code_5_and_one_message(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = arguments(command, place, place / "out")
    if command == "predict":
        argv.pop()  # with --out nothing is printed
    with FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code = code_of(MAINS[command], argv, monkeypatch)
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    errors = capsys.readouterr().err
    reported = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert reported == [f"error: standard output: {NO_ROOM}; make room, or choose another place"]
    assert "Traceback" not in errors
    assert "Logging error" not in errors
    assert code == 5
    assert left_in(place) == []


@linux
@pytest.mark.parametrize("argv", [["--help"], ["predict", "--help"], ["--version"]])
def test_help_on_a_full_stdout_is_code_5(argv: list[str]) -> None:
    """In a subprocess: at exit Python would replace the code."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "lstm_sentiment", *argv]
    with FULL.open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=buffered)
    assert done.stderr == f"error: standard output: {NO_ROOM}; make room, or choose another place\n"
    assert done.returncode == 5


@linux
def test_a_real_predict_on_a_full_stdout_is_code_5(place: Path) -> None:
    command = [sys.executable, "-m", "lstm_sentiment.predict", str(place / "run"), "great"]
    for stderr, expected in ((subprocess.PIPE, f"error: standard output: {NO_ROOM}; "), (None, None)):
        with FULL.open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=stderr or full, text=True)
        assert done.returncode == 5
        if expected:
            assert done.stderr.startswith(expected)
            assert done.stderr.count("\n") == 1


def test_a_closed_stdout_is_not_an_error(place: Path) -> None:
    command = f'"{sys.executable}" -m lstm_sentiment.predict "{place / "run"}" great >&-'
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


WRITTEN = {  # command -> expected part of the message that names the output
    "train": "vocabulary.json: cannot be written: ",
    "predict": "out.csv: cannot be written: ",
    "evaluate": "out.json: cannot be written: ",
    "compare": "out.json: cannot be written: ",
    "report": "report.html: cannot be written: ",
    "explain": "out.json: cannot be written: ",
    "doctor": "out.json: cannot be written: ",
    "suspects": "out.csv: cannot be written: ",
    "export": "out: cannot be written: ",
    "pretrain": "vocabulary.json: cannot be written: ",
}


@pytest.mark.parametrize("command", MAINS)
def test_a_file_that_cannot_be_written_is_code_5_and_named(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The OS error of a file size limit is used for that of a full disk."""
    argv = arguments(command, place, place / "out")
    if command in ("train", "pretrain", "suspects"):  # the cache is written before the run
        monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(place / "cache"))
        first = place / ("first.csv" if command == "suspects" else "first")
        assert code_of(MAINS[command], [*argv, f"--out={first}"], monkeypatch) == 0
        capsys.readouterr()
    with no_file_larger_than(100):
        code = code_of(MAINS[command], argv, monkeypatch)
    errors = capsys.readouterr().err
    reported = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(reported) == 1
    assert WRITTEN[command] in reported[0], errors
    assert "make room, or choose another place" in reported[0]
    assert "Traceback" not in errors
    assert code == 5
    assert not (place / "out.csv").exists()
    assert not (place / "out.json").exists()
    assert left_in(place) == []


@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_a_cache_that_cannot_be_written_is_code_5(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(place / "cache"))
    with no_file_larger_than(100):
        assert code_of(MAINS[command], arguments(command, place, place / "out"), monkeypatch) == 5
    reported = capsys.readouterr().err
    assert reported.startswith(f"error: {place / 'cache'}: {TOO_LARGE} (")
    assert "set by LSTM_SENTIMENT_CACHE" in reported
    assert list((place / "cache").iterdir()) == []


@needs_mount
@pytest.mark.parametrize("command", ["export", "predict", "report", "train"])
def test_a_full_tmpfs_is_code_5(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with faults.small_disk(place / "disk", "256k") as disk:
        if command == "report":
            shutil.copytree(GOOD_RUN, disk / "run")
        faults.fill(disk, leave=8192)
        before = sorted(disk.rglob("*"))
        argv = arguments(command, place, disk / "out")
        if command == "report":
            argv = [str(disk / "run")]
        assert code_of(MAINS[command], argv, monkeypatch) == 5
        reported = capsys.readouterr().err
        assert f"{NO_ROOM} (" in reported, reported
        assert " bytes free" in reported
        if command != "train":  # which leaves a resumable run
            assert sorted(disk.rglob("*")) == before


def test_curves_that_cannot_be_written_are_code_5(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lstm_sentiment.training.tensorboard import Curves

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def draw(_: list[str]) -> None:
        with Curves(place / "tensorboard", settings="") as curves:
            monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", failing)
            curves.add(1, {"loss": 1.0})

    assert code_of(draw, [], monkeypatch) == 5
    assert capsys.readouterr().err.startswith(f"error: {place / 'tensorboard'}: {NO_ROOM} (")


def test_vectors_that_cannot_be_cached_are_code_5(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = place / "vectors.txt"
    file.write_text("".join(f"word{i} " + " ".join(["0.5"] * 50) + "\n" for i in range(1000)))

    def read(_: list[str]) -> None:
        load_vectors(str(file), Vocabulary(["word1"]), size=50, seed=0, cache=place)

    with no_file_larger_than(1000):
        assert code_of(read, [], monkeypatch) == 5
    assert ": cannot be written: " in capsys.readouterr().err
    assert file.exists()


def test_an_os_error_with_a_filename_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[str]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/some.csv")

    assert code_of(fail, [], monkeypatch) == 5
    assert capsys.readouterr().err == (
        f"error: /tmp/some.csv: {NO_ROOM}; make room, or choose another place\n"
    )


def test_other_os_errors_are_internal_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a traceback and exit code 1."""

    def fail(_: list[str]) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(PermissionError):
        run_command(fail)


def test_lost_log_lines_are_reported_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import logging

    class Full(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(text)

    stream = Full()

    def work(_: list[str]) -> None:
        log_to(stream, logging.INFO)
        log = logging.getLogger("lstm_sentiment.test")
        log.info("lost")
        stream.full = False
        log.info("kept")

    assert code_of(work, [], monkeypatch) == 5
    assert stream.getvalue() == "kept\n"
    errors = capsys.readouterr().err
    assert errors == f"error: standard output: {NO_ROOM}; make room, or choose another place\n"
    assert code_of(lambda _: None, [], monkeypatch) == 0


DEVICES = {
    "evaluate": ["run", "rows.csv", "--out=DEVICE"],
    "compare": ["run", "run", "rows.csv", "--out=DEVICE"],
    "explain": ["run", "great", "--json=DEVICE"],
    "doctor": ["run", "--json=DEVICE"],
    "suspects": ["rows.csv", "--out=DEVICE"],
    "predict": ["run", "--file=rows.csv", "--out=DEVICE"],
}


@pytest.mark.parametrize("command", DEVICES)
def test_devices_and_pipes_are_not_replaced_by_files(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: --out /dev/null replaced the device by a file."""
    monkeypatch.chdir(place)
    os.mkfifo("pipe.csv")
    argv = [word.replace("DEVICE", "pipe.csv") for word in DEVICES[command]]
    assert code_of(MAINS[command], argv, monkeypatch) == 2
    assert capsys.readouterr().err == "error: pipe.csv: is a device or a pipe; name a file\n"
    assert Path("pipe.csv").is_fifo()


# -- stopped commands ------------------------------------------------------------------------------

LABELS_SLOWLY = """
import sys, time
import lstm_sentiment.predict as predict
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.cli.exits import run_command

real = SentimentClassifier.predict_arrays

def slowly(classifier, texts, **options):
    print("begun", flush=True)
    for _ in range(600):
        time.sleep(0.1)
    return real(classifier, texts, **options)

SentimentClassifier.predict_arrays = slowly
run_command(predict.main)
"""


@contextlib.contextmanager
def labelling(place: Path) -> Iterator[Job]:
    """Start a command that is in the middle of labelling a file."""
    argv = [str(place / "run"), f"--file={place / 'rows.csv'}", f"--out={place / 'out.csv'}"]
    (place / "process").mkdir()
    job = start_code(LABELS_SLOWLY, *argv, folder=place / "process")
    try:
        with time_limit(240):
            while job.stdout != "begun\n":
                assert job.process.is_alive(), job.stderr
                time.sleep(0.02)
        yield job
    finally:
        job.process.kill()
        job.process.join()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_terminated_command_leaves_no_files(place: Path, name: str) -> None:
    with labelling(place) as job:
        assert len(left_in(place)) == 1
        os.kill(job.pid, getattr(signal, name))
        assert job.wait(60) == 128 + getattr(signal, name)
        assert "Traceback" not in job.stderr
    assert left_in(place) == []
    assert not (place / "out.csv").exists()


def test_leftovers_of_a_kill_are_removed_by_the_next_command(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with labelling(place) as job:
        job.process.kill()
        job.wait(60)
    [left] = left_in(place)  # the control: it could not be removed
    argv = [str(place / "run"), f"--file={place / 'rows.csv'}", f"--out={place / 'out.csv'}"]
    assert code_of(predict.main, argv, monkeypatch) == 0
    assert left_in(place) == [left], "what is so young may be somebody's"
    os.utime(place / left, (0, 0))
    assert code_of(predict.main, argv, monkeypatch) == 0
    assert left_in(place) == []


def test_files_being_written_by_another_process_are_not_removed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = [str(place / "run"), f"--file={place / 'rows.csv'}", f"--out={place / 'out.csv'}"]
    with labelling(place) as job:
        [unfinished_name] = left_in(place)
        os.utime(place / unfinished_name, (0, 0))
        assert code_of(predict.main, argv, monkeypatch) == 0
        assert left_in(place) == [unfinished_name]
        assert job.process.is_alive()


@pytest.mark.parametrize("command", ["evaluate", "explain", "export"])
def test_every_command_removes_leftovers_of_its_file(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = {"export": "out"}.get(command, "out.json")
    left, other = unfinished(place / name), unfinished(place / "another.json")
    left.mkdir() if command == "export" else left.touch()
    other.touch()
    link = unfinished(place / name)
    link.symlink_to(place / "rows.csv")
    for path in (left, other):
        os.utime(path, (time.time() - 600,) * 2)
    assert code_of(MAINS[command], arguments(command, place, place / "out"), monkeypatch) == 0
    assert left_in(place) == sorted([other.name, link.name])
    assert (place / "rows.csv").exists()


def test_signal_handlers_are_restored_after_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)]
    heard: list[Any] = []
    code = code_of(lambda _: heard.append(signal.getsignal(signal.SIGTERM)), [], monkeypatch)
    assert code == 0
    assert callable(heard[0])
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)] == before


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        heard: list[Any] = []
        code_of(lambda _: heard.append(signal.getsignal(signal.SIGHUP)), [], monkeypatch)
        assert heard == [signal.SIG_IGN]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_table_is_not_written_to_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(Exception, match="is a device or a pipe"), open_table(str(tmp_path / "a.csv")):
        pass
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == '["a.csv"]'
