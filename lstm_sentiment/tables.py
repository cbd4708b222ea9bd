"""Rows to files, in chunks: CSV, TSV, JSON lines, Parquet, plain or compressed."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pandas as pd

from lstm_sentiment.errors import DataError
from lstm_sentiment.readers import as_text
from lstm_sentiment.sources import compression_of, format_of, open_binary

Write = Callable[[pd.DataFrame], None]


@contextlib.contextmanager
def open_table(name: str) -> Iterator[Write]:
    """Yield a function that appends a frame's rows to a new file; the file appears when all is written.

    Args:
        name: a path whose ending tells the format, as in `readers`.

    Raises:
        DataError: no such format or folder, or a value that the format cannot hold.
    """
    path, ending = Path(name).expanduser(), format_of(name)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with contextlib.ExitStack() as stack:
            if ending == ".parquet":
                yield _parquet_writer(beside, name, stack)
            else:
                raw = stack.enter_context(open_binary(beside, compression_of(name), "wb"))
                out = stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", newline=""))
                yield _jsonl_writer(out) if ending == ".jsonl" else _delimited_writer(out, ending)
        beside.replace(path)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", file=name) from None
    finally:
        beside.unlink(missing_ok=True)


def to_json_line(record: Mapping[Any, Any]) -> str:
    """Return a record as one line of JSON; dates and other stored types as text.

    >>> to_json_line({"text": "so-so", "n": 1})
    '{"text": "so-so", "n": 1}'
    """
    return json.dumps({str(key): value for key, value in record.items()}, ensure_ascii=False, default=str)


def _jsonl_writer(out: IO[str]) -> Write:
    def write(frame: pd.DataFrame) -> None:
        out.writelines(to_json_line(record) + "\n" for record in frame.to_dict("records"))

    return write


def _delimited_writer(out: IO[str], ending: str) -> Write:
    first = True

    def write(frame: pd.DataFrame) -> None:
        nonlocal first
        texts = frame.map(lambda v: json.dumps(v) if isinstance(v, dict | list) else as_text(v))
        texts.to_csv(
            out, sep="\t" if ending == ".tsv" else ",", index=False, header=first, lineterminator="\n"
        )
        first = False

    return write


def _parquet_writer(path: Path, name: str, stack: contextlib.ExitStack) -> Write:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None

    def write(frame: pd.DataFrame) -> None:
        nonlocal writer
        try:
            schema = writer.schema if writer else None
            table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
        except (pa.ArrowException, KeyError) as error:
            raise DataError(f"{error}; write .jsonl instead", file=name) from None
        if writer is None:
            writer = stack.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
        writer.write_table(table)

    return write
