"""``python -m lstm_sentiment.evaluate RUN FILE``: score a run on labelled rows."""

from __future__ import annotations

import argparse
from pathlib import Path

from lstm_sentiment.errors import DataError
from lstm_sentiment.options import CommandParser, add_file_options, how_to_read, run_command


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    from lstm_sentiment.answers import answer_file  # imports torch: not for --help, not for a typo
    from lstm_sentiment.classifier import load
    from lstm_sentiment.files import write_json
    from lstm_sentiment.metrics import report_lines, score

    out = Path(options.out) if options.out else Path(options.run) / "evaluation.json"
    if options.out and not out.parent.is_dir():
        raise DataError(f"no such folder: {out.parent}", file=options.out)
    classifier = load(options.run, device=options.device)
    truth_R, probabilities_RC = answer_file(classifier, options.file, **how_to_read(options))
    scores = score(truth_R, probabilities_RC, classifier.labels)
    print("\n".join(report_lines(scores, title=options.file)))
    write_json(out, {"file": options.file, **scores})
    print(f"written to {out}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog="python -m lstm_sentiment.evaluate", description=__doc__)
    parser.add_argument("run", help="run folder that training wrote")
    parser.add_argument(
        "file", help="labelled rows (.csv .tsv .jsonl .parquet, also compressed, or a folder)"
    )
    parser.add_argument("--out", help="write the scores here; default RUN/evaluation.json")
    add_file_options(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
