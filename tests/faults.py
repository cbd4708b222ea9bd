"""Fault injection into checkpoints, for tests and scripts/soak: kills, flipped bits, a full disk.

Each function repeats a fault and returns counts; `lost` must be 0.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import TINY, Killed, make_rows, write_csv
from forks import FORKS
from tqdm import tqdm

from lstm_sentiment.checkpoints.manifest import MANIFEST
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, SHARED_FILES, RunFolder
from lstm_sentiment.errors import CheckpointError, DiskError

Counts = dict[str, int]
KILLED = -9  # exit code of a killed process


# -- a run whose checkpoints have the step in every value -------------------------------------------


def begin(path: Path) -> RunFolder:
    run = RunFolder(path)
    run.begin(config_yaml="seed: 0\n", vocabulary=["good", "não"], labels=["neg", "pos"], label_map={})
    return run


def tensors_of(step: int, size: int = 5000) -> dict[str, dict[str, torch.Tensor]]:
    weights = torch.full((size,), float(step))
    return {"model": {"a": weights, "b": weights[:3].clone()}, "optimizer": {"a": weights}}


def save(run: RunFolder, name: str, step: int, size: int = 5000) -> None:
    run.save(name, tensors_of(step, size), {"step": step})


def step_of(run: RunFolder, name: str) -> int:
    """Load a checkpoint, check that all its values belong to one step, and return the step."""
    checkpoint = run.load(name)
    step = checkpoint.facts["step"]
    assert isinstance(step, int)
    size = len(checkpoint.tensors["model"]["a"])
    for group, tensors in tensors_of(step, size).items():
        for key, tensor in tensors.items():
            assert torch.equal(checkpoint.tensors[group][key], tensor), f"{group}: {key}"
    return step


# -- kills -----------------------------------------------------------------------------------------


def kills(count: int, folder: Path, *, seed: int = 0) -> Counts:
    """Kill a process that saves continuously at random moments, and load what is left.

    Each process continues from what the previous one left, as a resumed run does.

    Returns:
        `kills`; `inside` a save, by what was left lying; `lost`: nothing could be loaded, or something
        older than the last save that had returned.
    """
    run = begin(folder / "run")
    for name in (BEST, LAST):
        save(run, name, 0)
    counts = {"kills": 0, "inside": 0, "lost": 0}
    for saved in _killed_savers(keep_saving, run.path, count, seed=seed):
        counts["kills"] += 1
        counts["inside"] += bool(list(run.path.glob(".*.tmp"))) or not (run.path / LAST).exists()
        try:
            steps = [step_of(RunFolder(run.path), name) for name in (BEST, LAST)]
            counts["lost"] += not all(saved <= step <= saved + 1 for step in steps)
        except (CheckpointError, AssertionError):
            counts["lost"] += 1
            shutil.rmtree(run.path)
            run = begin(run.path)
            for name in (BEST, LAST):
                save(run, name, 0)
    return counts


def kills_of_a_plain_save(count: int, folder: Path, *, seed: int = 0) -> Counts:
    """The same for a process that overwrites its only file with `torch.save`."""
    file = folder / "checkpoint.pt"
    save_in_place(file, 0)
    counts = {"kills": 0, "lost": 0}
    for saved in _killed_savers(keep_saving_in_place, file, count, seed=seed):
        counts["kills"] += 1
        try:
            counts["lost"] += torch.load(file, weights_only=True)["step"] < saved
        except Exception:  # any error of torch on a truncated file
            counts["lost"] += 1
            save_in_place(file, 0)
    return counts


def save_in_place(file: Path, step: int) -> None:
    torch.save({**tensors_of(step), "step": step}, file)


def keep_saving(path: Path, saved: Any, ready: Any) -> None:
    """Save best and last continuously until killed; print each completed step."""
    torch.set_num_threads(1)
    run = RunFolder(path)
    step = step_of(run, LAST)
    saved.value = min(step, step_of(run, BEST))
    ready.send_bytes(b"ready")
    while True:
        step += 1
        for name in (BEST, LAST):
            save(run, name, step)
        saved.value = step


def keep_saving_in_place(file: Path, saved: Any, ready: Any) -> None:
    torch.set_num_threads(1)
    saved.value = step = torch.load(file, weights_only=True)["step"]
    ready.send_bytes(b"ready")
    while True:
        step += 1
        save_in_place(file, step)
        saved.value = step


def _killed_savers(save_on: Callable[..., None], path: Path, count: int, *, seed: int) -> Iterator[int]:
    """Start and kill a process `count` times; yield the last step that it reported as saved."""
    randomness = random.Random(seed)
    for _ in range(count):
        saved = FORKS.RawValue(ctypes.c_int64, 0)
        ready, sender = FORKS.Pipe(duplex=False)
        with ready:
            process = FORKS.Process(target=save_on, args=(path, saved, sender))
            process.start()
            sender.close()
            ready.recv_bytes()
            time.sleep(randomness.uniform(0, 0.04))
            process.kill()
            process.join()
        assert process.exitcode == KILLED, f"it ended by itself, with {process.exitcode}"
        process.close()
        yield saved.value


WRITES: list[tuple[Any, str]] = [
    (os, "fsync"),
    (Path, "write_bytes"),
    (Path, "rename"),
    (Path, "replace"),
    (Path, "mkdir"),
    (Path, "unlink"),
    (shutil, "rmtree"),
    (safetensors.torch, "save_file"),
]


def kill_at(monkeypatch: pytest.MonkeyPatch, place: int, *, after: bool) -> list[str]:
    """Simulate a kill at the n-th change to the disk: after it with `after`, else before it."""
    done: list[str] = []

    def stopping(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(done) >= place:
                raise Killed
            if len(done) == place - 1 and not after:
                done.append(name)
                raise Killed
            done.append(name)
            result = real(*args, **kwargs)
            if len(done) == place:
                raise Killed
            return result

        return call

    for owner, name in WRITES:
        monkeypatch.setattr(owner, name, stopping(name, getattr(owner, name)))
    return done


# -- kills of the command --------------------------------------------------------------------------


def command_kills(count: int, folder: Path, *, seed: int = 0) -> Counts:
    """Kill `python -m lstm_sentiment.train --resume true` at random moments and resume.

    Returns:
        `kills`; `runs` that were brought to their end; `lost`: a checkpoint older than the last one
        written, none where there was one, or a run that ended with other weights than one left alone.
    """
    data = write_csv(folder / "data.csv", make_rows(240))
    argv = [f"--data.train={data}", *TINY, "--trainer.epochs=2", "--trainer.checkpoint_every=2"]
    argv += ["--baseline=false", "--resume=true"]
    randomness, straight = random.Random(seed), folder / "straight"
    started = time.monotonic()
    _train([*argv, f"--out={straight}"], None)
    life_s = time.monotonic() - started
    counts = {"kills": 0, "runs": 0, "lost": 0}
    while counts["kills"] < count:
        out = folder / f"run-{counts['runs']}"
        finished = False
        while not finished:
            waits_s = randomness.uniform(0, 0.9 * life_s) if counts["kills"] < count else None
            before = _step_of_run(out)
            started = time.monotonic()
            saved = _train([*argv, f"--out={out}"], waits_s)
            finished = saved is None
            if finished and before == 0:  # all of a life: on a busy machine some are much longer than others
                life_s = time.monotonic() - started
            if saved is not None:
                counts["kills"] += 1
                counts["lost"] += not max(saved, before) <= _step_of_run(out) <= max(saved, before) + 2
        counts["runs"] += 1
        names = [f"{name}/model.safetensors" for name in (BEST, LAST)] + [f"{LAST}/optimizer.safetensors"]
        counts["lost"] += any((out / n).read_bytes() != (straight / n).read_bytes() for n in names)
    return counts


def _step_of_run(out: Path) -> int:
    """Return the step to resume from: 0 if none was saved, -1 if none can be read."""
    try:
        return int(RunFolder(out).load(LAST).facts["training"]["step"]) if RunFolder(out).has(LAST) else 0
    except CheckpointError:
        return -1


def _train(argv: list[str], kill_after_s: float | None) -> int | None:
    """Run the command; return the last step saved before it was killed, None if it finished."""
    saved = FORKS.RawValue(ctypes.c_int64, 0)
    process = FORKS.Process(target=train_and_print, args=(argv, saved))
    process.start()
    process.join(kill_after_s)
    process.kill()
    process.join()
    code = process.exitcode
    process.close()
    assert code in (0, KILLED), f"the command left with {code}"
    return int(saved.value) if code == KILLED else None


def train_and_print(argv: list[str], saved: Any) -> None:
    """Run the command in this process; print the saved steps."""
    from lstm_sentiment.cli.exits import run_command
    from lstm_sentiment.train import main

    tqdm.set_lock(threading.RLock())  # a kill would leak tqdm's own lock
    real = RunFolder.save

    def save_and_print(run: RunFolder, name: str, groups: Any, facts: Any) -> None:
        real(run, name, groups, facts)
        if name == LAST:
            saved.value = facts["training"]["step"]

    RunFolder.save = save_and_print  # type: ignore[method-assign]
    os.environ["LSTM_SENTIMENT_CACHE"] = str(Path(argv[0].partition("=")[2]).parent / "cache")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.argv[1:] = argv
    run_command(main)


# -- damage ----------------------------------------------------------------------------------------


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def flips(count: int, folder: Path, *, seed: int = 0) -> Counts:
    """Flip single bits of a checkpoint and of the files that it depends on, one at a time, and load it.

    Returns:
        `flips`; `lost`: those not detected, or whose message did not name the damaged file.
    """
    run = begin(folder / "run")
    save(run, BEST, 1, size=50)
    files = _files(run)
    sizes = [8 * file.stat().st_size for file in files]
    randomness, counts = random.Random(seed), {"flips": 0, "lost": 0}
    for file in randomness.choices(files, weights=sizes, k=count):
        bit = randomness.randrange(8 * file.stat().st_size)
        flip(file, bit)
        counts["flips"] += 1
        counts["lost"] += not is_detected(run, file)
        flip(file, bit)
    assert step_of(run, BEST) == 1
    return counts


def truncations(count: int, folder: Path) -> Counts:
    """Truncate each file of a checkpoint, and those that it depends on, to every length, and load it.

    Args:
        count: numbers in the larger of the tensors.
        folder: to do it in.
    """
    run = begin(folder / "run")
    save(run, BEST, 1, size=count)
    counts = {"truncations": 0, "lost": 0}
    for file in _files(run):
        content = file.read_bytes()
        for length in range(len(content)):
            file.write_bytes(content[:length])
            counts["truncations"] += 1
            counts["lost"] += not is_detected(run, file)
        file.write_bytes(content)
    assert step_of(run, BEST) == 1
    return counts


def _files(run: RunFolder) -> list[Path]:
    """Return the files of the best checkpoint and those that it depends on."""
    return [*sorted((run.path / BEST).iterdir()), *(run.path / name for name in SHARED_FILES)]


def is_detected(run: RunFolder, damaged: Path) -> bool:
    """Whether loading the best checkpoint is refused with a message that names the damaged file.

    If a checksum of the manifest is changed, the message names the file that does not match it.
    """
    try:
        run.load(BEST)
    except CheckpointError as error:
        return str(run.path if damaged.name == MANIFEST else damaged) in str(error)
    return False


# -- a full disk -----------------------------------------------------------------------------------


@functools.cache
def no_disk_to_fill() -> str:
    """Return why no small file system can be mounted here, or an empty string."""
    command = "d=$(mktemp -d) && mount -t tmpfs -o size=64k tmpfs $d && umount $d; s=$?; rmdir $d; exit $s"
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    return (found.stderr.strip() or "mount failed") if found.returncode else ""


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """Mount a file system of the given size for the block."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, *, leave: int) -> None:
    """Fill a disk up to the given number of free bytes."""
    (place / "ballast").write_bytes(b"x" * (shutil.disk_usage(place).free - leave))


def fail_at(monkeypatch: pytest.MonkeyPatch, place: int, number: int) -> None:
    """Let the n-th writing call fail once with an OS error."""
    calls: list[str] = []

    def failing(owner: Any, name: str) -> Callable[..., Any]:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) != place:
                return real(*args, **kwargs)
            if name == "save_file":  # as reported by safetensors
                problem = f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})"
                raise safetensors.SafetensorError(problem)
            raise OSError(number, os.strerror(number))

        return call

    writing = [(safetensors.torch, "save_file"), (os, "fsync")]
    for owner, name in [*writing, (Path, "write_bytes"), (Path, "mkdir"), (Path, "rename")]:
        monkeypatch.setattr(owner, name, failing(owner, name))


def full_disk(positions: int, folder: Path) -> Counts:
    """Save to a disk that becomes full at various points of a save; then free space and save again.

    Returns:
        `positions`; `lost`: the checkpoint of before did not survive, something was left lying, the
        message lacks path or bytes, or nothing could be saved when there was room again.
    """
    counts = {"positions": 0, "lost": 0}
    with small_disk(folder / "disk", "1m") as disk:
        run = begin(disk / "run")
        for step in (1, 2):
            save(run, LAST, step)
        needed = sum(file.stat().st_blocks * 512 for file in (run.path / LAST).iterdir())
        for position in range(positions):
            fill(disk, leave=needed * position // positions)
            counts["positions"] += 1
            told_and_kept = survives_failed_save(run, step=2 + position)
            (disk / "ballast").unlink()
            save(run, LAST, 3 + position)
            counts["lost"] += not told_and_kept or step_of(run, LAST) != 3 + position
    return counts


def survives_failed_save(run: RunFolder, *, step: int) -> bool:
    """Whether a failed save gives the expected error and leaves exactly the old files."""
    try:
        save(run, LAST, step + 1)
    except DiskError as error:
        named = all(part in str(error) for part in (str(run.path / LAST), " bytes needed, ", " bytes free"))
        return named and not list(run.path.glob(".*.tmp")) and step_of(run, LAST) == step
    return False
