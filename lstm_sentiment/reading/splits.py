"""Which rows train, which validate, which test: stratified, seeded, without repeated texts, by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from lstm_sentiment.config import DataConfig
from lstm_sentiment.errors import DataError
from lstm_sentiment.reading.tokens import TokenStore

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class RowSplit:
    """How the rows of the training file are dealt out.

    Args:
        rows: ``train``, and of ``validation`` and ``test`` those that are cut from the training file,
            -> rows of the store, ascending.
        duplicates: rows whose text stands before them already.
        conflicting: texts that stand with more than one label.
    """

    rows: dict[str, Array]
    duplicates: int
    conflicting: int


def split_rows(store: TokenStore, classes: Array, data: DataConfig, *, seed: int) -> RowSplit:
    """Deal out the rows of the training file as the `data` section says.

    Args:
        store: the training file.
        classes: class index of each row, (R,).
        data: shares, grouping, sampling.
        seed: of the split and the sample.

    Raises:
        DataError: too few rows, or too few groups.
    """
    duplicates, conflicting, first = find_duplicates(store, classes)
    left = first if data.deduplicate else np.arange(len(classes))
    if data.max_rows is not None and data.max_rows < len(left):
        left = _sample(left, classes, data.max_rows, seed)
    groups = store.groups if data.group_column else None
    in_all = len(left)
    rows = {}
    for split, share in (("test", data.test), ("validation", data.validation)):
        if isinstance(share, float):
            count = round(share * in_all)
            if not 0 < count < len(left):
                removed = f" ({duplicates:,} more repeat a text)" if data.deduplicate and duplicates else ""
                raise DataError(
                    f"{in_all} rows are too few to set {share:g} of them aside for {split}{removed}; "
                    "give more rows, or other shares",
                    file=store.name,
                )
            left, rows[split] = _cut(left, classes, groups, count, seed, store.name)
    rows["train"] = left
    return RowSplit(rows=rows, duplicates=duplicates, conflicting=conflicting)


def find_duplicates(store: TokenStore, classes: Array) -> tuple[int, int, Array]:
    """Count repeated texts and those with several labels; return the rows where a text stands first."""
    _, first, inverse = np.unique(store.hashes, return_index=True, return_inverse=True)
    conflicting = np.unique(inverse[classes != classes[first][inverse]])
    return len(store.hashes) - len(first), len(conflicting), np.sort(first)


def _sample(rows: Array, classes: Array, count: int, seed: int) -> Array:
    """Return `count` of some rows, with the same class balance to within a row."""
    random = np.random.default_rng([seed, count])
    shuffled = random.permutation(rows)
    shuffled = shuffled[np.argsort(classes[shuffled], kind="stable")]
    # Every len/count-th row of rows ordered by class: each class gets its share, rounded.
    return np.sort(shuffled[((np.arange(count) + random.random()) * len(rows) / count).astype(np.int64)])


def _cut(
    rows: Array, classes: Array, groups: Array | None, count: int, seed: int, name: str
) -> tuple[Array, Array]:
    """Set `count` of some rows aside, with the same class balance, and whole groups if given."""
    if groups is not None:
        folds = max(2, round(len(rows) / count))
        if len(np.unique(groups[rows])) < folds:
            raise DataError(
                f"data.group_column has {len(np.unique(groups[rows]))} groups, too few to set "
                f"1 in {folds} aside",
                file=name,
            )
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        try:
            kept, cut = next(splitter.split(rows, classes[rows], groups[rows]))
        except ValueError as error:
            raise DataError(f"cannot be split: {error}", file=name) from None
        return rows[kept], rows[cut]
    smallest = np.bincount(classes[rows])
    classes_here = int((smallest > 0).sum())
    if smallest[smallest > 0].min() < 2 or count < classes_here or len(rows) - count < classes_here:
        raise DataError(
            f"too few rows for a split that holds every class: {count} of {len(rows)} rows, the rarest "
            f"class has {smallest[smallest > 0].min()}; give data.validation and data.test as files",
            file=name,
        )
    kept, cut = train_test_split(rows, test_size=count, random_state=seed, stratify=classes[rows])
    return np.sort(kept), np.sort(cut)
