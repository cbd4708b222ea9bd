"""Texts that share hardly a word with the others: another language, or no language.

A word is common if at least 1 % of the texts have it. In any language about half of a text's words are
common, such as "the" and "is", so that a text whose words are nearly all rare is likely of another language.

Legend: R rows, N tokens of all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from lstm_sentiment.data.dataset import TextDataset

COMMON_SHARE, COMMON_ROWS = 0.01, 3  # least share and number of texts that have a common word
FEWEST_WORDS = 6
LEAST_SHARE = 0.8  # of rare words in a text
CHANCE = 1e-4  # largest probability of so many rare words, if words were drawn from all texts
Array = npt.NDArray[Any]


def rare_shares(rows: TextDataset) -> tuple[Array, Array]:
    """Return the share of rare words in each text, and whether it is likely of another language, (R,) each.

    Args:
        rows: texts; tokens without a letter, and names of users, links and hashtags, are not counted.

    >>> from lstm_sentiment.data.token_store import TokenStore
    >>> from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer, Vocabulary
    >>> texts = [f"this is the best film of the year {n}" for n in range(9)]
    >>> lexicon = Lexicon(Tokenizer("words", lowercase=True))
    >>> encoded = lexicon.encode([*texts, "das ist der beste Film des ganzen Jahres und wirklich sehr gut"])
    >>> store, places = TokenStore.in_memory(*encoded, lexicon.tokens), np.arange(10)
    >>> settings = {"vocabulary": Vocabulary([]), "max_tokens": 99, "truncate": "head"}
    >>> shares_R, foreign_R = rare_shares(TextDataset(store, places, places, **settings))
    >>> shares_R[[0, 9]].round(2).tolist(), np.flatnonzero(foreign_R).tolist()
    ([0.0, 0.92], [9])
    """
    store, words = rows.store, _is_word(rows.store.tokens)
    lengths_R = rows.full_lengths
    ends_R = np.cumsum(lengths_R)
    starts_R = store.offsets[rows.rows] - (ends_R - lengths_R)
    places_N = np.arange(int(lengths_R.sum())) + np.repeat(starts_R, lengths_R)
    ids_N = np.asarray(store.ids_N[places_N], np.int64)
    owner_N = np.repeat(np.arange(len(rows)), lengths_R)
    kept_N = words[ids_N]
    ids_N, owner_N = ids_N[kept_N], owner_N[kept_N]
    once = np.unique(owner_N * len(words) + ids_N)  # each word of a text once
    texts_of_word = np.bincount(once % len(words), minlength=len(words))
    rare_N = texts_of_word[ids_N] < max(COMMON_ROWS, COMMON_SHARE * len(rows))
    words_R = np.bincount(owner_N, minlength=len(rows))
    rare_R = np.bincount(owner_N, rare_N, minlength=len(rows))
    share_R = rare_R / np.maximum(words_R, 1)
    by_chance_R = binom.sf(rare_R - 1, words_R, rare_N.mean() if len(rare_N) else 0.0)
    foreign_R = (words_R >= FEWEST_WORDS) & (share_R >= LEAST_SHARE) & (by_chance_R < CHANCE)
    store.release()
    return share_R, foreign_R


def _is_word(tokens: list[str]) -> Array:
    """Return whether each token is a word."""
    other = ("@", "#", "http", "www.", "<")
    words = [any(map(str.isalpha, token)) and not token.startswith(other) for token in tokens]
    return np.array([*words, False], bool)  # a last one, so that there is any
