"""From text to what a model reads, without the model: tokens, ids, and how unknown tokens are spelt.

Everything here needs the standard library and numpy alone, and no other module of this package: it is
also a part of the one file that answers texts without PyTorch (see `export`).

Legend: B texts of a batch, T padded length, X unknown tokens of a batch, K places per spelt token.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PAD, UNKNOWN = 0, 1
SPECIAL_TOKENS = ("<pad>", "<unk>")
MAX_TOKEN_LENGTH = 64  # characters; a longer run of letters is no word and would only fill the vocabulary
LONGEST_PIECE = 10_000  # characters without white space; what follows is another piece
SHORTEST, LONGEST = 2, 4  # characters of an n-gram
MOST_PLACES = 32  # n-grams of one token; a longer token keeps some of them
NOTHING = 0  # the place that no n-gram has

# Scripts that put no spaces between words: each character is a token.
_NO_SPACES = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)


def _marks() -> str:
    """Return vowel signs and accents that stand apart from their letter, and the joiners."""
    blocks = ((0x300, 0x3100), (0xA600, 0xAC00), (0xFB00, 0xFE30), (0x10000, 0x20000), (0xE0100, 0xE01F0))
    found = [chr(c) for of in blocks for c in range(*of) if unicodedata.category(chr(c))[0] == "M"]
    return "".join([*found, "\u200c", "\u200d"])


_SIGN = rf"(?![{_NO_SPACES}])[\w{_marks()}]"  # of a word
_WORD = rf"(?:[A-Za-z0-9_]+|{_SIGN})+"
_ONLY_WORDS = (
    "abce-gi-np-vyzABCE-NP-SU-WYZ"  # nothing but a word begins with one: most tokens, so the first try
)
_EMOJI = "\u2600-\u27bf\u2190-\u21ff\u2b00-\u2bff\u3030\u303d\U0001f000-\U0001faff"
_STYLE = "[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]"  # of an emoji: as text, as a picture, its skin
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # half a character: no encoding can write it
TOKEN = re.compile(
    rf"""
    [{_ONLY_WORDS}][A-Za-z0-9_]*(?:{_SIGN})*(?:['’`-]{_WORD})*
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
  | '{_WORD}                                             # 's 'm, when it stands apart
  | [!?]+ | \.{{2,}}
  | \S
    """,
    re.VERBOSE,
)
# Soft hyphens, zero-width spaces, directions: they are not seen, and would split a word. Joiners stay.
_UNSEEN = re.compile("[\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f]")
_LINK = ("http://", "https://", "www.")
_STAND_IN = re.compile(r"<[a-z]+>")  # <url>, <user>, <pad>: no word, and not spelt
_LEADING_ZEROS = re.compile("&#0+(?=[0-9])")  # of a character reference; html.unescape reads &#065; as A
_NO_CHARACTER = re.compile("&#[0-9]{8,};?")  # beyond Unicode; from 4,301 digits on int() raises an error
MOST_MARKS = 30  # combining marks in a row; Unicode's Stream-Safe Text Format (UAX #15) allows as many
_MANY_MARKS = re.compile(rf"[^\w\s\x00-\x7f]{{{MOST_MARKS + 1},}}")  # may be marks; no letter is in it
_LONG_PIECE = re.compile(rf"(?<!\S)\S{{{LONGEST_PIECE + 1},}}")
_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_MARKS_AFTER_WORDS = frozenset('.,;?!")')
# ASCII letters and digits are not escaped by any program, and a decoded backslash would make new escapes.
_ESCAPES = re.compile(r"(?:\\u(?!00(?:3\d|[46][1-9a-fA-F]|[57][\daA]|5[cC]))[\da-fA-F]{4})+", re.ASCII)
_NEGATION = re.compile(r"(?<=\w)(?<!n't)n't(?!\w)", re.IGNORECASE)


def words(text: str) -> list[str]:
    """Split a text into tokens and lose nothing that carries sentiment.

    Words keep their apostrophes and hyphens; emoji, emoticons, hashtags, ``!`` and ``?`` are tokens
    (a run of them counts as at most three); a URL becomes ``<url>``, a mention ``<user>``; line
    breaks in HTML and character entities are undone. Every token stands within one
    whitespace-separated piece of the text.

    >>> words("I can't believe it :-) SO good!!!!! #happy 😀")
    ['I', "can't", 'believe', 'it', ':-)', 'SO', 'good', '!!!', '#happy', '😀']
    >>> words("Fish &amp; chips<br />so-so, @bob http://t.co/x 7.5/10")
    ['Fish', '&', 'chips', 'so-so', ',', '<user>', '<url>', '7.5', '/', '10']
    >>> words("   ")
    []
    """
    return [token for piece in clean(text).split() for token in split_piece(piece)]


def clean(text: str) -> str:
    """Undo HTML line breaks and entities, straighten apostrophes, compose accents (Unicode NFC).

    What is not seen, such as a soft hyphen, is removed.

    Never raises, and takes time and memory linear in the length: a reference to a number beyond Unicode
    becomes U+FFFD, of a run of combining marks 30 are kept, and a space goes behind 10,000 characters
    without one.

    >>> clean("It’s &quot;good&quot;<br />")
    'It\\'s "good" '
    """
    if len(text) > LONGEST_PIECE:
        text = _LONG_PIECE.sub(_cut_piece, text)
    if "<" in text:
        text = _LINE_BREAK.sub(" ", text)
    if "&" in text:
        text = html.unescape(_NO_CHARACTER.sub("\ufffd", _LEADING_ZEROS.sub("&#", text)))
    if not text.isascii():
        text = _UNSEEN.sub("", text)
        text = _MANY_MARKS.sub(_limit_marks, text)
        text = HALF_CHARACTER.sub("\ufffd", unicodedata.normalize("NFC", text).replace("’", "'"))
    return text


def _cut_piece(found: re.Match[str]) -> str:
    """Set a space after each 10,000 characters: a word without end would take 150 bytes for each of them."""
    piece = found[0]
    return " ".join(piece[i : i + LONGEST_PIECE] for i in range(0, len(piece), LONGEST_PIECE))


def _limit_marks(found: re.Match[str]) -> str:
    """Drop combining marks after the 30th in a row: sorting them for NFC takes quadratic time."""
    kept, marks = [], 0
    for character in found[0]:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= MOST_MARKS:
            kept.append(character)
    return "".join(kept)


def prepare(text: str, *, lowercase: bool, escapes: bool) -> str:
    """Return a text that is ready to be cut at white space: escapes decoded, case folded, clean.

    >>> prepare("It\\\\u2019s GOOD&#33;", lowercase=True, escapes=True)
    "it's good!"
    """
    if escapes and "\\u" in text:
        text = decode_escapes(text)
    return clean(fold_case(text) if lowercase else text)


def fold_case(text: str) -> str:
    """Return text in small letters, without new characters.

    The Turkish capital of i has its dot on it, and Python's small letter of that is an i with another dot.

    >>> fold_case("İYİ ΟΔΟΣ"), len("İ".lower())
    ('iyi οδος', 2)
    """
    if not text.isascii():
        text = text.replace("I\u0307", "i").replace("\u0130", "i")
    return text.lower()


def decode_escapes(text: str) -> str:
    r"""Decode what a program left undecoded: ``\u`` and four hexadecimal digits, in UTF-16.

    ASCII letters, digits and the backslash stay as they are, so that twice is the same as once.

    >>> decode_escapes(r"it\u2019s good\u002c really \ud83d\ude00, \u0041")
    'it’s good, really 😀, \\u0041'
    """
    return _ESCAPES.sub(
        lambda found: bytes.fromhex(found[0].replace("\\u", "")).decode("utf-16-be", "replace"), text
    )


def split_negations(text: str) -> str:
    """Set ``n't`` apart, as the Penn Treebank does and the corpora that word vectors are made of.

    So that *don't* and *didn't* share what they say, with *doesn't*, which stands nowhere else.

    >>> split_negations("I can't, he DIDN'T!").split()
    ['I', 'ca', "n't", ',', 'he', 'DID', "N'T", '!']
    """
    return _NEGATION.sub(r" \g<0> ", text)


def split_piece(piece: str, *, negation: bool = False) -> list[str]:
    """Split a piece of text without white space into tokens.

    Args:
        piece: clean.
        negation: set ``n't`` apart.

    >>> split_piece("good!?..."), split_piece("don't!", negation=True)
    (['good', '!?', '...'], ['do', "n't", '!'])
    """
    if piece.isascii() and 0 < len(piece) <= MAX_TOKEN_LENGTH:  # most English, at a quarter of the cost
        if piece.isalpha():
            return [piece]
        if piece[-1] in _MARKS_AFTER_WORDS and len(piece) > 3 and piece[:-1].isalpha():
            return [piece[:-1], piece[-1]]
    return [normal_form(found) for found in TOKEN.findall(split_negations(piece) if negation else piece)]


def normal_form(found: str) -> str:
    """Return the token that a find of the pattern stands for."""
    if found[0] in "!?.":
        return found[:3]
    if found[0] == "@" and len(found) > 1:
        return "<user>"
    return "<url>" if found.startswith(_LINK) else found[:MAX_TOKEN_LENGTH]


def number_unknown(
    rows: Sequence[Sequence[int | str]], known: int, subwords: int
) -> tuple[list[list[int]], npt.NDArray[np.int32]]:
    """Replace a batch's unknown tokens by V, V + 1, ...; return how each is spelt too (see `spell`).

    Args:
        rows: of an `Encoder`.
        known: number of known tokens V.
        subwords: buckets of the model's n-gram vectors.

    >>> rows, spelling_XK = number_unknown([[2, "x"], ["yy", "x"]], 5, 50)
    >>> rows, len(spelling_XK)
    ([[2, 5], [6, 5]], 2)
    """
    unknown: dict[str, int] = {}
    numbered = [
        [i if isinstance(i, int) else known + unknown.setdefault(i, len(unknown)) for i in row]
        for row in rows
    ]
    return numbered, spell(list(unknown), subwords)


def spell(tokens: Sequence[str], buckets: int) -> npt.NDArray[np.int32]:
    """Return where the n-grams of each token stand in a table: (tokens, K) with 0 for none.

    N-grams have 2 to 4 characters; the token's start and end count as characters; case does not.

    Args:
        tokens: any strings.
        buckets: size of the table, at least 2; place 0 is kept for nothing.

    >>> spell(["so", "<url>"], 1000)[:, :6]
    array([[116, 324, 394, 597, 604, 773],
           [  0,   0,   0,   0,   0,   0]], dtype=int32)
    """
    spelt = ["" if _STAND_IN.fullmatch(token) else f"\x02{token.lower()}\x03" for token in tokens]
    table = np.full((len(spelt), MOST_PLACES), NOTHING, np.int32)
    if not any(spelt):
        return table
    padding = "\0" * (LONGEST - 1)
    codes = np.frombuffer(("".join(spelt) + padding).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.array([len(token) for token in spelt])
    end_N = np.repeat(np.cumsum(lengths), lengths)
    left_N = end_N - np.arange(len(end_N))  # characters from here to the token's end
    first_N = np.repeat(np.arange(len(spelt)) * buckets + 1, lengths)  # so that tokens sort apart
    hashed_N = np.zeros(len(end_N), np.uint32)
    found = []
    for size in range(1, LONGEST + 1):  # the hash of an n-gram is that of one less, and a character
        hashed_N = _mixed(hashed_N ^ codes[size - 1 : size - 1 + len(end_N)])
        if size >= SHORTEST:
            found.append((first_N + hashed_N % np.uint32(buckets - 1))[left_N >= size])
    pairs = np.sort(np.concatenate(found))
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # a token's places, each once, in ascending order
    owners = pairs // buckets
    rank = np.arange(len(pairs)) - np.searchsorted(owners, owners)
    kept = rank < MOST_PLACES
    table[owners[kept], rank[kept]] = (pairs - owners * buckets)[kept]
    return table


def _mixed(values: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """MurmurHash3's 32-bit finaliser, and a constant so that no number stays what it is."""
    values = (values ^ (values >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    values = (values ^ (values >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return (values ^ (values >> np.uint32(16))) + np.uint32(0x9E3779B1)
