"""Language models: data, loss, training, and starting a classifier from them.

Legend: B texts, T padded length, L length of one text, V tokens of the vocabulary, W windows.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import killed_at_save, make_rows, write_csv
from forks import start_job
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lstm_sentiment
from lstm_sentiment import predict, pretrain, train
from lstm_sentiment.adaptation import pretrained as transfer
from lstm_sentiment.adaptation.pretrained import TAKEN, load_pretrained
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, RunFolder
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.command_line import config_yaml, parse_config, parse_settings
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import prepare
from lstm_sentiment.data.dataset import rank_share
from lstm_sentiment.data.token_store import TokenStore, cache_folder, join_stores
from lstm_sentiment.errors import ConfigError, DataError, RunError
from lstm_sentiment.estimator import SentimentEstimator
from lstm_sentiment.experiment.train import initial_model, run
from lstm_sentiment.models.layers import layer_depths
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.network import NgramBranch, WideAndDeep
from lstm_sentiment.pretraining.config import PretrainConfig, PretrainDataConfig
from lstm_sentiment.pretraining.language_model import LanguageModel, draw_tokens
from lstm_sentiment.pretraining.next_token import NextToken, unigram_perplexity
from lstm_sentiment.pretraining.run import pretrain as run_pretraining
from lstm_sentiment.pretraining.windows import Texts, cut_windows, read_texts
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.training.optimizer import adamw

Configure = Callable[..., Config]
PretrainConfigure = Callable[..., PretrainConfig]
SIZES = {"embedding_size": 8, "hidden_size": 6}
SMALL = (
    "--model.embedding_size=16",
    "--model.hidden_size=16",
    "--text.min_frequency=1",
    "--trainer.threads=1",
    "--trainer.keep_for_resume=true",
    "--trainer.precision=fp32",
    "--trainer.batch_size=16",
)
NEXT = {"red": "apples", "green": "pears", "blue": "plums", "apples": "fall", "pears": "rot", "plums": "dry"}


def chained_texts(count: int) -> list[str]:
    """Return distinct texts in which two of three words are determined by the previous and the next one."""
    randomness = random.Random(0)
    texts = []
    for i in range(count):
        words: list[str] = [f"n{i}"]
        for _ in range(randomness.randint(2, 5)):
            first = randomness.choice(["red", "green", "blue"])
            words += [first, NEXT[first], NEXT[NEXT[first]]]
        texts.append(" ".join(words))
    return texts


def write_texts(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def pretraining(tmp_path: Path) -> PretrainConfigure:
    """A function that returns the configuration of a tiny, fast run on predictable texts."""
    texts = write_texts(tmp_path / "texts.jsonl", chained_texts(150))

    def make(*argv: str) -> PretrainConfig:
        small = [f"--data.train={texts}", f"--out={tmp_path / 'pretrained'}", *SMALL, "--model.samples=20"]
        small += ["--trainer.learning_rate=0.03", "--trainer.epochs=3", "--trainer.ema=0.8"]
        return parse_settings(PretrainConfig, [*small, *argv], program="test", description="")

    return make


def read(config: PretrainConfig) -> Texts:
    return read_texts(config.data, config.text, seed=config.seed, cache=cache_folder())


def texts_of(found: Texts) -> dict[str, int]:
    return {split: of.texts for split, of in found.facts.splits.items()}


def random_model(size: int = 12, *, samples: int = 0, **given: Any) -> LanguageModel:
    """Return a model with weights large enough for errors to show."""
    model = LanguageModel(torch.ones(size), samples=samples, **{**SIZES, **given})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.7)
    return model


def losses_one_by_one(model: LanguageModel, tokens_L: Tensor) -> tuple[float, float]:
    """Reference: the loss of each direction on one text, token by token, nats."""
    size = model.forward_lstms[0].hidden_size
    totals = []
    for d, lstm in enumerate([model.forward_lstms[0], model.backward_lstms[0]]):
        order = tokens_L if d == 0 else tokens_L.flip(0)
        total = 0.0
        for i in range(1, len(order)):
            state_H = lstm(model.embedding(order[:i])[:, None])[0][-1, 0]
            vector_E = model.head.weight[:, d * size : (d + 1) * size] @ state_H + model.head.bias
            logits = [model.embedding.weight[v] @ vector_E + model.bias[v - 1] for v in range(1, 12)]
            shares = torch.stack(logits).softmax(0)
            total -= math.log(shares[order[i] - 1])
        totals.append(total)
    return totals[0], totals[1]


# -- loss of a token -------------------------------------------------------------------------------


@torch.no_grad()
def test_losses_equal_a_loop_over_tokens() -> None:
    model = random_model().eval()
    texts = [torch.tensor([5, 6, 7, 1, 11, 5]), torch.tensor([3, 9]), torch.tensor([4])]
    tokens_BT = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    costs_BD = model(tokens_BT, torch.tensor([len(text) for text in texts]))
    expected = torch.tensor([losses_one_by_one(model, text) for text in texts])
    torch.testing.assert_close(costs_BD, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_large_vocabularies_are_predicted_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model().eval()
    tokens_BT, lengths_B = torch.randint(1, 12, (4, 9)), torch.tensor([9, 9, 5, 2])
    whole_BD = model(tokens_BT, lengths_B)
    monkeypatch.setattr("lstm_sentiment.pretraining.language_model.LOGITS_AT_ONCE", 30)
    torch.testing.assert_close(model(tokens_BT, lengths_B), whole_BD)


@torch.no_grad()
def test_reversing_text_and_directions_gives_the_same_loss() -> None:
    """The backward model reads backwards."""
    model = random_model().eval()
    swapped = random_model().eval()
    swapped.load_state_dict(model.state_dict())
    swapped.forward_lstms.load_state_dict(model.backward_lstms.state_dict())
    swapped.backward_lstms.load_state_dict(model.forward_lstms.state_dict())
    left, right = model.head.weight.chunk(2, dim=1)
    swapped.head.weight.copy_(torch.cat([right, left], dim=1))
    tokens_BT, lengths_B = torch.tensor([[5, 6, 7, 9], [3, 8, 0, 0]]), torch.tensor([4, 2])
    reversed_BT = torch.tensor([[9, 7, 6, 5], [8, 3, 0, 0]])
    costs_BD, other_BD = model(tokens_BT, lengths_B), swapped(reversed_BT, lengths_B)
    torch.testing.assert_close(costs_BD, other_BD.flip(1))
    assert (costs_BD - costs_BD.flip(1)).abs().min() > 1e-3, "the two directions cost different amounts"


@torch.no_grad()
def test_padding_and_other_texts_do_not_matter() -> None:
    model = random_model().eval()
    tokens_BT = torch.tensor([[5, 6, 7, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8]])
    together_BD = model(tokens_BT, torch.tensor([3, 8]))
    torch.testing.assert_close(together_BD[:1], model(tokens_BT[:1, :3], torch.tensor([3])))
    torch.testing.assert_close(together_BD[1:], model(tokens_BT[1:], torch.tensor([8])))


def test_a_token_cannot_see_itself() -> None:
    """The loss of a token depends on the token, and its context on no later token."""
    model = random_model().eval()
    vectors_TBE = model.look_up(torch.tensor([[5], [6], [7], [8]]), None).detach().requires_grad_()
    forward_TBH, backward_TBH = model._read(vectors_TBE, torch.tensor([4]))
    forward_TBH[1].sum().backward(retain_graph=True)  # guesses the third token
    assert vectors_TBE.grad is not None
    assert vectors_TBE.grad[:, 0].abs().sum(1).gt(0).tolist() == [True, True, False, False]
    vectors_TBE.grad = None
    backward_TBH[1].sum().backward()  # guesses the second
    assert vectors_TBE.grad is not None
    assert vectors_TBE.grad[:, 0].abs().sum(1).gt(0).tolist() == [False, False, True, True]


@torch.no_grad()
@pytest.mark.parametrize("directions", [1, 2])
def test_a_uniform_model_has_the_vocabulary_size_as_perplexity(
    pretraining: PretrainConfigure, directions: int
) -> None:
    texts = read(pretraining("--text.subwords=0"))
    size = len(texts.vocabulary)
    model = LanguageModel(torch.ones(size), samples=0, bidirectional=directions == 2, **SIZES)
    for parameter in model.parameters():
        parameter.zero_()
    scores = task_of(texts, directions).score(model)
    assert scores["perplexity"] == pytest.approx(size - 1, rel=1e-5), "padding is no choice"
    assert scores["guesses"] == int((texts.validation.lengths - 1).sum())
    assert ("perplexity_backward" in scores) == (directions == 2)


@torch.no_grad()
def test_the_unigram_perplexity_is_that_of_counted_tokens(pretraining: PretrainConfigure) -> None:
    texts = read(pretraining("--text.min_frequency=3", "--text.subwords=0"))
    store, known = texts.train.store, texts.vocabulary.ids
    counts = dict.fromkeys(range(1, len(texts.vocabulary)), 1)
    for row in range(len(texts.train)):
        for number in texts.train.token_ids(row):
            counts[known.get(store.tokens[number], 1)] += 1
    total, costs = sum(counts.values()), []
    for row in range(len(texts.validation)):
        ids = [known.get(store.tokens[number], 1) for number in texts.validation.token_ids(row)]
        costs += [-math.log(counts[i] / total) for i in [*ids[1:], *ids[:-1]]]
    found = unigram_perplexity(texts.validation, torch.from_numpy(texts.counts_V), batch_size=7)
    assert found == pytest.approx(math.exp(sum(costs) / len(costs)))
    # A model that has learned nothing yet guesses by these shares.
    model = LanguageModel(torch.from_numpy(texts.counts_V), samples=0, **SIZES)
    model.embedding.weight.zero_()
    assert task_of(texts).score(model)["perplexity"] == pytest.approx(found, rel=1e-5)


def task_of(texts: Texts, directions: int = 2, processes: Processes | None = None) -> NextToken:
    return NextToken(
        texts.validation,
        torch.from_numpy(texts.counts_V),
        directions=directions,
        device=torch.device("cpu"),
        batch_size=7,
        processes=processes or Processes(),
    )


# -- samples ---------------------------------------------------------------------------------------


def test_negative_samples_follow_their_distribution() -> None:
    ids_S, log_share_S = draw_tokens(200_000, 9, torch.device("cpu"))
    shares = dict(zip(ids_S.tolist(), log_share_S.exp().tolist(), strict=True))
    assert sorted(shares) == [1, 2, 3, 4, 5, 6, 7, 8], "every token but padding"
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    found_V = torch.bincount(ids_S, minlength=9) / len(ids_S)
    assert found_V[1:].tolist() == pytest.approx([shares[i] for i in range(1, 9)], abs=0.005)


def test_with_many_samples_loss_and_gradient_approach_the_full_softmax() -> None:
    exact, sampled = random_model(), random_model(samples=200_000)
    sampled.load_state_dict(exact.state_dict())
    tokens_BT, lengths_B = torch.tensor([[5, 6, 7, 9], [3, 8, 0, 0]]), torch.tensor([4, 2])
    gradients = []
    for model in (exact, sampled):
        costs_BD = model.train()(tokens_BT, lengths_B)
        costs_BD.sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(costs_BD, exact(tokens_BT, lengths_B), rtol=0.02, atol=0.02)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
    assert gradients[0].norm() == pytest.approx(float(gradients[1].norm()), rel=0.02)


@torch.no_grad()
def test_few_samples_estimate_the_softmax_s_sum_without_bias() -> None:
    model, exact = random_model(samples=3).train(), random_model().eval()
    exact.load_state_dict(model.state_dict())
    tokens_BT, lengths_B = torch.tensor([[5, 6]]), torch.tensor([2])
    draws = torch.stack([model(tokens_BT, lengths_B) for _ in range(1500)])
    expected_BD = exact(tokens_BT, lengths_B).exp()  # one guess each: sum of exponentials over the right one
    torch.testing.assert_close(draws.exp().mean(dim=0), expected_BD, rtol=0.1, atol=0.0)
    assert draws.std(dim=0).min() > 0


def test_padding_has_no_loss() -> None:
    for samples in (0, 5):
        model = random_model(samples=samples).train()
        model(torch.tensor([[5, 6, 7], [3, 8, 0]]), torch.tensor([3, 2])).sum().backward()
        assert model.embedding.weight.grad is not None
        assert not model.embedding.weight.grad.to_dense()[0].any()


# -- the loss of a step ----------------------------------------------------------------------------


@torch.no_grad()
def test_losses_of_two_processes_sum_to_that_of_one(pretraining: PretrainConfigure) -> None:
    texts = read(pretraining("--text.subwords=0"))
    model = LanguageModel(torch.from_numpy(texts.counts_V), samples=0, **SIZES).eval()
    task, step = task_of(texts), [np.arange(5), np.arange(5, 12)]
    losses = []
    for world_size in (1, 2):
        shares = [rank_share(step, rank=rank, world_size=world_size) for rank in range(world_size)]
        parts = [float(task.loss(model, texts.train.batch(*of))) for share in shares for of in share]
        losses.append(sum(parts) / world_size)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    means = [
        float(model(b.tokens_BT, b.lengths_B).mean()) / (int(b.lengths_B[0]) - 1)
        for b in (texts.train.batch(np.array([row])) for row in range(12))
    ]
    assert losses[0] == pytest.approx(sum(means) / 12, rel=1e-5), "a mean over texts of means over tokens"


# -- texts -----------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(2, 9))
def test_windows_cover_every_token_within_one_text(lengths: list[int], longest: int) -> None:
    store = TokenStore.in_memory(np.arange(sum(lengths)), np.array(lengths), [])
    windows, text_W = cut_windows(store, longest)
    length_W = np.diff(windows.offsets)
    assert windows.offsets[0] == 0
    assert length_W.max(initial=0) <= longest
    np.testing.assert_array_equal(np.bincount(text_W, length_W, len(lengths)), lengths)
    assert (np.diff(text_W) >= 0).all()
    for text in range(len(lengths)):
        of_text = length_W[text_W == text]
        assert of_text.max() - of_text.min() <= 1, "even windows"


def test_long_texts_are_trained_on_in_full(tmp_path: Path, pretraining: PretrainConfigure) -> None:
    long = write_texts(tmp_path / "long.jsonl", [" ".join(f"w{i}" for i in range(100)), "so good", "bad day"])
    config = pretraining(f"--data.train={long}", "--text.max_tokens=16", "--data.validation=0.3", "--seed=1")
    texts = read(config)
    both = [texts.train, texts.validation]
    read_tokens = {
        rows.store.tokens[n] for rows in both for row in range(len(rows)) for n in rows.token_ids(row)
    }
    assert {f"w{i}" for i in range(100)} <= read_tokens
    assert max(rows.lengths.max() for rows in both) <= 16


def test_labels_are_neither_needed_nor_read(tmp_path: Path, pretraining: PretrainConfigure) -> None:
    rows = make_rows(60)
    labelled = write_csv(tmp_path / "labelled.csv", rows)
    unlabelled = write_texts(tmp_path / "unlabelled.jsonl", [text for text, _ in rows])
    found = [read(pretraining(f"--data.train={file}")) for file in (labelled, unlabelled)]
    assert found[0].vocabulary.tokens == found[1].vocabulary.tokens
    np.testing.assert_array_equal(found[0].train.rows, found[1].train.rows)
    half_labelled = write_csv(tmp_path / "half.csv", [(text, "") for text, _ in rows])
    assert len(read(pretraining(f"--data.train={half_labelled}")).train) == len(found[0].train)


def test_several_files_are_read_as_one(tmp_path: Path, pretraining: PretrainConfigure) -> None:
    texts = chained_texts(80)
    parts = [write_texts(tmp_path / f"{i}.jsonl", texts[i * 30 : i * 30 + 30]) for i in range(3)]
    one = read(pretraining(f"--data.train={write_texts(tmp_path / 'all.jsonl', texts)}"))
    several = read(pretraining(f"--data.train=[{', '.join(map(str, parts))}]"))
    assert several.vocabulary.tokens == one.vocabulary.tokens
    for a, b in ((several.train, one.train), (several.validation, one.validation)):
        np.testing.assert_array_equal(a.rows, b.rows)
        torch.testing.assert_close(vars(a.batch(np.arange(len(a)))), vars(b.batch(np.arange(len(b)))))
    assert several.fingerprint != one.fingerprint


def test_joined_stores_equal_their_parts() -> None:
    one = TokenStore.in_memory(np.array([0, 1, 0]), np.array([2, 1]), ["so", "good"])
    other = TokenStore.in_memory(np.array([1, 0]), np.array([0, 2]), ["good", "bad"])
    both = join_stores([one, other])
    words = [both.tokens[i] for i in both.ids_N]
    assert words == ["so", "good", "so", "bad", "good"]
    assert np.diff(both.offsets).tolist() == [2, 1, 0, 2]


def test_validation_and_excluded_texts_are_not_trained_on(
    tmp_path: Path, pretraining: PretrainConfigure
) -> None:
    texts = chained_texts(60)
    train_file = write_texts(tmp_path / "train.jsonl", [*texts, *texts[:7]])
    apart = write_texts(tmp_path / "apart.jsonl", texts[10:20])
    validation = write_texts(tmp_path / "validation.jsonl", texts[30:35])
    flags = [f"--data.train={train_file}", f"--data.exclude={apart}", f"--data.validation={validation}"]
    found = read(pretraining(*flags))
    assert texts_of(found) == {"train": 45, "validation": 5}
    assert (found.facts.duplicates, found.facts.excluded) == (7, 15)
    learned = {found.train.store.hashes[row] for row in found.train.rows}
    for file in (apart, validation):
        other = read(pretraining(f"--data.train={file}", "--data.validation=0.2"))
        assert not learned & set(other.train.store.hashes.tolist())
    kept = read(pretraining(*flags, "--data.deduplicate=false"))
    assert texts_of(kept)["train"] == 52
    assert texts_of(read(pretraining(*flags, "--data.max_rows=9")))["train"] == 9


def test_repeated_texts_are_never_in_both_splits(tmp_path: Path, pretraining: PretrainConfigure) -> None:
    doubled = write_texts(tmp_path / "doubled.jsonl", chained_texts(40) * 2)
    flags = (f"--data.train={doubled}", "--data.deduplicate=false", "--data.validation=0.3")
    texts = read(pretraining(*flags))
    sides = [set(rows.store.hashes[rows.rows].tolist()) for rows in (texts.train, texts.validation)]
    assert all(sides)
    assert not sides[0] & sides[1]


# -- runs ------------------------------------------------------------------------------------------


def pretrain_until_save(config: PretrainConfig, name: str, count: int) -> None:
    """Train until a checkpoint of that name was saved `count` times."""
    with killed_at_save(name, count):
        run_pretraining(config)


def weights_of(folder: str | Path, name: str) -> dict[str, Tensor]:
    groups = RunFolder(folder).load(name).tensors
    return {f"{group}.{key}": of for group, tensors in groups.items() for key, of in tensors.items()}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of language models on predictable texts, trained once for this module."""
    folder = tmp_path_factory.mktemp("language")
    texts = write_texts(folder / "texts.jsonl", chained_texts(150))
    argv = [f"--data.train={texts}", f"--out={folder / 'run'}", *SMALL, "--model.samples=20"]
    argv += ["--trainer.learning_rate=0.03", "--trainer.epochs=4", "--trainer.ema=0.8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        run_pretraining(parse_settings(PretrainConfig, argv, program="test", description=""))
    torch.set_flush_denormal(False)
    return folder / "run"


@pytest.fixture
def finetuning(pretrained: Path, configure: Configure) -> Configure:
    """As `configure`, starting from the language models."""

    def make(*argv: str) -> Config:
        return configure(f"--pretrained={pretrained}", "--trainer.learning_rate=0.01", *argv)

    return make


def test_both_directions_beat_the_unigram_perplexity(pretrained: Path) -> None:
    """Two of three words are determined by the previous one, so the loss is far below the unigram loss."""
    scores = json.loads((pretrained / "metrics.json").read_text())["validation"]
    for direction in ("forward", "backward"):
        assert scores[f"perplexity_{direction}"] < 0.5 * scores["perplexity_unigram"]
    both = scores["perplexity_forward"] * scores["perplexity_backward"]
    assert scores["perplexity"] == pytest.approx(math.sqrt(both))
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))


def test_subwords_are_learned_too(pretrained: Path) -> None:
    weights = RunFolder(pretrained).load(BEST).tensors["model"]
    assert {"embedding.weight", "subwords.table.weight", "head.weight", "bias"} < weights.keys()
    facts = RunFolder(pretrained).load(BEST).facts
    assert facts["scores"] == json.loads((pretrained / "metrics.json").read_text())["validation"]


def test_the_best_epoch_is_that_of_the_lowest_loss(pretrained: Path) -> None:
    entries = [json.loads(line) for line in (pretrained / "log.jsonl").read_text().splitlines()]
    losses = [entry["validation_loss"] for entry in entries]
    metrics = json.loads((pretrained / "metrics.json").read_text())
    assert losses[metrics["best_epoch"] - 1] == min(losses) == metrics["validation"]["loss"]


@pytest.mark.parametrize("kill", [("last", 1), ("last", 4), ("best", 1)])
def test_a_killed_and_resumed_run_is_bit_identical(
    pretraining: PretrainConfigure, tmp_path: Path, kill: tuple[str, int]
) -> None:
    flags = ("--trainer.checkpoint_every=3", "--trainer.epochs=2", "--model.word_dropout=0.1")
    straight = pretraining(*flags, f"--out={tmp_path / 'straight'}")
    expected = run_pretraining(straight)
    config = pretraining(*flags)
    pretrain_until_save(config, *kill)
    assert not (Path(config.out) / "metrics.json").exists()
    metrics = run_pretraining(dataclasses.replace(config, resume=True))
    for name in (BEST, LAST):
        found, wanted = weights_of(config.out, name), weights_of(straight.out, name)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert metrics["validation"] == expected["validation"]


def test_resuming_with_other_texts_or_settings_is_refused(
    pretraining: PretrainConfigure, tmp_path: Path
) -> None:
    config = pretraining("--trainer.epochs=2")
    pretrain_until_save(config, "last", 1)
    with pytest.raises(RunError, match=r"model.samples 20, now it is 21"):
        run_pretraining(pretraining("--trainer.epochs=2", "--resume=true", "--model.samples=21"))
    write_texts(Path(str(config.data.train)), chained_texts(149))
    with pytest.raises(RunError, match="no longer those the run began with"):
        run_pretraining(dataclasses.replace(config, resume=True))


@pytest.mark.parametrize("samples", [0, 9])
def test_two_processes_are_one(pretraining: PretrainConfigure, tmp_path: Path, samples: int) -> None:
    """Without dropout and negative samples almost exactly; with samples, which differ, it only runs."""
    flags = (
        "--trainer.epochs=1",
        "--model.dropout=0",
        "--model.embedding_dropout=0",
        f"--model.samples={samples}",
    )
    alone, both = (pretraining(*flags, f"--out={tmp_path / name}") for name in ("alone", "both"))
    expected = run_pretraining(alone)["validation"]
    settings_file = tmp_path / "both.yaml"
    settings_file.write_text(config_yaml(both), encoding="utf-8")
    job = start_job(pretrain.__file__, "--config", str(settings_file), folder=tmp_path)
    assert job.wait(240) == 0, job.stderr
    found = json.loads((tmp_path / "both" / "metrics.json").read_text())["validation"]
    assert found["guesses"] == expected["guesses"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.1 if samples else 1e-5)


def test_a_single_direction_can_be_trained(pretraining: PretrainConfigure) -> None:
    config = pretraining("--model.bidirectional=false", "--model.samples=0", "--trainer.epochs=2")
    scores = run_pretraining(config)["validation"]
    assert "perplexity_backward" not in scores
    assert scores["perplexity"] == pytest.approx(scores["perplexity_forward"])
    assert scores["perplexity"] < scores["perplexity_unigram"]


def test_samples_change_what_is_learned(pretraining: PretrainConfigure, tmp_path: Path) -> None:
    found = []
    for samples in (0, 5):
        config = pretraining(
            f"--model.samples={samples}", "--trainer.epochs=1", f"--out={tmp_path / str(samples)}"
        )
        run_pretraining(config)
        found.append(weights_of(config.out, BEST))
    assert not torch.equal(found[0]["model.head.weight"], found[1]["model.head.weight"])


# -- starting a classifier -------------------------------------------------------------------------


def start_of(config: Config) -> tuple[SentimentLSTM, list[str]]:
    taken = load_pretrained(config)
    assert taken is not None
    corpus = prepare(config.data, config.text, seed=0, cache=cache_folder(), vocabulary=taken.vocabulary)
    return initial_model(config, corpus, taken), corpus.vocabulary.tokens


def test_a_classifier_starts_from_the_weights_of_the_language_model(
    pretrained: Path, finetuning: Configure
) -> None:
    model, tokens = start_of(finetuning())
    theirs = RunFolder(pretrained).load(BEST).tensors["model"]
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head")}
    assert own.keys() == {name for name in theirs if name.startswith(TAKEN)}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in own.items())
    assert tokens[2:] == json.loads((pretrained / "vocabulary.json").read_text())


def test_deeper_layers_start_from_random_weights(finetuning: Configure) -> None:
    config = finetuning("--model.layers=2")
    model, _ = start_of(config)
    random_start = dict(start_of(dataclasses.replace(config, seed=1))[0].state_dict())
    for name, tensor in model.state_dict().items():
        is_new = name.startswith(("head", "forward_lstms.1", "backward_lstms.1")) and "bias" not in name
        if is_new or name.startswith(TAKEN):
            assert torch.equal(tensor, random_start[name]) != is_new, name


def test_the_classifier_does_not_need_the_language_model_afterwards(
    pretrained: Path, finetuning: Configure, tmp_path: Path
) -> None:
    moved = tmp_path / "language"
    shutil.copytree(pretrained, moved)
    config = finetuning(f"--pretrained={moved}", "--trainer.epochs=2")
    run(config)
    before = lstm_sentiment.load(config.out, device="cpu").predict(["great plums fall", "awful n3"])
    shutil.rmtree(moved)
    classifier = lstm_sentiment.load(config.out, device="cpu")
    assert classifier.predict(["great plums fall", "awful n3"]) == before
    assert "plums" in classifier.vocabulary.ids, "a word of the language model alone"
    facts = RunFolder(config.out).load(BEST).facts
    assert len(facts["pretrained"]) == 64


def test_the_estimator_starts_from_a_language_model_too(pretrained: Path) -> None:
    sizes = {"embedding_size": 16, "hidden_size": 16, "threads": 1, "precision": "fp32"}
    texts, labels = zip(*make_rows(60), strict=True)
    estimator = SentimentEstimator(pretrained=str(pretrained), epochs=1, **sizes).fit(texts, labels)
    assert "plums" in estimator.classifier_.vocabulary.ids
    with pytest.raises(ValueError, match=r"hidden_size: is 8, but .* pretrained with 16"):
        SentimentEstimator(pretrained=str(pretrained), **{**sizes, "hidden_size": 8}).fit(texts, labels)


def test_resuming_from_another_language_model_is_refused(
    pretrained: Path, finetuning: Configure, tmp_path: Path
) -> None:
    moved = tmp_path / "language"
    shutil.copytree(pretrained, moved)
    config = finetuning(f"--pretrained={moved}", "--trainer.epochs=2")
    run(config)
    last = RunFolder(moved).load(BEST)
    weights = {name: tensor + 0.5 for name, tensor in last.tensors["model"].items()}
    RunFolder(moved).save(BEST, {"model": weights}, last.facts)
    with pytest.raises(RunError, match="pretrained weights are no longer those"):
        run(dataclasses.replace(config, resume=True))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--model.hidden_size=17", "model.hidden_size: is 17, but {} was pretrained with 16; set it to 16"),
        ("--model.embedding_size=8", "model.embedding_size: is 8, but {} was pretrained with 16"),
        ("--model.bidirectional=false", "model.bidirectional: is False, but {} was pretrained with True"),
        ("--text.subwords=100", "text.subwords: is 100, but {} was pretrained with 16384"),
        ("--text.lowercase=false", "text.lowercase: is False, but {} was pretrained with True"),
        ("--text.normalize=negation", "text.normalize: is negation, but {} was pretrained with none"),
        ("--text.tokenizer=basic_english", "text.tokenizer: is basic_english, but {} was"),
        ("--pretrained=nowhere", "pretrained: nowhere: is not a run folder"),
        ("--text.vectors=vectors.txt", "text.vectors: contradicts pretrained"),
    ],
)
def test_mismatches_are_named(
    pretrained: Path, finetuning: Configure, tmp_path: Path, flag: str, message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        run(finetuning(flag))
    assert str(raised.value).startswith(message.format(pretrained))
    assert raised.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_settings_missing_in_older_runs_have_their_default() -> None:
    theirs = dataclasses.asdict(Config())
    del theirs["text"]["normalize"]
    transfer._check_alike(theirs, Config(), Path("language"))
    negated = dataclasses.replace(Config(), text=dataclasses.replace(Config().text, normalize="negation"))
    with pytest.raises(ConfigError, match="is negation, but language was pretrained with none"):
        transfer._check_alike(theirs, negated, Path("language"))


def test_a_classifier_is_not_accepted_as_a_language_model(trained_run: Path, finetuning: Configure) -> None:
    """It is another kind of start (see test_adaptation)."""
    config = finetuning(f"--pretrained={trained_run}")
    assert load_pretrained(config) is None
    assert run(config)["kept"]["start"] == str(trained_run)


# -- rates and unfreezing --------------------------------------------------------------------------


def test_depths_count_from_the_head() -> None:
    model = SentimentLSTM(9, 2, layers=2, pooling="attention", **SIZES)
    depths = layer_depths(model)
    assert depths.keys() == dict(model.named_parameters()).keys()
    assert {name for name, depth in depths.items() if depth == 0} == {
        "head.weight",
        "head.bias",
        "attention.weight",
    }
    assert {name.split("_lstms")[0] for name, depth in depths.items() if depth == 1} == {
        "forward",
        "backward",
    }
    assert all(f"lstms.{2 - depth}." in name for name, depth in depths.items() if depth in (1, 2))
    assert [name for name, depth in depths.items() if depth == 3] == ["embedding.weight"]


def test_a_wide_branch_does_not_change_depths() -> None:
    lstm = SentimentLSTM(9, 2, layers=2, pooling="attention", **SIZES)
    depths = layer_depths(WideAndDeep(lstm, NgramBranch(9, 2, buckets=20)))
    alone = {f"lstm.{name}": depth for name, depth in layer_depths(lstm).items()}
    assert depths == alone | {"ngrams.bias": 0, "ngrams.weights.weight": 0}


def test_each_layer_learns_at_its_rate() -> None:
    """AdamW's first step changes each weight by its learning rate, for any gradient."""
    model = SentimentLSTM(9, 2, layers=2, **SIZES)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = adamw(model, learning_rate=0.1, weight_decay=0.0, embedding_factor=3.0, layer_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, depth in layer_depths(model).items():
        rate = 0.1 * 0.5**depth * (3 if name.startswith("embedding") else 1)
        moved = (before[name] - dict(model.named_parameters())[name]).detach()
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-3, atol=1e-6)


def test_layers_are_unfrozen_gradually(configure: Configure) -> None:
    config = configure("--model.layers=2", "--trainer.unfreeze=1", "--trainer.epochs=4", "--trainer.ema=0")
    kept: list[dict[str, Tensor]] = []
    real = RunFolder.save

    def save(self: RunFolder, name: str, groups: Any, facts: Any) -> None:
        real(self, name, groups, facts)
        if name == LAST:
            kept.append({key: tensor.clone() for key, tensor in groups["model"].items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save", save)
        run(config)
    start = initial_model(config, prepare(config.data, config.text, seed=0, cache=cache_folder()))
    depths = layer_depths(start)
    stages = [dict(start.state_dict()), *kept]
    assert len(stages) == 5
    for epoch, (before, after) in enumerate(itertools.pairwise(stages)):
        for name, depth in depths.items():
            assert torch.equal(before[name], after[name]) == (depth > epoch), (epoch, name)


@pytest.mark.parametrize("flag", ["--trainer.unfreeze=1", "--trainer.layer_decay=0.5"])
def test_fine_tuning_resumes_bit_for_bit(finetuning: Configure, tmp_path: Path, flag: str) -> None:
    straight = finetuning(flag, f"--out={tmp_path / 'straight'}", "--trainer.epochs=3")
    run(straight)
    config = finetuning(flag, "--trainer.epochs=3")
    with killed_at_save(LAST, 2):
        run(config)
    run(dataclasses.replace(config, resume=True))
    found, wanted = weights_of(config.out, LAST), weights_of(straight.out, LAST)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("argv", "key"),
    [
        (["--trainer.layer_decay=0"], "trainer.layer_decay"),
        (["--trainer.layer_decay=1.1"], "trainer.layer_decay"),
        (["--trainer.unfreeze=-1"], "trainer.unfreeze"),
        (["--trainer.unfreeze=1", "--trainer.epochs=2"], "trainer.unfreeze"),
        (["--trainer.unfreeze=1", "--trainer.epochs=3", "--model.layers=2"], "trainer.unfreeze"),
    ],
)
def test_rates_and_unfreezing_are_checked(argv: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_config(argv, program="test", description="")
    assert raised.value.key == key


# -- the command -----------------------------------------------------------------------------------


def leave(main: Any, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> tuple[Any, str]:
    """Run a command like ``python -m``; return its exit code and stderr."""
    monkeypatch.setattr(sys, "argv", ["command", *argv])
    with pytest.raises(SystemExit) as left:
        run_command(main)
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--data.train=nowhere.csv"],
            "error: nowhere.csv: no such file or folder; name an existing one.\n",
        ),
        (["--data.train=[]"], "error: data.train: must not be empty\n"),
        (["--data.validation=1.5"], "error: data.validation: a share must lie between 0 and 1, not 1.5\n"),
        (["--data.max_rows=0"], "error: data.max_rows: must be at least 1 or null\n"),
        (["--data.label_column=label"], "error: data.label_column: no such option."),
        (["--model.layers=2"], "error: model.layers: no such option."),
        (["--model.samples=-1"], "error: model.samples: must lie between 0 and 1,000,000, not -1\n"),
        (["--model.dropout=1"], "error: model.dropout: must be at least 0 and below 1, not 1.0\n"),
        (
            ["--text.max_tokens=1"],
            "error: text.max_tokens: must be at least 2: one to read, one to predict\n",
        ),
        (["--text.truncate=head"], "error: text.truncate: has no effect on a language model; leave it out\n"),
        (["--trainer.metric=accuracy"], "error: trainer.metric: has no effect on a language model"),
        (["--trainer.r_drop=1"], "error: trainer.r_drop: has no effect on a language model"),
        (["--trainer.unfreeze=1"], "error: trainer.unfreeze: has no effect on a language model"),
        (["--seed=-1"], "error: seed: must lie between 0 and 2147483647, not -1\n"),
        (["--resume=true", "--overwrite=true"], "error: overwrite: contradicts resume"),
    ],
)
def test_errors_are_one_line(
    argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = leave(pretrain.main, argv, monkeypatch, capsys)
    assert code == 2
    assert errors.startswith(message)
    assert errors.count("\n") == 1


def test_too_few_texts_are_refused(tmp_path: Path, pretraining: PretrainConfigure) -> None:
    short = write_texts(tmp_path / "short.jsonl", ["good", "bad", "so"])
    with pytest.raises(DataError, match="no text of two tokens or more is left for train"):
        read(pretraining(f"--data.train={short}"))


def test_commands_that_need_a_classifier_say_how_to_get_one(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, errors = leave(predict.main, [str(pretrained), "good"], monkeypatch, capsys)
    assert code == 2
    assert errors.startswith(f"error: {pretrained}: is a language model; train a classifier from it: ")
    with pytest.raises(RunError, match="is not empty"):
        run(parse_config([f"--out={pretrained}"], program="test", description=""))


def test_the_configuration_of_a_run_round_trips(pretraining: PretrainConfigure, tmp_path: Path) -> None:
    config = pretraining("--data.exclude=[a.csv, b.csv]", "--model.samples=7")
    file = tmp_path / "saved.yaml"
    file.write_text(config_yaml(config), encoding="utf-8")
    assert parse_settings(PretrainConfig, ["--config", str(file)], program="x", description="") == config
    defaults = parse_settings(PretrainConfig, ["--trainer.epochs=9"], program="x", description="")
    trainer = dataclasses.replace(PretrainConfig().trainer, epochs=9)
    assert defaults == PretrainConfig(trainer=trainer), "one option leaves the section's other defaults alone"
    assert PretrainDataConfig().train == Config().data.train


def test_pretraining_and_training_work_from_the_command_line(
    pretraining: PretrainConfigure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = pretraining()
    out = tmp_path / "language"
    pretrain.main([*SMALL, f"--data.train={config.data.train}", f"--out={out}", "--trainer.epochs=1"])
    printed = capsys.readouterr().out
    best = "tokens/s * (best so far)"
    for expected in ("142 texts in 142 windows", "unigram", best, f"train --pretrained {out}"):
        assert expected in printed
    pretrain.main([f"--out={out}", "--resume=true"])
    assert "resuming at step" in capsys.readouterr().out
    data = write_csv(tmp_path / "reviews.csv", make_rows(120))
    argv = [*SMALL, f"--data.train={data}", f"--out={tmp_path / 'run'}", f"--pretrained={out}"]
    train.main([*argv, "--trainer.epochs=1", "--baseline=false"])
    assert f"pretrained: {out}, epoch 1, validation perplexity" in capsys.readouterr().out
