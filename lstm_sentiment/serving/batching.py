"""A queue that predicts the texts of simultaneous requests together.

Requests wait for at most a few milliseconds for others. Texts of a request that does not fit into a batch go
to the end of the queue, so that a large request does not hold up small ones. The model runs on one thread;
all other code runs on the event loop, without locks.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lstm_sentiment.errors import SentimentError

Found = TypeVar("Found")
SMOOTHING = 0.1  # of the texts predicted per second


class QueueFullError(SentimentError):
    """Too many texts are waiting.

    Args:
        waiting: number of texts in the queue.
        retry_after: whole seconds after which there should be room.
    """

    def __init__(self, waiting: int, retry_after: int) -> None:
        self.retry_after = retry_after
        super().__init__(
            f"{waiting:,} texts are waiting, and the queue is full; try again in {retry_after} s"
        )


class QueueClosedError(SentimentError):
    """The server is stopping and takes no more texts."""


@dataclass(eq=False)
class _Job(Generic[Found]):
    """Texts of one request: those from `taken` on are waiting, and `left` have no result yet."""

    texts: Sequence[str]
    future: asyncio.Future[list[Found]]
    results: list[Found | None]
    arrived: float
    left: int
    taken: int = 0


@dataclass(kw_only=True)
class Batch:
    """What happened to one batch, for metrics.

    Args:
        texts: number of texts.
        waited_s: seconds that each of its requests waited before it.
        predicted_s: seconds that the model took.
        found: the results, in the order of the texts; empty if the model failed.
    """

    texts: int
    waited_s: list[float]
    predicted_s: float
    found: Sequence[Any] = field(default_factory=tuple)


class BatchQueue(Generic[Found]):
    """Predicts texts in batches; create it on the event loop that it is used on.

    Args:
        predict: returns one result per text, in order; called on a thread of its own, one call at a time.
        most_texts: of a batch; 1 predicts each text alone.
        wait_s: longest wait for other texts.
        most_waiting: texts that may wait; requests beyond it are refused.
        observe: called with each `Batch`.

    Example::

        queue = BatchQueue(lambda texts: [len(text) for text in texts])
        await asyncio.gather(queue.ask(["so-so"]), queue.ask(["", "bad"]))  # [[5], [0, 3]]
        await queue.close()
    """

    def __init__(
        self,
        predict: Callable[[list[str]], Sequence[Found]],
        *,
        most_texts: int = 24,
        wait_s: float = 0.002,
        most_waiting: int = 4096,
        observe: Callable[[Batch], None] = lambda _: None,
    ) -> None:
        self._predict, self._observe = predict, observe
        self._most_texts, self._wait_s, self.most_waiting = most_texts, wait_s, most_waiting
        self._jobs: deque[_Job[Found]] = deque()
        self.waiting = 0  # texts
        self._per_second = 1000.0  # texts, smoothed
        self._changed, self._closing = asyncio.Event(), False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._runner = asyncio.get_running_loop().create_task(self._run())

    async def ask(self, texts: Sequence[str]) -> list[Found]:
        """Return the results of some texts, in order.

        Raises:
            QueueFullError: too many texts are waiting.
            QueueClosedError: the queue is closed.
            Exception: what `predict` raised for a batch with some of these texts.
        """
        if self._closing:
            raise QueueClosedError("the server is stopping")
        if not texts:
            return []
        if self.waiting + len(texts) > self.most_waiting:
            raise QueueFullError(self.waiting, max(1, math.ceil(self.waiting / self._per_second)))
        future: asyncio.Future[list[Found]] = asyncio.get_running_loop().create_future()
        empty: list[Found | None] = [None] * len(texts)
        self._jobs.append(_Job(texts, future, empty, time.perf_counter(), len(texts)))
        self.waiting += len(texts)
        self._changed.set()
        return await future

    async def close(self) -> None:
        """Refuse new texts, finish those that wait, and end the thread."""
        self._closing = True
        self._changed.set()
        await self._runner
        self._thread.shutdown()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._jobs or not self._closing:
            if not self._jobs:
                self._changed.clear()
                await self._changed.wait()
                continue
            if self._wait_s and self.waiting < self._most_texts and not self._closing:
                await asyncio.sleep(self._wait_s)
            taken = self._take()
            texts = [job.texts[place] for job, place in taken]
            if not texts:  # their requests were cancelled
                continue
            started = time.perf_counter()
            waited_s = [started - job.arrived for job, place in taken if place == 0]
            batch = Batch(texts=len(texts), waited_s=waited_s, predicted_s=0.0)
            try:
                found = await loop.run_in_executor(self._thread, self._predict, texts)
                batch.found = found
                self._finish(taken, found)
            except Exception as error:  # raised where the texts came from
                self._fail(taken, error)
            batch.predicted_s = time.perf_counter() - started
            self._per_second += SMOOTHING * (len(texts) / max(batch.predicted_s, 1e-6) - self._per_second)
            self._observe(batch)

    def _take(self) -> list[tuple[_Job[Found], int]]:
        """Take texts of a batch from the queue: (job, place of the text in it)."""
        taken: list[tuple[_Job[Found], int]] = []
        for _ in range(len(self._jobs)):
            room = self._most_texts - len(taken)
            if room == 0:
                break
            job = self._jobs.popleft()
            if job.future.done():  # cancelled, or failed with an earlier part
                self.waiting -= len(job.texts) - job.taken
                continue
            last = min(len(job.texts), job.taken + room)
            taken += [(job, place) for place in range(job.taken, last)]
            self.waiting -= last - job.taken
            job.taken = last
            if last < len(job.texts):
                self._jobs.append(job)
        return taken

    def _finish(self, taken: list[tuple[_Job[Found], int]], found: Sequence[Found]) -> None:
        for (job, place), result in zip(taken, found, strict=True):
            job.results[place] = result
            job.left -= 1
            if not job.left and not job.future.done():
                job.future.set_result(job.results)  # type: ignore[arg-type] # all are there

    def _fail(self, taken: list[tuple[_Job[Found], int]], error: Exception) -> None:
        for job, _ in taken:
            if not job.future.done():
                job.future.set_exception(error)
