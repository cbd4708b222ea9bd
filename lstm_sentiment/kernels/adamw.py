"""Sparse AdamW for embedding rows with a gradient: a compiled CPU kernel (see `library`).

Legend: V rows of the embedding, U of which have a gradient, E their size.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lstm_sentiment.kernels.library import applies_to, call, fields


class _Update(ctypes.Structure):
    """The arguments of `update_rows`, as in adamw.c."""

    _fields_ = fields(
        (ctypes.c_int64, "count size threads"),
        (ctypes.c_void_p, "rows gradients factors values mean square"),
        (ctypes.c_float, "kept beta1 beta2 rate correction epsilon"),
    )


def applies(values_VE: Tensor, gradient_UE: Tensor) -> bool:
    """Whether `adamw` can update rows of this table.

    >>> applies(torch.zeros(4, 2).double(), torch.zeros(1, 2).double())
    False
    """
    return applies_to(values_VE, gradient_UE) and values_VE.dim() == 2 and values_VE.is_contiguous()


def adamw(
    tables_VE: tuple[Tensor, Tensor, Tensor],
    rows_U: Tensor,
    gradient_UE: Tensor,
    factors_V: Tensor | None = None,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
    step: float,
) -> None:
    """Apply an AdamW step (Loshchilov and Hutter 2019) to some rows in place; `applies` must be True.

    Args:
        tables_VE: the embedding and its two moments.
        rows_U: distinct rows.
        gradient_UE: their gradients.
        factors_V: step multiplier of each row; None for 1.
        learning_rate: of the step.
        betas: decay rates of the moments.
        epsilon: added to the square root of the second moment.
        weight_decay: decoupled weight decay.
        step: 1-based number of this step.

    Raises:
        ValueError: a row index is out of range, or shapes do not match.

    >>> tables_VE = torch.ones(3, 2), torch.zeros(3, 2), torch.zeros(3, 2)
    >>> rates = {"learning_rate": 0.1, "betas": (0.9, 0.99), "epsilon": 1e-8, "weight_decay": 0.0, "step": 1}
    >>> if applies(tables_VE[0], torch.ones(1, 2)):
    ...     adamw(tables_VE, torch.tensor([1]), torch.ones(1, 2), **rates)
    """
    _check(tables_VE, rows_U, gradient_UE, factors_V)
    values_VE, mean_VE, square_VE = tables_VE
    arrays = {
        "rows": rows_U.contiguous(),
        "gradients": gradient_UE.contiguous(),
        "values": values_VE,
        "mean": mean_VE,
        "square": square_VE,
    }
    if factors_V is not None:
        arrays["factors"] = factors_V.contiguous()
    numbers = {
        "count": len(rows_U),
        "size": values_VE.shape[1],
        "threads": torch.get_num_threads(),
        "kept": 1 - learning_rate * weight_decay,
        "beta1": betas[0],
        "beta2": betas[1],
        "rate": learning_rate / (1 - betas[0] ** step),
        "correction": 1 / math.sqrt(1 - betas[1] ** step),
        "epsilon": epsilon,
    }
    call("update_rows", _Update, numbers, arrays)
    for of_VE in tables_VE:
        torch.autograd.graph.increment_version(of_VE)


def _check(
    tables_VE: Sequence[Tensor], rows_U: Tensor, gradient_UE: Tensor, factors_V: Tensor | None
) -> None:
    rows, size = tables_VE[0].shape
    lowest, highest = int(rows_U.min()), int(rows_U.max())
    fit = all(of_VE.shape == (rows, size) and of_VE.is_contiguous() for of_VE in tables_VE)
    fit = (
        fit and (factors_V is None or factors_V.shape == (rows,)) and gradient_UE.shape == (len(rows_U), size)
    )
    if lowest < 0 or highest >= rows or not fit:
        raise ValueError(
            f"rows {lowest} to {highest}, gradients {tuple(gradient_UE.shape)}, factors "
            f"{factors_V if factors_V is None else tuple(factors_V.shape)} and tables "
            f"{[tuple(of_VE.shape) for of_VE in tables_VE]} do not match"
        )
