"""Input and output types of classifiers: texts and predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lstm_sentiment.errors import DataError
from lstm_sentiment.text.given import texts_in


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one text.

    Args:
        label: the most probable class; None if the classifier abstains.
        score: the probability of the most probable class.
        probabilities: of every class, in the order of the classifier's labels; they sum to 1.
        label_set: conformal prediction set at the requested coverage; None unless requested.
        unknown_share: share of the text's tokens that are not in the vocabulary, 0 for an empty text; None
            unless requested.
        cut_tokens: number of truncated tokens; None unless requested.
    """

    label: str | None
    score: float
    probabilities: dict[str, float]
    label_set: list[str] | None = None
    unknown_share: float | None = None
    cut_tokens: int | None = None


def as_texts(given: Any) -> Iterable[str]:
    """Convert the argument to an iterable of texts (see `texts_in`).

    Raises:
        DataError: not a list of texts; the message says what to pass.

    >>> list(as_texts("so-so"))
    ['so-so']
    """
    try:
        return texts_in(given)
    except TypeError as error:
        raise DataError(str(error)) from None


def checked_text(text: object) -> str:
    """Return a text unchanged.

    Raises:
        DataError: not a string.

    >>> checked_text("so-so")
    'so-so'
    """
    if not isinstance(text, str):
        raise DataError(f"a text must be a string, not {type(text).__name__}: {text!r:.60}")
    return text
