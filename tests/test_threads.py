"""Threads that wait do not keep others from running: BLAS has one, and those of OpenMP soon sleep."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import threadpoolctl
from conftest import TINY, make_rows, write_csv

from lstm_sentiment.cli.exits import SPINS, run_command
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.experiment.train import run
from lstm_sentiment.system.blas import one_blas_thread


def threads_of_blas() -> set[int]:
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def two_threads() -> Iterator[None]:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        if threads_of_blas() != {2}:
            pytest.skip("this BLAS has one thread")
        yield


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_is_limited_and_restored() -> None:
    with one_blas_thread():
        assert threads_of_blas() == {1}
    assert threads_of_blas() == {2}
    with pytest.raises(RuntimeError), one_blas_thread():
        raise RuntimeError
    assert threads_of_blas() == {2}


@pytest.mark.usefixtures("two_threads")
def test_a_training_is_limited(tmp_path: Path) -> None:
    class Recorder(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.seen = set[int]()

        def emit(self, record: logging.LogRecord) -> None:
            self.seen |= threads_of_blas()

    recorder, log = Recorder(), logging.getLogger("lstm_sentiment")
    data = write_csv(tmp_path / "data.csv", make_rows(60))
    argv = [f"--data.train={data}", f"--out={tmp_path / 'run'}", *TINY, "--trainer.epochs=1"]
    log.addHandler(recorder)
    try:
        run(parse_config(argv, program="test", description=""))
    finally:
        log.removeHandler(recorder)
    assert recorder.seen == {1}
    assert threads_of_blas() == {2}


def spins_within_a_command() -> str | None:
    seen: list[str | None] = []
    with pytest.raises(SystemExit):
        run_command(lambda argv: seen.append(os.environ.get("GOMP_SPINCOUNT")))
    return seen[0]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, SPINS),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_of_a_command_sleep_soon_unless_the_environment_says_how_they_wait(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], expected: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # restored after the test, whatever the command sets
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    assert spins_within_a_command() == expected


@pytest.mark.parametrize("module", ["lstm_sentiment.__main__", "lstm_sentiment.predict"])
def test_openmp_is_not_loaded_before_it_is_limited(module: str) -> None:
    """It reads the environment when it is loaded, which importing PyTorch does."""
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.stdout.strip() == b"False"
