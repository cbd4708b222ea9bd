"""Command entry point: exit codes, error output, clean-up on signals."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from lstm_sentiment.cli.terminal import SafeHandler, plain_warnings, say, speak_utf8
from lstm_sentiment.errors import DiskError, SentimentError, StoppedError, without_secrets

STOPPING = ("SIGTERM", "SIGHUP")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
OUTPUT = "standard output"
COLLECT_AFTER = 10_000  # new objects: with Python's 700, collections take a tenth of a command's start
SPINS = "1000"  # some 30 microseconds, longer than between two operations of a training step


def limit_spinning() -> None:
    """Let OpenMP threads sleep soon after their work, unless the environment says how they wait.

    By default GNU OpenMP's threads spin for milliseconds. If other programs use the cores, that keeps the
    thread that all wait for from running: training with two threads then has a quarter of the speed or less.
    Has an effect until PyTorch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def run_command(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a command's `main` with the process's arguments and exit with its exit code.

    A `SentimentError` or a full disk becomes one message on stderr. An interrupt exits with 130, SIGTERM with
    143 and SIGHUP with 129, after unfinished files are removed.
    """
    speak_utf8()
    plain_warnings()
    limit_spinning()
    gc.set_threshold(COLLECT_AFTER)
    SafeHandler.lost = None
    if sys.stdout is None:  # closed, as by >&-
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - open as long as the process
    try:
        code = _run(main)
    finally:
        _discard_output()
    sys.exit(code)


def _run(main: Callable[[list[str]], None]) -> Any:
    """Run a command and return its exit code."""
    try:
        with _signals_as_exits():
            try:
                main(sys.argv[1:])
                code: Any = 0
            except SystemExit as left:  # --help, a signal
                code = left.code
            sys.stdout.flush()
            if SafeHandler.lost is not None:
                raise SafeHandler.lost
            return code
    except SentimentError as error:
        _print_error(str(error), "" if isinstance(error, StoppedError) else "error: ")
        return error.exit_code
    except KeyboardInterrupt:
        _print_error("interrupted")
        return 130
    except BrokenPipeError:  # the reader of stdout went away
        return 141
    except OSError as error:
        if error.errno not in FULL:
            raise
        place = error.filename or OUTPUT  # other writers report their path (see `files.writing`)
        problem = f"{place}: cannot be written: {error.strerror}; make room, or choose another place"
        _print_error(problem, "error: ")
        return DiskError.exit_code


def _print_error(message: str, kind: str = "") -> None:
    """Print lines on stderr; ignore errors if that cannot be written either."""
    with contextlib.suppress(OSError):
        for line in message.split("\n"):
            say(without_secrets(f"{kind}{line}"), file=sys.stderr)
        sys.stderr.flush()


@contextlib.contextmanager
def _signals_as_exits() -> Iterator[None]:
    """Turn terminating signals that have no other handler into `SystemExit`, so that a block cleans up."""
    numbers = [getattr(signal, name) for name in STOPPING if hasattr(signal, name)]
    mine = threading.current_thread() is threading.main_thread()
    numbers = [number for number in numbers if mine and signal.getsignal(number) == signal.SIG_DFL]

    def end(number: int, _frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)  # clean-up is not interrupted again
        sys.exit(128 + number)

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _is_stuck() -> bool:
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # it may be closed
        return True
    return False


def _discard_output() -> None:
    """Discard unwritable output, or Python would flush again at exit and exit with 120."""
    if _is_stuck() and not sys.stdout.closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
