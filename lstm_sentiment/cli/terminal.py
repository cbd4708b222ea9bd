"""Terminal and log output. Control characters in untrusted text are escaped."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import ClassVar, TextIO

from lstm_sentiment.errors import escaped, without_secrets


class PlainFormatter(logging.Formatter):
    """Formats a log record, with control characters escaped and secrets removed from URLs.

    >>> record = logging.LogRecord("a", 20, "a.py", 1, "%s", ("good\\x1b[0m\\nerror: lost",), None)
    >>> print(PlainFormatter().format(record))
    good\\x1b[0m\\nerror: lost
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record."""
        plain = logging.makeLogRecord(record.__dict__)
        if isinstance(record.args, tuple):
            plain.args = tuple(
                value if isinstance(value, int | float) else escaped(str(value)) for value in record.args
            )
        return without_secrets(escaped(super().format(plain), keep="\n\t"))


class SafeHandler(logging.StreamHandler):  # type: ignore[type-arg]  # which Python 3.10 cannot be given
    """Writes records to a stream, with characters that its encoding lacks escaped."""

    lost: ClassVar[OSError | None] = None  # why a record of this process could not be written

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record, in the stream's encoding."""
        return writable(super().format(record), self.stream)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Skip a record that cannot be written, as on a full disk; the command reports it at its end."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            SafeHandler.lost = SafeHandler.lost or error
        else:
            super().handleError(record)


@contextlib.contextmanager
def logging_from(level: int) -> Iterator[None]:
    """Suppress the package's log messages below a level while a block runs.

    >>> with logging_from(logging.ERROR):
    ...     logging.getLogger("lstm_sentiment.training").isEnabledFor(logging.WARNING)
    False
    """
    package = logging.getLogger("lstm_sentiment")
    before = package.level
    package.setLevel(max(level, package.getEffectiveLevel()))
    try:
        yield
    finally:
        package.setLevel(before)


def writable(text: str, stream: TextIO) -> str:
    """Escape characters that a stream's encoding lacks.

    >>> import io
    >>> writable("good 😀", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    'good \\\\U0001f600'
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding, "replace")


def speak_utf8() -> None:
    """Write UTF-8 to files and pipes whatever the locale; on terminals escape what they cannot encode.

    >>> speak_utf8()
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            encoding = stream.encoding if stream.isatty() else "utf-8"
            reconfigure(encoding=encoding, errors="backslashreplace")


def log_to(stream: TextIO, level: int) -> None:
    """Log to a stream; of other packages' records, warnings and above only.

    Example::

        log_to(sys.stderr, logging.INFO)
    """
    handler = SafeHandler(stream)
    handler.setFormatter(PlainFormatter("%(message)s"))
    own = logging.Filter("lstm_sentiment")
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or own.filter(record))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("lstm_sentiment").setLevel(logging.NOTSET)  # whatever this process set it to before


def plain_warnings() -> None:
    """Format warnings of a process without a log handler.

    >>> plain_warnings()
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())


def say(text: str, *, file: TextIO | None = None) -> None:
    """Print text, with control characters other than line breaks escaped.

    >>> say("label " + chr(27) + "[31mred")
    label \\x1b[31mred
    """
    stream = file or sys.stdout
    print(writable(escaped(text, keep="\n"), stream), file=stream)
