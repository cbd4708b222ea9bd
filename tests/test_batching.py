"""The queue that predicts the texts of simultaneous requests together: order, sharing, bounds, failures."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lstm_sentiment.serving.batching import Batch, BatchQueue, QueueClosedError, QueueFullError


class Lengths:
    """A model whose prediction is the length of a text; it keeps the batches that it got."""

    def __init__(self, *, pause: float = 0.0) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._pause = pause

    def __call__(self, texts: list[str]) -> list[int]:
        self.gate.wait(10)
        time.sleep(self._pause)
        self.batches.append(texts)
        if "broken" in texts:
            raise ValueError("broken")
        return [len(text) for text in texts]


def run(test: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine for 20 seconds at most, on a thread: Playwright's event loop occupies the main one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(asyncio.wait_for(test, 20))).result()


@pytest.mark.parametrize(("most", "calls"), [(8, 5), (1, 40)])  # alone: the control arm
def test_requests_at_the_same_time_share_batches(most: int, calls: int) -> None:
    model = Lengths()

    async def test() -> None:
        queue = BatchQueue(model, most_texts=most, wait_s=0.01)
        asked = [["x" * i] if i % 2 else ["x" * i, "", "yy"] for i in range(20)]
        found = await asyncio.gather(*map(queue.ask, asked))
        assert found == [[len(text) for text in texts] for texts in asked]
        await queue.close()

    run(test())
    assert len(model.batches) == calls
    assert max(map(len, model.batches)) == most


def test_a_large_request_does_not_hold_up_a_small_one() -> None:
    model = Lengths(pause=0.001)

    async def test() -> list[str]:
        queue = BatchQueue(model, most_texts=4, wait_s=0.0)
        done: list[str] = []

        async def ask(name: str, texts: list[str]) -> None:
            assert await queue.ask(texts) == [len(text) for text in texts]
            done.append(name)

        await asyncio.gather(ask("large", ["large"] * 200), ask("small", ["small"]))
        await queue.close()
        return done

    assert run(test()) == ["small", "large"]


def test_a_full_queue_refuses_and_recovers() -> None:
    model = Lengths()

    async def test() -> None:
        queue = BatchQueue(model, most_texts=2, wait_s=0.0, most_waiting=4)
        model.gate.clear()
        first = asyncio.ensure_future(queue.ask(["a", "b"]))
        await asyncio.sleep(0.05)  # it is being predicted, and no longer waits
        waiting = asyncio.ensure_future(queue.ask(["c"] * 4))
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="4 texts are waiting") as refused:
            await queue.ask(["d"])
        assert refused.value.retry_after >= 1
        model.gate.set()
        assert await first == [1, 1]
        assert await waiting == [1] * 4
        assert await queue.ask(["dd"]) == [2]
        assert queue.waiting == 0
        await queue.close()

    run(test())


def test_a_failure_reaches_its_own_batch_only() -> None:
    async def test() -> None:
        queue = BatchQueue(Lengths(), most_texts=4, wait_s=0.0)
        with pytest.raises(ValueError, match="broken"):
            await queue.ask(["broken", "a", "b", "c", "d", "e"])
        assert await queue.ask(["abc"]) == [3]
        assert queue.waiting == 0
        await queue.close()

    run(test())


def test_a_cancelled_request_is_not_predicted() -> None:
    model = Lengths()

    async def test() -> None:
        queue = BatchQueue(model, wait_s=0.01)
        gone = asyncio.ensure_future(queue.ask(["gone"]))
        await asyncio.sleep(0)
        gone.cancel()
        assert await queue.ask(["here"]) == [4]
        assert queue.waiting == 0
        await queue.close()

    run(test())
    assert model.batches == [["here"]]


def test_closing_finishes_what_waits_and_takes_no_more() -> None:
    async def test() -> None:
        queue = BatchQueue(Lengths(pause=0.01), most_texts=2, wait_s=0.0)
        waiting = [asyncio.ensure_future(queue.ask([text] * 3)) for text in ("a", "bb")]
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(queue.close())
        await asyncio.sleep(0)
        with pytest.raises(QueueClosedError):
            await queue.ask(["late"])
        assert await asyncio.gather(*waiting) == [[1] * 3, [2] * 3]
        await closing

    run(test())


def test_a_batch_is_reported() -> None:
    seen: list[Batch] = []

    async def test() -> None:
        queue = BatchQueue(Lengths(), wait_s=0.03, observe=seen.append)
        assert await queue.ask([]) == []
        await asyncio.gather(queue.ask(["a", "b"]), queue.ask(["c"]))
        await queue.close()

    run(test())
    assert [(batch.texts, batch.found, len(batch.waited_s)) for batch in seen] == [(3, [1, 1, 1], 2)]
    assert all(0.02 < waited_s < 1 for waited_s in seen[0].waited_s)
