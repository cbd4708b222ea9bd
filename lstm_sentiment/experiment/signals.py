"""A run seen from outside: signals that ask it to stop, and status.json, which tells how it stands."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from lstm_sentiment.checkpoints.run_folder import LAST, RunFolder
from lstm_sentiment.errors import CheckpointError, SentimentError, StoppedError
from lstm_sentiment.system.files import write_json

STATUS = "status.json"
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def job_of(folder: RunFolder) -> str:
    """Return the job that last wrote to a run folder; empty where none of torchrun's did.

    >>> job_of(RunFolder("runs/of-tomorrow"))
    ''
    """
    try:
        return str(folder.read_json(STATUS)["job"])
    except (CheckpointError, KeyError, TypeError):
        return ""


class RunWatch:
    """Turns SIGINT and SIGTERM into an orderly end, and keeps status.json true.

    Inside `gently` a signal is answered when the training loop asks, with a checkpoint; elsewhere at once.
    A second SIGINT then leaves without ado. In a thread other than the main one, which gets no signals,
    they are left alone.

    status.json holds ``state`` (running, stopped, failed, finished), ``exit_code`` (null while running),
    ``step`` of the last checkpoint or the end, ``reason``, ``resumable``, ``pid``, ``job`` and ``time``. It
    is written once the folder belongs to the run; a process that is killed cannot change it, so that one
    which says "running" while no process of that number holds the folder was killed.

    Args:
        folder: of the run.
        writes: whether this process is the one that writes there.
        job: of torchrun's, if it started this process (see `distributed.Processes`).

    Example::

        with RunWatch(RunFolder("runs/tweets"), writes=True) as watch:
            watch.begun()
            with watch.gently():
                trainer.fit()
    """

    def __init__(self, folder: RunFolder, *, writes: bool, job: str = "") -> None:
        self.folder, self.writes, self.job = folder, writes, job
        self.step = 0
        self._begun, self._now, self._asked, self._over = False, True, 0, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> RunWatch:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._now = False  # torchrun sends a signal at once: it keeps nothing from being told
        self._over = True
        try:
            self._tell_end(error)
        finally:
            if error is None or not self.job:  # or the command could not say what was wrong
                for number, handler in self._before.items():
                    signal.signal(number, handler)

    def _tell_end(self, error: BaseException | None) -> None:
        if error is None:
            self._write("finished", exit_code=0)
            return
        state = "stopped" if isinstance(error, StoppedError | KeyboardInterrupt) else "failed"
        code = error.exit_code if isinstance(error, SentimentError) else 1
        code = 130 if isinstance(error, KeyboardInterrupt) else code
        reason = str(error) or type(error).__name__
        with contextlib.suppress(SentimentError):  # a full disk is told of already
            self._write(state, exit_code=code, reason=reason)

    def begun(self, step: int = 0) -> None:
        """Hear that the folder belongs to this run, which stands at a step."""
        self._begun = True
        self.saved(step)

    def saved(self, step: int) -> None:
        """Hear of a checkpoint after so many steps."""
        self.step = step
        self._write("running")

    def asked_to_stop(self) -> int:
        """Return the number of the signal that asked the run to stop, 0 for none."""
        return self._asked

    @contextlib.contextmanager
    def gently(self) -> Iterator[None]:
        """While a block runs, remember a signal for `asked_to_stop`.

        Raises:
            StoppedError: at the end of the block, if nobody asked after the signal.
        """
        self._now = False
        yield  # after an error it stays so: a signal on the way out does not take the error's place
        self._now = True
        self._stop_if_asked()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within `gently`, answer a signal at once while a block runs.

        Raises:
            StoppedError: a signal came, in the block or before.
        """
        self._stop_if_asked()
        self._now = True
        try:
            yield
        finally:
            self._now = False

    def _stop_if_asked(self) -> None:
        if self._asked:
            raise StoppedError(self._asked, f"stopped by {signal.Signals(self._asked).name}")

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever asks twice means it
        first, self._asked = not self._asked, self._asked or number
        if self._now:
            self._now = False  # the way out is not interrupted again
            self._stop_if_asked()
        elif first and self.writes and not self._over:
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping after this step; Ctrl-C leaves at once\n")

    def _write(self, state: str, *, exit_code: int | None = None, reason: str | None = None) -> None:
        if not self.writes or not self._begun:
            return
        resumable = state != "finished" and self.folder.has(LAST)
        status = {
            "state": state,
            "exit_code": exit_code,
            "step": self.step,
            "reason": reason,
            "resumable": resumable,
            "pid": os.getpid(),
            "job": self.job,
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }
        write_json(Path(self.folder.path) / STATUS, status)
