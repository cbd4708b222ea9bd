"""Log set-up and `--resume` of the commands that train; runs before torch is imported."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from pathlib import Path
from typing import Any

from lstm_sentiment.cli.terminal import log_to
from lstm_sentiment.config.command_line import read_settings
from lstm_sentiment.config.public import named_paths
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import ConfigError, RunError, shown
from lstm_sentiment.system.open_errors import refuse_unreadable


def log_to_stdout() -> None:
    """Log to the terminal: everything of the main process, only warnings of the others.

    Example::

        log_to_stdout()
    """
    main_process = os.environ.get("RANK", "0") == "0"
    log_to(sys.stdout, logging.INFO if main_process else logging.WARNING)


def resumed(argv: list[str], kind: type = Config) -> list[str]:
    """Return a command line in which ``--resume true`` takes the settings of the run in the folder.

    Args:
        argv: the command line.
        kind: of the configuration.

    Raises:
        RunError: the run was not trained here, and its settings name files that the command line does not.

    >>> resumed(["--out", "runs/of-tomorrow", "--resume", "true"])  # there is none yet
    ['--out', 'runs/of-tomorrow', '--resume', 'true']
    """
    words = [part for word in argv for part in word.split("=", 1)]
    given = dict(itertools.pairwise(words))
    if given.get("--resume", "false").lower() != "true" or "--out" not in given:
        return argv
    refuse_unreadable(Path(given["--out"]))
    saved = Path(given["--out"]) / "config.yaml"
    if not saved.is_file():
        return argv
    if "--config" not in given:
        _refuse_unnamed(saved, kind, given)
    return ["--config", str(saved), *argv]


def _refuse_unnamed(saved: Path, kind: type, given: dict[str, str]) -> None:
    """Refuse an untrusted configuration that names files that the user does not."""
    from lstm_sentiment.checkpoints.trusted_runs import (
        is_trusted,
    )  # imports pandas: not for --help, not for a typo

    if is_trusted(saved.parent):
        return
    try:
        config: Any = read_settings(saved, kind)
    except ConfigError:  # reported where it is read
        return
    unnamed = [value for key, value in named_paths(config).items() if given.get(f"--{key}") != str(value)]
    if unnamed:
        names = (name for value in unnamed for name in (value if isinstance(value, list) else [value]))
        raise RunError(
            f"{saved.parent}: was not trained here and is untrusted; its configuration names "
            f"{', '.join(shown(name, 200) for name in names)}; add --config {saved} to allow reading them"
        )
