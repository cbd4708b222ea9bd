"""Explanations against plain references, the gates against nn.LSTM, and the command."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import check_page
from conftest import CLUES

import lstm_sentiment
from lstm_sentiment import explain as command
from lstm_sentiment.cli.characters import cells_of
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import POOLINGS, ModelConfig, TextConfig
from lstm_sentiment.errors import ConfigError, DataError, MissingExtraError
from lstm_sentiment.evaluation.calibration import Calibration
from lstm_sentiment.explanation import attribution as explanation
from lstm_sentiment.explanation import wording
from lstm_sentiment.explanation.attribution import explain
from lstm_sentiment.explanation.gates import look_inside
from lstm_sentiment.models.cells import LSTM
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.reporting.drawing import reading, removal
from lstm_sentiment.text.tokenizers import Vocabulary

TEXT = "the room was great and my food is awful today"
KINDS = {
    "default": {},
    "one direction, last": {"bidirectional": False, "pooling": "last"},
    "two layers, attention": {"layers": 2, "pooling": "attention"},
    "three layers, all pooling": {"layers": 3, "pooling": "+".join(POOLINGS)},
}


def untrained(
    *,
    subwords: int = 500,
    max_tokens: int = 400,
    truncate: Any = "middle",
    classes: int = 3,
    **model: object,
) -> SentimentClassifier:
    """Return a classifier with large random weights, so that its predictions differ clearly."""
    torch.manual_seed(3)
    config = Config(
        model=ModelConfig(embedding_size=6, hidden_size=5, **model),  # type: ignore[arg-type]
        text=TextConfig(subwords=subwords, max_tokens=max_tokens, truncate=truncate),
    )
    words = ["the", "room", "was", "great", "and", "my", "food", "is", "awful"]
    classifier = SentimentClassifier(
        labels=[f"class {i}" for i in range(classes)],
        vocabulary=Vocabulary(words),
        config=config,
        calibration=Calibration(temperature=0.7),
    )
    with torch.no_grad():
        for parameter in classifier.model.parameters():
            parameter.mul_(2.0)
    return classifier


@pytest.fixture(scope="module")
def trained(trained_run: Path) -> SentimentClassifier:
    return lstm_sentiment.load(trained_run, device="cpu")


def scores_of(classifier: SentimentClassifier, texts: list[str]) -> np.ndarray:
    """Return calibrated logits minus their mean, by the public API of the classifier."""
    logits = classifier.predict_logits(texts) / classifier.calibration.temperature
    return logits - logits.mean(axis=1, keepdims=True)


# -- attributions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("subwords", [0, 500])
def test_integrated_gradients_are_complete(kind: str, subwords: int) -> None:
    classifier = untrained(subwords=subwords, **KINDS[kind])
    found = explain(classifier, TEXT, method="integrated_gradients")
    text, baseline = scores_of(classifier, [TEXT])[0], found.baseline
    assert found.scores == pytest.approx(text, abs=1e-5)
    assert found.attributions.sum(axis=0) == pytest.approx(
        text - baseline, abs=0.005 * np.abs(text - baseline).max() + 1e-5
    )
    assert found.gap == pytest.approx(found.attributions.sum(axis=0) - (text - baseline), abs=1e-5)
    assert np.abs(found.attributions.sum(axis=1)).max() < 1e-5  # attributions sum to zero over classes
    assert np.abs(found.attributions).max() > 0.05


def test_the_baseline_is_unknown_tokens_of_equal_length() -> None:
    classifier = untrained(subwords=0)  # without letters, any word out of the vocabulary is the same
    found = explain(classifier, TEXT, method="occlusion")
    assert found.baseline == pytest.approx(scores_of(classifier, ["zzz " * len(found.tokens)])[0], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_integrated_gradients_are_the_integral_along_the_path(kind: str) -> None:
    """Midpoint sums of finite differences, token by token, without gradients."""
    classifier = untrained(subwords=0, **KINDS[kind])
    text = "room great awful"
    found = explain(classifier, text, method="integrated_gradients")
    model = classifier.model
    vectors = model.embedding.weight[[3, 5, 10]]
    baseline = model.embedding.weight[1].expand(3, -1)
    steps, small = 1000, 0.01
    expected = np.zeros((3, 3))
    for token in range(3):
        direction = torch.zeros_like(vectors)
        direction[token] = vectors[token] - baseline[token]
        at = baseline + (vectors - baseline) * ((torch.arange(steps) + 0.5) / steps)[:, None, None]
        sides = [(at + sign * small * direction).transpose(0, 1) for sign in (1, -1)]
        up, down = (model.logits_of(side, torch.full((steps,), 3)).double() for side in sides)
        expected[token] = ((up - down) / (2 * small)).mean(dim=0).numpy()
    expected = (expected - expected.mean(axis=1, keepdims=True)) / 0.7
    assert found.attributions == pytest.approx(expected, abs=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("kind", KINDS)
def test_occlusion_is_the_change_without_a_token(kind: str) -> None:
    classifier = untrained(subwords=0, **KINDS[kind])
    words = TEXT.split()
    found = explain(classifier, TEXT, method="occlusion")
    without = [" ".join([*words[:n], "zzz", *words[n + 1 :]]) for n in range(len(words))]
    expected = scores_of(classifier, [TEXT]) - scores_of(classifier, without)
    assert found.attributions == pytest.approx(expected, abs=1e-5)
    assert found.steps is None


def test_an_unknown_token_without_subwords_has_zero_attribution() -> None:
    for method in ("occlusion", "integrated_gradients"):
        found = explain(untrained(subwords=0), "great zzz awful", method=method)
        assert found.known == [True, False, True]
        assert np.abs(found.attributions[1]).max() < 1e-6
        assert np.abs(explain(untrained(), "great zzz awful", method=method).attributions[1]).max() > 1e-3


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_clue_words_have_positive_attribution(trained: SentimentClassifier, method: str) -> None:
    for label, clues in CLUES.items():
        found = explain(trained, f"the service was {clues[0]} and this place", method=method)
        assert found.label == label
        of_label = found.labels.index(label)
        assert found.tokens[int(found.attributions[:, of_label].argmax())] == clues[0]
        assert (found.removal.faithfulness or 0) > 0.05


# -- faithfulness and prefixes ---------------------------------------------------------------------


def test_deleting_by_attribution_lowers_the_probability(
    trained: SentimentClassifier,
) -> None:
    reader = explanation._Reader(trained, trained.tokens("the service was awful and this place is terrible"))
    attributions = explain(
        trained, "the service was awful and this place is terrible", method="occlusion"
    ).attributions
    right, reverse = (explanation._remove(reader, values, 0) for values in (attributions, -attributions))
    assert right.guided.mean() < right.random.mean() < reverse.guided.mean()
    assert right.faithfulness is not None
    assert reverse.faithfulness is not None
    assert right.faithfulness > 0 > reverse.faithfulness
    assert (right.worse, right.better) == (20, 0)
    assert reverse.better >= 18


def test_deletion_predicts_the_shorter_text(trained: SentimentClassifier) -> None:
    found = explain(trained, TEXT, method="occlusion")
    words, column = TEXT.split(), found.labels.index(found.label)
    order = np.argsort(-found.attributions[:, column], kind="stable")
    left = [" ".join(words[n] for n in sorted(order[k:])) for k in range(len(words) + 1)]
    assert found.removal.removed.tolist() == list(range(len(words) + 1))
    assert found.removal.guided == pytest.approx(trained.predict_proba(left)[:, column], abs=1e-5)
    assert found.removal.random.shape == (20, len(words) + 1)
    difference = found.removal.random.mean(axis=0)[1:-1] - found.removal.guided[1:-1]
    assert found.removal.faithfulness == pytest.approx(difference.mean())


@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_are_predictions_of_the_first_tokens(kind: str) -> None:
    classifier = untrained(**KINDS[kind])
    words = [*TEXT.split(), "zzz", "rooms"]
    found = explain(classifier, " ".join(words), method="occlusion")
    begun = [" ".join(words[: n + 1]) for n in range(len(words))]
    assert found.prefixes == pytest.approx(classifier.predict_proba(begun), abs=1e-5)
    assert found.probabilities == pytest.approx(found.prefixes[-1])


def test_a_long_text_is_explained_as_truncated() -> None:
    classifier = untrained(max_tokens=30)
    text = " ".join(["great", "zzz", "food"] * 14)
    found = explain(classifier, text, method="occlusion")
    assert (len(found.tokens), found.cut_tokens) == (30, 12)
    assert found.tokens == classifier.tokens(text)
    assert found.probabilities == pytest.approx(classifier.predict_proba(text)[0], abs=1e-5)
    assert "The text was truncated: 12 tokens were not read." in wording.trust_in(found)
    assert len(found.removal.removed) == 21
    assert (found.removal.removed[0], found.removal.removed[-1]) == (0, 30)


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
@pytest.mark.parametrize("text", ["", "  \n", "great"])
def test_very_short_texts_are_explained(text: str, method: str) -> None:
    classifier = untrained()
    found = explain(classifier, text, method=method)
    assert len(found.tokens) == len(found.attributions) == len(found.prefixes) == len(text.split())
    assert found.removal.faithfulness is None
    assert found.probabilities == pytest.approx(classifier.predict_proba(text)[0], abs=1e-6)
    json.dumps(command.as_json(found), allow_nan=False)


def test_two_and_many_classes_are_explained() -> None:
    for classes in (2, 30):
        found = explain(untrained(classes=classes), TEXT, method="integrated_gradients")
        assert found.attributions.shape == (10, classes)
        assert np.abs(found.gap).max() < 0.01 * np.abs(found.scores - found.baseline).max()
        assert len(reading(found, "class 0").words) > 30


def test_explaining_does_not_change_the_model(trained: SentimentClassifier) -> None:
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    first = explain(trained, TEXT)
    assert command.as_json(explain(trained, TEXT)) == command.as_json(first)
    assert all(torch.equal(before[name], value) for name, value in trained.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in trained.model.parameters())
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.text = "other"  # type: ignore[misc]


# -- gates -----------------------------------------------------------------------------------------


def test_steps_are_those_of_the_lstm() -> None:
    lstm, inputs = torch.nn.LSTM(4, 7), torch.randn(11, 4)
    lstm.requires_grad_(False)
    steps = LSTM().steps(lstm, inputs)
    hidden, (_, last_cell) = lstm(inputs)
    assert torch.allclose(steps.hidden, hidden, atol=1e-6)
    assert torch.allclose(steps.memory[-1:], last_cell, atol=1e-6)
    for gate in steps.gates.values():
        assert 0 <= float(gate.min()) <= float(gate.max()) <= 1
    with torch.no_grad():  # PyTorch's second quarter is the forget gate
        lstm.bias_ih_l0[7:14] = 100.0
    assert float(LSTM().steps(lstm, inputs).gates["forget"].min()) > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_traces_are_those_of_the_truncated_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained(**KINDS[kind]).model
    vectors = torch.randn(6, 6)
    read = []
    monkeypatch.setattr(model, "head_logits", lambda states, lengths: read.extend(states) or states[0])
    with torch.no_grad():
        model.logits_of(vectors[:, None], torch.tensor([6]))
    traces, _ = look_inside(model, vectors)
    last = {trace.direction: trace for trace in traces if trace.layer == len(model.forward_lstms)}
    assert len(traces) == len(model.forward_lstms) * len(read)
    for direction, states in zip(("forward", "backward"), read, strict=False):
        in_order = states[:, 0] if direction == "forward" else states[:, 0].flip(0)
        assert last[direction].shown == pytest.approx(in_order.abs().mean(dim=1).numpy(), abs=1e-6)
    for trace in traces:
        values = [*trace.gates.values(), trace.let_in, trace.kept, trace.shown]
        assert all(((value >= 0) & (value <= 1)).all() for value in values)
        assert trace.kept[0 if trace.direction == "forward" else -1] == 1.0


def test_retained_share_and_added_amount_follow_the_cell_state() -> None:
    model = untrained(bidirectional=False).model
    vectors = torch.randn(5, 6)
    steps = LSTM().steps(model.forward_lstms[0], vectors)  # type: ignore[arg-type]
    trace = look_inside(model, vectors)[0][0]
    for n in range(1, 5):
        kept = sum(float(steps.keep[n, h] * steps.memory[n - 1, h].abs()) for h in range(5))
        assert trace.kept[n] == pytest.approx(kept / float(steps.memory[n - 1].abs().sum()), abs=1e-6)
        added = steps.memory[n] - steps.keep[n] * steps.memory[n - 1]
        assert trace.let_in[n] == pytest.approx(float(added.abs().mean()), abs=1e-6)


def test_pooling_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained(pooling="last+mean+max+attention").model
    vectors = torch.randn(6, 6)
    _, shares = look_inside(model, vectors)
    for share in shares.values():
        assert share.sum() == pytest.approx(1)
    assert shares["last"].tolist() == [0.5, 0, 0, 0, 0, 0.5]
    assert shares["mean"] == pytest.approx(1 / 6)
    ahead = LSTM().steps(model.forward_lstms[0], vectors).hidden  # type: ignore[arg-type]
    back = LSTM().steps(model.backward_lstms[0], vectors.flip(0)).hidden.flip(0)  # type: ignore[arg-type]
    states = torch.cat([ahead, back], dim=1)
    picked = [int(states[:, f].argmax()) for f in range(10)]
    assert shares["max"].tolist() == [picked.count(n) / 10 for n in range(6)]
    assert model.attention is not None
    weights = torch.exp(states @ model.attention.weight[0])
    assert shares["attention"] == pytest.approx((weights / weights.sum()).detach().numpy(), abs=1e-6)


# -- methods and errors ----------------------------------------------------------------------------


def test_without_captum_occlusion_is_the_only_method(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = untrained()
    assert explain(classifier, "great").method == "integrated_gradients"
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert explain(classifier, "great").method == "occlusion"
    with pytest.raises(MissingExtraError, match=r"needs captum: pip install 'lstm_sentiment\[explain\]'"):
        explain(classifier, "great", method="integrated_gradients")
    with pytest.raises(ConfigError, match=r"'oclusion' is not one of .*Did you mean 'occlusion'"):
        explain(classifier, "great", method="oclusion")
    with pytest.raises(DataError, match="must be a string, not list"):
        explain(classifier, ["great"])  # type: ignore[arg-type]


# -- pictures --------------------------------------------------------------------------------------

HOSTILE = '<script>alert(1)</script> a\x1b[31mred & "quoted" ]]> great\x00 \u202e 好 😀'


def test_a_picture_is_valid_xml_with_alternative_text(tmp_path: Path) -> None:
    found = explain(untrained(), HOSTILE, method="occlusion")
    for name, picture in (("reading", reading(found, found.label)), ("removal", removal(found))):
        picture.write(tmp_path / f"{name}.svg")
        root = ET.fromstring((tmp_path / f"{name}.svg").read_text("utf-8"))
        assert root.get("role") == "img"
        title = root.find("{http://www.w3.org/2000/svg}title")
        assert title is not None
        assert len(title.text or "") > 20
        for box in picture.boxes:
            assert 0 <= box.x <= box.x + box.width <= picture.width + 1e-6
            assert 0 <= box.y <= box.y + box.height <= picture.height
        for line in picture.lines:
            assert all(0 <= x <= picture.width and 0 <= y <= picture.height for x, y in line.points)


def test_attributions_are_drawn_to_scale() -> None:
    found = explain(untrained(), TEXT, method="occlusion")
    picture = reading(found, "class 1", panels=("attributions",))
    heights = np.array([box.height for box in picture.boxes])
    sizes = np.abs(found.attributions[:, 1])
    assert heights / heights.max() == pytest.approx(sizes / sizes.max())
    zero = {
        round(box.y + box.height if push > 0 else box.y, 6)
        for box, push in zip(picture.boxes, found.attributions[:, 1], strict=True)
    }
    assert len(zero) == 1  # upwards towards the class, downwards away from it


def test_pictures_of_the_documentation_exist() -> None:
    docs = Path(__file__).parent.parent / "docs"
    pages = "".join(page.read_text("utf-8") for page in docs.rglob("*.md"))
    linked = [Path(name).name for name in re.findall(r"!\[[^\]]{20,}\]\((\S+)\)", pages)]
    assert sorted(linked) == sorted(path.name for path in (docs / "pictures").iterdir())
    for name in linked:
        content = (docs / "pictures" / name).read_bytes()
        assert content.startswith(b"\x89PNG") or ET.fromstring(content).tag.endswith("svg")


# -- the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("truncate", "place"), [("head", 30), ("tail", 0), ("middle", 15)])
def test_a_mark_shows_where_a_text_is_truncated(truncate: str, place: int) -> None:
    words = [f"{word}{n}" for n, word in enumerate(["great", "zzz", "food"] * 14)]
    found = explain(untrained(max_tokens=30, truncate=truncate), " ".join(words), method="occlusion")
    assert found.tokens == [*words[:place], *words[42 - (30 - place) :]]
    lines = ["".join(part for part, _ in line) for line in wording.explanation_lines(found, "class 0")]
    assert lines[0].split()[place : place + 4] == ["[12", "tokens", "not", "read]"]
    marks = [n for n, line in enumerate(lines) if line == "  [12 tokens not read]"]
    rows = [n for n, line in enumerate(lines) if re.match("  (great|zzz|food)", line)]
    assert [sum(row < mark for row in rows) for mark in marks] == [place, 30 + place], "in both tables"
    whole = explain(untrained(max_tokens=42, truncate=truncate), " ".join(words), method="occlusion")
    assert whole.cut_at is None
    lines = ["".join(part for part, _ in line) for line in wording.explanation_lines(whole, "class 0")]
    assert not any("not read" in line for line in lines)


def run_it(trained_run: Path, *argv: str) -> None:
    command.main([str(trained_run), "--device=cpu", *argv])


def test_the_command_prints_its_result(
    trained_run: Path, trained: SentimentClassifier, capsys: pytest.CaptureFixture[str]
) -> None:
    run_it(trained_run, "this service was awful", "the zzz was superb")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    found = explain(trained, "this service was awful")
    assert f"negative  (negative {found.probabilities[0]:.3f}" in shown
    row = next(line for line in shown.splitlines() if line.startswith("  awful"))
    assert row.split()[1:4] == [f"{value:+.2f}" for value in found.attributions[3]]
    assert row.endswith("|++++++++++")
    assert f"Faithfulness {found.removal.faithfulness:+.3f}" in shown
    assert "Completeness gap" in shown
    assert "Attributions by integrated gradients" in shown
    reading_row = [line for line in shown.splitlines() if line.startswith("  awful")][1]
    assert reading_row.split()[1:4] == [f"{p:.3f}" for p in found.prefixes[3]]


def test_tables_are_aligned(trained: SentimentClassifier) -> None:
    lines = wording.explanation_lines(explain(trained, "the 好 e\u0301 service was superb 😀"), "positive")
    plain = ["".join(text for text, _ in line) for line in lines]
    bars = {cells_of(line[: line.index("|")]) for line in plain if "|" in line}
    assert len(bars) == 1


def test_the_coloured_class_can_be_chosen(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_it(trained_run, "this service was awful", "--class", "positive")
    shown = capsys.readouterr().out
    assert "away from | towards positive" in shown
    assert re.search(r"  awful .* -{10}\|", shown)


def test_hostile_text_is_escaped(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, file = tmp_path / "page.html", tmp_path / "found.json"
    run_it(trained_run, HOSTILE, "", f"--html={page}", f"--json={file}")
    shown = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in shown)
    html = page.read_text("utf-8")
    assert "<script" not in html
    assert "&lt;" in html
    assert wording.ATTRIBUTIONS in html
    assert wording.READING.split("'")[0] in html
    assert wording.trust_in(explain(lstm_sentiment.load(trained_run), HOSTILE))[1] in html
    assert not re.search("[\x00-\x08\x0b-\x1f]", html)
    assert html.count('role="img"') == html.count("<svg") == 3  # one for what is deleted, two for the tokens
    assert f"written to {page}" in shown
    found = json.loads(file.read_text("utf-8"), parse_constant=pytest.fail)
    assert [one["text"] for one in found] == [HOSTILE, ""]
    assert len(found[0]["attributions"]) == len(found[0]["tokens"]) == len(found[0]["gates"][0]["let_in"])
    assert found[0]["label"] in trained_labels(found[0])


def trained_labels(found: dict[str, list[str]]) -> list[str]:
    """Return the class names of an explanation in JSON."""
    return found["labels"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(browser: Any, trained_run: Path, tmp_path: Path, scheme: str) -> None:
    page = tmp_path / "page.html"
    command.main([str(trained_run), HOSTILE, "the room was great", f"--html={page}", "--device=cpu"])
    check_page(browser, page, scheme, pictures=5)


def test_terminal_colours(
    trained_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    run_it(trained_run, "this service was awful")
    assert "\x1b[1;37;41mawful\x1b[0m" in capsys.readouterr().out  # bold white on red
    monkeypatch.setitem(sys.modules, "rich.console", None)
    run_it(trained_run, "this service was awful")
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["RUN"], "give texts, or --file with --rows or --worst"),
        (["nothing", "so-so"], "is not a run folder"),
        (["RUN", "so-so", "--class=postive"], "Did you mean 'positive'?"),
        (["RUN", "so-so", "--method=magic"], "'magic' is not one of"),
        (["RUN", "so-so", "--html=no/such/page.html"], "no such folder"),
        (["RUN", "so-so", "--json=no/such/file.json"], "no such folder"),
        (["RUN", "so-so", "--device=gpu"], "gpu"),
    ],
)
def test_errors_have_no_traceback(
    trained_run: Path,
    argv: list[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["explain", *(word.replace("RUN", str(trained_run)) for word in argv)])
    with pytest.raises(SystemExit) as left:
        run_command(command.main)
    errors = capsys.readouterr().err
    assert left.value.code == 2
    assert errors.startswith("error: ")
    assert expected in errors


def test_an_explanation_can_be_made_in_python(trained: SentimentClassifier) -> None:
    text = "this service was awful"
    found = trained.explain(text)
    assert isinstance(found, lstm_sentiment.Explanation)
    assert found.label == trained.predict(text)[0].label
    assert command.as_json(found) == command.as_json(explain(trained, text))
    assert found.faithfulness == found.removal.faithfulness
    assert len(found.tokens) == len(found.attributions) == 4
    assert trained.explain(text, method="occlusion").method == "occlusion"
    assert trained.cut_tokens("great " * 410) == 10
