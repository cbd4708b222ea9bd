"""What a network that learns in all its layers begins with: a classifier's LSTM, head, linear branch.

Legend: R rows, P pooled features.
"""

from __future__ import annotations

import numpy as np
import torch

from lstm_sentiment.adaptation.fitting import fit_frozen, pooled_features
from lstm_sentiment.adaptation.linear import MOST_TOKENS
from lstm_sentiment.adaptation.start import Start
from lstm_sentiment.config import Config
from lstm_sentiment.corpus import Corpus
from lstm_sentiment.distributed import Processes
from lstm_sentiment.network import Network, WideAndDeep
from lstm_sentiment.optimization import row_weights

CV_ROWS = 4_000  # rows that penalties are chosen by: the blend is chosen by validation rows later


def begin_from(
    network: Network,
    start: Start,
    corpus: Corpus,
    config: Config,
    *,
    device: torch.device,
    processes: Processes,
) -> None:
    """Fit a network's head to the training rows, over an LSTM that does not move yet, and its linear branch.

    The LSTM then learns from a head that is right already, so that its first steps undo nothing. The linear
    branch keeps these weights. Of very many rows every n-th is looked at. Every process fits, and finds the
    same.

    Args:
        network: with the LSTM of `start`; left on the CPU.
        start: the classifier.
        corpus: the rows.
        config: of the run, its choices made.
        device: where the LSTM reads.
        processes: of the job.

    Example::

        begin_from(model, plan.start, corpus, config, device=device, processes=processes)
    """
    assert isinstance(network, WideAndDeep)
    step = -(-int(corpus.train.lengths.sum()) // MOST_TOKENS)
    train = corpus.train if step <= 1 else corpus.train.part(np.arange(0, len(corpus.train), step))
    network.to(device)
    features_RP = pooled_features(network.lstm, train, device=device, processes=processes)
    network.cpu()
    balanced = config.trainer.class_weights == "balanced"
    fit_frozen(
        network,
        start,
        train,
        features_RP,
        labels=corpus.labels,
        row_weights=row_weights(train, len(corpus.labels), balanced=balanced),
        metric=config.trainer.metric,
        seed=config.seed,
        cv_rows=CV_ROWS,
    )
    network.shares.fill_(1.0)
