"""Help of the commands: program names and option spelling."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from jsonargparse import DefaultHelpFormatter


class Help(DefaultHelpFormatter):
    """Help formatter that spells options with - where YAML keys have _; both are accepted."""

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any = None) -> None:
        """Add a short usage line that does not list every setting."""
        usage = usage or f"{self._prog} [--config FILE] [--key VALUE ...]"
        super().add_usage(usage, actions, groups, prefix)

    def format_help(self) -> str:
        """Return the help of a command."""
        return re.sub(r"--\w[\w.]*", lambda option: option[0].replace("_", "-"), super().format_help())


def program(command: str) -> str:
    """Return the program name of a command as it was invoked, for help and messages.

    >>> program("train")
    'python -m lstm_sentiment.train'
    """
    by_script = Path(sys.argv[0]).name.startswith("lstm-sentiment")
    return f"lstm-sentiment {command}" if by_script else f"python -m lstm_sentiment.{command}"
