"""CPU set-up and the choice of precision."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from lstm_sentiment.system.devices import (
    KERNEL_COUNT,
    _keep_freed_memory,
    lstm_takes_bf16,
    pick_precision,
    seed_random_numbers,
)


class RecordingLibrary:
    """Fake C library, which refuses thresholds above its maximum."""

    def __init__(self, most: int) -> None:
        self.most, self.settings = most, dict[int, int]()

    def mallopt(self, parameter: int, value: int) -> int:
        if parameter == -3 and value > self.most:
            return 0
        self.settings[parameter] = value
        return 1


@pytest.mark.parametrize(("most", "taken"), [(1 << 40, 1 << 30), (32 << 20, 32 << 20)])
def test_freed_large_blocks_are_kept(monkeypatch: pytest.MonkeyPatch, most: int, taken: int) -> None:
    """Older versions of glibc refuse a threshold above 32 MB."""
    library = RecordingLibrary(most)
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    _keep_freed_memory()
    assert library.settings == {-1: 1 << 30, -3: taken}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD


def test_other_c_libraries_are_not_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    library = RecordingLibrary(1 << 40)
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    _keep_freed_memory()
    assert library.settings == {}


FLUSHED = """
import torch
from lstm_sentiment.system.devices import set_up_cpu
tiny = torch.tensor([1e-39])
before = bool(tiny * 0.5)
print(set_up_cpu(1), before, bool(tiny * 0.5))
"""


def test_denormals_are_flushed_to_zero() -> None:
    result = subprocess.run(
        [sys.executable, "-c", FLUSHED], check=True, capture_output=True, text=True, timeout=120
    )
    assert result.stdout.split() == ["1", "True", "False"]


LENGTHS = """
import torch
from lstm_sentiment.system.devices import pick_device
pick_device("cpu")
lstm = torch.nn.LSTM(4, 4)
with torch.no_grad():
    for length in (*range(1, 41), 1):
        lstm(torch.zeros(length, 2, 4))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="where oneDNN computes LSTMs")
@pytest.mark.parametrize(("kept", "found"), [(None, "miss"), ("1024", "hit")])
def test_the_kernel_cache_is_bounded(kept: str | None, found: str) -> None:
    """The kernel of the first length is created again; the control is a larger cache set by the user."""
    environment = {name: value for name, value in os.environ.items() if name != KERNEL_COUNT}
    environment |= {"ONEDNN_VERBOSE": "2"} | ({KERNEL_COUNT: kept} if kept else {})
    reported = subprocess.run(
        [sys.executable, "-c", LENGTHS],
        check=True, capture_output=True, text=True, timeout=120, env=environment,
    ).stdout  # fmt: skip
    made = [line.partition("create:cache_")[2] for line in reported.splitlines() if ",rnn," in line]
    made = [line.partition(",")[0] for line in made if line]
    assert made == ["miss"] * 40 + [found]


def test_a_device_is_seeded_as_by_torch() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    seed_random_numbers(7, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="other CPUs know no AVX")
def test_bf16_is_refused_where_its_lstm_does_not_run() -> None:
    """With oneDNN limited to instruction sets without AVX-512."""
    script = """
import torch
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.system.devices import pick_precision
print(pick_precision("fp32", torch.device("cpu")), pick_precision("auto", torch.device("cpu")) != "fp16")
try:
    print(pick_precision("bf16", torch.device("cpu")))
except ConfigError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
    )
    assert result.stdout.splitlines() == [
        "fp32 True",
        "trainer.precision: bf16 LSTMs do not run on this CPU; use auto or fp32",
    ]


PICKED = """
import torch
from lstm_sentiment.kernels.library import library
from lstm_sentiment.system.devices import describe_machine, lstm_takes_bf16, pick_precision
cpu = torch.device("cpu")
facts = describe_machine(cpu)
print(pick_precision("auto", cpu), facts["bf16_on_cpu"], lstm_takes_bf16(), library() is not None)
"""


@pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="other CPUs know no AVX")
@pytest.mark.skipif(
    any(name in os.environ for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")),
    reason="the abilities of the CPU are limited already",
)
@pytest.mark.parametrize(
    "mask",
    [
        {},
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
        {"ATEN_CPU_CAPABILITY": "avx2"},
        {"ATEN_CPU_CAPABILITY": "default"},
        {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    ],
    ids=lambda mask: " ".join(mask.values()) or "none",
)
def test_the_chosen_precision_runs_on_an_older_cpu(mask: dict[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PICKED],
        check=True, capture_output=True, text=True, timeout=120, env={**os.environ, **mask},
    )  # fmt: skip
    picked, reported, runs, compiled = result.stdout.split()
    assert (picked == "bf16") == (reported == "True")
    assert picked == "fp32" or runs == "True"
    if mask:
        assert picked == "fp32"
    if mask.get("ATEN_CPU_CAPABILITY") == "default":
        assert compiled == "False"


def test_probing_bf16_does_not_change_the_random_state() -> None:
    before = torch.get_rng_state()
    lstm_takes_bf16()
    assert torch.equal(torch.get_rng_state(), before)


def test_if_bf16_is_chosen_its_lstm_runs() -> None:
    assert pick_precision("auto", torch.device("cpu")) == "fp32" or lstm_takes_bf16()
