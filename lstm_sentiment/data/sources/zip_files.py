"""Zip archives that hold one file: which it is, and its bytes, which are unpacked as they are read."""

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

MOST_DIRECTORY_BYTES = 1 << 22  # of an archive's list of its members: 40,000 short names
BUFFER_BYTES = 1 << 16
ENCRYPTED = 0x1  # bit of a member's flags
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError)
# What else is raised where an archive is opened: methods that Python does not unpack, places beyond the end.
UNREADABLE = (*DAMAGED, NotImplementedError, RuntimeError, ValueError, OSError)


class Bounded(io.FileIO):
    """A file that is never asked for very many bytes at once, as a list of a million members would be."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return some bytes.

        Raises:
            DataError: more are asked for than a list of members has.
        """
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if wanted > MOST_DIRECTORY_BYTES:
            raise DataError("holds a list of very many files; unpack it", file=str(self.name))
        return super().read(size)


@contextlib.contextmanager
def open_archive(path: Path, name: str) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive, whose list of members is bounded before it is read.

    Args:
        path: of the archive.
        name: for messages.

    Raises:
        DataError: it is no zip archive, or a damaged one.
    """
    try:
        with Bounded(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except UNREADABLE as error:
        problem = escaped(str(error), 200)
        raise DataError(f"is no readable zip archive: {problem}; copy or write it anew", file=name) from None
    except DataError as error:
        raise DataError(error.message, file=name) from None


def only_member(path: Path, name: str) -> str:
    """Return the name of the only file in a zip archive, folders and what macOS adds aside.

    Args:
        path: of the archive.
        name: for messages.

    Raises:
        DataError: there is none, or several, or one that cannot be read as it is unpacked.

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
            archive.open(members[0]).close()  # raises what will be raised later
    if any(member.filename == "xl/workbook.xml" for member in members):
        raise DataError("is an Excel workbook; let its name end in .xlsx", file=name)
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
        problem = f"is {COMPRESSED_INSIDE[inside]}, which is compressed inside; unpack it"
    elif compression_of(member.filename):
        problem = "is compressed once more; unpack it"
    elif not (has_format(member.filename) or has_format(name)):
        problem = f"has a name that ends in none of {' '.join(FORMATS)}; rename it and pack it again"
    if problem:
        raise DataError(f"its file {shown(member.filename)} {problem}", file=name)
    return member.filename


@contextlib.contextmanager
def open_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a file in a zip archive; it is unpacked as it is read.

    Raises:
        DataError: see `open_archive`; errors while it is read are those of `zipfile`.
    """
    with Bounded(path) as file, zipfile.ZipFile(file) as archive, archive.open(member) as opened:
        yield opened


def _is_extra(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a folder, or one that archive programs add to what was packed."""
    parts = member.filename.split("/")
    return member.is_dir() or parts[0] == "__MACOSX" or parts[-1] in (".DS_Store", "Thumbs.db", "desktop.ini")
