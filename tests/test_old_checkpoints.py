"""Backward compatibility: runs and exports of every old format give the same predictions.

`scripts/make_fixture.py` creates the fixture of a format, once.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_sentiment import __version__, load
from lstm_sentiment.checkpoints.manifest import FORMAT
from lstm_sentiment.checkpoints.run_folder import BEST, EXPORTED, RunFolder
from lstm_sentiment.deployment.runtime import Classifier
from lstm_sentiment.errors import CheckpointError

FIXTURES = Path(__file__).parent / "fixtures"
FORMATS = sorted(FIXTURES.glob("format-*"))


def answers_of(fixture: Path) -> tuple[list[str], Any]:
    answers = json.loads((fixture / "answers.json").read_text("utf-8"))
    return list(answers), np.array(list(answers.values()))


def test_every_format_has_a_small_fixture() -> None:
    assert [fixture.name for fixture in FORMATS] == [f"format-{n}" for n in range(1, FORMAT + 1)]
    for fixture in FORMATS:
        assert sum(file.stat().st_size for file in fixture.rglob("*") if file.is_file()) < 200_000


@pytest.mark.parametrize("fixture", FORMATS, ids=lambda fixture: fixture.name)
def test_an_old_run_gives_the_same_predictions(fixture: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts, expected_RC = answers_of(fixture)
    with caplog.at_level(logging.WARNING):
        classifier = load(fixture / "run")
    assert np.abs(classifier.predict_proba(texts) - expected_RC).max() < 1e-6
    assert expected_RC.std(axis=0).min() > 0.01, "answers that are all alike would prove nothing"
    assert classifier.predict("great", coverage=0.9)[0].label_set
    assert not caplog.records
    tensors = RunFolder(fixture / "run").load(BEST).tensors["model"]
    parts = ("embedding", "subwords", "forward_lstms.1", "backward_lstms.1", "attention", "head")
    assert all(any(name.startswith(f"lstm.{part}") for name in tensors) for part in parts)
    assert {"shares", "ngrams.bias"} <= set(tensors)


@pytest.mark.parametrize("fixture", FORMATS, ids=lambda fixture: fixture.name)
def test_an_old_export_gives_the_same_predictions(fixture: Path) -> None:
    pytest.importorskip("onnxruntime")
    texts, expected_RC = answers_of(fixture)
    assert np.abs(Classifier(fixture / EXPORTED, threads=1).predict_proba(texts) - expected_RC).max() < 1e-5


@pytest.mark.parametrize("version", [FORMAT + 1, 99])
def test_a_newer_format_is_refused_with_both_versions_and_a_fix(tmp_path: Path, version: int) -> None:
    run = tmp_path / "run"
    shutil.copytree(FORMATS[-1] / "run", run)
    for file, change in (("best/manifest.json", {"format": version}), ("environment.json", {})):
        facts = json.loads((run / file).read_text("utf-8"))
        change = change or {"lstm_sentiment": "9.8.7"}
        (run / file).write_text(json.dumps(facts | change) + "\n", "utf-8")
    with pytest.raises(CheckpointError) as caught:
        load(run)
    assert str(caught.value) == (
        f"{run}/best: was written by version '9.8.7' of lstm_sentiment in format '{version}'; "
        f"this is version {__version__}, which reads formats up to {FORMAT}: "
        "pip install --upgrade lstm_sentiment"
    )
    (run / "environment.json").unlink()
    with pytest.raises(CheckpointError, match=rf"best: was written in format '{version}'; this is version"):
        load(run)
