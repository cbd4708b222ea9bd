"""Fuzz targets that need a model, and unguided fuzzing of all targets."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import math
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

import fuzzing
import torch
from fuzzing import (
    JSON_WORDS,
    RUN_FILES,
    RUN_WORDS,
    Target,
    chosen,
    inputs_of,
    refused_only_by,
    replaced,
    seeds_made_by,
)
from hypothesis import HealthCheck, given, settings

from lstm_sentiment import predict
from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.config.command_line import config_yaml, parse_config
from lstm_sentiment.data.formats.writers import to_json_line
from lstm_sentiment.deployment import runtime
from lstm_sentiment.deployment.onnx_graph import build_graph
from lstm_sentiment.errors import CheckpointError, ConfigError, RunError
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.text.tokenizers import Vocabulary

RUN_FACTS = {"step": 3, "calibration": {"temperature": 1.5, "thresholds": []}}


def answers(data: bytes, folder: Path) -> None:
    """Lines on stdin: a prediction for each, with the line and probabilities that sum to one."""
    (coverage, details), content = chosen(data, [(None, False), (None, True)])
    given, output = io.TextIOWrapper(io.BytesIO(content)), io.TextIOWrapper(io.BytesIO(), "utf-8")
    options = argparse.Namespace(coverage=coverage, abstain_below=0.0, details=details)
    stdin, sys.stdin = sys.stdin, given
    try:
        with contextlib.redirect_stdout(output):
            predict._predict_lines(untrained(), options)
    finally:
        sys.stdin = stdin
    output.seek(0)
    found = [json.loads(line) for line in output.read().split("\n")[:-1]]
    expected = io.StringIO(content.decode("utf-8", "replace"), newline=None).read().split("\n")
    assert [answer["text"] for answer in found] == (expected if expected[-1] else expected[:-1])
    for answer in found:
        assert math.isclose(sum(answer["probabilities"].values()), 1, abs_tol=1e-6)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)


@functools.cache
def untrained() -> SentimentClassifier:
    torch.manual_seed(0)
    argv = ["--model.embedding_size=8", "--model.hidden_size=8", "--text.subwords=50", "--text.max_tokens=30"]
    tiny = parse_config(argv, program="train", description="")
    vocabulary = Vocabulary(["good", "bad", "so", "é"])
    return SentimentClassifier(labels=["neg", "pos"], vocabulary=vocabulary, config=tiny, device="cpu")


def classifier(data: bytes, folder: Path) -> None:
    """A classifier with one file and its manifest replaced: it predicts, or is refused."""
    name, content = chosen(data, RUN_FILES)
    run = RunFolder(folder / "run")
    if not run.path.exists():
        of = untrained()
        words = of.vocabulary.tokens[len(SPECIAL_TOKENS) :]
        run.begin(config_yaml=config_yaml(of.config), vocabulary=words, labels=of.labels, label_map={})
        run.save(BEST, {"model": of.model.state_dict()}, RUN_FACTS)
        shutil.copytree(run.path, folder / "whole")
    with (
        replaced(run, folder / "whole", name, content),
        refused_only_by(CheckpointError, RunError, ConfigError, naming=str(run.path)),
    ):
        loaded = load(run.path, device="cpu")
        for answer in loaded.predict(["so good", ""], details=True):
            assert answer.label in loaded.labels
            assert math.isclose(sum(answer.probabilities.values()), 1, abs_tol=1e-6)
            to_json_line(answer.probabilities).encode()


def exported(data: bytes, folder: Path) -> None:
    """An export with another model.json: accepted, or refused with a documented error."""
    model = folder / runtime.MODEL
    if not model.exists():
        model.write_bytes(graph())
    (folder / runtime.FACTS).write_bytes(data[1:])
    with contextlib.suppress(OSError, ValueError):
        runtime.Classifier(folder, threads=1)


@functools.cache
def graph() -> bytes:
    built: bytes = build_graph(untrained().model, temperature=1.0).SerializeToString()
    return built


def model_facts() -> dict[str, Any]:
    """Return the model.json of `exported`."""
    names = ("lowercase", "normalize", "max_tokens", "truncate", "subwords")
    of_text = {name: getattr(untrained().config.text, name) for name in names}
    facts = {"format": runtime.FORMAT, "sha256": hashlib.sha256(graph()).hexdigest(), "text": of_text}
    return {**facts, "labels": ["neg", "pos"], "thresholds": [], "vocabulary": untrained().vocabulary.tokens}


ANSWER_SEEDS = [b"\0so good\nbad\r\n\n\xff\xc3\x1b[31m", "\1é\u2028x\r".encode()]
TARGETS = {
    **fuzzing.TARGETS,
    "answers": Target(
        check=answers,
        seeds=lambda: ANSWER_SEEDS,
        words=[b"\n", b"\r", b"\0", b"\xff"],
        count=25,
        guided=False,
    ),
    "classifier": Target(
        check=classifier,
        seeds=lambda: seeds_made_by(classifier, *(f"whole/{name}" for name in RUN_FILES)),
        words=RUN_WORDS,
        count=25,
        guided=False,
    ),
    "exported": Target(
        check=exported,
        seeds=lambda: [b"\0" + json.dumps(model_facts()).encode()],
        words=JSON_WORDS,
        count=25,
        guided=False,
    ),
}


def try_inputs(target: fuzzing.Target, count: int, folder: Path, *, same: bool) -> None:
    """Run a target on `count` inputs, seeded or not; the smallest failing one is in the notes."""
    every = list(HealthCheck)

    @settings(max_examples=count, deadline=None, database=None, derandomize=same, suppress_health_check=every)
    @given(inputs_of(target))
    def check(data: bytes) -> None:
        target.check(data, folder)

    check()


def unguided(count: int, folder: Path) -> dict[str, int]:
    """Run each target on `count` inputs, for `scripts/soak`.

    Returns:
        `inputs`; and `lost`: targets that failed on one, reported on stderr.
    """
    counts = {"inputs": 0, "lost": 0}
    for name, target in TARGETS.items():
        (folder / name).mkdir()
        try:
            try_inputs(target, count, folder / name, same=False)
        except Exception:  # any unexpected error
            traceback.print_exc()
            counts["lost"] += 1
        counts["inputs"] += count
    return counts
