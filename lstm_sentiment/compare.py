"""Test whether one run is better than another on the same rows.

Reports the difference of each score with a paired bootstrap interval, and McNemar's test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import RUN, CommandParser, add_file_options, check_out, how_to_read
from lstm_sentiment.errors import RunError, without_secrets


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    check_out(options.out)
    import numpy as np

    from lstm_sentiment.evaluation.significance import compare, comparison_lines
    from lstm_sentiment.prediction.classifier import load
    from lstm_sentiment.prediction.score_file import (
        predict_file,
    )  # imports torch: not for --help, not for a typo
    from lstm_sentiment.system.files import write_json

    runs = [options.run_a, options.run_b]
    classifiers = [load(run, device=options.device) for run in runs]
    labels = classifiers[0].labels
    if sorted(labels) != sorted(classifiers[1].labels):
        both = [", ".join(classifier.labels) for classifier in classifiers]
        raise RunError(f"the runs have different classes: {runs[0]}: {both[0]}; {runs[1]}: {both[1]}")
    truths, predictions = [], []
    for classifier in classifiers:
        truth_R, probabilities_RC = predict_file(classifier, options.file, **how_to_read(options))
        index_C = np.array([labels.index(label) for label in classifier.labels])
        truths.append(index_C[truth_R])
        predictions.append(index_C[probabilities_RC.argmax(axis=1)])
    if not np.array_equal(truths[0], truths[1]):
        raise RunError(f"the runs map the labels of {options.file} differently; see data.labels of both")
    found = compare(truths[0], predictions[0], predictions[1], labels)
    say("\n".join(comparison_lines(found, options.run_a, options.run_b)))
    if options.out:
        compared = {"file": without_secrets(options.file), "first": runs[0], "second": runs[1]}
        write_json(Path(options.out), compared | found)
        print(f"written to {options.out}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog=program("compare"), description=__doc__)
    parser.add_argument("run_a", help=RUN)
    parser.add_argument("run_b", help="another run, with the same classes")
    parser.add_argument("file", help="labelled rows that neither run was trained on")
    parser.add_argument("--out", help="also write the comparison to this JSON file")
    add_file_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
