"""Explanations in a sentence, against the words counted in a plain way."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from lstm_sentiment.explanation.attribution import Explanation, Removal
from lstm_sentiment.explanation.sentence import sentence

LABELS = ["negative", "neutral", "positive"]


def explained(
    words: dict[str, float] | list[tuple[str, float]],
    *,
    probabilities: tuple[float, ...] = (0.9, 0.04, 0.06),
    known: bool = True,
    cut_tokens: int = 0,
    faithful: float = 0.3,
) -> Explanation:
    """Return an explanation with attributions to the first class; half of them are against the third."""
    pairs = list(words.items()) if isinstance(words, dict) else words
    of_first = np.array([value for _, value in pairs]).reshape(-1)
    count = len(pairs)
    curve = np.linspace(0.9, 0.3, count + 1)
    inside = np.ones(count + 1)
    inside[[0, -1]] = 0
    return Explanation(
        text=" ".join(word for word, _ in pairs),
        labels=LABELS,
        method="occlusion",
        steps=None,
        tokens=[word for word, _ in pairs],
        known=[known] * count,
        cut_tokens=cut_tokens,
        cut_at=len(pairs) if cut_tokens else None,
        probabilities=np.array(probabilities),
        attributions=np.stack([of_first, -of_first / 2, -of_first / 2], axis=1),
        scores=np.zeros(3),
        baseline=np.zeros(3),
        prefixes=np.zeros((count, 3)),
        removal=Removal(removed=np.arange(count + 1), guided=curve, random=(curve + faithful * inside)[None]),
        gates=[],
        pooled={},
    )


def test_the_strongest_words_are_named_first() -> None:
    found = explained({"the": 0.01, "time": -0.4, "rude": 1.0, "was": -0.02, "dirty": 2.0})
    assert sentence(found) == "negative, because of *dirty*, *rude*; against it *time* (probability 0.90)"


@pytest.mark.parametrize("seed", range(30))
def test_words_are_those_that_counting_finds(seed: int) -> None:
    chance = random.Random(seed)
    pairs = [(chance.choice("abcdefgh!,."), chance.uniform(-2, 2)) for _ in range(chance.randint(1, 12))]
    total = {word: sum(v for w, v in pairs if w == word) for word, _ in pairs if word.isalpha()}
    notable = {w: v for w, v in total.items() if abs(v) >= max(map(abs, total.values())) / 10}
    pro = sorted((w for w in notable if total[w] > 0), key=lambda w: -total[w])[:3]
    contra = sorted((w for w in notable if total[w] < 0), key=lambda w: total[w])[:2]
    said = sentence(explained(pairs))
    before, _, after = said.partition("against it ")
    assert re.findall(r"\*(.)\*", before) == pro
    assert re.findall(r"\*(.)\*", after) == contra
    assert ("because of" in said) == bool(pro)


def test_equal_words_are_named_in_the_order_of_the_text() -> None:
    found = explained({"so": 1.0, "awful": 1.0, "bad": 1.0, "poor": 1.0})
    assert sentence(found).startswith("negative, because of *so*, *awful*, *bad* (")


def test_punctuation_is_no_word_but_faces_and_numbers_are() -> None:
    found = explained({"!!!": 3.0, ":-(": 2.0, "1/5": 1.5, "😡": 1.0, "…": 5.0, "?!": -4.0})
    assert sentence(found).startswith("negative, because of *:-(*, *1/5*, *😡* (")


@pytest.mark.parametrize("words", [{}, {"!": 1.0, "...": -0.5}])
def test_a_text_without_words_has_no_reason(words: dict[str, float]) -> None:
    assert sentence(explained(words)) == "negative, though the text has no words (probability 0.90)"


def test_unknown_words_are_said_to_be_unknown() -> None:
    silent = sentence(explained({"qwertz": 0.0, "yxcv": 0.0}, known=False))
    assert silent == "negative, though no word is in the vocabulary (probability 0.90)"
    heard = sentence(explained({"gooood": 1.0, "yxcv": -0.5}, known=False))
    assert heard.startswith(
        "negative, because of *gooood*; against it *yxcv*; no word is in the vocabulary ("
    )
    only_against = sentence(explained({"gooood": -1.0}, known=False))
    assert only_against.startswith("negative, though no word is in the vocabulary; against it *gooood* (")


def test_a_prediction_against_all_words_is_no_riddle() -> None:
    said = sentence(explained({"good": -1.0, "day": -0.2, "sir": -0.5}))
    assert said.startswith("negative, though no single word is for it; against it *good*, *sir* (")


def test_equally_probable_classes_are_all_named() -> None:
    said = sentence(explained({"awful": 1.0, "great": -1.0}, probabilities=(0.45, 0.1, 0.45)))
    assert said == (
        "negative or positive, equally probable; for negative *awful*; for positive *great* "
        "(probability 0.45 each)"
    )
    nothing = sentence(explained({}, probabilities=(1 / 3, 1 / 3, 1 / 3)))
    assert nothing == "negative or neutral or positive, equally probable (probability 0.33 each)"


def test_doubts_are_said() -> None:
    doubtful = sentence(explained({"so": 1.0, "awful": 0.5}, faithful=-0.01))
    assert "; deleting these words changes the prediction no more than deleting others (" in doubtful
    assert "deleting" not in sentence(explained({"so": 1.0, "awful": 0.5}))
    assert "; 1,200 tokens were not read (" in sentence(explained({"so": 1.0}, cut_tokens=1200))
    assert sentence(explained({"so": 1.0}, probabilities=(0.999, 0.0005, 0.0005))).endswith(
        "(probability over 0.99)"
    )


def test_odd_words_are_escaped_and_short() -> None:
    said = sentence(explained({"\x1b[31m": 1.0, "a" * 500: 0.5}))
    assert "\x1b" not in said
    assert len(said) < 150
