"""TensorBoard curves: points, each once across kills, and unchanged training."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Killed
from forks import FORKS, start_job
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator

import lstm_sentiment.experiment.train as experiment
import lstm_sentiment.training.trainer as trainer_module
from lstm_sentiment import train
from lstm_sentiment.checkpoints.run_folder import LAST, RunFolder
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.command_line import config_yaml, parse_config
from lstm_sentiment.config.public import public_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import MissingExtraError, RunError
from lstm_sentiment.experiment.train import run
from lstm_sentiment.training.schedule import learning_rate_at
from lstm_sentiment.training.tensorboard import Curves

Configure = Callable[..., Config]
Points = dict[str, dict[int, float]]
# 192 training rows: 12 steps per epoch, 36 in all; points at 10, 20, 30 and at the ends 12, 24, 36
ON = ("--trainer.tensorboard=true", "--trainer.checkpoint_every=4")
PER_STEP = {"train/loss", "train/learning_rate", "train/gradient_norm"}
PER_EPOCH = {
    "train/tokens_per_s",
    *(f"validation/{name}" for name in ("macro_f1", "accuracy", "macro_recall", "loss")),
    *(f"validation/{name}" for name in ("polar_f1", "flip_rate", "ordinal_error")),
}


def events_of(folder: str | Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(Path(folder) / "tensorboard"), size_guidance={TENSORS: 0})
    return accumulator.Reload()


def points_of(folder: str | Path) -> Points:
    """Return every point that TensorBoard shows; a duplicate step is an error."""
    events, points = events_of(folder), {}
    for name in events.Tags()["scalars"]:
        scalars = events.Scalars(name)
        points[name] = {of.step: of.value for of in scalars}
        assert [of.step for of in scalars] == sorted(points[name]), f"{name}: out of order, or twice"
    return points


def without_speed(points: Points) -> Points:
    return {name: curve for name, curve in points.items() if name != "train/tokens_per_s"}


def weights_of(config: Config) -> dict[str, bytes]:
    files = sorted(Path(config.out).glob("*/*.safetensors"))
    assert files
    return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in files}


def run_until_step(config: Config, step: int) -> None:
    """Run until a step is done and logged."""
    real = trainer_module.Trainer._step

    def stop(trainer: trainer_module.Trainer, batches: list[Any]) -> float:
        loss = real(trainer, batches)
        if trainer.state.step == step:
            raise Killed
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "_step", stop)
        with pytest.raises(Killed):
            run(config)


def next_second() -> None:
    """Wait until a new event file would have a newer name; a real run takes longer to start."""
    time.sleep(1.01 - time.time() % 1)


def test_the_curves_are_those_of_the_log_and_the_schedule(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    real = trainer_module.Trainer._step

    def noted(*args: Any) -> float:
        losses.append(real(*args))
        return losses[-1]

    monkeypatch.setattr(trainer_module.Trainer, "_step", noted)
    config = configure(*ON)
    run(config)
    points = points_of(config.out)
    assert set(points) == PER_STEP | PER_EPOCH
    assert points["train/loss"] == pytest.approx({step: losses[step - 1] for step in (10, 20, 30)})
    rate = config.trainer.learning_rate
    assert points["train/learning_rate"] == pytest.approx(
        {s: learning_rate_at(s - 1, total_steps=36, peak=rate, warmup=0.1) for s in (10, 20, 30)}
    )
    assert all(0 < norm < math.inf for norm in points["train/gradient_norm"].values())
    log = [json.loads(line) for line in (Path(config.out) / "log.jsonl").read_text().splitlines()]
    for name in PER_EPOCH - {"train/tokens_per_s"}:
        assert points[name] == pytest.approx({e["step"]: e[name.replace("/", "_")] for e in log}), name
    speeds = {entry["step"]: entry["tokens_per_s"] for entry in log}
    assert points["train/tokens_per_s"] == pytest.approx(speeds, abs=0.6)


def test_the_settings_are_logged_with_the_curves(configure: Configure) -> None:
    config = configure(*ON, "--trainer.epochs=1")
    run(config)
    [settings] = events_of(config.out).Tensors("settings/text_summary")
    text = settings.tensor_proto.string_val[0].decode()
    assert text == f"```yaml\n{config_yaml(public_config(config))}```"


def test_without_it_there_are_no_curves_and_the_weights_are_the_same(
    configure: Configure, tmp_path: Path
) -> None:
    drawn, plain = configure(*ON), configure(f"--out={tmp_path / 'plain'}", "--trainer.checkpoint_every=4")
    run(drawn)
    run(plain)
    assert (Path(drawn.out) / "tensorboard").is_dir()
    assert not (Path(plain.out) / "tensorboard").exists()
    one, two = weights_of(drawn), weights_of(plain)
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param([22], id="with points behind the checkpoint"),
        pytest.param([11], id="in the first epoch"),
        pytest.param([21, 31], id="twice"),
    ],
)
def test_a_killed_and_resumed_run_draws_the_curves_of_one_that_was_not(
    configure: Configure, tmp_path: Path, kills: list[int]
) -> None:
    straight, config = configure(*ON, f"--out={tmp_path / 'straight'}"), configure(*ON)
    run(straight)
    expected = points_of(straight.out)
    for i, step in enumerate(kills):
        run_until_step(dataclasses.replace(config, resume=i > 0), step)
        assert points_of(config.out)["train/loss"].keys() == {s for s in (10, 20, 30) if s <= step}
        assert RunFolder(config.out).load(LAST).facts["training"]["step"] == step - step % 4
        next_second()
    run(dataclasses.replace(config, resume=True))
    found = points_of(config.out)
    assert without_speed(found) == without_speed(expected)
    assert found["train/tokens_per_s"].keys() == expected["train/tokens_per_s"].keys()
    assert len(list((Path(config.out) / "tensorboard").iterdir())) == len(kills) + 1
    assert len(events_of(config.out).Tensors("settings/text_summary")) == 1


def test_points_after_the_checkpoint_are_purged(configure: Configure) -> None:
    """Even if the resumed run has no point yet: it resumes at step 20, the next point is at 24."""
    config = configure(*ON)
    run_until_step(config, 22)
    with Curves(Path(config.out) / "tensorboard", settings="").after(22) as curves:
        curves.add(23, {"train/loss": 77.0, "orphan": 1.0})
    assert points_of(config.out)["orphan"] == {23: 1.0}
    next_second()
    run(dataclasses.replace(config, resume=True))
    found = points_of(config.out)
    assert not found.get("orphan")
    assert found["train/loss"].keys() == {10, 20, 30}


def test_a_process_killed_by_the_system_loses_no_point_before_its_checkpoint(configure: Configure) -> None:
    config = configure(*ON, "--trainer.epochs=400")
    process = FORKS.Process(target=run_and_record_all, args=(config,))
    process.start()
    last, deadline = Path(config.out) / LAST, time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.3)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it was over before it was killed"
    step = RunFolder(config.out).load(LAST).facts["training"]["step"]
    drawn = points_of(config.out)["train/loss"]
    assert set(range(1, step + 1)) <= set(drawn)


def run_and_record_all(config: Config) -> None:
    trainer_module.RECORD_EVERY = 1
    run(config)


def test_points_are_flushed_before_the_next_checkpoint(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    save, flush = RunFolder.save, Curves.flush

    def noted_save(folder: RunFolder, name: str, *args: Any) -> None:
        done.append(name)
        save(folder, name, *args)

    def noted_flush(curves: Curves) -> None:
        flush(curves)
        done.append("flush")

    monkeypatch.setattr(RunFolder, "save", noted_save)
    monkeypatch.setattr(Curves, "flush", noted_flush)
    run(configure(*ON))
    places = [i for i, what in enumerate(done) if what == LAST]
    assert len(places) == 36 / 4
    assert all(done[i - 1] == "flush" for i in places)


def test_resuming_a_finished_run_adds_no_points(configure: Configure) -> None:
    config = configure(*ON, "--trainer.epochs=1")
    run(config)
    before = sorted((Path(config.out) / "tensorboard").iterdir())
    run(dataclasses.replace(config, resume=True))
    assert sorted((Path(config.out) / "tensorboard").iterdir()) == before


def test_curves_can_be_toggled_when_resuming(configure: Configure) -> None:
    off, on = configure("--trainer.checkpoint_every=4"), configure(*ON, "--resume=true")
    run_until_step(off, 21)
    run_until_step(on, 31)
    assert points_of(on.out)["train/loss"].keys() == {30}
    assert len(events_of(on.out).Tensors("settings/text_summary")) == 1
    run(dataclasses.replace(off, resume=True))
    assert (Path(off.out) / "metrics.json").exists()
    assert points_of(on.out)["validation/loss"].keys() == {24}


def test_overwriting_a_run_removes_its_curves(configure: Configure) -> None:
    config = configure(*ON, "--trainer.epochs=1")
    run(config)
    run(dataclasses.replace(config, overwrite=True))
    assert len(list((Path(config.out) / "tensorboard").iterdir())) == 1
    run(configure("--overwrite=true", "--trainer.epochs=1"))
    assert not (Path(config.out) / "tensorboard").exists()


def test_an_unrelated_tensorboard_folder_is_not_removed(configure: Configure) -> None:
    theirs = Path(configure().out) / "tensorboard" / "events.out.tfevents.1"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    with pytest.raises(RunError):
        run(configure(*ON, "--overwrite=true"))
    assert theirs.read_text() == "theirs"


def test_two_processes_log_one_curve_of_the_global_batch(configure: Configure, tmp_path: Path) -> None:
    plain = ["--model.dropout=0", "--model.embedding_dropout=0", "--model.word_dropout=0"]
    alone = configure(*ON, *plain, f"--out={tmp_path / 'alone'}")
    run(alone)
    config = configure(*ON, *plain)
    settings = tmp_path / "settings.yaml"
    settings.write_text(config_yaml(config))
    job = start_job(train.__file__, "--config", str(settings), folder=tmp_path)
    assert job.wait(120) == 0, job.stderr
    assert len(list((Path(config.out) / "tensorboard").iterdir())) == 1
    found, expected = points_of(config.out), points_of(alone.out)
    assert found.keys() == expected.keys()
    for name in PER_STEP:
        assert found[name] == pytest.approx(expected[name], rel=0.02), name


def test_a_missing_package_is_reported_first(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [n for n in sys.modules if n.startswith(("torch.utils.tensorboard", "tensorboard"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr(experiment, "prepare", None)  # reading data would be an error
    config = configure(*ON)
    with pytest.raises(MissingExtraError, match=r"lstm_sentiment\[tensorboard\]"):
        run(config)
    assert not Path(config.out).exists()
    monkeypatch.setattr(sys, "argv", ["train", f"--out={config.out}", "--trainer.tensorboard=true"])
    with pytest.raises(SystemExit) as left:
        run_command(train.main)
    assert left.value.code == 2
    assert capsys.readouterr().err == "error: needs tensorboard: pip install 'lstm_sentiment[tensorboard]'\n"


def test_the_setting_is_off_by_default_and_shown_by_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert not Config().trainer.tensorboard
    with pytest.raises(SystemExit):
        parse_config(["--help"], program="test", description="")
    assert "--trainer.tensorboard" in capsys.readouterr().out


def test_the_training_loop_does_not_import_tensorboard() -> None:
    source = Path(trainer_module.__file__).read_text("utf-8").lower()
    assert "tensorboard" not in source
    assert "summarywriter" not in source
