"""Slices of rows, and comparisons as Markdown, LaTeX and HTML: hostile names survive in each format."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import make_rows, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_sentiment import evaluate
from lstm_sentiment.comparison.slices import FEW_ROWS, MOST_SLICES, slice_lines, slice_scores, slices_of
from lstm_sentiment.comparison.tables import FORMATS, Table, as_html, latex, markdown, tables_of
from lstm_sentiment.comparison.verdicts import compare_all
from lstm_sentiment.errors import DataError, escaped
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.evaluation.significance import score_intervals

LABELS = ["negative", "neutral", "positive"]


def names_and_rows(by: str, values: list[str]) -> list[tuple[str, list[str]]]:
    """Return the name and the values of each slice."""
    return [(of.name, [v for v, inside in zip(values, of.rows_R, strict=True) if inside])
            for of in slices_of(by, values)]  # fmt: skip


@given(st.lists(st.sampled_from(["", "1", "2.5", "-3", "north", "South", "1e3"]), min_size=1, max_size=60))
def test_a_row_is_in_one_slice_and_none_is_empty(values: list[str]) -> None:
    for by in ("stars", "length"):
        inside = np.stack([of.rows_R for of in slices_of(by, values)])
        assert inside.sum(axis=0).tolist() == [1] * len(values)
        assert inside.any(axis=1).all()


def test_few_values_are_a_slice_each_in_order() -> None:
    numbers = ["10", "9", "", "9", "10"]
    assert names_and_rows("stars", numbers) == [("9", ["9", "9"]), ("10", ["10", "10"]), ("(missing)", [""])]
    assert [name for name, _ in names_and_rows("city", ["b", "A", "10", "9"])] == ["10", "9", "A", "b"]


def test_many_numbers_are_cut_into_quartiles() -> None:
    """As by counting: each slice holds a quarter of the rows, and slices are in order."""
    values = np.random.default_rng(0).permutation([f"{n / 4}" for n in range(100)]).tolist()
    *found, missing = names_and_rows("price", [*values, ""])
    ordered = sorted(values, key=float)
    quarters = [ordered[start : start + 25] for start in range(0, 100, 25)]
    assert [sorted(inside, key=float) for _, inside in found] == quarters
    assert [name for name, _ in found] == [f"{of[0]} to {of[-1]}" for of in quarters]
    assert missing == ("(missing)", [""])


def test_equal_lengths_stay_together() -> None:
    found = names_and_rows("length", ["3"] * 50 + ["4", "9", "12"])
    assert [(name, len(inside)) for name, inside in found] == [("3 tokens", 50), ("4 to 12 tokens", 3)]


def test_of_many_categories_the_most_frequent_are_shown() -> None:
    values = [f"city {n}" for n in range(MOST_SLICES + 7) for _ in range(40 - n)]
    found = names_and_rows("city", values)
    assert len(found) == MOST_SLICES + 1
    assert {name for name, _ in found[:-1]} == {f"city {n}" for n in range(MOST_SLICES)}
    assert found[-1][0] == "(7 other values)"
    assert set(found[-1][1]) == {f"city {n}" for n in range(MOST_SLICES, MOST_SLICES + 7)}


def test_scores_of_a_slice_are_those_of_its_rows() -> None:
    random = np.random.default_rng(0)
    truth_R, predicted_R = random.integers(0, 3, (2, 200))
    values = [*random.choice(["a", "b"], 200).tolist(), "small"]
    truth_R, predicted_R = np.append(truth_R, 1), np.append(predicted_R, 1)
    found = slice_scores(slices_of("part", values), truth_R, predicted_R, LABELS)
    for of in found:
        mine = np.array(values) == of.name
        expected = score(truth_R[mine], np.eye(3)[predicted_R[mine]], LABELS)
        assert of.rows == expected["rows"] == mine.sum()
        intervals = score_intervals(expected.confusion, LABELS)
        for metric, interval in of.scores.items():
            assert interval["value"] == pytest.approx(expected[metric])
            assert interval["low"] == pytest.approx(intervals[metric]["low"], abs=0.02)
            assert interval["high"] == pytest.approx(intervals[metric]["high"], abs=0.02)
    assert [of.few for of in found] == [False, False, True]
    assert [of.without for of in found] == [[], [], ["negative", "positive"]]
    lines = slice_lines("part", found, {"macro_f1": "macro-F1", "accuracy": "accuracy"})
    assert lines[3].endswith("  * few rows")
    assert f"  few rows: fewer than {FEW_ROWS}, too few to conclude anything" in lines


def test_evaluate_scores_slices_of_several_files(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("mail", 5), ("web", 6)):
        write_csv(tmp_path / f"{name}.csv", make_rows(60, seed=seed))
        evaluate.main([str(trained_run), f"{name}.csv", "--out", f"{name}.json"])
    capsys.readouterr()
    argv = [str(trained_run), "mail.csv", "--slices=source", "--slices=length", "web.csv", "--out=both.json"]
    evaluate.main(argv)
    shown, found = capsys.readouterr().out, json.loads(Path("both.json").read_text())
    assert (found["file"], found["rows"]) == (["mail.csv", "web.csv"], 120)
    for of, name in zip(found["slices"]["source"], ("mail", "web"), strict=True):
        alone = json.loads(Path(f"{name}.json").read_text())
        assert (of["name"], of["rows"]) == (f"{name}.csv", 60)
        for metric in ("accuracy", "macro_f1", "flip_rate"):
            assert of["scores"][metric]["value"] == pytest.approx(alone[metric])
    assert sum(of["rows"] for of in found["slices"]["length"]) == 120
    assert "by source" in shown
    assert " tokens " in shown


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (
            "lable",
            r"rows\.csv: no column 'lable' \(--slices\); the file has 'text'.* mean 'label'\?",
        ),
        ("sources", r"no column 'sources' .* Did you mean 'source'\?"),
    ],
)
def test_an_unknown_column_is_named_before_the_work(
    trained_run: Path, tmp_path: Path, column: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_csv(tmp_path / "rows.csv", make_rows(12))
    with pytest.raises(DataError, match=expected):
        evaluate.main([str(trained_run), str(rows), f"--slices={column}", f"--out={tmp_path / 'out.json'}"])
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "out.json").exists()


# -- tables ----------------------------------------------------------------------------------------

HOSTILE = [
    "runs/50%_of $all & #1 {x} ~ ^ \\",
    "a|b <script>alert('1')</script> `code` *bold* [link](https://example.org)",
    "two\nlines\tand \x1b[31mred \"quotes\" -- and --- ``x'' \\\\[1em]",
    "*",
    "[5pt]",
]
names = st.text(st.sampled_from("ab\\|`*_{}[]<>#~&$@!%^\"'-:/.\n"), min_size=1, max_size=30)


def table_of(*cells: str) -> Table:
    return Table(caption="of " + cells[0], head=["system", "p"], rows=[[cell, "0.1"] for cell in cells],
                 notes=[])  # fmt: skip


def markdown_cells(text: str) -> list[str]:
    """Return the first cell of each row of a table: bars separate cells, a backslash escapes a character."""
    found = []
    for line in [line for line in text.splitlines() if line.startswith("| ")][2:]:
        parts = re.findall(r"\\.|[^\\]", line)
        cells = "".join("\0" if part == "|" else part[-1] for part in parts).split("\0")
        assert len(cells) == 4, line
        found.append(cells[1].strip())
    return found


LATEX = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<"}
LATEX |= {"textgreater": ">", "textbar": "|", "symbol{34}": '"'}


def latex_cells(text: str) -> list[str]:
    """Return the first cell of each row of a tabular, as LaTeX typesets it."""
    found = []
    for line in text.split("\\hline")[2].strip().splitlines():
        row = line.strip()
        assert row.endswith(" & 0.1 \\\\")
        cell = row.removesuffix(" & 0.1 \\\\")
        assert not re.search(r"(?<!\\)[&%#$_~^]|--|``|\'\'|(?<!\{)[\[*]", cell), cell
        for name, character in LATEX.items():
            cell = cell.replace(f"\\{name}" + ("" if "{" in name else "{}"), f"\0{ord(character)};")
        cell = re.sub(r"\\([{}#$%&_])", lambda of: f"\0{ord(of[1])};", cell)
        assert "\\" not in cell
        cell = re.sub(r"[{}]", "", cell)  # groups are invisible
        found.append(re.sub("\0([0-9]+);", lambda of: chr(int(of[1])), cell))
    return found


class Cells(HTMLParser):
    """Collects the text of table cells; no other elements than those of a table may occur."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        assert tag in ("table", "caption", "thead", "tbody", "tr", "th", "td"), tag
        if tag == "td":
            self.found.append("")
        self.inside = tag

    def handle_data(self, data: str) -> None:
        if self.inside == "td" and data.strip():
            self.found[-1] += data


def html_cells(text: str) -> list[str]:
    """Return the first cell of each row of a page's table."""
    parser = Cells()
    parser.feed(text)
    parser.close()
    return parser.found[::2]


CELLS = {"markdown": (markdown, markdown_cells), "latex": (latex, latex_cells), "html": (as_html, html_cells)}


@pytest.mark.parametrize("format_", CELLS)
@given(names)
@settings(max_examples=60, deadline=None)
def test_names_are_shown_as_they_are(format_: str, name: str) -> None:
    write, cells_of = CELLS[format_]
    assert cells_of(write([table_of("x" + name, "y")])) == [escaped("x" + name).strip(), "y"]


@pytest.mark.parametrize("format_", CELLS)
def test_hostile_names_are_shown_as_they_are(format_: str) -> None:
    write, cells_of = CELLS[format_]
    assert cells_of(write([table_of(*HOSTILE)])) == [escaped(name) for name in HOSTILE]


def test_tables_have_every_system_and_slice() -> None:
    random = np.random.default_rng(0)
    truth_R, *predictions = random.integers(0, 3, (4, 90))
    found = compare_all(
        file="https://me:secret@example.org/test.csv?key=1",
        titles=["ours_1", "theirs", "<b>"],
        truth_R=truth_R,
        predictions=predictions,
        labels=LABELS,
        metric="macro_f1",
        slices={"city": slices_of("city", ["north", "south"] * 45)},
    )
    systems, cities = tables_of(found)
    assert [row[0] for row in systems.rows] == ["A: ours_1", "B: theirs", "C: <b>"]
    assert systems.head == ["system", "macro-F1", "difference to A", "p", "accuracy", "difference to A", "p"]
    of = found.pairs[1].compared.scores["macro_f1"]
    assert systems.rows[2][1].startswith(f"{of.second:.4f} (")
    assert systems.rows[2][2] == f"{of.difference:+.4f} ({of.low:+.4f} to {of.high:+.4f})"
    assert systems.notes[:2] == [verdict.sentence for verdict in found.pairs[0].verdicts]
    assert "Holm" in systems.notes[-1]
    assert [row[:2] for row in cities.rows] == [["north", "45"], ["south", "45"]]
    for write in FORMATS.values():
        text = write([systems, cities])
        assert "secret" not in text
        assert "key=1" not in text
        assert "90 rows of " in text
