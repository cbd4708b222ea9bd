"""Scores of predictions, by scikit-learn.

Legend: R rows, C classes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.errors import escaped

Array = npt.NDArray[Any]

POLARITY_METRICS = ("polar_f1", "flip_rate", "ordinal_error")
LOWER_IS_BETTER = ("loss", "flip_rate", "ordinal_error")
BINS = 15  # of the expected calibration error
_MORE = {
    "ece": "calibration error",
    "polar_f1": "F1 of the poles",
    "flip_rate": "flipped",
    "ordinal_error": "ordinal error",
}
_NEGATIVE, _POSITIVE = {"negative", "neg", "bad"}, {"positive", "pos", "good"}


def sides(labels: list[str]) -> list[int]:
    """Return the side that each class's name takes: -1 negative, 1 positive, 0 neither.

    >>> sides(["very negative", "neutral", "Positive", "sport"])
    [-1, 0, 1, 0]
    """
    words = [set(re.split(r"[\W_]+", label.lower())) for label in labels]
    return [bool(of_label & _POSITIVE) - bool(of_label & _NEGATIVE) for of_label in words]


def polarity_metrics(labels: list[str]) -> list[str]:
    """Return the scores that classes with these names have because some are negative and some positive.

    The order of the classes must be that of a scale for `ordinal_error`.

    >>> polarity_metrics(["negative", "neutral", "positive"]), polarity_metrics(["sport", "politics"])
    (['polar_f1', 'flip_rate', 'ordinal_error'], [])
    """
    of_labels = sides(labels)
    if not {-1, 1} <= set(of_labels):
        return []
    is_scale = sorted(of_labels) in (of_labels, of_labels[::-1])
    return list(POLARITY_METRICS if is_scale else POLARITY_METRICS[:2])


def score(
    truth_R: Array, probabilities_RC: Array, labels: list[str], row_counts: Array | None = None
) -> dict[str, Any]:
    """Return every score of some predictions.

    Args:
        truth_R: class indices (R,).
        probabilities_RC: predicted probabilities (R, C); rows sum to 1.
        labels: class names.
        row_counts: as so many rows each counts (R,), in every score but `rows`, `ece` and `confusion`; None
            for 1.

    Returns:
        `rows`, `accuracy`, `macro_f1`, `macro_recall`, `macro_precision`, `loss` (mean negative
        log-likelihood, nats), `ece` (see `calibration_error`), `per_class` (precision, recall, f1,
        rows of each class), and `confusion` (truth down, prediction across). A class that is never
        predicted has precision 0. Where class names are negative and positive (see `sides`), also
        `polar_f1` (mean F1 of the classes on either side, without neutral ones, as in SemEval),
        `flip_rate` (share of rows taken for the opposite side) and, where the classes stand in the
        order of a scale, `ordinal_error` (mean distance between truth and prediction, in classes).

    >>> scores = score(np.array([0, 1, 1]), np.array([[.9, .1], [.2, .8], [.6, .4]]), ["neg", "pos"])
    >>> round(scores["accuracy"], 3), scores["confusion"]
    (0.667, [[1, 0], [1, 1]])
    """
    from sklearn import metrics as sk  # takes half a second: not to answer a text

    classes = np.arange(len(labels))
    predicted_R = probabilities_RC.argmax(axis=1)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        truth_R, predicted_R, labels=classes, zero_division=0.0, sample_weight=row_counts
    )
    mean = functools.partial(np.average, weights=row_counts)
    chosen_R = probabilities_RC[np.arange(len(truth_R)), truth_R].astype(np.float64)
    side_C = np.array(sides(labels))
    of_polarity = {
        "polar_f1": lambda: float(f1[side_C != 0].mean()),
        "flip_rate": lambda: float(mean(side_C[truth_R] * side_C[predicted_R] < 0)),
        "ordinal_error": lambda: float(mean(np.abs(truth_R - predicted_R))),
    }
    return {
        "rows": len(truth_R),
        "accuracy": float(mean(predicted_R == truth_R)),
        "macro_f1": float(f1.mean()),
        "macro_recall": float(recall.mean()),
        "macro_precision": float(precision.mean()),
        "loss": float(mean(-np.log(np.maximum(chosen_R, 1e-12)))),
        "ece": calibration_error(truth_R, probabilities_RC),
        **{name: of_polarity[name]() for name in polarity_metrics(labels)},
        "per_class": {
            label: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "rows": int((truth_R == i).sum()),
            }
            for i, label in enumerate(labels)
        },
        "confusion": sk.confusion_matrix(truth_R, predicted_R, labels=classes).tolist(),
    }


def calibration_error(truth_R: Array, probabilities_RC: Array) -> float:
    """Return the expected calibration error: how far confidence is from accuracy, 0 to 1.

    Rows are put into 15 bins of equal width by the probability of the predicted class; the error is
    the mean over rows of |accuracy - mean confidence| of their bin (Guo et al. 2017, "On calibration
    of modern neural networks").

    >>> round(calibration_error(np.array([0, 1]), np.array([[.9, .1], [.9, .1]])), 3)
    0.4
    """
    bins = reliability_bins(truth_R, probabilities_RC)
    return sum(of["rows"] * abs(of["accuracy"] - of["confidence"]) for of in bins) / len(truth_R)


def reliability_bins(truth_R: Array, probabilities_RC: Array, bins: int = BINS) -> list[dict[str, float]]:
    """Return rows, accuracy and mean confidence of each bin of confidence that holds any row.

    >>> reliability_bins(np.array([0, 1]), np.array([[.9, .1], [.9, .1]]))
    [{'rows': 2, 'accuracy': 0.5, 'confidence': 0.9}]
    """
    confidence_R = probabilities_RC.max(axis=1)
    right_R = probabilities_RC.argmax(axis=1) == truth_R
    bin_R = np.minimum(np.nan_to_num(confidence_R * bins).astype(int), bins - 1)
    return [
        {
            "rows": int((bin_R == b).sum()),
            "accuracy": float(right_R[bin_R == b].mean()),
            "confidence": float(confidence_R[bin_R == b].mean()),
        }
        for b in np.unique(bin_R)
    ]


def better(score: float, than: float | None, metric: str) -> bool:
    """Say whether a score improves on another one; not-a-number never does.

    >>> better(0.5, None, "accuracy"), better(0.5, 0.4, "loss"), better(float("nan"), None, "accuracy")
    (True, False, False)
    """
    if np.isnan(score):
        return False
    if than is None:
        return True
    return score < than if metric in LOWER_IS_BETTER else score > than


def report_lines(scores: dict[str, Any], *, title: str) -> list[str]:
    """Return scores as lines of text: totals, one line per class, the confusion matrix."""
    labels = [escaped(label) for label in scores["per_class"]]
    width = max(10, *map(len, labels))
    lines = [
        f"{title}: accuracy {scores['accuracy']:.4f}   macro-F1 {scores['macro_f1']:.4f}   "
        f"macro recall {scores['macro_recall']:.4f}   loss {scores['loss']:.4f}   rows {scores['rows']:,}",
        "  " + "   ".join(f"{title} {scores[name]:.4f}" for name, title in _MORE.items() if name in scores),
        f"  {'class':<{width}} precision  recall      f1    rows    predicted as "
        + " ".join(f"{label:>{width}}" for label in labels),
    ]
    of_classes = scores["per_class"].values()
    for label, of, row in zip(labels, of_classes, scores["confusion"], strict=True):
        counts = " ".join(f"{count:>{width},}" for count in row)
        lines.append(
            f"  {label:<{width}} {of['precision']:>9.4f} {of['recall']:>7.4f} {of['f1']:>7.4f} "
            f"{of['rows']:>7,}                 {counts}"
        )
    return lines


def compared(metrics: Mapping[str, Any], split: str) -> dict[str, dict[str, Any]]:
    """Return the scores of a run on a split, of each of its branches, and of its baselines, by name.

    Args:
        metrics: of metrics.json.
        split: validation or test; the baselines were scored on the last of the two.

    >>> metrics = {"test": {}, "branches": {"lstm": {"test": {}}}, "baselines": {"majority": {}}}
    >>> list(compared(metrics, "test"))
    ['this model', 'lstm alone', 'majority']
    """
    branches = {f"{name} alone": of[split] for name, of in metrics.get("branches", {}).items()}
    return {"this model": metrics[split], **branches, **metrics["baselines"]}
