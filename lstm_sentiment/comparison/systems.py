"""Systems that can be compared: a run, the runs of several seeds, a part of a run, a file of predictions.

Legend: R rows, S seeds.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.checkpoints.run_paths import STARTER, is_seeds, is_starter, seed_paths
from lstm_sentiment.comparison.predictions import is_predictions, read_predictions
from lstm_sentiment.comparison.rows import Rows
from lstm_sentiment.config.command_line import BRANCHES
from lstm_sentiment.errors import ConfigError, RunError, did_you_mean, shown, without_secrets
from lstm_sentiment.evaluation.metrics import metrics_of
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.prediction.score_file import predict_file, seen_rows
from lstm_sentiment.provenance.trained_texts import seen_line
from lstm_sentiment.system.files import local_path

log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
TRAINED = "training"  # what rows are sliced by if a system was trained on some of them
IF_UNKNOWN = "macro_f1"  # the metric where no run has one that labels alone determine


@dataclass(frozen=True, kw_only=True)
class System:
    """A system to compare.

    Args:
        name: as the user gave it.
        classifiers: one per seed; none for a file of predictions.
        seeds: whether it is a folder of several seeds.
    """

    name: str
    classifiers: tuple[SentimentClassifier, ...] = ()
    seeds: bool = False

    @property
    def title(self) -> str:
        """Its name for people, without secrets of URLs, with the number of seeds."""
        name = without_secrets(self.name)
        return f"{name} ({len(self.classifiers)} seeds, averaged)" if self.seeds else name

    def predictions(self, rows: Rows, how: Mapping[str, Any]) -> Array:
        """Return the predicted classes (S, R) of rows.

        Args:
            rows: as read with the first run's classes.
            how: columns and reading options of their file.

        Raises:
            DataError: a file of predictions does not fit the rows.
            RunError: the run maps labels of the rows to other classes.
        """
        if not self.classifiers:
            return read_predictions(self.name, rows)[None]
        return np.stack([_predicted(classifier, rows, how) for classifier in self.classifiers])


def _branch(classifier: SentimentClassifier, *, name: str) -> SentimentClassifier:
    classifier.keep_branch(name)
    return classifier


# Part of a run, as in RUN:ngrams -> how the run's classifier becomes the part's.
PARTS: dict[str, Callable[[SentimentClassifier], SentimentClassifier]] = {
    name: functools.partial(_branch, name=name) for name in BRANCHES
}


def open_system(name: str, *, device: str = "auto") -> System:
    """Load a system by its name.

    Args:
        name: a run folder; a folder of ``train --seeds``; ``starter``; any of them with the name of a part,
            as in ``runs/reviews:ngrams``; or a table of predictions.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        SentimentError: it is none of these, or is damaged.

    Example::

        open_system("runs/reviews:ngrams")
    """
    run, part = part_of(name)
    if not part and is_predictions(name):
        return System(name=name)
    seeds = not is_starter(run) and is_seeds(local_path(run))
    runs: Sequence[Any] = seed_paths(local_path(run)) if seeds else [run]
    loaded = [load(one, device=device) for one in runs]
    return System(name=name, classifiers=tuple(PARTS[part](of) if part else of for of in loaded), seeds=seeds)


def part_of(name: str) -> tuple[str, str]:
    """Return the run and the part that a name names, an empty part for the whole.

    Raises:
        ConfigError: a run is followed by an unknown part.

    >>> part_of("runs/reviews:ngrams"), part_of("C:/runs/reviews")
    (('runs/reviews', 'ngrams'), ('C:/runs/reviews', ''))
    """
    run, colon, part = name.rpartition(":")
    if not colon or "://" in name or local_path(name).exists():
        return name, ""
    if part in PARTS:
        return run, part
    if run == STARTER or local_path(run).is_dir():
        hint = did_you_mean(part, PARTS)
        raise ConfigError(f"no part {shown(part)} of a run; there are {', '.join(PARTS)}.{hint}", where=name)
    return name, ""


def classes_of(systems: Sequence[System]) -> tuple[list[str], dict[str, str | None]] | None:
    """Return class names and label map of the first run; None if there are only files of predictions.

    Raises:
        RunError: runs have different classes.

    >>> classes_of([System(name="theirs.csv")])
    """
    named = [(system, classifier) for system in systems for classifier in system.classifiers]
    if not named:
        return None
    first, of_first = named[0]
    for system, classifier in named[1:]:
        if sorted(classifier.labels) != sorted(of_first.labels):
            classes = [", ".join(of.labels) for of in (of_first, classifier)]
            raise RunError(
                f"the runs have different classes: {first.name}: {classes[0]}; {system.name}: {classes[1]}; "
                "compare runs of the same classes"
            )
    return of_first.labels, of_first.label_map


def metric_of(runs: Sequence[SentimentClassifier], labels: list[str], wanted: str | None = None) -> str:
    """Return the metric to compare by: the wanted one, or that which picked the epochs of the first run.

    Macro-F1 if there is no run, or if its metric is the loss, which predicted labels do not determine.

    Args:
        runs: none if there are only files of predictions.
        labels: class names.
        wanted: by the user.

    Raises:
        ConfigError: the wanted metric is not one of classes with these names.

    >>> metric_of([], ["sport", "politics"])
    'macro_f1'
    >>> metric_of([], ["sport", "politics"], "flip_rate")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.ConfigError: --metric: 'flip_rate' is not a metric of these classes; choose one \
of accuracy, macro_f1, macro_recall
    """
    known = metrics_of(labels)
    if wanted is not None:
        if wanted not in known:
            problem = f"{shown(wanted)} is not a metric of these classes; choose one of {', '.join(known)}"
            raise ConfigError(problem, key="--metric")
        return wanted
    own = runs[0].config.trainer.metric if runs else IF_UNKNOWN
    return own if own in known else IF_UNKNOWN


def _predicted(classifier: SentimentClassifier, rows: Rows, how: Mapping[str, Any]) -> Array:
    """Return the classes (R,) that a classifier predicts, as indices of the rows' class names."""
    truth_R, probabilities_RC = predict_file(classifier, rows.file, **how)
    index_C = np.array([rows.labels.index(label) for label in classifier.labels])
    if not np.array_equal(index_C[truth_R], rows.truth_R):
        problem = f"the runs map the labels of {rows.file} differently"
        raise RunError(f"{problem}; see data.labels of both, and compare runs with the same")
    predicted_R: Array = index_C[probabilities_RC.argmax(axis=1)]
    return predicted_R


@dataclass(frozen=True, kw_only=True)
class SeenBy:
    """Which rows systems were trained on.

    Args:
        rows_R: whether some system was trained on each row, bool (R,); None if none is known to have been.
        sentences: how many rows each of these systems was trained on.
    """

    rows_R: Array | None
    sentences: tuple[str, ...]


def seen_by(systems: Sequence[System], file: str, how: Mapping[str, Any]) -> SeenBy:
    """Return which rows some system was trained on, exactly or nearly; log how many were.

    Args:
        systems: to compare.
        file: labelled rows.
        how: columns and further arguments of `labelled_chunks`.

    Example::

        seen_by([open_system("runs/reviews")], "test.csv", {}).sentences
    """
    either_R: Array | None = None
    sentences = []
    for system in systems:
        for number, classifier in enumerate(system.classifiers, start=1):
            seen = seen_rows(classifier, file, **how)
            if seen is None or not seen.either.any():
                continue
            seed = f", run {number} of {len(system.classifiers)}" if system.seeds else ""
            sentences.append(f"{system.title}{seed}: {seen_line(seen)}")
            log.warning("%s", sentences[-1])
            either_R = seen.either if either_R is None else either_R | seen.either
    return SeenBy(rows_R=either_R, sentences=tuple(dict.fromkeys(sentences)))
