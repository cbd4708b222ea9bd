"""Exports a run to ONNX, with a runtime that needs no PyTorch, verified against PyTorch.

    OUT/model.onnx    the network (see `onnx_graph`)
        stream.onnx   with `stream`: the network that reads token by token (see `stream_graph`)
        model.json    labels, vocabulary, text settings, temperature, conformal thresholds, check results
        runtime.py    one file that needs numpy and onnxruntime: seven modules of this package

Legend: R texts, C classes.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.machinery
import importlib.util
import inspect
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.checkpoints.run_folder import BEST
from lstm_sentiment.checkpoints.self_test import FIXED
from lstm_sentiment.deployment import runtime
from lstm_sentiment.deployment.onnx_graph import build_graph
from lstm_sentiment.deployment.runtime import FACTS, FORMAT, MODEL, STREAM_MODEL
from lstm_sentiment.deployment.stream_graph import build_stream_graph
from lstm_sentiment.errors import CheckpointError, ConfigError, RunError, shown
from lstm_sentiment.evaluation import conformal
from lstm_sentiment.evaluation.metrics import score
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.prediction.score_file import predict_file
from lstm_sentiment.system.extras import need
from lstm_sentiment.system.files import (
    held_unfinished,
    sha256_of,
    sweep,
    sync_file,
    sync_folder,
    unfinished,
    write_json,
    writing,
)
from lstm_sentiment.text import encoder, given, portions, token_stream, tokenization
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.version import __version__

TOLERANCE = 1e-5  # of probabilities; float32 rounding is about a hundredth of it
TEXTS = 200
STREAMED = 5  # every fifth of them is checked in pieces
LONGEST = 1000  # words of a test text
ODD = (" \t\n", "😀", "!!!???", "<br />&lt;3", "\x00\ud800", "x" * 500, "www.a.b @me #so 1,000.50", "très İ")
RUNTIME = "runtime.py"
Array = npt.NDArray[Any]


def export(
    classifier: SentimentClassifier,
    run: Path,
    out: Path,
    *,
    int8: bool = False,
    stream: bool = False,
    overwrite: bool = False,
    file: str | None = None,
    **columns: str,
) -> dict[str, Any]:
    """Export a run's best checkpoint for onnxruntime, if its probabilities equal those of PyTorch.

    The float32 graph must reproduce PyTorch's probabilities for 200 texts, alone and in batches, to 1e-5.
    With `int8` the weights are quantized after that, and the loss is measured and saved.

    Args:
        classifier: of the run, on the CPU.
        run: its folder.
        out: folder to write, atomically.
        int8: quantize the weights, a quarter of the size.
        stream: also export a model that reads a text in pieces, `Classifier.stream` of the runtime.
        overwrite: replace an export.
        file: labelled rows to score before and after quantization.
        columns: of the file; see `score_file.predict_file`.

    Returns:
        the content of model.json, without vocabulary and thresholds.

    Raises:
        DataError: the file cannot be used.
        ConfigError: the run's tokenizer cannot be exported; `stream` of a bidirectional model.
        RunError: `out` exists.
        DiskError: it cannot be written.
        CheckpointError: the exported model gives other probabilities; nothing is written.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    need("onnxruntime", extra="export")
    check_target(out, overwrite=overwrite)
    if stream:
        classifier.stream()  # refuses models that cannot
    facts = _facts(classifier, run)
    words = classifier.vocabulary.tokens[len(SPECIAL_TOKENS) :]
    texts = check_texts(words, classifier.config.text.max_tokens)
    expected_RC = classifier.predict_proba(texts)
    with _folder(out) as building:
        (building / RUNTIME).write_text(runtime_source(), "utf-8")
        _write_model(building, classifier, facts, int8=False, stream=stream)
        largest = _checked(load_runtime(building), texts, expected_RC, out)
        if stream:
            largest = max(largest, _check_streams(load_runtime(building), classifier, texts[::STREAMED], out))
        facts["check"] = {"texts": TEXTS, "largest_difference": largest}
        if int8:
            _write_model(building, classifier, facts, int8=True, stream=stream)
            rounded = load_runtime(building)
            facts["int8"] = _loss(expected_RC, rounded.predict_proba(texts))
            if file is not None:
                facts["int8"]["scores"] = _scores(classifier, rounded, file, columns)
        _write_facts(building, facts)
    return {name: value for name, value in facts.items() if name not in ("vocabulary", "thresholds")}


def check_target(out: Path, *, overwrite: bool) -> None:
    """Check that a folder may be written.

    Raises:
        RunError: it exists without `overwrite`, or is not an export.
    """
    if not out.parent.is_dir():
        raise RunError(f"{out.parent}: no such folder")
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or not (out / FACTS).is_file() or not (out / MODEL).is_file():
        raise RunError(f"{out}: exists and is not an export; choose another folder with --out")
    if not overwrite:
        raise RunError(f"{out}: contains an export; replace it with --overwrite, or name another --out")


def check_texts(words: Sequence[str], max_tokens: int) -> list[str]:
    """Return 200 test texts of mixed length: edge cases, and known and unknown words.

    Args:
        words: of the vocabulary.
        max_tokens: of the model; texts have up to twice as many words, at most 1000.

    >>> texts = check_texts(["good", "bad"], 50)
    >>> len(texts), texts[0], max(len(text.split()) for text in texts)
    (200, '', 100)
    """
    random, known = np.random.default_rng(0), list(words) or ["word"]
    texts = [*FIXED, *ODD]
    longest = min(2 * max_tokens, LONGEST)
    for length in np.rint(np.geomspace(1, longest, TEXTS - len(texts))).astype(int):
        chosen = [known[i] for i in random.integers(0, len(known), length)]
        for place in np.flatnonzero(random.random(length) < 0.1):  # unknown words
            chosen[place] = "".join(random.permutation(list(f"{chosen[place]}qzx")))
        texts.append(" ".join(chosen))
    return texts


def runtime_source() -> str:
    """Return the source of runtime.py: seven modules of this package in one file.

    >>> source = runtime_source()
    >>> "import lstm_sentiment" in source or "from lstm_sentiment" in source
    False
    """
    docstring, modules, names, bodies = "", set[str](), dict[str, set[str]](), list[str]()
    for module in (tokenization, token_stream, encoder, portions, given, conformal, runtime):
        source = inspect.getsource(module)
        tree = ast.parse(source)
        docstring = ast.get_docstring(tree, clean=False) or ""
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in imports:
            if isinstance(node, ast.Import):
                modules.add(ast.unparse(node))
            elif not (node.module or "").startswith(("lstm_sentiment", "__future__")):
                names.setdefault(node.module or "", set()).update(alias.name for alias in node.names)
        bodies.append("\n".join(source.splitlines()[imports[-1].end_lineno :]).strip())
    lines = [f"from {module} import {', '.join(sorted(of))}" for module, of in sorted(names.items())]
    parts = [
        f'"""{docstring}"""',
        f"# Part of lstm_sentiment {__version__} (MIT License): seven of its modules.",
        "from __future__ import annotations",
        "\n".join([*sorted(modules), *lines]),
        *bodies,
        'if __name__ == "__main__":\n    sys.exit(main(sys.argv[1:]))\n',
    ]
    return "\n\n".join(parts)


class _WithoutCache(importlib.machinery.SourceFileLoader):
    """Source loader that writes no __pycache__."""

    def set_data(self, *_: Any, **__: Any) -> None:
        pass


def load_runtime(folder: Path, *, threads: int = 0) -> Any:
    """Execute an export's runtime.py and return its `Classifier`.

    Args:
        folder: of the export.
        threads: CPU threads; 0 for the default of onnxruntime.

    Example::

        load_runtime(Path("runs/reviews/onnx")).predict("so-so")
    """
    loader = _WithoutCache("lstm_sentiment_exported_runtime", str(folder / RUNTIME))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module.Classifier(folder, threads=threads)


def _facts(classifier: SentimentClassifier, run: Path) -> dict[str, Any]:
    text = classifier.config.text
    if text.tokenizer != "words":
        raise ConfigError(
            f"'{text.tokenizer}' is torchtext's and cannot be exported: the runtime does not include it; "
            "train with text.tokenizer words",
            key="text.tokenizer",
        )
    names = ("tokenizer", "lowercase", "normalize", "max_tokens", "truncate", "subwords")
    weights = run / BEST / "model.safetensors"
    return {
        "format": FORMAT,
        "lstm_sentiment": __version__,
        "weights_sha256": sha256_of(weights),
        "labels": classifier.labels,
        "text": {name: getattr(text, name) for name in names},
        "bytes": {},
        "int8": None,
        "stream": None,
        **asdict(classifier.calibration),
        "vocabulary": classifier.vocabulary.tokens,
    }


def _write_model(
    folder: Path, classifier: SentimentClassifier, facts: dict[str, Any], *, int8: bool, stream: bool
) -> None:
    """Write model.onnx, stream.onnx and model.json."""
    temperature = classifier.calibration.temperature
    content: bytes = build_graph(classifier.model, temperature=temperature, int8=int8).SerializeToString()
    (folder / MODEL).write_bytes(content)
    facts["sha256"] = sha256_of(folder / MODEL)
    facts["bytes"]["int8" if int8 else "float32"] = len(content)
    if stream:
        graph, starts = build_stream_graph(classifier.model, temperature=temperature, int8=int8)
        (folder / STREAM_MODEL).write_bytes(graph.SerializeToString())
        kept = {
            name: {"shape": list(of.shape), "dtype": str(of.dtype), "value": of.flat[0].item()}
            for name, of in starts.items()
        }
        facts["stream"] = {"sha256": sha256_of(folder / STREAM_MODEL), "kept": kept}
    _write_facts(folder, facts)


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    write_json(folder / FACTS, facts, indent=None)


def _checked(loaded: Any, texts: list[str], expected_RC: Array, out: Path) -> float:
    """Return the largest difference of probabilities, of texts in batches and alone.

    Raises:
        CheckpointError: it is too large; the message names the text.
    """
    alone_RC = np.concatenate([loaded.predict_proba(text) for text in texts])
    return _largest((loaded.predict_proba(texts), alone_RC), texts, expected_RC, out)


def _check_streams(loaded: Any, classifier: SentimentClassifier, texts: list[str], out: Path) -> float:
    """Return the largest difference of probabilities of texts in two pieces, as `_checked`."""

    def end_of(stream: Any, text: str) -> list[float]:
        halves = text[: len(text) // 2], text[len(text) // 2 :]
        return [list(stream.add(half).probabilities.values()) for half in halves][-1]

    found, expected = (np.array([end_of(of.stream(), text) for text in texts]) for of in (loaded, classifier))
    return _largest([found], texts, expected, out)


def _largest(found: Sequence[Array], texts: list[str], expected_RC: Array, out: Path) -> float:
    differences = [np.abs(found_RC - expected_RC) for found_RC in found]
    largest_R = np.max(differences, axis=(0, 2))
    worst = int(np.argmax(largest_R))  # the first NaN, if any
    if not largest_R[worst] <= TOLERANCE:
        raise CheckpointError(
            f"{out}: not exported, since its probabilities differ from those of PyTorch by "
            f"{largest_R[worst]:.2g} for {shown(texts[worst])}; the tolerance is {TOLERANCE:g}"
        )
    return float(largest_R[worst])


def _loss(expected_RC: Array, rounded_RC: Array) -> dict[str, Any]:
    differences_RC = np.abs(expected_RC - rounded_RC)
    changed = expected_RC.argmax(axis=1) != rounded_RC.argmax(axis=1)
    return {
        "largest_difference": float(differences_RC.max()),
        "mean_difference": float(differences_RC.max(axis=1).mean()),
        "changed_labels": float(changed.mean()),
    }


def _scores(
    classifier: SentimentClassifier, loaded: Any, file: str, columns: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Return accuracy and macro-F1 of the run and of its export on labelled rows."""
    exported: Any = SimpleNamespace(
        labels=classifier.labels,
        label_map=classifier.label_map,
        config=classifier.config,
        predict_proba=loaded.predict_proba,
    )
    found = {}
    for name, scored in (("before", classifier), ("after", exported)):
        scores = score(*predict_file(scored, file, **columns), classifier.labels)
        found[name] = {metric: scores[metric] for metric in ("accuracy", "macro_f1")}
    return found


@contextlib.contextmanager
def _folder(out: Path) -> Iterator[Path]:
    """Context with a temporary folder next to `out`, renamed to it at the end, or removed on errors."""
    building, old = unfinished(out), unfinished(out).with_suffix(".old")
    try:
        sweep(out.parent, out.name)
        with writing(out):
            building.mkdir()
        with held_unfinished(building), writing(out):
            yield building
            for file in building.iterdir():
                sync_file(file)
            sync_folder(building)
            if out.exists():
                out.rename(old)
            building.rename(out)
            sync_folder(out.parent)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        for left in (building, old):
            shutil.rmtree(left, ignore_errors=True)
