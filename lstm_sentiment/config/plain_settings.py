"""Reading of settings that are written plainly, as those of a run are, without jsonargparse.

Importing jsonargparse takes longer than loading a run. It reads what is not plain, and reports values of a
wrong type.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Mapping
from types import UnionType
from typing import Any

from lstm_sentiment.config.yaml_files import SECTIONS, keys_of, type_of

# Text in any notation, but for the words below: a name or path.
_NAME = re.compile(r"([A-Za-z_]|(\.\.?)?/)[\w./+:-]*", re.ASCII)
_WORDS = {"null", "none", "true", "false", "yes", "no", "on", "off", "inf", "nan", "infinity"}
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,15})")
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,17})?(e[+-]?[0-9]{1,2})?")


class _NotPlainError(Exception):
    """A value that jsonargparse must read."""


def plain_settings(kind: type, given: Mapping[str, str]) -> Any:
    """Return settings whose values are all plain, else None; also None for a wrong key or type.

    Args:
        kind: a frozen dataclass of sections, every field with a default.
        given: dotted key -> value as on the command line.

    Raises:
        ConfigError: a value out of range, options in conflict.

    >>> from lstm_sentiment.config.schema import Config
    >>> plain_settings(Config, {"trainer.epochs": "3"}).trainer.epochs
    3
    >>> plain_settings(Config, {"trainer.epochs": "3.0"})
    """
    if not {*given} <= {*keys_of(kind)}:
        return None
    try:
        values = {key: _value(type_of(kind, key), text) for key, text in given.items()}
        default = kind()
        for section in SECTIONS:
            own = {key.partition(".")[2]: of for key, of in values.items() if key.startswith(f"{section}.")}
            if own:
                values[section] = dataclasses.replace(getattr(default, section), **own)
        return dataclasses.replace(default, **{key: of for key, of in values.items() if "." not in key})
    except (_NotPlainError, TypeError, ValueError):
        return None


def _value(hint: Any, text: str) -> Any:
    """Return a value of a type.

    Raises:
        _NotPlainError: the text is not a plain one of that type.
    """
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
    if typing.get_origin(hint) is typing.Literal and text in typing.get_args(hint):
        return text
    if text == "null" and type(None) in kinds:
        return None
    if bool in kinds and text in ("true", "false"):
        return text == "true"
    if int in kinds and float not in kinds and _WHOLE.fullmatch(text):
        return int(text)
    if float in kinds and _NUMBER.fullmatch(text):
        return float(text)
    if str in kinds and _is_name(text):
        return text
    if list[str] in kinds and text.startswith("["):
        names = json.loads(text)
        if all(isinstance(name, str) for name in names):
            return names
    if text == "{}" and any(typing.get_origin(of) is dict for of in kinds):
        return {}
    raise _NotPlainError


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and text.lower() not in _WORDS
