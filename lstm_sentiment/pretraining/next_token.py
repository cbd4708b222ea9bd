"""The language modelling task: predict the next token, and the previous one.

Legend: B texts of a batch, T padded length, V tokens of the vocabulary, D directions.
"""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from torch import Tensor, nn

from lstm_sentiment.data.dataset import Batch, TextDataset, length_batches
from lstm_sentiment.pretraining.language_model import unigram_shares
from lstm_sentiment.records.checkpoint_facts import LogEntry
from lstm_sentiment.records.scores import LanguageScores
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.text.subwords import word_ids

log = logging.getLogger(__name__)

DIRECTIONS = ("forward", "backward")
MAX_LOSS = 700.0  # nats; the exponential of more is beyond a float


class NextToken:
    """Language modelling in both directions: a `protocols.Task`.

    Args:
        validation: windows of text that select the best epoch.
        counts_V: counts of tokens in the training texts.
        directions: of the model, D.
        device: where the model is.
        batch_size: windows at a time.
        processes: the processes of the job.
    """

    def __init__(
        self,
        validation: TextDataset,
        counts_V: Tensor,
        *,
        directions: int,
        device: torch.device,
        batch_size: int,
        processes: Processes,
    ) -> None:
        self.validation, self.directions, self.device = validation, DIRECTIONS[:directions], device
        self.batch_size, self.processes = batch_size, processes
        self.unigram = unigram_perplexity(validation, counts_V, batch_size=batch_size)
        self.choices = round(self.unigram)  # perplexity of a unigram model, where training starts

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return a batch's loss: the mean over texts of the mean over a text's tokens and directions."""
        predicted_B = (batch.lengths_B - 1).clamp(min=1)
        costs_B: Tensor = model(*batch.inputs).mean(dim=1) / predicted_B
        return (costs_B * batch.weights_B).sum()

    def uniform_loss(self, batch: Batch) -> float:
        """Return the loss of a unigram model, where training starts."""
        return math.log(self.choices) * float(batch.weights_B.sum())

    @torch.inference_mode()
    def score(self, model: nn.Module) -> LanguageScores:
        """Return the scores of the validation tokens, by the full softmax, the same in every process."""
        was_training = model.training
        model.eval()
        mine = np.arange(self.processes.rank, len(self.validation), self.processes.world_size)
        cost_D, guesses = torch.zeros(len(self.directions), dtype=torch.float64), 0
        for places in length_batches(self.validation.lengths[mine], batch_size=self.batch_size):
            batch = self.validation.batch(mine[places]).to(self.device)
            cost_D += model(*batch.inputs).double().sum(dim=0).cpu()
            guesses += int((batch.lengths_B - 1).sum())
        model.train(was_training)
        total = self.processes.sum(guesses, self.device)
        losses = [self.processes.sum(float(cost), self.device) / total for cost in cost_D]
        loss = sum(losses) / len(losses)
        return LanguageScores(
            loss=loss,
            perplexity=_perplexity(loss),
            perplexity_unigram=self.unigram,
            guesses=int(total),
            **{
                f"perplexity_{direction}": _perplexity(of)
                for direction, of in zip(self.directions, losses, strict=True)
            },
        )

    def report(self, entry: LogEntry, scores: LanguageScores, *, epochs: int, is_best: bool) -> None:
        """Log the results of an epoch, next to those of a unigram model."""
        log.info(
            "epoch %d/%d  train loss %.4f  validation loss %.4f  perplexity %.1f (unigram %.1f)  "
            "%s tokens/s%s",
            entry["epoch"], epochs, entry["train_loss"], scores.loss, scores.perplexity,
            self.unigram, f"{entry['tokens_per_s']:,}", " * (best so far)" if is_best else "",
        )  # fmt: skip


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < MAX_LOSS else math.inf


def unigram_perplexity(texts: TextDataset, counts_V: Tensor, *, batch_size: int) -> float:
    """Return the perplexity of a unigram model on the tokens to predict.

    Args:
        texts: of two or more tokens each.
        counts_V: of the training texts.
        batch_size: texts at a time.
    """
    cost_V = -unigram_shares(counts_V).log()
    total, guesses = 0.0, 0
    for rows in length_batches(texts.lengths, batch_size=batch_size):
        batch = texts.batch(rows)
        words_BT = word_ids(batch.tokens_BT, len(counts_V))
        place_T = torch.arange(words_BT.shape[1])
        forward_BT = (place_T >= 1) & (place_T < batch.lengths_B[:, None])
        backward_BT = place_T < batch.lengths_B[:, None] - 1
        total += float(cost_V[words_BT[forward_BT]].sum() + cost_V[words_BT[backward_BT]].sum())
        guesses += 2 * int((batch.lengths_B - 1).sum())
    return math.exp(total / guesses)
