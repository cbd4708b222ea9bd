"""Location of the cache of tokenised text and of notes about this machine."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import tempfile
from pathlib import Path

from lstm_sentiment.errors import DiskError

VARIABLE = "LSTM_SENTIMENT_CACHE"
NOWHERE = Path(os.devnull) / "lstm_sentiment"  # never exists and cannot be created
log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the cache folder: $LSTM_SENTIMENT_CACHE, or lstm_sentiment in the user's cache.

    Where that is not writable, for example without a home folder, it is a temporary folder of this process.

    Raises:
        DiskError: no temporary folder can be created either.
    """
    named = notes_folder()
    if os.environ.get(VARIABLE) or _writable(named):
        return named
    return _temporary(named)


def notes_folder() -> Path:
    """Return the cache folder without checking that it is writable: for notes that may be lost."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # no home folder
        return NOWHERE
    return Path(base) / "lstm_sentiment"


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@functools.cache
def _temporary(instead_of: Path) -> Path:
    try:
        folder = tempfile.mkdtemp(prefix="lstm_sentiment-")
    except OSError as error:
        raise DiskError(
            f"no place for tokenised text: neither {instead_of} nor a temporary folder can be written "
            f"({error.strerror}); set {VARIABLE} to a folder that can"
        ) from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    where = "there is no home folder" if instead_of == NOWHERE else f"{instead_of} cannot be written"
    log.warning("%s: text is tokenised again in each process; set %s to cache it", where, VARIABLE)
    return Path(folder)
