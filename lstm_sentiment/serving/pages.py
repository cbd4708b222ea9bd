"""The page at `/` with what it asks beyond predictions, and the page `/docs`."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict

from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.checkpoints.run_paths import NO_ROWS
from lstm_sentiment.config.public import last_part
from lstm_sentiment.errors import SentimentError, escaped
from lstm_sentiment.explanation.attribution import LiveReading, read_live
from lstm_sentiment.records.json_values import from_json
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.reporting.error_analysis import worst_mistakes
from lstm_sentiment.reporting.report import rows_of
from lstm_sentiment.serving.limits import Access
from lstm_sentiment.serving.models import Model, RunModel
from lstm_sentiment.serving.responses import check_texts, model_named
from lstm_sentiment.serving.schemas import RequestError, parsed
from lstm_sentiment.serving.server import Server, as_json

FOLDER = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {f"/page/{path.name}": path for path in sorted(FOLDER.iterdir()) if path.suffix in KINDS} | {
    "/": FOLDER / "index.html"
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
REPORT = "report.html"
SHOWN = {"accuracy": "accuracy", "macro_f1": "macro-F1"}

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; }
code, pre { font-family: ui-monospace, monospace; }
pre { overflow-x: auto; padding: .5rem; border: 1px solid #8888; }
section { border-top: 1px solid #8888; }
"""


class ReadingRequest(BaseModel):
    """A text to read word by word."""

    model_config = ConfigDict(extra="forbid", strict=True)
    text: str
    model: str | None = None


def add_page(app: FastAPI, server: Server, access: Access) -> None:
    """Add the page and its routes to an application.

    Args:
        app: to add them to.
        server: what the routes share.
        access: gives the page the cookie that opens reports.

    Example::

        add_page(FastAPI(), Server(models), Access())
    """
    for path, file in FILES.items():
        app.add_api_route(path, _sender(file), include_in_schema=False)
    mistakes: dict[str, asyncio.Future[Any]] = {}

    @app.get("/page/models", include_in_schema=False)
    async def models() -> Response:
        limits = server.limits
        sizes = {"body": limits.body, "texts": limits.texts, "characters": limits.characters}
        response = as_json({"models": [_facts(model) for model in server.models], "limits": sizes})
        access.set_cookie(response)
        return response

    @app.post("/page/reading", include_in_schema=False)
    async def reading(request: Request) -> Response:
        asked = parsed(ReadingRequest, await request.body())
        model = _run_named(server, asked.model, "model")
        check_texts([asked.text], server.limits, "text")
        return as_json(reading_as_json(await server.slowly(read_live, model.classifier, asked.text)))

    @app.get("/page/mistakes/{name}", include_in_schema=False)
    async def worst(name: str) -> Response:
        model = _run_named(server, name)
        if name not in mistakes or (mistakes[name].done() and mistakes[name].exception()):
            mistakes[name] = asyncio.ensure_future(server.slowly(mistakes_of, model, server.rows))
        return as_json(await asyncio.shield(mistakes[name]))

    @app.get("/page/report/{name}", include_in_schema=False)
    async def report(name: str) -> Response:
        file = _report_of(model_named(server.models, name))
        if file is None:
            raise RequestError("this run has no report.html; lstm-sentiment report writes it", status=404)
        headers = {**HEADERS, "Content-Security-Policy": REPORT_POLICY}
        return Response(file.read_bytes(), headers=headers, media_type="text/html")


def reading_as_json(reading: LiveReading) -> dict[str, Any]:
    """Return a reading as JSON values, with the gates of the last layer.

    Example::

        reading_as_json(read_live(classifier, "so-so"))["gates"][0]["let_in"]
    """
    last = [trace for trace in reading.gates if trace.layer == reading.gates[-1].layer]
    gates = [
        {"direction": of.direction, "let_in": of.let_in.tolist(), "forgot": (1 - of.kept).tolist()}
        for of in last
    ]
    return {
        "tokens": reading.tokens,
        "known": reading.known,
        "cut_tokens": reading.cut_tokens,
        "cut_at": reading.cut_at,
        "attributions": reading.attributions.tolist(),
        "prefixes": reading.prefixes.tolist(),
        "gates": gates,
    }


def mistakes_of(model: RunModel, trusted: bool) -> dict[str, Any]:
    """Return the worst mistakes of a run among its held-out rows, or why its rows cannot be read.

    Args:
        model: of the run.
        trusted: read its data even if it was not trained on this machine.

    Example::

        mistakes_of(model, False)["mistakes"][0]["text"]
    """
    classifier = model.classifier
    assert classifier.run is not None
    corpus, why = rows_of(classifier, RunFolder(classifier.run), trusted=trusted)
    rows = worst_mistakes(classifier, corpus) if corpus is not None else []
    names = ("text", "given", "predicted", "given_probability", "predicted_probability", "line")
    found = [{**{name: getattr(row, name) for name in names}, "file": last_part(row.file)} for row in rows]
    return {"mistakes": found, "why": escaped(why)}


def _sender(file: Path) -> Any:
    content, kind = file.read_bytes(), KINDS[file.suffix]

    async def send() -> Response:
        return Response(content, headers=HEADERS, media_type=kind)

    return send


def _run_named(server: Server, name: str | None, field: str | None = None) -> RunModel:
    model = model_named(server.models, name, field=field)
    if not isinstance(model, RunModel):
        raise RequestError("an exported model cannot be read word by word", status=422, field=field)
    return model


def _report_of(model: Model) -> Path | None:
    if not isinstance(model, RunModel) or model.classifier.run is None:
        return None
    file = model.classifier.run / REPORT
    return file if file.is_file() and not file.is_symlink() else None


def _facts(model: Model) -> dict[str, Any]:
    """Return what the page shows of a model."""
    column = model.classifier.config.data.text_column if isinstance(model, RunModel) else "auto"
    return {
        "name": model.name,
        "kind": model.kind,
        "labels": model.labels,
        "sets": bool(model.thresholds),
        "text_column": None if column == "auto" else column,
        "report": _report_of(model) is not None,
        "rows": isinstance(model, RunModel) and model.classifier.config.data.train != NO_ROWS,
        "scores": _scores(model),
    }


def _scores(model: Model) -> list[str]:
    """Return the scores of a finished run on its held-out rows, as texts."""
    if not isinstance(model, RunModel) or model.classifier.run is None:
        return []
    folder = RunFolder(model.classifier.run)
    try:
        metrics = from_json(RunMetrics, folder.read_json(RunMetrics.FILE), file=folder.path / RunMetrics.FILE)
    except (SentimentError, OSError):  # not finished, or of another version
        return []
    name, scores = ("test", metrics.test) if metrics.test is not None else ("validation", metrics.validation)
    return [f"{title} on {name} rows {getattr(scores, key):.3f}" for key, title in SHOWN.items()]


def documentation_page(description: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI description.

    >>> page = documentation_page({"info": {"title": "<x>", "version": "1"}, "paths": {"/a": {"get": {}}}})
    >>> "<h1>&lt;x&gt; 1</h1>" in page, "GET /a" in page
    (True, True)
    """
    info = description["info"]
    title = html.escape(f"{info['title']} {info['version']}")
    sections = [
        _operation(method, path, operation)
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><main>'
        f"<h1>{title}</h1><p>{html.escape(info.get('description', ''))} "
        'The machine-readable description is <a href="/openapi.json">/openapi.json</a>.</p>'
        f"{''.join(sections)}</main></body></html>"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [f"<section><h2><code>{html.escape(f'{method.upper()} {path}')}</code></h2>"]
    text = ". ".join(filter(None, (operation.get("summary"), operation.get("description"))))
    parts.append(f"<p>{html.escape(text)}</p>")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        if "example" in body:
            parts.append(f"<p>Example:</p>{_json(body['example'])}")
        parts.append(f"<details><summary>Request</summary>{_json(body['schema'])}</details>")
    responses = "".join(
        f"<li><code>{html.escape(status)}</code> {html.escape(of.get('description', ''))}</li>"
        for status, of in operation.get("responses", {}).items()
    )
    return "".join([*parts, f"<ul>{responses}</ul></section>"])


def _json(value: Any) -> str:
    return f'<pre tabindex="0">{html.escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>'
