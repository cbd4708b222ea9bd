"""scikit-learn estimator, for pipelines and searches.

`fit` writes its rows to a temporary folder and trains like the command: the same rows, settings and seed give
the same weights. The run folder is kept in memory (`run_`); copies, pickles and `save` use its bytes, which
are verified when read.

Legend: R texts, C classes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import signal
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from lstm_sentiment.cli.terminal import SafeHandler
from lstm_sentiment.config.command_line import config_of
from lstm_sentiment.config.schema import Config, TrainerConfig, flatten
from lstm_sentiment.config.sections import ModelConfig, TextConfig
from lstm_sentiment.data.arrays import (
    as_value_errors,
    class_names,
    classes_of,
    row_weights_of,
    rows_to_learn,
    texts_of,
)
from lstm_sentiment.data.formats.readers import as_text
from lstm_sentiment.errors import ConfigError, StoppedError
from lstm_sentiment.experiment.train import run
from lstm_sentiment.prediction.classifier import load, read_run
from lstm_sentiment.system.devices import device_here, one_training_at_a_time
from lstm_sentiment.system.files import new_folder, write_atomically

NOT_KEPT = {"last", "last.previous", "log.jsonl", "status.json"}  # training state of a run folder
NOT_KEPT |= {"held_out_rows.csv", "trained_texts.safetensors"}  # of rows that are given in memory
log = logging.getLogger(__name__)
Array = npt.NDArray[Any]


class SentimentEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """A scikit-learn text classifier, for `cross_val_score`, `GridSearchCV`, `Pipeline` and the like.

    The parameters are the settings of the sections `text`, `model` and `trainer`, with the same names and
    defaults (see `TextConfig`, `ModelConfig`, `TrainerConfig`), and those below. They are listed one by one
    because scikit-learn reads them from the signature.

    Training sets the process's threads and flushes denormal numbers to zero, like the command. With
    ``n_jobs`` above 1, set ``threads`` to the cores of each job; jobs in threads of one process train one
    after the other.

    Args:
        pretrained: what training starts from: starter, auto, or a run folder (see `Config`).
        adapt: how to adapt a classifier (see `Config`). With few rows none is held out, and two per class are
            enough.
        validation_fraction: share of the rows that `fit` holds out, stratified by class, to select the best
            epoch and to calibrate the probabilities. Rows are cross-validated instead with None, with the
            default if training starts from a classifier with few rows, and with fewer than 100 rows if some
            split would lack a class.
        deduplicate: train on each text once, with its first label, like the command. False keeps repeated
            texts, as in a bootstrap or oversampled set: they count as often, and all rows of a text are in
            the same split.
        left_out: labels whose rows are left out, such as those of a class that is too rare: they are not
            classes, and never predicted.
        random_state: an integer, like the command's `seed`; a RandomState to draw it from; None for a random
            one.
        verbose: log like the command: to the handlers of `logging`, or else to standard output.

    Attributes:
        classes_: the labels in their original type, sorted, (C,).
        classifier_: the `SentimentClassifier`, for label sets, details and the like; its labels are strings.
        metrics_: content of metrics.json: scores on held-out rows, times.
        run_: name -> content of the files of the run folder.

    >>> from sklearn.model_selection import cross_val_score
    >>> texts = [f"a {word} film {i}" for i in range(20) for word in ("good", "bad")]
    >>> estimator = SentimentEstimator(
    ...     epochs=4, embedding_size=8, hidden_size=8, batch_size=4, learning_rate=0.05, ema=0, threads=1
    ... )
    >>> cross_val_score(estimator, texts, [1, 0] * 20, cv=2).tolist()
    [1.0, 1.0]
    >>> estimator.fit(texts, [1, 0] * 20).predict(["good", "bad"]).tolist()
    [1, 0]
    """

    def __init__(
        self,
        *,
        tokenizer: str = TextConfig.tokenizer,
        lowercase: bool = TextConfig.lowercase,
        normalize: str = TextConfig.normalize,
        max_tokens: int = TextConfig.max_tokens,
        truncate: str = TextConfig.truncate,
        min_frequency: int = TextConfig.min_frequency,
        max_vocabulary: int = TextConfig.max_vocabulary,
        subwords: int = TextConfig.subwords,
        vectors: str | None = TextConfig.vectors,
        vector_words: int = TextConfig.vector_words,
        freeze_vectors: bool = TextConfig.freeze_vectors,
        embedding_size: int = ModelConfig.embedding_size,
        hidden_size: int = ModelConfig.hidden_size,
        layers: int = ModelConfig.layers,
        bidirectional: bool = ModelConfig.bidirectional,
        pooling: str = ModelConfig.pooling,
        dropout: float = ModelConfig.dropout,
        embedding_dropout: float = ModelConfig.embedding_dropout,
        word_dropout: float = ModelConfig.word_dropout,
        ngrams: int = ModelConfig.ngrams,
        ngram_kind: str = ModelConfig.ngram_kind,
        epochs: int = TrainerConfig.epochs,
        batch_size: int = TrainerConfig.batch_size,
        learning_rate: float = TrainerConfig.learning_rate,
        embedding_rate: float = TrainerConfig.embedding_rate,
        layer_decay: float = TrainerConfig.layer_decay,
        unfreeze: int = TrainerConfig.unfreeze,
        weight_decay: float = TrainerConfig.weight_decay,
        warmup: float = TrainerConfig.warmup,
        clip_norm: float = TrainerConfig.clip_norm,
        label_smoothing: float = TrainerConfig.label_smoothing,
        r_drop: float = TrainerConfig.r_drop,
        vat: float = TrainerConfig.vat,
        class_weights: str = TrainerConfig.class_weights,
        ema: float = TrainerConfig.ema,
        accumulate: int = TrainerConfig.accumulate,
        precision: str = TrainerConfig.precision,
        device: str = TrainerConfig.device,
        threads: int = TrainerConfig.threads,
        metric: str = TrainerConfig.metric,
        patience: int = TrainerConfig.patience,
        pretrained: str | None = Config.pretrained,
        adapt: str = Config.adapt,
        validation_fraction: float | None = 0.1,
        deduplicate: bool = False,
        left_out: Collection[Any] = (),
        random_state: int | np.random.RandomState | None = Config.seed,
        verbose: bool = False,
    ) -> None:
        for name, value in list(locals().items()):
            if name != "self":
                setattr(self, name, value)

    def fit(
        self, X: Sequence[str], y: Sequence[Any], sample_weight: Sequence[float] | None = None
    ) -> SentimentEstimator:
        """Train on texts and their labels.

        Args:
            X: R texts: a list, an array or a pandas Series of strings.
            y: R labels, all strings or all numbers or booleans; at most 100 different ones.
            sample_weight: multiplicity of each row (R,): 2 counts as two rows, 0 as none; None for 1. Fits
                over a frozen LSTM are the same as with repeated rows; gradient steps use a row once per
                epoch, with its weight.

        Raises:
            ValueError: texts, labels or settings that cannot be used, or too few rows of a class; its cause
                is a `ConfigError` or `DataError`.
            TrainingError: the loss is non-finite.
            KeyboardInterrupt: Ctrl-C, after the step; this estimator is unchanged.
        """
        texts = texts_of(X)
        y = list(y) if isinstance(y, Iterable) else np.asarray(y).tolist()
        weight_R = row_weights_of(sample_weight, texts)
        kept = rows_to_learn(self.left_out, texts, y, weight_R)
        labels_R, weight_R = list(y), weight_R[kept]
        texts, labels = ([of[row] for row in kept] for of in (texts, labels_R))
        classes_C, label_R = classes_of(labels, texts)
        names = class_names(classes_C)
        repeated = len(texts) - len({text.strip() for text in texts})
        if self.deduplicate and repeated:
            message = "%s of %s rows repeat a text and are left out; deduplicate=False trains on them"
            log.warning(message, f"{repeated:,}", f"{len(texts):,}")
        with contextlib.ExitStack() as stack:
            stack.enter_context(_stopped_as_any_program())
            stack.enter_context(one_training_at_a_time)
            stack.enter_context(as_value_errors(kept))
            stack.enter_context(_reporting(self.verbose))
            stack.enter_context(torch.random.fork_rng(devices=[]))  # keeps the caller's random state
            folder = Path(stack.enter_context(_temporary_folder()))
            rows = (
                {"text": text, "label": names[label], "weight": weight}
                for text, label, weight in zip(texts, label_R, weight_R.tolist(), strict=True)
            )
            with (folder / "rows.jsonl").open("w", encoding="ascii") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
            config = self._config(folder / "rows.jsonl", names)
            metrics = run(config, cache=folder / "cache")
            classifier, contents = read_run(config.out, device=self.device), _contents(Path(config.out))
        classifier.run = None  # the folder is temporary
        self.classes_, self.metrics_ = classes_C, metrics
        self.classifier_, self.run_ = classifier, contents
        return self

    def predict(self, X: Sequence[str]) -> Array:
        """Return the most probable label of each text, (R,); raises like `predict_proba`."""
        classes_R: Array = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_)[classes_R]

    def predict_proba(self, X: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities (R, C), columns as in `classes_`.

        Raises:
            NotFittedError: before `fit`.
            ValueError: not strings.
        """
        check_is_fitted(self)
        return self.classifier_.predict_proba(texts_of(X))

    def save(self, folder: str | Path) -> None:
        """Write a run folder, for `load`, the commands and the Hub; labels become strings.

        Args:
            folder: a new or empty folder.

        Raises:
            NotFittedError: before `fit`.
            RunError: the folder is not empty.

        Example::

            estimator.fit(texts, labels).save("runs/reviews")
            lstm_sentiment.load("runs/reviews").predict(["Unbelievable service"])
        """
        check_is_fitted(self)
        with new_folder(Path(folder)) as building:
            _write_contents(building, self.run_)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("classifier_", None)  # restored from `run_`
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "run_" in state:
            with _temporary_folder() as folder:
                _write_contents(Path(folder), self.run_)
                self.classifier_ = load(folder, device=device_here(self.device))
            self.classifier_.run = None  # the folder is temporary

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.non_deterministic = not isinstance(self.random_state, Integral)
        return tags

    def _config(self, rows: Path, names: list[str]) -> Config:
        """Return the configuration of the command with these settings."""
        given = self.get_params(deep=False)
        names_of_keys = {key: key.rpartition(".")[2] for key in flatten(Config())}
        config = config_of(
            {key: _spelled(given[name]) for key, name in names_of_keys.items() if name in given}
        )
        if not isinstance(self.validation_fraction, Real | None):
            raise ConfigError(
                f"must be a number, not {self.validation_fraction!r}", key="validation_fraction"
            )
        data = dataclasses.replace(
            config.data,
            train=str(rows),
            validation=None if self.validation_fraction is None else float(self.validation_fraction),
            test=None,
            text_column="text",
            label_column="label",
            weight_column="weight",
            labels=names,
            encoding_errors="strict",  # written as ASCII
        )
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31 - 1)
        out = str(rows.with_name("run"))
        return dataclasses.replace(config, data=data, out=out, seed=int(seed), baseline=False)


def _spelled(value: Any) -> str:
    """Format a setting for the command line, whose parser checks types and ranges.

    >>> [_spelled(v) for v in (None, True, np.float64(0.1), "mean+max")]
    ['null', 'true', '0.1', 'mean+max']
    """
    return "null" if value is None else as_text(value)


def _contents(folder: Path) -> dict[str, bytes]:
    """Return name -> content of the files of a run that prediction needs."""
    files = {file.relative_to(folder): file for file in sorted(folder.rglob("*")) if file.is_file()}
    kept = {name: file for name, file in files.items() if name.parts[0] not in NOT_KEPT}
    return {name.as_posix(): file.read_bytes() for name, file in kept.items()}


def _write_contents(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_atomically(folder / name, content)


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    # Windows cannot remove mapped files; the system cleans its temporary folder.
    return tempfile.TemporaryDirectory(prefix="lstm_sentiment-", ignore_cleanup_errors=True)


@contextlib.contextmanager
def _stopped_as_any_program() -> Iterator[None]:
    """Raise the signal that stopped training again, since searches continue after ordinary errors."""
    try:
        yield
    except StoppedError as error:
        signal.raise_signal(error.signal_number)  # for the handler of Python, the caller or the system
        if error.signal_number == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise SystemExit(error.exit_code) from error


@contextlib.contextmanager
def _reporting(verbose: bool) -> Iterator[None]:
    """Enable the package's log messages, or only its warnings."""
    package = logging.getLogger("lstm_sentiment")
    level, handler = package.level, SafeHandler(sys.stdout)
    add_handler = verbose and not package.hasHandlers()
    package.setLevel(logging.INFO if verbose else logging.WARNING)
    if add_handler:
        package.addHandler(handler)
    try:
        yield
    finally:
        package.setLevel(level)
        package.removeHandler(handler)
