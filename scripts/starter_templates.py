"""Template-generated training sentences for phenomena that are rare in labelled corpora.

Negation near and far, expectations and how they turned out, "used to ..., now", questions with answers,
somebody else's opinion against one's own, middling words, plain facts. `starter_templates.yaml` has the words
and the templates; they differ from those of `lstm_sentiment.evaluation.checklist_templates`, which test the
result.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_suffix(".yaml")
POSITIVE, NEUTRAL, NEGATIVE = "positive", "neutral", "negative"
OPPOSITE = {POSITIVE: NEGATIVE, NEGATIVE: POSITIVE}
SWAPPED = {"p": "n", "n": "p", "liked": "hated", "hated": "liked", "like": "dislike", "dislike": "like"}
SWAPPED |= {"e": "b", "b": "e"}
LISTS = {"p": "positive", "n": "negative", "m": "middling", "f": "plain", "e": "emoji_good", "b": "emoji_bad"}
SLOT = re.compile(r"\{([A-Za-z_]+2?(?: [a-z]+2?)?)\}")
NEGATED = re.compile(
    r"\b(not|isn't|wasn't|don't|didn't|wouldn't|can't|ain't|hardly|far from|anything but|never|no longer"
    r"|nobody|no one|neither|nothing|doubt|fail)\b"
)


def sentences(count: int, *, seed: int, file: Path = FILE) -> list[tuple[str, str]]:
    """Return distinct (text, label) pairs: the set phrases, and generated sentences up to `count` in all.

    >>> sentences(1000, seed=0)[0]
    ('could not be better', 'positive')
    """
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    words = {name: _listed(of) for name, of in table["words"].items()}
    randomness = random.Random(seed)
    found: dict[str, str] = {}
    for label, phrases in table["set_phrases"].items():
        for phrase in _listed(phrases):
            for written in _styles(phrase):
                found[written] = label
    ways = _ways(table)
    while len(found) < count:
        template, label, side = ways[randomness.randrange(len(ways))]
        text = _filled(template, side, words, randomness)
        if label == "faint":
            label = NEGATIVE if side > 0 else randomness.choice((NEUTRAL, NEGATIVE))
        elif side < 0 and label != NEUTRAL:
            label = OPPOSITE[label]
            if label == POSITIVE and NEGATED.search(template):
                label = randomness.choice((POSITIVE, NEUTRAL))  # "not awful" is faint praise
        found.setdefault(randomness.choice(list(_styles(text))), label)
    return list(found.items())


def misspelt(text: str, randomness: random.Random) -> str:
    """Return a text with a typo in one of its longer words, if it has any.

    >>> misspelt("the breakfast was lovely", random.Random(1))
    'the breakafst was lovely'
    """
    words = text.split(" ")
    places = [place for place, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not places:
        return text
    place = randomness.choice(places)
    word, at = words[place], randomness.randrange(1, len(words[place]) - 2)
    kind = randomness.randrange(3)
    if kind == 0:
        words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    else:
        words[place] = word[:at] + (word[at + 1 :] if kind == 1 else word[at] + word[at:])
    return " ".join(words)


def _ways(table: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Return templates with their label and 1 for praise or -1 for blame."""
    ways: list[tuple[str, str, int]] = []
    for label in (POSITIVE, NEGATIVE):
        ways += [(text, label, side) for text in table[f"sided_{label}"] for side in (1, -1)]
        ways += [(text, label, 1) for text in table[f"once_{label}"]]
    ways += [(text, "faint", side) for text in table["faint"] for side in (1, -1)]
    return ways + 2 * [(text, NEUTRAL, 1) for text in table["plain_neutral"]]


def _listed(words: str) -> list[str]:
    return [" ".join(word.split()) for word in words.split(";")]


def _styles(text: str) -> Iterator[str]:
    """Yield a sentence as people type it: plain, with a capital, with a full stop."""
    capital = text[0].upper() + text[1:]
    yield text
    yield capital
    if text[-1] not in ".!?":
        yield f"{capital}."
        yield f"{text}."
        yield f"{text}!"


def _filled(template: str, side: int, words: dict[str, list[str]], randomness: random.Random) -> str:
    used: set[str] = set()

    def word(found: re.Match[str]) -> str:
        article, _, name = found[1].rpartition(" ")
        slot = name.rstrip("2").lower()
        slot = SWAPPED.get(slot, slot) if side < 0 else slot
        choices = words[LISTS.get(slot, slot)]
        if article or template[max(0, found.start() - 2) : found.start()] == "a ":
            choices = [choice for choice in choices if not choice.startswith(("a ", "just "))]
        chosen = randomness.choice(choices)
        while chosen in used and len(choices) > 2:
            chosen = randomness.choice(choices)
        used.add(chosen)
        if article:
            chosen = f"{'an' if chosen[0] in 'aeiou' else 'a'} {chosen}"
        return chosen[0].upper() + chosen[1:] if name[0].isupper() else chosen

    return SLOT.sub(word, SLOT.sub(word, template))  # twice: a list may have slots of its own
