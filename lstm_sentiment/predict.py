"""Label texts, the rows of a file, or lines from stdin."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
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
    add_precision_option,
    add_table_options,
    check_out,
)
from lstm_sentiment.config.sections import name_of
from lstm_sentiment.data.sources.names import DELIMITERS, has_format
from lstm_sentiment.data.sources.uploads import check_address
from lstm_sentiment.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from lstm_sentiment.bulk.labelling import Asked, Counts, Labelling
    from lstm_sentiment.monitoring.drift import Profile, Shift
    from lstm_sentiment.prediction.classifier import SentimentClassifier
    from lstm_sentiment.prediction.types import Prediction

LINES_AT_ONCE = 256
BYTES_AT_ONCE = 4 << 20  # of lines held in memory at a time


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    if options.text and options.file:
        if all(map(has_format, options.text)):
            raise ConfigError("several files follow --file; quote a glob: --file 'in/*.csv'")
        raise ConfigError("give texts or --file, not both")
    for option in ("out", "drift_report"):
        if getattr(options, option) and not options.file:
            raise ConfigError(f"--{option.replace('_', '-')} needs --file")
    for option in ("address", "workers"):
        if getattr(options, option) is not None and options.engine != "ray":
            raise ConfigError("needs --engine ray", key=f"--{option}")
    if options.engine == "ray" and not (options.file and options.out):
        raise ConfigError("writes a folder of shards; give --file and --out", key="--engine")
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"must be at least 1, not {options.workers}", key="--workers")
    if options.drift_report and options.branch:
        raise ConfigError("--drift-report compares predictions of the whole model; omit --branch")
    check_out(options.drift_report)
    if options.out and "://" in options.out:
        check_address(options.out)
    if options.spreadsheet_safe and (not options.out or has_format(options.out)):
        _check_delimited(options.out or "")
    from lstm_sentiment.prediction.classifier import load  # imports torch: not for --help, not for a typo

    classifier = load(options.run, device=options.device, precision=options.precision)
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


def _check_delimited(out: str) -> None:
    """Refuse --spreadsheet-safe for a table of another format."""
    if not re.search(rf"({'|'.join(map(re.escape, DELIMITERS))})(\.\w+)?$", out, re.IGNORECASE):
        raise ConfigError(
            f"--spreadsheet-safe needs --out with a name that ends in {' or '.join(DELIMITERS)}"
        )


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog=program("predict"), description=__doc__)
    parser.add_argument("run", help=RUN)
    parser.add_argument("text", nargs="*", help="texts; without any and without --file, lines from stdin")
    _add_file_options(parser)
    parser.add_argument("--text-column", default="auto", help="column with the text; auto finds it")
    parser.add_argument("--encoding", default="utf-8", help="encoding of --file")
    add_table_options(parser)
    add_branch_option(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    add_precision_option(parser)
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
    options = parser.parse_intermixed_args(argv)
    if options.file and len(options.file) == 1:
        options.file = options.file[0]
    return options


def _add_file_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of files, output and engines."""
    parser.add_argument(
        "--file",
        action="append",
        help="label the rows of this table (.csv .xlsx ...), or the lines of this .txt file; many files: a "
        "folder of shards, a quoted glob such as 'in/*.parquet', or several --file",
    )
    parser.add_argument(
        "--out",
        help="write rows and predictions to this table (.csv .xlsx ...), on this machine or by a URL such as "
        "s3://bucket/out.csv; without it, JSON lines on stdout. A folder gets a shard for each file; the "
        "same command goes on with those that are missing",
    )
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="for an --out that is a folder: ray predicts its shards with a pool of Ray Data's actors",
    )
    parser.add_argument("--address", help="of a running Ray cluster, such as auto; default this machine")
    parser.add_argument("--workers", type=int, help="actors of Ray; default one per core of the cluster")
    parser.add_argument(
        "--spreadsheet-safe",
        action="store_true",
        help="in --out, put ' before text that a spreadsheet would interpret as a formula",
    )


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
    """Label a file's rows chunk by chunk, in constant memory; or those of many files, shard by shard."""
    from lstm_sentiment.bulk.labelling import Labelling
    from lstm_sentiment.bulk.output_folder import is_folder
    from lstm_sentiment.data.sources.shards import shards_of
    from lstm_sentiment.data.sources.sources import open_source

    labelling = Labelling(classifier, _asked_of(options))
    if options.out and is_folder(options.out, shards_of(options.file)):
        _report(labelling.reference, _predict_shards(labelling, options), options)
        return
    if options.engine != "local":
        raise ConfigError(
            f"writes a folder of shards; give --out a folder, not {options.out}", key="--engine"
        )
    with open_source(options.file, **_reading(options), encoding_errors="replace") as source:
        if options.out:
            labelling.write(source, options.out, spreadsheet_safe=options.spreadsheet_safe)
        else:
            with contextlib.closing(labelling.each(_as_lines, source)) as parts:
                for lines in parts:
                    print(lines, end="")  # here, where a signal can interrupt it
    _report(labelling.reference, labelling.counts, options)


def _as_lines(frame: pd.DataFrame) -> str:
    """Return rows as lines of JSON."""
    from lstm_sentiment.data.formats.writers import records_of, to_json_line

    return "".join([f"{to_json_line(record)}\n" for record in records_of(frame)])


def _predict_shards(labelling: Labelling, options: argparse.Namespace) -> Counts:
    """Write an output shard for each input shard that has none yet, and say how many there are."""
    from lstm_sentiment.bulk.engines import Work, predict_shards, predict_shards_with_ray
    from lstm_sentiment.bulk.output_folder import opened
    from lstm_sentiment.checkpoints.run_paths import is_starter, run_path

    asked, how = _asked_of(options), _reading(options)
    run = options.run if is_starter(options.run) else str(Path(run_path(options.run)).absolute())
    work = Work(
        run=run,
        device=options.device,
        precision=options.precision,
        asked=asked,
        how=how,
        spreadsheet_safe=options.spreadsheet_safe,
    )
    settings = {
        "run": labelling.run_hash,
        **dataclasses.asdict(dataclasses.replace(asked, drift=False)),
        **how,
        "spreadsheet_safe": options.spreadsheet_safe,
        "file": name_of(options.file),
        **({} if options.precision == "fp32" else {"precision": options.precision}),
    }
    with opened(options.out, options.file, settings) as folder:
        if folder.is_complete:
            _note(f"{options.out}: is complete; nothing to do")
            return labelling.counts
        for job in folder.jobs if options.spreadsheet_safe else ():
            _check_delimited(job.out)
        done = len(folder.jobs) - len(folder.missing)
        if done:
            _note(
                f"{options.out}: {done:,} of {len(folder.jobs):,} shards are there; going on with the others"
            )
        if options.engine == "ray":
            counts = predict_shards_with_ray(
                folder.missing, work, address=options.address, workers=options.workers
            )
        else:
            counts = predict_shards(labelling, folder.missing, work)
        folder.finish()
    plural = "s" if len(folder.missing) > 1 else ""
    _note(f"{options.out}: {counts.rows:,} rows of {len(folder.missing):,} shard{plural}")
    return counts


def _asked_of(options: argparse.Namespace) -> Asked:
    from lstm_sentiment.bulk.labelling import Asked

    names = ("text_column", "branch", "coverage", "abstain_below", "details", "on_missing")
    return Asked(**{name: getattr(options, name) for name in names}, drift=bool(options.drift_report))


def _reading(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in ("encoding", "quoting", "header", "sheet")}


def _report(reference: Profile | None, counts: Counts, options: argparse.Namespace) -> None:
    """Say on stderr how many texts were missing or empty, and how the others differ from the run's."""
    from lstm_sentiment.monitoring.drift import drift_lines, shifts
    from lstm_sentiment.provenance.trained_texts import counts_line
    from lstm_sentiment.system.files import write_json

    named, found = name_of(options.file), counts.profile
    known: dict[str, Any] = {"all_known": counts.all_known, "who": counts.who}
    if line := counts_line(counts.exactly, counts.nearly, counts.labelled, **known):
        _note(f"{named}: {line}")
    if counts.missing:
        done = "left out of the output" if options.on_missing == "skip" else "given no label"
        _note(f"{named}: texts that are missing and were {done}: {counts.missing:,}")
    if counts.unread:
        unread = "texts without a token, whose labels do not depend on them"
        _note(f"{named}: {unread}: {counts.unread:,}")
    if reference is None or found is None or not found.rows:
        return
    differences = shifts(reference, found)
    if lines := drift_lines(reference, found, differences):
        _note(
            f"{named}: drift: its texts differ from the run's validation rows, so that its scores "
            f"may not hold here. Label some of these rows and score them (evaluate {options.run} FILE); "
            "if the scores are lower, train again with them"
        )
        _note("".join(f"  {line}\n" for line in lines).rstrip())
    if options.drift_report:
        write_json(Path(options.drift_report), _drift_report(reference, found, differences, options))


def _drift_report(
    reference: Profile, found: Profile, differences: Mapping[str, Shift], options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "file": name_of(options.file),
        "run": str(options.run),
        "drift": any(shift.alarming for shift in differences.values()),
        "shifts": {
            name: {
                "psi": shift.psi, "size": shift.size, "p_value": shift.p_value, "alarming": shift.alarming
            }
            for name, shift in differences.items()
        },
        "validation": reference.as_json(),
        "new": found.as_json(),
    }  # fmt: skip


def _note(text: str) -> None:
    say(text, file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
