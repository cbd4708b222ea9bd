"""What the routes of a server share: models, their queues, metrics, a thread for explanations."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Response

from lstm_sentiment.explanation.attribution import Explanation
from lstm_sentiment.serving.batching import BatchQueue, QueueClosedError, QueueFullError
from lstm_sentiment.serving.figures import Figures
from lstm_sentiment.serving.models import Model, Read
from lstm_sentiment.serving.responses import Limits
from lstm_sentiment.serving.schemas import RequestError

MOST_EXPLAINING = 8  # requests with explanations at a time; further ones are refused
Result = TypeVar("Result")


class Server:
    """What the routes share: models, their queues, metrics.

    Args:
        models: to predict with; requests that name none get the first.
        limits: of requests.
        batch: most texts of a batch.
        wait_s: longest wait for other texts.
        most_waiting: texts that may wait.
        rows: whether to read the data of runs that were not trained on this machine, for their mistakes.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        limits: Limits | None = None,
        batch: int = 24,
        wait_s: float = 0.002,
        most_waiting: int = 4096,
        rows: bool = False,
    ) -> None:
        self.models, self.limits, self.figures = models, limits or Limits(), Figures(models)
        self._queueing = {"wait_s": wait_s, "most_waiting": max(most_waiting, self.limits.texts)}
        self._batch, self.rows = batch, rows
        self.queues: dict[str, BatchQueue[Read]] = {}
        self._explaining = 0
        self._thread: ThreadPoolExecutor | None = None

    @contextlib.asynccontextmanager
    async def running(self, _app: Any = None) -> AsyncIterator[None]:
        """Run the queues on the current event loop; at the end, finish the texts that wait."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="explain")
        for model in self.models:
            queue = self.queues[model.name] = self._queue_of(model)
            self.figures.watch(model, queue)
        try:
            yield
        finally:
            for queue in self.queues.values():
                await queue.close()
            self._thread.shutdown(cancel_futures=True)

    def _queue_of(self, model: Model) -> BatchQueue[Read]:
        batch = self._batch if model.exact else 1
        observe = lambda of: self.figures.predicted(model, of)  # noqa: E731
        return BatchQueue(model.read, most_texts=batch, observe=observe, **self._queueing)  # type: ignore[arg-type]

    async def read(self, model: Model, texts: Sequence[str]) -> list[Read]:
        """Predict texts together with those of other requests.

        Raises:
            RequestError: 503: too many texts are waiting, or the server is stopping.
        """
        try:
            return await self.queues[model.name].ask(texts)
        except QueueFullError as error:
            raise busy(str(error), error.retry_after) from None
        except QueueClosedError as error:
            raise busy(str(error), 1) from None

    async def explain(self, model: Model, texts: Sequence[str]) -> list[Explanation]:
        """Explain the predictions of texts, one by one.

        Raises:
            RequestError: 422: the model cannot explain; 503: too many requests are being explained.
        """
        if model.kind != "run":
            problem = "an exported model cannot explain its predictions; serve the run folder"
            raise RequestError(problem, status=422, field="parameters.explain")
        return [await self.slowly(model.explain, text) for text in texts]

    async def slowly(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a slow function on a thread of its own, next to the predictions.

        Raises:
            RequestError: 503: too many of them are waiting.
        """
        if self._explaining >= MOST_EXPLAINING:
            raise busy("too many requests are being explained", 1)
        self._explaining += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        finally:
            self._explaining -= 1


def busy(message: str, retry_after: int) -> RequestError:
    """Return the error of a server that is too busy: 503, with the seconds after which to try again.

    >>> busy("full", 2).headers
    {'Retry-After': '2'}
    """
    return RequestError(message, status=503, headers={"Retry-After": str(retry_after)})


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response; non-finite numbers are not JSON.

    >>> as_json({"label": "gut"}).body
    b'{"label":"gut"}'
    """
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, headers, "application/json")
