"""The name ``starter``, wherever a run folder is taken: the model that comes with the package.

A folder of that name is reached by ``./starter``, or as a `Path`. The files of the package are only read:
what a command writes into a run folder by default, it writes into the current folder for the starter.
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
CARD, STATEMENT = "README.md", "statement.json"  # of a packed model: its card, what it was trained on
NO_ROWS = "package:lstm_sentiment/starter/rows-are-not-included"  # what its config.yaml names as its data


def is_starter(run: str | Path) -> bool:
    """Whether a run is given by the starter's name; a `Path` is always a folder.

    >>> is_starter("starter"), is_starter("./starter"), is_starter(Path("starter"))
    (True, False, False)
    """
    return isinstance(run, str) and run == STARTER


def run_path(run: str | Path) -> Path:
    """Return the folder that a run's name stands for: the package's own for ``starter``.

    Raises:
        RunError: this installation has no starter.
        DataError: no folder can have that name.

    >>> [run_path(run).as_posix() for run in ("./starter", Path("starter"), "runs/tweets")]
    ['starter', 'starter', 'runs/tweets']
    """
    if not is_starter(run):
        return local_path(run)
    here = Path(STARTER)
    if not (FOLDER / "config.yaml").is_file():
        beside = "; the folder of that name here is reached by ./starter" if here.is_dir() else ""
        raise RunError(
            f"{STARTER}: this installation of lstm_sentiment comes without a starter model{beside}. Install "
            "a release that has one, or name the folder of a run of your own"
        )
    if (here / "config.yaml").is_file():
        log.warning("%s is the model of the package; the run here is reached by ./%s", STARTER, STARTER)
    return FOLDER


def output_path(run: str | Path, name: str) -> Path:
    """Return where a command writes what belongs to a run, if it is told no other place.

    Args:
        run: as the user named it.
        name: of the file or folder to be written.

    >>> [output_path(run, "evaluation.json").as_posix() for run in ("runs/tweets", "starter")]
    ['runs/tweets/evaluation.json', 'starter-evaluation.json']
    """
    return Path(f"{STARTER}-{name}") if is_starter(run) else local_path(run) / name


def learned_packages(run: str | Path) -> frozenset[str]:
    """Return the installed packages whose texts the starter was trained on, as its data statement says.

    Of other runs nothing is known, and nothing is read.

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
