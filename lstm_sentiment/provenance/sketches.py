"""Sketches of texts: 128 bits from which the Jaccard index of two texts' sets of tokens is estimated.

Each bit is the lowest bit of the smallest hash of a text's tokens, for one of 128 hash functions. It agrees
for two texts with probability (1 + J) / 2, where J is their Jaccard index (Li and König 2010, "b-bit minwise
hashing"). The standard error of the estimate is sqrt((1 - J²) / 128), at most 0.09.

Legend: R texts, N tokens of all texts, V distinct tokens, K bits, S other texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

BITS = 128
LEAST = 0.75  # estimated Jaccard index of similar texts
SHORTEST = 5  # distinct tokens; shorter texts have no sketch
TOKENS_AT_ONCE = 1 << 20
PAIRS_AT_ONCE = 1 << 24
Array = npt.NDArray[Any]


def sketches(ids_N: Array, lengths_R: Array, tokens: Sequence[str]) -> tuple[Array, Array]:
    """Return the sketches of texts, and which texts have one.

    Args:
        ids_N: token numbers of all texts, indices in `tokens`.
        lengths_R: tokens of each text.
        tokens: distinct tokens; their case does not count.

    Returns:
        packed bits (R, 16), uint8, of 0 for a text with fewer than `SHORTEST` distinct tokens; and whether
        each text has a sketch (R,).

    >>> ids_N, lengths_R = np.array([0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 0]), np.array([5, 6])
    >>> bits_RK, sketched_R = sketches(ids_N, lengths_R, ["a", "fine", "film", "of", "ours"])
    >>> bits_RK.shape, sketched_R.tolist(), bool((bits_RK[0] == bits_RK[1]).all())
    ((2, 16), [True, True], True)
    """
    hashes_V = np.array([_token_hash(token) for token in tokens], np.uint64)
    ends_R = np.cumsum(lengths_R)
    packed, sketched = [np.zeros((0, BITS // 8), np.uint8)], [np.zeros(0, bool)]
    start = 0
    while start < len(lengths_R):
        first = int(ends_R[start] - lengths_R[start])
        stop = max(start + 1, int(np.searchsorted(ends_R, first + TOKENS_AT_ONCE, side="right")))
        bits_RK, sketched_R = _bits(ids_N[first : int(ends_R[stop - 1])], lengths_R[start:stop], hashes_V)
        packed.append(np.packbits(bits_RK, axis=1))
        sketched.append(sketched_R)
        start = stop
    return np.concatenate(packed), np.concatenate(sketched)


def similar(sketches_RK: Array, others_SK: Array) -> Array:
    """Return which texts are similar to one of the others, (R,): an estimated Jaccard index of `LEAST`.

    A text whose true index is 0.8 is found with probability 0.8, one of 0.85 with 0.98, 0.5 with 0.001.

    Args:
        sketches_RK: of the texts (R, 16).
        others_SK: of the other texts (S, 16).

    >>> mine_RK = np.array([[0] * 16, [255] * 16], np.uint8)
    >>> similar(mine_RK, np.array([[1] + [0] * 15], np.uint8)).tolist()
    [True, False]
    """
    found_R = np.zeros(len(sketches_RK), bool)
    others_KS = _signs(others_SK).T
    step = max(1, PAIRS_AT_ONCE // max(1, len(others_SK)))
    for start in range(0, len(sketches_RK) if len(others_SK) else 0, step):
        agreement_RS = _signs(sketches_RK[start : start + step]) @ others_KS
        found_R[start : start + step] = agreement_RS.max(axis=1) >= LEAST * BITS
    return found_R


def _signs(packed: Array) -> Array:
    """Return bits as -1 and 1, float32: the product of two rows is K times the estimated index."""
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1


def _token_hash(token: str) -> int:
    digest = hashlib.blake2b(token.lower().encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _bits(ids_N: Array, lengths_R: Array, hashes_V: Array) -> tuple[Array, Array]:
    """Return the bits (R, K) of texts, and which texts have enough distinct tokens (R,)."""
    bits_RK = np.zeros((len(lengths_R), BITS), bool)
    owners_N = np.repeat(np.arange(len(lengths_R)), lengths_R)
    keys = np.unique(owners_N * max(1, len(hashes_V)) + ids_N.astype(np.int64))  # each token of a text once
    owners, ids = keys // max(1, len(hashes_V)), keys % max(1, len(hashes_V))
    counts_R = np.bincount(owners, minlength=len(lengths_R))
    filled = np.flatnonzero(counts_R)
    if not len(filled):
        return bits_RK, counts_R >= SHORTEST
    starts = np.cumsum(counts_R)[filled] - counts_R[filled]
    for k in range(BITS):
        bits_RK[filled, k] = np.minimum.reduceat(_mixed(hashes_V, k)[ids], starts) & np.uint32(1)
    bits_RK[counts_R < SHORTEST] = False
    return bits_RK, counts_R >= SHORTEST


def _mixed(hashes_V: Array, function: int) -> Array:
    """Return the values (V,) of one of the hash functions, uint32: the finalizer of splitmix64."""
    mixed_V = hashes_V ^ np.uint64((function + 1) * 0x9E3779B97F4A7C15 % (1 << 64))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed_V = (mixed_V ^ (mixed_V >> np.uint64(shift))) * np.uint64(factor)
    return (mixed_V ^ (mixed_V >> np.uint64(31))).astype(np.uint32)
