"""Tests of the tests: each saboteur still fits the code, and scripts/sabotage tells which are noticed.

That each of them is noticed takes many minutes; scripts/sabotage shows it, and docs/sabotage.md tells.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lstm_sentiment.errors import ConfigError

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))  # scripts are no package

import sabotage  # noqa: E402

SABOTEURS = sabotage.read_list(ROOT / sabotage.LIST)


@pytest.mark.parametrize("name", SABOTEURS)
def test_a_saboteur_fits_the_code_and_its_tests_are_there(name: str) -> None:
    saboteur = SABOTEURS[name]
    saboteur.sabotaged(ROOT)  # raises where its text is gone
    assert saboteur.tests
    for test in saboteur.tests:
        file, _, function = test.partition("::")
        assert function.partition("[")[0] in functions_of(ROOT / "tests" / file)


@functools.cache
def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_is_that_of_the_log_and_tells_of_no_survivor() -> None:
    log = sabotage.read_log(ROOT / "docs" / "sabotage.jsonl")
    page = (ROOT / "docs" / "sabotage.md").read_text("utf-8")
    assert page == sabotage.page_of(SABOTEURS, log), "run scripts/sabotage --render"
    assert f"{len(SABOTEURS)} of {len(SABOTEURS)} are noticed" in page


# -- a tree with two functions ---------------------------------------------------------------------

CODE = """
def larger(a, b):
    return a if a > b else b


def smaller(a, b):
    return a if a < b else b
"""
TESTS = """
import time
from lstm_sentiment import larger, smaller

def test_larger():
    assert larger(1, 2) == 2

def test_smaller():
    assert smaller(1, 1) == 1

def test_red():
    assert larger(1, 2) == 1

def test_slow():
    time.sleep(60)
"""
LIST = """
order:
  noticed:
    {breaks: larger, file: __init__.py, find: a > b, replace: a < b, tests: [test_order.py::test_larger]}
  survivor:
    {breaks: smaller, file: __init__.py, find: a < b, replace: a > b, tests: [test_order.py::test_smaller]}
  without-control:
    {breaks: larger, file: __init__.py, find: a > b, replace: a < b, tests: [test_order.py::test_red]}
  useless:
    {breaks: all, file: __init__.py, find: def larger, replace: def a, tests: [test_order.py::test_larger]}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package whose functions are tested well, badly, and wrongly."""
    files = {"lstm_sentiment/__init__.py": CODE, "tests/test_order.py": TESTS, sabotage.LIST: LIST}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content, "utf-8")
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def test_it_tells_who_was_noticed_and_who_was_not(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        sabotage.main(["--all", "--root", str(tree)])
    assert left.value.code == 1
    printed = capsys.readouterr()
    assert "error: survivor, without-control, useless: not noticed" in printed.err
    assert "ImportError" in printed.out
    assert (tree / "lstm_sentiment" / "__init__.py").read_text("utf-8") == CODE
    log = {entry["name"]: entry for entry in sabotage.read_log(tree / "docs" / "sabotage.jsonl")}
    assert [(of["verdict"], of["by"]) for of in log.values()] == [
        (sabotage.NOTICED, "test_order.py::test_larger"),
        (sabotage.SURVIVED, None),
        (sabotage.NO_CONTROL, None),
        (sabotage.NO_ANSWER, None),
    ]
    assert str(tree) not in (tree / "docs" / "sabotage.jsonl").read_text("utf-8")
    page = (tree / "docs" / "sabotage.md").read_text("utf-8")
    assert "1 of 4 are noticed" in page
    assert [page.count(f"**{log[name]['verdict']}**") for name in log] == [0, 1, 1, 1]


def test_one_alone_is_noticed(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sabotage.main(["not*", "--root", str(tree), "--jobs=1"])
    assert "noticed: noticed test_order.py::test_larger" in capsys.readouterr().out
    page = (tree / "docs" / "sabotage.md").read_text("utf-8")
    assert "1 of 4 are noticed" in page
    assert "Not done yet: survivor, without-control, useless." in page
    (tree / "docs" / "sabotage.md").unlink()
    sabotage.main(["--render", "--root", str(tree)])
    assert (tree / "docs" / "sabotage.md").read_text("utf-8") == page


def test_what_was_broken_is_what_runs(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the size and the time of what was compiled before, as of a file broken within a second."""
    times = 1_700_000_000, 1_700_000_000
    os.utime(tree / "lstm_sentiment" / "__init__.py", times)
    write_text = Path.write_text

    def at_the_same_time(path: Path, *args: Any) -> int:
        written = write_text(path, *args)
        os.utime(path, times)
        return written

    monkeypatch.setattr(Path, "write_text", at_the_same_time)
    sabotage.main(["noticed", "--root", str(tree), "--jobs=1"])
    assert "noticed: noticed test_order.py::test_larger" in capsys.readouterr().out


def test_tests_that_do_not_end_have_not_answered(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sabotage, "MOST_SECONDS", 3)
    assert not sabotage.ask(tree, ["test_order.py::test_slow"]).ended


def test_another_copy_of_the_package_is_not_tested(tree: Path) -> None:
    """A program that is started in the copy, and finds the package elsewhere."""
    (tree / "lstm_sentiment").rename(tree.parent / "lstm_sentiment")
    (tree / "sitecustomize.py").write_text(f"import sys\nsys.path.append({str(tree.parent)!r})\n")
    answer = sabotage.ask(tree, ["test_order.py::test_larger"])
    assert not answer.ended
    assert "another copy is imported" in answer.words


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"find": "a >= b"}, "its text stands in __init__.py 0 times, not once"),
        ({"find": "else b"}, "its text stands in __init__.py 2 times, not once"),
        ({"find": "a > b", "replace": "a >"}, "makes no Python of __init__.py: .*line 3"),
        ({"find": "a > b", "replace": "(a > b)"}, "changes nothing in __init__.py"),
        ({"file": "other.py"}, "lstm_sentiment/other.py cannot be read: No such file"),
    ],
)
def test_a_list_that_is_out_of_date_is_told_before_any_test_is_run(
    tree: Path, changes: dict[str, str], problem: str
) -> None:
    fields = {"breaks": "it", "file": "__init__.py", "find": "a > b", "replace": "a", **changes}
    listed = {"order": {"stale": {**fields, "tests": ["test_order.py::test_larger"]}}}
    (tree / sabotage.LIST).write_text(json.dumps(listed), "utf-8")
    with pytest.raises(ConfigError, match=f"^stale: {problem}"):
        sabotage.main(["stale", "--root", str(tree)])
    assert not (tree / "docs" / "sabotage.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("order: [", "is no list of saboteurs: while parsing"),
        ("order: {a: {breaks: it}}", "is no list of saboteurs: .*missing.*'file'"),
        ("- a", "is no list of saboteurs"),
        (
            f"{LIST}{LIST.replace('order', 'again')}",
            "stand twice: noticed, survivor, useless, without-control",
        ),
    ],
)
def test_a_list_that_is_none_is_told(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "list.yaml").write_text(content, "utf-8")
    with pytest.raises(ConfigError, match=rf"list.yaml: {problem}"):
        sabotage.read_list(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ([], "give names or --all"),
        (["--all", "--render"], "give names or --all"),
        (["survivr"], "no saboteur 'survivr'; --list names all. Did you mean 'survivor'?"),
        (["--all", "--jobs=0"], "--jobs must be at least 1"),
        (["--list", "--root=nowhere"], "nowhere/scripts/sabotage.yaml: cannot be read: No such file"),
    ],
)
def test_mistakes_are_told_in_a_line(tree: Path, argv: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sabotage.main(["--root", str(tree), *argv])
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_list_is_shown(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sabotage.main(["--list", "--root", str(tree)])
    assert capsys.readouterr().out.splitlines()[1].split() == ["survivor", "smaller"]
