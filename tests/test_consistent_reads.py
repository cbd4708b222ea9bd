"""Consistent reads: a checkpoint replaced during a read is read again."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lstm_sentiment.checkpoints import run_folder as checkpoint
from lstm_sentiment.checkpoints.expected import check_table, of_training, stored_table
from lstm_sentiment.checkpoints.manifest import read_tensors, verify, write_tensors
from lstm_sentiment.checkpoints.quantization import quantized
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, RunFolder
from lstm_sentiment.checkpoints.untrusted_files import check_tensors, json_of
from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.system import consistent_reads as settling
from lstm_sentiment.system.consistent_reads import held_in_place, settled

SHAPE = (50, 40)


def save(folder: RunFolder, name: str, step: int) -> None:
    folder.save(name, {"model": {"w": torch.full(SHAPE, float(step))}}, {"step": step})


def save_forever(path: Path, name: str) -> None:
    """Save step after step until the process is ended."""
    torch.set_num_threads(1)
    step = 0
    while True:
        step += 1
        save(RunFolder(path), name, step)


@pytest.fixture(params=[BEST, LAST])
def busy(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[RunFolder, str]]:
    """A run whose checkpoint is continuously replaced by another process."""
    folder = RunFolder(tmp_path / "run")
    folder.begin(config_yaml="seed: 0", vocabulary=[], labels=["a", "b"], label_map={})
    save(folder, request.param, 0)
    process = multiprocessing.get_context("fork").Process(
        target=save_forever, args=(folder.path, request.param), daemon=True
    )
    process.start()
    yield folder, request.param
    process.kill()
    process.join()


def read_naively(folder: RunFolder, name: str) -> checkpoint.Checkpoint:
    """Verify, then read by name: a checkpoint replaced in between is read."""
    place = folder.path / name
    verify(place, depends_on=[folder.path / "labels.json"])
    time.sleep(random.uniform(0, 0.01))
    tensors = {"model": read_tensors(place / "model.safetensors")}
    time.sleep(random.uniform(0, 0.01))
    return checkpoint.Checkpoint(tensors=tensors, facts=json_of(place / "state.json"))


def outcomes(read: Callable[[], checkpoint.Checkpoint], seconds: float) -> dict[str, int]:
    """Count loads that are consistent, mixed, and failed."""
    found = {"whole": 0, "mixed": 0, "failed": 0}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            loaded = read()
        except CheckpointError:
            found["failed"] += 1
            continue
        same = bool((loaded.tensors["model"]["w"] == loaded.facts["step"]).all())
        found["whole" if same else "mixed"] += 1
    return found


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_every_load_is_consistent_during_saves(
    busy: tuple[RunFolder, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a control: naive reads fail or mix steps."""
    folder, name = busy
    control = outcomes(lambda: read_naively(folder, name), 1)
    assert control["failed"] + control["mixed"] > 0, control
    found = outcomes(lambda: folder.load(name), 1)
    assert (found["mixed"], found["failed"]) == (0, 0)
    assert found["whole"] > 0

    def slow(file: Path) -> Any:
        time.sleep(random.uniform(0, 0.01))
        return read_tensors(file)

    monkeypatch.setattr(checkpoint, "read_tensors", slow)
    found = outcomes(lambda: folder.load(name), 1.5)
    assert (found["mixed"], found["failed"]) == (0, 0)
    assert found["whole"] > 0


def replaced(place: Path) -> None:
    """Replace a folder; file systems may reuse its inode number."""
    for _ in range(50):
        place.rmdir()
        place.mkdir()


@pytest.mark.parametrize("change", [replaced, Path.rmdir])
def test_a_replaced_folder_is_detected_for_any_inode(tmp_path: Path, change: Callable[[Path], None]) -> None:
    place = tmp_path / "last"
    place.mkdir()
    with pytest.raises(settling.ReplacedError), held_in_place(place):
        change(place)


def test_a_folder_that_is_gone_for_a_moment_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone when it is opened and listed, back when it is verified: then it would have no tensors."""
    folder, opened, verified = RunFolder(tmp_path / "run"), os.open, checkpoint.verify
    folder.begin(config_yaml="seed: 0", vocabulary=[], labels=["a", "b"], label_map={})
    save(folder, BEST, 1)
    place, away = folder.path / BEST, folder.path / "away"
    times = []

    def open_late(path: Any, *args: Any) -> int:
        if path == place and not times:
            times.append(place.rename(away))
        return opened(path, *args)

    def put_back(*_: Any) -> None:
        if away.exists():
            away.rename(place)

    def verify_late(*args: Any, **named: Any) -> None:
        put_back()
        verified(*args, **named)

    monkeypatch.setattr(settling.os, "open", open_late)
    monkeypatch.setattr(settling.time, "sleep", put_back)
    monkeypatch.setattr(checkpoint, "verify", verify_late)
    loaded = folder.load(BEST)
    assert times
    assert loaded.tensors["model"]["w"][0, 0] == loaded.facts["step"] == 1


def test_persistent_damage_is_reported_at_once(tmp_path: Path) -> None:
    """Not after the time for which a checkpoint that is being replaced is waited for."""
    folder = RunFolder(tmp_path / "run")
    folder.begin(config_yaml="seed: 0", vocabulary=[], labels=["a", "b"], label_map={})
    save(folder, BEST, 1)
    (folder.path / BEST / "state.json").write_text("{}")
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="damaged or was replaced"):
        folder.load(BEST)
    assert time.monotonic() - started < settling.PATIENCE_S / 2


def test_loading_gives_up_after_endless_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "PATIENCE_S", 0.2)

    def attempt() -> None:
        raise settling.ReplacedError("again")

    with pytest.raises(CheckpointError, match="replaced faster than it can be read; try again"):
        settled(attempt, tmp_path)


# -- headers -----------------------------------------------------------------------------------------


def test_a_packed_file_has_the_expected_header(tmp_path: Path) -> None:
    weights = {"embedding.weight": torch.randn(7, 3), "x_lstms.0.w": torch.randn(4, 4), "b": torch.randn(5)}
    tensors, kinds = quantized(weights)
    write_tensors(tmp_path / "model.safetensors", tensors)
    found = check_tensors(tmp_path / "model.safetensors")
    expected = stored_table({name: tuple(weight.shape) for name, weight in weights.items()}, kinds)
    check_table(found, expected)
    with pytest.raises(CheckpointError, match="missing or added"):
        check_table(found, stored_table({name: tuple(weight.shape) for name, weight in weights.items()}))


def test_a_checkpoint_of_another_model_is_refused_before_reading_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(config_yaml="seed: 0", vocabulary=[], labels=["a", "b"], label_map={})
    save(folder, LAST, 1)
    folder.load(LAST, of_training({"w": SHAPE}))
    monkeypatch.setattr(checkpoint, "read_tensors", lambda _: pytest.fail("it was read"))
    with pytest.raises(CheckpointError, match=r"last: w has the shape \(50, 40\), and config.yaml asks for"):
        folder.load(LAST, of_training({"w": (2,)}))
    folder.save(LAST, {"model": {"w": torch.zeros(SHAPE)}, "more": {"x": torch.zeros(1)}}, {})
    with pytest.raises(
        CheckpointError, match=r"unexpected files for a checkpoint of this kind: more\.safetensors"
    ):
        folder.load(LAST, of_training({"w": SHAPE}))
