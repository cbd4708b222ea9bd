"""Sources to rows: CSV, TSV, JSON lines, Parquet, files of trees, folders of .txt files.

pandas reads, in a mode that guesses nothing: every value is text, and what pandas would silently
repair (too few or too many fields, an unclosed quote) is an error with file and line. Rows come in
chunks, so that a file larger than memory can be read.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_sentiment.errors import DataError, Problems, did_you_mean, escaped, listed, shown
from lstm_sentiment.reading.delimited import read_delimited
from lstm_sentiment.reading.json_lines import read_json_lines
from lstm_sentiment.reading.sources import TREES, Source, open_text, text_files, text_lines
from lstm_sentiment.reading.trees import read_tree
from lstm_sentiment.sections import code_of

if TYPE_CHECKING:
    import pandas as pd

TEXT_COLUMNS = ("text", "review", "sentence", "tweet", "comment")
LABEL_COLUMNS = ("label", "sentiment", "class", "polarity")
PHRASE = "phrase"  # column of trees: whether the text is a part of the sentence in the same line
CHUNK_ROWS = 5_000
NO_TEXT: dict[type, str] = {list: "a list", dict: "a map", bytes: "bytes"}  # in JSON lines and Parquet
REPLACEMENT = "\ufffd"


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
    """Read a source in chunks of at most `CHUNK_ROWS` rows, or trees.

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
        yield from _read_parquet(source)
    elif source.format == ".jsonl":
        yield from itertools.starmap(_json_chunk, read_json_lines(source, CHUNK_ROWS))
    elif source.format in TREES:
        yield from _read_trees(source, phrases)
    else:
        delimiter = "\t" if source.format == ".tsv" else ","
        for frame, lines_R in read_delimited(source, delimiter, CHUNK_ROWS):
            yield Chunk(frame=frame, lines=lines_R)


def _json_chunk(records: list[Mapping[str, Any]], lines: list[int]) -> Chunk:
    import pandas as pd

    columns = dict.fromkeys(column for record in records for column in record)
    values = {column: [record.get(column) for record in records] for column in columns}
    frame = pd.DataFrame(values, dtype=object)
    return Chunk(frame=frame, lines=np.array(lines, np.int64))


def _read_trees(source: Source, phrases: bool) -> Iterator[Chunk]:
    """Read one tree per line; columns text, label and, with phrases, `PHRASE`."""
    import pandas as pd

    problems = Problems[DataError]()
    with open_text(source) as text:
        lines_of_text = enumerate(text_lines(text, source), start=1)
        trees = ((line, content) for line, content in lines_of_text if content.strip())
        while some := list(itertools.islice(trees, CHUNK_ROWS)):
            rows: list[tuple[str, str, bool]] = []
            lines: list[int] = []
            for line, content in some:
                try:
                    sentence, *parts = read_tree(content)
                except DataError as error:
                    problems.add(DataError(error.message, file=source.name, line=line))
                    continue
                spans = [(*sentence, False), *((*part, True) for part in parts if phrases)]
                rows += spans
                lines += [line] * len(spans)
            if not problems.first:
                frame = pd.DataFrame(rows, columns=["text", "label", PHRASE], dtype=object)
                yield Chunk(frame=frame if phrases else frame.drop(columns=PHRASE), lines=np.array(lines))
    problems.raise_any()


def _read_parquet(source: Source) -> Iterator[Chunk]:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_parquet(source)
    try:
        with pq.ParquetFile(source.path, page_checksum_verification=True) as file:
            start, names = 1, file.schema_arrow.names
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise DataError(f"names column {shown(twice)} twice; rename one", file=source.name)
            for batch in file.iter_batches(batch_size=CHUNK_ROWS):
                # Through Python values: pandas' own types would turn a column with gaps into floats.
                columns = {
                    name: pd.Series(batch.column(i).to_pylist(), dtype=object)
                    for i, name in enumerate(batch.schema.names)
                }
                frame = pd.DataFrame(columns)
                yield Chunk(frame=frame, lines=np.arange(start, start + len(frame)))
                start += len(frame)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # or a date that Python lacks
        problem = escaped(str(error), 200)
        raise DataError(f"is no readable Parquet file: {problem}; write it anew", file=source.name) from None


def _check_parquet(source: Source) -> None:
    """Tell what is no whole Parquet file by its first and last four bytes."""
    with source.path.open("rb") as file:
        head, size = file.read(4), file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4))
        tail = file.read(4)
    problem = ""
    if b"PARE" in (head, tail):
        problem = "it is encrypted; write it without encryption"
    elif head != b"PAR1":
        problem = "it does not begin with PAR1; let its name end in what it is"
    elif tail != b"PAR1" or size < 12:
        problem = "it is cut off; copy it again"
    if problem:
        raise DataError(f"is no readable Parquet file: {problem}", file=source.name)


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
    for start in range(0, len(files), CHUNK_ROWS):
        part = files[start : start + CHUNK_ROWS]
        texts = [_read_text_file(file, source, problems) for file in part]
        frame = pd.DataFrame(
            {
                "text": texts,
                "label": [file.parent.name for file in part],
                "file": [str(file.relative_to(source.path)) for file in part],
            },
            dtype=object,
        )
        if not problems.first:
            yield Chunk(frame=frame, lines=np.arange(start + 1, start + 1 + len(part)))
    problems.raise_any()


def _read_text_file(file: Path, source: Source, problems: Problems[DataError]) -> str:
    try:
        return file.read_bytes().decode(source.encoding, source.encoding_errors)
    except UnicodeDecodeError as error:
        problem = (
            f"byte {error.start} is not {source.encoding}; set data.encoding, or data.encoding_errors replace"
        )
    except OSError as error:
        problem = f"{error.strerror}; give a file that can be read"
    problems.add(DataError(problem, file=str(file)))
    return ""
