"""Sanity checks by short trainings: first loss, gradients, overfitting one batch, shuffled labels.

Copies of the model are trained. Only training and validation rows are read.

Legend: B rows of a batch, R rows, C classes.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lstm_sentiment.adaptation.fitting import fit_frozen, pooled_features
from lstm_sentiment.adaptation.start import Start
from lstm_sentiment.cli.terminal import logging_from
from lstm_sentiment.config.schema import Config, TrainerConfig
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import Batch, TextDataset, plan_epoch
from lstm_sentiment.errors import TrainingError
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.models.network import Network, WideAndDeep, lstm_of
from lstm_sentiment.system.devices import pick_precision, seed_random_numbers
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.training.classification import Classification
from lstm_sentiment.training.losses import cross_entropy, row_weights, training_loss
from lstm_sentiment.training.optimizer import adamw, clip
from lstm_sentiment.training.trainer import Trainer

log = logging.getLogger(__name__)

OVERFIT_STEPS, OVERFIT_ROWS = 100, 64
OVERFIT_SHARE = 0.25  # of ln C: the loss of an overfit batch is lower
REFERENCE_RATES = (2e-3, 2e-2)  # that work for most models
CONTROL_STEPS, CONTROL_ROWS = 150, 10_000
CONTROL_BATCH, CONTROL_VALIDATION = 64, 1000
FROZEN_ROWS = 2_000  # that head and linear model are fitted on
CONTROL_TOKENS = 64  # texts are truncated in short trainings
SHUFFLES = 3  # most shuffles of the labels
ERRORS = 3.0  # standard errors above chance of a significant score
Array = npt.NDArray[Any]


class Probes:
    """The probes of one configuration on one corpus.

    Args:
        model: untrained, on its device.
        corpus: the rows.
        config: its `trainer` section is probed.

    Example::

        probes = Probes(initial_model(config, corpus), corpus, config)
        probes.overfit()["learned"]
    """

    def __init__(self, model: Network, corpus: Corpus, config: Config) -> None:
        self.model, self.corpus, self.config = model, corpus, config
        self.device = next(model.parameters()).device
        self.classes = len(corpus.labels)
        trainer = config.trainer
        plan = plan_epoch(
            corpus.train.lengths, batch_size=trainer.batch_size, accumulate=1, seed=config.seed, epoch=0
        )
        self._first_rows = plan[0][0]
        self._loss = training_loss(trainer, corpus.train, self.classes)

    def first_loss(self) -> dict[str, float]:
        """Return the untrained model's loss on its first batch, and that of a uniform prediction, in nats.

        Returns:
            `loss`: mean cross-entropy without dropout, smoothing or class weights; `guess`: that of a uniform
            prediction of the same rows, ln C unless these have sample weights.
        """
        batch = self.corpus.train.batch(self._first_rows).to(self.device)
        with torch.no_grad():
            logits_BC = copy.deepcopy(self.model).eval()(*batch.inputs)
        loss = cross_entropy(None, 0.0)
        uniform_BC = torch.zeros(len(batch.labels_B), self.classes, device=self.device)
        return {"loss": float(loss(logits_BC, batch)), "guess": float(loss(uniform_BC, batch))}

    def gradient_norms(self) -> dict[str, float]:
        """Return the gradient norm at the first step, by block of the model.

        Blocks are the embedding, the n-gram vectors, each direction of each LSTM layer, the attention and the
        head, unless frozen.
        """
        model = copy.deepcopy(self.model).train()
        batch = self.corpus.train.batch(self._first_rows).to(self.device)
        seed_random_numbers(self.config.seed, self.device)
        self._loss(model(*batch.inputs), batch).backward()  # type: ignore[no-untyped-call]
        squares: dict[str, float] = {}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                gradient = parameter.grad.coalesce().values() if parameter.grad.is_sparse else parameter.grad
                block = _block(name)
                squares[block] = squares.get(block, 0.0) + float(gradient.double().square().sum())
        return {block: math.sqrt(square) for block, square in squares.items()}

    def overfit(self) -> dict[str, Any]:
        """Overfit one batch without dropout.

        If this fails with the configured learning rates, the defaults and a tenfold rate are tried, to
        distinguish a bad rate from a model that cannot learn.

        Returns:
            `rows`, `steps` (at most 100), `first`, `last` (loss, nats), `goal` (a quarter of ln C),
            `learned`, and `learned_with`: settings that work -> value; None if none were found or needed.
        """
        trainer = self.config.trainer
        goal = OVERFIT_SHARE * math.log(self.classes)
        losses = self._overfit_losses(trainer)
        facts: dict[str, Any] = {
            "rows": len(self._overfit_batch().labels_B), "steps": len(losses) - 1, "first": losses[0],
            "last": losses[-1], "goal": goal, "learned": losses[-1] < goal, "learned_with": None,
        }  # fmt: skip
        if facts["learned"]:
            return facts
        usual = TrainerConfig()
        for rate in REFERENCE_RATES:
            tried: dict[str, Any] = {
                "learning_rate": rate,
                "embedding_rate": usual.embedding_rate,
                "clip_norm": usual.clip_norm,
                "weight_decay": usual.weight_decay,
            }
            if self._overfit_losses(dataclasses.replace(trainer, **tried))[-1] < goal:
                facts["learned_with"] = tried
                break
        return facts

    def control(self) -> dict[str, Any]:
        """Train briefly with true labels and with shuffled ones: only the first should beat chance.

        With labels shuffled among the training rows nothing can generalise: a score above chance shows a
        leak. Since one shuffle can be lucky, a suspicious score is repeated, and the median returned.

        Returns:
            `true`, `shuffled` (macro recall on validation rows), `chance` (1/C), `standard_error` (of
            chance), `rows`, `steps`, `predicted` and `validation` (class -> rows, after training with
            true labels), and `failure`: why training stopped, or None.
        """
        train = _some(self.corpus.train, self._control_rows(), self.corpus, self.config, self.config.seed)
        validation = _some(
            self.corpus.validation, CONTROL_VALIDATION, self.corpus, self.config, self.config.seed
        )
        chance, error = chance_level(np.bincount(validation.labels, minlength=self.classes))
        short = self._control_config(train)
        facts: dict[str, Any] = {
            "true": None,
            "shuffled": None,
            "chance": chance,
            "standard_error": error,
            "rows": len(train),
            "steps": short.epochs * math.ceil(len(train) / short.batch_size),
            "predicted": None,
            "validation": _per_class(validation.labels, self.corpus.labels),
            "failure": None,
        }
        try:
            with logging_from(logging.ERROR):  # the messages of a short training are not about the run
                predicted_R = self._train_briefly(train, validation)
                facts["true"] = macro_recall(validation.labels, predicted_R)
                facts["predicted"] = _per_class(predicted_R, self.corpus.labels)
                facts["shuffled"] = self._shuffled_score(train, validation, facts)
        except TrainingError as stopped:
            facts["failure"] = str(stopped)
        return facts

    def frozen(self, start: Start) -> dict[str, Any]:
        """Fit head and linear model around the frozen LSTM like frozen training; score validation rows.

        There is no control with shuffled labels: the head stays close to that of the start, which may be
        better than chance.

        Args:
            start: that the model has the LSTM of.

        Returns:
            `true` (macro recall on validation rows), `chance`, `standard_error` (of chance), `rows` (scored)
            and `of`: which rows these are.
        """
        network, trainer = copy.deepcopy(self.model).eval(), self.config.trainer
        assert isinstance(network, WideAndDeep)
        train, validation = (
            rows.part(_sampled_rows(rows, most, self.config.seed))
            for rows, most in ((self.corpus.train, FROZEN_ROWS), (self.corpus.validation, CONTROL_VALIDATION))
        )
        features_RP = pooled_features(network.lstm, train, device=self.device, processes=Processes())
        fit_frozen(
            network.cpu(),
            start,
            train,
            features_RP,
            labels=self.corpus.labels,
            row_weights=row_weights(train, self.classes, balanced=trainer.class_weights == "balanced"),
            metric=trainer.metric,
            seed=self.config.seed,
        )
        logits_RC = predict_logits(
            network.to(self.device), validation, device=self.device, batch_size=4 * CONTROL_BATCH
        )
        chance, error = chance_level(np.bincount(validation.labels, minlength=self.classes))
        return {
            "true": macro_recall(validation.labels, logits_RC.argmax(dim=1).numpy()),
            "chance": chance,
            "standard_error": error,
            "rows": len(validation),
            "of": f"validation rows, after fitting {len(train):,}",
        }

    def _shuffled_score(self, train: TextDataset, validation: TextDataset, facts: dict[str, Any]) -> float:
        """Return the score after training with shuffled labels; the median of several if it is suspicious."""
        scores: list[float] = []
        for shuffle in range(SHUFFLES):
            random = np.random.default_rng([self.config.seed, shuffle])
            shuffled = _labelled(train, random.permutation(train.labels), self.corpus, self.config)
            scores.append(macro_recall(validation.labels, self._train_briefly(shuffled, validation)))
            if scores[0] <= leak_line(facts):
                break
        return float(np.median(scores))

    def _overfit_batch(self) -> Batch:
        """Return the first batch, truncated, without repeated texts, whose labels could conflict."""
        train = self.corpus.train
        rows = self._first_rows[:OVERFIT_ROWS]
        rows = rows[np.sort(np.unique(train.store.hashes[train.rows[rows]], return_index=True)[1])]
        short = _labelled(train, train.labels[rows], self.corpus, self.config, rows)
        return short.batch(np.arange(len(rows))).to(self.device)

    def _overfit_losses(self, trainer: TrainerConfig) -> list[float]:
        """Return the losses of one batch by step, at a constant learning rate, until it is overfit."""
        model = _without_dropout(self.model).train()
        batch = self._overfit_batch()
        optimizer = adamw(
            model,
            learning_rate=trainer.learning_rate,
            weight_decay=trainer.weight_decay,
            embedding_factor=trainer.embedding_rate,
        )
        losses: list[float] = []
        while len(losses) <= OVERFIT_STEPS:
            loss = cross_entropy(None, 0.0)(model(*batch.inputs), batch)
            losses.append(loss.item())
            if not OVERFIT_SHARE * math.log(self.classes) <= losses[-1] < math.inf:
                break
            loss.backward()  # type: ignore[no-untyped-call]
            clip(model, trainer.clip_norm)
            optimizer.step()
        return losses

    def _control_rows(self) -> int:
        batch = min(self.config.trainer.batch_size, CONTROL_BATCH)
        return min(CONTROL_ROWS, max(CONTROL_STEPS * batch, 2000))

    def _control_config(self, train: TextDataset) -> TrainerConfig:
        """Return the trainer section for a short training: small batches, about 150 steps."""
        batch = min(self.config.trainer.batch_size, CONTROL_BATCH)
        epochs = max(1, round(CONTROL_STEPS / math.ceil(len(train) / batch)))
        return dataclasses.replace(
            self.config.trainer, epochs=epochs, batch_size=batch, accumulate=1, patience=0,
            unfreeze=0, metric="macro_recall", checkpoint_every=10**9,
        )  # fmt: skip

    def _train_briefly(self, train: TextDataset, validation: TextDataset) -> Array:
        """Train, and return the predicted class (R,) of each validation row."""
        task = Classification(
            validation,
            self.corpus.labels,
            loss=self._loss,
            device=self.device,
            batch_size=4 * CONTROL_BATCH,
            processes=Processes(),
        )
        trainer = Trainer(
            copy.deepcopy(self.model),
            train,
            task,
            config=self._control_config(train),
            seed=self.config.seed,
            device=self.device,
            precision=pick_precision(self.config.trainer.precision, self.device),
            processes=Processes(),
            store=_Nowhere(),
            facts={},
        )
        model = trainer.fit()
        logits_RC = predict_logits(model, validation, device=self.device, batch_size=4 * CONTROL_BATCH)
        if not bool(logits_RC.isfinite().all()):
            raise TrainingError("the trained model's logits are non-finite")
        predicted_R: Array = logits_RC.argmax(dim=1).numpy()
        return predicted_R


class _Nowhere:
    """A `protocols.CheckpointStore` that discards everything."""

    def save(self, name: str, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
        """Discard."""

    def write_log(self, entries: list[dict[str, Any]]) -> None:
        """Discard."""


def macro_recall(truth_R: Array, predicted_R: Array) -> float:
    """Return the mean recall of the classes that have rows.

    >>> macro_recall(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])).__round__(3)
    0.833
    """
    return float(np.mean([(predicted_R[truth_R == c] == c).mean() for c in np.unique(truth_R)]))


def chance_level(rows_C: Array) -> tuple[float, float]:
    """Return the macro recall of guessing, and its standard error.

    Args:
        rows_C: rows of each class (C,); classes without rows do not count.

    >>> chance_level(np.array([50, 0, 50]))
    (0.5, 0.05)
    """
    present_P = rows_C[rows_C > 0]
    chance = 1 / len(present_P)
    return chance, math.sqrt((chance * (1 - chance) / present_P).sum()) / len(present_P)


def leak_line(control: Mapping[str, Any]) -> float:
    """Return the score of shuffled labels that shows a leak: beyond noise, and half as good as true ones.

    >>> leak_line({"true": 0.8, "chance": 0.5, "standard_error": 0.01})
    0.65
    """
    noise = control["chance"] + ERRORS * control["standard_error"]
    return float(max(noise, (control["true"] + control["chance"]) / 2))


def collapsed(predicted: Mapping[str, int], truth: Mapping[str, int]) -> bool:
    """Whether nearly all rows, 98 %, are predicted as one class although there are others.

    >>> collapsed({"bad": 99, "good": 1}, {"bad": 60, "good": 40})
    True
    >>> collapsed({"bad": 60, "good": 40}, {"bad": 50, "good": 50})
    False
    """
    rows = sum(predicted.values())
    return max(predicted.values()) >= 0.98 * rows and max(truth.values()) < rows


def predicted_classes(model: nn.Module, dataset: TextDataset, labels: list[str]) -> dict[str, int]:
    """Return the number of rows that a model predicts as each class, on the model's device."""
    device = next(model.parameters()).device
    logits_RC = predict_logits(model, dataset, device=device, batch_size=4 * CONTROL_BATCH)
    return _per_class(logits_RC.argmax(dim=1).numpy(), labels)


def _per_class(classes_R: Array, labels: list[str]) -> dict[str, int]:
    counts = np.bincount(classes_R, minlength=len(labels))
    return {label: int(count) for label, count in zip(labels, counts, strict=True)}


def _some(dataset: TextDataset, most: int, corpus: Corpus, config: Config, seed: int) -> TextDataset:
    """Return a seeded sample of a dataset's rows, truncated."""
    rows = _sampled_rows(dataset, most, seed)
    return _labelled(dataset, dataset.labels[rows], corpus, config, rows)


def _sampled_rows(dataset: TextDataset, most: int, seed: int) -> Array:
    """Return the places of a seeded sample, ascending; all if there are no more than `most`."""
    rows: Array = np.arange(len(dataset))
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def _labelled(
    dataset: TextDataset, labels: Array, corpus: Corpus, config: Config, rows: Array | None = None
) -> TextDataset:
    """Return rows of a dataset with other labels, truncated."""
    text = config.text
    return TextDataset(
        dataset.store,
        dataset.rows if rows is None else dataset.rows[rows],
        labels,
        vocabulary=corpus.vocabulary,
        max_tokens=min(text.max_tokens, CONTROL_TOKENS),
        truncate=text.truncate,
        subwords=text.subwords,
        weights=dataset.weights if rows is None else dataset.weights[rows],
    )


def _without_dropout(model: Network) -> Network:
    still = copy.deepcopy(model)
    lstm = lstm_of(still)
    lstm.dropout = lstm.embedding_dropout = lstm.word_dropout = 0.0
    return still


def _block(parameter: str) -> str:
    """Return the block that a parameter belongs to, such as ``forward_lstms.0``."""
    parts = parameter.removeprefix("lstm.").split(".")
    return ".".join(parts[:2]) if parts[0].endswith("lstms") else parts[0]
