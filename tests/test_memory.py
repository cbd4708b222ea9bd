"""Files are read in bounded memory, whatever the size of their rows, pages and lists.

`memory_runner` creates files of a few kilobytes that unpack to hundreds of megabytes, and reads them in a
measured subprocess.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import memory_runner
import pytest

HERE = Path(__file__).parent
MEGABYTE = 10**6
MOST_GROWN = 100 * MEGABYTE
MOST = {  # where another growth shows that a file is read in parts
    "parquet of lists of a dictionary": 200 * MEGABYTE,  # a row alone takes ten, and Arrow more for each
    "parquet of many lists": 140 * MEGABYTE,
    "csv of blank lines": 10 * MEGABYTE,
    "csv of many swallowed lines": 35 * MEGABYTE,
    "a workbook of many rows": 10 * MEGABYTE,
    "a workbook of many texts": 35 * MEGABYTE,
}
UNPACKED = memory_runner.ROWS * MEGABYTE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

REFUSED = {  # case -> message
    "csv of a million columns": (
        ":1: a row of more than 1,000,000 commas begins here; end each row with a line break"
    ),
    "csv of a row without end": (
        ":2: a row of more than 4,194,304 characters begins here; close its quote, or shorten it"
    ),
    "json lines of lists": ":1: holds more than 262,144 values; write one text and its facts per row",
    "json lines of a million keys": ":1: has 200,001 keys; at most 10,000 are read: remove some",
    "an array of lists": (
        ":1: at column 2: holds more than 262,144 values; write one text and its facts per row"
    ),
    "an array of an object without end": (
        ":1: at column 2: an object of more than 4,194,304 characters begins here; use an array of objects"
    ),
    "feather in one batch": (
        " bytes, more than 201,326,592; write it in smaller ones (pandas: chunksize=5000)"
    ),
    "feather of a long list": (
        ":1: the row takes 96,000,072 bytes of memory, more than 67,108,864; remove columns of long lists"
    ),
    "a deep tree": (
        ":1: the nodes of the tree span more than 4,194,304 characters; write one sentence per line"
    ),
    "a folder of a file without end": (
        ": holds more than 4,194,304 characters; write one text per file, or shorten it"
    ),
    "parquet in one page": (
        " bytes of memory at a time, more than 167,772,160; write it with a smaller row_group_size"
    ),
    "parquet of categories": (
        " bytes of memory at a time, more than 167,772,160; write it with a smaller row_group_size"
    ),
    "parquet of a long list": (
        " bytes of memory at a time, more than 167,772,160; write it with a smaller row_group_size, or "
        "remove large columns"
    ),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Results of the cases of the selected tests."""
    here = [item for item in request.session.items if isinstance(item, pytest.Function)]
    here = [item for item in here if item.module is request.module]
    asked = [item.callspec.params["name"] for item in here if hasattr(item, "callspec")]
    if len(asked) < len(here):
        asked = list(memory_runner.FILES)
    folder = tmp_path_factory.mktemp("memory")
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "memory_runner.py"), str(folder), *asked]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


@pytest.mark.parametrize("name", memory_runner.FILES)
def test_a_file_is_read_in_bounded_memory_or_refused(results: dict[str, Any], name: str) -> None:
    found = results[name]
    assert found["grown"] < MOST.get(name, MOST_GROWN)
    said = found["said"]
    assert (said is None) == (name not in REFUSED), said
    if said is None:
        assert found["rows"] > 0
    else:
        assert REFUSED[name] in said.splitlines()[0]


def test_chunks_by_row_count_alone_do_not_bound_memory(results: dict[str, Any]) -> None:
    """The control: chunks of 5,000 rows without a limit in bytes."""
    controls = {name: found["grown"] for name, found in results.items() if name.startswith("control: ")}
    assert len(controls) == 2
    assert all(grown > UNPACKED > MOST_GROWN for grown in controls.values()), controls


def test_all_rows_are_read(results: dict[str, Any]) -> None:
    for name in ("csv", "tsv", "csv of lines", "json lines", "parquet", "parquet of a dictionary"):
        assert results[name]["rows"] == memory_runner.ROWS
    assert results["json lines of other keys"]["rows"] == 5_000
    assert results["csv of blank lines"]["rows"] == 1
