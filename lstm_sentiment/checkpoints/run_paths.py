"""Paths of run folders; the name ``starter`` is the model that comes with the package.

A local folder of that name is given as ``./starter`` or as a `Path`. The package's files are read-only:
output that goes into the run folder by default goes into the current folder for the starter.

The name of a folder of ``train --seeds`` is that of its run with the best validation score; `compare` takes
all of them (see `seed_paths`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from pathlib import Path
from typing import Any

from lstm_sentiment.checkpoints.untrusted_files import check_place, json_of
from lstm_sentiment.errors import CheckpointError, RunError
from lstm_sentiment.system.files import local_path

log = logging.getLogger(__name__)

STARTER = "starter"
FOLDER = Path(__file__).parents[1] / "starter" / "model"  # of the package, with the files of a run folder
CARD, STATEMENT = "README.md", "statement.json"  # model card and data statement of a packed model
NO_ROWS = "package:lstm_sentiment/starter/rows-are-not-included"  # data.train in its config.yaml
SEEDS = "seeds.json"  # summary of a folder of `train --seeds`
_SEED = re.compile(r"seed-\d{1,20}", re.ASCII)


def is_starter(run: str | Path) -> bool:
    """Whether a run name is the starter's; a `Path` is always a folder.

    >>> is_starter("starter"), is_starter("./starter"), is_starter(Path("starter"))
    (True, False, False)
    """
    return isinstance(run, str) and run == STARTER


def run_path(run: str | Path) -> Path:
    """Return the folder of a run name: the packaged one for ``starter``.

    For a folder of ``train --seeds`` it is the run with the best validation score; a warning says which.

    Raises:
        RunError: this installation has no starter; the training of several seeds is not finished.
        DataError: it is not a valid folder name.
        CheckpointError: the summary of several seeds is damaged.

    >>> [run_path(run).as_posix() for run in ("./starter", Path("starter"), "runs/tweets")]
    ['starter', 'starter', 'runs/tweets']
    """
    if not is_starter(run):
        path = local_path(run)
        if not is_seeds(path):
            return path
        best, metric = _best_seed(path)
        log.warning(
            "%s: several seeds; using %s, the run with the best validation %s", path, best.name, metric
        )
        return best
    here = Path(STARTER)
    if not (FOLDER / "config.yaml").is_file():
        hint = "; use ./starter for the local folder" if here.is_dir() else ""
        raise RunError(
            f"{STARTER}: this installation of lstm_sentiment comes without a starter model{hint}. Install "
            "a release that has one, or name the folder of another run"
        )
    if (here / "config.yaml").is_file():
        log.warning("%s is the model of the package; use ./%s for the local run", STARTER, STARTER)
    return FOLDER


def output_path(run: str | Path, name: str) -> Path:
    """Return the default output path for a file that belongs to a run.

    Args:
        run: as the user named it.
        name: of the file or folder to write.

    For a folder of ``train --seeds`` it is in the run that `run_path` returns.

    >>> [output_path(run, "evaluation.json").as_posix() for run in ("runs/tweets", "starter")]
    ['runs/tweets/evaluation.json', 'starter-evaluation.json']
    """
    if is_starter(run):
        return Path(f"{STARTER}-{name}")
    path = local_path(run)
    return (_best_seed(path)[0] if is_seeds(path) else path) / name


def is_seeds(folder: Path) -> bool:
    """Whether a folder holds the runs of ``train --seeds``, finished or not.

    >>> is_seeds(Path("runs/tweets"))
    False
    """
    with contextlib.suppress(OSError):  # unreadable: reported where it is read
        if folder.is_dir() and not (folder / "labels.json").exists():
            return (folder / SEEDS).is_file() or any(map(_is_seed, folder.glob("seed-*")))
    return False


def seed_paths(folder: Path) -> list[Path]:
    """Return the runs of a folder of ``train --seeds``, in the order of training.

    Raises:
        RunError: the training is not finished.
        CheckpointError: its summary is damaged, or a run is a link out of the folder.

    Example::

        seed_paths(Path("runs/seeds"))  # runs/seeds/seed-0, runs/seeds/seed-1
    """
    return [_seed_in(folder, run.get("out")) for run in _summary_of(folder)["runs"]]


def _best_seed(folder: Path) -> tuple[Path, str]:
    """Return the run with the best validation score, and the metric."""
    summary = _summary_of(folder)
    return _seed_in(folder, summary.get("best_run")), str(summary.get("metric", "score"))


def _summary_of(folder: Path) -> dict[str, Any]:
    """Return the content of seeds.json, with at least one run."""
    file = folder / SEEDS
    if not file.is_file():
        found = next((path.name for path in sorted(folder.glob("seed-*")) if _is_seed(path)), "seed-0")
        raise RunError(
            f"{folder}: holds runs of several seeds, and the last is not finished; finish them with train "
            f"--resume true --out {folder}, or name one of the runs, such as {folder / found}"
        )
    check_place(file, folder)
    summary = json_of(file)
    runs = summary.get("runs") if isinstance(summary, dict) else None
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) for run in runs):
        raise CheckpointError(f"{file}: does not list the runs of the seeds; name one of the runs instead")
    found_summary: dict[str, Any] = summary
    return found_summary


def _seed_in(folder: Path, named: Any) -> Path:
    """Return the path of a run named in seeds.json; its folder may have been moved since."""
    name = Path(named).name if isinstance(named, str) else ""
    if not _SEED.fullmatch(name):
        raise CheckpointError(
            f"{folder / SEEDS}: does not name the runs of this version; write it again with train --resume "
            f"true --out {folder}, or name one of the runs"
        )
    check_place(folder / name, folder)
    return folder / name


def _is_seed(path: Path) -> bool:
    return bool(_SEED.fullmatch(path.name)) and (path / "config.yaml").is_file()


def learned_packages(run: str | Path) -> frozenset[str]:
    """Return the installed packages whose texts the starter was trained on, from its data statement.

    Empty for other runs.

    >>> learned_packages("runs/tweets")
    frozenset()
    """
    if not is_starter(run):
        return frozenset()
    try:
        corpora = json.loads((FOLDER / STATEMENT).read_text(encoding="utf-8"))["corpora"]
        sources = [str(of["source"]) for of in corpora]
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()
    named = (re.search(r"\bthe package ([\w-]+)", source) for source in sources)
    return frozenset(found[1].replace("-", "_") for found in named if found)
