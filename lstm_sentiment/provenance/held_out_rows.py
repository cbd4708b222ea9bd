"""List the validation and test rows of a run, so that others can be scored on the same rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.errors import without_secrets
from lstm_sentiment.system.files import write_atomically

FILE = "held_out_rows.csv"
COLUMNS = ("split", "source", "line", "label")


def write_held_out_rows(run: Path, corpus: Corpus) -> None:
    """Write the validation and test rows as a CSV file with the columns split, source, line and label.

    ``source`` is the file of the row, one of several for a folder of shards; ``line`` is its 1-based line
    there, for formats without lines, such as Parquet, the row number. A cross-validated run without a test
    split has no rows here.

    Args:
        run: folder of the run.
        corpus: its rows.

    Raises:
        DiskError: the file cannot be written.

    Example::

        write_held_out_rows(Path("runs/sentiment"), corpus)
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for name, split in corpus.splits.items():
        if name == "train":
            continue
        store, order = split.store, np.argsort(split.rows, kind="stable")
        files = [without_secrets(file) for file in store.files] or [without_secrets(store.name)]
        file_R = store.file_of(split.rows) if store.files else np.zeros(len(split.rows), np.int64)
        lines_R = store.lines[split.rows]
        writer.writerows(
            (name, files[file_R[row]], int(lines_R[row]), corpus.labels[split.labels[row]]) for row in order
        )
    write_atomically(run / FILE, out.getvalue().encode("utf-8", "surrogatepass"))
