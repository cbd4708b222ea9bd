"""Line-based formats: sentiment trees, fastText labels, plain texts.

    (3 (2 so) (4 good))            trees
    __label__positive so good      fastText
    so good                        plain: unlabelled, for prediction and unlabelled data

The format is detected from the first non-blank line.

Legend: R rows of a part.
"""

from __future__ import annotations

import csv
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from lstm_sentiment.data.formats.trees import Span, read_tree
from lstm_sentiment.data.sources.sources import Source, open_text, text_lines
from lstm_sentiment.errors import DataError, Problems, shown
from lstm_sentiment.text.portions import bytes_of, portions

Form = Literal["trees", "fasttext", "lines"]
Part = tuple[list[dict[str, Any]], list[int]]
Tree = tuple[int, list[Span]]  # line number, spans
PHRASE = "phrase"  # column of trees: whether the text is a phrase of the sentence in the same line
PREFIX = "__label__"
ROW_BYTES = 500  # memory of a row, in addition to its text
LOOKED_AT = 100  # lines used to detect another format
LONGEST_LOOKED_AT = 10_000  # characters of a line
USUAL_LABELS = 20  # a column or suffix with at most this many values may be a label
_LABEL = re.compile(rf"{PREFIX}(?<!\S{PREFIX})(\S*)")  # searched for by its first characters
_AS_LABEL = re.compile(r"[-+\w.]+( [-+\w.]+)?")
_AT_END = re.compile(r".*@\s*([^\s@]+)\s*")


def form_of(source: Source, *, labelled: bool) -> Form:
    """Detect the format of a line-based file.

    Args:
        source: from `open_source`.
        labelled: whether labels are required. If so, a bracket begins a tree; else a line that is not a
            complete tree is a text that begins with a bracket.

    Example::

        with open_source("train.txt") as source:
            form_of(source, labelled=True)  # "fasttext"
    """
    if source.format != ".txt":
        return "trees"
    with open_text(source) as text:
        first = next((line for line in text_lines(text, source) if line.strip()), "")
    if first.lstrip().startswith(PREFIX):
        return "fasttext"
    if not first.lstrip().startswith("("):
        return "lines"
    return "trees" if labelled or _is_tree(first) else "lines"


def read_lines(source: Source, rows: int, size: int, *, labelled: bool, phrases: bool) -> Iterator[Part]:
    """Yield a file's rows in parts, and the 1-based line of each (R,).

    Columns are text and label, for plain texts line and text; with `phrases` also `PHRASE`.

    Args:
        source: from `open_source`, of one of `names.TREES`.
        rows: maximum lines per part.
        size: bytes at which a part ends.
        labelled: whether labels are required.
        phrases: for trees, include their phrases, after each sentence.

    Raises:
        DataError: invalid lines, with their numbers (the first ten); plain texts where labels are
            required.

    Example::

        with open_source("train.txt") as source:
            for records, lines in read_lines(source, 5_000, 1 << 22, labelled=True, phrases=False): ...
    """
    form = form_of(source, labelled=labelled)
    if form == "trees":
        yield from _read_trees(source, rows, size, phrases)
    else:
        if form == "lines" and labelled:
            _refuse_other_form(source)
        with open_text(source) as text:
            numbered = enumerate(text_lines(text, source), start=1)
            for some in portions(numbered, most=rows, size=size, of=_bytes_of_line):
                if form == "fasttext":
                    some = [(line, content) for line, content in some if content.strip()]
                    yield [_of_fasttext(content) for _, content in some], [line for line, _ in some]
                else:
                    found = [{"line": line, "text": content.rstrip("\r\n")} for line, content in some]
                    yield found, [line for line, _ in some]


def _bytes_of_line(numbered: tuple[int, str]) -> int:
    return ROW_BYTES + sys.getsizeof(numbered[1])


def _of_fasttext(line: str) -> dict[str, Any]:
    """Parse a fastText line to a row; several labels become a list.

    >>> _of_fasttext("__label__good so  fine\\n"), _of_fasttext("so fine")
    ({'text': 'so  fine', 'label': 'good'}, {'text': 'so fine', 'label': ''})
    """
    labels = _LABEL.findall(line)
    return {"text": _LABEL.sub("", line).strip(), "label": labels if len(labels) > 1 else "".join(labels)}


def _is_tree(line: str) -> bool:
    try:
        return bool(read_tree(line))
    except DataError:
        return False


def _read_trees(source: Source, rows: int, size: int, phrases: bool) -> Iterator[Part]:
    """Read one tree per line."""
    problems = Problems[DataError]()
    with open_text(source) as text:
        trees = _trees(text_lines(text, source), source, problems)
        for some in portions(trees, most=rows, size=size, of=_bytes_of_tree):
            records: list[dict[str, Any]] = []
            lines: list[int] = []
            for line, (sentence, *parts) in some:
                spans = [(sentence, False), *((part, True) for part in parts if phrases)]
                for span, is_phrase in spans:
                    record = {"text": span.text, "label": span.label}
                    records.append({**record, PHRASE: is_phrase} if phrases else record)
                lines += [line] * len(spans)
            if not problems.first:
                yield records, lines
    problems.raise_any()


def _trees(lines: Iterator[str], source: Source, problems: Problems[DataError]) -> Iterator[Tree]:
    """Yield each tree; collect the problems of invalid lines."""
    for line, content in enumerate(lines, start=1):
        try:
            if content.strip():
                yield line, read_tree(content)
        except DataError as error:
            problems.add(DataError(error.message, file=source.name, line=line))


def _bytes_of_tree(tree: Tree) -> int:
    return sum(ROW_BYTES + bytes_of(*span) for span in tree[1])


def _refuse_other_form(source: Source) -> None:
    """Raise an error for lines that are neither trees nor fastText, with a guess of their format."""
    with open_text(source) as text:
        numbered = enumerate(text_lines(text, source), start=1)
        filled = ((line, content.rstrip("\r\n")) for line, content in numbered if content.strip())
        begun = ((line, content[:LONGEST_LOOKED_AT]) for line, content in filled)
        some = list(itertools.islice(begun, LOOKED_AT))
    if some:
        problem = _other_form([content for _, content in some])
        raise DataError(problem, file=source.name, line=some[0][0])


def _other_form(lines: list[str]) -> str:
    for delimiter, what, ending in (("\t", "tabs", ".tsv"), (",", "commas", ".csv")):
        fields = csv.reader(lines) if delimiter == "," else (line.split(delimiter) for line in lines)
        places = _text_and_label(list(fields))
        if places:
            return (
                f"its lines look like fields with {what} between, such as {shown(lines[0], 30)}; rename it "
                f"to end in {ending} and, if the first line is a row, set data.header false (--no-header), "
                f"text_column {places[0] + 1} and label_column {places[1] + 1}"
            )
    ends = [found[1] for found in map(_AT_END.fullmatch, lines) if found]
    if len(ends) == len(lines) and len(set(ends)) <= USUAL_LABELS:
        return (
            f"its lines end in @ and a label, such as {shown(lines[0][-30:])}; write a tab for the last @ of "
            "each (sed 's/@\\([^@]*\\)$/\\t\\1/' OLD > NEW.tsv) and set data.header false (--no-header), "
            "data.quoting none (--quoting none), text_column 1 and label_column 2"
        )
    if all(line.lstrip().startswith("{") for line in lines):
        return "its lines are JSON objects; rename it to end in .jsonl"
    return (
        f"{shown(lines[0], 30)} is a text without a label; begin each line with one, such as "
        f"{PREFIX}positive, write trees such as (4 (2 so) (4 good)), or use a table, such as a .csv file"
    )


def _text_and_label(rows: Sequence[Sequence[str]]) -> tuple[int, int] | None:
    """Guess which field of rows is the text and which the label; None if unclear.

    >>> _text_and_label([["so good", "1"], ["a bore", "0"], ["so dull", "0"]])
    (0, 1)
    """
    widths = {len(row) for row in rows}
    if len(widths) != 1 or widths == {1}:
        return None
    columns = list(zip(*rows, strict=True))
    text = max(range(len(columns)), key=lambda place: sum(map(len, columns[place])))
    labels = [
        (len(set(column)), place)
        for place, column in enumerate(columns)
        if place != text and all(map(_AS_LABEL.fullmatch, column))
    ]
    return (text, min(labels)[1]) if labels and min(labels)[0] <= USUAL_LABELS else None
