"""Datasets over token stores, and padded batches.

Legend: R rows of a dataset, B rows of a batch, T padded length of a batch, N tokens of a store, X unknown
tokens of a batch, K hash buckets per token.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lstm_sentiment.data.token_store import TokenStore
from lstm_sentiment.errors import escaped, listed
from lstm_sentiment.text.spelling import spell
from lstm_sentiment.text.subwords import word_ids
from lstm_sentiment.text.tokenization import MOST_PLACES, PAD, UNKNOWN
from lstm_sentiment.text.tokenizers import Vocabulary

PAD_MULTIPLE = 8  # kernels are built per shape: rounding up limits the number of shapes
POOL_BATCHES = 50  # batches whose rows are sorted by length together
RELEASE_EVERY = 256  # rows between releases of a large store's pages: Linux maps up to 2 MB per row
ROWS_AT_ONCE = 20_000  # whose tokens are counted, so that memory does not grow with the corpus
log = logging.getLogger(__name__)

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of texts, padded on the right.

    Args:
        tokens_BT: token ids, int64; `PAD` after a text's end; V + x for the x-th row of `spelling_XK`.
        lengths_B: number of tokens of each text, at least 1, int64.
        labels_B: class indices, int64.
        weights_B: loss weight of each row, such that the sum over all batches and ranks of a
            step is the weighted mean over its rows; 0 for a filler row.
        shares_B: the same without sample weights.
        rows_B: index of each row in the dataset, int64.
        targets_BC: soft targets instead of `labels_B`: class probabilities of each row, fp32; (B, 0) for hard
            labels only.
        spelling_XK: buckets of the unknown tokens (see `tokenization.spell`), int32; empty without subwords.
    """

    tokens_BT: Tensor
    lengths_B: Tensor
    labels_B: Tensor
    weights_B: Tensor
    shares_B: Tensor
    rows_B: Tensor
    targets_BC: Tensor
    spelling_XK: Tensor

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of a model's forward pass."""
        return self.tokens_BT, self.lengths_B, self.spelling_XK

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        if self.tokens_BT.device == device:
            return self
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in vars(self).items()}
        return replace(self, **moved)


class TextDataset:
    """Rows of a token store, truncated and encoded with a model's vocabulary.

    Args:
        store: the tokens.
        rows: which rows of the store, (R,).
        labels: their class indices, (R,).
        vocabulary: tokens that the model knows.
        max_tokens: maximum length; longer texts are truncated.
        truncate: keep the ``head``, the ``tail``, or both ends (``middle``).
        subwords: hash buckets of the model's n-gram embeddings; 0 for none.
        weights: relative loss weight of each row, (R,); None for equal weights.
        counts: sample weights: each row counts as this many (R,); None for 1. A batch's weights are the
            product of both, divided by its mean over an epoch, not over the batch, since a batch of short
            texts may consist of rows with low weights.
        targets: soft targets, (R, C), for distillation (see `teachers`); None for the labels.
    """

    def __init__(
        self,
        store: TokenStore,
        rows: Array,
        labels: Array,
        *,
        vocabulary: Vocabulary,
        max_tokens: int,
        truncate: str,
        subwords: int = 0,
        weights: Array | None = None,
        counts: Array | None = None,
        targets: Array | None = None,
    ) -> None:
        self.store, self.rows, self.labels = store, rows, labels
        self.counts = np.ones(len(rows)) if counts is None else counts
        weights = self.counts if weights is None else weights * self.counts
        self.weights = weights / weights.mean() if len(weights) else weights
        self.targets = np.empty((len(rows), 0), np.float32) if targets is None else targets
        self._settings: dict[str, Any] = {
            "vocabulary": vocabulary,
            "max_tokens": max_tokens,
            "truncate": truncate,
            "subwords": subwords,
        }
        self._known, self._subwords = len(vocabulary), subwords
        self._lookup = np.array(vocabulary.encode(store.tokens) or [UNKNOWN], np.int64)
        if subwords and store.tokens:  # the store's n-th token, when unknown, is V + n
            own_ids = self._known + np.arange(len(self._lookup))
            self._lookup = np.where(self._lookup == UNKNOWN, own_ids, self._lookup)
        self._ids_N = np.asarray(store.ids_N)
        self.full_lengths = full_R = store.offsets[rows + 1] - store.offsets[rows]
        over_R = np.maximum(full_R - max_tokens, 0)
        # Token t of a text is at start + t, and from `bend` on `skip` positions further.
        self._bend = {"head": max_tokens, "tail": 0, "middle": (max_tokens + 1) // 2}[truncate]
        self._start_R = store.offsets[rows]
        self._skip_R = over_R if truncate != "head" else np.zeros_like(over_R)
        self._count_R = np.minimum(full_R, max_tokens)
        self.lengths = np.maximum(np.minimum(full_R, max_tokens), 1)
        self.cut_tokens = int(over_R.sum())
        self.all_tokens = int(full_R.sum())
        self._labels_R = labels.astype(np.int64)
        self._rows_since_release = 0

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, rows: Array) -> str:
        """Return the location of some rows for messages: files and lines (or row numbers)."""
        lines_of: dict[str, set[int]] = {}
        for row in self.rows[rows].tolist():
            file, line = self.store.place(row)
            lines_of.setdefault(file, set()).add(line)
        return "; ".join(
            f"{escaped(file)}: line{'s' if len(lines) > 1 else ''} {listed(map(str, sorted(lines)))}"
            for file, lines in lines_of.items()
        )

    def part(self, places: Array) -> TextDataset:
        """Return a subset of the rows as a dataset, in the order of `places` (R,)."""
        rows, labels, counts = self.rows[places], self.labels[places], self.counts[places]
        weights = self.weights[places] / counts
        return self.joined(self.store, rows, labels, self.targets[places], weights=weights, counts=counts)

    def joined(
        self,
        store: TokenStore,
        rows: Array,
        labels: Array,
        targets: Array | None = None,
        *,
        weights: Array | None = None,
        counts: Array | None = None,
    ) -> TextDataset:
        """Return a dataset of another store's rows, truncated and encoded like this one."""
        return TextDataset(
            store, rows, labels, weights=weights, counts=counts, targets=targets, **self._settings
        )

    @property
    def texts(self) -> Array:
        """Return a number for each row (R,), equal for equal texts."""
        return self.store.hashes[self.rows]

    def sentences(self) -> TextDataset:
        """Return the rows that are sentences, not phrases (see `data.formats.trees`)."""
        return self.part(np.flatnonzero(~self.store.phrases[self.rows]))

    def batch(self, rows: Array, weights: Array | None = None) -> Batch:
        """Gather some rows into a padded batch.

        Args:
            rows: indices in this dataset, (B,).
            weights: of each row in the step, before sample weights; default 1 / B.
        """
        alike_B = np.full(len(rows), 1 / len(rows)) if weights is None else weights
        rows_B = np.asarray(rows, np.int64)
        count_B = self._count_R[rows_B]
        place_T = np.arange(padded_length(int(count_B.max())))
        source_BT = self._start_R[rows_B][:, None] + place_T
        source_BT[:, self._bend :] += self._skip_R[rows_B][:, None]
        if len(self._ids_N):
            np.minimum(source_BT, len(self._ids_N) - 1, out=source_BT)
            tokens_BT = self._lookup[self._read(source_BT)]
            np.copyto(tokens_BT, PAD, where=place_T >= count_B[:, None])
        else:
            tokens_BT = np.zeros_like(source_BT)
        tokens_BT[count_B == 0, 0] = UNKNOWN  # a text without tokens is one unknown token
        arrays = {  # NumPy up to here: PyTorch's calls take three times as long for arrays this small
            "spelling_XK": self._spell_unknown(tokens_BT),
            "tokens_BT": tokens_BT,
            "lengths_B": np.maximum(count_B, 1),
            "labels_B": self._labels_R[rows_B],
            "weights_B": (alike_B * self.weights[rows_B]).astype(np.float32),
            "shares_B": alike_B.astype(np.float32),
            "rows_B": rows_B,
            "targets_BC": self.targets[rows_B],
        }
        return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def _read(self, source_BT: Array) -> Array:
        """Gather the store's token numbers at some positions, and release its pages periodically."""
        parts = []
        for start in range(0, len(source_BT), RELEASE_EVERY):
            part = source_BT[start : start + RELEASE_EVERY]
            parts.append(self._ids_N[part])
            self._rows_since_release += len(part)
            if self._rows_since_release >= RELEASE_EVERY:
                self.store.release()
                self._rows_since_release = 0
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _spell_unknown(self, tokens_BT: Array) -> Array:
        """Number a batch's unknown tokens from V on, in place, and return their buckets (X, K)."""
        if not self._subwords:
            return np.zeros((0, MOST_PLACES), np.int32)
        unknown_BT = tokens_BT >= self._known
        ids_X, places = np.unique(tokens_BT[unknown_BT], return_inverse=True)
        tokens_BT[unknown_BT] = self._known + places
        return spell([self.store.tokens[i - self._known] for i in ids_X.tolist()], self._subwords)

    def token_ids(self, row: int) -> Array:
        """Return one row's token numbers in the store, without truncation."""
        r = self.rows[row]
        return np.asarray(self.store.ids_N[self.store.offsets[r] : self.store.offsets[r + 1]])

    @property
    def known_V(self) -> Array:  # noqa: N802 - the dimension of the array
        """Which tokens of the store are in the vocabulary, bool (V,)."""
        ids = word_ids(torch.from_numpy(self._lookup), self._known).numpy()
        return np.asarray(ids != UNKNOWN)[: len(self.store.tokens)]

    def count_unknown(self) -> tuple[Array, Array]:
        """Return each row's number of tokens, before truncation, and of those out of vocabulary: (R,), (R,).

        >>> store = TokenStore.in_memory(np.array([0, 1, 1]), np.array([2, 1, 0]), ["so", "odd"])
        >>> rows, labels, vocabulary = np.arange(3), np.zeros(3, np.int64), Vocabulary(["so"])
        >>> rows = TextDataset(store, rows, labels, vocabulary=vocabulary, max_tokens=9, truncate="head")
        >>> [counts_R.tolist() for counts_R in rows.count_unknown()]
        [[2, 1, 0], [1, 1, 0]]
        """
        unknown_V, unknown_R = ~self.known_V, np.zeros(len(self), np.int64)
        for start in range(0, len(self), ROWS_AT_ONCE):
            numbers_N, row_N = self.token_numbers(start, start + ROWS_AT_ONCE)
            unknown_R += np.bincount(row_N[unknown_V[numbers_N]], minlength=len(self))
        return np.asarray(self.full_lengths, np.int64), unknown_R

    def token_numbers(self, start: int, end: int) -> tuple[Array, Array]:
        """Return the untruncated token numbers (in the store) of the rows `start` to `end`, and their rows.

        Both are (N,): a value for each token.
        """
        lengths = np.asarray(self.full_lengths[start:end], np.int64)
        row_N = np.repeat(np.arange(start, start + len(lengths)), lengths)
        first_N = np.repeat(self._start_R[start:end] - (np.cumsum(lengths) - lengths), lengths)
        numbers_N = np.asarray(self._ids_N[first_N + np.arange(len(first_N))])
        self.store.release()
        return numbers_N, row_N

    def unknown_share(self) -> float:
        """Return the share of out-of-vocabulary tokens."""
        counts = count_tokens(self.store, self.rows)
        return 1 - float(counts[self.known_V].sum()) / max(1, int(counts.sum()))


def padded_length(longest: int) -> int:
    """Round a length up to the multiple of 8 that batches are padded to.

    >>> padded_length(1), padded_length(8), padded_length(9)
    (8, 8, 16)
    """
    return max(1, -(-longest // PAD_MULTIPLE)) * PAD_MULTIPLE


def count_tokens(store: TokenStore, rows: Array, *, weighted: bool = False) -> Array:
    """Count the tokens of some rows: (tokens of the store,), int64.

    Args:
        store: the tokens.
        rows: of the store.
        weighted: whether to count each row by its sample weight, rounded and at least 1.
    """
    counts = np.zeros(len(store.tokens), np.int64)
    times_R = np.zeros(len(store.offsets) - 1, np.int64)
    times_R[rows] = np.maximum(1, np.rint(store.weights[rows])) if weighted else 1
    for start in range(0, len(times_R), ROWS_AT_ONCE):
        end = min(start + ROWS_AT_ONCE, len(times_R))
        lengths = np.diff(store.offsets[start : end + 1])
        part = np.asarray(store.ids_N[store.offsets[start] : store.offsets[end]])
        times_N = np.repeat(times_R[start:end], lengths)
        counted_N = times_N > 0
        times = times_N[counted_N] if weighted else None
        counts += np.bincount(part[counted_N], times, minlength=len(counts)).astype(np.int64)
        store.release()
    return counts


def plan_epoch(
    lengths: Array, *, batch_size: int, accumulate: int, seed: int, epoch: int
) -> list[list[Array]]:
    """Divide an epoch's rows into steps of `accumulate` batches of texts of similar length.

    Shuffled rows are sorted by length within pools of 50 batches, divided into batches, and the batches
    shuffled: little padding, and an order that is a pure function of the arguments.

    Args:
        lengths: tokens per row, (R,).
        batch_size: rows per batch; the last one may be smaller.
        accumulate: batches per step; the last step may have fewer.
        seed: of the run.
        epoch: 0-based.

    Returns:
        steps; a step is a list of batches; a batch is an array of rows (B,).

    >>> [[len(batch) for batch in step] for step in
    ...  plan_epoch(np.arange(10), batch_size=4, accumulate=2, seed=0, epoch=0)]
    [[4, 2], [4]]
    """
    random = np.random.default_rng([seed, epoch])
    order_R = random.permutation(len(lengths))
    pool = batch_size * POOL_BATCHES
    batches: list[Array] = []
    for start in range(0, len(order_R), pool):
        rows = order_R[start : start + pool]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    shuffled = [batches[i] for i in random.permutation(len(batches))]
    return [shuffled[i : i + accumulate] for i in range(0, len(shuffled), accumulate)]


def rank_share(step: list[Array], *, rank: int, world_size: int) -> list[tuple[Array, Array]]:
    """Return one rank's part of a step: per batch its rows and their weights.

    Every rank gets the same number of batches and at least one row in each; if there are
    fewer rows than ranks, a row of weight 0 is the filler. Weights are such that the mean
    over ranks of the summed weighted losses is the mean loss over the step's rows, before
    sample weights (see `TextDataset.batch`).

    >>> rank_share([np.array([3, 4, 5])], rank=1, world_size=2)
    [(array([4]), array([0.66666667]))]
    """
    weight = world_size / sum(len(batch) for batch in step)
    share = []
    for batch in step:
        rows = batch[rank::world_size]
        weights = np.full(max(1, len(rows)), weight if len(rows) else 0.0)
        share.append((rows if len(rows) else batch[:1], weights))
    return share


def length_batches(lengths: Array, *, batch_size: int) -> list[Array]:
    """Divide rows into batches of similar length, for evaluation: longest first, each row once.

    >>> length_batches(np.array([1, 9, 5]), batch_size=2)
    [array([1, 2]), array([0])]
    """
    order_R = np.argsort(-lengths, kind="stable")
    return [order_R[i : i + batch_size] for i in range(0, len(order_R), batch_size)]


def with_unlabelled(train: TextDataset, unlabelled: TextDataset) -> TextDataset:
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
