"""Scores of a run whose classes were merged, computed again from its rows.

The held-out rows are predicted with the merged run. Rows that were cross-validated over a frozen LSTM are
predicted by fitting its heads and linear models again, which takes as long as the training did.

Legend: R rows, C classes, S classes before some were merged.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lstm_sentiment.adaptation.fitting import fit_frozen, pooled_features
from lstm_sentiment.adaptation.start import load_start
from lstm_sentiment.checkpoints.run_folder import BEST, LINEAR, RunFolder
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import CheckpointError, SentimentError
from lstm_sentiment.evaluation.calibration import Calibration, calibrated_scores
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import calibration_error, score
from lstm_sentiment.linear import baselines
from lstm_sentiment.models.network import TfidfBranch, WideAndDeep, shown_logits, unmerged
from lstm_sentiment.monitoring.validation_profile import write_monitoring
from lstm_sentiment.prediction.classifier import SentimentClassifier, read_run
from lstm_sentiment.provenance.rows_of_run import own_rows
from lstm_sentiment.records.checkpoint_facts import BestFacts
from lstm_sentiment.records.data_facts import DataFacts
from lstm_sentiment.records.run_metrics import AgainstLinear, CalibratedSplit, RunMetrics
from lstm_sentiment.records.scores import Scores
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.training.losses import row_weights

BATCH_SIZE = 256
TOLERANCE = 1e-3  # of weights that are fitted again
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Predictions for the rows that a run is scored on.

    Args:
        logits: by split, of all classes of the network, (R, S).
        truths: class indices by split, of the merged classes, (R,).
        crossed_R: which training rows the validation rows are, if these were cross-validated.
        tokens: of the classifier that training started from, if they were.
    """

    logits: dict[str, Array]
    truths: dict[str, Array]
    crossed_R: Array | None = None
    tokens: tuple[str, ...] = ()


def score_again(building: Path, before: RunMetrics | None, *, run: Path, trusted: bool) -> str:
    """Write metrics.json and monitoring.json of a merged run, and complete data.json, from its rows.

    Args:
        building: the merged run, complete but for these files.
        before: the metrics before merging; None if there were none.
        run: the folder before merging, which says whether its rows may be read.
        trusted: read them even if it was not trained here.

    Returns:
        an empty text, or the reason why there are no scores.

    Raises:
        DiskError: a file cannot be written.

    Example::

        why = score_again(building, folder.read(RunMetrics), run=folder.path, trusted=False)
    """
    folder, classifier = RunFolder(building), read_run(building, device="cpu")
    best = folder.load(BEST)
    corpus, why = own_rows(
        run,
        classifier.config,
        best.facts_as(BestFacts),
        trusted=trusted,
        labels=classifier.labels,
        label_map=classifier.label_map,
        vocabulary=classifier.vocabulary,
        cache=cache_folder(),
    )
    if corpus is None:
        return why
    try:
        data = folder.read(DataFacts)
        folder.write(dataclasses.replace(data, conflicting_labels=corpus.facts.conflicting_labels))
        predicted = _predicted(classifier, corpus, started_from=best.facts.get("pretrained"))
    except SentimentError as error:
        return str(error)
    if predicted is None:
        return "its rows were cross-validated by models that are not kept"
    if before is None:
        return "it had none before"
    metrics, validation_RC = _metrics(classifier, corpus, before, predicted)
    folder.write(metrics)
    how: dict[str, Any] = {"kept": predicted.tokens, "crossed_R": predicted.crossed_R}
    write_monitoring(folder, validation_RC, corpus, classifier.config, **how)
    return ""


def _predicted(
    classifier: SentimentClassifier, corpus: Corpus, *, started_from: str | None
) -> Predicted | None:
    """Return the predictions for the held-out or cross-validated rows; None if these cannot be had again."""
    network = unmerged(classifier.model)
    splits = {name: rows for name, rows in corpus.splits.items() if name != "train"}
    logits = {name: _logits(network, rows, classifier.device) for name, rows in splits.items()}
    truths = {name: rows.labels for name, rows in splits.items()}
    if not corpus.cross_validated:
        return Predicted(logits=logits, truths=truths)
    fitted = _fitted_again(classifier, corpus.unmerged or corpus, started_from=started_from)
    if fitted is None:
        return None
    validation_RS, held_R, tokens = fitted
    return Predicted(
        logits={"validation": validation_RS, **logits},
        truths={"validation": corpus.train.labels[held_R], **truths},
        crossed_R=held_R,
        tokens=tokens,
    )


def _logits(network: torch.nn.Module, rows: TextDataset, device: torch.device) -> Array:
    found: Array = predict_logits(network, rows, device=device, batch_size=BATCH_SIZE).numpy()
    return found


def _fitted_again(
    classifier: SentimentClassifier, corpus: Corpus, *, started_from: str | None
) -> tuple[Array, Array, tuple[str, ...]] | None:
    """Return the out-of-fold logits (R, S) of a run with a frozen LSTM, and their rows and known tokens.

    Args:
        classifier: the run's.
        corpus: its rows, with the classes it was trained with.
        started_from: sha256 of the weights that training started from.

    Returns:
        None if the run was trained otherwise, or if the fit does not give its weights.

    Raises:
        CheckpointError: the classifier that training started from has other weights now.
    """
    config, network = classifier.config, copy.deepcopy(unmerged(classifier.model))
    start = load_start(config.pretrained) if config.pretrained is not None else None
    branched = isinstance(network, WideAndDeep) and isinstance(network.ngrams, TfidfBranch)
    if config.adapt != "frozen" or start is None or not branched:
        return None
    if start.sha256 != started_from:
        raise CheckpointError(f"{start.name}, which training started from, has other weights now")
    assert isinstance(network, WideAndDeep)
    features_RP = pooled_features(network.lstm, corpus.train, device=classifier.device, processes=Processes())
    balanced = config.trainer.class_weights == "balanced"
    fit = fit_frozen(
        network,
        start,
        corpus.train,
        features_RP,
        labels=corpus.labels,
        row_weights=row_weights(corpus.train, len(corpus.labels), balanced=balanced),
        metric=config.trainer.metric,
        seed=config.seed,
    )
    own = unmerged(classifier.model).state_dict()
    if not all(torch.allclose(own[name], of, atol=TOLERANCE) for name, of in network.state_dict().items()):
        return None
    factor = 2 / sum(fit.blend.weights)  # shares have mean 1
    return fit.out_of_fold()[""] * factor, fit.held, tuple(start.tokens)


def _metrics(
    classifier: SentimentClassifier, corpus: Corpus, before: RunMetrics, predicted: Predicted
) -> tuple[RunMetrics, Array]:
    """Return the metrics of a merged run, and the probabilities (R, C) of its validation rows.

    Branches alone, and the models among which one was kept, are not scored again.
    """
    calibration, truths = classifier.calibration, predicted.truths
    logits = {name: _merged(classifier, of, calibration) for name, of in predicted.logits.items()}
    scores, effect = calibrated_scores(calibration, logits, truths, classifier.labels)

    def with_ece(found: CalibratedSplit, split: str) -> CalibratedSplit:
        """Add the calibration error of sums of uncalibrated probabilities."""
        plain_RC = Calibration().probabilities(_merged(classifier, predicted.logits[split], Calibration()))
        return dataclasses.replace(found, ece_before=calibration_error(truths[split], plain_RC))

    of_linear, against = _against_linear(classifier, corpus, before, logits)
    metrics = dataclasses.replace(
        before,
        branches=None,
        kept=before.kept and dataclasses.replace(before.kept, scores=None),
        validation=scores["validation"],
        test=scores.get("test"),
        calibration=dataclasses.replace(
            effect,
            validation=with_ece(effect.validation, "validation"),
            test=with_ece(effect.test, "test") if effect.test else None,
        ),
        baselines=of_linear,
        against_linear=against,
    )
    return metrics, calibration.probabilities(logits["validation"])


def _merged(classifier: SentimentClassifier, logits_RS: Array, calibration: Calibration) -> Array:
    """Return the logits (R, C) of merged classes, at the temperature of a calibration."""
    logits = torch.from_numpy(np.asarray(logits_RS))
    found_RC: Array = shown_logits(classifier.model, logits, temperature=calibration.temperature).numpy()
    return found_RC


def _against_linear(
    classifier: SentimentClassifier, corpus: Corpus, before: RunMetrics, logits: Mapping[str, Array]
) -> tuple[dict[str, Scores], AgainstLinear | None]:
    """Return the scores of the baselines, and the comparison with the linear one, where there were any."""
    old = before.baselines.get(baselines.LINEAR)
    rows = corpus.validation if corpus.test is None else corpus.test
    if old is None or rows is corpus.train:
        return {}, None
    linear, labels = copy.deepcopy(classifier), classifier.labels
    linear.keep_branch(LINEAR)
    linear_RS = _logits(unmerged(linear.model), rows, linear.device)
    linear_RC = _merged(linear, linear_RS, linear.calibration)
    scores = score(rows.labels, linear.calibration.probabilities(linear_RC), labels)
    found = baselines.baseline_scores(scores, corpus.train, rows.labels, rows=old.training_rows or 0)
    if before.against_linear is None:
        return found, None
    against = baselines.compare_with_linear(
        linear_RC,
        logits[before.split],
        rows.labels,
        labels=labels,
        metric=before.metric,
        linear_s=before.against_linear.linear_s,
        model_s=before.against_linear.model_s,
    )
    return found, against
