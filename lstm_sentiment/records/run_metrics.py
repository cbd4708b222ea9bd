"""metrics.json: the results of a finished run."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lstm_sentiment.records.json_values import Count, Record
from lstm_sentiment.records.scores import LanguageScores, Scores

Split = Literal["validation", "test"]
# Order of keys in the file where the LSTM was frozen; elsewhere it is that of the fields.
OF_FROZEN = (
    "validation", "test", "known_to_starter", "calibration", "branches", "baselines", "against_linear",
    "bf16", "kept", "metric", "best_epoch", "epochs", "steps", "parameters", "training_s", "total_s",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BranchMetrics:
    """Scores of one branch of the network alone, calibrated on its own.

    Args:
        share: its weight in the network; the mean of the branches' is 1.
        validation: scores of the validation rows.
        test: scores of the test rows, if there are any.
    """

    share: float
    validation: Scores
    test: Scores | None = None


@dataclass(frozen=True, kw_only=True)
class SetCoverage:
    """What label sets of some requested coverage cover.

    Args:
        coverage: share of the sets that have the true label.
        labels: mean size of a set.
    """

    coverage: float
    labels: float


@dataclass(frozen=True, kw_only=True)
class CalibratedSplit:
    """Effect of the calibration on a split.

    Args:
        ece_before: calibration error of uncalibrated probabilities.
        ece_after: that of calibrated ones.
        label_sets: by requested coverage, such as ``0.9``.
    """

    ece_before: float
    ece_after: float
    label_sets: dict[str, SetCoverage]

    def __post_init__(self) -> None:
        for wanted in self.label_sets:
            if not wanted.replace(".", "", 1).isdecimal():
                raise ValueError("label_sets must have coverages such as 0.9 as keys")


@dataclass(frozen=True, kw_only=True)
class CalibrationMetrics:
    """Effect of the calibration.

    Args:
        temperature: divisor of the logits.
        validation: effect on the validation rows.
        test: effect on the test rows, if there are any.
    """

    temperature: float
    validation: CalibratedSplit
    test: CalibratedSplit | None = None


@dataclass(frozen=True, kw_only=True)
class InBf16:
    """Predictions with bf16 products beside those in fp32, on some test or, without these, validation rows.

    Args:
        rows: number of these rows.
        same_labels: share of them that get the same label.
        ece: expected calibration error in bf16.
        ece_fp32: the same in fp32.
    """

    rows: Count
    same_labels: float
    ece: float
    ece_fp32: float


@dataclass(frozen=True, kw_only=True)
class PartScores:
    """Validation scores by the selection metric; None where there is none.

    Args:
        start: the classifier that training started from, unchanged.
        head: the LSTM alone.
        linear: the linear model alone.
        both: the weighted sum of the two.
        kept: the model that was kept.
    """

    start: float | None
    head: float | None
    linear: float | None
    both: float | None
    kept: float | None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Which of the LSTM and the linear model was kept.

    Args:
        kind: both, head or linear.
        why: the reason, in words.
        scores: of each; None in runs of earlier versions.
        behind_start: True if the start unchanged scores better than the kept model, by more than chance; None
            otherwise.
        start: what training started from.
        adapt: how (see `Config`).
        cross_validated: whether the scores are of cross-validated training rows.
        folds: of the cross-validation.
        penalty: of the head.
        linear_strength: of the regularization of the linear model.
        class_bias: strength of the class bias, 0 to 1.
    """

    kind: Literal["both", "head", "linear"]
    why: str
    scores: PartScores | None = None
    behind_start: bool | None = None
    start: str | None
    adapt: str
    cross_validated: bool
    folds: Count | None = None
    penalty: float | None = None
    linear_strength: float | None = None
    class_bias: float | None = None


@dataclass(frozen=True, kw_only=True)
class AgainstLinear:
    """A model compared with the linear baseline on the same held-out rows (see `linear.baselines`).

    Args:
        metric: compared.
        difference: score of the model minus that of the linear model.
        low: lower end of the 95 % interval of the paired bootstrap.
        high: upper end.
        linear_s: seconds that fitting the linear model took, if known.
        model_s: seconds that training the model took.
    """

    metric: str
    difference: float
    low: float
    high: float
    linear_s: float | None = None
    model_s: float


@dataclass(frozen=True, kw_only=True)
class RunMetrics(Record):
    """Results of a run.

    Args:
        branches: scores of each branch alone, by name, for a network of several.
        kept: which branches were kept, if that was decided.
        validation: scores of the validation rows, or of the cross-validated training rows.
        test: scores of the test rows, if there are any.
        known_to_starter: as in `DataFacts`: scores of these rows are too good for new texts.
        calibration: effect of the calibration.
        bf16: effect of bf16 in prediction; None where it is not available, and in runs of earlier versions.
        baselines: scores of the baselines on the held-out rows, by name.
        against_linear: comparison with the linear baseline; None if there is none, if the linear model was
            kept, and in runs of earlier versions.
        metric: that selected the best epoch.
        cross_validated: True if the training rows were cross-validated in place of validation rows.
        best_epoch: 1-based; 0 if the LSTM was frozen, and there were none.
        epochs: done.
        steps: of the optimizer.
        training_s: seconds of training.
        parameters: of the network.
        total_s: seconds of the run; None until it ends.
    """

    FILE: ClassVar[str] = "metrics.json"

    branches: dict[str, BranchMetrics] | None = None
    kept: Kept | None = None
    validation: Scores
    test: Scores | None = None
    known_to_starter: dict[str, Count] | None = None
    calibration: CalibrationMetrics
    bf16: InBf16 | None = None
    baselines: dict[str, Scores]
    against_linear: AgainstLinear | None = None
    metric: str
    cross_validated: bool | None = None
    best_epoch: Count
    epochs: Count
    steps: Count
    training_s: float
    parameters: Count
    total_s: float | None = None

    def __post_init__(self) -> None:
        parts: dict[str, CalibrationMetrics | BranchMetrics] = {"calibration": self.calibration}
        parts |= {f"branches.{name}": branch for name, branch in (self.branches or {}).items()}
        for name, part in parts.items():
            if (part.test is None) != (self.test is None):
                missing = f"{name}.test" if part.test is None else "test"
                raise ValueError(f"{missing} is missing; it must be an object")
        labels = list(self.validation.per_class)
        for name, scores in self.all_scores.items():
            if list(scores.per_class) != labels:
                raise ValueError(f"{name}.per_class must have the classes of validation.per_class")

    @property
    def split(self) -> Split:
        """The held-out split that results are reported on: test or, without test rows, validation."""
        return "validation" if self.test is None else "test"

    @property
    def held_out(self) -> Scores:
        """The scores of `split`."""
        return self.test or self.validation

    @property
    def labels(self) -> list[str]:
        """The class names."""
        return list(self.validation.per_class)

    @property
    def calibrated(self) -> CalibratedSplit:
        """The effect of the calibration on `split`."""
        return self.calibration.test or self.calibration.validation

    @functools.cached_property
    def all_scores(self) -> dict[str, Scores]:
        """All scores, by their place in the file."""
        found = {"validation": self.validation, "test": self.test}
        for name, branch in (self.branches or {}).items():
            found |= {f"branches.{name}.validation": branch.validation, f"branches.{name}.test": branch.test}
        found |= {f"baselines.{name}": scores for name, scores in self.baselines.items()}
        return {place: scores for place, scores in found.items() if scores is not None}

    @property
    def validated_on(self) -> str:
        """The rows that chose and calibrated the model, in words."""
        crossed = (self.kept or self).cross_validated
        return "cross-validated training rows" if crossed else "validation rows"

    def compared(self) -> dict[str, Scores]:
        """Return the scores of the run on `split`, of each of its branches, and of its baselines, by name."""
        branches = {f"{name} alone": of.test or of.validation for name, of in (self.branches or {}).items()}
        return {"this model": self.held_out, **branches, **self.baselines}

    def as_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        found = super().as_json()
        return found if self.epochs else {name: found[name] for name in OF_FROZEN if name in found}


@dataclass(frozen=True, kw_only=True)
class LanguageMetrics(Record):
    """Results of a run of a language model.

    Args:
        validation: scores of the best epoch.
        best_epoch: 1-based.
        epochs: done.
        steps: of the optimizer.
        training_s: seconds of training.
        parameters: of the model.
        total_s: seconds of the run.
    """

    FILE: ClassVar[str] = "metrics.json"

    validation: LanguageScores
    best_epoch: Count
    epochs: Count
    steps: Count
    training_s: float
    parameters: Count
    total_s: float
