"""Rules for every module: layers of imports, printing, length of modules and functions."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import COMMANDS

import lstm_sentiment
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.yaml_files import keys_of
from lstm_sentiment.pretraining.config import PretrainConfig

PACKAGE = Path(lstm_sentiment.__file__).parent
ROOT = Path(__file__).parents[1]
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in FILES}

# From the bottom up: a package imports from lower floors only. Commands are on top.
FLOORS = [
    "errors version kernels",
    "system cli",
    "text config records",
    "checkpoints data",
    "models evaluation provenance",
    "explanation streaming",
    "training prediction linear",
    "adaptation reporting deployment comparison monitoring tracking",
    "experiment bulk",
    "pretraining diagnostics cleaning starter estimator serving tuning relabelling",
    " ".join([*COMMANDS, "__main__"]),
]
WITHIN_DATA = ["data.sources", "data.formats.arrow", "data.formats", "data.review", "data"]
MOST_MODULES = 10  # of a package
MOST_LINES = 500  # of a module
LONGEST_FUNCTION = 60  # lines


def imported_modules(code: Iterable[ast.AST]) -> set[str]:
    """Return the modules of the package that some code imports, also inside functions.

    Names that a package offers itself, such as ``from lstm_sentiment import load``, are left out.
    """
    found: set[str] = set()
    for node in code:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    inside = {name.removeprefix("lstm_sentiment.") for name in found}
    return inside & MODULES.keys()


@functools.cache
def tree(module: str) -> ast.Module:
    """Return the syntax tree of a module of the package."""
    return ast.parse(MODULES[module].read_text("utf-8"))


@functools.cache
def nodes(module: str) -> list[ast.AST]:
    """Return all nodes of a module's syntax tree."""
    return list(ast.walk(tree(module)))


@functools.cache
def imports() -> dict[str, set[str]]:
    """Return the modules of the package that each module imports."""
    return {module: imported_modules(nodes(module)) for module in MODULES}


def package_of(module: str, *, within_data: bool = False) -> str:
    """Return the package of a module, or the module itself if it is in none.

    >>> package_of("data.formats.lines"), package_of("data.formats.lines", within_data=True)
    ('data', 'data.formats')
    """
    return (module.rpartition(".")[0] or module) if within_data else module.partition(".")[0]


def test_imports_between_packages_only_go_down() -> None:
    floor_of = {package: floor for floor, names in enumerate(FLOORS) for package in names.split()}
    assert floor_of.keys() == {package_of(module) for module in MODULES}
    upwards = [
        f"{module} (floor {floor_of[here]}) imports {other} (floor {floor_of[there]})"
        for module, others in imports().items()
        for other in sorted(others)
        for here, there in [(package_of(module), package_of(other))]
        if here != there and floor_of[there] >= floor_of[here]
    ]
    assert upwards == []


def test_imports_within_the_data_package_only_go_down() -> None:
    floor_of = {package: floor for floor, package in enumerate(WITHIN_DATA)}
    inside = [module for module in MODULES if package_of(module) == "data"]
    assert floor_of.keys() == {package_of(module, within_data=True) for module in inside}
    upwards = [
        f"{module} imports {other}"
        for module in inside
        for other in sorted(imports()[module].intersection(inside))
        if floor_of[package_of(other, within_data=True)] > floor_of[package_of(module, within_data=True)]
    ]
    assert upwards == []


def test_no_modules_import_each_other() -> None:
    order = list(graphlib.TopologicalSorter(imports()).static_order())  # raises CycleError
    assert sorted(order) == sorted(MODULES)


def test_packages_have_few_modules_and_a_docstring() -> None:
    counts = Counter(module.rpartition(".")[0] for module in MODULES if "." in module)
    assert {package: count for package, count in counts.items() if count > MOST_MODULES} == {}
    for package in counts:
        source = PACKAGE.joinpath(*package.split("."), "__init__.py").read_text("utf-8")
        assert ast.get_docstring(ast.parse(source)), package


@pytest.mark.parametrize("kind", [Config, PretrainConfig])
def test_every_setting_is_read(kind: type[Config] | type[PretrainConfig]) -> None:
    """A setting that nothing outside `config` reads, by its name or as a parameter, would do nothing."""
    read: set[str] = set()
    for module in MODULES:
        if not module.startswith(("config.", "pretraining.config")):
            for node in nodes(module):
                read |= {node.attr} if isinstance(node, ast.Attribute) else set()
                read |= {node.arg} if isinstance(node, ast.arg) else set()
    assert "sinks" in read, "the property through which these are read"
    assert {key.rpartition(".")[2] for key in keys_of(kind)} <= read | {"log_to", "tensorboard"}


def test_imports_are_found_anywhere_in_a_module() -> None:
    code = "def f():\n    from lstm_sentiment.text.tokenizers import words\n"
    code += "from lstm_sentiment import train, load\nimport lstm_sentiment.models.lstm, os\n"
    code += "from lstm_sentiment.reporting import charts"
    found = imported_modules(ast.walk(ast.parse(code)))
    assert found == {"text.tokenizers", "train", "models.lstm", "reporting.charts"}


IMPORT = re.compile(r"from (lstm_sentiment[\w.]*) import (\w+(?:, \w+)*)")
WITH_CODE = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
WITH_CODE += [path for of in ("tests", "scripts") for path in sorted((ROOT / of).glob("*.py"))]
INVENTED = {"test_layout.py", "test_mutants.py"}  # they contain invented imports


def is_offered(module: str, name: str) -> bool:
    """Whether ``from module import name`` works."""
    if hasattr(importlib.import_module(module), name):
        return True
    try:
        importlib.import_module(f"{module}.{name}")
    except ImportError:
        return False
    return True


def test_public_names_are_found() -> None:
    assert is_offered("lstm_sentiment", "load")
    assert is_offered("lstm_sentiment.reporting", "charts")
    assert not is_offered("lstm_sentiment.checkpoints.run_folder", "FORMAT")


@pytest.mark.parametrize(
    "file", [file for file in WITH_CODE if file.name not in INVENTED], ids=lambda file: file.name
)
def test_imports_in_scripts_and_examples_work(file: Path) -> None:
    """Also those within strings, which neither linter nor type checker reads."""
    found = IMPORT.findall(file.read_text("utf-8"))
    imports = [(module, name) for module, names in found for name in names.split(", ")]
    assert [of for of in imports if not is_offered(*of)] == []


SUBSCRIPTED = {"Generic", "Protocol", "dict", "list", "tuple", "set", "Mapping", "Sequence", "Iterator"}


def bases_with_parameters(code: Iterable[ast.AST]) -> set[str]:
    """Return the base classes that are subscripted with type parameters, such as Generic."""
    classes = [node for node in code if isinstance(node, ast.ClassDef)]
    bases = [base.value for of in classes for base in of.bases if isinstance(base, ast.Subscript)]
    return {ast.unparse(base).removeprefix("typing.") for base in bases}


@pytest.mark.parametrize("module", MODULES)
def test_bases_take_parameters_in_python_3_10_too(module: str) -> None:
    """logging.StreamHandler[...] is a TypeError there: some classes take parameters from 3.11 on."""
    assert bases_with_parameters(ast.parse("class A(logging.StreamHandler[str]): ...").body) - SUBSCRIPTED
    assert bases_with_parameters(nodes(module)) <= SUBSCRIPTED


PRINTERS = ("__main__", "deployment.runtime", "cli.exits", "cli.terminal")
PRINTING = ("print", "say", "sys.exit", "exit", "quit")


@pytest.mark.parametrize("module", sorted(set(MODULES) - {*COMMANDS, *PRINTERS}))
def test_only_commands_print_and_exit(module: str) -> None:
    calls = [
        f"{node.lineno}: {ast.unparse(node.func)}"
        for node in nodes(module)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and ast.unparse(node.func) in PRINTING
    ]
    assert calls == []


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_stay_short(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MOST_LINES
    long = [
        f"{node.name}: {(node.end_lineno or 0) - node.lineno + 1} lines"
        for node in nodes(module)
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []
