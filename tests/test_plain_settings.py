"""Settings that are read without jsonargparse are those that it reads."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_sentiment.checkpoints import run_paths
from lstm_sentiment.config import command_line
from lstm_sentiment.config.command_line import config_yaml, read_config
from lstm_sentiment.config.plain_settings import plain_settings
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.yaml_files import as_option, keys_of, read_file, type_of
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.pretraining.config import PretrainConfig

WORDS = (
    "null true false yes Off None nan inf -inf ~ {} [] 0 -1 7 007 +3 1_000 0x1f 3.0 0.5 .5 5. 1e-3 10:30 "
    "1e-12 auto words a.csv /a-b/c.csv ./a .. s3://a/b utf-8 mean+max escapes+negation *.csv [a,b] é bf16"
)
TEXTS = [*WORDS.split(), "", " ", "so good", "a: b", '{"a": "b"}']
TEXTS += ['["a", "b"]', '["1", "b"]', '["null"]', '["a, b", "2020-01-01", "{}"]']


def slowly(kind: type, values: dict[str, str]) -> object:
    """Return the settings that jsonargparse reads, the error for a value out of range, or None for others."""
    given = {key: (text, "") for key, text in values.items()}
    try:
        return command_line._parse_strictly(kind, given)
    except ConfigError as error:
        return str(error)
    except (ValueError, argparse.ArgumentError):
        return None


def plainly(kind: type, values: dict[str, str]) -> object:
    """Return plain settings, the error for a value out of range, or None if they are not plain."""
    try:
        return plain_settings(kind, values)
    except ConfigError as error:
        return str(error)


def test_each_plain_value_is_read_as_jsonargparse_reads_it() -> None:
    """All values of a key of each type."""
    kinds: tuple[type, type] = (PretrainConfig, Config)
    keys = {str(type_of(kind, key)): (kind, key) for kind in kinds for key in keys_of(kind)}
    assert {kind for kind, _ in keys.values()} == {*kinds}
    plain = refused = 0
    for (kind, key), text in itertools.product(keys.values(), TEXTS):
        with contextlib.suppress(ConfigError):
            option = as_option(kind, key, text)
            found = plainly(kind, {key: option})
            if found is not None:
                plain += 1
                refused += isinstance(found, str)
                assert repr(found) == repr(slowly(kind, {key: option})), (key, text)
    assert plain > 2 * len(keys)
    assert refused > 3


@given(st.dictionaries(st.sampled_from(keys_of(Config)), st.sampled_from(TEXTS), max_size=5))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_several_plain_values_are_read_as_jsonargparse_reads_them(values: dict[str, str]) -> None:
    found = plainly(Config, values)
    assert found is None or repr(found) == repr(slowly(Config, values))


def test_the_settings_of_runs_are_plain(tmp_path: Path) -> None:
    for file in (run_paths.FOLDER / "config.yaml", tmp_path / "config.yaml"):
        if not file.is_file():
            file.write_text(config_yaml(Config()))
        values = {key: text for key, (text, _) in read_file(Config, str(file))[0].items()}
        assert plain_settings(Config, values) == slowly(Config, values) is not None
        assert read_config(file) == plain_settings(Config, values)


def test_unknown_keys_and_wrong_types_are_left_to_jsonargparse() -> None:
    assert plain_settings(Config, {"trainer.epohcs": "3"}) is None
    assert plain_settings(Config, {"trainer.epochs": "many"}) is None
    with pytest.raises(ConfigError, match=r"trainer\.epochs: "):
        plain_settings(Config, {"trainer.epochs": "-3"})
    assert plain_settings(Config, {}) == Config()


def test_a_run_plain_options_and_an_optimizer_need_no_slow_packages() -> None:
    code = (
        "import sys, lstm_sentiment\n"
        "lstm_sentiment.load('starter', device='cpu').predict('so good')\n"
        "from lstm_sentiment.config.command_line import parse_config\n"
        "parse_config(['--data.train=/a/b.csv', '--trainer.ema=1e-3'], program='', description='')\n"
        "import torch\n"
        "from lstm_sentiment.training.optimizer import LazyAdamW\n"
        "LazyAdamW([torch.nn.Parameter(torch.zeros(2))])\n"
        "slow = ('jsonargparse', 'pandas', 'scipy', 'sklearn', 'pyarrow', 'torch._dynamo')\n"
        "print(*[name for name in slow if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for epochs in (3, 4, 3):
        file.write_text(yaml.safe_dump({"trainer": {"epochs": epochs}}))
        assert read_config(file).trainer.epochs == epochs
