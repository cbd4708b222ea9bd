"""Start and stop of a server: the socket, signals, slow connections."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.serving.limits import App

GRACE_S = 8  # for requests under way when the server is asked to stop
SLOWEST_S = 10.0  # for a request to arrive
MOST_HEAD = 64 << 10  # bytes of a request's first line and headers
BACKLOG = 2048
STOPPING = (signal.SIGTERM, signal.SIGINT)


class Connection(HttpToolsProtocol):
    """An HTTP connection that closes if a request arrives too slowly, or its headers are too long."""

    _timer: asyncio.TimerHandle | None = None
    _head: int | None = 0  # bytes of the request's head so far; None when it is complete
    _ended = False  # whether the client has closed its half of the connection

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse some bytes."""
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > MOST_HEAD and not self.transport.is_closing():
                message = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
                self.transport.write(message + b"content-length: 0\r\nconnection: close\r\n\r\n")
                self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn closes at once
        """Still answer the request under way if the client closes its half of the connection."""
        self._ended = True
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if self._ended and not self.transport.is_closing():
            self.transport.close()

    def on_message_begin(self) -> None:
        """Wait for the rest of a request."""
        self._head = 0
        self._start()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start to answer."""
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of a request has arrived."""
        self._stop()
        super().on_message_complete()

    def _start(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(SLOWEST_S, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.transport.close()


class _Uvicorn(uvicorn.Server):
    """A server that stops on a signal without dying of it, and reports when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT: finish what is under way, take nothing new."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in STOPPING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; port 0 is a free one.

    Raises:
        ConfigError: the port is taken or not allowed, or the host is not an address of this machine.

    >>> with bound("127.0.0.1", 0) as taken:
    ...     bound("127.0.0.1", taken.getsockname()[1])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.ConfigError: --port: ... is in use on 127.0.0.1; choose another, ...
    """
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise ConfigError(f"{host} is not an address of this machine; use 127.0.0.1", key="--host") from None
    family, kind, protocol, _, address = places[0]
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(BACKLOG)
    except OSError as error:
        found.close()
        if isinstance(error, PermissionError):
            problem = f"{port} needs more rights; choose one from 1024 on"
            raise ConfigError(problem, key="--port") from None
        if error.errno in (98, 48, 10048):  # EADDRINUSE of Linux, macOS, Windows
            problem = f"{port} is in use on {host}; choose another, or 0 for any free one"
            raise ConfigError(problem, key="--port") from None
        raise ConfigError(f"{host}: {error.strerror}; use 127.0.0.1", key="--host") from None
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on a host.

    >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def new_server(app: App, ready: Callable[[], None]) -> uvicorn.Server:
    """Return a server; its ``run([socket])`` answers requests until SIGTERM or SIGINT.

    It finishes the requests under way, for `GRACE_S` seconds at most; ``should_exit`` stops it, too.

    Args:
        app: of `create_app`.
        ready: called when requests are answered.

    Example::

        new_server(app, lambda: print("ready")).run([bound("127.0.0.1", 8000)])
    """
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="auto",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_S,
    )
    return _Uvicorn(config, ready)
