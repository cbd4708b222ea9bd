"""Train, use and audit LSTM sentiment classifiers.

The model that comes with the package answers English texts at once::

    import lstm_sentiment
    classifier = lstm_sentiment.load("starter")
    classifier.predict(["Unbelievable service"])

Train your own on the command line (``lstm-sentiment train --data.train reviews.csv``) and load it
by its folder, or use `SentimentEstimator` in scikit-learn's pipelines and searches. Models on the Hugging
Face Hub are loaded by `SentimentClassifier.from_pretrained`.
Importing this package imports neither torch nor anything else that is heavy; `load` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lstm_sentiment.version import __version__ as __version__

if TYPE_CHECKING:
    from lstm_sentiment.estimator import SentimentEstimator
    from lstm_sentiment.prediction.classifier import SentimentClassifier, load
    from lstm_sentiment.prediction.types import Prediction

MODULES = {
    "Prediction": "prediction.types",
    "SentimentClassifier": "prediction.classifier",
    "SentimentEstimator": "estimator",
    "load": "prediction.classifier",
}
__all__ = ["Prediction", "SentimentClassifier", "SentimentEstimator", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"lstm_sentiment.{MODULES[name]}"), name)
    raise AttributeError(f"module 'lstm_sentiment' has no attribute '{name}'")
