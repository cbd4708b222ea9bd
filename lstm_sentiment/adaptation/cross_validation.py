"""Cross-validation of networks trained from random weights on few rows, without a validation split.

A network is trained for each fold, on the rows of the other folds. Their out-of-fold logits, epoch by epoch,
select the best epoch and calibrate the network that is trained on all rows.

Legend: R rows, C classes.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lstm_sentiment.cli.terminal import logging_from
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import Array, TextDataset
from lstm_sentiment.errors import StoppedError
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.linear.logistic_regression import folds_of
from lstm_sentiment.models.network import Network, WideAndDeep
from lstm_sentiment.records.checkpoint_facts import LogEntry
from lstm_sentiment.records.scores import Scores
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.training.classification import Classification
from lstm_sentiment.training.losses import training_loss
from lstm_sentiment.training.protocols import Watch
from lstm_sentiment.training.trainer import Trainer

log = logging.getLogger(__name__)

FOLDS = 5
Logits = dict[str, Array]  # branch -> logits; the whole network under the empty name


@dataclass(frozen=True, kw_only=True)
class OutOfFold:
    """Out-of-fold logits and scores of the training rows.

    Args:
        logits: of each epoch, (R, C).
        scores: of each epoch.
    """

    logits: list[Logits]
    scores: list[Scores]


class _Held(Classification):
    """Keeps the logits of the held-out rows, epoch by epoch, and logs nothing."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.logits: list[Logits] = []

    def score(self, model: nn.Module) -> Scores:
        """Return the scores of the held-out rows."""
        networks = {"": model}
        if isinstance(model, WideAndDeep):
            networks |= dict(model.named_children())
        self.logits.append({name: self._logits(network) for name, network in networks.items()})
        probabilities_RC = torch.from_numpy(self.logits[-1][""]).double().softmax(1).numpy()
        return score(self.validation.labels, probabilities_RC, self.labels, self.validation.counts)

    def _logits(self, network: nn.Module) -> Array:
        found: Array = predict_logits(
            network, self.validation, device=self.device, batch_size=self.batch_size, processes=self.processes
        ).numpy()
        return found

    def report(self, entry: LogEntry, scores: Scores, *, epochs: int, is_best: bool) -> None:
        """Log nothing."""


class Scored(Classification):
    """Classification task whose epochs are scored in advance by `cross_validate`."""

    of_epochs: list[Scores]
    trainer: Trainer

    def score(self, model: nn.Module) -> Scores:  # noqa: ARG002 - no rows are held out
        """Return the scores of the trainer's current epoch."""
        return self.of_epochs[self.trainer.state.epoch]


class _Nowhere:
    """A `protocols.CheckpointStore` that discards everything."""

    def save(self, name: str, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
        """Discard."""

    def write_log(self, entries: list[LogEntry]) -> None:
        """Discard."""


def new_trainer(
    config: Config,
    corpus: Corpus,
    learned: TextDataset,
    model: Network,
    *,
    processes: Processes,
    kind: type[Classification] = Classification,
    crossed: OutOfFold | None = None,
    **settings: Any,
) -> Trainer:
    """Return a trainer for a network, on the network's device.

    Args:
        config: of the run.
        corpus: its rows; the validation rows select the best epoch.
        learned: training rows.
        model: the network.
        processes: of the job.
        kind: class of the task.
        crossed: cross-validated scores of the epochs; None to score the validation rows.
        settings: further arguments of `Trainer`.
    """
    device = next(model.parameters()).device
    task = (Scored if crossed else kind)(
        corpus.validation,
        corpus.labels,
        loss=training_loss(config.trainer, learned, len(corpus.labels)),
        device=device,
        batch_size=4 * config.trainer.batch_size,
        processes=processes,
        r_drop=config.trainer.r_drop,
        vat=config.trainer.vat,
    )
    trainer = Trainer(
        model,
        learned,
        task,
        config=config.trainer,
        seed=config.seed,
        device=device,
        processes=processes,
        **settings,
    )
    if isinstance(task, Scored) and crossed is not None:
        task.of_epochs, task.trainer = crossed.scores, trainer
    return trainer


def cross_validate(
    config: Config,
    corpus: Corpus,
    network_for: Callable[[Corpus], Network],
    *,
    device: torch.device,
    precision: str,
    processes: Processes,
    watch: Watch | None = None,
) -> OutOfFold | None:
    """Train a network for each fold, to the last epoch, and return the out-of-fold predictions.

    Returns None if the corpus has validation rows. Folds are stratified by class, and equal texts are in the
    same fold. The result is deterministic, so that a resumed run can compute it again.

    Args:
        config: of the run.
        corpus: its rows.
        network_for: training rows of a fold -> a new network, on the CPU.
        device: to train on.
        precision: fp32, bf16 or fp16.
        processes: of the job.
        watch: stop requests, polled between folds.

    Raises:
        TrainingError: a loss is not finite.
        StoppedError: stopped by a signal; nothing is saved.
    """
    if not corpus.cross_validated:
        return None
    train = corpus.train
    folds = folds_of(train.labels, texts=train.texts, seed=config.seed, most=FOLDS)
    trainer = dataclasses.replace(config.trainer, patience=0, tensorboard=False, log_to=None)
    unending = dataclasses.replace(config, trainer=trainer)
    found: list[list[Logits]] = []
    for number, fold in enumerate(folds, start=1):
        log.info("cross-validation: fold %d of %d", number, len(folds))
        others = np.setdiff1d(np.arange(len(train)), fold)
        part = dataclasses.replace(corpus, train=train.part(others), validation=train.part(fold))
        with logging_from(logging.WARNING):
            fitted = new_trainer(
                unending, part, part.train, network_for(part).to(device), kind=_Held,
                precision=precision, processes=processes, store=_Nowhere(), facts={},
            )  # fmt: skip
            fitted.fit()
        assert isinstance(fitted.task, _Held)
        found.append(fitted.task.logits)
        stop = watch.asked_to_stop() if watch else 0
        if stop:
            raise StoppedError(stop, "stopped in cross-validation: start again")
    return _together(folds, found, train, corpus.labels)


def _together(
    folds: list[Array], found: list[list[Logits]], train: TextDataset, labels: list[str]
) -> OutOfFold:
    """Merge the logits of the folds into one array per epoch."""
    logits: list[Logits] = []
    for of_folds in zip(*found, strict=True):
        of_epoch = {name: np.zeros((len(train), len(labels)), np.float32) for name in of_folds[0]}
        for fold, of_fold in zip(folds, of_folds, strict=True):
            for name, logits_RC in of_fold.items():
                of_epoch[name][fold] = logits_RC
        logits.append(of_epoch)
    scores = []
    for of_epoch in logits:
        probabilities_RC = torch.from_numpy(of_epoch[""]).double().softmax(1).numpy()
        scores.append(score(train.labels, probabilities_RC, labels, train.counts))
    return OutOfFold(logits=logits, scores=scores)
