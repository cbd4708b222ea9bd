"""Whole runs: written files, bit-exact resuming, and existing folders."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import Killed, killed_at_save, make_rows, write_csv
from forks import FORKS, start_code

import lstm_sentiment.adaptation.cross_validation as cross_validation_module
import lstm_sentiment.training.classification as classification_module
import lstm_sentiment.training.trainer as trainer_module
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, LINEAR, RunFolder
from lstm_sentiment.checkpoints.run_paths import run_path, seed_paths
from lstm_sentiment.config.command_line import config_yaml, parse_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.dataset import Batch
from lstm_sentiment.errors import CheckpointError, DataError, RunError, SentimentError
from lstm_sentiment.experiment.launching import resumed
from lstm_sentiment.experiment.seeds import run_seeds
from lstm_sentiment.experiment.train import run
from lstm_sentiment.prediction.classifier import load

Configure = Callable[..., Config]
TRAIN = "import runpy; runpy.run_module('lstm_sentiment.train', run_name='__main__')"
WEIGHTS = ("best/model", "last/model", "last/optimizer")


def weights_of(folder: str | Path) -> dict[str, bytes]:
    """Return the bytes of all weights and optimizer states that a resumed run must reproduce."""
    files = sorted(f for name in (BEST, LAST) for f in (Path(folder) / name).glob("*.safetensors"))
    found = {f"{file.parent.name}/{file.stem}": file.read_bytes() for file in files}
    assert set(WEIGHTS) <= set(found)
    return found


def differing(one: dict[str, bytes], two: dict[str, bytes]) -> list[str]:
    """Return the names of files that differ, for short failure messages."""
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def history_of(folder: str | Path) -> list[dict[str, Any]]:
    lines = (Path(folder) / "log.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key != "tokens_per_s"} for line in lines
    ]


def run_until_save(config: Config, name: str, count: int) -> None:
    """Run until the n-th checkpoint of a name is written."""
    with killed_at_save(name, count):
        run(config)


# -- files of a run --------------------------------------------------------------------------------


def test_a_run_writes_its_documented_files(configure: Configure) -> None:
    config = configure("--baseline=true", "--trainer.epochs=5", "--trainer.ema=0.8")
    returned = run(config)
    folder = Path(config.out)
    assert {entry.name for entry in folder.iterdir()} == {
        "best",
        "config.yaml",
        "data.json",
        "environment.json",
        "held_out_rows.csv",
        "labels.json",
        "last",
        "last.previous",
        "log.jsonl",
        "linear",
        "metrics.json",
        "monitoring.json",
        "status.json",
        "trained_texts.safetensors",
        "vocabulary.json",
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == returned
    assert set(metrics["baselines"]) == {"majority", "tfidf_logistic_regression"}
    scored = [metrics["validation"], metrics["test"], *metrics["baselines"].values()]
    for scores in scored:
        assert scores["rows"] == 24
        assert all(0 <= scores[name] <= 1 for name in ("accuracy", "macro_f1", "macro_recall"))
        assert set(scores["per_class"]) == {"negative", "neutral", "positive"}
    assert metrics["baselines"]["majority"]["accuracy"] == pytest.approx(1 / 3, abs=0.01)
    assert metrics["test"]["accuracy"] > 0.7
    assert metrics["steps"] == 5 * 12
    assert metrics["epochs"] == len(history_of(folder)) == 5
    scores_by_epoch = [entry["validation_macro_f1"] for entry in history_of(folder)]
    assert metrics["validation"]["macro_f1"] == pytest.approx(max(scores_by_epoch))
    assert metrics["best_epoch"] == scores_by_epoch.index(max(scores_by_epoch)) + 1
    model = RunFolder(folder).load(BEST).tensors["model"]
    assert metrics["parameters"] == sum(weight.numel() for weight in model.values())


def test_the_written_configuration_is_complete_and_gives_the_same_run(
    configure: Configure, tmp_path: Path
) -> None:
    config = configure("--data.labels=[negative, neutral, positive]", "--trainer.learning_rate=1e-3")
    run(config)
    again = parse_config(["--config", str(tmp_path / "run" / "config.yaml")], program="test", description="")
    assert again == config
    run(dataclasses.replace(again, out=str(tmp_path / "again")))
    assert not differing(weights_of(config.out), weights_of(tmp_path / "again"))
    assert history_of(config.out) == history_of(tmp_path / "again")


def test_resume_and_overwrite_are_not_saved(configure: Configure) -> None:
    for flag in ("--resume=true", "--overwrite=true"):
        plain = yaml.safe_load(config_yaml(configure(flag)))
        assert (plain["resume"], plain["overwrite"]) == (False, False)


def test_another_seed_is_another_run(configure: Configure, tmp_path: Path) -> None:
    for seed in (1, 2):
        run(configure(f"--seed={seed}", "--trainer.epochs=1", f"--out={tmp_path / str(seed)}"))
    assert "best/model" in differing(weights_of(tmp_path / "1"), weights_of(tmp_path / "2"))


def test_test_rows_change_no_weight(configure: Configure, tmp_path: Path) -> None:
    """Even if all their labels are wrong, or without test rows."""
    write_csv(tmp_path / "right.csv", make_rows(30, seed=1))
    write_csv(tmp_path / "wrong.csv", [(text, "negative") for text, _ in make_rows(33, seed=2)])
    metrics = {}
    for name in ("right.csv", "wrong.csv", "null"):
        source = name if name == "null" else tmp_path / name
        metrics[name] = run(configure(f"--data.test={source}", f"--out={tmp_path / 'runs' / name}"))
    for name in ("wrong.csv", "null"):
        assert not differing(
            weights_of(tmp_path / "runs" / "right.csv"), weights_of(tmp_path / "runs" / name)
        )
    assert [of_run["validation"] for of_run in metrics.values()] == [metrics["null"]["validation"]] * 3
    assert (metrics["right.csv"]["test"]["rows"], metrics["wrong.csv"]["test"]["rows"]) == (30, 33)
    assert "test" not in metrics["null"]


def test_baselines_learn_from_training_rows_alone(configure: Configure, tmp_path: Path) -> None:
    """Most training rows are negative; no test row is."""
    rows = make_rows(120)
    left_out = [row for row in rows if row[1] != "negative"][::2]
    train = write_csv(tmp_path / "train.csv", [row for row in rows if row not in left_out])
    others = [row for row in make_rows(60, seed=1) if row[1] != "negative"]
    held_out = write_csv(tmp_path / "held-out.csv", others)
    metrics = run(configure(f"--data.train={train}", f"--data.test={held_out}", "--baseline=true"))
    assert metrics["baselines"]["majority"]["accuracy"] == 0
    assert metrics["baselines"]["tfidf_logistic_regression"]["training_rows"] == 72


def test_class_weights_and_label_smoothing_apply_to_the_loss(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: dict[str, Any] = {}

    def trainer(*args: Any, **kwargs: Any) -> None:
        handed.update(train=args[1], task=args[2])
        raise Killed

    monkeypatch.setattr(cross_validation_module, "Trainer", trainer)
    uneven = [row for row in make_rows(240) if row[1] != "neutral" or row[0].endswith("1")]
    write_csv(tmp_path / "uneven.csv", uneven)
    with pytest.raises(Killed):
        run(
            configure(
                f"--data.train={tmp_path / 'uneven.csv'}",
                "--trainer.class_weights=balanced",
                "--trainer.label_smoothing=0.1",
            )
        )
    labels = handed["train"].labels
    counts_C = torch.bincount(torch.from_numpy(labels), minlength=3)
    assert counts_C[1] < counts_C[0] / 2
    logits_BC, labels_B = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    rows_B = torch.nn.functional.cross_entropy(logits_BC, labels_B, reduction="none", label_smoothing=0.1)
    expected = (rows_B * (len(labels) / (3 * counts_C))[labels_B]).mean()
    batch = Batch(
        tokens_BT=torch.ones(6, 1, dtype=torch.int64),
        lengths_B=torch.ones(6, dtype=torch.int64),
        labels_B=labels_B,
        targets_BC=torch.empty(6, 0),
        weights_B=torch.full((6,), 1 / 6),
        shares_B=torch.full((6,), 1 / 6),
        rows_B=torch.arange(6),
        spelling_XK=torch.zeros((0, 4), dtype=torch.int32),
    )
    torch.testing.assert_close(handed["task"].loss(lambda *_: logits_BC, batch), expected)


@pytest.mark.parametrize("tokenizer", ["words", "basic_english"])
def test_an_unpaired_surrogate_does_not_stop_training(
    configure: Configure, tmp_path: Path, tokenizer: str
) -> None:
    r"""JSON can contain a lone "\ud83d", as in tweets truncated inside an emoji."""
    rows = [{"text": f"{text} \ud83d", "label": label} for text, label in make_rows(60)]
    file = tmp_path / "tweets.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    run(configure(f"--data.train={file}", f"--text.tokenizer={tokenizer}", "--trainer.epochs=1"))
    assert load(tmp_path / "run", device="cpu").predict("great \ud83d")[0].label


# -- resuming --------------------------------------------------------------------------------------

# 192 training rows, 6 steps per epoch, checkpoints after steps 2, 4, 6 (end of epoch), 8, 10, 12, ...
RESUMED = ("--trainer.accumulate=2", "--trainer.checkpoint_every=2", "--trainer.epochs=3")


KILLS = {
    "in the middle of the first epoch": [("last", 1)],
    "at the end of the first epoch": [("last", 3)],
    "in the middle of the second epoch": [("last", 5)],
    "between best and last": [("best", 1)],
    "after the last checkpoint": [("last", 9)],
    "three times": [("last", 2)] * 3,
}


@pytest.fixture(scope="module")
def kept_cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `cut` keeps its rows and its run."""
    return tmp_path_factory.mktemp("cut")


@pytest.fixture
def cut(configure: Configure, kept_cut: Path) -> Config:
    """The configuration of a run that was killed after its last checkpoint; it is trained once for all."""
    rows, kept = kept_cut / "reviews.csv", kept_cut / "run"
    config = configure(*RESUMED, f"--data.train={rows}")
    if kept.exists():
        shutil.copytree(kept, config.out)
    else:
        write_csv(rows, make_rows(240))
        run_until_save(config, "last", 9)
        shutil.copytree(config.out, kept)
    return config


@pytest.mark.parametrize(
    ("others", "kills_of"),
    [
        (["--trainer.ema=0.9"], list(KILLS)),
        (
            ["--trainer.ema=0", "--trainer.r_drop=1"],
            ["in the middle of the second epoch", "between best and last"],
        ),
    ],
    ids=["others0", "others1"],
)
def test_a_killed_and_resumed_run_is_bit_identical(
    configure: Configure, tmp_path: Path, others: list[str], kills_of: list[str]
) -> None:
    flags = [*RESUMED, *others]
    straight = configure(*flags, f"--out={tmp_path / 'straight'}")
    expected = run(straight)
    for when, kills in ((when, KILLS[when]) for when in kills_of):
        config = configure(*flags, f"--out={tmp_path / when}")
        for i, (name, count) in enumerate(kills):
            run_until_save(dataclasses.replace(config, resume=i > 0), name, count)
        assert not (Path(config.out) / "metrics.json").exists()
        metrics = run(dataclasses.replace(config, resume=True))
        assert not differing(weights_of(config.out), weights_of(straight.out)), when
        assert history_of(config.out) == history_of(straight.out), when
        assert without_times(metrics) == without_times(expected), when


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not key.endswith("_s")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts.pop("training"), "training is missing; it must be an object"),
        (lambda facts: facts.pop("threads"), "threads is missing; it must be a whole number"),
        (lambda facts: facts.pop("scaler"), "scaler is missing; it must be an object or null"),
        (lambda facts: facts.update(training=[]), "training is a list of 0, not an object"),
        (lambda facts: facts["training"].pop("step"), "training.step is missing; it must be a whole number"),
        (lambda facts: facts["training"].update(step="3"), "training.step is '3', not a whole number"),
        (
            lambda facts: facts["training"].update(history={}),
            "training.history is an object of 0",
        ),
    ],
)
def test_a_checkpoint_that_no_training_wrote_is_refused(
    cut: Config, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    """Its manifest is valid: it was forged."""
    folder = RunFolder(cut.out)
    checkpoint = folder.load(LAST)
    facts = copy.deepcopy(dict(checkpoint.facts))
    change(facts)
    folder.save(LAST, checkpoint.tensors, facts)
    with pytest.raises(CheckpointError, match=rf"state\.json: {message}.*; restore it from a copy, or train"):
        run(dataclasses.replace(cut, resume=True))


def test_an_interrupted_run_has_other_weights_than_the_final_ones(
    configure: Configure, tmp_path: Path
) -> None:
    """The control of the test above: there are steps left after the kill."""
    straight = configure(*RESUMED, f"--out={tmp_path / 'straight'}")
    run(straight)
    config = configure(*RESUMED)
    run_until_save(config, "last", 5)
    assert "last/model" in differing(weights_of(config.out), weights_of(straight.out))
    state = RunFolder(config.out).load(LAST).facts["training"]
    assert (state["step"], state["epoch"], state["step_in_epoch"]) == (10, 1, 4)


def test_early_stopping_continues_across_a_resume(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.4, 0.3, 0.2])
    real = classification_module.score
    monkeypatch.setattr(
        classification_module,
        "score",
        lambda *args: dataclasses.replace(real(*args), macro_f1=next(scores)),
    )
    config = configure(*RESUMED, "--trainer.epochs=6", "--trainer.patience=3")
    run_until_save(config, "last", 7)
    assert RunFolder(config.out).load(LAST).facts["training"]["epochs_without_gain"] == 1
    metrics = run(dataclasses.replace(config, resume=True))
    assert (metrics["epochs"], metrics["best_epoch"]) == (4, 1)


def test_resuming_a_finished_run_only_reports_again(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()
    metrics = run(config)
    before = weights_of(config.out), history_of(config.out)
    monkeypatch.setattr(trainer_module.Trainer, "_step", None)  # a step would be an error
    again = run(dataclasses.replace(config, resume=True))
    assert (weights_of(config.out), history_of(config.out)) == before
    assert again["test"] == metrics["test"]
    assert again["steps"] == metrics["steps"]


def test_resume_without_a_run_starts_one(configure: Configure, tmp_path: Path) -> None:
    expected = run(configure(f"--out={tmp_path / 'straight'}"))
    metrics = run(configure("--resume=true"))
    assert metrics["test"] == expected["test"]
    assert not differing(weights_of(tmp_path / "run"), weights_of(tmp_path / "straight"))


def test_resume_of_a_run_killed_before_its_first_checkpoint_starts_over(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise Killed

    expected = run(configure(f"--out={tmp_path / 'straight'}"))
    config = configure()
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "_step", killed)
        with pytest.raises(Killed):
            run(config)
    assert not (Path(config.out) / LAST).exists()
    metrics = run(dataclasses.replace(config, resume=True))
    assert metrics["test"] == expected["test"]
    assert not differing(weights_of(config.out), weights_of(tmp_path / "straight"))


@pytest.mark.parametrize(
    ("flag", "key", "old", "new"),
    [
        ("--trainer.learning_rate=0.5", "trainer.learning_rate", "0.02", "0.5"),
        ("--trainer.epochs=30", "trainer.epochs", "3", "30"),
        ("--model.pooling=last", "model.pooling", "mean+max", "last"),
        ("--seed=9", "seed", "0", "9"),
        ("--text.lowercase=false", "text.lowercase", "True", "False"),
        ("--data.labels={negative: bad, neutral: so, positive: good}", "data.labels", "None", "good"),
    ],
)
def test_resuming_with_another_setting_is_refused(
    configure: Configure, cut: Config, flag: str, key: str, old: str, new: str
) -> None:
    before = files_of_last(cut)
    with pytest.raises(RunError) as raised:
        run(configure(*RESUMED, f"--data.train={cut.data.train}", "--resume=true", flag))
    message = str(raised.value)
    assert f"{key} {old!r}" in message or f"{key} {old}" in message
    assert new in message.split("now it is")[1]
    assert raised.value.exit_code == 2
    assert files_of_last(cut) == before


def files_of_last(config: Config) -> list[bytes]:
    return [file.read_bytes() for file in sorted((Path(config.out) / LAST).iterdir())]


@pytest.mark.parametrize(
    "flag", ["--trainer.checkpoint_every=7", "--baseline=true", "--trainer.device=cpu", "--trainer.threads=2"]
)
def test_settings_without_effect_on_weights_may_differ(
    configure: Configure, cut: Config, caplog: pytest.LogCaptureFixture, flag: str
) -> None:
    """Another number of threads rounds sums differently, which is reported."""
    metrics = run(configure(*RESUMED, f"--data.train={cut.data.train}", "--resume=true", flag))
    assert metrics["steps"] == 18
    assert ("the run had threads 1, now 2" in caplog.text) == ("threads" in flag)


def test_resuming_on_other_data_is_refused(configure: Configure, reviews: Path) -> None:
    config = configure(*RESUMED)
    run_until_save(config, "last", 1)
    before, content = files_of_last(config), reviews.read_text()
    for changed in (
        content.replace(",positive", ",negative", 1),
        content.replace("great", "grand"),
        content + '"one more",positive\n',
        "\n".join(content.splitlines()[:-1]) + "\n",
    ):
        assert changed != content
        reviews.write_text(changed)
        with pytest.raises(RunError, match="no longer those the run began with"):
            run(dataclasses.replace(config, resume=True))
    assert files_of_last(config) == before
    reviews.write_text(content)
    assert run(dataclasses.replace(config, resume=True))["steps"] == 18


def test_a_damaged_last_checkpoint_costs_only_the_steps_since_the_previous_one(
    configure: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight = configure(*RESUMED, f"--out={tmp_path / 'straight'}")
    run(straight)
    config = configure(*RESUMED)
    run_until_save(config, "last", 5)
    (Path(config.out) / LAST / "model.safetensors").write_bytes(b"damaged")
    with caplog.at_level(logging.INFO):
        run(dataclasses.replace(config, resume=True))
    assert "last/model.safetensors" in caplog.text
    assert "resuming at step 8 of 18" in caplog.text
    assert not differing(weights_of(config.out), weights_of(straight.out))


def test_a_run_without_an_intact_checkpoint_has_its_own_error(configure: Configure) -> None:
    config = configure(*RESUMED)
    run_until_save(config, "last", 2)
    for name in (LAST, "last.previous"):
        (Path(config.out) / name / "optimizer.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"last/optimizer\.safetensors") as raised:
        run(dataclasses.replace(config, resume=True))
    assert raised.value.exit_code == 3


def test_out_and_resume_alone_use_the_settings_of_the_run(configure: Configure, tmp_path: Path) -> None:
    config = configure(*RESUMED)
    run_until_save(config, "last", 2)
    moved = tmp_path / "moved"
    Path(config.out).rename(moved)
    for argv in (
        ["--out", str(moved), "--resume", "true"],
        [f"--out={moved}", "--resume=true"],
        ["--resume=True", f"--out={moved}"],
    ):
        again = parse_config(resumed(argv), program="test", description="")
        assert again == dataclasses.replace(config, out=str(moved), resume=True)
    changed = parse_config(
        resumed([f"--out={moved}", "--resume=true", "--trainer.epochs=9"]), program="test", description=""
    )
    assert changed.trainer.epochs == 9
    for argv in (
        [f"--out={moved}"],
        [f"--out={moved}", "--resume=false"],
        [f"--out={tmp_path}", "--resume=true"],
    ):
        assert resumed(argv) == argv


def test_a_killed_process_is_resumed_by_another(configure: Configure, tmp_path: Path) -> None:
    """SIGKILL, then only ``--out X --resume true`` in a new process."""
    flags = [*RESUMED, "--trainer.epochs=8", "--trainer.checkpoint_every=1"]
    straight = configure(*flags, f"--out={tmp_path / 'straight'}")
    run(straight)
    config = configure(*flags)
    process = FORKS.Process(target=run, args=(config,))
    process.start()
    last, deadline = Path(config.out) / LAST, time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it was over before it was killed"
    step = RunFolder(config.out).load(LAST).facts["training"]["step"]
    assert 0 < step < 48
    job = start_code(TRAIN, "--out", config.out, "--resume", "true", folder=tmp_path)
    assert job.wait(120) == 0, job.stderr
    assert f"resuming at step {step} of 48" in job.stdout
    assert not differing(weights_of(config.out), weights_of(straight.out))
    assert history_of(config.out) == history_of(straight.out)


# -- existing folders ------------------------------------------------------------------------------


def test_an_existing_run_is_not_overwritten_by_default(configure: Configure) -> None:
    config = configure()
    run(config)
    before = snapshot(Path(config.out))
    with pytest.raises(RunError, match="--resume true") as raised:
        run(configure("--seed=3"))
    assert raised.value.exit_code == 2
    assert snapshot(Path(config.out)) == before


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_overwrite_replaces_a_run_and_keeps_other_files(configure: Configure, tmp_path: Path) -> None:
    run(configure(f"--out={tmp_path / 'fresh'}", "--seed=3", "--trainer.epochs=1"))
    config = configure()
    run(config)
    folder = Path(config.out)
    (folder / "notes.txt").write_text("mine")
    (folder / "evaluation.json").write_text('{"accuracy": 1.0}')
    run(configure("--overwrite=true", "--seed=3", "--trainer.epochs=1"))
    assert not differing(weights_of(folder), weights_of(tmp_path / "fresh"))
    assert len(history_of(folder)) == 1
    assert (folder / "notes.txt").read_text() == "mine"


def test_overwrite_removes_evaluations_of_the_old_run(configure: Configure) -> None:
    """`evaluate` writes it into the run folder; it would be wrong for other weights."""
    config = configure("--trainer.epochs=1")
    run(config)
    (Path(config.out) / "evaluation.json").write_text('{"accuracy": 1.0}')
    run(dataclasses.replace(config, overwrite=True))
    assert not (Path(config.out) / "evaluation.json").exists()


@pytest.mark.parametrize("flags", [(), ("--overwrite=true",), ("--resume=true",)])
def test_a_folder_with_other_files_is_never_written_to(
    configure: Configure, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    folder = tmp_path / "thesis"
    (folder / "best").mkdir(parents=True)
    (folder / "chapter.tex").write_text("mine")
    (folder / "best" / "photo.jpg").write_bytes(b"mine")
    (folder / "metrics.json").write_text("mine")
    before = snapshot(folder)
    with pytest.raises(RunError) as raised:
        run(configure(f"--out={folder}", *flags))
    assert raised.value.exit_code == 2
    assert snapshot(folder) == before


@pytest.mark.parametrize("flag", ["--overwrite=true", "--resume=true"])
def test_the_checkpoints_of_another_program_are_never_removed(
    configure: Configure, tmp_path: Path, flag: str
) -> None:
    """Other programs also use the names `best` and `last`."""
    folder = tmp_path / "theirs"
    for name in (BEST, LAST):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(b"theirs")
    before = snapshot(folder)
    with pytest.raises(RunError):
        run(configure(f"--out={folder}", flag))
    assert snapshot(folder) == before


@pytest.mark.parametrize("flag", ["--seed=3", "--seed=0"])
def test_resume_never_throws_a_finished_run_away(configure: Configure, flag: str) -> None:
    """`last` may have been removed to save space: classifier and scores are left."""
    config = configure("--trainer.epochs=1")
    run(config)
    for name in (LAST, "last.previous"):
        shutil.rmtree(Path(config.out) / name, ignore_errors=True)
    before = snapshot(Path(config.out))
    with pytest.raises(SentimentError):
        run(configure("--trainer.epochs=1", "--resume=true", flag))
    assert snapshot(Path(config.out)) == before


def test_a_finished_run_keeps_what_prediction_needs_and_reports_again(configure: Configure) -> None:
    """Weights and optimizer state to resume from are removed: at most 1.5 times the model is left.

    That includes the linear baseline and the hashes of the training texts.
    """
    small = ("--trainer.keep_for_resume=false", "--trainer.epochs=2", "--baseline=true")
    config = configure(*small)
    metrics = run(config)
    folder = RunFolder(config.out)
    assert folder.load(LAST).tensors == {}
    assert not (folder.path / "last.previous").exists()
    assert folder.has(LINEAR)
    assert (folder.path / "trained_texts.safetensors").is_file()
    model = (folder.path / BEST / "model.safetensors").stat().st_size
    assert sum(file.stat().st_size for file in folder.path.rglob("*") if file.is_file()) < 1.5 * model
    weights = (folder.path / BEST / "model.safetensors").read_bytes()
    (folder.path / "metrics.json").unlink()
    again = run(configure(*small, "--resume=true"))
    assert (folder.path / BEST / "model.safetensors").read_bytes() == weights
    for found in (metrics, again):
        del found["total_s"], found["against_linear"]["linear_s"]
    assert again == metrics
    with pytest.raises(
        RunError, match=r"trainer\.epochs 2 and cannot be resumed with 9.*--pretrained "
    ) as raised:
        run(configure(*small, "--trainer.epochs=9", "--resume=true"))
    assert raised.value.exit_code == 2


def test_an_unfinished_checkpoint_without_weights_is_refused(configure: Configure) -> None:
    config = configure()
    run_until_save(config, "last", 1)
    folder = RunFolder(config.out)
    folder.drop_tensors(LAST)
    with pytest.raises(CheckpointError, match="has no weights to resume from"):
        run(configure("--resume=true"))


@pytest.mark.parametrize(
    "flag",
    [
        "--data.train=missing.csv",
        "--data.text_column=missing",
        "--text.vectors=missing.txt",
        "--text.tokenizer=missing",
        "--data.labels=[negative, positive]",
    ],
)
def test_an_error_before_training_does_not_touch_the_old_run(configure: Configure, flag: str) -> None:
    config = configure("--trainer.epochs=1")
    run(config)
    before = snapshot(Path(config.out))
    with pytest.raises(SentimentError) as raised:
        run(configure("--overwrite=true", flag))
    assert raised.value.exit_code == 2
    assert snapshot(Path(config.out)) == before


def test_an_error_leaves_no_folder(configure: Configure) -> None:
    config = configure("--data.text_column=missing")
    with pytest.raises(DataError):
        run(config)
    assert not Path(config.out).exists()


def test_a_file_instead_of_the_folder_is_a_config_error(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    for flag in ("--resume=true", "--overwrite=true", "--resume=false"):
        with pytest.raises(RunError):
            run(configure(flag))
    assert (tmp_path / "run").read_text() == "mine"


def test_no_file_of_a_run_is_a_pickle(configure: Configure) -> None:
    config = configure("--trainer.epochs=1")
    run(config)
    files = [file for file in Path(config.out).rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".csv", ".json", ".jsonl", ".yaml", ".safetensors"}
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".safetensors":
            length = int.from_bytes(content[:8], "little")
            assert isinstance(json.loads(content[8 : 8 + length]), dict)
        else:
            assert not content.startswith((b"\x80", b"PK", b"\x93NUMPY")), file
            content.decode("utf-8")


# -- several seeds ---------------------------------------------------------------------------------


def test_several_seeds_are_separate_runs_with_mean_and_spread(configure: Configure, tmp_path: Path) -> None:
    summary = run_seeds(configure("--seeds=3", "--seed=4"))
    folders = [tmp_path / "run" / f"seed-{seed}" for seed in (4, 5, 6)]
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    assert json.loads((tmp_path / "run" / "seeds.json").read_text()) == summary
    values = [of["test"]["macro_f1"] for of in metrics]
    assert summary["scores"]["macro_f1"] == {
        "mean": pytest.approx(np.mean(values)),
        "spread": pytest.approx(np.std(values, ddof=1)),
        "lowest": min(values),
        "highest": max(values),
    }
    by_validation = sorted(folders, key=lambda f: metrics[folders.index(f)]["validation"]["macro_f1"])
    assert summary["median_run"] == str(by_validation[1])
    assert (summary["best_run"], summary["metric"]) == (str(by_validation[2]), "macro_f1")
    assert run_path(tmp_path / "run") == by_validation[2]
    assert seed_paths(tmp_path / "run") == folders
    alone = run(configure("--seed=5", f"--out={tmp_path / 'alone'}"))
    assert alone["test"] == metrics[1]["test"]
    assert differing(weights_of(tmp_path / "alone"), weights_of(folders[1])) == []


def test_several_seeds_resume_after_a_kill(configure: Configure, tmp_path: Path) -> None:
    expected = run_seeds(configure("--seeds=2", f"--out={tmp_path / 'whole'}"))
    run(configure(f"--out={tmp_path / 'run' / 'seed-0'}"))  # then a kill
    with pytest.raises(RunError, match="the last is not finished"):
        load(tmp_path / "run")
    found = run_seeds(configure("--seeds=2", "--resume=true"))
    assert found["scores"] == expected["scores"]


def test_several_seeds_do_not_overwrite_a_run(configure: Configure) -> None:
    run(configure())
    with pytest.raises(RunError, match="contains a single run"):
        run_seeds(configure("--seeds=2"))
    assert load(configure().out)


def test_temporary_files_are_gone_after_a_run(configure: Configure) -> None:
    config = configure(*RESUMED)
    run(config)
    inside = [path.name for path in Path(config.out).rglob("*")]
    assert not [name for name in inside if name.startswith(".") or name.endswith(".tmp")]
    assert not [name for name in os.listdir(Path(config.out).parent) if name.endswith(".tmp")]  # noqa: PTH208
