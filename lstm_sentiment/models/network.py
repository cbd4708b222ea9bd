"""The network: an LSTM, alone or with a wide (linear n-gram) branch whose logits are added.

An LSTM is slow to learn strong n-grams such as "must see" and "waste of", which a linear model picks up
quickly; a linear model cannot learn from word order beyond pairs. Each branch has its own loss (with one loss
of the sum the LSTM would learn little), and their weights are fitted on validation rows. After Cheng et al.
2016, "Wide & deep learning"; word pairs are hashed, as in Vowpal Wabbit and fastText.

Legend: B texts, T padded length, N n-grams of a text, P pairs of tokens, R rows of the table,
K branches, V known tokens, C classes, S classes before some were merged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lstm_sentiment.checkpoints.tensors import check_size
from lstm_sentiment.config.network_shapes import network_shapes
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.kernels import sums as kernel
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.text.subwords import SubwordVectors, word_ids
from lstm_sentiment.text.tokenization import PAD
from lstm_sentiment.text.tokenizers import Vocabulary

# A pair (a, b) has row V + ((a·p mod r) + b·q) mod buckets. Without r, (b, a) would have the same row for
# many numbers of buckets; p and q must not be near a multiple of a power of two, as buckets often are.
HASH = (1_640_531_527, 2_147_483_647, 1_597_334_677)  # p, r (a prime), q
BRANCHES = ("lstm", "ngrams")
RATE = 30.0  # of the n-grams, relative to the learning rate; most of them are updated rarely
ROWS_AT_ONCE = 512  # texts counted at a time
SHORTEST = 1e-12  # least norm of a feature vector


class NgramWeights(nn.EmbeddingBag):
    """An n-gram weight table with its own learning rate (see `optimizer.adamw`)."""

    rate = RATE
    row_rates: Tensor | None = None


class NgramBranch(nn.Module):
    """Linear model over words and hashed word pairs: logits are the sum of their weights.

    The sum is divided by the square root of their number, so that long texts do not get confident by length
    alone.

    Args:
        vocabulary_size: V, with padding (0) and unknown (1).
        classes: C.
        buckets: hash buckets of the pairs; colliding pairs share a row.

    >>> branch = NgramBranch(100, 3, buckets=1000)
    >>> branch(torch.tensor([[5, 6, 7, 0], [9, 0, 0, 0]]), torch.tensor([3, 1])).shape
    torch.Size([2, 3])
    """

    def __init__(self, vocabulary_size: int, classes: int, *, buckets: int) -> None:
        super().__init__()
        self.vocabulary_size, self.buckets = vocabulary_size, buckets
        self.weights = NgramWeights(vocabulary_size + buckets, classes, mode="sum", padding_idx=PAD)
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.zeros_(self.weights.weight)

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor, *_: Any) -> Tensor:
        """Return the logits (B, C) of texts; the arguments are those of `SentimentLSTM.forward`."""
        if not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
            weights = self.weights.weight, self.bias
            found_BC = kernel.ngram_logits(
                tokens_BT, lengths_B, *weights, known=self.vocabulary_size, pair=HASH
            )
            if found_BC is not None:
                return found_BC
        real_BT = torch.arange(tokens_BT.shape[1], device=lengths_B.device) < lengths_B[:, None]
        places_BN = self.places(tokens_BT.masked_fill(~real_BT, PAD))
        logits_BC: Tensor = self.weights(places_BN) / (2 * lengths_B[:, None] - 1).sqrt() + self.bias
        return logits_BC

    def places(self, tokens_BT: Tensor) -> Tensor:
        """Return the table rows of tokens, then of pairs, (B, N = 2T - 1); 0 for padding.

        >>> NgramBranch(10, 2, buckets=5).places(torch.tensor([[4, 4, 4, 0]])).tolist()
        [[4, 4, 4, 0, 10, 10, 0]]
        """
        tokens_BT = word_ids(tokens_BT, self.vocabulary_size)
        first_BT, second_BT = tokens_BT[:, :-1], tokens_BT[:, 1:]
        p, r, q = HASH
        pairs_BT = (first_BT * p % r + second_BT * q) % self.buckets + self.vocabulary_size
        return torch.cat([tokens_BT, pairs_BT.masked_fill(second_BT == PAD, PAD)], dim=1)

    @torch.no_grad()
    def contributions(self, tokens_T: Tensor) -> Tensor:
        """Return each token's contribution to the logits, (T, C); their sum plus the bias is the logits.

        A pair's weight is divided evenly between its tokens.

        >>> branch = NgramBranch(10, 2, buckets=5)
        >>> _ = nn.init.normal_(branch.weights.weight[1:])
        >>> tokens_T = torch.tensor([4, 7, 4])
        >>> alone_C = branch(tokens_T[None], torch.tensor([3]))[0]
        >>> torch.allclose(branch.contributions(tokens_T).sum(0) + branch.bias, alone_C, atol=1e-6)
        True
        """
        places_N = self.places(tokens_T[None])[0]
        contributions_NC = self.weights.weight[places_N] / math.sqrt(len(places_N))
        return _shared_by_tokens(contributions_NC, len(tokens_T))

    @torch.no_grad()
    def set_row_rates(self, train: TextDataset) -> None:
        """Set each n-gram's learning rate by how much its frequency differs between classes.

        The rate is the largest distance of its log-probability in a class from the mean over classes, counted
        in training texts, as in NB-SVM (Wang and Manning 2012, "Baselines and bigrams", where it scales the
        feature): uninformative n-grams hardly learn, and cannot be used to memorise rows.

        Args:
            train: training rows.
        """
        rows, classes = self.weights.weight.shape
        counts_RC = torch.ones(rows, classes)
        for part in np.array_split(np.arange(len(train)), 1 + len(train) // ROWS_AT_ONCE):
            batch = train.batch(part)
            places_BN = self.places(batch.tokens_BT).sort(dim=1).values
            places_BN[:, 1:].masked_fill_(places_BN[:, 1:] == places_BN[:, :-1], PAD)  # once per text
            cells_BN = places_BN * classes + batch.labels_B[:, None]
            counts_RC.view(-1).index_add_(0, cells_BN.flatten(), torch.ones(cells_BN.numel()))
        counts_RC[PAD] = 1.0
        ratios_RC = (counts_RC / counts_RC.sum(dim=0)).log()
        self.weights.row_rates = (ratios_RC - ratios_RC.mean(dim=1, keepdim=True)).abs().amax(dim=1)


class TfidfBranch(NgramBranch):
    """Linear model of TF-IDF features: words and word pairs, sublinear counts, rows of norm one.

    It is scikit-learn's `TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)` followed by a linear layer,
    with hashed pairs. It is not trained by gradient descent: its weights are those of a logistic regression
    (see `linear.logistic_regression`). N-grams that are not in the training rows have idf 0.

    Args:
        vocabulary_size: V, with padding (0) and unknown (1).
        classes: C.
        buckets: hash buckets of the pairs; colliding pairs share a row.

    >>> branch = TfidfBranch(100, 3, buckets=1000)
    >>> _ = branch.idf[1:].fill_(2.0)
    >>> values_BN, places_BN = branch.features(torch.tensor([[5, 6, 5, 0]]), torch.tensor([3]))
    >>> once = values_BN[places_BN == 6]  # only the word 5 occurs twice
    >>> (values_BN[places_BN == 5] / once).sum().round(decimals=3)  # 1 + ln(2)
    tensor(1.6930)
    """

    def __init__(self, vocabulary_size: int, classes: int, *, buckets: int) -> None:
        super().__init__(vocabulary_size, classes, buckets=buckets)
        self.fit_s: float | None = None  # seconds that fitting took, if it was fitted in this process
        self.idf: Tensor
        self.register_buffer("idf", torch.zeros(vocabulary_size + buckets))
        self.requires_grad_(requires_grad=False)

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor, *_: Any) -> Tensor:
        """Return the logits (B, C) of texts; the arguments are those of `SentimentLSTM.forward`."""
        values_BN, places_BN = self.features(tokens_BT, lengths_B)
        logits_BC: Tensor = self.weights(places_BN, per_sample_weights=values_BN) + self.bias
        return logits_BC

    def features(self, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the feature value (B, N) of each token and pair, and its table row (B, N).

        An n-gram that occurs n times in a text has the value idf x (1 + ln n), divided by the norm of the
        text's values and evenly between its occurrences.
        """
        real_BT = torch.arange(tokens_BT.shape[1], device=lengths_B.device) < lengths_B[:, None]
        places_BN = self.places(tokens_BT.masked_fill(~real_BT, PAD))
        counts_BN = _repetitions(places_BN).to(self.idf.dtype)
        # cumsum adds in order: the padding of a batch does not change a text's sum, as it does with sum
        values_BN = self.idf[places_BN] * (1 + counts_BN.log())
        length_B1 = (values_BN.square() / counts_BN).cumsum(dim=1)[:, -1:].sqrt()
        return values_BN / counts_BN / length_B1.clamp(min=SHORTEST), places_BN

    @torch.no_grad()
    def contributions(self, tokens_T: Tensor) -> Tensor:
        """Return each token's contribution to the logits, (T, C), like `NgramBranch.contributions`.

        >>> branch = TfidfBranch(10, 2, buckets=5)
        >>> _ = nn.init.normal_(branch.weights.weight[1:]), branch.idf[1:].uniform_()
        >>> tokens_T = torch.tensor([4, 7, 4])
        >>> alone_C = branch(tokens_T[None], torch.tensor([3]))[0]
        >>> torch.allclose(branch.contributions(tokens_T).sum(0) + branch.bias, alone_C, atol=1e-6)
        True
        """
        lengths_1 = torch.tensor([len(tokens_T)], device=tokens_T.device)
        values_1N, places_1N = self.features(tokens_T[None], lengths_1)
        return _shared_by_tokens(self.weights.weight[places_1N[0]] * values_1N[0, :, None], len(tokens_T))


def _repetitions(places_BN: Tensor) -> Tensor:
    """Return the number of occurrences of each value in its row, (B, N), int64.

    >>> _repetitions(torch.tensor([[7, 3, 7], [3, 3, 3]])).tolist()
    [[2, 1, 2], [3, 3, 3]]
    """
    sorted_BN, order_BN = places_BN.sort(dim=1)
    first_BN = torch.ones_like(sorted_BN, dtype=torch.bool)
    first_BN[:, 1:] = sorted_BN[:, 1:] != sorted_BN[:, :-1]
    starts = first_BN.flatten().nonzero()[:, 0]
    runs = torch.cat([starts[1:], starts.new_tensor([places_BN.numel()])]) - starts
    of_sorted = runs[first_BN.flatten().cumsum(0) - 1].view(places_BN.shape)
    return torch.empty_like(places_BN).scatter_(1, order_BN, of_sorted)


def _shared_by_tokens(contributions_NC: Tensor, tokens: int) -> Tensor:
    """Return the contributions (T, C) of tokens; those of pairs are divided between their tokens."""
    contributions_TC, of_pairs_PC = contributions_NC[:tokens], contributions_NC[tokens:]
    contributions_TC[:-1] += of_pairs_PC / 2
    contributions_TC[1:] += of_pairs_PC / 2
    return contributions_TC


class WideAndDeep(nn.Module):
    """An LSTM and a linear n-gram branch.

    In training it returns the logits of both, (2, B, C), for separate losses, or those of the LSTM alone,
    (B, C), if the other was fitted before; in evaluation their sum, (B, C), weighted by `shares`.

    Args:
        lstm: one branch.
        ngrams: the other.

    >>> lstm = SentimentLSTM(100, 3, embedding_size=8, hidden_size=8)
    >>> both = WideAndDeep(lstm, NgramBranch(100, 3, buckets=1000))
    >>> tokens_BT, lengths_B = torch.tensor([[5, 6, 7, 0], [9, 0, 0, 0]]), torch.tensor([3, 1])
    >>> both(tokens_BT, lengths_B).shape, both.eval()(tokens_BT, lengths_B).shape
    (torch.Size([2, 2, 3]), torch.Size([2, 3]))
    """

    def __init__(self, lstm: SentimentLSTM, ngrams: NgramBranch) -> None:
        super().__init__()
        self.lstm, self.ngrams = lstm, ngrams
        self.shares: Tensor
        self.register_buffer("shares", torch.ones(len(BRANCHES)))

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor, spelling_XK: Tensor | None = None) -> Tensor:
        """Return logits; the arguments are those of `SentimentLSTM.forward`."""
        inputs = (tokens_BT, lengths_B, spelling_XK)
        if not self.training and self.shares.device.type == "cpu" and not self.shares[0]:
            alone_BC: Tensor = self.shares[1] * self.ngrams(*inputs)
            return alone_BC
        if self.training and isinstance(self.ngrams, TfidfBranch):
            logits_BC: Tensor = self.lstm(*inputs)
            return logits_BC
        logits_KBC = torch.stack([self.lstm(*inputs), self.ngrams(*inputs)])
        if self.training:
            return logits_KBC
        return (self.shares[:, None, None] * logits_KBC).sum(dim=0)


class MergedClasses(nn.Module):
    """A network some of whose classes are shown as one; for prediction only.

    The probability of a merged class is the sum of those of its members (see `merged_logits`).

    Args:
        network: of S classes, in evaluation mode.
        merged: for each class of the network the class that it is shown as, (S,).
        temperature: that the logits are divided by afterwards, for calibrated probabilities.

    >>> network = SentimentLSTM(100, 3, embedding_size=8, hidden_size=8).eval()
    >>> merged = MergedClasses(network, [0, 0, 1], temperature=1.0)
    >>> inputs = torch.tensor([[5, 6, 7, 0], [9, 0, 0, 0]]), torch.tensor([3, 1])
    >>> of_three_BS, of_two_BC = network(*inputs).softmax(dim=1), merged(*inputs).softmax(dim=1)
    >>> torch.allclose(of_two_BC[:, 0].float(), of_three_BS[:, :2].sum(dim=1))
    True
    """

    def __init__(
        self, network: SentimentLSTM | WideAndDeep, merged: Sequence[int], *, temperature: float
    ) -> None:
        super().__init__()
        self.network, self.merged, self.temperature = network, list(merged), temperature
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the logits (B, C); the arguments are those of `SentimentLSTM.forward`."""
        return self.of_classes(self.network(*inputs))

    def of_classes(self, logits_BS: Tensor) -> Tensor:
        """Return the logits (B, C) of the classes that are shown, given those of the network."""
        return merged_logits(logits_BS, self.merged, temperature=self.temperature)


def merged_logits(logits_BS: Tensor, merged: Sequence[int], *, temperature: float) -> Tensor:
    """Return logits (B, C) after classes were merged; fp64, but on devices that do not have it.

    Their softmax at a temperature is the sum of the probabilities that the members of each class have at it:
    a class of several has the logarithm of the sum of the exponentials of their logits divided by the
    temperature, times the temperature. A text's logits are the same bits in any batch: sums are in order.

    Args:
        logits_BS: of all classes of the network.
        merged: for each of them the class that it is shown as, 0 to C - 1, (S,).
        temperature: of the calibration.

    >>> logits_1S = torch.tensor([[2.0, 0.0, -1.0]])
    >>> merged_logits(logits_1S, [0, 1, 1], temperature=2.0).div(2).softmax(dim=1).numpy().round(3)
    array([[0.629, 0.371]])
    >>> logits_1S.div(2).softmax(dim=1).numpy().round(3)
    array([[0.629, 0.231, 0.14 ]], dtype=float32)
    """
    if logits_BS.device.type != "mps":
        logits_BS = logits_BS.double()
    logits, columns = logits_BS.unbind(dim=1), []
    for first, *others in members_of(merged):
        most_B = logits[first]
        for other in others:
            most_B = torch.maximum(most_B, logits[other])
        odds = [((logits[of] - most_B) / temperature).exp() for of in (first, *others)]
        columns.append(most_B + temperature * torch.log(sum(odds[1:], odds[0])) if others else most_B)
    return torch.stack(columns, dim=1)


def members_of(merged: Sequence[int]) -> list[list[int]]:
    """Return the classes that are shown as each one.

    >>> members_of([0, 1, 0])
    [[0, 2], [1]]
    """
    members: list[list[int]] = [[] for _ in range(max(merged) + 1)]
    for one, shown in enumerate(merged):
        members[shown].append(one)
    return members


def shown_logits(network: Network | MergedClasses, logits_BS: Tensor, *, temperature: float) -> Tensor:
    """Return the logits (B, C) of the classes that are shown, given those of all classes (see `unmerged`).

    Args:
        network: that they are of.
        logits_BS: of all its classes.
        temperature: that they will be divided by.

    Example::

        shown_logits(classifier.model, unmerged(classifier.model)(*inputs), temperature=1.0).softmax(dim=1)
    """
    if not isinstance(network, MergedClasses):
        return logits_BS
    return merged_logits(logits_BS, network.merged, temperature=temperature)


KINDS = {"learned": NgramBranch, "tfidf": TfidfBranch}
Network = SentimentLSTM | WideAndDeep


def unmerged(network: Network | MergedClasses) -> Network:
    """Return the network with all its classes."""
    return network.network if isinstance(network, MergedClasses) else network


def lstm_of(network: Network | MergedClasses) -> SentimentLSTM:
    """Return the LSTM of a network."""
    network = unmerged(network)
    return network.lstm if isinstance(network, WideAndDeep) else network


def new_lstm(
    vocabulary: Vocabulary, classes: int, *, subwords: int, initial: bool = True, **settings: Any
) -> SentimentLSTM:
    """Return an LSTM for a vocabulary, with random weights.

    Args:
        vocabulary: tokens with their own vectors.
        classes: number of classes.
        subwords: hash buckets of character n-grams; 0 for none.
        initial: initialise the weights; False if they are loaded afterwards.
        settings: see `SentimentLSTM`.

    >>> new_lstm(Vocabulary(["good"]), 2, subwords=100, embedding_size=4, hidden_size=4).head.out_features
    2
    """
    size = settings["embedding_size"]
    of_letters = SubwordVectors(vocabulary.tokens, subwords, size, initial=initial) if subwords else None
    return SentimentLSTM(len(vocabulary), classes, subwords=of_letters, initial=initial, **settings)


def new_network(
    vocabulary: Vocabulary, classes: int, *, ngrams: int, ngram_kind: str = "learned", **settings: Any
) -> Network:
    """Return a network for a vocabulary, with random weights.

    Args:
        vocabulary: tokens with their own vectors.
        classes: number of classes.
        ngrams: hash buckets of word pairs of the wide branch; 0 for no such branch.
        ngram_kind: ``learned`` (see `NgramBranch`) or ``tfidf`` (see `TfidfBranch`).
        settings: see `new_lstm`.

    Raises:
        ConfigError: too many parameters; raised before memory is allocated.

    >>> sizes = {"subwords": 100, "embedding_size": 4, "hidden_size": 4}
    >>> type(new_network(Vocabulary(["good"]), 2, ngrams=50, **sizes)).__name__
    'WideAndDeep'
    """
    check_size(network_shapes(len(vocabulary), classes, ngrams=ngrams, ngram_kind=ngram_kind, **settings))
    lstm = new_lstm(vocabulary, classes, **settings)
    if not ngrams:
        return lstm
    return WideAndDeep(lstm, KINDS[ngram_kind](len(vocabulary), classes, buckets=ngrams))
