"""The logs of scripts/reproduce and scripts/soak: JSON, a result a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lstm_sentiment.errors import DataError


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, oldest first; none where there is no file.

    Raises:
        DataError: a line that is no JSON.
    """
    entries = []
    for number, line in enumerate(path.read_text("utf-8").splitlines() if path.exists() else [], start=1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(
                f"not JSON: {error.msg}; mend or remove it", file=str(path), line=number
            ) from None
    return entries
