"""Signal handling of a run, and its status file status.json."""

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
    """Return the torchrun job that last wrote to a run folder; empty if none did.

    >>> job_of(RunFolder("runs/of-tomorrow"))
    ''
    """
    try:
        return str(folder.read_json(STATUS)["job"])
    except (CheckpointError, KeyError, TypeError):
        return ""


class RunWatch:
    """Stops a run cleanly on SIGINT and SIGTERM, and updates status.json.

    Inside `gently` a signal is handled when the training loop polls it, with a checkpoint; elsewhere
    immediately. A second SIGINT terminates at once. Outside the main thread signal handlers are not changed.

    status.json holds ``state`` (running, stopped, failed, finished), ``exit_code`` (null while running),
    ``step`` of the last checkpoint or the end, ``reason``, ``resumable``, ``pid``, ``job`` and ``time``. It
    is written once the run owns the folder; if it says "running" while no process with that pid holds the
    folder, the run was killed.

    Args:
        folder: of the run.
        writes: whether this process writes to the folder.
        job: id of the torchrun job, if any (see `distributed.Processes`).

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
        self._now = False  # a signal from torchrun must not interrupt the error report
        self._over = True
        try:
            self._tell_end(error)
        finally:
            if error is None or not self.job:  # otherwise the error could not be reported
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
        with contextlib.suppress(SentimentError):  # e.g. a full disk, reported already
            self._write(state, exit_code=code, reason=reason)

    def begun(self, step: int = 0) -> None:
        """Notify that this run owns the folder, at a step."""
        self._begun = True
        self.saved(step)

    def saved(self, step: int) -> None:
        """Notify of a checkpoint at a step."""
        self.step = step
        self._write("running")

    def asked_to_stop(self) -> int:
        """Return the number of the signal that asked the run to stop, 0 for none."""
        return self._asked

    @contextlib.contextmanager
    def gently(self) -> Iterator[None]:
        """Defer signals during a block, for `asked_to_stop`.

        Raises:
            StoppedError: at the end of the block, if a signal was not handled.
        """
        self._now = False
        yield  # not after an error: a signal must not replace it
        self._now = True
        self._stop_if_asked()

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within `gently`, handle signals immediately during a block.

        Raises:
            StoppedError: a signal was received, in the block or before.
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
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # the second one terminates
        first, self._asked = not self._asked, self._asked or number
        if self._now:
            self._now = False  # do not interrupt the shutdown
            self._stop_if_asked()
        elif first and self.writes and not self._over:
            with contextlib.suppress(OSError):
                os.write(2, b"\nstopping after this step; press Ctrl-C again to quit now\n")

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
