"""What a run began with, and whether it is still the same when the run is to go on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.errors import CheckpointError, RunError, listed
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.text.tokenizers import Vocabulary

METRICS_FILE = "metrics.json"  # a run folder that has it has come to its end


class RunData(Protocol):
    """What a run folder says of its data (see `corpus.Corpus`)."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Tokens that the model knows."""

    @property
    def labels(self) -> list[str]:
        """Class names; none for a language model."""

    @property
    def label_map(self) -> dict[str, str | None]:
        """What files say -> class name, or None for rows to leave out."""

    @property
    def facts(self) -> dict[str, Any]:
        """Counts for the report."""


def check_beginning(
    before: Mapping[str, Any], facts: Mapping[str, Any], folder: RunFolder, data: RunData
) -> None:
    """Refuse to go on with other data, other pretrained weights or another teacher.

    Args:
        before: facts of a checkpoint of the run.
        facts: of the run that is to go on (see `session.checkpoint_to_resume`).
        folder: of the run.
        data: what `facts["data"]` is the fingerprint of.

    Raises:
        RunError: names what is no longer the same.

    Example::

        check_beginning(folder.load(BEST).facts, {"data": corpus.fingerprint}, folder, corpus)
    """
    if before.get("data") != facts["data"]:
        raise RunError(
            f"{folder.path}: the rows, labels or vocabulary are no longer those the run began with ("
            f"{'; '.join(_differences(folder, data)) or _sums(before.get('data'), facts['data'])}); "
            "restore the data files, or start another run"
        )
    for name, what in (("pretrained", "pretrained weights"), ("teacher", "teacher's weights")):
        if before.get(name) != facts.get(name):
            raise RunError(
                f"{folder.path}: the {what} are no longer those the run began with ("
                f"{_sums(before.get(name), facts.get(name))}); restore them, or start another run"
            )


def _differences(folder: RunFolder, data: RunData) -> list[str]:
    """Return in words how data differ from those of a run, as far as its files tell."""
    saved: dict[str, Any] = {}
    for name in ("labels", "vocabulary", "data"):
        with contextlib.suppress(CheckpointError):
            saved[name] = folder.read_json(f"{name}.json")
    then: dict[str, Any] = {}
    now: dict[str, Any] = {"labels": listed(data.labels)}
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # the files are not checked: words only
        then["labels"] = listed(saved["labels"]["labels"])
        then["tokens of the vocabulary"] = len(saved["vocabulary"])
        now["tokens of the vocabulary"] = len(data.vocabulary) - len(SPECIAL_TOKENS)
        for split, of in saved["data"]["splits"].items():
            for unit in {"rows", "texts"} & of.keys():
                then[f"{unit} of {split}"] = of[unit]
                now[f"{unit} of {split}"] = data.facts["splits"].get(split, {}).get(unit)
    return [f"{what}: {then[what]}, now {now[what]}" for what in then if then[what] != now.get(what)]


def _sums(then: object, now: object) -> str:
    return f"sha256 {str(then)[:12]}, now {str(now)[:12]}"
