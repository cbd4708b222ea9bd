"""Virtual adversarial training: the worst perturbation, the loss, and unlabelled texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import killed_at_save, make_rows, write_csv
from torch import Tensor, nn

from lstm_sentiment.checkpoints.run_folder import LAST, RunFolder
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.dataset import Batch, rank_share, with_unlabelled
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.experiment.train import initial_model, run
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.network import WideAndDeep
from lstm_sentiment.training.losses import cross_entropy
from lstm_sentiment.training.regularizers import PROBE, vat_loss

Configure = Callable[..., Config]
ROWS = 12


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """150 unlabelled texts, none of them a training row."""
    path = tmp_path / "more.csv"
    texts = [text for text, _ in make_rows(150, seed=7)]
    path.write_text("\n".join(["text", *(f'"{text}"' for text in texts)]) + "\n", encoding="utf-8")
    return path


def corpus_of(config: Config) -> Corpus:
    return prepare(config.data, config.text, seed=config.seed, cache=cache_folder())


def network(classes: int = 2, **settings: float) -> SentimentLSTM:
    """Return a network whose predictions depend on its input: a new one predicts the same for all."""
    model = SentimentLSTM(40, classes, embedding_size=6, hidden_size=8, **settings)  # type: ignore[arg-type]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model.train()


def batch_of(rows: int = ROWS, longest: int = 7) -> Batch:
    lengths_B = torch.randint(1, longest + 1, (rows,))
    tokens_BT = torch.randint(2, 40, (rows, longest))
    return Batch(
        tokens_BT=tokens_BT * (torch.arange(longest) < lengths_B[:, None]),
        lengths_B=lengths_B,
        labels_B=torch.zeros(rows, dtype=torch.int64),
        weights_B=torch.full((rows,), 1 / rows),
        shares_B=torch.full((rows,), 1 / rows),
        rows_B=torch.arange(rows),
        targets_BC=torch.empty(rows, 0),
        spelling_XK=torch.zeros((0, 4), dtype=torch.int32),
    )


def alone(batch: Batch, row: int, length: int) -> Batch:
    """Return a batch of one row, padded to some length."""
    part = {name: tensor[row : row + 1] for name, tensor in vars(batch).items() if name != "spelling_XK"}
    part |= {"shares_B": torch.ones(1), "tokens_BT": part["tokens_BT"][:, :length]}
    return dataclasses.replace(batch, **part)


def perturbations_of(model: SentimentLSTM, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list of the perturbations of each pass over a model; the first pass has none."""
    found, plain, real = list[Tensor](), list[Tensor](), model.logits_of

    def noted(embedded_TBE: Tensor, lengths_B: Tensor) -> Tensor:
        plain.append(embedded_TBE.detach())
        found.append(embedded_TBE.detach() - plain[0])
        return real(embedded_TBE, lengths_B)

    monkeypatch.setattr(model, "logits_of", noted)
    return found


def divergence(model: SentimentLSTM, batch: Batch, push_TBE: Tensor) -> Tensor:
    """Return the divergence between perturbed and unperturbed predictions, (B,), nats."""
    embedded_TBE = model.embed(*batch.inputs)
    before_BC = model.logits_of(embedded_TBE, batch.lengths_B).softmax(1).detach()
    after_BC = model.logits_of(embedded_TBE + push_TBE, batch.lengths_B).log_softmax(1)
    return (before_BC * (before_BC.log() - after_BC)).sum(1)


def test_no_random_perturbation_is_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two classes one gradient step finds the worst direction."""
    model, size = network(), 0.02
    for seed in range(5):
        torch.manual_seed(seed)
        batch = alone(batch_of(1), 0, 7)
        real = int(batch.lengths_B)
        with monkeypatch.context() as patch, torch.no_grad():
            perturbations = perturbations_of(model, patch)
            _, worst = vat_loss(model, batch, size)
        vectors_TE = model.embedding(batch.tokens_BT[0, :real])
        assert [perturbation.norm().item() for perturbation in perturbations] == pytest.approx(
            [0.0, PROBE * size * vectors_TE.norm().item(), size * vectors_TE.norm().item()], rel=1e-3
        )
        with torch.no_grad():
            tried = torch.randn(400, real, 6)
            tried *= size * vectors_TE.norm() / tried.norm(dim=(1, 2), keepdim=True)
            by_chance = [divergence(model, batch, push_TE[:, None]).item() for push_TE in tried]
        assert worst.item() > 0.99 * max(by_chance)


def test_perturbations_do_not_depend_on_the_batch_or_on_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over a padded batch equals that over single texts without padding."""
    model, batch = network(), batch_of()
    with monkeypatch.context() as patch:
        perturbations = perturbations_of(model, patch)
        _, together = vat_loss(model, batch, 0.1)
    padding_TB = torch.arange(len(perturbations[-1]))[:, None] >= batch.lengths_B
    assert padding_TB.any()
    assert not perturbations[-1][padding_TB].any()
    assert (perturbations[-1][~padding_TB].norm(dim=1) > 0).all()
    by_itself = [
        vat_loss(model, alone(batch, row, int(batch.lengths_B[row])), 0.1)[1].item() for row in range(ROWS)
    ]
    assert together.item() == pytest.approx(np.mean(by_itself), rel=0.05)
    assert max(by_itself) > 2 * min(by_itself), "each counts differently"


def test_dropout_masks_are_equal_with_and_without_the_perturbation() -> None:
    """Otherwise the masks alone would change the predictions: the control draws others."""
    model = network(dropout=0.5, embedding_dropout=0.5, word_dropout=0.5)
    batch = batch_of(40)
    assert vat_loss(model, batch, 1e-4)[1].item() < 1e-5
    before_BC, after_BC = (model(*batch.inputs).log_softmax(1) for _ in range(2))
    assert (before_BC.exp() * (before_BC - after_BC)).sum(1).mean() > 0.01


def test_the_unperturbed_prediction_has_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the perturbed prediction has a gradient; the unperturbed one is a constant target."""
    model, batch = network(), batch_of()
    with monkeypatch.context() as patch:
        perturbations = perturbations_of(model, patch)
        logits_BC, change = vat_loss(model, batch, 0.1)
    torch.testing.assert_close(logits_BC, model(*batch.inputs))
    expected = divergence(model, batch, perturbations[-1]).mean()
    assert change.item() == pytest.approx(expected.item(), rel=1e-3)
    found, reference = (torch.autograd.grad(of, list(model.parameters())) for of in (change, expected))
    for gradient, wanted in zip(found, reference, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in reference) > 1e-3


def test_the_ngram_branch_is_not_perturbed(configure: Configure) -> None:
    config = configure("--model.ngrams=64")
    corpus = corpus_of(config)
    model = initial_model(config, corpus).train()
    assert isinstance(model, WideAndDeep)
    batch = corpus.train.batch(range(ROWS))
    of_ngrams, of_lstm = list(model.ngrams.parameters()), list(model.lstm.parameters())
    logits_2BC, change = vat_loss(model, batch, 0.1)
    assert logits_2BC.shape == (2, ROWS, 3)
    assert torch.autograd.grad(change, of_ngrams, allow_unused=True, retain_graph=True) == (None, None)
    moved = torch.autograd.grad(change, of_lstm, allow_unused=True)
    assert sum(gradient is not None and bool(gradient.any()) for gradient in moved) > 5


# -- unlabelled texts ------------------------------------------------------------------------------


def test_unlabelled_texts_only_have_the_consistency_loss(configure: Configure, more: Path) -> None:
    corpus = corpus_of(configure(f"--data.unlabelled={more}", "--trainer.vat=0.1", "--data.max_rows=40"))
    assert corpus.unlabelled is not None
    rows, texts = len(corpus.train), len(corpus.unlabelled)
    both = with_unlabelled(corpus.train, corpus.unlabelled)
    times = texts // (2 * rows)
    assert times >= 2
    assert len(both) == times * rows + texts
    assert both.weights.mean() == pytest.approx(1)
    for row in (0, rows - 1):
        for again in range(times):
            assert both.token_ids(row + again * rows).tolist() == corpus.train.token_ids(row).tolist()
            assert both.labels[row + again * rows] == corpus.train.labels[row]
    logits_BC = torch.randn(len(both), 3)
    batch = both.batch(np.arange(len(both)))
    known = times * rows
    expected = nn.functional.cross_entropy(logits_BC[:known], torch.from_numpy(both.labels[:known]).long())
    torch.testing.assert_close(cross_entropy(None, 0.0)(logits_BC, batch), expected)
    assert batch.shares_B.tolist() == pytest.approx([1 / len(both)] * len(both))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_row_counts_the_same_on_however_many_processes(
    configure: Configure, more: Path, world_size: int
) -> None:
    """The row weights of a step sum to 1 on average over processes, for labelled and unlabelled rows."""
    corpus = corpus_of(configure(f"--data.unlabelled={more}", "--trainer.vat=0.1"))
    assert corpus.unlabelled is not None
    both = with_unlabelled(corpus.train, corpus.unlabelled)
    step = [np.arange(0, 40, 4), np.array([len(both) - 1])]
    counts = dict.fromkeys(np.concatenate(step).tolist(), 0.0)
    for rank in range(world_size):
        for rows, weights in rank_share(step, rank=rank, world_size=world_size):
            shares = both.batch(rows, weights).shares_B.tolist()
            for row, share in zip(rows.tolist(), shares, strict=True):
                counts[row] += share / world_size
    assert list(counts.values()) == pytest.approx([1 / 11] * 11)


def test_n_grams_count_labelled_rows_alone(configure: Configure, more: Path, tmp_path: Path) -> None:
    """Unlabelled texts have no class and must not be counted in class statistics."""
    rates = []
    for name, flags in (("alone", ()), ("more", (f"--data.unlabelled={more}", "--trainer.vat=0.1"))):
        config = configure("--model.ngrams=64", *flags, f"--out={tmp_path / name}", "--trainer.epochs=1")
        run(config)
        model = initial_model(config, corpus_of(config))
        assert isinstance(model, WideAndDeep)
        assert model.ngrams.weights.row_rates is not None
        rates.append(model.ngrams.weights.row_rates[-64:])
    assert not torch.equal(rates[0], rates[1]), "the vocabulary is another one"
    assert rates[1].mean() == pytest.approx(rates[0].mean().item(), rel=0.2)


def test_training_with_it_makes_predictions_robust(configure: Configure, tmp_path: Path) -> None:
    moved = {}
    for vat in (0.0, 0.5):
        config = configure(f"--trainer.vat={vat}", f"--out={tmp_path / str(vat)}", "--trainer.ema=0")
        run(config)
        corpus = corpus_of(config)
        model = initial_model(config, corpus).eval()
        model.load_state_dict(RunFolder(config.out).load(LAST).tensors["model"])
        moved[vat] = vat_loss(model, corpus.train.batch(range(100)), 0.3)[1].item()
    assert 0 < moved[0.5] < moved[0.0] / 2


@pytest.mark.parametrize("flags", [[], ["--model.ngrams=64", "--trainer.accumulate=2"]])
def test_a_killed_run_resumes_bit_for_bit(
    configure: Configure, more: Path, tmp_path: Path, flags: list[str]
) -> None:
    argv = (
        "--trainer.vat=0.1",
        f"--data.unlabelled={more}",
        "--trainer.checkpoint_every=4",
        "--trainer.epochs=2",
        *flags,
    )
    whole, killed = (configure(*argv, f"--out={tmp_path / name}") for name in ("whole", "killed"))
    run(whole)
    with killed_at_save(LAST, 3):
        run(killed)
    run(dataclasses.replace(killed, resume=True))
    first, second = (RunFolder(config.out).load(LAST).tensors["model"] for config in (whole, killed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_unlabelled_text_changes_the_weights(configure: Configure, tmp_path: Path) -> None:
    """Two files with the same words in another order give the same vocabulary."""
    found = []
    for seed in (1, 2):
        texts = [f"{text} again" for text, _ in make_rows(60, seed=3)]
        if seed == 2:
            texts = [" ".join(reversed(text.split())) for text in texts]
        file = write_csv(tmp_path / f"{seed}.csv", [(text, "x") for text in texts])
        config = configure(
            f"--data.unlabelled={file}",
            "--trainer.vat=0.2",
            "--trainer.epochs=1",
            f"--out={tmp_path / f'run-{seed}'}",
        )
        run(config)
        found.append(RunFolder(config.out).load(LAST).tensors["model"]["head.weight"])
    assert found[0].shape == found[1].shape
    assert not torch.equal(found[0], found[1])


# -- refused settings ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["-1", ".inf", ".nan"])
def test_an_invalid_epsilon_is_refused(configure: Configure, size: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.vat: must be"):
        configure(f"--trainer.vat={size}")


def test_vat_and_r_drop_together_are_refused(configure: Configure) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.vat: contradicts trainer\.r_drop"):
        configure("--trainer.vat=0.1", "--trainer.r_drop=1")


def test_unused_unlabelled_texts_are_refused(configure: Configure, more: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.unlabelled: .* or trainer\.vat"):
        configure(f"--data.unlabelled={more}")
