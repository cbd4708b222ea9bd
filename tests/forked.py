"""Work for processes that fork; each is a fresh process of the fork server (see `forks`)."""

from __future__ import annotations

import multiprocessing
import os
import sys
import warnings
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lstm_sentiment
from lstm_sentiment import SentimentClassifier
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.experiment.train import run
from lstm_sentiment.system import devices

TEXTS = ["great", "awful service", "so-so", "x " * 300] * 50
predicting: Any = None
expected: np.ndarray | None = None


def predict_in_child(folder: Path, kind: str, threads: int, way: str, result: Path) -> None:
    """Load or use a classifier, fork, and write whether the children's probabilities are as expected.

    Args:
        folder: of a run, or of an export.
        kind: classifier, or runtime: of an export.
        threads: that compute in this process.
        way: what is done before the fork: the model is only loaded; used; or used, with a pool of children;
            "unhelped" is used without the fork handler.
        result: file for True or False.
    """
    global predicting, expected  # for the pool's processes
    os.setsid()  # so that the child can be killed with this process
    warnings.simplefilter("ignore", DeprecationWarning)  # a process with threads is forked
    if kind == "runtime":
        from lstm_sentiment.deployment.exporter import load_runtime

        predicting = type(load_runtime(folder))(folder, threads=threads)
    else:
        predicting = lstm_sentiment.load(folder, device="cpu")
        torch.set_num_threads(threads)
    devices._after_fork.computed &= way != "unhelped"
    expected = predicting.predict_proba(TEXTS) if way != "loaded" else None
    if way == "pool":
        with multiprocessing.get_context("fork").Pool(2) as pool:
            result.write_text(str(all(pool.map(is_as_expected, range(4)))))
    else:
        pid = os.fork()
        if pid == 0:
            result.write_text(str(is_as_expected(0)))
            os._exit(0)
        os.waitpid(pid, 0)
    os._exit(0)


def is_as_expected(_: int) -> bool:
    """Predict in this process; compare with the parent's probabilities, if it predicted."""
    found = predicting.predict_proba(TEXTS)
    return expected is None or bool(abs(found - expected).max() < 1e-6)


def train_in_child(folder: Path, argv: list[str]) -> None:
    """Predict, fork, and train in the child; exit with its code."""
    warnings.simplefilter("ignore", DeprecationWarning)
    lstm_sentiment.load(folder, device="cpu").predict(["a word"] * 500)
    pid = os.fork()
    if pid == 0:
        run(parse_config(argv, program="", description=""))
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def send(folder: Path, how: str, file: Path) -> None:
    """Write a classifier as it is sent to another process; "as it is": pickled plainly."""
    import torch.multiprocessing  # noqa: F401  (teaches the pickler how tensors are sent)

    classifier = lstm_sentiment.load(folder, device="cpu")
    if how == "as it is":
        del SentimentClassifier.__reduce__
    file.write_bytes(bytes(ForkingPickler.dumps(classifier)))
