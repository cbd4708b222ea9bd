"""Train, use and audit LSTM sentiment classifiers.

Train on the command line (``python -m lstm_sentiment.train --data.train reviews.csv``), then::

    import lstm_sentiment
    classifier = lstm_sentiment.load("runs/sentiment")
    classifier.predict(["Unbelievable service"])

or, in scikit-learn's pipelines and searches, with `SentimentEstimator`; models on the Hugging Face Hub
are loaded by `SentimentClassifier.from_pretrained`.
Importing this package imports neither torch nor anything else that is heavy; `load` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lstm_sentiment.classifier import Prediction, SentimentClassifier, load
    from lstm_sentiment.estimator import SentimentEstimator

__all__ = ["Prediction", "SentimentClassifier", "SentimentEstimator", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = "estimator" if name == "SentimentEstimator" else "classifier"
        return getattr(importlib.import_module(f"lstm_sentiment.{module}"), name)
    raise AttributeError(f"module 'lstm_sentiment' has no attribute '{name}'")
