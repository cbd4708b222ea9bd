"""Read a new run folder back before training, so that the finished run is certain to load."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.checkpoints.untrusted_files import classes_of_run, vocabulary_of
from lstm_sentiment.config.command_line import config_yaml, read_settings
from lstm_sentiment.errors import CheckpointError, ConfigError, RunError, listed


def check_loadable(written: Mapping[str, Any], kind: type[Any]) -> None:
    """Check that the files that a run will write can be loaded again.

    Args:
        written: arguments of `RunFolder.begin`.
        kind: of the configuration.

    Raises:
        RunError: they cannot be read, or read as something else.

    >>> from lstm_sentiment.config.schema import Config
    >>> settings = {"config_yaml": config_yaml(Config()), "vocabulary": ["good"], "labels": ["a", "b"]}
    >>> check_loadable({**settings, "label_map": {"0": "a", "1": "b"}}, Config)
    >>> check_loadable({**settings, "label_map": {"0": "a", "1": "c"}}, Config)
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.RunError: the run could not be opened again: ./labels.json: does not hold the \
names of up to 100 classes
    """
    with tempfile.TemporaryDirectory(prefix="lstm_sentiment-", ignore_cleanup_errors=True) as place:
        trial = RunFolder(place)
        trial.begin(**written)
        try:
            config = read_settings(trial.path / "config.yaml", kind)
            vocabulary = vocabulary_of(trial.path / "vocabulary.json", len(written["vocabulary"]))
            labels = classes_of_run(trial.path / "labels.json")
        except (CheckpointError, ConfigError) as error:
            raise RunError(f"the run could not be opened again: {str(error).replace(place, '.')}") from None
        wrong = {
            "config.yaml": config_yaml(config) != written["config_yaml"],
            "vocabulary.json": vocabulary != written["vocabulary"],
            "labels.json": labels != (written["labels"], dict(written["label_map"])),
        }
    if any(wrong.values()):
        files = listed(name for name, differs in wrong.items() if differs)
        raise RunError(f"the run would read back differently ({files}); write its settings as plain text")
