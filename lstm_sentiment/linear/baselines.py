"""Baselines of a run on the same rows, tokens and weights: the majority class and a linear model.

The linear model is that of `logistic_regression`: it learns from the same training rows with the same class
and sample weights, and its class bias and calibration are chosen by the same validation rows.

Legend: R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.evaluation.calibration import Calibration, fit_calibration
from lstm_sentiment.evaluation.class_bias import choose_class_bias
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import METRICS, score
from lstm_sentiment.evaluation.significance import compare
from lstm_sentiment.linear.logistic_regression import MOST_TOKENS, fit_branch, fit_by_validation, folds_of
from lstm_sentiment.models.network import TfidfBranch
from lstm_sentiment.records.checkpoint_facts import SavedBranch
from lstm_sentiment.records.run_metrics import AgainstLinear
from lstm_sentiment.records.scores import Scores

BUCKETS, MANY_BUCKETS = 1 << 18, 1 << 20  # hash buckets of word pairs, below and from MANY_ROWS
MANY_ROWS = 10_000
BATCH_SIZE = 256
LINEAR = "tfidf_logistic_regression"  # its name in metrics.json
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class LinearBaseline:
    """A fitted linear model and its predictions.

    Args:
        branch: its weights, and the seconds that fitting took.
        labels: class names.
        bias_C: its bias with the class bias, to be used in place of that of the branch.
        calibration: of its probabilities.
        logits: split -> logits (R, C), with the class bias; those of training rows are out-of-fold.
        rows: that it was fitted on; of large corpora a sample.
    """

    branch: TfidfBranch
    labels: list[str]
    bias_C: Array
    calibration: Calibration
    logits: dict[str, Array]
    rows: int

    def scores(self, split: str, truth_R: Array) -> Scores:
        """Return the scores on the rows of a split."""
        return score(truth_R, self.calibration.probabilities(self.logits[split]), self.labels)

    def saved(self) -> SavedBranch:
        """Return what a checkpoint keeps of it next to its weights."""
        return SavedBranch(
            bias=self.bias_C.tolist(),
            temperature=self.calibration.temperature,
            thresholds=self.calibration.thresholds,
        )


def fit_linear_baseline(
    train: TextDataset,
    held_out: Mapping[str, TextDataset],
    *,
    labels: list[str],
    vocabulary_size: int,
    row_weights: Array,
    validation_weights: Array,
    metric: str,
    seed: int,
) -> LinearBaseline:
    """Fit the linear baseline of a run.

    The validation rows choose its penalty; without them, cross-validation of the training rows does.

    Args:
        train: training rows.
        held_out: ``validation`` rows, if there are any, and ``test`` rows.
        labels: class names.
        vocabulary_size: tokens of the run's vocabulary, with padding and unknown.
        row_weights: loss weight of each training row (R,).
        validation_weights: the same of the validation rows, or of the training rows without them.
        metric: score to choose by (see `metrics.score`).
        seed: of the folds, and of the sample of a large corpus.

    Example::

        baseline = fit_linear_baseline(
            corpus.train, {"validation": corpus.validation}, labels=corpus.labels,
            vocabulary_size=len(corpus.vocabulary), row_weights=corpus.train.weights,
            validation_weights=corpus.validation.weights, metric="macro_f1", seed=0,
        )
    """
    kept = _sampled(train, seed)
    some, weights_R = train.part(kept), row_weights[kept]
    branch = TfidfBranch(vocabulary_size, len(labels), buckets=buckets_for(len(train)))
    if "validation" in held_out:
        validation = held_out["validation"]
        fit = fit_by_validation(branch, some, validation, classes=len(labels), row_weights=weights_R)
        logits = {"validation": fit.out_of_fold_RC}
    else:
        folds = folds_of(some.labels, texts=some.texts, seed=seed, most=3)
        fit = fit_branch(
            branch, some, classes=len(labels), row_weights=weights_R, folds=folds, row_counts=some.counts
        )
        held = np.sort(np.concatenate(folds))
        validation, logits = some.part(held), {"validation": fit.out_of_fold_RC[held]}
        validation_weights = weights_R[held]
    logits |= {name: _logits(branch, held_out[name]) for name in held_out.keys() - logits.keys()}
    return linear_baseline(
        branch,
        logits,
        validation,
        labels=labels,
        row_weights=validation_weights,
        metric=metric,
        rows=len(kept),
    )


def linear_baseline(
    branch: TfidfBranch,
    logits: Mapping[str, Array],
    validation: TextDataset,
    *,
    labels: list[str],
    row_weights: Array,
    metric: str,
    rows: int,
    bias_C: Array | None = None,
) -> LinearBaseline:
    """Return a fitted linear model as the baseline, with the class bias and the calibration of its own.

    Args:
        branch: the linear model.
        logits: split -> logits (R, C), without class bias; ``validation`` is among them.
        validation: rows of the validation logits.
        labels: class names.
        row_weights: loss weight of each validation row (R,).
        metric: score to choose the class bias by.
        rows: that the branch was fitted on.
        bias_C: bias of the branch without class bias; None for that of the branch.
    """
    bias = choose_class_bias(
        logits["validation"],
        validation.labels,
        names=labels,
        row_weights=row_weights,
        metric=metric,
        row_counts=validation.counts,
    )
    biased = {name: logits_RC + bias.bias_C for name, logits_RC in logits.items()}
    plain_C = branch.bias.detach().cpu().double().numpy() if bias_C is None else bias_C
    return LinearBaseline(
        branch=branch,
        labels=labels,
        bias_C=plain_C + bias.bias_C,
        calibration=fit_calibration(biased["validation"], validation.labels, validation.counts),
        logits=biased,
        rows=rows,
    )


def saved_branches(
    logits: Mapping[str, Array], biases: Mapping[str, Array], truth_R: Array, row_counts: Array | None = None
) -> dict[str, SavedBranch]:
    """Return what branches need to predict alone: their biases, and calibrations fitted to each.

    Args:
        logits: by branch, of rows to calibrate on, without class bias (R, C).
        biases: by branch, without class bias (C,).
        truth_R: class indices (R,).
        row_counts: multiplicity of each row (R,); None for 1.

    >>> random = np.random.default_rng(0)
    >>> truth_R = random.integers(0, 2, 50)
    >>> logits_RC = np.eye(2)[truth_R] + random.normal(size=(50, 2))
    >>> found = saved_branches({"lstm": 10 * logits_RC}, {"lstm": np.zeros(2)}, truth_R)["lstm"]
    >>> found.bias, found.temperature > 2
    ([0.0, 0.0], True)
    """
    found = {}
    for name, logits_RC in logits.items():
        fit = fit_calibration(logits_RC, truth_R, row_counts)
        bias = np.asarray(biases[name], np.float64).tolist()
        found[name] = SavedBranch(bias=bias, temperature=fit.temperature, thresholds=fit.thresholds)
    return found


def baseline_scores(linear: Scores, train: TextDataset, truth_R: Array, *, rows: int) -> dict[str, Scores]:
    """Return the scores of both baselines on some rows, by name.

    Args:
        linear: scores of the linear model.
        train: training rows; the other baseline predicts their class frequencies for every text.
        truth_R: class indices of the rows.
        rows: that the linear model was fitted on.
    """
    labels = list(linear.per_class)
    counts_C = np.bincount(train.labels, train.weights, minlength=len(labels))
    majority_RC = np.tile(counts_C / counts_C.sum(), (len(truth_R), 1))
    return {
        "majority": score(truth_R, majority_RC, labels),
        LINEAR: replace(linear, training_rows=rows),
    }


def against_linear(
    linear: LinearBaseline,
    logits: Mapping[str, Array],
    truths: Mapping[str, Array],
    *,
    metric: str,
    seconds: float,
) -> AgainstLinear | None:
    """Compare a model with the linear baseline on the test rows, or on the validation rows without them.

    Args:
        linear: the baseline.
        logits: of the model by split, (R, C).
        truths: class indices by split, (R,).
        metric: that selected the model.
        seconds: of its training.

    Returns:
        the comparison; None if the linear model has no predictions for these rows.
    """
    split = "test" if "test" in truths else "validation"
    if len(linear.logits.get(split, ())) != len(truths[split]):
        return None
    return compare_with_linear(
        linear.logits[split],
        logits[split],
        truths[split],
        labels=linear.labels,
        metric=metric,
        linear_s=linear.branch.fit_s,
        model_s=seconds,
    )


def compare_with_linear(
    linear_RC: Array,
    model_RC: Array,
    truth_R: Array,
    *,
    labels: list[str],
    metric: str,
    linear_s: float | None,
    model_s: float,
) -> AgainstLinear:
    """Compare a model with the linear baseline on the same rows by the paired bootstrap.

    Args:
        linear_RC: logits of the linear model, with its class bias.
        model_RC: logits of the model, with its class bias.
        truth_R: class indices.
        labels: class names.
        metric: that selected the model; macro-F1 is compared in place of the loss.
        linear_s: seconds of fitting the linear model, if known.
        model_s: seconds of training the model.
    """
    compared = metric if metric in METRICS else "macro_f1"
    found = compare(truth_R, linear_RC.argmax(axis=1), model_RC.argmax(axis=1), labels).scores[compared]
    return AgainstLinear(
        metric=compared,
        difference=found.difference,
        low=found.low,
        high=found.high,
        linear_s=None if linear_s is None else round(linear_s, 2),
        model_s=round(model_s, 2),
    )


def buckets_for(rows: int) -> int:
    """Return the number of hash buckets of word pairs for a number of training rows.

    >>> buckets_for(100) < buckets_for(100_000)
    True
    """
    return BUCKETS if rows < MANY_ROWS else MANY_BUCKETS


def _logits(branch: TfidfBranch, rows: TextDataset) -> Array:
    found_RC: Array = predict_logits(branch, rows, device=torch.device("cpu"), batch_size=BATCH_SIZE).numpy()
    return found_RC


def _sampled(train: TextDataset, seed: int) -> Array:
    """Return the rows to fit on: all, or a sample that has at most `MOST_TOKENS` tokens."""
    rows = np.random.default_rng(seed).permutation(len(train))
    most = max(1, int((np.cumsum(train.lengths[rows]) <= MOST_TOKENS).sum()))
    return np.sort(rows[:most])
