"""A source's rows as token numbers on disk: tokenised once, memory-mapped ever after.

    CACHE/<key>/ids.bin      all tokens of all rows, one flat int32 array (N,)
                rows.npz     offsets (R + 1,), labels, groups, hashes, lines, phrases (R,)
                meta.json    the tokens that the numbers stand for, label values, counts
                sums.json    a checksum of each of the files above (see `cache_entry`)

The key is a hash of the file's contents and of every setting that the numbers depend on, and not
of the split or the vocabulary: a second run with another seed, vocabulary or length reuses it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.caching import cache_folder as cache_folder
from lstm_sentiment.errors import DataError, Problems
from lstm_sentiment.files import held_unfinished, sweep, sync_folder, unfinished, writing
from lstm_sentiment.reading.cache_entry import IDS, DamagedError, read_entry, write_entry
from lstm_sentiment.reading.numbering import group_number, label_number
from lstm_sentiment.reading.readers import (
    LABEL_COLUMNS,
    PHRASE,
    REPLACEMENT,
    TEXT_COLUMNS,
    Chunk,
    as_text,
    check_header_is_no_row,
    column_texts,
    pick_column,
    read_chunks,
)
from lstm_sentiment.reading.sources import Source, compression_of, text_files
from lstm_sentiment.reading.text import Lexicon, Tokenizer
from lstm_sentiment.sections import code_of

FORMAT = 7
log = logging.getLogger(__name__)
LARGE_BYTES = 256 * 2**20  # from here on, mapped pages are given back while training
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns and rows of a source are read (see `DataConfig`); with `label` None, no labels."""

    text: str = "auto"
    label: str | None = "auto"
    group: str | None = None
    filter: tuple[tuple[str, str], ...] = ()
    classes: tuple[str, ...] | None = None
    phrases: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenStore:
    """The rows of one source as numbers.

    Args:
        name: the source as the user named it.
        ids_N: token numbers of all rows, int32, memory-mapped.
        offsets: (R + 1,) int64; row r is ``ids_N[offsets[r]:offsets[r + 1]]``.
        labels: (R,) int32, index into `label_values`.
        groups: (R,) int32; equal for rows of one group; all zero without a group column.
        hashes: (R,) uint64, a hash of the text.
        lines: (R,) int64, where the row stands in its file.
        phrases: (R,) bool, whether the row is a part of the sentence in the same line (see `trees`).
        tokens: what the numbers stand for.
        label_values: distinct labels as the file spells them.
        counts: rows that were filtered out, that hold no token, that hold replaced bytes, that may hold
            others behind a quote left open, and the line of the first of these.
        fingerprint: the cache key.
    """

    name: str
    ids_N: Array
    offsets: Array
    labels: Array
    groups: Array
    hashes: Array
    lines: Array
    phrases: Array
    tokens: list[str]
    label_values: list[str]
    counts: dict[str, int]
    fingerprint: str

    @classmethod
    def in_memory(cls, ids_N: Array, lengths_R: Array, tokens: list[str]) -> TokenStore:
        """Return texts without labels, as `Lexicon.encode` gives them.

        >>> TokenStore.in_memory(np.array([0, 1, 0]), np.array([2, 1]), ["so", "good"]).offsets
        array([0, 2, 3])
        """
        nothing = np.zeros(len(lengths_R), np.int32)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_R)])
        return cls(
            name="", ids_N=ids_N, offsets=offsets, labels=nothing, groups=nothing, hashes=nothing,
            lines=nothing, phrases=nothing > 0, tokens=tokens, label_values=[], counts={}, fingerprint="",
        )  # fmt: skip

    def release(self) -> None:
        """Give the mapped pages of a large store back to the system; they are read again when needed."""
        mapped = getattr(self.ids_N, "_mmap", None)
        if mapped is not None and self.ids_N.nbytes > LARGE_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def join_stores(stores: list[TokenStore]) -> TokenStore:
    """Return the texts of several stores as one, without labels; none at all is an empty one.

    >>> one = TokenStore.in_memory(np.array([0, 1]), np.array([2]), ["so", "good"])
    >>> other = TokenStore.in_memory(np.array([0, 1]), np.array([1, 1]), ["good", "food"])
    >>> both = join_stores([one, other])
    >>> both.tokens, both.ids_N.tolist(), both.offsets.tolist()
    (['so', 'good', 'food'], [0, 1, 1, 2], [0, 2, 3, 4])
    """
    if len(stores) == 1:  # may be mapped from disk
        return stores[0]
    numbers: dict[str, int] = {}
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for store in stores:
        renumbered = [numbers.setdefault(token, len(numbers)) for token in store.tokens]
        ids.append(np.array(renumbered, np.int32)[store.ids_N])
        lengths.append(np.diff(store.offsets))
    joined = TokenStore.in_memory(np.concatenate(ids), np.concatenate(lengths), list(numbers))
    return replace(
        joined,
        name=", ".join(store.name for store in stores),
        hashes=np.concatenate([np.zeros(0, np.uint64), *(store.hashes for store in stores)]),
        lines=np.concatenate([np.zeros(0, np.int64), *(store.lines for store in stores)]),
        fingerprint=" ".join(store.fingerprint for store in stores),
    )


def tokenize_source(source: Source, columns: Columns, tokenizer: Tokenizer, cache: Path) -> TokenStore:
    """Return a source's rows as token numbers, from the cache if they are there.

    Raises:
        DataError: a row or column that cannot be used, with file and line.
    """
    folder = cache / _key(source, columns, tokenizer)
    store = _opened(folder, source.name)
    if store is None:
        with writing(cache):
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            sweep(cache)
            building = unfinished(folder)
            building.mkdir(mode=0o700)
        try:
            with held_unfinished(building), writing(cache, kept="LSTM_SENTIMENT_CACHE names it"):
                _build(source, columns, tokenizer, building)
                if not _is_whole(folder):  # else another process was faster
                    shutil.rmtree(folder, ignore_errors=True)
                    _put(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        store = _opened(folder, source.name)
    if store is None:
        raise DataError(f"its tokens cannot be kept in {cache}; set LSTM_SENTIMENT_CACHE", file=source.name)
    return store


def _put(building: Path, folder: Path) -> None:
    """Put an entry in its place, unless another process has just done so."""
    try:
        building.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    sync_folder(folder.parent)


def content_hash(path: Path) -> str:
    """Return the sha256 of a file, or of the names and contents of a folder's class folders."""
    digest = hashlib.sha256()
    files = text_files(path, "*/*.txt") if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(f"\0{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _key(source: Source, columns: Columns, tokenizer: Tokenizer) -> str:
    facts = [
        FORMAT,
        content_hash(source.path),
        source.format,
        compression_of(source.name),
        source.encoding,
        source.encoding_errors,
        source.quoting,
        source.header,
        columns.text,
        columns.label,
        columns.group,
        columns.filter,
        columns.classes,
        columns.phrases,
        tokenizer.name,
        tokenizer.lowercase,
        tokenizer.normalize,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _opened(folder: Path, name: str) -> TokenStore | None:
    """Return what is in a cache folder, None where it is not there or damaged, which is told."""
    if not folder.exists():
        return None
    try:
        ids_N, arrays, meta = read_entry(folder)
    except DamagedError as error:
        log.warning("%s: is damaged (%s); the text is tokenised anew", folder, error)
        return None
    return TokenStore(name=name, ids_N=ids_N, fingerprint=folder.name, **arrays, **meta)


def _is_whole(folder: Path) -> bool:
    try:
        read_entry(folder)
    except DamagedError:
        return False
    return True


def _build(source: Source, columns: Columns, tokenizer: Tokenizer, folder: Path) -> None:
    """Tokenise a source into a cache folder, in memory that does not grow with the texts."""
    lexicon = Lexicon(tokenizer)
    rows = _Rows(source, columns)
    lengths = array("q")
    empty = 0
    with (folder / IDS).open("wb") as out:
        for numbers_N, lengths_R in lexicon.encode_all(rows.texts()):
            out.write(numbers_N.astype(np.int32).tobytes())
            lengths.extend(lengths_R.tolist())
            empty += int((lengths_R == 0).sum())
    if not lengths:
        raise DataError(
            f"no row is left after the filter {dict(columns.filter)}; change data.filter", file=source.name
        )
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.array(lengths), out=offsets[1:])
    arrays = {
        "offsets": offsets,
        "labels": rows.labels,
        "groups": rows.groups,
        "hashes": rows.hashes,
        "lines": rows.lines,
        "phrases": rows.phrases,
    }
    meta = {
        "tokens": lexicon.tokens,
        "label_values": list(rows.label_numbers),
        "counts": {"filtered": rows.filtered, "empty": empty, "replaced": rows.replaced}
        | {"swallowed": rows.swallowed, "swallowed_line": rows.swallowed_line},
    }
    write_entry(folder, arrays, meta)


class _Rows:
    """Reads a source's columns and keeps everything but the texts, which it hands on in batches."""

    def __init__(self, source: Source, columns: Columns) -> None:
        self._source, self._columns = source, columns
        self.label_numbers: dict[str, int] = {}
        self._group_numbers: dict[str, int] = {}
        self.labels, self.groups = array("i"), array("i")
        self.hashes, self.lines, self.phrases = array("Q"), array("q"), array("b")
        self.filtered = self.replaced = self.swallowed = self.swallowed_line = 0
        self._problems, self._label_column = Problems[DataError](), ""

    def texts(self) -> Iterator[list[str]]:
        classes = list(self._columns.classes) if self._columns.classes else None
        for chunk in read_chunks(self._source, classes=classes, phrases=self._columns.phrases):
            yield self._take(chunk)
        check_header_is_no_row(self._source, self._label_column, self.label_numbers, self._problems)
        self._problems.raise_any()

    def _take(self, chunk: Chunk) -> list[str]:
        name, wanted = self._source.name, self._columns
        columns = [str(c) for c in chunk.frame.columns]
        text_column = pick_column(
            wanted.text, columns, candidates=TEXT_COLUMNS, key="data.text_column", file=name
        )
        for column, value in wanted.filter:
            pick_column(column, columns, candidates=(), key="data.filter", file=name)
            keep = np.array([code_of(as_text(found)) == value for found in chunk.frame[column]], bool)
            self.filtered += int((~keep).sum())
            chunk = Chunk(frame=chunk.frame[keep], lines=chunk.lines[keep])
        texts = column_texts(chunk, text_column, name)
        self._take_labels(chunk, columns)
        if wanted.group is None:
            self.groups.extend([0] * len(texts))
        else:
            pick_column(wanted.group, columns, candidates=(), key="data.group_column", file=name)
            numbers = self._group_numbers
            groups = column_texts(chunk, wanted.group, name)
            self.groups.extend(group_number(numbers, group) for group in groups)
        self.hashes.extend(map(_text_hash, texts))
        self.lines.extend(chunk.lines.tolist())
        self.phrases.extend(chunk.frame[PHRASE] if wanted.phrases else [False] * len(texts))
        self.replaced += sum(REPLACEMENT in text for text in texts)
        for text, line in zip(texts, chunk.lines, strict=True):
            if "\n" in text and self._holds_rows(text):
                self.swallowed += 1
                self.swallowed_line = self.swallowed_line or int(line)
        return texts

    def _holds_rows(self, text: str) -> bool:
        """Whether a line of a text looks like a row, with a label in it: a quote may be left open."""
        separator = {".csv": ",", ".tsv": "\t"}.get(self._source.format)
        fields = (part.split(separator)[1:] for part in text.split("\n")[:-1] if separator)
        return any(field.strip() in self.label_numbers for of_line in fields for field in of_line)

    def _take_labels(self, chunk: Chunk, columns: list[str]) -> None:
        name, wanted = self._source.name, self._columns.label
        if wanted is None:
            self.labels.extend([0] * len(chunk.lines))
            return
        column = pick_column(wanted, columns, candidates=LABEL_COLUMNS, key="data.label_column", file=name)
        self._label_column = column
        values = zip(column_texts(chunk, column, name), chunk.lines.tolist(), strict=True)
        numbers = self.label_numbers
        self.labels.extend(
            label_number(numbers, value.strip(), file=name, line=line) for value, line in values
        )


def _text_hash(text: str) -> int:
    stripped = text.strip().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(stripped, digest_size=8).digest(), "little")
