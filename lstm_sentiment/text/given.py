"""Input validation of texts: lists, arrays, table columns.

Needs only numpy and no other module of this package: it is also part of the single-file runtime that predicts
without PyTorch (see `export`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

LISTED = 6  # names in a message
USUAL = ("text", "review", "sentence", "tweet", "comment")
ON_MISSING = ("raise", "skip", "null")  # what is done with a missing text
_MISSING_TYPES = ("NoneType", "NAType", "NaTType")  # None, and pandas' NA and NaT


class NotTextError(TypeError):
    """A text that is not a string, or is missing; the message names its row."""


def texts_in(given: Any, *, name: str = "texts") -> Iterable[Any]:
    """Return the given texts as an iterable: one string, any iterable of strings, or a one-column table.

    Arrays of NumPy, pandas, Arrow and Polars are such iterables; the items are not checked here.

    Args:
        given: by a caller.
        name: of the caller's argument, for messages.

    Raises:
        TypeError: an object that would iterate over something else than its texts, such as the column names
            of a table; the message says what to pass.

    >>> list(texts_in("so-so")), list(texts_in(word for word in ("good", "bad")))
    (['so-so'], ['good', 'bad'])
    >>> texts_in({"text": ["good"]})
    Traceback (most recent call last):
        ...
    TypeError: texts is a dict with the keys 'text', not a list of texts; pass one of its values, such as ...
    """
    if isinstance(given, str):
        return [given]
    kind = type(given).__name__
    if isinstance(given, Mapping):
        raise TypeError(
            f"{name} is a {kind} with the keys {_listed(given)}, not a list of texts; pass one of its "
            f"values, such as {name}[{_likely(list(given))!r}]"
        )
    if isinstance(given, bytes | bytearray | memoryview):
        raise TypeError(f"{name} is {kind}; pass text, such as {name}.decode('utf-8')")
    shape = getattr(given, "shape", None)
    if isinstance(shape, tuple) and len(shape) != 1:
        given = _column(given, shape, kind, name)
    if not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a string or an iterable of strings, not {kind}")
    return given.to_pylist() if hasattr(given, "to_pylist") else given  # of Arrow, whose values are not str


def is_missing(value: Any) -> bool:
    """Whether a value is a missing text: None, NaN, and NA or NaT of pandas.

    >>> [is_missing(value) for value in (None, float("nan"), "", 0.0)]
    [True, True, False, False]
    """
    if type(value).__name__ in _MISSING_TYPES:
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def present(texts: Iterable[Any], on_missing: str, missing: list[int]) -> Iterator[str]:
    """Yield the texts that are not missing, in order, and collect the indices of the others.

    Args:
        texts: of `texts_in`.
        on_missing: ``raise``, or ``skip`` or ``null``, which are the same here.
        missing: the indices of missing texts are appended to it.

    Raises:
        NotTextError: an item that is neither a string nor missing, or missing with ``raise``.
        ValueError: another `on_missing`.

    >>> missing = []
    >>> list(present(["good", None, "bad"], "null", missing)), missing
    (['good', 'bad'], [1])
    >>> list(present(["good", None], "raise", []))
    Traceback (most recent call last):
        ...
    lstm_sentiment.text.given.NotTextError: row 2 (texts[1]): a text must be a string, not NoneType: ...
    """
    if on_missing not in ON_MISSING:
        raise ValueError(f"on_missing must be one of {', '.join(ON_MISSING)}, not {on_missing!r:.60}")
    for place, text in enumerate(texts):
        if isinstance(text, str):
            yield text
            continue
        absent = is_missing(text)
        if not absent or on_missing == "raise":
            hint = '; on_missing="skip" leaves missing texts out, "null" predicts None' if absent else ""
            found = f"a text must be a string, not {type(text).__name__}: {text!r:.60}"
            raise NotTextError(f"row {place + 1} (texts[{place}]): {found}{hint}")
        missing.append(place)


def _column(given: Any, shape: tuple[int, ...], kind: str, name: str) -> Any:
    """Return the only column of a table or a 2-D array."""
    found = getattr(given, "column_names", getattr(given, "columns", None))
    names = None if found is None else list(found)
    if len(shape) == 2 and shape[1] == 1:
        return given[:, 0] if names is None else given[names[0]]
    if names:
        raise TypeError(
            f"{name} is a {kind} with the columns {_listed(names)}; pass the one with the texts, such as "
            f"{name}[{_likely(names)!r}]"
        )
    if not shape:
        raise TypeError(f"{name} is a 0-dimensional {kind}; pass a list, such as [{name}.item()]")
    raise TypeError(f"{name} is a {kind} of shape {shape}; pass one column of it, such as {name}[:, 0]")


def _listed(names: Iterable[Any]) -> str:
    some = [repr(name)[:60] for name in itertools.islice(names, LISTED + 1)]
    return ", ".join([*some[:LISTED], *(["..."] if len(some) > LISTED else [])]) or "(none)"


def _likely(names: list[Any]) -> Any:
    """Return the most likely name of the text column."""
    return next((name for name in names if str(name).lower() in USUAL), names[0] if names else "text")
