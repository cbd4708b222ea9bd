"""Mean and max pooling over a text's hidden states on a CPU: a compiled kernel (see `library`).

Legend: T steps, B texts, H states of a token and direction, D directions, F = D·H.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lstm_sentiment.kernels.library import applies_to, call, fields


class _Pool(ctypes.Structure):
    """The arguments of a pass, as in pooling.c."""

    _fields_ = fields(
        (ctypes.c_int64, "directions steps batch hidden threads"),
        (ctypes.c_void_p, "lengths states mean largest ties mean_gradients largest_gradients"),
        (ctypes.c_void_p, "state_gradients"),
    )


def applies(read: Sequence[Tensor]) -> bool:
    """Whether `mean_and_max` can pool these states.

    >>> applies([torch.zeros(5, 2, 8).double()])
    False
    """
    return applies_to(*read)


def mean_and_max(read: Sequence[Tensor], lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Mean- and max-pool each text's hidden states (B, F) over its tokens; `applies` must be True.

    Tied maxima share the gradient, as in `Tensor.amax`. A text's result is bit-identical in any batch.

    Args:
        read: hidden states (T, B, H) of each direction, in reading order.
        lengths_B: number of tokens of each text, from 1 to T.

    Raises:
        ValueError: the shapes do not match, or a text's length is not from 1 to T.

    >>> read, lengths_B = [torch.randn(5, 2, 8)], torch.tensor([5, 3])
    >>> mean_BF = mean_and_max(read, lengths_B)[0] if applies(read) else read[0].mean(dim=0)
    >>> torch.allclose(mean_BF[0], read[0][:, 0].mean(dim=0), atol=1e-6)
    True
    """
    steps, batch = read[0].shape[:2]
    lengths = lengths_B.tolist()
    shortest, longest = min(lengths), max(lengths)
    if len({of.shape for of in read}) > 1 or len(lengths_B) != batch or shortest < 1 or longest > steps:
        raise ValueError(
            f"states {[tuple(of.shape) for of in read]} and {len(lengths_B)} texts of {shortest} to "
            f"{longest} tokens do not match"
        )
    lengths_B = lengths_B.long().contiguous()
    if torch.is_grad_enabled() and any(of.requires_grad for of in read):
        pooled: tuple[Tensor, Tensor] = _Pooling.apply(lengths_B, *read)  # type: ignore[no-untyped-call]
        return pooled
    return _forward(lengths_B, [of.contiguous() for of in read])[:2]


class _Pooling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lengths_B: Tensor, *read: Tensor) -> Any:
        states = [states_TBH.contiguous() for states_TBH in read]
        mean_BF, largest_BF, ties_BF = _forward(lengths_B, states)
        ctx.save_for_backward(lengths_B, largest_BF, ties_BF, *states)
        return mean_BF, largest_BF

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients_BF: Tensor) -> Any:
        lengths_B, largest_BF, ties_BF, *states = ctx.saved_tensors
        of_mean_BF, of_largest_BF = gradients_BF
        of_states_DTBH = states[0].new_empty(len(states), *states[0].shape)
        _call(
            "pool_backward",
            states,
            lengths=lengths_B,
            largest=largest_BF,
            mean_gradients=(of_mean_BF / lengths_B[:, None]).contiguous(),
            largest_gradients=(of_largest_BF / ties_BF).contiguous(),
            state_gradients=of_states_DTBH,
        )
        return None, *of_states_DTBH


def _forward(lengths_B: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and maximum (B, F), and how many tokens have the maximum."""
    features = sum(of.shape[2] for of in states)
    mean_BF, largest_BF, ties_BF = states[0].new_empty(3, len(lengths_B), features).unbind()
    arrays = {"mean": mean_BF, "largest": largest_BF, "ties": ties_BF}
    _call("pool_forward", states, lengths=lengths_B, **arrays)
    return mean_BF, largest_BF, ties_BF


def _call(name: str, states: Sequence[Tensor], **arrays: Tensor) -> None:
    steps, batch, hidden = states[0].shape
    sizes = {"directions": len(states), "steps": steps, "batch": batch, "hidden": hidden}
    call(name, _Pool, {**sizes, "threads": torch.get_num_threads()}, {"states": states, **arrays})
