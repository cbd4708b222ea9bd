"""Draw docs/pictures/stream.svg: the time per caption over an hour of them, in pieces and all at once.

    python scripts/stream_hour.py RUN --texts FILE

RUN is a run that reads forward only. FILE has texts to read as captions of 7 words, 150 words a minute.
"""

from __future__ import annotations

import argparse
import csv
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lstm_sentiment.prediction.classifier import SentimentClassifier, load
from lstm_sentiment.system.extras import need

WORDS, PER_MINUTE, PER_CAPTION = 9000, 150, 7
WHOLE_EVERY = 40  # captions after which the whole text is predicted at once, too


def captions_of(file: Path) -> list[str]:
    """Return an hour of captions."""
    with file.open(encoding="utf-8", newline="") as rows:
        words = [word for row in csv.DictReader(rows) for word in row["text"].split()][:WORDS]
    return [" ".join(words[i : i + PER_CAPTION]) + " " for i in range(0, len(words), PER_CAPTION)]


def measured(classifier: SentimentClassifier, captions: list[str]) -> tuple[list[float], dict[int, float]]:
    """Return the milliseconds of each caption, and of some whole texts by their number of captions."""
    stream, so_far, of_pieces, of_wholes = classifier.stream(), "", [], {}
    for number, caption in enumerate(captions, 1):
        so_far += caption
        started = time.perf_counter()
        found = stream.add(caption)
        of_pieces.append(1e3 * (time.perf_counter() - started))
        if number % WHOLE_EVERY == 0:
            started = time.perf_counter()
            whole = classifier.predict(so_far)[0]
            of_wholes[number] = 1e3 * (time.perf_counter() - started)
            assert found == whole, "the same bits"
    return of_pieces, of_wholes


def memory_of(classifier: SentimentClassifier, captions: list[str]) -> list[int]:
    """Return the bytes that Python holds for a stream after a tenth and after all of the captions."""
    tracemalloc.start()
    stream, found = classifier.stream(), []
    for number, caption in enumerate(captions, 1):
        stream.add(caption)
        if number in (len(captions) // 10, len(captions)):
            found.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return found


def without_truncation(classifier: SentimentClassifier) -> SentimentClassifier:
    """Return a classifier that reads whole texts of any length, as a stream does."""
    config = classifier.config
    return SentimentClassifier(
        labels=classifier.labels,
        vocabulary=classifier.vocabulary,
        config=replace(config, text=replace(config.text, max_tokens=10 * WORDS)),
        weights=classifier.model.state_dict(),
        calibration=classifier.calibration,
        device="cpu",
    )


def draw(of_pieces: list[float], of_wholes: dict[int, float], out: Path) -> None:
    matplotlib = need("matplotlib", extra="report")
    figures = need("matplotlib.figure", extra="report")
    style = {"svg.hashsalt": "stream", "svg.fonttype": "none", "font.size": 9, "legend.frameon": False}
    with matplotlib.rc_context({**style, "axes.spines.top": False, "axes.spines.right": False}):
        figure = figures.Figure(figsize=(5.2, 3.2), layout="constrained", facecolor="white")
        axes = figure.subplots()
        part = max(1, len(of_pieces) // 60)
        medians = [float(np.median(of_pieces[i : i + part])) for i in range(0, len(of_pieces), part)]
        wholes = np.array(list(of_wholes)) * PER_CAPTION / PER_MINUTE
        axes.plot(wholes, list(of_wholes.values()), color="#b5541c", label="the text so far, all at once")
        places = np.arange(len(medians)) * part * PER_CAPTION / PER_MINUTE
        axes.plot(places, medians, color="#1f5fbf", label="the new caption, by a stream")
        axes.set(xlabel="minutes of captions", ylabel="milliseconds per caption", yscale="log")
        axes.legend(loc="center right")
        figure.savefig(out, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--texts", type=Path, required=True, help="CSV with a column text")
    pictures = Path(__file__).parents[1] / "docs" / "pictures"
    parser.add_argument("--out", type=Path, default=pictures / "stream.svg")
    options = parser.parse_args()
    torch.set_num_threads(1)
    captions = captions_of(options.texts)
    classifier = without_truncation(load(options.run, device="cpu"))
    measured(classifier, captions[:WHOLE_EVERY])  # warm-up
    of_pieces, of_wholes = measured(classifier, captions)
    tens = " ".join(f"{np.median(part):.2f}" for part in np.array_split(of_pieces, 6))
    print(f"{len(captions)} captions; median ms per caption in each ten minutes: {tens}")
    print(f"all at once at the end: {list(of_wholes.values())[-1]:.0f} ms")
    print("bytes held after six minutes, and after all:", *memory_of(classifier, captions))
    draw(of_pieces, of_wholes, options.out)


if __name__ == "__main__":
    main()
