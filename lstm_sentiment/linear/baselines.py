"""Baselines of a run on the same rows, tokens and weights: the majority class and a linear model.

The linear model is that of `logistic_regression`: it learns from the same training rows with the same class
and sample weights, and its regularisation, class bias and calibration are chosen by the same validation rows.

Legend: R rows, C classes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.evaluation.calibration import Calibration, fit_calibration
from lstm_sentiment.evaluation.class_bias import choose_class_bias
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.linear.logistic_regression import MOST_TOKENS, fit_branch, fit_by_validation, folds_of
from lstm_sentiment.models.network import TfidfBranch

BUCKETS, MANY_BUCKETS = 1 << 18, 1 << 20  # hash buckets of word pairs, below and from MANY_ROWS
MANY_ROWS = 10_000
BATCH_SIZE = 256
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class LinearBaseline:
    """A fitted linear model.

    Args:
        branch: its weights; the bias includes the class bias.
        strength: inverse strength of the penalty (scikit-learn's C).
        calibration: of its probabilities.
        validation_RC: logits of the validation rows, or out-of-fold logits of cross-validated ones.
        rows: that it was fitted on; of large corpora a sample.
        seconds: that it took, with the choice of the penalty.
    """

    branch: TfidfBranch
    strength: float
    calibration: Calibration
    validation_RC: Array
    rows: int
    seconds: float

    def logits(self, rows: TextDataset) -> Array:
        """Return the logits of rows (R, C)."""
        found = predict_logits(self.branch, rows, device=torch.device("cpu"), batch_size=BATCH_SIZE)
        logits_RC: Array = found.numpy()
        return logits_RC


def fit_linear_baseline(
    train: TextDataset,
    validation: TextDataset,
    *,
    labels: list[str],
    vocabulary_size: int,
    row_weights: Array,
    validation_weights: Array,
    metric: str,
    seed: int,
) -> LinearBaseline:
    """Fit the linear baseline of a run.

    Args:
        train: training rows.
        validation: validation rows; `train` if its rows are cross-validated.
        labels: class names.
        vocabulary_size: tokens of the run's vocabulary, with padding and unknown.
        row_weights: loss weight of each training row (R,).
        validation_weights: the same of the validation rows.
        metric: score to choose the penalty and the class bias by (see `metrics.score`).
        seed: of the folds, and of the sample of a large corpus.

    Example::

        baseline = fit_linear_baseline(
            corpus.train, corpus.validation, labels=corpus.labels, vocabulary_size=len(corpus.vocabulary),
            row_weights=corpus.train.weights, validation_weights=corpus.validation.weights,
            metric="macro_f1", seed=0,
        )
    """
    started = time.perf_counter()
    kept = _sampled(train, seed)
    some, weights_R = train.part(kept), row_weights[kept]
    branch = TfidfBranch(vocabulary_size, len(labels), buckets=buckets_for(len(train)))
    if validation is train:
        folds = folds_of(some.labels, texts=some.texts, seed=seed, most=3)
        fit = fit_branch(
            branch, some, classes=len(labels), row_weights=weights_R, folds=folds, row_counts=some.counts
        )
        held = np.sort(np.concatenate(folds))
        held_out, validation_RC, held_weights = some.part(held), fit.out_of_fold_RC[held], weights_R[held]
    else:
        fit = fit_by_validation(branch, some, validation, labels=labels, row_weights=weights_R, metric=metric)
        held_out, validation_RC, held_weights = validation, fit.out_of_fold_RC, validation_weights
    validation_RC = validation_RC + _biased(branch, validation_RC, held_out, labels, held_weights, metric)
    return LinearBaseline(
        branch=branch,
        strength=fit.strength,
        calibration=fit_calibration(validation_RC, held_out.labels, held_out.counts),
        validation_RC=validation_RC,
        rows=len(kept),
        seconds=time.perf_counter() - started,
    )


def majority_probabilities(train: TextDataset, rows: int, classes: int) -> Array:
    """Return the class frequencies of the training rows as the probabilities of each of some rows (R, C)."""
    counts_C = np.bincount(train.labels, train.weights, minlength=classes)
    return np.tile(counts_C / counts_C.sum(), (rows, 1))


def buckets_for(rows: int) -> int:
    """Return the number of hash buckets of word pairs for a number of training rows.

    >>> buckets_for(100) < buckets_for(100_000)
    True
    """
    return BUCKETS if rows < MANY_ROWS else MANY_BUCKETS


def _sampled(train: TextDataset, seed: int) -> Array:
    """Return the rows to fit on: all, or a sample that has at most `MOST_TOKENS` tokens."""
    rows = np.random.default_rng(seed).permutation(len(train))
    most = max(1, int((np.cumsum(train.lengths[rows]) <= MOST_TOKENS).sum()))
    return np.sort(rows[:most])


@torch.no_grad()
def _biased(
    branch: TfidfBranch,
    logits_RC: Array,
    held_out: TextDataset,
    labels: list[str],
    weights_R: Array,
    metric: str,
) -> Array:
    """Add the class bias that a metric asks for to a branch, and return it (C,)."""
    bias = choose_class_bias(
        logits_RC,
        held_out.labels,
        names=labels,
        row_weights=weights_R,
        metric=metric,
        row_counts=held_out.counts,
    )
    branch.bias.add_(torch.from_numpy(bias.bias_C).float())
    return bias.bias_C
