"""`BatchPredictor`: dicts of arrays, data frames, Arrow tables; pickling; recipes of Dask and Spark."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import lstm_sentiment
from lstm_sentiment import BatchPredictor
from lstm_sentiment.errors import DataError, RunError
from tests.conftest import make_rows

TEXTS: list[Any] = [text for text, _ in make_rows(40)] + ["", None]


@pytest.fixture(scope="module")
def expected(trained_run: Path) -> pd.DataFrame:
    """The predictions of `SentimentClassifier.predict` for the texts, as columns."""
    predictions = lstm_sentiment.load(trained_run, device="cpu").predict(TEXTS, on_missing="null")
    columns: dict[str, Any] = {
        "label": np.array([of.label for of in predictions], object),
        "score": [of.score for of in predictions],
    }
    for label in predictions[0].probabilities:
        columns[f"probability_{label}"] = [of.probabilities[label] for of in predictions]
    return pd.DataFrame(columns)


def as_frame(batch: Any) -> pd.DataFrame:
    if isinstance(batch, pa.Table):
        return batch.to_pandas()
    return pd.DataFrame(batch)


BATCHES = {
    "dict": lambda: {"id": np.arange(42), "text": np.array(TEXTS, object)},
    "pandas": lambda: pd.DataFrame({"id": range(42), "text": TEXTS}, index=range(100, 142)),
    "arrow": lambda: pa.table({"id": pa.array(range(42)), "text": pa.array(TEXTS)}),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_a_batch_gets_the_predictions_of_the_classifier(
    kind: str, trained_run: Path, expected: pd.DataFrame
) -> None:
    batch = BATCHES[kind]()
    found = BatchPredictor(trained_run)(batch)
    assert type(found) is type(batch)
    assert list(as_frame(batch)) == ["id", "text"]  # unchanged
    frame = as_frame(found)
    assert list(frame) == ["id", "text", *expected]
    assert frame["id"].tolist() == list(range(42))
    if kind == "pandas":
        assert found.index.tolist() == list(range(100, 142))
    for column in expected:
        of_column = frame[column].reset_index(drop=True)
        pd.testing.assert_series_equal(
            of_column.astype(object).where(of_column.notna(), None),
            expected[column].astype(object).where(expected[column].notna(), None),
            check_exact=True,
        )


def test_an_empty_batch_keeps_the_columns(trained_run: Path, expected: pd.DataFrame) -> None:
    found = BatchPredictor(trained_run)(pd.DataFrame({"text": np.array([], object)}))
    assert list(found) == ["text", *expected]
    assert len(found) == 0


def test_columns_that_do_not_fit_are_refused(trained_run: Path) -> None:
    predictor = BatchPredictor(trained_run, text="review")
    with pytest.raises(DataError, match=r"no column 'review' of texts in the batch, but 'text'"):
        predictor({"text": np.array(["so"], object)})
    batch = {"review": np.array(["so"], object), "label": np.array([1])}
    with pytest.raises(DataError, match=r"has a column 'label', which is added; choose a prefix"):
        predictor(batch)
    found = BatchPredictor(trained_run, text="review", prefix="predicted_")(batch)
    assert list(found)[:4] == ["review", "label", "predicted_label", "predicted_score"]
    with pytest.raises(DataError, match=r"a batch is a dict of arrays, .* not list"):
        predictor(["so"])
    with pytest.raises(DataError, match="a text must be a string, not int"):
        predictor({"review": np.array([1, 2])})
    with pytest.raises(RunError, match="no/such/run: no such folder"):
        BatchPredictor("no/such/run")


def test_it_is_pickled_by_path_and_loads_once(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, expected: pd.DataFrame
) -> None:
    from lstm_sentiment.bulk import predictor as module
    from lstm_sentiment.prediction import classifier

    loads: list[str] = []
    real = classifier.load

    def load(run: str, **how: Any) -> Any:
        loads.append(run)
        return real(run, **how)

    monkeypatch.setattr(classifier, "load", load)
    monkeypatch.setattr(module, "_loaded", {})
    monkeypatch.chdir(trained_run.parent)
    relative = BatchPredictor(trained_run.name)
    monkeypatch.chdir("/")  # as in a worker
    content = pickle.dumps(relative)
    assert len(content) < 1_000
    names = [arg for opcode, arg, _ in pickletools.genops(io.BytesIO(content)) if isinstance(arg, str)]
    assert str(trained_run) in names
    assert loads == []  # nothing is read to make or to pickle one
    batch = {"text": np.array(TEXTS, object)}
    for of in (relative, pickle.loads(content)):
        assert of(batch)["score"][:41].tolist() == expected["score"][:41].tolist()
    assert loads == [str(trained_run)]


def test_it_predicts_with_one_thread(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lstm_sentiment.prediction.classifier import SentimentClassifier

    threads: list[int] = []
    real = SentimentClassifier.predict_proba

    def predict_proba(self: SentimentClassifier, *of: Any, **how: Any) -> Any:
        threads.append(torch.get_num_threads())
        return real(self, *of, **how)

    monkeypatch.setattr(SentimentClassifier, "predict_proba", predict_proba)
    torch.set_num_threads(2)
    BatchPredictor(trained_run)({"text": np.array(TEXTS, object)})
    assert (threads, torch.get_num_threads()) == ([1], 2)


def test_making_one_imports_neither_torch_nor_pandas(trained_run: Path) -> None:
    code = (
        "import pickle, sys\n"
        "from lstm_sentiment import BatchPredictor\n"
        "pickle.dumps(BatchPredictor(sys.argv[1]))\n"
        "print(sorted({'torch', 'pandas', 'pyarrow', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(trained_run)], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


@pytest.mark.filterwarnings("default")
def test_the_recipe_of_dask(trained_run: Path, tmp_path: Path) -> None:
    dataframe = pytest.importorskip("dask.dataframe", reason="needs dask[dataframe]")
    rows = pd.DataFrame({"id": range(40), "text": TEXTS[:40]})
    predictor = BatchPredictor(trained_run)
    predicted = dataframe.from_pandas(rows, npartitions=3).map_partitions(predictor, meta=predictor(rows[:0]))
    found = predicted.compute(scheduler="synchronous")
    pd.testing.assert_frame_equal(found, predictor(rows), check_dtype=False)


@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_the_recipe_of_spark(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = pytest.importorskip("pyspark.sql", reason="needs pyspark")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    rows = pd.DataFrame({"id": range(40), "text": TEXTS[:40]})
    predictor = BatchPredictor(trained_run)
    kinds = "".join(f", `{name}` double" for name in predictor(rows[:0]).columns[3:])

    def predicted(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        return map(predictor, batches)

    session = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        frame = session.createDataFrame(rows).repartition(2)
        found = frame.mapInPandas(predicted, f"id long, text string, label string{kinds}").toPandas()
    finally:
        session.stop()
    pd.testing.assert_frame_equal(
        found.sort_values("id", ignore_index=True), predictor(rows), check_dtype=False
    )
