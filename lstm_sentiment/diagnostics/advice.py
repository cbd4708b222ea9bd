"""The result of trying other settings: what was tried, what helps, and when nothing can be compared.

Legend: R rows, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.diagnostics.alternatives import Alternative
from lstm_sentiment.diagnostics.findings import Finding
from lstm_sentiment.evaluation.metrics import LOWER_IS_BETTER, better, confusion_scores, title_of
from lstm_sentiment.evaluation.significance import compare, system_intervals

LEVEL = 0.05  # corrected p-value below which a gain is beyond chance
FAR = 0.5  # of what a finished run gains over one class for all rows: a short training below is no reference
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A short training with other settings, compared with one with the settings of the run.

    Args:
        alternative: the settings.
        score: on the validation rows.
        gain: over the settings of the run, positive if better.
        low: lower end of its 95 % interval.
        high: upper end.
        p: two-sided p-value, corrected for the number of trials (Holm).
        seconds: of the training.
    """

    alternative: Alternative
    score: float
    gain: float
    low: float
    high: float
    p: float
    seconds: float

    @property
    def helps(self) -> bool:
        """Whether it is better beyond chance."""
        return self.gain > 0 and self.p < LEVEL


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What was tried, and what helps.

    Args:
        metric: that the scores are of.
        score: of the settings of the run, trained on the same rows.
        seconds: of that training.
        rows: training rows of each.
        of: training rows of the run.
        validation_rows: that the scores are on.
        trials: largest gain first.
        left_out: options that were not tried -> reason.
        no_reference: why nothing can be compared with the training with the settings of the run (see
            `no_reference`); None if gains over it mean something.
    """

    metric: str
    score: float | None
    seconds: float
    rows: int
    of: int
    validation_rows: int
    trials: list[Trial]
    left_out: dict[str, str]
    no_reference: str | None = None

    @property
    def best(self) -> Trial | None:
        """The trial with the largest gain beyond chance; None if nothing can be compared."""
        if self.no_reference is not None:
            return None
        return next((trial for trial in self.trials if trial.helps), None)

    @property
    def sentence(self) -> str:
        """What to do, in a sentence without a full stop."""
        if self.no_reference is not None:
            return (
                f"nothing can be compared: on {self.rows:,} of {self.of:,} training rows, "
                f"{self.no_reference}; give more time with --minutes"
            )
        if self.best is not None:
            unit = "in" if self.metric == "ordinal_error" else "points of"
            found = f"{_gain(self.best.gain, self.metric)} {unit} {title_of(self.metric)}"
            interval = f"(95 %: {_interval(self.best, self.metric)})"
            return f"what helps most: {self.best.alternative.advice}; {found} {interval}"
        if self.score is None or (not self.trials and self.left_out):
            return "nothing could be tried in this time; give more with --minutes"
        if not self.trials:
            return "there is nothing to try: the usual settings that help are set already"
        return f"none of these settings helps beyond chance on the {self.validation_rows:,} validation rows"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        compared = self.no_reference is None
        trials = [
            {"option": trial.alternative.option, "settings": dict(trial.alternative.settings)}
            | {"why": trial.alternative.why, "helps": compared and trial.helps, "score": trial.score}
            | {name: getattr(trial, name) if compared else None for name in ("gain", "low", "high", "p")}
            | {"seconds": trial.seconds}
            for trial in self.trials
        ]
        names = ("metric", "score", "seconds", "rows", "of", "validation_rows", "left_out", "no_reference")
        found = {name: getattr(self, name) for name in (*names, "sentence")}
        return {**found, "trials": trials}

    def lines(self) -> list[str]:
        """Format it as a table and a sentence."""
        head = f"other settings, each trained on {self.rows:,} of {self.of:,} training rows"
        lines = [f"{head}; {title_of(self.metric)} on {self.validation_rows:,} validation rows:"]
        options = ["as the run", *(trial.alternative.option for trial in self.trials)]
        width = max(map(len, options))
        if self.score is not None:
            lines.append(f"  {'setting':<{width}}   score    gain  95 % interval   seconds")
            lines.append(f"  {options[0]:<{width}}  {self.score:.4f}  {'':<23}  {self.seconds:>7.1f}")
        for trial in self.trials:
            option = f"{trial.alternative.option:<{width}}"
            compared = self.no_reference is None
            gain, interval = (
                (_gain(trial.gain, self.metric), _interval(trial, self.metric)) if compared else ("", "")
            )
            rest = f"{interval:<14}  {trial.seconds:>7.1f}  {trial.alternative.why}"
            lines.append(f"  {option}  {trial.score:.4f} {gain:>7}  {rest}")
        lines += [f"  not tried: {option}: {why}" for option, why in self.left_out.items()]
        return [*lines, self.sentence]


def with_results(findings: Sequence[Finding], advice: Advice) -> list[Finding]:
    """Return findings, of which those with a setting that was tried and did not help say so.

    Example::

        with_results(diagnosis.findings, advice)
    """
    if advice.no_reference is not None:
        return list(findings)
    helped: dict[str, bool] = {}
    for trial in advice.trials:
        for key in trial.alternative.settings:
            helped[key] = helped.get(key, False) or trial.helps
    return [
        dataclasses.replace(of, why=f"{of.why}; tried below, without a gain beyond chance")
        if of.key in helped and not helped[of.key]
        else of
        for of in findings
    ]


def no_reference(
    truth_R: Array,
    predicted_R: Array,
    labels: list[str],
    *,
    metric: str,
    every_row: bool,
    of_run: float | None,
) -> str | None:
    """Return why a short training with the settings of a run says nothing about that run; None if it does.

    It does not if it was trained on some of the rows only and is not better, beyond chance, than the same
    class for all rows; or if it gains less than half as much over that as the finished run does, whose score
    is also outside its 95 % interval.

    Args:
        truth_R: class indices (R,).
        predicted_R: predictions of the short training (R,).
        labels: class names.
        metric: that is compared.
        every_row: whether it was trained on all training rows, as the run is: then the run learns no more.
        of_run: score of the finished run, if known.

    >>> truth_R = np.array([0] * 60 + [1] * 40)
    >>> settings = {"labels": ["bad", "good"], "metric": "accuracy", "every_row": False}
    >>> no_reference(truth_R, 0 * truth_R, of_run=None, **settings)
    "the run's own settings learned nothing in this time (accuracy 0.600; the same class for all rows: 0.600)"
    >>> no_reference(truth_R, truth_R, of_run=0.9, **settings) is None
    True
    """
    constant_CCC = np.zeros((len(labels),) * 3, dtype=np.int64)
    for label in range(len(labels)):
        constant_CCC[label, :, label] = np.bincount(truth_R, minlength=len(labels))
    of_constant_C = confusion_scores(constant_CCC, labels)[metric]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    constant = int((sign * of_constant_C).argmax())
    over = compare(truth_R, np.full_like(truth_R, constant), predicted_R, labels).scores[metric]
    nothing = not every_row and (not better(over.second, over.first, metric) or over.p >= LEVEL)
    far = False
    if of_run is not None:
        own = system_intervals(truth_R, predicted_R, labels)[metric]
        outside = own["low"] > of_run if sign < 0 else own["high"] < of_run
        far = outside and sign * over.difference < FAR * sign * (of_run - over.first)
    if not nothing and not far:
        return None
    learned = "nothing" if nothing else "far less than the run"
    scores = f"{title_of(metric)} {over.second:.3f}; the same class for all rows: {over.first:.3f}"
    scores += f"; the run itself: {of_run:.3f}" if of_run is not None else ""
    return f"the run's own settings learned {learned} in this time ({scores})"


def _gain(value: float, metric: str) -> str:
    """Format a gain: in points, hundredths of a score."""
    return f"{value:+.3f}" if metric == "ordinal_error" else f"{100 * value:+.1f}"


def _interval(trial: Trial, metric: str) -> str:
    return f"{_gain(trial.low, metric)} to {_gain(trial.high, metric)}"
