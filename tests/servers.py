"""A server in a thread of the test process, and clients."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from lstm_sentiment.serving.application import OPEN_PATHS, create_app
from lstm_sentiment.serving.lifecycle import bound, new_server
from lstm_sentiment.serving.limits import Access
from lstm_sentiment.serving.models import Model
from lstm_sentiment.serving.responses import Limits
from lstm_sentiment.serving.server import Server


@contextlib.contextmanager
def serving(
    models: Sequence[Model], *, port: int = 0, limits: Limits | None = None, **settings: Any
) -> Iterator[int]:
    """Serve models within the block; yield the port."""
    access = {name: settings.pop(name) for name in ("token", "log_requests") if name in settings}
    limits = limits or Limits()
    app = create_app(
        Server(models, limits=limits, **settings), Access(open_paths=OPEN_PATHS, body=limits.body, **access)
    )
    started = threading.Event()
    with bound("127.0.0.1", port) as listening:
        server = new_server(app, started.set)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            assert started.wait(20)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


def ask(
    port: int, path: str, content: Any = None, *, method: str | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Send a request; return status, content and headers of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    body = content if isinstance(content, bytes) or content is None else json.dumps(content).encode()
    own = {"content-type": "application/json"} if body is not None else {}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, body, {**own, **given})
        response = connection.getresponse()
        text = response.read()
        kind = response.headers.get("content-type", "")
        found = json.loads(text) if kind.startswith("application/json") else text.decode()
        return response.status, found, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def raw(port: int, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes; return everything that comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65_536):
                found += part
    return found
