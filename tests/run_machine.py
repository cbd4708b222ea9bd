"""State machine of a run folder: saves, kills, damage, losses and repairs in any order.

The reference knows nothing of how checkpoints are written. It keeps the bytes of every checkpoint ever saved
and looks at the disk: a folder is whole if it holds the bytes of one of them, and the files of the run that
they depend on are as they were. What is whole must be loaded, the newest first; all else must be refused by
the name of what is wrong with it. No save, killed or failing at any place, may lose what could be loaded.
"""

from __future__ import annotations

import errno
import functools
import os
import shutil
import tempfile
import traceback
from pathlib import Path

import faults
import pytest
from conftest import Killed
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from lstm_sentiment.checkpoints.manifest import MANIFEST
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, SHARED_FILES, RunFolder
from lstm_sentiment.errors import CheckpointError, DiskError, RunError

Content = dict[str, bytes | None]  # of a folder: name -> bytes, None if not a file
NUMBERS = 3  # in a tensor
DAMAGES = ("flip", "cut", "empty", "lose", "add", "swap", "folder")
names = st.sampled_from([BEST, LAST])
shares = st.floats(0, 1, exclude_max=True)


@functools.cache
def saved_as(step: int) -> Content:
    """Return the files that a save of a step writes."""
    with tempfile.TemporaryDirectory() as folder:
        run = faults.begin(Path(folder) / "run")
        faults.save(run, BEST, step, NUMBERS)
        return content_of(run.path / BEST)


def content_of(folder: Path) -> Content:
    return {entry.name: entry.read_bytes() if entry.is_file() else None for entry in folder.iterdir()}


class Runs(RuleBasedStateMachine):
    """A run folder and its expected content."""

    steps = 0  # of all machines

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "fsync", lambda _: None)  # only a power cut could show it
        self.folder = Path(tempfile.mkdtemp(prefix="runs-"))
        self.run = faults.begin(self.folder / "run")
        self.shared = {name: (self.run.path / name).read_bytes() for name in SHARED_FILES}
        self.step = 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)
        self.patch.undo()

    # -- expected state --

    def places(self, name: str) -> list[Path]:
        """Return the paths of checkpoints of a name, the newer first."""
        return [place for end in ("", ".previous") if (place := self.run.path / f"{name}{end}").is_dir()]

    def whole(self, place: Path) -> int | None:
        """Return the step of a checkpoint, None if it is damaged."""
        found = content_of(place)
        return next((step for step in range(1, self.step + 1) if saved_as(step) == found), None)

    def loadable(self, name: str) -> list[int]:
        """Return the steps that can be loaded, the newest first."""
        return [step for place in self.places(name) if (step := self.whole(place)) is not None]

    def wrong_with(self, place: Path) -> list[str]:
        """Return what a message may name for a damaged checkpoint: one of its files, or all of it."""
        found = content_of(place)
        wanted = min(
            (saved_as(step) for step in range(1, self.step + 1)),
            key=lambda saved: len(dict(saved.items() ^ found.items())),
        )
        odd = dict(wanted.items() ^ found.items())
        if MANIFEST in odd:  # its checksums of files of the run may differ, too
            return [str(place), *(f"{self.run.path / name}:" for name in SHARED_FILES)]
        if odd.keys() & (wanted.keys() ^ found.keys()):
            return [str(place)]
        return [f"{place / name}:" for name in odd]

    @invariant()
    def intact_checkpoints_are_loaded(self) -> None:
        type(self).steps += 1
        for name in (BEST, LAST):
            self.check(name, self.loadable(name)[:1], [self.wrong_with(place) for place in self.places(name)])

    def check(self, name: str, expected: list[int], wrong: list[list[str]]) -> None:
        """Load as a new process would: the newest expected checkpoint, or an error that names the problem."""
        run, reported = RunFolder(self.run.path), ""
        try:
            found = [faults.step_of(run, name)]
        except (CheckpointError, RunError) as error:
            found, reported = [], str(error)
        assert found == expected, reported
        if not found:
            assert all(any(word in reported for word in words) for words in wrong), (reported, wrong)
            assert wrong or f"has no checkpoint '{name}'" in reported or "not a run folder" in reported

    # -- events --------

    @rule(name=names)
    def save(self, name: str) -> None:
        before = self.loadable(name)[:1]
        self.step += 1
        faults.save(self.run, name, self.step, NUMBERS)
        assert self.loadable(name) == ([self.step] if name == BEST else [self.step, *before])

    @rule(name=names)
    def save_over_a_damaged_checkpoint(self, name: str) -> None:
        """A rare combination: a damaged checkpoint must not replace the previous one."""
        self.save(name)
        self.save(name)
        faults.flip(self.run.path / name / "model.safetensors", 0)
        self.save(name)

    @rule(name=names, place=st.integers(1, 30), after=st.booleans())
    def save_and_be_killed(self, name: str, place: int, after: bool) -> None:
        before = self.loadable(name)[:1]
        self.step += 1
        with pytest.MonkeyPatch.context() as patch:
            faults.kill_at(patch, place, after=after)
            try:
                faults.save(self.run, name, self.step, NUMBERS)
            except Killed:
                done = False
            else:
                done = True
        assert self.loadable(name)[:1] in ([[self.step]] if done else [before, [self.step]])

    @rule(name=names, place=st.integers(1, 15), number=st.sampled_from([errno.ENOSPC, errno.EIO]))
    def save_on_a_bad_disk(self, name: str, place: int, number: int) -> None:
        before = self.loadable(name)[:1]
        self.step += 1
        with pytest.MonkeyPatch.context() as patch:
            faults.fail_at(patch, place, number)
            try:
                faults.save(self.run, name, self.step, NUMBERS)
            except DiskError as error:
                reported = str(error)
            else:
                reported = ""
        assert str(self.run.path / name) in reported or not reported
        assert self.loadable(name)[:1] in ([before, [self.step]] if reported else [[self.step]])

    @rule(of=shares, file=shares, kind=st.sampled_from(DAMAGES), where=shares)
    def damage_a_checkpoint(self, of: float, file: float, kind: str, where: float) -> None:
        places = [place for name in (BEST, LAST) for place in self.places(name)]
        if places:
            place = places[int(of * len(places))]
            entries = sorted(entry for entry in place.iterdir() if entry.is_file())
            if entries:
                damage(entries[int(file * len(entries))], kind, where, places)

    @rule(of=shares)
    def lose_a_checkpoint(self, of: float) -> None:
        places = [place for name in (BEST, LAST) for place in self.places(name)]
        if places:
            shutil.rmtree(places[int(of * len(places))])

    @rule(file=st.sampled_from(SHARED_FILES), kind=st.sampled_from(DAMAGES[:4]), where=shares)
    def damage_shared_file_and_repair_it(self, file: str, kind: str, where: float) -> None:
        damage(self.run.path / file, kind, where, [])
        for name in (BEST, LAST):
            self.check(name, [], [["config.yaml", file, str(place)] for place in self.places(name)])
        (self.run.path / file).write_bytes(self.shared[file])

    @rule()
    def go_on(self) -> None:
        """A new process takes over the folder and removes leftovers of killed ones."""
        before = [self.loadable(name) for name in (BEST, LAST)]
        self.run = RunFolder(self.run.path)
        self.run.sweep()
        assert not list(self.run.path.glob(".*.tmp"))
        assert [self.loadable(name) for name in (BEST, LAST)] == before

    @rule()
    def begin_again(self) -> None:
        self.run.clear()
        assert not self.run.occupied()
        faults.begin(self.run.path)


def damage(file: Path, kind: str, where: float, places: list[Path]) -> None:
    """Change, remove or replace a file, or add another one."""
    content = file.read_bytes()
    if kind == "flip" and content:
        faults.flip(file, int(8 * len(content) * where))
    elif kind in ("cut", "empty"):
        file.write_bytes(content[: int(len(content) * where)] if kind == "cut" else b"")
    elif kind == "add":
        (file.parent / f"other-{file.name}").write_bytes(content)
    elif kind == "swap":
        others = [place / file.name for place in places if (place / file.name).is_file()]
        shutil.copyfile(others[int(where * len(others))], file.with_name("swapped"))
        file.with_name("swapped").replace(file)
    else:
        file.unlink()
        if kind == "folder":
            file.mkdir()


def sequences(count: int, folder: Path) -> dict[str, int]:
    """Run `count` sequences of up to 50 events each.

    Returns:
        `sequences`, and how many `events` they had; `lost`: 1 if anything was, which stderr reports.
    """
    counts = {"sequences": count, "events": -Runs.steps, "lost": 0}
    slow = list(HealthCheck)
    often = settings(
        max_examples=count, stateful_step_count=50, deadline=None, database=None, suppress_health_check=slow
    )
    try:
        run_state_machine_as_test(Runs, settings=often)  # type: ignore[no-untyped-call]
    except Exception:  # any unexpected error
        traceback.print_exc()
        counts["lost"] = 1
    counts["events"] += Runs.steps
    return counts
