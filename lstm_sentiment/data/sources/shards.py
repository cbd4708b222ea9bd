"""Files of a source: a folder of shards, a glob or a list, local or by URL.

A source is an ordered list of files. Those of a folder or a glob are ordered by name, folder by folder; those
of a list as they are listed. Hidden files and folders, whose names begin with a dot or an underscore
(``_SUCCESS``, ``.crc``, ``_temporary``), are left out, as in Spark. A folder named ``column=value`` above a
file is a column of its rows; other folders inside a folder are refused, since they may be of other rows.
"""

from __future__ import annotations

import os
import re
import threading
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from lstm_sentiment.data.sources.downloads import PATIENCE_S, without_parts
from lstm_sentiment.data.sources.names import has_format
from lstm_sentiment.errors import DataError, MissingExtraError, escaped, listed, shown, without_secrets
from lstm_sentiment.system.files import local_path

WILDCARDS = re.compile(r"[*?\[]")
MISSING = "__HIVE_DEFAULT_PARTITION__"  # Hive's name of a missing value
Partition = tuple[tuple[str, str | None], ...]
Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of a source.

    Args:
        name: path or URL, to open it.
        inside: its path below the folder or the fixed part of the glob, with / between folders.
        partition: columns of its rows and their value, None if missing, by the names of its folders.
    """

    name: str
    inside: str
    partition: Partition = ()


def shards_of(named: str | Sequence[str]) -> list[Shard] | None:
    """Return the files of a folder of shards, a glob or a list; None for anything else, such as one file.

    Args:
        named: a path, glob or URL, or a list of such names.

    Raises:
        DataError: a glob without a match, a folder with other files, a file that is named twice.
        MissingExtraError: the URL's filesystem package is not installed.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("label=bad/b.csv", "label=bad/a.csv", "label=good/a.csv", "_SUCCESS"):
    ...     (folder / name).parent.mkdir(exist_ok=True)
    ...     (folder / name).touch()
    >>> [(shard.inside, shard.partition) for shard in shards_of(f"{folder}/label=b*/*.csv")]
    [('label=bad/a.csv', (('label', 'bad'),)), ('label=bad/b.csv', (('label', 'bad'),))]
    >>> len(shards_of(str(folder))), shards_of("reviews.csv")
    (3, None)
    """
    if isinstance(named, str):
        return _shards_of_one(named)
    if not named:
        raise DataError("an empty list names no file; name at least one")
    found = [shard for name in named for shard in _shards_of_one(name) or [_listed_file(name)]]
    seen: dict[str, str] = {}
    for shard in found:
        place = shard.name if "://" in shard.name else str(local_path(shard.name).absolute())
        if place in seen:
            raise DataError("is named twice; remove it from the list once", file=shard.name)
        seen[place] = shard.name
    return found


def partition_of(inside: str) -> Partition:
    """Return the columns that the folders of a path name, as Hive does.

    Raises:
        DataError: two folders name the same column.

    >>> partition_of("label=positive/day=2024%2D01/part-0.csv")
    (('label', 'positive'), ('day', '2024-01'))
    """
    found: dict[str, str | None] = {}
    for folder in inside.split("/")[:-1]:
        column, equals, value = folder.partition("=")
        if not equals or not column:
            continue
        column, value = urllib.parse.unquote(column), urllib.parse.unquote(value)
        if column in found:
            raise DataError(f"two of its folders name the column {shown(column)}; rename one", file=inside)
        found[column] = None if value == MISSING else value
    return tuple(found.items())


def has_wildcards(name: str) -> bool:
    """Whether a name is a glob; ``?`` in a http address begins its query.

    >>> has_wildcards("in/*.csv"), has_wildcards("https://example.org/a.csv?raw=1")
    (True, False)
    """
    return not name.startswith(("http://", "https://")) and WILDCARDS.search(name) is not None


def _listed_file(name: str) -> Shard:
    place = urllib.parse.urlsplit(name).path if "://" in name else Path(name).as_posix()
    return Shard(name=name, inside=place.rsplit("/", 1)[-1], partition=partition_of(place))


def _shards_of_one(name: str) -> list[Shard] | None:
    if name.startswith(("package:", "http://", "https://")):
        return None
    if "://" in name:
        return _remote_shards(name)
    path = local_path(name)
    try:
        if path.is_dir():
            return _shards_in(path, name)
        if has_wildcards(name) and not path.exists():
            return _matching_shards(path, name)
    except OSError as error:
        raise DataError(f"{error.strerror}; use a readable file or folder", file=name) from None
    except ValueError as error:  # such as a**b
        raise DataError(
            f"is not a pattern: {escaped(str(error), 200)}; use *, ? and **/", file=name
        ) from None
    return None


def _shards_in(folder: Path, name: str) -> list[Shard] | None:
    """Return the files in a folder; None if it is one of class folders, or has no file that can be read."""
    if _is_of_classes(folder):
        return None
    files = _files_below(folder)
    other = [file for file in files if not has_format(file)]
    if len(other) == len(files):
        return None
    nested = [file for file in files if any("=" not in part for part in file.split("/")[:-1])]
    if nested:
        inner = nested[0].rpartition("/")[0]
        problem = (
            f"has files in the folder {shown(inner)}, which is not named column=value; name that folder, or"
        )
        raise DataError(f"{problem} a glob such as {name.rstrip('/')}/*/*{_common_ending(files)}", file=name)
    if other:
        problem = f"holds {shown(other[0])}, which is not a table; name the shards by a glob"
        raise DataError(f"{problem}, such as {name.rstrip('/')}/*{_common_ending(files)}", file=name)
    return [
        Shard(name=str(folder / file), inside=file, partition=partition_of(f"{folder.as_posix()}/{file}"))
        for file in files
    ]


def _is_of_classes(folder: Path) -> bool:
    """Whether a folder has class folders of .txt files, one text in each."""
    return any(
        entry.is_dir() and not _is_hidden(entry.name) and "=" not in entry.name and any(entry.glob("*.txt"))
        for entry in sorted(folder.iterdir())
    )


def _files_below(folder: Path) -> list[str]:
    """Return the files in a folder and its folders, by name, without hidden ones."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        inside = Path(place).relative_to(folder)
        found += [(inside / name).as_posix() for name in files if not _is_hidden(name)]
    return sorted(found, key=_by_name)


def _by_name(path: str) -> list[str]:
    return path.split("/")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _common_ending(files: Sequence[str]) -> str:
    usable = [file.rsplit("/", 1)[-1] for file in files if has_format(file)]
    return "." + usable[0].partition(".")[2]


def _matching_shards(path: Path, name: str) -> list[Shard]:
    """Return the files that a glob matches, with those in folders that it matches."""
    pattern = path.as_posix()
    root = Path(_fixed_part(pattern))
    found: list[str] = []
    for match in root.glob(Path(pattern).relative_to(root).as_posix()):
        inside = match.relative_to(root).as_posix()
        if any(_is_hidden(part) for part in inside.split("/")):
            continue
        below = _files_below(match) if match.is_dir() else None
        found += [inside] if below is None else [f"{inside}/{file}" for file in below]
    if not found:
        raise DataError(f"no file matches; {_what_lies_in(root)}", file=name)
    return [
        Shard(name=str(root / inside), inside=inside, partition=partition_of((root / inside).as_posix()))
        for inside in sorted(set(found), key=_by_name)
    ]


def _fixed_part(pattern: str) -> str:
    """Return the folder above the first part of a glob with a wildcard.

    >>> _fixed_part("in/label=*/*.csv"), _fixed_part("/*.csv"), _fixed_part("*.csv")
    ('in', '/', '.')
    """
    parts = pattern.split("/")
    first = next(n for n, part in enumerate(parts) if WILDCARDS.search(part))
    return "/".join(parts[:first]) or ("/" if first else ".")


def _what_lies_in(folder: Path) -> str:
    """Describe a folder for the message about a glob without a match."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    names = sorted(entry.name + "/" * entry.is_dir() for entry in there.iterdir())
    content = listed(names, most=5, quoted=True) if names else "nothing"
    missing = f"there is no folder {escaped(str(folder))}; " if there != folder else ""
    return f"{missing}{escaped(str(there))}/ holds {content}; correct the pattern"


def _remote_shards(url: str) -> list[Shard] | None:
    """Return the files of a folder or glob on a remote filesystem, None for one file."""
    try:
        import fsspec  # only for URLs other than http

        found = _in_time(lambda: _listing(fsspec, url))
    except ImportError as error:
        raise MissingExtraError(f"{without_secrets(url)}: {error}") from None
    except Exception as error:  # of any filesystem package, such as missing credentials
        if not has_wildcards(url) and not isinstance(error, TimeoutError):
            return None  # opening it as a file says what is wrong
        problem = without_parts(str(error) or type(error).__name__, url)
        raise DataError(f"cannot be listed: {problem}; check the address and the access", file=url) from None
    if found is None:
        return None
    base, files = found
    if not files:
        raise DataError("no file matches; correct the folder or the pattern", file=url)
    return [
        Shard(name=f"{base}/{inside}", inside=inside, partition=partition_of(f"{base}/{inside}"))
        for inside in sorted(set(files), key=_by_name)
    ]


def _listing(fsspec: Any, url: str) -> tuple[str, list[str]] | None:
    """Return a folder's URL and the paths of files below it; None if the URL is neither folder nor glob."""
    if has_wildcards(url):
        base = _fixed_part(url)
        filesystem, root = fsspec.core.url_to_fs(base)
        matches = filesystem.glob(fsspec.core.url_to_fs(url)[1])
        paths = [
            path
            for match in matches
            for path in (filesystem.find(match) if filesystem.isdir(match) else [match])
        ]
    else:
        base = url.rstrip("/")
        filesystem, root = fsspec.core.url_to_fs(base)
        if not filesystem.isdir(root):
            return None
        paths = filesystem.find(root)
    inside = [path[len(root) :].strip("/") for path in paths]
    return base, [path for path in inside if not any(_is_hidden(part) for part in path.split("/"))]


def _in_time(listing: Callable[[], Found]) -> Found:
    """Run a listing in a thread: some filesystems and DNS lookups have no timeouts."""
    results: list[Found] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(listing())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    if thread.is_alive():
        raise TimeoutError(f"the server sent nothing in {PATIENCE_S:g} seconds")
    if errors:
        raise errors[0]
    return results[0]


def without_partition(shards: Sequence[Shard]) -> list[Shard]:
    """Return files whose folders are not columns: for output that keeps the folders.

    >>> without_partition([Shard(name="a", inside="a", partition=(("label", "good"),))])[0].partition
    ()
    """
    return [replace(shard, partition=()) for shard in shards]
