"""Hash buckets of the character n-grams of tokens: a compiled function, if it is available here.

It is part of the library of `tokens`. `tokenization.spell` says what it computes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.kernels.tokens import library


def available() -> bool:
    """Whether `buckets_of` can be called; not with a library built before it was added.

    >>> available() in (True, False)
    True
    """
    return hasattr(library(), "tokens_spell")


def buckets_of(words: Sequence[str], *, buckets: int, places: int) -> npt.NDArray[np.int32]:
    """Return the buckets (X, `places`) of the n-grams of each word, ascending and then 0.

    Args:
        words: in lower case, with characters for their start and end; a word of one character has none.
        buckets: number of buckets, at least 2.
        places: the most buckets that a word has; the lowest ones are kept.

    >>> buckets_of(["so", "x"], buckets=1000, places=2).tolist() if available() else [[116, 0], [0, 0]]
    [[116, 0], [0, 0]]
    """
    lengths_X = np.fromiter(map(len, words), np.int64, len(words))
    codes = "".join(words).encode("utf-32-le", "surrogatepass")
    table_XK = np.zeros((len(words), places), np.int32)
    compiled: Any = library()
    compiled.tokens_spell(
        codes,
        ctypes.c_void_p(lengths_X.ctypes.data),
        ctypes.c_int64(len(words)),
        ctypes.c_int64(places),
        ctypes.c_int64(buckets),
        ctypes.c_void_p(table_XK.ctypes.data),
    )
    return table_XK
