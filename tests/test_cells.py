"""Another recurrent cell needs a class as in `models/cells.py` and a number of gates, nothing else.

Here a GRU replaces the LSTM; reading, training, loading, explanations and the ONNX model are tested.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from reference import PackedSentimentLSTM
from torch import Tensor, nn

from lstm_sentiment import load
from lstm_sentiment.config import network_shapes
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import POOLINGS
from lstm_sentiment.deployment.exporter import export, load_runtime
from lstm_sentiment.experiment.train import run
from lstm_sentiment.explanation.attribution import explain
from lstm_sentiment.models.cells import Cell, Steps
from lstm_sentiment.models.lstm import SentimentLSTM


class GRU(Cell):
    """Gated recurrent unit (Cho et al. 2014), as `nn.GRU` computes it; gates reset, update, candidate."""

    module = nn.GRU
    operator = "GRU"
    onnx_gates = (1, 0, 2)
    onnx_attributes = MappingProxyType({"linear_before_reset": 1})

    def initialise(self, layer: nn.RNNBase) -> None:
        for name, parameter in layer.named_parameters():
            nn.init.zeros_(parameter) if "bias" in name else nn.init.xavier_uniform_(parameter)

    def steps(self, layer: Any, inputs_NX: Tensor) -> Steps:
        hidden_H, steps = torch.zeros(layer.hidden_size), []
        for input_X in inputs_NX:
            r, z, n = (layer.weight_ih_l0 @ input_X + layer.bias_ih_l0).chunk(3)
            hr, hz, hn = (layer.weight_hh_l0 @ hidden_H + layer.bias_hh_l0).chunk(3)
            r, z = (r + hr).sigmoid(), (z + hz).sigmoid()
            written_H = (1 - z) * (n + r * hn).tanh()
            hidden_H = z * hidden_H + written_H
            steps.append((r, z, written_H, hidden_H))
        r, z, written, hidden = (torch.stack(values) for values in zip(*steps, strict=True))
        return Steps(gates={"reset": r, "update": z}, written=written, keep=z, memory=hidden, hidden=hidden)


@pytest.fixture(autouse=True)
def _gru_in_place_of_the_lstm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SentimentLSTM, "cell", GRU())
    monkeypatch.setattr(network_shapes, "GATES", 3)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_gru_reads_as_that_of_pytorch_does(layers: int, bidirectional: bool) -> None:
    sizes: dict[str, Any] = {
        "layers": layers,
        "bidirectional": bidirectional,
        "pooling": "+".join(POOLINGS),
    }
    model = SentimentLSTM(50, 3, embedding_size=16, hidden_size=16, **sizes).eval()
    tokens_BT, lengths_B = torch.randint(2, 50, (4, 7)), torch.tensor([7, 1, 4, 6])
    with torch.no_grad():
        logits_BC = model(tokens_BT, lengths_B)
        assert torch.allclose(logits_BC, PackedSentimentLSTM(model)(tokens_BT, lengths_B), atol=1e-5)
        assert torch.allclose(logits_BC[2:3], model(tokens_BT[2:3, :4], lengths_B[2:3]), atol=1e-6)
    shapes = network_shapes.lstm_shapes(50, 3, embedding_size=16, hidden_size=16, **sizes)
    assert shapes == {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_a_gru_is_trained_loaded_explained_and_exported(
    configure: Callable[..., Config], tmp_path: Path
) -> None:
    run(configure("--model.hidden_size=16"))
    classifier = load(tmp_path / "run")
    texts = ["so good", "the crew was rude", "good"]
    expected = classifier.predict_proba(texts)
    found = explain(classifier, texts[1], method="occlusion")
    assert {*found.gates[0].gates} == {"reset", "update"}
    layer = classifier.model.forward_lstms[0]
    inputs = torch.randn(5, layer.input_size)
    assert torch.allclose(GRU().steps(layer, inputs).hidden, layer(inputs)[0], atol=1e-5)
    export(classifier, tmp_path / "run", tmp_path / "exported")
    exported = load_runtime(tmp_path / "exported")
    assert np.allclose(exported.predict_proba(texts), expected, atol=1e-5)
