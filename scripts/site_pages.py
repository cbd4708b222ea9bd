"""Pages of the documentation site generated from the code or from files in the repository's root.

A hook of MkDocs (see mkdocs.yml): the reference of commands from their parsers, that of settings from the
dataclasses, the map of modules from their docstrings.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import docstring_parser
from jsonargparse import ArgumentParser

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lstm_sentiment.__main__ import COMMANDS, overview  # noqa: E402
from lstm_sentiment.config.command_line import CommandParser  # noqa: E402
from lstm_sentiment.config.schema import Config  # noqa: E402
from lstm_sentiment.config.yaml_files import expected  # noqa: E402
from lstm_sentiment.pretraining.config import PretrainConfig  # noqa: E402

SETTINGS = {"train": Config, "pretrain": PretrainConfig}
ROOT_PAGES = {f"{name.lower()}.md": f"{name}.md" for name in ("SECURITY", "CHANGELOG", "CONTRIBUTING")}


def on_files(files: Any, *, config: Any) -> Any:
    """Add the generated pages to the site's files; MkDocs calls this."""
    from mkdocs.structure.files import File

    for uri, content in pages().items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Return a page with ``Example::`` of docstrings as ``Example:``; MkDocs calls this."""
    return html.replace("<p>Example::</p>", "<p>Example:</p>")


def pages() -> dict[str, str]:
    """Return the generated pages: path in the site -> Markdown."""
    made = {
        "reference/commands.md": commands_page(),
        "reference/settings.md": settings_page(),
        "reference/modules.md": modules_page(),
    }
    return made | {uri: of_root((ROOT / name).read_text("utf-8")) for uri, name in ROOT_PAGES.items()}


def of_root(text: str) -> str:
    """Return a page of the repository's root with its links relative to docs/.

    >>> of_root("see [soak](docs/soak.md), [us](SECURITY.md)")
    'see [soak](soak.md), [us](security.md)'
    """
    names = {name: uri for uri, name in ROOT_PAGES.items()} | {"README.md": "index.md"}
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\]\(([A-Z]+\.md)", lambda link: f"]({names.get(link[1], link[1])}", text)


# -- commands --------------------------------------------------------------------------------------


def commands_page() -> str:
    """Return the reference of all commands."""
    with called("lstm-sentiment"):
        parts = [f"# Commands\n\nWritten from the parsers of the commands.\n\n```text\n{overview()}\n```\n"]
        parts += [command_part(name) for name in COMMANDS]
    return "\n".join(parts)


@contextlib.contextmanager
def called(name: str) -> Iterator[None]:
    """Make the commands believe that the process was called by a name."""
    with mock.patch.object(sys, "argv", [name]):
        yield


def command_part(name: str) -> str:
    """Return the section of one command."""
    parser = parser_of(name)
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    lines = [f"## {name}", "", f"```text\n{usage}\n```", "", cell(parser.description or ""), ""]
    sections: set[str] = set()
    if name in SETTINGS:
        lines += [
            f"Each setting is an option: see [settings of {name}](settings.md#settings-of-{name}). And:",
            "",
        ]
        sections = {field.name for field in dataclasses.fields(SETTINGS[name])}
    lines += ["| argument | meaning |", "| --- | --- |"]
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    lines += [argument_row(action) for action in shown if action.dest.split(".")[0] not in sections]
    return "\n".join([*lines, "", cell(parser.epilog or ""), ""])


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    found: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, *_: Any) -> None:
        found.append(parser)

    module = importlib.import_module(f"lstm_sentiment.{name}")
    with (
        mock.patch.object(CommandParser, "print_help", keep),
        mock.patch.object(ArgumentParser, "print_help", keep),
        contextlib.suppress(SystemExit),
    ):
        module.main(["--help"])
    return found[0]


def argument_row(action: argparse.Action) -> str:
    """Return the table row of one argument of a parser."""
    name = ", ".join(action.option_strings) or action.dest.upper()
    if action.option_strings and action.nargs != 0:
        values = "|".join(map(str, action.choices)) if action.choices else action.metavar or "VALUE"
        name = f"{name} {values}"
    return f"| `{name}` | {cell((action.help or '') % vars(action))} |".replace("|`", "` or `")


def cell(text: str) -> str:
    """Return text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


# -- settings --------------------------------------------------------------------------------------


def settings_page() -> str:
    """Return the reference of all settings."""
    lines = [
        "# Settings",
        "",
        "Generated from the dataclasses that have the defaults. A setting is given as an option",
        "(`--trainer.epochs 5`) or in a YAML file (`--config my.yaml`); options override files. In the",
        "names of options, `-` and `_` are equivalent. `--print-config` prints all settings as YAML.",
        "",
    ]
    for command, kind in SETTINGS.items():
        lines += [f"## Settings of {command}", ""]
        lines += section_lines(kind, kind, "")
    return "\n".join(lines)


def section_lines(kind: type, section: type, prefix: str) -> list[str]:
    """Return the table of one section of a configuration, and those of its subsections."""
    documented = docstring_parser.parse(section.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    meanings = {found.arg_name: found.description or "" for found in documented.params}
    defaults = section()
    plain, inner = [], []
    for field in dataclasses.fields(section):
        value = getattr(defaults, field.name)
        key = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            inner += [f"### {key}", ""] if not prefix else []
            inner += section_lines(kind, type(value), f"{key}.")
        else:
            cells = (f"`{key}`", shown_default(value), cell(expected(kind, key)), cell(meanings[field.name]))
            plain.append(f"| {' | '.join(cells)} |")
    return ["| key | default | value | meaning |", "| --- | --- | --- | --- |", *plain, "", *inner]


def shown_default(value: Any) -> str:
    """Return a default as YAML."""
    words = {None: "null", True: "true", False: "false"}
    return f"`{words.get(value, value) if isinstance(value, bool | None) else value}`"


# -- modules ---------------------------------------------------------------------------------------


def modules_page() -> str:
    """Return the map of the package: each module with the first paragraph of its docstring."""
    package = ROOT / "lstm_sentiment"
    lines = ["# Map of the modules", "", "Generated from the docstrings of packages and modules.", ""]
    folders = [package, *sorted(path.parent for path in package.glob("*/**/__init__.py"))]
    for folder in folders:
        name = ".".join(folder.relative_to(ROOT).parts)
        lines += [f"## {name}", "", summary_of(folder / "__init__.py"), ""]
        lines += ["| module | description |", "| --- | --- |"]
        files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        lines += [f"| `{path.stem}` | {cell(summary_of(path))} |" for path in files]
        lines.append("")
    return "\n".join(lines)


def summary_of(file: Path) -> str:
    """Return the first paragraph of a module's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")
