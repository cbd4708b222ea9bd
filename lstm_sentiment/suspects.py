"""List rows that are likely wrong, and write a fixed copy of the data.

Each row is predicted by models that were not fitted on it. Suspect are rows with a likely wrong label
(confident learning), duplicates with another label, near-duplicates in another split, texts of another
language, and empty texts. The table has their original texts, source and line, and an empty column
`decision`: leave it empty to keep a row as it is, or write `drop` or the right label. With --apply a copy of
DATA with these decisions is written; train --data.exclude-rows TABLE leaves the rows out.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import re
import sys
from pathlib import Path

from lstm_sentiment.checkpoints.run_paths import is_starter
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import log_to, say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import (
    CommandParser,
    check_out,
    given_keys,
    parse_config,
    read_config,
)
from lstm_sentiment.config.schema import Config, flatten
from lstm_sentiment.config.sections import name_of
from lstm_sentiment.data.sources.names import DELIMITERS
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.system.files import local_path

USAGE = "DATA|RUN --out TABLE [--apply TABLE] [--section.key VALUE ...]"


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    named, options, settings = _parse(argv)
    check_out(options.out)
    config, given = _config(named, settings, rows=options.rows)
    log_to(sys.stderr, logging.INFO)
    if options.apply:
        _apply(config, given, options)
        return
    from lstm_sentiment.cleaning.search import find_suspects  # imports torch: not for --help, not for a typo
    from lstm_sentiment.cleaning.table import summary_lines, write_suspects

    found = find_suspects(config, given=given)
    write_suspects(found, options.out, spreadsheet_safe=options.spreadsheet_safe)
    say("\n".join(summary_lines(found)))
    say(f"written to {options.out}")


def _apply(config: Config, given: frozenset[str], options: argparse.Namespace) -> None:
    from lstm_sentiment.data.review.fixed_copy import write_fixed_copy

    errors = config.data.encoding_errors if "data.encoding_errors" in given else "strict"
    copied = write_fixed_copy(config.data, options.apply, options.out, encoding_errors=errors)
    if copied.of_others:
        say(f"{copied.of_others:,} rows of {options.apply} are of other files, and were ignored")
    changed = f"{copied.relabelled:,} with another label, {copied.dropped:,} dropped"
    say(f"{copied.rows:,} rows written to {options.out}: {changed}")


def _config(named: str, settings: list[str], *, rows: bool) -> tuple[Config, frozenset[str]]:
    """Return the configuration of a run, or of data and settings, and the keys that are set."""
    if is_starter(named):
        raise ConfigError("the starter comes without its rows; name a file of labelled text, or a run")
    if "://" not in named and (local_path(named) / "config.yaml").is_file():
        if settings:
            raise ConfigError(f"a run has its own configuration; leave out {' '.join(settings)}")
        return _config_of_run(local_path(named), rows=rows)
    if rows:
        raise ConfigError("--rows needs a run; leave it out")
    argv = [*settings, f"--data.train={named}"]
    return parse_config(argv, program="suspects", description=""), given_keys(argv)


def _config_of_run(run: Path, *, rows: bool) -> tuple[Config, frozenset[str]]:
    """Return the configuration of a run, if the files that it names may be read, and all its keys."""
    from lstm_sentiment.checkpoints.trusted_runs import refuse_untrusted
    from lstm_sentiment.data.corpus import refuse_addresses

    config = read_config(run / "config.yaml")
    refuse_addresses(config.data)
    if not rows:
        refuse_untrusted(run, name_of(config.data.train), "--rows")
    here = dataclasses.replace(config.trainer, device="auto", precision="auto")
    return dataclasses.replace(config, trainer=here), frozenset(flatten(config))


def _parse(argv: list[str]) -> tuple[str, argparse.Namespace, list[str]]:
    """Return the data or run, the options of this command, and the remaining arguments: settings."""
    parser = CommandParser(
        prog=program("suspects"),
        usage=f"{program('suspects')} {USAGE}",
        description=__doc__,
        epilog="DATA is labelled text, as for data.train, RUN a run folder; it must come first.\n"
        "Settings are those of train (see its --help), such as --data.text-column and --data.test;\n"
        "--pretrained null for texts in another language.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", metavar="TABLE", help="table to write (.csv .xlsx ...)")
    parser.add_argument(
        "--apply", metavar="TABLE", help="reviewed table of suspects; --out is then a fixed copy of DATA"
    )
    parser.add_argument(
        "--spreadsheet-safe",
        action="store_true",
        help="in --out, put ' before text that a spreadsheet would interpret as a formula",
    )
    parser.add_argument(
        "--rows", action="store_true", help="read the data of RUN, even if it was not trained on this machine"
    )
    # The data must come first: elsewhere the value of a setting could be taken for them.
    named = argv[0] if argv and not argv[0].startswith("-") else None
    options, settings = parser.parse_known_args(argv[1:] if named else argv)
    if named is None:
        parser.error("name the data or a run first")
    if not options.out:
        parser.error("--out is missing: name a table to write")
    delimited = rf"({'|'.join(map(re.escape, DELIMITERS))})(\.\w+)?$"
    if options.spreadsheet_safe and (options.apply or not re.search(delimited, options.out, re.IGNORECASE)):
        raise ConfigError(
            f"--spreadsheet-safe needs --out with a name that ends in {' or '.join(DELIMITERS)}, not --apply"
        )
    return named, options, settings


if __name__ == "__main__":
    run_command(main)
