r"""`text.normalize`: literal ``\u2019`` decoded, ``n't`` a separate token, equal on every path."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.config.sections import TextConfig
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.data.token_store import Columns, tokenize_source
from lstm_sentiment.deployment.exporter import export, load_runtime
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.text.encoder import Encoder
from lstm_sentiment.text.tokenization import UNKNOWN, decode_escapes, split_negations, split_piece, words
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer

quick = settings(max_examples=100, deadline=None)
SETTINGS = ["none", "escapes", "negation", "escapes+negation"]
# Any character, including unpaired surrogates, with a bias towards rewritten ones.
TEXTS = st.lists(
    st.one_of(
        st.text(st.characters(), max_size=20),
        st.sampled_from(
            ["don't", "CAN'T", "isn’t", "n't", "'t", "n't-", "aint", " ", "\n", "!", "o'n't", "xn'tx", "9n't"]
        ),
        st.sampled_from(
            [
                r"\u2019",
                r"\u002c",
                r"\U2019",
                r"\u005c",
                r"\u0041",
                r"\u0020",
                r"\u000a",
                r"\u201",
                r"n\u2019t",
            ]
        ),
        st.sampled_from(
            [r"\ud83d", r"\ude00", r"\ud83d\ude00", "\\", "u2019", r"\u2028", r"\u00c9", r"\u0026#33;"]
        ),
    ),
    max_size=8,
).map("".join)


# --- escapes ---


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='\\"'), max_size=60))
@quick
def test_decoding_undoes_what_json_writes(text: str) -> None:
    assert decode_escapes(json.dumps(text)[1:-1]) == text


@given(TEXTS)
@example(r"\u005cu2019")
@example(r"\\u00752019")
@example(r"\ud83d\u0041\ude00")
@quick
def test_decoding_twice_is_decoding_once(text: str) -> None:
    once = decode_escapes(text)
    assert decode_escapes(once) == once
    if "\\u" not in text:
        assert once == text


@pytest.mark.parametrize("code", [*range(0x80), 0xD7FF, 0xE000, 0xFEFF, 0xFFFD, 0xFFFF])
def test_only_ascii_letters_digits_and_backslashes_stay_escaped(code: int) -> None:
    escaped = f"\\u{code:04x}"
    stays = code < 0x80 and (chr(code).isalnum() or chr(code) == "\\")
    for written in (escaped, f"\\u{code:04X}"):
        assert decode_escapes(f"a{written}b") == (f"a{written}b" if stays else f"a{chr(code)}b")


def test_an_unpaired_surrogate_escape_is_replaced() -> None:
    assert decode_escapes(r"a\ud83db") == "a\ufffdb"
    assert decode_escapes(r"a\ude00\ud83db") == "a\ufffd\ufffdb"
    assert decode_escapes(r"\ud83d\ude00") == "😀"


def test_an_escape_equals_its_character() -> None:
    """Case folding, entities and white space apply after decoding."""
    tokenizer = Tokenizer("words", lowercase=True, normalize="escapes+negation")
    assert tokenizer(r"\u00c9T\u00c9 can\u2019t\u2003\u0026amp; so\u002c 1\u002c000") == [
        *("été", "ca", "n't", "&", "so", ",", "1,000")
    ]


# --- negation ---


@given(TEXTS)
@example("0N'TN'T")
@quick
def test_splitting_negations_adds_spaces_and_nothing_else(text: str) -> None:
    once = split_negations(text)
    assert "".join(once.split()) == "".join(text.split())
    assert split_negations(once).split() == once.split()


@pytest.mark.parametrize(
    ("piece", "tokens"),
    [
        ("don't", ["do", "n't"]),
        ("DIDN'T!", ["DID", "N'T", "!"]),
        ("can't-do", ["ca", "n't", "-", "do"]),
        ("n't", ["n't"]),
        ("isn'tit", ["isn'tit"]),
        ("rock'n'roll", ["rock'n'roll"]),
        ("it's", ["it's"]),
        ("не-n't", ["не-n't"]),
        ("#don't", ["#do", "n't"]),
    ],
)
def test_a_negation_is_a_token_of_its_own(piece: str, tokens: list[str]) -> None:
    assert split_piece(piece, negation=True) == tokens


def test_without_normalization_tokens_are_unchanged() -> None:
    text = r"I don't, can't\u2019 and \u002c isn’t"
    expected = ["I", "don't", ",", "can't", "\\", "u2019", "and", "\\", "u002c", "isn't"]
    assert words(text) == Tokenizer("words", lowercase=False)(text) == expected


# --- all paths ---


@given(TEXTS, st.sampled_from(SETTINGS), st.booleans(), st.booleans())
@quick
def test_every_path_gives_the_same_tokens(text: str, normalize: str, lowercase: bool, spells: bool) -> None:
    """One text, many texts, encoders of prediction and of the exported runtime, with and without cache."""
    tokenizer = Tokenizer("words", lowercase=lowercase, normalize=normalize)
    expected = tokenizer(text)
    lexicon = Lexicon(tokenizer)
    numbers_N, lengths_R = lexicon.encode([text, "", text])
    assert lengths_R.tolist() == [len(expected), 0, len(expected)]
    assert [lexicon.tokens[i] for i in numbers_N] == expected * 2
    known = {token: i for i, token in enumerate(expected[::2], UNKNOWN + 1)}
    encode = Encoder(
        known,
        lowercase=lowercase,
        normalize=normalize,
        max_tokens=10_000,
        truncate="head",
        subwords=50 * spells,
    )
    ids = [known.get(token, token if spells else UNKNOWN) for token in expected] or [UNKNOWN]
    assert encode(text) == encode(text) == ids


def test_the_cache_key_contains_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,label\nI don't\\u002c no,bad\nyes,good\n", encoding="utf-8")
    found = {}
    for normalize in SETTINGS:
        tokenizer = Tokenizer("words", lowercase=True, normalize=normalize)
        with open_source(str(file)) as source:
            found[normalize] = tokenize_source(source, Columns(), tokenizer, tmp_path / "cache").tokens
    assert found == {
        "none": ["i", "don't", "\\", "u002c", "no", "yes"],
        "escapes": ["i", "don't", ",", "no", "yes"],
        "negation": ["i", "do", "n't", "\\", "u002c", "no", "yes"],
        "escapes+negation": ["i", "do", "n't", ",", "no", "yes"],
    }


def test_an_exported_run_normalizes_as_the_run(trained_run: Path, tmp_path: Path) -> None:
    plain = load(trained_run, device="cpu")
    text = replace(plain.config.text, normalize="escapes+negation")
    classifier = SentimentClassifier(
        labels=plain.labels,
        vocabulary=plain.vocabulary,
        config=replace(plain.config, text=text),
        weights=RunFolder(trained_run).load(BEST).tensors["model"],
        calibration=plain.calibration,
        device="cpu",
    )
    export(classifier, trained_run, tmp_path / "onnx")
    texts = [r"I don\u2019t like it\u002c no", "it isn't good"]
    expected_RC = classifier.predict_proba(texts)
    np.testing.assert_allclose(load_runtime(tmp_path / "onnx").predict_proba(texts), expected_RC, atol=1e-5)
    assert np.abs(plain.predict_proba(texts) - expected_RC).min() > 1e-4, "nothing was normalized"
    assert classifier.tokens(texts[0]) == ["i", "do", "n't", "like", "it", ",", "no"]


# --- configuration ---


def test_a_run_without_the_setting_is_not_normalized(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("text:\n  tokenizer: words\n")
    config = parse_config(["--config", str(tmp_path / "config.yaml")], program="x", description="")
    assert config.text.normalize == "none"


def test_another_tokenizer_is_not_normalized() -> None:
    with pytest.raises(ConfigError, match=r"^text\.normalize: not supported by 'basic_english'"):
        TextConfig(tokenizer="basic_english", normalize="negation")
