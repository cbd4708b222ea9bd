"""What the JSON files of a finished run say about it: results, data, environment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.records.data_facts import DataFacts
from lstm_sentiment.records.environment import Environment
from lstm_sentiment.records.json_values import TRAIN_AGAIN, from_json
from lstm_sentiment.records.run_metrics import RunMetrics

REPORTS = (RunMetrics.FILE, DataFacts.FILE, Environment.FILE)


@dataclass(frozen=True, kw_only=True)
class RunReports:
    """Results, data and environment of a finished run.

    Args:
        metrics: the content of metrics.json.
        data: the content of data.json.
        environment: the content of environment.json.
    """

    metrics: RunMetrics
    data: DataFacts
    environment: Environment


def read_reports(contents: dict[str, Any], labels: Sequence[str], *, run: Path) -> RunReports:
    """Return the reports of a run with these classes.

    Args:
        contents: file name -> parsed content, for each of `REPORTS`.
        labels: class names, in their order.
        run: its folder, for messages.

    Raises:
        CheckpointError: a file is malformed, or has other classes; names file and field.

    Example::

        folder = RunFolder("runs/tweets")
        contents = {name: folder.read_json(name) for name in REPORTS}
        reports = read_reports(contents, classifier.labels, run=folder.path)
    """
    metrics = from_json(RunMetrics, contents[RunMetrics.FILE], file=run / RunMetrics.FILE)
    data = from_json(DataFacts, contents[DataFacts.FILE], file=run / DataFacts.FILE)
    environment = from_json(Environment, contents[Environment.FILE], file=run / Environment.FILE)
    of_classes = {f"{run / RunMetrics.FILE}: validation.per_class": metrics.labels}
    of_classes |= {
        f"{run / DataFacts.FILE}: splits.{name}.classes": list(split.classes)
        for name, split in data.splits.items()
    }
    for place, found in of_classes.items():
        if found != list(labels):
            raise CheckpointError(f"{place} must be the classes of labels.json, in order; {TRAIN_AGAIN}")
    return RunReports(metrics=metrics, data=data, environment=environment)
