"""How a run starts: into an empty folder, over an old run, or on from a checkpoint.

A configuration is a `schema.Config` or another dataclass with the same outer fields and sections.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import logging
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import yaml

from lstm_sentiment.checkpoints.expected import of_training
from lstm_sentiment.checkpoints.read_back import check_reopens
from lstm_sentiment.checkpoints.run_folder import BEST, CURVES, LAST, Checkpoint, RunFolder
from lstm_sentiment.checkpoints.untrusted_files import yaml_of
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.network_shapes import network_shapes
from lstm_sentiment.config.public import public_config
from lstm_sentiment.config.schema import flatten
from lstm_sentiment.config.yaml_files import flatten_plain
from lstm_sentiment.errors import CheckpointError, RunError
from lstm_sentiment.experiment.resume import METRICS_FILE, RunData, check_beginning
from lstm_sentiment.experiment.signals import RunWatch, job_of
from lstm_sentiment.system.devices import describe_machine
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.system.files import as_json, write_json
from lstm_sentiment.system.lock import held
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS
from lstm_sentiment.training.protocols import TrainingState
from lstm_sentiment.training.tensorboard import Curves
from lstm_sentiment.training.trainer import Trainer
from lstm_sentiment.version import __version__

log = logging.getLogger(__name__)

# Settings that may differ when a run is resumed: none of them changes what is learned. All others may not.
FREE_ON_RESUME = {"out", "resume", "overwrite", "baseline", "report", "trainer.checkpoint_every"}
FREE_ON_RESUME |= {"trainer.tensorboard", "trainer.timeout"}
# They may differ, too, but what comes of them is a fact of the run (below), and is told when it does.
TOLD_ON_RESUME = {"trainer.device", "trainer.threads"}
ROUNDED_BY = ("threads", "world_size", "device", "precision", "torch")  # facts that decide the last digits


def machine_facts(
    device: torch.device, *, precision: str, threads: int, processes: Processes
) -> dict[str, str | int]:
    """Return what the last digits of a result depend on: facts that each checkpoint keeps.

    >>> facts = machine_facts(torch.device("cpu"), precision="fp32", threads=2, processes=Processes())
    >>> sorted(facts) == sorted(ROUNDED_BY)
    True
    """
    return {
        "threads": threads,
        "world_size": processes.world_size,
        "device": device.type,
        "precision": precision,
        "torch": torch.__version__,
    }


def started_again(config: Any, folder: RunFolder, processes: Processes) -> Any:
    """Return a configuration as torchrun's restart of a job means it: go on with what this job has begun.

    What another job left in the folder is treated as in the first start.

    >>> from lstm_sentiment.config.schema import Config
    >>> started_again(Config(), RunFolder("runs/of-tomorrow"), Processes(restarts=1)) == Config()
    True
    """
    if not (processes.restarts and processes.job) or job_of(folder) != processes.job:
        return config
    log.info("start %d of this job: going on with %s", processes.restarts + 1, folder.path)
    return dataclasses.replace(config, resume=True, overwrite=False)


@contextlib.contextmanager
def only_writer(folder: RunFolder, processes: Processes) -> Iterator[None]:
    """Keep other runs out of a folder while a block runs; clear away what a killed one left unfinished.

    Raises:
        RunError: another run is in it; names its process.
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


def check_folder(folder: RunFolder, config: Any) -> bool:
    """Return whether to go on from a run in the folder; refuse to write over one unasked.

    Raises:
        RunError: the folder is in the way, or its run has other settings.
        CheckpointError: the run's settings are missing or damaged.

    >>> from lstm_sentiment.config.schema import Config
    >>> check_folder(RunFolder("runs/of-tomorrow"), Config())
    False
    """
    if config.resume and folder.is_run():
        _refuse_other_settings(folder, config)
        if folder.has(LAST):
            return True
        if (folder.path / METRICS_FILE).exists():
            if getattr(config, "adapt", None) == "frozen":  # it took no steps to go on from, and is whole
                return True
            raise RunError(
                f"{folder.path}: is finished and has no checkpoint '{LAST}' to go on from; use --overwrite "
                "true to replace it, or another --out"
            )
    may_begin = config.overwrite or (config.resume and not folder.is_foreign())
    if folder.occupied() and not may_begin:
        raise RunError(
            f"{folder.path}: is not empty; use --resume true to go on, --overwrite true to replace it, or "
            "another --out"
        )
    if config.resume:
        log.info("nothing to resume in %s: starting from the beginning", folder.path)
    return False


def _refuse_other_settings(folder: RunFolder, config: Any) -> None:
    saved = folder.own("config.yaml")
    try:
        old = flatten_plain(yaml_of(saved))
    except (CheckpointError, AttributeError):
        raise CheckpointError(f"{saved}: is missing or damaged; cannot resume") from None
    new = flatten_plain(yaml.safe_load(config_yaml(config)))
    refused = [key for key in flatten(config) if key not in FREE_ON_RESUME | TOLD_ON_RESUME]
    differing = [
        f"the run has {key} {old.get(key)!r}, now it is {new.get(key)!r}"
        for key in refused
        if old.get(key) != new.get(key)
    ]
    if differing:
        raise RunError(
            f"{folder.path}: {'; '.join(differing)}; resume with the run's own settings (--config "
            f"{folder.path / 'config.yaml'}), or start another run"
        )


def checkpoint_to_resume(
    folder: RunFolder, facts: dict[str, Any], data: RunData, config: Any = None
) -> Checkpoint:
    """Return the last checkpoint of a run, if it began with the same data.

    Args:
        folder: of the run.
        facts: of the run that is to go on: `data`, those of `machine_facts`, and `pretrained` and
            `teacher` if it has them.
        data: what `facts["data"]` is the fingerprint of.
        config: of a classifier: a checkpoint of a model of other sizes is not read.

    Raises:
        RunError: the data, the pretrained model or the teacher are others.
        CheckpointError: no checkpoint is whole, or the best epoch so far is damaged.

    Example::

        facts = {"data": corpus.fingerprint, **machine_facts(device, **others)}
        checkpoint = checkpoint_to_resume(folder, facts, corpus)
    """
    expected = None
    if config is not None:
        sizes = {"subwords": config.text.subwords, **dataclasses.asdict(config.model)}
        shapes = network_shapes(len(data.vocabulary), len(data.labels), **sizes)
        expected = of_training(shapes, data=facts["data"])
    checkpoint = folder.load(LAST, expected)
    _check_facts(checkpoint.facts, folder)
    check_beginning(checkpoint.facts, facts, folder, data)
    if checkpoint.facts["training"]["best_epoch"] >= 0:
        folder.load(BEST)  # it is needed at the end: better to hear of damage now
    for name in ROUNDED_BY:
        before = checkpoint.facts.get(name, facts[name])  # earlier versions did not keep all of them
        if before != facts[name]:
            log.warning(
                "the run had %s %s, now %s: numbers are rounded differently, so that it will not end with "
                "the same bytes as without the stop", name, before, facts[name],
            )  # fmt: skip
    return checkpoint


def _check_facts(facts: Mapping[str, Any], folder: RunFolder) -> None:
    """Refuse facts that no training wrote, before anything is made of them."""
    state: Any = facts.get("training")
    expected = dataclasses.asdict(TrainingState())
    alike = isinstance(state, dict) and state.keys() == expected.keys()
    wrong = [
        name
        for name, value in expected.items()
        if alike and value is not None and not isinstance(state[name], type(value) | int)
    ]
    if not alike or wrong or not {"data", "threads", "world_size", "scaler"} <= facts.keys():
        raise CheckpointError(
            f"{folder.path / LAST / 'state.json'}: does not say where a training stands"
            f"{': ' + ', '.join(wrong) if wrong else ''}; start another run"
        )


def begin(folder: RunFolder, config: Any, data: RunData, device: torch.device, watch: RunWatch) -> None:
    """Clear the folder and write what does not change while training.

    Args:
        folder: to begin in.
        config: of the run.
        data: that the run trains on.
        device: that the run trains on.
        watch: hears that the folder is this run's from now on.

    Raises:
        RunError: the folder holds something that is no run; what would be written could not be read again.

    Example::

        begin(RunFolder("runs/tweets"), config, corpus, torch.device("cpu"), watch)
    """
    words = data.vocabulary.tokens[len(SPECIAL_TOKENS) :]
    written: dict[str, Any] = {"config_yaml": config_yaml(config), "vocabulary": words}
    written |= {"labels": data.labels, "label_map": data.label_map}
    check_reopens(written, type(config))
    folder.clear()
    folder.begin(**written)
    watch.begun()
    packages = ("torch", "numpy", "pandas", "scikit-learn", "safetensors", "torchtext")
    versions = {name: importlib.metadata.version(name) for name in packages}
    environment = {"lstm_sentiment": __version__, **describe_machine(device), "packages": versions}
    write_json(folder.path / "environment.json", environment)
    write_json(folder.path / "data.json", data.facts)


def new_curves(folder: RunFolder, config: Any, processes: Processes) -> Curves | None:
    """Return where a run's curves go, or None where it is to draw none.

    Raises:
        MissingExtraError: the package that writes them is not installed.
        CheckpointError: their folder is a link that leads out of the run.

    >>> from lstm_sentiment.config.schema import Config
    >>> new_curves(RunFolder("runs/of-tomorrow"), Config(), Processes()) is None
    True
    """
    if not config.trainer.tensorboard:
        return None
    curves = Curves(folder.own(CURVES), settings=config_yaml(public_config(config)), writes=processes.is_main)
    log.info("curves: tensorboard --logdir %s", folder.path / CURVES)
    return curves


def _check_agreement(trainer: Trainer, checkpoint: Checkpoint | None) -> None:
    """Refuse to go on where one process found another checkpoint than the others."""
    mine = zlib.crc32(as_json(checkpoint.facts)) if checkpoint else 0
    if len(set(trainer.processes.gather(mine, trainer.device))) > 1:
        found = f"step {checkpoint.facts['training']['step']}" if checkpoint else "no checkpoint"
        raise RunError(
            f"process {trainer.processes.rank} found {found} to go on from, and others something else: all "
            "processes of a job must see the same run folder"
        )


def train(trainer: Trainer, checkpoint: Checkpoint | None, curves: Curves | None, watch: RunWatch) -> None:
    """Train to the end, from a checkpoint if there is one; every process calls this.

    Raises:
        TrainingError: a loss or gradient is not finite.
        StoppedError: a signal asked for it; the run can go on.

    Example::

        with RunWatch(folder, writes=True) as watch:
            train(trainer, checkpoint_to_resume(folder, facts) if resuming else None, curves, watch)
    """
    _check_agreement(trainer, checkpoint)
    if checkpoint is not None:
        trainer.resume(checkpoint.tensors, checkpoint.facts)
        log.info("going on from step %d of %d", trainer.state.step, trainer.total_steps)
        watch.begun(trainer.state.step)
    trainer.processes.barrier()
    with watch.gently(), curves.after(trainer.state.step) if curves else contextlib.nullcontext():
        trainer.fit()
