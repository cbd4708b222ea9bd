"""What the commands that train have in common before torch is imported."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from pathlib import Path

from lstm_sentiment.readable import refuse_unreadable
from lstm_sentiment.terminal import log_to


def log_to_stdout() -> None:
    """Send the log to the terminal: of the first process all, of the others what is wrong.

    Example::

        log_to_stdout()
    """
    main_process = os.environ.get("RANK", "0") == "0"
    log_to(sys.stdout, logging.INFO if main_process else logging.WARNING)


def resumed(argv: list[str]) -> list[str]:
    """Return a command line that, with ``--resume true``, starts from the settings of the run in the folder.

    >>> resumed(["--out", "runs/of-tomorrow", "--resume", "true"])  # there is none yet
    ['--out', 'runs/of-tomorrow', '--resume', 'true']
    """
    words = [part for word in argv for part in word.split("=", 1)]
    given = dict(itertools.pairwise(words))
    if given.get("--resume", "false").lower() != "true" or "--out" not in given:
        return argv
    refuse_unreadable(Path(given["--out"]))
    saved = Path(given["--out"]) / "config.yaml"
    return ["--config", str(saved), *argv] if saved.is_file() else argv
