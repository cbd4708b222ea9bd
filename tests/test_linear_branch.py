"""The linear branch equals scikit-learn's TF-IDF with logistic regression, also when exported."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_rows
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.token_store import TokenStore
from lstm_sentiment.linear.logistic_regression import (
    ROUGH,
    STRENGTHS,
    fit_branch,
    folds_of,
    logistic_regression,
)
from lstm_sentiment.models.network import TfidfBranch
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer, Vocabulary

CLASSES = ["negative", "neutral", "positive"]
BUCKETS = 1 << 20  # so many that no two pairs of these tests meet


def dataset_of(texts: list[str], labels: np.ndarray, known: list[str] | None = None) -> TextDataset:
    lexicon = Lexicon(Tokenizer("words", lowercase=True))
    numbers_N, lengths_R = lexicon.encode(texts)
    store = TokenStore.in_memory(numbers_N, lengths_R, lexicon.tokens)
    vocabulary = Vocabulary(lexicon.tokens if known is None else known)
    return TextDataset(
        store, np.arange(len(texts)), labels, vocabulary=vocabulary, max_tokens=100, truncate="middle"
    )


def rows(count: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    found = make_rows(count, seed=seed)
    repeated = [f"{text} {text.split()[0]} the the" for text, _ in found]  # so that counts differ from 1
    return repeated, np.array([CLASSES.index(label) for _, label in found])


def fitted(texts: list[str], labels: np.ndarray) -> tuple[TfidfBranch, TextDataset, float]:
    train = dataset_of(texts, labels)
    branch = TfidfBranch(len(train._settings["vocabulary"]), 3, buckets=BUCKETS)
    folds = folds_of(labels, seed=0)
    fit = fit_branch(branch, train, classes=3, row_weights=np.ones(len(labels)), folds=folds)
    return branch, train, fit.strength


def sklearn_logits(texts: list[str], labels: np.ndarray, asked: list[str], strength: float) -> np.ndarray:
    """Return scikit-learn's logits of TF-IDF features scaled by their difference between classes."""
    tokenizer = Tokenizer("words", lowercase=True)
    vectorizer = TfidfVectorizer(
        tokenizer=tokenizer, token_pattern=None, lowercase=False, ngram_range=(1, 2), sublinear_tf=True
    )
    features_RF = vectorizer.fit_transform(texts).toarray()
    present_CF = 1.0 + np.stack([(features_RF[labels == c] > 0).sum(axis=0) for c in np.unique(labels)])
    logs_CF = np.log(present_CF / present_CF.sum(axis=1, keepdims=True))
    scale_F = np.sqrt(np.abs(logs_CF - logs_CF.mean(axis=0)).max(axis=0))
    scale_F /= np.sqrt(np.square(features_RF * scale_F).sum(axis=1).mean())
    model = LogisticRegression(C=strength, max_iter=10_000, tol=1e-8)
    model.fit(features_RF * scale_F, labels)
    return model.decision_function(vectorizer.transform(asked).toarray() * scale_F)


def centred(logits_RC: np.ndarray) -> np.ndarray:
    return logits_RC - logits_RC.mean(axis=1, keepdims=True)


def test_a_fitted_branch_is_the_linear_model_of_scikit_learn() -> None:
    """Also for words and pairs in no training row, which have zero weight in both."""
    texts, labels = rows(120)
    branch, train, strength = fitted(texts, labels)
    asked = [*rows(40, seed=1)[0], "great", "unheard of words"]
    vocabulary = train._settings["vocabulary"].tokens[2:]
    batch = dataset_of(asked, np.zeros(len(asked), np.int64), known=vocabulary).batch(np.arange(len(asked)))
    found_RC = branch(batch.tokens_BT, batch.lengths_B).double().numpy()
    expected_RC = sklearn_logits(texts, labels, asked, strength)
    np.testing.assert_allclose(centred(found_RC), centred(expected_RC), atol=0.03)
    assert np.abs(centred(expected_RC)).max() > 1, "the two would agree on nothing, too"


def test_the_penalty_matters_for_long_texts_too() -> None:
    """Features and gradients are small: with a loose tolerance the fit stops at its start."""
    random = np.random.default_rng(0)
    rows, features, of_row = 500, 20_000, 400
    columns = np.concatenate([random.choice(features, of_row, replace=False) for _ in range(rows)])
    values = np.full(rows * of_row, of_row**-0.5)
    features_RF = sparse.csr_matrix((values, columns, np.arange(rows + 1) * of_row), shape=(rows, features))
    labels = (features_RF @ random.normal(size=features) > 0).astype(np.int64)
    start, sizes = None, []
    for strength in STRENGTHS:
        start = logistic_regression(
            features_RF, labels, np.ones(rows), strength, 2, start=start, tolerance=ROUGH
        )
        sizes.append(np.abs(start[0]).sum())
    assert all(larger > 1.2 * smaller for smaller, larger in itertools.pairwise(sizes)), sizes


def test_out_of_fold_scores_come_from_models_that_have_not_seen_the_row() -> None:
    """With random labels a model is right on its training rows and at chance on others."""
    texts, _ = rows(200)
    labels = np.random.default_rng(0).integers(0, 3, 200)
    train = dataset_of(texts, labels)
    branch = TfidfBranch(len(train._settings["vocabulary"]), 3, buckets=BUCKETS)
    fit = fit_branch(branch, train, classes=3, row_weights=np.ones(200), folds=folds_of(labels, seed=0))
    batch = train.batch(np.arange(200))
    seen = (branch(batch.tokens_BT, batch.lengths_B).argmax(1).numpy() == labels).mean()
    unseen = (fit.out_of_fold_RC.argmax(1) == labels).mean()
    assert seen > 0.8
    assert unseen < 0.5


@pytest.mark.parametrize("present", [[0, 1], [1, 2], [0, 2], [1]])
def test_a_class_without_rows_is_never_predicted(present: list[int]) -> None:
    random = np.random.default_rng(0)
    labels = random.choice(present, 50)
    features_RF = random.normal(size=(50, 4)) + labels[:, None]
    weights_CF, bias_C = logistic_regression(features_RF, labels, np.ones(50), 1.0, 3)
    assert set((features_RF @ weights_CF.T + bias_C).argmax(1)) <= set(present)


def test_a_rare_class_counts_by_its_weight() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [190, 10])
    features_RF = random.normal(size=(200, 1)) + labels[:, None]
    reported = []
    for weight in (1.0, 19.0):
        weights_CF, bias_C = logistic_regression(features_RF, labels, np.where(labels, weight, 1.0), 1.0, 2)
        reported.append((features_RF @ weights_CF.T + bias_C).argmax(1).sum())
    assert reported[0] < 10 < reported[1]


def test_folds_have_each_row_once_and_every_class() -> None:
    labels = np.array([0] * 20 + [1] * 7 + [2] * 5)
    folds = folds_of(labels, seed=3)
    assert sorted(np.concatenate(folds).tolist()) == list(range(32))
    assert all(set(labels[fold]) == {0, 1, 2} for fold in folds)
    assert len(folds_of(np.array([0, 1]), seed=0)) == 2


def test_padding_and_other_texts_do_not_matter() -> None:
    texts, labels = rows(30)
    branch, train, _ = fitted(texts, labels)
    batch = train.batch(np.arange(30))
    together_RC = branch(batch.tokens_BT, batch.lengths_B)
    for row in range(30):
        alone = train.batch(np.array([row]))
        beyond_BT = torch.cat([alone.tokens_BT, torch.full((1, 3), 5)], dim=1)
        torch.testing.assert_close(branch(beyond_BT, alone.lengths_B)[0], together_RC[row])


# -- a network with a fitted branch ----------------------------------------------------------------


@pytest.fixture(scope="module")
def linear_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained with a fitted linear branch."""
    from conftest import TINY, write_csv

    from lstm_sentiment.config.command_line import parse_config
    from lstm_sentiment.experiment.train import run

    folder = tmp_path_factory.mktemp("linear")
    data = write_csv(folder / "data.csv", make_rows(240))
    argv = [f"--data.train={data}", f"--out={folder / 'run'}", *TINY, "--trainer.epochs=5"]
    argv += ["--model.ngrams=5000", "--model.ngram_kind=tfidf", "--baseline=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        run(parse_config(argv, program="test", description=""))
    torch.set_flush_denormal(False)
    return folder / "run"


def test_a_run_reports_the_fitted_branch(linear_run: Path) -> None:
    branches = json.loads((linear_run / "metrics.json").read_text())["branches"]
    assert list(branches) == ["lstm", "ngrams"]
    assert branches["ngrams"]["test"]["accuracy"] > 0.9


def test_an_export_gives_the_same_predictions(linear_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import lstm_sentiment
    from lstm_sentiment.deployment.exporter import export

    classifier = lstm_sentiment.load(linear_run, device="cpu")
    classifier.model.shares.copy_(torch.tensor([0.2, 1.8]))  # the branch has most of the weight
    facts = export(classifier, linear_run, tmp_path / "onnx", int8=True)
    assert facts["check"]["largest_difference"] < 1e-5


def test_attributions_add_up(linear_run: Path) -> None:
    import lstm_sentiment
    from lstm_sentiment.explanation.attribution import explain

    classifier = lstm_sentiment.load(linear_run, device="cpu")
    classifier.model.shares.copy_(torch.tensor([0.2, 1.8]))
    found = explain(classifier, "a great service but the the awful place", method="integrated_gradients")
    explained_C = found.scores - found.baseline
    assert np.abs(found.attributions.sum(axis=0) - explained_C).max() < 0.02 * np.abs(explained_C).max()


def test_resuming_is_exact(configure: Callable[..., object], tmp_path: Path) -> None:
    from test_experiment import differing, run_until_save, weights_of

    from lstm_sentiment.experiment.train import run

    flags = ["--model.ngrams=500", "--model.ngram_kind=tfidf"]
    flags += ["--trainer.checkpoint_every=2", "--trainer.epochs=2"]
    run(configure(*flags, f"--out={tmp_path / 'straight'}"))
    run_until_save(configure(*flags), "last", 2)
    run(configure(*flags, "--resume=true"))
    assert differing(weights_of(tmp_path / "straight"), weights_of(tmp_path / "run")) == []
