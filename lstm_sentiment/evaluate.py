"""Score a run on labelled rows or on behavioural tests.

With --behaviour also, or only, on texts generated from templates: are negation, "but" and emoji understood,
and is the prediction invariant to names, places, typos and links? With --slices also on the rows of each
value of a column, of each length or of each file.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_sentiment.checkpoints.run_paths import output_path
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import (
    RUN,
    CommandParser,
    add_branch_option,
    add_file_options,
    add_precision_option,
    add_slices_option,
    check_out,
    how_to_read,
)
from lstm_sentiment.errors import ConfigError, without_secrets

if TYPE_CHECKING:
    import numpy.typing as npt

    from lstm_sentiment.comparison.slices import Slice
    from lstm_sentiment.prediction.classifier import SentimentClassifier
    from lstm_sentiment.provenance.trained_texts import Seen

    Array = npt.NDArray[Any]


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    out = Path(options.out) if options.out else output_path(options.run, "evaluation.json")
    check_out(options.out)
    from lstm_sentiment.evaluation.checklist import behaviour_lines, check_behaviour
    from lstm_sentiment.prediction.classifier import load  # imports torch: not for --help, not for a typo
    from lstm_sentiment.system.files import write_json

    classifier = load(options.run, device=options.device, precision=options.precision)
    if options.branch:
        classifier.keep_branch(options.branch)
    found: dict[str, Any] = {"branch": options.branch} if options.branch else {}
    if options.file:
        found |= _scores(classifier, options)
    if options.behaviour:
        found["behaviour"] = check_behaviour(classifier.labels, classifier.predict_proba)
        say("\n".join(behaviour_lines(found["behaviour"])))
    write_json(out, found)
    print(f"written to {out}")


def _scores(classifier: SentimentClassifier, options: argparse.Namespace) -> dict[str, Any]:
    """Score all files together, print the scores and return them."""
    import numpy as np

    from lstm_sentiment.evaluation.metrics import report_lines, score
    from lstm_sentiment.prediction.score_file import predict_file
    from lstm_sentiment.records.json_values import to_json

    names, slices = [without_secrets(file) for file in options.file], _slices(classifier, options)
    parts = [predict_file(classifier, file, **how_to_read(options)) for file in options.file]
    truth_R, probabilities_RC = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    scores = score(truth_R, probabilities_RC, classifier.labels)
    say("\n".join(report_lines(scores, title=", ".join(names))))
    found = {"file": names[0] if len(names) == 1 else names, **to_json(scores)}
    if (seen := _seen(classifier, options)) is not None:
        found["trained_on"] = _without_seen(seen, truth_R, probabilities_RC, classifier.labels)
    if slices:
        found["slices"] = _slice_scores(classifier, slices, truth_R, probabilities_RC.argmax(axis=1))
    return found


def _seen(classifier: SentimentClassifier, options: argparse.Namespace) -> Seen | None:
    """Return which rows of all files the run was trained on; None if there are none, or it is not known."""
    from lstm_sentiment.prediction.score_file import seen_rows
    from lstm_sentiment.provenance.trained_texts import joined_seen

    parts = [seen_rows(classifier, file, **how_to_read(options)) for file in options.file]
    known = [part for part in parts if part is not None]
    seen = joined_seen(known) if known else None
    return seen if seen is not None and seen.either.any() else None


def _without_seen(seen: Seen, truth_R: Array, probabilities_RC: Array, labels: list[str]) -> dict[str, Any]:
    """Say how many rows the run was trained on, score the others and return both."""
    from lstm_sentiment.evaluation.metrics import report_lines, score
    from lstm_sentiment.provenance.trained_texts import seen_line
    from lstm_sentiment.records.json_values import to_json

    say(f"warning: {seen_line(seen)}")
    found: dict[str, Any] = {"exactly": int(seen.exactly.sum()), "nearly": int(seen.nearly.sum())}
    others_R = ~seen.either
    if not others_R.any():
        return {**found, "others": None}
    others = score(truth_R[others_R], probabilities_RC[others_R], labels)
    say("\n".join(report_lines(others, title="rows that it was not trained on")))
    return {**found, "others": to_json(others)}


def _slices(classifier: SentimentClassifier, options: argparse.Namespace) -> dict[str, list[Slice]]:
    """Return the slices of the rows of all files, by what was asked for."""
    from lstm_sentiment.comparison.rows import read_rows
    from lstm_sentiment.comparison.slices import slices_of

    if not options.slices:
        return {}
    how = {"trained": classifier.config.data, "slices": options.slices, **how_to_read(options)}
    rows = [read_rows(file, classifier.labels, classifier.label_map, **how) for file in options.file]
    return {by: slices_of(by, [value for of in rows for value in of.slices[by]]) for by in options.slices}


def _slice_scores(
    classifier: SentimentClassifier, slices: dict[str, list[Slice]], truth_R: Array, predicted_R: Array
) -> dict[str, Any]:
    """Score the slices, print the scores and return them."""
    from lstm_sentiment.comparison.slices import slice_lines, slice_scores
    from lstm_sentiment.comparison.systems import metric_of
    from lstm_sentiment.evaluation.metrics import title_of

    metrics = {name: title_of(name) for name in (metric_of([classifier], classifier.labels), "accuracy")}
    found = {}
    for by, of_slices in slices.items():
        scores = slice_scores(of_slices, truth_R, predicted_R, classifier.labels)
        say("\n".join(slice_lines(by, scores, metrics)))
        found[by] = [dataclasses.asdict(of) for of in scores]
    return found


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog=program("evaluate"), description=__doc__)
    parser.add_argument("run", help=RUN)
    parser.add_argument(
        "file", nargs="*", help="labelled rows, in any format of training data; several are scored together"
    )
    add_slices_option(parser)
    parser.add_argument(
        "--behaviour", action="store_true", help="count failures on some 4,000 generated texts, by capability"
    )
    add_branch_option(parser)
    parser.add_argument(
        "--out", help="write the scores here; default RUN/evaluation.json, or ./starter-evaluation.json"
    )
    add_file_options(parser)
    add_precision_option(parser)
    options = parser.parse_intermixed_args(argv)
    if not options.file and not options.behaviour:
        parser.error("give a file with labelled rows, --behaviour, or both")
    if not options.file:
        for name, value in {"slices": options.slices, **how_to_read(options)}.items():
            if value != parser.get_default(name):
                raise ConfigError(f"--{name.replace('_', '-')} needs a file")
    return options


if __name__ == "__main__":
    run_command(main)
