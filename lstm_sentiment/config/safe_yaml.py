"""YAML that anybody may have written: refused where it would grow when it is read, or nest without end."""

from __future__ import annotations

import re
from collections.abc import Iterable

import yaml

from lstm_sentiment.errors import ConfigError, shown

MOST_YAML_BYTES = 1 << 18
DEEPEST = 20  # lists and maps in one another
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


def check_yaml(events: Iterable[yaml.Event], file: str, *, tags: bool = True) -> None:
    """Refuse what YAML from strangers may do with little: grow when it is read, and nest without end.

    Args:
        events: of ``yaml.parse``, which reads no further than they are taken.
        file: for messages.
        tags: whether a value may say its type, as in ``!!int 3``; PyYAML falls over many that do not fit.

    Raises:
        ConfigError: an alias, lists and maps too deep in one another, a character or number that nothing
            can hold; the message names the line.

    >>> check_yaml(yaml.parse("a: &x [1]\\nb: *x"), "a.yaml")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.ConfigError: a.yaml:2: an alias (*name); write the value out
    """
    depth, where = 0, f"{file}:1"
    try:
        for event in events:
            where = f"{file}:{event.start_mark.line + 1}" if event.start_mark else file
            if isinstance(event, yaml.AliasEvent):  # nine of nine, nine deep, are a gigabyte
                raise ConfigError("an alias (*name); write the value out", where=where)
            tag = getattr(event, "tag", None)
            if tag is not None and not tags:
                raise ConfigError(f"the tag {shown(tag)}; write a plain value", where=where)
            if _UNWRITABLE.search(getattr(event, "value", "")):
                raise ConfigError("a NUL or half a character (\\0, \\ud800); remove it", where=where)
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ConfigError(f"nested deeper than {DEEPEST}; write 'key: value' lines", where=where)
    except (ValueError, OverflowError) as error:  # let out by PyYAML, of "\UFFFFFFFF" or %YAML 999...9.1
        raise ConfigError(f"not YAML: {shown(str(error), 200)}; correct it", where=where) from None


def has_tricks(value: str) -> bool:
    """Whether a value that reads as YAML refers to itself or says its type: it may grow, or break PyYAML.

    What is no YAML is text, and without tricks.

    >>> has_tricks("[&a [1, 1], *a]"), has_tricks("!!int ''"), has_tricks("*.csv"), has_tricks("{1: a}")
    (True, True, False, False)
    """
    within = False
    try:
        for event in yaml.parse(value, Loader=yaml.SafeLoader):
            within = within or isinstance(event, yaml.CollectionStartEvent)
            if isinstance(event, yaml.AliasEvent) and within:
                return True
            if (getattr(event, "tag", None) or "").startswith("tag:yaml.org,2002:"):
                return True
    except yaml.YAMLError:
        return False
    except (ValueError, OverflowError):
        return True
    return False
