"""Token store: a source's rows as token numbers, tokenised once and memory-mapped from a cache.

A source of several files is one store, with the rows file by file.

    CACHE/<key>/ids.bin      all tokens of all rows, one flat int32 array (N,)
                rows.npz     offsets (R + 1,), labels, groups, weights, hashes, lines, phrases (R,),
                             rows of each file (F,)
                meta.json    the tokens of the numbers, label values, counts
                sums.json    a checksum of each of the files above (see `cache_entry`)

The key is a hash of the files' contents and of every setting that the numbers depend on, but not
of the split or the vocabulary: a second run with another seed, vocabulary or length reuses it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import shutil
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.data.cache_entry import IDS, DamagedError, read_entry, write_entry
from lstm_sentiment.data.columns import Columns as Columns
from lstm_sentiment.data.columns import Rows
from lstm_sentiment.data.sources.names import compression_of
from lstm_sentiment.data.sources.sources import Source, text_files
from lstm_sentiment.errors import DataError
from lstm_sentiment.system.cache_folder import cache_folder as cache_folder
from lstm_sentiment.system.files import held_unfinished, sweep, sync_folder, unfinished, writing
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer

FORMAT = 9
log = logging.getLogger(__name__)
LARGE_BYTES = 256 * 2**20  # mapped pages of larger stores are released during training
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TokenStore:
    """The rows of one source as numbers.

    Args:
        name: the source as the user named it.
        ids_N: token numbers of all rows, int32, memory-mapped.
        offsets: (R + 1,) int64; row r is ``ids_N[offsets[r]:offsets[r + 1]]``.
        labels: (R,) int32, index into `label_values`.
        groups: (R,) int32; equal for rows of one group; all zero without a group column.
        weights: (R,) float64 sample weights; all one without a weight column.
        hashes: (R,) uint64, a hash of the text.
        lines: (R,) int64, line of the row in its file.
        phrases: (R,) bool, whether the row is a phrase of the sentence in the same line (see `trees`).
        tokens: by number.
        label_values: distinct labels as the file spells them.
        counts: rows that were filtered out, without tokens, with replaced bytes, that may contain other rows
            after an unclosed quote, and the line and the file of the first of these.
        fingerprint: the cache key.
        files: names of its files, in order.
        rows_of_files: (F,) int64, rows of each file; the rows of a file follow each other.
    """

    name: str
    ids_N: Array
    offsets: Array
    labels: Array
    groups: Array
    weights: Array
    hashes: Array
    lines: Array
    phrases: Array
    tokens: list[str]
    label_values: list[str]
    counts: dict[str, int]
    fingerprint: str
    files: Sequence[str] = ()
    rows_of_files: Array = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def in_memory(cls, ids_N: Array, lengths_R: Array, tokens: list[str]) -> TokenStore:
        """Return a store of unlabelled texts from the output of `Lexicon.encode`.

        >>> TokenStore.in_memory(np.array([0, 1, 0]), np.array([2, 1]), ["so", "good"]).offsets
        array([0, 2, 3])
        """
        nothing = np.zeros(len(lengths_R), np.int32)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_R)])
        return cls(
            name="", ids_N=ids_N, offsets=offsets, labels=nothing, groups=nothing,
            weights=np.ones(len(lengths_R)), hashes=np.arange(len(lengths_R), dtype=np.uint64),
            lines=nothing, phrases=nothing > 0, tokens=tokens, label_values=[], counts={}, fingerprint="",
        )  # fmt: skip

    def file_of(self, rows: Array) -> Array:
        """Return the index in `files` of the file that each of some rows is from."""
        found: Array = np.searchsorted(np.cumsum(self.rows_of_files), rows, side="right")
        return found

    def place(self, row: int) -> tuple[str, int]:
        """Return the file of a row, and its line there."""
        file = self.files[int(self.file_of(np.array(row)))] if self.files else self.name
        return file, int(self.lines[row])

    def sentences(self) -> Array:
        """Return a number for each row (R,), the same for rows of one line of one file, such as phrases."""
        if len(self.files) < 2:
            return self.lines
        start_F = np.cumsum([0, *(self.lines.max(initial=0) + 1,) * (len(self.files) - 1)])
        numbers: Array = self.lines + np.repeat(start_F, self.rows_of_files)
        return numbers

    def release(self) -> None:
        """Release the mapped pages of a large store; they are read again when needed."""
        mapped = getattr(self.ids_N, "_mmap", None)
        if mapped is not None and self.ids_N.nbytes > LARGE_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def join_stores(stores: list[TokenStore]) -> TokenStore:
    """Concatenate the texts of stores, without labels; an empty list gives an empty store.

    >>> one = TokenStore.in_memory(np.array([0, 1]), np.array([2]), ["so", "good"])
    >>> other = TokenStore.in_memory(np.array([0, 1]), np.array([1, 1]), ["good", "food"])
    >>> both = join_stores([one, other])
    >>> both.tokens, both.ids_N.tolist(), both.offsets.tolist()
    (['so', 'good', 'food'], [0, 1, 1, 2], [0, 2, 3, 4])
    """
    if len(stores) == 1:  # keeps a memory map
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
        weights=np.concatenate([np.zeros(0), *(store.weights for store in stores)]),
        hashes=np.concatenate([np.zeros(0, np.uint64), *(store.hashes for store in stores)]),
        lines=np.concatenate([np.zeros(0, np.int64), *(store.lines for store in stores)]),
        files=[file for store in stores for file in store.files],
        rows_of_files=np.concatenate([np.zeros(0, np.int64), *(store.rows_of_files for store in stores)]),
        fingerprint=" ".join(store.fingerprint for store in stores),
    )


def tokenize_source(source: Source, columns: Columns, tokenizer: Tokenizer, cache: Path) -> TokenStore:
    """Tokenise a source, or read it from the cache.

    Raises:
        DataError: an invalid row or column, with file and line.
    """
    folder = cache / _key(source, columns, tokenizer)
    store = _opened(folder, source)
    if store is None:
        with writing(cache):
            cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            sweep(cache)
            building = unfinished(folder)
            building.mkdir(mode=0o700)
        try:
            with held_unfinished(building), writing(cache, kept="set by LSTM_SENTIMENT_CACHE"):
                _build(source, columns, tokenizer, building)
                if not _is_intact(folder):  # else another process was faster
                    shutil.rmtree(folder, ignore_errors=True)
                    _put(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        store = _opened(folder, source)
    if store is None:
        raise DataError(f"its tokens cannot be cached in {cache}; set LSTM_SENTIMENT_CACHE", file=source.name)
    return store


def _put(building: Path, folder: Path) -> None:
    """Move an entry into place, unless another process has just done so."""
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
    files = [
        [content_hash(file.path), file.format, compression_of(file.name), file.partition]
        for file in source.files
    ]
    facts = [
        FORMAT,
        files,
        source.encoding,
        source.encoding_errors,
        source.quoting,
        source.header,
        source.sheet,
        *(getattr(columns, of.name) for of in fields(columns)),
        tokenizer.name,
        tokenizer.lowercase,
        tokenizer.normalize,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _opened(folder: Path, source: Source) -> TokenStore | None:
    """Return a cache entry, None if it is missing or damaged; damage is logged."""
    if not folder.exists():
        return None
    try:
        ids_N, arrays, meta = read_entry(folder)
    except DamagedError as error:
        log.warning("%s: is damaged (%s); the text is tokenised again", folder, error)
        return None
    files = [file.name for file in source.files]
    if len(arrays["rows_of_files"]) != len(files):
        log.warning("%s: is of other files; the text is tokenised again", folder)
        return None
    return TokenStore(name=source.name, ids_N=ids_N, fingerprint=folder.name, files=files, **arrays, **meta)


def _is_intact(folder: Path) -> bool:
    try:
        read_entry(folder)
    except DamagedError:
        return False
    return True


def _build(source: Source, columns: Columns, tokenizer: Tokenizer, folder: Path) -> None:
    """Tokenise a source into a cache folder, in bounded memory."""
    lexicon = Lexicon(tokenizer)
    rows = Rows(source, columns)
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
        "weights": rows.weights,
        "hashes": rows.hashes,
        "lines": rows.lines,
        "phrases": rows.phrases,
        "rows_of_files": rows.counts,
    }
    meta = {
        "tokens": lexicon.tokens,
        "label_values": list(rows.label_numbers),
        "counts": {"filtered": rows.filtered, "empty": empty, "replaced": rows.replaced}
        | {"swallowed": rows.swallowed, "swallowed_line": rows.swallowed_line}
        | {"swallowed_shard": rows.swallowed_shard},
    }
    write_entry(folder, arrays, meta)
