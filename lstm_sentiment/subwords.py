"""Hashed sub-word vectors: a word that is rare, misspelt or new is read by its letters.

Every token has, besides its word's vector, the sum of vectors of its character n-grams, as in
fastText (Bojanowski et al. 2017, "Enriching word vectors with subword information"). An n-gram's
vector stands in a table of fixed size at a place that is a hash of its letters.

Legend: V tokens of the vocabulary, X unknown tokens of a batch, U distinct tokens of a batch, K places
per token, E embedding size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lstm_sentiment.text import UNKNOWN

SHORTEST, LONGEST = 2, 4  # characters of an n-gram
MOST_PLACES = 32  # n-grams of one token; a longer token keeps some of them
NOTHING = 0  # the place that no n-gram has
_STAND_IN = re.compile(r"<[a-z]+>")  # <url>, <user>, <pad>: no word, and not spelt


def spell(tokens: Sequence[str], buckets: int) -> npt.NDArray[np.int32]:
    """Return where the n-grams of each token stand in a table: (tokens, K) with 0 for none.

    N-grams have 2 to 4 characters; the token's start and end count as characters; case does not.

    Args:
        tokens: any strings.
        buckets: size of the table, at least 2; place 0 is kept for nothing.

    >>> spell(["so", "<url>"], 1000)[:, :6]
    array([[116, 324, 394, 597, 604, 773],
           [  0,   0,   0,   0,   0,   0]], dtype=int32)
    """
    spelt = ["" if _STAND_IN.fullmatch(token) else f"\x02{token.lower()}\x03" for token in tokens]
    table = np.full((len(spelt), MOST_PLACES), NOTHING, np.int32)
    if not any(spelt):
        return table
    padding = "\0" * (LONGEST - 1)
    codes = np.frombuffer(("".join(spelt) + padding).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.array([len(token) for token in spelt])
    end_N = np.repeat(np.cumsum(lengths), lengths)
    left_N = end_N - np.arange(len(end_N))  # characters from here to the token's end
    first_N = np.repeat(np.arange(len(spelt)) * buckets + 1, lengths)  # so that tokens sort apart
    hashed_N = np.zeros(len(end_N), np.uint32)
    found = []
    for size in range(1, LONGEST + 1):  # the hash of an n-gram is that of one less, and a character
        hashed_N = _mixed(hashed_N ^ codes[size - 1 : size - 1 + len(end_N)])
        if size >= SHORTEST:
            found.append((first_N + hashed_N % np.uint32(buckets - 1))[left_N >= size])
    pairs = np.sort(np.concatenate(found))
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # a token's places, each once, in ascending order
    owners = pairs // buckets
    rank = np.arange(len(pairs)) - np.searchsorted(owners, owners)
    kept = rank < MOST_PLACES
    table[owners[kept], rank[kept]] = (pairs - owners * buckets)[kept]
    return table


def _mixed(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """MurmurHash3's 32-bit finaliser, and a constant so that no number stays what it is."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return (values ^ (values >> np.uint32(16))) + np.uint32(0x9E3779B1)


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
