"""Consistent reads of folders that another process may replace: retry until one version was read.

A checkpoint is replaced by renames and never modified in place. So the files of a folder that is still in
place after reading belong together; while the folder is held open, its inode number cannot be reused.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from lstm_sentiment.errors import CheckpointError, RunError, SentimentError

PATIENCE_S = 10.0  # a checkpoint of a gigabyte takes less
FRESH_S = 0.05  # file system clocks are coarse: a change this recent may hide another one
T = TypeVar("T")


class ReplacedError(CheckpointError):
    """The folder was replaced while it was read; retry."""


class MisfitError(Exception):
    """What was read is intact but not what the reader expects.

    Args:
        error: the reason.
        folder: the folder read.
    """

    def __init__(self, error: SentimentError, folder: Path) -> None:
        self.error, self.folder = error, folder
        super().__init__(str(error))

    def located(self) -> SentimentError:
        """Return the error, with the folder's name added if it is missing."""
        if str(self.folder.parent) in str(self.error):
            return self.error
        return type(self.error)(f"{self.folder}: {self.error}")


@contextlib.contextmanager
def held_in_place(folder: Path) -> Iterator[None]:
    """Keep a folder open while a block reads it, and check that it was not replaced.

    Raises:
        ReplacedError: it was replaced or removed meanwhile; takes precedence over the block's error.

    >>> import tempfile
    >>> with held_in_place(Path(tempfile.mkdtemp())):
    ...     pass
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # between two renames: another folder may be there when its files are listed
        raise ReplacedError(f"{folder}: was replaced while it was read") from None
    except OSError:  # Windows cannot open folders, nor rename folders with open files
        handle = None
    try:
        try:
            yield
        finally:
            if handle is not None and not _is_at(folder, handle):
                raise ReplacedError(f"{folder}: was replaced while it was read")
    finally:
        if handle is not None:
            os.close(handle)


def settled(attempt: Callable[[], T], *places: Path, strict: bool = False) -> T:
    """Call a read function, and retry if it fails while others write.

    Args:
        attempt: reads; may raise `ReplacedError`.
        places: files and folders that change when the data is replaced.
        strict: retry after a success too, if one of the places changed.

    Raises:
        CheckpointError: raised by the attempt while nothing changes; or the changes do not end.

    >>> settled(lambda: "read", Path("run"))
    'read'
    """
    give_up, pause = time.monotonic() + PATIENCE_S, 0.002
    while True:
        before = [_stamp(place) for place in places]
        try:
            found = attempt()
        except ReplacedError:
            pass
        except (CheckpointError, RunError):
            if before == [_stamp(place) for place in places] and not any(map(_is_fresh, places)):
                raise
        else:
            if not strict or before == [_stamp(place) for place in places]:
                return found
        if time.monotonic() > give_up:
            raise CheckpointError(f"{places[0]}: is replaced faster than it can be read; try again")
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def _is_at(folder: Path, handle: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(handle))
    except OSError:
        return False


def _stamp(place: Path) -> tuple[int, ...] | None:
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _is_fresh(place: Path) -> bool:
    stamp = _stamp(place)
    return stamp is not None and abs(time.time_ns() - stamp[2]) < FRESH_S * 1e9
