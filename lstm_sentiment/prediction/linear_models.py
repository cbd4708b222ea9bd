"""The linear baseline of a run alone: its linear branch, or the model that it keeps next to one without."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from lstm_sentiment.checkpoints.run_folder import LINEAR, RunFolder
from lstm_sentiment.errors import CheckpointError, ConfigError
from lstm_sentiment.evaluation.calibration import Calibration
from lstm_sentiment.models.network import Network, TfidfBranch, WideAndDeep, lstm_of
from lstm_sentiment.models.stored_linear import expected_linear, unpacked
from lstm_sentiment.records.checkpoint_facts import LinearFacts, SavedLinear
from lstm_sentiment.text.tokenizers import Vocabulary


class Trained(Protocol):
    """A classifier (see `classifier.SentimentClassifier`)."""

    run: Path | None
    linear: SavedLinear | None
    vocabulary: Vocabulary
    device: torch.device

    @property
    def network_classes(self) -> int:
        """The number of classes of its network."""


@torch.no_grad()
def linear_alone(classifier: Trained, network: Network) -> tuple[WideAndDeep, Calibration]:
    """Return a network that predicts with the linear model of a run alone, and its calibration.

    Args:
        classifier: of the run.
        network: its network with all classes; changed in place if its linear branch is the linear model.

    Raises:
        ConfigError: the run has no linear model.
        CheckpointError: it is damaged.

    Example::

        network, calibration = linear_alone(classifier, unmerged(classifier.model))
    """
    saved = classifier.linear
    if not isinstance(network, WideAndDeep) or not isinstance(network.ngrams, TfidfBranch):
        branch, saved = _read(classifier)
        network = WideAndDeep(lstm_of(network), branch)
        network.to(classifier.device).eval().requires_grad_(requires_grad=False)
    network.shares.copy_(torch.tensor([0.0, 1.0]))
    if saved is None:
        return network, Calibration()
    try:
        network.ngrams.bias.copy_(torch.tensor(saved.bias).expand(classifier.network_classes))
        return network, Calibration(temperature=saved.temperature, thresholds=saved.thresholds)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"{classifier.run}: its linear model is damaged: {error}") from None


def _read(classifier: Trained) -> tuple[TfidfBranch, SavedLinear]:
    """Read the linear baseline that a run keeps next to a model without one."""
    run, classes = classifier.run, classifier.network_classes
    if run is None or not RunFolder(run).has(LINEAR):
        problem = "the run has no linear model; train it again with --baseline true and held-out rows"
        raise ConfigError(problem, key="branch", where=str(run))
    checkpoint = RunFolder(run).load(LINEAR, expected_linear(classes))
    branch = unpacked(checkpoint, len(classifier.vocabulary), classes)
    return branch, checkpoint.facts_as(LinearFacts).linear
