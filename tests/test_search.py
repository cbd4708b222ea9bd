"""Search of settings: the space, a study that survives kills and is shared, test rows, the results."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TINY, Killed, make_rows, write_csv
from forks import start_code

from lstm_sentiment import search as command
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.config.schema import flatten
from lstm_sentiment.errors import ConfigError, MissingExtraError, RunError, SentimentError, TrainingError
from lstm_sentiment.system.lock import held
from lstm_sentiment.tuning import study as study_module
from lstm_sentiment.tuning.results import BEST, BEST_YAML, RESULT, TABLE, best_yaml, finish
from lstm_sentiment.tuning.space import DEFAULT, Choice, Range, read_space
from lstm_sentiment.tuning.study import KEPT, TRIALS, Search, check, open_study, run_trials

optuna = pytest.importorskip("optuna", reason="the extra search is not installed")
TRAINED = {"runs": [{"test": {"macro_f1": score}} for score in (0.5, 0.6)], "best_run": "seed-0"}
SPACE = """
trainer:
  learning_rate: {low: 5e-3, high: 0.05, log: true}
model.dropout: [0.0, 0.2]
"""


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Search]:
    """A function that returns a search of tiny trainings."""
    data = write_csv(tmp_path / "data.csv", make_rows(120))
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)

    def make(trials: int = 4, *argv: str, out: str = "study", **others: Any) -> Search:
        settings = [f"--data.train={data}", *TINY, "--pretrained=null", "--trainer.epochs=2", *argv]
        settings = [word for word in settings if not word.startswith("--trainer.learning_rate")]
        return Search(argv=settings, space=read_space(space), out=tmp_path / out, trials=trials, **others)

    return make


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials without training: the score depends on the learning rate alone."""

    def run(config: Any, *, scalars: Any, **_: Any) -> Any:
        score = 1 - abs(config.trainer.learning_rate - 0.02)
        scalars.add(10, {"validation/macro_f1": score})
        return {"validation": {"macro_f1": score}}

    monkeypatch.setattr(study_module, "run", run)


def searched(search: Search) -> tuple[Any, list[str]]:
    """Run the trials of a search; return its study and what was said."""
    lines: list[str] = []
    check(search)
    study = open_study(search)
    run_trials(search, study, lines.append)
    return study, lines


def states_of(study: Any) -> list[str]:
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]


def test_a_space_has_lists_and_ranges(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE + "trainer.epochs: {low: 1, high: 4}\n")
    assert read_space(tmp_path / "space.yaml") == {
        "trainer.learning_rate": Range(low=0.005, high=0.05, log=True),
        "model.dropout": Choice(values=(0.0, 0.2)),
        "trainer.epochs": Range(low=1, high=4),
    }
    assert read_space(tmp_path / "space.yaml")["trainer.epochs"].is_whole  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer.epohcs: [1]", r"space.yaml:1.*trainer\.epohcs.*no such setting.*trainer\.epochs"),
        ("\nseed: [1, 2]", r"space.yaml:2.*seed.*is not searched over"),
        ("trainer.epochs: 3", r"must be a list of values, or a range.*not '3'"),
        ("trainer.epochs: {low: 3, high: 1}", "must be a list of values, or a range"),
        ("trainer.epochs: {low: 1, high: 2, lag: true}", "must be a list of values, or a range"),
        ("trainer.epochs: {low: one, high: 2}", "must be a list of values, or a range"),
        ("model.dropout: {low: 0, high: 0.5, log: true}", "begins above 0"),
        ("trainer.epochs: {low: 1, high: 4, step: 0.5}", "a step is above 0, and whole"),
        ("trainer.epochs: [[1]]", "values that are neither text"),
        ("[1, 2]", "names no setting"),
        ("", "names no setting"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_space_is_an_error_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "space.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_space(tmp_path / "space.yaml")
    assert re.search(message, str(error.value)), str(error.value)


def test_the_default_space_is_possible(tmp_path: Path) -> None:
    check(Search(argv=["--data.train=x.csv"], space=read_space(DEFAULT), out=tmp_path / "study", trials=1))


@pytest.mark.parametrize(
    ("settings", "space", "message"),
    [
        ([], "trainer.epochs: [0]", r"trainer\.epochs"),
        (["--trainer.epochs=2"], "trainer.epochs: [3]", "is searched over"),
        ([], "model.pooling: [median]", r"model\.pooling"),
    ],
)
def test_settings_are_checked_before_the_first_trial(
    tmp_path: Path, settings: list[str], space: str, message: str
) -> None:
    (tmp_path / "space.yaml").write_text(space)
    found = read_space(tmp_path / "space.yaml")
    with pytest.raises(ConfigError, match=message):
        check(Search(argv=settings, space=found, out=tmp_path / "study", trials=1))
    assert not (tmp_path / "study").exists()


def test_trials_have_values_of_the_space_and_keep_no_weights(made: Callable[..., Search]) -> None:
    study, lines = searched(made(3))
    trials = study.get_trials(deepcopy=False)
    assert len(trials) == 3
    assert trials[0].params == {}, "the settings as they are"
    for trial in trials[1:]:
        assert 0.005 <= trial.params["trainer.learning_rate"] <= 0.05
        assert trial.params["model.dropout"] in (0.0, 0.2)
        folder = made().out / TRIALS / f"{trial.number:04}"
        saved = yaml.safe_load((folder / "config.yaml").read_text())
        assert saved["trainer"]["learning_rate"] == trial.params["trainer.learning_rate"]
        assert {path.name for path in folder.iterdir()} <= KEPT
        metrics = json.loads((folder / "metrics.json").read_text())
        assert trial.value == metrics["validation"]["macro_f1"]
        assert metrics.get("test") is None, "no trial reads test rows"
        assert len(trial.intermediate_values) == 2
    assert len({trial.params["trainer.learning_rate"] for trial in trials[1:]}) == 2
    facts = json.loads((folder / "data.json").read_text())
    assert facts["splits"]["test"]["rows"] > 0, "they are set aside, so that no trial trains on them either"
    assert lines[0].startswith("trial 0: macro_f1 0.")
    assert "the settings as they are" in lines[0]


@pytest.mark.usefixtures("quick")
def test_the_same_seed_gives_the_same_trials(made: Callable[..., Search]) -> None:
    first, second = (searched(made(4, out=out))[0] for out in ("a", "b"))
    other = searched(made(2, "--seed=5", out="c"))[0]
    params = [[of.params for of in study.get_trials(deepcopy=False)] for study in (first, second, other)]
    assert params[0] == params[1]
    assert params[0][:2] != params[2]


@pytest.mark.usefixtures("quick")
def test_a_killed_study_goes_on(made: Callable[..., Search], monkeypatch: pytest.MonkeyPatch) -> None:
    search, real, calls = made(3), study_module.run, list[int]()

    def killed_in_the_second(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(study_module, "run", killed_in_the_second)
    with pytest.raises(Killed):
        searched(search)
    monkeypatch.setattr(study_module, "run", real)
    study, _ = searched(search)
    assert states_of(study).count("COMPLETE") == 3
    assert sum("defaults" in of.user_attrs for of in study.get_trials(deepcopy=False)) == 1
    assert searched(search)[1] == [], "it has as many trials as asked for"


def test_two_processes_share_a_study_from_beginning_to_end(
    made: Callable[..., Search], tmp_path: Path
) -> None:
    """Both are started at the same time with the same command; one of them does the last step."""
    search = made()
    argv = [*search.argv, f"--space={tmp_path / 'space.yaml'}", "--trials=6", f"--out={search.out}"]
    code = "from lstm_sentiment import search; from lstm_sentiment.tuning import results; "
    code += "results.write_plots = lambda *_: None; search.run_command(search.main)"
    jobs = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        jobs.append(start_code(code, *argv, "--seeds=2", folder=tmp_path / name))
    assert [job.wait(240) for job in jobs] == [0, 0], [job.stderr for job in jobs]
    study = open_study(search)
    trials = study.get_trials(deepcopy=False)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert 6 <= len(trials) <= 7, "the other one may have begun its last trial"
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert ["defaults" in trial.user_attrs for trial in trials].count(True) == 1
    rates = [trial.params["trainer.learning_rate"] for trial in trials if trial.params]
    assert len(set(rates)) == len(rates) == len(trials) - 1, "each process has random numbers of its own"
    reported = [re.findall(r"^trial (\d+): ", job.stdout, re.MULTILINE) for job in jobs]
    assert sorted(int(number) for of in reported for number in of) == [trial.number for trial in trials]
    assert all(reported), "both did some"
    assert any("written to" in job.stdout for job in jobs)
    result = json.loads((search.out / RESULT).read_text())
    assert len(result["best"]["scores"]) == 2
    waited = r"is still running in another process|another process trains the best|written to"
    assert all(re.search(waited, job.stdout) for job in jobs)


@pytest.mark.usefixtures("quick")
def test_a_process_that_is_late_leaves_the_last_step_to_the_other(
    made: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = made(2)
    monkeypatch.setattr("lstm_sentiment.tuning.results.write_plots", lambda *_: None)
    study, lines = searched(search)
    with held(search.out / BEST):
        assert finish(search, study, seeds=2, report=lines.append) is None
    assert lines[-1] == "another process trains the best settings with several seeds"
    monkeypatch.setattr(study_module, "PATIENCE_S", 0.1)
    with held(search.out), pytest.raises(RunError, match="is in use by process"):
        open_study(search)


@pytest.mark.usefixtures("quick")
def test_two_processes_share_a_study(made: Callable[..., Search]) -> None:
    """Two studies of one folder, as two processes open it: their trials are of one study, and differ."""
    search = made(3)
    check(search)
    first, second = open_study(search), open_study(search)
    one = Search(argv=search.argv, space=search.space, out=search.out, trials=2)
    run_trials(one, first, lambda _: None)
    run_trials(search, second, lambda _: None)
    rates = [of.params.get("trainer.learning_rate") for of in second.get_trials(deepcopy=False)]
    assert len(rates) == len(set(rates)) == 3
    assert first.get_trials(deepcopy=False)[0].number == 0
    assert sorted(path.name for path in (search.out / "workers").iterdir()) == ["0", "1"]


@pytest.mark.usefixtures("quick")
def test_the_time_is_a_limit(made: Callable[..., Search]) -> None:
    study, _ = searched(made(50, minutes=1e-6))
    assert states_of(study) == ["COMPLETE"]


def test_trials_below_the_median_are_stopped(
    made: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five trials with 0.9 one with 0.1 after its first epoch; and not the settings as they are."""
    scores = iter([[0.1, 0.9], *[[0.9, 0.9]] * 5, [0.1, 0.9], [0.95, 0.9]])

    def run(*_: Any, scalars: Any, **__: Any) -> Any:
        for step, score in enumerate(next(scores)):
            scalars.add(step, {"train/loss": 1.0})
            scalars.add(step, {"validation/macro_f1": score})
        return {"validation": {"macro_f1": score}}

    monkeypatch.setattr(study_module, "run", run)
    study, lines = searched(made(8))
    assert states_of(study) == ["COMPLETE"] * 6 + ["PRUNED", "COMPLETE"]
    assert lines[6].startswith("trial 6: stopped after epoch 1 (best 0.9000")


def test_a_trial_that_does_not_train_is_not_the_end(
    made: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any, **__: Any) -> Any:
        raise TrainingError("the loss is nan")

    monkeypatch.setattr(study_module, "run", run)
    study, lines = searched(made(2))
    assert states_of(study) == ["PRUNED", "PRUNED"]
    assert study.get_trials()[0].user_attrs["problem"] == "the loss is nan"
    assert lines[0].startswith("trial 0: not finite or out of memory")


def test_a_mistake_in_the_data_ends_the_search(made: Callable[..., Search], tmp_path: Path) -> None:
    with pytest.raises(SentimentError, match=r"nowhere\.csv"):
        searched(made(2, f"--data.train={tmp_path / 'nowhere.csv'}"))


@pytest.mark.usefixtures("quick")
def test_a_study_of_other_settings_is_refused(made: Callable[..., Search], tmp_path: Path) -> None:
    searched(made(1))
    with pytest.raises(RunError, match=r"with other settings \(trainer\.epochs\)"):
        searched(made(1, "--trainer.epochs=1"))
    (tmp_path / "space.yaml").write_text("model.dropout: [0.5]")
    with pytest.raises(RunError, match=r"with other space \(model\.dropout, trainer\.learning_rate\)"):
        searched(made(1))


def test_a_folder_of_something_else_is_refused(made: Callable[..., Search], tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "mine.txt").touch()
    with pytest.raises(RunError, match="exists and is not a study"):
        searched(made(1))
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["mine.txt"]


def test_the_start_is_that_of_the_settings_as_they_are(made: Callable[..., Search], tmp_path: Path) -> None:
    """Setting a learning rate would otherwise mean random weights."""
    own = made()
    assert study_module.start_of(own) == {}, "given"
    free = Search(argv=own.argv[:1], space=own.space, out=own.out, trials=1)
    assert study_module.start_of(free) == {"pretrained": "starter", "adapt": "finetune"}
    config, _ = free.config({"trainer.learning_rate": 0.01, **study_module.start_of(free)}, free.out)
    assert (config.pretrained, config.adapt, config.trainer.learning_rate) == ("starter", "finetune", 0.01)


def test_the_command_writes_all_results(
    made: Callable[..., Search], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = made()
    argv = [
        *search.argv,
        f"--space={tmp_path / 'space.yaml'}",
        "--trials=3",
        f"--out={search.out}",
        "--seeds=2",
    ]
    command.main(argv)
    said = capsys.readouterr().out
    with (search.out / TABLE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert {"number", "state", "value", "params_model.dropout"} <= rows[0].keys()
    plots = {path.name for path in (search.out / "plots").iterdir()}
    assert {"optimization_history.svg", "intermediate_values.svg", "slice.svg"} <= plots
    result = json.loads((search.out / RESULT).read_text())
    assert result["best"]["rows"] == "test"
    assert len(result["best"]["scores"]) == 2
    config = parse_config([f"--config={search.out / BEST_YAML}"], program="", description="")
    assert {config.trainer.learning_rate, config.model.dropout} >= set(result["values"].values()) - {None}
    assert ("difference" in result) == bool(result["values"])
    for run in ("seed-0", "seed-1"):
        assert (search.out / "best" / "runs" / run / "best" / "model.safetensors").is_file()
    again = (search.out / "best" / "runs" / "seeds.json").stat().st_mtime_ns
    command.main(argv)
    assert (search.out / "best" / "runs" / "seeds.json").stat().st_mtime_ns == again, "not trained again"
    assert (
        said.splitlines()[-1]
        == f"written to {search.out}: best.yaml, trials.csv, plots, result.json, best/runs"
    )


@pytest.mark.usefixtures("quick")
def test_the_commands_of_the_guide_run(
    made: Callable[..., Search], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With three trials, which do not train, and without the trainings of the last step."""
    guide = (Path(__file__).parent.parent / "docs" / "guides" / "searching.md").read_text("utf-8")
    space, shell = re.findall(r"^```(?:yaml|bash)\n(.*?)^```", guide, re.DOTALL | re.MULTILINE)[:2]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(space)
    (tmp_path / "my.yaml").write_text(f"data:\n  train: {tmp_path / 'data.csv'}\npretrained: null\n")
    made()  # writes the rows
    search, train = (line.split() for line in shell.splitlines()[1:])
    monkeypatch.setattr("lstm_sentiment.tuning.results.write_plots", lambda *_: None)
    monkeypatch.setattr("lstm_sentiment.tuning.results._trained", lambda *_: TRAINED)
    assert (search[:2], train[:2]) == (["lstm-sentiment", "search"], ["lstm-sentiment", "train"])
    command.main([word if word != "50" else "3" for word in search[2:]])
    result = json.loads((tmp_path / "studies" / "reviews" / RESULT).read_text())
    best = parse_config(train[2:], program="test", description="")
    assert best.data.train == str(tmp_path / "data.csv")
    flat = {key: value for key, value in flatten(best).items() if key in result["values"]}
    assert flat == result["values"]


def test_the_best_settings_are_a_file_for_train(made: Callable[..., Search], tmp_path: Path) -> None:
    search, values = made(), {"trainer.learning_rate": 0.0123, "model.dropout": 0.2}
    (tmp_path / "best.yaml").write_text(best_yaml(search, values))
    found = parse_config([f"--config={tmp_path / 'best.yaml'}", "--out=x"], program="", description="")
    expected, _ = search.config(values, Path("x"))
    changed = {"baseline": True, "overwrite": False}
    assert {**vars(found)} == {**vars(expected), **changed}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--out is missing"),
        (["--out=s", "--trials=0"], "--trials must be at least 1"),
        (["--out=s", "--minutes=0"], "--minutes must be above 0"),
        (["--out=s", "--seeds=1"], "seeds: must be at least 2"),
        (["--out=s", "--resume=true"], "resume: a search goes on by itself"),
        (["--out=s", "--space=nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--out=s", "--trainer.epohcs=3"], "Did you mean 'trainer.epochs'"),
    ],
)
def test_mistakes_end_with_code_2_and_write_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["search", *argv])
    with pytest.raises(SystemExit) as exit_code:
        run_command(command.main)
    assert exit_code.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(made: Callable[..., Search], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"needs optuna: pip install 'lstm_sentiment\[search\]'"):
        check(made())
