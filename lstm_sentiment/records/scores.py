"""Scores of predictions, as `evaluation.metrics.score` returns them and metrics.json has them."""

from __future__ import annotations

from dataclasses import dataclass

from lstm_sentiment.records.json_values import Count


class ByName:
    """Scores that are also found by their name: ``scores["macro_f1"]``."""

    def __contains__(self, metric: str) -> bool:
        """Whether there is such a score."""
        return isinstance(getattr(self, metric, None), int | float)

    def __getitem__(self, metric: str) -> float:
        """Return a score by its name; raise KeyError if there is none."""
        if metric not in self:
            raise KeyError(metric)
        value: float = getattr(self, metric)
        return value


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Scores of a class.

    Args:
        precision: share of the rows predicted as it that are of it; 0 if there are none.
        recall: share of its rows that are predicted as it; 0 if there are none.
        f1: harmonic mean of the two.
        rows: that are of it.
    """

    precision: float
    recall: float
    f1: float
    rows: Count


@dataclass(frozen=True, kw_only=True)
class Scores(ByName):
    """Scores of predictions.

    Args:
        rows: scored.
        accuracy: share of rows predicted correctly.
        macro_f1: mean F1 of the classes.
        macro_recall: mean recall of the classes.
        macro_precision: mean precision of the classes.
        loss: mean negative log-likelihood, nats.
        ece: calibration error (see `metrics.calibration_error`).
        polar_f1: mean F1 of negative and positive classes, if class names are (see `metrics.sides`).
        flip_rate: share of rows predicted to be on the opposite side, if there are two.
        ordinal_error: mean distance of truth and prediction in classes, if these are in the order of a scale.
        per_class: scores of each class, by its name.
        confusion: rows by truth (down) and prediction (across), (C, C).
        training_rows: that a baseline was fitted on.
    """

    rows: Count
    accuracy: float
    macro_f1: float
    macro_recall: float
    macro_precision: float
    loss: float
    ece: float
    polar_f1: float | None = None
    flip_rate: float | None = None
    ordinal_error: float | None = None
    per_class: dict[str, ClassScores]
    confusion: list[list[Count]]
    training_rows: Count | None = None

    def __post_init__(self) -> None:
        classes = len(self.per_class)
        square = len(self.confusion) == classes and all(len(row) == classes for row in self.confusion)
        if not square or not any(map(any, self.confusion)):
            raise ValueError(
                f"confusion must have counts of {classes} by {classes} classes, not all of them 0"
            )


@dataclass(frozen=True, kw_only=True)
class LanguageScores(ByName):
    """Scores of a language model on validation texts.

    Args:
        loss: nats per token, of all directions.
        perplexity: its exponential.
        perplexity_forward: of the next tokens.
        perplexity_backward: of the previous tokens, if the model has both directions.
        perplexity_unigram: of a unigram model.
        guesses: predictions in each direction.
    """

    loss: float
    perplexity: float
    perplexity_forward: float
    perplexity_backward: float | None = None
    perplexity_unigram: float
    guesses: Count
