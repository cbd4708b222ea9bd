"""Packs a finished run for distribution: quantized weights, without traces of the training machine.

    OUT/config.yaml  labels.json  vocabulary.json   without paths and data sources
        environment.json                            versions of the packages
        best/                                       packed weights (`quantization`), calibration, self-test
        README.md  statement.json                   model card; data statement

The folder is an ordinary run folder for `load` and all commands. The loss from packing is measured by
predicting the same texts before and after.

Legend: R texts, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lstm_sentiment.checkpoints.manifest import MERGED
from lstm_sentiment.checkpoints.quantization import MOST_PACKED, dequantized, quantized
from lstm_sentiment.checkpoints.run_folder import BEST, PACKED, RunFolder
from lstm_sentiment.checkpoints.run_paths import CARD, NO_ROWS, STARTER, STATEMENT, run_path
from lstm_sentiment.checkpoints.self_test import largest_difference, tolerance_on
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import DataConfig
from lstm_sentiment.errors import CheckpointError, RunError
from lstm_sentiment.prediction.classifier import SentimentClassifier, read_run
from lstm_sentiment.prediction.make_self_test import self_test_of
from lstm_sentiment.prediction.model_card import packed_card
from lstm_sentiment.records.environment import Versions
from lstm_sentiment.system.files import new_folder, write_atomically, write_json
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS

Array = npt.NDArray[Any]


def pack(
    run: str | Path,
    out: str | Path,
    *,
    name: str = STARTER,
    corpora: Sequence[Mapping[str, Any]] = (),
    notes: str = "",
    license: str | None = None,  # noqa: A002 - the Hub's word
    texts: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a packed copy of a finished run, and return the loss from packing.

    Args:
        run: folder of a finished run.
        out: a new or empty folder, written atomically.
        name: of the model, for its card.
        corpora: training data, for card and statement: maps with ``name``, ``rows``, ``terms`` and,
            if wanted, ``source``.
        notes: Markdown for the card: scores, strengths and weaknesses.
        license: of the weights, such as ``mit``, for the card.
        texts: to compare predictions on, in addition to the 20 of the self-test.

    Returns:
        `bytes`: file -> size; `total_bytes`; `before_bytes`, of the run's own weights; `texts`, the number
        compared; `largest_difference` and `mean_difference` of their logits;
        `changed_labels`, the share with another label.

    Raises:
        RunError: not a finished run, or too many parameters; `out` is not empty.
        CheckpointError: the run is damaged.
        DiskError: the folder cannot be written.

    Example::

        facts = pack("runs/general", "lstm_sentiment/starter/model", corpora=corpora, texts=validation_texts)
        print(facts["total_bytes"], facts["largest_difference"])
    """
    folder = RunFolder(run_path(run))
    whole = read_run(run, device="cpu")
    tensors, kinds = quantized(_weights_of(folder))
    config = neutral_config(whole.config, whole.labels)
    facts = _facts_of(whole, config, tensors, kinds)
    proof = facts["proof"]
    versions = folder.read(Versions)
    about: dict[str, Any] = {"name": name, "labels": whole.labels, "version": versions.lstm_sentiment}
    card = packed_card(config=config, corpora=corpora, notes=notes, license=license, **about)
    compared = [*proof["texts"], *texts]
    with new_folder(Path(out)) as building:
        _begin(building, whole, config).save(BEST, {"model": tensors}, facts)
        RunFolder(building).write(versions)
        write_json(building / STATEMENT, {"name": name, "corpora": [dict(corpus) for corpus in corpora]})
        write_atomically(building / CARD, card.encode("utf-8", "replace"))
        found = _cost(whole.predict_logits(compared), _logits_of(building, proof, compared))
        sizes = {file: file.stat().st_size for file in sorted(building.rglob("*")) if file.is_file()}
        found["bytes"] = {file.relative_to(building).as_posix(): size for file, size in sizes.items()}
    before = folder.path / BEST / "model.safetensors"
    return found | {"total_bytes": sum(sizes.values()), "before_bytes": before.stat().st_size}


def neutral_config(config: Config, labels: list[str]) -> Config:
    """Return a configuration with the settings of text, model and training, without paths or data sources.

    >>> neutral_config(Config(out="/home/me/run"), ["negative", "positive"]).out
    'runs/sentiment'
    """
    return dataclasses.replace(
        config,
        out=Config.out,
        seeds=1,
        report=False,
        pretrained=None,
        teacher=None,
        data=DataConfig(train=NO_ROWS, test=None, labels=list(labels)),
        text=dataclasses.replace(config.text, vectors=None, vector_words=0, freeze_vectors=False),
    )


def _weights_of(folder: RunFolder) -> Mapping[str, Tensor]:
    weights = folder.load(BEST).tensors["model"]
    count = sum(weight.numel() for weight in weights.values())
    if count > MOST_PACKED:
        raise RunError(f"{folder.path}: has {count:,} parameters; at most {MOST_PACKED:,} can be packed")
    return weights


def _facts_of(
    whole: SentimentClassifier, config: Config, tensors: Mapping[str, Tensor], kinds: dict[str, str]
) -> dict[str, Any]:
    """Return the facts of the packed checkpoint."""
    proof = self_test_of(
        dequantized(tensors, kinds),
        labels=whole.labels,
        vocabulary=whole.vocabulary,
        config=config,
        merged=whole.merged,
        calibration=whole.calibration,
    )
    facts = {"calibration": dataclasses.asdict(whole.calibration), "proof": proof, PACKED: kinds}
    return facts | ({MERGED: whole.merged} if whole.merged is not None else {})


def _begin(building: Path, whole: SentimentClassifier, config: Config) -> RunFolder:
    """Write a classifier's labels and vocabulary, and the new configuration, to a folder."""
    packed = RunFolder(building)
    packed.begin(
        config_yaml=config_yaml(config),
        vocabulary=whole.vocabulary.tokens[len(SPECIAL_TOKENS) :],
        labels=whole.labels,
        label_map=whole.label_map,
    )
    return packed


def _logits_of(building: Path, proof: Mapping[str, Any], texts: list[str]) -> Array:
    """Return the logits (R, C) of the folder just written; the first must pass the self-test."""
    logits_RC = read_run(building, device="cpu").predict_logits(texts)
    if largest_difference(proof, logits_RC[: len(proof["texts"])]) > tolerance_on("cpu"):
        raise CheckpointError("the packed weights give other logits from disk than in memory")
    return logits_RC


def _cost(before_RC: Array, after_RC: Array) -> dict[str, Any]:
    difference_RC = np.abs(before_RC - after_RC)
    return {
        "texts": len(before_RC),
        "largest_difference": float(difference_RC.max()),
        "mean_difference": float(difference_RC.mean()),
        "changed_labels": float((before_RC.argmax(axis=1) != after_RC.argmax(axis=1)).mean()),
    }
