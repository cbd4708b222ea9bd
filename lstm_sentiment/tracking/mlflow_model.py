"""A trained run as an MLflow model: MLflow calls `_load_pyfunc`, which opens the folder without pickle.

mlflow.pyfunc.load_model("runs:/RUN/model").predict(["Unbelievable service"])
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.text.given import USUAL


class ServedModel:
    """What MLflow predicts with.

    Args:
        classifier: of the run.
    """

    def __init__(self, classifier: SentimentClassifier) -> None:
        self.classifier = classifier

    def predict(self, texts: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return a row per text: `label`, `score`, and a `probability_...` of each class.

        Args:
            texts: a list or column of texts, or a table with one column, or with one called text.
            params: options of `SentimentClassifier.predict`, such as `abstain_below`.

        Raises:
            DataError: not texts.
            ConfigError: an option that cannot be used.

        Example::

            ServedModel(lstm_sentiment.load("starter")).predict(["so-so"]).loc[0, "label"]
        """
        if isinstance(texts, pd.DataFrame) and texts.shape[1] > 1:
            texts = texts[next((name for name in USUAL if name in texts), texts.columns[0])]
        found = self.classifier.predict(texts, **(params or {}))
        rows = [{"label": of.label, "score": of.score} for of in found]
        shares = [{f"probability_{name}": p for name, p in of.probabilities.items()} for of in found]
        return pd.DataFrame([{**row, **share} for row, share in zip(rows, shares, strict=True)])


def _load_pyfunc(path: str) -> ServedModel:
    return ServedModel(load(path, device="cpu"))
