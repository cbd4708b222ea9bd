"""Splitting of texts into ASCII tokens, and their numbering: a compiled function, if it is available here.

It is a library of its own: without OpenMP and instruction sets of some CPUs only, and loaded without PyTorch.

Legend: R texts, N items of all texts, U distinct items, S slots of the hash table.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

INTERFACE = 1  # increment when the arguments of a function change, here and in tokens.c
FIRST_ENTRIES, FIRST_BYTES = 1 << 12, 1 << 16  # room of a new table
IntArray = npt.NDArray[np.integer[Any]]

_COUNTS = ("texts", "negation", "slot_count", "entry_room", "arena_room", "item_room")
_PROGRESS = ("text", "place", "items", "entries")
_ARRAYS = ("bytes", "ends", "found", "counts", "slots", "hashes", "starts", "arena")

log = logging.getLogger(__name__)


class _Tokens(ctypes.Structure):
    """The arguments of `tokens_split`, as in tokens.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in (*_COUNTS, *_PROGRESS)),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_void_p) for name in _ARRAYS),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled library, or None if it is missing, cannot be loaded or is of another version."""
    path = Path(__file__).with_name(f"_tokens{sysconfig.get_config_var('EXT_SUFFIX')}")
    if not path.is_file() or sys.byteorder != "little":
        return None
    try:
        found = ctypes.CDLL(str(path))
        found.tokens_interface.restype = found.tokens_split.restype = ctypes.c_int64
        if found.tokens_interface() != INTERFACE:
            log.warning("%s is of another version and not used: reinstall the package", path.name)
            return None
        found.tokens_begin.restype = found.tokens_rehash.restype = None
        found.tokens_split.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        found.tokens_rehash.argtypes = [ctypes.c_void_p]
        found.tokens_begin()
    except (OSError, AttributeError) as error:
        log.debug("%s cannot be used: %s", path.name, error)
        return None
    return found


class TokenTable:
    """Table of distinct items of texts; `library` must be available.

    Items are the tokens of pieces of ASCII, split at ASCII white space, and whole pieces that have another
    character.

    Args:
        negation: split off ``n't``.

    >>> if library():
    ...     table = TokenTable(negation=False)
    ...     found = [of.tolist() for of in table.split(["so good!!", "na\u00efve? so"])], table.take_new()
    ...     assert found == ([[0, 1, 2, 3, 0], [3, 2]], ["so", "good", "!!", "na\u00efve?"])
    """

    def __init__(self, *, negation: bool) -> None:
        self._negation = negation
        self._seed = int.from_bytes(os.urandom(8), "little")
        self._entries = self._taken = 0
        self._starts = np.zeros(FIRST_ENTRIES + 1, np.int64)
        self._hashes = np.zeros(FIRST_ENTRIES, np.uint32)
        self._arena = np.zeros(FIRST_BYTES, np.uint8)
        self._slots = np.zeros(2 * FIRST_ENTRIES, np.uint64)

    def __len__(self) -> int:
        return self._entries

    @property
    def size(self) -> int:
        """Bytes of all items."""
        return int(self._starts[self._entries])

    def split(self, texts: list[str]) -> tuple[IntArray, IntArray]:
        """Return the items of all texts (N,), int32, and the number of items of each text (R,), int64.

        Items are numbered in order of appearance, over all calls.

        Args:
            texts: prepared (see `tokenization.prepare`), without unpaired surrogates.
        """
        encoded = [text.encode() for text in texts]
        content = b"".join(encoded)
        ends_R = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        found_N = np.empty(len(content), np.int32)
        counts_R = np.zeros(len(encoded), np.int64)
        arguments = _Tokens(
            texts=len(encoded),
            negation=self._negation,
            item_room=len(found_N),
            entries=self._entries,
            seed=self._seed,
            bytes=ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p).value,
            ends=ends_R.ctypes.data,
            found=found_N.ctypes.data,
            counts=counts_R.ctypes.data,
        )
        compiled, needed = library(), ctypes.c_int64()
        assert compiled is not None
        self._lend(arguments)
        while compiled.tokens_split(ctypes.byref(arguments), ctypes.byref(needed)):
            self._entries = arguments.entries
            self._grow(needed.value)
            self._lend(arguments)
            compiled.tokens_rehash(ctypes.byref(arguments))
        self._entries = arguments.entries
        return found_N[: arguments.items].copy(), counts_R

    def take_new(self) -> list[str]:
        """Return the items that were added since the last call, in order."""
        first, last = self._starts[self._taken], self._starts[self._entries]
        self._taken = self._entries
        return self._arena[first:last].tobytes().decode().split("\n")[:-1]

    def _lend(self, arguments: _Tokens) -> None:
        """Put the arrays of the table into the arguments."""
        arguments.slot_count, arguments.entry_room = len(self._slots), len(self._hashes)
        arguments.arena_room = len(self._arena)
        arguments.slots, arguments.hashes = self._slots.ctypes.data, self._hashes.ctypes.data
        arguments.starts, arguments.arena = self._starts.ctypes.data, self._arena.ctypes.data

    def _grow(self, piece: int) -> None:
        """Make room for the tokens of a piece of that many bytes, and at least twice the room."""
        entries = 2 * len(self._hashes)
        while entries < self._entries + piece:
            entries *= 2
        self._starts = np.concatenate([self._starts, np.zeros(entries + 1 - len(self._starts), np.int64)])
        self._hashes = np.concatenate([self._hashes, np.zeros(entries - len(self._hashes), np.uint32)])
        more = max(len(self._arena), 7 * piece)
        self._arena = np.concatenate([self._arena, np.zeros(more, np.uint8)])
        self._slots = np.zeros(2 * entries, np.uint64)
