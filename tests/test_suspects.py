"""Suspect rows: what is found, the table, the fixed copy, and training without them."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import CLUES, make_rows, write_csv

from lstm_sentiment import load, suspects
from lstm_sentiment.adaptation import heads
from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.cleaning import search
from lstm_sentiment.cleaning.out_of_fold import folds_with_groups, out_of_fold
from lstm_sentiment.cleaning.rows import all_rows
from lstm_sentiment.cleaning.search import (
    EMPTY,
    FOREIGN,
    OTHER_LABEL,
    OTHER_SPLIT,
    REASONS,
    WRONG_LABEL,
    Found,
    Suspect,
    find_suspects,
)
from lstm_sentiment.config.command_line import read_config
from lstm_sentiment.config.schema import Config, TrainerConfig
from lstm_sentiment.config.sections import DataConfig, TextConfig
from lstm_sentiment.data.corpus import Corpus, prepare, refuse_addresses
from lstm_sentiment.data.formats.readers import text_hash
from lstm_sentiment.data.formats.writers import open_table
from lstm_sentiment.data.review.decisions import COLUMNS, hash_cell
from lstm_sentiment.data.review.fixed_copy import write_fixed_copy
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import ConfigError, DataError
from lstm_sentiment.experiment.console import report_data
from lstm_sentiment.experiment.resume import FREE_ON_RESUME, NOTED_ON_RESUME
from lstm_sentiment.linear import logistic_regression
from lstm_sentiment.models.network import TfidfBranch
from lstm_sentiment.prediction.model_card import model_card
from lstm_sentiment.records.run_reports import REPORTS, read_reports

FOREIGN_TEXT = "das zimmer war leider gar nicht sauber und der kaffee kalt"
LONG = "the room was very {} and the staff of this place is with us every single day"


def dicts_in(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write rows, whose texts may have line breaks, under the header id,text,label."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text", "label"), *((n, *row) for n, row in enumerate(rows))])
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows.csv, 240 rows and six odd ones, and test.csv; flips.json has the wrong lines."""
    folder = tmp_path_factory.mktemp("suspects")
    rows = make_rows(240, longest=8)
    flipped = random.Random(1).sample(range(240), 20)
    for row in flipped:
        text, label = rows[row]
        rows[row] = text, random.Random(row).choice([of for of in CLUES if of != label])
    odd = [("a great\nday", "positive"), ("a great\nday", "negative"), ("", "neutral"), (" ", "negative")]
    odd += [(FOREIGN_TEXT, "negative"), (LONG.format("lovely"), "positive")]
    write_rows(folder / "rows.csv", [*odd, *rows])
    write_csv(folder / "test.csv", [*make_rows(30, seed=5, longest=8), (LONG.format("superb"), "positive")])
    # The odd rows have the lines 2, 4, 6, 7, 8 and 9: the first two texts have two lines.
    (folder / "flips.json").write_text(json.dumps(sorted(row + 10 for row in flipped)))
    return folder


@pytest.fixture(scope="module")
def found(place: Path) -> Found:
    """The suspects of rows.csv and test.csv, by the linear model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(place / "cache"))
        return find_suspects(config_of(place))


def config_of(place: Path, **data: Any) -> Config:
    """Return the configuration of rows.csv and test.csv, without a starter."""
    files = {"train": str(place / "rows.csv"), "validation": None, "test": str(place / "test.csv")}
    return Config(pretrained=None, data=DataConfig(**(files | data)), trainer=TrainerConfig(threads=1))


def with_reason(found: Found, reason: str) -> list[Suspect]:
    return [row for row in found.suspects if reason in row.reasons]


# -- what is found ---------------------------------------------------------------------------------


def test_flipped_labels_are_found_first(found: Found, place: Path) -> None:
    flips = json.loads((place / "flips.json").read_text())
    wrong = [row.line for row in with_reason(found, WRONG_LABEL)]
    assert len(set(flips) & set(wrong[: len(flips)])) > 0.8 * len(flips)
    assert np.isclose(found.joint_CC.sum(), found.rows)


def test_texts_lines_and_sources_are_those_of_the_file(found: Found, place: Path) -> None:
    rows = dicts_in(place / "rows.csv")
    lines = [2, 4, 6, 7, 8, 9, *range(10, 250)]
    truth = dict(zip(lines, rows, strict=True))
    of_file = [row for row in found.suspects if row.source == str(place / "rows.csv")]
    assert len(of_file) > 20
    assert [(row.text, row.label) for row in of_file] == [
        (truth[row.line]["text"], truth[row.line]["label"]) for row in of_file
    ]


@pytest.mark.parametrize(
    ("reason", "lines"), [(OTHER_LABEL, [2, 4]), (OTHER_SPLIT, [9]), (FOREIGN, [8]), (EMPTY, [6, 7])]
)
def test_odd_rows_are_found_with_their_reason(found: Found, reason: str, lines: list[int]) -> None:
    assert sorted(row.line for row in with_reason(found, reason)) == lines


def test_a_duplicate_names_the_other_row(found: Found, place: Path) -> None:
    assert {row.line: row.other for row in with_reason(found, OTHER_LABEL)} == {
        2: f"{place / 'rows.csv'}:4",
        4: f"{place / 'rows.csv'}:2",
    }
    assert [row.other for row in with_reason(found, OTHER_SPLIT)] == [f"{place / 'test.csv'}:32"]


def test_suspects_are_ordered_by_reason_and_score(found: Found) -> None:
    keys = [(REASONS.index(row.reasons[0]), -row.score) for row in found.suspects]
    assert keys == sorted(keys)
    assert all(0 <= row.score <= 1 for row in found.suspects)


def test_the_starter_finds_flips_that_a_linear_model_cannot(place: Path, tmp_path: Path) -> None:
    """Words that occur once: only a model that has seen them before knows what they mean."""
    good = ["amazing", "awesome", "brilliant", "delightful", "excellent", "fantastic", "gorgeous", "perfect"]
    bad = ["annoying", "boring", "disgusting", "dreadful", "horrible", "lousy", "nasty", "worthless"]
    rows = [(f"it is {word}", "positive") for word in good] + [(f"it is {word}", "negative") for word in bad]
    rows[3], rows[12] = (rows[3][0], "negative"), (rows[12][0], "positive")
    file = write_csv(tmp_path / "words.csv", rows)
    data = DataConfig(train=str(file), validation=None, test=None)
    config = Config(pretrained="starter", data=data, trainer=TrainerConfig(threads=1))
    wrong = with_reason(find_suspects(config), WRONG_LABEL)
    assert {row.line for row in wrong[:2]} == {5, 14}


def test_a_file_that_changes_meanwhile_is_detected(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "original_texts", lambda *of: dict.fromkeys(of[2], "another text"))
    with pytest.raises(DataError, match=r"rows\.csv: has changed while it was examined; start again"):
        find_suspects(config_of(place))


# -- out of fold -----------------------------------------------------------------------------------


def prepared(file: Path, **data: Any) -> Corpus:
    """Return the corpus of a file, without held-out rows unless given."""
    settings = {"validation": None, "test": None} | data
    return prepare(
        DataConfig(train=str(file), **settings), TextConfig(min_frequency=1), seed=0, cache=cache_folder()
    )


def test_labels_of_a_fold_do_not_influence_its_own_probabilities(
    reviews: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the penalty fixed: it is chosen by all rows."""
    monkeypatch.setattr(logistic_regression, "STRENGTHS", (2.0,))
    monkeypatch.setattr(heads, "PENALTIES", (0.1,))
    corpus = prepared(reviews)
    rows = all_rows(corpus, grouped=False).data
    folds = folds_with_groups(rows, None, seed=0)
    branch = TfidfBranch(len(corpus.vocabulary), 3, buckets=1 << 10)
    before_RC = out_of_fold(rows, corpus.labels, branch, folds).probabilities_RC
    labels = rows.labels.copy()
    labels[folds[0]] = (labels[folds[0]] + 1) % 3
    turned = rows.joined(rows.store, rows.rows, labels)
    after_RC = out_of_fold(turned, corpus.labels, branch, folds).probabilities_RC
    assert np.allclose(before_RC[folds[0]], after_RC[folds[0]], atol=1e-6)
    assert not np.allclose(before_RC[folds[1]], after_RC[folds[1]], atol=1e-3)


@pytest.mark.parametrize("grouped", [False, True])
def test_folds_keep_repeated_texts_and_groups_together(tmp_path: Path, grouped: bool) -> None:
    rows = make_rows(60, longest=8)
    lines = [(f"author {n // 4}", text, label) for n, (text, label) in enumerate([*rows, *rows[:20]])]
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("author", "text", "label"), *lines])
    found = all_rows(
        prepared(tmp_path / "a.csv", group_column="author" if grouped else None), grouped=grouped
    )
    folds = folds_with_groups(found.data, found.groups_R, seed=0)
    assert sorted(np.concatenate(folds).tolist()) == list(range(80))
    fold_of = {row: n for n, fold in enumerate(folds) for row in fold.tolist()}
    assert all(fold_of[row] == fold_of[60 + row] for row in range(20))
    if grouped:
        assert all(fold_of[row] == fold_of[row - row % 4] for row in range(80))


def test_all_rows_are_those_of_every_split_and_repeated_ones(place: Path) -> None:
    corpus = prepared(place / "rows.csv", test=str(place / "test.csv"))
    rows = all_rows(corpus, grouped=False)
    assert len(rows) == 246 + 31
    assert corpus.test is not None
    assert rows.places_of(corpus.test).tolist() == list(range(246, 277))
    assert rows.data.labels[rows.places_of(corpus.train)].tolist() == corpus.train.labels.tolist()
    places = [(str(place / "test.csv"), line) for line in range(2, 33)]
    assert [rows.place(row) for row in range(246, 277)] == places


# -- the table -------------------------------------------------------------------------------------


def table_of(rows: list[tuple[str, int, str, str]], path: Path) -> Path:
    """Write a table of suspects from source, line, text and decision."""
    records = [
        dict.fromkeys(COLUMNS, "")
        | {"source": source, "line": line, "text": text, "decision": decision}
        | {"text_hash": hash_cell(text_hash(text))}
        for source, line, text, decision in rows
    ]
    with open_table(str(path)) as write:
        write(pd.DataFrame(records, dtype=object))
    return path


def test_the_command_writes_the_table(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], found: Found
) -> None:
    out = tmp_path / "suspects.csv"
    rows, test = place / "rows.csv", place / "test.csv"
    argv = [str(rows), f"--out={out}", f"--data.test={test}", "--data.validation=null", "--pretrained=null"]
    suspects.main([*argv, "--trainer.threads=1"])
    printed = capsys.readouterr().out
    assert f"{len(found.suspects)} of 277 rows are suspect; predicted by the linear model alone" in printed
    assert f"written to {out}" in printed
    table = dicts_in(out)
    assert list(table[0]) == list(COLUMNS)
    assert [(row["text"], int(row["line"]), row["reason"]) for row in table] == [
        (row.text, row.line, "; ".join(row.reasons)) for row in found.suspects
    ]
    assert {row["decision"] for row in table} == {""}
    assert all(row["text_hash"] == hash_cell(text_hash(row["text"])) for row in table)


def test_a_spreadsheet_safe_table_has_no_formulas_and_can_be_applied(tmp_path: Path) -> None:
    rows = [*make_rows(30, longest=5), ("=1+1 great", "positive"), ("=1+1 great", "negative")]
    file = write_csv(tmp_path / "rows.csv", rows)
    out, fixed = tmp_path / "suspects.csv", tmp_path / "fixed.csv"
    argv = [str(file), f"--out={out}", "--pretrained=null", "--data.validation=null", "--data.test=null"]
    suspects.main([*argv, "--trainer.threads=1", "--spreadsheet-safe"])
    table = dicts_in(out)
    assert {row["text"] for row in table if "great" in row["text"] and "1+1" in row["text"]} == {
        "'=1+1 great"
    }
    suspects.main([str(file), f"--apply={out}", f"--out={fixed}"])
    assert [(row["text"], row["label"]) for row in dicts_in(fixed)] == rows


def test_a_run_names_its_data_if_it_was_trained_here(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "suspects.csv"
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(tmp_path / "cache"))  # of a user who trained nothing
    with pytest.raises(DataError, match="untrusted; add --rows to read it"):
        suspects.main([str(trained_run), f"--out={out}"])
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(trained_run.parent / "cache"))
    suspects.main([str(trained_run), f"--out={out}"])
    assert out.is_file()
    with pytest.raises(ConfigError, match="leave out --seed=1"):
        suspects.main([str(trained_run), f"--out={out}", "--seed=1"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name the data or a run first"),
        (["rows.csv"], "--out is missing"),
        (["starter", "--out=a.csv"], "the starter comes without its rows"),
        (["rows.csv", "--out=a.csv", "--rows"], "--rows needs a run"),
        (["rows.csv", "--out=a.jsonl", "--spreadsheet-safe"], "needs --out with a name that ends in .csv or"),
        (["rows.csv", "--out=a.csv", "--data.tex_column=a"], "data.tex_column: no such option"),
        (["no.csv", "--out=a.csv", "--pretrained=null"], "no.csv: no such file or folder"),
        (["rows.csv", "--out=no/a.csv"], "no such folder: no"),
    ],
)
def test_mistakes_are_refused(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "rows.csv", make_rows(12))
    with pytest.raises((ConfigError, DataError)) as caught:
        suspects.main(argv)
    assert message in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


# -- the fixed copy --------------------------------------------------------------------------------

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".feather", ".xlsx", ".csv.gz")
ROWS = {
    "id": [7, 8, 9, 10],
    "text": ['a "good" film, really\nso', "=1+1 is bad", " spaced ", "so-so"],
    "label": [1, 0, 1, 0],
    "note": ["x", "-", "12.50", "é"],
}


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table as text."""
    from lstm_sentiment.data.formats.readers import as_text, read_chunks
    from lstm_sentiment.data.formats.writers import records_of
    from lstm_sentiment.data.sources.sources import open_source

    with open_source(str(path)) as source:
        rows = [record for chunk in read_chunks(source) for record in records_of(chunk.frame)]
    return [{name: as_text(value) for name, value in row.items()} for row in rows]


def lines_of(path: Path) -> list[int]:
    """Return the line of each row of a table."""
    from lstm_sentiment.data.formats.readers import read_chunks
    from lstm_sentiment.data.sources.sources import open_source

    with open_source(str(path)) as source:
        return [line for chunk in read_chunks(source) for line in chunk.lines.tolist()]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_copy_has_the_decisions_and_no_other_changes(tmp_path: Path, ending: str) -> None:
    file, out = tmp_path / f"rows{ending}", tmp_path / f"fixed{ending}"
    with open_table(str(file)) as write:
        write(pd.DataFrame(ROWS))
    texts, lines = ROWS["text"], lines_of(file)
    decisions = ["negative", "drop", "", "1"]
    table = table_of(
        [(str(file), *of) for of in zip(lines, map(str, texts), decisions, strict=True)], tmp_path / "s.csv"
    )
    data = DataConfig(train=str(file), labels={0: "negative", 1: "positive"})
    copied = write_fixed_copy(data, str(table), str(out))
    before, after = read_table(file), read_table(out)
    expected = [before[0] | {"label": "0"}, before[2], before[3] | {"label": "1"}]
    assert after == expected
    assert list(after[0]) == list(before[0])
    assert (copied.rows, copied.dropped, copied.relabelled, copied.of_others) == (3, 1, 2, 0)
    if ending == ".parquet":
        import pyarrow.parquet as pq

        assert pq.read_schema(out).types == pq.read_schema(file).types


def test_a_copy_of_a_file_without_a_header_has_none(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("good,positive\nbad,negative\nmeh,negative\n")
    table = table_of([("rows.csv", 3, "meh", "drop")], tmp_path / "s.csv")
    data = DataConfig(train=str(tmp_path / "rows.csv"), header=False, text_column="1", label_column="2")
    write_fixed_copy(data, str(table), str(tmp_path / "fixed.csv"))
    assert (tmp_path / "fixed.csv").read_text().split() == ["good,positive", "bad,negative"]


def test_rows_of_other_files_are_counted_and_ignored(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "rows.csv", [("good", "positive"), ("bad", "negative")])
    table = table_of(
        [("rows.csv", 2, "good", "drop"), ("test.csv", 2, "fine", "drop")], tmp_path / "suspects.csv"
    )
    copied = write_fixed_copy(DataConfig(train=str(file)), str(table), str(tmp_path / "fixed.csv"))
    assert (copied.rows, copied.dropped, copied.of_others) == (1, 1, 1)


def test_a_table_without_rows_changes_nothing(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "rows.csv", rows := make_rows(30, longest=5))
    (tmp_path / "suspects.csv").write_text(",".join(COLUMNS) + "\n")
    table, out = str(tmp_path / "suspects.csv"), tmp_path / "fixed.csv"
    write_fixed_copy(DataConfig(train=str(file)), table, str(out))
    assert [(row["text"], row["label"]) for row in dicts_in(out)] == rows
    assert len(prepared(file, exclude_rows=table).train) == 30


Row = tuple[str, int, str, str]
REFUSED: dict[str, tuple[list[Row], str]] = {
    "a decision that is neither": (
        [("rows.csv", 2, "good", "postive")],
        "suspects.csv:2: column 'decision': 'postive' is neither drop nor one of positive, negative; correct "
        "it, or leave it empty. Did you mean 'positive'?",
    ),
    "another text": (
        [("rows.csv", 2, "fine", "")],
        "suspects.csv:2: column 'text_hash': rows.csv has another text at line 2; name the file that was "
        "examined",
    ),
    "another line": ([("rows.csv", 3, "good", "")], "rows.csv has another text at line 3"),
    "another file": (
        [("test.csv", 2, "good", "")],
        "suspects.csv: has no row of rows.csv, but of 'test.csv'; name one of these as the data",
    ),
    "two decisions": (
        [("rows.csv", 2, "good", "drop"), ("rows.csv", 2, "good", "negative")],
        "suspects.csv:3: column 'decision': another row of this table decides differently on the same row",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_does_not_fit_is_refused(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(Path("rows.csv"), [("good", "positive"), ("bad", "negative")])
    rows, message = REFUSED[case]
    table_of(rows, Path("suspects.csv"))
    with pytest.raises(DataError) as caught:
        suspects.main(["rows.csv", "--apply=suspects.csv", "--out=fixed.csv"])
    assert str(caught.value).startswith(message) or message in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", "suspects.csv"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("x,hffffffffffffffff", "suspects.csv:2: column 'line': 'x' is not the number of a line"),
        ("2,1.2E+16", "suspects.csv:2: column 'text_hash': '1.2E+16' is not the hash of a text"),
    ],
)
def test_a_mangled_table_is_refused(
    tmp_path: Path, cell: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(Path("rows.csv"), [("good", "positive"), ("bad", "negative")])
    Path("suspects.csv").write_text(f"source,line,text_hash,decision\nrows.csv,{cell},\n")
    with pytest.raises(DataError) as caught:
        suspects.main(["rows.csv", "--apply=suspects.csv", "--out=fixed.csv"])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("out", ["rows.csv", "./rows.csv", "suspects.csv", "link.csv"])
def test_the_files_that_are_read_are_not_overwritten(
    tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = write_csv(Path("rows.csv"), [("good", "positive"), ("bad", "negative")]).read_bytes()
    Path("link.csv").hardlink_to("rows.csv")
    table_of([("rows.csv", 2, "good", "drop")], Path("suspects.csv"))
    with pytest.raises(DataError, match="is read by this command and is not overwritten"):
        suspects.main(["rows.csv", "--apply=suspects.csv", f"--out={out}"])
    assert Path("rows.csv").read_bytes() == before


def test_a_label_that_removes_rows_is_refused(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "rows.csv", [("good", "keep"), ("bad", "drop")])
    table = table_of([("rows.csv", 2, "good", "drop")], tmp_path / "suspects.csv")
    with pytest.raises(DataError, match="has the label 'drop', which in a table of suspects removes a row"):
        write_fixed_copy(DataConfig(train=str(file)), str(table), str(tmp_path / "fixed.csv"))


def test_invalid_bytes_are_not_replaced_in_a_copy(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"text,label\ngood\xff,positive\nbad,negative\n")
    table = table_of([("rows.csv", 3, "bad", "drop")], tmp_path / "suspects.csv")
    argv = [str(tmp_path / "rows.csv"), f"--apply={table}", f"--out={tmp_path / 'fixed.csv'}"]
    with pytest.raises(DataError, match=r"rows\.csv:2: byte 0xff"):
        suspects.main(argv)
    suspects.main([*argv, "--data.encoding_errors=replace"])
    assert len(read_table(tmp_path / "fixed.csv")) == 1


# -- training without them -------------------------------------------------------------------------


@pytest.fixture
def excluding(tmp_path: Path) -> Callable[..., Corpus]:
    """A function that returns the corpus of rows without some of them, given as (line, text, decision)."""
    file = write_csv(tmp_path / "rows.csv", make_rows(90, longest=6))

    def corpus_of(*rows: tuple[int, str, str], **data: Any) -> Corpus:
        table = table_of([("rows.csv", *row) for row in rows], tmp_path / "suspects.csv")
        return prepared(file, **({"exclude_rows": str(table)} if rows else {}), **data)

    return corpus_of


def lines_in(corpus: Corpus, split: str) -> list[int]:
    of = corpus.splits[split]
    found: list[int] = of.store.lines[of.rows].tolist()
    return found


def test_only_training_rows_are_left_out(excluding: Callable[..., Corpus]) -> None:
    """Otherwise test scores with and without the suspects could not be compared."""
    texts = [text for text, _ in make_rows(90, longest=6)]
    shares = {"validation": 0.2, "test": 0.2}
    before = excluding(**shares)
    gone = [*lines_in(before, "train")[:5], *lines_in(before, "test")[:5]]
    after = excluding(*((line, texts[line - 2], "") for line in gone), **shares)
    assert lines_in(after, "train") == lines_in(before, "train")[5:]
    for split in ("validation", "test"):
        assert lines_in(after, split) == lines_in(before, split)
    assert after.facts.excluded_rows == 5
    assert after.fingerprint != before.fingerprint, "resuming compares it"


def test_the_log_counts_the_rows_that_are_left_out(
    excluding: Callable[..., Corpus], caplog: pytest.LogCaptureFixture
) -> None:
    corpus = excluding((2, make_rows(90, longest=6)[0][0], ""))
    with caplog.at_level("INFO"):
        report_data(corpus, Config(data=DataConfig(exclude_rows="suspects.csv")), "")
    assert "  train: 1 rows left out by suspects.csv" in caplog.text


def test_the_model_card_counts_the_rows_that_were_left_out(trained_run: Path) -> None:
    folder = RunFolder(trained_run)
    config = read_config(trained_run / "config.yaml")
    reports = read_reports(
        {name: folder.read_json(name) for name in REPORTS}, load(trained_run).labels, run=trained_run
    )
    assert reports.data.excluded_rows is None
    assert "suspect" not in model_card(name="me/tweets", config=config, reports=reports)
    without = dataclasses.replace(reports, data=dataclasses.replace(reports.data, excluded_rows=5))
    card = model_card(name="me/tweets", config=config, reports=without)
    assert "; 5 suspect rows left out of the training rows." in card


def test_if_some_are_decided_the_others_stay(excluding: Callable[..., Corpus]) -> None:
    texts = [text for text, _ in make_rows(90, longest=6)]
    rows = [(2, texts[0], ""), (3, texts[1], "drop"), (4, texts[2], "neutral")]
    assert lines_in(excluding(*rows), "train") == [2, *range(5, 92)]
    assert lines_in(excluding(rows[0]), "train") == list(range(3, 92))


def test_words_of_left_out_rows_are_not_in_the_vocabulary(excluding: Callable[..., Corpus]) -> None:
    texts = [text for text, _ in make_rows(90, longest=6)]
    own = texts[0].split()[-1]
    assert own in excluding().vocabulary.tokens
    assert own not in excluding((2, texts[0], "")).vocabulary.tokens


def test_rows_that_moved_are_left_out_by_their_text(excluding: Callable[..., Corpus]) -> None:
    texts = [text for text, _ in make_rows(90, longest=6)]
    assert lines_in(excluding((77, texts[0], "")), "train") == list(range(3, 92))


def test_a_repeated_text_takes_the_place_of_a_row_that_is_left_out(tmp_path: Path) -> None:
    rows = [("so good", "negative"), *make_rows(30, longest=6), ("so good", "positive")]
    file = write_csv(tmp_path / "rows.csv", rows)
    table = table_of([("rows.csv", 2, "so good", "drop")], tmp_path / "suspects.csv")
    assert lines_in(prepared(file), "train") == list(range(2, 33))
    assert lines_in(prepared(file, exclude_rows=str(table)), "train") == list(range(3, 34))


def test_phrases_of_a_left_out_sentence_are_left_out_too(tmp_path: Path) -> None:
    trees = [
        "(1 (1 bad) (2 food))",
        "(3 (3 good) (2 film))",
        "(1 (1 worse) (2 room))",
        "(3 (3 fine) (2 day))",
    ]
    (tmp_path / "a.txt").write_text("\n".join(trees) + "\n")
    table = table_of([("a.txt", 2, "good film", "")], tmp_path / "suspects.csv")
    settings = {"phrases": 0.5, "labels": {1: "negative", 3: "positive", 2: None}}
    file = tmp_path / "a.txt"
    assert set(lines_in(prepared(file, **settings), "train")) == {1, 2, 3, 4}
    assert set(lines_in(prepared(file, exclude_rows=str(table), **settings), "train")) == {1, 3, 4}


def test_a_table_of_other_data_is_refused(excluding: Callable[..., Corpus]) -> None:
    with pytest.raises(DataError, match=r"suspects\.csv: none of its 1 rows is a row of .*rows\.csv"):
        excluding((2, "another text", ""))


def test_the_setting_is_compared_on_resuming_and_may_not_be_a_url_of_a_run() -> None:
    assert "data.exclude_rows" not in FREE_ON_RESUME | NOTED_ON_RESUME
    with pytest.raises(DataError, match="is a URL in a run folder"):
        refuse_addresses(DataConfig(train="a.csv", exclude_rows="https://host/suspects.csv"))
    with pytest.raises(ConfigError, match=r"data\.exclude_rows: must not be empty"):
        DataConfig(exclude_rows=" ")


def test_suspects_are_searched_among_the_rows_that_were_left_out_too(place: Path, tmp_path: Path) -> None:
    table = table_of([("rows.csv", 10, "", "")], tmp_path / "suspects.csv")
    found = find_suspects(config_of(place, exclude_rows=str(table)))
    assert found.rows == 277
