"""The JSON files of a run: bytes that survive reading and writing, and messages for malformed files."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from lstm_sentiment import load
from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.config.command_line import read_config
from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.prediction.model_card import model_card
from lstm_sentiment.records.data_facts import DataFacts
from lstm_sentiment.records.environment import Environment
from lstm_sentiment.records.json_values import Count, Record, from_json, to_json
from lstm_sentiment.records.run_metrics import OF_FROZEN, RunMetrics
from lstm_sentiment.records.run_reports import REPORTS, read_reports
from lstm_sentiment.reporting.report import write_report
from lstm_sentiment.system.files import as_json

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("format-*/run"))
KINDS: dict[str, type[Record]] = {kind.FILE: kind for kind in (RunMetrics, DataFacts, Environment)}
VALUES = ["text", -1, 0, 0.5, 1 << 70, True, None, [], {}]
# Fields that a file of an earlier version, or of another kind of run, does not have.
OPTIONAL = {
    "metrics.json": (
        "branches",
        "cross_validated",
        "total_s",
        "polar_f1",
        "flip_rate",
        "ordinal_error",
    ),
    "data.json": ("unlabelled", "phrases", "left_out", "weightless", "swallowed", "empty_lines"),
    "environment.json": ("compiled_lstm", "kernels"),
}
Path_ = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A dataclass of every kind of field."""

    text: str
    count: Count
    number: float | None
    kind: Literal["one", "other"]
    parts: list[Sample]
    names: dict[str, bool]
    more: int | None = None


def contents_of(run: Path) -> dict[str, Any]:
    return {name: json.loads((run / name).read_text("utf-8")) for name in REPORTS}


def labels_of(run: Path) -> list[str]:
    labels: list[str] = json.loads((run / "labels.json").read_text("utf-8"))["labels"]
    return labels


def places(value: Any, above: Path_ = ()) -> Iterator[Path_]:
    """Yield the path of every value in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else [])
    for key, of in inside:
        yield (*above, key)
        yield from places(of, (*above, key))


def spelled(place: Path_) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)[1:]


def parent_of(content: Any, place: Path_) -> Any:
    for key in place[:-1]:
        content = content[key]
    return content


# -- bytes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", FIXTURES, ids=lambda run: run.parent.name)
@pytest.mark.parametrize("name", REPORTS)
def test_files_of_old_runs_are_written_as_they_were_read(run: Path, name: str) -> None:
    assert as_json(RunFolder(run).read(KINDS[name]).as_json()) == (run / name).read_bytes()


@pytest.mark.parametrize("name", REPORTS)
def test_files_of_a_new_run_are_written_as_they_were_read(trained_run: Path, name: str) -> None:
    test_files_of_old_runs_are_written_as_they_were_read(trained_run, name)


def test_a_value_survives_the_conversion() -> None:
    leaf = Sample(text="é", count=3, number=None, kind="one", parts=[], names={"a": True}, more=-2)
    tree = Sample(text="", count=0, number=1, kind="other", parts=[leaf, leaf], names={})
    written = json.loads(json.dumps(to_json(tree)))
    assert "more" not in written
    assert written["parts"][0] == {**vars(leaf)}
    assert from_json(Sample, {**written, "later": 1}, file="a.json") == tree


# -- malformed files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 3}, "text is 3, not text"),
        ({"count": -1}, "count is -1, not a whole number of 0 or more"),
        ({"count": True}, "count is true, not a whole number of 0 or more"),
        ({"count": 2.0}, "count is 2.0, not a whole number"),
        ({"number": "0.5"}, "number is '0.5', not a number"),
        ({"number": True}, "number is true, not a number"),
        ({"kind": "none"}, "kind is 'none', not one of one, other"),
        ({"parts": {}}, "parts is an object of 0, not a list"),
        ({"parts": [[1]]}, r"parts\[0\] is a list of 1, not an object"),
        ({"parts": [{"text": ""}]}, r"parts\[0\].count is missing; it must be a whole number of 0 or more"),
        ({"names": {"a\n": None}}, r"names.a\\n is null, not true or false"),
        ({"more": "\x1b[2J"}, r"more is '\\x1b\[2J', not a whole number"),
    ],
)
def test_a_message_names_file_field_and_what_was_expected(change: dict[str, Any], message: str) -> None:
    whole = {"text": "", "count": 1, "number": 0.5, "kind": "one", "parts": [], "names": {}}
    with pytest.raises(CheckpointError, match=rf"^a\.json: {message}.*; restore the file from a copy"):
        from_json(Sample, whole | change, file="a.json")


@pytest.mark.parametrize("content", [[], None, "x", 3, {}])
@pytest.mark.parametrize("name", REPORTS)
def test_another_value_than_an_object_is_refused(name: str, content: Any) -> None:
    with pytest.raises(CheckpointError, match=rf"{name}: (the content is .*, not an object|\w+ is missing)"):
        from_json(KINDS[name], content, file=name)


@pytest.mark.parametrize("name", REPORTS)
def test_every_field_is_checked(name: str) -> None:
    """Without it, or with a value of another type, the file is refused by its name, or makes a model card."""
    run = FIXTURES[0]
    contents, labels, config = contents_of(run), labels_of(run), read_config(run / "config.yaml")
    refused = 0
    for place in places(contents[name]):
        of_type = type(parent_of(contents[name], place)[place[-1]])
        for value in [..., *(value for value in VALUES if type(value) is not of_type)]:
            found = copy.deepcopy(contents)
            if value is ...:
                del parent_of(found[name], place)[place[-1]]
            else:
                parent_of(found[name], place)[place[-1]] = value
            try:
                reports = read_reports(found, labels, run=run)
            except CheckpointError as error:
                refused += 1
                message = str(error)
                assert f"{run / name}: " in message, message
                assert spelled(place) in message or value is ..., message
            else:
                assert model_card(name="a", config=config, reports=reports)
    assert refused > 10 * len(contents[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda of: of["test"].update(confusion=[[1, 2], [3, 4]]), "test.confusion must have"),
        (lambda of: of["test"].update(confusion=[[0] * 3] * 3), "test.confusion must have"),
        (lambda of: of.pop("test"), "test is missing"),
        (lambda of: of["calibration"].pop("test"), "calibration.test is missing"),
        (lambda of: of["branches"]["lstm"].pop("test"), "branches.lstm.test is missing"),
    ],
)
def test_scores_must_fit_each_other(change: Callable[[Any], None], message: str) -> None:
    contents = contents_of(FIXTURES[0])
    change(contents["metrics.json"])
    with pytest.raises(CheckpointError, match=rf"metrics\.json: {message}"):
        read_reports(contents, labels_of(FIXTURES[0]), run=FIXTURES[0])


def test_reports_must_be_of_the_classes_of_the_run() -> None:
    run = FIXTURES[0]
    contents, labels = contents_of(run), labels_of(run)
    with pytest.raises(CheckpointError, match=r"metrics\.json: validation\.per_class must be the classes of"):
        read_reports(contents, labels[::-1], run=run)
    contents["data.json"]["splits"]["test"]["classes"]["more"] = 1
    with pytest.raises(CheckpointError, match=r"data\.json: splits\.test\.classes must be the classes of"):
        read_reports(contents, labels, run=run)


# -- pages and cards ---------------------------------------------------------------------------------


@pytest.fixture
def own_run(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained run, with its cache."""
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(trained_run.parent / "cache"))
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


@pytest.mark.parametrize(
    ("name", "field"),
    [("metrics.json", "parameters"), ("data.json", "duplicates"), ("environment.json", "cpu")],
)
def test_report_and_model_card_name_the_malformed_field(own_run: Path, name: str, field: str) -> None:
    content = json.loads((own_run / name).read_text("utf-8"))
    (own_run / name).write_text(json.dumps({**content, field: []}), "utf-8")
    message = rf"{name}: {field} is a list of 0, not (a whole number|text)"
    with pytest.raises(CheckpointError, match=message):
        write_report(own_run, device="cpu")
    with pytest.raises(CheckpointError, match=message):
        load(own_run, device="cpu").save_pretrained(own_run.parent / "published")
    assert not (own_run / "report.html").exists()
    assert not (own_run.parent / "published").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", "log.jsonl:1: the content is a list of 0, not an object"),
        ('{"epoch": "1"}', "log.jsonl:1: epoch is '1', not a number"),
        ('{"epoch": 1}', "log.jsonl:1: train_loss is missing; it must be a number"),
        ('{"epoch"', "log.jsonl:1: is not JSON"),
    ],
)
def test_a_malformed_log_is_refused_by_its_line(own_run: Path, line: str, message: str) -> None:
    (own_run / "log.jsonl").write_text(f"{line}\n", "utf-8")
    with pytest.raises(CheckpointError) as caught:
        write_report(own_run, device="cpu")
    assert message in str(caught.value)


def test_what_earlier_versions_did_not_write_may_be_missing(own_run: Path) -> None:
    for name, fields in OPTIONAL.items():
        content = json.loads((own_run / name).read_text("utf-8"))
        for place in list(places(content)):
            if place[-1] in fields:
                parent_of(content, place).pop(place[-1], None)
        (own_run / name).write_text(json.dumps(content), "utf-8")
    assert "Confusion matrix" in write_report(own_run, device="cpu").read_text("utf-8")
    load(own_run, device="cpu").save_pretrained(own_run.parent / "published")
    assert (own_run.parent / "published" / "data.json").read_bytes() == as_json(
        json.loads((own_run / "data.json").read_bytes())
    )


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"calibration": []}, "calibration is a list of 0, not an object"),
        (
            {"calibration": {"temperature": "hot", "thresholds": []}},
            "calibration.temperature is 'hot', not",
        ),
        (
            {"biases_without_class_bias": {"head.bias": 1}},
            "biases_without_class_bias.head.bias is 1",
        ),
        ({"data": 3}, "data is 3, not text"),
    ],
)
def test_a_forged_checkpoint_is_refused_by_its_field(
    own_run: Path, facts: dict[str, Any], message: str
) -> None:
    """Its manifest is valid."""
    folder = RunFolder(own_run)
    best = folder.load(BEST)
    folder.save(BEST, best.tensors, {**best.facts, **facts})
    with pytest.raises(CheckpointError, match=rf"state\.json: {message}.*; restore it from a copy, or train"):
        load(own_run, device="cpu")


def test_the_metrics_of_a_frozen_run_have_all_fields() -> None:
    """Its file has an order of its own: a field that the order lacks would not be written.

    Whether rows were cross-validated is in ``kept`` there.
    """
    assert {*OF_FROZEN, "cross_validated"} == {field.name for field in dataclasses.fields(RunMetrics)}
