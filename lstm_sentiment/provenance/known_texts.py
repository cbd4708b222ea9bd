"""Which texts the starter was trained on, as a small file of hash prefixes, and which texts a run knows.

The starter is trained on some half a million public texts. Its folder has the first 32 of the 64 bits of the
hash of each (see `readers.text_hash`), and no text: 1.2 MB. A text that is not among them is taken for one of
them with a probability of S / 2^32, some 0.01 %. Only equal texts are recognised, not similar ones.

Legend: R texts, S prefixes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from lstm_sentiment.checkpoints import run_paths
from lstm_sentiment.checkpoints.manifest import read_tensors
from lstm_sentiment.checkpoints.untrusted_files import check_bytes, check_place
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.data.formats.readers import text_hash
from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.provenance.trained_texts import STARTER_ALONE, Seen, TrainedTexts
from lstm_sentiment.system.files import write_atomically
from lstm_sentiment.text.tokenizers import Tokenizer

FILE = "known_texts.safetensors"
HIGH = 1 << 16  # values of the upper half of a prefix
MANY, MANY_SHARE = 3, 0.01  # rows of a split that a warning needs, and their share
WITH_STARTER = "this run, or the starter that it began with,"
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class KnownTexts:
    """The texts that a packed model was trained on, as prefixes of their hashes.

    Args:
        prefixes: (S,), uint32, ascending, distinct.
    """

    prefixes: Array

    @classmethod
    def of(cls, hashes: Array) -> KnownTexts:
        """Return the prefixes of hashes of texts.

        >>> known = KnownTexts.of(np.array([text_hash("so good")], np.uint64))
        >>> known.knows(np.array([text_hash("so good "), text_hash("so bad")], np.uint64)).tolist()
        [True, False]
        """
        return cls(prefixes=np.unique(_prefixes(hashes)))

    def knows(self, hashes: Array) -> Array:
        """Return for each hash of a text whether the model was trained on the text, (R,)."""
        wanted_R = _prefixes(hashes)
        if not len(self.prefixes):
            return np.zeros(len(wanted_R), bool)
        places_R = np.minimum(np.searchsorted(self.prefixes, wanted_R), len(self.prefixes) - 1)
        found_R: Array = self.prefixes[places_R] == wanted_R
        return found_R

    def write(self, folder: Path) -> None:
        """Write the prefixes into the folder of a packed model.

        Stored are the lower halves of all prefixes, how many share each upper half, and the sha256 of both.

        Raises:
            ValueError: more than 255 prefixes share an upper half.
            DiskError: they cannot be written.
        """
        counts = np.bincount(self.prefixes >> 16, minlength=HIGH)
        if counts.max() > 255:
            raise ValueError("too many texts for this file")
        arrays: dict[str, Array] = {
            "counts": counts.astype(np.uint8),
            "low": self.prefixes.astype(np.uint16).view(np.int16),
        }
        write_atomically(folder / FILE, save(arrays | {"sha256": _digest(**arrays)}))

    @classmethod
    def read(cls, folder: Path) -> KnownTexts | None:
        """Read the prefixes of a packed model; None if its folder has none.

        Raises:
            CheckpointError: the file is damaged, or a link out of the folder.

        Example::

            KnownTexts.read(run_path("starter"))
        """
        file = folder / FILE
        if not file.exists() and not file.is_symlink():
            return None
        check_place(file, folder)
        check_bytes(file)
        tensors = {name: tensor.numpy() for name, tensor in read_tensors(file).items()}
        shapes = {name: (values.dtype, values.ndim) for name, values in tensors.items()}
        expected = {"counts": (np.dtype(np.uint8), 1), "low": (np.dtype(np.int16), 1)}
        if shapes != expected | {"sha256": (np.dtype(np.uint8), 1)} or len(tensors["counts"]) != HIGH:
            raise CheckpointError(f"{file}: does not have the hashes of texts; {_REMEDY}")
        counts, low = tensors["counts"], tensors["low"]
        if counts.sum() != len(low) or not np.array_equal(_digest(counts, low), tensors["sha256"]):
            raise CheckpointError(f"{file}: is damaged: its sha256 differs from the stored one; {_REMEDY}")
        high = np.repeat(np.arange(HIGH, dtype=np.uint32), counts)
        return cls(prefixes=(high << np.uint32(16)) | low.view(np.uint16))


@dataclass(frozen=True, kw_only=True)
class TextsOfRun:
    """What is known of the texts that a run, and the starter that it began with, were trained on.

    Args:
        own: of the run itself; None if it has none.
        starter: of the starter; None if it has none, or the run began with something else.
        who: was trained on them, in words.
    """

    own: TrainedTexts | None
    starter: KnownTexts | None
    who: str

    def seen(self, texts: Sequence[str], tokenizer: Tokenizer) -> Seen:
        """Return which texts were trained on.

        Args:
            texts: R of them.
            tokenizer: of the run.

        >>> starter = KnownTexts.of(np.array([text_hash("so good")], np.uint64))
        >>> known = TextsOfRun(own=None, starter=starter, who="the starter")
        >>> known.seen(["so good", "so bad"], Tokenizer("words", lowercase=True)).exactly.tolist()
        [True, False]
        """
        none_R = np.zeros(len(texts), bool)
        seen = Seen(exactly=none_R, nearly=none_R, all_known=True)
        if self.own is not None:
            seen = self.own.seen(texts, tokenizer)
        exactly_R = seen.exactly
        if self.starter is not None:
            exactly_R = exactly_R | self.starter.knows(
                np.array([text_hash(text) for text in texts], np.uint64)
            )
        return replace(seen, exactly=exactly_R, nearly=seen.nearly & ~exactly_R, who=self.who)


def texts_of_run(run: Path | None, pretrained: str | None) -> TextsOfRun | None:
    """Read what is known of the texts that a run was trained on; None if nothing is.

    Args:
        run: its folder, which may be the starter's; None for a classifier that was not loaded from one.
        pretrained: what its training began with, as its configuration says.

    Raises:
        CheckpointError: the hashes are damaged.

    >>> texts_of_run(None, None)
    """
    own = None if run is None else TrainedTexts.read(run)
    if run is not None and (packed := KnownTexts.read(run)) is not None:
        return TextsOfRun(own=own, starter=packed, who=STARTER_ALONE)
    begun = pretrained is not None and run_paths.is_starter(pretrained) and run is not None
    starter = KnownTexts.read(run_paths.FOLDER) if begun else None
    if own is None and starter is None:
        return None
    return TextsOfRun(own=own, starter=starter, who=Seen.who if starter is None else WITH_STARTER)


def known_rows(known: KnownTexts, splits: Mapping[str, TextDataset]) -> dict[str, int] | None:
    """Return how many rows of each split have a text that the starter was trained on; None if none has.

    Args:
        known: texts of the starter.
        splits: rows by name.

    Example::

        known_rows(KnownTexts.read(run_path("starter")), corpus.splits)
    """
    counts = {name: int(known.knows(rows.texts).sum()) for name, rows in splits.items()}
    return counts if any(counts.values()) else None


def known_rows_sentence(known: Mapping[str, int] | None, rows: Mapping[str, int]) -> str:
    """Return a sentence on rows that the starter was trained on; empty if they are few in each split.

    Few are less than three, or less than 1 %, as short texts such as "great product" recur by chance.

    Args:
        known: rows of each split that it was trained on, from `known_rows`.
        rows: of each split.

    >>> print(known_rows_sentence({"train": 80, "test": 9}, {"train": 90, "test": 10}))
    89 of 100 rows (train 80, test 9) are texts that the starter was trained on: scores of this run are too \
good for new texts; score it on other texts, or train with pretrained null
    >>> known_rows_sentence({"train": 2}, {"train": 90}), known_rows_sentence(None, {"train": 90})
    ('', '')
    """
    counted = {name: count for name, count in (known or {}).items() if name in rows}
    if not any(count >= MANY and count >= MANY_SHARE * rows[name] for name, count in counted.items()):
        return ""
    splits = ", ".join(f"{name} {count:,}" for name, count in counted.items())
    found, all_rows = sum(counted.values()), sum(rows[name] for name in counted)
    return (
        f"{found:,} of {all_rows:,} rows ({splits}) are texts that "
        "the starter was trained on: scores of this run are too good for new texts; score it on other "
        "texts, or train with pretrained null"
    )


_REMEDY = "install the package again, or delete the file to go without it"


def _prefixes(hashes: Array) -> Array:
    return (hashes.astype(np.uint64) >> np.uint64(32)).astype(np.uint32)


def _digest(counts: Array, low: Array) -> Array:
    return np.frombuffer(hashlib.sha256(counts.tobytes() + low.tobytes()).digest(), np.uint8)
