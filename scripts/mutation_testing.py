"""Mutation testing: apply one small fault at a time to a copy of the package and check that a test fails.

    scripts/mutate --list
    scripts/mutate write-in-place 'padding-*'
    scripts/mutate --all --jobs 2
    scripts/mutate --render

The mutants are listed in scripts/mutants.yaml. Each is applied to a copy of the package, never to the
working tree, and its tests run against that copy; the same tests must pass on an unchanged copy. Every result
is appended to docs/mutation-testing.jsonl, and docs/mutation-testing.md shows the latest one of each mutant.
The exit code is 1 if a mutant survived: then a test is missing.
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
PACKAGE, TESTS, LIST = "lstm_sentiment", "tests", "scripts/mutants.yaml"
LOG, PAGE = "docs/mutation-testing.jsonl", "docs/mutation-testing.md"
COPIED = (PACKAGE, TESTS, "configs", "docs", "scripts", "pyproject.toml", "mkdocs.yml")
COPIED += ("README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md")
MOST_SECONDS = 900
KILLED, SURVIVED, NO_CONTROL, NO_RESULT = "killed", "survived", "control failed", "no result"
# Runs pytest, unless another copy of the package is imported.
PYTEST_MAIN = f"""
import pathlib, sys
import pytest, {PACKAGE}
if pathlib.Path.cwd() not in pathlib.Path({PACKAGE}.__file__).parents:
    sys.exit("another copy is imported: " + {PACKAGE}.__file__)
sys.exit(pytest.main(sys.argv[1:]))
"""
PYTEST = ("-q", "--no-header", "-p", "no:cacheprovider", "--tb=short", "--basetemp=temporary")
INTRODUCTION = f"""# Mutation testing

Written by `scripts/mutate --render` from `docs/mutation-testing.jsonl`: the latest run of each mutant of
`{LIST}`, survivors included. A mutant is one small fault in a copy of the package. It is killed if its
test, which passes on an unchanged copy, fails.
"""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One replacement in one file of the package.

    Args:
        name: of the mutant.
        area: group of mutants on the page.
        breaks: description of the fault.
        file: path, relative to the package.
        find: source text, which must occur exactly once.
        replace: its replacement.
        tests: pytest ids, relative to the folder of tests, that are expected to fail.
    """

    name: str
    area: str
    breaks: str
    file: str
    find: str
    replace: str
    tests: list[str]

    def mutated(self, root: Path) -> str:
        """Return the mutated source of the file in a tree.

        Raises:
            ConfigError: the text does not occur exactly once, or the result is invalid or equivalent code.
        """
        try:
            code = (root / PACKAGE / self.file).read_text("utf-8")
        except OSError as error:
            problem = f"{PACKAGE}/{self.file} cannot be read: {error.strerror}; fix {LIST}"
            raise ConfigError(problem, key=self.name) from None
        found = code.count(self.find)
        if found != 1:
            problem = f"its text occurs {found} times in {self.file}, not once; fix {LIST}"
            raise ConfigError(problem, key=self.name)
        mutated = code.replace(self.find, self.replace)
        try:
            same = _parsed(self.file, mutated) == _parsed(self.file, code)
        except SyntaxError as error:
            raise ConfigError(f"is a syntax error in {self.file}: {error}", key=self.name) from None
        if same:
            raise ConfigError(f"changes nothing in {self.file}", key=self.name)
        return mutated


def read_mutants(path: Path) -> dict[str, Mutant]:
    """Read the mutants by name, in the order of the file.

    Raises:
        ConfigError: invalid list; the message names the file and the problem.
    """
    try:
        areas = yaml.safe_load(path.read_text("utf-8"))
        named = [(area, name, of) for area, inside in areas.items() for name, of in inside.items()]
        found = [Mutant(area=area, name=name, **of) for area, name, of in named]
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"is not a list of mutants: {problem}", where=str(path)) from None
    names = [mutant.name for mutant in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"duplicate names: {', '.join(sorted(twice))}", where=str(path))
    return dict(zip(names, found, strict=True))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a pytest run.

    Args:
        failed: failed tests -> reason.
        completed: whether pytest ran to the end, or to the first failure with ``-x``.
        output: last 2,000 characters of its output.
        seconds: duration.
    """

    failed: dict[str, str]
    completed: bool
    output: str
    seconds: float


class MutantRunner:
    """Runs tests against unchanged and mutated copies of a tree.

    Args:
        root: the tree, with a package and tests; copied at once, so later edits have no effect.
        folder: for the copies.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._folder = folder.resolve()
        self._unchanged = self._folder / "unchanged"
        ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, self._unchanged / name, ignore=ignored, symlinks=True)
            elif (root / name).exists():
                shutil.copy(root / name, self._unchanged)
        # Compiled once, not for each copy. Checked by hash: a file mutated within a second keeps its
        # modification time, and often its size.
        by_contents = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(self._unchanged / PACKAGE, quiet=1, invalidation_mode=by_contents)

    def control(self, mutants: Sequence[Mutant]) -> Outcome:
        """Run the tests of all given mutants, each once, on an unchanged copy."""
        with self._copy() as copy:
            return run_tests(copy, list(dict.fromkeys(test for of in mutants for test in of.tests)))

    def try_out(self, mutant: Mutant, control: Outcome) -> dict[str, Any]:
        """Run the tests of a mutant; return its log entry and the output of the tests.

        Raises:
            ConfigError: the mutant does not match the code any more.
        """
        mutated = mutant.mutated(self._unchanged)
        outcome, verdict = control, NO_CONTROL
        if control.completed and not any(
            _is_case_of(failed, test) for failed in control.failed for test in mutant.tests
        ):
            with self._copy() as copy:
                (copy / PACKAGE / mutant.file).write_text(mutated, "utf-8")
                outcome = run_tests(copy, mutant.tests, "-x")
            verdict = NO_RESULT if not outcome.completed else KILLED if outcome.failed else SURVIVED
        return {
            "name": mutant.name,
            "verdict": verdict,
            "by": next(iter(outcome.failed)) if verdict == KILLED else None,
            "output": next(iter(outcome.failed.values())) if verdict == KILLED else outcome.output,
            "seconds": round(outcome.seconds, 1),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "version": __version__,
        }

    @contextlib.contextmanager
    def _copy(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as folder:
            shutil.copytree(self._unchanged, folder, symlinks=True, dirs_exist_ok=True)
            yield Path(folder)


def run_tests(copy: Path, tests: Sequence[str], *options: str) -> Outcome:
    """Run tests of a copy against the package in the same copy."""
    command = [sys.executable, "-c", PYTEST_MAIN, *PYTEST, *options, *(f"{TESTS}/{test}" for test in tests)]
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    started, code = time.monotonic(), None
    with (copy / "output.txt").open("wb") as out, contextlib.suppress(subprocess.TimeoutExpired):
        code = subprocess.run(
            command, cwd=copy, env=environment, stdout=out, stderr=out, timeout=MOST_SECONDS, check=False
        ).returncode
    output = (copy / "output.txt").read_text("utf-8", "replace")
    failed = dict(re.findall(rf"^(?:FAILED|ERROR) {TESTS}/(.+?)(?: - (.*))?$", output, re.MULTILINE))
    return Outcome(
        failed=failed,
        completed=(code == 0 and not failed) or (code == 1 and bool(failed)),  # pytest: 0 passed, 1 failures
        output=output[-2000:],
        seconds=time.monotonic() - started,
    )


def page_of(mutants: dict[str, Mutant], entries: list[dict[str, Any]]) -> str:
    """Return the page: the latest entry of each mutant, in the list's order."""
    latest = {entry["name"]: entry for entry in entries}
    rows = []
    for name, mutant in mutants.items():
        if (of := latest.get(name)) is not None:
            by = f"`{of['by']}`" if of["by"] else f"**{of['verdict']}**"
            where = [mutant.area, name, mutant.breaks, f"`{mutant.file}`", by]
            rows.append([*where, f"{of['seconds']:.0f}", commit_of(of), of["date"][:10]])
    killed = sum(latest[name]["by"] is not None for name in mutants if name in latest)
    missing = [name for name in mutants if name not in latest]
    head = ["area", "mutant", "fault", "file", "killed by", "seconds", "commit", "date"]
    parts = [INTRODUCTION, f"{killed} of {len(mutants)} mutants are killed.\n", markdown(head, rows) + "\n"]
    parts += [f"Not run yet: {', '.join(missing)}.\n"] if missing else []
    return "\n".join(parts)


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    mutants = read_mutants(options.root / LIST)
    log, page = options.root / LOG, options.root / PAGE
    if options.list:
        print("\n".join(f"{name:<28} {of.breaks}" for name, of in mutants.items()))
        return
    page.parent.mkdir(exist_ok=True)
    failed = []
    if not options.render:
        for found in run_mutants(_chosen(options, mutants), options.root, jobs=options.jobs):
            output = found.pop("output")  # contains local paths, which do not belong in the log
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(found) + "\n")
            say(f"{found['name']}: {found['verdict']} {found['by'] or ''}\n  {output}")
            sys.stdout.flush()
            failed += [found["name"]] if found["verdict"] != KILLED else []
    write_atomically(page, page_of(mutants, read_log(log)).encode())
    print(f"written to {page}")
    if failed:
        print(f"error: {', '.join(failed)}: not killed by their tests", file=sys.stderr)
        sys.exit(1)


def run_mutants(mutants: list[Mutant], root: Path, *, jobs: int) -> Iterator[dict[str, Any]]:
    """Run mutants, each in its own copy of a tree, and yield what `try_out` returns, in order.

    Raises:
        ConfigError: a mutant does not match the code any more; no test was run.
    """
    for mutant in mutants:
        mutant.mutated(root)
    state = repository(root, PACKAGE, TESTS, LIST)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        runner = MutantRunner(root, Path(folder))
        control = runner.control(mutants)
        failures = "".join(f"\n  {test}: {why}" for test, why in control.failed.items())
        say(f"control: {len(control.failed)} failed in {control.seconds:.0f} s{failures}")
        for found in pool.map(lambda mutant: runner.try_out(mutant, control), mutants):
            yield found | state


def _chosen(options: argparse.Namespace, mutants: dict[str, Mutant]) -> list[Mutant]:
    """Return the mutants that match the given names and patterns, in the list's order."""
    chosen = set(mutants if options.all else ())
    for pattern in options.names:
        found = fnmatch.filter(mutants, pattern)
        if not found:
            hint = did_you_mean(pattern, mutants)
            raise ConfigError(f"no mutant {shown(pattern)}; --list shows all.{hint}")
        chosen.update(found)
    return [mutant for name, mutant in mutants.items() if name in chosen]


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="scripts/mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants, or patterns such as 'padding-*'")
    parser.add_argument("--all", action="store_true", help="run every mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="number of parallel jobs")
    parser.add_argument("--root", type=Path, default=ROOT, help=f"with {LIST}; results go to its docs/")
    parser.add_argument("--list", action="store_true", help="list the mutants and exit")
    parser.add_argument("--render", action="store_true", help="only write the page from the log")
    options = parser.parse_args(argv)
    if bool(options.names or options.all) == (options.list or options.render):
        parser.error("give names or --all, or one of --list and --render")
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    return options


def _is_case_of(failed: str, test: str) -> bool:
    """Whether a failed test is the given one, or a parametrized case of it."""
    return failed == test or failed.startswith((f"{test}[", f"{test}::"))


def _parsed(file: str, code: str) -> str:
    """Return Python code without comments and layout, for comparison; other text unchanged."""
    return ast.dump(ast.parse(code)) if file.endswith(".py") else code


if __name__ == "__main__":
    run_command(main)
