"""The results of a search: a table and plots of its trials, and the best settings trained with several seeds.

Only this last step scores test rows: with the best settings and, for comparison, the settings as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lstm_sentiment.checkpoints.run_paths import SEEDS
from lstm_sentiment.checkpoints.untrusted_files import json_of
from lstm_sentiment.config.schema import flatten
from lstm_sentiment.evaluation.metrics import LOWER_IS_BETTER, title_of
from lstm_sentiment.experiment.seeds import run_seeds
from lstm_sentiment.system.extras import need
from lstm_sentiment.system.files import make_folder, write_atomically, write_json
from lstm_sentiment.system.lock import InUseError, held
from lstm_sentiment.tuning.study import DEFAULTS, Search, start_of

BEST, BEST_YAML, TABLE, PLOTS, RESULT = "best", "best.yaml", "trials.csv", "plots", "result.json"
DRAWN = ("optimization_history", "intermediate_values", "param_importances", "slice", "parallel_coordinate")
FEWEST = 2  # seeds of the last step


def write_table(search: Search, study: Any) -> None:
    """Write trials.csv: a row per trial with its state, score, values and seconds.

    Raises:
        DiskError: it cannot be written.
    """
    frame = study.trials_dataframe(attrs=("number", "state", "value", "duration", "params", "user_attrs"))
    frame["duration"] = frame["duration"].dt.total_seconds().round(1)
    write_atomically(search.out / TABLE, frame.to_csv(index=False).encode())


def write_plots(search: Search, study: Any) -> None:
    """Write Optuna's own plots as SVG, those that the study has enough trials for.

    Raises:
        MissingExtraError: Matplotlib is not installed.
        DiskError: they cannot be written.
    """
    matplotlib = need("matplotlib", extra="search")
    matplotlib.use("Agg")
    pyplot = need("matplotlib.pyplot", extra="search")
    visualization = need("optuna.visualization.matplotlib", extra="search")
    make_folder(search.out / PLOTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in DRAWN:
            try:
                axes = getattr(visualization, f"plot_{name}")(study)
            except (ValueError, RuntimeError, ZeroDivisionError):  # too few trials
                pyplot.close("all")
                continue
            figure = getattr(axes, "flat", [axes])[0].figure
            figure.set_size_inches(8, 5)
            with (search.out / PLOTS / f"{name}.svg").open("wb") as file:
                figure.savefig(file, format="svg", bbox_inches="tight")
            pyplot.close("all")


def best_values(search: Search, study: Any) -> dict[str, Any]:
    """Return the settings of the best trial that differ; none if it is the first one."""
    best = study.best_trial
    return {} if best.user_attrs.get(DEFAULTS) else {**start_of(search), **best.params}


def best_yaml(search: Search, values: Mapping[str, Any]) -> str:
    """Return the best settings as YAML for ``train --config``: those given, and those found."""
    config, given = search.config(values, search.out)
    flat, tree = flatten(config), dict[str, Any]()
    for key in (key for key in flat if key in given and key not in ("out", "seeds")):
        section, _, name = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = flat[key]
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def finish(search: Search, study: Any, *, seeds: int, report: Callable[[str], None]) -> dict[str, Any] | None:
    """Train the best settings and the settings as they are with several seeds, and compare them.

    Args:
        search: what was searched.
        study: with at least one complete trial.
        seeds: of each.
        report: is called with lines of text.

    Returns:
        the content of result.json; None if another process does this, or still runs a trial and will.

    Raises:
        SentimentError: as training.
    """
    optuna = need("optuna", extra="search")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.storages.fail_stale_trials(study)
    write_table(search, study)
    write_plots(search, study)
    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    if running:
        numbers = ", ".join(str(trial.number) for trial in running)
        report(
            f"trial {numbers} is still running in another process, which trains the best settings at the end"
        )
        return None
    values = best_values(search, study)
    write_atomically(search.out / BEST_YAML, best_yaml(search, values).encode())
    report(f"best: trial {study.best_trial.number}, validation {search.metric} {study.best_value:.4f}")
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(held(search.out / BEST))
        except InUseError:
            report("another process trains the best settings with several seeds")
            return None
        found = {BEST: _trained(search, values, BEST, seeds)}
        if values:
            found[DEFAULTS] = _trained(search, {}, DEFAULTS, seeds)
        result = {"trial": study.best_trial.number, "values": values, **_compared(found, search.metric)}
        write_json(search.out / RESULT, result)
    for line in _lines(result, search.metric):
        report(line)
    return result


def _trained(search: Search, values: Mapping[str, Any], name: str, seeds: int) -> dict[str, Any]:
    """Train with several seeds, unless a killed call did it already; return the content of seeds.json."""
    out = search.out / name / "runs"
    config, given = search.config(values, out)
    known, wanted = out / "settings.yaml", best_yaml(search, values)
    if (out / SEEDS).is_file() and known.is_file() and known.read_text("utf-8") == wanted:
        found: dict[str, Any] = json_of(out / SEEDS)
        if len(found["runs"]) == seeds:
            return found
    found = run_seeds(dataclasses.replace(config, seeds=seeds), given=given)
    write_atomically(known, wanted.encode())
    return found


def _compared(found: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Return scores on the held-out rows by name, and the difference with its standard error over seeds."""
    result: dict[str, Any] = {}
    scores = {}
    for name, of in found.items():
        split = "test" if "test" in of["runs"][0] else "validation"
        scores[name] = [run[split][metric] for run in of["runs"]]
        result[name] = {"rows": split, "scores": scores[name], "best_run": of["best_run"]}
    if DEFAULTS in scores:
        means = {name: statistics.fmean(of) for name, of in scores.items()}
        error = math.sqrt(sum(statistics.variance(of) / len(of) for of in scores.values()))
        result["difference"] = {"mean": means[BEST] - means[DEFAULTS], "standard_error": error}
    return result


def _lines(result: Mapping[str, Any], metric: str) -> list[str]:
    """Format the scores of the last step."""
    names = {BEST: "best settings", DEFAULTS: "settings as they are"}
    lines = []
    for name, title in names.items():
        if name in result:
            of = result[name]
            mean, spread = statistics.fmean(of["scores"]), statistics.stdev(of["scores"])
            name = f"{of['rows']} {title_of(metric)}"
            lines.append(f"{title}: {name} {mean:.4f} ± {spread:.4f} ({len(of['scores'])} seeds)")
    if "difference" not in result:
        return [*lines, "no trial is better than the settings as they are"]
    gain, error = result["difference"]["mean"], result["difference"]["standard_error"]
    better = (gain < 0) if metric in LOWER_IS_BETTER else (gain > 0)
    verdict = "better" if better and abs(gain) > error else "not better by more than its standard error"
    return [*lines, f"the best settings are {verdict}: {gain:+.4f}, standard error over seeds {error:.4f}"]


def files(search: Search) -> str:
    """Return where the results are, in a line."""
    names: list[str | Path] = [BEST_YAML, TABLE, PLOTS, RESULT, f"{BEST}/runs"]
    return f"{search.out}: {', '.join(map(str, names))}"
