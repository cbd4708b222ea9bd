"""What helps a run: other settings tried by the doctor, findings about training, the first loss."""

import dataclasses
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lstm_sentiment import doctor
from lstm_sentiment.adaptation.resolving import replaced, resolve, user_keys
from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.config.command_line import parse_config, read_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.diagnostics.advice import Advice, Trial, no_reference, with_results
from lstm_sentiment.diagnostics.alternatives import Alternative, alternatives, steps_of
from lstm_sentiment.diagnostics.causes import linear_generalises, run_findings
from lstm_sentiment.diagnostics.diagnose import diagnose_run
from lstm_sentiment.diagnostics.findings import NOTE, WARNING, Finding
from lstm_sentiment.diagnostics.short_trainings import (
    rows_in_time,
    stratified,
    try_alternatives,
    with_validation,
)
from lstm_sentiment.diagnostics.unused_settings import set_by_hand, unused_settings
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.evaluation.significance import compare
from lstm_sentiment.experiment.train import run
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.training.classification import Classification
from lstm_sentiment.training.losses import training_loss
from lstm_sentiment.training.progress import first_loss_line
from tests.conftest import TINY, make_rows, write_csv

Configure = Callable[..., Config]
UNBALANCED = [row for n, row in enumerate(make_rows(600)) if row[1] == "positive" or n % 6 == 0]


def corpus_of(config: Config) -> Corpus:
    return prepare(config.data, config.text, seed=config.seed, cache=cache_folder())


@pytest.fixture(scope="session")
def weak_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on unbalanced classes; it predicts one of them only."""
    folder = tmp_path_factory.mktemp("weak")
    data = write_csv(folder / "data.csv", UNBALANCED)
    argv = [f"--data.train={data}", f"--out={folder / 'run'}", *TINY, "--data.validation=0.3"]
    argv += ["--trainer.learning_rate=0.002", "--trainer.epochs=2", "--pretrained=null"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        run(parse_config(argv, program="test", description=""))
    torch.set_flush_denormal(False)
    return folder / "run"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- which alternatives there are ------------------------------------------------------------------


def options(config: Config, **known: Any) -> list[str]:
    return [found.option for found in alternatives(config, corpus_of(config), **known)]


def test_alternatives_depend_on_the_run(configure: Configure, tmp_path: Path) -> None:
    even = options(configure())
    assert "--trainer.class_weights balanced" not in even
    assert "--pretrained starter --adapt frozen" in even
    assert "--trainer.epochs 9" in even
    data = f"--data.train={write_csv(tmp_path / 'u.csv', UNBALANCED)}"
    assert "--trainer.class_weights balanced" in options(configure(data))
    for metric in ("accuracy", "loss"):  # classes count by their rows
        assert "--trainer.class_weights balanced" not in options(
            configure(data, f"--trainer.metric={metric}")
        )
    set_already = options(
        configure(data, "--trainer.class_weights=balanced", "--model.ngrams=64", "--trainer.epochs=150")
    )
    assert set_already == ["--pretrained starter --adapt frozen"]


def test_longer_texts_are_tried_where_many_are_truncated(configure: Configure) -> None:
    assert "--text.max_tokens 22" in options(configure("--text.max_tokens=6"))
    assert not any("max_tokens" in option for option in options(configure("--text.max_tokens=22")))


def test_a_falling_loss_asks_for_more_epochs(configure: Configure) -> None:
    config = configure("--trainer.epochs=30")
    assert steps_of(config, corpus_of(config)) == (12, 360)
    falling, flat = ([{"train_loss": 0.9}, {"train_loss": last}] for last in (0.8, 0.89))
    assert "--trainer.epochs 90" in options(config, epochs=falling)
    assert "--trainer.epochs 90" not in options(config, epochs=flat)


def test_the_starter_is_not_tried_on_another_language(configure: Configure, tmp_path: Path) -> None:
    rows = [(" ".join(word[::-1] + "ez" for word in text.split()), label) for text, label in make_rows(90)]
    config = configure(f"--data.train={write_csv(tmp_path / 'x.csv', rows)}")
    assert not any("starter" in option for option in options(config))


def test_settings_that_contradict_the_starter_are_left_out(configure: Configure) -> None:
    config = configure("--model.layers=2")
    corpus = corpus_of(config)
    [starter] = [of for of in alternatives(config, corpus) if "pretrained" in of.settings]
    assert {"model.layers", "model.hidden_size", "model.embedding_size"} <= set(starter.left_out)
    plan = starter.plan(config, corpus)
    assert plan.start is not None
    assert plan.config.adapt == "frozen"
    assert plan.config.data == config.data
    assert "without --model" in starter.advice


# -- trying them -----------------------------------------------------------------------------------


def test_what_helps_is_measured_and_said(weak_run: Path) -> None:
    before = files_of(weak_run)
    diagnosis = diagnose_run(weak_run, rows=True, minutes=2)
    assert files_of(weak_run) == before
    found = diagnosis.facts["alternatives"]
    gains = [trial["gain"] for trial in found["trials"]]
    assert gains == sorted(gains, reverse=True)
    metrics = RunFolder(weak_run).read(RunMetrics)
    assert found["rows"] == found["of"]
    assert found["score"] == pytest.approx(metrics.validation.macro_f1), (
        "the same training gives the same score"
    )
    helped = {trial["option"]: trial["helps"] for trial in found["trials"]}
    assert helped["--branch linear"]
    assert not helped["--trainer.learning_rate 0.006"], "it is still too low"
    for trial in found["trials"]:
        assert trial["low"] <= trial["gain"] <= trial["high"]
        assert trial["score"] - found["score"] == pytest.approx(trial["gain"])
    assert found["sentence"].startswith("what helps most: ")
    assert found["trials"][0]["option"] in found["sentence"]
    assert found["sentence"] == diagnosis.report()[-1]
    json.dumps(diagnosis.as_json(), allow_nan=False)
    assert diagnosis.cause is not None
    assert diagnosis.cause.key == "trainer.learning_rate", "the linear model shows that labels are not random"


def test_test_rows_are_never_read_and_all_settings_share_rows(
    weak_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(read_config(weak_run / "config.yaml"))
    corpus = corpus_of(config)
    seen: list[set[int]] = []
    batch = TextDataset.batch

    def watched(self: TextDataset, *rest: Any) -> Any:
        if self.store.name == corpus.train.store.name:  # the others are texts of the self-test
            seen[-1].update(self.rows[rest[0]].tolist())
        return batch(self, *rest)

    monkeypatch.setattr(TextDataset, "batch", watched)
    monkeypatch.setattr("lstm_sentiment.diagnostics.short_trainings._Trainings._rows", lambda *_: 80)
    trained: list[set[int]] = []
    for alternative in (
        Alternative(settings={"trainer.class_weights": "balanced"}, why=""),
        Alternative(settings={"text.max_tokens": 9}, why=""),
        Alternative(why=""),
    ):
        seen.append(set())
        advice = try_alternatives(config, corpus, [alternative], minutes=2)
        assert advice.left_out == {}
        assert 75 <= advice.rows <= 85
        trained.append(seen[-1])
    assert corpus.test is not None
    test, validation = (set(of.rows.tolist()) for of in (corpus.test, corpus.validation))
    assert all(validation <= rows and not rows & test for rows in trained)


def test_a_training_beyond_the_time_is_stopped_and_named(weak_run: Path) -> None:
    config = read_config(weak_run / "config.yaml")
    slow = Alternative(settings={"trainer.epochs": 5000}, why="")
    advice = try_alternatives(config, corpus_of(config), [slow, Alternative(why="")], minutes=0.06)
    assert advice.trials == []
    assert advice.left_out == {"--trainer.epochs 5000": "no time left", "--branch linear": "no time left"}
    assert "--minutes" in advice.sentence
    assert advice.score is not None


def test_other_rows_and_contradictions_are_not_compared(weak_run: Path) -> None:
    config = read_config(weak_run / "config.yaml")
    found = [
        Alternative(settings={"data.max_rows": 100}, why=""),
        Alternative(settings={"text.vectors": "glove.6B.50d", "pretrained": "starter"}, why=""),
    ]
    advice = try_alternatives(config, corpus_of(config), found, minutes=1)
    assert advice.trials == []
    assert "other rows" in advice.left_out["--data.max_rows 100"]
    assert len(advice.left_out) == 2


def test_frozen_runs_are_tried_on_rows_set_aside(configure: Configure, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "few.csv", make_rows(90, longest=9))
    config = configure("--pretrained=starter", "--adapt=frozen", "--data.validation=null")
    config = replaced(config, {"data.train": str(data)})
    config = replaced(config, {"model.ngrams": 64, "model.ngram_kind": "tfidf"})
    small = {"model.embedding_size", "model.hidden_size"}
    defaults = Config().model
    config = replaced(config, {key: getattr(defaults, key.partition(".")[2]) for key in small})
    plan = resolve(config, user_keys(config, ()), cache=cache_folder())
    assert plan.corpus is not None
    assert plan.corpus.cross_validated
    balanced = Alternative(settings={"trainer.class_weights": "balanced"}, why="")
    advice = try_alternatives(plan.config, plan.corpus, [balanced], minutes=2)
    assert advice.left_out == {}
    assert advice.validation_rows + advice.of == len(plan.corpus.train)
    assert advice.score is not None
    assert advice.score > 0.8
    assert advice.trials[0].gain == pytest.approx(0, abs=0.1), "the classes are equally frequent already"


def test_samples_keep_the_class_frequencies() -> None:
    labels_R = np.repeat([0, 1, 2], [900, 98, 2])
    places = stratified(labels_R, 100, seed=1)
    assert np.bincount(labels_R[places]).tolist() == [90, 10, 2]
    assert len(set(places.tolist())) == len(places)
    assert stratified(labels_R, 1000, seed=1).tolist() == list(range(1000))


def test_rows_set_aside_are_disjoint(configure: Configure) -> None:
    corpus = corpus_of(configure("--data.validation=null"))
    apart = with_validation(corpus)
    train, validation = (set(of.rows.tolist()) for of in (apart.train, apart.validation))
    assert not train & validation
    assert train | validation == set(corpus.train.rows.tolist())


def advice_of(*trials: tuple[float, float, float, float]) -> Advice:
    found = [
        Trial(
            alternative=Alternative(settings={"trainer.epochs": n}, why="few"),
            score=0.5, gain=gain, low=low, high=high, p=p, seconds=1.0,
        )
        for n, (gain, low, high, p) in enumerate(trials)
    ]  # fmt: skip
    return Advice(
        metric="macro_f1",
        score=0.4,
        seconds=1.0,
        rows=9,
        of=10,
        validation_rows=40,
        trials=found,
        left_out={},
    )


def test_gains_within_chance_are_not_recommended() -> None:
    assert advice_of((0.1, -0.1, 0.3, 0.3)).sentence == (
        "none of these settings helps beyond chance on the 40 validation rows"
    )
    assert advice_of((0.1, -0.1, 0.3, 0.3), (0.08, 0.02, 0.1, 0.01)).sentence == (
        "what helps most: train again with --trainer.epochs 1; +8.0 points of macro-F1 (95 %: +2.0 to +10.0)"
    )
    assert "beyond chance" in advice_of((-0.2, -0.3, -0.1, 0.001)).sentence
    assert "set already" in advice_of().sentence


def test_nothing_is_compared_with_a_reference_that_learned_nothing(
    weak_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On some of the rows the settings of the weak run predict one class; a linear model does not."""
    config = read_config(weak_run / "config.yaml")
    linear = [Alternative(why="")]

    def tried() -> Advice:
        return try_alternatives(config, corpus_of(config), linear, minutes=2)

    every = tried()
    assert (every.rows, every.no_reference) == (every.of, None), (
        "as many rows as the run: the run is like that"
    )
    assert every.best is not None
    monkeypatch.setattr("lstm_sentiment.diagnostics.short_trainings._Trainings._rows", lambda *_: 80)
    some = tried()
    assert some.best is None
    assert some.trials[0].gain > 0.2
    found = some.as_json()
    assert [found["trials"][0][name] for name in ("helps", "gain", "low", "high", "p")] == [
        False,
        *[None] * 4,
    ]
    assert some.sentence.startswith(
        f"nothing can be compared: on {some.rows} of {some.of} training rows, the run's own settings learned "
        "nothing in this time (macro-F1 "
    )
    assert some.sentence.endswith("give more time with --minutes")
    assert "+" not in "".join(some.lines())
    assert "+" in "".join(every.lines())


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "ordinal_error"])
@pytest.mark.parametrize(
    ("right", "every_row", "run_right", "said"),
    [
        (0, False, None, "learned nothing"),
        (0, True, None, None),
        (0, True, 40, "learned far less than the run"),
        (0, True, 0, None),
        (8, True, 40, "learned far less than the run"),
        (40, False, 40, None),
        (30, False, 40, None),
        (1, False, 1, "learned nothing"),
    ],
)
def test_a_reference_is_compared_with_one_class_and_the_run(
    metric: str, right: int, every_row: bool, run_right: int | None, said: str | None
) -> None:
    labels, truth_R = ["negative", "neutral", "positive"], np.repeat([0, 1, 2], [60, 40, 40])

    def predicted(rows: int) -> np.ndarray[Any, Any]:
        """Return class 1 where it is the best constant, except that some rows of the others are right."""
        found_R = np.full(140, 1 if metric == "ordinal_error" else 0)
        for label in set(range(3)) - {int(found_R[0])}:
            found_R[np.flatnonzero(truth_R == label)[:rows]] = label
        return found_R

    of_run = None
    if run_right is not None:
        of_run = compare(truth_R, truth_R, predicted(run_right), labels).scores[metric].second
    why = no_reference(truth_R, predicted(right), labels, metric=metric, every_row=every_row, of_run=of_run)
    assert (why is None) == (said is None)
    assert said is None or said in str(why)


def test_fewer_settings_are_tried_rather_than_fewer_rows() -> None:
    given: dict[str, Any] = {"seconds_per_row": 0.01, "validation_rows": 0, "most": 4000}
    epochs = [2.0] * 7
    of_all = rows_in_time(epochs, seconds=140, enough=0, **given)
    assert of_all == pytest.approx((140 - 2 * 7) / (0.01 * 7 * 2), abs=1)
    assert rows_in_time(epochs, seconds=140, enough=890, **given) == of_all
    of_fewer = rows_in_time(epochs, seconds=140, enough=1500, **given)
    assert of_fewer == rows_in_time(epochs[:4], seconds=140, enough=0, **given) >= 1500
    assert rows_in_time(epochs[:5], seconds=140, enough=0, **given) < 1500
    fewest = rows_in_time(epochs[:3], seconds=140, enough=0, **given)
    assert rows_in_time(epochs, seconds=140, enough=4000, **given) == fewest, "the run and two alternatives"
    assert rows_in_time(epochs, seconds=0, enough=4000, **given) == 500
    assert rows_in_time(epochs, seconds=1e6, enough=4000, **given) == 4000


def test_findings_say_that_their_setting_was_tried_without_a_gain() -> None:
    keys = ["trainer.epochs", "text.max_tokens", None]
    findings = [Finding(severity=WARNING, what="few", why="do more", key=key) for key in keys]
    useless, useful = (0.1, -0.1, 0.3, 0.3), (0.1, 0.05, 0.2, 0.01)
    tried = "do more; tried below, without a gain beyond chance"

    def reasons(advice: Advice) -> list[str]:
        return [finding.why for finding in with_results(findings, advice)]

    assert reasons(advice_of(useless)) == [tried, "do more", "do more"]
    assert reasons(advice_of(useless, useful)) == ["do more"] * 3
    nothing = dataclasses.replace(advice_of(useless), no_reference="it learned nothing")
    assert reasons(nothing) == ["do more"] * 3


# -- findings --------------------------------------------------------------------------------------


def test_findings_of_training(weak_run: Path, trained_run: Path) -> None:
    def found(folder: Path, **changed: Any) -> dict[str, str]:
        config = replaced(read_config(folder / "config.yaml"), changed)
        metrics = RunFolder(folder).read(RunMetrics)
        of = run_findings(config, corpus_of(config), metrics, [{"train_loss": 0.9}, {"train_loss": 0.5}])
        return {str(finding.key): f"{finding.severity}: {finding.what}" for finding in of}

    weak = found(weak_run, **{"trainer.metric": "accuracy"})
    assert weak["trainer.metric"].startswith(f"{WARNING}: epochs are selected by accuracy, and 7")
    assert "steps (" in weak["trainer.epochs"]
    assert weak["trainer.epochs"].startswith(WARNING)
    assert "trainer.class_weights" not in weak, "only one class is predicted, which is another finding"
    assert "trainer.metric" not in found(weak_run)
    assert "trainer.metric" not in found(trained_run, **{"trainer.metric": "accuracy"})


def test_a_neglected_class_is_a_finding(trained_run: Path) -> None:
    config = read_config(trained_run / "config.yaml")
    metrics = RunFolder(trained_run).read(RunMetrics)
    confusion = [[8, 0, 0], [6, 1, 1], [0, 0, 8]]
    hardly = dataclasses.replace(
        metrics, validation=dataclasses.replace(metrics.validation, confusion=confusion)
    )
    [finding] = [of for of in run_findings(config, corpus_of(config), hardly) if of.severity == WARNING]
    assert "class 'neutral' is only 1 times predicted; 8 of 24 rows have it" in finding.what


def test_few_steps_are_a_note_unless_the_loss_still_falls(configure: Configure) -> None:
    corpus = corpus_of(configure())
    [few] = run_findings(configure(), corpus)
    assert (few.severity, few.key) == (NOTE, "trainer.epochs")
    assert "36 steps (12 per epoch, 3 epochs)" in few.what
    assert "25 epochs" in few.why
    assert run_findings(configure("--trainer.epochs=25"), corpus) == []


def test_a_linear_model_that_generalises_rules_out_random_labels(weak_run: Path) -> None:
    metrics = RunFolder(weak_run).read(RunMetrics)
    assert linear_generalises(metrics)
    assert not linear_generalises(dataclasses.replace(metrics, baselines={}))
    majority = {"tfidf_logistic_regression": metrics.baselines["majority"]}
    assert not linear_generalises(dataclasses.replace(metrics, baselines=majority))


def test_settings_that_nobody_set_are_not_reported(configure: Configure) -> None:
    config = Config(data=configure().data, trainer=dataclasses.replace(Config().trainer, epochs=2))
    corpus = corpus_of(config)
    assert set_by_hand(config, corpus) == {"data.train", "trainer.epochs"}
    assert [of.key for of in unused_settings(config, corpus)] == []
    assert "trainer.ema" in {of.key for of in unused_settings(config, corpus, ["trainer.ema"])}


def test_settings_chosen_by_the_rows_are_not_reported(configure: Configure) -> None:
    config = Config(data=configure().data)
    for adapt in ("frozen", "finetune"):
        asked = dataclasses.replace(config, pretrained="starter", adapt=adapt)
        given = {"pretrained", "adapt", "data.train", "data.test"}
        plan = resolve(asked, frozenset(given), cache=cache_folder())
        assert plan.corpus is not None
        by_hand = set_by_hand(plan.config, plan.corpus)
        assert by_hand == {"data.train"} | ({"data.validation"} if adapt == "frozen" else set())


# -- the first loss --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [[], ["--trainer.label_smoothing=0"], ["--trainer.class_weights=balanced"]]
)
def test_the_first_loss_is_compared_with_that_of_a_uniform_prediction(
    configure: Configure, tmp_path: Path, settings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = write_csv(tmp_path / "u.csv", sorted(UNBALANCED, key=lambda row: row[1]))
    config = configure(f"--data.train={data}", "--trainer.epochs=1", *settings)
    corpus = corpus_of(config)
    loss = training_loss(config.trainer, corpus.train, 3)
    task = Classification(
        corpus.validation,
        corpus.labels,
        loss=loss,
        device=torch.device("cpu"),
        batch_size=9,
        processes=Processes(),
    )
    batch = corpus.train.batch(np.arange(16))
    rows_of_class = np.bincount(corpus.train.labels)
    weight_C = np.ones(3)
    if "balanced" in str(settings):
        weight_C = len(corpus.train) / (3 * rows_of_class)
    expected = math.log(3) * weight_C[corpus.train.labels[:16]].mean()
    assert task.uniform_loss(batch) == pytest.approx(expected, rel=1e-5)
    with caplog.at_level(logging.INFO, logger="lstm_sentiment"):
        run(config)
    [line] = [record.message for record in caplog.records if record.message.startswith("first loss")]
    assert line.endswith(": as expected")


@pytest.mark.parametrize(
    ("loss", "expected", "verdict"),
    [(9.0, 1.1, "unusual"), (math.nan, 1.1, "unusual"), (0.3, 1.1, "lower"), (2.3, 2.2, "as expected")],
)
def test_the_verdict_on_the_first_loss(loss: float, expected: float, verdict: str) -> None:
    assert verdict in first_loss_line(loss, 3, expected)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_tries_and_its_controls_do_not_look_like_failures(
    weak_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor.main([str(weak_run), "--rows", "--minutes", "0.0001", "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr()
    assert "not tried" in printed.out
    assert "--minutes" in printed.out
    for line in printed.err.splitlines():
        assert not line.startswith(("first loss", "epoch ", "every validation text")), line
    assert "as a control, with shuffled labels" in printed.err
    assert "near chance, as expected" in printed.out
    assert json.loads((tmp_path / "found.json").read_text())["alternatives"]["trials"] == []
    doctor.main([str(weak_run), "--rows", "--minutes", "0"])
    assert "not tried" not in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--minutes", "3"], ["x", "--minutes", "-1"], ["x", "--minutes", "nan"]])
def test_impossible_times_are_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match="minutes"):
        doctor.main(argv)


def test_rows_of_an_untrusted_run_are_not_read(weak_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lstm_sentiment.diagnostics.diagnose.try_alternatives", None)
    diagnosis = diagnose_run(weak_run, minutes=2)
    assert diagnosis.advice == []
    assert RunFolder(weak_run).has(BEST)
    assert any("--rows" in finding.what for finding in diagnosis.findings)
