"""Run folders: damage is detected and named, and a kill at any moment loses nothing."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import Killed, time_limit
from faults import kill_at

from lstm_sentiment.checkpoints.manifest import FORMAT
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, SHARED_FILES, RunFolder
from lstm_sentiment.config.schema import MOST
from lstm_sentiment.errors import CheckpointError, DiskError, OtherVersionError, RunError
from lstm_sentiment.system.files import write_atomically, write_json

TENSORS = {
    "model": {"head.weight": torch.arange(6.0).view(2, 3), "head.bias": torch.tensor([0.5, -0.5])},
    "optimizer": {"step.head.bias": torch.tensor(7.0), "exp_avg.head.bias": torch.zeros(2)},
}
CHECKPOINT_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A started run without a checkpoint."""
    run = RunFolder(tmp_path / "run")
    begin(run)
    return run


def begin(run: RunFolder) -> None:
    run.begin(
        config_yaml="seed: 0\nout: run\n",
        vocabulary=["good", "schlecht", "não"],
        labels=["negative", "positive"],
        label_map={"0": "negative", "1": "positive"},
    )


def save(run: RunFolder, name: str, step: int) -> None:
    """Save a checkpoint with the step in all of its parts."""
    groups = {
        group: {key: tensor + step for key, tensor in tensors.items()} for group, tensors in TENSORS.items()
    }
    run.save(name, groups, {"step": step, "history": [{"epoch": 1, "score": 0.25}]})


def loaded_step(run: RunFolder, name: str) -> int:
    """Load a checkpoint, check that all its parts are of one step, and return that."""
    checkpoint = run.load(name)
    step = checkpoint.facts["step"]
    assert set(checkpoint.tensors) == set(TENSORS)
    for group, tensors in TENSORS.items():
        assert set(checkpoint.tensors[group]) == set(tensors)
        for key, tensor in tensors.items():
            assert torch.equal(checkpoint.tensors[group][key], tensor + step), key
    assert isinstance(step, int)
    return step


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


# -- round trip ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [BEST, LAST])
def test_a_checkpoint_round_trips(folder: RunFolder, name: str) -> None:
    assert not folder.has(name)
    for step in (1, 2, 3):
        save(folder, name, step)
        assert loaded_step(RunFolder(folder.path), name) == step
    assert folder.has(name)
    assert folder.load(name).facts["history"] == [{"epoch": 1, "score": 0.25}]
    assert folder.read_json("vocabulary.json") == ["good", "schlecht", "não"]
    assert folder.read_json("labels.json")["map"] == {"0": "negative", "1": "positive"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_keep_dtype_shape_and_bits(folder: RunFolder, dtype: torch.dtype) -> None:
    values = (torch.randn(4, 5) * 100).to(dtype)
    extra = {
        "empty": torch.zeros(0, 3, dtype=dtype),
        "scalar": torch.tensor(3, dtype=dtype),
        "transposed": values.clone().T,
    }
    folder.save(BEST, {"model": {"all": values, **extra}}, {})
    found = folder.load(BEST).tensors["model"]
    assert set(found) == {"all", *extra}
    for name, expected in {"all": values, **extra}.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], expected), name


def test_the_longest_allowed_run_can_be_read(trained_run: Path, tmp_path: Path) -> None:
    facts = RunFolder(trained_run).load(LAST).facts
    facts["training"]["history"] = facts["training"]["history"][-1:] * MOST["epochs"]
    run = RunFolder(shutil.copytree(trained_run, tmp_path / "run"))
    run.save(LAST, TENSORS, facts)
    assert len(run.load(LAST).facts["training"]["history"]) == MOST["epochs"]


def test_parameters_of_a_model_need_no_preparation(folder: RunFolder) -> None:
    model = torch.nn.Linear(2, 2)
    folder.save(BEST, {"model": dict(model.named_parameters())}, {})
    assert torch.equal(folder.load(BEST).tensors["model"]["weight"], model.weight)


def test_nothing_but_the_documented_files_is_written(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        save(folder, LAST, step)
        save(folder, BEST, step)
    folder.write_log([{"epoch": 1}, {"epoch": 2}])
    assert {entry.name for entry in folder.path.iterdir()} == {
        *SHARED_FILES,
        "best",
        "last",
        "last.previous",
        "log.jsonl",
    }
    for name in ("best", "last", "last.previous"):
        inside = {file.name for file in (folder.path / name).iterdir()}
        assert inside == {*CHECKPOINT_FILES, "manifest.json"}
    assert [json.loads(line) for line in (folder.path / "log.jsonl").read_text().splitlines()] == [
        {"epoch": 1},
        {"epoch": 2},
    ]


def test_no_file_is_a_pickle(folder: RunFolder) -> None:
    """Every file is text, or a header of JSON and the numbers that it describes."""
    save(folder, BEST, 1)
    save(folder, LAST, 1)
    folder.write_log([{"epoch": 1}])
    files = [file for file in folder.path.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".jsonl", ".yaml", ".safetensors"}
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".safetensors":
            length = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + length])
            described = max(facts["data_offsets"][1] for facts in header.values())
            assert len(content) == 8 + length + described, file
        else:
            assert content.decode("utf-8").isprintable() or b"\n" in content
            assert not content.startswith((b"\x80", b"PK")), file


# -- damage ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CHECKPOINT_FILES, "manifest.json", *SHARED_FILES])
def test_a_missing_file_is_detected_and_named(folder: RunFolder, name: str) -> None:
    save(folder, BEST, 1)
    inside = folder.path / name if name in SHARED_FILES else folder.path / BEST / name
    inside.unlink()
    with pytest.raises(CheckpointError, match=name):
        folder.load(BEST)


def test_an_added_file_is_detected_and_named(folder: RunFolder) -> None:
    save(folder, BEST, 1)
    shutil.copy(folder.path / BEST / "model.safetensors", folder.path / BEST / "average.safetensors")
    with pytest.raises(CheckpointError, match=r"average\.safetensors"):
        folder.load(BEST)


@pytest.mark.parametrize("name", [*CHECKPOINT_FILES, "manifest.json"])
def test_a_file_of_another_checkpoint_is_detected_and_named(folder: RunFolder, name: str) -> None:
    save(folder, BEST, 1)
    save(folder, LAST, 2)
    shutil.copy(folder.path / LAST / name, folder.path / BEST / name)
    accused = f"{BEST}/" if name == "manifest.json" else f"{BEST}/{name}: "
    with pytest.raises(CheckpointError, match=accused):
        folder.load(BEST)
    assert loaded_step(folder, LAST) == 2


@pytest.mark.parametrize("name", [*CHECKPOINT_FILES, "manifest.json", *SHARED_FILES])
def test_a_named_pipe_does_not_block(folder: RunFolder, name: str) -> None:
    save(folder, BEST, 1)
    file = folder.path / name if name in SHARED_FILES else folder.path / BEST / name
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(CheckpointError, match=f"{name}: is not a regular file"), time_limit(10):
        folder.load(BEST)


def test_a_manifest_of_another_format_falls_back_to_the_previous_checkpoint(folder: RunFolder) -> None:
    """A flipped bit turns format 1 into 3."""
    save(folder, LAST, 1)
    save(folder, LAST, 2)
    manifest = folder.path / LAST / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 3'))
    assert loaded_step(folder, LAST) == 1
    shutil.rmtree(folder.path / "last.previous")
    with pytest.raises(OtherVersionError, match=r"pip install --upgrade lstm_sentiment$"):
        folder.load(LAST)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(folder: RunFolder, number: float) -> None:
    save(folder, LAST, 1)
    folder.save(LAST, {"model": {"w": torch.tensor([0.5, number])}}, {"step": 2})
    assert loaded_step(folder, LAST) == 1
    folder.save(LAST, {"model": {"w": torch.tensor([0.5, number])}}, {"step": 3})
    with pytest.raises(CheckpointError, match=r"last/model\.safetensors: 'w' contains non-finite values"):
        RunFolder(folder.path).load(LAST)


def test_a_checkpoint_of_another_run_is_detected(folder: RunFolder, tmp_path: Path) -> None:
    """Its files fit each other, but not this run's vocabulary."""
    other = RunFolder(tmp_path / "other")
    other.begin(config_yaml="seed: 0\nout: run\n", vocabulary=["other"], labels=["a", "b"], label_map={})
    save(other, BEST, 2)
    shutil.copytree(other.path / BEST, folder.path / BEST)
    with pytest.raises(CheckpointError, match=r"vocabulary\.json"):
        folder.load(BEST)


def test_an_edited_vocabulary_is_refused(folder: RunFolder) -> None:
    save(folder, BEST, 1)
    write_json(folder.path / "vocabulary.json", ["schlecht", "good", "não"], indent=0)
    with pytest.raises(CheckpointError, match=r"vocabulary\.json"):
        folder.load(BEST)


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "files": []}',
        b"\xff\xfe",
        b"[" * 10**5,
    ],
)
def test_an_invalid_manifest_is_a_checkpoint_error(folder: RunFolder, manifest: bytes) -> None:
    save(folder, BEST, 1)
    (folder.path / BEST / "manifest.json").write_bytes(manifest)
    with pytest.raises(CheckpointError, match=BEST):
        folder.load(BEST)


@pytest.mark.parametrize("names", [["../../outside.json"], ["/etc/hostname"]])
def test_a_manifest_cannot_name_files_outside_its_folder(folder: RunFolder, names: list[str]) -> None:
    save(folder, BEST, 1)
    file = folder.path / BEST / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"] |= {name: {"sha256": "", "bytes": 0} for name in names}
    file.write_text(json.dumps(manifest) + "\n")
    with pytest.raises(CheckpointError, match="missing or added"):
        folder.load(BEST)


@pytest.mark.parametrize("version", [FORMAT + 1, 99, "1", None])
def test_a_format_of_another_version_is_refused(folder: RunFolder, version: object) -> None:
    save(folder, BEST, 1)
    file = folder.path / BEST / "manifest.json"
    manifest = json.loads(file.read_text())
    assert manifest["format"] == 1
    file.write_text(json.dumps(manifest | {"format": version}) + "\n")
    with pytest.raises(CheckpointError, match="version"):
        folder.load(BEST)


def test_a_folder_without_a_run_is_distinguished_from_a_damaged_run(
    tmp_path: Path, folder: RunFolder
) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(RunError, match="is not a run folder"):
            RunFolder(path).load(BEST)
    with pytest.raises(CheckpointError, match="no checkpoint 'best'"):
        folder.load(BEST)


# -- the previous checkpoint -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CHECKPOINT_FILES, "manifest.json"])
def test_a_damaged_last_falls_back_to_the_previous_one(
    folder: RunFolder, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, LAST, 1)
    save(folder, LAST, 2)
    flip(folder.path / LAST / name, 90)
    with caplog.at_level(logging.WARNING):
        assert loaded_step(folder, LAST) == 1
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{LAST}/{name}" in record.message
    assert "last.previous" in record.message


def test_the_clock_does_not_decide_which_checkpoint_is_the_newer_one(folder: RunFolder) -> None:
    """It may have been set back between two saves."""
    save(folder, LAST, 1)
    save(folder, LAST, 2)
    before = (folder.path / "last.previous").stat().st_mtime_ns - 10**12
    for file in [folder.path / LAST, *(folder.path / LAST).iterdir()]:
        os.utime(file, ns=(before, before))
    assert loaded_step(folder, LAST) == 2


def test_an_intact_last_is_loaded_without_a_warning(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, LAST, 1)
    save(folder, LAST, 2)
    assert loaded_step(folder, LAST) == 2
    assert not caplog.records


def test_two_damaged_checkpoints_are_both_named(folder: RunFolder) -> None:
    save(folder, LAST, 1)
    save(folder, LAST, 2)
    flip(folder.path / LAST / "model.safetensors", 900)
    flip(folder.path / "last.previous" / "state.json", 9)
    with pytest.raises(CheckpointError) as raised:
        folder.load(LAST)
    assert "last/model.safetensors" in str(raised.value)
    assert "last.previous/state.json" in str(raised.value)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_after_a_flipped_bit_still_leaves_a_good_checkpoint(tmp_path: Path, after: bool) -> None:
    """A damaged last never replaces the previous one, the only good one."""

    def prepare(run: RunFolder) -> None:
        begin(run)
        save(run, LAST, 1)
        save(run, LAST, 2)
        flip(run.path / LAST / "model.safetensors", 900)

    def go_on(run: RunFolder) -> None:
        save(run, LAST, 3)

    for run in killed_at_each_place(tmp_path, prepare, go_on, after=after, least=8):
        assert loaded_step(run, LAST) in (1, 3)


def test_a_checkpoint_can_be_read_while_it_is_replaced(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prediction reads `best` while training writes it: no mixed read and no false alarm."""
    for moment in range(1, 100):
        save(folder, BEST, 2 * moment)
        reads: list[Path] = []
        stat = Path.stat

        def replaced_during_read(
            path: Path, moment: int = moment, reads: list[Path] = reads, **how: bool
        ) -> os.stat_result:
            reads.append(path)
            if len(reads) == moment:
                save(folder, BEST, 2 * moment + 1)
            return stat(path, **how)  # noqa: B023 - it is always the same

        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", replaced_during_read)
            assert loaded_step(folder, BEST) in (2 * moment, 2 * moment + 1)
        if len(reads) < moment:
            break
    assert moment > 8, "hardly any moment was tried"


def test_best_is_never_replaced_by_an_older_best(folder: RunFolder) -> None:
    """A damaged best is an error: the previous epoch is another classifier."""
    save(folder, BEST, 1)
    save(folder, BEST, 2)
    flip(folder.path / BEST / "model.safetensors", 900)
    with pytest.raises(CheckpointError, match=r"best/model\.safetensors"):
        folder.load(BEST)


# -- kills -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", [BEST, LAST])
@pytest.mark.parametrize("earlier", [1, 2])
def test_a_kill_while_saving_leaves_the_old_or_the_new_checkpoint(
    tmp_path: Path, name: str, earlier: int, after: bool
) -> None:
    """At every step of a save; then the run continues normally."""
    outcomes: list[int] = []
    for place in range(1, 100):
        run = RunFolder(tmp_path / str(place))
        begin(run)
        for step in range(earlier):
            save(run, name, step)
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, place, after=after)
            try:
                save(run, name, earlier)
            except Killed:
                killed = True
            else:
                killed = False
        assert RunFolder(run.path).has(name), "resume would not look for it"
        outcomes.append(loaded_step(RunFolder(run.path), name))
        assert outcomes[-1] in (earlier - 1, earlier)
        save(run, name, earlier + 1)
        assert loaded_step(RunFolder(run.path), name) == earlier + 1
        if not killed:
            break
    assert len(outcomes) > 12, "hardly any step was tried"
    assert set(outcomes) == {earlier - 1, earlier}
    assert outcomes == sorted(outcomes)


@pytest.mark.parametrize("name", [BEST, LAST])
def test_all_files_are_synced_before_the_checkpoint_is_renamed(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Otherwise a power cut after the rename leaves a checkpoint of empty files."""
    flushed: set[int] = set()
    renamed: list[str] = []
    rename = Path.rename

    def checked_rename(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp"):
            unflushed = [file.name for file in (path, *path.iterdir()) if file.stat().st_ino not in flushed]
            assert not unflushed
            renamed.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", lambda handle: flushed.add(os.fstat(handle).st_ino))
    monkeypatch.setattr(Path, "rename", checked_rename)
    save(folder, name, 1)
    assert renamed == [name]
    assert folder.path.stat().st_ino in flushed, "the rename itself"


def test_a_partial_file_of_a_killed_save_does_no_harm(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise Killed

    save(folder, LAST, 1)
    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", torn)
        with pytest.raises(Killed):
            save(folder, LAST, 2)
    assert loaded_step(folder, LAST) == 1
    save(folder, LAST, 3)
    assert loaded_step(folder, LAST) == 3
    assert not list(folder.path.glob("*.tmp"))
    assert not list(folder.path.glob(".*"))


def test_leftovers_of_killed_processes_are_removed(folder: RunFolder) -> None:
    """A resumed run has another process id, and a temporary folder is as large as a checkpoint."""
    save(folder, LAST, 1)
    shutil.copytree(folder.path / LAST, folder.path / ".last.999999999.tmp")
    save(folder, LAST, 2)
    assert loaded_step(folder, LAST) == 2
    assert not list(folder.path.glob(".*"))


def test_cleanup_removes_only_leftovers_of_kills(folder: RunFolder) -> None:
    save(folder, LAST, 1)
    before = sorted(folder.path.rglob("*"))
    shutil.copytree(folder.path / LAST, folder.path / ".last.77.tmp")
    for name in (".metrics.json.77.tmp", ".log.jsonl.5.tmp"):
        (folder.path / name).write_text("{")
    theirs = [folder.path / name for name in ("draft.tmp", ".notes.77.tmp", ".log.jsonl.tmp")]
    for file in theirs:
        file.write_text("mine")
    folder.sweep()
    assert sorted(folder.path.rglob("*")) == sorted([*before, *theirs])


def dies_at(place: int, action: Callable[[], object], *, after: bool) -> bool:
    """Run an action with a kill at one of its steps; return whether the step was reached."""
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, place, after=after)
        try:
            action()
        except Killed:
            return True
    return False


def killed_at_each_place(
    tmp_path: Path,
    prepare: Callable[[RunFolder], None],
    action: Callable[[RunFolder], None],
    *,
    after: bool,
    least: int,
) -> Iterator[RunFolder]:
    """Yield folders in which an action was killed at its first step, its second, ..., and not at all."""
    for place in range(1, 100):
        run = RunFolder(tmp_path / str(place))
        prepare(run)
        killed = dies_at(place, functools.partial(action, run), after=after)
        yield run
        if not killed:
            break
    assert place > least, "hardly any step was tried"


@pytest.mark.parametrize("after", [False, True])
def test_after_a_kill_at_the_start_a_run_can_be_started_again(tmp_path: Path, after: bool) -> None:
    for run in killed_at_each_place(tmp_path, lambda run: None, begin, after=after, least=5):
        run.clear()
        begin(run)
        save(run, BEST, 1)
        assert loaded_step(run, BEST) == 1


@pytest.mark.parametrize("after", [False, True])
def test_after_a_kill_while_replacing_a_run_it_can_be_started_again(tmp_path: Path, after: bool) -> None:
    def prepare(run: RunFolder) -> None:
        begin(run)
        save(run, BEST, 1)
        save(run, LAST, 1)

    for run in killed_at_each_place(tmp_path, prepare, RunFolder.clear, after=after, least=4):
        run.clear()
        begin(run)
        save(run, BEST, 2)
        assert loaded_step(run, BEST) == 2


# -- clearing --------------------------------------------------------------------------------------


def test_clear_removes_a_run_and_nothing_else(folder: RunFolder) -> None:
    for step in (1, 2):
        save(folder, BEST, step)
        save(folder, LAST, step)
    for name in ("metrics.json", "environment.json", "data.json", "log.jsonl"):
        (folder.path / name).write_text("{}")
    (folder.path / "notes.txt").write_text("mine")
    (folder.path / "plots").mkdir()
    (folder.path / "plots" / "best").write_text("mine")
    (folder.path / "draft.tmp").write_text("mine")
    folder.clear()
    assert sorted(str(p.relative_to(folder.path)) for p in folder.path.rglob("*")) == [
        "draft.tmp",
        "notes.txt",
        "plots",
        "plots/best",
    ]


def test_clear_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("mine")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "photo.jpg").write_text("mine")
    with pytest.raises(RunError, match="do not belong to a run of this package"):
        RunFolder(tmp_path).clear()
    assert (tmp_path / "thesis.docx").read_text() == "mine"
    assert (tmp_path / "best" / "photo.jpg").read_text() == "mine"


@pytest.mark.parametrize("name", ["best", "last", "last.previous", "metrics.json", "data.json"])
def test_clear_refuses_files_of_other_programs(tmp_path: Path, name: str) -> None:
    """Other programs also call their checkpoints `best` and `last`: the name alone is not enough."""
    if name.endswith(".json"):
        theirs = tmp_path / name
    else:
        (tmp_path / name).mkdir()
        theirs = tmp_path / name / "model.safetensors"
        (tmp_path / name / "manifest.json").write_text("{}")
    theirs.write_text("theirs")
    with pytest.raises(RunError):
        RunFolder(tmp_path).clear()
    assert theirs.read_text() == "theirs"


def test_clear_of_nothing_does_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "missing").clear()
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").clear()
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_file_instead_of_a_run_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    run = RunFolder(tmp_path / "run")
    assert run.occupied()
    with pytest.raises(RunError):
        run.clear()
    assert (tmp_path / "run").read_text() == "mine"


# -- atomic files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize(
    ("error", "raised"), [(OSError(28, "No space left on device"), DiskError), (Killed(), Killed)]
)
def test_a_failed_write_leaves_only_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: BaseException, raised: Any
) -> None:
    def fail(*_: Any) -> None:
        raise error

    file = tmp_path / "metrics.json"
    write_atomically(file, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(raised):
            write_atomically(file, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert file.read_bytes() == b"old"
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"


def test_json_is_utf_8_and_ends_with_a_line_break(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"größe": [1, 0.5, None, "😀"]})
    content = (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert content.endswith("\n")
    assert "größe" in content
    assert "😀" in content
    assert json.loads(content) == {"größe": [1, 0.5, None, "😀"]}
