"""Search settings of train, by trials on validation rows.

Trials are proposed by Optuna (TPE) and stopped early if they are below the median of others after an epoch
(median pruning). The study is kept in --out: after a kill the same command goes on with it, and several
processes with the same command share it. The first trial has the settings as they are. At the end the best
settings, and for comparison the settings as they are, are trained with several seeds (--seeds, default 3),
and scored on test rows, which no trial reads.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import log_to, say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import CommandParser, given_keys, parse_config
from lstm_sentiment.errors import ConfigError

USAGE = "[--config F] [--section.key VALUE ...] [--space S.yaml] [--trials N] [--minutes M] --out STUDY"
TRIALS, SEEDS = 50, 3


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options, settings = _parse(argv)
    config = parse_config(settings, program="search", description="")
    given = given_keys(settings)
    if wrong := sorted({"out", "resume", "overwrite", "seeds"} & given - {"seeds"}):
        raise ConfigError(
            "a search goes on by itself; leave it out, and name the folder with --out", key=wrong[0]
        )
    seeds = config.seeds if "seeds" in given else SEEDS
    if seeds == 1:
        raise ConfigError("must be at least 2, or the spread would be unknown", key="seeds")
    from lstm_sentiment.tuning.space import DEFAULT, read_space
    from lstm_sentiment.tuning.study import Search, check, open_study, run_trials  # imports torch

    space = read_space(Path(options.space) if options.space else DEFAULT)
    out, minutes = Path(options.out), options.minutes
    search = Search(argv=settings, space=space, out=out, trials=options.trials, minutes=minutes)
    check(search)
    log_to(sys.stderr, logging.WARNING)
    from lstm_sentiment.tuning.results import files, finish

    study = open_study(search)
    run_trials(search, study, say)
    if finish(search, study, seeds=seeds, report=say) is not None:
        say(f"written to {files(search)}")


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this command, and the remaining arguments: settings."""
    parser = CommandParser(
        prog=program("search"),
        usage=f"{program('search')} {USAGE}",
        description=__doc__,
        epilog="Settings are those of train (see its --help); they hold for all trials.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--space", metavar="S.yaml", help="settings to search; default: those of training")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"of the whole study; default {TRIALS}")
    parser.add_argument("--minutes", type=float, help="start no trial after so many minutes")
    parser.add_argument("--out", metavar="STUDY", help="folder of the study")
    options, settings = parser.parse_known_args(argv)
    if not options.out:
        parser.error("--out is missing: name a folder for the study")
    if options.trials < 1:
        parser.error(f"--trials must be at least 1, not {options.trials}")
    if options.minutes is not None and not options.minutes > 0:
        parser.error(f"--minutes must be above 0, not {options.minutes:g}")
    return options, settings


if __name__ == "__main__":
    run_command(main)
