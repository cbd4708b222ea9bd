"""Rename the classes of a finished run.

The weights stay as they are; labels, scores and configuration get the new names, and relabelled.json notes
the change. The run can predict, be evaluated, explained and exported as before, but not resumed.
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
from lstm_sentiment.errors import ConfigError, shown


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    names = names_of(options.names)
    from lstm_sentiment.checkpoints.run_paths import is_starter
    from lstm_sentiment.prediction.relabelling import relabel  # imports torch: not for --help, not for a typo
    from lstm_sentiment.system.files import local_path

    if is_starter(options.run):
        raise ConfigError("the starter belongs to the package; train a run from it, and rename its classes")
    out = local_path(options.out) if options.out else None
    run = local_path(options.run)
    stale = [name for name in ("report.html", "evaluation.json") if (run / name).is_file()]
    labels = relabel(run, names, out=out)
    say(f"{out or run}: classes {', '.join(labels)}")
    if stale:
        say(f"left out, with the old names: {' and '.join(stale)}; write them again: report, evaluate")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog=program("relabel"), description=__doc__)
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("names", help="map of old to new names, such as '{pos: positive, neg: negative}'")
    parser.add_argument("--out", help="write the renamed run to this new folder; default: replace the run")
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
