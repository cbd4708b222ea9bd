"""What bf16 products change: labels and calibration error on some rows (see `models.precision`)."""

from __future__ import annotations

import numpy as np
from torch import nn

from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.evaluation.calibration import Calibration
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import calibration_error
from lstm_sentiment.models.network import Network, lstm_of
from lstm_sentiment.models.precision import in_bf16
from lstm_sentiment.records.run_metrics import InBf16

MOST_ROWS = 2000  # predicted twice
AT_ONCE = 256


def bf16_effect(model: nn.Module, calibration: Calibration, rows: TextDataset) -> InBf16 | None:
    """Compare predictions in bf16 with those in fp32, on at most 2,000 rows.

    Args:
        model: the network.
        calibration: fitted to its logits in fp32.
        rows: test rows or, without these, validation rows.

    Returns:
        None if there are no rows, or bf16 is not available here.

    Example::

        effect = bf16_effect(model, calibration, corpus.test)
    """
    some = rows.part(np.unique(np.linspace(0, len(rows) - 1, MOST_ROWS).astype(int))) if len(rows) else rows
    assert isinstance(model, Network)
    device = lstm_of(model).head.weight.device
    with in_bf16(model, device) as available:
        if not available or not len(some):
            return None
        bf16_RC = predict_logits(model, some, device=device, batch_size=AT_ONCE).numpy()
    fp32_RC = predict_logits(model, some, device=device, batch_size=AT_ONCE).numpy()
    errors = [calibration_error(some.labels, calibration.probabilities(of)) for of in (bf16_RC, fp32_RC)]
    same = float((bf16_RC.argmax(axis=1) == fp32_RC.argmax(axis=1)).mean())
    return InBf16(rows=len(some), same_labels=same, ece=errors[0], ece_fp32=errors[1])
