"""Files and folders that a kill or a power cut leaves as they were or as they shall be, and never half."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lstm_sentiment.errors import DataError, DiskError, RunError, escaped

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ABANDONED_S = 60.0  # what is younger may be somebody's who is about to hold it
DAY_S = 86_400.0
_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or choose another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow writing, or choose another place"),
}


@contextlib.contextmanager
def writing(path: Path, *, needed: int | None = None, kept: str = "") -> Iterator[None]:
    """Raise what goes wrong with the disk in a block as one error that says what would help.

    Args:
        path: what the block writes.
        needed: bytes that it takes, if that is known.
        kept: what is safe nevertheless, for the end of the message.

    Raises:
        DiskError: the block raised an `OSError`.

    >>> with writing(Path("/run.json"), needed=2000):
    ...     raise OSError(errno.EROFS, "Read-only file system")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lstm_sentiment.errors.DiskError: /run.json: cannot be written: Read-only file system (2,000 bytes ...
    """
    try:
        yield
    except OSError as error:
        told = [f"{path}: cannot be written: {error.strerror or error}"]
        sizes = [f"{needed:,} bytes needed"] if needed is not None else []
        free = _free_bytes(path)
        sizes += [f"{free:,} bytes free"] if free is not None else []
        told[0] += f" ({', '.join(sizes)})" if sizes else ""
        told += filter(None, (_HINTS.get(error.errno or 0, ""), kept))
        raise DiskError("; ".join(told)) from error


def local_path(name: str | Path) -> Path:
    """Return the path that a name stands for, ``~`` and ``~user`` replaced by a home folder.

    Raises:
        DataError: nobody has that home, or no file can have that name.

    >>> local_path("a.csv").name
    'a.csv'
    """
    try:
        if b"\0" in os.fsencode(name):
            raise ValueError("a NUL")
        return Path(name).expanduser()
    except RuntimeError:
        raise DataError(
            "begins with ~ and no known user; write the folder out", file=escaped(str(name))
        ) from None
    except ValueError:
        raise DataError(
            "holds a NUL or half a character, as no file's name can", file=escaped(str(name))
        ) from None


def _free_bytes(path: Path) -> int | None:
    """Return how much may still be written to the disk that a path is on, None where that cannot be told."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def unfinished(path: Path) -> Path:
    """Return a name beside a place for what is not yet whole: one that nobody can guess.

    Somebody else may have made the folder, with links out of it under all names that can be guessed. What is
    opened there must not be there already: open it with ``x``, and make folders without ``exist_ok``.

    >>> unfinished(Path("runs/a/report.html")) != unfinished(Path("runs/a/report.html"))
    True
    """
    return path.with_name(f".{path.name}.{secrets.randbelow(10**12)}.tmp")


@contextlib.contextmanager
def held_unfinished(beside: Path) -> Iterator[None]:
    """Hold a file or folder that is not yet whole, so that no other process takes it for abandoned.

    Args:
        beside: a name from `unfinished`, which is there.
    """
    handle = None
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a disk that knows no locks
            handle = os.open(beside, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left unfinished in a folder: what is a minute old and no process holds.

    Args:
        folder: that files and folders were to appear in.
        name: of one of them; None for all.

    >>> import tempfile
    >>> left = unfinished(Path(tempfile.mkdtemp()) / "a.csv")
    >>> left.touch()
    >>> os.utime(left, (0, 0))
    >>> sweep(left.parent, "b.csv"), left.exists(), sweep(left.parent, "a.csv"), left.exists()
    (None, True, None, False)
    """
    pattern = re.compile(rf"\.{'.+' if name is None else re.escape(name)}\.\d+\.(tmp|old)")
    with contextlib.suppress(OSError):
        for entry in [Path(found.path) for found in os.scandir(folder) if pattern.fullmatch(found.name)]:
            if _is_abandoned(entry):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _is_abandoned(entry: Path) -> bool:
    facts = entry.lstat()
    age_s = time.time() - facts.st_mtime
    if stat.S_ISLNK(facts.st_mode) or age_s < ABANDONED_S:
        return False
    if fcntl is None:
        return age_s > DAY_S
    try:
        handle = os.open(entry, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody holds it, or nobody can tell
        return False
    finally:
        os.close(handle)
    return True


def refuse_device(path: Path, name: str) -> None:
    """Refuse to write where a device or a pipe is: a file would take its place.

    Raises:
        DataError: there is one.

    >>> refuse_device(Path("/dev/null"), "/dev/null")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.DataError: /dev/null: is a device or a pipe; name a file
    """
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise DataError("is a device or a pipe; name a file", file=name)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place, flush it to disk, then rename it into place.

    Raises:
        DiskError: it cannot be written; the file that was there before is whole.
    """
    beside = unfinished(path)
    with writing(path, needed=len(content)):
        sweep(path.parent, path.name)
        try:
            with beside.open("xb") as out, held_unfinished(beside):
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        sync_folder(path.parent)


def as_json(value: Any, *, indent: int | None = 1) -> bytes:
    """Return a value as UTF-8 JSON that ends with a line break."""
    return (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write a value as UTF-8 JSON, atomically.

    Raises:
        DiskError: it cannot be written; the file that was there before is whole.
    """
    write_atomically(path, as_json(value, indent=indent))


def make_folder(path: Path) -> list[Path]:
    """Make a folder and those above it, flush their names to disk, and return the new ones, outermost first.

    A folder that nobody flushed may be gone after a power cut, with all the flushed files in it.

    Raises:
        DiskError: it cannot be made.
    """
    with writing(path):
        above = [path, *path.parents]
        new = [folder for folder in reversed(above) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in new:
            sync_folder(folder.parent)
    return new


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder beside a place, and rename it into the place at the end; after an error nothing is left.

    Raises:
        RunError: something is there already.
        DiskError: the folder cannot be made.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "new"
    >>> with new_folder(place) as building:
    ...     _ = (building / "a.txt").write_text("a")
    >>> [file.name for file in place.iterdir()]
    ['a.txt']
    """
    if path.is_symlink():
        raise RunError(f"{path}: is a link; name the folder that it leads to, or choose another one")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path}: is there already and not empty; choose another folder")
    path = path.absolute()
    building = unfinished(path)
    make_folder(path.parent)
    sweep(path.parent, path.name)
    with writing(path):
        building.mkdir()
    try:
        with held_unfinished(building):
            yield building
            with writing(path):
                sync_folder(building)
                if path.exists():
                    path.rmdir()  # it is empty; not every system renames onto a folder
                building.rename(path)
                sync_folder(path.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Flush a file's content to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, where the system can."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256_of(path: Path) -> str:
    """Return a file's sha256 as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
