"""Nothing published, logged or shown contains local paths or credentials of URLs.

Settings are found by walking the schema, so that new ones are included.
"""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from attacks import GOOD_RUN, sign

from lstm_sentiment import evaluate, load, report
from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.public import NOT_PATHS, last_part, public_config
from lstm_sentiment.config.schema import Config, flatten
from lstm_sentiment.config.yaml_files import keys_of, type_of
from lstm_sentiment.data.sources.downloads import fetched
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import DataError, without_secrets
from lstm_sentiment.experiment.launching import log_to_stdout
from lstm_sentiment.experiment.session import new_curves
from lstm_sentiment.pretraining.config import PretrainConfig
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.training.tensorboard import Curves

PLACES = (
    "/home/secret-user/{}.csv",
    r"C:\Users\secret-user\{}.csv",
    "https://me:hunter2@secret-user.org/{}.csv?key=hunter2#hunter2",
    "s3://hunter2:hunter2@secret-user/{}.csv",
    "simplecache::ftp://me:hunter2@secret-user/a/{}.csv",
)
SECRET = re.compile(rb"secret-user|hunter2", re.IGNORECASE)
NEVER_TOGETHER = ("text.vectors", "pretrained")


def parts_of(hint: Any) -> set[Any]:
    """Return the types of a setting, including those in lists and maps."""
    found = {hint}
    for part in typing.get_args(hint) if typing.get_origin(hint) is not typing.Literal else ():
        found |= parts_of(part)
    return found


def text_settings(kind: type) -> list[str]:
    """Return the settings that may be any text."""
    return [key for key in keys_of(kind) if str in parts_of(type_of(kind, key))]


def with_places(kind: type, place: str, *, without: str) -> Any:
    """Return a configuration with paths or URLs in all settings that accept them, except one."""
    changed: dict[str, dict[str, Any]] = {}
    for key in text_settings(kind):
        if key in NOT_PATHS or key == without:
            continue
        section, _, name = key.rpartition(".")
        hint = type_of(kind, key)
        named = place.format(name)
        value: Any = {"source": named} if dict in {typing.get_origin(p) for p in parts_of(hint)} else named
        if list[str] in parts_of(hint):
            value = [named, named.replace(".csv", "2.csv")]
        changed.setdefault(section, {})[name] = value
    own = changed.pop("", {})
    sections = {
        name: dataclasses.replace(getattr(kind(), name), **values) for name, values in changed.items()
    }
    return dataclasses.replace(kind(), **own, **sections)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("kind", "without"), [*((Config, key) for key in NEVER_TOGETHER), (PretrainConfig, "text.vectors")]
)
def test_no_path_setting_is_published_in_full(kind: type, place: str, without: str) -> None:
    config = with_places(kind, place, without=without)
    before, after = config_yaml(config).encode(), config_yaml(public_config(config)).encode()
    assert SECRET.search(before), "the control: as it is, it has the secret"
    assert not SECRET.search(after), after.decode()
    assert public_config(public_config(config)) == public_config(config)
    unset = {key for key in text_settings(kind) if flatten(config)[key] == flatten(kind())[key]}
    assert unset <= {*NOT_PATHS, without}, "a setting was not tried"


def test_settings_with_past_leaks_are_tested() -> None:
    settings = set(text_settings(Config)) - NOT_PATHS
    assert settings >= {
        "teacher",
        "pretrained",
        "data.unlabelled",
        "data.exclude",
        "data.train",
        "data.filter",
    }


def test_other_settings_are_published() -> None:
    config = Config()
    assert public_config(config) == config
    assert {*keys_of(Config), *keys_of(PretrainConfig)} >= NOT_PATHS


@pytest.fixture
def secretive(tmp_path: Path) -> Path:
    """A run whose configuration has paths and credentials everywhere."""
    run = Path(shutil.copytree(GOOD_RUN, tmp_path / "run"))
    old = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    new = yaml.safe_load(config_yaml(with_places(Config, PLACES[2], without="text.vectors")))
    for section in ("text", "model"):
        new[section] = old[section]
    (run / "config.yaml").write_text(yaml.safe_dump(new, sort_keys=False), "utf-8")
    sign(run)
    return run


def test_a_published_folder_has_no_local_paths(secretive: Path, tmp_path: Path) -> None:
    load(secretive).save_pretrained(tmp_path / "published")
    assert SECRET.search((secretive / "config.yaml").read_bytes())
    for file in (tmp_path / "published").rglob("*"):
        assert not file.is_file() or not SECRET.search(file.read_bytes()), file
    assert load(tmp_path / "published").predict("great")


def test_a_report_has_no_local_paths(secretive: Path) -> None:
    report.main([str(secretive)])
    found = SECRET.search((secretive / "report.html").read_bytes())
    assert not found


def test_curves_have_no_local_paths(tmp_path: Path) -> None:
    config = with_places(Config, PLACES[2], without="text.vectors")
    config = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, tensorboard=True))
    curves = new_curves(RunFolder(tmp_path), config, Processes())
    assert isinstance(curves, Curves)
    with curves:
        curves.add(1, {"train/loss": 1.0})
    [events] = (tmp_path / "tensorboard").iterdir()
    assert b"settings" in events.read_bytes()
    assert not SECRET.search(events.read_bytes())


def test_saved_scores_name_urls_without_credentials(
    secretive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\ngreat,positive\nawful,negative\nusual,neutral\n")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: rows.open("rb"))
    evaluate.main([str(secretive), "https://me:hunter2@example.org/rows.csv?sig=hunter2"])
    assert not SECRET.search((secretive / "evaluation.json").read_bytes())
    printed = capsys.readouterr()
    assert "https://example.org/rows.csv" in printed.out
    assert "hunter2" not in printed.out + printed.err


def test_log_and_errors_have_no_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        log_to_stdout()
        logging.getLogger("lstm_sentiment.experiment.train").info("data: %s", PLACES[2])
    finally:
        root.handlers[:], root.level = handlers, level
    assert capsys.readouterr().out == "data: https://secret-user.org/{}.csv\n"
    assert str(DataError("bad", file=PLACES[2], line=3)) == "https://secret-user.org/{}.csv:3: bad"


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@127.0.0.1:9/a.csv",
        "http://me:hunter2@127.0.0.1/a.csv?sig=hunter2",
        "nosuch://me:hunter2@host/a.csv",
        "http://127.0.0.1:9/a.csv?sig=hunter2",
    ],
)
def test_fetch_errors_have_no_credentials(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError) as caught, open_source(url):
        pass
    assert "hunter2" not in str(caught.value)
    assert "a.csv" in str(caught.value)

    def fetch(_: list[str]) -> None:
        with fetched(url):
            pass

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit):
        run_command(fetch)
    assert "hunter2" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("https://me:p@ss@host/a.csv", "https://host/a.csv"),
        ("'https://h/a?x=1' and http://u@h/b#c.", "'https://h/a' and http://h/b"),
        ("a?b#c@d", "a?b#c@d"),
        ("zip://a.csv::https://u:p@h/a.zip", "zip://a.csv::https://h/a.zip"),
    ],
)
def test_credentials_are_removed_only_from_urls(text: str, plain: str) -> None:
    assert without_secrets(text) == plain


def test_the_last_path_component_has_no_credentials() -> None:
    assert [last_part(place.format("a")) for place in PLACES] == ["a.csv"] * 5
    assert "hunter2" not in last_part("https://me:hunter2@")
    assert last_part("package:/home/secret-user/a.csv") == "a.csv"
