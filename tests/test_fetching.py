"""Files at a URL: downloads and timeouts."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from conftest import time_limit

from lstm_sentiment.data import word_vectors as vectors
from lstm_sentiment.data.sources import downloads as fetching
from lstm_sentiment.data.sources.downloads import fetched
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import ConfigError, DataError, DiskError

BEGIN = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
Speak = Callable[[socket.socket], None]


def silent(_: socket.socket) -> None:
    """Accept the request and send nothing."""


def only_the_headers(connection: socket.socket) -> None:
    connection.sendall(BEGIN)


def half_of_it(connection: socket.socket) -> None:
    connection.sendall(BEGIN + b"x" * 50_000)


def drip_bytes(connection: socket.socket) -> None:
    connection.sendall(BEGIN)
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)


def endless_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"A: b\r\n")
            time.sleep(0.05)


@contextlib.contextmanager
def server(speak: Speak) -> Iterator[str]:
    """Yield the address of a server that handles every connection alike and never closes it."""
    kept = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                kept.append(connection)
                connection.recv(1000)
                threading.Thread(target=speak, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/rows.csv"
        for connection in kept:
            connection.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PATIENCE_S", 0.5)


SERVERS = {
    silent: "nothing",
    only_the_headers: "nothing",
    half_of_it: "nothing",
    drip_bytes: r"[\d,]+ bytes",
    endless_headers: "nothing",
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("speak", SERVERS)
def test_a_silent_server_times_out(speak: Speak) -> None:
    with time_limit(20), server(speak) as url, pytest.raises(DataError) as caught, fetched(url):
        pass
    sent = SERVERS[speak]
    reported = rf"the server sent {sent} in 0\.5 seconds; try again, or use a local file|timed out"
    assert str(caught.value).startswith(f"{url}: cannot be fetched: ")
    assert re.search(reported, str(caught.value)), str(caught.value)


@pytest.mark.usefixtures("impatient")
def test_a_filesystem_without_timeouts_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        def open(self) -> IO[bytes]:
            time.sleep(60)
            raise AssertionError("nobody waits for it")

    monkeypatch.setattr("fsspec.open", lambda *_: Stuck())
    with (
        time_limit(20),
        pytest.raises(DataError, match="the server sent nothing"),
        fetched("s3://a/b.csv"),
    ):
        pass


@pytest.mark.usefixtures("impatient")
def test_an_endless_dns_lookup_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(60))
    url = "https://host.invalid/rows.csv"
    with time_limit(20), pytest.raises(DataError, match="the server sent nothing"), fetched(url):
        pass


def test_without_a_timeout_a_silent_server_blocks() -> None:
    """The control: the library's own opener blocks until it is stopped."""
    with (
        server(silent) as url,
        pytest.raises(TimeoutError, match="waited too long"),
        time_limit(2),
    ):
        urllib.request.urlopen(url)


@pytest.mark.usefixtures("impatient")
def test_every_download_has_the_same_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with time_limit(30), server(silent) as url:
        with pytest.raises(DataError, match="cannot be fetched"), open_source(url):
            pass
        monkeypatch.setattr(vectors, "_address", lambda _: (url.replace("csv", "vec"), ""))
        monkeypatch.setattr(vectors, "fetched", lambda address: fetched(address.replace("https", "http")))
        with pytest.raises(ConfigError, match=r"300d cannot be downloaded: .*cannot be fetched"):
            vectors._downloaded("fasttext.en.300d", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_but_steady_server_does_not_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PATIENCE_S", 1.0)
    monkeypatch.setattr(fetching, "LEAST_BYTES", 100)

    def slowly(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n")
        for _ in range(10):
            connection.sendall(b"x" * 300)
            time.sleep(0.3)

    with time_limit(30), server(slowly) as url, fetched(url) as file:
        assert file.read_bytes() == b"x" * 3000


def test_a_full_disk_is_not_reported_as_a_server_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    real = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *args, **more: Full(real(path, *args, **more)) if args == ("wb",) else None
    )
    with server(half_of_it) as url, pytest.raises(DiskError, match="No space left on device"), fetched(url):
        pass
