"""Compiled pooling is the mean and maximum of each text's states, in any batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lstm_sentiment.kernels import pooling
from lstm_sentiment.kernels.library import library
from lstm_sentiment.models.lstm import SentimentLSTM

needs_kernel = pytest.mark.skipif(library() is None, reason="no compiled kernels on this machine")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def make_states(steps: int, lengths: list[int], hidden: int, directions: int) -> list[Tensor]:
    """Return states with ties, and NaN in the padding."""
    torch.manual_seed(len(lengths))
    real_TB1 = (torch.arange(steps)[:, None] < torch.tensor(lengths))[:, :, None]
    rough = (torch.randn(steps, len(lengths), hidden).mul(2).round().div(2) for _ in range(directions))
    return [torch.where(real_TB1, of, torch.nan).requires_grad_() for of in rough]


def text_by_text(read: list[Tensor], lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Pool each text alone, in double precision."""
    alone = [
        torch.cat([of[:length, text] for of in read], dim=1).double() for text, length in enumerate(lengths)
    ]
    return torch.stack([of.mean(dim=0) for of in alone]), torch.stack([of.amax(dim=0) for of in alone])


@needs_kernel
@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([1, 5, 8, 16, 37, 128]),
    st.integers(1, 2),
    st.lists(st.integers(1, 12), min_size=1, max_size=15) | st.just([400, 1, 30]),
    st.integers(0, 2),
    st.integers(1, 5),
)
def test_equals_pooling_text_by_text(
    hidden: int, directions: int, lengths: list[int], padding: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    read = make_states(max(lengths) + padding, lengths, hidden, directions)
    found = pooling.mean_and_max(read, torch.tensor(lengths))
    expected = text_by_text(read, lengths)
    torch.testing.assert_close(found[0].double(), expected[0], atol=1e-6, rtol=1e-6)
    assert torch.equal(found[1].double(), expected[1])
    upstream = [torch.randn_like(of) for of in found]
    for kinds in ([0, 1], [0], [1]):
        gradients = [
            torch.autograd.grad(
                [pooled[kind] for kind in kinds],
                read,
                [upstream[kind].to(pooled[kind].dtype) for kind in kinds],
                retain_graph=True,
            )
            for pooled in (found, expected)
        ]
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_pooling_is_bit_equal_in_any_batch(threads: int) -> None:
    lengths = [9, 1, 4, 9, 7, 2, 8, 5, 3, 6]
    read = [torch.randn(11, 10, 24) for _ in range(2)]
    order = torch.randperm(10)
    torch.set_num_threads(threads)
    together = pooling.mean_and_max(read, torch.tensor(lengths))
    moved = pooling.mean_and_max([of[:, order] for of in read], torch.tensor(lengths)[order])
    torch.set_num_threads(1)
    for text, length in enumerate(lengths):
        alone = pooling.mean_and_max([of[:length, text : text + 1] for of in read], torch.tensor([length]))
        for kind in range(2):
            assert torch.equal(together[kind][text], alone[kind][0])
            assert torch.equal(moved[kind][order.tolist().index(text)], alone[kind][0])


@needs_kernel
@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("strange", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_values_propagate(step: int, strange: float) -> None:
    """Training stops at it, at any position."""
    states_TBH = torch.randn(3, 2, 8)
    states_TBH[step, 1, 5] = strange
    mean_BF, largest_BF = pooling.mean_and_max([states_TBH], torch.tensor([3, 3]))
    torch.testing.assert_close(mean_BF, states_TBH.mean(dim=0), equal_nan=True)
    torch.testing.assert_close(largest_BF, states_TBH.amax(dim=0), equal_nan=True)


@needs_kernel
def test_views_equal_copies() -> None:
    states_TBH, lengths_B = torch.randn(4, 3, 16), torch.tensor([4, 0, 2, 0, 3])[::2]
    turned_TBH = states_TBH.transpose(0, 1).contiguous().transpose(0, 1)
    views = [of.requires_grad_() for of in (states_TBH[:, :, ::2], turned_TBH[:, :, 1::2])]
    copies = [of.detach().contiguous().requires_grad_() for of in views]
    pairs = []
    for read, of_B in ((views, lengths_B), (copies, lengths_B.int())):
        mean_BF, largest_BF = pooling.mean_and_max(read, of_B)
        loss = mean_BF.t().exp().sum() + largest_BF[:, ::3].sum()
        pairs.append((mean_BF, largest_BF, *torch.autograd.grad(loss, read)))
    assert all(torch.equal(*pair) for pair in zip(*pairs, strict=True))


@needs_kernel
@pytest.mark.parametrize("lengths", [[6, 3], [5, 0], [5, 3, 2], [5]])
def test_mismatched_shapes_are_refused(lengths: list[int]) -> None:
    """The kernel would read or write out of bounds."""
    with pytest.raises(ValueError, match="do not match"):
        pooling.mean_and_max([torch.randn(5, 2, 8)], torch.tensor(lengths))
    with pytest.raises(ValueError, match="do not match"):
        pooling.mean_and_max([torch.randn(5, 2, 8), torch.randn(5, 2, 16)], torch.tensor([5, 3]))


@needs_kernel
@pytest.mark.parametrize("kinds", ["mean", "max", "max+mean", "last+max", "mean+attention+max"])
@pytest.mark.parametrize("training", [False, True])
def test_a_model_predicts_the_same_without_it(
    kinds: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    model = SentimentLSTM(30, 3, embedding_size=8, hidden_size=16, pooling=kinds).train(training)
    tokens_BT, lengths_B = torch.randint(2, 30, (4, 9)), torch.tensor([9, 4, 1, 7])
    answers = []
    for here in (True, False):
        if not here:
            monkeypatch.setattr("lstm_sentiment.kernels.library.library", lambda *_: None)
        logits_BC = model(tokens_BT, lengths_B)
        answers.append([logits_BC, *torch.autograd.grad(logits_BC.square().sum(), [*model.parameters()])])
    for with_it, without in zip(*answers, strict=True):
        torch.testing.assert_close(with_it, without, atol=3e-6, rtol=1e-5)
