"""Virtual adversarial training (VAT): predictions should not change under a small perturbation.

After Miyato et al. (2017), "Adversarial training methods for semi-supervised text classification": one extra
backward pass finds the perturbation of the embeddings, of a given norm, that changes the prediction most; the
consistency loss is the KL divergence it causes. No label is needed, so that unlabelled texts can be used.

Legend: B rows of a batch, T padded length, E embedding size, C classes, K branches, R labelled rows,
U unlabelled texts.
"""

from __future__ import annotations

import contextlib
import logging

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lstm_sentiment.data.dataset import Batch, TextDataset
from lstm_sentiment.models.network import Network, lstm_of

log = logging.getLogger(__name__)

PROBE = 0.1  # norm of the random probe for the worst direction, relative to the final perturbation


def answers_pushed(model: nn.Module, batch: Batch, size: float) -> tuple[Tensor, Tensor]:
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
    >>> small, large = (answers_pushed(model, batch, size)[1].item() for size in (0.1, 0.2))
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


def beside(train: TextDataset, unlabelled: TextDataset) -> TextDataset:
    """Join labelled rows and unlabelled texts; the latter have weight 0 and only enter the consistency loss.

    Labelled rows are repeated if there are many more texts, so that they are about a third of all. The mean
    weight stays 1.

    Args:
        train: labelled rows, R.
        unlabelled: texts, U; their store also holds the labelled rows, at the same places.

    Example::

        learned = beside(corpus.train, corpus.unlabelled)
    """
    times = max(1, len(unlabelled) // (2 * len(train)))
    labelled, all_rows = times * len(train), times * len(train) + len(unlabelled)
    often = "once" if times == 1 else f"{times} times"
    log.info("  unlabelled %9s texts; training rows are read %s per epoch", f"{len(unlabelled):,}", often)
    return unlabelled.joined(
        unlabelled.store,
        np.concatenate([np.tile(train.rows, times), unlabelled.rows]),
        np.concatenate([np.tile(train.labels, times), np.zeros(len(unlabelled), np.int64)]),
        weights=np.concatenate(
            [np.tile(train.weights, times) * (all_rows / labelled), np.zeros(len(unlabelled))]
        ),
    )


def _of_length(direction_TBE: Tensor, length_B: Tensor) -> Tensor:
    norm_B = direction_TBE.norm(dim=(0, 2)).clamp(min=torch.finfo(direction_TBE.dtype).tiny)
    scaled_TBE: Tensor = direction_TBE * (length_B / norm_B)[:, None]
    return scaled_TBE


def _same_dropout(batch: Batch) -> contextlib.AbstractContextManager[None]:
    """Restore the random state after a block, so that the next one has the same dropout masks."""
    device = batch.tokens_BT.device
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
