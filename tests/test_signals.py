"""Signals end a run cleanly, and status.json has its state."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Killed, killed_at_save, time_limit
from forks import FORKS, Job, start_code

from lstm_sentiment.checkpoints.run_folder import BEST, LAST, RunFolder
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import RunError, StoppedError, TrainingError
from lstm_sentiment.experiment.signals import STATUS, RunWatch
from lstm_sentiment.experiment.train import run
from lstm_sentiment.training.classification import Classification
from lstm_sentiment.training.trainer import Trainer

Configure = Callable[..., Config]
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
STEPS = 12  # of an epoch of `configure`: 192 rows in batches of 16
# Starts training in a subprocess, with slow steps from the fourth on.
SLOW = """
import sys, time
from lstm_sentiment import train
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.training.trainer import Trainer
real = Trainer._step
def slow(trainer, batches):
    if trainer.state.step == 3:
        print("THREE", flush=True)
    if trainer.state.step >= 3:
        time.sleep({seconds})
    return real(trainer, batches)
Trainer._step = slow
run_command(train.main)
"""


def status_of(folder: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / STATUS).read_text("utf-8"))
    return found


def signal_at(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, number: int, *, call: int) -> None:
    """Send this process a signal at the start of the n-th call of a method."""
    real, calls = getattr(owner, method), [0]

    def patched(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, method, patched)


def same_end(first: str, second: str) -> bool:
    """Whether two runs ended with the same bytes: last and best weights, and the log without speeds."""
    for name in (LAST, BEST):
        one, other = (RunFolder(folder).load(name).tensors for folder in (first, second))
        for group, tensors in one.items():
            assert tensors.keys() == other[group].keys()
            if not all(torch.equal(tensors[key], other[group][key]) for key in tensors):
                return False
    return True


@pytest.fixture(scope="module")
def ended() -> list[Config]:
    """The uninterrupted run of `whole`, once it was needed."""
    return []


@pytest.fixture
def whole(configure: Configure, tmp_path_factory: pytest.TempPathFactory, ended: list[Config]) -> Config:
    """An uninterrupted run, trained once for this module."""
    if not ended:
        config = configure(f"--out={tmp_path_factory.mktemp('whole') / 'run'}")
        run(config)
        ended.append(config)
    return ended[0]


@pytest.mark.parametrize(("job", "left"), [("of torchrun", 7), ("", -signal.SIGTERM)])
def test_a_signal_during_exit_does_not_hide_the_error(tmp_path: Path, job: str, left: int) -> None:
    """The control is a single process, whose handlers are restored."""
    process = FORKS.Process(target=fail_and_be_ended, args=(tmp_path, job))
    process.start()
    process.join()
    assert process.exitcode == left


def fail_and_be_ended(folder: Path, job: str) -> None:
    with pytest.raises(TrainingError), RunWatch(RunFolder(folder), writes=True, job=job):
        raise TrainingError("lost")
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(7)


@pytest.mark.parametrize(
    ("number", "owner", "method", "call", "step"),
    [
        (signal.SIGINT, Trainer, "_step", 1, 1),
        (signal.SIGTERM, Trainer, "_step", 7, 7),
        (signal.SIGINT, Trainer, "_step", STEPS, STEPS),  # the last of an epoch
        (signal.SIGTERM, Trainer, "_step", STEPS + 1, STEPS + 1),
        (signal.SIGINT, Classification, "score", 1, STEPS),  # while validating
        (signal.SIGTERM, Trainer, "_save_last", 1, STEPS + 1),  # while saving: the next step is the last
    ],
)
def test_a_stopped_run_saves_its_last_step_and_resumes_exactly(
    configure: Configure,
    whole: Config,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    owner: type,
    method: str,
    call: int,
    step: int,
) -> None:
    config = configure()
    before = {of: signal.getsignal(of) for of in (signal.SIGINT, signal.SIGTERM)}
    with monkeypatch.context() as patch:
        signal_at(patch, owner, method, number, call=call)
        with pytest.raises(StoppedError) as caught:
            run(config)
    assert {of: signal.getsignal(of) for of in before} == before
    assert caught.value.exit_code == 128 + number
    assert RunFolder(config.out).load(LAST).facts["training"]["step"] == step
    status = status_of(config.out)
    assert (status["state"], status["exit_code"], status["resumable"]) == ("stopped", 128 + number, True)
    assert status["step"] == step
    assert signal.Signals(number).name in status["reason"]
    run(configure("--resume=true"))
    assert same_end(config.out, whole.out)
    assert status_of(config.out)["state"] == "finished"


@BOTH
def test_a_signal_before_training_leaves_nothing(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    from lstm_sentiment.experiment import train as experiment

    def read(*_args: Any, **_kwargs: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)
        pytest.fail("still there")

    monkeypatch.setattr(experiment, "prepare", read)
    config = configure()
    with pytest.raises(StoppedError):
        run(config)
    assert not Path(config.out).exists()


def test_status_json_describes_a_run(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = RunWatch.saved

    def saved(watch: RunWatch, step: int) -> None:
        real(watch, step)
        seen.append(status_of(watch.folder.path))

    monkeypatch.setattr(RunWatch, "saved", saved)
    config = configure("--trainer.checkpoint_every=5", "--trainer.epochs=1")
    run(config)
    assert [(of["state"], of["step"], of["resumable"]) for of in seen] == [
        ("running", 0, False),
        ("running", 5, True),
        ("running", 10, True),
        ("running", STEPS, True),
    ]
    assert {of["pid"] for of in seen} == {os.getpid()}
    end = status_of(config.out)
    assert (end["state"], end["exit_code"], end["step"], end["resumable"]) == ("finished", 0, STEPS, False)


def test_status_json_describes_a_failure(configure: Configure) -> None:
    config = configure("--trainer.learning_rate=1e30", "--trainer.clip_norm=1e30", "--trainer.epochs=1")
    with pytest.raises(TrainingError) as caught:
        run(config)
    reported = status_of(config.out)
    assert (reported["state"], reported["exit_code"]) == ("failed", 4)
    assert reported["reason"] == str(caught.value)


def test_status_json_after_a_kill_and_an_internal_error(configure: Configure) -> None:
    """A kill leaves no time to write; the control, an exception, does."""
    config = configure()
    with killed_at_save(LAST, 2):
        run(config)
    reported = status_of(config.out)
    assert (reported["state"], reported["exit_code"], reported["reason"]) == ("failed", 1, Killed.__name__)


def test_a_refused_run_does_not_change_the_status_of_another(configure: Configure, whole: Config) -> None:
    before = status_of(whole.out)
    with pytest.raises(RunError, match="is not empty"):
        run(configure(f"--out={whole.out}"))
    assert status_of(whole.out) == before


def test_signals_are_not_handled_outside_the_main_thread(configure: Configure) -> None:
    before = signal.getsignal(signal.SIGTERM)
    failed: list[BaseException] = []

    def train() -> None:
        try:
            run(configure("--trainer.epochs=1"))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert failed == []
    assert signal.getsignal(signal.SIGTERM) == before


def start_slowly(config: Config, seconds: float, folder: Path) -> Job:
    """Start the command and return after three steps."""
    argv = ["--config", f"{config.out}/config.yaml", "--resume=true"]
    job = start_code(SLOW.format(seconds=seconds), *argv, folder=folder)
    with time_limit(240):
        while "THREE" not in job.stdout.splitlines():
            assert job.process.is_alive(), job.stderr
            time.sleep(0.02)
    return job


@pytest.fixture
def begun(configure: Configure) -> Config:
    """A run that stopped after its first step."""
    config = configure()
    with pytest.MonkeyPatch.context() as patch:
        signal_at(patch, Trainer, "_step", signal.SIGTERM, call=1)
        with pytest.raises(StoppedError):
            run(config)
    return config


@BOTH
def test_the_command_exits_within_seconds_and_resumes_exactly(
    begun: Config, whole: Config, configure: Configure, tmp_path: Path, number: int
) -> None:
    job = start_slowly(begun, 0.2, tmp_path)
    os.kill(job.pid, number)
    assert job.wait(30) == 128 + number
    assert f"stopped by {signal.Signals(number).name} after step " in job.stderr
    assert "Traceback" not in job.stderr
    assert 4 <= status_of(begun.out)["step"] < STEPS
    run(configure("--resume=true"))
    assert same_end(begun.out, whole.out)


def test_a_second_signal_stops_at_once(begun: Config, tmp_path: Path) -> None:
    job = start_slowly(begun, 60, tmp_path)
    os.kill(job.pid, signal.SIGINT)
    time.sleep(1)
    assert job.process.is_alive(), "the step goes on"
    os.kill(job.pid, signal.SIGINT)
    assert job.wait(40) == -signal.SIGINT, "which a shell shows as 130"
    assert RunFolder(begun.out).load(LAST).facts["training"]["step"] == 1
