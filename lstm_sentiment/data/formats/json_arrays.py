"""JSON reader: an array of objects, or concatenated objects, parsed incrementally and strictly.

Label Studio tasks, whose text and labels are nested, are flattened.

Legend: R records of a part.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from lstm_sentiment.data.formats.json_lines import DECODER, Record, RecordPart, check_values, checked
from lstm_sentiment.data.sources.sources import MAX_LINE, Source, open_text
from lstm_sentiment.errors import DataError, escaped, listed, shown
from lstm_sentiment.text.given import USUAL

MOST_CONTROLS = 100  # controls of a labelling interface
PIECE = 1 << 16  # characters read at once
LONGEST_SIGN = 12  # characters of the longest JSON literal, such as -Infinity
SHAPE = "use an array of objects [{...}, ...]"
SPACES = " \t\r\n"
_SPACE = re.compile(rf"[{SPACES}]*")
_NESTED = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"\s*:\s*(\[|\{)')


def read_json_array(source: Source, rows: int, size: int) -> Iterator[tuple[list[Record], list[int]]]:
    """Yield records in parts, as `read_json_lines` does, and the 1-based line that each begins on (R,).

    If the array is on a single line, the number of the record is given instead.

    Args:
        source: from `open_source`.
        rows: maximum per part.
        size: bytes at which a part ends.

    Raises:
        DataError: invalid JSON, with line and column; items that are not objects.

    Example::

        with open_source("reviews.json") as source:
            for records, lines in read_json_array(source, 5_000, 1 << 22): ...
    """
    part, flatten = RecordPart(rows, size), _Flattened()
    done, begins, by_line = 0, 0, True
    with open_text(source) as text:
        for record, line, content in _Document(text, source).records():
            if part.full:  # only when another follows: by then the numbering is known
                yield part.records, part.lines if by_line else _numbers(done, part)
                done += len(part.records)
                part = RecordPart(rows, size)
            part.add(flatten(record), line, content)
            if done + len(part.lines) == 2:
                by_line = line != begins
            begins = begins or line
    if part.records:
        yield part.records, part.lines if by_line else _numbers(done, part)


def _numbers(done: int, part: RecordPart) -> list[int]:
    return list(range(done + 1, done + 1 + len(part.records)))


class _Document:
    """Incremental parser of a JSON document; tracks line and column.

    Args:
        text: the file.
        source: for messages.
    """

    def __init__(self, text: IO[str], source: Source) -> None:
        self._text, self._source = text, source
        self._held, self._place = "", 0  # buffer, and position in it
        self._line, self._column, self._ended = 1, 1, False

    def records(self) -> Iterator[tuple[Record, int, str]]:
        """Yield each object, the line it begins on, and its JSON."""
        array = self._next() == "["
        if array:
            self._advance(1)
        count = 0
        while sign := self._next():
            if array and sign == "]":
                break
            if sign != "{":
                self._fail(f"{shown(self._excerpt())} found where an object {{...}} should begin; {SHAPE}")
            line = self._line
            record, content = self._object()
            count += 1
            after = self._next()
            if count == 1 and not array and not after:
                self._refuse_nested(record, line)
            yield record, line, content
            if array:
                self._go_on(after)
        if array:
            if not self._next():
                self._fail(f"the file ends within the array; copy it again, or {SHAPE}")
            self._advance(1)
            if self._next():
                self._fail(f"{shown(self._excerpt())} follows the array; remove it")

    def _go_on(self, after: str) -> None:
        """Advance past the comma after an object of an array."""
        if after == ",":
            self._advance(1)
            if self._next() == "]":
                self._fail("an object should follow the comma; remove the comma")
        elif after not in ("", "]"):
            self._fail(f"{shown(self._excerpt())} found where , or ] should be; {SHAPE}")

    def _next(self) -> str:
        """Advance to the next character that is not white space, and return it; empty at the end."""
        sign = self._held[self._place : self._place + 1]
        while not sign or sign in SPACES:
            found = _SPACE.match(self._held, self._place)
            assert found is not None
            self._advance(found.end() - self._place)
            at_end = self._place == len(self._held) and not self._more()
            sign = self._held[self._place : self._place + 1]
            if at_end:
                break
        return sign

    def _more(self) -> bool:
        """Read more, doubling the buffer, and drop what is consumed; False at the end."""
        rest = self._held[self._place :]
        wanted = max(PIECE, min(len(rest), MAX_LINE + 1 - len(rest)))  # not beyond the limit
        piece = "" if self._ended else self._text.read(wanted)
        self._ended = not piece
        self._held, self._place = rest + piece, 0
        return bool(piece)

    def _advance(self, count: int) -> None:
        passed = self._held[self._place : self._place + count]
        breaks = passed.count("\n")
        self._line += breaks
        self._column = len(passed) - passed.rfind("\n") if breaks else self._column + count
        self._place += count

    def _object(self) -> tuple[Record, str]:
        """Parse the object at the current position."""
        while True:
            try:
                value, end = DECODER.raw_decode(self._held, self._place)
                break
            except json.JSONDecodeError as error:
                place, held = error.pos - self._place, len(self._held) - self._place
                cut = error.msg.startswith("Unterminated string") or held - place <= LONGEST_SIGN
                if cut and held > MAX_LINE:
                    self._refuse_large()
                if not cut or not self._more():
                    self._advance(place)
                    self._fail(f"not JSON: {escaped(error.msg)}; {SHAPE}")
            except DataError as error:
                self._fail(error.message)
            except RecursionError:
                self._fail("nested too deeply; flatten it")
            except ValueError:  # Python refuses numbers of more than 4,300 digits
                self._fail("a number with too many digits; write it in quotes")
        content = self._held[self._place : end]
        if len(content) > MAX_LINE:
            self._refuse_large()
        try:
            check_values(content)
            record: Record = checked(value, content)
        except DataError as error:
            self._fail(error.message)
        self._advance(end - self._place)
        return record, content

    def _refuse_large(self) -> None:
        self._fail(f"an object of more than {MAX_LINE:,} characters begins here; {self._shape_of()}")

    def _refuse_nested(self, record: Record, line: int) -> None:
        """Refuse a file of one object that contains the rows."""
        texts = (value for key, value in record.items() if key.strip().lower() in USUAL)
        if _is_task(record) or any(not isinstance(value, list | dict) for value in texts):
            return
        keys = [key for key, value in record.items() if isinstance(value, list | dict) and value]
        for key in keys:
            value = record[key]
            rows = isinstance(value, list) and all(isinstance(row, dict) for row in value)
            if rows:
                found = f"is one object, whose {shown(key)} is the array of rows"
                problem = f"{found}; save that alone: {_jq(key)}"
                raise DataError(problem, file=self._source.name, line=line)
        if keys and len(keys) == len(record):
            found = f"is one object with the columns or rows {listed(record, most=4, quoted=True)}"
            raise DataError(
                f"{found}; {SHAPE}: pandas writes it with orient='records'", file=self._source.name, line=line
            )

    def _shape_of(self) -> str:
        """Return the hint for a large object, which may contain the rows."""
        found = _NESTED.match(self._held, self._place)
        if found and found[2] == "[":
            return f"if its {shown(found[1])} is the array of rows, save that alone: {_jq(found[1])}"
        return SHAPE

    def _excerpt(self) -> str:
        return self._held[self._place : self._place + 20].split("\n")[0].rstrip()

    def _fail(self, problem: str) -> None:
        raise DataError(f"at column {self._column}: {problem}", file=self._source.name, line=self._line)


def _jq(key: str) -> str:
    return f"jq '.{escaped(key)}' OLD > NEW.json" if key.isidentifier() else "jq does it"


class _Flattened:
    """Flattens Label Studio tasks; other records are unchanged.

    Columns are the task's data and, for each control, the choice, or the list if there are several, by one
    annotator or more. Skipped annotations are ignored; if there is a ground truth, all others are.

    >>> value = {"choices": ["Positive"]}
    >>> _Flattened()({"id": 7, "data": {"text": "so good"}, "annotations": [
    ...     {"result": [{"from_name": "sentiment", "type": "choices", "value": value}]}]})
    {'text': 'so good', 'sentiment': 'Positive'}
    """

    def __init__(self) -> None:
        self._controls: dict[str, None] = {}

    def __call__(self, record: Record) -> Record:
        """Return a record."""
        if not _is_task(record):
            return record
        data, annotations = record["data"], record.get("annotations") or record.get("completions") or []
        made = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
        made = [one for one in made if one.get("ground_truth")] or made
        chosen: dict[str, list[Any]] = {}
        for control, choice in itertools.chain.from_iterable(map(_choices, made)):
            known = chosen.setdefault(control, [])
            known += [choice] if choice not in known else []
            if len(self._controls) < MOST_CONTROLS:  # tasks without annotations get these columns too
                self._controls[control] = None
        labels = {control: of[0] if len(of) == 1 else of for control, of in chosen.items()}
        return {**data, **dict.fromkeys(self._controls), **labels}


def _is_task(record: Record) -> bool:
    """Whether a record is a Label Studio task with annotations (completions in old versions)."""
    annotations = record.get("annotations", record.get("completions"))
    return isinstance(record.get("data"), dict) and isinstance(annotations, list)


def _choices(annotation: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the control and the value of each choice and rating of an annotation."""
    results = annotation.get("result")
    for result in results if isinstance(results, list) else ():
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(value, dict):
            control, choices = str(result.get("from_name", "label")), value.get("choices")
            yield from ((control, choice) for choice in (choices if isinstance(choices, list) else ()))
            if isinstance(value.get("rating"), int | float):
                yield control, value["rating"]
