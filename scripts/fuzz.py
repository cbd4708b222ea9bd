"""Try every parser with inputs that coverage guides, for some seconds each.

    scripts/fuzz                       all targets, 30 seconds each, as many at once as there are cores
    scripts/fuzz config --seconds 600
    scripts/fuzz --replay fuzz/config-crash-55885b0c

A target is passed if every input is read or refused with an error of this package (see `tests/fuzzing.py`).
The seconds are those of the clock, with the start of a target's process in them. What a target falls over is
kept in the folder `fuzz`, and the exit code is 1; --replay shows its traceback. Needs atheris, which there is
for Linux on x86-64; elsewhere `scripts/soak fuzz` tries the same targets without guidance.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.command_line import CommandParser
from lstm_sentiment.errors import ConfigError, MissingExtraError, did_you_mean

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    from fuzzing import GUIDED
    from fuzzing_models import TARGETS
    from guided import installed, run

    if options.list:
        print("\n".join(f"{name:<12} {TARGETS[name].says}" for name in GUIDED))
        return
    if options.replay:
        name = options.replay.name.split("-")[0]
        if name not in TARGETS or not options.replay.is_file():
            raise ConfigError(f"{options.replay}: is no file named TARGET-...; --list names the targets")
        with tempfile.TemporaryDirectory() as folder:
            TARGETS[name].check(options.replay.read_bytes(), Path(folder))
        print(f"{name}: passed")
        return
    for name in options.names:
        if name not in GUIDED:
            raise ConfigError(f"no target '{name}'; --list names all.{did_you_mean(name, GUIDED)}")
    if not installed():
        raise MissingExtraError(
            "atheris is not installed; 'pip install atheris' brings it where there is one (Linux on x86-64), "
            "and 'scripts/soak fuzz' does without"
        )
    found = run(
        options.names or GUIDED, seconds=options.seconds, at_once=options.at_once, failures=options.failures
    )
    fallen = []
    for finding in found:
        print(f"{finding.target}: {finding.inputs:,} inputs", flush=True)
        if finding.failure is not None:
            fallen.append(finding)
            print(finding.told[-2000:], file=sys.stderr)
            print(f"error: {finding.target} fell over {finding.failure}", file=sys.stderr)
    if fallen:
        print(f"error: see each with scripts/fuzz --replay {fallen[0].failure}", file=sys.stderr)
        sys.exit(1)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="TARGET", help="of --list; all without")
    parser.add_argument("--seconds", type=int, default=30, help="for each target (30)")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--failures", type=Path, default=ROOT / "fuzz", help="where failing inputs go")
    parser.add_argument("--list", action="store_true", help="name the targets and do nothing")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="give an input to its target again")
    options = parser.parse_args(argv)
    if options.seconds < 15 or options.at_once < 1:
        parser.error("--seconds must be at least 15, for a process takes some to start, and --at-once 1")
    return options


if __name__ == "__main__":
    run_command(main)
