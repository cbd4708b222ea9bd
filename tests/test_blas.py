"""Training limits NumPy's and SciPy's BLAS to one thread: others would only spin."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import threadpoolctl
from conftest import TINY, make_rows, write_csv

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
