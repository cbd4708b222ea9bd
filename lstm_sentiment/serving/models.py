"""The models that a server predicts with: run folders, the starter, exported ONNX folders.

Legend: R texts, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from lstm_sentiment.checkpoints.run_folder import MONITORING
from lstm_sentiment.checkpoints.run_paths import is_starter
from lstm_sentiment.checkpoints.untrusted_files import json_of
from lstm_sentiment.config.public import last_part
from lstm_sentiment.deployment import runtime
from lstm_sentiment.errors import CheckpointError, ConfigError, MissingExtraError
from lstm_sentiment.evaluation.conformal import label_sets
from lstm_sentiment.explanation.attribution import Explanation
from lstm_sentiment.kernels.library import library
from lstm_sentiment.kernels.lstm import HIDDEN_MULTIPLE
from lstm_sentiment.monitoring.drift import Profile, profile_of_json
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.system.files import local_path


@dataclass(frozen=True)
class Read:
    """What a model says about one text.

    Args:
        probabilities: of each class, in the order of the model's labels.
        tokens: number of tokens; 0 for a text without any.
        unknown: number of those that are not in the vocabulary; None if the model does not count them.
    """

    probabilities: list[float]
    tokens: int
    unknown: int | None


class Model(Protocol):
    """A model that a server predicts with."""

    name: str
    kind: str
    labels: list[str]
    reference: Profile | None
    exact: bool

    @property
    def thresholds(self) -> Sequence[float]:
        """Thresholds of label sets; empty without any."""

    def read(self, texts: list[str]) -> list[Read]:
        """Predict some texts, in order."""

    def explain(self, text: str, /) -> Explanation:
        """Explain the prediction of a text."""


class RunModel:
    """A run folder, or the starter.

    Args:
        run: as on the command line.
        name: that requests call it by.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: fp32 or bf16.

    Raises:
        SentimentError: it cannot be loaded (see `load`); its monitoring.json is damaged.

    >>> starter = RunModel("starter", name="starter", device="cpu")
    >>> [round(p, 2) for p in starter.read(["lovely"])[0].probabilities][0] < 0.1
    True
    """

    kind = "run"

    def __init__(self, run: str, *, name: str, device: str, precision: str = "fp32") -> None:
        self.name = name
        self.classifier = load(run, device=device, precision=precision)
        self.labels = self.classifier.labels
        self.thresholds: Sequence[float] = self.classifier.calibration.thresholds
        self.reference = _reference(self.classifier)
        self.exact = is_exact(self.classifier)

    def read(self, texts: list[str]) -> list[Read]:
        """Predict some texts, in order."""
        read = self.classifier.read(texts, counted=True)
        probabilities_RC = self.classifier.calibration.probabilities(read.logits_RC)
        counts = zip(probabilities_RC.tolist(), read.tokens_R.tolist(), read.unknown_R.tolist(), strict=True)
        return [Read(*of) for of in counts]

    def explain(self, text: str) -> Explanation:
        """Explain the prediction of a text."""
        return self.classifier.explain(text)


class OnnxModel:
    """A folder written by ``export``.

    Args:
        folder: of model.onnx.
        name: that requests call it by.
        threads: of onnxruntime.

    Raises:
        CheckpointError: a file is missing or damaged.
        MissingExtraError: onnxruntime is not installed.
    """

    kind = "onnx"
    exact = False  # the sums of onnxruntime depend on the number of texts

    def __init__(self, folder: Path, *, name: str, threads: int) -> None:
        try:
            self._classifier = runtime.Classifier(folder, threads=threads)
        except ImportError:
            raise MissingExtraError("needs onnxruntime: pip install 'lstm_sentiment[export]'") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{error}; export it again") from None
        self.name, self.labels = name, self._classifier.labels
        self.thresholds: Sequence[float] = self._classifier._thresholds
        self.reference: Profile | None = None

    def read(self, texts: list[str]) -> list[Read]:
        """Predict some texts, in order, each alone."""
        found = [self._classifier.predict(text)[0] for text in texts]
        return [Read(list(of.probabilities.values()), int(not of.unread), None) for of in found]

    def explain(self, _text: str) -> Explanation:
        """Raise a `ConfigError`: an exported model has no gradients."""
        raise ConfigError(
            "an exported model cannot explain its predictions; serve the run folder", key="parameters.explain"
        )


def open_models(runs: Sequence[str], *, device: str, threads: int, precision: str = "fp32") -> list[Model]:
    """Load models; each gets the name of its folder, with a number if the name is taken.

    Args:
        runs: run folders, ``starter``, or folders written by ``export``.
        device: of run folders.
        threads: of onnxruntime.
        precision: of run folders, fp32 or bf16.

    Raises:
        SentimentError: one cannot be loaded; bf16 for an exported folder.

    >>> [model.name for model in open_models(["starter", "starter"], device="cpu", threads=1)]
    ['starter', 'starter-2']
    """
    models: list[Model] = []
    for run in runs:
        name, taken = _name_of(run), {model.name for model in models}
        for number in range(2, len(runs) + 1):
            name = f"{_name_of(run)}-{number}" if name in taken else name
        if is_exported(run):
            if precision != "fp32":
                problem = f"{run} was exported and predicts in its own format; omit the option"
                raise ConfigError(problem, key="--precision")
            models.append(OnnxModel(local_path(run), name=name, threads=threads))
        else:
            models.append(RunModel(run, name=name, device=device, precision=precision))
    return models


def is_exported(run: str) -> bool:
    """Whether a name is that of a folder written by ``export``.

    >>> is_exported("starter")
    False
    """
    if is_starter(run):
        return False
    folder = local_path(run)
    return (folder / runtime.MODEL).is_file() and not (folder / "config.yaml").exists()


def is_exact(classifier: SentimentClassifier) -> bool:
    """Whether a text's prediction is the same bits in any batch; otherwise texts are predicted one by one.

    >>> is_exact(load("starter", device="cpu")) == (library() is not None)
    True
    """
    model = classifier.config.model
    compiled = library() is not None and model.hidden_size % HIDDEN_MULTIPLE == 0
    return compiled and classifier.device.type == "cpu" and "attention" not in model.pooling


def label_set(model: Model, probabilities: Sequence[float], coverage: float) -> list[str]:
    """Return the labels that cannot be ruled out at a coverage.

    Raises:
        ConfigError: the run has no thresholds.

    Example::

        label_set(model, read.probabilities, 0.9)
    """
    if not model.thresholds:
        raise ConfigError("this run has no thresholds for label sets", key="parameters.coverage")
    found_RC = label_sets(np.array([probabilities]), list(model.thresholds), coverage)
    return [label for label, kept in zip(model.labels, found_RC[0].tolist(), strict=True) if kept]


def _name_of(run: str) -> str:
    return last_part(str(local_path(run).resolve())) or "model"


def _reference(classifier: SentimentClassifier) -> Profile | None:
    """Return the profile of a run's validation rows, if it has one."""
    if classifier.run is None or not (classifier.run / MONITORING).is_file():
        return None
    return profile_of_json(json_of(classifier.run / MONITORING), classifier.labels)
