"""Runs all diagnostics of a configuration or a run, and names the most likely cause of the findings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lstm_sentiment.adaptation.pretrained import Pretrained, load_pretrained
from lstm_sentiment.adaptation.resolving import resolve, user_keys
from lstm_sentiment.adaptation.start import TAKEN, Start, load_start
from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.checkpoints.run_paths import NO_ROWS
from lstm_sentiment.checkpoints.trusted_runs import refuse_untrusted
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import name_of
from lstm_sentiment.data.corpus import Corpus, refuse_addresses
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.diagnostics.advice import with_results
from lstm_sentiment.diagnostics.alternatives import alternatives
from lstm_sentiment.diagnostics.causes import (
    CROSS_VALIDATED,
    generalises,
    held_out,
    linear_generalises,
    most_likely_cause,
    probe_findings,
    probe_lines,
    run_findings,
)
from lstm_sentiment.diagnostics.data_checks import data_lines, examine_data
from lstm_sentiment.diagnostics.findings import (
    ERROR,
    NOTE,
    WARNING,
    Finding,
    finding_lines,
    plain,
    worst_first,
)
from lstm_sentiment.diagnostics.invariance import check_invariance, invariance_findings, invariance_lines
from lstm_sentiment.diagnostics.sanity_checks import Probes, predicted_classes
from lstm_sentiment.diagnostics.short_trainings import try_alternatives, with_validation
from lstm_sentiment.diagnostics.unused_settings import unused_settings
from lstm_sentiment.errors import CheckpointError, ConfigError, DataError, RunError
from lstm_sentiment.experiment.train import check_metric, initial_model, read_rows
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.provenance.rows_of_run import rows_of_run
from lstm_sentiment.records.checkpoint_facts import BestFacts
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.reporting.report import epochs_of
from lstm_sentiment.system.devices import pick_device, set_up_cpu

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Result of the diagnostics.

    Args:
        findings: worst first.
        cause: most likely cause of the probes' findings; None if there are none.
        facts: `data`, `probes`, `invariance` and `alternatives`, the numbers behind the findings.
        lines: the facts as text.
        advice: which other settings were tried, and what helps, as text; empty if none were tried.
    """

    findings: list[Finding]
    cause: Finding | None
    facts: dict[str, Any]
    lines: list[str]
    advice: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether there is no finding of severity ``error``."""
        return all(finding.severity != ERROR for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the diagnosis as values for strict JSON."""
        return {
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "cause": dataclasses.asdict(self.cause) if self.cause else None,
            **plain(self.facts),
        }

    def report(self) -> list[str]:
        """Format the diagnosis as lines of text."""
        lines = [*self.lines, "", *(finding_lines(self.findings) or ["nothing found"])]
        if self.cause is not None:
            lines += ["", f"most likely cause: {self.cause.what}", f"  {self.cause.why} [{self.cause.key}]"]
        return [*lines, "", *self.advice] if self.advice else lines


def diagnose(config: Config, *, given: Collection[str] = ()) -> Diagnosis:
    """Diagnose a configuration before training: data, settings, short trainings, an untrained model.

    Args:
        config: as for `train.run`.
        given: as for `train.run`.

    Raises:
        SentimentError: data or settings with which training could not start.

    Example::

        diagnosis = diagnose(Config(data=DataConfig(train="reviews.csv")))
    """
    set_up_cpu(config.trainer.threads)
    pretrained = load_pretrained(config)
    fixed = user_keys(config, given)
    plan = read_rows(resolve(config, fixed, cache=cache_folder()), fixed, pretrained, cache_folder())
    config, corpus = plan.config, plan.corpus
    assert corpus is not None
    check_metric(config.trainer.metric, corpus.labels)
    findings = run_findings(config, corpus)
    return _diagnose(config, corpus, None, findings, pretrained, plan.start, given=fixed)


def diagnose_run(run: str | Path, *, rows: bool = False, minutes: float = 0.0) -> Diagnosis:
    """Diagnose a trained run: like `diagnose`, plus the trained model's predictions on this machine.

    If its data cannot be read, only the model is examined, and a finding says so.

    Args:
        run: its folder.
        rows: read the run's data even if it was not trained on this machine.
        minutes: time for trying other settings (see `short_trainings`); 0 tries none.

    Raises:
        SentimentError: not a run, or a damaged one.

    Example::

        diagnose_run("runs/tweets").sound
    """
    classifier = load(run)
    path = classifier.run
    assert path is not None, "loaded from a folder"
    trainer = dataclasses.replace(classifier.config.trainer, device="auto", precision="auto")
    config = dataclasses.replace(classifier.config, trainer=trainer)
    set_up_cpu(trainer.threads)
    if config.data.train == NO_ROWS:
        packed = Finding(
            severity=NOTE,
            what="the run is packed, without its rows",
            why="data and training were not examined, only the model's predictions on this machine",
            key=None,
        )
        return _diagnose(config, None, classifier, [packed])
    try:
        refuse_addresses(config.data)
        if not rows:
            refuse_untrusted(path, name_of(config.data.train), "--rows")
        facts = RunFolder(path).load(BEST).facts_as(BestFacts)
        corpus = rows_of_run(
            config,
            facts,
            labels=classifier.labels,
            label_map=classifier.label_map,
            vocabulary=classifier.vocabulary,
            cache=cache_folder(),
        )
    except DataError as error:
        unread = Finding(
            severity=WARNING,
            what=f"the run's data cannot be read: {error}",
            why="data and training were not examined, only the model's predictions on this machine",
            key="data.train",
        )
        return _diagnose(config, None, classifier, [unread])
    metrics, epochs = _results(RunFolder(path))
    begun, lost = _start_of(config)
    findings = [*_changed(facts, corpus), *lost, *run_findings(config, corpus, metrics, epochs)]
    diagnosis = _diagnose(config, corpus, classifier, findings, metrics=metrics, **begun)
    if not minutes:
        return diagnosis
    return _with_advice(diagnosis, config, corpus, metrics, epochs, minutes=minutes)


def _start_of(config: Config) -> tuple[dict[str, Any], list[Finding]]:
    """Return what a run began with, so that probes do too; a finding if it can no longer be read."""
    if config.pretrained is None or config.adapt == "frozen":  # the latter takes no steps
        return {}, []
    try:
        pretrained = load_pretrained(config)
        start = None if pretrained is not None else load_start(config.pretrained)
        if start is not None:
            start.applied(config, TAKEN)
    except (CheckpointError, ConfigError, RunError) as error:
        lost = Finding(
            severity=NOTE,
            what=f"what the run began with cannot be read: {getattr(error, 'message', error)}",
            why="the short trainings begin with random weights instead, so their losses are not the run's",
            key="pretrained",
        )
        return {}, [lost]
    return {"pretrained": pretrained, "start": start}, []


def _changed(facts: BestFacts, corpus: Corpus) -> list[Finding]:
    """Return a finding if a run was trained on other rows than these."""
    if corpus.is_of(facts):
        return []
    return [
        Finding(
            severity=WARNING,
            what="the rows, labels or vocabulary are not those the run was trained on",
            why="the data have changed, or this version reads them differently; the following is about "
            "the current data",
            key="data.train",
        )
    ]


def _results(folder: RunFolder) -> tuple[RunMetrics | None, list[dict[str, float]]]:
    """Return the metrics and the log of a run; None and an empty one of an unfinished run."""
    if not (folder.path / RunMetrics.FILE).is_file():
        return None, []
    metrics = folder.read(RunMetrics)
    return metrics, epochs_of(folder, metrics.metric) if metrics.epochs else []


def _with_advice(
    diagnosis: Diagnosis,
    config: Config,
    corpus: Corpus,
    metrics: RunMetrics | None,
    epochs: list[dict[str, float]],
    *,
    minutes: float,
) -> Diagnosis:
    """Try other settings, and return the diagnosis with what helps."""
    if config.teacher is not None or corpus.unlabelled is not None:
        lines = ["other settings are not tried: the run learned from unlabelled texts"]
        return dataclasses.replace(diagnosis, advice=lines)
    log.info("trying other settings for up to %g min ...", minutes)
    found = alternatives(config, corpus, metrics=metrics, epochs=epochs)
    advice = try_alternatives(config, corpus, found, minutes=minutes, metrics=metrics)
    facts = {**diagnosis.facts, "alternatives": advice.as_json()}
    findings = with_results(diagnosis.findings, advice)
    return dataclasses.replace(diagnosis, findings=findings, facts=facts, advice=advice.lines())


def _diagnose(
    config: Config,
    corpus: Corpus | None,
    classifier: SentimentClassifier | None,
    findings: list[Finding],
    pretrained: Pretrained | None = None,
    start: Start | None = None,
    given: Collection[str] | None = None,
    metrics: RunMetrics | None = None,
) -> Diagnosis:
    facts: dict[str, Any] = {}
    lines: list[str] = []
    cause = None
    if corpus is not None:
        log.info("examining the data ...")
        device = pick_device(config.trainer.device)
        model = initial_model(config, corpus, pretrained, start=start, fitted=False)
        facts["data"], found = examine_data(corpus)
        findings = [*findings, *found, *unused_settings(config, corpus, given)]
        fresh = classifier or SentimentClassifier(
            labels=corpus.labels,
            vocabulary=corpus.vocabulary,
            config=config,
            weights=model.state_dict(),
            device=config.trainer.device,
        )
        examined = Probes(model.to(device), with_validation(corpus), config)
        if config.adapt == "frozen":
            probes = facts["probes"] = _probe_frozen(examined, metrics, start)
        else:
            probes = facts["probes"] = _probe(examined)
        if classifier is not None and classifier.labels == corpus.labels:
            probes |= _predictions(classifier, corpus, metrics)
        findings += probe_findings(probes)
        cause = most_likely_cause(
            facts["data"],
            probes,
            trainer=config.trainer,
            subwords=config.text.subwords,
            linear_learns=metrics is not None and linear_generalises(metrics),
        )
        lines += [*data_lines(facts["data"]), "", *probe_lines(probes), ""]
        classifier = fresh
    assert classifier is not None
    log.info("comparing predictions of the same texts in other batches ...")
    checks = check_invariance(classifier)
    findings += invariance_findings(checks)
    facts["invariance"] = [dataclasses.asdict(check) for check in checks]
    lines += [
        "largest logit difference of the same texts, compared with each alone:",
        *invariance_lines(checks),
    ]
    return Diagnosis(findings=worst_first(findings), cause=cause, facts=facts, lines=lines)


def _probe(probes: Probes) -> dict[str, Any]:
    found: dict[str, Any] = {"first_loss": probes.first_loss(), "gradient_norms": probes.gradient_norms()}
    log.info("check: can a copy of the model memorise one batch? ...")
    found["overfit"] = probes.overfit()
    log.info(
        "check: short trainings of copies, with true labels and, as a control, with shuffled labels, from "
        "which nothing can be learned ..."
    )
    found["control"] = probes.control()
    return found


def _probe_frozen(probes: Probes, metrics: RunMetrics | None, start: Start | None) -> dict[str, Any]:
    """Return what can be said without training steps, of which frozen training has none."""
    if metrics is not None:
        return {"frozen": generalises(metrics)}
    if start is None:
        return {}
    log.info("check: head and linear model, fitted around the frozen LSTM ...")
    return {"frozen": probes.frozen(start)}


def _predictions(
    classifier: SentimentClassifier, corpus: Corpus, metrics: RunMetrics | None
) -> dict[str, Any]:
    """Return the number of held-out rows that a run predicts as each class, and their true classes.

    Without validation rows these are out-of-fold predictions: the model has learned its training rows.
    """
    if not corpus.cross_validated:
        read = classifier.reencoded(corpus.validation)
        truth_C = np.bincount(corpus.validation.labels, minlength=len(corpus.labels))
        return {
            "held_out": "validation rows",
            "predicted": predicted_classes(classifier.model, read, classifier.labels),
            "validation": dict(zip(corpus.labels, truth_C.tolist(), strict=True)),
        }
    if metrics is None or metrics.labels != classifier.labels or held_out(metrics) != CROSS_VALIDATED:
        return {"held_out": CROSS_VALIDATED}
    confusion_CC = np.array(metrics.validation.confusion)
    return {
        "held_out": CROSS_VALIDATED,
        "predicted": dict(zip(metrics.labels, confusion_CC.sum(axis=0).tolist(), strict=True)),
        "validation": dict(zip(metrics.labels, confusion_CC.sum(axis=1).tolist(), strict=True)),
    }
