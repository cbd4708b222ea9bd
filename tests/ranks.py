"""Faults of one rank of a job, for tests and scripts/soak: each under the real `torchrun`.

As a script it is the worker: ``ranks.py FAULT FOLDER ARGUMENTS OF TRAIN`` injects a fault into its process
and writes notes to the folder. As a module it starts such jobs and checks their results.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from conftest import TINY, make_rows, write_csv
from forks import FORKS, Job, start_job

from lstm_sentiment.system.devices import lstm_takes_bf16

TIMEOUT_S, GIVEN_UP_S = 6, 240  # after which processes give up, and after which we do
HANGS_S = 5  # without creating and deleting a group, which takes some hundredths of a second
AT_STEP = 7  # of 12 per epoch; the one of the last checkpoint is 6
STEPS = ("--trainer.epochs=3", "--trainer.checkpoint_every=3", f"--trainer.timeout={TIMEOUT_S}")
OTHER = ("--trainer.precision=bf16",) if lstm_takes_bf16() else ("--trainer.learning_rate=0.001",)
VARIANTS = {"fp32": ("--trainer.ema=0.9",), "other": ("--trainer.ema=0.9", *OTHER)}
# Steps that runs are resumed from; 6 ends an epoch where two batches make a step.
KEPT: dict[str, Sequence[int]] = {"fp32": (1, 6, 13), "other": (8,)}
ACCUMULATED = ("--trainer.accumulate=2",)
IN_TESTS = (
    "killed as it starts", "killed in a step", "the main one killed while it saves", "stopped in a step",
    "the main one stopped as it reads", "not a number", "out of memory", "a full disk",
)  # fmt: skip
Counts = dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of one rank and its expected outcome.

    Args:
        rank: of the process.
        does: the fault; called in the place of what `at` names, with that, and its arguments.
        at: module, owner and name of what is called when the fault strikes, and in which call, from 1.
        status: state and exit code that status.json ends with; None where it may not be there yet.
        says: expected words in its reason and on stderr.
        step: of the checkpoint that must be left; None where there is none yet.
        hangs: whether it takes the timeout to notice.
    """

    rank: int
    does: Callable[..., Any]
    at: tuple[str, str, int]
    status: tuple[str, int] | None
    says: tuple[str, ...] = ()
    step: int | None = AT_STEP - 1
    hangs: bool = False


def killed(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still there")


def stopped(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def asleep(*_: Any) -> None:
    while True:
        time.sleep(1)


def not_a_number(real: Callable[..., Any], *args: Any) -> Any:
    return real(*args) * float("nan")


def out_of_memory(*_: Any) -> NoReturn:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")


def disk_full(*_: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_such_file(_real: Any, data: Any, *_: Any, **__: Any) -> NoReturn:
    from lstm_sentiment.data.sources.sources import open_source

    with open_source(f"{data.train}.gone", encoding="utf-8", encoding_errors="strict"):
        raise AssertionError("there it is")


STEP = ("lstm_sentiment.training.trainer", "Trainer._step", AT_STEP)
LOSS = (
    "lstm_sentiment.training.classification",
    "Classification.loss",
    AT_STEP + 1,
)  # the longest batch is tried first
LOST, SILENT = (
    "another process of the job ended without an error message",
    f"has not responded for {TIMEOUT_S} s (trainer.timeout)",
)
FAULTS = {
    "killed as it starts": Fault(
        rank=1,
        does=killed,
        at=("lstm_sentiment.experiment.train", "load_pretrained", 1),
        status=None,
        step=None,
    ),
    "killed in a step": Fault(rank=1, does=killed, at=STEP, status=("failed", 4), says=(LOST,)),
    "killed in validation": Fault(
        rank=1,
        does=killed,
        at=("lstm_sentiment.training.classification", "Classification.score", 1),
        status=("failed", 4),
        says=(LOST,),
        step=9,
    ),
    "the main one killed while it saves": Fault(
        rank=0,
        does=killed,
        at=("lstm_sentiment.checkpoints.run_folder", "RunFolder._publish", 2),
        status=("running", 0),
        step=3,
    ),
    "stopped in a step": Fault(
        rank=1, does=stopped, at=STEP, status=("failed", 4), says=(SILENT,), hangs=True
    ),
    "the main one stopped as it reads": Fault(
        rank=0, does=stopped, at=("lstm_sentiment.experiment.train", "prepare", 1), status=None, step=None,
        hangs=True, says=(SILENT,),
    ),
    "asleep in validation": Fault(
        rank=1,
        does=asleep,
        at=("lstm_sentiment.training.classification", "Classification.score", 1),
        status=("failed", 4),
        says=(SILENT,),
        step=9,
        hangs=True,
    ),
    "not a number": Fault(
        rank=1,
        does=not_a_number,
        at=LOSS,
        status=("failed", 4),
        says=(f"the loss is nan at step {AT_STEP - 1} of epoch 1 (", "data.csv: line", "were not updated"),
    ),
    "out of memory": Fault(
        rank=1,
        does=out_of_memory,
        at=LOSS,
        status=("failed", 5),
        says=(
            f"process 1 ended: out of memory before step {AT_STEP}: a batch of 8 texts, padded to ",
            "lower trainer.batch_size",
        ),
    ),
    "a file that one cannot read": Fault(
        rank=1,
        does=no_such_file,
        at=("lstm_sentiment.experiment.train", "prepare", 1),
        status=None,
        says=("data.csv.gone",),
        step=None,
    ),
    "a full disk": Fault(
        rank=0,
        does=disk_full,
        at=("lstm_sentiment.checkpoints.run_folder", "RunFolder._build", 2),
        status=("failed", 5),
        says=("last: ", "bytes needed"),
        step=3,
    ),
}  # fmt: skip


# -- the worker ------------------------------------------------------------------------------------


def inject(name: str, notes: Path) -> None:
    """Inject a fault of the table into this process, if it has the rank, in the first start of the job."""
    fault = FAULTS.get(name)
    if (
        fault is None
        or os.environ["RANK"] != str(fault.rank)
        or os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
    ):
        return
    import importlib

    module, path, call = fault.at
    owner: Any = importlib.import_module(module)
    *outer, attribute = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    real, calls = getattr(owner, attribute), [0]

    def struck(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] != call:
            return real(*args, **kwargs)
        (notes / "struck").write_text(str(time.time()), "utf-8")
        return fault.does(real, *args, **kwargs)

    setattr(owner, attribute, struck)


def work(fault: str, folder: str, *argv: str) -> None:
    """Train as the command does, with a fault."""
    from lstm_sentiment.cli.exits import run_command
    from lstm_sentiment.train import main

    notes = Path(folder)
    start = f"{os.environ['RANK']}-{os.environ['TORCHELASTIC_RESTART_COUNT']}"
    (notes / f"pid-{start}").write_text(str(os.getpid()), "utf-8")
    inject(fault, notes)
    sys.argv[1:] = argv
    run_command(main)


def work_on_many(what: str, folder: str, kept: str) -> None:
    """Train each variant and copy the run folder at some steps, or resume from all copies."""
    import torch

    from lstm_sentiment.checkpoints.run_folder import LAST, RunFolder
    from lstm_sentiment.config.command_line import parse_config
    from lstm_sentiment.experiment.train import run
    from lstm_sentiment.system.distributed import process_environment, process_group

    steps, real = json.loads(kept), RunFolder.save

    def save(folder: RunFolder, name: str, groups: Any, facts: Any) -> None:
        real(folder, name, groups, facts)
        if name == LAST and facts["training"]["step"] in steps[folder.path.name]:
            shutil.copytree(folder.path, f"{folder.path}-at-{facts['training']['step']}")

    if what == "keep":
        RunFolder.save = save  # type: ignore[method-assign]
    with process_group(process_environment(), torch.device("cpu"), timeout_s=60):
        for name, flags in VARIANTS.items():
            out, at = (
                Path(folder) / name,
                [f"-at-{step}" for step in steps[name]] if what == "go on" else [""],
            )
            for suffix in at:
                every = 1000 if suffix else 1
                more = [f"--trainer.checkpoint_every={every}", f"--resume={str(bool(suffix)).lower()}"]
                argv = arguments(Path(folder), *ACCUMULATED, *flags, *more, f"--out={out}{suffix}")
                run(parse_config(argv, program="ranks", description=""))


# -- jobs and their results ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Ended:
    """Result of a finished job.

    Args:
        code: torchrun's exit code.
        ended_s: from the fault to torchrun's end; NaN without a fault.
        orphans: processes that are still there.
        output: stdout and stderr of all of them.
        status: of status.json; empty where there is none.
    """

    code: int
    ended_s: float
    orphans: list[int]
    output: str
    status: dict[str, Any]


def arguments(folder: Path, *more: str) -> list[str]:
    """Return the command line of a small run, its rows written first."""
    data = folder / "data.csv"
    if not data.exists():
        write_csv(data, make_rows(240))
    return [f"--data.train={data}", f"--out={folder / 'run'}", *TINY, "--baseline=false", *STEPS, *more]


def started(what: str, folder: Path, *argv: str, launcher: tuple[str, ...] = ()) -> Job:
    """Start a job of two processes that run this file."""
    cache = {"LSTM_SENTIMENT_CACHE": str(folder / "cache")}
    return start_job(__file__, what, str(folder), *argv, folder=folder, launcher=launcher, environment=cache)


def to_its_end(fault: str, folder: Path, *more: str, launcher: tuple[str, ...] = ()) -> Ended:
    """Run a job of two processes with a fault in one of them until it ends."""
    job = started(fault, folder, *arguments(folder, *more), launcher=launcher)
    code = job.wait(GIVEN_UP_S)
    now, struck = time.time(), folder / "struck"
    status = folder / "run" / "status.json"
    return Ended(
        code=code,
        ended_s=now - float(struck.read_text("utf-8")) if struck.exists() else float("nan"),
        orphans=[pid for pid in pids_of(folder).values() if is_running(pid)],
        output=job.stdout + job.stderr,
        status=json.loads(status.read_text("utf-8")) if status.exists() else {},
    )


def pids_of(folder: Path) -> dict[str, int]:
    """Return the process ids of a job by rank and start: "0-0" is the main process of the first start."""
    return {file.name.removeprefix("pid-"): int(file.read_text("utf-8")) for file in folder.glob("pid-*")}


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wrong_with(found: Ended, fault: Fault, run: Path) -> list[str]:
    """Return a description of what is not as expected after a fault."""
    from lstm_sentiment.checkpoints.run_folder import LAST, RunFolder

    wrong = [] if found.code == 1 else [f"torchrun exited with {found.code}"]
    limit = 30.0 + (TIMEOUT_S if fault.hangs else 0)
    wrong += [] if found.ended_s < limit else [f"the job ended after {found.ended_s:.1f} s"]
    wrong += [f"process {pid} is still running" for pid in found.orphans]
    printed = " ".join(found.output.split())
    wrong += [f"not printed: {words}" for words in fault.says if words not in printed]
    if fault.status is None:
        reason = str(found.status.get("reason"))  # rank 0 may or may not have started training
        reported = found.status.get("state") == "failed" and all(words in reason for words in fault.says)
        wrong += [f"status.json: {found.status}"] if found.status and not reported else []
    else:
        state, code = fault.status
        expected = {"state": state, "exit_code": code or None, "resumable": True, "step": fault.step}
        wrong += [f"status.json: {found.status}"] if expected.items() - found.status.items() else []
        reason = str(found.status.get("reason"))
        wrong += [f"not in status.json: {words}" for words in fault.says if words not in reason]
    step = RunFolder(run).load(LAST).facts["training"]["step"] if (run / LAST).exists() else None
    wrong += [] if step == fault.step else [f"a checkpoint of step {step} is left"]
    return wrong


# -- repeated faults -------------------------------------------------------------------------------


def faults(count: int, folder: Path) -> Counts:
    """Repeat each fault; `lost` are jobs that did not end as expected, reported on stderr."""
    counts = {"jobs": 0, "lost": 0}
    for i in range(count):
        for name, fault in FAULTS.items():
            place = folder / f"{i} {name}"
            place.mkdir()
            counts["jobs"] += 1
            found = to_its_end(name, place)
            wrong = wrong_with(found, fault, place / "run")
            counts["lost"] += bool(wrong)
            if wrong:
                print(f"{name}: {'; '.join(wrong)}\n{found.output}", file=sys.stderr)
    return counts


def hangs_without_timeout(count: int, folder: Path) -> Counts:
    """Let a process hang with gloo's default timeout; `lost` are jobs that still run after a minute."""
    counts = {"jobs": 0, "lost": 0}
    for i in range(count):
        place = folder / str(i)
        place.mkdir()
        job = started("stopped in a step", place, *arguments(place, "--trainer.timeout=1800"))
        counts["jobs"] += 1
        try:
            job.wait(60)
        except TimeoutError:
            counts["lost"] += (place / "struck").exists()
        for pid in pids_of(place).values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        job.wait(GIVEN_UP_S)
    return counts


def groups(count: int, folder: Path) -> Counts:
    """Repeatedly create and delete a group in `count` processes; `lost` are those that hang."""
    return _groups(count, 200, kept=True)


def groups_of_the_reducer(count: int, folder: Path) -> Counts:
    """The same if the last reference to a group is not Python's (see `wrap_ddp`)."""
    return _groups(count, 3000, kept=False)


def _groups(count: int, groups_of_each: int, *, kept: bool) -> Counts:
    counts = {"processes": 0, "lost": 0}
    for _ in range(count):
        done, seen = FORKS.RawValue(ctypes.c_int, -1), -2
        process = FORKS.Process(target=make_and_delete_groups, args=(groups_of_each, kept, done))
        process.start()
        while process.is_alive() and (done.value < 0 or done.value > seen):
            seen = done.value
            process.join(HANGS_S)
        process.kill()
        process.join()
        counts["processes"] += 1
        counts["lost"] += done.value < groups_of_each
    return counts


def make_and_delete_groups(count: int, kept: bool, done: Any) -> None:
    """Create and delete groups of one process, and print the count."""
    import torch
    import torch.distributed as dist

    from lstm_sentiment.system.distributed import wrap_ddp

    for done.value in range(count):
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        parallel = wrap_ddp(torch.nn.Linear(2, 2))
        if not kept:
            del parallel.last_reference
        dist.all_reduce(torch.ones(1))
        dist.destroy_process_group()
        del parallel
    done.value = count


def resumes(count: int, folder: Path) -> Counts:
    """Resume in fresh processes from the first `count` steps of each variant.

    Returns:
        `resumes`; `lost` are those that end with other bytes than the uninterrupted run.
    """
    return resume_from_steps(dict.fromkeys(VARIANTS, range(1, count + 1)), folder)


def resume_from_steps(steps: Mapping[str, Sequence[int]], folder: Path) -> Counts:
    """Resume in fresh processes from some steps of each variant; see `resumes`."""
    for what in ("keep", "go on"):
        job = started(what, folder, json.dumps({name: list(of) for name, of in steps.items()}))
        assert job.wait(GIVEN_UP_S) == 0, job.stderr
    counts = {"resumes": 0, "lost": 0}
    for name in VARIANTS:
        for step in steps[name]:
            counts["resumes"] += 1
            counts["lost"] += end_of(folder / f"{name}-at-{step}") != end_of(folder / name)
    return counts


def end_of(run: Path) -> dict[str, Any]:
    """Return the final state of a run without times: bytes of tensors by file, and the training state."""
    found: dict[str, Any] = {
        f"{file.parent.name}/{file.name}": file.read_bytes()
        for name in ("best", "last")
        for file in (run / name).glob("*.safetensors")
    }
    assert len(found) == 4, "a model, and its last state with optimizer and moving average"
    training = json.loads((run / "last" / "state.json").read_text("utf-8"))["training"]
    for entry in training["history"]:
        del entry["tokens_per_s"]
    del training["elapsed_s"]
    return {**found, "training": training}


if __name__ == "__main__":
    (work_on_many if sys.argv[1] in {"keep", "go on"} else work)(*sys.argv[1:])
