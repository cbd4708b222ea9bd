"""Learning rate, EMA decay and seed as pure functions of the step."""

from __future__ import annotations

import math


def learning_rate_at(step: int, *, total_steps: int, peak: float, warmup: float) -> float:
    """Return the learning rate of a step: linear warm-up to `peak`, then a cosine down to zero.

    Args:
        step: 0-based.
        total_steps: of the whole run.
        peak: highest rate.
        warmup: share of the steps with a rising rate; 0 starts at the peak.

    >>> [round(learning_rate_at(s, total_steps=10, peak=1.0, warmup=0.2), 2) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 0.99, 0.4, 0.01]
    """
    rising = math.ceil(warmup * total_steps)
    if step < rising:
        return peak * (step + 1) / rising
    progress = (step - rising + 0.5) / max(1, total_steps - rising)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ema_decay_at(step: int, *, decay: float) -> float:
    """Return the moving average's decay at a step; lower at first, to forget the initial weights.

    >>> [round(ema_decay_at(s, decay=0.99), 2) for s in (0, 10, 10_000)]
    [0.1, 0.55, 0.99]
    """
    return min(decay, (1 + step) / (10 + step))


def step_seed(seed: int, *, step: int, rank: int) -> int:
    """Return the dropout seed of a step and rank, so that a run can resume from any step.

    >>> step_seed(0, step=1, rank=0) != step_seed(0, step=0, rank=1)
    True
    """
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**63
