"""Rename and merge the classes of a finished run.

The weights stay as they are. All files that name classes are written anew, with new manifests, into a new
folder; it takes the place of the run in one step, so that a kill leaves the old run or the new one. The new
run cannot be resumed: the rows that it began with had other labels. `merging` has what changes if classes get
the same name.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lstm_sentiment.checkpoints.expected import of_classifier
from lstm_sentiment.checkpoints.manifest import MANIFEST, MERGED, verify, write_manifest
from lstm_sentiment.checkpoints.run_folder import (
    BEST,
    EXPORTED,
    LAST,
    LINEAR,
    MONITORING,
    RELABELLED,
    SHARED_FILES,
    RunFolder,
)
from lstm_sentiment.checkpoints.trusted_runs import is_trusted, remember
from lstm_sentiment.checkpoints.untrusted_files import (
    MOST_VOCABULARY_BYTES,
    check_place,
    classes_of_run,
    content_of,
    json_of,
)
from lstm_sentiment.config.command_line import config_yaml, read_config
from lstm_sentiment.config.schema import METRICS, Config
from lstm_sentiment.errors import CheckpointError, ConfigError, RunError, did_you_mean, listed, shown
from lstm_sentiment.evaluation.metrics import metrics_of
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.relabelling.merging import Merging, merged_data, merged_state, merging_of
from lstm_sentiment.relabelling.scoring import score_again
from lstm_sentiment.system.files import (
    as_json,
    held_unfinished,
    new_folder,
    replace_folder,
    sweep,
    sync_file,
    sync_folder,
    unfinished,
    writing,
)
from lstm_sentiment.system.lock import LOCK, held
from lstm_sentiment.version import __version__

log = logging.getLogger(__name__)
NOT_COPIED = (
    LAST,
    f"{LAST}.previous",
    f"{BEST}.previous",
    f"{LINEAR}.previous",
    LOCK,
    "report.html",
    "evaluation.json",
)
# Files of a run that its new classes may leave out -> the command that writes them again.
LEFT_OUT = {"report.html": "report", "evaluation.json": "evaluate", EXPORTED: "export"}
LEFT_OUT |= {"metrics.json": "", MONITORING: ""}
NOT_MERGED = ("metrics.json", MONITORING, EXPORTED)  # of the old classes: written again, or left out
_OF_CLASSES = ("classes", "per_class", "predicted")  # keys of maps from class names
Names = Mapping[str, str]


def relabel(run: Path, names: Names, *, out: Path | None = None, rows: bool = False) -> list[str]:
    """Rename classes of a finished run, or merge several.

    Args:
        run: its folder.
        names: old name -> new name; two classes may change names, and classes with the same new name are
            merged, those that keep it included.
        out: a new folder for the renamed run; None to replace the run.
        rows: read the run's data, to score merged classes, even if it was not trained on this machine.

    Returns:
        the new class names, in the order of the run.

    Raises:
        ConfigError: a class that the run does not have, an invalid name, or one name for all classes.
        RunError: the run is not finished, or is in use; `out` exists.
        CheckpointError: a file of the run is missing or damaged.
        DiskError: the new folder cannot be written; the run is unchanged.

    Example::

        relabel(Path("runs/reviews"), {"pos": "positive", "neg": "negative"})
    """
    folder = RunFolder(run)
    folder.load(BEST, of_classifier(run))
    _check_whole(folder)
    if not any((run / name).is_file() for name in ("metrics.json", RELABELLED)):
        raise RunError(f"{run}: is not finished; finish it with --resume true, then rename its classes")
    labels, _ = classes_of_run(folder.own("labels.json"))
    config = read_config(run / "config.yaml")
    renamed = _new_labels(labels, names, config, run)
    trusted = is_trusted(run)
    if out is not None:
        with new_folder(out) as building, writing(out):
            _write(folder, building, names, config, out, rows=rows)
    else:
        with held(run):
            _replace(folder, names, config, rows=rows)
    if trusted:
        remember(out or run)
    return renamed


def _checkpoints(folder: RunFolder) -> list[str]:
    """Return the names of the checkpoints that the renamed run has."""
    return [name for name in (BEST, LINEAR) if folder.has(name)]


def _check_whole(folder: RunFolder) -> None:
    """Refuse a damaged checkpoint, which would get a new manifest."""
    for name in _checkpoints(folder):
        try:
            verify(folder.path / name, depends_on=[folder.path / shared for shared in SHARED_FILES])
        except CheckpointError as error:
            raise CheckpointError(f"{error}. Restore it from a copy, or train again") from None


def _new_labels(labels: list[str], names: Names, config: Config, run: Path) -> list[str]:
    """Return the new class names; refuse names that do not fit the run."""
    for name, new in names.items():
        if name not in labels:
            hint = did_you_mean(name, labels)
            raise ConfigError(f"{run}: has no class {shown(name)}, only {listed(labels)}.{hint}")
        if not new.strip() or new != new.strip() or not new.isprintable():
            raise ConfigError(f"{shown(new)} is not a class name; write printable text without outer spaces")
    if all(names.get(name, name) == name for name in labels):
        raise ConfigError(f"no new name; the classes of {run} are {listed(labels)}")
    renamed = list(dict.fromkeys(names.get(name, name) for name in labels))
    if len(renamed) < 2:
        raise ConfigError(
            f"{listed(labels, quoted=True)} would all be {shown(renamed[0])}; leave at least two classes"
        )
    metric = config.trainer.metric
    if metric not in {"loss", *metrics_of(renamed)}:
        raise ConfigError(
            f"the run was selected by trainer.metric {metric}, which is not defined for the classes "
            f"{listed(renamed)}; keep the names negative and positive"
        )
    return renamed


def _replace(folder: RunFolder, names: Names, config: Config, *, rows: bool) -> None:
    """Replace a run by the renamed one."""
    path = folder.path.absolute()
    if path.is_symlink():
        raise RunError(f"{folder.path}: is a link; name its target, or write another folder with --out")
    building = unfinished(path)
    sweep(path.parent, path.name)
    try:
        with writing(path, kept="the run is unchanged"):
            building.mkdir()
            with held_unfinished(building):
                _write(folder, building, names, config, Path(config.out), rows=rows)
            replace_folder(path, building)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(folder: RunFolder, building: Path, names: Names, config: Config, out: Path, *, rows: bool) -> None:
    """Write the renamed run into an empty folder, and sync it."""
    old_labels, old_map = classes_of_run(folder.own("labels.json"))
    merging = merging_of(old_labels, names)
    left_out = (*NOT_COPIED, *(NOT_MERGED if merging else ()))
    for entry in sorted(folder.path.iterdir()):
        if entry.name in left_out or entry.name.endswith(".tmp"):
            continue
        for path in (entry, *entry.rglob("*")):
            check_place(path, folder.path)
            if path.is_symlink() and path.is_dir():
                raise RunError(f"{path}: is a link to a folder; put the folder itself here")
        copy: Callable[..., Any] = shutil.copytree if entry.is_dir() else shutil.copy2
        copy(entry, building / entry.name)  # files, not links to them, which are rewritten below
    for name, rewrite in _REWRITTEN.items():
        if (building / name).is_file():
            (building / name).write_bytes(rewrite(building / name, names))
    labels, label_map = classes_of_run(building / "labels.json")
    (building / "config.yaml").write_text(_new_config(config, labels, label_map, out), "utf-8")
    state = building / BEST / "state.json"
    if merging is None:
        content = {"labels": old_labels} | _renamed(json_of(state), names)  # the labels of the fingerprint
    else:
        content = merged_state(json_of(state), merging, old_map)
        (building / "data.json").write_bytes(as_json(merged_data(folder.read_json("data.json"), merging)))
    state.write_bytes(as_json(content))
    for checkpoint in _checkpoints(folder):
        (building / checkpoint / MANIFEST).unlink()
        depends_on = [building / name for name in SHARED_FILES]
        write_manifest(building / checkpoint, depends_on=depends_on, merged=content.get(MERGED) is not None)
    RunFolder(building).load(BEST, of_classifier(building))
    why = ""
    if merging is not None:
        finished = (folder.path / RunMetrics.FILE).is_file()
        before = folder.read(RunMetrics) if finished else None
        why = score_again(building, before, run=folder.path, trusted=rows)
        if why:
            log.warning("no scores of the merged classes: %s", why)
    _add_note(building, names, merging, why)
    for path in building.rglob("*"):
        sync_folder(path) if path.is_dir() else sync_file(path)


def _new_config(config: Config, labels: list[str], label_map: Mapping[str, str | None], out: Path) -> str:
    """Return the configuration with which training gives the renamed classes."""
    data = config.data
    if label_map:
        if [*dict.fromkeys(name for name in label_map.values() if name is not None)] != labels:
            raise CheckpointError("labels.json: its map does not have the order of its labels")
        data = dataclasses.replace(data, labels=dict[int | str, str | None](label_map.items()))
    return config_yaml(dataclasses.replace(config, data=data, out=str(out)))


def _add_note(building: Path, names: Names, merging: Merging | None, why: str) -> None:
    """Append a renaming to those of the run; `why` merged classes have no scores, if they have none."""
    earlier = json_of(building / RELABELLED) if (building / RELABELLED).is_file() else []
    if not isinstance(earlier, list):
        raise CheckpointError(f"{RELABELLED}: is not a list of renamings; remove it")
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    note: dict[str, Any] = {"date": now, "lstm_sentiment": __version__, "names": dict(names)}
    if merging is not None:
        note |= {"before": merging.before, "merged": merging.members}
        note |= {"scores": f"left out: {why}" if why else "computed again from the run's rows"}
    (building / RELABELLED).write_bytes(as_json([*earlier, note]))


def _labels_file(file: Path, names: Names) -> bytes:
    labels, label_map = classes_of_run(file)
    new_map = {code: None if name is None else names.get(name, name) for code, name in label_map.items()}
    new = list(dict.fromkeys(names.get(name, name) for name in labels))
    return as_json({"labels": new, "map": new_map})


def _facts_file(file: Path, names: Names) -> bytes:
    return as_json(_renamed(json_of(file), names))


def _renamed(content: Any, names: Names) -> Any:
    """Rename the keys of maps from class names, at any depth, and drop scores that the new names lack."""
    if isinstance(content, list):
        return [_renamed(item, names) for item in content]
    if not isinstance(content, dict):
        return content
    found = {}
    for key, value in content.items():
        if key in _OF_CLASSES and isinstance(value, dict):
            value = {names.get(name, name): of for name, of in value.items()}
        found[key] = _renamed(value, names)
    if isinstance(found.get("per_class"), dict):
        defined = {"loss", *metrics_of(list(found["per_class"]))}
        found = {key: value for key, value in found.items() if key not in METRICS or key in defined}
    return found


def _export_file(file: Path, names: Names) -> bytes:
    try:
        facts = json.loads(content_of(file, MOST_VOCABULARY_BYTES))  # it has the vocabulary
        facts["labels"] = [names.get(name, name) for name in facts["labels"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{file}: does not hold labels; export the run again") from None
    return as_json(facts, indent=None)


def _rows_file(file: Path, names: Names) -> bytes:
    """Rename the labels of a CSV file with a column ``label``."""
    with file.open(encoding="utf-8", errors="surrogatepass", newline="") as opened:
        rows = list(csv.reader(opened))
    column = rows[0].index("label") if rows and "label" in rows[0] else -1
    out = io.StringIO()
    for place, row in enumerate(rows):
        if place and 0 <= column < len(row):
            row[column] = names.get(row[column], row[column])
        csv.writer(out).writerow(row)
    return out.getvalue().encode("utf-8", "surrogatepass")


_REWRITTEN: dict[str, Callable[[Path, Names], bytes]] = {
    "labels.json": _labels_file,
    "held_out_rows.csv": _rows_file,
    f"{EXPORTED}/model.json": _export_file,
    **dict.fromkeys(("metrics.json", "data.json", MONITORING), _facts_file),
}
