"""Loading and calling of the compiled kernel library, if it is available here.

It is plain C, called by ctypes, and independent of Python's and PyTorch's ABI, so that one build serves all
versions. It uses PyTorch's OpenMP threads, from the OpenMP library that is already loaded.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CAPABLE = ("AVX2", "AVX512")  # PyTorch's names of CPUs with AVX2 and FMA
INTERFACE = 1  # increment when the arguments of a function change, here and in lstm.c
FUNCTIONS = (
    "lstm_forward",
    "lstm_backward",
    "pool_forward",
    "pool_backward",
    "update_rows",
    "list_tokens",
    "list_buckets",
    "bags_forward",
    "bags_backward",
)

log = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled library, or None if it is missing, unsupported here or of another version."""
    path = Path(__file__).with_name(f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}")
    if not path.is_file() or torch.backends.cpu.get_cpu_capability() not in CAPABLE:
        return None
    try:
        found = ctypes.CDLL(str(path))
        found.kernels_interface.restype = ctypes.c_int64
        if found.kernels_interface() != INTERFACE:
            log.warning("%s is of another version and not used: reinstall the package", path.name)
            return None
        for name in FUNCTIONS:
            function = getattr(found, name)
            function.argtypes, function.restype = [ctypes.c_void_p], None
    except (OSError, AttributeError) as error:
        log.debug("%s cannot be used: %s", path.name, error)
        return None
    return found


def applies_to(*tensors: Tensor) -> bool:
    """Whether the library supports all tensors: float32, on the CPU, not empty.

    >>> applies_to(torch.zeros(2).double())
    False
    """
    fit = all(of.device.type == "cpu" and of.dtype == torch.float32 and of.numel() > 0 for of in tensors)
    return fit and library() is not None


def fields(*kinds: tuple[type, str]) -> tuple[tuple[str, type], ...]:
    """Return ctypes fields from types and their space-separated names.

    >>> fields((ctypes.c_int64, "steps batch"))
    (('steps', <class 'ctypes.c_long'>), ('batch', <class 'ctypes.c_long'>))
    """
    return tuple((name, kind) for kind, names in kinds for name in names.split())


def call(
    name: str, structure: type[ctypes.Structure], numbers: Mapping[str, float], arrays: Mapping[str, Any]
) -> None:
    """Call a function of the library, which must be available (see `applies_to`).

    Args:
        name: one of `FUNCTIONS`.
        structure: type of its arguments.
        numbers: integer and float arguments, by name.
        arrays: array arguments: a contiguous tensor or several; missing ones are NULL.
    """
    found = library()
    assert found is not None
    lists = {key: _addresses(of) for key, of in arrays.items() if not isinstance(of, Tensor)}
    pointers = {
        key: ctypes.addressof(lists[key]) if key in lists else of.data_ptr() for key, of in arrays.items()
    }
    getattr(found, name)(ctypes.byref(structure(**numbers, **pointers)))


def _addresses(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(of.data_ptr() for of in tensors))
