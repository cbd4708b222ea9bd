"""Merge classes of a finished run: what its files say of the merged classes.

The network keeps all its classes; the checkpoint says which of them are shown as one (see
`models.network.MergedClasses`). The probability of a merged class is the sum of those of its members,
calibrated as before. Label sets keep their thresholds: the true class is at least as probable as its true
member, so that a set still holds it with the requested coverage.

The most probable merged class need not be that of the most probable member: scores and histograms are
computed again from the run's rows. Where these cannot be read, they are left out.

Legend: R rows, C classes, S classes before some were merged.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lstm_sentiment.checkpoints.manifest import MERGED
from lstm_sentiment.checkpoints.run_folder import BEST, LINEAR, RunFolder
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import CheckpointError, SentimentError
from lstm_sentiment.evaluation.calibration import Calibration
from lstm_sentiment.evaluation.logits import predict_logits
from lstm_sentiment.evaluation.metrics import calibration_error, score
from lstm_sentiment.experiment.final_evaluation import calibrated_scores
from lstm_sentiment.linear import baselines
from lstm_sentiment.models.network import merged_logits, shown_logits, unmerged
from lstm_sentiment.monitoring.validation_profile import write_monitoring
from lstm_sentiment.prediction.classifier import SentimentClassifier, read_run
from lstm_sentiment.provenance.rows_of_run import own_rows
from lstm_sentiment.records.checkpoint_facts import BestFacts
from lstm_sentiment.records.data_facts import DataFacts
from lstm_sentiment.records.run_metrics import AgainstLinear, CalibratedSplit, RunMetrics
from lstm_sentiment.records.scores import Scores

BATCH_SIZE = 256
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Merging:
    """New names for the classes of a run, some of them the same.

    Args:
        before: class names, S.
        after: new class names, C, in the order of their first members.
        merged: for each class its place in `after`, (S,).
    """

    before: list[str]
    after: list[str]
    merged: list[int]

    @property
    def members(self) -> dict[str, list[str]]:
        """The old names of each class that has several, by its new name."""
        found: dict[str, list[str]] = {}
        for old, new in zip(self.before, self.merged, strict=True):
            found.setdefault(self.after[new], []).append(old)
        return {new: of for new, of in found.items() if len(of) > 1}


def merging_of(labels: Sequence[str], names: Mapping[str, str]) -> Merging | None:
    """Return how names merge classes; None if each class gets a name of its own.

    Args:
        labels: class names.
        names: old name -> new name.

    >>> merging_of(["bad", "so-so", "good"], {"so-so": "bad"})
    Merging(before=['bad', 'so-so', 'good'], after=['bad', 'good'], merged=[0, 0, 1])
    >>> merging_of(["bad", "good"], {"bad": "good", "good": "bad"}) is None
    True
    """
    new = [names.get(label, label) for label in labels]
    after = list(dict.fromkeys(new))
    if len(after) == len(new):
        return None
    return Merging(before=list(labels), after=after, merged=[after.index(name) for name in new])


def merged_state(state: Any, merging: Merging, label_map: Mapping[str, str | None]) -> dict[str, Any]:
    """Return the content of state.json of the best checkpoint after merging.

    Args:
        state: its content before.
        merging: which classes.
        label_map: label in files -> name before, or None for rows left out.

    Raises:
        CheckpointError: it lacks the calibration or the self-test.
    """
    before = merging.before
    try:
        temperature = float(state["calibration"]["temperature"])
        logits = torch.tensor(state["proof"]["logits"], dtype=torch.float64)
        proof_RC = merged_logits(logits, merging.merged, temperature=temperature)
        facts = {name: value for name, value in state.items() if name != "scores"}
        if MERGED not in facts:
            began_with = dict(zip(before, state.get("labels") or before, strict=True))
            facts = {"labels": list(began_with.values())} | facts
            facts["label_map"] = {code: name and began_with[name] for code, name in label_map.items()}
        facts[MERGED] = [merging.merged[of] for of in facts.get(MERGED, range(len(before)))]
        return {**facts, "proof": {**state["proof"], "logits": proof_RC.tolist()}}
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError):
        raise CheckpointError("best/state.json: is not that of a finished run; train again") from None


def merged_data(content: Any, merging: Merging) -> Any:
    """Return the content of data.json after merging, with the counts of classes added.

    What cannot be known without the rows is left out: texts with more than one label, and unlabelled texts by
    class.

    >>> merging = merging_of(["bad", "so-so", "good"], {"so-so": "bad"})
    >>> merged_data({"splits": {"train": {"classes": {"bad": 2, "so-so": 1, "good": 4}}}}, merging)
    {'splits': {'train': {'classes': {'bad': 3, 'good': 4}}}}
    """
    if isinstance(content, list):
        return [merged_data(item, merging) for item in content]
    if not isinstance(content, dict):
        return content
    found = {name: of for name, of in content.items() if name != "conflicting_labels"}
    if isinstance(found.get("unlabelled"), dict):
        found["unlabelled"] = {name: of for name, of in found["unlabelled"].items() if name != "classes"}
    classes = found.get("classes")
    if isinstance(classes, dict) and list(classes) == merging.before:
        counts_C = np.bincount(merging.merged, list(classes.values())).astype(int).tolist()
        found["classes"] = dict(zip(merging.after, counts_C, strict=True))
        return found
    return {name: merged_data(of, merging) for name, of in found.items()}


def score_again(building: Path, before: RunMetrics | None, *, run: Path, trusted: bool) -> str:
    """Write metrics.json, monitoring.json and data.json of a merged run, from its rows.

    Args:
        building: the merged run, complete but for these files.
        before: the metrics before merging; None if there were none.
        run: the folder before merging, which says whether its rows may be read.
        trusted: read them even if it was not trained here.

    Returns:
        an empty text, or the reason why there are no scores.

    Raises:
        DiskError: a file cannot be written.
    """
    folder, classifier = RunFolder(building), read_run(building, device="cpu")
    facts = folder.load(BEST).facts_as(BestFacts)
    corpus, why = own_rows(
        run,
        classifier.config,
        facts,
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
    except SentimentError as error:
        return str(error)
    folder.write(dataclasses.replace(data, conflicting_labels=corpus.facts.conflicting_labels))
    if corpus.cross_validated:
        return "its rows were cross-validated by models that are not kept"
    if before is None:
        return "there were none before"
    metrics, validation_RC = _metrics(classifier, corpus, before)
    folder.write(metrics)
    write_monitoring(folder, validation_RC, corpus, classifier.config)
    return ""


def _metrics(classifier: SentimentClassifier, corpus: Corpus, before: RunMetrics) -> tuple[RunMetrics, Array]:
    """Return the metrics of a merged run, and the probabilities (R, C) of its validation rows.

    Branches alone, and the models among which one was kept, are not scored again.
    """
    calibration, labels = classifier.calibration, classifier.labels
    splits = {name: rows for name, rows in corpus.splits.items() if name != "train"}
    truths = {name: rows.labels for name, rows in splits.items()}
    logits = {name: _logits(classifier, rows, calibration) for name, rows in splits.items()}
    scores, effect = calibrated_scores(calibration, logits, truths, labels)

    def with_ece(found: CalibratedSplit, rows: TextDataset) -> CalibratedSplit:
        """Add the calibration error of sums of uncalibrated probabilities."""
        plain_RC = Calibration().probabilities(_logits(classifier, rows, Calibration()))
        return dataclasses.replace(found, ece_before=calibration_error(rows.labels, plain_RC))

    effect = dataclasses.replace(
        effect,
        validation=with_ece(effect.validation, corpus.validation),
        test=with_ece(effect.test, corpus.test) if effect.test and corpus.test else None,
    )
    of_linear, against = _against_linear(classifier, corpus, before, logits)
    metrics = dataclasses.replace(
        before,
        branches=None,
        kept=before.kept and dataclasses.replace(before.kept, scores=None),
        validation=scores["validation"],
        test=scores.get("test"),
        calibration=effect,
        baselines=of_linear,
        against_linear=against,
    )
    return metrics, calibration.probabilities(logits["validation"])


def _logits(classifier: SentimentClassifier, rows: TextDataset, calibration: Calibration) -> Array:
    """Return the logits (R, C) of rows, merged at the temperature of a calibration."""
    network, device = unmerged(classifier.model), classifier.device
    logits_RS = predict_logits(network, rows, device=device, batch_size=BATCH_SIZE)
    found_RC: Array = shown_logits(classifier.model, logits_RS, temperature=calibration.temperature).numpy()
    return found_RC


def _against_linear(
    classifier: SentimentClassifier, corpus: Corpus, before: RunMetrics, logits: Mapping[str, Array]
) -> tuple[dict[str, Scores], AgainstLinear | None]:
    """Return the scores of the baselines, and the comparison with the linear one, where there were any."""
    old = before.baselines.get(baselines.LINEAR)
    if old is None:
        return {}, None
    linear, rows, labels = copy.deepcopy(classifier), corpus.test or corpus.validation, classifier.labels
    linear.keep_branch(LINEAR)
    linear_RC = _logits(linear, rows, linear.calibration)
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
