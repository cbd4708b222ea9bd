"""Engines that predict the shards of an output folder: this process, or Ray Data on one machine or many.

The unit of work is a shard. Its output is written under a temporary name and renamed, so that a worker that
is killed leaves nothing behind, and its shard is predicted again, with the same bits.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from lstm_sentiment import errors
from lstm_sentiment.bulk.labelling import Asked, Counts, Labelling
from lstm_sentiment.bulk.output_folder import Job
from lstm_sentiment.bulk.predictor import BatchPredictor, one_thread
from lstm_sentiment.data.sources.sources import is_blank, open_source
from lstm_sentiment.errors import ConfigError, SentimentError
from lstm_sentiment.monitoring.drift import Profile
from lstm_sentiment.system.extras import need
from lstm_sentiment.system.files import local_path

ENGINES = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class Work:
    """How shards are predicted; the same for all.

    Args:
        run: path of a run folder, or ``starter``.
        device: to compute on.
        precision: of the LSTM's products, fp32 or bf16.
        asked: what is predicted.
        how: further arguments of `open_source`.
        spreadsheet_safe: see `open_table`.
    """

    run: str
    device: str
    asked: Asked
    how: Mapping[str, Any]
    precision: str = "fp32"
    spreadsheet_safe: bool = False


def predict_shard(labelling: Labelling, job: Job, work: Work) -> None:
    """Predict one shard; one without rows has no output.

    Args:
        labelling: that counts.
        job: input and output.
        work: as for all shards.

    Raises:
        SentimentError: as for `Labelling.write`; nothing is written then.

    Example::

        predict_shard(labelling, Job(source="in/a.csv", out="out/a.csv"), work)
    """
    with open_source(job.source, **work.how, encoding_errors="replace") as source:
        if not is_blank(source):
            labelling.write(source, job.out, spreadsheet_safe=work.spreadsheet_safe, skip_empty=True)


class ShardPredictor:
    """Predicts the shards that it gets: the class of the actors of Ray Data.

    Args:
        work: as for all shards.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._classifier = BatchPredictor(work.run, device=work.device, precision=work.precision).classifier
        if work.asked.branch:
            self._classifier = self._classifier.__copy__()
            self._classifier.keep_branch(work.asked.branch)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Predict some shards.

        Args:
            batch: columns ``source`` and ``out``.

        Returns:
            a column ``result``: JSON of the counts, or of an error that the user can fix.
        """
        results = []
        for source, out in zip(batch["source"], batch["out"], strict=True):
            labelling = Labelling(self._classifier, self._work.asked)
            try:
                with one_thread():
                    predict_shard(labelling, Job(source=str(source), out=str(out)), self._work)
                found: dict[str, Any] = {"counts": dataclasses.asdict(labelling.counts)}
            except SentimentError as error:
                found = {"error": [type(error).__name__, str(error)]}
            results.append(json.dumps(found))
        return {"result": results}


def predict_shards(labelling: Labelling, jobs: Sequence[Job], work: Work) -> Counts:
    """Predict shards in this process, one after the other.

    Args:
        labelling: of the classifier.
        jobs: the shards.
        work: as for all shards.

    Raises:
        SentimentError: as for `Labelling.write`; the shards before it have their output.

    Example::

        predict_shards(labelling, folder.missing, work)
    """
    for job in jobs:
        predict_shard(labelling, job, work)
    return labelling.counts


def predict_shards_with_ray(
    jobs: Sequence[Job], work: Work, *, address: str | None = None, workers: int | None = None
) -> Counts:
    """Predict shards with a pool of Ray Data's actors, each with one core and one thread.

    An actor that ends is started again, and its shard predicted again. Inputs, outputs and run must have the
    same paths on all machines.

    Args:
        jobs: the shards.
        work: as for all shards.
        address: of a running cluster, such as ``auto``; None starts Ray on this machine, or uses the one that
            this process has started.
        workers: number of actors; None for one per core of the cluster, but not more than shards.

    Raises:
        SentimentError: as for `Labelling.write`, of the first shard that fails.
        MissingExtraError: Ray is not installed.
        ConfigError: there is no cluster at the address.

    Example::

        predict_shards_with_ray(folder.missing, work, workers=2)
    """
    ray: Any = need("ray", extra="ray")
    need("ray.data", extra="ray")
    was_started = ray.is_initialized()
    if not was_started:
        _start(ray, address)
    try:
        cores = int(ray.cluster_resources().get("CPU", 1))
        count = max(1, min(workers or cores, len(jobs)))
        return _collected(_results(ray, jobs, work, count), len(jobs))
    finally:
        if not was_started:
            ray.shutdown()


def _start(ray: Any, address: str | None) -> None:
    own = {} if address else {"include_dashboard": False}
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else its C++ code logs what is not an error
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at {address}" if address else "on this machine"
        problem = f"no Ray cluster {where}: {' '.join(str(error).split())[:300]}"
        raise ConfigError(f"{problem}; start one with 'ray start --head'", key="--address") from None


def _results(ray: Any, jobs: Sequence[Job], work: Work, count: int) -> Iterator[str]:
    """Yield the result of each shard as it is done."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"source": _absolute(job.source), "out": _absolute(job.out)} for job in jobs]
    shards = ray.data.from_items(rows, override_num_blocks=len(rows))
    predicted = shards.map_batches(
        ShardPredictor,
        fn_constructor_args=(work,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
    )
    for row in predicted.iter_rows():
        yield row["result"]


def _absolute(name: str) -> str:
    """Return a path that is the same in processes with another working folder."""
    return name if "://" in name or name.startswith("package:") else str(local_path(name).absolute())


def _collected(results: Iterator[str], count: int) -> Counts:
    """Add up the counts of shards.

    Raises:
        SentimentError: that of a shard.
    """
    found = Counts()
    with tqdm(unit=" shards", desc="predict", total=count, disable=not sys.stderr.isatty()) as bar:
        for result in results:
            record = json.loads(result)
            if "error" in record:
                raise _error_of(*record["error"])
            counts = record["counts"]
            profile = counts.pop("profile")
            found += Counts(**counts, profile=Profile(**profile) if profile else None)
            bar.update()
    return found


def _error_of(name: str, message: str) -> SentimentError:
    """Return an error of a worker, of the same class and so with the same exit code.

    >>> _error_of("DataError", "in/a.csv:2: 3 fields"), _error_of("OSError", "no")
    (DataError('in/a.csv:2: 3 fields'), SentimentError('no'))
    """
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, SentimentError):
        return kind(message)
    return SentimentError(message)
