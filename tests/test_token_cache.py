"""Damage to the token cache is detected, reported and repaired by tokenizing again."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, make_rows, write_csv

from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.data import cache_entry
from lstm_sentiment.data import token_store as tokens
from lstm_sentiment.data.cache_entry import IDS, META, ROWS, SUMS, read_entry, write_entry
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.data.token_store import Columns, TokenStore, tokenize_source
from lstm_sentiment.experiment.train import run
from lstm_sentiment.system import files
from lstm_sentiment.text.tokenizers import Tokenizer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "rows.csv", make_rows(60))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def load(file: Path, cache: Path) -> TokenStore:
    with open_source(str(file)) as source:
        return tokenize_source(source, Columns(), Tokenizer("words", lowercase=True), cache)


def content_of(store: TokenStore) -> list[Any]:
    """Return a copy of a store's content in memory."""
    arrays = [getattr(store, name).tolist() for name in ("ids_N", *cache_entry.ROW_ARRAYS)]
    return [*arrays, store.tokens, store.label_values, store.counts]


def entry_of(cache: Path) -> Path:
    (entry,) = cache.iterdir()
    return entry


def sign(entry: Path) -> None:
    """Write valid checksums for the current files."""
    sums = {name: cache_entry._sum(entry / name) for name in (IDS, ROWS, META)}
    (entry / SUMS).write_text(json.dumps(sums))


def rewrite_rows(entry: Path, **arrays: Any) -> None:
    with np.load(entry / ROWS) as rows:
        found = {name: rows[name] for name in rows.files}
    np.savez(entry / ROWS, **{**found, **arrays})


def rewrite_meta(entry: Path, **values: Any) -> None:
    meta = json.loads((entry / META).read_bytes())
    (entry / META).write_text(json.dumps({**meta, **values}))


def test_every_flipped_bit_is_detected_and_repaired(
    file: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = content_of(load(file, cache))
    entry = entry_of(cache)
    randomness = random.Random(0)
    for name in (IDS, ROWS, META, SUMS) * 20:
        content = bytearray((entry / name).read_bytes())
        content[randomness.randrange(len(content))] ^= 1 << randomness.randrange(8)
        (entry / name).write_bytes(content)
        caplog.clear()
        assert content_of(load(file, cache)) == expected, name
        messages = [record.getMessage() for record in caplog.records]
        if not messages:  # a blank or a quote in sums.json that means the same
            assert name == SUMS
            continue
        assert len(messages) == 1
        assert messages[0].startswith(f"{entry}: is damaged (")
        assert messages[0].endswith("); the text is tokenised again")
        assert entry_of(cache) == entry


@pytest.mark.parametrize("name", [IDS, ROWS, META, SUMS])
@pytest.mark.parametrize(
    "damage", ["half zeros", "cut", "empty", "longer", "other bytes", "missing", "a folder"]
)
def test_damage_is_detected_and_repaired(
    file: Path, cache: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    expected = content_of(load(file, cache))
    place = entry_of(cache) / name
    content = place.read_bytes()
    half = len(content) // 2
    place.unlink()
    if damage == "a folder":
        place.mkdir()
    elif damage != "missing":
        place.write_bytes(
            {
                "half zeros": content[:half] + bytes(len(content) - half),
                "cut": content[:half],
                "empty": b"",
                "longer": content + b"\0\0\0\0",
                "other bytes": random.Random(0).randbytes(len(content)),
            }[damage]
        )
    assert content_of(load(file, cache)) == expected
    assert "is damaged (" in caplog.text
    assert "is tokenised again" in caplog.text
    assert content_of(load(file, cache)) == expected
    assert caplog.text.count("is damaged") == 1


NO_TEXT = "values that are not strings"
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a number that stands for no token": (
        lambda entry: np.full(10_000, 10**6, np.int32).tofile(entry / IDS),
        "does not fit ids.bin",
    ),
    "as many numbers beyond the tokens": (
        lambda entry: np.full((entry / IDS).stat().st_size // 4, 10**6, np.int32).tofile(entry / IDS),
        "token numbers out of range",
    ),
    "negative numbers": (
        lambda entry: np.full((entry / IDS).stat().st_size // 4, -1, np.int32).tofile(entry / IDS),
        "token numbers out of range",
    ),
    "half a number": (
        lambda entry: (entry / IDS).write_bytes((entry / IDS).read_bytes() + b"\0"),
        "does not fit ids.bin",
    ),
    "offsets that fall": (
        lambda entry: rewrite_rows(entry, offsets=np.array([0, 9, 3, *[400] * 58], np.int64)),
        "does not fit ids.bin",
    ),
    "offsets of another kind": (lambda entry: rewrite_rows(entry, offsets=np.zeros(61)), "valid row arrays"),
    "fewer labels than rows": (
        lambda entry: rewrite_rows(entry, labels=np.zeros(59, np.int32)),
        "valid row arrays",
    ),
    "labels that are none": (
        lambda entry: rewrite_rows(entry, labels=np.full(60, 3, np.int32)),
        "values out of range",
    ),
    "negative lines": (
        lambda entry: rewrite_rows(entry, lines=np.full(60, -1, np.int64)),
        "values out of range",
    ),
    "lines in two dimensions": (
        lambda entry: rewrite_rows(entry, lines=np.zeros((60, 2), np.int64)),
        "valid row arrays",
    ),
    "objects": (
        lambda entry: rewrite_rows(entry, labels=np.array([{}] * 60, object)),
        "allow_pickle=False",
    ),
    "tokens that are numbers": (
        lambda entry: rewrite_meta(entry, tokens=[1, 2]),
        NO_TEXT,
    ),
    "tokens that are a map": (
        lambda entry: rewrite_meta(entry, tokens={"a": 1}),
        NO_TEXT,
    ),
    "no counts": (lambda entry: rewrite_meta(entry, counts={}), "filtered"),
    "counts of text": (
        lambda entry: rewrite_meta(entry, counts=dict.fromkeys(cache_entry.COUNTS, "a")),
        "lacks the counts",
    ),
    "rows of files that do not add up": (
        lambda entry: rewrite_rows(entry, rows_of_files=np.array([59])),
        "numbers of rows of files",
    ),
    "a file that is not there": (
        lambda entry: rewrite_meta(entry, counts=dict.fromkeys(cache_entry.COUNTS, 1)),
        "names a file that is not there",
    ),
    "brackets": (lambda entry: (entry / META).write_text("[" * 100_000), "recursion"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_out_of_bounds_indices_are_refused_despite_valid_checksums(
    file: Path, cache: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    expected = content_of(load(file, cache))
    change, says = HOSTILE[name]
    change(entry_of(cache))
    sign(entry_of(cache))
    assert content_of(load(file, cache)) == expected
    assert says in caplog.text


def test_without_checksums_damage_is_trained_on(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a flipped bit gives another token id, which no other check detects."""
    expected = content_of(load(file, cache))
    ids = np.fromfile(entry_of(cache) / IDS, np.int32)
    ids[3] ^= 1
    ids.tofile(entry_of(cache) / IDS)
    with monkeypatch.context() as patch:
        patch.setattr(cache_entry.zlib, "crc32", lambda content, before=0: 0)
        (entry_of(cache) / SUMS).write_text(json.dumps({IDS: 0, ROWS: 0, META: 0}))
        assert content_of(load(file, cache)) != expected
    assert content_of(load(file, cache)) == expected


def test_training_continues_after_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(tmp_path / "cache"))
    data = write_csv(tmp_path / "data.csv", make_rows(120))
    argv = [f"--data.train={data}", *TINY, "--pretrained=null", "--trainer.epochs=1", "--baseline=false"]
    weights = []
    for name in ("first", "second"):
        run(parse_config([*argv, f"--out={tmp_path / name}"], program="test", description=""))
        weights.append((tmp_path / name / "best" / "model.safetensors").read_bytes())
        [ids] = (tmp_path / "cache").glob(f"*/{IDS}")
        ids.write_bytes(bytes(ids.stat().st_size))
    assert weights[0] == weights[1]


def test_an_entry_is_synced_before_it_is_renamed(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for module in (cache_entry, tokens):
        for name in ("sync_file", "sync_folder"):
            if hasattr(module, name):
                real = getattr(files, name)
                monkeypatch.setattr(
                    module, name, lambda path, real=real: (done.append(Path(path).name), real(path))
                )
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: (done.append("renamed"), rename(path, to))[1])
    load(file, cache)
    place = done.index("renamed")
    assert {IDS, ROWS, META, SUMS} < set(done[:place])
    assert done[place + 1 :] == [cache.name]


def test_leftovers_are_removed_but_not_entries_being_built(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    left, building, fresh = (files.unfinished(cache / (name * 8)) for name in "abc")
    for place in (left, building, fresh):
        place.mkdir()
        (place / IDS).write_bytes(b"1234")
    long_ago = time.time() - 3600
    for place in (left, building):
        os.utime(place, (long_ago, long_ago))
    with files.held_unfinished(building):
        store = load(file, cache)
    names = {path.name for path in cache.iterdir()}
    assert names == {store.fingerprint, building.name, fresh.name}


def test_checksums_of_a_hundred_megabytes_are_fast(tmp_path: Path) -> None:
    tokens_N = np.arange(25_000_000, dtype=np.int32) % 1000
    tokens_N.tofile(tmp_path / IDS)
    arrays = {name: np.zeros(1, kind) for name, kind in cache_entry.ROW_ARRAYS.items()}
    arrays |= {"offsets": np.array([0, len(tokens_N)]), cache_entry.FILES: np.ones(1, np.int64)}
    meta = {"tokens": list(map(str, range(1000))), "label_values": ["a"]}
    write_entry(tmp_path, arrays, {**meta, "counts": dict.fromkeys(cache_entry.COUNTS, 0)})
    started = time.process_time()
    ids_N, _, _ = read_entry(tmp_path)
    assert time.process_time() - started < 2
    assert ids_N[-1] == 999
    logging.getLogger(__name__).info("%.3f s", time.process_time() - started)


def test_every_truncation_of_a_small_entry_is_detected(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "small.csv"
    file.write_text("text,label\nso good,a\nso bad,b\n")
    expected = content_of(load(file, cache))
    entry = entry_of(cache)
    for name, step in itertools.product((IDS, META, SUMS), (1, 3)):
        content = (entry / name).read_bytes()
        for length in range(0, len(content), step * 7):
            (entry / name).write_bytes(content[:length])
            assert content_of(load(file, cache)) == expected
            content = (entry / name).read_bytes()
