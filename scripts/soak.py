"""Soak tests: repeat the fault injection of the tests many times and log the results.

    scripts/soak --list
    scripts/soak kills flips
    scripts/soak kills --count 100
    scripts/soak --all
    scripts/soak --render

Each soak is a function of the folder `tests`, which the tests call too, with a smaller count. Every result
is appended to docs/soak.jsonl, and docs/soak.md shows the latest one of each soak. The exit code is 1 if
anything was lost, or if a control, which injects the same faults into an unprotected writer, lost less than
half: then the faults would be too weak.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import logging
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from result_log import commit_of, markdown, read_log, repository

from lstm_sentiment import __version__
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.command_line import CommandParser
from lstm_sentiment.errors import ConfigError, did_you_mean
from lstm_sentiment.system.files import write_atomically

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, kw_only=True)
class Soak:
    """A soak test.

    Args:
        does: a function of tests/, as ``module.function``; takes a count and an empty folder, and returns
            counts: first the number of injected faults, and how much was `lost`.
        count: default number of repetitions.
        says: description for the page.
        control: whether it is an unprotected control, of which at least half must be lost.
    """

    does: str
    count: int
    says: str
    control: bool = False


SOAKS = {
    "kills": Soak(
        does="faults.kills",
        count=3000,
        says="SIGKILL inside the writer of checkpoints: the old one or the new one loads",
    ),
    "kills-control": Soak(
        does="faults.kills_of_a_plain_save",
        count=300,
        says="the same kills of `torch.save` over one file",
        control=True,
    ),
    "commands": Soak(
        does="faults.command_kills",
        count=100,
        says="SIGKILL of the training command: it resumes and ends with the same bytes",
    ),
    "trace": Soak(
        does="power_cuts.of_all_saves",
        count=10,
        says="a power cut at each moment of these saves: the old or the new one loads",
    ),
    "trace-control": Soak(
        does="power_cuts.of_all_saves_unflushed",
        count=3,
        says="the same power cuts without fsync",
        control=True,
    ),
    "flips": Soak(does="faults.flips", count=20_000, says="a flipped bit: detected, and its file named"),
    "truncations": Soak(
        does="faults.truncations",
        count=100,
        says="each file truncated to each length: detected, and the file named",
    ),
    "disk": Soak(
        does="faults.full_disk",
        count=100,
        says="a disk that fills up during a save: the previous checkpoint survives",
    ),
    "events": Soak(
        does="run_machine.sequences",
        count=2000,
        says="saves, kills, bad disks, damage, losses and restarts of a run in any order: the newest intact "
        "checkpoint loads, or the problem is named",
    ),
    "fuzz": Soak(
        does="fuzzing_models.unguided",
        count=5000,
        says="so many mutated files for each parser: read, or refused by an error of this package",
    ),
    "fuzz-guided": Soak(
        does="guided.soak",
        count=600,
        says="coverage-guided fuzzing (atheris), so many seconds for each parser",
    ),
    "fuzz-guided-control": Soak(
        does="guided.soak_of_a_bug",
        count=60,
        says="the same with a parser that has a bug behind four comparisons",
        control=True,
    ),
    "ranks": Soak(
        does="ranks.faults",
        count=3,
        says="each of 11 faults of one process of two: all end within 30 s and report why",
    ),
    "ranks-control": Soak(
        does="ranks.hangs_without_timeout",
        count=2,
        says="a process that hangs, with gloo's own timeout of 30 minutes: the job still runs a minute later",
        control=True,
    ),
    "groups": Soak(
        does="ranks.groups",
        count=10,
        says="a process creates and deletes 200 process groups: none hangs on deletion",
    ),
    "groups-control": Soak(
        does="ranks.groups_of_the_reducer",
        count=10,
        says="the same, up to 3,000, if the last reference to a group is torch's own",
        control=True,
    ),
    "ranks-resumed": Soak(
        does="ranks.resumes",
        count=17,
        says="two processes resume from each step, in fp32 and bf16 (if the CPU has it), to the same bytes",
    ),
}
INTRODUCTION = """# Soak tests

Written by `scripts/soak --render` from `docs/soak.jsonl`: the latest run of each soak, failures included.
Each injects a fault many times, with the code that the tests run with smaller counts (`tests/faults.py` and
others). Nothing may be lost; a control, which injects the same faults into an unprotected writer, must lose
at least half, or the faults would be too weak.
"""


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    if options.list:
        print("\n".join(f"{name:<16} {soak.count:>6}  {soak.says}" for name, soak in SOAKS.items()))
        return
    logging.disable(logging.WARNING)  # warnings on damaged checkpoints are expected
    options.docs.mkdir(parents=True, exist_ok=True)
    log = options.docs / "soak.jsonl"
    failed = []
    state = repository(ROOT, "lstm_sentiment", "tests", "scripts")  # before the runs, with the code as loaded
    for name in options.names:
        entry = run(name, options.count or SOAKS[name].count) | state
        with log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry) + "\n")
        print(f"{name}: {_counted(entry['counts'])} in {entry['seconds']:,.0f} s", flush=True)
        if not kept_its_promise(entry):
            failed.append(name)
    page = options.docs / "soak.md"
    write_atomically(page, page_of(read_log(log)).encode())
    print(f"written to {page}")
    if failed:
        print(f"error: {', '.join(failed)}: not as expected", file=sys.stderr)
        sys.exit(1)


def run(name: str, count: int) -> dict[str, Any]:
    """Run a soak and return its log entry."""
    if str(ROOT / "tests") not in sys.path:
        sys.path.insert(0, str(ROOT / "tests"))
    module, _, function = SOAKS[name].does.partition(".")
    do = getattr(importlib.import_module(module), function)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        counts = do(count, Path(folder))
    return {
        "name": name,
        "command": f"scripts/soak {name} --count {count}",
        "counts": counts,
        "control": SOAKS[name].control,
        "seconds": round(time.monotonic() - started, 1),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "version": __version__,
        "machine": _machine(),
    }


def kept_its_promise(entry: dict[str, Any]) -> bool:
    """Whether nothing was lost, or at least half in a control."""
    done, lost = next(iter(entry["counts"].values())), entry["counts"]["lost"]
    return bool(2 * lost >= done > 0) if entry["control"] else lost == 0 < done


def page_of(entries: list[dict[str, Any]]) -> str:
    """Return the page: the latest entry of each soak, in the table's order."""
    latest = {entry["name"]: entry for entry in entries}
    head = ["fault", "counts", "as expected", "command", "seconds", "commit", "date"]
    rows = []
    for name, soak in SOAKS.items():
        if (of := latest.get(name)) is not None:
            verdict = "yes" if kept_its_promise(of) else "**no**"
            done = [soak.says, _counted(of["counts"]), verdict, f"`{of['command']}`"]
            rows.append([*done, f"{of['seconds']:,.0f}", commit_of(of), of["date"][:10]])
    machines = dict.fromkeys(latest[name]["machine"] for name in SOAKS if name in latest)
    missing = [name for name in SOAKS if name not in latest]
    parts = [INTRODUCTION, markdown(head, rows) + "\n"]
    parts += [f"Machine: {'; '.join(machines)}.\n"] if machines else []
    parts += [f"Not run yet: {', '.join(missing)}.\n"] if missing else []
    return "\n".join(parts)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _machine() -> str:
    """Return a description of the machine."""
    import torch  # after the package, which sets it up

    from lstm_sentiment.system.devices import describe_machine

    cpu = describe_machine(torch.device("cpu"))["cpu"]
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="scripts/soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(SOAKS)}")
    parser.add_argument("--all", action="store_true", help="run every soak")
    parser.add_argument("--count", type=int, help="repetitions; default: see --list")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder for soak.jsonl and soak.md")
    parser.add_argument("--list", action="store_true", help="list the soaks and exit")
    parser.add_argument("--render", action="store_true", help="only write the page from the log")
    options = parser.parse_args(argv)
    if bool(options.names or options.all) == (options.list or options.render):
        parser.error("give names or --all, or one of --list and --render")
    if options.count is not None and options.count < 1:
        parser.error("--count must be at least 1")
    for name in options.names:
        if name not in SOAKS:
            raise ConfigError(f"no soak '{name}'; --list shows all.{did_you_mean(name, SOAKS)}")
    options.names = list(SOAKS) if options.all else options.names
    return options


if __name__ == "__main__":
    run_command(main)
