"""Texts as callers hand them over: lists, arrays, columns of tables; and what is no list of texts.

Needs numpy alone, and no other module of this package: it is also a part of the one file that answers texts
without PyTorch (see `export`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

LISTED = 6  # names in a message
USUAL = ("text", "review", "sentence", "tweet", "comment")


def texts_in(given: Any, *, name: str = "texts") -> Iterable[Any]:
    """Return what was given as texts: one string, any iterable of strings, or a table of one column.

    Arrays of NumPy, pandas, Arrow and Polars are such iterables; each text itself is not looked at here.

    Args:
        given: by a caller.
        name: what the caller's code calls it, for messages.

    Raises:
        TypeError: something that would be taken for other texts than its own, such as the names of a table's
            columns; the message says what to pass.

    >>> list(texts_in("so-so")), list(texts_in(word for word in ("good", "bad")))
    (['so-so'], ['good', 'bad'])
    >>> texts_in({"text": ["good"]})
    Traceback (most recent call last):
        ...
    TypeError: texts is a dict with the keys 'text', and no list of texts; pass one of its values, such as ...
    """
    if isinstance(given, str):
        return [given]
    kind = type(given).__name__
    if isinstance(given, Mapping):
        raise TypeError(
            f"{name} is a {kind} with the keys {_listed(given)}, and no list of texts; pass one of its "
            f"values, such as {name}[{_likely(list(given))!r}]"
        )
    if isinstance(given, bytes | bytearray | memoryview):
        raise TypeError(f"{name} is {kind}; pass text, such as {name}.decode('utf-8')")
    shape = getattr(given, "shape", None)
    if isinstance(shape, tuple) and len(shape) != 1:
        given = _column(given, shape, kind, name)
    if not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a string or many strings, not {kind}")
    return given.to_pylist() if hasattr(given, "to_pylist") else given  # of Arrow, whose values are no str


def _column(given: Any, shape: tuple[int, ...], kind: str, name: str) -> Any:
    """Return the only column of a table or of an array of two dimensions."""
    found = getattr(given, "column_names", getattr(given, "columns", None))
    names = None if found is None else list(found)
    if len(shape) == 2 and shape[1] == 1:
        return given[:, 0] if names is None else given[names[0]]
    if names:
        raise TypeError(
            f"{name} is a {kind} with the columns {_listed(names)}; pass the one that holds texts, such as "
            f"{name}[{_likely(names)!r}]"
        )
    if not shape:
        raise TypeError(f"{name} is a {kind} without a dimension; pass a list, such as [{name}.item()]")
    raise TypeError(f"{name} is a {kind} of shape {shape}; pass one column of it, such as {name}[:, 0]")


def _listed(names: Iterable[Any]) -> str:
    some = [repr(name)[:60] for name in itertools.islice(names, LISTED + 1)]
    return ", ".join([*some[:LISTED], *(["..."] if len(some) > LISTED else [])]) or "(none)"


def _likely(names: list[Any]) -> Any:
    """Return the name that a column of texts most likely has."""
    return next((name for name in names if str(name).lower() in USUAL), names[0] if names else "text")
