"""``predict --out FOLDER``: a shard for each input shard, atomic, continued after an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from lstm_sentiment import predict
from lstm_sentiment.bulk import engines
from lstm_sentiment.data.formats.readers import read_chunks
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import ConfigError, DataError, RunError
from tests.test_shards import COUNTS, ROWS, write, write_shards


def rows_of(path: Path | str) -> list[dict[str, str]]:
    with open_source(str(path)) as source:
        return [
            {str(name): value for name, value in row.items()}
            for chunk in read_chunks(source, labelled=False)
            for row in chunk.frame.to_dict("records")
        ]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the shards in/part-*, and the same rows in one file, rows.csv."""
    write_shards(tmp_path / "in", ".csv", ".csv.gz")
    write(tmp_path / "rows.csv", ROWS)
    return tmp_path


@pytest.fixture
def label(place: Path, trained_run: Path) -> Callable[..., None]:
    """A function that runs the command on the shards."""

    def run(*argv: str, file: str = "in/*.csv*", out: str = "out") -> None:
        files = [f"--file={place / file}"] if file else []
        predict.main([str(trained_run), *files, f"--out={place / out}", *argv])

    return run


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


SHARDS = ["part-0.csv", "part-2.csv", "part-3.csv.gz"]  # part-1 has no rows


def test_shards_have_the_rows_of_one_file(place: Path, label: Callable[..., None]) -> None:
    label()
    label(file="rows.csv", out="whole.csv")
    label(out="joined.csv")  # a name of a table: one table
    expected = rows_of(place / "whole.csv")
    assert [row["label"] for row in expected] == [of for _, of in ROWS]
    assert rows_of(place / "joined.csv") == rows_of(place / "out") == expected
    assert names_in(place / "out") == ["_SUCCESS", "_predictions.json", *SHARDS]
    assert [len(rows_of(place / "out" / name)) for name in SHARDS] == [count for count in COUNTS if count]


def test_folders_of_partitions_and_lines_are_kept(place: Path, label: Callable[..., None]) -> None:
    write(place / "hive" / "label=positive" / "a.parquet", ROWS[:2], "text")
    label(file="hive", out="of/hive/")
    assert names_in(place / "of" / "hive") == ["_SUCCESS", "_predictions.json", "label=positive/a.parquet"]
    found = rows_of(place / "of" / "hive")
    assert [(row["text"], row["label"]) for row in found] == [(text, "positive") for text, _ in ROWS[:2]]
    (place / "lines").mkdir()
    (place / "lines" / "a.txt").write_text("so good\nso bad\n")
    label(file="lines", out="lines-out")
    assert [row["text"] for row in rows_of(place / "lines-out" / "a.jsonl")] == ["so good", "so bad"]


def test_remote_shards_are_predicted_one_by_one(
    place: Path, trained_run: Path, label: Callable[..., None]
) -> None:
    files = fsspec.filesystem("memory")
    for name in ("part-0.csv", "part-2.csv"):
        files.pipe(f"/in/lang=en/{name}", (place / "in" / name).read_bytes())
    predict.main([str(trained_run), "--file=memory://in", f"--out={place / 'out'}"])
    label(file="in/part-[02].csv", out="local")
    assert rows_of(place / "out") == [row | {"lang": "en"} for row in rows_of(place / "local")]
    (place / "out" / "lang=en" / "part-2.csv").unlink()
    (place / "out" / "_SUCCESS").unlink()
    predict.main([str(trained_run), "--file=memory://in", f"--out={place / 'out'}"])
    assert rows_of(place / "out") == [row | {"lang": "en"} for row in rows_of(place / "local")]


def test_the_same_command_goes_on_with_missing_shards(
    place: Path, label: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    label()
    before = {name: (place / "out" / name).read_bytes() for name in SHARDS}
    times = {name: (place / "out" / name).stat().st_mtime_ns for name in SHARDS}
    label()
    assert capsys.readouterr().err.endswith("out: is complete; nothing to do\n")
    (place / "out" / "part-2.csv").unlink()  # although there is a mark
    label()
    assert (place / "out" / "_SUCCESS").is_file()
    err = capsys.readouterr().err
    assert "2 of 4 shards are there; going on with the others" in err
    assert "30 rows of 2 shards" in err  # of one there is nothing to write
    assert {name: (place / "out" / name).read_bytes() for name in SHARDS} == before
    kept = {name for name in SHARDS if (place / "out" / name).stat().st_mtime_ns == times[name]}
    assert kept == {"part-0.csv", "part-3.csv.gz"}


def test_an_error_leaves_whole_shards_only(place: Path, label: Callable[..., None]) -> None:
    content = (place / "in" / "part-2.csv").read_bytes()
    (place / "in" / "part-2.csv").write_bytes(content + b"one,two,three\r\n")
    with pytest.raises(DataError, match=r"part-2\.csv:32: 3 fields where the header has 2"):
        label()
    assert names_in(place / "out") == ["_predictions.json", "part-0.csv"]
    with pytest.raises(DataError):  # as long as the input is not repaired
        label()
    (place / "in" / "part-2.csv").write_bytes(content)
    with pytest.raises(RunError, match=r"its input 'part-2\.csv' has changed since the output was begun"):
        label()


def test_a_killed_command_leaves_whole_shards_only(
    place: Path, label: Callable[..., None], trained_run: Path
) -> None:
    code = (
        "import os, signal, sys\n"
        "from lstm_sentiment import predict\n"
        "from lstm_sentiment.bulk.labelling import Labelling\n"
        "frames = Labelling.frames\n"
        "def killed(self, source, *of, **how):\n"
        "    for frame in frames(self, source, *of, **how):\n"
        "        yield frame\n"
        "        if 'part-2' in source.name:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "Labelling.frames = killed\n"
        "predict.main(sys.argv[1:])\n"
    )
    argv = [str(trained_run), f"--file={place / 'in' / '*.csv*'}", f"--out={place / 'out'}"]
    ended = subprocess.run([sys.executable, "-c", code, *argv], env={**os.environ}, check=False)
    assert ended.returncode == -signal.SIGKILL
    left = [
        name for name in names_in(place / "out") if not name.startswith(".")
    ]  # temporary files are hidden
    assert left == ["_predictions.json", "part-0.csv"]
    label()
    label(file="rows.csv", out="whole.csv")
    assert rows_of(place / "out") == rows_of(place / "whole.csv")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--details"], "is the output of another command (details 'False' and not 'True')"),
        (["--file={}/more.csv"], "is the output of another command (file "),
    ],
)
def test_output_of_another_command_is_refused(
    place: Path, label: Callable[..., None], change: list[str], says: str
) -> None:
    write(place / "more.csv", ROWS[:3])
    label()
    before = names_in(place / "out")
    with pytest.raises(RunError) as caught:
        label(*(of.format(place) for of in change))
    assert says in str(caught.value)
    assert str(caught.value).endswith("to predict all shards again")
    assert names_in(place / "out") == before


def test_other_input_and_other_folders_are_refused(place: Path, label: Callable[..., None]) -> None:
    label()
    write(place / "in" / "part-9.csv", ROWS[:3])
    with pytest.raises(RunError, match=r"is the output of other shards: the input now has 'part-9\.csv'"):
        label()
    (place / "in" / "part-9.csv").unlink()
    (place / "in" / "part-0.csv").unlink()
    with pytest.raises(RunError, match=r"is the output of other shards: the input now lacks 'part-0\.csv'"):
        label()
    with pytest.raises(RunError, match=r"holds files that this command did not write"):
        label(out="in")
    (place / "out" / "_predictions.json").write_text("{}")
    with pytest.raises(RunError, match=r"_predictions\.json: cannot be read"):
        label()
    files = [place / "deep" / name / "a.csv" for name in ("x", "y")]
    for file in files:
        write(file, ROWS[:3])
    with pytest.raises(DataError, match="its output has the same name as that of"):
        label(*(f"--file={file}" for file in files), file="", out="two")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--engine=ray", "--out=a.csv"], "writes a folder of shards; give --out a folder, not a.csv"),
        (["--engine=ray"], "writes a folder of shards; give --file and --out"),
        (["--workers=2", "--out=out/"], "--workers: needs --engine ray"),
        (["--address=auto", "--out=out/"], "--address: needs --engine ray"),
        (["--workers=0", "--engine=ray", "--out=out/"], "--workers: must be at least 1, not 0"),
        (["in/b.csv", "--out=out/"], "quote a glob: --file 'in/*.csv'"),
    ],
)
def test_options_that_do_not_fit(place: Path, trained_run: Path, argv: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        predict.main([str(trained_run), f"--file={place / 'rows.csv'}", *argv])
    assert says in str(caught.value)


def test_spreadsheet_safe_shards(place: Path, label: Callable[..., None]) -> None:
    write(place / "sheets" / "a.csv", [("=1+1", "positive")])
    label("--spreadsheet-safe", file="sheets", out="safe")
    assert rows_of(place / "safe")[0]["text"] == "'=1+1"
    write(place / "json" / "a.jsonl", ROWS[:1])
    with pytest.raises(ConfigError, match="--spreadsheet-safe needs"):
        label("--spreadsheet-safe", file="json", out="unsafe")


def test_the_drift_report_is_about_all_shards(place: Path, label: Callable[..., None]) -> None:
    label(f"--drift-report={place / 'a.json'}")
    label(f"--drift-report={place / 'b.json'}", file="rows.csv", out="whole.csv")
    several, one = (json.loads((place / name).read_text()) for name in ("a.json", "b.json"))
    assert several["new"]["rows"] == one["new"]["rows"] == 60
    assert several["new"]["predicted"] == one["new"]["predicted"]


def test_the_worker_reports_errors_and_counts_as_values(place: Path, trained_run: Path) -> None:
    asked = engines.Asked()
    work = engines.Work(run=str(trained_run), device="cpu", asked=asked, how={})
    (place / "bad.csv").write_text("text\na,b\n")
    jobs = [(place / "rows.csv", place / "a.csv"), (place / "bad.csv", place / "b.csv")]
    batch = {"source": [str(of) for of, _ in jobs], "out": [str(of) for _, of in jobs]}
    results = engines.ShardPredictor(work)(batch)["result"]
    counts = engines._collected(iter(results[:1]), 1)
    assert (counts.rows, counts.labelled) == (60, 60)
    assert counts.profile is not None
    with pytest.raises(DataError, match=r"bad\.csv:2: 2 fields where the header has 1"):
        engines._collected(iter(results), 2)
