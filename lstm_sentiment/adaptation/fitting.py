"""Fits a head over a frozen LSTM and a linear branch, and their weights, by cross-validation.

Legend: R rows, P pooled features, C classes, H classes of the start classifier's head.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lstm_sentiment.adaptation.heads import HeadFit, fit_head
from lstm_sentiment.adaptation.stacking import Blend, choose_blend
from lstm_sentiment.adaptation.start import Start
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.linear.logistic_regression import CV_ROWS, LinearFit, fit_branch, folds_of
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.network import TfidfBranch, WideAndDeep
from lstm_sentiment.system.distributed import Processes

log = logging.getLogger(__name__)

BATCH_SIZE = 128
Array = npt.NDArray[Any]


class PooledFeatures(nn.Module):
    """Pooled states (B, P) of texts, the input of an LSTM's head.

    Args:
        lstm: not copied.
    """

    def __init__(self, lstm: SentimentLSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor, spelling_XK: Tensor | None = None) -> Tensor:
        """Return the features; the arguments are those of `SentimentLSTM.forward`."""
        return self.lstm.pooled(self.lstm.embed(tokens_BT, lengths_B, spelling_XK), lengths_B)


@dataclass(frozen=True, kw_only=True)
class FrozenFit:
    """Result of `fit_frozen`.

    Args:
        head: over the pooled features.
        linear: of the n-grams.
        blend: weights of both.
        folds: number of cross-validation folds.
        held: rows covered by the folds, ascending: all, or a subsample of a large set.
    """

    head: HeadFit
    linear: LinearFit
    blend: Blend
    folds: int
    held: Array

    def out_of_fold(self) -> dict[str, Array]:
        """Return the out-of-fold logits of the rows `held`, by branch, and of the blend."""
        return {
            "lstm": self.head.out_of_fold_RC[self.held],
            "ngrams": self.linear.out_of_fold_RC[self.held],
            "": self.blend.out_of_fold_RC,
        }


def pooled_features(
    lstm: SentimentLSTM, rows: TextDataset, *, device: torch.device, processes: Processes
) -> Array:
    """Return the pooled features (R, P) of rows, the same in every process; each computes its share.

    Example::

        features_RP = pooled_features(lstm, corpus.train, device=device, processes=Processes())
    """
    found: Array = predict_logits(
        PooledFeatures(lstm), rows, device=device, batch_size=BATCH_SIZE, processes=processes
    ).numpy()
    return found


def fit_frozen(
    network: WideAndDeep,
    start: Start,
    train: TextDataset,
    features_RP: Array,
    *,
    labels: list[str],
    row_weights: Array,
    metric: str,
    seed: int,
    cv_rows: int = CV_ROWS,
) -> FrozenFit:
    """Fit the head, the linear branch and their weights over a classifier's frozen LSTM, in place.

    Args:
        network: on the CPU; with the LSTM of `start` and a `TfidfBranch`.
        start: classifier whose predictions the head is regularised towards, where its classes match.
        train: rows, with their labels.
        features_RP: of these rows (see `pooled_features`).
        labels: class names.
        row_weights: loss weight of each row (R,).
        metric: score used to choose between blend and linear model.
        seed: of the folds.
        cv_rows: most rows used by cross-validation.
    """
    assert isinstance(network.ngrams, TfidfBranch)
    folds = folds_of(train.labels, texts=train.texts, seed=seed, most=_folds(train.texts), rows=cv_rows)
    settings: dict[str, Any] = {"row_weights": row_weights, "folds": folds}
    linear = fit_branch(network.ngrams, train, classes=len(labels), row_counts=train.counts, **settings)
    head, weight_CP, bias_C = fit_head_of(start, train, features_RP, labels=labels, **settings)
    held = np.sort(np.concatenate(folds))
    start_RC = start.logits(features_RP, train, labels)
    blend = choose_blend(
        head.out_of_fold_RC[held],
        linear.out_of_fold_RC[held],
        train.labels[held],
        names=labels,
        metric=metric,
        row_weights=row_weights[held],
        row_counts=train.counts[held],
        texts=train.texts[held],
        folds=[np.searchsorted(held, fold) for fold in folds],
        start_RC=None if start_RC is None else start_RC[held],
    )
    set_head(network, weight_CP, bias_C)
    _weigh(network, blend)
    return FrozenFit(head=head, linear=linear, blend=blend, folds=len(folds), held=held)


def fit_head_of(
    start: Start,
    rows: TextDataset,
    features_RP: Array,
    *,
    labels: list[str],
    row_weights: Array,
    folds: Sequence[Array],
) -> tuple[HeadFit, Array, Array]:
    """Fit a head over a classifier's pooled features; return the fit, weight (C, P) and bias (C,).

    Args:
        start: classifier whose predictions the head is regularised towards, where its classes match.
        rows: with their labels.
        features_RP: of these rows (see `pooled_features`).
        labels: class names.
        row_weights: loss weight of each row (R,).
        folds: held-out rows of each fold.

    Example::

        fit, weight_CP, bias_C = fit_head_of(
            start, train, features_RP, labels=corpus.labels, row_weights=train.weights, folds=folds
        )
    """
    settings: dict[str, Any] = {"classes": len(labels), "row_weights": row_weights, "folds": folds}
    settings["row_counts"] = rows.counts
    weight_HP, bias_H = (start.weights[f"head.{name}"].double().numpy() for name in ("weight", "bias"))
    matching_CH = start.matching_of_head(labels)
    if matching_CH is not None:
        prior_CP = matching_CH @ weight_HP / start.temperature
        prior_C = matching_CH @ bias_H / start.temperature
        offset_RC = features_RP @ prior_CP.T + prior_C
        head = fit_head(features_RP, rows.labels, offset_RC=offset_RC, **settings)
        return head, head.weight_CP + prior_CP, head.bias_C + prior_C
    # The classifier's logits are the most informative features.
    start_RH = features_RP @ weight_HP.T + bias_H
    both = np.concatenate([features_RP, start_RH], axis=1)
    head = fit_head(both, rows.labels, strong=len(bias_H), **settings)
    own_CP, of_start_CH = np.split(head.weight_CP, [features_RP.shape[1]], axis=1)
    return head, own_CP + of_start_CH @ weight_HP, head.bias_C + of_start_CH @ bias_H


@torch.no_grad()
def set_head(network: WideAndDeep, weight_CP: Array, bias_C: Array) -> None:
    """Set the head of a network's LSTM.

    Example::

        set_head(network, weight_CP, bias_C)
    """
    network.lstm.head.weight.copy_(torch.from_numpy(weight_CP))
    network.lstm.head.bias.copy_(torch.from_numpy(bias_C))


@torch.no_grad()
def _weigh(network: WideAndDeep, blend: Blend) -> None:
    """Set the shares, scaled to mean 1, and distribute the bias over both branches."""
    total = sum(blend.weights)
    network.shares.copy_(torch.tensor([weight * len(blend.weights) / total for weight in blend.weights]))
    bias_C = torch.from_numpy(blend.bias_of_branch).float()
    network.lstm.head.bias.add_(bias_C)
    network.ngrams.bias.add_(bias_C)


def _folds(text_R: Array) -> int:
    texts = len(np.unique(text_R))
    return 10 if texts < 200 else 5 if texts < 2500 else 3
