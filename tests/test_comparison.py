"""Comparison of two runs: intervals and p-values against plain references, and the command."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, make_rows, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_sentiment import compare as command
from lstm_sentiment import evaluate, train
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.evaluation import significance as comparison
from lstm_sentiment.evaluation.metrics import metrics_of, score
from lstm_sentiment.evaluation.significance import compare, comparison_lines

LABELS = ["negative", "neutral", "positive"]


def answers(rows: int, seed: int, rights: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true labels and predictions of two classifiers with these accuracies."""
    random = np.random.default_rng(seed)
    truth_R = random.integers(0, 3, rows)
    first_R, second_R = (
        np.where(random.random(rows) < right, truth_R, random.integers(0, 3, rows)) for right in rights
    )
    return truth_R, first_R, second_R


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=30))
@settings(max_examples=30, deadline=None)
def test_scores_are_those_of_a_report(rows: list[tuple[int, int, int]]) -> None:
    truth_R, first_R, second_R = np.array(rows).T
    found = compare(truth_R, first_R, second_R, LABELS)["scores"]
    for side, predicted_R in (("first", first_R), ("second", second_R)):
        expected = score(truth_R, np.eye(3)[predicted_R], LABELS)
        for name, of in found.items():
            assert of[side] == pytest.approx(expected[name]), name
    assert all(of["difference"] == pytest.approx(of["second"] - of["first"]) for of in found.values())


def test_intervals_equal_a_paired_bootstrap() -> None:
    truth_R, first_R, second_R = answers(400, 0, (0.6, 0.7))
    found = compare(truth_R, first_R, second_R, LABELS)["scores"]
    random = np.random.default_rng(7)
    plain: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(600):
        drawn = random.integers(0, 400, 400)
        one, two = (score(truth_R[drawn], np.eye(3)[p[drawn]], LABELS) for p in (first_R, second_R))
        for name, differences in plain.items():
            differences.append(two[name] - one[name])
    for name, differences in plain.items():
        low, high = np.percentile(differences, [2.5, 97.5])
        assert (found[name]["low"], found[name]["high"]) == pytest.approx((low, high), abs=0.012), name


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (3, 0), (5, 12), (30, 31)])
def test_the_p_value_equals_an_exact_binomial_test(only_first: int, only_second: int) -> None:
    truth_R = np.zeros(only_first + only_second + 10, int)
    first_R, second_R = truth_R.copy(), truth_R.copy()
    second_R[:only_first] = 1
    first_R[only_first : only_first + only_second] = 1
    found = compare(truth_R, first_R, second_R, LABELS)
    coins, heads = only_first + only_second, max(only_first, only_second)
    tail = sum(math.comb(coins, k) for k in range(heads, coins + 1)) / 2**coins
    assert found["mcnemar_p"] == pytest.approx(min(1.0, 2 * tail))
    assert (found["only_first_right"], found["only_second_right"]) == (only_first, only_second)


def test_the_test_has_the_nominal_error_rate_and_power() -> None:
    alike = [compare(*answers(300, seed, (0.6, 0.6)), LABELS)["mcnemar_p"] for seed in range(60)]
    unlike = [compare(*answers(300, seed, (0.5, 0.75)), LABELS)["mcnemar_p"] for seed in range(60)]
    assert sum(p < 0.05 for p in alike) <= 8
    assert sum(p < 0.05 for p in unlike) >= 52


def test_results_do_not_depend_on_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    labels = [f"class {i}" for i in range(100)]
    columns = random.integers(0, 100, (3, 500))
    monkeypatch.setattr(comparison, "RESAMPLES", 70)
    whole = compare(*columns, labels)
    monkeypatch.setattr(comparison, "RESAMPLES_AT_ONCE", 9)
    assert compare(*columns, labels) == whole
    assert set(whole["scores"]) == set(metrics_of(labels))


def test_the_verdict_names_the_better_run_or_neither() -> None:
    better = compare(*answers(500, 0, (0.4, 0.8)), LABELS)
    assert comparison_lines(better, "a", "b")[-1].startswith("B is right more often")
    alike = compare(*answers(500, 0, (0.6, 0.6)), LABELS)
    assert "do not show" in comparison_lines(alike, "a", "b")[-1]


# -- the command -----------------------------------------------------------------------------------

QUICK = (*TINY, "--baseline=false")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good run, a poor one with another class order, and one of other classes."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_csv(folder / "data.csv", make_rows(240))
    other = write_csv(folder / "other.csv", [(text, label[:3]) for text, label in make_rows(60)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        train.main([*QUICK, f"--data.train={data}", f"--out={folder / 'good'}", "--trainer.epochs=5"])
        reverse = "--data.labels=[positive, neutral, negative]"
        train.main(
            [*QUICK, f"--data.train={data}", f"--out={folder / 'poor'}", reverse, "--trainer.epochs=1"]
        )
        train.main([*QUICK, f"--data.train={other}", f"--out={folder / 'other'}", "--trainer.epochs=1"])
    return folder


def test_two_runs_are_compared_on_a_file(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_csv(tmp_path / "fresh.csv", make_rows(90, seed=3))
    out = tmp_path / "comparison.json"
    command.main([str(runs / "good"), str(runs / "poor"), str(file), "--out", str(out)])
    shown, found = capsys.readouterr().out, json.loads(out.read_text())
    for side, name in (("first", "good"), ("second", "poor")):
        evaluate.main([str(runs / name), str(file), "--out", str(tmp_path / "scores.json")])
        scores = json.loads((tmp_path / "scores.json").read_text())
        for metric in ("accuracy", "macro_f1", "flip_rate"):
            assert found["scores"][metric][side] == pytest.approx(scores[metric])
    assert found["rows"] == 90
    assert "A is right more often, beyond chance" in shown
    assert f"written to {out}" in shown


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["good", "other", "data.csv"], "the runs have different classes"),
        (["good", "nothing", "data.csv"], "is not a run folder"),
        (["good", "poor", "nothing.csv"], "nothing.csv"),
        (["good", "poor", "data.csv", "--out", "no/such/folder.json"], "no such folder"),
    ],
)
def test_errors_have_no_traceback(
    runs: Path,
    argv: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [word if word.startswith("--") else str(runs / word) for word in argv]
    monkeypatch.setattr(sys, "argv", ["compare", *paths])
    with pytest.raises(SystemExit) as left:
        run_command(command.main)
    errors = capsys.readouterr().err
    assert left.value.code in (2, 3)
    assert errors.startswith("error: ")
    assert expected in errors
