"""Configuration schema: frozen dataclasses that own every default.

One section is one dataclass. A YAML file in `configs/` holds only what differs from these
defaults; `command_line.py` turns file and command line into a `Config`. Modules below the commands take
single values, not the whole configuration.

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
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lstm_sentiment.config.sections import DataConfig, ModelConfig, TextConfig, at_least, check

MOST = {
    "epochs": 5_000,
    "batch_size": 1_000_000,
    "accumulate": 1_000_000,
    "threads": 1024,
    "timeout": 86_400,
}
Metric = Literal["macro_f1", "accuracy", "macro_recall", "loss", "polar_f1", "flip_rate", "ordinal_error"]
SINKS = ("tensorboard", "mlflow", "wandb")  # of curves
METRICS: tuple[str, ...] = get_args(Metric)  # computed in `evaluation.metrics`


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The training loop.

    Args:
        epochs: passes over the training rows, at most.
        batch_size: rows per batch, over all ranks together.
        learning_rate: peak of the schedule: linear warm-up, then cosine decay to zero.
        embedding_rate: learning rate of the embeddings relative to `learning_rate`; updates are sparse (only
            the rows of a step's tokens), so that each row sees few steps.
        layer_decay: learning rate of each layer relative to the one above, from head down to embeddings.
        unfreeze: gradual unfreezing: epochs until the next layer is unfrozen, from head down to embeddings;
            0 trains all layers from the start.
        weight_decay: AdamW's decoupled weight decay, on matrices but not on biases.
        warmup: share of all steps over which the learning rate rises.
        clip_norm: maximum gradient norm; larger gradients are scaled down to it.
        label_smoothing: share of the target spread over all classes.
        r_drop: weight of the R-Drop consistency loss (symmetric KL divergence between two dropout passes, see
            `regularizers`); 0 for a single pass. On a CPU a step takes 1.6 times as long.
        vat: size of the virtual adversarial perturbation of a text's embeddings relative to their norm, such
            as 0.1 (see `regularizers`); 0 for none. Also applied to `data.unlabelled`. On a CPU a step
            takes 3 times as long.
        class_weights: balanced weighs each class by the inverse of its frequency.
        ema: decay of the moving average of the weights that is validated and saved; 0 for none.
        accumulate: batches whose gradients are accumulated before a step.
        precision: auto takes bf16 on CPUs that support it, fp16 with loss scaling on CUDA, fp32
            elsewhere.
        device: auto, cpu, cuda, cuda:N or mps; auto takes CUDA where there is one.
        threads: CPU threads; 0 takes all cores available to this process.
        metric: validation score that selects the best epoch and decides early stopping. The last three need
            class names such as negative and positive: mean F1 of these without neutral ones, share of rows
            predicted as the opposite polarity, distance on the ordinal scale.
        patience: stop after this many epochs without a better score; 0 disables early stopping.
        checkpoint_every: steps between checkpoints to resume from, in addition to the end of each epoch.
        keep_for_resume: keep the last checkpoint, with its optimizer state, in a finished run; it takes about
            eight times the space of the model. A stopped run always keeps it.
        timeout: seconds that a rank waits for the others before it considers one lost and exits; work of
            rank 0 alone, such as tokenising, may take longer.
        tensorboard: write curves of losses, scores, learning rate and gradient norm to `out`/tensorboard.
        log_to: tools that get these curves, and others than TensorBoard also settings, scores and the model:
            a list of tensorboard, mlflow and wandb. Their clients find the server by their own variables,
            such as ``MLFLOW_TRACKING_URI``. Null: none.
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
    r_drop: float = 0.0
    vat: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    ema: float = 0.99
    accumulate: int = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    threads: int = 0
    metric: Metric = "macro_f1"
    patience: int = 0
    checkpoint_every: int = 1000
    keep_for_resume: bool = False
    timeout: int = 600
    tensorboard: bool = False
    log_to: str | list[str] | None = None

    @property
    def sinks(self) -> tuple[str, ...]:
        """The tools of `log_to` and `tensorboard`."""
        named = [self.log_to] if isinstance(self.log_to, str) else self.log_to or []
        return tuple(name for name in SINKS if name in named or (name == "tensorboard" and self.tensorboard))

    def __post_init__(self) -> None:
        named = [self.log_to] if isinstance(self.log_to, str) else self.log_to or []
        for name in named:
            known = f"'{name}' is not one of {', '.join(SINKS)}"
            check(name in SINKS, "trainer.log_to", known)
        for name in ("epochs", "batch_size", "accumulate", "checkpoint_every", "timeout"):
            at_least(1, getattr(self, name), f"trainer.{name}")
        for name in ("unfreeze", "threads", "patience"):
            at_least(0, getattr(self, name), f"trainer.{name}")
        for name, most in MOST.items():
            value = getattr(self, name)
            check(value <= most, f"trainer.{name}", f"must be at most {most:,}, not {value:,}")
        for name in ("learning_rate", "embedding_rate", "layer_decay", "clip_norm"):
            value = getattr(self, name)
            check(0 < value < float("inf"), f"trainer.{name}", f"must be above 0 and finite, not {value}")
        for name in ("weight_decay", "r_drop", "vat"):
            value = getattr(self, name)
            check(0 <= value < float("inf"), f"trainer.{name}", f"must be at least 0 and finite, not {value}")
        check(self.layer_decay <= 1, "trainer.layer_decay", f"must be at most 1, not {self.layer_decay}")
        for name in ("warmup", "label_smoothing", "ema"):
            value = getattr(self, name)
            check(0 <= value < 1, f"trainer.{name}", f"must be at least 0 and below 1, not {value}")
        check(
            not (self.r_drop and self.vat), "trainer.vat", "contradicts trainer.r_drop; set one of them to 0"
        )
        check(
            self.patience <= self.epochs,
            "trainer.patience",
            f"{self.patience} epochs of patience have no effect in a run of {self.epochs}; "
            "lower it, raise trainer.epochs, or set 0",
        )
        check(
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
        seeds: train this many times, with `seed`, `seed` + 1, ..., each into its own folder below
            `out`, and report mean and spread.
        resume: resume from the last checkpoint in `out`; without one the run starts from the beginning.
        overwrite: replace the existing run in `out`.
        baseline: evaluate two baselines on the same split: majority class, and TF-IDF of 1-2-grams
            with logistic regression.
        report: write the run folder's report.html at the end; needs the extra ``report``.
        pretrained: initial weights. starter: the classifier that comes with the package; a run
            folder: that of another classifier, whose classes may differ, or of `pretrain`, for its
            vocabulary, embeddings, and first-layer LSTMs; null: random weights; auto: the
            starter, or random weights where explicit options contradict the starter or set how weights are
            trained. A classifier is always combined with a linear model, which gets all the weight where it
            is better.
        adapt: how a pretrained classifier is adapted. frozen: its LSTM is frozen and the head is fitted by
            cross-validation; finetune: all layers are trained; auto: frozen below 3,000 training rows.
        teacher: teacher for distillation: folder of a finished run, ``starter`` for the model of the package,
            or a list of several. The student learns its predictions (the mean of several) on
            `data.unlabelled` in addition to the labels. Null: labels only.
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
    pretrained: str | None = "auto"
    adapt: Literal["auto", "frozen", "finetune"] = "auto"
    teacher: str | list[str] | None = None
    data: DataConfig = DataConfig()
    text: TextConfig = TextConfig()
    model: ModelConfig = ModelConfig()
    trainer: TrainerConfig = TrainerConfig()

    def __post_init__(self) -> None:
        if self.pretrained == "none":  # often written for null
            object.__setattr__(self, "pretrained", None)
        check(bool(self.out.strip()), "out", "must not be empty")
        at_least(1, self.seeds, "seeds")
        check(self.seeds <= 1000, "seeds", f"at most 1000, not {self.seeds}")
        check(0 <= self.seed < 2**31, "seed", f"must lie between 0 and 2147483647, not {self.seed}")
        dropouts = (self.model.dropout, self.model.embedding_dropout, self.model.word_dropout)
        check(
            not self.trainer.r_drop or any(dropouts),
            "trainer.r_drop",
            "without dropout both passes are the same; set this to 0, or model.dropout above 0",
        )
        check(
            not (self.resume and self.overwrite),
            "overwrite",
            "contradicts resume: one resumes the folder's run, the other replaces it; remove one",
        )
        unlabelled = self.data.unlabelled is not None
        check(unlabelled or self.teacher is None, "teacher", "has no texts to label; set data.unlabelled")
        check(
            self.teacher not in (None, []) or not unlabelled or self.trainer.vat > 0,
            "data.unlabelled",
            "nothing uses these texts; set teacher to the folder of a finished run, or trainer.vat",
        )
        both = self.pretrained not in (None, "auto") and self.text.vectors is not None
        check(not both, "text.vectors", "contradicts pretrained, which has its own vectors")
        frozen = self.trainer.unfreeze * (self.model.layers + 1)
        check(
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
