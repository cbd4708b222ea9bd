"""Adds predictions to the rows of a source, chunk by chunk, and counts what is to be reported at the end."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm import tqdm

from lstm_sentiment.checkpoints.manifest import MANIFEST
from lstm_sentiment.checkpoints.run_folder import BEST, MONITORING, RunFolder
from lstm_sentiment.data.formats.readers import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    Chunk,
    column_texts,
    columns_of,
    pick_column,
    read_chunks,
)
from lstm_sentiment.data.formats.writers import filled, open_table
from lstm_sentiment.data.sources.names import format_of
from lstm_sentiment.errors import DataError, RunError
from lstm_sentiment.monitoring.drift import Profile, profile_of_json, profile_of_predictions
from lstm_sentiment.provenance.known_texts import TextsOfRun, texts_of_run
from lstm_sentiment.provenance.trained_texts import Seen
from lstm_sentiment.system.files import sha256_of
from lstm_sentiment.text.given import is_missing

if TYPE_CHECKING:
    from lstm_sentiment.data.sources.sources import Source
    from lstm_sentiment.prediction.classifier import SentimentClassifier
    from lstm_sentiment.prediction.types import Prediction


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is predicted for the rows of a source.

    Args:
        text_column: column with the text; auto detects it.
        branch: part of the model that predicts alone; None for the whole.
        coverage: of conformal prediction sets, None for none.
        abstain_below: no label if its probability is lower.
        details: also the share of unknown tokens, truncated tokens and whether none was read.
        on_missing: what is done with a missing text: raise, skip or null.
        drift: whether the texts must be compared with the run's validation rows; else they are if possible.
    """

    text_column: str = "auto"
    branch: str | None = None
    coverage: float | None = None
    abstain_below: float = 0.0
    details: bool = False
    on_missing: str = "null"
    drift: bool = False

    @property
    def more(self) -> list[str]:
        """The names of the optional fields of a `Prediction` that are wanted."""
        names = ["label_set"] if self.coverage is not None else []
        return names + (["unknown_share", "cut_tokens", "unread"] if self.details else [])


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was found in some rows; the counts of parts add up.

    Args:
        rows: read.
        missing: texts that are missing.
        unread: other texts without a token.
        labelled: texts of rows with labels, which may be training rows.
        exactly: texts of these that the run was trained on.
        nearly: texts of these that are similar to one that it was trained on.
        all_known: whether all training texts are known.
        who: was trained on them, in words.
        profile: of the predictions, to compare with the validation rows; None if that is not possible.
    """

    rows: int = 0
    missing: int = 0
    unread: int = 0
    labelled: int = 0
    exactly: int = 0
    nearly: int = 0
    all_known: bool = True
    who: str = Seen.who
    profile: Profile | None = None

    def __add__(self, other: Counts) -> Counts:
        """Return the counts of the rows of both."""
        names = ("rows", "missing", "unread", "labelled", "exactly", "nearly")
        profiles = [of for of in (self.profile, other.profile) if of is not None]
        return Counts(
            **{name: getattr(self, name) + getattr(other, name) for name in names},
            all_known=self.all_known and other.all_known,
            who=other.who if self.who == Seen.who else self.who,
            profile=profiles[0] + profiles[1] if len(profiles) == 2 else (*profiles, None)[0],
        )


class Labelling:
    """Labels rows.

    Args:
        classifier: to predict with.
        asked: what is predicted.

    Raises:
        CheckpointError: the run's validation profile is damaged.
        RunError: a comparison with the validation rows is required, and the run has no profile of them.

    Example::

        labelling = Labelling(lstm_sentiment.load("starter"), Asked())
        with open_source("in/*.csv") as source:
            labelling.write(source, "out.csv")
        labelling.counts.rows
    """

    def __init__(self, classifier: SentimentClassifier, asked: Asked) -> None:
        self._classifier, self._asked = classifier, asked
        self.reference = _reference_of(classifier, asked)
        self.counts = Counts()

    @functools.cached_property
    def _trained(self) -> TextsOfRun | None:
        """What is known of the training texts; read only where rows have labels."""
        return texts_of_run(self._classifier.run, self._classifier.config.pretrained)

    @property
    def run_hash(self) -> str:
        """A hash that changes with the run's model, vocabulary or classes."""
        assert self._classifier.run is not None
        return sha256_of(self._classifier.run / BEST / MANIFEST)

    def write(
        self, source: Source, out: str, *, spreadsheet_safe: bool = False, skip_empty: bool = False
    ) -> None:
        """Write the rows of a source with predictions to a table, in constant memory.

        Args:
            source: from `open_source`, of one file or several.
            out: a table, in the format of its name; it is created atomically.
            spreadsheet_safe: see `open_table`.
            skip_empty: write nothing if there is no row; else that is an error.

        Raises:
            DataError: an invalid row, or none; a column that is added; a value that the table cannot hold.
            DiskError: the table cannot be written.
        """
        like = source.path if source.format == ".parquet" else None
        columns = None if format_of(out) in (".jsonl", ".json") else columns_of(source)
        frames = self.frames(source, columns, may_be_empty=skip_empty)
        first = next((frame for frame in frames if not frame.empty), None) if skip_empty else None
        if skip_empty and first is None:
            return
        with open_table(out, like=like, spreadsheet_safe=spreadsheet_safe) as write:
            if first is not None:
                write(first)
            for frame in frames:
                write(frame)

    def frames(
        self, source: Source, columns: list[str] | None = None, *, may_be_empty: bool = False
    ) -> Iterator[pd.DataFrame]:
        """Yield a source's rows with predictions.

        Args:
            source: of one file or several.
            columns: that each chunk has, if given.
            may_be_empty: whether a source without rows is accepted.
        """
        asked = self._asked
        with tqdm(unit=" rows", desc="predict", disable=not sys.stderr.isatty()) as bar:
            for chunk in read_chunks(source, labelled=False, may_be_empty=may_be_empty):
                texts = self._texts_of(chunk)
                predictions = self._classifier.predict(
                    texts,
                    coverage=asked.coverage,
                    abstain_below=asked.abstain_below,
                    details=asked.details or self.reference is not None,
                    on_missing=asked.on_missing,
                )
                self.counts += self._counts_of(chunk, texts, predictions)
                frame = chunk.frame if columns is None else filled(chunk.frame, columns)
                if asked.on_missing == "skip":
                    frame = frame[[text is not None for text in texts]]
                yield self._with_predictions(frame, predictions, chunk.file)
                bar.update(len(chunk.frame))

    def _texts_of(self, chunk: Chunk) -> list[str | None]:
        """Return the texts of a chunk, None for missing ones."""
        column = pick_column(
            self._asked.text_column,
            list(chunk.frame.columns),
            candidates=TEXT_COLUMNS,
            key="--text-column",
            file=chunk.file,
            trained=self._classifier.config.data.text_column,
        )
        read = zip(chunk.frame[column], column_texts(chunk, column, chunk.file), strict=True)
        texts = [None if is_missing(value) else text for value, text in read]
        if None in texts and self._asked.on_missing == "raise":
            problem = "the text is missing; add it, or choose --on-missing skip or null"
            line = int(chunk.lines[texts.index(None)])
            raise DataError(problem, file=chunk.file, line=line, column=column)
        return texts

    def _counts_of(
        self, chunk: Chunk, texts: Sequence[str | None], predictions: Sequence[Prediction]
    ) -> Counts:
        missing = sum(text is None for text in texts)
        nulls = missing if self._asked.on_missing == "null" else 0
        profile = None
        if self.reference is not None:
            profile = profile_of_predictions(self._classifier.labels, predictions)
        found = Counts(
            rows=len(texts),
            missing=missing,
            unread=sum(prediction.unread for prediction in predictions) - nulls,
            profile=profile,
        )
        if not self._has_labels(chunk) or self._trained is None:
            return found
        seen = self._trained.seen([text for text in texts if text is not None], self._classifier.tokenizer)
        return replace(
            found,
            labelled=len(seen.exactly),
            exactly=int(seen.exactly.sum()),
            nearly=int(seen.nearly.sum()),
            all_known=seen.all_known,
            who=seen.who,
        )

    def _has_labels(self, chunk: Chunk) -> bool:
        """Whether a chunk has a column of labels: of this run, or of a usual name."""
        names = {str(column).strip().lower() for column in chunk.frame.columns}
        return not names.isdisjoint({*LABEL_COLUMNS, self._classifier.config.data.label_column.lower()})

    def _with_predictions(
        self, frame: pd.DataFrame, predictions: Sequence[Prediction], file: str
    ) -> pd.DataFrame:
        """Add columns predicted_label, predicted_score and one probability per class.

        If requested, also label_set (names joined by a bar), unknown_share, cut_tokens and unread.
        """
        added: dict[str, list[Any]] = {
            "predicted_label": [p.label for p in predictions],
            "predicted_score": [_number(p.score) for p in predictions],
        }
        for label in self._classifier.labels:
            added[f"probability_{label}"] = [_number(p.probabilities[label]) for p in predictions]
        for name in self._asked.more:
            values = [getattr(p, name) for p in predictions]
            added[name] = ["|".join(of or ()) for of in values] if name == "label_set" else values
        taken = [name for name in added if name in frame.columns]
        if taken:
            problem = f"already has a column '{taken[0]}', which this command adds; rename it"
            raise DataError(problem, file=file)
        return pd.concat([frame, pd.DataFrame(added, index=frame.index, dtype=object)], axis=1)


def _reference_of(classifier: SentimentClassifier, asked: Asked) -> Profile | None:
    """Return the profile of a run's validation rows; None if it has none, or for one branch alone."""
    if asked.branch:  # its predictions are others than those of the whole model
        return None
    assert classifier.run is not None
    folder = RunFolder(classifier.run)
    if (folder.path / MONITORING).is_file():
        return profile_of_json(folder.read_json(MONITORING), classifier.labels)
    if asked.drift:
        raise RunError(
            f"{folder.path}: has no {MONITORING} to compare with; train it again, or omit --drift-report"
        )
    return None


def _number(value: float) -> float | None:
    """Return a probability, None for that of a missing text."""
    return None if math.isnan(value) else value
