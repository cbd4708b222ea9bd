"""Coverage-guided fuzzing of the targets of `fuzzing` with atheris, Google's fuzzer for Python.

    python tests/guided.py TARGET SECONDS FOLDER [FAILURES]     one target in a separate process: see `run`

Inputs that reach new code are kept and mutated further. `scripts/fuzz` runs it, and `scripts/soak` for
longer.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

LONGEST_INPUT = 4096  # bytes; longer ones reach no more code
SLOWEST_S = 20  # one input; more is a finding
MOST_MB = 4096
INSTRUMENTED = ["lstm_sentiment", "yaml", "json", "csv", "fuzzing"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of one target.

    Args:
        target: its name.
        inputs: how many were tried.
        failure: file with the failing input, if any.
        output: stderr of the process.
    """

    target: str
    inputs: int
    failure: Path | None
    output: str


def run(names: Iterable[str], *, seconds: int, at_once: int, failures: Path) -> Iterator[Finding]:
    """Fuzz targets in separate processes, some in parallel, and yield their results in order.

    Args:
        names: of targets.
        seconds: of wall clock for each, in which its process also has to start.
        at_once: processes.
        failures: folder for failing inputs.
    """
    failures.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(lambda name: _run_one(name, seconds, failures), names)


def _run_one(name: str, seconds: int, failures: Path) -> Finding:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        command = [sys.executable, __file__, name, str(time.time() + seconds), folder, str(failures)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    tried = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    written = re.search(r"Test unit written to (.+)", done.stderr)
    if tried is None and written is None:
        raise RuntimeError(f"{name}: the fuzzer did not run:\n{done.stderr[-3000:]}")
    failed = done.returncode != 0
    return Finding(
        target=name,
        inputs=int(tried[1]) if tried else 0,
        failure=Path(written[1]) if failed and written else None,
        output=done.stderr,
    )


def soak(count: int, folder: Path) -> dict[str, int]:
    """Fuzz each target for `count` seconds, for `scripts/soak`.

    Returns:
        `targets`, and `inputs` in all; `lost`: targets that failed on one, reported on stderr.
    """
    from fuzzing import GUIDED

    return _counted(GUIDED, count)


def soak_of_a_bug(count: int, folder: Path) -> dict[str, int]:
    """The same for a parser with a well-hidden bug: the control."""
    from fuzzing import CONTROLS

    return _counted(list(CONTROLS), count)


def _counted(names: list[str], seconds: int) -> dict[str, int]:
    failures = Path(tempfile.gettempdir()) / "fuzz"
    found = list(run(names, seconds=seconds, at_once=os.cpu_count() or 1, failures=failures))
    fallen = [finding for finding in found if finding.failure is not None]
    for finding in fallen:
        print(f"{finding.target} failed on {finding.failure}", file=sys.stderr)
    inputs = sum(finding.inputs for finding in found)
    return {"targets": len(found), "inputs": inputs, "lost": len(fallen)}


def main(name: str, deadline: str, folder: str, failures: str) -> None:
    """Fuzz one target until a deadline; exits through libFuzzer, with a non-zero code if it failed."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        import fuzzing

    target = {**fuzzing.TARGETS, **fuzzing.CONTROLS}[name]
    seeds, scratch, words = Path(folder) / "seeds", Path(folder) / "scratch", Path(folder) / "words"
    seeds.mkdir()
    scratch.mkdir()
    for number, seed in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(seed)
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
    words.write_text("".join(f'"{word}"\n' for word in escaped), "ascii")
    options = {
        "max_total_time": max(1, round(float(deadline) - time.time())),
        "max_len": LONGEST_INPUT,
        "timeout": SLOWEST_S,
        "rss_limit_mb": MOST_MB,
        "dict": words,
        "artifact_prefix": f"{failures}/{name}-",
        "print_final_stats": 1,
    }
    atheris.Setup(
        [sys.argv[0], *(f"-{option}={value}" for option, value in options.items()), str(seeds)],
        lambda data: target.check(data, scratch),
    )
    atheris.Fuzz()


def installed() -> bool:
    return importlib.util.find_spec("atheris") is not None


if __name__ == "__main__":
    main(*sys.argv[1:])
