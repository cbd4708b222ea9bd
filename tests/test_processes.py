"""Classifiers in other processes: forked after loading, or pickled."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from conftest import TINY, make_rows, write_csv

from lstm_sentiment import SentimentClassifier, load
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.deployment.exporter import export, load_runtime
from lstm_sentiment.experiment.train import run

TEXTS = ["great", "awful service", "", "so-so 😀", "never seen before", "x" * 2000] * 10
needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)

FORKS = """
import multiprocessing, os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # a process with threads is forked
import torch
import lstm_sentiment
from lstm_sentiment.system import devices
from lstm_sentiment.deployment.exporter import load_runtime
from pathlib import Path

folder, kind, threads, way = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
texts = ["great", "awful service", "so-so", "x " * 300] * 50
if kind == "runtime":
    answering = type(load_runtime(Path(folder)))(folder, threads=threads)
else:
    answering = lstm_sentiment.load(folder, device="cpu")
    torch.set_num_threads(threads)
devices._after_fork.computed &= way != "unhelped"
expected = answering.predict_proba(texts) if way != "loaded" else None

def ask(_):
    answers = answering.predict_proba(texts)
    return True if expected is None else bool(abs(answers - expected).max() < 1e-6)

if way == "pool":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(all(pool.map(ask, range(4))), flush=True)
else:
    pid = os.fork()
    if pid == 0:
        os.write(1, str(ask(0)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
os._exit(0)
"""


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("processes") / "onnx"
    export(load(trained_run, device="cpu"), trained_run, out)
    return out


def forked(folder: Path, kind: str, threads: int, way: str, *, patience_s: int = 60) -> str:
    """Return the result of the child, or None if it hung."""
    process = subprocess.Popen(
        [sys.executable, "-c", FORKS, str(folder), kind, str(threads), way],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said, errors = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return ""
    assert process.returncode == 0, errors
    return said.strip()


@needs_fork
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("way", ["loaded", "used", "pool"])
@pytest.mark.parametrize("kind", ["classifier", "runtime"])
def test_a_forked_child_predicts(
    trained_run: Path, exported: Path, kind: str, way: str, threads: int
) -> None:
    assert forked(exported if kind == "runtime" else trained_run, kind, threads, way) == "True"


@needs_fork
@pytest.mark.skipif(sys.platform != "linux", reason="the OpenMP of GCC")
def test_without_the_fork_handler_a_forked_child_hangs(trained_run: Path) -> None:
    """The control: it waits for the parent's threads, or crashes."""
    assert forked(trained_run, "classifier", 2, "unhelped", patience_s=15) == ""


TRAINS = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import lstm_sentiment, torch
from lstm_sentiment.experiment.train import run
from lstm_sentiment.config.command_line import parse_config
lstm_sentiment.load(sys.argv[1], device="cpu").predict(["a word"] * 500)
pid = os.fork()
if pid == 0:
    run(parse_config(sys.argv[2:], program="", description=""))
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@needs_fork
def test_a_forked_child_trains(trained_run: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", make_rows(240))
    argv = [f"--data.train={data}", f"--out={tmp_path / 'run'}", *TINY, "--trainer.threads=4"]
    argv += ["--trainer.epochs=1", "--baseline=false"]
    subprocess.run([sys.executable, "-c", TRAINS, str(trained_run), *argv], check=True, timeout=100)
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


def test_other_processes_predict_with_a_pickled_classifier(classifier: SentimentClassifier) -> None:
    expected_RC = classifier.predict_proba(TEXTS)
    tasks = (joblib.delayed(classifier.predict_proba)(TEXTS) for _ in range(2))
    for answers_RC in joblib.Parallel(n_jobs=2)(tasks):  # by loky and cloudpickle
        np.testing.assert_allclose(answers_RC, expected_RC, atol=1e-6)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        answers_RC = pool.submit(classifier.predict_proba, TEXTS).result(timeout=120)
    np.testing.assert_allclose(answers_RC, expected_RC, atol=1e-6)


SENT = """
import sys
from multiprocessing.reduction import ForkingPickler
import torch.multiprocessing  # teaches it how tensors are sent
from lstm_sentiment import SentimentClassifier, load
classifier = load(sys.argv[1], device="cpu")
if sys.argv[2] == "as it is":
    del SentimentClassifier.__reduce__
open(sys.argv[3], "wb").write(bytes(ForkingPickler.dumps(classifier)))
"""


@pytest.mark.parametrize("how", ["taken apart", "as it is"])
def test_a_classifier_outlives_the_process_that_sent_it(trained_run: Path, tmp_path: Path, how: str) -> None:
    """And the control: plain pickling shares tensors in memory that ends with the process."""
    sent = tmp_path / "sent"
    subprocess.run([sys.executable, "-c", SENT, str(trained_run), how, str(sent)], check=True, timeout=100)
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
