"""Create the fixture of a checkpoint format: ``python scripts/make_fixture.py``, once per format.

A tiny run with a tensor of every kind and merged classes, its export and its predictions are written to
``tests/fixtures/format-N``, where N is the checkpoint format. An existing fixture is never overwritten: it
was written by the version with that format. `tests/test_old_checkpoints.py` reads all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from lstm_sentiment import load
from lstm_sentiment.checkpoints.manifest import FORMAT
from lstm_sentiment.checkpoints.run_folder import EXPORTED
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.deployment.exporter import export
from lstm_sentiment.experiment.train import run
from lstm_sentiment.relabelling.renaming import relabel
from lstm_sentiment.system.files import new_folder

FIXTURES = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
CLUES = {"negative": ("awful", "broken"), "neutral": ("okay", "usual"), "positive": ("great", "lovely")}
PLACES = ("room", "food", "staff", "view", "bed", "bar", "pool", "lobby", "street", "garden")
TEXTS = ("", "great", "the awful, awful bed!", "lovley 😀 http://a.b", "usual " * 60, "not broken at all")
SETTINGS = (
    *("--model.embedding_size=8", "--model.hidden_size=8", "--model.layers=2", "--model.ngrams=32"),
    *("--model.pooling=last+mean+max+attention", "--text.subwords=64", "--text.min_frequency=1"),
    *("--text.max_tokens=40", "--trainer.epochs=4", "--trainer.batch_size=8", "--trainer.learning_rate=0.02"),
    *("--trainer.ema=0.8", "--trainer.threads=1", "--trainer.precision=fp32", "--baseline=false"),
)


def main() -> None:
    """Create the fixture of this version's format."""
    place = FIXTURES / f"format-{FORMAT}"
    if place.exists():
        sys.exit(f"{place} exists: only a new format needs a new fixture")
    with tempfile.TemporaryDirectory() as temporary, new_folder(place) as building:
        os.environ["LSTM_SENTIMENT_CACHE"] = str(Path(temporary) / "cache")
        os.chdir(temporary)  # the run's configuration has the path of its data, which must not be a local one
        finished = trained()
        relabel(finished, {"neutral": "negative"}, rows=True)
        classifier = load(finished)
        export(classifier, finished, building / EXPORTED)
        (building / EXPORTED / "runtime.py").unlink()  # code of this version, not part of the format
        answers = dict(zip(TEXTS, classifier.predict_proba(TEXTS).tolist(), strict=True))
        (building / "answers.json").write_text(json.dumps(answers, indent=1), "utf-8")
        shutil.copytree(finished, building / "run", ignore=shutil.ignore_patterns("last*"))
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    sys.stdout.write(f"{place}: {size / 1000:.0f} kB\n")


def trained() -> Path:
    """Train on synthetic rows in the working folder and return the run."""
    rows = [f"the {place} was {word},{label}" for label in CLUES for word in CLUES[label] for place in PLACES]
    Path("rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n", "utf-8")
    argv = ["--data.train=rows.csv", "--out=run", *SETTINGS]
    run(parse_config(argv, program="make_fixture", description=""), cache=Path("cache"))
    return Path("run")


if __name__ == "__main__":
    main()
