"""The clients of MLflow and Weights & Biases behind one interface (see `trackers`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lstm_sentiment.system.extras import need
from lstm_sentiment.tracking import mlflow_model
from lstm_sentiment.tracking.trackers import FINISHED, PROJECT, Point, Tracker
from lstm_sentiment.version import __version__

MODEL = "model"  # the artifact
AT_ONCE = 100  # settings or values per request, as MLflow limits them


class MlflowTracker(Tracker):
    """A run in MLflow, at ``MLFLOW_TRACKING_URI``, in the experiment ``MLFLOW_EXPERIMENT_NAME``.

    Raises:
        MissingExtraError: MLflow is not installed.

    Example::

        tracker = MlflowTracker()
    """

    name = "mlflow"

    def __init__(self) -> None:
        self._mlflow = need("mlflow", extra="mlflow")
        need("sqlalchemy", extra="mlflow")
        self._run, self._sent = "", -1

    def open(self, run: str | None, name: str, settings: Mapping[str, Any]) -> str:
        """Start a run with its settings, or go on with one behind the points that it has."""
        self._client = self._mlflow.MlflowClient()
        if run is not None:
            self._client.update_run(run, status="RUNNING")
            histories = (self._client.get_metric_history(run, f"{of}/loss") for of in ("train", "validation"))
            self._run, self._sent = run, max((of.step for history in histories for of in history), default=-1)
            return run
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        self._run = self._client.create_run(number, run_name=name).info.run_id
        parameters = [self._mlflow.entities.Param(key, str(value)) for key, value in settings.items()]
        for start in range(0, len(parameters), AT_ONCE):
            self._client.log_batch(self._run, params=parameters[start : start + AT_ONCE])
        return self._run

    def log(self, points: Sequence[Point]) -> None:
        """Send the points that the run does not have yet."""
        metric = self._mlflow.entities.Metric
        found = [
            metric(name, value, round(1000 * point.at), point.step)
            for point in points
            if point.step > self._sent
            for name, value in point.values.items()
        ]
        for start in range(0, len(found), AT_ONCE):
            self._client.log_batch(self._run, metrics=found[start : start + AT_ONCE])

    def add_result(self, scores: Mapping[str, float], model: Path) -> None:
        """Send scores, and the model with a pyfunc flavour (see `mlflow_model`)."""
        for name, value in scores.items():
            self._client.log_metric(self._run, name, value)
        if not any(model.iterdir()):
            return
        pyfunc, flavoured = need("mlflow.pyfunc", extra="mlflow"), model.parent / MODEL
        pyfunc.save_model(
            path=str(flavoured),
            loader_module=mlflow_model.__name__,
            data_path=str(model),
            pip_requirements=[f"lstm_sentiment=={__version__}"],
        )
        self._client.log_artifacts(self._run, str(flavoured), MODEL)

    def close(self, status: str) -> None:
        """End the run with a status of MLflow."""
        self._client.set_terminated(self._run, status)


class WandbTracker(Tracker):
    """A run in Weights & Biases, in the project ``WANDB_PROJECT``; ``WANDB_MODE=offline`` writes to disk.

    Raises:
        MissingExtraError: wandb is not installed.

    Example::

        tracker = WandbTracker()
    """

    name = "wandb"

    def __init__(self) -> None:
        self._wandb = need("wandb", extra="wandb")
        self._run: Any = None

    def open(self, run: str | None, name: str, settings: Mapping[str, Any]) -> str:
        """Start a run with its settings, or go on with one."""
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run,
            resume="allow" if run else None,
            name=None if run else name,
            config=dict(settings),
            settings=self._wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
        )
        return str(self._run.id)

    def log(self, points: Sequence[Point]) -> None:
        """Send points; those of steps that the run has already are left out by wandb."""
        for point in points:
            self._run.log(dict(point.values), step=point.step)

    def add_result(self, scores: Mapping[str, float], model: Path) -> None:
        """Send scores as the run's summary, and the model as an artifact."""
        self._run.summary.update(dict(scores))
        if any(model.iterdir()):
            artifact = self._wandb.Artifact(f"{MODEL}-{self._run.id}", type=MODEL)
            artifact.add_dir(str(model))
            self._run.log_artifact(artifact)

    def close(self, status: str) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if status == FINISHED else 1)


TRACKERS: dict[str, type[Tracker]] = {"mlflow": MlflowTracker, "wandb": WandbTracker}
