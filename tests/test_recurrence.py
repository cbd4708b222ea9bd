"""The compiled LSTM equals `nn.LSTM` over packed texts, with bit-equal states in any batch."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lstm_sentiment.kernels import lstm as recurrence
from lstm_sentiment.kernels.library import CAPABLE, library
from lstm_sentiment.models.cells import LSTM

COMPILED = library() is not None
needs_kernel = pytest.mark.skipif(not COMPILED, reason="no compiled LSTM on this machine")
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


def real(lengths_B: Tensor, steps: int) -> Tensor:
    """Return 1 for tokens and 0 for padding (T, B, 1)."""
    return (torch.arange(steps)[:, None] < lengths_B)[:, :, None].float()


def test_the_kernel_is_compiled_where_it_can_be() -> None:
    """If it is not, everything still works, so that it would go unnoticed."""
    assert COMPILED or not CAN_COMPILE


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
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_states_are_bit_equal_in_any_batch(threads: int) -> None:
    torch.set_num_threads(threads)
    lengths = [9, 1, 4, 9, 7, 2, 8, 5, 3, 6] * 8
    lengths_B, lstms = torch.tensor(lengths), make_layer(20, 32, 2)
    values_TBX = torch.randn(9, len(lengths), 20)
    with torch.no_grad():
        together = recurrence.read(values_TBX, lengths_B, lstms)
        order = torch.randperm(len(lengths))
        moved = recurrence.read(values_TBX[:, order], lengths_B[order], lstms)
        torch.set_num_threads(1)
        pair = recurrence.read(values_TBX[:, 3:5], lengths_B[3:5], lstms)  # inputs first, as of one text
        for found_TBH, expected_TBH in zip(pair, together, strict=True):
            assert torch.equal(found_TBH, expected_TBH[:, 3:5])
        for text in (0, 1, 4, 65, 66, 79):
            alone_TBX = values_TBX[: lengths[text], text : text + 1]
            alone = recurrence.read(alone_TBX, lengths_B[text : text + 1], lstms)
            place = order.tolist().index(text)
            for direction in range(2):
                expected_LH = alone[direction][:, 0]
                assert torch.equal(together[direction][: lengths[text], text], expected_LH)
                assert torch.equal(moved[direction][: lengths[text], place], expected_LH)


@needs_kernel
@pytest.mark.parametrize(("inputs", "hidden"), [(20, 32), (128, 128), (33, 80)])
def test_gradients_do_not_depend_on_the_number_of_threads(inputs: int, hidden: int) -> None:
    """Bit for bit: sums over tokens and gates have a fixed order for any number of threads."""
    lengths_B, lstms = torch.tensor([60, 2, 50, 6, 1, 33, 40]), make_layer(inputs, hidden, 2)
    values_TBX = torch.randn(60, 7, inputs, requires_grad=True)
    learned = [values_TBX, *(weight for lstm in lstms for weight in lstm.parameters())]
    found = []
    for threads in (1, 2, 5, 16):
        torch.set_num_threads(threads)
        states = recurrence.read(values_TBX, lengths_B, lstms)
        found.append(torch.autograd.grad([*states], learned, [real(lengths_B, 60) * of for of in states]))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(other, found[0], strict=True))


@needs_kernel
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
    inputs: int, hidden: int, directions: int, rows: int, lengths: list[int], threads: int
) -> None:
    torch.set_num_threads(threads)
    lstms, lengths_B = make_layer(inputs, hidden, directions), torch.tensor(lengths)
    values_RX, places_TB = torch.randn(rows, inputs), torch.randint(rows, (max(lengths), len(lengths)))
    with torch.no_grad():
        expected = recurrence.read(values_RX[places_TB], lengths_B, lstms)
    found = recurrence.read_rows(values_RX, places_TB, lengths_B, lstms)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@needs_kernel
@pytest.mark.parametrize("place", [-1, 4])
def test_rows_beyond_the_table_are_refused(place: int) -> None:
    places_TB = torch.zeros(5, 2, dtype=torch.int64)
    places_TB[3, 1] = place
    with pytest.raises(ValueError, match="in 4 rows"):
        recurrence.read_rows(torch.randn(4, 8), places_TB, torch.tensor([5, 4]), make_layer(8, 16, 2))


@needs_kernel
@pytest.mark.parametrize("padding", [0.0, torch.nan])
def test_padding_has_zero_states_and_no_gradient(padding: float) -> None:
    """For any values and any incoming gradient."""
    lengths_B, lstms = torch.tensor([6, 2, 4, 1]), make_layer(20, 32, 2)
    real_TB1 = real(lengths_B, 8).bool()
    values_TBX = torch.where(real_TB1, torch.randn(8, 4, 20), padding).requires_grad_()
    states = recurrence.read(values_TBX, lengths_B, lstms)
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
def test_positions_after_a_text_are_not_read() -> None:
    lengths_B, lstms = torch.tensor([6, 2, 4]), make_layer(8, 16, 2)
    values_TBX = torch.randn(6, 3, 8)
    loud_TBX = torch.where(real(lengths_B, 6).bool(), values_TBX, torch.nan)
    with torch.no_grad():
        pairs = zip(*(recurrence.read(of, lengths_B, lstms) for of in (values_TBX, loud_TBX)), strict=True)
        for quiet_TBH, loud_TBH in pairs:
            for text, length in enumerate(lengths_B.tolist()):
                assert torch.equal(quiet_TBH[:length, text], loud_TBH[:length, text])


@needs_kernel
def test_non_finite_values_stay_within_their_text() -> None:
    """Training stops at such values: they must not be clamped."""
    lengths_B, lstms = torch.tensor([4, 4, 4]), make_layer(8, 16, 2)
    values_TBX = torch.randn(4, 3, 8)
    values_TBX[1, 1, 5] = torch.nan
    with torch.no_grad():
        forwards_TBH, backwards_TBH = recurrence.read(values_TBX, lengths_B, lstms)
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
def test_outputs_are_equal_with_and_without_gradients() -> None:
    lengths_B, lstms = torch.tensor([5, 3]), make_layer(8, 16, 2)
    values_TBX = torch.randn(5, 2, 8)
    learning = recurrence.read(values_TBX, lengths_B, lstms)
    with torch.no_grad():
        quiet = recurrence.read(values_TBX, lengths_B, lstms)
    with torch.inference_mode():
        quieter = recurrence.read(values_TBX, lengths_B, lstms)
    assert learning[0].requires_grad
    assert not quiet[0].requires_grad
    for of_direction in zip(learning, quiet, quieter, strict=True):
        assert torch.equal(of_direction[0], of_direction[1])
        assert torch.equal(of_direction[0], of_direction[2])


@needs_kernel
def test_only_requested_gradients_are_computed() -> None:
    lengths_B, lstms = torch.tensor([5, 3]), make_layer(8, 16, 2)
    values_TBX = torch.randn(5, 2, 8, requires_grad=True)
    (expected,) = torch.autograd.grad(recurrence.read(values_TBX, lengths_B, lstms)[1].sum(), values_TBX)
    for lstm in lstms:
        lstm.requires_grad_(requires_grad=False)
    recurrence.read(values_TBX, lengths_B, lstms)[1].sum().backward()
    assert torch.equal(values_TBX.grad, expected)  # type: ignore[arg-type]
    assert all(weight.grad is None for lstm in lstms for weight in lstm.parameters())
    assert not recurrence.read(values_TBX.detach(), lengths_B, lstms)[0].requires_grad


@needs_kernel
def test_a_retained_graph_repeats_its_gradient_and_detects_changed_weights() -> None:
    lengths_B, lstms = torch.tensor([5, 3]), make_layer(8, 16, 1)
    loss = recurrence.read(torch.randn(5, 2, 8), lengths_B, lstms)[0].sum()
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
def test_views_equal_copies() -> None:
    lstms = make_layer(8, 16, 2)
    wide_BTX = torch.randn(3, 5, 16)
    view_TBX, lengths_B = wide_BTX.transpose(0, 1)[:, :, ::2], torch.tensor([5, 0, 3, 0, 2])[::2]
    pairs = []
    for values_TBX, of_B in ((view_TBX, lengths_B), (view_TBX.contiguous(), lengths_B.int())):
        forwards_TBH, backwards_TBH = recurrence.read(values_TBX, of_B, lstms)
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


@pytest.mark.parametrize(
    "case",
    ["hidden", "double", "no kernel", "GRU", pytest.param("autocast", marks=needs_kernel), "none of them"],
)
def test_the_kernel_is_used_only_if_equivalent(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if case == "no kernel":
        monkeypatch.setattr("lstm_sentiment.kernels.library.library", lambda: None)
    lstms, values_TBX = make_layer(8, 20 if case == "hidden" else 16, 2), torch.randn(5, 2, 8)
    if case == "double":
        values_TBX, lstms = values_TBX.double(), [lstm.double() for lstm in lstms]
    if case == "GRU":
        lstms = [nn.GRU(8, 16), nn.GRU(8, 16)]  # type: ignore[list-item]
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        assert recurrence.applies(values_TBX, lstms) == (case == "none of them" and COMPILED)


@needs_kernel
def test_pytorch_gives_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the kernel gives the same predictions for a checkpoint."""
    lengths_B, lstms, values_TBX = torch.tensor([5, 3, 1]), make_layer(8, 16, 2), torch.randn(5, 3, 8)
    found = LSTM().read(values_TBX, lengths_B, lstms)
    monkeypatch.setattr("lstm_sentiment.kernels.library.library", lambda: None)
    expected = LSTM().read(values_TBX, lengths_B, lstms)
    for found_TBH, expected_TBH in zip(found, expected, strict=True):
        expected_TBH = expected_TBH * real(lengths_B, 5)
        torch.testing.assert_close(found_TBH, expected_TBH, atol=1e-6, rtol=0)
        assert not torch.equal(found_TBH, expected_TBH), "both came from one of them"
