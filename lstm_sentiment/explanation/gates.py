"""Gate activations of an LSTM at each token of a text, and each token's share in pooling.

`nn.LSTM` does not return its gates: they are recomputed step by step from its weights, slowly.

Legend: N tokens of the text, X inputs of a layer, H hidden size, F = directions · H, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.pooling import pooling_of

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """An LSTM's gates and states at each step, (N, H) each, in reading order.

    With the memory c and the output h of the step before, and σ the logistic function:
    input, forget, output = σ(W x + U h + b), one W, U, b each; candidate = tanh(W x + U h + b);
    c ← forget · c + input · candidate; h ← output · tanh(c) (Hochreiter and Schmidhuber 1997;
    the forget gate is by Gers et al. 2000, "Learning to forget").

    Args:
        input: input gate, 0 to 1.
        forget: forget gate; 1 keeps all.
        candidate: candidate cell state, -1 to 1.
        output: output gate.
        cell: memory c after the step.
        hidden: output h after the step, as `nn.LSTM` returns it.
    """

    input: Tensor
    forget: Tensor
    candidate: Tensor
    output: Tensor
    cell: Tensor
    hidden: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class GateTrace:
    """Gate activity of one direction of one layer at each token, (N,) each, in text order.

    Args:
        layer: from 1.
        direction: forward or backward.
        input: mean input gate over the H units, 0 to 1.
        forget: mean forget gate; 1 keeps all.
        output: mean output gate.
        let_in: mean of |input · candidate|: how much the token wrote into memory, 0 to 1 per unit.
        kept: Σ|forget · c| / Σ|c| over the units of the previous memory c: the share that was kept; 1 at the
            first token read.
        shown: mean |h|: output after the token, 0 to 1.
    """

    layer: int
    direction: str
    input: Array
    forget: Array
    output: Array
    let_in: Array
    kept: Array
    shown: Array


def steps_of(lstm: nn.LSTM, inputs_NX: Tensor) -> Steps:
    """Compute each step of a one-layer, one-direction LSTM.

    Args:
        lstm: its weights; PyTorch stacks those of the gates in the order i, f, g, o.
        inputs_NX: inputs in reading order; N is at least 1.

    >>> lstm, inputs_NX = nn.LSTM(3, 5), torch.randn(4, 3)
    >>> torch.allclose(steps_of(lstm, inputs_NX).hidden, lstm(inputs_NX)[0], atol=1e-6)
    True
    """
    assert isinstance(lstm.weight_hh_l0, Tensor)
    hidden_H = cell_H = torch.zeros(lstm.hidden_size)
    steps = []
    for input_X in inputs_NX:
        stacked = lstm.weight_ih_l0 @ input_X + lstm.weight_hh_l0 @ hidden_H
        i, f, g, o = (stacked + lstm.bias_ih_l0 + lstm.bias_hh_l0).chunk(4)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        cell_H = f * cell_H + i * g
        hidden_H = o * cell_H.tanh()
        steps.append((i, f, g, o, cell_H, hidden_H))
    names = ("input", "forget", "candidate", "output", "cell", "hidden")
    stacks = (torch.stack(values) for values in zip(*steps, strict=True))
    return Steps(**dict(zip(names, stacks, strict=True)))


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
        assert isinstance(forward, nn.LSTM)
        of_layer = [steps_of(forward, states_NF)]
        traces.append(_trace(layer + 1, "forward", of_layer[0]))
        if len(model.backward_lstms):
            backward = model.backward_lstms[layer]
            assert isinstance(backward, nn.LSTM)
            of_layer.append(_turned(steps_of(backward, states_NF.flip(0))))
            traces.append(_trace(layer + 1, "backward", of_layer[1]))
        states_NF = torch.cat([steps.hidden for steps in of_layer], dim=1)
    reading_back = states_NF.shape[1] // 2 if len(model.backward_lstms) else 0
    return traces, {
        kind: pooling_of(kind).token_shares(states_NF, backward=reading_back, attention=model.attention)
        for kind in model.pooling
    }


def _turned(steps: Steps) -> Steps:
    """Return the steps of a backward LSTM in text order."""
    return Steps(**{name: values.flip(0) for name, values in vars(steps).items()})


def _trace(layer: int, direction: str, steps: Steps) -> GateTrace:
    after = steps.cell.abs()
    none = torch.zeros_like(after[:1])
    before = torch.cat([none, after[:-1]] if direction == "forward" else [after[1:], none])
    met_N = before.sum(dim=1)
    kept_N = torch.where(met_N > 0, (steps.forget * before).sum(dim=1) / met_N, 1.0)
    values = {
        "input": steps.input.mean(dim=1),
        "forget": steps.forget.mean(dim=1),
        "output": steps.output.mean(dim=1),
        "let_in": (steps.input * steps.candidate).abs().mean(dim=1),
        "kept": kept_N,
        "shown": steps.hidden.abs().mean(dim=1),
    }
    as_arrays = {name: value.double().numpy() for name, value in values.items()}
    return GateTrace(layer=layer, direction=direction, **as_arrays)
