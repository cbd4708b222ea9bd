"""A network that reads a text in pieces: what it keeps between them, and its logits so far.

An LSTM that reads forward only needs its own state and what pooling keeps (sums, largest values). The linear
branch keeps the number of occurrences of each n-gram that it knows, so memory is bounded by the model's size.

Legend: T tokens of a piece, X unknown tokens of a piece, K places per spelt token, H hidden size, F features,
N n-grams of a piece, C classes, S classes before some were merged.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.network import (
    SHORTEST,
    MergedClasses,
    Network,
    NgramBranch,
    TfidfBranch,
    WideAndDeep,
    lstm_of,
    unmerged,
)
from lstm_sentiment.models.pooling import pooling_of
from lstm_sentiment.text.subwords import word_ids
from lstm_sentiment.text.tokenization import PAD


@dataclass(frozen=True)
class _Read:
    """What an LSTM keeps of the tokens so far: the state of each layer, and the sums of each pooling."""

    layers: tuple[Any, ...]
    sums: tuple[Any, ...]
    count: int = 0


@dataclass(frozen=True)
class _Counted:
    """What the linear branch keeps: numbers of occurrences, weighted sum (C,), squared norm, last token."""

    counts: MutableMapping[int, int]
    sum_C: Tensor
    square: float = 0.0
    last: int | None = None
    tokens: int = 0


@dataclass(frozen=True)
class State:
    """What a network keeps of the tokens so far; it is never changed."""

    lstm: _Read | None
    ngrams: _Counted | None


class NetworkReader:
    """Reads a text in pieces.

    Args:
        network: in evaluation mode.

    Raises:
        ConfigError: the LSTM reads backwards too, and so needs the end of a text.

    >>> model = SentimentLSTM(100, 3, embedding_size=8, hidden_size=16, bidirectional=False).eval()
    >>> reader, tokens_T = NetworkReader(model), torch.tensor([5, 6, 7])
    >>> state = reader.read(reader.read(None, tokens_T[:2]), tokens_T[2:])
    >>> torch.allclose(reader.logits(state), model(tokens_T[None], torch.tensor([3]))[0], atol=1e-6)
    True
    """

    def __init__(self, network: Network | MergedClasses) -> None:
        self._shown = network
        network = unmerged(network)
        self._branch = network.ngrams if isinstance(network, WideAndDeep) else None
        self._shares_K = network.shares if isinstance(network, WideAndDeep) else None
        self._lstm: SentimentLSTM | None = lstm_of(network)
        if self._shares_K is not None and not self._shares_K[0]:  # the linear model alone
            self._lstm = None
        if self._lstm is not None and len(self._lstm.backward_lstms):
            raise ConfigError(
                "true: the second LSTM reads a text from its end, which a stream does not have yet; train a "
                "model that reads forward only, with --model.bidirectional false, or predict the whole text",
                key="model.bidirectional",
            )

    @torch.inference_mode()
    def read(
        self,
        state: State | None,
        tokens_T: Tensor,
        spelling_XK: Tensor | None = None,
        *,
        provisional: bool = False,
    ) -> State:
        """Return the state after the next tokens.

        Args:
            state: of the tokens before; None at the start of a text.
            tokens_T: ids, at least one; unknown tokens as in `SentimentLSTM.forward`.
            spelling_XK: of the piece's unknown tokens.
            provisional: whether reading goes on from `state` later: the counts of the linear branch are then
                not updated in place.
        """
        state = state or State(lstm=None, ngrams=None)
        if self._lstm is not None:
            state = replace(state, lstm=self._read(self._lstm, state.lstm, tokens_T, spelling_XK))
        if self._branch is not None:
            state = replace(state, ngrams=_count(self._branch, state.ngrams, tokens_T, provisional))
        return state

    def _read(
        self, lstm: SentimentLSTM, before: _Read | None, tokens_T: Tensor, spelling_XK: Tensor | None
    ) -> _Read:
        if before is None:
            before = _Read(layers=(None,) * len(lstm.forward_lstms), sums=(None,) * len(lstm.pooling))
        states_TF = lstm.look_up(tokens_T[:, None], spelling_XK)[:, 0]
        layers = []
        for layer, state in zip(lstm.forward_lstms, before.layers, strict=True):
            states_TF, after = lstm.cell.read_on(states_TF, state, layer)
            layers.append(after)
        states_TF = states_TF.float()
        sums = [
            pooling_of(kind).add(of, states_TF, lstm.attention)
            for kind, of in zip(lstm.pooling, before.sums, strict=True)
        ]
        return _Read(tuple(layers), tuple(sums), before.count + len(tokens_T))

    @torch.inference_mode()
    def logits(self, state: State) -> Tensor:
        """Return the logits (C,) of the tokens so far, as the network's `forward`."""
        logits_S = self._logits(state)
        if isinstance(self._shown, MergedClasses):
            return self._shown.of_classes(logits_S[None])[0]
        return logits_S

    def _logits(self, state: State) -> Tensor:
        """Return the logits (S,), before classes are merged."""
        found = []
        if state.lstm is not None and self._lstm is not None:
            pooled = [
                pooling_of(kind).result(sums, state.lstm.count)
                for kind, sums in zip(self._lstm.pooling, state.lstm.sums, strict=True)
            ]
            found.append(self._lstm.pooled_logits(torch.cat(pooled)[None]))
        if state.ngrams is not None and self._branch is not None:
            found.append(_linear_logits(self._branch, state.ngrams)[None])
        logits_C: Tensor = found[0][0]
        if self._shares_K is None:
            return logits_C
        if self._lstm is None:
            return self._shares_K[1] * logits_C
        return (self._shares_K[:, None] * torch.cat(found)).sum(dim=0)


def _count(branch: NgramBranch, before: _Counted | None, tokens_T: Tensor, provisional: bool) -> _Counted:
    """Add the n-grams of the next tokens.

    The value of an n-gram with n occurrences is idf x (1 + ln n) in a `TfidfBranch`, n in a `NgramBranch`;
    the sums change by the difference that another occurrence makes.
    """
    if before is None:
        before = _Counted(counts={}, sum_C=torch.zeros_like(branch.bias, dtype=torch.float64))
    last = [] if before.last is None else [before.last]
    ids_T = torch.cat([tokens_T.new_tensor(last), word_ids(tokens_T, branch.vocabulary_size)])
    places_N = branch.places(ids_T[None])[0][len(last) :]  # without the last token, but with its pair
    places_N = places_N[places_N != PAD]
    weights_NC = branch.weights.weight[places_N].double()
    factors, square, counts = [1.0] * len(places_N), before.square, before.counts
    if isinstance(branch, TfidfBranch):
        counts = ChainMap({}, counts) if provisional else counts
        idf_N = branch.idf[places_N].double().tolist()
        for n, (place, idf) in enumerate(zip(places_N.tolist(), idf_N, strict=True)):
            if not idf:  # in no training row
                factors[n] = 0.0
                continue
            occurrences = counts[place] = counts.get(place, 0) + 1
            now, earlier = (idf * (1 + math.log(of)) if of else 0.0 for of in (occurrences, occurrences - 1))
            factors[n], square = now - earlier, square + now * now - earlier * earlier
    factors_N = torch.tensor(factors, dtype=torch.float64, device=weights_NC.device)
    return _Counted(
        counts, before.sum_C + factors_N @ weights_NC, square, int(ids_T[-1]), before.tokens + len(tokens_T)
    )


def _linear_logits(branch: NgramBranch, counted: _Counted) -> Tensor:
    """Return the logits (C,) of the linear branch."""
    if isinstance(branch, TfidfBranch):
        length = max(math.sqrt(max(counted.square, 0.0)), SHORTEST)
    else:
        length = math.sqrt(2 * counted.tokens - 1)
    return (counted.sum_C / length).to(branch.bias.dtype) + branch.bias
