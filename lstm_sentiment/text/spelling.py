"""Hash buckets of the character n-grams of tokens, by a compiled function where it is available."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lstm_sentiment.kernels import spelling as kernel
from lstm_sentiment.text import tokenization
from lstm_sentiment.text.tokenization import MOST_PLACES


def spell(tokens: Sequence[str], buckets: int) -> npt.NDArray[np.int32]:
    """Return the same table (tokens, K) as `tokenization.spell`, in a third of the time or less.

    Args:
        tokens: any strings.
        buckets: number of buckets, at least 2; bucket 0 is padding.

    >>> np.array_equal(spell(["so", "<url>"], 1000), tokenization.spell(["so", "<url>"], 1000))
    True
    """
    if not tokens or not kernel.available():
        return tokenization.spell(tokens, buckets)
    return kernel.buckets_of(tokenization.bounded(tokens), buckets=buckets, places=MOST_PLACES)
