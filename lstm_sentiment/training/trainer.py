"""The training loop, independent of files and command-line options.

There is no parameter for test rows. The state that must survive a crash is `TrainingState`; everything else
is a pure function of seed and step.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lstm_sentiment.config.schema import METRICS, TrainerConfig
from lstm_sentiment.data.dataset import Array, Batch, TextDataset, plan_epoch, rank_share
from lstm_sentiment.errors import StoppedError, TrainingError
from lstm_sentiment.evaluation.metrics import better
from lstm_sentiment.models.layers import hold_frozen
from lstm_sentiment.records.checkpoint_facts import LogEntry, SavedTraining, TrainingState
from lstm_sentiment.records.json_values import to_json
from lstm_sentiment.system.devices import DTYPES, out_of_memory_as_error, seed_random_numbers
from lstm_sentiment.system.distributed import Processes, wrap_ddp
from lstm_sentiment.training.nonfinite import culprits_of
from lstm_sentiment.training.optimizer import adamw, clip, load_optimizer, optimizer_tensors
from lstm_sentiment.training.progress import Progress, report_first_loss
from lstm_sentiment.training.protocols import (
    CheckpointStore,
    EpochScores,
    Scalars,
    Task,
    Watch,
)
from lstm_sentiment.training.schedule import ema_decay_at, learning_rate_at, step_seed

log = logging.getLogger(__name__)

AVERAGE_EVERY = 8  # steps between two updates of the moving average
RECORD_EVERY = 10  # steps between two points of a curve
MAX_OVERFLOWS = 25  # fp16 steps in a row that loss scaling may skip before training stops


class Trainer:
    """Trains a model.

    Args:
        model: passed to the task's loss.
        train: training rows.
        task: the objective.
        config: the `trainer` section.
        seed: of the order of batches and of dropout.
        device: where the model is.
        precision: fp32, bf16 or fp16.
        processes: the processes of the job.
        store: of checkpoints.
        facts: saved with each checkpoint, to identify the run.
        scalars: sink for curves; in all processes or in none.
        watch: stop requests and checkpoint notifications; in all processes or in none.
    """

    def __init__(
        self,
        model: nn.Module,
        train: TextDataset,
        task: Task,
        *,
        config: TrainerConfig,
        seed: int,
        device: torch.device,
        precision: str,
        processes: Processes,
        store: CheckpointStore,
        facts: Mapping[str, Any],
        scalars: Scalars | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.model, self.train, self.task, self.config, self.seed = model, train, task, config, seed
        self.device, self.precision, self.processes = device, precision, processes
        self.store, self.facts, self.scalars, self.watch = store, facts, scalars, watch
        self.state = TrainingState()
        self.average = copy.deepcopy(model).requires_grad_(requires_grad=False) if config.ema else None
        self.optimizer = adamw(
            model,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            embedding_factor=config.embedding_rate,
            layer_decay=config.layer_decay,
        )
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
        self.steps_per_epoch = len(self._plan(0))
        self.total_steps = self.steps_per_epoch * config.epochs
        self._parallel = model
        if processes.world_size > 1:
            self._parallel = wrap_ddp(model)
        self._overflows = 0

    def fit(self) -> nn.Module:
        """Train to the end and return the model, or its moving average, after the last step.

        Raises:
            TrainingError: a loss or gradient is non-finite; the weights were not updated with it.
            OutOfMemoryError: a batch does not fit, usually the longest one, which is tried first.
            StoppedError: stopped by a signal; the last step is in the checkpoint.
        """
        state, config = self.state, self.config
        self._parallel.train()
        self._take_memory()
        while not state.finished:
            started = time.perf_counter()
            plan = self._plan(state.epoch)
            tokens, trained_s = 0, 0.0
            with Progress(
                state.epoch,
                epochs=config.epochs,
                step=state.step_in_epoch,
                steps=len(plan),
                shown=self.processes.is_main,
            ) as progress:
                for index in range(state.step_in_epoch, len(plan)):
                    loss = self._step(plan[index])
                    tokens += sum(int(self.train.lengths[rows].sum()) for rows in plan[index])
                    state.step_in_epoch = index + 1
                    shown = ""
                    if index % 10 == 0:
                        speed = tokens / (trained_s + time.perf_counter() - started)
                        shown = f"loss {loss:.3f}  {self._best()}  {speed:,.0f} tokens/s"
                    progress.advance(shown)
                    self._stop_if_asked(started)
                    if state.step % config.checkpoint_every == 0 and index + 1 < len(plan):
                        trained_s += time.perf_counter() - started
                        started = self._tick(started)
                        self._save_last()
            trained_s += time.perf_counter() - started
            self._finish_epoch(tokens / max(trained_s, 1e-9))
            self._tick(started)
            self._save_last()
        return self.average or self.model

    def _stop_if_asked(self, started: float) -> None:
        """Save and stop if any process got a signal; all processes call this after each step."""
        if self.watch is None:
            return
        signal_number = self.watch.asked_to_stop()
        asked: float = signal_number
        if self.processes.world_size > 1:  # a signal may reach only some processes, or at different steps
            asked = self.processes.sum(signal_number, self.device)
        if asked:
            self._tick(started)
            self._save_last()
            number = signal_number or signal.SIGTERM
            raise StoppedError(
                number, f"stopped by {signal.Signals(number).name} after step {self.state.step}"
            )

    def _scores(self) -> EpochScores:
        """Validate; a signal interrupts it immediately, since it may take long and can be repeated."""
        alone = self.processes.world_size == 1  # otherwise the others would wait for this process
        try:
            at_once = self.watch.at_once() if self.watch and alone else contextlib.nullcontext()
            with at_once, out_of_memory_as_error(f"in validation after step {self.state.step}"):
                return self.task.score(self.evaluated_model())
        except StoppedError:
            self._save_last()
            raise

    def evaluated_model(self) -> nn.Module:
        """Return the model to validate and save: the moving average if there is one."""
        return self.average or self.model

    def resume(self, tensors: Mapping[str, Mapping[str, Tensor]], saved: SavedTraining) -> None:
        """Restore a checkpoint that `fit` saved as ``last``; of a finished run only its state is needed."""
        self.state = saved.training
        if self.state.finished and not tensors:
            return
        self.model.load_state_dict(tensors["model"])
        if self.average is not None:
            self.average.load_state_dict(tensors["average"])
        load_optimizer(self.optimizer, self.model, tensors["optimizer"])
        if saved.scaler:
            self.scaler.load_state_dict(saved.scaler)

    def _take_memory(self) -> None:
        """Allocate memory for the longest batch by a forward and backward pass without side effects.

        Otherwise memory grows with each new length, and a run with too little memory fails late.
        """
        rows = np.argsort(-self.train.lengths, kind="stable")[: self.config.batch_size]
        share = rank_share([rows], rank=self.processes.rank, world_size=self.processes.world_size)
        self._loss_and_gradient(share[0][0])

    def _loss_and_gradient(self, rows: Array) -> list[Tensor]:
        """Return the loss and gradient of rows, without side effects."""
        batch = self.train.batch(rows).to(self.device)
        learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with self._in_memory(batch):
            loss = self.task.loss(self.model, batch)
            found = torch.autograd.grad(loss, learned, allow_unused=True)
        return [loss.detach(), *(gradient for gradient in found if gradient is not None)]

    @contextlib.contextmanager
    def _in_memory(self, batch: Batch) -> Iterator[None]:
        """Autocast to the run's precision; out-of-memory errors name the batch."""
        what = "a batch of {} texts, padded to {} tokens".format(*batch.tokens_BT.shape)
        autocast = torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32")
        with out_of_memory_as_error(f"before step {self.state.step + 1}: {what}"), autocast:
            yield

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
        total, uniform = 0.0, 0.0
        for i, (rows, weights) in enumerate(share):
            batch = self.train.batch(rows, weights).to(self.device)
            uniform += self.task.uniform_loss(batch) if state.step == 0 else 0.0
            if isinstance(self._parallel, DistributedDataParallel):  # all-reduce once per step
                self._parallel.require_backward_grad_sync = i == len(share) - 1
            with self._in_memory(batch):
                loss = self.task.loss(self._parallel, batch)
            with out_of_memory_as_error("in the backward pass"):
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        losses = self.processes.gather(total, self.device)
        self.scaler.unscale_(self.optimizer)
        hold_frozen(self.model, epoch=state.epoch, epochs_per_layer=config.unfreeze)
        norm = clip(self.model, config.clip_norm)
        self._check_finite(losses, norm, batches)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if state.step == 0:
            state.first_loss = sum(losses) / len(losses)
            expected = self._mean(uniform)
            report_first_loss(state.first_loss, self.task.choices, expected)
        state.loss_sum += total
        state.step += 1
        if state.step % AVERAGE_EVERY == 0:
            self._update_average()
        if self.scalars is not None and state.step % RECORD_EVERY == 0:
            points = {"loss": sum(losses) / len(losses), "learning_rate": rate, "gradient_norm": norm}
            self.scalars.add(state.step, {f"train/{name}": value for name, value in points.items()})
        return total

    def _check_finite(self, losses: list[float], norm: float, batches: list[Array]) -> None:
        """Raise if a loss or gradient is non-finite, in all processes with the same message."""
        bad_ranks = [rank for rank, loss in enumerate(losses) if not math.isfinite(loss)]
        if not bad_ranks and math.isfinite(norm):
            self._overflows = 0
            return
        if self.scaler.is_enabled() and not bad_ranks and self._overflows < MAX_OVERFLOWS:
            self._overflows += 1  # the scaler skips this step and lowers its scale
            return
        what = f"loss is {losses[bad_ranks[0]]}" if bad_ranks else f"gradient norm is {norm}"
        culprits = culprits_of(batches, self._loss_and_gradient, self.processes, self.device)
        ranks, size = bad_ranks or range(len(losses)), self.processes.world_size
        suspects = np.concatenate([batch[rank::size] for batch in batches for rank in ranks])
        where = self.train.where(np.array(culprits or suspects))
        raise TrainingError(
            f"the {what} at step {self.state.step} of epoch {self.state.epoch + 1} ({where}"
            f"{'' if culprits else ', or one of them'}); the weights were not updated. Lower "
            "trainer.learning_rate or trainer.clip_norm, or set trainer.precision fp32"
        )

    def _update_average(self) -> None:
        """Update the moving average to the last step; the steps since its last update count as one."""
        state = self.state
        if self.average is None or state.averaged == state.step:
            return
        steps = range(state.averaged, state.step)
        decay = math.prod(ema_decay_at(step, decay=self.config.ema) for step in steps)
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        update(list(self.average.parameters()), list(self.model.parameters()), None)
        state.averaged = state.step

    def _finish_epoch(self, tokens_per_s: float) -> None:
        """Validate, save the best checkpoint, check early stopping."""
        state, config = self.state, self.config
        self._update_average()
        scores = self._scores()
        value = scores[config.metric] if math.isfinite(scores["loss"]) else math.nan
        if better(value, state.best_score, config.metric):
            state.best_score, state.best_epoch, state.epochs_without_gain = value, state.epoch, 0
            if self.processes.is_main:
                model = self.evaluated_model().state_dict()
                facts = {**self.facts, "epoch": state.epoch, "scores": to_json(scores)}
                self.store.save("best", {"model": model}, facts)
        else:
            state.epochs_without_gain += 1
        shown = {name: scores[name] for name in METRICS if name in scores}
        entry: LogEntry = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": self._mean(state.loss_sum) / self.steps_per_epoch,
            **{f"validation_{name}": value for name, value in shown.items()},
            "tokens_per_s": round(tokens_per_s),
        }
        state.history.append(entry)
        is_best = state.best_epoch == state.epoch
        self.task.report(entry, scores, epochs=config.epochs, is_best=is_best)
        if self.scalars is not None:
            points = {f"validation/{name}": value for name, value in shown.items()}
            self.scalars.add(state.step, {**points, "train/tokens_per_s": tokens_per_s})
        state.epoch, state.step_in_epoch, state.loss_sum = state.epoch + 1, 0, 0.0
        tired = config.patience and state.epochs_without_gain >= config.patience
        state.finished = bool(tired) or state.epoch == config.epochs
        if tired and state.epoch < config.epochs:
            log.info("no better %s for %d epochs: stopping early", config.metric, config.patience)

    def _save_last(self) -> None:
        """Save everything needed to resume; it is the same in every process."""
        self.state.loss_sum = self._mean(self.state.loss_sum)
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
        if self.scalars is not None:  # first, so that a resumed run repeats no point
            self.scalars.flush()
        self.store.write_log(self.state.history)  # before the checkpoint, too
        self.store.save("last", groups, {**self.facts, "training": training, "scaler": scaler})
        if self.watch is not None:
            self.watch.saved(self.state.step)

    def _mean(self, value: float) -> float:
        return self.processes.sum(value, self.device) / self.processes.world_size

    def _tick(self, started: float) -> float:
        now = time.perf_counter()
        self.state.elapsed_s += now - started
        return now

    def _best(self) -> str:
        best = self.state.best_score
        return f"best {self.config.metric} {best:.3f}" if best is not None else "no score yet"
