"""HTML pages and optional packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lstm_sentiment.errors import MissingExtraError
from lstm_sentiment.reporting.page import TEMPLATES, write_page


def test_text_is_escaped(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "base.html", title="</title><script>alert(1)</script>")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_page_has_no_external_resources() -> None:
    for template in TEMPLATES.glob("*.html"):
        text = template.read_text("utf-8")
        assert "http:" not in text, template
        assert "https:" not in text, template
        assert "<script" not in text, template


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"needs jinja2: pip install 'lstm_sentiment\[report\]'"):
        write_page(tmp_path / "page.html", "base.html", title="x")
    assert list(tmp_path.iterdir()) == []
