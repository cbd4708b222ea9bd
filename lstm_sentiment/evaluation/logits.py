"""A model's logits for a whole dataset.

Legend: R rows, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lstm_sentiment.data.dataset import TextDataset, length_batches
from lstm_sentiment.system.distributed import Processes


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    dataset: TextDataset,
    *,
    device: torch.device,
    batch_size: int,
    processes: Processes | None = None,
) -> Tensor:
    """Return the logits of every row of a dataset, (R, C) fp32 on the CPU, the same in every process.

    Each process computes its share of the rows; every row is computed exactly once.

    Args:
        model: called with a batch's inputs; its training mode is restored.
        dataset: the rows.
        device: where the model is.
        batch_size: rows at a time.
        processes: the job's processes; None for this one alone.
    """
    processes = processes or Processes()
    was_training = model.training
    model.eval()
    mine = np.arange(processes.rank, len(dataset), processes.world_size)
    logits: Tensor | None = None
    for places in length_batches(dataset.lengths[mine], batch_size=batch_size):
        batch = dataset.batch(mine[places]).to(device)
        logits_BC = model(*batch.inputs).float()
        if logits is None:
            logits = torch.empty(len(mine), logits_BC.shape[1], device=device)
        logits[torch.from_numpy(places).to(device)] = logits_BC
    model.train(was_training)
    if logits is None:  # fewer rows than processes: an empty share of the right width
        batch = dataset.batch(np.zeros(1, np.int64)).to(device)
        logits = model(*batch.inputs).float()[:0]
    return processes.gather_rows(logits, len(dataset)).cpu()
