"""What a classifier takes over from a language model: vocabulary, vectors, first LSTMs.

The classifier keeps copies: its run folder needs the pretrained one no more.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from lstm_sentiment.checkpoint import BEST, RunFolder
from lstm_sentiment.config import Config
from lstm_sentiment.errors import CheckpointError, ConfigError, SentimentError
from lstm_sentiment.reading.text import Vocabulary

log = logging.getLogger(__name__)

TAKEN = ("embedding.", "subwords.", "forward_lstms.0.", "backward_lstms.0.")
# Or tokens would mean something else, or shapes would not fit.
ALIKE = ["text.tokenizer", "text.lowercase", "text.normalize", "text.subwords"]
ALIKE += ["model.embedding_size", "model.hidden_size", "model.bidirectional"]


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The best epoch of a `pretrain` run.

    Args:
        vocabulary: of its training texts.
        weights: parameter -> tensor, on the CPU.
        sha256: of the weights, by name.
    """

    vocabulary: Vocabulary
    weights: Mapping[str, Tensor]
    sha256: str

    def start(self, model: nn.Module) -> None:
        """Copy the weights that a classifier shares with the language model; its others stay as they are.

        Raises:
            RuntimeError: a shape that does not fit.
        """
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in self.weights.items():
                if name.startswith(TAKEN):
                    parameters[name].copy_(tensor)


def load_pretrained(config: Config) -> Pretrained | None:
    """Return the language model that a configuration names, or None where it names none.

    Raises:
        ConfigError: it is a classifier, or its tokens or sizes are others; the message names the key.
        RunError: the folder is no run.
        CheckpointError: a damaged one.

    >>> load_pretrained(Config()) is None
    True
    """
    if config.pretrained is None:
        return None
    folder = RunFolder(Path(config.pretrained).expanduser())
    try:
        checkpoint = folder.load(BEST)
    except CheckpointError:
        raise
    except SentimentError as error:
        raise ConfigError(str(error), key="pretrained") from None
    if folder.read_json("labels.json")["labels"]:
        raise ConfigError(
            f"{folder.path}: is the run of a classifier, not of lstm_sentiment.pretrain", key="pretrained"
        )
    _check_alike(yaml.safe_load((folder.path / "config.yaml").read_text("utf-8")), config, folder.path)
    vocabulary = Vocabulary(folder.read_json("vocabulary.json"))
    weights = checkpoint.tensors["model"]
    log.info(
        "pretrained: %s, epoch %d, validation perplexity %.1f",
        folder.path, checkpoint.facts["epoch"] + 1, checkpoint.facts["scores"]["perplexity"],
    )  # fmt: skip
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return Pretrained(vocabulary=vocabulary, weights=weights, sha256=digest.hexdigest())


def _check_alike(theirs: dict[str, Any], config: Config, folder: Path) -> None:
    for key in ALIKE:
        section, _, name = key.partition(".")
        before_it_was_one = getattr(getattr(Config(), section), name)  # runs of earlier versions name fewer
        found, expected = (
            getattr(getattr(config, section), name),
            theirs[section].get(name, before_it_was_one),
        )
        if found != expected:
            raise ConfigError(
                f"is {found}, but {folder} was pretrained with {expected}; set it to {expected}", key=key
            )
