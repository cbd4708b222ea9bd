"""Confident learning: the paper's example, a twin written with loops, and properties."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from lstm_sentiment.evaluation.confident_learning import (
    class_thresholds,
    confident_joint,
    estimated_joint,
    find_label_errors,
)

Array = npt.NDArray[Any]
PRUNINGS: tuple[Literal["noise_rate", "class", "both"], ...] = ("noise_rate", "class", "both")


def random_case(seed: int, *, classes: int = 3, rows: int = 120) -> tuple[Array, Array]:
    """Return labels, a fifth of them random, and probabilities of which most favour the true class."""
    random = np.random.default_rng(seed)
    true = np.concatenate([np.arange(classes), random.integers(0, classes, rows - classes)])
    labels = np.where(random.random(rows) < 0.2, random.integers(0, classes, rows), true)
    labels[:classes] = np.arange(classes)
    raw_RC = random.dirichlet(np.ones(classes), rows) + random.random((rows, 1)) * np.eye(classes)[true]
    return labels, raw_RC / raw_RC.sum(axis=1, keepdims=True)


def test_the_example_of_the_paper() -> None:
    """Figure 1 of Northcutt et al. 2021: dogs, foxes and cows."""
    counts = np.array([[100, 40, 20], [56, 60, 0], [32, 12, 80]])
    labels, classes = (
        np.concatenate([np.repeat(place[axis], count) for place, count in np.ndenumerate(counts)])
        for axis in (0, 1)
    )
    probabilities_RC = 0.1 + 0.7 * np.eye(3)[classes]
    assert confident_joint(labels, probabilities_RC).tolist() == counts.tolist()
    joint_CC = estimated_joint(labels, probabilities_RC) / len(labels)
    assert joint_CC.round(2).tolist() == [[0.25, 0.1, 0.05], [0.14, 0.15, 0.0], [0.08, 0.03, 0.2]]
    found = find_label_errors(labels, probabilities_RC)
    assert sorted(found.rows.tolist()) == np.flatnonzero(labels != classes).tolist()


def joint_by_loops(labels: Array, probabilities_RC: Array) -> Array:
    """Return the confident joint as the paper defines it."""
    classes = probabilities_RC.shape[1]
    thresholds = [probabilities_RC[labels == j, j].mean() for j in range(classes)]
    joint = np.zeros((classes, classes), int)
    for label, of_row in zip(labels, probabilities_RC, strict=True):
        confident = [j for j in range(classes) if of_row[j] >= thresholds[j]]
        if confident:
            joint[label, max(confident, key=lambda j: float(of_row[j]))] += 1
    for j in range(classes):
        joint[j, j] = max(joint[j, j], 1)
    return joint


def errors_by_loops(labels: Array, probabilities_RC: Array, by: str) -> list[int]:
    """Return the rows that a pruning chooses, by the lowest probability of their label."""
    joint = joint_by_loops(labels, probabilities_RC)
    classes = len(joint)
    by_rate, by_class = set[int](), set[int]()
    for label in range(classes):
        rows = [row for row in range(len(labels)) if labels[row] == label]
        exact = [len(rows) * joint[label, j] / joint[label].sum() for j in range(classes)]
        whole = [int(number + 1e-9) for number in exact]
        while sum(whole) < len(rows):
            remainders = [number - floor for number, floor in zip(exact, whole, strict=True)]
            whole[remainders.index(max(remainders))] += 1
        for j in range(classes):
            if j != label:
                margin = {row: probabilities_RC[row, j] - probabilities_RC[row, label] for row in rows}
                by_rate |= set(sorted(rows, key=lambda row: -margin[row])[: whole[j]])
        wrong = len(rows) - whole[label]
        by_class |= set(sorted(rows, key=lambda row: probabilities_RC[row, label])[:wrong])
    chosen = {"noise_rate": by_rate, "class": by_class, "both": by_rate & by_class}[by]
    chosen = {row for row in chosen if probabilities_RC[row].argmax() != labels[row]}
    return sorted(chosen, key=lambda row: float(probabilities_RC[row, labels[row]]))


@pytest.mark.parametrize("seed", range(6))
def test_it_equals_a_twin_written_with_loops(seed: int) -> None:
    labels, probabilities_RC = random_case(seed, classes=2 + seed % 3)
    assert confident_joint(labels, probabilities_RC).tolist() == (
        joint_by_loops(labels, probabilities_RC).tolist()
    )
    for by in PRUNINGS:
        found = find_label_errors(labels, probabilities_RC, by=by)
        assert found.rows.tolist() == errors_by_loops(labels, probabilities_RC, by)


@pytest.mark.parametrize("by", PRUNINGS)
def test_neither_the_order_of_rows_nor_that_of_classes_matters(by: Literal["noise_rate"]) -> None:
    labels, probabilities_RC = random_case(5)
    expected = set(find_label_errors(labels, probabilities_RC, by=by).rows.tolist())
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = find_label_errors(labels[order], probabilities_RC[order], by=by)
    assert set(order[shuffled.rows].tolist()) == expected
    turned = find_label_errors(2 - labels, probabilities_RC[:, ::-1].copy(), by=by)
    assert set(turned.rows.tolist()) == expected


def test_scores_fall_and_no_label_is_the_most_probable_class() -> None:
    labels, probabilities_RC = random_case(3)
    found = find_label_errors(labels, probabilities_RC)
    assert len(found.rows) > 5
    assert (np.diff(found.scores) <= 0).all()
    assert found.scores.tolist() == (1 - probabilities_RC[found.rows, labels[found.rows]]).tolist()
    assert (probabilities_RC[found.rows].argmax(axis=1) != labels[found.rows]).all()


def test_the_estimated_joint_has_the_counts_of_the_labels() -> None:
    labels, probabilities_RC = random_case(4)
    joint_CC = find_label_errors(labels, probabilities_RC).joint_CC
    assert np.allclose(joint_CC.sum(axis=1), np.bincount(labels))


def test_most_flipped_labels_of_a_good_model_are_found() -> None:
    random = np.random.default_rng(1)
    true = np.repeat([0, 1, 2], 100)
    labels, flipped = true.copy(), random.permutation(300)[:30]
    labels[flipped] = (true[flipped] + 1) % 3
    raw_RC = random.dirichlet(np.ones(3), 300) + 3 * np.eye(3)[true]
    found = find_label_errors(labels, raw_RC / raw_RC.sum(axis=1, keepdims=True))
    assert np.isin(flipped, found.rows).mean() > 0.9
    assert np.isin(found.rows, flipped).mean() > 0.9


def test_right_labels_are_not_suspect() -> None:
    true = np.repeat([0, 1], 20)
    assert len(find_label_errors(true, 0.1 + 0.8 * np.eye(2)[true]).rows) == 0


def test_a_class_without_rows_is_nobodys_class() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities_RC = np.array([[0.2, 0.1, 0.7], [0.6, 0.2, 0.2], [0.1, 0.6, 0.3], [0.1, 0.5, 0.4]])
    assert np.isinf(class_thresholds(labels, probabilities_RC)[2])
    assert confident_joint(labels, probabilities_RC)[:, 2].tolist() == [0, 0, 0]
