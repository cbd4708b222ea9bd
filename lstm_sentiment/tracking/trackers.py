"""Sends curves, settings, scores and the trained model of a run to MLflow and Weights & Biases.

Their own clients send, to where their own variables say (``MLFLOW_TRACKING_URI``, ``WANDB_MODE``, ...). The
ids of the runs there are in tracking.json, so that a resumed run goes on in them.
"""

from __future__ import annotations

import abc
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from lstm_sentiment.checkpoints.run_folder import TRACKING, RunFolder
from lstm_sentiment.errors import RunError, StoppedError, shown
from lstm_sentiment.prediction.classifier import read_run
from lstm_sentiment.system.files import write_json

PROJECT = "lstm_sentiment"  # unless the clients' own variables name another
FINISHED, FAILED, STOPPED = "FINISHED", "FAILED", "KILLED"  # MLflow's words

log = logging.getLogger(__name__)


class Point(NamedTuple):
    """Values of curves at a step, and when they were measured (seconds since 1970)."""

    step: int
    values: Mapping[str, float]
    at: float


class Tracker(abc.ABC):
    """A run in a tracking tool."""

    name: str

    @abc.abstractmethod
    def open(self, run: str | None, name: str, settings: Mapping[str, Any]) -> str:
        """Start a run, or go on with one, and return its id.

        Args:
            run: id of the run to go on with; None for a new one.
            name: of a new run.
            settings: of the run, by dotted key.
        """

    @abc.abstractmethod
    def log(self, points: Sequence[Point]) -> None:
        """Send points of curves."""

    @abc.abstractmethod
    def add_result(self, scores: Mapping[str, float], model: Path) -> None:
        """Send scores, and a folder that `SentimentClassifier.save_pretrained` wrote."""

    @abc.abstractmethod
    def close(self, status: str) -> None:
        """End the run."""


class Trackers:
    """The runs of one training in all tracking tools; a sink for curves.

    A tool that cannot be reached at the start is an error. Later it is a warning: training goes on without.

    Args:
        trackers: tools.
        folder: of the run.
        settings: of the run, by dotted key, without local paths.

    Example::

        with Trackers([MlflowTracker()], RunFolder("runs/tweets"), settings) as trackers:
            trackers.add(10, {"train/loss": 1.05})
            trackers.finish({"score/test/accuracy": 0.8})
    """

    def __init__(self, trackers: Sequence[Tracker], folder: RunFolder, settings: Mapping[str, Any]) -> None:
        self._trackers, self._folder, self._settings = list(trackers), folder, settings
        self._points: list[Point] = []
        self._status = FINISHED
        self._is_open = False

    def open(self) -> None:
        """Start the runs, or go on with those of tracking.json.

        Raises:
            RunError: a tool cannot be reached; says what to do.
        """
        if self._is_open:
            return
        self._is_open = True
        file = self._folder.path / TRACKING
        known = self._folder.read_json(TRACKING) if file.is_file() else {}
        for tracker in self._trackers:
            run = known.get(tracker.name) if isinstance(known, dict) else None
            try:
                with _quiet():
                    found = tracker.open(run, self._folder.path.absolute().name, self._settings)
            except Exception as error:
                problem = " ".join(str(error).split())
                raise RunError(
                    f"{tracker.name}: no run can be started: {shown(problem, 200)}; set the variables of its "
                    f"client, or leave {tracker.name} out of trainer.log_to"
                ) from None
            known = {**known, tracker.name: found}
            log.info("%s: run %s", tracker.name, found)
        write_json(file, known)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to curves; it is sent by `flush`."""
        self._points.append(Point(step, dict(values), time.time()))

    def flush(self) -> None:
        """Send all points."""
        points, self._points = self._points, []
        if points:
            self._each(lambda tracker: tracker.log(points))

    def finish(self, scores: Mapping[str, float], *, with_model: bool = True) -> None:
        """Send scores, and the model as `save_pretrained` writes it.

        Args:
            scores: by name, such as ``score/test/accuracy``.
            with_model: whether the run is a classifier.
        """
        self.open()
        self.flush()
        with tempfile.TemporaryDirectory(prefix="lstm_sentiment-") as temporary:
            model = Path(temporary) / "run"
            if with_model:
                path = self._folder.path
                read_run(path, device="cpu").save_pretrained(model, name=path.absolute().name)
            else:
                model.mkdir()
            self._each(lambda tracker: tracker.add_result(scores, model))

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                with _quiet():
                    action(tracker)
            except Exception as error:  # any error of a client; training is worth more
                self._trackers.remove(tracker)
                log.warning("%s: training goes on without it: %s", tracker.name, " ".join(str(error).split()))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_open:
            return
        self.flush()
        status = FINISHED if error is None else STOPPED if isinstance(error, StoppedError) else FAILED
        self._each(lambda tracker: tracker.close(status))


class _quiet(warnings.catch_warnings):  # noqa: N801 - a function that is a context
    """Context in which warnings of clients, about their own libraries, are not shown."""

    def __enter__(self) -> Any:
        found = super().__enter__()
        warnings.simplefilter("ignore")
        return found
