"""What this machine can do: device, number format, threads."""

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

import torch
from torch import nn

from lstm_sentiment.errors import ConfigError, OutOfMemoryError
from lstm_sentiment.kernels.library import library

log = logging.getLogger(__name__)

DEVICES = r"auto|cpu|mps|cuda(:\d+)?"
LARGEST_BLOCK = 1 << 30  # bytes; larger ones go back to the system
KERNEL_COUNT, KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", 32  # that oneDNN keeps, instead of 1,024
ISAS_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _OneAtATime(contextlib.ContextDecorator):
    """Lets one thread of this process train at a time: the others wait.

    Dropout draws from the random numbers of PyTorch that all threads share, and threads and number formats
    are set for the whole process. The thread that trains may enter again.
    """

    def __init__(self) -> None:
        self._free = threading.RLock()
        if hasattr(os, "register_at_fork"):  # nobody trains in a child that was forked meanwhile
            os.register_at_fork(after_in_child=self._forget)

    def __enter__(self) -> None:
        self._free.acquire()

    def __exit__(self, *_: object) -> None:
        self._free.release()

    def _forget(self) -> None:
        self._free = threading.RLock()


one_training_at_a_time = _OneAtATime()


class _AfterFork:
    """One thread for a child that was forked after this process had computed with several.

    The threads of PyTorch's OpenMP do not come along, and whoever waits for them waits for ever.
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
    """Set up threads, number formats and memory for fast work on a CPU; return the number of threads.

    Denormal numbers, which vanishing gradients are full of and which cost up to fifteen times the
    time on some CPUs, become zero. Memory set free is kept for the next batch. Call this before any
    other work: the first setting is inherited by threads made later. A process that was forked from one
    that had computed has one thread.

    Args:
        threads: wanted; 0 for all cores that this process may use.
        sharing: processes that share this machine.
    """
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    if threads == 0:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, cores // sharing)
    if _after_fork.alone and threads > 1:
        log.warning("one thread instead of %d: this process was forked from one that computed", threads)
        threads = 1
    _after_fork.computed = True
    torch.set_num_threads(threads)
    return threads


def pick_device(wanted: str, *, local_rank: int = 0) -> torch.device:
    """Return the device that ``trainer.device`` means here; a CPU then keeps few kernels (see below).

    Raises:
        ConfigError: it is not there.
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
                f"{device} is not there: {count} CUDA devices; use cpu or auto", key="trainer.device"
            )
        torch.cuda.set_device(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("mps is not there; use cpu or auto", key="trainer.device")
    if device.type == "cpu":
        _keep_few_kernels()
    _after_fork.computed = True
    return device


def device_here(wanted: str) -> str:
    """Return a device, or auto where a pickle comes from a machine that had another one.

    >>> device_here("cuda:99")
    'auto'
    """
    with contextlib.suppress(ConfigError):
        return str(pick_device(wanted))
    return "auto"


def pick_precision(wanted: str, device: torch.device) -> str:
    """Return the number format that ``trainer.precision`` means on a device: fp32, bf16 or fp16.

    ``auto`` is bf16 on CPUs with instructions for it, fp16 on CUDA, where the LSTM's fast kernels
    take nothing else, and fp32 elsewhere.

    Raises:
        ConfigError: fp16 without CUDA, which has no fast or safe training path; bf16 on a CPU whose library
            has no LSTM for it, as on those without AVX-512.

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
    """Tell whether an `nn.LSTM` runs in bf16 on this CPU, by letting a small one run.

    Other layers are no sign: oneDNN computes them in bf16 on each CPU.

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
    """Seed the random numbers of the CPU and of one device.

    `torch.manual_seed` seeds those of all devices, and takes a fifth of a millisecond in each step.

    >>> seed_random_numbers(3, torch.device("cpu")); first = torch.rand(())
    >>> seed_random_numbers(3, torch.device("cpu")); first == torch.rand(())
    tensor(True)
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


@contextlib.contextmanager
def memory_told(what: str) -> Iterator[None]:
    """Say what did not fit into the memory of a device, and which setting to lower.

    Nothing is made smaller unasked: that would be another training.

    Args:
        what: the block does.

    Raises:
        OutOfMemoryError: memory was short.

    >>> with memory_told("before step 1: a batch of 64 texts"):  # doctest: +ELLIPSIS
    ...     torch.empty(1 << 55)
    Traceback (most recent call last):
    lstm_sentiment.errors.OutOfMemoryError: out of memory before step 1: a batch of 64 texts; lower ...
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        told = ("DefaultCPUAllocator", "out of memory", "not enough memory")
        short = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not short and not any(words in str(error) for words in told):
            raise
        raise OutOfMemoryError(
            f"out of memory {what}; lower trainer.batch_size (trainer.accumulate makes up for it), "
            "text.max_tokens or model.hidden_size"
        ) from error


def describe_machine(device: torch.device) -> dict[str, object]:
    """Return facts about the machine that a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "bf16_on_cpu": _cpu_has_bf16(),
        "compiled_lstm": library() is not None,
    }


def _keep_freed_memory() -> None:
    """Let glibc keep large blocks set free: the system would zero each page again in each step.

    Long texts train up to 1.8 times as fast. See mallopt(3); other C libraries have no such setting.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold = -1, -3
    mallopt(trim_threshold, LARGEST_BLOCK)
    if not mallopt(mmap_threshold, LARGEST_BLOCK):
        mallopt(mmap_threshold, 32 << 20)  # the most that older versions take


def _keep_few_kernels() -> None:
    """Let oneDNN keep fewer kernels, unless the user has said how many.

    It makes one for each length of a batch, and each takes memory: an epoch over 6,000 reviews ended with
    3.2 GB, a run on IMDB with 6 GB; so, that epoch ends with 2.1 GB, at the same speed. It reads the variable
    as it makes its first one.
    """
    os.environ.setdefault(KERNEL_COUNT, str(KERNELS))


def _cpu_has_bf16() -> bool:
    """Whether LSTMs run on bf16 instructions here, unless a mask of oneDNN or PyTorch hides them."""
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
