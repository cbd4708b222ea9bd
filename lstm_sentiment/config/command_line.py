"""Parsing of command lines and YAML files to configurations, and the options that commands share.

jsonargparse builds the options from the dataclasses and parses them strictly; `plain_settings` reads those
that are written plainly, in less time. Keys are looked up here first, so that an unknown one is reported with
its file, line and the nearest key.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import re
import sys
import threading
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import yaml

from lstm_sentiment.config.plain_settings import plain_settings
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.yaml_files import (
    SECTIONS,
    Given,
    as_option,
    expected,
    keys_of,
    nearest,
    read_file,
    type_of,
)
from lstm_sentiment.errors import (
    ConfigError,
    DataError,
    Problems,
    did_you_mean,
    escaped,
    shown,
)
from lstm_sentiment.system.files import refuse_device

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Settings = TypeVar("Settings")
ALIKE = 0.8  # similarity of an unknown option to the one that is suggested
BRANCHES = ("lstm", "ngrams", "linear")  # parts of a run that predict alone
RUN = (
    "run folder written by training (of a folder of --seeds, the run with the best validation score), or "
    "starter: the model included in the package"
)


def parse_config(argv: Sequence[str], *, program: str, description: str) -> Config:
    """Return the `Config` of a command line; see `parse_settings`.

    >>> parse_config(["--trainer.epochs", "3"], program="x", description="").trainer.epochs
    3
    """
    return parse_settings(Config, argv, program=program, description=description)


def parse_settings(kind: type[Settings], argv: Sequence[str], *, program: str, description: str) -> Settings:
    """Return the configuration of a command line.

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
    argv = _as_spelt(argv, ["--print_config"])
    printing = [word for word in argv if word.partition("=")[0] == "--print_config"]
    if {"-h", "--help"} & {*argv}:
        _parser(kind, program, description).parse_args(["--help"])
    files, typed, problems = _split(kind, [word for word in argv if word not in printing])
    given: Given = {}
    for file in files:
        read, wrong = read_file(kind, file)
        given |= read
        problems += wrong
    settings = _parse_all(kind, given | typed, problems)
    if printing:
        _parser(kind, program, description).parse_args([*printing, *_options(given | typed)])
    return settings


def read_config(file: str | Path) -> Config:
    """Return the `Config` that a YAML file holds; see `read_settings`."""
    return read_settings(file, Config)


def read_settings(file: str | Path, kind: type[Settings]) -> Settings:
    """Return the configuration that a YAML file holds, such as the `config.yaml` of a run.

    Args:
        file: YAML; keys that it leaves out have their defaults.
        kind: a frozen dataclass of sections, every field with a default.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, or a file that cannot be read; with
            file and line.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "config.yaml"
    >>> _ = file.write_text("trainer: {epochs: 3}")
    >>> read_settings(file, Config).trainer.epochs
    3
    """
    given, problems = read_file(kind, str(file))
    if not problems:
        with contextlib.suppress(ConfigError):  # which is raised below, with the place of each mistake
            settings: Settings = _settings_of(
                typing.cast("type", kind), *((key, text) for key, (text, _) in given.items())
            )
            return settings
    return _parse_all(kind, given, problems)


@functools.lru_cache(maxsize=16)
def _settings_of(kind: type, *values: tuple[str, str]) -> Any:
    """Parse keys and their values; a run's settings are read several times, by different checks."""
    return _parse_all(kind, {key: (text, "") for key, text in values}, [])


def config_of(values: Mapping[str, str]) -> Config:
    """Return a configuration with some settings, each given as it is written on the command line.

    Args:
        values: key -> text, such as ``{"trainer.epochs": "3"}``.

    Raises:
        ConfigError: a wrong type, a value out of range, options in conflict.

    >>> config_of({"trainer.epochs": "3"}).trainer.epochs
    3
    """
    _, given, problems = _split(Config, [f"--{key}={value}" for key, value in values.items()])
    return _parse_all(Config, given, problems)


def _parser(kind: type, program: str | None = None, description: str | None = None) -> ArgumentParser:
    """Return the parser of a configuration class; with a program's name, of its command line."""
    return _parser_of_thread(kind, program, description, threading.get_ident())


@functools.lru_cache(maxsize=16)  # building one takes longer than parsing
def _parser_of_thread(
    kind: type, program: str | None, description: str | None, _thread: int
) -> ArgumentParser:
    from jsonargparse import ArgumentParser, set_loader  # slow import, not needed to read a run's settings

    from lstm_sentiment.cli.usage import Help

    set_loader("text", json.loads, exceptions=(ValueError,))  # lists and maps; other values stay text
    parser = ArgumentParser(
        formatter_class=Help, exit_on_error=False, parser_mode="text", prog=program, description=description
    )
    parser.add_class_arguments(kind, as_group=True)
    for action in parser._actions:  # of jsonargparse's own, --data FILE and --teacher+ NAME are not accepted
        action.option_strings = [option for option in action.option_strings if not option.endswith("+")]
        if action.dest in SECTIONS:
            action.help = argparse.SUPPRESS
    if program is not None:
        parser.add_argument("--config", action="config", help="YAML file; options given here win over it")
    return parser


def given_keys(argv: Sequence[str]) -> frozenset[str]:
    """Return the keys that a command line or its `--config` file sets, even to their defaults.

    Raises:
        ConfigError: a file that cannot be read.

    >>> sorted(given_keys(["--trainer.epochs", "3", "--seed=0"]))
    ['seed', 'trainer.epochs']
    """
    files, typed, _ = _split(Config, argv)
    return frozenset(typed).union(*(read_file(Config, file)[0] for file in files))


def config_yaml(config: Any) -> str:
    """Return a configuration as YAML with every field; resume and overwrite are always false.

    >>> config_yaml(Config()).splitlines()[:2]
    ['out: runs/sentiment', 'seed: 0']
    """
    plain = dataclasses.replace(config, resume=False, overwrite=False)
    return yaml.safe_dump(dataclasses.asdict(plain), sort_keys=False, allow_unicode=True)


def add_file_options(parser: argparse.ArgumentParser, *, device: bool = True) -> None:
    """Add the options of a command that reads labelled rows (see `how_to_read`), and `--device`."""
    parser.add_argument("--text-column", default="auto", help="column with the text; auto finds it")
    parser.add_argument("--label-column", default="auto", help="column with the label; auto finds it")
    parser.add_argument("--encoding", default="utf-8", help="encoding of the file")
    add_table_options(parser)
    if device:
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")


def add_slices_option(parser: argparse.ArgumentParser) -> None:
    """Add `--slices`, which can be repeated."""
    parser.add_argument(
        "--slices",
        action="append",
        default=[],
        metavar="COLUMN",
        help="also by the values of this column, in quartiles if they are many numbers; length: by the "
        "text's number of tokens; source: by file; can be repeated",
    )


def add_branch_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--branch`` to a command that predicts."""
    parser.add_argument(
        "--branch",
        choices=BRANCHES,
        help="use only this part: lstm or ngrams of a model with model.ngrams; linear: the linear baseline",
    )


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--precision`` to a command that predicts."""
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        default="fp32",
        help="format of the LSTM's products; bf16 is faster, on CPUs with AVX512-BF16",
    )


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the dialect of a CSV, TSV or Excel file."""
    quotings = ("auto", "double", "backslash", "none")
    parser.add_argument("--quoting", choices=quotings, default="auto", help="what quotes mean in CSV and TSV")
    parser.add_argument(
        "--no-header",
        dest="header",
        action="store_false",
        help="the first line of CSV, TSV and Excel is a row; columns are named 1, 2, ...",
    )
    parser.add_argument("--sheet", help="which sheet of an Excel workbook is read; default the first")


def how_to_read(options: argparse.Namespace) -> dict[str, Any]:
    """Return the columns, encoding and dialect of a command line, as arguments of `predict_file`."""
    names = ("text_column", "label_column", "encoding", "quoting", "header", "sheet")
    return {name: getattr(options, name) for name in names}


def check_out(*files: str | None) -> None:
    """Refuse output files that cannot be written, before any work is done; None is ignored.

    Raises:
        DataError: the folder does not exist, or the file is a device or pipe.

    >>> check_out(None, "here.json")
    """
    for file in files:
        if file and not Path(file).parent.is_dir():
            raise DataError(f"no such folder: {Path(file).parent}", file=file)
        if file:
            refuse_device(Path(file), file)


class CommandParser(argparse.ArgumentParser):
    """An argparse parser that raises `ConfigError`, for commands with a few options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)  # an abbreviation is a guess

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line in which options may be spelt with - or _, as ``--text-column``."""
        words = _as_spelt(sys.argv[1:] if args is None else args, self._option_string_actions)
        options, others = super().parse_known_args(words, namespace)
        typed = words[: words.index("--")] if "--" in words else words
        for word in others:
            if word.startswith("--") and word in typed:
                self._refuse_misspelt(word.partition("=")[0])
        return options, others

    def _refuse_misspelt(self, name: str) -> None:
        """Raise `ConfigError` for a name that is similar to an option, and neither one nor a setting."""
        if name[2:] in (*keys_of(Config), "config", "print_config"):
            return
        if hint := did_you_mean(name, self._option_string_actions, cutoff=ALIKE):
            raise ConfigError(f"no such option.{hint}", key=name)

    def error(self, message: str) -> NoReturn:
        """Raise `ConfigError` instead of printing the usage and exiting."""
        raise ConfigError(f"{message} (see: {self.prog} --help)")


def _as_spelt(words: Sequence[str], options: Collection[str]) -> list[str]:
    """Return a command line with - and _ in the names of options as the options have them.

    >>> _as_spelt(["--text_column", "a_b", "--abstain-below=0.5", "-x"], {"--text-column", "--abstain_below"})
    ['--text-column', 'a_b', '--abstain_below=0.5', '-x']
    """
    spelt = {option.replace("_", "-"): option for option in options}
    found = list(words)
    for place, word in enumerate(words):
        if word == "--":  # no options follow
            break
        name, equals, value = word.partition("=")
        if name.startswith("--") and name not in options:
            found[place] = spelt.get(name.replace("_", "-"), name) + equals + value
    return found


def _split(kind: type, argv: Sequence[str]) -> tuple[list[str], Given, list[ConfigError]]:
    """Return the files that a command line names, its settings, and problems."""
    files: list[str] = []
    typed: Given = {}
    problems: list[ConfigError] = []
    known = (*keys_of(kind), "config")
    words = _as_spelt(argv, [f"--{key}" for key in known])
    while words:
        name, equals, text = words.pop(0).partition("=")
        key = name.removeprefix("--")
        try:
            if key in ("", name):
                raise ConfigError(f"not understood: {escaped(name + equals + text, 500)}")
            if not equals and words and not words[0].startswith("--"):
                equals, text = "=", words.pop(0)
            if key not in known:
                raise ConfigError(f"no such option.{nearest(kind, key)}", key=key)
            if not equals:
                raise ConfigError("needs a value; write it after the option", key=key)
            if key == "config":
                files.append(text)
            else:
                typed[key] = (as_option(kind, key, text), "")
        except ConfigError as problem:
            problems.append(problem)
    return files, typed, problems


def _parse_all(kind: type[Settings], given: Given, problems: list[ConfigError]) -> Settings:
    """Parse settings; remove wrong ones one by one to find all mistakes.

    Raises:
        ConfigError: lists all mistakes, with `problems`, which were found before.
    """
    right = dict(given)
    wrong = [problem.key for problem in problems if problem.key]
    while True:
        try:
            settings = _parse(kind, right)
            break
        except ConfigError as error:
            # A conflict with a key that is wrong itself is not reported.
            named = f"{error.key} {error.message}"
            if not any(re.search(rf"\b{re.escape(key)}\b", named) for key in wrong):
                problems.append(error)
            if error.key is None or right.pop(error.key, None) is None:
                break
            wrong.append(error.key)
    found = Problems[ConfigError]()
    for problem in sorted(problems, key=_line):
        found.add(problem)
    found.raise_any()
    return settings


def _line(problem: ConfigError) -> int:
    number = (problem.where or "").rpartition(":")[2]
    return int(number) if number.isdigit() else 0


def _parse(kind: type[Settings], given: Given) -> Settings:
    """Parse settings; a wrong value is reported at the place where its key was set."""
    try:
        plain: Settings | None = plain_settings(kind, {key: text for key, (text, _) in given.items()})
        return _parse_strictly(kind, given) if plain is None else plain
    except (ConfigError, argparse.ArgumentError, TypeError, ValueError) as error:
        problem = error if isinstance(error, ConfigError) else _explain(kind, str(error), given)
        where = given.get(problem.key or "", ("", ""))[1] or None
        raise ConfigError(problem.message, key=problem.key, where=where) from None


def _parse_strictly(kind: type[Settings], given: Given) -> Settings:
    """Parse settings with jsonargparse."""
    parser = _parser(kind)
    parsed = parser.parse_args(_options(given))
    for key in keys_of(kind):
        if parsed[key] is None and type(None) not in typing.get_args(type_of(kind, key)):
            raise ConfigError(f"null is not {expected(kind, key)}", key=key)
    parsed = parser.instantiate(parsed)
    return kind(**{field.name: parsed[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def _options(given: Given) -> list[str]:
    return [f"--{key}={text}" for key, (text, _) in given.items()]


def _explain(kind: type, message: str, given: Given) -> ConfigError:
    """Turn jsonargparse's message into ours: key, what was found, what was expected."""
    found_key = re.search(r'Parser key "([\w.]+)"', message) or re.search(r"argument --([\w.]+)", message)
    if found_key is None:
        return ConfigError(f"not understood: {escaped(message, 500)}")
    key = found_key[1]
    found = f"{shown(given[key][0])} is not " if key in given else "expected "
    return ConfigError(f"{found}{expected(kind, key)}", key=key)
