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


LOSS_OFF = 0.35  # nats between the first loss and that of a uniform prediction, at a mean weight of 1


def report_first_loss(first_loss: float, classes: int, expected: float) -> None:
    """Log the first loss next to that of a uniform prediction of the same rows.

    Args:
        first_loss: nats, with the weights of classes and rows.
        classes: number of them.
        expected: the loss of a uniform prediction with the same weights, nats.
    """
    log.info("%s", first_loss_line(first_loss, classes, expected))


def first_loss_line(first_loss: float, classes: int, expected: float) -> str:
    """Return the line of `report_first_loss`.

    >>> first_loss_line(1.1, 3, math.log(3))
    'first loss 1.100; uniform over 3 classes it is ln(3) = 1.099: as expected'
    >>> first_loss_line(1.5, 3, 1.3 * math.log(3))
    'first loss 1.500; uniform over 3 classes it is 1.30 x ln(3) = 1.428, as weighted: as expected'
    >>> first_loss_line(0.4, 2, math.log(2)).partition(": ")[2]
    'as expected'
    >>> first_loss_line(0.1, 2, math.log(2)).partition(": ")[2]
    'lower, since the initial model is fitted'
    """
    scale = expected / math.log(classes)
    off = (first_loss - expected) / max(1.0, scale)
    verdict = "as expected"
    if off >= LOSS_OFF or math.isnan(off):
        verdict = "unusual: are the vectors very large?"
    elif off <= -LOSS_OFF:
        verdict = "lower, since the initial model is fitted"
    weighted = abs(scale - 1) >= 0.005
    factor, why = (f"{scale:.2f} x ", ", as weighted") if weighted else ("", "")
    return (
        f"first loss {first_loss:.3f}; uniform over {classes} classes it is {factor}ln({classes}) = "
        f"{expected:.3f}{why}: {verdict}"
    )


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
            "every validation text is predicted as '%s': nothing is learned yet. If this lasts, "
            "`lstm-sentiment doctor RUN` measures what helps",
            labels[int(predicted.argmax())],
        )
