"""Reversing each text of a padded batch within its own length, so that padding stays behind it.

Legend: B texts, T padded length, H hidden size, D directions, F = D·H features, N = T·B places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def reversal(steps: int, lengths_B: Tensor) -> Tensor | None:
    """Return the index (N,) into flattened (T, B) that reverses each text within its own length.

    None where no text is padded and all are reversed alike: a single text need not wait for an index.

    >>> reversal(3, torch.tensor([3, 1])).view(3, 2).tolist()
    [[4, 1], [2, 3], [0, 5]]
    """
    if is_full(steps, lengths_B):
        return None
    place_TB = torch.arange(steps, device=lengths_B.device)[:, None].expand(steps, len(lengths_B))
    reversed_TB = torch.where(place_TB < lengths_B, lengths_B - 1 - place_TB, place_TB)
    index_TB = reversed_TB * len(lengths_B) + torch.arange(len(lengths_B), device=lengths_B.device)
    return index_TB.flatten()


def reversed_texts(values_TBX: Tensor, reversal_N: Tensor | None) -> Tensor:
    """Return values with each text reversed; `reversal_N` is what `reversal` returned.

    >>> reversed_texts(torch.tensor([[5.0, 8.0], [6.0, 0.0]])[:, :, None], None)[:, 0, 0].tolist()
    [6.0, 5.0]
    """
    if reversal_N is None:
        return values_TBX.flip(0)
    found: Tensor = _Reversed.apply(values_TBX, reversal_N)  # type: ignore[no-untyped-call]
    return found


def by_place(read: list[Tensor], reversal_N: Tensor | None) -> Tensor:
    """Return states (T, B, F) in the order of the text, from those (T, B, H) of each direction.

    >>> forward_TBH, backward_TBH = torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[[3.0]], [[4.0]]])
    >>> by_place([forward_TBH, backward_TBH], None)[:, 0].tolist()
    [[1.0, 4.0], [2.0, 3.0]]
    """
    return torch.cat([read[0], *(reversed_texts(states_TBH, reversal_N) for states_TBH in read[1:])], dim=2)


def is_full(steps: int, lengths_B: Tensor) -> bool:
    """Whether no text is padded, where that is known without waiting for a device.

    >>> is_full(3, torch.tensor([3, 3])), is_full(3, torch.tensor([3, 1]))
    (True, False)
    """
    return lengths_B.device.type == "cpu" and int(lengths_B.min()) == steps


class _Reversed(torch.autograd.Function):
    """Rows of (T, B, X) gathered by an index that is its own inverse.

    The gradient of a gather is a scatter, which is slow; that of a reversal is the same reversal.
    """

    @staticmethod
    def forward(ctx: Any, values_TBX: Tensor, reversal_N: Tensor) -> Tensor:
        ctx.save_for_backward(reversal_N)
        return values_TBX.flatten(0, 1).index_select(0, reversal_N).view(values_TBX.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (reversal_N,) = ctx.saved_tensors
        return reversed_texts(gradients[0].contiguous(), reversal_N), None
