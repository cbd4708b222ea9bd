"""Texts and labels as scikit-learn is given them, checked.

Legend: R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from lstm_sentiment.errors import shown
from lstm_sentiment.reading.given import texts_in
from lstm_sentiment.reading.readers import as_text

Array = npt.NDArray[Any]


def texts_of(X: Any) -> list[str]:
    """Return texts as a list.

    Raises:
        ValueError: something else than one string per row.

    >>> texts_of(np.array(["so", 3], object))
    Traceback (most recent call last):
        ...
    ValueError: X[1] must be a string, not int
    """
    shape = getattr(X, "shape", (0,))
    if isinstance(X, str) or not isinstance(X, Iterable) or len(shape) != 1:
        found = f"of shape {shape}" if len(shape) != 1 else f"one {type(X).__name__}"
        raise ValueError(f"X must hold a text per row, not be {found}; a table's column is X['text']")
    try:
        texts = list(texts_in(X, name="X"))
    except TypeError as error:
        raise ValueError(str(error)) from None
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"X[{place}] must be a string, not {type(text).__name__}")  # noqa: TRY004 - as there
    return texts


def classes_of(y: Any, texts: list[str]) -> tuple[Array, Array]:
    """Return the different labels, sorted (C,), and each row's place among them (R,).

    Raises:
        ValueError: one class, missing labels, text beside numbers, or another number of labels than texts.

    >>> classes_of(["no", "yes", "no"], ["a", "b", "c"])[1].tolist()
    [0, 1, 0]
    """
    labels_R = column_or_1d(y, warn=True)
    check_consistent_length(texts, labels_R)
    as_given = np.asarray(y, object).ravel().tolist()  # without object, 1 would become "1" beside text
    if pd.isna(np.array(as_given, object)).any():
        raise ValueError("y holds missing labels")
    if len({isinstance(label, str) for label in as_given}) > 1:
        raise ValueError("y mixes text and other labels; give all as text, or all as numbers")
    check_classification_targets(labels_R)
    classes_C, index_R = np.unique(labels_R, return_inverse=True)
    if len(classes_C) < 2:
        count = f"{len(classes_C)} class{'' if len(classes_C) == 1 else 'es'}"
        raise ValueError(f"y must hold at least 2 classes, not {count}")
    return classes_C, index_R


def class_names(classes_C: Array) -> list[str]:
    """Return labels as a run folder spells them.

    Raises:
        ValueError: two that differ in white space alone, or an empty one.

    >>> class_names(np.array([False, True])), class_names(np.array([-1, 1]))
    (['false', 'true'], ['-1', '1'])
    """
    names = [as_text(label).strip() for label in classes_C.tolist()]
    for name in names:
        if not name or names.count(name) > 1:
            raise ValueError(f"y holds labels that are {shown(name)} but for white space; rename them")
    return names
