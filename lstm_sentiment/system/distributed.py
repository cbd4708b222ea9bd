"""One process or several. Only this module reads what torchrun puts into the environment."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # public, but not told so
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from lstm_sentiment.errors import ConfigError, LostProcessError

BEAT_S = 1.0  # between two heartbeats of the main process
LOOK_S = 0.05  # between two looks of the others
GRACE_S = 2.0  # for those that waited in vain to say so; who then has not, hangs


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The place of this process among those of the job.

    Args:
        rank: number of this process; 0 is the main one.
        world_size: processes of the job.
        local_rank: number among those of this machine.
        local_world_size: processes of the job on this machine.
        restarts: how often torchrun has started the job again after a process was lost.
        job: the same in all starts of a job, and different in others; empty without torchrun.

    >>> Processes().is_main, Processes(rank=1, world_size=2).is_main
    (True, False)
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    restarts: int = 0
    job: str = ""

    @property
    def is_main(self) -> bool:
        """Whether this process writes, prints and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Run a block in rank 0 first, then in the others, which find its results on disk.

        However long that takes, the others wait, as long as they hear rank 0's heart.

        Raises:
            TimeoutError: it has not been heard for too long (see `sharing_errors`).
        """
        job = _job
        if job is None or self.world_size == 1:
            yield
            return
        job.turns += 1
        note = f"turn {job.turns}"
        if not self.is_main:
            job.wait_for(note)
            self.barrier()
        yield
        if self.is_main:
            job.notes.set(note, "done")
            self.barrier()  # the others have seen the disk as it was before: what follows may change it

    def sum(self, value: float, device: torch.device) -> float:
        """Return the sum of a number over all processes."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total)

    def gather(self, value: float, device: torch.device) -> list[float]:
        """Return a number of each process, in the order of ranks.

        >>> Processes().gather(0.5, torch.device("cpu"))
        [0.5]
        """
        if self.world_size == 1:
            return [value]
        values: list[float] = self.gather_rows(
            torch.tensor([value], dtype=torch.float64, device=device), self.world_size
        ).tolist()
        return values

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """Put together rows that were dealt out as ``[rank::world_size]``.

        Args:
            rows: this process's rows (about count / world_size, X).
            count: rows in all.

        Returns:
            all rows in order (count, X), the same in every process.
        """
        if self.world_size == 1:
            return rows
        most = -(-count // self.world_size)
        padded = torch.zeros(most, *rows.shape[1:], dtype=rows.dtype, device=rows.device)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, dim=1).flatten(0, 1)[:count]


def process_environment() -> Processes:
    """Return this process's place from torchrun's variables; one process where there are none.

    Raises:
        ConfigError: variables that are no numbers.
    """
    try:
        return Processes(
            rank=int(os.environ.get("RANK", "0")),
            world_size=int(os.environ.get("WORLD_SIZE", "1")),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            restarts=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")),
            job=_job_name(),
        )
    except ValueError as error:
        raise ConfigError(f"RANK, WORLD_SIZE or LOCAL_RANK in the environment: {error}") from None


def _job_name() -> str:
    """Return what tells a job from others: torchrun, which outlives its processes, starts them all."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    name = f"{os.environ['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {os.getppid()}"
    return hashlib.sha256(name.encode()).hexdigest()[:16]


class _Job:
    """What the processes of a connected job share beside its collectives: notes, and a heart.

    Collectives wait `timeout_s` and no longer, for a process that hangs never says so. What the main
    process does alone may take longer, and is waited for as long as its heart beats.

    Args:
        notes: names and values that all processes see.
        processes: of the job.
        timeout_s: after which a process counts as lost.
    """

    def __init__(self, notes: Store, processes: Processes, timeout_s: float) -> None:
        self.notes, self.processes, self.timeout_s, self.turns = notes, processes, timeout_s, 0
        notes.set(f"process {processes.rank}", json.dumps([socket.gethostname(), os.getpid()]))

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Let the others hear that this process lives while a block runs, whatever it does."""
        over = threading.Event()

        def beat() -> None:
            with contextlib.suppress(RuntimeError):  # who kept the notes is gone: the end is near anyway
                while not over.wait(BEAT_S):
                    self.notes.add("beats", 1)

        thread = threading.Thread(target=beat, name="heart", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def wait_for(self, note: str) -> None:
        """Wait for a note of the main process, as long as it lives."""
        beats, heard = -1, time.monotonic()
        while not self.notes.check([note]):
            found = self.notes.add("beats", 0)
            if found != beats:
                beats, heard = found, time.monotonic()
            elif time.monotonic() - heard > self.timeout_s:
                raise TimeoutError
            time.sleep(LOOK_S)

    def tell(self, error: Exception) -> None:
        """Leave word of what ends this process, if it is the first one to end."""
        rank = self.processes.rank
        word = {
            "reason": f"process {rank} ended: {str(error) or type(error).__name__}",
            "exit_code": getattr(error, "exit_code", 1),
        }
        with contextlib.suppress(RuntimeError):
            self.notes.set(f"end of {rank}", "")
            self.notes.compare_set("end", "", json.dumps(word))

    def end_those_that_hang(self) -> None:
        """Kill the processes of this machine that do not end by themselves: torchrun takes half a minute."""
        time.sleep(GRACE_S)
        for rank in range(self.processes.world_size):
            with contextlib.suppress(RuntimeError, OSError):
                if not self.notes.check([f"end of {rank}"]):
                    host, pid = json.loads(self.notes.get(f"process {rank}"))
                    if host == socket.gethostname():
                        os.kill(pid, signal.SIGKILL)

    def lost(self, error: Exception) -> LostProcessError:
        """Return what a broken connection means, in the words of the process that ended if it left any."""
        with contextlib.suppress(RuntimeError):
            if self.notes.check(["end"]):
                return LostProcessError(**json.loads(self.notes.get("end")))
        if _is_timeout(error):
            return LostProcessError(self._silent())
        return LostProcessError(
            "another process of the job is gone and left no word: it was killed, maybe by the system because "
            "memory was short, or its machine cannot be reached; go on with --resume true"
        )

    def _silent(self) -> str:
        return (
            f"another process of the job has not answered for {self.timeout_s:g} s (trainer.timeout): it "
            "hangs, or it is slower than that; go on with --resume true"
        )


_job: _Job | None = None  # a process belongs to one at most, as torch.distributed has it


@contextlib.contextmanager
def process_group(processes: Processes, device: torch.device, *, timeout_s: float) -> Iterator[None]:
    """Connect the processes of a job for as long as the block runs: nccl on CUDA, gloo elsewhere.

    A block within another one shares its connection: a job can be connected only once.

    Args:
        processes: of the job.
        device: that this process computes on.
        timeout_s: after which a process that does not answer counts as lost (see `sharing_errors`).
    """
    global _job
    if processes.world_size == 1 or dist.is_initialized():
        yield
        return
    timeout = datetime.timedelta(seconds=timeout_s)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=_store(processes, "group", timeout),
        rank=processes.rank,
        world_size=processes.world_size,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    _job = _Job(_store(processes, "notes", timeout), processes, timeout_s)
    try:
        with _job.beating() if processes.is_main else contextlib.nullcontext():
            yield
    finally:
        _job = None
        dist.destroy_process_group()


def exchanging_gradients(model: nn.Module) -> DistributedDataParallel:
    """Return a model that does what another does, and makes one gradient of those of all processes.

    Deleting gloo's group waits for a thread, which may be waiting for Python's lock. A reference of Python's
    gives the lock up before that, one of the reducer's within the model does not, and the process hangs for
    good (seen in torch 2.13, one time in 25). So one of Python's has to be the last: attributes go in the
    order in which they came.

    Args:
        model: already on its device; inside of `process_group`.

    Example::

        with process_group(processes, device, timeout_s=600):
            parallel = exchanging_gradients(model)
    """
    parallel = DistributedDataParallel(model)
    parallel.last_reference = dist.group.WORLD  # type: ignore[assignment]
    return parallel


def _store(processes: Processes, name: str, timeout: datetime.timedelta) -> Store:
    """Return a connection of its own to what torchrun keeps for the processes of a job.

    A job that is started again may find what the start before left there, such as addresses of processes
    that are dead, which gloo tries to reach for ten minutes: so each start has its own names.
    """
    store, _, _ = next(rendezvous("env://", processes.rank, processes.world_size, timeout=timeout))
    return PrefixStore(f"start {processes.restarts}, {name}", store)


@contextlib.contextmanager
def sharing_errors() -> Iterator[None]:
    """While a block runs, tell the others what ends this process, and learn from them what ended theirs.

    Raises:
        LostProcessError: in the place of what a collective raises when another process hangs or is gone.

    >>> with sharing_errors():
    ...     print("alone there is nobody to tell")
    alone there is nobody to tell
    """
    try:
        yield
    except Exception as error:
        if _job is None:
            raise
        if not _is_of_connection(error):
            _job.tell(error)
            raise
        lost = _job.lost(error)
        _job.tell(lost)
        if _is_timeout(error):
            _job.end_those_that_hang()
        raise lost from error


def _is_of_connection(error: Exception) -> bool:
    """Whether an error is one of torch.distributed's, or of ours; gloo's have no class of their own."""
    ours = isinstance(error, dist.DistError | TimeoutError)
    return ours or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, TimeoutError) or "timed out" in str(error).lower()
