"""``python memory_runner.py FOLDER CASE ...``: reads files that unpack to large sizes and measures memory.

Writes ``FOLDER/results.json``: name of a case -> peak memory growth in bytes, rows read, and the message if
refused. Cases named "control: ..." read such a file without bounds.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

from lstm_sentiment.data.formats.readers import read_chunks
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError

WORDS = "word " * 200_000  # a megabyte
ROWS = 120


def packed(name: str, *parts: str, times: int = ROWS, last: str = "") -> Callable[[Path], Path]:
    """Return a function that writes a zstd file: a first part, a repeated part, and a last part."""

    def make(folder: Path) -> Path:
        first, *others = (part.encode() for part in parts)
        with pa.output_stream(folder / name, compression="zstd") as out:
            out.write(first)
            for _ in range(times):
                for part in others:
                    out.write(part)
            out.write(last.encode())
        return folder / name

    return make


def parquet(name: str, columns: Callable[[], dict[str, Any]], **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        pq.write_table(pa.table(columns()), folder / name, compression="zstd", **options)
        return folder / name

    return make


def arrow(name: str, columns: Callable[[], dict[str, Any]], **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        feather.write_feather(pa.table(columns()), folder / name, compression="zstd", **options)
        return folder / name

    return make


def in_zip(folder: Path) -> Path:
    """A table in a zip archive: 220 kB."""
    with (
        zipfile.ZipFile(folder / "rows.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("rows.csv", "w") as out,
    ):
        out.write(b"text,label\n")
        for _ in range(ROWS):
            out.write(f"{WORDS},positive\n".encode())
    return folder / "rows.zip"


SHEET = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
BOOK_PARTS = {
    "[Content_Types].xml": (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Override '
        'PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.'
        'spreadsheetml.sheet.main+xml"/><Override PartName="/xl/sharedStrings.xml" ContentType="application/'
        'vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"/></Types>'
    ),
    "_rels/.rels": (
        f'<Relationships xmlns="{PACKAGE}"><Relationship Id="rId1" Type="{OFFICE}/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>'
    ),
    "xl/workbook.xml": (
        f'<workbook {SHEET} xmlns:r="{OFFICE}"><sheets><sheet name="rows" sheetId="1" r:id="rId1"/></sheets>'
        "</workbook>"
    ),
    "xl/_rels/workbook.xml.rels": (
        f'<Relationships xmlns="{PACKAGE}"><Relationship Id="rId1" Type="{OFFICE}/worksheet" '
        'Target="worksheets/sheet1.xml"/></Relationships>'
    ),
}


def workbook(name: str, row: str, rows: int, text: str = "", texts: int = 0) -> Callable[[Path], Path]:
    """Return a function that writes a workbook: a header, a repeated row, and texts for its cells.

    In the row and the text, `{}` is their number.
    """

    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for part, content in BOOK_PARTS.items():
                archive.writestr(part, content)
            with archive.open("xl/sharedStrings.xml", "w") as out:
                out.write(f"<sst {SHEET}>".encode())
                out.writelines(f"<si><t>{text.format(number)}</t></si>".encode() for number in range(texts))
                out.write(b"</sst>")
            with archive.open("xl/worksheets/sheet1.xml", "w") as out:
                header = '<row r="1"><c t="inlineStr"><is><t>text</t></is></c></row>'
                out.write(f"<worksheet {SHEET}><sheetData>{header}".encode())
                out.writelines(row.format(number).encode() for number in range(2, rows + 2))
                out.write(b"</sheetData></worksheet>")
        return folder / name

    return make


def distinct(count: int) -> list[str]:
    return [f"{i} {WORDS}" for i in range(count)]


def other_keys(folder: Path) -> Path:
    """JSON lines in which each row has different keys: 450 kB."""
    lines = (json.dumps({"text": "so", **{f"k{i}_{j}": 1 for j in range(6)}}) for i in range(5000))
    (folder / "keys.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "keys.jsonl"


def other_keys_in_an_array(folder: Path) -> Path:
    objects = other_keys(folder).read_text().splitlines()
    (folder / "keys.json").write_text("[" + ",".join(objects) + "]")
    return folder / "keys.json"


def trees(folder: Path) -> Path:
    """A tree of 30,000 nested words."""
    tree = "".join(f"(2 (2 w{i}) " for i in range(30_000)) + "(2 w)" + ")" * 30_000
    (folder / "deep.txt").write_text(f"{tree}\n")
    return folder / "deep.txt"


def many_trees(folder: Path) -> Path:
    tree = f"(2 (1 {'a' * 1_000_000}) (3 b))\n"
    (folder / "many.txt").write_text(tree * 100)
    return folder / "many.txt"


def text_files(folder: Path) -> Path:
    """Class folders with texts of a megabyte, all hard links to one file."""
    for name in ("bad", "good"):
        (folder / "texts" / name).mkdir(parents=True)
        (folder / "texts" / name / "0.txt").write_text(WORDS)
        for i in range(1, 60):
            (folder / "texts" / name / f"{i}.txt").hardlink_to(folder / "texts" / name / "0.txt")
    return folder / "texts"


def endless_file(folder: Path) -> Path:
    """Class folders with a sparse file of 2 GB."""
    (folder / "sparse" / "good").mkdir(parents=True)
    with (folder / "sparse" / "good" / "0.txt").open("wb") as file:
        file.truncate(2 << 30)
    return folder / "sparse"


Make = Callable[[Path], Path]
FILES: dict[str, Make] = {
    "csv": packed("rows.csv.zst", "text,label\n", f"{WORDS},positive\n"),
    "tsv": packed("rows.tsv.zst", "text\tlabel\n", f"{WORDS}\tpositive\n"),
    "csv of lines": packed("lines.csv.zst", "text,label\n", f'"{WORDS}\n",positive\n'),
    "csv of emoji": packed("emoji.csv.zst", "text,label\n", f"😀{WORDS},positive\n", times=40),
    "csv of another column": packed("other.csv.zst", "text,other\n", f"so,{WORDS}\n"),
    "csv of blank lines": packed("blank.csv.zst", "text,label\nso,a\n", "\n" * 100_000, times=2),
    "csv of 9,999 columns": packed(
        "wide.csv.zst", f"text{''.join(f',c{i}' for i in range(9_998))}\n", f"so{',1' * 9_998}\n", times=60
    ),
    "csv of a million columns": packed("columns.csv.zst", "text" + ",c" * 1_000_001 + "\n", times=0),
    "csv of a row without end": packed("open.csv.zst", 'text,label\n"', f"{WORDS}\n"),
    "csv of many swallowed lines": packed("in.csv.zst", 'text,label\n"', "a,\n" * 250_000, '",b\n', times=1),
    "json lines": packed("rows.jsonl.zst", "", f'{{"text": "{WORDS}"}}\n'),
    "json lines of other keys": other_keys,
    "json lines of numbers": packed(
        "n.jsonl.zst", "", f'{{"text": "", "x": [{"1.5," * 200_000}1]}}\n', times=20
    ),
    "json lines of lists": packed("l.jsonl.zst", "", f'{{"text": "", "x": [{"[]," * 10**6}1]}}\n', times=3),
    "json lines of a million keys": packed(
        "object.jsonl.zst", '{"text": "so"', *(f', "{i}": 1' for i in range(200_000)), "}\n", times=1
    ),
    "an array of objects": packed("rows.json.zst", '[{"text": "so"}', f',\n{{"text": "{WORDS}"}}', last="]"),
    "an array of objects of other keys": other_keys_in_an_array,
    "an array of lists": packed("l.json.zst", "[", f'{{"text": "", "x": [{"[]," * 400_000}1]}}', times=1),
    "an array of an object without end": packed("o.json.zst", '[{"text": "', WORDS),
    "lines with labels": packed("labels.txt.zst", "", f"__label__positive {WORDS}\n"),
    "lines without labels": packed("lines.txt.zst", "", f"{WORDS}\n"),
    "a table in a zip archive": in_zip,
    "a deep tree": trees,
    "many trees": many_trees,
    "a folder": text_files,
    "a folder of a file without end": endless_file,
    "parquet": parquet(
        "rows.parquet", lambda: {"text": distinct(ROWS)}, use_dictionary=False, row_group_size=20
    ),
    "parquet in one page": parquet("page.parquet", lambda: {"text": distinct(100)}, use_dictionary=False),
    "parquet of a dictionary": parquet("dictionary.parquet", lambda: {"text": [WORDS] * ROWS}),
    "parquet of categories": parquet(
        "categories.parquet",
        lambda: {"text": pa.array(distinct(100)).dictionary_encode()},
        use_dictionary=False,
    ),
    "parquet of a long list": parquet(
        "list.parquet", lambda: {"text": ["so"] * 2, "x": [[0.5] * 3_000_000, [1.5]]}, use_dictionary=False
    ),
    "parquet of many lists": parquet(
        "many.parquet", lambda: {"text": ["so"] * 12_000, "x": [[i / 7] * 300 for i in range(12_000)]}
    ),
    "feather": arrow("rows.feather", lambda: {"text": distinct(ROWS)}, chunksize=20),
    "feather in one batch": arrow("batch.feather", lambda: {"text": distinct(220)}),
    "feather of a dictionary": arrow(
        "dictionary.feather", lambda: {"text": pa.array([WORDS] * ROWS).dictionary_encode()}
    ),
    "feather of a long list": arrow(
        "list.feather", lambda: {"text": ["so"] * 2, "x": [[0.5] * 3_000_000, [1.5]]}
    ),
    "a workbook": workbook(
        "rows.xlsx", '<row r="{0}"><c t="s"><v>{0}</v></c></row>', 1_700, "{} " + WORDS[:30_000], 2_000
    ),
    "a workbook of many rows": workbook("heights.xlsx", '<row r="{}" ht="15"><c><v>1</v></c></row>', 50_000),
    "a workbook of many texts": workbook(
        "texts.xlsx", '<row r="{0}"><c t="s"><v>{0}</v></c></row>', 5_000, "{}", 200_000
    ),
    "parquet of lists of a dictionary": parquet(
        "listed.parquet", lambda: {"text": ["so"] * 30, "x": [[WORDS] * 10] * 30}
    ),
}


def read(file: Path) -> int:
    """Read a file by chunks; return its rows."""
    labelled = file.name != "lines.txt.zst"
    with open_source(str(file), encoding_errors="replace") as source:
        return sum(len(chunk.frame) for chunk in read_chunks(source, labelled=labelled))


def read_by_rows(file: Path) -> int:
    """Read 5,000 rows at a time, whatever their size."""
    if file.suffix == ".parquet":
        return sum(len(batch) for batch in pq.ParquetFile(file).iter_batches(batch_size=5_000))
    with pa.input_stream(str(file), compression="zstd") as stream:
        return sum(len(frame) for frame in pd.read_csv(stream, chunksize=5_000))


def memory(field: str) -> int:
    """Return a memory field of the process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def cases(folder: Path, names: list[str]) -> Iterator[tuple[str, Callable[[], int]]]:
    for name in names:
        file = FILES[name](folder)
        yield name, lambda file=file: read(file)
        if name in ("csv", "parquet of a dictionary"):
            yield f"control: {name}", lambda file=file: read_by_rows(file)


def measured(read_all: Callable[[], int]) -> dict[str, Any]:
    pa.default_memory_pool().release_unused()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what earlier files have left is used again, and does not count
    Path("/proc/self/clear_refs").write_text("5")  # resets peak memory
    before = memory("VmRSS")
    rows, said = 0, None
    try:
        rows = read_all()
    except DataError as error:
        said = str(error)
    return {"grown": memory("VmHWM") - before, "rows": rows, "said": said}


def main(folder: Path, names: list[str]) -> None:
    (folder / "small.csv").write_text("text,label\nso good,positive\n")
    small = workbook("small.xlsx", '<row r="{}"><c><v>1</v></c></row>', 1)(folder)
    for file in (folder / "small.csv", small):  # warm-up: imports are not counted
        read(file)
    results = {name: measured(read_all) for name, read_all in cases(folder, names)}
    (folder / "results.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
