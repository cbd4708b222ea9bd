"""Files that somebody else may have made: how much of them is read, and what is looked at before.

A few kilobytes can stand for gigabytes: lists in lists in YAML and JSON, a header that promises tensors, a
device that never ends. So size, kind and depth are checked first, and nothing larger is ever begun.
Pickles are refused by their first bytes, whatever their name: reading one runs what it says.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from lstm_sentiment.config.safe_yaml import MOST_YAML_BYTES, check_yaml
from lstm_sentiment.config.sections import MAX_CLASSES
from lstm_sentiment.errors import CheckpointError, ConfigError, shown
from lstm_sentiment.system.open_errors import reading

MOST_JSON_BYTES = 4 << 20
MOST_VOCABULARY_BYTES = 256 << 20
MOST_TENSOR_BYTES = 9 << 30  # weights of `network.MOST_PARAMETERS`, and two moments of each
MOST_HEADER_BYTES = 1 << 20
MOST_TENSORS = 1000
MOST_DIMENSIONS = 8
MANY_BYTES = 1 << 20
MOST_PARTS = 100_000  # lists and maps of one file: each costs twenty times what it takes in the file
FOREIGN = {  # first bytes -> what begins with them
    b"PK": "a zip archive or a pickle of torch.save",
    b"\x80": "a pickle",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
}
NO_PICKLES = "this package reads no pickles, because reading one can run code; ask for a run folder instead"
Table = dict[str, tuple[str, tuple[int, ...]]]  # of a file of tensors: name -> type, shape
# What safetensors calls a type -> bytes of a number.
TYPES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1, "I8": 1, "BOOL": 1}


def content_of(file: Path, most: int = MOST_JSON_BYTES) -> bytes:
    """Return the bytes of a plain file that is no larger than it may be.

    Raises:
        CheckpointError: it is not there, no plain file (a pipe would wait for ever), too large, a pickle.
    """
    with reading(file):
        # Without waiting: opening a pipe would.
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as opened:
            _check(file, os.fstat(handle), most)
            content = opened.read(most + 1)
    refuse_foreign(file, content)
    return content


def check_bytes(file: Path) -> None:
    """Refuse a file of a run folder that is larger than one of its kind may be, before it is read at all.

    Raises:
        CheckpointError: it is, or it is not there, or no plain file.
    """
    most = {".safetensors": MOST_TENSOR_BYTES, ".yaml": MOST_YAML_BYTES}.get(file.suffix, MOST_JSON_BYTES)
    most = MOST_VOCABULARY_BYTES if file.name == "vocabulary.json" else most
    with reading(file):
        _check(file, file.stat(), most)


def _check(file: Path, facts: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise CheckpointError(f"{file}: is no plain file")
    if facts.st_size > most:
        raise CheckpointError(f"{file}: is larger than {most:,} bytes, as none of its kind should be")


def refuse_foreign(file: Path, beginning: bytes) -> None:
    """Raise a `CheckpointError` for a file that begins as an archive or a pickle does.

    >>> refuse_foreign(Path("model.safetensors"), b"PK\\x03\\x04...")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.CheckpointError: model.safetensors: is a zip archive or a pickle of torch.save; \
this package reads no pickles, because reading one can run code; ask for a run folder instead
    """
    kinds = [kind for first, kind in FOREIGN.items() if beginning.startswith(first)]
    if beginning[257:262] == b"ustar":
        kinds.append("a tar archive")
    if kinds:
        raise CheckpointError(f"{file}: is {kinds[0]}; {NO_PICKLES}")


def json_of(file: Path, *, ending: str = "") -> Any:
    """Return what a JSON file holds.

    Args:
        file: to read.
        ending: of its text.

    Raises:
        CheckpointError: as `content_of`; it is no JSON, names a key twice, or ends too soon.
    """
    content = content_of(file)
    if not content.endswith(ending.encode()):
        raise CheckpointError(f"{file}: is cut short")
    return _parsed(file, content)


def vocabulary_of(file: Path, count: int) -> list[str]:
    """Return a list of tokens, one to a line of JSON, and stop where they are too many.

    Args:
        file: ``vocabulary.json`` of a run.
        count: of tokens that the run's weights know.

    Raises:
        CheckpointError: as `json_of`; something that is no text, a token that stands twice, too many or few.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "vocabulary.json"
    >>> _ = file.write_text('[\\n"so",\\n"good"\\n]\\n')
    >>> vocabulary_of(file, 2)
    ['so', 'good']
    """
    content = content_of(file, MOST_VOCABULARY_BYTES).strip()
    if not (content.startswith(b"[") and content.endswith(b"]")):
        raise CheckpointError(f"{file}: is no list of tokens")
    tokens: list[str] = []
    start, end = 1, len(content) - 1
    while start < end:  # a part at a time: other things than text take twenty times their bytes in memory
        stop = end if end - start <= MANY_BYTES else content.rfind(b"\n", start, start + MANY_BYTES)
        if stop < 0:
            raise CheckpointError(f"{file}: has a line of more than {MANY_BYTES:,} bytes")
        part = _parsed(file, b"[" + content[start:stop].strip().removesuffix(b",") + b"]")
        if not all(isinstance(token, str) for token in part):
            raise CheckpointError(f"{file}: holds something that is no token")
        tokens += part
        if len(tokens) > count:
            raise CheckpointError(f"{file}: holds more than the {count:,} tokens that the weights are of")
        start = stop + 1
    if len(tokens) != count:
        raise CheckpointError(
            f"{file}: holds {len(tokens):,} of the {count:,} tokens that the weights are of"
        )
    if len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{file}: holds a token twice")
    return tokens


def classes_of_run(file: Path) -> tuple[list[str], dict[str, str | None]]:
    """Return the class names of a run, none for a language model, and what its data called them.

    Args:
        file: ``labels.json`` of a run.

    Raises:
        CheckpointError: as `json_of`; it does not hold names.
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
    """Return what a YAML file holds: lists, maps, text and numbers.

    Raises:
        CheckpointError: as `content_of`; it is no YAML, or holds a tag or an alias.
    """
    try:
        text = content_of(file, MOST_YAML_BYTES).decode("utf-8")
        check_yaml(yaml.parse(text, Loader=yaml.SafeLoader), str(file), tags=False)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: is not YAML: {shown(str(error), 200)}") from None
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def check_tensors(file: Path) -> Table:
    """Look through the header of a safetensors file before it is opened; return name -> (type, shape).

    Raises:
        CheckpointError: no such file, or one whose header is too large, or does not describe it.

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
        header = _parsed(file, opened.read(length))
    if not isinstance(header, dict) or len(header) > MOST_TENSORS:
        raise CheckpointError(f"{file}: does not list at most {MOST_TENSORS:,} tensors")
    try:
        tensors = {name: described for name, described in header.items() if name != "__metadata__"}
        spans = sorted(map(_span, tensors.values()))
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{file}: describes no such tensors as this package writes") from None
    ends = [0, *(end for _, end in spans)]
    if [start for start, _ in spans] != ends[:-1] or ends[-1] != size - 8 - length:
        raise CheckpointError(f"{file}: its tensors are not what the file holds")
    return {name: (described["dtype"], tuple(described["shape"])) for name, described in tensors.items()}


def _span(described: dict[str, Any]) -> tuple[int, int]:
    """Return where a tensor's bytes begin and end, if they are as many as its shape needs."""
    shape, (start, end) = described["shape"], described["data_offsets"]
    if len(shape) > MOST_DIMENSIONS or any(type(n) is not int or n < 0 for n in (*shape, start, end)):
        raise ValueError("no size")
    if math.prod(shape) * TYPES[described["dtype"]] != end - start:
        raise ValueError("another size")
    return start, end


def check_place(file: Path, folder: Path) -> None:
    """Refuse a file of a run folder that is a link to somewhere else on the machine.

    Files that the Hugging Face Hub fetched are links to ``blobs`` beside its ``snapshots``.

    Raises:
        CheckpointError: it leads out of the folder.
    """
    root = folder.resolve()
    roots = [root, *([root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [])]
    place = file.resolve()
    if not any(place.is_relative_to(allowed) for allowed in roots):
        raise CheckpointError(f"{file}: leads out of the run folder, to {place}; put the file itself here")


def _parsed(file: Path, content: bytes) -> Any:
    if content.count(b"[") + content.count(b"{") > MOST_PARTS:
        raise CheckpointError(f"{file}: holds more than {MOST_PARTS:,} lists and maps")
    try:
        found = json.loads(content.decode("utf-8"), object_pairs_hook=_no_key_twice)
        if b"\\ud" in content.lower():  # half a character, which no output can hold
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: is not JSON: {shown(str(error), 200)}") from None
    return found


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found
