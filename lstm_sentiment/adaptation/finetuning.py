"""Initial weights for fine-tuning: a classifier's LSTM, a new head and a linear branch.

Legend: R rows, P pooled features.
"""

from __future__ import annotations

import numpy as np
import torch

from lstm_sentiment.adaptation.fitting import fit_head_of, pooled_features, set_head
from lstm_sentiment.adaptation.start import Start
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.linear.logistic_regression import MOST_TOKENS, fit_branch, folds_of
from lstm_sentiment.models.network import Network, TfidfBranch, WideAndDeep
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.training.losses import row_weights

CV_ROWS = 6_000  # rows used to choose the penalty of the linear branch; its share is fitted later
HEAD_ROWS = 4_000  # rows used to fit the initial head
FOLDS = 3


def begin_from(
    network: Network,
    start: Start,
    corpus: Corpus,
    config: Config,
    *,
    device: torch.device,
    processes: Processes,
) -> None:
    """Fit the head over the frozen LSTM, and the linear branch, before fine-tuning.

    A fitted head keeps the first steps from destroying the LSTM's weights. The linear branch keeps these
    weights. Large training sets are subsampled for both. All processes compute the same result.

    Args:
        network: with the LSTM of `start`; left on the CPU.
        start: the classifier.
        corpus: the rows.
        config: of the run, resolved.
        device: to compute the features on.
        processes: of the job.

    Example::

        begin_from(model, plan.start, corpus, config, device=device, processes=processes)
    """
    assert isinstance(network, WideAndDeep)
    assert isinstance(network.ngrams, TfidfBranch)
    classes, balanced = len(corpus.labels), config.trainer.class_weights == "balanced"
    step = -(-int(corpus.train.lengths.sum()) // MOST_TOKENS)
    train = _sample(corpus.train, len(corpus.train) // max(1, step), seed=config.seed)
    fit_branch(
        network.ngrams,
        train,
        classes=classes,
        row_weights=row_weights(train, classes, balanced=balanced),
        row_counts=train.counts,
        folds=folds_of(train.labels, texts=train.texts, seed=config.seed, most=FOLDS, rows=CV_ROWS),
    )
    some = _sample(train, HEAD_ROWS, seed=config.seed)
    network.to(device)
    features_RP = pooled_features(network.lstm, some, device=device, processes=processes)
    network.cpu()
    _, weight_CP, bias_C = fit_head_of(
        start,
        some,
        features_RP,
        labels=corpus.labels,
        row_weights=row_weights(some, classes, balanced=balanced),
        folds=folds_of(some.labels, texts=some.texts, seed=config.seed, most=FOLDS),
    )
    set_head(network, weight_CP, bias_C)


def _sample(rows: TextDataset, most: int, *, seed: int) -> TextDataset:
    """Return a random sample of rows; every n-th row could miss a class in files sorted in a pattern."""
    if len(rows) <= most:
        return rows
    return rows.part(np.sort(np.random.default_rng(seed).permutation(len(rows))[:most]))
