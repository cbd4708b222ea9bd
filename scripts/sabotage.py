"""Break the package on purpose, one place at a time, and see whether a test notices.

    scripts/sabotage --list
    scripts/sabotage write-in-place 'padding-*'
    scripts/sabotage --all --jobs 2
    scripts/sabotage --render

The saboteurs stand in scripts/sabotage.yaml. Each changes a copy of the package, never the working tree,
and its tests run against that copy; the same tests must be green on an unchanged copy. Each becomes a line
of docs/sabotage.jsonl, whatever came of it, and docs/sabotage.md is written from the last line of each. The
exit code is 1 if one was not noticed: then a test is missing.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import datetime
import fnmatch
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from result_log import commit_of, markdown, read_log, repository

from lstm_sentiment import __version__
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import say
from lstm_sentiment.config.command_line import CommandParser
from lstm_sentiment.errors import ConfigError, did_you_mean, shown
from lstm_sentiment.system.files import write_atomically

ROOT = Path(__file__).parent.parent
PACKAGE, TESTS, LIST = "lstm_sentiment", "tests", "scripts/sabotage.yaml"
COPIED = (PACKAGE, TESTS, "configs", "docs", "scripts", "pyproject.toml", "mkdocs.yml")
COPIED += ("README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md")
MOST_SECONDS = 900
NOTICED, SURVIVED, NO_CONTROL, NO_ANSWER = "noticed", "survived", "control is red", "no answer"
# pytest in a process that would rather leave than test another copy of the package.
RUN_TESTS = f"""
import pathlib, sys
import pytest, {PACKAGE}
if pathlib.Path.cwd() not in pathlib.Path({PACKAGE}.__file__).parents:
    sys.exit("another copy is imported: " + {PACKAGE}.__file__)
sys.exit(pytest.main(sys.argv[1:]))
"""
PYTEST = ("-q", "--no-header", "-p", "no:cacheprovider", "--tb=short", "--basetemp=temporary")
INTRODUCTION = f"""# Tests of the tests

Written by `scripts/sabotage --render` from `docs/sabotage.jsonl`: the last run of each saboteur of
`{LIST}`, survivors included. A saboteur breaks a copy of the package in one
place; the test named beside it, which is green on an unchanged copy, must turn red.
"""


@dataclass(frozen=True, kw_only=True)
class Saboteur:
    """One place to break.

    Args:
        name: of the saboteur.
        area: what it belongs to, for the page.
        breaks: what it does, in words.
        file: below the package.
        find: text that stands there once.
        replace: what it becomes.
        tests: below the folder of tests, as pytest takes them: those expected to notice.
    """

    name: str
    area: str
    breaks: str
    file: str
    find: str
    replace: str
    tests: list[str]

    def sabotaged(self, root: Path) -> str:
        """Return the file's code of a tree with the place broken.

        Raises:
            ConfigError: the text does not stand there once, or what comes out is no other program.
        """
        try:
            code = (root / PACKAGE / self.file).read_text("utf-8")
        except OSError as error:
            problem = f"{PACKAGE}/{self.file} cannot be read: {error.strerror}; mend {LIST}"
            raise ConfigError(problem, key=self.name) from None
        found = code.count(self.find)
        if found != 1:
            problem = f"its text stands in {self.file} {found} times, not once; mend {LIST}"
            raise ConfigError(problem, key=self.name)
        broken = code.replace(self.find, self.replace)
        try:
            same = _meaning(self.file, broken) == _meaning(self.file, code)
        except SyntaxError as error:
            raise ConfigError(f"makes no Python of {self.file}: {error}", key=self.name) from None
        if same:
            raise ConfigError(f"changes nothing in {self.file}", key=self.name)
        return broken


def read_list(path: Path) -> dict[str, Saboteur]:
    """Return the saboteurs by name, in the order of the list.

    Raises:
        ConfigError: names the file and what is wrong with it.
    """
    try:
        areas = yaml.safe_load(path.read_text("utf-8"))
        named = [(area, name, of) for area, inside in areas.items() for name, of in inside.items()]
        found = [Saboteur(area=area, name=name, **of) for area, name, of in named]
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"is no list of saboteurs: {problem}", where=str(path)) from None
    names = [saboteur.name for saboteur in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"stand twice: {', '.join(sorted(twice))}", where=str(path))
    return dict(zip(names, found, strict=True))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What tests said.

    Args:
        red: those that failed -> why.
        ended: whether they ran to the end, or to the first that failed.
        words: the last of what they printed.
        seconds: that they took.
    """

    red: dict[str, str]
    ended: bool
    words: str
    seconds: float


class Workshop:
    """Where copies of a tree are broken.

    Args:
        root: the tree, with a package and tests; it is copied at once, so that it may be worked on meanwhile.
        folder: for the copies.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._folder = folder.resolve()
        self._unbroken = self._folder / "unbroken"
        ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, self._unbroken / name, ignore=ignored, symlinks=True)
            elif (root / name).exists():
                shutil.copy(root / name, self._unbroken)
        # Once, and not for each copy. By contents: a place broken within a second of its writing keeps its
        # time, and often its size.
        by_contents = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(self._unbroken / PACKAGE, quiet=1, invalidation_mode=by_contents)

    def control(self, saboteurs: Sequence[Saboteur]) -> Answer:
        """Return what the tests of some saboteurs say of an unbroken copy: all of them, each once."""
        with self._copy() as copy:
            return ask(copy, list(dict.fromkeys(test for of in saboteurs for test in of.tests)))

    def try_out(self, saboteur: Saboteur, control: Answer) -> dict[str, Any]:
        """Let a saboteur do its work and return its line of the log, and the tests' words; reads the clock.

        Raises:
            ConfigError: it does not fit the code any more.
        """
        broken = saboteur.sabotaged(self._unbroken)
        answer, verdict = control, NO_CONTROL
        if control.ended and not any(_is_of(red, test) for red in control.red for test in saboteur.tests):
            with self._copy() as copy:
                (copy / PACKAGE / saboteur.file).write_text(broken, "utf-8")
                answer = ask(copy, saboteur.tests, "-x")
            verdict = NO_ANSWER if not answer.ended else NOTICED if answer.red else SURVIVED
        return {
            "name": saboteur.name,
            "verdict": verdict,
            "by": next(iter(answer.red)) if verdict == NOTICED else None,
            "words": next(iter(answer.red.values())) if verdict == NOTICED else answer.words,
            "seconds": round(answer.seconds, 1),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "version": __version__,
        }

    @contextlib.contextmanager
    def _copy(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as folder:
            shutil.copytree(self._unbroken, folder, symlinks=True, dirs_exist_ok=True)
            yield Path(folder)


def ask(copy: Path, tests: Sequence[str], *options: str) -> Answer:
    """Run tests of a copy against the package beside them."""
    command = [sys.executable, "-c", RUN_TESTS, *PYTEST, *options, *(f"{TESTS}/{test}" for test in tests)]
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    started, code = time.monotonic(), None
    with (copy / "said").open("wb") as said, contextlib.suppress(subprocess.TimeoutExpired):
        code = subprocess.run(
            command, cwd=copy, env=environment, stdout=said, stderr=said, timeout=MOST_SECONDS, check=False
        ).returncode
    words = (copy / "said").read_text("utf-8", "replace")
    red = dict(re.findall(rf"^(?:FAILED|ERROR) {TESTS}/(.+?)(?: - (.*))?$", words, re.MULTILINE))
    return Answer(
        red=red,
        ended=(code == 0 and not red) or (code == 1 and bool(red)),  # pytest: all green, or some red
        words=words[-2000:],
        seconds=time.monotonic() - started,
    )


def page_of(saboteurs: dict[str, Saboteur], entries: list[dict[str, Any]]) -> str:
    """Return the page: the last entry of each saboteur, in the list's order."""
    latest = {entry["name"]: entry for entry in entries}
    rows = []
    for name, saboteur in saboteurs.items():
        if (of := latest.get(name)) is not None:
            by = f"`{of['by']}`" if of["verdict"] == NOTICED else f"**{of['verdict']}**"
            where = [saboteur.area, name, saboteur.breaks, f"`{saboteur.file}`", by]
            rows.append([*where, f"{of['seconds']:.0f}", commit_of(of), of["date"][:10]])
    noticed = sum(latest[name]["verdict"] == NOTICED for name in saboteurs if name in latest)
    missing = [name for name in saboteurs if name not in latest]
    head = ["area", "saboteur", "what it breaks", "file", "noticed by", "seconds", "commit", "date"]
    parts = [INTRODUCTION, f"{noticed} of {len(saboteurs)} are noticed.\n", markdown(head, rows) + "\n"]
    parts += [f"Not done yet: {', '.join(missing)}.\n"] if missing else []
    return "\n".join(parts)


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    saboteurs = read_list(options.root / LIST)
    log, page = options.root / "docs" / "sabotage.jsonl", options.root / "docs" / "sabotage.md"
    if options.list:
        print("\n".join(f"{name:<28} {of.breaks}" for name, of in saboteurs.items()))
        return
    page.parent.mkdir(exist_ok=True)
    failed = []
    if not options.render:
        for found in sabotage(_chosen(options, saboteurs), options.root, jobs=options.jobs):
            words = found.pop("words")  # with places on this machine, which are no part of a log
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(found) + "\n")
            say(f"{found['name']}: {found['verdict']} {found['by'] or ''}\n  {words}")
            sys.stdout.flush()
            failed += [found["name"]] if found["verdict"] != NOTICED else []
    write_atomically(page, page_of(saboteurs, read_log(log)).encode())
    print(f"written to {page}")
    if failed:
        print(f"error: {', '.join(failed)}: not noticed by the tests that should", file=sys.stderr)
        sys.exit(1)


def sabotage(saboteurs: list[Saboteur], root: Path, *, jobs: int) -> Iterator[dict[str, Any]]:
    """Let saboteurs do their work, one in each copy of a tree, and yield what `try_out` returns, in order.

    Raises:
        ConfigError: one does not fit the code any more; no test was run.
    """
    for saboteur in saboteurs:
        saboteur.sabotaged(root)
    state = repository(root, PACKAGE, TESTS, LIST)
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder, ThreadPoolExecutor(jobs) as pool:
        workshop = Workshop(root, Path(folder))
        control = workshop.control(saboteurs)
        red = "".join(f"\n  {test}: {why}" for test, why in control.red.items())
        say(f"control: {len(control.red)} red in {control.seconds:.0f} s{red}")
        for found in pool.map(lambda saboteur: workshop.try_out(saboteur, control), saboteurs):
            yield found | state


def _chosen(options: argparse.Namespace, saboteurs: dict[str, Saboteur]) -> list[Saboteur]:
    """Return the saboteurs that names and patterns stand for, in the list's order."""
    wanted = set(saboteurs if options.all else ())
    for pattern in options.names:
        found = fnmatch.filter(saboteurs, pattern)
        if not found:
            hint = did_you_mean(pattern, saboteurs)
            raise ConfigError(f"no saboteur {shown(pattern)}; --list names all.{hint}")
        wanted.update(found)
    return [saboteur for name, saboteur in saboteurs.items() if name in wanted]


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="scripts/sabotage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="saboteurs, or patterns such as 'padding-*'")
    parser.add_argument("--all", action="store_true", help="every saboteur")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    parser.add_argument("--root", type=Path, default=ROOT, help=f"with {LIST}; gets docs/sabotage.*")
    parser.add_argument("--list", action="store_true", help="name the saboteurs and do nothing")
    parser.add_argument("--render", action="store_true", help="write the page from the log, no more")
    options = parser.parse_args(argv)
    if bool(options.names or options.all) == (options.list or options.render):
        parser.error("give names or --all, or one of --list and --render")
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    return options


def _is_of(red: str, test: str) -> bool:
    """Whether what was red is a test, or that with some parameters."""
    return red == test or red.startswith((f"{test}[", f"{test}::"))


def _meaning(file: str, code: str) -> str:
    """Return what is left of code without its comments and layout; of another file its text."""
    return ast.dump(ast.parse(code)) if file.endswith(".py") else code


if __name__ == "__main__":
    run_command(main)
