"""Containers of texts: each is predicted like the list of its texts, or refused with a clear error."""

from __future__ import annotations

import collections
import io
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from lstm_sentiment import SentimentClassifier, load
from lstm_sentiment.deployment.exporter import export, load_runtime
from lstm_sentiment.errors import DataError
from lstm_sentiment.text.given import texts_in

TEXTS = ["a great room", "awful", "it was okay"]
FRAME = pd.DataFrame({"id": [1, 2, 3], "Review": TEXTS})


@pytest.fixture(scope="module")
def classifier(trained_run: Path) -> SentimentClassifier:
    return load(trained_run, device="cpu")


@pytest.fixture(scope="module")
def runtime(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("given") / "onnx"
    export(load(trained_run, device="cpu"), trained_run, out)
    return load_runtime(out)


WORK: dict[str, Callable[[], Any]] = {
    "list": lambda: TEXTS,
    "tuple": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "map": lambda: map(str, TEXTS),
    "deque": lambda: collections.deque(TEXTS),
    "keys": lambda: dict.fromkeys(TEXTS).keys(),
    "values": lambda: dict(enumerate(TEXTS)).values(),
    "lines": lambda: io.StringIO("\n".join(TEXTS)),
    "str array": lambda: np.array(TEXTS),
    "object array": lambda: np.array(TEXTS, object),
    "array of one column": lambda: np.array(TEXTS).reshape(-1, 1),
    "series": lambda: FRAME["Review"],
    "string series": lambda: FRAME["Review"].astype("string"),
    "category": lambda: FRAME["Review"].astype("category"),
    "index": lambda: pd.Index(TEXTS),
    "shuffled series": lambda: pd.Series(TEXTS, index=[5, 5, 0]),
    "frame of one column": lambda: FRAME[["Review"]],
    "frame without a name": lambda: pd.DataFrame(TEXTS),
    "arrow array": lambda: pa.array(TEXTS),
    "arrow chunks": lambda: pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
    "arrow dictionary": lambda: pa.array(TEXTS).dictionary_encode(),
    "arrow table of one column": lambda: pa.table({"Review": TEXTS}),
    "arrow batch of one column": lambda: pa.RecordBatch.from_pydict({"x": TEXTS}),
    "arrow series": lambda: FRAME["Review"].astype(pd.ArrowDtype(pa.string())),
}


@pytest.mark.parametrize("kind", WORK)
def test_texts_are_predicted_from_any_container(
    classifier: SentimentClassifier, runtime: Any, kind: str
) -> None:
    expected_RC = classifier.predict_proba(TEXTS)
    if kind == "lines":
        expected_RC = classifier.predict_proba(["a great room\n", "awful\n", "it was okay"])
    np.testing.assert_array_equal(classifier.predict_proba(WORK[kind]()), expected_RC)
    np.testing.assert_allclose(runtime.predict_proba(WORK[kind]()), expected_RC, atol=1e-5)
    for predictions in (classifier.predict(WORK[kind](), details=True), runtime.predict(WORK[kind]())):
        assert [p.label for p in predictions] == [classifier.labels[i] for i in expected_RC.argmax(axis=1)]


@pytest.mark.parametrize(
    "nothing",
    [[], pd.Series([], dtype=object), np.array([], str), pa.table({"text": pa.array([], "string")})],
)
def test_no_texts_give_no_predictions(classifier: SentimentClassifier, runtime: Any, nothing: Any) -> None:
    assert classifier.predict(nothing) == runtime.predict(nothing) == []


REFUSED: dict[str, tuple[Any, str]] = {
    "frame": (FRAME, r"is a DataFrame with the columns 'id', 'Review'; .*such as texts\['Review'\]"),
    "frame without columns": (pd.DataFrame(index=[0, 1]), r"is a DataFrame of shape \(2, 0\)"),
    "frame of many": (pd.DataFrame(np.zeros((1, 9))), r"columns 0, 1, 2, 3, 4, 5, \.\.\.; "),
    "arrow table": (
        pa.Table.from_pandas(FRAME),
        r"is a Table with the columns 'id', 'Review'; .*texts\['Rev",
    ),
    "dict": ({"text": TEXTS}, r"is a dict with the keys 'text', .*such as texts\['text'\]"),
    "dict of texts": (dict.fromkeys(TEXTS), "is a dict with the keys 'a great room', "),
    "empty dict": ({}, r"is a dict with the keys \(none\)"),
    "user dict": (collections.UserDict(text=TEXTS), "is a UserDict with the keys 'text'"),
    "proxy": (MappingProxyType({"text": TEXTS}), "is a mappingproxy with the keys 'text'"),
    "bytes": (b"good", r"is bytes; pass text, such as texts\.decode\('utf-8'\)"),
    "bytearray": (bytearray(b"good"), "is bytearray; pass text"),
    "memoryview": (memoryview(b"good"), "is memoryview; pass text"),
    "array of no dimension": (
        np.array("good"),
        r"is a 0-dimensional \w+; pass a list, such as \[texts\.item",
    ),
    "array of two columns": (
        np.array([TEXTS, TEXTS]).T,
        r"of shape \(3, 2\); pass one column of it",
    ),
    "tensor": (torch.tensor(3), "is a 0-dimensional Tensor"),
    "number": (3, "must be a string or an iterable of strings, not int"),
    "none": (None, "must be a string or an iterable of strings, not NoneType"),
    "path": (Path("a.txt"), "must be a string or an iterable of strings, not "),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_argument_that_is_not_a_list_of_texts_is_refused(
    classifier: SentimentClassifier, runtime: Any, kind: str
) -> None:
    given, told = REFUSED[kind]
    for ask in (classifier.predict, classifier.predict_proba, classifier.predict_logits):
        with pytest.raises(DataError, match=told):
            ask(given)
    for ask in (runtime.predict, runtime.predict_proba):
        with pytest.raises(TypeError, match=told):
            ask(given)


@pytest.mark.parametrize("kind", ["dict", "frame"])
def test_a_data_frame_is_not_taken_for_its_column_names(kind: str) -> None:
    """Regression: iterating over a data frame or dict yields its column names."""
    given, _ = REFUSED[kind]
    assert all(isinstance(name, str) for name in given)
    with pytest.raises(TypeError):
        texts_in(given)


@pytest.mark.parametrize(
    "texts", [pd.Series(["good", None]), pa.array(["good", None]), [["good"]], [b"good"]]
)
def test_a_missing_text_is_refused(classifier: SentimentClassifier, runtime: Any, texts: Any) -> None:
    with pytest.raises(DataError, match="a text must be a string, not "):
        classifier.predict(texts)
    with pytest.raises(TypeError, match="a text must be a string, not "):
        runtime.predict(texts)
