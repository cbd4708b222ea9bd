"""Distributed training: ranks, collectives, lost ranks. Only this module reads torchrun's variables."""

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
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # public, but not exported
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from lstm_sentiment.errors import ConfigError, LostProcessError

BEAT_S = 1.0  # between two heartbeats of the main process
LOOK_S = 0.05  # polling interval of the other ranks
GLOO_TIMEOUT = "Application timeout caused pair closure"  # of an operation after one that timed out
GRACE_S = 2.0  # for timed-out ranks to report; silent ranks are considered hung


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Rank of this process, and size of the job.

    Args:
        rank: of this process; 0 is the main one.
        world_size: number of ranks of the job.
        local_rank: rank on this machine.
        local_world_size: ranks of the job on this machine.
        restarts: how often torchrun has restarted the job after a rank was lost.
        job: identifies the job across restarts; empty without torchrun.

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

        The others wait as long as rank 0 sends heartbeats.

        Raises:
            TimeoutError: no heartbeat for too long (see `shared_errors`).
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
            self.barrier()  # after this, rank 0 may change the disk again

    def sum(self, value: float, device: torch.device) -> float:
        """All-reduce: return the sum of a number over all ranks."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total)

    def gather(self, value: float, device: torch.device) -> list[float]:
        """All-gather a number: one per rank, in order.

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
        """All-gather rows that were distributed as ``[rank::world_size]``.

        Args:
            rows: this rank's rows (about count / world_size, X).
            count: total number of rows.

        Returns:
            all rows in order (count, X), the same in every rank.
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
    """Read rank and world size from torchrun's variables; a single process without them.

    Raises:
        ConfigError: variables that are not numbers.
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
    """Return an identifier of the job: that of torchrun, which is the parent across restarts."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    name = f"{os.environ['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {os.getppid()}"
    return hashlib.sha256(name.encode()).hexdigest()[:16]


class _Job:
    """Side channel of a connected job next to its collectives: a key-value store and heartbeats.

    Collectives time out after `timeout_s`, since a hanging rank does not report it. Work of rank 0 alone
    may take longer; the others wait as long as it sends heartbeats.

    Args:
        notes: store that all ranks share.
        processes: of the job.
        timeout_s: after which a rank is considered lost.
    """

    def __init__(self, notes: Store, processes: Processes, timeout_s: float) -> None:
        self.notes, self.processes, self.timeout_s, self.turns = notes, processes, timeout_s, 0
        notes.set(f"process {processes.rank}", json.dumps([socket.gethostname(), os.getpid()]))

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Send heartbeats from a thread while a block runs."""
        over = threading.Event()

        def beat() -> None:
            with contextlib.suppress(RuntimeError):  # the store's process is gone: the job ends anyway
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
        """Wait for a note of rank 0, as long as it sends heartbeats."""
        beats, heard = -1, time.monotonic()
        while not self.notes.check([note]):
            found = self.notes.add("beats", 0)
            if found != beats:
                beats, heard = found, time.monotonic()
            elif time.monotonic() - heard > self.timeout_s:
                raise TimeoutError
            time.sleep(LOOK_S)

    def report(self, error: Exception) -> None:
        """Report the error that ends this rank, if it is the first to end."""
        rank = self.processes.rank
        word = {
            "reason": f"process {rank} ended: {str(error) or type(error).__name__}",
            "exit_code": getattr(error, "exit_code", 1),
        }
        with contextlib.suppress(RuntimeError):
            self.notes.set(f"end of {rank}", "")
            self.notes.compare_set("end", "", json.dumps(word))

    def kill_hung_ranks(self) -> None:
        """Kill hung ranks of this machine: torchrun takes half a minute."""
        time.sleep(GRACE_S)
        for rank in range(self.processes.world_size):
            with contextlib.suppress(RuntimeError, OSError):
                if not self.notes.check([f"end of {rank}"]):
                    host, pid = json.loads(self.notes.get(f"process {rank}"))
                    if host == socket.gethostname():
                        os.kill(pid, signal.SIGKILL)

    def lost(self, error: Exception) -> LostProcessError:
        """Return the error for a broken connection, with the ended rank's own message if it reported one."""
        with contextlib.suppress(RuntimeError):
            if self.notes.check(["end"]):
                return LostProcessError(**json.loads(self.notes.get("end")))
        if _is_timeout(error):
            return LostProcessError(self._silent())
        return LostProcessError(
            "another process of the job ended without an error message: it was killed, maybe by the system's "
            "out-of-memory killer, or its machine cannot be reached; continue with --resume true"
        )

    def _silent(self) -> str:
        return (
            f"another process of the job has not responded for {self.timeout_s:g} s (trainer.timeout): it "
            "hangs, or it is slower than that; continue with --resume true"
        )


_job: _Job | None = None  # at most one per process, as in torch.distributed


@contextlib.contextmanager
def process_group(processes: Processes, device: torch.device, *, timeout_s: float) -> Iterator[None]:
    """Context with an initialised process group: nccl on CUDA, gloo elsewhere.

    A nested block reuses the group: a job can be connected only once.

    Args:
        processes: of the job.
        device: of this rank.
        timeout_s: after which an unresponsive rank is considered lost (see `shared_errors`).
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


def wrap_ddp(model: nn.Module) -> DistributedDataParallel:
    """Wrap a model in DistributedDataParallel.

    Deleting gloo's process group joins a thread that may be waiting for the GIL. A Python reference releases
    the GIL first, the reducer's reference inside the model does not, and the process deadlocks
    (seen in torch 2.13, one time in 25). So a Python reference must be the last one: attributes are deleted
    in the order of their creation.

    Args:
        model: already on its device; inside `process_group`.

    Example::

        with process_group(processes, device, timeout_s=600):
            parallel = wrap_ddp(model)
    """
    parallel = DistributedDataParallel(model)
    parallel.last_reference = dist.group.WORLD  # type: ignore[assignment]
    return parallel


def _store(processes: Processes, name: str, timeout: datetime.timedelta) -> Store:
    """Return a connection to torchrun's store, with a prefix per restart.

    A restarted job could find keys of the previous start there, such as addresses of dead processes, which
    gloo tries to reach for ten minutes.
    """
    store, _, _ = next(rendezvous("env://", processes.rank, processes.world_size, timeout=timeout))
    return PrefixStore(f"start {processes.restarts}, {name}", store)


@contextlib.contextmanager
def shared_errors() -> Iterator[None]:
    """Share errors between ranks: report what ends this one, and raise what ended another.

    Raises:
        LostProcessError: instead of the error of a collective when another rank hangs or is gone.

    >>> with shared_errors():
    ...     print("no other ranks")
    no other ranks
    """
    try:
        yield
    except Exception as error:
        if _job is None:
            raise
        if not _is_of_connection(error):
            _job.report(error)
            raise
        lost = _job.lost(error)
        _job.report(lost)
        if _is_timeout(error):
            _job.kill_hung_ranks()
        raise lost from error


def _is_of_connection(error: Exception) -> bool:
    """Whether an error is a connection error of torch.distributed or this module; gloo's have no class."""
    ours = isinstance(error, dist.DistError | TimeoutError)
    return ours or (isinstance(error, RuntimeError) and ("gloo" in str(error) or GLOO_TIMEOUT in str(error)))


def _is_timeout(error: Exception) -> bool:
    message = str(error).lower()
    return isinstance(error, TimeoutError) or "timed out" in message or GLOO_TIMEOUT.lower() in message
