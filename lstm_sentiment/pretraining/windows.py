"""Reads unlabelled text files into windows of tokens, with a vocabulary and statistics.

Legend: R texts, W windows, V tokens of the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.config.sections import TextConfig
from lstm_sentiment.data.corpus import build_vocabulary, load_texts
from lstm_sentiment.data.dataset import TextDataset, count_tokens
from lstm_sentiment.data.token_store import TokenStore, join_stores
from lstm_sentiment.errors import DataError
from lstm_sentiment.pretraining.config import PretrainDataConfig
from lstm_sentiment.records.data_facts import TextFacts, TextSplitFacts
from lstm_sentiment.text.tokenizers import Tokenizer, Vocabulary

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Training data of a language model.

    Args:
        train: training windows, of at least 2 tokens each.
        validation: windows that select the best epoch.
        vocabulary: tokens of the training texts.
        counts_V: counts of the vocabulary's tokens in them, int64.
        facts: counts for the report.
        fingerprint: changes with any text, split, window or token.
    """

    train: TextDataset
    validation: TextDataset
    vocabulary: Vocabulary
    counts_V: Array
    facts: TextFacts
    fingerprint: str

    @property
    def labels(self) -> list[str]:
        """Empty: labels are not read."""
        return []

    @property
    def label_map(self) -> dict[str, str | None]:
        """Empty."""
        return {}


def read_texts(data: PretrainDataConfig, text: TextConfig, *, seed: int, cache: Path) -> Texts:
    """Read, split and encode the configured texts.

    Texts that are also in the validation or excluded sources are removed from training.

    Args:
        data: sources and split.
        text: tokenization.
        seed: of the split and the sample.
        cache: folder for tokenised text.

    Raises:
        DataError: a file cannot be read, or too few texts.
        ConfigError: unknown tokenizer.
    """
    tokenizer = Tokenizer(text.tokenizer, lowercase=text.lowercase)
    store, *apart = (
        join_stores([load_texts(name, data, tokenizer, cache) for name in _names(sources)])
        for sources in (data.train, data.validation, data.exclude)
    )
    rows = np.arange(len(store.hashes))
    if data.deduplicate:
        rows = np.sort(np.unique(store.hashes, return_index=True)[1])
    distinct = rows
    for other in apart:
        rows = rows[~np.isin(store.hashes[rows], other.hashes)]
    excluded = len(distinct) - len(rows)
    random = np.random.default_rng(seed)
    if data.max_rows is not None and data.max_rows < len(rows):
        rows = np.sort(random.permutation(rows)[: data.max_rows])
    held_out, held_out_rows = apart[0], np.arange(len(apart[0].hashes))
    if isinstance(data.validation, float):
        shuffled, count = random.permutation(rows), max(1, round(data.validation * len(rows)))
        held_out, held_out_rows, rows = store, np.sort(shuffled[:count]), np.sort(shuffled[count:])
        rows = rows[~np.isin(store.hashes[rows], store.hashes[held_out_rows])]
    vocabulary = build_vocabulary(store, rows, min_frequency=text.min_frequency, most=text.max_vocabulary)
    train = _windows(store, rows, vocabulary, text)
    validation = _windows(held_out, held_out_rows, vocabulary, text)
    if not len(train) or not len(validation):
        split = "train" if not len(train) else "validation"
        raise DataError(f"no text of two tokens or more is left for {split}", file=_names(data.train)[0])
    counts_V = np.bincount(vocabulary.encode(store.tokens), count_tokens(store, rows), len(vocabulary))
    facts = TextFacts(
        splits={
            "train": _split_facts(train, len(rows)),
            "validation": _split_facts(validation, len(held_out_rows)),
        },
        duplicates=len(store.hashes) - len(distinct),
        excluded=excluded,
    )
    return Texts(
        train=train,
        validation=validation,
        vocabulary=vocabulary,
        counts_V=counts_V.astype(np.int64),
        facts=facts,
        fingerprint=_fingerprint(train, validation, text),
    )


def cut_windows(store: TokenStore, longest: int) -> tuple[TokenStore, Array]:
    """Split long texts into windows of even length, without losing tokens.

    Args:
        store: the texts.
        longest: most tokens of a window.

    Returns:
        the windows as a store, and the text of each window (W,).

    >>> store = TokenStore.in_memory(np.arange(9), np.array([7, 2]), list("abcdefghi"))
    >>> windows, text_W = cut_windows(store, 3)
    >>> np.diff(windows.offsets), text_W
    (array([2, 2, 3, 2]), array([0, 0, 0, 1]))
    """
    length_R = np.diff(store.offsets)
    count_R = np.maximum(1, -(-length_R // longest))
    text_W = np.repeat(np.arange(len(length_R)), count_R)
    place_W = np.arange(len(text_W)) - np.repeat(np.cumsum(count_R) - count_R, count_R)
    start_W = store.offsets[text_W] + place_W * length_R[text_W] // count_R[text_W]
    offsets = np.concatenate([start_W, store.offsets[-1:]]).astype(np.int64)
    return replace(store, offsets=offsets), text_W


def _windows(store: TokenStore, rows: Array, vocabulary: Vocabulary, text: TextConfig) -> TextDataset:
    """Return the windows of texts that have a token to predict."""
    cut, text_W = cut_windows(store, text.max_tokens)
    wanted_W = np.isin(text_W, rows) & (np.diff(cut.offsets) >= 2)
    places = np.flatnonzero(wanted_W)
    return TextDataset(
        cut,
        places,
        np.zeros(len(places), np.int64),
        vocabulary=vocabulary,
        max_tokens=text.max_tokens,
        truncate="head",
        subwords=text.subwords,
    )


def _split_facts(windows: TextDataset, texts: int) -> TextSplitFacts:
    return TextSplitFacts(
        texts=texts,
        windows=len(windows),
        tokens=int(windows.lengths.sum()),
        unknown_tokens=round(windows.unknown_share(), 5),
    )


def _fingerprint(train: TextDataset, validation: TextDataset, text: TextConfig) -> str:
    """Return a hash that changes with any text, split, window or token."""
    facts = [
        text.max_tokens,
        text.min_frequency,
        text.max_vocabulary,
    ]  # these determine the tokens
    digest = hashlib.sha256(json.dumps(facts).encode())
    for windows in (train, validation):
        digest.update(windows.store.fingerprint.encode())
        digest.update(windows.rows.astype(np.int64).tobytes())
    return digest.hexdigest()


def _names(sources: float | str | list[str] | None) -> list[str]:
    if isinstance(sources, str):
        return [sources]
    return sources if isinstance(sources, list) else []
