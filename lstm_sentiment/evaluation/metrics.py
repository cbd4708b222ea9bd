"""Metrics of predictions.

A metric that is a function of the confusion matrix is a `Metric` in `METRICS`; training, reports, confidence
intervals and comparisons take it from there. `config.schema` lists its name as a choice of `trainer.metric`.

Legend: R rows, C classes, N confusion matrices.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lstm_sentiment.errors import escaped, shown
from lstm_sentiment.records.scores import ClassScores, Scores

Array = npt.NDArray[Any]

BINS = 15  # of the expected calibration error
HARDLY = 0.2  # of a class's rows: fewer predictions of it are reported
LOWER_IS_BETTER = {"loss"}  # and those of METRICS
_NEGATIVE, _POSITIVE = {"negative", "neg", "bad"}, {"positive", "pos", "good"}


def sides(labels: list[str]) -> list[int]:
    """Return the polarity of each class by its name: -1 negative, 1 positive, 0 neither.

    >>> sides(["very negative", "neutral", "Positive", "sport"])
    [-1, 0, 1, 0]
    """
    words = [set(re.split(r"[\W_]+", label.lower())) for label in labels]
    return [bool(of_label & _POSITIVE) - bool(of_label & _NEGATIVE) for of_label in words]


def has_poles(labels: list[str]) -> bool:
    """Whether some class is negative and some class positive by its name.

    >>> has_poles(["negative", "other"])
    False
    """
    return {-1, 1} <= set(sides(labels))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric that is a function of the confusion matrix.

    Args:
        title: in reports.
        of: confusion matrices (N, C, C), truth down and prediction across, and the side (C,) of each class
            (see `sides`) -> scores (N,).
        needs: ``poles`` if there must be negative and positive classes, ``scale`` if the classes must also
            be in the order of a scale; None for any classes.
        lower_is_better: whether it is an error.
    """

    title: str
    of: Callable[[Array, Array], Array]
    needs: Literal["poles", "scale"] | None = None
    lower_is_better: bool = False


def _accuracy(confusion_NCC: Array, _: Array) -> Array:
    return _mean_over_rows(confusion_NCC, np.eye(confusion_NCC.shape[1]))


def _f1(confusion_NCC: Array) -> Array:
    """Return the F1 (N, C) of each class: 0 where it neither occurs nor is predicted."""
    right_NC: Array = confusion_NCC.diagonal(axis1=1, axis2=2)
    rows_NC = confusion_NCC.sum(axis=2) + confusion_NCC.sum(axis=1)
    scores_NC: Array = 2 * right_NC / np.where(rows_NC > 0, rows_NC, 1)
    return scores_NC


def _macro_f1(confusion_NCC: Array, _: Array) -> Array:
    scores_N: Array = _f1(confusion_NCC).mean(axis=1)
    return scores_N


def _macro_recall(confusion_NCC: Array, _: Array) -> Array:
    truth_NC = confusion_NCC.sum(axis=2)
    right_NC: Array = confusion_NCC.diagonal(axis1=1, axis2=2)
    scores_N: Array = (right_NC / np.where(truth_NC > 0, truth_NC, 1)).mean(axis=1)
    return scores_N


def _polar_f1(confusion_NCC: Array, side_C: Array) -> Array:
    scores_N: Array = _f1(confusion_NCC)[:, side_C != 0].mean(axis=1)
    return scores_N


def _flip_rate(confusion_NCC: Array, side_C: Array) -> Array:
    return _mean_over_rows(confusion_NCC, np.multiply.outer(side_C, side_C) < 0)


def _ordinal_error(confusion_NCC: Array, side_C: Array) -> Array:
    classes_C = np.arange(len(side_C))
    return _mean_over_rows(confusion_NCC, abs(classes_C[:, None] - classes_C))


def _mean_over_rows(confusion_NCC: Array, value_CC: Array) -> Array:
    """Return the mean over rows (N,) of a value that depends on truth and prediction."""
    mean_N: Array = (confusion_NCC * value_CC).sum(axis=(1, 2)) / confusion_NCC.sum(axis=(1, 2))
    return mean_N


METRICS = {
    "accuracy": Metric(title="accuracy", of=_accuracy),
    "macro_f1": Metric(title="macro-F1", of=_macro_f1),
    "macro_recall": Metric(title="macro recall", of=_macro_recall),
    "polar_f1": Metric(title="F1 of the poles", of=_polar_f1, needs="poles"),
    "flip_rate": Metric(title="flipped", of=_flip_rate, needs="poles", lower_is_better=True),
    "ordinal_error": Metric(title="ordinal error", of=_ordinal_error, needs="scale", lower_is_better=True),
}
LOWER_IS_BETTER |= {name for name, metric in METRICS.items() if metric.lower_is_better}


def metrics_of(labels: list[str]) -> list[str]:
    """Return the names of the metrics that classes with these names have.

    >>> metrics_of(["sport", "politics"])
    ['accuracy', 'macro_f1', 'macro_recall']
    >>> metrics_of(["negative", "neutral", "positive"])[3:]
    ['polar_f1', 'flip_rate', 'ordinal_error']
    """
    of_labels = sides(labels)
    poles = has_poles(labels)
    scale = poles and sorted(of_labels) in (of_labels, of_labels[::-1])
    has = {None: True, "poles": poles, "scale": scale}
    return [name for name, metric in METRICS.items() if has[metric.needs]]


def confusion_scores(confusion_NCC: Array, labels: list[str]) -> dict[str, Array]:
    """Return every metric (N,) of confusion matrices (N, C, C), truth down and prediction across.

    Raises:
        ValueError: a matrix without rows.

    >>> confusion_scores(np.array([[[1, 0], [1, 1]]]), ["no", "yes"])["accuracy"].round(3).tolist()
    [0.667]
    """
    if not confusion_NCC.sum(axis=(1, 2)).all():
        raise ValueError("a confusion matrix without rows")
    side_C = np.array(sides(labels))
    return {name: METRICS[name].of(confusion_NCC, side_C) for name in metrics_of(labels)}


def score(
    truth_R: Array, probabilities_RC: Array, labels: list[str], row_counts: Array | None = None
) -> Scores:
    """Return every metric of predictions.

    Args:
        truth_R: class indices (R,).
        probabilities_RC: predicted probabilities (R, C); rows sum to 1.
        labels: class names.
        row_counts: weight of each row (R,), in every score but `rows`, `ece` and `confusion`; None for 1.

    >>> scores = score(np.array([0, 1, 1]), np.array([[.9, .1], [.2, .8], [.6, .4]]), ["neg", "pos"])
    >>> round(scores["accuracy"], 3), scores.confusion
    (0.667, [[1, 0], [1, 1]])
    """
    predicted_R = probabilities_RC.argmax(axis=1)
    confusion_CC = confusion(truth_R, predicted_R, len(labels))
    weighted_CC = confusion(truth_R, predicted_R, len(labels), row_counts)
    scores = {name: float(of[0]) for name, of in confusion_scores(weighted_CC[None], labels).items()}
    precision, recall = _share(weighted_CC, axis=0), _share(weighted_CC, axis=1)
    [f1] = _f1(weighted_CC[None])
    chosen_R = probabilities_RC[np.arange(len(truth_R)), truth_R].astype(np.float64)
    return Scores(
        rows=len(truth_R),
        macro_precision=float(precision.mean()),
        loss=float(np.average(-np.log(np.maximum(chosen_R, 1e-12)), weights=row_counts)),
        ece=calibration_error(truth_R, probabilities_RC),
        per_class={
            label: ClassScores(
                precision=float(precision[i]),
                recall=float(recall[i]),
                f1=float(f1[i]),
                rows=int((truth_R == i).sum()),
            )
            for i, label in enumerate(labels)
        },
        confusion=confusion_CC.tolist(),
        training_rows=None,
        **scores,
    )


def confusion(truth_R: Array, predicted_R: Array, classes: int, row_counts: Array | None = None) -> Array:
    """Return the confusion matrix (C, C) of predictions, truth down and prediction across.

    Args:
        truth_R: class indices (R,).
        predicted_R: class indices (R,).
        classes: C.
        row_counts: weight of each row (R,); None for 1.

    >>> confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    cells = np.bincount(truth_R * classes + predicted_R, row_counts, minlength=classes * classes)
    return cells.reshape(classes, classes)


def _share(confusion_CC: Array, *, axis: int) -> Array:
    """Return the share of right rows (C,) among those predicted (axis 0) or true (1); 0 if there are none."""
    rows_C = confusion_CC.sum(axis=axis)
    shares_C: Array = confusion_CC.diagonal() / np.where(rows_C > 0, rows_C, 1)
    return shares_C


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


def title_of(metric: str) -> str:
    """Return a metric's name within a sentence.

    >>> title_of("macro_f1"), title_of("flip_rate")
    ('macro-F1', 'flip rate')
    """
    return metric.replace("_", " ") if metric in LOWER_IS_BETTER else METRICS[metric].title


def report_lines(scores: Scores, *, title: str) -> list[str]:
    """Return scores as lines of text: totals, one line per class, the confusion matrix."""
    labels = [escaped(label) for label in scores.per_class]
    width = max(10, *map(len, labels))
    first = {"accuracy", "macro_f1", "macro_recall"}
    more = [
        f"{of.title} {scores[name]:.4f}"
        for name, of in METRICS.items()
        if name in scores and name not in first
    ]
    lines = [
        f"{title}: accuracy {scores.accuracy:.4f}   macro-F1 {scores.macro_f1:.4f}   "
        f"macro recall {scores.macro_recall:.4f}   loss {scores.loss:.4f}   rows {scores.rows:,}",
        "  " + "   ".join([f"calibration error {scores.ece:.4f}", *more]),
        f"  {'class':<{width}} precision  recall      f1    rows    predicted as "
        + " ".join(f"{label:>{width}}" for label in labels),
    ]
    for label, of, row in zip(labels, scores.per_class.values(), scores.confusion, strict=True):
        counts = " ".join(f"{count:>{width},}" for count in row)
        lines.append(
            f"  {label:<{width}} {of.precision:>9.4f} {of.recall:>7.4f} {of.f1:>7.4f} "
            f"{of.rows:>7,}                 {counts}"
        )
    return lines


def neglected_classes(scores: Scores) -> list[str]:
    """Return a line for each class that validation rows have and that is never or hardly ever predicted.

    Args:
        scores: of the validation rows.

    Example::

        neglected_classes(score(truth_R, probabilities_RC, labels))
    """
    lines = []
    for place, (label, of_class) in enumerate(scores.per_class.items()):
        predicted = sum(row[place] for row in scores.confusion)
        if of_class.rows and predicted < HARDLY * of_class.rows:
            times = f"only {predicted:,} times" if predicted else "never"
            share = f"{of_class.rows:,} of {scores.rows:,} rows have it"
            lines.append(f"class {shown(label)} is {times} predicted; {share}")
    return lines
