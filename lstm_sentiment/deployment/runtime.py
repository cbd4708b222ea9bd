"""Predicts with an exported model; needs only this file, numpy and onnxruntime.

    python runtime.py "I rate it so-so"      # or lines on stdin; prints JSON lines

    from runtime import Classifier
    Classifier("runs/reviews/onnx").predict(["I rate it so-so"])[0].label

`Classifier.stream` reads a text in pieces, with stream.onnx (`export --stream`).

model.onnx and model.json are read from the folder of this file, or from a given one.

Legend: R texts, B texts of a batch, T padded length, X unknown tokens of a batch, K places per spelt token,
C classes.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import itertools
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lstm_sentiment.evaluation.conformal import label_sets
from lstm_sentiment.text.encoder import Encoder
from lstm_sentiment.text.given import present, texts_in
from lstm_sentiment.text.portions import bytes_of, portions
from lstm_sentiment.text.token_stream import TokenStream
from lstm_sentiment.text.tokenization import PAD, UNKNOWN, number_unknown, spell

FORMAT = 1  # of model.json
MODEL, STREAM_MODEL, FACTS = "model.onnx", "stream.onnx", "model.json"
TEXTS_AT_ONCE = 8192  # texts held in memory at a time
BYTES_AT_ONCE = 4 << 20  # of texts held in memory at a time
MOST_CHARACTERS = 1 << 22  # of a line of stdin
TOKENS_AT_ONCE = 4096  # padded tokens of one batch


class Prediction(NamedTuple):
    """The prediction for one text: label, its probability, all probabilities, label set if requested.

    `unread` marks a text without a token, or a missing one; the latter has no label and NaN probabilities.
    """

    label: str | None
    score: float
    probabilities: dict[str, float]
    label_set: list[str] | None = None
    unread: bool = False


class Classifier:
    """An exported model. A text's prediction does not depend on the other texts or the batch size.

    Args:
        folder: of model.onnx and model.json; None for the folder of this file.
        threads: CPU threads; 0 for the default of onnxruntime.

    Raises:
        OSError: a file is missing.
        ImportError: onnxruntime is not installed.
        ValueError: model.onnx does not match model.json.

    Example::

        classifier = Classifier("runs/reviews/onnx")
        classifier.predict("so-so", coverage=0.9)  # [Prediction(label=..., score=..., ...)]
        classifier.predict_proba(["so-so", ""])    # array (2, classes), columns as in classifier.labels
    """

    def __init__(self, folder: str | Path | None = None, *, threads: int = 0) -> None:
        path = Path(__file__).parent if folder is None else Path(folder)
        try:
            facts = json.loads((path / FACTS).read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path / FACTS}: is not JSON: {error}") from None
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise ValueError(f"{path / FACTS}: is not of format {FORMAT}, the only one this file reads")
        self._model = _Model(path / MODEL, facts.get("sha256"), threads)
        if importlib.util.find_spec("onnxruntime") is None:
            raise ImportError("the package onnxruntime is not installed")
        try:
            self._read_as(**facts)
            of_stream = facts.get("stream")
            self._starts = {name: start_of(**of) for name, of in (of_stream or {"kept": {}})["kept"].items()}
            of_stream = of_stream and of_stream["sha256"]
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"{path / FACTS}: is malformed") from None
        self._stream_model = _Model(path / STREAM_MODEL, of_stream, threads) if of_stream else None

    def _read_as(
        self, labels: list[str], thresholds: list[float], vocabulary: list[str], text: Any, **_: Any
    ) -> None:
        """Set up labels, thresholds and the encoder."""
        self.labels, self._thresholds, self._text = labels, thresholds, text
        self._known, self._subwords = len(vocabulary), text["subwords"]
        self._ids = {token: i for i, token in enumerate(vocabulary)}
        self._encode = Encoder(
            self._ids,
            lowercase=text["lowercase"],
            max_tokens=text["max_tokens"],
            truncate=text["truncate"],
            subwords=text["subwords"],
            normalize=text.get("normalize", "none"),  # missing in earlier exports
        )

    def predict(
        self, texts: str | Iterable[str | None], *, coverage: float | None = None, on_missing: str = "raise"
    ) -> list[Prediction]:
        """Return one `Prediction` per text, in the order given; one string counts as one text.

        Args:
            texts: a list, an array, a column of a table, a generator.
            coverage: also return the conformal prediction set at this coverage, such as 0.9.
            on_missing: for None, NaN or pandas' NA among the texts: raise an error that names the row,
                skip it, or null for a prediction with the label None.

        Raises:
            TypeError: not strings, such as a table of several columns; a missing text.
            ValueError: coverage is not between 0 and 1, or the run has no thresholds; another on_missing.
        """
        self._check(coverage)
        missing: list[int] = []
        found_RC, unread = self._predict_all(present(texts_in(texts), on_missing, missing))
        predictions = self._predictions(found_RC, unread, coverage)
        for place in missing if on_missing == "null" else ():
            predictions.insert(
                place, Prediction(None, math.nan, dict.fromkeys(self.labels, math.nan), None, True)
            )
        return predictions

    def stream(self, *, coverage: float | None = None) -> Stream:
        """Return a `Stream`, which predicts after each piece of a text at the cost of that piece.

        Args:
            coverage: as in `predict`.

        Raises:
            OSError: stream.onnx is missing.
            ValueError: the model was exported without --stream; as in `predict`.

        Example::

            stream = Classifier("runs/calls/onnx").stream()
            labels = [stream.add(f"{caption} ").label for caption in captions]
        """
        self._check(coverage)
        if self._stream_model is None:
            raise ValueError("this model cannot read a text in pieces; export it again with --stream")
        return Stream(self, coverage)

    def _check(self, coverage: float | None) -> None:
        if coverage is not None and not 0 < coverage < 1:
            raise ValueError(f"coverage must lie between 0 and 1, not {coverage}")
        if coverage is not None and not self._thresholds:
            raise ValueError("this model has no thresholds for label sets")

    def _predictions(
        self, probabilities_RC: npt.NDArray[np.float64], unread: list[bool], coverage: float | None
    ) -> list[Prediction]:
        sets: list[Any] = [None] * len(probabilities_RC)
        if coverage is not None:
            sets_RC = label_sets(probabilities_RC, self._thresholds, coverage)
            sets = [[self.labels[i] for i in row_C.nonzero()[0]] for row_C in sets_RC]
        predictions = []
        for row_C, label_set, blank in zip(probabilities_RC.tolist(), sets, unread, strict=True):
            score = max(row_C)
            of_labels = dict(zip(self.labels, row_C, strict=True))
            label = self.labels[row_C.index(score)]
            predictions.append(Prediction(label, score, of_labels, label_set, blank))
        return predictions

    def predict_proba(
        self, texts: str | Iterable[str | None], *, on_missing: str = "raise"
    ) -> npt.NDArray[np.float64]:
        """Return probabilities (R, C): a row per text in the given order, columns as in `labels`.

        Args:
            texts: a list, an array, a column of a table, a generator.
            on_missing: as in `predict`; with null the row of a missing text is NaN.

        Raises:
            TypeError: not strings, such as a table of several columns; a missing text.
        """
        missing: list[int] = []
        found_RC, _ = self._predict_all(present(texts_in(texts), on_missing, missing))
        if on_missing != "null":
            return found_RC
        return np.insert(found_RC, np.array(missing, int) - np.arange(len(missing)), np.nan, axis=0)

    def _predict_all(self, texts: Iterable[str]) -> tuple[npt.NDArray[np.float64], list[bool]]:
        """Return the probabilities (R, C), and which texts have no token."""
        parts, unread = [np.zeros((0, len(self.labels)))], list[bool]()
        for some in portions(texts, most=TEXTS_AT_ONCE, size=BYTES_AT_ONCE, of=bytes_of):
            rows = [self._encode(text) for text in some]
            unread += [
                row == [UNKNOWN] and not self._encode.has_tokens(text)
                for text, row in zip(some, rows, strict=True)
            ]
            parts.append(self._predict(rows))
        return np.concatenate(parts), unread

    def _predict(self, rows: Sequence[list[int | str]]) -> npt.NDArray[np.float64]:
        """Predict encoded texts in batches of similar length, longest first."""
        order_R = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        probabilities_RC = np.empty((len(rows), len(self.labels)))
        start = 0
        while start < len(order_R):
            longest = len(rows[order_R[start]])
            batch = order_R[start : start + max(1, TOKENS_AT_ONCE // longest)]
            start += len(batch)
            probabilities_RC[batch] = self._run([rows[i] for i in batch], longest)
        return probabilities_RC

    def _run(self, rows: Sequence[Sequence[int | str]], longest: int) -> Any:
        """Return the probabilities (B, C) of a batch of encoded texts."""
        numbered, unknown = number_unknown(rows, self._known)
        tokens_BT = np.array([row + [PAD] * (longest - len(row)) for row in numbered], np.int64)
        lengths_B = np.array([len(row) for row in rows], np.int64)
        inputs: dict[str, Any] = {"tokens": tokens_BT, "lengths": lengths_B}
        if self._subwords:
            inputs["spelling"] = spell(unknown, self._subwords)
        return self._model.run(["probabilities"], inputs)[0]


class Stream:
    """Reads a text in pieces and predicts after each of them; create one with `Classifier.stream`.

    A prediction is that of the text so far, however it is cut, to float rounding. A piece costs the same at
    any length of the text, and so does the memory. Texts are not truncated.

    Args:
        classifier: exported with --stream.
        coverage: of label sets; None for none.
    """

    def __init__(self, classifier: Classifier, coverage: float | None = None) -> None:
        self._classifier, self._coverage = classifier, coverage
        text = classifier._text
        self._stream = TokenStream(
            lowercase=text["lowercase"],
            escapes="escapes" in text.get("normalize", "none"),
            negation="negation" in text.get("normalize", "none"),
        )
        self._kept: dict[str, Any] = dict(classifier._starts)
        self._found_1C: npt.NDArray[Any] | None = None  # probabilities of the settled tokens

    def add(self, piece: str) -> Prediction:
        """Add the next piece of the text and return the prediction for the text so far.

        Pieces are joined as they are: a word may be cut in two, and words of two pieces need a space between.

        Raises:
            TypeError: the piece is not a string.
            ValueError: the model's output is non-finite.
        """
        if not isinstance(piece, str):
            raise TypeError(
                f"a piece of a stream must be a string, not {type(piece).__name__}: {piece!r:.60}"
            )
        for settled in self._stream.add(piece):
            self._found_1C, self._kept = self._read(settled, self._kept)
        found_1C, kept, rest = self._found_1C, self._kept, self._stream.rest()
        unread = found_1C is None and not rest
        tokens: list[str | int] = [*rest, *([UNKNOWN] if unread else [])]
        for token in tokens:
            found_1C, kept = self._read(token, kept)
        assert found_1C is not None, "of at least one token"
        return self._classifier._predictions(found_1C.astype(np.float64), [unread], self._coverage)[0]

    def _read(self, token: str | int, kept: dict[str, Any]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Return the probabilities (1, C) after a token, and what is kept."""
        known, model = self._classifier, self._classifier._stream_model
        assert model is not None, "checked by Classifier.stream"
        unknown = token if known._subwords else UNKNOWN
        row = [known._ids.get(token, unknown) if isinstance(token, str) else token]
        numbered, tokens = number_unknown([row], known._known)
        inputs = {"tokens": np.array(numbered, np.int64), **kept}
        if known._subwords:
            inputs["spelling"] = spell(tokens, known._subwords)
        found_1C, *after = model.run(["probabilities", *(f"{name}_after" for name in kept)], inputs)
        return found_1C, dict(zip(kept, after, strict=True))


def start_of(shape: list[int], dtype: str, value: float) -> npt.NDArray[Any]:
    """Return what a stream keeps at the start of a text.

    >>> start_of([1, 2], "float32", 0)
    array([[0., 0.]], dtype=float32)
    """
    return np.full(shape, value, dtype)


class _Model:
    """A file with a model, and this process's session."""

    def __init__(self, path: Path, sha256: str | None, threads: int) -> None:
        self._content, self._threads, self._name = path.read_bytes(), threads, path.name
        self._session: tuple[int, Any] | None = None
        if hashlib.sha256(self._content).hexdigest() != sha256:
            raise ValueError(f"{path}: is damaged or was replaced (its sha256 differs from that in {FACTS})")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}

    def run(self, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
        """Return the outputs, the first of which are probabilities.

        Raises:
            ValueError: they are non-finite.
        """
        found: list[Any] = self._session_here().run(outputs, inputs)
        if not np.isfinite(found[0]).all():
            raise ValueError(f"{self._name} gives non-finite probabilities: its weights are invalid")
        return found

    def _session_here(self) -> Any:
        """Return this process's session, created on first use.

        Threads do not survive a fork: using or destroying the parent's session in a forked process would
        deadlock.
        """
        if self._session is None or self._session[0] != os.getpid():
            import onnxruntime

            if self._session is not None:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session[1]))
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = self._threads
            settings.log_severity_level = 3  # errors only
            providers = ["CPUExecutionProvider"]
            self._session = os.getpid(), onnxruntime.InferenceSession(self._content, settings, providers)
        return self._session[1]


def _lines() -> Iterator[str]:
    """Yield the lines of stdin, limited in length."""
    for number in itertools.count(1):
        line = sys.stdin.readline(MOST_CHARACTERS + 1)
        if len(line) > MOST_CHARACTERS:
            raise ValueError(f"line {number} of stdin is longer than {MOST_CHARACTERS:,} characters")
        if not line:
            return
        yield line.rstrip("\n")


def main(argv: Sequence[str]) -> int:
    """Predict the texts of a command line, or the lines of stdin; return the exit code."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: python runtime.py [TEXT ...]\n\nPredicts texts or lines of stdin; prints JSON lines.")
        return 0
    try:
        classifier = Classifier()
    except (OSError, ValueError, KeyError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        for text in argv or _lines():
            found = classifier.predict(text)[0]
            record: dict[str, Any] = {"text": text, "label": found.label, "score": found.score}
            record |= {"probabilities": found.probabilities, **({"unread": True} if found.unread else {})}
            print(json.dumps(record), flush=True)  # ASCII is safe on any terminal
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: standard output: cannot be written: {error.strerror}", file=sys.stderr)
        return 5
    return 0
