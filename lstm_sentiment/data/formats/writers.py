"""Write rows in chunks: tables of every supported format (see `names`), plain or compressed."""

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
from typing import IO, TYPE_CHECKING, Any, cast

from lstm_sentiment.data.formats.readers import as_text
from lstm_sentiment.data.sources.names import DELIMITERS, compression_of, format_of
from lstm_sentiment.data.sources.sources import open_binary
from lstm_sentiment.data.sources.uploads import uploading
from lstm_sentiment.errors import DataError, listed
from lstm_sentiment.system.extras import need
from lstm_sentiment.system.files import (
    held_unfinished,
    local_path,
    refuse_device,
    sweep,
    sync_file,
    unfinished,
    writing,
)

if TYPE_CHECKING:
    import pandas as pd

Write = Callable[["pd.DataFrame"], None]
WRITTEN = (*DELIMITERS, ".jsonl", ".json", ".parquet", ".feather", ".xlsx")  # formats
_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")  # interpreted by terminals
_UNWRITTEN = re.compile(
    "[\0-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)"
)  # in XML: the last would be read as an escape
MOST_SHEET_ROWS, MOST_CELL_CHARACTERS = 1 << 20, 32_767
MOST_EXACT = 1 << 53  # Excel stores numbers as floats
# Spreadsheets treat text that begins with one of these as a formula, including full-width and small forms.
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u207c\u207a\u207b\u208c\u208a\u208b\u2212"
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_ENDS = ",;|\t\r\n\v\f\x85\u2028\u2029"  # may end a cell if a file is opened with another separator
_BLANKS = " \xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
_UNSEEN = "\xad\u180e\u200b-\u200f\u2060-\u2064\ufeff"
_BEFORE = rf'[{_BLANKS}{_UNSEEN}"]*'  # a sign, and ignored by some programs
_COMPUTED = re.compile(rf"(?:^|(?<=[{_ENDS}]))(?={_BEFORE}[{_SIGNS}])|^(?=[\t\r\n])")
_MAYBE_COMPUTED = re.compile(rf"[{_SIGNS}]|^[\t\r\n]")


@contextlib.contextmanager
def open_table(
    name: str, *, like: Path | None = None, spreadsheet_safe: bool = False, header: bool = True
) -> Iterator[Write]:
    """Open a table for writing: yield a function that appends a frame's rows; the file is created atomically.

    Args:
        name: a path, or a URL that fsspec can write to, whose ending gives the format, as in `readers`.
        like: a Parquet file whose column types a new Parquet file adopts.
        spreadsheet_safe: prefix ' to text in CSV or TSV that a spreadsheet would treat as a formula.
        header: whether CSV, TSV and Excel begin with the names of the columns.

    Raises:
        DataError: unsupported format, no such folder, a URL that cannot be written, or a value that the
            format cannot represent.
        DiskError: the disk is full, failing or not writable.
        MissingExtraError: the URL's filesystem package, or that of the format, is not installed.
    """
    ending = format_of(name, among=WRITTEN)
    if ending == ".xlsx":
        need("openpyxl", extra="excel")
    how: dict[str, Any] = {"like": like, "spreadsheet_safe": spreadsheet_safe, "header": header}
    place = uploading(name) if "://" in name else contextlib.nullcontext(local_path(name))
    with place as path, _open_local(path, name, ending, **how) as write:
        yield write


@contextlib.contextmanager
def _open_local(
    path: Path, name: str, ending: str, *, like: Path | None, spreadsheet_safe: bool, header: bool
) -> Iterator[Write]:
    """Open a table on this machine; errors name it by `name`."""
    temporary = unfinished(path)
    refuse_device(path, name)
    try:
        with writing(path), _placed(name), contextlib.ExitStack() as stack:
            sweep(path.parent, path.name)
            file = stack.enter_context(temporary.open("xb"))
            stack.enter_context(held_unfinished(temporary))
            if ending in (".parquet", ".feather"):
                yield _arrow_writer(file, name, like, stack, parquet=ending == ".parquet")
            elif ending == ".xlsx":
                yield stack.enter_context(_workbook_writer(file, name, header))
            else:
                raw = stack.enter_context(_compressed(file, name))
                out = stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
                cell = _inert if spreadsheet_safe else _cell
                yield stack.enter_context(
                    _json_writer(out) if ending == ".json" else _line_writer(out, name, cell, header)
                )
            stack.close()  # writes the rest
            sync_file(temporary)
            temporary.replace(path)
    except UnicodeEncodeError as error:
        raise DataError(
            f"a text contains an unpaired surrogate and cannot be encoded: {error.reason}", file=name
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _placed(name: str) -> Iterator[None]:
    """Convert errors of a path, as opposed to the disk, to a `DataError`."""
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


def records_of(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield a frame's rows as dicts, without missing keys, which are pd.NA in the frame.

    >>> import pandas as pd
    >>> list(records_of(pd.DataFrame({"text": ["so", "no"], "stars": [pd.NA, None]}, dtype=object)))
    [{'text': 'so'}, {'text': 'no', 'stars': None}]
    """
    import pandas as pd

    columns = [str(column) for column in frame.columns]
    for row in zip(*(frame[column].tolist() for column in frame.columns), strict=True):
        yield {column: value for column, value in zip(columns, row, strict=True) if value is not pd.NA}


def _json_value(value: Any) -> Any:
    """Replace non-finite numbers by null, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _json_value(inner) for key, inner in value.items()}
    return [_json_value(inner) for inner in value] if isinstance(value, list | tuple) else value


@contextlib.contextmanager
def _compressed(file: IO[bytes], name: str) -> Iterator[Any]:
    """Open a file for compressed writing by its name; a zip member has the name without .zip."""
    if compression_of(name) != ".zip":
        with open_binary(file, compression_of(name), "wb") as raw:
            yield raw
        return
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        member = Path(name).name[: -len(".zip")]
        with archive.open(member, "w", force_zip64=True) as raw:
            yield raw


@contextlib.contextmanager
def _line_writer(out: IO[str], name: str, cell: Callable[[Any], str], named: bool) -> Iterator[Write]:
    yield _jsonl_writer(out) if format_of(name) == ".jsonl" else _delimited_writer(out, name, cell, named)


@contextlib.contextmanager
def _json_writer(out: IO[str]) -> Iterator[Write]:
    """Write one array, with an object on each line."""
    before = "[\n"

    def write(frame: pd.DataFrame) -> None:
        nonlocal before
        for record in records_of(frame):
            out.write(before + to_json_line(record))
            before = ",\n"

    yield write
    out.write("[]\n" if before == "[\n" else "\n]\n")


def _jsonl_writer(out: IO[str]) -> Write:
    def write(frame: pd.DataFrame) -> None:
        out.writelines(to_json_line(record) + "\n" for record in records_of(frame))

    return write


def _delimited_writer(out: IO[str], name: str, cell: Callable[[Any], str], named: bool) -> Write:
    separator = DELIMITERS[format_of(name)]
    header: list[Any] | None = None

    def write(frame: pd.DataFrame) -> None:
        nonlocal header
        is_first, header = header is None, list(frame.columns) if header is None else header
        texts = _with_columns(frame, header, name).map(cell).rename(columns=cell)
        if cell is _inert:  # a number at the start of a line is read together with what follows it
            texts.isetitem(0, [_COMPUTED.sub("'", first, count=1) for first in texts.iloc[:, 0]])
        texts.to_csv(out, sep=separator, index=False, header=named and is_first, lineterminator="\r\n")

    return write


def _with_columns(frame: pd.DataFrame, columns: list[Any], name: str) -> pd.DataFrame:
    """Return rows with the columns of the previous rows."""
    if list(frame.columns) == columns:
        return frame
    more = [str(column) for column in frame.columns if column not in set(columns)]
    if more:
        problem = f"rows further down have more columns ({listed(more, most=5, quoted=True)})"
        raise DataError(f"{problem}; write .jsonl instead", file=name)
    return filled(frame, columns)


def filled(frame: pd.DataFrame, columns: list[Any]) -> pd.DataFrame:
    """Return rows with these columns, pd.NA in missing ones.

    >>> import pandas as pd
    >>> filled(pd.DataFrame({"text": ["so"]}), ["id", "text"])["id"].tolist()
    [<NA>]
    """
    import pandas as pd

    return frame.reindex(columns=columns, fill_value=cast(Any, pd.NA))


def _arrow_writer(
    file: IO[bytes], name: str, like: Path | None, stack: contextlib.ExitStack, *, parquet: bool
) -> Write:
    """Return a writer of Parquet or Feather."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    known: dict[str, Any] = {}
    header: list[Any] = []
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
        if pa.types.is_null(array.type):  # no value so far: text can represent any later ones
            array = array.cast(pa.string())
        return array

    def write(frame: pd.DataFrame) -> None:
        nonlocal writer, header
        if writer is None and like is not None:
            known.update({field.name: field.type for field in pq.read_schema(like)})
        if writer is not None:
            frame = _with_columns(frame, header, name)
        values = {str(c): [None if v is pd.NA else v for v in frame[c].tolist()] for c in frame.columns}
        try:
            columns = {name: column(name, of_column) for name, of_column in values.items()}
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(
                f"values of several types in a column: {error}; write .jsonl instead", file=name
            ) from None
        table = pa.table(columns)
        if writer is None:
            known.update({field.name: field.type for field in table.schema})
            header = list(frame.columns)
            writer = stack.enter_context(open_writer(table.schema))
        writer.write_table(table)

    return write


@contextlib.contextmanager
def _workbook_writer(file: IO[bytes], name: str, named: bool) -> Iterator[Write]:
    """Write a workbook with one sheet. Text is never stored as a formula."""
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    book = Workbook(write_only=True)
    sheet = book.create_sheet("rows")
    rows, header = 0, list[Any]()

    def cell(value: Any) -> Any:
        found = _of_workbook(value, name)
        made = WriteOnlyCell(sheet, found)
        if isinstance(found, str):
            made.data_type = "s"
        return made

    def write(frame: pd.DataFrame) -> None:
        nonlocal rows, header
        if not header:
            header = list(frame.columns)
            if named:
                sheet.append([cell(str(column)) for column in header])
        frame = _with_columns(frame, header, name)
        rows += len(frame)
        if rows >= MOST_SHEET_ROWS:
            raise DataError(f"a sheet of Excel has {MOST_SHEET_ROWS:,} rows; write .csv instead", file=name)
        for record in frame.itertuples(index=False, name=None):
            sheet.append(list(map(cell, record)))

    try:
        yield write
    except BaseException:
        with contextlib.suppress(Exception):  # it is discarded
            sheet.close()
        raise
    book.save(file)


def _of_workbook(value: Any, name: str) -> Any:
    """Convert a value for an Excel cell."""
    if isinstance(value, bool | datetime.date | datetime.time) and not getattr(value, "tzinfo", None):
        return value
    if isinstance(value, int | float) and abs(value) <= MOST_EXACT:  # False for NaN
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
    """Escape text that a spreadsheet would treat as a formula; plain numbers are unchanged.

    Everything that would be a cell with another separator is checked: after a comma, semicolon, bar, tab or
    line break, ignoring blanks and quotes before the sign.

    >>> [_inert(value) for value in ("=1+1", "-0.5", "- so-so", "good; =1+1", "good; -1", "good")]
    ["'=1+1", '-0.5', "'- so-so", "good;' =1+1", "good;' -1", 'good']
    """
    text = _cell(value)
    if not _MAYBE_COMPUTED.search(text) or _NUMBER.fullmatch(text):
        return text
    return _COMPUTED.sub("'", text)
