"""Tokens of a text that comes in pieces, the same as those of the whole text, however it is cut.

What follows may still change the last characters of a text: *goo* becomes *good*, ``&am`` becomes ``&``, an
accent joins its letter, a capital sigma at the end of a word is folded to another letter than within it.
Each step of `tokenization.prepare` is therefore a stage that holds back the characters it cannot decide yet,
and the last one holds back the word that is not complete. Chinese, Japanese and Thai, which put no spaces
between words, are split as they come.

Needs only the standard library and `tokenization`: it is also part of the single-file runtime that predicts
without PyTorch (see `export`).
"""

from __future__ import annotations

import copy
import html
import re
import unicodedata
from abc import ABC, abstractmethod

from lstm_sentiment.text.tokenization import (
    _LEADING_ZEROS,
    _LINE_BREAK,
    _NO_CHARACTER,
    _NO_SPACES,
    _UNSEEN,
    LONGEST_PIECE,
    MOST_MARKS,
    UNPAIRED_SURROGATE,
    decode_escapes,
    fold_case,
    split_piece,
)

SIGMA, FINAL_SIGMA = "\u03c3", "\u03c2"
CAPITAL_SIGMA = "\u03a3"
# Ends of a text that the next characters may complete.
_OPEN_ESCAPE = re.compile(r"(?:\\u[dD][89abAB][\da-fA-F]{2})?(?:\\(?:u[\da-fA-F]{0,3})?)?\Z", re.ASCII)
_OPEN_LINE_BREAK = re.compile(r"<(?:b(?:r(?:\s*/?)?)?)?\Z", re.IGNORECASE)
_OPEN_ENTITY = re.compile(r"&(?:\#(?:[0-9]*|[xX][0-9a-fA-F]*)|[^\t\n\f <&#;]{0,32})\Z")
_LEADING_HEX_ZEROS = re.compile("(&#[xX])0+(?=[0-9a-fA-F])")
_MOST_DIGITS = re.compile("(&#(?:[0-9]{8}|[xX][0-9a-fA-F]{8})).*", re.DOTALL)  # these are beyond Unicode
_RUN = re.compile(r"\s+|\S+")
_SPACES = re.compile(r"\s+")
_SPACELESS = re.compile(rf"(?!\d)[{_NO_SPACES}]")  # each is a token of its own, whatever follows
# Vowels of Hangul and Kirat Rai, which join the letter before them, besides combining marks.
_JOINING = re.compile("[\u1100-\u11ff\ud7b0-\ud7ff\U00016d40-\U00016d7f]")


class TokenStream:
    """Splits a text that comes in pieces into tokens.

    The tokens that `add` has returned so far, followed by those of `rest`, are the tokens of the text so far.
    Memory is constant: at most 10,000 characters are held back, as much as a word can have.

    Args:
        lowercase: fold case first.
        escapes: decode literal ``\\u`` escapes first.
        negation: split off ``n't``.

    >>> stream = TokenStream(lowercase=True)
    >>> stream.add("So go"), stream.rest()
    (['so'], ['go'])
    >>> stream.add("od &a"), stream.rest()
    (['good'], ['&', 'a'])
    >>> stream.add("mp; cheap"), stream.rest()
    (['&'], ['cheap'])
    """

    def __init__(self, *, lowercase: bool, escapes: bool = False, negation: bool = False) -> None:
        self._stages: list[_Stage] = [_LineBreaks(), _Entities(), _Characters()]
        self._stages.insert(0, _LongPieces())
        if lowercase:
            self._stages.insert(0, _Case())
        if escapes:
            self._stages.insert(0, _Escapes())
        self._words = _Words(negation=negation)

    def add(self, text: str) -> list[str]:
        """Return the tokens that are certain from now on, after those returned before."""
        for stage in self._stages:
            text = stage.settle(stage.pending + text)
        return self._words.tokens(text)

    def rest(self) -> list[str]:
        """Return the tokens of what is held back, if the text ended here."""
        text = ""
        for stage in self._stages:
            text = copy.copy(stage).settle(stage.pending + text, end=True)
        return copy.copy(self._words).tokens(text, end=True)


class _Stage(ABC):
    """A step of normalization; `pending` is what it holds back."""

    pending = ""

    def settle(self, text: str, *, end: bool = False) -> str:
        """Return the normal form of the certain part of a text, and hold back the rest.

        Args:
            text: begins with what was held back.
            end: whether the text is complete.
        """
        settled = len(text) if end else self._settled(text)
        self.pending = text[settled:]
        return self._normal(text[:settled])

    @abstractmethod
    def _settled(self, text: str) -> int:
        """Return how many characters are certain."""

    @abstractmethod
    def _normal(self, text: str) -> str:
        """Return the normal form of certain characters."""


class _Escapes(_Stage):
    """Decodes escapes; the first half of a surrogate pair waits for the second one."""

    def _settled(self, text: str) -> int:
        found = _OPEN_ESCAPE.search(text)
        assert found is not None
        return found.start()

    def _normal(self, text: str) -> str:
        return decode_escapes(text) if "\\u" in text else text


class _Case(_Stage):
    """Folds case; a capital sigma is final if a letter comes before it and none after it."""

    before = " "  # a letter if the last character that counts is one

    def _settled(self, text: str) -> int:
        place = text.rfind(CAPITAL_SIGMA)
        if place >= 0:
            after = text[place + 1 :]
            if f"a{CAPITAL_SIGMA}{after}".lower()[1] == FINAL_SIGMA and (
                f"a{CAPITAL_SIGMA}{after}a".lower()[1] == SIGMA
            ):
                return place
        return len(text) - text.endswith("I")  # with a dot above it is folded to i

    def _normal(self, text: str) -> str:
        folded = text
        if CAPITAL_SIGMA in text:
            after = "a" if self.pending else ""  # what is held back begins with a letter
            folded = fold_case(f"{self.before}{text}{after}")[1:]
            folded = folded[:-1] if after else folded
        else:
            folded = fold_case(text)
        in_word = f"{self.before}{text}{CAPITAL_SIGMA}".lower()[-1] == FINAL_SIGMA
        self.before = "a" if in_word else " "
        return folded


class _LongPieces(_Stage):
    """Inserts a space after 10,000 characters without one."""

    taken = 0

    def _settled(self, text: str) -> int:
        return len(text)

    def _normal(self, text: str) -> str:
        parts = []
        for run in _RUN.findall(text):
            if run[0].isspace():
                self.taken = 0
                parts.append(run)
                continue
            start = 0
            while self.taken + len(run) - start > LONGEST_PIECE:
                end = start + LONGEST_PIECE - self.taken
                parts.append(f"{run[start:end]} ")
                start, self.taken = end, 0
            parts.append(run[start:])
            self.taken += len(run) - start
        return "".join(parts)


class _LineBreaks(_Stage):
    """Replaces HTML line breaks by spaces."""

    def settle(self, text: str, *, end: bool = False) -> str:
        settled = super().settle(text, end=end)
        self.pending = _SPACES.sub(" ", self.pending)  # there may be any number of them
        return settled

    def _settled(self, text: str) -> int:
        found = _OPEN_LINE_BREAK.search(text)
        return found.start() if found else len(text)

    def _normal(self, text: str) -> str:
        return _LINE_BREAK.sub(" ", text)


class _Entities(_Stage):
    """Decodes character entities."""

    def settle(self, text: str, *, end: bool = False) -> str:
        settled = super().settle(text, end=end)
        if "#" in self.pending:  # any number of digits has the same meaning as nine of them
            pending = _LEADING_HEX_ZEROS.sub(r"\1", _LEADING_ZEROS.sub("&#", self.pending))
            self.pending = _MOST_DIGITS.sub(r"\1", pending)
        return settled

    def _settled(self, text: str) -> int:
        found = _OPEN_ENTITY.search(text)
        return found.start() if found else len(text)

    def _normal(self, text: str) -> str:
        if "&" not in text:
            return text
        return html.unescape(_NO_CHARACTER.sub("\ufffd", _LEADING_ZEROS.sub("&#", text)))


class _Characters(_Stage):
    """Removes invisible characters and most of many combining marks, and composes accents."""

    marks = 0

    def settle(self, text: str, *, end: bool = False) -> str:
        new = text[len(self.pending) :]
        if not new.isascii():
            new = "".join(map(self._limited, _UNSEEN.sub("", new)))
        elif new:
            self.marks = 0
        return super().settle(self.pending + new, end=end)

    def _limited(self, character: str) -> str:
        self.marks = self.marks + 1 if unicodedata.combining(character) else 0
        return character if self.marks <= MOST_MARKS else ""

    def _settled(self, text: str) -> int:
        if text[-1:].isspace():
            return len(text)
        place = len(text) - 1
        while place > 0 and joins(text[place]) and not text[place - 1].isspace():
            place -= 1
        return max(place, 0)

    def _normal(self, text: str) -> str:
        if text.isascii():
            return text
        return UNPAIRED_SURROGATE.sub("\ufffd", unicodedata.normalize("NFC", text).replace("’", "'"))


def joins(character: str) -> bool:
    """Whether a character may change the one before it in Unicode NFC, or change places with it.

    >>> joins("\\u0301"), joins("e")
    (True, False)
    """
    if character.isascii():
        return False
    return unicodedata.category(character)[0] == "M" or _JOINING.match(character) is not None


class _Words:
    """Splits text into tokens, but for a last word that is not complete."""

    def __init__(self, *, negation: bool) -> None:
        self._negation = negation
        self._pending = ""

    def tokens(self, text: str, *, end: bool = False) -> list[str]:
        """Return the tokens of the complete words of what was held back and a text.

        Args:
            text: normalized.
            end: whether the last word is complete.
        """
        text = self._pending + text
        pieces = text.split()
        incomplete = bool(pieces) and not end and not text[-1].isspace()
        self._pending = pieces.pop() if incomplete else ""
        found = [token for piece in pieces for token in split_piece(piece, negation=self._negation)]
        return found + self._spaceless() if self._pending and not self._pending.isascii() else found

    def _spaceless(self) -> list[str]:
        """Return the tokens of the incomplete word before its last character that is a token of its own."""
        place = max((of.start() for of in _SPACELESS.finditer(self._pending)), default=0)
        found = split_piece(self._pending[: place + 1], negation=self._negation) if place else []
        if not found or found[-1] != self._pending[place]:  # it is part of a URL or of a user's name
            return []
        self._pending = self._pending[place:]
        return found[:-1]
