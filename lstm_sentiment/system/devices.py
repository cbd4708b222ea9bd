"""Device, precision, threads and memory settings."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import platform
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import torch
from torch import nn

from lstm_sentiment.errors import ConfigError, OutOfMemoryError
from lstm_sentiment.kernels.library import instructions, library

log = logging.getLogger(__name__)

DEVICES = r"auto|cpu|mps|cuda(:\d+)?"
LARGEST_BLOCK = 1 << 30  # bytes; larger ones are returned to the system
KERNEL_COUNT, KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", 32  # of oneDNN, instead of 1,024
ISAS_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _OneAtATime(contextlib.ContextDecorator):
    """Re-entrant lock: one thread of this process trains at a time.

    Dropout uses PyTorch's global random state, and threads and precision are set for the whole process.
    """

    def __init__(self) -> None:
        self._free = threading.RLock()
        if hasattr(os, "register_at_fork"):  # nothing trains in a forked child
            os.register_at_fork(after_in_child=self._forget)

    def __enter__(self) -> None:
        self._free.acquire()

    def __exit__(self, *_: object) -> None:
        self._free.release()

    def _forget(self) -> None:
        self._free = threading.RLock()


one_training_at_a_time = _OneAtATime()


class _AfterFork:
    """Limits a child that was forked after its parent had computed to one thread.

    PyTorch's OpenMP threads do not survive a fork, and waiting for them deadlocks.
    """

    computed = alone = False

    def __init__(self) -> None:
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._go_alone)

    def _go_alone(self) -> None:
        if self.computed:
            self.alone = True
            torch.set_num_threads(1)


_after_fork = _AfterFork()


def set_up_cpu(threads: int, *, sharing: int = 1) -> int:
    """Set threads, denormals and memory for fast work on a CPU; return the number of threads.

    Denormals, which are common in vanishing gradients and up to fifteen times slower on some CPUs, are
    flushed to zero. Freed memory is kept for the next batch. Call this before any other work: threads created
    later inherit the denormal setting. A process that was forked from one that had computed has one thread.

    Args:
        threads: wanted; 0 for all cores available to this process.
        sharing: processes that share this machine.
    """
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    if threads == 0:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, cores // sharing)
    if _after_fork.alone and threads > 1:
        log.warning("one thread instead of %d: this process was forked from one that had computed", threads)
        threads = 1
    _after_fork.computed = True
    torch.set_num_threads(threads)
    return threads


def pick_device(wanted: str, *, local_rank: int = 0) -> torch.device:
    """Resolve ``trainer.device``; for a CPU also limit oneDNN's kernel cache (see below).

    Raises:
        ConfigError: it is not available.
    """
    if not re.fullmatch(DEVICES, wanted):
        raise ConfigError(f"'{wanted}' is not one of auto, cpu, cuda, cuda:N, mps", key="device")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", local_rank)
        if not torch.cuda.is_available() or device.index >= torch.cuda.device_count():
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            raise ConfigError(
                f"{device} is not available: {count} CUDA devices; use cpu or auto", key="trainer.device"
            )
        torch.cuda.set_device(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("mps is not available; use cpu or auto", key="trainer.device")
    if device.type == "cpu":
        _keep_few_kernels()
    _after_fork.computed = True
    return device


def device_here(wanted: str) -> str:
    """Return a device, or auto if it is not available here, as after unpickling on another machine.

    >>> device_here("cuda:99")
    'auto'
    """
    with contextlib.suppress(ConfigError):
        return str(pick_device(wanted))
    return "auto"


def pick_precision(wanted: str, device: torch.device) -> str:
    """Resolve ``trainer.precision`` for a device: fp32, bf16 or fp16.

    ``auto`` is bf16 on CPUs with bf16 instructions, fp16 on CUDA, where the LSTM's fast kernels
    support nothing else, and fp32 elsewhere.

    Raises:
        ConfigError: fp16 without CUDA, which has no fast or safe training path; bf16 on a CPU without bf16
            LSTM kernels, such as those without AVX-512.

    >>> pick_precision("fp32", torch.device("cpu"))
    'fp32'
    """
    if wanted == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"
    if wanted == "fp16" and device.type != "cuda":
        raise ConfigError(f"fp16 needs CUDA, not {device.type}; use auto or fp32", key="trainer.precision")
    if wanted == "bf16" and device.type == "cpu" and not lstm_takes_bf16():
        raise ConfigError("bf16 LSTMs do not run on this CPU; use auto or fp32", key="trainer.precision")
    return wanted


def lstm_takes_bf16() -> bool:
    """Check whether an `nn.LSTM` runs in bf16 on this CPU, by running a small one.

    Other layers are not an indication: oneDNN computes them in bf16 on every CPU.

    >>> lstm_takes_bf16() in {True, False}
    True
    """
    with torch.random.fork_rng(devices=[]):
        lstm = nn.LSTM(8, 8)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            lstm(torch.zeros(8, 1, 8))[0].sum().backward()
    except RuntimeError:
        return False
    return True


def seed_random_numbers(seed: int, device: torch.device) -> None:
    """Seed the random number generators of the CPU and of one device.

    `torch.manual_seed` seeds all devices, which takes a fifth of a millisecond per step.

    >>> seed_random_numbers(3, torch.device("cpu")); first = torch.rand(())
    >>> seed_random_numbers(3, torch.device("cpu")); first == torch.rand(())
    tensor(True)
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


@contextlib.contextmanager
def out_of_memory_as_error(what: str) -> Iterator[None]:
    """Convert out-of-memory errors of a block to an error that names the settings to lower.

    Nothing is reduced automatically: that would change the training.

    Args:
        what: what the block does, for the message.

    Raises:
        OutOfMemoryError: the block ran out of memory.

    >>> with out_of_memory_as_error("before step 1: a batch of 64 texts"):  # doctest: +ELLIPSIS
    ...     torch.empty(1 << 55)
    Traceback (most recent call last):
    lstm_sentiment.errors.OutOfMemoryError: out of memory before step 1: a batch of 64 texts; lower ...
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        phrases = ("DefaultCPUAllocator", "out of memory", "not enough memory")
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and not any(phrase in str(error) for phrase in phrases):
            raise
        raise OutOfMemoryError(
            f"out of memory {what}; lower trainer.batch_size (trainer.accumulate compensates for it), "
            "text.max_tokens or model.hidden_size"
        ) from error


class Machine(TypedDict):
    """Properties of a machine (see `records.environment.Environment`)."""

    python: str
    torch: str
    system: str
    cpu: str
    threads: int
    device: str
    bf16_on_cpu: bool
    compiled_lstm: bool
    kernels: str | None


def describe_machine(device: torch.device) -> Machine:
    """Return the properties of the machine that results depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "bf16_on_cpu": _cpu_has_bf16(),
        "compiled_lstm": library() is not None,
        "kernels": instructions(),
    }


def _keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: the system would zero their pages again in each step.

    Long texts train up to 1.8 times as fast. See mallopt(3); other C libraries have no such setting.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold = -1, -3
    mallopt(trim_threshold, LARGEST_BLOCK)
    if not mallopt(mmap_threshold, LARGEST_BLOCK):
        mallopt(mmap_threshold, 32 << 20)  # the maximum of older versions


def _keep_few_kernels() -> None:
    """Limit oneDNN's kernel cache, unless the user has set its size.

    oneDNN creates a kernel for each batch length, and each takes memory: an epoch over 6,000 reviews ended
    with 3.2 GB, a run on IMDB with 6 GB; with the limit that epoch ends with 2.1 GB, at the same speed. The
    variable is read when the first kernel is created.
    """
    os.environ.setdefault(KERNEL_COUNT, str(KERNELS))


def _cpu_has_bf16() -> bool:
    """Whether LSTMs use bf16 instructions here; False if oneDNN or PyTorch is restricted not to."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ISAS_WITHOUT_BF16:
        return False
    checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    if not any(check() for check in checks if check is not None):
        return False
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and lstm_takes_bf16()


def _cpu_name() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
