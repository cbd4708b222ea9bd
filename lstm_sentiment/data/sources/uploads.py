"""Write a file to a remote file system (fsspec): locally first, then under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lstm_sentiment.data.sources.downloads import without_parts
from lstm_sentiment.errors import DataError, MissingExtraError, without_secrets
from lstm_sentiment.system.files import unfinished

READ_ONLY = ("http://", "https://", "package:")


def check_address(url: str) -> None:
    """Refuse an address to which no file can be written, before any work is done.

    Raises:
        DataError: of a web server; an unknown kind of address.
        MissingExtraError: its filesystem package is not installed.

    >>> check_address("memory://out/labelled.csv")
    >>> check_address("https://example.org/labelled.csv")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.DataError: https://example.org/labelled.csv: cannot be written: web servers take \
no files; name a file on this machine, or one on a file system such as s3:// or sftp://
    """
    if url.startswith(READ_ONLY):
        other = "name a file on this machine, or one on a file system such as s3:// or sftp://"
        raise DataError(f"cannot be written: web servers take no files; {other}", file=url)
    _kind_of(url)


@contextlib.contextmanager
def uploading(url: str) -> Iterator[Path]:
    """Yield a local path; the file that the block writes there is then copied to a URL.

    It is copied under a temporary name in the same folder and renamed, so that a file of this name is whole.
    After an error in the block nothing is copied.

    Args:
        url: of a file on a file system that fsspec can write to.

    Raises:
        DataError: it cannot be written; a file of this name is unchanged.
        MissingExtraError: its filesystem package is not installed.

    >>> import fsspec
    >>> with uploading("memory://out/labelled.csv") as file:
    ...     _ = file.write_text("text,label")
    >>> fsspec.filesystem("memory").cat("out/labelled.csv")
    b'text,label'
    """
    check_address(url)
    with tempfile.TemporaryDirectory(prefix="lstm_sentiment-") as folder:
        local = Path(folder) / posixpath.basename(url)
        yield local
        try:
            filesystem, remote = _kind_of(url).core.url_to_fs(url)
            _copy(local, filesystem, remote)
        except ImportError as error:
            raise MissingExtraError(f"{without_secrets(url)}: {error}") from None
        except Exception as error:  # of any filesystem package, such as missing credentials
            problem = without_parts(str(error) or type(error).__name__, url)
            advice = "check the address and the access, or write a local file and copy it"
            raise DataError(f"cannot be written: {problem}; {advice}", file=url) from None


def _kind_of(url: str) -> Any:
    """Return fsspec if it knows this kind of address."""
    try:
        import fsspec  # only for URLs

        fsspec.get_filesystem_class(url.partition("://")[0])
    except ImportError as error:
        raise MissingExtraError(f"{without_secrets(url)}: {error}") from None
    except ValueError as error:
        raise DataError(f"cannot be written: {error}", file=url) from None
    return fsspec


def _copy(local: Path, filesystem: Any, remote: str) -> None:
    """Copy a file under a temporary name and rename it.

    Raises:
        OSError: the copy is not whole.
    """
    folder, name = posixpath.split(remote)
    temporary = posixpath.join(folder, unfinished(Path(name)).name)
    try:
        filesystem.put_file(str(local), temporary)
        size, whole = filesystem.info(temporary)["size"], local.stat().st_size
        if size != whole:
            raise OSError(f"{size:,} of {whole:,} bytes arrived")
        filesystem.mv(temporary, remote)
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is reported
            filesystem.rm_file(temporary)
        raise
