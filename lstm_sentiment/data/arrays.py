"""Validation of scikit-learn style inputs: X, y, sample_weight.

Legend: R rows, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from lstm_sentiment.data.columns import MOST_WEIGHT
from lstm_sentiment.data.formats.readers import as_text
from lstm_sentiment.data.splits import TooFewRowsError
from lstm_sentiment.errors import ConfigError, DataError, shown
from lstm_sentiment.text.given import texts_in

OWN_NAMES = {"data.validation": "validation_fraction", "seed": "random_state"}  # estimator parameters
Array = npt.NDArray[Any]


def texts_of(X: Any) -> list[str]:
    """Return texts as a list.

    Raises:
        ValueError: not one string per row.

    >>> texts_of(np.array(["so", 3], object))
    Traceback (most recent call last):
        ...
    ValueError: X[1] must be a string, not int
    """
    shape = getattr(X, "shape", (0,))
    if isinstance(X, str) or not isinstance(X, Iterable) or len(shape) != 1:
        found = f"of shape {shape}" if len(shape) != 1 else f"one {type(X).__name__}"
        raise ValueError(f"X must have one text per row, not be {found}; pass a table's column as X['text']")
    try:
        texts = list(texts_in(X, name="X"))
    except TypeError as error:
        raise ValueError(str(error)) from None
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"X[{place}] must be a string, not {type(text).__name__}")  # noqa: TRY004 - as there
    return texts


def classes_of(y: Any, texts: list[str]) -> tuple[Array, Array]:
    """Return the sorted distinct labels (C,) and each row's class index (R,).

    Raises:
        ValueError: a single class, missing labels, mixed types, or a number of labels other than of texts.

    >>> classes_of(["no", "yes", "no"], ["a", "b", "c"])[1].tolist()
    [0, 1, 0]
    """
    labels_R = column_or_1d(y, warn=True)
    check_consistent_length(texts, labels_R)
    as_given = np.asarray(y, object).ravel().tolist()  # without object, mixed 1 and text would become "1"
    if pd.isna(np.array(as_given, object)).any():
        raise ValueError("y contains missing labels")
    if len({isinstance(label, str) for label in as_given}) > 1:
        raise ValueError("y mixes text and other labels; pass all as text or all as numbers")
    check_classification_targets(labels_R)
    classes_C, index_R = np.unique(labels_R, return_inverse=True)
    if len(classes_C) < 2:
        count = f"{len(classes_C)} class{'' if len(classes_C) == 1 else 'es'}"
        raise ValueError(f"y must have at least 2 classes, not {count}")
    return classes_C, index_R


def class_names(classes_C: Array) -> list[str]:
    """Return labels in the spelling of a run folder.

    Raises:
        ValueError: two differ only in white space, or one is empty.

    >>> class_names(np.array([False, True])), class_names(np.array([-1, 1]))
    (['false', 'true'], ['-1', '1'])
    """
    names = [as_text(label).strip() for label in classes_C.tolist()]
    for name in names:
        if not name or names.count(name) > 1:
            raise ValueError(f"y has labels that equal {shown(name)} up to white space; rename them")
    return names


def row_weights_of(sample_weight: Any, texts: list[str]) -> Array:
    """Validate sample weights (R,); None means 1 for each row.

    Raises:
        ValueError: not one finite, non-negative number per row.

    >>> row_weights_of([2, 0.5], ["a", "b"]).tolist(), row_weights_of(None, ["a"]).tolist()
    ([2.0, 0.5], [1.0])
    """
    if sample_weight is None:
        return np.ones(len(texts))
    try:
        weight_R = np.asarray(sample_weight, np.float64)
    except (TypeError, ValueError):
        raise ValueError("sample_weight must be numbers") from None
    if weight_R.ndim == 0:
        weight_R = np.full(len(texts), float(weight_R))
    if weight_R.shape != (len(texts),):
        raise ValueError(f"sample_weight must have {len(texts)} numbers, not shape {weight_R.shape}")
    wrong = np.flatnonzero(~(np.isfinite(weight_R) & (weight_R >= 0) & (weight_R <= MOST_WEIGHT)))
    if len(wrong):
        found = weight_R[wrong[0]]
        raise ValueError(f"sample_weight[{wrong[0]}] must lie between 0 and {MOST_WEIGHT:,}, not {found}")
    return weight_R


def rows_to_learn(left_out: Any, texts: list[str], labels: Any, weight_R: Array) -> list[int]:
    """Return the rows to train on: without excluded labels and rows of weight 0.

    Args:
        left_out: labels to exclude, in their original type.
        texts: R texts.
        labels: R labels.
        weight_R: sample weights.

    Raises:
        ValueError: no row is left, or `left_out` is not a list.

    >>> rows_to_learn(["mixed"], ["a", "b", "c"], ["good", "mixed", "bad"], np.ones(3))
    [0, 2]
    """
    if isinstance(left_out, str) or not isinstance(left_out, Iterable):
        raise ValueError(f"left_out must be a list of labels, not {left_out!r}")  # noqa: TRY004 - of scikit-learn
    check_consistent_length(texts, column_or_1d(labels))
    given, unwanted = list(labels), list(left_out)
    kept = [row for row in range(len(texts)) if given[row] not in unwanted and weight_R[row] > 0]
    if texts and not kept:
        raise ValueError("no row is left: sample_weight is 0 or left_out names its label")
    return kept


@contextlib.contextmanager
def as_value_errors(kept: Sequence[int]) -> Iterator[None]:
    """Convert errors to the `ValueError` that scikit-learn expects, with indices into the X of `fit`.

    Args:
        kept: indices of the rows that were written to the training file.

    Raises:
        ValueError: the block raised a `ConfigError` or a `DataError`, its cause.

    >>> with as_value_errors([0, 4]):
    ...     raise DataError("has no label", file="rows.jsonl", line=2)
    Traceback (most recent call last):
        ...
    ValueError: X[4]: has no label
    """
    try:
        yield
    except ConfigError as error:
        key = OWN_NAMES.get(error.key or "", (error.key or "").rpartition(".")[2])
        raise ValueError(f"{key}: {error.message}" if key else error.message) from error
    except TooFewRowsError as error:
        problem = error.message
        if error.rare is not None:
            label, line = error.rare
            problem = f"too few rows for a split with every class: the label {shown(label)} has 1 row"
            problem += f", X[{kept[line - 1]}]; add more, or exclude it with left_out=[...]"
        raise ValueError(f"{problem}; validation_fraction=None cross-validates instead") from error
    except DataError as error:  # without the file name
        place = f"X[{kept[error.line - 1]}]: " if error.line else ""
        raise ValueError(f"{place}{error.message}") from error
