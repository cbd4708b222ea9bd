"""Rows to files, in chunks: tables of every format that is read (see `names`), plain or compressed."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lstm_sentiment.data.formats.readers import as_text
from lstm_sentiment.data.sources.names import TABLES, compression_of, format_of
from lstm_sentiment.data.sources.sources import open_binary
from lstm_sentiment.errors import DataError
from lstm_sentiment.system.extras import need
from lstm_sentiment.system.files import local_path, unfinished, writing

if TYPE_CHECKING:
    import pandas as pd

Write = Callable[["pd.DataFrame"], None]
_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")  # terminals obey them
_UNWRITTEN = re.compile(
    "[\0-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)"
)  # in XML: the last would mean others
MOST_SHEET_ROWS, MOST_CELL_CHARACTERS = 1 << 20, 32_767
MOST_EXACT = 1 << 53  # numbers of Excel are floats
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", re.ASCII)
_COMPUTED = ("=", "+", "-", "@", "\t", "\r")  # what a cell begins with that a spreadsheet takes for a formula


@contextlib.contextmanager
def open_table(name: str, *, like: Path | None = None, spreadsheet_safe: bool = False) -> Iterator[Write]:
    """Yield a function that appends a frame's rows to a new file; the file appears when all is written.

    Args:
        name: a path whose ending tells the format, as in `readers`.
        like: a Parquet file whose column types a new Parquet file takes over.
        spreadsheet_safe: put ' before text of a CSV or TSV file that a spreadsheet would compute.

    Raises:
        DataError: no such format or folder, or a value that the format cannot hold.
        DiskError: the disk is full or failing, or not to be written to.
    """
    path, ending = local_path(name), format_of(name, among=TABLES)
    if ending == ".xlsx":
        need("openpyxl", extra="excel")
    beside = unfinished(path)
    try:
        with writing(path), _placed(name), contextlib.ExitStack() as stack:
            file = stack.enter_context(beside.open("xb"))
            if ending in (".parquet", ".feather"):
                yield _arrow_writer(file, name, like, stack, parquet=ending == ".parquet")
            elif ending == ".xlsx":
                yield stack.enter_context(_workbook_writer(file, name))
            else:
                raw = stack.enter_context(_compressed(file, name))
                out = stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
                cell = _inert if spreadsheet_safe else _cell
                yield stack.enter_context(
                    _json_writer(out) if ending == ".json" else _line_writer(out, ending, cell)
                )
            stack.close()  # what is left is written now
            beside.replace(path)
    except UnicodeEncodeError as error:
        raise DataError(
            f"a text holds half a character, which no file can: {error.reason}", file=name
        ) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _placed(name: str) -> Iterator[None]:
    """Raise what is wrong with a file's place, and not with the disk, as a `DataError`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"cannot be written: {error.strerror or error}", file=name) from None


def to_json_line(record: Mapping[Any, Any]) -> str:
    """Return a record as one line of JSON; dates and other stored types as text.

    >>> to_json_line({"text": "so-so", "n": 1})
    '{"text": "so-so", "n": 1}'
    """
    line = json.dumps(_json_value(dict(record)), ensure_ascii=False, allow_nan=False, default=str)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _json_value(value: Any) -> Any:
    """Replace numbers that JSON does not know by null, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    return [_json_value(inner) for inner in value] if isinstance(value, list | tuple) else value


@contextlib.contextmanager
def _compressed(file: IO[bytes], name: str) -> Iterator[Any]:
    """Open a file for writing as its name says; in a zip archive it has the same name without .zip."""
    if compression_of(name) != ".zip":
        with open_binary(file, compression_of(name), "wb") as raw:
            yield raw
        return
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        member = Path(name).name[: -len(".zip")]
        with archive.open(member, "w", force_zip64=True) as raw:
            yield raw


@contextlib.contextmanager
def _line_writer(out: IO[str], ending: str, cell: Callable[[Any], str]) -> Iterator[Write]:
    yield _jsonl_writer(out) if ending == ".jsonl" else _delimited_writer(out, ending, cell)


@contextlib.contextmanager
def _json_writer(out: IO[str]) -> Iterator[Write]:
    """Write one array, with an object on each line."""
    before = "[\n"

    def write(frame: pd.DataFrame) -> None:
        nonlocal before
        for record in frame.to_dict("records"):
            out.write(before + to_json_line(record))
            before = ",\n"

    yield write
    out.write("[]\n" if before == "[\n" else "\n]\n")


def _jsonl_writer(out: IO[str]) -> Write:
    def write(frame: pd.DataFrame) -> None:
        out.writelines(to_json_line(record) + "\n" for record in frame.to_dict("records"))

    return write


def _delimited_writer(out: IO[str], ending: str, cell: Callable[[Any], str]) -> Write:
    first = True

    def write(frame: pd.DataFrame) -> None:
        nonlocal first
        texts = frame.map(cell).rename(columns=cell)
        texts.to_csv(
            out, sep="\t" if ending == ".tsv" else ",", index=False, header=first, lineterminator="\r\n"
        )
        first = False

    return write


def _arrow_writer(
    file: IO[bytes], name: str, like: Path | None, stack: contextlib.ExitStack, *, parquet: bool
) -> Write:
    """Return what writes Parquet, or Feather."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    known: dict[str, Any] = {}
    writer: Any = None

    def open_writer(schema: pa.Schema) -> Any:
        if parquet:
            return pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True)
        return pa.ipc.new_file(file, schema, options=pa.ipc.IpcWriteOptions(compression="zstd"))

    def column(column_name: str, values: list[Any]) -> pa.Array:
        kind = known.get(column_name)
        if kind == pa.string():
            return pa.array([None if v is None else _cell(v) for v in values], kind)
        array = pa.array(values, kind)
        if pa.types.is_null(array.type):  # no value so far: text can hold whatever comes
            array = array.cast(pa.string())
        return array

    def write(frame: pd.DataFrame) -> None:
        nonlocal writer
        if writer is None and like is not None:
            known.update({field.name: field.type for field in pq.read_schema(like)})
        try:
            columns = {str(c): column(str(c), frame[c].tolist()) for c in frame.columns}
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(
                f"values of several types in a column: {error}; write .jsonl instead", file=name
            ) from None
        table = pa.table(columns)
        if writer is None:
            known.update({field.name: field.type for field in table.schema})
            writer = stack.enter_context(open_writer(table.schema))
        if table.schema.names != list(known):
            raise DataError("rows further down have other columns; write .jsonl instead", file=name)
        writer.write_table(table)

    return write


@contextlib.contextmanager
def _workbook_writer(file: IO[bytes], name: str) -> Iterator[Write]:
    """Write a workbook of one sheet. Text is never a formula there, whatever it begins with."""
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    book = Workbook(write_only=True)
    sheet = book.create_sheet("rows")
    rows = 0

    def cell(value: Any) -> Any:
        found = _of_workbook(value, name)
        made = WriteOnlyCell(sheet, found)
        if isinstance(found, str):
            made.data_type = "s"
        return made

    def write(frame: pd.DataFrame) -> None:
        nonlocal rows
        if not rows:
            sheet.append([cell(str(column)) for column in frame.columns])
        rows += len(frame)
        if rows >= MOST_SHEET_ROWS:
            raise DataError(f"a sheet of Excel has {MOST_SHEET_ROWS:,} rows; write .csv instead", file=name)
        for record in frame.itertuples(index=False, name=None):
            sheet.append(list(map(cell, record)))

    try:
        yield write
    except BaseException:
        with contextlib.suppress(Exception):  # it is not wanted any more
            sheet.close()
        raise
    book.save(file)


def _of_workbook(value: Any, name: str) -> Any:
    """Return a value that a cell of Excel can hold."""
    if isinstance(value, bool | datetime.date | datetime.time) and not getattr(value, "tzinfo", None):
        return value
    if isinstance(value, int | float) and abs(value) <= MOST_EXACT:  # what is no number is no text either
        return value
    text = _UNWRITTEN.sub(lambda found: f"_x{ord(found[0]):04X}_", _cell(value))
    if len(text) > MOST_CELL_CHARACTERS:
        raise DataError(
            f"a text has {len(text):,} characters, and a cell of Excel {MOST_CELL_CHARACTERS:,}; write .csv",
            file=name,
        )
    return text


def _cell(value: Any) -> str:
    """Return a value as text; lists and maps as JSON."""
    return json.dumps(value, default=str) if isinstance(value, dict | list) else as_text(value)


def _inert(value: Any) -> str:
    """Return a value as text that a spreadsheet shows as it is; numbers stay numbers.

    >>> [_inert(value) for value in ("=1+1", "-0.5", "- so-so", "good")]
    ["'=1+1", '-0.5', "'- so-so", 'good']
    """
    text = _cell(value)
    return f"'{text}" if text.startswith(_COMPUTED) and not _NUMBER.fullmatch(text) else text
