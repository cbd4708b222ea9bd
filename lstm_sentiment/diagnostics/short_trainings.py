"""Trains with other settings than those of a run, and compares predictions of its validation rows.

All are trained on the same training rows, as many as the time allows, and so are the settings of the run.
Test rows are never read. Nothing is written into the run.

Legend: R rows, C classes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lstm_sentiment.adaptation.cross_validation import new_trainer
from lstm_sentiment.adaptation.finetuning import begin_from
from lstm_sentiment.adaptation.fitting import fit_frozen, pooled_features
from lstm_sentiment.adaptation.pretrained import Pretrained, load_pretrained
from lstm_sentiment.adaptation.resolving import Plan, resolve
from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.cli.terminal import logging_from
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.schema import Config, flatten
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import TextDataset, plan_epoch
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.diagnostics.advice import Advice, Trial, no_reference
from lstm_sentiment.diagnostics.alternatives import FEW_STEPS, LINEAR, Alternative
from lstm_sentiment.errors import SentimentError, StoppedError
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import LOWER_IS_BETTER, metrics_of
from lstm_sentiment.evaluation.significance import compare, holm
from lstm_sentiment.experiment.final_evaluation import assess
from lstm_sentiment.experiment.train import initial_model, read_rows
from lstm_sentiment.linear.baselines import fit_linear_baseline
from lstm_sentiment.models.network import Network, WideAndDeep
from lstm_sentiment.records.checkpoint_facts import LogEntry
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.system.blas import one_blas_thread
from lstm_sentiment.system.devices import DTYPES, one_training_at_a_time, pick_device, pick_precision
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.training.losses import row_weights, training_loss

log = logging.getLogger(__name__)

ENOUGH_FROZEN = 2_000  # training rows where no steps are taken
LEAST_ROWS = 500  # of the training rows, however little time there is
PLANNED = 0.7  # of the time: estimates are rough
FORWARD = 0.35  # time of a prediction, relative to a training step on the same row
FIXED_S = 2.0  # seconds of a training apart from its steps
NO_TIME = "no time left"
Array = npt.NDArray[Any]


def try_alternatives(
    config: Config,
    corpus: Corpus,
    found: list[Alternative],
    *,
    minutes: float,
    metrics: RunMetrics | None = None,
) -> Advice:
    """Train the settings of a run and alternatives to them, and compare them on the validation rows.

    The alternatives are trained in the given order, until the time is over.

    Args:
        config: of the run, resolved.
        corpus: its rows; without validation rows, every fourth training row is one.
        found: alternatives.
        minutes: for all trainings.
        metrics: of the run, if it is finished.

    Example::

        try_alternatives(config, corpus, alternatives(config, corpus), minutes=5).sentence
    """
    began = time.monotonic()
    ends = began + 60 * minutes
    metric = config.trainer.metric if config.trainer.metric in metrics_of(corpus.labels) else "macro_f1"
    with one_training_at_a_time, one_blas_thread(), torch.random.fork_rng(devices=[]):
        trainings = _Trainings(config, corpus, found, ends=ends)
        predictions, left_out = trainings.run()
    control = predictions.pop("", None)
    truth_R = trainings.validation.labels
    tried = [
        _trial(alternative, truth_R, control, predictions[alternative.option], corpus.labels, metric)
        for alternative in found
        if control is not None and alternative.option in predictions
    ]
    corrected = [
        dataclasses.replace(trial, p=p)
        for trial, p in zip(tried, holm([trial.p for trial in tried]), strict=True)
    ]
    return Advice(
        metric=metric,
        score=trainings.score(control, metric),
        seconds=control.seconds if control else 0.0,
        rows=len(trainings.places),
        of=len(trainings.train),
        validation_rows=len(truth_R),
        trials=sorted(corrected, key=lambda trial: -trial.gain),
        left_out=left_out,
        no_reference=trainings.no_reference(control, metric, metrics),
    )


def _trial(
    alternative: Alternative,
    truth_R: Array,
    control: _Predicted,
    of: _Predicted,
    labels: list[str],
    metric: str,
) -> Trial:
    """Compare an alternative with the settings of the run; its p-value is not corrected yet."""
    score = compare(truth_R, control.predicted_R, of.predicted_R, labels).scores[metric]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    low, high = sorted((sign * score.low, sign * score.high))
    return Trial(
        alternative=alternative,
        score=score.second,
        gain=sign * score.difference,
        low=low,
        high=high,
        p=score.p,
        seconds=of.seconds,
    )


def with_validation(corpus: Corpus) -> Corpus:
    """Return a corpus with validation rows: every fourth training row if there are none.

    Example::

        with_validation(corpus).validation
    """
    if not corpus.cross_validated:
        return corpus
    apart_R = np.arange(len(corpus.train)) % 4 == 3
    train, validation = (corpus.train.part(np.flatnonzero(of_R)) for of_R in (~apart_R, apart_R))
    return dataclasses.replace(corpus, train=train, validation=validation)


def stratified(labels_R: Array, rows: int, *, seed: int) -> Array:
    """Return the places of a random sample with the class frequencies of all rows, ascending.

    Each class keeps two rows if it has them.

    >>> stratified(np.array([0, 0, 0, 0, 0, 0, 1, 1]), 4, seed=0).tolist()[-2:]
    [6, 7]
    """
    random, parts = np.random.default_rng(seed), []
    for label in np.unique(labels_R):
        places = random.permutation(np.flatnonzero(labels_R == label))
        parts.append(places[: max(2, round(rows * len(places) / len(labels_R)))])
    return np.sort(np.concatenate(parts))


def rows_in_time(
    epochs: Sequence[float],
    *,
    seconds: float,
    seconds_per_row: float,
    validation_rows: int,
    enough: int,
    most: int,
) -> int:
    """Return how many training rows all trainings, or the first of them, can be trained on in some time.

    Args:
        epochs: of each training: the one with the settings of the run, then the alternatives.
        seconds: for all.
        seconds_per_row: of a training step.
        validation_rows: predicted by each.
        enough: rows to learn from; as long as there are fewer, the last training does not count, down to
            three trainings.
        most: rows that there are.

    >>> given = {"seconds_per_row": 0.01, "validation_rows": 100, "enough": 2000, "most": 4000}
    >>> [rows_in_time([2.0] * 6, seconds=seconds, **given) for seconds in (1000, 200, 100)]
    [4000, 2365, 1531]
    """
    rows = 0
    for counted in range(len(epochs), min(3, len(epochs)) - 1, -1):
        passes = (seconds - FIXED_S * counted) / (seconds_per_row * sum(epochs[:counted]))
        rows = int(passes - FORWARD * validation_rows)
        if rows >= min(enough, most):
            break
    return min(most, max(LEAST_ROWS, rows))


@dataclass(frozen=True, kw_only=True)
class _Predicted:
    """Predicted classes of the validation rows, (R,), and the seconds that the training took."""

    predicted_R: Array
    seconds: float


class _Trainings:
    """The trainings of `try_alternatives`, on the same rows."""

    def __init__(self, config: Config, corpus: Corpus, found: list[Alternative], *, ends: float) -> None:
        self.config, self.corpus, self.found, self.ends = config, corpus, found, ends
        apart = with_validation(corpus)
        self.train, self.validation = apart.train, apart.validation
        self.device = pick_device(config.trainer.device)
        self.precision = pick_precision(config.trainer.precision, self.device)
        self.pretrained = load_pretrained(config)
        self.places = np.arange(len(self.train))

    def run(self) -> tuple[dict[str, _Predicted], dict[str, str]]:
        """Return the predictions by option, under the empty one those of the run; and what was left out."""
        every = frozenset(flatten(self.config))
        predictions: dict[str, _Predicted] = {}
        left_out: dict[str, str] = {}
        with logging_from(logging.ERROR):
            own = self._read(resolve(self.config, every, cache=cache_folder()), self.pretrained)
            self.places = stratified(self.train.labels, self._rows(own), seed=self.config.seed)
        for alternative in (None, *self.found):
            option = alternative.option if alternative else ""
            if time.monotonic() > self.ends or (alternative and "" not in predictions):
                left_out[option] = NO_TIME
                continue
            log.info("  %s ...", option or "the settings of the run")
            started = time.monotonic()
            try:
                with logging_from(logging.ERROR):
                    predicted_R = self._predicted(alternative, own)
            except StoppedError:
                left_out[option] = NO_TIME
            except SentimentError as error:
                left_out[option] = str(error)
            else:
                predictions[option] = _Predicted(
                    predicted_R=predicted_R, seconds=round(time.monotonic() - started, 1)
                )
        return predictions, {option or "as the run": why for option, why in left_out.items()}

    def score(self, control: _Predicted | None, metric: str) -> float | None:
        """Return the score of the settings of the run."""
        if control is None:
            return None
        same = compare(self.validation.labels, control.predicted_R, control.predicted_R, self.corpus.labels)
        return same.scores[metric].first

    def no_reference(self, control: _Predicted | None, metric: str, metrics: RunMetrics | None) -> str | None:
        """Return why nothing can be compared with the settings of the run; None if it can."""
        if control is None:
            return None
        return no_reference(
            self.validation.labels,
            control.predicted_R,
            self.corpus.labels,
            metric=metric,
            every_row=len(self.places) == len(self.train),
            of_run=metrics.validation[metric] if metrics and metric in metrics.validation else None,
        )

    def _predicted(self, alternative: Alternative | None, own: Plan) -> Array:
        if alternative is None:
            return self._trained(own, self.pretrained)
        if alternative.option == LINEAR:
            return self._linear()
        plan = alternative.plan(self.config, self.corpus)
        keeps = plan.config.pretrained == self.config.pretrained
        pretrained = self.pretrained if keeps else None
        return self._trained(self._read(plan, pretrained), pretrained)

    def _read(self, plan: Plan, pretrained: Pretrained | None) -> Plan:
        return read_rows(plan, frozenset(flatten(plan.config)), pretrained, cache_folder())

    def _rows(self, own: Plan) -> int:
        """Return how many training rows the alternatives can be trained on in the time.

        If that is less than is needed to learn, the last ones, which usually help least, do not count: they
        are tried if time is left.
        """
        epochs = [self._epochs(self.config)]
        for alternative in self.found:
            epochs.append(float(alternative.settings.get("trainer.epochs", epochs[0])))
            if alternative.option == LINEAR:
                epochs[-1] = FORWARD
        return rows_in_time(
            epochs,
            seconds=PLANNED * (self.ends - time.monotonic()),
            seconds_per_row=self._seconds_per_row(own),
            validation_rows=len(self.validation),
            enough=self._enough(),
            most=len(self.train),
        )

    def _enough(self) -> int:
        """Return the training rows that make as many steps as a model takes to learn."""
        trainer = self.config.trainer
        if self.config.adapt == "frozen":
            return ENOUGH_FROZEN
        return math.ceil(FEW_STEPS * trainer.batch_size * trainer.accumulate / trainer.epochs)

    @staticmethod
    def _epochs(config: Config) -> float:
        return FORWARD if config.adapt == "frozen" else float(config.trainer.epochs)

    def _seconds_per_row(self, own: Plan) -> float:
        """Time a few training steps without updates of the model."""
        assert own.corpus is not None
        trainer = self.config.trainer
        network = initial_model(own.config, own.corpus, self.pretrained, start=own.start, fitted=False)
        network.train().to(self.device)
        loss = training_loss(trainer, self.train, len(self.corpus.labels))
        plan = plan_epoch(self.train.lengths, batch_size=trainer.batch_size, accumulate=1, seed=0, epoch=0)
        rows, started = 0, 0.0
        for number, [places] in enumerate(plan[:4]):
            started = time.monotonic() if number == min(1, len(plan) - 1) else started
            batch = own.corpus.train.batch(places % len(own.corpus.train)).to(self.device)
            with torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
                of_batch = loss(network(*batch.inputs), batch)
            of_batch.backward()  # type: ignore[no-untyped-call]
            rows += len(places) if number >= min(1, len(plan) - 1) else 0
        return max(1e-6, (time.monotonic() - started) / rows)

    def _sampled(self, plan: Plan) -> Corpus:
        """Return the sampled rows of a plan, without test rows.

        Raises:
            SentimentError: the settings lead to other rows.
        """
        assert plan.corpus is not None
        corpus = with_validation(plan.corpus)
        own, read = (self.train, self.validation), (corpus.train, corpus.validation)
        if any(not np.array_equal(a.rows, b.rows) for a, b in zip(own, read, strict=True)):
            raise SentimentError("it reads other rows than the run, so that the scores cannot be compared")
        return dataclasses.replace(corpus, train=corpus.train.part(self.places), test=None)

    def _linear(self) -> Array:
        train, labels = self.train.part(self.places), self.corpus.labels
        balanced = self.config.trainer.class_weights == "balanced"
        baseline = fit_linear_baseline(
            train,
            {"validation": self.validation},
            labels=labels,
            vocabulary_size=len(self.corpus.vocabulary),
            row_weights=row_weights(train, len(labels), balanced=balanced),
            validation_weights=row_weights(self.validation, len(labels), balanced=balanced),
            metric=self.config.trainer.metric,
            seed=self.config.seed,
        )
        predicted_R: Array = baseline.logits["validation"].argmax(axis=1)
        return predicted_R

    def _trained(self, plan: Plan, pretrained: Pretrained | None) -> Array:
        """Train as a plan says, and return the predicted classes of the validation rows."""
        corpus = self._sampled(plan)
        config = dataclasses.replace(plan.config, baseline=False)
        network = initial_model(config, corpus, pretrained, start=plan.start)
        if config.adapt == "frozen" and plan.start is not None:
            self._fit_frozen(network, plan, corpus)
        else:
            network = self._fit(network, plan, corpus, config)
        return self._classes(network, corpus.validation)

    def _fit_frozen(self, network: Network, plan: Plan, corpus: Corpus) -> None:
        assert isinstance(network, WideAndDeep)
        assert plan.start is not None
        trainer, classes = plan.config.trainer, len(corpus.labels)
        network.eval().to(self.device)
        features_RP = pooled_features(network.lstm, corpus.train, device=self.device, processes=Processes())
        fit_frozen(
            network.cpu(),
            plan.start,
            corpus.train,
            features_RP,
            labels=corpus.labels,
            row_weights=row_weights(corpus.train, classes, balanced=trainer.class_weights == "balanced"),
            metric=trainer.metric,
            seed=plan.config.seed,
        )
        network.to(self.device)

    def _fit(self, network: Network, plan: Plan, corpus: Corpus, config: Config) -> Network:
        """Train by gradient steps, and choose the best epoch, shares and class bias like a run."""
        processes = Processes()
        if plan.start is not None:
            begin_from(network, plan.start, corpus, config, device=self.device, processes=processes)
        with tempfile.TemporaryDirectory(prefix="lstm_sentiment-", ignore_cleanup_errors=True) as place:
            folder = RunFolder(Path(place) / "run")
            words = corpus.vocabulary.tokens[len(SPECIAL_TOKENS) :]
            folder.begin(
                config_yaml=config_yaml(config),
                vocabulary=words,
                labels=corpus.labels,
                label_map=corpus.label_map,
            )
            trainer = new_trainer(
                config,
                corpus,
                corpus.train,
                network.to(self.device),
                processes=processes,
                precision=self.precision,
                store=_OnlyBest(folder),
                facts={},
                watch=_Deadline(self.ends),
            )
            trainer.fit()
            assess(folder, config, corpus, trainer)
        trained: Any = trainer.evaluated_model()
        found: Network = trained
        return found

    def _classes(self, network: Network, rows: TextDataset) -> Array:
        logits_RC = predict_logits(network, rows, device=self.device, batch_size=256)
        predicted_R: Array = logits_RC.argmax(dim=1).numpy()
        return predicted_R


class _OnlyBest:
    """A `protocols.CheckpointStore` that keeps the best checkpoint only."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def save(self, name: str, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
        """Save the best checkpoint; discard others."""
        if name == BEST:
            self.folder.save(name, groups, facts)

    def write_log(self, entries: list[LogEntry]) -> None:
        """Discard."""


class _Deadline:
    """A `protocols.Watch` that stops training at a time of the monotonic clock."""

    def __init__(self, ends: float) -> None:
        self.ends = ends

    def asked_to_stop(self) -> int:
        """Return SIGTERM after the deadline."""
        return int(signal.SIGTERM) if time.monotonic() > self.ends else 0

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Interrupt nothing."""
        yield

    def saved(self, step: int) -> None:
        """Ignore checkpoints."""
