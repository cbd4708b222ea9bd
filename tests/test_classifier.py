"""Prediction API: the model's own probabilities, independent of the other texts."""

from __future__ import annotations

import csv
import gc
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, make_rows, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st

import lstm_sentiment
from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import prepare
from lstm_sentiment.errors import CheckpointError, ConfigError, DataError, RunError, SentimentError
from lstm_sentiment.evaluation.calibration import Calibration
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.experiment.train import run
from lstm_sentiment.explanation.attribution import explain
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.prediction.types import Prediction
from lstm_sentiment.text.encoder import cut
from lstm_sentiment.text.tokenization import UNKNOWN
from lstm_sentiment.text.tokenizers import Tokenizer

LABELS = ["negative", "neutral", "positive"]
ODD_TEXTS = [
    "",
    "   \t\n ",
    "😀👍🏽",
    "\ufeff",
    "\x00",
    "great " * 10_000,
    "x" * 100_000,
    "שלום 你好",
    "\ud800 great",
]
quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run trained once for this module."""

    config: Config
    path: Path
    cache: Path
    classifier: SentimentClassifier


def train(folder: Path, *flags: str) -> Trained:
    """Train a run on the toy corpus in a folder of its own."""
    reviews = write_csv(folder / "reviews.csv", make_rows(240))
    argv = [
        f"--data.train={reviews}",
        f"--out={folder / 'run'}",
        *TINY,
        "--trainer.epochs=5",
        "--baseline=false",
    ]
    config = parse_config([*argv, *flags], program="test", description="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        run(config)
    return Trained(
        config=config,
        path=folder / "run",
        cache=folder / "cache",
        classifier=load(folder / "run", device="cpu"),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def with_basic_english(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(
        tmp_path_factory.mktemp("basic_english"),
        "--text.tokenizer=basic_english",
        "--text.subwords=0",
        "--text.max_tokens=9",
        "--trainer.epochs=1",
    )


@pytest.fixture(scope="module")
def with_tail_and_case(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(
        tmp_path_factory.mktemp("tail"),
        "--text.lowercase=false",
        "--text.max_tokens=7",
        "--text.truncate=tail",
        "--trainer.epochs=1",
    )


def texts_of(config: Config) -> list[str]:
    with Path(config.data.train).open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


# -- predictions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["trained", "with_basic_english", "with_tail_and_case"])
def test_predictions_are_the_softmax_of_the_training_path_logits(
    request: pytest.FixtureRequest, fixture: str
) -> None:
    """A text has the same tokens, and so the same logits, as the same row in training."""
    of_run: Trained = request.getfixturevalue(fixture)
    config, classifier = of_run.config, of_run.classifier
    corpus = prepare(config.data, config.text, seed=config.seed, cache=of_run.cache)
    texts = texts_of(config)
    for dataset in (corpus.train, corpus.validation, corpus.test):
        assert dataset is not None
        logits_RC = predict_logits(classifier.model, dataset, device=torch.device("cpu"), batch_size=16)
        expected_RC = (logits_RC.double() / classifier.calibration.temperature).softmax(1).numpy()
        found_RC = classifier.predict_proba(texts[row] for row in dataset.rows)
        np.testing.assert_allclose(found_RC, expected_RC, atol=1e-6)


def test_it_separates_positive_from_negative(trained: Trained) -> None:
    predictions = trained.classifier.predict(
        ["this place is awful", "the food was superb", "an average room"]
    )
    assert [p.label for p in predictions] == ["negative", "positive", "neutral"]


def test_probabilities_sum_to_one_in_the_order_of_labels(trained: Trained) -> None:
    classifier = trained.classifier
    texts = texts_of(trained.config)[:50] + ODD_TEXTS
    probabilities_RC = classifier.predict_proba(texts)
    assert classifier.labels == LABELS
    assert probabilities_RC.shape == (len(texts), 3)
    assert probabilities_RC.dtype == np.float64
    assert (probabilities_RC >= 0).all()
    np.testing.assert_allclose(probabilities_RC.sum(axis=1), 1, atol=1e-12)
    for prediction, row_C in zip(classifier.predict(texts), probabilities_RC, strict=True):
        assert list(prediction.probabilities) == LABELS
        assert list(prediction.probabilities.values()) == row_C.tolist()
        assert prediction.label == LABELS[row_C.argmax()]
        assert prediction.score == row_C.max()
        assert isinstance(prediction.score, float)


def test_predictions_are_plain_values(trained: Trained) -> None:
    [prediction] = trained.classifier.predict("great")
    assert type(prediction) is Prediction
    assert {type(value) for value in prediction.probabilities.values()} == {float}
    with pytest.raises(AttributeError):
        prediction.label = "negative"  # type: ignore[misc]


def test_one_string_a_list_a_generator_and_a_series_are_the_same(trained: Trained) -> None:
    classifier = trained.classifier
    texts = ["great food", "", "awful", "so-so :-)"]
    expected_RC = classifier.predict_proba(texts)
    series = pd.Series(texts, index=[7, 3, 3, 0])
    forms: list[Any] = [tuple(texts), (text for text in texts), iter(texts), series, np.array(texts, object)]
    for form in forms:
        assert np.array_equal(classifier.predict_proba(form), expected_RC)
    assert classifier.predict(series) == classifier.predict(texts)
    for text, row_C in zip(texts, expected_RC, strict=True):
        np.testing.assert_allclose(classifier.predict_proba(text), [row_C], atol=1e-6)
    assert len(classifier.predict("great food")) == 1, "one string is one text, not its letters"


def test_no_texts_give_no_predictions(trained: Trained) -> None:
    assert trained.classifier.predict([]) == []
    assert trained.classifier.predict_proba([]).shape == (0, 3)
    assert trained.classifier.predict_proba(iter(())).shape == (0, 3)


def test_order_is_kept_over_lengths_and_parts(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are sorted by length and processed in chunks internally."""
    monkeypatch.setattr(lstm_sentiment.prediction.classifier, "TEXTS_AT_ONCE", 37)
    monkeypatch.setattr(lstm_sentiment.prediction.classifier, "TOKENS_AT_ONCE", 200)
    texts = (
        [text * (1 + i % 5) for i, text in enumerate(texts_of(trained.config))] + [""] * 3 + ["great"] * 40
    )
    found_RC = trained.classifier.predict_proba(texts)
    monkeypatch.undo()
    expected_RC = np.concatenate([trained.classifier.predict_proba(text) for text in texts])
    np.testing.assert_allclose(found_RC, expected_RC, atol=1e-6)
    assert len(np.unique(expected_RC.round(6), axis=0)) > 200, "texts cannot be reported apart"


@pytest.mark.parametrize("text", ["awful", "", "the food was superb " * 3, "great " * 500])
def test_other_texts_of_the_batch_do_not_change_a_prediction(trained: Trained, text: str) -> None:
    alone_1C = trained.classifier.predict_proba(text)
    others = texts_of(trained.config) + ["so-so " * n for n in range(60)]
    assert len(others) == 300
    for place in (0, 150, 300):
        among_RC = trained.classifier.predict_proba([*others[:place], text, *others[place:]])
        np.testing.assert_allclose(among_RC[place], alone_1C[0], atol=1e-6)


@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: ascii(text[:12]))
def test_odd_texts_are_predicted(trained: Trained, text: str) -> None:
    [prediction] = trained.classifier.predict(text)
    assert prediction.label in LABELS
    assert math.isfinite(prediction.score)


def test_texts_without_a_token_are_one_unknown_token(trained: Trained, with_basic_english: Trained) -> None:
    """Without subwords the empty text has the prediction of an unknown word."""
    empty, blank = trained.classifier.predict_proba(["", " \n "])
    np.testing.assert_allclose(blank, empty, atol=1e-6)
    empty, unseen = with_basic_english.classifier.predict_proba(["", "xyzzyplugh"])
    np.testing.assert_allclose(unseen, empty, atol=1e-6)


@pytest.mark.parametrize(
    "texts", [[None], ["fine", 5], [b"bytes"], [["nested"]], pd.Series(["a", None], dtype=object), [1.5]]
)
def test_a_value_that_is_not_a_string_is_an_error(trained: Trained, texts: Any) -> None:
    with pytest.raises(DataError, match="must be a string, not"):
        trained.classifier.predict(texts)
    with pytest.raises(DataError, match=r"row \d \(texts\[\d\]\)"):
        trained.classifier.predict(texts)


@pytest.mark.parametrize("texts", [None, 5, 1.5])
def test_an_argument_that_is_not_text_is_an_error(trained: Trained, texts: Any) -> None:
    with pytest.raises(DataError):
        trained.classifier.predict(texts)


# -- tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fixture", ["trained", "with_basic_english", "with_tail_and_case"])
def test_the_fast_path_gives_the_tokenizers_tokens(request: pytest.FixtureRequest, fixture: str) -> None:
    """`_encode` caches pieces of text; `Tokenizer` splits each text anew."""
    of_run: Trained = request.getfixturevalue(fixture)
    classifier, text_config = of_run.classifier, of_run.config.text
    tokenizer = Tokenizer(text_config.tokenizer, lowercase=text_config.lowercase)

    @quick
    @given(st.text(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=20).map(" ".join))
    def check(text: str) -> None:
        expected = cut(tokenizer(text), text_config.max_tokens, text_config.truncate)
        assert classifier.tokens(text) == expected
        ids = zip(classifier.vocabulary.encode(expected), expected, strict=True)
        spelt = text_config.subwords > 0
        kept = [token if spelt and i == UNKNOWN else i for i, token in ids]
        assert classifier._encode(text) == (kept or [UNKNOWN])
        assert classifier._encode(text) == classifier._encode(text), "asked again"

    check()


PIECES = [
    *make_rows(1)[0][0].split(),
    "GREAT",
    "great!!!",
    ":-)",
    "I'm",
    "&amp;",
    "<br />",
    "http://a.b/c",
    "\u00a0",
    "é",
    "\u0130",
]


def test_a_long_text_is_truncated_as_in_training(with_tail_and_case: Trained) -> None:
    classifier = with_tail_and_case.classifier
    assert classifier.tokens("a b c d e f g h Great I") == ["d", "e", "f", "g", "h", "Great", "I"]
    long, end = classifier.predict_proba(["awful " * 50 + "d e f g h great i", "d e f g h great i"])
    np.testing.assert_allclose(long, end, atol=1e-6)


def test_known_words_are_in_the_vocabulary(trained: Trained) -> None:
    ids = trained.classifier._encode("great awful xyzzyplugh okay")
    assert ids[2] == "xyzzyplugh"  # kept, to be spelt
    assert all(isinstance(i, int) and i != UNKNOWN for i in (ids[0], ids[1], ids[3]))
    assert len(set(ids)) == 4


def test_an_unknown_word_uses_its_subwords(trained: Trained, with_basic_english: Trained) -> None:
    """Each has its own prediction in any batch; without subwords all have the same."""
    unknown = ["xyzzyplugh", "qwertzuiop", "xyzzyplugh qwertzuiop", "greatttt"]
    alone = np.concatenate([trained.classifier.predict_proba(text) for text in unknown])
    np.testing.assert_allclose(trained.classifier.predict_proba(unknown), alone, atol=1e-6)
    np.testing.assert_allclose(trained.classifier.predict_proba(unknown[::-1]), alone[::-1], atol=1e-6)
    assert len(np.unique(alone.round(7), axis=0)) == 4
    assert with_basic_english.config.text.subwords == 0
    same = with_basic_english.classifier.predict_proba(["xyzzyplugh", "qwertzuiop"])
    np.testing.assert_array_equal(same[0], same[1])


# -- loading ---------------------------------------------------------------------------------------


@pytest.fixture
def moved(trained: Trained, tmp_path: Path) -> Iterator[Path]:
    """A copy of the run in another place, with the training file and the cache out of reach."""
    shutil.copytree(trained.path, tmp_path / "copy")
    away = Path(trained.config.data.train)
    away.rename(away.with_suffix(".away"))
    yield tmp_path / "copy"
    away.with_suffix(".away").rename(away)


def test_a_run_can_be_moved_and_needs_no_data(
    trained: Trained, moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["great food", "awful", ""]
    expected_RC = trained.classifier.predict_proba(texts)
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(tmp_path / "no cache"))
    monkeypatch.chdir(tmp_path)
    for path in (moved, str(moved), "copy", Path("copy"), "./copy/"):
        assert np.array_equal(lstm_sentiment.load(path, device="cpu").predict_proba(texts), expected_RC)
    for name in ("last", "last.previous", "metrics.json", "log.jsonl", "data.json", "environment.json"):
        target = moved / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert np.array_equal(load("copy").predict_proba(texts), expected_RC)
    assert [entry.name for entry in (tmp_path / "no cache").iterdir()] == [
        "proofs"
    ]  # see checkpoints/self_test.py


def test_loading_changes_nothing(trained: Trained) -> None:
    before = {file: file.read_bytes() for file in trained.path.rglob("*") if file.is_file()}
    load(trained.path).predict(["great"])
    assert {file: file.read_bytes() for file in trained.path.rglob("*") if file.is_file()} == before


def test_a_loaded_model_is_in_evaluation_mode(trained: Trained) -> None:
    model = load(trained.path, device="cpu").model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_folder_without_a_run_is_an_error(trained: Trained, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, trained.path / "best", trained.path / "config.yaml"):
        with pytest.raises(RunError, match="not a run folder") as raised:
            load(path)
        assert str(path) in str(raised.value)


@pytest.mark.parametrize("file", ["vocabulary.json", "labels.json", "config.yaml", "best/model.safetensors"])
def test_a_modified_run_is_not_loaded(moved: Path, file: str) -> None:
    content = bytearray((moved / file).read_bytes())
    content[len(content) // 2] ^= 1
    (moved / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        load(moved)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_an_unavailable_device_is_an_error(trained: Trained, device: str) -> None:
    with pytest.raises(ConfigError):
        load(trained.path, device=device)


def test_all_errors_share_one_base(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(SentimentError):
        load(tmp_path)
    with pytest.raises(SentimentError):
        trained.classifier.predict([None])  # type: ignore[list-item]


# -- calibrated probabilities ----------------------------------------------------------------------


def test_probabilities_use_the_saved_temperature(trained: Trained) -> None:
    classifier, kept = trained.classifier, RunFolder(trained.path).load("best").facts["calibration"]
    assert classifier.calibration == Calibration(**kept)
    assert kept["temperature"] != 1
    text = "the service was okay and great"
    hot, cold = classifier.predict_proba(text)[0], uncalibrated(trained).predict_proba(text)[0]
    again = cold ** (1 / kept["temperature"])
    np.testing.assert_allclose(hot, again / again.sum(), atol=1e-6)
    assert not np.allclose(hot, cold, atol=1e-4)


def uncalibrated(trained: Trained) -> SentimentClassifier:
    classifier = load(trained.path, device="cpu")
    classifier.calibration = Calibration()
    return classifier


def test_an_unfinished_run_predicts_without_calibration(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    best = folder.load("best")
    facts = {name: value for name, value in best.facts.items() if name != "calibration"}
    folder.save("best", best.tensors, facts)
    classifier = load(tmp_path / "run", device="cpu")
    assert classifier.calibration == Calibration()
    with pytest.raises(ConfigError, match="no thresholds"):
        classifier.predict("great", coverage=0.9)


def test_label_sets_are_returned_on_request(trained: Trained) -> None:
    texts = [text for text, _ in make_rows(40, seed=5)] + [""]
    assert {p.label_set for p in trained.classifier.predict(texts)} == {None}
    for prediction in trained.classifier.predict(texts, coverage=0.9):
        assert prediction.label_set is not None
        assert prediction.label in prediction.label_set
        least = min(prediction.probabilities[label] for label in prediction.label_set)
        left_out = [p for label, p in prediction.probabilities.items() if label not in prediction.label_set]
        assert all(p < least for p in left_out)
        assert prediction.label_set == [label for label in LABELS if label in prediction.label_set]


def test_an_abstention_has_no_label_but_probabilities(trained: Trained) -> None:
    texts = ["great lovely superb", "the", ""]
    plain = trained.classifier.predict(texts)
    bound = sorted(p.score for p in plain)[1]
    for before, after in zip(plain, trained.classifier.predict(texts, abstain_below=bound), strict=True):
        assert after.label == (before.label if before.score >= bound else None)
        assert (after.score, after.probabilities) == (before.score, before.probabilities)


@pytest.mark.parametrize("bound", [-0.1, 1.1, math.nan])
def test_an_invalid_threshold_is_refused(trained: Trained, bound: float) -> None:
    with pytest.raises(ConfigError, match=r"^abstain_below: must lie between 0 and 1"):
        trained.classifier.predict("great", abstain_below=bound)


def test_details_list_unknown_and_truncated_tokens(trained: Trained) -> None:
    classifier = load(trained.path, device="cpu")
    most = classifier.config.text.max_tokens
    texts = ["great qwertz", "", "great " * (most + 3), "great"]
    found = [(p.unknown_share, p.cut_tokens) for p in classifier.predict(iter(texts), details=True)]
    assert found == [(0.5, 0), (0.0, 0), (0.0, 3), (0.0, 0)]
    plain = classifier.predict("great")[0]
    assert (plain.unknown_share, plain.cut_tokens) == (None, None)


def test_overflowing_logits_are_an_error(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: NaN probabilities and exit code 0."""
    classifier = load(trained_run, device="cpu")
    signs = torch.tensor([1.0, -1.0, 0.0]).unsqueeze(1)  # for any signs of the features
    classifier.model.head.weight.copy_(3e38 * signs.expand_as(classifier.model.head.weight))
    classifier.model.head.bias.fill_(3e38)
    reported = f"{trained_run}: non-finite predictions for 2 of 2 texts: "
    for answer in (classifier.predict, classifier.predict_proba):
        with pytest.raises(CheckpointError) as caught:
            answer(["great", "awful"])
        assert str(caught.value).startswith(reported)
    with pytest.raises(CheckpointError, match="non-finite predictions for 2 of 2 texts"):
        explain(classifier, "great", method="occlusion")
    with monkeypatch.context() as patch:  # the control
        patch.setattr("lstm_sentiment.evaluation.calibration.check_finite", lambda _: None)
        assert np.isnan(classifier.predict_proba(["great"])).any()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_as_before_an_import(enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an import that failed."""
    monkeypatch.setitem(lstm_sentiment.MODULES, "Prediction", "missing")
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        assert lstm_sentiment.load is load
        assert gc.isenabled() == enabled
        with pytest.raises(ModuleNotFoundError):
            _ = lstm_sentiment.Prediction
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
