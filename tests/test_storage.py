"""Kills, power cuts, damage, full disks and concurrent runs: no saved state is lost silently."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import power_cuts
import pytest
from conftest import TINY
from forks import FORKS

import lstm_sentiment.checkpoints.run_folder as checkpoint_module
import lstm_sentiment.system.files as files_module
from lstm_sentiment import predict, train
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, RunFolder
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import CheckpointError, DiskError, RunError
from lstm_sentiment.experiment.train import run as train_run
from lstm_sentiment.system import lock as locking
from lstm_sentiment.system.files import write_atomically, write_json
from lstm_sentiment.system.lock import LOCK, held
from lstm_sentiment.training.trainer import Trainer

Configure = Callable[..., Config]
needs_mount = pytest.mark.skipif(
    bool(faults.no_disk_to_fill()), reason=f"cannot mount a small disk: {faults.no_disk_to_fill()}"
)

# -- kills -----------------------------------------------------------------------------------------


def test_100_kills_inside_the_writer_lose_nothing(tmp_path: Path) -> None:
    """Thousands are in scripts/soak; fewer than these lose a checkpoint that is written plainly."""
    counts = faults.kills(100, tmp_path)
    assert counts["lost"] == 0
    assert counts["inside"] > 25, "nearly all kills came between two saves"


def test_a_plain_save_is_lost_by_the_same_kills(tmp_path: Path) -> None:
    """The control: these kills do harm. How many do depends on the disk: half or more did."""
    counts = faults.kills_of_a_plain_save(20, tmp_path)
    assert counts["lost"] >= 4


def test_6_kills_of_the_command_lose_nothing(tmp_path: Path) -> None:
    """The run is resumed each time and ends with the weights of an uninterrupted one."""
    assert faults.command_kills(6, tmp_path)["lost"] == 0


# -- power cuts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [BEST, LAST])
def test_a_power_cut_leaves_the_old_or_the_new_checkpoint(tmp_path: Path, name: str) -> None:
    counts = power_cuts.of_saves(3, tmp_path, name)
    assert counts["lost"] == 0
    assert counts["moments"] > 60
    assert counts["states"] > 60
    assert min(counts["old"], counts["new"]) > 0


@pytest.mark.parametrize(
    ("module", "forgotten"),
    [(checkpoint_module, "sync_file"), (checkpoint_module, "sync_folder"), (files_module, "sync_folder")],
)
def test_without_flushing_a_power_cut_loses_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, forgotten: str
) -> None:
    """The control, for each kind of fsync: of files, of a checkpoint's entries, of a new run's entry."""
    monkeypatch.setattr(module, forgotten, lambda path: None)
    assert power_cuts.of_saves(3, tmp_path, LAST)["lost"] > 0


def replaced_file(folder: Path, write: Callable[[Path, bytes], object]) -> dict[str, int]:
    """Replace a file's content, and read all states that a power cut could leave."""
    contents = [b"1 of old", b"2, the new content"]
    (folder / "disk").mkdir()
    with power_cuts.recorded(folder / "disk") as record:
        for safe, content in enumerate(contents, start=1):
            write(folder / "disk" / "log.jsonl", content)
            record.safe = safe

    def load(disk: Path) -> int:
        file = disk / "log.jsonl"
        return contents.index(file.read_bytes()) + 1 if file.exists() else 0

    return power_cuts.replay(record, folder / "replayed", load)


def test_a_power_cut_leaves_the_old_or_the_new_file(tmp_path: Path) -> None:
    counts = replaced_file(tmp_path, write_atomically)
    assert counts["lost"] == 0
    assert min(counts["old"], counts["new"]) > 0


def test_a_plain_write_is_lost_to_a_power_cut(tmp_path: Path) -> None:
    assert replaced_file(tmp_path, Path.write_bytes)["lost"] > 0


# -- damage ----------------------------------------------------------------------------------------


def test_2000_flipped_bits_are_detected_and_their_file_is_named(tmp_path: Path) -> None:
    assert faults.flips(2000, tmp_path) == {"flips": 2000, "lost": 0}


def test_every_truncation_is_detected_and_its_file_is_named(tmp_path: Path) -> None:
    counts = faults.truncations(5, tmp_path)
    assert counts["lost"] == 0
    assert counts["truncations"] > 800


def leaving(
    main: Callable[[list[str]], None], *argv: str, monkeypatch: pytest.MonkeyPatch
) -> int | str | None:
    """Run a command like a process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["command", *argv])
    with pytest.raises(SystemExit) as left:
        run_command(main)
    return left.value.code


def resuming(run: Path) -> list[str]:
    """Return the options that resume a copy of a run: its configuration must be named."""
    return [f"--config={run / 'config.yaml'}", f"--out={run}", "--resume=true"]


def test_resuming_without_a_usable_checkpoint_exits_with_3(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    for name in (LAST, "last.previous"):
        faults.flip(run / name / "optimizer.safetensors", 900)
    assert leaving(train.main, *resuming(run), monkeypatch=monkeypatch) == 3
    reported = capsys.readouterr().err
    assert reported.startswith("error: ")
    for name in (LAST, "last.previous"):
        assert f"{run / name / 'optimizer.safetensors'}: is damaged" in reported
    assert reported.endswith("Restore it from a copy, or train again\n")


def test_a_damaged_best_epoch_is_reported_before_training_resumes(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only at the end, hours later."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    faults.flip(run / BEST / "model.safetensors", 900)
    monkeypatch.setattr(Trainer, "fit", lambda trainer: pytest.fail("it went on"))
    with pytest.raises(CheckpointError, match=r"best/model\.safetensors: is damaged"):
        train.main(resuming(run))


def test_resuming_removes_leftovers_of_a_kill(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    shutil.copytree(run / LAST, run / ".last.77.tmp")
    (run / ".metrics.json.77.tmp").write_text("{")
    train.main(resuming(run))
    assert sorted(entry.name for entry in run.iterdir()) == sorted(e.name for e in trained_run.iterdir())


@pytest.mark.parametrize("name", ["labels.json", "vocabulary.json"])
def test_a_run_without_a_file_is_damaged(
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    (run / name).unlink()
    for main, argv in ((predict.main, [str(run), "great"]), (train.main, resuming(run))):
        assert leaving(main, *argv, monkeypatch=monkeypatch) == 3
        assert f"{run / name}: is missing" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 2000, b"- a list", None])
def test_unreadable_settings_are_damage(
    trained_run: Path, configure: Configure, tmp_path: Path, content: bytes | None
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    if content is None:
        (run / "config.yaml").unlink()
    else:
        (run / "config.yaml").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.yaml: is missing or damaged"):
        train_run(configure("--resume=true"))


# -- full and unwritable disks -----------------------------------------------------------------------


@needs_mount
def test_a_full_disk_never_loses_a_good_checkpoint(tmp_path: Path) -> None:
    assert faults.full_disk(10, tmp_path) == {"positions": 10, "lost": 0}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_an_error_at_any_point_of_a_save_loses_no_checkpoint(tmp_path: Path, number: int) -> None:
    """Simulates a full disk on any machine."""
    for place in range(1, 100):
        run = faults.begin(tmp_path / str(place))
        for step in (1, 2):
            faults.save(run, LAST, step, size=5)
        refused = None
        with pytest.MonkeyPatch.context() as patch:
            faults.fail_at(patch, place, number)
            try:
                faults.save(run, LAST, 3, size=5)
            except DiskError as error:
                refused = error
        if refused is None:
            break
        assert f"{run.path / LAST}: cannot be written: {os.strerror(number)} (" in str(refused)
        assert re.search(r"\([\d,]+ bytes needed, [\d,]+ bytes free\)", str(refused))
        assert str(refused).endswith("the previous checkpoint is intact: continue with --resume true")
        assert refused.exit_code == 5
        assert faults.step_of(run, LAST) in (2, 3)
        assert not list(run.path.glob(".*.tmp"))
        faults.save(run, LAST, 4, size=5)
        assert faults.step_of(run, LAST) == 4
    assert place > 10, "hardly any place was tried"
    assert faults.step_of(run, LAST) == 3, "an error was swallowed"


@needs_mount
def test_a_run_on_a_full_disk_exits_with_5_and_can_be_resumed(
    reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [f"--data.train={reviews}", *TINY, "--trainer.epochs=2", "--baseline=false", "--resume=true"]
    train.main([*argv, f"--out={tmp_path / 'straight'}"])
    sizes = [file.stat().st_size for file in (tmp_path / "straight").rglob("*") if file.is_file()]
    with faults.small_disk(tmp_path / "disk", str(sum(sizes) * 3 // 4)) as disk:
        run = disk / "run"
        assert leaving(train.main, *argv, f"--out={run}", monkeypatch=monkeypatch) == 5
        reported = capsys.readouterr().err
        assert re.match(
            rf"error: {run}/(best|last): cannot be written: No space left on device \([\d,]+ bytes needed, "
            r"[\d,]+ bytes free\); make room, or choose another place",
            reported,
        ), reported
        assert "Traceback" not in reported
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        train.main([*argv, f"--out={run}"])
        assert (run / BEST / "model.safetensors").read_bytes() == (
            tmp_path / "straight" / BEST / "model.safetensors"
        ).read_bytes()


@needs_mount
def test_a_full_disk_under_cache_or_predictions_is_reported(
    trained_run: Path,
    reviews: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with faults.small_disk(tmp_path / "disk", "64k") as disk:
        faults.fill(disk, leave=4096)
        monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(disk / "cache"))
        argv = [f"--data.train={reviews}", f"--out={tmp_path / 'run'}", *TINY]
        assert leaving(train.main, *argv, monkeypatch=monkeypatch) == 5
        reported = capsys.readouterr().err
        assert f"{disk / 'cache'}: cannot be written: No space left on device" in reported
        assert "LSTM_SENTIMENT_CACHE" in reported
        assert not (tmp_path / "run").exists()
        argv = [str(trained_run), "--file", str(reviews), "--out", str(disk / "answers.csv")]
        assert leaving(predict.main, *argv, monkeypatch=monkeypatch) == 5
        assert (
            f"{disk / 'answers.csv'}: cannot be written: No space left on device" in capsys.readouterr().err
        )
        assert sorted(path.name for path in disk.iterdir()) == ["ballast", "cache"]


# -- two runs in one folder --------------------------------------------------------------------------


def hold(folder: Path, ready: Any) -> None:
    """Lock a folder until killed."""
    with held(folder):
        ready.send_bytes(b"ready")
        ready.recv_bytes()


@pytest.fixture
def holder(tmp_path: Path) -> Any:
    """Another process that locks the folder `run`."""
    here, there = FORKS.Pipe()
    process = FORKS.Process(target=hold, args=(tmp_path / "run", there))
    process.start()
    here.recv_bytes()
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("flag", ["--resume=true", "--overwrite=true", "--resume=false"])
def test_a_second_run_is_refused_and_names_the_locking_process(
    configure: Configure, tmp_path: Path, holder: Any, flag: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RunError) as refused:
        train_run(configure(flag))
    found = re.fullmatch(
        rf"{tmp_path / 'run'}: is in use by process (\d+) on (\S+) since ([\d :+-]+); .+", str(refused.value)
    )
    assert found, refused.value
    assert found[1] == str(holder.pid)
    assert found[2] == socket.gethostname()
    assert refused.value.exit_code == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dead_process_holds_no_lock(configure: Configure, tmp_path: Path, holder: Any) -> None:
    holder.kill()
    holder.join()
    assert (tmp_path / "run" / LOCK).exists(), "it could not clear up"
    train_run(configure("--trainer.epochs=1"))
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_folder_is_locked_while_a_run_trains(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    real = RunFolder.save

    def save(folder: RunFolder, *args: Any) -> None:
        real(folder, *args)
        with pytest.raises(RunError, match=f"in use by process {os.getpid()} "), held(folder.path):
            pass
        tried.append(args[0])

    monkeypatch.setattr(RunFolder, "save", save)
    train_run(configure("--trainer.epochs=1"))
    assert {BEST, LAST} <= set(tried)
    assert not (tmp_path / "run" / LOCK).exists()


def test_the_content_of_a_lock_file_is_escaped(tmp_path: Path, holder: Any) -> None:
    lock = tmp_path / "run" / LOCK
    for content, reported in [
        (
            json.dumps({"pid": "\x1b[31m1", "host": "h\n", "since": "now"}),
            r"process \x1b[31m1 on h\n since now",
        ),
        ("", "another process"),
        ("[1]", "another process"),
        ("[" * 4096, "another process"),
    ]:
        lock.write_text(content)
        with pytest.raises(RunError, match=re.escape(f"is in use by {reported};")), held(tmp_path / "run"):
            pass


def test_a_lock_file_removed_by_its_holder_is_recreated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two processes would lock one folder: one the removed file, one the new one."""
    real, locked = locking.fcntl.flock, []

    def flock(handle: int, how: int) -> None:
        if not locked:
            (tmp_path / LOCK).unlink()
        locked.append(os.fstat(handle).st_ino)
        real(handle, how)

    monkeypatch.setattr(locking.fcntl, "flock", flock)
    with held(tmp_path):
        assert len(locked) == 2
        assert locked[-1] == (tmp_path / LOCK).stat().st_ino


def test_a_filesystem_without_locks_gives_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locking.fcntl, "flock", flock)
    with held(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert "has no locks" in caplog.text


def test_an_unwritable_path_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(DiskError, match=r"run: cannot be written: Permission denied .*allow writing, or"),
        held(tmp_path / "run"),
    ):
        pass


def test_needed_bytes_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    free = rf"{shutil.disk_usage(tmp_path).free:,}"[:-8]
    with pytest.raises(DiskError, match=rf"metrics\.json: .*\(1,204 bytes needed, {free}"):
        write_json(tmp_path / "metrics.json", "x" * 1201)
    assert list(tmp_path.iterdir()) == []
