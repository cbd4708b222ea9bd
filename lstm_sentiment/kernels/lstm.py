"""LSTM layers on a CPU: a compiled kernel (see `library`).

`lstm.c` has the forward and backward pass. Both directions run in parallel, each on its own thread for all
steps; with more threads, each takes a part of the batch. The second direction reads each text from its end,
so that padding follows the text in both (see `models.lstm`).

In fp32 the result equals that of `nn.LSTM` up to float rounding. In bf16, inputs, states and weights are
rounded to bf16 for the products, and gates and their gradients for the backward pass; sums, states, cells
and the gradients of weights and inputs are fp32. Sums have a fixed order: a text's states are bit-identical
in any batch, at any position and with any number of threads, and so are a batch's gradients with any number
of threads. Padding has states of 0 and no gradient. Where the kernel is not available (not compiled, a CPU
without AVX2, or for bf16 without AVX512-BF16, a GPU, another dtype, a hidden size that is not a multiple of
16), `applies` is False, and `models.lstm` uses `nn.LSTM`.

Legend: T steps, B texts, X inputs of a token, H hidden size, D directions, R distinct inputs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lstm_sentiment.kernels.library import applies_to, call, fields, lstm_library

MOST_DIRECTIONS = 2
HIDDEN_MULTIPLE = 16  # columns of one product of the backward pass, COLUMNS in lstm.c
DEEP = 256  # units, one or two tokens, whose products a thread sums at a time, as there
FEW, FEW_TOKENS = (
    2,
    512,
)  # texts and padded tokens, up to which the products with inputs come before the steps
KEPT = {"fp32": torch.float32, "bf16": torch.bfloat16}  # formats of products, and what is kept of gates
WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class _Layer(ctypes.Structure):
    """The arguments of a pass, as in lstm.c."""

    _fields_ = fields(
        (ctypes.c_int64, "directions steps batch inputs hidden threads rows"),
        (ctypes.c_void_p, "lengths input_weights weights input_bias bias packed packed_gates"),
        (ctypes.c_void_p, "values places input_sums states cells"),
        (ctypes.c_void_p, "gates kept_cells state_gradients value_gradients"),
        (ctypes.c_void_p, "input_weight_gradients weight_gradients bias_gradients"),
        (ctypes.c_void_p, "short_values short_states"),
    )


def applies(values_TBX: Tensor, lstms: Sequence[nn.LSTM], precision: str = "fp32") -> bool:
    """Whether `read` can compute these layers on these values.

    >>> applies(torch.zeros(3, 2, 8), [nn.LSTM(8, 15)])
    False
    """
    return (
        all(isinstance(lstm, nn.LSTM) for lstm in lstms)
        and lstms[0].hidden_size % HIDDEN_MULTIPLE == 0
        and applies_to(values_TBX, *_weights(lstms))
        and lstm_library(_format(precision)) is not None
    )


def _format(precision: str) -> str:
    """Return the format of products: that of autocasting, if it is enabled."""
    if not torch.is_autocast_enabled("cpu"):
        return precision
    return "bf16" if torch.get_autocast_dtype("cpu") is torch.bfloat16 else "none"


def _weights(lstms: Sequence[nn.LSTM]) -> list[Tensor]:
    """Return the weights of each kind in `WEIGHTS`; `getattr` of modules takes ten times as long."""
    return [lstm._parameters[name] for name in WEIGHTS for lstm in lstms]  # type: ignore[misc]


def read(
    values_TBX: Tensor, lengths_B: Tensor, lstms: Sequence[nn.LSTM], precision: str = "fp32"
) -> list[Tensor]:
    """Return the hidden states (T, B, H) of each direction, in reading order; `applies` must be True.

    Args:
        values_TBX: inputs of both directions, float32.
        lengths_B: number of tokens of each text, at most T.
        lstms: one or two unidirectional layers of equal sizes; the second one reads backwards.
        precision: format of products, fp32 or bf16; where autocasting is enabled, its format.

    Raises:
        ValueError: the shapes do not match, a text is longer than T, or there are more layers.

    >>> lstms = [nn.LSTM(8, 16), nn.LSTM(8, 16)]
    >>> values_TBX, lengths_B = torch.randn(5, 1, 8), torch.tensor([5])
    >>> expected = [lstms[0](values_TBX)[0], lstms[1](values_TBX.flip(0))[0]]
    >>> found = read(values_TBX, lengths_B, lstms) if applies(values_TBX, lstms) else expected
    >>> all(torch.allclose(*pair, atol=1e-6) for pair in zip(found, expected))
    True
    """
    steps, batch, inputs = values_TBX.shape
    _check(steps, batch, inputs, lengths_B, lstms)
    weights, precision = _weights(lstms), _format(precision)
    arrays = {"values": values_TBX.contiguous(), "lengths": lengths_B.long().contiguous()}
    if torch.is_grad_enabled() and any(of.requires_grad for of in (values_TBX, *weights)):
        return list(_Recurrence.apply(precision, *arrays.values(), *weights))  # type: ignore[no-untyped-call]
    if (
        batch <= FEW and steps * batch <= FEW_TOKENS
    ):  # so that the input weights are read once, not at each step
        arrays["input_sums"] = values_TBX.new_empty(len(lstms), steps * batch, 4 * lstms[0].hidden_size)
    return _states(arrays, weights, steps, batch, precision)


@torch.no_grad()
def read_rows(
    values_RX: Tensor,
    places_TB: Tensor,
    lengths_B: Tensor,
    lstms: Sequence[nn.LSTM],
    precision: str = "fp32",
) -> list[Tensor]:
    """Return the hidden states of `read` for tokens whose inputs are rows of a table, without gradients.

    The products of a row with the input weights are computed once, however often it occurs: half of the work,
    if each occurs many times. The states are the same bits.

    Args:
        values_RX: distinct inputs, float32; `applies` must be True for them.
        places_TB: row of each token, int64; of padding any.
        lengths_B: number of tokens of each text, at most T.
        lstms: as of `read`.
        precision: likewise.

    Raises:
        ValueError: the shapes do not match, a row is out of range, a text is longer than T.

    >>> lstms, values_RX, lengths_B = [nn.LSTM(8, 16)], torch.randn(2, 8), torch.tensor([3])
    >>> places_TB = torch.tensor([[1], [0], [1]])
    >>> if applies(values_RX, lstms):
    ...     with torch.no_grad():
    ...         expected_TBH, = read(values_RX[places_TB], lengths_B, lstms)
    ...     assert torch.equal(read_rows(values_RX, places_TB, lengths_B, lstms)[0], expected_TBH)
    """
    (steps, batch), (rows, inputs) = places_TB.shape, values_RX.shape
    _check(steps, batch, inputs, lengths_B, lstms)
    if int(places_TB.min()) < 0 or int(places_TB.max()) >= rows:
        raise ValueError(f"places of {int(places_TB.min())} to {int(places_TB.max())} in {rows} rows")
    arrays = {
        "values": values_RX.contiguous(),
        "places": places_TB.long().contiguous(),
        "input_sums": values_RX.new_empty(len(lstms), rows, 4 * lstms[0].hidden_size),
        "lengths": lengths_B.long().contiguous(),
    }
    return _states(arrays, _weights(lstms), steps, batch, _format(precision))


def _states(
    arrays: dict[str, Tensor], weights: Sequence[Tensor], steps: int, batch: int, precision: str
) -> list[Tensor]:
    """Call the forward pass, and return the states (T, B, H) of each direction."""
    directions, size = len(weights) // len(WEIGHTS), weights[-1].shape[0] // 4
    states_DTBH = arrays["values"].new_empty(directions, steps, batch, size)
    _call("lstm_forward", {**arrays, "states": states_DTBH}, weights, precision)
    return list(states_DTBH.unbind())


def _check(steps: int, batch: int, inputs: int, lengths_B: Tensor, lstms: Sequence[nn.LSTM]) -> None:
    longest = max(lengths_B.tolist())
    sizes = {(lstm.input_size, lstm.hidden_size, lstm.num_layers) for lstm in lstms}
    fit = sizes == {(inputs, lstms[0].hidden_size, 1)} and len(lstms) <= MOST_DIRECTIONS
    if not fit or len(lengths_B) != batch or longest > steps:
        raise ValueError(
            f"values {(steps, batch, inputs)}, {len(lengths_B)} texts of up to {longest} tokens and "
            f"{len(lstms)} layers of (inputs, states, layers) {sorted(sizes)} do not match"
        )


def applies_to_rest(values_TX: Tensor, lstm: nn.LSTM, precision: str = "fp32") -> bool:
    """Whether `read_on` can compute this layer on these values.

    >>> applies_to_rest(torch.zeros(3, 8), nn.LSTM(8, 15))
    False
    """
    return applies(values_TX, [lstm], precision)


@torch.no_grad()
def read_on(
    values_TX: Tensor, state: tuple[Tensor, Tensor] | None, lstm: nn.LSTM, precision: str = "fp32"
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Read the next tokens of one text, to the states of `read` however it is cut; see `applies_to_rest`.

    Args:
        values_TX: inputs of the next tokens, at least one, float32.
        state: hidden state (H,) and cell (H,) before them, never changed; None at the start of a text.
        lstm: a unidirectional layer.
        precision: as of `read`.

    Returns:
        the hidden states (T, H), and the state after the last token.

    >>> lstm, values_TX = nn.LSTM(8, 16), torch.randn(5, 8)
    >>> def parts_of(lstm):
    ...     first_TH, state = read_on(values_TX[:3], None, lstm)
    ...     return torch.cat([first_TH, read_on(values_TX[3:], state, lstm)[0]])
    >>> whole = lambda lstm: read(values_TX[:, None], torch.tensor([5]), [lstm])[0][:, 0]
    >>> not applies_to_rest(values_TX, lstm) or torch.equal(parts_of(lstm), whole(lstm))
    True
    """
    before, size = 0 if state is None else 1, lstm.hidden_size
    steps = before + len(values_TX)
    values_T1X = values_TX.new_zeros(steps, 1, values_TX.shape[1])
    values_T1X[before:, 0] = values_TX
    states_1T1H, cells_11H = values_TX.new_empty(1, steps, 1, size), values_TX.new_empty(1, 1, size)
    if state is not None:
        states_1T1H[0, 0, 0], cells_11H[0, 0] = state
    arrays = {
        "values": values_T1X,
        "lengths": torch.tensor([steps]),
        "states": states_1T1H,
        "cells": cells_11H,
    }
    weights = _weights([lstm])
    _call("lstm_forward" if state is None else "lstm_continue", arrays, weights, _format(precision))
    states_TH = states_1T1H[0, before:, 0]
    return states_TH, (states_TH[-1], cells_11H[0, 0])


class _Recurrence(torch.autograd.Function):
    """From inputs (T, B, X) to hidden states, D times (T, B, H); D of each kind in `WEIGHTS`."""

    @staticmethod
    def forward(ctx: Any, precision: str, values_TBX: Tensor, lengths_B: Tensor, *weights: Tensor) -> Any:
        arrays = {"values": values_TBX, "lengths": lengths_B}
        arrays["states"] = states_DTBH = values_TBX.new_empty(
            len(weights) // len(WEIGHTS), *values_TBX.shape[:2], weights[-1].shape[0] // 4
        )
        ctx.save_for_backward(*arrays.values(), *weights)
        ctx.precision, ctx.kept = precision, _kept(states_DTBH, precision)
        _call("lstm_forward", arrays | ctx.kept, weights, precision)
        return states_DTBH.unbind()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients_TBH: Tensor) -> Any:
        values_TBX, lengths_B, states_DTBH, *weights = ctx.saved_tensors
        directions, inputs, gates = len(states_DTBH), values_TBX.shape[2], 4 * states_DTBH.shape[3]
        arrays = {"values": values_TBX, "lengths": lengths_B, "states": states_DTBH}
        kept, ctx.kept = ctx.kept, None  # the kernel overwrites them
        if kept is None:  # a second backward pass of a retained graph
            kept = _kept(states_DTBH, ctx.precision)
            again = {**arrays, "states": torch.empty_like(states_DTBH), **kept}
            _call("lstm_forward", again, weights, ctx.precision)
        arrays |= kept
        of_values_TBX, of_weights = None, list[Tensor | None]([None] * len(weights))
        if ctx.needs_input_grad[1]:
            of_values_TBX = arrays["value_gradients"] = torch.empty_like(values_TBX)
        if any(ctx.needs_input_grad[3:]):
            sizes = {"input_weight": (gates, inputs), "weight": (gates, gates // 4), "bias": (gates,)}
            found = [values_TBX.new_empty(directions, *shape) for shape in sizes.values()]
            arrays |= {f"{kind}_gradients": of for kind, of in zip(sizes, found, strict=True)}
            arrays["packed_gates"] = values_TBX.new_empty(directions, gates, DEEP)
            *of_matrices, of_bias = [of_kind.unbind() for of_kind in found]
            of_weights = [of for of_kind in (*of_matrices, of_bias, of_bias) for of in of_kind]
        _call("lstm_backward", arrays, weights, ctx.precision, gradients_TBH)
        return None, of_values_TBX, None, *of_weights


def _kept(states_DTBH: Tensor, precision: str) -> dict[str, Tensor]:
    """Return room for what the backward pass needs: 5 numbers per state."""
    *shape, size = states_DTBH.shape
    return {
        "gates": states_DTBH.new_empty(*shape, 4 * size, dtype=KEPT[precision]),
        "kept_cells": states_DTBH.new_empty(*shape, size),
    }


def _call(
    name: str,
    arrays: dict[str, Tensor],
    weights: Sequence[Tensor],
    precision: str,
    gradients_TBH: Sequence[Tensor] = (),
) -> None:
    """Call a function of the kernel; the arrays are described in lstm.c."""
    directions, steps, batch, size = arrays["states"].shape
    inputs = arrays["values"].shape[-1]
    whole_inputs = -(-inputs // HIDDEN_MULTIPLE) * HIDDEN_MULTIPLE
    room = {
        "packed": arrays["states"].new_empty(
            directions, 4 * size, whole_inputs + size, dtype=KEPT[precision]
        ),
        "cells": arrays["states"].new_empty(directions, batch, size),
    }
    if precision == "bf16" and name != "lstm_backward":
        tokens = arrays["values"].numel() // inputs
        room["short_values"] = arrays["states"].new_empty(tokens, whole_inputs, dtype=torch.bfloat16)
        room["short_states"] = arrays["states"].new_empty(2, directions, batch, size, dtype=torch.bfloat16)
    whole = [of.contiguous() for of in (*weights, *gradients_TBH)]
    kinds = ("input_weights", "weights", "input_bias", "bias", "state_gradients")[: len(whole) // directions]
    lists = {kind: whole[place * directions :][:directions] for place, kind in enumerate(kinds)}
    sizes = {"directions": directions, "steps": steps, "batch": batch, "inputs": inputs}
    sizes["rows"] = arrays["input_sums"].shape[1] if "input_sums" in arrays else 0
    numbers = {**sizes, "hidden": size, "threads": torch.get_num_threads()}
    call(name, _Layer, numbers, {**room, **arrays, **lists}, lstm_library(precision))
