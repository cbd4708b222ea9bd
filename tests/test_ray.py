"""``predict --engine ray`` and `BatchPredictor` in Ray Data, on a cluster of two nodes on this machine.

Skipped where Ray is not installed (extra ``ray``). One cluster serves all tests: starting it takes most of
the time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lstm_sentiment import BatchPredictor, predict
from tests.conftest import make_rows
from tests.test_shards import write

ray: Any = pytest.importorskip("ray", reason="needs Ray: pip install 'lstm_sentiment[ray]'")
pytestmark = pytest.mark.filterwarnings("default")  # Ray's own


MARK = f"LSTM_SENTIMENT_TEST={os.getpid()}".encode()  # in the environment of the cluster's processes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with a core each."""
    from ray.cluster_utils import Cluster

    os.environ["LSTM_SENTIMENT_TEST"] = str(os.getpid())
    for name in ("prestart_worker_first_driver", "enable_metrics_collection", "USAGE_STATS_ENABLED"):
        os.environ.setdefault(f"RAY_{name}", "0")  # processes and time
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield made
    ray.shutdown()
    made.shutdown()


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the contents of the shards in a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.csv"))}


class Killer(threading.Thread):
    """Kills a worker of the cluster that is predicting, after the first output shard.

    Args:
        folder: of the output.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.killed, self.done = folder, list[int](), False

    def run(self) -> None:
        while not self.done and not self.killed:
            time.sleep(0.01)
            if files_in(self.folder):
                self.killed = [pid for pid in busy_workers() if kill(pid)]


def busy_workers() -> list[int]:
    """Return one of the processes of this cluster that are in a task of the predictor, or none."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (process / "cmdline").read_bytes()  # set by Ray
            if title.startswith(b"ray::MapWorker(MapBatches(ShardPredictor)).") and MARK in (
                process / "environ"
            ).read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found[:1]


def kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds workers in /proc")
def test_a_worker_that_is_killed_costs_no_row_and_no_bit(
    cluster: Any, trained_run: Path, tmp_path: Path
) -> None:
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    for n in range(8):
        rows = [(f"{text} {i}", of) for i in range(20) for text, of in make_rows(60, seed=n)]
        write(tmp_path / "in" / f"part-{n}.csv", rows)
    argv = [str(trained_run), f"--file={tmp_path / 'in'}"]
    predict.main([*argv, f"--out={tmp_path / 'local'}"])
    killer = Killer(tmp_path / "out")
    killer.start()
    predict.main([*argv, f"--out={tmp_path / 'out'}", "--engine=ray"])
    killer.done = True
    assert killer.killed  # in the middle of a shard
    assert files_in(tmp_path / "out") == files_in(tmp_path / "local")
    assert len(files_in(tmp_path / "out")) == 8
    assert (tmp_path / "out" / "_SUCCESS").is_file()


def test_the_recipe_of_ray_data_keeps_rows_and_order(cluster: Any, trained_run: Path) -> None:
    texts = np.array([text for text, _ in make_rows(90)], object)
    rows = pd.DataFrame({"id": range(90), "text": texts})
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    predicted = (
        ray.data.from_pandas([rows[:30], rows[30:]])
        .map_batches(
            BatchPredictor,
            fn_constructor_args=(str(trained_run),),
            batch_size=16,
            batch_format="pandas",
            compute=ray.data.ActorPoolStrategy(size=1),
        )
        .to_pandas()
    )
    pd.testing.assert_frame_equal(predicted, BatchPredictor(trained_run)(rows), check_dtype=False)
