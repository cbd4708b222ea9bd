"""The page `/docs`: the OpenAPI description as HTML, without scripts and without files from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font-family: ui-monospace, monospace; }
pre { overflow-x: auto; padding: .5rem; border: 1px solid #8888; }
section { border-top: 1px solid #8888; }
"""


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
    answers = "".join(
        f"<li><code>{html.escape(status)}</code> {html.escape(of.get('description', ''))}</li>"
        for status, of in operation.get("responses", {}).items()
    )
    return "".join([*parts, f"<ul>{answers}</ul></section>"])


def _json(value: Any) -> str:
    return f'<pre tabindex="0">{html.escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>'
