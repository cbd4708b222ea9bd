"""Errors, configuration, command line and YAML files."""

from __future__ import annotations

import dataclasses
import inspect
import re
import resource
import subprocess
import sys
import time
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

import lstm_sentiment
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.command_line import (
    CommandParser,
    config_yaml,
    parse_config,
    parse_settings,
    read_config,
)
from lstm_sentiment.config.schema import Config, TrainerConfig, flatten
from lstm_sentiment.config.sections import DataConfig, ModelConfig, TextConfig
from lstm_sentiment.config.yaml_files import keys_of
from lstm_sentiment.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DiskError,
    MissingExtraError,
    RunError,
    SentimentError,
    TrainingError,
    did_you_mean,
    shown,
)
from lstm_sentiment.pretraining.config import PretrainConfig

PACKAGE = Path(lstm_sentiment.__file__).parent
KEYS = keys_of(Config)
SECTIONS = (Config, DataConfig, TextConfig, ModelConfig, TrainerConfig)


def parse(*argv: str) -> Config:
    return parse_config(list(argv), program="test", description="")


def parse_yaml(folder: Path, content: str, *argv: str) -> Config:
    """Parse a configuration file with this content."""
    file = folder / "config.yaml"
    file.write_text(content, encoding="utf-8")
    return parse("--config", str(file), *argv)


def refusal(*argv: str) -> str:
    """Return the error message of a command line."""
    with pytest.raises(ConfigError) as caught:
        parse(*argv)
    return str(caught.value)


def yaml_refusal(folder: Path, content: str, *argv: str) -> str:
    """Return the error message of a file, with FILE for its path."""
    with pytest.raises(ConfigError) as caught:
        parse_yaml(folder, content, *argv)
    return str(caught.value).replace(str(folder / "config.yaml"), "FILE")


def in_yaml(key: str, value: str) -> tuple[str, int]:
    """Return a file that sets one key, and the line of that key."""
    *section, name = key.split(".")
    return (f"# a comment\n{section[0]}:\n  {name}: {value}\n", 3) if section else (f"\n{name}: {value}\n", 2)


# --- errors ---


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (SentimentError, 1),
        (ConfigError, 2),
        (DataError, 2),
        (RunError, 2),
        (MissingExtraError, 2),
        (CheckpointError, 3),
        (TrainingError, 4),
        (DiskError, 5),
    ],
)
def test_each_error_has_its_exit_code(kind: type[SentimentError], code: int) -> None:
    assert issubclass(kind, SentimentError)
    assert kind("x").exit_code == code
    assert str(kind("x")) == "x"


def test_data_error_names_file_line_and_column() -> None:
    assert str(DataError("bad", file="a.csv", line=3, column="text")) == "a.csv:3: column 'text': bad"
    assert str(DataError("bad", file="a.csv")) == "a.csv: bad"
    assert str(DataError("bad")) == "bad"
    error = DataError("bad", file="a.csv", line=3)
    assert (error.message, error.file, error.line, error.column) == ("bad", "a.csv", 3, None)


def test_config_error_names_file_and_key() -> None:
    assert str(ConfigError("bad", key="a.b", where="c.yaml:2")) == "c.yaml:2: a.b: bad"
    assert str(ConfigError("bad", key="a.b")) == "a.b: bad"
    assert str(ConfigError("bad", where="c.yaml")) == "c.yaml: bad"


def test_quoted_text_has_no_control_characters() -> None:
    hostile = "a\x1b]0;x\x07\n\r\t\x85\u2028\u202e\ud800\x00b"
    quoted = shown(hostile)
    assert quoted.isprintable()
    assert quoted.encode("utf-8")
    assert quoted.startswith("'a")
    assert quoted.endswith("b'")


def test_hint_only_for_a_near_word() -> None:
    assert did_you_mean("negatve", ["negative", "positive"]) == " Did you mean 'negative'?"
    assert did_you_mean("xyz", ["negative", "positive"]) == ""


# --- configuration ---


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_is_documented_in_order(section: type) -> None:
    documented = re.findall(r"^    (\w+): \S", inspect.getdoc(section) or "", re.MULTILINE)
    assert documented == [field.name for field in dataclasses.fields(section)]


@pytest.mark.parametrize("section", SECTIONS)
def test_configuration_cannot_be_changed(section: type) -> None:
    value = section()
    name = dataclasses.fields(section)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, "other")


@pytest.mark.parametrize("section", SECTIONS)
def test_fields_are_named_when_given(section: type) -> None:
    with pytest.raises(TypeError):
        section("x")


def test_flat_keys_cover_every_field_once() -> None:
    count = sum(len(dataclasses.fields(section)) for section in SECTIONS) - 4
    assert len(KEYS) == len(set(KEYS)) == count
    assert flatten(Config(seed=5))["seed"] == 5


def test_defaults_come_from_the_dataclasses() -> None:
    assert parse() == Config()


OUT_OF_RANGE = [
    ("trainer.epochs", "0"),
    ("trainer.batch_size", "0"),
    ("trainer.accumulate", "0"),
    ("trainer.checkpoint_every", "0"),
    ("trainer.threads", "-1"),
    ("trainer.patience", "-1"),
    ("trainer.learning_rate", "0"),
    ("trainer.learning_rate", "-1e-3"),
    ("trainer.learning_rate", ".nan"),
    ("trainer.learning_rate", ".inf"),
    ("trainer.learning_rate", "1e400"),
    ("trainer.clip_norm", "0"),
    ("trainer.weight_decay", "-0.1"),
    ("trainer.weight_decay", ".nan"),
    ("trainer.weight_decay", ".inf"),
    ("trainer.warmup", "1.0"),
    ("trainer.label_smoothing", "1.0"),
    ("trainer.ema", "1.0"),
    ("trainer.ema", "-0.1"),
    ("trainer.device", "gpu"),
    ("trainer.device", "cuda:x"),
    ("model.dropout", "1.0"),
    ("model.dropout", ".nan"),
    ("model.embedding_dropout", "-0.1"),
    ("model.word_dropout", "1.5"),
    ("model.embedding_size", "0"),
    ("model.embedding_size", "4097"),
    ("model.hidden_size", "0"),
    ("model.layers", "0"),
    ("model.layers", "17"),
    ("model.pooling", "average"),
    ("model.pooling", "mean+mean"),
    ("model.pooling", "mean+"),
    ("text.max_tokens", "0"),
    ("text.max_tokens", "1000001"),
    ("text.vector_words", "-1"),
    ("text.vector_words", "10"),
    ("text.min_frequency", "0"),
    ("text.max_vocabulary", "0"),
    ("text.max_vocabulary", "10000001"),
    ("data.validation", "0.0"),
    ("data.validation", "1.5"),
    ("data.validation", "1"),
    ("data.test", "-0.1"),
    ("data.max_rows", "0"),
    ("data.encoding", "utf-99"),
    ("data.labels", "[good]"),
    ("data.labels", "[good, good, bad]"),
    ("data.labels", "{0: good, 1: good}"),
    ("seed", "-1"),
    ("seed", "2147483648"),
    ("seeds", "0"),
    ("seeds", "1001"),
]
WRONG_TYPE = [
    ("trainer.epochs", "many", "a whole number"),
    ("trainer.epochs", "1.5", "a whole number"),
    ("trainer.epochs", "true", "a whole number"),
    ("trainer.epochs", "[3]", "a whole number"),
    ("trainer.learning_rate", "fast", "a number"),
    ("model.bidirectional", "maybe", "true or false"),
    ("text.truncate", "end", "one of head, tail, middle"),
    (
        "trainer.metric",
        "f1",
        "one of macro_f1, accuracy, macro_recall, loss, polar_f1, flip_rate, ordinal_error",
    ),
    ("data.labels", "good", "a list of names such as [negative, positive]"),
    ("data.filter", "good", "a map such as {key: value}"),
    ("resume", "2", "true or false"),
]


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_with_its_location(tmp_path: Path, key: str, value: str) -> None:
    """The error of a value in a file names file and line; that of a command line does not."""
    assert refusal(f"--{key}={value}").startswith(f"{key}: ")
    content, line = in_yaml(key, value)
    assert yaml_refusal(tmp_path, content).startswith(f"FILE:{line}: {key}: ")


def numbers(kind: type[Any], prefix: str = "") -> list[str]:
    """Return the keys of all settings that may be numbers."""
    found, types = [], typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(inner := types[field.name]):
            found += numbers(typing.cast(type[Any], inner), f"{prefix}{field.name}.")
        elif {int, float} & {inner, *typing.get_args(inner)}:
            found.append(f"{prefix}{field.name}")
    return found


@pytest.mark.parametrize("key", numbers(Config))
def test_no_number_may_be_negative_or_non_finite(key: str) -> None:
    """A setting without a check of its range would be accepted."""
    for value in ("-1", "-0.5", ".nan", ".inf"):
        assert refusal(f"--{key}={value}").startswith(f"{key}: "), value


@pytest.mark.parametrize("key", sorted({*numbers(PretrainConfig)} - {*numbers(Config)}))
def test_no_number_of_pretrain_may_be_negative_or_non_finite(key: str) -> None:
    for value in ("-1", "-0.5", ".nan", ".inf"):
        with pytest.raises(ConfigError, match=f"^{key}: "):
            parse_settings(
                PretrainConfig,
                ["--data.train=a.csv", f"--{key}={value}"],
                program="",
                description="",
            )


@pytest.mark.parametrize(("key", "value", "expected"), WRONG_TYPE)
def test_a_wrong_type_is_refused_with_what_was_expected(
    tmp_path: Path, key: str, value: str, expected: str
) -> None:
    on_command_line = refusal(f"--{key}={value}")
    assert on_command_line.startswith(f"{key}: ")
    content, line = in_yaml(key, value)
    in_file = yaml_refusal(tmp_path, content)
    assert in_file.startswith(f"FILE:{line}: {key}: ")
    for message in (on_command_line, in_file):
        assert expected in message
        assert message.isprintable()
        assert "<class" not in message


def test_a_wrong_type_shows_what_was_found(tmp_path: Path) -> None:
    assert "'many'" in refusal("--trainer.epochs=many")
    assert "'many'" in yaml_refusal(tmp_path, "trainer:\n  epochs: many\n")


def test_a_map_of_labels_has_codes_or_names_as_keys(tmp_path: Path) -> None:
    labels = parse_yaml(tmp_path, "data:\n  labels: {'no': bad, 'yes': good}\n").data.labels
    assert labels == {"no": "bad", "yes": "good"}
    assert DataConfig(labels={0: "bad", 4: "good"}).labels == {"0": "bad", "4": "good"}


MAPS = [  # typed text, expected map
    ("{0: bad, 4: good}", {"0": "bad", "4": "good"}),
    ("{0: negative, 1: yes}", {"0": "negative", "1": "yes"}),
    ("{1: bad, 2: bad, 3: null, 4: good, 5: 5}", {"1": "bad", "2": "bad", "3": None, "4": "good", "5": "5"}),
    ("{0: 1, 1: 2}", {"0": "1", "1": "2"}),
    ("{no: bad, yes: good}", {"no": "bad", "yes": "good"}),
    ("{true: a, False: b}", {"true": "a", "False": "b"}),
    ("{+1: a, -1: b}", {"+1": "a", "-1": "b"}),
    ("{1e3: a, 012: b, 1:30: c}", {"1e3": "a", "012": "b", "1:30": "c"}),
    ("{1.0: a, 4.0: b}", {"1.0": "a", "4.0": "b"}),
    ("{2020-01-01: a, 0x1F: b}", {"2020-01-01": "a", "0x1F": "b"}),
    ("{'null': a, b: 'null', c: ~, '': null}", {"null": "a", "b": "null", "c": None, "": None}),
    ("[yes, no, 1, 2.5, 1e3]", ["yes", "no", "1", "2.5", "1e3"]),
]


@pytest.mark.parametrize(("typed", "meant"), MAPS)
def test_labels_are_the_text_that_was_typed(tmp_path: Path, typed: str, meant: Any) -> None:
    """The control: plain YAML reads numbers, booleans and dates."""
    assert parse(f"--data.labels={typed}").data.labels == meant
    assert parse("--data.labels", typed).data.labels == meant
    assert parse_yaml(tmp_path, f"data:\n  labels: {typed}\n").data.labels == meant
    assert yaml.safe_load(typed) != meant or "'null'" in typed


MISREAD_MAPS = [
    ("{null: a, x: b}", "'null' reads as no value in YAML; write \"null\" if text is meant"),
    ("{a: x, b: y, ~: c}", "'~' reads as no value in YAML"),
    ("[a, b, null]", "'null' reads as no value in YAML"),
    ("{positive: [good, fine], negative: bad}", "such as {good: positive, fine: positive, bad: negative}"),
    ("{a: A, b: B, c: {d: e}}", "a map is not text"),
    ("[a, [b]]", "a list is not text"),
    ("{4: good, 4.0: bad}", "'4' and '4.0' are the same code with two names; remove one"),
    ("[4, 4.0]", "names a class in two spellings"),
]


@pytest.mark.parametrize(("typed", "expected"), MISREAD_MAPS)
def test_an_ambiguous_label_map_is_refused(tmp_path: Path, typed: str, expected: str) -> None:
    assert refusal(f"--data.labels={typed}").startswith("data.labels: ")
    assert expected in refusal(f"--data.labels={typed}")
    message = yaml_refusal(tmp_path, f"data:\n  labels: {typed}\n")
    assert message.startswith("FILE:2: data.labels: ")
    assert expected in message


def test_other_lists_and_maps_contain_text_too() -> None:
    assert parse("--data.filter={source: yes, year: 2001, share: 1.50}").data.filter == {
        "source": "yes", "year": "2001", "share": "1.50",
    }  # fmt: skip
    unlabelled = parse("--data.unlabelled=[a.csv, 1]", "--trainer.vat=0.1").data.unlabelled
    assert unlabelled == ["a.csv", "1"]
    assert parse("--data.unlabelled=a.csv", "--trainer.vat=0.1").data.unlabelled == "a.csv"
    for key, value in [("unlabelled", "{a: b}"), ("unlabelled", "[a, [b]]"), ("filter", "{source: null}")]:
        assert refusal(f"--data.{key}={value}", "--trainer.vat=0.1").startswith(f"data.{key}: ")
    assert "another number" in refusal("--data.validation=1:30")


@pytest.mark.parametrize(
    "labels", [{0: "a", 1: 1}, {0: "a", None: "b"}, {0: "a", 1: []}, {"0": "a", (1,): "b"}]
)
def test_a_class_name_is_text_in_python_too(labels: dict[Any, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data\.labels: .*write it in quotes"):
        DataConfig(labels=labels)


def test_text_values_stay_text_on_the_command_line() -> None:
    config = parse("--out=007", "--data.train=a: b.csv", "--data.text_column=1e-3")
    assert (config.out, config.data.train, config.data.text_column) == ("007", "a: b.csv", "1e-3")


def test_null_is_refused_where_the_default_is_not_null(tmp_path: Path) -> None:
    owners = {"": Config} | dict(zip(("data", "text", "model", "trainer"), SECTIONS[1:], strict=True))
    wrong = []
    for key in KEYS:
        section, _, name = key.rpartition(".")
        optional = type(None) in typing.get_args(typing.get_type_hints(owners[section])[name])
        content, line = in_yaml(key, "null")
        try:
            parse_yaml(tmp_path, content)
            outcome = "accepted"
        except ConfigError as error:
            outcome = str(error).replace(str(tmp_path / "config.yaml"), "FILE")
        except Exception as error:
            outcome = repr(error)
        if (outcome == "accepted") != optional or not (
            optional or outcome.startswith(f"FILE:{line}: {key}: ")
        ):
            wrong.append(f"{key}: {outcome}")
    assert wrong == []


def test_scientific_notation_is_a_number(tmp_path: Path) -> None:
    assert parse_yaml(tmp_path, "trainer:\n  learning_rate: 1e-3\n").trainer.learning_rate == 0.001
    assert parse("--trainer.learning_rate=1e-3").trainer.learning_rate == 0.001


@pytest.mark.parametrize(
    ("argv", "key", "part"),
    [
        (["--text.freeze_vectors=true"], "text.freeze_vectors", "no vectors"),
        (["--trainer.patience=7", "--trainer.epochs=6"], "trainer.patience", "trainer.epochs"),
        (["--resume=true", "--overwrite=true"], "overwrite", "contradicts resume"),
        (["--data.validation=0.5", "--data.test=0.5"], "data.validation", "data.test"),
        (["--data.validation=0.9", "--data.test=0.9"], "data.validation", "leaves no training rows"),
    ],
)
def test_options_in_conflict_are_refused(tmp_path: Path, argv: list[str], key: str, part: str) -> None:
    message = refusal(*argv)
    assert message.count("\n") == 0
    assert message.startswith(f"{key}: ")
    assert part in message
    content = "".join(in_yaml(*word[2:].split("="))[0] for word in argv)
    sections = re.findall(r"^\w+:$", content, re.MULTILINE)
    for section in set(sections[1:]):  # a section occurs once in a file
        head, _, tail = content.rpartition(f"# a comment\n{section}\n")
        content = head + tail
    assert re.match(rf"FILE:\d+: {key}: ", yaml_refusal(tmp_path, content))


def test_options_at_the_edge_of_a_conflict_are_accepted() -> None:
    assert parse("--trainer.patience=6", "--trainer.epochs=6").trainer.patience == 6
    assert parse("--data.validation=0.9", "--data.test=null").data.test is None
    assert parse("--text.freeze_vectors=true", "--text.vectors=x").text.freeze_vectors
    assert parse("--resume=true").resume


# --- command line ---


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("trainer.epoch", "trainer.epochs"),
        ("epochs", "trainer.epochs"),
        ("trainer.resume", "resume"),
        ("modl.layers", "model.layers"),
        ("text.tokeniser", "text.tokenizer"),
        ("sed", "seed"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest(tmp_path: Path, name: str, nearest: str) -> None:
    assert refusal(f"--{name}=3") == f"{name}: no such option. Did you mean '{nearest}'?"
    assert refusal(f"--{name}", "3") == f"{name}: no such option. Did you mean '{nearest}'?"
    if name.split(".")[0] in ("trainer", "text", "epochs", "sed"):
        content, line = in_yaml(name, "3")
        expected = f"FILE:{line}: {name}: no such key. Did you mean '{nearest}'?"
        assert yaml_refusal(tmp_path, content) == expected


@pytest.mark.parametrize(
    "argv",
    [
        ["--trainer.epo=3"],
        ["--data.filter.source=imdb"],
        ["--print_confi"],
        ["--trainer.epochs"],
        ["--config"],
        ["stray"],
        ["-x"],
    ],
)
def test_options_cannot_be_abbreviated(argv: list[str]) -> None:
    """Neither an abbreviation nor a stray word is accepted silently."""
    assert argv[0].lstrip("-").split("=")[0] in refusal(*argv)


def test_a_section_is_not_an_option() -> None:
    message = refusal("--trainer=3")
    assert message.startswith("trainer: ")
    assert "trainer.epochs" in message


def test_the_last_of_two_options_wins() -> None:
    assert parse("--trainer.epochs=3", "--trainer.epochs", "4").trainer.epochs == 4


def test_the_command_line_overrides_the_file_in_any_position(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("trainer:\n  epochs: 3\n  ema: 0.5\n", encoding="utf-8")
    after = parse("--config", str(file), "--trainer.epochs", "5").trainer
    before = parse("--trainer.epochs=5", f"--config={file}").trainer
    assert (after.epochs, after.ema) == (5, 0.5)
    assert (before.epochs, before.ema) == (5, 0.5)


def test_an_error_on_the_command_line_does_not_blame_the_file(tmp_path: Path) -> None:
    content = "trainer:\n  epochs: 3\n"
    assert yaml_refusal(tmp_path, content, "--trainer.epochs=0").startswith("trainer.epochs: ")
    assert yaml_refusal(tmp_path, content, "--trainer.epochs=x").startswith("trainer.epochs: ")


def test_a_later_file_wins_and_is_named_in_errors(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("trainer:\n  epochs: 3\n  ema: 0.5\n", encoding="utf-8")
    second.write_text("trainer:\n\n  epochs: 4\n", encoding="utf-8")
    config = parse("--config", str(first), "--config", str(second))
    assert (config.trainer.epochs, config.trainer.ema) == (4, 0.5)
    second.write_text("trainer:\n\n  epochs: 0\n", encoding="utf-8")
    assert refusal("--config", str(first), "--config", str(second)).startswith(f"{second}:3: ")


def test_file_and_command_line_are_checked_together(tmp_path: Path) -> None:
    """Settings that need each other may be in different places; all mistakes are reported."""
    content = "trainer:\n  patience: 7\n"
    assert parse_yaml(tmp_path, content, "--trainer.epochs=8").trainer.patience == 7
    message = yaml_refusal(tmp_path, "seed: many\n", "--trainer.epohcs=3")
    assert "FILE:1: seed: 'many' is not" in message
    assert "trainer.epohcs: no such option" in message


def test_help_lists_accepted_options_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    listed = re.findall(r"^ +(?:-h, )?--([a-z][^ ]*)", capsys.readouterr().out, re.MULTILINE)
    assert {name.replace("-", "_") for name in listed} == {*KEYS, "config", "print_config", "help"}


def test_a_configuration_with_a_mistake_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal("--trainer.epochs=0", "--print-config").startswith("trainer.epochs: ")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", ["[" * 3000 + "]" * 3000, "[&a [x], *a]", "[!!int '']"])
def test_a_list_that_expands_is_refused_on_the_command_line(value: str) -> None:
    """At once: to read the first to its end takes PyYAML minutes."""
    started = time.process_time()
    assert refusal(f"--data.labels={value}").startswith("data.labels: ")
    assert time.process_time() - started < 5


AS_TYPED = [
    [],
    ["--trainer.learning_rate=1e-3", "--seed=7", "--baseline=false", "--out=a b: c"],
    ["--data.labels={0: negative, 4: positive}", "--data.test=null", "--data.validation=val.csv"],
    ["--data.labels=['no', 'yes']", "--data.filter={source: imdb, year: 2001}"],
    ["--data.train=007.csv", "--text.vectors=null", "--data.text_column=2001-01-01"],
    ["--out=1e5"],
    ["--data.labels={0: bad, 2: null, 'null': null, 4: good}", "--data.phrases=0.25"],
    ["--data.labels={0: '😀', 1: 'a\\b\"c', 2: '- d: [e]'}"],
]


@pytest.mark.parametrize("argv", AS_TYPED)
def test_a_printed_configuration_reads_back_equal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*argv, "--print_config")
    assert caught.value.code in (0, None)
    assert parse_yaml(tmp_path, capsys.readouterr().out) == parse(*argv)


@pytest.mark.parametrize("argv", AS_TYPED)
def test_a_run_folders_configuration_reads_back_equal(tmp_path: Path, argv: list[str]) -> None:
    assert parse_yaml(tmp_path, config_yaml(parse(*argv))) == parse(*argv)


def test_a_simple_parser_raises_instead_of_exiting() -> None:
    parser = CommandParser(prog="tool")
    parser.add_argument("--rows", type=int)
    with pytest.raises(ConfigError, match="tool --help"):
        parser.parse_args(["--rows", "x"])


# --- YAML files ---


def test_a_duplicate_key_is_refused_with_both_lines(tmp_path: Path) -> None:
    message = yaml_refusal(tmp_path, "trainer:\n  epochs: 3\n  ema: 0.5\n  epochs: 4\n")
    assert message == "FILE:4: trainer.epochs: duplicate key, first set at FILE:2; remove one"
    message = yaml_refusal(tmp_path, "seed: 1\ntrainer:\n  epochs: 3\ntrainer:\n  ema: 0.5\n")
    assert message == "FILE:4: trainer: duplicate key, first set at FILE:2; remove one"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("trainer:\n  epochs: [3\nseed: 1\n", "3:"),
        ("trainer:\n\tepochs: 3\n", "2:1"),
        ("trainer:\n  epochs: 3\n epochs: 4\n", "3:2"),
        ("seed: 1\n---\nseed: 2\n", "2:1"),
        ("out: 'a\n", ""),
    ],
)
def test_broken_yaml_is_refused_with_line_and_column(tmp_path: Path, content: str, place: str) -> None:
    message = yaml_refusal(tmp_path, content)
    assert re.match(rf"FILE:{place or r'[12]:'}\d*: (not YAML|a second document)", message), message


@pytest.mark.parametrize("content", ["trainer: 3\n", "trainer:\n", "trainer: [epochs]\n"])
def test_a_section_given_as_a_value_is_refused(tmp_path: Path, content: str) -> None:
    message = yaml_refusal(tmp_path, content)
    assert message == "FILE:1: section trainer must hold 'key: value' lines"


@pytest.mark.parametrize("content", ["[1, 2]\n", "trainer.epochs\n", "epochs:3\n"])
def test_a_file_that_is_not_a_map_is_refused(tmp_path: Path, content: str) -> None:
    assert yaml_refusal(tmp_path, content) == "FILE:1: the file must hold 'key: value' lines"


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing but the defaults\n", "\ufeff# byte order mark\n"])
def test_an_empty_file_means_the_defaults(tmp_path: Path, content: str) -> None:
    """A file needs only settings that differ from the defaults, possibly none."""
    assert parse_yaml(tmp_path, content) == Config()


def test_an_unreadable_file_is_refused_by_name(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert refusal("--config", str(missing)) == f"{missing}: no such file; give an existing one."
    assert refusal(f"--config={missing}") == f"{missing}: no such file; give an existing one."
    assert refusal("--config", str(tmp_path)).startswith(f"{tmp_path}: ")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"out: caf\xe9\n")
    assert refusal("--config", str(latin)) == f"{latin}:1: not UTF-8 at byte 8; save it as UTF-8"
    large = tmp_path / "large.yaml"
    large.write_text("#" * 1_000_001, encoding="utf-8")
    assert refusal("--config", str(large)).startswith(f"{large}: is larger than")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir", "!!python/name:os.mkdir", "!other"])
def test_a_yaml_tag_is_refused_and_runs_nothing(tmp_path: Path, tag: str) -> None:
    canary = tmp_path / "canary"
    message = yaml_refusal(tmp_path, f"seed: 1\nout: {tag} ['{canary}']\n")
    assert not canary.exists()
    assert message.startswith("FILE:2:")


def test_a_yaml_alias_is_refused(tmp_path: Path) -> None:
    """Nine levels of nine aliases expand three hundred bytes to a gigabyte."""
    message = yaml_refusal(tmp_path, "data:\n  labels:\n    - &a [x, x]\n    - [*a, *a]\n")
    assert message.startswith("FILE:")
    assert "alias" in message


def test_a_deeply_nested_file_is_refused(tmp_path: Path) -> None:
    assert yaml_refusal(tmp_path, "out: " + "[" * 1000 + "\n").startswith("FILE:")


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    """Settings are kept by their content, and a mistake has the place that it has now."""
    file = tmp_path / "config.yaml"
    for epochs in (3, 4, 3):
        file.write_text(f"trainer: {{epochs: {epochs}}}\n")
        assert read_config(file).trainer.epochs == epochs
    for line in (1, 3):
        file.write_text("\n" * (line - 1) + "trainer: {epochs: 0}\n")
        with pytest.raises(ConfigError, match=rf"config\.yaml:{line}: trainer\.epochs: "):
            read_config(file)


def test_threads_parse_at_the_same_time() -> None:
    numbers = list(range(1, 41))
    with ThreadPoolExecutor(4) as pool:
        found = [
            config.trainer.epochs for config in pool.map(lambda n: parse(f"--trainer.epochs={n}"), numbers)
        ]
    assert found == numbers


# --- commands ---


def command(module: str, *argv: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"lstm_sentiment.{module}", *argv],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        check=False,
    )


def test_a_mistyped_option_is_a_one_line_error(tmp_path: Path) -> None:
    done = command("train", "--trainer.epoch", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: trainer.epoch: no such option. Did you mean 'trainer.epochs'?\n"
    assert list(tmp_path.iterdir()) == []


def test_help_is_fast(tmp_path: Path) -> None:
    """By CPU time, since the machine may be busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = command("train", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--trainer.epochs" in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 1.5


HEAVY = ("torch", "torchtext", "sklearn", "scipy", "pandas", "pyarrow")


@pytest.mark.parametrize(
    "code",
    [
        "import lstm_sentiment",
        "from lstm_sentiment import train; train.main(['--help'])",
        "from lstm_sentiment import predict; predict.main(['--help'])",
        "from lstm_sentiment import evaluate; evaluate.main(['--help'])",
    ],
)
def test_import_and_help_load_no_heavy_packages(tmp_path: Path, code: str) -> None:
    script = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit as left:\n    assert left.code in (0, None)\n"
        f"print('loaded:', *[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_the_package_lists_its_public_names() -> None:
    assert {"load", "SentimentClassifier", "Prediction"} <= set(lstm_sentiment.__all__)
    assert all(hasattr(lstm_sentiment, name) for name in lstm_sentiment.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = lstm_sentiment.lod


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (ConfigError("bad", key="seed"), 2, "error: seed: bad\n"),
        (CheckpointError("torn"), 3, "error: torn\n"),
        (TrainingError("not finite"), 4, "error: not finite\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (None, 0, ""),
    ],
)
def test_a_command_exits_with_the_code_of_the_error(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException | None,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["tool", "a", "b"])
    seen: list[list[str]] = []

    def main(argv: list[str]) -> None:
        seen.append(argv)
        if raised is not None:
            raise raised

    with pytest.raises(SystemExit) as caught:
        run_command(main)
    assert (caught.value.code, seen, capsys.readouterr().err) == (code, [["a", "b"]], message)


def test_an_internal_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["tool"])

    def main(argv: list[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(main)


def test_a_closed_pipe_is_not_an_error(tmp_path: Path) -> None:
    script = (
        "from lstm_sentiment.cli.exits import run_command\n"
        "def main(argv):\n    for i in range(200_000):\n        print(i)\n"
        "run_command(main)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141
