"""Input validation of texts: lists, arrays, table columns.

Needs only numpy and no other module of this package: it is also part of the single-file runtime that predicts
without PyTorch (see `export`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

LISTED = 6  # names in a message
USUAL = ("text", "review", "sentence", "tweet", "comment")


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
