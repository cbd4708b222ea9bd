"""``python -m lstm_sentiment.evaluate RUN FILE``: score a run on labelled rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lstm_sentiment.errors import DataError
from lstm_sentiment.options import CommandParser, run_command

if TYPE_CHECKING:
    from lstm_sentiment.classifier import SentimentClassifier


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    from lstm_sentiment.classifier import load  # imports torch: not for --help, not for a typo
    from lstm_sentiment.files import write_json
    from lstm_sentiment.metrics import report_lines

    out = Path(options.out) if options.out else Path(options.run) / "evaluation.json"
    if options.out and not out.parent.is_dir():
        raise DataError(f"no such folder: {out.parent}", file=options.out)
    classifier = load(options.run, device=options.device)
    scores = evaluate_file(classifier, options)
    print("\n".join(report_lines(scores, title=options.file)))
    write_json(out, {"file": options.file, **scores})
    print(f"written to {out}")


def evaluate_file(classifier: SentimentClassifier, options: argparse.Namespace) -> dict[str, object]:
    """Return the scores (see `metrics.score`) of a classifier on a labelled file.

    Raises:
        DataError: a file, column or label that cannot be used.
    """
    import numpy as np
    from tqdm import tqdm

    from lstm_sentiment.corpus import unknown_label
    from lstm_sentiment.metrics import score
    from lstm_sentiment.readers import (
        LABEL_COLUMNS,
        TEXT_COLUMNS,
        as_text,
        pick_column,
        read_chunks,
    )
    from lstm_sentiment.sources import open_source

    # A file may spell a class as the training data did, or by its name.
    classes = {label: label for label in classifier.labels} | classifier.label_map
    truth: list[int] = []
    answers = []
    with open_source(options.file, encoding=options.encoding, encoding_errors="replace") as source:
        for chunk in tqdm(read_chunks(source), desc="evaluate", unit=" chunks", disable=None):
            columns = [str(c) for c in chunk.frame.columns]
            trained = classifier.config.data
            text_column, label_column = (
                pick_column(
                    wanted,
                    columns,
                    candidates=candidates,
                    key=f"--{kind}_column",
                    file=options.file,
                    trained=known,
                )
                for kind, wanted, known, candidates in (
                    ("text", options.text_column, trained.text_column, TEXT_COLUMNS),
                    ("label", options.label_column, trained.label_column, LABEL_COLUMNS),
                )
            )
            for value, line in zip(chunk.frame[label_column], chunk.lines, strict=True):
                label = as_text(value).strip()
                if label not in classes:
                    raise DataError(unknown_label(label, classes), file=options.file, line=int(line))
                truth.append(classifier.labels.index(classes[label]))
            answers.append(classifier.predict_proba(map(as_text, chunk.frame[text_column])))
    return score(np.array(truth), np.concatenate(answers), classifier.labels)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog="python -m lstm_sentiment.evaluate", description=__doc__)
    parser.add_argument("run", help="run folder that training wrote")
    parser.add_argument(
        "file", help="labelled rows (.csv .tsv .jsonl .parquet, also compressed, or a folder)"
    )
    parser.add_argument("--out", help="write the scores here; default RUN/evaluation.json")
    parser.add_argument("--text_column", default="auto", help="column with the text; auto finds it")
    parser.add_argument("--label_column", default="auto", help="column with the label; auto finds it")
    parser.add_argument("--encoding", default="utf-8", help="encoding of the file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
