"""Sources to rows: CSV, TSV, JSON lines, Parquet, files of trees, folders of .txt files.

pandas reads, in a mode that guesses nothing: every value is text, and what pandas would silently
repair (too few or too many fields, an unclosed quote) is an error with file and line. Rows come in
chunks, so that a file larger than memory can be read.
"""

from __future__ import annotations

import csv
import itertools
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lstm_sentiment.errors import DataError, did_you_mean, shown
from lstm_sentiment.reading.sources import TREES, Source, open_text
from lstm_sentiment.reading.trees import read_tree

TEXT_COLUMNS = ("text", "review", "sentence", "tweet", "comment")
LABEL_COLUMNS = ("label", "sentiment", "class", "polarity")
PHRASE = "phrase"  # column of trees: whether the text is a part of the sentence in the same line
CHUNK_ROWS = 5_000
MAX_FIELD = 100_000_000  # characters in one CSV field
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
        raise DataError("holds no rows", file=source.name)


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
    listed = ", ".join(shown(c) for c in columns)
    if wanted == "auto" and trained in columns:
        return str(trained)
    if wanted != "auto":
        if wanted in columns:
            return wanted
        hint = did_you_mean(wanted, columns)
        raise DataError(f"no column {shown(wanted)} ({key}); the file has {listed}.{hint}", file=file)
    found = [c for c in candidates if c in columns]
    if len(found) == 1:
        return found[0]
    problem = f"several of {', '.join(found)}" if found else f"none of {', '.join(candidates)}"
    raise DataError(f"{problem} among its columns: {listed}. Name one with {key}", file=file)


def as_text(value: Any) -> str:
    """Return a stored value as text; missing is empty, true and false are spelled as in JSON.

    >>> [as_text(v) for v in ("NA", None, 7, True, 1.5, float("nan"))]
    ['NA', '', '7', 'true', '1.5', '']
    """
    if isinstance(value, str):
        return value
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
        yield from _read_jsonl(source)
    elif source.format in TREES:
        yield from _read_trees(source, phrases)
    else:
        yield from _read_delimited(source, "\t" if source.format == ".tsv" else ",")


def _read_delimited(source: Source, delimiter: str) -> Iterator[Chunk]:
    """Read CSV or TSV with pandas, after a strict pass that checks quotes and field counts.

    pandas alone fills short rows, drops what is over in long ones, and knows no lines.
    """
    lines_R = _check_delimited(source, delimiter)
    if not (lines_R > 0).any():
        return
    start = 0
    with open_text(source) as text:
        header = _next_record(csv.reader(text, delimiter=delimiter))
        chunks = pd.read_csv(
            text,
            sep=delimiter,
            header=None,
            names=header,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            index_col=False,
            skip_blank_lines=False,
            chunksize=CHUNK_ROWS,
        )
        for frame in chunks:
            lines = lines_R[start : start + len(frame)]
            start += len(frame)
            if len(lines) == len(frame):
                yield Chunk(frame=frame[lines > 0].reset_index(drop=True), lines=lines[lines > 0])
    if start != len(lines_R):
        raise DataError(
            f"two parsers disagree: {len(lines_R)} or {start} rows; save it as .jsonl or .parquet",
            file=source.name,
        )


def _check_delimited(source: Source, delimiter: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Check every record's quotes and number of fields; return the line it starts at, 0 for a blank one."""
    csv.field_size_limit(MAX_FIELD)
    lines = array("q")
    with open_text(source) as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        start = 1
        try:
            header = _next_record(reader)
            _check_header(header, source)
            start = reader.line_num + 1
            for row in reader:
                blank = not row or (row[0].isspace() and len(row) == 1 and len(header) > 1)
                if not blank and len(row) != len(header):
                    raise DataError(
                        f"{len(row)} fields where the header has {len(header)}; quote fields that "
                        f"hold {'a tab' if delimiter == chr(9) else 'a comma'}",
                        file=source.name,
                        line=start,
                    )
                lines.append(0 if blank else start)
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{_csv_problem(str(error))}; a quote inside a quoted field is written twice",
                file=source.name,
                line=start,
            ) from None
    return np.array(lines, np.int64)


def _next_record(reader: Iterator[list[str]]) -> list[str]:
    """Return the first record that is no blank line."""
    return next((record for record in reader if record), [])


def _csv_problem(message: str) -> str:
    if "unexpected end of data" in message:
        return "a quote is opened here and never closed"
    if "expected after" in message:
        return "text follows a closing quote"
    return message


def _check_header(header: list[str], source: Source) -> None:
    if not header:
        raise DataError("is empty", file=source.name)
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"the header names column {shown(twice)} twice", file=source.name, line=1)


def _read_jsonl(source: Source) -> Iterator[Chunk]:
    records: list[Mapping[str, Any]] = []
    lines: list[int] = []
    with open_text(source) as text:
        # Only \n ends a line: U+0085 and U+2028 may stand inside a JSON string.
        for line, content in enumerate(text, start=1):
            if not content.strip():
                continue
            try:
                record = json.loads(content)
            except (ValueError, RecursionError) as error:
                problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                raise DataError(f"not JSON: {problem}", file=source.name, line=line) from None
            if "\\ud" in content.lower():  # an escape that may be half a character
                record = _mended(record)
            if not isinstance(record, dict):
                raise DataError("each line must be one JSON object {...}", file=source.name, line=line)
            records.append(record)
            lines.append(line)
            if len(records) == CHUNK_ROWS:
                yield _json_chunk(records, lines)
                records, lines = [], []
    if records:
        yield _json_chunk(records, lines)


def _mended(value: Any) -> Any:
    """Replace half characters, which JSON can spell and no encoding can write, in all strings."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mended(key): _mended(inner) for key, inner in value.items()}
    return [_mended(inner) for inner in value] if isinstance(value, list) else value


def _json_chunk(records: list[Mapping[str, Any]], lines: list[int]) -> Chunk:
    columns = dict.fromkeys(column for record in records for column in record)
    values = {column: [record.get(column) for record in records] for column in columns}
    frame = pd.DataFrame(values, dtype=object)
    return Chunk(frame=frame, lines=np.array(lines, np.int64))


def _read_trees(source: Source, phrases: bool) -> Iterator[Chunk]:
    """Read one tree per line; columns text, label and, with phrases, `PHRASE`."""
    with open_text(source) as text:
        trees = ((line, content) for line, content in enumerate(text, start=1) if content.strip())
        while some := list(itertools.islice(trees, CHUNK_ROWS)):
            rows: list[tuple[str, str, bool]] = []
            lines: list[int] = []
            for line, content in some:
                try:
                    sentence, *parts = read_tree(content)
                except DataError as error:
                    raise DataError(error.message, file=source.name, line=line) from None
                spans = [(*sentence, False), *((*part, True) for part in parts if phrases)]
                rows += spans
                lines += [line] * len(spans)
            frame = pd.DataFrame(rows, columns=["text", "label", PHRASE], dtype=object)
            yield Chunk(frame=frame if phrases else frame.drop(columns=PHRASE), lines=np.array(lines))


def _read_parquet(source: Source) -> Iterator[Chunk]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source.path) as file:
            start = 1
            for batch in file.iter_batches(batch_size=CHUNK_ROWS):
                # Through Python values: pandas' own types would turn a column with gaps into floats.
                columns = {
                    name: pd.Series(batch.column(i).to_pylist(), dtype=object)
                    for i, name in enumerate(batch.schema.names)
                }
                frame = pd.DataFrame(columns)
                yield Chunk(frame=frame, lines=np.arange(start, start + len(frame)))
                start += len(frame)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"is no readable Parquet file: {error}", file=source.name) from None


def _read_folder(source: Source, classes: list[str] | None) -> Iterator[Chunk]:
    """Read ROOT/CLASS/*.txt, one text per file; columns text, label, file."""
    found = sorted(p.name for p in source.path.iterdir() if p.is_dir() and next(p.glob("*.txt"), None))
    if not found:
        raise DataError("a folder must hold one folder of .txt files per class", file=source.name)
    wanted = [name for name in found if classes is None or name in classes]
    if not wanted:
        raise DataError(
            f"none of the class folders {', '.join(classes or ())}; there are {', '.join(found)}",
            file=source.name,
        )
    files = [file for name in wanted for file in sorted((source.path / name).glob("*.txt"))]
    for start in range(0, len(files), CHUNK_ROWS):
        part = files[start : start + CHUNK_ROWS]
        texts = [_read_text_file(file, source) for file in part]
        frame = pd.DataFrame(
            {
                "text": texts,
                "label": [file.parent.name for file in part],
                "file": [str(file.relative_to(source.path)) for file in part],
            },
            dtype=object,
        )
        yield Chunk(frame=frame, lines=np.arange(start + 1, start + 1 + len(part)))


def _read_text_file(file: Path, source: Source) -> str:
    try:
        return file.read_bytes().decode(source.encoding, source.encoding_errors)
    except UnicodeDecodeError as error:
        raise DataError(
            f"byte {error.start} is not {source.encoding}; set data.encoding, or "
            "data.encoding_errors replace",
            file=str(file),
        ) from None
