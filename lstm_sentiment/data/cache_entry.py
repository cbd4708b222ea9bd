"""Files of a token cache entry: writing, and verified reading.

    ids.bin      all tokens of all rows, one flat int32 array (N,)
    rows.npz     offsets (R + 1,), labels, groups, weights, hashes, lines, phrases (R,), rows of files (F,)
    meta.json    the tokens of the numbers, label values, counts
    sums.json    the CRC-32 of each file above: 34 ms for 100 MB, where sha256 takes 81 and blake2b 184

An intact entry may still be untrusted: all indices are range-checked.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.system.files import sync_file, sync_folder

IDS, ROWS, META, SUMS = "ids.bin", "rows.npz", "meta.json", "sums.json"
ROW_ARRAYS: dict[str, Any] = {  # name -> dtype
    "offsets": np.int64,
    "labels": np.int32,
    "groups": np.int32,
    "weights": np.float64,
    "hashes": np.uint64,
    "lines": np.int64,
    "phrases": np.bool_,
}
FILES = "rows_of_files"  # name of the array of F rows of each file, int64
COUNTS = ("filtered", "empty", "replaced", "swallowed", "swallowed_line", "swallowed_shard")
BLOCK_BYTES = 1 << 20
BROKEN_FILE = (OSError, EOFError, zipfile.BadZipFile, zlib.error)
UNREADABLE = (*BROKEN_FILE, ValueError, LookupError, TypeError, RecursionError)
Array = npt.NDArray[Any]


class DamagedError(Exception):
    """A damaged cache entry; the message names the file."""


def write_entry(folder: Path, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write everything except ``ids.bin``, which exists already, and fsync all files.

    Raises:
        OSError: the disk is full or failing.

    Example::

        write_entry(building, arrays, {"tokens": ["so"], "label_values": ["neg", "pos"], "counts": {}})
    """
    of_rows: dict[str, Any] = {name: np.array(arrays[name], kind) for name, kind in ROW_ARRAYS.items()}
    of_rows[FILES] = np.array(arrays[FILES], np.int64)
    np.savez(folder / ROWS, **of_rows)
    (folder / META).write_text(json.dumps(meta))
    (folder / SUMS).write_text(json.dumps({name: _sum(folder / name) for name in (IDS, ROWS, META)}))
    for name in (IDS, ROWS, META, SUMS):
        sync_file(folder / name)
    sync_folder(folder)


def read_entry(folder: Path) -> tuple[Array, dict[str, Any], dict[str, Any]]:
    """Return the memory-mapped token ids, the row arrays, and the metadata.

    Raises:
        DamagedError: a file is missing, its checksum differs, or values are out of range.

    Example::

        ids_N, arrays, meta = read_entry(cache / key)
    """
    try:
        sums = json.loads((folder / SUMS).read_bytes())
        found, smallest, largest = _look_through(folder / IDS)
        for name, of_file in ((META, _sum(folder / META)), (ROWS, _sum(folder / ROWS)), (IDS, found)):
            if of_file != sums[name]:
                raise DamagedError(f"the checksum of {name} differs")
        meta = json.loads((folder / META).read_bytes())
        with (folder / ROWS).open("rb") as file, np.load(file, allow_pickle=False) as rows:
            arrays = {name: rows[name] for name in (*ROW_ARRAYS, FILES)}
        count = (folder / IDS).stat().st_size / np.dtype(np.int32).itemsize
        _check_ranges(arrays, meta, count, smallest, largest)
        ids_N: Array = np.zeros(0, np.int32)
        if count:  # private and writable, as torch requires; never written to
            ids_N = np.memmap(folder / IDS, np.int32, mode="c")
    except UNREADABLE as error:
        raise DamagedError(str(error)[:200] or type(error).__name__) from None
    return ids_N, arrays, {name: meta[name] for name in ("tokens", "label_values", "counts")}


def _sum(file: Path) -> int:
    return _look_through(file)[0]


def _look_through(file: Path) -> tuple[int, int, int]:
    """Return CRC-32, minimum and maximum of an int32 file, in one pass."""
    found, smallest, largest = 0, 0, -1
    with file.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES):
            found = zlib.crc32(block, found)
            numbers = np.frombuffer(block[: len(block) // 4 * 4], np.int32)
            if len(numbers):
                smallest, largest = min(smallest, int(numbers.min())), max(largest, int(numbers.max()))
    return found, smallest, largest


def _check_ranges(
    arrays: Mapping[str, Array], meta: Mapping[str, Any], count: float, smallest: int, largest: int
) -> None:
    """Check types, shapes and index ranges.

    Args:
        arrays: of rows.
        meta: the metadata.
        count: of values in ``ids.bin``.
        smallest: of these values.
        largest: of these values.

    Raises:
        DamagedError: a check failed; it names the file.
    """
    offsets, labels = arrays["offsets"], arrays["labels"]
    kinds = all(arrays[name].dtype == kind and arrays[name].ndim == 1 for name, kind in ROW_ARRAYS.items())
    lengths = {len(arrays[name]) + (name != "offsets") for name in ROW_ARRAYS}
    if not kinds or lengths != {len(offsets)} or len(offsets) < 2:
        raise DamagedError(f"{ROWS} lacks valid row arrays")
    if offsets[0] != 0 or offsets[-1] != count or (offsets[1:] < offsets[:-1]).any():
        raise DamagedError(f"{ROWS} does not fit {IDS}")
    files = arrays[FILES]
    if files.dtype != np.int64 or files.ndim != 1 or files.min() < 0 or files.sum() != len(labels):
        raise DamagedError(f"{ROWS} holds invalid numbers of rows of files")
    texts = [meta["tokens"], meta["label_values"]]
    if not all(isinstance(of, list) and all(isinstance(text, str) for text in of) for of in texts):
        raise DamagedError(f"{META} holds values that are not strings")
    if not all(type(meta["counts"][name]) is int for name in COUNTS):
        raise DamagedError(f"{META} lacks the counts")
    if not 0 <= meta["counts"]["swallowed_shard"] < len(files):
        raise DamagedError(f"{META} names a file that is not there")
    if smallest < 0 or largest >= len(meta["tokens"]):
        raise DamagedError(f"{IDS} holds token numbers out of range")
    values = max(1, len(meta["label_values"]))  # without labels all numbers are 0
    if labels.min() < 0 or labels.max() >= values or arrays["lines"].min() < 0 or arrays["groups"].min() < 0:
        raise DamagedError(f"{ROWS} holds values out of range")
    weights = arrays["weights"]
    if not (np.isfinite(weights).all() and weights.min() >= 0):
        raise DamagedError(f"{ROWS} holds invalid weights")
