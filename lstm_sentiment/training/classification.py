"""The classification task: loss, validation scores and reports for labelled rows.

Legend: B rows of a batch, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lstm_sentiment.data.dataset import Batch, TextDataset
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.records.checkpoint_facts import LogEntry
from lstm_sentiment.records.scores import Scores
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.training.losses import Loss
from lstm_sentiment.training.progress import report_epoch
from lstm_sentiment.training.regularizers import repeated, symmetric_kl, vat_loss


class Classification:
    """Text classification: a `protocols.Task`.

    Args:
        validation: rows that select the best epoch.
        labels: class names.
        loss: function of logits (B, C) and batch: the sum of the rows' weighted losses.
        device: where the model is.
        batch_size: of validation.
        processes: the processes of the job.
        r_drop: weight of the R-Drop loss (see `regularizers`); 0 for none.
        vat: relative norm of the adversarial perturbation (see `regularizers`); 0 for none.
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
        vat: float = 0.0,
    ) -> None:
        self.validation, self.labels, self._loss = validation, labels, loss
        self.device, self.batch_size, self.processes = device, batch_size, processes
        self.choices, self.r_drop, self.vat = len(labels), r_drop, vat

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return a batch's loss; its sum over the batches of a step is a mean over rows."""
        if self.vat:
            logits, divergence = vat_loss(model, batch, self.vat)
            return self._loss(logits, batch) + divergence
        if not self.r_drop:
            return self._loss(model(*batch.inputs), batch)
        both = repeated(batch)
        logits_2BC = model(*both.inputs)
        return self._loss(logits_2BC, both) + self.r_drop / 2 * symmetric_kl(logits_2BC, both.weights_B)

    def uniform_loss(self, batch: Batch) -> float:
        """Return the loss of a uniform prediction, with the weights of classes and rows as in `loss`.

        R-Drop and VAT add a divergence, which is 0 for it.
        """
        uniform_BC = torch.zeros(len(batch.labels_B), self.choices, device=batch.labels_B.device)
        return float(self._loss(uniform_BC, batch))

    def score(self, model: nn.Module) -> Scores:
        """Return the scores of the validation rows (see `metrics.score`), the same in every process."""
        logits_RC = predict_logits(
            model, self.validation, device=self.device, batch_size=self.batch_size, processes=self.processes
        )
        probabilities_RC, rows = logits_RC.double().softmax(1).numpy(), self.validation
        return score(rows.labels, probabilities_RC, self.labels, rows.counts)

    def report(self, entry: LogEntry, scores: Scores, *, epochs: int, is_best: bool) -> None:
        """Log the results of an epoch."""
        report_epoch(entry, scores, self.labels, epochs=epochs, is_best=is_best)
