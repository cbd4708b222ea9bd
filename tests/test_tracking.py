"""Tracking tools get curves, settings, scores and the model; training never depends on them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import killed_at_save

from lstm_sentiment import train
from lstm_sentiment.checkpoints.run_folder import TRACKING, RunFolder
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.config.schema import Config, TrainerConfig
from lstm_sentiment.errors import ConfigError, MissingExtraError, RunError
from lstm_sentiment.experiment.train import run
from lstm_sentiment.prediction.classifier import load
from lstm_sentiment.tracking.clients import TRACKERS, MlflowTracker
from lstm_sentiment.tracking.mlflow_model import ServedModel
from lstm_sentiment.tracking.trackers import FAILED, FINISHED, STOPPED, Tracker, Trackers

Configure = Callable[..., Config]
TO_MLFLOW = ("--trainer.log_to=mlflow", "--trainer.checkpoint_every=4")
TEXTS = ["the food was great", "an awful place", ""]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a local MLflow store: a SQLite file, and a folder for artifacts."""
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="the extra mlflow is not installed")
    folder = tmp_path_factory.mktemp("mlflow")
    before = Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client's own libraries
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient()
        client.create_experiment("lstm_sentiment", artifact_location=(folder / "artifacts").as_uri())
        yield client
        mlflow.set_tracking_uri(None)
    os.chdir(before)


def run_of(store: Any, folder: str | Path) -> Any:
    """Return the MLflow run that a run folder names."""
    return store.get_run(json.loads((Path(folder) / TRACKING).read_text())["mlflow"])


def curve_of(store: Any, found: Any, name: str) -> list[tuple[int, float]]:
    return [(of.step, of.value) for of in store.get_metric_history(found.info.run_id, name)]


@pytest.fixture(scope="module")
def tracked(store: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that was killed between two checkpoints and resumed, and its metrics."""
    from conftest import TINY, make_rows, write_csv

    folder = tmp_path_factory.mktemp("tracked")
    data = write_csv(folder / "secret-place.csv", make_rows(200))
    argv = [f"--data.train={data}", f"--out={folder / 'run'}", *TINY, *TO_MLFLOW, "--pretrained=null"]
    config = parse_config([*argv, "--baseline=false"], program="test", description="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        with killed_at_save("last", 5):
            run(config)
        first = run_of(store, config.out)
        assert first.info.status == "FAILED"
        metrics = run(dataclasses.replace(config, resume=True))
        assert run_of(store, config.out).info.run_id == first.info.run_id, "the same run goes on"
    return Path(config.out), metrics


def test_mlflow_gets_each_point_once_also_after_a_kill(store: Any, tracked: tuple[Path, Any]) -> None:
    folder, _ = tracked
    found = run_of(store, folder)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == folder.name
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    expected = [(of["step"], of["validation_accuracy"]) for of in entries]
    assert curve_of(store, found, "validation/accuracy") == expected
    steps = [step for step, _ in curve_of(store, found, "train/loss")]
    assert steps == list(range(10, entries[-1]["step"] + 1, 10))
    assert len(steps) >= 2


def test_mlflow_gets_settings_and_scores(store: Any, tracked: tuple[Path, Any]) -> None:
    folder, metrics = tracked
    data = run_of(store, folder).data
    assert data.params["model.hidden_size"] == "16"
    assert data.params["data.train"] == "secret-place.csv", "without the folder"
    assert data.metrics["score/test/accuracy"] == metrics["test"]["accuracy"]
    assert data.metrics["score/validation/loss"] == metrics["validation"]["loss"]


def test_the_model_opens_in_mlflow_without_pickle(store: Any, tracked: tuple[Path, Any]) -> None:
    folder, _ = tracked
    found, expected = run_of(store, folder), load(folder, device="cpu").predict_proba(TEXTS)
    artifacts = Path(found.info.artifact_uri.removeprefix("file://")) / "model"
    names = {path.suffix for path in artifacts.rglob("*") if path.is_file()}
    assert names <= {".json", ".yaml", ".safetensors", ".md", ".txt", ""}, names
    assert str(folder.parent) not in "".join(
        path.read_text("utf-8", "replace") for path in artifacts.rglob("*.yaml")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        opened = mlflow.pyfunc.load_model(f"runs:/{found.info.run_id}/model")
        rows = opened.predict(pd.DataFrame({"id": [1, 2, 3], "text": TEXTS}))
    labels = load(folder, device="cpu").labels
    assert (rows[[f"probability_{label}" for label in labels]].to_numpy() == expected).all()
    assert rows["label"].tolist() == [labels[i] for i in expected.argmax(axis=1)]


def test_the_blocks_of_the_guide_run(
    store: Any, tracked: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first block's command is that of the fixture; the second one opens its run."""
    guide = Path(__file__).parent.parent / "docs" / "guides" / "tracking.md"
    block = r"<!-- not run: tests/test_tracking.py .*? -->\n```\w+\n(.*?)```"
    shell, code = re.findall(block, guide.read_text("utf-8"), re.DOTALL)
    uri, command = shell.splitlines()[1:]
    assert uri == "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
    assert command.split()[:2] == ["lstm-sentiment", "train"]
    config = parse_config(command.split()[2:], program="test", description="")
    assert config.trainer.sinks == ("mlflow",)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code.replace("RUN_ID", run_of(store, tracked[0]).info.run_id), {})
    shown = capsys.readouterr().out
    assert {"label", "score", "probability_positive"} <= set(shown.splitlines()[0].split())


def test_the_served_model_takes_lists_and_options(trained_run: Path) -> None:
    served = ServedModel(load(trained_run, device="cpu"))
    assert served.predict(TEXTS, {"abstain_below": 1.0})["label"].isna().all()
    assert len(served.predict(pd.Series(TEXTS))) == len(TEXTS)


class Recorder(Tracker):
    """Keeps what it gets; `broken` names a method that fails."""

    name = "recorder"

    def __init__(self, broken: str = "") -> None:
        self.calls: list[str] = []
        self.points: dict[int, Any] = {}
        self.status, self.broken = "", broken

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.broken:
            raise OSError("the server is gone")

    def open(self, run: str | None, name: str, settings: Any) -> str:
        self._call("open")
        return run or "7"

    def log(self, points: Any) -> None:
        self._call("log")
        self.points |= {point.step: point.values for point in points}

    def add_result(self, scores: Any, model: Path) -> None:
        self._call("add_result")
        self.scores, self.files = dict(scores), {path.name for path in model.iterdir()}

    def close(self, status: str) -> None:
        self._call("close")
        self.status = status


def recorded(config: Config, monkeypatch: pytest.MonkeyPatch, broken: str = "") -> tuple[Recorder, Any]:
    """Train with a tracker in place of MLflow."""
    recorder = Recorder(broken)
    monkeypatch.setitem(TRACKERS, "mlflow", lambda: recorder)
    return recorder, run(config)


def test_tracking_changes_nothing_else(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = run(configure(f"--out={tmp_path / 'plain'}"))
    recorder, metrics = recorded(configure(*TO_MLFLOW), monkeypatch)
    assert metrics["test"] == plain["test"]
    assert recorder.status == FINISHED
    assert {"best", "config.yaml", "README.md"} <= recorder.files
    assert not (tmp_path / "plain" / TRACKING).exists()


def test_a_frozen_run_is_tracked_too(
    monkeypatch: pytest.MonkeyPatch, reviews: Path, trained_run: Path
) -> None:
    argv = [f"--data.train={reviews}", f"--out={reviews.parent / 'frozen'}", "--baseline=false", TO_MLFLOW[0]]
    argv += [f"--pretrained={trained_run}", "--data.max_rows=40"]
    config = parse_config(argv, program="test", description="")
    recorder, metrics = recorded(config, monkeypatch)
    assert recorder.calls == ["open", "add_result", "close"]
    assert recorder.scores["score/validation/accuracy"] == metrics["validation"]["accuracy"]


@pytest.mark.parametrize("broken", ["log", "add_result", "close"])
def test_a_server_that_is_gone_does_not_stop_training(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    recorder, metrics = recorded(configure(*TO_MLFLOW, "--trainer.epochs=2"), monkeypatch, broken)
    assert metrics["test"]["rows"] > 0
    assert "recorder: training goes on without it: the server is gone" in caplog.text
    assert recorder.calls.count(broken) == 1


def test_a_server_that_cannot_be_reached_at_the_start_is_an_error(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(*TO_MLFLOW)
    with pytest.raises(RunError, match=r"no run can be started: 'the server is gone'.*leave recorder out of"):
        recorded(config, monkeypatch, "open")


@pytest.mark.parametrize(
    ("error", "status"), [(None, FINISHED), (KeyError("x"), FAILED), ("stopped", STOPPED)]
)
def test_the_status_is_that_of_the_run(tmp_path: Path, error: Any, status: str) -> None:
    from lstm_sentiment.errors import StoppedError

    recorder = Recorder()
    raised = StoppedError(15, "stopped by SIGTERM") if error == "stopped" else error
    try:
        with Trackers([recorder], RunFolder(tmp_path), {}) as trackers:
            trackers.open()
            if raised:
                raise raised
    except (KeyError, StoppedError):
        pass
    assert recorder.status == status


def test_log_to_names_known_tools() -> None:
    assert TrainerConfig(log_to=["wandb", "tensorboard"]).sinks == ("tensorboard", "wandb")
    assert TrainerConfig(log_to="mlflow", tensorboard=True).sinks == ("tensorboard", "mlflow")
    with pytest.raises(
        ConfigError, match=r"trainer\.log_to: 'neptune' is not one of tensorboard, mlflow, wandb"
    ):
        TrainerConfig(log_to="neptune")


def test_log_to_tensorboard_writes_its_curves(configure: Configure) -> None:
    config = configure("--trainer.log_to=tensorboard", "--trainer.epochs=1")
    run(config)
    assert len(list((Path(config.out) / "tensorboard").iterdir())) == 1
    assert not (Path(config.out) / TRACKING).exists()


@pytest.mark.parametrize("name", TRACKERS)
def test_a_missing_extra_is_named(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    config = configure()
    with pytest.raises(MissingExtraError):
        TRACKERS[name]()
    monkeypatch.setattr(sys, "argv", ["train", f"--out={config.out}", f"--trainer.log_to={name}"])
    with pytest.raises(SystemExit) as exit_code:
        run_command(train.main)
    assert exit_code.value.code == 2
    assert capsys.readouterr().err == f"error: needs {name}: pip install 'lstm_sentiment[{name}]'\n"
    assert not Path(config.out).exists()


def test_wandb_gets_a_run_offline(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    for variable, value in {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_SILENT": "true",
    }.items():
        monkeypatch.setenv(variable, value)
    config = configure("--trainer.log_to=wandb", "--trainer.epochs=1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(config)
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    assert json.loads((Path(config.out) / TRACKING).read_text())["wandb"] in folder.name
    content = next(folder.glob("*.wandb")).read_bytes()
    for expected in (
        b"validation/accuracy",
        b"model.hidden_size",
        b"score/test/accuracy",
        b"model.safetensors",
    ):
        assert expected in content, expected


def test_mlflow_is_the_only_one_whose_points_are_read_back(store: Any, tmp_path: Path) -> None:
    """A run that goes on leaves out the points that it sent before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Trackers([MlflowTracker()], RunFolder(tmp_path), {"a": 1}) as trackers:
            trackers.open()
            trackers.add(10, {"train/loss": 1.0})
            trackers.add(20, {"train/loss": 0.5})
        with Trackers([MlflowTracker()], RunFolder(tmp_path), {"a": 1}) as trackers:
            trackers.open()
            trackers.add(20, {"train/loss": 0.5})
            trackers.add(30, {"train/loss": 0.3})
    assert curve_of(store, run_of(store, tmp_path), "train/loss") == [(10, 1.0), (20, 0.5), (30, 0.3)]
