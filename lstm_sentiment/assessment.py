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
from torch import Tensor, nn

from lstm_sentiment.baselines import baseline_scores
from lstm_sentiment.calibration import Calibration, coverage_of, fit_calibration, fit_shares
from lstm_sentiment.checkpoint import BEST, RunFolder
from lstm_sentiment.classifier import SentimentClassifier
from lstm_sentiment.config import Config
from lstm_sentiment.corpus import Corpus
from lstm_sentiment.dataset import Array, TextDataset
from lstm_sentiment.errors import TrainingError
from lstm_sentiment.inference import predict_logits
from lstm_sentiment.metrics import calibration_error, report_lines, score
from lstm_sentiment.network import WideAndDeep
from lstm_sentiment.proof import proof_texts
from lstm_sentiment.reading.tokenizing import SPECIAL_TOKENS
from lstm_sentiment.trainer import Trainer

log = logging.getLogger(__name__)

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
        model.shares.copy_(torch.from_numpy(shares_K))
        best.tensors["model"]["shares"] = model.shares.cpu().clone()
    logits = answers(model)
    calibration = fit_calibration(logits["validation"], corpus.validation.labels)
    facts: dict[str, Any] = {"temperature": calibration.temperature}
    for name, rows in splits.items():
        probabilities_RC = calibration.probabilities(logits[name])
        metrics[name] = score(rows.labels, probabilities_RC, corpus.labels)
        facts[name] = {
            "ece_before": calibration_error(rows.labels, Calibration().probabilities(logits[name])),
            "ece_after": metrics[name]["ece"],
            "label_sets": {
                str(wanted): coverage_of(calibration.label_sets(probabilities_RC, wanted), rows.labels)
                for wanted in COVERAGES
            },
        }
    metrics |= {"calibration": facts, "baselines": {}}
    if processes.is_main:
        added = {"calibration": asdict(calibration), "proof": _proof(config, corpus, best.tensors["model"])}
        folder.save(BEST, best.tensors, {**best.facts, **added})
    if config.baseline and processes.is_main:
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


def _proof(config: Config, corpus: Corpus, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return texts and the logits that prediction gives them, on the CPU."""
    classifier = SentimentClassifier(
        labels=corpus.labels, vocabulary=corpus.vocabulary, config=config, weights=weights, device="cpu"
    )
    texts = proof_texts(corpus.vocabulary.tokens[len(SPECIAL_TOKENS) :])
    return {"texts": texts, "logits": classifier.predict_logits(texts).tolist()}


def report_scores(metrics: dict[str, Any], path: Path) -> None:
    """Tell the terminal how good the run is."""
    held_out = "test" if "test" in metrics else "validation"
    log.info("best epoch %d by %s", metrics["best_epoch"], metrics["metric"])
    for line in report_lines(metrics[held_out], title=held_out):
        log.info("%s", line)
    facts = metrics["calibration"][held_out]
    log.info(
        "  calibrated on validation: temperature %.2f, calibration error %.4f -> %.4f",
        metrics["calibration"]["temperature"], facts["ece_before"], facts["ece_after"],
    )  # fmt: skip
    for wanted, found in facts["label_sets"].items():
        log.info(
            "  label sets for %.0f%%: %.1f%% hold the true label; %.2f labels on average",
            100 * float(wanted), 100 * found["coverage"], found["labels"],
        )  # fmt: skip
    for name, branch in metrics.get("branches", {}).items():
        log.info(
            "  branch %-28s accuracy %.4f   macro-F1 %.4f   macro recall %.4f   share %.2f",
            f"{name}, alone", branch[held_out]["accuracy"], branch[held_out]["macro_f1"],
            branch[held_out]["macro_recall"], branch["share"],
        )  # fmt: skip
    for name, scores in metrics["baselines"].items():
        log.info(
            "  baseline %-26s accuracy %.4f   macro-F1 %.4f   macro recall %.4f",
            name, scores["accuracy"], scores["macro_f1"], scores["macro_recall"],
        )  # fmt: skip
    linear = metrics["baselines"].get("tfidf_logistic_regression")
    if linear and linear["macro_f1"] > metrics[held_out]["macro_f1"]:
        log.warning(
            "the linear baseline is ahead by %.3f macro-F1: more epochs, pretrained vectors (text.vectors) "
            "or more rows may help", linear["macro_f1"] - metrics[held_out]["macro_f1"],
        )  # fmt: skip
    log.info(
        "%.0f s in all, %.0f s of them training; run folder: %s",
        metrics["total_s"],
        metrics["training_s"],
        path,
    )
