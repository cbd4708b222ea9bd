"""Write a page with a run's scores, curves and mistakes."""

from __future__ import annotations

import argparse

from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import CommandParser


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    from lstm_sentiment.reporting.report import write_report  # imports torch: not for --help, not for a typo

    page = write_report(options.run, rows=options.rows, device=options.device)
    print(f"written to {page}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog=program("report"), description=__doc__)
    parser.add_argument("run", help="folder of a finished run; report.html is written into it")
    parser.add_argument(
        "--rows", action="store_true", help="read the run's data, even if it was not trained on this machine"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
