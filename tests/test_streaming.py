"""A text in pieces: the same tokens, and the same bits, as the whole text, however it is cut."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lstm_sentiment.config.schema import Config
from lstm_sentiment.deployment import exporter
from lstm_sentiment.errors import CheckpointError, ConfigError, DataError
from lstm_sentiment.evaluation.calibration import LEVELS, Calibration
from lstm_sentiment.kernels import lstm as kernel
from lstm_sentiment.kernels.library import library
from lstm_sentiment.models.network import TfidfBranch, WideAndDeep
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.text import token_stream
from lstm_sentiment.text.token_stream import TokenStream, joins
from lstm_sentiment.text.tokenization import LONGEST_PIECE
from lstm_sentiment.text.tokenizers import Tokenizer, Vocabulary

WORDS = ["good", "bad", "so", "not", "n't", "i", "我", "<url>", "!!!", "cheap", "'s", "don't", "o"]
# Whatever the tokenizer treats in its own way, whole and in parts.
PARTS = [
    *("good", "Goood ", "bad ", "n't", "don't", "so-so", "x", " ", "\n", "\xa0", "\x1c", "\u2028", "'", "'s"),
    *(
        "<br",
        "<br />",
        "<BR>",
        "/>",
        ">",
        "/",
        "<",
        "<3",
        "&",
        "&amp;",
        "&am",
        "p;",
        "&#",
        "&#0",
        "39;",
        "&#x",
    ),
    *(
        "41;",
        "&#32;",
        "&nbsp;",
        "&notit;",
        "&lt;",
        "#",
        "#so",
        "Σ",
        "ΟΔΟΣ",
        "ς",
        ".",
        "\u0301",
        "e",
        "I",
        "İ",
    ),
    *(
        "\u0307",
        "\u0345",
        "\u200b",
        "\xad",
        "\u200d",
        "’",
        "我",
        "爱",
        "ไ",
        "๓",
        "3.5",
        "3",
        "https://",
        "www.",
    ),
    *("@", "@bob", ":-", ")", ":(", "😀", "\U0001f3fb", "🇩", "\ud83d", "\ude00", "\\u", "\\ud83d", "\\ude00"),
    *(
        "\\u2019",
        "\\u0041",
        "\\",
        "00",
        "\u1100",
        "\u1161",
        "각",
        "\u0bc6",
        "\u0bbe",
        "^_",
        "^",
        "!",
        "?",
        "...",
    ),
    *("-", "か", "\u3099", "\u0f71\u0f72", "\x00", "a" * 70),
]
TEXTS = st.lists(st.one_of(st.sampled_from(PARTS), st.characters(codec=None)), max_size=16).map("".join)
CUTS = st.lists(st.integers(1, 6), min_size=1, max_size=8)
NORMALIZE = ["none", "escapes", "negation", "escapes+negation"]


def in_pieces(text: str, sizes: list[int]) -> list[str]:
    """Cut a text into pieces of these lengths, over and over."""
    pieces, start, turn = [], 0, 0
    while start < len(text):
        pieces.append(text[start : start + sizes[turn % len(sizes)]])
        start, turn = start + len(pieces[-1]), turn + 1
    return pieces


def streamed(normalize: str, *, lowercase: bool) -> TokenStream:
    return TokenStream(lowercase=lowercase, escapes="escapes" in normalize, negation="negation" in normalize)


def differs(text: str, sizes: list[int], normalize: str, *, lowercase: bool) -> bool:
    """Whether the tokens after any piece are not those of the text so far."""
    tokenize = Tokenizer("words", lowercase=lowercase, normalize=normalize)
    stream, settled, so_far = streamed(normalize, lowercase=lowercase), list[str](), ""
    for piece in in_pieces(text, sizes):
        so_far += piece
        settled += stream.add(piece)
        if settled + stream.rest() != tokenize(so_far):
            return True
    return False


@settings(max_examples=400, deadline=None)
@given(TEXTS, CUTS, st.sampled_from(NORMALIZE), st.booleans())
@example("Fish &amp; chips<br />so <br   / ><br\n>", [1], "none", True)
@example("ΟΔΟΣ ΟΔΟΣ'", [1], "none", True)
@example("it\\u2019s \\ud83d\\ude00", [1], "escapes", True)
@example("@bob我们 我们很好https://a我b", [1], "negation", False)
@example("<br<br>/>", [5], "none", False)
def test_any_cut_gives_the_tokens_of_the_whole_text(
    text: str, sizes: list[int], normalize: str, lowercase: bool
) -> None:
    assert not differs(text, sizes, normalize, lowercase=lowercase)


@pytest.mark.parametrize("stage", ["_Escapes", "_Case", "_LineBreaks", "_Entities", "_Characters"])
def test_each_stage_is_needed(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """The control: a stage that holds nothing back gives other tokens."""
    texts = ["\\u2019", "ΟΔΟΣ", "İI\u0307", "<br />", "&amp;", "e\u0301"]
    assert not any(differs(text, [1], "escapes", lowercase=True) for text in texts)
    monkeypatch.setattr(getattr(token_stream, stage), "_settled", lambda _, text: len(text))
    assert any(differs(text, [1], "escapes", lowercase=True) for text in texts)


ENDLESS = [
    "a",
    "我",
    "&#0",
    "9",
    "<br ",
    "<br",
    "&",
    "\u0301",
    "\u0902",
    "\\u2019",
    "http://x",
    "!",
    "Σa",
    " ",
]


@pytest.mark.parametrize("part", ENDLESS)
def test_memory_is_constant(part: str) -> None:
    """Even without white space: what is held back is never longer than a word can be."""
    stream, text = streamed("escapes", lowercase=True), part * (30_000 // len(part))
    settled = [token for piece in in_pieces(text, [3000]) for token in stream.add(piece)]
    held = [*(stage.pending for stage in stream._stages), stream._words._pending]
    assert sum(map(len, held)) <= LONGEST_PIECE + 40
    assert settled + stream.rest() == Tokenizer("words", lowercase=True, normalize="escapes")(text)


def test_characters_that_join_nothing_can_be_composed_separately() -> None:
    """Over all of Unicode: neither is any of the others the second of a composition, nor a mark."""
    seconds = set()
    for code in range(0x110000):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(chr(int(parts[1], 16)))
    for code in range(0x110000):
        if not joins(chr(code)):
            first = unicodedata.normalize("NFD", chr(code))[0]
            assert first not in seconds, hex(code)
            assert not unicodedata.combining(first), hex(code)


def make_classifier(*, kind: str = "learned", ngrams: int = 0, shares: Any = None, **model: Any) -> Any:
    """Return a forward-only classifier with random weights."""
    torch.manual_seed(3)
    config = Config()
    sizes = {"embedding_size": 8, "hidden_size": 16, "bidirectional": False, **model}
    config = replace(
        config,
        model=replace(config.model, ngrams=ngrams, ngram_kind=kind, **sizes),
        text=replace(config.text, subwords=50, max_tokens=10_000, normalize="negation"),
    )
    classifier = SentimentClassifier(
        labels=["bad", "so-so", "good"],
        vocabulary=Vocabulary(WORDS),
        config=config,
        calibration=Calibration(temperature=0.7, thresholds=np.linspace(1, 0, LEVELS + 1).tolist()),
        device="cpu",
    )
    network = classifier.model
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        if isinstance(network, WideAndDeep):
            network.shares.copy_(torch.tensor(shares or [0.8, 0.5]))
            network.ngrams.weights.weight[0] = 0.0
            if isinstance(network.ngrams, TfidfBranch):
                network.ngrams.idf[2:].uniform_(0, 2)
    return classifier


CLASSIFIERS = {
    "compiled": make_classifier(),
    "compiled, two layers": make_classifier(layers=2, pooling="last+mean+max"),
    "nn.LSTM": make_classifier(hidden_size=15, pooling="last+mean+max"),
    "nn.LSTM, two layers": make_classifier(hidden_size=5, layers=2),
    "attention": make_classifier(pooling="attention+max"),
    "n-grams": make_classifier(ngrams=20),
    "TF-IDF": make_classifier(ngrams=20, kind="tfidf"),
    "TF-IDF alone": make_classifier(ngrams=20, kind="tfidf", bidirectional=True, shares=[0.0, 1.3]),
}
needs_kernels = pytest.mark.skipif(
    not hasattr(library(), "lstm_continue"),
    reason="the compiled kernels are missing or older than the sources",
)


def after_each_piece(classifier: SentimentClassifier, pieces: list[str]) -> list[list[float]]:
    stream = classifier.stream()
    return [list(stream.add(piece).probabilities.values()) for piece in pieces]


@needs_kernels
@pytest.mark.parametrize("name", ["compiled", "compiled, two layers"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=TEXTS, sizes=CUTS)
@example(text="good bad so not goood unseen " * 20, sizes=[7, 40, 1])
def test_any_cut_gives_the_bits_of_the_whole_text(name: str, text: str, sizes: list[int]) -> None:
    classifier, pieces = CLASSIFIERS[name], ["", *in_pieces(text, sizes)]
    found = after_each_piece(classifier, pieces)
    so_far = ["".join(pieces[: count + 1]) for count in range(len(pieces))]
    expected = [list(classifier.predict(text)[0].probabilities.values()) for text in so_far]
    assert found == expected


@pytest.mark.parametrize("name", CLASSIFIERS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=TEXTS, sizes=CUTS)
@example(text="good bad good bad goood so good bad 我我 " * 9, sizes=[7, 40, 1])
def test_every_model_gives_the_probabilities_of_the_whole_text(
    name: str, text: str, sizes: list[int]
) -> None:
    classifier, pieces = CLASSIFIERS[name], in_pieces(text, sizes) or [""]
    found = after_each_piece(classifier, pieces)
    for count in range(1, len(pieces) + 1):
        expected = classifier.predict_proba("".join(pieces[:count]))[0]
        np.testing.assert_allclose(found[count - 1], expected, atol=2e-6)


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if "TF-IDF" not in name and name != "n-grams"])
def test_any_cut_gives_the_same_bits(name: str) -> None:
    """Also where the whole text at once is summed in another order, by nn.LSTM or for attention."""
    text = "good bad good, bad goood so 我我 don't " * 5
    ends = [after_each_piece(CLASSIFIERS[name], in_pieces(text, sizes))[-1] for sizes in ([1], [9, 2], [999])]
    assert ends[0] == ends[1] == ends[2]


@needs_kernels
def test_the_state_matters() -> None:
    """The control: a layer that starts anew at each piece gives other bits."""
    classifier = CLASSIFIERS["compiled"]
    lstm, values_TX = classifier.model.forward_lstms[0], torch.randn(6, 8)
    first_TH, state = kernel.read_on(values_TX[:3], None, lstm)
    whole_TH = kernel.read_on(values_TX, None, lstm)[0]
    assert torch.equal(torch.cat([first_TH, kernel.read_on(values_TX[3:], state, lstm)[0]]), whole_TH)
    assert not torch.equal(torch.cat([first_TH, kernel.read_on(values_TX[3:], None, lstm)[0]]), whole_TH)


def test_a_prediction_has_the_options_of_predict() -> None:
    classifier = CLASSIFIERS["compiled"]
    stream = classifier.stream(coverage=0.9, abstain_below=0.99)
    assert stream.add("") == classifier.predict("", coverage=0.9, abstain_below=0.99)[0]
    assert stream.add("good b") == classifier.predict("good b", coverage=0.9, abstain_below=0.99)[0]
    with pytest.raises(ConfigError, match="coverage"):
        classifier.stream(coverage=2)
    with pytest.raises(ConfigError, match="abstain_below"):
        classifier.stream(abstain_below=2)


def test_streams_do_not_truncate() -> None:
    classifier = CLASSIFIERS["compiled"]
    short = make_classifier()
    short.config = replace(short.config, text=replace(short.config.text, max_tokens=3))
    assert short.stream().add("good bad so not cheap") == classifier.predict("good bad so not cheap")[0]


def test_streams_are_independent_and_an_error_changes_nothing() -> None:
    classifier = CLASSIFIERS["TF-IDF"]
    one, other = classifier.stream(), classifier.stream()
    one.add("good go")
    other.add("bad ")
    with pytest.raises(DataError, match="must be a string, not bytes"):
        one.add(b"bad")  # type: ignore[arg-type]
    assert one.add("od").score == pytest.approx(classifier.predict("good good")[0].score, abs=1e-6)


def test_bidirectional_models_are_refused(trained_run: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.bidirectional.*reads a text from its end.*false"):
        load(trained_run, device="cpu").stream()


def test_other_tokenizers_are_refused() -> None:
    classifier = make_classifier()
    text = replace(classifier.config.text, normalize="none", tokenizer="toktok")
    classifier.config = replace(classifier.config, text=text)
    with pytest.raises(ConfigError, match=r"text\.tokenizer.*needs the whole text"):
        classifier.stream()


def test_invalid_weights_are_an_error() -> None:
    classifier = make_classifier()
    with torch.no_grad():
        classifier.model.head.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="non-finite"):
        classifier.stream().add("good")


@pytest.mark.parametrize(("name", "int8"), [*((name, False) for name in CLASSIFIERS), ("TF-IDF", True)])
def test_the_exported_model_reads_in_pieces_too(
    name: str, int8: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "check_texts", lambda *_: ["", "good bad goood 我我 so", "x" * 70] * 2)
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    (run / "best" / "model.safetensors").write_bytes(b"")
    classifier = CLASSIFIERS[name]
    exporter.export(classifier, run, tmp_path / "onnx", stream=True, int8=int8)
    runtime = exporter.load_runtime(tmp_path / "onnx")
    text = "good bad good bad goood, so  gooood bad <br /> 我我 n't " * 3
    stream, reference, so_far = runtime.stream(coverage=0.9), classifier.stream(coverage=0.9), ""
    for piece in ["", *in_pieces(text, [7, 1, 30])]:
        so_far += piece
        found, expected = stream.add(piece), reference.add(piece)
        assert found.unread == expected.unread == (so_far == "")
        if int8:  # another model: that of the same file which reads at once
            np.testing.assert_allclose(
                list(found.probabilities.values()), runtime.predict_proba(so_far)[0], atol=1e-5
            )
            continue
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
        assert found.label_set == expected.label_set


def test_an_export_without_streams_says_so(trained_run: Path, tmp_path: Path) -> None:
    classifier = load(trained_run, device="cpu")
    with pytest.raises(ConfigError, match=r"model\.bidirectional"):
        exporter.export(classifier, trained_run, tmp_path / "onnx", stream=True)
    assert not (tmp_path / "onnx").exists()
    exporter.export(classifier, trained_run, tmp_path / "onnx")
    with pytest.raises(ValueError, match="export it again with --stream"):
        exporter.load_runtime(tmp_path / "onnx").stream()
    assert not (tmp_path / "onnx" / "stream.onnx").exists()
