"""Exports: the graph equals the model, the runtime equals the classifier, others are rejected."""

from __future__ import annotations

import ast
import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import make_rows, write_csv
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lstm_sentiment import export as command
from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import POOLINGS, ModelConfig, TextConfig
from lstm_sentiment.deployment import benchmark as export_benchmark
from lstm_sentiment.deployment import onnx_graph
from lstm_sentiment.deployment.exporter import check_texts, export, load_runtime, runtime_source
from lstm_sentiment.deployment.onnx_graph import build_graph
from lstm_sentiment.errors import CheckpointError, ConfigError, DiskError, MissingExtraError, RunError
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.models.lstm import SentimentLSTM
from lstm_sentiment.models.network import new_lstm
from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.text.tokenization import NOTHING, PAD, UNKNOWN, spell
from lstm_sentiment.text.tokenizers import Vocabulary

KNOWN = 30
UNKNOWN_WORDS = ["goood", "x", "<url>"]
LENGTHS = [9, 1, 4, 2, 9, 7]
ALL_POOLINGS = "+".join(POOLINGS)
FILES = {"model.onnx", "model.json", "runtime.py"}


def make_model(**given_settings: Any) -> SentimentLSTM:
    """Return a small folded model with random weights."""
    torch.manual_seed(1)
    model_settings = {"embedding_size": 6, "hidden_size": 5, "subwords": 40, **given_settings}
    model = new_lstm(Vocabulary([f"w{i}" for i in range(KNOWN - 2)]), 3, **model_settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        if model.subwords is not None:
            model.subwords.table.weight[NOTHING] = 0.0
    model.fold_subwords()
    return model.requires_grad_(False)


def make_inputs(model: SentimentLSTM, unknown: list[str], padding: int = 0) -> dict[str, np.ndarray]:
    """Return inputs of a graph; the padding has other tokens, which must not be read."""
    random = np.random.default_rng(0)
    tokens_BT = random.integers(UNKNOWN, KNOWN + len(unknown), (len(LENGTHS), max(LENGTHS) + padding))
    inputs = {"tokens": tokens_BT, "lengths": np.array(LENGTHS)}
    return inputs | ({"spelling": spell(unknown, 40)} if model.subwords is not None else {})


def answers(graph: Any, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    logits_BC, probabilities_BC = session.run(["logits", "probabilities"], inputs)
    return logits_BC, probabilities_BC


# -- the graph -------------------------------------------------------------------------------------


@pytest.mark.parametrize("subwords", [0, 40])
@pytest.mark.parametrize("pooling", [*POOLINGS, ALL_POOLINGS, "attention+last"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_graph_equals_the_model(layers: int, bidirectional: bool, pooling: str, subwords: int) -> None:
    model = make_model(layers=layers, bidirectional=bidirectional, pooling=pooling, subwords=subwords)
    graph = build_graph(model, temperature=1.7)
    for unknown in ([], UNKNOWN_WORDS) if subwords else ([],):
        inputs = make_inputs(model, unknown, padding=3)
        expected_BC = model(*(torch.from_numpy(value) for value in inputs.values()))
        logits_BC, probabilities_BC = answers(graph, inputs)
        np.testing.assert_allclose(logits_BC, expected_BC, atol=2e-6)
        np.testing.assert_allclose(probabilities_BC, (expected_BC / 1.7).softmax(dim=1), atol=1e-6)
        assert np.ptp(logits_BC, axis=0).max() > 0.01, "all texts are answered alike: nothing was compared"


def test_a_prediction_does_not_depend_on_the_batch() -> None:
    model = make_model(layers=2, pooling=ALL_POOLINGS)
    graph, inputs = build_graph(model, temperature=1.0), make_inputs(model, UNKNOWN_WORDS)
    together_BC, _ = answers(graph, inputs)
    for row, length in enumerate(LENGTHS):
        alone = {**inputs, "tokens": inputs["tokens"][row : row + 1, :length], "lengths": np.array([length])}
        np.testing.assert_allclose(answers(graph, alone)[0][0], together_BC[row], atol=1e-6)


@pytest.mark.parametrize("subwords", [0, 40])
def test_int8_equals_the_model_with_rounded_weights(subwords: int) -> None:
    """The only loss is rounding: a model with rounded weights predicts the same."""
    model = make_model(layers=2, pooling=ALL_POOLINGS, subwords=subwords)
    rounded = copy.deepcopy(model)
    weights: list[torch.Tensor] = [rounded.embedding.weight]
    if rounded.folded is not None:
        assert rounded.subwords is not None
        rounded.folded.vectors_VE.copy_(rounded.token_vectors())
        rounded.folded.is_there_V.fill_(True)
        weights = [rounded.folded.vectors_VE, rounded.subwords.table.weight]
    lstms = [*rounded.forward_lstms, *rounded.backward_lstms]
    weights += [p for lstm in lstms for name, p in lstm.named_parameters() if "weight" in name]
    for weight in weights:
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
        weight.copy_((weight / scale).round() * scale)
    inputs = make_inputs(model, UNKNOWN_WORDS if subwords else [])
    found_BC, _ = answers(build_graph(model, temperature=1.0, int8=True), inputs)
    tensors = [torch.from_numpy(value) for value in inputs.values()]
    np.testing.assert_allclose(found_BC, rounded(*tensors), atol=2e-6)
    assert np.abs(found_BC - model(*tensors).numpy()).max() > 1e-4, "nothing was rounded"


def test_int8_is_a_quarter_of_the_size() -> None:
    model = make_model(embedding_size=64, hidden_size=64)
    sizes = [len(build_graph(model, temperature=1.0, int8=i).SerializeToString()) for i in (False, True)]
    assert sizes[1] < 0.35 * sizes[0]


def test_weights_too_large_for_onnx_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "MOST_BYTES", 100)
    with pytest.raises(ConfigError, match=r"an ONNX file holds at most 100.*--int8"):
        build_graph(make_model(), temperature=1.0)


# -- the runtime -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an exported run."""
    out = tmp_path_factory.mktemp("exported") / "onnx"
    export(load(trained_run, device="cpu"), trained_run, out)
    return out


@pytest.fixture(scope="module")
def classifier(trained_run: Path) -> SentimentClassifier:
    return load(trained_run, device="cpu")


@pytest.fixture(scope="module")
def runtime(exported: Path) -> Any:
    return load_runtime(exported)


def many_texts(classifier: SentimentClassifier) -> list[str]:
    random = np.random.default_rng(3)
    signs = np.array(list("aB é’'!?.:;)(<>&#@/-3 \n\u3000😀🇩中İẞ"))
    odd = ["".join(random.choice(signs, random.integers(0, 60))) for _ in range(300)]
    return [*check_texts(classifier.vocabulary.tokens[2:], 400), *odd]


BLOCKED = (
    "torch",
    "lstm_sentiment",
    "pandas",
    "sklearn",
    "scipy",
    "pyarrow",
    "torchtext",
    "onnx",
    "safetensors",
)
ALONE = f"""
import json, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ImportError("not here: " + name)
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, sys.argv[1])
from runtime import Classifier
classifier = Classifier()
print(json.dumps([classifier.labels, classifier.predict_proba(json.load(sys.stdin)).tolist()]))
"""


def test_the_runtime_works_without_this_package_or_torch(
    exported: Path, classifier: SentimentClassifier, tmp_path: Path
) -> None:
    folder = shutil.copytree(exported, tmp_path / "elsewhere")
    texts = many_texts(classifier)
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(folder)],
        input=json.dumps(texts), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    labels, probabilities_RC = json.loads(done.stdout)
    assert labels == classifier.labels
    np.testing.assert_allclose(probabilities_RC, classifier.predict_proba(texts), atol=1e-5)


def test_the_runtime_imports_only_its_documented_packages() -> None:
    tree = ast.parse(runtime_source())
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign == {"numpy", "onnxruntime"}


@given(
    st.lists(
        st.one_of(
            st.text(st.characters(), max_size=30),
            st.text(
                "aZé '’-.,!?:;()<>&#@/\\|3DoOx_ \n\t\x0b\x1c\x85\xa0\u200d\u2028\u3000😀🇩中", max_size=30
            ),
        ),
        max_size=20,
    )
)
@example(["", " ", "\ud800", "a\x85b\x1cc\xa0d\u2028e\u200bf", "İstanbul ẞ ǅ", "great " * 900])
@settings(max_examples=60, deadline=None)
def test_any_texts_get_the_probabilities_of_the_classifier(
    runtime: Any, classifier: SentimentClassifier, texts: list[str]
) -> None:
    np.testing.assert_allclose(runtime.predict_proba(texts), classifier.predict_proba(texts), atol=1e-5)


def test_predictions_are_those_of_the_classifier(exported: Path, classifier: SentimentClassifier) -> None:
    runtime, texts = load_runtime(exported), ["great food", "", "awful", "okay or terrible"]
    for found, expected in zip(
        runtime.predict(texts, coverage=0.9), classifier.predict(texts, coverage=0.9), strict=True
    ):
        assert found.label == expected.label
        assert found.label_set == expected.label_set
        assert list(found.probabilities) == classifier.labels
        assert found.score == found.probabilities[found.label] == pytest.approx(expected.score, abs=1e-5)
    assert runtime.predict("great food") == runtime.predict(["great food"])
    assert runtime.predict("great")[0].label_set is None
    assert runtime.predict_proba(iter([])).shape == (0, 3)


def test_texts_keep_their_order_over_batches_and_chunks(
    exported: Path, classifier: SentimentClassifier
) -> None:
    runtime, texts = load_runtime(exported), many_texts(classifier)
    expected_RC = runtime.predict_proba(texts)
    module = sys.modules.get(type(runtime).__module__)
    assert module is None, "the file's module must not stay in the process"
    scope = type(runtime).predict_proba.__globals__
    scope["TEXTS_AT_ONCE"], scope["TOKENS_AT_ONCE"] = 7, 50
    np.testing.assert_allclose(runtime.predict_proba(iter(texts)), expected_RC, atol=1e-6)


@pytest.mark.parametrize("coverage", [0, 1, -0.5, 1.5])
def test_a_coverage_out_of_range_is_refused(exported: Path, coverage: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        load_runtime(exported).predict("x", coverage=coverage)


def test_values_that_are_not_text_are_refused(exported: Path) -> None:
    with pytest.raises(TypeError, match="a text must be a string, not int: 3"):
        load_runtime(exported).predict(["good", 3])


def test_a_damaged_or_foreign_folder_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.onnx: is damaged or was replaced"):
        load_runtime(folder)
    done = runtime_command(folder, "great")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    facts = json.loads((folder / "model.json").read_text())
    for damaged in ({**facts, "format": 99}, [], {}):
        (folder / "model.json").write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match="is not of format 1"):
            load_runtime(folder)
    (folder / "model.json").write_text("{")
    assert runtime_command(folder, "great").stderr.startswith("error: ")
    (folder / "model.json").unlink()
    assert runtime_command(folder, "great").stderr.startswith("error: ")


def runtime_command(folder: Path, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-I", str(folder / "runtime.py"), *argv],
        input=stdin, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode("ascii"), done.stderr.decode()
    )


def test_the_runtime_is_a_command(exported: Path, classifier: SentimentClassifier) -> None:
    texts = ["great food", "awful \x1b[31m 😀", ""]
    given_as_words = runtime_command(exported, *texts)
    found = [json.loads(line) for line in given_as_words.stdout.splitlines()]
    assert [line["text"] for line in found] == texts
    assert [line["label"] for line in found] == [p.label for p in classifier.predict(texts)]
    assert [line["probabilities"] for line in found] == [
        pytest.approx(p.probabilities, abs=1e-5) for p in classifier.predict(texts)
    ]
    from_stdin = runtime_command(exported, stdin=("\n".join(texts) + "\n").encode())
    assert from_stdin.stdout == given_as_words.stdout
    assert json.loads(runtime_command(exported, stdin=b"\xff great\n").stdout)["text"] == "\ufffd great"
    assert "usage" in runtime_command(exported, "--help").stdout


def test_a_closed_pipe_is_not_an_error(exported: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-I", str(exported / "runtime.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"great\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"awful\n")
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


# -- exported settings -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ({"subwords": 0}, {"pooling": "last"}),
        ({"max_tokens": 1, "truncate": "tail"}, {"layers": 2}),
        ({"max_tokens": 5, "truncate": "head", "lowercase": False}, {"bidirectional": False}),
        ({"max_tokens": 8, "truncate": "middle", "subwords": 2}, {"pooling": ALL_POOLINGS}),
    ],
)
def test_every_architecture_is_exported(
    text: dict[str, Any], model: dict[str, Any], trained_run: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    classifier = SentimentClassifier(
        labels=["no", "naïve\x1b", "yes", "so"],
        vocabulary=Vocabulary(["good", "Good", "food", "<url>", "!", "naïve"]),
        config=Config(
            text=TextConfig(**{"subwords": 50, **text}),
            model=ModelConfig(**{"embedding_size": 9, "hidden_size": 7, **model}),
        ),
        device="cpu",
    )
    found = export(classifier, trained_run, tmp_path / "onnx", int8=True)
    assert found["check"]["largest_difference"] < 1e-6
    texts = ["Good food! Naïve http://x.y Goood", "", "good " * 30 + "Food ! !"]
    export(classifier, trained_run, tmp_path / "onnx", overwrite=True)
    runtime = load_runtime(tmp_path / "onnx")
    assert runtime.labels == classifier.labels
    np.testing.assert_allclose(runtime.predict_proba(texts), classifier.predict_proba(texts), atol=1e-6)
    with pytest.raises(ValueError, match="no thresholds"):
        runtime.predict("x", coverage=0.9)


def test_texts_of_the_check_cover_every_kind() -> None:
    vocabulary = Vocabulary(["good", "food", "so"])
    for max_tokens in (1, 2, 50, 400):
        texts = check_texts(vocabulary.tokens[2:], max_tokens)
        lengths = [len(text.split()) for text in texts]
        assert len(texts) == 200
        assert texts == check_texts(vocabulary.tokens[2:], max_tokens)
        assert {0, 1} < set(lengths)
        assert max(lengths) > max_tokens
    unknown = [vocabulary.encode(text.split()).count(UNKNOWN) for text in texts]
    assert 0 in unknown[-150:]
    assert max(unknown) > 10
    assert any("😀" in text for text in texts)
    assert any("http" in text for text in texts)
    assert len(check_texts([], 5)) == 200


def test_the_folder_has_only_its_documented_files(exported: Path, classifier: SentimentClassifier) -> None:
    assert {path.name for path in exported.iterdir()} == FILES
    assert list(exported.parent.iterdir()) == [exported]
    facts = json.loads((exported / "model.json").read_text("utf-8"))
    assert facts["vocabulary"] == classifier.vocabulary.tokens
    assert facts["vocabulary"][PAD] == "<pad>"
    assert facts["temperature"] == classifier.calibration.temperature
    assert facts["check"]["texts"] == 200
    assert facts["int8"] is None
    assert facts["bytes"] == {"float32": (exported / "model.onnx").stat().st_size}


def test_a_graph_with_other_predictions_is_not_kept(
    trained_run: Path, classifier: SentimentClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "onnx"
    with monkeypatch.context() as patch:
        patch.setattr(type(classifier.model.cell), "onnx_gates", (0, 1, 2, 3))  # PyTorch's order
        with pytest.raises(
            CheckpointError, match=r"not exported.*differ from those of PyTorch by 0\.\d+ for '"
        ):
            export(classifier, trained_run, out)
        assert list(tmp_path.iterdir()) == []
    export(classifier, trained_run, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(type(classifier.model.cell), "onnx_gates", (0, 1, 2, 3))
    with pytest.raises(CheckpointError):
        export(classifier, trained_run, out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]


def test_a_graph_with_nan_predictions_is_not_kept(trained_run: Path, tmp_path: Path) -> None:
    classifier = load(trained_run, device="cpu")
    classifier.model.head.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="non-finite predictions for 200 of 200 texts"):
        export(classifier, trained_run, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_export(
    trained_run: Path, classifier: SentimentClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "onnx"
    export(classifier, trained_run, out)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp") and Path(target) == out:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(DiskError, match="cannot be written: No space left on device"):
        export(classifier, trained_run, out, overwrite=True)
    assert list(tmp_path.iterdir()) == [out]
    assert load_runtime(out).predict("great")
    assert {path.name for path in out.iterdir()} == FILES, "loading it writes nothing"


def test_existing_files_are_not_overwritten(exported: Path, trained_run: Path, tmp_path: Path) -> None:
    classifier = load(trained_run, device="cpu")
    with pytest.raises(RunError, match="contains an export; replace it with --overwrite"):
        export(classifier, trained_run, exported)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for target in (mine, mine / "thesis.txt", trained_run):
        with pytest.raises(RunError, match="exists and is not an export"):
            export(classifier, trained_run, target, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "years of work"
    with pytest.raises(RunError, match="no such folder"):
        export(classifier, trained_run, tmp_path / "no" / "such")


def test_another_tokenizer_is_refused(
    classifier: SentimentClassifier, trained_run: Path, tmp_path: Path
) -> None:
    other = copy.copy(classifier)
    other.config = replace(classifier.config, text=replace(classifier.config.text, tokenizer="basic_english"))
    with pytest.raises(ConfigError, match=r"^text\.tokenizer: 'basic_english'"):
        export(other, trained_run, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_missing_packages_are_named(
    module: str, classifier: SentimentClassifier, trained_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"needs {module}: pip install 'lstm_sentiment\[export\]'"):
        export(classifier, trained_run, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


# -- the command -----------------------------------------------------------------------------------


def test_the_command_exports_into_the_run_and_measures_int8(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    file = write_csv(tmp_path / "fresh.csv", make_rows(60, seed=4))
    command.main([str(run), "--int8", "--file", str(file)])
    printed = capsys.readouterr().out
    assert {path.name for path in (run / "onnx").iterdir()} == FILES
    assert "200 texts compared with PyTorch" in printed
    assert f"written to {run / 'onnx'}" in printed
    facts = json.loads((run / "onnx" / "model.json").read_text("utf-8"))
    texts, labels = zip(*make_rows(60, seed=4), strict=True)
    classifier, runtime = load(run, device="cpu"), load_runtime(run / "onnx")
    truth_R = np.array([classifier.labels.index(label) for label in labels])
    for name, answering in (("before", classifier), ("after", runtime)):
        expected = score(truth_R, answering.predict_proba(texts), classifier.labels)
        for metric, found in facts["int8"]["scores"][name].items():
            assert found == pytest.approx(expected[metric])
            assert f"{found:.4f}" in printed
    check = check_texts(classifier.vocabulary.tokens[2:], classifier.config.text.max_tokens)
    one_RC, other_RC = classifier.predict_proba(check), runtime.predict_proba(check)
    assert facts["int8"]["largest_difference"] == pytest.approx(np.abs(one_RC - other_RC).max(), abs=1e-6)
    assert 0 < facts["int8"]["largest_difference"] < 0.2
    changed = (one_RC.argmax(axis=1) != other_RC.argmax(axis=1)).mean()
    assert facts["int8"]["changed_labels"] == changed


def test_retraining_a_run_removes_its_export(trained_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    command.main([str(run)])
    RunFolder(run).clear()
    assert list(run.iterdir()) == []


def test_speed_is_measured_interleaved(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_benchmark, "CALLS", {1: 10, 64: 10})
    command.main([str(trained_run), "--out", str(tmp_path / "a"), "--benchmark"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("speed: synthetic texts")
    assert [line.split(":")[0].strip() for line in lines[-2:]] == ["1 at a time", "64 at a time"]
    file = write_csv(tmp_path / "few.csv", make_rows(20))
    command.main([str(trained_run), "--out", str(tmp_path / "b"), "--benchmark", "--file", str(file)])
    assert f"speed: texts of {file}" in capsys.readouterr().out


def test_both_are_measured_alternately_on_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_benchmark, "CALLS", {1: 10, 64: 2})
    calls: list[tuple[str, list[str]]] = []

    def named(name: str) -> Callable[[list[str]], None]:
        return lambda texts: calls.append((name, texts))

    found = export_benchmark.compare_speed(named("pytorch"), named("exported"), ["a", "b", "c"])
    assert set(found) == {1, 64}
    of = {name: [texts for caller, texts in calls if caller == name] for name in ("pytorch", "exported")}
    assert of["pytorch"] == of["exported"]
    assert [name for name, _ in calls[:4]] == ["exported", "pytorch", "pytorch", "exported"]
    assert [len(texts) for _, texts in calls] == [1] * 22 + [64] * 4


@pytest.mark.parametrize(
    ("argv", "expected", "code"),
    [
        (["nothing"], "is not a run folder", 2),
        (["RUN", "--format", "tflite"], "invalid choice", 2),
        (["RUN", "--file", "x.csv"], "--file needs --int8 or --benchmark", 2),
        (["RUN", "--threads", "0", "--benchmark"], "--threads must be at least 1", 2),
        (["RUN", "--out", "no/such/place"], "no such folder", 2),
        (["RUN", "--out", "OUT", "--int8", "--file", "no.csv"], "no.csv", 2),
    ],
)
def test_errors_have_no_traceback(
    argv: list[str],
    expected: str,
    code: int,
    trained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = {"RUN": str(trained_run), "OUT": str(tmp_path / "out")}
    monkeypatch.setattr(sys, "argv", ["export", *(named.get(word, word) for word in argv)])
    with pytest.raises(SystemExit) as left:
        run_command(command.main)
    errors = capsys.readouterr().err
    assert left.value.code == code
    assert errors.startswith("error: ")
    assert expected in errors
    assert list(tmp_path.iterdir()) == []
