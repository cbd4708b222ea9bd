"""The compiled LSTM equals `nn.LSTM` over packed texts, with bit-equal states in any batch.

With bf16 products it equals an LSTM in fp32 whose inputs, states and weights are rounded before each product.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lstm_sentiment.kernels import lstm as recurrence
from lstm_sentiment.kernels.library import CAPABLE, FILES, _available, library, lstm_library
from lstm_sentiment.models.cells import LSTM

COMPILED = library() is not None
needs_kernel = pytest.mark.skipif(not COMPILED, reason="no compiled LSTM on this machine")
needs_bf16 = pytest.mark.skipif(
    lstm_library("bf16") is None, reason="no compiled LSTM with bf16 products, or no AVX512-BF16"
)
needs_avx512 = pytest.mark.skipif(
    library("_lstm_avx512") is None, reason="no LSTM compiled for AVX-512, or another CPU"
)
PRECISIONS = ["fp32", pytest.param("bf16", marks=needs_bf16)]
CAN_COMPILE = (
    (platform.system(), platform.machine()) == ("Linux", "x86_64")
    and torch.backends.cpu.get_cpu_capability() in CAPABLE
    and shutil.which("gcc") is not None
)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def make_layer(inputs: int, hidden: int, directions: int) -> list[nn.LSTM]:
    torch.manual_seed(3)
    return [nn.LSTM(inputs, hidden) for _ in range(directions)]


def packed(values_TBX: Tensor, lengths_B: Tensor, lstms: list[nn.LSTM]) -> list[Tensor]:
    """Read each text alone, reversed for the second direction; padding is 0."""
    read = []
    for direction, lstm in enumerate(lstms):
        states_TBH = values_TBX.new_zeros(*values_TBX.shape[:2], lstm.hidden_size)
        for text, length in enumerate(lengths_B.tolist()):
            alone_LX = values_TBX[:length, text]
            states_TBH[:length, text] = lstm(alone_LX.flip(0) if direction else alone_LX)[0]
        read.append(states_TBH)
    return read


def rounded(numbers: Tensor, bits: int) -> Tensor:
    """Round to so many bits of precision, ties to even; to 8 as in bf16. Gradients pass unchanged."""
    with torch.no_grad():
        larger = numbers * (2.0 ** (24 - bits) + 1)
        error = larger - (larger - numbers) - numbers
    return numbers + error


def packed_in_bf16(
    values_TBX: Tensor, lengths_B: Tensor, lstms: list[nn.LSTM], *, of_weights: int = 8, of_states: int = 8
) -> list[Tensor]:
    """Compute `packed` with rounded inputs, states and weights in products, and all else in fp32.

    Args:
        values_TBX: inputs.
        lengths_B: tokens of each text.
        lstms: one or two layers.
        of_weights: bits of precision of weights in products.
        of_states: likewise of states.
    """
    read = []
    for direction, lstm in enumerate(lstms):
        states_TBH = values_TBX.new_zeros(*values_TBX.shape[:2], lstm.hidden_size)
        input_weights, weights = (rounded(of, of_weights) for of in (lstm.weight_ih_l0, lstm.weight_hh_l0))
        for text, length in enumerate(lengths_B.tolist()):
            alone_LX = values_TBX[:length, text].flip(0) if direction else values_TBX[:length, text]
            sums_LG = rounded(alone_LX, 8) @ input_weights.T + (lstm.bias_ih_l0 + lstm.bias_hh_l0)
            state_H = cell_H = values_TBX.new_zeros(lstm.hidden_size)
            for step, sum_G in enumerate(sums_LG):
                i, f, g, o = (sum_G + weights @ rounded(state_H, of_states)).chunk(4)
                cell_H = f.sigmoid() * cell_H + i.sigmoid() * g.tanh()
                states_TBH[step, text] = state_H = o.sigmoid() * cell_H.tanh()
        read.append(states_TBH)
    return read


def largest_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest relative error of tensors, in the Euclidean norm."""
    return max(
        float((of - exact).detach().norm() / exact.detach().norm())
        for of, exact in zip(found, expected, strict=True)
    )


def real(lengths_B: Tensor, steps: int) -> Tensor:
    """Return 1 for tokens and 0 for padding (T, B, 1)."""
    return (torch.arange(steps)[:, None] < lengths_B)[:, :, None].float()


@pytest.mark.parametrize(
    ("name", "instructions"), [*zip(FILES, ("AVX2", "AVX512", "AVX512-BF16"), strict=True)]
)
def test_the_kernel_is_compiled_where_it_can_be(name: str, instructions: str) -> None:
    """If it is not, everything still works, so that it would go unnoticed."""
    assert library(name) is not None or not (CAN_COMPILE and instructions in _available())


@needs_kernel
@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([1, 7, 128, 300]),
    st.sampled_from([16, 32, 48, 128]),
    st.integers(1, 2),
    st.lists(st.integers(1, 12), min_size=1, max_size=15),
    st.integers(0, 2),
    st.integers(1, 5),
)
@example(300, 128, 2, [5, 1, 12] * 24, 0, 5)  # more texts than are computed at once
@example(128, 48, 2, [5, 1, 12] * 24, 1, 3)
@example(7, 16, 1, [5, 1, 12] * 24, 2, 1)
def test_equals_an_lstm_text_by_text(
    inputs: int, hidden: int, directions: int, lengths: list[int], padding: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    lstms = make_layer(inputs, hidden, directions)
    steps, lengths_B = max(lengths) + padding, torch.tensor(lengths)
    values_TBX = torch.randn(steps, len(lengths), inputs, requires_grad=True)
    learned = [values_TBX, *(weight for lstm in lstms for weight in lstm.parameters())]
    found = recurrence.read(values_TBX, lengths_B, lstms)
    expected = packed(values_TBX, lengths_B, lstms)
    real_TB1 = real(lengths_B, steps)
    upstream = [torch.randn_like(states_TBH) * real_TB1 for states_TBH in expected]
    for found_TBH, expected_TBH in zip(found, expected, strict=True):
        torch.testing.assert_close(
            found_TBH * real_TB1, expected_TBH, atol=1e-6 * max(1, inputs / 128), rtol=0
        )
    gradients = [torch.autograd.grad(states, learned, upstream) for states in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours / scale, theirs / scale, atol=3e-6, rtol=0)


def test_rounding_is_that_of_bf16() -> None:
    numbers = torch.randn(1000) * torch.tensor([1e-30, 1.0, 1e20])[:, None]
    assert torch.equal(rounded(numbers, 8), numbers.bfloat16().float())
    assert not torch.equal(rounded(numbers, 7), numbers.bfloat16().float())


# Relative norms of differences. Sums in another order round some states to the next bf16 number: up to
# 3.2e-5. The mildest fault, states that are not rounded, is a difference of 2.3e-4. Gradients differ from
# those of fp32 by up to 6.7e-3, and without the bias of one gate by 5e-2 or more.
STATE_ERROR, GRADIENT_ERROR = 1e-4, 1e-2


@needs_bf16
@pytest.mark.parametrize(
    ("inputs", "hidden", "directions", "lengths", "padding", "threads"),
    [
        (128, 48, 2, [5, 1, 12] * 24, 1, 1),  # more texts than are computed at once
        (128, 48, 1, [5, 1, 12] * 2, 1, 5),
        (33, 80, 2, [12, 1, 9, 30, 5], 0, 3),
        (7, 16, 1, [12, 1, 9, 30, 5], 2, 1),
        (1, 32, 2, [11, 7, 1], 0, 2),
        (300, 128, 2, [6, 1, 15], 0, 1),
    ],
)
def test_bf16_equals_rounded_products_text_by_text(
    inputs: int, hidden: int, directions: int, lengths: list[int], padding: int, threads: int
) -> None:
    """Gradients are compared with those of fp32."""
    torch.set_num_threads(threads)
    lstms = make_layer(inputs, hidden, directions)
    steps, lengths_B = max(lengths) + padding, torch.tensor(lengths)
    values_TBX = torch.randn(steps, len(lengths), inputs, requires_grad=True)
    learned = [values_TBX, *(weight for lstm in lstms for weight in lstm.parameters())]
    found = recurrence.read(values_TBX, lengths_B, lstms, "bf16")
    with torch.no_grad():
        expected = packed_in_bf16(values_TBX, lengths_B, lstms)
    assert largest_error(found, expected) < STATE_ERROR
    in_fp32 = recurrence.read(values_TBX, lengths_B, lstms)
    upstream = [torch.randn_like(of) for of in in_fp32]
    gradients = [torch.autograd.grad(of, learned, upstream) for of in (found, in_fp32)]
    assert largest_error(*gradients) < GRADIENT_ERROR


@needs_bf16
@pytest.mark.parametrize(
    "fault", ["none", "weights of 7 bits", "weights in fp32", "states in fp32", "a bias"]
)
def test_errors_of_bf16_are_noticed(fault: str) -> None:
    """The control: faults have larger effects than the tolerances, a missing bias also on gradients."""
    lstms, lengths_B = make_layer(33, 80, 2), torch.tensor([12, 1, 9, 30, 5])
    values_TBX = torch.randn(30, 5, 33)
    learned = [lstm.weight_hh_l0 for lstm in lstms]
    found = recurrence.read(values_TBX, lengths_B, lstms, "bf16")
    gradients = torch.autograd.grad(found, learned, [torch.ones_like(of) for of in found])
    if fault == "a bias":  # of the input gates
        with torch.no_grad():
            for lstm in lstms:
                lstm.bias_hh_l0[:80] = 0
        in_fp32 = recurrence.read(values_TBX, lengths_B, lstms)
        with_fault = torch.autograd.grad(in_fp32, learned, [torch.ones_like(of) for of in in_fp32])
        assert largest_error(gradients, with_fault) > GRADIENT_ERROR
    of_weights = {"weights of 7 bits": 7, "weights in fp32": 24}.get(fault, 8)
    of_states = 24 if fault == "states in fp32" else 8
    with torch.no_grad():
        expected = packed_in_bf16(values_TBX, lengths_B, lstms, of_weights=of_weights, of_states=of_states)
    assert (largest_error(found, expected) > STATE_ERROR) == (fault != "none")


@needs_bf16
@settings(deadline=None, max_examples=10)
@given(
    st.sampled_from([1, 7, 128]),
    st.sampled_from([16, 32, 48, 128]),
    st.integers(1, 2),
    st.lists(st.integers(1, 12), min_size=1, max_size=7),
    st.integers(0, 2),
    st.integers(1, 5),
)
def test_bf16_is_close_to_fp32_for_any_sizes(
    inputs: int, hidden: int, directions: int, lengths: list[int], padding: int, threads: int
) -> None:
    """Gradients of a few numbers may by chance have larger errors than those of many."""
    torch.set_num_threads(threads)
    lstms = make_layer(inputs, hidden, directions)
    steps, lengths_B = max(lengths) + padding, torch.tensor(lengths)
    values_TBX = torch.randn(steps, len(lengths), inputs, requires_grad=True)
    learned = [values_TBX, *(weight for lstm in lstms for weight in lstm.parameters())]
    upstream = [torch.randn(steps, len(lengths), hidden)] * directions
    both = [recurrence.read(values_TBX, lengths_B, lstms, of) for of in ("bf16", "fp32")]
    assert largest_error(*both) < 3e-2
    gradients = [torch.autograd.grad(of, learned, upstream) for of in both]
    for of_bf16, of_fp32 in zip(*gradients, strict=True):
        assert float((of_bf16 - of_fp32).norm()) <= 5e-2 * float(of_fp32.norm())


@needs_avx512
@pytest.mark.parametrize(("inputs", "hidden", "threads"), [(20, 32, 1), (33, 80, 3), (128, 128, 1)])
def test_avx512_gives_the_same_bits(
    inputs: int, hidden: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The states and all gradients, of batches, of rows of a table and of the rest of a text."""
    torch.set_num_threads(threads)
    lengths_B, lstms = torch.tensor([9, 1, 4, 9, 7, 12] * 13), make_layer(inputs, hidden, 2)
    values_TBX = torch.randn(13, len(lengths_B), inputs, requires_grad=True)
    values_RX, places_TB = torch.randn(75, inputs), torch.randint(75, (13, len(lengths_B)))
    learned = [values_TBX, *(weight for lstm in lstms for weight in lstm.parameters())]
    upstream = [torch.randn(13, len(lengths_B), hidden) for _ in lstms]
    found = []
    for name, instructions in (("_lstm_avx512", 3), ("_kernels", 1)):
        compiled = library(name)
        assert compiled is not None
        assert compiled.kernels_instructions() == instructions
        monkeypatch.setattr(recurrence, "lstm_library", lambda precision, compiled=compiled: compiled)
        states = recurrence.read(values_TBX, lengths_B, lstms)
        gradients = torch.autograd.grad(states, learned, upstream)
        of_rows = recurrence.read_rows(values_RX, places_TB, lengths_B, lstms)
        few_TH, state = recurrence.read_on(values_RX[:7], None, lstms[0])
        rest_TH, state = recurrence.read_on(values_RX[7:], state, lstms[0])
        found.append([*states, *gradients, *of_rows, few_TH, rest_TH, *state])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@needs_kernel
def test_is_as_accurate_as_pytorch() -> None:
    """Measured against double precision, on 400 steps."""
    lstms, lengths_B = make_layer(64, 64, 2), torch.tensor([400, 333])
    values_TBX, real_TB1 = torch.randn(400, 2, 64), real(lengths_B, 400)
    with torch.no_grad():
        ours = recurrence.read(values_TBX, lengths_B, lstms)
        theirs = packed(values_TBX, lengths_B, lstms)
        exact = packed(values_TBX.double(), lengths_B, [lstm.double() for lstm in lstms])
    for our, their, true in zip(ours, theirs, exact, strict=True):
        library = float((their - true).abs().max())
        assert float((our.double() * real_TB1 - true).abs().max()) < max(2 * library, 3e-7)


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_states_are_bit_equal_in_any_batch(threads: int, precision: str) -> None:
    torch.set_num_threads(threads)
    lengths = [9, 1, 4, 9, 7, 2, 8, 5, 3, 6] * 8
    lengths_B, lstms = torch.tensor(lengths), make_layer(20, 32, 2)
    values_TBX = torch.randn(9, len(lengths), 20)
    with torch.no_grad():
        together = recurrence.read(values_TBX, lengths_B, lstms, precision)
        order = torch.randperm(len(lengths))
        moved = recurrence.read(values_TBX[:, order], lengths_B[order], lstms, precision)
        torch.set_num_threads(1)
        # Products with inputs come before the steps, as of one text.
        pair = recurrence.read(values_TBX[:, 3:5], lengths_B[3:5], lstms, precision)
        for found_TBH, expected_TBH in zip(pair, together, strict=True):
            assert torch.equal(found_TBH, expected_TBH[:, 3:5])
        for text in (0, 1, 4, 65, 66, 79):
            alone_TBX = values_TBX[: lengths[text], text : text + 1]
            alone = recurrence.read(alone_TBX, lengths_B[text : text + 1], lstms, precision)
            place = order.tolist().index(text)
            for direction in range(2):
                expected_LH = alone[direction][:, 0]
                assert torch.equal(together[direction][: lengths[text], text], expected_LH)
                assert torch.equal(moved[direction][: lengths[text], place], expected_LH)


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("inputs", "hidden"), [(20, 32), (128, 128), (33, 80)])
def test_gradients_do_not_depend_on_the_number_of_threads(inputs: int, hidden: int, precision: str) -> None:
    """Bit for bit: sums over tokens and gates have a fixed order for any number of threads."""
    lengths_B, lstms = torch.tensor([60, 2, 50, 6, 1, 33, 40]), make_layer(inputs, hidden, 2)
    values_TBX = torch.randn(60, 7, inputs, requires_grad=True)
    learned = [values_TBX, *(weight for lstm in lstms for weight in lstm.parameters())]
    found = []
    for threads in (1, 2, 5, 16):
        torch.set_num_threads(threads)
        states = recurrence.read(values_TBX, lengths_B, lstms, precision)
        found.append(torch.autograd.grad([*states], learned, [real(lengths_B, 60) * of for of in states]))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(other, found[0], strict=True))


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([1, 20, 128]),
    st.sampled_from([16, 48]),
    st.integers(1, 2),
    st.integers(1, 140),
    st.lists(st.integers(1, 12), min_size=1, max_size=15) | st.just([5, 1, 12] * 24),
    st.integers(1, 5),
)
def test_states_of_table_rows_are_bit_equal(
    precision: str, inputs: int, hidden: int, directions: int, rows: int, lengths: list[int], threads: int
) -> None:
    torch.set_num_threads(threads)
    lstms, lengths_B = make_layer(inputs, hidden, directions), torch.tensor(lengths)
    values_RX, places_TB = torch.randn(rows, inputs), torch.randint(rows, (max(lengths), len(lengths)))
    with torch.no_grad():
        expected = recurrence.read(values_RX[places_TB], lengths_B, lstms, precision)
    found = recurrence.read_rows(values_RX, places_TB, lengths_B, lstms, precision)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sizes", [[40], [1] * 40, [7, 1, 32], [39, 1]])
def test_reading_on_gives_the_same_bits_however_a_text_is_cut(precision: str, sizes: list[int]) -> None:
    (lstm,), values_TX = make_layer(20, 48, 1), torch.randn(40, 20)
    with torch.no_grad():
        (expected_T1H,) = recurrence.read(values_TX[:, None], torch.tensor([40]), [lstm], precision)
    found, state, before = [], None, []
    for part_TX in values_TX.split(sizes):
        before.append(None if state is None else [of.clone() for of in state])
        read_TH, after = recurrence.read_on(part_TX, state, lstm, precision)
        assert state is None or all(torch.equal(*pair) for pair in zip(state, before[-1], strict=True))
        found.append(read_TH)
        state = after
    assert torch.equal(torch.cat(found), expected_T1H[:, 0])


@needs_kernel
@pytest.mark.parametrize("place", [-1, 4])
def test_rows_beyond_the_table_are_refused(place: int) -> None:
    places_TB = torch.zeros(5, 2, dtype=torch.int64)
    places_TB[3, 1] = place
    with pytest.raises(ValueError, match="in 4 rows"):
        recurrence.read_rows(torch.randn(4, 8), places_TB, torch.tensor([5, 4]), make_layer(8, 16, 2))


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("padding", [0.0, torch.nan])
def test_padding_has_zero_states_and_no_gradient(padding: float, precision: str) -> None:
    """For any values and any incoming gradient."""
    lengths_B, lstms = torch.tensor([6, 2, 4, 1]), make_layer(20, 32, 2)
    real_TB1 = real(lengths_B, 8).bool()
    values_TBX = torch.where(real_TB1, torch.randn(8, 4, 20), padding).requires_grad_()
    states = recurrence.read(values_TBX, lengths_B, lstms, precision)
    learned = [values_TBX, *(weight for lstm in lstms for weight in lstm.parameters())]
    upstream = [torch.randn(8, 4, 32) for _ in states]
    loud = [torch.where(real_TB1, of, torch.nan) for of in upstream]
    for states_TBH in states:
        assert not states_TBH.masked_select(~real_TB1).any()
    pairs = [torch.autograd.grad(states, learned, of, retain_graph=True) for of in (upstream, loud)]
    assert all(torch.equal(*pair) for pair in zip(*pairs, strict=True))
    assert not pairs[0][0].masked_select(~real_TB1).any()
    assert pairs[0][0].masked_select(real_TB1).all()


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
def test_positions_after_a_text_are_not_read(precision: str) -> None:
    lengths_B, lstms = torch.tensor([6, 2, 4]), make_layer(8, 16, 2)
    values_TBX = torch.randn(6, 3, 8)
    loud_TBX = torch.where(real(lengths_B, 6).bool(), values_TBX, torch.nan)
    with torch.no_grad():
        both = [recurrence.read(of, lengths_B, lstms, precision) for of in (values_TBX, loud_TBX)]
        for quiet_TBH, loud_TBH in zip(*both, strict=True):
            for text, length in enumerate(lengths_B.tolist()):
                assert torch.equal(quiet_TBH[:length, text], loud_TBH[:length, text])


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
def test_non_finite_values_stay_within_their_text(precision: str) -> None:
    """Training stops at such values: they must not be clamped."""
    lengths_B, lstms = torch.tensor([4, 4, 4]), make_layer(8, 16, 2)
    values_TBX = torch.randn(4, 3, 8)
    values_TBX[1, 1, 5] = torch.nan
    with torch.no_grad():
        forwards_TBH, backwards_TBH = recurrence.read(values_TBX, lengths_B, lstms, precision)
    for states_TBH, first in ((forwards_TBH, 1), (backwards_TBH, 2)):
        assert states_TBH[first:, 1].isnan().all()
        assert states_TBH[:first, 1].isfinite().all()
        assert states_TBH[:, [0, 2]].isfinite().all()


@needs_kernel
@pytest.mark.parametrize("size", [1e-20, 1e-4, 1.0, 30.0, 1e4, 1e30])
def test_activations_equal_pytorch_for_small_and_large_inputs(size: float) -> None:
    lengths_B, lstms = torch.tensor([5, 3]), make_layer(8, 16, 2)
    for lstm in lstms:
        nn.init.zeros_(lstm.bias_ih_l0)
        nn.init.zeros_(lstm.bias_hh_l0)
    values_TBX = torch.randn(5, 2, 8) * size
    with torch.no_grad():
        found, expected = recurrence.read(values_TBX, lengths_B, lstms), packed(values_TBX, lengths_B, lstms)
    for found_TBH, expected_TBH in zip(found, expected, strict=True):
        found_TBH = found_TBH * real(lengths_B, 5)
        torch.testing.assert_close(found_TBH, expected_TBH, atol=1e-6 * min(size, 1.0), rtol=1e-5)


@needs_kernel
@pytest.mark.parametrize("gate", range(4))
@pytest.mark.parametrize("size", [-80.0, -40.0, -3.0, -1e-6, 1e-6, 3.0, 40.0, 80.0])
def test_gates_are_accurate_over_their_range(gate: int, size: float) -> None:
    """In relative terms: a gate of e**-80 passes exactly that."""
    (lstm,) = make_layer(8, 16, 1)
    with torch.no_grad():
        lstm.bias_ih_l0[gate * 16 : (gate + 1) * 16] = size
        for weight in (lstm.weight_ih_l0, lstm.weight_hh_l0):
            weight[gate * 16 : (gate + 1) * 16] = 0
        values_TBX, lengths_B = torch.randn(2, 1, 8), torch.tensor([2])
        (found_TBH,) = recurrence.read(values_TBX, lengths_B, [lstm])
        (expected_TBH,) = packed(values_TBX.double(), lengths_B, [lstm.double()])
    torch.testing.assert_close(found_TBH.double(), expected_TBH, atol=0, rtol=1e-5)


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
def test_outputs_are_equal_with_and_without_gradients(precision: str) -> None:
    lengths_B, lstms = torch.tensor([5, 3]), make_layer(8, 16, 2)
    values_TBX = torch.randn(5, 2, 8)
    learning = recurrence.read(values_TBX, lengths_B, lstms, precision)
    with torch.no_grad():
        quiet = recurrence.read(values_TBX, lengths_B, lstms, precision)
    with torch.inference_mode():
        quieter = recurrence.read(values_TBX, lengths_B, lstms, precision)
    assert learning[0].requires_grad
    assert not quiet[0].requires_grad
    for of_direction in zip(learning, quiet, quieter, strict=True):
        assert torch.equal(of_direction[0], of_direction[1])
        assert torch.equal(of_direction[0], of_direction[2])


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_requested_gradients_are_computed(precision: str) -> None:
    lengths_B, lstms = torch.tensor([5, 3]), make_layer(8, 16, 2)
    values_TBX = torch.randn(5, 2, 8, requires_grad=True)
    backwards_TBH = recurrence.read(values_TBX, lengths_B, lstms, precision)[1]
    (expected,) = torch.autograd.grad(backwards_TBH.sum(), values_TBX)
    for lstm in lstms:
        lstm.requires_grad_(requires_grad=False)
    recurrence.read(values_TBX, lengths_B, lstms, precision)[1].sum().backward()
    assert torch.equal(values_TBX.grad, expected)  # type: ignore[arg-type]
    assert all(weight.grad is None for lstm in lstms for weight in lstm.parameters())
    assert not recurrence.read(values_TBX.detach(), lengths_B, lstms, precision)[0].requires_grad


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_retained_graph_repeats_its_gradient_and_detects_changed_weights(precision: str) -> None:
    lengths_B, lstms = torch.tensor([5, 3]), make_layer(8, 16, 1)
    loss = recurrence.read(torch.randn(5, 2, 8), lengths_B, lstms, precision)[0].sum()
    learned = list(lstms[0].parameters())
    first = torch.autograd.grad(loss, learned, retain_graph=True)
    again = torch.autograd.grad(loss, learned, retain_graph=True)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    with torch.no_grad():
        lstms[0].weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, learned, retain_graph=True)
    with torch.no_grad():
        lstms[0].weight_hh_l0.div_(2)


@needs_kernel
def test_each_weight_has_its_own_gradient() -> None:
    """Clipping scales them in place: two biases with equal gradients must not share one tensor."""
    lengths_B, lstms = torch.tensor([5, 3]), make_layer(8, 16, 2)
    sum(states.sum() for states in recurrence.read(torch.randn(5, 2, 8), lengths_B, lstms)).backward()  # type: ignore[union-attr]
    gradients = [weight.grad for lstm in lstms for weight in lstm.parameters()]
    before = [gradient.clone() for gradient in gradients if gradient is not None]
    assert len(before) == 8
    for place, gradient in enumerate(gradients):
        gradient.mul_(2)  # type: ignore[union-attr]
        assert all(
            torch.equal(*pair) for pair in zip(gradients[place + 1 :], before[place + 1 :], strict=True)
        )


@needs_kernel
@pytest.mark.parametrize("precision", PRECISIONS)
def test_views_equal_copies(precision: str) -> None:
    lstms = make_layer(8, 16, 2)
    wide_BTX = torch.randn(3, 5, 16)
    view_TBX, lengths_B = wide_BTX.transpose(0, 1)[:, :, ::2], torch.tensor([5, 0, 3, 0, 2])[::2]
    pairs = []
    for values_TBX, of_B in ((view_TBX, lengths_B), (view_TBX.contiguous(), lengths_B.int())):
        forwards_TBH, backwards_TBH = recurrence.read(values_TBX, of_B, lstms, precision)
        loss = forwards_TBH[:, :, ::2].sum() + backwards_TBH.transpose(0, 1).exp().sum()
        pairs.append((loss, *torch.autograd.grad(loss, list(lstms[1].parameters()))))
    assert all(torch.equal(*pair) for pair in zip(*pairs, strict=True))


@needs_kernel
@pytest.mark.parametrize("case", ["longer text", "inputs", "texts", "hidden", "directions"])
def test_mismatched_shapes_are_refused(case: str) -> None:
    """The kernel would read or write out of bounds."""
    lstms = make_layer(9 if case == "inputs" else 8, 16, 3 if case == "directions" else 2)
    if case == "hidden":
        lstms[1] = nn.LSTM(8, 32)
    lengths = {"longer text": [6, 3], "texts": [5, 3, 2]}.get(case, [5, 3])
    with pytest.raises(ValueError, match="do not match"):
        recurrence.read(torch.randn(5, 2, 8), torch.tensor(lengths), lstms)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("case", ["hidden", "double", "no kernel", "GRU", "none of them"])
def test_the_kernel_is_used_only_if_equivalent(
    case: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = lstm_library(precision) is not None
    if case == "no kernel":
        monkeypatch.setattr("lstm_sentiment.kernels.library.library", lambda *_: None)
    lstms, values_TBX = make_layer(8, 20 if case == "hidden" else 16, 2), torch.randn(5, 2, 8)
    if case == "double":
        values_TBX, lstms = values_TBX.double(), [lstm.double() for lstm in lstms]
    if case == "GRU":
        lstms = [nn.GRU(8, 16), nn.GRU(8, 16)]  # type: ignore[list-item]
    assert recurrence.applies(values_TBX, lstms, precision) == (case == "none of them" and available)
    applies_to_rest = recurrence.applies_to_rest(values_TBX[:, 0], lstms[0], precision)
    assert applies_to_rest == (case == "none of them" and available)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_autocasting_chooses_the_format(autocast: torch.dtype, precision: str) -> None:
    """There is a kernel for bf16; float16 is left to PyTorch."""
    lstms, values_TBX = make_layer(8, 16, 2), torch.randn(5, 2, 8)
    expected = autocast is torch.bfloat16 and lstm_library("bf16") is not None
    with torch.autocast("cpu", autocast):
        assert recurrence.applies(values_TBX, lstms, precision) == expected
        assert recurrence.applies_to_rest(values_TBX[:, 0], lstms[0], precision) == expected
    with torch.autocast("cpu", autocast, enabled=False):
        assert recurrence.applies(values_TBX, lstms, precision) == (lstm_library(precision) is not None)


@needs_bf16
def test_results_under_autocasting_are_those_of_bf16() -> None:
    """Also where the backward pass comes after it, as in training."""
    lengths_B, lstms, values_TBX = torch.tensor([5, 3]), make_layer(8, 16, 2), torch.randn(5, 2, 8)
    places_TB, found = torch.tensor([[0, 1], [2, 0], [1, 1]]), []
    weights = [weight for lstm in lstms for weight in lstm.parameters()]
    for autocast, precision in ((True, "fp32"), (False, "bf16"), (False, "fp32")):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            states = recurrence.read(values_TBX, lengths_B, lstms, precision)
            of_rows = recurrence.read_rows(
                values_TBX[:, 0], places_TB, torch.tensor([3, 2]), lstms, precision
            )
            rest_TH, _ = recurrence.read_on(values_TBX[:, 1], None, lstms[0], precision)
        assert states[0].dtype is torch.float32
        gradients = torch.autograd.grad(states, weights, [torch.ones_like(of) for of in states])
        found.append([*states, *of_rows, rest_TH, *gradients])
    assert all(torch.equal(*pair) for pair in zip(found[0], found[1], strict=True))
    assert not any(torch.equal(*pair) for pair in zip(found[0], found[2], strict=True))


@needs_kernel
def test_pytorch_gives_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the kernel gives the same predictions for a checkpoint."""
    lengths_B, lstms, values_TBX = torch.tensor([5, 3, 1]), make_layer(8, 16, 2), torch.randn(5, 3, 8)
    found = LSTM().read(values_TBX, lengths_B, lstms)
    monkeypatch.setattr("lstm_sentiment.kernels.library.library", lambda *_: None)
    expected = LSTM().read(values_TBX, lengths_B, lstms)
    for found_TBH, expected_TBH in zip(found, expected, strict=True):
        expected_TBH = expected_TBH * real(lengths_B, 5)
        torch.testing.assert_close(found_TBH, expected_TBH, atol=1e-6, rtol=0)
        assert not torch.equal(found_TBH, expected_TBH), "both came from one of them"
