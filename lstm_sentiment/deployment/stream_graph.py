"""Builds the ONNX graph of a network that reads a text token by token, and carries what it keeps in and out.

    inputs   tokens (1, 1) int64       the id of the next token; V is the unknown token in `spelling`
             spelling (X, K) int32     only with subwords: see `tokenization.spell`; X is 0 or 1
             what is kept              of the tokens before; at the start of a text the values in model.json
    outputs  logits (1, C)             float32, of the tokens so far
             probabilities (1, C)      float32, calibrated
             what is kept, after it    each input's name with `_after`

Kept are the states of the LSTM layers, what pooling needs, the number of tokens, and of a linear branch the
last token, the weighted sum and, for TF-IDF, the number of occurrences of each n-gram.

Legend: X unknown tokens, K places per spelt token, H hidden size, F features, C classes, V known tokens,
R rows of the linear branch's table.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lstm_sentiment.deployment.onnx_graph import (
    INT64,
    OUTPUTS,
    Array,
    OnnxGraph,
    Values,
    add_probabilities,
    array_of,
    embedded,
    logits_name,
    new_graph,
    onnx_weights,
)
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.network import (
    HASH,
    SHORTEST,
    MergedClasses,
    Network,
    NgramBranch,
    TfidfBranch,
    WideAndDeep,
    lstm_of,
    unmerged,
)
from lstm_sentiment.models.pooling import FLOAT, pooling_of
from lstm_sentiment.text.tokenization import PAD, UNKNOWN

DOUBLE = 11  # onnx.TensorProto.DOUBLE
AFTER = "_after"
TYPES = {np.dtype(np.float32): FLOAT, np.dtype(np.float64): DOUBLE, np.dtype(np.int64): INT64}


def build_stream_graph(
    network: Network | MergedClasses, *, temperature: float, int8: bool = False
) -> tuple[Any, dict[str, Array]]:
    """Return an `onnx.ModelProto` that reads one token, and the inputs of the first one.

    Args:
        network: on the CPU; its LSTM reads forward only, or has no share in the prediction.
        temperature: divisor of the logits.
        int8: see `onnx_graph.build_graph`.

    Raises:
        MissingExtraError: onnx is not installed.
        ConfigError: the weights are larger than an ONNX file can be.

    Example::

        graph, starts = build_stream_graph(classifier.model, temperature=0.9)
    """
    graph, model = new_graph(network, int8=int8), lstm_of(network)
    kept = _Kept(graph)
    own, output = unmerged(network), logits_name(network)
    wide = own if isinstance(own, WideAndDeep) else None
    logits = []
    if wide is None or wide.shares[0]:
        logits.append(_read(graph, kept, model))
    if wide is not None:
        shares = [graph.constant(f"share{k}", np.float32(share)) for k, share in enumerate(wide.shares)]
        logits.append(_count(graph, kept, wide.ngrams))
        weighed = [graph.add("Mul", *of) for of in zip(logits, shares[-len(logits) :], strict=True)]
        graph.add("Sum", *weighed, output=output)
    else:
        graph.add("Identity", logits[0], output=output)
    classes = add_probabilities(graph, network, temperature)
    inputs: Values = {"tokens": (INT64, [1, 1]), **{name: kept.type_of(name) for name in kept.starts}}
    outputs: Values = {name: (FLOAT, [1, classes]) for name in OUTPUTS}
    outputs = {**outputs, **{f"{name}{AFTER}": kept.type_of(name) for name in kept.starts}}
    return graph.finish(model, inputs, outputs, doc=__doc__), kept.starts


class _Kept:
    """What is kept between tokens: values at the start of a text, by name."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph = graph
        self.starts: dict[str, Array] = {}

    def type_of(self, name: str) -> tuple[int, list[int | str]]:
        """Return type and shape."""
        return TYPES[self.starts[name].dtype], list(self.starts[name].shape)

    def before(self, name: str, start: Array) -> str:
        """Add an input and return its name."""
        self.starts[name] = start
        return name

    def after(self, name: str, value: str) -> str:
        """Add an output for an input, and return its name."""
        return self._graph.add("Identity", value, output=f"{name}{AFTER}")


def _read(graph: OnnxGraph, kept: _Kept, model: SentimentLSTM) -> str:
    """Return the logits (1, C) of the LSTM."""
    values_11X, cell = embedded(graph, model, "tokens"), model.cell
    for layer, lstm in enumerate(model.forward_lstms):
        inputs, recurrent, biases = onnx_weights(lstm, cell)
        start_11H = np.zeros((1, 1, recurrent.shape[1]), np.float32)
        before = [kept.before(f"{state}{layer}", start_11H) for state in cell.onnx_states]
        read_1111H = graph.add(
            cell.operator,
            values_11X,
            graph.weight(f"lstm{layer}.input", inputs[None]),
            graph.weight(f"lstm{layer}.recurrent", recurrent[None]),
            graph.constant(f"lstm{layer}.bias", biases[None]),
            "",
            *before,
            hidden_size=recurrent.shape[1],
            also=cell.onnx_states,
            **cell.onnx_attributes,
        )
        for state in cell.onnx_states:
            kept.after(f"{state}{layer}", f"{read_1111H}_{state}")
        values_11X = graph.add("Squeeze", read_1111H, graph.numbers(1))
    state_1F = graph.add("Squeeze", values_11X, graph.numbers(1))
    one = graph.constant("single", np.float32(1))
    count_11 = kept.after("count", graph.add("Add", kept.before("count", np.zeros((1, 1), np.float32)), one))
    pooled = []
    for kind in model.pooling:
        pooling, features = pooling_of(kind), model.head.in_features // len(model.pooling)
        starts = {f"{kind}{k}": of for k, of in enumerate(pooling.onnx_starts(features))}
        sums = pooling.onnx_add(graph, [kept.before(*of) for of in starts.items()], state_1F, model.attention)
        sums = [kept.after(*of) for of in zip(starts, sums, strict=True)]
        pooled.append(pooling.onnx_result(graph, sums, count_11))
    head = [graph.constant(f"head.{name}", array_of(p)) for name, p in model.head.named_parameters()]
    return graph.add("Gemm", graph.add("Concat", *pooled, axis=1), *head, transB=1)


def _count(graph: OnnxGraph, kept: _Kept, branch: NgramBranch) -> str:
    """Return the logits (1, C) of the linear branch, like `streaming.network`."""
    classes, places_2 = len(branch.bias), _places(graph, kept, branch)
    table = array_of(branch.weights.weight).copy()
    table[PAD] = 0.0
    weights_2C = graph.add("Cast", graph.rows("pairs", table, places_2), to=DOUBLE)
    if isinstance(branch, TfidfBranch):
        factors_2, length_11 = _occurrences(graph, kept, branch, places_2)
        weights_2C = graph.add("Mul", weights_2C, graph.add("Unsqueeze", factors_2, graph.numbers(1)))
    else:
        start_11, two = np.full((1, 1), -1.0), graph.constant("two", np.float64(2))
        ngrams_11 = graph.add("Add", kept.before("ngram_count", start_11), two)
        length_11 = graph.add("Sqrt", kept.after("ngram_count", ngrams_11))
    added_1C = graph.add("ReduceSum", weights_2C, graph.numbers(0), keepdims=1)
    sum_1C = graph.add("Add", kept.before("weighted", np.zeros((1, classes))), added_1C)
    logits_1C = graph.add("Div", kept.after("weighted", sum_1C), length_11)
    bias_C = graph.constant("pairs.bias", array_of(branch.bias))
    return graph.add("Add", graph.add("Cast", logits_1C, to=FLOAT), bias_C)


def _places(graph: OnnxGraph, kept: _Kept, branch: NgramBranch) -> str:
    """Return the table rows (2,) of the token, and of its pair with the last one; 0 for none."""
    known, none = (
        graph.constant("known", np.int64(branch.vocabulary_size)),
        graph.constant("zero", np.int64(PAD)),
    )
    token_1 = graph.add("Reshape", "tokens", graph.numbers(1))
    unknown_1 = graph.add("GreaterOrEqual", token_1, known)
    word_1 = graph.add("Where", unknown_1, graph.constant("unknown", np.int64(UNKNOWN)), token_1)
    last_1 = kept.before("last", np.full(1, -1, np.int64))
    kept.after("last", word_1)
    numbers = (*HASH, branch.buckets)
    p, r, q, buckets = (graph.constant(f"hash{k}", np.int64(number)) for k, number in enumerate(numbers))
    hashed_1 = graph.add("Mod", graph.add("Mul", graph.add("Max", last_1, none), p), r)
    hashed_1 = graph.add("Add", hashed_1, graph.add("Mul", word_1, q))
    pair_1 = graph.add("Add", graph.add("Mod", hashed_1, buckets), known)
    no_pair_1 = graph.add("Or", graph.add("Less", last_1, none), graph.add("Equal", word_1, none))
    return graph.add("Concat", word_1, graph.add("Where", no_pair_1, none, pair_1), axis=0)


def _occurrences(graph: OnnxGraph, kept: _Kept, branch: TfidfBranch, places_2: str) -> tuple[str, str]:
    """Return the differences (2,) that the n-grams make to the sum, and the norm (1, 1) of all values."""
    one, none = graph.constant("one.", np.float64(1)), graph.constant("none.", np.float64(0))
    counts_R = kept.before("counts", np.zeros(len(branch.idf), np.float32))
    earlier_2 = graph.add("Gather", counts_R, places_2)
    now_2 = graph.add("Add", earlier_2, graph.constant("single", np.float32(1)))
    kept.after("counts", graph.add("ScatterElements", counts_R, places_2, now_2, axis=0))
    idf_2 = graph.add("Gather", graph.constant("idf", array_of(branch.idf)), places_2)
    idf_2 = graph.add("Cast", idf_2, to=DOUBLE)

    def value(counts_2: str) -> str:
        exact_2 = graph.add("Cast", counts_2, to=DOUBLE)
        sublinear_2 = graph.add("Add", graph.add("Log", graph.add("Max", exact_2, one)), one)
        return graph.add(
            "Mul", idf_2, graph.add("Where", graph.add("Less", none, exact_2), sublinear_2, none)
        )

    before_2, after_2 = value(earlier_2), value(now_2)
    squares_2 = [graph.add("Mul", of, of) for of in (after_2, before_2)]
    added_1 = graph.add("ReduceSum", graph.add("Sub", *squares_2), graph.numbers(0), keepdims=1)
    square_11 = graph.add("Add", kept.before("square", np.zeros((1, 1))), added_1)
    root_11 = graph.add("Sqrt", graph.add("Max", kept.after("square", square_11), none))
    shortest = graph.constant("shortest.", np.float64(SHORTEST))
    return graph.add("Sub", after_2, before_2), graph.add("Max", root_11, shortest)
