"""What the help of commands looks like: their names, and one spelling of options."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from jsonargparse import DefaultHelpFormatter


class Help(DefaultHelpFormatter):
    """Shows the options of settings with - where the keys of YAML files have _; both are understood."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        """Add a usage line that does not list a hundred settings."""
        usage = usage or f"{self._prog} [--config FILE] [--key VALUE ...]"
        super().add_usage(usage, actions, groups, prefix)

    def format_help(self) -> str:
        """Return the help of a command."""
        return re.sub(r"--\w[\w.]*", lambda option: option[0].replace("_", "-"), super().format_help())


def program(command: str) -> str:
    """Return how a command of this process was called, for its help and messages.

    >>> program("train")
    'python -m lstm_sentiment.train'
    """
    by_script = Path(sys.argv[0]).name.startswith("lstm-sentiment")
    return f"lstm-sentiment {command}" if by_script else f"python -m lstm_sentiment.{command}"
