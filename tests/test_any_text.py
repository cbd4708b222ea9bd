"""Any text is predicted: no character, number or length makes a tokenizer raise or take quadratic time."""

from __future__ import annotations

import html
import io
import json
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

from lstm_sentiment import explain, predict, train
from lstm_sentiment.deployment.exporter import export, load_runtime
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.text.encoder import Encoder
from lstm_sentiment.text.tokenization import MOST_MARKS, clean
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer

DIGITS = "9" * 5000
# Each once crashed a command, or is a variant of one that did.
ODD = {
    "a number of 5,000 digits": f"&#{DIGITS};",
    "5,000 leading zeros": f"&#{'0' * 5000}65;",
    "a hexadecimal number": f"&#x{'f' * 5000};",
    "many references": "&#" * 2000,
    "an escaped reference": f"\\u0026#{DIGITS};",
    "digits": DIGITS,
    "half characters": "\ud800 \udfff\ud83d",
    "escaped half characters": "\\ud800" * 1000,
    "NUL": "\0",
    "separators": "\x1c\x1d\x1e\x1f\x85\u2028\u2029\u200b\ufeff",
    "marks": "a" + "\u0301\u0323" * 2000,
    "nothing but marks": "\u0323\u0301" * 2000,
    "the longest decomposition": "\ufdfa" * 1000,
    "capital with dot": "İ" * 1000,
    "no spaces": "a" * 100_000,
    "nothing": "",
    "white space": " \t",
}
LARGE = {
    "alternating marks": "\u0301\u0323" * 100_000,
    "marks behind letters": "a\u0323\u0301" * 60_000,
    "a reference of a million digits": "&#" + "9" * 1_000_000,
    "a million zeros": "&#" + "0" * 1_000_000,
    "ampersands": "&" * 200_000,
    "a name without end": "&" + "a" * 200_000,
    "joined emoji": "😀\u200d" * 100_000,
    "numbers": "1." * 200_000,
    "hyphens": "a-" * 200_000,
    "mouths and eyes": ":-" * 200_000,
    "negations": "n't" * 100_000,
    "tags": "<br " * 100_000,
    "escapes": "\\u00e9" * 100_000,
}


def test_the_texts_break_a_naive_decoder() -> None:
    """The control: the standard library raises on the first two, and sorts marks in quadratic time."""
    for name in ("a number of 5,000 digits", "5,000 leading zeros"):
        with pytest.raises(ValueError, match="4300 digits"):
            html.unescape(ODD[name])
    seconds = []
    for count in (4_000, 16_000):
        started = time.process_time()
        unicodedata.normalize("NFC", "\u0301\u0323" * count)
        seconds.append(time.process_time() - started)
    assert seconds[1] > 8 * seconds[0], "four times the marks take at least eight times as long"


def test_invalid_character_references_are_replaced() -> None:
    assert clean(f"a &#{DIGITS}; b") == "a \ufffd b"
    assert clean(f"&#{'0' * 5000}65;") == "A"
    assert clean("&#00000065; &#0; &#65 &#x41; &#x110000; &#12345678;") == "A \ufffd A A \ufffd \ufffd"
    for number in (0, 9, 38, 128, 1114111, 1114112, 9999999):
        assert clean(f"&#{number};") == html.unescape(f"&#{number};")


def test_long_runs_of_combining_marks_are_truncated() -> None:
    few, many = "a" + "\u0301" * MOST_MARKS, "a" + "\u0301" * (MOST_MARKS + 5) + "b"
    assert clean(few) == unicodedata.normalize("NFC", few)
    assert clean(many) == unicodedata.normalize("NFC", few + "b")
    assert clean("क्षत्रिय" * 20) == unicodedata.normalize("NFC", "क्षत्रिय" * 20)


@pytest.mark.parametrize("normalize", ["none", "escapes+negation"])
@pytest.mark.parametrize("text", [*ODD.values(), *LARGE.values()], ids=[*ODD, *LARGE])
def test_every_tokenization_path_is_fast(text: str, normalize: str) -> None:
    tokenizer = Tokenizer("words", lowercase=True, normalize=normalize)
    encode = Encoder({}, lowercase=True, max_tokens=10**6, truncate="head", subwords=50, normalize=normalize)
    started = time.process_time()
    tokens = tokenizer(text)
    numbers_N, lengths_R = (lexicon := Lexicon(tokenizer)).encode([text, "good"])
    row = encode(text)
    assert time.process_time() - started < 6
    assert [lexicon.tokens[i] for i in numbers_N[: lengths_R[0]]] == tokens
    assert row == (tokens or [1])


@pytest.mark.parametrize("name", ["basic_english", "toktok"])
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_torchtext_tokenizers_work(text: str, name: str) -> None:
    if name == "toktok":
        pytest.importorskip("nltk")
    assert all(isinstance(token, str) for token in Tokenizer(name, lowercase=True)(text))


# -- commands ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(trained_run: Path) -> SentimentClassifier:
    return load(trained_run, device="cpu")


@pytest.fixture(scope="module")
def runtime(
    classifier: SentimentClassifier, trained_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> object:
    folder = tmp_path_factory.mktemp("export") / "onnx"
    export(classifier, trained_run, folder)
    return load_runtime(folder)


def test_odd_texts_are_predicted_and_do_not_affect_others(
    classifier: SentimentClassifier, runtime: object
) -> None:
    texts = [text for odd in ODD.values() for text in ("good", odd, "bad")]
    for answer in (classifier.predict_proba, runtime.predict_proba):  # type: ignore[attr-defined]
        found_RC = answer(texts)
        assert np.isfinite(found_RC).all()
        np.testing.assert_allclose(found_RC[::3], answer(["good"]).repeat(len(ODD), axis=0), atol=1e-6)
        np.testing.assert_allclose(found_RC[1::3], [answer([odd])[0] for odd in ODD.values()], atol=1e-6)


LINES = [odd for odd in ODD.values() if not set(odd) & set("\x1c\x1d\x1e\x85\u2028\u2029\ud800\0")]


def test_lines_around_an_odd_one_are_predicted(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin = io.TextIOWrapper(io.BytesIO("\n".join(["good", *LINES, "bad"]).encode()), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    predict.main([str(trained_run)])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == ["good", *LINES, "bad"]


def test_a_file_with_odd_texts_is_labelled(trained_run: Path, tmp_path: Path) -> None:
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    rows.write_text("".join(json.dumps({"text": odd}) + "\n" for odd in ODD.values()), encoding="utf-8")
    predict.main([str(trained_run), "--file", str(rows), "--out", str(out)])
    assert len(out.read_text("utf-8").splitlines()) == len(ODD)


def test_odd_texts_are_trained_on(tmp_path: Path) -> None:
    rows = [{"text": f"{odd} {i}", "label": "ab"[i % 2]} for odd in ODD.values() for i in range(6)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    more = ["--trainer.epochs=1", "--text.max_tokens=50", "--text.normalize=escapes+negation"]
    train.main([f"--data.train={file}", f"--out={tmp_path / 'run'}", *TINY, *more])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]


@pytest.mark.parametrize("odd", [name for name in ODD if name not in ("NUL", "half characters")])  # of argv
def test_odd_texts_are_explained(trained_run: Path, odd: str, capsys: pytest.CaptureFixture[str]) -> None:
    explain.main([str(trained_run), f"good {ODD[odd]} bad"])
    assert "good" in capsys.readouterr().out
