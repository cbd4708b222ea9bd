"""Reading what another process may be replacing: one version of it is read, or it is read again.

A checkpoint is replaced by renames and never changed in its place. So what lies in a folder that is still in
its place at the end of reading belongs together; and as long as the folder is held open, no other one can
get its inode number.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from lstm_sentiment.errors import CheckpointError, RunError, SentimentError

PATIENCE_S = 10.0  # a checkpoint of a gigabyte is read in less
FRESH_S = 0.05  # clocks of file systems tick every few milliseconds: so young a change may hide another one
T = TypeVar("T")


class ReplacedError(CheckpointError):
    """What was being read was replaced meanwhile; reading it again helps."""


class MisfitError(Exception):
    """What was read is whole and not what its reader expects.

    Args:
        error: says why.
        folder: that was read.
    """

    def __init__(self, error: SentimentError, folder: Path) -> None:
        self.error, self.folder = error, folder
        super().__init__(str(error))

    def told(self) -> SentimentError:
        """Return the error, with the folder's name if it does not stand there."""
        if str(self.folder.parent) in str(self.error):
            return self.error
        return type(self.error)(f"{self.folder}: {self.error}")


@contextlib.contextmanager
def held_in_place(folder: Path) -> Iterator[None]:
    """Hold a folder while a block reads it.

    Raises:
        ReplacedError: at the end, another one or none is in its place, whatever the block raised.

    >>> import tempfile
    >>> with held_in_place(Path(tempfile.mkdtemp())):
    ...     pass
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # gone, or Windows, which renames no folder with open files
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
    """Return what an attempt to read returns; try again where it fails while others write.

    Args:
        attempt: reads; may raise `ReplacedError`.
        places: files and folders that change when what is read is replaced.
        strict: try again after a success too, if one of the places changed.

    Raises:
        CheckpointError: as the attempt raises it while nothing changes; or there is no end to the changes.

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
