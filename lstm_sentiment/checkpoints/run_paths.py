"""Paths of run folders; the name ``starter`` is the model that comes with the package.

A local folder of that name is given as ``./starter`` or as a `Path`. The package's files are read-only:
output that goes into the run folder by default goes into the current folder for the starter.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from lstm_sentiment.errors import RunError
from lstm_sentiment.system.files import local_path

log = logging.getLogger(__name__)

STARTER = "starter"
FOLDER = Path(__file__).parents[1] / "starter" / "model"  # of the package, with the files of a run folder
CARD, STATEMENT = "README.md", "statement.json"  # model card and data statement of a packed model
NO_ROWS = "package:lstm_sentiment/starter/rows-are-not-included"  # data.train in its config.yaml


def is_starter(run: str | Path) -> bool:
    """Whether a run name is the starter's; a `Path` is always a folder.

    >>> is_starter("starter"), is_starter("./starter"), is_starter(Path("starter"))
    (True, False, False)
    """
    return isinstance(run, str) and run == STARTER


def run_path(run: str | Path) -> Path:
    """Return the folder of a run name: the packaged one for ``starter``.

    Raises:
        RunError: this installation has no starter.
        DataError: it is not a valid folder name.

    >>> [run_path(run).as_posix() for run in ("./starter", Path("starter"), "runs/tweets")]
    ['starter', 'starter', 'runs/tweets']
    """
    if not is_starter(run):
        return local_path(run)
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

    >>> [output_path(run, "evaluation.json").as_posix() for run in ("runs/tweets", "starter")]
    ['runs/tweets/evaluation.json', 'starter-evaluation.json']
    """
    return Path(f"{STARTER}-{name}") if is_starter(run) else local_path(run) / name


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
