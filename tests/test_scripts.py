"""Tokenization of every script: combining marks and invisible characters."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from lstm_sentiment.text.tokenization import fold_case, prepare, words
from lstm_sentiment.text.tokenizers import Tokenizer

KEYCAPS = ["top", "1\ufe0f\u20e3", "#\ufe0f\u20e3", "*\u20e3"]
ALONE = ["\u0e00\u0eff", "\u1000\u109f", "\u1780\u17ff", "\u3040\u30ff"]  # scripts without spaces
SENTENCES = [
    ("Sinhala", "මෙම චිත්‍රපටය ඉතා හොඳයි"),
    ("Thaana", "މި ފިލްމު ވަރަށް ރަނގަޅު"),
    ("Syriac", "ܗܳܢܳܐ ܣܶܪܛܳܐ ܫܰܦܺܝܪ"),
    ("N'Ko", "ߞߊ߲߫ ߢߌ߬ߡߊ߬ ߟߋ߬"),
    ("Meitei", "ꯑꯁꯤ ꯐꯤꯜꯝ ꯑꯁꯤ ꯌꯥꯝꯅꯥ ꯐꯖꯩ"),
    ("Hindi", "यह फ़िल्म बहुत अच्छी है"),
    ("Tamil", "இந்த படம் மிகவும் நன்று"),
    ("Bengali", "এই সিনেমাটি খুব ভালো"),
    ("Arabic", "هٰذَا فِيلْمٌ جَمِيلٌ"),
    ("Hebrew", "הַסֶּרֶט הַזֶּה טוֹב"),
    ("Mongolian", "ᠡᠨᠡ ᠺᠢᠨᠣ ᠰᠠᠢᠨ"),
    ("Yoruba", "fíìmù yìí dára gan\u0301"),
]


@pytest.mark.parametrize(("script", "sentence"), SENTENCES)
def test_a_sentence_has_as_many_tokens_as_words(script: str, sentence: str) -> None:
    assert len(words(sentence)) == len(sentence.split()), script


@pytest.mark.parametrize(
    ("script", "sentence", "tokens"),
    [
        ("Tibetan", "བཀྲ་ཤིས།", ["བཀྲ", "་", "ཤིས", "།"]),
        ("Javanese", "ꦲꦥꦏ꧀", ["ꦲꦥꦏ꧀"]),
        (
            "keycaps",
            "top 1\ufe0f\u20e3 #\ufe0f\u20e3 *\u20e3",
            ["top", "1\ufe0f\u20e3", "#\ufe0f\u20e3", "*\u20e3"],
        ),
        ("emoji as text", "good☺\ufe0ebad", ["good", "☺\ufe0e", "bad"]),
        ("emoji", "good❤\ufe0fbad 👍🏽", ["good", "❤\ufe0f", "bad", "👍🏽"]),
        ("soft hyphen", "won\u00adder\u00adful", ["wonderful"]),
        ("zero-width space", "won\u200bderful", ["wonderful"]),
        ("word joiner", "won\u2060derful", ["wonderful"]),
        ("directions", "\u200fטוב\u200e \u202atext\u202c \u2067a\u2069", ["טוב", "text", "a"]),
        ("Thai", "ดีมาก", list("ดีมาก")),
    ],
)
def test_punctuation_and_emoji_are_tokens(script: str, sentence: str, tokens: list[str]) -> None:
    assert words(sentence) == tokens, script


def test_every_mark_of_unicode_belongs_to_the_letter_before_it() -> None:
    """In scripts without spaces each character stays a token."""
    wrong = []
    for code in range(sys.maxunicode + 1):
        sign = chr(code)
        if unicodedata.category(sign)[0] != "M":
            continue
        alone = any(first <= sign <= last for first, last in ALONE)
        if not alone and len(words(f"б{sign}б")) != 1:
            wrong.append(hex(code))
    assert wrong == []


def test_case_folding_adds_no_characters() -> None:
    marks = [c for c in map(chr, range(sys.maxunicode + 1)) if len(fold_case(c)) != 1]
    assert marks == []
    assert [c for c in map(chr, range(sys.maxunicode + 1)) if len(c.lower()) != 1] == ["\u0130"]  # the fault


@pytest.mark.parametrize(
    ("capitals", "small"),
    [
        ("İYİ BİR FİLM", "iyi bir film"),  # Turkish
        ("I\u0307Yİ", "iyi"),
        ("ΚΑΛΟΣ ΟΔΟΣ", "καλος οδος"),
        ("GROẞE STRAẞE", "große straße"),
        ("ĲS ǅ Ǉ", "ĳs ǆ ǉ"),  # Dutch, Croatian
        ("ХОРОШИЙ ФИЛЬМ", "хороший фильм"),
        ("ԼԱՎ ՖԻԼՄ", "լավ ֆիլմ"),  # Armenian
        ("ᲙᲐᲠᲒᲘ", "კარგი"),  # Georgian
        ("ꭰ Ꭰ", "ꭰ ꭰ"),  # Cherokee
        ("ÀÉÎÕÜ Ñ Ç Å Ø Æ Œ Ł Ž Ő Ș Ṽ", "àéîõü ñ ç å ø æ œ ł ž ő ș ṽ"),
    ],
)
def test_capitalized_words_are_the_same_tokens(capitals: str, small: str) -> None:
    tokenizer = Tokenizer("words", lowercase=True)
    final = str.maketrans("ς", "σ")
    assert [t.translate(final) for t in tokenizer(capitals)] == [t.translate(final) for t in tokenizer(small)]
    assert prepare(small, lowercase=True, escapes=False) == unicodedata.normalize("NFC", small)
