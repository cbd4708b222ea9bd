"""Tokenizers, lexicon and vocabulary: text to tokens, tokens to ids.

`Tokenizer` splits a text into tokens. `Lexicon` numbers every token in order of
appearance, for the token store on disk. `Vocabulary` has the tokens that a model knows: padding, the unknown
token, and the frequent tokens of the training rows.
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lstm_sentiment.errors import ConfigError, shown
from lstm_sentiment.kernels.tokens import TokenTable, library
from lstm_sentiment.text.encoder import LONG_TEXT
from lstm_sentiment.text.portions import portions
from lstm_sentiment.text.tokenization import (
    SPECIAL_TOKENS,
    TOKEN,
    UNKNOWN,
    UNPAIRED_SURROGATE,
    normal_form,
    prepare,
    split_negations,
    split_piece,
)

READ_AHEAD = 2  # batches split at white space in advance
MEMO_LIMIT = 500_000  # cached pieces of text; at most about 100 MB
MEMO_CHARACTERS = 1 << 24  # of them
PIECES_AT_ONCE = 1 << 17  # pieces per lookup, which are deduplicated first
CHARACTERS_AT_ONCE = 1 << 18  # of new pieces that are split

TOKENIZERS = ("basic_english", "spacy", "moses", "toktok", "revtok", "subword")  # of torchtext

IntArray = npt.NDArray[np.integer[Any]]


class Tokenizer:
    """The tokenizer named by ``text.tokenizer``.

    Args:
        name: ``words``, or a name that torchtext's ``get_tokenizer`` takes.
        lowercase: fold case first.
        normalize: extra normalization by ``words``: escapes, negation, escapes+negation or none.

    Raises:
        ConfigError: unknown tokenizer, or one that needs a package that is not installed.

    >>> Tokenizer("words", lowercase=True)("So GOOD!")
    ['so', 'good', '!']
    >>> Tokenizer("basic_english", lowercase=True)("So GOOD!")
    ['so', 'good', '!']
    """

    def __init__(self, name: str, *, lowercase: bool, normalize: str = "none") -> None:
        self.name, self.lowercase, self.normalize = name, lowercase, normalize
        self.escapes, self.negation = "escapes" in normalize, "negation" in normalize
        self._split = None if name == "words" else _torchtext_tokenizer(name)

    def __call__(self, text: str) -> list[str]:
        """Return a text's tokens."""
        if self._split is None:
            pieces = self.prepare(text).split()
            return [token for piece in pieces for token in split_piece(piece, negation=self.negation)]
        if not text.isascii():
            text = UNPAIRED_SURROGATE.sub("\ufffd", text)
        return self._split(text.lower() if self.lowercase else text)

    def prepare(self, text: str) -> str:
        """Normalize a text before splitting at white space (see `tokenization.prepare`)."""
        return prepare(text, lowercase=self.lowercase, escapes=self.escapes)


class Lexicon:
    """Numbers tokens in order of appearance; encodes many texts fast.

    With the tokenizer ``words`` no token spans white space. A compiled function splits ASCII (see
    `kernels.tokens`). Without it, texts are split at white space by Arrow's compiled kernels, on all cores,
    and only new pieces are tokenized.

    >>> lexicon = Lexicon(Tokenizer("words", lowercase=True))
    >>> numbers_N, lengths_R = lexicon.encode(["good, good food", ""])
    >>> numbers_N.tolist(), lengths_R.tolist(), lexicon.tokens
    ([0, 1, 0, 2], [4, 0], ['good', ',', 'food'])
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._numbers = _Numbers()
        self._pieces = _Pieces(self._numbers, negation=tokenizer.negation)
        compiled = tokenizer.name == "words" and library() is not None
        self._items = _Items(self._numbers, negation=tokenizer.negation) if compiled else None

    @property
    def tokens(self) -> list[str]:
        """All tokens so far; a token's number is its index."""
        return list(self._numbers)

    def encode(self, texts: Sequence[str]) -> tuple[IntArray, IntArray]:
        """Return all token numbers (N,), int32, and the tokens per text (R,), int64."""
        return next(self.encode_all([texts]))

    def encode_all(self, batches: Iterable[Sequence[str]]) -> Iterator[tuple[IntArray, IntArray]]:
        """Encode batches of texts lazily and in order; splitting is prefetched on other cores."""
        if self._tokenizer.name != "words":
            for texts in batches:
                rows = [list(map(self._numbers.__getitem__, self._tokenizer(text))) for text in texts]
                lengths_R = np.fromiter(map(len, rows), np.int64, len(rows))
                yield np.fromiter(chain.from_iterable(rows), np.int32, int(lengths_R.sum())), lengths_R
            return
        if self._items is not None:
            for texts in batches:
                yield self._items.number(list(map(self._tokenizer.prepare, texts)))
            return
        with ThreadPoolExecutor(max_workers=READ_AHEAD) as pool:
            ahead: deque[Future[_Cut]] = deque()
            for texts in batches:
                ahead.append(pool.submit(_cut, texts, self._tokenizer))
                if len(ahead) > READ_AHEAD:
                    yield self._number(ahead.popleft().result())
            while ahead:
                yield self._number(ahead.popleft().result())

    def _number(self, cut: _Cut) -> tuple[IntArray, IntArray]:
        """Replace each piece by its token numbers; return them (N,) and the tokens per text (R,)."""
        numbers: list[IntArray] = [np.zeros(0, np.int32)]
        counts: list[IntArray] = [np.zeros(0, np.int64)]
        for pieces_P, distinct_U in cut.parts:
            start_U, count_U, flat = self._pieces.look_up(distinct_U.to_pylist())
            count_P = count_U[pieces_P]
            # Token n of a piece whose first token is m is at the piece's start + n - m.
            place_N = np.repeat(start_U[pieces_P] - (np.cumsum(count_P) - count_P), count_P)
            place_N += np.arange(len(place_N))
            numbers.append(flat[place_N])
            counts.append(count_P)
        end_P = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
        return np.concatenate(numbers), np.diff(end_P[cut.ends_R])


class Vocabulary:
    """The tokens a model knows. Id 0 is padding, id 1 the unknown token, then by descending frequency.

    Args:
        tokens: known tokens without the two special ones; position + 2 is the id.

    >>> vocabulary = Vocabulary(["the", "good"])
    >>> vocabulary.encode(["the", "quokka"]), len(vocabulary)
    ([2, 1], 4)
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = [*SPECIAL_TOKENS, *tokens]
        self.ids = {token: i for i, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Sequence[str]) -> list[int]:
        """Return the id of each token, 1 for an unknown one."""
        return [self.ids.get(token, UNKNOWN) for token in tokens]


def count_unknown(text: str, tokenizer: Tokenizer, vocabulary: Vocabulary) -> tuple[int, int]:
    """Count a text's tokens, and those outside a vocabulary.

    >>> count_unknown("a good quokka", Tokenizer("words", lowercase=True), Vocabulary(["a", "good"]))
    (3, 1)
    """
    if len(text) <= LONG_TEXT:
        ids = vocabulary.encode(tokenizer(text))
        return len(ids), ids.count(UNKNOWN)
    lexicon = Lexicon(tokenizer)  # avoids a list of all tokens
    numbers_N, _ = lexicon.encode([text])
    unknown_U = np.array(vocabulary.encode(lexicon.tokens)) == UNKNOWN
    return len(numbers_N), int(unknown_U[numbers_N].sum())


class _Numbers(dict[str, int]):
    """token -> number; a missing token gets the next number."""

    def __missing__(self, token: str) -> int:
        self[token] = number = len(self)
        return number


class _Found(dict[str, int]):
    """match of the pattern -> number of its token; -1 for the end of a piece."""

    def __init__(self, numbers: _Numbers) -> None:
        super().__init__({"\n": -1})
        self._numbers = numbers

    def __missing__(self, found: str) -> int:
        self[found] = number = self._numbers.setdefault(normal_form(found), len(self._numbers))
        return number


class _Pieces:
    """Cache of pieces of text and their token numbers; new pieces are split in batches."""

    def __init__(self, numbers: _Numbers, *, negation: bool) -> None:
        self._numbers, self._negation = numbers, negation
        self._flat: IntArray
        self._ends: IntArray
        self._forget()

    def __len__(self) -> int:
        return len(self._places)

    def look_up(self, pieces: list[str]) -> tuple[IntArray, IntArray, IntArray]:
        """Return for each piece the start and number of its tokens in an array, and the array.

        Args:
            pieces: distinct.
        """
        if len(self) > MEMO_LIMIT or self._characters > MEMO_CHARACTERS:
            self._forget()
        place_U = np.fromiter(map(self._places.get, pieces, itertools.repeat(-1)), np.int64, len(pieces))
        unknown = np.flatnonzero(place_U < 0)
        new = [pieces[i] for i in unknown.tolist()]
        place_U[unknown] = np.arange(len(self), len(self) + len(new))
        parts = portions(new, most=len(new) + 1, size=CHARACTERS_AT_ONCE, of=len)
        numbers = np.concatenate([np.zeros(0, np.int32), *map(self._split, parts)])
        counts = np.diff(np.flatnonzero(numbers < 0), prepend=-1) - 1
        self._characters += sum(map(len, new))
        self._places.update(zip(new, itertools.count(len(self))))
        self._flat = np.concatenate([self._flat, numbers[numbers >= 0]])
        self._ends = np.concatenate([self._ends, self._ends[-1] + np.cumsum(counts)])
        start_U = self._ends[place_U]
        return start_U, self._ends[place_U + 1] - start_U, self._flat

    def _split(self, pieces: list[str]) -> IntArray:
        """Return the token numbers of pieces, with -1 after each piece."""
        lines = "".join([f"{piece}\n" for piece in pieces])
        found = TOKEN.findall(split_negations(lines) if self._negation else lines)
        return np.fromiter(map(self._found.__getitem__, found), np.int32, len(found))

    def _forget(self) -> None:
        self._characters = 0
        self._places: dict[str, int] = {}
        self._found = _Found(self._numbers)
        self._flat, self._ends = np.zeros(0, np.int32), np.zeros(1, np.int64)


class _Items:
    """Tokens that a compiled function finds, and the numbers of each."""

    def __init__(self, numbers: _Numbers, *, negation: bool) -> None:
        self._numbers, self._negation = numbers, negation
        self._number_U: IntArray  # of each item of one token; else -1
        self._several: dict[int, list[int]]  # item -> numbers of its tokens
        self._forget()

    def number(self, texts: list[str]) -> tuple[IntArray, IntArray]:
        """Return the token numbers of prepared texts (N,), and the tokens per text (R,)."""
        if len(self._table) > MEMO_LIMIT or self._table.size > MEMO_CHARACTERS:
            self._forget()
        items_N, lengths_R = self._table.split(texts)
        if new := self._table.take_new():
            self._add(new)
        numbers_N = self._number_U[items_N]
        odd = np.flatnonzero(numbers_N < 0)  # items of no token, or of several
        if not len(odd):
            return numbers_N, lengths_R
        several = [self._several[item] for item in items_N[odd].tolist()]
        counts = np.fromiter(map(len, several), np.int64, len(several))
        count_N = np.ones(len(items_N), np.int64)
        count_N[odd] = counts
        row = np.searchsorted(np.cumsum(lengths_R), odd, side="right")
        np.add.at(lengths_R, row, counts - 1)
        found_M = np.repeat(numbers_N, count_N)
        found_M[found_M < 0] = np.fromiter(chain.from_iterable(several), np.int32, int(counts.sum()))
        return found_M, lengths_R

    def _add(self, items: list[str]) -> None:
        """Number the tokens of new items."""
        numbers, first = self._numbers, len(self._number_U)
        tokens, several, done = list[str](), dict[int, list[str]](), 0
        for place, item in enumerate(items):
            if not item.isascii():
                several[place] = split_piece(item, negation=self._negation)
                tokens += [*items[done:place], *several[place]]
                done = place + 1
        tokens += items[done:]
        new = tokens
        if several or not numbers.keys().isdisjoint(tokens):
            new = [token for token in dict.fromkeys(tokens) if token not in numbers]
        numbers.update(zip(new, itertools.count(len(numbers))))
        number_U = np.fromiter(map(numbers.get, items, itertools.repeat(-1)), np.int32, len(items))
        for place, parts in several.items():
            number_U[place] = numbers[parts[0]] if len(parts) == 1 else -1
            if len(parts) != 1:
                self._several[first + place] = [numbers[token] for token in parts]
        self._number_U = np.concatenate([self._number_U, number_U])

    def _forget(self) -> None:
        self._table = TokenTable(negation=self._negation)
        self._number_U, self._several = np.zeros(0, np.int32), {}


class _Cut(NamedTuple):
    """Texts split at white space.

    Args:
        ends_R: offsets of each text's pieces (R + 1,).
        parts: chunks of pieces, as indices (P,) into the distinct ones, and these as Arrow arrays.
    """

    ends_R: IntArray
    parts: list[tuple[IntArray, Any]]


def _cut(texts: Sequence[str], tokenizer: Tokenizer) -> _Cut:
    """Split texts at white space."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # Via buffers: `pa.array` and `to_numpy` import pandas, which takes longer than a few texts.
    cleaned = [tokenizer.prepare(text).encode() for text in texts]
    ends = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in cleaned], out=ends[1:])
    buffers = pa.py_buffer(ends), pa.py_buffer(b"".join(cleaned))
    rows = pc.utf8_split_whitespace(pa.LargeStringArray.from_buffers(len(texts), *buffers))
    pieces = rows.flatten()
    starts = range(0, len(pieces), PIECES_AT_ONCE)
    encoded = [pieces.slice(start, PIECES_AT_ONCE).dictionary_encode() for start in starts]
    return _Cut(_numbers(rows.offsets), [(_numbers(part.indices), part.dictionary) for part in encoded])


def _numbers(array: Any) -> npt.NDArray[Any]:
    """Return an Arrow array without nulls as NumPy, without a copy."""
    kind = np.dtype(str(array.type))
    if not len(array):  # it may have no buffer
        return np.zeros(0, kind)
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * kind.itemsize)


@contextlib.contextmanager
def certificates_checked() -> Iterator[None]:
    """Keep certificate checks on: torchtext disables them for the whole process on import and use."""
    names = ("_create_default_https_context", "_create_unverified_context")
    before = [getattr(ssl, name) for name in names]
    setattr(ssl, names[1], ssl.create_default_context)
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(ssl, name, value)


def _torchtext_tokenizer(name: str) -> Callable[[str], list[str]]:
    try:
        if name not in TOKENIZERS:
            raise ValueError(name)
        with certificates_checked():
            from torchtext.data.utils import get_tokenizer  # imports torch: only when needed

            tokenizer: Callable[[str], list[str]] = get_tokenizer(name)
    except ImportError as error:
        raise ConfigError(f"'{name}' needs a package: {error}", key="text.tokenizer") from None
    except Exception:  # torchtext raises ValueError, spaCy OSError, other libraries others
        raise ConfigError(
            f"{shown(name)} is neither words nor a torchtext tokenizer: {', '.join(TOKENIZERS)}",
            key="text.tokenizer",
        ) from None
    return tokenizer
