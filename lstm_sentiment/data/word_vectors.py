"""Pretrained word vectors from text files: GloVe, word2vec and fastText.

Names and URLs of published vectors come from torchtext. Its reader is not used: it caches vectors as
a pickle, which could run code.

Legend: V tokens of the vocabulary, N vectors of the file, E values of a vector.
"""

from __future__ import annotations

import contextlib
import itertools
import lzma
import math
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lstm_sentiment.data.sources.downloads import fetched
from lstm_sentiment.data.sources.names import compression_of
from lstm_sentiment.data.sources.sources import open_binary
from lstm_sentiment.errors import ConfigError, DataError, escaped, shown
from lstm_sentiment.system.files import local_path, unfinished, writing
from lstm_sentiment.text.tokenization import PAD, SPECIAL_TOKENS
from lstm_sentiment.text.tokenizers import Vocabulary, certificates_checked

KEY = "text.vectors"
LINES_AT_ONCE = 8192
LONGEST_LINE = 1 << 20  # bytes: more than a word and 4096 numbers
UNREADABLE = (OSError, EOFError, ValueError, KeyError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


@dataclass(frozen=True, kw_only=True)
class PretrainedVectors:
    """An embedding matrix for a vocabulary.

    Args:
        weight_VE: (V, E) fp32; known tokens as in the file, unknown ones drawn with the file's
            mean and standard deviation per dimension, padding zero.
        known: tokens of the vocabulary that are in the file.
    """

    weight_VE: Tensor
    known: frozenset[str]


def load_vectors(
    name: str, vocabulary: Vocabulary, *, size: int, seed: int, cache: Path
) -> PretrainedVectors:
    """Load the pretrained vectors of a vocabulary's tokens.

    Args:
        name: a text file in GloVe, word2vec or fastText format (also .gz), or a name that torchtext knows,
            such as ``glove.6B.100d``, which is downloaded once.
        vocabulary: tokens wanted.
        size: embedding size of the model.
        seed: for the vectors of tokens that are not in the file.
        cache: folder for downloads.

    Raises:
        ConfigError: no such file or name, vectors of another size, or an invalid line.
        DiskError: they cannot be cached, or a temporary file cannot be used.

    >>> file = Path(tempfile.mkdtemp()) / "vectors.txt"
    >>> _ = file.write_text("good 0.5 0.1\\nbad -0.4 0.2\\n")
    >>> found = load_vectors(str(file), Vocabulary(["bad"]), size=2, seed=0, cache=file.parent)
    >>> found.weight_VE[2], found.known
    (tensor([-0.4000,  0.2000]), frozenset({'bad'}))
    """
    if not local_path(name).is_file():
        _address(name)
        _check_size(name, int(name.rpartition(".")[2][:-1]), size)  # before anything is downloaded
    # All vectors go to an anonymous temporary file: their mean and spread are needed, and memory is bounded.
    with _opened(name, cache) as file, tempfile.TemporaryFile() as kept:
        places: dict[str, int] = {}
        wanted = set(vocabulary.tokens[len(SPECIAL_TOKENS) :])
        count = 0
        for words, rows_NE in _read(file, name, size):
            with writing(Path(tempfile.gettempdir())):
                rows_NE.tofile(kept)
            found = zip(words, itertools.count(count))
            places |= {word: place for word, place in found if word in wanted}
            count += len(words)
        with writing(Path(tempfile.gettempdir())):
            kept.flush()
        if not count:
            raise ConfigError(f"{name} has no 'word number number ...' lines", key=KEY)
        vectors_NE = torch.from_numpy(np.memmap(kept, np.float32, mode="c", shape=(count, size)))
        return _match(places, vectors_NE, vocabulary, seed)


def vector_size(name: str, *, cache: Path) -> int:
    """Return the number of values of each vector in a file or of a torchtext name (see `load_vectors`).

    Raises:
        ConfigError: no such file or name, or no vectors in it.

    >>> file = Path(tempfile.mkdtemp()) / "vectors.txt"
    >>> _ = file.write_text("2 3\\ngood 0.5 0.1 0\\nbad -0.4 0.2 0\\n")
    >>> vector_size(str(file), cache=file.parent)
    3
    """
    if not local_path(name).is_file():
        _address(name)
        return int(name.rpartition(".")[2][:-1])
    with _opened(name, cache) as file:
        for line in itertools.islice(_lines(file, name), 2):  # the first may be a header of two numbers
            numbers = line.rstrip().partition(b" ")[2]
            if numbers.count(b" "):
                return numbers.count(b" ") + 1
    raise ConfigError(f"{name} has no 'word number number ...' lines", key=KEY)


def vector_words(name: str, most: int, *, cache: Path) -> list[str]:
    """Return the first words of a vector file or of a torchtext name (see `load_vectors`).

    Args:
        name: of the vectors.
        most: maximum number of words.
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
    with _opened(name, cache) as file:  # only the words: a tenth of the time of parsing vectors
        lines = itertools.islice(_lines(file, name), most + 1)  # the first may be a header of two numbers
        fields = (line.split(maxsplit=2) for line in lines)
        words = [found[0].decode("utf-8", "replace") for found in fields if len(found) > 2]
    return words[:most]


def _read(file: IO[bytes], name: str, size: int) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
    """Yield batches of words and their vectors (N, E); words that are not UTF-8 are skipped."""
    lines = enumerate(_lines(file, name), start=1)
    first = True
    while numbered := list(itertools.islice(lines, LINES_AT_ONCE)):
        words: list[str] = []
        values: list[bytes] = []
        for line, content in numbered:
            word, _, numbers = content.rstrip().partition(b" ")
            fields = numbers.count(b" ") + 1 if numbers else 0
            if first and fields != 1:  # a single number is a word2vec header
                _check_size(name, fields, size)
                first = False
            if fields == 1:
                continue
            if fields != size:
                raise _invalid_line(name, line, content, f"has {fields} values, those before have {size}")
            with contextlib.suppress(UnicodeDecodeError):
                words.append(word.decode())
                values.append(numbers)
        yield words, _as_rows(values, numbered, name, size)


def _as_rows(
    values: list[bytes], numbered: Sequence[tuple[int, bytes]], name: str, size: int
) -> npt.NDArray[np.float32]:
    """Parse lines of numbers into rows (N, E); an error names the line."""
    try:
        # Split only at spaces: a tab in one line could compensate for a missing number in another.
        parsed = np.array(b" ".join(values).split(b" "), np.float64)
        with np.errstate(over="ignore"):
            rows_NE = parsed.reshape(len(values), size).astype(np.float32)
        if np.isfinite(rows_NE).all():
            return rows_NE
    except ValueError:  # find the invalid line
        pass
    for line, content in numbered:
        for value in content.rstrip().split(b" ")[1:]:
            if not _is_finite(value):
                raise _invalid_line(name, line, content, f"{_shown(value)} is not a finite number")
    raise ConfigError(f"{name} cannot be read as numbers", key=KEY)


def _is_finite(value: bytes) -> bool:
    try:
        with np.errstate(over="ignore"):
            return math.isfinite(np.float32(float(value)))
    except ValueError:
        return False


def _lines(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Yield a file's lines; their length is limited, so that memory is bounded."""
    for line in iter(lambda: file.readline(LONGEST_LINE), b""):
        if len(line) == LONGEST_LINE:
            raise ConfigError(f"{name} has a line of more than {LONGEST_LINE:,} bytes", key=KEY)
        yield line


def _invalid_line(name: str, line: int, content: bytes, problem: str) -> ConfigError:
    word = _shown(content.partition(b" ")[0])
    return ConfigError(f"{name}:{line}: the line of {word}: {problem}", key=KEY)


def _shown(found: bytes) -> str:
    return shown(found.decode("utf-8", "replace"))


@contextlib.contextmanager
def _opened(name: str, cache: Path) -> Iterator[IO[bytes]]:
    """Open vectors for reading, downloading named ones; also converts errors while reading."""
    path = local_path(name)
    local = path.is_file()
    member = ""
    if not local:
        path, member = _downloaded(name, cache / "vectors")
    elif compression_of(path.name) == ".zip":
        raise ConfigError(f"{name} is a zip archive; unpack it, and name a file from it", key=KEY)
    try:
        with contextlib.ExitStack() as stack:
            if member:
                archive = stack.enter_context(zipfile.ZipFile(path))
                yield stack.enter_context(archive.open(member))
            else:
                yield stack.enter_context(open_binary(path, compression_of(path.name)))
    except UNREADABLE as error:
        if not local:
            path.unlink()  # to download again
        raise ConfigError(f"{name} cannot be read: {escaped(str(error), 200)}", key=KEY) from None


def _check_size(name: str, found: int, size: int) -> None:
    if not found:
        raise ConfigError(f"{name} has no 'word number number ...' lines", key=KEY)
    if found != size:
        raise ConfigError(
            f"'{name}' has vectors of {found} values but model.embedding_size is {size}; "
            f"set model.embedding_size {found}",
            key=KEY,
        )


def _address(name: str) -> tuple[str, str]:
    """Return the URL of named vectors, and their member if it is an archive."""
    with certificates_checked():
        from torchtext.vocab import FastText, GloVe, pretrained_aliases

    known = {alias: of for alias, of in pretrained_aliases.items() if of.func in (GloVe, FastText)}
    if name not in known:
        raise ConfigError(f"'{name}' is neither a file nor one of {', '.join(sorted(known))}", key=KEY)
    chosen = known[name].keywords
    if known[name].func is FastText:
        return FastText.url_base.format(chosen["language"]), ""
    return GloVe.url[chosen["name"]], f"glove.{chosen['name']}.{chosen['dim']}d.txt"


def _downloaded(name: str, folder: Path) -> tuple[Path, str]:
    """Download named vectors; return the file, and their member if it is an archive."""
    url, member = _address(name)
    if member and (folder / member).is_file():
        return folder / member, ""
    path: Path = folder / url.rpartition("/")[2]
    if not path.is_file():
        temporary = unfinished(path)
        try:
            with fetched(url.replace("http://", "https://")) as fresh, writing(path):
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    shutil.move(fresh, temporary)  # across file systems, where rename fails
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)
        except DataError as error:
            raise ConfigError(f"{name} cannot be downloaded: {error}", key=KEY) from None
    return path, member


def _match(
    places: dict[str, int], vectors_NE: Tensor, vocabulary: Vocabulary, seed: int
) -> PretrainedVectors:
    place_V = torch.tensor([places.get(token, -1) for token in vocabulary.tokens])
    found_V = place_V >= 0
    generator = torch.Generator().manual_seed(seed)
    spread_E, mean_E = torch.std_mean(vectors_NE, dim=0, correction=0)
    weight_VE = torch.randn(len(place_V), vectors_NE.shape[1], generator=generator) * spread_E + mean_E
    weight_VE[found_V] = vectors_NE[place_V[found_V]]
    weight_VE[PAD] = 0.0
    if not weight_VE.isfinite().all():  # their spread overflows fp32
        raise ConfigError("the vectors contain values that are too large; use others", key=KEY)
    return PretrainedVectors(weight_VE=weight_VE, known=frozenset(places))
