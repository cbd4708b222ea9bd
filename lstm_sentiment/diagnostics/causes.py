"""Findings from the probes, and their most likely cause.

Causes are ranked: a cause comes before those that it explains. Unknown words explain a batch that cannot be
overfit; a bad learning rate explains a model that predicts only one class.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lstm_sentiment.config.schema import Config, TrainerConfig
from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.diagnostics.alternatives import FEW_STEPS, Epochs, steps_of, still_falls
from lstm_sentiment.diagnostics.data_checks import MAJORITY_SHARE
from lstm_sentiment.diagnostics.findings import ERROR, NOTE, WARNING, Finding
from lstm_sentiment.diagnostics.sanity_checks import ERRORS, chance_level, collapsed, leak_line
from lstm_sentiment.errors import shown
from lstm_sentiment.evaluation.metrics import neglected_classes, title_of
from lstm_sentiment.linear.baselines import LINEAR
from lstm_sentiment.records.run_metrics import RunMetrics

LOSS_OFF = 0.35  # nats between first loss and ln C, as in the trainer's report
VANISHED = 1e-5  # of the largest block's gradient norm
EXPLODED = 100.0  # gradient norm at the first step, before clipping
IMBALANCED = 2 / 3  # of the training rows are of one class
NEARLY_ALL = 0.99  # of the validation rows are predicted correctly: more steps gain nothing
MOSTLY_UNKNOWN = 0.9  # of the training rows' tokens
CROSS_VALIDATED = "cross-validated training rows"
Facts = dict[str, Any]


def probe_findings(probes: Facts) -> list[Finding]:
    """Return the findings of the probes, at most one each.

    Args:
        probes: name of a method of `Probes` -> its result; ``predicted`` and ``validation`` of a trained run,
            class -> rows, if there is one, and ``held_out``, which rows these are.

    >>> [finding.key for finding in probe_findings({"first_loss": {"loss": 9.0, "guess": 0.69}})]
    ['text.vectors']
    """
    examine = {
        "first_loss": _first_loss,
        "gradient_norms": _gradients,
        "overfit": _overfit,
        "control": _control,
        "frozen": _frozen,
    }
    found = [examine[name](probes[name]) for name in examine if name in probes]
    if "predicted" in probes:
        found.append(_collapse(probes["predicted"], probes["validation"], "the run", probes["held_out"]))
    return [finding for finding in found if finding is not None]


def run_findings(
    config: Config, corpus: Corpus, metrics: RunMetrics | None = None, epochs: Epochs = ()
) -> list[Finding]:
    """Return findings about the classes that a run predicts, its number of steps and its metric.

    Args:
        config: of the run, resolved.
        corpus: its rows.
        metrics: of the run, if it is finished.
        epochs: its log (see `report.epochs_of`).

    Example::

        run_findings(config, corpus)
    """
    findings = [
        Finding(
            severity=WARNING,
            what=f"validation: {line}",
            why="weigh the classes, add rows of it, or merge it with another class (data.labels)",
            key="trainer.class_weights",
        )
        for line in (_neglected(metrics) if metrics else ())
    ]
    room = metrics is None or metrics.validation.accuracy < NEARLY_ALL
    few = _few_steps(config, corpus, falls=room and still_falls(epochs))
    return findings + [of for of in (few, _metric(config, corpus)) if of is not None]


def _neglected(metrics: RunMetrics) -> list[str]:
    """Return a line per neglected class, unless only one class is predicted, which is another finding."""
    predicted_C = np.array(metrics.validation.confusion).sum(axis=0)
    return neglected_classes(metrics.validation) if (predicted_C > 0).sum() > 1 else []


def _few_steps(config: Config, corpus: Corpus, *, falls: bool) -> Finding | None:
    per_epoch, steps = steps_of(config, corpus)
    if not per_epoch or steps >= FEW_STEPS:
        return None
    needed = math.ceil(FEW_STEPS / per_epoch)
    return Finding(
        severity=WARNING if falls else NOTE,
        what=f"{steps:,} steps ({per_epoch:,} per epoch, {config.trainer.epochs} epochs) are few"
        + ("; the training loss still falls in the last epoch" if falls else ""),
        why=f"{FEW_STEPS} take {needed} epochs, or smaller batches (trainer.batch_size)",
        key="trainer.epochs",
    )


def _metric(config: Config, corpus: Corpus) -> Finding | None:
    counts_C = np.bincount(corpus.train.labels, minlength=len(corpus.labels))
    share, label = counts_C.max() / counts_C.sum(), corpus.labels[int(counts_C.argmax())]
    if config.trainer.metric not in ("accuracy", "loss") or share < IMBALANCED:
        return None
    return Finding(
        severity=WARNING,
        what=f"epochs are selected by {title_of(config.trainer.metric)}, and {share:.0%} of the training "
        f"rows are {shown(label)}",
        why="rare classes hardly count in it: predicting one class for all texts has "
        f"{share:.0%} accuracy; select by macro_f1",
        key="trainer.metric",
    )


def linear_generalises(metrics: RunMetrics) -> bool:
    """Whether the linear baseline of a run is better than chance: the labels are related to the texts.

    Example::

        linear_generalises(RunFolder("runs/tweets").read(RunMetrics))
    """
    scores = metrics.baselines.get(LINEAR)
    if scores is None:
        return False
    rows_P = np.array([of.rows for of in scores.per_class.values() if of.rows])
    chance, error = chance_level(rows_P)
    return scores.macro_recall > chance + ERRORS * error


def generalises(metrics: RunMetrics) -> Facts:
    """Return how far a finished run is above chance, as `Probes.frozen` does.

    Example::

        generalises(RunFolder("runs/tweets").read(RunMetrics))["true"]
    """
    scores = metrics.validation
    chance, error = chance_level(np.array([of.rows for of in scores.per_class.values()]))
    found = {"true": scores.macro_recall, "chance": chance, "standard_error": error, "rows": scores.rows}
    return found | {"of": held_out(metrics)}


def held_out(metrics: RunMetrics) -> str:
    """Name the rows that the validation scores of a run are of.

    Example::

        held_out(RunFolder("runs/tweets").read(RunMetrics))
    """
    crossed = metrics.cross_validated or (metrics.kept is not None and metrics.kept.cross_validated)
    return CROSS_VALIDATED if crossed else "validation rows"


def most_likely_cause(
    data: Facts, probes: Facts, *, trainer: TrainerConfig, subwords: int, linear_learns: bool = False
) -> Finding | None:
    """Return the most likely cause of the probes' findings; None if there are none.

    Args:
        data: result of `data_checks.examine_data`.
        probes: as for `probe_findings`, of all probes.
        trainer: the section that was probed.
        subwords: ``text.subwords``.
        linear_learns: whether a linear model of the same rows is better than chance.

    Example::

        cause = most_likely_cause(data, probes, trainer=config.trainer, subwords=config.text.subwords)
    """
    if not probe_findings(probes):
        return None
    causes = (
        _unknown_words(data, subwords),
        *(_causes_of_steps(probes, trainer) if "control" in probes else ()),
        _one_class(data),
        *(_causes_of_generalising(probes, linear_learns=linear_learns)),
    )
    return next((cause for cause in causes if cause is not None), None)


def _causes_of_steps(probes: Facts, trainer: TrainerConfig) -> tuple[Finding | None, ...]:
    return (
        _rates(probes, trainer),
        _first_loss(probes["first_loss"]),
        _gradients(probes["gradient_norms"]),
        _cannot_learn(probes),
        _leak(probes["control"]),
    )


def _causes_of_generalising(probes: Facts, *, linear_learns: bool) -> tuple[Finding | None, ...]:
    if "control" in probes:
        return (_too_little(probes) if linear_learns else None, _labels_at_random(probes))
    unrelated = "frozen" in probes and not linear_learns and _frozen(probes["frozen"]) is not None
    return (_unrelated("nothing is learned beyond chance") if unrelated else None,)


def probe_lines(probes: Facts) -> list[str]:
    """Format the results of the probes."""
    lines = _lines_of_steps(probes) if "control" in probes else []
    if "frozen" in probes:
        of = probes["frozen"]
        lines += [
            f"held-out rows   {of['rows']:,} {of['of']}: macro recall {of['true']:.3f}; chance "
            f"{of['chance']:.3f} ± {of['standard_error']:.3f}",
        ]
    if "control" not in probes:
        lines.append("training steps  not examined: the LSTM is frozen, and there are none")
    if "predicted" in probes:
        crossed = probes["held_out"] == CROSS_VALIDATED
        who = "out of fold" if crossed else "the run" if "control" not in probes else "best epoch"
        lines.append(f"{who:<14}  {_counted(probes['predicted'])} of {_counted(probes['validation'])}")
    elif "held_out" in probes:
        lines.append("out of fold     not known: the run, which is cross-validated, is not finished")
    return lines


def _lines_of_steps(probes: Facts) -> list[str]:
    first, overfit, control = (probes[name] for name in ("first_loss", "overfit", "control"))
    norms = ", ".join(f"{block} {norm:.2g}" for block, norm in probes["gradient_norms"].items())
    lines = [
        f"first loss      {first['loss']:.3f}; uniform: {first['guess']:.3f}",
        f"gradient norms  {norms}",
        f"one batch       {overfit['rows']} rows overfit: loss {overfit['first']:.3f} to "
        f"{overfit['last']:.3f} in {overfit['steps']} steps; goal {overfit['goal']:.3f}: "
        f"{'as expected' if overfit['learned'] else 'not reached'}",
    ]
    if control["failure"]:
        lines.append(f"short training  stopped: {control['failure']}")
    else:
        lines.append(
            f"short training  {control['rows']:,} rows, {control['steps']} steps: macro recall "
            f"{control['true']:.3f}; chance {control['chance']:.3f} ± {control['standard_error']:.3f}"
        )
        expected = "above chance: see below" if _leak(control) else "near chance, as expected"
        lines.append(f"  control       with shuffled labels: {control['shuffled']:.3f}, {expected}")
        lines.append(f"  predicted     {_counted(control['predicted'])} of {_counted(control['validation'])}")
    return lines


def _counted(classes: dict[str, int]) -> str:
    return ", ".join(f"{shown(label)[1:-1]} {count:,}" for label, count in classes.items())


def _first_loss(first: Facts) -> Finding | None:
    if abs(first["loss"] - first["guess"]) < LOSS_OFF:  # a comparison with nan is false
        return None
    return Finding(
        severity=WARNING,
        what=f"the first loss is {first['loss']:.3g}; that of a uniform prediction is {first['guess']:.3g}",
        why="the untrained model is overconfident: its vectors are too large; scale them",
        key="text.vectors",
    )


def _gradients(norms: dict[str, float]) -> Finding | None:
    bad = [block for block, norm in norms.items() if not norm < EXPLODED]
    if bad:
        return Finding(
            severity=WARNING,
            what=f"the first gradient of {bad[0]} has norm {norms[bad[0]]:.3g}: it explodes",
            why="clipping leaves only noise; are the vectors very large, or are there many layers?",
            key="text.vectors" if "embedding" in bad[0] else "model.layers",
        )
    largest = max(norms.values())
    gone = [block for block, norm in norms.items() if norm <= VANISHED * largest]
    if not gone:
        return None
    return Finding(
        severity=WARNING,
        what=f"the first gradient of {', '.join(gone)} has norm {norms[gone[0]]:.2g}, the largest "
        f"{largest:.2g}: it vanishes",
        why="the lower layers do not learn; use fewer layers, or smaller vectors",
        key="model.layers",
    )


def _overfit(overfit: Facts) -> Finding | None:
    if overfit["learned"]:
        return None
    return Finding(
        severity=WARNING,
        what=f"cannot overfit {overfit['rows']} rows in {overfit['steps']} steps: the loss goes from "
        f"{overfit['first']:.3g} to {overfit['last']:.3g}, not below {overfit['goal']:.2g}",
        why="a model that cannot overfit one batch cannot fit the data",
        key="trainer.learning_rate",
    )


def _control(control: Facts) -> Finding | None:
    if control["failure"]:
        return Finding(
            severity=WARNING,
            what=f"a short training stopped: {control['failure']}",
            why="the full training will stop, too",
            key="trainer.learning_rate",
        )
    leak = _leak(control)
    if leak is not None:
        return leak
    if collapsed(control["predicted"], control["validation"]):
        return _collapse(control["predicted"], control["validation"], "a short training", "validation rows")
    if control["true"] > control["chance"] + ERRORS * control["standard_error"]:
        return None
    return Finding(
        severity=WARNING,
        what=f"after a short training the macro recall is {control['true']:.3f}; chance level is "
        f"{control['chance']:.3f} ± {control['standard_error']:.3f}",
        why=f"that anything generalises is not shown beyond chance ({ERRORS:g} standard errors)",
        key=None,
    )


def _frozen(of: Facts) -> Finding | None:
    if of["true"] > of["chance"] + ERRORS * of["standard_error"]:
        return None
    return Finding(
        severity=WARNING,
        what=f"macro recall is {of['true']:.3f} on {of['rows']:,} {of['of']}; chance level is "
        f"{of['chance']:.3f} ± {of['standard_error']:.3f}",
        why=f"that anything generalises is not shown beyond chance ({ERRORS:g} standard errors)",
        key=None,
    )


def _leak(control: Facts) -> Finding | None:
    if control["failure"] or control["shuffled"] <= leak_line(control):
        return None
    return Finding(
        severity=ERROR,
        what=f"trained on shuffled labels the macro recall is {control['shuffled']:.3f} on validation rows; "
        f"chance level is {control['chance']:.3f} ± {control['standard_error']:.3f}",
        why="validation labels leak into the model: validation scores are meaningless. Were the vectors "
        "trained with these labels?",
        key="text.vectors",
    )


def _collapse(predicted: dict[str, int], truth: dict[str, int], who: str, held: str) -> Finding | None:
    if not collapsed(predicted, truth):
        return None
    label = max(predicted, key=predicted.__getitem__)
    rows = sum(predicted.values())
    return Finding(
        severity=WARNING,
        what=f"{who} predicts {shown(label)} for {predicted[label]:,} of {rows:,} {held}; "
        f"{truth[label]:,} have this label",
        why="it hardly distinguishes the classes",
        key="trainer.class_weights",
    )


def _unknown_words(data: Facts, subwords: int) -> Finding | None:
    unknown = data["splits"]["train"]["unknown_tokens"]
    if unknown < MOSTLY_UNKNOWN:
        return None
    return Finding(
        severity=WARNING,
        what=f"{unknown:.0%} of the training rows' tokens are unknown to the model",
        why="it cannot distinguish texts" + (" except by subwords" if subwords else "")
        + "; lower text.min_frequency, or raise text.max_vocabulary",
        key="text.min_frequency",
    )  # fmt: skip


def _rates(probes: Facts, trainer: TrainerConfig) -> Finding | None:
    """Blame the setting that differs most from settings with which the batch is overfit."""
    better = probes["overfit"]["learned_with"]
    if better is None:
        return None
    apart = {
        key: round(math.log10(getattr(trainer, key) / value), 1)
        for key, value in better.items()
        if getattr(trainer, key) > 0  # weight decay 0 is harmless
    }
    key = max(apart, key=lambda name: abs(apart[name]))
    word = "high" if apart[key] > 0 else "low"
    return Finding(
        severity=WARNING,
        what=f"trainer.{key} {getattr(trainer, key):g} is too {word}: one batch cannot be overfit with it, "
        f"but with {better[key]:g}",
        why=f"set it to about {better[key]:g}",
        key=f"trainer.{key}",
    )


def _cannot_learn(probes: Facts) -> Finding | None:
    overfit = probes["overfit"]
    if overfit["learned"]:
        return None
    return Finding(
        severity=WARNING,
        what=f"one batch of {overfit['rows']} rows cannot be overfit with any of the learning rates tried",
        why="the model is too small, or texts are truncated too much (text.max_tokens)",
        key="model.hidden_size",
    )


def _one_class(data: Facts) -> Finding | None:
    of_train = data["splits"]["train"]
    label = max(of_train["classes"], key=of_train["classes"].__getitem__)
    share = of_train["classes"][label] / of_train["rows"]
    if share < MAJORITY_SHARE:
        return None
    return Finding(
        severity=WARNING,
        what=f"{share:.0%} of the training rows are {shown(label)}, predicted for almost all rows",
        why="set it to balanced, or give more rows of the other classes",
        key="trainer.class_weights",
    )


def _too_little(probes: Facts) -> Finding | None:
    if probes["control"]["failure"] or _control(probes["control"]) is None:
        return None
    return Finding(
        severity=WARNING,
        what="a linear model of these rows generalises, but a short training of the LSTM does not",
        why="it needs more steps or a higher learning rate, or more rows",
        key="trainer.learning_rate",
    )


def _labels_at_random(probes: Facts) -> Finding | None:
    control = probes["control"]
    if control["failure"]:
        return Finding(
            severity=WARNING,
            what=f"a short training stopped: {control['failure']}",
            why="lower it, or set trainer.precision fp32",
            key="trainer.learning_rate",
        )
    if _control(control) is None:
        return None
    return _unrelated("one batch can be overfit, but nothing generalises to other rows")


def _unrelated(found: str) -> Finding:
    return Finding(
        severity=WARNING,
        what=f"{found}: labels are unrelated to texts",
        why="is it the right column, are labels and texts aligned, is data.labels correct? Or there are too "
        "few rows",
        key="data.label_column",
    )
