"""Atomic, crash-safe file writes (write, fsync, rename)."""

from __future__ import annotations

import contextlib
import ctypes
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

ABANDONED_S = 60.0  # younger files may belong to a process that is about to lock them
DAY_S = 86_400.0
AT_FDCWD, EXCHANGE = -100, 2  # of renameat2
_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or choose another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "allow writing, or choose another place"),
}


@contextlib.contextmanager
def writing(path: Path, *, needed: int | None = None, kept: str = "") -> Iterator[None]:
    """Convert an `OSError` of a block to an error that says what would help.

    Args:
        path: what the block writes.
        needed: bytes that it takes, if known.
        kept: what is intact nevertheless, for the end of the message.

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
        parts = [f"{path}: cannot be written: {error.strerror or error}"]
        sizes = [f"{needed:,} bytes needed"] if needed is not None else []
        free = _free_bytes(path)
        sizes += [f"{free:,} bytes free"] if free is not None else []
        parts[0] += f" ({', '.join(sizes)})" if sizes else ""
        parts += filter(None, (_HINTS.get(error.errno or 0, ""), kept))
        raise DiskError("; ".join(parts)) from error


def local_path(name: str | Path) -> Path:
    """Return a name as a path, with ``~`` and ``~user`` expanded.

    Raises:
        DataError: unknown user, or an invalid file name.

    >>> local_path("a.csv").name
    'a.csv'
    """
    try:
        if b"\0" in os.fsencode(name):
            raise ValueError("a NUL")
        return Path(name).expanduser()
    except RuntimeError:
        raise DataError(
            "begins with ~ and an unknown user; write the folder out", file=escaped(str(name))
        ) from None
    except ValueError:
        raise DataError(
            "contains a NUL or an unpaired surrogate, which file names cannot", file=escaped(str(name))
        ) from None


def _free_bytes(path: Path) -> int | None:
    """Return the free bytes of the disk that a path is on, None if unknown."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def unfinished(path: Path) -> Path:
    """Return an unguessable temporary name next to a path.

    The folder may be untrusted, with links out of it under all guessable names. The name must not exist
    yet: open files with ``x``, and create folders without ``exist_ok``.

    >>> unfinished(Path("runs/a/report.html")) != unfinished(Path("runs/a/report.html"))
    True
    """
    return path.with_name(f".{path.name}.{secrets.randbelow(10**12)}.tmp")


@contextlib.contextmanager
def held_unfinished(temporary: Path) -> Iterator[None]:
    """Lock a temporary file or folder, so that no other process considers it abandoned.

    Args:
        temporary: a name from `unfinished`; it must exist.
    """
    handle = None
    if fcntl is not None:
        with contextlib.suppress(OSError):  # a file system without locks
            handle = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove temporary files of killed processes: a minute old and not locked.

    Args:
        folder: in which they are.
        name: of the file or folder that was being written; None for all.

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
    except OSError:  # locked, or unknown
        return False
    finally:
        os.close(handle)
    return True


def refuse_device(path: Path, name: str) -> None:
    """Refuse to overwrite a device or a pipe: the rename would replace it.

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
    """Write a temporary file, fsync it, and rename it into place.

    Raises:
        DiskError: it cannot be written; the previous file is intact.
    """
    temporary = unfinished(path)
    with writing(path, needed=len(content)):
        sweep(path.parent, path.name)
        try:
            with temporary.open("xb") as out, held_unfinished(temporary):
                out.write(content)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def as_json(value: Any, *, indent: int | None = 1) -> bytes:
    """Return a value as UTF-8 JSON that ends with a line break."""
    return (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode()


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> None:
    """Write a value as UTF-8 JSON, atomically.

    Raises:
        DiskError: it cannot be written; the previous file is intact.
    """
    write_atomically(path, as_json(value, indent=indent))


def make_folder(path: Path) -> list[Path]:
    """Create a folder and its parents, fsync their entries, and return the new ones, outermost first.

    Without the fsync a folder may be lost in a power cut, with all fsynced files in it.

    Raises:
        DiskError: it cannot be created.
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
    """Yield a temporary folder that is renamed into place at the end, or removed after an error.

    Raises:
        RunError: the path exists already.
        DiskError: the folder cannot be created.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "new"
    >>> with new_folder(place) as building:
    ...     _ = (building / "a.txt").write_text("a")
    >>> [file.name for file in place.iterdir()]
    ['a.txt']
    """
    if path.is_symlink():
        raise RunError(f"{path}: is a link; name its target, or choose another folder")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path}: exists and is not empty; choose another folder")
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


def replace_folder(path: Path, new: Path) -> None:
    """Replace an existing folder by a new one; the old one is removed.

    On Linux and macOS both change places in one step. Elsewhere a kill in between leaves the old one under
    its name with ``.old``.

    Args:
        path: of the existing folder.
        new: the folder that takes its place, next to it.

    Raises:
        OSError: it cannot be replaced; the existing one is unchanged.

    >>> import tempfile
    >>> path, new = (Path(tempfile.mkdtemp()) for _ in range(2))
    >>> _ = (new / "a.txt").write_text("a")
    >>> replace_folder(path, new)
    >>> [file.name for file in path.iterdir()], new.exists()
    (['a.txt'], False)
    """
    if _exchanged(path, new):
        old = new
    else:
        old = path.with_name(f"{path.name}.old")
        path.rename(old)
        new.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(old)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two entries of a file system in one step; False if the system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    libc: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    if hasattr(libc, "renameat2"):  # Linux
        failed = libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], EXCHANGE)
    elif hasattr(libc, "renamex_np"):  # macOS
        failed = libc.renamex_np(*names, EXCHANGE)
    else:
        return False
    if failed and ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return not failed


def sync_file(path: Path) -> None:
    """Fsync a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Fsync a folder's entries, where the system supports it."""
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
