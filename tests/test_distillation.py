"""Distillation: a model learns the predictions of finished runs on unlabelled texts."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLUES, FILLERS, killed_at_save, make_rows, write_csv  # type: ignore[import-not-found]
from torch import nn

from lstm_sentiment.checkpoints.run_folder import LAST, RunFolder
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import ConfigError, RunError
from lstm_sentiment.experiment.teachers import Teachers, load_teachers
from lstm_sentiment.experiment.train import run
from lstm_sentiment.prediction.classifier import read_run
from lstm_sentiment.train import main
from lstm_sentiment.training.losses import cross_entropy

Configure = Callable[..., Config]


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """150 unlabelled texts, each with a clue word of its class."""
    lines = [text for text, _ in make_rows(150, seed=7)]
    path = tmp_path / "more.csv"
    path.write_text("\n".join(["text", *(f'"{line}"' for line in lines)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def learn(configure: Configure, trained_run: Path, more: Path) -> Configure:
    """A function that configures a student of `trained_run`."""
    return lambda *argv: configure(f"--teacher={trained_run}", f"--data.unlabelled={more}", *argv)


def corpus_of(config: Config) -> Corpus:
    return prepare(config.data, config.text, seed=config.seed, cache=cache_folder())


def texts_of(path: Path) -> list[str]:
    return [row["text"] for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())]


def test_unlabelled_texts_get_the_teachers_probabilities(
    learn: Configure, trained_run: Path, more: Path
) -> None:
    """Reference: the teacher's predictions on the same texts."""
    corpus = corpus_of(learn())
    teacher = read_run(trained_run)
    taught = Teachers([teacher]).teach(corpus)
    rows = len(corpus.train)
    assert len(taught) == rows + 150
    np.testing.assert_array_equal(taught.targets[:rows].argmax(1), corpus.train.labels)
    assert taught.targets[:rows].sum() == rows == (taught.targets[:rows] == 1).sum()
    np.testing.assert_allclose(taught.targets[rows:], teacher.predict_proba(texts_of(more)), atol=1e-6)
    np.testing.assert_array_equal(taught.labels[rows:], taught.targets[rows:].argmax(1))
    for row in (0, rows - 1):  # the same tokens as before
        assert taught.token_ids(row).tolist() == corpus.train.token_ids(row).tolist()
    assert sum(corpus.facts.unlabelled.classes.values()) == 150


def test_the_teacher_may_order_classes_differently(learn: Configure, trained_run: Path, more: Path) -> None:
    corpus = corpus_of(learn("--data.labels=[positive, negative, neutral]"))
    teacher = read_run(trained_run)
    taught = Teachers([teacher]).teach(corpus)
    answers_UC = teacher.predict_proba(texts_of(more))
    assert teacher.labels == ["negative", "neutral", "positive"]
    np.testing.assert_allclose(taught.targets[len(corpus.train) :], answers_UC[:, [2, 0, 1]], atol=1e-6)


def test_several_teachers_are_averaged(learn: Configure, trained_run: Path) -> None:
    corpus = corpus_of(learn())
    one, other = read_run(trained_run), read_run(trained_run)
    with torch.no_grad():
        other.model.head.bias += torch.tensor([3.0, 0.0, -3.0])  # type: ignore[union-attr,operator]
    alone = [Teachers([teacher]).teach(corpus).targets for teacher in (one, other)]
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    both = Teachers([one, other])
    np.testing.assert_allclose(both.teach(corpus).targets, np.mean(alone, axis=0), atol=1e-6)
    assert len({both.sha256, Teachers([one]).sha256, Teachers([other]).sha256}) == 3


def test_unlabelled_texts_exclude_split_texts_and_repeats(
    learn: Configure, reviews: Path, tmp_path: Path
) -> None:
    held_out = write_csv(tmp_path / "held_out.csv", make_rows(30, seed=3))
    known, test = texts_of(reviews), texts_of(held_out)
    new = ["quite new it is", "and so is this"]
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    first.write_text("\n".join(["text", known[0], new[0], test[0], known[-1]]) + "\n")
    second.write_text("\n".join(["text", new[1], new[0], *known[5:9], test[1], new[1]]) + "\n")
    corpus = corpus_of(learn(f"--data.unlabelled=[{first},{second}]", f"--data.test={held_out}"))
    assert corpus.unlabelled is not None
    store = corpus.unlabelled.store
    found = [
        " ".join(store.tokens[i] for i in store.ids_N[store.offsets[row] : store.offsets[row + 1]])
        for row in corpus.unlabelled.rows
    ]
    assert found == new

    third = tmp_path / "third.csv"
    third.write_text(f"text\nsomething else\n{new[1]}\n", encoding="utf-8")
    excluded = corpus_of(learn(f"--data.unlabelled=[{first},{second}]", f"--data.exclude={third}"))
    assert excluded.unlabelled is not None
    assert len(excluded.unlabelled) == len(new) - 1 + 2  # without a test file its texts are as good as others


def test_unlabelled_texts_extend_only_the_vocabulary(
    configure: Configure, learn: Configure, tmp_path: Path
) -> None:
    alone = run(configure("--baseline=true", f"--out={tmp_path / 'alone'}", "--trainer.epochs=1"))
    config = learn("--baseline=true", "--trainer.epochs=1")
    taught = run(config)
    assert taught["baselines"]["majority"] == alone["baselines"]["majority"]
    linear = [of["baselines"]["tfidf_logistic_regression"]["training_rows"] for of in (taught, alone)]
    assert linear[0] == linear[1], "its vocabulary is larger, its rows are the same"
    before, after = corpus_of(configure()), corpus_of(config)
    assert before.facts.splits["train"].rows == after.facts.splits["train"].rows
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(before.splits[name].rows, after.splits[name].rows)
    assert set(before.vocabulary.tokens) < set(after.vocabulary.tokens)
    written = json.loads((Path(config.out) / "data.json").read_text("utf-8"))
    assert written["unlabelled"]["texts"] == 150


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_to_the_targets(learn: Configure, smoothing: float) -> None:
    corpus = corpus_of(learn())
    teacher = read_run(Path(str(learn().teacher)))
    taught = Teachers([teacher]).teach(corpus)
    batch = taught.batch(np.arange(len(taught) - 20, len(taught)))
    logits_BC = torch.randn(20, 3)
    targets_BC = batch.targets_BC * (1 - smoothing) + smoothing / 3
    expected = -(targets_BC * logits_BC.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(cross_entropy(None, smoothing)(logits_BC, batch), expected)
    of_labels = nn.functional.cross_entropy(logits_BC, batch.labels_B, label_smoothing=smoothing)
    assert abs(of_labels - expected) > 1e-3, "or the probabilities are no part of this"


def test_a_student_learns_words_that_only_the_teacher_knows(
    configure: Configure, trained_run: Path, tmp_path: Path
) -> None:
    """Its own 24 rows have few of the words; the teacher's predictions cover them."""
    known = {"negative": "awful", "neutral": "okay", "positive": "great"}
    randomness = random.Random(0)
    rows = [
        (" ".join([*randomness.choices(FILLERS, k=5), word, f"x{i}"]), label)
        for i in range(20)
        for label, word in known.items()
    ]
    few = write_csv(tmp_path / "few.csv", rows)
    clues = [(clue, label) for label, some in CLUES.items() for clue in some]
    texts = [f"{clue} {filler} food {i}" for i in range(4) for filler in FILLERS for clue, _ in clues]
    (tmp_path / "texts.csv").write_text("\n".join(["text", *texts]) + "\n")
    shares = ("--data.validation=0.2", "--data.test=null", "--trainer.epochs=6", f"--data.train={few}")
    run(configure(*shares, f"--out={tmp_path / 'alone'}"))
    taught = (f"--teacher={trained_run}", f"--data.unlabelled={tmp_path / 'texts.csv'}")
    run(configure(*shares, *taught, f"--out={tmp_path / 'taught'}"))
    right = {}
    for name in ("alone", "taught"):
        answers = read_run(tmp_path / name).predict([f"{clue} room" for clue, _ in clues])
        right[name] = np.mean([of.label == label for of, (_, label) in zip(answers, clues, strict=True)])
    assert right["taught"] >= 0.9 > right["alone"] + 0.2


def test_a_killed_run_resumes_bit_for_bit_and_not_with_another_teacher(
    learn: Configure, trained_run: Path, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(trained_run, teacher)
    argv = (f"--teacher={teacher}", "--trainer.checkpoint_every=4")
    whole, killed = (learn(*argv, f"--out={tmp_path / name}") for name in ("whole", "killed"))
    run(whole)
    with killed_at_save(LAST, 4):
        run(killed)
    resumed = learn(*argv, f"--out={killed.out}", "--resume=true")
    run(resumed)
    first, second = (RunFolder(config.out).load(LAST).tensors["model"] for config in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)

    shutil.rmtree(killed.out)
    with killed_at_save(LAST, 4):
        run(killed)
    rows = write_csv(tmp_path / "other.csv", make_rows(90))
    other = learn(f"--out={tmp_path / 'other'}", f"--data.train={rows}")
    run(other)
    shutil.rmtree(teacher)
    shutil.copytree(other.out, teacher)
    with pytest.raises(RunError, match="the teacher's weights are no longer those the run began with"):
        run(resumed)


@pytest.mark.parametrize(
    ("argv", "key"),
    [
        (["--teacher=runs/x"], "teacher"),
        (["--data.unlabelled=more.csv"], "data.unlabelled"),
        (["--teacher=[]", "--data.unlabelled=more.csv"], "data.unlabelled"),
        (["--teacher=runs/x", "--data.unlabelled=[]"], "data.unlabelled"),
        (["--teacher=runs/x", "--data.unlabelled= "], "data.unlabelled"),
        (["--data.exclude=test.csv"], "data.exclude"),
        (["--teacher=runs/x", "--data.unlabelled=more.csv", "--data.exclude=[]"], "data.exclude"),
    ],
)
def test_one_without_the_other_is_refused(configure: Configure, argv: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(*argv)
    assert caught.value.key == key


@pytest.mark.parametrize("name", ["--text.lowercase=false", "--text.normalize=negation"])
def test_a_teacher_with_another_tokenizer_is_refused(learn: Configure, name: str) -> None:
    with pytest.raises(ConfigError, match=r"but the teacher .* has") as caught:
        load_teachers(learn(name))
    assert caught.value.key == name[2:].split("=")[0]


def test_a_teacher_of_other_classes_is_refused(learn: Configure, tmp_path: Path) -> None:
    two = [row for row in make_rows(240) if row[1] != "neutral"]
    config = learn(f"--data.train={write_csv(tmp_path / 'two.csv', two)}")
    with pytest.raises(
        ConfigError, match="has the classes negative, neutral, positive, but the classes here are"
    ):
        run(config)
    assert not Path(config.out).exists()


def test_a_teacher_trained_on_held_out_rows_is_refused(
    configure: Configure, more: Path, tmp_path: Path
) -> None:
    """The same file with another split: predictions would leak labels of held-out rows into training."""
    teacher = configure(f"--out={tmp_path / 'teacher'}", "--trainer.epochs=1")
    run(teacher)
    taught = (f"--teacher={teacher.out}", f"--data.unlabelled={more}")
    load_teachers(configure(*taught))
    for other in ("--seed=1", "--data.validation=0.2", "--data.max_rows=100", "--data.test=null"):
        with pytest.raises(ConfigError, match="was trained on the same file with") as caught:
            load_teachers(configure(*taught, other))
        assert caught.value.key == "teacher"
    files = write_csv(tmp_path / "held_out.csv", make_rows(30, seed=3))
    own = (f"--data.validation={files}", f"--data.test={files}")
    load_teachers(configure(*taught, *own, "--seed=1"))  # nothing is cut from the file


def test_the_command_reports_the_teachers_predictions(
    trained_run: Path, more: Path, reviews: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [f"--teacher={trained_run}", f"--data.train={reviews}", f"--out={tmp_path / 'student'}"]
    argv += ["--baseline=false", "--trainer.epochs=1", "--model.hidden_size=8", "--trainer.threads=1"]
    main([*argv, f"--data.unlabelled={more}"])
    assert "unlabelled       150 texts, predicted: negative " in capsys.readouterr().out
