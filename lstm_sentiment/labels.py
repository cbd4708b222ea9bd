"""From labels as files spell them to classes, and what is said of labels that cannot be meant.

Legend: R rows of a source.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.errors import DataError, Problems, did_you_mean, listed, shown
from lstm_sentiment.reading.tokens import TokenStore
from lstm_sentiment.sections import MAX_CLASSES

MISSING = {"nan", "null", "<na>"}  # what programs write for a label that is not there
Array = npt.NDArray[Any]


def class_map(
    labels: list[str] | dict[int | str, str | None] | None, store: TokenStore
) -> dict[str, str | None]:
    """Return what a file says -> class name, in class order; None for rows to leave out.

    Raises:
        DataError: one class only, or more than 100, or two labels that look like one.

    >>> store = TokenStore.in_memory(np.zeros(0, np.int32), np.zeros(3, np.int64), [])
    >>> class_map({0: "negative", 1: "positive", 2: None}, store)
    {'0': 'negative', '1': 'positive', '2': None}
    """
    if isinstance(labels, dict):
        return {str(code): name for code, name in labels.items()}
    if labels is not None:
        return {name: name for name in labels}
    values = sorted(store.label_values, key=_natural)
    if len(values) < 2:
        raise DataError(
            f"every row has the label {shown(values[0])}; a classifier needs at least two: add others",
            file=store.name,
        )
    own = len(values) == len(store.labels) > 2
    if len(values) <= MAX_CLASSES:
        _refuse_doubtful(values, store)
    if own or len(values) > MAX_CLASSES:
        problem = "every row has a label of its own" if own else f"{len(values):,} different labels"
        raise DataError(
            f"{problem} ({listed(values, most=5, quoted=True)}); at most {MAX_CLASSES} are allowed, and each "
            "needs several rows; set data.label_column to the right one, or data.labels to the classes",
            file=store.name,
        )
    return {value: value for value in values}


def class_indices(
    stores: dict[str, TokenStore], label_map: Mapping[str, str | None], labels: list[str]
) -> dict[str, Array]:
    """Return each row's class index (R,) per split, -1 to leave it out.

    Raises:
        DataError: labels that no class has, of all splits.

    Example::

        classes = class_indices({"train": store}, {"0": "bad", "1": "good"}, ["bad", "good"])
    """
    index: dict[str | None, int] = {label: i for i, label in enumerate(labels)}
    index[None] = -1
    classes, problems = {}, Problems[DataError]()
    for split, store in stores.items():
        unknown: dict[str, list[int]] = {}
        known = np.array([value in label_map for value in store.label_values])
        for row in np.flatnonzero(~known[store.labels]):
            unknown.setdefault(store.label_values[store.labels[row]], []).append(int(store.lines[row]))
        try:
            unknown_labels(unknown, label_map, file=store.name).raise_any()
        except DataError as error:
            problems.add(error)
            continue
        of_value = np.array([index[label_map[value]] for value in store.label_values], np.int64)
        classes[split] = of_value[store.labels]
    problems.raise_any()
    return classes


def unknown_labels(
    found: Mapping[str, Sequence[int]], label_map: Mapping[str, str | None], *, file: str
) -> Problems[DataError]:
    """Say what is wrong with labels that no class has.

    Args:
        found: label -> lines of its rows.
        label_map: labels that are known.
        file: for messages.

    >>> unknown_labels({"postive": [17, 30]}, {"negative": None, "positive": None}, file="a.csv").raise_any()
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.DataError: a.csv:17: label 'postive' is not one of negative, positive. Did you ...
    """
    problems = Problems[DataError]()
    for value, lines in sorted(found.items(), key=lambda item: item[1][0]):
        if len(problems.first) == problems.MOST:  # a nearest name takes its time
            problems.add(DataError(""))
            continue
        problem = f"label {shown(value)} is not one of {listed(label_map)}."
        if not value:
            problem = "has no label; give it one, or remove the row"
        elif _is_number(value):
            problem += (
                " If it is a code, map it to a name: data.labels {0: negative, 1: positive}, or to null"
            )
        else:
            problem += did_you_mean(value, label_map) or " Correct it, or leave such rows out"
        problem += f" ({len(lines):,} rows)" if len(lines) > 1 else ""
        problems.add(DataError(problem, file=file, line=lines[0]))
    return problems


def _refuse_doubtful(values: list[str], store: TokenStore) -> None:
    """Refuse labels that are one class in two spellings, or no label; `data.labels` can say what they are."""
    problems = Problems[DataError]()
    spelt: dict[float | str, str] = {}
    for value in sorted(values, key=lambda value: _first_line(store, value)):
        folded = value.casefold()
        same = spelt.setdefault(float(value) if _is_number(value) else folded, value)
        problem = ""
        if same != value:
            problem = f"looks like {shown(same)} at line {_first_line(store, same)}; spell them alike"
        elif folded in MISSING:
            problem = "looks like a missing one; write what it is"
        elif not value.isprintable():
            problem = "holds a character that cannot be seen; remove it"
        if problem:
            problem = f"label {shown(value)} {problem}, or say with data.labels what each means"
            problems.add(DataError(problem, file=store.name, line=_first_line(store, value)))
    problems.raise_any()


def _first_line(store: TokenStore, value: str) -> int:
    return int(store.lines[np.argmax(store.labels == store.label_values.index(value))])


def _is_number(value: str) -> bool:
    return re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", value) is not None


def _natural(value: str) -> tuple[float, str]:
    """Order numbers by value, before names."""
    return (float(value) if _is_number(value) else math.inf), value
