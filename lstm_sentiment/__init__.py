"""LSTM sentiment classifiers: training, prediction, explanation and diagnostics.

The package includes a model for English texts::

    import lstm_sentiment
    classifier = lstm_sentiment.load("starter")
    classifier.predict(["Unbelievable service"])

Train your own on the command line (``lstm-sentiment train --data.train reviews.csv``) and load it
by its folder, or use `SentimentEstimator` in scikit-learn pipelines and searches. Load models from the
Hugging Face Hub with `SentimentClassifier.from_pretrained`.
Importing this package does not import torch or other heavy packages; `load` does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lstm_sentiment.version import __version__ as __version__

if TYPE_CHECKING:
    from lstm_sentiment.bulk.predictor import BatchPredictor
    from lstm_sentiment.estimator import SentimentEstimator
    from lstm_sentiment.explanation.attribution import Explanation
    from lstm_sentiment.prediction.classifier import SentimentClassifier, load
    from lstm_sentiment.prediction.types import Prediction

MODULES = {
    "BatchPredictor": "bulk.predictor",
    "Explanation": "explanation.attribution",
    "Prediction": "prediction.types",
    "SentimentClassifier": "prediction.classifier",
    "SentimentEstimator": "estimator",
    "load": "prediction.classifier",
}
__all__ = ["BatchPredictor", "Explanation", "Prediction", "SentimentClassifier", "SentimentEstimator", "load"]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the garbage collector, which would go through the imported modules again and again: 0.15 s."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def __getattr__(name: str) -> Any:
    if name in __all__:
        with _uncollected():
            return getattr(importlib.import_module(f"lstm_sentiment.{MODULES[name]}"), name)
    raise AttributeError(f"module 'lstm_sentiment' has no attribute '{name}'")
