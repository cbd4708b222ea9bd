"""Folders of `train --seeds` in every command: the best run is used, and `compare` takes all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_rows, write_csv

import lstm_sentiment
from lstm_sentiment import evaluate, explain, export, predict, report
from lstm_sentiment.adaptation.pretrained import load_pretrained
from lstm_sentiment.adaptation.start import load_start
from lstm_sentiment.checkpoints.run_paths import is_seeds, output_path, run_path, seed_paths
from lstm_sentiment.config.schema import Config
from lstm_sentiment.diagnostics.diagnose import diagnose_run
from lstm_sentiment.errors import CheckpointError, RunError


def write_summary(folder: Path, best: str, *, seeds: int = 2) -> None:
    """Write the seeds.json of a folder, with the paths of the machine that trained them."""
    runs = [{"out": f"elsewhere/seeds/seed-{seed}", "seed": seed} for seed in range(seeds)]
    summary = {"runs": runs, "metric": "macro_f1", "best_run": f"elsewhere/seeds/{best}"}
    (folder / "seeds.json").write_text(json.dumps(summary), encoding="utf-8")


@pytest.fixture
def seeds(trained_run: Path, tmp_path: Path) -> Path:
    """A folder with two runs; the second is the best."""
    folder = tmp_path / "seeds"
    for seed in (0, 1):
        shutil.copytree(trained_run, folder / f"seed-{seed}")
    write_summary(folder, "seed-1")
    return folder


def test_a_name_is_that_of_the_best_run(seeds: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert is_seeds(seeds)
    assert not is_seeds(seeds / "seed-1")
    assert run_path(seeds) == run_path(str(seeds)) == seeds / "seed-1"
    assert set(caplog.messages) == {
        f"{seeds}: several seeds; using seed-1, the run with the best validation macro_f1"
    }
    assert output_path(str(seeds), "onnx") == seeds / "seed-1" / "onnx"
    write_summary(seeds, "seed-0")
    assert run_path(seeds) == seeds / "seed-0"
    assert seed_paths(seeds) == [seeds / "seed-0", seeds / "seed-1"]


def test_every_command_takes_them(
    seeds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows, run = write_csv(tmp_path / "rows.csv", make_rows(30, seed=9)), str(seeds)
    predict.main([run, "a great room"])
    explain.main([run, "a great room", "--method=occlusion"])
    evaluate.main([run, str(rows)])
    export.main([run])
    report.main([run])
    assert diagnose_run(run).sound
    assert "positive" in capsys.readouterr().out
    first, second = ({path.name for path in (seeds / f"seed-{seed}").iterdir()} for seed in (0, 1))
    assert second - first == {"evaluation.json", "onnx", "report.html"}
    assert json.loads((seeds / "seed-1" / "evaluation.json").read_text())["rows"] == 30
    assert len([m for m in caplog.messages if "several seeds; using seed-1" in m]) == 6


def test_python_and_training_take_them(seeds: Path, tmp_path: Path) -> None:
    expected = lstm_sentiment.load(seeds / "seed-1").predict_proba(["a great room"])
    classifier = lstm_sentiment.SentimentClassifier.from_pretrained(seeds)
    np.testing.assert_array_equal(classifier.predict_proba(["a great room"]), expected)
    classifier.save_pretrained(tmp_path / "published")
    assert (tmp_path / "published" / "README.md").is_file()
    start = load_start(str(seeds))
    assert start is not None
    assert start.name == str(seeds / "seed-1")
    assert load_pretrained(Config(pretrained=str(seeds))) is None


def test_unfinished_seeds_say_how_to_go_on(seeds: Path) -> None:
    (seeds / "seeds.json").unlink()
    with pytest.raises(RunError, match=r"the last is not finished; .*train --resume true --out .*seeds, or"):
        lstm_sentiment.load(seeds)
    assert lstm_sentiment.load(seeds / "seed-0").labels


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "seeds.json: is not JSON"),
        ("[]", "seeds.json: does not list the runs"),
        ('{"runs": []}', "seeds.json: does not list the runs"),
        ('{"runs": [{"out": "seed-0"}]}', "seeds.json: does not name the runs of this version"),
        ('{"runs": [{"out": "seed-0"}], "best_run": "../../private"}', "does not name the runs"),
        ('{"runs": [{"out": "seed-0"}], "best_run": 7}', "does not name the runs"),
        ('{"runs": [{"out": "seed-0"}], "best_run": "seed-link"}', "does not name the runs"),
        ('{"runs": [{"out": "seed-0"}], "best_run": "seed-9"}', "points outside the run folder"),
    ],
)
def test_a_damaged_or_foreign_summary_is_named(
    seeds: Path, trained_run: Path, content: str, expected: str
) -> None:
    (seeds / "seed-9").symlink_to(trained_run)
    (seeds / "seeds.json").write_text(content)
    with pytest.raises(CheckpointError, match=expected.replace(".", r"\.")):
        lstm_sentiment.load(seeds)
