"""Resuming a run: what may differ from when it began, and the checkpoint it continues from.

A configuration is a `schema.Config` or another dataclass with the same outer fields and sections.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, Protocol

import yaml

from lstm_sentiment.checkpoints.expected import of_training
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, RELABELLED, Checkpoint, RunFolder
from lstm_sentiment.checkpoints.untrusted_files import yaml_of
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.network_shapes import network_shapes
from lstm_sentiment.config.schema import flatten
from lstm_sentiment.config.yaml_files import flatten_plain
from lstm_sentiment.errors import CheckpointError, RunError, listed
from lstm_sentiment.records.checkpoint_facts import LastFacts, RunFacts
from lstm_sentiment.records.data_facts import DataFacts, TextFacts
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.text.tokenizers import Vocabulary

log = logging.getLogger(__name__)

# Settings that may differ when a run is resumed: none of them changes what is learned. No other may.
FREE_ON_RESUME = {"out", "resume", "overwrite", "baseline", "report", "trainer.checkpoint_every"}
FREE_ON_RESUME |= {"trainer.log_to", "trainer.tensorboard", "trainer.timeout", "trainer.keep_for_resume"}
# These may differ, too, but their outcome is a fact of the run (below), and a difference is logged.
NOTED_ON_RESUME = {"trainer.device", "trainer.threads"}
ROUNDED_BY = ("threads", "world_size", "device", "precision", "torch")  # facts that the last digits depend on


class RunData(Protocol):
    """What a run folder keeps about its data (see `corpus.Corpus`)."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Tokens that the model knows."""

    @property
    def labels(self) -> list[str]:
        """Class names; none for a language model."""

    @property
    def label_map(self) -> dict[str, str | None]:
        """Label in a file -> class name, or None for rows to leave out."""

    @property
    def facts(self) -> DataFacts | TextFacts:
        """Counts for the report."""


def check_folder(folder: RunFolder, config: Any) -> bool:
    """Return whether to resume the run in a folder; refuse to overwrite one unless the configuration says so.

    Raises:
        RunError: the folder is in the way, or its run has other settings.
        CheckpointError: the run's settings are missing or damaged.

    >>> from lstm_sentiment.config.schema import Config
    >>> check_folder(RunFolder("runs/of-tomorrow"), Config())
    False
    """
    if config.resume and folder.is_run():
        if (folder.path / RELABELLED).is_file():
            raise RunError(
                f"{folder.path}: its classes were renamed or merged (see {RELABELLED}), and it cannot be "
                f"resumed; train its new classes: --config {folder.path / 'config.yaml'} and another --out"
            )
        _refuse_other_settings(folder, config)
        if folder.has(LAST):
            return True
        if (folder.path / RunMetrics.FILE).exists():  # it is finished
            if getattr(config, "adapt", None) == "frozen":  # it took no steps to resume from, and is complete
                return True
            raise RunError(
                f"{folder.path}: is finished and has no checkpoint '{LAST}' to resume from; use --overwrite "
                "true to replace it, or another --out"
            )
    may_begin = config.overwrite or (config.resume and not folder.is_foreign())
    if folder.occupied() and not may_begin:
        raise RunError(
            f"{folder.path}: is not empty; use --resume true to resume its run, --overwrite true to replace "
            "it, or another --out"
        )
    if config.resume:
        log.info("nothing to resume in %s: starting from the beginning", folder.path)
    return False


def _refuse_other_settings(folder: RunFolder, config: Any) -> None:
    saved = folder.own("config.yaml")
    try:
        old = flatten_plain(yaml_of(saved))
    except (CheckpointError, AttributeError):
        raise CheckpointError(f"{saved}: is missing or damaged; cannot resume") from None
    new = flatten_plain(yaml.safe_load(config_yaml(config)))
    refused = [key for key in flatten(config) if key not in FREE_ON_RESUME | NOTED_ON_RESUME]
    differing = [
        f"the run has {key} {old.get(key)!r}, now it is {new.get(key)!r}"
        for key in refused
        if old.get(key) != new.get(key)
    ]
    if differing and old.get("trainer.epochs") != new.get("trainer.epochs") and _is_finished(folder):
        _refuse_more_epochs(folder, old, new)
    if differing:
        raise RunError(
            f"{folder.path}: {'; '.join(differing)}; resume with the run's own settings (--config "
            f"{folder.path / 'config.yaml'}), or start another run"
        )


def _is_finished(folder: RunFolder) -> bool:
    return (folder.path / RunMetrics.FILE).is_file()


def _refuse_more_epochs(folder: RunFolder, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse another number of epochs for a finished run, with the way to train on from its weights."""
    further = f"; --pretrained {folder.path} starts it from the weights of this one" if "adapt" in new else ""
    raise RunError(
        f"{folder.path}: is finished after trainer.epochs {old.get('trainer.epochs')} and cannot be resumed "
        f"with {new.get('trainer.epochs')}: its learning rate has fallen to zero, and its optimizer state is "
        f"removed. Set another --out for a run of more epochs{further}"
    )


def checkpoint_to_resume(folder: RunFolder, facts: RunFacts, data: RunData, config: Any = None) -> Checkpoint:
    """Return the last checkpoint of a run, if it began with the same data.

    Args:
        folder: of the run.
        facts: of the run to resume.
        data: the data with the fingerprint `facts.data`.
        config: of a classifier: a checkpoint of a model of other sizes is not read.

    Raises:
        RunError: the data, the pretrained model or the teacher are others.
        CheckpointError: no checkpoint is whole, or the best epoch so far is damaged.

    Example::

        checkpoint = checkpoint_to_resume(folder, session.facts(corpus.fingerprint), corpus)
    """
    expected = None
    if config is not None:
        sizes = {"subwords": config.text.subwords, **dataclasses.asdict(config.model)}
        shapes = network_shapes(len(data.vocabulary), len(data.labels), **sizes)
        expected = of_training(shapes, data=facts.data)
    checkpoint = folder.load(LAST, expected)
    saved = checkpoint.facts_as(LastFacts)
    if not checkpoint.tensors and not saved.training.finished:
        raise CheckpointError(f"{folder.path / LAST}: has no weights to resume from; start another run")
    check_same_run(saved, facts, folder, data)
    if saved.training.best_epoch >= 0:
        folder.load(BEST)  # it is needed at the end: damage should show now
    for name in ROUNDED_BY:
        before, now = getattr(saved, name), getattr(facts, name)
        if before not in (None, now):  # earlier versions did not keep all of them
            log.warning(
                "the run had %s %s, now %s: numbers are rounded differently, so the result will not be "
                "bit-equal to an uninterrupted run", name, before, now,
            )  # fmt: skip
    return checkpoint


def check_same_run(before: RunFacts, facts: RunFacts, folder: RunFolder, data: RunData) -> None:
    """Refuse to resume with other data, other pretrained weights or another teacher.

    Args:
        before: facts of a checkpoint of the run.
        facts: of the run to resume (see `checkpoint_to_resume`).
        folder: of the run.
        data: the data with the fingerprint `facts.data`.

    Raises:
        RunError: names what is no longer the same.

    Example::

        before, facts = checkpoint.facts_as(RunFacts), session.facts(corpus.fingerprint)
        check_same_run(before, facts, folder, corpus)
    """
    if before.data != facts.data:
        raise RunError(
            f"{folder.path}: the rows, labels or vocabulary are no longer those the run began with ("
            f"{'; '.join(_differences(folder, data)) or _sums(before.data, facts.data)}); "
            "restore the data files, or start another run"
        )
    pretrained = ("pretrained weights", before.pretrained, facts.pretrained)
    for what, then, now in (pretrained, ("teacher's weights", before.teacher, facts.teacher)):
        if then != now:
            raise RunError(
                f"{folder.path}: the {what} are no longer those the run began with ({_sums(then, now)}); "
                "restore them, or start another run"
            )


def _differences(folder: RunFolder, data: RunData) -> list[str]:
    """Describe how data differ from those of a run, as far as its files show."""
    saved: dict[str, Any] = {}
    for name in ("labels", "vocabulary"):
        with contextlib.suppress(CheckpointError):
            saved[name] = folder.read_json(f"{name}.json")
    then: dict[str, Any] = {}
    now: dict[str, Any] = {"labels": listed(data.labels)}
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # the files are not checked: words only
        then["labels"] = listed(saved["labels"]["labels"])
        then["tokens of the vocabulary"] = len(saved["vocabulary"])
        now["tokens of the vocabulary"] = len(data.vocabulary) - len(SPECIAL_TOKENS)
    with contextlib.suppress(CheckpointError):
        then |= _split_sizes(folder.read(type(data.facts)))
        now |= _split_sizes(data.facts)
    return [f"{what}: {then[what]}, now {now[what]}" for what in then if then[what] != now.get(what)]


def _split_sizes(facts: DataFacts | TextFacts) -> dict[str, int]:
    if isinstance(facts, DataFacts):
        return {f"rows of {name}": split.rows for name, split in facts.splits.items()}
    return {f"texts of {name}": split.texts for name, split in facts.splits.items()}


def _sums(then: object, now: object) -> str:
    return f"sha256 {str(then)[:12]}, now {str(now)[:12]}"
