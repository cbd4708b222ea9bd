"""xz decompression with a memory limit: the file sets the dictionary size, up to four gigabytes."""

from __future__ import annotations

import io
import lzma
from pathlib import Path
from typing import IO, Any

MOST_BYTES = 100 << 20  # of memory; `xz -9` needs 65 MB
BLOCK_BYTES = 1 << 16


class UnpackedXz(io.RawIOBase):
    """Decompressed bytes of an xz file, including concatenated streams.

    Args:
        file: a path, or an open file.

    Raises:
        OSError: on reading: the dictionary is too large.
        lzma.LZMAError: on reading: other damage.

    >>> UnpackedXz(io.BytesIO(lzma.compress(b"so good") + lzma.compress(b", so far"))).read()
    b'so good, so far'
    """

    def __init__(self, file: Path | IO[bytes]) -> None:
        self._own = isinstance(file, Path)
        self._file: IO[bytes] = file.open("rb") if isinstance(file, Path) else file
        self._decoder = lzma.LZMADecompressor(memlimit=MOST_BYTES)
        self._first = True

    def readable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close, including the file if it was opened here."""
        if self._own:
            self._file.close()
        super().close()

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer; return the number of bytes, 0 at the end."""
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
                    raise EOFError("the file is truncated")
            content = self._unpacked(block, room)
            if content is None:
                return 0
            if content:
                memoryview(buffer)[: len(content)] = content
                return len(content)

    def _next_stream(self) -> bytes:
        """Return the first bytes after a stream, without zero padding."""
        block = self._decoder.unused_data.lstrip(b"\0")
        while not block:
            read = self._file.read(BLOCK_BYTES)
            if not read:
                return b""
            block = read.lstrip(b"\0")
        self._decoder, self._first = lzma.LZMADecompressor(memlimit=MOST_BYTES), False
        return block

    def _unpacked(self, block: bytes, room: int) -> bytes | None:
        """Return some bytes, None if a stream is not followed by another."""
        try:
            return self._decoder.decompress(block, room)
        except lzma.LZMAError as error:
            if "emory" in str(error):
                problem = f"its dictionary takes more than {MOST_BYTES:,} bytes of memory; use xz -9 or less"
                raise OSError(problem) from None
            if not self._first and "format" in str(error):
                return None
            raise
