"""Allowed differences on resuming: every setting, and every fact on data and machine."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from lstm_sentiment.checkpoints.run_folder import LAST, RunFolder
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.schema import Config, flatten
from lstm_sentiment.errors import RunError
from lstm_sentiment.experiment.resume import ROUNDED_BY, check_folder, checkpoint_to_resume
from lstm_sentiment.experiment.session import restarted
from lstm_sentiment.experiment.signals import STATUS
from lstm_sentiment.pretraining.config import PretrainConfig
from lstm_sentiment.records.checkpoint_facts import RunFacts, TrainingState
from lstm_sentiment.records.data_facts import DataFacts, SourceCounts, SplitFacts
from lstm_sentiment.records.json_values import to_json
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.system.files import write_json
from lstm_sentiment.text.tokenizers import Vocabulary

HARMLESS = {
    "out": "a folder may be moved",
    "resume": "says that a run goes on, and is not part of it",
    "overwrite": "contradicts resume, which is refused elsewhere",
    "baseline": "other models, measured at the end",
    "report": "a page, written at the end",
    "trainer.checkpoint_every": "a checkpoint changes nothing (resuming from every step is exact)",
    "trainer.tensorboard": "curves are drawn from what happens anyway",
    "trainer.log_to": "the same, elsewhere",
    "trainer.timeout": "how long processes wait, not what for",
    "trainer.keep_for_resume": "what is removed after the end",
}
TOLD = {
    "trainer.device": "numbers are rounded differently: the device is a fact of the run, see below",
    "trainer.threads": "the same: threads",
}
OTHERS: dict[str, Any] = {  # than the default, with an effect on training or rows
    "seed": 1, "seeds": 2, "pretrained": "runs/other", "adapt": "frozen", "teacher": "runs/other",
    "data.train": "b.csv", "data.validation": 0.2, "data.test": None, "data.exclude": "c.csv",
    "data.exclude_rows": "suspects.csv",
    "data.text_column": "review", "data.label_column": "stars", "data.labels": ["no", "yes"],
    "data.phrases": 0.5, "data.unlabelled": "more.csv", "data.filter": {"source": "imdb"},
    "data.group_column": "author", "data.deduplicate": False, "data.encoding": "latin-1",
    "data.encoding_errors": "strict", "data.max_rows": 10, "data.quoting": "none", "data.header": False,
    "data.sheet": "2", "data.weight_column": "counts",
    "text.tokenizer": "basic_english", "text.lowercase": False, "text.normalize": "escapes",
    "text.max_tokens": 7, "text.truncate": "head", "text.min_frequency": 3, "text.max_vocabulary": 9,
    "text.subwords": 0, "text.vectors": "glove.txt", "text.vector_words": 5, "text.freeze_vectors": True,
    "model.embedding_size": 8, "model.hidden_size": 8, "model.layers": 2, "model.bidirectional": False,
    "model.pooling": "last", "model.dropout": 0.2, "model.embedding_dropout": 0.2, "model.word_dropout": 0.2,
    "model.ngrams": 64, "model.ngram_kind": "tfidf", "model.samples": 9,
    "trainer.epochs": 30, "trainer.batch_size": 8, "trainer.learning_rate": 0.5,
    "trainer.embedding_rate": 2.0, "trainer.layer_decay": 0.5, "trainer.unfreeze": 1,
    "trainer.weight_decay": 0.5, "trainer.warmup": 0.3, "trainer.clip_norm": 2.0,
    "trainer.label_smoothing": 0.3, "trainer.r_drop": 1.0, "trainer.vat": 0.1,
    "trainer.class_weights": "balanced",
    "trainer.ema": 0.5, "trainer.accumulate": 4, "trainer.precision": "bf16", "trainer.metric": "accuracy",
    "trainer.patience": 1,
}  # fmt: skip
NEW = {"out": "moved", "baseline": False, "report": True, "trainer.checkpoint_every": 3}
NEW |= {
    "trainer.tensorboard": True,
    "trainer.log_to": ["mlflow"],
    "trainer.timeout": 5,
    "trainer.keep_for_resume": True,
    "trainer.device": "cuda",
    "trainer.threads": 7,
}
KINDS = [Config(), PretrainConfig()]
KEYS = [(kind, key) for kind in KINDS for key in flatten(kind)]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def begin(folder: RunFolder, config: Any, facts: RunFacts | None = None, **others: Any) -> None:
    """Write a run after its first step, with other values of some keys: `seed`, `data__train`."""
    saved = yaml.safe_load(config_yaml(config))
    for key, value in others.items():
        *section, name = key.split("__")
        (saved[section[0]] if section else saved)[name] = value
    text = yaml.safe_dump(saved)
    folder.begin(config_yaml=text, vocabulary=["so", "good"], labels=["no", "yes"], label_map={})
    training = dataclasses.asdict(TrainingState(step=1))
    saved = {**to_json(facts or facts_of()), "training": training, "scaler": None}
    folder.save(LAST, {"model": {"w": torch.ones(1)}}, saved)


def test_every_key_is_classified() -> None:
    """A new key must be added to one of the tables above."""
    classes = [set(HARMLESS), set(TOLD), set(OTHERS)]
    keys = {key for kind in KINDS for key in flatten(kind)}
    assert set().union(*classes) == keys
    assert sum(map(len, classes)) == len(keys), "one class"
    assert set(NEW) == {*HARMLESS, *TOLD} - {"resume", "overwrite"}, "which are never written"


@pytest.mark.parametrize(("kind", "key"), KEYS, ids=[f"{type(kind).__name__} {key}" for kind, key in KEYS])
def test_a_differing_key_is_refused_with_both_values_unless_harmless(
    folder: RunFolder, kind: Any, key: str
) -> None:
    config, now = dataclasses.replace(kind, resume=True), flatten(kind)[key]
    then = (NEW | OTHERS).get(key)
    assert then != now
    begin(folder, kind, **({key.replace(".", "__"): then} if key in NEW | OTHERS else {}))
    if key not in OTHERS:
        assert check_folder(folder, config)
        return
    with pytest.raises(RunError) as caught:
        check_folder(folder, config)
    assert f"the run has {key} {then!r}, now it is {now!r}; resume with the run's own" in str(caught.value)
    assert caught.value.exit_code == 2


def test_all_differing_keys_are_named(folder: RunFolder) -> None:
    begin(folder, Config(), seed=1, trainer__epochs=30)
    with pytest.raises(
        RunError, match=r"has seed 1, now it is 0; the run has trainer\.epochs 30, now it is 3;"
    ):
        check_folder(folder, Config(resume=True))


# -- data and machine ------------------------------------------------------------------------------


def data_of(words: list[str], rows: int) -> Any:
    split = SplitFacts(rows=rows, classes={}, unknown_tokens=0.0, cut_tokens=0.0, tokens=0, empty_texts=0)
    counts = {"train": SourceCounts(filtered=0, empty=0, replaced=0)}
    facts = DataFacts(
        duplicates=0, conflicting_labels=0, counts=counts, splits={"train": split}, shared_texts={}
    )
    return SimpleNamespace(labels=["no", "yes"], vocabulary=Vocabulary(words), facts=facts, label_map={})


def facts_of(**others: Any) -> RunFacts:
    machine = {"threads": 1, "world_size": 1, "device": "cpu", "precision": "fp32", "torch": "2.13"}
    return RunFacts(**{"data": "0123456789abcdef", **machine, **others})


@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", 2), ("world_size", 2), ("device", "cuda"), ("precision", "bf16"), ("torch", "2.0")],
)
def test_another_machine_is_reported_with_both_values(
    folder: RunFolder, caplog: pytest.LogCaptureFixture, name: str, value: object
) -> None:
    begin(folder, Config(), facts_of())
    with caplog.at_level(logging.WARNING):
        checkpoint_to_resume(folder, facts_of(), data_of(["so", "good"], 9))
        assert not caplog.records
        checkpoint_to_resume(folder, facts_of(**{name: value}), data_of(["so", "good"], 9))
    before = getattr(facts_of(), name)
    assert f"the run had {name} {before}, now {value}: numbers are rounded differently" in caplog.text
    assert name in ROUNDED_BY


def test_a_run_of_an_earlier_version_may_lack_machine_facts(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    known = facts_of(device=None, precision=None, torch=None)
    begin(folder, Config(), known)
    checkpoint_to_resume(folder, facts_of(), data_of(["so", "good"], 9))
    assert not caplog.records


@pytest.mark.parametrize(
    ("words", "rows", "reported"),
    [
        (["so", "good", "bad"], 9, "tokens of the vocabulary: 2, now 3"),
        (["so", "good"], 10, "rows of train: 9, now 10"),
        (["so", "good"], 9, "sha256 0123456789ab, now other"),
    ],
)
def test_other_data_is_refused_with_both_descriptions(
    folder: RunFolder, words: list[str], rows: int, reported: str
) -> None:
    begin(folder, Config(), facts_of())
    folder.write(data_of([], 9).facts)
    with pytest.raises(RunError, match="no longer those the run began with") as caught:
        checkpoint_to_resume(folder, facts_of(data="other"), data_of(words, rows))
    assert f"({reported});" in str(caught.value)


@pytest.mark.parametrize("name", ["pretrained", "teacher"])
def test_another_start_or_teacher_is_refused_with_both_checksums(folder: RunFolder, name: str) -> None:
    begin(folder, Config(), facts_of(**{name: "a" * 64}))
    with pytest.raises(RunError, match=rf"{name}.* \(sha256 {'a' * 12}, now {'b' * 12}\)"):
        checkpoint_to_resume(folder, facts_of(**{name: "b" * 64}), data_of(["so", "good"], 9))


# -- torchrun's restarts ---------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"overwrite": True}, {"resume": True}])
def test_a_restarted_job_resumes_only_its_own_run(folder: RunFolder, settings: dict[str, bool]) -> None:
    """A run of an earlier job is not resumed without a request."""
    config = Config(**settings)
    again = Processes(world_size=2, restarts=1, job="mine")
    begin(folder, config)
    assert restarted(config, folder, again) == config, "no job has written here"
    write_json(folder.path / STATUS, {"job": "another"})
    assert restarted(config, folder, again) == config
    write_json(folder.path / STATUS, {"job": "mine"})
    assert restarted(config, folder, again) == Config(resume=True)
    first = dataclasses.replace(again, restarts=0)
    assert restarted(config, folder, first) == config
