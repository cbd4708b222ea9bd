"""Final evaluation of a run: calibrate the best checkpoint, score it, compare with baselines.

Legend: R rows, C classes, K branches.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lstm_sentiment.adaptation.cross_validation import OutOfFold
from lstm_sentiment.adaptation.fitting import pooled_features
from lstm_sentiment.adaptation.stacking import AHEAD, NOT_AHEAD, standard_error_of_difference
from lstm_sentiment.adaptation.start import Start
from lstm_sentiment.checkpoints.run_folder import BEST, Checkpoint, RunFolder
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import Array, TextDataset
from lstm_sentiment.errors import CheckpointError, TrainingError
from lstm_sentiment.evaluation.calibration import Calibration, coverage_of, fit_calibration, fit_shares
from lstm_sentiment.evaluation.class_bias import choose_class_bias
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import better, calibration_error, report_lines, score
from lstm_sentiment.linear.baselines import baseline_scores
from lstm_sentiment.models.network import TfidfBranch, WideAndDeep, lstm_of, new_network
from lstm_sentiment.prediction.drift import MONITORING, profile_of, unknown_when_left_out
from lstm_sentiment.prediction.make_self_test import self_test_of
from lstm_sentiment.system.files import write_json
from lstm_sentiment.training.losses import row_weights
from lstm_sentiment.training.trainer import Trainer

log = logging.getLogger(__name__)

KEPT = {  # by the kind of a `stacking.Blend`
    "both": "the LSTM and the linear model together",
    "head": "the LSTM alone",
    "linear": "the linear model alone",
}
PARTS = {  # titles of scores, by their names in `stacking.Blend.scores`
    "start": "START unchanged",
    "head": "the LSTM",
    "linear": "the linear model",
    "both": "both",
    "kept": "kept model",
}
BIASES = ("lstm.head.bias", "ngrams.bias")  # parameters that a class bias is added to
UNBIASED = "biases_without_class_bias"  # fact of a checkpoint: parameter -> its values before
COVERAGES = (0.8, 0.9, 0.95)  # of label sets


def assess(
    folder: RunFolder,
    config: Config,
    corpus: Corpus,
    trainer: Trainer,
    crossed: OutOfFold | None = None,
    *,
    start: Start | None = None,
) -> dict[str, Any]:
    """Calibrate the best checkpoint on validation, score it on validation and test; called by all processes.

    The calibration is saved with the weights. The test rows are used here, and nowhere else.

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
    processes = trainer.processes
    best, model = _best_of(folder, trainer)
    held_out = {name: rows for name, rows in corpus.splits.items() if name != "train"}
    splits = {"validation": corpus.validation, **held_out}
    out_of_fold = crossed.logits[trainer.state.best_epoch] if crossed else {}

    def logits_of(of: nn.Module, name: str = "") -> dict[str, Array]:
        size = 4 * config.trainer.batch_size
        predict = functools.partial(predict_logits, of, device=trainer.device, batch_size=size)
        found = {split: predict(rows, processes=processes).numpy() for split, rows in held_out.items()}
        return {"validation": out_of_fold[name], **found} if crossed else found

    metrics: dict[str, Any] = {}
    if isinstance(model, WideAndDeep):
        of_branches = {name: logits_of(branch, name) for name, branch in model.named_children()}
        metrics, out_of_fold[""] = _combine(best, model, of_branches, splits, corpus, config)
        if "kept" in metrics:
            metrics["kept"]["scores"]["start"] = _score_of_start(start, corpus, config, trainer)
    logits = logits_of(model)
    calibration = fit_calibration(logits["validation"], corpus.validation.labels, corpus.validation.counts)
    truths = {name: rows.labels for name, rows in splits.items()}
    metrics |= calibrated_scores(calibration, logits, truths, corpus.labels) | {"baselines": {}}
    if processes.is_main:
        weights = best.tensors["model"]
        proof = self_test_of(weights, labels=corpus.labels, vocabulary=corpus.vocabulary, config=config)
        added = {"calibration": asdict(calibration), "proof": proof}
        folder.save(BEST, best.tensors, {**best.facts, **added})
        probabilities_RC = calibration.probabilities(logits["validation"])
        write_monitoring(folder, probabilities_RC, corpus, config, kept=start.tokens if start else ())
    if config.baseline:
        metrics["baselines"] = _baselines(config, corpus, metrics, main=processes.is_main)
    return metrics | {"metric": config.trainer.metric, **_of_training(trainer, cross_validated=bool(crossed))}


def write_monitoring(
    folder: RunFolder,
    probabilities_RC: Array,
    corpus: Corpus,
    config: Config,
    *,
    kept: Collection[str] = (),
    crossed_R: Array | None = None,
) -> None:
    """Write what new texts are compared with (see `drift`): the predictions for the validation rows.

    Args:
        folder: of the run.
        probabilities_RC: calibrated, of the validation rows.
        corpus: its rows.
        config: of the run.
        kept: tokens that are in the vocabulary whatever the rows.
        crossed_R: the rows that were cross-validated, if they were; None for all.

    Raises:
        DiskError: it cannot be written.

    Example::

        write_monitoring(RunFolder("runs/tweets"), calibration.probabilities(logits_RC), corpus, config)
    """
    rows = corpus.validation
    tokens_R, unknown_R = rows.count_unknown()
    if corpus.cross_validated:
        unknown_R = unknown_when_left_out(rows, least=config.text.min_frequency, kept=kept)
        places = slice(None) if crossed_R is None else crossed_R
        tokens_R, unknown_R = tokens_R[places], unknown_R[places]
    profile = profile_of(corpus.labels, probabilities_RC, tokens_R, unknown_R)
    write_json(folder.path / MONITORING, profile.as_json())


def _combine(
    best: Checkpoint,
    model: WideAndDeep,
    logits: dict[str, dict[str, Array]],
    splits: dict[str, TextDataset],
    corpus: Corpus,
    config: Config,
) -> tuple[dict[str, Any], Array]:
    """Set the branches' shares and the class bias of a network and of its checkpoint, by the validation rows.

    Args:
        best: checkpoint of the best epoch.
        model: the network with its weights.
        logits: by branch, by split, (R, C).
        splits: validation and, where there is one, test.
        corpus: the rows.
        config: of the run.

    Returns:
        scores of the branches and of what is kept, for metrics.json; and the validation logits (R, C).
    """
    metrics: dict[str, Any] = {}
    metrics["branches"], shares_K = _weigh(logits, splits, corpus.labels)
    gated = isinstance(model.ngrams, TfidfBranch)
    if gated:
        metrics["kept"], shares_K = _gate(logits, shares_K, corpus, config)
        for branch, share in zip(metrics["branches"].values(), shares_K.tolist(), strict=True):
            branch["share"] = share
    model.shares.copy_(torch.from_numpy(shares_K))
    validation_RC = _blended(logits, shares_K)
    if gated:
        best.facts[UNBIASED] = {name: best.tensors["model"][name].tolist() for name in BIASES}
        validation_RC += _add_class_bias(model, validation_RC, metrics["kept"], corpus, config)
    changed = ("shares", *BIASES)
    best.tensors["model"] |= {name: model.state_dict()[name].cpu().clone() for name in changed}
    return metrics, validation_RC


def _best_of(folder: RunFolder, trainer: Trainer) -> tuple[Checkpoint, nn.Module]:
    """Return the best checkpoint, and the model with its weights, after a barrier."""
    trainer.processes.barrier()
    if not folder.has(BEST):
        raise TrainingError(
            "no epoch had a finite validation loss; lower trainer.learning_rate or set trainer.precision fp32"
        )
    best, model = folder.load(BEST), trainer.evaluated_model()
    if UNBIASED in best.facts:  # of a finished run: its class bias is chosen anew
        _restore_biases(best.tensors["model"], best.facts[UNBIASED], folder)
    model.load_state_dict(best.tensors["model"])
    return best, model


def _restore_biases(weights: dict[str, Tensor], without: Any, folder: RunFolder) -> None:
    """Put the biases from before the class bias was added back into the weights of a network."""
    try:
        found = {name: torch.tensor(without[name], dtype=weights[name].dtype) for name in BIASES}
    except (LookupError, TypeError, ValueError, RuntimeError):
        found = {}
    if any(name not in found or found[name].shape != weights[name].shape for name in BIASES):
        raise CheckpointError(f"{folder.path / BEST}: {UNBIASED} is damaged; start another run")
    weights.update(found)


def _baselines(config: Config, corpus: Corpus, metrics: Mapping[str, Any], *, main: bool) -> dict[str, Any]:
    """Return the baselines' scores on held-out rows; empty without these, or in other processes."""
    if "kept" in metrics:
        return branch_baselines(corpus, metrics["branches"])
    held_out = [rows for name, rows in corpus.splits.items() if name != "train"]
    if not main or not held_out:
        return {}
    last = held_out[-1]
    return baseline_scores(corpus.train, last, corpus.labels, seed=config.seed)


def _of_training(trainer: Trainer, *, cross_validated: bool) -> dict[str, Any]:
    state = trainer.state
    return ({"cross_validated": True} if cross_validated else {}) | {
        "best_epoch": state.best_epoch + 1,
        "epochs": state.epoch,
        "steps": state.step,
        "training_s": round(state.elapsed_s, 1),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
    }


def calibrated_scores(
    calibration: Calibration, logits: Mapping[str, Array], truths: Mapping[str, Array], labels: list[str]
) -> dict[str, Any]:
    """Return the scores by split, and, as `calibration`, the effect of the calibration.

    Args:
        calibration: fitted on validation rows.
        logits: by split, (R, C).
        truths: class indices by split, (R,).
        labels: class names.
    """
    metrics: dict[str, Any] = {}
    facts: dict[str, Any] = {"temperature": calibration.temperature}
    for name, truth_R in truths.items():
        probabilities_RC = calibration.probabilities(logits[name])
        metrics[name] = score(truth_R, probabilities_RC, labels)
        facts[name] = {
            "ece_before": calibration_error(truth_R, Calibration().probabilities(logits[name])),
            "ece_after": metrics[name]["ece"],
            "label_sets": {
                str(wanted): coverage_of(calibration.label_sets(probabilities_RC, wanted), truth_R)
                for wanted in COVERAGES
            },
        }
    return metrics | {"calibration": facts}


def _weigh(
    logits: dict[str, dict[str, Array]], splits: dict[str, TextDataset], labels: list[str]
) -> tuple[dict[str, Any], Array]:
    """Return the scores of each branch alone, by name, and the branches' shares (K,).

    Args:
        logits: by branch, by split, (R, C).
        splits: validation and, if available, test.
        labels: class names.
    """
    truth_R, counts_R = splits["validation"].labels, splits["validation"].counts
    validation_KRC = np.stack([of_splits["validation"] for of_splits in logits.values()])
    shares_K = fit_shares(validation_KRC, truth_R, counts_R)
    branches: dict[str, Any] = {}
    for (branch, of_splits), share in zip(logits.items(), shares_K.tolist(), strict=True):
        alone = fit_calibration(of_splits["validation"], truth_R, counts_R)
        branches[branch] = {"share": share} | {
            name: score(splits[name].labels, alone.probabilities(logits_RC), labels)
            for name, logits_RC in of_splits.items()
        }
    return branches, shares_K


def branch_baselines(corpus: Corpus, branches: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of the majority class and of the linear branch as the linear baseline.

    Args:
        corpus: of the run.
        branches: as in metrics.json.
    """
    split, rows = ("test", corpus.test) if corpus.test is not None else ("validation", corpus.validation)
    counts = np.bincount(corpus.train.labels, corpus.train.weights, minlength=len(corpus.labels))
    majority_RC = np.tile(counts / counts.sum(), (len(rows), 1))
    linear = {key: value for key, value in branches["ngrams"][split].items() if key != "share"}
    return {
        "majority": score(rows.labels, majority_RC, corpus.labels),
        "tfidf_logistic_regression": linear | {"training_rows": len(corpus.train)},
    }


def _blended(logits: dict[str, dict[str, Array]], shares_K: Array) -> Array:
    """Return the weighted sum (R, C) of the branches' logits of the validation rows."""
    blended_RC: Array = np.tensordot(shares_K, np.stack([of["validation"] for of in logits.values()]), axes=1)
    return blended_RC


def _gate(
    logits: dict[str, dict[str, Array]], shares_K: Array, corpus: Corpus, config: Config
) -> tuple[dict[str, Any], Array]:
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
    kept = {
        "kind": "linear" if ahead else "both",
        "why": AHEAD if ahead else NOT_AHEAD,
        "scores": {"start": None, **found, "kept": found["linear" if ahead else "both"]},
        "start": config.pretrained,
        "adapt": config.adapt,
        "cross_validated": corpus.cross_validated,
    }
    return kept, np.array([0.0, 2.0]) if ahead else shares_K


@torch.no_grad()
def _add_class_bias(
    model: WideAndDeep, logits_RC: Array, kept: dict[str, Any], corpus: Corpus, config: Config
) -> Array:
    """Give the network the class bias that its metric asks for, and return it (C,); note it in `kept`.

    The linear model kept alone gets it only where its validation score does not fall: it is never worse than
    the linear model of the same rows.

    Args:
        model: with its final shares.
        logits_RC: of the validation rows.
        kept: what metrics.json says about it.
        corpus: the rows.
        config: of the run.
    """
    rows, labels, trainer = corpus.validation, corpus.labels, config.trainer
    weights_R = row_weights(rows, len(labels), balanced=trainer.class_weights == "balanced")
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
    if kept["kind"] == "linear" and better(kept["scores"]["kept"], found, trainer.metric):
        return np.zeros(len(labels))
    kept["class_bias"], kept["scores"]["kept"] = bias.strength, found
    of_each_C = torch.from_numpy(bias.bias_C / float(model.shares.sum())).float()
    model.lstm.head.bias.add_(of_each_C.to(model.lstm.head.bias.device))
    model.ngrams.bias.add_(of_each_C.to(model.ngrams.bias.device))
    return bias.bias_C


def _score_of_start(start: Start | None, corpus: Corpus, config: Config, trainer: Trainer) -> float | None:
    """Return the validation score of the unchanged classifier; None if its classes cannot be mapped."""
    if start is None or start.matching(corpus.labels) is None:
        return None
    sizes = {"subwords": config.text.subwords, **asdict(config.model)}
    lstm = lstm_of(new_network(corpus.vocabulary, len(corpus.labels), **sizes))
    start.copy_to(lstm, corpus.vocabulary)
    features_RP = pooled_features(
        lstm.to(trainer.device).eval(), corpus.validation, device=trainer.device, processes=trainer.processes
    )
    logits_RC = start.logits(features_RP, corpus.validation, corpus.labels)
    assert logits_RC is not None
    rows, probabilities_RC = corpus.validation, Calibration().probabilities(logits_RC)
    return float(score(rows.labels, probabilities_RC, corpus.labels, rows.counts)[config.trainer.metric])


def report_scores(metrics: dict[str, Any], path: Path) -> None:
    """Log the scores of a run."""
    for level, line in summary(metrics):
        log.log(level, "%s", line)
    log.info(
        "%.0f s in total, %.0f s of training; run folder: %s",
        metrics["total_s"],
        metrics["training_s"],
        path,
    )


def summary(metrics: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return the summary of a run, as log levels and lines.

    Args:
        metrics: content of metrics.json.
    """
    held_out = "test" if "test" in metrics else "validation"
    facts = metrics["calibration"][held_out]
    lines = []
    if metrics["best_epoch"]:
        lines.append(f"best epoch {metrics['best_epoch']} by {metrics['metric']}")
    if metrics.get("kept"):
        lines += _kept_lines(metrics["kept"], metrics["metric"])
    lines += report_lines(metrics[held_out], title=held_out)
    lines.append(
        f"  calibrated on validation: temperature {metrics['calibration']['temperature']:.2f}, "
        f"calibration error {facts['ece_before']:.4f} -> {facts['ece_after']:.4f}"
    )
    for wanted, found in facts["label_sets"].items():
        lines.append(
            f"  label sets for {100 * float(wanted):.0f}%: {100 * found['coverage']:.1f}% hold the true "
            f"label; {found['labels']:.2f} labels on average"
        )
    for name, branch in metrics.get("branches", {}).items():
        scores = _three_scores(branch[held_out])
        lines.append(f"  branch {name + ', alone':<28} {scores}   share {branch['share']:.2f}")
    lines += [f"  baseline {name:<26} {_three_scores(of)}" for name, of in metrics["baselines"].items()]
    summarised = [(logging.INFO, line) for line in lines]
    linear = metrics["baselines"].get("tfidf_logistic_regression")
    if linear and linear["macro_f1"] > metrics[held_out]["macro_f1"]:
        lead = linear["macro_f1"] - metrics[held_out]["macro_f1"]
        hint = "more epochs, pretrained vectors (text.vectors) or more rows may help"
        summarised.append((logging.WARNING, f"the linear baseline is ahead by {lead:.3f} macro-F1: {hint}"))
    return summarised


def _kept_lines(kept: Mapping[str, Any], metric: str) -> list[str]:
    """Describe which of head and linear model is kept, with the scores of each."""
    lines = [f"kept: {KEPT[kept['kind']]}; {kept['why']}"]
    scores = {name: of for name, of in kept.get("scores", {}).items() if of is not None}
    if scores:
        where = "cross-validated rows" if kept["cross_validated"] else "held-out rows"
        parts = ", ".join(f"{name} {scores[key]:.3f}" for key, name in PARTS.items() if key in scores)
        lines.append(f"  {metric} on {where}: {parts.replace('START', str(kept['start']))}")
    if kept.get("class_bias"):
        lines.append(
            f"  the kept model has a bias towards rare classes, strength {kept['class_bias']:.2f} of 1"
        )
    return lines


def _three_scores(scores: Mapping[str, Any]) -> str:
    return (
        f"accuracy {scores['accuracy']:.4f}   macro-F1 {scores['macro_f1']:.4f}   "
        f"macro recall {scores['macro_recall']:.4f}"
    )
