"""Log messages on data and model before training."""

from __future__ import annotations

import logging

from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.errors import listed
from lstm_sentiment.models.network import Network

MANY_ROWS = 10  # with fewer, classes of one row are expected
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
    log.info("data: %s", config.data.train)
    for split, of_split in facts["splits"].items():
        classes = ", ".join(f"{label} {count:,}" for label, count in of_split["classes"].items())
        log.info(
            "  %-10s %9s rows: %s; %.1f%% of tokens unknown, %.1f%% cut",
            split, f"{of_split['rows']:,}", classes,
            100 * of_split["unknown_tokens"], 100 * of_split["cut_tokens"],
        )  # fmt: skip
    removed = "removed" if config.data.deduplicate else "kept"
    log.info(
        "  repeated texts: %s %s; texts with more than one label: %s; vocabulary: %s tokens",
        f"{facts['duplicates']:,}", removed, f"{facts['conflicting_labels']:,}",
        f"{len(corpus.vocabulary):,}",
    )  # fmt: skip
    if config.data.exclude_rows is not None:
        log.info("  train: %s rows left out by %s", f"{facts['excluded_rows']:,}", config.data.exclude_rows)
    if facts["phrases"]:
        log.info("  train: %s phrases with weight %g each", f"{facts['phrases']:,}", config.data.phrases)
    for source, counts in facts["counts"].items():
        if counts["left_out"]:
            log.info("  %s: %s rows left out by data.labels", source, f"{counts['left_out']:,}")
        if counts["weightless"]:
            log.info("  %s: %s rows of weight 0 left out", source, f"{counts['weightless']:,}")
        if counts["filtered"]:
            log.info("  %s: %s rows left out by data.filter", source, f"{counts['filtered']:,}")
        if counts["empty"]:
            log.info(
                "  %s: %s empty texts, kept as one unknown token; the first at line %s",
                source, f"{counts['empty']:,}", ", ".join(map(str, counts["empty_lines"])),
            )  # fmt: skip
        if counts["swallowed"]:
            log.warning(
                "  %s: %s rows seem to hold others, the first at line %d: is a quote left open?",
                source, f"{counts['swallowed']:,}", counts["swallowed_line"],
            )  # fmt: skip
        if counts["replaced"] and config.data.encoding_errors == "replace":
            log.warning(
                "  %s: %s rows hold bytes that are not %s; they were replaced by U+FFFD",
                source, f"{counts['replaced']:,}", config.data.encoding,
            )  # fmt: skip
    alone = [label for label, count in facts["splits"]["train"]["classes"].items() if count == 1]
    if alone and len(corpus.train) >= MANY_ROWS:
        log.warning(
            "  train: labels of a single row: %s; add rows, or leave it out (data.labels: null for it)",
            listed(alone, quoted=True),
        )
    for split, shared in facts["shared_texts"].items():
        if shared:
            log.warning("  %s: %s of its texts are also in the training rows", split, f"{shared:,}")
