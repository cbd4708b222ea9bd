"""The table of experiments (experiments.yaml): runs and their held-out rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from sklearn.model_selection import train_test_split

from lstm_sentiment.config.sections import DataConfig
from lstm_sentiment.data.formats.readers import (
    LABEL_COLUMNS,
    TEXT_COLUMNS,
    as_text,
    pick_column,
    read_chunks,
)
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import ConfigError, DataError

DATA = "DATA/"  # stands for the folder given by --data
FIRST = "FIRST/"  # stands for the folder of prerequisite runs
STAGES = ("teacher", "pretrained")  # settings that may be a mapping: the settings of such a run
TAUGHT = ("data.unlabelled", "data.exclude")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Training and test rows, and published scores; experiments.yaml explains the fields."""

    name: str
    title: str
    config: str
    train: str
    metric: str
    validation: str | None = None
    test: str | None = None
    split: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    anchors: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if (self.test is None) != (list(self.split) in (["share"], ["column"])):
            raise ConfigError("needs either test, or split with share or column", key=self.name)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One setting, trained with several seeds.

    Args:
        name: the benchmark's name for a row of the main table, else ``benchmark/what``.
        benchmark: rows to train and score on.
        settings: options of the training command in addition to the benchmark's configuration.
        scored_on: ``test``, or ``validation`` if the scores are used to choose settings.
    """

    name: str
    benchmark: Benchmark
    settings: dict[str, Any]
    scored_on: str = "test"

    def options(self, train: str) -> list[str]:
        """Return the training command's options.

        DATA/ stands for the folder with the data, FIRST/ for that of prerequisite runs.

        Args:
            train: file to train on.
        """
        settings = self._settings(train)
        settings |= {key: f"{FIRST}{key}" for key in STAGES if isinstance(settings.get(key), dict)}
        return ["--config", self.benchmark.config, *_as_options(settings)]

    def first(self, train: str) -> dict[str, tuple[str, list[str]]]:
        """Return the prerequisite runs: the setting that names it -> the command and its options.

        A teacher has the settings of its student, overridden by its own and without the unlabelled data.

        Args:
            train: file to train on.
        """
        settings = self._settings(train)
        found = {key: settings.pop(key) for key in STAGES if isinstance(settings.get(key), dict)}
        stages = {}
        if "teacher" in found:
            own = {key: value for key, value in settings.items() if key not in TAUGHT} | found["teacher"]
            stages["teacher"] = ("train", ["--config", self.benchmark.config, *_as_options(own)])
        if "pretrained" in found:
            stages["pretrained"] = ("pretrain", _as_options(found["pretrained"]))
        return stages

    def _settings(self, train: str) -> dict[str, Any]:
        of = self.benchmark
        settings = {"data.train": train, "data.validation": of.validation, "data.test": "null"}
        return {k: v for k, v in settings.items() if v is not None} | of.settings | self.settings


@dataclass(frozen=True, kw_only=True)
class Lever:
    """A line of the ablation table: a lever, and the two experiments that measure its effect.

    One of them is the benchmark itself, as configured.
    """

    title: str
    benchmark: str
    with_it: str
    without_it: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Scores of a benchmark's experiments against training seconds or rows."""

    title: str
    benchmark: str
    against: str
    lines: dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The content of experiments.yaml: experiments by name, in file order, and descriptions of files."""

    benchmarks: dict[str, Benchmark]
    experiments: dict[str, Experiment]
    levers: list[Lever]
    curves: list[Curve]
    tried: list[dict[str, str]]
    files: dict[str, str]


def read_table(path: Path) -> Table:
    """Read a table of experiments.

    Raises:
        ConfigError: invalid table; the message names the file and the problem.
    """
    try:
        of = yaml.safe_load(path.read_text("utf-8"))
        benchmarks = {name: Benchmark(name=name, **fields) for name, fields in of["benchmarks"].items()}
        main = [Experiment(name=name, benchmark=b, settings={}) for name, b in benchmarks.items()]
        levers, compared = _levers(of.get("ablations", {"benchmarks": [], "levers": {}}), benchmarks)
        curves, points = _curves(of.get("curves", []), benchmarks)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}", where=str(path)) from None
    except ConfigError as error:
        raise ConfigError(error.message, key=error.key, where=str(path)) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"not a table of experiments: {error!r}", where=str(path)) from None
    return Table(
        benchmarks=benchmarks,
        experiments={experiment.name: experiment for experiment in (*main, *compared, *points)},
        levers=levers,
        curves=curves,
        tried=of.get("tried", []),
        files=of.get("files", {}),
    )


def _levers(
    ablations: dict[str, Any], benchmarks: dict[str, Benchmark]
) -> tuple[list[Lever], list[Experiment]]:
    """Return the lines of the ablation table and the experiments that they compare."""
    levers: list[Lever] = []
    experiments: dict[str, Experiment] = {}
    named = {
        *ablations["benchmarks"],
        *(b for of in ablations["levers"].values() for b in of.get("benchmarks", [])),
    }
    if unknown := named - set(benchmarks):
        raise ConfigError(f"no such benchmark: {', '.join(sorted(unknown))}", key="ablations")
    for name, of in benchmarks.items():
        for key, change in ablations["levers"].items():
            if name not in change.get("benchmarks", ablations["benchmarks"]):
                continue
            changed = Experiment(
                name=f"{name}/{key}",
                benchmark=of,
                settings=change["with"] if "with" in change else change["without"],
                scored_on="validation",
            )
            pair = (changed.name, name) if "with" in change else (name, changed.name)
            levers.append(Lever(title=change["lever"], benchmark=name, with_it=pair[0], without_it=pair[1]))
            experiments[changed.name] = changed
    return levers, list(experiments.values())


def _curves(
    curves: list[dict[str, Any]], benchmarks: dict[str, Benchmark]
) -> tuple[list[Curve], list[Experiment]]:
    """Return the curves and the experiments of their points; a point without settings is the benchmark."""
    found, experiments = [], []
    for of in curves:
        lines = {
            line: [
                Experiment(
                    name=f"{of['benchmark']}/{key}" if settings else of["benchmark"],
                    benchmark=benchmarks[of["benchmark"]],
                    settings=settings,
                )
                for key, settings in points.items()
            ]
            for line, points in of["lines"].items()
        }
        names = {line: [point.name for point in points] for line, points in lines.items()}
        found.append(Curve(**{**of, "lines": names}))
        experiments += [point for points in lines.values() for point in points]
    return found, experiments


def cut(benchmark: Benchmark, data: DataConfig, *, source: str, seed: int, folder: Path) -> dict[str, Path]:
    """Split the test rows of a benchmark off into separate files, so that training cannot read them.

    Duplicate texts and rows excluded by the configuration are removed first.

    Args:
        benchmark: its `split` selects the rows.
        data: columns, filter and encoding of the benchmark's configuration.
        source: file to split.
        seed: of the random split by `share`.
        folder: is created, with a folder of train.parquet and test.parquet per part.

    Returns:
        name of a part -> its folder; one part, "all", for `share`, one for each value for `column`.

    Raises:
        DataError: no such file or column, or too few rows.
    """
    with open_source(source, encoding=data.encoding, encoding_errors=data.encoding_errors) as opened:
        rows = pd.concat([chunk.frame for chunk in read_chunks(opened)], ignore_index=True)
    columns = [str(column) for column in rows.columns]
    text, label = (
        pick_column(wanted, columns, candidates=candidates, key=f"data.{key}", file=source)
        for wanted, candidates, key in (
            (data.text_column, TEXT_COLUMNS, "text_column"),
            (data.label_column, LABEL_COLUMNS, "label_column"),
        )
    )
    rows = rows.apply(lambda values: values.map(as_text))
    for column, value in data.filter.items():
        rows = rows[rows[column] == str(value)]
    rows = rows.drop_duplicates(text)
    if share := benchmark.split.get("share"):
        try:
            cut_once = train_test_split(rows, test_size=share, random_state=seed, stratify=rows[label])
        except ValueError as error:
            raise DataError(f"too few rows for a split of {share:g}: {error}", file=source) from None
        parts = {"all": cut_once}
    else:
        by = benchmark.split["column"]
        if by not in columns:
            raise DataError(f"no such column; there are {', '.join(columns)}", file=source, column=by)
        parts = {value: (rows[rows[by] != value], held) for value, held in rows.groupby(by)}
    folders = {name: folder / str(number) for number, name in enumerate(parts)}
    for name, of_part in parts.items():
        folders[name].mkdir(parents=True, exist_ok=True)
        for file, held in zip(("train", "test"), of_part, strict=True):
            held.to_parquet(folders[name] / f"{file}.parquet", index=False)
    return folders


def _as_options(settings: dict[str, Any]) -> list[str]:
    return [f"--{key}={_as_option(value)}" for key, value in settings.items()]


def _as_option(value: Any) -> str:
    """Return a value as typed on the command line.

    >>> _as_option(True), _as_option({"a": 1}), _as_option("last")
    ('true', '{"a": 1}', 'last')
    """
    return value if isinstance(value, str) else json.dumps(value)
