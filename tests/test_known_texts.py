"""Texts that the starter was trained on are recognised by `train`, `evaluate`, `compare` and `predict`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import make_rows, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from lstm_sentiment import compare, evaluate, load, predict
from lstm_sentiment.adaptation.stacking import choose_blend
from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.checkpoints.run_paths import FOLDER
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.formats.readers import text_hash
from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.experiment.train import run
from lstm_sentiment.provenance.known_texts import FILE, KnownTexts
from lstm_sentiment.reporting.explanation_page import write_explanations
from lstm_sentiment.reporting.report import write_report
from lstm_sentiment.reporting.run_facts import facts_of
from lstm_sentiment.starter.packing import pack

KNOWN = make_rows(30, seed=9)  # texts that the starter of these tests was trained on
NEW = [(f"{text} {number}", label) for number, (text, label) in enumerate(make_rows(20, seed=10))]
REAL_TEXTS = 606_000  # of the package's starter, rounded down


def hashes(texts: list[str]) -> np.ndarray:
    return np.array([text_hash(text) for text in texts], np.uint64)


@pytest.fixture
def starter(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny starter that was trained on the texts of `KNOWN`; the working folder is another one."""
    folder = tmp_path / "package"
    pack(trained_run, folder)
    KnownTexts.of(hashes([text for text, _ in KNOWN])).write(folder)
    monkeypatch.setattr("lstm_sentiment.checkpoints.run_paths.FOLDER", folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


# -- the file -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**64 - 1)), st.lists(st.integers(0, 2**64 - 1)))
@settings(max_examples=40, deadline=None)
def test_exactly_the_first_half_of_a_hash_is_compared(trained: list[int], others: list[int]) -> None:
    wanted = {number >> 32 for number in trained}
    known = KnownTexts.of(np.array(trained, np.uint64))
    asked = [*trained, *others, *(number ^ (1 << 32) for number in trained)]
    assert known.knows(np.array(asked, np.uint64)).tolist() == [number >> 32 in wanted for number in asked]


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    drawn = random.integers(0, 2**64 - 1, 5_000, dtype=np.uint64)
    known = KnownTexts.of(np.append(drawn, np.array([0, 2**64 - 1], np.uint64)))
    known.write(tmp_path)
    found = KnownTexts.read(tmp_path)
    assert found is not None
    assert found.prefixes.dtype == np.uint32
    assert found.prefixes.tolist() == sorted({int(number) >> 32 for number in [*drawn, 0, 2**64 - 1]})
    assert KnownTexts.read(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("damage", ["truncated", "changed", "other tensors", "a link", "none"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / FILE
    KnownTexts.of(hashes(["so good", "so bad"])).write(tmp_path)
    tensors = load_file(tmp_path / FILE)
    if damage == "a link":
        file.symlink_to(tmp_path / FILE)
    elif damage == "truncated":
        file.write_bytes((tmp_path / FILE).read_bytes()[:-9])
    elif damage == "changed":
        save_file(tensors | {"low": tensors["low"] ^ np.array([1, 0], np.int16)}, file)
    elif damage == "other tensors":
        save_file({"weights": tensors["low"]}, file)
    else:
        save_file(tensors, file)
        assert KnownTexts.read(file.parent) is not None
        return
    with pytest.raises(CheckpointError, match=FILE):
        KnownTexts.read(file.parent)


def test_the_file_of_the_package_has_the_stated_texts_and_knows_no_made_up_ones() -> None:
    known = KnownTexts.read(FOLDER)
    assert known is not None
    assert REAL_TEXTS <= len(known.prefixes) < REAL_TEXTS + 1_000
    made_up = [f"quoll {number} under lamp {number * 7919}" for number in range(1_000)]
    assert known.knows(hashes(made_up)).sum() <= 3  # 0.14 by chance


# -- commands -------------------------------------------------------------------------------------


def test_evaluate_counts_the_rows_that_the_starter_knows_and_scores_the_others(
    starter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(Path("rows.csv"), KNOWN + NEW)
    write_csv(Path("new.csv"), NEW)
    evaluate.main(["starter", "rows.csv"])
    shown = capsys.readouterr()
    line = "the starter was trained on 30 of 50 texts; scores on these say little about new texts"
    assert line in shown.out + shown.err
    found = json.loads(Path("starter-evaluation.json").read_text("utf-8"))
    evaluate.main(["starter", "new.csv"])
    shown = capsys.readouterr()
    assert "was trained on" not in shown.out + shown.err
    alone = json.loads(Path("starter-evaluation.json").read_text("utf-8"))
    assert "trained_on" not in alone
    assert found["trained_on"] == {
        "exactly": 30, "nearly": 0, "others": {name: alone[name] for name in found["trained_on"]["others"]},
    }  # fmt: skip


def test_compare_and_predict_count_them(
    starter: Path, trained_run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_csv(Path("rows.csv"), KNOWN + NEW)
    line = "the starter was trained on 30 of 50 texts; scores on these"
    compare.main(["starter", str(trained_run), "rows.csv"])
    assert line in caplog.text + capsys.readouterr().err
    predict.main(["starter", "--file", "rows.csv", "--out", "labelled.csv"])
    assert line in capsys.readouterr().err


def test_plain_predictions_do_not_read_the_file(starter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (starter / FILE).write_bytes(b"damaged")
    load("starter").predict(["so good"])
    predict.main(["starter", "so good"])
    Path("texts.csv").write_text("text\nso good\n", encoding="utf-8")
    predict.main(["starter", "--file", "texts.csv", "--out", "labelled.csv"])
    write_csv(Path("rows.csv"), NEW)
    with pytest.raises(CheckpointError, match=FILE):
        predict.main(["starter", "--file", "rows.csv", "--out", "others.csv"])


def test_training_warns_of_rows_that_the_starter_knows(
    starter: Path, configure: Callable[..., Config], caplog: pytest.LogCaptureFixture, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = make_rows(150, seed=3)
    KnownTexts.of(hashes([text for text, _ in rows[:60]])).write(starter)
    file = write_csv(Path("train.csv"), rows)
    texts = [f"--data.train={file}", "--data.validation=0.2", "--data.test=0.2", "--pretrained=starter"]
    metrics = run(configure(*texts))
    known = {text for text, _ in rows[:60]}
    stored = sum(text in known for text in {text for text, _ in rows})
    counts = metrics["known_to_starter"]
    assert counts["test"] > 0
    assert sum(counts.values()) == stored
    lines = [record for record in caplog.records if "texts that the starter was trained on" in record.message]
    assert len(lines) == 1
    assert lines[0].levelname == "WARNING"
    assert f"{stored:,} of " in lines[0].message
    folder = RunFolder(tmp_path / "run")
    assert folder.read_json("data.json")["known_to_starter"] == counts
    load(folder.path).save_pretrained(tmp_path / "published")
    for page in (tmp_path / "published" / "README.md", write_report(folder.path)):
        assert "texts that the starter was trained on" in page.read_text("utf-8"), page
    score = facts_of(folder.path, load(folder.path).labels).score
    assert score is not None
    assert score.known == counts["test"]
    page = tmp_path / "page.html"
    write_explanations(page, [], facts_of(folder.path, load(folder.path).labels))
    assert f"trained on {counts['test']} of these texts" in page.read_text("utf-8")
    evaluate.main([str(folder.path), str(write_csv(Path("both.csv"), rows[:60] + NEW))])
    shown = capsys.readouterr()
    assert "this run, or the starter that it began with, was trained on" in shown.out + shown.err


def test_training_on_new_rows_does_not_warn(
    starter: Path, configure: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    metrics = run(configure("--pretrained=starter"))
    assert "known_to_starter" not in metrics
    assert "that the starter was trained on" not in caplog.text


# -- the start unchanged --------------------------------------------------------------------------


@pytest.mark.parametrize(("good", "behind"), [(True, True), (False, None)])
def test_a_start_that_is_clearly_ahead_of_the_kept_model_is_noted(good: bool, behind: bool | None) -> None:
    random, labels = np.random.default_rng(0), np.array([0, 1] * 60)
    noise_RC, other_RC = random.normal(size=(2, 120, 2))
    blend = choose_blend(
        noise_RC, other_RC, labels, names=["a", "b"], row_weights=np.ones(120), metric="accuracy",
        folds=[np.arange(0, 60), np.arange(60, 120)],
        start_RC=np.eye(2)[labels] if good else random.normal(size=(120, 2)),
    )  # fmt: skip
    assert blend.behind_start is behind
