"""Mutation testing: every mutant matches the code, and scripts/mutate reports which ones are killed.

Running all mutants takes many minutes; scripts/mutate does it, and docs/mutation-testing.md has the results.
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
sys.path.insert(0, str(ROOT / "scripts"))  # scripts are not a package

import mutation_testing  # noqa: E402

MUTANTS = mutation_testing.read_mutants(ROOT / mutation_testing.LIST)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_matches_the_code_and_its_tests_exist(name: str) -> None:
    mutant = MUTANTS[name]
    mutant.mutated(ROOT)  # raises if its text is not found
    assert mutant.tests
    for test in mutant.tests:
        file, _, function = test.partition("::")
        assert function.partition("[")[0] in functions_of(ROOT / "tests" / file)


@functools.cache
def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_is_up_to_date_and_all_mutants_are_killed() -> None:
    log = mutation_testing.read_log(ROOT / mutation_testing.LOG)
    page = (ROOT / mutation_testing.PAGE).read_text("utf-8")
    assert page == mutation_testing.page_of(MUTANTS, log), "run scripts/mutate --render"
    assert f"{len(MUTANTS)} of {len(MUTANTS)} mutants are killed" in page


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
  killed:
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
    """A package with a good, a weak and a failing test."""
    files = {"lstm_sentiment/__init__.py": CODE, "tests/test_order.py": TESTS, mutation_testing.LIST: LIST}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content, "utf-8")
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def test_killed_and_surviving_mutants_are_reported(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        mutation_testing.main(["--all", "--root", str(tree)])
    assert left.value.code == 1
    printed = capsys.readouterr()
    assert "error: survivor, without-control, useless: not killed" in printed.err
    assert "ImportError" in printed.out
    assert (tree / "lstm_sentiment" / "__init__.py").read_text("utf-8") == CODE
    log = {entry["name"]: entry for entry in mutation_testing.read_log(tree / mutation_testing.LOG)}
    assert [(of["verdict"], of["by"]) for of in log.values()] == [
        (mutation_testing.KILLED, "test_order.py::test_larger"),
        (mutation_testing.SURVIVED, None),
        (mutation_testing.NO_CONTROL, None),
        (mutation_testing.NO_RESULT, None),
    ]
    assert str(tree) not in (tree / mutation_testing.LOG).read_text("utf-8")
    page = (tree / mutation_testing.PAGE).read_text("utf-8")
    assert "1 of 4 mutants are killed" in page
    assert [page.count(f"**{log[name]['verdict']}**") for name in log] == [0, 1, 1, 1]


def test_a_single_mutant_can_be_run(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mutation_testing.main(["kill*", "--root", str(tree), "--jobs=1"])
    assert "killed: killed test_order.py::test_larger" in capsys.readouterr().out
    page = (tree / mutation_testing.PAGE).read_text("utf-8")
    assert "1 of 4 mutants are killed" in page
    assert "Not run yet: survivor, without-control, useless." in page
    (tree / mutation_testing.PAGE).unlink()
    mutation_testing.main(["--render", "--root", str(tree)])
    assert (tree / mutation_testing.PAGE).read_text("utf-8") == page


def test_the_mutated_code_runs_despite_cached_bytecode(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if the mutated file has the size and modification time of the original."""
    times = 1_700_000_000, 1_700_000_000
    os.utime(tree / "lstm_sentiment" / "__init__.py", times)
    write_text = Path.write_text

    def at_the_same_time(path: Path, *args: Any) -> int:
        written = write_text(path, *args)
        os.utime(path, times)
        return written

    monkeypatch.setattr(Path, "write_text", at_the_same_time)
    mutation_testing.main(["killed", "--root", str(tree), "--jobs=1"])
    assert "killed: killed test_order.py::test_larger" in capsys.readouterr().out


def test_a_timeout_is_not_a_completed_run(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation_testing, "MOST_SECONDS", 3)
    assert not mutation_testing.run_tests(tree, ["test_order.py::test_slow"]).completed


def test_another_copy_of_the_package_is_not_tested(tree: Path) -> None:
    """Tests that run in the copy but import the package from elsewhere are an error."""
    (tree / "lstm_sentiment").rename(tree.parent / "lstm_sentiment")
    (tree / "sitecustomize.py").write_text(f"import sys\nsys.path.append({str(tree.parent)!r})\n")
    outcome = mutation_testing.run_tests(tree, ["test_order.py::test_larger"])
    assert not outcome.completed
    assert "another copy is imported" in outcome.output


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"find": "a >= b"}, "its text occurs 0 times in __init__.py, not once"),
        ({"find": "else b"}, "its text occurs 2 times in __init__.py, not once"),
        ({"find": "a > b", "replace": "a >"}, "is a syntax error in __init__.py: .*line 3"),
        ({"find": "a > b", "replace": "(a > b)"}, "changes nothing in __init__.py"),
        ({"file": "other.py"}, "lstm_sentiment/other.py cannot be read: No such file"),
    ],
)
def test_an_outdated_mutant_is_an_error_before_any_test_is_run(
    tree: Path, changes: dict[str, str], problem: str
) -> None:
    fields = {"breaks": "it", "file": "__init__.py", "find": "a > b", "replace": "a", **changes}
    listed = {"order": {"stale": {**fields, "tests": ["test_order.py::test_larger"]}}}
    (tree / mutation_testing.LIST).write_text(json.dumps(listed), "utf-8")
    with pytest.raises(ConfigError, match=f"^stale: {problem}"):
        mutation_testing.main(["stale", "--root", str(tree)])
    assert not (tree / mutation_testing.LOG).exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("order: [", "is not a list of mutants: while parsing"),
        ("order: {a: {breaks: it}}", "is not a list of mutants: .*missing.*'file'"),
        ("- a", "is not a list of mutants"),
        (
            f"{LIST}{LIST.replace('order', 'again')}",
            "duplicate names: killed, survivor, useless, without-control",
        ),
    ],
)
def test_an_invalid_list_is_an_error(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "list.yaml").write_text(content, "utf-8")
    with pytest.raises(ConfigError, match=rf"list.yaml: {problem}"):
        mutation_testing.read_mutants(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ([], "give names or --all"),
        (["--all", "--render"], "give names or --all"),
        (["survivr"], "no mutant 'survivr'; --list shows all. Did you mean 'survivor'?"),
        (["--all", "--jobs=0"], "--jobs must be at least 1"),
        (["--list", "--root=nowhere"], "nowhere/scripts/mutants.yaml: cannot be read: No such file"),
    ],
)
def test_errors_are_one_line(tree: Path, argv: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mutation_testing.main(["--root", str(tree), *argv])
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_mutants_are_listed(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mutation_testing.main(["--list", "--root", str(tree)])
    assert capsys.readouterr().out.splitlines()[1].split() == ["survivor", "smaller"]
