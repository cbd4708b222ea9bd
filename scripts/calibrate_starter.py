"""Fit a starter's bias and calibration on held-out corpora, with models of the same recipe.

    scripts/make_starter --data FOLDER --out runs/no-films --leave-out films
    python scripts/calibrate_starter.py runs/starter --from runs/no-films --data FOLDER

Held-out rows of corpora that a model was trained on look easier than the texts of a new domain. So the
bias of the classes, the temperature and the thresholds of label sets are fitted on corpora that the models
given by --from were trained without, with equal weights for the corpora.

Legend: R rows, C classes.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_starter import LABELS, fit_bias
from starter_scores import left_out

from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.evaluation.calibration import Calibration, conformal_thresholds, fit_calibration
from lstm_sentiment.prediction.classifier import read_run
from lstm_sentiment.prediction.make_self_test import self_test_of
from lstm_sentiment.system.devices import set_up_cpu

log = logging.getLogger("calibrate_starter")


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(prog="calibrate_starter", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--from", dest="others", nargs="+", required=True, metavar="RUN")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=400, help="of each corpus, at most")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    set_up_cpu(options.threads)
    logits, truth, corpus = [], [], []
    corpora: list[dict[str, Any]] = []
    for other in options.others:
        classifier = read_run(other, device="cpu")
        for rows in left_out(argparse.Namespace(run=other, data=options.data, rows=options.rows)):
            logits.append(classifier.predict_logits(rows.texts))
            truth.append(rows.truth_R)
            corpus.append(np.full(len(rows.texts), len(corpora)))
            corpora.append({"name": rows.name, "classes": sorted(set(rows.truth_R.tolist()))})
    logits_RC, truth_R, corpus_R = np.concatenate(logits), np.concatenate(truth), np.concatenate(corpus)
    (scale,), bias_C = fit_bias(logits_RC[None], truth_R, corpus_R, corpora)
    bias_C = bias_C / scale
    log.info("%d corpora, %s rows: bias %s", len(corpora), f"{len(truth_R):,}", bias_C.round(3).tolist())
    calibration = _calibration(logits_RC + bias_C, truth_R, corpus_R, corpora)
    log.info("temperature %.3f", calibration.temperature)
    _write(RunFolder(options.run), bias_C, calibration)


def _calibration(logits_RC: Any, truth_R: Any, corpus_R: Any, corpora: list[dict[str, Any]]) -> Calibration:
    """Fit the temperature on corpora that have all classes, the thresholds on all corpora."""
    has_all_R = np.array([len(of["classes"]) == len(LABELS) for of in corpora])[corpus_R]
    temperature = fit_calibration(logits_RC[has_all_R], truth_R[has_all_R]).temperature
    true_R = Calibration(temperature=temperature).probabilities(logits_RC)[np.arange(len(truth_R)), truth_R]
    return Calibration(temperature=temperature, thresholds=conformal_thresholds(true_R))


def _write(folder: RunFolder, bias_C: Any, calibration: Calibration) -> None:
    checkpoint = folder.load(BEST)
    weights = dict(checkpoint.tensors["model"])
    shares = weights.get("shares", torch.ones(1))
    head = "lstm.head.bias" if "lstm.head.bias" in weights else "head.bias"
    weights[head] = weights[head] + torch.from_numpy(bias_C / float(shares[0])).float()
    trained = read_run(folder.path, device="cpu")
    proof = self_test_of(weights, labels=trained.labels, vocabulary=trained.vocabulary, config=trained.config)
    facts = {**checkpoint.facts, "calibration": asdict(calibration), "proof": proof}
    folder.save(BEST, {"model": weights}, facts)


if __name__ == "__main__":
    main(sys.argv[1:])
