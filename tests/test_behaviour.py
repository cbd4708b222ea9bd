"""Behavioural tests: generated texts, failures, and the command."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_rows, write_csv

from lstm_sentiment import evaluate
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.evaluation.checklist import behaviour_lines, check_behaviour
from lstm_sentiment.evaluation.checklist_templates import (
    CAPABILITIES,
    INTENSIFIERS,
    LINKS,
    PLAIN_WORDS,
    POLAR_WORDS,
    TESTS,
    make_probes,
)
from lstm_sentiment.prediction.classifier import load

LABELS = ["negative", "neutral", "positive"]
SIDE_OF_WORD = {
    word: side
    for kind in ("adjective", "love", "loved", "emoji")
    for side, words in POLAR_WORDS[kind].items()
    for word in words
}
BY_NAME = {capability.name: capability for capability in CAPABILITIES}
POLAR = [capability.name for capability in CAPABILITIES if capability.kind != "INV"]


def all_texts(seed: int = 0) -> list[str]:
    return [
        text for capability in CAPABILITIES for p in make_probes(capability, seed=seed) for text in p.texts
    ]


# -- the texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_texts_are_whole_sentences_without_repeats(seed: int) -> None:
    texts = all_texts(seed)
    assert 2000 <= len(texts) <= 5000
    assert [text for text, count in Counter(texts).items() if count > 1] == []
    for text in texts:
        assert not re.search(r"[{}]|  |\bnone\b", text.lower()), text
        assert text == text.strip()
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
        assert not text[0].islower(), text


def test_a_seed_decides_every_text() -> None:
    assert all_texts(3) == all_texts(3)
    assert len(set(all_texts(3)) & set(all_texts(4))) < len(all_texts(3)) / 2


def pattern_of(template: str) -> str:
    """Return a pattern that matches the texts of a template."""

    def any_word(slot: re.Match[str]) -> str:
        kind = slot[1].removeprefix("other_")
        words = PLAIN_WORDS.get(kind) or [w for of_side in POLAR_WORDS[kind].values() for w in of_side]
        return f"(?:{'|'.join(map(re.escape, words))})"

    return re.sub(r"\\\{(\w+)\\\}", any_word, re.escape(template))


@pytest.mark.parametrize("name", BY_NAME)
def test_templates_and_polarities_are_balanced(name: str) -> None:
    capability = BY_NAME[name]
    probes = make_probes(capability)
    assert len(probes) == TESTS
    assert {len(probe.texts) for probe in probes} == {1 if capability.kind == "MFT" else 2}
    assert abs(sum(probe.side for probe in probes)) <= 1
    patterns = {t: pattern_of(t) for t in capability.templates}
    counts = Counter(
        next(t for t, pattern in patterns.items() if re.fullmatch(pattern, probe.texts[0]))
        for probe in probes
    )
    times = {t: sum(way[0] == t for way in capability.ways()) for t in capability.templates}
    shares = [counts[t] / times[t] for t in capability.templates]
    assert max(shares) - min(shares) <= 1
    assert bool(capability.expected) == (capability.kind == "MFT")
    assert (capability.change is None) == (capability.kind == "MFT")


@pytest.mark.parametrize("seed", [0, 1])
def test_the_texts_of_a_pair_differ_only_as_intended(seed: int) -> None:
    def pairs(name: str) -> list[list[str]]:
        return [list(probe.texts) for probe in make_probes(BY_NAME[name], seed=seed)]

    for name, kind in (("names", "name"), ("places", "place")):
        for before, after in pairs(name):
            changed = [(a, b) for a, b in zip(before.split(), after.split(), strict=True) if a != b]
            assert len(changed) == 1, (before, after)
            assert {word.strip(".") for word in changed[0]} <= set(PLAIN_WORDS[kind])
    for before, after in pairs("added link"):
        assert after.removeprefix(f"{before} ") in LINKS
    for before, after in pairs("intensifiers"):
        added = [word for word in after.split() if word in INTENSIFIERS]
        assert len(added) == 1
        assert after.replace(f"{added[0]} ", "", 1) == before
        assert any(f"{added[0]} {word}" in after for word in SIDE_OF_WORD)
    for before, after in pairs("typos"):
        unlike = [i for i in range(len(before)) if before[i] != after[i]]
        assert len(before) == len(after)
        assert unlike == [unlike[0], unlike[0] + 1]
        assert before[unlike[0]] == after[unlike[1]]
        assert all(before[i].isalpha() for i in range(unlike[0] - 1, unlike[1] + 2)), "inside a word"


# -- failures --------------------------------------------------------------------------------------


def skeleton(word: str) -> str:
    """Return a word with its inner letters sorted: two letters swapped inside change nothing."""
    return word[:1] + "".join(sorted(word[1:-1])) + word[-1:]


SIDE_OF_SKELETON = {skeleton(word): side for word, side in SIDE_OF_WORD.items()}


def read(text: str) -> int:
    """Return the polarity of a text by rules on its words: a perfect classifier."""
    words = re.findall(r"[\w']+|[^\w\s]\ufe0f?", re.sub(r"\S+example\S+", "", text))
    if "but" in words:
        words = words[words.index("but") :]
    elif "though" in words:
        words = words[: words.index("though")]
    elif "now" in words:
        place = max(i for i, word in enumerate(words) if word in (",", ";"))
        words = words[place:]
    side = sum(SIDE_OF_SKELETON.get(skeleton(word), 0) for word in words)
    negators = sum(word.lower() in ("not", "never", "nobody") or word.endswith("n't") for word in words)
    return int(np.sign(side)) * (-1) ** negators


def rule_based(labels: list[str], read: Callable[[str], int]) -> Callable[[list[str]], np.ndarray]:
    """Return a classifier that gives 0.9 to the class of the polarity that `read` returns."""

    def predict_proba(texts: list[str]) -> np.ndarray:
        sides = {-1: labels.index("negative"), 1: labels.index("positive")}
        sides[0] = labels.index("neutral") if "neutral" in labels else sides[-1]
        chosen_R = np.array([sides[read(text)] for text in texts])
        return np.where(np.arange(len(labels)) == chosen_R[:, None], 0.9, 0.1 / (len(labels) - 1))

    return predict_proba


def failures(found: dict[str, Any]) -> dict[str, int]:
    return {of["name"]: of["failures"] for of in found["capabilities"]}


@pytest.mark.parametrize("labels", [LABELS, LABELS[::-1], ["positive", "negative"]])
def test_a_perfect_classifier_never_fails(labels: list[str]) -> None:
    found = check_behaviour(labels, rule_based(labels, read))
    neutral = "neutral" in labels
    assert failures(found) == {name: 0 for name in BY_NAME if neutral or name != "neutral statements"}
    assert all(of["examples"] == [] and of["low"] == 0 < of["high"] < 0.02 for of in found["capabilities"])
    assert found["texts"] == len(all_texts()) - (0 if neutral else TESTS)
    left_out = [] if neutral else [{"name": "neutral statements", "why": "needs a class named neutral"}]
    assert found["left_out"] == left_out


@pytest.mark.parametrize("answer", [1, -1, 0])
def test_a_constant_classifier_fails_where_it_is_wrong(answer: int) -> None:
    found = check_behaviour(LABELS, rule_based(LABELS, lambda _: answer))
    expected = {}
    for capability in CAPABILITIES:
        wrong = [p for p in make_probes(capability) if answer not in p.expected]
        expected[capability.name] = len(wrong) if capability.kind == "MFT" else 0
    assert failures(found) == expected
    # a constant prediction fails on half of the texts; neutral is not wrong for single or double negation
    half, neutral_is_wrong = TESTS // 2, TESTS if answer == 0 else 0
    for name in ("plain opinions", "used to, now", "contrast with but", "emoji"):
        assert expected[name] == (neutral_is_wrong or half)
    for name in ("negation", "double negation"):
        assert expected[name] == (0 if answer == 0 else half)
    assert expected["neutral statements"] == (0 if answer == 0 else TESTS)


@pytest.mark.parametrize(
    ("blind_to", "fails"),
    [
        (r"\bnot\b|n't\b|\bnever\b|\b[Nn]obody\b", {"negation"}),
        (r".*\bbut ", {"used to, now", "contrast with but"}),
        (r"[^\w\s]\ufe0f?$|^[^\w\s]\ufe0f?", {"emoji"}),
        (r"\b(hated|disliked|loved|liked)\b", {"plain opinions"}),
    ],
)
def test_a_classifier_fails_the_capability_it_lacks(blind_to: str, fails: set[str]) -> None:
    def blind(text: str) -> int:
        return read(re.sub(blind_to, "", text) if "but" not in blind_to else text.partition(" but ")[0])

    found = failures(check_behaviour(LABELS, rule_based(LABELS, blind)))
    assert all(found[name] > 30 for name in fails), found
    assert all(found[name] == 0 for name in ("neutral statements", "names", "added link")), found


def classifier_by(rule: Callable[[str], float]) -> Callable[[list[str]], np.ndarray]:
    """Return a classifier of two classes whose probability of positive is given by a rule."""

    def predict_proba(texts: list[str]) -> np.ndarray:
        positive_R = np.array([rule(text) for text in texts])
        return np.stack([1 - positive_R, positive_R], axis=1)

    return predict_proba


@pytest.mark.parametrize(
    ("plain", "linked", "fails"),
    [(0.9, 0.71, False), (0.9, 0.69, True), (0.3, 0.49, False), (0.51, 0.49, True), (0.45, 0.55, True)],
)
def test_an_invariance_is_broken_by_another_label_or_a_large_move(
    plain: float, linked: float, fails: bool
) -> None:
    found = check_behaviour(
        ["negative", "positive"], classifier_by(lambda text: linked if "example" in text else plain)
    )
    assert failures(found)["added link"] == (TESTS if fails else 0)
    assert [failures(found)[name] for name in ("names", "places", "typos")] == [0, 0, 0]


@pytest.mark.parametrize(("lost", "fails"), [(-0.3, False), (0.09, False), (0.11, True)])
def test_intensifying_must_not_lower_the_probability(lost: float, fails: bool) -> None:
    def rule(text: str) -> float:
        side = read(text)
        strong = any(word in INTENSIFIERS for word in text.split())
        return 0.5 + side * (0.15 - (lost if strong else 0))

    found = check_behaviour(["negative", "positive"], classifier_by(rule))
    assert failures(found)["intensifiers"] == (TESTS if fails else 0)


def test_classes_of_one_side_count_together() -> None:
    """Praise may be predicted as positive or very positive, and an intensifier may switch between them."""
    labels = ["very negative", "negative", "neutral", "positive", "very positive"]

    def predict_proba(texts: list[str]) -> np.ndarray:
        strong = [any(word in INTENSIFIERS for word in text.split()) for text in texts]
        place_R = [2 + read(text) * (2 if s else 1) for text, s in zip(texts, strong, strict=True)]
        return np.eye(5)[place_R]

    assert set(failures(check_behaviour(labels, predict_proba)).values()) == {0}


@pytest.mark.parametrize(
    ("labels", "left_out"),
    [
        (["sport", "politics"], POLAR),
        (["positive", "neutral"], POLAR),
        (["negative", "positive", "spam"], ["neutral statements"]),
        (["bad", "average", "good"], []),
    ],
)
def test_tests_that_the_classes_do_not_allow_are_skipped(labels: list[str], left_out: list[str]) -> None:
    found = check_behaviour(labels, lambda texts: np.tile(np.eye(len(labels))[0], (len(texts), 1)))
    assert [of["name"] for of in found["left_out"]] == left_out
    assert [of["name"] for of in found["capabilities"]] == [n for n in BY_NAME if n not in left_out]
    assert found["texts"] == sum(
        len(p.texts) for n in BY_NAME if n not in left_out for p in make_probes(BY_NAME[n])
    )
    lines = "\n".join(behaviour_lines(found))
    assert lines.count("left out: needs ") == len(left_out)


def test_rates_have_wilson_intervals() -> None:
    def wrong_on_soup(text: str) -> int:
        return -read(text) if "soup" in text else read(text)

    [plain, *_] = check_behaviour(LABELS, rule_based(LABELS, wrong_on_soup))["capabilities"]
    n, p, z = plain["tests"], plain["failure_rate"], 1.959964
    middle, half = (p + z**2 / (2 * n)), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert 0 < p < 0.2
    assert plain["failures"] == round(p * n) == sum(
        "soup" in probe.texts[0] for probe in make_probes(BY_NAME["plain opinions"])
    )  # fmt: skip
    assert plain["low"] == pytest.approx((middle - half) / (1 + z**2 / n), abs=1e-6)
    assert plain["high"] == pytest.approx((middle + half) / (1 + z**2 / n), abs=1e-6)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_reports_real_failures(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "behaviour.json"
    evaluate.main([str(trained_run), "--behaviour", "--out", str(out)])
    shown, found = capsys.readouterr().out, json.loads(out.read_text("utf-8"))["behaviour"]
    classifier = load(trained_run)
    assert found == check_behaviour(classifier.labels, classifier.predict_proba)
    assert f"{found['texts']:,} synthetic texts" in shown
    seen = 0
    for of in found["capabilities"]:
        assert re.search(rf"{of['name']} +{of['kind']} +{of['tests']} +{of['failures']} ", shown)
        assert len(of["examples"]) == min(3, of["failures"])
        probes = {probe.texts: probe for probe in make_probes(BY_NAME[of["name"]])}
        for example in of["examples"]:
            seen += 1
            assert all(f'"{text}"' in shown for text in example["texts"])
            answers = classifier.predict(example["texts"])
            if of["kind"] == "MFT":
                assert answers[0].label not in example["expected"].split(" or ")
                assert (
                    LABELS.index(answers[0].label or "") - 1 not in probes[tuple(example["texts"])].expected
                )
            if of["kind"] != "DIR":
                assert example["got"] == f"{answers[-1].label} {answers[-1].score:.2f}"
    assert seen > 9


def test_a_file_and_behaviour_are_reported_together(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_csv(tmp_path / "fresh.csv", make_rows(30, seed=3)), tmp_path / "scores.json"
    evaluate.main([str(trained_run), str(file), "--out", str(out)])
    alone = json.loads(out.read_text("utf-8"))
    evaluate.main([str(trained_run), str(file), "--behaviour", "--out", str(out)])
    both = json.loads(out.read_text("utf-8"))
    assert "behaviour" not in alone
    assert {key: value for key, value in both.items() if key != "behaviour"} == alone
    assert both["behaviour"]["texts"] == len(all_texts())
    assert f"written to {out}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "give a file with labelled rows, --behaviour, or both"),
        (["--behaviour", "--text_column", "body"], "--text-column needs a file"),
        (["--behaviour", "--encoding=latin-1"], "--encoding needs a file"),
        (["--behaviour", "--out", "no/such/folder.json"], "no such folder"),
        (["nothing.csv", "--behaviour"], "nothing.csv"),
        (["--behavior"], "--behavior"),
    ],
)
def test_errors_have_no_traceback(
    trained_run: Path,
    argv: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluate", str(trained_run), *argv])
    with pytest.raises(SystemExit) as left:
        run_command(evaluate.main)
    errors = capsys.readouterr().err
    assert left.value.code == 2
    assert errors.startswith("error: ")
    assert expected in errors
    assert not (trained_run / "evaluation.json").exists()
