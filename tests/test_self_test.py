"""The self-test of a checkpoint: what is detected on loading, and when it is skipped."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.checkpoints.self_test import largest_difference, self_test_texts
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.experiment.train import run
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.prediction.make_self_test import self_test_of


@pytest.fixture
def trained(configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that has not been loaded yet."""
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(tmp_path / "cache"))
    run(configure("--trainer.epochs=1"))
    return tmp_path / "run"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def save_again(run: Path, **facts: Any) -> None:
    """Replace some facts of a checkpoint, as a valid one."""
    folder = RunFolder(run)
    best = folder.load(BEST)
    folder.save(BEST, best.tensors, {**best.facts, **facts})


def test_a_run_has_a_self_test(trained: Path) -> None:
    proof = RunFolder(trained).load(BEST).facts["proof"]
    assert len(proof["texts"]) == len(set(proof["texts"])) == 20
    assert "" in proof["texts"]
    found = load(trained, device="cpu").predict_logits(proof["texts"])
    np.testing.assert_allclose(found, proof["logits"], atol=1e-6)


def test_a_self_test_belongs_to_the_given_weights(trained: Path) -> None:
    whole = load(trained, device="cpu")
    weights = RunFolder(trained).load(BEST).tensors["model"]
    of: dict[str, Any] = {"labels": whole.labels, "vocabulary": whole.vocabulary, "config": whole.config}
    kept = RunFolder(trained).load(BEST).facts["proof"]
    found = self_test_of(weights, **of)
    assert found["texts"] == kept["texts"]
    np.testing.assert_allclose(found["logits"], kept["logits"], atol=1e-6)
    others = {name: 2 * weight for name, weight in weights.items()}
    assert largest_difference(kept, np.array(self_test_of(others, **of)["logits"])) > 0.1


def test_texts_are_not_training_rows(trained: Path, reviews: Path) -> None:
    rows = {line.split(",")[0].strip('"').lower() for line in reviews.read_text().splitlines()}
    texts = RunFolder(trained).load(BEST).facts["proof"]["texts"]
    assert not rows & {text.lower() for text in texts if " " in text}


def test_a_passed_self_test_is_silent_and_cached(
    trained: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    answer = SentimentClassifier.predict_logits

    def counted(self: SentimentClassifier, texts: Any) -> Any:
        asked.append(len(texts))
        return answer(self, texts)

    monkeypatch.setattr(SentimentClassifier, "predict_logits", counted)
    load(trained, device="cpu")
    load(trained, device="cpu")
    assert asked == [20]
    monkeypatch.setattr(
        "lstm_sentiment.system.devices._cpu_name", lambda: "another CPU"
    )  # it is checked again
    load(trained, device="cpu")
    assert asked == [20, 20]
    monkeypatch.setattr(
        "lstm_sentiment.checkpoints.self_test.__version__", "99.0"
    )  # a new tokenizer, perhaps
    load(trained, device="cpu")
    assert asked == [20, 20, 20]
    assert warnings_of(caplog) == []


def test_another_tokenizer_or_other_weights_are_detected_each_time(
    trained: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("lstm_sentiment.text.tokenizers.library", lambda: None)  # which does not use:
        patch.setattr("lstm_sentiment.text.tokenizers.normal_form", lambda found: found[:2])
        for _ in range(2):
            caplog.clear()
            load(trained, device="cpu")
            assert "self-test failed: logits differ" in warnings_of(caplog)[0]
    caplog.clear()
    load(trained, device="cpu")
    assert warnings_of(caplog) == []

    best = RunFolder(trained).load(BEST)
    best.tensors["model"]["head.bias"] += 0.01
    proof = {**best.facts["proof"], "seen": False}  # one that was not found good here before
    RunFolder(trained).save(BEST, best.tensors, {**best.facts, "proof": proof})
    load(trained, device="cpu")
    assert "logits differ by up to 0.01" in warnings_of(caplog)[0]


@pytest.mark.parametrize(
    "proof",
    ["x", 3, {}, {"texts": []}, {"texts": ["a"]}, {"texts": [1], "logits": [[1, 2, 3]]},
     {"texts": ["a"], "logits": [[1, 2]]}, {"texts": ["a"], "logits": "x"},
     {"texts": ["a"], "logits": [[1, 2, float("nan")]]}, {"texts": ["a", "b"], "logits": [[1, 2, 3]]}],
)  # fmt: skip
def test_an_invalid_self_test_is_an_error_that_names_the_run(trained: Path, proof: Any) -> None:
    save_again(trained, proof=proof)
    with pytest.raises(CheckpointError, match="the self-test is not that of this model") as caught:
        load(trained, device="cpu")
    assert str(caught.value).startswith(f"{trained}: ")


def test_an_unwritable_cache_only_costs_time(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(cache_folder())
    cache_folder().write_text("a file where the folder should be")
    assert load(trained, device="cpu").predict("great")
    assert warnings_of(caplog) == []


def test_a_run_without_a_self_test_loads(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_again(trained, proof=None)
    assert load(trained, device="cpu").predict("great")
    assert warnings_of(caplog) == []


def test_the_tolerance_is_relative_to_the_logits() -> None:
    proof = {"logits": [[100.0, 0.5], [-2.0, 0.0]]}
    assert largest_difference(proof, np.array([[101.0, 0.5], [-2.0, 0.0]])) == pytest.approx(0.01)
    assert largest_difference(proof, np.array([[100.0, 0.75], [-2.0, 0.0]])) == pytest.approx(0.25)


def test_texts_are_the_same_for_the_same_vocabulary() -> None:
    assert self_test_texts(["a", "b", "c"]) == self_test_texts(["a", "b", "c"])
    assert self_test_texts([])[-1].startswith("word word")
