"""AdamW with lazy updates of embedding rows, and its state as named tensors.

Legend: V rows of an embedding, U those that a step's texts hold, E its size.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as fused_adamw

from lstm_sentiment.kernels import adamw as rows
from lstm_sentiment.models.layers import layer_depths


class LazyAdamW(torch.optim.AdamW):
    """AdamW with lazy (sparse) updates for embedding rows.

    A step uses some hundred words of a vocabulary of many thousands. AdamW would read and write all rows and
    their two moments; this updates only rows with a gradient. A row's moments and weight decay are not
    applied between its steps, as in `torch.optim.SparseAdam`. A group with ``lazy`` True holds embeddings;
    its gradients may be sparse or dense, with the same result. A group's ``factor`` multiplies the learning
    rate (see `set_learning_rate`), its ``row_factors`` (V,) that of each row.

    >>> table = nn.Parameter(torch.ones(3, 2))
    >>> table.grad = torch.tensor([[0.0, 0.0], [5.0, 5.0], [0.0, 0.0]])
    >>> LazyAdamW([{"params": [table], "lazy": True}], lr=0.1, weight_decay=0.0).step()
    >>> table.detach()[:, 0]
    tensor([1.0000, 0.9000, 1.0000])
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters, unless a gradient scaler found infinity; gradients are cleared."""
        loss = torch.enable_grad()(closure)() if closure is not None else None
        found_inf = getattr(self, "found_inf", None)
        skipped = found_inf is not None and bool(found_inf.item())
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group.get("lazy") and not skipped:
                for table_VE in moved:
                    self._update_rows(table_VE, group)
            elif moved and not skipped:
                gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
                _update(moved, gradients, [self._state_of(parameter) for parameter in moved], group)
            for parameter in moved:
                parameter.grad = None
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, without PyTorch's decorator of this method.

        It imports PyTorch's compiler, which nothing here uses: 75 MB, and as slow as `import torch`.
        """
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def set_learning_rate(self, rate: float) -> None:
        """Set every group's rate: `rate` times the group's factor."""
        for group in self.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)

    def _update_rows(self, table_VE: nn.Parameter, group: dict[str, Any]) -> None:
        """Gather the rows with a gradient, update them, and scatter them back."""
        assert table_VE.grad is not None
        rows_U, gradient_UE = _touched_rows(table_VE.grad)
        state = self._state_of(table_VE)
        tables = (table_VE, state["exp_avg"], state["exp_avg_sq"])
        factors_V = group.get("row_factors")
        if rows.applies(table_VE, gradient_UE):
            state["step"] += 1
            rows.adamw(
                tables,
                rows_U,
                gradient_UE,
                factors_V,
                learning_rate=group["lr"],
                betas=group["betas"],
                epsilon=group["eps"],
                weight_decay=group["weight_decay"],
                step=float(state["step"]),
            )
            return
        values_UE, mean_UE, square_UE = (of_all_VE.index_select(0, rows_U) for of_all_VE in tables)
        before_UE = values_UE.clone() if factors_V is not None else values_UE
        moments = {"exp_avg": mean_UE, "exp_avg_sq": square_UE, "step": state["step"]}
        _update([values_UE], [gradient_UE], [moments], group)
        if factors_V is not None:
            values_UE = before_UE.lerp_(values_UE, factors_V.index_select(0, rows_U)[:, None])
        for of_all_VE, of_rows_UE in zip(tables, (values_UE, mean_UE, square_UE), strict=True):
            of_all_VE.index_copy_(0, rows_U, of_rows_UE)

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


def adamw(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    embedding_factor: float = 1.0,
    layer_decay: float = 1.0,
) -> LazyAdamW:
    """Return AdamW over a model's trainable parameters, with weight decay for matrices only.

    The ``rate`` of an embedding is its learning rate relative to `learning_rate`; ``row_rates`` (V,) are
    relative rates of its rows.

    On the CPU the model's embeddings get sparse gradients. (On other devices not: not all support them, nor
    can all be exchanged between processes, and memory is faster there.)

    Args:
        model: already on its device.
        learning_rate: of all parameters but embeddings.
        weight_decay: of matrices.
        embedding_factor: learning rate of embeddings relative to `learning_rate`.
        layer_decay: factor of the learning rate per layer below the head.
    """
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
    for module in embeddings:
        module.sparse = module.weight.device.type == "cpu"
    tables = {id(module.weight): module for module in embeddings}
    depths = layer_depths(model)
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}  # by the settings of a group
    rated: list[dict[str, Any]] = []  # tables with their own rates
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        table = tables.get(id(parameter))
        rate, row_rates = getattr(table, "rate", None), getattr(table, "row_rates", None)
        if rate is not None:
            row_factors = None if row_rates is None else row_rates.to(parameter.device)
            own = {"lazy": True, "weight_decay": weight_decay, "factor": rate, "row_factors": row_factors}
            rated.append({"params": [parameter], **own})
            continue
        factor = layer_decay ** depths[name] * (1.0 if table is None else embedding_factor)
        groups.setdefault((table is not None, parameter.dim() > 1, factor), []).append(parameter)
    optimizer = LazyAdamW(
        [
            {"params": alike, "lazy": lazy, "weight_decay": weight_decay if decays else 0.0, "factor": factor}
            for (lazy, decays, factor), alike in groups.items()
        ]
        + rated,
        lr=learning_rate,
        betas=(0.9, 0.99),
        fused=True,
    )
    optimizer.set_learning_rate(learning_rate)
    return optimizer


def clip(model: nn.Module, longest: float) -> float:
    """Clip the global gradient norm to `longest`; return the norm before clipping."""
    gradients = []
    for parameter in model.parameters():
        if parameter.grad is not None:
            if parameter.grad.is_sparse:
                parameter.grad = _coalesced(parameter.grad)
                gradients.append(parameter.grad.values())
            else:
                gradients.append(parameter.grad)
    norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(of) for of in gradients])))
    if norm > longest:  # skips a multiplication by 1
        for gradient in gradients:
            gradient.mul_(longest / (norm + 1e-6))
    return norm


def _update(
    parameters: Sequence[Tensor],
    gradients: list[Tensor],
    states: list[dict[str, Tensor]],
    group: dict[str, Any],
) -> None:
    """Fused AdamW update, without the half a millisecond of overhead of `torch.optim.AdamW.step`."""
    fused_adamw(
        list(parameters),
        gradients,
        [state["exp_avg"] for state in states],
        [state["exp_avg_sq"] for state in states],
        [],
        [state["step"] for state in states],
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        fused=True,
        amsgrad=False,
        maximize=False,
    )


def _touched_rows(gradient_VE: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a sparse gradient, or the non-zero rows of a dense one: (U,) and (U, E)."""
    if gradient_VE.is_sparse:
        gradient_VE = _coalesced(gradient_VE)
        return gradient_VE.indices()[0], gradient_VE.values()
    rows_U = (gradient_VE != 0).any(dim=1).nonzero()[:, 0]
    return rows_U, gradient_VE[rows_U]


def _coalesced(gradient_VE: Tensor) -> Tensor:
    """Return a sparse gradient with every row once, in ascending order.

    Those of the compiled kernel are, but autograd forgets it when it stores them.
    """
    if gradient_VE.is_coalesced():
        return gradient_VE
    rows_1U = gradient_VE._indices()
    if not bool((rows_1U[0, 1:] > rows_1U[0, :-1]).all()):
        return gradient_VE.coalesce()
    return torch.sparse_coo_tensor(
        rows_1U, gradient_VE._values(), gradient_VE.shape, is_coalesced=True, check_invariants=False
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as ``<kind>.<parameter>`` -> tensor."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{kind}.{names[id(parameter)]}": value
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore the optimizer's state from `optimizer_tensors`."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        parameter = parameters[name]
        optimizer.state[parameter][kind] = value.to(parameter.device)
