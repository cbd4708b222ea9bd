"""Scores of predictions, by scikit-learn.

Legend: R rows, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

Array = npt.NDArray[Any]


def score(truth_R: Array, probabilities_RC: Array, labels: list[str]) -> dict[str, Any]:
    """Return every score of some predictions.

    Args:
        truth_R: class indices (R,).
        probabilities_RC: predicted probabilities (R, C); rows sum to 1.
        labels: class names.

    Returns:
        `rows`, `accuracy`, `macro_f1`, `macro_recall`, `macro_precision`, `loss` (mean negative
        log-likelihood, nats), `per_class` (precision, recall, f1, rows of each class), and
        `confusion` (truth down, prediction across). A class that is never predicted has precision 0.

    >>> scores = score(np.array([0, 1, 1]), np.array([[.9, .1], [.2, .8], [.6, .4]]), ["neg", "pos"])
    >>> round(scores["accuracy"], 3), scores["confusion"]
    (0.667, [[1, 0], [1, 1]])
    """
    classes = np.arange(len(labels))
    predicted_R = probabilities_RC.argmax(axis=1)
    precision, recall, f1, rows = sk.precision_recall_fscore_support(
        truth_R, predicted_R, labels=classes, zero_division=0.0
    )
    chosen_R = probabilities_RC[np.arange(len(truth_R)), truth_R].astype(np.float64)
    return {
        "rows": len(truth_R),
        "accuracy": float((predicted_R == truth_R).mean()),
        "macro_f1": float(f1.mean()),
        "macro_recall": float(recall.mean()),
        "macro_precision": float(precision.mean()),
        "loss": float(-np.log(np.maximum(chosen_R, 1e-12)).mean()),
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "rows": int(rows[i]),
            }
            for i, label in enumerate(labels)
        },
        "confusion": sk.confusion_matrix(truth_R, predicted_R, labels=classes).tolist(),
    }


def better(score: float, than: float | None, metric: str) -> bool:
    """Say whether a score improves on another one; not-a-number never does.

    >>> better(0.5, None, "accuracy"), better(0.5, 0.4, "loss"), better(float("nan"), None, "accuracy")
    (True, False, False)
    """
    if np.isnan(score):
        return False
    if than is None:
        return True
    return score < than if metric == "loss" else score > than


def report_lines(scores: dict[str, Any], *, title: str) -> list[str]:
    """Return scores as lines of text: totals, one line per class, the confusion matrix."""
    labels = list(scores["per_class"])
    width = max(10, *map(len, labels))
    lines = [
        f"{title}: accuracy {scores['accuracy']:.4f}   macro-F1 {scores['macro_f1']:.4f}   "
        f"macro recall {scores['macro_recall']:.4f}   loss {scores['loss']:.4f}   rows {scores['rows']:,}",
        f"  {'class':<{width}} precision  recall      f1    rows    predicted as "
        + " ".join(f"{label:>{width}}" for label in labels),
    ]
    for label, row in zip(labels, scores["confusion"], strict=True):
        of = scores["per_class"][label]
        counts = " ".join(f"{count:>{width},}" for count in row)
        lines.append(
            f"  {label:<{width}} {of['precision']:>9.4f} {of['recall']:>7.4f} {of['f1']:>7.4f} "
            f"{of['rows']:>7,}                 {counts}"
        )
    return lines
