"""Logits without gradients: the compiled kernels of a linear layer and of n-grams."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lstm_sentiment.kernels.library import library
from lstm_sentiment.kernels.sums import linear_logits, ngram_logits

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled kernels on this machine")


@pytest.mark.parametrize("features", [1, 7, 8, 50, 512])
def test_a_linear_layer_is_equal_in_any_batch(features: int) -> None:
    torch.manual_seed(features)
    layer, values_BP = nn.Linear(features, 3).requires_grad_(False), torch.randn(9, features)
    found_BC = linear_logits(layer, values_BP)
    assert found_BC is not None
    torch.testing.assert_close(found_BC, layer(values_BP), atol=1e-5, rtol=0)
    for values_1P, found_1C in zip(values_BP.split(1), found_BC.split(1), strict=True):
        alone_1C = linear_logits(layer, values_1P)
        assert alone_1C is not None
        assert torch.equal(alone_1C, found_1C)
    assert linear_logits(layer, values_BP.double()) is None


def test_values_of_another_layer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values \(2, 4\) and a layer of 5 features do not match"):
        linear_logits(nn.Linear(5, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("fault", ["length", "no token", "known", "bias", "negative token"])
def test_mismatched_shapes_and_tokens_are_refused(fault: str) -> None:
    tokens_BT, lengths_B, known = torch.tensor([[2, 3], [9, 0]]), torch.tensor([2, 1]), 5
    if fault in ("length", "no token"):
        lengths_B[0] = 3 if fault == "length" else 0
    elif fault == "negative token":
        tokens_BT[0, 1] = -1
    elif fault == "known":
        known = 20
    bias_C = torch.zeros(2 if fault == "bias" else 3)
    with pytest.raises(ValueError, match="is negative" if fault == "negative token" else "do not match"):
        ngram_logits(tokens_BT, lengths_B, torch.zeros(20, 3), bias_C, known=known, pair=(3, 7, 5))
