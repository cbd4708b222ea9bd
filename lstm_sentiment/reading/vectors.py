"""Pretrained word vectors, read by torchtext."""

from __future__ import annotations

import gzip
import itertools
import logging
import re
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.reading.text import Vocabulary, certificates_checked
from lstm_sentiment.reading.tokenizing import PAD, SPECIAL_TOKENS


@dataclass(frozen=True, kw_only=True)
class PretrainedVectors:
    """An embedding matrix for a vocabulary.

    Args:
        weight_VE: (V, E) fp32; known tokens as in the file, unknown ones drawn with the file's own
            mean and spread per dimension, padding zero.
        known: tokens of the vocabulary that the file holds.
    """

    weight_VE: Tensor
    known: frozenset[str]


def load_vectors(
    name: str, vocabulary: Vocabulary, *, size: int, seed: int, cache: Path
) -> PretrainedVectors:
    """Read the vectors of a vocabulary's tokens.

    Args:
        name: a text file in GloVe, word2vec or fastText format (also .gz), or a torchtext name such
            as ``glove.6B.100d``, which torchtext downloads once.
        vocabulary: tokens wanted.
        size: length that the model's embedding has.
        seed: for the vectors of tokens that the file lacks.
        cache: folder for downloads.

    Raises:
        ConfigError: no such file or name, or vectors of another size.
    """
    with certificates_checked():
        vectors = _read(name, size, cache)
    if vectors.dim != size:
        raise _wrong_size(name, vectors.dim, size)
    rows_NE = vectors.vectors[: len(vectors.itos)]  # torchtext leaves empty rows for lines it passed over
    if not bool(rows_NE.isfinite().all()):
        raise ConfigError(f"{name} holds values that are not finite", key="text.vectors")
    return _match(vectors.stoi, rows_NE, vocabulary, seed)


def vector_words(name: str, most: int, *, cache: Path) -> list[str]:
    """Return the first words of a file with vectors, or of a torchtext name (see `load_vectors`).

    Args:
        name: of the vectors.
        most: how many words at most.
        cache: folder for downloads.

    Raises:
        ConfigError: no such file or name.

    >>> file = Path(tempfile.mkdtemp()) / "vectors.txt"
    >>> _ = file.write_text("good 0.5 0.1\\nbad -0.4 0.2\\nso 0 0\\n")
    >>> vector_words(str(file), 2, cache=file.parent)
    ['good', 'bad']
    """
    if not most:
        return []
    path = Path(name).expanduser()
    if not path.is_file():
        with certificates_checked():
            return list(_download(name, _reader_of(name), cache / "vectors").itos[:most])
    try:
        with _open(path) as file:  # the words alone: a tenth of the time that vectors take
            lines = itertools.islice(file, most + 1)  # the first may be a header of two numbers
            fields = (line.split(maxsplit=2) for line in lines)
            words = [found[0].decode("utf-8", "replace") for found in fields if len(found) > 2]
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} cannot be read: {error}", key="text.vectors") from None
    return words[:most]


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _read(name: str, size: int, cache: Path) -> Any:
    """Return torchtext's `Vectors` of a file or a name."""
    from torchtext.vocab import Vectors

    logging.getLogger("torchtext.vocab").setLevel(logging.WARNING)
    path = Path(name).expanduser()
    if path.is_file():
        found = _first_vector_size(path)
        if found != size:
            raise _wrong_size(name, found, size)
        # torchtext leaves a pickled copy beside its input: keep that in a folder that goes away.
        with tempfile.TemporaryDirectory(prefix="lstm_sentiment-") as folder:
            try:
                vectors = Vectors(str(path.absolute()), cache=folder)
            except (RuntimeError, ValueError, EOFError, OSError, zlib.error) as error:
                raise ConfigError(f"{name} cannot be read: {error}", key="text.vectors") from None
    else:
        reader = _reader_of(name)
        named = re.search(r"\.(\d+)d$", name)
        found = int(named[1]) if named else 300 if name.startswith("fasttext") else size
        if found != size:
            raise _wrong_size(name, found, size)
        vectors = _download(name, reader, cache / "vectors")
    return vectors


def _reader_of(name: str) -> Callable[..., Any]:
    """Return what torchtext reads a name with that it knows."""
    from torchtext.vocab import pretrained_aliases

    if name not in pretrained_aliases:
        raise ConfigError(
            f"'{name}' is neither a file nor one of {', '.join(sorted(pretrained_aliases))}",
            key="text.vectors",
        )
    reader: Callable[..., Any] = pretrained_aliases[name]
    return reader


def _download(name: str, reader: Callable[..., Any], folder: Path) -> Any:
    """Let torchtext download vectors once; what a failure leaves half done is removed."""
    before = set(folder.rglob("*"))
    try:
        return reader(cache=str(folder))
    except (OSError, RuntimeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        for path in set(folder.rglob("*")) - before:
            if path.is_file():
                path.unlink()
        raise ConfigError(f"{name} cannot be downloaded: {error}", key="text.vectors") from None


def _match(index: dict[str, int], vectors_NE: Tensor, vocabulary: Vocabulary, seed: int) -> PretrainedVectors:
    places = [index.get(token, -1) for token in vocabulary.tokens]
    places[: len(SPECIAL_TOKENS)] = [-1] * len(SPECIAL_TOKENS)
    found_V = torch.tensor(places) >= 0
    generator = torch.Generator().manual_seed(seed)
    spread_E, mean_E = torch.std_mean(vectors_NE, dim=0, correction=0)
    weight_VE = torch.randn(len(places), vectors_NE.shape[1], generator=generator) * spread_E + mean_E
    weight_VE[found_V] = vectors_NE[torch.tensor(places)[found_V]]
    weight_VE[PAD] = 0.0
    known = frozenset(token for token, place in zip(vocabulary.tokens, places, strict=True) if place >= 0)
    return PretrainedVectors(weight_VE=weight_VE, known=known)


def _first_vector_size(path: Path) -> int:
    """Return the number of values on a vector file's first line, or second if the first is a header."""
    try:
        with _open(path) as file:
            fields = file.readline().split()
            if len(fields) == 2:
                fields = file.readline().split()
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path} cannot be read: {error}", key="text.vectors") from None
    if len(fields) < 3:
        raise ConfigError(f"{path} holds no 'word number number ...' lines", key="text.vectors")
    return len(fields) - 1


def _wrong_size(name: str, found: int, size: int) -> ConfigError:
    return ConfigError(
        f"'{name}' has vectors of {found} values but model.embedding_size is {size}; "
        f"set model.embedding_size {found}",
        key="text.vectors",
    )
