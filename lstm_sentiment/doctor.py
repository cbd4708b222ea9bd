"""Examine data, settings and model for common faults.

Examines a configuration before training, or a run after it: the data (near-duplicates across splits, labels,
unknown words, lengths, class shift), settings without effect, short trainings on copies (first loss,
gradients, overfitting one batch, shuffled labels), and whether a prediction depends on the batch, the
position in it, padding, the device or the precision. Test rows are counted, never predicted. Takes about half
a minute with the default configuration.

For a run, settings that may help are tried for up to five minutes (--minutes): each is trained briefly on the
training rows and scored on the validation rows, next to the settings of the run. Prints the gain of each.

Exits with 1 if predictions or scores cannot be trusted (a finding of severity ``error``), with 0 if there are
no findings or only warnings and notes; 2 and above as for every command.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import log_to, say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import CommandParser, check_out, given_keys, parse_config
from lstm_sentiment.errors import ConfigError

USAGE = "[RUN [--minutes N] | --config FILE --section.key VALUE ...] [--json FILE]"
MINUTES, MOST_MINUTES = 5.0, 1440


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    run, options, settings = _parse(argv)
    check_out(options.json)
    if options.minutes is not None and not run:
        raise ConfigError("--minutes needs a run: name it first, or leave --minutes out")
    if run and settings:
        raise ConfigError(f"a run has its own configuration; leave out {' '.join(settings)}, or the run")
    log_to(sys.stderr, logging.INFO)
    if run:
        from lstm_sentiment.diagnostics.diagnose import diagnose_run

        diagnosis = diagnose_run(
            run, rows=options.rows, minutes=MINUTES if options.minutes is None else options.minutes
        )
    else:
        config = parse_config(settings, program="doctor", description="")
        from lstm_sentiment.diagnostics.diagnose import diagnose

        diagnosis = diagnose(config, given=given_keys(settings))
    say("\n".join(diagnosis.report()))
    if options.json:
        from lstm_sentiment.system.files import write_json

        write_json(Path(options.json), diagnosis.as_json())
        print(f"written to {options.json}")
    if not diagnosis.sound:
        sys.stdout.flush()
        sys.exit(1)


def _minutes(text: str) -> float:
    """Return a number of minutes from 0 to a day, or raise `argparse.ArgumentTypeError`."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MOST_MINUTES:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {MOST_MINUTES:,}, not {text!r}")
    return value


def _parse(argv: list[str]) -> tuple[str | None, argparse.Namespace, list[str]]:
    """Return the run, the options of this command, and the remaining arguments: configuration settings."""
    parser = CommandParser(
        prog=program("doctor"),
        usage=f"{program('doctor')} {USAGE}",
        description=__doc__,
        epilog="RUN is a run folder and must come first. Without it, give settings as for the command train\n"
        "(see its --help); the defaults are used for the rest.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", metavar="FILE", help="also write the diagnosis to this JSON file")
    parser.add_argument(
        "--rows", action="store_true", help="read the data of RUN, even if it was not trained on this machine"
    )
    parser.add_argument(
        "--minutes",
        type=_minutes,
        metavar="N",
        help=f"with RUN: time for trying other settings; 0 tries none; default {MINUTES:g}",
    )
    # The run must come first: elsewhere the value of a setting could be taken for it.
    run = argv[0] if argv and not argv[0].startswith("-") else None
    options, settings = parser.parse_known_args(argv[1:] if run else argv)
    return run, options, settings


if __name__ == "__main__":
    run_command(main)
