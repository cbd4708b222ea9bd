"""Predictions for a text that comes in pieces: a call, a chat, captions (see `SentimentClassifier`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch

from lstm_sentiment.config.sections import TextConfig
from lstm_sentiment.errors import ConfigError, DataError
from lstm_sentiment.models.network import MergedClasses, Network
from lstm_sentiment.streaming.network import NetworkReader, State
from lstm_sentiment.text.spelling import spell
from lstm_sentiment.text.token_stream import TokenStream
from lstm_sentiment.text.tokenization import UNKNOWN, number_unknown

Predicted = TypeVar("Predicted")


class Stream(Generic[Predicted]):
    """Reads a text in pieces and predicts after each of them; create one with `SentimentClassifier.stream`.

    A prediction is that of the text so far, however it is cut: with the compiled kernels bit for bit the one
    that `predict` gives for the whole text, elsewhere and with attention pooling or a linear branch to float
    rounding. A piece costs the same at any length of the text, and so does the memory. Texts are not
    truncated: `text.max_tokens` does not apply.

    Args:
        network: in evaluation mode.
        ids: token -> id of every known token.
        text: settings of tokenization.
        device: of the network.
        predict: from logits (C,) and the number of tokens to a prediction.

    Raises:
        ConfigError: the model reads backwards too; another tokenizer than ``words``.
    """

    def __init__(
        self,
        network: Network | MergedClasses,
        ids: Mapping[str, int],
        text: TextConfig,
        *,
        device: torch.device,
        predict: Callable[[torch.Tensor, int], Predicted],
    ) -> None:
        if text.tokenizer != "words":
            raise ConfigError(
                f"'{text.tokenizer}' needs the whole text; streams are for models trained with "
                "text.tokenizer words",
                key="text.tokenizer",
            )
        self._reader = NetworkReader(network)
        self._state: State | None = None
        self._ids, self._subwords, self._device, self._predict = ids, text.subwords, device, predict
        self._stream = TokenStream(
            lowercase=text.lowercase,
            escapes="escapes" in text.normalize,
            negation="negation" in text.normalize,
        )
        self._tokens = 0

    def add(self, piece: str) -> Predicted:
        """Add the next piece of the text and return the prediction for the text so far.

        Pieces are joined as they are: a word may be cut in two, and words of two pieces need a space between.

        Args:
            piece: any string, also an empty one.

        Raises:
            DataError: the piece is not a string.
            CheckpointError: the model's output is non-finite.
        """
        if not isinstance(piece, str):
            raise DataError(
                f"a piece of a stream must be a string, not {type(piece).__name__}: {piece!r:.60}"
            )
        settled = self._stream.add(piece)
        if settled:
            self._state = self._read(settled)
            self._tokens += len(settled)
        rest = self._stream.rest()
        state = self._read(rest, provisional=True) if rest or self._state is None else self._state
        assert state is not None, "of at least one token"
        return self._predict(self._reader.logits(state), self._tokens + len(rest))

    def _read(self, tokens: Sequence[str], *, provisional: bool = False) -> State:
        """Return the state after the next tokens; a text without a token is read as the unknown token."""
        row: list[Any] = [self._ids.get(token, token if self._subwords else UNKNOWN) for token in tokens]
        rows, unknown = number_unknown([row or [UNKNOWN]], len(self._ids))
        tokens_T = torch.tensor(rows[0], device=self._device)
        spelling = torch.from_numpy(spell(unknown, self._subwords)).to(self._device)
        return self._reader.read(self._state, tokens_T, spelling, provisional=provisional)
