"""Subword embeddings: hashed character n-grams, for rare, misspelt and unknown words.

A token's vector is the sum of its word embedding and the embeddings of its character n-grams, as in
fastText (Bojanowski et al. 2017, "Enriching word vectors with subword information"). N-grams are hashed
into a fixed number of buckets.

Legend: V tokens of the vocabulary, X unknown tokens of a batch, U distinct tokens of a batch, K buckets
per token, E embedding size.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lstm_sentiment.kernels import subwords as kernel
from lstm_sentiment.text.spelling import spell
from lstm_sentiment.text.tokenization import MOST_PLACES, NOTHING, UNKNOWN

Table = TypeVar("Table", nn.Embedding, nn.EmbeddingBag)
_FOLDING = threading.Lock()  # shared by all models of the process; held briefly for tokens seen first


class SubwordVectors(nn.Module):
    """Sum of a token's n-gram embeddings, divided by the square root of their number.

    Args:
        tokens: the vocabulary's, (V,).
        buckets: number of hash buckets.
        size: E.
        initial: whether the table is initialised and the n-grams of all tokens are hashed up front, as for
            training; else the table is uninitialised until loaded, and tokens are hashed on demand.

    >>> subwords = SubwordVectors(["<pad>", "<unk>", "good"], 1000, 8)
    >>> extra_XK = torch.from_numpy(spell(["goood"], 1000))
    >>> vectors_UE = subwords(torch.tensor([0, 2, 3]), extra_XK)  # id 3 is the first unknown token
    >>> vectors_UE.shape, vectors_UE[0].any().item()
    (torch.Size([3, 8]), False)
    """

    def __init__(self, tokens: Sequence[str], buckets: int, size: int, *, initial: bool = True) -> None:
        super().__init__()
        self.known, self._tokens = len(tokens), tokens
        self.table = table(nn.EmbeddingBag, buckets, size, initial=initial, mode="sum", padding_idx=NOTHING)
        self.spelling_VK: Tensor | None
        spelling_VK = torch.from_numpy(spell(tokens, buckets)) if initial else None
        self.register_buffer("spelling_VK", spelling_VK, persistent=False)
        # Rounded correctly, as in the kernel: PyTorch's square root of 19 depends on the CPU.
        roots = torch.tensor([math.sqrt(max(1, count)) for count in range(MOST_PLACES + 1)])
        self.roots: Tensor
        self.register_buffer("roots", roots, persistent=False)
        if initial:
            nn.init.normal_(self.table.weight, std=0.1)
            with torch.no_grad():
                self.table.weight[NOTHING] = 0.0

    def forward(self, ids_U: Tensor, extra_XK: Tensor) -> Tensor:
        """Return vectors (U, E) of token ids in ascending order; id V + x is the x-th unknown token."""
        known = int((ids_U < self.known).sum())
        places_UK = torch.cat([self._spelt(ids_U[:known]), extra_XK[ids_U[known:] - self.known]])
        root_U = self.roots[(places_UK != NOTHING).sum(dim=1)]
        vectors_UE: Tensor = self.table(places_UK) / root_U[:, None]
        return vectors_UE

    def _spelt(self, ids_U: Tensor) -> Tensor:
        if self.spelling_VK is not None:
            return self.spelling_VK[ids_U]
        return self.spell(ids_U.tolist()).to(ids_U.device)

    def spell(self, ids: Sequence[int]) -> Tensor:
        """Return the buckets (U, K) of known tokens, hashed now."""
        return torch.from_numpy(spell([self._tokens[i] for i in ids], self.table.num_embeddings))


class FoldedVectors(nn.Module):
    """Cached sums of word and n-gram embeddings of known tokens, computed on first use.

    Hashing a whole vocabulary would take longer than predicting a text, which has few of its tokens.

    Args:
        words_VE: word embeddings; only their shape and device matter here.

    >>> words_VE, subwords = torch.randn(3, 8), SubwordVectors(["<pad>", "<unk>", "good"], 1000, 8)
    >>> folded, ids_U = FoldedVectors(words_VE), torch.tensor([0, 2])
    >>> expected_UE = words_VE[ids_U] + subwords(ids_U, nothing_spelt())
    >>> torch.allclose(folded(ids_U, nothing_spelt(), words_VE, subwords), expected_UE)
    True
    """

    def __init__(self, words_VE: Tensor) -> None:
        super().__init__()
        self.vectors_VE: Tensor
        self.is_there_V: Tensor
        self.register_buffer("vectors_VE", torch.empty_like(words_VE), persistent=False)
        self.register_buffer(
            "is_there_V",
            torch.zeros(len(words_VE), dtype=torch.bool, device=words_VE.device),
            persistent=False,
        )
        self.is_complete = False

    def forward(self, ids: Tensor, spelling_XK: Tensor, words_VE: Tensor, subwords: SubwordVectors) -> Tensor:
        """Return vectors (..., E) of tokens, by a compiled kernel where it applies.

        Args:
            ids: of the tokens (...); V + x is the x-th unknown token.
            spelling_XK: buckets of the unknown tokens.
            words_VE: word embeddings, the same at every call.
            subwords: the same at every call.
        """
        tables = {"words_VE": words_VE, "table_RE": subwords.table.weight}
        folded = kernel.Folded(vectors_VE=self.vectors_VE, is_there_V=self.is_there_V, **tables)
        if kernel.applies_to_folded(ids, folded):
            vectors, missing = kernel.look_up(ids, spelling_XK, folded)
            if not len(missing):
                return vectors
            with _FOLDING:  # another thread may have computed some meanwhile
                is_there_V = self.is_there_V.numpy()
                new = sorted({i for i in missing.tolist() if not is_there_V[i]})
                kernel.fold(torch.tensor(new, dtype=torch.int64), subwords.spell(new), folded)
            return kernel.look_up(ids, spelling_XK, folded)[0]
        return self._look_up(ids, spelling_XK, words_VE, subwords)

    def _look_up(
        self, ids: Tensor, spelling_XK: Tensor, words_VE: Tensor, subwords: SubwordVectors
    ) -> Tensor:
        known = len(words_VE)
        known_ids = word_ids(ids, known) if len(spelling_XK) else ids
        if not self.is_complete:
            self._complete(known_ids, words_VE, subwords)
        vectors = nn.functional.embedding(known_ids, self.vectors_VE)
        if len(spelling_XK):
            ids_N = ids.flatten()
            places = (ids_N >= known).nonzero()[:, 0]
            ids_X = torch.arange(known, known + len(spelling_XK), device=ids.device)
            of_letters = subwords(ids_X, spelling_XK).index_select(0, ids_N[places] - known)
            vectors.view(len(ids_N), -1).index_add_(0, places, of_letters)
        return vectors

    @torch.no_grad()
    def _complete(self, ids: Tensor, words_VE: Tensor, subwords: SubwordVectors) -> None:
        if ids.device.type != "cpu":  # all at once: each check would synchronise with the device
            ids = torch.arange(len(words_VE), device=ids.device)
        new = ids[~self.is_there_V[ids]]
        if not len(new):
            return
        with _FOLDING:
            ids_U = torch.unique(new)
            self.vectors_VE[ids_U] = words_VE[ids_U] + subwords(ids_U, nothing_spelt(ids.device))
            self.is_there_V[ids_U] = True
            self.is_complete = ids.device.type != "cpu"


def token_vectors(
    ids: Tensor, words: nn.Embedding, subwords: SubwordVectors | None, spelling_XK: Tensor
) -> Tensor:
    """Return the vectors (..., E) of tokens, n-gram vectors included; each distinct token is computed once.

    Args:
        ids: of the tokens (...); V + x is the x-th unknown token, which has the word vector of `UNKNOWN`.
        words: word vectors of the known tokens.
        subwords: n-gram vectors; None for none.
        spelling_XK: buckets of the unknown tokens.

    >>> words, subwords = nn.Embedding(3, 8), SubwordVectors(["<pad>", "<unk>", "good"], 1000, 8)
    >>> ids = torch.tensor([[2, 0, 2], [1, 2, 0]])
    >>> found = token_vectors(ids, words, subwords, nothing_spelt())
    >>> torch.equal(found[0, 0], words.weight[2] + subwords(torch.tensor([2]), nothing_spelt())[0])
    True
    """
    ngrams = None
    if subwords is None and not torch.is_grad_enabled():
        return nn.functional.embedding(ids, words.weight)
    if subwords is not None and subwords.spelling_VK is not None:
        of_buckets, sparse = subwords.table.weight, subwords.table.sparse
        spelling = {"spelling_VK": subwords.spelling_VK, "spelling_XK": spelling_XK}
        ngrams = kernel.Ngrams(table_RE=of_buckets, sparse=sparse, **spelling)
    if (subwords is None) == (ngrams is None) and kernel.applies(ids, words.weight, ngrams):
        return kernel.vectors(ids, words.weight, ngrams, sparse=words.sparse)
    vectors: Tensor
    if subwords is None:
        vectors = words(ids)
        return vectors
    ids_U, place = torch.unique(ids, return_inverse=True)
    vectors_UE = words(word_ids(ids_U, words.num_embeddings)) + subwords(ids_U, spelling_XK)
    return nn.functional.embedding(place, vectors_UE)


def table(kind: type[Table], rows: int, size: int, *, initial: bool, **settings: Any) -> Table:
    """Return an embedding layer, initialised or not.

    Args:
        kind: of layer.
        rows: of the table.
        size: of a row.
        initial: whether to initialise the rows; else they are uninitialised memory.
        settings: of the layer.

    >>> table(nn.Embedding, 3, 2, initial=False).weight.shape
    torch.Size([3, 2])
    """
    if initial:
        return kind(rows, size, **settings)
    anything: Table = kind.from_pretrained(torch.empty(rows, size), freeze=False, **settings)  # type: ignore[no-untyped-call]
    return anything


def nothing_spelt(device: torch.device | None = None) -> Tensor:
    """Return the buckets of no unknown tokens, (0, K).

    >>> nothing_spelt().shape
    torch.Size([0, 32])
    """
    return torch.empty(0, MOST_PLACES, dtype=torch.int32, device=device)


def word_ids(ids: Any, known: int) -> Any:
    """Map the ids V + x of unknown tokens to the id of the unknown token.

    >>> word_ids(torch.tensor([2, 7]), 5)
    tensor([2, 1])
    """
    return ids.masked_fill(ids >= known, UNKNOWN)
