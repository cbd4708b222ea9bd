"""Limits for untrusted YAML: no aliases (which expand), no tags, bounded nesting."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator

import yaml
from yaml.composer import Composer
from yaml.resolver import Resolver

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


def checked_tree(text: str, file: str, *, tags: bool = True) -> yaml.Node | None:
    """Return the tree of untrusted YAML, None for an empty document; it must not be changed.

    Trees of the last few texts are kept: a run's settings are read several times, by different checks.

    Args:
        text: YAML.
        file: for messages.
        tags: as in `check_yaml`.

    Raises:
        ConfigError: as `check_yaml`.
        yaml.YAMLError: the text is not YAML.

    >>> checked_tree("a: 1", "a.yaml").value[0][1].value
    '1'
    """
    try:
        return _tree_of(text, tags)
    except ConfigError:  # raise it again, with the name of the file
        check_yaml(yaml.parse(text, Loader=yaml.SafeLoader), file, tags=tags)
        raise


@functools.lru_cache(maxsize=16)
def _tree_of(text: str, tags: bool) -> yaml.Node | None:
    recorded: list[yaml.Event] = []

    def events() -> Iterator[yaml.Event]:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            recorded.append(event)
            yield event

    check_yaml(events(), "", tags=tags)
    root: yaml.Node | None = _RecordedComposer(recorded).get_single_node()
    return root


class _RecordedComposer(Composer, Resolver):
    """Composes a tree from the events of a text, which would otherwise be scanned a second time."""

    def __init__(self, events: list[yaml.Event]) -> None:
        Composer.__init__(self)
        Resolver.__init__(self)
        self._left = events[::-1]

    def peek_event(self) -> yaml.Event:
        return self._left[-1]

    def get_event(self) -> yaml.Event:
        return self._left.pop()

    def check_event(self, *choices: type) -> bool:
        return isinstance(self._left[-1], choices)
