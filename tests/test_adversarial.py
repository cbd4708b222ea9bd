"""Adversarial training: a text's push is the worst for itself, and the loop keeps its promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_model import BATCH_LENGTHS, make_batch, make_model
from torch import Tensor, nn

from lstm_sentiment.adversarial import Adversary, worst_push
from lstm_sentiment.checkpoint import LAST, RunFolder
from lstm_sentiment.config import Config
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.experiment import run
from lstm_sentiment.model import SentimentLSTM

Configure = Callable[..., Config]
NO_DROPOUT = ("--model.dropout=0", "--model.embedding_dropout=0", "--model.word_dropout=0")
EVERY_DROPOUT = {"dropout": 0.4, "embedding_dropout": 0.3, "word_dropout": 0.2}
SIZE = 6  # of `make_model`'s embeddings


def losses_of(
    model: SentimentLSTM, lengths: list[int], dtype: torch.dtype = torch.float32
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return a loss given a push, and the tokens (B, T) of a batch with some padding behind it."""
    tokens_BT, lengths_B = make_batch(lengths, padding=3)
    labels_B = torch.arange(len(lengths)) % 3

    def loss_at(push_TBE: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            logits_BC = model(tokens_BT, lengths_B, None, push_TBE)
        return nn.functional.cross_entropy(logits_BC, labels_B)

    return loss_at, tokens_BT


def pushes_and_losses(
    adversary: Adversary, loss_at: Any, tokens_BT: Tensor
) -> tuple[list[Tensor], list[float]]:
    """Return what the adversary tries, and the losses that it finds."""
    pushes, losses = list[Tensor](), list[float]()

    def noted(push_TBE: Tensor) -> Tensor:
        loss: Tensor = loss_at(push_TBE)
        pushes.append(push_TBE.detach())
        losses.append(loss.item())
        return loss

    loss = adversary.loss(noted, tokens_BT)
    assert loss.item() == pytest.approx(sum(losses) / 2)
    return pushes, losses


def alone(model: SentimentLSTM, tokens_1L: Tensor, label: int, length: float) -> tuple[float, float]:
    """Return a single unpadded text's losses as it is and as pushed, by the textbook."""
    vectors_L1E = model.embedding(tokens_1L.t()).detach().requires_grad_()
    lengths_1 = torch.tensor([tokens_1L.shape[1]])

    def loss_of(vectors: Tensor) -> Tensor:
        return -model.logits_of(vectors, lengths_1).log_softmax(dim=1)[0, label]

    loss = loss_of(vectors_L1E)
    (gradient,) = torch.autograd.grad(loss, vectors_L1E)
    unit = vectors_L1E.square().mean().sqrt()
    worst = vectors_L1E + length * unit * gradient / gradient.square().sum().sqrt()
    return loss.item(), loss_of(worst).item()


@pytest.mark.parametrize("layers", [1, 2])
def test_the_loss_is_that_of_each_text_on_its_own(layers: int) -> None:
    """Padding and neighbours play no part in a text's push, nor does the batch's size."""
    model = make_model(layers=layers)
    loss_at, tokens_BT = losses_of(model, BATCH_LENGTHS)
    _, found = pushes_and_losses(Adversary(3.0, SIZE), loss_at, tokens_BT)
    texts = [tokens_BT[row : row + 1, :length] for row, length in enumerate(BATCH_LENGTHS)]
    expected = [alone(model, text, row % 3, 3.0) for row, text in enumerate(texts)]
    clean, pushed = (sum(losses) / len(losses) for losses in zip(*expected, strict=True))
    assert found == pytest.approx([clean, pushed], rel=1e-5)
    assert pushed > clean + 0.1


def test_both_passes_drop_the_same() -> None:
    """A push of no length changes nothing, and two calls do not draw the same masks."""
    model = make_model(**EVERY_DROPOUT)
    loss_at, tokens_BT = losses_of(model, BATCH_LENGTHS)
    calls = [pushes_and_losses(Adversary(0.0, SIZE), loss_at, tokens_BT)[1] for _ in range(3)]
    assert all(clean == pushed for clean, pushed in calls)
    assert len({clean for clean, _ in calls}) == 3


def test_the_push_hurts_more_than_any_of_many_others_as_long() -> None:
    model = make_model()
    loss_at, tokens_BT = losses_of(model, BATCH_LENGTHS)
    (_, worst_TBE), (clean, worst) = pushes_and_losses(Adversary(0.1, SIZE), loss_at, tokens_BT)
    others = [loss_at(worst_push(torch.randn(worst_TBE.shape), 0.1)).item() for _ in range(50)]
    assert max(others) - clean < (worst - clean) / 2


def test_only_real_tokens_are_pushed_and_each_text_as_far() -> None:
    model = make_model(**EVERY_DROPOUT)
    loss_at, tokens_BT = losses_of(model, BATCH_LENGTHS)
    (still_TBE, push_TBE), _ = pushes_and_losses(Adversary(2.0, SIZE), loss_at, tokens_BT)
    assert not still_TBE.any()
    assert not push_TBE[(tokens_BT == 0).t()].any()
    torch.testing.assert_close(push_TBE.square().sum(dim=(0, 2)).sqrt(), torch.full((7,), 2.0))


def test_a_tiny_gradient_is_a_direction_and_none_is_no_push() -> None:
    """A sure answer has the one; a row that only fills a process's place has the other."""
    push_TBE = worst_push(torch.zeros(3, 2, SIZE).index_fill_(1, torch.tensor(1), 1e-30), 2.0)
    assert not push_TBE[:, 0].any()
    assert push_TBE[:, 1].norm() == pytest.approx(2.0)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_larger_embeddings_are_pushed_as_much_more(scale: float) -> None:
    """So that the embeddings cannot outgrow the push."""
    model = make_model()
    seen = list[Tensor]()
    model.logits_of = lambda vectors, lengths: seen.append(vectors) or vectors.sum()  # type: ignore[assignment, func-returns-value]
    tokens_BT, lengths_B = make_batch(BATCH_LENGTHS)
    push_TBE = torch.randn(tokens_BT.shape[1], len(lengths_B), SIZE)
    model(tokens_BT, lengths_B, None, push_TBE)
    with torch.no_grad():
        model.embedding.weight *= scale
    model(tokens_BT, lengths_B, None, push_TBE)
    torch.testing.assert_close(seen[1], scale * seen[0])


def test_bf16_finds_nearly_the_same_push() -> None:
    pushes = []
    for dtype in (torch.float32, torch.bfloat16):
        loss_at, tokens_BT = losses_of(make_model(), BATCH_LENGTHS, dtype)
        (_, push_TBE), _ = pushes_and_losses(Adversary(1.0, SIZE), loss_at, tokens_BT)
        assert push_TBE.dtype == torch.float32
        pushes.append(push_TBE)
    cosine_B = (pushes[0] * pushes[1]).sum(dim=(0, 2))
    assert cosine_B.min() > 0.95


# -- in the loop -----------------------------------------------------------------------------------


def weights_of(config: Config) -> dict[str, Tensor]:
    run(config)
    return RunFolder(config.out).load(LAST).tensors["model"]


def test_a_seed_still_decides_every_bit(configure: Configure, tmp_path: Path) -> None:
    def trained(name: str, length: float) -> dict[str, Tensor]:
        flags = ("--trainer.epochs=1", f"--trainer.adversarial={length}", f"--out={tmp_path / name}")
        return weights_of(configure(*flags))

    first, again, without = trained("first", 2), trained("again", 2), trained("without", 0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], without[name]) for name in first)


def test_two_accumulated_batches_are_still_one_of_twice_the_size(
    configure: Configure, tmp_path: Path
) -> None:
    common = [*NO_DROPOUT, "--trainer.epochs=3", "--trainer.adversarial=2"]
    halves = ["--trainer.batch_size=96", "--trainer.accumulate=2", f"--out={tmp_path / 'halves'}"]
    found = weights_of(configure(*common, *halves))
    expected = weights_of(configure(*common, "--trainer.batch_size=192", f"--out={tmp_path / 'whole'}"))
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("length", ["-1", ".inf", ".nan"])
def test_a_length_that_is_none_is_refused(configure: Configure, length: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.adversarial"):
        configure(f"--trainer.adversarial={length}")
