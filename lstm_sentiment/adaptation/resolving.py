"""What a configuration leaves open, decided by its rows: what training starts from, and what is learned how.

All choices are functions of the configuration and the rows, and stand in the run's config.yaml.
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
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.splits import TooFewRowsError
from lstm_sentiment.errors import CheckpointError, ConfigError, RunError

log = logging.getLogger(__name__)

AUTO = "auto"
FROZEN_ROWS = 3_000  # from so many training rows on all layers learn
FEW_ROWS = 100  # with fewer, none are set aside where every split could not hold every class
SCARCE_ROWS = 2_000  # with fewer, words that stand in a single row are known too
BUCKETS, MANY_BUCKETS = 1 << 18, 1 << 20  # of word pairs, below and from this many rows
MANY_ROWS = 10_000
MOST_TOKENS = 1_000  # of a text, where nobody says how many
# What is learned from, or how, beyond the labels of whole texts: by gradient steps alone.
TAUGHT = ("teacher", "data.unlabelled", "data.phrases", "trainer.vat", "trainer.r_drop")
# How weights learn by gradient steps: who sets one of these means them to.
STEPS = ["epochs", "batch_size", "learning_rate", "embedding_rate", "layer_decay", "unfreeze", "weight_decay"]
STEPS += ["warmup", "clip_norm", "label_smoothing", "ema", "accumulate", "patience"]
BY_STEPS = {f"trainer.{name}" for name in STEPS}
BY_STEPS |= {"model.dropout", "model.embedding_dropout", "model.word_dropout"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A configuration whose choices are made, and what was read to make them.

    Args:
        config: as it stands in the run folder.
        start: the classifier that training goes on from, or None.
        corpus: the rows; None where nothing had to be decided by them.
        why: what was chosen and why, in one line; empty where nothing was.
    """

    config: Config
    start: Start | None = None
    corpus: Corpus | None = None
    why: str = ""


def by_hand(config: Config, given: Collection[str]) -> frozenset[str]:
    """Return the keys that somebody set: those that are given, and those that differ from the defaults.

    >>> sorted(by_hand(Config(seed=3), ["trainer.epochs"]))
    ['seed', 'trainer.epochs']
    """
    defaults = flatten(Config())
    return frozenset(given) | {key for key, value in flatten(config).items() if value != defaults[key]}


def adopted(config: Config, given: frozenset[str], folder: RunFolder) -> tuple[Config, frozenset[str]]:
    """Return a configuration that is to go on with a run, with what that run's own left open and decided.

    Args:
        config: of the command.
        given: keys set by hand.
        folder: of the run.

    Example::

        config, given = adopted(config, by_hand(config, ()), RunFolder(config.out))
    """
    if not config.resume or not folder.is_run():
        return config, given
    try:
        saved = yaml_of(folder.own("config.yaml"))
        if config.pretrained is None:  # what may have been chosen is that few rows are cross-validated
            shares = {"data.validation", "data.test"} - given
            chosen = {key: None for key in shares if _saved(saved, key) is None}
            return replaced(config, dict(chosen)), given | chosen.keys()
        undecided = {key for key in ("pretrained", "adapt") if getattr(config, key) == AUTO}
        taken = (flatten(config).keys() - given - {"out", "resume", "overwrite"}) | undecided
        return replaced(config, {key: _saved(saved, key) for key in taken}), frozenset(flatten(config))
    except (CheckpointError, AttributeError, KeyError, TypeError, ConfigError):
        return config, given  # what is wrong with the folder is told by who goes on with it


def resolve(config: Config, given: frozenset[str], *, cache: Path) -> Plan:
    """Decide what a configuration leaves open.

    Args:
        config: of a run.
        given: keys that were set by hand (see `by_hand`): they stay.
        cache: folder for tokenised text.

    Raises:
        SentimentError: what training starts from, or the rows, cannot be used; or options set by hand
            contradict what it starts from.

    >>> resolve(Config(pretrained=None), frozenset(), cache=Path("cache")).start is None
    True
    """
    start, why = _start_of(config, given)
    _refuse_null(config, given, start)
    if start is None:
        return Plan(config=dataclasses.replace(config, pretrained=None) if why else config, why=why)
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
    chosen |= {key: value for key, value in _by_rows(config, corpus, adapt).items() if key not in given}
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


def _adapt_of(config: Config, given: frozenset[str], rows: int, *, cross_validated: bool) -> tuple[str, str]:
    """Return how training goes on from a classifier, and what that means and why, in words.

    Raises:
        ConfigError: what is set by hand needs gradient steps, and they are ruled out by hand, too.
    """
    flat = flatten(config)
    taught = [key for key in TAUGHT if key in given and flat[key]]
    steps = [*taught, *sorted(BY_STEPS & given)]
    if taught and (config.adapt == "frozen" or (cross_validated and config.adapt == AUTO)):
        ruled_out = "adapt frozen takes none: set adapt finetune"
        if config.adapt == AUTO:
            ruled_out = "data.validation null means cross-validation, without any: give a share or a file"
        raise ConfigError(f"teaches by gradient steps, and {ruled_out}, or leave it out", key=taught[0])
    if config.adapt == "frozen" or (config.adapt == AUTO and cross_validated):
        return "frozen", "its LSTM stays as it is"
    if config.adapt == AUTO and rows < FROZEN_ROWS and not steps:
        return "frozen", "its LSTM stays as it is"
    why = f", since {', '.join(steps)} is set by hand" if steps and config.adapt == AUTO else ""
    return "finetune", f"all layers learn{why}"


def _learned_before(start: Start, config: Config) -> str:
    """Return a warning where rows are of a package whose texts a classifier was trained on."""
    named = [config.data.train, config.data.validation, config.data.test]
    files = [name for name in named if isinstance(name, str) and name.startswith("package:")]
    packages = {name.removeprefix("package:").partition("/")[0] for name in files}
    known = sorted(packages & learned_packages(start.name))
    if not known:
        return ""
    return (
        f"; {start.name} has learned from texts of {', '.join(known)}: scores of rows held out are too high"
    )


def _refuse_null(config: Config, given: frozenset[str], start: Start | None) -> None:
    """Refuse cross-validation, or a way to go on, where there is none."""
    if start is None and "adapt" in given and config.adapt != AUTO:
        raise ConfigError("training does not start from a classifier; set pretrained to one", key="adapt")
    if config.data.validation is not None:
        return
    way_out = "give a share or a file"
    if start is None and (config.teacher is not None or config.data.unlabelled is not None):
        raise ConfigError(
            "null means cross-validation, which is not for texts without labels or a teacher; " + way_out,
            key="data.validation",
        )
    if config.adapt == "finetune" and "data.validation" in given:
        raise ConfigError(
            f"null means cross-validation, but adapt finetune needs validation rows; {way_out}",
            key="data.validation",
        )


def nothing_set_aside(config: Config, given: frozenset[str], error: TooFewRowsError) -> dict[str, Any]:
    """Return settings that set no rows aside, for rows that are too few for it: they are cross-validated.

    Args:
        config: of a run.
        given: keys that were set by hand: they stay.
        error: with which the rows were refused.

    Raises:
        TooFewRowsError: there are many rows, and the class that is too rare is to be looked at; or shares
            were set by hand.

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
    """Return the rows as they are read with settings that were chosen, to which those for few are added."""
    try:
        return _prepared(replaced(config, chosen), words, cache)
    except TooFewRowsError as error:
        chosen |= nothing_set_aside(replaced(config, chosen), given, error)
        return _prepared(replaced(config, chosen), words, cache)


def _by_rows(config: Config, corpus: Corpus, adapt: str) -> dict[str, Any]:
    """Return what is chosen by the training rows, unless it is set by hand."""
    rows = len(corpus.train)
    longest = int(np.quantile(corpus.train.full_lengths, 0.99))  # in 99 of 100 texts nothing is cut
    chosen: dict[str, Any] = {
        "model.ngrams": BUCKETS if rows < MANY_ROWS else MANY_BUCKETS,
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
    """Return the classifier that a configuration names, or None, and why where that was a choice."""
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
                f"is not for training from a classifier ({start.name}); leave it out, or set pretrained null",
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
        return None, f"random weights, and not the starter, since {', '.join(contradicting)} is set by hand"
    return start, ""


def finetuning_for(rows: int) -> dict[str, Any]:
    """Return settings by which all layers learn from so many training rows.

    Rates are those of training from random weights: with half of them, and embeddings that learn as slowly as
    the rest, the LSTM alone stays behind a linear model of 10,000 tweets; with these it is ahead.

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


PASSES, MOST_EPOCHS = 9_000, 8  # readings of a row in all, while there are few


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
