"""Predictions are the same bits alone and in any batch, where the compiled kernels run."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from conftest import CLUES, FILLERS

import lstm_sentiment
from lstm_sentiment.config.schema import Config, ModelConfig, TextConfig
from lstm_sentiment.kernels.library import library
from lstm_sentiment.models.network import TfidfBranch, WideAndDeep
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.text.tokenizers import Vocabulary

WORDS = [
    *FILLERS,
    *CLUES["positive"],
    *CLUES["negative"],
    "goooood",
    "xyzzy",
    ":-)",
    "\U0001f600",
    "3.5",
    "!!",
]
pytestmark = pytest.mark.skipif(library() is None, reason="the kernels are not compiled for this CPU")


def some_texts() -> list[str]:
    """Return texts of 0 to 40 words, a few of them known to no vocabulary."""
    randomness = random.Random(0)
    return ["", "...", *(" ".join(randomness.choices(WORDS, k=k % 41)) for k in range(1, 100))]


def tfidf_classifier() -> SentimentClassifier:
    """Return a classifier with random weights and a TF-IDF branch."""
    torch.manual_seed(0)
    model = ModelConfig(embedding_size=32, hidden_size=64, ngrams=1000, ngram_kind="tfidf")
    config = Config(model=model, text=TextConfig(subwords=500))
    classifier = SentimentClassifier(
        labels=list(CLUES), vocabulary=Vocabulary(WORDS[:20]), config=config, device="cpu"
    )
    network = classifier.model
    assert isinstance(network, WideAndDeep)
    assert isinstance(network.ngrams, TfidfBranch)
    network.ngrams.idf[1:].uniform_(1, 5)
    network.ngrams.weights.weight.normal_()
    return classifier


@pytest.mark.parametrize("kind", ["starter", "tfidf"])
def test_a_prediction_is_the_same_bits_in_any_batch(kind: str) -> None:
    classifier = lstm_sentiment.load("starter", device="cpu") if kind == "starter" else tfidf_classifier()
    texts = some_texts()
    alone_RC = np.concatenate([classifier.predict_proba([text]) for text in texts])
    for size in (2, 3, 7, 15, 16, 33, len(texts)):
        starts = range(0, len(texts), size)
        found_RC = np.concatenate([classifier.predict_proba(texts[i : i + size]) for i in starts])
        assert np.array_equal(found_RC, alone_RC), size
