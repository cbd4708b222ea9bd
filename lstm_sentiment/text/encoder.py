"""From one text to the row of ids that a model reads, quickly: what was met before is remembered.

Needs the standard library and `tokenizing` alone: it is also a part of the one file that answers texts
without PyTorch (see `export`).
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lstm_sentiment.text.tokenization import MAX_TOKEN_LENGTH, UNKNOWN, prepare, split_piece

REMEMBERED_BYTES = 32 << 20  # of pieces of text and their rows, about
LONG_TEXT = 100_000  # characters; the pieces of a longer one are not all held at a time
_PIECE = re.compile(r"\S+")
Ids = list[int | str]


class Encoder:
    """Turns a text into the row that a model reads, and remembers short pieces of text met before.

    Args:
        ids: token -> id of every known token.
        lowercase: fold case first.
        max_tokens: longest row; what is over is cut.
        truncate: what is kept then (see `cut`).
        subwords: buckets of the model's n-gram vectors; 0 if it has none.
        normalize: escapes, negation, both joined by ``+``, or none (see `TextConfig`).
        tokenize: another way to split a text than `words`; it folds case itself.

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
        """Return a text's ids, at least one; an unknown token stays as it is if the model can spell."""
        if self._tokenize is None:  # the same tokens as those of `words`, remembered by piece
            prepared = prepare(text, lowercase=self._lowercase, escapes=self._escapes)
            pieces = (
                prepared.split()
                if len(prepared) <= LONG_TEXT
                else (found[0] for found in _PIECE.finditer(prepared))
            )
            row: Iterable[int | str] = itertools.chain.from_iterable(map(self._rows.__getitem__, pieces))
        else:
            row = self._row(self._tokenize(text))
        return cut(row, self._max_tokens, self._truncate) or [UNKNOWN]

    def _split_row(self, piece: str) -> Ids:
        return self._row(split_piece(piece, negation=self._negation))

    def _row(self, tokens: Iterable[str]) -> Ids:
        if self._spells:
            return [self._ids.get(token, token) for token in tokens]
        return [self._ids.get(token, UNKNOWN) for token in tokens]


class _Rows(dict[str, Ids]):
    """Short pieces of text and their rows; all of them are forgotten before they take too much."""

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


def cut(tokens: Iterable[Any], max_tokens: int, truncate: str) -> list[Any]:
    """Return at most `max_tokens` of some items: the head, the tail, or both ends; no more of them are held.

    >>> cut([1, 2, 3, 4, 5], 3, "head"), cut([1, 2, 3, 4, 5], 3, "tail"), cut([1, 2, 3, 4, 5], 3, "middle")
    ([1, 2, 3], [3, 4, 5], [1, 2, 5])
    """
    keep = {"head": max_tokens, "tail": 0, "middle": (max_tokens + 1) // 2}[truncate]
    items = iter(tokens)
    head = list(itertools.islice(items, keep))
    return head if keep == max_tokens else [*head, *deque(items, maxlen=max_tokens - keep)]
