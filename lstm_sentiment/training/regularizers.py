"""Consistency losses: predictions should not depend on dropout masks or on small perturbations.

R-Drop (Liang et al. 2021, "R-Drop: Regularized Dropout for Neural Networks"): dropout samples a sub-network
per text; at test time the full network approximates their average. The loss is the divergence between two
passes over a text with different dropout masks.

Virtual adversarial training, VAT (Miyato et al. 2017, "Adversarial training methods for semi-supervised text
classification"): one extra backward pass finds the perturbation of the embeddings, of a given norm, that
changes the prediction most. The loss is the divergence that it causes. It needs no labels.

Legend: B rows of a batch, T padded length, E embedding size, C classes, K branches.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lstm_sentiment.data.dataset import Batch
from lstm_sentiment.models.network import Network, lstm_of

PROBE = 0.1  # norm of the random probe for the worst direction, relative to the final perturbation


def repeated(batch: Batch) -> Batch:
    """Return a batch with its rows repeated once, at half the weight.

    Dropout masks differ by row, so that one pass over it equals two over the batch, and is faster, since an
    LSTM's steps are sequential.

    >>> one_B = torch.ones(1, dtype=torch.int64)
    >>> rows = {"lengths_B": one_B, "labels_B": one_B, "rows_B": one_B, "weights_B": torch.ones(1)}
    >>> rows |= {"tokens_BT": one_B[:, None], "targets_BC": torch.empty(1, 0), "shares_B": torch.ones(1)}
    >>> both = repeated(Batch(spelling_XK=torch.empty(0, 32), **rows))
    >>> both.tokens_BT.shape, both.weights_B.tolist()
    (torch.Size([2, 1]), [0.5, 0.5])
    """
    repeated = {name: torch.cat([tensor, tensor]) for name, tensor in vars(batch).items()}
    repeated |= {name: repeated[name] / 2 for name in ("weights_B", "shares_B")}
    repeated["spelling_XK"] = batch.spelling_XK
    return replace(batch, **repeated)


def symmetric_kl(logits_2BC: Tensor, weights_2B: Tensor) -> Tensor:
    """Return the weighted sum of the symmetric KL divergence between two halves of logits (2·B, C), nats.

    For each row it is the mean of both directions; for several branches, (K, 2·B, C), the mean over branches.

    >>> symmetric_kl(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.ones(2) / 2)
    tensor(0.)
    >>> symmetric_kl(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.ones(2) / 2)
    tensor(0.1155)
    """
    first_BC, second_BC = logits_2BC.log_softmax(dim=-1).chunk(2, dim=-2)
    divergence_B = ((first_BC.exp() - second_BC.exp()) * (first_BC - second_BC)).sum(dim=-1) / 2
    return (divergence_B * weights_2B.view(2, -1).sum(dim=0)).sum(dim=-1).mean()


def vat_loss(model: nn.Module, batch: Batch, size: float) -> tuple[Tensor, Tensor]:
    """Return a model's logits, and the KL divergence caused by the worst perturbation of the embeddings.

    Dropout masks are the same with and without the perturbation.

    Args:
        model: a `network.Network`, or a DistributedDataParallel of one.
        batch: texts.
        size: norm of the perturbation, relative to that of all embeddings of a text.

    Returns:
        logits (B, C), or (K, B, C) of several branches; and the divergence, nats: the sum over rows,
        weighted equally.

    >>> from lstm_sentiment.models.lstm import SentimentLSTM
    >>> model = SentimentLSTM(9, 2, embedding_size=4, hidden_size=4)
    >>> one_B = torch.ones(1, dtype=torch.int64)
    >>> rows = {"lengths_B": one_B, "labels_B": one_B, "rows_B": one_B, "targets_BC": torch.empty(1, 0)}
    >>> rows |= {"weights_B": torch.ones(1), "shares_B": torch.ones(1), "tokens_BT": one_B[:, None]}
    >>> batch = Batch(spelling_XK=torch.empty(0, 32), **rows)
    >>> small, large = (vat_loss(model, batch, size)[1].item() for size in (0.1, 0.2))
    >>> 0 < small < large
    True
    """
    network: Network = model.module if isinstance(model, DistributedDataParallel) else model  # type: ignore[assignment]
    lstm = lstm_of(network)
    with torch.no_grad(), _same_dropout(batch):
        vectors_TBE = lstm.embed(*batch.inputs)
    real_TB = torch.arange(len(vectors_TBE), device=batch.lengths_B.device)[:, None] < batch.lengths_B
    vectors_TBE = vectors_TBE * real_TB[:, :, None]
    length_B = vectors_TBE.norm(dim=(0, 2))
    start_TBE = _of_length(torch.randn_like(vectors_TBE) * real_TB[:, :, None], PROBE * size * length_B)
    with _same_dropout(batch):
        logits = model(*batch.inputs)
    before_BC = (logits[0] if logits.dim() == 3 else logits).detach().log_softmax(dim=1)

    def divergence(change_TBE: Tensor) -> Tensor:
        with _same_dropout(batch):
            perturbed_TBE = lstm.embed(*batch.inputs) + change_TBE
            after_BC = lstm.logits_of(perturbed_TBE, batch.lengths_B).log_softmax(dim=1)
        divergence_B: Tensor = (before_BC.exp() * (before_BC - after_BC)).sum(dim=1)
        return divergence_B

    with torch.enable_grad():
        [worst_TBE] = torch.autograd.grad(divergence(start_TBE.requires_grad_()).sum(), start_TBE)
    perturbation_TBE = _of_length(worst_TBE * real_TB[:, :, None], size * length_B)
    return logits, (divergence(perturbation_TBE) * batch.shares_B).sum()


def _of_length(direction_TBE: Tensor, length_B: Tensor) -> Tensor:
    norm_B = direction_TBE.norm(dim=(0, 2)).clamp(min=torch.finfo(direction_TBE.dtype).tiny)
    scaled_TBE: Tensor = direction_TBE * (length_B / norm_B)[:, None]
    return scaled_TBE


def _same_dropout(batch: Batch) -> contextlib.AbstractContextManager[None]:
    """Restore the random state after a block, so that the next one has the same dropout masks."""
    device = batch.tokens_BT.device
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
