"""Self-test of a checkpoint: texts with the logits that the model gave them after training.

Loading repeats the predictions, once per machine and library versions. A difference beyond
rounding means that something between text and logits has changed: tokenizer, weights,
a kernel. No training text is kept: the texts are fixed or random words of the vocabulary.

Legend: R texts, C classes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.system.cache_folder import notes_folder
from lstm_sentiment.system.devices import describe_machine
from lstm_sentiment.version import __version__

log = logging.getLogger(__name__)

FIXED = (
    "",
    "I rate it so-so",
    "Unbelievable service!!! 😀",
    "I can't say it's bad, but I wouldn't go again :-(",
    "@you look: https://example.org is #great &amp; 7.5/10",
    "Naïve café, schön und gut… 你好",
    "Xyzzyqwerty blorptastic",
)
TEXTS = 20
MOST_CHARACTERS = 200_000  # twice 1,600 words of 64 characters
TOLERANCES = {"cpu": 1e-3}  # of logits; CPUs differ only in the last digits
OTHER_TOLERANCE = 2e-2  # of devices that compute fp32 at lower precision, such as TF32
Array = npt.NDArray[Any]


def self_test_texts(words: Sequence[str]) -> list[str]:
    """Return 20 self-test texts: some fixed, some random words of a vocabulary, of various lengths.

    >>> texts = self_test_texts(["good", "bad"])
    >>> len(texts), texts[1], len(texts[-1].split())
    (20, 'I rate it so-so', 600)
    """
    random, known = np.random.default_rng(0), list(words) or ["word"]
    lengths = [round(600 ** (i / (TEXTS - len(FIXED) - 1))) for i in range(TEXTS - len(FIXED))]
    drawn = [random.integers(0, len(known), length) for length in lengths]
    return [*FIXED, *(" ".join(known[i] for i in places) for places in drawn)]


def check_self_test(
    proof: Any, predict: Callable[[list[str]], Array], *, device: torch.device, name: str
) -> None:
    """Run the self-test: warn if the logits differ from those stored with the weights.

    Args:
        proof: the stored self-test; None for an unfinished run, which has none.
        predict: texts -> logits (R, C).
        device: that computes them.
        name: of the run, for the warning.

    Raises:
        CheckpointError: it is not a self-test of such a model.
    """
    if proof is None:
        return
    names = ("python", "torch", "system", "cpu", "device")
    machine: Mapping[str, object] = describe_machine(device)
    here = {"lstm_sentiment": __version__, **{fact: machine[fact] for fact in names}}
    verified = Verified(notes_folder() / "proofs", proof, here)
    if verified.known():
        return
    difference = largest_difference(proof, predict(texts_of(proof)))
    if difference <= tolerance_on(device.type):
        verified.remember()
        return
    log.warning(
        "%s: self-test failed: logits differ by up to %.2g from those where it was trained, rounding "
        "explains %.2g. Evaluate it on known rows before you use it here",
        name, difference, tolerance_on(device.type),
    )  # fmt: skip


def largest_difference(proof: Any, logits_RC: Array) -> float:
    """Return the largest difference from a self-test's logits, relative to their size above 1.

    Raises:
        CheckpointError: it is not a self-test of such a model.

    >>> round(largest_difference({"texts": ["so"], "logits": [[2.0, 0.0]]}, np.array([[2.2, 0.0]])), 3)
    0.1
    """
    try:
        kept_RC = np.array(proof["logits"], np.float64)
        difference_RC = np.abs(kept_RC - logits_RC) / np.maximum(np.abs(kept_RC), 1.0)
    except (TypeError, ValueError, KeyError):
        raise CheckpointError("the self-test is not that of this model") from None
    if kept_RC.shape != logits_RC.shape or not np.isfinite(difference_RC).all():
        raise CheckpointError("the self-test is not that of this model")
    return float(difference_RC.max(initial=0.0))


def texts_of(proof: Any) -> list[str]:
    """Return a self-test's texts.

    Raises:
        CheckpointError: there are none.
    """
    texts = proof.get("texts") if isinstance(proof, dict) else None
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise CheckpointError("the self-test is not that of this model")
    if len(texts) > TEXTS or sum(map(len, texts)) > MOST_CHARACTERS:  # predicted in one batch
        raise CheckpointError(f"the self-test has more than {TEXTS} texts or {MOST_CHARACTERS:,} characters")
    return texts


def tolerance_on(device: str) -> float:
    """Return the tolerance for rounding on a device type."""
    return TOLERANCES.get(device, OTHER_TOLERANCE)


class Verified:
    """Remembers passed self-tests per machine and library versions, as empty files in a folder.

    >>> import tempfile
    >>> verified = Verified(Path(tempfile.mkdtemp()), {"logits": [[1.0]]}, {"torch": "2.13"})
    >>> before = verified.known(); verified.remember(); before, verified.known()
    (False, True)
    """

    def __init__(self, folder: Path, proof: Any, machine: dict[str, Any]) -> None:
        facts = json.dumps([proof, machine], sort_keys=True, default=str)
        self._file = folder / hashlib.sha256(facts.encode()).hexdigest()

    def known(self) -> bool:
        """Whether this self-test has passed here before."""
        with contextlib.suppress(OSError):
            return self._file.is_file()
        return False

    def remember(self) -> None:
        """Record that it passed; where nothing can be written it runs again the next time."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()
