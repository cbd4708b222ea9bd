"""Read rows from sources: tables of every format (see `names`), line-based files, folders of .txt files.

Types are not guessed: values of CSV and TSV are text, those of other formats as stored; what a
library would silently repair (too few or too many fields, an unclosed quote) is an error with file and line.
Rows are read in chunks, so that a file may be larger than memory.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_sentiment.config.sections import code_of
from lstm_sentiment.data.formats.delimited import read_delimited
from lstm_sentiment.data.formats.lines import read_lines
from lstm_sentiment.data.sources.names import COLUMNS, DELIMITERS, RECORDS, TREES
from lstm_sentiment.data.sources.sources import MAX_LINE, Source, is_blank, text_files
from lstm_sentiment.errors import DataError, Problems, did_you_mean, listed, shown
from lstm_sentiment.text.portions import MOST_COLUMNS, bytes_of, portions

if TYPE_CHECKING:
    import pandas as pd

TEXT_COLUMNS = ("text", "review", "sentence", "tweet", "comment")
RATING_COLUMNS = ("rating", "stars", "score", "target")  # used where there is no other column of labels
LABEL_COLUMNS = ("label", "sentiment", "class", "polarity", *RATING_COLUMNS)
CHUNK_ROWS = 5_000
CHUNK_BYTES = 4 << 20  # a chunk ends with the row that reaches this size
HEADED = (*DELIMITERS, ".xlsx")  # formats that may lack a header
NO_TEXT: dict[type, str] = {list: "a list", dict: "a map", bytes: "bytes"}  # in binary formats
REPLACEMENT = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A chunk of consecutive rows of a source.

    Args:
        frame: the rows; from CSV and TSV every value is text, from others as stored.
        lines: 1-based line of each row in its file (row number for formats without lines), for messages.
        file: that the rows are from.
        shard: its place among the files of the source.
    """

    frame: pd.DataFrame
    lines: np.ndarray[Any, np.dtype[np.int64]] = field(repr=False)
    file: str = ""
    shard: int = 0

    def part(self, keep_R: np.ndarray[Any, np.dtype[np.bool_]]) -> Chunk:
        """Return some of the rows: those where `keep_R` (R,) is true."""
        return replace(self, frame=self.frame[keep_R], lines=self.lines[keep_R])


def read_chunks(
    source: Source,
    *,
    classes: list[str] | None = None,
    phrases: bool = False,
    labelled: bool = True,
    may_be_empty: bool = False,
) -> Iterator[Chunk]:
    """Read a source, file by file, in chunks of at most `CHUNK_ROWS` rows or trees and about `CHUNK_BYTES`.

    Args:
        source: from `open_source`.
        classes: for a folder, the class folders to read; None for all.
        phrases: for trees, include their phrases, after each sentence, and a column `lines.PHRASE`.
        labelled: whether labels are required; plain text lines, which have none, are then refused.
        may_be_empty: whether a source without rows is accepted.

    Raises:
        DataError: an invalid row, with file and line; files with different columns.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = file.write_text("text,label\\nNA,007\\n")
    >>> from lstm_sentiment.data.sources.sources import open_source
    >>> with open_source(str(file)) as source:
    ...     next(read_chunks(source)).frame.to_dict("records")
    [{'text': 'NA', 'label': '007'}]
    """
    empty, first = True, None
    for number, file in enumerate(source.files):
        if source.shards and is_blank(file):  # as parallel writers leave them
            continue
        in_folder = any(column.lower() in LABEL_COLUMNS for column, _ in file.partition)
        for chunk in _chunks(file, classes, phrases, labelled and not in_folder):
            placed = _with_partition(replace(chunk, file=file.name, shard=number), file)
            first = first or placed
            if file.format not in RECORDS:
                _check_columns(placed, first)
            empty = empty and placed.frame.empty
            yield placed
    if empty and not may_be_empty:
        raise DataError("has no rows; add one for each text", file=source.name)


def _with_partition(chunk: Chunk, source: Source) -> Chunk:
    """Add the columns that the folders of a file name."""
    if not source.partition:
        return chunk
    for column, value in source.partition:
        if column in chunk.frame.columns:
            problem = f"a folder above it, {column}={value}, names a column that the file has too; rename one"
            raise DataError(problem, file=chunk.file, column=column)
    return replace(chunk, frame=chunk.frame.assign(**dict(source.partition)).astype(object))


def _check_columns(chunk: Chunk, first: Chunk) -> None:
    """Refuse a file with other columns than the first one; their order may differ."""
    here, there = (set(map(str, of.frame.columns)) for of in (chunk, first))
    if chunk.shard == first.shard or here == there:
        return
    lacks, has = sorted(there - here), sorted(here - there)
    parts = [f"lacks {listed(lacks, most=3, quoted=True)}"] if lacks else []
    parts += [f"has {listed(has, most=3, quoted=True)}"] if has else []
    problem = f"its columns are not those of {first.file}: it {' and '.join(parts)}; give files with the same"
    headed = any(ending in first.file.lower() for ending in HEADED)
    hint = " columns, or set data.header false if their first lines are rows" if headed else " columns"
    raise DataError(problem + hint, file=chunk.file)


def columns_of(source: Source) -> list[str] | None:
    """Return all columns of a source whose rows may have different keys, None for other sources.

    Raises:
        DataError: a row that does not fit; more than `MOST_COLUMNS` columns.

    Example::

        with open_source("reviews.jsonl") as source:
            columns_of(source)  # ["text", "label", "stars"]
    """
    if source.format not in RECORDS:
        return None
    found: dict[str, None] = {}
    for chunk in read_chunks(source):
        found |= dict.fromkeys(chunk.frame.columns)
        if len(found) > MOST_COLUMNS:
            problem = f"its rows have more than {MOST_COLUMNS:,} distinct keys, too many for a table"
            raise DataError(f"{problem}: remove some, or name a .jsonl file with --out", file=source.name)
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
    """Return the column to use: the named one, or with ``auto`` the only candidate.

    With ``auto``, a column of `RATING_COLUMNS` counts only if there is no other candidate.

    Args:
        wanted: a name, or ``auto``.
        columns: that the file has.
        candidates: usual names.
        key: option that names the column.
        file: for messages.
        trained: with ``auto``, the column of the training data, preferred if the file has it.

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
    found = [c for c in found if c.strip().lower() not in RATING_COLUMNS] or found
    if len(found) == 1:
        return found[0]
    problem = f"several of {', '.join(candidates)}" if found else f"none of {', '.join(candidates)}"
    raise DataError(
        f"{problem} among its columns: {here}. Name one with {key}{_if_a_row(key, file)}",
        file=file,
    )


def check_header_is_not_row(
    source: Source, column: str, labels: Collection[str], problems: Problems[DataError]
) -> None:
    """Report a header that has a label instead of a column name: a row would be lost.

    Args:
        source: whose rows were read.
        column: with the labels; empty for none.
        labels: of its rows.
        problems: to add to.

    Example::

        check_header_is_not_row(source, "positive", {"negative", "positive"}, problems)
    """
    if source.format in HEADED and source.header and column.strip() in labels:
        problem = (
            f"the first line looks like a row: {shown(column)} is a label in other rows; set data.header "
            "false and name columns by number (data.text_column 1), or rename the column"
        )
        problems.add(DataError(problem, file=source.files[0].name, line=1))


def _if_a_row(key: str, file: str) -> str:
    """Return the hint for a table without a header."""
    if not any(ending in file.lower() for ending in HEADED):
        return ""
    setting = "--no-header" if key.startswith("--") else "data.header false"
    return f"; if the first line is a row, not a header, set {setting} and {key} 1 or so"


def column_texts(chunk: Chunk, column: str, file: str) -> list[str]:
    """Return a column's values as text (see `as_text`).

    Raises:
        DataError: values that are neither text nor numbers, with their lines.

    >>> import pandas as pd
    >>> chunk = Chunk(frame=pd.DataFrame({"text": ["a", ["b"]]}), lines=np.array([2, 3]))
    >>> column_texts(chunk, "text", "a.jsonl")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.DataError: a.jsonl:3: column 'text': holds a list, not text; write one text per row
    """
    values = chunk.frame[column].tolist()
    if {*map(type, values)} <= {str}:  # the usual case
        return values
    problems = Problems[DataError]()
    for value, line in zip(values, chunk.lines, strict=True):
        kind = NO_TEXT.get(type(value))
        if kind:
            problem = f"holds {kind}, not text; write one text per row"
            problems.add(DataError(problem, file=file, line=int(line), column=column))
    problems.raise_any()
    return [as_text(value) for value in values]


def column_labels(chunk: Chunk, column: str, file: str) -> list[str]:
    """Return a column's values as labels: stripped text; a list of one label counts as that label.

    Raises:
        DataError: rows with several labels or invalid ones, with their lines.

    >>> import pandas as pd
    >>> chunk = Chunk(frame=pd.DataFrame({"label": [["good"], [], " 7"]}), lines=np.array([2, 3, 4]))
    >>> column_labels(chunk, "label", "a.jsonl")
    ['good', '', '7']
    """
    values = chunk.frame[column].tolist()
    if {*map(type, values)} <= {str}:  # the usual case
        return [value.strip() for value in values]
    problems = Problems[DataError]()
    found = []
    for value, line in zip(values, chunk.lines, strict=True):
        if isinstance(value, list) and len(value) > 1:
            names = listed(map(str, value), most=4, quoted=True)
            problem = f"has several labels: {names}; remove all but one, the classifier predicts one per text"
        else:
            value = (value or [None])[0] if isinstance(value, list) else value
            kind = NO_TEXT.get(type(value))
            problem = f"holds {kind}, not a label; write one per row" if kind else ""
        if problem:
            problems.add(DataError(problem, file=file, line=int(line), column=column))
        else:
            found.append(as_text(value).strip())
    problems.raise_any()
    return found


def as_text(value: Any) -> str:
    """Return a stored value as text; missing values are empty, booleans spelled as in JSON.

    >>> [as_text(v) for v in ("NA", None, 7, True, 1.5, float("nan"))]
    ['NA', '', '7', 'true', '1.5', '']
    """
    if isinstance(value, str):
        return value
    import pandas as pd  # slow import, not needed to predict single texts

    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return str(value)


def text_hash(text: str) -> int:
    """Return a 64-bit hash of a text, the same for texts that differ in surrounding space only.

    >>> text_hash(" so good\\n") == text_hash("so good")
    True
    """
    stripped = text.strip().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(stripped, digest_size=8).digest(), "little")


def reader_of(ending: str) -> Callable[[Source, int, int], Iterator[Any]]:
    """Return the function that reads a format of records or columns, whose module is imported on first use.

    >>> reader_of(".jsonl").__name__
    'read_json_lines'
    """
    module, _, name = (RECORDS | COLUMNS)[ending].rpartition(".")
    reader: Callable[[Source, int, int], Iterator[Any]]
    reader = getattr(importlib.import_module(f"lstm_sentiment.data.formats.{module}"), name)
    return reader


def _chunks(source: Source, classes: list[str] | None, phrases: bool, labelled: bool) -> Iterator[Chunk]:
    if source.format == "folder":
        yield from _read_folder(source, classes)
    elif source.format in COLUMNS:
        for columns, lines in reader_of(source.format)(source, CHUNK_ROWS, CHUNK_BYTES):
            yield _column_chunk(columns, lines)
    elif source.format in RECORDS:
        records = reader_of(source.format)(source, CHUNK_ROWS, CHUNK_BYTES)
        yield from itertools.starmap(_record_chunk, records)
    elif source.format in TREES:
        parts = read_lines(source, CHUNK_ROWS, CHUNK_BYTES, labelled=labelled, phrases=phrases)
        yield from itertools.starmap(_record_chunk, parts)
    else:
        delimiter = DELIMITERS[source.format]
        for frame, lines_R in read_delimited(source, delimiter, CHUNK_ROWS, CHUNK_BYTES):
            yield Chunk(frame=frame, lines=lines_R)


def _column_chunk(columns: Mapping[str, list[Any]], lines: Sequence[int]) -> Chunk:
    import pandas as pd

    series = {name: pd.Series(values, dtype=object) for name, values in columns.items()}
    return Chunk(frame=pd.DataFrame(series), lines=np.array(lines, np.int64))


def _record_chunk(records: list[Mapping[str, Any]], lines: list[int]) -> Chunk:
    """Return records as a frame, with pd.NA for missing keys and None for null."""
    import pandas as pd

    keys = next(iter(records), {}).keys()
    if keys and all(record.keys() == keys for record in records):  # the usual case
        values_of = {column: [record[column] for record in records] for column in keys}
        return Chunk(frame=pd.DataFrame(values_of, dtype=object), lines=np.array(lines, np.int64))
    columns = dict.fromkeys(column for record in records for column in record)
    places = {column: place for place, column in enumerate(columns)}
    values = np.full((len(records), len(columns)), pd.NA, object)
    for row, record in enumerate(records):
        for column, value in record.items():
            values[row, places[column]] = value
    frame = pd.DataFrame(values, columns=pd.Index(list(columns), dtype=object), dtype=object)
    return Chunk(frame=frame, lines=np.array(lines, np.int64))


def _read_folder(source: Source, classes: list[str] | None) -> Iterator[Chunk]:
    """Read ROOT/CLASS/*.txt, one text per file; columns text, label, file."""
    import pandas as pd

    files_of = {
        folder.name: text_files(folder) for folder in sorted(source.path.iterdir()) if folder.is_dir()
    }
    found = [name for name, files in files_of.items() if files]
    if not found:
        problem = "a folder must hold tables, or one subfolder of .txt files per class"
        raise DataError(problem, file=source.name)
    codes = None if classes is None else {code_of(name) for name in classes}
    wanted = [name for name in found if codes is None or code_of(name) in codes]
    if not wanted:
        raise DataError(
            f"has none of the class folders {listed(classes or ())}; it has {listed(found)}", file=source.name
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
        problem = f"holds more than {MAX_LINE:,} characters; write one text per file, or shorten it"
    except UnicodeDecodeError as error:
        problem = (
            f"byte {error.start} is not {source.encoding}; set data.encoding, or data.encoding_errors replace"
        )
    except OSError as error:
        problem = f"{error.strerror}; use a readable file"
    problems.add(DataError(problem, file=str(file)))
    return ""
