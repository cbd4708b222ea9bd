"""Distillation: teachers predict unlabelled texts, and a student is trained on their predictions.

Labels are scarce; unlabelled text is not. A student trained on a teacher's predictions for many texts comes
close to it, and often exceeds it: the texts are new, whereas the teacher has memorised its training rows.
This works for a small student and a large teacher, for several teachers (Hinton et al. 2015, "Distilling the
knowledge in a neural network"), and for equals (Xie et al. 2020, "Self-training with noisy student improves
ImageNet classification").

Legend: R training rows, U unlabelled texts, C classes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import sources
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.prediction.classifier import SentimentClassifier, read_run
from lstm_sentiment.system.distributed import Processes

log = logging.getLogger(__name__)

BATCH = 256
ALIKE = ("tokenizer", "lowercase", "normalize")  # must equal the teacher's, whose tokens are reused
SPLIT = ("validation", "test", "group_column", "filter", "deduplicate", "max_rows")
SHARES = ("data.validation", "data.test")
Array = npt.NDArray[Any]


class Teachers:
    """Finished runs that label unlabelled texts.

    Args:
        classifiers: of the runs; the probabilities of several are averaged.

    Example::

        teachers = Teachers([read_run("runs/first"), read_run("runs/second")])
        train = teachers.teach(corpus)
    """

    def __init__(self, classifiers: Sequence[SentimentClassifier]) -> None:
        self.classifiers = classifiers
        digest = hashlib.sha256()
        for classifier in classifiers:
            for name, tensor in sorted(classifier.model.state_dict().items()):
                digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        self.sha256 = digest.hexdigest()

    def teach(self, corpus: Corpus, processes: Processes | None = None) -> TextDataset:
        """Return training rows with their labels and unlabelled texts with the teachers' probabilities.

        Args:
            corpus: with unlabelled texts.
            processes: of the job, which share the work; None for this one alone.

        Raises:
            ConfigError: a teacher has other classes.
        """
        train, unlabelled = corpus.train, corpus.unlabelled
        assert unlabelled is not None, "teacher needs data.unlabelled"
        predicted = [self._probabilities(of, corpus, unlabelled, processes) for of in self.classifiers]
        probabilities_UC = np.mean(predicted, axis=0)
        labels_U = probabilities_UC.argmax(axis=1)
        counts_C = np.bincount(labels_U, minlength=len(corpus.labels)).tolist()
        assert corpus.facts.unlabelled is not None
        classes = corpus.facts.unlabelled.classes = dict(zip(corpus.labels, counts_C, strict=True))
        log.info(
            "  unlabelled %9s texts, predicted: %s",
            f"{len(unlabelled):,}",
            ", ".join(f"{label} {count:,}" for label, count in classes.items()),
        )
        truth_RC = np.eye(len(corpus.labels))[train.labels]
        return unlabelled.joined(
            unlabelled.store,
            np.concatenate([train.rows, unlabelled.rows]),
            np.concatenate([train.labels, labels_U]),
            np.concatenate([truth_RC, probabilities_UC]).astype(np.float32),
            weights=np.concatenate([train.weights, np.ones(len(unlabelled))]),
        )

    def _probabilities(
        self, of: SentimentClassifier, corpus: Corpus, unlabelled: TextDataset, processes: Processes | None
    ) -> Array:
        if sorted(of.labels) != sorted(corpus.labels):
            raise ConfigError(
                f"{of.run} has the classes {', '.join(of.labels)}, but the classes here are "
                f"{', '.join(corpus.labels)}; see data.labels",
                key="teacher",
            )
        logits_UC = predict_logits(
            of.model, of.reencoded(unlabelled), device=of.device, batch_size=BATCH, processes=processes
        )
        probabilities_UC = of.calibration.probabilities(logits_UC.numpy())
        return probabilities_UC[:, [of.labels.index(label) for label in corpus.labels]]


def load_teachers(config: Config, *, device: str = "auto") -> Teachers | None:
    """Load the configured teachers; None if there are none.

    Args:
        config: of the student's run.
        device: to predict on.

    Raises:
        ConfigError: a teacher has another tokenization, or was trained on rows that are held out here.
        RunError: not a run folder.
        CheckpointError: a run is damaged.

    >>> load_teachers(Config()) is None
    True
    """
    if config.teacher is None:
        return None
    runs = sources(config.teacher) or []
    classifiers = [read_run(run, device=device) for run in runs]
    for classifier in classifiers:
        _check_tokens(classifier, config)
        _check_split(classifier, config)
    return Teachers(classifiers)


def _check_tokens(teacher: SentimentClassifier, config: Config) -> None:
    for name in ALIKE:
        found, expected = getattr(config.text, name), getattr(teacher.config.text, name)
        if found != expected:
            raise ConfigError(
                f"is {found}, but the teacher {teacher.run} has {expected}; set it to {expected}",
                key=f"text.{name}",
            )


def _check_split(teacher: SentimentClassifier, config: Config) -> None:
    """Reject a teacher of the same file that was trained on rows held out here."""
    theirs, ours = teacher.config.data, config.data
    none_set_aside = not isinstance(ours.validation, float) and not isinstance(ours.test, float)
    if theirs.train != ours.train or none_set_aside:
        return
    if teacher.merged is not None:  # rows are split by class, and its split was that of its old classes
        raise ConfigError(
            f"{teacher.run} was trained on the same file, split by the classes that it had before some were "
            "merged: its training rows may include rows held out here. Give data.validation and data.test as "
            "files of other rows, or train another teacher",
            key="teacher",
        )
    pairs = [(f"data.{name}", getattr(theirs, name), getattr(ours, name)) for name in SPLIT]
    for key, its, own in [("seed", teacher.config.seed, config.seed), *pairs]:
        if key in SHARES and not isinstance(its, float) and not isinstance(own, float):
            continue  # separate files
        if its != own:
            raise ConfigError(
                f"{teacher.run} was trained on the same file with {key} {its}, here it is {own}: its "
                f"training rows may include rows held out here. Set {key} to {its}, or train another teacher",
                key="teacher",
            )
