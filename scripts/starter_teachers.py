"""What trained starters predict for the rows that another one learns from.

Several models average to better probabilities than one of them has; a model that learns these (Hinton et al.
2015) keeps part of the gain at the size of one. The teachers' logits are computed once and kept in the work
folder. A teacher is asked about the corpora that it was trained on, and about none that is written for the
starter (templates, lexicon), whose labels are certain.

Legend: R rows, C classes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from lstm_sentiment.checkpoint import BEST, MANIFEST
from lstm_sentiment.classifier import SentimentClassifier, load
from lstm_sentiment.dataset import TextDataset
from lstm_sentiment.inference import predict_logits
from lstm_sentiment.reading.tokens import TokenStore
from lstm_sentiment.starter.names import run_path

log = logging.getLogger("make_starter")
Array = npt.NDArray[Any]


def teacher_probabilities(
    runs: list[str],
    store: TokenStore,
    rows: pd.DataFrame,
    *,
    labels: list[str],
    folder: Path,
    batch_size: int,
) -> Array:
    """Return the mean of the teachers' probabilities, (R, C) float32, for the rows that are learned from.

    Rows that no teacher is asked about have zeros.

    Args:
        runs: run folders of make_starter, or starter.
        store: the tokens of all rows.
        rows: corpus and held_out of each row; `attrs` as `make_starter.chosen` leaves it.
        labels: the order of classes.
        folder: where the probabilities of each teacher are kept.
        batch_size: rows at a time.
    """
    train = rows[~rows.held_out]
    sums_RC, teachers_R = np.zeros((len(train), len(labels)), np.float32), np.zeros(len(train), np.float32)
    for run in runs:
        asked_R = train.corpus.isin(_corpora_of(run, rows.attrs["corpora"])).to_numpy()
        name = hashlib.sha256(
            f"{(run_path(run) / BEST / MANIFEST).read_text()} {rows.attrs['key']}".encode()
        ).hexdigest()
        kept = folder / f"teacher-{name[:16]}.npy"
        if not kept.exists():
            log.info("asking %s about %s rows", run, f"{int(asked_R.sum()):,}")
            found_RC = _predicted(load(run, device="cpu"), store, train[asked_R], labels, batch_size)
            np.save(kept, found_RC.astype(np.float16))
        sums_RC[asked_R] += np.load(kept).astype(np.float32)
        teachers_R += asked_R
    probabilities_RC: Array = sums_RC / np.maximum(teachers_R, 1)[:, None]
    return probabilities_RC


def _corpora_of(run: str, corpora: list[dict[str, Any]]) -> list[int]:
    """Return the places of the corpora that a teacher knows, those written for the starter left out."""
    path = run_path(run)
    file = next(path / name for name in ("corpora.json", "statement.json") if (path / name).exists())
    known = {of["name"] for of in json.loads(file.read_text("utf-8"))["corpora"]}
    return [place for place, of in enumerate(corpora) if of["name"] in known and of["group"] != "written"]


def _predicted(
    teacher: SentimentClassifier, store: TokenStore, rows: pd.DataFrame, labels: list[str], batch_size: int
) -> Array:
    dataset = TextDataset(
        store,
        rows.index.to_numpy(),
        rows.label.to_numpy(),
        vocabulary=teacher.vocabulary,
        max_tokens=teacher.config.text.max_tokens,
        truncate=teacher.config.text.truncate,
        subwords=teacher.config.text.subwords,
    )
    logits_RC = predict_logits(teacher.model, dataset, device=torch.device("cpu"), batch_size=batch_size)
    order = [teacher.labels.index(label) for label in labels]
    probabilities_RC: Array = teacher.calibration.probabilities(logits_RC[:, order].double().numpy())
    return probabilities_RC
