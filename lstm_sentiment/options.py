"""Command line and YAML files to a configuration, and the frame that every command runs in.

jsonargparse builds the options from the dataclasses and reads them strictly. Keys are looked up
here first, so that an unknown one is reported with its file, its line and the nearest key.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser

from lstm_sentiment.config import Config, flatten
from lstm_sentiment.errors import ConfigError, DataError, SentimentError, StoppedError, did_you_mean, shown

SECTIONS = ("data", "text", "model", "trainer")
PLAIN_KINDS = ("str", "int", "float", "bool", "null", "timestamp")
MAX_CONFIG_BYTES = 1_000_000
Settings = TypeVar("Settings")


def parse_config(argv: Sequence[str], *, program: str, description: str) -> Config:
    """Return the `Config` that a command line asks for; see `parse_settings`.

    >>> parse_config(["--trainer.epochs", "3"], program="x", description="").trainer.epochs
    3
    """
    return parse_settings(Config, argv, program=program, description=description)


def parse_settings(kind: type[Settings], argv: Sequence[str], *, program: str, description: str) -> Settings:
    """Return the configuration that a command line asks for.

    Args:
        kind: a frozen dataclass of sections, every field with a default.
        argv: arguments after the program's name, such as ``["--trainer.epochs", "3"]``.
        program: shown by ``--help``.
        description: shown by ``--help``.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, options in conflict.
        SystemExit: after ``--help`` and ``--print_config``.

    >>> parse_settings(Config, ["--trainer.epoch", "3"], program="x", description="")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.ConfigError: trainer.epoch: no such option. Did you mean 'trainer.epochs'?
    """
    argv = list(argv)
    _reject_unknown_options(kind, argv)
    from_files: list[str] = []
    places: dict[str, str] = {}
    for file in _values_of(argv, "--config"):
        read = _read_file(kind, file)
        from_files += [f"--{key}={value}" for key, (value, _) in read.items()]
        places |= {key: place for key, (_, place) in read.items()}
    parser = ArgumentParser(prog=program, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file; options given here win over it")
    parser.add_class_arguments(kind, as_group=True)
    _parse(kind, parser, from_files, places)  # alone first: what is wrong here is the file's fault
    on_command_line = dict.fromkeys(_option_names(argv), "")
    return _parse(kind, parser, from_files + _without(argv, "--config"), places | on_command_line)


def config_yaml(config: Any) -> str:
    """Return a configuration as YAML with every field; resume and overwrite are no part of a run.

    >>> config_yaml(Config()).splitlines()[:2]
    ['out: runs/sentiment', 'seed: 0']
    """
    plain = dataclasses.replace(config, resume=False, overwrite=False)
    return yaml.safe_dump(dataclasses.asdict(plain), sort_keys=False, allow_unicode=True)


def add_file_options(parser: argparse.ArgumentParser, *, device: bool = True) -> None:
    """Add the options of a command that reads labelled rows (see `how_to_read`), and that of the device."""
    parser.add_argument("--text_column", default="auto", help="column with the text; auto finds it")
    parser.add_argument("--label_column", default="auto", help="column with the label; auto finds it")
    parser.add_argument("--encoding", default="utf-8", help="encoding of the file")
    if device:
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")


def how_to_read(options: argparse.Namespace) -> dict[str, str]:
    """Return which columns and encoding a command line asks for, as `answers.answer_file` takes them."""
    return {name: getattr(options, name) for name in ("text_column", "label_column", "encoding")}


def check_out(*files: str | None) -> None:
    """Refuse files to be written whose folder is not there, before any work is done; None is no file.

    Raises:
        DataError: names the folder.

    >>> check_out(None, "here.json")
    """
    for file in files:
        if file and not Path(file).parent.is_dir():
            raise DataError(f"no such folder: {Path(file).parent}", file=file)


def run_command(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a command's `main` with the process's arguments and leave with its exit code.

    A `SentimentError` becomes one message on stderr; an interrupt leaves with 130.
    """
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except SentimentError as error:
        print(f"{'' if isinstance(error, StoppedError) else 'error: '}{error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(0)


class CommandParser(argparse.ArgumentParser):
    """An argparse parser whose mistakes are `ConfigError`s, for commands with a few flags."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing usage and leaving."""
        raise ConfigError(f"{message} (see: {self.prog} --help)")


def _option_names(argv: Sequence[str]) -> list[str]:
    return [re.split(r"[=+]", word[2:])[0] for word in argv if word.startswith("--") and len(word) > 2]


def _values_of(argv: Sequence[str], option: str) -> list[str]:
    values = []
    for word, after in itertools.pairwise([*argv, ""]):
        if word.startswith(f"{option}="):
            values.append(word.split("=", 1)[1])
        elif word == option and after:
            values.append(after)
        elif word == option:
            raise ConfigError("needs a value", key=option[2:])
    return values


def _without(argv: Sequence[str], option: str) -> list[str]:
    pairs = itertools.pairwise(["", *argv])
    return [word for before, word in pairs if option not in (before, word.split("=", 1)[0])]


def _parse(
    kind: type[Settings], parser: ArgumentParser, argv: list[str], places: Mapping[str, str]
) -> Settings:
    """Parse options; blame the place that a key came from for what is wrong with its value."""
    try:
        parsed = parser.parse_args(argv)
        for key in keys_of(kind):
            if parsed[key] is None and type(None) not in typing.get_args(_hint(kind, key)):
                raise ConfigError(f"null is not {_expected(kind, key)}", key=key)
        parsed = parser.instantiate(parsed)
        return kind(**{field.name: parsed[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
    except ConfigError as error:
        where = places.get(error.key or "") or None
        raise ConfigError(error.message, key=error.key, where=where) from None
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise _explain(kind, str(error), places) from None


def _reject_unknown_options(kind: type, argv: Sequence[str]) -> None:
    known = (*keys_of(kind), "config", "print_config", "help")
    for name in _option_names(argv):
        if name not in known:
            raise ConfigError(f"no such option.{_nearest(kind, name)}", key=name)


def keys_of(kind: type) -> tuple[str, ...]:
    """Return the dotted keys of a configuration class, in the order of definition."""
    return tuple(flatten(kind()))


def _nearest(kind: type, key: str) -> str:
    keys = keys_of(kind)
    if key in SECTIONS:
        inside = ", ".join(k for k in keys if k.startswith(f"{key}."))
        return f" It is a section with {inside}"
    by_last_part = [k for k in keys if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    if by_last_part:
        return f" Did you mean '{by_last_part[0]}'?"
    in_section = [k for k in keys if k.split(".")[0] == key.split(".")[0]]
    return did_you_mean(key, in_section or keys, cutoff=0.75)


def _read_file(kind: type, file: str) -> dict[str, tuple[str, str]]:
    """Return the keys of a YAML file -> value as on the command line, place as ``file:line``."""
    path = Path(file)
    if not path.is_file():
        raise ConfigError("no such file", where=file)
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"a configuration of more than {MAX_CONFIG_BYTES:,} bytes", where=file)
    try:
        text = path.read_text("utf-8-sig")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # nine of nine, nine deep, are a gigabyte
                raise ConfigError("an alias (*name); write the value out", where=_place(file, event))
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 at byte {error.start}", where=file) from None
    except RecursionError:
        raise ConfigError("nested too deeply", where=file) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise ConfigError(f"not YAML: {getattr(error, 'problem', None) or error}", where=where) from None
    read: dict[str, tuple[str, str]] = {}
    if root is not None:
        _walk(kind, root, "", file, read)
    return {key: found for key, found in read.items() if key not in SECTIONS}


def _place(file: str, node: yaml.Node | yaml.Event) -> str:
    return f"{file}:{node.start_mark.line + 1}"  # type: ignore[union-attr]


def _walk(kind: type, node: yaml.Node, prefix: str, file: str, read: dict[str, tuple[str, str]]) -> None:
    if not isinstance(node, yaml.MappingNode):
        what = f"section {prefix[:-1]}" if prefix else "the file"
        raise ConfigError(f"{what} must hold 'key: value' lines", where=_place(file, node))
    for key_node, value_node in node.value:
        where = _place(file, key_node)
        key = prefix + str(key_node.value)
        if key in read:
            raise ConfigError(f"stands twice, first at {read[key][1]}", key=key, where=where)
        read[key] = ("", where)
        if key in SECTIONS:
            _walk(kind, value_node, f"{key}.", file, read)
        elif key in keys_of(kind):
            read[key] = (_as_option(kind, key, value_node, where), where)
        else:
            raise ConfigError(f"no such key.{_nearest(kind, key)}", key=key, where=where)


def _as_option(kind: type, key: str, node: yaml.Node, where: str) -> str:
    """Return a YAML value as it would be typed on the command line; refuse what YAML misreads."""
    tag = node.tag.removeprefix("tag:yaml.org,2002:")
    if isinstance(node, yaml.ScalarNode):
        takes = (_hint(kind, key), *typing.get_args(_hint(kind, key)))
        unquoted_text = str in takes and tag not in ("str", "null") and float not in takes
        padded = tag == "int" and re.match(r"[-+]?0\d", node.value)  # YAML 1.1: 012 is ten
        no_value = tag == "null" and type(None) not in takes
        if unquoted_text or padded or no_value or tag not in PLAIN_KINDS:
            raise ConfigError(f"{shown(node.value)} is not {_expected(kind, key)}", key=key, where=where)
        if tag == "bool":
            return "true" if node.value.lower() in ("true", "yes", "on") else "false"
        return "null" if tag == "null" else str(node.value)
    return _flow(kind, key, node, where)


def _flow(kind: type, key: str, node: yaml.Node, where: str) -> str:
    """Return a list or map on one line, its text quoted."""
    tag = node.tag.removeprefix("tag:yaml.org,2002:")
    if isinstance(node, yaml.ScalarNode) and tag in ("str", "int"):
        return _quoted(node.value) if tag == "str" else str(node.value)
    if isinstance(node, yaml.SequenceNode) and tag == "seq":
        return "[" + ", ".join(_flow(kind, key, item, where) for item in node.value) + "]"
    if isinstance(node, yaml.MappingNode) and tag == "map":
        null = "tag:yaml.org,2002:null" if _maps_to_null(kind, key) else ""
        pairs = (
            f"{_flow(kind, key, k, where)}: {'null' if v.tag == null else _flow(kind, key, v, where)}"
            for k, v in node.value
        )
        return "{" + ", ".join(pairs) + "}"
    found = shown(node.value) if isinstance(node, yaml.ScalarNode) else f"a {tag}"
    raise ConfigError(
        f"{found} is not text or a whole number (quote names such as 'no')", key=key, where=where
    )


def _maps_to_null(kind: type, key: str) -> bool:
    """Return whether a key takes a map whose values may be null.

    >>> _maps_to_null(Config, "data.labels"), _maps_to_null(Config, "data.filter")
    (True, False)
    """
    maps = [part for part in typing.get_args(_hint(kind, key)) if typing.get_origin(part) is dict]
    return any(type(None) in typing.get_args(typing.get_args(part)[1]) for part in maps)


def _quoted(text: str) -> str:
    """Return text as YAML in double quotes, on one line.

    >>> print(_quoted("no"), _quoted("😀"))
    "no" "\\U0001F600"
    """
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=sys.maxsize).strip()


def _explain(kind: type, message: str, places: Mapping[str, str]) -> ConfigError:
    """Turn jsonargparse's message into ours: file and line, key, what was found, what was expected."""
    found_key = re.search(r'Parser key "([\w.]+)"', message) or re.search(r"argument --([\w.]+)", message)
    if found_key is None:
        return ConfigError(message.removeprefix("unrecognized arguments: ").join(("not understood: ", "")))
    key = found_key[1]
    if "expected one argument" in message:
        return ConfigError("needs a value", key=key)
    values = re.findall(r"Given value: (.*)", message) or re.findall(r"Got value: (.*)", message)
    found = f"{shown(values[-1].strip())} is not " if values else "expected "
    return ConfigError(f"{found}{_expected(kind, key)}", key=key, where=places.get(key) or None)


def _hint(kind: type, key: str) -> Any:
    """Return the type of a key."""
    owner = kind
    *sections, name = key.split(".")
    for section in sections:
        owner = typing.get_type_hints(owner)[section]
    return typing.get_type_hints(owner).get(name)


def _expected(kind: type, key: str) -> str:
    """Describe in words what a key takes.

    >>> _expected(Config, "trainer.epochs"), _expected(Config, "text.truncate")
    ('a whole number', 'one of head, tail, middle')
    """
    hint = _hint(kind, key)
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
