"""A forward and a backward LSTM language model.

Legend: B texts, T padded length, N predictions of a batch, V vocabulary, S samples, E embedding size,
H hidden size, D directions.

The loss is the cross-entropy of a softmax over the vocabulary, with tied input and output embeddings
(Press & Wolf 2017). In training, the sum over the vocabulary is estimated from a few tokens: with S samples c
with replacement and probability q(c), and the true token r,

    sum over all j of exp(s_j)  =  exp(s_r) + expectation of the sum over c ≠ r of exp(s_c) / (S q(c))

(importance sampling: Bengio & Senécal 2003, Jean et al. 2015). q is log-uniform over
frequency ranks, following Zipf's law.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.text.subwords import SubwordVectors, word_ids
from lstm_sentiment.text.tokenization import PAD
from lstm_sentiment.text.tokenizers import Vocabulary

LOGITS_AT_ONCE = 1 << 24  # of the full softmax in evaluation: 64 MB


class LanguageModel(SentimentLSTM):
    """A single-layer `SentimentLSTM` whose head predicts tokens instead of classes.

    The head's weight (E, D·H) holds a projection of the state per direction, whose output is multiplied with
    the embeddings. Padding is never predicted.

    Args:
        counts_V: counts of the vocabulary's tokens in the training texts, for the initial bias.
        samples: S, negative samples per batch and direction in training; 0 for the full softmax.
        settings: see `SentimentLSTM`.

    >>> model = LanguageModel(torch.ones(9), samples=4, embedding_size=4, hidden_size=4).eval()
    >>> costs_BD = model(torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0]]), torch.tensor([3, 1]))
    >>> costs_BD.shape, costs_BD[1].tolist()  # a single token: nothing to predict
    (torch.Size([2, 2]), [0.0, 0.0])
    """

    def __init__(self, counts_V: Tensor, *, samples: int, **settings: Any) -> None:
        size = settings["embedding_size"]
        super().__init__(len(counts_V), size, pooling="last", **settings)
        self.samples = samples
        shares_V = unigram_shares(counts_V)
        self.bias = nn.Parameter(shares_V[PAD + 1 :].log().float())  # of token 1, 2, ...

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor, spelling_XK: Tensor | None = None) -> Tensor:
        """Return the summed cross-entropy of each text in each direction, nats (B, D).

        The forward direction predicts the second token to the last, the backward one the last but one to the
        first. In training, it is estimated by the sampled softmax.

        Args:
            tokens_BT: as in `SentimentLSTM.forward`.
            lengths_B: tokens of each text.
            spelling_XK: as in `SentimentLSTM.forward`; unknown tokens are predicted as the unknown token.
        """
        embedded_TBE = self.embed(tokens_BT, lengths_B, spelling_XK)
        tokens_TB = tokens_BT.t()[: len(embedded_TBE)]
        read = self._read(embedded_TBE, lengths_B)
        words_TB = word_ids(tokens_TB, self.embedding.num_embeddings)
        orders = [words_TB, reversed_texts(words_TB, lengths_B)]
        guessed_TB = torch.arange(1, len(tokens_TB), device=lengths_B.device)[:, None] < lengths_B
        costs = []
        for direction, states_TBH in enumerate(read):
            right_N = orders[direction][1:][guessed_TB]
            cost_N = self._cost(self._vectors(states_TBH[:-1][guessed_TB], direction), right_N)
            costs.append(cost_N.new_zeros(guessed_TB.shape).masked_scatter(guessed_TB, cost_N).sum(dim=0))
        return torch.stack(costs, dim=1)

    def _vectors(self, states_NH: Tensor, direction: int) -> Tensor:
        size = states_NH.shape[1]
        of_direction_EH = self.head.weight[:, direction * size : (direction + 1) * size]
        return nn.functional.linear(self._drop(states_NH), of_direction_EH, self.head.bias)

    def _cost(self, vectors_NE: Tensor, right_N: Tensor) -> Tensor:
        if self.training and self.samples:
            return self._sampled_cost(vectors_NE, right_N)
        rows = len(vectors_NE) if self.training else max(1, LOGITS_AT_ONCE // len(self.bias))
        known_VE = self._output_vectors(
            torch.arange(PAD + 1, self.embedding.num_embeddings, device=right_N.device)
        )
        costs = []
        for some_NE, right in zip(torch.split(vectors_NE, rows), torch.split(right_N, rows), strict=True):
            logits_NV = nn.functional.linear(some_NE, known_VE, self.bias).float()
            costs.append(nn.functional.cross_entropy(logits_NV, right - PAD - 1, reduction="none"))
        return torch.cat(costs) if costs else vectors_NE.new_zeros(0)

    def _sampled_cost(self, vectors_NE: Tensor, right_N: Tensor) -> Tensor:
        drawn_S, log_share_S = draw_tokens(self.samples, self.embedding.num_embeddings, right_N.device)
        drawn_SE, right_NE = self._output_vectors(drawn_S), self._output_vectors(right_N)
        logits_NS = nn.functional.linear(vectors_NE, drawn_SE, self.bias[drawn_S - PAD - 1]).float()
        logits_NS = logits_NS - (log_share_S + math.log(self.samples))
        logits_NS = logits_NS.masked_fill(drawn_S == right_N[:, None], -torch.inf)
        logit_N1 = (vectors_NE * right_NE).float().sum(dim=1, keepdim=True)
        logit_N1 = logit_N1 + self.bias[right_N - PAD - 1][:, None]
        return torch.cat([logit_N1, logits_NS], dim=1).logsumexp(dim=1) - logit_N1[:, 0]

    def _output_vectors(self, ids: Tensor) -> Tensor:
        """Look up output vectors, with gradients as sparse as those of the input embedding."""
        return nn.functional.embedding(ids, self.embedding.weight, sparse=self.embedding.sparse)


def new_language_model(
    vocabulary: Vocabulary, counts_V: Tensor, *, subwords: int, **settings: Any
) -> LanguageModel:
    """Return a language model for a vocabulary, with random weights.

    Args:
        vocabulary: tokens with their own vectors.
        counts_V: see `LanguageModel`.
        subwords: hash buckets of character n-grams; 0 for none.
        settings: see `LanguageModel`.

    >>> sizes = {"embedding_size": 4, "hidden_size": 4, "samples": 0}
    >>> model = new_language_model(Vocabulary(["good"]), torch.ones(3), subwords=100, **sizes)
    >>> model.bias.shape
    torch.Size([2])
    """
    of_letters = SubwordVectors(vocabulary.tokens, subwords, settings["embedding_size"]) if subwords else None
    return LanguageModel(counts_V, subwords=of_letters, **settings)


def reversed_texts(words_TB: Tensor, lengths_B: Tensor) -> Tensor:
    """Reverse each text within its length; padding stays in place.

    >>> reversed_texts(torch.tensor([[5, 8], [6, 0], [7, 0]]), torch.tensor([3, 1])).t().tolist()
    [[7, 6, 5], [8, 0, 0]]
    """
    place_TB = torch.arange(len(words_TB), device=words_TB.device)[:, None].expand_as(words_TB)
    return words_TB.gather(0, torch.where(place_TB < lengths_B, lengths_B - 1 - place_TB, place_TB))


def unigram_shares(counts_V: Tensor) -> Tensor:
    """Return unigram probabilities (V,), float64, with add-one smoothing, without padding.

    >>> unigram_shares(torch.tensor([0, 0, 2])).tolist()
    [0.0, 0.25, 0.75]
    """
    more_V = counts_V.double() + 1
    more_V[PAD] = 0
    return more_V / more_V.sum()


def draw_tokens(count: int, vocabulary_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sample tokens with replacement, log-uniformly by rank, without padding.

    Returns:
        ids (S,) and log-probabilities (S,).

    >>> ids_S, log_share_S = draw_tokens(5, 100, torch.device("cpu"))
    >>> bool((ids_S > 0).all() and (ids_S < 100).all()), log_share_S.shape
    (True, torch.Size([5]))
    """
    ranks = vocabulary_size - 1
    whole = math.log(ranks + 1)
    drawn_S = torch.rand(count, device=device, dtype=torch.float32).mul(whole).exp().long() - 1
    drawn_S.clamp_(0, ranks - 1)  # rounding may reach the end
    log_share_S = torch.log(torch.log1p(1 / (drawn_S + 1.0)) / whole)
    return drawn_S + PAD + 1, log_share_S
