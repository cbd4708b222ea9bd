"""Adds predictions to the rows of a source, chunk by chunk, and counts what is to be reported at the end."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
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
from lstm_sentiment.data.formats.writers import Write, filled, open_table
from lstm_sentiment.data.sources.names import format_of
from lstm_sentiment.errors import DataError, RunError
from lstm_sentiment.monitoring.drift import Profile, profile_of, profile_of_json
from lstm_sentiment.provenance.known_texts import TextsOfRun, texts_of_run
from lstm_sentiment.provenance.trained_texts import Seen
from lstm_sentiment.system.background import finish_behind, read_ahead
from lstm_sentiment.system.files import sha256_of
from lstm_sentiment.text.given import is_missing

if TYPE_CHECKING:
    from lstm_sentiment.data.sources.sources import Source
    from lstm_sentiment.prediction.classifier import SentimentClassifier
    from lstm_sentiment.prediction.types import PredictedArrays

Result = TypeVar("Result")
_OF_MISSING: dict[str, Any] = {"label_set": "", "unread": True}  # the columns of a missing text; others None


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


class _Predicted(NamedTuple):
    """A chunk with its texts, None for missing ones, and their predictions."""

    chunk: Chunk
    texts: list[str | None]
    arrays: PredictedArrays


class Labelling:
    """Labels rows.

    Args:
        classifier: to predict with.
        asked: what is predicted.

    Raises:
        ConfigError: a coverage or probability is out of range, or the coverage not available.
        CheckpointError: the run's validation profile is damaged.
        RunError: a comparison with the validation rows is required, and the run has no profile of them.

    Example::

        labelling = Labelling(lstm_sentiment.load("starter"), Asked())
        with open_source("in/*.csv") as source:
            labelling.write(source, "out.csv")
        labelling.counts.rows
    """

    def __init__(self, classifier: SentimentClassifier, asked: Asked) -> None:
        classifier.check_options(asked.coverage, asked.abstain_below)
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
        with contextlib.ExitStack() as stack:

            def opened() -> Write:
                return stack.enter_context(open_table(out, like=like, spreadsheet_safe=spreadsheet_safe))

            write = None if skip_empty else opened()

            def append(frame: pd.DataFrame) -> None:
                nonlocal write
                if write is None and not frame.empty:
                    write = opened()
                if write is not None:
                    write(frame)

            for _ in self.each(append, source, columns, may_be_empty=skip_empty):
                pass

    def each(
        self,
        function: Callable[[pd.DataFrame], Result],
        source: Source,
        columns: list[str] | None = None,
        *,
        may_be_empty: bool = False,
    ) -> Generator[Result, None, None]:
        """Yield the value of a function for each chunk of a source's rows with predictions.

        Chunks are read, predicted, and passed to the function at the same time, by three threads.

        Args:
            function: called with one chunk after the other, in order, by a thread of its own.
            source: of one file or several.
            columns: that each chunk has, if given.
            may_be_empty: whether a source without rows is accepted.
        """

        def finished(predicted: _Predicted) -> Result:
            self.counts += self._counts_of(predicted)
            return function(self._with_predictions(predicted, columns))

        chunks = self._chunks(source, may_be_empty)
        with contextlib.closing(read_ahead(chunks)) as read:
            yield from finish_behind(finished, self._predicted(read))

    def _chunks(self, source: Source, may_be_empty: bool) -> Iterator[tuple[Chunk, list[str | None]]]:
        for chunk in read_chunks(source, labelled=False, may_be_empty=may_be_empty):
            yield chunk, self._texts_of(chunk)

    def _predicted(self, chunks: Iterable[tuple[Chunk, list[str | None]]]) -> Iterator[_Predicted]:
        asked = self._asked
        with tqdm(unit=" rows", desc="predict", disable=not sys.stderr.isatty()) as bar:
            for chunk, texts in chunks:
                arrays = self._classifier.predict_arrays(
                    texts,
                    coverage=asked.coverage,
                    counted=asked.details or self.reference is not None,
                    on_missing=asked.on_missing,
                )
                yield _Predicted(chunk, texts, arrays)
                bar.update(len(texts))

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

    def _counts_of(self, predicted: _Predicted) -> Counts:
        chunk, texts, arrays = predicted
        profile = None
        if self.reference is not None:
            profile = profile_of(
                self._classifier.labels,
                arrays.probabilities_RC,
                arrays.tokens_R,
                arrays.unknown_R,
            )
        found = Counts(
            rows=len(texts),
            missing=len(arrays.missing),
            unread=int((arrays.tokens_R == 0).sum()),
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

    def _with_predictions(self, predicted: _Predicted, columns: list[str] | None) -> pd.DataFrame:
        """Return a chunk with columns predicted_label, predicted_score and one probability per class.

        If requested, also label_set (names joined by a bar), unknown_share, cut_tokens and unread.
        """
        chunk, texts, arrays = predicted
        frame = chunk.frame if columns is None else filled(chunk.frame, columns)
        if self._asked.on_missing == "skip":
            frame = frame[[text is not None for text in texts]]
        added = self._columns_of(arrays)
        if self._asked.on_missing == "null":
            for name, values in added.items():
                for place in arrays.missing:
                    values.insert(place, _OF_MISSING.get(name))
        taken = [name for name in added if name in frame.columns]
        if taken:
            problem = f"already has a column '{taken[0]}', which this command adds; rename it"
            raise DataError(problem, file=chunk.file)
        return pd.concat([frame, pd.DataFrame(added, index=frame.index, dtype=object)], axis=1)

    def _columns_of(self, predicted: PredictedArrays) -> dict[str, list[Any]]:
        """Return the columns to add, for the texts that are not missing."""
        labels, probabilities_RC = self._classifier.labels, predicted.probabilities_RC
        score_R, best_R = probabilities_RC.max(axis=1), probabilities_RC.argmax(axis=1)
        best_R = np.where(score_R >= self._asked.abstain_below, best_R, len(labels))
        added: dict[str, list[Any]] = {
            "predicted_label": np.array([*labels, None], object)[best_R].tolist(),
            "predicted_score": score_R.tolist(),
        }
        for place, label in enumerate(labels):
            added[f"probability_{label}"] = probabilities_RC[:, place].tolist()
        if predicted.sets_RC is not None:
            sets = (itertools.compress(labels, row_C) for row_C in predicted.sets_RC.tolist())
            added["label_set"] = ["|".join(of) for of in sets]
        if self._asked.details:
            tokens_R, most = predicted.tokens_R, self._classifier.config.text.max_tokens
            added["unknown_share"] = (predicted.unknown_R / np.maximum(1, tokens_R)).tolist()
            added["cut_tokens"] = np.maximum(0, tokens_R - most).tolist()
            added["unread"] = (tokens_R == 0).tolist()
        return added


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
