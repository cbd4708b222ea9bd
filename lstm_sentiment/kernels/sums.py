"""Logits without gradients on a CPU, of a linear layer and of n-grams: compiled kernels (see `library`).

They save the overhead of some PyTorch operators each, which is most of the time of a single text. A text's
logits are bit-identical in any batch.

Legend: B texts, T padded length, P features, C classes, V known tokens, R rows of a table.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from lstm_sentiment.kernels.library import applies_to, call, fields


class _Linear(ctypes.Structure):
    """The arguments of `linear_logits`, as in sums.c."""

    _fields_ = fields(
        (ctypes.c_int64, "texts features classes"), (ctypes.c_void_p, "values weights bias logits")
    )


class _Ngrams(ctypes.Structure):
    """The arguments of `ngram_logits`, as in sums.c."""

    _fields_ = fields(
        (ctypes.c_int64, "texts steps classes known rows p r q"),
        (ctypes.c_void_p, "tokens lengths weights bias logits fault"),
    )


def linear_logits(layer: nn.Linear, values_BP: Tensor) -> Tensor | None:
    """Return what a linear layer with a bias returns, (B, C); None where the kernel does not apply.

    Raises:
        ValueError: the number of features is not that of the layer.

    >>> layer, values_BP = nn.Linear(50, 3).requires_grad_(False), torch.randn(9, 50)
    >>> found_BC = linear_logits(layer, values_BP)
    >>> found_BC is None or torch.allclose(found_BC, layer(values_BP), atol=1e-5)
    True
    """
    if not applies_to(values_BP, layer.weight, layer.bias):
        return None
    classes, features = layer.weight.shape
    if values_BP.dim() != 2 or values_BP.shape[1] != features:
        raise ValueError(f"values {tuple(values_BP.shape)} and a layer of {features} features do not match")
    logits_BC = values_BP.new_empty(len(values_BP), classes)
    arrays = {"weights": layer.weight.contiguous(), "bias": layer.bias, "logits": logits_BC}
    numbers = {"texts": len(values_BP), "features": features, "classes": classes}
    call("linear_logits", _Linear, numbers, {**arrays, "values": values_BP.contiguous()})
    return logits_BC


def ngram_logits(
    tokens_BT: Tensor,
    lengths_B: Tensor,
    weights_RC: Tensor,
    bias_C: Tensor,
    *,
    known: int,
    pair: tuple[int, ...],
) -> Tensor | None:
    """Return the sums (B, C) of the weights of words and pairs; None where the kernel does not apply.

    A sum is divided by the square root of the number of words and pairs, before the bias is added.

    Args:
        tokens_BT: token ids, int64; 0 is padding, ids from V on are the unknown token.
        lengths_B: number of tokens of each text, from 1 to T, int64.
        weights_RC: of known tokens, then of hashed pairs.
        bias_C: of each class.
        known: V, more than 1 and less than R.
        pair: p, r and q of the row V + ((a·p mod r) + b·q) mod (R - V) of a pair of tokens a, b.

    Raises:
        ValueError: a token is negative, a text is longer than T, or the shapes do not match.

    >>> weights_RC = torch.zeros(7, 2)
    >>> weights_RC[3] = 1.0
    >>> arguments = torch.tensor([[3, 3, 0]]), torch.tensor([2]), weights_RC, torch.zeros(2)
    >>> found_BC = ngram_logits(*arguments, known=5, pair=(3, 7, 5))
    >>> found_BC is None or torch.allclose(found_BC, torch.full((1, 2), 2 / 3**0.5))
    True
    """
    if not tokens_BT.is_cpu or not applies_to(weights_RC, bias_C):
        return None
    (texts, steps), (rows, classes), lengths = tokens_BT.shape, weights_RC.shape, lengths_B.tolist()
    fit = len(lengths) == texts and min(lengths) >= 1 and max(lengths) <= steps and 1 < known < rows
    if not fit or bias_C.shape != (classes,) or tokens_BT.dtype != torch.int64:
        raise ValueError(
            f"tokens {tuple(tokens_BT.shape)}, lengths {lengths} and weights {(rows, classes)} of {known} "
            "known tokens do not match"
        )
    logits_BC, fault = weights_RC.new_empty(texts, classes), torch.empty(1, dtype=torch.int64)
    arrays = {"tokens": tokens_BT.contiguous(), "lengths": lengths_B.long().contiguous(), "fault": fault}
    arrays |= {"weights": weights_RC.contiguous(), "bias": bias_C.contiguous(), "logits": logits_BC}
    numbers = {"texts": texts, "steps": steps, "classes": classes, "known": known, "rows": rows}
    call("ngram_logits", _Ngrams, numbers | dict(zip("prq", pair, strict=True)), arrays)
    if int(fault[0]):
        raise ValueError(f"a token is negative: {int(tokens_BT.min())}")
    return logits_BC
