"""Builds the ONNX graph of a network, node by node.

ONNX's LSTM takes sequence lengths, so that padding is not read in either direction and rows need not be
reversed. Its gate order is input, output, forget, cell; that of PyTorch input, forget, cell, output.

    inputs   tokens (B, T) int64       ids; V + x is the x-th unknown token; padding may be any id
             lengths (B,) int64        tokens of each text, at least 1
             spelling (X, K) int32     only with subwords: see `tokenization.spell`; X may be 0
    outputs  logits (B, C)             float32
             probabilities (B, C)      float32, calibrated

Legend: B texts, T padded length, E embedding size, H hidden size, D directions, F = D·H features,
X unknown tokens of a batch, K places per spelt token, V known tokens, C classes,
G gates of the recurrent cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.models.cells import Cell
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
    members_of,
    unmerged,
)
from lstm_sentiment.models.pooling import FLOAT, Nodes, pooling_of
from lstm_sentiment.system.extras import need
from lstm_sentiment.text.tokenization import MOST_PLACES, NOTHING, PAD, UNKNOWN

OPSET, IR_VERSION = 17, 8  # onnxruntime 1.12 or later
INT32, INT64 = 6, 7  # of onnx.TensorProto
OUTPUTS = ("logits", "probabilities")
MOST_BYTES = 2**31 - 2**20  # limit of protobuf files
Array = npt.NDArray[Any]
Values = Mapping[str, tuple[int, Sequence[int | str]]]


def build_graph(network: Network | MergedClasses, *, temperature: float, int8: bool = False) -> Any:
    """Return an `onnx.ModelProto` equivalent to the model.

    Args:
        network: on the CPU; merged classes are added at the temperature of its logits.
        temperature: divisor of the logits before the softmax.
        int8: store embeddings and LSTM matrices as int8 with a scale per row, a quarter of the size; they
            are used as float32.

    Raises:
        MissingExtraError: onnx is not installed.
        ConfigError: the weights are larger than an ONNX file can be.

    Example::

        graph = build_graph(classifier.model, temperature=0.9)
        Path("model.onnx").write_bytes(graph.SerializeToString())
    """
    graph, model, own = new_graph(network, int8=int8), lstm_of(network), unmerged(network)
    if isinstance(own, WideAndDeep) and not own.shares[0]:  # the linear model alone
        share = graph.constant("share1", np.float32(own.shares[1]))
        graph.add("Mul", _wide(graph, own.ngrams), share, output=logits_name(network))
    else:
        _add_network(graph, own, model, logits_name(network))
    classes = add_probabilities(graph, network, temperature)
    inputs = {"tokens": (INT64, ["B", "T"]), "lengths": (INT64, ["B"])}
    shape: Sequence[int | str] = ["B", classes]
    return graph.finish(model, inputs, dict.fromkeys(OUTPUTS, (FLOAT, shape)), doc=__doc__)


def new_graph(network: Network | MergedClasses, *, int8: bool) -> OnnxGraph:
    """Return an empty graph for a network.

    Args:
        network: its weights are counted.
        int8: see `build_graph`.

    Raises:
        MissingExtraError: onnx is not installed.
        ConfigError: the weights are larger than an ONNX file can be.

    Example::

        graph = new_graph(classifier.model, int8=False)
    """
    onnx = need("onnx", extra="export")
    size = sum(p.numel() for p in network.parameters()) * (1 if int8 else 4)
    if size > MOST_BYTES:
        raise ConfigError(
            f"the weights have {size:,} bytes; an ONNX file holds at most {MOST_BYTES:,}: "
            "train with a smaller text.max_vocabulary or model.embedding_size"
            + ("" if int8 else ", or export with --int8")
        )
    return OnnxGraph(onnx, int8=int8)


def logits_name(network: Network | MergedClasses) -> str:
    """Return the name of the logits of a network, before classes are merged."""
    return "unmerged" if isinstance(network, MergedClasses) else "logits"


def add_probabilities(graph: OnnxGraph, network: Network | MergedClasses, temperature: float) -> int:
    """Add the nodes from the logits of a network to calibrated probabilities; return the number of classes.

    Args:
        graph: with the result of `logits_name`.
        network: that it is of.
        temperature: divisor of the logits.

    Raises:
        ValueError: classes were merged at another temperature.

    Example::

        add_probabilities(graph, classifier.model, 0.9)
    """
    divisor, classes = graph.constant("temperature", np.float32(temperature)), len(lstm_of(network).head.bias)
    if isinstance(network, MergedClasses):
        divisor = graph.constant("temperature", np.float32(network.temperature))
        members = members_of(network.merged)
        classes = len(members)
        columns = [_merged(graph, logits_name(network), of, divisor) for of in members]
        graph.add("Concat", *columns, axis=1, output="logits")
    graph.add("Softmax", graph.add("Div", "logits", divisor), axis=1, output="probabilities")
    return classes


def _merged(graph: OnnxGraph, logits_BS: str, members: Sequence[int], divisor: str) -> str:
    """Return the logit (B, 1) of classes that are shown as one, like `network.merged_logits`."""
    logits_BM = graph.add("Gather", logits_BS, graph.numbers(*members), axis=1)
    if len(members) == 1:
        return logits_BM
    most_B1 = graph.add("ReduceMax", logits_BM, axes=[1], keepdims=1)
    scaled_BM = graph.add("Div", graph.add("Sub", logits_BM, most_B1), divisor)
    sum_B1 = graph.add("ReduceSum", graph.add("Exp", scaled_BM), graph.numbers(1), keepdims=1)
    return graph.add("Add", graph.add("Mul", graph.add("Log", sum_B1), divisor), most_B1)


def _add_network(graph: OnnxGraph, network: Network, model: SentimentLSTM, output: str) -> None:
    """Add all nodes from the inputs to the logits, which are named `output`."""
    tokens_TB = graph.add("Transpose", "tokens", perm=[1, 0])
    lengths_B = graph.add("Cast", "lengths", to=INT32)
    states_TBF = embedded(graph, model, tokens_TB)
    for layer in range(len(model.forward_lstms)):
        states_TBF, last_BF = _read(graph, model, layer, states_TBF, lengths_B)
    real_TB1 = _real(graph) if set(model.pooling) != {"last"} else ""
    nodes = Nodes(states_TBF=states_TBF, last_BF=last_BF, real_TB1=real_TB1)
    pooled = [pooling_of(kind).onnx(graph, nodes, model.attention) for kind in model.pooling]
    features_BP = graph.add("Concat", *pooled, axis=1)
    head = [graph.constant(f"head.{name}", array_of(p)) for name, p in model.head.named_parameters()]
    if isinstance(network, WideAndDeep):
        branches = graph.add("Gemm", features_BP, *head, transB=1), _wide(graph, network.ngrams)
        shares = [graph.constant(f"share{k}", np.float32(share)) for k, share in enumerate(network.shares)]
        weighed = [graph.add("Mul", *pair) for pair in zip(branches, shares, strict=True)]
        graph.add("Add", *weighed, output=output)
    else:
        graph.add("Gemm", features_BP, *head, transB=1, output=output)


class OnnxGraph:
    """Collects nodes and constants; every node's output has a name.

    Args:
        onnx: the package.
        int8: store weights as int8.
    """

    def __init__(self, onnx: Any, *, int8: bool) -> None:
        self._onnx, self._int8 = onnx, int8
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def add(
        self, kind: str, *inputs: str, output: str = "", also: Sequence[str] = (), **attributes: Any
    ) -> str:
        """Add a node and return the name of its output; further ones are named ``<name>_<also>``."""
        name = output or f"{kind}_{len(self._nodes)}"
        outputs = [name, *(f"{name}_{other}" for other in also)]
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, outputs, name=name, **attributes))
        return name

    def constant(self, name: str, value: Any) -> str:
        """Add a constant and return its name.

        Raises:
            ValueError: the name has another value already.
        """
        if name not in self._constants:
            self._constants[name] = self._onnx.numpy_helper.from_array(np.asarray(value), name)
        elif not np.array_equal(self._onnx.numpy_helper.to_array(self._constants[name]), value):
            raise ValueError(f"two values for the constant {name!r}")
        return name

    def numbers(self, *values: int) -> str:
        """Add a constant vector of integers, such as axes."""
        return self.constant("numbers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def weight(self, name: str, values: Array) -> str:
        """Add a weight; int8 is dequantized once, when a session starts."""
        if not self._int8:
            return self.constant(name, values)
        rounded, scale = _to_int8(values)
        return self._to_float(self.constant(name, rounded), self.constant(f"{name}.scale", scale))

    def rows(self, name: str, table: Array, ids: str) -> str:
        """Add a table and look up rows; int8 rows are dequantized after the lookup."""
        if not self._int8:
            return self.add("Gather", self.constant(name, table), ids)
        rounded, scale = _to_int8(table)
        names = self.constant(name, rounded), self.constant(f"{name}.scale", scale)
        return self._to_float(*(self.add("Gather", of, ids) for of in names))

    def _to_float(self, rounded: str, scale: str) -> str:
        return self.add("Mul", self.add("Cast", rounded, to=FLOAT), scale)

    def finish(self, model: SentimentLSTM, inputs: Values, outputs: Values, *, doc: str | None) -> Any:
        """Return the checked model.

        Args:
            model: the LSTM; with subwords ``spelling`` is an input too.
            inputs: type and shape by name.
            outputs: type and shape by name.
            doc: description for readers of the file.
        """
        helper = self._onnx.helper
        if model.subwords is not None:
            inputs = {**inputs, "spelling": (INT32, ["X", MOST_PLACES])}
        values = [
            [helper.make_tensor_value_info(name, *of) for name, of in some.items()]
            for some in (inputs, outputs)
        ]
        constants = list(self._constants.values())
        graph = helper.make_graph(self._nodes, "lstm_sentiment", *values, constants, doc_string=doc)
        opset = [helper.make_opsetid("", OPSET)]
        built = helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="lstm_sentiment"
        )
        self._onnx.checker.check_model(built, full_check=True)
        return built


def embedded(graph: OnnxGraph, model: SentimentLSTM, tokens_TB: str) -> str:
    """Return embeddings (T, B, E): of the word, plus subword vectors for unknown tokens.

    Args:
        graph: with the input ``spelling`` if there are subwords.
        model: on the CPU.
        tokens_TB: name of the token ids.

    Example::

        embedded(graph, model, graph.add("Transpose", "tokens", perm=[1, 0]))
    """
    table_VE = array_of(model.token_vectors())
    if model.subwords is None:
        return graph.rows("embedding", table_VE, tokens_TB)
    known = graph.constant("known", np.int64(len(table_VE)))
    unknown_TB = graph.add("GreaterOrEqual", tokens_TB, known)
    words_TB = graph.add("Where", unknown_TB, graph.constant("unknown", np.int64(UNKNOWN)), tokens_TB)
    # Row 0 of the added vectors is zero, for known tokens; the x-th unknown token has row x + 1.
    beyond_TB = graph.add("Sub", tokens_TB, graph.constant("last_known", np.int64(len(table_VE) - 1)))
    places_TB = graph.add("Max", beyond_TB, graph.constant("zero", np.int64(0)))
    nothing_1E = graph.constant("nothing", np.zeros((1, table_VE.shape[1]), np.float32))
    letters_XE = _of_letters(graph, array_of(model.subwords.table.weight))
    added = graph.add("Gather", graph.add("Concat", nothing_1E, letters_XE, axis=0), places_TB)
    return graph.add("Add", graph.rows("embedding", table_VE, words_TB), added)


def _of_letters(graph: OnnxGraph, table_GE: Array) -> str:
    """Return the subword vectors (X, E) of unknown tokens: the sum over n-grams / root of their count."""
    table_GE = table_GE.copy()
    table_GE[NOTHING] = 0.0
    sum_XE = graph.add("ReduceSum", graph.rows("ngrams", table_GE, "spelling"), graph.numbers(1), keepdims=0)
    clipped_XK = graph.add("Min", "spelling", graph.constant("one", np.int32(1)))  # ids are not negative
    count_X1 = graph.add("ReduceSum", clipped_XK, graph.numbers(1), keepdims=1)
    counted_X1 = graph.add("Max", count_X1, "one")
    float_X1 = graph.add("Cast", counted_X1, to=FLOAT)
    return graph.add("Div", sum_XE, graph.add("Sqrt", float_X1))


def _wide(graph: OnnxGraph, branch: NgramBranch) -> str:
    """Return the logits (B, C) of the wide branch."""
    places_BN = _places(graph, branch)
    table = array_of(branch.weights.weight).copy()
    table[PAD] = 0.0
    weights_BNC = graph.rows("pairs", table, places_BN)
    if isinstance(branch, TfidfBranch):
        values_BN1 = graph.add("Unsqueeze", _tfidf(graph, branch, places_BN), graph.numbers(2))
        weights_BNC = graph.add("Mul", weights_BNC, values_BN1)
    logits_BC = graph.add("ReduceSum", weights_BNC, graph.numbers(1), keepdims=0)
    if not isinstance(branch, TfidfBranch):
        lengths_B = graph.add("Cast", "lengths", to=FLOAT)
        twice_B = graph.add("Mul", lengths_B, graph.constant("two", np.float32(2)))
        count_B = graph.add("Sub", twice_B, graph.constant("single", np.float32(1)))
        root_B1 = graph.add("Unsqueeze", graph.add("Sqrt", count_B), graph.numbers(1))
        logits_BC = graph.add("Div", logits_BC, root_B1)
    return graph.add("Add", logits_BC, graph.constant("pairs.bias", array_of(branch.bias)))


def _places(graph: OnnxGraph, branch: NgramBranch) -> str:
    """Return the table rows of tokens, then of pairs, (B, N), like `NgramBranch.places`."""
    known, none = (
        graph.constant("known", np.int64(branch.vocabulary_size)),
        graph.constant("zero", np.int64(0)),
    )
    unknown_BT = graph.add("GreaterOrEqual", "tokens", known)
    words_BT = graph.add("Where", unknown_BT, graph.constant("unknown", np.int64(UNKNOWN)), "tokens")
    real_BT = graph.add("Transpose", graph.add("Squeeze", _real(graph), graph.numbers(2)), perm=[1, 0])
    words_BT = graph.add("Where", real_BT, words_BT, none)
    ends = [("first", 0, -1), ("second", 1, MOST_BYTES)]  # of each pair
    first_BT, second_BT = (
        graph.add("Slice", words_BT, *(graph.numbers(number) for number in (start, end, 1)), output=name)
        for name, start, end in ends
    )
    numbers = (*HASH, branch.buckets)
    p, r, q, buckets = (graph.constant(f"hash{k}", np.int64(number)) for k, number in enumerate(numbers))
    hashed_BT = graph.add("Mod", graph.add("Mul", first_BT, p), r)
    hashed_BT = graph.add("Add", hashed_BT, graph.add("Mul", second_BT, q))
    pairs_BT = graph.add("Add", graph.add("Mod", hashed_BT, buckets), known)
    pairs_BT = graph.add("Where", graph.add("Equal", second_BT, none), none, pairs_BT)
    return graph.add("Concat", words_BT, pairs_BT, axis=1)


def _tfidf(graph: OnnxGraph, branch: TfidfBranch, places_BN: str) -> str:
    """Return the feature values of tokens and pairs, (B, N), like `TfidfBranch.features`."""
    here_BN1, there_B1N = (graph.add("Unsqueeze", places_BN, graph.numbers(axis)) for axis in (2, 1))
    same_BNN = graph.add("Cast", graph.add("Equal", here_BN1, there_B1N), to=FLOAT)
    counts_BN = graph.add("ReduceSum", same_BNN, graph.numbers(2), keepdims=0)
    idf_BN = graph.add("Gather", graph.constant("idf", array_of(branch.idf)), places_BN)
    sublinear_BN = graph.add("Add", graph.add("Log", counts_BN), graph.constant("single", np.float32(1)))
    values_BN = graph.add("Mul", idf_BN, sublinear_BN)
    squares_BN = graph.add("Div", graph.add("Mul", values_BN, values_BN), counts_BN)
    length_B1 = graph.add("Sqrt", graph.add("ReduceSum", squares_BN, graph.numbers(1), keepdims=1))
    length_B1 = graph.add("Max", length_B1, graph.constant("shortest", np.float32(SHORTEST)))
    return graph.add("Div", graph.add("Div", values_BN, counts_BN), length_B1)


def _read(graph: OnnxGraph, model: SentimentLSTM, layer: int, states: str, lengths_B: str) -> tuple[str, str]:
    """Add a layer; return its states (T, B, F), directions concatenated, and its last states (B, F)."""
    lstms: list[Any] = [model.forward_lstms[layer]]
    if len(model.backward_lstms):
        lstms.append(model.backward_lstms[layer])
    weights = [onnx_weights(lstm, model.cell) for lstm in lstms]
    inputs, recurrent, biases = (np.stack(parts) for parts in zip(*weights, strict=True))
    read_TDBH = graph.add(
        model.cell.operator,
        states,
        graph.weight(f"lstm{layer}.input", inputs),
        graph.weight(f"lstm{layer}.recurrent", recurrent),
        graph.constant(f"lstm{layer}.bias", biases),
        lengths_B,
        hidden_size=lstms[0].hidden_size,
        direction="bidirectional" if len(lstms) == 2 else "forward",
        also=("last",),
        **model.cell.onnx_attributes,
    )
    by_place_TBDH = graph.add("Transpose", read_TDBH, perm=[0, 2, 1, 3])
    last_BDH = graph.add("Transpose", f"{read_TDBH}_last", perm=[1, 0, 2])
    features = len(lstms) * lstms[0].hidden_size
    return (
        graph.add("Reshape", by_place_TBDH, graph.numbers(0, 0, features)),
        graph.add("Reshape", last_BDH, graph.numbers(0, features)),
    )


def _real(graph: OnnxGraph) -> str:
    """Return the padding mask, True for tokens, bool (T, B, 1)."""
    steps = graph.add("Squeeze", graph.add("Shape", "tokens", start=1, end=2))
    zero, one = graph.constant("zero", np.int64(0)), graph.constant("step", np.int64(1))
    place_T1 = graph.add("Unsqueeze", graph.add("Range", zero, steps, one), graph.numbers(1))
    return graph.add("Unsqueeze", graph.add("Less", place_T1, "lengths"), graph.numbers(2))


def onnx_weights(layer: Any, cell: Cell) -> tuple[Array, Array, Array]:
    """Return input (G·H, E), recurrent (G·H, H) weights and both biases (2·G·H,), gates in ONNX's order.

    Example::

        inputs, recurrent, biases = onnx_weights(model.forward_lstms[0], model.cell)
    """

    def reordered(weight: Tensor) -> Array:
        gates = np.split(array_of(weight), len(cell.onnx_gates))
        return np.concatenate([gates[of] for of in cell.onnx_gates])

    biases = np.concatenate([reordered(layer.bias_ih_l0), reordered(layer.bias_hh_l0)])
    return reordered(layer.weight_ih_l0), reordered(layer.weight_hh_l0), biases


def _to_int8(values: Array) -> tuple[Array, Array]:
    """Quantize rows (..., E) to int8; return them and their scales (..., 1).

    >>> rounded, scale = _to_int8(np.array([[127.0, -63.6], [0.0, 0.0]], np.float32))
    >>> rounded.tolist(), scale.tolist()
    ([[127, -64], [0, 0]], [[1.0], [1.0]])
    """
    largest = np.abs(values).max(axis=-1, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def array_of(tensor: Tensor) -> Array:
    """Return a tensor as a float32 array.

    >>> array_of(Tensor([1.0, 2.0])).dtype
    dtype('float32')
    """
    array: Array = tensor.detach().cpu().float().numpy()
    return array
