"""Losses, and the optimizer with its state as named tensors.

Legend: B rows of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lstm_sentiment.dataset import Batch

Loss = Callable[[Tensor, Batch], Tensor]


def cross_entropy(class_weights_C: Tensor | None, label_smoothing: float) -> Loss:
    """Return the loss of logits (B, C) and a batch: the sum over rows of weight x cross-entropy.

    Args:
        class_weights_C: a factor per class, with mean 1 over the training rows; None for 1.
        label_smoothing: share of the target spread evenly over all classes.
    """

    def loss(logits_BC: Tensor, batch: Batch) -> Tensor:
        loss_B = nn.functional.cross_entropy(
            logits_BC, batch.labels_B, reduction="none", label_smoothing=label_smoothing
        )
        if class_weights_C is not None:
            loss_B = loss_B * class_weights_C.to(loss_B.device)[batch.labels_B]
        return (loss_B * batch.weights_B).sum()

    return loss


def balanced_weights(labels: Any, classes: int) -> Tensor:
    """Return class weights (C,) that give each class the same total and rows a mean weight of 1.

    >>> balanced_weights(np.array([0, 0, 0, 1]), 2)
    tensor([0.6667, 2.0000])
    """
    counts = np.bincount(labels, minlength=classes)
    return torch.from_numpy(len(labels) / (classes * np.maximum(counts, 1))).float()


def adamw(model: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over a model's trainable parameters; matrices decay, biases do not."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99), fused=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as ``<kind>.<parameter>`` -> tensor."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{kind}.{names[id(parameter)]}": value
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimizer_tensors`."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        parameter = parameters[name]
        device = (
            torch.device("cpu") if kind == "step" and parameter.device.type == "cpu" else parameter.device
        )
        optimizer.state[parameter][kind] = value.to(device)
