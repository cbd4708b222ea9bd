"""Metrics against plain counting, and the two baselines."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_rows, write_csv
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lstm_sentiment.config.schema import METRICS
from lstm_sentiment.config.sections import DataConfig, TextConfig
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.evaluation import metrics
from lstm_sentiment.evaluation.against_linear import verdict_of, verdict_sentence
from lstm_sentiment.evaluation.calibration import likelihood_loss
from lstm_sentiment.evaluation.metrics import (
    better,
    confusion_scores,
    metrics_of,
    neglected_classes,
    report_lines,
    score,
)
from lstm_sentiment.linear import baselines
from lstm_sentiment.linear.baselines import baseline_scores, compare_with_linear, fit_linear_baseline
from lstm_sentiment.linear.logistic_regression import STRENGTHS, LinearFit, fit_by_validation
from lstm_sentiment.models.network import TfidfBranch
from lstm_sentiment.records.json_values import to_json
from lstm_sentiment.records.run_metrics import AgainstLinear
from lstm_sentiment.training.losses import row_weights

LABELS = ["negative", "neutral", "positive"]
PREDICTED = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40)


def one_hot(predicted: list[int], classes: int = 3) -> np.ndarray[Any, Any]:
    return np.eye(classes)[predicted] * 0.7 + 0.1


def counted(truth: list[int], predicted: list[int], classes: int = 3) -> dict[str, Any]:
    """Reference: every score by counting rows."""
    pairs = list(zip(truth, predicted, strict=True))
    confusion = [[pairs.count((t, p)) for p in range(classes)] for t in range(classes)]

    def share(part: int, whole: int) -> float:
        return part / whole if whole else 0.0

    precision = [share(confusion[c][c], predicted.count(c)) for c in range(classes)]
    recall = [share(confusion[c][c], truth.count(c)) for c in range(classes)]
    f1 = [share(2 * confusion[c][c], truth.count(c) + predicted.count(c)) for c in range(classes)]
    return {
        "rows": len(truth),
        "accuracy": sum(t == p for t, p in pairs) / len(pairs),
        "macro_f1": sum(f1) / classes,
        "macro_recall": sum(recall) / classes,
        "macro_precision": sum(precision) / classes,
        "confusion": confusion,
        "per_class": [
            {"precision": p, "recall": r, "f1": f, "rows": truth.count(c)}
            for c, (p, r, f) in enumerate(zip(precision, recall, f1, strict=True))
        ],
    }


# --- metrics ---


@given(PREDICTED)
@example([(0, 0)])
@example([(0, 1), (1, 0)])
@settings(max_examples=50, deadline=None)
def test_scores_equal_counting(pairs: list[tuple[int, int]]) -> None:
    """Classes without a row, and classes never predicted, included; no warning either."""
    truth, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    found, expected = score(np.array(truth), one_hot(predicted), LABELS), counted(truth, predicted)
    for name in ("rows", "accuracy", "macro_f1", "macro_recall", "macro_precision"):
        assert found[name] == pytest.approx(expected[name]), name
    assert found.confusion == expected["confusion"]
    assert list(found.per_class) == LABELS
    for of_class, counts in zip(found.per_class.values(), expected["per_class"], strict=True):
        assert dataclasses.asdict(of_class) == pytest.approx(counts)


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=20), st.data())
@settings(max_examples=50, deadline=None)
def test_the_loss_is_the_mean_negative_log_likelihood(raw: list[list[float]], data: st.DataObject) -> None:
    truth = data.draw(st.lists(st.integers(0, 2), min_size=len(raw), max_size=len(raw)))
    probabilities = [[value / sum(row) for value in row] for row in raw]
    expected = -sum(math.log(row[t]) for row, t in zip(probabilities, truth, strict=True)) / len(raw)
    assert score(np.array(truth), np.array(probabilities), LABELS)["loss"] == pytest.approx(expected)


def test_a_confident_mistake_has_a_finite_loss() -> None:
    loss = score(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), ["a", "b"])["loss"]
    assert 10 < loss < 100


def test_scores_do_not_depend_on_the_order_of_rows() -> None:
    random = np.random.default_rng(0)
    truth, probabilities = random.integers(0, 3, 50), random.dirichlet([1, 1, 1], 50)
    order = random.permutation(50)
    first, second = (
        score(truth, probabilities, LABELS),
        score(truth[order], probabilities[order], LABELS),
    )
    for name in ("loss", "ece"):
        assert first[name] == pytest.approx(second[name])
    assert first == dataclasses.replace(second, loss=first.loss, ece=first.ece)


def test_scores_are_plain_values() -> None:
    """They are written as JSON."""
    found = to_json(score(np.array([0, 1]), one_hot([0, 0]), LABELS))
    kinds = {type(value) for value in found.values()} | {type(n) for row in found["confusion"] for n in row}
    assert kinds <= {int, float, dict, list}
    assert {type(v) for of in found["per_class"].values() for v in of.values()} <= {int, float}


SCALES: list[tuple[list[str], list[str]]] = [
    (["negative", "neutral", "positive"], ["polar_f1", "flip_rate", "ordinal_error"]),
    (["Positive", "negative"], ["polar_f1", "flip_rate", "ordinal_error"]),
    (["very_negative", "negative", "so-so", "pos", "very pos"], ["polar_f1", "flip_rate", "ordinal_error"]),
    (["bad", "good", "neutral"], ["polar_f1", "flip_rate"]),
    (["sport", "politics"], []),
    (["negative", "other"], []),
    (["posture", "negligee"], []),
]


@pytest.mark.parametrize(("labels", "expected"), SCALES)
def test_polarity_scores_need_classes_of_both_polarities(labels: list[str], expected: list[str]) -> None:
    assert [name for name in metrics_of(labels) if metrics.METRICS[name].needs] == expected
    truth = np.arange(len(labels))
    found = score(truth, np.eye(len(labels)), labels)
    assert [name for name in ("polar_f1", "flip_rate", "ordinal_error") if name in found] == expected
    lines = report_lines(found, title="test")
    assert ("flipped" in lines[1]) == bool(expected)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_polarity_scores_equal_plain_loops(pairs: list[tuple[int, int]]) -> None:
    labels = ["very negative", "negative", "neutral", "positive", "very positive"]
    truth, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    found = score(truth, np.eye(5)[predicted], labels)
    flips = [1 for t, p in pairs if (t < 2 and p > 2) or (t > 2 and p < 2)]
    assert found["flip_rate"] == pytest.approx(len(flips) / len(pairs))
    assert found["ordinal_error"] == pytest.approx(sum(abs(t - p) for t, p in pairs) / len(pairs))
    poles = [found.per_class[label].f1 for label in labels if label != "neutral"]
    assert found["polar_f1"] == pytest.approx(sum(poles) / 4)


def test_every_metric_of_the_settings_is_computed_and_every_computed_one_can_be_chosen() -> None:
    assert set(METRICS) == {*metrics.METRICS, "loss"}
    found = score(np.array([0, 1, 2]), np.eye(3), ["negative", "neutral", "positive"])
    assert all(name in found for name in METRICS)
    assert "confusion" not in found


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 3)), min_size=1, max_size=40))
@settings(max_examples=50, deadline=None)
def test_weights_of_rows_count_as_repetitions(rows: list[tuple[int, int, int]]) -> None:
    labels = ["very negative", "negative", "neutral", "positive", "very positive"]
    truth, predicted, counts = (np.array(column) for column in zip(*rows, strict=True))
    weighted = score(truth, np.eye(5)[predicted], labels, counts)
    repeated = score(np.repeat(truth, counts), np.eye(5)[np.repeat(predicted, counts)], labels)
    for name in (*metrics.METRICS, "loss", "macro_precision"):
        assert weighted[name] == pytest.approx(repeated[name]), name


def test_a_confusion_matrix_without_rows_has_no_scores() -> None:
    with pytest.raises(ValueError, match="without rows"):
        confusion_scores(np.zeros((2, 3, 3)), LABELS)


@pytest.mark.parametrize("metric", METRICS)
@given(new=st.floats(), old=st.one_of(st.none(), st.floats(allow_nan=False)))
@settings(max_examples=50, deadline=None)
def test_better_is_strict_and_false_for_nan(metric: str, new: float, old: float | None) -> None:
    found = better(new, old, metric)
    if math.isnan(new):
        assert not found
    elif old is None:
        assert found
    else:
        assert found == (new < old if metric in ("loss", "flip_rate", "ordinal_error") else new > old)


def test_a_report_shows_every_class_and_count() -> None:
    scores = score(np.array([0, 0, 1, 2] * 500), one_hot([0, 1, 1, 1] * 500), LABELS)
    lines = report_lines(scores, title="test")
    assert len(lines) == 6
    assert lines[0].startswith("test: accuracy 0.5000")
    assert "rows 2,000" in lines[0]
    for label, line, row in zip(LABELS, lines[3:], scores.confusion, strict=True):
        fields = line.split()
        assert fields[0] == label
        assert [int(field.replace(",", "")) for field in fields[-3:]] == row
    assert len({len(line) for line in lines[2:]}) == 1


# --- baselines ---


def corpus_of(folder: Path, rows: list[tuple[str, str]], **data: Any) -> Corpus:
    file = write_csv(folder / "train.csv", rows)
    config = DataConfig(train=str(file), **data)
    return prepare(config, TextConfig(min_frequency=1), seed=0, cache=folder / "cache")


def held_out(corpus: Corpus) -> TextDataset:
    assert corpus.test is not None
    return corpus.test


def baselines_of(corpus: Corpus, *, metric: str = "macro_f1", seed: int = 0, **given: Any) -> dict[str, Any]:
    """Return the scores of both baselines on the test rows, and the fitted linear model."""
    splits = {name: rows for name, rows in corpus.splits.items() if name != "train"}
    linear = fit_linear_baseline(
        corpus.train,
        splits,
        labels=corpus.labels,
        vocabulary_size=len(corpus.vocabulary),
        row_weights=given.get("row_weights", corpus.train.weights),
        validation_weights=given.get("validation_weights", corpus.validation.weights),
        metric=metric,
        seed=seed,
    )
    truth_R = held_out(corpus).labels
    found = baseline_scores(linear.scores("test", truth_R), corpus.train, truth_R, rows=linear.rows)
    return {**found, "fit": linear}


def test_the_majority_is_that_of_the_training_rows(tmp_path: Path) -> None:
    rows = [(f"text n{i}", "abbbcc"[i % 6]) for i in range(60)]
    test = write_csv(tmp_path / "test.csv", [("x", "a"), ("y", "a"), ("z", "b"), ("q", "c")])
    corpus = corpus_of(tmp_path, rows, test=str(test), validation=0.2)
    found = baselines_of(corpus)["majority"]
    expected = counted([0, 0, 1, 2], [1, 1, 1, 1])
    assert found.confusion == expected["confusion"]
    assert found["accuracy"] == pytest.approx(expected["accuracy"])
    assert found["macro_f1"] == pytest.approx(expected["macro_f1"])
    shares = np.bincount(corpus.train.labels) / len(corpus.train)
    assert found["loss"] == pytest.approx(-np.log(shares[[0, 0, 1, 2]]).mean())


def test_the_linear_baseline_learns_from_one_word(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, make_rows(240), test=0.2)
    scores = baselines_of(corpus)
    linear = scores["tfidf_logistic_regression"]
    assert linear["accuracy"] > 0.9
    assert linear["macro_f1"] > 0.9
    assert linear["training_rows"] == len(corpus.train)
    assert scores["majority"]["accuracy"] < 0.5
    again = baselines_of(corpus)
    assert {**again, "fit": None} == {**scores, "fit": None}


def test_the_linear_baseline_converges_on_long_texts(tmp_path: Path) -> None:
    """With small feature values gradients are small from the start, so that fits easily stop too early."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(600):
        tilt = np.where(np.arange(2000) % 2 == i % 2, 1.4, 1.0)
        words = random.choice(2000, 250, p=tilt / tilt.sum())
        rows.append((" ".join(f"w{word}" for word in words), ["negative", "positive"][i % 2]))
    corpus = corpus_of(tmp_path, rows)
    found = baselines_of(corpus)
    assert found["tfidf_logistic_regression"]["loss"] < 0.5 * math.log(2)
    assert found["tfidf_logistic_regression"]["accuracy"] > 0.9


def test_the_linear_baseline_reads_texts_of_any_kind(tmp_path: Path) -> None:
    """Empty ones, and test words that no training row has."""
    test = write_csv(tmp_path / "test.csv", [("", "negative"), ("quokka", "neutral"), ("great", "positive")])
    corpus = corpus_of(tmp_path, [*make_rows(90), ("", "negative")], test=str(test))
    found = baselines_of(corpus)
    linear = found["tfidf_logistic_regression"]
    assert linear["rows"] == 3
    assert math.isfinite(linear["loss"])
    assert linear.confusion[2] == [0, 0, 1]


def test_the_linear_baseline_sees_training_rows_alone(tmp_path: Path) -> None:
    """The clue words of the test rows are in no training row."""
    train = [(f"plain words n{i}", LABELS[i % 2]) for i in range(80)]
    reported = [(f"tell{i % 2} n{i}", LABELS[i % 2]) for i in range(100, 140)]
    test = write_csv(tmp_path / "test.csv", reported)
    corpus = corpus_of(tmp_path, train, test=str(test), validation=0.2)
    found = baselines_of(corpus)
    assert found["tfidf_logistic_regression"]["accuracy"] == pytest.approx(0.5, abs=0.2)


def test_a_large_corpus_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of rows of the linear model is bounded; they are sampled from all rows by the seed."""
    corpus = corpus_of(tmp_path, make_rows(240), test=0.2)
    whole = baselines_of(corpus)["tfidf_logistic_regression"]
    monkeypatch.setattr(baselines, "MOST_TOKENS", int(corpus.train.lengths.sum()) // 3)
    first, again, other = (baselines_of(corpus, seed=seed)["tfidf_logistic_regression"] for seed in (0, 0, 1))
    assert first == again
    assert first["loss"] != other["loss"]
    assert whole.training_rows * 0.25 < first.training_rows < whole.training_rows * 0.42
    assert first["accuracy"] > 0.6


def skewed(count: int) -> list[tuple[str, str]]:
    """Rows of which a tenth are of the rare class, with weak clues."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(count):
        rare = i % 10 == 0
        clue = "dirty" if random.random() < (0.6 if rare else 0.1) else "clean"
        others = " ".join(f"w{word}" for word in random.integers(40, size=6))
        rows.append((f"the room was {clue} {others}", "bad" if rare else "good"))
    return rows


def test_the_linear_baseline_has_a_class_bias_if_the_metric_asks_for_it(tmp_path: Path) -> None:
    """Without it the rare class is hardly predicted, which would flatter the model that is compared."""
    corpus = corpus_of(tmp_path, skewed(900), test=0.3)
    by_f1, by_accuracy = (baselines_of(corpus, metric=metric) for metric in ("macro_f1", "accuracy"))
    f1 = [of["tfidf_logistic_regression"]["macro_f1"] for of in (by_f1, by_accuracy)]
    assert f1[0] > f1[1] + 0.05
    bias_C = by_f1["fit"].branch.bias.detach().numpy()
    assert by_f1["fit"].bias_C[corpus.labels.index("bad")] > bias_C[corpus.labels.index("bad")] + 0.1
    assert by_accuracy["fit"].bias_C == pytest.approx(by_accuracy["fit"].branch.bias.detach().numpy())


def test_the_linear_baseline_uses_the_class_weights_of_the_run(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, skewed(900), test=0.3)
    balanced = {
        name: row_weights(rows, 2, balanced=True)
        for name, rows in (("row_weights", corpus.train), ("validation_weights", corpus.validation))
    }
    plain, weighted = (
        baselines_of(corpus, metric="accuracy"),
        baselines_of(corpus, metric="accuracy", **balanced),
    )
    recall = [of["tfidf_logistic_regression"].per_class["bad"].recall for of in (plain, weighted)]
    assert recall[1] > recall[0] + 0.1


def test_the_penalty_is_that_of_the_best_validation_likelihood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of(tmp_path, skewed(600), test=0.3)
    train, validation = corpus.train, corpus.validation

    def fit(*strengths: float) -> LinearFit:
        monkeypatch.setattr("lstm_sentiment.linear.logistic_regression.STRENGTHS", strengths)
        branch = TfidfBranch(len(corpus.vocabulary), 2, buckets=1000)
        return fit_by_validation(branch, train, validation, classes=2, row_weights=train.weights)

    fits = [fit(strength) for strength in STRENGTHS]
    losses = [likelihood_loss(of.out_of_fold_RC, validation.labels, validation.counts) for of in fits]
    assert fit(*STRENGTHS).strength == STRENGTHS[int(np.argmin(losses))]


def test_it_is_as_good_as_that_of_scikit_learn(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    from sklearn_baseline import linear_scores  # type: ignore[import-not-found]

    corpus = corpus_of(tmp_path, make_rows(400), test=0.3)
    reference = linear_scores(corpus.train, held_out(corpus), corpus.labels, seed=0)
    found = baselines_of(corpus)["tfidf_logistic_regression"]
    assert found["macro_f1"] >= reference.macro_f1 - 0.03
    assert found["loss"] <= reference.loss + 0.05


# --- comparison with the linear model ---


def compared(**given: Any) -> AgainstLinear:
    return AgainstLinear(
        **{"metric": "macro_f1", "difference": 0.01, "low": 0.005, "high": 0.02, "model_s": 9.0} | given
    )


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({}, "ahead"),
        ({"low": -0.01}, "level"),
        ({"low": 0.0}, "level"),
        ({"difference": -0.01, "low": -0.02, "high": -0.001}, "behind"),
        ({"metric": "ordinal_error"}, "behind"),
        ({"metric": "flip_rate", "difference": -0.01, "low": -0.02, "high": -0.001}, "ahead"),
    ],
)
def test_the_verdict_follows_the_interval(given: dict[str, Any], verdict: str) -> None:
    found = compared(**given)
    assert verdict_of(found) == verdict
    assert verdict in verdict_sentence(found)


def test_level_models_are_compared_by_their_training_time() -> None:
    level = {"low": -0.01}
    assert "at 40 times its training time" in verdict_sentence(compared(model_s=20.0, linear_s=0.5, **level))
    assert "time" not in verdict_sentence(compared(model_s=0.6, linear_s=0.5, **level))
    assert "time" not in verdict_sentence(compared(model_s=20.0, linear_s=None, **level))


def test_equal_predictions_are_level_and_better_ones_ahead() -> None:
    truth_R = np.arange(300) % 3
    right_RC, labels = np.eye(3)[truth_R], ["a", "b", "c"]
    how: dict[str, Any] = {"labels": labels, "metric": "loss", "linear_s": 1.0, "model_s": 2.0}
    worse_RC = np.where(np.arange(300)[:, None] % 5 == 0, np.roll(right_RC, 1, axis=1), right_RC)
    assert verdict_of(compare_with_linear(right_RC, right_RC, truth_R, **how)) == "level"
    ahead = compare_with_linear(worse_RC, right_RC, truth_R, **how)
    assert (verdict_of(ahead), ahead.metric) == ("ahead", "macro_f1")
    assert verdict_of(compare_with_linear(right_RC, worse_RC, truth_R, **how)) == "behind"


@pytest.mark.parametrize(
    ("predicted", "lines"),
    [
        ([0] * 50 + [1] * 50, []),
        ([0] * 100, ["class 'b' is never predicted; 50 of 100 rows have it"]),
        ([0] * 95 + [1] * 5, ["class 'b' is only 5 times predicted; 50 of 100 rows have it"]),
    ],
)
def test_classes_that_are_hardly_predicted_are_named(predicted: list[int], lines: list[str]) -> None:
    truth_R = np.repeat([0, 1], 50)
    assert neglected_classes(score(truth_R, np.eye(2)[predicted], ["a", "b"])) == lines
