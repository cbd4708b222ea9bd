"""Pack a run of scripts/make_starter into the package.

    scripts/make_starter --data FOLDER --out runs/starter
    python scripts/pack_starter.py runs/starter lstm_sentiment/starter/model --data FOLDER \\
        --scores docs/starter-zero.json --left-out docs/starter-left-out.json

The model card lists the corpora it was trained on with their terms, its scores on test sets, and the scores
of models of the same recipe on corpora that were left out of their training (`starter_scores.py
--left-out`).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from make_starter import TABLE
from result_log import markdown

from lstm_sentiment.starter.packing import pack

MOST_BYTES = 12_000_000
TERMS = """The weights are passed on under the licence of the package. They were made from public corpora,
some of which state terms for research only or none (see the table below); no text of them is included."""
TEXTS = 500  # of each file that is never trained on, to compare predictions


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(prog="pack_starter", description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path, help="a new or empty folder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scores", type=Path, help="scores of the test sets, from starter_scores.py")
    parser.add_argument(
        "--left-out", type=Path, help="scores of held-out corpora, from starter_scores.py --left-out"
    )
    options = parser.parse_args(argv)
    table = yaml.safe_load(TABLE.read_text("utf-8"))
    files = [pd.read_parquet(options.data / file).text.head(TEXTS).tolist() for file in table["never"]]
    found = pack(
        options.run,
        options.out,
        corpora=statement(json.loads((options.run / "corpora.json").read_text("utf-8")), table),
        notes=notes(_read(options.scores), _read(options.left_out)),
        texts=[text for of_file in files for text in of_file],
    )
    print(json.dumps(found, indent=1))
    if found["total_bytes"] > MOST_BYTES:
        sys.exit(f"{found['total_bytes']:,} bytes are more than {MOST_BYTES:,}")


def statement(of_run: dict[str, Any], table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return name, rows, terms and source of each corpus that a run was trained on."""
    return [
        {"name": of["name"], "rows": of["rows"], "terms": of["terms"], "source": table["sources"][of["name"]]}
        for of in of_run["corpora"]
    ]


def notes(scores: list[dict[str, Any]], left_out: list[dict[str, Any]]) -> str:
    """Return the section of the model card on quality, in Markdown."""
    parts = [TERMS]
    if scores:
        lists = [name for name in ("VADER", "TextBlob", "AFINN") if name in scores[0]]
        rows = [
            [of["set"], of["metric"], *(f"{of[name]:.3f}" for name in ("starter", *lists, "ece", "coverage"))]
            for of in scores
        ]
        head = ["test set", "score", "this model", *lists, "calibration error", "label sets for 90 %"]
        parts.append(f"## How good\n\nIt was trained on none of these texts.\n\n{markdown(head, rows)}")
    if left_out:
        mean = {
            key: float(np.mean([of[key] for of in left_out]))
            for key in ("starter", "VADER", "ece", "coverage")
        }
        ahead = sum(of["starter"] > of["VADER"] for of in left_out)
        parts.append(
            f"On {len(left_out)} corpora that models of the same recipe were trained without, the mean score "
            f"is {mean['starter']:.3f} (VADER {mean['VADER']:.3f}; ahead on {ahead}), the mean calibration "
            f"error {mean['ece']:.3f}, and label sets for 90 % hold the true label in {mean['coverage']:.1%}."
        )
    return "\n\n".join(parts)


def _read(file: Path | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file else []
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
