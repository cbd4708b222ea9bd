"""Test which of several systems is better on the same labelled rows.

A system is a run folder, a folder of train --seeds (the scores of its runs are averaged), starter, a part of
a run alone (runs/reviews:lstm, runs/reviews:ngrams, or runs/reviews:linear for its linear model), or a table
of predictions of any origin for the same rows: a probability for each class (columns probability_NAME or
NAME), or a label (column prediction or label).

Each further system is compared with the first, on the metric that picked the run's epochs and on accuracy:
differences with intervals of a paired bootstrap, and McNemar's test.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import (
    CommandParser,
    add_file_options,
    add_slices_option,
    check_out,
    how_to_read,
)
from lstm_sentiment.errors import without_secrets

if TYPE_CHECKING:
    from lstm_sentiment.comparison.verdicts import Compared

MOST_SYSTEMS = 26  # each has a letter
OUTPUTS = ("text", "json", "markdown", "latex", "html")


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    check_out(options.out)
    from lstm_sentiment.comparison.rows import labels_in, read_rows  # imports torch: not for --help
    from lstm_sentiment.comparison.slices import slices_of
    from lstm_sentiment.comparison.systems import TRAINED, classes_of, metric_of, open_system, seen_by
    from lstm_sentiment.comparison.verdicts import NEW, compare_all

    how = how_to_read(options)
    systems = [open_system(name, device=options.device) for name in options.systems]
    labels, label_map = classes_of(systems) or (labels_in(options.file, **how), {})
    runs = [classifier for system in systems for classifier in system.classifiers]
    metric = metric_of(runs, labels, options.metric)
    trained = runs[0].config.data if runs else None
    rows = read_rows(options.file, labels, label_map, trained=trained, slices=options.slices, **how)
    predictions = [system.predictions(rows, how) for system in systems]
    slices = {by: slices_of(by, values) for by, values in rows.slices.items()}
    seen = seen_by(systems, options.file, how)
    if seen.rows_R is not None:
        names = ["trained on" if each else NEW for each in seen.rows_R]
        slices[TRAINED] = slices_of(TRAINED, names)
    found = compare_all(
        file=without_secrets(options.file),
        titles=[system.title for system in systems],
        truth_R=rows.truth_R,
        predictions=predictions,
        labels=labels,
        metric=metric,
        slices=slices,
        seen_R=seen.rows_R,
        training=seen.sentences,
    )
    _show(found, options.format, options.out)


def _show(found: Compared, format_: str, out: str | None) -> None:
    """Print a comparison; write it to a file, as a table if that is the format, otherwise as JSON."""
    from lstm_sentiment.comparison.output import as_json, compared_lines
    from lstm_sentiment.comparison.tables import FORMATS, tables_of
    from lstm_sentiment.system.files import write_atomically, write_json

    table = FORMATS[format_](tables_of(found)) if format_ in FORMATS else None
    if format_ == "text":
        say("\n".join(compared_lines(found)))
    elif not out:
        say(table or json.dumps(as_json(found), indent=1))
    if not out:
        return
    if table is None:
        write_json(Path(out), as_json(found))
    else:
        write_atomically(Path(out), f"{table}\n".encode("utf-8", "replace"))
    print(f"written to {out}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog=program("compare"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "systems",
        nargs="+",
        metavar="system",
        help="two or more: runs, folders of seeds, starter, RUN:linear, tables of predictions",
    )
    parser.add_argument("file", help="labelled rows that no system was trained on")
    parser.add_argument(
        "--metric", help="of the verdict, next to accuracy; default: that which picked the first run's epochs"
    )
    add_slices_option(parser)
    parser.add_argument(
        "--format", choices=OUTPUTS, default="text", help="of the output: text, JSON, or a table to paste"
    )
    parser.add_argument("--out", help="write JSON, or the table of --format, to this file")
    add_file_options(parser)
    options = parser.parse_intermixed_args(argv)
    if not 2 <= len(options.systems) <= MOST_SYSTEMS:
        parser.error(f"give 2 to {MOST_SYSTEMS} systems, then a file with labelled rows")
    return options


if __name__ == "__main__":
    run_command(main)
