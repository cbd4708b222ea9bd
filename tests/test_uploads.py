"""Tables are written to remote file systems whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import Killed, make_rows, write_csv
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from lstm_sentiment import predict
from lstm_sentiment.data.formats.writers import WRITTEN, open_table
from lstm_sentiment.errors import DataError, MissingExtraError

ROWS = make_rows(9)


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """The file system in memory, empty at first."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture
def label(trained_run: Path, tmp_path: Path) -> Callable[[str], None]:
    """A function that predicts the rows into a table."""
    source = write_csv(tmp_path / "rows.csv", ROWS)
    return lambda out: predict.main([str(trained_run), f"--file={source}", f"--out={out}", "--device=cpu"])


def contents(files: MemoryFileSystem) -> dict[str, bytes]:
    return {path: bytes(file.getvalue()) for path, file in files.store.items()}


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet", ".jsonl.zst"])
def test_predictions_at_a_url_are_those_of_a_local_file(
    memory: MemoryFileSystem, label: Callable[[str], None], tmp_path: Path, ending: str
) -> None:
    label(str(tmp_path / f"out{ending}"))
    label(f"memory://out/labelled{ending}")
    label(f"file://{tmp_path}/by-url{ending}")
    expected = (tmp_path / f"out{ending}").read_bytes()
    if ending != ".csv.gz":  # whose header has the time
        assert contents(memory) == {f"/out/labelled{ending}": expected}
        assert (tmp_path / f"by-url{ending}").read_bytes() == expected
    assert list(contents(memory)) == [f"/out/labelled{ending}"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_existing_file_is_replaced(memory: MemoryFileSystem, label: Callable[[str], None]) -> None:
    memory.pipe("/out/labelled.csv", b"old")
    label("memory://out/labelled.csv")
    (content,) = contents(memory).values()
    found = list(csv.DictReader(io.StringIO(content.decode())))
    assert [(row["text"], row["label"]) for row in found] == ROWS
    assert all(row["predicted_label"] for row in found)


class Fails(LocalFileSystem):
    """A file system on which one step fails."""

    step = "put"

    def put_file(self, lpath: Any, rpath: Any, *args: Any, **options: Any) -> None:
        super().put_file(lpath, rpath, *args, **options)
        if self.step == "half":
            Path(rpath).write_bytes(Path(rpath).read_bytes()[:20])
        if self.step == "put":
            raise OSError("no space left on alice's disk")

    def mv(self, *paths: Any, **options: Any) -> None:
        if self.step == "move":
            raise PermissionError("files cannot be renamed here")
        super().mv(*paths, **options)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("put", "cannot be written: no space left on ...'s disk; check the address and the access"),
        ("half", "cannot be written: 20 of [0-9,]+ bytes arrived"),
        ("move", "cannot be written: files cannot be renamed here"),
    ],
)
def test_a_failing_file_system_keeps_the_old_file(
    tmp_path: Path, label: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, step: str, message: str
) -> None:
    """Nor is a password shown."""
    target = tmp_path / "remote"
    target.mkdir()
    (target / "labelled.csv").write_text("old")
    monkeypatch.setattr(Fails, "step", step)
    found = (Fails(skip_instance_cache=True), f"{target}/labelled.csv")
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda _: found)
    with pytest.raises(DataError, match=message) as error:
        label("ftp://alice:secret@host/labelled.csv")
    assert str(error.value).startswith("ftp://host/labelled.csv: ")
    assert "secret" not in str(error.value)
    assert {path.name: path.read_text() for path in target.iterdir()} == {"labelled.csv": "old"}


def test_after_an_error_nothing_is_copied(memory: MemoryFileSystem) -> None:
    for ending in WRITTEN:
        with pytest.raises(Killed), open_table(f"memory://out/a{ending}"):
            raise Killed
    assert contents(memory) == {}


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("https://example.org/a.csv", "web servers take no files; name a file on this machine"),
        ("nosuch://host/a.csv", "cannot be written: Protocol not known"),
        ("memory://out/a.pdf", "is a document"),
        ("memory://out/", "a folder of shards is written on this machine .* such as memory://out.csv"),
    ],
)
def test_addresses_that_cannot_be_written_are_refused(
    memory: MemoryFileSystem, label: Callable[[str], None], out: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        label(out)
    assert contents(memory) == {}


def test_a_missing_package_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    monkeypatch.setattr("lstm_sentiment.prediction.classifier.load", None)
    with pytest.raises(MissingExtraError, match="Install s3fs to access S3"):
        predict.main(["starter", "--file=rows.csv", "--out=s3://bucket/a.csv"])
