"""Hostile files run no code, write nothing outside of the run, and are refused fast and in little memory.

`attacks` creates the files and `attack_runner` reads them in a measured subprocess. Each attack has a canary,
a file that is created if code of the attack runs; the control shows that each would.
"""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks import GROUPS, PAYLOADS, Attack
from hostile_rows import row_attacks

import lstm_sentiment
from lstm_sentiment.data.formats.writers import open_table
from lstm_sentiment.errors import DiskError
from lstm_sentiment.system.files import new_folder, unfinished, write_atomically

HERE = Path(__file__).parent
PACKAGE = Path(lstm_sentiment.__file__).parent
SECONDS, MEMORY = 5.0, 300_000_000
ATTACKS = [attack for group in (*GROUPS, row_attacks) for attack in group()]
Run = Callable[[str], Any]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@pytest.fixture(scope="module")
def read_all(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A function that reads all files in a subprocess once, safely or unsafely, and returns the results."""
    results: dict[str, Any] = {}

    def run(what: str) -> Any:
        if what not in results:
            folder = tmp_path_factory.mktemp("attacks")
            (folder / "sandbox").mkdir()
            paths = os.pathsep.join([str(PACKAGE.parent), str(HERE)])
            environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HOME": str(folder)}
            command = [sys.executable, str(HERE / "attack_runner.py"), what, str(folder / "sandbox")]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stderr[-4000:]
            results[what] = json.loads((folder / "results.json").read_text())
        return results[what]

    return run


def test_there_are_enough_hostile_files() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names) >= 150


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_a_hostile_file_does_no_harm(read_all: Run, attack: Attack) -> None:
    found = read_all("all")[attack.name]
    assert not found["canary"], "code of the file was run"
    assert found["changed"] == [], "something was written outside of the run"
    assert found["seconds"] < SECONDS
    assert found["grown"] < 3 * found["size"] + MEMORY
    if attack.says is None:
        assert found["said"] is None
    else:
        assert found["said"] is not None, "it was taken for a good one"
        assert re.search(attack.says, found["said"]), found["said"]
        assert found["exit_code"] in (2, 3), found["said"]
        assert len(found["said"]) < 1000
        assert found["said"].isprintable()


def test_the_same_files_do_harm_if_trusted(read_all: Run) -> None:
    """The control: every file creates its canary if read unsafely."""
    works = read_all("control")
    readers = ("pickle.loads", "torch.load")
    assert works == [
        *(f"{reader} {payload}" for reader in readers for payload in PAYLOADS),
        "yaml.unsafe_load",
        "yaml.unsafe_load module",
    ]


def test_a_predictable_temporary_name_is_written_through(tmp_path: Path) -> None:
    """The control: opening a name derived from the process id follows the link and truncates the file."""
    victim, run = tmp_path / "victim.txt", tmp_path / "run"
    run.mkdir()
    victim.write_text("mine")
    beside = run / f".report.html.{os.getpid()}.tmp"
    beside.symlink_to(victim)
    with beside.open("wb") as out:
        out.write(b"<html>")
    beside.replace(run / "report.html")
    assert victim.read_text() == "<html>"
    victim.write_text("mine")
    beside.symlink_to(victim)
    write_atomically(run / "report.html", b"<html>")
    assert victim.read_text() == "mine"
    assert (run / "report.html").read_bytes() == b"<html>"
    assert not (run / "report.html").is_symlink()


def test_temporary_names_are_unpredictable_and_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if a name is guessed, no existing file is opened."""
    assert len({unfinished(tmp_path / "a") for _ in range(100)}) == 100
    (tmp_path / "victim").write_text("mine")
    monkeypatch.setattr(secrets, "randbelow", lambda most: 7)
    for name in ("a.json", "b.csv", "c"):
        (tmp_path / f".{name}.7.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(DiskError, match="File exists"):
        write_atomically(tmp_path / "a.json", b"{}")
    with pytest.raises(DiskError, match="File exists"), open_table(str(tmp_path / "b.csv")):
        pass
    with pytest.raises(DiskError, match="File exists"), new_folder(tmp_path / "c"):
        pass
    assert (tmp_path / "victim").read_text() == "mine"


# -- unsafe code in the package and its scripts ----------------------------------------------------

UNSAFE_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "runpy",
}
UNSAFE_CALLS = {
    *("eval", "exec", "compile", "__import__", "input"),
    *("torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all"),
    *("os.system", "os.popen", "os.execv", "os.spawnv", "pd.read_pickle", "shutil.unpack_archive"),
}
UNSAFE_METHODS = {"extractall", "extract", "read_pickle", "exec_module"}
UNSAFE_ARGUMENTS = {("allow_pickle", True), ("shell", True), ("weights_only", False), ("trust_repo", True)}
# Places that import or run something without a literal name, and why no file can choose it.
KNOWN = {
    "extras.py: importlib.import_module(module)": "names are in the calls of `need`",
    "readers.py: importlib.import_module(f'lstm_sentiment.data.formats.{module}')": "names are in a table",
    "soak.py: importlib.import_module(module)": "names are in its table of soaks",
    "__init__.py: importlib.import_module(f'lstm_sentiment.{MODULES[name]}')": "names are above it",
    "__main__.py: importlib.import_module(f'lstm_sentiment.{name}')": "names are in its table of commands",
    "site_pages.py: importlib.import_module(f'lstm_sentiment.{name}')": "names are in COMMANDS",
    "exporter.py: loader.exec_module": "runs the runtime that it has just written, to check it",
}


def unsafe_code(file: str, code: str) -> list[str]:
    """Return the calls in some code that could execute file content or hide an error."""
    found: list[str] = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append("bare except")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"import {name}" for name in modules if name.split(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.Call):
            found += _unsafe_call(node)
    return [what for what in found if f"{file}: {what}" not in KNOWN]


def _unsafe_call(node: ast.Call) -> list[str]:
    called, found = ast.unparse(node.func), []
    if called in UNSAFE_CALLS or (isinstance(node.func, ast.Attribute) and node.func.attr in UNSAFE_METHODS):
        found.append(called)
    if called.endswith("import_module") and not isinstance(node.args[0], ast.Constant):
        found.append(ast.unparse(node))
    for keyword in node.keywords:
        constant = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        if (keyword.arg, constant) in UNSAFE_ARGUMENTS:
            found.append(f"{keyword.arg}={constant}")
    return found


SOURCES = sorted([*PACKAGE.rglob("*.py"), *(HERE.parent / "scripts").glob("*.py")])


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_no_code_uses_unsafe_readers(file: Path) -> None:
    assert unsafe_code(file.name, file.read_text("utf-8")) == []


def test_exceptions_are_still_needed() -> None:
    sources = {file.name: file.read_text("utf-8") for file in SOURCES}
    sources |= {"__init__.py": (PACKAGE / "__init__.py").read_text("utf-8")}
    for known in KNOWN:
        file, _, what = known.partition(": ")
        assert what in unsafe_code("elsewhere.py", sources[file])


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import cloudpickle.cloudpickle",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "load(p, weights_only=False)",
        "eval('1')",
        "exec(code)",
        "__import__(name)",
        "importlib.import_module(name)",
        "import_module('a' + name)",
        "yaml.load(f)",
        "yaml.unsafe_load(f)",
        "archive.extractall(p)",
        "zipfile.ZipFile(p).extract(name)",
        "np.load(p, allow_pickle=True)",
        "subprocess.run(c, shell=True)",
        "os.system(c)",
        "try:\n    f()\nexcept:\n    pass",
    ],
)
def test_unsafe_code_is_detected(code: str) -> None:
    assert unsafe_code("a.py", code)


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "re.compile(p)",
        "importlib.import_module('json')",
        "yaml.safe_load(t)",
        "np.load(p, allow_pickle=False)",
        "safetensors.torch.load_file(p)",
        "try:\n    f()\nexcept OSError:\n    pass",
    ],
)
def test_safe_code_is_accepted(code: str) -> None:
    assert unsafe_code("a.py", code) == []
