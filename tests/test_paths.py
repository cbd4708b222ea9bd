"""All uses of a run on each training path: frozen LSTM, all layers, random weights, linear model alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, killed_at_save, make_rows, write_csv
from forks import start_job
from test_adaptation import MANY, TOPICS, config_of, skewed_rows, topic_rows
from test_distributed import NO_DROPOUT

import lstm_sentiment
from lstm_sentiment import compare, doctor, evaluate
from lstm_sentiment import train as train_command
from lstm_sentiment.checkpoints.run_folder import BEST, LAST, RunFolder
from lstm_sentiment.experiment.seeds import run_seeds
from lstm_sentiment.experiment.train import run
from lstm_sentiment.explanation.attribution import explain
from lstm_sentiment.reporting.report import write_report

STEPS = ("--trainer.epochs=2", "--trainer.batch_size=16", "--trainer.precision=fp32")
STEPS += NO_DROPOUT  # masks differ from process to process
RANDOM = (*TINY, *STEPS, "--pretrained=null", "--model.ngrams=500", "--model.ngram_kind=tfidf")
RUINED = (
    "--trainer.learning_rate=3.0",
    "--trainer.ema=0",
    "--data.validation=0.3",
)  # so fast nothing is learned


@dataclass(frozen=True, kw_only=True)
class Way:
    """A training path and its expected traces.

    Args:
        rows: to train on.
        flags: beside these.
        starts: from the run of conftest.
        adapt: as metrics.json says.
        kinds: of what may be kept.
        of_lstm: what the LSTM's share may be.
        rounding: how far probabilities of one process and of two may lie apart.
    """

    rows: list[tuple[str, str]]
    flags: tuple[str, ...] = ()
    starts: bool = True
    adapt: str = "frozen"
    kinds: tuple[str, ...] = ("both",)
    of_lstm: tuple[float, float] = (0.01, 2.0)
    rounding: float = 2e-3


WAYS = {
    "frozen": Way(rows=skewed_rows(400, seed=5)),
    "frozen, few rows": Way(rows=make_rows(40, seed=5), kinds=("head",)),
    "all layers": Way(rows=make_rows(120, seed=5), flags=STEPS, adapt="finetune"),
    "all layers, a rare class": Way(rows=skewed_rows(400, seed=5), flags=STEPS, adapt="finetune"),
    "random weights": Way(rows=make_rows(240, seed=5), flags=RANDOM, starts=False, adapt="auto"),
    "the linear model, few rows": Way(rows=topic_rows(80), kinds=("linear",), of_lstm=(0.0, 0.0)),
    "the linear model after steps": Way(
        rows=topic_rows(160, words=dict(list(MANY.items())[:8])),
        flags=(*STEPS, *RUINED),
        adapt="finetune",
        kinds=("both", "linear"),  # with hardly any share for an LSTM that knows nothing, or none
        of_lstm=(0.0, 0.2),
        rounding=0.05,  # at such a learning rate the last digits of one step decide those that follow
    ),
}

SEEDED = [
    "frozen",
    "all layers",
    "random weights",
    "the linear model, few rows",
]  # one for each kind of training


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A finished run of a path.

    Args:
        way: that it took.
        folder: of the run.
        data: file of its rows.
        metrics: what it came to.
        flags: of the command, all but --data.train and --out.
        train: trains the same again, into another folder.
    """

    way: Way
    folder: Path
    data: Path
    metrics: dict[str, Any]
    flags: list[str]
    train: Callable[..., dict[str, Any]]

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.way.rows[:30]]


@pytest.fixture(scope="module", params=list(WAYS))
def taken(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, trained_run: Path
) -> Taken:
    """A run of each path, trained once."""
    way, place = WAYS[request.param], tmp_path_factory.mktemp("way")
    data = write_csv(place / "rows.csv", way.rows)

    start = [f"--pretrained={trained_run}"] if way.starts else []
    flags = [*way.flags, *start, "--data.test=null"]

    def train(out: Path, *more: str) -> dict[str, Any]:
        config, given = config_of(data, out, *flags, *more)
        return run(config, given=given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(place / "cache"))
        metrics = train(place / "run")
    torch.set_flush_denormal(False)
    return Taken(way=way, folder=place / "run", data=data, metrics=metrics, flags=flags, train=train)


def weights_in(folder: Path) -> dict[str, bytes]:
    """Return the bytes of the weights of a run and of its last checkpoint."""
    return {
        f"{name}/{file.stem}": file.read_bytes()
        for name in (BEST, LAST)
        for file in sorted((folder / name).glob("*.safetensors"))
    }


def test_the_expected_training_path_is_taken(taken: Taken) -> None:
    kept = taken.metrics["kept"]
    assert kept["kind"] in taken.way.kinds
    assert kept["adapt"] == taken.way.adapt
    assert bool(kept["start"]) == taken.way.starts
    assert (taken.metrics["steps"] > 0) == (taken.way.adapt != "frozen")
    least, most = taken.way.of_lstm
    assert least <= taken.metrics["branches"]["lstm"]["share"] <= most


def test_rare_classes_get_a_bias_on_every_path(taken: Taken) -> None:
    """The default metric is macro-F1; with accuracy there is none (see test_class_bias)."""
    if taken.way.rows == WAYS["frozen"].rows:
        assert taken.metrics["kept"]["class_bias"] > 0


def test_the_kept_model_has_the_scores_it_was_chosen_by(taken: Taken) -> None:
    """The temperature of the calibration changes no decision."""
    if taken.metrics["steps"]:
        validation, kept = taken.metrics["validation"], taken.metrics["kept"]
        assert validation[taken.metrics["metric"]] == pytest.approx(kept["scores"]["kept"])


def test_a_stopped_run_ends_with_the_same_bytes(taken: Taken, tmp_path: Path) -> None:
    """Whether it resumes from a checkpoint or, without gradient steps, starts again."""
    often, steps = "--trainer.checkpoint_every=2", taken.way.adapt != "frozen"
    with killed_at_save(*(("last", 2) if steps else ("best", 1))):
        taken.train(tmp_path / "run", often)
    assert not (tmp_path / "run" / "metrics.json").exists()
    again = taken.train(tmp_path / "run", often, "--resume=true")
    assert weights_in(tmp_path / "run") == weights_in(taken.folder)
    for split in ("validation", "kept", "calibration"):
        assert again[split] == taken.metrics[split]


def test_a_finished_run_that_is_resumed_keeps_its_weights(taken: Taken, tmp_path: Path) -> None:
    shutil.copytree(taken.folder, tmp_path / "run")
    again = taken.train(tmp_path / "run", "--resume=true")
    assert weights_in(tmp_path / "run") == weights_in(taken.folder)
    assert again["validation"] == taken.metrics["validation"]


def test_two_processes_learn_what_one_learns(taken: Taken, tmp_path: Path) -> None:
    argv = [f"--data.train={taken.data}", f"--out={tmp_path / 'two'}", "--trainer.threads=1", *taken.flags]
    job = start_job(train_command.__file__, *argv, folder=tmp_path)
    assert job.wait(240) == 0, job.stderr
    one, two = (lstm_sentiment.load(folder, device="cpu") for folder in (taken.folder, tmp_path / "two"))
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert metrics["kept"]["kind"] in taken.way.kinds
    apart = np.abs(one.predict_proba(taken.texts) - two.predict_proba(taken.texts))
    assert apart.max() < taken.way.rounding


def test_an_export_gives_the_same_predictions(taken: Taken, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from lstm_sentiment.deployment.exporter import export

    facts = export(lstm_sentiment.load(taken.folder, device="cpu"), taken.folder, tmp_path / "onnx")
    assert facts["check"]["largest_difference"] < 1e-5


def test_attributions_add_up(taken: Taken) -> None:
    found = explain(lstm_sentiment.load(taken.folder, device="cpu"), taken.texts[0])
    explained_C = found.scores - found.baseline
    assert np.abs(found.attributions.sum(axis=0) - explained_C).max() < 0.02 * np.abs(explained_C).max()


def test_doctor_report_and_evaluation_take_it(taken: Taken, tmp_path: Path) -> None:
    doctor.main([str(taken.folder), f"--json={tmp_path / 'found.json'}"])
    assert json.loads((tmp_path / "found.json").read_text())
    page = write_report(taken.folder, device="cpu").read_text(encoding="utf-8")
    assert "What the start classifier contributed" in page or not taken.way.starts
    evaluate.main([str(taken.folder), str(taken.data), f"--out={tmp_path / 'scores.json'}"])
    assert json.loads((tmp_path / "scores.json").read_text())["rows"] == len(taken.way.rows)


def test_a_published_run_gives_the_same_predictions(taken: Taken, tmp_path: Path) -> None:
    classifier = lstm_sentiment.load(taken.folder, device="cpu")
    classifier.save_pretrained(tmp_path / "published")
    card = (tmp_path / "published" / "README.md").read_text(encoding="utf-8")
    crossed = taken.metrics["kept"]["cross_validated"]
    assert ("Probabilities are scaled on the cross-validated training rows" in card) == crossed
    assert ("Probabilities are scaled on the validation rows" in card) == (not crossed)
    assert ("trained on its training rows only" in card) == (not taken.way.starts)
    assert ("lists words of the training rows; the texts" in card) == (not taken.way.starts)
    assert ("run, which training started from, has read other texts" in card) == taken.way.starts
    assert str(taken.folder.parent) not in card
    copy = lstm_sentiment.SentimentClassifier.from_pretrained(str(tmp_path / "published"), device="cpu")
    assert (copy.predict_proba(taken.texts) == classifier.predict_proba(taken.texts)).all()


def test_it_has_its_own_self_test(taken: Taken) -> None:
    proof = RunFolder(taken.folder).load(BEST).facts["proof"]
    found = lstm_sentiment.load(taken.folder, device="cpu").predict_logits(proof["texts"])
    np.testing.assert_allclose(found, proof["logits"], atol=1e-5)


@pytest.mark.parametrize("taken", SEEDED, indirect=True)
def test_seeds_are_trained_resumed_and_compared(
    taken: Taken, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, given = config_of(taken.data, tmp_path / "seeds", *taken.flags, "--seeds=2")
    summary = run_seeds(config, given=given)
    first, second = (of["out"] for of in summary["runs"])
    assert weights_in(Path(first)) == weights_in(taken.folder)
    resumed, given = config_of(taken.data, tmp_path / "seeds", *taken.flags, "--seeds=2", "--resume=true")
    assert run_seeds(resumed, given=given) == summary
    compare.main([first, second, str(taken.data)])
    assert f"A: {first}" in capsys.readouterr().out
    compare.main([str(tmp_path / "seeds"), str(taken.folder), str(taken.data)])
    assert f"A: {tmp_path / 'seeds'} (2 seeds, averaged)" in capsys.readouterr().out


def test_topic_words_have_no_sentiment() -> None:
    """Otherwise the gate would not be tested in this module."""
    assert not {word for words in TOPICS.values() for word in words} & {"good", "bad", "great", "awful"}
