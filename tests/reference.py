"""Plain reference implementations: one row, one process, one loop at a time.

Legend: B texts, T padded length, L length of one text, H hidden size, F features, C classes.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from lstm_sentiment.config.schema import TrainerConfig
from lstm_sentiment.data.dataset import TextDataset, plan_epoch
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.text.tokenization import UNKNOWN

Weights = dict[str, Tensor]


class PackedSentimentLSTM(nn.Module):
    """Textbook version of `SentimentLSTM`: `nn.LSTM` over a PackedSequence, rows pooled one by one.

    Args:
        model: whose weights are copied; its dropouts are not.
    """

    def __init__(self, model: SentimentLSTM) -> None:
        super().__init__()
        first = model.forward_lstms[0]
        self.pooling = list(model.pooling)
        self.embedding = copy.deepcopy(model.embedding)
        self.subwords = copy.deepcopy(model.subwords)
        self.lstm = type(first)(
            first.input_size,
            first.hidden_size,
            num_layers=len(model.forward_lstms),
            bidirectional=len(model.backward_lstms) > 0,
        )
        self.attention = copy.deepcopy(model.attention)
        self.head = copy.deepcopy(model.head)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, parameter in self.lstm.named_parameters():
                parameter.copy_(parameters[_name_in_model(f"lstm.{name}")])

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor, spelling_XK: Tensor | None = None) -> Tensor:
        """Return logits (B, C)."""
        packed = nn.utils.rnn.pack_padded_sequence(
            self._embed(tokens_BT, spelling_XK), lengths_B.cpu(), batch_first=True, enforce_sorted=False
        )
        packed_states, ends = self.lstm(packed)
        ends = ends[0] if isinstance(ends, tuple) else ends  # an LSTM returns its cell states, too
        states_TBF, _ = nn.utils.rnn.pad_packed_sequence(packed_states)
        directions = 2 if self.lstm.bidirectional else 1
        logits = []
        for row, length in enumerate(lengths_B.tolist()):
            states_LF = states_TBF[:length, row]
            last_F = torch.cat([ends[i, row] for i in range(-directions, 0)])
            pooled = [self._pool(kind, states_LF, last_F) for kind in self.pooling]
            logits.append(self.head(torch.cat(pooled)))
        return torch.stack(logits)

    def _embed(self, tokens_BT: Tensor, spelling_XK: Tensor | None) -> Tensor:
        known = self.embedding.num_embeddings
        words_BTE: Tensor = self.embedding(torch.where(tokens_BT < known, tokens_BT, UNKNOWN))
        if self.subwords is None:
            return words_BTE
        assert spelling_XK is not None
        places_BTK = torch.cat([self.subwords.spelling_VK, spelling_XK])[tokens_BT]
        grams_BTKE = self.subwords.table.weight[places_BTK] * (places_BTK != 0)[..., None]
        count_BT1 = (places_BTK != 0).sum(dim=2, keepdim=True).clamp(min=1)
        return words_BTE + grams_BTKE.sum(dim=2) / count_BT1.sqrt()

    def weights(self) -> Weights:
        """Return all parameters under the names that they have in `SentimentLSTM`."""
        return {_name_in_model(name): parameter for name, parameter in self.named_parameters()}

    def _pool(self, kind: str, states_LF: Tensor, last_F: Tensor) -> Tensor:
        if kind == "last":
            return last_F
        if kind == "mean":
            return torch.stack([feature_L.sum() / len(states_LF) for feature_L in states_LF.T])
        if kind == "max":
            return torch.stack([feature_L.max() for feature_L in states_LF.T])
        assert kind == "attention"
        assert self.attention is not None
        scores = [torch.exp(self.attention(state_F))[0] for state_F in states_LF]
        weighted = [score * state_F for score, state_F in zip(scores, states_LF, strict=True)]
        return torch.stack(weighted).sum(dim=0) / torch.stack(scores).sum()


def _name_in_model(name: str) -> str:
    if not name.startswith("lstm."):
        return name
    kind, _, layer = name.removeprefix("lstm.").removesuffix("_reverse").rpartition("_l")
    direction = "backward" if name.endswith("_reverse") else "forward"
    return f"{direction}_lstms.{layer}.{kind}_l0"


class PlainAdamW:
    """Reference AdamW with gradient clipping and a moving average of the weights.

    Rows of an embedding without a gradient, and their moments, do not change. The average is updated
    every 8 steps and on request.

    Args:
        weights: parameters by name; changed in place by `step`.
        config: learning rate, warm-up, weight decay, clipping, moving average.
        total_steps: of the whole run.
    """

    def __init__(self, weights: Weights, config: TrainerConfig, total_steps: int) -> None:
        self.weights, self.config, self.total_steps = weights, config, total_steps
        self.first = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.second = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.average = {name: w.detach().clone() for name, w in weights.items()}
        self.steps, self.keep = 0, 1.0

    @torch.no_grad()
    def step(self, gradients: Weights) -> None:
        """Do one step."""
        config = self.config
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients.values()))
        rate = plain_learning_rate(self.steps, self.total_steps, config.learning_rate, config.warmup)
        self.steps += 1
        for name, weight in self.weights.items():
            gradient = gradients[name] * min(1.0, config.clip_norm / norm)
            factor, moves = 1.0, torch.ones_like(weight, dtype=torch.bool)
            if name in ("embedding.weight", "subwords.table.weight"):
                factor, moves = config.embedding_rate, (gradient != 0).any(1, keepdim=True).expand_as(weight)
            first = 0.9 * self.first[name] + 0.1 * gradient
            second = 0.99 * self.second[name] + 0.01 * gradient**2
            mean, spread = first / (1 - 0.9**self.steps), (second / (1 - 0.99**self.steps)).sqrt()
            decayed = weight * (1 - factor * rate * config.weight_decay * (weight.dim() > 1))
            new = decayed - factor * rate * mean / (spread + 1e-8)
            weight.copy_(torch.where(moves, new, weight))
            self.first[name] = torch.where(moves, first, self.first[name])
            self.second[name] = torch.where(moves, second, self.second[name])
        self.keep *= min(config.ema, self.steps / (9 + self.steps))
        if self.steps % 8 == 0:
            self.update_average()

    @torch.no_grad()
    def update_average(self) -> None:
        """Bring the moving average up to date."""
        for name, weight in self.weights.items():
            self.average[name] = self.keep * self.average[name] + (1 - self.keep) * weight
        self.keep = 1.0


def plain_learning_rate(step: int, total_steps: int, peak: float, warmup: float) -> float:
    """Return the learning rate of a 0-based step: linear warm-up, then half a cosine, at mid-step."""
    rising = math.ceil(warmup * total_steps)
    if step < rising:
        return float(np.interp(step + 1, [0, rising], [0, peak]))
    angle = math.pi * (step - rising + 0.5) / (total_steps - rising)
    return peak * math.cos(angle / 2) ** 2


def train_plainly(
    model: SentimentLSTM, dataset: TextDataset, config: TrainerConfig, *, seed: int
) -> tuple[Weights, Weights]:
    """Train a packed twin of a model without dropout, each step on all its rows as one batch.

    Returns:
        its weights and their moving average after the last step, named as in the model.
    """
    twin = PackedSentimentLSTM(model)
    weights = twin.weights()
    optimizer: PlainAdamW | None = None
    for epoch in range(config.epochs):
        plan = plan_epoch(
            dataset.lengths,
            batch_size=config.batch_size,
            accumulate=config.accumulate,
            seed=seed,
            epoch=epoch,
        )
        optimizer = optimizer or PlainAdamW(weights, config, len(plan) * config.epochs)
        for step in plan:
            batch = dataset.batch(np.concatenate(step))
            loss = nn.functional.cross_entropy(twin(*batch.inputs), batch.labels_B)
            gradients = [g.to_dense() for g in torch.autograd.grad(loss, list(weights.values()))]
            optimizer.step(dict(zip(weights, gradients, strict=True)))
        optimizer.update_average()
    assert optimizer is not None
    return {name: weight.detach() for name, weight in weights.items()}, optimizer.average
