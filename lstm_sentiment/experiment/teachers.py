"""Texts without labels: finished runs answer them, and another model learns their answers.

What is labelled is often little, and what is not, plenty. A model that learns a good model's answers to
many texts comes close to it, and often beyond: the texts are new, where the teacher knows its own training
rows by heart. A small model can learn from a large one so, one model from several (Hinton et al. 2015,
"Distilling the knowledge in a neural network"), or a model from its like (Xie et al. 2020, "Self-training
with noisy student improves ImageNet classification").

Legend: R training rows, U texts without labels, C classes.
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
ALIKE = ("tokenizer", "lowercase", "normalize")  # or the tokens in the store would not be the teacher's
SPLIT = ("validation", "test", "group_column", "filter", "deduplicate", "max_rows")
SHARES = ("data.validation", "data.test")
Array = npt.NDArray[Any]


class Teachers:
    """Finished runs that answer texts without labels.

    Args:
        classifiers: what they trained; several answer with the mean of their probabilities.

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
        """Return the training rows with their labels, and the texts without labels with the answers.

        Args:
            corpus: with texts without labels.
            processes: the job's processes, which share the work; None for this one alone.

        Raises:
            ConfigError: a teacher with other classes.
        """
        train, unlabelled = corpus.train, corpus.unlabelled
        assert unlabelled is not None, "data.unlabelled goes with teacher"
        answers = [self._answers(of, corpus, unlabelled, processes) for of in self.classifiers]
        answers_UC = np.mean(answers, axis=0)
        labels_U = answers_UC.argmax(axis=1)
        counts_C = np.bincount(labels_U, minlength=len(corpus.labels)).tolist()
        corpus.facts["unlabelled"]["classes"] = dict(zip(corpus.labels, counts_C, strict=True))
        log.info(
            "  unlabelled %9s texts, answered: %s",
            f"{len(unlabelled):,}",
            ", ".join(f"{label} {count:,}" for label, count in corpus.facts["unlabelled"]["classes"].items()),
        )
        truth_RC = np.eye(len(corpus.labels))[train.labels]
        return unlabelled.joined(
            unlabelled.store,
            np.concatenate([train.rows, unlabelled.rows]),
            np.concatenate([train.labels, labels_U]),
            np.concatenate([truth_RC, answers_UC]).astype(np.float32),
            weights=np.concatenate([train.weights, np.ones(len(unlabelled))]),
        )

    def _answers(
        self, of: SentimentClassifier, corpus: Corpus, unlabelled: TextDataset, processes: Processes | None
    ) -> Array:
        if sorted(of.labels) != sorted(corpus.labels):
            raise ConfigError(
                f"{of.run} answers {', '.join(of.labels)}, and the classes here are "
                f"{', '.join(corpus.labels)}; see data.labels",
                key="teacher",
            )
        logits_UC = predict_logits(
            of.model, of.as_it_reads(unlabelled), device=of.device, batch_size=BATCH, processes=processes
        )
        probabilities_UC = of.calibration.probabilities(logits_UC.numpy())
        return probabilities_UC[:, [of.labels.index(label) for label in corpus.labels]]


def load_teachers(config: Config, *, device: str = "auto") -> Teachers | None:
    """Return the teachers that a configuration names, or None where it names none.

    Args:
        config: of the run that is to learn from them.
        device: where they answer.

    Raises:
        ConfigError: a teacher that reads other tokens, or learned from rows that are held out here.
        RunError: the folder is no run.
        CheckpointError: a damaged one.

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
                f"is {found}, but the teacher {teacher.run} reads with {expected}; set it to {expected}",
                key=f"text.{name}",
            )


def _check_split(teacher: SentimentClassifier, config: Config) -> None:
    """Refuse a teacher of the same file that was trained on rows that are held out here."""
    theirs, ours = teacher.config.data, config.data
    none_set_aside = not isinstance(ours.validation, float) and not isinstance(ours.test, float)
    if theirs.train != ours.train or none_set_aside:
        return
    pairs = [(f"data.{name}", getattr(theirs, name), getattr(ours, name)) for name in SPLIT]
    for key, its, own in [("seed", teacher.config.seed, config.seed), *pairs]:
        if key in SHARES and not isinstance(its, float) and not isinstance(own, float):
            continue  # files of their own
        if its != own:
            raise ConfigError(
                f"{teacher.run} learned from the same file with {key} {its}, here it is {own}: rows that are "
                f"held out here may have taught it. Set {key} to {its}, or train another teacher",
                key="teacher",
            )
