"""Out-of-fold class probabilities of all rows: each row is predicted by models that were not fitted on it.

The models are those of training with few rows (see `adaptation.fitting`): a head over the frozen LSTM of the
classifier that training starts from, a linear model of TF-IDF features, and their weighted sum. Features of
the LSTM are computed once, so that thousands of rows take seconds.

Legend: R rows, C classes, P pooled features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold

from lstm_sentiment.adaptation.fitting import fit_head_of, pooled_features
from lstm_sentiment.adaptation.stacking import choose_blend
from lstm_sentiment.adaptation.start import Start
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.linear.logistic_regression import fit_branch, folds_of
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.network import TfidfBranch
from lstm_sentiment.system.blas import one_blas_thread
from lstm_sentiment.system.distributed import Processes

FOLDS = 5
MODELS = {
    "both": "the LSTM and the linear model together",
    "head": "the LSTM alone",
    "linear": "the linear model alone",
}
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class FrozenLSTM:
    """The LSTM of a classifier, with the vocabulary of the rows.

    Args:
        start: the classifier.
        lstm: its layers, on `device`.
        device: to compute features on.
    """

    start: Start
    lstm: SentimentLSTM
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class OutOfFold:
    """Out-of-fold probabilities.

    Args:
        probabilities_RC: of the best model.
        linear_RC: of the linear model alone.
        model: the best model, in words.
    """

    probabilities_RC: Array
    linear_RC: Array
    model: str


def out_of_fold(
    rows: TextDataset,
    labels: list[str],
    branch: TfidfBranch,
    folds: Sequence[Array],
    *,
    frozen: FrozenLSTM | None = None,
) -> OutOfFold:
    """Return the out-of-fold probabilities of rows.

    Args:
        rows: with their labels.
        labels: class names.
        branch: the linear model; its weights are replaced.
        folds: held-out rows of each fold; together all rows (see `folds_with_groups`).
        frozen: the LSTM to fit a head over; None for the linear model alone.

    Example::

        found = out_of_fold(rows, labels, branch, folds_with_groups(rows, None, seed=0))
    """
    with one_blas_thread():
        return _out_of_fold(rows, labels, branch, folds, frozen)


def _out_of_fold(
    rows: TextDataset,
    labels: list[str],
    branch: TfidfBranch,
    folds: Sequence[Array],
    frozen: FrozenLSTM | None,
) -> OutOfFold:
    settings: dict[str, Any] = {"row_weights": np.ones(len(rows)), "folds": folds}
    linear_RC = fit_branch(branch, rows, classes=len(labels), **settings).out_of_fold_RC
    of_linear_RC = softmax(linear_RC, axis=1)
    if frozen is None:
        return OutOfFold(probabilities_RC=of_linear_RC, linear_RC=of_linear_RC, model=MODELS["linear"])
    features_RP = pooled_features(frozen.lstm, rows, device=frozen.device, processes=Processes())
    head, _, _ = fit_head_of(frozen.start, rows, features_RP, labels=labels, **settings)
    blend = choose_blend(
        head.out_of_fold_RC,
        linear_RC,
        rows.labels,
        names=labels,
        metric="accuracy",  # others have a bias towards rare classes, whose labels would look right
        texts=rows.texts,
        **settings,
    )
    probabilities_RC: Array = softmax(blend.out_of_fold_RC, axis=1)
    return OutOfFold(probabilities_RC=probabilities_RC, linear_RC=of_linear_RC, model=MODELS[blend.kind])


def folds_with_groups(rows: TextDataset, groups_R: Array | None, *, seed: int) -> list[Array]:
    """Return the held-out rows of stratified folds, together all rows.

    Args:
        rows: with their labels; equal texts are in one fold.
        groups_R: rows of one group are in one fold, (R,); equal texts have the same group. None for none.
        seed: of the shuffle.

    Example::

        folds = folds_with_groups(rows, None, seed=0)
    """
    if groups_R is None or len(np.unique(groups_R)) < 2:
        return folds_of(rows.labels, texts=rows.texts, seed=seed, most=FOLDS, rows=len(rows))
    count = min(FOLDS, len(np.unique(groups_R)), max(2, int(np.bincount(rows.labels).max())))
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    held = [held for _, held in splitter.split(np.zeros(len(rows)), rows.labels, groups_R)]
    return [np.sort(fold) for fold in held if len(fold)]
