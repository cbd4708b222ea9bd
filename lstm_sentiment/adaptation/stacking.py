"""How much a head over the classifier's features and the linear model count together, and whether at all.

Legend: R rows, C classes, K models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from lstm_sentiment.metrics import better, score

STACK_ROWS = 100  # with fewer the weights of a stack are noise
BIAS_PENALTY = 0.02
MOST_WEIGHT = 20.0
ALONE = ("head", "linear")
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Blend:
    """What is kept of two models.

    Args:
        kind: ``both``, ``head`` or ``linear``.
        weights: what the logits of the head and of the linear model are multiplied by.
        bias_C: what is added, (C,).
        out_of_fold_RC: logits of the training rows, of models and weights fitted on others.
        why: in words.
    """

    kind: str
    weights: tuple[float, float]
    bias_C: Array
    out_of_fold_RC: Array
    why: str


def choose_blend(
    head_RC: Array,
    linear_RC: Array,
    labels: Array,
    *,
    names: list[str],
    row_weights: Array,
    folds: Sequence[Array],
    metric: str,
) -> Blend:
    """Return the blend of a head and a linear model that does best on rows that neither was fitted on.

    With at least 100 rows it is the weighted sum of both, the weights fitted by likelihood, unless the head
    alone scores better; with fewer rows it is the head alone. The linear model is kept alone where it is
    ahead by more than chance: more than one standard error of the difference.

    Args:
        head_RC: out-of-fold logits (R, C).
        linear_RC: out-of-fold logits (R, C).
        labels: class indices (R,).
        names: class names.
        row_weights: what each row counts (R,).
        folds: rows that each fold holds out.
        metric: score that decides (see `metrics.score`).

    >>> labels = np.array([0, 1] * 60)
    >>> random = np.random.default_rng(0)
    >>> good_RC, noise_RC = 4 * np.eye(2)[labels] + random.normal(size=(120, 2)), random.normal(size=(120, 2))
    >>> folds = [np.arange(0, 60), np.arange(60, 120)]
    >>> settings = {"names": ["a", "b"], "row_weights": np.ones(120), "folds": folds, "metric": "accuracy"}
    >>> blend = choose_blend(noise_RC, good_RC, labels, **settings)
    >>> bool(blend.weights[0] < 0.5 < blend.weights[1])
    True
    """
    models_KRC = np.stack([_centred(head_RC), _centred(linear_RC)])

    def score_of(logits_RC: Array) -> float:
        return float(score(labels, softmax(logits_RC, axis=1), names)[metric])

    nothing_C = np.zeros(len(names))
    blend = Blend(kind="head", weights=(1.0, 0.0), bias_C=nothing_C, out_of_fold_RC=models_KRC[0], why="")
    if len(labels) >= STACK_ROWS:
        both = _stacked(models_KRC, labels, row_weights, folds)
        if not better(score_of(blend.out_of_fold_RC), score_of(both.out_of_fold_RC), metric):
            blend = both
    of_blend, of_linear = score_of(blend.out_of_fold_RC), score_of(models_KRC[1])
    told = f"{metric} of rows held out {of_blend:.3f}, of the linear model {of_linear:.3f}"
    by_chance = chance_of(blend.out_of_fold_RC, models_KRC[1], labels)
    if better(of_linear, of_blend, metric) and abs(of_linear - of_blend) > by_chance:
        return Blend(
            kind="linear",
            weights=(0.0, 1.0),
            bias_C=nothing_C,
            out_of_fold_RC=models_KRC[1],
            why=f"the linear model is ahead: {told}",
        )
    return replace(blend, why=told)


def _stacked(models_KRC: Array, labels: Array, row_weights: Array, folds: Sequence[Array]) -> Blend:
    """Return the weighted sum of both models; weights that were fitted on other folds score it."""
    stacked_RC = np.zeros_like(models_KRC[0])
    for fold in folds:
        others = np.setdiff1d(np.arange(len(labels)), fold)
        weights_K, bias_C = _stack(models_KRC[:, others], labels[others], row_weights[others])
        stacked_RC[fold] = np.tensordot(weights_K, models_KRC[:, fold], axes=1) + bias_C
    weights_K, bias_C = _stack(models_KRC, labels, row_weights)
    weights = (float(weights_K[0]), float(weights_K[1]))
    return Blend(kind="both", weights=weights, bias_C=bias_C, out_of_fold_RC=stacked_RC, why="")


def chance_of(one_RC: Array, other_RC: Array, labels: Array) -> float:
    """Return the standard error of the difference of two models' accuracies on the same rows.

    >>> one_RC, other_RC = np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 0, 1, 0]]
    >>> round(chance_of(one_RC, other_RC, np.array([0, 0, 1, 1])), 3)
    0.25
    """
    difference_R = (one_RC.argmax(axis=1) == labels).astype(float) - (other_RC.argmax(axis=1) == labels)
    return float(difference_R.std(ddof=1) / np.sqrt(len(labels))) if len(labels) > 1 else 0.0


def _stack(models_KRC: Array, labels: Array, row_weights: Array) -> tuple[Array, Array]:
    """Return weights (K,) and bias (C,) with the best likelihood of the sum; no weight is negative."""
    models, _, classes = models_KRC.shape
    share_R1 = (row_weights / row_weights.sum())[:, None]
    target_RC = np.eye(classes)[labels]

    def loss(flat: Array) -> tuple[float, Array]:
        weights_K, bias_C = flat[:models], flat[models:]
        log_RC = log_softmax(np.tensordot(weights_K, models_KRC, axes=1) + bias_C, axis=1)
        error_RC = (np.exp(log_RC) - target_RC) * share_R1
        gradient = [(error_RC * of_RC).sum() for of_RC in models_KRC]
        penalty = BIAS_PENALTY * float(bias_C @ bias_C)
        of_bias_C = error_RC.sum(axis=0) + 2 * BIAS_PENALTY * bias_C
        return -float((share_R1 * target_RC * log_RC).sum()) + penalty, np.concatenate([gradient, of_bias_C])

    first = np.concatenate([np.full(models, 1 / models), np.zeros(classes)])
    bounds = [(0.0, MOST_WEIGHT)] * models + [(None, None)] * classes
    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds)
    return found.x[:models], found.x[models:]


def _centred(logits_RC: Array) -> Array:
    centred_RC: Array = logits_RC - logits_RC.mean(axis=1, keepdims=True)
    return centred_RC
