"""How fast an exported run answers beside PyTorch: on this machine, in one process, in turn.

Both meet every text for the first time, and each goes first every other time, so that a busy machine
and what is remembered of texts serve both alike.
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
CALLS = {1: 200, 64: 40}  # timed, after a tenth as many to warm up
PAUSE_S = 0.01  # threads of the one called last wait busily for a while, on the cores of the other
WORDS, SPREAD = 20.0, 6.5  # of a made-up text, as of a tweet
Answer = Callable[[list[str]], Any]


def compare_speed(pytorch: Answer, exported: Answer, texts: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Return, for each batch size, milliseconds per call of both, and how many times faster the second is.

    Args:
        pytorch: takes texts.
        exported: takes texts.
        texts: at least one; where they do not suffice they are used again.

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
    """Return the comparison as lines for people: medians, and p10 to p90 in brackets."""

    def shown(values: dict[str, float], unit: str) -> str:
        return f"{values['median']:.2f}{unit} ({values['p10']:.2f} to {values['p90']:.2f})"

    return [
        f"  {size:>2} at a time: PyTorch {shown(of['pytorch_ms'], ' ms')}, "
        f"exported {shown(of['exported_ms'], ' ms')}, {shown(of['ratio'], ' times as fast')}"
        for size, of in found.items()
    ]


def texts_of_file(file: str, *, text_column: str, trained: str, **how: Any) -> list[str]:
    """Return as many of a file's texts as a comparison takes.

    Args:
        file: anything that training reads too.
        text_column: where the text is; auto finds it.
        trained: the column that the run was trained on.
        how: the file is read: encoding, quoting, header and sheet of `open_source`.

    Raises:
        DataError: the file or column cannot be used.
    """
    texts: list[str] = []
    with open_source(file, **how, encoding_errors="replace") as source:
        for chunk in read_chunks(source, labelled=False):
            column = pick_column(
                text_column, [str(c) for c in chunk.frame.columns], candidates=TEXT_COLUMNS,
                key="--text-column", file=file, trained=trained,
            )  # fmt: skip
            texts += column_texts(chunk, column, file)
            if len(texts) >= _needed():
                break
    return texts[: _needed()]


def made_up_texts(words: Sequence[str]) -> list[str]:
    """Return texts as long as tweets of random words of a vocabulary.

    >>> len(made_up_texts(["good", "bad"])[0].split()) > 0
    True
    """
    random, known = np.random.default_rng(1), list(words) or ["word"]
    lengths = np.clip(random.normal(WORDS, SPREAD, _needed()), 1, None).astype(int)
    return [" ".join(known[i] for i in random.integers(0, len(known), length)) for length in lengths]


def _needed() -> int:
    return sum(size * (calls + calls // 10) for size, calls in CALLS.items())


def _spread(values: Any) -> dict[str, float]:
    return {name: float(np.percentile(values, q)) for name, q in (("median", 50), ("p10", 10), ("p90", 90))}
