"""The proof that a checkpoint holds (see `proof`), computed from its weights.

Legend: C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lstm_sentiment.classifier import SentimentClassifier
from lstm_sentiment.config import Config
from lstm_sentiment.proof import proof_texts
from lstm_sentiment.reading.text import Vocabulary
from lstm_sentiment.reading.tokenizing import SPECIAL_TOKENS


def proof_of(
    weights: Mapping[str, Tensor], *, labels: list[str], vocabulary: Vocabulary, config: Config
) -> dict[str, Any]:
    """Return 20 random texts and the logits that prediction on the CPU gives them.

    Args:
        weights: of the network.
        labels: class names.
        vocabulary: known tokens.
        config: of the run.

    Returns:
        `texts`; `logits`, a list of C numbers for each text.

    Raises:
        RuntimeError: weights that do not fit the configuration.

    Example::

        facts = {"proof": proof_of(weights, labels=labels, vocabulary=vocabulary, config=config)}
    """
    classifier = SentimentClassifier(
        labels=labels, vocabulary=vocabulary, config=config, weights=weights, device="cpu"
    )
    texts = proof_texts(vocabulary.tokens[len(SPECIAL_TOKENS) :])
    return {"texts": texts, "logits": classifier.predict_logits(texts).tolist()}
