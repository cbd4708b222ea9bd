"""Size and structure limits for untrusted files.

A few kilobytes can expand to gigabytes: nested lists in YAML and JSON, a header that declares huge tensors,
an endless device. So size, type and nesting are checked before reading. Pickles are refused by their first
bytes, whatever their name, because unpickling runs code.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from lstm_sentiment.config.safe_yaml import MOST_YAML_BYTES, checked_tree
from lstm_sentiment.config.sections import MAX_CLASSES
from lstm_sentiment.errors import CheckpointError, ConfigError, shown
from lstm_sentiment.system.open_errors import reading

MOST_JSON_BYTES = 4 << 20
MOST_VOCABULARY_BYTES = 256 << 20
MOST_TENSOR_BYTES = 9 << 30  # two optimizer moments of `tensors.MOST_PARAMETERS` weights
MOST_HEADER_BYTES = 1 << 20
MOST_TENSORS = 1000
MOST_DIMENSIONS = 8
MANY_BYTES = 1 << 20
MOST_PARTS = 100_000  # lists and maps of one file: each takes twenty times its size in the file
FOREIGN = {  # magic bytes -> file type
    b"PK": "a zip archive or a pickle of torch.save",
    b"\x80": "a pickle",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
}
NO_PICKLES = "pickles are refused because reading one can run code; ask for a run folder instead"
Table = dict[str, tuple[str, tuple[int, ...]]]  # of a file of tensors: name -> type, shape
# safetensors type -> bytes of a value.
TYPES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1, "I8": 1, "BOOL": 1}


def content_of(file: Path, most: int = MOST_JSON_BYTES) -> bytes:
    """Read a regular file within a size limit.

    Raises:
        CheckpointError: it is missing, not a regular file (a pipe would block), too large, or a pickle.
    """
    with reading(file):
        # Non-blocking: opening a pipe would block.
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as opened:
            _check(file, os.fstat(handle), most)
            content = opened.read(most + 1)
    refuse_foreign(file, content)
    return content


def check_bytes(file: Path) -> None:
    """Refuse a file of a run folder that exceeds the size limit of its kind, without reading it.

    Raises:
        CheckpointError: it is too large, missing, or not a regular file.
    """
    most = {".safetensors": MOST_TENSOR_BYTES, ".yaml": MOST_YAML_BYTES}.get(file.suffix, MOST_JSON_BYTES)
    most = MOST_VOCABULARY_BYTES if file.name == "vocabulary.json" else most
    with reading(file):
        _check(file, file.stat(), most)


def _check(file: Path, facts: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise CheckpointError(f"{file}: is not a regular file")
    if facts.st_size > most:
        raise CheckpointError(f"{file}: is larger than the {most:,}-byte limit for this file")


def refuse_foreign(file: Path, beginning: bytes) -> None:
    """Raise a `CheckpointError` for a file with the magic bytes of an archive or a pickle.

    >>> refuse_foreign(Path("model.safetensors"), b"PK\\x03\\x04...")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.CheckpointError: model.safetensors: is a zip archive or a pickle of torch.save; \
pickles are refused because reading one can run code; ask for a run folder instead
    """
    kinds = [kind for first, kind in FOREIGN.items() if beginning.startswith(first)]
    if beginning[257:262] == b"ustar":
        kinds.append("a tar archive")
    if kinds:
        raise CheckpointError(f"{file}: is {kinds[0]}; {NO_PICKLES}")


def json_of(file: Path, *, ending: str = "") -> Any:
    """Return the content of a JSON file.

    Args:
        file: to read.
        ending: that its text must have.

    Raises:
        CheckpointError: as `content_of`; it is not JSON, has duplicate keys, or is truncated.
    """
    content = content_of(file)
    if not content.endswith(ending.encode()):
        raise CheckpointError(f"{file}: is truncated")
    return parsed(file, content)


def vocabulary_of(file: Path, count: int) -> list[str]:
    """Return the tokens of a vocabulary file, one per line of JSON; stop if there are too many.

    Args:
        file: ``vocabulary.json`` of a run.
        count: vocabulary size of the run's weights.

    Raises:
        CheckpointError: as `json_of`; an item that is not a string, duplicates, too many or too few tokens.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "vocabulary.json"
    >>> _ = file.write_text('[\\n"so",\\n"good"\\n]\\n')
    >>> vocabulary_of(file, 2)
    ['so', 'good']
    """
    content = content_of(file, MOST_VOCABULARY_BYTES).strip()
    if not (content.startswith(b"[") and content.endswith(b"]")):
        raise CheckpointError(f"{file}: is not a list of tokens")
    tokens: list[str] = []
    start, end = 1, len(content) - 1
    while start < end:  # in parts: items other than text take twenty times their size in memory
        stop = end if end - start <= MANY_BYTES else content.rfind(b"\n", start, start + MANY_BYTES)
        if stop < 0:
            raise CheckpointError(f"{file}: has a line of more than {MANY_BYTES:,} bytes")
        part = parsed(file, b"[" + content[start:stop].strip().removesuffix(b",") + b"]")
        if not all(isinstance(token, str) for token in part):
            raise CheckpointError(f"{file}: holds an item that is not a string")
        tokens += part
        if len(tokens) > count:
            raise CheckpointError(f"{file}: holds more than the {count:,} tokens of the weights")
        start = stop + 1
    if len(tokens) != count:
        raise CheckpointError(f"{file}: holds {len(tokens):,} of the {count:,} tokens of the weights")
    if len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{file}: holds a duplicate token")
    return tokens


def classes_of_run(file: Path) -> tuple[list[str], dict[str, str | None]]:
    """Return the class names of a run (none for a language model) and its label map.

    Args:
        file: ``labels.json`` of a run.

    Raises:
        CheckpointError: as `json_of`; it does not hold class names.
    """
    found = json_of(file)
    labels, names = (found.get("labels"), found.get("map")) if isinstance(found, dict) else (None, None)
    if (
        not isinstance(labels, list)
        or not isinstance(names, dict)
        or not all(isinstance(label, str) for label in labels)
        or not all(name is None or name in labels for name in names.values())
        or len(set(labels)) != len(labels)
        or len(labels) > MAX_CLASSES
    ):
        raise CheckpointError(f"{file}: does not hold the names of up to {MAX_CLASSES} classes")
    return labels, names


def yaml_of(file: Path) -> Any:
    """Return the content of a YAML file: lists, maps, text and numbers.

    Raises:
        CheckpointError: as `content_of`; it is not YAML, or holds a tag or an alias.
    """
    try:
        text = content_of(file, MOST_YAML_BYTES).decode("utf-8")
        tree = checked_tree(text, str(file), tags=False)
        return None if tree is None else yaml.SafeLoader("").construct_document(tree)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: is not YAML: {shown(str(error), 200)}") from None
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def check_tensors(file: Path) -> Table:
    """Validate the header of a safetensors file before loading it; return name -> (type, shape).

    Raises:
        CheckpointError: the file is missing, or its header is too large or does not match its content.

    >>> import tempfile, numpy as np, safetensors.numpy
    >>> file = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> safetensors.numpy.save_file({"weight": np.zeros((2, 3))}, file)
    >>> check_tensors(file)
    {'weight': ('F64', (2, 3))}
    """
    with reading(file), file.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        beginning = opened.read(512)
        length = int.from_bytes(beginning[:8], "little")
        if length != min(length, MOST_HEADER_BYTES, max(size - 8, 0)):
            refuse_foreign(file, beginning)
            raise CheckpointError(f"{file}: has a header of {length:,} bytes, in a file of {size:,}")
        opened.seek(8)
        header = parsed(file, opened.read(length))
    if not isinstance(header, dict) or len(header) > MOST_TENSORS:
        raise CheckpointError(f"{file}: does not list at most {MOST_TENSORS:,} tensors")
    try:
        tensors = {name: described for name, described in header.items() if name != "__metadata__"}
        spans = sorted(map(_span, tensors.values()))
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{file}: has an invalid tensor header") from None
    ends = [0, *(end for _, end in spans)]
    if [start for start, _ in spans] != ends[:-1] or ends[-1] != size - 8 - length:
        raise CheckpointError(f"{file}: its header does not match its content")
    return {name: (described["dtype"], tuple(described["shape"])) for name, described in tensors.items()}


def _span(described: dict[str, Any]) -> tuple[int, int]:
    """Return the byte range of a tensor; raise ValueError if it does not match its shape."""
    shape, (start, end) = described["shape"], described["data_offsets"]
    if len(shape) > MOST_DIMENSIONS or any(type(n) is not int or n < 0 for n in (*shape, start, end)):
        raise ValueError("invalid size")
    if math.prod(shape) * TYPES[described["dtype"]] != end - start:
        raise ValueError("size mismatch")
    return start, end


def check_place(file: Path, folder: Path) -> None:
    """Refuse a file of a run folder that is a link out of it.

    Links of the Hugging Face Hub cache into ``blobs``, next to ``snapshots``, are allowed.

    Raises:
        CheckpointError: it points outside the folder.
    """
    root = folder.resolve()
    roots = [root, *([root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [])]
    place = file.resolve()
    if not any(place.is_relative_to(allowed) for allowed in roots):
        raise CheckpointError(f"{file}: points outside the run folder, to {place}; put the file itself here")


def parsed(file: Path | str, content: bytes) -> Any:
    """Return JSON text as values.

    Args:
        file: where it was read, for messages.
        content: in UTF-8.

    Raises:
        CheckpointError: it is not JSON, has duplicate keys, or has too many parts.

    >>> parsed("log.jsonl:1", b'{"epoch": 1}')
    {'epoch': 1}
    """
    if content.count(b"[") + content.count(b"{") > MOST_PARTS:
        raise CheckpointError(f"{file}: holds more than {MOST_PARTS:,} lists and maps")
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_unique_keys)
        if b"\\ud" in content.lower():  # may be an unpaired surrogate
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: is not JSON: {shown(str(error), 200)}") from None
    return found


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found
