"""The wide branch: alone, with the LSTM, and in every use of a trained run."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from torch import Tensor

import lstm_sentiment
from lstm_sentiment import evaluate
from lstm_sentiment.config.network_shapes import network_shapes
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import prepare
from lstm_sentiment.data.dataset import Batch
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.evaluation.calibration import fit_calibration, fit_shares
from lstm_sentiment.experiment.console import summary
from lstm_sentiment.experiment.train import initial_model, run
from lstm_sentiment.explanation.attribution import explain
from lstm_sentiment.models.network import HASH, NgramBranch, WideAndDeep, new_network
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.records.json_values import from_json
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.text.tokenization import UNKNOWN
from lstm_sentiment.text.tokenizers import Vocabulary
from lstm_sentiment.training.losses import cross_entropy
from lstm_sentiment.training.optimizer import adamw

Configure = Callable[..., Config]
KNOWN, BUCKETS, CLASSES = 12, 50, 3
WIDE = "--model.ngrams=500"
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
texts = st.lists(st.lists(st.integers(1, KNOWN + 3), min_size=1, max_size=9), min_size=1, max_size=5)


def random_branch() -> NgramBranch:
    """Return a branch with random weights, and zero weight for padding."""
    torch.manual_seed(0)
    branch = NgramBranch(KNOWN, CLASSES, buckets=BUCKETS)
    with torch.no_grad():
        branch.weights.weight.normal_()
        branch.weights.weight[0] = 0.0
        branch.bias.normal_()
    return branch.requires_grad_(False)


def random_network(**given: Any) -> WideAndDeep:
    torch.manual_seed(1)
    sizes = {"subwords": 0, "embedding_size": 4, "hidden_size": 4, **given}
    network = new_network(Vocabulary([f"w{i}" for i in range(KNOWN - 2)]), CLASSES, ngrams=BUCKETS, **sizes)
    assert isinstance(network, WideAndDeep)
    network.ngrams.load_state_dict(random_branch().state_dict())
    return network


def padded(rows: list[list[int]], beyond: int = 2) -> tuple[Tensor, Tensor]:
    """Return texts with other tokens as padding, which must not be read."""
    width = max(map(len, rows)) + beyond
    filled = [row + [5] * (width - len(row)) for row in rows]
    return torch.tensor(filled), torch.tensor([len(row) for row in rows])


def plain_logits(branch: NgramBranch, row: list[int]) -> Tensor:
    """Return a text's logits (C,) by the definition."""
    ids = [i if i < KNOWN else UNKNOWN for i in row]
    p, r, q = HASH
    pairs = [KNOWN + ((a * p) % r + b * q) % BUCKETS for a, b in itertools.pairwise(ids)]
    of_ngrams = [branch.weights.weight[place] for place in ids + pairs]
    return torch.stack(of_ngrams).sum(0) / math.sqrt(len(of_ngrams)) + branch.bias


# -- the branch alone ------------------------------------------------------------------------------


@quick
@given(texts, st.booleans())
def test_logits_equal_the_definition_in_any_batch(rows: list[list[int]], learning: bool) -> None:
    """By PyTorch, and without gradients by the compiled kernel, then bit for bit in any batch."""
    branch = random_branch()
    with torch.set_grad_enabled(learning):
        logits_BC = branch(*padded(rows))
        alone_BC = torch.cat([branch(*padded([row], beyond=0)) for row in rows])
    for row, logits_C in zip(rows, logits_BC, strict=True):
        torch.testing.assert_close(logits_C, plain_logits(branch, row), atol=1e-5, rtol=1e-5)
    assert torch.equal(logits_BC, alone_BC) or learning


@quick
@given(texts)
def test_token_contributions_sum_to_the_logits(rows: list[list[int]]) -> None:
    branch = random_branch()
    for row in rows:
        pushes_TC = branch.contributions(torch.tensor(row))
        assert pushes_TC.shape == (len(row), CLASSES)
        expected_C = plain_logits(branch, row)
        torch.testing.assert_close(pushes_TC.sum(0) + branch.bias, expected_C, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("known", "buckets"),
    [
        (100, 997),
        (30_000, 1000),
        (100, 1 << 12),
        (30_000, 1 << 18),
        (100, 10**6),
        (100, 1 << 20),
        (30_000, 10**5),
    ],
)
def test_word_pairs_collide_as_rarely_as_random_hashes(buckets: int, known: int) -> None:
    """As many collisions as with random hashes, for any number of buckets."""
    branch = NgramBranch(known, 2, buckets=buckets)
    random = np.random.default_rng(0)
    frequent_first_NP = (known ** random.random((2 * buckets, 2))).astype(np.int64) + 1  # as words are
    codes_N = np.unique(frequent_first_NP @ np.array([known + 2, 1]))  # faster than of rows
    pairs_NP = np.stack(np.divmod(codes_N, known + 2), axis=1)
    pairs_NP = random.permutation(pairs_NP[pairs_NP[:, 0] != pairs_NP[:, 1]])

    def place_of(pairs_NP: np.ndarray) -> np.ndarray:
        return branch.places(torch.from_numpy(np.ascontiguousarray(pairs_NP)))[:, 2].numpy()

    places_N = place_of(pairs_NP)
    expected = buckets * (1 - (1 - 1 / buckets) ** len(pairs_NP))
    assert len(np.unique(places_N)) > 0.97 * expected
    assert (places_N == place_of(pairs_NP[:, ::-1])).mean() < 0.01, "the order of two words does not matter"


@quick
@given(
    words=st.integers(0, 9),
    classes=st.integers(1, 4),
    subwords=st.sampled_from([0, 2, 50]),
    ngrams=st.sampled_from([0, 1, 40]),
    kind=st.sampled_from(["learned", "tfidf"]),
    sizes=st.fixed_dictionaries(
        {
            "embedding_size": st.integers(1, 5),
            "hidden_size": st.integers(1, 5),
            "layers": st.integers(1, 3),
            "bidirectional": st.booleans(),
            "pooling": st.sampled_from(["last", "mean", "max+attention", "last+mean+max+attention"]),
        }
    ),
)
def test_declared_shapes_are_those_of_the_network(
    words: int, classes: int, subwords: int, ngrams: int, kind: str, sizes: dict[str, Any]
) -> None:
    vocabulary = Vocabulary([f"w{i}" for i in range(words)])
    settings = {"subwords": subwords, "ngrams": ngrams, "ngram_kind": kind, **sizes}
    state = new_network(vocabulary, classes, dropout=0.5, **settings).state_dict()
    reported = network_shapes(len(vocabulary), classes, dropout=0.5, **settings)
    assert reported == {name: tuple(tensor.shape) for name, tensor in state.items()}


# -- both branches ---------------------------------------------------------------------------------


def batch_of(rows: list[list[int]], labels: list[int]) -> Batch:
    tokens_BT, lengths_B = padded(rows)
    return Batch(
        tokens_BT=tokens_BT,
        lengths_B=lengths_B,
        labels_B=torch.tensor(labels),
        weights_B=torch.full((len(rows),), 1 / len(rows)),
        shares_B=torch.full((len(rows),), 1 / len(rows)),
        rows_B=torch.arange(len(rows)),
        targets_BC=torch.empty(len(rows), 0),
        spelling_XK=torch.zeros((0, 4), dtype=torch.int32),
    )


def test_each_branch_learns_by_its_own_loss() -> None:
    """Its gradient is that of its own loss; a loss of the sum would mix them."""
    batch, loss = batch_of([[4, 7, 3], [2, 9]], [0, 2]), cross_entropy(None, 0.1)
    network = random_network().train()
    loss(network(*batch.inputs), batch).backward()
    for branch in (network.lstm, network.ngrams):
        together = [parameter.grad.clone() for parameter in branch.parameters() if parameter.grad is not None]
        branch.zero_grad()
        loss(branch(*batch.inputs), batch).backward()
        alone = [parameter.grad / 2 for parameter in branch.parameters() if parameter.grad is not None]
        assert len(alone) == len(list(branch.parameters()))
        torch.testing.assert_close(together, alone)


def test_the_output_is_the_weighted_sum() -> None:
    network, inputs = random_network().eval(), padded([[4, 7, 3], [2, 9]])
    network.shares.copy_(torch.tensor([0.5, 1.5]))
    expected_BC = 0.5 * network.lstm(*inputs) + 1.5 * network.ngrams(*inputs)
    torch.testing.assert_close(network(*inputs), expected_BC)


def test_ngrams_have_a_higher_learning_rate() -> None:
    optimizer = adamw(random_network(), learning_rate=0.1, weight_decay=0.0, embedding_factor=3.0)
    factors = [group["factor"] for group in optimizer.param_groups if group.get("lazy")]
    assert sorted(factors) == [3.0, 30.0]


def test_ngrams_are_scaled_by_class_difference(configure: Configure) -> None:
    """Against the definition, counted word by word; table rows are updated accordingly."""
    config = configure(WIDE)
    corpus = prepare(config.data, config.text, seed=0, cache=cache_folder())
    network = initial_model(config, corpus)
    assert isinstance(network, WideAndDeep)
    rates_R = network.ngrams.weights.row_rates
    assert rates_R is not None
    counts_RC = np.ones((len(rates_R), 3))
    counts_RC[0] = 1
    for row in range(len(corpus.train)):
        batch = corpus.train.batch(np.array([row]))
        places = set(network.ngrams.places(batch.tokens_BT)[0].tolist()) - {0}
        counts_RC[sorted(places), int(batch.labels_B[0])] += 1
    ratios_RC = np.log(counts_RC / counts_RC.sum(axis=0))
    expected_R = np.abs(ratios_RC - ratios_RC.mean(axis=1, keepdims=True)).max(axis=1)
    np.testing.assert_allclose(rates_R, expected_R, rtol=1e-4, atol=1e-6)
    before_RC = network.ngrams.weights.weight.detach().clone()
    optimizer = adamw(network, learning_rate=0.01, weight_decay=0.0)
    batch = corpus.train.batch(np.arange(8))
    cross_entropy(None, 0.0)(network.train()(*batch.inputs), batch).backward()
    optimizer.step()
    moved_R = (network.ngrams.weights.weight - before_RC).abs().amax(dim=1).detach()
    seen_R = moved_R > 0
    assert seen_R.sum() > 5
    torch.testing.assert_close(moved_R[seen_R], 0.3 * rates_R[seen_R], rtol=1e-3, atol=1e-6)


# -- branch weights --------------------------------------------------------------------------------


def likelihood_loss(logits_RC: np.ndarray, truth_R: np.ndarray) -> float:
    return -float(log_softmax(logits_RC, axis=1)[np.arange(len(truth_R)), truth_R].mean())


def test_branch_weights_equal_a_grid_search() -> None:
    random = np.random.default_rng(0)
    truth_R = random.integers(0, 3, 3000)
    hints_KRC = random.normal(size=(2, 3000, 3)) + np.array([0.8, 1.6])[:, None, None] * np.eye(3)[truth_R]
    shares_K = fit_shares(hints_KRC, truth_R)
    assert shares_K.sum() == pytest.approx(2)
    assert shares_K[1] == pytest.approx(2 * shares_K[0], rel=0.15), "the true ratio of these is 1 to 2"

    def loss_of(shares_K: np.ndarray) -> float:
        """Return the loss at the best temperature, since weights are defined up to a factor."""
        logits_RC = np.tensordot(shares_K, hints_KRC, axes=1)
        return likelihood_loss(logits_RC / fit_calibration(logits_RC, truth_R).temperature, truth_R)

    others = [loss_of(np.array([share, 2 - share])) for share in np.linspace(0, 2, 41)]
    assert loss_of(shares_K) <= min(others) + 1e-5


def test_a_misleading_branch_gets_no_weight() -> None:
    truth_R = np.array([0, 1] * 100)
    right_RC = np.eye(2)[truth_R]
    np.testing.assert_allclose(fit_shares(np.stack([right_RC, -right_RC]), truth_R), [2, 0], atol=1e-6)
    assert fit_shares(np.stack([-right_RC, -right_RC]), truth_R).tolist() == [1, 1]


# -- a run -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with both branches."""
    from conftest import TINY, make_rows, write_csv

    from lstm_sentiment.config.command_line import parse_config

    folder = tmp_path_factory.mktemp("wide")
    data = write_csv(folder / "data.csv", make_rows(240))
    argv = [f"--data.train={data}", f"--out={folder / 'run'}", *TINY, "--trainer.epochs=5", WIDE]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        run(parse_config([*argv, "--baseline=false"], program="test", description=""))
    torch.set_flush_denormal(False)
    return folder / "run"


@pytest.fixture(scope="module")
def classifier(wide_run: Path) -> SentimentClassifier:
    return lstm_sentiment.load(wide_run, device="cpu")


def test_a_run_reports_each_branch_and_the_blend(wide_run: Path, classifier: SentimentClassifier) -> None:
    metrics = json.loads((wide_run / "metrics.json").read_text())
    branches = metrics["branches"]
    assert list(branches) == ["lstm", "ngrams"]
    for branch in branches.values():
        assert metrics["validation"]["loss"] <= branch["validation"]["loss"] + 1e-4
        assert set(branch["test"]) == set(metrics["test"])
    assert isinstance(classifier.model, WideAndDeep)
    shares = [branch["share"] for branch in branches.values()]
    torch.testing.assert_close(classifier.model.shares, torch.tensor(shares))
    assert shares != [1.0, 1.0]
    lines = [line for _, line in summary(from_json(RunMetrics, metrics, file="metrics.json"))]
    legend = lines.index("  share: weight of a branch's logits in their sum; the mean of the shares is 1")
    assert lines[legend - 1].endswith(f"   share {shares[1]:.2f}")
    assert sum(shares) == pytest.approx(2)


@pytest.mark.parametrize("branch", ["lstm", "ngrams"])
def test_a_branch_can_be_scored_alone(wide_run: Path, tmp_path: Path, branch: str) -> None:
    """On the same rows and with the same scores as in the run's report."""
    config = lstm_sentiment.load(wide_run).config
    corpus = prepare(config.data, config.text, seed=config.seed, cache=cache_folder())
    assert corpus.test is not None
    lines = Path(config.data.train).read_text(encoding="utf-8").splitlines(keepends=True)
    held_out = [lines[corpus.test.store.lines[row] - 1] for row in corpus.test.rows]
    (tmp_path / "test.csv").write_text(lines[0] + "".join(held_out), encoding="utf-8")
    out = tmp_path / "scores.json"
    evaluate.main([str(wide_run), str(tmp_path / "test.csv"), f"--out={out}", f"--branch={branch}"])
    reported = json.loads((wide_run / "metrics.json").read_text())["branches"][branch]["test"]
    found = json.loads(out.read_text())
    assert found["confusion"] == reported["confusion"]
    assert found["branch"] == branch


def test_a_single_lstm_has_no_branches(trained_run: Path, classifier: SentimentClassifier) -> None:
    with pytest.raises(ConfigError, match="no branch 'lstm'; the model has none: it is one LSTM"):
        lstm_sentiment.load(trained_run).keep_branch("lstm")
    with pytest.raises(ConfigError, match="no branch 'wide'; the model has lstm and ngrams"):
        classifier.keep_branch("wide")


def test_predictions_do_not_depend_on_the_batch(classifier: SentimentClassifier) -> None:
    texts = ["good good service", "", "bad", "never a wonderful unheardof thing at all", *["so-so"] * 20]
    together_RC = classifier.predict_proba(texts)
    alone_RC = np.concatenate([classifier.predict_proba(text) for text in texts])
    np.testing.assert_allclose(together_RC, alone_RC, atol=1e-6)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_an_explanation_covers_both_branches(classifier: SentimentClassifier, method: str) -> None:
    text = "a bad unheardof service but good good food"
    found = explain(classifier, text, method=method)
    expected_C = np.log(classifier.predict_proba(text)[0])
    np.testing.assert_allclose(found.scores, expected_C - expected_C.mean(), atol=1e-5)
    if method == "integrated_gradients":
        explained_C = found.scores - found.baseline
        gap = np.abs(found.attributions.sum(axis=0) - explained_C).max()
        assert gap < 0.02 * np.abs(explained_C).max()


def test_an_export_gives_the_same_predictions(
    wide_run: Path, classifier: SentimentClassifier, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from lstm_sentiment.deployment.exporter import export

    facts = export(classifier, wide_run, tmp_path / "onnx", int8=True)
    assert facts["check"]["largest_difference"] < 1e-5
    assert facts["int8"]["largest_difference"] > 0


def test_resuming_is_exact(configure: Configure, tmp_path: Path) -> None:
    from test_experiment import differing, run_until_save, weights_of

    flags = [WIDE, "--trainer.checkpoint_every=2", "--trainer.epochs=2"]
    straight = configure(*flags, f"--out={tmp_path / 'straight'}")
    run(straight)
    run_until_save(configure(*flags), "last", 2)
    run(configure(*flags, "--resume=true"))
    assert differing(weights_of(tmp_path / "straight"), weights_of(tmp_path / "run")) == []
