"""What a power cut at each moment could leave of a folder: the changes to it are recorded and replayed.

A system may write to disk what it likes, when it likes, of what nobody flushed. So a file's content
is kept, lost or zeroed since its last flush, and a folder's names are kept or lost since its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faults
import pytest
import safetensors.torch

from lstm_sentiment.checkpoints.run_folder import BEST, LAST, RunFolder

State = dict[str, bytes | None]  # path -> content, None for a folder
MODES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "kept": lambda now, flushed: now,
    "lost": lambda now, flushed: flushed,
    "zeroed": lambda now, flushed: now if now == flushed else bytes(len(now)),
}
CALLS: list[tuple[Any, str]] = [  # that change a disk; what others change is seen at the next of these
    *((os, name) for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")),
    (Path, "write_bytes"),
    (safetensors.torch, "save_file"),
]


@dataclass
class Disk:
    """What files and folders hold now, and what of that was flushed; each has a number for good."""

    root: Path
    names: dict[int, dict[str, int]] = field(default_factory=dict)
    flushed_names: dict[int, dict[str, int]] = field(default_factory=dict)
    content: dict[int, bytes] = field(default_factory=dict)
    flushed_content: dict[int, bytes] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)  # inode -> number; inodes are used again
    unused: Iterator[int] = field(default_factory=itertools.count)

    def look(self) -> None:
        """Take in what the folder holds now."""
        seen: set[int] = set()
        self._look_into(self.root, seen)
        self.numbers = {inode: number for inode, number in self.numbers.items() if inode in seen}

    def _look_into(self, folder: Path, seen: set[int]) -> int:
        number = self._number(folder, seen)
        held = {}
        for entry in folder.iterdir():
            if entry.is_dir():
                held[entry.name] = self._look_into(entry, seen)
            else:
                held[entry.name] = self._number(entry, seen)
                self.content[held[entry.name]] = entry.read_bytes()
        self.names[number] = held
        return number

    def _number(self, path: Path, seen: set[int]) -> int:
        inode = path.stat().st_ino
        seen.add(inode)
        return self.numbers.setdefault(inode, next(self.unused))

    def flush(self, inode: int) -> None:
        """Note that a file's content or a folder's names are on the disk now."""
        number = self.numbers.get(inode)
        if number in self.names:
            self.flushed_names[number] = self.names[number]
        elif number in self.content:
            self.flushed_content[number] = self.content[number]

    def states(self) -> list[State]:
        """Return all that a power cut could leave now."""
        root = self.numbers[self.root.stat().st_ino]
        self.flushed_names.setdefault(root, {})
        return [state for mode in MODES.values() for state in self._left(root, mode)]

    def _left(self, folder: int, mode: Callable[[bytes, bytes], bytes]) -> list[State]:
        now, flushed = self.names[folder], self.flushed_names.get(folder, {})
        found: list[State] = []
        for held in [now] if now == flushed else [now, flushed]:
            partial: list[State] = [{}]
            for name, number in held.items():
                if number in self.names:
                    inside = self._left(number, mode)
                    options = [{name: None, **{f"{name}/{p}": c for p, c in s.items()}} for s in inside]
                else:
                    left = mode(self.content[number], self.flushed_content.get(number, b""))
                    options = [{name: left}]
                partial = [state | option for state in partial for option in options]
            found += partial
        return found


@dataclass
class Record:
    """The states that a power cut could have left, each with what was safe by then."""

    safe: int = 0  # set by who does the changes
    moments: int = 0
    states: dict[tuple[int, frozenset[tuple[str, bytes | None]]], State] = field(default_factory=dict)

    def add(self, states: list[State]) -> None:
        self.moments += 1
        self.states |= {(self.safe, frozenset(state.items())): state for state in states}


@contextlib.contextmanager
def recorded(root: Path) -> Iterator[Record]:
    """Record what a block does to a folder, before and after each of its calls that change a disk."""
    record, disk = Record(), Disk(root)

    def watching(real: Callable[..., Any], *, flushes: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            disk.look()
            record.add(disk.states())
            result = real(*args, **kwargs)
            disk.look()
            if flushes:
                disk.flush(os.fstat(args[0]).st_ino)
            record.add(disk.states())
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, watching(getattr(owner, name), flushes=name == "fsync"))
        yield record
        disk.look()
        record.add(disk.states())


def replay(record: Record, scratch: Path, load: Callable[[Path], int]) -> dict[str, int]:
    """Build each state and load it.

    Args:
        record: of what was done.
        scratch: folder to build in.
        load: returns what is loaded, 0 for nothing, or raises if that is half of something.

    Returns:
        `states` at `moments`; how many of them are `old` and `new`; and `lost`: neither.
    """
    counts = {"states": 0, "moments": record.moments, "old": 0, "new": 0, "lost": 0}
    for (safe, _), state in record.states.items():
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        for path, content in state.items():
            place = scratch / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                place.mkdir(exist_ok=True)
            else:
                place.write_bytes(content)
        counts["states"] += 1
        try:
            found = {safe: "old", safe + 1: "new"}.get(load(scratch), "lost")
        except (Exception, AssertionError):
            found = "lost"
        counts[found] += 1
    return counts


def of_saves(count: int, folder: Path, name: str) -> dict[str, int]:
    """Begin a run and save it so many times; load what a power cut at each moment could leave."""
    (folder / "disk").mkdir(parents=True)
    with recorded(folder / "disk") as record:
        run = faults.begin(folder / "disk" / "runs" / "run")
        for step in range(1, count + 1):
            faults.save(run, name, step, size=5)
            record.safe = step

    def load(disk: Path) -> int:
        run = RunFolder(disk / "runs" / "run")
        return faults.step_of(run, name) if run.is_run() and run.has(name) else 0

    return replay(record, folder / "replayed", load)


def of_all_saves(count: int, folder: Path) -> dict[str, int]:
    """Do so with both kinds of checkpoint; return the sums."""
    found = [of_saves(count, folder / name, name) for name in (BEST, LAST)]
    return {key: sum(counts[key] for counts in found) for key in found[0]}


def of_all_saves_unflushed(count: int, folder: Path) -> dict[str, int]:
    """Do so where nothing is ever flushed to disk: the control arm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(Disk, "flush", lambda disk, inode: None)
        return of_all_saves(count, folder)
