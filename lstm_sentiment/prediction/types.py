"""What goes into a classifier and what comes out, without the classifier: texts and predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lstm_sentiment.errors import DataError
from lstm_sentiment.text.given import texts_in


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one text.

    Args:
        label: the most probable class; None where the classifier abstains.
        score: the probability of the most probable class.
        probabilities: of every class, in the order of the classifier's labels; they sum to 1.
        label_set: classes that hold the true one as often as asked; None unless asked.
        unknown_share: share of the text's tokens that are not in the vocabulary, 0 for an empty text;
            None unless asked.
        cut_tokens: tokens of the text that the model did not read; None unless asked.
    """

    label: str | None
    score: float
    probabilities: dict[str, float]
    label_set: list[str] | None = None
    unknown_share: float | None = None
    cut_tokens: int | None = None


def as_texts(given: Any) -> Iterable[str]:
    """Return what was given as texts (see `texts_in`).

    Raises:
        DataError: it is no list of texts; the message says what to pass.

    >>> list(as_texts("so-so"))
    ['so-so']
    """
    try:
        return texts_in(given)
    except TypeError as error:
        raise DataError(str(error)) from None


def checked_text(text: object) -> str:
    """Return a text as it is.

    Raises:
        DataError: it is no string.

    >>> checked_text("so-so")
    'so-so'
    """
    if not isinstance(text, str):
        raise DataError(f"a text must be a string, not {type(text).__name__}: {text!r:.60}")
    return text
