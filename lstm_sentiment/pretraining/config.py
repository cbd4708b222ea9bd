"""Configuration of `pretrain`, with the sections of `schema.Config` where they apply.

Keys of shared sections that do not apply to language models are rejected:

>>> PretrainConfig(text=TextConfig(truncate="tail"))
Traceback (most recent call last):
    ...
lstm_sentiment.errors.ConfigError: text.truncate: has no effect on a language model; leave it out
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from lstm_sentiment.config.schema import Config, TrainerConfig
from lstm_sentiment.config.sections import DataConfig, ModelConfig, TextConfig
from lstm_sentiment.errors import ConfigError

UNREAD = {
    "text": ("truncate", "vectors", "freeze_vectors"),
    "trainer": ("label_smoothing", "r_drop", "vat", "class_weights", "metric", "layer_decay", "unfreeze"),
}
MAX_SAMPLES = 1_000_000
TEXT = TextConfig(max_tokens=128)
TRAINER = TrainerConfig(metric="loss", label_smoothing=0.0, embedding_rate=1.0)


@dataclass(frozen=True, kw_only=True)
class PretrainDataConfig:
    """The unlabelled texts to train on.

    Args:
        train: a file (.csv .tsv .jsonl .json .parquet .feather .xlsx, or .txt with a text per line; text
            formats also .gz .bz2 .xz .zst .zip), a folder with folders of .txt files, a URL, or
            package:NAME/PATH; or a list of these. Several sources are held in memory, 4 bytes per token.
        validation: sources of validation texts, or the share of the texts to hold out (0 < share < 1).
        exclude: sources of texts that are excluded from training, such as a classifier's test rows; null
            for none.
        text_column: column with the text; auto takes the only one of text, review, sentence, tweet,
            comment that the file has.
        deduplicate: use repeated texts once.
        encoding: character encoding of text files.
        encoding_errors: strict stops at invalid bytes and names the line; replace reads them as U+FFFD and
            counts the rows.
        quoting: of CSV and TSV files (see `DataConfig`).
        header: whether the first line of CSV, TSV and Excel names the columns; else they are named 1, 2, ...
        sheet: of Excel workbooks; null for the first.
        max_rows: use at most this many texts of `train`, a seeded sample; null for all.
    """

    train: str | list[str] = DataConfig.train
    validation: float | str | list[str] = 0.05
    exclude: str | list[str] | None = None
    text_column: str = "auto"
    deduplicate: bool = True
    encoding: str = "utf-8"
    encoding_errors: Literal["strict", "replace"] = "replace"
    quoting: Literal["auto", "double", "backslash", "none"] = "auto"
    header: bool = True
    sheet: str | None = None
    max_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("train", "validation", "exclude"):
            sources = getattr(self, name)
            named = [sources] if isinstance(sources, str) else sources
            if isinstance(named, list) and not (named and all(source.strip() for source in named)):
                raise ConfigError("must not be empty", key=f"data.{name}")
        share = self.validation if isinstance(self.validation, int | float) else None
        shared = {name: getattr(self, name) for name in ("text_column", "encoding", "max_rows")}
        DataConfig(**shared, validation=0.1 if share is None else share, test=None)  # checks the ranges


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """The network: a single-layer LSTM per direction.

    A second layer would see both directions, and so the token to predict.

    Args:
        embedding_size: size of token embeddings.
        hidden_size: size of the LSTM's state, per direction.
        bidirectional: also train a backward LSTM that predicts the previous token.
        dropout: dropout rate before the output layer.
        embedding_dropout: dropout rate of embedding values, the same ones at every token of a text.
        word_dropout: share of input tokens that are replaced by the unknown token.
        samples: negative samples per batch for the sampled softmax; 0 for the full softmax, which is several
            times slower on a CPU. Validation uses the full softmax.
    """

    embedding_size: int = 128
    hidden_size: int = 128
    bidirectional: bool = True
    dropout: float = 0.1
    embedding_dropout: float = 0.1
    word_dropout: float = 0.0
    samples: int = 1024

    def __post_init__(self) -> None:
        shared = asdict(self)
        samples = shared.pop("samples")
        ModelConfig(**shared)  # checks the ranges
        if not 0 <= samples <= MAX_SAMPLES:
            raise ConfigError(f"must lie between 0 and {MAX_SAMPLES:,}, not {samples}", key="model.samples")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One training run of a language model.

    Args:
        out: run folder to write.
        seed: seed of the split, the initial weights, the order of batches, dropout and samples.
        resume: resume from the last checkpoint in `out`; without one the run starts from the beginning.
        overwrite: replace an existing run in `out`.
        data: training texts.
        text: tokenization; texts longer than `max_tokens` are split into windows of even length.
        model: the network.
        trainer: the training loop; its metric is the loss.
    """

    out: str = "runs/pretrained"
    seed: int = 0
    resume: bool = False
    overwrite: bool = False
    data: PretrainDataConfig = PretrainDataConfig()
    text: TextConfig = TEXT
    model: LanguageModelConfig = LanguageModelConfig()
    trainer: TrainerConfig = TRAINER

    def __post_init__(self) -> None:
        Config(out=self.out, seed=self.seed, resume=self.resume, overwrite=self.overwrite)
        for section, default in (("text", TEXT), ("trainer", TRAINER)):
            for name in UNREAD[section]:
                if getattr(getattr(self, section), name) != getattr(default, name):
                    raise ConfigError(
                        "has no effect on a language model; leave it out", key=f"{section}.{name}"
                    )
        if self.text.max_tokens < 2:
            raise ConfigError("must be at least 2: one to read, one to predict", key="text.max_tokens")
