"""Writes a copy of labelled data with the decisions of a reviewed table of suspects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lstm_sentiment.config.sections import DataConfig, class_folders, code_of, only_excludes, sources
from lstm_sentiment.data.formats.readers import (
    HEADED,
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    Chunk,
    column_labels,
    column_texts,
    columns_of,
    pick_column,
    read_chunks,
    text_hash,
)
from lstm_sentiment.data.formats.writers import filled, open_table
from lstm_sentiment.data.review.decisions import DROP, Reviewed, read_suspects
from lstm_sentiment.data.sources.names import format_of
from lstm_sentiment.data.sources.sources import Source, open_source
from lstm_sentiment.errors import DataError, Problems, did_you_mean, listed, shown
from lstm_sentiment.system.files import local_path

if TYPE_CHECKING:
    import pandas as pd

Key = tuple[int, int, int]  # place of a row's file in the source, line, hash of the text


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What a fixed copy changed.

    Args:
        rows: of the copy.
        dropped: rows that were left out.
        relabelled: rows with another label than in the data.
        of_others: rows of the table that are of other files, and were ignored.
    """

    rows: int
    dropped: int
    relabelled: int
    of_others: int


def write_fixed_copy(data: DataConfig, suspects: str, out: str, *, encoding_errors: str = "strict") -> Copied:
    """Write a copy of `data.train` in which decided rows are dropped or have their right label.

    All other cells keep their values. Several files become one table. Nothing is written if a decision or a
    row does not fit.

    Args:
        data: file, columns, labels and how the file is read.
        suspects: the reviewed table.
        out: a table, in the format of its name.
        encoding_errors: strict, since the copy would have U+FFFD in place of invalid bytes.

    Raises:
        DataError: a decision that is neither ``drop`` nor a label; a table of other data; `out` is one of the
            files that are read; with file, line and column.

    Example::

        write_fixed_copy(DataConfig(train="reviews.csv"), "suspects.csv", "fixed.csv")
    """
    _refuse_overwriting(out, *sources(data.train), suspects)
    reviewed = read_suspects(suspects)
    reading = {name: getattr(data, name) for name in ("encoding", "quoting", "header", "sheet")}
    with open_source(data.train, **reading, encoding_errors=encoding_errors) as source:
        _refuse_overwriting(out, *(str(file.path) for file in source.files))
        here = _of_files(reviewed, source, suspects)
        values, keys = _look_through(source, data, {key for key, _ in here})
        decisions = _decisions(here, values, keys, suspects, source)
        like = source.path if source.format == ".parquet" else None
        columns = None if format_of(out) in (".jsonl", ".json") else columns_of(source)
        header = source.header or source.format not in HEADED
        rows = relabelled = 0
        with open_table(out, like=like, header=header) as write:
            for frame, changed in _fixed(source, data, decisions):
                write(frame if columns is None else filled(frame, columns))
                rows, relabelled = rows + len(frame), relabelled + changed
    return Copied(
        rows=rows,
        dropped=sum(keys[key] for key, decision in decisions.items() if decision is DROPPED),
        relabelled=relabelled,
        of_others=len(reviewed) - len(here),
    )


class _Dropped:
    """Marks a row to leave out, distinct from any label."""


DROPPED = _Dropped()


def _refuse_overwriting(out: str, *read: str) -> None:
    """Refuse to replace a file that is read."""
    written = local_path(out)
    for name in read:
        same = "://" not in name and written.resolve() == local_path(name).resolve()
        if same or (written.exists() and Path(name).exists() and written.samefile(name)):
            raise DataError("is read by this command and is not overwritten; name another --out", file=out)


def _of_files(reviewed: Sequence[Reviewed], source: Source, suspects: str) -> list[tuple[Key, Reviewed]]:
    """Return the rows of a table that are of the data: by the name of a file, or else by its last part."""
    names = [file.name for file in source.files]
    for shorten in (str, lambda name: Path(name).name):
        of_name = {shorten(name): n for n, name in enumerate(names)}
        of_rows = [(of_name.get(shorten(row.source)), row) for row in reviewed]
        here = [((n, row.line, row.hash), row) for n, row in of_rows if n is not None]
        if here or not reviewed:
            return here
    found = listed(dict.fromkeys(row.source for row in reviewed), most=3, quoted=True)
    problem = f"has no row of {source.name}, but of {found}; name one of these as the data"
    raise DataError(problem, file=suspects)


def _look_through(source: Source, data: DataConfig, wanted: set[Key]) -> tuple[dict[str, Any], Counter[Key]]:
    """Return a stored value for each label and class name, and how many rows have each wanted key."""
    values: dict[str, Any] = {}
    of_classes: dict[str, Any] = {}
    keys: Counter[Key] = Counter()
    for chunk in read_chunks(source, classes=_folders(source, data)):
        texts, labels, column = _cells(chunk, data)
        keys.update(key for key in _keys(chunk, texts) if key in wanted)
        for label, value in zip(labels, chunk.frame[column], strict=True):
            if label not in values:
                values[label] = value
                name = class_of(label, data.labels)
                if name is not None:
                    of_classes.setdefault(name, value)
    return of_classes | values, keys


def class_of(label: str, labels: Sequence[str] | Mapping[Any, str | None] | None) -> str | None:
    """Return the class name of a label in a file, None if `data.labels` leaves it out or does not know it.

    >>> class_of("4.0", {"4": "good"}), class_of("4.0", None), class_of("meh", {"meh": None})
    ('good', '4', None)
    """
    if isinstance(labels, Mapping):
        by_code = {code_of(str(code)): name for code, name in labels.items()}
        if code_of(label) in by_code or not only_excludes(labels):
            return by_code.get(code_of(label))
    return label if label.isalpha() else code_of(label)


def _decisions(
    here: Sequence[tuple[Key, Reviewed]],
    values: Mapping[str, Any],
    keys: Mapping[Key, int],
    suspects: str,
    source: Source,
) -> dict[Key, Any]:
    """Return the stored value to write for each decided row, or `DROPPED`.

    Raises:
        DataError: what does not fit, row by row.
    """
    problems = Problems[DataError]()
    if any(of.casefold() == DROP for of in values):
        problem = f"has the label {shown(DROP)}, which in a table of suspects removes a row; rename it"
        raise DataError(problem, file=source.name)
    found: dict[Key, Any] = {}
    for key, row in here:
        if key not in keys:
            name = source.files[key[0]].name
            problem = f"{name} has another text at line {row.line}; name the file that was examined"
            problems.add(DataError(problem, file=suspects, line=row.at, column="text_hash"))
            continue
        if not row.decision:
            continue
        value: Any = DROPPED
        if row.decision.casefold() != DROP:
            if row.decision not in values:
                hint = did_you_mean(row.decision, [DROP, *values])
                problem = (
                    f"{shown(row.decision)} is neither {DROP} nor one of {listed(filter(None, values))}; "
                    f"correct it, or leave it empty.{hint}"
                )
                problems.add(DataError(problem, file=suspects, line=row.at, column="decision"))
                continue
            value = values[row.decision]
        if key in found and found[key] != value:
            problem = "another row of this table decides differently on the same row; remove one"
            problems.add(DataError(problem, file=suspects, line=row.at, column="decision"))
        found[key] = value
    problems.raise_any()
    return found


def _fixed(
    source: Source, data: DataConfig, decisions: Mapping[Key, Any]
) -> Iterator[tuple[pd.DataFrame, int]]:
    """Yield the rows that stay, and how many of them have a new label."""
    for chunk in read_chunks(source, classes=_folders(source, data)):
        texts, _, column = _cells(chunk, data)
        keys = _keys(chunk, texts)
        keep = np.array([decisions.get(key) is not DROPPED for key in keys], bool)
        frame, changed = chunk.frame, 0
        decided = [place for place, key in enumerate(keys) if keep[place] and key in decisions]
        if decided:
            cells = frame[column].tolist()
            for place in decided:
                before, cells[place] = cells[place], decisions[keys[place]]
                changed += before != cells[place]
            frame = frame.assign(**{column: _as_column(cells, frame)})
        yield frame[keep], changed


def _as_column(cells: list[Any], frame: pd.DataFrame) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(cells, index=frame.index, dtype=object)


def _cells(chunk: Chunk, data: DataConfig) -> tuple[list[str], list[str], str]:
    """Return texts and labels of some rows, and the column of the labels."""
    columns = [str(column) for column in chunk.frame.columns]
    text, label = (
        pick_column(wanted, columns, candidates=candidates, key=f"data.{kind}_column", file=chunk.file)
        for kind, wanted, candidates in (
            ("text", data.text_column, TEXT_COLUMNS),
            ("label", data.label_column, LABEL_COLUMNS),
        )
    )
    return column_texts(chunk, text, chunk.file), column_labels(chunk, label, chunk.file), label


def _folders(source: Source, data: DataConfig) -> list[str] | None:
    """Return the class folders that training reads of a folder, None for all and for files."""
    folders = class_folders(data.labels) if source.format == "folder" else None
    return list(folders) if folders else None


def _keys(chunk: Chunk, texts: Sequence[str]) -> list[Key]:
    lines = chunk.lines.tolist()
    return [(chunk.shard, line, text_hash(text)) for line, text in zip(lines, texts, strict=True)]
