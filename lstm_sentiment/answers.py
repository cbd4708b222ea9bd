"""A trained classifier's answers for a labelled file, beside the truth.

Legend: R rows, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from lstm_sentiment.classifier import SentimentClassifier
from lstm_sentiment.corpus import unknown_label
from lstm_sentiment.errors import DataError
from lstm_sentiment.reading.readers import LABEL_COLUMNS, TEXT_COLUMNS, as_text, pick_column, read_chunks
from lstm_sentiment.reading.sources import open_source

Array = npt.NDArray[Any]


def answer_file(
    classifier: SentimentClassifier,
    file: str,
    *,
    text_column: str = "auto",
    label_column: str = "auto",
    encoding: str = "utf-8",
) -> tuple[Array, Array]:
    """Return the class index (R,) and the predicted probabilities (R, C) of every row of a file.

    Args:
        classifier: what answers.
        file: labelled rows, anything that training reads too.
        text_column: where the text is; auto finds it.
        label_column: where the label is, spelt as in the training data or by class name.
        encoding: of a text file; bytes that it does not allow are read as U+FFFD.

    Raises:
        DataError: a file, column or label that cannot be used; a file without rows.
    """
    classes = {label: label for label in classifier.labels} | classifier.label_map
    trained = classifier.config.data
    truth: list[int] = []
    answers = []
    with open_source(file, encoding=encoding, encoding_errors="replace") as source:
        for chunk in tqdm(read_chunks(source), desc="evaluate", unit=" chunks", disable=None):
            columns = [str(c) for c in chunk.frame.columns]
            of_text, of_label = (
                pick_column(
                    wanted, columns, candidates=candidates, key=f"--{kind}_column", file=file, trained=known
                )
                for kind, wanted, known, candidates in (
                    ("text", text_column, trained.text_column, TEXT_COLUMNS),
                    ("label", label_column, trained.label_column, LABEL_COLUMNS),
                )
            )
            for value, line in zip(chunk.frame[of_label], chunk.lines, strict=True):
                label = as_text(value).strip()
                if label not in classes:
                    raise DataError(unknown_label(label, classes), file=file, line=int(line))
                truth.append(classifier.labels.index(classes[label]))
            answers.append(classifier.predict_proba(map(as_text, chunk.frame[of_text])))
    return np.array(truth), np.concatenate(answers)
