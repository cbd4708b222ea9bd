"""Show which tokens a prediction comes from, and what the LSTM did with each.

Explains texts, or with --file rows of a file: those of --rows, or with --worst those that the run predicts
worst. --short says it in a sentence.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_sentiment.checkpoints.run_paths import STARTER, is_starter
from lstm_sentiment.cli.characters import visible
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import RUN, CommandParser, add_file_options, check_out, how_to_read
from lstm_sentiment.errors import ConfigError, MissingExtraError, did_you_mean, shown, without_secrets
from lstm_sentiment.system.extras import need

if TYPE_CHECKING:
    from lstm_sentiment.explanation.attribution import Explanation
    from lstm_sentiment.explanation.gates import GateTrace
    from lstm_sentiment.explanation.wording import Line
    from lstm_sentiment.prediction.classifier import SentimentClassifier
    from lstm_sentiment.prediction.file_rows import FileRow

MOST_ROWS = 1000  # of a file; each takes up to a second
LONGEST_TEXT = 200  # characters of a row's text next to its sentence
FAINT, STRONG = 0.1, 0.5  # relative to the strongest attribution: minimum for a colour, for a filled one


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    rows = _row_numbers(options.rows) if options.rows is not None else []
    check_out(options.html, options.json)
    if options.html:
        need("jinja2", extra="report")  # fail before the work
    from lstm_sentiment.explanation.attribution import method_named
    from lstm_sentiment.prediction.classifier import load  # imports torch: not for --help, not for a typo

    method = method_named(options.method)
    classifier = load(options.run, device=options.device)
    if options.class_ is not None and options.class_ not in classifier.labels:
        hint = did_you_mean(options.class_, classifier.labels)
        raise ConfigError(
            f"'{options.class_}' is not one of {', '.join(classifier.labels)}.{hint}", key="--class"
        )
    found: list[tuple[Explanation, FileRow | None]] = []
    texts = _texts(classifier, options, rows)
    for number, (text, row) in enumerate(texts, start=1):
        explanation = classifier.explain(text, method=method)
        found.append((explanation, row))
        if options.short:
            _say_short(explanation, row)
        else:
            _show(explanation, row, options.class_, f"{number} of {len(texts)}")
    _write(classifier, options, found)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog=program("explain"), description=__doc__)
    parser.add_argument("run", help=RUN)
    parser.add_argument("text", nargs="*", help="texts to explain")
    parser.add_argument("--file", help="explain rows of this file: those of --rows or --worst")
    parser.add_argument(
        "--rows",
        metavar="N,N...",
        help="lines of --file at which the rows begin, as messages and reports number them (row numbers in "
        "formats without lines)",
    )
    parser.add_argument(
        "--worst", type=int, metavar="N", help="the N rows of --file whose own label is least probable"
    )
    parser.add_argument(
        "--short", action="store_true", help="only a sentence: prediction, words for it and against it"
    )
    parser.add_argument(
        "--method",
        default="auto",
        help="integrated_gradients (needs the extra 'explain'), occlusion, or auto: the first if installed",
    )
    parser.add_argument(
        "--class", dest="class_", metavar="LABEL", help="colour for this class; default: the predicted one"
    )
    parser.add_argument(
        "--html", metavar="FILE", help="also write an HTML page with charts (needs the extra 'report')"
    )
    parser.add_argument("--json", metavar="FILE", help="also write all numbers as JSON")
    add_file_options(parser)
    options = parser.parse_intermixed_args(argv)
    if not options.text and not options.file:
        parser.error("give texts, or --file with --rows or --worst")
    _check(options)
    for name, value in how_to_read(options).items():
        if not options.file and value != parser.get_default(name):
            raise ConfigError(f"--{name.replace('_', '-')} needs --file")
    return options


def _check(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other."""
    if options.text and options.file:
        raise ConfigError("give texts or --file, not both")
    for name in ("rows", "worst"):
        if getattr(options, name) is not None and not options.file:
            raise ConfigError(f"--{name} needs --file")
    if options.file and (options.rows is None) == (options.worst is None):
        either = "either --rows, such as 476,12, or --worst, such as 20"
        raise ConfigError(f"which rows of --file are explained? Give {either}")
    if options.worst is not None and not 1 <= options.worst <= MOST_ROWS:
        raise ConfigError(f"must lie between 1 and {MOST_ROWS:,}, not {options.worst}", key="--worst")
    if options.short and options.class_ is not None:
        raise ConfigError("--short explains the predicted class; leave out --class, or --short")


def _row_numbers(given: str) -> list[int]:
    """Return the numbers of ``476,12``.

    Raises:
        ConfigError: not numbers, a number twice, or too many.

    >>> _row_numbers("476, 12")
    [476, 12]
    >>> _row_numbers("476,1e3")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.ConfigError: --rows: '1e3' is not a row number; write numbers such as 476,12
    """
    numbers: list[int] = []
    for part in map(str.strip, given.split(",")):
        if not (part.isascii() and part.isdecimal() and 0 < len(part) < 16 and int(part)):
            raise ConfigError(
                f"{shown(part)} is not a row number; write numbers such as 476,12", key="--rows"
            )
        if int(part) in numbers:
            raise ConfigError(f"{int(part)} is given twice; give each row once", key="--rows")
        numbers.append(int(part))
    if len(numbers) > MOST_ROWS:
        problem = f"{len(numbers):,} rows; explain at most {MOST_ROWS:,} at a time"
        raise ConfigError(problem, key="--rows")
    return numbers


def _texts(
    classifier: SentimentClassifier, options: argparse.Namespace, numbers: Sequence[int]
) -> list[tuple[str, FileRow | None]]:
    """Return the texts to explain, each with its row if it is from a file; say which rows these are."""
    if not options.file:
        # Bytes that are invalid in the terminal's encoding arrive as unpaired surrogates.
        given = (text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in options.text)
        return [(text, None) for text in given]
    from lstm_sentiment.prediction.file_rows import numbered_rows, worst_rows

    how = how_to_read(options)
    if options.worst is not None:
        rows, which = (
            worst_rows(classifier, options.file, options.worst, **how),
            ", the least probable label first",
        )
    else:
        rows, which = numbered_rows(classifier, options.file, numbers, **how), ""
    plural = "s" if len(rows) > 1 else ""
    say(f"{len(rows):,} row{plural} of {without_secrets(options.file)}{which}\n")
    return [(row.text, row) for row in rows]


def _say_short(explanation: Explanation, row: FileRow | None) -> None:
    """Print an explanation as a sentence; for a row also its number, label and text."""
    from lstm_sentiment.explanation.sentence import sentence

    if row is None:
        say(sentence(explanation))
    else:
        labelled = f", labelled {visible(row.label)}" if row.label is not None else ""
        say(f"row {row.place}{labelled}{_chance(explanation, row)}: {sentence(explanation)}")
        say(f"  {visible(row.text, LONGEST_TEXT)}")
    sys.stdout.flush()


def _show(explanation: Explanation, row: FileRow | None, label: str | None, count: str) -> None:
    """Print an explanation as tables; `count` is its place among all."""
    from lstm_sentiment.explanation.wording import explanation_lines

    if not count.startswith("1 "):
        print()
    if row is not None:
        label_of = f": label {visible(row.label)}{_chance(explanation, row)}" if row.label is not None else ""
        predicted = f"prediction {visible(explanation.label)} ({explanation.probabilities.max():.3f})"
        say(f"row {row.place} ({count}){label_of}{', ' if label_of else ': '}{predicted}")
    label = label or explanation.label
    show = _printer(label)
    for line in explanation_lines(explanation, label):
        show(line)
    sys.stdout.flush()


def _chance(explanation: Explanation, row: FileRow) -> str:
    """Return the probability of a row's label in brackets; nothing if it is none of the classes."""
    if row.label not in explanation.labels:
        return ""
    return f" ({explanation.probabilities[explanation.labels.index(row.label)]:.3f})"


def _write(
    classifier: SentimentClassifier,
    options: argparse.Namespace,
    found: Sequence[tuple[Explanation, FileRow | None]],
) -> None:
    """Write the files that were asked for."""
    from lstm_sentiment.system.files import write_json

    file = without_secrets(options.file or "")
    if options.json:
        records = [
            as_json(of)
            | ({"file": row.shard or file, "row": row.number, "given": row.label} if row is not None else {})
            for of, row in found
        ]
        write_json(Path(options.json), records)
    if options.html:
        from lstm_sentiment.config.public import last_part
        from lstm_sentiment.reporting.explanation_page import Explained, write_explanations
        from lstm_sentiment.reporting.run_facts import facts_of

        name = STARTER if is_starter(options.run) else ""
        assert classifier.run is not None  # it was loaded from a folder
        facts = facts_of(classifier.run, classifier.labels, name=name)
        sections = [
            Explained(explanation=of)
            if row is None
            else Explained(
                explanation=of, source=f"{last_part(row.shard or file)}, row {row.number}", given=row.label
            )
            for of, row in found
        ]
        write_explanations(Path(options.html), sections, facts, label=options.class_)
    for written in filter(None, (options.html, options.json)):
        print(f"written to {written}")


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON values, with all classes and gates.

    Example::

        json.dumps(as_json(classifier.explain("so-so")), allow_nan=False)
    """
    removal = explanation.removal
    plain = {name: _plain(value) for name, value in vars(explanation).items()}
    curves = {name: _plain(value) for name, value in vars(removal).items()}
    return plain | {
        "label": explanation.label,
        "gap": _plain(explanation.gap),
        "gates": [_trace_as_json(trace) for trace in explanation.gates],
        "pooled": {kind: _plain(share_N) for kind, share_N in explanation.pooled.items()},
        "removal": {
            "faithfulness": removal.faithfulness,
            "worse": removal.worse,
            "better": removal.better,
            **curves,
        },
    }


def _trace_as_json(trace: GateTrace) -> dict[str, Any]:
    values = {"layer": trace.layer, "direction": trace.direction} | trace.gates
    values |= {"let_in": trace.let_in, "kept": trace.kept, "shown": trace.shown}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _printer(label: str) -> Callable[[Line], None]:
    """Return a function that prints a line, in colours if stdout is a terminal and rich is installed."""
    if sys.stdout.isatty():
        try:
            console = need("rich.console", extra="explain").Console(highlight=False)
            styled = need("rich.text", extra="explain").Text
        except MissingExtraError:
            pass
        else:
            from lstm_sentiment.evaluation.metrics import sides

            colour = {-1: "red", 0: "magenta", 1: "blue"}[sides([label])[0]]
            return lambda line: console.print(
                styled.assemble(*((text, _style(share, colour)) for text, share in line)), soft_wrap=True
            )
    return lambda line: print("".join(text for text, _ in line).rstrip())


def _style(share: float, colour: str) -> str:
    """Return the rich style of an attribution: the class's colour if positive, else yellow; filled if strong.

    >>> _style(0.9, "red"), _style(-0.3, "red"), _style(0.01, "red")
    ('bold white on red', 'yellow', '')
    """
    if abs(share) < FAINT:
        return ""
    if abs(share) < STRONG:
        return colour if share > 0 else "yellow"
    return f"bold white on {colour}" if share > 0 else "black on yellow"


if __name__ == "__main__":
    run_command(main)
