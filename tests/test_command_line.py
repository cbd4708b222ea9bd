"""The command ``lstm-sentiment``: its list of commands, usage errors, and start-up time."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import make_rows, write_csv

import lstm_sentiment
from lstm_sentiment import __main__ as command_line
from lstm_sentiment.__main__ import COMMANDS
from lstm_sentiment.errors import ConfigError

PACKAGE = Path(lstm_sentiment.__file__).parent
SCRIPT = "from lstm_sentiment.__main__ import entry; entry()"  # same as the installed script


def run(*argv: str, script: bool = False) -> subprocess.CompletedProcess[str]:
    """Run the command line in a subprocess: as a module, or as the installed script."""
    if script:
        code = f"import sys; sys.argv[0] = '/usr/bin/lstm-sentiment'; {SCRIPT}"
        start = [sys.executable, "-c", code]
    else:
        start = [sys.executable, "-m", "lstm_sentiment"]
    return subprocess.run([*start, *argv], capture_output=True, text=True, timeout=120, check=False)


def test_the_installed_script_is_the_command_line() -> None:
    text = (PACKAGE.parent / "pyproject.toml").read_text("utf-8")
    named = re.search(r'^lstm-sentiment = "([\w.]+):(\w+)"$', text, re.MULTILINE)
    assert named is not None
    assert getattr(importlib.import_module(named[1]), named[2]) is command_line.entry


def test_every_command_is_listed() -> None:
    runnable = {path.stem for path in PACKAGE.glob("*.py") if "run_command(main)" in path.read_text("utf-8")}
    assert runnable - {"options", "__main__"} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_describes_commands_by_their_docstrings(name: str) -> None:
    module = importlib.import_module(f"lstm_sentiment.{name}")
    assert (module.__doc__ or "").splitlines()[0] == f"{COMMANDS[name]}."


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_without_a_command_all_are_listed(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main(argv)
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed and summary in listed for name, summary in COMMANDS.items())


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main(["--version"])
    assert capsys.readouterr().out == f"{lstm_sentiment.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "no command 'trian'. Did you mean 'train'? There are train, predict, "),
        (["--file", "a.csv"], "no command '--file'. There are train, predict, "),
        (["Unbelievable service"], "no command 'Unbelievable service'. There are train, predict, "),
        (["../predict"], "no command '../predict'. Did you mean 'predict'? "),
        (["options"], "no command 'options'. There are"),
        (["\x1b[31m"], "no command '\\x1b[31m'. There are"),
    ],
)
def test_an_unknown_command_is_refused_with_the_nearest_name(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        command_line.main(argv)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("script", [False, True])
def test_usage_errors_exit_with_2_and_one_line(script: bool) -> None:
    for argv in (["predikt", "starter"], ["predict"], ["train", "--trainer.epoch=1"]):
        done = run(*argv, script=script)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1


def test_help_names_the_command_as_it_was_called() -> None:
    for name in ("predict", "train", "doctor"):
        assert run(name, "--help", script=True).stdout.startswith(f"usage: lstm-sentiment {name} ")
        assert run(name, "--help").stdout.startswith(f"usage: python -m lstm_sentiment.{name} ")
    done = run("predict", script=True)
    assert done.stderr.endswith("(see: lstm-sentiment predict --help)\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_spells_options_consistently(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main([name, "--help"])
    help_text = capsys.readouterr().out
    options = re.findall(r"--\w[\w.-]*", help_text)
    assert (
        "--text-column" in options
        or "--data.text-column" in options
        or name in ("report", "doctor", "relabel", "serve", "search")
    )
    assert [option for option in options if "_" in option] == []


def loaded(argv: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return which of some modules the command line imports."""
    code = (
        f"import sys\nfrom lstm_sentiment.__main__ import main\ntry:\n    main({list(argv)})\n"
        f"except SystemExit:\n    pass\nprint(*[name for name in {list(names)} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


def test_a_command_imports_only_what_it_needs() -> None:
    commands = [f"lstm_sentiment.{name}" for name in COMMANDS]
    heavy = ["torch", "sklearn", "scipy", "pandas", "pyarrow", "numpy"]
    assert loaded([], [*commands, *heavy]) == []
    assert loaded(["predict", "--help"], [*commands, *heavy]) == ["lstm_sentiment.predict"]


@pytest.mark.parametrize("short", ["predict", "evaluate"])
def test_a_command_behaves_like_its_module(
    trained_run: Path, tmp_path: Path, short: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_csv(tmp_path / "rows.csv", make_rows(12))
    argv = {
        "predict": [str(trained_run), "--file", str(rows)],
        "evaluate": [str(trained_run), str(rows), "--out", str(tmp_path / "scores.json")],
    }[short]
    importlib.import_module(f"lstm_sentiment.{short}").main(argv)
    alone = capsys.readouterr().out
    command_line.main([short, *argv])
    assert capsys.readouterr().out == alone


@pytest.mark.parametrize(
    ("argv", "key", "option"),
    [
        (["doctor", "runs/x", "--minute", "3"], "--minute", "--minutes"),
        (["doctor", "--minute=3"], "--minute", "--minutes"),
        (["search", "--out=study", "--trial", "3"], "--trial", "--trials"),
        (["suspects", "data.csv", "--out=x.csv", "--aply", "y.csv"], "--aply", "--apply"),
        (["predict", "starter", "--files", "x.csv"], "--files", "--file"),
        (["evaluate", "starter", "x.csv", "--text-colum=a"], "--text-colum", "--text-column"),
        (["serve", "starter", "--prot", "80"], "--prot", "--port"),
    ],
)
def test_a_misspelt_option_is_named_with_the_right_one(argv: list[str], key: str, option: str) -> None:
    with pytest.raises(ConfigError) as error:
        command_line.main(argv)
    assert str(error.value) == f"{key}: no such option. Did you mean '{option}'?"


def test_an_option_that_is_similar_to_none_is_named() -> None:
    with pytest.raises(ConfigError, match="unrecognized arguments: --zebra"):
        command_line.main(["predict", "starter", "--zebra", "so-so"])
    with pytest.raises(ConfigError, match=r"trainer\.epoch: no such option. Did you mean 'trainer\.epochs'"):
        command_line.main(["doctor", "--trainer.epoch", "3"])
