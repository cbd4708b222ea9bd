"""Packed weights: rounding error, refused files, and checkpoints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_sentiment.checkpoints.quantization import SCALES, dequantized, quantized, rows_per_scale
from lstm_sentiment.checkpoints.run_folder import BEST, PACKED, RunFolder
from lstm_sentiment.errors import CheckpointError

NAME = "embedding.weight"


def reference(weight: torch.Tensor) -> list[list[float]]:
    """Return a table after packing, by the definition, value by value."""
    shared = max(1, 64 // weight.shape[1])
    found: list[list[float]] = []
    for start in range(0, len(weight), shared):
        rows = weight[start : start + shared].tolist()
        scale = max(abs(number) for row in rows for number in row) / 127
        found += [[scale * round(number / scale) if scale else 0.0 for number in row] for row in rows]
    return found


@pytest.mark.parametrize("shape", [(1, 1), (7, 100), (100, 3), (63, 3), (64, 3), (22, 64), (5, 65), (1, 3)])
def test_a_table_is_rounded_as_documented(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape) * torch.logspace(-3, 3, shape[0])[:, None]
    tensors, kinds = quantized({NAME: weight})
    assert kinds == {NAME: "int8"}
    assert tensors[NAME].dtype == torch.int8
    assert tensors[f"{NAME}{SCALES}"].shape == (math.ceil(shape[0] / rows_per_scale(shape[1])),)
    found = dequantized(tensors, kinds)[NAME]
    torch.testing.assert_close(found, torch.tensor(reference(weight)), rtol=1e-5, atol=0)


@settings(deadline=None, max_examples=50)
@given(
    rows=st.integers(0, 50), columns=st.integers(1, 130), seed=st.integers(0, 9), size=st.integers(-30, 30)
)
def test_the_rounding_error_is_at_most_half_a_step(rows: int, columns: int, seed: int, size: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 10.0**size
    weight[::3] = 0
    tensors, kinds = quantized({NAME: weight})
    found = dequantized(tensors, kinds)[NAME]
    scales = tensors[f"{NAME}{SCALES}"].repeat_interleave(rows_per_scale(columns))[:rows, None]
    assert ((found - weight).abs() <= scales * 0.5001).all()
    assert (found[weight == 0] == 0).all()


def test_only_embeddings_and_lstm_matrices_are_packed() -> None:
    weights = {
        "lstm.embedding.weight": torch.randn(5, 8),
        "lstm.subwords.table.weight": torch.randn(9, 8),
        "ngrams.weights.weight": torch.randn(30, 3),
        "lstm.forward_lstms.0.weight_ih_l0": torch.randn(8, 8),
        "lstm.backward_lstms.1.weight_hh_l0": torch.randn(8, 2),
        "lstm.forward_lstms.0.bias_ih_l0": torch.randn(8),
        "lstm.head.weight": torch.randn(3, 8),
        "shares": torch.ones(2),
    }
    tensors, kinds = quantized(weights)
    assert list(kinds.values()) == ["int8"] * 3 + ["float16"] * 2
    found = dequantized(tensors, kinds)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == {
        name: (torch.float32, weight.shape) for name, weight in weights.items()
    }
    for name, weight in weights.items():
        if name not in kinds:
            assert torch.equal(found[name], weight)
        elif kinds[name] == "float16":
            torch.testing.assert_close(found[name], weight, rtol=2**-11, atol=1e-7)


# -- in a checkpoint ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.begin(config_yaml="seed: 0\n", vocabulary=["good"], labels=["negative", "positive"], label_map={})
    return run


def save(folder: RunFolder, tensors: dict[str, torch.Tensor], kinds: Any) -> None:
    folder.save(BEST, {"model": tensors}, {"step": 3, PACKED: kinds})


def test_a_packed_checkpoint_loads_like_a_plain_one(folder: RunFolder) -> None:
    weights = {NAME: torch.randn(50, 40), "head.bias": torch.randn(2)}
    tensors, kinds = quantized(weights)
    save(folder, tensors, kinds)
    found = folder.load(BEST)
    assert found.facts == {"step": 3}
    assert found.tensors["model"].keys() == weights.keys()
    assert torch.equal(found.tensors["model"][NAME], dequantized(tensors, kinds)[NAME])
    plain = 4 * sum(weight.numel() for weight in weights.values())
    assert (folder.path / BEST / "model.safetensors").stat().st_size < plain / 2
    folder.save(BEST, found.tensors, found.facts)  # it can be saved again, as a plain one
    again = folder.load(BEST)
    assert torch.equal(again.tensors["model"][NAME], found.tensors["model"][NAME])


def test_a_checkpoint_that_is_not_packed_keeps_its_types(folder: RunFolder) -> None:
    folder.save(BEST, {"model": {NAME: torch.ones(2, 3, dtype=torch.int8)}}, {})
    assert folder.load(BEST).tensors["model"][NAME].dtype == torch.int8


@pytest.mark.parametrize("bit", [8 * 200 + 3, -9, -8 * 100])
def test_damage_is_detected_and_named(folder: RunFolder, bit: int) -> None:
    save(folder, *quantized({NAME: torch.randn(50, 40)}))
    file = folder.path / BEST / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: is damaged"):
        folder.load(BEST)


def whole() -> dict[str, torch.Tensor]:
    return {NAME: torch.ones(70, 3, dtype=torch.int8), f"{NAME}{SCALES}": torch.ones(4)}


@pytest.mark.parametrize(
    ("changes", "kinds", "says"),
    [
        ({}, ["x"], "'packed' must map names"),
        ({}, None, "'packed' must map names"),
        ({}, {NAME: "int4"}, "'packed' must map names"),
        ({}, {NAME: ["int8"]}, "'packed' must map names"),
        ({}, {NAME: None}, "'packed' must map names"),
        ({}, {NAME: "float16"}, "is packed as float16, but holds torch.int8"),
        ({}, {NAME: "int8", "other": "int8"}, "missing: 'other, other.scales'"),
        ({f"{NAME}{SCALES}": None}, {NAME: "int8"}, "missing: 'embedding.weight.scales'"),
        ({NAME: torch.ones(70, 3)}, {NAME: "int8"}, "is packed as int8, but holds torch.float32"),
        ({NAME: torch.ones(70, dtype=torch.int8)}, {NAME: "int8"}, "is not a matrix"),
        ({f"{NAME}{SCALES}": torch.ones(70)}, {NAME: "int8"}, r"of the shape \(70,\), not .* of \(4,\)"),
        ({f"{NAME}{SCALES}": torch.ones(4, 1)}, {NAME: "int8"}, r"of the shape \(4, 1\)"),
        ({f"{NAME}{SCALES}": torch.ones(4).half()}, {NAME: "int8"}, "holds torch.float16 of the shape"),
        ({f"{NAME}{SCALES}": -torch.ones(4)}, {NAME: "int8"}, "negative or too large"),
        ({f"{NAME}{SCALES}": torch.full((4,), 1e37)}, {NAME: "int8"}, "negative or too large"),
        ({f"{NAME}{SCALES}": torch.full((4,), math.nan)}, {NAME: "int8"}, "non-finite"),
    ],
)
def test_mismatches_are_refused_and_named(
    folder: RunFolder, changes: dict[str, torch.Tensor | None], kinds: Any, says: str
) -> None:
    tensors = {name: tensor for name, tensor in (whole() | changes).items() if tensor is not None}
    save(folder, tensors, kinds)
    with pytest.raises(CheckpointError, match=says) as caught:
        folder.load(BEST)
    assert "model.safetensors" in str(caught.value)


def test_too_many_parameters_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, kinds = whole(), {NAME: "int8"}
    assert dequantized(tensors, kinds)[NAME].sum() == 210
    monkeypatch.setattr("lstm_sentiment.checkpoints.quantization.MOST_PACKED", 213)
    with pytest.raises(CheckpointError, match="packs 214 values; at most 213"):
        dequantized(tensors, kinds)
