"""What training tells the terminal while it runs."""

from __future__ import annotations

import logging
import math
import sys
from typing import Any

import numpy as np
from tqdm import tqdm

log = logging.getLogger(__name__)


def progress_bar(epoch: int, *, epochs: int, step: int, steps: int, shown: bool) -> tqdm[Any]:
    """Return a bar for an epoch (0-based) of which some steps are done; only a terminal sees it."""
    return tqdm(
        total=steps,
        initial=step,
        desc=f"epoch {epoch + 1}/{epochs}",
        unit="step",
        leave=False,
        disable=not (shown and log.isEnabledFor(logging.INFO) and sys.stderr.isatty()),
    )


def report_first_loss(first_loss: float, classes: int) -> None:
    """Compare the first loss (nats) with that of a guess."""
    expected = math.log(classes)
    usual = abs(first_loss - expected) < 0.35
    verdict = "as it should be" if usual else "unusual: are the vectors very large?"
    log.info(
        "first loss %.3f; a guess among %d classes costs ln(%d) = %.3f: %s",
        first_loss, classes, classes, expected, verdict,
    )  # fmt: skip


def report_epoch(
    entry: dict[str, Any], scores: dict[str, Any], labels: list[str], *, epochs: int, is_best: bool
) -> None:
    """Tell an epoch's losses and scores, and warn when every text was given the same label.

    Args:
        entry: of the run's log.
        scores: of the validation rows (see `metrics.score`).
        labels: class names.
        epochs: planned in all.
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
            "every validation text was called '%s': nothing is learned yet. If this lasts, lower "
            "trainer.learning_rate, set trainer.class_weights balanced, or look at the labels",
            labels[int(predicted.argmax())],
        )
