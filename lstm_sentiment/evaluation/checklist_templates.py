"""Templates and word lists for behavioural tests of a sentiment classifier, one capability each.

After Ribeiro et al. 2020, "Beyond accuracy: behavioral testing of NLP models with CheckList"; templates and
words are original. A template is written for praise and used for blame too: with side -1, ``{adjective}`` is
a word of blame and ``{other_adjective}`` one of praise.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from string import Formatter
from typing import Literal

TESTS = 250  # of each capability

Kind = Literal["MFT", "INV", "DIR"]
Change = Callable[[str, random.Random], str]

# Words without an opinion.
PLAIN_WORDS: dict[str, tuple[str, ...]] = {
    "thing": (
        "service", "support", "delivery", "website", "app", "update", "phone", "laptop", "camera", "screen",
        "jacket", "food", "pizza", "soup", "breakfast", "coffee", "cake", "menu", "film", "book", "ending",
        "music", "concert", "show", "hotel", "room", "flight", "bus ride", "tour", "beach", "museum",
    ),
    "spot": ("hotel", "museum", "beach", "restaurant", "café", "market", "airport", "theatre", "zoo", "shop"),
    "name": (
        "Emma", "Liam", "Aisha", "Mohammed", "Priya", "Arjun", "Wei", "Yuki", "Carlos", "Lucía", "Olga",
        "Dmitri", "Kwame", "Ngozi", "Jamal", "Keisha", "Hannah", "David", "Mehmet", "Leila", "Sven", "Ingrid",
    ),
    "place": (
        "Paris", "Lagos", "Mumbai", "Tokyo", "Cairo", "Lima", "Toronto", "Berlin", "Nairobi", "Jakarta",
        "Warsaw", "Tehran", "Chicago", "Madrid", "Seoul", "Karachi", "Oslo", "Accra", "Bogotá", "Sydney",
    ),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "hour": ("seven", "half past eight", "nine", "ten", "noon", "two", "four", "six", "eight in the evening"),
    "number": ("3", "4", "7", "11", "12", "18", "23", "36", "40", "52", "64", "75"),
}  # fmt: skip

# Words with an opinion, by side.
POLAR_WORDS: dict[str, dict[int, tuple[str, ...]]] = {
    "adjective": {
        1: ("good", "great", "excellent", "wonderful", "fantastic", "amazing", "brilliant", "lovely"),
        -1: ("bad", "terrible", "awful", "horrible", "dreadful", "disappointing", "lousy", "pathetic"),
    },
    "love": {1: ("love", "like", "enjoy", "adore"), -1: ("hate", "dislike", "detest", "loathe")},
    "loved": {1: ("loved", "liked", "enjoyed", "adored"), -1: ("hated", "disliked", "detested", "loathed")},
    "aside": {  # side remarks that do not decide
        1: ("cheap", "easy to find", "on time", "free of charge"),
        -1: ("expensive", "hard to find", "a little late", "sold out at first"),
    },
    "emoji": {
        1: ("😍", "😊", "😀", "🥰", "👍", "❤️", "🎉", "🤩"),
        -1: ("😡", "😠", "👎", "🤮", "😞", "💔", "😤", "🤬"),
    },
}  # fmt: skip

INTENSIFIERS = ("really", "truly", "so", "incredibly", "remarkably")
LINKS = ("https://example.com/p/8231", "http://example.org/news?id=77", "www.example.net/today")


@dataclass(frozen=True, kw_only=True)
class Capability:
    """A capability that a classifier should have.

    Args:
        name: shown in reports.
        kind: MFT, a minimum functionality test: the predicted class is on an `expected` side; INV: a
            `change` of the text does not change the prediction; DIR: it does not weaken it.
        rule: description of the expected behaviour.
        templates: texts with slots; templates with an opinion slot are used for both sides.
        expected: for MFT, the sides allowed if the template's opinion is praise; mirrored for blame.
        change: for INV and DIR, turns the first text into the second.
    """

    name: str
    kind: Kind
    rule: str
    templates: tuple[str, ...]
    expected: tuple[int, ...] = ()
    change: Change | None = None

    def ways(self) -> list[tuple[str, int]]:
        """Return each template with each of its sides."""
        return [(t, side) for t in self.templates for side in ((1, -1) if _is_polar(t) else (0,))]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One test of a capability.

    Args:
        texts: one for MFT; for INV and DIR, before and after the change.
        side: the opinion in its template: 1 praise, -1 blame, 0 none.
        expected: for MFT, allowed sides of the predicted class.
    """

    texts: tuple[str, ...]
    side: int
    expected: frozenset[int]


def make_probes(capability: Capability, *, seed: int = 0) -> list[Probe]:
    """Return the tests of a capability, deterministic by seed, balanced over templates and sides.

    >>> [probe.texts for probe in make_probes(CAPABILITIES[0])[:2]]
    [('The breakfast was good.',), ('The flight was pathetic.',)]
    """
    randomness = random.Random(f"{capability.name} {seed}")  # noqa: S311 - not cryptographic
    ways, probes, seen = capability.ways(), list[Probe](), set[str]()
    while len(probes) < TESTS:
        template, side = ways[len(probes) % len(ways)]
        texts: tuple[str, ...] = (_fill(template, side, randomness),)
        if capability.change is not None:
            texts = (*texts, capability.change(texts[0], randomness))
        if seen.isdisjoint(texts):
            seen.update(texts)
            expected = frozenset(of * (side or 1) for of in capability.expected)
            probes.append(Probe(texts=texts, side=side, expected=expected))
    return probes


def _slots(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name]


def _is_polar(template: str) -> bool:
    return any(slot.removeprefix("other_") in POLAR_WORDS for slot in _slots(template))


def _fill(template: str, side: int, randomness: random.Random) -> str:
    chosen = {}
    for slot in _slots(template):
        if slot in PLAIN_WORDS:
            chosen[slot] = randomness.choice(PLAIN_WORDS[slot])
        else:
            kind = slot.removeprefix("other_")
            chosen[slot] = randomness.choice(POLAR_WORDS[kind][side if kind == slot else -side])
    return template.format(**chosen)


# -- changes of a text -----------------------------------------------------------------------------


def another(words: tuple[str, ...]) -> Change:
    """Return a change that replaces any of these words by another one of them."""

    def change(text: str, randomness: random.Random) -> str:
        def replaced(found: re.Match[str]) -> str:
            return randomness.choice([word for word in words if word != found[0]])

        return _any_of(words).sub(replaced, text)

    return change


def intensified(text: str, randomness: random.Random) -> str:
    """Put an intensifier before the adjective."""
    adjectives = (*POLAR_WORDS["adjective"][1], *POLAR_WORDS["adjective"][-1])
    return _any_of(adjectives).sub(rf"{randomness.choice(INTENSIFIERS)} \g<0>", text)


def misspelt(text: str, randomness: random.Random) -> str:
    """Swap two neighbouring letters inside one word of five letters or more.

    >>> misspelt("It was terrible.", random.Random(0))
    'It was terrilbe.'
    """
    places = [
        i
        for word in re.finditer(r"[^\W\d_]{5,}", text)
        for i in range(word.start() + 1, word.end() - 2)
        if text[i] != text[i + 1]
    ]
    i = randomness.choice(places)
    return text[:i] + text[i + 1] + text[i] + text[i + 2 :]


def linked(text: str, randomness: random.Random) -> str:
    """Append a link to the text."""
    return f"{text} {randomness.choice(LINKS)}"


def _any_of(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b")


# -- capabilities ----------------------------------------------------------------------------------

CAPABILITIES = (
    Capability(
        name="plain opinions",
        kind="MFT",
        rule="praise is positive, blame is negative",
        templates=(
            "The {thing} was {adjective}.",
            "This {thing} is {adjective}!",
            "I {loved} the {thing}.",
            "The {thing}: simply {adjective}.",
            "My friends {loved} the {thing}.",
        ),
        expected=(1,),
    ),
    Capability(
        name="negation",
        kind="MFT",
        rule="negated praise is not positive, negated blame is not negative",
        templates=(
            "The {thing} was not {adjective}.",
            "The {thing} wasn't {adjective}.",
            "I did not {love} the {thing}.",
            "I don't think the {thing} was {adjective}.",
            "Nobody in our group {loved} the {thing}.",
            "The {thing} was never {adjective}.",
        ),
        expected=(0, -1),
    ),
    Capability(
        name="double negation",
        kind="MFT",
        rule="doubly negated praise is not negative, doubly negated blame is not positive",
        templates=(
            "It is not true that the {thing} was not {adjective}.",
            "Nobody could say that the {thing} wasn't {adjective}.",
            "I don't know anyone who didn't {love} the {thing}.",
            "Not once was the {thing} not {adjective}.",
            "There was never a day when the {thing} wasn't {adjective}.",
        ),
        expected=(1, 0),
    ),
    Capability(
        name="used to, now",
        kind="MFT",
        rule="the present opinion decides",
        templates=(
            "The {thing} used to be {other_adjective}, but now it is {adjective}.",
            "I used to {other_love} the {thing}, now I {love} it.",
            "In the past the {thing} was {other_adjective}; now it is {adjective}.",
            "The {thing} is {adjective} now, though it used to be {other_adjective}.",
        ),
        expected=(1,),
    ),
    Capability(
        name="contrast with but",
        kind="MFT",
        rule="the clause after 'but' decides",
        templates=(
            "I thought the {thing} would be {other_adjective}, but it was {adjective}.",
            "People say the {thing} is {other_adjective}, but I {loved} it.",
            "The {thing} looked {other_adjective}, but it turned out to be {adjective}.",
            "The {thing} was {other_aside}, but it was {adjective}.",
            "The {thing} was {other_aside}, but I {loved} it.",
        ),
        expected=(1,),
    ),
    Capability(
        name="emoji",
        kind="MFT",
        rule="an emoji alone decides",
        templates=(
            "The {thing} on {day} {emoji}",
            "We are back from {place} {emoji}",
            "{emoji} {thing} with {name}",
            "I tried the {thing} {emoji}",
        ),
        expected=(1,),
    ),
    Capability(
        name="neutral statements",
        kind="MFT",
        rule="a plain fact is neither positive nor negative",
        templates=(
            "The train to {place} leaves at {hour} on {day}.",
            "{name} asked about the {thing} on {day}.",
            "The office in {place} has {number} rooms.",
            "Page {number} is about the {thing}.",
            "I will be in {place} until {day}.",
        ),
        expected=(0,),
    ),
    Capability(
        name="intensifiers",
        kind="DIR",
        rule="'really' and the like do not weaken an opinion",
        templates=(
            "Last week the {thing} was {adjective}.",
            "I found the {thing} {adjective}.",
            "On {day} the {thing} was {adjective}.",
            "The {spot} in {place} is {adjective}.",
        ),
        change=intensified,
    ),
    Capability(
        name="names",
        kind="INV",
        rule="another person's name changes nothing",
        templates=(
            "{name} {loved} the {thing}.",
            "{name} told me that the {thing} was {adjective}.",
            "The {thing} that {name} chose was {adjective}.",
            "{name} will write about the {thing} on {day}.",
        ),
        change=another(PLAIN_WORDS["name"]),
    ),
    Capability(
        name="places",
        kind="INV",
        rule="another town changes nothing",
        templates=(
            "The {spot} in {place} was {adjective}.",
            "We {loved} the {spot} near {place}.",
            "On {day} the flight to {place} was {adjective}.",
            "The {spot} in {place} opens at {hour}.",
        ),
        change=another(PLAIN_WORDS["place"]),
    ),
    Capability(
        name="typos",
        kind="INV",
        rule="two letters swapped in one word change nothing",
        templates=(
            "I thought the {thing} was {adjective} from start to finish.",
            "We {loved} the {thing} and told our friends about it.",
            "The {thing} on {day} was {adjective}.",
            "We asked about the {thing} on {day} morning.",
        ),
        change=misspelt,
    ),
    Capability(
        name="added link",
        kind="INV",
        rule="an appended link changes nothing",
        templates=(
            "My review of the {thing}: {adjective}.",
            "Here is why I {loved} the {thing}:",
            "As promised, the {thing} on {day} was {adjective}.",
            "More about the {thing} from {place}:",
        ),
        change=linked,
    ),
)
