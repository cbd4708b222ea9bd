"""Limits for untrusted YAML: no aliases (which expand), no tags, bounded nesting."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from lstm_sentiment.errors import ConfigError, shown

MOST_YAML_BYTES = 1 << 18
DEEPEST = 20  # nesting depth of lists and maps
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


def check_yaml(events: Iterable[yaml.Event], file: str, *, tags: bool = True) -> None:
    """Refuse untrusted YAML that expands when loaded or is nested too deeply.

    Args:
        events: of ``yaml.parse``, which reads lazily.
        file: for messages.
        tags: whether type tags such as ``!!int 3`` are allowed; PyYAML crashes on many that do not fit.

    Raises:
        ConfigError: an alias, nesting that is too deep, an unpaired surrogate, a number out of range; the
            message names the line.

    >>> check_yaml(yaml.parse("a: &x [1]\\nb: *x"), "a.yaml")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.ConfigError: a.yaml:2: an alias (*name); write the value out
    """
    depth, where = 0, f"{file}:1"
    try:
        for event in events:
            where = f"{file}:{event.start_mark.line + 1}" if event.start_mark else file
            if isinstance(event, yaml.AliasEvent):  # "billion laughs": expands to gigabytes
                raise ConfigError("an alias (*name); write the value out", where=where)
            tag = getattr(event, "tag", None)
            if tag is not None and not tags:
                raise ConfigError(f"the tag {shown(tag)}; write a plain value", where=where)
            if _UNWRITABLE.search(getattr(event, "value", "")):
                raise ConfigError("a NUL or an unpaired surrogate (\\0, \\ud800); remove it", where=where)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ConfigError(f"nested deeper than {DEEPEST}; write 'key: value' lines", where=where)
    except (ValueError, OverflowError) as error:  # PyYAML's, of "\UFFFFFFFF" or %YAML 999...9.1
        raise ConfigError(f"not YAML: {shown(str(error), 200)}; correct it", where=where) from None
