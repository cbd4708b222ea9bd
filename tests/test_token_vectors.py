"""Vectors of tokens, words with or without n-grams, and their gradients: compiled, and by PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lstm_sentiment.kernels import subwords as kernel
from lstm_sentiment.kernels.library import library
from lstm_sentiment.text.subwords import SubwordVectors, nothing_spelt, token_vectors
from lstm_sentiment.text.tokenization import MOST_PLACES, UNKNOWN

needs_kernel = pytest.mark.skipif(library() is None, reason="no compiled kernels on this machine")
KNOWN, UNKNOWN_TOKENS, BUCKETS = 12, 4, 40
arms = pytest.mark.parametrize("arm", [pytest.param("compiled", marks=needs_kernel), "PyTorch"])


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def use(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if arm == "PyTorch":
        monkeypatch.setattr("lstm_sentiment.kernels.library.library", lambda *_: None)


def make(size: int, *, ngrams: bool = True) -> tuple[nn.Embedding, SubwordVectors | None, Tensor]:
    """Return random tables, and buckets: tokens with none, one and all, with gaps, and many in common."""
    torch.manual_seed(size)
    words = nn.Embedding(KNOWN, size, sparse=True)
    if not ngrams:
        return words, None, nothing_spelt()
    subwords = SubwordVectors(["<pad>"] * KNOWN, BUCKETS, size)
    subwords.table.sparse = True
    spelling = torch.randint(0, BUCKETS, (KNOWN + UNKNOWN_TOKENS, MOST_PLACES), dtype=torch.int32)
    spelling[torch.rand(spelling.shape) < 0.6] = 0
    spelling[2], spelling[3, 1:], spelling[-1] = 0, 0, 7
    subwords.spelling_VK = spelling[:KNOWN].contiguous()
    return words, subwords, spelling[KNOWN:].contiguous()


def one_by_one(ids: Tensor, words: Tensor, table: Tensor | None, spelling: Tensor) -> Tensor:
    """Compute each token's vector alone, in the precision of the tables."""
    found = []
    for i in ids.flatten().tolist():
        vector = words[i if i < KNOWN else UNKNOWN]
        if table is not None:
            buckets = spelling[i][spelling[i] != 0].long()
            vector = vector + table[buckets].sum(dim=0) / max(1, len(buckets)) ** 0.5
        found.append(vector)
    return torch.stack(found).view(*ids.shape, -1)


def compute(ids: Tensor, made: Any, upstream: Tensor) -> list[Tensor]:
    """Return the vectors, and the coalesced gradient of each table."""
    words, subwords, spelling_XK = made
    tables = [words.weight] if subwords is None else [words.weight, subwords.table.weight]
    vectors = token_vectors(ids, words, subwords, spelling_XK)
    gradients = [of.coalesce() for of in torch.autograd.grad(vectors, tables, upstream)]
    return [vectors.detach(), *(part for of in gradients for part in (of.indices(), of.values()))]


ids_of_a_batch = st.lists(st.integers(0, KNOWN + UNKNOWN_TOKENS - 1), min_size=1, max_size=40)


@pytest.mark.parametrize("here", [pytest.param(True, marks=needs_kernel), False])
@settings(deadline=None, max_examples=40)
@given(ids_of_a_batch, st.sampled_from([1, 8, 20, 64, 200]), st.booleans(), st.booleans(), st.integers(1, 5))
def test_equals_vectors_computed_one_by_one(
    here: bool, tokens: list[int], size: int, ngrams: bool, sparse: bool, threads: int
) -> None:
    torch.set_num_threads(threads)
    words, subwords, spelling_XK = make(size, ngrams=ngrams)
    ids = torch.tensor(tokens)
    ids = ids if subwords is not None else ids.clamp(max=KNOWN - 1)
    ids = ids.view(2, -1).t() if len(ids) % 2 == 0 else ids  # a view, as of a batch
    learned = [words.weight]
    words.sparse, spelling = sparse, spelling_XK
    if subwords is not None:
        assert subwords.spelling_VK is not None
        subwords.table.sparse = sparse
        learned.append(subwords.table.weight)
        spelling = torch.cat([subwords.spelling_VK, spelling_XK])
    exact = [of.detach().double().requires_grad_() for of in learned]
    with pytest.MonkeyPatch.context() as monkeypatch:
        use("compiled" if here else "PyTorch", monkeypatch)
        found = token_vectors(ids, words, subwords, spelling_XK)
        upstream = torch.randn(found.shape)
        gradients = torch.autograd.grad(found, learned, upstream)
    expected = one_by_one(ids, exact[0], exact[1] if ngrams else None, spelling)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, exact, upstream.double()), strict=True):
        assert ours.is_sparse == sparse
        dense = ours.to_dense() if sparse else ours
        torch.testing.assert_close(dense.double(), theirs, atol=1e-5, rtol=1e-5)


@needs_kernel
@pytest.mark.parametrize("size", [20, 128])
def test_both_ways_give_the_same_bits(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of vectors; the order of PyTorch's sums of gradients is not defined."""
    ids, made = torch.randint(0, KNOWN + UNKNOWN_TOKENS, (7, 9)), make(size)
    found = []
    for arm in ("compiled", "PyTorch"):
        use(arm, monkeypatch)
        found.append(compute(ids, made, torch.ones(7, 9, size)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][3], found[1][3])


@needs_kernel
@pytest.mark.parametrize("ngrams", [True, False])
def test_vectors_are_bit_equal_in_any_batch_and_gradients_with_any_number_of_threads(ngrams: bool) -> None:
    made = make(72, ngrams=ngrams)
    ids = torch.randint(0, KNOWN + (UNKNOWN_TOKENS if ngrams else 0), (11, 9))
    upstream, found = torch.randn(11, 9, 72), []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found.append(compute(ids, made, upstream))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(other, found[0], strict=True))
    for t, b in ((0, 0), (3, 8), (10, 4)):
        alone_11E = compute(ids[t : t + 1, b : b + 1], made, upstream[:1, :1])[0]
        assert torch.equal(found[0][0][t, b], alone_11E[0, 0])


@needs_kernel
def test_gradients_are_summed_in_the_order_of_tokens() -> None:
    (words, subwords, spelling_XK), ids = make(20), torch.tensor([3, 13, 5, 3, 12, 1, 3, 13])
    assert subwords is not None
    assert subwords.spelling_VK is not None
    upstream = torch.randn(8, 20)
    *_, word_rows, of_words, bucket_rows, of_buckets = compute(ids, (words, subwords, spelling_XK), upstream)
    spelling = torch.cat([subwords.spelling_VK, spelling_XK])
    of_tokens = {i: sum(upstream[n] for n in range(8) if ids[n] == i) for i in sorted(set(ids.tolist()))}
    expected = {i: of for i, of in of_tokens.items() if i < KNOWN}
    expected[1] = expected[1] + of_tokens[12] + of_tokens[13]
    assert word_rows[0].tolist() == sorted(expected)
    assert torch.equal(of_words, torch.stack([torch.as_tensor(expected[i]) for i in sorted(expected)]))
    used: dict[int, Tensor] = {}
    for i, of_token in of_tokens.items():
        buckets = [bucket for bucket in spelling[i].tolist() if bucket]
        for bucket in buckets:
            share = of_token / torch.tensor(len(buckets)).double().sqrt().float()
            used[bucket] = used[bucket] + share if bucket in used else share
    assert bucket_rows[0].tolist() == sorted(used)
    assert torch.equal(of_buckets, torch.stack([used[bucket] for bucket in sorted(used)]))


@arms
@pytest.mark.parametrize("frozen", ["words", "n-grams"])
def test_only_requested_gradients_are_computed(
    frozen: str, arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(arm, monkeypatch)
    (words, subwords, spelling_XK), ids = make(8), torch.tensor([[2, 13], [13, 5]])
    assert subwords is not None
    tables = [words.weight, subwords.table.weight]
    whole = token_vectors(ids, words, subwords, spelling_XK)
    expected = torch.autograd.grad(whole.sum(), tables)
    still, moving = tables if frozen == "words" else tables[::-1]
    still.requires_grad_(requires_grad=False)
    token_vectors(ids, words, subwords, spelling_XK).sum().backward()
    assert still.grad is None
    assert moving.grad is not None
    assert torch.equal(moving.grad.to_dense(), expected[frozen == "words"].to_dense())
    moving.requires_grad_(requires_grad=False)
    assert not token_vectors(ids, words, subwords, spelling_XK).requires_grad


@needs_kernel
@pytest.mark.parametrize(
    "case",
    [
        "beyond",
        "below",
        "unknown",
        "bucket",
        "negative bucket",
        "unknown's bucket",
        "spelling",
        "places",
        "size",
    ],
)
def test_mismatched_shapes_and_indices_are_refused(case: str) -> None:
    """The kernel would read or write out of bounds."""
    words, subwords, spelling_XK = make(8)
    assert subwords is not None
    assert subwords.spelling_VK is not None
    highest = KNOWN + UNKNOWN_TOKENS
    odd_id = {"beyond": highest, "below": -1, "unknown": highest - 1}.get(case, highest - 2)
    ids, table_RE, spelling_VK = torch.tensor([3, odd_id]), subwords.table.weight, subwords.spelling_VK
    if case == "unknown":
        spelling_XK = spelling_XK[:-1]
    elif case in ("bucket", "negative bucket"):
        spelling_VK[3, 31] = BUCKETS if case == "bucket" else -1
    elif case == "unknown's bucket":
        spelling_XK[-2, 0] = BUCKETS
    elif case == "spelling":
        spelling_VK = spelling_VK[:-1]
    elif case == "places":
        spelling_XK = spelling_XK[:, :-1]
    elif case == "size":
        table_RE = torch.zeros(BUCKETS, 9)
    ngrams = kernel.Ngrams(table_RE=table_RE, spelling_VK=spelling_VK, spelling_XK=spelling_XK, sparse=True)
    with pytest.raises(ValueError, match=r"do not match|are out of range"):
        kernel.vectors(ids, words.weight, ngrams, sparse=True)


@needs_kernel
def test_an_unknown_id_of_a_model_without_ngrams_is_refused() -> None:
    with pytest.raises(
        ValueError, match="ids 3 to 12, or buckets, are out of range: there are 12 known and 0"
    ):
        token_vectors(torch.tensor([3, KNOWN]), make(8, ngrams=False)[0], None, nothing_spelt())


@needs_kernel
def test_the_kernel_is_used_only_if_it_can_be() -> None:
    ids, words_VE = torch.zeros(3, dtype=torch.int64), torch.zeros(4, 2)
    assert kernel.applies(ids, words_VE, None)
    assert not kernel.applies(ids[:0], words_VE, None)
    assert not kernel.applies(ids, words_VE.double(), None)
    assert not kernel.applies(ids.to("meta"), words_VE, None)


def make_folded(size: int) -> tuple[kernel.Folded, Tensor, Tensor]:
    """Return tables without any vector, and the buckets of known and unknown tokens."""
    words, subwords, spelling_XK = make(size)
    assert subwords is not None
    assert subwords.spelling_VK is not None
    subwords.spelling_VK[UNKNOWN] = 0
    folded = kernel.Folded(
        vectors_VE=torch.full((KNOWN, size), torch.nan),
        is_there_V=torch.zeros(KNOWN, dtype=torch.bool),
        words_VE=words.weight.detach(),
        table_RE=subwords.table.weight.detach(),
    )
    return folded, subwords.spelling_VK, spelling_XK


@needs_kernel
@pytest.mark.parametrize("size", [5, 64])
def test_kept_vectors_are_those_computed_one_by_one(size: int) -> None:
    folded, spelling_VK, spelling_XK = make_folded(size)
    ids = torch.tensor([[3, KNOWN, 3], [UNKNOWN, KNOWN + 3, 7]])
    assert kernel.look_up(ids, spelling_XK, folded)[1].tolist() == [3, UNKNOWN, 3, UNKNOWN, UNKNOWN, 7]
    for known in ([3, 3], [7, UNKNOWN]):
        kernel.fold(torch.tensor(known), spelling_VK[known], folded)
    found, missing = kernel.look_up(ids, spelling_XK, folded)
    spelling = torch.cat([spelling_VK, spelling_XK])
    assert not len(missing)
    torch.testing.assert_close(found, one_by_one(ids, folded.words_VE, folded.table_RE, spelling))
    kernel.fold(torch.tensor([3]), spelling_VK[:1], folded)  # never computed again: it may be in use
    assert torch.equal(kernel.look_up(ids, spelling_XK, folded)[0], found)


@needs_kernel
@pytest.mark.parametrize(
    "fault", ["id", "negative id", "bucket", "folded id", "folded bucket", "table", "type"]
)
def test_kept_vectors_are_not_read_or_written_out_of_range(fault: str) -> None:
    folded, spelling_VK, spelling_XK = make_folded(8)
    ids = torch.tensor([KNOWN, KNOWN + 1])
    kernel.fold(torch.tensor([UNKNOWN]), torch.zeros_like(spelling_VK[:1]), folded)
    if "id" in fault:
        ids[0] = -1 if fault == "negative id" else KNOWN if fault == "folded id" else KNOWN + UNKNOWN_TOKENS
    elif "bucket" in fault:
        ids = torch.tensor([2, 3]) if fault == "folded bucket" else ids
        spelling_VK[1, 31] = spelling_XK[1, 31] = BUCKETS
    elif fault == "table":
        folded = dataclasses.replace(folded, table_RE=torch.zeros(BUCKETS, 9))
    else:
        spelling_XK = spelling_XK.long()
    call, spelling = (kernel.fold, spelling_VK[:2]) if "folded" in fault else (kernel.look_up, spelling_XK)
    with pytest.raises(ValueError, match=r"do not match|are out of range"):
        call(ids, spelling, folded)
