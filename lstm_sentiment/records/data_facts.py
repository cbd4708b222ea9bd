"""data.json: counts of a run's rows, or of a language model's texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lstm_sentiment.records.json_values import Count, Record


@dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """Counts of a source; those that are None are missing in runs of earlier versions.

    Args:
        filtered: rows left out by `data.filter`.
        empty: texts without tokens.
        replaced: rows with bytes that could not be decoded.
        swallowed: rows that seem to hold others, behind an open quote.
        swallowed_line: line of the first of them.
        swallowed_file: its file, if the source has several.
        empty_lines: lines of the first five empty texts.
        empty_files: their files, if the source has several.
        left_out: rows of classes that `data.labels` excludes.
        weightless: rows of weight 0.
    """

    filtered: Count
    empty: Count
    replaced: Count
    swallowed: Count | None = None
    swallowed_line: Count | None = None
    swallowed_file: str | None = None
    empty_lines: list[Count] | None = None
    empty_files: list[str] | None = None
    left_out: Count | None = None
    weightless: Count | None = None


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """Counts of a split.

    Args:
        rows: of it.
        classes: rows of each class.
        unknown_tokens: share of its tokens that are not in the vocabulary.
        cut_tokens: share of its tokens that are truncated.
        tokens: of it.
        empty_texts: texts without tokens.
    """

    rows: Count
    classes: dict[str, Count]
    unknown_tokens: float
    cut_tokens: float
    tokens: Count
    empty_texts: Count


@dataclass(kw_only=True)
class Unlabelled:
    """Counts of unlabelled data; teachers add the classes.

    Args:
        texts: used, if there are any.
        classes: texts of each class, as the teachers predict them.
    """

    texts: Count | None = None
    classes: dict[str, Count] | None = None


@dataclass(frozen=True, kw_only=True)
class VectorCoverage:
    """What pretrained vectors cover.

    Args:
        types: share of the vocabulary that has one.
        tokens: share of the training tokens that has one.
    """

    types: float
    tokens: float


@dataclass(kw_only=True)
class DataFacts(Record):
    """Counts of a classifier's rows; the coverage of pretrained vectors is added when these are loaded.

    Args:
        duplicates: repeated texts.
        conflicting_labels: texts with more than one label; None after classes were merged and the rows could
            not be read.
        excluded_rows: training rows left out by `data.exclude_rows`; None without it.
        counts: of each source, by the split that it was given for.
        unlabelled: counts of unlabelled data.
        phrases: training rows that are phrases of a tree.
        splits: by name.
        shared_texts: validation and test rows whose text is also in the training rows, by split.
        known_to_starter: rows whose text the starter was trained on, by split, where training began with it
            and it knows some.
        vectors: what pretrained vectors cover, if there are any.
    """

    FILE: ClassVar[str] = "data.json"

    duplicates: Count
    conflicting_labels: Count | None = None
    excluded_rows: Count | None = None
    counts: dict[str, SourceCounts]
    unlabelled: Unlabelled | None = None
    phrases: Count | None = None
    splits: dict[str, SplitFacts]
    shared_texts: dict[str, Count]
    known_to_starter: dict[str, Count] | None = None
    vectors: VectorCoverage | None = None

    def __post_init__(self) -> None:
        for name, of in (("counts", self.counts), ("splits", self.splits)):
            if "train" not in of:
                raise ValueError(f"{name}.train is missing; it must be an object")


def rows_by_split(facts: DataFacts) -> dict[str, int]:
    """Return the number of rows of each split.

    Example::

        rows_by_split(corpus.facts)["train"]
    """
    return {name: of.rows for name, of in facts.splits.items()}


@dataclass(frozen=True, kw_only=True)
class TextSplitFacts:
    """Counts of a split of a language model's texts.

    Args:
        texts: of it.
        windows: that they are cut into.
        tokens: of it.
        unknown_tokens: share of its tokens that are not in the vocabulary.
    """

    texts: Count
    windows: Count
    tokens: Count
    unknown_tokens: float


@dataclass(frozen=True, kw_only=True)
class TextFacts(Record):
    """Counts of a language model's texts.

    Args:
        splits: by name.
        duplicates: repeated texts.
        excluded: texts left out because they are in the validation or excluded sources.
    """

    FILE: ClassVar[str] = "data.json"

    splits: dict[str, TextSplitFacts]
    duplicates: Count
    excluded: Count
