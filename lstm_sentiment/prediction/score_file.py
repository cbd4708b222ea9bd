"""Predictions of a classifier for a labelled file, with the true labels.

Legend: R rows, C classes.
"""

from __future__ import annotations

import itertools
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from lstm_sentiment.config.sections import DataConfig
from lstm_sentiment.data.formats.readers import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    Chunk,
    column_labels,
    column_texts,
    pick_column,
    read_chunks,
)
from lstm_sentiment.data.labels import entries_of, unknown_labels
from lstm_sentiment.data.numbering import LONGEST, MOST_LABELS
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError
from lstm_sentiment.prediction.classifier import SentimentClassifier

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]


def predict_file(
    classifier: SentimentClassifier,
    file: str,
    *,
    text_column: str = "auto",
    label_column: str = "auto",
    **how: Any,
) -> tuple[Array, Array]:
    """Return the true class index (R,) and the predicted probabilities (R, C) of every row of a file.

    Args:
        classifier: to predict with.
        file: labelled rows, in any format of training data.
        text_column: column of the text; auto detects it.
        label_column: column of the label, spelt as in the training data or as the class name. Rows that
            training leaves out (see ``data.labels``) are left out here too, with a warning in the log.
        how: further arguments of `open_source`: encoding, quoting, header and sheet.

    Raises:
        DataError: the file, a column or a label cannot be used; or there are no rows to score.
    """
    classes: dict[str, str | None] = {label: label for label in classifier.labels}
    classes |= classifier.label_map
    index: dict[str | None, int] = {label: i for i, label in enumerate(classifier.labels)}
    index[None] = -1
    trained = classifier.config.data
    truth: list[Array] = []
    probabilities, left_out, unknown = [], 0, dict[str, list[int]]()
    with open_source(file, encoding_errors="replace", **how) as source:
        for chunk in tqdm(read_chunks(source), desc="evaluate", unit=" chunks", disable=None):
            of_text, of_label = _columns(chunk, (text_column, label_column), trained, file)
            labels = column_labels(chunk, of_label, file)
            entries = entries_of(set(labels), classes)
            for label, line in zip(labels, chunk.lines.tolist(), strict=True):
                if label not in entries:
                    unknown.setdefault(label[:LONGEST], []).append(line)
            if unknown:  # do not score; collect further ones, unless this is a column of texts
                if len(unknown) > MOST_LABELS:
                    break
                continue
            truth_R = np.array([index[classes[entries[label]]] for label in labels], np.int64)
            scored_R = truth_R >= 0
            left_out += int((~scored_R).sum())
            truth.append(truth_R[scored_R])
            texts = column_texts(chunk, of_text, file)
            probabilities.append(classifier.predict_proba(itertools.compress(texts, scored_R)))
    unknown_labels(unknown, classes, file=file).raise_any()
    if left_out:
        log.warning("%s: %s rows left out by the run's data.labels", file, f"{left_out:,}")
    if not any(map(len, truth)):
        problem = "every row is left out by the run's data.labels; give rows of its classes"
        raise DataError(problem, file=file)
    return np.concatenate(truth), np.concatenate(probabilities)


def _columns(chunk: Chunk, wanted: tuple[str, str], trained: DataConfig, file: str) -> tuple[str, str]:
    """Return the text column and the label column."""
    columns = [str(c) for c in chunk.frame.columns]
    text, label = (
        pick_column(name, columns, candidates=candidates, key=f"--{kind}-column", file=file, trained=known)
        for kind, name, known, candidates in (
            ("text", wanted[0], trained.text_column, TEXT_COLUMNS),
            ("label", wanted[1], trained.label_column, LABEL_COLUMNS),
        )
    )
    return text, label
