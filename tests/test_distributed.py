"""Two processes equal one: the same weights and scores, each row once, one writer, no orphan."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from conftest import make_rows, write_csv
from forks import Job, start_job
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import is_running, pids_of
from torch import Tensor

import lstm_sentiment.system.distributed as distributed
from lstm_sentiment import train
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, RunFolder
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import ConfigError, DataError, LostProcessError
from lstm_sentiment.experiment.train import run
from lstm_sentiment.system.distributed import Processes, process_environment, shared_errors

Configure = Callable[..., Config]
NO_DROPOUT = ("--model.dropout=0", "--model.embedding_dropout=0", "--model.word_dropout=0")

# Trains, and notes everything that its process opens for writing or renames below the run folder.
RECORDING_WORKER = """
import os, pathlib, sys

out, notes = sys.argv[1], []

def watch(event, args):
    written = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if written or event in ("os.rename", "os.mkdir", "os.remove"):
        if isinstance(args[0], (str, os.PathLike)) and os.fspath(args[0]).startswith(out):
            notes.append(os.fspath(args[0]))

sys.addaudithook(watch)
from lstm_sentiment.train import main
main(sys.argv[2:])
pathlib.Path(out + "-written-by-" + os.environ["RANK"]).write_text("\\n".join(notes))
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """A function that starts a job of two processes; none of them outlives the test."""
    jobs: list[Job] = []

    def start_one(script: str, *argv: str) -> Job:
        jobs.append(start_job(script, *argv, folder=tmp_path))
        return jobs[-1]

    yield start_one
    for job in jobs:
        for pid in pids_of(tmp_path).values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        job.process.kill()
        job.process.join()


def write_settings(config: Config, tmp_path: Path) -> str:
    file = tmp_path / "settings.yaml"
    file.write_text(config_yaml(config))
    return str(file)


# Too small to drop a word, so that masks are equal; 0 is refused.
HARDLY_ANY_DROPOUT = "--model.word_dropout=1e-9"


@pytest.mark.parametrize("others", [[], ["--trainer.r_drop=1", HARDLY_ANY_DROPOUT]])
def test_two_processes_equal_one(
    configure: Configure, start: Callable[..., Job], tmp_path: Path, others: list[str]
) -> None:
    """With odd numbers of rows in every split, a last batch of one row, and accumulated batches."""
    write_csv(tmp_path / "train.csv", make_rows(5 * 16 + 1))
    write_csv(tmp_path / "validation.csv", make_rows(33, seed=1))
    write_csv(tmp_path / "test.csv", make_rows(27, seed=2))
    flags = [
        *NO_DROPOUT,
        *(f"--data.{name}={tmp_path / name}.csv" for name in ("train", "validation", "test")),
        *others,
        "--trainer.accumulate=2",
        "--trainer.epochs=2",
        "--trainer.learning_rate=0.01",
        "--trainer.checkpoint_every=2",
    ]
    one = configure(*flags, f"--out={tmp_path / 'one'}")
    expected = run(one)
    two = configure(*flags, f"--out={tmp_path / 'two'}")
    worker = tmp_path / "worker.py"
    worker.write_text(RECORDING_WORKER)
    job = start(str(worker), two.out, "--config", write_settings(two, tmp_path))
    assert job.wait(120) == 0, job.stderr

    found = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert (expected["validation"]["rows"], expected["test"]["rows"]) == (33, 27)
    for split in ("validation", "test"):
        assert found[split]["rows"] == expected[split]["rows"]
        assert sum(map(sum, found[split]["confusion"])) == expected[split]["rows"]
        assert found[split]["loss"] == pytest.approx(expected[split]["loss"], abs=1e-4)
        assert found[split]["confusion"] == expected[split]["confusion"]
    assert found["steps"] == expected["steps"] == 2 * 3
    assert_equal_checkpoints(tmp_path / "two", tmp_path / "one")

    assert "2 processes" in job.stdout
    assert job.stdout.count("first loss") == 1, "both processes print"
    assert job.stdout.count("epoch 2/2") == 1
    written = [(tmp_path / f"two-written-by-{rank}").read_text().splitlines() for rank in (0, 1)]
    assert not written[1], "two processes write into one folder"
    assert len(written[0]) > 20, "the recording of what is written does not work"


def assert_equal_checkpoints(found: Path, expected: Path) -> None:
    """Compare weights, optimizer state and facts of two runs to float rounding."""
    for name in (BEST, LAST):
        ours, theirs = RunFolder(found).load(name), RunFolder(expected).load(name)
        assert ours.tensors.keys() == theirs.tensors.keys()
        for group, tensors in theirs.tensors.items():
            for key, tensor in tensors.items():
                torch.testing.assert_close(
                    ours.tensors[group][key], tensor, atol=1e-4, rtol=1e-3, msg=f"{group} {key}"
                )
    states = [RunFolder(path).load(LAST).facts["training"] for path in (found, expected)]
    assert states[0]["first_loss"] == pytest.approx(states[1]["first_loss"], abs=1e-5)
    for ours, theirs in zip(states[0]["history"], states[1]["history"], strict=True):
        del ours["tokens_per_s"], theirs["tokens_per_s"]
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_two_processes_train_adversarially(
    configure: Configure, start: Callable[..., Job], tmp_path: Path
) -> None:
    """Each starts the search for perturbations differently, so the weights differ from one process."""
    found = []
    for vat in (0.0, 0.3):
        flags = ("--trainer.epochs=1", f"--trainer.vat={vat}", f"--out={tmp_path / str(vat)}")
        config = configure(*NO_DROPOUT, *flags)
        job = start(train.__file__, "--config", write_settings(config, tmp_path))
        assert job.wait(120) == 0, job.stderr
        found.append(RunFolder(config.out).load(LAST).tensors["model"]["head.weight"])
    assert not torch.allclose(*found, atol=1e-3)


def test_a_job_of_two_processes_trains_several_seeds(
    configure: Configure, start: Callable[..., Job], tmp_path: Path
) -> None:
    """A job can connect only once, whatever its number of runs."""
    config = configure("--seeds=2", "--trainer.epochs=1")
    job = start(train.__file__, "--config", write_settings(config, tmp_path))
    assert job.wait(120) == 0, job.stderr
    summary = json.loads((tmp_path / "run" / "seeds.json").read_text())
    for of in summary["runs"]:
        metrics = json.loads((Path(of["out"]) / "metrics.json").read_text())
        assert of["test"]["accuracy"] == metrics["test"]["accuracy"]
    assert [of["seed"] for of in summary["runs"]] == [0, 1]


def start_endless_job(
    configure: Configure, start: Callable[..., Job], tmp_path: Path
) -> tuple[Config, Job, dict[str, int]]:
    """Start a job that would take hours, and return once it has a checkpoint."""
    config = configure("--trainer.epochs=5000", "--trainer.checkpoint_every=5")
    flags = ("--config", write_settings(config, tmp_path))
    job = start(ranks.__file__, "no fault", str(tmp_path), *flags)
    deadline = time.monotonic() + 90
    while not (Path(config.out) / LAST).exists():
        assert job.process.is_alive(), job.stderr
        assert time.monotonic() < deadline, "training did not begin"
        time.sleep(0.05)
    workers = pids_of(tmp_path)
    assert sorted(workers) == ["0-0", "1-0"]
    return config, job, workers


def test_a_signal_to_one_process_stops_both_at_the_same_step(
    configure: Configure, start: Callable[..., Job], tmp_path: Path
) -> None:
    """Rank 0, which writes, got no signal: it is informed by the other."""
    config, job, workers = start_endless_job(configure, start, tmp_path)
    os.kill(workers["1-0"], signal.SIGTERM)
    assert job.wait(60) != 0
    assert not any(map(is_running, workers.values()))
    reported = json.loads((Path(config.out) / "status.json").read_text())
    assert (reported["state"], reported["exit_code"], reported["resumable"]) == ("stopped", 143, True)
    assert reported["step"] == RunFolder(config.out).load(LAST).facts["training"]["step"]


def test_deleting_a_group_does_not_wait_for_itself(tmp_path: Path) -> None:
    """The control is in scripts/soak: without the last reference such a process eventually hangs."""
    assert ranks.groups(1, tmp_path) == {"processes": 1, "lost": 0}


# -- the parts -------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(count=st.integers(1, 40), world_size=st.integers(1, 9), width=st.integers(0, 3))
def test_gathered_rows_are_in_order_without_duplicates(count: int, world_size: int, width: int) -> None:
    """The processes are simulated one after the other; some have no rows."""
    rows = torch.arange(count * max(1, width)).view(count, *([width] if width else []))
    dealt = [rows[rank::world_size] for rank in range(world_size)]
    padded: dict[int, Tensor] = {}

    def gather_from(rank: int) -> Tensor:
        return Processes(rank=rank, world_size=world_size).gather_rows(dealt[rank], count)

    with pytest.MonkeyPatch.context() as patch:
        for rank in range(world_size):
            patch.setattr(
                distributed.dist,
                "all_gather",
                lambda parts, mine, rank=rank: padded.__setitem__(rank, mine.clone()),
            )
            gather_from(rank)
        assert len({part.shape for part in padded.values()}) <= 1, "all_gather needs equal shapes"

        def all_gather(parts: list[Tensor], mine: Tensor) -> None:
            for rank, part in enumerate(parts):
                part.copy_(padded[rank])

        patch.setattr(distributed.dist, "all_gather", all_gather)
        for rank in range(world_size):
            assert torch.equal(gather_from(rank), rows)


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: Any, **__: Any) -> None:
        raise AssertionError("torch.distributed was called")

    for name in ("barrier", "all_reduce", "all_gather", "init_process_group", "destroy_process_group"):
        monkeypatch.setattr(distributed.dist, name, unexpected)
    alone = Processes()
    alone.barrier()
    with alone.main_first(), distributed.process_group(alone, torch.device("cpu"), timeout_s=1):
        assert alone.sum(2.5, torch.device("cpu")) == 2.5
        assert alone.gather_rows(torch.ones(3), 3).tolist() == [1, 1, 1]


class Notes:
    """A `torch.distributed.Store` without processes."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.beats = 0

    def set(self, name: str, value: str) -> None:
        self.kept[name] = value

    def get(self, name: str) -> str:
        return self.kept[name]

    def check(self, names: list[str]) -> bool:
        return all(name in self.kept for name in names)

    def compare_set(self, name: str, expected: str, value: str) -> None:
        assert expected == ""
        self.kept.setdefault(name, value)

    def add(self, name: str, more: int) -> int:
        self.beats += more
        return self.beats


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Processes]:
    """A function that makes this process a rank of a job with a shared store."""

    def make(rank: int, notes: Notes, timeout_s: float = 60) -> Processes:
        processes = Processes(rank=rank, world_size=2)
        monkeypatch.setattr(distributed, "_job", distributed._Job(notes, processes, timeout_s))  # type: ignore[arg-type]
        return processes

    return make


def test_the_main_process_goes_first(join: Callable[..., Processes], monkeypatch: pytest.MonkeyPatch) -> None:
    """And waits for the others at the end, since it may overwrite what they still read."""
    notes, events = Notes(), []
    monkeypatch.setattr(distributed.dist, "barrier", lambda: events.append("barrier"))
    for rank in (0, 1):
        with join(rank, notes).main_first():
            events.append(f"{rank} {'after' if notes.check(['turn 1']) else 'before'} the note")
    assert events == ["0 before the note", "barrier", "barrier", "1 after the note"]


def test_other_ranks_wait_while_rank_0_sends_heartbeats(
    join: Callable[..., Processes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times longer than the timeout; without heartbeats (the control) they give up."""
    monkeypatch.setattr(distributed, "BEAT_S", 0.02)
    for beats in (True, False):
        notes = Notes()
        monkeypatch.setattr(distributed.dist, "barrier", lambda: None)
        processes = join(1, notes, timeout_s=0.3)
        job = distributed._job
        assert job is not None
        timer = threading.Timer(1.5, notes.set, ("turn 1", "done"))
        timer.start()
        expected = contextlib.nullcontext() if beats else pytest.raises(TimeoutError)
        with expected, job.beating() if beats else contextlib.nullcontext(), processes.main_first():
            pass
        timer.cancel()


BROKEN = {
    "gone": (
        "[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer",
        "without an error message",
    ),
    "hangs": ("[third_party/gloo/gloo/transport/tcp/buffer.cc:78] Timed out waiting 9ms for recv", "hangs"),
    "hangs, seen by another operation": ("Application timeout caused pair closure", "hangs"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_connection_is_reported_with_the_first_error(
    join: Callable[..., Processes], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    error, meaning = BROKEN[broken]
    ended: list[int] = []
    monkeypatch.setattr(distributed, "GRACE_S", 0.0)
    monkeypatch.setattr(os, "kill", lambda pid, _: ended.append(pid))
    notes = Notes()
    join(1, notes)
    notes.set("process 1", json.dumps([socket.gethostname(), 12345]))
    join(0, notes)
    with pytest.raises(LostProcessError, match=meaning) as caught, shared_errors():
        raise RuntimeError(error)
    assert caught.value.exit_code == 4
    assert ended == ([12345] if "hangs" in broken else []), "who hangs is ended, and nobody else"

    notes = Notes()
    join(1, notes)
    with pytest.raises(DataError), shared_errors():
        raise DataError("no such file", file="a.csv")
    join(0, notes)
    with (
        pytest.raises(LostProcessError, match=r"process 1 ended: a\.csv: no such file") as caught,
        shared_errors(),
    ):
        raise RuntimeError(error)
    assert caught.value.exit_code == 2


def test_other_errors_are_not_taken_for_lost_processes(join: Callable[..., Processes]) -> None:
    join(0, Notes())
    with pytest.raises(RuntimeError, match="shapes do not fit"), shared_errors():
        raise RuntimeError("shapes do not fit")


def test_the_rank_comes_from_torchruns_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_environment() == Processes()
    values = {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    assert process_environment() == Processes(rank=5, world_size=8, local_rank=1, local_world_size=4)
    assert not process_environment().is_main
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ConfigError, match="RANK"):
        process_environment()
