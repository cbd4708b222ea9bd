"""Golden tests of bad and unusual input: the exact message, or the parsed content, of each case.

Inputs are the files ``tests/corpus/GROUP/CASE.*``; inputs other than plain text (bytes, Parquet, pipes, long
lines) are created by `MADE`. Expected outputs are in ``tests/corpus/GROUP.golden``, case by case. To rewrite
the golden files and review the difference:

    REWRITE_GOLDENS=1 python -m pytest tests/test_bad_input.py && git diff tests/corpus
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import TINY, time_limit
from pyarrow import feather

from lstm_sentiment import __version__, evaluate, predict, train
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.schema import Config, flatten
from lstm_sentiment.data.formats.readers import read_chunks
from lstm_sentiment.data.sources.sources import MAX_LINE, open_source
from lstm_sentiment.experiment import train as experiment

CORPUS = Path(__file__).parent / "corpus"
HEADER, GOOD, BAD = b"text,label\n", b"a fine film,positive\n", b"a dull film,negative\n"
TEXTS = {"text": ["a fine film", "a dull film"], "label": ["positive", "negative"]}
Make = Callable[[Path], Path]


def content(name: str, data: bytes | Callable[[], bytes]) -> Make:
    """Return a function that writes a file into a folder; what is slow to make is made there."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data() if callable(data) else data)
        return folder / name

    return make


def empty_folder(folder: Path) -> Path:
    (folder / "nothing").mkdir()
    return folder / "nothing"


def table(name: str, rows: bytes, end: bytes = BAD) -> Make:
    return content(f"{name}.csv", HEADER + rows + end)


def parquet_bytes(columns: dict[str, Any] | pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), out, **options)
    return out.getvalue()


def parquet(name: str, columns: dict[str, Any], **options: Any) -> Make:
    return content(f"{name}.parquet", lambda: parquet_bytes(columns, **options))


def flipped_parquet() -> bytes:
    """Return a file whose pages have checksums, with one bit of a text flipped."""
    whole = parquet_bytes(
        TEXTS, compression="none", use_dictionary=False, write_page_checksum=True, write_statistics=False
    )
    place = whole.index(b"fine film")
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


def without_page_header() -> bytes:
    """Return a file whose first page has no header."""
    whole = parquet_bytes(TEXTS, compression="none", use_dictionary=False)
    return whole[:4] + b"\xff" * 8 + whole[12:]


def not_utf_8() -> pa.Array:
    ends = pa.array([0, 3, 4], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(pa.string(), 2, [None, ends, pa.py_buffer(b"a\xffbc")])


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return out.getvalue()


def workbook(name: str, sheets: int = 1, **cells: str) -> Make:
    """Return a function that writes a workbook of some sheets with the same rows, some cells changed."""

    def make(folder: Path) -> Path:
        book = openpyxl.Workbook(write_only=True)
        for number in range(sheets):
            sheet = book.create_sheet(f"sheet {number + 1}")
            for row in [list(TEXTS), *zip(*TEXTS.values(), strict=True)]:
                sheet.append([cells.get(value, value) for value in row] + [cells.get(f"behind {row[1]}")])
        book.save(folder / f"{name}.xlsx")
        return folder / f"{name}.xlsx"

    return make


def archive(name: str, *members: str, flags: int = 0) -> Make:
    """Return a function that writes a zip archive of tables, with `flags` set in its headers."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for member in members:
            packed.writestr(member, HEADER + GOOD + BAD)
    data = bytearray(out.getvalue())
    if flags:
        data[data.index(b"PK\x01\x02") + 8] |= flags
    return content(name, bytes(data))


def feather_bytes(compression: str = "zstd", **columns: Any) -> bytes:
    out = io.BytesIO()
    feather.write_feather(pa.table(columns or TEXTS), out, compression=compression)
    return out.getvalue()


def link(name: str, target: str) -> Make:
    def make(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return make


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.csv")
    return folder / "pipe.csv"


def class_folders(folder: Path) -> Path:
    """Class folders with a named pipe and a folder instead of texts, and a text that is not UTF-8."""
    for name in ("negative", "positive"):
        (folder / "classes" / name).mkdir(parents=True)
        (folder / "classes" / name / "1.txt").write_bytes(b"caf\xe9" if name == "positive" else b"so bad")
    os.mkfifo(folder / "classes" / "positive" / "2.txt")
    (folder / "classes" / "positive" / "3.txt").mkdir()
    return folder / "classes"


def no_permission(folder: Path) -> Path:
    file = content("secret.csv", HEADER + GOOD + BAD)(folder)
    file.chmod(0)
    return file


def endless_texts(folder: Path) -> Path:
    """Class folders with a sparse file of a gigabyte."""
    for name in ("negative", "positive"):
        (folder / "endless" / name).mkdir(parents=True)
        (folder / "endless" / name / "1.txt").write_bytes(b"so bad")
    with (folder / "endless" / "positive" / "2.txt").open("wb") as file:
        file.truncate(1 << 30)
    return folder / "endless"


WORDS = ["NA", "null", "None", "nan", "", "007", "1e5", "True", "-inf", "=1+1", "2020-01-01"]
MADE: dict[str, Make] = {
    "tables/cr_only": content("cr_only.csv", (HEADER + GOOD + BAD).replace(b"\n", b"\r")),
    "tables/crlf": content("crlf.csv", (HEADER + GOOD + BAD).replace(b"\n", b"\r\n")),
    "tables/mixed_line_ends": content("mixed_line_ends.csv", HEADER + GOOD[:-1] + b"\r\n" + BAD[:-1] + b"\r"),
    "tables/field_of_200_kB": table("field_of_200_kB", b"word " * 40_000 + b",positive\n"),
    "tables/line_of_4_MB": table("line_of_4_MB", b"a" * (MAX_LINE + 1) + b",positive\n"),
    "tables/field_of_4_MB": table("field_of_4_MB", GOOD + b'"' + (b"a" * 1023 + b"\n") * (MAX_LINE >> 10)),
    "tables/million_commas": content("million_commas.csv", b"text" + b"," * 1_000_001 + b"\n"),
    "tables/ten_thousand_columns": content(
        "ten_thousand_columns.csv", b"text,label" + b"".join(b",c%d" % i for i in range(9_999)) + b"\na,b\n"
    ),
    "tables/rows_of_many_lines": table(
        "rows_of_many_lines",
        b'"a\nb, c\n",positive\n'
        + b'"'
        + b"so so so so so so so so so so\n" * (MAX_LINE // 30)
        + b'",positive\n',
    ),
    "tables/many_problems": table("many_problems", b"".join(b"a, b %d, x\n" % i for i in range(244))),
    "tables/tabs_of_a_tsv": content("tabs_of_a_tsv.tsv", b"text\tlabel\na\tb\tpositive\n"),
    "encoding/latin_1": table("latin_1", GOOD + b"a caf\xe9,positive\nna\xefve,positive\n"),
    "encoding/latin_1_replaced": table("latin_1_replaced", b"a caf\xe9,positive\n"),
    "encoding/latin_1_named": table("latin_1_named", b"a caf\xe9,positive\n"),
    "encoding/windows_1252_quotes": table("windows_1252_quotes", b"\x93fine\x94,positive\n"),
    "encoding/utf_16": content("utf_16.csv", (HEADER + GOOD + BAD).decode().encode("utf-16")),
    "encoding/utf_16_named": content(
        "utf_16_named.csv", (HEADER + GOOD + BAD + b"so,positive\nno,negative\n").decode().encode("utf-16")
    ),
    "encoding/not_utf_16": content("not_utf_16.csv", HEADER + GOOD + BAD),
    "encoding/utf_16_without_mark": content(
        "utf_16_without_mark.csv", (HEADER + GOOD + BAD).decode().encode("utf-16-le")
    ),
    "encoding/utf_16_big_endian": content("utf_16_big_endian.csv", "text,label\n".encode("utf-16-be")),
    "encoding/utf_8_mark": content("utf_8_mark.csv", b"\xef\xbb\xbf" + HEADER + GOOD + BAD),
    "encoding/nul": table("nul", b"a fi\0ne film,positive\n"),
    "encoding/overlong": table("overlong", b"a \xc0\xaf film,positive\n"),
    "encoding/half_surrogate": table("half_surrogate", b"a \xed\xa0\xbd film,positive\n"),
    "encoding/cut_character": table("cut_character", GOOD, "a café".encode()[:-1]),
    "encoding/gzip": content("gzip.csv", gzip.compress(HEADER + GOOD + BAD, mtime=0)),
    "encoding/not_gzip": content("not_gzip.csv.gz", HEADER + GOOD + BAD),
    "encoding/cut_gzip": content("cut_gzip.csv.gz", gzip.compress(HEADER + GOOD * 99, mtime=0)[:-12]),
    "encoding/excel": content("excel.csv", zipped),
    "encoding/parquet": content("parquet.csv", lambda: parquet_bytes(TEXTS)),
    "encoding/pdf": content("pdf.csv", b"%PDF-1.7\n%\xe2\xe3\n"),
    **{
        f"texts/value_{word or 'empty'}": table(f"value_{word or 'empty'}", word.encode() + b",positive\n")
        for word in WORDS
    },
    "texts/million_tokens": table("million_tokens", b"so " * 1_000_000 + b",positive\n"),
    "labels/texts": table("texts", b"so,a\nno," + b"so long " * 200 + b"\n"),
    "labels/ten_thousand": table("ten_thousand", b"".join(b"text %d,id%d\n" % (i, i) for i in range(10_001))),
    "labels/three_hundred": table(
        "three_hundred", b"".join(b"text %d,id%d\n" % (i, i % 299) for i in range(600))
    ),
    "json_lines/number_of_5000_digits": content(
        "number_of_5000_digits.jsonl", b'{"n": ' + b"9" * 5000 + b"}\n"
    ),
    "json_lines/nested_100000_deep": content(
        "nested_100000_deep.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n"
    ),
    "json_lines/many_values": content(
        "many_values.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b", "x": [' + b"1," * 300_000 + b"1]}\n"
    ),
    "json_lines/many_keys": content(
        "many_keys.jsonl", b'{"text": "a"' + b"".join(b', "k%d": 1' % i for i in range(10_000)) + b"}\n"
    ),
    "json_lines/key_twice_among_many": content(
        "key_twice_among_many.jsonl",
        b'{"text": "a"' + b"".join(b', "k%d": 1' % i for i in range(100_000)) + b', "k99999": 1}\n',
    ),
    "json_lines/commas_in_a_text": content(
        "commas_in_a_text.jsonl",
        b"".join(
            b'{"text": "%s\\"", "label": "%s"}\n' % (of + b"a, " * 300_000, of)
            for of in (b"positive", b"negative")
        ),
    ),
    "json_lines/many_problems": content(
        "many_problems.jsonl", b'{"text": "a",}\n'.replace(b",", b"") * 9 + b"{\n" * 15
    ),
    "parquet/read": parquet("read", TEXTS),
    "parquet/cut_off": content("cut_off.parquet", lambda: parquet_bytes(TEXTS)[:-20]),
    "parquet/no_parquet": content("no_parquet.parquet", HEADER + GOOD),
    "parquet/empty_file": content("empty_file.parquet", b""),
    "parquet/no_rows": parquet(
        "no_rows", {"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}
    ),
    "parquet/null_text": parquet("null_text", {**TEXTS, "text": ["a fine film", None]}),
    "parquet/null_label": parquet("null_label", {**TEXTS, "label": [None, "negative"]}),
    "parquet/binary_text": parquet("binary_text", {**TEXTS, "text": [b"a fine film", b"a dull film"]}),
    "parquet/not_utf_8": parquet("not_utf_8", {**TEXTS, "text": not_utf_8()}),
    "parquet/numbers_as_text": parquet("numbers_as_text", {**TEXTS, "text": [7, None]}),
    "parquet/lists_as_text": parquet("lists_as_text", {**TEXTS, "text": [["a", "b"], []]}),
    "parquet/structs_as_text": parquet("structs_as_text", {**TEXTS, "text": [{"a": 1}, {"a": 2}]}),
    "parquet/dictionary": parquet(
        "dictionary", {**TEXTS, "label": pa.array(TEXTS["label"]).dictionary_encode()}
    ),
    "parquet/other_names": parquet("other_names", {"opinion": ["a"], "stars": ["positive"]}),
    "parquet/one_large_page": parquet(
        "one_large_page", {**TEXTS, "x": ["a" * 60_000_000, "b"]}, use_dictionary=False, compression="zstd"
    ),
    "parquet/long_list": parquet("long_list", {**TEXTS, "x": [[1.5] * 2_500_000, []]}, compression="zstd"),
    "parquet/long_text": parquet(
        "long_text", {**TEXTS, "x": ["a", "b" * (MAX_LINE + 1)]}, compression="zstd"
    ),
    "parquet/many_columns": parquet("many_columns", {f"c{i}": ["a"] for i in range(10_001)}),
    "parquet/long_footer": content(
        "long_footer.parquet", b"PAR1" + bytes(50) + (1 << 25).to_bytes(4, "little") + b"PAR1"
    ),
    "parquet/no_page_header": content("no_page_header.parquet", without_page_header),
    "parquet/encrypted": content("encrypted.parquet", b"PARE" + bytes(40) + b"PARE"),
    "parquet/flipped_bit": content("flipped_bit.parquet", flipped_parquet),
    "formats/workbook": workbook("workbook"),
    "formats/workbook_of_sheets": workbook("workbook_of_sheets", sheets=2),
    "formats/workbook_without_that_sheet": workbook("workbook_without_that_sheet", sheets=2),
    "formats/workbook_beyond_the_header": workbook(
        "workbook_beyond_the_header", **{"behind negative": "more"}
    ),
    "formats/no_workbook": content("no_workbook.xlsx", HEADER + GOOD + BAD),
    "formats/workbook_with_a_password": content(
        "workbook_with_a_password.xlsx", b"\xd0\xcf\x11\xe0" + bytes(60)
    ),
    "formats/old_workbook": content("old_workbook.xls", b"\xd0\xcf\x11\xe0" + bytes(60)),
    "formats/archive": archive("archive.zip", "reviews.csv"),
    "formats/archive_of_csv": archive("archive_of_csv.csv.zip", "a", "__MACOSX/._a", ".DS_Store"),
    "formats/archive_of_two": archive("archive_of_two.zip", "train.csv", "test.csv"),
    "formats/archive_of_nothing": archive("archive_of_nothing.zip"),
    "formats/archive_of_parquet": archive("archive_of_parquet.zip", "reviews.parquet"),
    "formats/archive_in_archive": archive("archive_in_archive.zip", "reviews.csv.zip"),
    "formats/archive_of_another": archive("archive_of_another.zip", "reviews.docx"),
    "formats/archive_with_a_password": archive("archive_with_a_password.zip", "reviews.csv", flags=1),
    "formats/no_archive": content("no_archive.csv.zip", HEADER + GOOD + BAD),
    "formats/other_archive": content("other_archive.tar.gz", gzip.compress(b"", mtime=0)),
    "formats/pickle": content("pickle.pkl", b"\x80\x04."),
    "formats/pickle_as_csv": content("pickle_as_csv.csv", b"\x80\x04."),
    "formats/feather": content("feather.feather", feather_bytes),
    "formats/feather_cut_off": content("feather_cut_off.feather", lambda: feather_bytes()[:-20]),
    "formats/feather_of_lists": content(
        "feather_of_lists.feather", lambda: feather_bytes(text=[["a"]], label=["positive"])
    ),
    "formats/feather_of_version_1": content("feather_of_version_1.feather", b"FEA1" + bytes(60)),
    "formats/feather_of_large_batches": content(
        "feather_of_large_batches.feather",
        lambda: feather_bytes(text=["\0" * (300 << 20)], label=["positive"]),
    ),
    "formats/no_feather": content("no_feather.feather", HEADER + GOOD + BAD),
    "formats/feather_as_csv": content("feather_as_csv.csv", feather_bytes),
    "paths/missing": lambda folder: content("reviews.csv", HEADER)(folder).with_name("reveiws.csv"),
    "paths/no_ending": content("no_ending", HEADER + GOOD),
    "paths/folder_without_classes": empty_folder,
    "paths/glob_without_a_match": lambda folder: empty_folder(folder) / "*.parquet",
    "paths/class_folders": class_folders,
    "paths/dangling_link": link("dangling_link.csv", "gone.csv"),
    "paths/pipe": pipe,
    "paths/device": link("device.csv", "/dev/zero"),
    "paths/no_permission": no_permission,
    "paths/endless_texts": endless_texts,
    "paths/same_file_twice": content("validation.csv", HEADER + GOOD + BAD),
    "paths/both_files_wrong": content("both_files_wrong.csv", HEADER + b"a\n" + BAD),
    "paths/run_in_the_way": content("run_in_the_way.csv", HEADER + GOOD + BAD),
    "paths/run_is_a_file": content("run_is_a_file.csv", HEADER + GOOD + BAD),
    "paths/run_below_a_file": content("run_below_a_file.csv", HEADER + GOOD + BAD),
    "config/control_characters": content("control_characters.yaml", b"seed: 1\nout: a\x1b[31mb\n"),
    "config/escaped_control_characters": content(
        "escaped_control_characters.yaml", b'"\\e[31mseed": 1\ntrainer:\n  epochs: "\\e[31m3"\n'
    ),
    "config/latin_1": content("latin_1.yaml", b"seed: 1\nout: caf\xe9\n"),
    "config/a_megabyte": content("a_megabyte.yaml", b"# so long\n" * 100_001),
    "config/nested_deeply": content("nested_deeply.yaml", b"out: " + b"[" * 3000 + b"\n"),
    "config/pipe": pipe,
    "config/missing": lambda folder: folder / "missing.yaml",
}


def changed_run(change: Callable[[Path], object]) -> Callable[[Path, Path], list[str]]:
    """Return a function that copies a run into a folder, changes it, and predicts a text."""

    def prepare(folder: Path, run: Path) -> list[str]:
        copy = folder / "model"
        shutil.copytree(run, copy)
        change(copy)
        return [str(copy), "a great day"]

    return prepare


def edit_json(name: str, **values: Any) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        facts = json.loads((run / name).read_bytes())
        (run / name).write_text(json.dumps({**facts, **values}) + "\n", encoding="utf-8")

    return change


def weights(name: str) -> Callable[[Path, Path], list[str]]:
    """Return a function that passes a file of weights to `predict` instead of a run folder."""

    def prepare(folder: Path, run: Path) -> list[str]:
        (folder / name).write_bytes(b"PK\x03\x04")
        return [str(folder / name), "a great day"]

    return prepare


def sealed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], list[str]]:
    """Return a function that changes a run's tensors and updates its manifest."""

    def rewrite(run: Path) -> None:
        from lstm_sentiment.checkpoints.run_folder import RunFolder

        folder = RunFolder(run)
        checkpoint = folder.load("best")
        change(checkpoint.tensors["model"])
        folder.save("best", checkpoint.tensors, checkpoint.facts)

    return changed_run(rewrite)


def file_for(*argv: str) -> Callable[[Path, Path], list[str]]:
    """Return a function that passes the unchanged run and a case's file to a command."""
    return lambda folder, run: [str(run), *argv]


Prepare = Callable[[Path, Path], list[str]]
PREDICTIONS: dict[str, Prepare] = {
    "predictions/no_run": lambda folder, run: [str(folder / "nothing"), "a great day"],
    "predictions/empty_folder": lambda folder, run: [str(folder), "a great day"],
    "predictions/weights_pt": weights("model.pt"),
    "predictions/weights_safetensors": weights("model.safetensors"),
    "predictions/newer_format": changed_run(edit_json("best/manifest.json", format=99)),
    "predictions/other_vocabulary": changed_run(lambda run: (run / "vocabulary.json").write_text('["a"]')),
    "predictions/other_labels": changed_run(edit_json("labels.json", labels=["bad", "good"])),
    "predictions/no_checkpoint": changed_run(lambda run: shutil.rmtree(run / "best")),
    "predictions/missing_file": changed_run(lambda run: (run / "best" / "state.json").unlink()),
    "predictions/missing_tensor": sealed(lambda tensors: tensors.pop("head.bias")),
    "predictions/other_shape": sealed(lambda tensors: tensors.update({"head.bias": torch.zeros(7)})),
    "predictions/nan_weights": sealed(lambda tensors: tensors["head.bias"].fill_(float("nan"))),
    "predictions/text_and_file": file_for("a great day", "--file", "a.csv"),
    "predictions/unknown_flag": file_for("--fil", "a.csv"),
    "predictions/no_file": file_for("--file", "gone.csv"),
}
ON_COMMAND_LINE = {
    "config/mistyped_option": ["--trainer.epohcs=3"],
    "config/section_as_option": ["--trainer=3"],
    "config/two_mistakes_in_options": ["--trainer.epohcs=3", "--model.dropout=1.5"],
    "config/option_without_value": ["--trainer.epochs"],
    "config/octal_option": ["--trainer.epochs=012"],
    "config/option_in_base_60": ["--trainer.epochs", "1:30"],
}
OPTIONS: dict[str, list[str]] = {
    "encoding/latin_1_replaced": ["--data.encoding_errors=replace"],
    "encoding/latin_1_named": ["--data.encoding=latin-1"],
    "encoding/utf_16_named": ["--data.encoding=utf-16", "--data.validation=0.5"],
    "encoding/not_utf_16": ["--data.encoding=utf-16"],
    "labels/capitals_mapped": ["--data.labels={Positive: positive, positive: positive, negative: negative}"],
    "labels/unknown_in_train": ["--data.labels=[negative, positive]"],
    "labels/other_codes_in_validation": ["--data.labels={0: negative, 1: positive}"],
    "labels/swapped_with_text": ["--data.text_column=label", "--data.label_column=text"],
    "labels/class_without_rows": ["--data.labels=[negative, neutral, positive]"],
    **{
        f"labels/{name}": ["--data.validation=0.5"]
        for name in ("minus_one", "scores", "beyond_numbers", "one_and_one_point_zero")
    },
    "formats/workbook_without_that_sheet": ["--data.sheet=sheet 3"],
    "labels/turned_round": ["--data.labels={bad: 0, good: 1}", "--data.validation=0.5"],
    "labels/floats_mapped": ["--data.labels={0: bad, 1: yes}", "--data.validation=0.5"],
    "labels/true_and_false": ["--data.validation=0.5"],
}
FILES = {f"{path.parent.name}/{path.name.split('.')[0]}": path for path in CORPUS.glob("*/*.*")}
CASES = sorted({*FILES, *MADE, *PREDICTIONS, *ON_COMMAND_LINE})
REAL = [
    "config/many_problems", "config/mistyped_option", "config/two_documents", "config/pipe", "config/tab",
    "config/escaped_control_characters", "config/alias", "config/latin_1", "config/missing",
    "predictions/unknown_flag", "tables/several_problems", "paths/pipe",
]  # fmt: skip
# Of these the whole file is wrong, or the command line, and no line of it.
WITHOUT_LINE = re.compile(
    r"tables/empty|encoding/(.*utf_16.*|.*gzip|excel|parquet|pdf)|labels/(one_class|swapped.*|three_hundred|"
    r"class_without_rows)|parquet/.*|paths/.*|formats/(.*archive.*|.*workbook.*|no_.*|old_.*|pickle.*|feather.*)|predictions/.*|config/(missing|pipe|a_megabyte|.*option.*)|"
    r".*/(no_header|other_names|several_text_columns|header_only|text_tab_label_in_tsv)"
)
FIX = re.compile(  # a fix, or the allowed values
    r"[;.,(:] ?(add|change|check|choose|close|copy|correct|download|end|give|indent|leave|let|map|mend|name|"
    r"put|quote|remove|rename|save|see|set|spell|unpack|use|write)\b|Did you mean|must (be|hold|lie)|"
    r"is not (one of|a |text|true)|not both",
    re.IGNORECASE,
)
# Messages on runs and checkpoints have their own tests.
OF_CHECKPOINTS = re.compile(
    r"predictions/(empty_folder|missing_\w+|n\w+_(run|checkpoint|weights|format)|other_[lsv]\w+|weights_\w+)"
)


class Accepted(BaseException):
    """Stops a command that has accepted its input, before a model is created."""


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(autouse=True)
def _never_waits() -> Iterator[None]:
    """A command that blocks on a pipe is killed, and its test fails."""
    with time_limit(60):
        yield


def command(case: str, folder: Path, run: Path) -> tuple[str, list[str], Path | None]:
    """Put a case's input into a folder; return the command, its arguments, and the file if there is one."""
    group = case.split("/")[0]
    file = None
    if case in MADE:
        file = MADE[case](folder)
    elif case in FILES:
        file = Path(shutil.copy(FILES[case], folder))
    if group == "config":
        return "train", ["--config", str(file)] if file else ON_COMMAND_LINE[case], file
    if group == "predictions":
        if case == "predictions/wrong_label":
            return "evaluate", [str(run), str(file)], file
        return (
            "predict",
            PREDICTIONS[case](folder, run) if file is None else [str(run), "--file", str(file)],
            file,
        )
    out, validation = folder / "run", folder / "validation.csv"
    if not validation.exists():
        validation.write_bytes(HEADER + GOOD + BAD)
    if case == "paths/both_files_wrong":
        validation.write_bytes(HEADER + b"b\n")
    if case == "paths/run_in_the_way":
        out.mkdir()
        (out / "thesis.txt").touch()
    if case == "paths/run_is_a_file":
        out.touch()
    if case == "paths/run_below_a_file":
        out = validation / "run"
    argv = [
        f"--data.train={file}",
        f"--data.validation={validation}",
        "--data.test=null",
        f"--out={out}",
        *TINY,
        "--pretrained=null",
    ]
    strict = ["--data.encoding_errors=strict"] if group in ("encoding", "paths") else []
    return "train", [*argv, *strict, *OPTIONS.get(case, [])], file


def allowed_by_mode(path: Path, mode: int) -> bool:
    """Permissions of a user other than root, by the mode bits of a file."""
    assert mode == os.R_OK
    return bool(path.stat().st_mode & 0o444)


def readout(accepted: Accepted, file: Path | None, argv: list[str]) -> str:
    """Return the parsed content: non-default settings, or rows with their lines."""
    (value,) = accepted.args
    if isinstance(value, Config):
        defaults = flatten(Config())
        return "".join(f"{k} = {v!r}\n" for k, v in flatten(value).items() if v != defaults[k])
    encoding = [word.split("=")[1] for word in argv if word.startswith("--data.encoding=")]
    with open_source(str(file), encoding=(encoding or ["utf-8"])[0], encoding_errors="replace") as source:
        rows = [
            [int(line), *record.values()]
            for chunk in read_chunks(source)
            for line, record in zip(chunk.lines, chunk.frame.to_dict("records"), strict=True)
        ]
    lines = [json.dumps(row) for row in rows]
    return "".join(
        f"{line[:90]}{f'... {len(line)} characters' if len(line) > 90 else ''}\n" for line in lines
    )


def answer(
    case: str, folder: Path, run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run a case's command in this process; return its exit code and message, or the parsed content."""

    def accept(*args: Any, **_: Any) -> None:
        raise Accepted(args[0] if case.startswith("config/") else None)

    monkeypatch.setattr(experiment, "run" if case.startswith("config/") else "initial_model", accept)
    name, argv, file = command(case, folder, run)
    main = {"train": train.main, "predict": predict.main, "evaluate": evaluate.main}[name]
    monkeypatch.setattr(sys, "argv", ["command", *argv])
    before = sorted(folder.rglob("*"))
    if os.geteuid() == 0:  # who may read and write everything
        monkeypatch.setattr(os, "access", allowed_by_mode)
    capsys.readouterr()
    read = ""
    code: object = "read"
    try:
        run_command(main)
    except SystemExit as left:
        code = f"exit {left.code}"
    except Accepted as accepted:
        read = readout(accepted, file, argv)
    printed = capsys.readouterr()
    if code not in ("read", "exit 0"):
        assert printed.out == "", "an error is reported on stderr alone"
    assert sorted(folder.rglob("*")) == before, "nothing is left behind"
    printed_out = re.sub(r"0\.\d{4,}", "P", printed.out)  # probabilities are the model's matter
    said = f"{printed_out}{printed.err}{read}".replace(f"{folder}/", "").replace(str(folder), "FOLDER")
    said = said.replace(__version__, "VERSION")
    return f"{code}\n{said.replace(str(run), 'RUN')}".rstrip() + "\n"


@functools.cache
def goldens(group: str) -> dict[str, str]:
    """Return the golden outputs of a group by case, as the files hold them when a test first asks."""
    file = CORPUS / f"{group}.golden"
    parts = re.split(r"^== (\S+): ", file.read_text("utf-8") if file.exists() else "", flags=re.MULTILINE)[1:]
    return {
        f"{group}/{name}": text.strip() + "\n" for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def write_golden(case: str, found: str) -> None:
    group = case.split("/")[0]
    known = {name: text for name, text in goldens(group).items() if name in CASES} | {case: found}
    text = "\n".join(f"== {name.split('/')[1]}: {known[name]}" for name in sorted(known))
    (CORPUS / f"{group}.golden").write_text(text, encoding="utf-8")
    goldens.cache_clear()


@pytest.mark.parametrize("case", CASES)
def test_the_output_equals_the_golden_file(
    case: str,
    tmp_path: Path,
    trained_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = answer(case, tmp_path, trained_run, monkeypatch, capsys)
    assert all(c.isprintable() or c == "\n" for c in found)
    if os.environ.get("REWRITE_GOLDENS"):
        write_golden(case, found)
    assert found == goldens(case.split("/")[0])[case]


@pytest.mark.parametrize("case", REAL)
def test_the_real_command_prints_the_same(case: str, tmp_path: Path, trained_run: Path) -> None:
    name, argv, _ = command(case, tmp_path, trained_run)
    done = subprocess.run(
        [sys.executable, "-m", f"lstm_sentiment.{name}", *argv],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    said = done.stderr.replace(f"{tmp_path}/", "").replace(str(tmp_path), "FOLDER")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"exit 2\n{said}" == goldens(case.split("/")[0])[case]


def test_cases_and_golden_files_match() -> None:
    known = [case for file in sorted(CORPUS.glob("*.golden")) for case in goldens(file.stem)]
    assert sorted(known) == CASES
    assert len(CASES) >= 260


@pytest.mark.parametrize("case", CASES)
def test_every_message_names_file_place_and_fix(case: str) -> None:
    code, *lines = goldens(case.split("/")[0])[case].splitlines()
    if code in ("read", "exit 0"):
        return
    for line in lines:
        assert line.startswith("error: ")
        if re.fullmatch(r"error: and [\d,]+ more", line):
            continue
        place = r"error: \S+(:\d+)+: " if not WITHOUT_LINE.fullmatch(case) else r"error: \S"
        assert re.match(place, line), line
        assert FIX.search(line) or OF_CHECKPOINTS.fullmatch(case), line
    assert len(lines) <= 11
