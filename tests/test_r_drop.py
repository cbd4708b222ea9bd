"""R-Drop: two passes with different dropout, their mean loss and their divergence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lstm_sentiment.checkpoints.run_folder import LAST, RunFolder
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.dataset import Batch
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.experiment.train import initial_model, run
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.training.classification import Classification
from lstm_sentiment.training.losses import cross_entropy
from lstm_sentiment.training.regularizers import repeated, symmetric_kl

Configure = Callable[..., Config]
NO_DROPOUT = ("--model.dropout=0", "--model.embedding_dropout=0", "--model.word_dropout=0")
ROWS = 24


def prepared(config: Config) -> tuple[SentimentLSTM, Corpus, Batch]:
    """Return a model in training mode, its corpus, and a batch with different row weights."""
    corpus = prepare(config.data, config.text, seed=0, cache=cache_folder())
    batch = corpus.train.batch(range(ROWS), torch.rand(ROWS).numpy())
    return initial_model(config, corpus).train(), corpus, batch


def task_of(corpus: Corpus, r_drop: float) -> Classification:
    return Classification(
        corpus.validation,
        corpus.labels,
        loss=cross_entropy(None, 0.1),
        device=torch.device("cpu"),
        batch_size=64,
        processes=Processes(),
        r_drop=r_drop,
    )


def gradients_of(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.to_dense() for name, p in model.named_parameters() if p.grad is not None}


def test_the_loss_is_the_mean_of_both_kl_divergences() -> None:
    logits_2BC, weights_2B = torch.randn(10, 3), torch.rand(5).repeat(2) / 2
    expected = 0.0
    for row in range(5):
        first, second = logits_2BC[row].softmax(0), logits_2BC[row + 5].softmax(0)
        there, back = (first * (first / second).log()).sum(), (second * (second / first).log()).sum()
        expected += 2 * float(weights_2B[row]) * float(there + back) / 2
    assert float(symmetric_kl(logits_2BC, weights_2B)) == pytest.approx(expected, rel=1e-5)


def test_without_dropout_both_passes_are_equal(configure: Configure) -> None:
    """Loss and all gradients: the divergence is zero, and rows keep their weight."""
    model, corpus, batch = prepared(configure(*NO_DROPOUT, "--text.min_frequency=2"))
    assert len(batch.spelling_XK), "or unknown tokens are no part of this"
    plain, doubled = (task_of(corpus, r_drop).loss(model, batch) for r_drop in (0.0, 5.0))
    assert doubled.item() == pytest.approx(plain.item(), rel=1e-6)
    expected, found = gradients_of(plain, model), gradients_of(doubled, model)
    assert len(found) == len(list(model.parameters()))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["dropout", "embedding_dropout", "word_dropout"])
def test_each_pass_has_its_own_dropout_masks(configure: Configure, kind: str) -> None:
    only = [flag for flag in NO_DROPOUT if not flag.startswith(f"--model.{kind}=")]
    model, _, batch = prepared(configure(*only, f"--model.{kind}=0.5"))
    first_BC, second_BC = model(*repeated(batch).inputs).chunk(2)
    assert (first_BC != second_BC).any(dim=1).sum() > ROWS / 2
    model.eval()
    first_BC, second_BC = model(*repeated(batch).inputs).chunk(2)
    torch.testing.assert_close(first_BC, second_BC)


def test_the_loss_is_half_of_that_in_the_paper(configure: Configure) -> None:
    """Cross-entropy of both passes plus alpha times their divergence."""
    model, corpus, batch = prepared(configure())
    answers = list[Tensor]()
    model.register_forward_hook(lambda _module, _inputs, logits: answers.append(logits))
    loss = task_of(corpus, 3.0).loss(model, batch)
    [logits_2BC] = answers
    passes = [cross_entropy(None, 0.1)(logits_BC, batch) for logits_BC in logits_2BC.chunk(2)]
    differ = symmetric_kl(logits_2BC, batch.weights_B.repeat(2) / 2)
    assert differ > 0
    assert loss.item() == pytest.approx((sum(passes) + 3.0 * differ).item() / 2, rel=1e-5)


def test_training_with_it_makes_passes_agree(configure: Configure, tmp_path: Path) -> None:
    differ = {}
    for r_drop in (0, 20):
        config = configure(f"--trainer.r_drop={r_drop}", f"--out={tmp_path / str(r_drop)}", "--trainer.ema=0")
        run(config)
        model, _, batch = prepared(config)
        model.load_state_dict(RunFolder(config.out).load(LAST).tensors["model"])
        even = dataclasses.replace(batch, weights_B=torch.full((ROWS,), 1 / ROWS))
        torch.manual_seed(0)
        differ[r_drop] = symmetric_kl(model(*repeated(even).inputs), repeated(even).weights_B).item()
    assert 0 < differ[20] < differ[0] / 2


def test_without_dropout_it_is_refused(configure: Configure) -> None:
    """It would cost time and do nothing."""
    with pytest.raises(ConfigError, match=r"trainer\.r_drop: without dropout"):
        configure(*NO_DROPOUT, "--trainer.r_drop=1")


@pytest.mark.parametrize("weight", ["-1", ".inf", ".nan"])
def test_an_invalid_weight_is_refused(configure: Configure, weight: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.r_drop"):
        configure(f"--trainer.r_drop={weight}")


def test_each_branch_has_its_own_consistency_loss() -> None:
    """The consistency loss of two branches is the mean of both."""
    logits_K2BC, weights_2B = torch.randn(2, 6, 3), torch.full((6,), 1 / 6)
    of_each = [symmetric_kl(logits_2BC, weights_2B) for logits_2BC in logits_K2BC]
    assert min(of_each) > 0.01
    torch.testing.assert_close(symmetric_kl(logits_K2BC, weights_2B), torch.stack(of_each).mean())
