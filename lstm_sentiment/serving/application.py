"""The HTTP interface of a server: the routes, as a FastAPI application."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.explanation.attribution import Explanation
from lstm_sentiment.serving import schemas
from lstm_sentiment.serving.answers import (
    Limits,
    answer,
    check_texts,
    infer_response,
    metadata,
    model_named,
    outputs_of,
    texts_of,
)
from lstm_sentiment.serving.batching import BatchQueue, QueueClosedError, QueueFullError
from lstm_sentiment.serving.documentation import documentation_page
from lstm_sentiment.serving.figures import Figures
from lstm_sentiment.serving.limits import Access, App, as_failure
from lstm_sentiment.serving.limits import Limits as Checks
from lstm_sentiment.serving.models import Model, Read
from lstm_sentiment.serving.schemas import RequestError
from lstm_sentiment.version import __version__

OPEN_PATHS = ("/health", "/v2/health/live", "/v2/health/ready")
ENDPOINTS = ("/", "/predict", "/metrics", "/docs", "/openapi.json", "/v2", *OPEN_PATHS)
MOST_EXPLAINING = 8  # requests with explanations at a time; further ones are refused
PLAIN = "text/plain; version=0.0.4; charset=utf-8"  # of Prometheus
Result = TypeVar("Result")


class Server:
    """What the routes share: models, their queues, metrics.

    Args:
        models: to predict with; requests that name none get the first.
        limits: of requests.
        batch: most texts of a batch.
        wait_s: longest wait for other texts.
        most_waiting: texts that may wait.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        limits: Limits | None = None,
        batch: int = 64,
        wait_s: float = 0.002,
        most_waiting: int = 4096,
    ) -> None:
        self.models, self.limits, self.figures = models, limits or Limits(), Figures(models)
        self._queueing = {"wait_s": wait_s, "most_waiting": max(most_waiting, self.limits.texts)}
        self._batch = batch
        self.queues: dict[str, BatchQueue[Read]] = {}
        self._explaining = 0
        self._thread: ThreadPoolExecutor | None = None

    @contextlib.asynccontextmanager
    async def running(self, _app: Any = None) -> AsyncIterator[None]:
        """Run the queues on the current event loop; at the end, finish the texts that wait."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")
        for model in self.models:
            queue = self.queues[model.name] = self._queue_of(model)
            self.figures.watch(model, queue)
        try:
            yield
        finally:
            for queue in self.queues.values():
                await queue.close()
            self._thread.shutdown(cancel_futures=True)

    def _queue_of(self, model: Model) -> BatchQueue[Read]:
        batch = self._batch if model.exact else 1
        observe = lambda of: self.figures.predicted(model, of)  # noqa: E731
        return BatchQueue(model.read, most_texts=batch, observe=observe, **self._queueing)  # type: ignore[arg-type]

    async def read(self, model: Model, texts: Sequence[str]) -> list[Read]:
        """Predict texts together with those of other requests.

        Raises:
            RequestError: 503: too many texts are waiting, or the server is stopping.
        """
        try:
            return await self.queues[model.name].ask(texts)
        except QueueFullError as error:
            raise busy(str(error), error.retry_after) from None
        except QueueClosedError as error:
            raise busy(str(error), 1) from None

    async def explain(self, model: Model, texts: Sequence[str]) -> list[Explanation]:
        """Explain the predictions of texts, one by one.

        Raises:
            RequestError: 422: the model cannot explain; 503: too many requests are being explained.
        """
        if model.kind != "run":
            problem = "an exported model cannot explain its predictions; serve the run folder"
            raise RequestError(problem, status=422, field="parameters.explain")
        return [await self.slowly(model.explain, text) for text in texts]

    async def slowly(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a slow function on a thread of its own, next to the predictions.

        Raises:
            RequestError: 503: too many of them are waiting.
        """
        if self._explaining >= MOST_EXPLAINING:
            raise busy("too many requests are being explained", 1)
        self._explaining += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        finally:
            self._explaining -= 1


def busy(message: str, retry_after: int) -> RequestError:
    """Return the error of a server that is too busy: 503, with the seconds after which to try again.

    >>> busy("full", 2).headers
    {'Retry-After': '2'}
    """
    return RequestError(message, status=503, headers={"Retry-After": str(retry_after)})


def create_app(server: Server, access: Access | None = None) -> App:
    """Return the ASGI application of a server.

    Args:
        server: what the routes share.
        access: who may ask; by default anybody on this machine.

    Example::

        uvicorn.run(create_app(Server(open_models(["starter"], device="cpu", threads=1))))
    """
    app = FastAPI(
        title="lstm_sentiment",
        version=__version__,
        description="Sentiment of texts, with calibrated probabilities.",
        docs_url=None,
        redoc_url=None,
        lifespan=server.running,
    )
    _add_errors(app, server)
    _add_predictions(app, server)
    _add_inference_protocol(app, server)
    _add_operations(app, server)
    access = access or Access(open_paths=OPEN_PATHS)
    return Checks(app, access=access, figures=server.figures, endpoints=ENDPOINTS)


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; non-finite numbers are not JSON.

    >>> as_json({"label": "gut"}).body
    b'{"label":"gut"}'
    """
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, headers, "application/json")


def _add_errors(app: FastAPI, server: Server) -> None:
    @app.exception_handler(RequestError)
    async def refused(_request: Request, error: RequestError) -> Response:
        server.figures.failed(str(error.status))
        return as_json(as_failure(error), error.status, error.headers)

    @app.exception_handler(ConfigError)
    async def not_possible(_request: Request, error: ConfigError) -> Response:
        server.figures.failed("422")
        return as_json({"error": str(error), **({"field": error.key} if error.key else {})}, 422)

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> Response:
        server.figures.failed(str(error.status_code))
        message = "no such page; /docs lists them" if error.status_code == 404 else str(error.detail)
        return as_json({"error": message}, error.status_code, dict(error.headers or {}))


def _described(request: type[BaseModel], *examples: Any) -> dict[str, Any]:
    """Return what OpenAPI says of a request whose body the route reads itself."""
    content: dict[str, Any] = {
        "schema": request.model_json_schema(ref_template="#/components/schemas/{model}")
    }
    if examples:
        content["example"] = examples[0]
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


FAILURES: dict[int | str, dict[str, Any]] = {
    413: {"model": schemas.Failure, "description": "too large; names the field"},
    422: {"model": schemas.Failure, "description": "malformed; names the field"},
    503: {"model": schemas.Failure, "description": "busy; the header Retry-After has the seconds to wait"},
}


def _add_predictions(app: FastAPI, server: Server) -> None:
    @app.post(
        "/predict",
        summary="Classify texts",
        response_model=list[list[schemas.Score] | schemas.Detailed],
        responses=FAILURES,
        openapi_extra=_described(schemas.PredictRequest, {"inputs": ["I rate it so-so"]}),
    )
    async def predict(request: Request) -> Response:
        """Return each text's classes by descending probability; an object if parameters ask for more."""
        asked = schemas.parsed(schemas.PredictRequest, await request.body())
        texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
        parameters = asked.parameters
        model = model_named(server.models, parameters.model, field="parameters.model")
        check_texts(texts, server.limits, "inputs", explained=parameters.explain)
        read = await server.read(model, texts)
        explanations = await server.explain(model, texts) if parameters.explain else []
        return as_json(answer(model, read, parameters, explanations))


def _add_inference_protocol(app: FastAPI, server: Server) -> None:
    @app.get("/v2", summary="Metadata of the server")
    async def about() -> dict[str, Any]:
        return {"name": "lstm_sentiment", "version": __version__, "extensions": []}

    @app.get("/v2/health/live", summary="Whether the server runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", summary="Whether the server can predict")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get("/v2/models/{name}", summary="Metadata of a model")
    async def about_model(name: str) -> dict[str, Any]:
        return metadata(model_named(server.models, name))

    @app.get("/v2/models/{name}/ready", summary="Whether a model can predict")
    async def model_ready(name: str) -> dict[str, Any]:
        return {"name": model_named(server.models, name).name, "ready": True}

    @app.post(
        "/v2/models/{name}/infer",
        summary="Classify a tensor of texts",
        response_model=schemas.InferResponse,
        responses=FAILURES,
        openapi_extra=_described(
            schemas.InferRequest,
            {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["I rate it so-so"]}]},
        ),
    )
    async def infer(name: str, request: Request) -> Response:
        """Return the tensors label, score and probabilities (Open Inference Protocol, version 2)."""
        model = model_named(server.models, name)
        asked = schemas.parsed(schemas.InferRequest, await request.body())
        texts = texts_of(asked)
        outputs_of(asked)  # refuse before the work
        check_texts(texts, server.limits, "inputs[0].data")
        return as_json(infer_response(model, asked, await server.read(model, texts)))


def _add_operations(app: FastAPI, server: Server) -> None:
    @app.get("/health", summary="Models, and whether the server runs")
    async def health() -> dict[str, Any]:
        models = [{"name": model.name, "kind": model.kind, "labels": model.labels} for model in server.models]
        return {"status": "ok", "version": __version__, "models": models}

    @app.get("/metrics", summary="Metrics for Prometheus")
    async def metrics() -> Response:
        return Response(server.figures.text(), media_type=PLAIN)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(documentation_page(app.openapi()), media_type="text/html")
