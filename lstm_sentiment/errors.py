"""The exceptions of this package, and their exit codes.

    SentimentError                 exit code
    ├── ConfigError                2   an invalid key or value, or options that contradict each other
    ├── DataError                  2   a file, a row, a label, a text
    ├── RunError                   2   the run folder: missing, occupied, in use, of another configuration
    ├── MissingExtraError          2   an optional package that is not installed
    ├── CheckpointError            3   no usable checkpoint: damaged, incomplete or foreign
    │   └── OtherVersionError      3   a format that this version cannot read
    ├── TrainingError              4   training cannot continue: a non-finite loss or gradient
    ├── LostProcessError           4   another rank ended or hangs; or that rank's own exit code
    ├── DiskError                  5   a file cannot be written: disk full, not permitted, failing
    ├── OutOfMemoryError           5   a batch does not fit into memory
    └── StoppedError          130 or 143   a signal, SIGINT or SIGTERM, asked a run to stop

Other exit codes: 0 success, 1 a bug in this package (with a traceback), 130 interrupted, 141 broken pipe.

A message says what was found, where, what was expected and how to proceed. Commands print it
without a traceback and exit with the code above; code catches the class it can handle:

>>> try:
...     raise DataError("label 'postive' is not one of negative, positive", file="a.csv", line=17)
... except SentimentError as error:
...     print(error)
a.csv:17: label 'postive' is not one of negative, positive
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, TypeVar

_USER = re.compile(r"""(?<=://)[^\s/?#'"]*@""")  # of a URL, with its password
_QUERY = re.compile(r"""(://[^\s?#'"]*)[?#](?:(?!::)[^\s'"])*""")
MOST_SHOWN = 60  # characters of a value in a message


class SentimentError(Exception):
    """Base class of this package's errors; `exit_code` is the exit code of a command that fails with it."""

    exit_code = 1


class ConfigError(SentimentError):
    """An invalid configuration; names the key and, if it came from one, the file.

    Args:
        message: what is wrong and how to fix it.
        key: dotted key such as ``trainer.epochs``, or None.
        where: file and line the key was read from, or None for the command line.
    """

    exit_code = 2

    def __init__(self, message: str, *, key: str | None = None, where: str | None = None) -> None:
        self.message, self.key, self.where = message, key, where
        super().__init__(": ".join(part for part in (where, escaped(key or ""), message) if part))


class DataError(SentimentError):
    """A file, row, label or text that cannot be used.

    Args:
        message: what was found, what was expected, how to fix it.
        file: the file as the user named it.
        line: 1-based line (or row, for formats without lines) in that file.
        column: name of the column.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        column: str | None = None,
    ) -> None:
        self.message, self.file, self.line, self.column = message, file, line, column
        file = without_secrets(file) if file else file
        place = f"{file}:{line}" if file and line else file or ""
        if column:
            message = f"column {shown(column)}: {message}"
        super().__init__(f"{place}: {message}" if place else message)


class RunError(SentimentError):
    """A run folder that is missing, occupied, in use, or made by another configuration."""

    exit_code = 2


class MissingExtraError(SentimentError):
    """A required optional package is not installed; the message names it."""

    exit_code = 2


class CheckpointError(SentimentError):
    """A checkpoint is damaged, incomplete or foreign; the message names the file."""

    exit_code = 3


class OtherVersionError(CheckpointError):
    """A checkpoint in a format that this version cannot read; it may be intact."""


class NoPermissionError(CheckpointError):
    """A file of a run that this user has no permission to read; it may be intact."""


class TrainingError(SentimentError):
    """Training cannot continue; the message names step, epoch and rows."""

    exit_code = 4


class LostProcessError(SentimentError):
    """Another rank of the job ended or hangs.

    Args:
        reason: which rank, and the error that it reported, if any.
        exit_code: of that rank, if it reported one.
    """

    def __init__(self, reason: str, exit_code: int = TrainingError.exit_code) -> None:
        self.exit_code = exit_code
        super().__init__(reason)


class DiskError(SentimentError):
    """A file cannot be written; the message names it, the bytes needed and those free."""

    exit_code = 5


class OutOfMemoryError(SentimentError):
    """A batch does not fit into memory; the message names its size and the setting to lower."""

    exit_code = 5


class StoppedError(SentimentError):
    """A signal asked a run to stop, and it did.

    Args:
        signal_number: 2 for SIGINT, 15 for SIGTERM; the exit code is 128 more, as in the shell.
        message: how far it got, and how to resume.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
        super().__init__(message)


Error = TypeVar("Error", bound=SentimentError)


class Problems(Generic[Error]):
    """Collects problems, so that one error lists the first ten and counts the rest.

    >>> problems = Problems[DataError]()
    >>> for line in range(2, 14):
    ...     problems.add(DataError("has no label", file="a.csv", line=line))
    >>> try:
    ...     problems.raise_any()
    ... except DataError as error:
    ...     print(str(error).splitlines()[-2:])
    ['a.csv:11: has no label', 'and 2 more']
    """

    MOST = 10

    def __init__(self) -> None:
        self.first: list[Error] = []
        self._more = 0

    @classmethod
    def of(cls, problem: Error) -> Problems[Error]:
        """Return a collection of one problem."""
        problems = cls()
        problems.add(problem)
        return problems

    def add(self, problem: Error) -> None:
        """Add a problem."""
        if len(self.first) < self.MOST:
            self.first.append(problem)
        else:
            self._more += 1

    def raise_any(self) -> None:
        """Raise the first problem with the messages of all; do nothing if there is none."""
        if self.first:
            more = [f"and {self._more:,} more"] if self._more else []
            message = "\n".join([*map(str, self.first), *more])
            self.first[0].args = (message,)
            raise self.first[0]


def did_you_mean(found: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return a hint with the closest known word, or an empty string if none is close.

    >>> did_you_mean("postive", ["negative", "positive"])
    " Did you mean 'positive'?"
    >>> did_you_mean("zebra", ["negative", "positive"])
    ''
    """
    near = difflib.get_close_matches(found[:MOST_SHOWN], list(known), n=1, cutoff=cutoff)
    return f" Did you mean {shown(near[0])}?" if near else ""


def escaped(text: str, limit: int | None = None, *, keep: str = "") -> str:
    """Escape control characters in untrusted text, so that a terminal does not interpret them.

    U+200D, which joins the characters of an emoji, is kept.

    Args:
        text: from a file or a command line.
        limit: truncate after this many characters; None for all of it.
        keep: control characters to leave unescaped.

    >>> print(escaped("a" + chr(27) + "[31mred"))
    a\\x1b[31mred
    """
    cut = text if limit is None or len(text) <= limit else text[:limit] + "…"
    kept = f"{keep}\u200d"
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in cut)


def without_secrets(text: str) -> str:
    """Remove user, password, query and fragment from the URLs in a text: any of them may be a secret.

    >>> without_secrets("read https://me:key@host/a.csv?key=1#x and b.csv")
    'read https://host/a.csv and b.csv'
    """
    return _QUERY.sub(r"\1", _USER.sub("", text)) if "://" in text else text


def shown(text: str, limit: int = MOST_SHOWN) -> str:
    """Quote text from a file for a message (see `escaped`).

    >>> print(shown("x" * 100, limit=5))
    'xxxxx…'
    """
    return f"'{escaped(text, limit)}'"


def listed(names: Iterable[str], most: int = 12, *, quoted: bool = False) -> str:
    """Return names from a file as a comma-separated list, truncated after `most`.

    >>> listed(["negative", "positive"]), listed(map(str, range(100)), most=3, quoted=True)
    ('negative, positive', "'0', '1', '2' and 97 more")
    """
    words = [shown(name, 30) if quoted else escaped(name, 30) for name in names]
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def nearest_file(path: Path) -> str:
    """Return a hint with the most similar file name in the folder of a missing file.

    >>> nearest_file(Path("no/such/folder/a.csv"))
    ''
    """
    with contextlib.suppress(OSError):
        return did_you_mean(path.name, [file.name for file in path.parent.iterdir()])
    return ""
