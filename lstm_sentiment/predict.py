"""Label texts, the rows of a file, or lines from stdin."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lstm_sentiment.cli.characters import visible
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import RUN, CommandParser, add_branch_option, add_table_options
from lstm_sentiment.data.sources.names import DELIMITERS
from lstm_sentiment.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from lstm_sentiment.data.sources.sources import Source
    from lstm_sentiment.prediction.classifier import SentimentClassifier
    from lstm_sentiment.prediction.types import Prediction

LINES_AT_ONCE = 256
BYTES_AT_ONCE = 4 << 20  # of lines held in memory at a time


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    if options.text and options.file:
        raise ConfigError("give texts or --file, not both")
    if options.out and not options.file:
        raise ConfigError("--out needs --file")
    delimited = rf"({'|'.join(map(re.escape, DELIMITERS))})(\.\w+)?$"
    if options.spreadsheet_safe and not re.search(delimited, options.out or "", re.IGNORECASE):
        raise ConfigError(
            f"--spreadsheet-safe needs --out with a name that ends in {' or '.join(DELIMITERS)}"
        )
    from lstm_sentiment.prediction.classifier import load  # imports torch: not for --help, not for a typo

    classifier = load(options.run, device=options.device)
    if options.branch:
        classifier.keep_branch(options.branch)
    if options.file:
        _predict_file(classifier, options)
    elif options.text:
        # Bytes that are invalid in the terminal's encoding arrive as unpaired surrogates.
        texts = [text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in options.text]
        for text, prediction in zip(texts, classifier.predict(texts, **_asked(options)), strict=True):
            say(_readable(text, prediction))
    else:
        _predict_lines(classifier, options)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog=program("predict"), description=__doc__)
    parser.add_argument("run", help=RUN)
    parser.add_argument("text", nargs="*", help="texts; without any and without --file, lines from stdin")
    parser.add_argument(
        "--file", help="label the rows of this table (.csv .xlsx ...), or the lines of this .txt file"
    )
    parser.add_argument(
        "--out",
        help="write rows and predictions to this table (.csv .xlsx ...); without it, JSON lines on stdout",
    )
    parser.add_argument(
        "--spreadsheet-safe",
        action="store_true",
        help="in --out, put ' before text that a spreadsheet would interpret as a formula",
    )
    parser.add_argument("--text-column", default="auto", help="column with the text; auto finds it")
    parser.add_argument("--encoding", default="utf-8", help="encoding of --file")
    add_table_options(parser)
    add_branch_option(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument(
        "--coverage",
        type=float,
        help="also give the conformal prediction set at this coverage, such as 0.9",
    )
    parser.add_argument(
        "--abstain-below", type=float, default=0.0, help="give no label if its probability is below this"
    )
    parser.add_argument(
        "--details",
        action="store_true",
        help="also give the share of unknown and the number of truncated tokens",
    )
    return parser.parse_intermixed_args(argv)


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("coverage", "abstain_below", "details")}


def _readable(text: str, prediction: Prediction) -> str:
    """Format a text and its prediction as a readable line."""
    shares = "  ".join(f"{visible(label)} {p:.3f}" for label, p in prediction.probabilities.items())
    notes = []
    if prediction.label_set is not None:
        notes.append(" or ".join(map(visible, prediction.label_set)))
    if prediction.unknown_share is not None:
        notes.append(f"{100 * prediction.unknown_share:.0f} % unknown, {prediction.cut_tokens} cut")
    noted = f"  [{'; '.join(notes)}]" if notes else ""
    return f"{visible(prediction.label or '(unsure)'):<10} ({shares})  {visible(text)}{noted}"


def _more(prediction: Prediction) -> dict[str, Any]:
    """Return the optional fields that were requested."""
    more = {name: getattr(prediction, name) for name in ("label_set", "unknown_share", "cut_tokens")}
    return {name: value for name, value in more.items() if value is not None}


def _predict_lines(classifier: SentimentClassifier, options: argparse.Namespace) -> None:
    """Predict each line of stdin as a line of JSON; without buffering on a terminal."""
    from lstm_sentiment.data.formats.writers import to_json_line
    from lstm_sentiment.text.portions import bytes_of, portions

    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    most = 1 if sys.stdin.isatty() else LINES_AT_ONCE
    for texts in portions(_lines_of_stdin(), most=most, size=BYTES_AT_ONCE, of=bytes_of):
        for text, prediction in zip(texts, classifier.predict(texts, **_asked(options)), strict=True):
            record = {"text": text, "label": prediction.label, "score": prediction.score}
            print(to_json_line({**record, "probabilities": prediction.probabilities, **_more(prediction)}))
        sys.stdout.flush()


def _lines_of_stdin() -> Iterator[str]:
    """Yield lines, limited in length."""
    from lstm_sentiment.data.sources.sources import MAX_LINE
    from lstm_sentiment.errors import DataError

    for number in itertools.count(1):
        line = sys.stdin.readline(MAX_LINE + 1)
        if len(line) > MAX_LINE:
            problem = (
                f"the line is longer than {MAX_LINE:,} characters; end each text with a line break, or cut it"
            )
            raise DataError(problem, file="stdin", line=number)
        if not line:
            return
        yield line.rstrip("\n")


def _predict_file(classifier: SentimentClassifier, options: argparse.Namespace) -> None:
    """Label a file's rows chunk by chunk, in constant memory."""
    from lstm_sentiment.data.formats.readers import columns_of
    from lstm_sentiment.data.formats.writers import open_table, records_of, to_json_line
    from lstm_sentiment.data.sources.names import format_of
    from lstm_sentiment.data.sources.sources import open_source

    how = {name: getattr(options, name) for name in ("encoding", "quoting", "header", "sheet")}
    with open_source(options.file, **how, encoding_errors="replace") as source:
        if options.out:
            like = source.path if source.format == ".parquet" else None
            columns = None if format_of(options.out) in (".jsonl", ".json") else columns_of(source)
            with open_table(options.out, like=like, spreadsheet_safe=options.spreadsheet_safe) as write:
                for frame in _labelled(classifier, source, options, columns):
                    write(frame)
        else:
            for frame in _labelled(classifier, source, options):
                for record in records_of(frame):
                    print(to_json_line(record))


def _labelled(
    classifier: SentimentClassifier,
    source: Source,
    options: argparse.Namespace,
    columns: list[str] | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield a file's rows with predictions; each chunk has all `columns`, if given."""
    from tqdm import tqdm

    from lstm_sentiment.data.formats.readers import TEXT_COLUMNS, column_texts, pick_column, read_chunks
    from lstm_sentiment.data.formats.writers import filled

    with tqdm(unit=" rows", desc="predict", disable=not sys.stderr.isatty()) as bar:
        for chunk in read_chunks(source, labelled=False):
            column = pick_column(
                options.text_column,
                list(chunk.frame.columns),
                candidates=TEXT_COLUMNS,
                key="--text-column",
                file=options.file,
                trained=classifier.config.data.text_column,
            )
            predictions = classifier.predict(column_texts(chunk, column, options.file), **_asked(options))
            frame = chunk.frame if columns is None else filled(chunk.frame, columns)
            yield _with_predictions(frame, predictions, options.file)
            bar.update(len(chunk.frame))


def _with_predictions(frame: pd.DataFrame, predictions: list[Prediction], file: str) -> pd.DataFrame:
    """Add columns predicted_label, predicted_score and one probability per class.

    If requested, also label_set (names joined by a bar), unknown_share and cut_tokens.
    """
    import pandas as pd

    from lstm_sentiment.errors import DataError

    added: dict[str, list[object]] = {
        "predicted_label": [p.label for p in predictions],
        "predicted_score": [p.score for p in predictions],
    }
    for label in predictions[0].probabilities if predictions else ():
        added[f"probability_{label}"] = [p.probabilities[label] for p in predictions]
    for name, value in _more(predictions[0]).items() if predictions else ():
        values = [getattr(p, name) for p in predictions]
        added[name] = ["|".join(of_row) for of_row in values] if isinstance(value, list) else values
    taken = [name for name in added if name in frame.columns]
    if taken:
        raise DataError(f"already has a column '{taken[0]}', which this command adds; rename it", file=file)
    return pd.concat([frame, pd.DataFrame(added, index=frame.index)], axis=1)


if __name__ == "__main__":
    run_command(main)
