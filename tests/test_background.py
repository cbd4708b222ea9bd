"""Reading ahead and finishing behind: order, errors, bounds and the end of the threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from lstm_sentiment.system.background import AT_ONCE, finish_behind, read_ahead

WAIT = 30  # seconds until a test fails


def threads() -> list[str]:
    return [of.name for of in threading.enumerate() if of.name.startswith(("read_ahead", "finish_behind"))]


def numbers(made: list[int], *, count: int = 100, fail_at: int | None = None) -> Iterator[int]:
    for number in range(count):
        if number == fail_at:
            raise ValueError(f"item {number}")
        made.append(number)
        yield number


@pytest.mark.parametrize("count", [0, 1, AT_ONCE, 100])
def test_items_keep_their_order(count: int) -> None:
    assert list(read_ahead(range(count))) == list(range(count))
    assert list(finish_behind(str, read_ahead(range(count)))) == list(map(str, range(count)))
    assert not threads()


def test_items_are_made_while_the_caller_works() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for number in numbers(made):
            if number == 1:
                second.set()
            yield number

    with closing(read_ahead(items())) as read:
        assert next(read) == 0
        assert second.wait(WAIT), "made without another call of next"


def test_the_function_runs_while_the_next_item_is_made() -> None:
    begun = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert begun.wait(WAIT), "the first call begins before the second item is there"
        yield 1

    def function(number: int) -> int:
        begun.set()
        return number

    assert list(finish_behind(function, items())) == [0, 1]


def test_few_items_wait() -> None:
    made: list[int] = []
    with closing(read_ahead(numbers(made))) as read:
        for taken in range(1, 20):
            next(read)
            assert len(made) <= taken + AT_ONCE
    made.clear()
    called: list[int] = []
    with closing(finish_behind(called.append, numbers(made))) as results:
        for _ in range(20):
            next(results)
            assert len(made) <= len(called) + AT_ONCE + 1


@pytest.mark.parametrize("place", [0, 1, 7])
def test_an_error_of_an_item_comes_in_its_place(place: int) -> None:
    read: list[int] = []
    with pytest.raises(ValueError, match=f"item {place}"):
        read.extend(read_ahead(numbers([], fail_at=place)))
    assert read == list(range(place))
    finished: list[int] = []
    with pytest.raises(ValueError, match=f"item {place}"):
        list(finish_behind(finished.append, numbers([], fail_at=place)))
    assert not threads()


@pytest.mark.parametrize("place", [0, 1, 7])
def test_the_function_is_not_called_again_after_its_error(place: int) -> None:
    called: list[int] = []

    def function(number: int) -> int:
        called.append(number)
        if number == place:
            raise OSError("disk full")
        return number

    results: list[int] = []
    with pytest.raises(OSError, match="disk full"):
        results.extend(finish_behind(function, range(100)))
    assert (results, called) == (list(range(place)), list(range(place + 1)))
    assert not threads()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_threads_end_with_the_caller(error: type[BaseException]) -> None:
    """An interrupt in the caller's work: the call in progress ends, no other begins, and files are closed."""
    closed, finished, let_on = threading.Event(), list[int](), threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.set()

    def function(number: int) -> None:
        let_on.wait(WAIT)
        finished.append(number)

    def work(read: Iterator[int]) -> Iterator[int]:
        for number in read:
            if number == AT_ONCE:
                let_on.set()
                raise error
            yield number

    with pytest.raises(error), closing(read_ahead(items())) as read:
        list(finish_behind(function, work(read)))
    assert closed.is_set()
    assert len(finished) <= AT_ONCE
    assert not threads()
