"""Checks of generated pages in a browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def opened(browser: Any, file: Path, **settings: Any) -> tuple[Any, list[str], list[str]]:
    """Open a page; return it, its console messages and its requests."""
    page = browser.new_page(**settings)
    reported: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: reported.append(message.text))
    page.on("pageerror", lambda error: reported.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    return page, reported, asked


def check_page(browser: Any, file: Path, scheme: str, *, pictures: int) -> None:
    """Check that a page makes no requests, is readable, and has visible pictures with alternative text."""
    page, reported, asked = opened(browser, file, color_scheme=scheme)
    assert reported == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    found = page.locator("svg").all()
    assert len(found) == pictures
    for picture in found:
        box = picture.bounding_box()
        assert box["width"] > 150
        assert box["height"] > 100
        assert picture.get_attribute("role") == "img"
        told_instead = picture.get_attribute("aria-label") or picture.locator("title").first.text_content()
        assert len(told_instead) > 20
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    back, front = (
        page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")
    )
    assert contrast(back, front) > 7
    for place in page.locator("svg text").all()[:5]:
        assert contrast(back, place.evaluate("e => getComputedStyle(e).fill")) > 4.5
    page.close()


A4 = 703  # pixels between margins of 12 mm
CUT_OFF = """page => {
  const outside = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1
    || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
  const sheet = {left: 0, right: page, top: 0, bottom: document.documentElement.scrollHeight};
  const found = [];
  for (const e of document.querySelectorAll("main *")) {
    const box = e.getBoundingClientRect(), style = getComputedStyle(e);
    if (e.matches("svg title, svg style, svg metadata *, svg metadata, svg defs *, svg defs")) continue;
    if (!e.checkVisibility()) found.push("hidden: " + e.outerHTML.slice(0, 80));
    else if (outside(box, sheet)) found.push("beyond the sheet: " + e.outerHTML.slice(0, 80));
    if (style.overflowX !== "visible" && !e.closest("svg") && e.scrollWidth > e.clientWidth + 1)
      found.push("must be scrolled: " + e.outerHTML.slice(0, 80));
    if (e.matches("svg text") && outside(box, e.closest("svg").getBoundingClientRect()))
      found.push("beyond the picture: " + e.textContent);
  }
  return found;
}"""


def cut_off(browser: Any, file: Path, *, media: str = "print") -> list[str]:
    """Return what cannot be seen of a page on a sheet of A4."""
    page = browser.new_page(viewport={"width": A4, "height": 1000}, color_scheme="dark")
    page.goto(file.as_uri())
    page.emulate_media(media=media)
    found: list[str] = page.evaluate(CUT_OFF, A4)
    if media == "print":
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.close()
    return found


def printed_pages(browser: Any, file: Path) -> int:
    """Return the number of sheets of A4 that a page is printed on."""
    page = browser.new_page()
    page.goto(file.as_uri())
    content: bytes = page.pdf(format="A4", prefer_css_page_size=True)
    page.close()
    return len(re.findall(rb"/Type\s*/Page\b", content))


def contrast(back: str, front: str) -> float:
    """Return the contrast of two CSS colours, 1 to 21 (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(back), luminance(front)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
