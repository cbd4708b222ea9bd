"""Token attributions of a prediction, with their faithfulness, and a trace of the LSTM's gates.

**Scores.** The explained quantities are the calibrated logits, less their mean over classes:
``score_C = (logits_C - mean) / temperature``. Their softmax is exactly the classifier's probabilities. An
attribution is a token's contribution to a score, in nats: contributions a to class A and b to class B
multiply the odds of A against B by exp(a - b); 0.69 doubles them.

**The baseline** is the same number of unknown tokens: a text of that length without information. Models see
the unknown token in training (for rare words, and through `model.word_dropout`), but never a zero vector.

**Merged classes** have scores that are not linear in the n-grams: the path of integrated gradients leads from
the n-grams of the baseline to those of the text, too.

Legend: N tokens as the model reads them, C classes, S classes before some were merged, E embedding size, V
variants of the text, T their padded length, P places on a path, K sizes of a removal, O random orders.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from torch import Tensor

from lstm_sentiment.checkpoints.tensors import check_finite
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import ConfigError, DataError, MissingExtraError, did_you_mean
from lstm_sentiment.evaluation.calibration import Calibration
from lstm_sentiment.explanation.gates import GateTrace, look_inside
from lstm_sentiment.models.network import (
    MergedClasses,
    Network,
    WideAndDeep,
    lstm_of,
    merged_logits,
    unmerged,
)
from lstm_sentiment.system.extras import need
from lstm_sentiment.text.encoder import kept_before
from lstm_sentiment.text.spelling import spell
from lstm_sentiment.text.tokenization import UNKNOWN
from lstm_sentiment.text.tokenizers import Vocabulary

METHODS = ("auto", "integrated_gradients", "occlusion")
STEPS = 32  # per interval of the integration path
PATH_TOKENS, INTERVALS = 200_000, (10, 50)  # tokens read per path; bounds of the number of intervals
CLOSE_ENOUGH = 0.005  # completeness gap at which refinement stops, as a share of the score difference
REMOVALS = 20  # most points of a deletion curve
RANDOM_ORDERS = 20
ROUNDING = 1e-6  # of probabilities
TOKENS_AT_ONCE = 16_384  # padded tokens of one batch
MOST_CLASSES = 5  # that are shown; of more, the most probable ones
Array = npt.NDArray[Any]


class Explainable(Protocol):
    """A classifier whose predictions can be explained: `SentimentClassifier`, of a higher layer."""

    labels: list[str]
    vocabulary: Vocabulary
    config: Config
    calibration: Calibration
    device: torch.device
    model: Network | MergedClasses

    def tokens(self, text: str) -> list[str]:
        """Return a text's tokens as the model reads them, truncated."""

    def cut_tokens(self, text: str) -> int:
        """Return the number of truncated tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Removal:
    """Faithfulness: deletion curve of the predicted class (ERASER comprehensiveness; DeYoung et al. 2020).

    Tokens are deleted, so that the text gets shorter; neither method computes attributions in this way.

    Args:
        removed: number of deleted tokens, (K,), from 0 to N.
        guided: probability (K,) without the tokens with the highest attribution to the class.
        random: probability (O, K) without as many tokens, in random orders (seeded).
    """

    removed: Array
    guided: Array
    random: Array

    @property
    def faithfulness(self) -> float | None:
        """Mean difference between the random curves and the guided one, as a probability.

        0 is chance level, 1 the maximum; None with fewer than two tokens.
        """
        inside = slice(1, -1)  # at both ends all orders are equal
        if len(self.removed) < 3:
            return None
        return float((self.random.mean(axis=0) - self.guided)[inside].mean())

    @property
    def worse(self) -> int:
        """Number of random orders with a higher mean than the guided one."""
        return int((self.random.mean(axis=1) > self.guided.mean() + ROUNDING).sum())

    @property
    def better(self) -> int:
        """Number of random orders with a lower mean than the guided one."""
        return int((self.random.mean(axis=1) < self.guided.mean() - ROUNDING).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """Explanation of the prediction for one text (see `explain`).

    Args:
        text: as given.
        labels: class names, C of them.
        method: integrated_gradients or occlusion.
        steps: of the path of integrated gradients; None with occlusion.
        tokens: as read by the model, N of them; none for an empty text, which is read as one unknown token.
        known: whether each token is in the vocabulary.
        cut_tokens: number of truncated tokens.
        cut_at: how many of the tokens come before the truncated ones; None if there are none.
        probabilities: of each class (C,), calibrated.
        attributions: of each token to each class (N, C), nats; they sum to 0 over the classes.
        scores: of each class (C,), see the module's docstring, nats.
        baseline: scores (C,) of as many unknown tokens.
        prefixes: probabilities (N, C) of the text up to and including each token.
        removal: faithfulness of the attributions.
        gates: of each layer and direction, in the order of reading.
        pooled: kind of pooling -> share (N,) of each token's states in it.
    """

    text: str
    labels: list[str]
    method: str
    steps: int | None
    tokens: list[str]
    known: list[bool]
    cut_tokens: int
    cut_at: int | None
    probabilities: Array
    attributions: Array
    scores: Array
    baseline: Array
    prefixes: Array
    removal: Removal
    gates: list[GateTrace]
    pooled: dict[str, Array]

    @property
    def label(self) -> str:
        """The predicted class."""
        return self.labels[int(self.probabilities.argmax())]

    @property
    def faithfulness(self) -> float | None:
        """How much more the prediction depends on tokens of high attribution (see `Removal`)."""
        return self.removal.faithfulness

    @property
    def gap(self) -> Array:
        """Completeness gap (C,), nats: the sum of the attributions minus (scores - baseline).

        With integrated gradients it is the error of the numerical integration, with occlusion the effect of
        interactions between tokens.
        """
        gap_C: Array = self.attributions.sum(axis=0) - (self.scores - self.baseline)
        return gap_C

    def shown_classes(self, label: str) -> list[int]:
        """Return the classes that are shown, in their order: `label` and the most probable ones.

        Example::

            classifier.explain("so-so").shown_classes("positive")
        """
        of_label = self.labels.index(label)
        likely = [int(i) for i in np.argsort(-self.probabilities, kind="stable") if i != of_label]
        return sorted([of_label, *likely[: MOST_CLASSES - 1]])


def explain(classifier: Explainable, text: str, *, method: str = "auto") -> Explanation:
    """Explain a classifier's prediction for one text (also `SentimentClassifier.explain`).

    Costs about as much as predicting N variants of the text, for integrated gradients some hundred more.

    Args:
        classifier: of `lstm_sentiment.load`.
        text: any string; long texts are truncated first.
        method: integrated_gradients (Sundararajan et al. 2017, "Axiomatic attribution for deep networks")
            needs captum; occlusion replaces one token at a time by the unknown token; auto is
            integrated_gradients if captum is installed.

    Raises:
        DataError: the text is not a string.
        ConfigError: unknown method.
        MissingExtraError: integrated_gradients without captum.

    >>> from lstm_sentiment.config.schema import ModelConfig, TextConfig
    >>> from lstm_sentiment.prediction.classifier import SentimentClassifier
    >>> config = Config(model=ModelConfig(embedding_size=4, hidden_size=4), text=TextConfig(subwords=0))
    >>> untrained = SentimentClassifier(labels=["bad", "good"], vocabulary=Vocabulary(["so"]), config=config)
    >>> found = explain(untrained, "so so", method="occlusion")
    >>> found.tokens, found.attributions.shape, [trace.direction for trace in found.gates]
    (['so', 'so'], (2, 2), ['forward', 'backward'])
    """
    if not isinstance(text, str):
        raise DataError(f"a text must be a string, not {type(text).__name__}: {text!r:.60}")
    method = method_named(method)
    reader = _Reader(classifier, classifier.tokens(text))
    tokens, whole_N = reader.tokens, np.arange(len(reader.tokens))
    scores_VC = reader.scores(reader.ends())
    if not tokens:
        attributions_NC, steps = np.zeros((0, len(classifier.labels))), None
    elif method == "occlusion":
        attributions_NC, steps = reader.occluded(scores_VC[0]), None
    else:
        attributions_NC, steps = _integrated_gradients(reader)
    probabilities_C = softmax(scores_VC[0])
    gates, pooled = look_inside(reader.model, reader.vectors[: len(tokens)] if tokens else reader.vectors)
    if not tokens:  # the unknown token that was read is not part of the text
        gates, pooled = [], {}
    return Explanation(
        text=text,
        labels=classifier.labels,
        method=method,
        steps=steps,
        tokens=tokens,
        known=[i != UNKNOWN for i in classifier.vocabulary.encode(tokens)],
        **_cut(classifier, text),
        probabilities=probabilities_C,
        attributions=attributions_NC,
        scores=scores_VC[0],
        baseline=scores_VC[1],
        prefixes=softmax(reader.scores([whole_N[: n + 1] for n in whole_N]), axis=1),
        removal=_remove(reader, attributions_NC, int(probabilities_C.argmax())),
        gates=gates,
        pooled=pooled,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveReading:
    """The parts of an `Explanation` that are fast enough to follow typing; attributions are by occlusion.

    Args:
        tokens: as read by the model, N of them.
        known: whether each token is in the vocabulary.
        cut_tokens: number of truncated tokens.
        cut_at: how many of the tokens come before the truncated ones; None if there are none.
        attributions: of each token to each class (N, C), nats.
        prefixes: probabilities (N, C) of the text up to and including each token.
        gates: of each layer and direction, in the order of reading; none for an empty text.
    """

    tokens: list[str]
    known: list[bool]
    cut_tokens: int
    cut_at: int | None
    attributions: Array
    prefixes: Array
    gates: list[GateTrace]


def read_live(classifier: Explainable, text: str) -> LiveReading:
    """Return how a classifier reads a text, at the cost of predicting it 2 N times.

    >>> from lstm_sentiment.config.schema import ModelConfig, TextConfig
    >>> from lstm_sentiment.prediction.classifier import SentimentClassifier
    >>> config = Config(model=ModelConfig(embedding_size=4, hidden_size=4), text=TextConfig(subwords=0))
    >>> untrained = SentimentClassifier(labels=["bad", "good"], vocabulary=Vocabulary(["so"]), config=config)
    >>> live, found = read_live(untrained, "so so"), explain(untrained, "so so", method="occlusion")
    >>> bool((live.attributions == found.attributions).all() and (live.prefixes == found.prefixes).all())
    True
    """
    reader = _Reader(classifier, classifier.tokens(text))
    tokens, whole_N = reader.tokens, np.arange(len(reader.tokens))
    attributions_NC = prefixes_NC = np.zeros((0, len(classifier.labels)))
    gates: list[GateTrace] = []
    if tokens:
        attributions_NC = reader.occluded(reader.scores(reader.ends())[0])
        prefixes_NC = softmax(reader.scores([whole_N[: n + 1] for n in whole_N]), axis=1)
        gates, _ = look_inside(reader.model, reader.vectors[: len(tokens)])
    return LiveReading(
        tokens=tokens,
        known=[i != UNKNOWN for i in classifier.vocabulary.encode(tokens)],
        **_cut(classifier, text),
        attributions=attributions_NC,
        prefixes=prefixes_NC,
        gates=gates,
    )


def _cut(classifier: Explainable, text: str) -> dict[str, Any]:
    """Return how many tokens of a text are truncated, and where they would be."""
    cut_tokens, settings = classifier.cut_tokens(text), classifier.config.text
    place = kept_before(settings.max_tokens, settings.truncate) if cut_tokens else None
    return {"cut_tokens": cut_tokens, "cut_at": place}


def method_named(name: str) -> str:
    """Return the method of a name: ``auto`` is integrated_gradients if its package is installed.

    Raises:
        ConfigError: unknown method.

    >>> method_named("occlusion")
    'occlusion'
    """
    if name not in METHODS:
        raise ConfigError(
            f"'{name}' is not one of {', '.join(METHODS)}.{did_you_mean(name, METHODS)}", key="method"
        )
    if name == "auto":
        try:
            need("captum.attr", extra="explain")
        except MissingExtraError:
            return "occlusion"
        return "integrated_gradients"
    return name


class _Reader:
    """Scores of variants of one text, each a selection of its tokens, on the CPU.

    Args:
        classifier: to score with.
        tokens: of the text, as the model reads them.
    """

    def __init__(self, classifier: Explainable, tokens: list[str]) -> None:
        on_cpu = classifier.device.type == "cpu"
        shown = classifier.model if on_cpu else copy.deepcopy(classifier.model).cpu()
        network, self.merged = unmerged(shown), shown.merged if isinstance(shown, MergedClasses) else None
        self.model, self.ngrams = (
            lstm_of(network),
            network.ngrams if isinstance(network, WideAndDeep) else None,
        )
        self.shares = network.shares if isinstance(network, WideAndDeep) else torch.ones(1)
        self.labels = len(classifier.labels)
        self.temperature = classifier.calibration.temperature
        self.tokens = tokens
        self.unknown = len(tokens)  # row of `vectors` of the baseline
        ids = [*classifier.vocabulary.encode(tokens), UNKNOWN]
        spelling_XK = None
        if classifier.config.text.subwords:  # unknown tokens have subword vectors
            spelt = [n for n in range(len(tokens)) if ids[n] == UNKNOWN]
            for x, n in enumerate(spelt):
                ids[n] = len(classifier.vocabulary) + x
            of_spelt = spell([tokens[n] for n in spelt], classifier.config.text.subwords)
            spelling_XK = torch.from_numpy(of_spelt)
        self.ids = torch.tensor(ids)
        with torch.no_grad():
            self.vectors = self.model.look_up(self.ids[:, None], spelling_XK)[:, 0]

    def ends(self) -> list[Array]:
        """Return the text and its baseline."""
        return [np.arange(len(self.tokens)), np.full(len(self.tokens), self.unknown)]

    @torch.no_grad()
    def scores(self, variants: Sequence[Array]) -> Array:
        """Return the scores (V, C) of variants, each given as rows of `vectors`."""
        filled = [rows if len(rows) else np.array([self.unknown]) for rows in variants]  # the empty text
        scores = [np.zeros((0, self.labels))]
        per_batch = max(1, TOKENS_AT_ONCE // max(map(len, filled), default=1))
        for start in range(0, len(filled), per_batch):
            batch = [torch.from_numpy(rows) for rows in filled[start : start + per_batch]]
            rows_TB = torch.nn.utils.rnn.pad_sequence(batch, padding_value=self.unknown)
            lengths_B = torch.tensor([len(rows) for rows in batch])
            scores_BS = self.score(self.vectors[rows_TB], lengths_B)
            if self.ngrams is not None:
                scores_BS += self._scaled(self.ngrams(self.ids[rows_TB].t(), lengths_B), self.shares[1])
            scores.append(self.of_classes(scores_BS).double().numpy())
            check_finite(scores[-1])
        return np.concatenate(scores)

    def occluded(self, scores_C: Array) -> Array:
        """Return what the scores of the text lose without each token, (N, C)."""
        whole_N = np.arange(len(self.tokens))
        without_NN = np.where(np.eye(len(whole_N), dtype=bool), self.unknown, whole_N)  # one token a row
        return np.asarray(scores_C - self.scores(list(without_NN)))

    def score(self, vectors_TBE: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the LSTM's part of the scores (B, S) of embedded texts, differentiable."""
        return self._scaled(self.model.logits_of(vectors_TBE, lengths_B), self.shares[0])

    def of_classes(self, scores_BS: Tensor) -> Tensor:
        """Return the scores (B, C) of the classes that are shown, differentiable."""
        if self.merged is None:
            return scores_BS
        scores_BC = merged_logits(scores_BS, self.merged, temperature=1.0)
        return scores_BC - scores_BC.mean(dim=1, keepdim=True)

    def path_ends(self) -> list[tuple[Tensor, Tensor]]:
        """Return the text's and the baseline's values of what changes on the path of integrated gradients.

        These are the vectors (N, E) and, if classes were merged, the wide branch's part of the scores (N, S).
        """
        ends = [(self.vectors[:-1], self.vectors[-1].expand_as(self.vectors[:-1]))]
        if self.ngrams is None or self.merged is None:
            return ends
        text_NS, baseline_S = (self._scaled(part, self.shares[1]) for part in self._of_ngrams())
        return [*ends, (text_NS, baseline_S.expand_as(text_NS))]

    def on_path(self, vectors_PNE: Tensor, ngrams_PNS: Tensor | None = None) -> Tensor:
        """Return the scores (P, C) at places on the path, given values between those of `path_ends`."""
        places, tokens = vectors_PNE.shape[:2]
        scores_PS = self.score(vectors_PNE.transpose(0, 1), torch.full((places,), tokens))
        if self.ngrams is not None and ngrams_PNS is not None:
            of_bias_1S = self._scaled(self.ngrams.bias[None], self.shares[1])
            scores_PS = scores_PS + ngrams_PNS.sum(dim=1) + of_bias_1S
        return self.of_classes(scores_PS)

    def ngram_attributions(self) -> Array:
        """Return the wide branch's part of the attributions (N, C), complete; 0 if it is on the path.

        The baseline's score is subtracted from all tokens evenly.
        """
        if self.ngrams is None or self.merged is not None:
            return np.zeros((len(self.tokens), self.labels))
        text_NC, baseline_1C = self._of_ngrams()
        return self._scaled(text_NC - baseline_1C, self.shares[1]).double().numpy()

    def _of_ngrams(self) -> tuple[Tensor, Tensor]:
        """Return the contributions of the text's n-grams (N, S), and of the baseline's, their mean (1, S)."""
        assert self.ngrams is not None
        text, baseline = self.ends()
        text_NS, baseline_NS = (
            self.ngrams.contributions(self.ids[torch.from_numpy(rows)]) for rows in (text, baseline)
        )
        return text_NS, baseline_NS.sum(dim=0, keepdim=True) / len(self.tokens)

    def _scaled(self, logits_BC: Tensor, share: Tensor) -> Tensor:
        return (logits_BC - logits_BC.mean(dim=1, keepdim=True)) * share / self.temperature


def _integrated_gradients(reader: _Reader) -> tuple[Array, int]:
    """Return the attributions (N, C), and the number of steps on the path from the baseline to the text.

    On each interval of the path, attributions should sum to the difference of the scores at its ends. The
    interval with the largest error is bisected until the total error is small: on long texts most of the
    change happens in a small part of the path.
    """
    of_path = need("captum.attr", extra="explain").IntegratedGradients(reader.on_path)
    ends, tokens, classes = reader.path_ends(), len(reader.tokens), reader.labels

    def interval(start: float, end: float) -> tuple[float, float, float, Array]:
        """Return the error of an interval, its ends, and its attributions (N, C)."""
        before, after = (
            tuple(torch.lerp(baseline, text, share)[None] for text, baseline in ends)
            for share in (start, end)
        )
        with torch.no_grad():
            ends_2C = torch.cat([reader.on_path(*at) for at in (before, after)])
        explained_C = (ends_2C[1] - ends_2C[0]).double().numpy()
        attributions_CN = []
        for c in range(classes - 1):
            of_inputs = of_path.attribute(
                tuple(values.requires_grad_() for values in after),
                before,
                target=c,
                n_steps=STEPS,
                internal_batch_size=max(1, TOKENS_AT_ONCE // tokens),
            )
            attributions_CN.append(sum(of[0].detach().double().sum(dim=1).numpy() for of in of_inputs))
        last_N = -np.sum(attributions_CN, axis=0)  # scores sum to 0
        attributions_NC = np.stack([*attributions_CN, last_N], axis=1)
        error = float(np.abs(attributions_NC.sum(axis=0) - explained_C).max())
        return error, start, end, attributions_NC

    intervals = [interval(0.0, 1.0)]
    most = np.clip(PATH_TOKENS // (STEPS * tokens), *INTERVALS)
    explained = float(np.abs(np.subtract(*reader.scores(reader.ends()))).max())
    enough = max(CLOSE_ENOUGH * explained, 1e-4)  # smaller gaps are rounding
    while sum(miss for miss, *_ in intervals) > enough and len(intervals) < most:
        intervals.sort(key=lambda found: found[0])
        _, start, end, _ = intervals.pop()
        middle = (start + end) / 2
        intervals += [interval(start, middle), interval(middle, end)]
    attributions_NC = np.sum([attributions_NC for *_, attributions_NC in intervals], axis=0)
    return attributions_NC + reader.ngram_attributions(), STEPS * len(intervals)


def _remove(reader: _Reader, attributions_NC: Array, label: int) -> Removal:
    """Delete tokens by descending attribution, and in random orders."""
    tokens = len(attributions_NC)
    removed_K = np.unique(np.linspace(0, tokens, min(tokens, REMOVALS) + 1).round().astype(int))
    random = np.random.default_rng(0)
    guided_N = np.argsort(-attributions_NC[:, label], kind="stable")
    orders = [guided_N, *(random.permutation(tokens) for _ in range(RANDOM_ORDERS))]
    variants = [np.sort(order_N[k:]) for order_N in orders for k in removed_K]
    chances = softmax(reader.scores(variants), axis=1)[:, label].reshape(len(orders), len(removed_K))
    return Removal(removed=removed_K, guided=chances[0], random=chances[1:])
