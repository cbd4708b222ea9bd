"""The HTTP interface of a server: the routes, as a FastAPI application."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from lstm_sentiment.errors import ConfigError
from lstm_sentiment.serving import schemas
from lstm_sentiment.serving.limits import Access, App, Route, as_failure
from lstm_sentiment.serving.limits import Limits as Checks
from lstm_sentiment.serving.pages import FILES, HEADERS, add_page, documentation_page
from lstm_sentiment.serving.responses import (
    check_texts,
    infer_response,
    metadata,
    model_named,
    outputs_of,
    predictions_as_json,
    texts_of,
)
from lstm_sentiment.serving.schemas import RequestError
from lstm_sentiment.serving.server import Server, as_json
from lstm_sentiment.version import __version__

HEALTH = ("/health", "/v2/health/live", "/v2/health/ready")
OPEN_PATHS = (*HEALTH, *FILES)  # need no token
ENDPOINTS = ("/", "/predict", "/metrics", "/docs", "/openapi.json", "/v2", *HEALTH)
PLAIN = "text/plain; version=0.0.4; charset=utf-8"  # of Prometheus


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
    predict = _add_predictions(app, server)
    _add_inference_protocol(app, server)
    _add_operations(app, server)
    access = access or Access(open_paths=OPEN_PATHS)
    add_page(app, server, access)
    return Checks(
        app, access=access, figures=server.figures, endpoints=ENDPOINTS, direct={"/predict": predict}
    )


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


def _add_predictions(app: FastAPI, server: Server) -> Route:
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
        return as_json(predictions_as_json(model, read, parameters, explanations))

    return predict


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
        style = {**HEADERS, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return Response(documentation_page(app.openapi()), headers=style, media_type="text/html")
