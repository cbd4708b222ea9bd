"""Input and output types of classifiers: texts and predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.errors import ConfigError, DataError, did_you_mean, shown
from lstm_sentiment.text.given import ON_MISSING, NotTextError, present, texts_in


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The prediction for one text.

    Args:
        label: the most probable class; None if the classifier abstains, or for a missing text.
        score: the probability of the most probable class; NaN for a missing text.
        probabilities: of every class, in the order of the classifier's labels; they sum to 1. NaN for a
            missing text.
        label_set: conformal prediction set at the requested coverage; None unless requested.
        unknown_share: share of the text's tokens that are not in the vocabulary, 0 for an empty text; None
            unless requested.
        cut_tokens: number of truncated tokens; None unless requested.
        unread: whether the text has no token, or is missing: the prediction is the same for all such texts.
    """

    label: str | None
    score: float
    probabilities: dict[str, float]
    label_set: list[str] | None = None
    unknown_share: float | None = None
    cut_tokens: int | None = None
    unread: bool = False

    @classmethod
    def of_missing(cls, labels: Iterable[str]) -> Prediction:
        """Return the prediction for a missing text.

        >>> Prediction.of_missing(["bad", "good"])
        Prediction(label=None, score=nan, probabilities={'bad': nan, 'good': nan}, label_set=None, \
unknown_share=None, cut_tokens=None, unread=True)
        """
        return cls(label=None, score=math.nan, probabilities=dict.fromkeys(labels, math.nan), unread=True)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Logits of some texts, and how much of them the model could read.

    Args:
        logits_RC: before calibration, (R, C).
        tokens_R: number of tokens of each text, before truncation, (R,).
        unknown_R: number of those that are not in the vocabulary, (R,).
    """

    logits_RC: npt.NDArray[np.float64]
    tokens_R: npt.NDArray[np.int64]
    unknown_R: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PredictedArrays:
    """Predictions for the texts that are not missing, as arrays.

    Args:
        probabilities_RC: of each class, (R, C).
        tokens_R: number of tokens of each text, before truncation, (R,).
        unknown_R: number of those that are not in the vocabulary, (R,).
        sets_RC: which classes are in each conformal set, (R, C); None if they were not requested.
        missing: the indices of the missing texts among all.
    """

    probabilities_RC: npt.NDArray[np.float64]
    tokens_R: npt.NDArray[np.int64]
    unknown_R: npt.NDArray[np.int64]
    sets_RC: npt.NDArray[np.bool_] | None
    missing: Sequence[int]


def predictions_of(
    found: PredictedArrays,
    labels: Sequence[str],
    abstain_below: float = 0.0,
    *,
    max_tokens: int | None = None,
) -> list[Prediction]:
    """Return a prediction for each row of arrays.

    Args:
        found: the arrays.
        labels: class names (C,).
        abstain_below: no label if its probability is lower.
        max_tokens: tokens that the model reads of a text, to count unknown and truncated ones; None for not.

    >>> found = PredictedArrays(probabilities_RC=np.array([[0.4, 0.6]]), tokens_R=np.array([3]),
    ...                         unknown_R=np.array([1]), sets_RC=None, missing=[])
    >>> predictions_of(found, ["bad", "good"])[0].label
    'good'
    """
    predictions = []
    counts = zip(found.tokens_R.tolist(), found.unknown_R.tolist(), strict=True)
    rows = zip(found.probabilities_RC.tolist(), counts, strict=True)
    for row, (row_C, (tokens, unknown)) in enumerate(rows):
        score = max(row_C)
        sets_RC = found.sets_RC
        predictions.append(
            Prediction(
                label=labels[row_C.index(score)] if score >= abstain_below else None,
                score=score,
                probabilities=dict(zip(labels, row_C, strict=True)),
                label_set=None if sets_RC is None else [labels[i] for i in sets_RC[row].nonzero()[0]],
                unknown_share=None if max_tokens is None else unknown / max(1, tokens),
                cut_tokens=None if max_tokens is None else max(0, tokens - max_tokens),
                unread=tokens == 0,
            )
        )
    return predictions


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


def given_texts(given: Any, on_missing: str, missing: list[int]) -> Iterator[str]:
    """Yield the texts of an argument that are not missing (see `present`).

    Args:
        given: a list of texts, or anything else that `texts_in` takes.
        on_missing: raise, skip or null.
        missing: the indices of missing texts are appended to it.

    Raises:
        ConfigError: another `on_missing`.
        DataError: not a list of texts, a text that is not a string, or a missing one with ``raise``.

    >>> missing = []
    >>> list(given_texts(["so-so", None], "skip", missing)), missing
    (['so-so'], [1])
    """
    if on_missing not in ON_MISSING:
        hint = did_you_mean(str(on_missing), ON_MISSING)
        problem = f"{shown(str(on_missing))} is not one of {', '.join(ON_MISSING)}.{hint}"
        raise ConfigError(problem, key="on_missing")
    try:
        yield from present(as_texts(given), on_missing, missing)
    except NotTextError as error:
        raise DataError(str(error)) from None
