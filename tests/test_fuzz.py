"""Whatever a file holds, only errors of this package come out of reading it."""

from __future__ import annotations

from pathlib import Path

import fuzzing
import pytest


@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_only_our_own_errors_come_out(name: str, tmp_path: Path) -> None:
    fuzzing.try_inputs(name, 100, tmp_path)
