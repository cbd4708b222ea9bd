"""Expected contents of a checkpoint, checked on file headers before tensors are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lstm_sentiment.checkpoints.manifest import MERGED
from lstm_sentiment.checkpoints.quantization import SCALES, rows_per_scale
from lstm_sentiment.checkpoints.run_folder import PACKED, Expectation
from lstm_sentiment.checkpoints.untrusted_files import Table, classes_of_run, vocabulary_of, yaml_of
from lstm_sentiment.config.command_line import read_config
from lstm_sentiment.config.network_shapes import GATES, network_shapes
from lstm_sentiment.config.sections import MAX_CLASSES
from lstm_sentiment.errors import CheckpointError, shown
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS

NAMES = {"F32": "torch.float32", "F16": "torch.float16", "I8": "torch.int8", "F64": "torch.float64"}
NAMES |= {"I64": "torch.int64", "I32": "torch.int32", "BF16": "torch.bfloat16", "U8": "torch.uint8"}
STORED = {"int8": "I8", "float16": "F16"}  # kind of `quantization` -> type in a file
MOST_STATE = 4  # times the size of the weights: optimizer moments and random states


def check_table(found: Table, expected: Table) -> None:
    """Compare the header of a file with the expected tensors.

    Args:
        found: name -> (type as safetensors calls it, shape).
        expected: the same.

    Raises:
        CheckpointError: a name, shape or type differs.

    >>> check_table({"bias": ("F32", (2,))}, {"bias": ("F32", (3,))})
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.CheckpointError: bias has the shape (2,), and config.yaml asks for (3,)
    """
    odd = sorted(found.keys() ^ expected.keys())
    if odd:
        raise CheckpointError(f"weights missing or added: {shown(', '.join(odd), 200)}")
    for name, (kind, shape) in found.items():
        of_kind, of_shape = expected[name]
        if shape != of_shape:
            raise CheckpointError(f"{name} has the shape {shape}, and config.yaml asks for {of_shape}")
        if kind != of_kind:
            raise CheckpointError(f"{name} holds {NAMES.get(kind, kind)}, not {NAMES[of_kind]}")


def stored_table(shapes: Mapping[str, Sequence[int]], packed: Any = None) -> Table:
    """Return the header of a file that stores weights of these shapes.

    Args:
        shapes: parameter -> shape.
        packed: parameter -> ``int8`` or ``float16``, for packed ones (see `quantization`).

    Raises:
        CheckpointError: `packed` is not such a map.

    >>> stored_table({"weight": (100, 128)}, {"weight": "int8"})
    {'weight': ('I8', (100, 128)), 'weight.scales': ('F32', (100,))}
    """
    packed = {} if packed is None else packed
    if not isinstance(packed, dict) or not {*map(str, packed.values())} <= STORED.keys():
        raise CheckpointError(f"'packed' must map names of tensors to {' or '.join(STORED)}")
    table: Table = {}
    for name, shape in shapes.items():
        kind = packed.get(name)
        table[name] = ("F32" if kind is None else STORED[kind], tuple(shape))
        if kind == "int8" and len(shape) == 2:
            table[f"{name}{SCALES}"] = ("F32", (-(-shape[0] // rows_per_scale(shape[1])),))
    return table


def only_groups(tables: Mapping[str, Table], *groups: str) -> None:
    """Refuse unexpected tensor files, which could have any size.

    Raises:
        CheckpointError: there are any; it names them.

    >>> only_groups({"model": {}, "extra": {}}, "model")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.CheckpointError: unexpected files for a checkpoint of this kind: extra.safetensors
    """
    odd = sorted(f"{group}.safetensors" for group in tables.keys() - {*groups})
    if odd:
        raise CheckpointError(
            f"unexpected files for a checkpoint of this kind: {shown(', '.join(odd), 200)[1:-1]}"
        )


def of_classifier(run: Path) -> Expectation:
    """Return a check of a classifier's best epoch against its configuration, labels and vocabulary.

    Example::

        RunFolder("runs/tweets").load(BEST, of_classifier(Path("runs/tweets")))
    """

    def check(tables: Mapping[str, Table], facts: Mapping[str, Any]) -> None:
        only_groups(tables, "model")
        labels, _ = classes_of_run(run / "labels.json")
        if not labels:
            return only_as_large(tables, run)
        config = read_config(run / "config.yaml")
        try:
            found = tables["model"]
            tokens = len(vocabulary_of(run / "vocabulary.json", vocabulary_size(found))) + len(SPECIAL_TOKENS)
            sizes = {"subwords": config.text.subwords, **asdict(config.model)}
            classes = network_classes(facts, labels)
            check_table(found, stored_table(network_shapes(tokens, classes, **sizes), facts.get(PACKED)))
        except (CheckpointError, KeyError, TypeError) as error:
            details = " ".join(str(error).split())
            raise CheckpointError(
                f"{run}: weights, vocabulary and configuration do not fit: {details}"
            ) from None
        return None

    return check


def network_classes(facts: Mapping[str, Any], labels: Sequence[str]) -> int:
    """Return the number of classes of a network: those of its run, or more if some were merged.

    Args:
        facts: of its checkpoint.
        labels: class names of the run.

    Raises:
        CheckpointError: the fact `MERGED` is not the place in `labels` of each of up to 100 classes.

    >>> network_classes({}, ["bad", "good"]), network_classes({"merged": [0, 1, 1]}, ["bad", "good"])
    (2, 3)
    """
    merged = facts.get(MERGED)
    if merged is None:
        return len(labels)
    whole = isinstance(merged, list) and all(type(of) is int for of in merged)
    if not whole or len(merged) > MAX_CLASSES or sorted(set(merged)) != list(range(len(labels))):
        raise CheckpointError(f"'{MERGED}' must be the class in labels.json of each class of the network")
    return len(merged)


def of_language_model(run: Path) -> Expectation:
    """Return a check of a language model's best epoch against its vocabulary.

    Example::

        RunFolder("runs/lm").load(BEST, of_language_model(Path("runs/lm")))
    """

    def check(tables: Mapping[str, Table], _: Mapping[str, Any]) -> None:
        only_groups(tables, "model")
        only_as_large(tables, run)

    return check


def of_training(shapes: Mapping[str, Sequence[int]], *, data: str | None = None) -> Expectation:
    """Return a check of a checkpoint to resume from against the model in training.

    Args:
        shapes: of the model's parameters.
        data: fingerprint of the rows; a checkpoint of other rows skips this check and is refused later.

    >>> check = of_training({"w": (2,)})
    >>> check({"model": {"w": ("F32", (2,))}, "optimizer": {"m": ("F32", (99,))}}, {})
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.CheckpointError: optimizer.safetensors is too large for this model
    """

    def check(tables: Mapping[str, Table], facts: Mapping[str, Any]) -> None:
        only_groups(tables, "model", "average", "optimizer")
        if data is not None and facts.get("data") != data:
            return
        expected = stored_table(shapes)
        for group in tables.keys() & {"model", "average"}:
            check_table(tables[group], expected)
        most = MOST_STATE * _numbers(expected) + 2 * len(expected)  # and a step for each parameter
        if _numbers(tables.get("optimizer", {})) > most:
            raise CheckpointError("optimizer.safetensors is too large for this model")

    return check


def only_as_large(tables: Mapping[str, Table], run: Path) -> None:
    """Refuse tensors larger than those of a language model with the run's vocabulary and configuration.

    Raises:
        CheckpointError: one is larger; it names the tensor.

    Example::

        only_as_large({"model": check_tensors(file)}, Path("runs/lm"))
    """
    config = _sections(run)
    model = tables.get("model", {})
    tokens = len(vocabulary_of(run / "vocabulary.json", vocabulary_size(model))) + len(SPECIAL_TOKENS)
    text, sizes = config.get("text", {}), config.get("model", {})
    size, hidden = (_size(sizes, name, 128) for name in ("embedding_size", "hidden_size"))
    rows = max(tokens, _size(text, "subwords", 1 << 14))
    largest = max(rows * size, GATES * hidden * max(size, 2 * hidden), rows)
    for name, (_, shape) in model.items():
        if math.prod(shape) > largest:
            raise CheckpointError(f"{shown(name)} has the shape {shape}: config.yaml asks for less")


def vocabulary_size(table: Table) -> int:
    """Return the vocabulary size that a header's embedding implies.

    >>> vocabulary_size({"embedding.weight": ("F32", (5, 2))})
    3
    """
    name = "lstm.embedding.weight" if "lstm.embedding.weight" in table else "embedding.weight"
    if name not in table or not table[name][1]:
        raise CheckpointError(f"weights missing or added: {shown(name)}")
    return max(0, table[name][1][0] - len(SPECIAL_TOKENS))


def _sections(run: Path) -> dict[str, Any]:
    found = yaml_of(run / "config.yaml")
    return found if isinstance(found, dict) else {}


def _size(section: Any, name: str, default: int) -> int:
    value = section.get(name, default) if isinstance(section, dict) else default
    return value if isinstance(value, int) and 0 <= value <= 1 << 24 else default


def _numbers(table: Table) -> int:
    return sum(math.prod(shape) for _, shape in table.values())
