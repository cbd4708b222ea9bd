"""Gate activations of an LSTM at each token of a text, and each token's share in pooling.

`nn.LSTM` does not return its gates: they are recomputed step by step (see `models.cells`).

Legend: N tokens of the text, H hidden size, F = directions · H, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from lstm_sentiment.models.cells import Steps
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.pooling import pooling_of

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class GateTrace:
    """Gate activity of one direction of one layer at each token, (N,) each, in text order.

    Args:
        layer: from 1.
        direction: forward or backward.
        gates: mean of each gate over the H units, 0 to 1; an LSTM has input, forget (1 keeps all) and output.
        let_in: mean of |input · candidate|: how much the token wrote into memory, 0 to 1 per unit.
        kept: Σ|forget · c| / Σ|c| over the units of the previous memory c: the share that was kept; 1 at the
            first token read.
        shown: mean |h|: output after the token, 0 to 1.
    """

    layer: int
    direction: str
    gates: dict[str, Array]
    let_in: Array
    kept: Array
    shown: Array


@torch.no_grad()
def look_inside(model: SentimentLSTM, vectors_NE: Tensor) -> tuple[list[GateTrace], dict[str, Array]]:
    """Return the gate traces and pooling shares of one text.

    Args:
        model: on the CPU.
        vectors_NE: the text's tokens, at least one, as `SentimentLSTM.look_up` gives them.

    Returns:
        a trace per layer and direction, in the order of reading; for each kind of pooling the share
        (N,) that each token's states had in it (see `Pooling.token_shares`).

    >>> model = SentimentLSTM(9, 2, embedding_size=4, hidden_size=4, pooling="mean+max").eval()
    >>> traces, shares = look_inside(model, model.look_up(torch.tensor([[3], [4]]), None)[:, 0])
    >>> [(trace.layer, trace.direction) for trace in traces], shares["mean"].tolist()
    ([(1, 'forward'), (1, 'backward')], [0.5, 0.5])
    """
    traces, states_NF = [], vectors_NE
    for layer, forward in enumerate(model.forward_lstms):
        of_layer = [model.cell.steps(forward, states_NF)]
        traces.append(_trace(layer + 1, "forward", of_layer[0]))
        if len(model.backward_lstms):
            of_layer.append(model.cell.steps(model.backward_lstms[layer], states_NF.flip(0)).reversed())
            traces.append(_trace(layer + 1, "backward", of_layer[1]))
        states_NF = torch.cat([steps.hidden for steps in of_layer], dim=1)
    reading_back = states_NF.shape[1] // 2 if len(model.backward_lstms) else 0
    return traces, {
        kind: pooling_of(kind).token_shares(states_NF, backward=reading_back, attention=model.attention)
        for kind in model.pooling
    }


def _trace(layer: int, direction: str, steps: Steps) -> GateTrace:
    after = steps.memory.abs()
    none = torch.zeros_like(after[:1])
    before = torch.cat([none, after[:-1]] if direction == "forward" else [after[1:], none])
    met_N = before.sum(dim=1)
    return GateTrace(
        layer=layer,
        direction=direction,
        gates={name: _numbers(values.mean(dim=1)) for name, values in steps.gates.items()},
        let_in=_numbers(steps.written.abs().mean(dim=1)),
        kept=_numbers(torch.where(met_N > 0, (steps.keep * before).sum(dim=1) / met_N, 1.0)),
        shown=_numbers(steps.hidden.abs().mean(dim=1)),
    )


def _numbers(values_N: Tensor) -> Array:
    numbers_N: Array = values_N.double().numpy()
    return numbers_N
