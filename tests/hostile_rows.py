"""Hostile tables: a few kilobytes that unpack to gigabytes, and pickles.

Attacks as in `attacks`, on training rows.
"""

from __future__ import annotations

import functools
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from attacks import Attack, Place, pickled, put

SHEET = "xl/worksheets/sheet1.xml"
HEADER = (
    '<row r="1"><c t="inlineStr"><is><t>text</t></is></c><c t="inlineStr"><is><t>label</t></is></c></row>'
)
CELL = '<c t="inlineStr"><is><t>so</t></is></c>'


@functools.cache
def workbook_parts() -> dict[str, bytes]:
    """Return the parts of a valid workbook."""
    import openpyxl

    out = io.BytesIO()
    book = openpyxl.Workbook()
    book.active.append(["text", "label"])
    book.save(out)
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: dict[str, Callable[[Any], None] | bytes]) -> bytes:
    """Return a zip archive; functions write their members in chunks."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            with archive.open(name, "w", force_zip64=True) as member:
                content(member) if callable(content) else member.write(content)
    return out.getvalue()


def repeated(piece: bytes, times: int) -> Callable[[Any], None]:
    def write(member: Any) -> None:
        for _ in range(times):
            member.write(piece)

    return write


def workbook(rows: str = "", times: int = 1, **parts: Any) -> Callable[[Place], None]:
    """Return an attack: a workbook with many repeated rows after the header, or with other parts."""

    def make(place: Place) -> None:
        def sheet(member: Any) -> None:
            member.write(
                b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
            )
            member.write(HEADER.encode())
            repeated(rows.encode(), times)(member)
            member.write(b"</sheetData></worksheet>")

        named = {name.replace("__", "/").replace("_xml", ".xml"): part for name, part in parts.items()}
        put("rows.xlsx", archive_of({**workbook_parts(), SHEET: sheet, **named}), signed=False)(place)

    return make


def zipped(members: dict[str, Any]) -> Callable[[Place], None]:
    return lambda place: put("rows.zip", archive_of(members), signed=False)(place)


def feather(batch: Callable[[], pa.RecordBatch]) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        out, found = io.BytesIO(), batch()
        with pa.ipc.new_file(out, found.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_batch(found)
        put("rows.feather", out.getvalue(), signed=False)(place)

    return make


def broken_offsets(place: Place) -> None:
    """A batch whose text offsets exceed its buffer: reading a text would be out of bounds."""
    batch, out = pa.record_batch({"text": ["so good", "so bad"], "label": ["a", "b"]}), io.BytesIO()
    with pa.ipc.new_file(out, batch.schema) as writer:
        writer.write_batch(batch)
    ends, beyond = (struct.pack("<3i", 0, 7, end) for end in (13, 1 << 30))
    assert ends in out.getvalue()
    put("rows.feather", out.getvalue().replace(ends, beyond), signed=False)(place)


def run_ends() -> pa.RecordBatch:
    texts = pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 2], pa.int32()), pa.array(["so"]))
    return pa.RecordBatch.from_arrays([texts, texts], ["text", "label"])


def row_attacks() -> Iterator[Attack]:
    for ending in ("xlsx", "zip", "json", "jsonl", "feather", "txt"):
        yield Attack(f"rows as {ending}", pickled(f"rows.{ending}", "pickle"), f"rows.{ending}", "rows")
    entities = '<!DOCTYPE a [<!ENTITY a "' + "a" * 1000 + '">' + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 100}">' for before, name in zip("abcde", "bcdef", strict=True)
    ) + "]>"  # fmt: skip
    bomb = f"{entities}<worksheet><sheetData><row><c><v>&f;</v></c></row></sheetData></worksheet>".encode()
    sheets: dict[str, tuple[Callable[[Place], None], str]] = {
        "of 200 MB": (workbook(f"<row>{CELL * 2}</row>" * 1000, 2_000), "unpacks to"),
        "with a row of 100 MB": (workbook("a" * (1 << 20), 100), "unpacks to"),
        "with a row of a million cells": (workbook(f"<row>{CELL * 1_000_000}</row>"), "elements in one row"),
        "with a long row": (workbook(f"<row><c><v>{'1' * (6 << 20)}</v></c></row>"), "bytes in one row"),
        "with a row far down": (workbook(f'<row r="4000000000">{CELL}</row>'), "rows or texts"),
        "with entities": (workbook(**{SHEET.replace("/", "__").replace(".xml", "_xml"): bomb}), "entities"),
        "with many styles": (workbook(xl__styles_xml=repeated(b"<a/>" * 1000, 20_000)), "unpacks to"),
        "that is no XML": (workbook(xl__workbook_xml=b"\0" * 1000), "not a readable Excel workbook"),
    }
    for name, (make, says) in sheets.items():
        yield Attack(f"a workbook {name}", make, says, "rows")
    line = {"rows.csv": repeated(b" " * (1 << 20), 400)}
    yield Attack("an archive of a line of 400 MB", zipped(line), "longer than", "rows")
    up = {"../../outside.csv": b"text,label\nso,a\n", "/outside.csv": b"text,label\nso,a\n"}
    yield Attack("an archive that leads out", zipped(up), "holds 2 files", "rows")
    many = {f"{number}.csv": b"" for number in range(80_000)}
    yield Attack("an archive of many files", zipped(many), "too many files", "rows")
    batches: dict[str, Callable[[], pa.RecordBatch]] = {
        "of 400 MB": lambda: pa.record_batch({"text": pa.array(["\0" * (1 << 20)] * 400, pa.large_string())}),
        "of a repeated text": run_ends,
        "of nothing": lambda: pa.record_batch({"text": pa.nulls(10**9), "label": pa.nulls(10**9)}),
    }
    for name, batch in batches.items():
        yield Attack(f"a batch {name}", feather(batch), "a batch (has|decompresses to)", "rows")
    yield Attack("a batch with broken offsets", broken_offsets, "not a readable Feather file", "rows")
    jsons = {
        "an array in arrays": "[" * 1_000_000,
        "an object in objects": '[{"text": ' * 100_000,
        "an array without an end": '[{"text": "so"},' * 300_000,
        "a number of many digits": '[{"text": ' + "9" * 1_000_000 + "}]",
        "a text without an end": json.dumps([{"text": "so " * 7_000_000}])[:-3],
    }
    for name, content in jsons.items():
        yield Attack(
            f"JSON: {name}", put("rows.json", content, signed=False), r"rows.json:1: at column", "rows"
        )
    long = put("rows.txt", "__label__" + "a" * (20 << 20), signed=False)
    yield Attack("a label of fastText 20 MB long", long, "longer than", "rows")
