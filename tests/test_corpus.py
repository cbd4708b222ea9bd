"""Corpus: splits, refused data, and the vocabulary."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_rows, write_csv

from lstm_sentiment.config.sections import DataConfig, TextConfig
from lstm_sentiment.data.corpus import Corpus, prepare, refuse_addresses
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.errors import ConfigError, DataError
from lstm_sentiment.records.data_facts import SourceCounts

Rows = list[tuple[str, str]]
EVERY_TOKEN = TextConfig(min_frequency=1)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Corpus]:
    """A function that prepares the corpus of some rows, or of a file; options as in DataConfig."""

    def make(source: Rows | Path, *, text: TextConfig = EVERY_TOKEN, seed: int = 0, **data: Any) -> Corpus:
        file = source if isinstance(source, Path) else write_csv(tmp_path / "train.csv", source)
        return prepare(DataConfig(train=str(file), **data), text, seed=seed, cache=tmp_path / "cache")

    return make


def texts(dataset: TextDataset) -> list[str]:
    """Return a dataset's texts, not truncated."""
    return [" ".join(dataset.store.tokens[i] for i in dataset.token_ids(r)) for r in range(len(dataset))]


def rows_of(corpus: Corpus, dataset: TextDataset) -> list[tuple[str, str]]:
    return [(t, corpus.labels[c]) for t, c in zip(texts(dataset), dataset.labels, strict=True)]


def skewed_rows(counts: dict[str, int], seed: int = 0) -> Rows:
    rows = [(f"{label} text n{label}{i}", label) for label, count in counts.items() for i in range(count)]
    random.Random(seed).shuffle(rows)
    return rows


# --- splits ---


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_each_row_is_in_one_split_with_its_label(load: Callable[..., Corpus], seed: int) -> None:
    rows = make_rows(240)
    corpus = load(rows, seed=seed)
    found = [row for split in corpus.splits.values() for row in rows_of(corpus, split)]
    assert sorted(found) == sorted((text.lower(), label) for text, label in rows)
    assert [len(split) for split in corpus.splits.values()] == [192, 24, 24]


@pytest.mark.parametrize("counts", [{"a": 90, "b": 37, "c": 13}, {"a": 12, "b": 500}, {"a": 30, "b": 30}])
@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.1), (0.25, 0.3), (0.2, None)])
def test_each_class_has_the_same_share_of_every_split(
    load: Callable[..., Corpus], counts: dict[str, int], validation: float, test: float | None
) -> None:
    """A split of n rows has n times a class's fraction of all rows, within one row."""
    corpus = load(skewed_rows(counts), validation=validation, test=test)
    total = sum(counts.values())
    splits = corpus.splits
    assert abs(len(corpus.validation) - validation * total) <= 0.5
    assert abs(len(splits.get("test", ())) - (test or 0) * total) <= 0.5
    for split in splits.values():
        of_class = Counter(corpus.labels[c] for c in split.labels)
        for label, count in counts.items():
            assert abs(of_class[label] - len(split) * count / total) <= 1.5, (label, len(split))
            assert of_class[label] > 0


def test_the_seed_alone_decides_the_split(load: Callable[..., Corpus]) -> None:
    rows = make_rows(240)
    first, again, other = (load(rows, seed=seed) for seed in (3, 3, 4))
    for name, split in first.splits.items():
        assert texts(split) == texts(again.splits[name])
        assert texts(split) != texts(other.splits[name])


def test_the_split_does_not_depend_on_the_text_settings(load: Callable[..., Corpus]) -> None:
    rows = make_rows(240)
    plain, other = load(rows), load(rows, text=TextConfig(max_tokens=3, min_frequency=5, lowercase=False))
    for name, split in plain.splits.items():
        assert split.rows.tolist() == other.splits[name].rows.tolist()


def test_no_test_rows_if_none_are_requested(load: Callable[..., Corpus]) -> None:
    corpus = load(make_rows(60), test=None)
    assert corpus.test is None
    assert set(corpus.facts.splits) == {"train", "validation"}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_group_stays_in_one_split(tmp_path: Path, load: Callable[..., Corpus], seed: int) -> None:
    file = tmp_path / "grouped.csv"
    randomness = random.Random(seed)
    authors = [f"author{randomness.randrange(40)}" for _ in range(300)]
    lines = [f"{text},{label},{a}" for (text, label), a in zip(make_rows(300), authors, strict=True)]
    file.write_text("\n".join(["text,label,author", *lines]), encoding="utf-8")
    corpus = load(file, group_column="author", seed=seed, validation=0.2, test=0.2)
    author_of = {text.lower(): a for (text, _), a in zip(make_rows(300), authors, strict=True)}
    sides = {name: {author_of[t] for t in texts(split)} for name, split in corpus.splits.items()}
    assert sides["train"] | sides["validation"] | sides["test"] == set(authors)
    assert sum(map(len, sides.values())) == len(set(authors))
    assert sum(len(split) for split in corpus.splits.values()) == 300
    assert all(30 <= len(corpus.splits[name]) <= 90 for name in ("validation", "test"))


def test_too_few_groups_are_refused(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    file = tmp_path / "grouped.csv"
    lines = [f"text {i},{'ab'[i % 2]},g{i % 3}" for i in range(60)]
    file.write_text("\n".join(["text,label,group", *lines]), encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.group_column has 3 groups, too few"):
        load(file, group_column="group")


@pytest.mark.parametrize("count", [2, 4, 9])
def test_too_few_rows_are_refused(load: Callable[..., Corpus], count: int) -> None:
    with pytest.raises(DataError, match="too few") as caught:
        load(skewed_rows({"a": count // 2, "b": count - count // 2}))
    assert "train.csv" in str(caught.value)


def test_a_class_of_one_row_cannot_be_split(load: Callable[..., Corpus]) -> None:
    with pytest.raises(DataError, match=r"the label .c. has 1 row"):
        load(skewed_rows({"a": 100, "b": 100, "c": 1}))


# --- duplicates ---


def test_repeated_texts_are_removed_before_the_split(load: Callable[..., Corpus]) -> None:
    rows = make_rows(120)
    repeated = [*rows, *[(f" {text} ", label) for text, label in rows[:50]], *rows[:10]]
    corpus = load(repeated)
    found = [text for split in corpus.splits.values() for text in texts(split)]
    assert sorted(found) == sorted(text.lower() for text, _ in rows)
    assert corpus.facts.duplicates == 60
    assert corpus.facts.conflicting_labels == 0
    assert corpus.facts.shared_texts == {"validation": 0, "test": 0}
    kept = load(repeated, deduplicate=False)
    assert sum(len(split) for split in kept.splits.values()) == 180
    assert kept.facts.duplicates == 60


def test_the_first_row_of_a_repeated_text_is_kept(load: Callable[..., Corpus]) -> None:
    rows = make_rows(60)
    other = {"negative": "positive", "neutral": "negative", "positive": "neutral"}
    corpus = load([*rows, *[(text, other[label]) for text, label in rows[:7]], *rows[:3]])
    found = [row for split in corpus.splits.values() for row in rows_of(corpus, split)]
    assert sorted(found) == sorted((text.lower(), label) for text, label in rows)
    assert corpus.facts.duplicates == 10
    assert corpus.facts.conflicting_labels == 7


def test_codes_of_one_class_do_not_conflict(load: Callable[..., Corpus]) -> None:
    rows = [(f"text {i}", str(i % 4)) for i in range(80)]
    swapped = [(text, {"0": "1", "1": "0"}.get(label, label)) for text, label in rows[:8]]
    corpus = load([*rows, *swapped], labels={0: "bad", 1: "bad", 2: "good", 3: "good"})
    assert corpus.facts.duplicates == 8
    assert corpus.facts.conflicting_labels == 0


def test_rows_of_another_file_are_not_deduplicated(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    rows = make_rows(60)
    validation = write_csv(tmp_path / "validation.csv", [rows[0]] * 3 + [("unseen great", "positive")] * 2)
    test = write_csv(tmp_path / "test.csv", [rows[1], rows[2], ("other awful", "negative")])
    corpus = load([*rows, *rows], validation=str(validation), test=str(test))
    assert texts(corpus.train) == [text.lower() for text, _ in rows]
    assert texts(corpus.validation) == [rows[0][0].lower()] * 3 + ["unseen great"] * 2
    assert corpus.facts.shared_texts == {"validation": 3, "test": 2}
    assert corpus.facts.duplicates == 60


def test_a_file_can_be_combined_with_a_fraction(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    test = write_csv(tmp_path / "test.csv", make_rows(9, seed=5))
    corpus = load(make_rows(100), validation=0.2, test=str(test))
    assert [len(split) for split in corpus.splits.values()] == [80, 20, 9]
    validation = write_csv(tmp_path / "validation.csv", make_rows(9, seed=6))
    corpus = load(make_rows(100), validation=str(validation), test=0.2)
    assert [len(split) for split in corpus.splits.values()] == [80, 9, 20]


# --- a part of the rows ---


@pytest.mark.parametrize("max_rows", [20, 50, 100, 138, 139])
def test_a_sample_keeps_the_class_balance(load: Callable[..., Corpus], max_rows: int) -> None:
    counts = {"a": 90, "b": 37, "c": 13}
    corpus = load(skewed_rows(counts), max_rows=max_rows, test=None, validation=0.3)
    kept = [row for split in corpus.splits.values() for row in rows_of(corpus, split)]
    assert len(kept) == len(set(kept)) == max_rows
    for label, count in Counter(label for _, label in kept).items():
        assert abs(count - max_rows * counts[label] / 140) <= 1


def test_a_sample_is_seeded_and_drawn_from_all_rows(load: Callable[..., Corpus]) -> None:
    rows = make_rows(200)

    def sample(seed: int, max_rows: int = 60) -> set[str]:
        corpus = load(rows, max_rows=max_rows, seed=seed)
        return {text for split in corpus.splits.values() for text in texts(split)}

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(1, max_rows=200) == sample(1, max_rows=10_000) == {text.lower() for text, _ in rows}
    assert any(text.lower() in sample(1) for text, _ in rows[150:])


def test_only_the_training_file_is_sampled(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    test = write_csv(tmp_path / "test.csv", make_rows(90, seed=5))
    corpus = load(make_rows(200), max_rows=60, validation=0.5, test=str(test))
    assert [len(split) for split in corpus.splits.values()] == [30, 30, 90]


def test_a_filter_applies_to_every_file(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    def write(name: str, count: int) -> Path:
        lines = [f"{text},{label},s{i % 2}" for i, (text, label) in enumerate(make_rows(count))]
        (tmp_path / name).write_text("\n".join(["text,label,source", *lines]), encoding="utf-8")
        return tmp_path / name

    corpus = load(write("a.csv", 120), test=str(write("b.csv", 30)), filter={"source": "s1"})
    assert (len(corpus.train) + len(corpus.validation), len(corpus.splits["test"])) == (60, 15)
    assert corpus.facts.counts["train"].filtered == 60
    assert corpus.facts.counts["test"].filtered == 15
    with pytest.raises(DataError, match=r"no row is left after the filter \{'source': 's2'\}"):
        load(tmp_path / "a.csv", filter={"source": "s2"})


def test_a_filter_may_contain_numbers(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    file = tmp_path / "a.jsonl"
    records = [
        {"text": text, "label": label, "year": 2000 + i % 2} for i, (text, label) in enumerate(make_rows(120))
    ]
    lines = map(json.dumps, records)
    file.write_text("\n".join(lines), encoding="utf-8")
    corpus = load(file, filter={"year": 2001})
    assert sum(len(split) for split in corpus.splits.values()) == 60


# --- labels ---


def test_classes_are_sorted_by_value_if_none_are_named(load: Callable[..., Corpus]) -> None:
    assert load(make_rows(60)).labels == ["negative", "neutral", "positive"]
    numbers = [(f"text {i}", ["10", "9", "-1", "0", "2.5"][i % 5]) for i in range(100)]
    assert load(numbers).labels == ["-1", "0", "2.5", "9", "10"]


@pytest.mark.parametrize("names", [["none", "bad", "good"], ["inf", "bad", "-inf"], ["1", "one", "1e0"]])
def test_the_order_of_classes_does_not_depend_on_the_order_of_rows(
    load: Callable[..., Corpus], names: list[str]
) -> None:
    orders = []
    for shift in range(len(names)):
        rows = [(f"text {i}", names[(i + shift) % len(names)]) for i in range(60)]
        orders.append(load(rows).labels)
    assert orders.count(orders[0]) == len(orders)


def test_named_classes_keep_their_order(load: Callable[..., Corpus]) -> None:
    rows = make_rows(60)
    corpus = load(rows, labels=["positive", "negative", "neutral"])
    assert corpus.labels == ["positive", "negative", "neutral"]
    assert corpus.label_map == {name: name for name in corpus.labels}
    found = [row for split in corpus.splits.values() for row in rows_of(corpus, split)]
    assert sorted(found) == sorted((text.lower(), label) for text, label in rows)


def test_codes_are_mapped_to_classes(load: Callable[..., Corpus]) -> None:
    """Several codes may share a class, which has the position of its first code."""
    rows = [(f"text {i}", str(i % 5)) for i in range(100)]
    names: dict[int | str, str] = {4: "good", 3: "good", 0: "bad", "1": "bad", 2: "so-so"}
    corpus = load(rows, labels=names)
    assert corpus.labels == ["good", "bad", "so-so"]
    assert corpus.label_map == {"4": "good", "3": "good", "0": "bad", "1": "bad", "2": "so-so"}
    found = [row for split in corpus.splits.values() for row in rows_of(corpus, split)]
    assert sorted(found) == sorted((text, corpus.label_map[label]) for text, label in rows)
    assert corpus.facts.splits["train"].classes == {"good": 32, "bad": 32, "so-so": 16}


def test_an_unknown_label_is_refused_with_its_line(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    rows = make_rows(60)
    bad = write_csv(tmp_path / "bad.csv", [*rows[:4], ("typing error", "postive"), ("again", "postive")])
    for split in ("validation", "test"):
        with pytest.raises(DataError) as caught:
            load(rows, **{split: str(bad)})
        message = str(caught.value)
        expected = "label 'postive' is not one of negative, neutral, positive. Did you mean 'positive'?"
        assert message == f"{bad}:6: {expected} (2 rows)"
    with pytest.raises(DataError, match=r"bad\.csv:6: label 'postive' is not one of negative, positive"):
        load(bad, labels=["negative", "positive"], filter={"label": "postive"})


def test_an_unknown_code_hints_at_a_label_map(load: Callable[..., Corpus]) -> None:
    rows = [(f"text {i}", str(i % 2)) for i in range(60)]
    with pytest.raises(DataError, match=r"train\.csv:2: label '0' .*data\.labels \{0: negative"):
        load(rows, labels=["negative", "positive"])


def test_one_class_is_refused(load: Callable[..., Corpus]) -> None:
    with pytest.raises(DataError, match="every row has the label 'a'; a classifier needs at least two"):
        load([(f"text {i}", "a") for i in range(40)])


def test_more_classes_than_a_hundred_are_refused(load: Callable[..., Corpus]) -> None:
    with pytest.raises(DataError, match=r"101 different labels .*set data\.label_column to the right one"):
        load([(f"text {i}", f"id{i % 101}") for i in range(404)])
    corpus = load([(f"text {i}", f"id{i % 100}") for i in range(1000)], validation=0.1, test=None)
    assert len(corpus.labels) == 100


def test_a_class_without_a_training_row_is_refused(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    rows = make_rows(60)
    names = ["negative", "neutral", "positive", "mixed"]
    with pytest.raises(DataError, match="no training row has the label 'mixed'"):
        load(rows, labels=names)
    other = write_csv(tmp_path / "other.csv", [("a b", "mixed"), ("c", "neutral")])
    with pytest.raises(DataError, match="no training row has the label 'mixed'"):
        load(rows, labels=names, validation=str(other))


def test_a_class_may_be_missing_in_another_file(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    test = write_csv(tmp_path / "test.csv", [("a b", "neutral"), ("c", "neutral")])
    corpus = load(make_rows(60), test=str(test))
    assert corpus.facts.splits["test"].classes == {"negative": 0, "neutral": 2, "positive": 0}


def test_class_folders_are_chosen_by_the_labels(tmp_path: Path, load: Callable[..., Corpus]) -> None:
    """As in a corpus whose folder also has unlabelled reviews."""
    for part, count in ("train", 30), ("test", 4):
        for name in ("neg", "pos", "unsup"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / part / name / f"{i}.txt").write_text(f"{name} {part} {i}", encoding="utf-8")
    corpus = load(
        tmp_path / "train", test=str(tmp_path / "test"), labels={"neg": "negative", "pos": "positive"}
    )
    assert corpus.labels == ["negative", "positive"]
    assert sorted(rows_of(corpus, corpus.splits["test"])) == sorted(
        (f"{name[:3]} test {i}", name) for name in ("negative", "positive") for i in range(4)
    )
    assert len(corpus.train) + len(corpus.validation) == 60


# --- vocabulary and facts ---


@pytest.mark.parametrize(("min_frequency", "most"), [(1, 30_000), (2, 30_000), (5, 30_000), (1, 7), (3, 10)])
def test_the_vocabulary_is_counted_on_the_training_rows(
    load: Callable[..., Corpus], min_frequency: int, most: int
) -> None:
    text = TextConfig(min_frequency=min_frequency, max_vocabulary=most)
    corpus = load(make_rows(240), text=text)
    counts = Counter(token for row in texts(corpus.train) for token in row.split())
    number = {token: i for i, token in enumerate(corpus.train.store.tokens)}
    known = [token for token, count in counts.items() if count >= min_frequency]
    known.sort(key=lambda token: (-counts[token], number[token]))
    assert corpus.vocabulary.tokens == ["<pad>", "<unk>", *known[:most]]


def test_a_word_only_in_test_rows_is_unknown(load: Callable[..., Corpus]) -> None:
    corpus = load(make_rows(240))
    for name in ("validation", "test"):
        split = corpus.splits[name]
        own = {
            token for row in texts(split) for token in row.split() if token[0] == "n" and token[1:].isdigit()
        }
        assert len(own) == 24
        assert not own & set(corpus.vocabulary.tokens)
        first_unknown = len(corpus.vocabulary)
        for row in range(len(split)):
            batch = split.batch(np.array([row]))
            assert first_unknown in batch.tokens_BT[0].tolist()
            assert len(batch.spelling_XK) == int((batch.tokens_BT >= first_unknown).sum()) >= 1


def test_corpus_statistics_equal_plain_counts(load: Callable[..., Corpus]) -> None:
    rows = [*make_rows(200), *[("", "neutral")]]
    corpus = load(rows, text=TextConfig(min_frequency=2, max_tokens=8), deduplicate=False)
    known = set(corpus.vocabulary.tokens)
    for name, split in corpus.splits.items():
        tokens = [row.split() for row in texts(split)]
        flat = [token for row in tokens for token in row]
        facts = corpus.facts.splits[name]
        assert facts.rows == len(split) == len(tokens)
        assert facts.tokens == len(flat)
        assert facts.empty_texts == sum(not row for row in tokens)
        assert facts.unknown_tokens == pytest.approx(
            sum(token not in known for token in flat) / len(flat), abs=1e-5
        )
        assert facts.cut_tokens == pytest.approx(
            sum(max(0, len(row) - 8) for row in tokens) / len(flat), abs=1e-5
        )
        assert facts.classes == dict(sorted(Counter(corpus.labels[c] for c in split.labels).items()))
    counted: dict[str, Any] = {
        "filtered": 0,
        "empty": 1,
        "empty_lines": [202],
        "replaced": 0,
        "left_out": 0,
        "weightless": 0,
    }
    assert corpus.facts.counts == {"train": SourceCounts(**counted, swallowed=0, swallowed_line=0)}


def test_the_fingerprint_changes_with_rows_labels_split_and_tokens(
    tmp_path: Path, load: Callable[..., Corpus]
) -> None:
    rows = make_rows(120)
    changed = [*rows[:-1], (rows[-1][0] + " more", rows[-1][1])]
    relabelled = [*rows[:-1], (rows[-1][0], "neutral" if rows[-1][1] != "neutral" else "positive")]
    test = write_csv(tmp_path / "test.csv", make_rows(9, seed=5))
    files = {"validation": str(test), "test": str(test)}  # with them a split does not depend on the classes
    corpora = [
        load(rows),
        load(rows, seed=1),
        load(rows, labels=["positive", "neutral", "negative"]),
        load(rows, labels={"positive": "good", "negative": "bad", "neutral": "bad"}, **files),
        load(rows, labels={"positive": "good", "negative": "bad", "neutral": "good"}, **files),
        load(rows, validation=0.2),
        load(rows, test=None),
        load(rows, test=str(test)),
        load(rows, max_rows=100),
        load(rows, text=TextConfig(min_frequency=3)),
        load(rows, text=dataclasses.replace(EVERY_TOKEN, lowercase=False)),
        load(changed),
        load(relabelled),
    ]
    assert len({corpus.fingerprint for corpus in corpora}) == len(corpora)


def test_the_fingerprint_does_not_depend_on_file_locations(
    tmp_path: Path, load: Callable[..., Corpus]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    rows = make_rows(60)
    first = load(write_csv(tmp_path / "a.csv", rows))
    second = load(write_csv(tmp_path / "elsewhere" / "b.csv", rows))
    assert first.fingerprint == second.fingerprint == load(rows).fingerprint


def test_an_unknown_tokenizer_is_refused_before_any_file_is_read(
    tmp_path: Path, load: Callable[..., Corpus]
) -> None:
    with pytest.raises(ConfigError, match=r"^text\.tokenizer: "):
        load(tmp_path / "missing.csv", text=TextConfig(tokenizer="no such"))
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "missing.csv")


def test_an_error_in_the_last_file_is_found_before_anything_is_written(
    tmp_path: Path, load: Callable[..., Corpus]
) -> None:
    test = write_csv(tmp_path / "test.csv", make_rows(9))
    test.write_text(test.read_text(encoding="utf-8") + "one field\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.csv:11: 1 field "):
        load(make_rows(60), test=str(test))


@pytest.mark.parametrize("key", ["train", "validation", "test", "unlabelled", "exclude"])
def test_a_url_in_a_run_folder_is_refused_for_every_data_setting(key: str) -> None:
    here = {"train": "a.csv", "validation": "b.csv", "test": "c.csv", "unlabelled": ["d.csv"]}
    refuse_addresses(DataConfig(**here, exclude="e.csv"))
    for address in ("https://example.org/x.csv", "s3://bucket/x.csv"):
        named: Any = here | {key: ["e.csv", address] if key in ("unlabelled", "exclude") else address}
        with pytest.raises(DataError, match=f"{address}: is a URL in a run folder"):
            refuse_addresses(DataConfig(**named))
