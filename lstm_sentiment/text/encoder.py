"""Encode single texts as token ids, with a cache of word pieces.

Needs only the standard library and `tokenization`: it is also part of the single-file runtime that predicts
without PyTorch (see `export`).
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from lstm_sentiment.text.tokenization import MAX_TOKEN_LENGTH, UNKNOWN, prepare, split_piece

REMEMBERED_BYTES = 32 << 20  # approximate size of the cache
LONG_TEXT = 100_000  # characters; longer texts are split lazily
_SPACE = re.compile(r"\s")
Ids = list[int | str]


class Encoder:
    """Encodes a text as token ids; short whitespace-separated pieces are cached.

    Args:
        ids: token -> id of every known token.
        lowercase: fold case first.
        max_tokens: maximum number of ids; longer texts are truncated.
        truncate: which part is kept then (see `cut`).
        subwords: hash buckets of the model's n-gram embeddings; 0 if it has none.
        normalize: escapes, negation, both joined by ``+``, or none (see `TextConfig`).
        tokenize: a tokenizer to use instead of `words`; it folds case itself.

    >>> encode = Encoder({"so": 2, "good": 3}, lowercase=True, max_tokens=9, truncate="head", subwords=50)
    >>> encode("So goood!"), encode("")
    ([2, 'goood', '!'], [1])
    """

    def __init__(
        self,
        ids: Mapping[str, int],
        *,
        lowercase: bool,
        max_tokens: int,
        truncate: str,
        subwords: int,
        normalize: str = "none",
        tokenize: Callable[[str], list[str]] | None = None,
    ) -> None:
        self._ids, self._lowercase = ids, lowercase
        self._max_tokens, self._truncate, self._spells = max_tokens, truncate, subwords > 0
        self._tokenize = tokenize
        self._escapes, self._negation = "escapes" in normalize, "negation" in normalize
        self._rows = _Rows(self._split_row)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_rows"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rows = _Rows(self._split_row)

    def __call__(self, text: str) -> Ids:
        """Return a text's ids, at least one; with subwords, an unknown token is returned as a string."""
        if self._tokenize is None:  # the same tokens as those of `words`, cached by piece
            prepared = prepare(text, lowercase=self._lowercase, escapes=self._escapes)
            rows = map(self._rows.__getitem__, _pieces(prepared))
            row: Iterable[int | str] = itertools.chain.from_iterable(rows)
        else:
            row = self._row(self._tokenize(text))
        return cut(row, self._max_tokens, self._truncate) or [UNKNOWN]

    def has_tokens(self, text: str) -> bool:
        """Whether a text has a token at all."""
        if self._tokenize is not None:
            return bool(self._tokenize(text))
        prepared = prepare(text, lowercase=self._lowercase, escapes=self._escapes)
        return any(self._rows[piece] for piece in _pieces(prepared))

    def _split_row(self, piece: str) -> Ids:
        return self._row(split_piece(piece, negation=self._negation))

    def _row(self, tokens: Iterable[str]) -> Ids:
        if self._spells:
            return [self._ids.get(token, token) for token in tokens]
        return [self._ids.get(token, UNKNOWN) for token in tokens]


def _pieces(text: str) -> Iterable[str]:
    """Return the pieces of a text between white space; those of a long one lazily, to bound memory."""
    if len(text) <= LONG_TEXT:
        return text.split()
    return itertools.chain.from_iterable(map(str.split, _sections(text)))


def _sections(text: str) -> Iterator[str]:
    """Cut a text at white space into sections of about `LONG_TEXT` characters."""
    start = 0
    while start < len(text):
        space = _SPACE.search(text, start + LONG_TEXT)
        end = space.start() if space else len(text)
        yield text[start:end]
        start = end


class _Rows(dict[str, Ids]):
    """Cache of short pieces of text and their ids; cleared when it gets too large."""

    def __init__(self, make: Callable[[str], Ids]) -> None:
        super().__init__()
        self._make, self._taken = make, 0

    def __missing__(self, piece: str) -> Ids:
        row = self._make(piece)
        if len(piece) <= MAX_TOKEN_LENGTH:
            taken = 200 + 4 * len(piece) + 72 * len(row)
            if self._taken + taken > REMEMBERED_BYTES:
                self.clear()
                self._taken = 0
            self._taken += taken
            self[piece] = row
        return row


def kept_before(max_tokens: int, truncate: str) -> int:
    """Return how many of the kept items of a truncated text come before those that are removed.

    >>> kept_before(3, "head"), kept_before(3, "tail"), kept_before(3, "middle")
    (3, 0, 2)
    """
    return {"head": max_tokens, "tail": 0, "middle": (max_tokens + 1) // 2}[truncate]


def cut(tokens: Iterable[Any], max_tokens: int, truncate: str) -> list[Any]:
    """Truncate items to `max_tokens`: keep the head, the tail, or both ends; consumes lazily.

    >>> cut([1, 2, 3, 4, 5], 3, "head"), cut([1, 2, 3, 4, 5], 3, "tail"), cut([1, 2, 3, 4, 5], 3, "middle")
    ([1, 2, 3], [3, 4, 5], [1, 2, 5])
    """
    keep = kept_before(max_tokens, truncate)
    items = iter(tokens)
    head = list(itertools.islice(items, keep))
    return head if keep == max_tokens else [*head, *deque(items, maxlen=max_tokens - keep)]
