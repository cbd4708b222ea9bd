"""The training loop: it is handed a model, two datasets and a loss, and knows no file and no flag.

There is no parameter for test rows. What must survive a crash is one explicit value,
`TrainingState`; everything else is a pure function of seed and step.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from lstm_sentiment.config import METRICS, TrainerConfig
from lstm_sentiment.dataset import TextDataset, plan_epoch, rank_share
from lstm_sentiment.distributed import Processes
from lstm_sentiment.errors import TrainingError
from lstm_sentiment.hardware import DTYPES, seed_random_numbers
from lstm_sentiment.inference import predict_logits
from lstm_sentiment.metrics import better, score
from lstm_sentiment.optimization import Loss, adamw, clip, load_optimizer, optimizer_tensors
from lstm_sentiment.schedule import ema_decay_at, learning_rate_at, step_seed

log = logging.getLogger(__name__)

AVERAGE_EVERY = 8  # steps between two updates of the moving average
MAX_OVERFLOWS = 25  # fp16 steps in a row that loss scaling may skip before training stops


class CheckpointStore(Protocol):
    """Where the loop keeps named tensors and plain facts (see `checkpoint.RunFolder`)."""

    def save(self, name: str, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
        """Keep them under a name, replacing what was there."""

    def write_log(self, entries: list[dict[str, Any]]) -> None:
        """Keep one entry per epoch."""


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


class Trainer:
    """Trains a model.

    Args:
        model: called with `Batch.inputs`, returns logits (B, C).
        train: rows to learn from.
        validation: rows that pick the best epoch.
        labels: class names.
        loss: of logits and batch: the sum of the rows' weighted losses.
        config: the `trainer` section.
        seed: of the order of batches and of dropout.
        device: where the model is.
        precision: fp32, bf16 or fp16.
        processes: the processes of the job.
        store: where checkpoints go.
        facts: kept with each checkpoint, to recognise the run by.
    """

    def __init__(
        self,
        model: nn.Module,
        train: TextDataset,
        validation: TextDataset,
        *,
        labels: list[str],
        loss: Loss,
        config: TrainerConfig,
        seed: int,
        device: torch.device,
        precision: str,
        processes: Processes,
        store: CheckpointStore,
        facts: Mapping[str, Any],
    ) -> None:
        self.model, self.train, self.validation, self.labels = model, train, validation, labels
        self.loss, self.config, self.seed = loss, config, seed
        self.device, self.precision, self.processes = device, precision, processes
        self.store, self.facts = store, facts
        self.state = TrainingState()
        self.average = copy.deepcopy(model).requires_grad_(requires_grad=False) if config.ema else None
        self.optimizer = adamw(
            model,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            embedding_factor=config.embedding_rate,
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
        self.steps_per_epoch = len(self._plan(0))
        self.total_steps = self.steps_per_epoch * config.epochs
        self._parallel = model
        if processes.world_size > 1:
            self._parallel = DistributedDataParallel(model)
        self._overflows = 0

    def fit(self) -> nn.Module:
        """Train to the end and return the model, or its moving average, as it is after the last step.

        Raises:
            TrainingError: a loss or gradient is not finite; nothing was updated with it.
        """
        state, config = self.state, self.config
        self._parallel.train()
        while not state.finished:
            started = time.perf_counter()
            plan = self._plan(state.epoch)
            tokens = 0
            with self._progress(state.epoch, plan) as bar:
                for index in range(state.step_in_epoch, len(plan)):
                    loss = self._step(plan[index])
                    tokens += sum(int(self.train.lengths[rows].sum()) for rows in plan[index])
                    state.step_in_epoch = index + 1
                    bar.update(1)
                    if index % 10 == 0:
                        speed = tokens / (time.perf_counter() - started)
                        bar.set_postfix_str(f"loss {loss:.3f}, {self._best()}, {speed:,.0f} tokens/s")
                    if state.step % config.checkpoint_every == 0 and index + 1 < len(plan):
                        started = self._tick(started)
                        self._save_last()
            trained_s = time.perf_counter() - started
            self._finish_epoch(tokens / max(trained_s, 1e-9))
            self._tick(started)
            self._save_last()
        return self.average or self.model

    def evaluated_model(self) -> nn.Module:
        """Return what is validated and saved: the moving average if there is one, else the model."""
        return self.average or self.model

    def resume(self, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
        """Take over a checkpoint that `fit` saved as ``last``."""
        self.model.load_state_dict(tensors["model"])
        if self.average is not None:
            self.average.load_state_dict(tensors["average"])
        load_optimizer(self.optimizer, self.model, tensors["optimizer"])
        if facts["scaler"]:
            self.scaler.load_state_dict(facts["scaler"])
        self.state = TrainingState(**facts["training"])

    def _plan(self, epoch: int) -> list[list[Any]]:
        return plan_epoch(
            self.train.lengths,
            batch_size=self.config.batch_size,
            accumulate=self.config.accumulate,
            seed=self.seed,
            epoch=epoch,
        )

    def _step(self, batches: list[Any]) -> float:
        """Do one optimizer step and return this process's loss."""
        state, config = self.state, self.config
        seed = step_seed(self.seed, step=state.step, rank=self.processes.rank)
        seed_random_numbers(seed, self.device)
        rate = learning_rate_at(
            state.step, total_steps=self.total_steps, peak=config.learning_rate, warmup=config.warmup
        )
        self.optimizer.set_learning_rate(rate)
        share = rank_share(batches, rank=self.processes.rank, world_size=self.processes.world_size)
        total = 0.0
        for i, (rows, weights) in enumerate(share):
            batch = self.train.batch(rows, weights).to(self.device)
            if isinstance(self._parallel, DistributedDataParallel):  # exchange gradients once per step
                self._parallel.require_backward_grad_sync = i == len(share) - 1
            with torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
                logits_BC = self._parallel(*batch.inputs)
            loss = self.loss(logits_BC, batch)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        self.scaler.unscale_(self.optimizer)
        norm = clip(self.model, config.clip_norm)
        self._check_finite(total, norm, batches)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if state.step == 0:
            state.first_loss = self.processes.sum(total, self.device) / self.processes.world_size
            self._report_first_loss(state.first_loss)
        state.loss_sum += total
        state.step += 1
        if state.step % AVERAGE_EVERY == 0:
            self._update_average()
        return total

    def _check_finite(self, loss: float, norm: float, batches: list[Any]) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            self._overflows = 0
            return
        if self.scaler.is_enabled() and math.isfinite(loss) and self._overflows < MAX_OVERFLOWS:
            self._overflows += 1  # the scaler skips this step and lowers its scale
            return
        what = "loss" if not math.isfinite(loss) else "gradient norm"
        rows = ", ".join(str(row) for row in np.concatenate(batches)[:8])
        raise TrainingError(
            f"the {what} is {loss if what == 'loss' else norm} at step {self.state.step} of epoch "
            f"{self.state.epoch + 1} (training rows {rows}, ...); nothing was updated with it. "
            "Lower trainer.learning_rate or trainer.clip_norm, or set trainer.precision fp32"
        )

    def _update_average(self) -> None:
        """Bring the moving average up to the last step; the steps since its last update count as one."""
        state = self.state
        if self.average is None or state.averaged == state.step:
            return
        steps = range(state.averaged, state.step)
        decay = math.prod(ema_decay_at(step, decay=self.config.ema) for step in steps)
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        update(list(self.average.parameters()), list(self.model.parameters()), None)
        state.averaged = state.step

    def _finish_epoch(self, tokens_per_s: float) -> None:
        """Validate, keep the best, decide whether to go on."""
        state, config = self.state, self.config
        self._update_average()
        logits = predict_logits(
            self.evaluated_model(),
            self.validation,
            device=self.device,
            batch_size=4 * config.batch_size,
            processes=self.processes,
        )
        scores = score(self.validation.labels, logits.double().softmax(1).numpy(), self.labels)
        value = scores[config.metric] if math.isfinite(scores["loss"]) else math.nan
        if better(value, state.best_score, config.metric):
            state.best_score, state.best_epoch, state.epochs_without_gain = value, state.epoch, 0
            if self.processes.is_main:
                model = self.evaluated_model().state_dict()
                facts = {**self.facts, "epoch": state.epoch, "scores": scores}
                self.store.save("best", {"model": model}, facts)
        else:
            state.epochs_without_gain += 1
        loss = self.processes.sum(state.loss_sum, self.device) / self.processes.world_size
        entry = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": loss / self.steps_per_epoch,
            **{f"validation_{name}": scores[name] for name in METRICS if name in scores},
            "tokens_per_s": round(tokens_per_s),
        }
        state.history.append(entry)
        self._report_epoch(entry, scores)
        state.epoch, state.step_in_epoch, state.loss_sum = state.epoch + 1, 0, 0.0
        tired = config.patience and state.epochs_without_gain >= config.patience
        state.finished = bool(tired) or state.epoch == config.epochs
        if tired and state.epoch < config.epochs:
            log.info("no better %s for %d epochs: stopping early", config.metric, config.patience)

    def _save_last(self) -> None:
        """Keep everything that going on needs; it is the same in every process."""
        total = self.processes.sum(self.state.loss_sum, self.device)
        self.state.loss_sum = total / self.processes.world_size
        if not self.processes.is_main:
            return
        groups: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.model),
        }
        if self.average is not None:
            groups["average"] = self.average.state_dict()
        training = dataclasses.asdict(self.state)
        scaler = self.scaler.state_dict() if self.scaler.is_enabled() else None
        self.store.save("last", groups, {**self.facts, "training": training, "scaler": scaler})
        self.store.write_log(self.state.history)

    def _tick(self, started: float) -> float:
        now = time.perf_counter()
        self.state.elapsed_s += now - started
        return now

    def _best(self) -> str:
        best = self.state.best_score
        return f"best {self.config.metric} {best:.3f}" if best is not None else "no score yet"

    def _progress(self, epoch: int, plan: list[Any]) -> tqdm[Any]:
        return tqdm(
            total=len(plan),
            initial=self.state.step_in_epoch,
            desc=f"epoch {epoch + 1}/{self.config.epochs}",
            unit="step",
            leave=False,
            disable=not (self.processes.is_main and log.isEnabledFor(logging.INFO) and sys.stderr.isatty()),
        )

    def _report_first_loss(self, first_loss: float) -> None:
        expected = math.log(len(self.labels))
        usual = abs(first_loss - expected) < 0.35
        verdict = "as it should be" if usual else "unusual: are the vectors very large?"
        log.info(
            "first loss %.3f; a guess among %d classes costs ln(%d) = %.3f: %s",
            first_loss, len(self.labels), len(self.labels), expected, verdict,
        )  # fmt: skip

    def _report_epoch(self, entry: dict[str, Any], scores: dict[str, Any]) -> None:
        mark = " *" if self.state.best_epoch == self.state.epoch else ""
        log.info(
            "epoch %d/%d  train loss %.4f  validation loss %.4f  accuracy %.4f  macro-F1 %.4f  %s tokens/s%s",
            entry["epoch"], self.config.epochs, entry["train_loss"], scores["loss"], scores["accuracy"],
            scores["macro_f1"], f"{entry['tokens_per_s']:,}", mark,
        )  # fmt: skip
        predicted = np.array(scores["confusion"]).sum(axis=0)
        if (predicted > 0).sum() == 1:
            log.warning(
                "every validation text was called '%s': nothing is learned yet. If this lasts, lower "
                "trainer.learning_rate, set trainer.class_weights balanced, or look at the labels",
                self.labels[int(predicted.argmax())],
            )
