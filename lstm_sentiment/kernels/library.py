"""Loading and calling of the compiled kernel library, if it is available here.

It is plain C, called by ctypes, and independent of Python's and PyTorch's ABI, so that one build serves all
versions. It uses PyTorch's OpenMP threads, from the OpenMP library that is already loaded. The same source is
compiled for AVX2 or NEON (see `target.h`), and that of the LSTM also for AVX-512, with the same results bit
for bit, and for AVX-512 with bf16 products. Only instructions whose speed was measured are used, unless the
environment variable LSTM_SENTIMENT_KERNELS is ``on``.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VARIABLE = "LSTM_SENTIMENT_KERNELS"
AUTO, ON, OFF = "auto", "on", "off"  # its values: measured instructions, any, none
INSTRUCTIONS = {1: "AVX2", 2: "NEON", 3: "AVX512", 4: "AVX512-BF16"}  # INSTRUCTIONS of target.h
MEASURED = ("AVX2", "AVX512", "AVX512-BF16")  # kernels compiled for these are faster than PyTorch
CAPABLE = ("AVX2", "AVX512")  # PyTorch's names of CPUs with AVX2 and FMA
FILES = (
    "_kernels",
    "_lstm_avx512",
    "_lstm_bf16",
)  # all kernels; the LSTM for other instructions
LSTM_FILES = {
    "fp32": ("_lstm_avx512", "_kernels"),
    "bf16": ("_lstm_bf16",),
}  # by precision, best first
INTERFACE = 4  # increment when the arguments of a function change, here and in lstm.c
LSTM_FUNCTIONS = ("lstm_forward", "lstm_continue", "lstm_backward")
FUNCTIONS = (
    *LSTM_FUNCTIONS,
    "pool_forward",
    "pool_backward",
    "update_rows",
    "list_tokens",
    "list_buckets",
    "bags_forward",
    "bags_backward",
    "bags_fold",
    "bags_look_up",
    "linear_logits",
    "ngram_logits",
)

log = logging.getLogger(__name__)


@functools.cache
def library(name: str = "_kernels") -> ctypes.CDLL | None:
    """Return a compiled library; None if missing, switched off, of another version or not for this CPU.

    Args:
        name: one of `FILES`.
    """
    wanted = _checked(os.environ.get(VARIABLE) or AUTO)
    path = Path(__file__).with_name(f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}")
    if wanted == OFF or not path.is_file() or not _available():
        return None
    try:
        found = ctypes.CDLL(str(path))
        for number in (found.kernels_interface, found.kernels_instructions):
            number.restype = ctypes.c_int64
        if found.kernels_interface() != INTERFACE:
            log.warning("%s is of another version and not used: reinstall the package", path.name)
            return None
        compiled_for = INSTRUCTIONS[found.kernels_instructions()]
        for function_name in FUNCTIONS if name == "_kernels" else LSTM_FUNCTIONS:
            function = getattr(found, function_name)
            function.argtypes, function.restype = [ctypes.c_void_p], None
    except (OSError, AttributeError, KeyError) as error:
        log.debug("%s cannot be used: %s", path.name, error)
        return None
    usable = compiled_for in _available() and (compiled_for in MEASURED or wanted == ON)
    return found if usable else None


@functools.cache
def _checked(wanted: str) -> str:
    """Return a value of the environment variable, with one warning for all libraries if it is unknown."""
    if wanted not in (AUTO, ON, OFF):
        log.warning("the environment variable %s is %r, not auto, on or off: ignored", VARIABLE, wanted)
    return wanted


def lstm_library(precision: str = "fp32") -> ctypes.CDLL | None:
    """Return the fastest library for LSTMs whose products have this format, fp32 or bf16; None without any.

    >>> lstm_library("fp16") is None
    True
    """
    found = (library(name) for name in LSTM_FILES.get(precision, ()))
    return next((of for of in found if of is not None), None)


def instructions(precision: str = "fp32") -> str | None:
    """Return the instructions that LSTMs are computed with, of `INSTRUCTIONS`; None without a kernel.

    >>> instructions() in (None, *INSTRUCTIONS.values())
    True
    """
    found = lstm_library(precision)
    return INSTRUCTIONS[found.kernels_instructions()] if found is not None else None


def _available() -> tuple[str, ...]:
    """Return the instructions of this CPU for which there are kernels."""
    if platform.machine() in ("aarch64", "arm64"):
        return ("NEON",)
    capability = torch.backends.cpu.get_cpu_capability()
    found = CAPABLE[: CAPABLE.index(capability) + 1] if capability in CAPABLE else ()
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return (*found, "AVX512-BF16") if capability == "AVX512" and has_bf16() else found


def applies_to(*tensors: Tensor) -> bool:
    """Whether the library supports all tensors: float32, on the CPU, not empty.

    >>> applies_to(torch.zeros(2).double())
    False
    """
    for of in tensors:
        if not of.is_cpu or of.dtype is not torch.float32 or not of.numel():
            return False
    return library() is not None


def fields(*kinds: tuple[type, str]) -> tuple[tuple[str, type], ...]:
    """Return ctypes fields from types and their space-separated names.

    >>> fields((ctypes.c_int64, "steps batch"))
    (('steps', <class 'ctypes.c_long'>), ('batch', <class 'ctypes.c_long'>))
    """
    return tuple((name, kind) for kind, names in kinds for name in names.split())


def call(
    name: str,
    structure: type[ctypes.Structure],
    numbers: Mapping[str, float],
    arrays: Mapping[str, Any],
    found: ctypes.CDLL | None = None,
) -> None:
    """Call a function of a library, which must be available (see `applies_to`).

    Args:
        name: one of `FUNCTIONS`.
        structure: type of its arguments.
        numbers: integer and float arguments, by name.
        arrays: array arguments: a contiguous tensor or several; missing ones are NULL.
        found: the library; None for that of all kernels.
    """
    found = found if found is not None else library()
    assert found is not None
    lists = {key: _addresses(of) for key, of in arrays.items() if not isinstance(of, Tensor)}
    pointers = {
        key: ctypes.addressof(lists[key]) if key in lists else of.data_ptr() for key, of in arrays.items()
    }
    getattr(found, name)(ctypes.byref(structure(**numbers, **pointers)))


def _addresses(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(of.data_ptr() for of in tensors))
