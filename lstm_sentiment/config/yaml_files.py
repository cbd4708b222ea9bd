"""Reading YAML configuration files into options, each with its file and line.

All mistakes of a file are reported at once, each with file, line and key.
"""

from __future__ import annotations

import copy
import functools
import json
import re
import typing
from pathlib import Path
from typing import Any

import yaml

from lstm_sentiment.config.safe_yaml import DEEPEST, MOST_YAML_BYTES, check_yaml, checked_tree
from lstm_sentiment.config.schema import flatten
from lstm_sentiment.errors import MOST_SHOWN, ConfigError, did_you_mean, escaped, listed, nearest_file, shown

SECTIONS = ("data", "text", "model", "trainer")
Given = dict[str, tuple[str, str]]  # key -> its value as text; file:line, or "" of the command line
_TAG = "tag:yaml.org,2002:"
PLAIN_KINDS = ("str", "int", "float", "bool", "null", "timestamp")
_WORD = re.compile(r"[A-Za-z0-9][\w.+-]*", re.ASCII)  # such text is a plain scalar in YAML


def keys_of(kind: type) -> tuple[str, ...]:
    """Return the dotted keys of a configuration class, in the order of definition.

    >>> from lstm_sentiment.config.schema import Config
    >>> keys_of(Config)[:2]
    ('out', 'seed')
    """
    return tuple(flatten(kind()))


def nearest(kind: type, key: str) -> str:
    """Return a hint for an unknown key: the nearest key, or the keys of a section.

    >>> from lstm_sentiment.config.schema import Config
    >>> nearest(Config, "trainer.epohcs")
    " Did you mean 'trainer.epochs'?"
    """
    keys = keys_of(kind)
    if key in SECTIONS:
        inside = ", ".join(k for k in keys if k.startswith(f"{key}."))
        return f" It is a section; set one of {inside}"
    by_last_part = [k for k in keys if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    if by_last_part:
        return f" Did you mean '{by_last_part[0]}'?"
    in_section = [k for k in keys if k.split(".")[0] == key.split(".")[0]]
    return did_you_mean(key, in_section or keys, cutoff=0.75) or " See --help for all"


def read_file(kind: type, file: str) -> tuple[Given, list[ConfigError]]:
    """Return the keys of a YAML file -> value as on the command line, place as ``file:line``; and problems.

    A wrong key is only in the problems; types and ranges are not checked here.

    Raises:
        ConfigError: the file cannot be read, or is not YAML.
    """
    root = _compose(file)
    read: Given = {}
    problems: list[ConfigError] = []
    if root is not None:
        _walk(kind, root, "", file, read, problems)
    wrong = {problem.key for problem in problems}
    return {key: found for key, found in read.items() if key not in SECTIONS and key not in wrong}, problems


def read_tree(file: str) -> tuple[Any, dict[str, str]]:
    """Return what a YAML file holds, and the place of each key of nested mappings, dotted, as ``file:line``.

    Raises:
        ConfigError: the file cannot be read, or is not YAML.

    Example::

        tree, places = read_tree("space.yaml")
    """
    root = _compose(file)
    places: dict[str, str] = {}

    def note(node: yaml.Node, prefix: str) -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            places[f"{prefix}{key.value}"] = _place(file, key)
            note(value, f"{prefix}{key.value}.")

    if root is None:
        return None, places
    note(root, "")
    return yaml.SafeLoader("").construct_document(copy.deepcopy(root)), places  # it may change the tree


def _compose(file: str) -> yaml.Node | None:
    """Return the root of a YAML file's tree, None for an empty one."""
    path = Path(file)
    try:
        there = path.exists()
    except PermissionError as error:  # of a parent folder
        raise ConfigError(f"{error.strerror}; give a file that can be read", where=file) from None
    if not there:
        hint = nearest_file(path)
        raise ConfigError(f"no such file; give an existing one.{hint}", where=file)
    if not path.is_file():  # reading a pipe or /dev/zero would not end
        raise ConfigError("is not a regular file; give a YAML file", where=file)
    if path.stat().st_size > MOST_YAML_BYTES:
        raise ConfigError(
            f"is larger than {MOST_YAML_BYTES:,} bytes; give a YAML file with 'key: value' lines", where=file
        )
    text = ""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return checked_tree(text, file)
    except OSError as error:
        raise ConfigError(f"{error.strerror}; give a file that can be read", where=file) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"not UTF-8 at byte {error.start}; save it as UTF-8", where=f"{file}:{line}"
        ) from None
    except yaml.YAMLError as error:
        raise _no_yaml(error, text, file) from None


def _no_yaml(error: yaml.YAMLError, text: str, file: str) -> ConfigError:
    """Return the error for a file that is not YAML, with the place and a likely cause."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    if mark is None:  # an invalid character
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        return ConfigError(f"not YAML: {problem}; remove the control character", where=f"{file}:{line}")
    where = f"{file}:{mark.line + 1}:{mark.column + 1}"
    if problem == "but found another document":
        return ConfigError("a second document begins here; remove the line '---' and merge them", where=where)
    fix = "indent with spaces, not tabs" if "\\t" in problem else "check indentation, quotes and brackets"
    return ConfigError(f"not YAML: {escaped(problem, 200)}; {fix}", where=where)


def _place(file: str, node: yaml.Node) -> str:
    return f"{file}:{node.start_mark.line + 1}"


def _walk(
    kind: type,
    node: yaml.Node,
    prefix: str,
    file: str,
    read: Given,
    problems: list[ConfigError],
) -> None:
    if not isinstance(node, yaml.MappingNode):
        what = f"section {prefix[:-1]}" if prefix else "the file"
        problems.append(ConfigError(f"{what} must hold 'key: value' lines", where=_place(file, node)))
        return
    for key_node, value_node in node.value:
        where = _place(file, key_node)
        try:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ConfigError("a list or map is not a key; write 'key: value' lines", where=where)
            key = prefix + escaped(key_node.value, MOST_SHOWN)
            if key in read:
                raise ConfigError(
                    f"duplicate key, first set at {read[key][1]}; remove one", key=key, where=where
                )
            read[key] = ("", where)
            if key in SECTIONS:
                _walk(kind, value_node, f"{key}.", file, read, problems)
            elif key in keys_of(kind):
                read[key] = (_as_option(kind, key, value_node, where), where)
            else:
                raise ConfigError(f"no such key.{nearest(kind, key)}", key=key, where=where)
        except ConfigError as problem:
            problems.append(problem)


def _as_option(kind: type, key: str, node: yaml.Node, where: str) -> str:
    """Return a YAML value as it would be typed on the command line; refuse values that YAML misreads."""
    tag = _tag(node)
    if tag not in (*PLAIN_KINDS, "seq", "map"):
        raise ConfigError(f"the tag {shown(tag)} is not allowed; write a plain value", key=key, where=where)
    if isinstance(node, yaml.ScalarNode):
        takes = (type_of(kind, key), *typing.get_args(type_of(kind, key)))
        unquoted_text = str in takes and tag not in ("str", "null") and float not in takes
        no_value = tag == "null" and type(None) not in takes
        if unquoted_text or no_value:
            raise ConfigError(f"{shown(node.value)} is not {expected(kind, key)}", key=key, where=where)
        if tag == "bool":
            return "true" if node.value.lower() in ("true", "yes", "on") else "false"
        return "null" if tag == "null" else as_option(kind, key, str(node.value), where)
    return _collection(kind, key, node, where)


def as_option(kind: type, key: str, text: str, where: str | None = None) -> str:
    """Return the text of a setting as it is parsed: a list or map as JSON, with all its elements as text.

    Names and codes are text, but YAML 1.1 reads yes, 012, 1e3 and 2020-01-01 as other types.

    Raises:
        ConfigError: a number that YAML 1.1 reads as another (012 is 10, 1:30 is 90), or a list or map
            that the key does not take.

    >>> from lstm_sentiment.config.schema import Config
    >>> as_option(Config, "data.labels", "{0: no, 1: yes, 2: null}")
    '{"0": "no", "1": "yes", "2": null}'
    """
    takes = _alternatives(kind, key)
    if {float, str} <= {*takes} and re.fullmatch(r"[-+]?\d+(:\d+)+", text):
        problem = "reads as another number in YAML; write a share such as 0.1, or ./ before a file's name"
        raise ConfigError(f"{shown(text)} {problem}", key=key, where=where)
    if str not in takes and {int, float} & {*takes} and re.fullmatch(r"[-+]?(0\d+|\d+(:\d+)+)", text):
        raise ConfigError(
            f"{shown(text)} is not {expected(kind, key)} as people write it", key=key, where=where
        )
    if type_of(kind, key) in (str, str | None) or _WORD.fullmatch(text):
        return text
    try:  # jsonargparse reads other types as YAML
        events = _events_of(text)
    except (yaml.YAMLError, ValueError):
        return text
    holds_collection = any(isinstance(event, yaml.CollectionStartEvent) for event in events)
    if holds_collection or any(str(getattr(event, "tag", "")).startswith(_TAG) for event in events):
        try:
            check_yaml(events, "", tags=False)
        except ConfigError as error:
            raise ConfigError(error.message, key=key, where=where) from None
    if any(isinstance(event, yaml.AliasEvent) for event in events):  # a glob, such as *.csv
        return text
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    takes_collection = {list, dict} & {typing.get_origin(part) for part in takes}
    if (
        isinstance(node, yaml.MappingNode)
        and not node.flow_style
        and {str, list} <= {*takes, *takes_collection}
    ):
        return text  # the name of a file, such as a: b.csv
    return (
        _collection(kind, key, node, where)
        if isinstance(node, yaml.CollectionNode) and takes_collection
        else text
    )


def _events_of(text: str) -> list[yaml.Event]:
    """Parse a value, at most to where it is nested too deeply: deep nesting takes PyYAML minutes."""
    events: list[yaml.Event] = []
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        events.append(event)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            break
    return events


def _collection(kind: type, key: str, node: yaml.Node, where: str | None) -> str:
    """Return a YAML list or map as JSON, with its elements as text.

    Raises:
        ConfigError: a null, list or map instead of text.
    """
    here: type = list if isinstance(node, yaml.SequenceNode) else dict
    if here not in [typing.get_origin(alternative) for alternative in _alternatives(kind, key)]:
        found = "a list" if here is list else "a map"
        raise ConfigError(f"{found} is not {expected(kind, key)}", key=key, where=where)
    if isinstance(node, yaml.SequenceNode):
        return json.dumps([_text_in(key, item, where) for item in node.value])
    nulls = _maps_to_null(kind, key)
    if nulls and any(isinstance(codes, yaml.SequenceNode) for _, codes in node.value):
        of_names = ((name, codes.value if _tag(codes) == "seq" else [codes]) for name, codes in node.value)
        pairs = listed(f"{code.value}: {name.value}" for name, codes in of_names for code in codes)
        problem = "maps a name to a list of codes; write one pair for each code, such as"
        raise ConfigError(f"{problem} {{{pairs}}}", key=key, where=where)
    written = {
        _text_in(key, k, where): None if nulls and _tag(v) == "null" else _text_in(key, v, where)
        for k, v in node.value
    }
    return json.dumps(written)


def _text_in(key: str, node: yaml.Node, where: str | None) -> str:
    """Return a scalar of a list or map as text."""
    tag = _tag(node)
    if isinstance(node, yaml.ScalarNode) and tag in PLAIN_KINDS and tag != "null":
        return str(node.value)
    if tag == "null":
        found = shown(node.value) if node.value else "an empty value"
        problem = f'{found} reads as no value in YAML; write "{escaped(node.value)}" if text is meant'
    else:
        found = {"seq": "a list", "map": "a map"}.get(tag, shown(tag))
        problem = f"{found} is not text; write text, quoted if it contains , : [ or {{"
    raise ConfigError(problem, key=key, where=where)


def _tag(node: yaml.Node) -> str:
    return str(node.tag).removeprefix(_TAG)


def _alternatives(kind: type, key: str) -> tuple[Any, ...]:
    hint = type_of(kind, key)
    return (hint,) if typing.get_origin(hint) in (list, dict) else (hint, *typing.get_args(hint))


def _maps_to_null(kind: type, key: str) -> bool:
    """Return whether a key takes a map whose values may be null.

    >>> from lstm_sentiment.config.schema import Config
    >>> _maps_to_null(Config, "data.labels"), _maps_to_null(Config, "data.filter")
    (True, False)
    """
    maps = [part for part in _alternatives(kind, key) if typing.get_origin(part) is dict]
    return any(type(None) in typing.get_args(typing.get_args(part)[1]) for part in maps)


def type_of(kind: type, key: str) -> Any:
    """Return the type of a key.

    >>> from lstm_sentiment.config.schema import Config
    >>> type_of(Config, "trainer.epochs")
    <class 'int'>
    """
    owner = kind
    *sections, name = key.split(".")
    for section in sections:
        owner = _hints(owner)[section]
    return _hints(owner).get(name)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the types of a class's fields, cached: evaluating them is slow."""
    return typing.get_type_hints(kind)


def expected(kind: type, key: str) -> str:
    """Describe the type of a key.

    >>> from lstm_sentiment.config.schema import Config
    >>> expected(Config, "trainer.epochs"), expected(Config, "text.truncate")
    ('a whole number', 'one of head, tail, middle')
    """
    hint = type_of(kind, key)
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text (in YAML, quote what looks like a number)",
        type(None): "null",
        list: "a list of names such as [negative, positive]",
        dict: "a map such as {key: value}",
    }
    parts = typing.get_args(hint) if typing.get_origin(hint) not in (list, dict) else ()
    kinds = [typing.get_origin(part) or part for part in (parts or (hint,))]
    return " or ".join(words.get(typing.get_origin(kind) or kind, str(kind)) for kind in kinds)


def flatten_plain(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a parsed configuration file as a flat dict of dotted keys.

    >>> flatten_plain({"seed": 1, "data": {"train": "a.csv"}})
    {'seed': 1, 'data.train': 'a.csv'}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if key in ("data", "text", "model", "trainer"):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    for key in ("data.labels", "data.filter"):  # earlier versions wrote codes as numbers
        if isinstance(flat.get(key), dict):
            flat[key] = {str(k): v if v is None else str(v) for k, v in flat[key].items()}
    return flat
