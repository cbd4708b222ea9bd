"""scripts/reproduce: training rows, the log, and the page."""

from __future__ import annotations

import dataclasses
import doctest
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import TINY, make_rows

from lstm_sentiment.config.sections import DataConfig
from lstm_sentiment.errors import ConfigError, DataError, RunError, SentimentError

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))  # scripts are not a package

import experiments  # noqa: E402
import reproduce  # noqa: E402
import result_log  # noqa: E402
import results_page  # noqa: E402

AUTHORS = ["Ann Lee", "Bo", "Cy"]
TABLE = """
benchmarks:
  given: {title: Own test file, config: CONFIG, train: DATA/a/train.parquet, test: DATA/a/test.parquet,
    metric: accuracy, anchors: [{score: 0.5, what: guess, source: a coin}]}
  drawn: {title: Share, config: CONFIG, train: DATA/all.parquet, split: {share: 0.2}, metric: macro_f1}
  authors: {title: Authors, config: CONFIG, train: DATA/all.parquet, split: {column: author},
    metric: accuracy, settings: {trainer.epochs: 1}}
  taught: {title: Taught, config: CONFIG, train: DATA/a/train.parquet, test: DATA/a/test.parquet,
    metric: accuracy, settings: {model.ngrams: 100, teacher: {model.hidden_size: 8}, trainer.epochs: 1,
    data.unlabelled: "[DATA/all.parquet]", data.exclude: DATA/a/test.parquet}}
  begun: {title: Begun, config: CONFIG, train: DATA/a/train.parquet, test: DATA/a/test.parquet,
    metric: accuracy, settings: {trainer.epochs: 1, text.subwords: 0, pretrained: {text.subwords: 0,
    data.train: DATA/all.parquet, model.embedding_size: 16, model.hidden_size: 16, model.samples: 0,
    trainer.epochs: 1}}}
ablations:
  benchmarks: [given]
  levers:
    one-direction: {lever: both directions, without: {model.bidirectional: false}}
    two-layers: {lever: a second layer, with: {model.layers: 2}}
curves:
  - {title: Rows, benchmark: given, against: rows, lines: {LSTM: {few: {data.max_rows: 60}, all: {}},
    larger: {large: {model.hidden_size: 24}}}}
files: {all.parquet: everything}
"""


def rows_of(count: int, seed: int) -> pd.DataFrame:
    rows = pd.DataFrame(make_rows(count, seed=seed), columns=["text", "label"])
    return rows.assign(author=[AUTHORS[i % 3] for i in range(count)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Data, a table and a configuration of small experiments."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    rows_of(180, 0).to_parquet(tmp_path / "data" / "a" / "train.parquet")
    rows_of(60, 1).to_parquet(tmp_path / "data" / "a" / "test.parquet")
    rows_of(180, 2).to_parquet(tmp_path / "data" / "all.parquet")
    tiny = (option.removeprefix("--").replace("=", ": ") for option in TINY)
    sections: dict[str, list[str]] = {}
    for line in tiny:
        section, _, key = line.partition(".")
        sections.setdefault(section, []).append(f"  {key}")
    text = "".join(f"{name}:\n" + "\n".join(lines) + "\n" for name, lines in sections.items())
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    table = TABLE.replace("CONFIG", str(tmp_path / "tiny.yaml"))
    (tmp_path / "table.yaml").write_text(table, encoding="utf-8")
    return tmp_path


Call = tuple[str, list[str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Call]]:
    """Record commands and run them in this process, to save imports."""
    from lstm_sentiment import evaluate, pretrain
    from lstm_sentiment.config.command_line import parse_config
    from lstm_sentiment.experiment.train import run

    made: list[Call] = []

    def call(module: str, arguments: list[str], *, log: Path, launch: str, threads: int) -> None:
        made.append((module, arguments))
        if module in ("evaluate", "pretrain"):
            {"evaluate": evaluate, "pretrain": pretrain}[module].main(arguments)
        else:
            run(parse_config(arguments, program="train", description=""))

    monkeypatch.setattr(reproduce, "call", call)
    return made


@pytest.fixture
def reproduced(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs the command in the folder and returns what it printed."""

    def run(*argv: str) -> str:
        places = [f"--{name}={folder / name}" for name in ("work", "docs")]
        data = [f"--data={folder / 'data'}"]
        reproduce.main([*argv, *places, *data, f"--table={folder / 'table.yaml'}"])
        return capsys.readouterr().out

    return run


def log_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {of["name"]: of for of in reproduce.read_log(folder / "docs" / "results.jsonl")}


def test_doctests_of_the_scripts() -> None:
    for module in (experiments, reproduce, result_log, results_page):
        assert doctest.testmod(module).failed == 0


def test_the_table_of_the_repository_is_valid() -> None:
    table = experiments.read_table(SCRIPTS / "experiments.yaml")
    for experiment in table.experiments.values():
        words = experiment.options(experiment.benchmark.train)
        words[1] = str(SCRIPTS.parent / words[1])
        from lstm_sentiment.config.command_line import parse_config

        config = parse_config(words, program="", description="")
        assert config.data.test is None
    for lever in table.levers:
        assert {lever.with_it, lever.without_it} <= set(table.experiments)
        changed = [table.experiments[name].settings for name in (lever.with_it, lever.without_it)]
        assert changed[0] != changed[1]
    files = " ".join(table.files)
    for benchmark in table.benchmarks.values():
        for name in (benchmark.train, benchmark.test or ""):
            if name.startswith(experiments.DATA):
                assert name.removeprefix(experiments.DATA).split("/")[0] in files


def test_only_evaluate_reads_the_test_rows(
    folder: Path, reproduced: Callable[..., str], calls: list[Call]
) -> None:
    reproduced("given", "--seeds=2")
    assert [module for module, _ in calls] == ["train", "evaluate"] * 2
    test = str(folder / "data" / "a" / "test.parquet")
    for module, arguments in calls:
        assert any(test in word for word in arguments) == (module == "evaluate")
    assert all("--data.test=null" in arguments for module, arguments in calls if module == "train")
    entry = log_of(folder)["given"]
    assert entry["seeds"] == [0, 1]
    assert len(entry["scores"]) == len(entry["linear"]["scores"]) == 2
    assert entry["mean"] == pytest.approx(np.mean(entry["scores"]))
    assert entry["sd"] == pytest.approx(np.std(entry["scores"], ddof=1))
    assert entry["training_rows"] == 162
    assert entry["training_s"] > 0
    assert str(folder) not in entry["command"].replace(str(folder / "tiny.yaml"), "")
    assert not (folder / "work" / "given" / entry["fingerprint"]).exists()


def test_a_teacher_is_trained_first_for_each_seed(
    folder: Path, reproduced: Callable[..., str], calls: list[Call]
) -> None:
    """With the student's settings except its own; each branch is scored; its seconds are included."""
    reproduced("taught", "--seeds=2")
    assert [module for module, _ in calls] == ["train", "train", *["evaluate"] * 3] * 2
    teacher, student = calls[0][1], calls[1][1]
    out = next(word.removeprefix("--out=") for word in teacher if word.startswith("--out="))
    assert f"--teacher={out}" in student
    assert "--model.hidden_size=8" in teacher
    assert "--model.hidden_size=8" not in student
    own = {word.partition("=")[0] for word in student} - {word.partition("=")[0] for word in teacher}
    assert own == {"--teacher", "--data.unlabelled", "--data.exclude"}
    assert all("--seed=1" in words for _, words in calls[5:7])
    entry = log_of(folder)["taught"]
    assert set(entry["branches"]) == {"lstm", "ngrams"}
    first, _, second = entry["command"].partition(" && ")
    assert "--out=FIRST/teacher" in first
    assert "--teacher=FIRST/teacher" in second
    page = (folder / "docs" / "results.md").read_text(encoding="utf-8")
    assert f"lstm alone {entry['branches']['lstm']['mean']:.4f}" in page


def test_a_language_model_is_trained_once_for_all_seeds(
    folder: Path, reproduced: Callable[..., str], calls: list[Call]
) -> None:
    reproduced("begun", "--seeds=2")
    assert [module for module, _ in calls] == ["pretrain", "train", "evaluate"] * 2
    assert calls[0] == calls[3], "the second call finds it finished"
    assert f"--pretrained={calls[0][1][-1].removeprefix('--out=')}" in calls[1][1]


def test_an_ablation_never_sees_the_test_rows(
    folder: Path, reproduced: Callable[..., str], calls: list[Call]
) -> None:
    reproduced("given/one-direction", "given/two-layers", "--seeds=1")
    assert [module for module, _ in calls] == ["train", "train"]
    entry = log_of(folder)["given/one-direction"]
    assert entry["scored_on"] == "validation"
    assert "linear" not in entry
    assert ["--model.bidirectional=false" in arguments for _, arguments in calls] == [True, False]


def test_logged_runs_are_not_repeated_unless_something_changed(
    folder: Path, reproduced: Callable[..., str], calls: list[Call]
) -> None:
    reproduced("given", "--seeds=1")
    calls.clear()
    assert "already in results.jsonl" in reproduced("given", "--seeds=1")
    assert calls == []
    reproduced("given", "--seeds=1", "--again")
    assert len(calls) == 2
    calls.clear()
    rows_of(60, 3).to_parquet(folder / "data" / "a" / "test.parquet")
    reproduced("given", "--seeds=1")
    assert len(calls) == 2


def test_finished_seeds_are_kept_when_a_later_one_fails(
    folder: Path, reproduced: Callable[..., str], calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    working = reproduce.call

    def breaks(module: str, arguments: list[str], **places: Any) -> None:
        if "--seed=1" in arguments:
            raise RunError("out of luck")
        working(module, arguments, **places)

    monkeypatch.setattr(reproduce, "call", breaks)
    with pytest.raises(RunError):
        reproduced("given", "--seeds=2")
    assert log_of(folder) == {}
    monkeypatch.setattr(reproduce, "call", working)
    calls.clear()
    reproduced("given", "--seeds=2")
    trained = [arguments for module, arguments in calls if module == "train"]
    assert len(trained) == 1
    assert "--seed=1" in trained[0]
    assert len(log_of(folder)["given"]["scores"]) == 2


def test_a_second_command_is_refused_while_the_experiment_runs(
    folder: Path, reproduced: Callable[..., str], calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    working, reported = reproduce.call, []

    def started_twice(module: str, arguments: list[str], **places: Any) -> None:
        monkeypatch.setattr(reproduce, "call", working)
        with pytest.raises(RunError, match=r"is in use by process \d+ .*choose another --work") as refused:
            reproduced("given", "--seeds=2")
        reported.append(refused)
        working(module, arguments, **places)

    monkeypatch.setattr(reproduce, "call", started_twice)
    reproduced("given", "--seeds=2")
    assert len(reported) == 1
    assert len(log_of(folder)["given"]["scores"]) == 2
    assert [module for module, _ in calls] == ["train", "evaluate"] * 2
    assert not [file for file in (folder / "work").rglob("*") if file.is_file()]


def test_a_run_is_discarded_if_the_code_changed(
    folder: Path, reproduced: Callable[..., str], calls: list[Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    working = reproduce.call

    def edits(module: str, arguments: list[str], **places: Any) -> None:
        working(module, arguments, **places)
        with (folder / "tiny.yaml").open("a", encoding="utf-8") as config:
            config.write("# changed\n")

    monkeypatch.setattr(reproduce, "call", edits)
    with pytest.raises(RunError, match="has changed during the run"):
        reproduced("given/one-direction", "--seeds=1")
    assert log_of(folder) == {}
    assert not list((folder / "work").rglob("seed-0.json"))


def test_parts_by_column_hold_out_each_value_in_turn(tmp_path: Path) -> None:
    rows = rows_of(60, 0)
    repeated = pd.concat([rows, rows.head(5).assign(author="Cy")])
    source = tmp_path / "all.csv"
    repeated.to_csv(source, index=False)
    benchmark = experiments.Benchmark(
        name="b", title="", config="", train="", metric="accuracy", split={"column": "author"}
    )
    parts = experiments.cut(benchmark, DataConfig(), source=str(source), seed=0, folder=tmp_path)
    assert sorted(parts) == ["Ann Lee", "Bo", "Cy"]
    tested: list[str] = []
    for author, part in parts.items():
        train, test = (pd.read_parquet(part / f"{name}.parquet") for name in ("train", "test"))
        assert set(test.author) == {author}
        assert not set(test.author) & set(train.author)
        assert not set(test.text) & set(train.text)
        assert len(train) + len(test) == 60
        tested += list(test.text)
    assert sorted(tested) == sorted(rows.text)


def test_a_sample_is_drawn_by_seed_from_the_filtered_rows(tmp_path: Path) -> None:
    source = tmp_path / "all.csv"
    rows_of(120, 0).to_csv(source, index=False)
    benchmark = experiments.Benchmark(
        name="b", title="", config="", train="", metric="accuracy", split={"share": 0.25}
    )
    data = DataConfig(filter={"author": "Bo"})

    def drawn(seed: int, folder: str) -> tuple[set[str], set[str]]:
        parts = experiments.cut(benchmark, data, source=str(source), seed=seed, folder=tmp_path / folder)
        train, test = (pd.read_parquet(parts["all"] / f"{name}.parquet") for name in ("train", "test"))
        assert set(train.author) | set(test.author) == {"Bo"}
        return set(train.text), set(test.text)

    train, test = drawn(0, "first")
    assert (len(train), len(test), len(train & test)) == (30, 10, 0)
    assert drawn(0, "again") == (train, test)
    assert drawn(1, "other")[1] != test
    rows_of(4, 0).to_csv(source, index=False)
    with pytest.raises(DataError, match=r"too few rows for a split of 0\.25"):
        drawn(0, "few")


def test_a_missing_column_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "all.csv"
    rows_of(6, 0).to_csv(source, index=False)
    benchmark = experiments.Benchmark(
        name="b", title="", config="", train="", metric="accuracy", split={"column": "writer"}
    )
    with pytest.raises(DataError, match="column 'writer': no such column; there are text, label, author"):
        experiments.cut(benchmark, DataConfig(), source=str(source), seed=0, folder=tmp_path)


def test_a_score_over_parts_is_their_mean(
    folder: Path, reproduced: Callable[..., str], calls: list[Call]
) -> None:
    reproduced("authors", "drawn", "--seeds=1")
    entries = log_of(folder)
    parts = entries["authors"]["parts"]
    assert list(parts) == ["Ann Lee", "Bo", "Cy"]
    assert entries["authors"]["scores"] == pytest.approx([np.mean([of["test"] for of in parts.values()])])
    assert "parts" not in entries["drawn"]
    assert entries["drawn"]["training_rows"] == 180 - 36 - 14  # test, validation
    page = (folder / "docs" / "results.md").read_text("utf-8")
    assert f"| Bo | {parts['Bo']['test']:.3f} | {parts['Bo']['linear']:.3f} |" in page
    assert "--data.train=CUT/train.parquet" in entries["drawn"]["command"]
    assert "Not measured yet" in page
    assert "`given/two-layers`" in page


def entry_of(name: str, scores: list[float], **more: Any) -> dict[str, Any]:
    linear = {"scores": scores, "mean": 0.4, "sd": 0.01, "seconds": 1.5}
    return {
        "name": name, "command": "python -m lstm_sentiment.train", "scored_on": "test", "metric": "accuracy",
        "seeds": list(range(len(scores))), "scores": scores, "mean": float(np.mean(scores)),
        "sd": float(np.std(scores, ddof=1)), "training_s": 10.0, "training_rows": 100.0, "parameters": 1234,
        "date": "2025-01-01T00:00:00+00:00", "commit": "abc", "dirty": False, "code": "c", "version": "0",
        "fingerprint": name, "linear": linear, "validation": scores,
        "machine": {"cpu": "a cpu", "device": "cpu", "threads": 1, "torch": "2"}, **more,
    }  # fmt: skip


def ablation(name: str, scores: list[float], **more: Any) -> dict[str, Any]:
    return entry_of(f"given/{name}", scores, scored_on="validation", **more)


def test_the_page_shows_signed_gains_with_their_meaning(folder: Path) -> None:
    table = experiments.read_table(folder / "table.yaml")
    entries = [
        entry_of("given", [0.5, 0.5, 0.5], validation=[0.10, 0.20, 0.30]),
        entry_of("given", [0.5, 0.5, 0.5], validation=[0.80, 0.81, 0.82]),  # the last one counts
        ablation("one-direction", [0.70, 0.71, 0.73]),
        ablation("two-layers", [0.80, 0.82, 0.82]),
    ]
    page = results_page.write_page(entries, table, folder).read_text("utf-8")
    (both,) = [line for line in page.splitlines() if line.startswith("| both directions")]
    (second,) = [line for line in page.splitlines() if line.startswith("| a second layer")]
    assert "+0.0967" in both
    assert "pays" in both
    assert both.index("0.7133") < both.index("0.8100")
    assert "+0.0033" in second
    assert "within noise" in second
    entries[-1] = ablation("two-layers", [0.80, 0.82, 0.82], code="other")
    page = results_page.write_page(entries, table, folder).read_text("utf-8")
    assert "a second layer" not in page  # measured on other code: the difference may be the code's
    entries.insert(0, ablation("as-configured", [0.80, 0.81, 0.82], code="other"))  # it is not
    assert "a second layer" in results_page.write_page(entries, table, folder).read_text("utf-8")
    entries[0] = ablation("as-configured", [0.80, 0.81, 0.83], code="other")
    assert "a second layer" not in results_page.write_page(entries, table, folder).read_text("utf-8")


def test_the_standard_error_equals_a_two_way_anova() -> None:
    random = np.random.default_rng(0)
    scores_SN = random.normal(size=(7, 4))
    design = [[*np.eye(7)[s], *np.eye(4)[n]] for s in range(7) for n in range(4)]
    *_, rank, _ = fit = np.linalg.lstsq(np.array(design), scores_SN.ravel(), rcond=None)
    rest = scores_SN.ravel() - np.array(design) @ fit[0]
    expected = np.sqrt(2 * (rest @ rest) / (28 - rank) / 4)
    entries = {str(i): {"scores": list(of)} for i, of in enumerate(scores_SN)}
    assert results_page.standard_error(entries) == pytest.approx(expected)
    assert results_page.standard_error({"one": {"scores": [1.0, 2.0]}}) is None


def test_main_table_and_curve_match_the_log(folder: Path) -> None:
    table = experiments.read_table(folder / "table.yaml")
    entries = [
        entry_of("given", [0.5, 0.7], dirty=True),
        entry_of("given/few", [0.4, 0.4], training_rows=54.0),
    ]
    page = results_page.write_page(entries, table, folder).read_text("utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| Own test file")]
    assert row.split(" | ")[1:] == [
        "accuracy", "0.6000 ± 0.1414", "0.4000 ± 0.0100", "2", "100", "10 s", "1.5 s", "1,234",
        "abc, changed", "0.5 guess (a coin) |",
    ]  # fmt: skip
    picture = folder / "pictures" / "results-given-rows.svg"
    drawn = picture.read_bytes()
    assert f"](pictures/{picture.name})" in page
    assert b"training rows" in drawn
    results_page.write_page(entries, table, folder)
    assert picture.read_bytes() == drawn
    assert b"larger" not in drawn
    entries.append(entry_of("given/large", [0.8, 0.8]))
    page = results_page.write_page(entries, table, folder).read_text("utf-8")
    assert b"larger" in picture.read_bytes()
    assert "| given/large | 100 | 10 s | 0.8000 ± 0.0000 |" in page


def test_a_curve_only_has_comparable_runs(folder: Path) -> None:
    table = experiments.read_table(folder / "table.yaml")
    (curve,) = table.curves

    def shown(*entries: dict[str, Any], against: str = "rows") -> list[str]:
        lines = results_page.curve_lines(list(entries), dataclasses.replace(curve, against=against))
        return [of["name"] for points in lines.values() for of in points]

    before = entry_of("given/few", [0.4, 0.4], code="before")
    now = entry_of("given", [0.5, 0.7], date="2025-01-02T00:00:00+00:00")
    assert shown(before, now) == ["given"]
    proof = entry_of("given", [0.5, 0.7], code="before")  # an experiment of the curve scored the same
    assert shown(proof, before, now) == ["given/few", "given"]
    assert shown({**proof, "scores": [0.5, 0.69]}, before, now) == ["given"]
    elsewhere = {**now, "machine": {**now["machine"], "cpu": "another cpu"}}
    assert shown(proof, before, elsewhere, against="seconds") == ["given"]
    assert shown(proof, before, elsewhere) == ["given/few", "given"]


@pytest.mark.parametrize(
    ("argv", "reported"),
    [
        (["givn"], "no experiment 'givn'; --list shows all. Did you mean 'given'?"),
        ([], "give names or --all to train, or one of --list and --render"),
        (["given", "--render"], "give names or --all"),
        (["given", "--seeds=0"], "--seeds must be at least 1"),
    ],
)
def test_errors_are_one_line(reproduced: Callable[..., str], argv: list[str], reported: str) -> None:
    with pytest.raises(SentimentError) as raised:
        reproduced(*argv)
    assert reported in str(raised.value)
    assert raised.value.exit_code == 2


def test_help_does_not_import_torch() -> None:
    command = [sys.executable, "-X", "importtime", str(SCRIPTS / "reproduce.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "usage: scripts/reproduce" in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "argparse" in imported
    assert not {"torch", "pandas", "sklearn"} & imported


def test_missing_files_are_named_before_anything_is_trained(
    folder: Path, reproduced: Callable[..., str], calls: list[Call]
) -> None:
    (folder / "data" / "a" / "test.parquet").unlink()
    with pytest.raises(SentimentError, match=r"a/test.parquet: no such file, needed by given"):
        reproduced("drawn", "given")
    assert calls == []
    with pytest.raises(ConfigError, match="drawn needs a folder with its files: --data"):
        reproduce.main(["drawn", f"--docs={folder}", f"--table={folder / 'table.yaml'}"])


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("benchmarks: [", "not YAML"),
        ("benchmarks: {b: {title: x}}", "not a table of experiments"),
        ("a: 1", "not a table of experiments"),
        (
            "benchmarks: {}\nablations: {benchmarks: [sst3], levers: {}}",
            "ablations: no such benchmark: sst3",
        ),
        (
            "benchmarks: {b: {title: x, config: c, train: t, metric: m}}",
            "b: needs either test, or split with share or column",
        ),
    ],
)
def test_an_invalid_table_is_an_error(tmp_path: Path, text: str, reported: str) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=reported) as raised:
        experiments.read_table(file)
    assert str(file) in str(raised.value)


def test_a_damaged_log_is_reported_with_its_line(tmp_path: Path) -> None:
    log = tmp_path / "results.jsonl"
    log.write_text(json.dumps({"name": "a"}) + "\n{broken\n", encoding="utf-8")
    with pytest.raises(SentimentError, match=r"results.jsonl:2: not JSON"):
        reproduce.read_log(log)


@pytest.mark.parametrize("threads", [0, 3])
def test_a_command_gets_its_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """Two parallel experiments with as many threads as cores would slow each other down."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    tell = """sh -c 'echo "$OMP_NUM_THREADS threads"; exec "$@"' tell"""
    reproduce.call("evaluate", ["--help"], log=tmp_path / "log", launch=tell, threads=threads)
    assert (tmp_path / "log").read_text("utf-8").startswith(f"{threads or 7} threads")


def test_a_failed_command_is_reported_with_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(RunError, match=r"evaluate failed with exit code 2: error: .*no_such_run"):
        reproduce.call("evaluate", ["no_such_run", "file.csv"], log=log, launch="", threads=0)
    with pytest.raises(RunError, match=r"no-such-program: No such file"):
        reproduce.call("evaluate", [], log=log, launch="no-such-program -n", threads=0)
    reproduce.call("evaluate", ["--help"], log=log, launch="env", threads=0)
    assert "usage: python -m lstm_sentiment.evaluate" in log.read_text("utf-8")
