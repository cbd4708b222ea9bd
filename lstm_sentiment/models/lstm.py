"""The network: embedding, LSTM layers in both directions, pooling over real tokens, linear head.

Legend: B texts, T padded length, E embedding size, H hidden size, D directions, F = D·H features,
P pooled features, C classes, X unknown tokens of a batch, K places per spelt token.

A padded batch never reaches `nn.LSTM(bidirectional=True)`, which would read the padding first when
it reads backwards, nor a PackedSequence, with which neither oneDNN nor cuDNN uses its fast kernels.
Each layer is a pair of one-direction LSTMs instead; the second one reads every row reversed within
its own length, so that padding stays behind the text and has no influence. `cells` has the recurrent cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lstm_sentiment.kernels import pooling as kernel
from lstm_sentiment.kernels import sums
from lstm_sentiment.models.cells import LSTM, Cell
from lstm_sentiment.models.pooling import States, pooling_of
from lstm_sentiment.models.reversal import by_place, reversal
from lstm_sentiment.text.subwords import (
    FoldedVectors,
    SubwordVectors,
    nothing_spelt,
    table,
    token_vectors,
)
from lstm_sentiment.text.tokenization import PAD, UNKNOWN

MANY_TOKENS = 512  # of a batch, from which on distinct ones are looked for
PRODUCTS_AT_ONCE = 1 << 20  # of `row_sums`, held in memory


class SentimentLSTM(nn.Module):
    """Text to class logits.

    Args:
        vocabulary_size: number of token ids, with padding (0) and unknown (1).
        classes: number of classes C.
        embedding_size: E.
        hidden_size: H, per direction.
        layers: LSTM layers.
        bidirectional: a backward LSTM as well.
        pooling: a kind of `pooling.POOLINGS`, or several joined by ``+``.
        dropout: on the pooled features and between layers.
        embedding_dropout: on embeddings, with one mask per text for all of its tokens (variational dropout).
        word_dropout: share of tokens replaced by the unknown token while training.
        subwords: character n-gram vectors that are added to word vectors; None for none.
        initial: whether weights are initialised; otherwise they are undefined until they are loaded.

    >>> model = SentimentLSTM(100, 3, embedding_size=8, hidden_size=8).eval()
    >>> tokens_BT, lengths_B = torch.tensor([[5, 6, 7, 0], [9, 0, 0, 0]]), torch.tensor([3, 1])
    >>> logits_BC = model(tokens_BT, lengths_B)
    >>> alone_1C = model(tokens_BT[1:, :1], lengths_B[1:])
    >>> logits_BC.shape, torch.allclose(logits_BC[1], alone_1C[0], atol=1e-6)
    (torch.Size([2, 3]), True)
    """

    cell: Cell = LSTM()

    def __init__(
        self,
        vocabulary_size: int,
        classes: int,
        *,
        embedding_size: int,
        hidden_size: int,
        layers: int = 1,
        bidirectional: bool = True,
        pooling: str = "mean+max",
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        word_dropout: float = 0.0,
        subwords: SubwordVectors | None = None,
        initial: bool = True,
    ) -> None:
        super().__init__()
        self.pooling = pooling.split("+")
        self.embedding_dropout, self.word_dropout = embedding_dropout, word_dropout
        features = hidden_size * (2 if bidirectional else 1)
        sizes = [embedding_size] + [features] * (layers - 1)
        # Nothing reads padding: row 0 stays 0.
        self.embedding = table(nn.Embedding, vocabulary_size, embedding_size, initial=initial)
        self.subwords = subwords
        self.folded: FoldedVectors | None = None
        self.hidden_size = hidden_size
        self.forward_lstms = nn.ModuleList(self.cell.module(size, hidden_size) for size in sizes)
        self.backward_lstms = nn.ModuleList(
            self.cell.module(size, hidden_size) for size in (sizes if bidirectional else [])
        )
        self.attention = nn.Linear(features, 1, bias=False) if "attention" in self.pooling else None
        self.dropout = dropout
        self.head = nn.Linear(features * len(self.pooling), classes)
        if initial:
            self._initialise()

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor, spelling_XK: Tensor | None = None) -> Tensor:
        """Return the logits (B, C) of texts.

        Args:
            tokens_BT: token ids, int64; with `subwords` an id beyond the vocabulary, V + x, is the x-th
                unknown token of `spelling_XK`.
            lengths_B: number of tokens of each text, at least 1, int64.
            spelling_XK: see `tokenization.spell`, int32; None where no token is unknown.
        """
        if self._predicts_many(tokens_BT):
            return self.head_logits(self._read_distinct(tokens_BT, lengths_B, spelling_XK), lengths_B)
        return self.logits_of(self.embed(tokens_BT, lengths_B, spelling_XK), lengths_B)

    def embed(self, tokens_BT: Tensor, lengths_B: Tensor, spelling_XK: Tensor | None) -> Tensor:
        """Return the embeddings (T, B, E) after dropout, cut to the longest text."""
        if lengths_B.device.type == "cpu":  # on other devices this would be a synchronization
            tokens_BT = tokens_BT[:, : max(lengths_B.tolist())]
        embedded_TBE = self.look_up(self._drop_words(tokens_BT.t()), spelling_XK)
        if self.training and self.embedding_dropout:
            embedded_TBE = embedded_TBE * _dropout_mask(
                embedded_TBE.shape[1:], self.embedding_dropout, embedded_TBE.device
            )
        return embedded_TBE

    def look_up(self, tokens_TB: Tensor, spelling_XK: Tensor | None) -> Tensor:
        """Return the embeddings (T, B, E) before dropout; ids and spelling as in `forward`."""
        embedded_TBE: Tensor
        if spelling_XK is None:
            spelling_XK = nothing_spelt(tokens_TB.device)
        if self.subwords is None or self.folded is None:
            return token_vectors(tokens_TB, self.embedding, self.subwords, spelling_XK)
        embedded_TBE = self.folded(tokens_TB, spelling_XK, self.embedding.weight, self.subwords)
        return embedded_TBE

    def logits_of(self, embedded_TBE: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the logits (B, C) of texts given as embeddings (T, B, E)."""
        return self.head_logits(self._read(embedded_TBE, lengths_B), lengths_B)

    def fold_subwords(self) -> None:
        """Cache the sum of word and n-gram vectors of known tokens; for prediction only.

        Predictions and weights stay the same; each known token is computed when it first occurs.
        """
        if self.subwords is not None and self.folded is None:
            self.folded = FoldedVectors(self.embedding.weight).train(self.training)

    @torch.no_grad()
    def token_vectors(self) -> Tensor:
        """Return the vectors (V, E) of all known tokens, n-gram vectors included."""
        ids_V = torch.arange(self.embedding.num_embeddings, device=self.embedding.weight.device)
        vectors_VE: Tensor = self.embedding.weight.detach()
        if self.subwords is not None:
            vectors_VE = vectors_VE + self.subwords(ids_V, nothing_spelt(ids_V.device))
        return vectors_VE

    def pooled(self, embedded_TBE: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the pooled features (B, P) of texts given as embeddings (T, B, E)."""
        return self._pool_all(self._read(embedded_TBE, lengths_B), lengths_B)

    def head_logits(self, read: list[Tensor], lengths_B: Tensor) -> Tensor:
        """Pool each direction's states (T, B, H), in the order it reads in, and return logits (B, C)."""
        return self.pooled_logits(self._drop(self._pool_all(read, lengths_B)))

    def pooled_logits(self, pooled_BP: Tensor) -> Tensor:
        """Return the logits (B, C) of pooled features (B, P).

        On a CPU they are fp32, which is faster for products this small; without gradients, each text's sums
        have the same order in any batch (see `row_sums`).
        """
        if pooled_BP.device.type != "cpu":
            logits_BC: Tensor = self.head(pooled_BP).float()
        elif torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                logits_BC = self.head(pooled_BP.float())
        else:
            logits_BC = self.head(pooled_BP) if torch.is_grad_enabled() else row_sums(self.head, pooled_BP)
        return logits_BC

    def _pool_all(self, read: list[Tensor], lengths_B: Tensor) -> Tensor:
        read = [of if of.dtype is torch.float32 else of.float() for of in read]
        pooled: dict[str, Tensor] = {}
        if not {"mean", "max"}.isdisjoint(self.pooling) and kernel.applies(read):
            pooled["mean"], pooled["max"] = kernel.mean_and_max(read, lengths_B)
        if not pooled.keys() >= set(self.pooling):
            states = States(read=read, lengths_B=lengths_B, attention=self.attention, training=self.training)
            others = [kind for kind in self.pooling if kind not in pooled]
            pooled |= {kind: pooling_of(kind).pool(states) for kind in others}
        return torch.cat([pooled[kind] for kind in self.pooling], dim=1)

    def _predicts_many(self, tokens_BT: Tensor) -> bool:
        """Whether tokens occur so often that the first layer's products are better computed once for each."""
        learning = self.training or torch.is_grad_enabled() or tokens_BT.device.type != "cpu"
        return (
            not learning
            and tokens_BT.numel() >= MANY_TOKENS
            and self.cell.reads_rows(self.embedding.weight, self._layer(0))
        )

    def _read_distinct(
        self, tokens_BT: Tensor, lengths_B: Tensor, spelling_XK: Tensor | None
    ) -> list[Tensor]:
        """Return the states of `_read`, bit for bit, with the inputs of each distinct token once."""
        tokens_TB = tokens_BT[:, : int(lengths_B.max())].t()
        ids_R, places_TB = torch.unique(tokens_TB, return_inverse=True)
        vectors_RE = self.look_up(ids_R[:, None], spelling_XK)[:, 0]
        read = self.cell.read_rows(vectors_RE, places_TB, lengths_B, self._layer(0))
        return self._read_rest(read, lengths_B)

    def _read(self, embedded_TBE: Tensor, lengths_B: Tensor) -> list[Tensor]:
        """Return the last layer's states (T, B, H) of each direction, in the order it reads in."""
        return self._read_rest(self.cell.read(embedded_TBE, lengths_B, self._layer(0)), lengths_B)

    def _read_rest(self, read: list[Tensor], lengths_B: Tensor) -> list[Tensor]:
        """Return the last layer's states, given those of the first."""
        for number in range(1, len(self.forward_lstms)):
            states = self._drop(by_place(read, reversal(len(read[0]), lengths_B)))
            read = self.cell.read(states, lengths_B, self._layer(number))
        return read

    def _layer(self, number: int) -> list[nn.Module]:
        """Return the modules of a layer, one for each direction."""
        return [lstms[number] for lstms in (self.forward_lstms, self.backward_lstms) if len(lstms)]

    def _drop_words(self, tokens_TB: Tensor) -> Tensor:
        if not self.training or not self.word_dropout:
            return tokens_TB
        dropped = _chance(tokens_TB.shape, self.word_dropout, tokens_TB.device)
        return tokens_TB.masked_fill(dropped & (tokens_TB != PAD), UNKNOWN)

    def _drop(self, values: Tensor) -> Tensor:
        if not self.training or not self.dropout:
            return values
        return values * _dropout_mask(values.shape, self.dropout, values.device)

    def _initialise(self) -> None:
        nn.init.normal_(self.embedding.weight, std=0.1)
        with torch.no_grad():
            self.embedding.weight[PAD] = 0.0
        for lstm in (*self.forward_lstms, *self.backward_lstms):
            assert isinstance(lstm, nn.RNNBase)
            self.cell.initialise(lstm)


def row_sums(layer: nn.Linear, values_BP: Tensor) -> Tensor:
    """Return what a linear layer returns, (B, C), bit-identical for a row in any batch.

    A matrix library sums in an order that depends on the number of rows.

    >>> layer, values_BP = nn.Linear(50, 3).requires_grad_(False), torch.randn(9, 50)
    >>> together_BC = row_sums(layer, values_BP)
    >>> torch.allclose(together_BC, layer(values_BP), atol=1e-5)
    True
    >>> torch.equal(together_BC, torch.cat([row_sums(layer, values_1P) for values_1P in values_BP.split(1)]))
    True
    """
    if (found_BC := sums.linear_logits(layer, values_BP)) is not None:
        return found_BC
    at_once = max(1, PRODUCTS_AT_ONCE // layer.weight.numel())
    if len(values_BP) > at_once:
        return torch.cat([row_sums(layer, some_BP) for some_BP in torch.split(values_BP, at_once)])
    return (values_BP[:, None, :] * layer.weight).sum(dim=2) + layer.bias


def _dropout_mask(shape: Sequence[int], dropout: float, device: torch.device) -> Tensor:
    """Return a dropout mask: 0 with probability `dropout`, else 1 / (1 - dropout)."""
    keep = 1 - dropout
    return _chance(shape, keep, device, out=torch.empty(shape, device=device)).div_(keep)


def _chance(shape: Sequence[int], share: float, device: torch.device, *, out: Tensor | None = None) -> Tensor:
    """Return a mask that is True with a probability of `share`, on a CPU to within 2**-16.

    There, one 64-bit random number serves four places, which takes an eighth of the time of `rand`. An
    `out` of floats saves a slow conversion.
    """
    if device.type != "cpu":
        return torch.lt(torch.rand(shape, device=device), share, out=out)
    count = math.prod(shape)
    numbers = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    quarters = numbers.view(torch.int16)[:count].view(*shape)
    return torch.lt(quarters, min(round(share * 2**16) - 2**15, 2**15 - 1), out=out)
