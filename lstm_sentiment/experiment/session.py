"""The set-up that all training runs share: device, processes, run folder, lock, signals and curves.

A configuration is a `schema.Config` or another dataclass with the same outer fields and sections.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import logging
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import torch

from lstm_sentiment.checkpoints.read_back import check_loadable
from lstm_sentiment.checkpoints.run_folder import CURVES, LAST, Checkpoint, RunFolder
from lstm_sentiment.checkpoints.trusted_runs import remember
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.public import public_config
from lstm_sentiment.config.schema import flatten
from lstm_sentiment.errors import RunError
from lstm_sentiment.experiment.resume import RunData, check_folder
from lstm_sentiment.experiment.signals import RunWatch, job_of
from lstm_sentiment.kernels.library import instructions
from lstm_sentiment.records.checkpoint_facts import LastFacts, RunFacts
from lstm_sentiment.records.environment import Environment
from lstm_sentiment.system.blas import one_blas_thread
from lstm_sentiment.system.devices import describe_machine, pick_device, pick_precision, set_up_cpu
from lstm_sentiment.system.distributed import Processes, process_environment, process_group, shared_errors
from lstm_sentiment.system.files import as_json
from lstm_sentiment.system.lock import held
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.tracking.trackers import Trackers
from lstm_sentiment.training.protocols import Scalars
from lstm_sentiment.training.tensorboard import Curves
from lstm_sentiment.training.trainer import Trainer
from lstm_sentiment.version import __version__

log = logging.getLogger(__name__)

PACKAGES = ("torch", "numpy", "pandas", "scikit-learn", "safetensors", "torchtext")  # in environment.json

Settings = TypeVar("Settings")


class Means(TypedDict):
    """What a `Trainer` computes with."""

    precision: str
    processes: Processes
    watch: RunWatch


class Session:
    """One training run on this machine, from the first look at its folder to the end of training.

    The order is: create it, `restarted`, `open`, then inside of that block `begin` or a checkpoint (see
    `resume.checkpoint_to_resume`), and `train`. Every process of a job does the same; the main one writes.

    Args:
        config: of the run.
        scalars: another sink for curves.

    Raises:
        ConfigError: the device, the precision or the number of threads is not available here.

    Example::

        session = Session(config)
        config = session.restarted(config)
        with session.open(config) as resuming:
            checkpoint = checkpoint_to_resume(session.folder, facts, corpus) if resuming else None
            if checkpoint is None:
                session.begin(config, corpus)
            session.train(trainer, checkpoint)
    """

    def __init__(self, config: Any, scalars: Scalars | None = None) -> None:
        self._scalars = scalars
        self.began = time.perf_counter()
        self.processes = process_environment()
        self.threads = set_up_cpu(config.trainer.threads, sharing=self.processes.local_world_size)
        self.device = pick_device(config.trainer.device, local_rank=self.processes.local_rank)
        self.precision = pick_precision(config.trainer.precision, self.device)
        self.folder = RunFolder(config.out)
        self.watch = RunWatch(self.folder, writes=self.processes.is_main, job=self.processes.job)
        self.curves: Sinks | None = None
        self.trackers: Trackers | None = None

    @property
    def machine(self) -> str:
        """What the run computes with, in words."""
        compiled = instructions(self.precision) if self.device.type == "cpu" else None
        kernels = f", {compiled} kernels" if compiled else ""
        return f"{self.device}, {self.precision}, {self.threads} threads{kernels}"

    @property
    def means(self) -> Means:
        """Keyword arguments of every `Trainer` of this run."""
        return {"precision": self.precision, "processes": self.processes, "watch": self.watch}

    def facts(self, data: str, *, pretrained: str | None = None, teacher: str | None = None) -> RunFacts:
        """Return the facts of this run, which every checkpoint keeps.

        Args:
            data: fingerprint of the data.
            pretrained: sha256 of the weights that training starts from, if any.
            teacher: sha256 of the teachers, if any.
        """
        return RunFacts(
            data=data,
            pretrained=pretrained,
            teacher=teacher,
            threads=self.threads,
            world_size=self.processes.world_size,
            device=self.device.type,
            precision=self.precision,
            torch=torch.__version__,
        )

    def restarted(self, config: Settings) -> Settings:
        """Return the configuration of a job that torchrun restarted: it resumes what this job began."""
        return restarted(config, self.folder, self.processes)

    @contextlib.contextmanager
    def open(self, config: Any) -> Iterator[bool]:
        """Hold the run folder and the process group while a block runs; yield whether a run is resumed.

        Signals stop training in an orderly way, an error of one process reaches the others, and what a killed
        run left unfinished is removed.

        Raises:
            RunError: another run uses the folder, or it holds something that must not be replaced.
            CheckpointError: the settings of the run to resume are missing or damaged.
            MissingExtraError: the package that writes curves is not installed.
            DiskError: nothing can be written there.
        """
        processes, folder = self.processes, self.folder
        group = process_group(processes, self.device, timeout_s=config.trainer.timeout)
        with one_blas_thread(), only_writer(folder, processes), group, self.watch, shared_errors():
            resuming = check_folder(folder, config)
            curves = new_curves(folder, config, processes)
            self.trackers = new_trackers(folder, config, processes)
            sinks = [of for of in (curves, self.trackers, self._scalars) if of is not None]
            self.curves = Sinks(curves, sinks) if sinks else None
            with self.trackers or contextlib.nullcontext():
                yield resuming

    def begin(self, config: Any, data: RunData, *, cache: Path | None = None) -> None:
        """Clear the folder and write what does not change while training; the main process does.

        Args:
            config: of the run.
            data: that the run trains on.
            cache: folder for tokenized text, if it is not the user's.

        Raises:
            RunError: the folder holds something that is not a run, or what would be written could not be
                read again.
        """
        if self.processes.is_main:
            begin(self.folder, config, data, self.device, self.watch)
            remember(self.folder.path, own_cache=cache)
        if self.trackers:
            self.trackers.open()

    def train(self, trainer: Trainer, checkpoint: Checkpoint | None) -> None:
        """Train to the end, from a checkpoint if there is one; every process calls this.

        Raises:
            TrainingError: a loss or gradient is not finite.
            StoppedError: a signal asked for it; the run can be resumed.
            RunError: the processes see different run folders.
        """
        _check_agreement(trainer, checkpoint)
        if checkpoint is not None:
            trainer.resume(checkpoint.tensors, checkpoint.facts_as(LastFacts))
            log.info("resuming at step %d of %d", trainer.state.step, trainer.total_steps)
            self.watch.begun(trainer.state.step)
            if self.trackers:
                self.trackers.open()
        trainer.processes.barrier()
        curves = self.curves.after(trainer.state.step) if self.curves else contextlib.nullcontext()
        with self.watch.gently(), curves:
            trainer.fit()

    def tidy(self, config: Any) -> None:
        """Remove the weights and optimizer state to resume from, in a finished run (see `TrainerConfig`)."""
        if self.processes.is_main and not config.trainer.keep_for_resume and self.folder.has(LAST):
            self.folder.drop_tensors(LAST)

    def seconds(self) -> float:
        """Return the seconds since the session began, to a tenth."""
        return round(time.perf_counter() - self.began, 1)


def restarted(config: Settings, folder: RunFolder, processes: Processes) -> Settings:
    """Return the configuration of a job that torchrun restarted: it resumes what this job began.

    What another job left in the folder is treated as at the first start.

    >>> from lstm_sentiment.config.schema import Config
    >>> restarted(Config(), RunFolder("runs/of-tomorrow"), Processes(restarts=1)) == Config()
    True
    """
    if not (processes.restarts and processes.job) or job_of(folder) != processes.job:
        return config
    log.info("start %d of this job: resuming %s", processes.restarts + 1, folder.path)
    changed: Any = config
    resumed: Settings = dataclasses.replace(changed, resume=True, overwrite=False)
    return resumed


@contextlib.contextmanager
def only_writer(folder: RunFolder, processes: Processes) -> Iterator[None]:
    """Keep other runs out of a folder while a block runs; clear away what a killed one left unfinished.

    Raises:
        RunError: another run uses it; names its process.
        DiskError: nothing can be written there.

    Example::

        with only_writer(RunFolder("runs/tweets"), processes):
            trainer.fit()
    """
    if not processes.is_main:  # the main process holds it for all of the job
        yield
        return
    with held(folder.path):
        folder.sweep()
        yield


def begin(folder: RunFolder, config: Any, data: RunData, device: torch.device, watch: RunWatch) -> None:
    """Clear the folder and write what does not change while training.

    Args:
        folder: of the run.
        config: of the run.
        data: that the run trains on.
        device: that the run trains on.
        watch: is notified that the folder belongs to this run from now on.

    Raises:
        RunError: the folder holds something that is not a run, or what would be written could not be read
            again.

    Example::

        begin(RunFolder("runs/tweets"), config, corpus, torch.device("cpu"), watch)
    """
    words = data.vocabulary.tokens[len(SPECIAL_TOKENS) :]
    written: dict[str, Any] = {"config_yaml": config_yaml(config), "vocabulary": words}
    written |= {"labels": data.labels, "label_map": data.label_map}
    check_loadable(written, type(config))
    folder.clear()
    folder.begin(**written)
    watch.begun()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    environment = Environment(lstm_sentiment=__version__, **describe_machine(device), packages=versions)
    folder.write(environment)
    folder.write(data.facts)


def new_curves(folder: RunFolder, config: Any, processes: Processes) -> Curves | None:
    """Return the TensorBoard writer of a run, or None where it has none.

    Raises:
        MissingExtraError: the package that writes curves is not installed.
        CheckpointError: their folder is a link that leads out of the run.

    >>> from lstm_sentiment.config.schema import Config
    >>> new_curves(RunFolder("runs/of-tomorrow"), Config(), Processes()) is None
    True
    """
    if CURVES not in config.trainer.sinks:
        return None
    curves = Curves(folder.own(CURVES), settings=config_yaml(public_config(config)), writes=processes.is_main)
    log.info("curves: tensorboard --logdir %s", folder.path / CURVES)
    return curves


def new_trackers(folder: RunFolder, config: Any, processes: Processes) -> Trackers | None:
    """Return the runs in tracking tools, or None where there are none; only the main process has any.

    Raises:
        MissingExtraError: the client of a tool is not installed.

    >>> from lstm_sentiment.config.schema import Config
    >>> new_trackers(RunFolder("runs/of-tomorrow"), Config(), Processes()) is None
    True
    """
    names = [name for name in config.trainer.sinks if name != CURVES]
    if not names:
        return None
    from lstm_sentiment.tracking.clients import TRACKERS

    trackers = [TRACKERS[name]() for name in names]
    return Trackers(trackers, folder, flatten(public_config(config))) if processes.is_main else None


class Sinks:
    """Several sinks of curves as one; a context manager.

    Args:
        curves: of TensorBoard, if any.
        sinks: all.

    Example::

        with Sinks(curves, [curves, trackers]).after(20) as sinks:
            sinks.add(30, {"train/loss": 1.05})
    """

    def __init__(self, curves: Curves | None, sinks: Sequence[Scalars]) -> None:
        self._curves, self._all = curves, sinks
        self._context = contextlib.ExitStack()

    def after(self, step: int) -> Sinks:
        """Resume after this step; call it before the first point."""
        if self._curves is not None:
            self._curves.after(step)
        return self

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to curves, by name."""
        for sink in self._all:
            sink.add(step, values)

    def flush(self) -> None:
        """Write or send all points."""
        for sink in self._all:
            sink.flush()

    def __enter__(self) -> Sinks:
        if self._curves is not None:
            self._context.enter_context(self._curves)
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def _check_agreement(trainer: Trainer, checkpoint: Checkpoint | None) -> None:
    """Refuse to train where one process found another checkpoint than the others."""
    mine = zlib.crc32(as_json(checkpoint.facts)) if checkpoint else 0
    if len(set(trainer.processes.gather(mine, trainer.device))) > 1:
        found = f"step {checkpoint.facts['training']['step']}" if checkpoint else "no checkpoint"
        raise RunError(
            f"process {trainer.processes.rank} resumes from {found}, and others from something else: all "
            "processes of a job must see the same run folder"
        )
