"""Adversarial training: each text is learned once more as the small push that hurts most would have it.

After Miyato, Dai and Goodfellow (2017), "Adversarial training methods for semi-supervised text
classification". The push is added to the tokens' vectors behind their dropout. Its direction is that of
the loss's gradient there; its length, L2 over the whole text, is given in units of the root mean square
of the text's own values. The paper brings all embeddings to mean 0 and variance 1 in each step, so that
they cannot outgrow the push. A text's own unit prevents that as well, leaves the table and its
checkpoints alone, and keeps a text's push independent of its neighbours and so of the processes.

Legend: B rows of a batch, T padded length, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lstm_sentiment.hardware import seed_random_numbers

# Only the gradient's direction counts; this keeps that of one token among hundreds within fp16.
GRADIENT_SCALE = 1024.0


@dataclass(frozen=True)
class Adversary:
    """What pushes texts.

    Args:
        length: L2 norm of a text's push, in units of the root mean square of its values.
        embedding_size: E.

    >>> def loss_at(push_TBE):
    ...     return (3 * push_TBE[..., 0] + 4 * push_TBE[..., 1]).sum()
    >>> Adversary(2.0, 2).loss(loss_at, torch.zeros(1, 1))  # (0 + 2 * 5) / 2
    tensor(5., grad_fn=<DivBackward0>)
    """

    length: float
    embedding_size: int

    def loss(self, loss_at: Callable[[Tensor], Tensor], tokens_BT: Tensor) -> Tensor:
        """Return the mean of a batch's loss as it is and as pushed.

        Both use the same dropout masks: what hurts one thinned-out network most need not hurt another.

        Args:
            loss_at: the loss given a push (T, B, E) (see `SentimentLSTM.forward`).
            tokens_BT: the batch's tokens.
        """
        batch, steps = tokens_BT.shape
        still_TBE = torch.zeros(
            steps, batch, self.embedding_size, device=tokens_BT.device, requires_grad=True
        )
        seed = int(torch.randint(2**62, ()))
        seed_random_numbers(seed, tokens_BT.device)
        loss = loss_at(still_TBE)
        (gradient_TBE,) = torch.autograd.grad(loss * GRADIENT_SCALE, still_TBE, retain_graph=True)
        seed_random_numbers(seed, tokens_BT.device)
        return (loss + loss_at(worst_push(gradient_TBE, self.length))) / 2


def worst_push(gradient_TBE: Tensor, length: float) -> Tensor:
    """Return each text's gradient scaled to an L2 norm over all its tokens; a zero gradient stays zero.

    >>> worst_push(torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 4.0], [0.0, 0.0]]]), 10.0)[:, 0]
    tensor([[6., 0.],
            [0., 8.]])
    """
    largest_1B1 = gradient_TBE.abs().amax(dim=(0, 2), keepdim=True)
    # A sure answer's gradient is so small that its square would be 0.
    direction_TBE = gradient_TBE / largest_1B1.clamp(min=torch.finfo(gradient_TBE.dtype).tiny)
    norm_1B1: Tensor = torch.linalg.vector_norm(direction_TBE, dim=(0, 2), keepdim=True)
    return direction_TBE * (length / norm_1B1.clamp(min=1.0))
