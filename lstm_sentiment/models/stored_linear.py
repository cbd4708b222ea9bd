"""A linear model as the tensors of a checkpoint: only the n-grams of its training rows, not the whole table.

Legend: F n-grams, V known tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lstm_sentiment.checkpoints.expected import only_groups
from lstm_sentiment.checkpoints.run_folder import Checkpoint, Expectation
from lstm_sentiment.checkpoints.untrusted_files import Table
from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.models.network import TfidfBranch

MOST_BUCKETS = 1 << 22
BUCKETS = "buckets"  # fact of the checkpoint: hash buckets of word pairs


def packed(branch: TfidfBranch) -> dict[str, Tensor]:
    """Return the weights of a linear model by name: n-grams (F,), weights (F, C), idf (F,), bias (C,).

    >>> branch = TfidfBranch(10, 2, buckets=5)
    >>> branch.idf[[3, 12]] = 2.0
    >>> packed(branch)["ngrams"].tolist()
    [3, 12]
    """
    used_F = branch.idf.nonzero()[:, 0]
    return {
        "ngrams": used_F,
        "weights": branch.weights.weight.detach()[used_F].clone(),
        "idf": branch.idf[used_F].clone(),
        "bias": branch.bias.detach().clone(),
    }


def unpacked(checkpoint: Checkpoint, tokens: int, classes: int) -> TfidfBranch:
    """Return the linear model of a checkpoint that `expected_linear` accepted.

    Args:
        checkpoint: with the fact `BUCKETS`.
        tokens: V, with padding and unknown.
        classes: C.

    Raises:
        CheckpointError: n-grams that the model does not have.
    """
    tensors, buckets = checkpoint.tensors["model"], checkpoint.facts[BUCKETS]
    branch, ngrams_F = TfidfBranch(tokens, classes, buckets=buckets), tensors["ngrams"]
    if len(ngrams_F) and not 0 <= int(ngrams_F.min()) <= int(ngrams_F.max()) < tokens + buckets:
        raise CheckpointError("the linear model has n-grams beyond its table; train again")
    with torch.no_grad():
        branch.weights.weight[ngrams_F] = tensors["weights"]
        branch.idf[ngrams_F] = tensors["idf"]
        branch.bias.copy_(tensors["bias"])
    return branch


def expected_linear(classes: int) -> Expectation:
    """Return a check of the headers and facts of a linear model's checkpoint before its tensors are read.

    >>> check = expected_linear(2)
    >>> check({"model": {"bias": ("F32", (3,))}}, {"buckets": 5})
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.CheckpointError: the linear model does not fit this run; train again
    """

    def check(tables: Mapping[str, Table], facts: Mapping[str, Any]) -> None:
        only_groups(tables, "model")
        found, buckets = tables.get("model", {}), facts.get(BUCKETS)
        count = found.get("idf", ("", (0,)))[1][0]
        expected: Table = {
            "ngrams": ("I64", (count,)),
            "weights": ("F32", (count, classes)),
            "idf": ("F32", (count,)),
            "bias": ("F32", (classes,)),
        }
        if found != expected or type(buckets) is not int or not 0 < buckets <= MOST_BUCKETS:
            raise CheckpointError("the linear model does not fit this run; train again")

    return check
