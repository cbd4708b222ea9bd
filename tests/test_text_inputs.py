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
from lstm_sentiment.errors import ConfigError, DataError
from lstm_sentiment.text.given import texts_in
from lstm_sentiment.text.tokenizers import count_unknown

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
    given, reported = REFUSED[kind]
    for ask in (classifier.predict, classifier.predict_proba, classifier.predict_logits):
        with pytest.raises(DataError, match=reported):
            ask(given)
    for ask in (runtime.predict, runtime.predict_proba):
        with pytest.raises(TypeError, match=reported):
            ask(given)


@pytest.mark.parametrize("kind", ["dict", "frame"])
def test_a_data_frame_is_not_taken_for_its_column_names(kind: str) -> None:
    """Regression: iterating over a data frame or dict yields its column names."""
    given, _ = REFUSED[kind]
    assert all(isinstance(name, str) for name in given)
    with pytest.raises(TypeError):
        texts_in(given)


MISSING = [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT]


@pytest.mark.parametrize(
    "texts",
    [pd.Series(["good", None]), pa.array(["good", None]), ["good", ["good"]], ["good", b"good"]]
    + [["good", value] for value in MISSING],
)
def test_a_missing_text_is_refused_with_its_row(
    classifier: SentimentClassifier, runtime: Any, texts: Any
) -> None:
    reported = r"row 2 \(texts\[1\]\): a text must be a string, not "
    for ask in (classifier.predict, classifier.predict_proba, classifier.predict_logits):
        with pytest.raises(DataError, match=reported):
            ask(texts)
    for ask in (runtime.predict, runtime.predict_proba):
        with pytest.raises(TypeError, match=reported):
            ask(texts)


@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("missing", MISSING, ids=str)
def test_missing_texts_are_left_out_or_have_no_label(
    classifier: SentimentClassifier, runtime: Any, missing: Any, count: int
) -> None:
    """The other texts have the predictions that they have alone, at their own places."""
    texts = [missing, *TEXTS, missing, missing, *TEXTS * count, missing]
    present = [text for text in texts if text is not missing]
    for model in (classifier, runtime):
        expected_RC = model.predict_proba(present)
        assert model.predict(texts, on_missing="skip") == model.predict(present)
        np.testing.assert_array_equal(model.predict_proba(texts, on_missing="skip"), expected_RC)
        predictions = model.predict(texts, on_missing="null")
        found_RC = model.predict_proba(texts, on_missing="null")
        assert len(predictions) == len(found_RC) == len(texts)
        assert [p.label is None for p in predictions] == [text is missing for text in texts]
        assert [p for p in predictions if p.label is not None] == model.predict(present)
        np.testing.assert_array_equal(found_RC[[text is not missing for text in texts]], expected_RC)
        assert np.isnan(found_RC[[text is missing for text in texts]]).all()
        assert predictions[0].unread
        assert np.isnan([predictions[0].score, *predictions[0].probabilities.values()]).all()


@pytest.mark.parametrize("blank", ["", " \t\n", "\u200b"])
@pytest.mark.parametrize("count", [1, 30])
def test_a_text_without_a_token_is_marked_as_unread(
    classifier: SentimentClassifier, runtime: Any, blank: str, count: int
) -> None:
    texts = [*TEXTS, blank, "xyzzyplugh", "!", *TEXTS * count]
    for model in (classifier, runtime):
        assert [p.unread for p in model.predict(texts)] == [text == blank for text in texts]
        assert model.predict(blank)[0].label in model.labels
    assert [p.unread for p in classifier.predict(texts)] == [not classifier.tokens(text) for text in texts]


def test_another_rule_for_missing_texts_is_refused(classifier: SentimentClassifier, runtime: Any) -> None:
    with pytest.raises(ConfigError, match=r"'skipp' is not one of raise, skip, null\. Did you mean 'skip'"):
        classifier.predict(TEXTS, on_missing="skipp")
    with pytest.raises(ValueError, match="on_missing must be one of raise, skip, null, not 'skipp'"):
        runtime.predict(TEXTS, on_missing="skipp")


def test_an_error_of_a_generator_is_not_changed(classifier: SentimentClassifier) -> None:
    def broken() -> Any:
        yield "good"
        raise TypeError("of the caller")

    with pytest.raises(TypeError, match="of the caller"):
        classifier.predict(broken())


def test_tokens_are_counted_alike_for_few_and_many_texts(
    classifier: SentimentClassifier,
) -> None:
    texts = ["", "awful", "xyzzyplugh room", "a great quokka!", "one " * 500]
    few, many = classifier.read(texts, counted=True), classifier.read(texts * 10, counted=True)
    expected = [count_unknown(text, classifier._tokenizer, classifier.vocabulary) for text in texts]
    assert list(zip(few.tokens_R.tolist(), few.unknown_R.tolist(), strict=True)) == expected
    assert list(zip(many.tokens_R.tolist(), many.unknown_R.tolist(), strict=True)) == expected * 10
