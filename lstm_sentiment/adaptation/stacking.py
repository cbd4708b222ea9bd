"""Stacking: weights of the head over the classifier's features and of the linear model in their sum.

Legend: R rows, C classes, K models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from lstm_sentiment.evaluation.class_bias import choose_class_bias
from lstm_sentiment.evaluation.metrics import better, score

STACK_TEXTS = 100  # with fewer, fitted weights are noise
CLEARLY = 2.0  # standard errors
BIAS_PENALTY = 0.02
MOST_WEIGHT = 20.0
AHEAD = "the linear model is ahead by more than chance"
NOT_AHEAD = "the linear model is not ahead by more than chance"
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Blend:
    """A weighted sum of two models.

    Args:
        kind: ``both``, ``head`` or ``linear``.
        weights: factors of the logits of the head and of the linear model.
        bias_C: bias added to the logits, (C,).
        out_of_fold_RC: logits of the training rows, models and weights fitted on other folds.
        strength: of the class bias in `bias_C` (see `class_bias`), 0 for none.
        scores: held-out scores by name: ``start``, the start classifier unchanged; the ``head`` and the
            ``linear`` model alone; ``both``; and the ``kept`` blend. None if not available.
        behind_start: True if the start unchanged is ahead of the kept blend (see `is_ahead`), otherwise None.
        why: the reason, in words.
    """

    kind: Literal["both", "head", "linear"]
    weights: tuple[float, float]
    bias_C: Array
    out_of_fold_RC: Array
    strength: float = 0.0
    scores: dict[str, float | None] = field(default_factory=dict)
    behind_start: bool | None = None
    why: str = ""

    @property
    def bias_of_branch(self) -> Array:
        """Bias to add to each model's logits, so that their weighted sum has the bias (C,)."""
        shared_C: Array = self.bias_C / sum(self.weights)
        return shared_C


def choose_blend(
    head_RC: Array,
    linear_RC: Array,
    labels: Array,
    *,
    names: list[str],
    row_weights: Array,
    folds: Sequence[Array],
    metric: str,
    start_RC: Array | None = None,
    row_counts: Array | None = None,
    texts: Array | None = None,
) -> Blend:
    """Return the blend of a head and a linear model with the best out-of-fold score.

    With at least 100 texts it is the weighted sum of both, the weights fitted by maximum likelihood, unless
    the head alone is ahead; with fewer it is the head alone. The linear model is kept alone if it is ahead.
    A class bias is added if the metric needs one (see `class_bias`). A model is ahead if its score is better
    by more than one standard error of the difference.

    Args:
        head_RC: out-of-fold logits (R, C).
        linear_RC: out-of-fold logits (R, C).
        labels: class indices (R,).
        names: class names.
        row_weights: loss weight of each row (R,).
        folds: held-out rows of each fold.
        metric: score that decides (see `metrics.score`).
        start_RC: logits of the start classifier (R, C), for its score.
        row_counts: multiplicity of each row (R,), independent of its loss weight; None for 1.
        texts: equal for rows with the same text (R,); None if none is repeated.

    >>> labels, random = np.array([0, 1] * 60), np.random.default_rng(0)
    >>> good_RC, noise_RC = 4 * np.eye(2)[labels] + random.normal(size=(120, 2)), random.normal(size=(120, 2))
    >>> folds = [np.arange(0, 60), np.arange(60, 120)]
    >>> settings = {"names": ["a", "b"], "row_weights": np.ones(120), "folds": folds, "metric": "accuracy"}
    >>> blend = choose_blend(noise_RC, good_RC, labels, **settings)
    >>> bool(blend.weights[0] < 0.5 < blend.weights[1])
    True
    """
    models_KRC = np.stack([_centred(head_RC), _centred(linear_RC)])
    judge = _Judge(labels=labels, names=names, metric=metric, row_counts=row_counts)
    nothing_C = np.zeros(len(names))
    head = Blend(kind="head", weights=(1.0, 0.0), bias_C=nothing_C, out_of_fold_RC=models_KRC[0])
    linear = Blend(kind="linear", weights=(0.0, 1.0), bias_C=nothing_C, out_of_fold_RC=models_KRC[1])
    kept, both = _biased(head, judge, row_weights), None
    if len(labels if texts is None else np.unique(texts)) >= STACK_TEXTS:
        both = _stacked(models_KRC, labels, row_weights, folds)
        also = _biased(both, judge, row_weights)
        kept = kept if judge.ahead(kept.out_of_fold_RC, also.out_of_fold_RC) else also
    why = NOT_AHEAD
    if judge.ahead(linear.out_of_fold_RC, kept.out_of_fold_RC):
        also, why = _biased(linear, judge, row_weights), AHEAD
        lower = better(judge.score(linear.out_of_fold_RC), judge.score(also.out_of_fold_RC), metric)
        kept = linear if lower else also
    of_models = {"start": start_RC, "head": models_KRC[0], "linear": models_KRC[1]}
    of_models |= {"both": None if both is None else both.out_of_fold_RC, "kept": kept.out_of_fold_RC}
    scores = {name: None if of is None else judge.score(of) for name, of in of_models.items()}
    behind = start_RC is not None and judge.ahead(start_RC, kept.out_of_fold_RC, errors=CLEARLY)
    return replace(kept, scores=scores, behind_start=behind or None, why=why)


def is_ahead(
    one_RC: Array,
    other_RC: Array,
    labels: Array,
    *,
    names: list[str],
    metric: str,
    row_counts: Array | None,
    errors: float = CLEARLY,
) -> bool:
    """Whether a model scores better than another on the same rows by some standard errors of the difference.

    Args:
        one_RC: logits (R, C).
        other_RC: logits (R, C).
        labels: class indices (R,).
        names: class names.
        metric: to score by.
        row_counts: multiplicity of each row (R,); None for 1.
        errors: standard errors that the difference must exceed; 2 is about the 5 % level.

    >>> labels = np.array([0, 1] * 20)
    >>> right_RC, half_RC = np.eye(2)[labels], np.eye(2)[np.zeros(40, int)]
    >>> of_rows = {"names": ["no", "yes"], "metric": "accuracy", "row_counts": None}
    >>> is_ahead(right_RC, half_RC, labels, **of_rows), is_ahead(half_RC, half_RC, labels, **of_rows)
    (True, False)
    """
    judge = _Judge(labels=labels, names=names, metric=metric, row_counts=row_counts)
    found, than = judge.score(one_RC), judge.score(other_RC)
    by_chance = errors * standard_error_of_difference(one_RC, other_RC, labels, row_counts)
    return better(found, than, metric) and abs(found - than) > by_chance


def _biased(blend: Blend, judge: _Judge, row_weights: Array) -> Blend:
    """Return a blend with the class bias that the metric needs."""
    logits_RC = blend.out_of_fold_RC
    of = choose_class_bias(
        logits_RC,
        judge.labels,
        names=judge.names,
        row_weights=row_weights,
        metric=judge.metric,
        row_counts=judge.row_counts,
    )
    bias_C = blend.bias_C + of.bias_C
    return replace(blend, bias_C=bias_C, strength=of.strength, out_of_fold_RC=logits_RC + of.bias_C)


@dataclass(frozen=True, kw_only=True)
class _Judge:
    """Scores logits of held-out rows, and compares blends."""

    labels: Array
    names: list[str]
    metric: str
    row_counts: Array | None

    def score(self, logits_RC: Array) -> float:
        scores = score(self.labels, softmax(logits_RC, axis=1), self.names, self.row_counts)
        return float(scores[self.metric])

    def ahead(self, one_RC: Array, other_RC: Array, *, errors: float = 1.0) -> bool:
        """Whether logits score better than others by more than some standard errors."""
        of_rows: dict[str, Any] = {"names": self.names, "metric": self.metric, "row_counts": self.row_counts}
        return is_ahead(one_RC, other_RC, self.labels, errors=errors, **of_rows)


def _stacked(models_KRC: Array, labels: Array, row_weights: Array, folds: Sequence[Array]) -> Blend:
    """Return the weighted sum of both models, with out-of-fold logits by weights of the other folds."""
    stacked_RC = np.zeros_like(models_KRC[0])
    for fold in folds:
        others = np.setdiff1d(np.arange(len(labels)), fold)
        weights_K, bias_C = _stack(models_KRC[:, others], labels[others], row_weights[others])
        stacked_RC[fold] = np.tensordot(weights_K, models_KRC[:, fold], axes=1) + bias_C
    weights_K, bias_C = _stack(models_KRC, labels, row_weights)
    weights = (float(weights_K[0]), float(weights_K[1]))
    return Blend(kind="both", weights=weights, bias_C=bias_C, out_of_fold_RC=stacked_RC)


def standard_error_of_difference(
    one_RC: Array, other_RC: Array, labels: Array, row_counts: Array | None = None
) -> float:
    """Return the standard error of the difference of two models' accuracies on the same rows.

    Args:
        one_RC: logits (R, C).
        other_RC: logits (R, C).
        labels: class indices (R,).
        row_counts: multiplicity of each row (R,); None for 1.

    >>> one_RC, other_RC = np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 0, 1, 0]]
    >>> round(standard_error_of_difference(one_RC, other_RC, np.array([0, 0, 1, 1])), 3)
    0.25
    """
    difference_R = (one_RC.argmax(axis=1) == labels).astype(float) - (other_RC.argmax(axis=1) == labels)
    row_counts = np.ones(len(labels)) if row_counts is None else row_counts
    rows = float(row_counts.sum())
    if len(labels) < 2 or rows <= 1:
        return 0.0
    mean = np.average(difference_R, weights=row_counts)
    variance = float((row_counts * np.square(difference_R - mean)).sum()) / (rows - 1)
    return float(np.sqrt(variance / rows))


def _stack(models_KRC: Array, labels: Array, row_weights: Array) -> tuple[Array, Array]:
    """Return non-negative weights (K,) and bias (C,) that maximise the likelihood of the sum."""
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
