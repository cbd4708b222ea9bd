"""All labelled rows of a corpus: those of every split, and those that training removes as duplicates.

Legend: R rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.labels import class_indices
from lstm_sentiment.data.token_store import TokenStore, join_stores

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class AllRows:
    """The labelled rows of all sources of a corpus, source by source.

    Args:
        data: the rows, encoded like the training rows.
        stores: the sources.
        file_R: index of each row's source in `stores`.
        row_R: its row in that store.
        groups_R: a number, equal for rows of one group and for rows with the same text; None without groups.
    """

    data: TextDataset
    stores: list[TokenStore]
    file_R: Array
    row_R: Array
    groups_R: Array | None

    def __len__(self) -> int:
        return len(self.data)

    def places_of(self, split: TextDataset) -> Array:
        """Return the indices of a split's rows among all rows."""
        file = next(n for n, store in enumerate(self.stores) if store is split.store)
        here = np.flatnonzero(self.file_R == file)
        found: Array = here[np.searchsorted(self.row_R[here], split.rows)]
        return found

    def place(self, row: int) -> tuple[str, int]:
        """Return the file of a row, and its line there."""
        store: TokenStore = self.stores[self.file_R[row]]
        return store.place(int(self.row_R[row]))


def all_rows(corpus: Corpus, *, grouped: bool) -> AllRows:
    """Return all rows of a corpus that have a class; phrases and rows of weight 0 are left out.

    Args:
        corpus: from `corpus.prepare`.
        grouped: whether rows have groups (``data.group_column``). Groups of different files are different.

    Example::

        rows = all_rows(prepare(config.data, config.text, seed=0, cache=cache_folder()), grouped=False)
    """
    stores: list[TokenStore] = []
    for split in corpus.splits.values():
        if not any(store is split.store for store in stores):
            stores.append(split.store)
    classes = class_indices(
        {str(n): store for n, store in enumerate(stores)}, corpus.label_map, corpus.labels
    )
    usable = [(classes[str(n)] >= 0) & ~of.phrases & (of.weights > 0) for n, of in enumerate(stores)]
    rows = [np.flatnonzero(of_store) for of_store in usable]
    starts = np.cumsum([0, *(len(store.lines) for store in stores)])
    places = np.concatenate([start + of for start, of in zip(starts[:-1], rows, strict=True)])
    labels = np.concatenate([classes[str(n)][of] for n, of in enumerate(rows)])
    joined = join_stores(stores)
    return AllRows(
        data=corpus.train.joined(joined, places, labels),
        stores=stores,
        file_R=np.repeat(np.arange(len(rows)), [len(of) for of in rows]),
        row_R=np.concatenate(rows),
        groups_R=_groups(stores, rows, joined.hashes[places]) if grouped else None,
    )


def _groups(stores: list[TokenStore], rows: list[Array], hashes_R: Array) -> Array:
    """Return a group number for each row; groups that share a text are merged."""
    numbers, width = [], 0
    for store, of in zip(stores, rows, strict=True):
        numbers.append(width + store.groups[of])
        width += int(store.groups.max(initial=0)) + 1
    _, text_R = np.unique(hashes_R, return_inverse=True)
    group_R = np.concatenate(numbers)
    texts = int(text_R.max(initial=0)) + 1
    links = sparse.coo_array(
        (np.ones(len(text_R)), (text_R, texts + group_R)), shape=(texts + width, texts + width)
    )
    joined: Array = connected_components(links, directed=False)[1][text_R]
    return joined
