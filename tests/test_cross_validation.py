"""Few rows: networks from random weights, selected and calibrated by cross-validation."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, make_rows, write_csv
from test_estimator import LABELS, TEXTS, tiny

import lstm_sentiment
from lstm_sentiment import SentimentEstimator, doctor, report
from lstm_sentiment.adaptation.cross_validation import OutOfFold, cross_validate
from lstm_sentiment.adaptation.resolving import nothing_set_aside
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import DataConfig
from lstm_sentiment.data.splits import TooFewRowsError
from lstm_sentiment.errors import ConfigError, DataError
from lstm_sentiment.evaluation.calibration import fit_calibration
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.experiment.train import run
from lstm_sentiment.training.trainer import Trainer

Configure = Callable[..., Config]
TOLD = "rows are too few to set some aside: they are cross-validated, without test rows"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "few.csv", make_rows(12))


def spied(monkeypatch: pytest.MonkeyPatch) -> list[OutOfFold | None]:
    """Return a list of the results of each cross-validation."""
    found: list[OutOfFold | None] = []
    real = cross_validate

    def spy(*args: Any, **settings: Any) -> OutOfFold | None:
        found.append(real(*args, **settings))
        return found[-1]

    monkeypatch.setattr("lstm_sentiment.experiment.train.cross_validate", spy)
    return found


@pytest.mark.parametrize(
    "branch", [(), ("--model.ngrams=64",), ("--model.ngrams=64", "--model.ngram_kind=tfidf")]
)
def test_few_rows_are_cross_validated_and_reported(
    configure: Configure, few: Path, branch: tuple[str, ...], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    found = spied(monkeypatch)
    config = configure(f"--data.train={few}", "--trainer.epochs=4", "--baseline=true", *branch)
    metrics = run(config)
    assert f"12 {TOLD}" in caplog.text
    assert (metrics["cross_validated"], metrics["validation"]["rows"], "test" in metrics) == (True, 12, False)
    [crossed] = found
    assert crossed is not None
    assert len(crossed.scores) == len(crossed.logits) == 4
    best = max(range(4), key=lambda epoch: (crossed.scores[epoch]["macro_f1"], -epoch))
    assert metrics["best_epoch"] == best + 1
    saved = Path(config.out) / "config.yaml"
    assert "validation: null" in saved.read_text()
    log = [json.loads(line) for line in (Path(config.out) / "log.jsonl").read_text().splitlines()]
    assert [entry["validation_macro_f1"] for entry in log] == [of["macro_f1"] for of in crossed.scores]


def test_each_row_is_scored_by_a_network_that_has_not_seen_it(
    configure: Configure, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the calibration is fitted to these predictions."""
    pairs: list[tuple[set[int], set[int]]] = []
    real = Trainer.fit

    def fit(trainer: Trainer) -> Any:
        pairs.append((set(trainer.train.texts.tolist()), set(trainer.task.validation.texts.tolist())))
        return real(trainer)

    monkeypatch.setattr(Trainer, "fit", fit)
    found = spied(monkeypatch)
    config = configure(f"--data.train={few}", "--trainer.epochs=2")
    metrics = run(config)
    *folds, last = pairs
    assert len(folds) == 4  # a class has four rows
    assert all(not learned & held for learned, held in folds)
    assert sorted(text for _, held in folds for text in held) == sorted(last[0])
    assert found[0] is not None
    logits_RC = found[0].logits[metrics["best_epoch"] - 1][""]
    truth_R = np.array([["negative", "neutral", "positive"].index(label) for _, label in make_rows(12)])
    calibration = fit_calibration(logits_RC, truth_R)
    assert metrics["calibration"]["temperature"] == pytest.approx(calibration.temperature)
    scores = score(truth_R, calibration.probabilities(logits_RC), ["negative", "neutral", "positive"])
    assert metrics["validation"]["confusion"] == scores.confusion


def test_the_final_network_is_trained_on_all_rows(configure: Configure, few: Path) -> None:
    config = configure(f"--data.train={few}", "--trainer.epochs=20")
    run(config)
    classifier = lstm_sentiment.load(config.out)
    texts, labels = zip(*make_rows(12), strict=True)
    assert [prediction.label for prediction in classifier.predict(list(texts))] == list(labels)
    report.main([config.out])
    assert (Path(config.out) / "report.html").stat().st_size > 10_000


def test_resuming_gives_the_same_weights(
    configure: Configure, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = configure(f"--data.train={few}", "--trainer.epochs=3", f"--out={tmp_path / 'whole'}")
    run(whole)
    cut = configure(f"--data.train={few}", "--trainer.epochs=3", f"--out={tmp_path / 'cut'}")
    real = Trainer._finish_epoch

    def stop(trainer: Trainer, speed: float) -> None:
        real(trainer, speed)
        if trainer.state.epoch == 2 and "cut" in str(getattr(trainer.store, "path", "")):
            trainer._save_last()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_finish_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run(cut)
    run(configure(f"--data.train={few}", "--trainer.epochs=3", f"--out={tmp_path / 'cut'}", "--resume=true"))
    texts = [text for text, _ in make_rows(30, seed=3)]
    one, other = (lstm_sentiment.load(tmp_path / name).predict_proba(texts) for name in ("whole", "cut"))
    assert (one == other).all()


def test_explicit_fractions_are_refused_with_their_rows(configure: Configure, few: Path) -> None:
    """The control: explicitly requested test rows are not dropped silently."""
    with pytest.raises(DataError, match="too few rows for a split with every class: 2 of 12 rows"):
        run(configure(f"--data.train={few}", "--data.validation=0.2", "--data.test=0.2"))


def test_null_requests_cross_validation_for_any_number_of_rows(configure: Configure) -> None:
    metrics = run(configure("--data.validation=null", "--data.test=0.1", "--trainer.epochs=1"))
    assert metrics["cross_validated"]
    assert (metrics["validation"]["rows"], metrics["test"]["rows"]) == (216, 24)


def test_incompatible_settings_are_refused(configure: Configure, few: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"data\.validation: null means cross-validation, not possible with unlabelled texts",
    ):
        run(configure("--data.validation=null", f"--data.unlabelled={few}", "--trainer.vat=0.1"))


def test_a_rare_class_of_many_rows_is_named_and_not_hidden(configure: Configure, tmp_path: Path) -> None:
    rows = [*make_rows(120)[:90], ("mixed feelings", "mixed"), *make_rows(120)[90:]]
    file = write_csv(tmp_path / "rows.csv", rows)
    with pytest.raises(DataError, match=r"the label 'mixed' has 1 row, at line 92; .* map mixed to null"):
        run(configure(f"--data.train={file}"))
    labels = "{negative: negative, neutral: neutral, positive: positive, mixed: null}"
    run(configure(f"--data.train={file}", f"--data.labels={labels}", "--trainer.epochs=1"))


def test_too_few_rows_are_an_error_unless_cross_validated() -> None:
    error = TooFewRowsError("too few", file="a.csv", rows=100)
    with pytest.raises(TooFewRowsError):
        nothing_set_aside(Config(), frozenset(), error)
    error.rows = 99
    assert nothing_set_aside(Config(), frozenset(), error) == {"data.validation": None, "data.test": None}
    given = frozenset({"data.validation", "data.test"})
    with pytest.raises(TooFewRowsError):
        nothing_set_aside(Config(), given, error)
    beside = Config(data=DataConfig(validation="b.csv"))
    assert nothing_set_aside(beside, frozenset(), error) == {"data.test": None}


def test_from_the_starter_only_the_default_test_rows_are_given_up(
    few: Path, tmp_path: Path, trained_run: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("lstm_sentiment.checkpoints.run_paths.FOLDER", trained_run)
    metrics = run(Config(data=DataConfig(train=str(few)), out=str(tmp_path / "run")))
    assert f"12 {TOLD}" in caplog.text
    assert metrics["kept"]["cross_validated"]
    assert "test" not in metrics


def test_the_doctor_examines_few_rows(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):  # with the exit code of its findings
        doctor.main([f"--data.train={few}", "--pretrained=null", *TINY])
    printed, warned = capsys.readouterr()
    assert f"12 {TOLD}" in printed + warned
    assert re.search(r"^train +12 ", printed, re.MULTILINE)


def test_a_signal_stops_it_between_folds(
    configure: Configure, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lstm_sentiment.experiment.signals.RunWatch.asked_to_stop", lambda watch: 15)
    with pytest.raises(lstm_sentiment.errors.StoppedError, match="stopped in cross-validation: start again"):
        run(configure(f"--data.train={few}"))


# --- the estimator ---


@pytest.mark.parametrize("count", [2, 4, 10, 12])
def test_an_estimator_learns_from_few_rows(count: int, caplog: pytest.LogCaptureFixture) -> None:
    texts = [f"a {word} film {n}" for n in range(count // 2) for word in ("good", "bad")]
    settings = {"embedding_size": 8, "hidden_size": 8, "batch_size": 4, "learning_rate": 0.05, "ema": 0.0}
    settings |= {"subwords": 100, "epochs": 12 if count >= 10 else 1}
    found = SentimentEstimator(threads=1, **settings).fit(texts, ["pos", "neg"] * (count // 2))
    assert f"{count} {TOLD}" in caplog.text
    assert found.metrics_["validation"]["rows"] == count
    if count >= 10:
        assert found.predict(["good", "bad"]).tolist() == ["pos", "neg"]


def test_a_rare_class_of_an_estimator_is_named_with_its_row_and_fixes() -> None:
    texts, labels = (
        [*TEXTS[:100], "mixed feelings", *TEXTS[100:200]],
        [*LABELS[:100], "mixed", *LABELS[100:200]],
    )
    expected = r"the label 'mixed' has 1 row, X\[100\]; add more, or exclude it with left_out=\[...\]"
    with pytest.raises(ValueError, match=expected + "; validation_fraction=None cross-validates instead"):
        tiny(epochs=1).fit(texts, labels)
    weights = np.r_[0.0, np.ones(200)]
    with pytest.raises(
        ValueError, match=r"X\[100\]"
    ):  # index into the given rows, including that of weight 0
        tiny(epochs=1).fit(texts, labels, sample_weight=weights)
    out = tiny(epochs=1, left_out=["mixed"]).fit(texts, labels)
    assert out.classes_.tolist() == ["negative", "neutral", "positive"]
    crossed = tiny(epochs=1, validation_fraction=None).fit(texts, labels)
    assert crossed.classes_.tolist() == ["mixed", "negative", "neutral", "positive"]
    assert crossed.metrics_["validation"]["rows"] == 201


def test_validation_rows_are_never_trained_on() -> None:
    """The control: predictions of the final network on its training rows are better than held-out ones."""
    labels = np.random.default_rng(0).permutation(LABELS[:60]).tolist()  # random labels
    found = tiny(epochs=15, validation_fraction=None, learning_rate=0.06).fit(TEXTS[:60], labels)
    assert found.score(TEXTS[:60], labels) > 0.8
    assert found.metrics_["validation"]["accuracy"] < 0.6


def test_folds_do_not_change_random_state_or_logging(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    package = logging.getLogger("lstm_sentiment")
    level = package.level
    tiny(epochs=1, validation_fraction=None).fit(TEXTS[:60], LABELS[:60])
    assert (torch.get_rng_state() == before).all()
    assert package.level == level
    assert "first loss" not in caplog.text
