"""Run folders: everything needed for prediction, resuming and auditing; no executable content.

    RUN/
      config.yaml  vocabulary.json  labels.json      written once, before training
      best/model.safetensors                         for prediction
      last/{model,average,optimizer}.safetensors     for resuming; a finished run has only its state.json
      last.previous/                                 the previous one, in case `last` is damaged
      */state.json  */manifest.json                  facts; sha256 and size of every file
      linear/model.safetensors                       the linear baseline, where it is not part of `best`
      metrics.json  monitoring.json  log.jsonl  environment.json
      trained_texts.safetensors  held_out_rows.csv   what it was trained on, and was not (see `provenance`)
      tensorboard/  tracking.json                    curves; ids of the run in tracking tools; optional
      .lock                                          while training: the process (see `lock`)

A checkpoint is written to a temporary folder, fsynced, and renamed. It stores named tensors and facts and
is independent of model classes. No pickle is written or read. A packed checkpoint has int8 and float16
tensors on disk, which are read as fp32.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from lstm_sentiment.checkpoints.manifest import (
    MANIFEST,
    MERGED,
    read_tensors,
    verify,
    write_manifest,
    write_tensors,
)
from lstm_sentiment.checkpoints.quantization import dequantized
from lstm_sentiment.checkpoints.untrusted_files import (
    NO_PICKLES,
    Table,
    check_bytes,
    check_place,
    check_tensors,
    json_of,
)
from lstm_sentiment.errors import (
    CheckpointError,
    NoPermissionError,
    OtherVersionError,
    RunError,
    SentimentError,
    did_you_mean,
)
from lstm_sentiment.records.json_values import Record, from_json
from lstm_sentiment.system.consistent_reads import MisfitError, ReplacedError, held_in_place, settled
from lstm_sentiment.system.files import (
    as_json,
    make_folder,
    sync_file,
    sync_folder,
    unfinished,
    write_atomically,
    write_json,
    writing,
)
from lstm_sentiment.system.lock import LOCK
from lstm_sentiment.system.open_errors import refuse_unreadable

log = logging.getLogger(__name__)

BEST, LAST, CURVES = "best", "last", "tensorboard"
LINEAR = "linear"  # checkpoint of the linear baseline, in a run without a linear branch
RELABELLED = "relabelled.json"  # of a run whose classes were renamed or merged (see `relabelling`)
TRACKING = "tracking.json"  # ids of the run in MLflow and Weights & Biases
MONITORING = "monitoring.json"  # what new texts are compared with (see `monitoring`)
PACKED = "packed"  # fact that says how the tensors of a checkpoint are packed (see `quantization`)
EXPORTED = "onnx"  # default output of `export`
SHARED_FILES = ("config.yaml", "vocabulary.json", "labels.json")
OWN_FILES = {*SHARED_FILES, "data.json", "environment.json", "log.jsonl", "metrics.json"}
OWN_FILES |= {
    "evaluation.json",
    MONITORING,
    RELABELLED,
    TRACKING,
    "report.html",
    "status.json",
    "trained_texts.safetensors",
    "held_out_rows.csv",
}
SOON_READ = 256 << 20  # bytes that can be hashed in a fraction of a second
_UNFINISHED = re.compile(r"\.(.+)\.\d+\.tmp")  # temporary files and folders of killed processes
Expectation = Callable[[Mapping[str, Table], Mapping[str, Any]], None]
TensorGroups = Mapping[str, Mapping[str, Tensor]]
AnyRecord = TypeVar("AnyRecord", bound=Record)
Facts = TypeVar("Facts")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read and verified.

    Args:
        tensors: group -> name -> tensor, on the CPU.
        facts: saved with the tensors.
        folder: that it was read from.
    """

    tensors: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]
    folder: Path = Path()

    def facts_as(self, kind: type[Facts]) -> Facts:
        """Return the facts as a dataclass (see `records.checkpoint_facts`).

        Raises:
            CheckpointError: one is missing or has another type.

        Example::

            RunFolder("runs/tweets").load(BEST).facts_as(BestFacts).calibration
        """
        fix = "restore it from a copy, or train again"
        return from_json(kind, self.facts, file=self.folder / "state.json", fix=fix)


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
        """Whether the folder exists and is not empty."""
        refuse_unreadable(self.path)
        return self.path.exists() and (not self.path.is_dir() or any(self._entries()))

    def is_run(self) -> bool:
        """Whether the folder is a run of this package, damaged or not."""
        refuse_unreadable(self.path)
        return self._is_ours() or any((self.path / name / MANIFEST).is_file() for name in (BEST, LAST))

    def is_foreign(self) -> bool:
        """Whether the folder has other contents than a run; a run that is being created counts as one."""
        refuse_unreadable(self.path)
        if self.path.exists() and not self.path.is_dir():
            return True
        return self.occupied() and not self._is_ours() and not all(map(_is_begun, self._entries()))

    def begin(
        self,
        *,
        config_yaml: str,
        vocabulary: list[str],
        labels: list[str],
        label_map: Mapping[str, str | None],
    ) -> None:
        """Create the folder and write the files that do not change during training.

        Raises:
            DiskError: it cannot be written.
        """
        make_folder(self.path)
        write_json(self.path / "vocabulary.json", vocabulary, indent=0)
        write_json(self.path / "labels.json", {"labels": labels, "map": label_map})
        write_atomically(self.path / "config.yaml", config_yaml.encode())

    def clear(self) -> None:
        """Remove the run from the folder, and nothing else.

        Raises:
            RunError: the folder holds files that do not belong to a run of this package.
        """
        if not self.occupied():
            return
        if self.is_foreign():
            raise RunError(
                f"{self.path}: holds files that do not belong to a run of this package; choose another out"
            )
        # The files that identify a run go last: after a kill in between the folder can be cleared again.
        entries = sorted(filter(_is_ours, self._entries()), key=lambda entry: entry.name in SHARED_FILES)
        for entry in entries:
            _remove(entry)

    def sweep(self) -> None:
        """Remove temporary files of killed processes; requires the lock (see `lock`)."""
        for entry in list(self._entries()):
            if _UNFINISHED.fullmatch(entry.name) and _is_ours(entry):
                _remove(entry)

    def save(self, name: str, groups: TensorGroups, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint atomically: a kill or power cut leaves either this one or the previous one.

        Args:
            name: ``best`` or ``last``.
            groups: group -> name -> tensor; one file per group.
            facts: JSON values.

        Raises:
            DiskError: it cannot be written; the previous one is intact.
        """
        building = unfinished(self.path / name)
        needed = sum(tensor.nbytes for tensors in groups.values() for tensor in tensors.values())
        kept = "the previous checkpoint is intact: continue with --resume true" if self.has(LAST) else ""
        with writing(self.path / name, needed=needed, kept=kept):
            for left_by_a_kill in self.path.glob(f".{name}.*.tmp"):
                shutil.rmtree(left_by_a_kill, ignore_errors=True)
            try:
                self._build(building, groups, facts)
                self._publish(building, name)
            finally:
                shutil.rmtree(building, ignore_errors=True)

    def _build(self, building: Path, groups: TensorGroups, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint into a new folder and fsync it."""
        building.mkdir()
        for group, tensors in groups.items():
            write_tensors(building / f"{group}.safetensors", tensors)
        (building / "state.json").write_bytes(as_json(dict(facts)))
        merged = facts.get(MERGED) is not None
        write_manifest(building, depends_on=self._shared_files(), merged=merged)
        for file in building.iterdir():
            sync_file(file)
        sync_folder(building)

    def _publish(self, building: Path, name: str) -> None:
        """Move a checkpoint into place; at each moment a complete one exists, here or as the previous one."""
        final, previous = self.path / name, self.path / f"{name}.previous"
        if final.exists() and self._is_whole(final):
            shutil.rmtree(previous, ignore_errors=True)
            final.rename(previous)
        elif final.exists():  # damaged: keep the previous one instead
            shutil.rmtree(final)
        building.rename(final)
        sync_folder(self.path)
        if name == BEST:
            shutil.rmtree(previous, ignore_errors=True)

    def drop_tensors(self, name: str) -> None:
        """Remove the tensors of a checkpoint, and the previous one; its facts are kept.

        Args:
            name: of a checkpoint.

        Raises:
            CheckpointError: no checkpoint of that name is intact.
            DiskError: it cannot be written.

        >>> import tempfile, torch
        >>> run = RunFolder(Path(tempfile.mkdtemp()) / "run")
        >>> run.begin(config_yaml="seed: 0", vocabulary=["good"], labels=["neg", "pos"], label_map={})
        >>> run.save(LAST, {"model": {"w": torch.ones(2)}}, {"step": 3})
        >>> run.drop_tensors(LAST)
        >>> run.load(LAST).tensors, run.load(LAST).facts
        ({}, {'step': 3})
        """
        self.save(name, {}, self.load(name).facts)
        shutil.rmtree(self.path / f"{name}.previous", ignore_errors=True)

    def check_scores(self, why_not: str) -> None:
        """Refuse a run without scores.

        Args:
            why_not: says so of an unfinished run.

        Raises:
            RunError: it is unfinished, or its classes were merged and could not be scored.
        """
        if (self.path / "metrics.json").is_file():
            return
        if (self.path / RELABELLED).is_file():
            raise RunError(
                f"{self.path}: has no scores: its classes were merged, and its rows could not be scored "
                f"again (see {RELABELLED}); merge them where the rows can be read, or evaluate it on others"
            )
        raise RunError(f"{self.path}: has no metrics.json{why_not}")

    def has(self, name: str) -> bool:
        """Whether there is a checkpoint of that name, intact or not."""
        return (self.path / name).is_dir() or (self.path / f"{name}.previous").is_dir()

    def load(self, name: str, expected: Expectation | None = None) -> Checkpoint:
        """Read a checkpoint; if it is damaged, warn and fall back to the previous one.

        Packed weights are returned as fp32 tensors, without the fact that they were packed. If a training run
        replaces the checkpoint meanwhile, it is read again until it is consistent.

        Args:
            name: ``best`` or ``last``.
            expected: called with the headers by group and the facts before tensors are read (see `expected`).

        Raises:
            RunError: the folder is not a run.
            OtherVersionError: the checkpoint has a format that this version cannot read.
            CheckpointError: no checkpoint is intact; the message names what is damaged.
        """
        places = (self.path, self.path / name, self.path / f"{name}.previous")
        try:
            return settled(lambda: self._load(name, expected), *places)
        except MisfitError as error:
            raise error.located() from None

    def _why_not(self) -> str:
        """Say why the folder is not a run, with the name of a run next to it that is spelt alike."""
        if self.path.exists():
            return "it has no config.yaml and labels.json)"
        runs: list[str] = []
        with contextlib.suppress(OSError):
            runs = [of.name for of in self.path.parent.iterdir() if (of / "labels.json").is_file()]
        hint = did_you_mean(self.path.name, sorted(runs))
        return f"it does not exist).{hint}" if hint else "it does not exist)"

    def _load(self, name: str, expected: Expectation | None) -> Checkpoint:
        refuse_unreadable(self.path)
        if self.path.is_file():
            raise RunError(f"{self.path}: is a file, not a run folder; {NO_PICKLES}")
        if not self.is_run():
            raise RunError(f"{self.path}: is not a run folder ({self._why_not()}")
        problems: list[CheckpointError] = []
        for candidate in (self.path / name, self.path / f"{name}.previous"):
            if not candidate.is_dir():
                continue
            try:
                with held_in_place(candidate):
                    checkpoint = self._read(candidate, expected)
            except ReplacedError:
                raise
            except CheckpointError as error:
                problems.append(error)
                continue
            if problems:
                log.warning("%s; using %s instead", "; ".join(map(str, problems)), candidate)
            return checkpoint
        if not problems:
            raise CheckpointError(
                f"{self.path}: has no checkpoint '{name}'; train it first, or continue with --resume true"
            )
        message = "; ".join(map(str, problems))
        if any(isinstance(problem, OtherVersionError) for problem in problems):
            raise OtherVersionError(message)  # it may be intact
        if any(isinstance(problem, NoPermissionError) for problem in problems):
            raise NoPermissionError(message)
        raise CheckpointError(f"{message}. Restore it from a copy, or train again")

    def read_json(self, name: str) -> Any:
        """Read one of the run's JSON files.

        Raises:
            CheckpointError: it is missing or damaged, or a link out of the run.
        """
        return json_of(self.own(name))

    def read(self, kind: type[AnyRecord]) -> AnyRecord:
        """Read one of the run's JSON files as a dataclass (see `records`), which names the file.

        Raises:
            CheckpointError: as `read_json`; a field is missing or has another type.

        Example::

            RunFolder("runs/tweets").read(RunMetrics).held_out.macro_f1
        """
        return from_json(kind, self.read_json(kind.FILE), file=self.path / kind.FILE)

    def write(self, record: Record) -> None:
        """Write one of the run's JSON files, atomically.

        Raises:
            DiskError: it cannot be written; the previous file is intact.
        """
        write_json(self.path / record.FILE, record.as_json())

    def own(self, name: str) -> Path:
        """Return the path of one of the run's files.

        Raises:
            CheckpointError: it is a link out of the run.
        """
        check_place(self.path / name, self.path)
        return self.path / name

    def write_log(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write log.jsonl, one line per epoch."""
        lines = "".join(json.dumps(entry) + "\n" for entry in entries)
        write_atomically(self.path / "log.jsonl", lines.encode())

    def _is_ours(self) -> bool:
        """Whether the folder's contents may be replaced; a manifest alone is not enough."""
        return (self.path / "config.yaml").is_file() and (self.path / "labels.json").is_file()

    def _entries(self) -> Iterator[Path]:
        return (entry for entry in self.path.iterdir() if entry.name != LOCK)

    def _shared_files(self) -> list[Path]:
        return [self.path / name for name in SHARED_FILES]

    def _is_whole(self, folder: Path) -> bool:
        try:
            verify(folder, depends_on=self._shared_files())
        except CheckpointError:
            return False
        return True

    def _read(self, folder: Path, expected: Expectation | None) -> Checkpoint:
        files = sorted(folder.glob("*.safetensors"))
        if expected is not None:
            try:
                for file in (*files, folder / "state.json"):
                    check_place(file, self.path)
                    check_bytes(file)  # also refuses pipes, which would block
                expected({file.stem: check_tensors(file) for file in files}, _facts_of(folder))
            except SentimentError as error:
                if sum(file.stat().st_size for file in files if file.is_file()) <= SOON_READ:
                    verify(
                        folder, depends_on=self._shared_files()
                    )  # damaged files mismatch too: report the damage
                raise MisfitError(error, folder) from None
        verify(folder, depends_on=self._shared_files())
        tensors = {file.stem: read_tensors(file) for file in files}
        facts = _facts_of(folder)
        if PACKED in facts:
            try:
                tensors["model"] = dequantized(tensors.get("model", {}), facts.pop(PACKED))
            except CheckpointError as error:
                raise CheckpointError(f"{folder / 'model.safetensors'}: {error}") from None
        return Checkpoint(tensors=tensors, facts=facts, folder=folder)


def _is_begun(entry: Path) -> bool:
    """Whether a run has this entry before its first checkpoint."""
    unfinished = _UNFINISHED.fullmatch(entry.name)
    return entry.is_file() and (unfinished[1] if unfinished else entry.name) in SHARED_FILES


def _is_ours(entry: Path) -> bool:
    """Whether this package creates this entry of a run folder, or a kill leaves it as a temporary file."""
    name = entry.name
    unfinished = _UNFINISHED.fullmatch(name)
    if unfinished:
        name = unfinished[1]
    if name in (BEST, LAST, LINEAR, *(f"{of}.previous" for of in (BEST, LAST, LINEAR)), CURVES, EXPORTED):
        return entry.is_dir()
    return name in OWN_FILES and entry.is_file()


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _facts_of(folder: Path) -> dict[str, Any]:
    facts = json_of(folder / "state.json")
    if not isinstance(facts, dict):
        raise CheckpointError(f"{folder / 'state.json'}: is not a JSON object")
    return facts
