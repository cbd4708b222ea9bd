"""JSON Lines reader: one object per line, parsed strictly.

Legend: R records of a part.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from lstm_sentiment.data.sources.sources import Source, open_text, text_lines
from lstm_sentiment.errors import DataError, Problems, escaped, shown
from lstm_sentiment.text.portions import MOST_COLUMNS, first_duplicate

Record = dict[str, Any]
ONE_PER_LINE = "write one whole object {...} per line"
DEEPEST = 100  # nesting depth of lists and maps
MOST_VALUES = 1 << 18  # of one line: each takes up to thirty times its size in the file
MOST_CELLS = 1 << 18  # of one part as a table: many more than its values if rows have different keys
VALUE_BYTES = 16  # memory of a value, in addition to its text
_STRING = re.compile('"[^"]*"')


def read_json_lines(source: Source, rows: int, size: int) -> Iterator[tuple[list[Record], list[int]]]:
    """Yield records in parts, and the 1-based line of each (R,).

    A part ends at the row or byte limit, or when rows times keys exceed `MOST_CELLS`.

    Args:
        source: from `open_source`.
        rows: maximum per part.
        size: bytes at which a part ends.

    Raises:
        DataError: lines that are not objects, with their columns (the first ten).

    Example::

        with open_source("reviews.jsonl") as source:
            for records, lines in read_json_lines(source, 5_000, 1 << 22): ...
    """
    part = RecordPart(rows, size)
    problems = Problems[DataError]()
    first = True
    with open_text(source) as text:
        # Only \n, \r or both end a line: U+0085 and U+2028 may occur inside a JSON string.
        for line, content in enumerate(text_lines(text, source), start=1):
            if not content.strip():
                continue
            if first:
                _refuse_one_document(content.strip(), source, line)
                first = False
            try:
                record = _record(content)
            except DataError as error:
                problems.add(DataError(error.message, file=source.name, line=line))
                continue
            if problems.first:  # not used after an error
                continue
            part.add(record, line, content)
            if part.full:
                yield part.records, part.lines
                part = RecordPart(rows, size)
    problems.raise_any()
    if part.records:
        yield part.records, part.lines


class RecordPart:
    """A part: records, their lines and their size.

    Args:
        rows: that fill it.
        size: bytes that fill it.

    >>> part = RecordPart(2, 1 << 22)
    >>> part.add({"text": "so"}, 1, '{"text": "so"}')
    >>> part.full, part.records, part.lines
    (False, [{'text': 'so'}], [1])
    """

    def __init__(self, rows: int, size: int) -> None:
        self.records: list[Record] = []
        self.lines: list[int] = []
        self.full = False
        self._rows, self._size, self._taken = rows, size, 0
        self._keys: set[str] = set()

    def add(self, record: Record, line: int, content: str) -> None:
        """Add a record with its line and JSON text, and update `full`.

        Rows times keys count too, since a table has all of these cells.
        """
        self.records.append(record)
        self.lines.append(line)
        self._taken += sys.getsizeof(content) + VALUE_BYTES * (1 + _signs(content))
        if not record.keys() <= self._keys:
            self._keys.update(record)
        rows = len(self.lines)
        self.full = rows >= self._rows or self._taken >= self._size or rows * len(self._keys) >= MOST_CELLS


def check_values(content: str) -> None:
    """Refuse JSON with very many values, each of which takes many times its size in the file.

    Args:
        content: of an object.

    Raises:
        DataError: there are more than `MOST_VALUES`; without file and line, which the caller adds.

    >>> check_values("[" + "0," * 300_000 + "0]")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.DataError: holds more than 262,144 values; write one text and its facts per row
    """
    if len(content) > MOST_VALUES and _signs(content) > MOST_VALUES and _values(content) > MOST_VALUES:
        raise DataError(f"holds more than {MOST_VALUES:,} values; write one text and its facts per row")


def _values(content: str) -> int:
    """Count the values of a line, including nested ones."""
    plain = content.replace("\\\\", "").replace('\\"', "")
    return _signs(plain) - sum(_signs(found[0]) for found in _STRING.finditer(plain))


def _signs(content: str) -> int:
    """Count the characters of a line that can precede a value, including those in strings."""
    return content.count(",") + content.count("[") + content.count("{")


def _record(content: str) -> Record:
    """Return the object on a line."""
    check_values(content)
    try:
        value = DECODER.decode(content)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise DataError(f"text after the object, at column {error.colno}; {ONE_PER_LINE}") from None
        raise DataError(f"not JSON at column {error.colno}: {escaped(error.msg)}; {ONE_PER_LINE}") from None
    except RecursionError:
        raise DataError(f"not JSON: nested too deeply; {ONE_PER_LINE}") from None
    except ValueError:  # Python refuses numbers of more than 4,300 digits
        raise DataError("not JSON: a number with too many digits; write it in quotes") from None
    if not isinstance(value, dict):
        raise DataError(f"each line must be one JSON object {{...}}, not {shown(content.strip(), 20)}")
    return checked(value, content)


def checked(value: Record, content: str) -> Record:
    """Validate a decoded object, with unpaired surrogates replaced by U+FFFD.

    Args:
        value: decoded.
        content: its JSON.

    Raises:
        DataError: it is nested too deeply, or has too many keys; without file and line.

    >>> checked({"text": "\\ud83d"}, '{"text": "\\\\ud83d"}') == {"text": "\\ufffd"}
    True
    """
    if content.count("[") + content.count("{") > DEEPEST and _deeper_than(DEEPEST, value):
        raise DataError(f"nested deeper than {DEEPEST}; write one whole object {{...}} per row")
    if "\\ud" in content.lower():  # may be an unpaired surrogate
        value = _without_surrogates(value)
    if len(value) > MOST_COLUMNS:
        raise DataError(f"has {len(value):,} keys; at most {MOST_COLUMNS:,} are read: remove some")
    return value


def _deeper_than(levels: int, value: Any) -> bool:
    """Whether lists and maps are nested deeper than `levels`; not recursive."""
    found = [value]
    for _ in range(levels + 1):
        found = [
            inner
            for outer in found
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return bool(found)


def unique_keys(pairs: list[tuple[str, Any]]) -> Record:
    """Build an object, refusing duplicate keys; json alone would silently keep the last value.

    Raises:
        DataError: a duplicate key; without file and line.

    >>> unique_keys([("text", "so"), ("label", 1)])
    {'text': 'so', 'label': 1}
    """
    record = dict(pairs)
    if len(record) < len(pairs):
        twice = first_duplicate(name for name, _ in pairs)
        raise DataError(f"duplicate key {shown(str(twice))}; remove one")
    return record


DECODER = json.JSONDecoder(object_pairs_hook=unique_keys)


def _refuse_one_document(first: str, source: Source, line: int) -> None:
    """Refuse a file that is a single JSON document: each line would be an error."""
    if first == "{" or first.startswith("["):
        found = "an object over several lines" if first == "{" else "a JSON array"
        fix = f"rename it to .json, or {ONE_PER_LINE} ('jq -c {'.' if first == '{' else '.[]'}' does it)"
        raise DataError(f"{found} begins here; {fix}", file=source.name, line=line)


def _without_surrogates(value: Any) -> Any:
    """Replace unpaired surrogates in all strings."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
    return [_without_surrogates(inner) for inner in value] if isinstance(value, list) else value
