"""One training run of a language model, from configuration to perplexity."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import TrainingError
from lstm_sentiment.experiment.resume import checkpoint_to_resume
from lstm_sentiment.experiment.session import Session
from lstm_sentiment.pretraining.config import PretrainConfig
from lstm_sentiment.pretraining.language_model import new_language_model
from lstm_sentiment.pretraining.next_token import DIRECTIONS, NextToken
from lstm_sentiment.pretraining.windows import Texts, read_texts
from lstm_sentiment.records.checkpoint_facts import LanguageFacts, RunFacts
from lstm_sentiment.records.json_values import to_json
from lstm_sentiment.records.run_metrics import LanguageMetrics
from lstm_sentiment.system.devices import one_training_at_a_time
from lstm_sentiment.training.trainer import Trainer

log = logging.getLogger(__name__)


@one_training_at_a_time
def pretrain(config: PretrainConfig, *, cache: Path | None = None) -> dict[str, Any]:
    """Train a language model as configured, into ``config.out``.

    Args:
        config: of the run.
        cache: folder for tokenized text, if it is not the user's.

    Returns:
        the content of metrics.json: `validation` (see `NextToken.score`) and facts of the training.

    Raises:
        SentimentError: any mistake that a user can fix; the run folder is unchanged unless training began.

    Example::

        pretrain(PretrainConfig(data=PretrainDataConfig(train=["train.csv", "unlabelled.csv"])))
    """
    session = Session(config)
    folder, processes = session.folder, session.processes
    config = session.restarted(config)
    with session.open(config) as resuming:
        with processes.main_first():
            texts = read_texts(config.data, config.text, seed=config.seed, cache=cache or cache_folder())
        _report_texts(texts)
        facts = session.facts(texts.fingerprint)
        checkpoint = checkpoint_to_resume(folder, facts, texts) if resuming else None
        if checkpoint is None:
            session.begin(config, texts, cache=cache)
        trainer = _new_trainer(config, texts, session, facts)
        log.info(
            "%s, %s, threads: %d, processes: %d",
            session.device, session.precision, session.threads, processes.world_size,
        )  # fmt: skip
        session.train(trainer, checkpoint)
        processes.barrier()
        metrics = _measured(folder, trainer, total_s=session.seconds())
        if session.trackers:
            perplexity = {"score/validation/perplexity": metrics.validation.perplexity}
            session.trackers.finish(perplexity, with_model=False)
        if processes.is_main:
            folder.write(metrics)
            session.tidy(config)
            _report(metrics, folder.path)
        return metrics.as_json()


def _new_trainer(config: PretrainConfig, texts: Texts, session: Session, facts: RunFacts) -> Trainer:
    torch.manual_seed(config.seed)
    counts_V = torch.from_numpy(texts.counts_V)
    model = new_language_model(
        texts.vocabulary, counts_V, subwords=config.text.subwords, **asdict(config.model)
    ).to(session.device)
    log.info("model: %s parameters", f"{sum(p.numel() for p in model.parameters()):,}")
    task = NextToken(
        texts.validation,
        counts_V,
        directions=2 if config.model.bidirectional else 1,
        device=session.device,
        batch_size=config.trainer.batch_size,
        processes=session.processes,
    )
    return Trainer(
        model,
        texts.train,
        task,
        config=config.trainer,
        seed=config.seed,
        device=session.device,
        store=session.folder,
        facts=to_json(facts),
        scalars=session.curves,
        **session.means,
    )


def _measured(folder: RunFolder, trainer: Trainer, *, total_s: float) -> LanguageMetrics:
    if not folder.has(BEST):
        raise TrainingError(
            "no epoch had a finite validation loss; lower trainer.learning_rate or set trainer.precision fp32"
        )
    state = trainer.state
    return LanguageMetrics(
        validation=folder.load(BEST).facts_as(LanguageFacts).scores,
        best_epoch=state.best_epoch + 1,
        epochs=state.epoch,
        steps=state.step,
        training_s=round(state.elapsed_s, 1),
        parameters=sum(p.numel() for p in trainer.model.parameters()),
        total_s=total_s,
    )


def _report_texts(texts: Texts) -> None:
    facts = texts.facts
    for split, of in facts.splits.items():
        log.info(
            "  %-10s %9s texts in %s windows, %s tokens, %.1f%% of them unknown",
            split, f"{of.texts:,}", f"{of.windows:,}", f"{of.tokens:,}", 100 * of.unknown_tokens,
        )  # fmt: skip
    log.info(
        "  repeated texts: %s; left out for validation or data.exclude: %s; vocabulary: %s tokens",
        f"{facts.duplicates:,}", f"{facts.excluded:,}", f"{len(texts.vocabulary):,}",
    )  # fmt: skip


def _report(metrics: LanguageMetrics, path: Path) -> None:
    of = metrics.validation
    known = [name for name in DIRECTIONS if f"perplexity_{name}" in of]
    directions = ", ".join(f"{name} {of[f'perplexity_{name}']:.1f}" for name in known)
    log.info(
        "best epoch %d: perplexity %.1f (%s) on %s tokens; unigram %.1f",
        metrics.best_epoch, of.perplexity, directions, f"{of.guesses:,}", of.perplexity_unigram,
    )  # fmt: skip
    if of.perplexity >= of.perplexity_unigram:
        log.warning("no better than a unigram model: more epochs or texts may help")
    log.info(
        "%.0f s in all, %.0f s of them training; start a classifier from it: train --pretrained %s",
        metrics.total_s, metrics.training_s, path,
    )  # fmt: skip
