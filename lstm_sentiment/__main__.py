"""The command line: ``lstm-sentiment COMMAND ...``, or ``python -m lstm_sentiment COMMAND ...``.

Each command is a module with a function ``main``, also available as ``python -m lstm_sentiment.COMMAND``.
Only the module of the given command is imported.
"""

from __future__ import annotations

import importlib
from typing import NoReturn

from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.usage import program
from lstm_sentiment.errors import ConfigError, did_you_mean, shown
from lstm_sentiment.version import __version__

COMMANDS = {
    "train": "Train a classifier on labelled text and evaluate it",
    "predict": "Label texts, the rows of a file, or lines from stdin",
    "evaluate": "Score a run on labelled rows or on behavioural tests",
    "compare": "Test which of several systems is better on the same labelled rows",
    "report": "Write a page with a run's scores, curves and mistakes",
    "explain": "Show which tokens a prediction comes from, and what the LSTM did with each",
    "doctor": "Examine data, settings and model for common faults",
    "suspects": "List rows that are likely wrong, and write a fixed copy of the data",
    "search": "Search settings of train, by trials on validation rows",
    "relabel": "Rename the classes of a finished run, or merge several",
    "export": "Write an ONNX model and a runtime that needs no PyTorch",
    "serve": "Serve predictions over HTTP, with a page to try them on",
    "pretrain": "Train language models on unlabelled text",
}


def main(argv: list[str]) -> None:
    """Run a command; without one, list the commands.

    Args:
        argv: arguments after the program's name.

    Raises:
        ConfigError: unknown command.
    """
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(overview())
    elif name == "--version":
        print(__version__)
    elif name in COMMANDS:
        importlib.import_module(f"lstm_sentiment.{name}").main(argv[1:])
    else:
        hint = did_you_mean(name, COMMANDS)
        raise ConfigError(f"no command {shown(name)}.{hint} There are {', '.join(COMMANDS)}")


def overview() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    called = program("COMMAND")
    return "\n".join(
        [
            f"usage: {called} ...",
            "",
            *(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()),
            "",
            f"{called} --help explains a command; --version shows the version.",
        ]
    )


def entry() -> NoReturn:
    """Run the command line of the process and exit with its exit code."""
    run_command(main)


if __name__ == "__main__":
    entry()
