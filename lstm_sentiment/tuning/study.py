"""A search of settings by Optuna: trials on validation rows, in a study that is shared and survives kills.

The first trial has the settings as they are. A trial's run folder keeps settings and scores, not weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lstm_sentiment.adaptation.resolving import BY_STEPS, resolve, user_keys
from lstm_sentiment.adaptation.start import TAKEN
from lstm_sentiment.checkpoints.untrusted_files import json_of
from lstm_sentiment.config.command_line import given_keys, parse_config
from lstm_sentiment.config.schema import Config, flatten
from lstm_sentiment.data.token_store import cache_folder
from lstm_sentiment.errors import ConfigError, OutOfMemoryError, RunError, TrainingError
from lstm_sentiment.evaluation.metrics import LOWER_IS_BETTER
from lstm_sentiment.experiment.train import run
from lstm_sentiment.system.extras import need
from lstm_sentiment.system.files import make_folder, write_json
from lstm_sentiment.system.lock import InUseError, held
from lstm_sentiment.system.open_errors import reading
from lstm_sentiment.tuning.space import Choice, Space, as_text

NAME = "search"
STORE, TRIALS, WORKERS, FACTS = "study.db", "trials", "workers", "search.json"
KEPT = {"config.yaml", "metrics.json", "log.jsonl", "data.json", "environment.json", "status.json"}
PATIENCE_S = 60.0  # for another process that opens the study
HEARTBEAT_S, GRACE_S = 20, 90  # a trial of a process without a heartbeat for so long has failed
FIRST = 5  # trials, from which on others are pruned
DEFAULTS, PROBLEM = "defaults", "problem"  # user attributes of trials

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched.

    Args:
        argv: settings of all trials, as options of `train`.
        space: settings that differ.
        out: folder of the study.
        trials: of the whole study, by all processes and calls together.
        minutes: after which this process starts no trial; None for no limit.
    """

    argv: list[str]
    space: Space
    out: Path
    trials: int
    minutes: float | None = None

    def config(self, values: Mapping[str, Any], out: Path) -> tuple[Config, frozenset[str]]:
        """Return the configuration with some settings, and the keys that are set.

        Raises:
            ConfigError: a value is not possible.
        """
        own = [f"--{key}={as_text(value)}" for key, value in values.items()]
        argv = [*self.argv, *own, f"--out={out}"]
        config = parse_config(argv, program="search", description="")
        config = dataclasses.replace(
            config, seeds=1, baseline=False, report=False, overwrite=True, resume=False
        )
        return config, given_keys([*self.argv, *own])

    @property
    def metric(self) -> str:
        """The validation score that is searched for."""
        return self.config({}, self.out)[0].trainer.metric


def check(search: Search) -> None:
    """Check the settings before the first trial.

    Raises:
        ConfigError: a value of the space is not possible, or set for all trials too; names the key.
        RunError: the folder has something else, or a study of other settings.
        MissingExtraError: Optuna is not installed.
    """
    need("optuna", extra="search")
    given = given_keys(search.argv)
    if both := sorted(given & set(search.space)):
        raise ConfigError("is searched over, so it cannot be set too; remove one of them", key=both[0])
    for key, values in search.space.items():
        for value in values.ends:
            search.config({key: value}, search.out)
    known = (search.out / FACTS).is_file()
    # Another process may be about to begin the same study: its lock and temporary files are hidden.
    if search.out.is_dir() and not known and any(of.name[0] != "." for of in search.out.iterdir()):
        raise RunError(f"{search.out}: exists and is not a study; choose another --out")


def open_study(search: Search) -> Any:
    """Return the Optuna study, a new one or that of the folder, and note what it searches.

    The first trial of a new one has the settings as they are.

    Raises:
        RunError: the folder has a study of other settings; the store cannot be opened; another process has
            been opening it for a minute.
    """
    optuna = need("optuna", extra="search")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    make_folder(search.out)
    with _alone(search.out):
        _check_same(search)
        study = _opened(search, optuna)
        failed = optuna.trial.TrialState.FAIL
        if not any(
            DEFAULTS in of.user_attrs and of.state != failed for of in study.get_trials(deepcopy=False)
        ):
            study.enqueue_trial({}, user_attrs={DEFAULTS: True})
    return study


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep other processes from opening the study, and wait for one that does."""
    ends = time.monotonic() + PATIENCE_S
    with contextlib.ExitStack() as lock:
        while True:
            try:
                lock.enter_context(held(out))
                break
            except InUseError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.05)
        yield


def _check_same(search: Search) -> None:
    """Write what a new study searches; refuse a study of other settings or another space."""
    facts: dict[str, dict[str, Any]] = {
        "settings": {key: as_text(value) for key, value in flatten(search.config({}, search.out)[0]).items()},
        "space": {key: dataclasses.asdict(values) for key, values in sorted(search.space.items())},
    }
    del facts["settings"]["out"]
    file = search.out / FACTS
    if file.is_file():
        with reading(file):
            known: Any = json_of(file)
        plain = {**facts, "space": {k: _plain(v) for k, v in facts["space"].items()}}
        for part in ("settings", "space"):
            if known.get(part) != plain[part]:
                keys = {**known.get(part, {}), **plain[part]}
                changed = [key for key in keys if known.get(part, {}).get(key) != plain[part].get(key)]
                raise RunError(
                    f"{search.out}: has a study with other {part} ({', '.join(changed)}); go on with its "
                    "own, or choose another --out"
                )
    else:
        write_json(file, facts)


def _opened(search: Search, optuna: Any) -> Any:
    """Return the study in the store."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # heartbeats are new in Optuna
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{search.out / STORE}",
            engine_kwargs={"connect_args": {"timeout": 60}},
            heartbeat_interval=HEARTBEAT_S,
            grace_period=GRACE_S,
        )
        worker = _worker(search.out)
        return optuna.create_study(
            storage=storage,
            study_name=NAME,
            load_if_exists=True,
            direction="minimize" if search.metric in LOWER_IS_BETTER else "maximize",
            sampler=optuna.samplers.TPESampler(seed=1000 * worker + search.config({}, search.out)[0].seed),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST, n_warmup_steps=0),
        )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _worker(out: Path) -> int:
    """Return the number of this process in the study, which no other has: its random numbers differ."""
    make_folder(out / WORKERS)
    number = len(list((out / WORKERS).iterdir()))
    while True:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(out / WORKERS / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return number
        number += 1


class _Pruning:
    """A sink of curves that reports validation scores to a trial, and ends it below the median of others."""

    def __init__(self, trial: Any, metric: str) -> None:
        self._trial, self._name, self._epochs = trial, f"validation/{metric}", 0
        self._may_end = not trial.user_attrs.get(DEFAULTS)
        self._pruned = need("optuna", extra="search").TrialPruned

    def add(self, step: int, values: Mapping[str, float]) -> None:  # noqa: ARG002
        """Report a score, if there is one."""
        if self._name not in values:
            return
        self._epochs += 1
        self._trial.report(values[self._name], self._epochs)
        if self._may_end and self._trial.should_prune():
            raise self._pruned(f"after epoch {self._epochs}")

    def flush(self) -> None:
        """Do nothing: each score is stored at once."""


def run_trials(search: Search, study: Any, report: Callable[[str], None]) -> None:
    """Run trials until the study has as many as asked for, or the time is over.

    Args:
        search: what is searched.
        study: of `open_study`.
        report: is called with a line about each trial.

    Raises:
        SentimentError: a mistake in the settings or the data, which no trial survives.
    """
    optuna = need("optuna", extra="search")
    began, counted = time.monotonic(), optuna.trial.TrialState
    done = (counted.COMPLETE, counted.PRUNED)

    def stop(study: Any, trial: Any) -> None:
        report(_line(study, trial, search))
        late = search.minutes is not None and time.monotonic() - began > 60 * search.minutes
        if late or len(study.get_trials(deepcopy=False, states=done)) >= search.trials:
            study.stop()

    if len(study.get_trials(deepcopy=False, states=done)) >= search.trials:
        return
    start = start_of(search)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(lambda trial: _objective(search, start, trial), callbacks=[stop])


def _objective(search: Search, start: Mapping[str, Any], trial: Any) -> float:
    """Return the validation score of a trial."""
    folder, metric = search.out / TRIALS / f"{trial.number:04}", search.metric
    values: dict[str, Any] = {}
    if not trial.user_attrs.get(DEFAULTS):
        values = {**start, **{key: _suggested(trial, key, of) for key, of in search.space.items()}}
    config, given = search.config(values, folder)
    try:
        metrics = run(config, given=given, with_test=False, scalars=_Pruning(trial, metric))
    except (TrainingError, OutOfMemoryError) as error:
        trial.set_user_attr(PROBLEM, str(error))
        raise need("optuna", extra="search").TrialPruned(str(error)) from None
    finally:
        for left in folder.iterdir() if folder.is_dir() else ():
            if left.name not in KEPT:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    return float(metrics["validation"][metric])


def _suggested(trial: Any, key: str, values: Any) -> Any:
    if isinstance(values, Choice):
        return trial.suggest_categorical(key, list(values.values))
    if values.is_whole:
        return trial.suggest_int(key, values.low, values.high, log=values.log, step=values.step or 1)
    return trial.suggest_float(key, values.low, values.high, log=values.log, step=values.step)


def start_of(search: Search) -> dict[str, Any]:
    """Return how all trials start: as training with the settings as they are does.

    Setting how weights are trained would otherwise mean random weights (see `adaptation.resolving`).

    Args:
        search: its settings.

    Raises:
        SentimentError: rows that cannot be read.
    """
    given = given_keys(search.argv)
    if {*TAKEN, "pretrained"} & {*search.space, *given}:
        return {}
    config = search.config({}, search.out)[0]
    decided = resolve(config, user_keys(config, given), cache=cache_folder()).config
    if decided.pretrained is None:
        return {"pretrained": None}
    if "adapt" in {*search.space, *given}:
        return {"pretrained": decided.pretrained}
    adapt = "finetune" if BY_STEPS & set(search.space) else decided.adapt
    return {"pretrained": decided.pretrained, "adapt": adapt}


def _line(study: Any, trial: Any, search: Search) -> str:
    """Return a line about a trial."""
    state = trial.state.name.lower()
    values = ", ".join(f"{key.rpartition('.')[2]} {_short(value)}" for key, value in trial.params.items())
    what = "the settings as they are" if trial.user_attrs.get(DEFAULTS) else values
    score = f"{search.metric} {trial.value:.4f}" if trial.value is not None else ""
    if state == "pruned":
        score = f"stopped after epoch {trial.last_step}" if trial.last_step else "not finite or out of memory"
    with contextlib.suppress(ValueError):  # no trial is complete
        best = study.best_trial
        score += f" (best {best.value:.4f}, trial {best.number})"
    return f"trial {trial.number}: {score}: {what}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
