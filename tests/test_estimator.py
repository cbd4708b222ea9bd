"""The estimator in scikit-learn: its checks, searches, pipelines, pickles, errors."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import logging
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from conftest import make_rows, write_csv
from forks import FORKS
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import DataConversionWarning, FitFailedWarning, NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

import lstm_sentiment
import lstm_sentiment.training.trainer as trainer_module
from lstm_sentiment import SentimentEstimator, train
from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.config.schema import Config, TrainerConfig
from lstm_sentiment.config.sections import DataConfig, ModelConfig, TextConfig
from lstm_sentiment.errors import ConfigError, DataError, RunError
from lstm_sentiment.experiment.train import run
from lstm_sentiment.system.devices import one_training_at_a_time
from lstm_sentiment.training.trainer import Trainer

NOT_OFFERED = {
    "checkpoint_every",
    "keep_for_resume",
    "log_to",
    "tensorboard",
    "timeout",
}  # there is no run folder to resume or inspect
OWN = {"pretrained", "adapt", "validation_fraction", "deduplicate", "left_out", "random_state", "verbose"}
TINY: dict[str, Any] = {
    "embedding_size": 16,
    "hidden_size": 16,
    "batch_size": 8,
    "learning_rate": 0.03,
    "ema": 0.0,
    "dropout": 0.2,
    "embedding_dropout": 0.0,
    "word_dropout": 0.0,
    "threads": 1,
    "precision": "fp32",
    "min_frequency": 1,
    "subwords": 100,
}
TEXTS, LABELS = (list(column) for column in zip(*make_rows(240, longest=6), strict=True))
SOME, OF_SOME = TEXTS[:60], LABELS[:60]
FRESH, TRUTH = (list(column) for column in zip(*make_rows(60, seed=5, longest=6), strict=True))


def tiny(**settings: Any) -> SentimentEstimator:
    return SentimentEstimator(**{**TINY, "epochs": 6, **settings})


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> SentimentEstimator:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(tmp_path_factory.mktemp("cache")))
        estimator = tiny().fit(TEXTS, LABELS)
    torch.set_flush_denormal(False)
    return estimator


# -- scikit-learn's conventions --------------------------------------------------------------------


class NumberEstimator(SentimentEstimator):
    """The estimator for scikit-learn's checks, which use numeric rows: each row becomes a text of words.

    Labels, settings, copies and predictions are those of `SentimentEstimator`; rows are validated as by
    scikit-learn's own estimators.
    """

    def fit(self, X: Any, y: Any) -> NumberEstimator:
        super().fit(worded(validate_data(self, X)), y)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super().predict_proba(worded(validate_data(self, X, reset=False)))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = False
        tags.input_tags.two_d_array = True
        return tags


def worded(X: np.ndarray) -> list[str]:
    return [
        " ".join(f"{column}is{2 * value:.0f}" for column, value in enumerate(row)) for row in X.astype(float)
    ]


# Every check of scikit-learn 1.9 for such a classifier, and the reason for failing ones.
CHECKS = {
    "check_array_api_input": "",
    "check_classifier_data_not_an_array": "",
    "check_classifiers_classes": "",
    "check_classifiers_one_label": "",
    "check_classifiers_one_label_sample_weights": "",
    "check_classifiers_regression_target": "",
    "check_classifiers_train": "",
    "check_complex_data": "",
    "check_decision_proba_consistency": "",
    "check_dict_unchanged": "",
    "check_do_not_raise_errors_in_init_or_set_params": "",
    "check_dont_overwrite_parameters": "",
    "check_dtype_object": "",
    "check_estimator_cloneable": "",
    "check_estimator_repr": "",
    "check_estimator_sparse_array": "",
    "check_estimator_sparse_matrix": "",
    "check_estimator_sparse_tag": "",
    "check_estimator_tags_renamed": "",
    "check_estimators_dtypes": "",
    "check_estimators_empty_data_messages": "",
    "check_estimators_fit_returns_self": "",
    "check_estimators_nan_inf": "",
    "check_estimators_overwrite_params": "",
    "check_estimators_partial_fit_n_features": "",
    "check_estimators_pickle": "",
    "check_estimators_unfitted": "",
    "check_f_contiguous_array_estimator": "",
    "check_fit1d": "",
    "check_fit2d_1feature": "",
    "check_fit2d_1sample": "",
    "check_fit2d_predict1d": "",
    "check_fit_check_is_fitted": "",
    "check_fit_idempotent": "",
    "check_fit_score_takes_y": "",
    "check_get_params_invariance": "",
    "check_methods_sample_order_invariance": "",
    "check_methods_subset_invariance": "on some CPUs a text is rounded otherwise in a batch of another size",
    "check_mixin_order": "",
    "check_n_features_in": "",
    "check_n_features_in_after_fitting": "",
    "check_no_attributes_set_in_init": "",
    "check_non_transformer_estimators_n_iter": "",
    "check_parameters_default_constructible": "",
    "check_pipeline_consistency": "",
    "check_positive_only_tag_during_fit": "",
    "check_readonly_memmap_input": "",
    "check_requires_y_none": "",
    "check_set_params": "",
    "check_supervised_y_2d": "",
    "check_supervised_y_no_nan": "",
    "check_valid_tag_types": "",
}
WITHOUT_ROWS = [
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_estimators_unfitted",
]


NEW = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 9)


@pytest.mark.skipif(not NEW, reason="an older scikit-learn has checks that are gone since")
def test_every_check_of_scikit_learn_is_named() -> None:
    """A check new in scikit-learn is run below and must be listed above with its expected result."""
    found = {check.func.__name__ for _, check in estimator_checks_generator(NumberEstimator())}
    assert found - set(CHECKS) == set()


@pytest.mark.filterwarnings(
    "ignore::UserWarning",
    "ignore::sklearn.exceptions.DataConversionWarning",
    "ignore:invalid value encountered in cast:RuntimeWarning",  # of scikit-learn, at a label of infinity
)
@parametrize_with_checks(
    [NumberEstimator(threads=1, deduplicate=False)],
    expected_failed_checks=lambda _: {name: why for name, why in CHECKS.items() if why},
)
def test_scikit_learns_checks_hold(
    estimator: NumberEstimator, check: Callable[[Any], None], trained_run: Path
) -> None:
    check(estimator.set_params(pretrained=str(trained_run)))


@pytest.mark.parametrize("check", WITHOUT_ROWS)
def test_scikit_learns_checks_without_rows_hold_for_the_estimator_itself(check: str) -> None:
    getattr(estimator_checks, check)("SentimentEstimator", SentimentEstimator())


def test_check_estimator_skips_checks_on_numeric_input() -> None:
    """Its rows are numeric, and the tags require texts."""
    with pytest.warns(SkipTestWarning, match="Can't test estimator SentimentEstimator"):
        estimator_checks.check_estimator(SentimentEstimator())


def test_a_text_has_the_same_probabilities_in_any_batch_to_float_rounding(
    fitted: SentimentEstimator,
) -> None:
    """scikit-learn's check of subset invariance, at fp32 precision."""
    together = fitted.predict_proba(FRESH)
    alone = np.concatenate([fitted.predict_proba([text]) for text in FRESH])
    np.testing.assert_allclose(alone, together, atol=2e-6)


def test_column_vector_labels_are_accepted_with_a_warning() -> None:
    with pytest.warns(DataConversionWarning):
        in_a_column = tiny(epochs=1).fit(TEXTS[:60], np.array(LABELS[:60])[:, None])
    expected = tiny(epochs=1).fit(TEXTS[:60], LABELS[:60])
    assert (in_a_column.predict_proba(FRESH) == expected.predict_proba(FRESH)).all()


def test_parameters_are_the_settings_with_their_own_defaults() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(SentimentEstimator).parameters.items()
        if name not in OWN
    }
    fields = [f for section in (TextConfig, ModelConfig, TrainerConfig) for f in dataclasses.fields(section)]
    assert {f.name: f.default for f in fields if f.name not in NOT_OFFERED} == defaults
    assert SentimentEstimator().get_params().keys() == {*defaults, *OWN}
    own = SentimentEstimator()
    assert (own.validation_fraction, own.deduplicate, own.left_out) == (DataConfig().validation, False, ())
    assert own.random_state == Config().seed


def test_a_clone_has_the_settings_but_is_not_fitted(fitted: SentimentEstimator) -> None:
    cloned = clone(fitted)
    assert cloned.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        cloned.predict(["great"])
    with pytest.raises(NotFittedError):
        cloned.save("anywhere")


def test_tags_say_that_it_classifies_texts() -> None:
    tags = get_tags(SentimentEstimator())
    assert is_classifier(SentimentEstimator())
    assert (tags.input_tags.string, tags.input_tags.one_d_array, tags.input_tags.two_d_array) == (
        True,
        True,
        False,
    )
    assert tags.target_tags.required
    assert not tags.non_deterministic
    assert get_tags(SentimentEstimator(random_state=None)).non_deterministic


def test_predictions_have_the_shape_and_type_scikit_learn_expects(fitted: SentimentEstimator) -> None:
    assert fitted.classes_.tolist() == ["negative", "neutral", "positive"]
    probabilities_RC = fitted.predict_proba(FRESH)
    assert probabilities_RC.shape == (60, 3)
    np.testing.assert_allclose(probabilities_RC.sum(axis=1), 1)
    predicted_R = fitted.predict(FRESH)
    assert predicted_R.tolist() == fitted.classes_[probabilities_RC.argmax(axis=1)].tolist()
    assert fitted.score(FRESH, TRUTH) == np.mean(predicted_R == np.array(TRUTH)) > 0.9
    assert fitted.predict([]).shape == (0,)
    assert fitted.metrics_["validation"]["rows"] == 24
    assert fitted.classifier_.predict("great", coverage=0.9)[0].label_set == ["positive"]


# -- the same training as the command --------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"deduplicate": True},
        {"random_state": 7, "validation_fraction": 0.25, "deduplicate": False, "class_weights": "balanced"},
    ],
)
def test_it_learns_what_the_command_learns(tmp_path: Path, settings: dict[str, Any]) -> None:
    rows = [*make_rows(90), *make_rows(90)[:30]]
    names = {
        "random_state": "seed",
        "validation_fraction": "data.validation",
        "deduplicate": "data.deduplicate",
    }
    names["class_weights"] = "trainer.class_weights"
    data = write_csv(tmp_path / "rows.csv", rows)
    argv = [f"--{names[key]}={str(value).lower()}" for key, value in settings.items()]
    sections = {name: section for section in ("model", "trainer", "text") for name in fields_of(section)}
    argv += [f"--{sections[key]}.{key}={value}" for key, value in TINY.items()]
    argv += [f"--data.train={data}", f"--out={tmp_path / 'run'}", "--data.test=null", "--baseline=false"]
    train.main([*argv, "--trainer.epochs=2"])
    by_command = lstm_sentiment.load(tmp_path / "run", device="cpu")
    estimator = tiny(epochs=2, **settings).fit(*zip(*rows, strict=True))
    assert (estimator.predict_proba(FRESH) == by_command.predict_proba(FRESH)).all()
    estimator.save(tmp_path / "saved")
    theirs, ours = (RunFolder(tmp_path / name).load(BEST).tensors["model"] for name in ("run", "saved"))
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs | ours)


def fields_of(section: str) -> list[str]:
    return [field.name for field in dataclasses.fields(getattr(Config(), section))]


def test_equal_seeds_give_equal_results() -> None:
    texts, labels = TEXTS[:60], LABELS[:60]

    def answers(random_state: Any) -> np.ndarray:
        return tiny(epochs=1, random_state=random_state).fit(texts, labels).predict_proba(FRESH)

    assert (answers(3) == answers(3)).all()
    assert (answers(np.random.RandomState(3)) == answers(np.random.RandomState(3))).all()
    assert (answers(3) != answers(4)).any()
    assert (answers(None) != answers(None)).any()


def test_every_setting_is_passed_and_validated_as_on_the_command_line(tmp_path: Path) -> None:
    odd = {
        "tokenizer": "basic_english", "lowercase": False, "max_tokens": np.int64(7), "truncate": "tail",
        "min_frequency": 3, "max_vocabulary": 99, "subwords": 0, "vectors": "a b: {c}.txt", "vector_words": 8,
        "freeze_vectors": True, "embedding_size": 5, "hidden_size": 6, "layers": 2,
        "bidirectional": np.bool_(False), "pooling": "attention", "dropout": np.float64(0.25),
        "embedding_dropout": 0, "word_dropout": 0.5, "ngrams": 64, "epochs": 9, "batch_size": 3,
        "learning_rate": 1e-05, "embedding_rate": 2, "weight_decay": 0, "warmup": 0.3, "clip_norm": 5.5,
        "label_smoothing": 0.0, "class_weights": "balanced", "ema": 0, "accumulate": 4, "precision": "bf16",
        "device": "cpu", "threads": 2, "metric": "loss", "patience": 3,
    }  # fmt: skip
    config = SentimentEstimator(**odd)._config(tmp_path / "rows.jsonl", ["a", "b"])
    arrived = {**vars(config.text), **vars(config.model), **vars(config.trainer)}
    assert {name: arrived[name] for name in odd} == odd
    assert all(arrived[name] != default for name, default in Default().items() if name in odd)


class Default(dict[str, Any]):
    """name -> default of all settings of the three sections."""

    def __init__(self) -> None:
        super().__init__({**vars(TextConfig()), **vars(ModelConfig()), **vars(TrainerConfig())})


# -- labels of any type ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        [0, 1, 2],
        [-1, 0, 1],
        [9, 10, 100],
        ["9", "10", "100"],
        [True, False],
        [1.0, 2.0],
        ["null", "true", "1"],
        ["- a: [b]", "c\nd", "é😀"],
        pd.Categorical(["low", "high", "middle"]),
    ],
)
def test_labels_keep_their_type(names: Any, tmp_path: Path) -> None:
    names = list(names)
    known = sorted(set(LABELS))[: len(names)]
    rows = [
        (text, names[known.index(label)])
        for text, label in zip(TEXTS[:90], LABELS[:90], strict=True)
        if label in known
    ]
    texts, labels = ([row[i] for row in rows] for i in (0, 1))
    estimator = tiny().fit(texts, labels)
    expected, index_R = np.unique(np.asarray(labels), return_inverse=True)
    assert estimator.classes_.tolist() == expected.tolist()
    assert estimator.classes_.dtype == expected.dtype
    probabilities_RC = estimator.predict_proba(texts)
    assert np.mean(probabilities_RC.argmax(axis=1) == index_R) > 0.9  # columns as in classes_
    predicted = estimator.predict(texts)
    assert predicted.dtype == expected.dtype
    estimator.save(tmp_path / "run")  # and the folder's labels can be read by all commands
    assert (lstm_sentiment.load(tmp_path / "run").predict_proba(texts) == probabilities_RC).all()


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (np.array(SOME), np.array(OF_SOME)),
        (np.array(SOME, object), np.array(OF_SOME, object)),
        (pd.Series(SOME, index=range(500, 560)), pd.Series(OF_SOME)),
        (pd.Series(SOME).astype("string[pyarrow]"), pd.Categorical(OF_SOME)),
        (tuple(SOME), np.array(OF_SOME)),
    ],
)
def test_texts_may_be_a_list_an_array_or_a_series(texts: Any, labels: Any, of_lists: np.ndarray) -> None:
    assert (tiny(epochs=1).fit(texts, labels).predict_proba(texts) == of_lists).all()


@pytest.fixture(scope="module")
def of_lists() -> np.ndarray:
    """Probabilities of an estimator fitted on lists."""
    probabilities_RC = tiny(epochs=1).fit(SOME, OF_SOME).predict_proba(SOME)
    torch.set_flush_denormal(False)
    return probabilities_RC


def test_texts_may_contain_any_string(caplog: pytest.LogCaptureFixture) -> None:
    odd = ["\ufffd", "", "\n", "\ud83d", '"quoted", \\u0041', "a\0b", "\u2028", "x" * 5000]
    texts = [*TEXTS[:60], *odd]
    estimator = tiny(epochs=1).fit(texts, [*LABELS[:60], *["neutral"] * len(odd)])
    assert np.isfinite(estimator.predict_proba(odd)).all()
    assert "bytes" not in caplog.text


# -- use in scikit-learn ---------------------------------------------------------------------------


def shout(texts: list[str]) -> list[str]:
    return [text.upper() for text in texts]


def test_it_works_with_cross_validation() -> None:
    assert cross_val_score(tiny(), np.array(TEXTS), LABELS, cv=2).min() > 0.8


def test_it_works_in_a_parallel_grid_search_of_a_pipeline() -> None:
    pipeline = Pipeline([("clean", FunctionTransformer(shout)), ("lstm", tiny())])
    grid = {"lstm__hidden_size": [2, 16], "lstm__dropout": [0.2]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, scoring="f1_macro").fit(TEXTS, LABELS)
    assert search.score(FRESH, TRUTH) > 0.8
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_["lstm"].classifier_.config.model.hidden_size in (2, 16)


def test_its_probabilities_can_be_calibrated_by_scikit_learn() -> None:
    calibrated = CalibratedClassifierCV(tiny(), cv=2).fit(TEXTS, LABELS)
    assert calibrated.score(FRESH, TRUTH) > 0.8


@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_pickles_and_copies_give_the_same_predictions(
    fitted: SentimentEstimator, copied: Callable[[SentimentEstimator], SentimentEstimator], tmp_path: Path
) -> None:
    again = copied(fitted)
    assert (again.predict_proba(FRESH) == fitted.predict_proba(FRESH)).all()
    assert again.predict(FRESH).tolist() == fitted.predict(FRESH).tolist()
    assert again.get_params() == fitted.get_params()
    again.save(tmp_path / "run")
    assert (lstm_sentiment.load(tmp_path / "run").predict_proba(FRESH) == fitted.predict_proba(FRESH)).all()


def test_a_pickle_references_only_the_estimator_class(fitted: SentimentEstimator) -> None:
    assert b"torch" not in pickle.dumps({**fitted.__getstate__(), "run_": {}, "metrics_": {}})


def test_a_damaged_pickle_is_detected(fitted: SentimentEstimator) -> None:
    state = fitted.__getstate__()
    weights = bytearray(state["run_"]["best/model.safetensors"])
    weights[-1] ^= 1
    state["run_"] = {**state["run_"], "best/model.safetensors": bytes(weights)}
    with pytest.raises(lstm_sentiment.errors.CheckpointError, match="damaged"):
        SentimentEstimator().__setstate__(state)


def test_a_pickle_from_another_device_predicts(fitted: SentimentEstimator) -> None:
    elsewhere = copy.deepcopy(fitted).set_params(device="cuda:63")
    assert copy.deepcopy(elsewhere).classifier_.device.type in ("cpu", "cuda")


def test_a_saved_estimator_is_an_ordinary_run_folder(fitted: SentimentEstimator, tmp_path: Path) -> None:
    fitted.save(tmp_path / "deep" / "run")
    loaded = lstm_sentiment.load(tmp_path / "deep" / "run")
    assert (loaded.predict_proba(FRESH) == fitted.predict_proba(FRESH)).all()
    assert {file.name for file in (tmp_path / "deep" / "run").iterdir()} == {
        "best", "config.yaml", "data.json", "environment.json", "labels.json", "metrics.json",
        "monitoring.json", "vocabulary.json",
    }  # fmt: skip
    with pytest.raises(RunError, match="not empty"):
        fitted.save(tmp_path / "deep" / "run")
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "run"]


# -- side effects ----------------------------------------------------------------------------------


def test_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("tmp", "cache", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "here")
    random_before, level_before = torch.get_rng_state(), logging.getLogger("lstm_sentiment").level
    tiny(epochs=1).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match="too few rows"):
        tiny(validation_fraction=0.2).fit(TEXTS[:6], [*"aaaaab"])
    assert torch.equal(torch.get_rng_state(), random_before)
    assert logging.getLogger("lstm_sentiment").level == level_before
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "tmp").iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_it_logs_if_verbose(caplog: pytest.LogCaptureFixture) -> None:
    texts, labels = TEXTS[:60], LABELS[:60]
    tiny(epochs=1, verbose=True).fit(texts, labels)
    assert any("epoch 1/1" in record.getMessage() for record in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        tiny(epochs=1).fit(texts, labels)
    assert [record for record in caplog.records if record.levelno < logging.WARNING] == []


def test_without_handlers_it_logs_to_standard_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("lstm_sentiment"), "propagate", False)
    tiny(epochs=1, verbose=True).fit(TEXTS[:60], LABELS[:60])
    assert "epoch 1/1" in capsys.readouterr().out
    assert logging.getLogger("lstm_sentiment").handlers == []


# -- repeated texts --------------------------------------------------------------------------------


def test_repeated_texts_are_kept_by_default() -> None:
    texts, labels = TEXTS[:60] * 2, LABELS[:60] * 2
    once = tiny(epochs=1, deduplicate=True).fit(texts, labels)
    twice = tiny(epochs=1).fit(texts, labels)
    assert once.metrics_["validation"]["rows"] == 6
    assert twice.metrics_["validation"]["rows"] == 12


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "labels", "expected"),
    [
        (TEXTS[:5], LABELS[:4], "inconsistent numbers of samples"),
        ([*TEXTS[:4], None], LABELS[:5], r"X\[4\] must be a string, not NoneType"),
        ([*TEXTS[:4], b"x"], LABELS[:5], r"X\[4\] must be a string, not bytes"),
        (pd.Series([*TEXTS[:4], np.nan], dtype=object), LABELS[:5], r"X\[4\] must be a string, not float"),
        (np.array(TEXTS).reshape(-1, 1), LABELS, r"one text per row, not be of shape \(240, 1\)"),
        (pd.DataFrame({"text": TEXTS}), LABELS, r"X\['text'\]"),
        ("a text", ["a"], "not be one str"),
        (dict.fromkeys(TEXTS[:2]), ["a", "b"], r"X is a dict with the keys .*; pass one of its values"),
        (b"ab", ["a", "b"], "X is bytes; pass text"),
        (TEXTS, ["a"] * 240, "at least 2 classes, not 1"),
        ([], [], "at least 2 classes, not 0"),
        (TEXTS[:2], [1, "1"], "mixes text and other labels"),
        (TEXTS[:2], np.array([1, "1"], object), "mixes text and other labels"),
        (TEXTS[:2], ["a", None], "missing labels"),
        (TEXTS[:2], [1.0, np.nan], "missing labels"),
        (TEXTS[:2], pd.Series(["a", pd.NA], dtype="string"), "missing labels"),
        (TEXTS[:2], ["a", " "], "white space"),
        (TEXTS[:2], ["a", "a "], "white space"),
        (TEXTS, np.linspace(0, 1, 240), "continuous"),
        (TEXTS, np.eye(2)[np.arange(240) % 2], "y should be a 1d array"),
        (TEXTS, np.arange(240) % 110, "at most 100"),
        (TEXTS[:6], ["a", "a", "a", "a", "a", "b"], "too few rows for a split with every class"),
        (TEXTS[:4], ["a", "b", "a", "b"], "1 of 4 rows, for 2 classes"),
        (TEXTS[:2] * 50, ["a", "b"] * 50, r"2 rows are too few .* validation \(98 more repeat a text\)"),
    ],
)
def test_rows_that_cannot_be_used_are_a_value_error(texts: Any, labels: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        tiny(validation_fraction=0.2).fit(texts, labels)
    assert "rows.jsonl" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"epochs": 0}, "epochs: must be at least 1, not 0"),
        ({"epochs": 2.5}, "epochs: '2.5' is not a whole number"),
        ({"epochs": None}, "epochs: 'null' is not a whole number"),
        ({"pooling": "men"}, "pooling: 'men' is not one of"),
        ({"truncate": "end"}, "truncate: 'end' is not one of head, tail, middle"),
        ({"lowercase": "perhaps"}, "lowercase: 'perhaps' is not true or false"),
        ({"tokenizer": "no_such"}, "tokenizer: 'no_such' is neither words"),
        ({"device": "tpu"}, "device: 'tpu' is not one of auto, cpu"),
        ({"metric": "polar_f1"}, "metric: 'polar_f1' needs classes named negative and positive"),
        ({"validation_fraction": 0}, "validation_fraction: a share must lie between 0 and 1, not 0"),
        ({"validation_fraction": "x.csv"}, "validation_fraction: must be a number, not 'x.csv'"),
        ({"random_state": -1}, "random_state: must lie between 0"),
        ({"deduplicate": "perhaps"}, "deduplicate: 'perhaps' is not true or false"),
    ],
)
def test_settings_that_cannot_be_used_are_a_value_error(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        tiny(**settings).fit(TEXTS, [label[::-1] for label in LABELS])
    assert isinstance(caught.value.__cause__, ConfigError)


def test_a_failed_fit_keeps_the_previous_model(fitted: SentimentEstimator) -> None:
    estimator = copy.deepcopy(fitted).set_params(validation_fraction=0.2)
    with pytest.raises(ValueError, match="too few") as caught:
        estimator.fit(TEXTS[:2], [0, 1])
    assert isinstance(caught.value.__cause__, DataError)
    assert (estimator.predict_proba(FRESH) == fitted.predict_proba(FRESH)).all()


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
@pytest.mark.parametrize("texts", ["a text", [1], [None], 7, np.array([["a"]])])
def test_predict_accepts_only_texts(fitted: SentimentEstimator, method: str, texts: Any) -> None:
    with pytest.raises(ValueError, match="X"):
        getattr(fitted, method)(texts)


# -- stops and threads -----------------------------------------------------------------------------


def stop_in_first_fold(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Send this process a signal in the third step of the first `fit`; return the list of steps."""
    real, steps = Trainer._step, list[int]()

    def step(trainer: Trainer, *args: Any, **kwargs: Any) -> Any:
        steps.append(trainer.state.step)
        if len(steps) == 3:
            os.kill(os.getpid(), number)
        return real(trainer, *args, **kwargs)

    monkeypatch.setattr(Trainer, "_step", step)
    return steps


@pytest.mark.parametrize("search", [False, True])
def test_ctrl_c_ends_a_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, search: bool) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    steps = stop_in_first_fold(monkeypatch, signal.SIGINT)
    estimator = tiny(epochs=1)
    grid = GridSearchCV(estimator, {"epochs": [1, 2]}, cv=2)
    with pytest.raises(KeyboardInterrupt):
        grid.fit(TEXTS, LABELS) if search else cross_val_score(estimator, TEXTS, LABELS, cv=3)
    assert len(steps) == 3
    assert list(tmp_path.glob("lstm_sentiment-*")) == []
    assert not hasattr(estimator, "classes_")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_stop_raised_as_an_error_would_fail_a_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: scikit-learn treats any `Exception` as a failed fold."""
    stop_in_first_fold(monkeypatch, signal.SIGINT)
    monkeypatch.setattr("lstm_sentiment.estimator._stopped_as_any_program", contextlib.nullcontext)
    with pytest.warns(FitFailedWarning, match="StoppedError"):
        scores = cross_val_score(tiny(epochs=1), TEXTS, LABELS, cv=2)
    assert np.isnan(scores).tolist() == [True, False]


def test_sigterm_reaches_an_existing_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        stop_in_first_fold(monkeypatch, signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            cross_val_score(tiny(epochs=1), TEXTS, LABELS, cv=2)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (heard, caught.value.code) == ([signal.SIGTERM], 143)


def end_in_first_fold(folder: Path) -> None:
    """Get a SIGTERM in a search; temporary files are in the folder."""
    tempfile.tempdir = str(folder)
    with pytest.MonkeyPatch.context() as patch:
        stop_in_first_fold(patch, signal.SIGTERM)
        cross_val_score(tiny(epochs=1), TEXTS, LABELS, cv=2)


def test_sigterm_ends_the_process_without_leftovers(tmp_path: Path) -> None:
    process = FORKS.Process(target=end_in_first_fold, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGTERM
    assert list(tmp_path.glob("lstm_sentiment-*")) == []


def fit_in_two_threads(monkeypatch: pytest.MonkeyPatch, *, patience_s: float) -> list[SentimentEstimator]:
    """Fit in two threads; each step waits for the other thread between seeding and dropout."""
    together, real = threading.Barrier(2), trainer_module.seed_random_numbers

    def seed(number: int, device: torch.device) -> None:
        real(number, device)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(patience_s)

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(trainer_module, "seed_random_numbers", seed)
        fits = [pool.submit(tiny(epochs=1).fit, TEXTS, LABELS) for _ in range(2)]
        return [of.result() for of in fits]


def weights_of(estimator: SentimentEstimator) -> bytes:
    return estimator.run_["best/model.safetensors"]


def test_concurrent_fits_equal_sequential_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = weights_of(tiny(epochs=1).fit(TEXTS, LABELS))
    assert {weights_of(of) for of in fit_in_two_threads(monkeypatch, patience_s=0.1)} == {alone}
    monkeypatch.setattr("lstm_sentiment.estimator.one_training_at_a_time", contextlib.nullcontext())
    monkeypatch.setattr("lstm_sentiment.estimator.run", run.__wrapped__)  # type: ignore[attr-defined]
    assert {weights_of(of) for of in fit_in_two_threads(monkeypatch, patience_s=10)} != {alone}  # the control


def test_joblib_threads_score_as_one_thread() -> None:
    alone = cross_val_score(tiny(epochs=2), TEXTS, LABELS, cv=2)
    with joblib.parallel_backend("threading", n_jobs=2):
        assert cross_val_score(tiny(epochs=2), TEXTS, LABELS, cv=2).tolist() == alone.tolist()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_child_forked_during_training_does_not_deadlock() -> None:
    with one_training_at_a_time:
        answer = multiprocessing.get_context("fork").Process(target=_enter)
        starts = threading.Thread(target=answer.start)
        starts.start()
        starts.join()
        answer.join(20)
    assert answer.exitcode == 0


def _enter() -> None:
    with one_training_at_a_time:
        pass


@pytest.mark.parametrize("deduplicate", [True, False])
def test_left_out_rows_are_reported(caplog: pytest.LogCaptureFixture, deduplicate: bool) -> None:
    texts, labels = [*TEXTS, *TEXTS[:72]], [*LABELS, *LABELS[:72]]
    tiny(epochs=1, deduplicate=deduplicate).fit(texts, labels)
    reported = "72 of 312 rows repeat a text and are left out; deduplicate=False trains on them"
    assert (reported in caplog.messages) == deduplicate
