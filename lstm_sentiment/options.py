"""Command line and YAML files to a `Config`, and the frame that every command runs in.

jsonargparse builds the options from the dataclasses and reads them strictly. Keys are looked up
here first, so that an unknown one is reported with its file, its line and the nearest key.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import yaml
from jsonargparse import ArgumentParser

from lstm_sentiment.config import Config, flatten
from lstm_sentiment.errors import ConfigError, SentimentError, did_you_mean, shown

SECTIONS = ("data", "text", "model", "trainer")
KEYS = tuple(flatten(Config()))
MAX_CONFIG_BYTES = 1_000_000


def parse_config(argv: Sequence[str], *, program: str, description: str) -> Config:
    """Return the configuration that a command line asks for.

    Args:
        argv: arguments after the program's name, such as ``["--trainer.epochs", "3"]``.
        program: shown by ``--help``.
        description: shown by ``--help``.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, options in conflict.
        SystemExit: after ``--help`` and ``--print_config``.

    >>> parse_config(["--trainer.epochs", "3"], program="x", description="").trainer.epochs
    3
    >>> parse_config(["--trainer.epoch", "3"], program="x", description="")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.ConfigError: trainer.epoch: no such option. Did you mean 'trainer.epochs'?
    """
    argv = list(argv)
    _reject_unknown_options(argv)
    places: dict[str, str] = {}
    for file in _values_of(argv, "--config"):
        places |= _key_places(file)
    places |= dict.fromkeys(_option_names(argv), "")  # the command line wins over files
    parser = ArgumentParser(prog=program, description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML file; what follows it wins over it")
    parser.add_class_arguments(Config, as_group=True)
    try:
        parsed = parser.instantiate(parser.parse_args(argv))
        return Config(**{name: parsed[name] for name in Config.__dataclass_fields__})
    except ConfigError as error:
        where = places.get(error.key or "") or None
        raise ConfigError(error.message, key=error.key, where=where) from None
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise _explain(str(error), places) from None


def run_command(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a command's `main` with the process's arguments and leave with its exit code.

    A `SentimentError` becomes one message on stderr; an interrupt leaves with 130.
    """
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except SentimentError as error:
        print(f"error: {error}", file=sys.stderr)
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
    values = [word.split("=", 1)[1] for word in argv if word.startswith(f"{option}=")]
    return values + [after for word, after in itertools.pairwise(argv) if word == option]


def _reject_unknown_options(argv: Sequence[str]) -> None:
    known = (*KEYS, "config", "print_config", "help")
    for name in _option_names(argv):
        if name not in known:
            raise ConfigError(f"no such option.{_nearest(name)}", key=name)


def _nearest(key: str) -> str:
    if key in SECTIONS:
        inside = ", ".join(k for k in KEYS if k.startswith(f"{key}."))
        return f" It is a section with {inside}"
    by_last_part = [k for k in KEYS if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    if by_last_part:
        return f" Did you mean '{by_last_part[0]}'?"
    in_section = [k for k in KEYS if k.split(".")[0] == key.split(".")[0]]
    return did_you_mean(key, in_section or KEYS, cutoff=0.75)


def _key_places(file: str) -> dict[str, str]:
    """Return where each key of a YAML file stands, as ``file:line``; refuse keys that do not exist."""
    path = Path(file)
    if not path.is_file():
        raise ConfigError("no such file", where=file)
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"a configuration of more than {MAX_CONFIG_BYTES:,} bytes", where=file)
    try:
        root = yaml.compose(path.read_text("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 at byte {error.start}", where=file) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise ConfigError(f"not YAML: {getattr(error, 'problem', None) or error}", where=where) from None
    places: dict[str, str] = {}
    if root is not None:
        _walk(root, "", file, places)
    return places


def _walk(node: yaml.Node, prefix: str, file: str, places: dict[str, str]) -> None:
    where = f"{file}:{node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode):
        what = f"section {prefix[:-1]}" if prefix else "the file"
        raise ConfigError(f"{what} must hold 'key: value' lines", where=where)
    for key_node, value_node in node.value:
        where = f"{file}:{key_node.start_mark.line + 1}"
        key = prefix + str(key_node.value)
        if key in places:
            raise ConfigError(f"stands twice, first at {places[key]}", key=key, where=where)
        places[key] = where
        if key in SECTIONS:
            _walk(value_node, f"{key}.", file, places)
        elif key not in KEYS:
            raise ConfigError(f"no such key.{_nearest(key)}", key=key, where=where)


def _explain(message: str, places: dict[str, str]) -> ConfigError:
    """Turn jsonargparse's message into ours: file and line, key, what was found, what was expected."""
    found_key = re.search(r'Parser key "([\w.]+)"', message) or re.search(r"argument --([\w.]+)", message)
    if found_key is None:
        return ConfigError(message.removeprefix("unrecognized arguments: ").join(("not understood: ", "")))
    key = found_key[1]
    if "expected one argument" in message:
        return ConfigError("needs a value", key=key)
    value = re.search(r"(?:Got|Given) value: (.*)", message, re.DOTALL)
    found = f"{shown(value[1].strip())} is not " if value else "expected "
    return ConfigError(f"{found}{_expected(key)}", key=key, where=places.get(key) or None)


def _expected(key: str) -> str:
    """Describe in words what a key takes.

    >>> _expected("trainer.epochs"), _expected("text.truncate")
    ('a whole number', 'one of head, tail, middle')
    """
    owner: type = Config
    *sections, name = key.split(".")
    for section in sections:
        owner = typing.get_type_hints(owner)[section]
    hint = typing.get_type_hints(owner).get(name)
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
