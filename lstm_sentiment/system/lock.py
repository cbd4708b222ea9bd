"""One process at a time in a folder: a second one is told which is there, and a dead one never blocks.

The system's own lock on ``FOLDER/.lock`` decides (`flock`: it ends with its process, however that ends);
what stands in the file is for the message alone.
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


@contextlib.contextmanager
def held(folder: Path, *, option: str = "--out") -> Iterator[None]:
    """Hold a folder while a block runs; make it if need be, and remove it again if the block leaves it empty.

    Where the system or the disk knows no locks, the block runs all the same.

    Args:
        folder: which one.
        option: names another folder, says the message.

    Raises:
        RunError: another process holds it, which the message names; or a file is in its place.
        DiskError: it cannot be made or written to.

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
        file.unlink(missing_ok=True)  # while it is locked: who opened it before finds that it is gone
        os.close(handle)


def _opened_and_locked(file: Path, option: str) -> int:
    """Return a descriptor of the lock file, locked."""
    while True:
        if file.is_symlink():  # which O_NOFOLLOW refuses too
            raise RunError(f"{file}: is a link, which a lock never is; remove it")
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        if os.fstat(handle).st_nlink > 1:  # another name of a file elsewhere, which must not be emptied
            os.close(handle)
            file.unlink(missing_ok=True)
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(_in_use(file, handle, option)) from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                os.close(handle)
                raise
            log.warning("%s: this disk knows no locks; take care that no other run writes there", file.parent)
            return handle
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        os.close(handle)  # its holder ended and removed it while we opened it


def _this_process() -> dict[str, str | int]:
    since = datetime.datetime.now(datetime.timezone.utc).isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _in_use(file: Path, handle: int, option: str) -> str:
    try:
        holder = json.loads(os.read(handle, MAX_LOCK_BYTES))
        pid, host, since = (shown(str(holder[name]))[1:-1] for name in ("pid", "host", "since"))
        who = f"process {pid} on {host} since {since}"
    except (ValueError, TypeError, KeyError, RecursionError):  # it is just about to write it
        who = "another process"
    finally:
        os.close(handle)
    return f"{file.parent}: is in use by {who}; wait for it, stop it, or choose another {option}"
