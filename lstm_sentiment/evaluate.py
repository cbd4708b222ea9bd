"""Score a run on labelled rows or on behavioural tests.

With --behaviour also, or only, on texts generated from templates: are negation, "but" and emoji understood,
and is the prediction invariant to names, places, typos and links?
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lstm_sentiment.checkpoints.run_paths import output_path
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import RUN, CommandParser, add_file_options, check_out, how_to_read
from lstm_sentiment.errors import ConfigError, without_secrets


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    out = Path(options.out) if options.out else output_path(options.run, "evaluation.json")
    check_out(options.out)
    from lstm_sentiment.evaluation.checklist import behaviour_lines, check_behaviour
    from lstm_sentiment.evaluation.metrics import report_lines, score
    from lstm_sentiment.prediction.classifier import load
    from lstm_sentiment.prediction.score_file import (
        predict_file,
    )  # imports torch: not for --help, not for a typo
    from lstm_sentiment.records.json_values import to_json
    from lstm_sentiment.system.files import write_json

    classifier = load(options.run, device=options.device)
    if options.branch:
        classifier.keep_branch(options.branch)
    found: dict[str, Any] = {"branch": options.branch} if options.branch else {}
    if options.file:
        truth_R, probabilities_RC = predict_file(classifier, options.file, **how_to_read(options))
        scores = score(truth_R, probabilities_RC, classifier.labels)
        say("\n".join(report_lines(scores, title=without_secrets(options.file))))
        found |= {"file": without_secrets(options.file), **to_json(scores)}
    if options.behaviour:
        found["behaviour"] = check_behaviour(classifier.labels, classifier.predict_proba)
        say("\n".join(behaviour_lines(found["behaviour"])))
    write_json(out, found)
    print(f"written to {out}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog=program("evaluate"), description=__doc__)
    parser.add_argument("run", help=RUN)
    parser.add_argument("file", nargs="?", help="labelled rows, in any format of training data")
    parser.add_argument(
        "--behaviour", action="store_true", help="count failures on some 4,000 generated texts, by capability"
    )
    parser.add_argument(
        "--branch", choices=["lstm", "ngrams"], help="score only this branch of a model with model.ngrams"
    )
    parser.add_argument(
        "--out", help="write the scores here; default RUN/evaluation.json, or ./starter-evaluation.json"
    )
    add_file_options(parser)
    options = parser.parse_args(argv)
    if not options.file and not options.behaviour:
        parser.error("give a file with labelled rows, --behaviour, or both")
    if not options.file:
        for name, value in how_to_read(options).items():
            if value != parser.get_default(name):
                raise ConfigError(f"--{name.replace('_', '-')} needs a file")
    return options


if __name__ == "__main__":
    run_command(main)
