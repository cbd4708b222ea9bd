"""Losses of labelled rows, and the weights of classes and rows in them.

Legend: B rows of a batch, R rows of a data set, C classes, K branches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lstm_sentiment.config.schema import TrainerConfig
from lstm_sentiment.data.dataset import Batch, TextDataset

Loss = Callable[[Tensor, Batch], Tensor]  # logits (B, C) or (K, B, C), batch -> the weighted sum over rows


def training_loss(config: TrainerConfig, rows: TextDataset, classes: int) -> Loss:
    """Return the loss that the settings ask for: the one place where it is chosen.

    Args:
        config: of the trainer.
        rows: the training rows, whose class frequencies decide the weights of `class_weights: balanced`.
        classes: C.

    Example::

        loss = training_loss(config.trainer, corpus.train, len(corpus.labels))
    """
    balanced = config.class_weights == "balanced"
    weights_C = balanced_weights(rows.labels, classes, rows.weights) if balanced else None
    return cross_entropy(weights_C, config.label_smoothing)


def cross_entropy(class_weights_C: Tensor | None, label_smoothing: float) -> Loss:
    """Return the loss of logits (B, C) and a batch: the sum over rows of weight x cross-entropy.

    For the logits of several branches, (K, B, C), it is the mean of their losses.

    Args:
        class_weights_C: a factor per class, with mean 1 over the training rows; None for 1.
        label_smoothing: share of the target spread evenly over all classes.
    """

    def loss(logits_BC: Tensor, batch: Batch) -> Tensor:
        if logits_BC.dim() == 3:
            return torch.stack([loss(of_branch_BC, batch) for of_branch_BC in logits_BC]).mean()
        targets = batch.targets_BC if batch.targets_BC.shape[1] else batch.labels_B
        loss_B = nn.functional.cross_entropy(
            logits_BC, targets, reduction="none", label_smoothing=label_smoothing
        )
        if class_weights_C is not None:
            loss_B = loss_B * class_weights_C.to(loss_B.device)[batch.labels_B]
        return (loss_B * batch.weights_B).sum()

    return loss


def balanced_weights(labels: Any, classes: int, row_weights: Any = None) -> Tensor:
    """Return class weights (C,) that give each class the same total and rows a mean weight of 1.

    Args:
        labels: class indices (R,).
        classes: C.
        row_weights: weight of each row (R,), with mean 1; None for 1.

    >>> balanced_weights(np.array([0, 0, 0, 1]), 2)
    tensor([0.6667, 2.0000])
    """
    counts_C = np.bincount(labels, row_weights, minlength=classes)
    return torch.from_numpy(len(labels) / (classes * np.where(counts_C, counts_C, 1))).float()


def row_weights(rows: TextDataset, classes: int, *, balanced: bool) -> npt.NDArray[Any]:
    """Return the loss weight of each row (R,): its own weight, times that of its class if balanced.

    They sum to the total multiplicity of the rows (see `TextDataset`).

    Example::

        row_weights(corpus.train, len(corpus.labels), balanced=True)
    """
    weights_R: npt.NDArray[Any] = rows.weights * rows.counts.mean()
    if not balanced:
        return weights_R
    of_classes_C = balanced_weights(rows.labels, classes, rows.weights).double().numpy()
    balanced_R: npt.NDArray[Any] = weights_R * of_classes_C[rows.labels]
    return balanced_R
