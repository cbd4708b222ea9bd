"""Vectors of a batch's tokens on a CPU, words with or without n-grams: a compiled kernel (see `library`).

It computes each distinct token once, and sparse gradients that need no further sorting. Sums have a fixed
order: a token's vector is bit-identical in any batch and with any number of threads, and so are a batch's
gradients with any number of threads.

Legend: N tokens of a batch, V known tokens, X unknown tokens, U distinct tokens of the batch, K buckets per
token, R buckets in all, D of which are used, E embedding size.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lstm_sentiment.kernels.library import applies_to, call, fields

BITS = 64  # of a word of the buffer for indices, as in subwords.c
MOST = 2**31 - 1  # list entries, which are 32-bit numbers there
LISTS = ("rows", "starts", "members", "spelt")  # of distinct tokens, that the gradient needs


class _Bags(ctypes.Structure):
    """The arguments of each function, as in subwords.c."""

    _fields_ = fields(
        (ctypes.c_int64, "tokens known unknown places buckets size distinct known_distinct used threads"),
        (ctypes.c_void_p, "ids spelling other_spelling words table vectors"),
        (ctypes.c_void_p, "gradients word_gradients shares bucket_gradients"),
        (ctypes.c_void_p, "counts rows starts members spelt bucket_rows bucket_starts owners"),
        (ctypes.c_void_p, "folded is_folded bits ranks"),
    )


@dataclass(frozen=True, kw_only=True)
class Ngrams:
    """The n-grams of tokens: the vectors of their buckets, and which buckets each token has.

    Args:
        table_RE: vectors of the buckets.
        spelling_VK: buckets of known tokens, int32; 0 for none.
        spelling_XK: buckets of unknown tokens.
        sparse: whether the gradient of the table is sparse.
    """

    table_RE: Tensor
    spelling_VK: Tensor
    spelling_XK: Tensor
    sparse: bool


def applies(ids: Tensor, words_VE: Tensor, ngrams: Ngrams | None) -> bool:
    """Whether `vectors` can look up these tokens.

    >>> applies(torch.zeros(3, dtype=torch.int64), torch.zeros(4, 2).double(), None)
    False
    """
    tables, places = [words_VE], 1
    if ngrams is not None:
        tables.append(ngrams.table_RE)
        places = ngrams.spelling_VK.shape[1]
    count = (ids.numel() + 1) * places
    return applies_to(*tables) and ids.device.type == "cpu" and places < count <= MOST


def vectors(ids: Tensor, words_VE: Tensor, ngrams: Ngrams | None, *, sparse: bool) -> Tensor:
    """Return the vectors (..., E) of tokens; `applies` must be True.

    A token's vector is its word's; with n-grams the sum of their vectors is added, divided by the square root
    of their number.

    Args:
        ids: of the tokens (...), int64; V + x is the x-th unknown token, which has the word vector of id 1.
        words_VE: word vectors.
        ngrams: of the tokens; None for words only.
        sparse: whether the gradient of the word vectors is sparse.

    Raises:
        ValueError: an id or a bucket is out of range, or the shapes do not match.

    >>> words_VE, ids = torch.randn(4, 2), torch.tensor([[3, 1], [0, 3]])
    >>> found = vectors(ids, words_VE, None, sparse=True) if applies(ids, words_VE, None) else words_VE[ids]
    >>> torch.equal(found, words_VE[ids])
    True
    """
    _check(words_VE, ngrams)
    arguments: tuple[Any, ...] = (None, (sparse, False), words_VE)
    if ngrams is not None:
        spelling = ngrams.spelling_VK, ngrams.spelling_XK
        arguments = (spelling, (sparse, ngrams.sparse), words_VE, ngrams.table_RE)
    found: Tensor = _Vectors.apply(ids, *arguments)  # type: ignore[no-untyped-call]
    return found


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Vectors of known tokens, n-grams included, that are kept once they have been computed.

    Args:
        vectors_VE: of known tokens.
        is_there_V: which of them have been computed, bool.
        words_VE: vectors of words alone.
        table_RE: vectors of the buckets of n-grams.
    """

    vectors_VE: Tensor
    is_there_V: Tensor
    words_VE: Tensor
    table_RE: Tensor


def applies_to_folded(ids: Tensor, folded: Folded) -> bool:
    """Whether `look_up` and `fold` can be called.

    >>> words_VE, is_there_V = torch.zeros(2, 2).double(), torch.zeros(2, dtype=torch.bool)
    >>> folded = Folded(vectors_VE=words_VE, is_there_V=is_there_V, words_VE=words_VE, table_RE=words_VE)
    >>> applies_to_folded(torch.tensor([1]), folded)
    False
    """
    tables = folded.vectors_VE, folded.words_VE, folded.table_RE
    return ids.is_cpu and applies_to(*tables)


@torch.no_grad()
def look_up(ids: Tensor, spelling_XK: Tensor, folded: Folded) -> tuple[Tensor, Tensor]:
    """Return the vectors (..., E) of tokens, and the ids of known tokens that have none yet.

    The vectors of the latter are undefined; `applies_to_folded` must be True.

    Args:
        ids: of the tokens (...), int64; V + x is the x-th unknown token.
        spelling_XK: buckets of unknown tokens, int32; 0 for none (see `tokenization.spell`).
        folded: vectors of known tokens.

    Raises:
        ValueError: an id or a bucket is out of range.
    """
    missing = torch.empty(ids.numel(), dtype=torch.int64)
    found = folded.vectors_VE.new_empty(*ids.shape, folded.vectors_VE.shape[1])
    count = _call_folded("bags_look_up", ids, spelling_XK, folded, rows=missing, vectors=found)
    return found, missing[:count]


@torch.no_grad()
def fold(ids_M: Tensor, spelling_MK: Tensor, folded: Folded) -> None:
    """Compute the vectors of known tokens and keep them; `applies_to_folded` must be True.

    Args:
        ids_M: of the tokens, int64.
        spelling_MK: buckets of each, int32.
        folded: vectors of known tokens.

    Raises:
        ValueError: an id or a bucket is out of range.

    >>> words_VE, table_RE = torch.randn(3, 4), torch.randn(9, 4)
    >>> is_there_V = torch.zeros(3, dtype=torch.bool)
    >>> kept_VE, spelling_1K = torch.zeros(3, 4), torch.tensor([[5, 0]], dtype=torch.int32)
    >>> folded = Folded(vectors_VE=kept_VE, is_there_V=is_there_V, words_VE=words_VE, table_RE=table_RE)
    >>> if applies_to_folded(torch.tensor([2]), folded):
    ...     fold(torch.tensor([2]), spelling_1K, folded)
    ...     found_2E, missing = look_up(torch.tensor([2, 0]), spelling_1K, folded)
    ...     assert torch.equal(found_2E[0], words_VE[2] + table_RE[5]) and missing.tolist() == [0]
    """
    _call_folded("bags_fold", ids_M, spelling_MK, folded)


def _call_folded(name: str, ids: Tensor, spelling: Tensor, folded: Folded, **results: Tensor) -> int:
    known, size = folded.words_VE.shape
    sizes = {"tokens": ids.numel(), "known": known, "size": size, "unknown": len(spelling)}
    sizes |= {"places": spelling.shape[1], "buckets": len(folded.table_RE)}
    counts = torch.empty(2, dtype=torch.int64)
    tables = {"folded": folded.vectors_VE, "is_folded": folded.is_there_V}
    tables |= {"words": folded.words_VE, "table": folded.table_RE}
    _check_folded(ids, spelling, folded)
    arrays = {"ids": ids.contiguous(), "other_spelling": spelling.contiguous(), "counts": counts}
    _call(name, sizes, {**tables, **arrays, **results})
    count = int(counts[0])
    if count < 0:
        raise ValueError(
            f"ids {int(ids.min())} to {int(ids.max())}, or buckets, are out of range: there are {known} "
            f"known and {len(spelling)} unknown tokens, and {len(folded.table_RE)} buckets"
        )
    return count


def _check_folded(ids: Tensor, spelling: Tensor, folded: Folded) -> None:
    tables = folded.vectors_VE, folded.words_VE, folded.table_RE
    (known, size), rows = folded.words_VE.shape, folded.is_there_V
    fit = (
        folded.vectors_VE.shape == (known, size)
        and folded.table_RE.shape[1] == size
        and rows.shape == (known,)
        and all(of.is_contiguous() for of in (*tables, rows))
        and (ids.dtype, spelling.dtype, rows.dtype) == (torch.int64, torch.int32, torch.bool)
        and ids.is_cpu
        and spelling.is_cpu
        and rows.is_cpu
        and known > 1
    )
    if not fit:
        raise ValueError(
            f"ids {ids.dtype}, buckets {spelling.dtype} {tuple(spelling.shape)} and tables "
            f"{[tuple(of.shape) for of in (*tables, rows)]} do not match"
        )


def _check(words_VE: Tensor, ngrams: Ngrams | None) -> None:
    fit = words_VE.dim() == 2
    shapes = [tuple(words_VE.shape)]
    if ngrams is not None:
        table_RE, spelling_VK, spelling_XK = ngrams.table_RE, ngrams.spelling_VK, ngrams.spelling_XK
        shapes += [tuple(of.shape) for of in (table_RE, spelling_VK, spelling_XK)]
        fit = (
            fit
            and (table_RE.dim(), spelling_VK.dim(), spelling_XK.dim()) == (2, 2, 2)
            and table_RE.shape[1] == words_VE.shape[1]
            and len(spelling_VK) == len(words_VE) > 1
            and spelling_XK.shape[1] == spelling_VK.shape[1]
            and spelling_VK.dtype == spelling_XK.dtype == torch.int32
            and spelling_VK.device == spelling_XK.device == words_VE.device
        )
    if not fit:
        raise ValueError(f"tables of words, buckets, and buckets of tokens {shapes} do not match")


class _Vectors(torch.autograd.Function):
    """From ids (...), buckets of tokens, and the tables of words and buckets to vectors (..., E)."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, spelling: Any, sparse: tuple[bool, bool], *tables: Tensor) -> Any:
        tables = tuple(of.contiguous() for of in tables)
        sizes, lists = _list_tokens(ids, spelling, tables)
        found = tables[0].new_empty(*ids.shape, sizes["size"])
        named = dict(zip(("words", "table"), tables, strict=False))
        _call("bags_forward", sizes, {**lists, **named, "vectors": found})
        ctx.sizes, ctx.sparse, ctx.shapes = sizes, sparse, [of.shape for of in tables]
        ctx.save_for_backward(*lists.values())
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        sizes, lists = dict(ctx.sizes), dict(zip(LISTS, ctx.saved_tensors, strict=True))
        shape, known = (sizes["distinct"], sizes["size"]), sizes["known_distinct"]
        of_words_UE, of_table = gradient.new_empty(shape), None
        arrays = {**lists, "gradients": gradient.contiguous(), "word_gradients": of_words_UE}
        with_table = bool(sizes["places"]) and ctx.needs_input_grad[4]
        if with_table:
            buckets = _list_buckets(sizes, lists)
            rows_D = buckets["bucket_rows"]
            of_buckets_DE = gradient.new_empty(len(rows_D), shape[1])
            arrays |= {**buckets, "shares": gradient.new_empty(shape), "bucket_gradients": of_buckets_DE}
        numbers = {"used": len(rows_D)} if with_table else {"places": 0}
        _call("bags_backward", {**sizes, **numbers}, arrays)
        of_words = _gradient(lists["rows"][:known], of_words_UE[:known], ctx.shapes[0], sparse=ctx.sparse[0])
        if with_table:
            of_table = _gradient(rows_D, of_buckets_DE, ctx.shapes[1], sparse=ctx.sparse[1])
        gradients = (of_words if ctx.needs_input_grad[3] else None, of_table)
        return None, None, None, *gradients[: len(ctx.shapes)]


def _list_tokens(
    ids: Tensor, spelling: tuple[Tensor, Tensor] | None, tables: tuple[Tensor, ...]
) -> tuple[dict[str, int], dict[str, Tensor]]:
    """Return the sizes of a call, and the lists of distinct tokens (see `LISTS`)."""
    known, size = tables[0].shape
    sizes = {"tokens": ids.numel(), "known": known, "size": size, "unknown": 0, "places": 0, "buckets": 0}
    arrays = {"ids": ids.long().contiguous(), "counts": torch.empty(2, dtype=torch.int64)}
    if spelling is not None:
        arrays["spelling"], arrays["other_spelling"] = (of.contiguous() for of in spelling)
        sizes |= {"unknown": len(spelling[1]), "places": spelling[0].shape[1], "buckets": len(tables[1])}
    room = min(sizes["tokens"] + 1, known + sizes["unknown"])
    lists = {
        "rows": torch.empty(room, dtype=torch.int64),
        "starts": torch.empty(room + 2, dtype=torch.int32),
        "members": torch.empty(sizes["tokens"], dtype=torch.int32),
        "spelt": torch.empty(room, sizes["places"], dtype=torch.int32),
    }
    _call("list_tokens", sizes, {**arrays, **lists, **_buffers(known + sizes["unknown"])})
    distinct, known_distinct = arrays["counts"].tolist()
    if distinct < 0:
        raise ValueError(
            f"ids {int(ids.min())} to {int(ids.max())}, or buckets, are out of range: there are {known} "
            f"known and {sizes['unknown']} unknown tokens, and {sizes['buckets']} buckets"
        )
    return sizes | {"distinct": distinct, "known_distinct": known_distinct}, lists


def _list_buckets(sizes: dict[str, int], lists: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the lists of distinct buckets and of the tokens that have each."""
    pairs, counts = sizes["distinct"] * sizes["places"], torch.empty(2, dtype=torch.int64)
    found = {
        "bucket_rows": torch.empty(min(pairs, sizes["buckets"]), dtype=torch.int64),
        "bucket_starts": torch.empty(min(pairs, sizes["buckets"]) + 2, dtype=torch.int32),
        "owners": torch.empty(pairs, dtype=torch.int32),
    }
    _call("list_buckets", sizes, {**lists, **found, **_buffers(sizes["buckets"]), "counts": counts})
    return found | {"bucket_rows": found["bucket_rows"][: int(counts[0])]}


def _buffers(limit: int) -> dict[str, Tensor]:
    words = -(-limit // BITS)
    return {"bits": torch.empty(words, dtype=torch.int64), "ranks": torch.empty(words, dtype=torch.int32)}


def _gradient(rows: Tensor, values: Tensor, shape: torch.Size, *, sparse: bool) -> Tensor:
    """Return the gradient of a table from that of some of its rows, in ascending order."""
    if sparse:
        return torch.sparse_coo_tensor(rows[None], values, shape, is_coalesced=True, check_invariants=False)
    return values.new_zeros(shape).index_copy_(0, rows, values)


def _call(name: str, sizes: dict[str, int], arrays: dict[str, Tensor]) -> None:
    call(name, _Bags, {**sizes, "threads": torch.get_num_threads()}, arrays)
