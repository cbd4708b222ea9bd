"""One training run, from configuration to report."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lstm_sentiment.adaptation.cross_validation import cross_validate, new_trainer
from lstm_sentiment.adaptation.finetuning import begin_from
from lstm_sentiment.adaptation.pretrained import Pretrained, load_pretrained
from lstm_sentiment.adaptation.resolving import Plan, adopted, nothing_set_aside, replaced, resolve, user_keys
from lstm_sentiment.adaptation.start import Start
from lstm_sentiment.checkpoints.run_paths import run_path
from lstm_sentiment.config.schema import METRICS, Config
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.dataset import TextDataset, count_tokens, with_unlabelled
from lstm_sentiment.data.splits import TooFewRowsError
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.data.word_vectors import load_vectors
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.evaluation.metrics import metrics_of
from lstm_sentiment.experiment.console import report_data, report_model, report_scores
from lstm_sentiment.experiment.final_evaluation import assess
from lstm_sentiment.experiment.frozen import finished_before, run_frozen
from lstm_sentiment.experiment.resume import checkpoint_to_resume
from lstm_sentiment.experiment.session import Session
from lstm_sentiment.experiment.teachers import Teachers, load_teachers
from lstm_sentiment.linear.logistic_regression import fit_branch, folds_of
from lstm_sentiment.models.network import (
    Network,
    NgramBranch,
    TfidfBranch,
    WideAndDeep,
    lstm_of,
    new_network,
)
from lstm_sentiment.provenance.held_out_rows import write_held_out_rows
from lstm_sentiment.provenance.known_texts import KnownTexts, known_rows
from lstm_sentiment.provenance.trained_texts import TrainedTexts
from lstm_sentiment.records.checkpoint_facts import RunFacts
from lstm_sentiment.records.data_facts import VectorCoverage
from lstm_sentiment.records.json_values import to_json
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.reporting.report import check_extra, write_report
from lstm_sentiment.system.devices import one_training_at_a_time
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.training.losses import row_weights
from lstm_sentiment.training.protocols import Scalars

log = logging.getLogger(__name__)


@one_training_at_a_time
def run(
    config: Config,
    *,
    cache: Path | None = None,
    given: Collection[str] = (),
    with_test: bool = True,
    scalars: Scalars | None = None,
) -> dict[str, Any]:
    """Train, evaluate and report as configured, into ``config.out``.

    Waits while another thread of this process trains.

    Args:
        config: of the run.
        cache: folder for tokenized text, if it is not the user's.
        given: keys that were set by hand, even to their defaults; where training starts from a classifier,
            all others may be chosen automatically (see `adaptation.resolving`).
        with_test: whether test rows are scored; they are set aside in any case.
        scalars: a sink.

    Returns:
        the content of metrics.json.

    Raises:
        SentimentError: any mistake that a user can fix; the run folder is unchanged unless training began.
    """
    if config.report:
        check_extra()
    session = Session(config, scalars)
    folder, device, processes = session.folder, session.device, session.processes
    config, fixed = adopted(session.restarted(config), user_keys(config, given), folder)
    pretrained = load_pretrained(config)
    with session.open(config) as resuming:
        plan, corpus = _decided(config, fixed, pretrained, processes, cache or cache_folder())
        config, corpus = plan.config, corpus if with_test else dataclasses.replace(corpus, test=None)
        teachers = load_teachers(config, device=str(device))
        supervised, learned = _rows_to_learn(corpus, teachers, processes)
        facts = _facts(session, corpus, plan.start or pretrained, teachers)
        if (frozen := plan.start if config.adapt == "frozen" else None) and resuming:
            session.watch.begun()
            return _finished(session, config, corpus, finished_before(folder, config, corpus, facts))
        checkpoint = checkpoint_to_resume(folder, facts, corpus, config) if resuming else None
        model = initial_model(config, corpus, pretrained, start=plan.start, learned=supervised)
        report_model(model, config, session.machine, processes.world_size)
        if checkpoint is None:
            _begin(session, config, corpus, cache)
        if frozen:
            options: dict[str, Any] = {"device": device, "processes": processes, "facts": facts}
            metrics = run_frozen(folder, config, corpus, model, frozen, **options)
            return _finished(session, config, corpus, metrics)
        if plan.start is not None and checkpoint is None:
            begin_from(model, plan.start, corpus, config, device=device, processes=processes)
        new = functools.partial(initial_model, config, pretrained=pretrained)
        crossed = cross_validate(config, corpus, new, device=device, **session.means)
        kept: Any = {"store": folder, "facts": to_json(facts), "scalars": session.curves, **session.means}
        trainer = new_trainer(config, corpus, learned, model.to(device), crossed=crossed, **kept)
        session.train(trainer, checkpoint)
        metrics = assess(folder, config, corpus, trainer, crossed, start=plan.start)
        return _finished(session, config, corpus, metrics)


def _begin(session: Session, config: Config, corpus: Corpus, cache: Path | None) -> None:
    """Write what does not change while training."""
    session.begin(config, corpus, cache=cache)
    if session.processes.is_main:
        TrainedTexts.of(corpus.train).write(session.folder.path)
        write_held_out_rows(session.folder.path, corpus)


def _facts(
    session: Session, corpus: Corpus, started_from: Start | Pretrained | None, teachers: Teachers | None
) -> RunFacts:
    """Return what the run is recognised by when it is resumed."""
    return session.facts(
        corpus.fingerprint,
        pretrained=started_from.sha256 if started_from else None,
        teacher=teachers.sha256 if teachers else None,
    )


def _decided(
    config: Config,
    fixed: Collection[str],
    pretrained: Pretrained | None,
    processes: Processes,
    cache: Path,
) -> tuple[Plan, Corpus]:
    """Read the rows, decide what the settings leave open, and log both."""
    with processes.main_first():
        plan = read_rows(resolve(config, frozenset(fixed), cache=cache), fixed, pretrained, cache)
        corpus = plan.corpus
    assert corpus is not None
    if plan.start is not None and (known := KnownTexts.read(run_path(plan.start.name))) is not None:
        corpus.facts.known_to_starter = known_rows(known, corpus.splits)
    report_data(corpus, plan.config, plan.why)
    check_metric(plan.config.trainer.metric, corpus.labels)
    return plan, corpus


def _rows_to_learn(
    corpus: Corpus, teachers: Teachers | None, processes: Processes
) -> tuple[TextDataset, TextDataset]:
    """Return the rows with labels or a teacher's predictions; and these with the texts used by VAT alone."""
    if teachers is not None:
        answered = teachers.teach(corpus, processes)
        return answered, answered
    train, unlabelled = corpus.train, corpus.unlabelled
    return train, train if unlabelled is None else with_unlabelled(train, unlabelled)


def _finished(session: Session, config: Config, corpus: Corpus, metrics: RunMetrics) -> dict[str, Any]:
    """Write and log the results of a run, and return the content of metrics.json."""
    known = corpus.facts.known_to_starter
    metrics = dataclasses.replace(metrics, total_s=session.seconds(), known_to_starter=known)
    path = session.folder.path
    if session.processes.is_main:
        session.folder.write(metrics)
        session.tidy(config)
        report_scores(metrics, path)
        if config.report:
            log.info("report: %s", write_report(path, corpus=corpus, device=config.trainer.device))
        if session.trackers:
            session.trackers.finish(tracked_scores(metrics.as_json()))
    return metrics.as_json()


def tracked_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of metrics.json for a tracking tool.

    >>> tracked_scores({"test": {"accuracy": 0.8, "rows": 9}, "validation": None})
    {'score/test/accuracy': 0.8}
    """
    splits = {of: metrics.get(of) or {} for of in ("validation", "test")}
    return {
        f"score/{of}/{name}": found[name] for of, found in splits.items() for name in METRICS if name in found
    }


def check_metric(metric: str, labels: list[str]) -> None:
    """Refuse a metric that is not defined for these classes.

    Raises:
        ConfigError: lists those that are.

    >>> check_metric("accuracy", ["sport", "politics"])
    """
    missing = set(METRICS) - {"loss", *metrics_of(labels)}
    if metric in missing:
        wanted = "in the order of a scale " if metric == "ordinal_error" else ""
        raise ConfigError(
            f"'{metric}' needs classes named negative and positive {wanted}(see data.labels), not "
            f"{', '.join(labels)}; choose among {', '.join(m for m in METRICS if m not in missing)}",
            key="trainer.metric",
        )


def read_rows(plan: Plan, given: Collection[str], pretrained: Pretrained | None, cache: Path) -> Plan:
    """Return a plan with its rows; where they are too few for held-out splits, there are none.

    Args:
        plan: of a run.
        given: keys that were set by hand.
        pretrained: the language model that training starts from, or None.
        cache: folder for tokenised text.

    Raises:
        DataError: rows that cannot be used.

    Example::

        plan = read_rows(plan, user_keys(config, ()), None, cache_folder())
    """
    if plan.corpus is not None:
        return plan
    config = plan.config
    try:
        corpus = _prepare(config, pretrained, cache)
    except TooFewRowsError as error:
        config = replaced(config, nothing_set_aside(config, frozenset(given), error))
        corpus = _prepare(config, pretrained, cache)
    return dataclasses.replace(plan, config=config, corpus=corpus)


def _prepare(config: Config, pretrained: Pretrained | None, cache: Path) -> Corpus:
    known = pretrained.vocabulary if pretrained else None
    return prepare(config.data, config.text, seed=config.seed, cache=cache, vocabulary=known)


def initial_model(
    config: Config,
    corpus: Corpus,
    pretrained: Pretrained | None = None,
    *,
    start: Start | None = None,
    learned: TextDataset | None = None,
    fitted: bool = True,
) -> Network:
    """Return the model that training starts with, on the CPU; note the coverage of vectors in `corpus.facts`.

    Args:
        config: of the run.
        corpus: its rows, in the vocabulary of `pretrained` if that is given.
        pretrained: the language model that `config.pretrained` names (see `pretrained.load_pretrained`).
        start: the classifier that training starts from: its LSTM is copied, and nothing is fitted yet.
        learned: all rows that it will be trained on; None for the training rows.
        fitted: whether to fit a linear branch that is fitted before training.

    Raises:
        SentimentError: vectors that cannot be used.

    Example::

        model = initial_model(config, prepare(config.data, config.text, seed=0, cache=cache_folder()))
    """
    torch.manual_seed(config.seed)
    model = new_network(
        corpus.vocabulary, len(corpus.labels), subwords=config.text.subwords, **asdict(config.model)
    )
    if start is not None:
        start.copy_to(lstm_of(model), corpus.vocabulary)
    elif isinstance(model, WideAndDeep):
        _prepare_ngrams(model.ngrams, config, corpus, learned or corpus.train, fitted=fitted)
    if pretrained is not None:
        pretrained.start(lstm_of(model))
    if config.text.vectors is not None:
        vectors = load_vectors(
            config.text.vectors,
            corpus.vocabulary,
            size=config.model.embedding_size,
            seed=config.seed,
            cache=cache_folder(),
        )
        embedding = lstm_of(model).embedding
        with torch.no_grad():
            embedding.weight.copy_(vectors.weight_VE)
        embedding.weight.requires_grad_(not config.text.freeze_vectors)
        counts = count_tokens(corpus.train.store, corpus.train.rows)
        covered = np.array([token in vectors.known for token in corpus.train.store.tokens])
        coverage = corpus.facts.vectors = VectorCoverage(
            types=len(vectors.known) / max(1, len(corpus.vocabulary) - len(SPECIAL_TOKENS)),
            tokens=float(counts[covered].sum() / max(1, counts.sum())),
        )
        log.info(
            "vectors: %.1f%% of the vocabulary and %.1f%% of training tokens have one",
            100 * coverage.types, 100 * coverage.tokens,
        )  # fmt: skip
    return model


def _prepare_ngrams(
    branch: NgramBranch, config: Config, corpus: Corpus, learned: TextDataset, *, fitted: bool
) -> None:
    """Fit a TF-IDF branch on the training rows, or set the learning rates of a learned branch."""
    if not isinstance(branch, TfidfBranch):
        branch.set_row_rates(learned)
        return
    if not fitted:
        return
    train, classes = corpus.train, len(corpus.labels)
    fit_branch(
        branch,
        train,
        classes=classes,
        row_weights=row_weights(train, classes, balanced=config.trainer.class_weights == "balanced"),
        row_counts=train.counts,
        folds=folds_of(train.labels, texts=train.texts, seed=config.seed, most=3),
    )
