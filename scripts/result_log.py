"""Result logs (JSON lines) and Markdown tables of scripts/reproduce, scripts/soak and scripts/mutate."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lstm_sentiment.errors import DataError


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a log, oldest first; none if there is no file.

    Raises:
        DataError: a line is not JSON.
    """
    entries = []
    for number, line in enumerate(path.read_text("utf-8").splitlines() if path.exists() else [], start=1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"not JSON: {error.msg}; fix or remove it", file=str(path), line=number) from None
    return entries


def repository(root: Path, *paths: str) -> dict[str, Any]:
    """Return the commit of a working tree (None without one) and whether the given paths differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    changes = git("status", "--porcelain", "--", *paths)
    return {"commit": git("rev-parse", "--short", "HEAD") or None, "dirty": bool(changes)}


def commit_of(entry: dict[str, Any]) -> str:
    """Return the commit of a log entry as text (see `repository`).

    >>> commit_of({"commit": "1a2b3c4", "dirty": True})
    '1a2b3c4, changed'
    """
    return f"{entry['commit']}{', changed' if entry['dirty'] else ''}"


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a Markdown table; bars in cells are replaced.

    >>> print(markdown(["name", "count"], [["a|b", "2"]]))
    | name | count |
    | --- | --- |
    | a/b | 2 |
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
