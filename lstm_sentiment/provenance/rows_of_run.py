"""The rows of a finished run, split as for its training, with the classes that it has now.

Rows are split by class. If classes were merged since, rows are split by the classes that the run began with,
and get the merged ones afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.checkpoints.trusted_runs import refuse_untrusted
from lstm_sentiment.config.public import last_part
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import name_of
from lstm_sentiment.data.corpus import Corpus, prepare, refuse_addresses
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.labels import class_indices
from lstm_sentiment.data.splits import find_duplicates
from lstm_sentiment.errors import DataError, SentimentError
from lstm_sentiment.records.checkpoint_facts import BestFacts
from lstm_sentiment.text.tokenizers import Vocabulary

Array = npt.NDArray[Any]


def own_rows(
    run: Path, config: Config, facts: BestFacts, *, trusted: bool, **about: Any
) -> tuple[Corpus | None, str]:
    """Read the rows of a finished run again if they are those that it was trained on.

    Args:
        run: its folder.
        config: of the run.
        facts: of its best checkpoint.
        trusted: read the files that it names even if it was not trained here.
        about: further arguments of `rows_of_run`.

    Returns:
        the rows, or None and the reason.

    Example::

        corpus, why = own_rows(run, config, facts, trusted=False, labels=labels, label_map=label_map, ...)
    """
    try:
        refuse_addresses(config.data)
        if not trusted:
            refuse_untrusted(run, name_of(config.data.train), "--rows")
        corpus = rows_of_run(config, facts, **about)
    except DataError as error:  # without its folder: pages are shared
        return None, ": ".join(filter(None, (last_part(error.file or ""), error.message)))
    except SentimentError as error:
        return None, str(error)
    if not corpus.is_of(facts):
        return None, "the rows, labels or vocabulary are no longer those of the run"
    return corpus, ""


def rows_of_run(
    config: Config,
    facts: BestFacts,
    *,
    labels: list[str],
    label_map: Mapping[str, str | None],
    cache: Path,
    vocabulary: Vocabulary,
) -> Corpus:
    """Read the rows of a finished run again; `Corpus.is_of` says whether they are still the same.

    Args:
        config: of the run.
        facts: of its best checkpoint.
        labels: its class names.
        label_map: label in files -> one of them, or None for rows left out.
        cache: folder for tokenised text.
        vocabulary: of the run.

    Raises:
        DataError: an invalid file, row or label, with its location.

    Example::

        corpus = rows_of_run(
            classifier.config, facts, labels=classifier.labels, label_map=classifier.label_map,
            vocabulary=classifier.vocabulary, cache=cache_folder(),
        )
    """
    known = vocabulary if config.pretrained else None
    data = config.data
    if facts.merged is not None and facts.label_map is not None:
        data = dataclasses.replace(data, labels=dict[int | str, str | None](facts.label_map.items()))
    corpus = prepare(data, config.text, seed=config.seed, cache=cache, vocabulary=known)
    if facts.merged is None or len(facts.merged) != len(corpus.labels):
        return corpus
    return _merged(corpus, np.array(facts.merged), labels, dict(label_map))


def _merged(corpus: Corpus, class_S: Array, labels: list[str], label_map: dict[str, str | None]) -> Corpus:
    """Return the rows with merged classes: for each class its new one, (S,)."""
    splits = {name: _with_classes(rows, class_S) for name, rows in corpus.splits.items()}
    facts = dataclasses.replace(
        corpus.facts,
        conflicting_labels=_conflicting(corpus.train, labels, label_map),
        splits={
            name: dataclasses.replace(of, classes=_counts(splits[name], labels))
            for name, of in corpus.facts.splits.items()
        },
    )
    return dataclasses.replace(
        corpus,
        train=splits["train"],
        validation=splits.get("validation", splits["train"]),
        test=splits.get("test"),
        labels=labels,
        label_map=label_map,
        facts=facts,
        unmerged=corpus,
    )


def _with_classes(rows: TextDataset, class_S: Array) -> TextDataset:
    labels = class_S[rows.labels]
    return rows.joined(rows.store, rows.rows, labels, weights=rows.weights / rows.counts, counts=rows.counts)


def _counts(rows: TextDataset, labels: list[str]) -> dict[str, int]:
    counts_C = np.bincount(rows.labels, minlength=len(labels))
    return dict(zip(labels, counts_C.tolist(), strict=True))


def _conflicting(train: TextDataset, labels: list[str], label_map: dict[str, str | None]) -> int:
    """Return the number of texts of the training file with more than one class, as splitting counts them."""
    store = train.store
    class_R = class_indices({"train": store}, label_map, labels)["train"]
    sentences = np.flatnonzero(~store.phrases & (class_R >= 0) & (store.weights > 0))
    return find_duplicates(store.hashes[sentences], class_R[sentences])[1]
