"""What `set_up_cpu` promises, seen from outside in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource, sys, torch
if "set up" in sys.argv:
    from lstm_sentiment.hardware import set_up_cpu
    set_up_cpu(1)
for size in (30_000_000, 40_000_000, 50_000_000, 30_000_000):
    torch.ones(size)  # the heap grows to what a batch needs
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*arguments: str) -> int:
    """Return how many pages the system had to hand out for five blocks of 80 MB, one after the other."""
    command = [sys.executable, "-c", PAGE_FAULTS, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_memory_set_free_is_used_again() -> None:
    assert page_faults("set up") < 1000
    assert page_faults() > 50_000, "the system reuses it anyway: nothing was shown"


FLUSHED = """
import torch
from lstm_sentiment.hardware import set_up_cpu
tiny = torch.tensor([1e-39])
before = bool(tiny * 0.5)
print(set_up_cpu(1), before, bool(tiny * 0.5))
"""


def test_denormal_numbers_become_zero() -> None:
    result = subprocess.run(
        [sys.executable, "-c", FLUSHED], check=True, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.split() == ["1", "True", "False"]
