"""Pretrained word vectors, read by torchtext."""

from __future__ import annotations

import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.text import PAD, SPECIAL_TOKENS, Vocabulary


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
    from torchtext.vocab import Vectors, pretrained_aliases

    logging.getLogger("torchtext.vocab").setLevel(logging.WARNING)
    path = Path(name).expanduser()
    if path.is_file():
        found = _first_vector_size(path)
        if found != size:
            raise _wrong_size(name, found, size)
        # torchtext leaves a pickled copy beside its input: keep that in a folder that goes away.
        with tempfile.TemporaryDirectory(prefix="lstm_sentiment-") as folder:
            vectors = Vectors(str(path.absolute()), cache=folder)
    elif name in pretrained_aliases:
        named = re.search(r"\.(\d+)d$", name)
        found = int(named[1]) if named else 300 if name.startswith("fasttext") else size
        if found != size:
            raise _wrong_size(name, found, size)
        try:
            vectors = pretrained_aliases[name](cache=str(cache / "vectors"))
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"{name} cannot be downloaded: {error}", key="text.vectors") from None
    else:
        raise ConfigError(
            f"'{name}' is neither a file nor one of {', '.join(sorted(pretrained_aliases))}",
            key="text.vectors",
        )
    if vectors.dim != size:
        raise _wrong_size(name, vectors.dim, size)
    return _match(vectors.stoi, vectors.vectors, vocabulary, seed)


def _match(index: dict[str, int], vectors_NE: Tensor, vocabulary: Vocabulary, seed: int) -> PretrainedVectors:
    places = [index.get(token, -1) for token in vocabulary.tokens]
    places[: len(SPECIAL_TOKENS)] = [-1] * len(SPECIAL_TOKENS)
    found_V = torch.tensor(places) >= 0
    generator = torch.Generator().manual_seed(seed)
    spread_E, mean_E = torch.std_mean(vectors_NE, dim=0)
    weight_VE = torch.randn(len(places), vectors_NE.shape[1], generator=generator) * spread_E + mean_E
    weight_VE[found_V] = vectors_NE[torch.tensor(places)[found_V]]
    weight_VE[PAD] = 0.0
    known = frozenset(token for token, place in zip(vocabulary.tokens, places, strict=True) if place >= 0)
    return PretrainedVectors(weight_VE=weight_VE, known=known)


def _first_vector_size(path: Path) -> int:
    """Return the number of values on a vector file's first line, or second if the first is a header."""
    import gzip

    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            fields = file.readline().split()
            if len(fields) == 2:
                fields = file.readline().split()
    except OSError as error:
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
