"""Errors on opening a run's files: missing, no permission, damaged disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lstm_sentiment.errors import CheckpointError, NoPermissionError


@contextlib.contextmanager
def reading(file: Path) -> Iterator[None]:
    """Convert an `OSError` on reading a file to a `CheckpointError`.

    >>> with reading(Path("labels.json")):
    ...     raise FileNotFoundError
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.CheckpointError: labels.json: is missing
    """
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{file}: is missing") from None
    except PermissionError:
        raise _no_permission(file) from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None


def refuse_unreadable(folder: Path) -> None:
    """Refuse a folder that this user may not search: it would look empty.

    Raises:
        NoPermissionError: there is no permission; it names the folder.

    >>> refuse_unreadable(Path("no/such/folder"))
    """
    try:
        os.stat(folder / ".")  # noqa: PTH116 - Path removes the dot
        with os.scandir(folder):
            pass
    except PermissionError:
        raise _no_permission(folder) from None
    except OSError:
        return


def _no_permission(file: Path) -> NoPermissionError:
    return NoPermissionError(
        f"{file}: no permission to read it; its owner can give it: chmod -R a+rX on the run folder"
    )
