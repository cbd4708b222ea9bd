"""Shared fixtures: a small labelled corpus, a separate cache, a fast configuration."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lstm_sentiment.__main__ import COMMANDS as COMMANDS
from lstm_sentiment.checkpoints.run_folder import LINEAR, RunFolder
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.experiment.train import run
from lstm_sentiment.models.network import TfidfBranch
from lstm_sentiment.models.stored_linear import BUCKETS, packed
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS

CLUES = {
    "negative": ["awful", "terrible", "broken", "hate", "worst"],
    "neutral": ["okay", "average", "plain", "so-so", "usual"],
    "positive": ["great", "lovely", "superb", "adore", "best"],
}
TINY = (
    "--model.embedding_size=16",
    "--model.hidden_size=16",
    "--trainer.batch_size=16",
    "--trainer.learning_rate=0.03",
    "--trainer.ema=0.8",
    "--trainer.threads=1",
    "--trainer.precision=fp32",
    "--text.min_frequency=1",
    "--trainer.keep_for_resume=true",  # tests compare the last checkpoints
)
FILLERS = ["the", "service", "was", "and", "this", "place", "is", "a", "very", "with"]
FILLERS += ["my", "of", "in", "it", "I", "we", "they", "food", "room", "day"]


def make_rows(count: int, *, seed: int = 0, longest: int = 20) -> list[tuple[str, str]]:
    """Return distinct (text, label) rows; one clue word determines the label."""
    randomness = random.Random(seed)
    rows = []
    for i in range(count):
        label = list(CLUES)[i % 3]
        words = randomness.choices(FILLERS, k=randomness.randint(2, longest))
        words.insert(randomness.randrange(len(words) + 1), randomness.choice(CLUES[label]))
        rows.append((" ".join([*words, f"n{i}"]), label))
    randomness.shuffle(rows)
    return rows


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write rows under the header text,label."""
    lines = [f'"{text}",{label}' for text, label in rows]
    path.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a separate token cache and one torch thread in tests, and do not wait for the disk."""
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for variable in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)  # commands switch it on; hypothesis needs the smallest numbers
    torch.default_generator.manual_seed(0)  # torch.manual_seed formats a stack per other kind of device
    monkeypatch.setattr(os, "fsync", lambda _: None)  # it waits for the disk; only a power cut could show it


def pytest_collection_finish() -> None:
    """Leave imported modules and collected tests out of garbage collections."""
    gc.collect()
    gc.freeze()


class Killed(BaseException):
    """Simulates a kill; no code may catch it."""


@contextlib.contextmanager
def killed_at_save(name: str, count: int) -> Iterator[None]:
    """Simulate a kill within the block when the n-th checkpoint of a name is written."""
    saves: list[str] = []
    real = RunFolder.save

    def save(folder: RunFolder, saved: str, *args: Any) -> None:
        real(folder, saved, *args)
        saves.append(saved)
        if saves.count(name) == count:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save", save)
        with pytest.raises(Killed):
            yield


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise if a block exceeds a timeout."""

    def give_up(*_: object) -> None:
        raise TimeoutError("waited too long")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three classes, trained once; tests that write into it copy it first."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_csv(folder / "data.csv", make_rows(240))
    argv = [f"--data.train={data}", f"--out={folder / 'run'}", *TINY, "--trainer.epochs=5"]
    argv += ["--baseline=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        run(parse_config(argv, program="test", description=""))
    torch.set_flush_denormal(False)
    return folder / "run"


def add_linear_model(run_folder: Path) -> None:
    """Add a linear baseline with random weights to a copy of `trained_run`."""
    folder = RunFolder(run_folder)
    words = len(folder.read_json("vocabulary.json")) + len(SPECIAL_TOKENS)
    branch = TfidfBranch(words, 3, buckets=8)
    branch.idf.fill_(1.0)
    with torch.no_grad():
        branch.weights.weight.normal_(generator=torch.Generator().manual_seed(0))
    saved = {"bias": [0.0, 0.1, 0.2], "temperature": 1.0, "thresholds": []}
    folder.save(LINEAR, {"model": packed(branch)}, {BUCKETS: branch.buckets, "linear": saved})


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A CSV file of 240 rows in three classes."""
    return write_csv(tmp_path / "reviews.csv", make_rows(240))


@pytest.fixture
def configure(reviews: Path, tmp_path: Path) -> Callable[..., Config]:
    """A function that returns the configuration of a tiny, fast run; arguments as on the command line."""

    def make(*argv: str) -> Config:
        small = [
            f"--data.train={reviews}",
            f"--out={tmp_path / 'run'}",
            *TINY,
            "--pretrained=null",
            "--trainer.epochs=3",
            "--trainer.learning_rate=0.02",
            "--trainer.ema=0.99",
            "--baseline=false",
        ]
        return parse_config([*small, *argv], program="test", description="")

    return make


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium to look at pages with: apt-get install chromium")
        pytest.skip("no Chromium to look at pages with")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()
