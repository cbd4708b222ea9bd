"""Why a classifier answered as it did: what each token pushed towards, and how the text was read.

**Scores.** What is explained are the classes' calibrated logits, less their mean over the classes:
``score_C = (logits_C - mean) / temperature``. Their softmax is exactly the probabilities that the
classifier gives, and nothing in them is without effect. A push is a part of a score, in nats: a token
that pushes class A by a and class B by b multiplies the odds of A against B by exp(a - b); 0.69 doubles.

**The baseline** is the same number of unknown tokens: a text of that length that says nothing. Models
meet the unknown token in training (rare words, and `model.word_dropout` puts it in the place of others),
a vector of zeros they never do.

Legend: N tokens as the model reads them, C classes, E embedding size, V variants of the text, T their
padded length, S steps of a path, K sizes of a removal, O random orders.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from torch import Tensor

from lstm_sentiment.checkpoints.tensors import check_finite
from lstm_sentiment.errors import ConfigError, DataError, MissingExtraError, did_you_mean
from lstm_sentiment.explanation.gates import GateTrace, look_inside
from lstm_sentiment.models.network import WideAndDeep, lstm_of
from lstm_sentiment.prediction.classifier import TOKENS_AT_ONCE, SentimentClassifier
from lstm_sentiment.system.extras import need
from lstm_sentiment.text.tokenization import UNKNOWN, spell

METHODS = ("auto", "integrated_gradients", "occlusion")
STEPS = 32  # of a stretch of the path of integrated gradients
PATH_TOKENS, STRETCHES = 200_000, (10, 50)  # read on a path, for long texts; at the most, fewest and most
CLOSE_ENOUGH = 0.005  # completeness gap at which no more steps are taken, as a share of what is explained
REMOVALS = 20  # sizes of a removal at the most
RANDOM_ORDERS = 20
ROUNDING = 1e-6  # of probabilities
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Removal:
    """How the predicted class's probability falls as tokens are taken out: is it true?

    Tokens are taken out for good, so that the text gets shorter: another deed than what either method
    measures by. (DeYoung et al. 2020, "ERASER", call the guided curve comprehensiveness.)

    Args:
        removed: how many tokens, (K,), from 0 to N.
        guided: probability (K,) without those that push most towards the class.
        random: probability (O, K) without as many tokens, in random orders (seeded).
    """

    removed: Array
    guided: Array
    random: Array

    @property
    def faithfulness(self) -> float | None:
        """How much lower the guided curve lies than the random ones on average, as a probability.

        0 is no better than chance, 1 the most there can be; None where no order is better than
        another, as with one token.
        """
        inside = slice(1, -1)  # with nothing or everything removed, all orders are the same
        if len(self.removed) < 3:
            return None
        return float((self.random.mean(axis=0) - self.guided)[inside].mean())

    @property
    def worse(self) -> int:
        """Random orders whose curve lies higher than the guided one on average."""
        return int((self.random.mean(axis=1) > self.guided.mean() + ROUNDING).sum())

    @property
    def better(self) -> int:
        """Random orders whose curve lies lower than the guided one on average."""
        return int((self.random.mean(axis=1) < self.guided.mean() - ROUNDING).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What `explain` found about one text.

    Args:
        text: as given.
        labels: class names, C of them.
        method: integrated_gradients or occlusion.
        steps: of the path of integrated gradients; None with occlusion.
        tokens: as the model read them, N of them; none for an empty text, which is read as one unknown token.
        known: whether each token is in the vocabulary.
        cut_tokens: tokens of the text that the model did not read.
        probabilities: of each class (C,), calibrated.
        pushes: of each token towards each class (N, C), nats.
        scores: of each class (C,), see the module's head, nats.
        baseline: scores (C,) of as many unknown tokens.
        prefixes: probabilities (N, C) of the text up to and with each token.
        removal: whether the pushes are true.
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
    probabilities: Array
    pushes: Array
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
    def gap(self) -> Array:
        """Completeness gap (C,), nats: the sum of the pushes less what they explain, scores - baseline.

        With integrated gradients it is an error of the numerical integral. With occlusion it is what
        tokens do together and not one by one.
        """
        gap_C: Array = self.pushes.sum(axis=0) - (self.scores - self.baseline)
        return gap_C


def explain(classifier: SentimentClassifier, text: str, *, method: str = "auto") -> Explanation:
    """Explain a classifier's answer for one text.

    Costs about as much as answering N variants of the text, for integrated gradients some hundred more.

    Args:
        classifier: of `lstm_sentiment.load`.
        text: any string; what is longer than the model reads is cut first.
        method: integrated_gradients (Sundararajan et al. 2017, "Axiomatic attribution for deep networks")
            takes captum; occlusion replaces one token at a time by the unknown token, and takes nothing;
            auto takes the first where it is installed.

    Raises:
        DataError: something that is no string.
        ConfigError: another method.
        MissingExtraError: integrated_gradients without captum.

    >>> from lstm_sentiment.config.schema import Config, ModelConfig, TextConfig
    >>> from lstm_sentiment.text.tokenizers import Vocabulary
    >>> config = Config(model=ModelConfig(embedding_size=4, hidden_size=4), text=TextConfig(subwords=0))
    >>> untrained = SentimentClassifier(labels=["bad", "good"], vocabulary=Vocabulary(["so"]), config=config)
    >>> found = explain(untrained, "so so", method="occlusion")
    >>> found.tokens, found.pushes.shape, [trace.direction for trace in found.gates]
    (['so', 'so'], (2, 2), ['forward', 'backward'])
    """
    if not isinstance(text, str):
        raise DataError(f"a text must be a string, not {type(text).__name__}: {text!r:.60}")
    method = _method(method)
    reader = _Reader(classifier, classifier.tokens(text))
    tokens, whole_N = reader.tokens, np.arange(len(reader.tokens))
    scores_VC = reader.scores(reader.ends())
    if not tokens:
        pushes_NC, steps = np.zeros((0, len(classifier.labels))), None
    elif method == "occlusion":
        without_NN = np.where(np.eye(len(tokens), dtype=bool), reader.unknown, whole_N)  # one token a row
        pushes_NC, steps = scores_VC[0] - reader.scores(list(without_NN)), None
    else:
        pushes_NC, steps = _integrated_gradients(reader)
    probabilities_C = softmax(scores_VC[0])
    gates, pooled = look_inside(reader.model, reader.vectors[: len(tokens)] if tokens else reader.vectors)
    if not tokens:  # what was read stands for no token
        gates, pooled = [], {}
    details = classifier.predict(text, details=True)[0]
    return Explanation(
        text=text,
        labels=classifier.labels,
        method=method,
        steps=steps,
        tokens=tokens,
        known=[i != UNKNOWN for i in classifier.vocabulary.encode(tokens)],
        cut_tokens=details.cut_tokens or 0,
        probabilities=probabilities_C,
        pushes=pushes_NC,
        scores=scores_VC[0],
        baseline=scores_VC[1],
        prefixes=softmax(reader.scores([whole_N[: n + 1] for n in whole_N]), axis=1),
        removal=_remove(reader, pushes_NC, int(probabilities_C.argmax())),
        gates=gates,
        pooled=pooled,
    )


def _method(name: str) -> str:
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
        classifier: whose answers these are.
        tokens: the text's, as the model reads them.
    """

    def __init__(self, classifier: SentimentClassifier, tokens: list[str]) -> None:
        on_cpu = classifier.device.type == "cpu"
        network = classifier.model if on_cpu else copy.deepcopy(classifier.model).cpu()
        self.model, self.ngrams = (
            lstm_of(network),
            network.ngrams if isinstance(network, WideAndDeep) else None,
        )
        self.shares = network.shares if isinstance(network, WideAndDeep) else torch.ones(1)
        self.labels = len(classifier.labels)
        self.temperature = classifier.calibration.temperature
        self.tokens = tokens
        self.unknown = len(tokens)  # the row of `vectors` that says nothing
        ids = [*classifier.vocabulary.encode(tokens), UNKNOWN]
        spelling_XK = None
        if classifier.config.text.subwords:  # a token that is not known is read by its letters
            spelt = [n for n in range(len(tokens)) if ids[n] == UNKNOWN]
            for x, n in enumerate(spelt):
                ids[n] = len(classifier.vocabulary) + x
            of_spelt = spell([tokens[n] for n in spelt], classifier.config.text.subwords)
            spelling_XK = torch.from_numpy(of_spelt)
        self.ids = torch.tensor(ids)
        with torch.no_grad():
            self.vectors = self.model.look_up(self.ids[:, None], spelling_XK)[:, 0]

    def ends(self) -> list[Array]:
        """Return the whole text, and its baseline."""
        return [np.arange(len(self.tokens)), np.full(len(self.tokens), self.unknown)]

    @torch.no_grad()
    def scores(self, variants: Sequence[Array]) -> Array:
        """Return the scores (V, C) of variants, each the rows of `vectors` that it consists of."""
        filled = [rows if len(rows) else np.array([self.unknown]) for rows in variants]  # the empty text
        scores = [np.zeros((0, self.labels))]
        per_batch = max(1, TOKENS_AT_ONCE // max(map(len, filled), default=1))
        for start in range(0, len(filled), per_batch):
            batch = [torch.from_numpy(rows) for rows in filled[start : start + per_batch]]
            rows_TB = torch.nn.utils.rnn.pad_sequence(batch, padding_value=self.unknown)
            lengths_B = torch.tensor([len(rows) for rows in batch])
            scores_BC = self.score(self.vectors[rows_TB], lengths_B)
            if self.ngrams is not None:
                scores_BC += self._scaled(self.ngrams(self.ids[rows_TB].t(), lengths_B), self.shares[1])
            scores.append(scores_BC.double().numpy())
            check_finite(scores[-1])
        return np.concatenate(scores)

    def score(self, vectors_TBE: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the LSTM's part of the scores (B, C), of texts as vectors; gradients flow through it."""
        return self._scaled(self.model.logits_of(vectors_TBE, lengths_B), self.shares[0])

    def pushes_of_ngrams(self) -> Array:
        """Return the wide branch's part of the pushes (N, C) of the text's tokens; its sum is exact.

        What the baseline gets from it is taken from all tokens alike.
        """
        tokens = len(self.tokens)
        if self.ngrams is None:
            return np.zeros((tokens, self.labels))
        ends = [self.ngrams.pushes(self.ids[torch.from_numpy(rows)]) for rows in self.ends()]
        pushes_NC = ends[0] - ends[1].sum(dim=0) / tokens
        return self._scaled(pushes_NC, self.shares[1]).double().numpy()

    def _scaled(self, logits_BC: Tensor, share: Tensor) -> Tensor:
        return (logits_BC - logits_BC.mean(dim=1, keepdim=True)) * share / self.temperature


def _integrated_gradients(reader: _Reader) -> tuple[Array, int]:
    """Return the pushes (N, C), and how many steps the path from the baseline to the text took.

    On each stretch of the path the sum of the pushes must be the difference of the scores at its ends.
    The stretch at which it misses most is halved until the misses are small together: on long texts the
    memory tips over somewhere on the way, and all that happens, happens there.
    """
    of_path = need("captum.attr", extra="explain").IntegratedGradients(
        lambda vectors_SNE: reader.score(
            vectors_SNE.transpose(0, 1), torch.full((len(vectors_SNE),), vectors_SNE.shape[1])
        )
    )
    text_NE, baseline_NE = reader.vectors[:-1], reader.vectors[-1].expand_as(reader.vectors[:-1])
    classes = reader.labels

    def stretch(start: float, end: float) -> tuple[float, float, float, Array]:
        """Return how far the pushes (N, C) of a stretch miss, its ends, and the pushes."""
        from_1NE, to_1NE = (torch.lerp(baseline_NE, text_NE, share)[None] for share in (start, end))
        with torch.no_grad():
            ends_2C = torch.cat([of_path.forward_func(at_1NE) for at_1NE in (from_1NE, to_1NE)])
        explained_C = (ends_2C[1] - ends_2C[0]).double().numpy()
        pushes_CN = [
            of_path.attribute(
                to_1NE.requires_grad_(),
                from_1NE,
                target=c,
                n_steps=STEPS,
                internal_batch_size=max(1, TOKENS_AT_ONCE // len(text_NE)),
            )[0].detach().double().sum(dim=1).numpy()
            for c in range(classes - 1)
        ]  # fmt: skip
        pushes_NC = np.stack([*pushes_CN, -np.sum(pushes_CN, axis=0)], axis=1)  # scores sum to 0
        return float(np.abs(pushes_NC.sum(axis=0) - explained_C).max()), start, end, pushes_NC

    stretches = [stretch(0.0, 1.0)]
    most = np.clip(PATH_TOKENS // (STEPS * len(text_NE)), *STRETCHES)
    explained = float(np.abs(np.subtract(*reader.scores(reader.ends()))).max())
    enough = max(CLOSE_ENOUGH * explained, 1e-4)  # below that it is rounding
    while sum(miss for miss, *_ in stretches) > enough and len(stretches) < most:
        stretches.sort(key=lambda found: found[0])
        _, start, end, _ = stretches.pop()
        middle = (start + end) / 2
        stretches += [stretch(start, middle), stretch(middle, end)]
    pushes_NC = np.sum([pushes_NC for *_, pushes_NC in stretches], axis=0)
    return pushes_NC + reader.pushes_of_ngrams(), STEPS * len(stretches)


def _remove(reader: _Reader, pushes_NC: Array, label: int) -> Removal:
    """Take tokens out: those that push most first, and in random orders."""
    tokens = len(pushes_NC)
    removed_K = np.unique(np.linspace(0, tokens, min(tokens, REMOVALS) + 1).round().astype(int))
    random = np.random.default_rng(0)
    guided_N = np.argsort(-pushes_NC[:, label], kind="stable")
    orders = [guided_N, *(random.permutation(tokens) for _ in range(RANDOM_ORDERS))]
    variants = [np.sort(order_N[k:]) for order_N in orders for k in removed_K]
    chances = softmax(reader.scores(variants), axis=1)[:, label].reshape(len(orders), len(removed_K))
    return Removal(removed=removed_K, guided=chances[0], random=chances[1:])
