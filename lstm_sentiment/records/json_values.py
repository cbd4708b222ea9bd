"""Dataclasses as JSON values and back; an error names the file and the field.

A field whose default is None is optional: it is written unless it is None, and may be missing from a file.
All others must be there. Fields that a class does not have are ignored: a later version may have added them.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from lstm_sentiment.errors import CheckpointError, escaped, listed, shown

T = TypeVar("T")


class Record:
    """Base class of a dataclass that is the content of a JSON file of a run folder."""

    FILE: ClassVar[str]

    def as_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        content: dict[str, Any] = to_json(self)
        return content


COUNT = "a whole number of 0 or more"
Count = Annotated[int, COUNT]
LARGEST = 1 << 63  # of a whole number
TRAIN_AGAIN = "restore the file from a copy, or train again with --overwrite true"
WORDS: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Count: COUNT,
    type(None): "null",
    list: "a list",
    dict: "an object",
}


def to_json(value: Any) -> Any:
    """Return a dataclass, or a list or dict of them, as the value that `json.dumps` takes.

    >>> @dataclasses.dataclass(kw_only=True)
    ... class Epoch:
    ...     number: int
    ...     score: float | None
    ...     note: str | None = None
    >>> to_json([Epoch(number=1, score=None)])
    [{'number': 1, 'score': None}]
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        optional = _optional(type(value))
        return {name: to_json(of) for name, of in found.items() if of is not None or name not in optional}
    if isinstance(value, dict):
        return {name: to_json(of) for name, of in value.items()}
    return [to_json(of) for of in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[T], found: Any, *, file: Path | str, fix: str = TRAIN_AGAIN) -> T:
    """Return the content of a JSON file as a dataclass, or as a list or dict of them.

    Args:
        kind: its fields are text, numbers, `Count`, booleans, `Literal`, dataclasses, lists and dicts of
            these, or None; its ``__post_init__`` may raise ValueError for values that do not fit each other.
        found: the parsed content.
        file: that it was read from, for the message.
        fix: what the user can do about a malformed file.

    Raises:
        CheckpointError: a field is missing or has another type; names it and what was expected.

    >>> @dataclasses.dataclass(kw_only=True)
    ... class Epoch:
    ...     number: Count
    >>> from_json(dict[str, Epoch], {"best": {"number": 3}}, file="a.json")
    {'best': Epoch(number=3)}
    >>> from_json(dict[str, Epoch], {"best": {"number": "3"}}, file="a.json", fix="write it again")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.CheckpointError: a.json: best.number is '3', not a whole number of 0 or more; \
write it again
    """
    try:
        read: T = _read(kind, found, "")
    except _MisfitError as error:
        raise CheckpointError(f"{file}: {error}; {fix}") from None
    return read


def missing(file: Path | str, field: str, expected: str = "an object") -> CheckpointError:
    """Return the error for a file that lacks a field.

    >>> str(missing("data.json", "splits.test"))[:55]
    'data.json: splits.test is missing; it must be an object'
    """
    return CheckpointError(f"{file}: {field} is missing; it must be {expected}; {TRAIN_AGAIN}")


class _MisfitError(Exception):
    """A value that does not fit; the message names its place in the file."""


def _read(kind: Any, found: Any, place: str) -> Any:
    """Return a JSON value as a type; raise `_MisfitError` naming its place if it does not fit."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_fields(kind, found, place)
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if found is None and type(None) in of:
            return None
        (kind,) = (part for part in of if part is not type(None))
        return _read(kind, found, place)
    if origin is list and isinstance(found, list):
        if of[0] is float and {*map(type, found)} == {float}:  # a thousand thresholds
            return found.copy()
        return [_read(of[0], value, f"{place}[{i}]") for i, value in enumerate(found)]
    if origin is dict and isinstance(found, dict):
        return {name: _read(of[1], value, _inside(place, name)) for name, value in found.items()}
    if kind is not Any and not _is_plain(kind, found):
        raise _MisfitError(f"{place or 'the content'} is {_described(found)}, not {_expected(kind)}")
    return found


def _read_fields(kind: Any, found: Any, place: str) -> Any:
    if not isinstance(found, dict):
        raise _MisfitError(f"{place or 'the content'} is {_described(found)}, not an object")
    values = {}
    for name, of in _hints(kind).items():
        inside = _inside(place, name)
        if name in found:
            values[name] = _read(of, found[name], inside)
        elif name not in _optional(kind):
            raise _MisfitError(f"{inside} is missing; it must be {_expected(of)}")
    try:
        return kind(**values)
    except ValueError as error:
        raise _MisfitError(f"{place}.{error}" if place else str(error)) from None


def _is_plain(kind: Any, found: Any) -> bool:
    """Whether a value without parts has a type; whole numbers are numbers, true and false are not."""
    if typing.get_origin(kind) is typing.Literal:
        return isinstance(found, str) and found in typing.get_args(kind)
    if kind is Count:
        return type(found) is int and 0 <= found < LARGEST
    if kind in (int, float):
        return type(found) is kind or (type(found) is int and abs(found) < LARGEST)
    return type(found) is kind


def _inside(place: str, name: str) -> str:
    return f"{place}.{escaped(name, 60)}" if place else escaped(name, 60)


def _described(found: Any) -> str:
    """Return a JSON value in a few words, for a message."""
    if found is None or isinstance(found, bool):
        return "null" if found is None else str(found).lower()
    if isinstance(found, list | dict):
        return f"{'a list' if isinstance(found, list) else 'an object'} of {len(found):,}"
    return shown(found) if isinstance(found, str) else escaped(str(found), 30)


def _expected(kind: Any) -> str:
    """Return a type in words.

    >>> _expected(float | None), _expected(list[int])
    ('a number or null', 'a list')
    """
    if dataclasses.is_dataclass(kind):
        return "an object"
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return f"one of {listed(of)}"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(_expected, of))
    return WORDS.get(kind) or WORDS.get(origin, str(kind))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the types of a class's fields, cached: evaluating them is slow."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@functools.cache
def _optional(kind: type) -> frozenset[str]:
    """Return the names of the fields whose default is None."""
    return frozenset(field.name for field in dataclasses.fields(kind) if field.default is None)
