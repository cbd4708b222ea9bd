"""Optional dependencies: imported on use, with an install hint if missing.

`pyproject.toml` lists the packages of each extra.
"""

from __future__ import annotations

import importlib
from typing import Any

from lstm_sentiment.errors import MissingExtraError


def need(module: str, *, extra: str) -> Any:
    """Import and return a module of an optional extra.

    Args:
        module: dotted name, such as ``matplotlib.figure``.
        extra: its name.

    Raises:
        MissingExtraError: it is not installed; the message says how to install it.

    >>> need("json", extra="report").dumps([1])
    '[1]'
    >>> need("no_such_module", extra="report")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.MissingExtraError: needs no_such_module: pip install 'lstm_sentiment[report]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise MissingExtraError(
            f"needs {missing.split('.')[0]}: pip install 'lstm_sentiment[{extra}]'"
        ) from None
