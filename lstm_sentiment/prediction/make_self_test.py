"""Computes the self-test of a checkpoint (see `checkpoints.self_test`).

Legend: C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lstm_sentiment.checkpoints.self_test import self_test_texts
from lstm_sentiment.config.schema import Config
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.text.tokenizers import Vocabulary


def self_test_of(
    weights: Mapping[str, Tensor],
    *,
    labels: list[str],
    vocabulary: Vocabulary,
    config: Config,
    **merging: Any,
) -> dict[str, Any]:
    """Return 20 random texts and their logits on the CPU.

    Args:
        weights: of the network.
        labels: class names.
        vocabulary: known tokens.
        config: of the run.
        merging: `merged` and `calibration` of a classifier with merged classes (see `SentimentClassifier`).

    Returns:
        `texts`; `logits`, a list of C numbers for each text.

    Raises:
        RuntimeError: the weights do not match the configuration.

    Example::

        facts = {"proof": self_test_of(weights, labels=labels, vocabulary=vocabulary, config=config)}
    """
    classifier = SentimentClassifier(
        labels=labels, vocabulary=vocabulary, config=config, weights=weights, device="cpu", **merging
    )
    texts = self_test_texts(vocabulary.tokens[len(SPECIAL_TOKENS) :])
    return {"texts": texts, "logits": classifier.predict_logits(texts).tolist()}
