"""Resolves automatic settings: what training starts from, and how it adapts to the rows.

All choices are functions of the configuration and the rows, and are written to the run's config.yaml.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lstm_sentiment.adaptation.start import TAKEN, Start, load_start
from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.checkpoints.run_paths import STARTER, learned_packages
from lstm_sentiment.checkpoints.untrusted_files import yaml_of
from lstm_sentiment.config.schema import Config, flatten
from lstm_sentiment.config.sections import sources
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.splits import TooFewRowsError
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.data.word_vectors import vector_size
from lstm_sentiment.errors import CheckpointError, ConfigError, RunError
from lstm_sentiment.linear.baselines import buckets_for

log = logging.getLogger(__name__)

AUTO = "auto"
FROZEN_ROWS = 3_000  # from this many training rows on, all layers are fine-tuned
FEW_ROWS = 100  # with fewer, no rows are set aside if some split would lack a class
SCARCE_ROWS = 2_000  # with fewer, text.min_frequency is 1
MOST_TOKENS = 1_000  # of a text, unless text.max_tokens is set
# Training signals other than the labels of whole texts; they need gradient steps.
TAUGHT = ("teacher", "data.unlabelled", "data.phrases", "trainer.vat", "trainer.r_drop")
# Settings of gradient descent; setting one of them implies fine-tuning.
STEPS = ["epochs", "batch_size", "learning_rate", "embedding_rate", "layer_decay", "unfreeze", "weight_decay"]
STEPS += ["warmup", "clip_norm", "label_smoothing", "ema", "accumulate", "patience"]
BY_STEPS = {f"trainer.{name}" for name in STEPS}
BY_STEPS |= {"model.dropout", "model.embedding_dropout", "model.word_dropout"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A resolved configuration, and what was loaded to resolve it.

    Args:
        config: as written to the run folder.
        start: the classifier that training starts from, or None.
        corpus: the rows; None if they were not needed.
        why: what was chosen and why, in one line; empty if nothing was.
    """

    config: Config
    start: Start | None = None
    corpus: Corpus | None = None
    why: str = ""


def user_keys(config: Config, given: Collection[str]) -> frozenset[str]:
    """Return the keys set by the user: those given, and those that differ from the defaults.

    >>> sorted(user_keys(Config(seed=3), ["trainer.epochs"]))
    ['seed', 'trainer.epochs']
    """
    defaults = flatten(Config())
    return frozenset(given) | {key for key, value in flatten(config).items() if value != defaults[key]}


def adopted(config: Config, given: frozenset[str], folder: RunFolder) -> tuple[Config, frozenset[str]]:
    """Return a configuration for resuming a run, with automatic settings taken from that run.

    Args:
        config: of the command.
        given: keys set by the user.
        folder: of the run.

    Example::

        config, given = adopted(config, user_keys(config, ()), RunFolder(config.out))
    """
    if not config.resume or not folder.is_run():
        return config, given
    try:
        saved = yaml_of(folder.own("config.yaml"))
        if config.pretrained is None:  # few rows may have been cross-validated
            shares = {"data.validation", "data.test"} - given
            chosen = {key: None for key in shares if _saved(saved, key) is None}
            return replaced(config, dict(chosen)), given | chosen.keys()
        undecided = {key for key in ("pretrained", "adapt") if getattr(config, key) == AUTO}
        taken = (flatten(config).keys() - given - {"out", "resume", "overwrite"}) | undecided
        return replaced(config, {key: _saved(saved, key) for key in taken}), frozenset(flatten(config))
    except (CheckpointError, AttributeError, KeyError, TypeError, ConfigError):
        return config, given  # problems of the folder are reported on resuming


def resolve(config: Config, given: frozenset[str], *, cache: Path) -> Plan:
    """Resolve the automatic settings of a configuration.

    Args:
        config: of a run.
        given: keys set by the user (see `user_keys`), which are not changed.
        cache: folder for tokenised text.

    Raises:
        SentimentError: the start classifier or the rows cannot be used, or options set by the user contradict
            the start classifier.

    >>> resolve(Config(pretrained=None), frozenset(), cache=Path("cache")).start is None
    True
    """
    start, why = _start_of(config, given)
    _refuse_null(config, given, start)
    if start is None:
        config = dataclasses.replace(config, pretrained=None) if why else config
        return Plan(config=_as_large_as_vectors(config, given), why=why)
    set_aside = "data.validation" in given
    chosen: dict[str, Any] = {} if set_aside else {"data.validation": None}
    config = dataclasses.replace(start.applied(config, given), pretrained=start.name)
    chosen["model.ngram_kind"] = "tfidf"
    words = start.tokens
    corpus = _prepared_if_few(config, chosen, words, given, cache)
    read = replaced(config, chosen)
    rows = len(corpus.train)
    adapt, why = _adapt_of(read, given, rows, cross_validated=set_aside and read.data.validation is None)
    chosen |= {"adapt": adapt}
    chosen |= {key: value for key, value in chosen_by_rows(config, corpus, adapt).items() if key not in given}
    config = replaced(config, chosen)
    if (config.data, config.text) != (read.data, read.text):
        corpus = _prepared(config, words, cache)
    return Plan(
        config=config,
        start=start,
        corpus=corpus,
        why=f"{rows:,} training rows from {start.name}: {why}"
        + ("" if set_aside else _held_out(adapt))
        + _learned_before(start, config),
    )


def _as_large_as_vectors(config: Config, given: frozenset[str]) -> Config:
    """Return a configuration whose embeddings have the size of its pretrained vectors, unless it was set."""
    if config.text.vectors is None or "model.embedding_size" in given:
        return config
    size = vector_size(config.text.vectors, cache=cache_folder())
    log.info("model.embedding_size is %d, as in text.vectors", size)
    return replaced(config, {"model.embedding_size": size})


def _adapt_of(config: Config, given: frozenset[str], rows: int, *, cross_validated: bool) -> tuple[str, str]:
    """Return the value of `adapt`, and a description with the reason.

    Raises:
        ConfigError: one option set by the user needs gradient steps, and another rules them out.
    """
    flat = flatten(config)
    taught = [key for key in TAUGHT if key in given and flat[key]]
    steps = [*taught, *sorted(BY_STEPS & given)]
    if taught and (config.adapt == "frozen" or (cross_validated and config.adapt == AUTO)):
        ruled_out = "adapt frozen takes none: set adapt finetune"
        if config.adapt == AUTO:
            ruled_out = "data.validation null means cross-validation, without any: give a share or a file"
        raise ConfigError(f"needs gradient steps, but {ruled_out}, or leave it out", key=taught[0])
    if config.adapt == "frozen" or (config.adapt == AUTO and cross_validated):
        return "frozen", "its LSTM is frozen"
    if config.adapt == AUTO and rows < FROZEN_ROWS and not steps:
        return "frozen", "its LSTM is frozen"
    why = f", since {', '.join(steps)} is set" if steps and config.adapt == AUTO else ""
    return "finetune", f"all layers are fine-tuned{why}"


def _learned_before(start: Start, config: Config) -> str:
    """Return a warning if rows come from a package whose texts the classifier was trained on."""
    named = (config.data.train, config.data.validation, config.data.test)
    files = [name for of in named for name in sources(of) if name.startswith("package:")]
    packages = {name.removeprefix("package:").partition("/")[0] for name in files}
    known = sorted(packages & learned_packages(start.name))
    if not known:
        return ""
    return f"; {start.name} was trained on texts of {', '.join(known)}: scores of held-out rows are too high"


def _refuse_null(config: Config, given: frozenset[str], start: Start | None) -> None:
    """Reject settings of cross-validation and adaptation that do not apply."""
    if start is None and "adapt" in given and config.adapt != AUTO:
        raise ConfigError("training does not start from a classifier; set pretrained to one", key="adapt")
    if config.data.validation is not None:
        return
    way_out = "give a share or a file"
    if start is None and (config.teacher is not None or config.data.unlabelled is not None):
        raise ConfigError(
            f"null means cross-validation, not possible with unlabelled texts or a teacher; {way_out}",
            key="data.validation",
        )
    if config.adapt == "finetune" and "data.validation" in given:
        raise ConfigError(
            f"null means cross-validation, but adapt finetune needs validation rows; {way_out}",
            key="data.validation",
        )


def nothing_set_aside(config: Config, given: frozenset[str], error: TooFewRowsError) -> dict[str, Any]:
    """Return settings for cross-validation instead of held-out splits, for very few rows.

    Args:
        config: of a run.
        given: keys set by the user, which are not changed.
        error: why the rows cannot be split.

    Raises:
        TooFewRowsError: there are many rows but one class is too rare, or the shares were set by the user.

    Example::

        except TooFewRowsError as error:
            chosen = nothing_set_aside(config, given, error)
    """
    keys = [f"data.{split}" for split in ("validation", "test")]
    flat = flatten(config)
    chosen = {key: None for key in keys if isinstance(flat[key], float) and key not in given}
    alone = config.teacher is None and config.data.unlabelled is None
    if error.rows >= FEW_ROWS or not chosen or not alone:
        raise error
    log.warning(
        "%d rows are too few to set some aside: they are cross-validated, without test rows",
        error.rows,
    )
    return dict(chosen)


def _prepared_if_few(
    config: Config, chosen: dict[str, Any], words: list[str], given: frozenset[str], cache: Path
) -> Corpus:
    """Read the rows with the chosen settings; add those for very few rows if needed."""
    try:
        return _prepared(replaced(config, chosen), words, cache)
    except TooFewRowsError as error:
        chosen |= nothing_set_aside(replaced(config, chosen), given, error)
        return _prepared(replaced(config, chosen), words, cache)


def chosen_by_rows(config: Config, corpus: Corpus, adapt: str) -> dict[str, Any]:
    """Return the settings that are chosen by the training rows where training starts from a classifier.

    Args:
        config: of the run, before they are chosen.
        corpus: the rows.
        adapt: frozen or finetune.

    Example::

        chosen_by_rows(Config(), corpus, "finetune")["trainer.epochs"]
    """
    rows = len(corpus.train)
    longest = int(np.quantile(corpus.train.full_lengths, 0.99))  # 99 % of the texts are not truncated
    chosen: dict[str, Any] = {
        "model.ngrams": buckets_for(rows),
        "text.min_frequency": 1 if rows < SCARCE_ROWS else config.text.min_frequency,
        "text.max_tokens": min(MOST_TOKENS, max(config.text.max_tokens, longest)),
    }
    if adapt == "finetune":
        learned = rows + (0 if corpus.unlabelled is None else len(corpus.unlabelled))
        chosen |= {"data.validation": Config().data.validation, **finetuning_for(learned)}
    return chosen


def _held_out(adapt: str) -> str:
    return ", choices by cross-validation" if adapt == "frozen" else ""


def _start_of(config: Config, given: frozenset[str]) -> tuple[Start | None, str]:
    """Return the start classifier or None, and the reason if it was chosen automatically."""
    if config.pretrained is None:
        return None, ""
    flat = flatten(config)
    contradicting = [key for key in ("text.vectors",) if key in given and flat[key]]
    contradicting += ["model.ngrams"] if "model.ngrams" in given and not config.model.ngrams else []
    learned = "model.ngram_kind" in given and config.model.ngram_kind == "learned"
    contradicting += ["model.ngram_kind"] if learned else []
    if config.pretrained != AUTO:
        start = load_start(config.pretrained)
        if start is not None and contradicting:
            raise ConfigError(
                f"cannot be combined with pretrained {start.name}; leave it out, or set pretrained null",
                key=contradicting[0],
            )
        return start, ""
    try:
        start = load_start(STARTER)
    except RunError:
        return None, "random weights: this installation has no starter"
    if start is not None:
        of_start = flatten(start.config)
        contradicting += [key for key in TAKEN if key in given and flat[key] != of_start[key]]
        if config.adapt == AUTO:
            contradicting += [key for key in TAUGHT if key in given and flat[key]] + sorted(BY_STEPS & given)
    if start is None or contradicting:
        return None, f"random weights, and not the starter, since {', '.join(contradicting)} is set"
    return start, ""


def finetuning_for(rows: int) -> dict[str, Any]:
    """Return fine-tuning settings for a number of training rows.

    Learning rates are those of training from random weights: with half of them, and no higher rate for the
    embeddings, the LSTM alone is worse than a linear model on 10,000 tweets; with these it is better.

    >>> finetuning_for(10_000)["trainer.epochs"]
    2
    """
    return {
        "trainer.batch_size": 32 if rows < 20_000 else 64,
        "trainer.epochs": max(2, min(MOST_EPOCHS, round(PASSES / max(1, rows)))),
        "trainer.learning_rate": 2e-3,
        "trainer.embedding_rate": 3.0,
        "trainer.layer_decay": 1.0,
        "trainer.label_smoothing": 0.1,
        "model.dropout": 0.2,
        "model.embedding_dropout": 0.2,
        "model.word_dropout": 0.05,
    }


PASSES, MOST_EPOCHS = 9_000, 8  # epochs x rows for small training sets; most epochs


def _prepared(config: Config, words: list[str], cache: Path) -> Corpus:
    return prepare(config.data, config.text, seed=config.seed, cache=cache, words=words)


def replaced(config: Config, chosen: dict[str, Any]) -> Config:
    """Return a configuration with some keys set.

    >>> replaced(Config(), {"data.test": None}).data.test is None
    True
    """
    outer = {key: value for key, value in chosen.items() if "." not in key}
    for section in ("data", "text", "model", "trainer"):
        inner = {
            key.partition(".")[2]: value for key, value in chosen.items() if key.startswith(f"{section}.")
        }
        outer[section] = dataclasses.replace(getattr(config, section), **inner)
    return dataclasses.replace(config, **outer)


def _saved(tree: Any, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return (tree[section] if section else tree)[name]
