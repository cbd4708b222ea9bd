"""Sources to rows: CSV, TSV, JSON lines, Parquet, files of trees, folders of .txt files.

pandas reads, in a mode that guesses nothing: every value is text, and what pandas would silently
repair (too few or too many fields, an unclosed quote) is an error with file and line. Rows come in
chunks, so that a file larger than memory can be read.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_sentiment.errors import DataError, Problems, did_you_mean, listed, shown
from lstm_sentiment.reading.delimited import read_delimited
from lstm_sentiment.reading.json_lines import read_json_lines
from lstm_sentiment.reading.parquet import read_parquet
from lstm_sentiment.reading.portions import MOST_COLUMNS, bytes_of, portions
from lstm_sentiment.reading.sources import MAX_LINE, TREES, Source, open_text, text_files, text_lines
from lstm_sentiment.reading.trees import Span, read_tree
from lstm_sentiment.sections import code_of

if TYPE_CHECKING:
    import pandas as pd

TEXT_COLUMNS = ("text", "review", "sentence", "tweet", "comment")
LABEL_COLUMNS = ("label", "sentiment", "class", "polarity")
PHRASE = "phrase"  # column of trees: whether the text is a part of the sentence in the same line
CHUNK_ROWS = 5_000
CHUNK_BYTES = 4 << 20  # from which on a chunk ends with the row that it has
NO_TEXT: dict[type, str] = {list: "a list", dict: "a map", bytes: "bytes"}  # in JSON lines and Parquet
REPLACEMENT = "\ufffd"
Tree = tuple[int, list[Span]]  # its line, and what it spans


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some consecutive rows of a source.

    Args:
        frame: the rows; from CSV and TSV every value is text, from JSON and Parquet as stored.
        lines: 1-based line of each row (row number for Parquet), for messages.
    """

    frame: pd.DataFrame
    lines: np.ndarray[Any, np.dtype[np.int64]] = field(repr=False)


def read_chunks(
    source: Source, *, classes: list[str] | None = None, phrases: bool = False
) -> Iterator[Chunk]:
    """Read a source in chunks of at most `CHUNK_ROWS` rows, or trees, that end after some `CHUNK_BYTES`.

    Args:
        source: from `open_source`.
        classes: for a folder, the class folders wanted; None for all.
        phrases: for trees, give their phrases too, behind each sentence, and a column `PHRASE`.

    Raises:
        DataError: a row that does not fit, with file and line.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = file.write_text("text,label\\nNA,007\\n")
    >>> from lstm_sentiment.reading.sources import open_source
    >>> with open_source(str(file)) as source:
    ...     next(read_chunks(source)).frame.to_dict("records")
    [{'text': 'NA', 'label': '007'}]
    """
    empty = True
    for chunk in _chunks(source, classes, phrases):
        empty = empty and chunk.frame.empty
        yield chunk
    if empty:
        raise DataError("holds no rows; add one for each text", file=source.name)


def columns_of(source: Source) -> list[str] | None:
    """Return all columns of a source whose rows may have different ones, None for other sources.

    Raises:
        DataError: a row that does not fit; more than `MOST_COLUMNS` columns.

    Example::

        with open_source("reviews.jsonl") as source:
            columns_of(source)  # ["text", "label", "stars"]
    """
    if source.format != ".jsonl":
        return None
    found: dict[str, None] = {}
    for chunk in read_chunks(source):
        found |= dict.fromkeys(chunk.frame.columns)
        if len(found) > MOST_COLUMNS:
            problem = f"its rows have more than {MOST_COLUMNS:,} keys together; that is no table"
            raise DataError(f"{problem}: leave some out, or name a .jsonl file with --out", file=source.name)
    return list(found)


def pick_column(
    wanted: str,
    columns: list[str],
    *,
    candidates: tuple[str, ...],
    key: str,
    file: str,
    trained: str | None = None,
) -> str:
    """Return the column to use: the one named, or with ``auto`` the only candidate there is.

    Args:
        wanted: a name, or ``auto``.
        columns: that the file has.
        candidates: usual names.
        key: option that names the column.
        file: for messages.
        trained: with ``auto``, the column that training read, taken where the file has it.

    Raises:
        DataError: no such column, or several candidates.

    >>> pick_column("auto", ["id", "review"], candidates=TEXT_COLUMNS, key="data.text_column", file="a")
    'review'
    """
    if wanted == "auto" and trained in columns:
        return str(trained)
    here = listed(columns, quoted=True)
    if wanted != "auto":
        if wanted in columns:
            return wanted
        hint = did_you_mean(wanted, columns)
        raise DataError(f"no column {shown(wanted)} ({key}); the file has {here}.{hint}", file=file)
    found = [c for c in columns if c.strip().lower() in candidates]
    if len(found) == 1:
        return found[0]
    problem = f"several of {', '.join(candidates)}" if found else f"none of {', '.join(candidates)}"
    raise DataError(
        f"{problem} among its columns: {here}. Name one with {key}{_if_a_row(key, file)}",
        file=file,
    )


def check_header_is_no_row(
    source: Source, column: str, labels: Collection[str], problems: Problems[DataError]
) -> None:
    """Note a first line that holds a label where the name of their column belongs: that row would be lost.

    Args:
        source: whose rows were read.
        column: with the labels; empty for none.
        labels: that its rows have.
        problems: to add to.

    Example::

        check_header_is_no_row(source, "positive", {"negative", "positive"}, problems)
    """
    if source.format in (".csv", ".tsv") and source.header and column.strip() in labels:
        problem = (
            f"the first line looks like a row: {shown(column)} is a label of others; set data.header false "
            "and name columns by number (data.text_column 1), or rename the column"
        )
        problems.add(DataError(problem, file=source.name, line=1))


def _if_a_row(key: str, file: str) -> str:
    """Say what helps if the names of a table's columns are its first row."""
    if not any(ending in file.lower() for ending in (".csv", ".tsv")):
        return ""
    setting = "--no-header" if key.startswith("--") else "data.header false"
    return f"; if the first line is a row and names no columns, set {setting} and {key} 1 or so"


def column_texts(chunk: Chunk, column: str, file: str) -> list[str]:
    """Return a column's values as text (see `as_text`).

    Raises:
        DataError: a value that is no text and no number, with its line.

    >>> import pandas as pd
    >>> chunk = Chunk(frame=pd.DataFrame({"text": ["a", ["b"]]}), lines=np.array([2, 3]))
    >>> column_texts(chunk, "text", "a.jsonl")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.DataError: a.jsonl:3: column 'text': holds a list, not text; write one text per row
    """
    values = chunk.frame[column]
    for value, line in zip(values, chunk.lines, strict=True):
        kind = NO_TEXT.get(type(value))
        if kind:
            raise DataError(
                f"holds {kind}, not text; write one text per row", file=file, line=int(line), column=column
            )
    return [as_text(value) for value in values]


def as_text(value: Any) -> str:
    """Return a stored value as text; missing is empty, true and false are spelled as in JSON.

    >>> [as_text(v) for v in ("NA", None, 7, True, 1.5, float("nan"))]
    ['NA', '', '7', 'true', '1.5', '']
    """
    if isinstance(value, str):
        return value
    import pandas as pd  # takes a third of a second: not to answer a text

    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return str(value)


def _chunks(source: Source, classes: list[str] | None, phrases: bool) -> Iterator[Chunk]:
    if source.format == "folder":
        yield from _read_folder(source, classes)
    elif source.format == ".parquet":
        for frame, lines_R in read_parquet(source, CHUNK_ROWS, CHUNK_BYTES):
            yield Chunk(frame=frame, lines=lines_R)
    elif source.format == ".jsonl":
        yield from itertools.starmap(_json_chunk, read_json_lines(source, CHUNK_ROWS, CHUNK_BYTES))
    elif source.format in TREES:
        yield from _read_trees(source, phrases)
    else:
        delimiter = "\t" if source.format == ".tsv" else ","
        for frame, lines_R in read_delimited(source, delimiter, CHUNK_ROWS, CHUNK_BYTES):
            yield Chunk(frame=frame, lines=lines_R)


def _json_chunk(records: list[Mapping[str, Any]], lines: list[int]) -> Chunk:
    """Return records as a frame; pd.NA stands for a key that a record does not have, and None for null."""
    import pandas as pd

    columns = dict.fromkeys(column for record in records for column in record)
    places = {column: place for place, column in enumerate(columns)}
    values = np.full((len(records), len(columns)), pd.NA, object)
    for row, record in enumerate(records):
        for column, value in record.items():
            values[row, places[column]] = value
    frame = pd.DataFrame(values, columns=pd.Index(list(columns), dtype=object), dtype=object)
    return Chunk(frame=frame, lines=np.array(lines, np.int64))


def _read_trees(source: Source, phrases: bool) -> Iterator[Chunk]:
    """Read one tree per line; columns text, label and, with phrases, `PHRASE`."""
    import pandas as pd

    problems = Problems[DataError]()
    with open_text(source) as text:
        trees = _trees(text_lines(text, source), source, problems)
        for some in portions(trees, most=CHUNK_ROWS, size=CHUNK_BYTES, of=_bytes_of_tree):
            rows, lines = [], []
            for line, (sentence, *parts) in some:
                spans = [(*sentence, False), *((*part, True) for part in parts if phrases)]
                rows += spans
                lines += [line] * len(spans)
            if not problems.first:
                frame = pd.DataFrame(rows, columns=["text", "label", PHRASE], dtype=object)
                yield Chunk(frame=frame if phrases else frame.drop(columns=PHRASE), lines=np.array(lines))
    problems.raise_any()


def _trees(lines: Iterator[str], source: Source, problems: Problems[DataError]) -> Iterator[Tree]:
    """Yield each tree; note what is wrong with lines that hold none."""
    for line, content in enumerate(lines, start=1):
        try:
            if content.strip():
                yield line, read_tree(content)
        except DataError as error:
            problems.add(DataError(error.message, file=source.name, line=line))


def _bytes_of_tree(tree: Tree) -> int:
    return sum(bytes_of(*span) for span in tree[1])


def _read_folder(source: Source, classes: list[str] | None) -> Iterator[Chunk]:
    """Read ROOT/CLASS/*.txt, one text per file; columns text, label, file."""
    import pandas as pd

    files_of = {
        folder.name: text_files(folder) for folder in sorted(source.path.iterdir()) if folder.is_dir()
    }
    found = [name for name, files in files_of.items() if files]
    if not found:
        raise DataError("a folder must hold one folder of .txt files per class", file=source.name)
    codes = None if classes is None else {code_of(name) for name in classes}
    wanted = [name for name in found if codes is None or code_of(name) in codes]
    if not wanted:
        raise DataError(
            f"none of the class folders {listed(classes or ())}; there are {listed(found)}", file=source.name
        )
    files = [file for name in wanted for file in files_of[name]]
    problems = Problems[DataError]()
    texts = ((file, _read_text_file(file, source, problems)) for file in files)
    start = 1
    for some in portions(texts, most=CHUNK_ROWS, size=CHUNK_BYTES, of=lambda of: bytes_of(of[1])):
        frame = pd.DataFrame(
            {
                "text": [text for _, text in some],
                "label": [file.parent.name for file, _ in some],
                "file": [str(file.relative_to(source.path)) for file, _ in some],
            },
            dtype=object,
        )
        if not problems.first:
            yield Chunk(frame=frame, lines=np.arange(start, start + len(some)))
        start += len(some)
    problems.raise_any()


def _read_text_file(file: Path, source: Source, problems: Problems[DataError]) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(4 * MAX_LINE + 1)
        text = content.decode(source.encoding, source.encoding_errors)
        if max(len(text), len(content) // 4) <= MAX_LINE:
            return text
        problem = f"holds more than {MAX_LINE:,} characters; write one text per file"
    except UnicodeDecodeError as error:
        problem = (
            f"byte {error.start} is not {source.encoding}; set data.encoding, or data.encoding_errors replace"
        )
    except OSError as error:
        problem = f"{error.strerror}; give a file that can be read"
    problems.add(DataError(problem, file=str(file)))
    return ""
