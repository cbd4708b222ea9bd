"""state.json of a checkpoint: the facts that are saved with its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lstm_sentiment.records.json_values import Count
from lstm_sentiment.records.scores import LanguageScores

LogEntry = dict[str, float]  # of an epoch: `epoch`, `step`, `train_loss`, `tokens_per_s`, `validation_...`


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What a run is recognised by when it is resumed, and what the last digits of its result depend on.

    Every checkpoint of a run has them; those of earlier versions may lack the device and what follows.

    Args:
        data: fingerprint of the data.
        pretrained: sha256 of the weights that training started from, if any.
        teacher: sha256 of the teachers, if any.
        threads: of a process.
        world_size: number of processes.
        device: kind of device: cpu, cuda or mps.
        precision: fp32, bf16 or fp16.
        torch: version of PyTorch.
    """

    data: str
    pretrained: str | None = None
    teacher: str | None = None
    threads: Count
    world_size: Count
    device: str | None = None
    precision: str | None = None
    torch: str | None = None


@dataclass(kw_only=True)
class TrainingState:
    """Progress of training, saved with each checkpoint.

    Args:
        step: optimizer steps done.
        averaged: last step included in the moving average.
        epoch: epochs done.
        step_in_epoch: steps done in the current epoch.
        best_score: validation score of the best epoch, None before the first.
        best_epoch: 0-based.
        epochs_without_gain: since the best one.
        finished: all epochs are done, or training stopped early.
        first_loss: of the first step, nats.
        loss_sum: of the steps of the current epoch.
        elapsed_s: seconds of training, over all sessions.
        history: one entry per epoch.
    """

    step: Count = 0
    averaged: Count = 0
    epoch: Count = 0
    step_in_epoch: Count = 0
    best_score: float | None = None
    best_epoch: int = -1
    epochs_without_gain: Count = 0
    finished: bool = False
    first_loss: float | None = None
    loss_sum: float = 0.0
    elapsed_s: float = 0.0
    history: list[LogEntry] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SavedTraining:
    """What training resumes from, next to the tensors.

    Args:
        training: its progress.
        scaler: state of the loss scaling of fp16, None in other precisions.
    """

    training: TrainingState
    scaler: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class LastFacts(RunFacts, SavedTraining):
    """Facts of the last checkpoint of a run."""


@dataclass(frozen=True, kw_only=True)
class LanguageFacts:
    """Facts of the best epoch of a language model.

    Args:
        epoch: 0-based.
        scores: of the validation texts.
    """

    epoch: Count
    scores: LanguageScores


@dataclass(frozen=True, kw_only=True)
class SavedCalibration:
    """Calibration of the probabilities (see `calibration.Calibration`).

    Args:
        temperature: divisor of the logits.
        thresholds: of the label sets.
    """

    temperature: float
    thresholds: list[float]


@dataclass(frozen=True, kw_only=True)
class SavedBranch:
    """What a branch needs to predict alone, next to its weights.

    Args:
        bias: of each class; that of a linear model includes its class bias.
        temperature: divisor of its logits.
        thresholds: of its label sets.
    """

    bias: list[float]
    temperature: float
    thresholds: list[float]


@dataclass(frozen=True, kw_only=True)
class LinearFacts:
    """Facts of the linear baseline that a run keeps next to a model without a linear branch.

    Args:
        linear: its bias and calibration.
    """

    linear: SavedBranch


@dataclass(frozen=True, kw_only=True)
class BestFacts:
    """Facts of the best epoch of a classifier that predictions and further trainings use.

    Args:
        data: fingerprint of the data; None in a packed run.
        labels: class names that the fingerprint was computed with, if they were renamed or merged.
        label_map: label in files -> one of these names, or None for rows left out, if classes were merged.
        merged: for each class of the network its place among the classes of the run, if some were merged.
        calibration: None in an unfinished run.
        biases_without_class_bias: by parameter, its values before the class bias was added, if one was.
        linear: for predictions of the linear branch alone; None without one, and in runs of earlier versions.
        branches: by name, for predictions of the LSTM alone and of n-grams that were trained by gradient
            steps; None without branches, and in runs of earlier versions.
        proof: self-test, checked by `self_test`; None in an unfinished run.
    """

    data: str | None = None
    labels: list[str] | None = None
    label_map: dict[str, str | None] | None = None
    merged: list[Count] | None = None
    calibration: SavedCalibration | None = None
    biases_without_class_bias: dict[str, list[float]] | None = None
    linear: SavedBranch | None = None
    branches: dict[str, SavedBranch] | None = None
    proof: Any | None = None


def merged_classes(labels: Sequence[str], facts: BestFacts) -> str:
    """Return which classes of a run were merged, in words; an empty text if none were.

    Args:
        labels: its class names.
        facts: of its best checkpoint.

    >>> facts = BestFacts(labels=["bad", "so-so", "good"], merged=[0, 0, 1])
    >>> merged_classes(["negative", "positive"], facts)
    'negative (bad, so-so)'
    """
    if facts.merged is None:
        return ""
    before = facts.labels or [str(number) for number in range(len(facts.merged))]
    members: dict[int, list[str]] = {}
    for name, shown in zip(before, facts.merged, strict=False):
        members.setdefault(shown, []).append(name)
    return ", ".join(f"{labels[of]} ({', '.join(names)})" for of, names in members.items() if len(names) > 1)
