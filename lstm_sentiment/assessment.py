"""How good a run's best epoch is: calibrated, scored once, beside the baselines.

Legend: R rows, C classes, K branches.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lstm_sentiment.adaptation.stacking import chance_of
from lstm_sentiment.baselines import baseline_scores
from lstm_sentiment.calibration import Calibration, coverage_of, fit_calibration, fit_shares
from lstm_sentiment.checkpoint import BEST, RunFolder
from lstm_sentiment.config import Config
from lstm_sentiment.corpus import Corpus
from lstm_sentiment.dataset import Array, TextDataset
from lstm_sentiment.errors import TrainingError
from lstm_sentiment.inference import predict_logits
from lstm_sentiment.metrics import better, calibration_error, report_lines, score
from lstm_sentiment.network import TfidfBranch, WideAndDeep
from lstm_sentiment.proving import proof_of
from lstm_sentiment.trainer import Trainer

log = logging.getLogger(__name__)

KEPT = {  # by the kind of a `stacking.Blend`
    "both": "the LSTM and the linear model together",
    "head": "the LSTM alone",
    "linear": "the linear model alone",
}
COVERAGES = (0.8, 0.9, 0.95)  # of label sets, as asked for


def assess(folder: RunFolder, config: Config, corpus: Corpus, trainer: Trainer) -> dict[str, Any]:
    """Calibrate the best epoch on validation and score it on validation and test; every process calls this.

    The calibration is put beside the weights. The test rows are read here, and nowhere else.

    Raises:
        TrainingError: no epoch was good enough to be kept.
    """
    processes = trainer.processes
    processes.barrier()
    if not folder.has(BEST):
        raise TrainingError(
            "no epoch had a finite validation loss; lower trainer.learning_rate or set trainer.precision fp32"
        )
    best = folder.load(BEST)
    model = trainer.evaluated_model()
    model.load_state_dict(best.tensors["model"])
    splits = {name: rows for name, rows in corpus.splits.items() if name != "train"}

    def answers(of: nn.Module) -> dict[str, Array]:
        size = 4 * config.trainer.batch_size
        answering = functools.partial(predict_logits, of, device=trainer.device, batch_size=size)
        return {name: answering(rows, processes=processes).numpy() for name, rows in splits.items()}

    metrics: dict[str, Any] = {}
    if isinstance(model, WideAndDeep):
        of_branches = {name: answers(branch) for name, branch in model.named_children()}
        metrics["branches"], shares_K = _weigh(of_branches, splits, corpus.labels)
        if isinstance(model.ngrams, TfidfBranch):
            metrics["kept"], shares_K = _gate(of_branches, shares_K, corpus, config)
            for branch, share in zip(metrics["branches"].values(), shares_K.tolist(), strict=True):
                branch["share"] = share
        model.shares.copy_(torch.from_numpy(shares_K))
        best.tensors["model"]["shares"] = model.shares.cpu().clone()
    logits = answers(model)
    calibration = fit_calibration(logits["validation"], corpus.validation.labels)
    truths = {name: rows.labels for name, rows in splits.items()}
    metrics |= calibrated_scores(calibration, logits, truths, corpus.labels) | {"baselines": {}}
    if processes.is_main:
        weights = best.tensors["model"]
        proof = proof_of(weights, labels=corpus.labels, vocabulary=corpus.vocabulary, config=config)
        added = {"calibration": asdict(calibration), "proof": proof}
        folder.save(BEST, best.tensors, {**best.facts, **added})
    if config.baseline and "kept" in metrics:
        metrics["baselines"] = baselines_beside(corpus, metrics["branches"])
    elif config.baseline and processes.is_main:
        held_out = corpus.validation if corpus.test is None else corpus.test
        metrics["baselines"] = baseline_scores(corpus.train, held_out, corpus.labels, seed=config.seed)
    state = trainer.state
    return metrics | {
        "metric": config.trainer.metric,
        "best_epoch": state.best_epoch + 1,
        "epochs": state.epoch,
        "steps": state.step,
        "training_s": round(state.elapsed_s, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def calibrated_scores(
    calibration: Calibration, logits: Mapping[str, Array], truths: Mapping[str, Array], labels: list[str]
) -> dict[str, Any]:
    """Return the scores of splits by name, and, as `calibration`, what the calibration does for them.

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
        splits: validation and, where there is one, test.
        labels: class names.
    """
    truth_R = splits["validation"].labels
    shares_K = fit_shares(np.stack([of_splits["validation"] for of_splits in logits.values()]), truth_R)
    branches: dict[str, Any] = {}
    for (branch, of_splits), share in zip(logits.items(), shares_K.tolist(), strict=True):
        alone = fit_calibration(of_splits["validation"], truth_R)
        branches[branch] = {"share": share} | {
            name: score(splits[name].labels, alone.probabilities(logits_RC), labels)
            for name, logits_RC in of_splits.items()
        }
    return branches, shares_K


def baselines_beside(corpus: Corpus, branches: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of the majority class, and of the linear branch, which is the linear baseline.

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


def _gate(
    logits: dict[str, dict[str, Array]], shares_K: Array, corpus: Corpus, config: Config
) -> tuple[dict[str, Any], Array]:
    """Return what is kept and why, and the shares: the linear branch gets all where it is ahead."""
    truth_R, metric = corpus.validation.labels, config.trainer.metric
    linear_RC = logits["ngrams"]["validation"]
    both_RC = np.tensordot(shares_K, np.stack([of["validation"] for of in logits.values()]), axes=1)
    found = {
        name: score(truth_R, Calibration().probabilities(logits_RC), corpus.labels)[metric]
        for name, logits_RC in (("both", both_RC), ("linear", linear_RC))
    }
    lead = abs(found["linear"] - found["both"])
    ahead = better(found["linear"], found["both"], metric) and lead > chance_of(both_RC, linear_RC, truth_R)
    why = f"validation {metric} {found['both']:.3f}, of the linear model {found['linear']:.3f}"
    kept = {
        "kind": "linear" if ahead else "both",
        "why": f"the linear model is ahead: {why}" if ahead else why,
        "start": config.pretrained,
        "adapt": config.adapt,
        "cross_validated": False,
    }
    return kept, np.array([0.0, 2.0]) if ahead else shares_K


def report_scores(metrics: dict[str, Any], path: Path) -> None:
    """Tell the terminal how good the run is."""
    for level, line in summary(metrics):
        log.log(level, "%s", line)
    log.info(
        "%.0f s in all, %.0f s of them training; run folder: %s",
        metrics["total_s"],
        metrics["training_s"],
        path,
    )


def summary(metrics: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return how good a run is, line by line, each with its level of logging.

    Args:
        metrics: of metrics.json.
    """
    held_out = "test" if "test" in metrics else "validation"
    facts = metrics["calibration"][held_out]
    lines = []
    if metrics["best_epoch"]:
        lines.append(f"best epoch {metrics['best_epoch']} by {metrics['metric']}")
    if metrics.get("kept"):
        lines.append(f"kept: {KEPT[metrics['kept']['kind']]}; {metrics['kept']['why']}")
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
    told = [(logging.INFO, line) for line in lines]
    linear = metrics["baselines"].get("tfidf_logistic_regression")
    if linear and linear["macro_f1"] > metrics[held_out]["macro_f1"]:
        lead = linear["macro_f1"] - metrics[held_out]["macro_f1"]
        hint = "more epochs, pretrained vectors (text.vectors) or more rows may help"
        told.append((logging.WARNING, f"the linear baseline is ahead by {lead:.3f} macro-F1: {hint}"))
    return told


def _three_scores(scores: Mapping[str, Any]) -> str:
    return (
        f"accuracy {scores['accuracy']:.4f}   macro-F1 {scores['macro_f1']:.4f}   "
        f"macro recall {scores['macro_recall']:.4f}"
    )
