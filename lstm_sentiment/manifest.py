"""What is in the folder of a checkpoint, and how damage to it shows.

A manifest names each file with its sha256 and size, and those of the files elsewhere that it depends on:

    {"format": 1, "files": {"model.safetensors": {"sha256": ..., "bytes": ...}}, "run": {"labels.json": ...}}
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from lstm_sentiment.errors import CheckpointError, shown
from lstm_sentiment.files import as_json, sha256_of

FORMAT = 1
MANIFEST = "manifest.json"
MAX_JSON_BYTES = 500_000_000


def write_manifest(folder: Path, *, depends_on: Iterable[Path]) -> None:
    """Write down what is in a folder.

    Args:
        folder: whose files are all there.
        depends_on: files elsewhere without which they are worth nothing.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "state.json").write_text("{}")
    >>> write_manifest(folder, depends_on=[])
    >>> verify(folder, depends_on=[])
    >>> _ = (folder / "state.json").write_text("[]")
    >>> verify(folder, depends_on=[])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    lstm_sentiment.errors.CheckpointError: .../state.json: is damaged or was replaced (its sha256 is not ...
    """
    manifest = {
        "format": FORMAT,
        "files": {file.name: _fingerprint(file) for file in sorted(folder.iterdir())},
        "run": {file.name: _fingerprint(file) for file in depends_on},
    }
    (folder / MANIFEST).write_bytes(as_json(manifest))


def verify(folder: Path, *, depends_on: Iterable[Path]) -> None:
    """Compare the files of a checkpoint, and those that it depends on, with its manifest.

    Raises:
        CheckpointError: names the file that is damaged, missing or too many.

    Example::

        verify(Path("runs/reviews/best"), depends_on=[Path("runs/reviews/labels.json")])
    """
    manifest = read_json(folder / MANIFEST, ending="}\n")  # all of it: what is cut off may be one bracket
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{folder / MANIFEST}: is no manifest")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder}: has format {manifest.get('format')!r}; this version reads {FORMAT}. "
            "Use the version of lstm_sentiment that wrote it"
        )
    files, others = manifest.get("files"), manifest.get("run")
    if not isinstance(files, dict) or not isinstance(others, dict):
        raise CheckpointError(f"{folder / MANIFEST}: is no manifest")
    with _told(folder):
        present = {file.name for file in folder.iterdir()} - {MANIFEST}
    if present != set(files):
        odd = ", ".join(sorted(present ^ set(files)))
        raise CheckpointError(f"{folder}: files missing or added: {odd}")
    expected = {folder / name: facts for name, facts in files.items()}
    expected |= {file: others.get(file.name) for file in depends_on}
    for file, facts in expected.items():
        if not file.is_file():  # nor a pipe, which would be waited for
            raise CheckpointError(f"{file}: is missing")
        with _told(file):
            found = _fingerprint(file)
        if found != facts:
            raise CheckpointError(f"{file}: is damaged or was replaced (its sha256 is not the manifest's)")


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors of any device.

    Raises:
        OSError: the file cannot be written.

    Example::

        write_tensors(Path("model.safetensors"), model.state_dict())
    """
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(plain, file)
    except safetensors.SafetensorError as error:  # the system's error is in its text alone
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read named tensors onto the CPU.

    Raises:
        CheckpointError: the file is damaged, or a number in it is not finite.

    Example::

        model.load_state_dict(read_tensors(Path("model.safetensors")))
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: {error}") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{file}: {shown(name)} holds numbers that are not finite")
    return tensors


def read_json(file: Path, *, ending: str = "") -> Any:
    """Read a JSON file.

    Args:
        file: to read.
        ending: of its text.

    Raises:
        CheckpointError: it is missing or damaged.

    >>> read_json(Path("runs/of-tomorrow/labels.json"))
    Traceback (most recent call last):
    lstm_sentiment.errors.CheckpointError: runs/of-tomorrow/labels.json: is missing
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: is missing")
    try:
        with _told(file):
            if file.stat().st_size > MAX_JSON_BYTES:
                raise CheckpointError(f"{file}: is larger than {MAX_JSON_BYTES:,} bytes")
            text = file.read_text("utf-8")
        if not text.endswith(ending):
            raise CheckpointError(f"{file}: is cut short")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: is not JSON: {error}") from None


def _fingerprint(file: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(file), "bytes": file.stat().st_size}


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """Raise what goes wrong with reading a file as a `CheckpointError`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from None
