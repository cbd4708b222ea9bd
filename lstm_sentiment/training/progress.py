"""Progress bar and log messages of training."""

from __future__ import annotations

import logging
import math
import sys
import time
from types import TracebackType

import numpy as np
from tqdm import tqdm

from lstm_sentiment.records.checkpoint_facts import LogEntry
from lstm_sentiment.records.scores import Scores

log = logging.getLogger(__name__)


LOG_EVERY_S = 30.0  # seconds between log lines within an epoch where there is no terminal


class Progress:
    """Progress within an epoch: a bar on a terminal, otherwise a log line every `LOG_EVERY_S` seconds.

    Args:
        epoch: 0-based.
        epochs: in total.
        step: steps of the epoch that were done before.
        steps: of the epoch.
        shown: False for none.

    >>> with Progress(0, epochs=3, step=0, steps=2, shown=True) as progress:
    ...     progress.advance("loss 0.693")
    """

    def __init__(self, epoch: int, *, epochs: int, step: int, steps: int, shown: bool) -> None:
        self._name, self._steps, self._first, self._done = f"epoch {epoch + 1}/{epochs}", steps, step, step
        self._started = self._logged = time.monotonic()
        self._shown = shown and log.isEnabledFor(logging.INFO)
        on_terminal = self._shown and sys.stderr.isatty()
        self._bar = tqdm(
            total=steps, initial=step, desc=self._name, unit="step", leave=False, disable=not on_terminal
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, state: str = "") -> None:
        """Count one step.

        Args:
            state: shown after the count, such as the loss; empty to leave what is shown.
        """
        self._done += 1
        self._bar.update(1)
        if not state or not self._shown:
            return
        if not self._bar.disable:
            self._bar.set_postfix_str(state)
            return
        now = time.monotonic()
        if now - self._logged >= LOG_EVERY_S and self._done < self._steps:
            self._logged = now
            left_s = (now - self._started) / (self._done - self._first) * (self._steps - self._done)
            log.info(
                "%s  step %s of %s  %s  %.0f s left in this epoch",
                self._name, f"{self._done:,}", f"{self._steps:,}", state, left_s,
            )  # fmt: skip


def report_first_loss(first_loss: float, classes: int) -> None:
    """Log the first loss (nats) next to that of a uniform prediction."""
    expected = math.log(classes)
    usual = abs(first_loss - expected) < 0.35
    verdict = "as expected" if usual else "unusual: are the vectors very large?"
    log.info(
        "first loss %.3f; uniform over %d classes it is ln(%d) = %.3f: %s",
        first_loss, classes, classes, expected, verdict,
    )  # fmt: skip


def report_epoch(entry: LogEntry, scores: Scores, labels: list[str], *, epochs: int, is_best: bool) -> None:
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
        entry["epoch"], epochs, entry["train_loss"], scores.loss, scores.accuracy,
        scores.macro_f1, f"{entry['tokens_per_s']:,}", " * (best so far)" if is_best else "",
    )  # fmt: skip
    predicted = np.array(scores.confusion).sum(axis=0)
    if (predicted > 0).sum() == 1:
        log.warning(
            "every validation text is predicted as '%s': nothing is learned yet. If this lasts, lower "
            "trainer.learning_rate, set trainer.class_weights balanced, or check the labels",
            labels[int(predicted.argmax())],
        )
