"""Data files of a run are read only if it was trained here or the user allows it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import GOOD_RUN, Place, names_secret_rows

from lstm_sentiment import report, train
from lstm_sentiment.checkpoints.trusted_runs import is_trusted
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.schema import Config
from lstm_sentiment.diagnostics.diagnose import diagnose_run
from lstm_sentiment.errors import RunError
from lstm_sentiment.experiment.launching import resumed
from lstm_sentiment.experiment.train import run
from lstm_sentiment.pretraining.config import PretrainConfig
from lstm_sentiment.reporting.report import write_report

Configure = Callable[..., Config]


@pytest.fixture
def untrusted_run(tmp_path: Path) -> Path:
    """An untrusted run that names a local file."""
    place = Place(Path(shutil.copytree(GOOD_RUN, tmp_path / "theirs")), tmp_path, tmp_path / "canary")
    names_secret_rows("train")(place)
    return place.run


def test_an_untrusted_run_cannot_read_local_rows(
    untrusted_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the control: with permission they are read."""
    page = write_report(untrusted_run, device="cpu").read_text("utf-8")
    assert "secret.csv: is named by a run that was not trained here" in page
    assert "hunter2" not in page + caplog.text
    assert str(untrusted_run.parent) not in page
    caplog.clear()
    report.main([str(untrusted_run), "--rows"])
    assert "the rows, labels or vocabulary are no longer those of the run" in caplog.text, "they were read"


def test_errors_in_local_rows_are_not_quoted_for_an_untrusted_run(untrusted_run: Path) -> None:
    (untrusted_run.parent / "secret.csv").write_text("text,label\nhunter2\n")
    assert "hunter2" not in write_report(untrusted_run, device="cpu").read_text("utf-8")
    assert "hunter2" not in "\n".join(diagnose_run(untrusted_run).report())
    assert "hunter2" in write_report(untrusted_run, rows=True, device="cpu").read_text("utf-8"), "the control"


def test_resuming_reads_what_the_command_names(untrusted_run: Path) -> None:
    secret = untrusted_run.parent / "secret.csv"
    argv = [f"--out={untrusted_run}", "--resume=true"]
    with pytest.raises(RunError, match=r"not trained here.* names '.*secret\.csv'; add --config "):
        train.main(argv)
    saved = ["--config", str(untrusted_run / "config.yaml")]
    assert resumed([*argv, f"--data.train={secret}"]) == [*saved, *argv, f"--data.train={secret}"]
    assert resumed([*argv, *saved]) == [*saved, *argv, *saved]
    with pytest.raises(RunError, match="not trained here"):
        resumed([*argv, "--data.train=other.csv"])


def test_an_untrusted_language_model_cannot_read_local_files(tmp_path: Path) -> None:
    theirs = PretrainConfig()
    text = config_yaml(theirs).replace("train: ", "train: secret.csv #", 1)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RunError, match=r"names 'secret\.csv'"):
        resumed([f"--out={tmp_path}", "--resume=true"], PretrainConfig)


def test_a_run_trained_here_is_trusted_even_if_moved(configure: Configure, tmp_path: Path) -> None:
    config = configure("--trainer.epochs=1")
    run(config)
    moved = Path(shutil.move(config.out, tmp_path / "moved"))
    assert is_trusted(moved)
    assert "not trained here" not in write_report(moved, device="cpu").read_text("utf-8")
    assert resumed([f"--out={moved}", "--resume=true"])[0] == "--config"
    with (moved / "config.yaml").open("a") as file:
        file.write("# changed\n")
    assert not is_trusted(moved)


def test_without_a_cache_no_run_is_trusted_and_nothing_fails(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("--trainer.epochs=1")
    run(config, cache=tmp_path / "own")
    assert not is_trusted(Path(config.out))
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", "/dev/null/nowhere")
    assert not is_trusted(Path(config.out))
