"""Tokenization and vocabulary."""

from __future__ import annotations

import itertools
import string
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.text import tokenizers as text_module
from lstm_sentiment.text.tokenization import MAX_TOKEN_LENGTH, UNKNOWN, clean, split_piece, words
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer, Vocabulary

quick = settings(max_examples=50, deadline=None)
# Any character at all, half surrogates too, and more than their share of those that matter here.
TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(), max_size=30),
        st.text("aZé '’-.,!?:;()<>&#@/\\|3DoOx_ \n\t\x0b\x1c\x85\xa0\u200d\u2028\u3000😀🇩中", max_size=30),
    ),
    max_size=8,
)


def decoded(lexicon: Lexicon, numbers_N: np.ndarray, lengths_R: np.ndarray) -> list[list[str]]:
    """Return the tokens of a lexicon's ids, text by text."""
    known = lexicon.tokens
    tokens = [known[i] for i in numbers_N]
    ends = np.cumsum(lengths_R).tolist()
    assert len(tokens) == (ends[-1] if ends else 0)
    return [tokens[end - length : end] for end, length in zip(ends, lengths_R.tolist(), strict=True)]


# --- what is kept ---


@pytest.mark.parametrize(
    "token",
    [
        *("😀", "👍🏽", "❤️", "👨‍👩‍👧", "🇩🇪", "🏳️‍🌈", "♥"),
        *(":-)", ":)", ":(", ";D", "=(", ":'(", ":/", ":|", "8)", "xD", "XD", ":P", "D:", "(-:"),
        *("<3", "</3", "^_^", "-_-", "o.O", ">:("),
        *("can't", "I'm", "don't", "rock'n'roll", "so-so", "'s"),
        *("#happy", "#2020", "#grün"),
        *("!", "?", "!!", "?!", "...", "…"),
        *("3.5", "1,000.50", "10:30", "007", "NA"),
        *("naïve", "Straße", "привет", "한국어"),
    ],
)
def test_meaningful_units_are_one_token(token: str) -> None:
    assert words(token) == [token]
    assert words(f"so {token} end") == ["so", token, "end"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("good:)", ["good", ":)"]),
        ("good!", ["good", "!"]),
        ("good!!!!!!", ["good", "!!!"]),
        ("what?!?!?", ["what", "?!?"]),
        ("hm.....", ["hm", "..."]),
        ("so…good", ["so", "…", "good"]),
        ("x😀y", ["x", "😀", "y"]),
        ("😀😀", ["😀", "😀"]),
        ("🇩🇪🇫🇷", ["🇩🇪", "🇫🇷"]),
        ("(great)", ["(", "great", ")"]),
        ("so-called", ["so-called"]),
        ("a--b", ["a", "-", "-", "b"]),
        ("it’s", ["it's"]),
        ("Fish&amp;chips &lt;3 &#33;", ["Fish", "&", "chips", "<3", "!"]),
        ("good&nbsp;film", ["good", "film"]),
        ("one<br />two<br/>three<br>four", ["one", "two", "three", "four"]),
        ("http://a.b/c?d=e. www.x.org https://😀", ["<url>", "<url>", "<url>"]),
        ("@bob_1: hi", ["<user>", ":", "hi"]),
        ("100%", ["100", "%"]),
        ("", []),
        (" \t\n\u3000", []),
    ],
)
def test_a_text_is_split_as_a_reader_would(text: str, tokens: list[str]) -> None:
    assert words(text) == tokens


def test_uppercase_line_break_tags_are_replaced() -> None:
    assert words("one<BR />two<Br>three") == ["one", "two", "three"]


def test_scripts_without_spaces_give_a_token_a_character() -> None:
    assert words("中文很好") == list("中文很好")
    assert words("カタカナー") == list("カタカナー")
    assert words("ab中cd") == ["ab", "中", "cd"]
    assert words("很好!😀") == ["很", "好", "!", "😀"]


@pytest.mark.parametrize(
    "word",
    [
        "cafe\u0301",  # an accent beside its letter
        "x\u0323\u0307y",  # two that compose with nothing
        "العَرَبِيَّة",
        "שָׁלוֹם",
        "हिन्दी",
        "क्षत्रिय",
        "বাংলা",
        "ਪੰਜਾਬੀ",
        "ગુજરાતી",
        "தமிழ்",
        "తెలుగు",
        "ಕನ್ನಡ",
        "മലയാളം",
        "ni\u200dce",
    ],
)
def test_combining_marks_stay_in_their_word(word: str) -> None:
    assert words(word) == [clean(word)]
    assert words(f"{word}!") == [clean(word), "!"]


def test_unicode_normal_forms_give_equal_tokens() -> None:
    assert words("cafe\u0301 Å") == words("caf\u00e9 \u00c5")


def test_an_unpaired_surrogate_is_replaced() -> None:
    assert words("a\ud800b \udfff") == ["a", "\ufffd", "b", "\ufffd"]
    for name in ("words", "basic_english"):
        assert Tokenizer(name, lowercase=True)("good \ud83d film")[0] == "good"


@pytest.mark.parametrize(
    "letter", ["a", "é", "-a", "中", "!", ".", "😀", "#", "http://", "1,1", "'", "\u0301"]
)
def test_no_token_is_longer_than_the_limit(letter: str) -> None:
    tokens = words(letter * 1000)
    assert tokens
    assert max(map(len, tokens)) <= MAX_TOKEN_LENGTH


@pytest.mark.parametrize("length", [MAX_TOKEN_LENGTH, MAX_TOKEN_LENGTH + 1])
@pytest.mark.parametrize("end", ["", "!", "."])
def test_a_long_word_is_truncated_equally_with_and_without_accents(length: int, end: str) -> None:
    plain = words("e" * length + end)
    assert plain == [token.replace("é", "e") for token in words("é" * length + end)]
    assert plain[0] == "e" * MAX_TOKEN_LENGTH


@given(st.text(st.characters(), max_size=80))
@example("\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000a")
@quick
def test_tokens_have_no_white_space_and_can_be_encoded(text: str) -> None:
    for token in words(text):
        assert token
        assert token.split() == [token]
        assert len(token) <= MAX_TOKEN_LENGTH
        assert token.encode("utf-8")


@given(st.text(st.characters(), max_size=40), st.text(st.characters(), max_size=40))
@quick
def test_a_text_after_a_space_is_split_as_it_is_alone(first: str, second: str) -> None:
    assert split_all(f"{first} {second}") == split_all(first) + split_all(second)


def split_all(text: str) -> list[str]:
    """Return the tokens of a cleaned text."""
    return [token for piece in text.split() for token in split_piece(piece)]


@given(st.text(string.ascii_letters + ".,;?!\") '", min_size=1, max_size=8))
@quick
def test_the_fast_path_for_plain_words_equals_the_general_one(piece: str) -> None:
    """The same pieces in accented letters, which use the general pattern, are split at the same positions."""
    if (
        " " not in piece
        and "o" not in piece.lower()
        and "x" not in piece.lower()
        and "d" not in piece.lower()
    ):
        accented = piece.replace("e", "é").replace("a", "ä")
        assert [len(token) for token in split_piece(piece)] == [len(t) for t in split_piece(accented)]


# --- tokenizers ---


def test_case_is_folded_only_on_request() -> None:
    assert Tokenizer("words", lowercase=True)("SO Good ÉTÉ") == ["so", "good", "été"]
    assert Tokenizer("words", lowercase=False)("SO Good ÉTÉ") == ["SO", "Good", "ÉTÉ"]
    assert Tokenizer("basic_english", lowercase=False)("SO Good!") == ["so", "good", "!"]


@pytest.mark.parametrize("name", ["word", "", "Words", "basic english", "os.system", "spacy-nothing"])
def test_an_unknown_tokenizer_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^text\.tokenizer: ") as caught:
        Tokenizer(name, lowercase=True)
    assert f"'{name}'" in str(caught.value)


@pytest.mark.parametrize(("name", "package"), [("spacy", "spacy"), ("moses", "sacremoses")])
def test_a_tokenizer_that_is_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"^text\.tokenizer: ") as caught:
        Tokenizer(name, lowercase=True)
    assert f"'{name}'" in str(caught.value)


# --- lexicon ---


@given(TEXTS, st.sampled_from(["words", "basic_english"]), st.booleans())
@example(["", " ", "\ud800", "a\x85b\x1cc\xa0d\u2028e\u200bf"], "words", False)
@example([], "words", True)
@example(["İstanbul ẞ ǅ"], "words", True)
@quick
def test_many_texts_at_once_equal_one_by_one(texts: list[str], name: str, lowercase: bool) -> None:
    tokenizer = Tokenizer(name, lowercase=lowercase)
    lexicon = Lexicon(tokenizer)
    numbers_N, lengths_R = lexicon.encode(texts)
    assert (numbers_N.dtype, lengths_R.dtype) == (np.int32, np.int64)
    assert decoded(lexicon, numbers_N, lengths_R) == [tokenizer(text) for text in texts]


@pytest.mark.parametrize("lowercase", [False, True])
def test_both_paths_split_every_character_alike(lowercase: bool) -> None:
    """Definitions of white space differ; beyond the first alphabets a hundredth of characters is sampled."""
    tokenizer = Tokenizer("words", lowercase=lowercase)
    points = [*range(0x3100), *range(0x3100, 0x110000, 97)]
    texts = [f"a{chr(c)}b {chr(c)} x{chr(c)}" for c in points]
    lexicon = Lexicon(tokenizer)
    for start in range(0, len(texts), 20_000):
        part = texts[start : start + 20_000]
        assert decoded(lexicon, *lexicon.encode(part)) == [tokenizer(text) for text in part]


@given(TEXTS, st.lists(st.integers(0, 8), max_size=6), st.sampled_from(["words", "basic_english"]))
@quick
def test_several_batches_equal_one(texts: list[str], cuts: list[int], name: str) -> None:
    tokenizer = Tokenizer(name, lowercase=True)
    edges = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    batches = [texts[a:b] for a, b in itertools.pairwise(edges)]
    whole, parts = Lexicon(tokenizer), Lexicon(tokenizer)
    numbers_N, lengths_R = whole.encode(texts)
    encoded = list(parts.encode_all(batches))
    assert [len(lengths) for _, lengths in encoded] == [len(batch) for batch in batches]
    assert np.concatenate([numbers for numbers, _ in encoded]).tolist() == numbers_N.tolist()
    assert np.concatenate([lengths for _, lengths in encoded]).tolist() == lengths_R.tolist()
    assert parts.tokens == whole.tokens


def test_ids_follow_the_order_of_appearance() -> None:
    lexicon = Lexicon(Tokenizer("words", lowercase=True))
    first, _ = lexicon.encode(["b a b", "c"])
    second, _ = lexicon.encode(["d a"])
    assert (first.tolist(), second.tolist()) == ([0, 1, 0, 2], [3, 1])
    assert lexicon.tokens == ["b", "a", "c", "d"]


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_evicting_cached_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    texts = ["good, bad, good", "bad! worse :)", "good good! so-so", ""] * 3
    tokenizer = Tokenizer("words", lowercase=True)
    remembering = Lexicon(tokenizer)
    expected = [decoded(remembering, *remembering.encode(texts)), remembering.tokens]
    monkeypatch.setattr(text_module, "MEMO_LIMIT", limit)
    forgetful = Lexicon(tokenizer)
    found = []
    for encoded in forgetful.encode_all([text] for text in texts):
        found += decoded(forgetful, *encoded)
        assert len(forgetful._pieces) <= limit + 3  # those of the last text are remembered as well
    assert [found, forgetful.tokens] == expected


def test_batches_are_read_lazily() -> None:
    """The first batch does not need the whole source."""
    taken = []

    def batches() -> Iterator[list[str]]:
        for i in range(100):
            taken.append(i)
            yield [f"text {i}"]

    next(Lexicon(Tokenizer("words", lowercase=True)).encode_all(batches()))
    assert len(taken) < 10


# --- vocabulary ---


def test_token_ids_follow_the_special_tokens() -> None:
    vocabulary = Vocabulary(["the", "good"])
    assert len(vocabulary) == 4
    assert vocabulary.tokens == ["<pad>", "<unk>", "the", "good"]
    assert vocabulary.encode(["good", "the", "quokka", "Good"]) == [3, 2, UNKNOWN, UNKNOWN]
    assert vocabulary.encode([]) == []
    assert Vocabulary([]).encode(["x"]) == [UNKNOWN]


@given(st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=20))
@quick
def test_every_known_token_has_its_own_id(tokens: list[str]) -> None:
    known = [token for token in tokens if token not in ("<pad>", "<unk>")]
    assert Vocabulary(known).encode(known) == list(range(2, len(known) + 2))
