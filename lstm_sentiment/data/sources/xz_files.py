"""xz files, unpacked in bounded memory: their writer chooses what a reader takes, up to four gigabytes."""

from __future__ import annotations

import io
import lzma
from pathlib import Path
from typing import IO, Any

MOST_BYTES = 100 << 20  # of memory; what `xz -9` writes takes 65 MB
BLOCK_BYTES = 1 << 16


class UnpackedXz(io.RawIOBase):
    """The bytes that are packed in an xz file; of several streams in a row, all of them.

    Args:
        file: a path, or a file that is open.

    Raises:
        OSError: while it is read: a dictionary that is too large.
        lzma.LZMAError: while it is read: other damage.

    >>> UnpackedXz(io.BytesIO(lzma.compress(b"so good") + lzma.compress(b", so far"))).read()
    b'so good, so far'
    """

    def __init__(self, file: Path | IO[bytes]) -> None:
        self._own = isinstance(file, Path)
        self._file: IO[bytes] = file.open("rb") if isinstance(file, Path) else file
        self._decoder = lzma.LZMADecompressor(memlimit=MOST_BYTES)
        self._first = True

    def readable(self) -> bool:
        """Whether it can be read from, which it can."""
        return True

    def close(self) -> None:
        """Close the file too if it was opened here."""
        if self._own:
            self._file.close()
        super().close()

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer with what comes next; return how many bytes there are, 0 at the end."""
        room = len(memoryview(buffer))
        while True:
            block = b""
            if self._decoder.eof:
                block = self._next_stream()
                if not block:
                    return 0
            elif self._decoder.needs_input:
                block = self._file.read(BLOCK_BYTES)
                if not block:
                    raise EOFError("the file is cut off")
            content = self._unpacked(block, room)
            if content is None:
                return 0
            if content:
                memoryview(buffer)[: len(content)] = content
                return len(content)

    def _next_stream(self) -> bytes:
        """Return the beginning of what follows a stream, without the zeros between."""
        block = self._decoder.unused_data.lstrip(b"\0")
        while not block:
            read = self._file.read(BLOCK_BYTES)
            if not read:
                return b""
            block = read.lstrip(b"\0")
        self._decoder, self._first = lzma.LZMADecompressor(memlimit=MOST_BYTES), False
        return block

    def _unpacked(self, block: bytes, room: int) -> bytes | None:
        """Return some bytes; None where what follows a stream is no other one."""
        try:
            return self._decoder.decompress(block, room)
        except lzma.LZMAError as error:
            if "emory" in str(error):
                problem = f"its dictionary takes more than {MOST_BYTES:,} bytes of memory; use xz -9 or less"
                raise OSError(problem) from None
            if not self._first and "format" in str(error):
                return None
            raise
