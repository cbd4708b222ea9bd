"""What the training loop is handed, and where it stands (see `trainer`)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from lstm_sentiment.data.dataset import Batch


class CheckpointStore(Protocol):
    """Where the loop keeps named tensors and plain facts (see `run_folder.RunFolder`)."""

    def save(self, name: str, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
        """Keep them under a name, replacing what was there."""

    def write_log(self, entries: list[dict[str, Any]]) -> None:
        """Keep one entry per epoch."""


class Task(Protocol):
    """What is to be learned (see `classification.Classification`)."""

    choices: int  # that a guess is made among: it costs ln(choices)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum of a batch's weighted losses (see `Batch`), nats."""

    def score(self, model: nn.Module) -> dict[str, Any]:
        """Return validation scores, the same in every process: ``loss`` and what is to be the best."""

    def report(self, entry: dict[str, Any], scores: dict[str, Any], *, epochs: int, is_best: bool) -> None:
        """Tell the terminal how an epoch went."""


class Scalars(Protocol):
    """Where the loop puts numbers to be drawn over the steps (see `tensorboard.Curves`)."""

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each of some curves."""

    def flush(self) -> None:
        """Keep all points: a kill loses none of them."""


class Watch(Protocol):
    """What keeps an eye on a run from outside (see `signals.RunWatch`)."""

    def asked_to_stop(self) -> int:
        """Return the number of the signal that asked the run to stop, 0 for none."""

    def at_once(self) -> contextlib.AbstractContextManager[None]:
        """While a block runs, raise `StoppedError` as soon as a signal comes."""

    def saved(self, step: int) -> None:
        """Hear of a checkpoint after so many steps."""


@dataclass(kw_only=True)
class TrainingState:
    """Where training stands.

    Args:
        step: optimizer steps done.
        averaged: step up to which the moving average has been brought.
        epoch: epochs done.
        step_in_epoch: steps done in the epoch under way.
        best_score: validation score of the best epoch, None before the first.
        best_epoch: 0-based.
        epochs_without_gain: since the best one.
        finished: no epoch is left, or early stopping said so.
        first_loss: of the first step, nats.
        loss_sum: of the steps of the epoch under way.
        elapsed_s: seconds of training, over all sessions.
        history: one entry per epoch.
    """

    step: int = 0
    averaged: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    best_score: float | None = None
    best_epoch: int = -1
    epochs_without_gain: int = 0
    finished: bool = False
    first_loss: float | None = None
    loss_sum: float = 0.0
    elapsed_s: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
