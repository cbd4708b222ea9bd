"""If one of several processes dies, hangs or fails, all end with a reason and can be resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import ranks
from ranks import ACCUMULATED, FAULTS, IN_TESTS, KEPT, VARIANTS


@pytest.mark.parametrize("name", IN_TESTS)
def test_a_fault_of_one_rank_ends_all_and_is_reported(tmp_path: Path, name: str) -> None:
    """The other faults of the table are for scripts/soak."""
    found = ranks.to_its_end(name, tmp_path)
    assert ranks.wrong_with(found, FAULTS[name], tmp_path / "run") == [], found.output


def test_two_resumed_processes_end_with_the_same_bytes(tmp_path: Path) -> None:
    """From several steps, in new processes, and when torchrun restarts a job."""
    assert ranks.resume_from_steps(KEPT, tmp_path) == {"resumes": sum(map(len, KEPT.values())), "lost": 0}
    ends = [ranks.end_of(tmp_path / name) for name in VARIANTS]
    assert all(ends[0][file] != ends[1][file] for file in ends[0]), "two runs differ: the comparison can fail"
    found = ranks.to_its_end(
        "killed in a step", tmp_path, *ACCUMULATED, *VARIANTS["fp32"], launcher=("--max-restarts=1",)
    )
    assert (found.code, found.orphans, found.status["state"]) == (0, [], "finished"), found.output
    assert "start 2 of this job: resuming" in found.output
    assert "resuming at step 6 of 18" in found.output
    assert ranks.end_of(tmp_path / "run") == ends[0]
