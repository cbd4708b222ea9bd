"""Schedule, losses and optimizer: properties, and equality with plain implementations."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import PlainAdamW, plain_learning_rate
from torch import Tensor, nn

from lstm_sentiment.config.schema import TrainerConfig
from lstm_sentiment.data.dataset import Batch
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.training.losses import balanced_weights, cross_entropy
from lstm_sentiment.training.optimizer import LazyAdamW, adamw, clip, load_optimizer, optimizer_tensors
from lstm_sentiment.training.schedule import ema_decay_at, learning_rate_at, step_seed

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def make_model() -> SentimentLSTM:
    torch.manual_seed(3)
    return SentimentLSTM(20, 3, embedding_size=4, hidden_size=4, layers=2, pooling="mean+attention")


def make_batch(rows: int, *, weights: Tensor | None = None) -> Batch:
    generator = torch.Generator().manual_seed(rows)
    return Batch(
        tokens_BT=torch.randint(1, 20, (rows, 6), generator=generator),
        lengths_B=torch.randint(1, 7, (rows,), generator=generator),
        labels_B=torch.randint(0, 3, (rows,), generator=generator),
        weights_B=torch.full((rows,), 1 / rows) if weights is None else weights,
        shares_B=torch.full((rows,), 1 / rows),
        rows_B=torch.arange(rows),
        targets_BC=torch.empty(rows, 0),
        spelling_XK=torch.zeros((0, 4), dtype=torch.int32),
    )


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


# -- schedule --------------------------------------------------------------------------------------


@quick
@given(
    total_steps=st.integers(1, 400),
    warmup=st.floats(0, 0.99),
    peak=st.floats(1e-6, 10),
)
def test_learning_rate_rises_to_its_peak_then_falls(total_steps: int, warmup: float, peak: float) -> None:
    rates = [
        learning_rate_at(step, total_steps=total_steps, peak=peak, warmup=warmup)
        for step in range(total_steps)
    ]
    rising = int(np.ceil(warmup * total_steps))
    assert all(0 < rate <= peak * (1 + 1e-12) for rate in rates)
    assert all(earlier < later for earlier, later in itertools.pairwise(rates[:rising]))
    falling = rates[max(0, rising - 1) :]
    assert all(earlier > later for earlier, later in itertools.pairwise(falling))
    assert rising == 0 or rates[rising - 1] == pytest.approx(peak)
    expected = [plain_learning_rate(step, total_steps, peak, warmup) for step in range(total_steps)]
    assert rates == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_learning_rate_starts_low_and_ends_near_zero(warmup: float) -> None:
    first, middle, last = (
        learning_rate_at(step, total_steps=1000, peak=1.0, warmup=warmup) for step in (0, 550, 999)
    )
    assert first == pytest.approx(1.0 if warmup == 0 else 1 / (1000 * warmup))
    assert 0.3 < middle <= 1
    assert last < 1e-4


def test_the_decay_of_the_moving_average_is_warmed_up() -> None:
    decays = [ema_decay_at(step, decay=0.98) for step in range(2000)]
    assert decays[0] <= 0.1
    assert all(earlier <= later <= 0.98 for earlier, later in itertools.pairwise(decays))
    assert decays[-1] == 0.98
    assert ema_decay_at(10**9, decay=0.0) == 0.0


def test_each_step_of_each_process_has_its_own_seed() -> None:
    seeds = {
        step_seed(seed, step=step, rank=rank)
        for seed in (0, 1, 2**31 - 1)
        for step in (*range(50), 10**7)
        for rank in range(64)
    }
    assert len(seeds) == 3 * 51 * 64
    torch.manual_seed(max(seeds))  # takes 64 bits, no more
    assert min(seeds) >= 0


# -- losses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("rows", [1, 7])
def test_loss_is_torchs_mean_cross_entropy(rows: int, label_smoothing: float) -> None:
    logits_BC, batch = torch.randn(rows, 3) * 3, make_batch(rows)
    expected = nn.functional.cross_entropy(logits_BC, batch.labels_B, label_smoothing=label_smoothing)
    torch.testing.assert_close(cross_entropy(None, label_smoothing)(logits_BC, batch), expected)


def test_losses_of_parts_add_up_to_the_loss_of_the_whole() -> None:
    """Gradient accumulation and several processes rely on it."""
    logits_BC, batch = torch.randn(10, 3), make_batch(10)
    loss = cross_entropy(balanced_weights(batch.labels_B.numpy(), 3), 0.1)
    parts = [
        loss(
            logits_BC[part],
            Batch(**{name: tensor[part] for name, tensor in vars(batch).items()}),
        )
        for part in (slice(0, 3), slice(3, 4), slice(4, 10))
    ]
    torch.testing.assert_close(sum(parts), loss(logits_BC, batch))


def test_a_row_of_weight_zero_has_no_loss_and_no_gradient() -> None:
    logits_BC = torch.randn(3, 3, requires_grad=True)
    batch = make_batch(3, weights=torch.tensor([0.5, 0.0, 0.5]))
    cross_entropy(None, 0.0)(logits_BC, batch).backward()
    assert logits_BC.grad is not None
    assert (logits_BC.grad[1] == 0).all()
    assert (logits_BC.grad[0] != 0).all()


def test_class_weights_multiply_each_rows_loss() -> None:
    logits_BC, batch = torch.randn(8, 3), make_batch(8)
    weights_C = torch.tensor([0.2, 1.0, 5.0])
    rows = [
        float(weights_C[label]) * float(nn.functional.cross_entropy(logits_C, label))
        for logits_C, label in zip(logits_BC, batch.labels_B, strict=True)
    ]
    assert float(cross_entropy(weights_C, 0.0)(logits_BC, batch)) == pytest.approx(sum(rows) / 8, rel=1e-5)
    # torch divides by the sum of the weights instead of the number of rows
    summed = nn.functional.cross_entropy(logits_BC, batch.labels_B, weight=weights_C, reduction="sum")
    torch.testing.assert_close(cross_entropy(weights_C, 0.0)(logits_BC, batch), summed / 8)


@quick
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_balanced_weights_give_classes_equal_totals_and_rows_a_mean_of_one(labels: list[int]) -> None:
    weights_C = balanced_weights(np.array(labels), 5).double()
    counts = np.bincount(labels, minlength=5)
    present = counts > 0
    totals = weights_C.numpy() * counts
    assert totals[present] == pytest.approx(totals[present][0], rel=1e-5)
    if present.all():
        assert float(weights_C[torch.tensor(labels)].mean()) == pytest.approx(1, rel=1e-5)
    assert torch.isfinite(weights_C).all()


# -- optimizer -------------------------------------------------------------------------------------


def test_adamw_equals_the_formula() -> None:
    config = TrainerConfig(epochs=1, learning_rate=0.01, weight_decay=0.1, clip_norm=1e9, warmup=0.3)
    model = make_model()
    plain = PlainAdamW({n: p.detach().clone() for n, p in model.named_parameters()}, config, 5)
    optimizer = adamw(
        model, learning_rate=1.0, weight_decay=config.weight_decay, embedding_factor=config.embedding_rate
    )
    for step in range(5):
        give_gradients(model, step)
        assert model.embedding.weight.grad is not None
        model.embedding.weight.grad[step::2] = 0
        plain.step({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        optimizer.set_learning_rate(learning_rate_at(step, total_steps=5, peak=0.01, warmup=0.3))
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), plain.weights[name], atol=1e-6, rtol=1e-5, msg=name)


def test_weight_decay_applies_to_matrices_only() -> None:
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(2.0)
            parameter.grad = torch.zeros_like(parameter)
    adamw(model, learning_rate=0.1, weight_decay=0.5).step()
    for name, parameter in model.named_parameters():
        still = "bias" in name or "embedding" in name  # no row of the embedding was touched
        expected = 2.0 if still else 2.0 * (1 - 0.1 * 0.5)
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected), msg=name)
    assert sum("bias" in name for name, _ in model.named_parameters()) == 9


def embedding_after(steps: int, *, sparse: bool, optimizer: str = "lazy") -> Tensor:
    """Train an embedding alone, by our optimizer or torch's SparseAdam."""
    torch.manual_seed(0)
    table = nn.Embedding(9, 3, padding_idx=0, sparse=sparse)
    made: torch.optim.Optimizer = (
        LazyAdamW([{"params": [table.weight], "lazy": True}], lr=0.1, weight_decay=0.0, betas=(0.9, 0.99))
        if optimizer == "lazy"
        else torch.optim.SparseAdam(table.parameters(), lr=0.1, betas=(0.9, 0.99))
    )
    for step in range(steps):
        tokens_BT = torch.tensor([[1 + step % 8, 3, 3], [5, 1 + step % 3, 0]])
        made.zero_grad()
        (table(tokens_BT) ** 2 * torch.linspace(0.5, 2, 3)).sum().backward()
        made.step()
    return table.weight.detach()


def test_rows_of_an_embedding_are_updated_as_by_torchs_sparse_adam() -> None:
    expected = embedding_after(12, sparse=True, optimizer="torch")
    torch.testing.assert_close(embedding_after(12, sparse=True), expected)
    assert torch.equal(embedding_after(12, sparse=True), embedding_after(12, sparse=False))
    before, after = embedding_after(0, sparse=True), embedding_after(2, sparse=True)
    assert (before != after).any(dim=1).nonzero()[:, 0].tolist() == [1, 2, 3, 5]


def test_a_sparse_and_a_dense_gradient_are_clipped_alike() -> None:
    norms, clipped = [], []
    for sparse in (True, False):
        torch.manual_seed(0)
        table = nn.Embedding(9, 3, sparse=sparse)
        (table(torch.tensor([4, 4, 2])) ** 2).sum().backward()
        norms.append(clip(table, 0.5))
        assert table.weight.grad is not None
        clipped.append(table.weight.grad.to_dense())
    assert norms[0] == pytest.approx(norms[1])
    assert norms[0] > 0.5
    torch.testing.assert_close(*clipped)
    assert float(clipped[0].norm()) == pytest.approx(0.5, rel=1e-4)
    assert clip(table, 0.6) == pytest.approx(0.5, rel=1e-4)  # short enough: unchanged
    assert torch.equal(table.weight.grad, clipped[1])


def test_an_overflow_does_not_change_embeddings_or_moments() -> None:
    """The gradient scaler reports it to the optimizer."""
    table = nn.Parameter(torch.ones(3, 2))
    optimizer = LazyAdamW([{"params": [table], "lazy": True}], lr=0.1)
    for overflow, expected in ((1.0, 1.0), (0.0, 0.9)):
        table.grad = torch.ones(3, 2)
        optimizer.found_inf = torch.tensor([overflow])  # type: ignore[attr-defined]
        optimizer.step()
        assert float(table.detach().max()) == pytest.approx(expected, abs=2e-3)
        assert bool(optimizer.state) != bool(overflow)


def test_frozen_parameters_do_not_change() -> None:
    model = make_model()
    model.embedding.weight.requires_grad_(False)
    before = model.embedding.weight.clone()
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.5)
    give_gradients(model, 0)
    optimizer.step()
    assert torch.equal(model.embedding.weight, before)
    assert not any(name.endswith("embedding.weight") for name in optimizer_tensors(optimizer, model))


def after_three_steps() -> tuple[SentimentLSTM, LazyAdamW]:
    model = make_model()
    optimizer = adamw(model, learning_rate=0.01, weight_decay=0.1)
    for step in range(3):
        give_gradients(model, step)
        optimizer.step()
    return model, optimizer


def test_optimizer_state_survives_a_round_trip_bit_for_bit() -> None:
    model, optimizer = after_three_steps()
    kept = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, model).items()}
    assert set(kept) == {
        f"{kind}.{name}" for kind in ("step", "exp_avg", "exp_avg_sq") for name, _ in model.named_parameters()
    }

    other = make_model()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed = adamw(other, learning_rate=0.01, weight_decay=0.1)
    load_optimizer(resumed, other, kept)
    again = optimizer_tensors(resumed, other)
    assert set(again) == set(kept)
    assert all(torch.equal(again[name], kept[name]) for name in kept)

    for changed, of_optimizer in ((model, optimizer), (other, resumed)):
        give_gradients(changed, 7)
        of_optimizer.step()
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_a_fresh_optimizer_after_a_restart_would_differ() -> None:
    """The control of the round trip: without the state the next step differs."""
    model, optimizer = after_three_steps()
    other = copy.deepcopy(model)
    forgetful = adamw(other, learning_rate=0.01, weight_decay=0.1)
    for changed, of_optimizer in ((model, optimizer), (other, forgetful)):
        give_gradients(changed, 7)
        of_optimizer.step()
    assert not torch.equal(model.head.weight, other.head.weight)
