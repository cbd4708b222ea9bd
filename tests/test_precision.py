"""Prediction with bf16 products: where it is available, what it changes, where it can be asked for."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import lstm_sentiment
from lstm_sentiment import BatchPredictor
from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.config.command_line import read_config
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.evaluate import main as evaluate
from lstm_sentiment.kernels import library as kernels
from lstm_sentiment.kernels.library import lstm_library
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.network import lstm_of
from lstm_sentiment.models.precision import in_bf16, precision_here, precision_of, set_precision
from lstm_sentiment.predict import main as predict
from lstm_sentiment.prediction.model_card import model_card
from lstm_sentiment.records.run_metrics import InBf16, RunMetrics
from lstm_sentiment.records.run_reports import REPORTS, read_reports
from lstm_sentiment.serving.models import open_models
from tests.conftest import CLUES, make_rows, write_csv

TEXTS = [text for text, _ in make_rows(60)] + ["", "superb"]
CPU = torch.device("cpu")
needs_bf16 = pytest.mark.skipif(lstm_library("bf16") is None, reason="no kernel with bf16 products here")


@needs_bf16
def test_bf16_is_close_to_fp32_and_exact_in_any_batch(trained_run: Path) -> None:
    classifier = lstm_sentiment.load(trained_run, device="cpu", precision="bf16")
    found_RC = classifier.predict_proba(TEXTS)
    expected_RC = lstm_sentiment.load(trained_run, device="cpu").predict_proba(TEXTS)
    assert not np.array_equal(found_RC, expected_RC)
    np.testing.assert_allclose(found_RC, expected_RC, atol=0.01)
    alone_RC = np.concatenate([classifier.predict_proba(text) for text in TEXTS])
    assert np.array_equal(alone_RC, found_RC)
    assert np.array_equal(classifier.predict_proba(TEXTS[::-1]), found_RC[::-1])


@needs_bf16
def test_only_the_products_of_the_lstm_are_bf16(trained_run: Path) -> None:
    """Head and linear model are computed in fp32: a model that ignores its LSTM is unchanged."""
    classifiers = [lstm_sentiment.load(trained_run, device="cpu", precision=of) for of in ("fp32", "bf16")]
    for classifier in classifiers:
        lstm = lstm_of(classifier.model)
        with torch.no_grad():
            lstm.head.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
            lstm.head.weight.zero_()
    assert np.array_equal(*(classifier.predict_logits(TEXTS) for classifier in classifiers))


@needs_bf16
def test_copies_and_pickled_classifiers_keep_the_precision(trained_run: Path) -> None:
    classifier = lstm_sentiment.load(trained_run, device="cpu", precision="bf16")
    expected_RC = classifier.predict_proba(TEXTS)
    for other in (copy.copy(classifier), copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert precision_of(other.model) == "bf16"
        assert np.array_equal(other.predict_proba(TEXTS), expected_RC)
    assert precision_here(classifier.model, "bf16", torch.device("cuda")) == "fp32"


@needs_bf16
def test_the_commands_take_a_precision(trained_run: Path, tmp_path: Path) -> None:
    rows = make_rows(60, seed=3)
    file, run = str(write_csv(tmp_path / "rows.csv", rows)), str(trained_run)
    classifier = lstm_sentiment.load(run, device="cpu", precision="bf16")
    expected_RC = classifier.predict_proba([text for text, _ in rows])
    out = str(tmp_path / "out.parquet")
    predict([run, "--file", file, "--precision", "bf16", "--device", "cpu", "--out", out])
    found_RC = pd.read_parquet(out)[[f"probability_{label}" for label in CLUES]].to_numpy()
    np.testing.assert_allclose(found_RC, expected_RC, atol=1e-6)
    evaluate([run, file, "--precision", "bf16", "--device", "cpu", "--out", str(tmp_path / "scores.json")])
    assert json.loads((tmp_path / "scores.json").read_text())["rows"] == 60
    (model,) = open_models([run], device="cpu", threads=1, precision="bf16")
    np.testing.assert_array_equal([of.probabilities for of in model.read([rows[0][0]])], expected_RC[:1])
    predictor = pickle.loads(pickle.dumps(BatchPredictor(run, precision="bf16")))
    found = predictor({"text": np.array([rows[0][0]], object)})
    assert found["score"][0] == expected_RC[0].max()


def test_bf16_is_refused_where_it_is_not_available(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = SentimentLSTM(10, 2, embedding_size=8, hidden_size=20)
    for model, device, problem in (
        (odd, CPU, r"model.hidden_size is 20, not a multiple of 16; use fp32"),
        (odd, torch.device("cuda"), r"the kernel is for CPUs, not cuda; use fp32"),
    ):
        with pytest.raises(ConfigError, match=problem):
            set_precision(model, "bf16", device)
        with in_bf16(model, device) as available:
            assert not available
        assert precision_of(model) == "fp32"
    monkeypatch.setattr(kernels, "library", lambda name="_kernels": None)
    with pytest.raises(ConfigError, match="this CPU has no AVX512-BF16, or the compiled kernels are missing"):
        lstm_sentiment.load(trained_run, device="cpu", precision="bf16")
    with pytest.raises(ConfigError, match="'half' is not one of fp32, bf16"):
        lstm_sentiment.load(trained_run, device="cpu", precision="half")


def test_an_exported_model_has_a_format_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ConfigError, match="was exported and predicts in its own format; omit the option"):
        open_models([str(tmp_path)], device="cpu", threads=1, precision="bf16")


def test_a_run_records_what_bf16_changes(trained_run: Path) -> None:
    found = RunFolder(trained_run).read(RunMetrics).bf16
    assert (found is not None) == (lstm_library("bf16") is not None)
    if found is not None:
        assert found.rows > 0
        assert found.same_labels > 0.95
        assert abs(found.ece - found.ece_fp32) < 0.02


def test_the_model_card_says_what_bf16_changes(trained_run: Path) -> None:
    folder, config = RunFolder(trained_run), read_config(trained_run / "config.yaml")
    contents = {name: folder.read_json(name) for name in REPORTS}
    reports = read_reports(contents, list(CLUES), run=trained_run)
    of_run = InBf16(rows=2000, same_labels=0.9985, ece=0.0123, ece_fp32=0.0121)
    for found in (of_run, None):
        metrics = dataclasses.replace(reports.metrics, bf16=found)
        of_metrics = dataclasses.replace(reports, metrics=metrics)
        card = model_card(name="me/tweets", config=config, reports=of_metrics)
        sentence = (
            "With bf16 products (`--precision bf16`), 99.85% of 2,000 of these rows get the same label as in "
            "fp32, and their calibration error is 0.0123 instead of 0.0121."
        )
        assert (sentence in card) == (found is not None)
