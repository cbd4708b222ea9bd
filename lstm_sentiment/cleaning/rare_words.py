"""Texts that share hardly a word with the others: another language, or no language.

In any language about half of a text's words are in at least 1 % of all texts, such as "the" and "is". A text
is likely of another language if most of its words are rarer, and the mean of their log frequencies is far
below that of all words. Of 20 short texts in 12 languages among 3,000 English ones 17 to 20 are found, in six
corpora; up to 15 others are lists of names and numbers, or turned out to be in another language, too.

Legend: R rows, N words of all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.data.dataset import TextDataset

COMMON_SHARE, COMMON_ROWS = 0.01, 3  # least share and number of texts that have a common word
FEWEST_WORDS = 5
LEAST_SHARE = 0.7  # of rare words in a text
STANDARD_ERRORS = 3.5  # of the mean log frequency of a text's words, below that of all words
Array = npt.NDArray[Any]


def rare_words(rows: TextDataset) -> tuple[Array, Array]:
    """Return the share of rare words in each text, and whether it is likely of another language, (R,) each.

    Args:
        rows: texts; tokens without a letter, names of users, links and hashtags are not counted.

    >>> from lstm_sentiment.data.token_store import TokenStore
    >>> from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer, Vocabulary
    >>> texts = [f"this is the best film of the year {n}" for n in range(29)]
    >>> lexicon = Lexicon(Tokenizer("words", lowercase=True))
    >>> encoded = lexicon.encode([*texts, "das ist der beste Film des ganzen Jahres und wirklich sehr gut"])
    >>> store, places = TokenStore.in_memory(*encoded, lexicon.tokens), np.arange(30)
    >>> settings = {"vocabulary": Vocabulary([]), "max_tokens": 99, "truncate": "head"}
    >>> share_R, foreign_R = rare_words(TextDataset(store, places, places, **settings))
    >>> share_R[[0, 29]].round(2).tolist(), np.flatnonzero(foreign_R).tolist()
    ([0.0, 0.92], [29])
    """
    ids_N, owner_N = _words(rows)
    kinds = len(rows.store.tokens) + 1
    once = np.unique(owner_N * kinds + ids_N)  # each word of a text once
    texts_of_word = np.bincount(once % kinds, minlength=kinds)[ids_N]
    rare_N = texts_of_word < max(COMMON_ROWS, COMMON_SHARE * len(rows))
    log_N = np.log((texts_of_word - 0.5) / len(rows))  # of the other texts, plus one half
    words_R = np.maximum(np.bincount(owner_N, minlength=len(rows)), 1)
    share_R = np.bincount(owner_N, rare_N, minlength=len(rows)) / words_R
    mean_R = np.bincount(owner_N, log_N, minlength=len(rows)) / words_R
    mean, spread = (log_N.mean(), log_N.std()) if len(log_N) else (0.0, 0.0)
    foreign_R = mean_R < mean - STANDARD_ERRORS * spread / np.sqrt(words_R)
    foreign_R &= (words_R >= FEWEST_WORDS) & (share_R >= LEAST_SHARE)
    return share_R, foreign_R


def _words(rows: TextDataset) -> tuple[Array, Array]:
    """Return the token numbers of all words, and the row of each, (N,) each."""
    store, lengths_R = rows.store, rows.full_lengths
    before_R = store.offsets[rows.rows] - (np.cumsum(lengths_R) - lengths_R)
    ids_N = np.asarray(
        store.ids_N[np.arange(int(lengths_R.sum())) + np.repeat(before_R, lengths_R)], np.int64
    )
    store.release()
    owner_N = np.repeat(np.arange(len(rows)), lengths_R)
    kept_N = np.array([*map(_is_word, store.tokens), False])[ids_N]
    return ids_N[kept_N], owner_N[kept_N]


def _is_word(token: str) -> bool:
    return any(map(str.isalpha, token)) and not token.startswith(("@", "#", "http", "www.", "<"))
