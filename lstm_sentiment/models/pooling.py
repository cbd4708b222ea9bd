"""The kinds of pooling: how the states of a text's tokens become one vector.

A kind is a `Pooling` in `POOLINGS`: what it computes, what each token contributes to it, and how it is
written as ONNX nodes. `config.sections` lists its name, since settings are checked without PyTorch.

Legend: B texts, T padded length, N tokens of one text, H hidden size, D directions, F = D·H features.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.models.reversal import by_place, is_full, reversal

Array = npt.NDArray[Any]
Sums = tuple[Tensor, ...]

FLOAT = 1  # onnx.TensorProto.FLOAT
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, kw_only=True)
class States:
    """The last layer's states of a batch.

    Args:
        read: states (T, B, H) of each direction, in the order it reads in.
        lengths_B: number of tokens of each text, at least 1.
        attention: F -> 1, the scores of attention; None where it is not used.
        training: whether gradients flow through what is pooled.
    """

    read: list[Tensor]
    lengths_B: Tensor
    attention: nn.Linear | None
    training: bool

    @cached_property
    def real(self) -> Tensor:
        """Which places (T, B) are tokens, not padding."""
        steps = len(self.read[0])
        return torch.arange(steps, device=self.lengths_B.device)[:, None] < self.lengths_B

    @property
    def unpadded(self) -> bool:
        """Whether there is no padding and no gradient, so that plain reductions do."""
        return not self.training and is_full(len(self.read[0]), self.lengths_B)


class Graph(Protocol):
    """A graph of ONNX nodes that is being written (see `deployment.onnx_graph`)."""

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its result."""

    def constant(self, name: str, value: Any) -> str:
        """Keep a value and return its name."""

    def numbers(self, *values: int) -> str:
        """Keep whole numbers as a vector and return its name."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Names of results in a `Graph`: states (T, B, F) by place, the last ones (B, F), tokens (T, B, 1)."""

    states_TBF: str
    last_BF: str
    real_TB1: str


class Pooling(abc.ABC):
    """One kind of pooling."""

    @abc.abstractmethod
    def pool(self, states: States) -> Tensor:
        """Return one vector (B, F) per text; padding has no influence on it."""

    @abc.abstractmethod
    def add(self, sums: Sums | None, states_TF: Tensor, attention: nn.Linear | None) -> Sums:
        """Return what pooling keeps of the tokens so far, after the next ones of a text that comes in pieces.

        Args:
            sums: of the tokens before, which stay as they are; None at the start of a text.
            states_TF: of the next tokens, at least one.
            attention: as in `States`.
        """

    def result(self, sums: Sums, count: int) -> Tensor:  # noqa: ARG002
        """Return the pooled vector (F,) of `count` tokens."""
        return sums[0]

    @abc.abstractmethod
    def token_shares(self, states_NF: Tensor, *, backward: int, attention: nn.Linear | None) -> Array:
        """Return each token's share (N,) in the pooled vector of one text; shares sum to 1.

        It is the share of the F features whose value is taken from the token's states (max, last), or the
        weight of its states (mean, attention).

        Args:
            states_NF: the text's states by place.
            backward: how many of the F features read backwards.
            attention: as in `States`.
        """

    def onnx_starts(self, features: int) -> list[Array]:
        """Return what `onnx_add` gets at the start of a text, (1, any) each."""
        return [np.zeros((1, features), np.float32)]

    @abc.abstractmethod
    def onnx_add(
        self, graph: Graph, sums: list[str], state_1F: str, attention: nn.Linear | None
    ) -> list[str]:
        """Add nodes for the next token of a text that comes in pieces, like `add`.

        Args:
            graph: of one token.
            sums: names of what is kept of the tokens before, as many as `onnx_starts`.
            state_1F: name of the token's state.
            attention: as in `States`.
        """

    def onnx_result(self, graph: Graph, sums: list[str], count_11: str) -> str:  # noqa: ARG002
        """Add nodes for the pooled vector (1, F) of the tokens so far, like `result`."""
        return sums[0]

    @abc.abstractmethod
    def onnx(self, graph: Graph, nodes: Nodes, attention: nn.Linear | None) -> str:
        """Add nodes to a graph and return the name of the pooled vectors (B, F)."""


class _Last(Pooling):
    """The state where each direction stops reading, as in `h_n` of `nn.LSTM`."""

    def pool(self, states: States) -> Tensor:
        place_1B1 = (states.lengths_B - 1)[None, :, None]
        pooled = [of.gather(0, place_1B1.expand(1, *of.shape[1:]))[0] for of in states.read]
        return torch.cat(pooled, dim=1)

    def add(self, sums: Sums | None, states_TF: Tensor, attention: nn.Linear | None) -> Sums:  # noqa: ARG002
        return (states_TF[-1],)

    def token_shares(self, states_NF: Tensor, *, backward: int, attention: nn.Linear | None) -> Array:  # noqa: ARG002
        tokens, features = states_NF.shape
        return _shares_of(np.repeat([tokens - 1, 0], [features - backward, backward]), states_NF)

    def onnx(self, graph: Graph, nodes: Nodes, attention: nn.Linear | None) -> str:  # noqa: ARG002
        return nodes.last_BF

    def onnx_add(self, graph: Graph, sums: list[str], state_1F: str, _: nn.Linear | None) -> list[str]:  # noqa: ARG002
        return [graph.add("Identity", state_1F)]


class _Mean(Pooling):
    """The mean of a text's states."""

    def pool(self, states: States) -> Tensor:
        if states.unpadded:
            return torch.cat([of.mean(dim=0) for of in states.read], dim=1)
        shares_TB1 = (states.real / states.lengths_B)[:, :, None]
        return torch.cat([(of * shares_TB1).sum(dim=0) for of in states.read], dim=1)

    def add(self, sums: Sums | None, states_TF: Tensor, attention: nn.Linear | None) -> Sums:  # noqa: ARG002
        sum_F, *others = states_TF if sums is None else (sums[0], *states_TF)
        for state_F in others:  # in this order, as the compiled kernel does
            sum_F = sum_F + state_F
        return (sum_F,)

    def result(self, sums: Sums, count: int) -> Tensor:
        return sums[0] / torch.tensor(count, dtype=sums[0].dtype, device=sums[0].device)

    def token_shares(self, states_NF: Tensor, *, backward: int, attention: nn.Linear | None) -> Array:  # noqa: ARG002
        return np.full(len(states_NF), 1 / len(states_NF))

    def onnx(self, graph: Graph, nodes: Nodes, attention: nn.Linear | None) -> str:  # noqa: ARG002
        zero = graph.constant("nought", np.float32(0))
        sum_BF = graph.add(
            "ReduceSum",
            graph.add("Where", nodes.real_TB1, nodes.states_TBF, zero),
            graph.numbers(0),
            keepdims=0,
        )
        lengths_B1 = graph.add("Unsqueeze", graph.add("Cast", "lengths", to=FLOAT), graph.numbers(1))
        return graph.add("Div", sum_BF, lengths_B1)

    def onnx_add(self, graph: Graph, sums: list[str], state_1F: str, _: nn.Linear | None) -> list[str]:
        return [graph.add("Add", sums[0], state_1F)]

    def onnx_result(self, graph: Graph, sums: list[str], count_11: str) -> str:
        return graph.add("Div", sums[0], count_11)


class _Max(Pooling):
    """The largest value of each feature over a text's states."""

    def pool(self, states: States) -> Tensor:
        if states.unpadded:
            return torch.cat([of.amax(dim=0) for of in states.read], dim=1)
        pooled = [MaxOverTime.apply(of, states.real) for of in states.read]  # type: ignore[no-untyped-call]
        return torch.cat(pooled, dim=1)

    def add(self, sums: Sums | None, states_TF: Tensor, attention: nn.Linear | None) -> Sums:  # noqa: ARG002
        largest_F = states_TF.amax(dim=0)
        return (largest_F if sums is None else torch.maximum(sums[0], largest_F),)

    def token_shares(self, states_NF: Tensor, *, backward: int, attention: nn.Linear | None) -> Array:  # noqa: ARG002
        return _shares_of(states_NF.argmax(dim=0).numpy(), states_NF)

    def onnx(self, graph: Graph, nodes: Nodes, attention: nn.Linear | None) -> str:  # noqa: ARG002
        lowest = graph.constant("lowest", np.float32(-np.inf))
        masked_TBF = graph.add("Where", nodes.real_TB1, nodes.states_TBF, lowest)
        return graph.add("ReduceMax", masked_TBF, axes=[0], keepdims=0)

    def onnx_starts(self, features: int) -> list[Array]:
        return [np.full((1, features), LOWEST, np.float32)]

    def onnx_add(self, graph: Graph, sums: list[str], state_1F: str, _: nn.Linear | None) -> list[str]:
        return [graph.add("Max", sums[0], state_1F)]


class _Attention(Pooling):
    """The mean of a text's states, weighted by the softmax of a learned score of each."""

    def pool(self, states: States) -> Tensor:
        assert states.attention is not None
        states_TBF = by_place(states.read, reversal(len(states.read[0]), states.lengths_B))
        scores_TB: Tensor = states.attention(states_TBF).squeeze(2)
        shares_TB = scores_TB.masked_fill(~states.real, -torch.inf).softmax(dim=0)
        return (states_TBF * shares_TB[:, :, None]).sum(dim=0)

    def add(self, sums: Sums | None, states_TF: Tensor, attention: nn.Linear | None) -> Sums:
        """Keep the largest score, and relative to it the sums of weights and of weighted states."""
        assert attention is not None
        for state_F in states_TF:  # token by token: the same bits however a text is cut
            score = attention(state_F[None])[0, 0]
            if sums is None:
                sums = (score, torch.ones_like(score), state_F)
                continue
            largest, weights, weighted_F = sums
            now = torch.maximum(largest, score)
            before, here = (largest - now).exp(), (score - now).exp()
            sums = now, weights * before + here, weighted_F * before + state_F * here
        assert sums is not None, "at least one token"
        return sums

    def result(self, sums: Sums, count: int) -> Tensor:  # noqa: ARG002
        return sums[2] / sums[1]

    def token_shares(self, states_NF: Tensor, *, backward: int, attention: nn.Linear | None) -> Array:  # noqa: ARG002
        assert attention is not None
        shares_N: Array = attention(states_NF)[:, 0].softmax(dim=0).double().numpy()
        return shares_N

    def onnx(self, graph: Graph, nodes: Nodes, attention: nn.Linear | None) -> str:
        assert attention is not None
        weights_F1 = graph.constant("attention", attention.weight.detach().cpu().float().numpy().T.copy())
        lowest = graph.constant("lowest", np.float32(-np.inf))
        scores_TB1 = graph.add("MatMul", nodes.states_TBF, weights_F1)
        shares_TB1 = graph.add("Softmax", graph.add("Where", nodes.real_TB1, scores_TB1, lowest), axis=0)
        weighted_TBF = graph.add("Mul", nodes.states_TBF, shares_TB1)
        return graph.add("ReduceSum", weighted_TBF, graph.numbers(0), keepdims=0)

    def onnx_starts(self, features: int) -> list[Array]:
        return [
            np.full((1, 1), LOWEST, np.float32),
            np.zeros((1, 1), np.float32),
            *super().onnx_starts(features),
        ]

    def onnx_add(
        self, graph: Graph, sums: list[str], state_1F: str, attention: nn.Linear | None
    ) -> list[str]:
        assert attention is not None
        weights_F1 = graph.constant("attention", attention.weight.detach().cpu().float().numpy().T.copy())
        score_11 = graph.add("MatMul", state_1F, weights_F1)
        largest_11, weights_11, weighted_1F = sums
        now_11 = graph.add("Max", largest_11, score_11)
        before_11 = graph.add("Exp", graph.add("Sub", largest_11, now_11))
        here_11 = graph.add("Exp", graph.add("Sub", score_11, now_11))
        return [
            now_11,
            graph.add("Add", graph.add("Mul", weights_11, before_11), here_11),
            graph.add("Add", graph.add("Mul", weighted_1F, before_11), graph.add("Mul", state_1F, here_11)),
        ]

    def onnx_result(self, graph: Graph, sums: list[str], count_11: str) -> str:  # noqa: ARG002
        return graph.add("Div", sums[2], sums[1])


POOLINGS: dict[str, Pooling] = {"last": _Last(), "mean": _Mean(), "max": _Max(), "attention": _Attention()}


def pooling_of(kind: str) -> Pooling:
    """Return a kind of pooling by its name.

    Raises:
        ConfigError: an unknown name.

    >>> states = States(read=[torch.tensor([[[1.0]], [[3.0]]])], lengths_B=torch.tensor([2]),
    ...                 attention=None, training=False)
    >>> pooling_of("mean").pool(states).tolist()
    [[2.0]]
    """
    if kind not in POOLINGS:
        raise ConfigError(f"'{kind}' is not one of {', '.join(POOLINGS)}", key="model.pooling")
    return POOLINGS[kind]


class MaxOverTime(torch.autograd.Function):
    """Largest real value over time, (T, B, F) -> (B, F), at a fifth of the price of `Tensor.max` on a CPU.

    There, numbers are compared and masked many times faster as floats than by way of booleans. Equal
    largest values share the gradient, as in `Tensor.amax`.
    """

    @staticmethod
    def forward(ctx: Any, states_TBF: Tensor, real_TB: Tensor) -> Tensor:
        """Return the largest values; `real_TB` says which places are tokens."""
        masked_TBF = states_TBF + torch.where(real_TB, 0.0, -torch.inf)[:, :, None]
        largest_BF = masked_TBF.amax(dim=0)
        ctx.save_for_backward(masked_TBF, largest_BF)
        return largest_BF

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradient of the states."""
        masked_TBF, largest_BF = ctx.saved_tensors
        here_TBF = torch.eq(masked_TBF, largest_BF, out=torch.empty_like(masked_TBF))
        return here_TBF.mul_(gradients[0] / here_TBF.sum(dim=0)), None


def _shares_of(picked_F: Array, states_NF: Tensor) -> Array:
    """Return the share (N,) of the features that come from each token, given the token of each feature."""
    tokens, features = states_NF.shape
    return np.bincount(picked_F, minlength=tokens) / features
