"""Behavioural tests of a classifier, by capability (CheckList; see `checklist_templates`).

Legend: R texts, C classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from lstm_sentiment.evaluation.checklist_templates import CAPABILITIES, Capability, Probe, make_probes
from lstm_sentiment.evaluation.metrics import has_poles, sides

MOST_MOVED = 0.2  # largest change of a probability in invariance tests
MOST_LOST = 0.1  # largest loss of probability in directional tests
EXAMPLES = 3
_NEUTRAL = {"neutral", "neither", "objective", "factual", "average", "ok", "okay"}
Array = npt.NDArray[Any]


def check_behaviour(
    labels: list[str], predict_proba: Callable[[list[str]], Array], *, seed: int = 0
) -> dict[str, Any]:
    """Predict some 4,000 synthetic texts and count the failures of each capability.

    A failure depends on the kind of test:

    - MFT (minimum functionality test): the predicted class is not on an expected side. Sides are those of
      the class names (see `metrics.sides`): negative, positive, or neither.
    - INV (invariance): the two texts get different labels, or the probability of some class moves by
      more than 0.2.
    - DIR (direction): the classes on the opinion's side lose more than 0.1 of probability together.

    MFT and DIR need classes on both sides, neutral statements a class with a name such as neutral.

    Args:
        labels: class names, C of them.
        predict_proba: takes R texts, returns probabilities (R, C); called once.
        seed: of the texts; the same seed gives the same texts.

    Returns:
        `seed`; `texts`: number of texts; `capabilities`: for each its `name`, `kind`, `rule`,
        `tests`, `failures`, `failure_rate`, `low` and `high` (Wilson's 95 % interval of the rate) and
        up to three `examples` of failures (`texts`, `expected`, `got`); `left_out`: `name` and `why`
        of capabilities that these classes do not allow.

    >>> found = check_behaviour(["sport", "politics"], lambda texts: np.full((len(texts), 2), 0.5))
    >>> [(of["name"], of["failures"]) for of in found["capabilities"]]
    [('names', 0), ('places', 0), ('typos', 0), ('added link', 0)]
    """
    reasons = {capability.name: _why_left_out(capability, labels) for capability in CAPABILITIES}
    asked = [
        (capability, make_probes(capability, seed=seed))
        for capability in CAPABILITIES
        if not reasons[capability.name]
    ]
    texts = [text for _, probes in asked for probe in probes for text in probe.texts]
    rows = iter(predict_proba(texts))
    return {
        "seed": seed,
        "texts": len(texts),
        "capabilities": [
            _judge(capability, probes, [np.stack([next(rows) for _ in p.texts]) for p in probes], labels)
            for capability, probes in asked
        ],
        "left_out": [{"name": name, "why": why} for name, why in reasons.items() if why],
    }


def behaviour_lines(found: dict[str, Any]) -> list[str]:
    """Return what `check_behaviour` found as lines of text: a table, then examples of failures."""
    lines = [
        f"behaviour: {found['texts']:,} synthetic texts",
        f"  {'capability':<20} kind   tests  failed    rate   95 % interval",
    ]
    for of in found["capabilities"]:
        lines.append(
            f"  {of['name']:<20} {of['kind']:<4} {of['tests']:>7,} {of['failures']:>7,} "
            f"{100 * of['failure_rate']:>6.1f}%   {100 * of['low']:>5.1f} to {100 * of['high']:.1f}%"
        )
    lines += [f"  {of['name']:<20} left out: {of['why']}" for of in found["left_out"]]
    for of in found["capabilities"]:
        if of["examples"]:
            lines.append(f"  {of['name']}: {of['rule']}")
        for example in of["examples"]:
            asked = " -> ".join(f'"{text}"' for text in example["texts"])
            lines.append(f"    {asked}  expected {example['expected']}, got {example['got']}")
    return lines


def _why_left_out(capability: Capability, labels: list[str]) -> str:
    """Return why a capability cannot be tested with these classes, or an empty string."""
    if capability.kind == "INV":
        return ""
    if not has_poles(labels):
        return "needs classes named negative and positive"
    neutral = [
        label
        for label, side in zip(labels, sides(labels), strict=True)
        if side == 0 and _NEUTRAL & set(re.split(r"[\W_]+", label.lower()))
    ]
    return "needs a class named neutral" if capability.expected == (0,) and not neutral else ""


def _judge(
    capability: Capability, probes: list[Probe], predicted: list[Array], labels: list[str]
) -> dict[str, Any]:
    failures, examples = 0, list[dict[str, Any]]()
    for probe, probabilities_RC in zip(probes, predicted, strict=True):
        failure = _FAILURES[capability.kind](probe, probabilities_RC, labels)
        if failure is None:
            continue
        failures += 1
        if len(examples) < EXAMPLES:
            examples.append({"texts": list(probe.texts), **failure})
    interval = binomtest(failures, len(probes)).proportion_ci(method="wilson")
    return {
        "name": capability.name,
        "kind": capability.kind,
        "rule": capability.rule,
        "tests": len(probes),
        "failures": failures,
        "failure_rate": failures / len(probes),
        "low": float(interval.low),
        "high": float(interval.high),
        "examples": examples,
    }


def _unexpected_side(probe: Probe, probabilities_1C: Array, labels: list[str]) -> dict[str, str] | None:
    side_C, predicted = sides(labels), int(probabilities_1C[0].argmax())
    if side_C[predicted] in probe.expected:
        return None
    allowed = [label for label, side in zip(labels, side_C, strict=True) if side in probe.expected]
    return {"expected": " or ".join(allowed), "got": _described(probabilities_1C[0], labels)}


def _moved(_: Probe, probabilities_2C: Array, labels: list[str]) -> dict[str, str] | None:
    before_C, after_C = probabilities_2C
    if before_C.argmax() == after_C.argmax() and abs(after_C - before_C).max() <= MOST_MOVED:
        return None
    return {"expected": _described(before_C, labels), "got": _described(after_C, labels)}


def _weakened(probe: Probe, probabilities_2C: Array, labels: list[str]) -> dict[str, str] | None:
    on_side_C = np.array(sides(labels)) == probe.side
    before, after = (probabilities_2C @ on_side_C).tolist()
    if before - after <= MOST_LOST:
        return None
    names = " + ".join(label for label, is_on in zip(labels, on_side_C, strict=True) if is_on)
    return {"expected": f"{names} {before - MOST_LOST:.2f} or more", "got": f"{after:.2f} (was {before:.2f})"}


_FAILURES = {"MFT": _unexpected_side, "INV": _moved, "DIR": _weakened}


def _described(row_C: Array, labels: list[str]) -> str:
    return f"{labels[int(row_C.argmax())]} {row_C.max():.2f}"
