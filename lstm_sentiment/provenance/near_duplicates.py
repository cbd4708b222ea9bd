"""Near-duplicates between two sets of rows: an exact similarity join by Jaccard index.

Two texts are near-duplicates if the Jaccard index of their sets of lowercase tokens is at least 0.8. All
pairs are found without comparing all: with tokens ordered by frequency, rarest first, two such texts share
one of their first n - ceil(0.8 n) + 1 tokens (the prefix filter of Chaudhuri et al. 2006, "A primitive
operator for similarity joins in data cleaning"). Rare tokens occur in few texts, so that time is about linear
in the rows.

Legend: R rows of a set, V distinct tokens, P candidate pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lstm_sentiment.data.dataset import TextDataset, count_tokens

LEAST = 0.8  # Jaccard index of near-duplicates
SHORTEST = 5  # distinct tokens; shorter texts are ignored
ROWS_AT_ONCE = 50_000
PAIRS_AT_ONCE = 1_000_000  # before any filter
MOST_PAIRS = 1_000_000_000  # candidates in all; with more, rows are sampled
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Similar:
    """Rows that have a near-duplicate among other rows.

    Args:
        rows: indices in the dataset, (S,), ascending.
        others: index of the most similar row in the other dataset, (S,); the first of several.
        jaccard: of the two, (S,), 0.8 to 1.
        examined: number of rows examined; a sample of very large sets.
    """

    rows: Array
    others: Array
    jaccard: Array
    examined: int


def near_duplicates(dataset: TextDataset, others: TextDataset, *, rows: Array | None = None) -> Similar:
    """Find the rows of a dataset that have a near-duplicate among the rows of another one.

    Args:
        dataset: whose rows are searched for.
        others: to search in.
        rows: indices in `dataset`; None for all.

    >>> from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer, Vocabulary
    >>> from lstm_sentiment.data.token_store import TokenStore
    >>> def dataset(*texts):
    ...     lexicon = Lexicon(Tokenizer("words", lowercase=True))
    ...     store = TokenStore.in_memory(*lexicon.encode(texts), lexicon.tokens)
    ...     rows = np.arange(len(texts))
    ...     return TextDataset(store, rows, rows, vocabulary=Vocabulary([]), max_tokens=9, truncate="head")
    >>> found = near_duplicates(dataset("so good it is !"), dataset("it was bad", "it IS so so good now !"))
    >>> found.rows, found.others, found.jaccard.round(2)
    (array([0]), array([1]), array([0.83]))
    """
    rows = np.arange(len(dataset)) if rows is None else rows
    mine, theirs = _number_alike(dataset, others)
    rows = _affordable(rows, mine, theirs)
    best_R = np.zeros(len(dataset))
    nearest_R = np.full(len(dataset), -1)
    for here, sets in mine.in_parts(rows):
        for there, other_sets in theirs.in_parts(np.arange(len(others))):
            for row_P, other_P, jaccard_P in _pairs(sets, other_sets):
                order = np.lexsort((other_P, -jaccard_P, row_P))
                row, at = np.unique(row_P[order], return_index=True)  # the best pair of each row
                place, jaccard = here[row], jaccard_P[order][at]
                better = jaccard > best_R[place]
                best_R[place[better]] = jaccard[better]
                nearest_R[place[better]] = there[other_P[order][at]][better]
    found = np.flatnonzero(nearest_R >= 0)
    return Similar(rows=found, others=nearest_R[found], jaccard=best_R[found], examined=len(rows))


@dataclass(frozen=True, kw_only=True)
class _TokenSets:
    """A dataset's rows as sets of tokens; token n of its store has the rank `rank_of[n]` among V."""

    dataset: TextDataset
    rank_of: Array
    width: int  # V

    def in_parts(self, rows: Array) -> Iterator[tuple[Array, sparse.csr_array]]:
        """Yield rows and their indicator matrices (R, V), rare tokens first; empty for short texts."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            yield part, self._sets(part)

    def _sets(self, rows: Array) -> sparse.csr_array:
        store, stored = self.dataset.store, self.dataset.rows[rows]
        lengths_R = store.offsets[stored + 1] - store.offsets[stored]
        ends_R = np.cumsum(lengths_R)
        places = np.arange(int(lengths_R.sum())) + np.repeat(
            store.offsets[stored] - (ends_R - lengths_R), lengths_R
        )
        owners = np.repeat(np.arange(len(rows)), lengths_R)
        keys = np.unique(owners * self.width + self.rank_of[store.ids_N[places]])  # each token once, in order
        store.release()
        owners = keys // self.width
        keys = keys[(np.bincount(owners, minlength=len(rows)) >= SHORTEST)[owners]]
        return _matrix(keys // self.width, keys % self.width, (len(rows), self.width))


def _number_alike(dataset: TextDataset, others: TextDataset) -> tuple[_TokenSets, _TokenSets]:
    """Number the tokens of two datasets consistently, rarest first."""
    numbers: dict[str, int] = {}
    both = (dataset, others)
    number_of = [
        np.array([numbers.setdefault(token.lower(), len(numbers)) for token in of.store.tokens], np.int64)
        for of in both
    ]
    width = max(1, len(numbers))
    counts_V = np.zeros(width, np.int64)
    for of, number in zip(both, number_of, strict=True):
        np.add.at(counts_V, number, count_tokens(of.store, of.rows))
    rank_V = np.empty(width, np.int64)
    rank_V[np.argsort(counts_V, kind="stable")] = np.arange(width)
    mine, theirs = (
        _TokenSets(dataset=of, rank_of=rank_V[number], width=width)
        for of, number in zip(both, number_of, strict=True)
    )
    return mine, theirs


def _matrix(rows: Array, columns: Array, shape: tuple[int, int]) -> sparse.csr_array:
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    return sparse.csr_array((np.ones(len(rows), np.int32), columns, starts), shape=shape)


def _prefixes(sets: sparse.csr_array) -> sparse.csr_array:
    """Return the prefix of each set, of which every near-duplicate shares a token."""
    sizes_R = np.diff(sets.indptr)
    kept_R = sizes_R - _least_overlap(sizes_R) + (sizes_R > 0)
    rank = np.arange(sets.nnz) - np.repeat(sets.indptr[:-1], sizes_R)
    chosen = rank < np.repeat(kept_R, sizes_R)
    owners = np.repeat(np.arange(len(sizes_R)), sizes_R)
    return _matrix(owners[chosen], sets.indices[chosen], sets.shape)


def _least_overlap(sizes: Array) -> Array:
    """Return the least number of tokens that a set shares with a near-duplicate."""
    return np.ceil(LEAST * sizes - 1e-9).astype(np.int64)


def _affordable(rows: Array, mine: _TokenSets, theirs: _TokenSets) -> Array:
    """Return the rows, or a seeded sample if there are too many candidate pairs."""
    counts_V = np.zeros(mine.width, np.int64)
    for _, sets in theirs.in_parts(np.arange(len(theirs.dataset))):
        counts_V += np.bincount(_prefixes(sets).indices, minlength=mine.width)
    cost_R = np.concatenate([_prefixes(sets) @ counts_V for _, sets in mine.in_parts(rows)] or [rows])
    if cost_R.sum() <= MOST_PAIRS:
        return rows
    order = np.random.default_rng(0).permutation(len(rows))
    return np.sort(rows[order[np.cumsum(cost_R[order]) <= MOST_PAIRS]])


def _pairs(sets: sparse.csr_array, others: sparse.csr_array) -> Iterator[tuple[Array, Array, Array]]:
    """Yield near-duplicates as row of `sets`, row of `others`, Jaccard index: (P,) each."""
    prefixes, their_prefixes = _prefixes(sets), _prefixes(others)
    size_R, size_of_other = np.diff(sets.indptr), np.diff(others.indptr)
    ends = np.cumsum(prefixes @ np.bincount(their_prefixes.indices, minlength=sets.shape[1]))
    turned = their_prefixes.T.tocsr()
    start = 0
    while start < len(ends):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")))
        found = (prefixes[start:stop] @ turned).tocoo()
        row_P, other_P = found.row + start, found.col
        small_P, large_P = np.sort([size_R[row_P], size_of_other[other_P]], axis=0)
        possible = small_P >= LEAST * large_P - 1e-9
        row_P, other_P = row_P[possible], other_P[possible]
        shared_P = sets[row_P].multiply(others[other_P]).sum(axis=1)
        jaccard_P = shared_P / (size_R[row_P] + size_of_other[other_P] - shared_P)
        enough = jaccard_P >= LEAST - 1e-9
        yield row_P[enough], other_P[enough], jaccard_P[enough]
        start = stop
