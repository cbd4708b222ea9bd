"""Finds suspect rows, with their original texts and the reasons.

Legend: R rows, C classes.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lstm_sentiment.adaptation.resolving import Plan, resolve, user_keys
from lstm_sentiment.cleaning.out_of_fold import FrozenLSTM, OutOfFold, folds_with_groups, out_of_fold
from lstm_sentiment.cleaning.rare_words import rare_words
from lstm_sentiment.cleaning.rows import AllRows, all_rows
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus, original_texts
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.formats.readers import text_hash
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import DataError
from lstm_sentiment.evaluation.confident_learning import LabelErrors, find_label_errors
from lstm_sentiment.experiment.train import initial_model, read_rows
from lstm_sentiment.linear.baselines import buckets_for
from lstm_sentiment.models.network import TfidfBranch, lstm_of
from lstm_sentiment.provenance.near_duplicates import near_duplicates
from lstm_sentiment.system.devices import pick_device, set_up_cpu

WRONG_LABEL, OTHER_LABEL, OTHER_SPLIT, FOREIGN, EMPTY = REASONS = (
    "likely wrong label",
    "duplicate with another label",
    "near-duplicate in another split",
    "out of language",
    "empty",
)
log = logging.getLogger(__name__)
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """A row that is likely wrong.

    Args:
        source: its file.
        line: its line there.
        text: as in the file.
        label: class name of its label.
        prediction: the most probable class, out of fold.
        probability: of the prediction.
        label_probability: of the label.
        reasons: one or several of `REASONS`, in their order.
        other: place of the row that it duplicates, or empty.
        score: of the first reason, from 0 to 1 (see `Marked`).
    """

    source: str
    line: int
    text: str
    label: str
    prediction: str
    probability: float
    label_probability: float
    reasons: tuple[str, ...]
    other: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """Result of `find_suspects`.

    Args:
        suspects: by reason, then by score.
        labels: class names.
        rows: number of rows examined.
        joint_CC: estimated number of rows by label and class.
        model: that predicted the rows, in words.
    """

    suspects: list[Suspect]
    labels: list[str]
    rows: int
    joint_CC: Array
    model: str


@dataclass(frozen=True, kw_only=True)
class Marked:
    """Rows with one reason.

    Args:
        rows: indices.
        scores: from 0 to 1. Wrong label, and duplicate with another label: 1 minus the probability of the
            label; near-duplicate: Jaccard index of the tokens; out of language: share of rare words;
            empty: 1.
        others: index of the row that each duplicates; -1 for none.
    """

    rows: Array
    scores: Array
    others: Array


def find_suspects(config: Config, *, given: Collection[str] = ()) -> Found:
    """Return the suspect rows of all files of a configuration: training, validation and test rows.

    Args:
        config: as for `train.run`; `data.exclude_rows` is ignored.
        given: as for `train.run`.

    Raises:
        SentimentError: data or settings with which training could not start.

    Example::

        found = find_suspects(Config(data=DataConfig(train="reviews.csv")))
    """
    set_up_cpu(config.trainer.threads)
    fixed = user_keys(config, given) - {"data.exclude_rows"}
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, exclude_rows=None))
    plan = read_rows(resolve(config, fixed, cache=cache_folder()), fixed, None, cache_folder())
    config, corpus = plan.config, plan.corpus
    assert corpus is not None
    rows = all_rows(corpus, grouped=config.data.group_column is not None)
    predicted = predict_all(plan, rows)
    errors = find_label_errors(rows.data.labels, predicted.probabilities_RC)
    marked = _marked(corpus, rows, predicted.probabilities_RC, errors)
    return Found(
        suspects=_suspects(config, corpus, rows, predicted.probabilities_RC, marked),
        labels=corpus.labels,
        rows=len(rows),
        joint_CC=errors.joint_CC,
        model=predicted.model,
    )


def predict_all(plan: Plan, rows: AllRows) -> OutOfFold:
    """Return the out-of-fold probabilities of all rows.

    Args:
        plan: the resolved configuration, with its corpus.
        rows: of that corpus.

    Example::

        predicted = predict_all(plan, all_rows(plan.corpus, grouped=False))
    """
    config, corpus = plan.config, plan.corpus
    assert corpus is not None
    branch = TfidfBranch(
        len(corpus.vocabulary), len(corpus.labels), buckets=config.model.ngrams or buckets_for(0)
    )
    frozen = None
    if plan.start is not None:
        device = pick_device(config.trainer.device)
        lstm = lstm_of(initial_model(config, corpus, start=plan.start, fitted=False)).eval().to(device)
        frozen = FrozenLSTM(start=plan.start, lstm=lstm, device=device)
    folds = folds_with_groups(rows.data, rows.groups_R, seed=config.seed)
    log.info("predicting %s rows out of %d folds ...", f"{len(rows):,}", len(folds))
    with torch.no_grad():
        return out_of_fold(rows.data, corpus.labels, branch, folds, frozen=frozen)


def _marked(corpus: Corpus, rows: AllRows, probabilities_RC: Array, errors: LabelErrors) -> dict[str, Marked]:
    log.info("comparing texts ...")
    share_R, foreign_R = rare_words(rows.data)
    foreign, empty = np.flatnonzero(foreign_R), np.flatnonzero(rows.data.full_lengths == 0)
    return {
        WRONG_LABEL: _without_others(errors.rows, errors.scores),
        OTHER_LABEL: _other_labels(rows.data, probabilities_RC),
        OTHER_SPLIT: _other_splits(corpus, rows),
        FOREIGN: _without_others(foreign, share_R[foreign]),
        EMPTY: _without_others(empty, np.ones(len(empty))),
    }


def _without_others(rows: Array, scores: Array) -> Marked:
    return Marked(rows=rows, scores=scores, others=np.full(len(rows), -1))


def _other_labels(data: TextDataset, probabilities_RC: Array) -> Marked:
    """Mark all rows of texts with several labels; each with the first row of the text with another label."""
    texts_R, labels_R = data.texts, data.labels
    order = np.lexsort((np.arange(len(texts_R)), texts_R))
    order = order[data.full_lengths[order] > 0]  # empty texts have a reason of their own
    starts = np.flatnonzero(texts_R[order][1:] != texts_R[order][:-1]) + 1
    rows: list[int] = []
    others: list[int] = []
    for of_text in np.split(order, starts):
        unlike = of_text[labels_R[of_text] != labels_R[of_text[:1]]]
        if len(unlike):
            rows += of_text.tolist()
            first, second = of_text[0], unlike[0]
            others += [second if labels_R[row] == labels_R[first] else first for row in of_text]
    marked = np.array(rows, np.int64)
    scores = 1 - probabilities_RC[marked, labels_R[marked]]
    return Marked(rows=marked, scores=scores, others=np.array(others, np.int64))


def _other_splits(corpus: Corpus, rows: AllRows) -> Marked:
    """Mark rows that have a duplicate or near-duplicate in another split.

    Of two such rows the one in training is marked, or in validation if the other is in test: without it, the
    scores of the test rows are not inflated.
    """
    splits = list({**corpus.splits, "train": corpus.train.sentences()}.values())
    best: dict[int, tuple[float, int]] = {}
    for n, split in enumerate(splits):
        for other in splits[n + 1 :]:
            mine, theirs = rows.places_of(split), rows.places_of(other)
            for row, (jaccard, at) in _similar(split, other).items():
                best[mine[row]] = max(best.get(mine[row], (0.0, -1)), (jaccard, theirs[at]))
    marked = sorted(best)
    return Marked(
        rows=np.array(marked, np.int64),
        scores=np.array([best[row][0] for row in marked]),
        others=np.array([best[row][1] for row in marked], np.int64),
    )


def _similar(split: TextDataset, other: TextDataset) -> dict[int, tuple[float, int]]:
    """Return the rows that have a duplicate or near-duplicate in another split: Jaccard index and row."""
    same = {text: row for row, text in reversed(list(enumerate(other.texts.tolist())))}
    texts, filled = split.texts.tolist(), np.flatnonzero(split.full_lengths > 0).tolist()
    found = {row: (1.0, same[texts[row]]) for row in filled if texts[row] in same}
    near = near_duplicates(split, other)
    for row, at, jaccard in zip(near.rows.tolist(), near.others.tolist(), near.jaccard.tolist(), strict=True):
        found.setdefault(row, (jaccard, at))
    return found


def _suspects(
    config: Config, corpus: Corpus, rows: AllRows, probabilities_RC: Array, marked: dict[str, Marked]
) -> list[Suspect]:
    """Return the marked rows, by their first reason, then by score."""
    reasons: dict[int, list[str]] = {}
    scores: dict[int, float] = {}
    others: dict[int, int] = {}
    for reason, of in marked.items():
        for row, score, other in zip(of.rows.tolist(), of.scores.tolist(), of.others.tolist(), strict=True):
            reasons.setdefault(row, []).append(reason)
            scores.setdefault(row, score)
            if other >= 0:
                others.setdefault(row, other)
    texts = _texts(config, rows, list(reasons))
    places = {row: rows.place(row) for row in reasons}
    order = sorted(reasons, key=lambda row: (REASONS.index(reasons[row][0]), -scores[row], row))
    suspects = []
    for row in order:
        label, predicted = int(rows.data.labels[row]), int(probabilities_RC[row].argmax())
        place = others.get(row)
        suspects.append(
            Suspect(
                source=places[row][0],
                line=places[row][1],
                text=texts[row],
                label=corpus.labels[label],
                prediction=corpus.labels[predicted],
                probability=float(probabilities_RC[row, predicted]),
                label_probability=float(probabilities_RC[row, label]),
                reasons=tuple(reasons[row]),
                other="" if place is None else "{}:{}".format(*rows.place(place)),
                score=scores[row],
            )
        )
    return suspects


def _texts(config: Config, rows: AllRows, wanted: list[int]) -> dict[int, str]:
    """Return the original texts of some rows.

    Raises:
        DataError: a file has changed since it was read.
    """
    of_splits = (config.data.train, config.data.validation, config.data.test)
    named = [name for name in of_splits if isinstance(name, str | list)]
    texts: dict[int, str] = {}
    for n, (name, store) in enumerate(zip(named, rows.stores, strict=True)):
        of_file = {int(rows.row_R[row]): row for row in wanted if rows.file_R[row] == n}
        found = original_texts(name, config.data, of_file)
        for at, row in of_file.items():
            if at not in found or text_hash(found[at]) != int(store.hashes[at]):
                problem = "has changed while it was examined; start again"
                raise DataError(problem, file=store.place(at)[0])
            texts[row] = found[at]
    return texts
