"""Weight quantization, to a third of the size: embeddings as int8 with scales, LSTM matrices as float16.

In a packed checkpoint an embedding is stored as int8, and ``NAME.scales`` has one fp32 scale per
row, or per group of rows where rows have few columns: a weight is its int8 times the scale. LSTM matrices
are stored as float16. The checkpoint's facts list the packed tensors under ``packed``:

    {"embedding.weight": "int8", "forward_lstms.0.weight_ih_l0": "float16"}

All other tensors are fp32.

Legend: R rows, X columns, G groups of rows with one scale each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lstm_sentiment.errors import CheckpointError, shown

TABLES = ("embedding.weight", "subwords.table.weight", "ngrams.weights.weight")
MATRICES = "_lstms."
SCALES = ".scales"
DTYPES = {"int8": torch.int8, "float16": torch.float16}
LARGEST = 127  # of an int8, so that the range is symmetric
MOST_PACKED = 100_000_000  # values: they are unpacked to four times the size before shapes are checked
NUMBERS_PER_SCALE = 64  # at least: a scale takes 4 bytes


def quantized(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Quantize a network's weights; also return the kind of each packed tensor.

    Args:
        weights: parameter -> fp32 tensor.

    >>> tensors, kinds = quantized({"embedding.weight": torch.tensor([[1.0, -0.5], [0.0, 0.25]])})
    >>> kinds, tensors["embedding.weight"].tolist()
    ({'embedding.weight': 'int8'}, [[127, -64], [0, 32]])
    >>> dequantized(tensors, kinds)["embedding.weight"].round(decimals=2).tolist()
    [[1.0, -0.5], [0.0, 0.25]]
    """
    tensors: dict[str, Tensor] = {}
    kinds: dict[str, str] = {}
    for name, weight in weights.items():
        if name.endswith(TABLES):
            kinds[name] = "int8"
            tensors[name], tensors[f"{name}{SCALES}"] = _rounded(weight)
        elif MATRICES in name and weight.dim() == 2:
            kinds[name], tensors[name] = "float16", weight.half()
        else:
            tensors[name] = weight
    return tensors, kinds


def dequantized(tensors: Mapping[str, Tensor], kinds: Any) -> dict[str, Tensor]:
    """Dequantize the weights of a packed checkpoint to fp32.

    Args:
        tensors: as stored.
        kinds: of the packed tensors: name -> ``int8`` or ``float16``.

    Raises:
        CheckpointError: a tensor is missing or does not match `kinds`, scales are missing or do not match, or
            there are too many values.

    >>> dequantized({"embedding.weight": torch.zeros(2, 3)}, {"embedding.weight": "float16"})
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.CheckpointError: 'embedding.weight' is packed as float16, but holds torch.float32
    """
    if not isinstance(kinds, dict) or not {*map(str, kinds.values())} <= DTYPES.keys():
        raise CheckpointError(f"'packed' must map names of tensors to {' or '.join(DTYPES)}")
    count = sum(tensor.numel() for tensor in tensors.values())
    if count > MOST_PACKED:
        raise CheckpointError(f"packs {count:,} values; at most {MOST_PACKED:,} are allowed")
    scales = {f"{name}{SCALES}" for name, kind in kinds.items() if kind == "int8"}
    missing = sorted((kinds.keys() | scales) - tensors.keys())
    if missing:
        raise CheckpointError(f"packed weights are missing: {shown(', '.join(missing), 200)}")
    weights = {name: tensor for name, tensor in tensors.items() if name not in scales}
    for name, kind in kinds.items():
        if tensors[name].dtype != DTYPES[kind]:
            raise CheckpointError(f"{shown(name)} is packed as {kind}, but holds {tensors[name].dtype}")
        if kind == "int8":
            weights[name] = _scaled(name, tensors[name], tensors[f"{name}{SCALES}"])
        else:
            weights[name] = tensors[name].float()
    return weights


def rows_per_scale(columns: int) -> int:
    """Return how many rows of a table share a scale.

    >>> rows_per_scale(100), rows_per_scale(3)
    (1, 21)
    """
    return max(1, NUMBERS_PER_SCALE // max(1, columns))


def _rounded(weight_RX: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize a matrix to int8 (R, X) with scales (G,)."""
    rows, columns = weight_RX.shape
    largest_R = weight_RX.abs().amax(dim=1)
    group_R = torch.arange(rows) // rows_per_scale(columns)
    groups = -(-rows // rows_per_scale(columns))
    largest_G = torch.zeros(groups).scatter_reduce(0, group_R, largest_R, "amax")
    scales_G = largest_G / LARGEST
    divisor_R1 = scales_G.where(scales_G > 0, torch.ones(())).index_select(0, group_R)[:, None]
    return (weight_RX / divisor_R1).round().clamp(-LARGEST, LARGEST).to(torch.int8), scales_G


def _scaled(name: str, table_RX: Tensor, scales_G: Tensor) -> Tensor:
    if table_RX.dim() != 2:
        raise CheckpointError(f"{shown(name)} is packed as int8, but is not a matrix")
    shared = rows_per_scale(table_RX.shape[1])
    expected = (-(-len(table_RX) // shared),)
    if scales_G.dtype != torch.float32 or tuple(scales_G.shape) != expected:
        raise CheckpointError(
            f"{shown(name + SCALES)} holds {scales_G.dtype} of the shape {tuple(scales_G.shape)}, not "
            f"torch.float32 of {expected}"
        )
    largest = scales_G.amax().item() * 128 if len(scales_G) else 0.0
    if not (scales_G >= 0).all() or largest > torch.finfo(torch.float32).max:
        raise CheckpointError(f"{shown(name + SCALES)} holds a scale that is negative or too large")
    scales_R = scales_G if shared == 1 else scales_G.repeat_interleave(shared)[: len(table_RX)]
    return table_RX.float().mul_(scales_R[:, None])
