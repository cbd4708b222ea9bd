"""The network equals a textbook implementation, and a prediction depends only on its text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import PackedSentimentLSTM
from torch import Tensor, nn

from lstm_sentiment.config.sections import POOLINGS
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.kernels.library import library
from lstm_sentiment.models import pooling
from lstm_sentiment.models.lstm import MANY_TOKENS, SentimentLSTM, _chance
from lstm_sentiment.models.pooling import MaxOverTime
from lstm_sentiment.models.reversal import reversal, reversed_texts
from lstm_sentiment.system.devices import lstm_takes_bf16
from lstm_sentiment.text.tokenization import PAD, UNKNOWN

VOCABULARY, CLASSES = 50, 3
ALL_POOLINGS = "+".join(POOLINGS)
BATCH_LENGTHS = [5, 1, 12, 7, 12, 2, 9]
BOTH_WAYS = pytest.mark.parametrize("hidden_size", [5, 16])  # the second one fits the compiled LSTM


@pytest.fixture(autouse=True, scope="module", params=["compiled", "PyTorch"])
def computed_by(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run tests with the compiled kernels and with PyTorch."""
    if request.param == "compiled" and library() is None:
        pytest.skip("no compiled kernels on this machine")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "PyTorch":
            patch.setattr("lstm_sentiment.kernels.library.library", lambda *_: None)
        yield request.param


def make_model(**settings: Any) -> SentimentLSTM:
    """Return a small model with random parameters, including biases."""
    torch.manual_seed(1)
    model = SentimentLSTM(VOCABULARY, CLASSES, **{"embedding_size": 6, "hidden_size": 5, **settings})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        model.embedding.weight[PAD] = 0.0
    return model


def make_batch(lengths: list[int], *, padding: int = 0) -> tuple[Tensor, Tensor]:
    """Return random tokens (B, T) and lengths (B,), padded `padding` positions beyond the longest text."""
    tokens_BT = torch.full((len(lengths), max(lengths) + padding), PAD)
    generator = torch.Generator().manual_seed(2)
    for row, length in enumerate(lengths):
        tokens_BT[row, :length] = torch.randint(UNKNOWN, VOCABULARY, (length,), generator=generator)
    return tokens_BT, torch.tensor(lengths)


def assert_same_logits_and_gradients(model: SentimentLSTM) -> None:
    """Compare logits and all gradients with the packed reference."""
    twin = PackedSentimentLSTM(model)
    tokens_BT, lengths_B = make_batch(BATCH_LENGTHS, padding=3)
    ours_BC, theirs_BC = model(tokens_BT, lengths_B), twin(tokens_BT, lengths_B)
    torch.testing.assert_close(ours_BC, theirs_BC, atol=1e-6, rtol=1e-6)
    direction_BC = torch.randn(ours_BC.shape)
    ours_BC.backward(direction_BC)
    theirs_BC.backward(direction_BC)
    expected = {name: parameter.grad for name, parameter in twin.weights().items()}
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        assert gradient is not None
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=name)
        assert gradient.abs().max() > 1e-3, f"{name} plays no part: nothing was compared"


@BOTH_WAYS
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_equals_a_packed_lstm_forward_and_backward(
    layers: int, bidirectional: bool, hidden_size: int
) -> None:
    model = make_model(layers=layers, bidirectional=bidirectional, hidden_size=hidden_size)
    assert_same_logits_and_gradients(model)


@BOTH_WAYS
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("pooling", [*POOLINGS, ALL_POOLINGS, "attention+last"])
def test_pooling_equals_a_loop_over_rows(pooling: str, bidirectional: bool, hidden_size: int) -> None:
    model = make_model(pooling=pooling, bidirectional=bidirectional, hidden_size=hidden_size)
    assert_same_logits_and_gradients(model)


def test_dropout_settings_change_nothing_outside_training() -> None:
    dropping = make_model(layers=2, dropout=0.5, embedding_dropout=0.5, word_dropout=0.5).eval()
    assert_same_logits_and_gradients(dropping)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    padding=st.integers(0, 20),
    layers=st.sampled_from([1, 2]),
    hidden_size=st.sampled_from([5, 16]),
    data=st.data(),
)
def test_logits_ignore_padding_neighbours_and_order(
    lengths: list[int], padding: int, layers: int, hidden_size: int, data: st.DataObject
) -> None:
    model = make_model(layers=layers, hidden_size=hidden_size, pooling=ALL_POOLINGS).eval()
    tokens_BT, lengths_B = make_batch(lengths)
    together_BC = model(tokens_BT, lengths_B)
    padded_BC = model(*make_batch(lengths, padding=padding))
    torch.testing.assert_close(padded_BC, together_BC, atol=1e-6, rtol=0)
    order = torch.tensor(data.draw(st.permutations(range(len(lengths)))))
    torch.testing.assert_close(
        model(tokens_BT[order], lengths_B[order]), together_BC[order], atol=1e-6, rtol=0
    )
    for row, length in enumerate(lengths):
        alone_1C = model(tokens_BT[row : row + 1, :length], lengths_B[row : row + 1])
        torch.testing.assert_close(alone_1C[0], together_BC[row], atol=1e-6, rtol=0)


@BOTH_WAYS
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_content_of_padding_does_not_matter(layers: int, bidirectional: bool, hidden_size: int) -> None:
    """Even with tokens other than padding: only lengths define the end of a text."""
    model = make_model(
        layers=layers, bidirectional=bidirectional, hidden_size=hidden_size, pooling=ALL_POOLINGS
    )
    tokens_BT, lengths_B = make_batch(BATCH_LENGTHS, padding=4)
    expected_BC = model(tokens_BT, lengths_B)
    behind_BT = torch.arange(tokens_BT.shape[1]) >= lengths_B[:, None]
    found_BC = model(tokens_BT.masked_fill(behind_BT, 7), lengths_B)
    torch.testing.assert_close(found_BC, expected_BC, atol=1e-6, rtol=0)


def test_every_token_and_its_position_matter() -> None:
    """The control of the invariance tests: a model that ignores its input would pass those."""
    model = make_model(pooling=ALL_POOLINGS).eval()
    tokens_BT, lengths_B = make_batch([6])
    logits_1C = model(tokens_BT, lengths_B)
    for place in range(6):
        changed_BT = tokens_BT.clone()
        changed_BT[0, place] = (tokens_BT[0, place] + 1) % (VOCABULARY - 2) + 2
        assert (model(changed_BT, lengths_B) - logits_1C).abs().max() > 1e-4
    assert (model(tokens_BT.flip(1), lengths_B) - logits_1C).abs().max() > 1e-4


def embedded_by(model: SentimentLSTM, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the token ids (T, B) looked up and the embeddings (T, B, E) that the first LSTM reads."""
    seen: list[Tensor] = []
    look_up = model.look_up

    def recorded(tokens_TB: Tensor, spelling_XK: Tensor | None) -> Tensor:
        seen.append(tokens_TB)
        return look_up(tokens_TB, spelling_XK)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(model, "look_up", recorded)
        hook = model.forward_lstms[0].register_forward_pre_hook(
            lambda _, inputs: seen.append(inputs[0].detach())
        )
        model(tokens_BT, lengths_B)
        hook.remove()
    return seen[0], seen[1]


def test_word_dropout_replaces_tokens_while_training_only() -> None:
    model = make_model(word_dropout=0.3)
    tokens_BT, lengths_B = make_batch([40] * 30 + [3])
    tokens_BT[tokens_BT == UNKNOWN] = 2
    before = tokens_BT.clone()
    read_TB, _ = embedded_by(model.train(), tokens_BT, lengths_B)
    changed_BT = tokens_BT != read_TB.T
    real_BT = tokens_BT != PAD
    assert 0.25 < changed_BT[real_BT].float().mean() < 0.35
    assert (read_TB.T[changed_BT] == UNKNOWN).all()
    assert not changed_BT[~real_BT].any()
    assert not (changed_BT[:30, :40].float().mean(0) == 1).any(), (
        "tokens are dropped one by one, not by place"
    )
    assert torch.equal(tokens_BT, before), "the batch itself was changed"
    read_TB, _ = embedded_by(model.eval(), tokens_BT, lengths_B)
    assert torch.equal(read_TB.T, tokens_BT)


def test_padding_after_the_longest_text_is_not_read() -> None:
    tokens_BT, lengths_B = make_batch([4, 9, 1], padding=7)
    read_TB, embedded_TBE = embedded_by(make_model(), tokens_BT, lengths_B)
    assert torch.equal(read_TB.T, tokens_BT[:, :9])
    assert len(embedded_TBE) == 9


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 1 - 1e-9])
def test_masks_have_the_given_probability(share: float) -> None:
    shape, cpu = (301, 7, 101), torch.device("cpu")  # no multiple of the four places of a number
    torch.manual_seed(5)
    mask, other = _chance(shape, share, cpu), _chance(shape, share, cpu)
    spread = math.sqrt(share * (1 - share) / mask.numel())
    assert mask.shape == shape
    assert abs(float(mask.float().mean()) - share) < 4 * spread + 2**-16
    agreement = float((mask == other).float().mean())
    assert agreement == pytest.approx(share**2 + (1 - share) ** 2, abs=0.01)
    for dim in range(3):  # neighbours have nothing to do with one another, within a number or not
        here, there = mask.narrow(dim, 0, shape[dim] - 1), mask.narrow(dim, 1, shape[dim] - 1)
        assert float((here == there).float().mean()) == pytest.approx(agreement, abs=0.01)
    torch.manual_seed(5)
    assert torch.equal(_chance(shape, share, cpu), mask)


def test_embedding_dropout_shares_one_mask_over_a_text() -> None:
    model = make_model(embedding_size=64, embedding_dropout=0.25)
    tokens_BT, lengths_B = make_batch([9, 6, 9, 1])
    raw_TBE = model.embedding(tokens_BT.T)
    _, dropped_TBE = embedded_by(model.train(), tokens_BT, lengths_B)
    masks_BE = []
    for row, length in enumerate(lengths_B.tolist()):
        factor_LE = dropped_TBE[:length, row] / raw_TBE[:length, row]
        torch.testing.assert_close(factor_LE, factor_LE[:1].expand_as(factor_LE))
        masks_BE.append(factor_LE[0])
    for one_E, other_E in itertools.combinations(masks_BE, 2):
        assert not torch.equal(one_E == 0, other_E == 0), "texts share a mask"
    factors = torch.stack(masks_BE)
    torch.testing.assert_close(factors[factors > 0], torch.full_like(factors[factors > 0], 1 / 0.75))
    assert 0.1 < (factors == 0).float().mean() < 0.4
    _, kept_TBE = embedded_by(model.eval(), tokens_BT, lengths_B)
    assert torch.equal(kept_TBE, raw_TBE)


def test_dropout_is_applied_between_layers_and_before_the_head() -> None:
    model = make_model(layers=2, dropout=0.5, hidden_size=20).train()
    inputs: dict[str, Tensor] = {}
    for name, module in (
        ("layer 1", model.forward_lstms[0]),
        ("layer 2", model.forward_lstms[1]),
        ("layer 2 backwards", model.backward_lstms[1]),
        ("head", model.head),
    ):
        module.register_forward_pre_hook(
            lambda _, given, name=name: inputs.__setitem__(name, given[0].detach())
        )
    model(*make_batch([8, 8, 8]))
    assert (inputs["layer 1"] == 0).float().mean() == 0
    for name in ("layer 2", "layer 2 backwards", "head"):
        assert 0.3 < (inputs[name] == 0).float().mean() < 0.7, name
    model.eval()
    model(*make_batch([8, 8, 8]))
    assert all((given == 0).float().mean() == 0 for given in inputs.values())


def test_padding_gets_no_gradient() -> None:
    model = make_model(pooling=ALL_POOLINGS).train()
    model(*make_batch([4, 9, 1], padding=5)).sum().backward()
    gradient_VE = model.embedding.weight.grad
    assert gradient_VE is not None
    assert (gradient_VE[PAD] == 0).all()
    assert (gradient_VE != 0).any()


def test_padding_starts_as_zero_and_other_tokens_do_not() -> None:
    weight_VE = SentimentLSTM(VOCABULARY, CLASSES, embedding_size=6, hidden_size=5).embedding.weight
    assert (weight_VE[PAD] == 0).all()
    assert (weight_VE[1:] != 0).all()


@pytest.mark.parametrize("layers", [1, 2])
def test_forget_gate_biases_start_at_1(layers: int) -> None:
    """PyTorch adds two biases: their sum must be 1, and 0 for the other gates."""
    model = SentimentLSTM(VOCABULARY, CLASSES, embedding_size=6, hidden_size=5, layers=layers)
    for lstm in (*model.forward_lstms, *model.backward_lstms):
        input_gate, forget, cell, output = (lstm.bias_ih_l0 + lstm.bias_hh_l0).chunk(4)
        assert (forget == 1).all()
        assert all((gate == 0).all() for gate in (input_gate, cell, output))


@pytest.mark.parametrize("lengths", [[1], [4, 1, 3], [2, 2], [6, 5, 4, 3, 2, 1]])
def test_mirror_reverses_each_text_within_its_length(lengths: list[int]) -> None:
    steps = max(lengths) + 2
    values_TBX = torch.randn(steps, len(lengths), 3)
    mirror = reversal(steps, torch.tensor(lengths))
    mirrored_TBX = reversed_texts(values_TBX, mirror)
    for row, length in enumerate(lengths):
        assert torch.equal(mirrored_TBX[:length, row], values_TBX[:length, row].flip(0))
        assert torch.equal(mirrored_TBX[length:, row], values_TBX[length:, row])
    assert torch.equal(reversed_texts(mirrored_TBX, mirror), values_TBX), "it is its own inverse"


def test_mirror_has_the_right_first_and_second_derivative() -> None:
    values_TBX = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    mirror = reversal(5, torch.tensor([5, 1, 3]))

    def curved(values: Tensor) -> Tensor:
        weights = torch.linspace(0.5, 2, values.numel(), dtype=torch.float64).view_as(values)
        return reversed_texts(torch.tanh(values), mirror) ** 2 * weights

    assert torch.autograd.gradcheck(lambda values: reversed_texts(values, mirror), (values_TBX,))
    assert torch.autograd.gradcheck(curved, (values_TBX,))
    assert torch.autograd.gradgradcheck(curved, (values_TBX,))


@pytest.mark.skipif(not lstm_takes_bf16(), reason="bf16 LSTMs do not run on this CPU")
def test_logits_are_fp32_under_autocast() -> None:
    model = make_model(pooling=ALL_POOLINGS).eval()
    batch = make_batch(BATCH_LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        logits_BC = model(*batch)
    assert logits_BC.dtype == torch.float32
    torch.testing.assert_close(logits_BC, model(*batch), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("pooling", [*POOLINGS, ALL_POOLINGS])
def test_pooling_and_head_compute_in_fp32(pooling: str) -> None:
    """A half-precision mean over hundreds of states would lose precision."""
    model = make_model(pooling=pooling).eval()
    read = list(torch.randn(2, 300, 3, 5).bfloat16())
    lengths_B = torch.tensor([300, 1, 17])
    found_BC = model.head_logits(read, lengths_B)
    assert found_BC.dtype == torch.float32
    assert torch.equal(found_BC, model.head_logits([states.float() for states in read], lengths_B))


def test_largest_over_time_shares_its_gradient_among_equals_as_amax_does() -> None:
    values_TBF = torch.randint(0, 3, (6, 4, 5)).double().requires_grad_()  # many are equal
    real_TB = torch.arange(6)[:, None] < torch.tensor([6, 1, 3, 5])
    masked_TBF = values_TBF.masked_fill(~real_TB[:, :, None], -torch.inf)
    weights_BF = torch.randn(4, 5, dtype=torch.float64)
    (expected,) = torch.autograd.grad((masked_TBF.amax(dim=0) * weights_BF).sum(), values_TBF)
    found_BF = MaxOverTime.apply(values_TBF, real_TB)  # type: ignore[no-untyped-call]
    (found,) = torch.autograd.grad((found_BF * weights_BF).sum(), values_TBF)
    assert torch.equal(found_BF, masked_TBF.amax(dim=0))
    torch.testing.assert_close(found, expected)
    assert (found[~real_TB] == 0).all()


# -- kinds of pooling -----------------------------------------------------------------------------


def test_every_kind_of_the_settings_is_computed_and_no_other() -> None:
    assert tuple(pooling.POOLINGS) == POOLINGS
    with pytest.raises(ConfigError, match="'median' is not one of last, mean, max, attention"):
        pooling.pooling_of("median")


@pytest.mark.parametrize("kind", POOLINGS)
@pytest.mark.parametrize("backward", [0, 4])
def test_token_shares_say_where_pooled_values_come_from(kind: str, backward: int) -> None:
    """Shares of weighted states rebuild the vector; shares of picked values count the picks."""
    torch.manual_seed(1)
    states_NF, attention = torch.randn(6, 8), nn.Linear(8, 1, bias=False)
    read = [states_NF[:, None, : 8 - backward]]
    if backward:
        read.append(states_NF[:, None, 8 - backward :].flip(0))
    of = pooling.pooling_of(kind)
    states = pooling.States(read=read, lengths_B=torch.tensor([6]), attention=attention, training=False)
    with torch.no_grad():
        pooled_F = of.pool(states)[0]
        shares_N = torch.from_numpy(of.token_shares(states_NF, backward=backward, attention=attention))
    assert float(shares_N.sum()) == pytest.approx(1)
    mean_F = (shares_N[:, None] * states_NF.double()).sum(dim=0)
    picks_N = (states_NF == pooled_F).double().mean(dim=1)
    assert torch.allclose(mean_F, pooled_F.double(), atol=1e-5) or torch.allclose(picks_N, shares_N)


@BOTH_WAYS
@pytest.mark.parametrize("layers", [1, 2])
def test_a_large_batch_gives_the_bits_of_each_text_alone(layers: int, hidden_size: int) -> None:
    """Also where the inputs of each distinct token are computed once."""
    model = make_model(hidden_size=hidden_size, layers=layers).eval()
    tokens_BT, lengths_B = make_batch(BATCH_LENGTHS * 8, padding=3)
    assert tokens_BT.numel() >= MANY_TOKENS
    with torch.no_grad():
        together_BC = model(tokens_BT, lengths_B)
        assert torch.equal(together_BC, model.logits_of(model.embed(tokens_BT, lengths_B, None), lengths_B))
        if model._predicts_many(tokens_BT):
            for text in range(len(BATCH_LENGTHS)):
                alone_1T = tokens_BT[text : text + 1, : lengths_B[text]]
                alone_1C = model(alone_1T, lengths_B[text : text + 1])
                assert torch.equal(together_BC[text], alone_1C[0])


@pytest.mark.parametrize("learning", [False, True])
def test_distinct_tokens_are_looked_for_only_in_prediction(learning: bool, computed_by: str) -> None:
    model = make_model(hidden_size=16).train(learning)
    tokens_BT, _ = make_batch(BATCH_LENGTHS * 8)
    with torch.no_grad():
        assert model._predicts_many(tokens_BT) == (not learning and computed_by == "compiled")
        assert not model._predicts_many(tokens_BT[:5])
    assert not model._predicts_many(tokens_BT)
