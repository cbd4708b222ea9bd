"""Mapping of labels in files to classes, and error messages for invalid labels.

Legend: R rows of a source.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.config.sections import MAX_CLASSES, code_of, only_excludes
from lstm_sentiment.data.token_store import TokenStore
from lstm_sentiment.errors import DataError, Problems, did_you_mean, escaped, listed, shown

NO_LABEL = (
    'has no label; add one, or exclude such rows: in data.labels, map "" to null and each other label '
    "to its name"
)
MISSING = {"nan", "null", "<na>"}  # spellings of missing labels
Array = npt.NDArray[Any]


def class_map(
    labels: list[str] | dict[int | str, str | None] | None, store: TokenStore
) -> dict[str, str | None]:
    """Return label in the file -> class name, in class order; None for rows to exclude.

    Raises:
        DataError: a single class, more than 100, or two labels that look the same.

    >>> store = TokenStore.in_memory(np.zeros(0, np.int32), np.zeros(3, np.int64), [])
    >>> class_map({0: "negative", 1: "positive", 2: None}, store)
    {'0': 'negative', '1': 'positive', '2': None}
    """
    mapped = {str(code): name for code, name in labels.items()} if isinstance(labels, dict) else {}
    if mapped and not only_excludes(mapped):
        return mapped
    if isinstance(labels, list):
        return {name: name for name in labels}
    left_out = entries_of(store.label_values, mapped)
    by_code: dict[str, str] = {}
    for value in store.label_values:
        if value not in left_out:
            by_code.setdefault(code_of(value), value)
    values = sorted(by_code.values(), key=_natural)
    if "" in values:
        unknown_labels(_places(store, [store.label_values.index("")]), {}).raise_any()
    if len(values) < 2:
        every = f"every row has the label {shown(values[0])}" if values else "data.labels excludes every row"
        raise DataError(f"{every}; a classifier needs at least two: add others", file=store.name)
    own = len(values) == len(store.labels) > 2
    if len(values) <= MAX_CLASSES:
        _refuse_doubtful(values, store)
    if own or len(values) > MAX_CLASSES:
        problem = "every row has a different label" if own else f"{len(values):,} different labels"
        raise DataError(
            f"{problem} ({listed(values, most=5, quoted=True)}); at most {MAX_CLASSES} are allowed, and each "
            "needs several rows; set data.label_column to the right one, or data.labels to the classes",
            file=store.name,
        )
    names = [value if value.isalpha() else code_of(value) for value in values]  # True stays True, 4.0 is 4
    return {**{name: name for name in names}, **mapped}


def class_indices(
    stores: dict[str, TokenStore], label_map: Mapping[str, str | None], labels: list[str]
) -> dict[str, Array]:
    """Return each row's class index (R,) per split, -1 to leave it out.

    Raises:
        DataError: labels without a class, of all splits.

    Example::

        classes = class_indices({"train": store}, {"0": "bad", "1": "good"}, ["bad", "good"])
    """
    index: dict[str | None, int] = {label: i for i, label in enumerate(labels)}
    index[None] = -1
    classes, problems = {}, Problems[DataError]()
    for split, store in stores.items():
        entries = entries_of(store.label_values, label_map)
        unknown = [number for number, value in enumerate(store.label_values) if value not in entries]
        try:
            unknown_labels(_places(store, unknown), label_map).raise_any()
        except DataError as error:
            problems.add(error)
            continue
        of_value = np.array([index[label_map[entries[value]]] for value in store.label_values], np.int64)
        classes[split] = of_value[store.labels]
    problems.raise_any()
    return classes


def entries_of(values: Iterable[str], label_map: Mapping[str, str | None]) -> dict[str, str]:
    """Match labels of a file to entries of a label map; unknown labels are omitted.

    A label is looked up literally, then as a code: 4.0 matches the entry 4.

    >>> entries_of(["4.0", "good", "5"], {"4": "good", "good": "good"})
    {'4.0': '4', 'good': 'good'}
    """
    by_code = {code_of(entry): entry for entry in label_map}
    found = {value: value if value in label_map else by_code.get(code_of(value)) for value in values}
    return {value: entry for value, entry in found.items() if entry is not None}


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a label is.

    Args:
        file: of the first row that has it.
        line: of that row.
        row: its place among all rows.
        count: rows that have it.
    """

    file: str
    line: int
    row: int
    count: int


def _places(store: TokenStore, values: Iterable[int]) -> dict[str, Places]:
    """Return the places of some label values, by their numbers, of those that rows have."""
    found = {}
    for number in values:
        rows = np.flatnonzero(store.labels == number)
        if len(rows):
            file, line = store.place(int(rows[0]))
            places = Places(file=file, line=line, row=int(rows[0]), count=len(rows))
            found[store.label_values[number]] = places
    return found


def unknown_labels(
    found: Mapping[str, Places], label_map: Mapping[str, str | None], *, trained: bool = False
) -> Problems[DataError]:
    """Return the errors for labels without a class.

    Args:
        found: unknown label -> where it is.
        label_map: known labels.
        trained: whether they are those of a finished run, whose `data.labels` cannot be changed.

    >>> found = {"postive": Places(file="a.csv", line=17, row=15, count=2)}
    >>> unknown_labels(found, {"negative": None, "positive": None}).raise_any()
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.DataError: a.csv:17: label 'postive' is not one of negative, positive. Did you ...
    """
    problems = Problems[DataError]()
    if found and (turned := _inverted(found, label_map)):
        first = min(found.values(), key=lambda places: places.row)
        problem = f"data.labels maps names to labels, not labels to names; write {turned}"
        return Problems.of(DataError(problem, file=first.file, line=first.line))
    for value, places in sorted(found.items(), key=lambda item: item[1].row):
        if len(problems.first) == problems.MOST:  # finding the closest name is slow
            problems.add(DataError(""))
            continue
        problem = f"label {shown(value)} is not one of {listed(label_map)}."
        if not value:
            problem = "has no label; add one, or delete the row" if trained else NO_LABEL
        elif trained and _is_number(value):
            problem += (
                " The run was not trained with this label: write the names into the file, or delete such rows"
            )
        elif _is_number(value):
            problem += (
                " If it is a code, map it to a name: data.labels {0: negative, 1: positive}, or to null"
            )
        else:
            leave_out = "delete" if trained else "exclude"
            problem += did_you_mean(value, label_map) or f" Correct it, or {leave_out} such rows"
        problem += f" ({places.count:,} rows)" if places.count > 1 else ""
        problems.add(DataError(problem, file=places.file, line=places.line))
    return problems


def _inverted(found: Iterable[str], label_map: Mapping[str, str | None]) -> str:
    """Return the inverted map if it maps names to numbers that are the file's labels."""
    names = {name: entry for entry, name in label_map.items() if name is not None}
    numbers = all(_is_number(name) and not _is_number(entry) for name, entry in names.items())
    if not numbers or not all(entries_of([value], names) for value in found):
        return ""
    return "{" + listed(f"{name}: {entry}" for name, entry in names.items()) + "}"


def _refuse_doubtful(values: list[str], store: TokenStore) -> None:
    """Refuse labels that look like one class in two spellings or like missing values, unless mapped."""
    problems = Problems[DataError]()
    spelt: dict[float | str, str] = {}
    for value in sorted(values, key=lambda value: _first_row(store, value)):
        folded = value.casefold()
        same = spelt.setdefault(float(value) if _is_number(value) else folded, value)
        problem = ""
        if same != value:
            other, line = store.place(_first_row(store, same))
            where = f"line {line}" if other == store.name else f"{escaped(other)}:{line}"
            problem = f"looks like {shown(same)} at {where}; spell them alike"
        elif folded in MISSING:
            problem = "looks like a missing value; write the label"
        elif not value.isprintable():
            problem = "contains an invisible character; remove it"
        if problem:
            problem = f"label {shown(value)} {problem}, or map each label in data.labels"
            file, line = store.place(_first_row(store, value))
            problems.add(DataError(problem, file=file, line=line))
    problems.raise_any()


def _first_row(store: TokenStore, value: str) -> int:
    return int(np.argmax(store.labels == store.label_values.index(value)))


def _is_number(value: str) -> bool:
    return re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?", value) is not None


def _natural(value: str) -> tuple[float, str]:
    """Sort key: numbers by value, before names."""
    return (float(value) if _is_number(value) else math.inf), value
