"""What a page says of the run it is about: name, date of training and score."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.evaluation.metrics import METRICS
from lstm_sentiment.evaluation.significance import score_intervals
from lstm_sentiment.records.run_metrics import RunMetrics


@dataclass(frozen=True, kw_only=True)
class HeldOutScore:
    """The score of a run on rows that it was not trained on.

    Args:
        split: test or validation.
        rows: of the split.
        metric: title of the metric that chose the best epoch.
        value: of the score.
        low: lower end of its 95 % interval.
        high: upper end.
        known: rows of the split that the starter was trained on, if training began with it.
    """

    split: str
    rows: int
    metric: str
    value: float
    low: float
    high: float
    known: int = 0


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Facts of a run for the head of a page.

    Args:
        name: of its folder.
        finished: day on which its training ended, None if it is not recorded.
        score: None if the run has none, such as a packed model.
    """

    name: str
    finished: datetime.date | None
    score: HeldOutScore | None


def facts_of(run: Path, labels: list[str], *, name: str = "") -> RunFacts:
    """Return the facts of a run.

    Args:
        run: its folder.
        labels: its class names.
        name: of the run; the folder's if empty.

    Raises:
        CheckpointError: status.json or metrics.json is malformed.

    Example::

        facts_of(Path("runs/sentiment"), classifier.labels).score
    """
    return RunFacts(
        name=name or run.resolve().name,
        finished=_finished(RunFolder(run)),
        score=_score(RunFolder(run), labels),
    )


def _finished(folder: RunFolder) -> datetime.date | None:
    if not (folder.path / "status.json").is_file():
        return None
    try:
        return datetime.datetime.fromisoformat(folder.read_json("status.json")["time"]).date()
    except (LookupError, TypeError, ValueError):
        raise CheckpointError(f"{folder.path / 'status.json'}: has no time; remove the file") from None


def _score(folder: RunFolder, labels: list[str]) -> HeldOutScore | None:
    if not (folder.path / RunMetrics.FILE).is_file():
        return None
    metrics = folder.read(RunMetrics)
    if list(labels) != metrics.labels:
        raise CheckpointError(
            f"{folder.path / RunMetrics.FILE}: has other classes than the run; restore it from a copy"
        )
    found = score_intervals(metrics.held_out.confusion, labels)
    metric = metrics.metric if metrics.metric in found else "macro_f1"
    known = metrics.known_to_starter or {}
    return HeldOutScore(
        split=metrics.split,
        rows=metrics.held_out.rows,
        metric=METRICS[metric].title,
        known=known.get(metrics.split, known.get("train", 0)),  # cross-validated rows are the training rows
        **found[metric],
    )
