"""Updated rows of an embedding equal AdamW on a table of these rows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from lstm_sentiment.kernels import adamw as rows
from lstm_sentiment.kernels.library import library
from lstm_sentiment.training.optimizer import LazyAdamW

needs_kernel = pytest.mark.skipif(library() is None, reason="no compiled kernels on this machine")
RATES = {"learning_rate": 0.05, "betas": (0.8, 0.97), "epsilon": 1e-6, "weight_decay": 0.3}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def make_tables(size: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(9, size), torch.zeros(9, size), torch.zeros(9, size)


@needs_kernel
@pytest.mark.parametrize("size", [1, 3, 8, 20, 128])
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_equals_torchs_adamw_of_those_rows(size: int, threads: int) -> None:
    torch.set_num_threads(threads)
    tables, rows_U = make_tables(size), torch.tensor([7, 0, 4])
    before_VE = tables[0].clone()
    alone_UE = nn.Parameter(before_VE[rows_U].double())
    optimizer = torch.optim.AdamW([alone_UE], lr=0.05, betas=(0.8, 0.97), eps=1e-6, weight_decay=0.3)
    for step in range(1, 6):
        gradient_UE = torch.randn(3, size) * 10.0 ** (step - 3)
        alone_UE.grad = gradient_UE.double()
        optimizer.step()
        rows.adamw(tables, rows_U, gradient_UE, step=step, **RATES)  # type: ignore[arg-type]
    torch.testing.assert_close(tables[0][rows_U].double(), alone_UE.detach(), atol=2e-6, rtol=2e-6)
    others = [1, 2, 3, 5, 6, 8]
    assert torch.equal(tables[0][others], before_VE[others])
    assert not any(moment[others].any() for moment in tables[1:])
    state = optimizer.state[alone_UE]
    for moment, kind in zip(tables[1:], ("exp_avg", "exp_avg_sq"), strict=True):
        torch.testing.assert_close(moment[rows_U].double(), state[kind], atol=1e-6, rtol=2e-6)


@needs_kernel
def test_the_factor_of_a_row_scales_its_step() -> None:
    rows_U, gradient_UE = torch.tensor([3, 8]), torch.randn(2, 20)
    whole, part, before_VE = make_tables(20), make_tables(20), make_tables(20)[0]
    factors_V = torch.linspace(0, 2, 9)
    rows.adamw(whole, rows_U, gradient_UE, step=1, **RATES)  # type: ignore[arg-type]
    rows.adamw(part, rows_U, gradient_UE, factors_V, step=1, **RATES)  # type: ignore[arg-type]
    expected_UE = (whole[0] - before_VE)[rows_U] * factors_V[rows_U][:, None]
    torch.testing.assert_close((part[0] - before_VE)[rows_U], expected_UE, atol=1e-6, rtol=1e-5)
    assert torch.equal(whole[1], part[1])


@needs_kernel
@pytest.mark.parametrize("case", ["beyond", "below", "gradient", "moment", "factors"])
def test_mismatched_shapes_are_refused(case: str) -> None:
    """The kernel would write out of bounds."""
    tables = list(make_tables(20))
    if case == "moment":
        tables[2] = tables[2][:8]
    rows_U = torch.tensor([3, {"beyond": 9, "below": -1}.get(case, 8)])
    gradient_UE = torch.randn(2, 19 if case == "gradient" else 20)
    factors_V = torch.ones(8) if case == "factors" else None
    before = [of.clone() for of in tables]
    with pytest.raises(ValueError, match="do not match"):
        rows.adamw((tables[0], tables[1], tables[2]), rows_U, gradient_UE, factors_V, step=1, **RATES)  # type: ignore[arg-type]
    assert all(torch.equal(*pair) for pair in zip(before, tables, strict=True))


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
def test_the_optimizer_is_equal_without_the_kernel(
    factors: bool, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for here in (True, False):
        if not here:
            monkeypatch.setattr("lstm_sentiment.kernels.library.library", lambda *_: None)
        torch.manual_seed(4)
        table = nn.Embedding(9, 20, sparse=sparse)
        group = {"params": [table.weight], "lazy": True, "weight_decay": 0.2}
        if factors:
            group["row_factors"] = torch.linspace(0, 2, 9)
        optimizer = LazyAdamW([group], lr=0.1, betas=(0.9, 0.99), fused=True)
        for step in range(4):
            (table(torch.tensor([[step, 3, 3], [8, 1, 0]])) ** 2).sum().backward()
            optimizer.step()
        found.append((table.weight.detach(), *optimizer.state[table.weight].values()))
    for with_it, without in zip(*found, strict=True):
        torch.testing.assert_close(with_it, without, atol=1e-6, rtol=1e-5)


@needs_kernel
def test_a_graph_detects_that_the_table_changed() -> None:
    table = nn.Parameter(make_tables(4)[0])
    loss = table.square().sum()
    tables = (table.detach(), torch.zeros(9, 4), torch.zeros(9, 4))
    rows.adamw(tables, torch.tensor([1]), torch.ones(1, 4), step=1, **RATES)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
