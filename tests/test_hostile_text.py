"""Untrusted text is escaped in all outputs: pages, cards, terminals, logs and tables.

Labels, texts, tokens and every name in a run folder are hostile here; outputs are compared with those of the
same run with harmless names.
"""

from __future__ import annotations

import contextlib
import csv
import html.parser
import io
import json
import logging
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from attacks import GOOD_RUN, sign
from conftest import write_csv

from lstm_sentiment import evaluate, explain, load, predict, report
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.data.formats import writers as tables
from lstm_sentiment.data.formats.writers import open_table, to_json_line
from lstm_sentiment.errors import DataError
from lstm_sentiment.experiment.launching import log_to_stdout

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": "<img src=x onerror=alert(1)>",
    "attribute": '"><svg onload=alert(1)>',
    "end of a script": "</script></style></title></textarea><iframe src=//a.b>",
    "address": "javascript:alert(1)",
    "link": "[click](javascript:alert(1)) ![](http://a.b/c.png) <http://a.b>",
    "table": "a | b || `c` *d* _e_ ~f~",
    "template": "{{ 7 * 7 }} {% raw %} ${7*7} #{7*7}",
    "terminal": "\x1b]0;owned\x07\x1b[31m\x9b31m\x08\x7f",
    "lines": "good\r\nerror: all is lost\x0b\x0c\x85\u2028",
    "directions": "\u202egood\u2066\u200f",
    "formula": "=cmd|' /C calc'!A0",
}
LABELS = ("negative", "neutral", "positive")
TEXTS = ["great", "the awful bed"]


def renamed(value: Any, names: dict[str, str]) -> Any:
    """Return a JSON value with class names, as keys and as values, replaced."""
    if isinstance(value, dict):
        return {names.get(key, key): renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


ALL = "".join(HOSTILE.values())


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, list[str]]:
    """A run with hostile class names and other strings; and these names."""
    run = Path(shutil.copytree(GOOD_RUN, tmp_path / "run"))
    names = {label: f"{ALL}{i}" for i, label in enumerate(LABELS)}
    for file in ("labels.json", "metrics.json", "data.json"):
        content = json.loads((run / file).read_text("utf-8"))
        (run / file).write_text(json.dumps(renamed(content, names)), "utf-8")
    strange = dict.fromkeys(("lstm_sentiment", "cpu", "device", "system"), ALL)
    environment = json.loads((run / "environment.json").read_text("utf-8")) | strange
    environment["packages"][ALL] = ALL
    (run / "environment.json").write_text(json.dumps(environment), "utf-8")
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    config["data"]["train"] = config["out"] = f"{ALL}.csv"
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), "utf-8")
    sign(run)
    return run, list(names.values())


class Tags(html.parser.HTMLParser):
    """Counts the elements and attributes of a page and collects its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: Counter[tuple[str, ...]] = Counter()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found[(tag, *(name for name, _ in attributes))] += 1
        for name, value in attributes:
            assert not name.startswith("on")
            leads_out = re.match(r"\s*(javascript|data|https?):", value or "")
            assert not leads_out or name.startswith("xmlns") or value == "data:,"  # the page's own empty icon

    def handle_data(self, data: str) -> None:
        self.text += data


def plain(shown: str) -> bool:
    """Whether a text has no terminal control characters."""
    return all(c.isprintable() or c == "\n" for c in shown)


# -- pages and cards ---------------------------------------------------------------------------------


def test_hostile_text_adds_no_elements_to_a_report(hostile: tuple[Path, list[str]], tmp_path: Path) -> None:
    run, _ = hostile
    good = Path(shutil.copytree(GOOD_RUN, tmp_path / "good"))
    (good / "environment.json").write_text((run / "environment.json").read_text("utf-8").replace("<", ""))
    pages = []
    for folder in (good, run):
        report.main([str(folder)])
        pages.append(Tags((folder / "report.html").read_text("utf-8")))
    expected, found = pages
    assert set(found.found) == set(expected.found)
    assert found.found["script",] == found.found["iframe",] == found.found["img", "src", "onerror"] == 0
    assert HOSTILE["script"] in found.text


def test_hostile_text_adds_no_elements_to_an_explanation(
    hostile: tuple[Path, list[str]], tmp_path: Path
) -> None:
    run, labels = hostile
    pages = []  # of truncated texts
    for folder, text in ((GOOD_RUN, "a great bed " * 200), (run, f"a great {labels[0]}")):
        page = tmp_path / f"{folder.parent.name}.html"
        explain.main([str(folder), text, "--method=occlusion", f"--html={page}"])
        pages.append(Tags(page.read_text("utf-8")))
    assert {tag for tag, *_ in pages[1].found} == {tag for tag, *_ in pages[0].found}
    assert HOSTILE["script"] in pages[1].text


def test_hostile_text_does_not_change_the_structure_of_a_model_card(
    hostile: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Its tables have the same number of cells, and Markdown and HTML are escaped."""
    run, _ = hostile
    cards = []
    for name, folder in (("good", GOOD_RUN), ("bad", run)):
        load(folder).save_pretrained(tmp_path / name, name="user/model")
        cards.append((tmp_path / name / "README.md").read_text("utf-8").split("---\n", 2))
    (_, good_facts, good), (_, facts, card) = cards
    assert yaml.safe_load(facts).keys() == yaml.safe_load(good_facts).keys()
    assert "license" not in yaml.safe_load(facts)
    lines, good_lines = card.splitlines(), good.splitlines()
    assert len(lines) == len(good_lines)
    bare = re.compile(r"(?<!\\)[|`]")
    assert [len(bare.findall(line)) for line in lines] == [len(bare.findall(line)) for line in good_lines]
    assert not re.search(r"(?<!\\)<|(?<!\\)\]\(", card)
    assert not [line for line in lines if re.search("[\x00-\x1f\x7f-\x9f\u202e\u2066]", line)]


# -- terminal and log --------------------------------------------------------------------------------


def test_commands_escape_hostile_text(
    hostile: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, labels = hostile
    predict.main([str(run), *TEXTS, labels[1], "--coverage=0.9", "--details"])
    shown = capsys.readouterr().out
    assert plain(shown)
    assert len(shown.splitlines()) == len(TEXTS) + 1, "a text became a line of its own"
    rows = tmp_path / "rows.jsonl"
    answers = [{"text": text, "label": label} for text in TEXTS for label in labels]
    rows.write_text("".join(json.dumps(row) + "\n" for row in answers), "utf-8")
    evaluate.main([str(run), str(rows), f"--out={tmp_path / 'scores.json'}"])
    shown = capsys.readouterr().out
    assert plain(shown)
    assert len(shown.splitlines()) == 1 + 1 + 1 + len(labels) + 1
    explain.main([str(run), labels[0], "--method=occlusion"])
    assert plain(capsys.readouterr().out)
    predict.main([str(run), f"--file={rows}"])
    lines = capsys.readouterr().out
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028]", lines)
    assert [json.loads(line)["label"] for line in lines.rstrip("\n").split("\n")] == [*labels] * len(TEXTS)


@contextlib.contextmanager
def logging_to_stdout() -> Iterator[None]:
    """Log like a command within the block."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        log_to_stdout()
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_log_line_is_one_line_of_text(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stdout():
        log = logging.getLogger("lstm_sentiment.test")
        log.info("rows of %s: %d", text, 3)
        log.warning("%s", DataError(text, file=text))
    shown = capsys.readouterr().out
    assert plain(shown)
    assert len(shown.split("\n")) == 3
    assert shown.startswith("rows of ")


def test_other_packages_log_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stdout():
        for name in ("lstm_sentiment.training.trainer", "matplotlib.font_manager"):
            logging.getLogger(name).info("a note")
            logging.getLogger(name).warning("a warning")
    assert capsys.readouterr().out.splitlines() == ["a note", "a warning", "a warning"]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_in_errors_is_escaped(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(_: list[str]) -> None:
        raise DataError(f"has no {text}", file=f"{text}.csv", column=text)

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as left:
        run_command(main)
    assert left.value.code == 2
    assert plain(capsys.readouterr().err)


def test_unescaped_text_controls_the_terminal() -> None:
    """The control: the escaped characters are control sequences."""
    assert [name for name, text in HOSTILE.items() if not plain(text)] == ["terminal", "lines", "directions"]
    found = Tags(f"<p>{HOSTILE['end of a script']}{HOSTILE['script']}</p>").found
    assert found["script",] == found["iframe", "src"] == 1
    with pytest.raises(AssertionError):
        Tags(HOSTILE["image"])


# -- tables ------------------------------------------------------------------------------------------

FORMULAS = {  # text -> written cell
    "=1+1": "'=1+1",
    "+1+cmd|' /C calc'!A0": "'+1+cmd|' /C calc'!A0",
    "-1+1": "'-1+1",
    "@SUM(A1)": "'@SUM(A1)",
    "\t=1": "'\t'=1",
    "\r=1": "'\r'=1",
    "\n=1": "'\n'=1",
    "\n so good": "'\n so good",
    "= so good": "'= so good",
    "-": "'-",
    " =1": "' =1",
    "\xa0=1": "'\xa0=1",
    '"=1"': '\'"=1"',
    "\ufeff=1": "'\ufeff=1",
    "\u200b@x": "'\u200b@x",
    "\uff1d1+1": "'\uff1d1+1",
    "\uff0b1+1": "'\uff0b1+1",
    "\uff0d1+1": "'\uff0d1+1",
    "\uff20SUM(A1)": "'\uff20SUM(A1)",
    "\ufe661+1": "'\ufe661+1",
    "\u22121+1": "'\u22121+1",
    "good;=1+1": "good;'=1+1",
    "good; =1+1": "good;' =1+1",
    'good;"=1+1"': 'good;\'"=1+1"',
    "good,=1+1": "good,'=1+1",
    "good|=1+1": "good|'=1+1",
    "good\t@x": "good\t'@x",
    "good\n=1+1": "good\n'=1+1",
    "good\r\n=1+1": "good\r\n'=1+1",
    "a;-1;-1x;=2": "a;'-1;'-1x;'=2",
    "good; -0.5": "good;' -0.5",
    "so good, -- really": "so good,' -- really",
}
HARMLESS = [
    "good",
    "-0.5",
    "+3",
    "-1e-05",
    "",
    "a=1",
    "'=1",
    "so-so",
    "5 stars",
    "a@b.org",
    "1-2;3",
]
SIGNS = "=+-@\uff1d\uff0b\uff0d\uff20\ufe62\ufe63\ufe66\ufe6b\u2212"


def labelled(folder: Path, texts: Iterable[str], ending: str, *more: str) -> Path:
    """Predict texts and write them as a table."""
    rows, out = folder / "rows.jsonl", folder / f"out.{ending}"
    records = ({"n": 0, "text": text, "=note": "=1"} for text in texts)
    rows.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    predict.main([str(GOOD_RUN), f"--file={rows}", f"--out={out}", *more])
    return out


@pytest.mark.parametrize("ending", ["csv", "tsv", "CSV.gz"])
def test_spreadsheet_safe_tables_have_no_formulas(tmp_path: Path, ending: str) -> None:
    out = labelled(tmp_path, [*FORMULAS, *HARMLESS], ending, "--spreadsheet-safe")
    found = pd.read_csv(out, sep="\t" if ending == "tsv" else ",", dtype=str, keep_default_na=False)
    assert list(found.columns)[:4] == ["n", "text", "'=note", "predicted_label"]
    assert found["text"].tolist() == [*FORMULAS.values(), *HARMLESS]
    assert set(found["'=note"]) == {"'=1"}
    assert found["probability_positive"].astype(float).between(0, 1).all()


def computed(file: Path, separator: str) -> list[str]:
    """Return the cells that a spreadsheet with this separator would evaluate."""
    with file.open(newline="", encoding="utf-8") as opened:
        content = opened.read()
    lines = io.StringIO(content, newline=None)  # a carriage return alone ends a line too
    cells = [cell for row in csv.reader(lines, delimiter=separator) for cell in row]
    cells += [cell for line in content.splitlines() for cell in line.split(separator)]  # without quotes
    begun = [cell.lstrip(' "\xa0\ufeff\u200b').rstrip(' "') for cell in cells]
    number = re.compile(r"[-+]?[\d.]+(e-?\d+)?")
    return [cell for cell in begun if cell and cell[0] in SIGNS and not number.fullmatch(cell)]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_leading_number_is_escaped_for_other_separators(tmp_path: Path, ending: str) -> None:
    rows = [{"n": "-1", "text": "2+cmd|' /C calc'!A0"}, {"n": "-0.5", "text": "+3"}, {"n": "7", "text": "-2"}]
    file, out = tmp_path / "rows.jsonl", tmp_path / f"out.{ending}"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predict.main([str(GOOD_RUN), f"--file={file}", f"--out={out}", "--spreadsheet-safe"])
    found = pd.read_csv(out, sep="\t" if ending == "tsv" else ",", dtype=str)
    assert found["n"].tolist() == ["'-1", "'-0.5", "7"]
    assert found["text"].tolist() == ["2+cmd|' /C calc'!A0", "+3", "-2"]


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_spreadsheet_safe_tables_have_no_formulas_for_any_separator(tmp_path: Path, ending: str) -> None:
    safe = labelled(tmp_path, [*FORMULAS, *HARMLESS], ending, "--spreadsheet-safe")
    assert [cell for separator in ",;\t|" for cell in computed(safe, separator)] == []
    unsafe = labelled(tmp_path, [*FORMULAS, *HARMLESS], ending)
    for separator in ",;\t|":  # the control
        assert computed(unsafe, separator)


def test_escaping_formulas_takes_linear_time() -> None:
    texts = ["\n" * 200_000 + "=", "; " * 100_000, " " * 200_000 + "=", ";-1" * 70_000, "=;" * 100_000]
    started = time.process_time()
    for text in (*texts, ";" + '"' * 200_000, ';"' * 100_000, "-" + "1" * 200_000 + "x"):
        tables._inert(text)
    assert time.process_time() - started < 5


def test_by_default_texts_are_written_unchanged(tmp_path: Path) -> None:
    rows = write_csv(tmp_path / "rows.csv", [(text, "positive") for text in list(FORMULAS)[:4]])
    predict.main([str(GOOD_RUN), f"--file={rows}", f"--out={tmp_path / 'out.csv'}"])
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        assert [row["text"] for row in csv.DictReader(file)] == list(FORMULAS)[:4]


@pytest.mark.parametrize("argv", [["--out=a.jsonl"], ["--out=a.parquet"], []])
def test_a_spreadsheet_safe_table_needs_a_spreadsheet_format(argv: list[str]) -> None:
    with pytest.raises(Exception, match="--spreadsheet-safe needs --out with a name that ends in"):
        predict.main(["run", "--file=rows.csv", *argv, "--spreadsheet-safe"])


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_tables_round_trip(tmp_path: Path, text: str) -> None:
    assert json.loads(to_json_line({"text": text})) == {"text": text}
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028]", to_json_line({"text": text}))
    with open_table(str(tmp_path / "rows.csv")) as write:
        write(pd.DataFrame({"text": [text], "after": ["x"]}))
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"text": text, "after": "x"}]


def test_json_lines_escape_bidirectional_controls() -> None:
    """Characters that change the text direction are escaped and round-trip."""
    turning = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    line = to_json_line({"text": f"a{turning}b"})
    assert not set(turning) & set(line)
    assert json.loads(line) == {"text": f"a{turning}b"}
