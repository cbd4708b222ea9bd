"""The classifier that training starts from, and its mapping to new vocabularies and classes.

Legend: V tokens, C classes of the new rows, S classes of the classifier, H classes of its head: more than S
if some were merged.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lstm_sentiment.checkpoints.expected import network_classes, of_classifier
from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.checkpoints.run_paths import is_starter, run_path
from lstm_sentiment.checkpoints.tensors import check_weights, known_tokens
from lstm_sentiment.checkpoints.untrusted_files import classes_of_run, vocabulary_of
from lstm_sentiment.config.command_line import read_config
from lstm_sentiment.config.network_shapes import network_shapes
from lstm_sentiment.config.schema import Config, flatten
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.errors import CheckpointError, ConfigError
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import sides
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.network import KINDS, NgramBranch, merged_logits
from lstm_sentiment.records.checkpoint_facts import BestFacts
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS, UNKNOWN
from lstm_sentiment.text.tokenizers import Vocabulary

# Settings of tokenization and layer shapes, which are taken from the classifier.
TAKEN = ["text.tokenizer", "text.lowercase", "text.normalize", "text.subwords"]
TAKEN += ["model.embedding_size", "model.hidden_size", "model.layers", "model.bidirectional", "model.pooling"]
BATCH_SIZE = 256
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Start:
    """The best checkpoint of a trained classifier.

    Args:
        name: as given by the user.
        labels: its class names.
        vocabulary: its tokens.
        config: of its run.
        weights: of its LSTM: parameter -> tensor, on the CPU.
        temperature: of its calibration.
        sha256: of all its weights, by name.
        ngrams: its linear branch, on the CPU; None if it has none.
        shares: factors of the logits of LSTM and linear branch in their sum.
        merged: for each class of its head its place in `labels`, if some were merged, (H,).
    """

    name: str
    labels: list[str]
    vocabulary: Vocabulary
    config: Config
    weights: Mapping[str, Tensor]
    temperature: float
    sha256: str
    ngrams: NgramBranch | None = None
    shares: tuple[float, float] = (1.0, 0.0)
    merged: list[int] | None = None

    @property
    def tokens(self) -> list[str]:
        """The known tokens, without the special ones."""
        return self.vocabulary.tokens[len(SPECIAL_TOKENS) :]

    def applied(self, config: Config, given: Collection[str]) -> Config:
        """Return a configuration with this classifier's tokens and layers.

        Args:
            config: of a new run.
            given: keys set by the user.

        Raises:
            ConfigError: one of these has another value than the classifier's.
        """
        for key in TAKEN:
            wanted, found = flatten(config)[key], flatten(self.config)[key]
            if key in given and wanted != found:
                raise ConfigError(
                    f"is {wanted}, but {self.name} has {found}; set it to {found}, leave it out, or set "
                    "pretrained to null",
                    key=key,
                )
        sections = {
            of: dataclasses.replace(
                getattr(config, of),
                **{
                    name: getattr(getattr(self.config, of), name)
                    for section, _, name in (key.partition(".") for key in TAKEN)
                    if section == of
                },
            )
            for of in ("text", "model")
        }
        return dataclasses.replace(config, **sections)

    @torch.no_grad()
    def copy_to(self, lstm: SentimentLSTM, vocabulary: Vocabulary) -> None:
        """Copy the weights, except the head's, to an LSTM with another vocabulary.

        New tokens get the vector of the unknown token and keep their subword vectors: they are embedded as
        the classifier would embed them.

        Raises:
            CheckpointError: a shape does not match.
        """
        own = lstm.state_dict()
        taken = {name: tensor for name, tensor in self.weights.items() if not name.startswith("head.")}
        vectors_VE = taken.pop("embedding.weight")
        check_weights(taken, {name: own[name].shape for name in own.keys() & taken.keys()})
        for name, tensor in taken.items():
            own[name].copy_(tensor)
        ids = [self.vocabulary.ids.get(token, UNKNOWN) for token in vocabulary.tokens]
        lstm.embedding.weight.copy_(vectors_VE[torch.tensor(ids)])

    def matching(self, labels: list[str]) -> Array | None:
        """Return how this classifier's classes map to other classes, (C, S), or None.

        Classes map by name. If a name has no match, they map by side: negative, positive, and any other name
        as neutral. Rows sum to 1; None if the names cannot be mapped.

        Example::

            start.matching(["neg", "pos"])  # [[1, 0, 0], [0, 0, 1]] of negative, neutral, positive
        """
        mine = [label.casefold() for label in self.labels]
        theirs = [label.casefold() for label in labels]
        if set(theirs) <= set(mine):
            return np.array([[float(one == other) for other in mine] for one in theirs])
        my_sides, their_sides = np.array(sides(self.labels)), np.array(sides(labels))
        if not {-1, 1} <= set(their_sides.tolist()) or (their_sides == 0).sum() > 1:
            return None
        same_CS = (their_sides[:, None] == my_sides[None, :]).astype(float)
        if not same_CS.any(axis=1).all():
            return None
        matched_CS: Array = same_CS / same_CS.sum(axis=1, keepdims=True)
        return matched_CS

    def matching_of_head(self, labels: list[str]) -> Array | None:
        """Return how the classes of this classifier's head map to other classes, (C, H), or None.

        As `matching`; the logit of a merged class is approximated by the mean of its members' logits, since a
        head is linear in the features.
        """
        matching_CS = self.matching(labels)
        if matching_CS is None or self.merged is None:
            return matching_CS
        members_SH = np.equal.outer(np.arange(len(self.labels)), self.merged).astype(float)
        matched_CH: Array = matching_CS @ (members_SH / members_SH.sum(axis=1, keepdims=True))
        return matched_CH

    def logits(self, features_RP: Array, rows: TextDataset, labels: list[str]) -> Array | None:
        """Return this classifier's own logits of rows, or None if its classes cannot be mapped.

        Args:
            features_RP: pooled features of its LSTM (see `fitting.pooled_features`).
            rows: the rows of these features, for its n-grams.
            labels: class names of the rows.

        Returns:
            logits (R, C).

        Example::

            logits_RC = start.logits(features_RP, corpus.train, corpus.labels)
        """
        matching_CS = self.matching(labels)
        if matching_CS is None:
            return None
        weight_HP, bias_H = (self.weights[f"head.{name}"].double().numpy() for name in ("weight", "bias"))
        logits_RS = features_RP @ weight_HP.T + bias_H
        if self.ngrams is not None:
            text = self.config.text
            own = TextDataset(
                rows.store,
                rows.rows,
                rows.labels,
                vocabulary=self.vocabulary,
                max_tokens=text.max_tokens,
                truncate=text.truncate,
            )
            of_ngrams = predict_logits(self.ngrams, own, device=torch.device("cpu"), batch_size=BATCH_SIZE)
            logits_RS = self.shares[0] * logits_RS + self.shares[1] * of_ngrams.double().numpy()
        if self.merged is not None:
            logits_RH = torch.from_numpy(logits_RS)
            logits_RS = merged_logits(logits_RH, self.merged, temperature=self.temperature).numpy()
        logits_RC: Array = logits_RS @ matching_CS.T / self.temperature
        return logits_RC


def load_start(name: str) -> Start | None:
    """Load a classifier to start from; None if the run is a language model.

    Args:
        name: ``starter``, or a run folder.

    Raises:
        RunError: not a run folder, or the installation has no starter.
        CheckpointError: the run is damaged.

    Example::

        start = load_start("starter")
    """
    path = run_path(name)
    folder = RunFolder(path)
    checkpoint = folder.load(BEST, of_classifier(path))
    labels = classes_of_run(folder.path / "labels.json")[0]
    if not labels:
        return None
    config = read_config(path / "config.yaml")
    facts = checkpoint.facts_as(BestFacts)
    calibration, classes = facts.calibration, network_classes(checkpoint.facts, labels)
    try:
        weights = checkpoint.tensors["model"]
        vocabulary = Vocabulary(vocabulary_of(path / "vocabulary.json", known_tokens(weights)))
        sizes = {"subwords": config.text.subwords, **dataclasses.asdict(config.model)}
        check_weights(weights, network_shapes(len(vocabulary), classes, **sizes))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is malformed: {error}") from None
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode() + weights[key].numpy().tobytes())
    wide = "lstm.embedding.weight" in weights
    of_lstm = {key.removeprefix("lstm."): weights[key] for key in weights if key.startswith("lstm.")}
    return Start(
        name=name if is_starter(name) else str(path),
        labels=list(labels),
        vocabulary=vocabulary,
        config=config,
        weights=of_lstm if wide else weights,
        temperature=calibration.temperature if calibration else 1.0,
        sha256=digest.hexdigest(),
        merged=facts.merged,
        **(_linear_branch(weights, config, vocabulary, classes) if wide else {}),
    )


def _linear_branch(
    weights: Mapping[str, Tensor], config: Config, vocabulary: Vocabulary, classes: int
) -> dict[str, Any]:
    """Return the linear branch of a classifier, and the shares of both branches."""
    branch = KINDS[config.model.ngram_kind](len(vocabulary), classes, buckets=config.model.ngrams)
    prefix = "ngrams."
    branch.load_state_dict(
        {key.removeprefix(prefix): of for key, of in weights.items() if key.startswith(prefix)}
    )
    of_lstm, of_ngrams = weights["shares"].tolist()
    return {"ngrams": branch.requires_grad_(requires_grad=False), "shares": (of_lstm, of_ngrams)}
