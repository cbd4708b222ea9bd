"""Renaming the classes of a finished run: every file, the same predictions, kills, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Killed, add_linear_model, make_rows, write_csv

from lstm_sentiment import load, relabel
from lstm_sentiment.checkpoints.run_folder import RELABELLED, RunFolder
from lstm_sentiment.checkpoints.trusted_runs import is_trusted, remember
from lstm_sentiment.checkpoints.untrusted_files import classes_of_run
from lstm_sentiment.config.command_line import read_config
from lstm_sentiment.data.corpus import prepare
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.deployment.exporter import export, load_runtime
from lstm_sentiment.errors import CheckpointError, ConfigError, DiskError, RunError, SentimentError
from lstm_sentiment.experiment.resume import check_folder
from lstm_sentiment.prediction.score_file import predict_file
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.relabelling import renaming
from lstm_sentiment.reporting.report import write_report
from lstm_sentiment.system import files

TEXTS = ["a great room", "awful", "it was okay", ""]
NAMES = {"positive": "warm", "negative": "cold"}
NEW = ["cold", "neutral", "warm"]


@pytest.fixture
def finished(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_a_renamed_run_predicts_as_before_under_new_names(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    before, kept = load(finished, device="cpu"), contents(finished)
    remember(finished)
    out = finished if place == "here" else tmp_path / "new"
    flags = [] if place == "here" else ["--out", str(out)]
    relabel.main([str(finished), "{positive: warm, negative: cold}", *flags])
    assert capsys.readouterr().out == f"{out}: classes cold, neutral, warm\n"
    after = load(out, device="cpu")
    assert (before.labels, after.labels) == (["negative", "neutral", "positive"], NEW)
    np.testing.assert_array_equal(after.predict_proba(TEXTS), before.predict_proba(TEXTS))
    for one, other in zip(
        before.predict(TEXTS, coverage=0.9), after.predict(TEXTS, coverage=0.9), strict=True
    ):
        assert other.label == NAMES.get(str(one.label), one.label)
        assert other.label_set == [NAMES.get(label, label) for label in one.label_set or []]
    assert is_trusted(out)
    if place == "elsewhere":
        assert contents(finished) == kept
    assert [entry.name for entry in out.parent.iterdir() if entry.name.startswith(".")] == []


def test_no_file_of_a_renamed_run_has_an_old_name(finished: Path) -> None:
    """But for the labels in the files that it was trained on, and the note."""
    export(load(finished, device="cpu"), finished, finished / "onnx")
    (finished / "mine.txt").write_text("positive")
    renaming.relabel(finished, NAMES)
    named = (RELABELLED, "vocabulary.json", "labels.json", "best/state.json")
    for name, content in contents(finished).items():
        if name.endswith((".json", ".csv", ".jsonl")) and name not in named:
            text = content.decode()
            assert not any(f'"{old}"' in text or f",{old}" in text for old in NAMES), name
    state = json.loads((finished / "best" / "state.json").read_text("utf-8"))
    assert list(state["scores"]["per_class"]) == NEW
    assert (finished / "mine.txt").read_text() == "positive"
    assert classes_of_run(finished / "labels.json") == (NEW, NAMES | {"neutral": "neutral"})
    exported = load_runtime(finished / "onnx")
    assert [p.label for p in exported.predict(TEXTS)] == [p.label for p in load(finished).predict(TEXTS)]
    note = json.loads((finished / RELABELLED).read_text("utf-8"))
    assert [of["names"] for of in note] == [NAMES]
    with (finished / "held_out_rows.csv").open(encoding="utf-8") as rows:
        assert {row["label"] for row in csv.DictReader(rows)} == {*NEW}
    monitoring = json.loads((finished / "monitoring.json").read_text("utf-8"))
    assert list(monitoring["predicted"]) == NEW


def test_a_renamed_run_is_evaluated_reported_and_prepared_again(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = write_csv(tmp_path / "rows.csv", make_rows(30, seed=7))
    before = predict_file(load(finished, device="cpu"), str(rows))
    renaming.relabel(finished, NAMES)
    renamed = [(text, NAMES.get(label, label)) for text, label in make_rows(30, seed=7)]
    for file in (rows, write_csv(tmp_path / "new.csv", renamed)):  # with the old labels, and with the new
        found = predict_file(load(finished, device="cpu"), str(file))
        assert all(np.array_equal(one, other) for one, other in zip(before, found, strict=True))
    config = read_config(finished / "config.yaml")
    corpus = prepare(config.data, config.text, seed=config.seed, cache=cache_folder())
    assert corpus.labels == NEW
    page = write_report(finished, rows=True, device="cpu").read_text("utf-8")
    assert "warm" in page
    assert not caplog.records, "the rows are those that it began with"
    metrics = json.loads((finished / "metrics.json").read_text("utf-8"))
    assert list(metrics["validation"]["per_class"]) == NEW
    assert "polar_f1" not in metrics["validation"], "it needs the names negative and positive"


def test_the_linear_baseline_predicts_as_before_under_new_names(finished: Path) -> None:
    """Its checkpoint and the scores of baselines and branches are renamed, too."""
    add_linear_model(finished)
    probabilities_RC = linear_predictions(finished)
    metrics = RunFolder(finished).read_json("metrics.json")
    scores = metrics["validation"]
    branch = {name: metrics[name] for name in ("validation", "test") if name in metrics}
    metrics |= {"baselines": {"majority": scores}, "branches": {"ngrams": {"share": 1.0, **branch}}}
    (finished / "metrics.json").write_text(json.dumps(metrics))
    renaming.relabel(finished, NAMES)
    assert RunFolder(finished).read(RunMetrics).labels == NEW  # those of all scores must be the same
    np.testing.assert_array_equal(linear_predictions(finished), probabilities_RC)


def linear_predictions(run: Path) -> Any:
    classifier = load(run, device="cpu")
    classifier.keep_branch("linear")
    return classifier.predict_proba(TEXTS)


def test_names_can_be_exchanged_and_renamed_back(finished: Path) -> None:
    before = RunFolder(finished).read_json("metrics.json")
    renaming.relabel(finished, {"positive": "negative", "negative": "positive"})
    assert load(finished, device="cpu").labels == ["positive", "neutral", "negative"]
    renaming.relabel(finished, {"positive": "negative", "negative": "positive"})
    assert load(finished, device="cpu").labels == ["negative", "neutral", "positive"]
    assert RunFolder(finished).read_json("metrics.json") == before
    assert len(RunFolder(finished).read_json(RELABELLED)) == 2


def test_a_renamed_run_cannot_be_resumed(finished: Path) -> None:
    renaming.relabel(finished, NAMES)
    config = dataclasses.replace(read_config(finished / "config.yaml"), out=str(finished), resume=True)
    with pytest.raises(RunError, match=r"its classes were renamed or merged .* cannot be resumed; train"):
        check_folder(RunFolder(finished), config)


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "{postive: warm}",
            r"has no class 'postive', only negative, neutral, positive\. Did you mean 'positive'",
        ),
        (
            "{positive: neutral, negative: neutral}",
            r"'negative', 'neutral', 'positive' would all be 'neutral'; leave at least two classes",
        ),
        ("{positive: ' '}", r"' ' is not a class name"),
        ("{positive: positive}", "no new name; the classes of"),
        ("{positive: null}", "is not a map of old to new names"),
        ("[positive]", "is not a map of old to new names"),
        ("positive", "is not a map of old to new names"),
        ("{}", "is not a map of old to new names"),
        ("{a: &x b, c: *x}", "is not a map of old to new names"),
    ],
)
def test_names_that_do_not_fit_are_refused(trained_run: Path, names: str, message: str) -> None:
    before = contents(trained_run)
    with pytest.raises(ConfigError, match=message):
        relabel.main([str(trained_run), names])
    assert contents(trained_run) == before


def test_links_are_copied_as_files_and_never_written_through(finished: Path, tmp_path: Path) -> None:
    """As in the cache of the Hugging Face Hub, whose files other runs may share."""
    shared, state = tmp_path / "run" / "shared.json", finished / "best" / "state.json"
    state.rename(shared)
    state.symlink_to(shared)
    before = shared.read_bytes()
    renaming.relabel(finished, NAMES, out=tmp_path / "new")
    assert shared.read_bytes() == before
    assert not (tmp_path / "new" / "best" / "state.json").is_symlink()
    (tmp_path / "secret.txt").write_text("secret")
    (finished / "best" / "leak.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(SentimentError):
        renaming.relabel(finished, NAMES)
    (finished / "best" / "leak.txt").unlink()
    (finished / "leak.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(CheckpointError, match="points outside the run folder"):
        renaming.relabel(finished, NAMES)


def test_other_runs_are_refused(finished: Path, tmp_path: Path) -> None:
    (finished / "metrics.json").rename(tmp_path / "metrics.json")
    with pytest.raises(RunError, match="is not finished; finish it with --resume true"):
        renaming.relabel(finished, NAMES)
    (tmp_path / "metrics.json").rename(finished / "metrics.json")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not empty"):
        renaming.relabel(finished, NAMES, out=tmp_path / "full")
    with pytest.raises(ConfigError, match="the starter belongs to the package"):
        relabel.main(["starter", "{positive: warm}"])
    with pytest.raises(RunError, match="is not a run folder"):
        relabel.main([str(tmp_path / "full"), "{positive: warm}"])


@pytest.mark.parametrize("checkpoint", ["best", "linear"])
def test_a_damaged_checkpoint_gets_no_new_manifest(finished: Path, checkpoint: str) -> None:
    add_linear_model(finished)
    weights = finished / checkpoint / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = contents(finished)
    with pytest.raises(CheckpointError, match=rf"{checkpoint}/model\.safetensors: is damaged .*Restore"):
        renaming.relabel(finished, NAMES)
    assert contents(finished) == before


# -- kills and full disks --------------------------------------------------------------------------


# module, function, which of its calls, and whether the process is killed before or after that call
STEPS: list[tuple[Any, str, int, str]] = [
    (shutil, "copytree", 1, "before"),
    (shutil, "copy2", 4, "before"),
    (renaming, "_new_config", 1, "before"),
    (renaming, "write_manifest", 1, "before"),
    (renaming, "sync_file", 3, "after"),
    (renaming, "replace_folder", 1, "before"),
    (renaming, "replace_folder", 1, "after"),
    (files, "_exchanged", 1, "before"),
    (files, "_exchanged", 1, "after"),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[3]} {step[1]}")
def test_a_kill_leaves_the_old_or_the_new_run(
    finished: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str, int, str]
) -> None:
    module, name, count, moment = step
    real, calls = getattr(module, name), []

    def killed(*args: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == count and moment == "before":
            raise Killed
        found = real(*args, **options)
        if len(calls) == count:
            raise Killed
        return found

    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process does not clear up
    monkeypatch.setattr(module, name, killed)
    with pytest.raises(Killed):
        renaming.relabel(finished, NAMES)
    monkeypatch.undo()
    assert load(finished, device="cpu").labels in (NEW, ["negative", "neutral", "positive"])
    renaming.relabel(finished, {"neutral": "so-so"})
    assert load(finished, device="cpu").labels[1] == "so-so"


def test_a_full_disk_leaves_the_run_unchanged(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(finished)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(renaming, "write_manifest", full)
    with pytest.raises(DiskError, match=r"No space left on device .*; the run is unchanged"):
        renaming.relabel(finished, NAMES)
    assert contents(finished) == before
    assert [entry.name for entry in finished.parent.iterdir()] == ["run"]


def test_where_folders_cannot_be_exchanged_they_are_renamed(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    renaming.relabel(finished, NAMES)
    assert load(finished, device="cpu").labels == NEW
    assert [entry.name for entry in finished.parent.iterdir()] == ["run"]
    finished.rename(finished.with_name("real"))
    finished.symlink_to("real")
    with pytest.raises(SentimentError, match="is a link; name its target"):
        renaming.relabel(finished, {"neutral": "so-so"})
