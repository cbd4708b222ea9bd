"""Subword embeddings: the n-grams of a token and their embedding."""

from __future__ import annotations

import copy
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import PackedSentimentLSTM

from lstm_sentiment.kernels.spelling import available
from lstm_sentiment.models.network import new_lstm
from lstm_sentiment.text import tokenization
from lstm_sentiment.text.spelling import spell
from lstm_sentiment.text.subwords import SubwordVectors
from lstm_sentiment.text.tokenization import MOST_PLACES, NOTHING
from lstm_sentiment.text.tokenizers import Vocabulary

MANY = 1 << 22  # buckets: two n-grams of a test hardly ever share one
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


def grams(token: str) -> set[str]:
    """Reference: the n-grams of a token with boundary characters."""
    spelt = "\x02" + token.lower() + "\x03"
    return {spelt[i : i + n] for n in (2, 3, 4) for i in range(len(spelt) - n + 1)}


def places(token: str, buckets: int = MANY) -> set[int]:
    return set(spell([token], buckets)[0].tolist()) - {NOTHING}


@quick
@given(st.lists(texts, max_size=8), st.sampled_from([2, 3, 50, MANY]))
def test_hash_buckets_of_a_token_do_not_depend_on_others(tokens: list[str], buckets: int) -> None:
    together = spell(tokens, buckets)
    assert together.shape == (len(tokens), MOST_PLACES)
    assert together.dtype == np.int32
    assert together.min(initial=0) >= 0
    assert together.max(initial=0) < buckets
    for row, token in zip(together, tokens, strict=True):
        np.testing.assert_array_equal(row, spell([token], buckets)[0])
        kept = row[row != NOTHING].tolist()
        assert kept == sorted(set(kept)) == row[: len(kept)].tolist()
        assert len(kept) <= MOST_PLACES
        assert bool(kept) != bool(re.fullmatch("<[a-z]+>", token))


@pytest.mark.skipif(not available(), reason="not compiled on this machine")
@quick
@given(st.lists(st.text(max_size=80), max_size=8), st.sampled_from([2, 3, 50, 16_384]))
def test_the_compiled_function_gives_the_buckets_of_tokenization(tokens: list[str], buckets: int) -> None:
    found = spell(["<url>", "<URL>", *tokens], buckets)
    np.testing.assert_array_equal(found, tokenization.spell(["<url>", "<URL>", *tokens], buckets))
    assert found.dtype == np.int32


@quick
@given(texts, texts)
def test_tokens_share_as_many_buckets_as_ngrams(one: str, other: str) -> None:
    if max(len(grams(one)), len(grams(other))) <= MOST_PLACES:
        assert len(places(one)) == len(grams(one))
        assert len(places(one) & places(other)) == len(grams(one) & grams(other))


def test_a_misspelt_word_is_closest_to_its_correct_form() -> None:
    shared = {word: len(places("terrible") & places(word)) for word in ("terible", "terribleee", "wonderful")}
    assert shared["terible"] >= 10
    assert shared["terribleee"] >= 15
    assert shared["wonderful"] == 1  # "er"
    assert places("ab") != places("ba")


def test_case_is_ignored_and_placeholders_have_no_subwords() -> None:
    assert places("GReaT") == places("great")
    assert not spell(["<pad>", "<unk>", "<url>", "<user>"], 100).any()
    assert spell(["<3", "<", ">", "<a1>"], 100).any(axis=1).all()
    assert spell([], 100).shape == (0, MOST_PLACES)


def test_a_long_token_uses_at_most_the_maximal_number_of_buckets() -> None:
    assert len(places("pneumonoultramicroscopicsilicovolcanoconiosis")) == MOST_PLACES


def test_hashes_fill_the_table_evenly() -> None:
    tokens = [chr(0x4E00 + i) for i in range(2000)]  # no two share an n-gram
    table = spell(tokens, 101)
    counts = np.bincount(table[table != NOTHING], minlength=101)[1:]
    assert 0.7 < counts.std() / counts.mean() ** 0.5 < 1.3  # as of a Poisson law


def test_hashing_is_the_same_on_every_machine() -> None:
    """Checkpoints depend on the hash function."""
    expected = [[2846, 3247, 3404, 3758, 6226], [426, 891, 1687, 1852, 6674]]
    assert spell(["good", "ist's"], 16_384)[:, :5].tolist() == expected


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_model_equals_a_plain_implementation(bidirectional: bool) -> None:
    torch.manual_seed(0)
    vocabulary = Vocabulary(["good", "bad", "<url>", "the"])
    model = new_lstm(vocabulary, 3, subwords=50, embedding_size=6, hidden_size=5, bidirectional=bidirectional)
    tokens_BT = torch.tensor([[2, 6, 3, 4], [7, 6, 0, 0], [1, 5, 5, 0]])
    inputs = tokens_BT, torch.tensor([4, 2, 3]), torch.from_numpy(spell(["goood", "xyz"], 50))
    twin = PackedSentimentLSTM(model)
    ours_BC, theirs_BC = model(*inputs), twin(*inputs)
    torch.testing.assert_close(ours_BC, theirs_BC, atol=1e-6, rtol=1e-6)
    direction_BC = torch.randn(ours_BC.shape)
    ours_BC.backward(direction_BC)
    theirs_BC.backward(direction_BC)
    found = dict(model.named_parameters())
    for name, parameter in twin.weights().items():
        gradient, expected = found[name].grad, parameter.grad
        assert gradient is not None
        assert expected is not None
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5, msg=name)
    assert model.subwords is not None
    moved = model.subwords.table.weight.grad
    assert moved is not None
    assert not moved[NOTHING].any()


def test_folding_does_not_change_predictions() -> None:
    torch.manual_seed(0)
    model = new_lstm(Vocabulary(["good", "bad"]), 3, subwords=50, embedding_size=6, hidden_size=5).eval()
    tokens_BT = torch.tensor([[2, 5, 3, 4], [3, 1, 0, 0]])
    inputs = tokens_BT, torch.tensor([4, 2]), torch.from_numpy(spell(["goood", "xyz"], 50))
    with torch.no_grad():
        before_BC, before_VE = model(*inputs), model.embedding.weight.clone()
        model.fold_subwords()
        model.fold_subwords()  # the second time does nothing
        torch.testing.assert_close(model(*inputs), before_BC, atol=1e-6, rtol=1e-6)
        known = tokens_BT[1:], torch.tensor([2])
        torch.testing.assert_close(model(*known), before_BC[1:], atol=1e-6, rtol=1e-6)
    assert torch.equal(model.embedding.weight, before_VE), "what is folded is no weight"


@pytest.mark.parametrize("initial", [True, False])
def test_vectors_are_folded_lazily(initial: bool) -> None:
    """Bit-equal, whatever tokens were seen before."""
    torch.manual_seed(0)
    words = [f"w{i}" for i in range(198)]
    sizes: dict[str, Any] = {"subwords": 50, "embedding_size": 6, "hidden_size": 5}
    model = new_lstm(Vocabulary(words), 3, **sizes).eval()
    expected_VE = model.token_vectors()
    loaded = new_lstm(Vocabulary(words), 3, initial=initial, **sizes).eval()
    loaded.load_state_dict(model.state_dict())
    loaded.fold_subwords()
    assert loaded.folded is not None
    met: set[int] = set()
    with torch.inference_mode():
        for _ in range(20):
            tokens_TB = torch.randint(0, 200, (7, 2))
            found_TBE = loaded.look_up(tokens_TB, None)
            assert torch.equal(found_TBE, expected_VE[tokens_TB])
            met |= set(tokens_TB.flatten().tolist())
            assert set(loaded.folded.is_there_V.nonzero().flatten().tolist()) == met
    assert torch.equal(loaded.token_vectors(), expected_VE)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    copy_TBE = copy.deepcopy(loaded).look_up(tokens_TB, None)
    assert torch.equal(copy_TBE, found_TBE)


def test_many_threads_may_fold_the_same_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread sees only complete vectors; slow hashing provokes a race."""
    torch.manual_seed(0)
    words = [f"w{i}" for i in range(98)]
    model = new_lstm(Vocabulary(words), 3, subwords=50, embedding_size=64, hidden_size=2, initial=False)
    torch.nn.init.normal_(model.embedding.weight)
    assert model.subwords is not None
    torch.nn.init.normal_(model.subwords.table.weight)
    expected_VE = model.token_vectors()
    spelt: list[int] = []

    def slowly(tokens: Any, buckets: int) -> Any:
        spelt.append(len(tokens))
        time.sleep(0.002)
        return spell(tokens, buckets)

    monkeypatch.setattr("lstm_sentiment.text.subwords.spell", slowly)
    model.fold_subwords()

    def read(seed: int) -> bool:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(20):
            tokens_TB = torch.randint(0, 100, (5, 3), generator=generator)
            if not torch.equal(model.look_up(tokens_TB, None), expected_VE[tokens_TB]):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(16)))
    assert sum(spelt) <= 100, "a token was spelt twice"


def test_ids_of_unknown_tokens_may_be_numbered_in_any_order() -> None:
    torch.manual_seed(0)
    model = new_lstm(Vocabulary(["good"]), 2, subwords=50, embedding_size=4, hidden_size=4).eval()
    length_1 = torch.tensor([3])
    one = model(torch.tensor([[2, 3, 4]]), length_1, torch.from_numpy(spell(["ab", "cd"], 50)))
    other = model(torch.tensor([[2, 4, 3]]), length_1, torch.from_numpy(spell(["cd", "ab"], 50)))
    swapped = model(torch.tensor([[2, 3, 4]]), length_1, torch.from_numpy(spell(["cd", "ab"], 50)))
    torch.testing.assert_close(one, other)
    assert (one - swapped).abs().max() > 1e-5


def test_the_hash_buckets_of_the_vocabulary_are_not_saved() -> None:
    """They follow from the vocabulary, so they are not part of a checkpoint."""
    assert list(SubwordVectors(["<pad>", "<unk>", "a"], 10, 4).state_dict()) == ["table.weight"]
