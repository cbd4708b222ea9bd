"""Coverage-guided fuzzing of every parser, for some seconds each.

    scripts/fuzz                       all targets, 30 seconds each, one process per core
    scripts/fuzz config --seconds 600
    scripts/fuzz --replay fuzz/config-crash-55885b0c

A target passes if every input is read or refused with an error of this package (see `tests/fuzzing.py`).
Seconds are wall time and include starting the process. A failing input is kept in the folder `fuzz`, and the
exit code is 1; --replay shows its traceback. Needs atheris, which exists for Linux on x86-64; elsewhere
`scripts/soak fuzz` fuzzes the same targets without coverage guidance.
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
            raise ConfigError(f"{options.replay}: is not a file named TARGET-...; --list shows the targets")
        with tempfile.TemporaryDirectory() as folder:
            TARGETS[name].check(options.replay.read_bytes(), Path(folder))
        print(f"{name}: passed")
        return
    for name in options.names:
        if name not in GUIDED:
            raise ConfigError(f"no target '{name}'; --list shows all.{did_you_mean(name, GUIDED)}")
    if not installed():
        raise MissingExtraError(
            "atheris is not installed; run 'pip install atheris' (Linux on x86-64), "
            "or use 'scripts/soak fuzz', which does not need it"
        )
    found = run(
        options.names or GUIDED, seconds=options.seconds, at_once=options.at_once, failures=options.failures
    )
    failed = []
    for finding in found:
        print(f"{finding.target}: {finding.inputs:,} inputs", flush=True)
        if finding.failure is not None:
            failed.append(finding)
            print(finding.output[-2000:], file=sys.stderr)
            print(f"error: {finding.target} failed on {finding.failure}", file=sys.stderr)
    if failed:
        print(f"error: reproduce with scripts/fuzz --replay {failed[0].failure}", file=sys.stderr)
        sys.exit(1)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="TARGET", help="as in --list; default: all")
    parser.add_argument("--seconds", type=int, default=30, help="for each target (30)")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="processes (one per core)")
    parser.add_argument("--failures", type=Path, default=ROOT / "fuzz", help="folder for failing inputs")
    parser.add_argument("--list", action="store_true", help="list the targets and exit")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run a target on a saved input")
    options = parser.parse_args(argv)
    if options.seconds < 15 or options.at_once < 1:
        parser.error("--seconds must be at least 15, since a process takes some to start, and --at-once 1")
    return options


if __name__ == "__main__":
    run_command(main)
