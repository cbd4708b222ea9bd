"""Interfaces of the training loop (see `trainer`)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from lstm_sentiment.data.dataset import Batch
from lstm_sentiment.records.checkpoint_facts import LogEntry


class CheckpointStore(Protocol):
    """Stores checkpoints, named tensors with JSON facts (see `run_folder.RunFolder`)."""

    def save(self, name: str, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
        """Save a checkpoint under a name, replacing an existing one."""

    def write_log(self, entries: list[LogEntry]) -> None:
        """Write the log, one entry per epoch."""


class EpochScores(Protocol):
    """Scores by name."""

    def __contains__(self, metric: str, /) -> bool:
        """Whether there is such a score."""

    def __getitem__(self, metric: str, /) -> float:
        """Return a score."""


class Task(Protocol):
    """A training objective (see `classification.Classification`)."""

    choices: int  # a uniform prediction of a row of weight 1 has the loss ln(choices)

    def uniform_loss(self, batch: Batch) -> float:
        """Return the loss of a uniform prediction of a batch, nats, to compare the first loss with."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum of a batch's weighted losses (see `Batch`), nats."""

    def score(self, model: nn.Module) -> EpochScores:
        """Return validation scores, the same in every process: ``loss`` and the selection metric."""

    def report(self, entry: LogEntry, scores: Any, *, epochs: int, is_best: bool) -> None:
        """Log the results of an epoch."""


class Scalars(Protocol):
    """Sink for training curves (see `tensorboard.Curves`)."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to curves, by name."""

    def flush(self) -> None:
        """Write all points, so that none is lost if the process is killed."""


class Watch(Protocol):
    """Stop requests and checkpoint notifications (see `signals.RunWatch`)."""

    def asked_to_stop(self) -> int:
        """Return the number of the signal that asked the run to stop, 0 for none."""

    def at_once(self) -> contextlib.AbstractContextManager[None]:
        """Context in which a signal raises `StoppedError` immediately."""

    def saved(self, step: int) -> None:
        """Notify of a checkpoint at a step."""
