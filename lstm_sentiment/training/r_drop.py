"""R-Drop: consistency loss between two passes over a text with different dropout masks.

After Liang et al. (2021), "R-Drop: Regularized Dropout for Neural Networks". Dropout samples a sub-network
per text; at test time the full network approximates their average. The consistency loss improves this
approximation.

Legend: B rows of a batch, K branches, C classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lstm_sentiment.data.dataset import Batch


def twice(batch: Batch) -> Batch:
    """Return a batch with its rows repeated once, at half the weight.

    Dropout masks differ by row, so that one pass over it equals two over the batch, and is faster, since an
    LSTM's steps are sequential.

    >>> one_B = torch.ones(1, dtype=torch.int64)
    >>> rows = {"lengths_B": one_B, "labels_B": one_B, "rows_B": one_B, "weights_B": torch.ones(1)}
    >>> rows |= {"tokens_BT": one_B[:, None], "targets_BC": torch.empty(1, 0), "shares_B": torch.ones(1)}
    >>> both = twice(Batch(spelling_XK=torch.empty(0, 32), **rows))
    >>> both.tokens_BT.shape, both.weights_B.tolist()
    (torch.Size([2, 1]), [0.5, 0.5])
    """
    repeated = {name: torch.cat([tensor, tensor]) for name, tensor in vars(batch).items()}
    repeated |= {name: repeated[name] / 2 for name in ("weights_B", "shares_B")}
    repeated["spelling_XK"] = batch.spelling_XK
    return replace(batch, **repeated)


def disagreement(logits_2BC: Tensor, weights_2B: Tensor) -> Tensor:
    """Return the weighted sum of the symmetric KL divergence between two halves of logits (2·B, C), nats.

    For each row it is the mean of both directions; for several branches, (K, 2·B, C), the mean over branches.

    >>> disagreement(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.ones(2) / 2)
    tensor(0.)
    >>> disagreement(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.ones(2) / 2)
    tensor(0.1155)
    """
    first_BC, second_BC = logits_2BC.log_softmax(dim=-1).chunk(2, dim=-2)
    divergence_B = ((first_BC.exp() - second_BC.exp()) * (first_BC - second_BC)).sum(dim=-1) / 2
    return (divergence_B * weights_2B.view(2, -1).sum(dim=0)).sum(dim=-1).mean()
