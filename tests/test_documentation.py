"""README and documentation: commands and snippets run, named files exist, the site builds.

Pages share a folder with small files and one trained run. A command that occurs on several pages runs once.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import functools
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import make_rows, write_csv

from lstm_sentiment import serve
from lstm_sentiment.__main__ import COMMANDS
from lstm_sentiment.__main__ import main as lstm_sentiment_command
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.yaml_files import keys_of
from lstm_sentiment.pretraining.config import PretrainConfig

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))  # scripts are not a package

import site_pages  # noqa: E402

DOCS = ROOT / "docs"
TEXTS = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
GUIDES = [ROOT / "README.md", DOCS / "index.md", *sorted((DOCS / "guides").glob("*.md"))]
GUIDES += [DOCS / "starter.md", DOCS / "reference" / "api.md"]
NOT_RUN = ("pip", "git", "mkdocs", "curl", "docker")  # tests/test_serving.py sends the requests
FIRST = "lstm-sentiment train --data.train reviews.csv --out runs/reviews"
BLOCK = re.compile(r"(<!-- not run: .*? -->\n+)?^```(bash|python|yaml)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    """Return a page's path relative to the repository's root."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return a page's code blocks with their language, except those marked as not run."""
    return [(found[2], found[3]) for found in BLOCK.finditer(page.read_text("utf-8")) if not found[1]]


def command_lines(code: str) -> list[str]:
    """Return the commands of a shell block, without comments and with continuation lines joined.

    >>> command_lines("a --b 1 \\\\\\n  c  # why\\n\\nd && e")
    ['a --b 1 c', 'd', 'e']
    """
    joined = re.sub(r"\\\n\s*", " ", code).replace(" && ", "\n")
    lines = [shlex.join(shlex.split(line, comments=True)) for line in joined.splitlines()]
    return [line for line in lines if line]


def script_of(words: list[str]) -> str | None:
    """Return the script of the repository that a command runs, if any."""
    name = words[1] if words[0] == "python" and len(words) > 1 else words[0]
    return name if name.removeprefix("./").startswith(("scripts/", ".ci/")) else None


@functools.cache
def made_pages() -> dict[str, str]:
    """Return the pages generated from the code."""
    return site_pages.pages()


class Session:
    """A folder in which the commands of pages are run, each once.

    Args:
        folder: with the files that the pages name.
        start: a small run that commands take for the starter if they name neither it nor `runs/reviews`,
            which starts from it.
    """

    def __init__(self, folder: Path, start: Path) -> None:
        self.folder, self.start, self.done = folder, start, set[str]()

    def run(self, line: str) -> None:
        """Run a command of this package, or check that its script exists."""
        words = shlex.split(line)
        if line in self.done or words[0] in NOT_RUN:
            return
        self.done.add(line)
        if words[0] == "torchrun":  # tests/test_distributed.py starts several processes
            parse_config(words[words.index("lstm_sentiment.train") + 1 :], program="", description="")
        elif words[:2] == ["lstm-sentiment", "serve"]:  # it does not end
            assert serve.options_of(words[2:]).run
        elif script := script_of(words):
            assert (ROOT / script).is_file(), line
        else:
            assert words[0] == "lstm-sentiment", f"{line}: not a command that this test can run"
            if "--minutes" in words:  # enough to try something
                words[words.index("--minutes") + 1] = "0.1"
            with pytest.MonkeyPatch.context() as patch:
                if not {"starter", "runs/reviews"} & {*words}:
                    patch.setattr("lstm_sentiment.checkpoints.run_paths.FOLDER", self.start)
                lstm_sentiment_command(words[1:])


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Use one core: a second one does not help with such small work."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    yield
    if cores:
        os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, trained_run: Path) -> Session:
    """A folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("documentation")
    for name, seed, count in [("reviews", 0, 150), ("new", 1, 12), ("test", 2, 30), ("more", 3, 90)]:
        write_csv(folder / f"{name}.csv", make_rows(count, seed=seed, longest=8))
    (folder / "shards").mkdir()
    for n in range(3):
        write_csv(folder / "shards" / f"part-{n}.csv", make_rows(40, seed=5 + n, longest=8))
    write_csv(folder / "unlabelled.csv", make_rows(60, seed=4, longest=8))
    with (folder / "stars.csv").open("w", encoding="utf-8", newline="") as file:
        stars = {"negative": (1, 2), "neutral": (3, 3), "positive": (4, 5)}
        rows = [(text, stars[label][i % 2]) for i, (text, label) in enumerate(make_rows(150, longest=8))]
        csv.writer(file).writerows([("body", "stars"), *rows])
    words = [f"{word} {' '.join(['0.5'] * 8)}" for word in ("great", "awful", "the", "room")]
    (folder / "glove.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    for language, code in blocks(DOCS / "guides" / "own-data.md"):
        if language == "yaml":
            (folder / "my.yaml").write_text(code, encoding="utf-8")
    return Session(folder, trained_run)


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_examples_on_a_page_run(page: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(session.folder)
    monkeypatch.setattr(sys, "path", sys.path[:])
    with one_core():
        session.run(FIRST)
        for language, code in blocks(page):
            if language == "bash":
                for line in command_lines(code):
                    session.run(line)
            elif language == "python":
                exec(compile(code, page.name, "exec"), {"__name__": "page"})  # our own documentation
    sys.modules.pop("runtime", None)


def test_an_unknown_command_on_a_page_is_detected(session: Session) -> None:
    with pytest.raises(AssertionError, match="not a command"):
        session.run("make coffee")
    with pytest.raises(Exception, match="no command 'trian'"):
        session.run("lstm-sentiment trian")


@pytest.mark.parametrize("page", sorted(set(TEXTS) - {*GUIDES, DOCS / "results.md"}), ids=name_of)
def test_commands_of_other_pages_exist(page: Path) -> None:
    lines = [line for language, code in blocks(page) if language == "bash" for line in command_lines(code)]
    for line in lines:
        words = shlex.split(line)
        if words[0] == "lstm-sentiment":
            assert words[1] in COMMANDS, line
        elif script := script_of(words):
            assert (ROOT / script).is_file(), line


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_links_point_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    made = {(DOCS / uri).resolve() for uri in made_pages()}
    inside = [link for link in links if "://" not in link]
    missing = [link for link in inside if not (page.parent / link).exists()]
    assert [link for link in missing if (page.parent / link).resolve() not in made] == []


@pytest.mark.parametrize("page", TEXTS, ids=name_of)
def test_named_files_of_the_repository_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:lstm_sentiment|tests|scripts|configs|docs)/[\w./-]+\.\w+)`", page.read_text("utf-8")
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_is_short_and_names_the_test_command() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 120
    assert "./scripts/test" in text


# -- generated pages -------------------------------------------------------------------------------


def test_the_reference_has_every_setting_with_its_default() -> None:
    page = site_pages.settings_page()
    of_train, of_pretrain = page.split("## Settings of pretrain")
    for text, kind in ((of_train, Config), (of_pretrain, PretrainConfig)):
        assert re.findall(r"^\| `([a-z][\w.]*)` \|", text, re.MULTILINE) == [
            key for section in ("", "data", "text", "model", "trainer") for key in keys_of(kind)
            if key.rpartition(".")[0] == section
        ]  # fmt: skip
    assert "| `trainer.epochs` | `3` | a whole number | passes over the training rows, at most. |" in of_train
    assert "| `pretrained` | `auto` |" in of_train
    assert "| `trainer.tensorboard` | `false` | true or false |" in of_train


def test_the_reference_has_every_command_with_its_options() -> None:
    page = site_pages.commands_page()
    assert re.findall(r"^## (\w+)$", page, re.MULTILINE) == list(COMMANDS)
    parts = dict(zip(COMMANDS, page.split("\n## ")[1:], strict=True))
    assert "| `--text-column VALUE` | column with the text; auto finds it |" in parts["predict"]
    assert "| `SYSTEMS` |" in parts["compare"]
    assert "lstm-sentiment doctor" in parts["doctor"]
    assert "--trainer.epochs" not in page, "settings have a page of their own"
    assert "_column" not in page
    assert "SUPPRESS" not in page


def test_the_map_has_every_module_with_its_docstring() -> None:
    page = site_pages.modules_page()
    for file in (ROOT / "lstm_sentiment").rglob("*.py"):
        if file.name != "__init__.py":
            first = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n")[0]
            assert f"| `{file.stem}` | {site_pages.cell(first)}" in page


def test_every_page_is_in_the_sites_navigation() -> None:
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text("utf-8"))
    named = re.findall(r"[\w/-]+\.md", yaml.safe_dump(yaml.safe_load(text)["nav"]))
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert sorted(named) == sorted(written | set(made_pages()))


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None:
        if os.environ.get("CI"):
            pytest.fail("the site cannot be built: pip install '.[docs]'")
        pytest.skip("MkDocs is not installed: pip install '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    api = (tmp_path / "site" / "reference" / "api" / "index.html").read_text("utf-8")
    assert 'id="lstm_sentiment.prediction.classifier.SentimentClassifier.predict"' in api
