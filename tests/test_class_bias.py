"""Class bias: how it is chosen, what it gains, and when it is zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import CLUES
from scipy.special import log_softmax, softmax

from lstm_sentiment.adaptation.stacking import choose_blend
from lstm_sentiment.evaluation.calibration import fit_calibration
from lstm_sentiment.evaluation.class_bias import BALANCED_METRICS, choose_class_bias, expected_score
from lstm_sentiment.evaluation.metrics import calibration_error, score
from lstm_sentiment.linear.logistic_regression import folds_of

NAMES = list(CLUES)
PRIOR = (0.12, 0.13, 0.75)


def rows(count: int, *, prior: tuple[float, ...] = PRIOR, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return calibrated logits (R, C) for given class frequencies, and the classes (R,).

    Rows are Gaussian points around the centre of their class; the logits are the exact log-probabilities.
    """
    randomness = np.random.default_rng(seed)
    labels = randomness.choice(len(prior), count, p=prior)
    points = 1.6 * np.eye(len(prior))
    seen_RC = points[labels] + randomness.normal(size=(count, len(prior)))
    squares_RC = np.square(seen_RC[:, None] - points[None]).sum(axis=2)
    return log_softmax(np.log(prior) - squares_RC / 2, axis=1), labels


def chosen(logits_RC: np.ndarray, labels: np.ndarray, metric: str, **settings: Any) -> Any:
    given = {"names": NAMES, "row_weights": np.ones(len(labels)), **settings}
    return choose_class_bias(logits_RC, labels, metric=metric, **given)


@pytest.mark.parametrize("metric", BALANCED_METRICS)
def test_the_expected_score_of_certain_rows_is_the_score(metric: str) -> None:
    randomness = np.random.default_rng(1)
    labels, decided = randomness.integers(0, 3, (2, 200))
    found = score(labels, np.eye(3)[decided], NAMES)[metric]
    assert expected_score(np.eye(3)[labels], decided, names=NAMES, metric=metric) == pytest.approx(found)


@pytest.mark.parametrize("metric", BALANCED_METRICS)
def test_the_expected_score_equals_a_simulation(metric: str) -> None:
    logits_RC, _ = rows(4000)
    probabilities_RC, decided = softmax(logits_RC, axis=1), logits_RC.argmax(axis=1)
    randomness = np.random.default_rng(2)
    draws = []
    for _ in range(100):
        labels = (randomness.random((4000, 1)) > probabilities_RC.cumsum(axis=1)[:, :-1]).sum(axis=1)
        draws.append(score(labels, np.eye(3)[decided], NAMES)[metric])
    found = expected_score(probabilities_RC, decided, names=NAMES, metric=metric)
    assert found == pytest.approx(np.mean(draws), abs=0.004)


def test_for_recall_the_bias_fully_corrects_class_frequencies() -> None:
    """For calibrated rows the optimal decision is the class with the largest p / frequency."""
    found = chosen(*rows(5000), "macro_recall")
    assert found.strength == 1.0
    expected_C = -np.log(PRIOR) + np.log(PRIOR).mean()
    np.testing.assert_allclose(found.bias_C, expected_C, atol=0.1)


def test_for_f1_the_bias_is_in_between() -> None:
    assert 0.25 <= chosen(*rows(5000), "macro_f1").strength <= 0.75


def test_the_bias_helps_from_a_hundred_rows() -> None:
    """On new rows, on average over ten samples and in nearly each; the most probable class is the control."""
    skewed = (0.06, 0.09, 0.85)
    fresh_RC, truth = rows(20_000, prior=skewed, seed=99)
    gains = []
    for seed in range(10):
        found = chosen(*rows(100, prior=skewed, seed=seed), "macro_f1")
        before, after = (score(truth, of_RC, NAMES)["macro_f1"] for of_RC in (
            softmax(fresh_RC, axis=1), softmax(fresh_RC + found.bias_C, axis=1),
        ))  # fmt: skip
        gains.append(after - before)
    assert np.mean(gains) > 0.01
    assert min(gains) > -0.005


@pytest.mark.parametrize("metric", ["accuracy", "loss", "macro_precision", "flip_rate", "ordinal_error"])
def test_other_metrics_have_no_bias(metric: str) -> None:
    found = chosen(*rows(300), metric)
    assert (found.strength, found.bias_C.tolist()) == (0.0, [0.0, 0.0, 0.0])


def test_balanced_classes_have_no_bias() -> None:
    """Whether balanced by frequency or by row weights when the model was fitted."""
    alike = np.full(3, 1 / 3)
    assert np.abs(chosen(*rows(3000, prior=tuple(alike)), "macro_f1").bias_C).max() < 0.1
    logits_RC, labels = rows(3000)
    weights_R = (1 / np.bincount(labels))[labels] * len(labels) / 3
    assert np.abs(chosen(logits_RC, labels, "macro_f1", row_weights=weights_R).bias_C).max() < 1e-6
    assert np.abs(chosen(logits_RC, labels, "macro_f1").bias_C).max() > 0.2, "the control"


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_the_size_of_the_logits_changes_no_decision(factor: float) -> None:
    logits_RC, labels = rows(500)
    first, second = chosen(logits_RC, labels, "macro_f1"), chosen(factor * logits_RC, labels, "macro_f1")
    assert first.strength == second.strength
    np.testing.assert_allclose(second.bias_C, factor * first.bias_C, rtol=0.01)


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [2, 2, 2, 2], [0, 1, 2, 2]])
def test_a_handful_of_rows_gives_finite_values(labels: list[int]) -> None:
    found = chosen(3 * np.eye(3)[labels], np.array(labels), "macro_f1")
    assert np.isfinite(found.bias_C).all()
    assert ((3 * np.eye(3)[labels] + found.bias_C).argmax(axis=1) == labels).all(), "what is clear stays so"


def test_biased_probabilities_stay_calibrated() -> None:
    """The temperature is fitted after the bias; the calibration error grows by a few points at most."""
    logits_RC, labels = rows(300)
    fresh_RC, truth = rows(20_000, seed=99)
    bias_C = chosen(logits_RC, labels, "macro_f1").bias_C
    errors = []
    for added_C in (np.zeros(3), bias_C):
        calibration = fit_calibration(logits_RC + added_C, labels)
        errors.append(calibration_error(truth, calibration.probabilities(fresh_RC + added_C)))
    assert errors[1] < errors[0] + 0.04
    assert errors[1] < 0.06


# -- in a blend ------------------------------------------------------------------------------------


def blended(head_RC: np.ndarray, linear_RC: np.ndarray, labels: np.ndarray, metric: str) -> Any:
    settings: dict[str, Any] = {"names": NAMES, "row_weights": np.ones(len(labels))}
    return choose_blend(head_RC, linear_RC, labels, folds=folds_of(labels, seed=0), metric=metric, **settings)


@pytest.mark.parametrize("count", [60, 300])
def test_a_blend_applies_the_bias_to_its_logits_and_scores(count: int) -> None:
    logits_RC, labels = rows(count)
    noise_RC = np.random.default_rng(3).normal(size=(count, 3))
    biased, plain = (blended(logits_RC, noise_RC, labels, metric) for metric in ("macro_f1", "accuracy"))
    assert biased.strength > 0 == plain.strength
    added_C = biased.bias_C - plain.bias_C
    assert added_C[2] < 0 < added_C[:2].min(), "from the frequent class to the rare ones"
    np.testing.assert_allclose(biased.out_of_fold_RC - plain.out_of_fold_RC, np.tile(added_C, (count, 1)))


def test_a_linear_model_kept_alone_has_the_bias_too() -> None:
    logits_RC, labels = rows(80)
    noise_RC = np.random.default_rng(3).normal(size=(80, 3))
    kept = blended(noise_RC, logits_RC, labels, "macro_f1")
    assert kept.kind == "linear"
    found, alone = (
        score(labels, softmax(of, axis=1), NAMES)["macro_f1"] for of in (kept.out_of_fold_RC, logits_RC)
    )
    assert found >= alone
    for seed in range(20):  # for any rows the result is not worse than a better linear model
        logits_RC, labels = rows(80, seed=seed)
        kept = blended(noise_RC, logits_RC, labels, "macro_f1")
        if kept.kind == "linear":
            found, alone = (
                score(labels, softmax(of, axis=1), NAMES)["macro_f1"]
                for of in (kept.out_of_fold_RC, logits_RC)
            )
            assert found >= alone, seed
