"""scripts/make_starter: training rows, corpora of two classes, and resuming."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import lstm_sentiment
from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.errors import ConfigError

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))  # scripts are not a package

import make_starter  # noqa: E402
import starter_rows  # noqa: E402
import starter_scores  # noqa: E402
from starter_templates import sentences  # noqa: E402

TABLE: dict[str, Any] = {
    "min_texts": 2,
    "text": {"normalize": "escapes+negation", "max_tokens": 20, "max_vocabulary": 500, "subwords": 64},
    "model": {"embedding_size": 8, "hidden_size": 16, "ngrams": 64},
    "trainer": {"epochs": 2, "batch_size": 32, "checkpoint_every": 5, "precision": "fp32"},
    "never": ["test.parquet"],
    "corpora": {
        "written": {"source": "templates", "rows": 600, "weight": 1.0, "anchored": True, "group": "written",
                    "terms": "MIT", "open": True},
        "two": {"file": "two.parquet", "labels": {0: "negative", 1: "positive"}, "weight": 0.5,
                "group": "films", "terms": "research"},
        "three": {"file": "three.parquet", "weight": 1.0, "group": "talk", "terms": "MIT", "open": True},
    },
}  # fmt: skip
WORDS = {"negative": ("awful", "dire"), "neutral": ("blue", "round"), "positive": ("lovely", "superb")}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two small corpora, a test file, and the table that names them."""
    randomness = random.Random(0)

    def rows(labels: list[str], count: int) -> pd.DataFrame:
        chosen = [randomness.choice(labels) for _ in range(count)]
        texts = [f"the {randomness.choice(WORDS[label])} thing number {i}" for i, label in enumerate(chosen)]
        return pd.DataFrame({"text": texts, "label": chosen})

    two = rows(["negative", "positive"], 200)
    two.assign(label=two.label.map({"negative": 0, "positive": 1})).to_parquet(tmp_path / "two.parquet")
    three = rows(["negative", "neutral", "positive"], 300)
    three.to_parquet(tmp_path / "three.parquet")
    pd.DataFrame({"text": [f"{three.text[7].upper()}!!"], "label": ["negative"]}).to_parquet(
        tmp_path / "test.parquet"
    )
    (tmp_path / "table.yaml").write_text(yaml.safe_dump(TABLE))
    return tmp_path


def options_for(data: Path, *more: str) -> argparse.Namespace:
    given = ["--data", str(data), "--out", str(data / "run"), "--table", str(data / "table.yaml")]
    return make_starter.parse([*given, "--work", str(data / "work"), "--threads", "1", *more])


def train(data: Path, out: str, *more: str) -> dict[str, torch.Tensor]:
    given = ["--data", str(data), "--out", str(data / out), "--table", str(data / "table.yaml")]
    make_starter.main([*given, "--work", str(data / "work"), "--threads", "1", "--device", "cpu", *more])
    return RunFolder(data / out).load(BEST).tensors["model"]


def test_no_text_of_a_test_file_is_trained_on(data: Path) -> None:
    tokenized = make_starter.tokenize(TABLE, options_for(data))
    held_back = make_starter.letters(pd.read_parquet(data / "test.parquet").text[0])
    assert held_back in {make_starter.letters(text) for text in pd.read_parquet(data / "three.parquet").text}
    of_three = tokenized.rows[tokenized.rows.corpus == 2]
    assert len(of_three) < 300, "the text stands in the corpus, with other case and punctuation"
    store = tokenized.store
    for place in of_three.index:
        text = "".join(store.tokens[i] for i in store.ids_N[store.offsets[place] : store.offsets[place + 1]])
        assert make_starter.letters(text) != held_back


def test_corpora_are_left_out_by_name_and_group(data: Path) -> None:
    tokenized = make_starter.tokenize(TABLE, options_for(data))

    def names(*more: str) -> list[str]:
        rows = make_starter.chosen(tokenized, options_for(data, *more))
        assert set(rows.corpus) == set(range(len(rows.attrs["corpora"])))
        return [of["name"] for of in rows.attrs["corpora"]]

    assert names() == ["written", "two", "three"]
    assert names("--leave-out", "films") == ["written", "three"]
    assert names("--leave-out", "three", "two") == ["written"]
    assert names("--terms", "open") == ["written", "three"]
    with pytest.raises(ConfigError, match="no corpus or group named film"):
        names("--leave-out", "film")


def test_two_class_labels_give_no_loss_for_the_third(data: Path) -> None:
    options = options_for(data)
    tokenized = make_starter.tokenize(TABLE, options)
    rows = make_starter.chosen(tokenized, options)
    config = make_starter.config_of(options, TABLE)
    train_rows, held_out, vocabulary = make_starter.encode(tokenized.store, rows, config, min_texts=2)
    model = make_starter.new_model(vocabulary, config, rows.attrs["corpora"])
    corpus_R = rows.corpus.to_numpy()[~rows.held_out]
    places = {"train": corpus_R, "held_out": rows.corpus.to_numpy()[rows.held_out]}
    task = make_starter.ManyCorpora(model, held_out, places, smoothing=0.1, device=torch.device("cpu"))

    def gradient(corpus: int) -> torch.Tensor:
        model.zero_grad()
        task.loss(model.eval(), train_rows.batch(np.flatnonzero(corpus_R == corpus)[:20])).backward()
        found = make_starter.lstm_of(model.network).head.bias.grad
        assert found is not None
        return found.abs()

    assert gradient(1)[1] < 1e-6, "of neutral, in a corpus of two classes"
    assert gradient(1)[0] > 1e-3
    assert gradient(2)[1] > 1e-3, "of neutral, in a corpus of three"


def test_an_interrupted_training_ends_with_the_same_weights(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(data, "whole")
    save, saved = RunFolder.save, []

    def save_and_die(self: RunFolder, name: str, *arguments: Any) -> None:
        save(self, name, *arguments)
        saved.append(name)
        if len(saved) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train(data, "stopped")
    again = train(data, "stopped")
    assert whole.keys() == again.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name


def test_the_result_is_a_run_folder(data: Path) -> None:
    train(data, "run")
    classifier = lstm_sentiment.load(data / "run", device="cpu")
    assert classifier.labels == ["negative", "neutral", "positive"]
    answers = classifier.predict(["the lovely thing", "the awful thing"], coverage=0.9)
    assert [answer.label for answer in answers] == ["positive", "negative"]


def test_the_final_bias_balances_rare_classes() -> None:
    randomness = np.random.default_rng(0)
    truth_R = np.repeat([0, 1, 2], [900, 50, 50])
    logits_RC = randomness.normal(size=(1000, 3)) + 2 * np.eye(3)[truth_R] + [1.5, 0, 0]
    corpora = [{"classes": [0, 1, 2]}]
    shares_K, bias_C = make_starter.fit_bias(logits_RC[None], truth_R, np.zeros(1000, int), corpora)
    assert shares_K[0] > 0
    assert bias_C[0] == pytest.approx(min(bias_C)), "takes back what was added to the first class"

    def macro_recall(answers_RC: Any) -> float:
        right_R = answers_RC.argmax(axis=1) == truth_R
        return float(np.mean([right_R[truth_R == c].mean() for c in range(3)]))

    assert macro_recall(shares_K[0] * logits_RC + bias_C) > macro_recall(logits_RC) + 0.02


def test_templates_are_consistent() -> None:
    found = sentences(5000, seed=1)
    assert len({text for text, _ in found}) == len(found) >= 5000
    assert found == sentences(5000, seed=1)
    assert not [text for text, _ in found if "{" in text]
    examples = {"beyondcomprehension", "irateitsoso", "unbelievableservice"}
    assert examples.isdisjoint(make_starter.letters(text) for text, _ in found)


def test_scores_of_two_and_three_classes() -> None:
    rows = starter_scores.Rows(name="", texts=[""] * 4, truth_R=np.array([0, 0, 2, 2]), metric="accuracy")
    assert starter_scores.scored(np.array([0, 2, 2, 2]), rows) == 0.75
    rows = starter_scores.Rows(name="", texts=[""] * 4, truth_R=np.array([0, 1, 2, 2]), metric="macro recall")
    assert starter_scores.scored(np.array([0, 0, 2, 2]), rows) == pytest.approx(2 / 3)


def test_few_rows_are_drawn_with_every_class_and_shown_as_means(tmp_path: Path) -> None:
    rows = pd.DataFrame({"text": [f"text {i}" for i in range(500)], "label": ["a"] * 490 + ["b"] * 10})
    first, second = (starter_rows._drawn(rows, 30, draw) for draw in (0, 1))
    assert len(first) == len(second) == 30
    assert (first.label == "b").sum() >= 2
    assert set(first.text) != set(second.text)
    file = tmp_path / "starter-rows.jsonl"
    lines = [
        {"corpus": "IMDB", "size": 30, "draw": i, "scores": {"train": s}} for i, s in enumerate([0.8, 0.9])
    ]
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert "| IMDB | train (0 rows: the starter) | 0.850 ± 0.071 |" in starter_rows.page(file)
    drawn = starter_rows.picture(file)
    assert drawn == starter_rows.picture(file), "the same numbers, the same bytes"
    assert b"IMDB" in drawn
