"""Classifiers in other processes: forked after loading, or pickled."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from conftest import TINY, make_rows, write_csv
from forked import predict_in_child, send, train_in_child
from forks import FORKS

from lstm_sentiment import SentimentClassifier, load
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.deployment.exporter import export, load_runtime
from lstm_sentiment.experiment.train import run

TEXTS = ["great", "awful service", "", "so-so 😀", "never seen before", "x" * 2000] * 10
needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("processes") / "onnx"
    export(load(trained_run, device="cpu"), trained_run, out)
    return out


def forked(folder: Path, kind: str, threads: int, way: str, place: Path, *, patience_s: int = 60) -> str:
    """Return the result of the child, or nothing if it hung."""
    result = place / "result"
    process = FORKS.Process(target=predict_in_child, args=(folder, kind, threads, way, result))
    process.start()
    process.join(patience_s)
    if process.exitcode is None:
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return ""
    assert process.exitcode == 0
    return result.read_text()


@needs_fork
@pytest.mark.parametrize(
    ("kind", "way", "threads"),
    [
        *itertools.product(["classifier", "runtime"], ["loaded", "used", "pool"], [2]),
        *[
            ("classifier", "used", 1),
            ("classifier", "pool", 5),
            ("runtime", "used", 5),
            ("runtime", "pool", 1),
        ],
    ],
)
def test_a_forked_child_predicts(
    trained_run: Path, exported: Path, tmp_path: Path, kind: str, way: str, threads: int
) -> None:
    folder = exported if kind == "runtime" else trained_run
    assert forked(folder, kind, threads, way, tmp_path) == "True"


@needs_fork
@pytest.mark.skipif(sys.platform != "linux", reason="the OpenMP of GCC")
def test_without_the_fork_handler_a_forked_child_hangs(trained_run: Path, tmp_path: Path) -> None:
    """The control: it waits for the parent's threads, or crashes before it has a result."""
    found = "crashed"
    with contextlib.suppress(FileNotFoundError):
        found = forked(trained_run, "classifier", 2, "unhelped", tmp_path, patience_s=8)
    assert found in ("", "crashed")


@needs_fork
def test_a_forked_child_trains(trained_run: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", make_rows(60))
    argv = [f"--data.train={data}", f"--out={tmp_path / 'run'}", *TINY, "--trainer.threads=2"]
    argv += ["--trainer.epochs=1", "--baseline=false"]
    process = FORKS.Process(target=train_in_child, args=(trained_run, argv))
    process.start()
    process.join(100)
    assert process.exitcode == 0
    assert load(tmp_path / "run").labels == ["negative", "neutral", "positive"]


@pytest.fixture(scope="module", params=["plain", "ngrams", "torchtext"])
def classifier(
    request: pytest.FixtureRequest, trained_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> SentimentClassifier:
    if request.param == "plain":
        return load(trained_run, device="cpu")
    folder = tmp_path_factory.mktemp(request.param)
    data = write_csv(folder / "data.csv", make_rows(120))
    argv = [
        f"--data.train={data}",
        f"--out={folder / 'run'}",
        *TINY,
        "--trainer.epochs=1",
        "--baseline=false",
    ]
    argv += ["--model.ngrams=64"] if request.param == "ngrams" else ["--text.tokenizer=basic_english"]
    run(parse_config(argv, program="test", description=""))
    return load(folder / "run", device="cpu")


def test_a_pickled_classifier_gives_the_same_predictions(classifier: SentimentClassifier) -> None:
    expected_RC = classifier.predict_logits(TEXTS)
    for again in (pickle.loads(pickle.dumps(classifier)), copy.deepcopy(classifier), copy.copy(classifier)):
        np.testing.assert_array_equal(again.predict_logits(TEXTS), expected_RC)
        assert again.predict(TEXTS, coverage=0.9) == classifier.predict(TEXTS, coverage=0.9)
        assert again.label_map == classifier.label_map
        assert (again.labels, again.config, again.run) == (
            classifier.labels,
            classifier.config,
            classifier.run,
        )
    assert pickle.loads(pickle.dumps(classifier)).model is not classifier.model
    assert copy.copy(classifier).model is classifier.model


def test_joblib_can_store_and_send_a_classifier(classifier: SentimentClassifier) -> None:
    expected_RC = classifier.predict_proba(TEXTS)
    file = io.BytesIO()
    joblib.dump(classifier, file)
    file.seek(0)
    np.testing.assert_array_equal(joblib.load(file).predict_proba(TEXTS), expected_RC)


@pytest.fixture(scope="module")
def spawned() -> Iterator[ProcessPoolExecutor]:
    """A process that was spawned."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_other_processes_predict_with_a_pickled_classifier(
    classifier: SentimentClassifier, spawned: ProcessPoolExecutor
) -> None:
    expected_RC = classifier.predict_proba(TEXTS)
    tasks = (joblib.delayed(classifier.predict_proba)(TEXTS) for _ in range(2))
    for answers_RC in joblib.Parallel(n_jobs=2)(tasks):  # by loky and cloudpickle
        np.testing.assert_allclose(answers_RC, expected_RC, atol=1e-6)
    answers_RC = spawned.submit(classifier.predict_proba, TEXTS).result(timeout=120)
    np.testing.assert_allclose(answers_RC, expected_RC, atol=1e-6)


@pytest.mark.parametrize("how", ["taken apart", "as it is"])
def test_a_classifier_outlives_the_process_that_sent_it(trained_run: Path, tmp_path: Path, how: str) -> None:
    """And the control: plain pickling shares tensors in memory that ends with the process."""
    sent = tmp_path / "sent"
    process = FORKS.Process(target=send, args=(trained_run, how, sent))
    process.start()
    process.join(100)
    assert process.exitcode == 0
    if how == "as it is":
        with pytest.raises((OSError, RuntimeError)):
            pickle.loads(sent.read_bytes())
    else:
        again = pickle.loads(sent.read_bytes())
        np.testing.assert_array_equal(
            again.predict_proba(TEXTS), load(trained_run, device="cpu").predict_proba(TEXTS)
        )


def test_a_classifier_from_an_unavailable_device_moves_to_auto(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier: Any = load(trained_run, device="cpu")
    classifier.device = "cuda:99"
    assert pickle.loads(pickle.dumps(classifier)).device.type in ("cpu", "cuda")


def test_an_exported_model_is_pickled_too(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(exported))
    import runtime  # type: ignore[import-not-found]

    answering = runtime.Classifier()
    expected_RC = answering.predict_proba(TEXTS)
    again = pickle.loads(pickle.dumps(answering))
    np.testing.assert_array_equal(again.predict_proba(TEXTS), expected_RC)
    assert load_runtime(exported).labels == again.labels
