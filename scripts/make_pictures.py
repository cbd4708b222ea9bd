"""Draw the pictures of docs/how-an-lstm-reads.md from a run: python scripts/make_pictures.py RUN."""

from __future__ import annotations

import argparse
from pathlib import Path

from lstm_sentiment.prediction.classifier import load
from lstm_sentiment.reporting.drawing import reading, removal

TEXT = "the seats were great but the crew was rude"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="run folder of the default configuration")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = load(options.run, device="cpu").explain(TEXT, method="integrated_gradients")
    for panel in ("attributions", "trace", "gates"):
        reading(found, found.label, panels=(panel,)).write(options.out / f"{panel}.svg")
    removal(found).write(options.out / "removal.svg")


if __name__ == "__main__":
    main()
