"""How good a run's best epoch is: calibrated, scored once, beside the baselines.

Legend: R rows, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lstm_sentiment.baselines import baseline_scores
from lstm_sentiment.calibration import Calibration, coverage_of, fit_calibration
from lstm_sentiment.checkpoint import BEST, RunFolder
from lstm_sentiment.classifier import SentimentClassifier
from lstm_sentiment.config import Config
from lstm_sentiment.corpus import Corpus
from lstm_sentiment.errors import TrainingError
from lstm_sentiment.inference import predict_logits
from lstm_sentiment.metrics import calibration_error, report_lines, score
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
    logits = {
        name: predict_logits(
            model, rows, device=trainer.device, batch_size=4 * config.trainer.batch_size, processes=processes
        ).numpy()
        for name, rows in splits.items()
    }
    calibration = fit_calibration(logits["validation"], corpus.validation.labels)
    metrics: dict[str, Any] = {}
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
