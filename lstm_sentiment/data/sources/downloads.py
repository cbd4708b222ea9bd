"""Downloads of URLs, with a timeout for stalled servers."""

from __future__ import annotations

import contextlib
import http.client
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lstm_sentiment.errors import DataError, MissingExtraError, without_secrets
from lstm_sentiment.system.files import writing

PATIENCE_S = 60.0  # in which a server must respond and send
LEAST_BYTES = 1_000  # minimum in that time
BLOCK_BYTES = 1 << 16


@contextlib.contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Download a URL to a temporary file, which exists for the duration of the block.

    Raises:
        DataError: it cannot be fetched, or less than a kilobyte arrives in a minute.
        DiskError: the disk is full.
        MissingExtraError: the URL's filesystem package is not installed.

    Example::

        with fetched("https://example.org/reviews.csv") as file:
            print(file.stat().st_size)
    """
    with tempfile.TemporaryDirectory(prefix="lstm_sentiment-") as folder:
        try:
            path = Path(folder) / Path(urllib.parse.urlparse(url).path).name
            _copy(url, path)
        except ImportError as error:
            raise MissingExtraError(f"{without_secrets(url)}: {error}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise DataError(f"cannot be fetched: {without_parts(str(error), url)}", file=url) from None
        yield path


def _copy(url: str, path: Path) -> None:
    """Copy in a thread: some filesystems and DNS lookups have no timeouts."""
    copying = _Copying(url, path)
    thread = threading.Thread(target=copying.run, daemon=True)
    thread.start()
    done, since = 0, time.monotonic()
    while thread.is_alive():
        thread.join(min(1.0, PATIENCE_S))
        if copying.done - done >= LEAST_BYTES:
            done, since = copying.done, time.monotonic()
        elif thread.is_alive() and time.monotonic() - since > PATIENCE_S:
            copying.given_up = True
            found = f"{copying.done - done:,} bytes" if copying.done > done else "nothing"
            raise TimeoutError(
                f"the server sent {found} in {PATIENCE_S:g} seconds; try again, or use a local file"
            )
    if copying.error is not None:
        raise copying.error


class _Copying:
    """A copy in progress.

    Args:
        url: to copy from.
        path: to copy to.
    """

    def __init__(self, url: str, path: Path) -> None:
        self.url, self.path = url, path
        self.done, self.given_up = 0, False
        self.error: BaseException | None = None

    def run(self) -> None:
        """Copy everything; store an exception in `error`."""
        try:
            with _opened(self.url) as opened, writing(self.path), self.path.open("wb") as out:
                read: Any = getattr(opened, "read1", opened.read)  # what is available, even if little
                while not self.given_up:
                    try:
                        block = read(BLOCK_BYTES)
                    except OSError as error:  # of the server, not of the disk
                        self.error = error
                        return
                    if not block:
                        return
                    out.write(block)
                    self.done += len(block)
        except BaseException as error:
            self.error = error


def _opened(url: str) -> IO[bytes]:
    if url.startswith(("http://", "https://")):
        opened: IO[bytes] = urllib.request.urlopen(url, timeout=PATIENCE_S)
        return opened
    import fsspec  # only for other URL schemes

    found: IO[bytes] = fsspec.open(url, "rb").open()
    return found


def without_parts(message: str, url: str) -> str:
    """Remove the secret parts of a URL from a library's message, which may quote them separately.

    >>> without_parts("no route to alice at example.org", "sftp://alice:pw@example.org/a.csv")
    'no route to ... at example.org'
    """
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:  # for example an unclosed bracket of an IPv6 address
        return without_secrets(message)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    host = parts.netloc.rpartition(":")[2] if user else ""  # what http.client parses as the port
    for secret in sorted(filter(None, (host, user, password, parts.query, parts.fragment)), key=len)[::-1]:
        message = message.replace(secret, "...")
    return without_secrets(message)
