"""Cheap test processes: forks of a server that has imported torch and the package."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("lstm_sentiment.experiment.train", "lstm_sentiment.train", "lstm_sentiment.pretrain"),
        *("torch.distributed.run", "torch._dynamo"),  # which DistributedDataParallel imports
        "pytest",
    ]
)


class Job:
    """A process, or two under torchrun; they and its real launcher are forks of the server.

    Args:
        process: its own, or the launcher's.
        folder: which has files of what all of them write.
    """

    def __init__(self, process: ForkServerProcess, folder: Path) -> None:
        self.process = process
        self._folder = folder

    def wait(self, timeout_s: float) -> int:
        """Return the exit code of the process.

        Raises:
            TimeoutError: the job is still running.
        """
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            raise TimeoutError(self.stderr)
        return self.process.exitcode

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def stdout(self) -> str:
        return (self._folder / "stdout").read_text("utf-8")

    @property
    def stderr(self) -> str:
        text = (self._folder / "stderr").read_text("utf-8")
        return "\n".join(line[:300] for line in text.splitlines())  # a fatal error lists hundreds of modules


def start_job(
    script: str,
    *argv: str,
    folder: Path,
    launcher: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Job:
    """Run a script in two processes of torchrun.

    Args:
        script: absolute path.
        argv: its arguments.
        folder: where files `stdout` and `stderr` get what all processes write.
        launcher: more options of torchrun.
        environment: more variables.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    options = ["--standalone", "--nproc-per-node=2", "--run-path", "--start-method=forkserver", *launcher]
    for name in ("stdout", "stderr"):
        (folder / name).touch()
    (folder / "variables").write_text(json.dumps(variables), "utf-8")
    forkserver.ensure_running()
    server = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
    argv = (*options, __file__, str(folder), script, *argv)
    process = FORKS.Process(target=_launch, args=(server, argv, folder))
    process.start()
    return Job(process, folder)


def start_code(code: str, *argv: str, folder: Path) -> Job:
    """Run Python code in a process, as ``python -c CODE ARGV`` would.

    Args:
        code: of its main module.
        argv: its arguments.
        folder: where files `stdout` and `stderr` get what it writes.
    """
    for name in ("stdout", "stderr"):
        (folder / name).touch()
    (folder / "variables").write_text(json.dumps(dict(os.environ)), "utf-8")
    process = FORKS.Process(target=_run_code, args=(code, argv, folder))
    process.start()
    return Job(process, folder)


def _run_code(code: str, argv: tuple[str, ...], folder: Path) -> None:
    _move_in(folder)
    sys.argv = ["-c", *argv]
    exec(compile(code, "code", "exec"), {"__name__": "__main__"})


def _launch(server: str, argv: tuple[str, ...], folder: Path) -> None:
    """Act as torchrun, with processes from the fork server; torchrun has threads, so it cannot fork."""
    from torch.distributed.run import main

    forkserver._forkserver._forkserver_address = server  # type: ignore[attr-defined]
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
    _move_in(folder)
    main(argv)


def _move_in(folder: Path) -> None:
    """Redirect output to files of a folder and take the environment from there."""
    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_APPEND), stream.fileno())
    os.environ.update(json.loads((folder / "variables").read_text("utf-8")))


if __name__ == "__main__":  # in a process of the job
    _move_in(Path(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_path(sys.argv[0], run_name="__main__")
