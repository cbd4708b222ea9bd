"""Runs with a frozen LSTM: fit, calibrate and score in one go.

There are no steps to resume from: a stopped run starts again, with the same result; a finished one is not
changed.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace

import numpy as np
import torch

from lstm_sentiment.adaptation.fitting import FrozenFit, fit_frozen, pooled_features
from lstm_sentiment.adaptation.stacking import Blend
from lstm_sentiment.adaptation.start import Start
from lstm_sentiment.checkpoints.expected import of_classifier
from lstm_sentiment.checkpoints.run_folder import BEST, RunFolder
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import Array, TextDataset
from lstm_sentiment.deployment.bf16 import bf16_effect
from lstm_sentiment.evaluation.calibration import calibrated_scores, fit_calibration
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.experiment.final_evaluation import (
    branch_metrics,
    compared_with_baselines,
    with_linear,
)
from lstm_sentiment.experiment.resume import check_same_run
from lstm_sentiment.linear.baselines import LinearBaseline, baseline_scores, linear_baseline, saved_branches
from lstm_sentiment.models.network import Network, TfidfBranch, WideAndDeep
from lstm_sentiment.monitoring.validation_profile import write_monitoring
from lstm_sentiment.prediction.make_self_test import self_test_of
from lstm_sentiment.records.checkpoint_facts import RunFacts
from lstm_sentiment.records.json_values import missing, to_json
from lstm_sentiment.records.run_metrics import Kept, PartScores, RunMetrics
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.training.losses import row_weights

log = logging.getLogger(__name__)


def run_frozen(
    folder: RunFolder,
    config: Config,
    corpus: Corpus,
    network: Network,
    start: Start,
    *,
    device: torch.device,
    processes: Processes,
    facts: RunFacts,
) -> RunMetrics:
    """Fit head and linear branch over a classifier's frozen LSTM, save and score; called by all processes.

    All processes compute features; the main one fits and writes, the others read the result.

    Args:
        folder: of the run, initialised.
        config: of the run, resolved (see `resolving`).
        corpus: its rows.
        network: with the LSTM of `start`, on the CPU.
        start: the classifier.
        device: to compute features on.
        processes: of the job.
        facts: saved with the weights, to identify the run.

    Returns:
        the metrics; `total_s` is None.
    """
    assert isinstance(network, WideAndDeep)
    started = time.perf_counter()
    network.eval().to(device)
    splits = {name: rows for name, rows in corpus.splits.items() if name != "train"}
    features = {
        name: pooled_features(network.lstm, rows, device=device, processes=processes)
        for name, rows in {"train": corpus.train, **splits}.items()
    }
    network.cpu()
    with processes.main_first():
        if processes.is_main:
            fit = fit_frozen(
                network,
                start,
                corpus.train,
                features["train"],
                labels=corpus.labels,
                row_weights=row_weights(
                    corpus.train, len(corpus.labels), balanced=config.trainer.class_weights == "balanced"
                ),
                metric=config.trainer.metric,
                seed=config.seed,
            )
            training_s = round(time.perf_counter() - started, 1)
            metrics = _assessed(
                folder, config, corpus, network, fit, splits, features, facts, start, training_s=training_s
            )
            folder.write(metrics)
        else:
            metrics = folder.read(RunMetrics)
    return metrics


def finished_before(folder: RunFolder, config: Config, corpus: Corpus, facts: RunFacts) -> RunMetrics:
    """Return the metrics of a finished run, with baselines if configured.

    Raises:
        RunError: the data or the classifier differ from those of the run.
        CheckpointError: the checkpoint or metrics.json is damaged.

    Example::

        metrics = finished_before(RunFolder("runs/tweets"), config, corpus, facts)
    """
    best = folder.load(BEST, of_classifier(folder.path))
    check_same_run(best.facts_as(RunFacts), facts, folder, corpus)
    metrics = folder.read(RunMetrics)
    branches = metrics.branches or {}
    if "ngrams" not in branches:
        raise missing(folder.path / RunMetrics.FILE, "branches.ngrams")
    log.info("%s: is finished already", folder.path)
    if not config.baseline:
        return replace(metrics, baselines={})
    rows = corpus.validation if corpus.test is None else corpus.test
    linear = branches["ngrams"].test or branches["ngrams"].validation
    baselines = baseline_scores(linear, corpus.train, rows.labels, rows=len(corpus.train))
    return replace(metrics, baselines=baselines)


def _assessed(
    folder: RunFolder,
    config: Config,
    corpus: Corpus,
    network: WideAndDeep,
    fit: FrozenFit,
    splits: dict[str, TextDataset],
    features: dict[str, Array],
    facts: RunFacts,
    start: Start,
    *,
    training_s: float,
) -> RunMetrics:
    """Calibrate on out-of-fold or validation rows, score, and write the weights."""
    out_of_fold = fit.out_of_fold()  # shares have mean 1: the network's logits are a multiple of the blended
    out_of_fold[""] = out_of_fold[""] * 2 / sum(fit.blend.weights)
    truths = {"validation": corpus.train.labels[fit.held]}
    truths |= {name: rows.labels for name, rows in splits.items()}
    logits = {name: _logits(network, rows, features[name], fit.blend) for name, rows in splits.items()}
    if "validation" in splits:  # a separate split
        out_of_fold = {branch: of["validation"] for branch, of in _by_branch(logits).items()}
    counts_R = splits["validation"].counts if "validation" in splits else corpus.train.counts[fit.held]
    calibration = fit_calibration(out_of_fold[""], truths["validation"], counts_R)
    found_RC = calibration.probabilities(out_of_fold[""])
    write_monitoring(folder, found_RC, corpus, config, kept=start.tokens, crossed_R=fit.held)
    held_out = {"validation": out_of_fold[""]} | {name: of[""] for name, of in logits.items()}
    scores, effect = calibrated_scores(calibration, held_out, truths, corpus.labels)
    branches = {}
    for branch, share in zip(("lstm", "ngrams"), network.shares.tolist(), strict=True):
        of_splits = {"validation": out_of_fold[branch]} | {name: of[branch] for name, of in logits.items()}
        branches[branch] = branch_metrics(of_splits, truths, corpus.labels, share=share, row_counts=counts_R)
    linear = _linear_branch(network, fit, out_of_fold, logits, splits, corpus, config)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    saved = {**to_json(facts), "epoch": 0, "scores": to_json(scores["validation"])}
    saved |= {"calibration": asdict(calibration), "linear": to_json(linear.saved())}
    lstm_C = network.lstm.head.bias.detach().double().numpy() - fit.blend.bias_of_branch
    alone = saved_branches({"lstm": out_of_fold["lstm"]}, {"lstm": lstm_C}, truths["validation"], counts_R)
    saved |= {"branches": to_json(alone)}
    folder.write_log([])
    proof = self_test_of(weights, labels=corpus.labels, vocabulary=corpus.vocabulary, config=config)
    folder.save(BEST, {"model": weights}, {**saved, "proof": proof})
    kept = _kept(fit, config, corpus)
    found = compared_with_baselines(linear, held_out, truths, config, corpus, kept, seconds=training_s)
    return RunMetrics(
        branches=with_linear(branches, linear, truths),
        kept=kept,
        validation=scores["validation"],
        test=scores.get("test"),
        calibration=effect,
        bf16=bf16_effect(network, calibration, corpus.test or corpus.validation),
        baselines=found[0],
        against_linear=found[1],
        metric=config.trainer.metric,
        best_epoch=0,
        epochs=0,
        steps=0,
        training_s=training_s,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


def _linear_branch(
    network: WideAndDeep,
    fit: FrozenFit,
    out_of_fold: dict[str, Array],
    logits: dict[str, dict[str, Array]],
    splits: dict[str, TextDataset],
    corpus: Corpus,
    config: Config,
) -> LinearBaseline:
    """Return the linear branch as the baseline, with a class bias of its own."""
    assert isinstance(network.ngrams, TfidfBranch)
    validation = splits["validation"] if "validation" in splits else corpus.train.part(fit.held)
    balanced = config.trainer.class_weights == "balanced"
    return linear_baseline(
        network.ngrams,
        {**{name: of["ngrams"] for name, of in logits.items()}, "validation": out_of_fold["ngrams"]},
        validation,
        labels=corpus.labels,
        row_weights=row_weights(validation, len(corpus.labels), balanced=balanced),
        metric=config.trainer.metric,
        rows=len(corpus.train),
        bias_C=network.ngrams.bias.detach().double().numpy() - fit.blend.bias_of_branch,
    )


def _kept(fit: FrozenFit, config: Config, corpus: Corpus) -> Kept:
    blend = fit.blend
    return Kept(
        kind=blend.kind,
        why=blend.why,
        scores=PartScores(**blend.scores),
        behind_start=blend.behind_start,
        start=config.pretrained,
        adapt=config.adapt,
        cross_validated=corpus.cross_validated,
        folds=fit.folds,
        penalty=fit.head.penalty,
        linear_strength=fit.linear.strength,
        class_bias=blend.strength,
    )


def _logits(network: WideAndDeep, rows: TextDataset, features_RP: Array, blend: Blend) -> dict[str, Array]:
    """Return the logits (R, C) of each branch and, under the empty name, of the network.

    Those of the branches are without the bias of the blend.
    """
    with torch.inference_mode():
        of_lstm = network.lstm.head(torch.from_numpy(features_RP)).numpy()
    of_ngrams = predict_logits(network.ngrams, rows, device=torch.device("cpu"), batch_size=256).numpy()
    shares, bias_C = network.shares.numpy(), blend.bias_of_branch.astype(np.float32)
    both_RC = shares[0] * of_lstm + shares[1] * of_ngrams
    return {"lstm": of_lstm - bias_C, "ngrams": of_ngrams - bias_C, "": both_RC}


def _by_branch(logits: dict[str, dict[str, Array]]) -> dict[str, dict[str, Array]]:
    """Regroup logits by split and branch into logits by branch and split."""
    branches = next(iter(logits.values()))
    return {branch: {name: of[branch] for name, of in logits.items()} for branch in branches}
