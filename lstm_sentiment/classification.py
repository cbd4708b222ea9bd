"""What the loop is told to learn when rows have labels.

Legend: B rows of a batch, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lstm_sentiment.adversarial import Adversary
from lstm_sentiment.dataset import Batch, TextDataset
from lstm_sentiment.distributed import Processes
from lstm_sentiment.inference import predict_logits
from lstm_sentiment.metrics import score
from lstm_sentiment.optimization import Loss
from lstm_sentiment.progress import report_epoch
from lstm_sentiment.r_drop import disagreement, twice


class Classification:
    """Rows of text to one of some classes: a `trainer.Task`.

    Args:
        validation: rows that pick the best epoch.
        labels: class names.
        loss: of logits (B, C) and batch: the sum of the rows' weighted losses.
        device: where the model is.
        batch_size: rows answered at a time.
        processes: the processes of the job.
        r_drop: weight of the disagreement of two passes (see `r_drop`); 0 for a single pass.
        adversary: also learn each batch as this one pushes it; None for none.
    """

    def __init__(
        self,
        validation: TextDataset,
        labels: list[str],
        *,
        loss: Loss,
        device: torch.device,
        batch_size: int,
        processes: Processes,
        r_drop: float = 0.0,
        adversary: Adversary | None = None,
    ) -> None:
        self.validation, self.labels, self._loss = validation, labels, loss
        self.device, self.batch_size, self.processes = device, batch_size, processes
        self.choices, self.r_drop, self.adversary = len(labels), r_drop, adversary

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return a batch's loss; summed over the batches of a step it is a mean over rows."""
        if self.r_drop:
            batch = twice(batch)

        def loss_at(push_TBE: Tensor | None) -> Tensor:
            logits_BC = model(*batch.inputs, push_TBE)
            loss = self._loss(logits_BC, batch)
            if self.r_drop:
                loss = loss + self.r_drop / 2 * disagreement(logits_BC, batch.weights_B)
            return loss

        return loss_at(None) if self.adversary is None else self.adversary.loss(loss_at, batch.tokens_BT)

    def score(self, model: nn.Module) -> dict[str, Any]:
        """Return the scores of the validation rows (see `metrics.score`), the same in every process."""
        logits_RC = predict_logits(
            model, self.validation, device=self.device, batch_size=self.batch_size, processes=self.processes
        )
        return score(self.validation.labels, logits_RC.double().softmax(1).numpy(), self.labels)

    def report(self, entry: dict[str, Any], scores: dict[str, Any], *, epochs: int, is_best: bool) -> None:
        """Tell the terminal how an epoch went."""
        report_epoch(entry, scores, self.labels, epochs=epochs, is_best=is_best)
