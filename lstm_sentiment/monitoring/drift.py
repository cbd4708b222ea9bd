"""Drift: whether new texts differ from the validation rows of a run.

A finished run keeps three histograms over its validation rows in ``monitoring.json``: the predicted class,
the confidence (probability of the predicted class), and the share of unknown tokens. `shifts` compares them
with those of new texts. A shift is reported if it is both

- large: the population stability index, sum of (p - q) ln(p / q) over the bins, is above 0.25. By convention
  up to 0.1 is stable and up to 0.25 moderate (Siddiqi 2006, "Credit Risk Scorecards");
- beyond chance: a permutation test with the chi-square statistic, exact for any number of rows, with
  Bonferroni's correction for three features, so that at most 1 % of files like the validation rows are
  reported. Cross-validated rows have a little less confidence than new ones, which have a model of more rows:
  a difference beyond chance, but small.

Legend: R rows, C classes, F bins, D draws, V tokens of a store.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.checkpoints.run_folder import MONITORING
from lstm_sentiment.data.dataset import TextDataset, count_tokens
from lstm_sentiment.errors import CheckpointError
from lstm_sentiment.prediction.types import Prediction

CONFIDENCE = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)  # upper ends of all bins but the last
UNKNOWN = (
    0.0,
    0.05,
    0.1,
    0.2,
    0.3,
    0.5,
)  # the same, after a first bin for texts without a token
MODERATE, LARGE = 0.1, 0.25  # population stability index
FALSE_ALARMS = 0.01  # share of files like the validation rows that are reported, at most
DRAWS = 1999  # of the permutation test
MOST_COUNTED = 10**8  # rows of the permutation test, whose draws take at most 10**9; more are scaled down
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Histograms of a classifier's predictions for some texts.

    Args:
        rows: number of texts.
        predicted: class name -> texts predicted as that class.
        confidence: texts by the probability of the predicted class, in the bins of `CONFIDENCE`.
        unknown: texts by the share of their tokens that is not in the vocabulary, in the bins of `UNKNOWN`.
        unknown_share: the mean of that share over the texts.

    >>> profile = profile_of(["no", "yes"], np.array([[0.3, 0.7]]), np.array([4]), np.array([1]))
    >>> profile.predicted, profile.confidence, profile.unknown, profile.unknown_share
    ({'no': 0, 'yes': 1}, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0], 0.25)
    """

    rows: int
    predicted: dict[str, int]
    confidence: list[int]
    unknown: list[int]
    unknown_share: float

    def __add__(self, other: Profile) -> Profile:
        """Return the profile of the texts of both, for the same classes."""
        rows = self.rows + other.rows
        shares = self.rows * self.unknown_share + other.rows * other.unknown_share
        return Profile(
            rows=rows,
            predicted={name: count + other.predicted[name] for name, count in self.predicted.items()},
            confidence=[a + b for a, b in zip(self.confidence, other.confidence, strict=True)],
            unknown=[a + b for a, b in zip(self.unknown, other.unknown, strict=True)],
            unknown_share=shares / max(1, rows),
        )

    @property
    def unread_share(self) -> float:
        """The share of texts without a token."""
        return self.unknown[0] / max(1, self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return the content of monitoring.json."""
        return {**asdict(self), "confidence_bins": list(CONFIDENCE), "unknown_bins": list(UNKNOWN)}


def profile_of(labels: Sequence[str], probabilities_RC: Array, tokens_R: Array, unknown_R: Array) -> Profile:
    """Return the profile of some predictions.

    Args:
        labels: class names, C.
        probabilities_RC: calibrated.
        tokens_R: tokens of each text.
        unknown_R: those of them that are not in the vocabulary.

    >>> profile_of(["no", "yes"], np.zeros((0, 2)), np.zeros(0, int), np.zeros(0, int)).rows
    0
    """
    rows = len(tokens_R)
    share_R = unknown_R / np.maximum(1, tokens_R)
    predicted_R = probabilities_RC.argmax(axis=1)
    score_R = probabilities_RC.max(axis=1) if rows else np.zeros(0)
    bins_R = np.where(tokens_R == 0, 0, 1 + np.searchsorted(UNKNOWN, share_R))
    counts_C = np.bincount(predicted_R, minlength=len(labels)).tolist()
    return Profile(
        rows=rows,
        predicted=dict(zip(labels, counts_C, strict=True)),
        confidence=np.bincount(np.searchsorted(CONFIDENCE, score_R), minlength=len(CONFIDENCE) + 1).tolist(),
        unknown=np.bincount(bins_R, minlength=len(UNKNOWN) + 2).tolist(),
        unknown_share=float(share_R.mean()) if rows else 0.0,
    )


def profile_of_predictions(labels: Sequence[str], predictions: Sequence[Prediction]) -> Profile:
    """Return the profile of the predictions for new texts; missing texts are left out.

    Args:
        labels: class names.
        predictions: of `predict` with ``details=True``.

    Example::

        profile_of_predictions(classifier.labels, classifier.predict(texts, details=True))
    """
    read = [of for of in predictions if of.unknown_share is not None]
    probabilities_RC = np.array([list(of.probabilities.values()) for of in read]).reshape(-1, len(labels))
    share_R = np.array([of.unknown_share or 0.0 for of in read])
    tokens_R = np.array([not of.unread for of in read], np.int64)
    return profile_of(labels, probabilities_RC, tokens_R, share_R)


def profile_of_json(content: Any, labels: Sequence[str]) -> Profile:
    """Return the profile that a run keeps in monitoring.json.

    Args:
        content: of the file.
        labels: class names of the run.

    Raises:
        CheckpointError: it is not such a profile.

    >>> kept = profile_of(["no"], np.ones((3, 1)), np.ones(3, int), np.zeros(3, int))
    >>> profile_of_json(kept.as_json(), ["no"]) == kept
    True
    """
    try:
        facts = dict(content)
        bins = facts.pop("confidence_bins"), facts.pop("unknown_bins")
        profile = Profile(**facts)
        parts = [list(profile.predicted.values()), profile.confidence, profile.unknown]
        lengths = [len(labels), len(CONFIDENCE) + 1, len(UNKNOWN) + 2]
        well_formed = (
            [tuple(of) for of in bins] == [CONFIDENCE, UNKNOWN]
            and list(profile.predicted) == list(labels)
            and [len(part) for part in parts] == lengths
            and all(type(count) is int and count >= 0 for part in parts for count in part)
            and all(sum(part) == profile.rows for part in parts)
            and 0 <= profile.unknown_share <= 1
        )
    except (TypeError, ValueError, KeyError, AttributeError):
        well_formed = False
    if not well_formed:
        raise CheckpointError(
            f"{MONITORING}: does not hold the histograms of a run; remove it, or train again"
        )
    return profile


@dataclass(frozen=True, kw_only=True)
class Shift:
    """The difference of one feature between validation rows and new texts.

    Args:
        psi: population stability index.
        p_value: probability of a difference at least as large if both are drawn from the same texts.
        reference: rows by bin, of the validation rows.
        new: rows by bin, of the new texts.
    """

    psi: float
    p_value: float
    reference: list[int]
    new: list[int]

    @property
    def size(self) -> str:
        """The size by convention: stable, moderate or large."""
        return "stable" if self.psi <= MODERATE else "moderate" if self.psi <= LARGE else "large"

    @property
    def alarming(self) -> bool:
        """Whether it is large and beyond chance."""
        return self.psi > LARGE and self.p_value <= FALSE_ALARMS / 3


def shifts(reference: Profile, new: Profile) -> dict[str, Shift]:
    """Compare new texts with the validation rows: feature -> shift, for predicted, confidence and unknown.

    >>> before = Profile(rows=200, predicted={"no": 100, "yes": 100}, unknown_share=0.0,
    ...                  confidence=[0] * 9 + [200], unknown=[0, 200] + [0] * 6)
    >>> after = Profile(rows=50, predicted={"no": 10, "yes": 40}, unknown_share=0.0,
    ...                 confidence=[0] * 9 + [50], unknown=[0, 50] + [0] * 6)
    >>> {name: (round(shift.psi, 2), shift.alarming) for name, shift in shifts(before, after).items()}
    {'predicted': (0.4, True), 'confidence': (0.0, False), 'unknown': (0.0, False)}
    """
    pairs = {
        "predicted": (list(reference.predicted.values()), list(new.predicted.values())),
        "confidence": (reference.confidence, new.confidence),
        "unknown": (reference.unknown, new.unknown),
    }
    return {
        name: Shift(
            psi=stability_index(np.array(before), np.array(after)),
            p_value=permutation_p_value(np.array(before), np.array(after)),
            reference=before,
            new=after,
        )
        for name, (before, after) in pairs.items()
    }


def stability_index(reference_F: Array, new_F: Array) -> float:
    """Return the population stability index of two histograms.

    Half a row is added to each bin that is not empty in both, so that an empty one does not make it infinite.

    >>> round(stability_index(np.array([500, 500]), np.array([800, 200])), 3)
    0.415
    """
    if not reference_F.sum() or not new_F.sum():
        return 0.0
    used_F = reference_F + new_F > 0
    shares = [(counts_F[used_F] + 0.5) / (counts_F[used_F] + 0.5).sum() for counts_F in (reference_F, new_F)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def permutation_p_value(reference_F: Array, new_F: Array, *, draws: int = DRAWS) -> float:
    """Return the p-value of a difference of two histograms: are their rows drawn from the same texts?

    The rows of both are divided at random into two groups of their sizes, many times; the p-value is the
    share of the divisions whose chi-square statistic is at least that of the given one, which counts too.

    >>> permutation_p_value(np.array([50, 50]), np.array([20, 20]))
    1.0
    >>> permutation_p_value(np.array([50, 50]), np.array([38, 2])) <= 0.001
    True
    """
    if not reference_F.sum() or not new_F.sum():
        return 1.0
    used_F = reference_F + new_F > 0
    before_F, after_F = _scaled(reference_F[used_F]), _scaled(new_F[used_F])
    pooled_F, rows = before_F + after_F, int(after_F.sum())
    expected_F = pooled_F * (rows / pooled_F.sum())
    drawn_DF = np.random.default_rng(0).multivariate_hypergeometric(pooled_F, rows, size=draws)
    # With fixed margins, chi-square is proportional to this sum over one of the two histograms.
    statistic_D = ((drawn_DF - expected_F) ** 2 / pooled_F).sum(axis=1)
    found = ((after_F - expected_F) ** 2 / pooled_F).sum()
    return float((1 + (statistic_D >= found * (1 - 1e-9)).sum()) / (1 + draws))


def _scaled(counts_F: Array) -> Array:
    """Scale a histogram down to a number of rows that can be drawn from."""
    by = max(1.0, counts_F.sum() / MOST_COUNTED)
    return np.asarray(np.maximum(counts_F > 0, np.rint(counts_F / by)), np.int64)


def unknown_when_left_out(rows: TextDataset, *, least: int, kept: Collection[str] = ()) -> Array:
    """Return the unknown tokens of each row, had the vocabulary been made from the others: (R,).

    Cross-validated rows made the vocabulary themselves: as they are, they have fewer unknown tokens than new
    texts.

    Args:
        rows: that the vocabulary was made from.
        least: number of occurrences from which a token is in the vocabulary.
        kept: tokens that are in the vocabulary in any case.

    >>> from lstm_sentiment.data.token_store import TokenStore
    >>> from lstm_sentiment.text.tokenizers import Vocabulary
    >>> store = TokenStore.in_memory(np.array([0, 1, 1, 0, 2]), np.array([3, 2]), ["so", "odd", "new"])
    >>> rows = TextDataset(store, np.arange(2), np.zeros(2, np.int64), vocabulary=Vocabulary(["so", "odd"]),
    ...                    max_tokens=9, truncate="head")
    >>> unknown_when_left_out(rows, least=1).tolist()
    [2, 1]
    >>> unknown_when_left_out(rows, least=1, kept=["odd"]).tolist()
    [0, 1]
    """
    tokens = rows.store.tokens
    always = frozenset(kept)
    always_V = np.array([token in always for token in tokens], bool)
    counts_V = count_tokens(rows.store, rows.rows)
    unknown_R = np.zeros(len(rows), np.int64)
    step = 20_000
    for start in range(0, len(rows), step):
        numbers_N, row_N = rows.token_numbers(start, start + step)
        pairs, times = np.unique(row_N * max(1, len(tokens)) + numbers_N, return_counts=True)
        row_P, number_P = np.divmod(pairs, max(1, len(tokens)))
        rare_P = ~always_V[number_P] & (counts_V[number_P] - times < least)
        unknown_P = ~rows.known_V[number_P] | rare_P
        unknown_R += np.bincount(row_P[unknown_P], times[unknown_P], minlength=len(rows)).astype(np.int64)
    return unknown_R


def drift_lines(reference: Profile, new: Profile, found: dict[str, Shift]) -> list[str]:
    """Describe the alarming shifts, one per line; empty without any.

    Args:
        reference: of the validation rows.
        new: of the new texts.
        found: their `shifts`.

    Example::

        drift_lines(reference, new, shifts(reference, new))
    """
    describe = {"predicted": _predicted_line, "confidence": _confidence_line, "unknown": _unknown_line}
    return [
        f"{describe[name](reference, new)} (PSI {shift.psi:.2f})"
        for name, shift in found.items()
        if shift.alarming
    ]


def _predicted_line(reference: Profile, new: Profile) -> str:
    """Name the three classes whose shares changed most."""
    pairs = zip(reference.predicted.items(), new.predicted.values(), strict=True)
    changes = [(label, before / reference.rows, after / new.rows) for (label, before), after in pairs]
    largest = sorted(changes, key=lambda of: -abs(of[2] - of[1]))[:3]
    return "predicted classes: " + ", ".join(f"{label} {a:.0%} -> {b:.0%}" for label, a, b in largest)


def _confidence_line(reference: Profile, new: Profile) -> str:
    above = CONFIDENCE.index(0.9) + 1
    before, after = (sum(of.confidence[above:]) / of.rows for of in (reference, new))
    return f"predictions with a probability above 0.9: {before:.0%} -> {after:.0%}"


def _unknown_line(reference: Profile, new: Profile) -> str:
    """Name the change that contributes most: of texts without a token, or of unknown tokens."""
    unread = [of.unread_share for of in (reference, new)]
    others = [np.array([0, *of.unknown[1:]]) for of in (reference, new)]
    if unread[1] > unread[0] and stability_index(*others) <= LARGE:
        return f"texts without a token: {unread[0]:.1%} -> {unread[1]:.1%}"
    before, after = reference.unknown_share, new.unknown_share
    return f"unknown tokens of a text, on average: {before:.1%} -> {after:.1%}"
