"""File permissions, and errors without read permission."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lstm_sentiment import compare, doctor, evaluate, explain, export, load, predict, report, train
from lstm_sentiment.checkpoints.manifest import write_tensors
from lstm_sentiment.checkpoints.run_folder import BEST, LAST
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import NoPermissionError, SentimentError
from lstm_sentiment.experiment.train import run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")
NOBODY = 65534


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def as_another_user() -> Iterator[None]:
    """Run the block as another user if the tests run as root, who can read everything."""
    root = os.geteuid() == 0
    if root:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)


@pytest.fixture
def public(trained_run: Path) -> Iterator[Path]:
    """A world-readable copy of a run; pytest's folders are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        shutil.copytree(trained_run, Path(folder) / "run")
        yield Path(folder) / "run"


def modes(folder: Path) -> dict[str, set[int]]:
    """Return the modes of all files and folders."""
    found: dict[str, set[int]] = {"files": set(), "folders": {stat.S_IMODE(folder.stat().st_mode)}}
    for path in folder.rglob("*"):
        found["folders" if path.is_dir() else "files"].add(stat.S_IMODE(path.stat().st_mode))
    return found


@pytest.mark.parametrize("mask", [0o002, 0o077])
def test_the_umask_alone_decides_who_may_read_what_is_written(
    tmp_path: Path, configure: Callable[..., Config], mask: int
) -> None:
    with umask(mask):
        out = tmp_path / "run"
        run(configure("--trainer.epochs=1", "--report=true"))
        load(out).save_pretrained(tmp_path / "saved")
        export.main([str(out), "--out", str(tmp_path / "exported")])
        answers = tmp_path / "answers.parquet"
        predict.main([str(out), "--file", str(tmp_path / "reviews.csv"), "--out", str(answers)])
    assert {BEST, LAST} <= {path.name for path in out.iterdir()}
    for folder in ("run", "saved", "exported"):
        assert modes(tmp_path / folder) == {"files": {0o666 & ~mask}, "folders": {0o777 & ~mask}}, folder
    assert stat.S_IMODE(answers.stat().st_mode) == 0o666 & ~mask


def test_the_writer_of_safetensors_makes_files_private(tmp_path: Path) -> None:
    """The control: its files have mode 0600 for any umask, and others cannot open them."""
    with umask(0o022), tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        own, ours = Path(folder) / "own.safetensors", Path(folder) / "ours.safetensors"
        safetensors.torch.save_file({"a": torch.ones(2)}, own)
        write_tensors(ours, {"a": torch.ones(2)})
        assert [stat.S_IMODE(file.stat().st_mode) for file in (own, ours)] == [0o600, 0o644]
        content = ours.read_bytes()
        with as_another_user():
            assert ours.read_bytes() == content
            if os.geteuid() == NOBODY:
                with pytest.raises(PermissionError):
                    own.read_bytes()


HIDDEN = [".", "best", "best/model.safetensors", "best/manifest.json", "config.yaml", "labels.json"]


@pytest.mark.parametrize("hidden", HIDDEN)
def test_an_unreadable_run_is_not_reported_as_damaged(
    tmp_path: Path, public: Path, reviews: Path, hidden: str
) -> None:
    load(public)  # the control
    with as_another_user():
        load(public)
    (public / hidden).chmod(0)
    with as_another_user(), pytest.raises(NoPermissionError) as caught:
        load(public)
    where = public / hidden if hidden != "best" else public / "best" / "manifest.json"
    assert str(caught.value) == (
        f"{where.resolve() if hidden == '.' else where}: no permission to read it; its owner can give it: "
        "chmod -R a+rX on the run folder"
    )
    (public / hidden).chmod(0o755)


@pytest.mark.parametrize("hidden", [".", "best/model.safetensors"])
def test_every_command_reports_missing_permissions(
    tmp_path: Path, public: Path, reviews: Path, hidden: str
) -> None:
    (public / hidden).chmod(0)
    commands: list[tuple[Callable[[list[str]], None], list[str]]] = [
        (predict.main, ["good"]),
        (evaluate.main, [str(reviews)]),
        (explain.main, ["good"]),
        (export.main, ["--out", str(tmp_path / "exported")]),
        (report.main, []),
        (doctor.main, []),
    ]
    for command, argv in commands:
        with as_another_user(), pytest.raises(NoPermissionError):
            command([str(public), *argv])
    with as_another_user(), pytest.raises(NoPermissionError):
        compare.main([str(public), str(public), str(reviews)])
    if hidden == ".":
        with as_another_user(), pytest.raises(SentimentError, match="no permission"):
            train.main(["--out", str(public), "--resume", "true"])
        with as_another_user(), pytest.raises(SentimentError, match="Permission denied"):
            train.main(["--config", str(public / "config.yaml"), "--out", str(public)])
    (public / hidden).chmod(0o755)
