"""Token stores and their cache: content, reuse and invalidation."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_sentiment.data import token_store as tokens
from lstm_sentiment.data.formats import readers
from lstm_sentiment.data.labels import class_map
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.data.token_store import Columns, TokenStore, cache_folder, content_hash, tokenize_source
from lstm_sentiment.errors import DataError
from lstm_sentiment.text.tokenizers import Tokenizer

CONTENT = (
    "text,label,source,author\n"
    "good film,positive,imdb,ann\n"
    "bad film!,negative,imdb,bob\n"
    ",negative,yelp,ann\n"
    '"good, good\nfood",positive,yelp,cy\n'
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_text(CONTENT, encoding="utf-8")
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load(
    file: Path,
    cache: Path,
    *,
    tokenizer: str = "words",
    lowercase: bool = True,
    options: dict[str, str] | None = None,
    **columns: Any,
) -> TokenStore:
    with open_source(str(file), **(options or {})) as source:
        return tokenize_source(source, Columns(**columns), Tokenizer(tokenizer, lowercase=lowercase), cache)


def texts_of(store: TokenStore) -> list[list[str]]:
    """Return each row's tokens."""
    ends = store.offsets.tolist()
    return [[store.tokens[i] for i in store.ids_N[a:b]] for a, b in itertools.pairwise(ends)]


def labels_of(store: TokenStore) -> list[str]:
    return [store.label_values[i] for i in store.labels]


def forbid_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(tokens, "_build", build)


# --- what a store holds ---


def test_a_store_has_every_row_in_order(file: Path, cache: Path) -> None:
    store = load(file, cache)
    assert texts_of(store) == [["good", "film"], ["bad", "film", "!"], [], ["good", ",", "good", "food"]]
    assert labels_of(store) == ["positive", "negative", "negative", "positive"]
    assert store.lines.tolist() == [2, 3, 4, 5]
    assert store.groups.tolist() == [0, 0, 0, 0]
    assert store.counts == {"filtered": 0, "empty": 1, "replaced": 0, "swallowed": 0, "swallowed_line": 0} | {
        "swallowed_shard": 0
    }
    assert store.name == str(file)
    assert [a.dtype for a in (store.ids_N, store.offsets, store.labels)] == [np.int32, np.int64, np.int32]


def test_a_cached_store_equals_the_fresh_one(file: Path, cache: Path) -> None:
    fresh, cached = load(file, cache, group="author"), load(file, cache, group="author")
    for name, value in vars(fresh).items():
        assert np.array_equal(value, getattr(cached, name)), name


def test_token_ids_are_memory_mapped(file: Path, cache: Path) -> None:
    ids_N = load(file, cache).ids_N
    assert isinstance(ids_N, np.memmap)
    assert Path(str(ids_N.filename)).name == "ids.bin"
    load(file, cache).release()
    assert ids_N.tolist() == [0, 1, 2, 1, 3, 0, 4, 0, 5]


def test_writing_to_a_store_does_not_change_the_file(file: Path, cache: Path) -> None:
    store = load(file, cache)
    store.ids_N[:] = 0
    assert texts_of(load(file, cache))[0] == ["good", "film"]


def test_mapped_pages_can_be_released(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = load(file, cache)
    before = store.ids_N.tolist()
    monkeypatch.setattr(tokens, "LARGE_BYTES", 0)
    store.release()
    assert store.ids_N.tolist() == before


@pytest.mark.parametrize("chunk_rows", [1, 2, 3])
def test_the_chunk_size_does_not_matter(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    columns = {"filter": (("source", "yelp"),), "group": "author"}
    whole = load(file, cache / "whole", **columns)
    monkeypatch.setattr(readers, "CHUNK_ROWS", chunk_rows)
    parts = load(file, cache / "parts", **columns)
    for name, value in vars(whole).items():
        assert np.array_equal(value, getattr(parts, name)), name


@pytest.mark.parametrize("tokenizer", ["words", "basic_english"])
def test_a_file_of_empty_texts_is_counted(tmp_path: Path, cache: Path, tokenizer: str) -> None:
    file = tmp_path / "empty.csv"
    file.write_text('text,label\n"",a\n" ",b\n,a\n', encoding="utf-8")
    store = load(file, cache, tokenizer=tokenizer)
    assert texts_of(store) == [[], [], []]
    assert store.counts["empty"] == 3
    assert store.tokens == []


def test_replaced_bytes_are_counted_by_row(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "latin.csv"
    file.write_bytes(b"text,label\ncaf\xe9 \xe9,a\nplain,b\nd\xe9j\xe0,a\n")
    assert load(file, cache, options={"encoding_errors": "replace"}).counts["replaced"] == 2
    assert load(file, cache, options={"encoding": "latin-1"}).counts["replaced"] == 0


def test_labels_are_stripped(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "spaced.csv"
    file.write_text("text,label\na, pos\nb,pos \nc,neg\nd,Pos\n", encoding="utf-8")
    assert labels_of(load(file, cache)) == ["pos", "pos", "neg", "Pos"]


def test_text_hashes_ignore_surrounding_space(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "same.csv"
    file.write_text(
        'text,label\nGood film,a\n" Good film\n",b\ngood film,a\nGood  film,a\n', encoding="utf-8"
    )
    hashes = load(file, cache).hashes.tolist()
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_column_of_texts_is_refused_as_labels(tmp_path: Path, cache: Path, name: str) -> None:
    """Regression: all texts were kept in memory before the error."""

    def reported(labels: list[str]) -> str:
        rows = [f"so,{label}" for label in labels]
        if name == "rows.jsonl":
            rows = [json.dumps({"text": "so", "label": label}) for label in labels]
        (tmp_path / name).write_text("\n".join(["text,label", *rows] if name == "rows.csv" else rows) + "\n")
        with pytest.raises(DataError) as caught:
            load(tmp_path / name, cache)
        return str(caught.value).removeprefix(str(tmp_path / name))

    first = 2 if name == "rows.csv" else 1
    assert reported(["a", "x" * 1001]) == (
        f":{first + 1}: a label of 1,001 characters, '{'x' * 20}…'; set data.label_column to the right one"
    )
    assert reported([f"l{i}" for i in range(10_001)]) == (
        f":{first + 10_000}: more than 10,000 different labels ('l0', 'l1', 'l2', 'l3', 'l4' and 9,995 "
        "more); set data.label_column to the right one"
    )
    assert list(cache.iterdir()) == []


def test_long_groups_are_distinguished_by_a_hash(tmp_path: Path, cache: Path) -> None:
    long = "x" * 5_000
    (tmp_path / "rows.csv").write_text(f"text,label,g\na,p,{long}\nb,n,{long}y\nc,p,{long}\nd,n,\n")
    assert load(tmp_path / "rows.csv", cache, group="g").groups.tolist() == [0, 1, 0, 2]


def test_groups_are_numbered_by_value(file: Path, cache: Path) -> None:
    assert load(file, cache, group="author").groups.tolist() == [0, 1, 0, 2]
    with pytest.raises(DataError, match=r"no column 'autor' \(data\.group_column\).*Did you mean 'author'"):
        load(file, cache, group="autor")


def test_a_filter_keeps_rows_with_all_its_values(file: Path, cache: Path) -> None:
    store = load(file, cache, filter=(("source", "yelp"),))
    assert labels_of(store) == ["negative", "positive"]
    assert store.lines.tolist() == [4, 5]
    assert store.counts == {"filtered": 2, "empty": 1, "replaced": 0, "swallowed": 0, "swallowed_line": 0} | {
        "swallowed_shard": 0
    }
    both = load(file, cache, filter=(("author", "ann"), ("source", "yelp")))
    assert both.lines.tolist() == [4]
    assert both.counts["filtered"] == 3


def test_a_filter_that_leaves_nothing_is_refused(file: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"no row is left after the filter \{'source': 'amazon'\}"):
        load(file, cache, filter=(("source", "amazon"),))
    with pytest.raises(DataError, match=r"no column 'sorce' \(data\.filter\).*Did you mean 'source'"):
        load(file, cache, filter=(("sorce", "imdb"),))


def test_labels_of_filtered_rows_do_not_matter(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,label,use\na,x,1\nb,,0\nc,strange,0\nd,y,1\n", encoding="utf-8")
    assert load(file, cache, filter=(("use", "1"),)).label_values == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", 'text,label\n"a\nb",x\nc,\n', 4),
        ("b.csv", "text,label\na,x\nb,  \n", 3),
        ("c.jsonl", '{"text": "a", "label": 0}\n\n{"text": "b", "label": null}\n', 3),
        ("d.jsonl", '{"text": "a", "label": 0}\n{"text": "b"}\n', 2),
    ],
)
def test_a_row_without_a_label_is_refused_with_its_line(
    tmp_path: Path, cache: Path, name: str, content: str, line: int
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    store = load(tmp_path / name, cache)
    with pytest.raises(DataError) as caught:
        class_map(None, store)
    assert str(caught.value).startswith(f"{tmp_path / name}:{line}: has no label; add one, or exclude")


# --- the cache ---


def test_a_second_run_reads_the_cache(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(file, cache)
    forbid_building(monkeypatch)
    second = load(file, cache)
    assert texts_of(second) == texts_of(first)
    assert second.fingerprint == first.fingerprint
    with pytest.raises(AssertionError, match="tokenised again"):
        load(file, cache, lowercase=False)


def test_the_key_depends_on_content_and_not_on_the_name(
    tmp_path: Path, file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(file, cache)
    forbid_building(monkeypatch)
    other = tmp_path / "other.csv"
    other.write_bytes(file.read_bytes())
    second = load(other, cache)
    assert (second.fingerprint, second.name) == (first.fingerprint, str(other))


def test_anything_that_changes_token_ids_changes_the_key(tmp_path: Path, file: Path, cache: Path) -> None:
    variants: list[Callable[[], TokenStore]] = [
        lambda: load(file, cache),
        lambda: load(file, cache, lowercase=False),
        lambda: load(file, cache, tokenizer="basic_english"),
        lambda: load(file, cache, text="source"),
        lambda: load(file, cache, label="source"),
        lambda: load(file, cache, group="author"),
        lambda: load(file, cache, filter=(("source", "imdb"),)),
        lambda: load(file, cache, options={"encoding": "latin-1"}),
        lambda: load(file, cache, options={"encoding_errors": "replace"}),
    ]
    keys = [variant().fingerprint for variant in variants]
    file.write_text(CONTENT.replace("good film", "good  film"), encoding="utf-8")
    keys.append(load(file, cache).fingerprint)
    as_tsv = tmp_path / "rows.tsv"
    as_tsv.write_text("text\tlabel\na\tb\n", encoding="utf-8")
    keys.append(load(as_tsv, cache).fingerprint)
    assert Counter(keys).most_common(1)[0][1] == 1
    assert sorted(path.name for path in cache.iterdir()) == sorted(keys)


def test_the_classes_of_a_folder_are_part_of_the_key(tmp_path: Path, cache: Path) -> None:
    for name in ("neg", "pos", "unsup"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "0.txt").write_text(name, encoding="utf-8")
    every = load(tmp_path / "root", cache)
    two = load(tmp_path / "root", cache, classes=("pos", "neg"))
    assert sorted(labels_of(every)) == ["neg", "pos", "unsup"]
    assert sorted(labels_of(two)) == ["neg", "pos"]
    assert every.fingerprint != two.fingerprint


def spoil(entry: Path, damage: str) -> None:
    """Damage a cache entry."""
    ids, meta, rows = entry / "ids.bin", entry / "meta.json", entry / "rows.npz"
    facts = json.loads(meta.read_bytes())
    {
        "ids cut": lambda: ids.write_bytes(ids.read_bytes()[:-4]),
        "ids longer": lambda: ids.write_bytes(ids.read_bytes() + bytes(4)),
        "ids missing": ids.unlink,
        "meta garbage": lambda: meta.write_bytes(b'{"label_values": 9, \xff'),
        "meta a list": lambda: meta.write_text("[]", encoding="utf-8"),
        "meta null": lambda: meta.write_text("null", encoding="utf-8"),
        "meta incomplete": lambda: meta.write_text(
            json.dumps({"label_values": facts["label_values"]}), encoding="utf-8"
        ),
        "meta empty": lambda: meta.write_bytes(b""),
        "meta missing": meta.unlink,
        "rows cut": lambda: rows.write_bytes(rows.read_bytes()[:100]),
        "rows empty": lambda: rows.write_bytes(b""),
        "rows missing": rows.unlink,
    }[damage]()


@pytest.mark.parametrize(
    "damage",
    [
        *("ids cut", "ids longer", "ids missing"),
        *("meta garbage", "meta a list", "meta null", "meta incomplete", "meta empty", "meta missing"),
        *("rows cut", "rows empty", "rows missing"),
    ],
)
def test_a_broken_cache_entry_is_rebuilt(file: Path, cache: Path, damage: str) -> None:
    expected = texts_of(load(file, cache))
    (entry,) = cache.iterdir()
    spoil(entry, damage)
    store = load(file, cache)
    assert texts_of(store) == expected
    assert labels_of(store) == ["positive", "negative", "negative", "positive"]
    assert list(cache.iterdir()) == [entry]


def test_a_source_that_fails_leaves_nothing_in_the_cache(file: Path, cache: Path) -> None:
    file.write_text(CONTENT + "one field too few\n", encoding="utf-8")
    with pytest.raises(DataError, match="1 field "):
        load(file, cache)
    assert list(cache.iterdir()) == []


def test_a_slower_process_keeps_the_existing_entry(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes tokenize one file at once; a third may be opening the entry of the first."""
    build, inodes = tokens._build, []

    def slower(*arguments: Any) -> None:
        monkeypatch.setattr(tokens, "_build", build)
        inodes.append((cache / load(file, cache).fingerprint / "ids.bin").stat().st_ino)
        build(*arguments)

    monkeypatch.setattr(tokens, "_build", slower)
    store = load(file, cache)
    assert texts_of(store)[0] == ["good", "film"]
    assert [path.name for path in cache.iterdir()] == [store.fingerprint]
    assert inodes == [(cache / store.fingerprint / "ids.bin").stat().st_ino]


def test_the_cache_contains_nothing_executable(file: Path, cache: Path) -> None:
    (entry,) = [cache / load(file, cache).fingerprint]
    assert sorted(path.name for path in entry.iterdir()) == ["ids.bin", "meta.json", "rows.npz", "sums.json"]
    with np.load(entry / "rows.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "biuf" for name in arrays.files)
    json.loads((entry / "meta.json").read_bytes())


def test_the_cache_folder_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("LSTM_SENTIMENT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "lstm_sentiment"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "lstm_sentiment"


def test_only_its_owner_may_read_the_cache(file: Path, cache: Path) -> None:
    load(file, cache)
    assert cache.stat().st_mode & 0o077 == 0


def test_the_content_hash_covers_names_and_contents(tmp_path: Path, file: Path) -> None:
    assert content_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    (root / "a" / "0.txt").write_text("xy", encoding="utf-8")
    seen = [content_hash(root)]
    (root / "a" / "1.txt").write_text("", encoding="utf-8")
    seen.append(content_hash(root))
    (root / "a" / "1.txt").rename(root / "b" / "1.txt")
    seen.append(content_hash(root))
    (root / "a" / "0.txt").write_text("x", encoding="utf-8")
    (root / "b" / "1.txt").write_text("y", encoding="utf-8")
    seen.append(content_hash(root))
    assert len(set(seen)) == 4
