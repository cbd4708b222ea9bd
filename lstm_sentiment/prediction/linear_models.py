"""A branch of a run alone, or its linear baseline: a branch, or a model that it keeps next to one without."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from lstm_sentiment.checkpoints.run_folder import LINEAR, RunFolder
from lstm_sentiment.errors import CheckpointError, ConfigError, shown
from lstm_sentiment.evaluation.calibration import Calibration
from lstm_sentiment.models.network import BRANCHES, Network, TfidfBranch, WideAndDeep, lstm_of
from lstm_sentiment.models.stored_linear import expected_linear, unpacked
from lstm_sentiment.records.checkpoint_facts import LinearFacts, SavedBranch
from lstm_sentiment.text.tokenizers import Vocabulary


class Trained(Protocol):
    """A classifier (see `classifier.SentimentClassifier`)."""

    run: Path | None
    linear: SavedBranch | None
    branches: dict[str, SavedBranch]
    vocabulary: Vocabulary
    device: torch.device

    @property
    def network_classes(self) -> int:
        """The number of classes of its network."""


@torch.no_grad()
def branch_alone(classifier: Trained, network: Network, name: str) -> tuple[WideAndDeep, Calibration]:
    """Return a network that predicts with one of its branches alone, and the branch's calibration.

    A branch has no part of the class bias of the whole. A linear branch has the class bias that was chosen
    for it alone, and is the linear baseline; the LSTM has none. In runs of earlier versions a branch keeps
    the class bias of the whole, uncalibrated.

    Args:
        classifier: of the run.
        network: its network with all classes; changed in place.
        name: ``lstm`` or ``ngrams``.

    Raises:
        ConfigError: the network has no such branch.
        CheckpointError: the branch's calibration is damaged.

    Example::

        network, calibration = branch_alone(classifier, unmerged(classifier.model), "lstm")
    """
    if not isinstance(network, WideAndDeep) or name not in BRANCHES:
        found = " and ".join(BRANCHES) if isinstance(network, WideAndDeep) else "none: it is one LSTM"
        problem = f"no branch {shown(name)}; the model has {found}"
        raise ConfigError(problem, key="branch", where=str(classifier.run))
    if name == "ngrams" and isinstance(network.ngrams, TfidfBranch):
        return linear_alone(classifier, network)
    network.shares.copy_(torch.tensor([float(branch == name) for branch in BRANCHES]))
    bias_C = network.lstm.head.bias if name == "lstm" else network.ngrams.bias
    return network, _with_bias(classifier, bias_C, classifier.branches.get(name))


def _with_bias(classifier: Trained, bias_C: torch.Tensor, saved: SavedBranch | None) -> Calibration:
    """Give a branch the bias that it has alone; return its calibration."""
    if saved is None:
        return Calibration()
    try:
        bias_C.copy_(torch.tensor(saved.bias).expand(classifier.network_classes))
        return Calibration(temperature=saved.temperature, thresholds=saved.thresholds)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"{classifier.run}: a branch of it is damaged: {error}") from None


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
    return network, _with_bias(classifier, network.ngrams.bias, saved)


def _read(classifier: Trained) -> tuple[TfidfBranch, SavedBranch]:
    """Read the linear baseline that a run keeps next to a model without one."""
    run, classes = classifier.run, classifier.network_classes
    if run is None or not RunFolder(run).has(LINEAR):
        problem = "the run has no linear model; train it again with --baseline true and held-out rows"
        raise ConfigError(problem, key="branch", where=str(run))
    checkpoint = RunFolder(run).load(LINEAR, expected_linear(classes))
    branch = unpacked(checkpoint, len(classifier.vocabulary), classes)
    return branch, checkpoint.facts_as(LinearFacts).linear
