"""Logistic regression on TF-IDF of words and word pairs by scikit-learn: an independent reference.

The published tables compare with it; a run's own baseline is `lstm_sentiment.linear.baselines`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.records.scores import Scores

MAX_TOKENS = 8_000_000  # of the linear model's training rows; more needs more memory than a laptop has
ROWS_AT_ONCE = 2_000
Array = npt.NDArray[Any]


def linear_scores(train: TextDataset, test: TextDataset, labels: list[str], *, seed: int) -> Scores:
    """Fit logistic regression on `train` and return its scores on `test` (see `metrics.score`)."""
    rows = np.random.default_rng(seed).permutation(len(train))
    rows = np.sort(rows[: max(1, int((np.cumsum(train.lengths[rows]) <= MAX_TOKENS).sum()))])
    linear_RC = _linear_probabilities(train, rows, test, len(labels))
    return replace(score(test.labels, linear_RC, labels), training_rows=len(rows))


def _linear_probabilities(train: TextDataset, rows: Array, test: TextDataset, classes: int) -> Array:
    vectorizer = TfidfVectorizer(
        tokenizer=str.split,
        token_pattern=None,
        lowercase=False,
        ngram_range=(1, 2),
        sublinear_tf=True,
        dtype=np.float32,
    )
    # C=5 beats C=1 on the validation rows of SST-2, tweets and IMDB. With a tolerance of 1e-3 the fit stops
    # too early on long texts, whose features are small.
    model = LogisticRegression(C=5.0, max_iter=1000, tol=1e-4)
    weights_R = train.weights * train.counts.mean()
    model.fit(vectorizer.fit_transform(_documents(train, rows)), train.labels[rows], weights_R[rows])
    probabilities_RC = np.zeros((len(test), classes))
    for start in range(0, len(test), ROWS_AT_ONCE):
        part = np.arange(start, min(start + ROWS_AT_ONCE, len(test)))
        probabilities_RC[part[:, None], model.classes_] = model.predict_proba(
            vectorizer.transform(_documents(test, part))
        )
    return probabilities_RC


def _documents(dataset: TextDataset, rows: Array) -> Iterator[str]:
    """Yield rows as tokens joined by spaces; not truncated, unlike the LSTM's input."""
    tokens = dataset.store.tokens
    for count, row in enumerate(rows, start=1):
        yield " ".join([tokens[i] for i in dataset.token_ids(row)])
        if count % ROWS_AT_ONCE == 0:
            dataset.store.release()
