"""Finds settings that have no effect, given the data and the other settings.

Contradictory settings are already rejected by `config`. The findings are exact: with any of the values that a
finding names, training gives the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from lstm_sentiment.adaptation.resolving import AUTO, chosen_by_rows
from lstm_sentiment.adaptation.start import TAKEN
from lstm_sentiment.config.schema import Config, flatten
from lstm_sentiment.config.sections import TextConfig
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import count_tokens, plan_epoch
from lstm_sentiment.diagnostics.findings import NOTE, WARNING, Finding
from lstm_sentiment.training.schedule import ema_decay_at

DEFAULTS = flatten(Config())
LIMITS = ("text.max_vocabulary", "text.max_tokens", "data.max_rows")  # may be higher than needed
LEAST_DECAY = 2.0**-25  # a smaller relative change is lost in float32


def unused_settings(config: Config, corpus: Corpus, given: Collection[str] | None = None) -> list[Finding]:
    """Return a finding per setting that was set and has no effect: a warning if it is not the default.

    Defaults that were set, and limits that are not reached, are notes.

    Args:
        config: of a run, resolved.
        corpus: its rows.
        given: keys set by the user; None for those that differ from the defaults and from what is chosen
            automatically (see `chosen_by_rows`), as for the configuration of a finished run.

    Example::

        unused_settings(Config(), prepare(...))
    """
    settings = flatten(config)
    given = set_by_hand(config, corpus) if given is None else given
    findings = []
    for key, what, why in (
        *_of_data(config, corpus),
        *_of_text(config, corpus),
        *_of_training(config, corpus),
    ):
        if key not in given:
            continue
        chosen = settings[key] != DEFAULTS[key] and key not in LIMITS
        findings.append(
            Finding(
                severity=WARNING if chosen else NOTE, what=f"{key} has no effect: {what}", why=why, key=key
            )
        )
    return findings


def set_by_hand(config: Config, corpus: Corpus) -> set[str]:
    """Return the keys that have neither their default nor an automatically chosen value.

    Args:
        config: of a run, resolved.
        corpus: its rows.

    Example::

        set_by_hand(Config(seed=3), corpus)  # {"seed"}
    """
    by_hand = {key: value for key, value in flatten(config).items() if value != DEFAULTS[key]}
    if config.adapt == AUTO:  # nothing was chosen
        return set(by_hand)
    automatic = chosen_by_rows(Config(), corpus, config.adapt)
    chosen = {key for key, value in by_hand.items() if key in automatic and value == automatic[key]}
    return by_hand.keys() - chosen - {*TAKEN, "pretrained", "adapt", "model.ngram_kind"}


Found = Iterator[tuple[str, str, str]]  # key, what, why


def _of_data(config: Config, corpus: Corpus) -> Found:
    data = config.data
    cut = any(isinstance(share, float) for share in (data.validation, data.test))
    if data.group_column is not None and not cut:
        yield "data.group_column", "validation and test rows have their own files", "nothing is split here"
    filtered = sum(counts.filtered for counts in corpus.facts.counts.values())
    if data.filter and not filtered:
        yield "data.filter", "every row has these values", "is it the right column?"
    left_out = corpus.facts.counts["train"].left_out or 0
    sentences = int((~corpus.train.store.phrases).sum()) - left_out
    rows = sentences - data.deduplicate * corpus.facts.duplicates
    if data.max_rows is not None and data.max_rows >= rows:
        yield "data.max_rows", f"there are {rows:,} rows", "null is the same"
    if not data.deduplicate and not corpus.facts.duplicates:
        yield "data.deduplicate", "no text is repeated", "true is the same"


def _of_text(config: Config, corpus: Corpus) -> Found:
    text = config.text
    if config.pretrained is not None and config.adapt != "auto":
        pass  # from a classifier: its vocabulary is kept
    elif config.pretrained is not None:
        why = "the vocabulary is that of the pretrained run"
        yield "text.min_frequency", why, "any value reads the same"
        yield "text.max_vocabulary", why, "any value reads the same"
    else:
        yield from _of_vocabulary(text, corpus)
    splits = corpus.splits.values()
    longest = max(int(np.diff(s.store.offsets)[s.rows].max(initial=0)) for s in splits)
    if longest <= text.max_tokens:
        why = f"the longest text has {longest:,} tokens"
        yield "text.max_tokens", why, f"any value from {longest:,} on reads the same"
        if text.truncate != DEFAULTS["text.truncate"]:
            yield "text.truncate", f"{why}, none is truncated", "lower text.max_tokens, or keep the default"
    if text.tokenizer == "basic_english" and not text.lowercase:
        yield "text.lowercase", "basic_english always lowercases", "text.tokenizer words does not"


def _of_vocabulary(text: TextConfig, corpus: Corpus) -> Found:
    counts = np.sort(count_tokens(corpus.train.store, corpus.train.rows))[::-1]
    frequent = int((counts >= text.min_frequency).sum())
    if frequent <= text.max_vocabulary:
        yield (
            "text.max_vocabulary",
            f"{frequent:,} tokens are frequent enough, and the limit is {text.max_vocabulary:,}",
            f"any value from {frequent:,} on gives the same vocabulary",
        )
    rarest = int(counts[text.max_vocabulary - 1]) if len(counts) >= text.max_vocabulary else 0
    if rarest > text.min_frequency:
        yield (
            "text.min_frequency",
            f"text.max_vocabulary already excludes all tokens that occur less than {rarest} times",
            f"any value up to {rarest} gives the same vocabulary",
        )


def _of_training(config: Config, corpus: Corpus) -> Found:
    trainer = config.trainer
    rows = len(corpus.train)
    plan = _plan(config, corpus)
    steps = len(plan)
    total = steps * trainer.epochs
    batches = math.ceil(rows / trainer.batch_size)
    if trainer.batch_size > rows:
        yield (
            "trainer.batch_size",
            f"there are {rows:,} training rows",
            f"any value from {rows:,} on is the same",
        )
    if trainer.accumulate > batches:
        yield (
            "trainer.accumulate",
            f"an epoch has {batches:,} batches",
            f"any value from {batches:,} on is the same: one step per epoch",
        )
    if trainer.patience and trainer.patience >= trainer.epochs - 1:
        yield (
            "trainer.patience",
            f"{trainer.patience} epochs without a better score cannot pass in {trainer.epochs} epochs",
            f"lower it below {max(1, trainer.epochs - 1)}, raise trainer.epochs, or set 0",
        )
    if trainer.epochs == 1 and trainer.metric != DEFAULTS["trainer.metric"]:
        yield "trainer.metric", "the only epoch is the best by any metric", "raise trainer.epochs"
    saves = range(trainer.checkpoint_every, total + 1, trainer.checkpoint_every)
    if all(step % steps == 0 for step in saves):
        yield (
            "trainer.checkpoint_every",
            f"each epoch has {steps:,} steps and ends with a checkpoint anyway",
            f"a value below {steps:,} saves within an epoch",
        )
    reached = ema_decay_at(total - 1, decay=1.0)
    if trainer.ema > reached:
        reached = math.ceil(1000 * reached) / 1000
        yield (
            "trainer.ema",
            f"in {total:,} steps the decay of the average reaches only {reached:.3f}, not {trainer.ema}",
            f"any value from {reached:.3f} on gives the same weights",
        )
    counts = np.bincount(corpus.train.labels, minlength=len(corpus.labels))
    if trainer.class_weights == "balanced" and counts.min() == counts.max():
        yield "trainer.class_weights", "all classes have the same number of rows", "none is the same"
    if config.text.freeze_vectors and not config.text.subwords:
        yield (
            "trainer.embedding_rate",
            "text.freeze_vectors freezes all embeddings",
            "keep the default",
        )
    fastest = trainer.learning_rate * max(1.0, trainer.embedding_rate)
    if trainer.weight_decay and fastest * trainer.weight_decay < LEAST_DECAY:
        yield (
            "trainer.weight_decay",
            f"times the learning rate it is {fastest * trainer.weight_decay:.1g}, too small for float32",
            "raise it, or trainer.learning_rate",
        )


def _plan(config: Config, corpus: Corpus) -> list[Any]:
    trainer = config.trainer
    return plan_epoch(
        corpus.train.lengths, batch_size=trainer.batch_size, accumulate=trainer.accumulate, seed=0, epoch=0
    )
