"""Take the pictures of docs/guides/serving.md from the server's page: python scripts/page_pictures.py [RUN].

Needs Chromium and Playwright (the extra dev).
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

TEXT = "the seats were great but the crew was rude"
ROWS = [
    ("review",),
    ("Lovely rooms and kind staff",),
    ("We waited an hour for cold soup",),
    ("It is a hotel next to the station",),
    ("Not bad, not great either",),
    ("The best breakfast of our holiday!",),
    ("Never again: dirty, loud and expensive",),
    ("Okay for one night",),
]
SIZE = {"width": 900, "height": 960}


def take(page: Page, url: str, out: Path) -> None:
    """Take the pictures of both views."""
    page.goto(url)
    page.fill("#text", TEXT)
    page.wait_for_selector("figure svg")
    page.screenshot(path=out / "page-text.png", animations="disabled")
    page.click("#tab-file")
    file = io.StringIO()
    csv.writer(file).writerows(ROWS)
    content = file.getvalue().encode()
    page.set_input_files("#file", files=[{"name": "reviews.csv", "mimeType": "text/csv", "buffer": content}])
    page.click(f"text=Label {len(ROWS) - 1} rows")
    page.wait_for_selector(f"text={len(ROWS) - 1} rows labelled")
    page.focus("tbody tr[tabindex='0']")
    page.keyboard.press("2")
    page.locator("text=Correct label").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#view-file .panels').scrollIntoView()")
    page.screenshot(path=out / "page-file.png", animations="disabled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="starter", help="run folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "pictures")
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        parser.error("needs Chromium: apt-get install chromium")
    command = [sys.executable, "-m", "lstm_sentiment.serve", options.run, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as driver:
        try:
            assert server.stdout is not None
            url = re.search(r"http://\S+", server.stdout.readline())
            assert url is not None
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            take(browser.new_page(viewport=SIZE), url[0], options.out)
            browser.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
