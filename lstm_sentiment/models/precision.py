"""Format of an LSTM's products in prediction: fp32, or bf16 on CPUs with instructions for it.

bf16 is 1.4 to 1.5 times as fast in bulk. Inputs, states and weights are rounded to 8 bits of precision for
the products; sums, states and everything after the LSTM stay fp32, and a text's prediction stays the same
bits in any batch. Probabilities change in the third digit; calibration was fitted to those of fp32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.kernels.library import lstm_library
from lstm_sentiment.kernels.lstm import HIDDEN_MULTIPLE
from lstm_sentiment.models.cells import LSTM
from lstm_sentiment.models.network import MergedClasses, Network, lstm_of


def set_precision(model: Network | MergedClasses, precision: str, device: torch.device) -> None:
    """Set the format of the products of a network's LSTM in prediction.

    Args:
        model: changed in place.
        precision: fp32 or bf16.
        device: of the model.

    Raises:
        ConfigError: bf16 is not available: another device, a CPU without AVX512-BF16, kernels that are not
            compiled or switched off, a hidden size that is not a multiple of 16; another format.

    >>> from lstm_sentiment import load
    >>> set_precision(load("starter", device="cpu").model, "fp8", torch.device("cpu"))
    Traceback (most recent call last):
    lstm_sentiment.errors.ConfigError: precision: 'fp8' is not one of fp32, bf16
    """
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"'{precision}' is not one of fp32, bf16", key="precision")
    if precision == "bf16" and (problem := _problem(model, device)):
        raise ConfigError(f"bf16 is not available: {problem}; use fp32", key="precision")
    if precision != precision_of(model):
        lstm_of(model).cell = LSTM(precision)


@contextlib.contextmanager
def in_bf16(model: Network | MergedClasses, device: torch.device) -> Iterator[bool]:
    """Predict with bf16 products within a block, if they are available; the block gets whether they are.

    >>> from lstm_sentiment import load
    >>> model, device = load("starter", device="cpu").model, torch.device("cpu")
    >>> with in_bf16(model, device) as available:
    ...     precision_of(model) == ("bf16" if available else "fp32")
    True
    >>> precision_of(model)
    'fp32'
    """
    lstm, available = lstm_of(model), _problem(model, device) is None
    before = lstm.cell
    lstm.cell = LSTM("bf16") if available else before
    try:
        yield available
    finally:
        lstm.cell = before


def precision_of(model: Network | MergedClasses) -> str:
    """Return the format of the products of a network's LSTM in prediction: fp32 or bf16.

    >>> from lstm_sentiment import load
    >>> precision_of(load("starter", device="cpu").model)
    'fp32'
    """
    cell = lstm_of(model).cell
    return cell.precision if isinstance(cell, LSTM) else "fp32"


def precision_here(model: Network | MergedClasses, wanted: str, device: torch.device) -> str:
    """Return a format, or fp32 if it is not available here, as after unpickling on another machine.

    >>> from lstm_sentiment import load
    >>> precision_here(load("starter", device="cpu").model, "bf16", torch.device("cuda"))
    'fp32'
    """
    return "fp32" if wanted == "bf16" and _problem(model, device) else wanted


def _problem(model: Network | MergedClasses, device: torch.device) -> str | None:
    """Return why bf16 is not available; None if it is."""
    hidden_size = lstm_of(model).hidden_size
    if not isinstance(lstm_of(model).cell, LSTM):
        return "the kernel is for LSTMs"
    if device.type != "cpu":
        return f"the kernel is for CPUs, not {device.type}"
    if hidden_size % HIDDEN_MULTIPLE:
        return f"model.hidden_size is {hidden_size}, not a multiple of {HIDDEN_MULTIPLE}"
    if lstm_library("bf16") is None:
        return "this CPU has no AVX512-BF16, or the compiled kernels are missing or switched off"
    return None
