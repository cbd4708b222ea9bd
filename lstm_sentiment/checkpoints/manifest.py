"""Manifest of a checkpoint folder: checksums that detect damage; tensor files.

A manifest lists each file with its sha256 and size, and those of files elsewhere that it depends on:

    {"format": 1, "files": {"model.safetensors": {"sha256": ..., "bytes": ...}}, "run": {"labels.json": ...}}

Format 2 is format 1 with the fact `MERGED`: classes of the network that are shown as one. Only such
checkpoints have it, so that versions without merging refuse them, and read all others.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from lstm_sentiment.checkpoints.untrusted_files import check_bytes, check_place, check_tensors, json_of
from lstm_sentiment.errors import CheckpointError, OtherVersionError, shown
from lstm_sentiment.records.environment import Writer
from lstm_sentiment.records.json_values import from_json
from lstm_sentiment.system.files import as_json, sha256_of
from lstm_sentiment.system.open_errors import reading
from lstm_sentiment.version import __version__

FORMAT = 2  # the newest
MERGED = "merged"  # fact of a checkpoint: the class in labels.json of each class of the network
MANIFEST = "manifest.json"


def write_manifest(folder: Path, *, depends_on: Iterable[Path], merged: bool = False) -> None:
    """Write the manifest of a folder.

    Args:
        folder: complete, except for the manifest.
        depends_on: files elsewhere that the checkpoint requires.
        merged: whether it has the fact `MERGED`.

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
        "format": 2 if merged else 1,
        "files": {file.name: _fingerprint(file) for file in sorted(folder.iterdir())},
        "run": {file.name: _fingerprint(file) for file in depends_on},
    }
    (folder / MANIFEST).write_bytes(as_json(manifest))


def verify(folder: Path, *, depends_on: Iterable[Path]) -> None:
    """Compare the files of a checkpoint, and those that it depends on, with its manifest.

    Raises:
        OtherVersionError: it has a format that this version cannot read.
        CheckpointError: names the file that is damaged, missing, unexpected, too large, not a regular file,
            or a link out of the run.

    Example::

        verify(Path("runs/reviews/best"), depends_on=[Path("runs/reviews/labels.json")])
    """
    run = folder.parent
    check_place(folder / MANIFEST, run)
    manifest = json_of(folder / MANIFEST, ending="}\n")  # a truncated file may lack only the bracket
    if not isinstance(manifest, dict):
        raise CheckpointError(f"{folder / MANIFEST}: is not a manifest")
    if manifest.get("format") not in range(1, FORMAT + 1):
        raise OtherVersionError(f"{folder}: {_other_format(manifest.get('format'), run)}")
    files, others = manifest.get("files"), manifest.get("run")
    if not isinstance(files, dict) or not isinstance(others, dict):
        raise CheckpointError(f"{folder / MANIFEST}: is not a manifest")
    with reading(folder):
        present = {file.name for file in folder.iterdir()} - {MANIFEST}
    if present != set(files):
        odd = ", ".join(sorted(present ^ set(files)))
        raise CheckpointError(f"{folder}: files missing or added: {shown(odd, 200)}")
    expected = {folder / name: facts for name, facts in files.items()}
    expected |= {file: others.get(file.name) for file in depends_on}
    for file, facts in expected.items():
        check_place(file, run)
        check_bytes(file)
        with reading(file):
            found = _fingerprint(file)
        if found != facts:
            raise CheckpointError(f"{file}: is damaged or was replaced (its sha256 is not the manifest's)")


def _other_format(found: object, run: Path) -> str:
    """Return the message for a checkpoint format that this version cannot read."""
    by, file = "", run / Writer.FILE
    with contextlib.suppress(CheckpointError):
        check_place(file, run)
        version = from_json(Writer, json_of(file), file=file).lstm_sentiment
        by = f" by version {shown(version)} of lstm_sentiment"
    newer = isinstance(found, int) and found > FORMAT
    way_out = "pip install --upgrade lstm_sentiment" if newer else "use the version that wrote it"
    return (
        f"was written{by} in format {shown(str(found))}; this is version {__version__}, which reads "
        f"formats up to {FORMAT}: {way_out}"
    )


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors to a safetensors file, from any device.

    Raises:
        OSError: the file cannot be written.

    Example::

        write_tensors(Path("model.safetensors"), model.state_dict())
    """
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    file.touch()
    mode = stat.S_IMODE(file.stat().st_mode)  # as the umask gives; safetensors restricts it to the owner
    try:
        safetensors.torch.save_file(plain, file)
        file.chmod(mode)
    except safetensors.SafetensorError as error:  # the errno is only in its text
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read named tensors from a safetensors file onto the CPU.

    Raises:
        CheckpointError: the file is damaged, or contains non-finite values.

    Example::

        model.load_state_dict(read_tensors(Path("model.safetensors")))
    """
    check_tensors(file)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{file}: {error}") from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{file}: {shown(name)} contains non-finite values")
    return tensors


def _fingerprint(file: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(file), "bytes": file.stat().st_size}
