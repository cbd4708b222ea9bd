"""A folder of output shards: one for each input shard, created atomically, and a mark when all are there.

    OUT/_predictions.json   which run and settings, the input shards with their sizes, those without rows
        part-0.csv          the rows of IN/part-0.csv with predictions
        label=good/a.csv    those of IN/label=good/a.csv
        _SUCCESS            empty; written last

An output shard is whole if it is there, so a command that was interrupted goes on with those that are
missing. Shards without rows have no output. Names that begin with an underscore are hidden from Spark, and
from `shards.shards_of`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstm_sentiment.data.formats.writers import WRITTEN
from lstm_sentiment.data.sources.names import compression_of, format_of, has_format
from lstm_sentiment.data.sources.shards import Shard, shards_of
from lstm_sentiment.errors import DataError, RunError, escaped, listed, shown
from lstm_sentiment.system.files import local_path, make_folder, write_atomically, write_json, writing
from lstm_sentiment.system.lock import LOCK, held

LISTS = ("input", "sizes")  # in the manifest, of all input shards
EMPTY = "without_rows"  # in the manifest of a complete folder: outputs that are not there
MANIFEST, SUCCESS, FORMAT = "_predictions.json", "_SUCCESS", 1
MOST_MANIFEST_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Job:
    """An input shard and its output.

    Args:
        source: path or URL of the input.
        out: path of the output.
    """

    source: str
    out: str


def is_folder(out: str, files: Sequence[Shard] | None) -> bool:
    """Whether an output is a folder of shards: an existing folder, ``name/``, or a name without a format.

    Args:
        out: as the user named it.
        files: several input files, None for one.

    >>> is_folder("out/", None), is_folder("out.csv", []), is_folder("out", []), is_folder("out", None)
    (True, False, True, False)
    """
    if out.endswith("/") or (files is not None and not has_format(out)):
        return True
    with contextlib.suppress(OSError):  # such as a name that is too long: reported where it is written
        return local_path(out).is_dir()
    return False


class OutputFolder:
    """An output folder, locked while the shards are written.

    Args:
        path: of the folder.
        jobs: all input shards, with their outputs.
        missing: those without an output.
        facts: content of the manifest.
    """

    def __init__(
        self, path: Path, jobs: Sequence[Job], missing: Sequence[Job], facts: Mapping[str, Any]
    ) -> None:
        self.path, self.jobs, self.missing, self._facts = path, jobs, missing, facts

    @property
    def is_complete(self) -> bool:
        """Whether an earlier command wrote all shards that have rows, and all are still there."""
        empty = set(self._facts.get(EMPTY, ()))
        return (self.path / SUCCESS).exists() and {self._name(job) for job in self.missing} <= empty

    def finish(self) -> None:
        """Mark the folder as complete.

        Raises:
            DiskError: the mark cannot be written.
        """
        without_rows = [self._name(job) for job in self.missing if not Path(job.out).exists()]
        write_json(self.path / MANIFEST, {**self._facts, EMPTY: without_rows})
        write_atomically(self.path / SUCCESS, b"")

    def _name(self, job: Job) -> str:
        return Path(job.out).relative_to(self.path).as_posix()


@contextlib.contextmanager
def opened(out: str, named: str | Sequence[str], settings: Mapping[str, Any]) -> Iterator[OutputFolder]:
    """Open an output folder and lock it; create it if necessary.

    Args:
        out: of the folder.
        named: the input: a folder of shards, a glob, a list, or one file.
        settings: what the output depends on, such as the run, as JSON values.

    Raises:
        DataError: no such input; two input shards of one name.
        RunError: the folder has other files, or output of another command, or of input that has changed
            since; another process writes to it.
        DiskError: it cannot be written to.

    Example::

        with opened("out", "in/*.csv", {"run": "starter"}) as folder:
            for job in folder.missing: ...
            folder.finish()
    """
    if "://" in out:
        problem = "a folder of shards is written on this machine or on a mounted file system"
        advice = f"name such a folder and copy it, or name one file such as {out.rstrip('/')}.csv"
        raise DataError(f"{problem}; {advice}", file=out)
    path = local_path(out)
    found = shards_of(named)
    files = [Shard(name=str(named), inside=_last_part(str(named)))] if found is None else found
    jobs = _jobs(path, files)
    with held(path):
        facts = {
            "format": FORMAT,
            **settings,
            "input": [file.inside for file in files],
            "sizes": [_size(file.name) for file in files],
        }
        facts = _check_same(path, json.loads(json.dumps(facts)))
        missing = [job for job in jobs if not Path(job.out).is_file()]
        folder = OutputFolder(path, jobs, missing, facts)
        if not folder.is_complete:
            with writing(path):
                (path / SUCCESS).unlink(missing_ok=True)
            for parent in {Path(job.out).parent for job in jobs}:
                make_folder(parent)
        yield folder


def output_name(inside: str) -> str:
    """Return the name of the output of an input shard: the same, or JSON lines if its format is only read.

    >>> output_name("label=good/a.csv.gz"), output_name("lines.txt.xz")
    ('label=good/a.csv.gz', 'lines.jsonl.xz')
    """
    if format_of(inside) in WRITTEN:
        return inside
    compression = compression_of(inside)
    stem = inside[: len(inside) - len(compression)]
    return f"{stem[: stem.rindex('.')]}.jsonl{compression}"


def _last_part(name: str) -> str:
    return name.split("?")[0].rstrip("/").rsplit("/", 1)[-1]


def _jobs(path: Path, files: Sequence[Shard]) -> list[Job]:
    jobs: dict[str, Job] = {}
    for file in files:
        job = Job(source=file.name, out=str(path / output_name(file.inside)))
        if job.out in jobs:
            problem = f"its output has the same name as that of {escaped(jobs[job.out].source)}"
            raise DataError(f"{problem}; predict their folders one by one", file=file.name)
        jobs[job.out] = job
    return list(jobs.values())


def _size(name: str) -> list[int] | None:
    """Return the size of a local file and its time of change; None for a URL."""
    if "://" in name or name.startswith("package:"):
        return None
    with contextlib.suppress(OSError):
        facts = local_path(name).stat()
        return [facts.st_size, facts.st_mtime_ns]
    return None


def _check_same(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest of a new folder; refuse one of another command or of other input; return it."""
    manifest = path / MANIFEST
    if not manifest.is_file():
        others = sorted(entry.name for entry in path.iterdir() if entry.name != LOCK)
        if others:
            problem = f"holds files that this command did not write ({listed(others, most=3, quoted=True)})"
            raise RunError(f"{path}: {problem}; choose another --out")
        write_json(manifest, facts)
        return facts
    before = _read(manifest)
    names = [name for name in (*before, *facts) if name != EMPTY]
    differing = [name for name in names if before.get(name) != facts.get(name)]
    if not differing:
        return before
    again = f"choose another --out, or remove {path} to predict all shards again"
    if differing[0] == "sizes" and before.get("input") == facts["input"]:
        pairs = zip(facts["input"], before["sizes"], facts["sizes"], strict=True)
        changed = next(name for name, old, new in pairs if old != new)
        raise RunError(f"{path}: its input {shown(changed)} has changed since the output was begun; {again}")
    if differing[0] in ("input", "sizes"):
        old, new = set(before.get("input", ())), set(facts["input"])
        what = [f"lacks {listed(sorted(old - new), most=3, quoted=True)}"] if old - new else []
        what += [f"has {listed(sorted(new - old), most=3, quoted=True)}"] if new - old else []
        raise RunError(f"{path}: is the output of other shards: the input now {' and '.join(what)}; {again}")
    name = differing[0]
    values = (shown(str(of.get(name))) for of in (before, facts))
    raise RunError(f"{path}: is the output of another command ({name} {' and not '.join(values)}); {again}")


def _read(manifest: Path) -> dict[str, Any]:
    try:
        with manifest.open("rb") as opened:
            found = json.loads(opened.read(MOST_MANIFEST_BYTES))
        if not isinstance(found, dict) or not all(isinstance(found[name], list) for name in LISTS):
            raise ValueError("lacks the input")
        if len(found["input"]) != len(found["sizes"]):
            raise ValueError("lacks sizes")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        problem = f"cannot be read: {escaped(str(error), 200)}; choose another --out, or remove the folder"
        raise RunError(f"{manifest}: {problem}") from None
    return found
