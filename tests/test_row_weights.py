"""Row weights and repeated texts: equivalent in training, and kept in one split."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_rows, write_csv
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from test_estimator import FRESH, LABELS, TEXTS, tiny

from lstm_sentiment import SentimentEstimator
from lstm_sentiment.adaptation.heads import fit_head
from lstm_sentiment.adaptation.stacking import choose_blend, standard_error_of_difference
from lstm_sentiment.config.sections import DataConfig, TextConfig
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.errors import DataError
from lstm_sentiment.evaluation.calibration import fit_calibration, fit_shares, likelihood_loss
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.linear.logistic_regression import fit_branch, folds_of
from lstm_sentiment.models.network import TfidfBranch
from lstm_sentiment.training.losses import row_weights

CLASSES = ["negative", "neutral", "positive"]
COUNTS = np.array([1, 2, 3] * 20)
TIMES = np.repeat(np.arange(60), COUNTS)  # each row as often as it counts
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


def load(file: Path, **data: Any) -> Corpus:
    config = DataConfig(train=str(file), **data)
    return prepare(config, TextConfig(min_frequency=1), seed=0, cache=file.parent / "cache")


def both(tmp_path: Path, **data: Any) -> tuple[Corpus, Corpus]:
    """Return rows with a weight column, and the same rows repeated by weight."""
    rows = make_rows(60)
    lines = [f'"{text}",{label},{count}' for (text, label), count in zip(rows, COUNTS, strict=True)]
    (tmp_path / "weighted.csv").write_text("\n".join(["text,label,count", *lines]) + "\n")
    repeated = write_csv(tmp_path / "repeated.csv", [rows[place] for place in TIMES])
    return (
        load(tmp_path / "weighted.csv", weight_column="count", **data),
        load(repeated, deduplicate=False, **data),
    )


# --- what is fitted ---


@pytest.mark.parametrize("balanced", [False, True])
def test_a_weighted_linear_branch_equals_one_of_repeated_rows(tmp_path: Path, balanced: bool) -> None:
    """Inverse frequencies, weights, bias, and the penalty chosen by cross-validation."""
    fitted = []
    for corpus in both(tmp_path, validation=None, test=None):
        train = corpus.train
        branch = TfidfBranch(len(corpus.vocabulary), 3, buckets=1 << 12)
        folds = folds_of(train.labels, texts=train.texts, seed=0)
        fit = fit_branch(
            branch,
            train,
            classes=3,
            row_weights=row_weights(train, 3, balanced=balanced),
            row_counts=train.counts,
            folds=folds,
        )
        fitted.append((fit, {name: tensor.numpy() for name, tensor in branch.state_dict().items()}))
    (one, of_weights), (other, of_rows) = fitted
    assert one.strength == other.strength
    np.testing.assert_allclose(one.out_of_fold_RC[TIMES], other.out_of_fold_RC, rtol=1e-3, atol=1e-3)
    for name, found in of_weights.items():
        np.testing.assert_allclose(found, of_rows[name], rtol=1e-3, atol=2e-3, err_msg=name)


def test_ignoring_weights_changes_the_linear_branch(tmp_path: Path) -> None:
    """The control: the same rows without weights."""
    weighted, _ = both(tmp_path, validation=None, test=None)
    weights = []
    for counts in (weighted.train.counts, np.ones(60)):
        branch = TfidfBranch(len(weighted.vocabulary), 3, buckets=1 << 12)
        folds = folds_of(weighted.train.labels, seed=0)
        fit_branch(branch, weighted.train, classes=3, row_weights=counts, row_counts=counts, folds=folds)
        weights.append(branch.weights.weight.detach().numpy())
    assert np.abs(weights[0] - weights[1]).max() > 0.1


@pytest.mark.parametrize("strong", [0, 2])
def test_a_weighted_head_equals_one_of_repeated_rows(strong: int) -> None:
    random_numbers, labels = np.random.default_rng(0), np.arange(60) % 3
    features_RP = random_numbers.normal(size=(60, 5)) + 0.5 * labels[:, None] + COUNTS[:, None]
    folds = folds_of(labels, seed=0)
    one = fit_head(
        features_RP, labels, classes=3, row_weights=COUNTS, row_counts=COUNTS, folds=folds, strong=strong
    )
    repeated = [np.flatnonzero(np.isin(TIMES, fold)) for fold in folds]
    other = fit_head(
        features_RP[TIMES], labels[TIMES], classes=3, row_weights=np.ones(len(TIMES)), folds=repeated,
        strong=strong,
    )  # fmt: skip
    assert one.penalty == other.penalty
    np.testing.assert_allclose(one.weight_CP, other.weight_CP, **TOLERANCE)
    np.testing.assert_allclose(one.bias_C, other.bias_C, **TOLERANCE)
    plain = fit_head(features_RP, labels, classes=3, row_weights=np.ones(60), folds=folds, strong=strong)
    assert np.abs(plain.weight_CP - one.weight_CP).max() > 1e-3


def test_weighted_choices_equal_those_of_repeated_rows() -> None:
    random_numbers, labels = np.random.default_rng(1), np.arange(60) % 3
    one_RC, other_RC = (random_numbers.normal(size=(60, 3)) + size * np.eye(3)[labels] for size in (1, 2))
    probabilities_RC = np.exp(one_RC) / np.exp(one_RC).sum(axis=1, keepdims=True)
    weighted = score(labels, probabilities_RC, CLASSES, COUNTS)
    repeated = score(labels[TIMES], probabilities_RC[TIMES], CLASSES)
    for name in ("accuracy", "macro_f1", "macro_recall", "loss", "polar_f1", "flip_rate", "ordinal_error"):
        assert weighted[name] == pytest.approx(repeated[name], rel=1e-12), name
    fitted = fit_calibration(one_RC, labels, COUNTS)
    expected = fit_calibration(one_RC[TIMES], labels[TIMES])
    assert fitted.temperature == pytest.approx(expected.temperature, rel=1e-4)
    np.testing.assert_allclose(fitted.thresholds, expected.thresholds, rtol=1e-3)
    for found, of_rows in (
        (likelihood_loss(one_RC, labels, COUNTS), likelihood_loss(one_RC[TIMES], labels[TIMES])),
        (
            standard_error_of_difference(one_RC, other_RC, labels, COUNTS),
            standard_error_of_difference(one_RC[TIMES], other_RC[TIMES], labels[TIMES]),
        ),
    ):
        assert found == pytest.approx(of_rows, rel=1e-6)
    models_KRC = np.stack([one_RC, other_RC])
    np.testing.assert_allclose(
        fit_shares(models_KRC, labels, COUNTS), fit_shares(models_KRC[:, TIMES], labels[TIMES]), rtol=1e-4
    )


def test_a_weighted_blend_equals_one_of_repeated_rows() -> None:
    random_numbers, labels = np.random.default_rng(2), np.arange(150) % 3
    counts = 1 + np.arange(150) % 3
    times = np.repeat(np.arange(150), counts)
    one_RC, other_RC = (random_numbers.normal(size=(150, 3)) + size * np.eye(3)[labels] for size in (1, 2))
    folds = folds_of(labels, seed=0)
    settings: dict[str, Any] = {"names": CLASSES, "metric": "macro_f1"}
    weighted = choose_blend(
        one_RC, other_RC, labels, row_weights=counts, row_counts=counts, folds=folds, **settings
    )
    repeated = choose_blend(
        one_RC[times], other_RC[times], labels[times], row_weights=np.ones(len(times)), texts=times,
        folds=[np.flatnonzero(np.isin(times, fold)) for fold in folds], **settings,
    )  # fmt: skip
    assert (weighted.kind, weighted.why) == (repeated.kind, repeated.why)
    np.testing.assert_allclose(weighted.weights, repeated.weights, rtol=1e-4)


# --- cuts ---


@pytest.mark.parametrize("seed", range(4))
def test_no_text_is_in_two_splits_or_folds(tmp_path: Path, seed: int) -> None:
    rows = make_rows(90)
    repeated = [*rows, *rows[:40], *((text, "neutral") for text, _ in rows[10:20])]
    random.Random(seed).shuffle(repeated)
    corpus = load(write_csv(tmp_path / "a.csv", repeated), deduplicate=False)
    assert corpus.facts.shared_texts == {"validation": 0, "test": 0}
    assert sum(map(len, corpus.splits.values())) == 140
    texts = {name: set(split.texts.tolist()) for name, split in corpus.splits.items()}
    assert len(texts["test"]) == len(texts["validation"]) == 9
    train = corpus.train
    folds = folds_of(train.labels, texts=train.texts, seed=seed)
    assert sorted(np.concatenate(folds).tolist()) == list(range(len(train)))
    held = [set(train.texts[fold].tolist()) for fold in folds]
    assert sum(map(len, held)) == len(set().union(*held)) == len(texts["train"])
    plain = folds_of(train.labels, seed=seed)  # the control arm: by rows alone
    assert sum(len(set(train.texts[fold].tolist())) for fold in plain) > len(texts["train"])


def test_groups_that_share_a_text_stay_together(tmp_path: Path) -> None:
    rows = [(f"text {n}", "ab"[n % 2], f"g{n // 4}") for n in range(120)]
    rows += [("text 0", "a", "g7"), ("text 30", "a", "g11")]  # so that g0, g7 and g11 are connected
    lines = ["text,label,group", *(",".join(row) for row in rows)]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    corpus = load(tmp_path / "a.csv", deduplicate=False, group_column="group", validation=0.2, test=0.2)
    group_of = {line: row[2] for line, row in enumerate(rows, start=2)}
    sides = {
        name: {group_of[line] for line in split.store.lines[split.rows].tolist()}
        for name, split in corpus.splits.items()
    }
    assert sum(map(len, sides.values())) == 30
    assert sum({"g0", "g7", "g11"} <= side for side in sides.values()) == 1
    assert corpus.facts.shared_texts == {"validation": 0, "test": 0}


def test_unique_rows_are_split_as_before(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "a.csv", make_rows(90))
    for name, split in load(file).splits.items():
        assert split.rows.tolist() == load(file, deduplicate=False).splits[name].rows.tolist()


# --- the setting ---


def test_weights_apply_to_losses_vocabulary_and_class_weights(tmp_path: Path) -> None:
    weighted, repeated = both(tmp_path, validation=0.2, test=None)
    assert weighted.vocabulary.tokens == repeated.vocabulary.tokens
    counts = dict(zip(weighted.train.rows, weighted.train.counts, strict=True))
    assert all(COUNTS[row] == count for row, count in counts.items())
    batch = weighted.train.batch(np.arange(len(weighted.train)))
    assert batch.weights_B.sum().item() == pytest.approx(1, rel=1e-5)
    expected = weighted.train.counts / weighted.train.counts.sum()
    np.testing.assert_allclose(batch.weights_B.numpy(), expected, rtol=1e-5)
    for balanced in (False, True):
        found = row_weights(weighted.train, 3, balanced=balanced)
        of_rows = row_weights(repeated.train, 3, balanced=balanced)
        assert found.sum() == pytest.approx(of_rows.sum())


def test_a_row_of_weight_0_is_left_out_and_counted(tmp_path: Path) -> None:
    lines = [f"text {n},{'ab'[n % 2]},{int(n >= 10)}" for n in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label,count", *lines]) + "\n")
    corpus = load(tmp_path / "a.csv", weight_column="count")
    assert sum(map(len, corpus.splits.values())) == 50
    assert corpus.facts.counts["train"].weightless == 10


@pytest.mark.parametrize("weight", ["-1", "many", "nan", "inf", "", "2000000"])
def test_an_invalid_weight_is_refused_with_its_line(tmp_path: Path, weight: str) -> None:
    lines = [f"text {n},{'ab'[n % 2]},{weight if n == 5 else 1}" for n in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label,count", *lines]) + "\n")
    message = rf"a\.csv:7: column 'count': '{weight}' is not a weight; write a number from 0 to 1,000,000"
    with pytest.raises(DataError, match=message):
        load(tmp_path / "a.csv", weight_column="count")
    with pytest.raises(DataError, match=r"no column 'cuont' \(data\.weight_column\).*Did you mean 'count'"):
        load(tmp_path / "a.csv", weight_column="cuont")


def test_a_subset_keeps_its_weights(tmp_path: Path) -> None:
    weighted, _ = both(tmp_path, validation=None, test=None)
    part: TextDataset = weighted.train.part(np.array([5, 0, 2]))
    assert part.counts.tolist() == [3, 1, 3]
    np.testing.assert_allclose(part.weights, np.array([3, 1, 3]) * 3 / 7)


# --- the estimator ---


def test_an_estimator_learns_the_same_from_weights_and_from_repeated_rows(trained_run: Path) -> None:
    texts, labels, counts = TEXTS[:60], LABELS[:60], COUNTS
    estimator = SentimentEstimator(pretrained=str(trained_run), threads=1)
    weighted = clone(estimator).fit(texts, labels, sample_weight=counts)
    repeated = clone(estimator).fit([texts[n] for n in TIMES], [labels[n] for n in TIMES])
    plain = clone(estimator).fit(texts, labels)
    assert weighted.metrics_["kept"] == repeated.metrics_["kept"]
    expected = repeated.predict_proba(FRESH)
    np.testing.assert_allclose(weighted.predict_proba(FRESH), expected, rtol=0, atol=1e-6)
    assert np.abs(plain.predict_proba(FRESH) - expected).max() > 0.01


def test_an_oversampled_class_is_kept() -> None:
    """160 rows, of which 72 repeat a text: the oversampled class gets a higher prior."""
    texts, labels = TEXTS[:88], LABELS[:88]
    more = [n for n, label in enumerate(labels) if label == "positive"]
    picked = [*range(88), *(random.Random(0).choices(more, k=72))]
    estimator = tiny(epochs=2)
    once = clone(estimator).fit(texts, labels)
    often = clone(estimator).fit([texts[n] for n in picked], [labels[n] for n in picked])
    rows = [of.metrics_["validation"]["rows"] for of in (once, often)]
    assert rows[1] > rows[0]
    mean = [of.predict_proba(FRESH)[:, 2].mean() for of in (once, often)]
    assert mean[1] > mean[0] + 0.05


def test_weights_change_gradient_training_as_repeated_rows_do() -> None:
    counts = np.where(np.array(LABELS[:90]) == "neutral", 6.0, 1.0)
    estimator = tiny(epochs=3)
    plain = clone(estimator).fit(TEXTS[:90], LABELS[:90])
    weighted = clone(estimator).fit(TEXTS[:90], LABELS[:90], sample_weight=counts)
    same = clone(estimator).fit(TEXTS[:90], LABELS[:90], sample_weight=np.ones(90))
    assert (plain.predict_proba(FRESH) == same.predict_proba(FRESH)).all()
    mean = [of.predict_proba(FRESH)[:, 1].mean() for of in (plain, weighted)]
    assert mean[1] > mean[0] + 0.02


def test_a_weight_of_0_removes_the_row() -> None:
    counts = np.r_[np.ones(60), np.zeros(30)]
    labels = [*LABELS[:60], *["other"] * 30]
    weighted = tiny(epochs=1).fit(TEXTS[:90], labels, sample_weight=counts)
    without = tiny(epochs=1).fit(TEXTS[:60], LABELS[:60])
    assert weighted.classes_.tolist() == without.classes_.tolist()
    assert (weighted.predict_proba(FRESH) == without.predict_proba(FRESH)).all()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0] * 59, "sample_weight must have 60 numbers, not shape"),
        (np.ones((60, 1)), r"not shape \(60, 1\)"),
        (np.r_[-1.0, np.ones(59)], r"sample_weight\[0\] must lie between 0 and 1,000,000, not -1"),
        (np.r_[np.ones(59), np.nan], r"sample_weight\[59\] must lie between"),
        (["many"] * 60, "sample_weight must be numbers"),
        (np.zeros(60), "no row is left: sample_weight is 0"),
    ],
)
def test_weights_that_cannot_be_used_are_a_value_error(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(epochs=1).fit(TEXTS[:60], LABELS[:60], sample_weight=weights)


def test_a_search_passes_weights() -> None:
    search = GridSearchCV(tiny(epochs=1), {"hidden_size": [4, 8]}, cv=2, error_score="raise")
    search.fit(TEXTS[:60], LABELS[:60], sample_weight=COUNTS)
    assert search.predict(["a great day"]).shape == (1,)


def test_left_out_labels_are_not_classes() -> None:
    texts, labels = [*TEXTS[:60], "mixed feelings"], [*LABELS[:60], "mixed"]
    estimator = tiny(epochs=1, left_out=["mixed"])
    assert clone(estimator).get_params()["left_out"] == ["mixed"]
    found = estimator.fit(texts, labels)
    assert found.classes_.tolist() == CLASSES
    expected = tiny(epochs=1).fit(TEXTS[:60], LABELS[:60]).predict_proba(FRESH)
    assert (found.predict_proba(FRESH) == expected).all()
    with pytest.raises(ValueError, match="left_out must be a list of labels, not 'mixed'"):
        tiny(left_out="mixed").fit(texts, labels)
