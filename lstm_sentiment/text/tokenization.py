"""Tokenization, text normalization, and n-gram hashing of unknown tokens.

Needs only the standard library and numpy and no other module of this package: it is also part of the
single-file runtime that predicts without PyTorch (see `export`).

Legend: B texts of a batch, T padded length, X unknown tokens of a batch, K hash buckets per token.
"""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

PAD, UNKNOWN = 0, 1
SPECIAL_TOKENS = ("<pad>", "<unk>")
MAX_TOKEN_LENGTH = 64  # characters; longer runs of letters are not words and would fill the vocabulary
LONGEST_PIECE = 10_000  # characters without white space; longer pieces are split
SHORTEST, LONGEST = 2, 4  # characters of an n-gram
MOST_PLACES = 32  # n-grams of one token; a longer token keeps a subset
NOTHING = 0  # padding bucket: no n-gram hashes to it

# Scripts that put no spaces between words: each character is a token.
_NO_SPACES = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)


def _marks() -> str:
    """Return combining vowel signs and accents, and the joiners."""
    blocks = ((0x300, 0x3100), (0xA600, 0xAC00), (0xFB00, 0xFE30), (0x10000, 0x20000), (0xE0100, 0xE01F0))
    kinds = ((start, map(unicodedata.category, map(chr, range(start, stop)))) for start, stop in blocks)
    found = [c for start, of in kinds for c, kind in enumerate(of, start) if kind[0] == "M"]
    found += [0x200C, 0x200D]
    edges = [at for at in range(1, len(found)) if found[at] != found[at - 1] + 1]
    runs = itertools.pairwise([0, *edges, len(found)])
    return "".join([f"{chr(found[a])}-{chr(found[b - 1])}" for a, b in runs])  # quicker to compile than each


# Beyond ASCII, part of a word. The lookahead comes first: it is quick, and fails at most characters.
_SIGN = rf"(?![\x00-\x7f{_NO_SPACES}])[\w{_marks()}]"
_WORD = rf"(?:[A-Za-z0-9_]+|{_SIGN})+"
_ONLY_WORDS = "abce-gi-np-vyzABCE-NP-SU-WYZ"  # only words begin with these: most tokens, so tried first
_EMOJI = "\u2600-\u27bf\u2190-\u21ff\u2b00-\u2bff\u3030\u303d\U0001f000-\U0001faff"
_STYLE = "[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]"  # of an emoji: as text, as a picture, its skin
UNPAIRED_SURROGATE = re.compile("[\ud800-\udfff]")  # unpaired surrogates, which cannot be encoded
TOKEN = re.compile(
    rf"""
    [{_ONLY_WORDS}][A-Za-z0-9_]*(?:{_SIGN}(?:{_WORD})?)?(?:['’`-]{_WORD})*
  | \n                                                   # between pieces of text
  | [0-9\#*]\ufe0f?\u20e3                                 # keycaps
  | (?:https?://|www\.)\S+
  | @\w+
  | [<>]?[:;=8xX][-o*']?[)\](\[dDpP/\\|*3]+(?!\w)        # :-) ;D =( xD
  | [)\](\[dD/\\|][-o*']?[:;=](?!\w)                     # (-: D:
  | <+/?3+ | \^[_.]?\^ | [-oO>T][._]+[-oO<T](?!\w)       # <3 ^_^ -_- o.O
  | \#{_WORD}                                            # hashtags
  | [\U0001f1e6-\U0001f1ff]{{2}}                         # flags
  | [{_EMOJI}]{_STYLE}*(?:\u200d[{_EMOJI}\u2640\u2642]{_STYLE}*)*
  | \d+(?:[.,:]\d+)+                                     # 3.5 1,000 10:30
  | {_WORD}(?:['’`-]{_WORD})*                            # don't  so-so
  | '{_WORD}                                             # 's 'm, when separate
  | [!?]+ | \.{{2,}}
  | \S
    """,
    re.VERBOSE,
)
# Soft hyphens, zero-width spaces, direction marks: invisible, and would split a word. Joiners are kept.
_UNSEEN = re.compile("[\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f]")
_LINK = ("http://", "https://", "www.")
_STAND_IN = re.compile(r"<[a-z]+>")  # placeholders <url>, <user>, <pad>: without n-grams
_LEADING_ZEROS = re.compile("&#0+(?=[0-9])")  # of a character reference; html.unescape reads &#065; as A
_NO_CHARACTER = re.compile("&#[0-9]{8,};?")  # beyond Unicode; int() fails on more than 4,300 digits
MOST_MARKS = 30  # consecutive combining marks, as in Unicode's Stream-Safe Text Format (UAX #15)
_MANY_BEYOND_ASCII = re.compile(rf"[^\x00-\x7f]{{{MOST_MARKS + 1},}}")  # a quick test for them
_MANY_MARKS = re.compile(rf"[^\w\s\x00-\x7f]{{{MOST_MARKS + 1},}}")  # may be marks; contains no letter
_LONG_PIECE = re.compile(rf"(?<!\S)\S{{{LONGEST_PIECE + 1},}}")
_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_MARKS_AFTER_WORDS = frozenset('.,;?!")')
# No program escapes ASCII letters and digits, and a decoded backslash would make new escapes.
_ESCAPES = re.compile(r"(?:\\u(?!00(?:3\d|[46][1-9a-fA-F]|[57][\daA]|5[cC]))[\da-fA-F]{4})+", re.ASCII)
_NEGATION = re.compile(r"(?<=\w)(?<!n't)n't(?!\w)", re.IGNORECASE)


def words(text: str) -> list[str]:
    """Tokenize a text, keeping everything that carries sentiment.

    Words keep their apostrophes and hyphens; emoji, emoticons, hashtags, ``!`` and ``?`` are tokens
    (runs are shortened to three); a URL becomes ``<url>``, a mention ``<user>``; HTML line
    breaks and character entities are decoded. No token spans white space.

    >>> words("I can't believe it :-) SO good!!!!! #happy 😀")
    ['I', "can't", 'believe', 'it', ':-)', 'SO', 'good', '!!!', '#happy', '😀']
    >>> words("Fish &amp; chips<br />so-so, @bob http://t.co/x 7.5/10")
    ['Fish', '&', 'chips', 'so-so', ',', '<user>', '<url>', '7.5', '/', '10']
    >>> words("   ")
    []
    """
    return [token for piece in clean(text).split() for token in split_piece(piece)]


def clean(text: str) -> str:
    """Decode HTML line breaks and entities, straighten apostrophes, compose accents (Unicode NFC).

    Invisible characters, such as soft hyphens, are removed.

    Never raises, and takes time and memory linear in the length: a reference to a number beyond Unicode
    becomes U+FFFD, of a run of combining marks 30 are kept, and a space is inserted after 10,000 characters
    without one.

    >>> clean("It’s &quot;good&quot;<br />")
    'It\\'s "good" '
    """
    if _may_have_long_piece(text):
        text = _LONG_PIECE.sub(_cut_piece, text)
    if "<" in text:
        text = _LINE_BREAK.sub(" ", text)
    if "&" in text:
        text = html.unescape(_NO_CHARACTER.sub("\ufffd", _LEADING_ZEROS.sub("&#", text)))
    if not text.isascii():
        text = _UNSEEN.sub("", text)
        if _MANY_BEYOND_ASCII.search(text):
            text = _MANY_MARKS.sub(_limit_marks, text)
        text = UNPAIRED_SURROGATE.sub("\ufffd", unicodedata.normalize("NFC", text).replace("’", "'"))
    return text


def _may_have_long_piece(text: str) -> bool:
    """Whether some 10,001 characters have no space; much faster than the pattern, which decides."""
    start = 0
    while len(text) - start > LONGEST_PIECE:
        space = text.rfind(" ", start, start + LONGEST_PIECE + 1)
        if space < 0:
            return True
        start = space + 1
    return False


def _cut_piece(found: re.Match[str]) -> str:
    """Insert a space after each 10,000 characters: an endless word would take 150 bytes per character."""
    piece = found[0]
    return " ".join(piece[i : i + LONGEST_PIECE] for i in range(0, len(piece), LONGEST_PIECE))


def _limit_marks(found: re.Match[str]) -> str:
    """Drop combining marks after 30 consecutive ones: sorting them for NFC takes quadratic time."""
    kept, marks = [], 0
    for character in found[0]:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= MOST_MARKS:
            kept.append(character)
    return "".join(kept)


def prepare(text: str, *, lowercase: bool, escapes: bool) -> str:
    """Normalize a text before splitting at white space: decode escapes, fold case, clean.

    >>> prepare("It\\\\u2019s GOOD&#33;", lowercase=True, escapes=True)
    "it's good!"
    """
    if escapes and "\\u" in text:
        text = decode_escapes(text)
    return clean(fold_case(text) if lowercase else text)


def fold_case(text: str) -> str:
    """Lowercase a text without changing its length.

    Python lowercases the Turkish dotted capital I to i and a combining dot.

    >>> fold_case("İYİ ΟΔΟΣ"), len("İ".lower())
    ('iyi οδος', 2)
    """
    if not text.isascii():
        text = text.replace("I\u0307", "i").replace("\u0130", "i")
    return text.lower()


def decode_escapes(text: str) -> str:
    r"""Decode literal ``\u`` escapes of four hexadecimal digits, in UTF-16.

    Escapes of ASCII letters, digits and the backslash are kept, so that decoding is idempotent.

    >>> decode_escapes(r"it\u2019s good\u002c really \ud83d\ude00, \u0041")
    'it’s good, really 😀, \\u0041'
    """
    return _ESCAPES.sub(
        lambda found: bytes.fromhex(found[0].replace("\\u", "")).decode("utf-16-be", "replace"), text
    )


def split_negations(text: str) -> str:
    """Split off ``n't``, as the Penn Treebank and the corpora of pretrained word vectors do.

    So *don't*, *didn't* and *doesn't* share a negation token.

    >>> split_negations("I can't, he DIDN'T!").split()
    ['I', 'ca', "n't", ',', 'he', 'DID', "N'T", '!']
    """
    return _NEGATION.sub(r" \g<0> ", text)


def split_piece(piece: str, *, negation: bool = False) -> list[str]:
    """Split a piece of text without white space into tokens.

    Args:
        piece: clean.
        negation: split off ``n't``.

    >>> split_piece("good!?..."), split_piece("don't!", negation=True)
    (['good', '!?', '...'], ['do', "n't", '!'])
    """
    if piece.isascii() and 0 < len(piece) <= MAX_TOKEN_LENGTH:  # fast path for most English
        if piece.isalpha():
            return [piece]
        if piece[-1] in _MARKS_AFTER_WORDS and len(piece) > 3 and piece[:-1].isalpha():
            return [piece[:-1], piece[-1]]
    return [normal_form(found) for found in TOKEN.findall(split_negations(piece) if negation else piece)]


def normal_form(found: str) -> str:
    """Return the token for a match of the pattern."""
    if found[0] in "!?.":
        return found[:3]
    if found[0] == "@" and len(found) > 1:
        return "<user>"
    return "<url>" if found.startswith(_LINK) else found[:MAX_TOKEN_LENGTH]


def number_unknown(rows: Sequence[Sequence[int | str]], known: int) -> tuple[list[list[int]], list[str]]:
    """Number a batch's unknown tokens V, V + 1, ...; also return these tokens in order.

    Args:
        rows: of an `Encoder`.
        known: number of known tokens V.

    >>> number_unknown([[2, "x"], ["yy", "x"]], 5)
    ([[2, 5], [6, 5]], ['x', 'yy'])
    """
    unknown: dict[str, int] = {}
    numbered = [
        [i if isinstance(i, int) else known + unknown.setdefault(i, len(unknown)) for i in row]
        for row in rows
    ]
    return numbered, list(unknown)


def bounded(tokens: Iterable[str]) -> list[str]:
    """Return tokens in lower case between marks of start and end; of placeholders, such as <url>, nothing.

    >>> bounded(["So", "<url>"])
    ['\\x02so\\x03', '']
    """
    return [
        "" if token[:1] == "<" and _STAND_IN.fullmatch(token) else f"\x02{token.lower()}\x03"
        for token in tokens
    ]


def spell(tokens: Sequence[str], buckets: int) -> npt.NDArray[np.int32]:
    """Return the hash buckets of each token's character n-grams: (tokens, K), padded with 0.

    N-grams have 2 to 4 characters, including markers for start and end of the token; case is ignored.

    Args:
        tokens: any strings.
        buckets: number of buckets, at least 2; bucket 0 is padding.

    >>> spell(["so", "<url>"], 1000)[:, :6]
    array([[116, 324, 394, 597, 604, 773],
           [  0,   0,   0,   0,   0,   0]], dtype=int32)
    """
    spelt = bounded(tokens)
    table = np.full((len(spelt), MOST_PLACES), NOTHING, np.int32)
    if not any(spelt):
        return table
    padding = "\0" * (LONGEST - 1)
    codes = np.frombuffer(("".join(spelt) + padding).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.array([len(token) for token in spelt])
    end_N = np.repeat(np.cumsum(lengths), lengths)
    left_N = end_N - np.arange(len(end_N))  # characters from here to the token's end
    first_N = np.repeat(np.arange(len(spelt)) * buckets + 1, lengths)  # so that sorting keeps tokens apart
    hashed_N = np.zeros(len(end_N), np.uint32)
    found = []
    for size in range(1, LONGEST + 1):  # rolling hash: of the n-gram one shorter, and a character
        hashed_N = _mixed(hashed_N ^ codes[size - 1 : size - 1 + len(end_N)])
        if size >= SHORTEST:
            found.append((first_N + hashed_N % np.uint32(buckets - 1))[left_N >= size])
    pairs = np.sort(np.concatenate(found))
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # a token's distinct buckets, ascending
    owners = pairs // buckets
    rank = np.arange(len(pairs)) - np.searchsorted(owners, owners)
    kept = rank < MOST_PLACES
    table[owners[kept], rank[kept]] = (pairs - owners * buckets)[kept]
    return table


def _mixed(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """MurmurHash3's 32-bit finaliser, with a constant added so that 0 does not map to 0."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return (values ^ (values >> np.uint32(16))) + np.uint32(0x9E3779B1)
