"""The report: correct content, and correct display in a browser for any data."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from browsing import A4, check_page, cut_off, opened
from conftest import TINY, make_rows, write_csv
from sklearn.metrics import accuracy_score, f1_score

from lstm_sentiment import report
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import DataConfig, ModelConfig, TextConfig
from lstm_sentiment.data.corpus import original_texts, prepare
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import MissingExtraError, RunError, SentimentError
from lstm_sentiment.evaluation.significance import score_intervals
from lstm_sentiment.experiment.train import run
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.reporting.charts import by_length
from lstm_sentiment.reporting.error_analysis import (
    LISTED,
    Row,
    _shown,
    _with_original_texts,
    accuracy_by_length,
    doubtful_labels,
    gather,
)
from lstm_sentiment.reporting.report import write_report

HOSTILE = [
    "<script>document.title='owned'</script> awful",
    "<img src=x onerror=\"document.title='owned'\"> awful",
    "{{ 7 * 7 }} {% raw %} awful",
    "</td></table></main> awful",
    "\u202egnp.exe awful \x1b[31m",
    "<iframe src='http://127.0.0.1:9/'></iframe> awful",
]


@pytest.fixture
def own_run(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained run, with its cache."""
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(trained_run.parent / "cache"))
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


# -- content -----------------------------------------------------------------------------------------


def test_intervals_are_those_of_drawing_rows() -> None:
    """Resampled cells of a confusion matrix, against resampled rows."""

    def macro_f1(
        truth_R: np.ndarray, predicted_R: np.ndarray
    ) -> float:  # scikit-learn's takes a hundred times longer
        right_R = truth_R == predicted_R
        return float(
            np.mean(
                [
                    2 * right_R[truth_R == c].sum() / ((truth_R == c).sum() + (predicted_R == c).sum())
                    for c in range(3)
                ]
            )
        )

    confusion = [[50, 7, 3], [10, 20, 5], [0, 4, 31]]
    truth_R = np.repeat(np.repeat(np.arange(3), 3), np.ravel(confusion))
    predicted_R = np.repeat(np.tile(np.arange(3), 3), np.ravel(confusion))
    found = score_intervals(confusion, ["negative", "neutral", "positive"])
    random = np.random.default_rng(1)
    drawn = random.integers(0, len(truth_R), (1000, len(truth_R)))
    assert macro_f1(truth_R, predicted_R) == pytest.approx(f1_score(truth_R, predicted_R, average="macro"))
    assert found["accuracy"]["value"] == pytest.approx(accuracy_score(truth_R, predicted_R))
    for name, score in (("accuracy", lambda t, p: (t == p).mean()), ("macro_f1", macro_f1)):
        assert found[name]["value"] == pytest.approx(score(truth_R, predicted_R))
        low, high = np.percentile([score(truth_R[rows], predicted_R[rows]) for rows in drawn], [2.5, 97.5])
        assert found[name]["low"] == pytest.approx(low, abs=0.012)
        assert found[name]["high"] == pytest.approx(high, abs=0.012)


def test_wrong_labels_are_found_without_false_alarms() -> None:
    random = np.random.default_rng(0)
    truth_R = random.integers(0, 3, 600)
    probabilities_RC = random.dirichlet([1, 1, 1], 600) * 0.2
    probabilities_RC[np.arange(600), truth_R] += 0.8
    wrong = np.sort(random.choice(600, 30, replace=False))
    given_R = truth_R.copy()
    given_R[wrong] = (given_R[wrong] + 1) % 3
    found = doubtful_labels(given_R, probabilities_RC)
    assert set(found) <= set(wrong)
    assert len(found) >= 15, "those that are less sure than others of their class may be missed"
    own = probabilities_RC[found, given_R[found]]
    assert (np.diff(own) >= 0).all(), "the most doubtful first"


def test_a_class_without_rows_is_not_suggested() -> None:
    assert doubtful_labels(np.array([0, 0]), np.array([[0.1, 0.9], [0.9, 0.1]])).tolist() == []


def test_length_bins_have_each_row_once() -> None:
    random = np.random.default_rng(0)
    lengths_R, right_R = random.integers(1, 60, 500), random.random(500) < 0.7
    bins = accuracy_by_length(lengths_R, right_R)
    assert sum(of["rows"] for of in bins) == 500
    assert sum(of["rows"] * of["accuracy"] for of in bins) == pytest.approx(right_R.sum())
    for of, after in itertools.pairwise(bins):
        assert of["longest"] < after["shortest"]
    assert all(of["low"] <= of["accuracy"] <= of["high"] for of in bins)
    assert len(accuracy_by_length(np.full(9, 4), np.ones(9, bool))) == 1


def test_evidence_is_the_prediction_of_the_classifier(own_run: Path) -> None:
    classifier = load(own_run, device="cpu")
    config = classifier.config
    corpus = prepare(config.data, config.text, seed=config.seed, cache=cache_folder())
    evidence = gather(classifier, corpus, seed=0)
    rows = make_rows(240)
    metrics = json.loads((own_run / "metrics.json").read_text())
    assert corpus.test is not None
    assert sum(of["rows"] for of in evidence["reliability"]["after"]) == len(corpus.test)
    ece = sum(of["rows"] * abs(of["accuracy"] - of["confidence"]) for of in evidence["reliability"]["after"])
    assert ece / len(corpus.test) == pytest.approx(metrics["test"]["ece"], abs=1e-6)
    for row in [*evidence["mistakes"], *evidence["doubtful"]]:
        text, label = rows[row.line - 2]  # below the header
        assert row.given == label
        answer = classifier.predict(text)[0]
        assert answer.label == row.predicted
        assert answer.probabilities[label] == pytest.approx(row.given_probability, abs=1e-5)
        assert (row.text, row.original) == (text, True)
    wrong = metrics["test"]["rows"] - sum(metrics["test"]["confusion"][i][i] for i in range(3))
    assert len(evidence["mistakes"]) == min(LISTED, wrong)


ODD = ["  GREAT Food!!  It's “so” good", "Awful\tplace,\n\nNEVER again", "<b>Okay</b> \x1b[31m I guess"]


def odd_corpus(folder: Path, monkeypatch: pytest.MonkeyPatch, **data: Any) -> tuple[Any, Any]:
    """Return an untrained classifier, and rows that do not look like their tokens; line 2 is left out."""
    monkeypatch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
    texts = ["out", *ODD, *ODD[:2]]
    frame = pd.DataFrame({"text": texts, "label": list("npnpnn"), "kept": [0, 1, 1, 1, 1, 1]})
    frame.to_csv(folder / "odd.csv", index=False)
    config = Config(
        data=DataConfig(train=str(folder / "odd.csv"), filter={"kept": 1}, deduplicate=False, **data),
        model=ModelConfig(embedding_size=4, hidden_size=4),
    )
    corpus = prepare(config.data, config.text, seed=0, cache=cache_folder())
    torch.manual_seed(1)
    return SentimentClassifier(labels=corpus.labels, vocabulary=corpus.vocabulary, config=config), corpus


def rows_shown(classifier: Any, corpus: Any) -> list[Row]:
    evidence = gather(classifier, corpus, seed=0)
    return [*evidence["mistakes"], *evidence["doubtful"]]


def test_texts_are_shown_as_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, corpus = odd_corpus(tmp_path, monkeypatch, validation=None, test=None)
    shown = {row.text: row for row in rows_shown(classifier, corpus)}
    assert shown
    assert set(shown) <= {text.strip().replace("\x1b", "\\x1b") for text in ODD}
    assert all(row.original and "\x1b" not in text for text, row in shown.items())


@pytest.mark.parametrize("fault", ["gone", "changed", "not a table"])
def test_texts_that_cannot_be_read_again_are_shown_as_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    classifier, corpus = odd_corpus(tmp_path, monkeypatch, validation=None, test=None)
    before = rows_shown(classifier, corpus)
    file = tmp_path / "odd.csv"
    if fault == "gone":
        file.unlink()
    else:
        file.write_text(file.read_text().replace("good", "bad").replace("place", "").replace("guess", "x"))
        if fault == "not a table":
            file.write_bytes(b"\x80\x04")
    after = rows_shown(classifier, corpus)
    assert [(row.line, row.given) for row in after] == [(row.line, row.given) for row in before]
    assert not any(row.original for row in after)
    assert {row.text for row in after} <= {_shown(" ".join(classifier.tokens(text))) for text in ODD}


def test_a_url_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, corpus = odd_corpus(tmp_path, monkeypatch, validation=None, test=None)
    rows = [replace(row, file="https://example.org/odd.csv") for row in rows_shown(classifier, corpus)]
    monkeypatch.setattr("lstm_sentiment.reporting.error_analysis.original_texts", pytest.fail)
    assert _with_original_texts(rows, classifier.config.data) == rows


def test_phrases_of_a_sentence_keep_their_texts(tmp_path: Path) -> None:
    """They are in one line of the file."""
    trees = tmp_path / "trees.txt"
    trees.write_text("(1 (1 Good) (0 BAD))\n(0 (0 Dire) (1 FINE))\n" * 3)
    data = DataConfig(train=str(trees), phrases=0.5, deduplicate=False, validation=None, test=None)
    store = prepare(data, TextConfig(), seed=0, cache=tmp_path / "cache").train.store
    found = original_texts(str(trees), data, range(len(store.lines)))
    assert {"Good BAD", "Good", "BAD", "Dire FINE", "Dire", "FINE"} == set(found.values())
    for row, text in found.items():
        ids = store.ids_N[store.offsets[row] : store.offsets[row + 1]]
        assert text.lower().split() == [store.tokens[i] for i in ids]


def test_long_texts_are_cut_in_the_table() -> None:
    assert _shown("x" * 1000) == "x" * 1000
    assert _shown("x" * 1001) == "x" * 1000 + " …"


def test_a_wrong_label_in_the_file_is_named_with_its_line(
    tmp_path: Path, configure: Callable[..., Config]
) -> None:
    rows = make_rows(400, seed=3, longest=6)
    places = [i for i, (_, label) in enumerate(rows) if label == "positive"][:12]
    for i in places:
        rows[i] = (rows[i][0], "negative")
    data = write_csv(tmp_path / "rows.csv", rows)
    config = configure(f"--data.train={data}", "--text.min_frequency=2", "--text.subwords=0")
    run(config)
    classifier = load(config.out, device="cpu")
    corpus = prepare(config.data, config.text, seed=config.seed, cache=cache_folder())
    doubtful = gather(classifier, corpus, seed=0)["doubtful"]
    assert {row.line for row in doubtful} <= {i + 2 for i in places}
    assert len(doubtful) >= 4
    assert {(row.given, row.predicted) for row in doubtful} == {("negative", "positive")}


@pytest.fixture
def frozen_run(trained_run: Path, tmp_path: Path) -> Path:
    """A cross-validated run over the frozen LSTM of the trained run, with wrong labels."""
    rows = make_rows(150, seed=3)
    rows = [(text, "neutral" if i % 15 == 0 else label) for i, (text, label) in enumerate(rows)]
    data = write_csv(tmp_path / "rows.csv", rows)
    argv = [f"--data.train={data}", f"--out={tmp_path / 'frozen'}", f"--pretrained={trained_run}"]
    given = [*argv, "--adapt=frozen", "--data.validation=null", "--data.test=0.2", "--trainer.threads=1"]
    run(parse_config(given, program="test", description=""))
    torch.set_flush_denormal(False)
    return tmp_path / "frozen"


def text_of_report(folder: Path) -> str:
    page = write_report(folder, device="cpu").read_text("utf-8")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_labels_of_fitted_rows_are_not_cleared(frozen_run: Path) -> None:
    """The model knows its training rows; predictions of these find no wrong label."""
    page = re.sub(
        r"\s+", " ", re.sub(r"<[^>]+>", " ", write_report(frozen_run, device="cpu").read_text("utf-8"))
    )
    section = page[page.index("Rows whose label looks wrong") : page.index("Unknown words")]
    rows = json.loads((frozen_run / "data.json").read_text())["splits"]
    assert f"{rows['test']['rows']} test rows" in section
    assert f"{rows['train']['rows']} train rows" not in section
    assert f"The {rows['train']['rows']} training rows are not among these" in section
    assert "lstm-sentiment suspects RUN" in section
    assert "out: frozen" in page


def test_labels_of_rows_that_are_not_fitted_are_looked_at(own_run: Path) -> None:
    """The control: an LSTM alone, with validation rows."""
    page = re.sub(
        r"\s+", " ", re.sub(r"<[^>]+>", " ", write_report(own_run, device="cpu").read_text("utf-8"))
    )
    rows = json.loads((own_run / "data.json").read_text())["splits"]
    assert f"{rows['train']['rows']} train rows" in page
    assert "suspects RUN" not in page


def test_drawing_prints_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Training logs at this level, and matplotlib may log class names."""
    bins = accuracy_by_length(np.array([5, 5, 7, 7]), np.array([True, False, True, True]))
    with caplog.at_level("INFO"):
        assert "7 tokens 1.00" in by_length(bins)
    assert caplog.messages == []


def test_the_report_has_the_scores_of_the_run(own_run: Path) -> None:
    page = write_report(own_run, device="cpu").read_text("utf-8")
    metrics = json.loads((own_run / "metrics.json").read_text())
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert f"{metrics['test']['macro_f1']:.3f}" in text
    assert f"{metrics['parameters']:,} parameters" in text
    for count in np.ravel(metrics["test"]["confusion"]):
        assert f" {count} " in text
    assert "Without individual rows" not in text


@pytest.mark.parametrize("fault", ["gone", "changed"])
def test_without_its_rows_the_report_says_so(
    configure: Callable[..., Config], reviews: Path, fault: str
) -> None:
    config = configure("--trainer.epochs=1")
    run(config)
    write_csv(reviews, make_rows(240, seed=9))
    if fault == "gone":
        reviews.unlink()
    page = write_report(config.out, device="cpu").read_text("utf-8")
    assert "Without individual rows" in page
    assert "The most confident mistakes" not in page
    assert "Confusion matrix" in page


def test_an_unfinished_run_has_no_report(own_run: Path) -> None:
    (own_run / "metrics.json").unlink()
    with pytest.raises(RunError, match="needs a finished run"):
        write_report(own_run, device="cpu")
    assert not (own_run / "report.html").exists()


def test_without_the_extra_training_does_not_begin(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    config = configure("--report=true")
    with pytest.raises(MissingExtraError, match=r"lstm_sentiment\[report\]"):
        run(config)
    assert not Path(config.out).exists()


def test_the_command(own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(own_run), "--device", "cpu"])
    assert capsys.readouterr().out == f"written to {own_run / 'report.html'}\n"
    with pytest.raises(SentimentError):
        report.main([str(own_run / "nowhere")])


# -- display -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a report on hostile texts and labels."""
    folder = tmp_path_factory.mktemp("hostile")
    labels = {"negative": "<b>neg</b>", "neutral": "neutral", "positive": 'pos & "quoted"'}
    rows = [(text, labels[label]) for text, label in make_rows(180)]
    rows += [(f"{text} {i}", labels["positive"]) for i in range(5) for text in HOSTILE]
    quoted = [(text.replace('"', '""'), '"' + label.replace('"', '""') + '"') for text, label in rows]
    data = write_csv(folder / "<i>data.csv", quoted)
    argv = [f"--data.train={data}", f"--out={folder / 'run'}", *TINY, "--trainer.epochs=3", "--report=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LSTM_SENTIMENT_CACHE", str(folder / "cache"))
        run(parse_config(argv, program="test", description=""))
    return folder / "run" / "report.html"


def test_errors_and_requests_of_a_page_are_detected(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("<img src='other.png'><script>console.error('x'); nothing()</script>")
    page, reported, asked = opened(browser, file)
    assert len(reported) >= 2
    assert any(url.endswith("other.png") for url in asked)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_report(browser: Any, hostile_run: Path, scheme: str) -> None:
    check_page(browser, hostile_run, scheme, pictures=3)


def test_nothing_of_the_report_is_cut_off_in_print(browser: Any, hostile_run: Path) -> None:
    assert cut_off(browser, hostile_run) == []


WRAPPED = """() => [...document.querySelectorAll("td")]
    .filter((cell) => cell.firstChild?.textContent === "neutral")
    .map((cell) => {
        const range = document.createRange();
        range.selectNodeContents(cell.firstChild);
        return range.getClientRects().length;
    })"""


def test_names_of_classes_are_on_one_line_in_print(browser: Any, hostile_run: Path) -> None:
    page = browser.new_page(viewport={"width": A4, "height": 1000})
    page.goto(hostile_run.as_uri())
    page.emulate_media(media="print")
    page.evaluate("document.querySelectorAll('td.text').forEach((of) => of.append(' word'.repeat(60)))")
    assert set(page.evaluate(WRAPPED)) == {1}
    page.add_style_tag(content="@media print { th, td { min-width: 0 !important; } }")
    assert max(page.evaluate(WRAPPED)) > 1, "the control: columns as narrow as possible"
    page.close()


def test_hostile_text_is_escaped(browser: Any, hostile_run: Path) -> None:
    page = browser.new_page()
    page.goto(hostile_run.as_uri())
    assert page.title().startswith("Report of")
    assert page.locator("script, img, iframe, main b, main i").count() == 0
    shown = page.inner_text("body")
    assert "<b>neg</b>" in shown
    assert 'pos & "quoted"' in shown
    assert "\x1b" not in hostile_run.read_text("utf-8")
    page.close()
