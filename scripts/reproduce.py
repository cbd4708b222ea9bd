"""Reproduce the published numbers: train, score, log.

    scripts/reproduce --list
    scripts/reproduce sst2 --data FOLDER
    scripts/reproduce 'sst2/*' --data FOLDER --threads 1
    scripts/reproduce --all --data FOLDER
    scripts/reproduce starter-zero --data FOLDER
    scripts/reproduce --render

scripts/experiments.yaml lists the experiments and the files in FOLDER that each reads. Each is trained with
the package's own command, once per seed and without any test rows; these are read once, afterwards, by
`python -m lstm_sentiment.evaluate`. Finished seeds are kept in the work folder, so that an interrupted
command can be resumed. Finished experiments are appended to docs/results.jsonl, from which docs/results.md is
written; one that was logged with the same code, settings, data and seeds is not repeated. starter-zero
compares the starter with word lists; starter-rows trains from starters that have not seen the corpus, on 30
rows and more.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import fnmatch
import hashlib
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from result_log import read_log, repository

from lstm_sentiment import __version__
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.config.command_line import CommandParser, parse_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.errors import ConfigError, DataError, RunError, did_you_mean
from lstm_sentiment.system.files import sha256_of, write_json
from lstm_sentiment.system.lock import held

if TYPE_CHECKING:
    from experiments import Experiment

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).parent / "experiments.yaml"
DATA_PATH = r"(?<![\w/.])DATA/"
FIRST = "FIRST/"  # see `experiments`
ZERO, ROWS = "starter-zero", "starter-rows"  # the starter without training; training from it on few rows


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    from experiments import read_table  # scikit-learn and pandas: not for --help
    from results_page import write_page

    table = read_table(options.table)
    if options.list:
        print("\n".join([*table.experiments, ZERO, ROWS]))
        return
    options.docs.mkdir(parents=True, exist_ok=True)
    for name in [name for name in (ZERO, ROWS) if name in options.names]:
        _score_starter(name, options)
        options.names.remove(name)
    log = options.docs / "results.jsonl"
    if not options.render:
        names = _chosen(options, list(table.experiments))
        for reproduction in [Reproduction(table.experiments[name], options) for name in names]:
            reproduction.run(log)
            write_page(read_log(log), table, options.docs)
    print(f"written to {write_page(read_log(log), table, options.docs)}")


def _score_starter(name: str, options: argparse.Namespace) -> None:
    import starter_rows
    import starter_scores

    if options.data is None:
        raise ConfigError(f"{name} needs a folder with its files: --data FOLDER")
    given = [f"--data={options.data}", f"--threads={options.threads}"]
    if name == ZERO:
        starter_scores.main(["starter", *given, f"--out={options.docs / f'{ZERO}.json'}"])
    else:
        starters = ["--starters", *map(str, options.starters)]
        starter_rows.main([*given, f"--out={options.docs / f'{ROWS}.jsonl'}", *starters])


class Reproduction:
    """One experiment with resolved settings and existing files.

    Args:
        experiment: the experiment.
        options: of the command line.

    Raises:
        ConfigError: a setting that the training command does not have.
        DataError: a file that is not there.
    """

    def __init__(self, experiment: Experiment, options: argparse.Namespace) -> None:
        self.experiment, self.options, self.benchmark = experiment, options, experiment.benchmark
        self.seeds = list(range(options.seeds))
        self.config = self._config(experiment.options(self.benchmark.train))
        self.test = self._located(self.benchmark.test) if self.benchmark.test else None
        stages = experiment.first(self.benchmark.train).values()
        words = [*experiment.options(self.benchmark.train), *(word for _, of in stages for word in of)]
        named = re.findall(rf"{DATA_PATH}[^],\s]+", " ".join([*words, self.benchmark.test or ""]))
        files = sorted({Path(self._located(name)) for name in named})
        for file in files:
            if not file.is_file():
                raise DataError(f"no such file, needed by {experiment.name}; see --data", file=str(file))
        self.code = code_of(self.benchmark.config)
        parts = [self.code, digest(files), words, self.benchmark.split]
        parts += [experiment.scored_on, self.benchmark.metric]
        self.fingerprint = _short(parts)
        self.work = options.work.absolute() / experiment.name / self.fingerprint

    def run(self, log: Path) -> None:
        """Train and score each seed and append to the log; do nothing if already logged.

        Raises:
            RunError: another command is at this experiment in the same work folder.
        """
        done = [of["seeds"] for of in read_log(log) if of["fingerprint"] == self.fingerprint]
        if self.seeds in done and not self.options.again:
            print(f"{self.experiment.name}: already in {log.name}; --again repeats it")
            return
        with held(self.work, option="--work"):
            entry = self._entry([self._seed(seed) for seed in self.seeds])
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(entry) + "\n")
            for kept in self.work.glob("seed-*.json"):
                kept.unlink()
        with contextlib.suppress(OSError):  # gone already, or another command has begun in it
            self.work.rmdir()
        linear = f", linear {entry['linear']['mean']:.4f}" if "linear" in entry else ""
        print(
            f"{entry['name']}: {entry['scored_on']} {entry['metric']} {entry['mean']:.4f} ± "
            f"{entry['sd']:.4f}{linear}; {entry['training_s']:.0f} s of training",
            flush=True,
        )

    def _seed(self, seed: int) -> dict[str, Any]:
        """Return the scores of one seed, from the work folder or by training; means over the parts."""
        folder = self.work / f"seed-{seed}"
        kept = folder.with_suffix(".json")
        if kept.exists():
            return _read_json(kept)
        places = self._parts(seed, folder)
        parts = {name: self._part(seed, *of_part) for name, of_part in places.items()}
        first = next(iter(parts.values()))
        found: dict[str, Any] = {key: statistics.fmean(of[key] for of in parts.values()) for key in first}
        found |= {key: sum(of[key] for of in parts.values()) for key in first if key.endswith("_s")}
        if len(parts) > 1:
            found["parts"] = parts
        found["machine"] = _read_json(next(iter(places.values()))[0] / "run" / "environment.json")
        if code_of(self.benchmark.config) != self.code:
            raise RunError("the package or the configuration has changed during the run; start again")
        write_json(kept, found)
        shutil.rmtree(folder)
        return found

    def _parts(self, seed: int, folder: Path) -> dict[str, tuple[Path, str, str]]:
        """Return name of a part -> its folder, training file and test file."""
        train, data = self.config.data.train, self.config.data
        if self.test:
            (folder / "0").mkdir(parents=True, exist_ok=True)
            return {"all": (folder / "0", train, self.test)}
        from experiments import cut

        found = cut(self.benchmark, data, source=train, seed=seed, folder=folder)
        return {name: (of, str(of / "train.parquet"), str(of / "test.parquet")) for name, of in found.items()}

    def _part(self, seed: int, folder: Path, train: str, test: str) -> dict[str, float]:
        """Train once without test rows, then score."""
        run, metric = folder / "run", self.benchmark.metric
        words, first_s = self.experiment.options(train), 0.0
        for key, (command, of) in self.experiment.first(train).items():
            out, own_seed = folder / key, seed
            if command == "pretrain":  # takes minutes and needs no labels: one for all seeds
                out, own_seed = self.options.work.absolute() / key / _short(of), 0
            done = self._train(command, [*of, f"--seed={own_seed}"], out=out, log=folder / "log")
            first_s += done["training_s"]
            words = [word.replace(f"--{key}={FIRST}{key}", f"--{key}={out}") for word in words]
        metrics = self._train("train", [*words, f"--seed={seed}"], out=run, log=folder / "log")
        data = _read_json(run / "data.json")
        found = {
            "validation": metrics["validation"][metric],
            "training_s": metrics["training_s"] + first_s,
            "parameters": float(metrics["parameters"]),
            "training_rows": float(data["splits"]["train"]["rows"]),
        }
        for name, branch in metrics.get("branches", {}).items():
            found[f"validation_{name}"] = branch["validation"][metric]
        if self.experiment.scored_on == "validation":
            return found
        scores = folder / "test.json"
        for name, branch in {"": None, **metrics.get("branches", {})}.items():
            arguments = [str(run), test, "--out", str(scores), *(["--branch", name] if branch else [])]
            call("evaluate", arguments, log=folder / "log", launch="", threads=self.options.threads)
            found["_".join(filter(None, ["test", name]))] = _read_json(scores)[metric]
        config = self._config(self.experiment.options(train))
        found |= linear_baseline(config, seed=seed, test=test, metric=metric)
        return found

    def _train(self, command: str, words: list[str], *, out: Path, log: Path) -> dict[str, Any]:
        """Run or resume a training command and return its metrics."""
        arguments = [self._located(word) for word in words] + ["--resume=true", f"--out={out}"]
        if command == "train":
            arguments.append("--baseline=false")
        if self.options.threads:
            arguments.append(f"--trainer.threads={self.options.threads}")
        call(command, arguments, log=log, launch=self.options.launch, threads=self.options.threads)
        return _read_json(out / "metrics.json")

    def _entry(self, of_seeds: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the log entry, with the current time and commit."""
        scored_on, split = self.experiment.scored_on, self.benchmark.split
        train = "CUT/train.parquet" if split else self.benchmark.train
        commands = [
            (command, [*words, f"--out={FIRST}{key}"])
            for key, (command, words) in self.experiment.first(train).items()
        ]
        commands.append(("train", self.experiment.options(train)))
        machine = {name: of_seeds[-1]["machine"][name] for name in ("cpu", "device", "threads", "torch")}
        entry = {
            "name": self.experiment.name,
            "command": " && ".join(
                shlex.join(["python", "-m", f"lstm_sentiment.{command}", *words, "--seed=SEED"])
                for command, words in commands
            ),
            "split": split,
            "scored_on": scored_on,
            "metric": self.benchmark.metric,
            "seeds": self.seeds,
            "scores": [of[scored_on] for of in of_seeds],
            **_mean_and_sd([of[scored_on] for of in of_seeds]),
            **{key: statistics.fmean(of[key] for of in of_seeds) for key in ("training_s", "training_rows")},
            "parameters": round(of_seeds[-1]["parameters"]),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            **repository(ROOT, "lstm_sentiment", self.benchmark.config),
            "code": self.code,
            "fingerprint": self.fingerprint,
            "version": __version__,
            "machine": machine,
        }
        if scored_on == "test":
            scores = [of["linear"] for of in of_seeds]
            seconds = statistics.fmean(of["linear_s"] for of in of_seeds)
            entry["linear"] = {"scores": scores, **_mean_and_sd(scores), "seconds": seconds}
            entry["validation"] = [of["validation"] for of in of_seeds]
        branches = [key for key in of_seeds[0] if key.startswith(f"{scored_on}_")]
        if branches:
            of_branches = {key.partition("_")[2]: [of[key] for of in of_seeds] for key in branches}
            entry["branches"] = {
                name: {"scores": scores, **_mean_and_sd(scores)} for name, scores in of_branches.items()
            }
        kinds = [kind for kind in (scored_on, "linear") if kind in of_seeds[0]]
        if "parts" in of_seeds[0]:
            entry["parts"] = {
                name: {kind: statistics.fmean(of["parts"][name][kind] for of in of_seeds) for kind in kinds}
                for name in of_seeds[0]["parts"]
            }
        return entry

    def _config(self, words: list[str]) -> Config:
        """Return the configuration of a training command."""
        words = [self._located(word) for word in words]
        words[1] = str(ROOT / words[1])
        return parse_config(words, program="reproduce", description="")

    def _located(self, word: str) -> str:
        """Return an option or a file with DATA/ replaced by the folder."""
        folder = self.options.data
        if folder is None and re.search(DATA_PATH, word):
            raise ConfigError(f"{self.experiment.name} needs a folder with its files: --data FOLDER")
        return re.sub(DATA_PATH, lambda _: f"{folder.absolute()}/", word)


def call(module: str, arguments: list[str], *, log: Path, launch: str, threads: int) -> None:
    """Run a command of the package in a subprocess; its output is appended to a file.

    Args:
        module: module of the command.
        arguments: its arguments.
        log: file for the output.
        launch: prefix of the command line.
        threads: number of CPU threads; 0: all.

    Raises:
        RunError: it failed; the message has its last line of output.
    """
    words = [*shlex.split(launch), sys.executable, "-m", f"lstm_sentiment.{module}", *arguments]
    few = {"OMP_NUM_THREADS": str(threads)} if threads else {}
    with log.open("a", encoding="utf-8") as out:
        try:
            done = subprocess.run(
                words, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **few}
            )
        except OSError as error:
            raise RunError(f"{words[0]}: {error.strerror}") from None
    if code := done.returncode:
        last = (log.read_text("utf-8", "replace").splitlines() or ["no output"])[-1]
        raise RunError(f"lstm_sentiment.{module} failed with exit code {code}: {last} (output: {log})")


def linear_baseline(config: Config, *, seed: int, test: str, metric: str) -> dict[str, float]:
    """Score TF-IDF with logistic regression, fitted on the training rows only; with its seconds."""
    from sklearn_baseline import linear_scores

    from lstm_sentiment.data.corpus import prepare
    from lstm_sentiment.data.token_store import cache_folder

    data = dataclasses.replace(config.data, test=test)
    corpus = prepare(data, config.text, seed=seed, cache=cache_folder())
    assert corpus.test is not None
    started = time.perf_counter()
    scores = linear_scores(corpus.train, corpus.test, corpus.labels, seed=seed)
    seconds = time.perf_counter() - started
    return {"linear": scores[metric], "linear_s": seconds}


def code_of(config: str) -> str:
    """Return a hash of the package's sources and of a configuration."""
    return digest([*sorted((ROOT / "lstm_sentiment").rglob("*.py")), ROOT / config])


def digest(files: list[Path]) -> str:
    """Return a short hash of some files' contents."""
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()[:12]


def _short(value: Any) -> str:
    """Return a short hash of a JSON value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def _read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def _mean_and_sd(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


def _chosen(options: argparse.Namespace, known: list[str]) -> list[str]:
    """Return the experiments that match the given names and patterns, in the table's order."""
    chosen = set(known if options.all else ())
    for pattern in options.names:
        found = fnmatch.filter(known, pattern)
        if not found:
            raise ConfigError(f"no experiment '{pattern}'; --list shows all.{did_you_mean(pattern, known)}")
        chosen.update(found)
    return [name for name in known if name in chosen]


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="scripts/reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments, or patterns such as 'sst2/*'")
    parser.add_argument("--all", action="store_true", help="run every experiment")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="folder with the files of the table")
    parser.add_argument("--seeds", type=int, default=3, help="train with seeds 0, 1, ... (default 3)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each command; 0: all")
    parser.add_argument(
        "--launch", default="", help="prefix of each training command, such as 'nice' or 'srun'"
    )
    parser.add_argument(
        "--starters", type=Path, nargs="*", default=[], help="for starter-rows: runs of make_starter"
    )
    parser.add_argument("--again", action="store_true", help="repeat experiments that are already logged")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "reproduce", help="unfinished runs")
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs", help="folder for results.jsonl and results.md"
    )
    parser.add_argument("--table", type=Path, default=TABLE, help="the experiments")
    parser.add_argument("--list", action="store_true", help="list the experiments and exit")
    parser.add_argument("--render", action="store_true", help="only write the page from the log")
    options = parser.parse_args(argv)
    if bool(options.names or options.all) == (options.list or options.render):
        parser.error("give names or --all to train, or one of --list and --render")
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    if options.data is not None and not options.data.is_dir():
        raise DataError("no such folder", file=str(options.data))
    return options


if __name__ == "__main__":
    run_command(main)
