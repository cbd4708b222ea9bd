"""The training loop: it learns, equals a plain loop, keeps the best epoch, and stops at errors."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from reference import Weights, train_plainly
from torch import Tensor, nn

import lstm_sentiment.training.classification as classification_module
from lstm_sentiment.config.schema import METRICS, Config
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.dataset import Batch
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import OutOfMemoryError, StoppedError, TrainingError
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.network import new_network
from lstm_sentiment.records.checkpoint_facts import SavedTraining, TrainingState
from lstm_sentiment.records.json_values import from_json
from lstm_sentiment.records.scores import Scores
from lstm_sentiment.system.devices import lstm_takes_bf16
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.training import progress
from lstm_sentiment.training.classification import Classification
from lstm_sentiment.training.losses import Loss, cross_entropy
from lstm_sentiment.training.protocols import Watch
from lstm_sentiment.training.trainer import Trainer

NO_DROPOUT = ("--model.dropout=0", "--model.embedding_dropout=0", "--model.word_dropout=0")
LEARNS_QUICKLY = ("--trainer.epochs=6", "--trainer.ema=0.8", "--trainer.learning_rate=0.03")
Configure = Callable[..., Config]


@dataclass
class MemoryStore:
    """A `CheckpointStore` that keeps every save."""

    saved: list[tuple[str, dict[str, Weights], dict[str, Any]]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    def save(self, name: str, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
        kept = {group: clone(tensors) for group, tensors in groups.items()}
        self.saved.append((name, kept, copy.deepcopy(dict(facts))))

    def write_log(self, entries: list[dict[str, Any]]) -> None:
        self.log = copy.deepcopy(entries)

    def names(self) -> list[str]:
        return [name for name, _, _ in self.saved]


def clone(tensors: Mapping[str, Tensor]) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def prepared(config: Config) -> Corpus:
    return prepare(config.data, config.text, seed=config.seed, cache=cache_folder())


def make_trainer(
    config: Config,
    *,
    loss: Loss | None = None,
    store: MemoryStore | None = None,
    precision: str = "fp32",
    watch: Watch | None = None,
    corpus: Corpus | None = None,
) -> Trainer:
    """Return a trainer on the CPU, as built by `train.run`; of rows that were read before, if given."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    corpus = corpus or prepared(config)
    torch.manual_seed(config.seed)
    model = new_network(
        corpus.vocabulary,
        len(corpus.labels),
        subwords=config.text.subwords,
        **dataclasses.asdict(config.model),
    )
    return Trainer(
        model,
        corpus.train,
        Classification(
            corpus.validation,
            corpus.labels,
            loss=loss or cross_entropy(None, 0.0),
            device=torch.device("cpu"),
            batch_size=4 * config.trainer.batch_size,
            processes=Processes(),
        ),
        config=config.trainer,
        seed=config.seed,
        device=torch.device("cpu"),
        precision=precision,
        processes=Processes(),
        store=store or MemoryStore(),
        facts={"data": "toy"},
        watch=watch,
    )


def script_scores(monkeypatch: pytest.MonkeyPatch, values: list[float], metric: str = "macro_f1") -> None:
    """Let validation of epoch i return `values[i]`."""
    left = iter(values)
    real = classification_module.score

    def scripted(*args: Any) -> Scores:
        return dataclasses.replace(real(*args), **{metric: next(left)})

    monkeypatch.setattr(classification_module, "score", scripted)


# -- learning --------------------------------------------------------------------------------------


def test_it_learns_a_toy_corpus_from_an_initial_loss_of_ln_3(configure: Configure) -> None:
    store = MemoryStore()
    trainer = make_trainer(configure(*NO_DROPOUT, *LEARNS_QUICKLY), store=store)
    trainer.fit()
    assert trainer.state.first_loss == pytest.approx(math.log(3), abs=0.1)
    losses = [entry["train_loss"] for entry in trainer.state.history]
    assert losses[-1] < 0.3 < 1 < losses[0]
    assert trainer.state.best_score is not None
    assert trainer.state.best_score > 0.9
    assert store.log == trainer.state.history
    assert [entry["epoch"] for entry in store.log] == [1, 2, 3, 4, 5, 6]


def test_it_learns_with_every_dropout_on(configure: Configure) -> None:
    trainer = make_trainer(
        configure("--trainer.epochs=10", "--trainer.ema=0.9", "--trainer.learning_rate=0.03")
    )
    trainer.fit()
    assert trainer.state.best_score is not None
    assert trainer.state.best_score > 0.9


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--trainer.clip_norm=0.2",),
        ("--trainer.ema=0.9", "--trainer.warmup=0", "--trainer.weight_decay=0.5"),
        ("--trainer.accumulate=3", "--model.layers=2", "--model.pooling=last+attention"),
        ("--model.bidirectional=false", "--trainer.batch_size=50"),
        ("--text.subwords=0",),
    ],
)
def test_training_equals_a_plain_loop_over_a_packed_lstm(
    configure: Configure, flags: tuple[str, ...]
) -> None:
    config = configure(*NO_DROPOUT, "--trainer.epochs=1", "--trainer.learning_rate=0.005", *flags)
    trainer = make_trainer(config)
    assert isinstance(trainer.model, SentimentLSTM)
    weights, average = train_plainly(
        copy.deepcopy(trainer.model), trainer.train, config.trainer, seed=config.seed
    )
    start = clone(trainer.model.state_dict())
    trainer.fit()
    assert trainer.average is not None
    for name, weight in trainer.model.state_dict().items():
        torch.testing.assert_close(weight, weights[name], atol=1e-4, rtol=1e-3, msg=name)
        torch.testing.assert_close(
            trainer.average.state_dict()[name], average[name], atol=1e-4, rtol=1e-3, msg=name
        )
        assert (weight - start[name]).abs().max() > 3e-3, f"{name} has hardly moved: nothing was compared"


def test_two_accumulated_batches_equal_one_of_twice_the_size(configure: Configure) -> None:
    """With all rows in one step both plans have the same rows per step.

    Max pooling is not used, since the position of the maximum depends on the last digit.
    """
    common = [*NO_DROPOUT, "--trainer.epochs=3", "--model.pooling=mean"]
    halves = make_trainer(configure(*common, "--trainer.batch_size=96", "--trainer.accumulate=2"))
    whole = make_trainer(configure(*common, "--trainer.batch_size=192"))
    assert [len(batch) for batch in halves._plan(0)[0]] == [96, 96]
    assert [len(batch) for batch in whole._plan(0)[0]] == [192]
    halves.fit()
    whole.fit()
    assert halves.state.step == whole.state.step == 3
    assert halves.state.first_loss == pytest.approx(whole.state.first_loss, rel=1e-5)
    for name, weight in halves.model.state_dict().items():
        torch.testing.assert_close(weight, whole.model.state_dict()[name], atol=1e-5, rtol=1e-4, msg=name)


def test_uneven_batches_of_a_step_are_weighted_by_rows(configure: Configure) -> None:
    """The last step has a full and a half batch: the loss is the mean over rows, not over batches."""
    config = configure(
        *NO_DROPOUT, "--trainer.batch_size=128", "--trainer.accumulate=2", "--trainer.epochs=1"
    )
    trainer = make_trainer(config)
    [step] = trainer._plan(0)
    assert sorted(len(batch) for batch in step) == [64, 128]
    batch = trainer.train.batch(np.concatenate(step))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(trainer.model(*batch.inputs), batch.labels_B)
    trainer.fit()
    assert trainer.state.first_loss == pytest.approx(float(expected), rel=1e-5)


def test_the_moving_average_equals_a_loop(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(configure("--trainer.ema=0.7", "--trainer.epochs=2"))
    expected = clone(trainer.model.state_dict())
    keep = 1.0
    real = trainer.optimizer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal keep
        result = real(*args, **kwargs)
        done = trainer.state.step
        keep *= min(0.7, (1 + done) / (10 + done))
        if (done + 1) % 8 == 0 or (done + 1) % trainer.steps_per_epoch == 0:
            for name, weight in trainer.model.state_dict().items():
                expected[name] = keep * expected[name] + (1 - keep) * weight
            keep = 1.0
        return result

    assert trainer.steps_per_epoch % 8, "or the end of an epoch is not a case of its own"
    monkeypatch.setattr(trainer.optimizer, "step", step)
    returned = trainer.fit()
    assert returned is trainer.average
    assert not any(parameter.requires_grad for parameter in returned.parameters())
    for name, weight in returned.state_dict().items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_without_a_moving_average_the_model_itself_is_validated_and_saved(configure: Configure) -> None:
    store = MemoryStore()
    trainer = make_trainer(configure("--trainer.ema=0", "--trainer.epochs=1"), store=store)
    assert trainer.fit() is trainer.model is trainer.evaluated_model()
    (_, best, _), (_, last, _) = store.saved
    assert "average" not in last
    assert all(torch.equal(best["model"][name], weight) for name, weight in last["model"].items())


@pytest.mark.parametrize("clip_norm", [0.01, 0.1])
def test_no_gradient_is_longer_than_clip_norm(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, clip_norm: float
) -> None:
    trainer = make_trainer(configure(f"--trainer.clip_norm={clip_norm}", "--trainer.epochs=1"))
    norms: list[float] = []
    real = trainer.optimizer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        dense = [p.grad.to_dense() for p in trainer.model.parameters() if p.grad is not None]
        gradients = [gradient.flatten() for gradient in dense]
        norms.append(float(torch.cat(gradients).norm()))
        return real(*args, **kwargs)

    monkeypatch.setattr(trainer.optimizer, "step", step)
    trainer.fit()
    assert len(norms) == trainer.total_steps
    assert max(norms) <= clip_norm * 1.001
    assert max(norms) > clip_norm * 0.9, "nothing was clipped: the test shows nothing"


def test_the_learning_rate_follows_the_schedule(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(configure("--trainer.warmup=0.25", "--trainer.epochs=2"))
    rates: list[float] = []
    real = trainer.optimizer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        embedding, *others = (group["lr"] for group in trainer.optimizer.param_groups)
        rates.append(others[0])
        assert others == [others[0]] * 2
        assert embedding == pytest.approx(trainer.config.embedding_rate * others[0])
        return real(*args, **kwargs)

    monkeypatch.setattr(trainer.optimizer, "step", step)
    trainer.fit()
    peak = rates.index(max(rates))
    assert len(rates) == 24
    assert peak == 5
    assert rates[peak] == pytest.approx(0.02)
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert rates[-1] < 0.001


# -- determinism -----------------------------------------------------------------------------------


def test_a_seed_decides_every_bit(configure: Configure) -> None:
    def weights_of(seed: int) -> Weights:
        trainer = make_trainer(configure("--trainer.epochs=2"))
        trainer.seed = seed
        return clone(trainer.fit().state_dict())

    first, again, other = weights_of(5), weights_of(5), weights_of(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_external_random_state_does_not_affect_training(configure: Configure) -> None:
    """Dropout depends on seed and step, not on earlier random numbers."""
    weights = []
    for draws in (0, 17):
        trainer = make_trainer(configure("--trainer.epochs=1"))
        torch.manual_seed(draws)
        torch.rand(draws)
        weights.append(clone(trainer.fit().state_dict()))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_each_process_has_its_own_dropout_masks(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the parts of a step would share dropout masks."""
    seeds: dict[int, list[int]] = {0: [], 1: []}
    for rank, of_rank in seeds.items():
        trainer = make_trainer(configure("--trainer.epochs=1"))
        trainer.processes = Processes(rank=rank)
        note = functools.partial(lambda to, seed, _device: to.append(seed), of_rank)
        monkeypatch.setattr("lstm_sentiment.training.trainer.seed_random_numbers", note)
        trainer.fit()
    assert len(set(seeds[0] + seeds[1])) == 2 * trainer.total_steps


def test_the_trial_of_the_longest_batch_has_no_side_effects(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It allocates the maximal memory; a run without it ends with the same weights."""
    trainer, other = (make_trainer(configure("--trainer.epochs=1")) for _ in range(2))
    seen: list[int] = []
    loss = trainer.task.loss

    def watched(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(int(batch.lengths_B.max()))
        return loss(model, batch)

    monkeypatch.setattr(trainer.task, "loss", watched)
    monkeypatch.setattr(other, "_take_memory", lambda: None)
    weights, expected = clone(trainer.fit().state_dict()), clone(other.fit().state_dict())
    assert seen[0] == max(seen) == trainer.train.lengths.max()
    assert min(seen) < max(seen)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_test_split_cannot_reach_the_loop() -> None:
    """No method of the loop or its task and no state has a parameter for it."""
    names = [field.name for field in dataclasses.fields(TrainingState)]
    for of in (Trainer, Classification):
        for _, method in inspect.getmembers(of, inspect.isfunction):
            names += inspect.signature(method).parameters
    assert "train" in names
    assert "validation" in names
    assert not [name for name in names if "test" in name.lower()]


# -- non-finite values and memory ------------------------------------------------------------------


def losing_at(
    trainers: list[Trainer], call: int, poison: Callable[[Tensor], Tensor]
) -> tuple[Loss, dict[str, Any]]:
    """Return a loss that is non-finite at its n-th call, and the trainer's state at that moment."""
    calls: list[int] = []
    before: dict[str, Any] = {}
    plain = cross_entropy(None, 0.0)

    def loss(logits_BC: Tensor, batch: Batch) -> Tensor:
        if not logits_BC.requires_grad:  # a uniform prediction, to compare the first loss with
            return plain(logits_BC, batch)
        calls.append(1)
        value = plain(logits_BC, batch)
        if len(calls) != call + 1:  # before the first step, the longest batch is tried
            return value
        [trainer] = trainers
        assert trainer.average is not None
        before["model"] = clone(trainer.model.state_dict())
        before["average"] = clone(trainer.average.state_dict())
        before["rows"] = batch.rows_B.tolist()
        return poison(value)

    return loss, before


POISONS: dict[str, Callable[[Tensor], Tensor]] = {
    "not a number": lambda value: value * math.nan,
    "infinite": lambda value: value * math.inf,
    "finite, but its gradient is not": lambda value: value.detach() + (value * 0.0).sqrt(),
}


@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize(
    ("accumulate", "call", "step", "epoch"), [(1, 5, 4, 1), (1, 15, 14, 2), (2, 9, 4, 1)]
)
def test_training_stops_at_a_non_finite_loss_before_the_update(
    configure: Configure, poison: str, accumulate: int, call: int, step: int, epoch: int
) -> None:
    """`call` counts from 1, `step` from 0: with two batches per step, call 9 starts step 4."""
    config = configure(f"--trainer.accumulate={accumulate}")
    trainers: list[Trainer] = []
    loss, before = losing_at(trainers, call, POISONS[poison])
    store = MemoryStore()
    trainers.append(make_trainer(config, loss=loss, store=store))
    trainer = trainers[0]
    with pytest.raises(TrainingError) as raised:
        trainer.fit()
    assert f"step {step} of epoch {epoch} " in str(raised.value)
    assert "gradient" in str(raised.value) or "finite, but" not in poison
    lines = trainer.train.store.lines[trainer.train.rows[before["rows"]]]
    assert re.search(rf"reviews\.csv: lines? (\d+, )*{min(lines)}, .*, or one of them", str(raised.value))
    assert raised.value.exit_code == 4
    assert trainer.state.step == step
    assert trainer.average is not None
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, before["model"][name]), name
        assert torch.equal(trainer.average.state_dict()[name], before["average"][name]), name
    assert store.names() == ["best", "last"] * (epoch - 1), "nothing is saved on the way out"


def test_exactly_the_non_finite_rows_are_named(configure: Configure) -> None:
    bad = [5, 77]
    plain = cross_entropy(None, 0.0)

    def loss(logits_BC: Tensor, batch: Batch) -> Tensor:
        hit = bool(torch.isin(batch.rows_B, torch.tensor(bad)).any())
        return plain(logits_BC, batch) * (math.nan if hit else 1)

    trainer = make_trainer(configure("--trainer.batch_size=192"), loss=loss)
    lines = ", ".join(map(str, sorted(trainer.train.store.lines[trainer.train.rows[bad]])))
    with pytest.raises(
        TrainingError, match=rf"step 0 of epoch 1 \(.*reviews\.csv: lines {lines}\); the weights"
    ):
        trainer.fit()


SHORT: dict[str, Callable[[], object]] = {
    "the CPU's own": lambda: torch.empty(1 << 55),
    "a GPU's": lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to ...")),
    "Python's": lambda: (_ for _ in ()).throw(MemoryError()),
}


@pytest.mark.parametrize("short", SHORT)
@pytest.mark.parametrize("call", [1, 4])
def test_an_out_of_memory_batch_is_an_error(configure: Configure, short: str, call: int) -> None:
    """The longest batch is tried before the first step, so that this usually happens at once."""
    calls: list[tuple[int, ...]] = []

    def loss(logits_BC: Tensor, batch: Batch) -> Tensor:
        if not logits_BC.requires_grad:  # a uniform prediction, to compare the first loss with
            return cross_entropy(None, 0.0)(logits_BC, batch)
        calls.append(tuple(batch.tokens_BT.shape))
        if len(calls) == call:
            SHORT[short]()
        return cross_entropy(None, 0.0)(logits_BC, batch)

    trainer = make_trainer(configure(), loss=loss)
    with pytest.raises(OutOfMemoryError) as caught:
        trainer.fit()
    texts, tokens = calls[-1]
    step = max(1, call - 1)
    assert f"before step {step}: a batch of {texts} texts, padded to {tokens} tokens; lower" in str(
        caught.value
    )
    assert caught.value.exit_code == 5
    assert trainer.state.step == step - 1
    assert len(calls) == call


def test_other_errors_are_not_taken_for_out_of_memory(configure: Configure) -> None:
    def loss(logits_BC: Tensor, batch: Batch) -> Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        make_trainer(configure(), loss=loss).fit()


# -- the best epoch --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "patience", "epochs_done", "best"),
    [
        ([0.5, 0.4, 0.45, 0.9, 0.9, 0.9], 2, 3, 0),
        ([0.5, 0.4, 0.6, 0.5, 0.5, 0.9], 2, 5, 2),
        ([0.5, 0.5, 0.9, 0.9, 0.9, 0.9], 1, 2, 0),
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.6], 0, 6, 5),
        ([0.5, math.nan, math.nan, 0.9, 0.9, 0.9], 2, 3, 0),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 2, 6, 5),
    ],
)
def test_early_stopping_waits_for_its_patience(
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
    patience: int,
    epochs_done: int,
    best: int,
) -> None:
    script_scores(monkeypatch, scores)
    trainer = make_trainer(configure("--trainer.epochs=6", f"--trainer.patience={patience}"))
    trainer.fit()
    assert trainer.state.epoch == len(trainer.state.history) == epochs_done
    assert trainer.state.best_epoch == best
    assert trainer.state.best_score == scores[best]
    assert trainer.state.finished


@pytest.mark.parametrize(
    ("metric", "scores", "best"),
    [
        ("macro_f1", [0.3, 0.8, 0.5], 1),
        ("accuracy", [0.3, 0.2, 0.5], 2),
        ("macro_recall", [0.3, 0.3, 0.3], 0),
        ("loss", [0.9, 0.2, 0.5], 1),
        ("macro_f1", [math.nan, 0.1, math.nan], 1),
        ("loss", [math.nan, 0.5, math.nan], 1),
    ],
)
def test_best_has_the_weights_of_the_best_epoch(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, metric: str, scores: list[float], best: int
) -> None:
    assert metric in METRICS
    script_scores(monkeypatch, scores, metric)
    validated: list[Weights] = []
    real = classification_module.predict_logits

    def watched(model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        validated.append(clone(model.state_dict()))
        return real(model, *args, **kwargs)

    monkeypatch.setattr(classification_module, "predict_logits", watched)
    store = MemoryStore()
    make_trainer(configure(f"--trainer.metric={metric}"), store=store).fit()
    kept = [(groups["model"], facts) for name, groups, facts in store.saved if name == "best"]
    weights, facts = kept[-1]
    assert facts["epoch"] == best
    assert facts["scores"][metric] == scores[best]
    assert facts["data"] == "toy"
    assert all(torch.equal(weights[name], validated[best][name]) for name in weights)
    assert not all(torch.equal(weights[name], validated[best - 1][name]) for name in weights)


@pytest.mark.parametrize("metric", METRICS)
def test_weights_with_nan_predictions_never_become_best(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    """argmax of NaN is class 0, so that accuracy and F1 look valid but must not count."""
    real = classification_module.predict_logits
    epochs: list[int] = []

    def failing_at_first(*args: Any, **kwargs: Any) -> Tensor:
        epochs.append(1)
        logits_RC = real(*args, **kwargs)
        return logits_RC if len(epochs) > 1 else logits_RC * math.nan

    monkeypatch.setattr(classification_module, "predict_logits", failing_at_first)
    store = MemoryStore()
    config = configure(f"--trainer.metric={metric}", "--trainer.epochs=2")
    make_trainer(config, store=store).fit()
    assert [facts["epoch"] for name, _, facts in store.saved if name == "best"] == [1]


def test_every_step_runs_in_training_mode(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise dropout would be off, from the start or after the first validation."""
    trainer = make_trainer(configure("--trainer.ema=0", "--trainer.epochs=3"))
    trainer.model.eval()
    modes: list[bool] = []
    real = trainer._step

    def step(batches: Any) -> float:
        modes.append(trainer.model.training)
        return real(batches)

    monkeypatch.setattr(trainer, "_step", step)
    trainer.fit()
    assert len(modes) == 36
    assert all(modes)


def test_the_reported_loss_is_the_mean_over_all_steps_of_an_epoch(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any number of checkpoints within it."""
    for every in (5, 1000):
        trainer = make_trainer(configure(f"--trainer.checkpoint_every={every}", "--trainer.epochs=2"))
        losses: list[float] = []
        real = trainer._step

        def step(batches: Any, real: Any = real, losses: list[float] = losses) -> float:
            losses.append(real(batches))
            return losses[-1]

        monkeypatch.setattr(trainer, "_step", step)
        trainer.fit()
        reported = [entry["train_loss"] for entry in trainer.state.history]
        assert reported == pytest.approx([sum(losses[:12]) / 12, sum(losses[12:]) / 12])


def test_checkpoints_are_saved_every_few_steps_and_epochs(configure: Configure) -> None:
    store = MemoryStore()
    make_trainer(configure("--trainer.checkpoint_every=5", "--trainer.epochs=2"), store=store).fit()
    steps = [facts["training"]["step"] for name, _, facts in store.saved if name == "last"]
    assert steps == [5, 10, 12, 15, 20, 24]
    assert [facts["training"]["finished"] for name, _, facts in store.saved if name == "last"][-2:] == [
        False,
        True,
    ]


# -- resuming from any step ------------------------------------------------------------------------

STEPS = 60


@dataclass
class OneStep:
    """A `Watch` that stops a trainer after its next step, or after two at the end of an epoch."""

    trainer: Trainer | None = None

    def asked_to_stop(self) -> int:
        assert self.trainer is not None
        return int(self.trainer.state.step % self.trainer.steps_per_epoch > 0)

    def at_once(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def saved(self, step: int) -> None:
        """Not used."""


@pytest.mark.parametrize("others", [("--trainer.ema=0.99",), ("--trainer.ema=0", "--trainer.accumulate=2")])
@pytest.mark.parametrize("precision", ["fp32", *(["bf16"] if lstm_takes_bf16() else [])])
def test_resuming_from_every_step_gives_the_same_bytes(
    configure: Configure, others: tuple[str, ...], precision: str
) -> None:
    """Weights, moments, moving average and metadata, as bytes, over 60 steps in three epochs.

    From each step's checkpoint to the next, and so from each to the end.
    """
    size = 4 if "--trainer.accumulate=2" in others else 8
    config = configure(f"--trainer.batch_size={size}", "--trainer.checkpoint_every=1", *others)
    straight, corpus = MemoryStore(), prepared(config)
    trainer = make_trainer(config, store=straight, precision=precision, corpus=corpus)
    trainer.fit()
    lasts = [(groups, facts) for name, groups, facts in straight.saved if name == "last"]
    assert len(lasts) >= STEPS
    traces = {facts["training"]["step"]: trace_of(groups, facts) for groups, facts in lasts}
    assert len(set(traces.values())) == len(lasts), "each step leaves a trace"
    for groups, facts in lasts[:-1]:
        if facts["training"]["step"] == trainer.total_steps - 1:
            continue  # nothing comes after the end
        store, watch = MemoryStore(), OneStep()
        again = make_trainer(config, store=store, precision=precision, watch=watch, corpus=corpus)
        watch.trainer = again
        again.resume(groups, from_json(SavedTraining, facts, file="state.json"))
        with pytest.raises(StoppedError):
            again.fit()
        assert again.state.step in range(facts["training"]["step"] + 1, facts["training"]["step"] + 3)
        assert trace_of(*store.saved[-1][1:]) == traces[again.state.step], f"to step {again.state.step}"


def trace_of(groups: Mapping[str, Weights], facts: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return the content of a checkpoint without times."""
    training = {key: value for key, value in facts["training"].items() if key != "elapsed_s"}
    training["history"] = without_speed(training["history"])
    return bytes_of(groups), json.dumps(training)


def bytes_of(groups: Mapping[str, Weights]) -> bytes:
    tensors = [
        (f"{group}.{name}", tensor) for group, named in groups.items() for name, tensor in named.items()
    ]
    return b"".join(
        name.encode() + tensor.flatten().view(torch.uint8).numpy().tobytes()
        for name, tensor in sorted(tensors, key=operator.itemgetter(0))
    )


def without_speed(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if name != "tokens_per_s"} for entry in log]


@pytest.mark.parametrize("between_s", [0.0, 1000.0])
def test_without_a_terminal_progress_is_logged_at_intervals(
    between_s: float, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", between_s)
    with caplog.at_level("INFO"), progress.Progress(1, epochs=3, step=40, steps=1200, shown=True) as bar:
        for step in range(40, 1200):
            bar.advance("loss 0.5" if step % 400 == 0 else "")
    found = [re.sub(r"\d+ s left", "N s left", record.getMessage()) for record in caplog.records]
    lines = [f"epoch 2/3  step {n} of 1,200  loss 0.5  N s left in this epoch" for n in ("401", "801")]
    assert found == ([] if between_s else lines)
