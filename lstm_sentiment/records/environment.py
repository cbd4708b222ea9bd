"""environment.json: versions and machine that a run was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lstm_sentiment.records.json_values import Count, Record


@dataclass(frozen=True, kw_only=True)
class Writer(Record):
    """What every version writes.

    Args:
        lstm_sentiment: version of this package.
    """

    FILE: ClassVar[str] = "environment.json"

    lstm_sentiment: str


@dataclass(frozen=True, kw_only=True)
class Versions(Writer):
    """Versions that a packed run was trained with, without facts about the machine.

    Args:
        torch: version of PyTorch.
        packages: versions of the others, by name.
    """

    torch: str
    packages: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Environment(Writer):
    """Versions and machine that a run was trained with.

    Args:
        python: version of Python.
        torch: version of PyTorch.
        system: operating system and kind of processor.
        cpu: name of the processor.
        threads: that computed.
        device: kind of device, or name of the GPU.
        bf16_on_cpu: whether LSTMs use bf16 instructions.
        compiled_lstm: whether the compiled kernels are used; None in runs of earlier versions.
        kernels: instructions that they are compiled for; None without them and in runs of earlier versions.
        packages: versions of other packages, by name.
    """

    python: str
    torch: str
    system: str
    cpu: str
    threads: Count
    device: str
    bf16_on_cpu: bool
    compiled_lstm: bool | None = None
    kernels: str | None = None
    packages: dict[str, str]
