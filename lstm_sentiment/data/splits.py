"""Train, validation and test splits: stratified, seeded, deduplicated, grouped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from lstm_sentiment.config.sections import DataConfig
from lstm_sentiment.data.token_store import TokenStore
from lstm_sentiment.errors import DataError, escaped, shown

Array = npt.NDArray[Any]


class TooFewRowsError(DataError):
    """Too few rows for a split in which every part has every class.

    Args:
        message: what is wrong and how to fix it.
        file: the file as the user named it.
        rows: number of rows with distinct texts.
        rare: label and line of a class with a single row, or None.
    """

    def __init__(self, message: str, *, file: str, rows: int, rare: tuple[str, int] | None = None) -> None:
        super().__init__(message, file=file)
        self.rows, self.rare = rows, rare


@dataclass(frozen=True, kw_only=True)
class RowSplit:
    """Split of the training file's rows.

    Args:
        rows: ``train``, and ``validation`` and ``test`` if they are split from the training file,
            -> rows of the store, ascending.
        counted: rows for vocabulary counts, with each token of the training texts once: with phrases, their
            sentences, which may have no class.
        duplicates: rows that repeat an earlier text, not counting phrases.
        conflicting: texts with more than one label.
        excluded: training rows that were left out; None without ``data.exclude_rows``.
    """

    rows: dict[str, Array]
    counted: Array
    duplicates: int
    conflicting: int
    excluded: int | None = None


def split_rows(store: TokenStore, classes: Array, data: DataConfig, *, seed: int) -> RowSplit:
    """Split the rows of the training file as configured in the `data` section.

    Args:
        store: the training file.
        classes: class index of each row, -1 to exclude it, (R,).
        data: shares, grouping, sampling.
        seed: of the split and the sample.

    Raises:
        DataError: too few rows, or too few groups.
    """
    sentences = np.flatnonzero(~store.phrases & (classes >= 0) & (store.weights > 0))
    if not len(sentences) and (classes >= 0).any():
        raise DataError("every row has the weight 0; change data.weight_column", file=store.name)
    duplicates, conflicting, first = find_duplicates(store.hashes[sentences], classes[sentences])
    left = sentences[first] if data.deduplicate else sentences
    if data.max_rows is not None and data.max_rows < len(left):
        left = _sample(left, classes, data.max_rows, seed)
    repeated = _first_of_each(store.hashes[left])
    texts = left if repeated is None else left[repeated]  # repeated texts go into the split of the first
    groups = None
    if data.group_column:
        groups = store.groups if repeated is None else _groups(store, left)
    in_all, rows = len(texts), {}
    for split, share in (("test", data.test), ("validation", data.validation)):
        if isinstance(share, float):
            count = round(share * in_all)
            if not 0 < count < len(texts):
                removed = f" ({duplicates:,} more repeat a text)" if duplicates else ""
                raise TooFewRowsError(
                    f"{in_all} rows are too few to hold out {share:g} of them for {split}{removed}; "
                    "add rows, or change the shares",
                    file=store.name,
                    rows=in_all,
                )
            texts, cut = _cut(texts, classes, groups, count, seed, store)
            rows[split] = cut if repeated is None else left[np.isin(store.hashes[left], store.hashes[cut])]
    left = texts if repeated is None else left[np.isin(store.hashes[left], store.hashes[texts])]
    phrases, counted = _phrases(store, classes, data, train=left, held_out=list(rows.values()))
    rows["train"] = np.sort(np.concatenate([left, phrases]))
    return RowSplit(rows=rows, counted=counted, duplicates=duplicates, conflicting=conflicting)


def find_duplicates(hashes: Array, classes: Array) -> tuple[int, int, Array]:
    """Count repeated texts and those with several labels; also return the first row of each text."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    conflicting = np.unique(inverse[classes != classes[first][inverse]])
    return len(hashes) - len(first), len(conflicting), np.sort(first)


def _first_of_each(texts: Array) -> Array | None:
    """Return the first row of each text, ascending, or None if none is repeated."""
    first = np.unique(texts, return_index=True)[1]
    return np.sort(first) if len(first) < len(texts) else None


def _groups(store: TokenStore, rows: Array) -> Array:
    """Return a group number for each row of the store; groups that share a text are merged."""
    _, text_R = np.unique(store.hashes[rows], return_inverse=True)
    group_R = store.groups[rows]
    texts, in_all = int(text_R.max()) + 1, int(text_R.max() + group_R.max()) + 2
    links = sparse.coo_array((np.ones(len(rows)), (text_R, texts + group_R)), shape=(in_all, in_all))
    joined = connected_components(links, directed=False)[1]
    found: Array = np.zeros(len(store.groups), np.int64)
    found[rows] = joined[text_R]
    return found


def _phrases(
    store: TokenStore, classes: Array, data: DataConfig, *, train: Array, held_out: list[Array]
) -> tuple[Array, Array]:
    """Return the phrases to train on, and the sentences of these and of the training rows.

    These are phrases of the training sentences and, unless rows are sampled, of sentences without a class:
    a neutral sentence may contain a positive phrase. Held-out texts are excluded, and so are their phrases.
    """
    if not store.phrases.any():
        return np.zeros(0, np.int64), train
    held = store.hashes[np.concatenate([*held_out, np.zeros(0, np.int64)])]
    unseen_R = ~np.isin(store.hashes, held)
    without_class_R = ~store.phrases & (classes < 0) & unseen_R & (data.max_rows is None)
    sentences = np.sort(np.concatenate([train, np.flatnonzero(without_class_R)]))
    line_R = store.sentences()
    known_R = np.isin(line_R, line_R[sentences])
    found = np.flatnonzero(store.phrases & (classes >= 0) & known_R & unseen_R)
    if data.deduplicate:
        found = found[~np.isin(store.hashes[found], store.hashes[train])]
        found = found[find_duplicates(store.hashes[found], classes[found])[2]]
    return found, sentences


def _sample(rows: Array, classes: Array, count: int, seed: int) -> Array:
    """Return a stratified sample of `count` rows."""
    random = np.random.default_rng([seed, count])
    shuffled = random.permutation(rows)
    shuffled = shuffled[np.argsort(classes[shuffled], kind="stable")]
    # Every len/count-th row of rows ordered by class: each class gets its share, rounded.
    return np.sort(shuffled[((np.arange(count) + random.random()) * len(rows) / count).astype(np.int64)])


def _cut(
    rows: Array, classes: Array, groups: Array | None, count: int, seed: int, store: TokenStore
) -> tuple[Array, Array]:
    """Hold out `count` of some rows, stratified, and by whole groups if given."""
    if groups is not None:
        folds = max(2, round(len(rows) / count))
        if len(np.unique(groups[rows])) < folds:
            raise DataError(
                f"data.group_column has {len(np.unique(groups[rows]))} groups, too few to hold "
                f"out 1 in {folds}",
                file=store.name,
            )
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        try:
            kept, cut = next(splitter.split(rows, classes[rows], groups[rows]))
        except ValueError as error:
            raise DataError(f"cannot be split: {error}", file=store.name) from None
        return rows[kept], rows[cut]
    smallest = np.bincount(classes[rows])
    classes_here = int((smallest > 0).sum())
    if smallest[smallest > 0].min() < 2 or count < classes_here or len(rows) - count < classes_here:
        raise _too_few(rows, classes, count, store)
    kept, cut = train_test_split(rows, test_size=count, random_state=seed, stratify=classes[rows])
    return np.sort(kept), np.sort(cut)


def _too_few(rows: Array, classes: Array, count: int, store: TokenStore) -> TooFewRowsError:
    """Return the error for a class that has too few rows for the split."""
    per_class = np.bincount(classes[rows])
    present = np.flatnonzero(per_class)
    rare = present[per_class[present].argmin()]
    few = "too few rows for a split with every class"
    if per_class[rare] >= 2:
        counts = f"{count} of {len(rows)} rows, for {len(present)} classes"
        problem = f"{few}: {counts}; add rows, or change the share to hold out"
        return TooFewRowsError(problem, file=store.name, rows=len(rows))
    first = rows[classes[rows] == rare][0]
    label, (file, line) = store.label_values[store.labels[first]], store.place(int(first))
    where = f"at line {line}" if file == store.name else f"at {escaped(file)}:{line}"
    problem = (
        f"{few}: the label {shown(label)} has 1 row, {where}; add some, or exclude "
        f"such rows: in data.labels, map {escaped(label)} to null and each other label to its name"
    )
    return TooFewRowsError(problem, file=store.name, rows=len(rows), rare=(label, line))
