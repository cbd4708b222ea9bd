"""Reads the linear baseline that a run keeps next to a model without one."""

from __future__ import annotations

from pathlib import Path

from lstm_sentiment.checkpoints.run_folder import LINEAR, RunFolder
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.models.network import TfidfBranch
from lstm_sentiment.models.stored_linear import expected_linear, unpacked
from lstm_sentiment.records.checkpoint_facts import LinearFacts, SavedLinear


def read_linear(run: Path | None, tokens: int, classes: int) -> tuple[TfidfBranch, SavedLinear]:
    """Return the linear model of a run, with its bias and calibration.

    Args:
        run: its folder; None for a classifier without one.
        tokens: V, with padding and unknown.
        classes: of its network.

    Raises:
        ConfigError: the run has no linear model.
        CheckpointError: it is damaged.

    Example::

        branch, saved = read_linear(Path("runs/tweets"), len(classifier.vocabulary), len(classifier.labels))
    """
    if run is None or not RunFolder(run).has(LINEAR):
        problem = "the run has no linear model; train it again with --baseline true and held-out rows"
        raise ConfigError(problem, key="branch", where=str(run))
    checkpoint = RunFolder(run).load(LINEAR, expected_linear(classes))
    return unpacked(checkpoint, tokens, classes), checkpoint.facts_as(LinearFacts).linear
