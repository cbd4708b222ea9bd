"""Settings that may help a run: which ones depends on its rows, its scores and how it was trained.

Legend: R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lstm_sentiment.adaptation.resolving import FROZEN_ROWS, MOST_TOKENS, Plan, replaced, resolve
from lstm_sentiment.adaptation.start import TAKEN, Start, load_start
from lstm_sentiment.checkpoints.run_paths import STARTER
from lstm_sentiment.config.schema import Config, flatten
from lstm_sentiment.config.sections import MAX_CLASSES
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import count_tokens, plan_epoch
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.diagnostics.unused_settings import DEFAULTS, set_by_hand
from lstm_sentiment.errors import RunError
from lstm_sentiment.evaluation.class_bias import BALANCED_METRICS
from lstm_sentiment.linear.baselines import buckets_for
from lstm_sentiment.records.run_metrics import RunMetrics

FEW_STEPS = 300  # of the optimizer
STILL_FALLS = 0.03  # of the training loss, in the last epoch
IMBALANCE = 1.5  # rows of the largest class, times those of the smallest
CUT_SHARE = 0.05  # of the training texts
KNOWN_SHARE = 0.6  # of the training tokens: fewer known to the starter is another language
LINEAR = "--branch linear"
Epochs = Sequence[Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Settings to try in place of those of a run.

    Args:
        settings: key -> value; none for the linear model.
        left_out: keys set by the run that contradict them, and get their defaults.
        kept: whether the run keeps the linear model.
        why: what about the run suggests them.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    kept: bool = False
    why: str

    @property
    def option(self) -> str:
        """The options of the command line.

        >>> Alternative(settings={"trainer.epochs": 9}, why="few steps").option
        '--trainer.epochs 9'
        """
        return " ".join(f"--{key} {value}" for key, value in self.settings.items()) or LINEAR

    @property
    def advice(self) -> str:
        """What to do, as the end of a sentence."""
        if not self.settings and self.kept:
            return "predict with the linear model, which the run keeps: --branch linear"
        if not self.settings:
            return "train again with --baseline true, and predict with the linear model: --branch linear"
        without = f" and without {', '.join(f'--{key}' for key in self.left_out)}" if self.left_out else ""
        return f"train again with {self.option}{without}"

    def plan(self, config: Config, corpus: Corpus) -> Plan:
        """Return the resolved configuration of a run, with these settings.

        Args:
            config: of the run, resolved.
            corpus: its rows.

        Raises:
            ConfigError: the settings contradict those of the run.
        """
        every = frozenset(flatten(config))
        if "pretrained" in self.settings:
            of_rows = {key for key in every if key.startswith("data.")} | {"seed"}
            every = frozenset(of_rows | set_by_hand(config, corpus) | self.settings.keys())
            every -= set(self.left_out)
        defaults = {key: DEFAULTS[key] for key in self.left_out}
        return resolve(replaced(config, {**defaults, **self.settings}), every, cache=cache_folder())


def alternatives(
    config: Config, corpus: Corpus, *, metrics: RunMetrics | None = None, epochs: Epochs = ()
) -> list[Alternative]:
    """Return what may help a run, in the order of how much it usually helps.

    Args:
        config: of the run, resolved.
        corpus: its rows.
        metrics: of the run, if it is finished.
        epochs: its log (see `report.epochs_of`).

    Example::

        [alternative.option for alternative in alternatives(config, corpus)]
    """
    found = [
        _linear(config, metrics),
        _balanced(config, corpus),
        _starter(config, corpus),
        _ngrams(config, corpus),
        *_longer(config, corpus, epochs),
        _tokens(config, corpus),
    ]
    return [alternative for alternative in found if alternative is not None]


def steps_of(config: Config, corpus: Corpus) -> tuple[int, int]:
    """Return the optimizer steps per epoch, and in all epochs; none where the LSTM is frozen.

    Example::

        per_epoch, steps = steps_of(config, corpus)
    """
    trainer = config.trainer
    if config.adapt == "frozen":
        return 0, 0
    plan = plan_epoch(
        corpus.train.lengths, batch_size=trainer.batch_size, accumulate=trainer.accumulate, seed=0, epoch=0
    )
    return len(plan), len(plan) * trainer.epochs


def still_falls(epochs: Epochs) -> bool:
    """Whether the training loss still falls in the last epoch.

    >>> still_falls([{"train_loss": 0.9}, {"train_loss": 0.7}]), still_falls([{"train_loss": 0.9}])
    (True, False)
    """
    losses = [epoch["train_loss"] for epoch in epochs][-2:]
    return len(losses) == 2 and losses[1] < (1 - STILL_FALLS) * losses[0]


def _linear(config: Config, metrics: RunMetrics | None) -> Alternative | None:
    if metrics is None or (metrics.kept is not None and metrics.kept.kind == "linear"):
        return None
    kept = bool(metrics.baselines) or bool(config.model.ngrams and config.model.ngram_kind == "tfidf")
    return Alternative(kept=kept, why="it takes seconds to train, and is often level")


def _balanced(config: Config, corpus: Corpus) -> Alternative | None:
    counts_C = np.bincount(corpus.train.labels, minlength=len(corpus.labels))
    trainer = config.trainer
    even = counts_C.max() < IMBALANCE * counts_C.min()
    if trainer.class_weights != "none" or trainer.metric not in BALANCED_METRICS or even:
        return None
    share = f"{counts_C.max() / counts_C.sum():.0%} of the training rows are of one class"
    return Alternative(settings={"trainer.class_weights": "balanced"}, why=share)


def _starter(config: Config, corpus: Corpus) -> Alternative | None:
    """Return the starter for runs from random weights whose words it mostly knows."""
    if config.pretrained is not None or len(corpus.labels) > MAX_CLASSES:
        return None
    try:
        start = load_start(STARTER)
    except RunError:  # an installation without it
        return None
    known = _known_share(corpus, start) if start is not None else 0.0
    if start is None or known < KNOWN_SHARE:
        return None
    own, of_start = flatten(config), flatten(start.config)
    left_out = [key for key in TAKEN if own[key] != of_start[key] and own[key] != DEFAULTS[key]]
    left_out += ["text.vectors"] if own["text.vectors"] is not None else []
    left_out += ["model.ngrams"] if own["model.ngrams"] and own["model.ngram_kind"] == "learned" else []
    frozen = len(corpus.train) < FROZEN_ROWS or config.data.validation is None
    return Alternative(
        settings={"pretrained": STARTER, "adapt": "frozen" if frozen else "finetune"},
        left_out=tuple(left_out),
        why=f"it knows {known:.0%} of the tokens of the training rows",
    )


def _known_share(corpus: Corpus, start: Start) -> float:
    store = corpus.train.store
    counts = count_tokens(store, corpus.train.rows)
    known = np.array([token in start.vocabulary.ids for token in store.tokens], dtype=bool)
    return float(counts[known].sum() / max(1, counts.sum()))


def _ngrams(config: Config, corpus: Corpus) -> Alternative | None:
    if config.model.ngrams or config.data.validation is None:
        return None
    settings = {"model.ngrams": buckets_for(len(corpus.train)), "model.ngram_kind": "tfidf"}
    return Alternative(settings=settings, why="the model has no n-grams")


def _longer(config: Config, corpus: Corpus, epochs: Epochs) -> list[Alternative]:
    """Return more epochs and a higher learning rate where the model is trained too little."""
    per_epoch, steps = steps_of(config, corpus)
    if not per_epoch:
        return []
    few = steps < FEW_STEPS
    if not few and not still_falls(epochs):
        return []
    why = f"{steps:,} steps are few" if few else "the training loss still falls in the last epoch"
    rate = float(f"{3 * config.trainer.learning_rate:.2g}")
    found = [Alternative(settings={"trainer.epochs": 3 * config.trainer.epochs}, why=why)]
    if few and config.trainer.learning_rate <= DEFAULTS["trainer.learning_rate"]:
        found.append(Alternative(settings={"trainer.learning_rate": rate}, why=why))
    return found


def _tokens(config: Config, corpus: Corpus) -> Alternative | None:
    full_R = corpus.train.full_lengths
    cut = float((full_R > config.text.max_tokens).mean())
    longer = min(MOST_TOKENS, int(np.quantile(full_R, 0.99)))
    if cut < CUT_SHARE or longer <= config.text.max_tokens:
        return None
    return Alternative(settings={"text.max_tokens": longer}, why=f"{cut:.0%} of the texts are truncated")
