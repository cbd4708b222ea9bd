"""Recognise the texts that a run was trained on, exactly or nearly, from hashes that the run keeps.

A score on them says how well they are remembered, not how new texts are classified. The run has a 64-bit
hash and a sketch (see `sketches`) of each training text, not the texts; but whoever has a text can find out
whether it was one of them, so that the file is not published with the model.

Legend: R texts, S texts that a run was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from lstm_sentiment.checkpoints.manifest import read_tensors
from lstm_sentiment.checkpoints.untrusted_files import check_bytes, check_place
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.formats.readers import text_hash
from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.provenance.sketches import BITS, similar, sketches
from lstm_sentiment.system.files import write_atomically
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer

FILE = "trained_texts.safetensors"
MOST_HASHES, MOST_SKETCHES = 500_000, 100_000  # kept: 4 MB and 1.6 MB
ROWS_AT_ONCE = 50_000
TEXTS_AT_ONCE = 8_192
STARTER_ALONE = "the starter"  # similar texts of its training texts are not recognised
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Which of R texts a run was trained on.

    Args:
        exactly: the same text, but for white space at its ends (R,).
        nearly: a text whose set of tokens is similar, and none that is the same (R,).
        all_known: whether the run kept a hash of each training text; otherwise there may be more.
        who: was trained on them, in words.
    """

    exactly: Array
    nearly: Array
    all_known: bool
    who: str = "this run"

    @property
    def either(self) -> Array:
        """Whether each text was trained on, exactly or nearly (R,)."""
        found_R: Array = self.exactly | self.nearly
        return found_R


@dataclass(frozen=True, kw_only=True)
class TrainedTexts:
    """Hashes of the texts that a run was trained on.

    Args:
        hashes: (S,), uint64, ascending, distinct; the smallest `MOST_HASHES` of them.
        sketches: distinct sketches (S, 16), uint8, of at most `MOST_SKETCHES` texts.
        texts: number of distinct training texts.
    """

    hashes: Array
    sketches: Array
    texts: int

    @classmethod
    def of(cls, train: TextDataset) -> TrainedTexts:
        """Return the hashes of the rows of a dataset.

        Example::

            TrainedTexts.of(corpus.train)
        """
        hashes, first = np.unique(train.texts, return_index=True)
        parts = [np.zeros((0, BITS // 8), np.uint8)]
        for rows in _parts(train.rows[first[:MOST_SKETCHES]]):
            store = train.store
            lengths_R = store.offsets[rows + 1] - store.offsets[rows]
            places = np.repeat(store.offsets[rows] - np.cumsum(lengths_R) + lengths_R, lengths_R)
            ids_N = np.asarray(store.ids_N[places + np.arange(len(places))])
            store.release()
            found_RK, sketched_R = sketches(ids_N, lengths_R, store.tokens)
            parts.append(found_RK[sketched_R])
        return cls(
            hashes=hashes[:MOST_HASHES],
            sketches=np.unique(np.concatenate(parts), axis=0),
            texts=len(hashes),
        )

    def write(self, run: Path) -> None:
        """Write the hashes into a run folder.

        Raises:
            DiskError: they cannot be written.
        """
        arrays = {"hashes": self.hashes.view(np.int64), "sketches": self.sketches}
        write_atomically(run / FILE, save(arrays | {"texts": np.array([self.texts])}))

    @classmethod
    def read(cls, run: Path) -> TrainedTexts | None:
        """Read the hashes of a run; None if it has none, as runs of earlier versions.

        Raises:
            CheckpointError: the file is damaged, or a link out of the run.
        """
        file = run / FILE
        if not file.exists() and not file.is_symlink():
            return None
        check_place(file, run)
        check_bytes(file)
        tensors = {name: tensor.numpy() for name, tensor in read_tensors(file).items()}
        shapes = {name: (values.dtype, values.shape[1:]) for name, values in tensors.items()}
        expected = {"hashes": (np.dtype(np.int64), ()), "sketches": (np.dtype(np.uint8), (BITS // 8,))}
        if shapes != expected | {"texts": (np.dtype(np.int64), ())} or len(tensors["texts"]) != 1:
            raise CheckpointError(f"{file}: does not have the hashes of texts; delete it to go without them")
        hashes = np.sort(tensors["hashes"].view(np.uint64))
        return cls(hashes=hashes, sketches=tensors["sketches"], texts=int(tensors["texts"][0]))

    def seen(self, texts: Sequence[str], tokenizer: Tokenizer) -> Seen:
        """Return which texts the run was trained on.

        Args:
            texts: R of them.
            tokenizer: of the run.

        >>> none = TrainedTexts(hashes=np.zeros(0, np.uint64), sketches=np.zeros((0, 16), np.uint8), texts=0)
        >>> none.seen(["a fine film"], Tokenizer("words", lowercase=True)).either.tolist()
        [False]
        """
        exactly = np.isin(np.array([text_hash(text) for text in texts], np.uint64), self.hashes)
        nearly = [np.zeros(0, bool)]
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            lexicon = Lexicon(tokenizer)
            ids_N, lengths_R = lexicon.encode(texts[start : start + TEXTS_AT_ONCE])
            found_RK, sketched_R = sketches(ids_N, lengths_R, lexicon.tokens)
            nearly.append(sketched_R & similar(found_RK, self.sketches))
        nearly_R = np.concatenate(nearly) & ~exactly
        return Seen(exactly=exactly, nearly=nearly_R, all_known=self.texts <= MOST_SKETCHES)


def joined_seen(parts: Sequence[Seen]) -> Seen:
    """Return what parts say about consecutive texts, for all of them.

    >>> one = Seen(exactly=np.array([True]), nearly=np.array([False]), all_known=True)
    >>> joined_seen([one, one]).either.tolist()
    [True, True]
    """
    none = np.zeros(0, bool)
    return Seen(
        exactly=np.concatenate([none, *(part.exactly for part in parts)]),
        nearly=np.concatenate([none, *(part.nearly for part in parts)]),
        all_known=all(part.all_known for part in parts),
        who=parts[0].who if parts else Seen.who,
    )


def seen_line(seen: Seen) -> str:
    """Return a sentence on how many texts a run was trained on; empty for none.

    >>> seen_line(Seen(exactly=np.array([True, False]), nearly=np.array([False, False]), all_known=True))
    'this run was trained on 1 of 2 texts exactly and 0 nearly; scores on these say little about new texts'
    """
    exactly, nearly = int(seen.exactly.sum()), int(seen.nearly.sum())
    return counts_line(exactly, nearly, len(seen.exactly), all_known=seen.all_known, who=seen.who)


def counts_line(exactly: int, nearly: int, texts: int, *, all_known: bool, who: str = Seen.who) -> str:
    """Return the sentence of `seen_line` for counts of texts.

    How many are nearly the same is an estimate (see `sketches`); `near_duplicates` needs the texts.

    >>> counts_line(0, 0, 3, all_known=True)
    ''
    >>> counts_line(2, 0, 3, all_known=True, who=STARTER_ALONE)
    'the starter was trained on 2 of 3 texts; scores on these say little about new texts'
    >>> counts_line(2, 1, 9, all_known=True)[:63]
    'this run was trained on 2 of 9 texts exactly and about 1 nearly'
    """
    if not exactly + nearly:
        return ""
    at_least = "" if all_known else "at least "
    counts = f"{at_least}{exactly:,} of {texts:,} texts"
    if who != STARTER_ALONE:
        counts += f" exactly and {'about ' * bool(nearly)}{nearly:,} nearly"
    return f"{who} was trained on {counts}; scores on these say little about new texts"


def _parts(rows: Array) -> Iterator[Array]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]
