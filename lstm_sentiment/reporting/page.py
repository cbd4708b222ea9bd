"""Self-contained HTML pages from the templates in this package: no scripts, no requests, light and dark.

All values are escaped except `Markup`, which is used for generated SVG only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lstm_sentiment.system.extras import need
from lstm_sentiment.system.files import write_atomically

TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Render a template and write the page atomically.

    Args:
        path: of the page, ``.html``.
        template: a file of `TEMPLATES` that extends ``base.html``.
        values: of the template's variables; text is escaped.

    Raises:
        MissingExtraError: Jinja2 is not installed.

    Example::

        write_page(Path("report.html"), "report.html", title="Report", scores=scores)
    """
    write_atomically(path, filled(template, **values).encode("utf-8", "replace"))


def filled(template: str, **values: Any) -> str:
    """Render a template, see `write_page`.

    Raises:
        MissingExtraError: Jinja2 is not installed.
    """
    jinja2 = need("jinja2", extra="report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number, "score": _score}
    page: str = environment.get_template(template).render(**values)
    return page


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _number(value: float) -> str:
    return f"{value:,}"


def _score(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}"
