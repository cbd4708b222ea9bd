"""Labels that are codes: equal in all spellings, from settings to predicted files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import TINY, make_rows, write_csv

import lstm_sentiment
from lstm_sentiment.checkpoints.read_back import check_loadable
from lstm_sentiment.config.command_line import config_yaml, parse_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import DataConfig, TextConfig
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.errors import DataError, RunError
from lstm_sentiment.experiment.train import run
from lstm_sentiment.prediction.score_file import predict_file

TWO = [(text, label) for text, label in make_rows(240) if label != "neutral"]


def coded(codes: dict[str, str]) -> list[tuple[str, str]]:
    return [(text, codes[label]) for text, label in TWO]


def read(tmp_path: Path, train: Path, **data: Any) -> Corpus:
    settings = DataConfig(train=str(train), test=None, **data)
    return prepare(settings, TextConfig(), seed=0, cache=tmp_path / "cache")


@pytest.mark.parametrize("code", ["", "mixed", "7.0"])
def test_a_map_of_only_nulls_keeps_the_other_labels(tmp_path: Path, code: str) -> None:
    rows = [*make_rows(90), *((f"so so {i}", code) for i in range(3))]
    data = write_csv(tmp_path / "data.csv", rows)
    left = read(tmp_path, data, labels={code.removesuffix(".0"): None})
    assert left.labels == ["negative", "neutral", "positive"]
    assert left.facts.counts["train"].left_out == 3
    kept = read(tmp_path, write_csv(tmp_path / "without.csv", rows[:90]))
    assert sum(map(len, left.splits.values())) == sum(map(len, kept.splits.values()))


def test_a_map_of_nulls_that_leaves_no_class_is_refused(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", TWO)
    with pytest.raises(DataError, match="every row has the label 'negative'; a classifier needs"):
        read(tmp_path, data, labels={"positive": None})
    with pytest.raises(DataError, match=r"data\.labels excludes every row; a classifier needs"):
        read(tmp_path, data, labels={"positive": None, "negative": None})


def test_class_folders_are_left_out_by_a_map_of_nulls(tmp_path: Path) -> None:
    for i, (text, label) in enumerate(make_rows(60)):
        (tmp_path / "root" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / label / f"{i}.txt").write_text(text)
    found = read(tmp_path, tmp_path / "root", labels={"neutral": None})
    assert found.labels == ["negative", "positive"]


@pytest.mark.parametrize(
    ("codes", "labels"),
    [
        (("1.0", "4.0"), "{1.0: negative, 4.0: positive}"),
        (("1", "4"), "{1.0: negative, 4.00: positive}"),
        (("1.0", "4.00"), "{1: negative, 4: positive}"),
        (("True", "False"), "{True: negative, False: positive}"),
        (("-0.5", "0.5"), "{-0.5: negative, 0.5: positive}"),
        (("+1", "-1"), "{1: negative, -1: positive}"),
        (("no", "yes"), "{no: negative, yes: positive}"),
        (("1e3", "012"), "{1e3: negative, 012: positive}"),
    ],
)
def test_a_run_with_codes_as_labels_loads(tmp_path: Path, codes: tuple[str, str], labels: str) -> None:
    data = write_csv(tmp_path / "data.csv", coded(dict(zip(("negative", "positive"), codes, strict=True))))
    argv = [f"--data.train={data}", f"--data.labels={labels}", f"--out={tmp_path / 'run'}", *TINY]
    argv += ["--trainer.epochs=1", "--baseline=false"]
    run(parse_config(argv, program="test", description=""))
    classifier = lstm_sentiment.load(tmp_path / "run")
    assert classifier.labels == ["negative", "positive"]
    assert len(classifier.predict("so-so")) == 1
    truth_R, _ = predict_file(classifier, str(data))
    assert truth_R.tolist() == [int(label == "positive") for _, label in TWO]
    resumed = [*argv, "--resume=true"]
    assert run(parse_config(resumed, program="test", description=""))["test"]["rows"] > 0


def test_a_code_is_the_same_across_files_and_formats(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", coded({"negative": "1", "positive": "4"}))
    rows = pd.DataFrame(coded({"negative": "1", "positive": "4"}), columns=["text", "label"])
    for name, codes in [
        ("float.parquet", rows["label"].astype(float)),
        ("int.parquet", rows["label"].astype(int)),
        ("pandas.csv", rows["label"].astype(float)),
        ("numbers.jsonl", rows["label"].astype(float)),
    ]:
        other = tmp_path / name
        frame = rows.assign(label=codes)
        if name.endswith("parquet"):
            frame.to_parquet(other)
        elif name.endswith("csv"):
            frame.to_csv(other, index=False)
        else:
            frame.to_json(other, orient="records", lines=True)
        for labels in (None, ["1", "4"], {"1": "bad", "4.0": "good"}):
            corpus = read(tmp_path, train, validation=str(other), labels=labels)
            assert corpus.labels == (["bad", "good"] if isinstance(labels, dict) else ["1", "4"])
            assert len(corpus.validation) == len(TWO)
            assert corpus.validation.labels.tolist() == [int(label == "positive") for _, label in TWO]
            turned = read(tmp_path, other, validation=str(train), labels=labels)
            assert turned.labels == corpus.labels


def test_comparing_labels_by_spelling_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same files as above, with each spelling as another label."""
    rows = pd.DataFrame(coded({"negative": "1", "positive": "4"}), columns=["text", "label"])
    train, other = write_csv(tmp_path / "train.csv", rows.to_numpy().tolist()), tmp_path / "float.parquet"
    rows.assign(label=rows["label"].astype(float)).to_parquet(other)
    assert read(tmp_path, train, validation=str(other)).labels == ["1", "4"]
    monkeypatch.setattr("lstm_sentiment.data.labels.code_of", str)
    with pytest.raises(DataError, match=r"float\.parquet:1: label '[14]\.0' is not one of 1, 4"):
        read(tmp_path, train, validation=str(other))


def test_float_keys_read_by_yaml_differ_from_the_file(tmp_path: Path) -> None:
    """The control: numeric keys are not labels, and were saved in configurations unchanged."""
    as_read = yaml.safe_load("{1.0: negative, 4.00: positive}")
    assert list(as_read) == [1.0, 4.0]
    assert not {*as_read} & {"1", "1.0", "4", "4.00"}
    argv = ["--data.labels={1.0: negative, 4.00: positive}"]
    labels = parse_config(argv, program="test", description="").data.labels
    assert labels == {"1.0": "negative", "4.00": "positive"}


def test_one_file_may_spell_a_code_in_several_ways(tmp_path: Path) -> None:
    spelt = [["1", "1.0", "+1.00"], ["-1", "-1.0", "-1.00"]]
    rows = [(text, spelt[label == "positive"][i % 3]) for i, (text, label) in enumerate(TWO)]
    corpus = read(tmp_path, write_csv(tmp_path / "data.csv", rows))
    assert corpus.labels == ["-1", "1"]
    assert corpus.facts.splits["train"].classes.keys() == {"-1", "1"}


def test_zero_padded_numbers_are_distinct_labels(tmp_path: Path) -> None:
    """The control: 01 may be a name, which is ambiguous next to 1."""
    rows = [(text, "01" if label == "positive" else "02") for text, label in TWO]
    assert read(tmp_path, write_csv(tmp_path / "padded.csv", rows)).labels == ["01", "02"]
    rows = [(text, ("01", "1", "2")[i % 3]) for i, (text, _) in enumerate(TWO)]
    with pytest.raises(DataError, match="label '1' looks like '01' at line 2"):
        read(tmp_path, write_csv(tmp_path / "mixed.csv", rows))


def test_filters_accept_codes(tmp_path: Path) -> None:
    frame = pd.DataFrame(coded({"negative": "1", "positive": "4"}), columns=["text", "label"])
    frame["year"] = [2001.0, 2002.0, None, 2001.0] * (len(frame) // 4)
    frame.to_parquet(tmp_path / "rows.parquet")
    corpus = read(tmp_path, tmp_path / "rows.parquet", filter={"year": "2001"}, validation=0.5)
    assert corpus.facts.counts["train"].filtered == len(frame) // 2


def test_class_folders_may_be_codes(tmp_path: Path) -> None:
    for i, (text, label) in enumerate(TWO):
        folder = tmp_path / "rows" / ("1.0" if label == "positive" else "0.0")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.txt").write_text(text)
    corpus = read(tmp_path, tmp_path / "rows", labels={0: "bad", 1: "good"})
    assert corpus.labels == ["bad", "good"]


def test_an_inverted_label_map_is_detected(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", coded({"negative": "0", "positive": "1"}))
    message = r"data\.csv:2: data\.labels maps names to labels, not labels to names; write \{0: neg, 1: pos\}"
    with pytest.raises(DataError, match=message):
        read(tmp_path, data, labels={"neg": "0", "pos": "1"})
    names = write_csv(tmp_path / "names.csv", coded({"negative": "neg", "positive": "pos"}))
    assert read(tmp_path, names, labels={"neg": "0", "pos": "1"}).labels == ["0", "1"]  # it may be meant


def test_a_run_that_could_not_be_loaded_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: settings that can be written but not read."""
    data = write_csv(tmp_path / "data.csv", TWO)
    argv = [f"--data.train={data}", f"--out={tmp_path / 'run'}", *TINY, "--baseline=false"]
    config = parse_config(argv, program="test", description="")
    monkeypatch.setattr(
        "lstm_sentiment.experiment.session.config_yaml", lambda config: "data: {labels: [[1], 2]}\n"
    )
    with pytest.raises(RunError, match=r"could not be opened again: \./config\.yaml:1: data\.labels: "):
        run(config)
    assert not (tmp_path / "run" / "config.yaml").exists()
    monkeypatch.setattr("lstm_sentiment.experiment.session.config_yaml", lambda config: "seed: 3\n")
    with pytest.raises(RunError, match=r"would read back differently \(config\.yaml\)"):
        run(config)


@pytest.mark.parametrize(
    "labels",
    [
        {0: "no", 1: "yes"},
        {"null": "1.0", "~": "null"},
        ["1e3", "2001-01-01"],
        {"a: b": "[c", "": None, "d": "e"},
    ],
)
def test_any_label_round_trips(labels: Any) -> None:
    config = Config(data=DataConfig(labels=labels))
    written = {"config_yaml": config_yaml(config), "vocabulary": [], "labels": ["a"], "label_map": {"x": "a"}}
    check_loadable(written, Config)
    plain = yaml.safe_load(written["config_yaml"])["data"]["labels"]
    assert json.loads(json.dumps(plain)) == plain  # keys are text


def test_rows_without_a_label_are_left_out_on_request(tmp_path: Path) -> None:
    rows = [(text, "" if i in (7, 30) else label) for i, (text, label) in enumerate(TWO)]
    data = write_csv(tmp_path / "data.csv", rows)
    with pytest.raises(DataError) as caught:
        read(tmp_path, data)
    reported = str(caught.value).removeprefix(str(data))
    assert reported.startswith(":9: has no label; add one, or exclude such rows: in data.labels, map")
    assert reported.endswith("(2 rows)")
    labels = {"": None, "negative": "negative", "positive": "positive"}
    corpus = read(tmp_path, data, labels=labels)
    assert corpus.labels == ["negative", "positive"]
    assert corpus.facts.counts["train"].left_out == 2
    assert sum(len(split) for split in corpus.splits.values()) == len(TWO) - 2
    with pytest.raises(DataError, match=r"data\.csv:9: has no label"):
        read(tmp_path, data, labels=["negative", "positive"])


def test_a_class_of_one_row_is_reported_with_its_line_and_a_fix(tmp_path: Path) -> None:
    data = write_csv(tmp_path / "data.csv", [*TWO[:50], ("so so", "mixed"), *TWO[50:]])
    with pytest.raises(DataError, match=r"the label 'mixed' has 1 row, at line 52; add some, or"):
        read(tmp_path, data)
    labels = {"mixed": None, "negative": "negative", "positive": "positive"}
    assert read(tmp_path, data, labels=labels).labels == ["negative", "positive"]
    few = write_csv(tmp_path / "few.csv", TWO[:10])
    with pytest.raises(DataError, match=r"1 of 10 rows, for 2 classes; add rows, or change the share"):
        read(tmp_path, few, validation=0.1)
