"""Build the corpus: datasets, vocabulary and statistics from the `data` and `text` sections.

Labels of all files are checked before a model is built. The vocabulary is built from training
rows and words of pretrained vectors, never from validation and test rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from lstm_sentiment.config.sections import DataConfig, TextConfig, class_folders, code_of, sources
from lstm_sentiment.data.columns import Rows
from lstm_sentiment.data.dataset import TextDataset, count_tokens
from lstm_sentiment.data.formats.lines import form_of
from lstm_sentiment.data.labels import class_indices, class_map
from lstm_sentiment.data.review.decisions import matching_rows, read_suspects, to_leave_out
from lstm_sentiment.data.sources.names import TREES
from lstm_sentiment.data.sources.sources import Source, open_source
from lstm_sentiment.data.splits import RowSplit, split_rows
from lstm_sentiment.data.token_store import Columns, TokenStore, join_stores, tokenize_source
from lstm_sentiment.data.word_vectors import vector_words
from lstm_sentiment.errors import ConfigError, DataError, Problems, shown
from lstm_sentiment.records.checkpoint_facts import BestFacts
from lstm_sentiment.records.data_facts import DataFacts, SourceCounts, SplitFacts, Unlabelled
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.text.tokenizers import Tokenizer, Vocabulary

SPLITS = ("train", "validation", "test")
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The data of a training run.

    Args:
        train: training rows.
        validation: rows that select the best epoch; the training rows if these are cross-validated.
        test: rows for the final evaluation, or None.
        unlabelled: unlabelled data, or None; its store holds the training rows too, at the same
            indices, and `labels` are all 0.
        labels: class names, by class index.
        label_map: label in files -> class name, or None for rows to exclude.
        vocabulary: tokens of the training rows and of unlabelled data, and words of `text.vectors` if
            requested.
        facts: counts for the report.
        fingerprint: changes with any row, label, split or token.
        unmerged: the same rows with the classes that a run began with, if some were merged since.
    """

    train: TextDataset
    validation: TextDataset
    test: TextDataset | None
    unlabelled: TextDataset | None
    labels: list[str]
    label_map: dict[str, str | None]
    vocabulary: Vocabulary
    facts: DataFacts
    fingerprint: str
    unmerged: Corpus | None = None

    @property
    def cross_validated(self) -> bool:
        """Whether no validation rows are held out (see `DataConfig`)."""
        return self.validation is self.train

    @property
    def splits(self) -> dict[str, TextDataset]:
        """The datasets by name: train and, if present, validation and test."""
        validation = None if self.cross_validated else self.validation
        found = {"train": self.train, "validation": validation, "test": self.test}
        return {name: rows for name, rows in found.items() if rows is not None}

    def is_of(self, facts: BestFacts) -> bool:
        """Whether these are the rows that a run began with; its classes may have new names, or be merged.

        Args:
            facts: of its best checkpoint.
        """
        if self.unmerged is not None:
            return self.unmerged.is_of(facts)
        rows = [*self.splits.values(), *filter(None, [self.unlabelled])]
        return _fingerprint(rows, facts.labels or self.labels, self.vocabulary) == facts.data


def prepare(
    data: DataConfig,
    text: TextConfig,
    *,
    seed: int,
    cache: Path,
    vocabulary: Vocabulary | None = None,
    words: Sequence[str] = (),
) -> Corpus:
    """Read, check, split and encode the rows of a configuration.

    Args:
        data: which rows, and how they are split.
        text: how a text becomes tokens.
        seed: of the split.
        cache: folder for tokenised text.
        vocabulary: of a pretrained model; None builds one from the training rows.
        words: that a new vocabulary contains in any case.

    Raises:
        DataError: an invalid file, row or label, with its location.
        ConfigError: unknown tokenizer; phrases of a file that has none.
    """
    tokenizer = Tokenizer(text.tokenizer, lowercase=text.lowercase, normalize=text.normalize)
    stores = _stores(data, tokenizer, cache)
    label_map = class_map(data.labels, stores["train"])
    labels = list(dict.fromkeys(name for name in label_map.values() if name is not None))
    classes = class_indices(stores, label_map, labels)
    cut = _split(stores["train"], classes["train"], data, seed)
    _check_every_class(classes["train"][cut.rows["train"]], labels, stores["train"].name)
    more = _unlabelled(stores, cut.rows, data, tokenizer, cache)
    vocabulary = vocabulary or _vocabulary(
        more[0] if more else stores["train"],
        np.concatenate([cut.counted, more[1]]) if more else cut.counted,
        text=text,
        words=words,
        cache=cache,
    )
    splits = _datasets(stores, classes, cut.rows, vocabulary, data, text)
    unlabelled = splits["train"].joined(*more, np.zeros(len(more[1]), np.int64)) if more else None
    return Corpus(
        train=splits["train"],
        validation=splits.get("validation", splits["train"]),
        test=splits.get("test"),
        unlabelled=unlabelled,
        labels=labels,
        label_map=label_map,
        vocabulary=vocabulary,
        facts=_facts(stores, classes, cut, splits, unlabelled, labels),
        fingerprint=_fingerprint([*splits.values(), *filter(None, [unlabelled])], labels, vocabulary),
    )


def _facts(
    stores: dict[str, TokenStore],
    classes: dict[str, Array],
    cut: RowSplit,
    splits: dict[str, TextDataset],
    unlabelled: TextDataset | None,
    labels: list[str],
) -> DataFacts:
    return DataFacts(
        duplicates=cut.duplicates,
        conflicting_labels=cut.conflicting,
        excluded_rows=cut.excluded,
        counts={split: _counts(store, classes[split]) for split, store in stores.items()},
        unlabelled=Unlabelled(texts=len(unlabelled) if unlabelled else None),
        phrases=int(stores["train"].phrases[cut.rows["train"]].sum()),
        splits={name: _split_facts(split, labels) for name, split in splits.items()},
        shared_texts=_shared_texts(splits),
    )


def refuse_addresses(data: DataConfig) -> None:
    """Refuse to fetch URLs named by a run folder, which is untrusted.

    Raises:
        DataError: a source is not on this machine.

    >>> refuse_addresses(DataConfig(train="reviews.csv"))
    """
    named = (data.train, data.validation, data.test, data.unlabelled, data.exclude, data.exclude_rows)
    for source in (source for of in named for source in sources(of)):
        if "://" in source:
            raise DataError("is a URL in a run folder, which is untrusted, and is not fetched", file=source)


def build_vocabulary(
    store: TokenStore, rows: Array, *, min_frequency: int, most: int, more: Sequence[str] = ()
) -> Vocabulary:
    """Return a vocabulary of the most frequent tokens of some rows and `more`; ties keep the first."""
    counts = count_tokens(store, rows, weighted=True)
    order = np.argsort(-counts, kind="stable")
    known = order[counts[order] >= min_frequency][:most]
    others = (word for word in more if word not in SPECIAL_TOKENS)
    return Vocabulary(dict.fromkeys([*(store.tokens[i] for i in known), *others]))


def _stores(data: DataConfig, tokenizer: Tokenizer, cache: Path) -> dict[str, TokenStore]:
    """Read all sources, and report the problems of all."""
    stores, problems = {}, Problems[DataError]()
    for split in SPLITS:
        source = getattr(data, split)
        if isinstance(source, str | list):
            phrases = split == "train" and data.phrases > 0
            try:
                stores[split] = _load(source, data, tokenizer, cache, phrases=phrases)
            except DataError as error:
                problems.add(error)
    problems.raise_any()
    return stores


def _load(
    name: str | list[str], data: DataConfig, tokenizer: Tokenizer, cache: Path, *, phrases: bool
) -> TokenStore:
    with open_source(name, **reading_of(data)) as source:
        if phrases and (source.format not in TREES or form_of(source.files[0], labelled=True) != "trees"):
            raise ConfigError(
                f"{source.name} has none: only trees do ({' '.join(TREES)}); set this to 0",
                key="data.phrases",
            )
        return tokenize_source(source, _columns(source, name, data, phrases=phrases), tokenizer, cache)


def _columns(source: Source, name: str | list[str], data: DataConfig, *, phrases: bool) -> Columns:
    return Columns(
        text=data.text_column,
        label=data.label_column,
        group=data.group_column,
        weight=data.weight_column if name == data.train else None,
        filter=tuple((column, code_of(str(value))) for column, value in sorted(data.filter.items())),
        classes=class_folders(data.labels) if source.format == "folder" else None,
        phrases=phrases,
    )


def original_texts(name: str | list[str], data: DataConfig, rows: Collection[int]) -> dict[int, str]:
    """Return the texts of some rows of a labelled source, as they are in the file.

    Args:
        name: one of the sources of `data`.
        data: how it is read.
        rows: of its token store.

    Raises:
        DataError: the source cannot be read.

    Example::

        original_texts("reviews.csv", config.data, [0, 17])[17]
    """
    found: dict[int, str] = {}
    wanted, start = set(rows), 0
    with open_source(name, **reading_of(data)) as source:
        phrases = name == data.train and data.phrases > 0
        for texts in Rows(source, _columns(source, name, data, phrases=phrases)).texts():
            found |= {start + n: text for n, text in enumerate(texts) if start + n in wanted}
            start += len(texts)
    return found


def reading_of(data: TextSources) -> dict[str, Any]:
    """Return the reading options as keyword arguments of `open_source`.

    >>> reading_of(DataConfig(header=False))["header"]
    False
    """
    names = ("encoding", "encoding_errors", "quoting", "header", "sheet")
    return {name: getattr(data, name) for name in names}


class TextSources(Protocol):
    """Reading options of text files: `DataConfig` without labels, or `PretrainDataConfig`."""

    @property
    def text_column(self) -> str:
        """Column with the text, or auto."""

    @property
    def encoding(self) -> str:
        """Character encoding."""

    @property
    def encoding_errors(self) -> Literal["strict", "replace"]:
        """How bytes that are invalid in the encoding are handled."""

    @property
    def quoting(self) -> str:
        """Quoting dialect of CSV and TSV."""

    @property
    def header(self) -> bool:
        """Whether the first line of CSV, TSV and Excel names the columns."""

    @property
    def sheet(self) -> str | None:
        """Sheet of a workbook to read."""


def load_texts(name: str, data: TextSources, tokenizer: Tokenizer, cache: Path) -> TokenStore:
    """Return the texts of a source as token numbers, ignoring labels.

    Raises:
        DataError: an invalid row or column, with file and line.
    """
    with open_source(name, **reading_of(data)) as source:
        return tokenize_source(source, Columns(text=data.text_column, label=None), tokenizer, cache)


def _unlabelled(
    stores: dict[str, TokenStore], cut: dict[str, Array], data: DataConfig, tokenizer: Tokenizer, cache: Path
) -> tuple[TokenStore, Array] | None:
    """Return one store of the training rows and unlabelled texts, and the indices of the latter.

    Texts that occur in any split are excluded, and repeated ones after the first.
    """
    if data.unlabelled is None:
        return None
    train = stores["train"]
    more, others = (
        [load_texts(name, data, tokenizer, cache) for name in sources(named)]
        for named in (data.unlabelled, data.exclude)
    )
    joined = join_stores([train, *more])
    of_splits = [store.hashes for name, store in stores.items() if name != "train"]
    of_splits += [store.hashes for store in others]
    of_splits += [train.hashes[rows] for rows in cut.values()]
    hashes = joined.hashes[len(train.hashes) :]
    first = np.sort(np.unique(hashes, return_index=True)[1])
    return joined, len(train.hashes) + first[~np.isin(hashes[first], np.concatenate(of_splits))]


def _check_every_class(classes: Array, labels: list[str], file: str) -> None:
    for label, count in zip(labels, np.bincount(classes, minlength=len(labels)), strict=True):
        if count == 0:
            raise DataError(
                f"no training row has the label {shown(label)}; add some, or remove it from data.labels",
                file=file,
            )


def _datasets(
    stores: dict[str, TokenStore],
    classes: dict[str, Array],
    cut: dict[str, Array],
    vocabulary: Vocabulary,
    data: DataConfig,
    text: TextConfig,
) -> dict[str, TextDataset]:
    """Return the datasets by name, from the training file or from their own files."""
    splits = {}
    for split in [name for name in SPLITS if name in cut or name in stores]:
        origin = "train" if split in cut else split
        rows = cut.get(split, np.flatnonzero(classes[origin] >= 0))
        if not len(rows):
            raise DataError("data.labels excludes every row", file=stores[origin].name)
        splits[split] = TextDataset(
            stores[origin],
            rows,
            classes[origin][rows],
            vocabulary=vocabulary,
            max_tokens=text.max_tokens,
            truncate=text.truncate,
            subwords=text.subwords,
            weights=np.where(stores[origin].phrases[rows], data.phrases, 1.0) if split == "train" else None,
            counts=stores[origin].weights[rows],
        )
    return splits


def _split(store: TokenStore, classes: Array, data: DataConfig, seed: int) -> RowSplit:
    """Split the rows, and leave those of `data.exclude_rows` out of the training rows.

    A repeated text that was removed as a duplicate of one of them takes its place.
    """
    cut = split_rows(store, classes, data, seed=seed)
    if data.exclude_rows is None:
        return cut
    named = to_leave_out(read_suspects(data.exclude_rows))
    excluded = matching_rows(named, store.lines, store.hashes, files=store.files, rows_F=store.rows_of_files)
    if named and not excluded.any():
        problem = f"none of its {len(named):,} rows is a row of {store.name}; name the table of these data"
        raise DataError(problem, file=data.exclude_rows)
    line_R = store.sentences()
    excluded |= store.phrases & np.isin(line_R, line_R[excluded & ~store.phrases])
    train = cut.rows["train"]
    stay, again = train[~excluded[train]], np.zeros(0, np.int64)
    if data.deduplicate:
        others = np.flatnonzero(~excluded & (classes >= 0) & (store.weights > 0))
        again = others[np.isin(store.hashes[others], store.hashes[train[excluded[train]]])]
        again = again[np.unique(store.hashes[again], return_index=True)[1]]
    left = np.union1d(stay, again)
    return replace(
        cut,
        rows={**cut.rows, "train": left},
        counted=np.union1d(cut.counted[~excluded[cut.counted]], again),
        excluded=len(train) - len(left),
    )


def _vocabulary(
    store: TokenStore, rows: Array, *, text: TextConfig, words: Sequence[str], cache: Path
) -> Vocabulary:
    """Return the tokens of some rows, with some words, and those of word vectors if they are configured."""
    of_vectors = vector_words(text.vectors, text.vector_words, cache=cache) if text.vectors else ()
    return build_vocabulary(
        store,
        rows,
        min_frequency=text.min_frequency,
        most=text.max_vocabulary,
        more=[*words, *of_vectors],
    )


def _fingerprint(splits: list[TextDataset], labels: list[str], vocabulary: Vocabulary) -> str:
    """Return a hash that changes with any row, label, split or token."""
    digest = hashlib.sha256(json.dumps([labels, vocabulary.tokens]).encode())
    for split in splits:
        digest.update(split.store.fingerprint.encode())
        digest.update(split.rows.astype(np.int64).tobytes())
        digest.update(split.labels.astype(np.int64).tobytes())
    return digest.hexdigest()


def _counts(store: TokenStore, classes: Array) -> SourceCounts:
    """Return the counts of the reader, and of the rows that `data.labels` excludes."""
    empty = np.flatnonzero(store.offsets[1:] == store.offsets[:-1])[:5]
    counts, several = dict(store.counts), len(store.files) > 1
    shard = counts.pop("swallowed_shard")
    return SourceCounts(
        **counts,
        swallowed_file=store.files[shard] if several and counts["swallowed"] else None,
        empty_lines=store.lines[empty].tolist(),
        empty_files=[store.place(row)[0] for row in empty.tolist()] if several else None,
        left_out=int((classes[~store.phrases] < 0).sum()),
        weightless=int((store.weights <= 0).sum()),
    )


def _split_facts(split: TextDataset, labels: list[str]) -> SplitFacts:
    counts = np.bincount(split.labels, minlength=len(labels))
    return SplitFacts(
        rows=len(split),
        classes={label: int(count) for label, count in zip(labels, counts, strict=True)},
        unknown_tokens=round(split.unknown_share(), 5),
        cut_tokens=round(split.cut_tokens / max(1, split.all_tokens), 5),
        tokens=split.all_tokens,
        empty_texts=int((split.store.offsets[split.rows + 1] == split.store.offsets[split.rows]).sum()),
    )


def _shared_texts(splits: dict[str, TextDataset]) -> dict[str, int]:
    """Count validation and test rows whose text also occurs in the training rows."""
    train = splits["train"]
    seen = train.store.hashes[train.rows]
    return {
        name: int(np.isin(split.store.hashes[split.rows], seen).sum())
        for name, split in splits.items()
        if name != "train"
    }
