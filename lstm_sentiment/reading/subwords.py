"""Hashed sub-word vectors: a word that is rare, misspelt or new is read by its letters.

Every token has, besides its word's vector, the sum of vectors of its character n-grams, as in
fastText (Bojanowski et al. 2017, "Enriching word vectors with subword information"). An n-gram's
vector stands in a table of fixed size at a place that is a hash of its letters.

Legend: V tokens of the vocabulary, X unknown tokens of a batch, U distinct tokens of a batch, K places
per token, E embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lstm_sentiment.reading.tokenizing import NOTHING, UNKNOWN, spell


class SubwordVectors(nn.Module):
    """The sum of a token's n-gram vectors, divided by the square root of their number.

    Args:
        tokens: the vocabulary's, (V,).
        buckets: size of the table of n-gram vectors.
        size: E.

    >>> subwords = SubwordVectors(["<pad>", "<unk>", "good"], 1000, 8)
    >>> extra_XK = torch.from_numpy(spell(["goood"], 1000))
    >>> vectors_UE = subwords(torch.tensor([0, 2, 3]), extra_XK)  # id 3 is the first unknown token
    >>> vectors_UE.shape, vectors_UE[0].any().item()
    (torch.Size([3, 8]), False)
    """

    def __init__(self, tokens: Sequence[str], buckets: int, size: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(buckets, size, mode="sum", padding_idx=NOTHING)
        self.spelling_VK: Tensor
        self.register_buffer("spelling_VK", torch.from_numpy(spell(tokens, buckets)), persistent=False)
        nn.init.normal_(self.table.weight, std=0.1)
        with torch.no_grad():
            self.table.weight[NOTHING] = 0.0

    def forward(self, ids_U: Tensor, extra_XK: Tensor) -> Tensor:
        """Return vectors (U, E) of token ids in ascending order; id V + x is the x-th unknown token."""
        known = int((ids_U < len(self.spelling_VK)).sum())
        of_known, of_unknown = (
            self.spelling_VK[ids_U[:known]],
            extra_XK[ids_U[known:] - len(self.spelling_VK)],
        )
        places_UK = torch.cat([of_known, of_unknown])
        count_U = (places_UK != NOTHING).sum(dim=1).clamp(min=1)
        vectors_UE: Tensor = self.table(places_UK) / count_U.sqrt()[:, None]
        return vectors_UE


def word_ids(ids: Any, known: int) -> Any:
    """Return token ids with every unknown token's own id replaced by that of the unknown token.

    >>> word_ids(torch.tensor([2, 7]), 5)
    tensor([2, 1])
    """
    return ids.masked_fill(ids >= known, UNKNOWN)
