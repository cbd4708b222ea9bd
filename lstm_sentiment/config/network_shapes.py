"""Parameter shapes of a network, computed from its settings without instantiating it.

A checkpoint is compared with them before any memory is allocated for it. PyTorch's ``meta`` device would give
them too, but initialisation on it imports PyTorch's compiler, which takes more than a second.
"""

from __future__ import annotations

from typing import Any

GATES = 4  # matrices of H rows that PyTorch stacks in each weight of the recurrent cell


def network_shapes(
    tokens: int, classes: int, *, subwords: int, ngrams: int, ngram_kind: str = "learned", **settings: Any
) -> dict[str, tuple[int, ...]]:
    """Return a network's parameter shapes by name.

    Args:
        tokens: V, vocabulary size.
        classes: C.
        subwords: as in `network.new_lstm`.
        ngrams: as in `network.new_network`.
        ngram_kind: as in `network.new_network`.
        settings: as in `network.new_lstm`.

    >>> sizes = {"subwords": 0, "ngrams": 0, "hidden_size": 4096, "layers": 16}
    >>> network_shapes(9, 2, embedding_size=4096, **sizes)["forward_lstms.15.weight_ih_l0"]
    (16384, 8192)
    """
    shapes = lstm_shapes(tokens, classes, subwords=subwords, **settings)
    if not ngrams:
        return shapes
    shapes = {f"lstm.{name}": shape for name, shape in shapes.items()} | {"shares": (2,)}
    shapes |= {"ngrams.weights.weight": (tokens + ngrams, classes), "ngrams.bias": (classes,)}
    return shapes | ({"ngrams.idf": (tokens + ngrams,)} if ngram_kind == "tfidf" else {})


def lstm_shapes(
    vocabulary_size: int,
    classes: int,
    *,
    embedding_size: int,
    hidden_size: int,
    subwords: int = 0,
    layers: int = 1,
    bidirectional: bool = True,
    pooling: str = "mean+max",
    **_: Any,
) -> dict[str, tuple[int, ...]]:
    """Return the parameter shapes of a `lstm.SentimentLSTM` by name.

    Args are those of that class, except `subwords`: number of hash buckets, 0 for none.

    >>> lstm_shapes(100, 3, embedding_size=8, hidden_size=4)["head.weight"]
    (3, 16)
    """
    kinds, gates = pooling.split("+"), GATES * hidden_size
    features = hidden_size * (2 if bidirectional else 1)
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (vocabulary_size, embedding_size)}
    if subwords:
        shapes["subwords.table.weight"] = (subwords, embedding_size)
    for direction in ("forward", "backward") if bidirectional else ("forward",):
        for layer in range(layers):
            name = f"{direction}_lstms.{layer}"
            shapes[f"{name}.weight_ih_l0"] = (gates, features if layer else embedding_size)
            shapes[f"{name}.weight_hh_l0"] = (gates, hidden_size)
            shapes |= {f"{name}.bias_{side}_l0": (gates,) for side in ("ih", "hh")}
    if "attention" in kinds:
        shapes["attention.weight"] = (1, features)
    return shapes | {"head.weight": (classes, features * len(kinds)), "head.bias": (classes,)}
