"""An explanation in one sentence: the words for the predicted class, and those against it."""

from __future__ import annotations

import unicodedata

from lstm_sentiment.cli.characters import visible
from lstm_sentiment.explanation.attribution import ROUNDING, Explanation

MOST_FOR, MOST_AGAINST = 3, 2  # words
LEAST = 0.1  # attribution of a word relative to the strongest one
LEAST_NATS = 0.005
LONGEST = 40  # characters of a word or label
EMOTICONS = frozenset(":;=^")  # a token of signs with one of these is a face


def sentence(explanation: Explanation, *, marks: tuple[str, str] = ("*", "*")) -> str:
    """Return the prediction of a text with the words that it comes from, the strongest first.

    At most three words for the predicted class and two against it; equal words count together. Punctuation is
    left out, as are words whose attribution is less than a tenth of the strongest one.

    Args:
        explanation: of `SentimentClassifier.explain`.
        marks: before and after each word.

    >>> import lstm_sentiment
    >>> classifier = lstm_sentiment.load("starter", device="cpu")
    >>> sentence(classifier.explain("Lovely rooms, but dirty sheets and rude staff."))  # doctest: +ELLIPSIS
    'negative, because of *rude*...; against it *lovely*... (probability 0...)'
    >>> sentence(classifier.explain("...")).startswith("neutral, though the text has no words")
    True
    """
    best = explanation.probabilities.max()
    level = [
        label
        for label, p in zip(explanation.labels, explanation.probabilities, strict=True)
        if p >= best - ROUNDING
    ]
    reason = _equal(explanation, level, marks) if len(level) > 1 else _reason(explanation, marks)
    if explanation.cut_tokens:
        reason += f"; {explanation.cut_tokens:,} tokens were not read"
    probability = "over 0.99" if best > 0.995 else f"{best:.2f}"
    return f"{reason} (probability {probability}{' each' if len(level) > 1 else ''})"


def _reason(explanation: Explanation, marks: tuple[str, str]) -> str:
    """Return the predicted label with the words for it and against it."""
    label = visible(explanation.label, LONGEST)
    if not any(map(_is_word, explanation.tokens)):
        return f"{label}, though the text has no words"
    pro, contra = _strongest(explanation, explanation.label)
    known = any(
        known and _is_word(token) for token, known in zip(explanation.tokens, explanation.known, strict=True)
    )
    if pro:
        reason = f"because of {_listed(pro, marks)}"
    else:
        reason = "though no single word is for it" if known else "though no word is in the vocabulary"
    found = [f"{label}, {reason}"]
    if contra:
        found.append(f"against it {_listed(contra, marks)}")
    if not known and pro:
        found.append("no word is in the vocabulary")
    if pro and explanation.faithfulness is not None and explanation.faithfulness <= 0:
        found.append("deleting these words changes the prediction no more than deleting others")
    return "; ".join(found)


def _equal(explanation: Explanation, level: list[str], marks: tuple[str, str]) -> str:
    """Return labels of equal probability with the words for each."""
    found = [" or ".join(visible(label, LONGEST) for label in level) + ", equally probable"]
    for label in level:
        pro, _ = _strongest(explanation, label)
        if pro:
            found.append(f"for {visible(label, LONGEST)} {_listed(pro, marks)}")
    return "; ".join(found)


def _strongest(explanation: Explanation, label: str) -> tuple[list[str], list[str]]:
    """Return the strongest words for a class and against it."""
    attributions_N = explanation.attributions[:, explanation.labels.index(label)]
    of_word: dict[str, float] = {}
    for token, attribution in zip(explanation.tokens, attributions_N.tolist(), strict=True):
        if _is_word(token):
            of_word[token.strip()] = of_word.get(token.strip(), 0.0) + attribution
    least = max(LEAST_NATS, LEAST * max(map(abs, of_word.values()), default=0.0))
    by_strength = sorted(of_word, key=lambda word: -abs(of_word[word]))  # equal ones in the order of the text
    pro = [word for word in by_strength if of_word[word] >= least]
    contra = [word for word in by_strength if of_word[word] <= -least]
    return pro[:MOST_FOR], contra[:MOST_AGAINST]


def _is_word(token: str) -> bool:
    """Whether a token is a word, a number, an emoji or an emoticon.

    >>> [_is_word(token) for token in ("so", "3.5", "😀", ":-(", "!", "...", "?!", "")]
    [True, True, True, True, False, False, False, False]
    """
    if any(c.isalnum() or unicodedata.category(c) == "So" for c in token):
        return True
    return len(set(token)) > 1 and not EMOTICONS.isdisjoint(token)


def _listed(words: list[str], marks: tuple[str, str]) -> str:
    return ", ".join(visible(word, LONGEST).join(marks) for word in words)
