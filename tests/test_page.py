"""The server's page in Chromium: typing, files, corrections, runs, odd texts, lost servers, accessibility."""

from __future__ import annotations

import copy
import csv
import importlib.util
import io
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import make_rows
from servers import ask, serving

from lstm_sentiment.data.columns import Columns, Rows
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.explanation.attribution import read_live
from lstm_sentiment.models.network import lstm_of
from lstm_sentiment.serving.models import Read, RunModel

TEXT = "I love this airline, but the seats were awful"
ODD_LABELS = ["<img src=x onerror=alert(1)>", "\u05d8\u05d5\u05d1", "\U0001f600 & <b>"]
ODD_TEXTS = [
    "<script>alert(1)</script><img src=x onerror=alert(1)> great",
    "\u05d4\u05e1\u05e8\u05d8 \u05d4\u05d6\u05d4 \u05d8\u05d5\u05d1 \u202egreat\u202c",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 great \U0001f44d\U0001f3fd",
    "a\x00b great {{x}} ${y} %s",
]
ROWS = [("id", "review", "label"), ("1", "lovely room, great staff", "positive")]
ROWS += [("2", 'rude "crew", awful\nseats', "negative"), ("3", "<b>so-so</b>", "positive"), ("4", "", "")]
AXE_LEVELS = ("serious", "critical")


@pytest.fixture(scope="module")
def starter() -> RunModel:
    return RunModel("starter", name="starter", device="cpu")


@pytest.fixture(scope="module")
def mine(trained_run: Path) -> RunModel:
    return RunModel(str(trained_run), name="mine", device="cpu")


@pytest.fixture(scope="module")
def address(starter: RunModel, mine: RunModel) -> Iterator[str]:
    """A server of two models."""
    with serving([starter, mine]) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function that opens a page; at the end no page may have had errors or asked another server."""
    wrong: list[str] = []
    with ExitStack() as pages:

        def open_page(
            url: str, *, errors: bool = False, ready: str = "body[data-ready]", **settings: Any
        ) -> Any:
            context = browser.new_context(accept_downloads=True, **settings)
            pages.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(20_000)
            origin = re.match(r"http://[^/]+/", url)
            assert origin is not None
            page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            if not errors:
                page.on("console", lambda message: wrong.append(message.text))
            inside = (origin[0], f"blob:{origin[0]}")
            page.on("request", lambda of: None if of.url.startswith(inside) else wrong.append(of.url))
            page.goto(url)
            page.wait_for_selector(ready)
            return page

        yield open_page
    assert wrong == []


def until(page: Any, condition: str) -> None:
    """Wait for a condition; the page's policy forbids Playwright's own way, which evaluates a text."""
    deadline = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


def write_text(page: Any, text: str, *, panels: int = 1) -> None:
    """Type a text, and wait for its reading."""
    before = page.evaluate("document.querySelectorAll('#view-text figure').forEach(e => e.remove())")
    assert before is None
    page.fill("#text", text)
    until(page, f"document.querySelectorAll('#view-text figure svg').length === {panels}")


def labelled(page: Any, content: str, count: int, name: str = "rows.csv") -> None:
    """Open a file in the page, and label it."""
    page.click("#tab-file")
    page.set_input_files("#file", files=[{"name": name, "mimeType": "text/csv", "buffer": content.encode()}])
    page.click(f"text=Label {count} rows")
    page.wait_for_selector(f"text={count} rows labelled")


def as_csv(rows: Any) -> str:
    file = io.StringIO()
    csv.writer(file).writerows(rows)
    return file.getvalue()


def saved(page: Any, button: str) -> str:
    with page.expect_download() as found:
        page.click(button)
    return Path(found.value.path()).read_text("utf-8")


def only(page: Any) -> None:
    """Use the first model alone."""
    page.select_option("#models label:nth-of-type(2) select", "")


def test_the_prediction_follows_typing(address: str, visit: Any, starter: RunModel) -> None:
    page = visit(address)
    only(page)
    shown = {}
    for text in (TEXT, "the staff were lovely"):
        write_text(page, text)
        prediction = starter.classifier.predict(text, coverage=0.9)[0]
        assert page.inner_text(".result") == f"{prediction.label}, {100 * prediction.score:.0f} %"
        assert f"label set for 90 %: {' or '.join(prediction.label_set or [])}" in page.inner_text(
            "#view-text"
        )
        explained = starter.classifier.explain(text, method="occlusion")
        assert page.locator(".token").all_inner_texts() == explained.tokens
        hints = [hint.get_attribute("title") for hint in page.locator(".token").all()]
        attributions = explained.attributions[:, explained.labels.index(explained.label)]
        assert [float(hint.split(" ")[0]) for hint in hints] == pytest.approx(attributions, abs=0.006)
        chart = page.get_attribute("#view-text figure svg", "aria-label")
        assert chart.startswith(f"Prediction after each of {len(explained.tokens)} words; at the end ")
        cells = page.locator("#view-text details tbody tr").last.locator("td").all_text_contents()
        last = explained.gates[-1]
        assert cells[-2:] == [f"{last.let_in[-1]:.2f}", f"{1 - last.kept[-1]:.2f}"]
        shown[text] = page.inner_text(".result")
    assert len(set(shown.values())) == 2
    page.fill("#text", "")
    until(page, "document.querySelector('.result').textContent === ''")


def test_a_link_holds_the_text(address: str, visit: Any) -> None:
    page = visit(address)
    write_text(page, f"{TEXT} \U0001f600 &#%", panels=2)
    link = page.url
    assert TEXT not in link.split("#")[0]
    other = visit(link)
    assert other.input_value("#text") == f"{TEXT} \U0001f600 &#%"
    other.wait_for_selector("#view-text figure svg")
    other.evaluate("location.hash = '#text=%'")  # damaged
    until(other, "document.querySelector('#text').value === '%'")


def test_odd_texts_and_labels_are_texts(visit: Any, starter: RunModel) -> None:
    odd = copy.copy(starter)
    odd.name, odd.labels = "<i>odd</i>", ODD_LABELS
    with serving([odd]) as port:
        page = visit(f"http://127.0.0.1:{port}/")
        for text in ODD_TEXTS:
            write_text(page, text)
            tokens = page.locator(".token").all_text_contents()
            assert tokens == starter.classifier.explain(text, method="occlusion").tokens
            assert page.locator("#view-text .bars .name").all_text_contents() == ODD_LABELS
        labelled(page, as_csv([("text",), *((text,) for text in ODD_TEXTS)]), len(ODD_TEXTS))
        assert sorted(page.locator("tbody td.text a").all_text_contents()) == sorted(ODD_TEXTS)
        assert page.locator("img, main script, main b, main i").count() == 0
        assert "<i>odd</i>" in page.inner_text("#view-file .panel h3")


def test_a_long_text_is_read(address: str, visit: Any, mine: RunModel) -> None:
    page = visit(address)
    page.select_option("#models label:nth-of-type(1) select", "mine")
    only(page)
    long = ("The seats were awful. " * 10_000)[:200_000]
    write_text(page, long)
    score = mine.classifier.predict(long)[0].score
    assert page.inner_text(".result") == f"negative, {100 * score:.0f} %"
    assert "tokens of the text were not read" in page.inner_text("#view-text")
    place = page.evaluate("[...document.querySelector('.tokens').children].findIndex(e => e.matches('em'))")
    live = read_live(mine.classifier, long)
    assert place == live.cut_at
    assert page.inner_text(".tokens em").strip() == f"[{live.cut_tokens} tokens not read]"
    assert page.is_disabled("text=Copy link")
    page.fill("#text", "x" * 250_001)
    page.wait_for_selector("text=At most 250000 characters are read.")


def test_two_models_side_by_side(address: str, visit: Any) -> None:
    page = visit(address)
    write_text(page, "the so-so food was so-so", panels=2)
    results = page.locator(".result").all_inner_texts()
    assert page.locator(".panel h2").all_inner_texts() == ["starter", "mine"]
    same = results[0].split(",")[0] == results[1].split(",")[0]
    page.wait_for_selector(f"text=The models {'agree' if same else 'differ'}: {' and '.join(results)}.")
    texts = ["terrific", "dreadful", "delightful", "disgusting", "the food was great", "the food was awful"]
    labelled(page, as_csv([("text",), *((text,) for text in texts)]), len(texts))
    port = int(address.rsplit(":")[-1].strip("/"))
    found = [
        ask(port, "/predict", {"inputs": texts, "parameters": {"model": name}})[1]
        for name in ("starter", "mine")
    ]
    different = sum(a[0]["label"] != b[0]["label"] for a, b in zip(*found, strict=True))
    assert 0 < different < len(texts)
    page.check(f"text=only the {different} rows where the models differ")
    assert page.locator("#view-file tbody tr:has(.row)").count() == different


def test_a_file_is_labelled_corrected_and_saved(
    address: str, visit: Any, starter: RunModel, tmp_path: Path
) -> None:
    page = visit(address)
    only(page)
    page.click("#tab-file")
    page.set_input_files(
        "#file", files=[{"name": "r.csv", "mimeType": "text/csv", "buffer": as_csv(ROWS).encode()}]
    )
    page.wait_for_selector("text=4 rows; columns: id, review, label")
    assert page.locator("#column option:checked").inner_text() == "review"
    page.click("text=Label 4 rows")
    page.wait_for_selector("text=4 rows labelled")
    texts = [row[1] for row in ROWS[1:]]
    expected = starter.classifier.predict(texts)
    counts = [sum(of.label == label for of in expected) for label in starter.labels]
    assert [int(of.split()[0]) for of in page.locator("#view-file .bars .number").all_inner_texts()] == counts
    order = sorted(range(4), key=lambda row: expected[row].score)
    shown = page.locator("#view-file tbody td.text a").all_text_contents()
    assert shown == [texts[row] or "(no text)" for row in order]
    page.focus("#view-file tbody tr[tabindex='0']")
    page.keyboard.press("1")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("3")
    page.keyboard.press("ArrowDown")
    page.locator("table[aria-label='Labelled rows'] tbody tr").nth(2).get_by_text("2 neutral").click()
    page.keyboard.press("0")  # takes it back
    assert "Rows with a label of yours: 2" in page.inner_text("#view-file")
    corrections = [(texts[order[0]], "negative"), (texts[order[1]], "positive")]
    found = list(csv.DictReader(io.StringIO(saved(page, "text=Download labelled file"))))
    assert [(row["id"], row["review"], row["predicted_label"]) for row in found] == [
        (row[0], row[1], of.label) for row, of in zip(ROWS[1:], expected, strict=True)
    ]
    assert [float(row["probability_negative"]) for row in found] == [
        of.probabilities["negative"] for of in expected
    ]
    assert (
        read_as_training(tmp_path / "corrections.csv", saved(page, "text=Download corrections"))
        == corrections
    )
    old = as_csv([("review", "label"), (corrections[0][0], "neutral"), ("old", "neutral")])
    with page.expect_download() as joined:
        page.set_input_files(
            "#old", files=[{"name": "old.csv", "mimeType": "text/csv", "buffer": old.encode()}]
        )
    content = Path(joined.value.path()).read_text("utf-8")
    assert read_as_training(tmp_path / "joined.csv", content) == [
        corrections[0],
        ("old", "neutral"),
        corrections[1],
    ]
    page.locator("#view-file tbody td.text a").first.click()
    until(page, f"document.querySelector('#text').value.startsWith({texts[order[0]][:5]!r})")


def read_as_training(file: Path, content: str) -> list[tuple[str, str]]:
    """Return the (text, label) rows that training reads from a file."""
    file.write_text(content, "utf-8", newline="")
    with open_source(str(file)) as source:
        rows = Rows(source, Columns())
        texts = [text for batch in rows.texts() for text in batch]
        names = list(rows.label_numbers)
        return list(zip(texts, [names[number] for number in rows.labels], strict=True))


class Slow(RunModel):
    """A model that takes a while."""

    def read(self, texts: list[str]) -> list[Read]:
        time.sleep(0.05)
        return super().read(texts)


def test_a_server_that_goes_away_and_comes_back(visit: Any, starter: RunModel) -> None:
    slow = Slow.__new__(Slow)
    slow.__dict__.update(starter.__dict__)
    texts = [text for text, _ in make_rows(1500)]
    with serving([slow]) as port:
        page = visit(f"http://127.0.0.1:{port}/", errors=True)
        page.click("#tab-file")
        content = as_csv([("text",), *((text,) for text in texts)])
        page.set_input_files(
            "#file", files=[{"name": "a.csv", "mimeType": "text/csv", "buffer": content.encode()}]
        )
        page.click("text=Label 1,500 rows")
        until(page, "document.querySelector('progress').value > 0")
    page.wait_for_selector("text=The server does not respond. Trying again")
    with serving([starter], port=port):
        page.wait_for_selector("text=1,500 rows labelled")
        assert page.inner_text("#status") == ""
        found = csv.DictReader(io.StringIO(saved(page, "text=Download labelled file")))
        assert [row["text"] for row in found] == texts


def test_runs_with_their_mistakes(visit: Any, starter: RunModel, trained_run: Path) -> None:
    weak = RunModel(str(trained_run), name="weak", device="cpu")
    lstm_of(weak.classifier.model).head.bias[0] += 20  # everything is negative
    for rows in (True, False):
        with serving([starter, weak], rows=rows) as port:
            page = visit(f"http://127.0.0.1:{port}/")
            page.click("#tab-runs")
            assert page.locator("text=Show its worst mistakes").count() == 1  # the starter has no rows
            run = page.locator("#view-runs section").nth(1)
            assert "accuracy on test rows 1.000" in run.inner_text()
            page.click("text=Show its worst mistakes")
            if not rows:
                page.wait_for_selector("text=was not trained here and is untrusted; add --rows to read it")
                page.close()
                continue
            run.locator("td.text a").first.wait_for()
            cells = run.locator("tbody tr").first.locator("td").all_inner_texts()
            assert cells[1].split()[0] in ("neutral", "positive")
            assert cells[2].split()[0] == "negative"
            assert (cells[0], cells[1].split()[0]) in make_rows(240)
            run.locator("td.text a").first.click()
            page.wait_for_selector("#view-text:not([hidden])")
            assert page.input_value("#text") == cells[0]
            page.close()


def test_the_report_of_a_run_has_a_policy_of_its_own(trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    report = "<!doctype html><title>Report</title>"
    (tmp_path / "run" / "report.html").write_text(report, "utf-8")
    model = RunModel(str(tmp_path / "run"), name="run", device="cpu")
    with serving([model]) as port:
        assert ask(port, "/page/models")[1]["models"][0]["report"]
        status, content, headers = ask(port, "/page/report/run")
        assert (status, content) == (200, report)
        assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
        assert ask(port, "/")[2]["content-security-policy"].startswith("default-src 'self'")
        assert ask(port, "/page/../pages.py")[0] == 404


def test_with_a_token_the_page_opens_the_report(
    visit: Any, trained_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By its link, in the same tab and in another one; and no address holds the token."""
    shutil.copytree(trained_run, tmp_path / "run")
    report = "<!doctype html><title>Report</title><style>h1 { color: rgb(1, 2, 3) }</style><h1>Scores</h1>"
    (tmp_path / "run" / "report.html").write_text(report, "utf-8")
    model = RunModel(str(tmp_path / "run"), name="my run", device="cpu")
    token, urls = "of-many-letters", list[str]()
    caplog.set_level("INFO", logger="lstm_sentiment")
    with serving([model], token=token, log_requests=True) as port:
        assert ask(port, "/page/report/my%20run")[0] == 401
        page = visit(f"http://127.0.0.1:{port}/", errors=True, ready="#token:not([hidden])")
        page.context.on("request", lambda of: urls.append(of.url))
        page.fill("#token-field", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-ready]")
        page.click("#tab-runs")
        with page.context.expect_page() as other:
            page.click("text=Report of this run", modifiers=["Control"])
        for opened in (other.value, page):
            if opened is page:
                page.click("text=Report of this run")
            opened.wait_for_selector("text=Scores")
            assert opened.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(1, 2, 3)"
        page.reload()
        page.wait_for_selector("text=Scores")
        assert page.evaluate("document.cookie") == "", "scripts do not see it"
    assert not [url for url in urls if token in url]
    assert token not in caplog.text
    assert "/page/report/my run" in caplog.text, "requests were logged"


def test_the_cookie_opens_reports_alone(trained_run: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_run, tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("<!doctype html><title>Report</title>", "utf-8")
    model = RunModel(str(tmp_path / "run"), name="run", device="cpu")
    bearer = {"authorization": "Bearer of-many-letters"}
    with serving([model], token="of-many-letters") as port, serving([model]) as open_port:
        assert "set-cookie" not in ask(open_port, "/page/models")[2], "without a token there is none"
        refused = ask(port, "/page/models")
        assert (refused[0], "set-cookie" in refused[2]) == (401, False)
        given = ask(port, "/page/models", **bearer)[2]["set-cookie"]
        assert {"HttpOnly", "Path=/page/report/", "SameSite=strict"} <= set(given.split("; "))
        cookie = given.split(";")[0]
        assert "of-many-letters" not in cookie
        name, _, value = cookie.partition("=")
        assert ask(port, "/page/report/run", cookie=cookie)[0] == 200
        assert ask(port, "/page/report/run", cookie=f"a=b; {cookie}")[0] == 200
        for wrong in (f"{name}={value[:-1]}", f"{name}=", f"x{cookie}", f"{name}=\u00e9", ""):
            assert ask(port, "/page/report/run", cookie=wrong)[0] == 401, wrong
        for path in ("/page/models", "/page/mistakes/run", "/metrics", "/page/report"):
            assert ask(port, path, cookie=cookie)[0] == 401, path
        assert ask(port, "/predict", {"inputs": "so-so"}, cookie=cookie)[0] == 401


def test_the_page_asks_for_the_token(visit: Any, starter: RunModel) -> None:
    with serving([starter], token="of-many-letters") as port:
        page = visit(f"http://127.0.0.1:{port}/", errors=True, ready="#token:not([hidden])")
        page.fill("#token-field", "of-many-letters")
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-ready]")
        write_text(page, TEXT)


def axe(page: Any, *rules: str) -> list[str]:
    """Return the serious problems that axe-core finds, by all of its rules or some."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        pytest.skip("axe-core is not installed: pip install axe-playwright-python")
    if not page.evaluate("'axe' in window"):
        page.evaluate((Path(spec.origin).parent / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("rules => axe.run(rules.length ? {runOnly: rules} : {})", list(rules))["violations"]
    return [f"{of['id']}: {of['nodes'][0]['html'][:200]}" for of in found if of["impact"] in AXE_LEVELS]


def test_all_views_are_accessible(address: str, visit: Any) -> None:
    page = visit(address, viewport={"width": 390, "height": 800})
    found: dict[str, list[str]] = {}

    def check(view: str) -> None:
        for scheme, rules in (("light", ()), ("dark", ("color-contrast",))):  # else they do not differ
            page.emulate_media(color_scheme=scheme)
            found[f"{view}, {scheme}"] = axe(page, *rules)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view

    write_text(page, TEXT, panels=2)
    page.locator("#view-text details").first.click()
    check("text")
    labelled(page, as_csv(ROWS), 4)
    check("file")
    page.focus("#tab-file")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-runs"
    check("runs")
    assert {view: problems for view, problems in found.items() if problems} == {}
    assert len(found) == 6


def test_axe_finds_a_serious_problem(address: str, visit: Any) -> None:
    page = visit(address)
    page.evaluate("document.querySelector('main').append(document.createElement('img'))")
    assert any(problem.startswith("image-alt") for problem in axe(page))
    page.evaluate("document.querySelector('main').style.color = 'rgb(40, 40, 40)'")
    page.emulate_media(color_scheme="dark")
    assert any(problem.startswith("color-contrast") for problem in axe(page, "color-contrast"))
