"""Class bias (prior correction) for metrics that weight rare and frequent classes equally.

Logits fitted by maximum likelihood favour frequent classes, which is right for accuracy. For macro-F1 or
macro recall it is not: the best decision lies between the most probable class and the class with the largest
ratio of probability to frequency. One number, the strength, says how far to go. It is chosen by the expected
score under the calibrated out-of-fold probabilities, which uses no labels: with a hundred rows the measured
score is too noisy to choose by.

Legend: R rows, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.evaluation.calibration import fit_calibration
from lstm_sentiment.evaluation.metrics import sides

BALANCED_METRICS = ("macro_f1", "macro_recall", "polar_f1")  # each class counts the same in them
STRENGTHS = np.linspace(0, 1, 9)  # 0: the most probable class; 1: as if all classes were equally frequent
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class ClassBias:
    """Bias added to the logits of each class.

    Args:
        strength: 0 for no bias, 1 to compensate for the class frequencies in full.
        bias_C: (C,), of mean 0.
    """

    strength: float
    bias_C: Array


def choose_class_bias(
    logits_RC: Array,
    labels: Array,
    *,
    names: list[str],
    row_weights: Array,
    metric: str,
    row_counts: Array | None = None,
) -> ClassBias:
    """Return the bias with the best expected score; zero for metrics such as accuracy.

    Args:
        logits_RC: of rows that the model was not fitted on, (R, C).
        labels: class indices (R,), for the frequencies of the classes and for the calibration.
        names: class names.
        row_weights: weight of each row when the model was fitted (R,); balanced classes need no bias.
        metric: score to maximise (see `metrics.score`).
        row_counts: multiplicity of each row (R,), independent of its loss weight; None for 1.

    >>> labels = np.repeat([0, 1], [90, 10])
    >>> logits_RC = np.eye(2)[labels] + np.random.default_rng(0).normal(size=(100, 2)) + [2.0, 0.0]
    >>> settings = {"names": ["good", "bad"], "row_weights": np.ones(100)}
    >>> found = choose_class_bias(logits_RC, labels, metric="macro_f1", **settings)
    >>> bool(0 < found.strength < 1 and found.bias_C[1] > 0)
    True
    >>> choose_class_bias(logits_RC, labels, metric="accuracy", **settings).strength
    0.0
    """
    classes = len(names)
    if metric not in BALANCED_METRICS:
        return ClassBias(strength=0.0, bias_C=np.zeros(classes))
    row_counts = np.ones(len(labels)) if row_counts is None else row_counts
    calibration = fit_calibration(logits_RC, labels, row_counts)
    probabilities_RC = calibration.probabilities(logits_RC)
    counts_C = np.bincount(labels, row_weights, minlength=classes) + 1.0  # add-one smoothing
    towards_C = -calibration.temperature * (np.log(counts_C) - np.log(counts_C).mean())
    decided = [(logits_RC + strength * towards_C).argmax(axis=1) for strength in STRENGTHS]
    how: dict[str, Any] = {"names": names, "metric": metric, "row_counts": row_counts}
    expected = [expected_score(probabilities_RC, of, **how) for of in decided]
    strength = float(STRENGTHS[int(np.argmax(expected))])  # the smallest of several equal ones
    return ClassBias(strength=strength, bias_C=strength * towards_C)


def expected_score(
    probabilities_RC: Array,
    decided_R: Array,
    *,
    names: list[str],
    metric: str,
    row_counts: Array | None = None,
) -> float:
    """Return the expected score of decisions when true classes are drawn from the probabilities.

    It is the score of the expected confusion counts.

    Args:
        probabilities_RC: of the classes, (R, C); rows sum to 1.
        decided_R: class indices (R,).
        names: class names.
        metric: one of `BALANCED_METRICS`.
        row_counts: multiplicity of each row (R,); None for 1.

    >>> probabilities_RC = np.array([[0.9, 0.1], [0.6, 0.4]])
    >>> settings = {"names": ["good", "bad"], "metric": "macro_recall"}
    >>> round(expected_score(probabilities_RC, np.array([0, 0]), **settings), 3)
    0.5
    >>> round(expected_score(probabilities_RC, np.array([0, 1]), **settings), 3)
    0.7
    """
    if metric not in BALANCED_METRICS:
        raise ValueError(f"no expected score of {metric}")
    classes = len(names)
    rows = np.arange(len(decided_R))
    row_counts = np.ones(len(decided_R)) if row_counts is None else row_counts
    found_C = np.bincount(decided_R, row_counts * probabilities_RC[rows, decided_R], minlength=classes)
    decided_C, true_C = np.bincount(decided_R, row_counts, minlength=classes), row_counts @ probabilities_RC
    if metric == "macro_recall":
        return float((found_C / true_C).mean())
    f1_C = 2 * found_C / (decided_C + true_C)
    counted_C = {"macro_f1": np.full(classes, fill_value=True), "polar_f1": np.array(sides(names)) != 0}
    return float(f1_C[counted_C[metric]].mean())
