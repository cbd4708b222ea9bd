"""Excel reader: one sheet, row by row with openpyxl, after checks for zip and XML bombs.

A workbook is a zip archive of XML. A few kilobytes of it may unpack to gigabytes, and XML may expand further.
So each part is scanned first, and large parts, large rows and entity definitions are refused.

Legend: R rows of a part.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator
from typing import IO, Any
from xml.parsers import expat

from lstm_sentiment.data.sources.sources import Source
from lstm_sentiment.data.sources.zip_files import Bounded
from lstm_sentiment.errors import DataError, Problems, did_you_mean, escaped, listed, shown
from lstm_sentiment.system.extras import need
from lstm_sentiment.text.portions import MOST_COLUMNS, bytes_of, first_duplicate, portions

log = logging.getLogger(__name__)

Part = tuple[dict[str, list[Any]], list[int]]
Row = tuple[int, list[Any]]  # number in the sheet, values
MOST_PART_BYTES = 1 << 26  # of a sheet, or of all shared strings
MOST_TREE_BYTES = 1 << 23  # of parts that are parsed as a whole
MOST_ROW_BYTES = 1 << 22  # of XML; a cell of Excel holds 32,767 characters
MOST_ELEMENTS = 100_000  # of a row, which has 16,384 cells at most; the same outside of rows
CELL_BYTES = 40  # memory of a cell, in addition to its text
ROWS = {"row": 1 << 20, "si": 1 << 21}  # element of a row or shared string -> maximum number
_ESCAPE = re.compile("_x([0-9A-Fa-f]{4})_")


def read_workbook(source: Source, rows: int, size: int) -> Iterator[Part]:
    """Yield columns of non-empty rows in parts, and the number of each row in the sheet (R,).

    Numbers, dates and booleans keep their type; a formula gives its last computed value.

    Args:
        source: from `open_source`; its sheet is read, or the first visible one, which is logged if there are
            several.
        rows: maximum per part.
        size: bytes at which a part ends.

    Raises:
        DataError: it is not a readable workbook, has no such sheet, or values beyond its header.
        MissingExtraError: openpyxl is not installed.

    Example::

        with open_source("reviews.xlsx") as source:
            for columns, numbers in read_workbook(source, 5_000, 1 << 22): ...
    """
    need("openpyxl", extra="excel")
    with _opened(source) as book:
        numbered = _rows_of(_sheet_of(book, source), book)
        filled = ((number, row) for number, row in numbered if any(value is not None for value in row))
        first, header = next(filled, (1, ()))
        names = _names(header, source, first)
        again = [(first, header)] if header and not source.header else []
        problems = Problems[DataError]()
        table = _table(itertools.chain(again, filled), names, source, problems)
        for some in portions(table, most=rows, size=size, of=_bytes_of_row):
            if not problems.first:  # else they are not used
                columns = zip(names, zip(*(row for _, row in some), strict=True), strict=True)
                yield {name: list(values) for name, values in columns}, [number for number, _ in some]
        problems.raise_any()


def _rows_of(sheet: Any, book: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield each row of a sheet with its number.

    Like openpyxl's `iter_rows`, but without keeping the heights and formats of all rows.
    """
    from openpyxl.worksheet._reader import WorkSheetParser

    last = 0
    with sheet._get_source() as content:
        parser = WorkSheetParser(
            content,
            sheet._shared_strings,
            data_only=True,
            epoch=book.epoch,
            date_formats=book._date_formats,
            timedelta_formats=book._timedelta_formats,
        )
        for number, cells in parser.parse():
            parser.row_dimensions.clear()
            if number > last:
                yield number, sheet._get_row(cells, values_only=True)
                last = number


def _texts_of(content: IO[bytes]) -> list[str]:
    """Return the shared strings, without building a tree of all of them."""
    from openpyxl.cell.text import Text
    from openpyxl.xml.constants import SHEET_MAIN_NS
    from openpyxl.xml.functions import iterparse

    found: list[str] = []
    string, plain = f"{{{SHEET_MAIN_NS}}}si", f"{{{SHEET_MAIN_NS}}}t"
    events = iterparse(content, events=("start", "end"))
    _, root = next(events)
    for event, element in events:
        if event == "end" and element.tag == string:
            if len(element) == 1 and element[0].tag == plain:  # without formats; a tenth of the time
                text = element[0].text or ""
            else:
                text = Text.from_tree(element).content
            found.append(text.replace("x005F_", ""))  # as openpyxl does
            root.clear()
    return found


def _table(
    filled: Iterator[tuple[int, tuple[Any, ...]]],
    names: list[str],
    source: Source,
    problems: Problems[DataError],
) -> Iterator[Row]:
    """Yield each row with a value for each column; report values beyond the header."""
    for number, row in filled:
        over = next((place for place in range(len(names), len(row)) if row[place] is not None), None)
        if over is not None:
            found = f"{shown(str(row[over]), 30)} in column {_letter(over)} is beyond the header"
            problems.add(DataError(f"{found}; name that column, or remove it", file=source.name, line=number))
        else:
            yield number, [_value(row[place]) if place < len(row) else None for place in range(len(names))]


def _bytes_of_row(row: Row) -> int:
    return CELL_BYTES * len(row[1]) + bytes_of(*(value for value in row[1] if isinstance(value, str)))


def _names(header: tuple[Any, ...], source: Source, number: int) -> list[str]:
    """Return the column names: letters for unnamed columns, numbers without a header."""
    while header and header[-1] is None:
        header = header[:-1]
    if not source.header:
        return [str(place + 1) for place in range(len(header))]
    names = [_letter(place) if value is None else str(value) for place, value in enumerate(header)]
    if len(names) > MOST_COLUMNS:
        problem = f"has {len(names):,} columns; at most {MOST_COLUMNS:,} are read: remove some"
        raise DataError(problem, file=source.name, line=number)
    twice = first_duplicate(names)
    if twice is not None:
        problem = f"the header names column {shown(twice)} twice; rename one"
        raise DataError(problem, file=source.name, line=number)
    return names


def _letter(place: int) -> str:
    """Return Excel's name of a column.

    >>> _letter(0), _letter(27)
    ('A', 'AB')
    """
    letters = ""
    while place >= 0:
        place, letter = divmod(place, 26)
        letters, place = chr(ord("A") + letter) + letters, place - 1
    return letters


def _value(value: Any) -> Any:
    """Return a cell's value, with escapes such as _x000D_ decoded."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), value) if isinstance(value, str) else value


def _sheet_of(book: Any, source: Source) -> Any:
    """Return the requested sheet, or the first visible one."""
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if source.sheet is not None:
        if source.sheet in sheets:
            return sheets[source.sheet]
        hint = did_you_mean(source.sheet, sheets)
        here = listed(sheets, quoted=True)
        raise DataError(
            f"no sheet {shown(source.sheet)} (data.sheet, --sheet); the workbook has {here}.{hint}",
            file=source.name,
        )
    visible = [name for name, sheet in sheets.items() if sheet.sheet_state == "visible"] or list(sheets)
    if not visible:
        raise DataError("has no sheet of cells; use another workbook", file=source.name)
    if len(visible) > 1:
        message = "%s: sheet %s of %s is read; set data.sheet (--sheet) for another"
        log.warning(message, escaped(source.name), shown(visible[0]), listed(visible, quoted=True))
    return sheets[visible[0]]


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Any]:
    """Open a workbook; errors of openpyxl in the block become a `DataError`."""
    from openpyxl.reader.excel import ExcelReader
    from openpyxl.xml.constants import SHARED_STRINGS

    class Reader(ExcelReader):  # type: ignore[misc]
        def read_strings(self) -> None:
            part = self.package.find(SHARED_STRINGS)
            if part is not None:
                with self.archive.open(part.PartName[1:]) as content:
                    self.shared_strings = _texts_of(content)

    with source.path.open("rb") as opened:
        if opened.read(4) == b"\xd0\xcf\x11\xe0":
            found = "is an old Excel workbook, or one with a password"
            raise DataError(f"{found}; save it as .xlsx without one", file=source.name)
    try:
        with warnings.catch_warnings(), Bounded(source.path) as file:
            warnings.simplefilter("ignore")  # about extensions, validations, styles
            reader = Reader(file, read_only=True, data_only=True, keep_links=False)
            with _Parts(file) as reader.archive:
                reader.read()
                yield reader.wb
    except DataError as error:
        raise DataError(error.message, file=source.name, line=error.line, column=error.column) from None
    except Exception as error:  # openpyxl raises many types on invalid XML
        problem = escaped(f"{type(error).__name__} {error}".split("\n")[0], 200)
        message = f"is not a readable Excel workbook: {problem}; save it again"
        raise DataError(message, file=source.name) from None


class _Parts(zipfile.ZipFile):
    """Zip archive of a workbook, whose parts are scanned before they are first read."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._seen: set[str] = set()

    def read(self, name: str | zipfile.ZipInfo, pwd: bytes | None = None) -> bytes:
        """Return a part that is parsed as a whole."""
        size = self.getinfo(name if isinstance(name, str) else name.filename).file_size
        if size > MOST_TREE_BYTES:
            raise DataError(f"its part {shown(str(name))} unpacks to {size:,} bytes; save the sheet as .csv")
        return super().read(name, pwd)

    def open(
        self,
        name: str | zipfile.ZipInfo,
        mode: Any = "r",
        pwd: bytes | None = None,
        *,
        force_zip64: bool = False,
    ) -> IO[bytes]:
        """Open a part, which is XML."""
        part = name if isinstance(name, str) else name.filename
        if part not in self._seen:
            size = self.getinfo(part).file_size
            if size > MOST_PART_BYTES:
                raise DataError(f"its part {shown(part)} unpacks to {size:,} bytes; save the sheet as .csv")
            with super().open(part) as content:
                _Scanner(part).through(content)
            self._seen.add(part)
        return super().open(name, mode, pwd, force_zip64=force_zip64)


class _Scanner:
    """Scanner of untrusted XML: refuses entity definitions and rows that are too large.

    Args:
        part: of a workbook, for messages.
    """

    def __init__(self, part: str) -> None:
        self._part = part
        self._counts = dict.fromkeys(ROWS, 0)
        self._row = ""  # element of the current row
        self._elements = self._begun = self._outside = (
            0  # nested in it, its start or that of what follows; others
        )
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler, self._parser.EndElementHandler = self._start, self._end
        self._parser.StartDoctypeDeclHandler = self._doctype

    def through(self, content: IO[bytes]) -> None:
        """Scan a part.

        Raises:
            DataError: it is refused.
            ExpatError: it is not XML.
        """
        read = 0
        while block := content.read(1 << 16):
            self._parser.Parse(block)
            read += len(block)
            most = MOST_ROW_BYTES if self._row else MOST_TREE_BYTES
            if read - self._begun > most:
                self._refuse(
                    f"holds more than {most:,} bytes {'in one row' if self._row else 'outside of its rows'}"
                )
        self._parser.Parse(b"", True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._row:
            self._elements += 1
            if self._elements > MOST_ELEMENTS:
                self._refuse(f"holds more than {MOST_ELEMENTS:,} elements in one row")
            return
        kind = name.rpartition(":")[2]
        self._outside += kind not in ROWS
        if self._outside > MOST_ELEMENTS:
            self._refuse(f"holds more than {MOST_ELEMENTS:,} elements outside of its rows")
        if kind in ROWS:
            most, number = ROWS[kind], attributes.get("r", "1")
            self._row, self._elements, self._begun = kind, 0, self._parser.CurrentByteIndex
            self._counts[kind] += 1
            if self._counts[kind] > most or not number.isdecimal() or int(number[:9]) > most:
                self._refuse(f"holds more than {most:,} rows or texts")

    def _end(self, name: str) -> None:
        if self._row and name.rpartition(":")[2] == self._row:
            self._row, self._begun = "", self._parser.CurrentByteIndex

    def _doctype(self, *_: Any) -> None:
        self._refuse("defines XML entities, which workbooks do not use")

    def _refuse(self, problem: str) -> None:
        raise DataError(f"its part {shown(self._part)} {problem}; save the sheet as .csv")
