"""The profile of a run's validation rows, which new texts are compared with (see `drift`)."""

from __future__ import annotations

from collections.abc import Collection

from lstm_sentiment.checkpoints.run_folder import MONITORING, RunFolder
from lstm_sentiment.config.schema import Config
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import Array
from lstm_sentiment.monitoring.drift import profile_of, unknown_when_left_out
from lstm_sentiment.system.files import write_json


def write_monitoring(
    folder: RunFolder,
    probabilities_RC: Array,
    corpus: Corpus,
    config: Config,
    *,
    kept: Collection[str] = (),
    crossed_R: Array | None = None,
) -> None:
    """Write what new texts are compared with (see `drift`): the predictions for the validation rows.

    Args:
        folder: of the run.
        probabilities_RC: calibrated, of the validation rows.
        corpus: its rows.
        config: of the run.
        kept: tokens that are in the vocabulary whatever the rows.
        crossed_R: the rows that were cross-validated, if they were; None for all.

    Raises:
        DiskError: it cannot be written.

    Example::

        write_monitoring(RunFolder("runs/tweets"), calibration.probabilities(logits_RC), corpus, config)
    """
    rows = corpus.validation
    tokens_R, unknown_R = rows.count_unknown()
    if corpus.cross_validated:
        unknown_R = unknown_when_left_out(rows, least=config.text.min_frequency, kept=kept)
        places = slice(None) if crossed_R is None else crossed_R
        tokens_R, unknown_R = tokens_R[places], unknown_R[places]
    profile = profile_of(corpus.labels, probabilities_RC, tokens_R, unknown_R)
    write_json(folder.path / MONITORING, profile.as_json())
