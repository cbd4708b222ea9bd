"""A classifier for the batches of other programs: Ray Data, Spark, Dask, a loop.

Legend: R rows of a batch, C classes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lstm_sentiment.checkpoints.run_paths import is_starter, run_path
from lstm_sentiment.errors import DataError, RunError, did_you_mean, listed, shown
from lstm_sentiment.text.given import is_missing

if TYPE_CHECKING:
    from lstm_sentiment.prediction.classifier import SentimentClassifier

Batch = TypeVar("Batch")
# Of this process, by run, device, precision and process id.
_loaded: dict[tuple[str, str, str, int], SentimentClassifier] = {}


class BatchPredictor:
    """Adds predictions to batches of rows.

    A predictor is pickled by the path of its run, loads it once in each process, and predicts with one
    thread, so that there can be a process for each core. A prediction does not depend on the batch.

    Args:
        run: a run folder that every process can read, or ``starter``.
        text: column with the texts.
        prefix: of the columns that are added, such as ``predicted_`` where the batch has a column label.
        device: cpu, cuda, cuda:N, mps or auto.
        precision: of the LSTM's products, fp32 or bf16 (see `load`).

    Raises:
        RunError: not a run folder.

    >>> predictor = BatchPredictor("starter")
    >>> predicted = predictor({"text": np.array(["The crew was rude", None], object)})
    >>> list(predicted)
    ['text', 'label', 'score', 'probability_negative', 'probability_neutral', 'probability_positive']
    >>> predicted["label"].tolist()
    ['negative', None]
    """

    def __init__(
        self,
        run: str | Path,
        text: str = "text",
        *,
        prefix: str = "",
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.run = str(run) if is_starter(run) else str(Path(run_path(run)).resolve())
        if not is_starter(run) and not Path(self.run).is_dir():
            raise RunError(f"{run}: no such folder; name a run folder, or starter")
        self.text, self.prefix = text, prefix
        self.device, self.precision = device, precision

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), vars(self))

    @property
    def classifier(self) -> SentimentClassifier:
        """The classifier, loaded at first use in a process."""
        key = (self.run, self.device, self.precision, os.getpid())  # a fork gets its own
        if key not in _loaded:
            from lstm_sentiment.prediction.classifier import load  # imports torch: not in the driver

            _loaded[key] = load(self.run, device=self.device, precision=self.precision)
        return _loaded[key]

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch with the columns label, score and, for each class, ``probability_NAME``.

        The row of a missing text has the label None and no score; all other columns are as they were.

        Args:
            batch: a dict of arrays, a pandas data frame or an Arrow table, each of R rows.

        Returns:
            another batch of the same kind.

        Raises:
            DataError: no such column of texts; a column of a name that is added; a value that is not text.
        """
        columns = _columns(batch)
        if self.text not in columns:
            here, hint = listed(columns, quoted=True), did_you_mean(self.text, columns)
            raise DataError(f"no column {shown(self.text)} of texts in the batch, but {here}.{hint}")
        names = ["label", "score", *(f"probability_{label}" for label in self.classifier.labels)]
        taken = [name for name in names if f"{self.prefix}{name}" in columns]
        if taken:
            problem = f"the batch has a column {shown(self.prefix + taken[0])}, which is added"
            raise DataError(f'{problem}; choose a prefix, such as prefix="predicted_"')
        added = self._predicted(batch[self.text])  # type: ignore[index]
        found: Batch = _with_columns(batch, {f"{self.prefix}{name}": of for name, of in added.items()})
        return found

    def _predicted(self, texts: Any) -> dict[str, Any]:
        """Return the columns to add."""
        given = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
        labels = np.array([*self.classifier.labels, None], object)
        with one_thread():
            probabilities_RC = self.classifier.predict_proba(given, on_missing="null")
        missing_R = np.array([is_missing(text) for text in given], bool)
        best_R = np.where(missing_R, len(labels) - 1, np.nan_to_num(probabilities_RC).argmax(axis=1))
        return {"label": labels[best_R], "score": probabilities_RC.max(axis=1)} | {
            f"probability_{label}": probabilities_RC[:, c] for c, label in enumerate(self.classifier.labels)
        }


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread within a block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _made(kind: type[BatchPredictor], attributes: dict[str, str]) -> BatchPredictor:
    """Return a predictor without a look at its run, which is read at first use."""
    made = kind.__new__(kind)
    vars(made).update(attributes)
    return made


def _columns(batch: Any) -> list[str]:
    if isinstance(batch, Mapping):
        return list(batch)
    names = getattr(batch, "column_names", None)  # of Arrow
    if names is None and hasattr(batch, "columns") and hasattr(batch, "assign"):
        names = batch.columns
    if names is None:
        kind = type(batch).__name__
        raise DataError(f"a batch is a dict of arrays, a pandas data frame or an Arrow table, not {kind}")
    return list(names)


def _with_columns(batch: Any, added: Mapping[str, Any]) -> Any:
    if isinstance(batch, Mapping):
        return {**batch, **added}
    if hasattr(batch, "assign"):
        return batch.assign(**added)
    import pyarrow as pa

    for name, values in added.items():
        kind = pa.string() if values.dtype == object else pa.float64()
        batch = batch.append_column(name, pa.array(values, kind, from_pandas=True))
    return batch
