"""Trusted runs: only configurations written on this machine may name files to read.

An untrusted run folder could name any local file, for example as ``data.train``, and have its contents shown
in a report or message. So training records the sha256 of each configuration that it writes, as an empty file
in the user's cache, and commands that read rows of a run check it first.
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
    """Record a run's configuration as trusted; do nothing where the cache cannot be written.

    Args:
        run: its folder.
        own_cache: of the run; a run with its own cache is temporary and is not recorded.

    Example::

        remember(Path("runs/sentiment"))
    """
    if own_cache is not None:
        return
    with contextlib.suppress(OSError, RuntimeError, CheckpointError):
        note = _note(run)
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        note.touch()


def is_trusted(run: Path) -> bool:
    """Whether a run with exactly this configuration was trained here.

    >>> is_trusted(Path("no/such/run"))
    False
    """
    with contextlib.suppress(OSError, RuntimeError, CheckpointError):
        return _note(run).is_file()
    return False


def refuse_untrusted(run: Path, named: str, option: str) -> None:
    """Refuse to read a file named by an untrusted run.

    Args:
        run: its folder.
        named: the file, by its configuration.
        option: that overrides the refusal.

    Raises:
        DataError: it was not trained here; the message names the option.

    >>> refuse_untrusted(Path("runs/theirs"), "secret.csv", "--rows")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.DataError: secret.csv: is named by a run that was not trained here and is \
untrusted; add --rows to read it
    """
    if not is_trusted(run):
        raise DataError(
            f"is named by a run that was not trained here and is untrusted; add {option} to read it",
            file=named,
        )


def _note(run: Path) -> Path:
    configuration = content_of(run / "config.yaml", MOST_YAML_BYTES)
    return notes_folder() / FOLDER / hashlib.sha256(configuration).hexdigest()
