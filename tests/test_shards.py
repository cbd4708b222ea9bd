"""Sources of several files: folders of shards, globs and lists, local and by URL.

The reference is always the same rows in one file.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest

from lstm_sentiment import evaluate
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.config.sections import DataConfig, TextConfig
from lstm_sentiment.data.corpus import original_texts, prepare
from lstm_sentiment.data.formats.readers import read_chunks, text_hash
from lstm_sentiment.data.formats.writers import open_table
from lstm_sentiment.data.review.decisions import Reviewed, hash_cell, matching_rows
from lstm_sentiment.data.review.fixed_copy import write_fixed_copy
from lstm_sentiment.data.sources.shards import shards_of
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError
from lstm_sentiment.provenance.held_out_rows import FILE, write_held_out_rows
from tests.conftest import make_rows

ROWS = make_rows(60)
COUNTS = (7, 0, 30, 23)  # rows of the shards; one is empty


def write(path: Path, rows: list[tuple[str, str]], *columns: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(columns or ("text", "label"))
    with open_table(str(path)) as append:
        append(pd.DataFrame([row[: len(names)] for row in rows], columns=names, dtype=object))
    return path


def write_shards(folder: Path, *endings: str) -> list[Path]:
    """Write the rows to shards with these endings in turn, and hidden files between them."""
    start, written = 0, []
    for n, count in enumerate(COUNTS):
        path = folder / f"part-{n}{endings[n % len(endings)]}"
        written.append(write(path, ROWS[start : start + count]))
        start += count
    for hidden in ("_SUCCESS", ".part-0.crc", "_temporary/0/part-9.csv"):
        (folder / hidden).parent.mkdir(parents=True, exist_ok=True)
        (folder / hidden).write_text("not a row")
    return written


def read(name: str | list[str], **how: Any) -> list[tuple[str, str, str, int]]:
    """Return text, label, file and line of each row."""
    with open_source(name, **how) as source:
        return [
            (text, label, chunk.file, int(line))
            for chunk in read_chunks(source)
            for text, label, line in zip(chunk.frame["text"], chunk.frame["label"], chunk.lines, strict=True)
        ]


def refusal(name: str | list[str]) -> str:
    with pytest.raises(DataError) as caught:
        read(name)
    return str(caught.value)


@pytest.mark.parametrize("endings", [(".csv", ".csv.gz", ".csv.xz"), (".jsonl", ".jsonl.zst"), (".parquet",)])
def test_a_folder_a_glob_and_a_list_are_read_as_one_file(tmp_path: Path, endings: tuple[str, ...]) -> None:
    folder = tmp_path / "in"
    files = list(map(str, write_shards(folder, *endings)))
    found = read(str(folder))
    assert [row[:2] for row in found] == ROWS
    assert [row[2] for row in found] == [
        file for file, n in zip(files, COUNTS, strict=True) for _ in range(n)
    ]
    for file in files:  # places are those in the file alone
        with open_source(file) as source:
            lines = [int(line) for chunk in read_chunks(source, may_be_empty=True) for line in chunk.lines]
        assert [row[3] for row in found if row[2] == file] == lines
    assert read(str(folder / "*-*")) == found
    assert read(str(tmp_path / "i?" / "part-[0-9]*")) == found
    assert read(files) == found
    assert read([files[0], str(folder / "part-[123]*")]) == found
    assert read(files[::-1]) == [row for file in files[::-1] for row in found if row[2] == file]


def test_remote_folders_and_globs_are_read_like_local_ones() -> None:
    files = fsspec.filesystem("memory")
    files.pipe({f"/shards/label={of}/part-{n}.csv": f"text\n{of} {n}\n".encode()
                for n in range(2) for of in ("good", "bad")} | {"/shards/_SUCCESS": b""})  # fmt: skip
    expected = [
        (f"{of} {n}", of, f"memory://shards/label={of}/part-{n}.csv", 2)
        for of in ("bad", "good")
        for n in (0, 1)
    ]
    assert read("memory://shards") == read("memory://shards/") == expected
    assert read("memory://shards/*/part-*.csv") == read("memory://shards/label=*") == expected
    assert read("memory://shards/label=good/*.csv") == expected[2:]
    assert refusal("memory://shards/*.jsonl").startswith("memory://shards/*.jsonl: no file matches")


def test_folders_named_column_is_value_are_columns(tmp_path: Path) -> None:
    for label in ("good", "so%2Dso", "__HIVE_DEFAULT_PARTITION__"):
        write(tmp_path / "in" / f"label={label}" / "lang=en" / "a.csv", [(label, "")], "text")
    with open_source(str(tmp_path / "in")) as source:
        frame = pd.concat([chunk.frame for chunk in read_chunks(source)])
    assert frame["label"].tolist() == [None, "good", "so-so"]
    assert frame["lang"].tolist() == ["en"] * 3
    (tmp_path / "in" / "label=good" / "lang=en" / "a.csv").write_text("text,lang\nso,de\n")
    assert "a.csv: column 'lang': a folder above it, lang=en, names a column that the file has" in refusal(
        str(tmp_path / "in")
    )
    plain = tmp_path / "of" / "label=bad" / "a.txt"  # a text per line
    plain.parent.mkdir(parents=True)
    plain.write_text("so bad\nworse\n")
    assert [row[:2] for row in read(str(tmp_path / "of"))] == [("so bad", "bad"), ("worse", "bad")]


def test_a_folder_of_class_folders_keeps_its_meaning(tmp_path: Path) -> None:
    for label in ("neg", "pos"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "0.txt").write_text(f"text,of\n{label}")
    write(tmp_path / "urls.csv", ROWS[:2])
    assert shards_of(str(tmp_path)) is None
    assert [row[:2] for row in read(str(tmp_path))] == [(f"text,of\n{of}", of) for of in ("neg", "pos")]


MISTAKES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no match": (
        lambda at: write(at / "b.csv", ROWS[:1]),
        "*.parquet",
        "AT/*.parquet: no file matches; AT/ holds 'b.csv'; correct the pattern",
    ),
    "no pattern": (lambda at: None, "a**b/*.csv", "AT/a**b/*.csv: "),
    "no folder": (
        lambda at: (at / "x").mkdir(),
        "in/*.csv",
        "AT/in/*.csv: no file matches; there is no folder AT/in; AT/ holds 'x/'; correct the pattern",
    ),
    "two formats": (
        lambda at: [write(at / "a.csv", ROWS[:1]), write(at / "b.jsonl", ROWS[:1])],
        "",
        "AT/b.jsonl: its format is .jsonl, that of AT/a.csv .csv; give files of one format",
    ),
    "other columns": (
        lambda at: [write(at / "a.csv", ROWS[:1]), write(at / "b.csv", ROWS[:1], "review")],
        "",
        "AT/b.csv: its columns are not those of AT/a.csv: it lacks 'label', 'text' and has 'review'; give "
        "files with the same columns, or set data.header false if their first lines are rows",
    ),
    "other columns in Parquet": (
        lambda at: [write(at / "a.parquet", ROWS[:1]), write(at / "b.parquet", ROWS[:1], "text")],
        "",
        "AT/b.parquet: its columns are not those of AT/a.parquet: it lacks 'label'; give files with the same "
        "columns",
    ),
    "other folders": (
        lambda at: [write(at / "a=1/b.csv", ROWS[:1]), write(at / "b=1/b.csv", ROWS[:1])],
        "",
        "AT/b=1/b.csv: its folders name the columns b, those of AT/a=1/b.csv the columns a; name them alike",
    ),
    "a file of another kind": (
        lambda at: [write(at / "a.csv.gz", ROWS[:1]), (at / "READ.md").touch()],
        "",
        "AT: holds 'READ.md', which is not a table; name the shards by a glob, such as AT/*.csv.gz",
    ),
    "folders of splits": (
        lambda at: [write(at / "test/a.csv", ROWS[:1]), write(at / "train/a.csv", ROWS[:1])],
        "",
        "AT: has files in the folder 'test', which is not named column=value; name that folder, or a glob "
        "such as AT/*/*.csv",
    ),
    "no rows": (
        lambda at: [(at / "a.csv").touch(), (at / "b.csv.gz").write_bytes(gzip.compress(b""))],
        "",
        "AT: has no rows; add one for each text",
    ),
    "a damaged shard": (
        lambda at: [write(at / "a.csv", ROWS[:1]), (at / "b.csv").write_text("text,label\na,b\na,b,c\n")],
        "",
        "AT/b.csv:3: 3 fields where the header has 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_name_the_shards(tmp_path: Path, mistake: str) -> None:
    make, named, expected = MISTAKES[mistake]
    make(tmp_path)
    found = refusal(str(tmp_path / named)).replace(str(tmp_path), "AT")
    assert found.startswith(expected)


def test_a_file_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", ROWS[:2])
    assert (
        refusal([str(file), str(tmp_path / "*.csv")])
        == f"{file}: is named twice; remove it from the list once"
    )


def corpus_of(train: str | list[str], cache: Path, **data: Any) -> Any:
    text = TextConfig(min_frequency=1)
    return prepare(DataConfig(train=train, test=0.2, validation=0.2, **data), text, seed=0, cache=cache)


def test_training_rows_are_those_of_one_file_with_their_places(tmp_path: Path) -> None:
    files = list(map(str, write_shards(tmp_path / "in", ".csv", ".csv.gz")))
    whole = write(tmp_path / "whole.csv", ROWS)
    one = corpus_of(str(whole), tmp_path / "cache")
    several = corpus_of(str(tmp_path / "in" / "*.csv*"), tmp_path / "cache")
    for name, split in one.splits.items():
        of = several.splits[name]
        assert of.rows.tolist() == split.rows.tolist()
        assert of.labels.tolist() == split.labels.tolist()
        assert [of.token_ids(n).tolist() for n in range(len(of))] == [
            split.token_ids(n).tolist() for n in range(len(split))
        ]
    write_held_out_rows(tmp_path, several)
    texts = {(file, line): text for text, _, file, line in read(files)}
    with (tmp_path / FILE).open() as opened:
        held_out = [(row["source"], int(row["line"]), row["label"]) for row in csv.DictReader(opened)]
    assert {file for file, _, _ in held_out} == {files[0], files[2], files[3]}
    assert len(held_out) == len(several.validation) + len(several.test)
    labels = dict(ROWS)
    assert all(labels[texts[file, line]] == label for file, line, label in held_out)
    place = int(several.test.rows[0])
    assert several.test.where(np.array([0])) == "{}: line {}".format(*several.test.store.place(place))
    found = original_texts(files, DataConfig(train=files), [place])
    assert found == {place: texts[several.test.store.place(place)]}


def test_a_changed_added_or_reordered_shard_is_other_data(tmp_path: Path) -> None:
    files = list(map(str, write_shards(tmp_path / "in", ".csv")))
    cache = tmp_path / "cache"
    first = corpus_of(str(tmp_path / "in"), cache)
    assert corpus_of(files, cache).fingerprint == first.fingerprint  # the names of the source do not matter
    assert corpus_of(files[::-1], cache).fingerprint != first.fingerprint
    write(tmp_path / "in" / "part-9.csv", [("one more", "positive")])
    assert corpus_of(str(tmp_path / "in"), cache).fingerprint != first.fingerprint
    assert corpus_of(files, cache).fingerprint == first.fingerprint


def test_errors_of_labels_name_shard_and_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_shards(tmp_path / "in", ".csv")
    write(tmp_path / "in" / "part-7.csv", [("so", "positive"), ("no", "postive"), ("why", "postive")])
    with pytest.raises(DataError) as caught:
        corpus_of(str(tmp_path / "in"), tmp_path / "cache", labels=["negative", "neutral", "positive"])
    expected = (
        f"{tmp_path}/in/part-7.csv:3: label 'postive' is not one of negative, neutral, positive. Did you mean"
    )
    assert str(caught.value).startswith(expected)
    assert str(caught.value).endswith("(2 rows)")


def test_counts_name_the_shards_of_empty_texts(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.csv", ROWS[:30])
    file = write(tmp_path / "in" / "b.csv", [*ROWS[30:], ("", "positive")])
    counts = corpus_of(str(tmp_path / "in"), tmp_path / "cache").facts.counts["train"]
    assert counts.empty_files == [str(file)]
    assert counts.empty_lines == [32]


def test_a_decision_is_about_the_row_of_one_shard(tmp_path: Path) -> None:
    rows = [("so good", "positive"), ("so bad", "negative")]
    files = [str(write(tmp_path / "in" / f"{name}.csv", rows)) for name in "ab"]
    hashes = np.array([7, 8, 7, 8], np.uint64)
    wanted = [Reviewed(source=files[1], line=2, hash=7, decision="drop", at=2)]
    places = {"files": files, "rows_F": np.array([2, 2])}
    assert matching_rows(wanted, np.array([2, 3, 2, 3]), hashes, **places).tolist() == [
        False,
        False,
        True,
        False,
    ]

    table = tmp_path / "suspects.csv"
    table.write_text(
        f"source,line,text_hash,decision\n{files[1]},2,{hash_cell(text_hash('so good'))},negative\n"
    )
    copied = write_fixed_copy(DataConfig(train=str(tmp_path / "in")), str(table), str(tmp_path / "out.csv"))
    assert (copied.rows, copied.relabelled) == (4, 1)
    assert [row[1] for row in read(str(tmp_path / "out.csv"))] == [
        "positive",
        "negative",
        "negative",
        "negative",
    ]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("[a.csv, b.csv]", ["a.csv", "b.csv"]),
        ("*.csv", "*.csv"),
        ("in/[ab]*.csv", "in/[ab]*.csv"),
        ("[ab]*.csv", "[ab]*.csv"),
        ("label=*/a.csv", "label=*/a.csv"),
    ],
)
def test_globs_and_lists_on_the_command_line(typed: str, expected: str | list[str], tmp_path: Path) -> None:
    argv = [f"--data.{name}={typed}" for name in ("train", "validation", "test")]
    data = parse_config(argv, program="x", description="").data
    assert (data.train, data.validation, data.test) == (expected,) * 3
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"data": {"train": expected}}))
    assert parse_config(["--config", str(file)], program="x", description="").data.train == expected


def test_evaluation_slices_by_shard(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "in", ".csv")
    whole = write(tmp_path / "whole.csv", ROWS)
    for n, name in enumerate((whole, tmp_path / "in")):
        argv = [str(trained_run), str(name), "--slices", "source", "--out", str(tmp_path / f"{n}.json")]
        evaluate.main(argv)
    one, several = (json.loads((tmp_path / f"{n}.json").read_text()) for n in range(2))
    assert several["accuracy"] == one["accuracy"]
    slices = {of["name"]: of["rows"] for of in several["slices"]["source"]}
    assert slices == {f"{tmp_path}/in/part-{n}.csv": count for n, count in enumerate(COUNTS) if count}
