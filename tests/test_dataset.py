"""Token stores to padded batches, and the order of an epoch."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lstm_sentiment.data import dataset as dataset_module
from lstm_sentiment.data.dataset import (
    TextDataset,
    count_tokens,
    length_batches,
    padded_length,
    plan_epoch,
    rank_share,
)
from lstm_sentiment.data.token_store import TokenStore
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.text.spelling import spell
from lstm_sentiment.text.tokenization import PAD, UNKNOWN
from lstm_sentiment.text.tokenizers import Vocabulary

Texts = list[list[str]]
WORDS = [f"w{i}" for i in range(12)]
quick = settings(max_examples=50, deadline=None)
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=25), min_size=1, max_size=8)


def store_of(texts: Texts) -> TokenStore:
    """Return texts as a token store, by a plain implementation."""
    tokens = list(dict.fromkeys(token for text in texts for token in text))
    ids = [tokens.index(token) for text in texts for token in text]
    rows = len(texts)
    return TokenStore(
        name="texts",
        ids_N=np.array(ids, np.int32),
        offsets=np.cumsum([0, *map(len, texts)]),
        labels=np.zeros(rows, np.int32),
        groups=np.zeros(rows, np.int32),
        weights=np.ones(rows),
        hashes=np.arange(rows, dtype=np.uint64),
        lines=np.arange(rows) + 2,
        phrases=np.zeros(rows, bool),
        tokens=tokens,
        label_values=["a"],
        counts={},
        fingerprint="",
    )


def dataset_of(
    texts: Texts, *, rows: list[int] | None = None, max_tokens: int = 400, truncate: str = "head"
) -> TextDataset:
    """Return a dataset of some rows; every second word is known, and row r has class r % 3."""
    chosen = np.arange(len(texts)) if rows is None else np.array(rows)
    return TextDataset(
        store_of(texts),
        chosen,
        chosen % 3,
        vocabulary=Vocabulary(WORDS[::2]),
        max_tokens=max_tokens,
        truncate=truncate,
    )


def cut(text: list[str], max_tokens: int, truncate: str) -> list[str]:
    """Reference implementation of truncation."""
    if len(text) <= max_tokens:
        return text
    if truncate == "head":
        return text[:max_tokens]
    if truncate == "tail":
        return text[-max_tokens:]
    tail = max_tokens // 2
    return text[: max_tokens - tail] + (text[-tail:] if tail else [])


def padded(rows: list[list[int]]) -> list[list[int]]:
    """Reference: rows padded to a multiple of eight."""
    width = -(-max(map(len, rows)) // 8) * 8
    return [row + [PAD] * (width - len(row)) for row in rows]


# --- a batch ---


@given(TEXTS, st.integers(1, 30), st.sampled_from(["head", "tail", "middle"]), st.data())
@example([[], ["w0"] * 9], 3, "middle", None)
@quick
def test_a_batch_equals_rows_truncated_one_by_one(
    texts: Texts, max_tokens: int, truncate: str, data: st.DataObject | None
) -> None:
    rows = list(range(len(texts)))
    if data is not None:
        rows = data.draw(st.lists(st.sampled_from(rows), min_size=1, max_size=6))
    dataset = dataset_of(texts, max_tokens=max_tokens, truncate=truncate)
    batch = dataset.batch(np.array(rows))
    known = {word: i + 2 for i, word in enumerate(WORDS[::2])}
    kept = [cut(texts[row], max_tokens, truncate) for row in rows]
    ids = [[known.get(token, UNKNOWN) for token in text] or [UNKNOWN] for text in kept]
    assert batch.tokens_BT.tolist() == padded(ids)
    assert batch.lengths_B.tolist() == [len(row) for row in ids]
    assert batch.labels_B.tolist() == [row % 3 for row in rows]
    assert batch.rows_B.tolist() == rows
    assert dataset.lengths[rows].tolist() == batch.lengths_B.tolist()
    assert dataset.cut_tokens == sum(max(0, len(text) - max_tokens) for text in texts)
    assert dataset.all_tokens == sum(map(len, texts))


@given(TEXTS, st.integers(1, 10), st.sampled_from(["head", "tail", "middle"]), st.data())
@quick
def test_a_subset_has_the_chosen_rows(
    texts: Texts, max_tokens: int, truncate: str, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.sampled_from(range(len(texts))), min_size=1, max_size=8))
    part = dataset_of(texts, rows=rows, max_tokens=max_tokens, truncate=truncate)
    whole = dataset_of(texts, max_tokens=max_tokens, truncate=truncate)
    assert len(part) == len(rows)
    found, expected = part.batch(np.arange(len(rows))), whole.batch(np.array(rows))
    assert torch.equal(found.tokens_BT, expected.tokens_BT)
    assert torch.equal(found.labels_B, expected.labels_B)
    for place, row in enumerate(rows):
        assert [part.store.tokens[i] for i in part.token_ids(place)] == texts[row]


@given(TEXTS, st.integers(1, 30), st.sampled_from(["head", "tail", "middle"]))
@quick
def test_a_row_does_not_depend_on_its_batch(texts: Texts, max_tokens: int, truncate: str) -> None:
    dataset = dataset_of(texts, max_tokens=max_tokens, truncate=truncate)
    together = dataset.batch(np.arange(len(texts)))
    for row in range(len(texts)):
        alone = dataset.batch(np.array([row]))
        length = int(alone.lengths_B)
        assert length == together.lengths_B[row]
        assert torch.equal(alone.tokens_BT[0, :length], together.tokens_BT[row, :length])
        assert (together.tokens_BT[row, length:] == PAD).all()


@pytest.mark.parametrize("texts", [[[]], [[], []], [["w0"], []], [[], ["w1"]]])
def test_an_empty_text_is_one_unknown_token(texts: Texts) -> None:
    batch = dataset_of(texts).batch(np.arange(len(texts)))
    for row, text in enumerate(texts):
        if not text:
            assert batch.tokens_BT[row].tolist() == [UNKNOWN] + [PAD] * 7
            assert batch.lengths_B[row] == 1


@pytest.mark.parametrize(
    ("truncate", "max_tokens", "kept"),
    [
        ("head", 5, [0, 1, 2, 3, 4]),
        ("tail", 5, [5, 6, 7, 8, 9]),
        ("middle", 5, [0, 1, 2, 8, 9]),
        ("middle", 4, [0, 1, 8, 9]),
        ("middle", 1, [0]),
        ("tail", 10, list(range(10))),
        ("middle", 11, list(range(10))),
    ],
)
def test_truncation_keeps_the_configured_part(truncate: str, max_tokens: int, kept: list[int]) -> None:
    words = [f"v{i}" for i in range(10)]
    dataset = TextDataset(
        store_of([words]),
        np.array([0]),
        np.array([0]),
        vocabulary=Vocabulary(words),
        max_tokens=max_tokens,
        truncate=truncate,
    )
    batch = dataset.batch(np.array([0]))
    assert batch.tokens_BT[0, : int(batch.lengths_B)].tolist() == [i + 2 for i in kept]


@pytest.mark.parametrize("longest", range(1, 40))
def test_batches_are_padded_to_the_next_multiple_of_eight(longest: int) -> None:
    width = dataset_of([["w0"] * longest, ["w1"]]).batch(np.array([0, 1])).tokens_BT.shape[1]
    assert width == padded_length(longest)
    assert width % 8 == 0
    assert longest <= width < longest + 8


def test_batches_have_int64_ids_and_float_weights() -> None:
    batch = dataset_of([["w0"], ["w1"], ["w2"]]).batch(np.array([0, 2]))
    assert {name: tensor.dtype for name, tensor in vars(batch).items()} == {
        "tokens_BT": torch.int64,
        "lengths_B": torch.int64,
        "labels_B": torch.int64,
        "weights_B": torch.float32,
        "shares_B": torch.float32,
        "rows_B": torch.int64,
        "targets_BC": torch.float32,
        "spelling_XK": torch.int32,
    }
    assert batch.weights_B.tolist() == [0.5, 0.5]
    weighted = dataset_of([["w0"], ["w1"]]).batch(np.array([1, 0]), np.array([0.25, 1.75]))
    assert weighted.weights_B.tolist() == weighted.shares_B.tolist() == [0.25, 1.75]
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert {tensor.device.type for tensor in vars(moved).values()} == {"meta"}


def test_mapped_pages_are_released_regularly(monkeypatch: pytest.MonkeyPatch) -> None:
    released = []
    monkeypatch.setattr(TokenStore, "release", lambda store: released.append(store.name))
    monkeypatch.setattr(dataset_module, "RELEASE_EVERY", 6)
    dataset = dataset_of([["w0"]] * 4)
    for rows in ([0, 1, 2, 3], [0], [1], [2, 3], [0], [1, 2, 3]):
        dataset.batch(np.array(rows))
    assert released == ["texts", "texts"]  # after six rows, and six more
    whole = dataset_of([[f"w{i}"] for i in range(4)]).batch(np.array([0, 1, 2, 3]))
    monkeypatch.setattr(dataset_module, "RELEASE_EVERY", 1)
    parts = dataset_of([[f"w{i}"] for i in range(4)]).batch(np.array([0, 1, 2, 3]))
    assert torch.equal(parts.tokens_BT, whole.tokens_BT)
    assert len(released) == 6  # within a batch too


# --- counts ---


@given(TEXTS, st.data())
@quick
def test_counts_equal_a_counter(texts: Texts, data: st.DataObject) -> None:
    rows = sorted(data.draw(st.sets(st.sampled_from(range(len(texts))))))
    store = store_of(texts)
    counts = count_tokens(store, np.array(rows, np.int64))
    expected = Counter(token for row in rows for token in texts[row])
    assert {token: n for token, n in zip(store.tokens, counts.tolist(), strict=True) if n} == dict(expected)


def test_counts_of_many_rows_are_summed_in_chunks() -> None:
    """More rows than one chunk, with empty ones at the boundaries."""
    rows = 250_001
    lengths = np.arange(rows) % 3
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(offsets[-1]) % 5
    store = replace(
        store_of([WORDS[:5]]), ids_N=ids.astype(np.int32), offsets=offsets, labels=np.zeros(rows, np.int32)
    )
    chosen = np.arange(0, rows, 7)
    expected = np.zeros(5, np.int64)
    for row in chosen:
        for i in ids[offsets[row] : offsets[row + 1]]:
            expected[i] += 1
    assert count_tokens(store, chosen).tolist() == expected.tolist()


@given(TEXTS)
@quick
def test_the_share_of_unknown_tokens(texts: Texts) -> None:
    flat = [token for text in texts for token in text]
    unknown = sum(token not in WORDS[::2] for token in flat)
    expected = unknown / len(flat) if flat else 1.0
    assert dataset_of(texts).unknown_share() == pytest.approx(expected)


# --- an epoch ---


def rows_of(steps: list[list[np.ndarray[Any, Any]]]) -> list[int]:
    return [int(row) for step in steps for batch in step for row in batch]


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=300),
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(0, 2**31 - 1),
    st.integers(0, 1000),
)
@quick
def test_an_epoch_is_a_permutation_in_full_batches(
    lengths: list[int], batch_size: int, accumulate: int, seed: int, epoch: int
) -> None:
    arguments = {"batch_size": batch_size, "accumulate": accumulate, "seed": seed, "epoch": epoch}
    np.random.seed(0)
    steps = plan_epoch(np.array(lengths), **arguments)
    assert sorted(rows_of(steps)) == list(range(len(lengths)))
    sizes = [len(batch) for step in steps for batch in step]
    pool = batch_size * dataset_module.POOL_BATCHES
    expected = [
        size
        for start in range(0, len(lengths), pool)
        for size in part_sizes(lengths, start, pool, batch_size)
    ]
    assert sorted(sizes) == sorted(expected)
    assert len(sizes) == -(-len(lengths) // batch_size)
    assert [len(step) for step in steps[:-1]] == [accumulate] * (len(steps) - 1)
    assert 1 <= len(steps[-1]) <= accumulate
    np.random.seed(1)
    again = plan_epoch(np.array(lengths), **arguments)
    assert [[batch.tolist() for batch in step] for step in again] == [
        [batch.tolist() for batch in step] for step in steps
    ]


def part_sizes(lengths: list[int], start: int, pool: int, batch_size: int) -> list[int]:
    """Return the batch sizes of one pool of rows."""
    count = min(pool, len(lengths) - start)
    return [min(batch_size, count - i) for i in range(0, count, batch_size)]


def test_every_epoch_and_seed_has_its_own_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 500)
    orders = {
        tuple(rows_of(plan_epoch(lengths, batch_size=16, accumulate=1, seed=seed, epoch=epoch)))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_an_epoch_does_not_start_with_short_texts() -> None:
    """The order of batches is not the order of lengths."""
    lengths = np.arange(1, 3201)
    steps = plan_epoch(lengths, batch_size=32, accumulate=1, seed=0, epoch=0)
    longest = np.array([lengths[step[0]].max() for step in steps], float)
    places = np.arange(len(longest), dtype=float)
    assert abs(np.corrcoef(longest, places)[0, 1]) < 0.3


def test_accumulating_changes_how_batches_are_grouped_and_not_which() -> None:
    lengths = np.random.default_rng(0).integers(1, 400, 500)
    single = plan_epoch(lengths, batch_size=16, accumulate=1, seed=0, epoch=3)
    double = plan_epoch(lengths, batch_size=16, accumulate=2, seed=0, epoch=3)
    assert rows_of(single) == rows_of(double)


def test_little_is_padded() -> None:
    """Lengths as in a corpus of film reviews: mean 238, median 178, truncated to 400."""
    random = np.random.default_rng(0)
    raw = random.lognormal(np.log(178), np.sqrt(2 * np.log(238 / 178)), 20_000)
    lengths = np.clip(raw.astype(np.int64), 1, 400)
    steps = plan_epoch(lengths, batch_size=64, accumulate=1, seed=0, epoch=0)
    places = sum(len(batch) * padded_length(int(lengths[batch].max())) for step in steps for batch in step)
    assert lengths.sum() / places >= 0.95
    unsorted = sum(
        64 * padded_length(int(lengths[start : start + 64].max())) for start in range(0, len(lengths), 64)
    )
    assert lengths.sum() / unsorted < 0.7


# --- processes ---


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 8))
@quick
def test_processes_share_a_step_fairly(sizes: list[int], world_size: int) -> None:
    ends = np.cumsum([0, *sizes])
    rows = np.random.default_rng(0).permutation(int(ends[-1])) + 100
    step = [rows[a:b] for a, b in itertools.pairwise(ends)]
    shares = [rank_share(step, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(share) for share in shares} == {len(step)}
    counted: Counter[int] = Counter()
    total = 0.0
    for share in shares:
        for (of_rank, weights), batch in zip(share, step, strict=True):
            assert len(of_rank) == len(weights) >= 1
            assert len(of_rank) <= -(-len(batch) // world_size)
            assert set(of_rank.tolist()) <= set(batch.tolist())
            counted.update(row for row, weight in zip(of_rank.tolist(), weights, strict=True) if weight > 0)
            total += weights.sum()
    assert counted == Counter(rows.tolist())
    assert total / world_size == pytest.approx(1)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 8))
@quick
def test_the_mean_over_processes_is_the_mean_over_rows(sizes: list[int], world_size: int) -> None:
    """Simulates gradient averaging over processes, with a loss per row instead of a gradient."""
    ends = np.cumsum([0, *sizes])
    step = [np.arange(a, b) for a, b in itertools.pairwise(ends)]
    loss = np.random.default_rng(1).normal(size=int(ends[-1]))
    sums = [
        sum(
            float((loss[rows] * weights).sum())
            for rows, weights in rank_share(step, rank=r, world_size=world_size)
        )
        for r in range(world_size)
    ]
    assert np.mean(sums) == pytest.approx(loss.mean())


def test_one_process_has_the_whole_step() -> None:
    step = [np.array([5, 3]), np.array([4])]
    share = rank_share(step, rank=0, world_size=1)
    assert [rows.tolist() for rows, _ in share] == [[5, 3], [4]]
    assert np.concatenate([weights for _, weights in share]) == pytest.approx([1 / 3] * 3)


# --- evaluation ---


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 20))
@quick
def test_evaluation_sees_each_row_once_longest_first(lengths: list[int], batch_size: int) -> None:
    batches = length_batches(np.array(lengths), batch_size=batch_size)
    rows = [int(row) for batch in batches for row in batch]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size


def test_prediction_disables_dropout_and_restores_the_mode() -> None:
    dataset = dataset_of([WORDS[:4], WORDS[2:9]])
    model = SentimentLSTM(8, 3, embedding_size=4, hidden_size=4, dropout=0.5, word_dropout=0.5)
    for training in (True, False):
        model.train(training)
        answers = [predict_logits(model, dataset, device=torch.device("cpu"), batch_size=2) for _ in range(2)]
        assert torch.equal(*answers)
        assert model.training == training
    batch = dataset.batch(np.arange(2))
    assert not torch.equal(model.train()(*batch.inputs), model(*batch.inputs)), "there is no dropout"


def test_unknown_tokens_are_numbered_within_a_batch_and_spelt() -> None:
    texts = [["w1", "w0", "w3"], ["w3"], [], ["w2", "w1"]]
    store = store_of(texts)
    dataset = TextDataset(
        store,
        np.arange(4),
        np.zeros(4, np.int64),
        vocabulary=Vocabulary(["w0", "w2"]),
        max_tokens=400,
        truncate="head",
        subwords=100,
    )
    batch = dataset.batch(np.array([0, 1, 2, 3]))
    ids = dict(zip(["w1", "w0", "w3"], batch.tokens_BT[0].tolist()[:3], strict=True))
    assert ids["w0"] == 2
    assert sorted([ids["w1"], ids["w3"]]) == [4, 5]
    assert batch.tokens_BT[1, 0] == ids["w3"]
    assert batch.tokens_BT[2].tolist() == [UNKNOWN] + [PAD] * 7
    assert batch.tokens_BT[3, :2].tolist() == [3, ids["w1"]]
    spelt = spell([token for token, i in sorted(ids.items(), key=lambda item: item[1]) if i >= 4], 100)
    assert batch.spelling_XK.tolist() == spelt.tolist()
    assert dataset.batch(np.array([1])).tokens_BT[0, 0] == 4  # numbered per batch
    assert dataset.unknown_share() == pytest.approx(4 / 6)
