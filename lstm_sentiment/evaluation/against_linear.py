"""The verdict on a model and the linear baseline (see `linear.baselines`), as a word and as a sentence."""

from __future__ import annotations

from typing import Literal

from lstm_sentiment.evaluation.metrics import LOWER_IS_BETTER, title_of
from lstm_sentiment.records.run_metrics import AgainstLinear

LONGER = 2  # times the training time of the linear model that are mentioned


def verdict_of(found: AgainstLinear) -> Literal["ahead", "level", "behind"]:
    """Return where the model is relative to the linear one: level if the interval includes 0.

    >>> verdict_of(AgainstLinear(metric="flip_rate", difference=0.02, low=0.01, high=0.03, model_s=9.0))
    'behind'
    """
    if found.low <= 0 <= found.high:
        return "level"
    return "behind" if (found.difference < 0) != (found.metric in LOWER_IS_BETTER) else "ahead"


def verdict_sentence(found: AgainstLinear) -> str:
    """Return the verdict as a sentence without a full stop.

    >>> lead = AgainstLinear(metric="macro_f1", difference=0.031, low=0.012, high=0.05, model_s=9.0)
    >>> print(verdict_sentence(lead))
    this model is ahead of the linear model by 3.1 points of macro-F1 (95 %: +1.2 to +5.0)
    >>> close = AgainstLinear(
    ...     metric="accuracy", difference=0.003, low=-0.01, high=0.016, linear_s=0.5, model_s=20.0
    ... )
    >>> print(verdict_sentence(close))
    this model is level with the linear model, at 40 times its training time: +0.3 points of accuracy \
(95 %: -1.0 to +1.6)
    """
    scale, unit = (1, "") if found.metric == "ordinal_error" else (100, "points of ")
    name, verdict = title_of(found.metric), verdict_of(found)
    interval = f"(95 %: {scale * found.low:+.1f} to {scale * found.high:+.1f})"
    if verdict == "level":
        times = found.model_s / found.linear_s if found.linear_s else 0.0
        cost = f", at {times:.0f} times its training time" if times >= LONGER else ""
        difference = f"{scale * found.difference:+.1f} {unit}{name}"
        return f"this model is level with the linear model{cost}: {difference} {interval}"
    where = "ahead of" if verdict == "ahead" else "behind"
    lead = f"{abs(scale * found.difference):.1f} {unit}{name}"
    return f"this model is {where} the linear model by {lead} {interval}"
