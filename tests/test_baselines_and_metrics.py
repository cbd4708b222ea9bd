"""Metrics against plain counting, and the two baselines."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_rows, write_csv
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from lstm_sentiment.config.schema import METRICS
from lstm_sentiment.config.sections import DataConfig, TextConfig
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.evaluation import metrics
from lstm_sentiment.evaluation.metrics import better, confusion_scores, metrics_of, report_lines, score
from lstm_sentiment.linear import baselines
from lstm_sentiment.linear.baselines import baseline_scores
from lstm_sentiment.records.json_values import to_json

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


def test_the_majority_is_that_of_the_training_rows(tmp_path: Path) -> None:
    rows = [(f"text n{i}", "abbbcc"[i % 6]) for i in range(60)]
    test = write_csv(tmp_path / "test.csv", [("x", "a"), ("y", "a"), ("z", "b"), ("q", "c")])
    corpus = corpus_of(tmp_path, rows, test=str(test), validation=0.2)
    found = baseline_scores(corpus.train, held_out(corpus), corpus.labels, seed=0)["majority"]
    expected = counted([0, 0, 1, 2], [1, 1, 1, 1])
    assert found.confusion == expected["confusion"]
    assert found["accuracy"] == pytest.approx(expected["accuracy"])
    assert found["macro_f1"] == pytest.approx(expected["macro_f1"])
    shares = np.bincount(corpus.train.labels) / len(corpus.train)
    assert found["loss"] == pytest.approx(-np.log(shares[[0, 0, 1, 2]]).mean())


def test_the_linear_baseline_learns_from_one_word(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, make_rows(240), test=0.2)
    scores = baseline_scores(corpus.train, held_out(corpus), corpus.labels, seed=0)
    linear = scores["tfidf_logistic_regression"]
    assert linear["accuracy"] > 0.9
    assert linear["macro_f1"] > 0.9
    assert linear["training_rows"] == len(corpus.train)
    assert scores["majority"]["accuracy"] < 0.5
    again = baseline_scores(corpus.train, held_out(corpus), corpus.labels, seed=0)
    assert again == scores


def test_the_linear_baseline_converges_on_long_texts(tmp_path: Path) -> None:
    """With small feature values gradients are small from the start, so that fits easily stop too early."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(600):
        tilt = np.where(np.arange(2000) % 2 == i % 2, 1.12, 1.0)
        words = random.choice(2000, 250, p=tilt / tilt.sum())
        rows.append((" ".join(f"w{word}" for word in words), ["negative", "positive"][i % 2]))
    corpus = corpus_of(tmp_path, rows)
    found = baseline_scores(corpus.train, held_out(corpus), corpus.labels, seed=0)
    documents = [
        [" ".join(baselines._documents(split, np.array([row]))) for row in range(len(split))]
        for split in (corpus.train, held_out(corpus))
    ]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    train, test = vectorizer.fit_transform(documents[0]), vectorizer.transform(documents[1])
    exact = LogisticRegression(C=5.0, solver="newton-cg", tol=1e-8).fit(train, corpus.train.labels)
    expected = -np.log(exact.predict_proba(test)[np.arange(test.shape[0]), held_out(corpus).labels]).mean()
    assert found["tfidf_logistic_regression"]["loss"] == pytest.approx(expected, abs=0.005)


def test_the_linear_baseline_reads_texts_of_any_kind(tmp_path: Path) -> None:
    """Empty ones, and test words that no training row has."""
    test = write_csv(tmp_path / "test.csv", [("", "negative"), ("quokka", "neutral"), ("great", "positive")])
    corpus = corpus_of(tmp_path, [*make_rows(90), ("", "negative")], test=str(test))
    found = baseline_scores(corpus.train, held_out(corpus), corpus.labels, seed=0)
    linear = found["tfidf_logistic_regression"]
    assert linear["rows"] == 3
    assert math.isfinite(linear["loss"])
    assert linear.confusion[2] == [0, 0, 1]


def test_the_linear_baseline_sees_training_rows_alone(tmp_path: Path) -> None:
    """The clue words of the test rows are in no training row."""
    train = [(f"plain words n{i}", LABELS[i % 2]) for i in range(80)]
    told = [(f"tell{i % 2} n{i}", LABELS[i % 2]) for i in range(100, 140)]
    test = write_csv(tmp_path / "test.csv", told)
    corpus = corpus_of(tmp_path, train, test=str(test), validation=0.2)
    found = baseline_scores(corpus.train, held_out(corpus), corpus.labels, seed=0)
    assert found["tfidf_logistic_regression"]["accuracy"] == pytest.approx(0.5, abs=0.2)


def test_a_class_without_training_rows_keeps_its_column(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path, make_rows(90), test=0.2)
    seen = np.flatnonzero(corpus.train.labels != 1)
    probabilities_RC = baselines._linear_probabilities(corpus.train, seen, held_out(corpus), 3)
    assert probabilities_RC.shape == (len(held_out(corpus)), 3)
    assert (probabilities_RC[:, 1] == 0).all()
    assert probabilities_RC.sum(axis=1) == pytest.approx(np.ones(len(probabilities_RC)))


def test_a_large_corpus_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of rows of the linear model is bounded; they are sampled from all rows by the seed."""
    corpus = corpus_of(tmp_path, make_rows(240), test=0.2)
    test = held_out(corpus)
    whole = baseline_scores(corpus.train, test, corpus.labels, seed=0)["tfidf_logistic_regression"]
    monkeypatch.setattr(baselines, "MAX_TOKENS", int(corpus.train.lengths.sum()) // 3)
    monkeypatch.setattr(baselines, "ROWS_AT_ONCE", 7)
    first, again, other = (
        baseline_scores(corpus.train, test, corpus.labels, seed=seed)["tfidf_logistic_regression"]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first["loss"] != other["loss"]
    assert whole["training_rows"] * 0.25 < first["training_rows"] < whole["training_rows"] * 0.42
    assert first["accuracy"] > 0.6


def test_reading_the_test_rows_in_parts_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of(tmp_path, make_rows(120), test=0.3)
    rows = np.arange(len(corpus.train))
    whole = baselines._linear_probabilities(corpus.train, rows, held_out(corpus), 3)
    monkeypatch.setattr(baselines, "ROWS_AT_ONCE", 5)
    parts = baselines._linear_probabilities(corpus.train, rows, held_out(corpus), 3)
    assert parts == pytest.approx(whole)
