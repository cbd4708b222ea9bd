"""Latency benchmark of an exported run against PyTorch, alternating in one process.

Both see each text for the first time, and take turns at going first, so that system load and caches affect
both equally.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lstm_sentiment.data.formats.readers import TEXT_COLUMNS, column_texts, pick_column, read_chunks
from lstm_sentiment.data.sources.sources import open_source

BATCHES = (1, 64)  # texts at a time
CALLS = {1: 200, 64: 40}  # timed, after a tenth as many warm-up calls
PAUSE_S = 0.01  # lets the spinning threads of the previous call go to sleep
WORDS, SPREAD = 20.0, 6.5  # mean and standard deviation of the length of synthetic texts, as of tweets
Predict = Callable[[list[str]], Any]


def compare_speed(pytorch: Predict, exported: Predict, texts: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Return the milliseconds per call of both, and the speedup of the second, by batch size.

    Args:
        pytorch: function of texts.
        exported: function of texts.
        texts: at least one; repeated if there are too few.

    >>> found = compare_speed(lambda texts: sorted(texts * 9), len, ["so", "good"])
    >>> sorted(found), sorted(found[1])
    ([1, 64], ['exported_ms', 'pytorch_ms', 'ratio'])
    """
    remaining = itertools.cycle(texts)
    found = {}
    for size in BATCHES:
        warm_up = CALLS[size] // 10
        times_ms = np.empty((2, CALLS[size] + warm_up))
        for call in range(times_ms.shape[1]):
            batch = list(itertools.islice(remaining, size))
            for which in (0, 1) if call % 2 else (1, 0):
                time.sleep(PAUSE_S)
                started = time.perf_counter()
                (pytorch, exported)[which](batch)
                times_ms[which, call] = 1e3 * (time.perf_counter() - started)
        times_ms = times_ms[:, warm_up:]
        values = {
            "pytorch_ms": times_ms[0],
            "exported_ms": times_ms[1],
            "ratio": times_ms[0] / times_ms[1],
        }
        found[size] = {name: _spread(of_calls) for name, of_calls in values.items()}
    return found


def speed_lines(found: dict[int, dict[str, Any]]) -> list[str]:
    """Format the comparison: medians, and p10 to p90 in brackets."""

    def shown(values: dict[str, float], unit: str) -> str:
        return f"{values['median']:.2f}{unit} ({values['p10']:.2f} to {values['p90']:.2f})"

    return [
        f"  {size:>2} at a time: PyTorch {shown(of['pytorch_ms'], ' ms')}, "
        f"exported {shown(of['exported_ms'], ' ms')}, {shown(of['ratio'], ' times as fast')}"
        for size, of in found.items()
    ]


def texts_of_file(file: str, *, text_column: str, trained: str, **how: Any) -> list[str]:
    """Return as many of a file's texts as the benchmark needs.

    Args:
        file: in any format of training data.
        text_column: column of the text; auto detects it.
        trained: the text column of training.
        how: further arguments of `open_source`: encoding, quoting, header and sheet.

    Raises:
        DataError: the file or column cannot be used.
    """
    texts: list[str] = []
    with open_source(file, **how, encoding_errors="replace") as source:
        for chunk in read_chunks(source, labelled=False):
            column = pick_column(
                text_column, [str(c) for c in chunk.frame.columns], candidates=TEXT_COLUMNS,
                key="--text-column", file=chunk.file, trained=trained,
            )  # fmt: skip
            texts += column_texts(chunk, column, chunk.file)
            if len(texts) >= _needed():
                break
    return texts[: _needed()]


def synthetic_texts(words: Sequence[str]) -> list[str]:
    """Return texts of random words of a vocabulary, as long as tweets.

    >>> len(synthetic_texts(["good", "bad"])[0].split()) > 0
    True
    """
    random, known = np.random.default_rng(1), list(words) or ["word"]
    lengths = np.clip(random.normal(WORDS, SPREAD, _needed()), 1, None).astype(int)
    return [" ".join(known[i] for i in random.integers(0, len(known), length)) for length in lengths]


def _needed() -> int:
    return sum(size * (calls + calls // 10) for size, calls in CALLS.items())


def _spread(values: Any) -> dict[str, float]:
    return {name: float(np.percentile(values, q)) for name, q in (("median", 50), ("p10", 10), ("p90", 90))}
