"""Findings of the diagnostics: severity, problem, consequence, setting to change."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)  # worst first


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding.

    Args:
        severity: ``error``, predictions or scores are wrong; ``warning``, they are worse than necessary or
            misleading; ``note``, harmless.
        what: the problem, with numbers.
        why: the consequence, and what to do.
        key: the setting to change, such as ``trainer.learning_rate``; None if no setting helps.

    >>> Finding(severity="bad", what="", why="", key=None)
    Traceback (most recent call last):
        ...
    ValueError: 'bad' is not one of error, warning, note
    """

    severity: str
    what: str
    why: str
    key: str | None

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"'{self.severity}' is not one of {', '.join(SEVERITIES)}")


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by severity (stable).

    >>> mild, bad = (Finding(severity=s, what=s, why="", key=None) for s in ("note", "error"))
    >>> [finding.what for finding in worst_first([mild, bad])]
    ['error', 'note']
    """
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def finding_lines(findings: Iterable[Finding]) -> list[str]:
    """Format findings as lines of text, worst first.

    >>> print("\\n".join(finding_lines([Finding(severity="note", what="so", why="thus", key="seed")])))
    note     so
             thus [seed]
    """
    lines = []
    for finding in worst_first(findings):
        key = f" [{finding.key}]" if finding.key else ""
        lines += [f"{finding.severity:<8} {finding.what}", f"{'':<8} {finding.why}{key}"]
    return lines


def plain(value: Any) -> Any:
    """Convert a value for strict JSON: non-finite numbers become None.

    >>> plain({"losses": [1.0, float("nan")]})
    {'losses': [1.0, None]}
    """
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
