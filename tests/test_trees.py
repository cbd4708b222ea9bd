"""Sentiment trees: parsing, training on phrases, and labels that exclude rows."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, make_rows, write_csv
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import lstm_sentiment
from lstm_sentiment import compare, evaluate, predict
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import DataConfig, TextConfig
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.dataset import TextDataset, plan_epoch, rank_share
from lstm_sentiment.data.formats import readers
from lstm_sentiment.data.formats.readers import read_chunks
from lstm_sentiment.data.formats.trees import read_tree
from lstm_sentiment.data.formats.writers import open_table
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import ConfigError, DataError, RunError
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.experiment.train import run
from lstm_sentiment.linear.baselines import baseline_scores
from lstm_sentiment.training.losses import balanced_weights
from lstm_sentiment.training.trainer import Trainer

Tree = tuple[int, Any]  # label, and a word or a list of trees
ESCAPES = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
LEAVES = st.tuples(
    st.integers(-1, 12),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters=" \t\r\n\0()\\`'-"), min_size=1)
    | st.sampled_from([*ESCAPES, "n't", "and/or", "****", "8\xa01/2", "-", "2"]),
)
TREES: st.SearchStrategy[Tree] = st.recursive(
    LEAVES,
    lambda inner: st.tuples(st.integers(-1, 12), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=12,
)
POLAR = {0: "negative", 1: "negative", 2: None, 3: "positive", 4: "positive"}


def written(tree: Tree, space: str = " ") -> str:
    """Return a bracketed tree, by a plain implementation."""
    label, inside = tree
    if isinstance(inside, list):
        return f"({label}{space}" + space.join(written(child, space) for child in inside) + ")"
    word = ESCAPES.get(inside, inside.replace("/", "\\/").replace("*", "\\*"))
    return f"({label}{space}{word})"


def spans_of(tree: Tree) -> list[tuple[str, str]]:
    """Return the span and label of each node of a tree."""
    label, inside = tree
    if not isinstance(inside, list):
        return [(inside, str(label))]
    below = [spans_of(child) for child in inside]
    whole = " ".join(spans[0][0] for spans in below)
    return [(whole, str(label)), *(span for spans in below for span in spans)]


def make_trees(count: int, *, seed: int = 0) -> list[Tree]:
    """Return trees with distinct sentences, whose labels 0 to 4 follow from their words.

    Every seventh sentence is neutral, whatever its words.
    """
    randomness = random.Random(seed)
    words = {"awful": 0, "bad": 1, "plain": 2, "the": 2, "film": 2, "good": 3, "superb": 4}

    def grown(leaves: list[Tree]) -> Tree:
        if len(leaves) == 1:
            return leaves[0]
        middle = randomness.randrange(1, len(leaves))
        parts = [grown(leaves[:middle]), grown(leaves[middle:])]
        furthest = max((label for label, _ in parts), key=lambda label: abs(label - 2))
        return furthest, parts

    trees = []
    for i in range(count):
        kinds = [*randomness.choices(list(words), k=randomness.randint(1, 4)), f"n{i}"]
        label, parts = grown([(words.get(word, 2), word) for word in kinds])
        trees.append((2 if i % 7 == 0 else label, parts))
    return trees


def write_trees(path: Path, trees: list[Tree]) -> Path:
    path.write_text("".join(written(tree) + "\n" for tree in trees), encoding="utf-8")
    return path


def refusal(path: Path, content: str) -> str:
    """Return the error message of a file, without its folder."""
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught, open_source(str(path)) as source:
        list(read_chunks(source))
    return str(caught.value).replace(f"{path.parent}/", "")


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Corpus]:
    """A function that prepares the corpus of a file; options as in DataConfig."""

    def make(train: Path, **data: Any) -> Corpus:
        text = TextConfig(min_frequency=1)
        return prepare(DataConfig(train=str(train), **data), text, seed=0, cache=tmp_path / "cache")

    return make


def rows_of(corpus: Corpus, dataset: TextDataset) -> list[tuple[str, str]]:
    tokens = dataset.store.tokens
    texts = [" ".join(tokens[i] for i in dataset.token_ids(row)) for row in range(len(dataset))]
    return [(text, corpus.labels[c]) for text, c in zip(texts, dataset.labels, strict=True)]


# --- the format ---


@given(TREES, st.sampled_from([" ", "  ", "\t", " \r"]))
@settings(deadline=None)
def test_a_tree_round_trips_as_spans(tree: Tree, space: str) -> None:
    found = read_tree(f" {written(tree, space)} \n")
    assert found[0] == spans_of(tree)[0]
    assert Counter(found) == Counter(spans_of(tree))


@given(TREES, st.data())
@settings(deadline=None)
def test_unbalanced_brackets_are_refused(tree: Tree, data: st.DataObject) -> None:
    line = written(tree)
    places = [i for i, character in enumerate(line) if character in "()"]
    place = data.draw(st.sampled_from(places))
    more = data.draw(st.booleans())
    broken = line[:place] + line[place] * 2 * more + line[place + 1 :]
    assume(broken.strip())
    with pytest.raises(DataError):
        read_tree(broken)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("so good", "'so good' found where a tree should begin"),
        ("(2 so", "the bracket at character 1 is never closed"),
        ("(3 (2 so) (4 good)", "the bracket at character 1 is never closed"),
        ("(3 (2 so) (4 good)))", "')' follows the tree's last bracket"),
        ("(3 so) (4 good)", "'(4 good)' follows the tree's last bracket"),
        ("(3 so) good", "'good' follows the tree's last bracket"),
        ("(4 (2 so) (JJ good))", "the node at character 11 has the label 'JJ', which is not an integer"),
        ("((2 so) (4 good))", "the node at character 1 has the label '(', which is not an integer"),
        ("(3.5 so)", "the node at character 1 has the label '3.5', which is not an integer"),
        ("(", "the node at character 1 has no label"),
        ("(4 (2 so) (4 ))", "the node at character 11 has no word"),
        ("(4 so good)", "'good' at character 7: a node has one word or child nodes"),
        ("(4 so (4 good))", "'(' at character 7: a node has one word or child nodes"),
        ("(4 (2 so) good)", "'good' at character 11: a node has one word or child nodes"),
        ("(4 \x1b[31m good)", "'good' at character 10: a node has one word or child nodes"),
        ("\x1b[31mred", r"'\x1b[31mred' found where a tree should begin"),
    ],
)
def test_a_line_that_is_not_a_tree_is_named(tmp_path: Path, line: str, expected: str) -> None:
    message = refusal(tmp_path / "a.txt", f"(2 fine)\n\n{line}\n(3 good)\n")
    assert message.startswith(f"a.txt:3: {expected}; a tree is written (4 (2 so) (4 good))")
    assert message.isprintable()


def test_a_file_of_plain_texts_gets_a_hint(tmp_path: Path) -> None:
    assert ".csv" in refusal(tmp_path / "notes.txt", "just notes\n")
    assert refusal(tmp_path / "empty.tree", "\n") == "empty.tree: has no rows; add one for each text"
    with pytest.raises(DataError, match=r"none of \.csv \.tsv"), open_table(str(tmp_path / "out.txt")):
        pass


@pytest.mark.parametrize("name", ["a.txt", "a.ptb", "a.TREE", "a.txt.gz"])
@pytest.mark.parametrize("phrases", [False, True])
def test_a_file_of_trees_is_read_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, phrases: bool
) -> None:
    trees = make_trees(7)
    content = ("\ufeff" + "\r\n\n".join(written(tree) for tree in trees)).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    monkeypatch.setattr(readers, "CHUNK_ROWS", 3)
    with open_source(str(tmp_path / name)) as source:
        chunks = list(read_chunks(source, phrases=phrases))
    assert len(chunks) == 3
    found = [
        (line, *row)
        for chunk in chunks
        for line, row in zip(chunk.lines, chunk.frame.itertuples(index=False), strict=True)
    ]
    expected = []
    for number, tree in enumerate(trees):
        sentence, *parts = spans_of(tree)
        expected.append((2 * number + 1, *sentence, *([False] if phrases else [])))
        expected += [(2 * number + 1, *part, True) for part in parts if phrases]
    assert sorted(found) == sorted(expected)
    if not phrases:
        assert [row[1] for row in found] == [spans_of(tree)[0][0] for tree in trees]


# --- phrases train, and only train ---


def test_without_phrases_each_tree_is_one_row(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    trees = make_trees(200)
    corpus = load(write_trees(tmp_path / "train.txt", trees))
    found = [row for split in corpus.splits.values() for row in rows_of(corpus, split)]
    assert sorted(found) == sorted(spans_of(tree)[0] for tree in trees)
    assert corpus.facts.phrases == 0


@pytest.mark.parametrize("deduplicate", [True, False])
@pytest.mark.parametrize("labels", [None, POLAR])
def test_phrases_come_from_training_and_unclassified_sentences(
    tmp_path: Path, load: Callable[..., Corpus], labels: Any, deduplicate: bool
) -> None:
    trees = make_trees(150)
    trees += [(tree[0], [tree, (2, f"m{i}")]) for i, tree in enumerate(trees[:80])]  # sentences in sentences
    corpus = load(
        write_trees(tmp_path / "train.txt", trees), labels=labels, phrases=0.5, deduplicate=deduplicate
    )
    name = labels or {label: str(label) for label in range(5)}
    sentences = {spans_of(tree)[0][0]: tree for tree in trees}
    held = {text for part in ("validation", "test") for text, _ in rows_of(corpus, corpus.splits[part])}
    assert held <= set(sentences), "held-out rows are sentences"
    expected: list[tuple[str, str]] = []
    for text, tree in sentences.items():
        if text not in held:
            spans = [(words, name[int(label)]) for words, label in spans_of(tree)]
            expected += [span for span in spans if span[1] is not None and span[0] not in held]
    found = rows_of(corpus, corpus.train)
    if deduplicate:
        assert {text for text, _ in found} == {text for text, _ in expected}
        assert len(found) == len({text for text, _ in found})
    else:
        assert Counter(found) == Counter(expected)
    assert set(corpus.facts.shared_texts.values()) == {0}
    for part in ("validation", "test"):
        assert not set(corpus.splits[part].store.lines[corpus.splits[part].rows]) & set(
            corpus.train.store.lines[corpus.train.rows]
        )


def test_a_neutral_duplicate_adds_no_phrases_of_held_out_sentences(
    tmp_path: Path, load: Callable[..., Corpus]
) -> None:
    trees = [tree for tree in make_trees(150) if tree[0] != 2]
    twins = [(2, parts) for _, parts in trees]
    corpus = load(write_trees(tmp_path / "train.txt", trees + twins), labels=POLAR, phrases=1.0)
    words = {part: " ".join(text for text, _ in rows_of(corpus, rows)).split() for part, rows in
             corpus.splits.items()}  # fmt: skip
    own = {part: {word for word in found if word[0] == "n"} for part, found in words.items()}
    assert not own["train"] & (own["validation"] | own["test"]), "each sentence has one word of its own"


def test_a_sample_has_only_phrases_of_its_sentences(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    trees = make_trees(200)
    data: dict[str, Any] = {"labels": POLAR, "phrases": 0.5, "max_rows": 40, "test": None}
    corpus = load(write_trees(tmp_path / "train.txt", trees), **data)
    train = corpus.train
    whole = ~train.store.phrases[train.rows]
    assert whole.sum() == 36
    assert set(train.store.lines[train.rows]) == set(train.store.lines[train.rows[whole]])


def test_a_validation_file_has_whole_sentences(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    train, validation = make_trees(60), make_trees(40, seed=1)
    files = {part: write_trees(tmp_path / f"{part}.txt", trees) for part, trees in
             (("train", train), ("validation", validation))}  # fmt: skip
    corpus = load(files["train"], validation=str(files["validation"]), test=None, phrases=1.0)
    found = [text for text, _ in rows_of(corpus, corpus.validation)]
    assert found == [spans_of(tree)[0][0] for tree in validation]


def test_phrases_do_not_count_words_twice(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    """A word of a deep tree is in many of its phrases, but counts once."""
    trees = make_trees(60)
    corpus = load(write_trees(tmp_path / "train.txt", trees), phrases=1.0, test=None)
    held = {text for text, _ in rows_of(corpus, corpus.validation)}
    sentences = [spans_of(tree)[0][0] for tree in trees]
    counts = Counter(word for text in sentences if text not in held for word in text.split())
    order = corpus.vocabulary.tokens[2:]
    assert [counts[word] for word in order] == sorted(counts.values(), reverse=True)


def test_phrases_of_a_file_without_trees_are_refused(load: Callable[..., Corpus], reviews: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.phrases: .*reviews\.csv has none"):
        load(reviews, phrases=0.5)
    for value in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"data\.phrases: must lie between 0 and 1"):
            DataConfig(phrases=value)


# --- what a row counts ---


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_weight_of_a_phrase_does_not_depend_on_its_batch(
    tmp_path: Path, load: Callable[..., Corpus], world_size: int
) -> None:
    """The summed losses of an epoch over processes equal a loop over rows."""
    train = load(write_trees(tmp_path / "train.txt", make_trees(80)), phrases=0.25).train
    own_R = np.where(train.store.phrases[train.rows], 0.25, 1.0)
    loss_R = np.random.default_rng(0).random(len(train))
    for step in plan_epoch(train.lengths, batch_size=7, accumulate=2, seed=0, epoch=0):
        rows = np.concatenate(step)
        expected = sum(own_R[r] / own_R.mean() * loss_R[r] for r in rows) / len(rows)
        found = 0.0
        for rank in range(world_size):
            for part, weights in rank_share(step, rank=rank, world_size=world_size):
                batch = train.batch(part, weights)
                found += float((batch.weights_B.numpy() * loss_R[part]).sum()) / world_size
        assert found == pytest.approx(expected, rel=1e-5)
    in_all = sum(float(train.batch(np.array([r]), np.ones(1)).weights_B) for r in range(len(train)))
    assert in_all == pytest.approx(len(train), rel=1e-5)


def test_weights_follow_their_rows_into_subsets(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    train = load(write_trees(tmp_path / "train.txt", make_trees(80)), phrases=0.25).train
    places = np.random.default_rng(0).permutation(len(train))[:50]
    of_part = np.where(train.store.phrases[train.rows[places]], 0.25, 1.0)
    np.testing.assert_allclose(train.part(places).weights, of_part / of_part.mean())


def test_balanced_classes_count_rows_by_their_weights() -> None:
    weights = balanced_weights(np.array([0, 0, 1]), 2, np.array([0.75, 0.75, 1.5]))
    assert weights.tolist() == [1.0, 1.0]
    assert balanced_weights(np.array([0, 0, 0]), 2, np.array([0.5, 0.5, 2.0]))[0] == 0.5


def test_the_majority_baseline_uses_weights(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    trees: list[Tree] = [(4, [(0, "not"), (0, "bad"), (4, f"good{i}")]) for i in range(20)]
    trees += [(0, [(0, f"poor{i}"), (0, f"dull{i}")]) for i in range(5)]
    corpus = load(write_trees(tmp_path / "train.txt", trees), phrases=0.01, deduplicate=False, test=None)
    truth_R = corpus.validation.labels
    linear = score(truth_R, np.eye(len(corpus.labels))[truth_R], corpus.labels)
    scores = baseline_scores(linear, corpus.train, truth_R, rows=len(corpus.train))
    counts = Counter(label for _, label in rows_of(corpus, corpus.train))
    predicted = np.array(scores["majority"].confusion).sum(axis=0)
    assert counts["0"] > counts["4"], "by rows alone"
    assert corpus.labels[int(predicted.argmax())] == "4", "sentences decide"


# --- labels that leave rows out ---


def test_a_null_leaves_rows_out_in_any_format(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    rows = make_rows(120)
    labels = {"negative": "bad", "neutral": None, "positive": "good"}
    corpus = load(write_csv(tmp_path / "train.csv", rows), labels=labels)
    found = [row for split in corpus.splits.values() for row in rows_of(corpus, split)]
    expected = [(text.lower(), labels[label]) for text, label in rows if labels[label] is not None]
    assert Counter(found) == Counter(expected)
    assert corpus.labels == ["bad", "good"]
    assert corpus.facts.counts["train"].left_out == 40


@pytest.mark.parametrize("labels", [{0: None, 1: "a"}, {0: None, 1: "a", 2: "a"}])
def test_at_least_two_classes_must_remain(labels: Any) -> None:
    with pytest.raises(ConfigError, match=r"data\.labels: needs at least 2 class names"):
        DataConfig(labels=labels)


def test_a_map_of_only_nulls_keeps_the_other_labels(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    """It names no class, so two classes are not required."""
    corpus = load(write_csv(tmp_path / "train.csv", make_rows(120)), labels={"neutral": None})
    assert corpus.labels == ["negative", "positive"]
    assert corpus.facts.counts["train"].left_out == 40


def test_a_file_without_remaining_rows_is_refused(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    rows = make_rows(120)
    labels = {"negative": "bad", "neutral": None, "positive": "good"}
    neutral = write_csv(tmp_path / "neutral.csv", [row for row in rows if row[1] == "neutral"])
    with pytest.raises(DataError, match=r"neutral\.csv: data\.labels excludes every row"):
        load(write_csv(tmp_path / "train.csv", rows), labels=labels, validation=str(neutral))


@pytest.mark.parametrize("labels", ["{0: bad, 2: null, 4: good}", "{0: bad, 2: ~, 4: good}"])
def test_null_in_a_map_is_read_from_files_and_options(tmp_path: Path, labels: str) -> None:
    (tmp_path / "c.yaml").write_text(f"data:\n  labels: {labels}\n", encoding="utf-8")
    for argv in (["--config", str(tmp_path / "c.yaml")], [f"--data.labels={labels}"]):
        config = parse_config(argv, program="test", description="")
        assert config.data.labels == {"0": "bad", "2": None, "4": "good"}


@pytest.mark.parametrize(
    "content", ["labels: [bad, null, good]", "filter: {source: null}", "labels: {null: bad, 1: good}"]
)
def test_a_null_elsewhere_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.yaml").write_text(f"data:\n  {content}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"c\.yaml:2: data\.(labels|filter): "):
        parse_config(["--config", str(tmp_path / "c.yaml")], program="test", description="")


# --- from end to end ---


@pytest.fixture(scope="module")
def tree_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on trees with phrases and without neutral rows, trained once; its data is next to it."""
    folder = tmp_path_factory.mktemp("trees")
    for part, count, seed in (("train", 150, 0), ("test", 60, 1)):
        write_trees(folder / f"{part}.txt", make_trees(count, seed=seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        run(tree_config(folder, folder / "run"))
    return folder


def tree_config(folder: Path, out: Path, *argv: str) -> Config:
    labels = json.dumps({str(code): name for code, name in POLAR.items()})
    options = [f"--data.train={folder / 'train.txt'}", f"--data.test={folder / 'test.txt'}", f"--out={out}"]
    options += [f"--data.labels={labels}", "--data.phrases=0.5", "--trainer.epochs=3", *TINY, *argv]
    return parse_config(options, program="test", description="")


def test_a_run_scores_a_file_as_training_did(tree_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([str(tree_run / "run"), str(tree_run / "test.txt")])
    reported = json.loads((tree_run / "run" / "evaluation.json").read_bytes())
    trained = json.loads((tree_run / "run" / "metrics.json").read_bytes())["test"]
    neutral = sum(tree[0] == 2 for tree in make_trees(60, seed=1))
    assert reported["rows"] == trained["rows"] == 60 - neutral < 60
    assert reported["confusion"] == trained["confusion"]
    assert trained["accuracy"] > 0.9
    compare.main([str(tree_run / "run"), str(tree_run / "run"), str(tree_run / "test.txt")])
    assert str(60 - neutral) in capsys.readouterr().out


def test_rows_left_out_by_evaluation_are_reported(tree_run: Path, caplog: pytest.LogCaptureFixture) -> None:
    classifier = lstm_sentiment.load(tree_run / "run", device="cpu")
    assert classifier.labels == ["negative", "positive"]
    neutral = sum(tree[0] == 2 for tree in make_trees(60, seed=1))
    evaluate.main([str(tree_run / "run"), str(tree_run / "test.txt")])
    assert f"test.txt: {neutral} rows left out by the run's data.labels" in caplog.text


def test_a_file_without_scorable_rows_is_refused(tree_run: Path, tmp_path: Path) -> None:
    neutral = write_trees(tmp_path / "neutral.txt", [(2, "so"), (2, "plain")])
    with pytest.raises(DataError, match=r"neutral\.txt: every row is left out by the run's data\.labels"):
        evaluate.main([str(tree_run / "run"), str(neutral)])


def test_runs_that_leave_out_other_rows_are_not_compared(tree_run: Path, tmp_path: Path) -> None:
    kept = json.dumps({"0": "negative", "1": "negative", "2": "negative", "3": "positive", "4": "positive"})
    run(tree_config(tree_run, tmp_path / "other", f"--data.labels={kept}", "--trainer.epochs=1"))
    with pytest.raises(RunError, match="map the labels of"):
        compare.main([str(tree_run / "run"), str(tmp_path / "other"), str(tree_run / "test.txt")])


def test_sentences_of_trees_are_predicted(tree_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    predict.main([str(tree_run / "run"), "--file", str(tree_run / "test.txt"), "--out", str(out)])
    found = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [(row["text"], row["label"]) for row in found] == [
        spans_of(tree)[0] for tree in make_trees(60, seed=1)
    ]
    assert {row["predicted_label"] for row in found} == {"negative", "positive"}


def test_a_run_with_phrases_resumes_bit_for_bit(
    tree_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def killed_at_17(trainer: Trainer, batches: list[Any]) -> float:
        if trainer.state.step == 17:
            raise KeyboardInterrupt
        return step(trainer, batches)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", killed_at_17)
        with pytest.raises(KeyboardInterrupt):
            run(tree_config(tree_run, out, "--trainer.checkpoint_every=10"))
    run(tree_config(tree_run, out, "--trainer.checkpoint_every=10", "--resume=true"))
    weights = [folder / "best" / "model.safetensors" for folder in (tree_run / "run", out)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
