"""One process or several. Only this module reads what torchrun puts into the environment."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lstm_sentiment.errors import ConfigError

TIMEOUT = datetime.timedelta(minutes=60)  # the others wait that long while rank 0 tokenises or reports


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The place of this process among those of the job.

    >>> Processes().is_main, Processes(rank=1, world_size=2).is_main
    (True, False)
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

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
        """Run a block in rank 0 first, then in the others, which find its results on disk."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def sum(self, value: float, device: torch.device) -> float:
        """Return the sum of a number over all processes."""
        if self.world_size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total)

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
        )
    except ValueError as error:
        raise ConfigError(f"RANK, WORLD_SIZE or LOCAL_RANK in the environment: {error}") from None


@contextlib.contextmanager
def process_group(processes: Processes, device: torch.device) -> Iterator[None]:
    """Connect the processes of a job for as long as the block runs: nccl on CUDA, gloo elsewhere.

    A block within another one shares its connection: a job can be connected only once.
    """
    if processes.world_size == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=TIMEOUT,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
