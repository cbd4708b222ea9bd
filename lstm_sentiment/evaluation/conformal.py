"""Conformal prediction sets: the labels that cannot be ruled out at a requested coverage.

Part of the exported runtime: depends on numpy only.

Legend: R rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def label_sets(
    probabilities_RC: npt.NDArray[Any], thresholds: Sequence[float], coverage: float
) -> npt.NDArray[np.bool_]:
    """Return which labels are in each row's set, bool (R, C); the most probable one always is.

    Args:
        probabilities_RC: calibrated probabilities.
        thresholds: lowest probability of a label in a set, for coverages of 0 to 1 in equal steps.
        coverage: probability that a set holds the true label, 0 < coverage < 1.

    >>> label_sets(np.array([[0.7, 0.3], [0.5, 0.5]]), [0.6, 0.4, 0.2], 0.5).tolist()
    [[True, False], [True, True]]
    """
    levels = len(thresholds) - 1
    threshold = thresholds[min(math.ceil(coverage * levels - 1e-9), levels)]
    likeliest_RC = probabilities_RC == probabilities_RC.max(axis=1, keepdims=True)
    sets_RC: npt.NDArray[np.bool_] = (probabilities_RC >= threshold) | likeliest_RC
    return sets_RC
