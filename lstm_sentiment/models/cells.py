"""The recurrent cell: all that the package knows about the inside of an LSTM.

`SentimentLSTM.cell` is the network's cell. For another one, add a `Cell` here, name it there, and set the
number of matrices that PyTorch stacks in its weights in `config.network_shapes`.

Legend: T steps, B texts, N tokens of one text, R distinct inputs, X inputs of a layer, H hidden size,
G gates.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lstm_sentiment.config.network_shapes import GATES
from lstm_sentiment.kernels import lstm as kernel
from lstm_sentiment.models.reversal import reversal, reversed_texts


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What a cell computes at each step of a text, (N, H) each, in reading order.

    Args:
        gates: gate activations by name, 0 to 1.
        written: added to the memory by the step.
        keep: factor of the memory before the step; 1 keeps all.
        memory: after the step: keep · memory before + written.
        hidden: output of the step.
    """

    gates: dict[str, Tensor]
    written: Tensor
    keep: Tensor
    memory: Tensor
    hidden: Tensor

    def reversed(self) -> Steps:
        """Return the steps in the opposite order."""
        gates = {name: values.flip(0) for name, values in self.gates.items()}
        others = {name: values.flip(0) for name, values in vars(self).items() if name != "gates"}
        return Steps(gates=gates, **others)


class Cell(abc.ABC):
    """A kind of recurrent layer, with one layer and one direction per module."""

    module: ClassVar[type[nn.LSTM] | type[nn.GRU]]  # called with sizes of inputs and states
    operator: ClassVar[str]  # of ONNX
    onnx_gates: ClassVar[Sequence[int]]  # PyTorch's gates in the order of the ONNX operator
    onnx_attributes: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    onnx_states: ClassVar[Sequence[str]] = ("hidden",)  # the operator's outputs after the first one

    @abc.abstractmethod
    def initialise(self, layer: nn.RNNBase) -> None:
        """Set the initial weights of a layer."""

    def read(self, values_TBX: Tensor, lengths_B: Tensor, layers: Sequence[Any]) -> list[Tensor]:
        """Return the hidden states (T, B, H) of one or two directions, each in the order it reads in.

        Args:
            values_TBX: inputs of both directions.
            lengths_B: tokens of each text.
            layers: modules; the second one reads each text from its end.
        """
        orders = [values_TBX]
        if len(layers) > 1:
            orders.append(reversed_texts(values_TBX, reversal(len(values_TBX), lengths_B)))
        return [layer(order_TBX)[0] for layer, order_TBX in zip(layers, orders, strict=True)]

    def reads_rows(self, values_RX: Tensor, layers: Sequence[Any]) -> bool:  # noqa: ARG002
        """Whether `read_rows` saves work for these inputs and layers."""
        return False

    def read_rows(
        self, values_RX: Tensor, places_TB: Tensor, lengths_B: Tensor, layers: Sequence[Any]
    ) -> list[Tensor]:
        """Return the states of `read` for tokens whose inputs are rows of a table, without gradients.

        Args:
            values_RX: distinct inputs.
            places_TB: row of each token.
            lengths_B: tokens of each text.
            layers: as of `read`.
        """
        return self.read(values_RX[places_TB], lengths_B, layers)

    def read_on(self, values_TX: Tensor, state: Any, layer: Any) -> tuple[Tensor, Any]:
        """Read the next tokens of one text; the states do not depend on how it is cut.

        Args:
            values_TX: inputs of the next tokens, at least one.
            state: of the layer before them, from the last call; None at the start of a text.
            layer: reads forward.

        Returns:
            the hidden states (T, H), and the state of the layer.
        """
        states = []
        for value_X in values_TX:  # more tokens at once would be summed in another order
            read_11H, state = layer(value_X[None, None], state)
            states.append(read_11H[0])
        return torch.cat(states), state

    @abc.abstractmethod
    def steps(self, layer: Any, inputs_NX: Tensor) -> Steps:
        """Compute a layer step by step, with its gates; slow.

        Args:
            layer: its weights.
            inputs_NX: inputs in reading order; N is at least 1.
        """


class LSTM(Cell):
    """Long short-term memory.

    With the memory c and the output h of the step before, and σ the logistic function:
    input, forget, output = σ(W x + U h + b), one W, U, b each; candidate = tanh(W x + U h + b);
    c ← forget · c + input · candidate; h ← output · tanh(c) (Hochreiter and Schmidhuber 1997;
    the forget gate is by Gers et al. 2000, "Learning to forget").

    PyTorch stacks the weights in the order input, forget, candidate, output. On a CPU a compiled kernel
    computes both directions where it is available (see `kernels.lstm`).

    Args:
        precision: format of the kernel's products, fp32 or bf16; where autocasting is enabled, its format.

    >>> layer, inputs_NX = nn.LSTM(3, 5), torch.randn(4, 3)
    >>> torch.allclose(LSTM().steps(layer, inputs_NX).hidden, layer(inputs_NX)[0], atol=1e-6)
    True
    """

    module = nn.LSTM
    operator = "LSTM"
    onnx_gates = (0, 3, 1, 2)
    onnx_states = ("hidden", "cell")

    def __init__(self, precision: str = "fp32") -> None:
        self.precision = precision

    def initialise(self, layer: nn.RNNBase) -> None:
        """Set orthogonal recurrent, Xavier input weights and zero biases, with open forget gates."""
        for name, parameter in layer.named_parameters():
            if "weight_hh" in name:
                for gate in parameter.chunk(GATES):
                    nn.init.orthogonal_(gate)
            elif "weight_ih" in name:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
                if "bias_ih" in name:  # forget gate open at first (Jozefowicz et al. 2015)
                    nn.init.ones_(parameter.chunk(GATES)[1])

    def read(self, values_TBX: Tensor, lengths_B: Tensor, layers: Sequence[Any]) -> list[Tensor]:
        """Return the hidden states as `Cell.read`, by the compiled kernel where it applies."""
        if kernel.applies(values_TBX, layers, self.precision):
            return kernel.read(values_TBX, lengths_B, layers, self.precision)
        return super().read(values_TBX, lengths_B, layers)

    def reads_rows(self, values_RX: Tensor, layers: Sequence[Any]) -> bool:
        """Whether the compiled kernel applies, which computes a row's products once."""
        return kernel.applies(values_RX, layers, self.precision)

    def read_rows(
        self, values_RX: Tensor, places_TB: Tensor, lengths_B: Tensor, layers: Sequence[Any]
    ) -> list[Tensor]:
        """Return the states as `Cell.read_rows`, bit for bit those of `read`."""
        if kernel.applies(values_RX, layers, self.precision):
            return kernel.read_rows(values_RX, places_TB, lengths_B, layers, self.precision)
        return super().read_rows(values_RX, places_TB, lengths_B, layers)

    def read_on(self, values_TX: Tensor, state: Any, layer: Any) -> tuple[Tensor, Any]:
        """Read the next tokens as `Cell.read_on`, by the compiled kernel where it applies."""
        if kernel.applies_to_rest(values_TX, layer, self.precision):
            return kernel.read_on(values_TX, state, layer, self.precision)
        return super().read_on(values_TX, state, layer)

    def steps(self, layer: Any, inputs_NX: Tensor) -> Steps:
        """Compute the gates and states of each step, as `Cell.steps`."""
        hidden_H = memory_H = torch.zeros(layer.hidden_size)
        steps = []
        for input_X in inputs_NX:
            stacked = layer.weight_ih_l0 @ input_X + layer.weight_hh_l0 @ hidden_H
            i, f, g, o = (stacked + layer.bias_ih_l0 + layer.bias_hh_l0).chunk(GATES)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            memory_H = f * memory_H + i * g
            hidden_H = o * memory_H.tanh()
            steps.append((i, f, o, i * g, memory_H, hidden_H))
        i, f, o, written, memory, hidden = (torch.stack(values) for values in zip(*steps, strict=True))
        gates = {"input": i, "forget": f, "output": o}
        return Steps(gates=gates, written=written, keep=f, memory=memory, hidden=hidden)
