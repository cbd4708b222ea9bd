"""Layer depths of parameters, for layer-wise decay and gradual unfreezing (Howard & Ruder 2018, ULMFiT)."""

from __future__ import annotations

import re

from torch import nn


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Return parameter -> number of layers above it: 0 for the head and the wide branch, most for embeddings.

    >>> from lstm_sentiment.models.lstm import SentimentLSTM
    >>> model = SentimentLSTM(10, 2, embedding_size=4, hidden_size=4, layers=2)
    >>> depths = layer_depths(model)
    >>> depths["head.weight"], depths["forward_lstms.1.bias_ih_l0"], depths["embedding.weight"]
    (0, 1, 3)
    """
    names = [name for name, _ in model.named_parameters()]
    lstm_layer = {name: int(found[1]) for name in names if (found := re.search(r"_lstms\.(\d+)\.", name))}
    layers = 1 + max(lstm_layer.values(), default=-1)
    vectors = ("embedding.", "subwords.", "lstm.embedding.", "lstm.subwords.")
    return {
        name: layers - lstm_layer[name] if name in lstm_layer else (layers + 1) * name.startswith(vectors)
        for name in names
    }


def hold_frozen(model: nn.Module, *, epoch: int, epochs_per_layer: int) -> None:
    """Remove the gradients of layers that are still frozen, so that the optimizer skips them.

    (Switching off `requires_grad` would save their backward pass, but break DistributedDataParallel.)

    Args:
        model: after the backward pass.
        epoch: 0-based.
        epochs_per_layer: epochs until the next layer is unfrozen; 0 for all from the start.

    >>> from lstm_sentiment.models.lstm import SentimentLSTM
    >>> model = SentimentLSTM(10, 2, embedding_size=4, hidden_size=4)
    >>> for parameter in model.parameters():
    ...     parameter.grad = parameter.detach()
    >>> hold_frozen(model, epoch=1, epochs_per_layer=1)
    >>> model.head.weight.grad is None, model.embedding.weight.grad is None
    (False, True)
    """
    if epochs_per_layer == 0:
        return
    depths = layer_depths(model)
    for name, parameter in model.named_parameters():
        if depths[name] > epoch // epochs_per_layer:
            parameter.grad = None
