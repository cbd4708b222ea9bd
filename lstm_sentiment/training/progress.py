"""Progress bar and log messages of training."""

from __future__ import annotations

import logging
import math
import sys
from typing import Any

import numpy as np
from tqdm import tqdm

log = logging.getLogger(__name__)


def progress_bar(epoch: int, *, epochs: int, step: int, steps: int, shown: bool) -> tqdm[Any]:
    """Return a progress bar for an epoch (0-based), shown only on a terminal."""
    return tqdm(
        total=steps,
        initial=step,
        desc=f"epoch {epoch + 1}/{epochs}",
        unit="step",
        leave=False,
        disable=not (shown and log.isEnabledFor(logging.INFO) and sys.stderr.isatty()),
    )


def report_first_loss(first_loss: float, classes: int) -> None:
    """Log the first loss (nats) next to that of a uniform prediction."""
    expected = math.log(classes)
    usual = abs(first_loss - expected) < 0.35
    verdict = "as expected" if usual else "unusual: are the vectors very large?"
    log.info(
        "first loss %.3f; uniform over %d classes it is ln(%d) = %.3f: %s",
        first_loss, classes, classes, expected, verdict,
    )  # fmt: skip


def report_epoch(
    entry: dict[str, Any], scores: dict[str, Any], labels: list[str], *, epochs: int, is_best: bool
) -> None:
    """Log an epoch's losses and scores, and warn if all texts have the same predicted label.

    Args:
        entry: the epoch's entry in the run's log.
        scores: of the validation rows (see `metrics.score`).
        labels: class names.
        epochs: total number of epochs.
        is_best: mark the line.
    """
    log.info(
        "epoch %d/%d  train loss %.4f  validation loss %.4f  accuracy %.4f  macro-F1 %.4f  %s tokens/s%s",
        entry["epoch"], epochs, entry["train_loss"], scores["loss"], scores["accuracy"],
        scores["macro_f1"], f"{entry['tokens_per_s']:,}", " *" if is_best else "",
    )  # fmt: skip
    predicted = np.array(scores["confusion"]).sum(axis=0)
    if (predicted > 0).sum() == 1:
        log.warning(
            "every validation text is predicted as '%s': nothing is learned yet. If this lasts, lower "
            "trainer.learning_rate, set trainer.class_weights balanced, or check the labels",
            labels[int(predicted.argmax())],
        )
