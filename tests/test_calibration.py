"""Temperature scaling and the coverage of conformal label sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.evaluation.calibration import Calibration, coverage_of, fit_calibration
from lstm_sentiment.evaluation.metrics import calibration_error, reliability_bins


def draw(rows: int, seed: int, *, heat: float = 1.0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, `heat` times too large, and classes sampled from the true probabilities."""
    random = np.random.default_rng(seed)
    logits_RC = random.normal(0, 1.5, (rows, classes))
    odds_RC = softmax(logits_RC, axis=1).cumsum(axis=1)
    truth_R = (random.random((rows, 1)) > odds_RC[:, :-1]).sum(axis=1)
    return heat * logits_RC, truth_R


def loss(logits_RC: np.ndarray, truth_R: np.ndarray, temperature: float) -> float:
    return float(-log_softmax(logits_RC / temperature, axis=1)[np.arange(len(truth_R)), truth_R].mean())


@pytest.mark.parametrize("heat", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_scaled_logits(heat: float) -> None:
    logits_RC, truth_R = draw(20_000, 0, heat=heat)
    fitted = fit_calibration(logits_RC, truth_R)
    assert fitted.temperature == pytest.approx(heat, rel=0.05)
    others = [loss(logits_RC, truth_R, fitted.temperature * factor) for factor in (0.9, 0.98, 1.02, 1.1)]
    assert loss(logits_RC, truth_R, fitted.temperature) <= min(others)
    fresh_RC, fresh_R = draw(20_000, 1, heat=heat)
    after = calibration_error(fresh_R, fitted.probabilities(fresh_RC))
    assert after < 0.015
    if heat != 1:
        assert after < calibration_error(fresh_R, Calibration().probabilities(fresh_RC)) / 3


def test_a_temperature_changes_no_predicted_label() -> None:
    logits_RC, _ = draw(500, 0)
    for temperature in (0.05, 0.7, 20.0):
        probabilities_RC = Calibration(temperature=temperature).probabilities(logits_RC)
        assert (probabilities_RC.argmax(axis=1) == logits_RC.argmax(axis=1)).all()
        np.testing.assert_allclose(probabilities_RC.sum(axis=1), 1)
    np.testing.assert_allclose(Calibration().probabilities(logits_RC), softmax(logits_RC, axis=1))


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95, 0.99])
def test_label_sets_reach_the_requested_coverage(coverage: float) -> None:
    """On average over many splits; one split alone may be off by chance."""
    found = []
    for seed in range(200):
        logits_RC, truth_R = draw(600, seed)
        fitted = fit_calibration(logits_RC[:300], truth_R[:300])
        sets_RC = fitted.label_sets(fitted.probabilities(logits_RC[300:]), coverage)
        found.append(coverage_of(sets_RC, truth_R[300:]).coverage)
    assert np.mean(found) == pytest.approx(coverage, abs=0.01)


def test_a_few_correct_rows_do_not_give_certainty() -> None:
    logits_RC = np.array([[9.0, 0.0], [0.0, 9.0]] * 5)
    probabilities_RC = fit_calibration(logits_RC, np.array([0, 1] * 5)).probabilities(logits_RC)
    assert probabilities_RC.max() == pytest.approx(11 / 12, abs=0.01)  # ten of ten right, and one more each


@given(rows=st.integers(1, 60), level=st.integers(1, 999), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_thresholds_are_those_of_split_conformal_prediction(rows: int, level: int, seed: int) -> None:
    """The score is 1 - p(true); the threshold is the ceil((n + 1) coverage)-th smallest of n scores."""
    logits_RC, truth_R = draw(rows, seed)
    fitted = fit_calibration(logits_RC, truth_R)
    scores = sorted(1 - fitted.probabilities(logits_RC)[np.arange(rows), truth_R])
    rank = -(-(rows + 1) * level // 1000)
    bound = scores[rank - 1] if rank <= rows else 1.0
    probabilities_RC = fitted.probabilities(draw(50, seed + 1)[0])
    plain_RC = 1 - probabilities_RC <= bound + 1e-12
    plain_RC[np.arange(50), probabilities_RC.argmax(axis=1)] = True
    assert (fitted.label_sets(probabilities_RC, level / 1000) == plain_RC).all()


def test_sets_grow_with_coverage_and_are_never_empty() -> None:
    logits_RC, truth_R = draw(300, 0)
    fitted = fit_calibration(logits_RC, truth_R)
    probabilities_RC = fitted.probabilities(logits_RC)
    before_RC = np.zeros_like(probabilities_RC, bool)
    for coverage in (0.01, 0.5, 0.9, 0.999, 0.9999):
        sets_RC = fitted.label_sets(probabilities_RC, coverage)
        assert sets_RC.any(axis=1).all()
        assert (sets_RC | before_RC == sets_RC).all()
        before_RC = sets_RC
    assert before_RC.all(), "300 rows cannot promise 99.99 %: every label must be in"


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, math.nan, 90.0])
def test_an_invalid_coverage_is_refused(coverage: float) -> None:
    fitted = fit_calibration(*draw(50, 0))
    with pytest.raises(ConfigError, match=r"^coverage: must lie between 0 and 1"):
        fitted.label_sets(np.array([[0.5, 0.5]]), coverage)


def test_without_thresholds_there_are_no_sets() -> None:
    with pytest.raises(ConfigError, match="no thresholds"):
        Calibration().label_sets(np.array([[0.5, 0.5]]), 0.9)


def test_a_single_class_and_certain_predictions_work() -> None:
    for logits_RC in (np.full((5, 2), 3.0), np.array([[1e4, -1e4]] * 5), np.array([[-1e4, 1e4]] * 5)):
        fitted = fit_calibration(logits_RC, np.zeros(5, int))
        assert 0.05 <= fitted.temperature <= 20
        assert np.isfinite(fitted.probabilities(logits_RC)).all()


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0.34, 1)), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_the_calibration_error_equals_a_plain_loop(rows: list[tuple[int, float]]) -> None:
    truth_R = np.array([label for label, _ in rows])
    probabilities_RC = np.array([[p, (1 - p) / 2, (1 - p) / 2] for _, p in rows])
    expected = 0.0
    for number in range(15):
        inside = [(t, p) for t, p in rows if int(p * 15) == number or (p == 1 and number == 14)]
        if inside:
            accuracy = sum(t == 0 for t, _ in inside) / len(inside)
            confidence = sum(p for _, p in inside) / len(inside)
            expected += len(inside) / len(rows) * abs(accuracy - confidence)
    assert calibration_error(truth_R, probabilities_RC) == pytest.approx(expected, abs=1e-12)
    assert sum(of["rows"] for of in reliability_bins(truth_R, probabilities_RC)) == len(rows)
