"""Rename the classes of a finished run, or merge several.

The weights stay as they are; labels, scores and configuration get the new names, and relabelled.json notes
the change. Classes with the same new name are merged: their probabilities are added. The run can predict, be
evaluated, explained and exported as before, but not resumed.
"""

from __future__ import annotations

import argparse
import json

from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import CommandParser
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.yaml_files import as_option
from lstm_sentiment.errors import ConfigError, listed, shown


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    names = names_of(options.names)
    from lstm_sentiment.checkpoints.run_paths import is_starter
    from lstm_sentiment.relabelling.renaming import (  # imports torch: not for --help, not for a typo
        LEFT_OUT,
        relabel,
    )
    from lstm_sentiment.system.files import local_path

    if is_starter(options.run):
        raise ConfigError("the starter belongs to the package; train a run from it, and rename its classes")
    out = local_path(options.out) if options.out else None
    run = local_path(options.run)
    before = [name for name in LEFT_OUT if (run / name).exists()]
    labels = relabel(run, names, out=out, rows=options.rows)
    say(f"{out or run}: classes {', '.join(labels)}")
    stale = {name: LEFT_OUT[name] for name in before if not ((out or run) / name).exists()}
    if stale:
        commands = ", ".join(dict.fromkeys(filter(None, stale.values())))
        again = f"; write them again: {commands}" if commands else ""
        say(f"left out, since they are of the old classes: {listed(stale)}{again}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog=program("relabel"), description=__doc__)
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument(
        "names",
        help="map of old to new names, such as '{pos: positive, neg: negative}'; classes with the same new "
        "name are merged",
    )
    parser.add_argument("--out", help="write the renamed run to this new folder; default: replace the run")
    parser.add_argument(
        "--rows",
        action="store_true",
        help="read the run's data, to score merged classes, even if it was not trained on this machine",
    )
    return parser.parse_args(argv)


def names_of(text: str) -> dict[str, str]:
    """Return a map of class names from the command line.

    Raises:
        ConfigError: not a map from text to text.

    >>> names_of("{pos: positive, 0: no}")
    {'pos': 'positive', '0': 'no'}
    """
    try:
        found = json.loads(as_option(Config, "data.labels", text))
    except (ConfigError, ValueError):
        found = None
    if not isinstance(found, dict) or not found or not all(isinstance(new, str) for new in found.values()):
        raise ConfigError(f"{shown(text)} is not a map of old to new names, such as '{{pos: positive}}'")
    return found


if __name__ == "__main__":
    run_command(main)
