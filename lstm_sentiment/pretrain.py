"""Train language models on unlabelled text."""

from __future__ import annotations

from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import parse_settings
from lstm_sentiment.experiment.launching import log_to_stdout, resumed
from lstm_sentiment.pretraining.config import PretrainConfig

DESCRIPTION = """Train a forward and a backward LSTM language model on unlabelled text and report their
perplexity. The command train starts a classifier from them with --pretrained FOLDER."""


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    config = parse_settings(
        PretrainConfig,
        resumed(argv, PretrainConfig),
        program=program("pretrain"),
        description=DESCRIPTION,
    )
    log_to_stdout()
    from lstm_sentiment.pretraining.run import pretrain  # torch: not for --help

    pretrain(config)


if __name__ == "__main__":
    run_command(main)
