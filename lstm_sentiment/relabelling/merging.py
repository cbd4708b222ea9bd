"""Merge classes of a finished run: what its files say of the merged classes.

The network keeps all its classes; the checkpoint says which of them are shown as one (see
`models.network.MergedClasses`). The probability of a merged class is the sum of those of its members,
calibrated as before. Label sets keep their thresholds: the true class is at least as probable as its true
member, so that a set still holds it with the requested coverage.

The most probable merged class need not be that of the most probable member: `scoring` computes scores and
histograms again from the run's rows. Where these cannot be read, they are left out.

Legend: R rows, C classes, S classes before some were merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lstm_sentiment.checkpoints.manifest import MERGED
from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.models.network import merged_logits


@dataclass(frozen=True, kw_only=True)
class Merging:
    """New names for the classes of a run, some of them the same.

    Args:
        before: class names, S.
        after: new class names, C, in the order of their first members.
        merged: for each class its place in `after`, (S,).
    """

    before: list[str]
    after: list[str]
    merged: list[int]

    @property
    def members(self) -> dict[str, list[str]]:
        """The old names of each class that has several, by its new name."""
        found: dict[str, list[str]] = {}
        for old, new in zip(self.before, self.merged, strict=True):
            found.setdefault(self.after[new], []).append(old)
        return {new: of for new, of in found.items() if len(of) > 1}


def merging_of(labels: Sequence[str], names: Mapping[str, str]) -> Merging | None:
    """Return how names merge classes; None if each class gets a name of its own.

    Args:
        labels: class names.
        names: old name -> new name.

    >>> merging_of(["bad", "so-so", "good"], {"so-so": "bad"})
    Merging(before=['bad', 'so-so', 'good'], after=['bad', 'good'], merged=[0, 0, 1])
    >>> merging_of(["bad", "good"], {"bad": "good", "good": "bad"}) is None
    True
    """
    new = [names.get(label, label) for label in labels]
    after = list(dict.fromkeys(new))
    if len(after) == len(new):
        return None
    return Merging(before=list(labels), after=after, merged=[after.index(name) for name in new])


def merged_state(state: Any, merging: Merging, label_map: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the content of state.json of the best checkpoint after merging.

    Args:
        state: its content before.
        merging: which classes.
        label_map: label in files -> name before, or None for rows left out.

    Raises:
        CheckpointError: it lacks the calibration or the self-test.
    """
    before = merging.before
    try:
        temperature = float(state["calibration"]["temperature"])
        logits = torch.tensor(state["proof"]["logits"], dtype=torch.float64)
        proof_RC = merged_logits(logits, merging.merged, temperature=temperature)
        facts = {name: value for name, value in state.items() if name != "scores"}
        if MERGED not in facts:
            began_with = dict(zip(before, state.get("labels") or before, strict=True))
            facts = {"labels": list(began_with.values())} | facts
            facts["label_map"] = {code: name and began_with[name] for code, name in label_map.items()}
        facts[MERGED] = [merging.merged[of] for of in facts.get(MERGED, range(len(before)))]
        return {**facts, "proof": {**state["proof"], "logits": proof_RC.tolist()}}
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError):
        raise CheckpointError("best/state.json: is not that of a finished run; train again") from None


def merged_data(content: Any, merging: Merging) -> Any:
    """Return the content of data.json after merging, with the counts of classes added.

    What cannot be known without the rows is left out: texts with more than one label, and unlabelled texts by
    class.

    >>> merging = merging_of(["bad", "so-so", "good"], {"so-so": "bad"})
    >>> merged_data({"splits": {"train": {"classes": {"bad": 2, "so-so": 1, "good": 4}}}}, merging)
    {'splits': {'train': {'classes': {'bad': 3, 'good': 4}}}}
    """
    if isinstance(content, list):
        return [merged_data(item, merging) for item in content]
    if not isinstance(content, dict):
        return content
    found = {name: of for name, of in content.items() if name != "conflicting_labels"}
    if isinstance(found.get("unlabelled"), dict):
        found["unlabelled"] = {name: of for name, of in found["unlabelled"].items() if name != "classes"}
    classes = found.get("classes")
    if isinstance(classes, dict) and list(classes) == merging.before:
        counts_C = np.bincount(merging.merged, list(classes.values())).astype(int).tolist()
        found["classes"] = dict(zip(merging.after, counts_C, strict=True))
        return found
    return {name: merged_data(of, merging) for name, of in found.items()}
