"""Predictions of a classifier for a labelled file, with the true labels.

Legend: R rows, C classes.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from lstm_sentiment.config.sections import name_of
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.prediction.labelled_rows import labelled_chunks
from lstm_sentiment.provenance.known_texts import texts_of_run
from lstm_sentiment.provenance.trained_texts import Seen, joined_seen
from lstm_sentiment.system.background import read_ahead

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]


def predict_file(
    classifier: SentimentClassifier, file: str | Sequence[str], **how: Any
) -> tuple[Array, Array]:
    """Return the true class index (R,) and the predicted probabilities (R, C) of every row of a file.

    Args:
        classifier: to predict with.
        file: labelled rows, in any format of training data. Rows that training leaves out (see
            ``data.labels``) are left out here too, with a warning in the log.
        how: columns and further arguments of `labelled_chunks`.

    Raises:
        DataError: the file, a column or a label cannot be used; or there are no rows to score.

    Example::

        truth_R, probabilities_RC = predict_file(classifier, "test.csv", label_column="stars")
    """
    truth, probabilities, left_out = list[Array](), list[Array](), 0
    chunks = labelled_chunks(
        file, classifier.labels, classifier.label_map, trained=classifier.config.data, **how
    )
    with contextlib.closing(read_ahead(chunks)) as read:
        for chunk in tqdm(read, desc="evaluate", unit=" chunks", disable=None):
            truth.append(chunk.truth_R)
            probabilities.append(classifier.predict_proba(chunk.texts))
            left_out += chunk.count - len(chunk.texts)
    if left_out:
        log.warning("%s: %s rows left out by the run's data.labels", name_of(file), f"{left_out:,}")
    return np.concatenate(truth), np.concatenate(probabilities)


def seen_rows(classifier: SentimentClassifier, file: str | Sequence[str], **how: Any) -> Seen | None:
    """Return which of the rows that `predict_file` scores the run, or its starter, was trained on.

    Args:
        classifier: of the run.
        file: labelled rows.
        how: as in `predict_file`.

    Returns:
        the rows in order; None if the run keeps no hashes of its training texts.

    Raises:
        DataError: as `predict_file`.
        CheckpointError: the hashes are damaged.

    Example::

        seen = seen_rows(classifier, "test.csv")
    """
    trained = texts_of_run(classifier.run, classifier.config.pretrained)
    if trained is None:
        return None
    chunks = labelled_chunks(
        file, classifier.labels, classifier.label_map, trained=classifier.config.data, **how
    )
    return joined_seen([trained.seen(chunk.texts, classifier.tokenizer) for chunk in chunks])
