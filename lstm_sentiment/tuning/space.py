"""The space of a search: for each setting a list of values, or a range.

    trainer.learning_rate: {low: 0.0003, high: 0.006, log: true}
    trainer.epochs: {low: 1, high: 4}
    model.hidden_size: [64, 128, 192]

A range is of whole numbers if both ends are, and may have a `step`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstm_sentiment.config.schema import Config, flatten
from lstm_sentiment.config.yaml_files import read_tree
from lstm_sentiment.errors import ConfigError, did_you_mean, shown

DEFAULT = Path(__file__).with_name("space.yaml")
FIXED = (
    "out",
    "seed",
    "seeds",
    "resume",
    "overwrite",
    "report",
    "baseline",
    "trainer.metric",
    "trainer.log_to",
)
RANGE = {"low", "high", "log", "step"}
Value = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values to check."""
        return self.values


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number from `low` to `high`, both included."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values to check."""
        return (self.low, self.high)

    @property
    def is_whole(self) -> bool:
        """Whether it is of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Space = dict[str, Choice | Range]


def read_space(file: Path) -> Space:
    """Read a space.

    Raises:
        ConfigError: the file cannot be read; an unknown setting, or one that a search sets itself; neither a
            list nor a range; with file, line and key.

    >>> sorted(read_space(DEFAULT))[:2]
    ['model.dropout', 'model.embedding_dropout']
    """
    tree, places = read_tree(str(file))
    found = flat(tree) if isinstance(tree, Mapping) else {}
    if not found:
        raise ConfigError(
            "names no setting; write one per line, such as 'trainer.epochs: [2, 3]'", where=str(file)
        )
    return {key: _parsed(key, value, places.get(key, str(file))) for key, value in found.items()}


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections as dotted keys; a range is a value.

    >>> flat({"trainer": {"epochs": {"low": 1, "high": 3}}, "model.dropout": [0.1]})
    {'trainer.epochs': {'low': 1, 'high': 3}, 'model.dropout': [0.1]}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and not RANGE & set(value):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _parsed(key: str, value: Any, where: str) -> Choice | Range:
    known = [name for name in flatten(Config()) if name not in FIXED]
    if key in FIXED:
        raise ConfigError(
            "is not searched over; set it with --config or on the command line", key=key, where=where
        )
    if key not in known:
        raise ConfigError(f"no such setting.{did_you_mean(key, known)}", key=key, where=where)
    if isinstance(value, list) and value:
        if not all(item is None or isinstance(item, Value) for item in value):
            raise ConfigError(
                "has values that are neither text, numbers, true, false nor null", key=key, where=where
            )
        return Choice(values=tuple(value))
    wrong = ConfigError(
        "must be a list of values, or a range such as {low: 0.001, high: 0.01, log: true}, not "
        f"{shown(str(value))}",
        key=key,
        where=where,
    )
    if not isinstance(value, Mapping) or not {"low", "high"} <= set(value) <= RANGE:
        raise wrong
    numbers = [_number(value[name]) for name in ("low", "high", "step") if name in value]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
        raise wrong
    made = Range(**{name: _number(given) for name, given in value.items()})
    if not made.low < made.high or not isinstance(made.log, bool):
        raise wrong
    if made.log and (made.low <= 0 or made.step is not None):
        raise ConfigError("a logarithmic range begins above 0 and has no step", key=key, where=where)
    if made.step is not None and (made.step <= 0 or (made.is_whole and not isinstance(made.step, int))):
        raise ConfigError("a step is above 0, and whole in a range of whole numbers", key=key, where=where)
    return made


def _number(value: Any) -> Any:
    """Return a number that YAML takes for text, such as 5e-4."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def as_text(value: Any) -> str:
    """Return a value as it is written on the command line.

    >>> as_text(True), as_text(None), as_text(0.001)
    ('true', 'null', '0.001')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)
