"""Pipelines of threads: read ahead of the caller, and finish its results behind it.

Reading and writing need Python's lock, a model in compiled code does not: they run while it computes. The
caller's own work stays in its thread, where signals arrive and the OpenMP threads of PyTorch belong.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

AT_ONCE = 1  # items that wait on each side: of long texts, they take most of the memory
Item = TypeVar("Item")
Result = TypeVar("Result")
_END = object()


def read_ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Yield items in order; the next ones are made in another thread meanwhile.

    An error of an item is raised in its place. When the iterator is closed, the item in progress is finished,
    and then the iterator of the items is closed, too.

    Args:
        items: made lazily, by that thread alone.

    >>> list(read_ahead(number * number for number in range(4)))
    [0, 1, 4, 9]
    """
    source = iter(items)
    with _closed(source), ThreadPoolExecutor(1, "read_ahead") as pool:
        pending: deque[Future[Item | object]] = deque()
        try:
            for _ in range(AT_ONCE):
                pending.append(pool.submit(next, source, _END))
            while (item := pending.popleft().result()) is not _END:
                pending.append(pool.submit(next, source, _END))
                yield item  # type: ignore[misc]
        finally:
            for future in pending:
                future.cancel()


def finish_behind(function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result, None, None]:
    """Yield ``function(item)`` for items in order; called in another thread while the next items are made.

    An error of the function is raised before a later item is yielded, and the function is not called again.
    When the iterator is closed, the call in progress is finished first, and no other begins.

    Args:
        function: called by that thread alone, for one item after the other.
        items: made lazily by the caller's thread.

    >>> list(finish_behind(str, range(3)))
    ['0', '1', '2']
    """
    failed = False

    def call(item: Item) -> Result:
        nonlocal failed
        if failed:
            raise RuntimeError("an earlier item failed")  # which is raised first, and this one never
        try:
            return function(item)
        except BaseException:
            failed = True
            raise

    with ThreadPoolExecutor(1, "finish_behind") as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(call, item))
                while pending and (len(pending) > AT_ONCE or pending[0].done()):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextlib.contextmanager
def _closed(items: Iterator[Any]) -> Iterator[None]:
    """Close an iterator at the end of a block, if it can be closed."""
    try:
        yield
    finally:
        if isinstance(items, Generator):
            items.close()
