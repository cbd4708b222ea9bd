"""Log messages on data and model before training, and on scores after it."""

from __future__ import annotations

import logging
from pathlib import Path

from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import name_of
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.errors import listed
from lstm_sentiment.evaluation.against_linear import verdict_of, verdict_sentence
from lstm_sentiment.evaluation.metrics import neglected_classes, report_lines
from lstm_sentiment.models.network import Network
from lstm_sentiment.provenance.known_texts import known_rows_sentence
from lstm_sentiment.records.data_facts import DataFacts, SourceCounts, rows_by_split
from lstm_sentiment.records.run_metrics import Kept, RunMetrics
from lstm_sentiment.records.scores import Scores

MANY_ROWS = 10  # with fewer, classes of one row are expected
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
log = logging.getLogger(__name__)


def report_model(model: Network, config: Config, where: str, world_size: int) -> None:
    """Log the sizes of a model, the device and the number of processes."""
    of = config.model
    log.info(
        "model: %s parameters, %d layer%s of %sLSTM %d, %s pooling%s; %s, %d process%s",
        f"{sum(p.numel() for p in model.parameters()):,}", of.layers, "s" if of.layers > 1 else "",
        "bi" if of.bidirectional else "", of.hidden_size, of.pooling,
        ", n-gram branch" if of.ngrams else "", where, world_size, "es" if world_size > 1 else "",
    )  # fmt: skip


def report_data(corpus: Corpus, config: Config, why: str) -> None:
    """Log statistics of the data, with warnings.

    Args:
        corpus: the rows.
        config: of the run.
        why: choices made for these rows, and why (see `adaptation.resolving`); may be empty.
    """
    facts = corpus.facts
    if why:
        log.info("start: %s", why)
    log.info("data: %s", name_of(config.data.train))
    for split, of_split in facts.splits.items():
        classes = ", ".join(f"{label} {count:,}" for label, count in of_split.classes.items())
        log.info(
            "  %-10s %9s rows: %s; %.1f%% of tokens unknown, %.1f%% cut",
            split, f"{of_split.rows:,}", classes,
            100 * of_split.unknown_tokens, 100 * of_split.cut_tokens,
        )  # fmt: skip
    removed = "removed" if config.data.deduplicate else "kept"
    log.info(
        "  repeated texts: %s %s; texts with more than one label: %s; vocabulary: %s tokens",
        f"{facts.duplicates:,}", removed, f"{facts.conflicting_labels or 0:,}",
        f"{len(corpus.vocabulary):,}",
    )  # fmt: skip
    if facts.excluded_rows is not None:
        log.info("  train: %s rows left out by %s", f"{facts.excluded_rows:,}", config.data.exclude_rows)
    if facts.phrases:
        log.info("  train: %s phrases with weight %g each", f"{facts.phrases:,}", config.data.phrases)
    for source, counts in facts.counts.items():
        if counts.left_out:
            log.info("  %s: %s rows left out by data.labels", source, f"{counts.left_out:,}")
        if counts.weightless:
            log.info("  %s: %s rows of weight 0 left out", source, f"{counts.weightless:,}")
        if counts.filtered:
            log.info("  %s: %s rows left out by data.filter", source, f"{counts.filtered:,}")
        if counts.empty:
            log.info(
                "  %s: %s empty texts, kept as one unknown token; the first at %s",
                source, f"{counts.empty:,}", _places(counts.empty_files, counts.empty_lines or []),
            )  # fmt: skip
        if counts.swallowed:
            log.warning(
                "  %s: %s rows seem to hold others, the first at %s: is a quote left open?",
                source, f"{counts.swallowed:,}", _first_place(counts),
            )  # fmt: skip
        if counts.replaced and config.data.encoding_errors == "replace":
            log.warning(
                "  %s: %s rows hold bytes that are not %s; they were replaced by U+FFFD",
                source, f"{counts.replaced:,}", config.data.encoding,
            )  # fmt: skip
    alone = [label for label, count in facts.splits["train"].classes.items() if count == 1]
    if alone and len(corpus.train) >= MANY_ROWS:
        log.warning(
            "  train: labels of a single row: %s; add rows, or leave it out (data.labels: null for it)",
            listed(alone, quoted=True),
        )
    _report_known_texts(facts)


def _report_known_texts(facts: DataFacts) -> None:
    """Warn of held-out rows that are also training rows, and of rows that the starter was trained on."""
    for split, shared in facts.shared_texts.items():
        if shared:
            log.warning("  %s: %s of its texts are also in the training rows", split, f"{shared:,}")
    if known := known_rows_sentence(facts.known_to_starter, rows_by_split(facts)):
        log.warning("  %s", known)


def _first_place(counts: SourceCounts) -> str:
    """Return the place of the first row that seems to hold others."""
    file = counts.swallowed_file
    return _places(None if file is None else [file], [counts.swallowed_line or 0])


def _places(files: list[str] | None, lines: list[int]) -> str:
    """Return lines for messages, with their files if there are several."""
    if files is None:
        return f"line {', '.join(map(str, lines))}"
    return ", ".join(f"{file}:{line}" for file, line in zip(files, lines, strict=True))


def report_scores(metrics: RunMetrics, path: Path) -> None:
    """Log the scores of a run."""
    for level, line in summary(metrics):
        log.log(level, "%s", line)
    log.info(
        "%.0f s in total, %.0f s of training; run folder: %s",
        metrics.total_s,
        metrics.training_s,
        path,
    )


def summary(metrics: RunMetrics) -> list[tuple[int, str]]:
    """Return the summary of a run, as log levels and lines."""
    calibrated = metrics.calibrated
    lines = []
    if metrics.best_epoch:
        lines.append(f"best epoch {metrics.best_epoch} by {metrics.metric}")
    if metrics.kept is not None:
        lines += _kept_lines(metrics.kept, metrics.metric)
    lines += report_lines(metrics.held_out, title=metrics.split)
    lines.append(
        f"  calibrated on {metrics.validated_on}: temperature {metrics.calibration.temperature:.2f}, "
        f"calibration error {calibrated.ece_before:.4f} -> {calibrated.ece_after:.4f}"
    )
    for wanted, found in calibrated.label_sets.items():
        lines.append(
            f"  label sets for {100 * float(wanted):.0f}%: {100 * found.coverage:.1f}% hold the true "
            f"label; {found.labels:.2f} labels on average"
        )
    for name, branch in (metrics.branches or {}).items():
        scores = _three_scores(branch.test or branch.validation)
        lines.append(f"  branch {name + ', alone':<28} {scores}   share {branch.share:.2f}")
    if metrics.branches:
        lines.append("  share: weight of a branch's logits in their sum; the mean of the shares is 1")
    lines += [f"  baseline {name:<26} {_three_scores(of)}" for name, of in metrics.baselines.items()]
    summarised = [(logging.INFO, line) for line in lines]
    if metrics.baselines and metrics.against_linear is not None:
        level = logging.INFO if verdict_of(metrics.against_linear) == "ahead" else logging.WARNING
        summarised.append((level, verdict_sentence(metrics.against_linear)))
    summarised += [
        (logging.WARNING, f"validation: {line}; `lstm-sentiment doctor RUN` measures what helps")
        for line in neglected_classes(metrics.validation)
    ]
    return summarised


def _kept_lines(kept: Kept, metric: str) -> list[str]:
    """Describe which of head and linear model is kept, with the scores of each."""
    lines = [f"kept: {KEPT[kept.kind]}; {kept.why}"]
    if kept.scores is not None:
        where = "cross-validated rows" if kept.cross_validated else "held-out rows"
        found = {name: getattr(kept.scores, key) for key, name in PARTS.items()}
        parts = ", ".join(f"{name} {value:.3f}" for name, value in found.items() if value is not None)
        lines.append(f"  {metric} on {where}: {parts.replace('START', str(kept.start))}")
    if kept.behind_start:
        lines.append(
            f"  {kept.start} unchanged scores better there than the kept model, by more than chance: compare "
            "both on new texts before you use this run"
        )
    if kept.class_bias:
        lines.append(f"  the kept model has a bias towards rare classes, strength {kept.class_bias:.2f} of 1")
    return lines


def _three_scores(scores: Scores) -> str:
    return (
        f"accuracy {scores.accuracy:.4f}   macro-F1 {scores.macro_f1:.4f}   "
        f"macro recall {scores.macro_recall:.4f}"
    )
