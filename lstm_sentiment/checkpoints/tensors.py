"""Check tensors from a file against a model's shapes, before memory is allocated for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lstm_sentiment.errors import CheckpointError, ConfigError, shown
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS

MOST_PARAMETERS = 1_000_000_000  # 4 GB; training takes four times as much
Shapes = Mapping[str, Sequence[int]]


def check_size(shapes: Shapes) -> None:
    """Refuse a model that is too large.

    Raises:
        ConfigError: it has more than 10⁹ parameters; the message names the largest tensor.

    >>> check_size({"embedding.weight": (10**6, 2000)})
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.ConfigError: model: would have 2,000,000,000 parameters, 2,000,000,000 of them in \
embedding.weight; at most 1,000,000,000 are allowed: lower the sizes in sections model and text
    """
    count = sum(map(math.prod, shapes.values()))
    if count > MOST_PARAMETERS:
        largest = max(shapes, key=lambda name: math.prod(shapes[name]))
        raise ConfigError(
            f"would have {count:,} parameters, {math.prod(shapes[largest]):,} of them in {largest}; at most "
            f"{MOST_PARAMETERS:,} are allowed: lower the sizes in sections model and text",
            key="model",
        )


def check_weights(weights: Mapping[str, Tensor], shapes: Shapes) -> None:
    """Refuse weights that do not match a model.

    Args:
        weights: parameter -> tensor.
        shapes: of the model (see `network_shapes.network_shapes`).

    Raises:
        CheckpointError: a name, shape or type differs.

    >>> check_weights({"bias": torch.zeros(2)}, {"bias": (3,)})
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.CheckpointError: bias has the shape (2,), and config.yaml asks for (3,)
    """
    odd = sorted(weights.keys() ^ shapes.keys())
    if odd:
        raise CheckpointError(f"weights missing or added: {shown(', '.join(odd), 200)}")
    for name, tensor in weights.items():
        found, expected = tuple(tensor.shape), tuple(shapes[name])
        if found != expected:
            raise CheckpointError(f"{name} has the shape {found}, and config.yaml asks for {expected}")
        if tensor.dtype != torch.float32:
            raise CheckpointError(f"{name} holds {tensor.dtype}, not torch.float32")


def check_finite(predictions_RC: npt.NDArray[Any]) -> None:
    """Refuse non-finite predictions, which finite weights can produce by overflow.

    Raises:
        CheckpointError: there are any; it says how many.

    >>> check_finite(np.array([[0.5, 0.5], [np.nan, np.nan]]))
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.CheckpointError: non-finite predictions for 1 of 2 texts: the model's weights or \
temperature are too large; restore the run from a copy, or train it again
    """
    finite_RC = np.isfinite(predictions_RC)
    if not finite_RC.all():
        bad = int((~finite_RC.all(axis=1)).sum())
        raise CheckpointError(
            f"non-finite predictions for {bad:,} of {len(predictions_RC):,} texts: the model's weights or "
            "temperature are too large; restore the run from a copy, or train it again"
        )


def known_tokens(weights: Mapping[str, Tensor]) -> int:
    """Return the vocabulary size of a network's or language model's weights.

    Raises:
        KeyError: they are not those of either.

    >>> known_tokens({"lstm.embedding.weight": torch.zeros(5, 2)})
    3
    """
    name = "lstm.embedding.weight" if "lstm.embedding.weight" in weights else "embedding.weight"
    return len(weights[name]) - len(SPECIAL_TOKENS)
