"""Simulated power cuts: changes to a folder are recorded, and all possible disk states are replayed.

Without fsync a system may write in any order or not at all. So the content of a file is kept, lost or zeroed
since its last fsync, and the entries of a folder are kept or lost since its own.
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
CALLS: list[tuple[Any, str]] = [  # that change a disk; other changes are seen at the next of these
    *((os, name) for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir")),
    (Path, "write_bytes"),
    (safetensors.torch, "save_file"),
]


@dataclass
class Disk:
    """Current and synced content of files and folders; each has a permanent number."""

    root: Path
    names: dict[int, dict[str, int]] = field(default_factory=dict)
    flushed_names: dict[int, dict[str, int]] = field(default_factory=dict)
    content: dict[int, bytes] = field(default_factory=dict)
    flushed_content: dict[int, bytes] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)  # inode -> number; inodes are used again
    unused: Iterator[int] = field(default_factory=itertools.count)

    def look(self) -> None:
        """Update from the current content of the folder."""
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
        """Record an fsync of a file or folder."""
        number = self.numbers.get(inode)
        if number in self.names:
            self.flushed_names[number] = self.names[number]
        elif number in self.content:
            self.flushed_content[number] = self.content[number]

    def states(self) -> list[State]:
        """Return all states that a power cut could leave now."""
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
    """Possible disk states after a power cut, each with the step that was safe by then."""

    safe: int = 0  # set by who does the changes
    moments: int = 0
    states: dict[tuple[int, frozenset[tuple[str, bytes | None]]], State] = field(default_factory=dict)

    def add(self, states: list[State]) -> None:
        self.moments += 1
        self.states |= {(self.safe, frozenset(state.items())): state for state in states}


@contextlib.contextmanager
def recorded(root: Path) -> Iterator[Record]:
    """Record the changes of a block to a folder, before and after each call that changes the disk."""
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
        load: returns the loaded step, 0 for none, or raises if the state is inconsistent.

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
    """Start a run and save it `count` times; load all states that a power cut could leave."""
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
    """The same for both kinds of checkpoint; return the sums."""
    found = [of_saves(count, folder / name, name) for name in (BEST, LAST)]
    return {key: sum(counts[key] for counts in found) for key in found[0]}


def of_all_saves_unflushed(count: int, folder: Path) -> dict[str, int]:
    """The same without fsync: the control."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setattr(Disk, "flush", lambda disk, inode: None)
        return of_all_saves(count, folder)
