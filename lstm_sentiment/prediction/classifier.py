"""Prediction API: load a run, get labels and probabilities.

Legend: R texts, B texts of a batch, T padded length, N tokens of all texts, X unknown
tokens, K places per spelt token, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from lstm_sentiment.checkpoints.expected import network_classes, of_classifier
from lstm_sentiment.checkpoints.run_folder import BEST, LINEAR, SHARED_FILES, RunFolder
from lstm_sentiment.checkpoints.run_paths import run_path
from lstm_sentiment.checkpoints.self_test import check_self_test
from lstm_sentiment.checkpoints.tensors import check_weights, known_tokens
from lstm_sentiment.checkpoints.untrusted_files import classes_of_run, vocabulary_of
from lstm_sentiment.config.command_line import read_config
from lstm_sentiment.config.network_shapes import network_shapes
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.dataset import TextDataset, padded_length
from lstm_sentiment.data.token_store import TokenStore
from lstm_sentiment.errors import CheckpointError, ConfigError, RunError
from lstm_sentiment.evaluation.calibration import Calibration
from lstm_sentiment.models.network import MergedClasses, Network, lstm_of, new_network, unmerged
from lstm_sentiment.models.precision import set_precision
from lstm_sentiment.prediction.hub import Published
from lstm_sentiment.prediction.linear_models import branch_alone, linear_alone
from lstm_sentiment.prediction.pickling import reduce_classifier
from lstm_sentiment.prediction.types import PredictedArrays, Prediction, Reading, given_texts, predictions_of
from lstm_sentiment.records.checkpoint_facts import BestFacts, SavedBranch
from lstm_sentiment.streaming.stream import Stream
from lstm_sentiment.system.consistent_reads import settled
from lstm_sentiment.system.devices import pick_device
from lstm_sentiment.text.encoder import Encoder, cut
from lstm_sentiment.text.portions import bytes_of, portions
from lstm_sentiment.text.spelling import spell
from lstm_sentiment.text.tokenization import PAD, number_unknown
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer, Vocabulary, count_unknown

if TYPE_CHECKING:
    from lstm_sentiment.explanation.attribution import Explanation

TEXTS_AT_ONCE = 8192  # texts held in memory at a time
BYTES_AT_ONCE = 4 << 20  # of texts held in memory at a time
TOKENS_AT_ONCE = 16_384  # padded tokens of one batch
MANY = 16  # texts from which on they are encoded as arrays

Probabilities = npt.NDArray[np.float64]


def load(run: str | Path, *, device: str = "auto", precision: str = "fp32") -> SentimentClassifier:
    """Load the best checkpoint of a run.

    Args:
        run: a run folder, or ``starter`` for the model included in the package; a folder of that name is
            ``./starter``. Of a folder of ``train --seeds``, the run with the best validation score.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: of the LSTM's products: fp32, or on CPUs with AVX512-BF16 bf16 (see `precision`).

    Raises:
        RunError: not a run folder; this installation has no starter.
        CheckpointError: a file is missing or damaged; the message names it.
        ConfigError: the device or the precision is not available.

    Example::

        classifier = lstm_sentiment.load("starter")
        classifier.predict(["Unbelievable service"])[0].label
    """
    classifier = read_run(run, device=device)
    try:
        check_self_test(classifier.proof, classifier.predict_logits, device=classifier.device, name=str(run))
    except CheckpointError as error:
        raise CheckpointError(f"{run}: {error}") from None
    set_precision(classifier.model, precision, classifier.device)
    return classifier


def read_run(run: str | Path, *, device: str = "auto") -> SentimentClassifier:
    """Load a run like `load`, without the self-test."""
    path = run_path(run)
    shared = (path / name for name in SHARED_FILES)
    return settled(lambda: _read_run(run, path, device), *shared, strict=True)


def _read_run(run: str | Path, path: Path, device: str) -> SentimentClassifier:
    folder = RunFolder(path)
    checkpoint = folder.load(BEST, of_classifier(path))  # checks the sha256 of all files it depends on
    labels, label_map = classes_of_run(folder.path / "labels.json")
    if not labels:
        raise RunError(f"{run}: is a language model; train a classifier from it: train --pretrained {run}")
    config = read_config(folder.path / "config.yaml")
    facts = checkpoint.facts_as(BestFacts)
    try:
        weights = checkpoint.tensors["model"]
        vocabulary = Vocabulary(vocabulary_of(folder.path / "vocabulary.json", known_tokens(weights)))
        sizes = {"subwords": config.text.subwords, **asdict(config.model)}
        classes = network_classes(checkpoint.facts, labels)
        check_weights(weights, network_shapes(len(vocabulary), classes, **sizes))
        classifier = SentimentClassifier(
            labels=labels,
            vocabulary=vocabulary,
            config=config,
            weights=weights,
            calibration=Calibration(**asdict(facts.calibration)) if facts.calibration else None,
            device=device,
            merged=facts.merged,
        )
    except (CheckpointError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder.path}: weights, vocabulary and configuration do not fit: {' '.join(str(error).split())}"
        ) from None
    classifier.label_map = label_map
    classifier.proof, classifier.run, classifier.linear = facts.proof, folder.path, facts.linear
    classifier.branches = facts.branches or {}
    return classifier


class SentimentClassifier(Published):
    """A trained classifier; create one with `load` or `from_pretrained`.

    A text's prediction does not depend on the other texts, their order or the batch size.

    Args:
        labels: class names.
        vocabulary: known tokens.
        config: of the run.
        weights: of the model; None for random ones.
        calibration: temperature and conformal thresholds.
        device: to compute on.
        merged: for each class of the network its place in `labels`, if some were merged; None if not.

    Raises:
        RuntimeError: the weights do not match the configuration.
    """

    def __init__(
        self,
        *,
        labels: list[str],
        vocabulary: Vocabulary,
        config: Config,
        weights: Mapping[str, torch.Tensor] | None = None,
        calibration: Calibration | None = None,
        device: str = "auto",
        merged: Sequence[int] | None = None,
    ) -> None:
        self.labels = labels
        self.label_map: dict[str, str | None] = {label: label for label in labels}
        self.vocabulary = vocabulary
        self.proof: Any = None  # see `self_test`
        self.run: Path | None = None  # the folder it was loaded from, for `save_pretrained`
        self.linear: SavedBranch | None = None  # of the linear branch alone
        self.branches: dict[str, SavedBranch] = {}  # of other branches alone
        self.config = config
        self.merged = merged
        self.device = pick_device(device)
        network = new_network(
            vocabulary,
            self.network_classes,
            subwords=config.text.subwords,
            initial=weights is None,
            **asdict(config.model),
        )
        if weights is not None:
            network.load_state_dict(weights)
        network.to(self.device).eval().requires_grad_(False)
        lstm_of(network).fold_subwords()
        self._use(network, calibration or Calibration())
        text = config.text
        self._tokenizer = Tokenizer(text.tokenizer, lowercase=text.lowercase, normalize=text.normalize)
        self._encode = Encoder(
            vocabulary.ids,
            lowercase=text.lowercase,
            max_tokens=text.max_tokens,
            truncate=text.truncate,
            subwords=text.subwords,
            normalize=text.normalize,
            tokenize=None if text.tokenizer == "words" else self._tokenizer,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return reduce_classifier(self)

    def __copy__(self) -> SentimentClassifier:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    @property
    def network_classes(self) -> int:
        """The number of classes of the network: more than of `labels` if some were merged."""
        return len(self.labels if self.merged is None else self.merged)

    def _use(self, network: Network, calibration: Calibration) -> None:
        """Predict with a network and a calibration; merged classes are added at its temperature."""
        self.model: Network | MergedClasses = network
        self.calibration = calibration
        if self.merged is not None:
            self.model = MergedClasses(network, self.merged, temperature=calibration.temperature)

    def reencoded(self, dataset: TextDataset) -> TextDataset:
        """Return rows encoded with this classifier's vocabulary and truncation; tokenizers must be equal.

        Example::

            logits_RC = predict_logits(classifier.model, classifier.reencoded(corpus.validation), ...)
        """
        text = self.config.text
        return TextDataset(
            dataset.store,
            dataset.rows,
            dataset.labels,
            vocabulary=self.vocabulary,
            max_tokens=text.max_tokens,
            truncate=text.truncate,
            subwords=text.subwords,
        )

    def keep_branch(self, name: str) -> None:
        """Use only one branch of the model from now on.

        Args:
            name: ``lstm`` or ``ngrams`` (see `network`), or ``linear``: the linear baseline of the run. Each
                has a calibration of its own, as metrics.json scores it (see `linear_models.branch_alone`).

        Raises:
            ConfigError: the model has no such branch, or the run no linear model.
            CheckpointError: the linear model is damaged.

        Example::

            classifier = lstm_sentiment.load("runs/sentiment")
            classifier.keep_branch("lstm")
        """
        if name == LINEAR:
            alone, calibration = linear_alone(self, unmerged(self.model))
            own = replace(self.config.model, ngrams=alone.ngrams.buckets, ngram_kind="tfidf")
            self.config = replace(self.config, model=own)
            self._use(alone, calibration)
            return
        self._use(*branch_alone(self, unmerged(self.model), name))

    def predict(
        self,
        texts: str | Iterable[str | None],
        *,
        coverage: float | None = None,
        abstain_below: float = 0.0,
        details: bool = False,
        on_missing: str = "raise",
    ) -> list[Prediction]:
        """Return one `Prediction` per text, in the order given; one string counts as one text.

        A text without a token, such as an empty one, is marked as `unread`.

        Args:
            texts: a list, an array, a column of a table, a generator.
            coverage: also return the conformal prediction set at this coverage (see `Calibration`).
            abstain_below: return no label if its probability is lower.
            details: also return the share of unknown tokens and the number of truncated ones.
            on_missing: for None, NaN or pandas' NA among the texts: ``raise`` an error that names the row,
                ``skip`` it, so that there are fewer predictions than texts, or ``null`` for a prediction
                with the label None.

        Raises:
            DataError: not strings, such as a table of several columns; a missing text.
            CheckpointError: the model's output is non-finite.
            ConfigError: a coverage or probability is not between 0 and 1; an unknown `on_missing`.

        Example::

            classifier.predict(["good", None], on_missing="null")[1].label  # None
        """
        self.check_options(coverage, abstain_below)
        found = self.predict_arrays(texts, coverage=coverage, counted=details, on_missing=on_missing)
        most = self.config.text.max_tokens if details else None
        predictions = predictions_of(found, self.labels, abstain_below, max_tokens=most)
        for place in found.missing if on_missing == "null" else ():
            predictions.insert(place, Prediction.of_missing(self.labels))
        return predictions

    def predict_arrays(
        self,
        texts: str | Iterable[str | None],
        *,
        coverage: float | None = None,
        counted: bool = False,
        on_missing: str = "raise",
    ) -> PredictedArrays:
        """Return predictions as arrays, for tables; arguments and errors as in `predict` and `read`.

        Example::

            classifier.predict_arrays(texts).probabilities_RC.argmax(axis=1)
        """
        self.check_options(coverage, 0.0)
        missing: list[int] = []
        read = self.read(given_texts(texts, on_missing, missing), counted=counted)
        return self._arrays(read, coverage, missing)

    def explain(self, text: str, *, method: str = "auto") -> Explanation:
        """Return the attribution of each token of a text to each class, with its faithfulness.

        Costs about as much as predicting a text for each token; integrated gradients some hundred more.

        Args:
            text: any string; long texts are truncated first.
            method: integrated_gradients, which needs the extra ``explain``; occlusion, which replaces one
                token at a time by the unknown token; auto: the first if it is installed.

        Raises:
            DataError: the text is not a string.
            ConfigError: unknown method.
            MissingExtraError: integrated_gradients without its package.

        >>> import lstm_sentiment
        >>> found = lstm_sentiment.load("starter", device="cpu").explain("The crew was rude")
        >>> found.label, found.tokens, found.attributions.shape
        ('negative', ['the', 'crew', 'was', 'rude'], (4, 3))
        >>> found.tokens[found.attributions[:, found.labels.index("negative")].argmax()]
        'rude'
        >>> found.faithfulness > 0.05
        True
        """
        from lstm_sentiment.explanation.attribution import explain  # imports scipy: not to predict

        return explain(self, text, method=method)

    def predict_proba(self, texts: str | Iterable[str | None], *, on_missing: str = "raise") -> Probabilities:
        """Return probabilities (R, C): a row per text in the given order, columns as in `labels`.

        Args:
            texts: a list, an array, a column of a table, a generator.
            on_missing: as in `predict`; with ``null`` the row of a missing text is NaN.

        Raises:
            DataError: not strings, such as a table of several columns; a missing text.
        """
        found = self.predict_arrays(texts, on_missing=on_missing)
        if on_missing != "null":
            return found.probabilities_RC
        places = np.array(found.missing, int) - np.arange(len(found.missing))
        return np.insert(found.probabilities_RC, places, np.nan, axis=0)

    def predict_logits(self, texts: str | Iterable[str]) -> npt.NDArray[np.float64]:
        """Return the model's logits (R, C), before calibration.

        Raises:
            DataError: not strings, such as a table of several columns.
        """
        return self.read(texts).logits_RC

    def read(self, texts: str | Iterable[str], *, counted: bool = False) -> Reading:
        """Return the logits of texts before calibration, and their numbers of tokens.

        Args:
            texts: a list, an array, a column of a table, a generator.
            counted: whether all numbers are needed; otherwise only 0 tokens are exact.

        Raises:
            DataError: not strings, such as a table of several columns.

        Example::

            read = classifier.read(texts, counted=True)
            read.unknown_R.sum() / read.tokens_R.sum()
        """
        checked = given_texts(texts, "raise", [])
        some = portions(checked, most=TEXTS_AT_ONCE, size=BYTES_AT_ONCE, of=bytes_of)
        parts = [
            self._read_many(part) if len(part) >= MANY else self._read_few(part, counted) for part in some
        ]
        if not parts:
            nothing = np.zeros(0, np.int64)
            return Reading(logits_RC=np.zeros((0, len(self.labels))), tokens_R=nothing, unknown_R=nothing)
        if len(parts) == 1:
            return parts[0]
        fields = ("logits_RC", "tokens_R", "unknown_R")
        return Reading(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in fields})

    def encode(self, texts: list[str]) -> tuple[list[list[int]], torch.Tensor]:
        """Return the model's input: token ids of each text, and subword ids of unknown tokens (X, K)."""
        rows, unknown = number_unknown([self._encode(text) for text in texts], len(self.vocabulary))
        return rows, torch.from_numpy(spell(unknown, self.config.text.subwords))

    @property
    def tokenizer(self) -> Tokenizer:
        """How the run splits a text into tokens."""
        return self._tokenizer

    def tokens(self, text: str) -> list[str]:
        """Return a text's tokens as the model reads them, truncated; none for an empty text."""
        tokens = self._tokenizer(text)
        return cut(tokens, self.config.text.max_tokens, self.config.text.truncate)

    def cut_tokens(self, text: str) -> int:
        """Return the number of a text's tokens that are truncated."""
        tokens, _ = count_unknown(text, self._tokenizer, self.vocabulary)
        return max(0, tokens - self.config.text.max_tokens)

    @classmethod
    def _from_run(cls, run: Path, device: str) -> SentimentClassifier:
        return load(run, device=device)

    def stream(self, *, coverage: float | None = None, abstain_below: float = 0.0) -> Stream[Prediction]:
        """Return a `Stream`, which predicts after each piece of a text at the cost of that piece.

        Raises:
            ConfigError: the model is bidirectional; its tokenizer needs the whole text; as in `predict`.

        Example::

            stream = classifier.stream()
            labels = [stream.add(f"{caption} ").label for caption in captions]
        """
        self.check_options(coverage, abstain_below)

        def predict(logits_C: torch.Tensor, tokens: int) -> Prediction:
            counts = {"tokens_R": np.array([tokens]), "unknown_R": np.array([0])}
            read = Reading(logits_RC=logits_C[None].double().cpu().numpy(), **counts)
            return predictions_of(self._arrays(read, coverage), self.labels, abstain_below)[0]

        return Stream(self.model, self.vocabulary.ids, self.config.text, device=self.device, predict=predict)

    def check_options(self, coverage: float | None, abstain_below: float) -> None:
        """Raise a ConfigError for options of `predict` that are out of range or not available."""
        if not 0 <= abstain_below <= 1:
            raise ConfigError(f"must lie between 0 and 1, not {abstain_below}", key="abstain_below")
        if coverage is not None:
            self.calibration.check_coverage(coverage)

    def _arrays(self, read: Reading, coverage: float | None, missing: Sequence[int] = ()) -> PredictedArrays:
        try:
            probabilities_RC = self.calibration.probabilities(read.logits_RC)
        except CheckpointError as error:
            raise CheckpointError(f"{self.run or 'the weights given'}: {error}") from None
        sets_RC = None if coverage is None else self.calibration.label_sets(probabilities_RC, coverage)
        counts = {"tokens_R": read.tokens_R, "unknown_R": read.unknown_R}
        return PredictedArrays(probabilities_RC=probabilities_RC, sets_RC=sets_RC, missing=missing, **counts)

    def _read_few(self, texts: list[str], counted: bool) -> Reading:
        """Predict with low latency: without threads, with cached encodings of known pieces."""
        rows, spelling_XK = self.encode(texts)
        counts = [
            count_unknown(text, self._tokenizer, self.vocabulary)
            if counted or len(row) == 1  # it may be that of an empty text
            else (len(row), 0)
            for text, row in zip(texts, rows, strict=True)
        ]
        tokens_R, unknown_R = np.array(counts, np.int64).T
        return Reading(
            logits_RC=self._logits_of_few(rows, spelling_XK), tokens_R=tokens_R, unknown_R=unknown_R
        )

    def _logits_of_few(self, rows: list[list[int]], spelling_XK: torch.Tensor) -> npt.NDArray[np.float64]:
        lengths_B = list(map(len, rows))
        width = padded_length(max(lengths_B))
        tokens_BT = np.array([row + [PAD] * (width - len(row)) for row in rows], np.int64)
        return self._forward(torch.from_numpy(tokens_BT), torch.tensor(lengths_B), spelling_XK)

    def _read_many(self, texts: list[str]) -> Reading:
        """Predict like training: encode all texts as arrays, then batch by length."""
        lexicon = Lexicon(self._tokenizer)
        numbers_N, lengths_R = lexicon.encode(texts)
        text = self.config.text
        dataset = TextDataset(
            TokenStore.in_memory(numbers_N, lengths_R, lexicon.tokens),
            np.arange(len(texts)),
            np.zeros(len(texts), np.int64),
            vocabulary=self.vocabulary,
            max_tokens=text.max_tokens,
            truncate=text.truncate,
            subwords=text.subwords,
        )
        logits_RC = np.empty((len(texts), len(self.labels)))
        order_R = np.argsort(-dataset.lengths, kind="stable")
        start = 0
        while start < len(order_R):
            width = padded_length(int(dataset.lengths[order_R[start]]))
            rows_B = order_R[start : start + max(1, TOKENS_AT_ONCE // width)]
            start += len(rows_B)
            logits_RC[rows_B] = self._forward(*dataset.batch(rows_B).inputs)
        tokens_R, unknown_R = dataset.count_unknown()
        return Reading(logits_RC=logits_RC, tokens_R=tokens_R, unknown_R=unknown_R)

    @torch.inference_mode()
    def _forward(self, *inputs: torch.Tensor) -> npt.NDArray[np.float64]:
        output_BC: torch.Tensor = self.model(*(tensor.to(self.device) for tensor in inputs))
        return output_BC.cpu().numpy().astype(np.float64)
