"""Comparison of systems: intervals and p-values against plain references, verdicts, and the command."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, make_rows, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from lstm_sentiment import compare as command
from lstm_sentiment import evaluate, predict, train
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.comparison.output import compared_lines
from lstm_sentiment.comparison.predictions import read_predictions
from lstm_sentiment.comparison.rows import read_rows
from lstm_sentiment.comparison.verdicts import Compared, Verdict, compare_all
from lstm_sentiment.errors import DataError
from lstm_sentiment.evaluation import significance as comparison
from lstm_sentiment.evaluation.metrics import confusion_scores, metrics_of, score
from lstm_sentiment.evaluation.significance import compare, holm, system_intervals

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
    found = compare(truth_R, first_R, second_R, LABELS).scores
    for side, predicted_R in (("first", first_R), ("second", second_R)):
        expected = score(truth_R, np.eye(3)[predicted_R], LABELS)
        for name, of in found.items():
            assert getattr(of, side) == pytest.approx(expected[name]), name
    assert all(of.difference == pytest.approx(of.second - of.first) for of in found.values())


def test_intervals_and_p_values_equal_a_paired_bootstrap() -> None:
    truth_R, first_R, second_R = answers(400, 0, (0.6, 0.66))
    found = compare(truth_R, first_R, second_R, LABELS).scores
    random = np.random.default_rng(7)
    confusions = []
    for _ in range(4000):
        rows = random.integers(0, 400, 400)
        cells = [3 * truth_R[rows] + predicted_R[rows] for predicted_R in (first_R, second_R)]
        confusions.append([np.bincount(of, minlength=9).reshape(3, 3) for of in cells])
    first, second = (confusion_scores(of, LABELS) for of in np.array(confusions).swapaxes(0, 1))
    for name, of in found.items():
        differences_N = second[name] - first[name]
        low, high = np.percentile(differences_N, [2.5, 97.5])
        assert (of.low, of.high) == pytest.approx((low, high), abs=0.006), name
        other_sign = min((differences_N <= 0).mean(), (differences_N >= 0).mean())
        assert of.p == pytest.approx(2 * other_sign, abs=0.05), name


def test_seeds_are_resampled_with_the_rows() -> None:
    """As in a plain loop that draws rows and, of S seeds, S - 1."""
    random = np.random.default_rng(3)
    truth_R = random.integers(0, 3, 150)
    first_SR, second_SR = (
        np.stack([answers(150, seed, (right, right))[1] for seed, right in enumerate(rights)])
        for rights in ([0.5, 0.7, 0.4], [0.6, 0.8])
    )
    first_SR, second_SR = (
        np.where(random.random(of.shape) < 0.3, truth_R, of) for of in (first_SR, second_SR)
    )
    found = compare(truth_R, first_SR, second_SR, LABELS)
    differences = []
    for _ in range(4000):
        rows = random.integers(0, 150, 150)
        means = [
            (of[random.integers(0, len(of), len(of) - 1)][:, rows] == truth_R[rows]).mean()
            for of in (first_SR, second_SR)
        ]
        differences.append(means[1] - means[0])
    of_accuracy = found.scores["accuracy"]
    assert of_accuracy.first == pytest.approx((first_SR == truth_R).mean())
    assert of_accuracy.second == pytest.approx((second_SR == truth_R).mean())
    low, high = np.percentile(differences, [2.5, 97.5])
    assert (of_accuracy.low, of_accuracy.high) == pytest.approx((low, high), abs=0.012)
    assert (found.mcnemar_p, found.only_first_right, found.only_second_right) == (None, None, None)


def test_the_variance_over_seeds_is_unbiased() -> None:
    """With as many rows as make their share negligible, it is that of a mean of S seeds."""
    right = np.array([0.2, 0.5, 0.9])
    truth_R = np.zeros(100_000, int)
    seeds_SR = (np.arange(100_000) / 100_000 >= right[:, None]).astype(int)
    found = system_intervals(truth_R, seeds_SR, ["no", "yes"])["accuracy"]
    assert found["value"] == pytest.approx(right.mean())
    assert found["spread"] == pytest.approx(right.std(ddof=1))
    values_N = comparison._resampled(
        *np.unique(np.concatenate([truth_R[None], seeds_SR]), axis=1, return_counts=True), ["no", "yes"]
    )["accuracy"][1:]
    assert values_N.std() == pytest.approx(right.std(ddof=1) / math.sqrt(3), rel=0.03)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (3, 0), (5, 12), (30, 31)])
def test_the_p_value_equals_an_exact_binomial_test(only_first: int, only_second: int) -> None:
    truth_R = np.zeros(only_first + only_second + 10, int)
    first_R, second_R = truth_R.copy(), truth_R.copy()
    second_R[:only_first] = 1
    first_R[only_first : only_first + only_second] = 1
    found = compare(truth_R, first_R, second_R, LABELS)
    coins, heads = only_first + only_second, max(only_first, only_second)
    tail = sum(math.comb(coins, k) for k in range(heads, coins + 1)) / 2**coins
    assert found.mcnemar_p == pytest.approx(min(1.0, 2 * tail))
    assert found.mcnemar_p == pytest.approx(binomtest(heads, coins).pvalue if coins else 1.0)
    assert (found.only_first_right, found.only_second_right) == (only_first, only_second)


def test_the_tests_have_the_nominal_error_rate_and_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 500)
    alike = [compare(*answers(300, seed, (0.6, 0.6)), LABELS) for seed in range(60)]
    unlike = [compare(*answers(300, seed, (0.5, 0.75)), LABELS) for seed in range(60)]
    for p_of in (lambda found: found.mcnemar_p, lambda found: found.scores["macro_f1"].p):
        assert sum(p_of(found) < 0.05 for found in alike) <= 8
        assert sum(p_of(found) < 0.05 for found in unlike) >= 52


def test_results_do_not_depend_on_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    labels = [f"class {i}" for i in range(100)]
    truth_R, first_R, *second_SR = random.integers(0, 100, (4, 500))
    monkeypatch.setattr(comparison, "RESAMPLES", 70)
    whole = compare(truth_R, first_R, np.stack(second_SR), labels)
    monkeypatch.setattr(comparison, "RESAMPLES_AT_ONCE", 9)
    assert compare(truth_R, first_R, np.stack(second_SR), labels) == whole
    assert set(whole.scores) == set(metrics_of(labels))


def test_holms_correction_of_a_hand_worked_example() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1; the last becomes no smaller than the third."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holms_correction_rejects_step_by_step(p_values: list[float]) -> None:
    """As by its definition: reject the smallest while p <= level / (number of those left)."""
    level, rejected = 0.05, set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if (len(p_values) - rank) * p_values[place] > level:
            break
        rejected.add(place)
    assert {i for i, p in enumerate(holm(p_values)) if p <= level} == rejected


# -- verdicts --------------------------------------------------------------------------------------


def compared(*rights: float, metric: str = "macro_f1", rows: int = 500, **more: Any) -> Compared:
    """Compare systems of these accuracies."""
    truth_R, first_R, _ = answers(rows, 0, (rights[0], 0.5))
    others = [answers(rows, 0, (0.5, right))[2] for right in rights[1:]]
    titles = [f"system {right}" for right in rights]
    return compare_all(
        file="test.csv", titles=titles, truth_R=truth_R, predictions=[first_R, *others], labels=LABELS,
        metric=metric, **more,
    )  # fmt: skip


def test_the_verdict_names_the_better_system_with_effect_and_interval() -> None:
    found = compared(0.4, 0.8)
    of = found.pairs[0].compared.scores["macro_f1"]
    on_metric, on_accuracy = found.pairs[0].verdicts
    points = [f"{100 * value:.1f}" for value in (of.difference, of.low, of.high)]
    assert on_metric.sentence == (
        f"B is ahead of A by {points[0]} points of macro-F1 (95 %: {points[1]} to {points[2]}; p < 0.001)"
    )
    assert on_accuracy.sentence.startswith("B is ahead of A by ")
    assert on_accuracy.sentence.endswith("; McNemar p < 0.001)")
    assert compared_lines(found)[-2:] == [on_metric.sentence, on_accuracy.sentence]


def verdicts_of(truth_R: np.ndarray, predictions: list[np.ndarray], metric: str) -> tuple[Verdict, ...]:
    """Return the verdicts on two systems."""
    found = compare_all(
        file="", titles=["", ""], truth_R=truth_R, predictions=predictions, labels=LABELS, metric=metric
    )
    return found.pairs[0].verdicts


@pytest.mark.parametrize("metric", ["macro_f1", "flip_rate", "ordinal_error"])
def test_a_verdict_is_the_same_whichever_system_comes_first(metric: str) -> None:
    truth_R, poor_R, good_R = answers(500, 0, (0.4, 0.8))
    there, back = (
        verdicts_of(truth_R, both, metric)[0].sentence for both in ([poor_R, good_R], [good_R, poor_R])
    )
    assert there.startswith("B is ahead of A by ")
    assert back.startswith("A is ahead of B by ")
    numbers, mirrored = ([float(n) for n in re.findall(r"-?[0-9]+\.[0-9]+", of)] for of in (there, back))
    assert mirrored == pytest.approx(numbers, abs=0.5)
    assert numbers[1] < numbers[0] < numbers[2]
    assert (", where lower is better" in there) == (metric != "macro_f1")


def test_level_systems_are_called_level() -> None:
    verdicts = compared(0.6, 0.6).pairs[0].verdicts
    for verdict in verdicts:
        assert verdict.ahead is None
        assert verdict.sentence.startswith("A and B are level: the difference of ")
        assert " in favour of " in verdict.sentence
        assert verdict.sentence.endswith(") is within chance")
    same_R = np.array([0, 1, 2] * 30)
    assert [verdict.sentence for verdict in verdicts_of(same_R, [same_R, same_R], "accuracy")] == [
        "A and B are level: the difference of 0.0 points of accuracy (95 %: 0.0 to 0.0; McNemar p = 1.000) "
        "is within chance"
    ]


def test_several_comparisons_are_corrected() -> None:
    alone, several = compared(0.6, 0.68), compared(0.6, 0.68, 0.6, 0.6, 0.6, 0.6, 0.6)
    for i, metric in enumerate(("macro_f1", "accuracy")):
        plain = [
            pair.compared.mcnemar_p if metric == "accuracy" else pair.compared.scores[metric].p
            for pair in several.pairs
        ]
        assert [pair.verdicts[i].p for pair in several.pairs] == pytest.approx(holm(plain))
        assert alone.pairs[0].verdicts[i].p == plain[0] < several.pairs[0].verdicts[i].p
    assert "corrected for 6 comparisons with A by Holm's method" in compared_lines(several)[-1]
    assert "Holm" not in "\n".join(compared_lines(alone))


# -- the command -----------------------------------------------------------------------------------

QUICK = (*TINY, "--baseline=false")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs: a good one with branches, a poor one with another class order, both of them as a
    folder of seeds, and one of other classes; and labelled rows that none was trained on."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_csv(folder / "data.csv", make_rows(240))
    other = write_csv(folder / "other.csv", [(text, label[:3]) for text, label in make_rows(60)])
    write_csv(folder / "fresh.csv", make_rows(90, seed=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        good = ["--model.ngrams=500", "--trainer.epochs=5", "--trainer.metric=macro_recall"]
        train.main([*QUICK, f"--data.train={data}", f"--out={folder / 'good'}", *good])
        reverse = "--data.labels=[positive, neutral, negative]"
        train.main(
            [*QUICK, f"--data.train={data}", f"--out={folder / 'poor'}", reverse, "--trainer.epochs=1"]
        )
        train.main([*QUICK, f"--data.train={other}", f"--out={folder / 'other'}", "--trainer.epochs=1"])
    for seed, name in enumerate(("good", "poor")):
        shutil.copytree(folder / name, folder / "seeds" / f"seed-{seed}")
    summary = {"runs": [{"out": f"seed-{seed}"} for seed in (0, 1)], "best_run": "seed-0"}
    (folder / "seeds" / "seeds.json").write_text(json.dumps(summary))
    return folder


def compare_to_json(out: Path, *argv: str | Path) -> dict[str, Any]:
    """Run the command and return what it writes."""
    command.main([*map(str, argv), "--out", str(out)])
    found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found


def predicted(run: Path, rows: Path, out: Path) -> Path:
    """Write the predictions of a run for labelled rows."""
    predict.main([str(run), "--file", str(rows), "--out", str(out)])
    return out


def test_two_runs_are_compared_on_a_file(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = runs / "fresh.csv", tmp_path / "comparison.json"
    found = compare_to_json(out, runs / "good", runs / "poor", file)
    shown = capsys.readouterr().out
    for side, name in (("first", "good"), ("second", "poor")):
        evaluate.main([str(runs / name), str(file), "--out", str(tmp_path / "scores.json")])
        scores = json.loads((tmp_path / "scores.json").read_text())
        for metric in ("accuracy", "macro_f1", "flip_rate"):
            assert found["scores"][metric][side] == pytest.approx(scores[metric])
    assert (found["rows"], found["metric"]) == (90, "macro_recall"), "the metric of the first run"
    assert found["first"] == str(runs / "good")
    assert "A is ahead of B by " in shown
    assert " points of macro recall (95 %: " in shown
    assert f"written to {out}" in shown


def test_predictions_in_a_file_are_those_of_the_run(runs: Path, tmp_path: Path) -> None:
    """With probabilities, with labels, in any table; a run and its own predictions are level."""
    fresh = runs / "fresh.csv"
    all_columns = predicted(runs / "poor", fresh, tmp_path / "all.csv").read_text("utf-8")
    rows = list(csv.DictReader(all_columns.splitlines()))
    labels = [row["predicted_label"] for row in rows]
    (tmp_path / "labels.csv").write_text("prediction\n" + "\n".join(labels) + "\n")
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps({"label": label}) + "\n" for label in labels))
    shares = [{label: float(row[f"probability_{label}"]) for label in LABELS} for row in rows]
    (tmp_path / "shares.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shares))
    predicted(runs / "poor", fresh, tmp_path / "all.parquet")
    files = [tmp_path / name for name in
             ("all.csv", "labels.csv", "labels.jsonl", "shares.jsonl", "all.parquet")]  # fmt: skip
    found = compare_to_json(tmp_path / "out.json", runs / "poor", *files, fresh)
    assert [system["name"] for system in found["systems"]] == [str(runs / "poor"), *map(str, files)]
    assert 0.2 < found["systems"][0]["scores"]["accuracy"]["value"] < 1
    for pair in found["comparisons"]:
        assert (pair["only_first_right"], pair["only_second_right"], pair["mcnemar_p"]) == (0, 0, 1.0)
        assert [verdict["ahead"] for verdict in pair["verdicts"]] == [None, None]


def test_seeds_are_averaged_and_a_branch_is_a_system(runs: Path, tmp_path: Path) -> None:
    fresh = runs / "fresh.csv"
    names = [runs / "seeds", runs / "good", f"{runs / 'good'}:lstm", f"{runs / 'good'}:ngrams"]
    found = compare_to_json(tmp_path / "out.json", *names, fresh)
    values = [system["scores"]["macro_f1"]["value"] for system in found["systems"]]
    for name, branch in (("good", ""), ("poor", ""), ("good", "lstm"), ("good", "ngrams")):
        argv = [str(runs / name), str(fresh), "--out", str(tmp_path / "scores.json")]
        evaluate.main([*argv, *([f"--branch={branch}"] if branch else [])])
        values.append(json.loads((tmp_path / "scores.json").read_text())["macro_f1"])
    assert values[0] == pytest.approx((values[4] + values[5]) / 2)
    assert values[1:4] == pytest.approx([values[4], values[6], values[7]])
    assert len(set(values[:4])) > 2, "the systems differ"
    seeds = found["systems"][0]
    assert (seeds["seeds"], found["systems"][1]["seeds"]) == (2, 1)
    assert seeds["scores"]["macro_f1"]["spread"] == pytest.approx(np.std(values[4:6], ddof=1))
    assert found["correction"] == "holm"


def test_files_alone_are_compared(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh = runs / "fresh.csv"
    files = [predicted(runs / name, fresh, tmp_path / f"{name}.csv") for name in ("good", "poor")]
    found = compare_to_json(tmp_path / "out.json", *files, fresh)
    of_runs = compare_to_json(tmp_path / "runs.json", runs / "good", runs / "poor", fresh)
    assert found["metric"] == "macro_f1"
    assert found["scores"] == of_runs["scores"]
    chosen = compare_to_json(tmp_path / "out.json", "--metric=flip_rate", *files, fresh)
    assert chosen["metric"] == "flip_rate"
    assert " points of flip rate" in capsys.readouterr().out


def test_slices_are_compared_on_their_rows(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make_rows(90, seed=3)
    hotels = [["north", "south", ""][i % 3] for i in range(90)]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("text", "label", "hotel"), *((*row, hotel) for row, hotel in zip(rows, hotels, strict=True))]
        )
    by = ["--slices=hotel", "--slices", "length"]
    found = compare_to_json(tmp_path / "out.json", runs / "good", *by, runs / "poor", tmp_path / "rows.csv")
    of_hotels = found["comparisons"][0]["slices"]["hotel"]
    assert [of["name"] for of in of_hotels] == ["north", "south", "(missing)"]
    south = [row for row, hotel in zip(rows, hotels, strict=True) if hotel == "south"]
    alone = compare_to_json(
        tmp_path / "alone.json", runs / "good", runs / "poor", write_csv(tmp_path / "south.csv", south)
    )
    assert of_hotels[1]["scores"] == alone["scores"]
    assert of_hotels[1]["rows"] == 30
    lengths = found["comparisons"][0]["slices"]["length"]
    assert len(lengths) == 4
    assert sum(of["rows"] for of in lengths) == 90
    shown = capsys.readouterr().out
    assert "macro recall by hotel" in shown
    assert "few rows: fewer than 30" in shown


@pytest.mark.parametrize(
    ("format_", "beginning"),
    [("markdown", "90 rows of "), ("latex", "\\begin{table}\n"), ("html", "<table>\n"), ("json", "{\n")],
)
def test_tables_are_printed_or_written(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], format_: str, beginning: str
) -> None:
    argv = [str(runs / name) for name in ("good", "poor", "fresh.csv")] + [f"--format={format_}"]
    command.main(argv)
    shown = capsys.readouterr().out
    assert shown.startswith(beginning)
    if format_ == "json":
        assert json.loads(shown)["rows"] == 90
    command.main([*argv, f"--out={tmp_path / 'table'}"])
    assert capsys.readouterr().out == f"written to {tmp_path / 'table'}\n"
    assert (tmp_path / "table").read_text("utf-8") == shown


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["good", "other", "data.csv"], "the runs have different classes"),
        (["good", "nothing", "data.csv"], "is not a run folder"),
        (["good", "poor", "nothing.csv"], "nothing.csv"),
        (["good", "poor", "data.csv", "--out", "no/such/folder.json"], "no such folder"),
        (["good", "data.csv"], "give 2 to 26 systems, then a file with labelled rows"),
        (["good", "good:ngram", "data.csv"], "no part 'ngram' of a run; there are lstm, ngrams, linear. Did"),
        (["good", "poor:lstm", "data.csv"], "no branch 'lstm'; the model has none: it is one LSTM"),
        (["good", "poor", "data.csv", "--metric=f1"], "--metric: 'f1' is not a metric of these classes"),
        (["good", "poor", "data.csv", "--slices=lable"], "no column 'lable' (--slices); the file has '"),
        (["good", "poor", "data.csv", "--slices=lengths"], "Did you mean 'length'?"),
        (["good", "poor.csv", "data.csv"], "poor.csv: no such file"),
    ],
)  # fmt: skip
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


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "prediction\nnegative\nneutral\n",
            "theirs.csv: has 2 rows, but rows.csv has 3; give a prediction for each of them, in the same "
            "order"
        ),
        (
            "prediction\nnegative\nneutrl\npositive\n",
            "theirs.csv:3: column 'prediction': 'neutrl' is not one of the classes negative, neutral, "
            "positive. Did you mean 'neutral'?"
        ),
        (
            "predicted\nnegative\n\"\"\npositive\n",
            "theirs.csv:3: column 'predicted': has no prediction; give a class for every row"
        ),
        (
            "probability_negative,probability_neutral\n1,0\n1,0\n1,0\n",
            "theirs.csv: has no column 'probability_positive'; give the probabilities of all classes"
        ),
        (
            "probability_negative,probability_postive\n1,0\n1,0\n1,0\n",
            "theirs.csv:1: column 'probability_postive': 'postive' is not one of the classes negative, "
            "neutral, positive. Did you mean 'positive'?"
        ),
        (
            "negative,neutral,positive\n1,0,0\n1,x,0\n1,0,1.5\n",
            "theirs.csv:3: column 'neutral': 'x' is not a probability; write a number from 0 to 1\n"
            "theirs.csv:4: column 'positive': '1.5' is not"
        ),
        (
            "text,score\na,1\nb,1\nc,1\n",
            "theirs.csv: no predictions among its columns 'text', 'score'; give a probability for each "
            "class, probability_negative, probability_neutral, probability_positive, or a label in a "
            "column prediction"
        ),
        (
            "text,prediction\nso good,positive\nawful,negative\nplain,neutral\n",
            "theirs.csv:3: column 'text': 'awful' is not the text of rows.csv:3; keep the rows in order\n"
            "theirs.csv:4: column 'text': 'plain' is not the text of rows.csv:4"
        ),
        (
            "id,prediction\n7,positive\n8,negative\n8,neutral\n",
            "theirs.csv:4: column 'id': '8' is not the id of rows.csv:4; keep the rows in order"
        ),
    ],
)  # fmt: skip
def test_predictions_that_do_not_fit_are_named(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("id,text,label\n7,so  good,positive\n8,plain,neutral\n9,awful,negative\n")
    Path("theirs.csv").write_text(content)
    with pytest.raises(DataError) as caught:
        command.main([str(runs / "good"), "theirs.csv", "rows.csv", "--out=out.json"])
    assert str(caught.value).startswith(expected)
    assert caught.value.exit_code == 2
    assert not Path("out.json").exists()


def test_rows_without_a_class_are_left_out_of_predictions(tmp_path: Path) -> None:
    """A label map that excludes a label: the file of predictions still has a row for each row."""
    (tmp_path / "rows.csv").write_text("text,label\na,4\nb,2\nc,0\nd,4\n")
    (tmp_path / "theirs.csv").write_text("text,label\na,4\nb,0\nc,bad\nd,good\n")
    label_map: dict[str, str | None] = {"0": "bad", "2": None, "4": "good"}
    rows = read_rows(str(tmp_path / "rows.csv"), ["bad", "good"], label_map)
    assert (rows.truth_R.tolist(), rows.places_R.tolist(), rows.count) == ([1, 0, 1], [0, 2, 3], 4)
    assert read_predictions(str(tmp_path / "theirs.csv"), rows).tolist() == [1, 0, 1]


def test_texts_are_matched_in_the_column_they_are_read_from(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("comment,body,id,label\n-,nice,1,good\n-,poor,2,bad\n")
    (tmp_path / "theirs.csv").write_text("comment,body,id,prediction\nno,nice,1.0,bad\nno,poor,2.0,good\n")
    rows = read_rows(str(tmp_path / "rows.csv"), ["bad", "good"], {}, text_column="body")
    assert read_predictions(str(tmp_path / "theirs.csv"), rows).tolist() == [0, 1]
