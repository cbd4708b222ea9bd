"""Exclusive `flock` on a folder, released when the process dies.

The lock is on ``FOLDER/.lock``; the content of that file is only used in the message to a second process.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from lstm_sentiment.errors import RunError, shown
from lstm_sentiment.system.files import make_folder, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

LOCK = ".lock"
MAX_LOCK_BYTES = 4096
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class InUseError(RunError):
    """Another process holds the lock of a folder."""


@contextlib.contextmanager
def held(folder: Path, *, option: str = "--out") -> Iterator[None]:
    """Lock a folder while a block runs; create it if needed, and remove it again if it is empty at the end.

    Where the system or the file system does not support locks, the block runs without one.

    Args:
        folder: to lock.
        option: the option to choose another folder with, for the message.

    Raises:
        InUseError: another process holds it; the message names it.
        RunError: there is a file in its place.
        DiskError: it cannot be created or written to.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "new"
    >>> with held(folder):
    ...     print([file.name for file in folder.iterdir()])
    ['.lock']
    >>> folder.exists()
    False
    """
    with writing(folder):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise RunError(f"{there}: is a file; choose another {option}")
    new = make_folder(folder)
    try:
        with _locked(folder, option):
            yield
    finally:
        for made in reversed(new):
            with contextlib.suppress(OSError):  # something is in it
                made.rmdir()


@contextlib.contextmanager
def _locked(folder: Path, option: str) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    file = folder / LOCK
    with writing(file):
        handle = _opened_and_locked(file, option)
    try:
        with writing(file):
            os.ftruncate(handle, 0)
            os.write(handle, json.dumps(_this_process()).encode())
        yield
    finally:
        file.unlink(missing_ok=True)  # still locked: a process that has opened it sees that it is gone
        os.close(handle)


def _opened_and_locked(file: Path, option: str) -> int:
    """Return a descriptor of the locked lock file."""
    while True:
        if file.is_symlink():  # which O_NOFOLLOW refuses too
            raise RunError(f"{file}: is a link, not a lock file; remove it")
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        if os.fstat(handle).st_nlink > 1:  # a hard link to another file, which must not be truncated
            os.close(handle)
            file.unlink(missing_ok=True)
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUseError(_in_use(file, handle, option)) from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                os.close(handle)
                raise
            log.warning(
                "%s: this file system has no locks; make sure that no other run writes there", file.parent
            )
            return handle
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        os.close(handle)  # its owner removed it between open and lock


def _this_process() -> dict[str, str | int]:
    since = datetime.datetime.now(datetime.timezone.utc).isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _in_use(file: Path, handle: int, option: str) -> str:
    try:
        holder = json.loads(os.read(handle, MAX_LOCK_BYTES))
        pid, host, since = (shown(str(holder[name]))[1:-1] for name in ("pid", "host", "since"))
        who = f"process {pid} on {host} since {since}"
    except (ValueError, TypeError, KeyError, RecursionError):  # the owner is just writing it
        who = "another process"
    finally:
        os.close(handle)
    return f"{file.parent}: is in use by {who}; wait for it, stop it, or choose another {option}"
