"""Final evaluation of a run: calibrate the best checkpoint, score it, compare with baselines.

Legend: R rows, C classes, K branches.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from lstm_sentiment.adaptation.cross_validation import OutOfFold
from lstm_sentiment.adaptation.fitting import pooled_features
from lstm_sentiment.adaptation.stacking import AHEAD, NOT_AHEAD, is_ahead, standard_error_of_difference
from lstm_sentiment.adaptation.start import Start
from lstm_sentiment.checkpoints.run_folder import BEST, LINEAR, Checkpoint, RunFolder
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import Array, TextDataset
from lstm_sentiment.deployment.bf16 import bf16_effect
from lstm_sentiment.errors import CheckpointError, TrainingError
from lstm_sentiment.evaluation.calibration import Calibration, calibrated_scores, fit_calibration, fit_shares
from lstm_sentiment.evaluation.class_bias import choose_class_bias
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import better, score
from lstm_sentiment.linear.baselines import (
    LinearBaseline,
    against_linear,
    baseline_scores,
    fit_linear_baseline,
    linear_baseline,
    saved_branches,
)
from lstm_sentiment.models.network import NgramBranch, TfidfBranch, WideAndDeep, lstm_of, new_network
from lstm_sentiment.models.stored_linear import BUCKETS, packed
from lstm_sentiment.monitoring.validation_profile import write_monitoring
from lstm_sentiment.prediction.make_self_test import self_test_of
from lstm_sentiment.records.checkpoint_facts import BestFacts
from lstm_sentiment.records.json_values import to_json
from lstm_sentiment.records.run_metrics import (
    AgainstLinear,
    BranchMetrics,
    Kept,
    PartScores,
    RunMetrics,
)
from lstm_sentiment.records.scores import Scores
from lstm_sentiment.training.losses import row_weights
from lstm_sentiment.training.trainer import Trainer

BIASES = ("lstm.head.bias", "ngrams.bias")  # parameters that a class bias is added to
UNBIASED = "biases_without_class_bias"  # fact of a checkpoint: parameter -> its values before
Branches = dict[str, BranchMetrics]  # by name: lstm, ngrams


class OfTraining(TypedDict):
    """Fields of `RunMetrics` that training determines."""

    metric: str
    cross_validated: bool | None
    best_epoch: int
    epochs: int
    steps: int
    training_s: float
    parameters: int


def assess(
    folder: RunFolder,
    config: Config,
    corpus: Corpus,
    trainer: Trainer,
    crossed: OutOfFold | None = None,
    *,
    start: Start | None = None,
) -> RunMetrics:
    """Calibrate the best checkpoint on validation, score it on validation and test; called by all processes.

    Test rows are used here, and nowhere else.

    Args:
        folder: of the run.
        config: of the run.
        corpus: its rows.
        trainer: that trained it.
        crossed: out-of-fold predictions of the training rows, if there are no validation rows.
        start: the classifier that training started from, to be scored unchanged.

    Raises:
        TrainingError: no epoch had a finite loss.
    """
    best, model = _best_of(folder, trainer)
    held_out = {name: rows for name, rows in corpus.splits.items() if name != "train"}
    splits, seconds = {"validation": corpus.validation, **held_out}, trainer.state.elapsed_s
    out_of_fold = crossed.logits[trainer.state.best_epoch] if crossed else {}

    def logits_of(of: nn.Module, name: str = "") -> dict[str, Array]:
        found = _logits_by_split(of, held_out, trainer)
        return {"validation": out_of_fold[name], **found} if crossed else found

    branches, kept, linear = None, None, None
    if isinstance(model, WideAndDeep):
        of_branches = {name: logits_of(branch, name) for name, branch in model.named_children()}
        linear = _linear_branch(model.ngrams, of_branches["ngrams"], corpus, config)
        branches, kept, out_of_fold[""] = _combine(best, model, of_branches, splits, corpus, config)
        kept = kept and _with_start(kept, out_of_fold[""], start, corpus, config, trainer)
    logits = logits_of(model)
    calibration = fit_calibration(logits["validation"], corpus.validation.labels, corpus.validation.counts)
    truths = {name: rows.labels for name, rows in splits.items()}
    scores, effect = calibrated_scores(calibration, logits, truths, corpus.labels)
    if trainer.processes.is_main:
        _save_calibrated(folder, best, calibration, linear, corpus, config)
        linear = linear or _fitted_linear(folder, corpus, config)
        found_RC = calibration.probabilities(logits["validation"])
        write_monitoring(folder, found_RC, corpus, config, kept=start.tokens if start else ())
    found = compared_with_baselines(linear, logits, truths, config, corpus, kept, seconds=seconds)
    return RunMetrics(
        branches=with_linear(branches, linear if kept else None, truths),
        kept=kept,
        validation=scores["validation"],
        test=scores.get("test"),
        calibration=effect,
        bf16=bf16_effect(model, calibration, corpus.test or corpus.validation),
        baselines=found[0],
        against_linear=found[1],
        **_of_training(trainer, crossed),
    )


def _of_training(trainer: Trainer, crossed: OutOfFold | None) -> OfTraining:
    state = trainer.state
    return {
        "metric": trainer.config.metric,
        "cross_validated": True if crossed else None,
        "best_epoch": state.best_epoch + 1,
        "epochs": state.epoch,
        "steps": state.step,
        "training_s": round(state.elapsed_s, 1),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
    }


def _logits_by_split(
    network: nn.Module, splits: Mapping[str, TextDataset], trainer: Trainer
) -> dict[str, Array]:
    """Return the logits (R, C) of each split, computed with all processes."""
    size = 4 * trainer.config.batch_size
    predict = functools.partial(predict_logits, network, device=trainer.device, batch_size=size)
    return {split: predict(rows, processes=trainer.processes).numpy() for split, rows in splits.items()}


def _save_calibrated(
    folder: RunFolder,
    best: Checkpoint,
    calibration: Calibration,
    linear: LinearBaseline | None,
    corpus: Corpus,
    config: Config,
) -> None:
    """Save the best checkpoint again, with its calibration, that of its linear model, and its self-test."""
    weights = best.tensors["model"]
    proof = self_test_of(weights, labels=corpus.labels, vocabulary=corpus.vocabulary, config=config)
    added = {"calibration": asdict(calibration), "proof": proof}
    added |= {"linear": to_json(linear.saved())} if linear else {}
    folder.save(BEST, best.tensors, {**best.facts, **added})


def _combine(
    best: Checkpoint,
    model: WideAndDeep,
    logits: dict[str, dict[str, Array]],
    splits: dict[str, TextDataset],
    corpus: Corpus,
    config: Config,
) -> tuple[Branches, Kept | None, Array]:
    """Set the branches' shares and the class bias of a network and of its checkpoint, by the validation rows.

    Args:
        best: checkpoint of the best epoch.
        model: the network with its weights.
        logits: by branch, by split, (R, C).
        splits: validation and, where there is one, test.
        corpus: the rows.
        config: of the run.

    Returns:
        metrics of the branches; what is kept, if that is decided here; and the validation logits (R, C).
    """
    branches, shares_K = _weigh(logits, splits, corpus.labels)
    kept = None
    if isinstance(model.ngrams, TfidfBranch):
        kept, shares_K = _gate(logits, shares_K, corpus, config)
        of_names = zip(branches.items(), shares_K.tolist(), strict=True)
        branches = {name: replace(branch, share=share) for (name, branch), share in of_names}
    model.shares.copy_(torch.from_numpy(shares_K))
    biases = {name: best.tensors["model"][of].numpy() for name, of in zip(logits, BIASES, strict=True)}
    stepped = {name: of["validation"] for name, of in logits.items() if kept is None or name == "lstm"}
    rows = splits["validation"]
    best.facts["branches"] = to_json(saved_branches(stepped, biases, rows.labels, rows.counts))
    validation_RC = _blended(logits, shares_K)
    if kept is not None:
        best.facts[UNBIASED] = {name: best.tensors["model"][name].tolist() for name in BIASES}
        kept, bias_C = _add_class_bias(model, validation_RC, kept, corpus, config)
        validation_RC += bias_C
    best.tensors["model"] |= {name: model.state_dict()[name].cpu().clone() for name in ("shares", *BIASES)}
    return branches, kept, validation_RC


def _best_of(folder: RunFolder, trainer: Trainer) -> tuple[Checkpoint, nn.Module]:
    """Return the best checkpoint, and the model with its weights, after a barrier."""
    trainer.processes.barrier()
    if not folder.has(BEST):
        raise TrainingError(
            "no epoch had a finite validation loss; lower trainer.learning_rate or set trainer.precision fp32"
        )
    best, model = folder.load(BEST), trainer.evaluated_model()
    without = best.facts_as(BestFacts).biases_without_class_bias
    if without is not None:  # of a finished run: its class bias is chosen anew
        _restore_biases(best.tensors["model"], without, folder)
    model.load_state_dict(best.tensors["model"])
    return best, model


def _restore_biases(weights: dict[str, Tensor], without: dict[str, list[float]], folder: RunFolder) -> None:
    """Put the biases from before the class bias was added back into the weights of a network."""
    found = {name: torch.tensor(without.get(name, []), dtype=torch.float32) for name in BIASES}
    if any(found[name].shape != weights[name].shape for name in BIASES):
        raise CheckpointError(f"{folder.path / BEST}: {UNBIASED} is damaged; start another run")
    weights.update(found)


def _linear_branch(
    branch: NgramBranch, logits: Mapping[str, Array], corpus: Corpus, config: Config
) -> LinearBaseline | None:
    """Return the linear branch of a network as the baseline; None if it was trained by gradient steps."""
    if not isinstance(branch, TfidfBranch):
        return None
    return linear_baseline(
        branch,
        logits,
        corpus.validation,
        labels=corpus.labels,
        row_weights=_weights_of(corpus.validation, corpus, config),
        metric=config.trainer.metric,
        rows=len(corpus.train),
    )


def _fitted_linear(folder: RunFolder, corpus: Corpus, config: Config) -> LinearBaseline | None:
    """Fit the linear baseline and save it in the run, if there are rows to score it on."""
    held_out = {name: rows for name, rows in corpus.splits.items() if name != "train"}
    if not config.baseline or not held_out:
        return None
    linear = fit_linear_baseline(
        corpus.train,
        held_out,
        labels=corpus.labels,
        vocabulary_size=len(corpus.vocabulary),
        row_weights=_weights_of(corpus.train, corpus, config),
        validation_weights=_weights_of(corpus.validation, corpus, config),
        metric=config.trainer.metric,
        seed=config.seed,
    )
    facts = {BUCKETS: linear.branch.buckets, "linear": to_json(linear.saved())}
    folder.save(LINEAR, {"model": packed(linear.branch)}, facts)
    return linear


def _weights_of(rows: TextDataset, corpus: Corpus, config: Config) -> Array:
    return row_weights(rows, len(corpus.labels), balanced=config.trainer.class_weights == "balanced")


def with_linear(
    branches: Branches | None, linear: LinearBaseline | None, truths: Mapping[str, Array]
) -> Branches | None:
    """Return the metrics of branches, those of a linear branch as of the baseline.

    Args:
        branches: of a network, None if it has none.
        linear: its linear branch, None if it has none.
        truths: class indices by split, (R,).
    """
    if branches is None or linear is None:
        return branches
    scores = {split: linear.scores(split, truth_R) for split, truth_R in truths.items()}
    ngrams = replace(branches["ngrams"], validation=scores["validation"], test=scores.get("test"))
    return {**branches, "ngrams": ngrams}


def compared_with_baselines(
    linear: LinearBaseline | None,
    logits: Mapping[str, Array],
    truths: Mapping[str, Array],
    config: Config,
    corpus: Corpus,
    kept: Kept | None,
    *,
    seconds: float,
) -> tuple[dict[str, Scores], AgainstLinear | None]:
    """Return the scores of the baselines, if configured, and the comparison of the model with the linear one.

    Args:
        linear: the linear baseline, if there is one.
        logits: of the model by split, (R, C).
        truths: class indices by split, (R,).
        config: of the run.
        corpus: its rows.
        kept: which of LSTM and linear model was kept, if that was decided.
        seconds: of the model's training.
    """
    if linear is None:
        return {}, None
    split = "test" if "test" in truths else "validation"
    scored = config.baseline and len(linear.logits[split]) == len(truths[split])
    baselines = {}
    if scored:
        scores = linear.scores(split, truths[split])
        baselines = baseline_scores(scores, corpus.train, truths[split], rows=linear.rows)
    if kept is not None and kept.kind == "linear":
        return baselines, None
    metric = config.trainer.metric
    return baselines, against_linear(linear, logits, truths, metric=metric, seconds=seconds)


def _weigh(
    logits: dict[str, dict[str, Array]], splits: dict[str, TextDataset], labels: list[str]
) -> tuple[Branches, Array]:
    """Return the metrics of each branch alone, by name, and the branches' shares (K,).

    Args:
        logits: by branch, by split, (R, C).
        splits: validation and, if available, test.
        labels: class names.
    """
    truth_R, counts_R = splits["validation"].labels, splits["validation"].counts
    validation_KRC = np.stack([of_splits["validation"] for of_splits in logits.values()])
    shares_K = fit_shares(validation_KRC, truth_R, counts_R)
    truths = {name: rows.labels for name, rows in splits.items()}
    of_shares = zip(logits.items(), shares_K.tolist(), strict=True)
    branches = {
        name: branch_metrics(of_splits, truths, labels, share=share, row_counts=counts_R)
        for (name, of_splits), share in of_shares
    }
    return branches, shares_K


def branch_metrics(
    logits: Mapping[str, Array],
    truths: Mapping[str, Array],
    labels: list[str],
    *,
    share: float,
    row_counts: Array,
) -> BranchMetrics:
    """Calibrate a branch alone on the validation rows, and return its metrics.

    Args:
        logits: by split, (R, C).
        truths: class indices by split, (R,).
        labels: class names.
        share: of the branch.
        row_counts: multiplicity of each validation row, (R,).
    """
    alone = fit_calibration(logits["validation"], truths["validation"], row_counts)
    scores = {
        name: score(truths[name], alone.probabilities(logits_RC), labels)
        for name, logits_RC in logits.items()
    }
    return BranchMetrics(share=share, validation=scores["validation"], test=scores.get("test"))


def _blended(logits: dict[str, dict[str, Array]], shares_K: Array) -> Array:
    """Return the weighted sum (R, C) of the branches' logits of the validation rows."""
    blended_RC: Array = np.tensordot(shares_K, np.stack([of["validation"] for of in logits.values()]), axes=1)
    return blended_RC


def _gate(
    logits: dict[str, dict[str, Array]], shares_K: Array, corpus: Corpus, config: Config
) -> tuple[Kept, Array]:
    """Return what is kept and why, and the shares: only the linear branch if it is ahead."""
    truth_R, counts_R, metric = corpus.validation.labels, corpus.validation.counts, config.trainer.metric
    linear_RC = logits["ngrams"]["validation"]
    both_RC = _blended(logits, shares_K)
    found = {
        name: score(truth_R, Calibration().probabilities(logits_RC), corpus.labels, counts_R)[metric]
        for name, logits_RC in (
            ("head", logits["lstm"]["validation"]), ("linear", linear_RC), ("both", both_RC)
        )
    }  # fmt: skip
    lead = abs(found["linear"] - found["both"])
    by_chance = standard_error_of_difference(both_RC, linear_RC, truth_R, counts_R)
    ahead = better(found["linear"], found["both"], metric) and lead > by_chance
    kept = Kept(
        kind="linear" if ahead else "both",
        why=AHEAD if ahead else NOT_AHEAD,
        scores=PartScores(start=None, **found, kept=found["linear" if ahead else "both"]),
        start=config.pretrained,
        adapt=config.adapt,
        cross_validated=corpus.cross_validated,
    )
    return kept, np.array([0.0, 2.0]) if ahead else shares_K


@torch.no_grad()
def _add_class_bias(
    model: WideAndDeep, logits_RC: Array, kept: Kept, corpus: Corpus, config: Config
) -> tuple[Kept, Array]:
    """Give the network the class bias that its metric asks for; return `kept` with it, and the bias (C,).

    The linear model kept alone gets it only where its validation score does not fall: it is never worse than
    the linear model of the same rows.

    Args:
        model: with its final shares.
        logits_RC: of the validation rows.
        kept: without class bias.
        corpus: the rows.
        config: of the run.
    """
    rows, labels, trainer = corpus.validation, corpus.labels, config.trainer
    weights_R = _weights_of(rows, corpus, config)
    bias = choose_class_bias(
        logits_RC,
        rows.labels,
        names=labels,
        row_weights=weights_R,
        metric=trainer.metric,
        row_counts=rows.counts,
    )
    probabilities_RC = Calibration().probabilities(logits_RC + bias.bias_C)
    found = score(rows.labels, probabilities_RC, labels, rows.counts)[trainer.metric]
    assert kept.scores is not None
    assert kept.scores.kept is not None
    if kept.kind == "linear" and better(kept.scores.kept, found, trainer.metric):
        return kept, np.zeros(len(labels))
    kept = replace(kept, class_bias=bias.strength, scores=replace(kept.scores, kept=found))
    of_each_C = torch.from_numpy(bias.bias_C / float(model.shares.sum())).float()
    model.lstm.head.bias.add_(of_each_C.to(model.lstm.head.bias.device))
    model.ngrams.bias.add_(of_each_C.to(model.ngrams.bias.device))
    return kept, bias.bias_C


def _with_start(
    kept: Kept, kept_RC: Array, start: Start | None, corpus: Corpus, config: Config, trainer: Trainer
) -> Kept:
    """Add the score of the unchanged classifier that training started from, if its classes can be mapped."""
    if start is None or start.matching(corpus.labels) is None:
        return kept
    sizes = {"subwords": config.text.subwords, **asdict(config.model)}
    lstm = lstm_of(new_network(corpus.vocabulary, len(corpus.labels), **sizes))
    start.copy_to(lstm, corpus.vocabulary)
    features_RP = pooled_features(
        lstm.to(trainer.device).eval(), corpus.validation, device=trainer.device, processes=trainer.processes
    )
    logits_RC = start.logits(features_RP, corpus.validation, corpus.labels)
    assert logits_RC is not None
    rows, metric = corpus.validation, config.trainer.metric
    found = score(rows.labels, Calibration().probabilities(logits_RC), corpus.labels, rows.counts)[metric]
    of_rows: dict[str, Any] = {"names": corpus.labels, "metric": metric, "row_counts": rows.counts}
    behind = is_ahead(logits_RC, kept_RC, rows.labels, **of_rows)
    assert kept.scores is not None
    return replace(kept, scores=replace(kept.scores, start=float(found)), behind_start=behind or None)
