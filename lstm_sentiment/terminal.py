"""What goes to a terminal or a log: text of strangers is shown there, never obeyed or taken for a line."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from lstm_sentiment.errors import escaped, without_secrets


class PlainFormatter(logging.Formatter):
    """Formats a log record with control characters of its values escaped, and without keys in its URLs.

    >>> record = logging.LogRecord("a", 20, "a.py", 1, "%s", ("good\\x1b[0m\\nerror: lost",), None)
    >>> print(PlainFormatter().format(record))
    good\\x1b[0m\\nerror: lost
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or lines, of a record."""
        plain = logging.makeLogRecord(record.__dict__)
        if isinstance(record.args, tuple):
            plain.args = tuple(
                value if isinstance(value, int | float) else escaped(str(value)) for value in record.args
            )
        return without_secrets(escaped(super().format(plain), keep="\n\t"))


def log_to(stream: TextIO, level: int) -> None:
    """Send the log of the process to a stream; of other packages' records, warnings and worse alone.

    Example::

        log_to(sys.stderr, logging.INFO)
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter("%(message)s"))
    own = logging.Filter("lstm_sentiment")
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or own.filter(record))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def plain_warnings() -> None:
    """Format warnings of a process that sends its log nowhere.

    >>> plain_warnings()
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())


def say(text: str, *, file: TextIO | None = None) -> None:
    """Print text, with control characters but line breaks escaped.

    >>> say("label " + chr(27) + "[31mred")
    label \\x1b[31mred
    """
    print(escaped(text, keep="\n"), file=file or sys.stdout)
