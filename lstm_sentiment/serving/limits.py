"""What a server checks before it reads a request: token, host, type and size of the body (middleware)."""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request, cookie_parser
from starlette.responses import Response

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.serving.figures import Figures
from lstm_sentiment.serving.schemas import RequestError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Route = Callable[[Request], Awaitable[Response]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may ask what.

    Args:
        token: that requests must have; None for no token.
        open_paths: paths that need no token.
        cookie_paths: the beginning of paths that a browser opens by a link, which cannot carry a token: they
            take the cookie instead.
        cookie: name and value of the cookie, which the page gets with its first request that has the token.
            It opens only these paths, and lasts as long as the server. Servers of one host have other names.
        loopback: whether the server listens on a loopback address only. Then a request must name one as its
            host, so that no web page can reach it under a name of its own (DNS rebinding).
        body: largest body in bytes.
        log_requests: whether to log method, path, status and time of each request.
    """

    token: str | None = None
    open_paths: Collection[str] = ()
    cookie_paths: str = "/page/report/"
    cookie: tuple[str, str] = field(
        default_factory=lambda: (f"report_{secrets.token_hex(4)}", secrets.token_urlsafe())
    )
    loopback: bool = True
    body: int = 1 << 20
    log_requests: bool = False

    def set_cookie(self, response: Response) -> None:
        """Add the cookie to a response to a request that has the token."""
        if self.token is not None:
            response.set_cookie(*self.cookie, path=self.cookie_paths, httponly=True, samesite="strict")


class Limits:
    """Checks requests, counts responses, and answers errors as JSON.

    Args:
        app: that answers.
        access: what to check.
        figures: that count.
        endpoints: paths by which requests are counted; all others count as ``other``.
        direct: functions that answer POST requests of a path without the layers of `app`, which take as long
            as the rest of a request.
    """

    def __init__(
        self,
        app: App,
        *,
        access: Access,
        figures: Figures,
        endpoints: Collection[str],
        direct: Mapping[str, Route] | None = None,
    ) -> None:
        self._direct = direct or {}
        self._app, self._access, self._figures = app, access, figures
        self._endpoints = frozenset(endpoints)
        self._bearer = None if access.token is None else f"Bearer {access.token}".encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            limited = self._limited(receive)
            route = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
            if route is None:
                await self._app(scope, limited, sent)
            else:
                response = await route(Request(scope, limited))
                await response(scope, limited, sent)
        except RequestError as error:
            await self._refuse(error, sent if not status else None)
        except ConfigError as error:
            refused = RequestError(error.message, status=422, field=error.key)
            await self._refuse(refused, sent if not status else None)
        except Exception as error:  # one request must not harm another
            if type(error).__name__ != "ClientDisconnect":  # the client went away
                where = _place_of(error)
                log.log(logging.ERROR, "a request failed: %s at %s", type(error).__name__, where)
                self._figures.failed(type(error).__name__)
                failure = RequestError("the server failed to answer this request", status=500)
                await self._refuse(failure, sent if not status else None)
        finally:
            seconds = time.perf_counter() - started
            path = scope["path"]
            endpoint = path if path in self._endpoints else _group(path)
            self._figures.answered(endpoint, status or 499, seconds)
            if self._access.log_requests:
                log.info("%s %s %s %.1f ms", scope["method"], path, status or 499, 1000 * seconds)

    def _check(self, scope: MutableMapping[str, Any]) -> None:
        """Check the head of a request."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        path = scope["path"]
        if self._access.loopback and not _is_loopback(headers.get(b"host", b"")):
            problem = "this server answers only to its own host; name another with --host"
            raise RequestError(problem, status=403, field="Host")
        if self._bearer is not None and path not in self._access.open_paths:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self._bearer) and not self._has_cookie(path, headers):
                wanted = {"www-authenticate": "Bearer"}
                problem = "needs the token of this server: Authorization: Bearer TOKEN"
                raise RequestError(problem, status=401, field="Authorization", headers=wanted)
        if scope["method"] != "POST":
            return
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":  # others can be sent by any web page
            raise RequestError("must be application/json", status=415, field="Content-Type")
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._access.body:
            raise self._too_large()

    def _has_cookie(self, path: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request is for a path that takes the cookie, and has it."""
        if not path.startswith(self._access.cookie_paths):
            return False
        name, value = self._access.cookie
        given = cookie_parser(headers.get(b"cookie", b"").decode("latin-1")).get(name, "")
        return hmac.compare_digest(given.encode("utf-8", "replace"), value.encode())

    def _limited(self, receive: Receive) -> Receive:
        """Return a function that receives at most the allowed body."""
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._access.body:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> RequestError:
        problem = f"is larger than {self._access.body:,} bytes; send the texts in several requests"
        return RequestError(problem, status=413, field="body", headers={"connection": "close"})

    async def _refuse(self, error: RequestError, send: Send | None) -> None:
        self._figures.failed(str(error.status))
        if send is not None:
            await send_json(send, error.status, as_failure(error), error.headers)


def as_failure(error: RequestError) -> dict[str, str]:
    """Return the body of an error.

    >>> as_failure(RequestError("is missing", status=422, field="inputs"))
    {'error': 'inputs: is missing', 'field': 'inputs'}
    """
    return {"error": str(error), **({"field": error.field} if error.field else {})}


async def send_json(send: Send, status: int, content: Any, headers: Mapping[str, str]) -> None:
    """Send a JSON response."""
    body = json.dumps(content).encode()
    own = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    encoded = [(name.encode(), value.encode()) for name, value in own.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


def _is_loopback(host: bytes) -> bool:
    """Whether a Host header names a loopback address, with or without a port.

    >>> [_is_loopback(host) for host in (b"localhost:8000", b"[::1]:80", b"127.0.0.1", b"evil.example:80")]
    [True, True, True, False]
    """
    name = host.decode("latin-1").lower()
    bare, colon, port = name.rpartition(":")
    return name in LOOPBACK or (bool(colon) and port.isdigit() and bare in LOOPBACK)


def _group(path: str) -> str:
    if path.startswith("/v2/models/"):
        return "/v2/models/{name}/infer" if path.endswith("/infer") else "/v2/models/{name}"
    return "/page" if path.startswith("/page/") else "other"


def _place_of(error: BaseException) -> str:
    """Return file and line of an error's last frame."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
