"""A run folder: everything that prediction, resuming and auditing need, and nothing that is executed.

    RUN/
      config.yaml  vocabulary.json  labels.json      written once, before training
      best/model.safetensors                         what prediction reads
      last/{model,average,optimizer}.safetensors     what resuming reads
      last.previous/                                 the one before, in case `last` is damaged
      */state.json  */manifest.json                  plain facts; sha256 and size of every file
      metrics.json  log.jsonl  environment.json
      tensorboard/                                   curves, if asked for

A checkpoint is written into a folder beside its place, flushed to disk, and renamed. It stores
named tensors and plain facts and knows no model class. No pickle is written or read.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from lstm_sentiment import __version__
from lstm_sentiment.bounds import NO_PICKLES, check_bytes, check_place, check_tensors, json_of
from lstm_sentiment.errors import CheckpointError, RunError, shown
from lstm_sentiment.files import sha256_of, sync_file, sync_folder, write_atomically, write_json

log = logging.getLogger(__name__)

FORMAT = 1
BEST, LAST, CURVES = "best", "last", "tensorboard"
EXPORTED = "onnx"  # what `export` makes of a run, where it is told no other place
SHARED_FILES = ("config.yaml", "vocabulary.json", "labels.json")
OWN_FILES = {*SHARED_FILES, "data.json", "environment.json", "log.jsonl", "metrics.json"}
OWN_FILES |= {"evaluation.json", "report.html"}
TensorGroups = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read and found whole.

    Args:
        tensors: group -> name -> tensor, on the CPU.
        facts: what was saved beside them.
    """

    tensors: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]


class RunFolder:
    """Reads and writes a run folder.

    Args:
        path: the folder; it need not exist yet.

    >>> import tempfile, torch
    >>> run = RunFolder(Path(tempfile.mkdtemp()) / "run")
    >>> run.begin(config_yaml="seed: 0", vocabulary=["good"], labels=["neg", "pos"], label_map={})
    >>> run.save(BEST, {"model": {"w": torch.ones(2)}}, {"step": 3})
    >>> checkpoint = run.load(BEST)
    >>> checkpoint.facts["step"], checkpoint.tensors["model"]["w"].tolist()
    (3, [1.0, 1.0])
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def occupied(self) -> bool:
        """Whether the folder holds anything."""
        return self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))

    def is_run(self) -> bool:
        """Whether the folder was made by this package."""
        return (self.path / "config.yaml").is_file() and (self.path / "labels.json").is_file()

    def is_foreign(self) -> bool:
        """Whether the folder holds other things and no run; one that is just being made is a run."""
        if self.path.exists() and not self.path.is_dir():
            return True
        return self.occupied() and not self.is_run() and not all(map(_is_begun, self.path.iterdir()))

    def begin(
        self,
        *,
        config_yaml: str,
        vocabulary: list[str],
        labels: list[str],
        label_map: Mapping[str, str | None],
    ) -> None:
        """Make the folder and write what does not change while training."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "vocabulary.json", vocabulary, indent=0)
        write_json(self.path / "labels.json", {"labels": labels, "map": label_map})
        write_atomically(self.path / "config.yaml", config_yaml.encode())

    def clear(self) -> None:
        """Remove the run that is in the folder, and nothing else.

        Raises:
            RunError: the folder holds something that is no run of this package.
        """
        if not self.occupied():
            return
        if self.is_foreign():
            raise RunError(f"{self.path}: holds files that are no run of this package; choose another out")
        # What makes the folder a run goes last: a kill in between leaves one that can be cleared again.
        entries = sorted(filter(_is_ours, self.path.iterdir()), key=lambda entry: entry.name in SHARED_FILES)
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def save(self, name: str, groups: TensorGroups, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint; a kill at any moment leaves this one or the one before.

        Args:
            name: ``best`` or ``last``.
            groups: group -> name -> tensor; one file per group.
            facts: plain values, stored as JSON.
        """
        final, previous = self.path / name, self.path / f"{name}.previous"
        building = self.path / f".{name}.{os.getpid()}.tmp"
        for left_by_a_kill in self.path.glob(f".{name}.*.tmp"):
            shutil.rmtree(left_by_a_kill, ignore_errors=True)
        building.mkdir()
        for group, tensors in groups.items():
            plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            safetensors.torch.save_file(plain, building / f"{group}.safetensors")
        write_json(building / "state.json", dict(facts))
        files = sorted(building.iterdir())
        for file in files:
            sync_file(file)
        manifest = {
            "format": FORMAT,
            "files": {file.name: _fingerprint(file) for file in files},
            "run": {shared: _fingerprint(self.path / shared) for shared in SHARED_FILES},
        }
        write_json(building / "manifest.json", manifest)
        sync_folder(building)
        if final.exists() and self._is_whole(final):
            shutil.rmtree(previous, ignore_errors=True)
            final.rename(previous)
        elif final.exists():  # damaged since: the one before is worth more
            shutil.rmtree(final)
        building.rename(final)
        sync_folder(self.path)
        if name == BEST:
            shutil.rmtree(previous, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Whether there is a checkpoint of that name, whole or not."""
        return (self.path / name).is_dir() or (self.path / f"{name}.previous").is_dir()

    def load(self, name: str) -> Checkpoint:
        """Read a checkpoint; fall back to the one before, with a warning, when it is damaged.

        Raises:
            RunError: the folder is no run.
            CheckpointError: no checkpoint is whole; the message names what is damaged.
        """
        if self.path.is_file():
            raise RunError(f"{self.path}: is no run folder but a file; {NO_PICKLES}")
        if not self.is_run():
            raise RunError(f"{self.path}: is no run folder (there is no config.yaml and labels.json in it)")
        problems = []
        for candidate in (self.path / name, self.path / f"{name}.previous"):
            if not candidate.is_dir():
                continue
            try:
                checkpoint = self._read(candidate)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            if problems:
                log.warning("%s; going on with %s", "; ".join(problems), candidate)
            return checkpoint
        missing = f"{self.path}: has no checkpoint '{name}'; train it first, or go on with resume true"
        raise CheckpointError("; ".join(problems) or missing)

    def read_json(self, name: str) -> Any:
        """Read one of the run's JSON files.

        Raises:
            CheckpointError: it is missing or damaged, or leads out of the run.
        """
        return json_of(self.own(name))

    def own(self, name: str) -> Path:
        """Return the path of one of the run's files.

        Raises:
            CheckpointError: it is a link that leads out of the run.
        """
        check_place(self.path / name, self.path)
        return self.path / name

    def shared_fingerprints(self) -> dict[str, Any]:
        """Return sha256 and size of the files that all checkpoints of the run depend on."""
        return {shared: _fingerprint(self.path / shared) for shared in SHARED_FILES}

    def write_log(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write log.jsonl, one line per epoch."""
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        write_atomically(self.path / "log.jsonl", lines.encode())

    def _is_whole(self, folder: Path) -> bool:
        """Whether a checkpoint's files are there in their sizes; `load` compares their sha256 too."""
        try:
            files = json_of(folder / "manifest.json")["files"]
            return all((folder / name).stat().st_size == facts["bytes"] for name, facts in files.items())
        except (CheckpointError, OSError, KeyError, TypeError, AttributeError):
            return False

    def _read(self, folder: Path) -> Checkpoint:
        manifest = self.read_json(f"{folder.name}/manifest.json")
        if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
            raise CheckpointError(f"{folder / 'manifest.json'}: is no manifest")
        if manifest.get("format") != FORMAT:
            raise CheckpointError(f"{folder}: {self._other_format(manifest.get('format'))}")
        present = {file.name for file in folder.iterdir()} - {"manifest.json"}
        if present != set(manifest["files"]):
            odd = ", ".join(sorted(present ^ set(manifest["files"])))
            raise CheckpointError(f"{folder}: files missing or added: {shown(odd, 200)}")
        expected = {folder / name: facts for name, facts in manifest["files"].items()}
        run_files = manifest.get("run")
        if not isinstance(run_files, dict):
            raise CheckpointError(f"{folder / 'manifest.json'}: is no manifest")
        expected |= {self.path / name: run_files.get(name) for name in SHARED_FILES}
        for file, facts in expected.items():
            check_place(file, self.path)
            if file.is_file():
                check_bytes(file)
            if not file.is_file() or _fingerprint(file) != facts:
                raise CheckpointError(
                    f"{file}: is damaged or was replaced (its sha256 is not the manifest's)"
                )
        tensors = {}
        for file in folder.glob("*.safetensors"):
            check_tensors(file)
            try:
                tensors[file.stem] = safetensors.torch.load_file(file)
            except (safetensors.SafetensorError, OSError, ValueError) as error:
                raise CheckpointError(f"{file}: {error}") from None
        facts = json_of(folder / "state.json")
        if not isinstance(facts, dict):
            raise CheckpointError(f"{folder / 'state.json'}: holds no facts by name")
        return Checkpoint(tensors=tensors, facts=facts)

    def _other_format(self, found: object) -> str:
        """Say what to do about a checkpoint of a format that this version does not read."""
        try:
            writer = self.read_json("environment.json")["lstm_sentiment"]
        except (CheckpointError, KeyError, TypeError):
            writer = None
        by = f" by version {shown(writer)} of lstm_sentiment" if isinstance(writer, str) else ""
        newer = isinstance(found, int) and found > FORMAT
        way_out = "pip install --upgrade lstm_sentiment" if newer else "use the version that wrote it"
        return (
            f"was written{by} in format {shown(str(found))}; this is version {__version__}, which reads "
            f"format {FORMAT}: {way_out}"
        )


def _is_begun(entry: Path) -> bool:
    """Whether an entry is one that a run has before its first checkpoint."""
    unfinished = re.fullmatch(r"\.(.+)\.\d+\.tmp", entry.name)
    return entry.is_file() and (unfinished[1] if unfinished else entry.name) in SHARED_FILES


def _is_ours(entry: Path) -> bool:
    """Whether an entry of a run folder is one that this package makes, or what a kill left of one."""
    name = entry.name
    unfinished = re.fullmatch(r"\.(.+)\.\d+\.tmp", name)
    if unfinished:
        name = unfinished[1]
    if name in (BEST, LAST, f"{BEST}.previous", f"{LAST}.previous", CURVES, EXPORTED):
        return entry.is_dir()
    return name in OWN_FILES and entry.is_file()


def _fingerprint(file: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(file), "bytes": file.stat().st_size}
