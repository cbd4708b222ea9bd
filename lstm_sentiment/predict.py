"""Label texts, the rows of a file, or lines from stdin."""

from __future__ import annotations

import argparse
import itertools
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_sentiment.cli.characters import visible
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import (
    RUN,
    CommandParser,
    add_branch_option,
    add_table_options,
    check_out,
)
from lstm_sentiment.data.sources.names import DELIMITERS
from lstm_sentiment.errors import ConfigError, without_secrets

if TYPE_CHECKING:
    import pandas as pd

    from lstm_sentiment.data.formats.readers import Chunk
    from lstm_sentiment.data.sources.sources import Source
    from lstm_sentiment.monitoring.drift import Profile, Shift
    from lstm_sentiment.prediction.classifier import SentimentClassifier
    from lstm_sentiment.prediction.types import Prediction
    from lstm_sentiment.provenance.trained_texts import Seen

LINES_AT_ONCE = 256
BYTES_AT_ONCE = 4 << 20  # of lines held in memory at a time


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    if options.text and options.file:
        raise ConfigError("give texts or --file, not both")
    for option in ("out", "drift_report"):
        if getattr(options, option) and not options.file:
            raise ConfigError(f"--{option.replace('_', '-')} needs --file")
    if options.drift_report and options.branch:
        raise ConfigError("--drift-report compares predictions of the whole model; omit --branch")
    check_out(options.drift_report)
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
        help="also give the share of unknown tokens, the number of truncated ones, and whether none was read",
    )
    parser.add_argument(
        "--on-missing",
        choices=["raise", "skip", "null"],
        default="null",
        help="for a row of --file whose text is missing (null, not empty): stop with its number, leave it "
        "out of the output, or, the default, give it no label",
    )
    parser.add_argument(
        "--drift-report",
        help="write the comparison of --file with the run's validation rows to this JSON file; a difference "
        "that is large and beyond chance is reported in any case, except with --branch",
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
    if prediction.unread:
        notes.append("no token was read")
    noted = f"  [{'; '.join(notes)}]" if notes else ""
    return f"{visible(prediction.label or '(unsure)'):<10} ({shares})  {visible(text)}{noted}"


def _more(options: argparse.Namespace) -> list[str]:
    """Return the names of the optional fields of a `Prediction` that were requested."""
    names = ["label_set"] if options.coverage is not None else []
    return names + (["unknown_share", "cut_tokens", "unread"] if options.details else [])


def _predict_lines(classifier: SentimentClassifier, options: argparse.Namespace) -> None:
    """Predict each line of stdin as a line of JSON; without buffering on a terminal."""
    from lstm_sentiment.data.formats.writers import to_json_line
    from lstm_sentiment.text.portions import bytes_of, portions

    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    most = 1 if sys.stdin.isatty() else LINES_AT_ONCE
    for texts in portions(_lines_of_stdin(), most=most, size=BYTES_AT_ONCE, of=bytes_of):
        for text, prediction in zip(texts, classifier.predict(texts, **_asked(options)), strict=True):
            names = ["label", "score", "probabilities", *_more(options)]
            names += ["unread"] if prediction.unread else []
            print(to_json_line({"text": text, **{name: getattr(prediction, name) for name in names}}))
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

    labelling = _Labelling(classifier, options)
    how = {name: getattr(options, name) for name in ("encoding", "quoting", "header", "sheet")}
    with open_source(options.file, **how, encoding_errors="replace") as source:
        if options.out:
            like = source.path if source.format == ".parquet" else None
            columns = None if format_of(options.out) in (".jsonl", ".json") else columns_of(source)
            with open_table(options.out, like=like, spreadsheet_safe=options.spreadsheet_safe) as write:
                for frame in labelling.frames(source, columns):
                    write(frame)
        else:
            for frame in labelling.frames(source):
                for record in records_of(frame):
                    print(to_json_line(record))
    labelling.report()


class _Labelling:
    """Labels the rows of a file, and counts what is to be reported at the end.

    Args:
        classifier: to predict with.
        options: of the command.

    Raises:
        CheckpointError: the run's validation profile is damaged.
        RunError: a drift report is requested, and the run has no such profile.
    """

    def __init__(self, classifier: SentimentClassifier, options: argparse.Namespace) -> None:
        from lstm_sentiment.monitoring.drift import profile_of_predictions
        from lstm_sentiment.provenance.trained_texts import TrainedTexts

        self._classifier, self._options = classifier, options
        self._reference = _reference_of(classifier, options)
        self._found = profile_of_predictions(classifier.labels, [])
        self._missing = self._unread = 0
        self._trained = None if classifier.run is None else TrainedTexts.read(classifier.run)
        self._seen: list[Seen] = []

    def frames(self, source: Source, columns: list[str] | None = None) -> Iterator[pd.DataFrame]:
        """Yield a file's rows with predictions; each chunk has all `columns`, if given."""
        from tqdm import tqdm

        from lstm_sentiment.data.formats.readers import read_chunks
        from lstm_sentiment.data.formats.writers import filled

        options = self._options
        with tqdm(unit=" rows", desc="predict", disable=not sys.stderr.isatty()) as bar:
            for chunk in read_chunks(source, labelled=False):
                texts = self._texts_of(chunk)
                asked = {**_asked(options), "details": options.details or self._reference is not None}
                predictions = self._classifier.predict(texts, **asked, on_missing=options.on_missing)
                self._count(texts, predictions)
                if self._trained is not None and self._has_labels(chunk):
                    given = [text for text in texts if text is not None]
                    self._seen.append(self._trained.seen(given, self._classifier.tokenizer))
                frame = chunk.frame if columns is None else filled(chunk.frame, columns)
                if options.on_missing == "skip":
                    frame = frame[[text is not None for text in texts]]
                yield self._with_predictions(frame, predictions)
                bar.update(len(chunk.frame))

    def report(self) -> None:
        """Say on stderr how many texts were missing or empty, and how the others differ from the run's."""
        from lstm_sentiment.monitoring.drift import drift_lines, shifts
        from lstm_sentiment.provenance.trained_texts import joined_seen, seen_line
        from lstm_sentiment.system.files import write_json

        options = self._options
        if line := seen_line(joined_seen(self._seen)):
            _note(f"{options.file}: {line}")
        if self._missing:
            done = "left out of the output" if options.on_missing == "skip" else "given no label"
            _note(f"{options.file}: texts that are missing and were {done}: {self._missing:,}")
        if self._unread:
            unread = "texts without a token, whose labels do not depend on them"
            _note(f"{options.file}: {unread}: {self._unread:,}")
        if self._reference is None or not self._found.rows:
            return
        found = shifts(self._reference, self._found)
        if lines := drift_lines(self._reference, self._found, found):
            _note(
                f"{options.file}: drift: its texts differ from the run's validation rows, so that its scores "
                f"may not hold here. Label some of these rows and score them (evaluate {options.run} FILE); "
                "if the scores are lower, train again with them"
            )
            _note("".join(f"  {line}\n" for line in lines).rstrip())
        if options.drift_report:
            write_json(Path(options.drift_report), self._drift_report(found))

    def _drift_report(self, found: Mapping[str, Shift]) -> dict[str, Any]:
        assert self._reference is not None
        return {
            "file": without_secrets(self._options.file),
            "run": str(self._options.run),
            "drift": any(shift.alarming for shift in found.values()),
            "shifts": {
                name: {
                    "psi": shift.psi, "size": shift.size, "p_value": shift.p_value, "alarming": shift.alarming
                }
                for name, shift in found.items()
            },
            "validation": self._reference.as_json(),
            "new": self._found.as_json(),
        }  # fmt: skip

    def _has_labels(self, chunk: Chunk) -> bool:
        """Whether a chunk has a column of labels: of this run, or of a usual name."""
        from lstm_sentiment.data.formats.readers import LABEL_COLUMNS

        names = {str(column).strip().lower() for column in chunk.frame.columns}
        return not names.isdisjoint({*LABEL_COLUMNS, self._classifier.config.data.label_column.lower()})

    def _texts_of(self, chunk: Chunk) -> list[str | None]:
        """Return the texts of a chunk, None for missing ones."""
        from lstm_sentiment.data.formats.readers import TEXT_COLUMNS, column_texts, pick_column
        from lstm_sentiment.errors import DataError
        from lstm_sentiment.text.given import is_missing

        options, file = self._options, self._options.file
        column = pick_column(
            options.text_column,
            list(chunk.frame.columns),
            candidates=TEXT_COLUMNS,
            key="--text-column",
            file=file,
            trained=self._classifier.config.data.text_column,
        )
        read = zip(chunk.frame[column], column_texts(chunk, column, file), strict=True)
        texts = [None if is_missing(value) else text for value, text in read]
        if None in texts and options.on_missing == "raise":
            problem = "the text is missing; add it, or choose --on-missing skip or null"
            line = int(chunk.lines[texts.index(None)])
            raise DataError(problem, file=file, line=line, column=column)
        return texts

    def _count(self, texts: list[str | None], predictions: list[Prediction]) -> None:
        from lstm_sentiment.monitoring.drift import profile_of_predictions

        missing = texts.count(None)
        self._missing += missing
        nulls = missing if self._options.on_missing == "null" else 0
        self._unread += sum(prediction.unread for prediction in predictions) - nulls
        if self._reference is not None:
            self._found += profile_of_predictions(self._classifier.labels, predictions)

    def _with_predictions(self, frame: pd.DataFrame, predictions: list[Prediction]) -> pd.DataFrame:
        """Add columns predicted_label, predicted_score and one probability per class.

        If requested, also label_set (names joined by a bar), unknown_share, cut_tokens and unread.
        """
        import pandas as pd

        from lstm_sentiment.errors import DataError

        added: dict[str, list[object]] = {
            "predicted_label": [p.label for p in predictions],
            "predicted_score": [_number(p.score) for p in predictions],
        }
        for label in self._classifier.labels:
            added[f"probability_{label}"] = [_number(p.probabilities[label]) for p in predictions]
        for name in _more(self._options):
            values = [getattr(p, name) for p in predictions]
            added[name] = ["|".join(of or ()) for of in values] if name == "label_set" else values
        taken = [name for name in added if name in frame.columns]
        if taken:
            problem = f"already has a column '{taken[0]}', which this command adds; rename it"
            raise DataError(problem, file=self._options.file)
        return pd.concat([frame, pd.DataFrame(added, index=frame.index, dtype=object)], axis=1)


def _reference_of(classifier: SentimentClassifier, options: argparse.Namespace) -> Profile | None:
    """Return the profile of a run's validation rows; None if it has none, or for one branch alone."""
    from lstm_sentiment.checkpoints.run_folder import MONITORING, RunFolder
    from lstm_sentiment.errors import RunError
    from lstm_sentiment.monitoring.drift import profile_of_json

    if options.branch:  # its predictions are others than those of the whole model
        return None
    assert classifier.run is not None
    folder = RunFolder(classifier.run)
    if (folder.path / MONITORING).is_file():
        return profile_of_json(folder.read_json(MONITORING), classifier.labels)
    if options.drift_report:
        raise RunError(
            f"{folder.path}: has no {MONITORING} to compare with; train it again, or omit --drift-report"
        )
    return None


def _number(value: float) -> float | None:
    """Return a probability, None for that of a missing text."""
    return None if math.isnan(value) else value


def _note(text: str) -> None:
    say(text, file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
