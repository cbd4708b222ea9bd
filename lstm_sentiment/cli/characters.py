"""Escaping and display width of untrusted text."""

from __future__ import annotations

import unicodedata

from lstm_sentiment.errors import escaped


def visible(token: str, longest: int | None = None) -> str:
    """Return a token with invisible characters escaped, truncated to a length.

    >>> visible("a\\x1b[31m"), visible("incomprehensible", 8)
    ('a\\\\x1b[31m', 'incompr…')
    """
    plain = escaped(token)
    return plain if longest is None or len(plain) <= longest else plain[: longest - 1] + "…"


def cells_of(text: str) -> int:
    """Return the display width of a text in terminal columns.

    >>> cells_of("so"), cells_of("好"), cells_of("e\u0301")
    (2, 2, 1)
    """
    return sum(
        0
        if unicodedata.combining(c) or c in "\u200d\ufe0f"
        else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
