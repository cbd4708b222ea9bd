"""Temperature scaling and conformal prediction sets, fitted on validation rows and saved in the checkpoint.

A network is right less often than its probabilities say or, with label smoothing, more often. One number,
the temperature, corrects most of it. Conformal sets hold the true label at a requested coverage.

Legend: R rows, C classes, K branches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.checkpoints.tensors import check_finite
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.evaluation.conformal import label_sets
from lstm_sentiment.evaluation.metrics import calibration_error, score
from lstm_sentiment.records.run_metrics import CalibratedSplit, CalibrationMetrics, SetCoverage
from lstm_sentiment.records.scores import Scores

COLDEST, HOTTEST = 0.05, 20.0
COVERAGES = (0.8, 0.9, 0.95)  # of label sets whose effect is recorded
LEVELS = 1000  # coverages for which a threshold is kept: 0, 0.001, ... 1
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Temperature and conformal thresholds, which turn logits into calibrated probabilities and label sets.

    Args:
        temperature: divisor of the logits; above 1 makes probabilities less confident.
        thresholds: lowest probability of a label in a set, for coverages of 0, 0.001, ... 1; empty if none
            were fitted.
    """

    temperature: float = 1.0
    thresholds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = [self.temperature, *self.thresholds]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise TypeError("calibration holds a value that is not a finite number")
        if not COLDEST <= self.temperature <= HOTTEST or len(self.thresholds) not in (0, LEVELS + 1):
            raise TypeError("calibration is out of range")

    def probabilities(self, logits_RC: Array) -> Array:
        """Return probabilities (R, C), float64.

        Raises:
            CheckpointError: logits are non-finite, or too large for the temperature.

        >>> Calibration(temperature=2.0).probabilities(np.array([[2.0, 0.0]])).round(3)
        array([[0.731, 0.269]])
        """
        scaled_RC = np.asarray(logits_RC, np.float64) / self.temperature
        with np.errstate(invalid="ignore"):  # checked below
            odds_RC = np.exp(scaled_RC - np.maximum.reduce(scaled_RC, axis=1, keepdims=True))
            probabilities_RC: Array = odds_RC / np.add.reduce(odds_RC, axis=1, keepdims=True)
        check_finite(probabilities_RC)
        return probabilities_RC

    def label_sets(self, probabilities_RC: Array, coverage: float) -> Array:
        """Return which labels are in each row's set, bool (R, C).

        On rows from the distribution of the validation rows, a set holds the true label with a probability of
        at least `coverage`. The most probable label is always included.

        Args:
            probabilities_RC: of `probabilities`.
            coverage: 0 < coverage < 1.

        Raises:
            ConfigError: coverage out of range, or a run without thresholds.

        >>> calibration = fit_calibration(np.array([[2.0, 0.0], [0.0, 1.0]] * 50), np.array([0, 1] * 50))
        >>> calibration.label_sets(np.array([[0.99, 0.01], [0.5, 0.5]]), 0.9).tolist()
        [[True, False], [True, True]]
        """
        self.check_coverage(coverage)
        return label_sets(probabilities_RC, self.thresholds, coverage)

    def check_coverage(self, coverage: float) -> None:
        """Check that label sets can be made at a coverage.

        Raises:
            ConfigError: coverage out of range, or a run without thresholds.
        """
        if not 0 < coverage < 1:
            raise ConfigError(f"must lie between 0 and 1, not {coverage}", key="coverage")
        if not self.thresholds:
            raise ConfigError(
                "this run has no thresholds for label sets; they are fitted at the end of training",
                key="coverage",
            )


def fit_calibration(logits_RC: Array, truth_R: Array, row_counts: Array | None = None) -> Calibration:
    """Fit temperature and conformal thresholds on held-out rows.

    The temperature minimises the negative log-likelihood (Guo et al. 2017) with one extra row of each class
    (Platt 1999), so that a few rows, all predicted correctly, do not give certainty. The thresholds are those
    of split-conformal prediction with the score 1 - p(true label) (Sadinle et al. 2019, "Least ambiguous
    set-valued classifiers"): valid for exchangeable new rows.

    Args:
        logits_RC: (R, C).
        truth_R: class indices (R,).
        row_counts: multiplicity of each row (R,); None for 1.

    >>> logits_RC, truth_R = np.array([[4.0, 0.0]] * 10), np.array([0] * 7 + [1] * 3)  # right 7 times of 10
    >>> fitted = fit_calibration(logits_RC, truth_R)
    >>> fitted.probabilities(logits_RC)[0].round(2)
    array([0.67, 0.33])
    """
    from scipy.optimize import minimize_scalar  # slow import, not needed for prediction
    from scipy.special import log_softmax

    logits_RC = np.asarray(logits_RC, np.float64)
    rows_R = np.arange(len(truth_R))
    row_counts = np.ones(len(truth_R)) if row_counts is None else row_counts
    target_RC = _target(logits_RC, truth_R, row_counts)

    def loss(log_temperature: float) -> float:
        log_probabilities_RC = log_softmax(logits_RC / math.exp(log_temperature), axis=1)
        return -float(np.average((target_RC * log_probabilities_RC).sum(axis=1), weights=row_counts))

    bounds = (math.log(COLDEST), math.log(HOTTEST))
    temperature = math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)
    true_R = Calibration(temperature=temperature).probabilities(logits_RC)[rows_R, truth_R]
    return Calibration(temperature=temperature, thresholds=conformal_thresholds(true_R, row_counts))


def likelihood_loss(logits_RC: Array, truth_R: Array, row_counts: Array | None = None) -> float:
    """Return the negative log-likelihood at the best temperature, nats.

    Args:
        logits_RC: (R, C).
        truth_R: class indices (R,).
        row_counts: multiplicity of each row (R,); None for 1.

    >>> round(likelihood_loss(np.array([[1.0, 0.0], [0.0, 1.0]] * 50), np.array([0, 1] * 50)), 2)
    0.01
    """
    probabilities_RC = fit_calibration(logits_RC, truth_R, row_counts).probabilities(logits_RC)
    true_R = np.maximum(probabilities_RC[np.arange(len(truth_R)), truth_R], 1e-12)
    return -float(np.average(np.log(true_R), weights=row_counts))


def conformal_thresholds(true_R: Array, row_counts: Array | None = None) -> list[float]:
    """Return conformal thresholds: lowest probability of a label in a set, for coverages 0, 0.001, ... 1.

    Args:
        true_R: the calibrated probability of each row's true label, in any order, (R,).
        row_counts: multiplicity of each row (R,); None for 1.

    >>> conformal_thresholds(np.array([0.9, 0.5, 0.7]))[500]
    0.7
    """
    order_R = np.argsort(-true_R, kind="stable")
    upto_R = np.cumsum(np.ones(len(true_R)) if row_counts is None else row_counts[order_R])
    rows = upto_R[-1] if len(upto_R) else 0.0
    kept_L = (rows + 1) * np.arange(LEVELS + 1) / LEVELS - 1e-9  # rows whose set must hold the true label
    place_L = np.searchsorted(upto_R, kept_L)
    descending_R = np.append(true_R[order_R], 0.0)  # last: all labels
    return [float(value) for value in descending_R[place_L]]


def fit_shares(logits_KRC: Array, truth_R: Array, row_counts: Array | None = None) -> Array:
    """Return the weights (K,), with mean 1, of several branches' logits in their sum.

    They are non-negative and minimise the negative log-likelihood of the sum on held-out rows.

    Args:
        logits_KRC: (K, R, C).
        truth_R: class indices (R,).
        row_counts: multiplicity of each row (R,); None for 1.

    >>> knows_RC, guesses_RC = np.array([[1.0, 0.0], [0.0, 1.0]] * 50), np.array([[1.0, 0.0]] * 100)
    >>> fit_shares(np.stack([knows_RC, guesses_RC]), np.array([0, 1] * 50)).round(2)
    array([2., 0.])
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    logits_KRC = np.asarray(logits_KRC, np.float64)
    row_counts = np.ones(len(truth_R)) if row_counts is None else row_counts
    target_RC = _target(logits_KRC[0], truth_R, row_counts)
    share_R1 = (row_counts / row_counts.sum())[:, None]

    def loss(shares_K: Array) -> tuple[float, Array]:
        log_RC = log_softmax(np.tensordot(shares_K, logits_KRC, axes=1), axis=1)
        gradient_K = ((np.exp(log_RC) - target_RC) * share_R1 * logits_KRC).sum(axis=(1, 2))
        return -float((target_RC * share_R1 * log_RC).sum()), gradient_K

    branches = len(logits_KRC)
    found = minimize(loss, np.ones(branches), jac=True, bounds=[(0.0, 1 / COLDEST)] * branches)
    total = float(found.x.sum())
    shares_K: Array = found.x * branches / total if total > 0 else np.ones(branches)
    return shares_K


def _target(logits_RC: Array, truth_R: Array, row_counts: Array) -> Array:
    """Return smoothed targets (R, C): the truth with one extra row of each class (Platt 1999)."""
    target_RC = np.ones_like(logits_RC)
    target_RC[np.arange(len(truth_R)), truth_R] += row_counts.sum()
    target_RC /= target_RC.sum(axis=1, keepdims=True)
    return target_RC


def coverage_of(sets_RC: Array, truth_R: Array) -> SetCoverage:
    """Return the coverage of label sets, and their mean size.

    >>> coverage_of(np.array([[True, True], [True, False]]), np.array([1, 1]))
    SetCoverage(coverage=0.5, labels=1.5)
    """
    return SetCoverage(
        coverage=float(sets_RC[np.arange(len(truth_R)), truth_R].mean()),
        labels=float(sets_RC.sum(axis=1).mean()),
    )


def calibrated_scores(
    calibration: Calibration, logits: Mapping[str, Array], truths: Mapping[str, Array], labels: list[str]
) -> tuple[dict[str, Scores], CalibrationMetrics]:
    """Return the scores by split, and the effect of the calibration.

    Args:
        calibration: fitted on validation rows.
        logits: by split, (R, C).
        truths: class indices by split, (R,).
        labels: class names.
    """
    scores, effects = {}, {}
    for name, truth_R in truths.items():
        probabilities_RC = calibration.probabilities(logits[name])
        scores[name] = score(truth_R, probabilities_RC, labels)
        effects[name] = CalibratedSplit(
            ece_before=calibration_error(truth_R, Calibration().probabilities(logits[name])),
            ece_after=scores[name].ece,
            label_sets={
                str(wanted): coverage_of(calibration.label_sets(probabilities_RC, wanted), truth_R)
                for wanted in COVERAGES
            },
        )
    return scores, CalibrationMetrics(
        temperature=calibration.temperature, validation=effects["validation"], test=effects.get("test")
    )
