"""Runs that were trained here: only their configuration may lead to other files without being asked.

A run folder from a stranger names files too, such as ``data.train``: what reads them could show, in a report
or a message, what the stranger wants to see. So training notes the sha256 of each configuration that it
writes, as an empty file in the user's cache, and what reads rows of a run looks there first.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from lstm_sentiment.checkpoints.untrusted_files import content_of
from lstm_sentiment.config.safe_yaml import MOST_YAML_BYTES
from lstm_sentiment.errors import CheckpointError, DataError
from lstm_sentiment.system.cache_folder import notes_folder

FOLDER = "trained"


def remember(run: Path, *, own_cache: Path | None = None) -> None:
    """Note that a run's configuration is of this user; where nothing can be written, it is not.

    Args:
        run: its folder.
        own_cache: of the run; one that has its own is temporary and is not noted.

    Example::

        remember(Path("runs/sentiment"))
    """
    if own_cache is not None:
        return
    with contextlib.suppress(OSError, RuntimeError, CheckpointError):
        note = _note(run)
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        note.touch()


def is_familiar(run: Path) -> bool:
    """Whether a run with this very configuration was trained here.

    >>> is_familiar(Path("no/such/run"))
    False
    """
    with contextlib.suppress(OSError, RuntimeError, CheckpointError):
        return _note(run).is_file()
    return False


def refuse_unfamiliar(run: Path, named: str, option: str) -> None:
    """Refuse to read what the configuration of a run names, unless it was trained here.

    Args:
        run: its folder.
        named: by its configuration.
        option: that asks for it nevertheless.

    Raises:
        DataError: it was not; the message tells the option.

    >>> refuse_unfamiliar(Path("runs/theirs"), "secret.csv", "--rows")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.DataError: secret.csv: is named by a run that was not trained here, which may come \
from anybody, and is not read; add --rows to read it
    """
    if not is_familiar(run):
        raise DataError(
            "is named by a run that was not trained here, which may come from anybody, and is not read; "
            f"add {option} to read it",
            file=named,
        )


def _note(run: Path) -> Path:
    configuration = content_of(run / "config.yaml", MOST_YAML_BYTES)
    return notes_folder() / FOLDER / hashlib.sha256(configuration).hexdigest()
