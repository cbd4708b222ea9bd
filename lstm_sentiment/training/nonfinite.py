"""Finds the rows of a step whose loss or gradient is non-finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lstm_sentiment.data.dataset import Array
from lstm_sentiment.system.distributed import Processes

MOST = 8  # rows to find; if all are non-finite, the weights are to blame


def culprits_of(
    batches: Sequence[Array],
    compute: Callable[[Array], list[Tensor]],
    processes: Processes,
    device: torch.device,
) -> list[int]:
    """Return the rows of a step that are non-finite on their own, the same in every process.

    Args:
        batches: of the step; each process examines its share (see `dataset.rank_share`).
        compute: rows -> their loss and gradient.
        processes: of the job.
        device: of this process.

    >>> rows = np.array([4, 9, 2])
    >>> culprits_of([rows], lambda rows: [1 / torch.tensor(rows - 9)], Processes(), torch.device("cpu"))
    [9]
    """
    bad: list[int] = []
    for batch in batches:
        mine = batch[processes.rank :: processes.world_size]
        own = culprits(mine, lambda rows: all(map(_is_finite, compute(rows))))
        is_bad = torch.from_numpy(np.isin(mine, own)).to(device, torch.uint8)
        bad += batch[processes.gather_rows(is_bad, len(batch)).cpu().numpy() > 0].tolist()
    return bad


def culprits(rows: Array, is_finite: Callable[[Array], bool], most: int = MOST) -> list[int]:
    """Return the first rows that are non-finite on their own, by bisection.

    Args:
        rows: to search.
        is_finite: whether a set of rows is finite; called some 2·log2(n) times for one bad row among n.
        most: stop after this many.

    >>> culprits(np.arange(100), lambda rows: not {3, 70} & set(rows))
    [3, 70]
    >>> culprits(np.arange(100), lambda rows: False, most=2)
    [0, 1]
    """
    if not len(rows) or most < 1 or is_finite(rows):
        return []
    if len(rows) == 1:
        return [int(rows[0])]
    half = len(rows) // 2
    found = culprits(rows[:half], is_finite, most)
    return found + culprits(rows[half:], is_finite, most - len(found))


def _is_finite(tensor: Tensor) -> bool:
    return bool((tensor.coalesce().values() if tensor.is_sparse else tensor).isfinite().all())
