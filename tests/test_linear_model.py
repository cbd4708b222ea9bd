"""The linear baseline is kept in the run, predicts as metrics.json scores it, and can be exported."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import write_csv

from lstm_sentiment import SentimentClassifier, compare, evaluate, load
from lstm_sentiment import export as export_command
from lstm_sentiment import predict as predict_command
from lstm_sentiment.checkpoints.run_folder import LINEAR, RunFolder
from lstm_sentiment.config.schema import Config
from lstm_sentiment.deployment.exporter import export, load_runtime
from lstm_sentiment.errors import CheckpointError, ConfigError
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.experiment.train import run
from lstm_sentiment.prediction.classifier import SentimentClassifier as Classifier
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.records.scores import Scores

TEXTS = ["so good", "the crew was rude", "", "good good bad"]


def held_out_test_rows(run_folder: Path, reviews: Path) -> list[tuple[str, str]]:
    """Return texts and labels of the test rows that the run names."""
    with reviews.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    with (run_folder / "held_out_rows.csv").open(encoding="utf-8", newline="") as file:
        lines = [int(row["line"]) for row in csv.DictReader(file) if row["split"] == "test"]
    return [(rows[line - 1][0], rows[line - 1][1]) for line in lines]


def scored(classifier: Classifier, rows: list[tuple[str, str]]) -> Scores:
    truth_R = np.array([classifier.labels.index(label) for _, label in rows])
    return score(truth_R, classifier.predict_proba([text for text, _ in rows]), classifier.labels)


WAYS = {
    "plain": ["--trainer.epochs=1"],
    "hashed n-grams": ["--trainer.epochs=1", "--model.ngrams=64"],
    "tf-idf n-grams": ["--trainer.epochs=1", "--model.ngrams=64", "--model.ngram_kind=tfidf"],
    "frozen": [],
}


@pytest.fixture(scope="module")
def runs() -> dict[str, Path]:
    """Runs that were trained for tests of this module, by their way."""
    return {}


@pytest.fixture
def trained(
    request: pytest.FixtureRequest,
    configure: Callable[..., Config],
    trained_run: Path,
    tmp_path: Path,
    runs: dict[str, Path],
) -> Path:
    """A copy of a run without a linear branch, with one, or one that was fitted on top of another run."""
    if request.param not in runs:
        way = WAYS[request.param] or [f"--pretrained={trained_run}"]
        config = configure("--baseline=true", "--data.validation=0.2", "--data.test=0.3", *way)
        run(config)
        runs[request.param] = Path(config.out)
    return Path(shutil.copytree(runs[request.param], tmp_path / "copy"))


@pytest.mark.parametrize("trained", ["plain", "frozen"], indirect=True)
def test_the_linear_model_predicts_as_it_was_scored(trained: Path, reviews: Path, tmp_path: Path) -> None:
    metrics = RunFolder(trained).read(RunMetrics)
    expected = metrics.baselines["tfidf_logistic_regression"]
    classifier = load(trained)
    whole = classifier.predict_proba(TEXTS)
    classifier.keep_branch("linear")
    found = scored(classifier, held_out_test_rows(trained, reviews))
    assert found.confusion == expected.confusion
    assert found.loss == pytest.approx(expected.loss, abs=1e-4)
    assert found.ece == pytest.approx(expected.ece, abs=1e-3)
    alone = classifier.predict_proba(TEXTS)
    assert not np.allclose(alone, whole)
    assert [p.label_set is not None for p in classifier.predict(TEXTS, coverage=0.9)] == [True] * len(TEXTS)

    again: SentimentClassifier = pickle.loads(pickle.dumps(classifier))
    assert np.allclose(again.predict_proba(TEXTS), alone, atol=1e-6)
    export(classifier, trained, tmp_path / "exported")
    assert np.allclose(load_runtime(tmp_path / "exported").predict_proba(TEXTS), alone, atol=1e-5)


@pytest.mark.parametrize("trained", list(WAYS)[1:], indirect=True)
def test_a_branch_alone_predicts_as_it_was_scored(
    trained: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By metrics.json, evaluate, compare, predict and an export, on the same rows."""
    metrics = RunFolder(trained).read(RunMetrics)
    assert metrics.branches is not None
    rows = held_out_test_rows(trained, reviews)
    test = str(write_csv(tmp_path / "test.csv", rows))
    for branch, of in metrics.branches.items():
        assert of.test is not None
        classifier = load(trained)
        classifier.keep_branch(branch)
        found = scored(classifier, rows)
        assert found.confusion == of.test.confusion
        assert found.loss == pytest.approx(of.test.loss, abs=1e-4)

        evaluate.main([str(trained), test, f"--branch={branch}", f"--out={tmp_path / 'scores.json'}"])
        assert json.loads((tmp_path / "scores.json").read_text())["confusion"] == of.test.confusion
        out = tmp_path / f"{branch}.csv"
        predict_command.main([str(trained), f"--file={test}", f"--branch={branch}", f"--out={out}"])
        capsys.readouterr()
        compare.main([f"{trained}:{branch}", str(out), test, "--format=json"])
        scores = [system["scores"] for system in json.loads(capsys.readouterr().out)["systems"]]
        assert [each["macro_f1"]["value"] for each in scores] == pytest.approx([of.test.macro_f1] * 2)

        alone = classifier.predict_proba(TEXTS)
        again: SentimentClassifier = pickle.loads(pickle.dumps(load(trained)))
        again.keep_branch(branch)
        assert np.allclose(again.predict_proba(TEXTS), alone, atol=1e-6)
        export_command.main([str(trained), f"--branch={branch}", f"--out={tmp_path / branch}"])
        assert np.allclose(load_runtime(tmp_path / branch).predict_proba(TEXTS), alone, atol=1e-5)


@pytest.mark.parametrize("trained", ["plain"], indirect=True)
def test_a_missing_or_damaged_linear_model_is_an_error(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_command.main([str(trained), "so good", "--branch=linear"])
    assert "so good" in capsys.readouterr().out
    file = trained / LINEAR / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="sha256"):
        load(trained).keep_branch("linear")
    shutil.rmtree(trained / LINEAR)
    with pytest.raises(ConfigError, match="has no linear model; train it again with --baseline true"):
        load(trained).keep_branch("linear")
    load(trained).predict(TEXTS)


def test_a_linear_model_of_another_size_is_refused(trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    best = folder.load("best")
    folder.save(LINEAR, {"model": best.tensors["model"]}, {"buckets": 1 << 40})
    with pytest.raises(CheckpointError, match="the linear model does not fit this run"):
        load(tmp_path / "run").keep_branch("linear")


@pytest.mark.parametrize("trained", ["plain"], indirect=True)
def test_a_run_says_how_it_compares_with_the_linear_model(trained: Path) -> None:
    """After one epoch the LSTM is behind a model that learns these texts from one word."""
    against = RunFolder(trained).read(RunMetrics).against_linear
    assert against is not None
    assert against.low <= against.difference <= against.high < 0
    assert against.linear_s is not None
    assert against.metric == "macro_f1"


@pytest.mark.parametrize("trained", ["plain"], indirect=True)
def test_commands_take_the_linear_model(
    trained: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = str(write_csv(tmp_path / "test.csv", held_out_test_rows(trained, reviews)))
    expected = RunFolder(trained).read(RunMetrics).baselines["tfidf_logistic_regression"]
    evaluate.main([str(trained), rows, "--branch=linear", f"--out={tmp_path / 'scores.json'}"])
    assert f"macro-F1 {expected.macro_f1:.4f}" in capsys.readouterr().out
    compare.main([str(trained), f"{trained}:linear", rows])
    assert "B is ahead of A" in capsys.readouterr().out, "after one epoch"
    export_command.main([str(trained), "--branch=linear", f"--out={tmp_path / 'exported'}"])
    exported = load_runtime(tmp_path / "exported")
    classifier = load(trained)
    classifier.keep_branch("linear")
    assert np.allclose(exported.predict_proba(TEXTS), classifier.predict_proba(TEXTS), atol=1e-5)


@pytest.mark.parametrize("baseline", ["true", "false"])
def test_without_baselines_the_log_does_not_compare(
    baseline: str, configure: Callable[..., Config], trained_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The estimator trains without them, and its users see warnings."""
    with caplog.at_level("INFO"):
        run(configure(f"--baseline={baseline}", f"--pretrained={trained_run}"))
    assert any("the linear model" in line and "this model is" in line for line in caplog.messages) == (
        baseline == "true"
    )
