"""Explaining rows of a file, and the page: facts of the run, and nothing cut off in print."""

from __future__ import annotations

import datetime
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browsing import cut_off, printed_pages
from conftest import make_rows, write_csv
from test_explanation import HOSTILE, untrained

import lstm_sentiment
from lstm_sentiment import explain as command
from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.errors import CheckpointError, ConfigError, DataError, SentimentError
from lstm_sentiment.evaluation.significance import score_intervals
from lstm_sentiment.explanation.sentence import sentence
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.prediction.file_rows import numbered_rows, worst_rows
from lstm_sentiment.reporting.explanation_page import Explained, write_explanations
from lstm_sentiment.reporting.run_facts import HeldOutScore, RunFacts, facts_of

ROWS = make_rows(30, seed=5)


@pytest.fixture(scope="module")
def trained(trained_run: Path) -> SentimentClassifier:
    return lstm_sentiment.load(trained_run, device="cpu")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Thirty labelled rows; that of line 7 has a line break, so that the next one begins at line 9."""
    rows = list(ROWS)
    rows[5] = ("an awful\nplace", "negative")
    return write_csv(tmp_path / "rows.csv", rows)


@pytest.fixture
def explain_it(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command and return what it prints."""

    def run(*argv: object) -> str:
        command.main([str(trained_run), "--device=cpu", "--method=occlusion", *map(str, argv)])
        return capsys.readouterr().out

    return run


# -- which rows --------------------------------------------------------------------------------------


def test_rows_have_the_numbers_of_messages(trained: SentimentClassifier, file: Path) -> None:
    found = numbered_rows(trained, str(file), [10, 2, 7, 9])
    expected = [ROWS[7], ROWS[0], ("an awful\nplace", "negative"), ROWS[6]]
    assert [(row.number, row.text, row.label) for row in found] == [
        (number, *row) for number, row in zip([10, 2, 7, 9], expected, strict=True)
    ]


def test_every_format_has_its_numbers(trained: SentimentClassifier, tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS, columns=["text", "label"])
    frame.to_parquet(tmp_path / "rows.parquet")
    frame.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    (tmp_path / "rows.txt").write_text("".join(f"{text}\n" for text, _ in ROWS))
    for name, label in (("rows.parquet", ROWS[2][1]), ("rows.jsonl", ROWS[2][1]), ("rows.txt", None)):
        (row,) = numbered_rows(trained, str(tmp_path / name), [3])
        assert (row.number, row.text, row.label) == (3, ROWS[2][0], label)


def test_the_worst_rows_have_the_least_probable_labels(trained: SentimentClassifier, tmp_path: Path) -> None:
    rows = list(ROWS)
    for n in (4, 11, 17):
        rows[n] = (rows[n][0], {"negative": "positive"}.get(rows[n][1], "negative"))
    file = write_csv(tmp_path / "rows.csv", rows)
    chances = trained.predict_proba([text for text, _ in rows])
    own = [of[trained.labels.index(label)] for of, (_, label) in zip(chances, rows, strict=True)]
    order = np.argsort(own, kind="stable")
    found = worst_rows(trained, str(file), 5)
    assert [row.number for row in found] == (order[:5] + 2).tolist()
    assert {4 + 2, 11 + 2, 17 + 2} <= {row.number for row in found}
    assert [(row.text, row.label) for row in found] == [rows[n] for n in order[:5]]
    assert len(worst_rows(trained, str(file), 1000)) == 30


def test_labels_are_optional_for_numbered_rows(trained: SentimentClassifier, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,label\nso good,positive\nso bad,unheard of\nso so,\n")
    assert [row.label for row in numbered_rows(trained, str(file), [2, 3, 4])] == [
        "positive",
        "unheard of",
        None,
    ]
    file.write_text("review,verdict\nso good,positive\n")
    assert numbered_rows(trained, str(file), [2])[0].label is None
    named = numbered_rows(trained, str(file), [2], label_column="verdict")
    assert [(row.text, row.label) for row in named] == [("so good", "positive")]
    with pytest.raises(DataError, match=r"no column 'verdikt' \(--label-column\).*Did you mean 'verdict'"):
        numbered_rows(trained, str(file), [2], label_column="verdikt")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--rows=99"], "rows.csv: no row begins at line 99: rows have the number of the line at which they "
         "begin, as in messages, from 2 to 32; the nearest are 31 and 32"),
        (["--rows=2,8"], "no row begins at line 8: "),
        (["--rows=1"], "the nearest are 2 and 3"),
        (["--rows=12,x"], "--rows: 'x' is not a row number; write numbers such as 476,12"),
        (["--rows="], "--rows: '' is not a row number"),
        (["--rows=-3"], "--rows: '-3' is not a row number"),
        (["--rows=0"], "--rows: '0' is not a row number"),
        (["--rows=٣"], "is not a row number"),
        (["--rows=3,4,3"], "--rows: 3 is given twice; give each row once"),
        (["--rows=" + ",".join(map(str, range(1, 1002)))], "--rows: 1,001 rows; explain at most 1,000 at a"),
        (["--worst=0"], "--worst: must lie between 1 and 1,000, not 0"),
        (["--worst=1001"], "--worst: must lie between 1 and 1,000, not 1001"),
        (["--worst=x"], "invalid int value: 'x'"),
        ([], "which rows of --file are explained? Give either --rows, such as 476,12, or --worst"),
        (["--rows=3", "--worst=3"], "Give either --rows"),
        (["so good", "--rows=3"], "give texts or --file, not both"),
        (["--rows=3", "--short", "--class=positive"], "--short explains the predicted class"),
        (["--rows=3", "--text-column=txt"], "no column 'txt'"),
        (["--worst=3", "--label-column=text"], "is not one of negative, neutral, positive"),
    ],
)  # fmt: skip
def test_unusable_rows_are_explained(
    explain_it: Callable[..., str], file: Path, argv: list[str], expected: str
) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        explain_it("--file", file, *argv)
    assert expected in str(caught.value)


@pytest.mark.parametrize("option", ["--rows=3", "--worst=3", "--text-column=text", "--no-header"])
def test_options_of_files_need_a_file(explain_it: Callable[..., str], option: str) -> None:
    with pytest.raises(ConfigError, match="needs --file"):
        explain_it("so good", option)


# -- what is shown -----------------------------------------------------------------------------------


def test_texts_are_explained_in_a_sentence_each(
    explain_it: Callable[..., str], trained: SentimentClassifier
) -> None:
    texts = ["the service was awful", "", "zzz", "a lovely and superb room"]
    lines = explain_it("--short", *texts).splitlines()
    assert lines == [sentence(trained.explain(text, method="occlusion")) for text in texts]
    assert re.fullmatch(r"negative, because of .*\*awful\*.* \(probability 0\.\d\d\)", lines[0])
    assert lines[3].startswith("positive, because of *")


def test_rows_are_shown_with_label_prediction_and_probability(
    explain_it: Callable[..., str], trained: SentimentClassifier, file: Path
) -> None:
    given = dict(zip(trained.labels, trained.predict_proba("an awful\nplace")[0], strict=True))
    assert given["negative"] > 0.5
    shown = explain_it("--file", file, "--rows=7,2")
    assert shown.startswith(f"2 rows of {file}\n\nrow 7 (1 of 2): label negative ({given['negative']:.3f}), ")
    assert f"prediction negative ({given['negative']:.3f})\nan awful place" in shown
    assert "\n\nrow 2 (2 of 2): label " in shown
    short = explain_it("--file", file, "--rows=7", "--short").splitlines()
    assert short[0] == f"1 row of {file}"
    assert short[2].startswith(
        f"row 7, labelled negative ({given['negative']:.3f}): negative, because of *awful*"
    )
    assert short[3] == "  an awful\\nplace"


def test_the_worst_rows_come_first(
    explain_it: Callable[..., str], trained: SentimentClassifier, file: Path
) -> None:
    shown = explain_it("--file", file, "--worst=4", "--short")
    assert shown.startswith(f"4 rows of {file}, the least probable label first\n")
    found = [int(number) for number in re.findall(r"^row (\d+), labelled", shown, re.MULTILINE)]
    assert found == [row.number for row in worst_rows(trained, str(file), 4)]


def test_json_and_page_name_the_rows(explain_it: Callable[..., str], file: Path, tmp_path: Path) -> None:
    page, records = tmp_path / "page.html", tmp_path / "found.json"
    explain_it("--file", file, "--rows=9,2", f"--html={page}", f"--json={records}")
    found = json.loads(records.read_text())
    assert [(of["file"], of["row"], of["given"], of["text"]) for of in found] == [
        (str(file), 9, ROWS[6][1], ROWS[6][0]),
        (str(file), 2, ROWS[0][1], ROWS[0][0]),
    ]
    html = page.read_text("utf-8")
    assert f"{file.name}, row 9; label {ROWS[6][1]}" in html
    assert ROWS[6][0] in html
    assert str(file.parent) not in html, "pages are shared"


# -- the page ----------------------------------------------------------------------------------------


def test_the_page_names_run_date_and_score(
    explain_it: Callable[..., str], trained_run: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    explain_it("the room was great", f"--html={page}")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page.read_text("utf-8")))
    metrics = json.loads((trained_run / "metrics.json").read_text())
    day = json.loads((trained_run / "status.json").read_text())["time"][:10]
    own, today = metrics["test"], datetime.datetime.now(datetime.timezone.utc).date()
    of = score_intervals(own["confusion"], list(own["per_class"]))["macro_f1"]
    assert of["value"] == pytest.approx(own["macro_f1"])
    assert (
        f"Run run, trained on {day}; macro-F1 on {own['rows']} test texts {of['value']:.3f} (95 % interval "
        f"{of['low']:.3f} to {of['high']:.3f}). Page of {today}."
    ) in text
    assert "In short: positive, because of “great”" in text


def test_a_run_without_scores_is_named_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    command.main(["starter", "so good", "--device=cpu", "--method=occlusion", f"--html={page}"])
    assert "Run <strong>starter</strong>;\nno scores are stored with it." in page.read_text("utf-8")
    assert "written to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("metrics.json", "[]", "metrics.json: the content is a list of 0, not an object"),
        ("metrics.json", '{"validation": {"confusion": [[1]]}}', "metrics.json: validation.rows is missing"),
        (
            "metrics.json",
            '{"test": {"confusion": [[-1, 2], [0, 1]], "rows": 2}, "metric": "x"}',
            "metrics.json: validation is missing",
        ),
        ("status.json", '{"time": "yesterday"}', "status.json: has no time; remove the file"),
        ("status.json", '{"time": 3}', "status.json: has no time"),
        ("status.json", "[", "status.json"),
    ],
)
def test_malformed_facts_are_an_error(
    trained_run: Path, tmp_path: Path, name: str, content: str, expected: str
) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run"))
    labels = RunFolder(run).read_json("labels.json")["labels"]
    assert facts_of(run, labels).score is not None
    (run / name).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        facts_of(run, labels)
    assert expected in str(caught.value)
    (run / name).unlink()
    facts_of(run, labels)


@pytest.fixture(scope="module")
def wide_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of long texts, tokens, labels and names, and a model of three layers."""
    page = tmp_path_factory.mktemp("print") / "page.html"
    classifier = untrained(layers=3, pooling="mean+max+last+attention", classes=5)
    classifier.labels = [f"{n} {'a very long name of a class ' * 2}" for n in range(5)]
    texts = ["great " * 70 + "incomprehensibilities" * 12, "W" * 300, HOSTILE, ""]
    found = [Explained(explanation=classifier.explain(text, method="occlusion")) for text in texts]
    score = HeldOutScore(split="test", rows=9, metric="macro-F1", value=0.5, low=0.25, high=0.75)
    facts = RunFacts(name="r" * 200, finished=datetime.date(2026, 2, 3), score=score)
    write_explanations(page, found, facts)
    return page


def test_nothing_of_a_page_is_cut_off_in_print(browser: Any, wide_page: Path) -> None:
    assert cut_off(browser, wide_page) == []


@pytest.mark.parametrize(("words", "most"), [(8, 2), (240, 14)])
def test_a_printed_explanation_has_few_pages(browser: Any, tmp_path: Path, words: int, most: int) -> None:
    """A review of 240 tokens was 31 pages."""
    classifier = untrained(pooling="mean+max")
    classifier.labels = ["negative", "neutral", "positive"]
    text = " ".join(itertools.islice(itertools.cycle(["the", "room", "was", "disappointing"]), words))
    found = Explained(explanation=classifier.explain(text, method="occlusion"))
    facts = RunFacts(name="run", finished=datetime.date(2026, 2, 3), score=None)
    write_explanations(tmp_path / "page.html", [found], facts)
    assert cut_off(browser, tmp_path / "page.html") == []
    assert printed_pages(browser, tmp_path / "page.html") <= most


@pytest.mark.parametrize(("truncate", "place"), [("head", 30), ("tail", 0), ("middle", 15)])
def test_the_page_marks_where_a_text_is_truncated(tmp_path: Path, truncate: str, place: int) -> None:
    classifier = untrained(max_tokens=30, truncate=truncate)
    words = [f"{word}{n}" for n, word in enumerate(["great", "zzz", "food"] * 14)]
    found = classifier.explain(" ".join(words), method="occlusion")
    facts = RunFacts(name="run", finished=None, score=None)
    write_explanations(tmp_path / "page.html", [Explained(explanation=found)], facts)
    plain = re.sub(r"<[^>]*>", " ", (tmp_path / "page.html").read_text("utf-8"))
    before = words[place - 1] if place else None
    marks = [match.start() for match in re.finditer(r"\[12 tokens not read\]", plain)]
    assert len(marks) == 3 + 1, "in the text coloured for each class, and in the table"
    kept = [*words[:place], *words[42 - (30 - place) :]]
    for mark in marks:
        last = re.findall("(?:great|zzz|food)[0-9]+", plain[:mark])
        following = re.findall("(?:great|zzz|food)[0-9]+", plain[mark:])
        assert before is None or last[-1] == before
        assert place == 30 or following[0] == kept[place]


def test_what_is_cut_off_is_detected(browser: Any, wide_page: Path) -> None:
    """On a screen of that width the same page is scrolled, and has closed details."""
    found = cut_off(browser, wide_page, media="screen")
    assert any(problem.startswith("hidden: <table") for problem in found)
    assert any(problem.startswith("must be scrolled") for problem in found)


def test_a_long_text_is_drawn_in_rows_of_the_same_scale() -> None:
    from lstm_sentiment.reporting.drawing import PAGE, reading, readings

    found = untrained().explain("great food is awful the room was my " * 5, method="occlusion")
    pictures = readings(found, "class 1")
    assert len(pictures) == 3
    assert all(picture.width <= PAGE for picture in pictures)
    whole = reading(found, "class 1")
    boxes = [box for picture in pictures for box in picture.boxes]
    assert len(boxes) == len(whole.boxes)
    sizes, of_whole = (
        sorted((box.tip, round(box.height, 6), box.opacity) for box in some) for some in (boxes, whole.boxes)
    )
    assert sizes == of_whole
    names = [[words.text for words in picture.words] for picture in pictures]
    assert sum(texts.count("great") for texts in names) == 10  # below attributions and gates
    assert "tokens 1 to 13 of 40" in pictures[0].title


def test_errors_of_files_are_sentiment_errors(trained: SentimentClassifier, tmp_path: Path) -> None:
    for choose in (numbered_rows, worst_rows):
        with pytest.raises(SentimentError):
            choose(trained, str(tmp_path / "none.csv"), [3] if choose is numbered_rows else 3)  # type: ignore[arg-type]
