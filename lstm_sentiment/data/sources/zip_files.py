"""Zip archives with a single file, decompressed on reading."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lstm_sentiment.data.sources.names import COMPRESSED_INSIDE, FORMATS, SAME, compression_of, has_format
from lstm_sentiment.errors import DataError, escaped, listed, shown

MOST_DIRECTORY_BYTES = 1 << 22  # of an archive's central directory: 40,000 short names
BUFFER_BYTES = 1 << 16
ENCRYPTED = 0x1  # bit of a member's flags
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError)
# Other errors on opening an archive: unsupported compression methods, offsets beyond the end.
UNREADABLE = (*DAMAGED, NotImplementedError, RuntimeError, ValueError, OSError)


class Bounded(io.FileIO):
    """A file that limits the size of a read, such as that of a central directory of a million members."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return some bytes.

        Raises:
            DataError: more are requested than a central directory may have.
        """
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if wanted > MOST_DIRECTORY_BYTES:
            raise DataError("contains too many files; unpack it", file=str(self.name))
        return super().read(size)


@contextlib.contextmanager
def open_archive(path: Path, name: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive, with a limit on its central directory.

    Args:
        path: of the archive.
        name: for messages.

    Raises:
        DataError: it is not a zip archive, or damaged.
    """
    try:
        with Bounded(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except UNREADABLE as error:
        problem = escaped(str(error), 200)
        message = f"is not a readable zip archive: {problem}; copy or write it again"
        raise DataError(message, file=name) from None
    except DataError as error:
        raise DataError(error.message, file=name) from None


def only_member(path: Path, name: str) -> str:
    """Return the name of the only file in a zip archive, ignoring folders and macOS metadata.

    Args:
        path: of the archive.
        name: for messages.

    Raises:
        DataError: there is none, several, or one that cannot be read from the archive.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.zip"
    >>> with zipfile.ZipFile(path, "w") as archive:
    ...     archive.writestr("reviews.csv", "text,label\\n")
    >>> only_member(path, "a.zip")
    'reviews.csv'
    """
    with open_archive(path, name) as archive:
        members = [member for member in archive.infolist() if not _is_extra(member)]
        if len(members) == 1 and not members[0].flag_bits & ENCRYPTED:
            archive.open(members[0]).close()  # raises errors early
    if any(member.filename == "xl/workbook.xml" for member in members):
        raise DataError("is an Excel workbook; rename it to end in .xlsx", file=name)
    if len(members) != 1:
        names = [member.filename for member in members]
        found = (
            f"holds {len(members):,} files ({listed(names, most=5, quoted=True)})" if members else "is empty"
        )
        raise DataError(f"{found}; put one table into it, or unpack it and name one of them", file=name)
    (member,) = members
    inside = Path(member.filename).suffix.lower()
    inside = SAME.get(inside, inside)
    problem = ""
    if member.flag_bits & ENCRYPTED:
        problem = "is encrypted; unpack it with its password"
    elif inside in COMPRESSED_INSIDE:
        problem = f"is {COMPRESSED_INSIDE[inside]}, which is already compressed; unpack it"
    elif compression_of(member.filename):
        problem = "is itself compressed; unpack it"
    elif not (has_format(member.filename) or has_format(name)):
        problem = f"has a name that ends in none of {' '.join(FORMATS)}; rename it and pack it again"
    if problem:
        raise DataError(f"its file {shown(member.filename)} {problem}", file=name)
    return member.filename


@contextlib.contextmanager
def open_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a file in a zip archive, decompressed on reading.

    Raises:
        DataError: see `open_archive`; errors on reading are those of `zipfile`.
    """
    with Bounded(path) as file, zipfile.ZipFile(file) as archive, archive.open(member) as opened:
        yield opened


def _is_extra(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a folder, or metadata that archive programs add."""
    parts = member.filename.split("/")
    return member.is_dir() or parts[0] == "__MACOSX" or parts[-1] in (".DS_Store", "Thumbs.db", "desktop.ini")
