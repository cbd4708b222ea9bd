"""Drift of new texts: histograms of predictions, their comparison, false alarms, and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLUES, add_linear_model, make_rows, write_csv
from scipy.stats import chi2_contingency

from lstm_sentiment import load, predict
from lstm_sentiment.config.command_line import read_config
from lstm_sentiment.data.corpus import prepare
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import CheckpointError, ConfigError, RunError
from lstm_sentiment.monitoring.drift import (
    CONFIDENCE,
    FALSE_ALARMS,
    MONITORING,
    UNKNOWN,
    Profile,
    drift_lines,
    permutation_p_value,
    profile_of,
    profile_of_json,
    profile_of_predictions,
    shifts,
    stability_index,
    unknown_when_left_out,
)

LABELS = ["negative", "neutral", "positive"]


def profile(rows: int, *, seed: int, odds: tuple[float, ...] = (1, 1, 1), unknown: float = 0.05) -> Profile:
    """Return the profile of random predictions."""
    random = np.random.default_rng(seed)
    tokens_R = random.integers(0, 20, rows)
    probabilities_RC = random.dirichlet(odds, rows)
    return profile_of(LABELS, probabilities_RC, tokens_R, random.binomial(tokens_R, unknown))


# -- histograms ------------------------------------------------------------------------------------


def test_a_profile_counts_each_text_once() -> None:
    """Against counting text by text."""
    random = np.random.default_rng(3)
    probabilities_RC = random.dirichlet((0.3, 0.3, 0.3), 300)
    tokens_R = random.integers(0, 12, 300)
    unknown_R = random.binomial(tokens_R, 0.3)
    found = profile_of(LABELS, probabilities_RC, tokens_R, unknown_R)
    predicted, confidence, unknown = dict.fromkeys(LABELS, 0), [0] * 10, [0] * (len(UNKNOWN) + 2)
    for row_C, tokens, odd in zip(probabilities_RC.tolist(), tokens_R, unknown_R, strict=True):
        predicted[LABELS[row_C.index(max(row_C))]] += 1
        confidence[sum(max(row_C) > edge for edge in CONFIDENCE)] += 1
        unknown[1 + sum(odd / tokens > edge for edge in UNKNOWN) if tokens else 0] += 1
    assert (found.rows, found.predicted, found.confidence, found.unknown) == (
        300, predicted, confidence, unknown,
    )  # fmt: skip
    assert found.unknown_share == pytest.approx(np.mean(unknown_R / np.maximum(1, tokens_R)))
    assert profile_of_json(json.loads(json.dumps(found.as_json())), LABELS) == found


def test_profiles_of_parts_add_up() -> None:
    random = np.random.default_rng(0)
    given: list[Any] = [random.dirichlet((1, 1, 1), 50), random.integers(0, 9, 50)]
    given.append(random.binomial(given[1], 0.5))
    whole = profile_of(LABELS, *given)
    parts = [
        profile_of(LABELS, *(array[places] for array in given)) for places in (slice(20), slice(20, None))
    ]
    added = profile_of_predictions(LABELS, []) + parts[0] + parts[1]
    assert added.as_json() | {"unknown_share": 0} == whole.as_json() | {"unknown_share": 0}
    assert added.unknown_share == pytest.approx(whole.unknown_share)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 9}, {"predicted": {"a": 1}}, {"confidence": [1]}, {"unknown": None}, {"unknown_share": 2.0},
        {"confidence_bins": [0.5]}, {"more": 1}, {"unknown": [-1, 0, 0, 0, 0, 0, 0, 31]},
    ],
)  # fmt: skip
def test_a_damaged_profile_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=rf"{MONITORING}: does not hold the histograms"):
        profile_of_json(profile(30, seed=0).as_json() | changes, LABELS)
    with pytest.raises(CheckpointError):
        profile_of_json([1], LABELS)


# -- comparison ------------------------------------------------------------------------------------


def test_the_stability_index_is_that_of_its_definition() -> None:
    before, after = np.array([10, 60, 30]), np.array([400, 300, 300])
    p, q = (before + 0.5) / (before.sum() + 1.5), (after + 0.5) / (after.sum() + 1.5)
    expected = sum((q[i] - p[i]) * np.log(q[i] / p[i]) for i in range(3))
    assert stability_index(before, after) == pytest.approx(expected)
    assert stability_index(after, before) == pytest.approx(expected), "symmetric"
    assert stability_index(before, before) == 0
    with_empty = stability_index(np.append(before, 0), np.append(after, 0))
    assert with_empty == pytest.approx(expected), "a bin without rows changes nothing"


def test_the_p_value_is_that_of_shuffled_rows() -> None:
    """Against dividing single rows at random, with SciPy's statistic; and against the chi-square test."""
    before, after = np.array([40, 25, 15]), np.array([10, 14, 6])

    def statistic(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
        return float(chi2_contingency([first, second], correction=False).statistic)

    rows = np.repeat([0, 1, 2], before + after)
    random, least = np.random.default_rng(1), statistic(before, after) - 1e-9
    exceeded = 0
    for _ in range(1500):
        random.shuffle(rows)
        counts = [np.bincount(part, minlength=3) for part in (rows[:80], rows[80:])]
        exceeded += statistic(counts[0], counts[1]) >= least
    found = permutation_p_value(before, after)
    assert found == pytest.approx(exceeded / 1500, abs=0.04)
    assert found == pytest.approx(chi2_contingency([before, after], correction=False).pvalue, abs=0.04)


@pytest.mark.parametrize("rows", [5, 40, 300])
def test_few_files_like_the_validation_rows_are_reported(rows: int) -> None:
    """The rate of false alarms is at most the stated one, for few and many rows."""
    alarms, chances = 0, 0
    for seed in range(120):
        reference, new = profile(100, seed=seed), profile(rows, seed=10_000 + seed)
        found = shifts(reference, new)
        alarms += any(shift.alarming for shift in found.values())
        chances += any(shift.p_value <= FALSE_ALARMS / 3 for shift in found.values())
    assert chances <= 4, "1.2 of 120 are expected at most; 5 or more have a probability below 1 %"
    assert alarms <= chances


def test_a_large_difference_is_reported_and_a_small_one_of_many_rows_is_not() -> None:
    reference = profile(500, seed=0)
    shifted = profile(200, seed=1, odds=(4, 1, 1))
    assert shifts(reference, shifted)["predicted"].alarming
    assert any("negative" in line for line in drift_lines(reference, shifted, shifts(reference, shifted)))
    unread = profile(200, seed=1, unknown=0.3)
    found = shifts(reference, unread)
    assert [name for name, shift in found.items() if shift.alarming] == ["unknown"]
    assert "unknown tokens" in drift_lines(reference, unread, found)[0]
    slightly = profile(20_000, seed=1, odds=(1.2, 1, 1))
    found = shifts(reference, slightly)
    assert found["predicted"].p_value < 0.01
    assert not any(shift.alarming for shift in found.values())


def test_any_number_of_rows_can_be_compared() -> None:
    none, some = profile_of_predictions(LABELS, []), profile(50, seed=0)
    assert not any(shift.alarming for shift in shifts(some, none).values())
    assert not any(shift.alarming for shift in shifts(none, some).values())
    many = np.array([3 * 10**9, 10**9])
    assert permutation_p_value(many, many) == 1
    assert permutation_p_value(np.array([50, 50]), many) < 0.001


# -- of a run --------------------------------------------------------------------------------------


def test_a_run_keeps_the_profile_of_its_validation_rows(trained_run: Path) -> None:
    """The same as that of predicting the validation texts again."""
    config = read_config(trained_run / "config.yaml")
    kept = profile_of_json(json.loads((trained_run / MONITORING).read_text("utf-8")), LABELS)
    corpus = prepare(config.data, config.text, seed=config.seed, cache=cache_folder())
    lines = Path(config.data.train).read_text("utf-8").splitlines()
    texts = [
        lines[line - 1].rpartition(",")[0].strip('"')
        for line in corpus.validation.store.lines[corpus.validation.rows]
    ]
    found = profile_of_predictions(LABELS, load(trained_run, device="cpu").predict(texts, details=True))
    assert found.as_json() | {"unknown_share": 0} == kept.as_json() | {"unknown_share": 0}
    assert found.unknown_share == pytest.approx(kept.unknown_share)


def test_empty_texts_are_named_as_what_differs() -> None:
    """Unknown tokens, which they do not have, even decrease."""
    probabilities_RC = np.full((2003, 3), [0.5, 0.3, 0.2])
    tokens_R, unknown_R = np.array([10] * 2002 + [0]), np.array([1] * 2002 + [0])
    reference, few, empty = (
        profile_of(LABELS, probabilities_RC[rows], tokens_R[rows], unknown_R[rows])
        for rows in (slice(2000), slice(2000, 2002), slice(2002, 2003))
    )
    found = shifts(reference, few + empty)
    assert found["unknown"].alarming
    assert not shifts(reference, few)["unknown"].alarming, "the control"
    (line,) = [line for line in drift_lines(reference, few + empty, found) if "token" in line]
    assert line.startswith("texts without a token: 0.0% -> 33.3% (PSI ")


def test_left_out_rows_have_the_unknown_tokens_of_a_vocabulary_without_them(reviews: Path) -> None:
    """Against making the vocabulary again without each row."""
    shared = [
        (f"{text.rpartition(' ')[0]} m{i // 2}", label) for i, (text, label) in enumerate(make_rows(240))
    ]
    config = read_config_of(write_csv(reviews, shared))
    corpus = prepare(config.data, config.text, seed=0, cache=cache_folder())
    train, least = corpus.train, config.text.min_frequency
    found = unknown_when_left_out(train, least=least, kept=["awful"])
    texts = [[train.store.tokens[i] for i in train.token_ids(row)] for row in range(len(train))]
    for row in range(0, len(texts), 17):
        others = [token for other, tokens in enumerate(texts) if other != row for token in tokens]
        expected = sum(token != "awful" and others.count(token) < least for token in texts[row])
        assert found[row] == expected
    assert found.sum() > train.count_unknown()[1].sum()


def read_config_of(reviews: Path) -> Any:
    file = reviews.with_suffix(".yaml")
    file.write_text(f"data: {{train: {reviews}, validation: null, test: null}}\ntext: {{min_frequency: 2}}\n")
    return read_config(file)


# -- the command -----------------------------------------------------------------------------------


def test_predict_reports_drift_of_a_file(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like = [(text.replace(" n", " m"), label) for text, label in make_rows(300, seed=5)]  # each is new
    same = write_csv(tmp_path / "same.csv", like)
    other = write_csv(tmp_path / "other.csv", [(f"{CLUES['negative'][0]} quokka {i}", "") for i in range(60)])
    report = tmp_path / "drift.json"
    for file, drifts in ((same, False), (other, True)):
        argv = [str(trained_run), f"--file={file}", f"--out={tmp_path / 'out.csv'}", "--device=cpu"]
        predict.main([*argv, f"--drift-report={report}"])
        errors = capsys.readouterr().err
        content = json.loads(report.read_text("utf-8"))
        assert content["drift"] == drifts
        assert content["new"]["rows"] == (60 if drifts else 300)
        assert ("differ from the run's validation rows" in errors) == drifts
        assert ("  predicted classes: negative" in errors) == drifts
        assert ("  unknown tokens of a text, on average: " in errors) == drifts


def test_predictions_of_one_branch_are_not_compared(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The profile is that of the whole model."""
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    add_linear_model(run)
    rows = write_csv(tmp_path / "rows.csv", [(f"{CLUES['negative'][0]} quokka {i}", "") for i in range(60)])
    argv = [str(run), f"--file={rows}", f"--out={tmp_path / 'out.csv'}", "--device=cpu"]
    for flags, drifts in ([], True), (["--branch=linear"], False):
        predict.main([*argv, *flags])
        assert ("drift" in capsys.readouterr().err) == drifts
    with pytest.raises(ConfigError, match="compares predictions of the whole model; omit --branch"):
        predict.main([*argv, "--branch=linear", f"--drift-report={tmp_path / 'drift.json'}"])


def test_a_run_without_a_profile_predicts_without_a_comparison(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, rows = tmp_path / "run", write_csv(tmp_path / "rows.csv", make_rows(9, seed=77))
    shutil.copytree(trained_run, run)
    (run / MONITORING).unlink()
    predict.main([str(run), f"--file={rows}", "--device=cpu"])
    assert capsys.readouterr().err == ""
    with pytest.raises(RunError, match=rf"has no {MONITORING} to compare with"):
        predict.main([str(run), f"--file={rows}", f"--drift-report={tmp_path / 'a.json'}", "--device=cpu"])
    with pytest.raises(ConfigError, match="--drift-report needs --file"):
        predict.main([str(run), "good", f"--drift-report={tmp_path / 'a.json'}"])
    (run / MONITORING).write_text('{"rows": 3}')
    with pytest.raises(CheckpointError, match=rf"{MONITORING}: does not hold"):
        predict.main([str(run), f"--file={rows}", "--device=cpu"])
