"""Invariance checks: do logits depend on the batch, padding, device or precision?

Legend: R texts, B texts of a batch, T padded length, C classes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lstm_sentiment.checkpoints.self_test import self_test_texts, tolerance_on
from lstm_sentiment.data.dataset import padded_length
from lstm_sentiment.diagnostics.findings import ERROR, WARNING, Finding
from lstm_sentiment.prediction.classifier import MANY, SentimentClassifier
from lstm_sentiment.system.devices import DTYPES, describe_machine
from lstm_sentiment.text.tokenization import PAD, SPECIAL_TOKENS

ROUNDING = 1e-4  # of logits: rounding on one device in fp32
MIXED = 0.1  # rounding with 8 bits of mantissa
NOT_HERE = "not available here"
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Check:
    """Result of an invariance check.

    Args:
        name: what was changed.
        difference: largest difference of a logit, relative for logits above 1; None if not possible on this
            machine.
        tolerance: bound of rounding errors.
        other_labels: number of texts with another predicted class.
    """

    name: str
    difference: float | None
    tolerance: float
    other_labels: int = 0

    @property
    def holds(self) -> bool:
        """Whether the logits are equal up to rounding, or could not be compared on this machine."""
        return self.difference is None or self.difference <= self.tolerance


def check_invariance(classifier: SentimentClassifier) -> list[Check]:
    """Compare the logits of texts predicted alone with those in other batches; see `Check`.

    The texts are the empty one, some with emoji, links and unknown words, and some of 1 to 600 words of the
    vocabulary. Each is predicted alone first, in fp32 on the classifier's device, and then: all in one call,
    in batches of similar length; in small batches of mixed length; in another order; together with a much
    longer text; with padding overwritten by other tokens; on the other device, CPU or GPU. Mixed precision is
    compared with fp32 on single texts without padding.

    Example::

        for check in check_invariance(load("runs/tweets")):
            print(check.name, check.difference)
    """
    texts = self_test_texts(classifier.vocabulary.tokens[len(SPECIAL_TOKENS) :])
    order = np.random.default_rng(0).permutation(len(texts))
    alone_RC = np.concatenate([classifier.predict_logits(text) for text in texts])
    tolerance = ROUNDING if classifier.device.type == "cpu" else tolerance_on(classifier.device.type)

    def few(some: list[str]) -> Array:
        parts = [some[i : i + MANY // 2] for i in range(0, len(some), MANY // 2)]
        return np.concatenate([classifier.predict_logits(part) for part in parts])

    def compared(name: str, other_RC: Array, tolerance: float = tolerance) -> Check:
        return _compared(name, alone_RC, other_RC, tolerance)

    longest = max(texts, key=len)
    padded = [classifier.predict_logits([text, longest])[:1] for text in texts]
    reordered_RC = classifier.predict_logits([texts[i] for i in order])[np.argsort(order)]
    return [
        compared("in one large batch", classifier.predict_logits(texts)),
        compared("in small mixed batches", few(texts)),
        compared("in another order", reordered_RC),
        compared("in another order, small batches", few([texts[i] for i in order])[np.argsort(order)]),
        compared("padded, next to a long text", np.concatenate(padded)),
        compared("with the padding overwritten", _logits(classifier, texts, overwrite=True)),
        _on_other_device(classifier, texts, alone_RC),
        *(_in_precision(classifier, texts, precision) for precision in ("bf16", "fp16")),
    ]


def invariance_findings(checks: list[Check]) -> list[Finding]:
    """Return one error for each check whose predictions depend on the batch.

    >>> [finding.severity for finding in invariance_findings(
    ...     [Check(name="in another order", difference=0.5, tolerance=1e-4, other_labels=3)])]
    ['error']
    """
    findings = []
    for check in checks:
        if check.holds:
            continue
        mixed = check.tolerance == MIXED
        findings.append(
            Finding(
                severity=WARNING if mixed else ERROR,
                what=f"{check.name}, the same texts get other predictions than alone: logits differ by up to "
                f"{check.difference:.2g}, the tolerance is {check.tolerance:.0e}; other labels: "
                f"{check.other_labels}",
                why="training in this precision is inaccurate; set fp32"
                if mixed
                else "predictions and scores depend on the batch: do not use the model here, and report this "
                "with the versions in environment.json",
                key="trainer.precision" if mixed else None,
            )
        )
    return findings


def invariance_lines(checks: list[Check]) -> list[str]:
    """Format the checks as a table.

    >>> invariance_lines([Check(name="on cuda", difference=None, tolerance=0.02)])
    ['  on cuda                           not available here']
    """
    return [
        f"  {check.name:<34}"
        + (
            NOT_HERE
            if check.difference is None
            else f"{check.difference:.1e}"
            + ("" if check.holds else "  TOO LARGE")
            + (f"  {check.other_labels} other labels" if check.other_labels else "")
        )
        for check in checks
    ]


def _compared(name: str, alone_RC: Array, other_RC: Array, tolerance: float) -> Check:
    difference_RC = np.abs(alone_RC - other_RC) / np.maximum(np.abs(alone_RC), 1.0)
    difference = float(difference_RC.max()) if np.isfinite(difference_RC).all() else float("inf")
    other = int((alone_RC.argmax(axis=1) != other_RC.argmax(axis=1)).sum())
    return Check(name=name, difference=difference, tolerance=tolerance, other_labels=other)


@torch.inference_mode()
def _logits(
    classifier: SentimentClassifier,
    texts: list[str],
    *,
    overwrite: bool = False,
    precision: str = "fp32",
    pad: bool = True,
) -> Array:
    """Return the logits of all texts in one batch; `overwrite` replaces padding by tokens."""
    rows, spelling_XK = classifier.encode(texts)
    lengths_B = torch.tensor([len(row) for row in rows])
    longest = max(1, int(lengths_B.max()))
    width = padded_length(longest) if pad else longest
    tokens_BT = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    if overwrite:
        padding_BT = torch.arange(width) >= lengths_B[:, None]
        random = torch.Generator().manual_seed(0)
        other_BT = torch.randint(len(classifier.vocabulary), tokens_BT.shape, generator=random)
        tokens_BT = torch.where(padding_BT, other_BT, tokens_BT)
    inputs = [tensor.to(classifier.device) for tensor in (tokens_BT, lengths_B, spelling_XK)]
    kind = classifier.device.type
    with torch.autocast(kind, DTYPES[precision], enabled=precision != "fp32"):
        logits_BC: Array = classifier.model(*inputs).double().cpu().numpy()
    return logits_BC


def _on_other_device(classifier: SentimentClassifier, texts: list[str], alone_RC: Array) -> Check:
    """Compare CPU and GPU."""
    other = "cpu" if classifier.device.type != "cpu" else "cuda"
    tolerance = tolerance_on(classifier.device.type if other == "cpu" else other)
    name = f"on {other}"
    if other == "cuda" and not torch.cuda.is_available():
        return Check(name=name, difference=None, tolerance=tolerance)
    moved = copy.copy(classifier)
    moved.device = torch.device(other)
    moved.model = copy.deepcopy(classifier.model).to(other)
    return _compared(name, alone_RC, moved.predict_logits(texts), tolerance)


def _in_precision(classifier: SentimentClassifier, texts: list[str], precision: str) -> Check:
    device = classifier.device
    if device.type == "cpu":
        supported = precision == "bf16" and bool(describe_machine(device)["bf16_on_cpu"])
    else:
        supported = device.type == "cuda" and (precision == "fp16" or torch.cuda.is_bf16_supported())
    name = f"in {precision} on {device.type}"
    if not supported:
        return Check(name=name, difference=None, tolerance=MIXED)
    # Without padding: whether a model reads it is tested by other checks.
    fp32_RC, mixed_RC = (
        np.concatenate([_logits(classifier, [text], precision=of, pad=False) for text in texts])
        for of in ("fp32", precision)
    )
    return _compared(name, fp32_RC, mixed_RC, MIXED)
