"""``python -m lstm_sentiment.pretrain``: train language models on text without labels."""

from __future__ import annotations

from lstm_sentiment.launching import log_to_stdout, resumed
from lstm_sentiment.options import parse_settings, run_command
from lstm_sentiment.pretraining.settings import PretrainConfig

DESCRIPTION = """Train a forward and a backward LSTM language model on text without labels, and report its
perplexity. `python -m lstm_sentiment.train --pretrained FOLDER` starts a classifier from them."""


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    config = parse_settings(
        PretrainConfig,
        resumed(argv, PretrainConfig),
        program="python -m lstm_sentiment.pretrain",
        description=DESCRIPTION,
    )
    log_to_stdout()
    from lstm_sentiment.pretraining.language_training import pretrain  # torch: not for --help

    pretrain(config)


if __name__ == "__main__":
    run_command(main)
