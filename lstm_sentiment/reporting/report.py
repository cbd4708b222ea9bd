"""Writes the report of a finished run, one self-contained page ``report.html``."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.checkpoints.run_paths import CARD, STARTER, is_starter, run_path
from lstm_sentiment.checkpoints.untrusted_files import content_of, parsed
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.public import last_part, public_config
from lstm_sentiment.config.schema import METRICS as METRIC_NAMES
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import RunError
from lstm_sentiment.evaluation.against_linear import verdict_of, verdict_sentence
from lstm_sentiment.evaluation.metrics import METRICS, neglected_classes
from lstm_sentiment.evaluation.significance import score_intervals
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.provenance.known_texts import known_rows_sentence
from lstm_sentiment.provenance.rows_of_run import own_rows
from lstm_sentiment.records.checkpoint_facts import BestFacts, merged_classes
from lstm_sentiment.records.data_facts import DataFacts, rows_by_split
from lstm_sentiment.records.json_values import from_json, missing, to_json
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.records.run_reports import REPORTS, read_reports
from lstm_sentiment.reporting import charts
from lstm_sentiment.reporting.error_analysis import gather
from lstm_sentiment.reporting.page import write_page
from lstm_sentiment.system.extras import need

log = logging.getLogger(__name__)

SCORES = [name for name in METRIC_NAMES if name in METRICS]
NAMES = {name: metric.title for name, metric in METRICS.items()} | {
    "lstm alone": "its LSTM alone",
    "ngrams alone": "its n-grams alone",
    "majority": "majority class",
    "tfidf_logistic_regression": "TF-IDF of 1-2-grams, logistic regression",
}


def check_extra() -> None:
    """Raise `MissingExtraError` if the packages for reports are not installed."""
    need("jinja2", extra="report")
    need("matplotlib", extra="report")


def refuse_starter(run: str | Path) -> None:
    """Raise `RunError` for the starter, which has no rows to report on.

    >>> refuse_starter("runs/sentiment")
    """
    if is_starter(run):
        raise RunError(
            f"{STARTER}: has no rows or training log to report on; its model card is "
            f"{run_path(run) / CARD}. Score it on your own rows with evaluate {STARTER} FILE"
        )


def write_report(
    run: str | Path, *, corpus: Corpus | None = None, rows: bool = False, device: str = "auto"
) -> Path:
    """Write ``report.html`` into a run's folder and return its path.

    If the rows of the run are missing or have changed, the report says so.

    Args:
        run: folder of a finished run.
        corpus: its rows, if already loaded.
        rows: read the run's data even if it was not trained on this machine.
        device: to compute on.

    Raises:
        RunError: not a finished run, or the starter, which has no rows.
        CheckpointError: a file is damaged.
        MissingExtraError: Jinja2 or Matplotlib is not installed.

    Example::

        write_report("runs/sentiment")
    """
    refuse_starter(run)
    check_extra()
    folder = RunFolder(run_path(run))
    classifier = load(folder.path, device=device)
    folder.check_scores("; a report needs a finished run")
    contents = {name: folder.read_json(name) for name in REPORTS}
    reports = read_reports(contents, classifier.labels, run=folder.path)
    metrics = reports.metrics
    epochs = epochs_of(folder, metrics.metric)
    why = ""
    if corpus is None:
        corpus, why = rows_of(classifier, folder, trusted=rows)
    evidence = gather(classifier, corpus, seed=classifier.config.seed) if corpus is not None else None
    if evidence is not None and evidence["held_out"] not in reports.data.splits:
        raise missing(folder.path / DataFacts.FILE, f"splits.{evidence['held_out']}")
    if why:
        log.warning("report without individual rows: %s", why)
    write_page(
        folder.path / "report.html",
        "report.html",
        title=f"Report of {folder.path.resolve().name}",
        labels=classifier.labels,
        metrics=metrics,
        systems=_systems(metrics, classifier.labels),
        names=NAMES,
        verdict=metrics.against_linear and verdict_of(metrics.against_linear),
        sentence=metrics.against_linear and verdict_sentence(metrics.against_linear),
        known=known_rows_sentence(metrics.known_to_starter, rows_by_split(reports.data)),
        neglected=neglected_classes(metrics.validation),
        data=reports.data,
        environment=to_json(reports.environment),
        configuration=config_yaml(_shown_config(classifier.config)),
        merged=merged_classes(classifier.labels, folder.load(BEST).facts_as(BestFacts)),
        evidence=evidence,
        why=why,
        **_charts(epochs, metrics, evidence),
    )
    return folder.path / "report.html"


def epochs_of(folder: RunFolder, metric: str) -> list[dict[str, float]]:
    """Return the entries of log.jsonl, one per epoch.

    Args:
        folder: of the run.
        metric: that selected the best epoch.

    Raises:
        CheckpointError: the file is damaged, or a number is missing.

    Example::

        epochs_of(RunFolder("runs/tweets"), "macro_f1")[-1]["train_loss"]
    """
    file = folder.own("log.jsonl")
    epochs = []
    for number, line in enumerate(content_of(file).splitlines(), start=1):
        place = f"{file}:{number}"
        entry = from_json(dict[str, float], parsed(place, line), file=place)
        for name in ("epoch", "train_loss", "validation_loss", f"validation_{metric}"):
            if name not in entry:
                raise missing(place, name, "a number")
        epochs.append(entry)
    return epochs


def rows_of(
    classifier: SentimentClassifier, folder: RunFolder, *, trusted: bool
) -> tuple[Corpus | None, str]:
    """Reload the rows of a run; None and the reason if this fails.

    Args:
        classifier: of the run.
        folder: of the run.
        trusted: read the run's data even if it was not trained on this machine.

    Example::

        corpus, why = rows_of(classifier, RunFolder("runs/tweets"), trusted=False)
    """
    return own_rows(
        folder.path,
        classifier.config,
        folder.load(BEST).facts_as(BestFacts),
        trusted=trusted,
        labels=classifier.labels,
        label_map=classifier.label_map,
        vocabulary=classifier.vocabulary,
        cache=cache_folder(),
    )


def _shown_config(config: Config) -> Config:
    """Return a configuration for the page: of paths the last part, as of the run's folder."""
    return dataclasses.replace(public_config(config), out=last_part(config.out))


def _systems(metrics: RunMetrics, labels: list[str]) -> list[dict[str, Any]]:
    """Return this run, its branches and its baselines with their scores and intervals."""
    return [
        {"name": NAMES.get(name, name), "scores": score_intervals(scores.confusion, labels)}
        for name, scores in metrics.compared().items()
    ]


def _charts(epochs: list[dict[str, float]], metrics: RunMetrics, evidence: Any) -> dict[str, Any]:
    """Return the report's charts, the only unescaped values of the page."""
    mark = need("markupsafe", extra="report").Markup
    pictures = {}
    if epochs:  # none if the LSTM was frozen
        pictures["learning"] = charts.learning_curves(epochs, metrics.metric, metrics.best_epoch)
    if evidence is not None:
        found = evidence["reliability"]
        pictures["reliability"] = charts.reliability(found["before"], found["after"])
        pictures["by_length"] = charts.by_length(evidence["lengths"])
    return {name: mark(svg) for name, svg in pictures.items()}
