"""JSON lines to records: one object on a line, read strictly, with the line of each.

Legend: R records of a part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from lstm_sentiment.data.sources.sources import Source, open_text, text_lines
from lstm_sentiment.errors import DataError, Problems, escaped, shown

Record = dict[str, Any]
ONE_PER_LINE = "write one whole object {...} per line"
DEEPEST = 100  # lists and maps in one another


def read_json_lines(source: Source, rows: int) -> Iterator[tuple[list[Record], list[int]]]:
    """Yield records in parts of at most some rows, and the 1-based line of each (R,).

    Args:
        source: from `open_source`.
        rows: of one part, at most.

    Raises:
        DataError: lines that hold no object, with their columns: of many the first ten.

    Example::

        with open_source("reviews.jsonl") as source:
            for records, lines in read_json_lines(source, 5_000): ...
    """
    records: list[Record] = []
    lines: list[int] = []
    problems = Problems[DataError]()
    first = True
    with open_text(source) as text:
        # Only \n, \r or both end a line: U+0085 and U+2028 may stand inside a JSON string.
        for line, content in enumerate(text_lines(text, source), start=1):
            if not content.strip():
                continue
            if first:
                _refuse_one_document(content.strip(), source, line)
                first = False
            try:
                records.append(_record(content))
                lines.append(line)
            except DataError as error:
                problems.add(DataError(error.message, file=source.name, line=line))
            if problems.first:  # nobody will use them
                records, lines = [], []
            elif len(records) == rows:
                yield records, lines
                records, lines = [], []
    problems.raise_any()
    if records:
        yield records, lines


def _record(content: str) -> Record:
    """Return the object on a line."""
    try:
        value = json.loads(content, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise DataError(f"more behind the object, at column {error.colno}; {ONE_PER_LINE}") from None
        raise DataError(f"not JSON at column {error.colno}: {escaped(error.msg)}; {ONE_PER_LINE}") from None
    except RecursionError:
        raise DataError(f"not JSON: nested too deeply; {ONE_PER_LINE}") from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise DataError("not JSON: a number of too many digits; write it in quotes") from None
    if not isinstance(value, dict):
        raise DataError(f"each line must be one JSON object {{...}}, not {shown(content.strip(), 20)}")
    return checked(value, content)


def checked(value: Record, content: str) -> Record:
    """Return an object without half characters, which JSON can spell and no encoding can write.

    Args:
        value: that was decoded.
        content: its JSON.

    Raises:
        DataError: it is nested too deeply; without file and line, which the caller knows.

    >>> checked({"text": "\ud83d"}, '{"text": "\\\\ud83d"}') == {"text": "\ufffd"}
    True
    """
    if content.count("[") + content.count("{") > DEEPEST and _deeper_than(DEEPEST, value):
        raise DataError(f"nested deeper than {DEEPEST}; write one whole object {{...}} per row")
    if "\\ud" in content.lower():  # an escape that may be half a character
        value = _mended(value)
    return value


def _deeper_than(levels: int, value: Any) -> bool:
    """Whether lists and maps stand deeper in one another; found without a function that calls itself."""
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
    """Return an object; json alone would keep the last of two values without a word.

    Raises:
        DataError: a key that is there twice; without file and line.

    >>> unique_keys([("text", "so"), ("label", 1)])
    {'text': 'so', 'label': 1}
    """
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"an object names {shown(twice)} twice; remove one")
    return record


def _refuse_one_document(first: str, source: Source, line: int) -> None:
    """Refuse a file that is one JSON document over several lines, or one array: each line would be wrong."""
    if first == "{" or first.startswith("["):
        found = "an object over several lines" if first == "{" else "a JSON array"
        fix = (
            f"let its name end in .json, or {ONE_PER_LINE} ('jq -c {'.' if first == '{' else '.[]'}' does it)"
        )
        raise DataError(f"{found} begins here; {fix}", file=source.name, line=line)


def _mended(value: Any) -> Any:
    """Replace half characters, which JSON can spell and no encoding can write, in all strings."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_mended(key): _mended(inner) for key, inner in value.items()}
    return [_mended(inner) for inner in value] if isinstance(value, list) else value
