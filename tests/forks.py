"""Processes of tests that cost a fork and no start of Python: a server has imported torch and the package."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("lstm_sentiment.experiment", "lstm_sentiment.train", "lstm_sentiment.pretrain"),
        *("torch.distributed.run", "torch._dynamo"),  # which DistributedDataParallel imports
        "pytest",
    ]
)


class Job:
    """Two processes under torchrun: its real launcher, started as a fork, and so are they.

    Args:
        process: the launcher's.
        folder: which has files of what all of them write.
    """

    def __init__(self, process: ForkServerProcess, folder: Path) -> None:
        self.process = process
        self._folder = folder

    def wait(self, timeout_s: float) -> int:
        """Return torchrun's exit code.

        Raises:
            TimeoutError: the job goes on.
        """
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            raise TimeoutError(self.stderr)
        return self.process.exitcode

    @property
    def stdout(self) -> str:
        return (self._folder / "stdout").read_text("utf-8")

    @property
    def stderr(self) -> str:
        return (self._folder / "stderr").read_text("utf-8")


def start_job(
    script: str,
    *argv: str,
    folder: Path,
    launcher: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Job:
    """Let two processes of torchrun run a script.

    Args:
        script: absolute path.
        argv: its arguments.
        folder: where files `stdout` and `stderr` get what all processes write.
        launcher: more options of torchrun.
        environment: more variables.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    options = ["--standalone", "--nproc-per-node=2", "--run-path", "--start-method=fork", *launcher]
    for name in ("stdout", "stderr"):
        (folder / name).touch()
    process = FORKS.Process(target=_launch, args=([*options, script, *argv], variables, folder))
    process.start()
    return Job(process, folder)


def _launch(argv: list[str], variables: Mapping[str, str], folder: Path) -> None:
    from torch.distributed.run import main

    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND), stream.fileno())
    os.environ.clear()
    os.environ.update(variables)
    main(argv)
