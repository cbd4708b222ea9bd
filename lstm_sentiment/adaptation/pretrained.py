"""Initialises a classifier from a pretrained language model: vocabulary, embeddings, first LSTM layer.

The weights are copied: the classifier's run folder does not depend on the pretrained one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lstm_sentiment.checkpoints.expected import of_language_model
from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.checkpoints.run_paths import is_seeds, is_starter
from lstm_sentiment.checkpoints.tensors import check_weights, known_tokens
from lstm_sentiment.checkpoints.untrusted_files import classes_of_run, vocabulary_of, yaml_of
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import CheckpointError, ConfigError, SentimentError
from lstm_sentiment.records.checkpoint_facts import LanguageFacts
from lstm_sentiment.system.files import local_path
from lstm_sentiment.text.tokenizers import Vocabulary

log = logging.getLogger(__name__)

TAKEN = ("embedding.", "subwords.", "forward_lstms.0.", "backward_lstms.0.")
# Settings that must be equal, so that tokens mean the same and shapes fit.
ALIKE = ["text.tokenizer", "text.lowercase", "text.normalize", "text.subwords"]
ALIKE += ["model.embedding_size", "model.hidden_size", "model.bidirectional"]


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The best checkpoint of a `pretrain` run.

    Args:
        vocabulary: of its training texts.
        weights: parameter -> tensor, on the CPU.
        sha256: of the weights, by name.
    """

    vocabulary: Vocabulary
    weights: Mapping[str, Tensor]
    sha256: str

    def start(self, model: nn.Module) -> None:
        """Copy the weights that the classifier shares with the language model.

        Raises:
            CheckpointError: a shape does not match.
        """
        own = {name: weight for name, weight in model.named_parameters() if name.startswith(TAKEN)}
        taken = {name: tensor for name, tensor in self.weights.items() if name.startswith(TAKEN)}
        check_weights(taken, {name: weight.shape for name, weight in own.items()})
        with torch.no_grad():
            for name, tensor in taken.items():
                own[name].copy_(tensor)


def load_pretrained(config: Config) -> Pretrained | None:
    """Return the language model named by `pretrained`, or None if there is none.

    None for a classifier, too (see `adaptation.start`).

    Raises:
        ConfigError: its tokenization or sizes differ; the message names the key.
        RunError: the folder is not a run folder.
        CheckpointError: the run is damaged.

    >>> load_pretrained(Config()) is None
    True
    """
    if config.pretrained in (None, "auto") or is_starter(str(config.pretrained)):
        return None
    assert config.pretrained is not None
    folder = RunFolder(local_path(config.pretrained))
    if is_seeds(folder.path):  # only classifiers are trained with several seeds
        return None
    if folder.is_run() and classes_of_run(folder.path / "labels.json")[0]:
        return None
    try:
        checkpoint = folder.load(BEST, of_language_model(folder.path))
    except CheckpointError:
        raise
    except SentimentError as error:
        raise ConfigError(str(error), key="pretrained") from None
    _check_alike(yaml_of(folder.path / "config.yaml"), config, folder.path)
    facts = checkpoint.facts_as(LanguageFacts)
    try:
        weights = checkpoint.tensors["model"]
        vocabulary = Vocabulary(vocabulary_of(folder.path / "vocabulary.json", known_tokens(weights)))
        check_weights(weights, {name: tensor.shape for name, tensor in weights.items()})
        log.info(
            "pretrained: %s, epoch %d, validation perplexity %.1f",
            folder.path, facts.epoch + 1, facts.scores.perplexity,
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder.path}: is malformed: {error}") from None
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return Pretrained(vocabulary=vocabulary, weights=weights, sha256=digest.hexdigest())


def _check_alike(theirs: Any, config: Config, folder: Path) -> None:
    if not isinstance(theirs, dict) or not all(isinstance(theirs.get(of), dict) for of in ("text", "model")):
        raise CheckpointError(f"{folder / 'config.yaml'}: lacks the section text or model")
    for key in ALIKE:
        section, _, name = key.partition(".")
        default = getattr(getattr(Config(), section), name)  # runs of earlier versions have fewer settings
        found, expected = (
            getattr(getattr(config, section), name),
            theirs[section].get(name, default),
        )
        if found != expected:
            raise ConfigError(
                f"is {found}, but {folder} was pretrained with {expected}; set it to {expected}", key=key
            )
