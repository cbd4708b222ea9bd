"""Training and prediction by another commit of this repository, in a process of its own, to compare speed.

The commit is checked out into a temporary folder, its kernels are compiled there, and its own
`scripts/benchmark.py` makes the steps. The process computes only while it is asked for a speed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = "from setuptools import setup; setup()"
STEPS = """
import json, sys
import benchmark as commit

facts = json.loads(sys.argv[1])
commit.set_up_cpu(facts["threads"])
data = commit.DataConfig(train=facts["file"], validation=0.1, test=None)
arms, classifiers = {}, {}
for name, text in {"ours": commit.PLAIN, "ours_with_subwords": commit.SPELT}.items():
    corpus = commit.prepare(data, text, seed=commit.SEED, cache=commit.Path(facts["cache"]))
    arms[name] = commit.our_steps(corpus, text, facts["precision"])
    config = commit.Config(text=text, model=commit.MODEL)
    classifiers[name] = {"labels": corpus.labels, "vocabulary": corpus.vocabulary, "config": config}
texts = commit.read_texts(facts["file"])
texts = [texts[i] for i in commit.np.random.default_rng(commit.SEED).permutation(len(texts))]
out, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    name, seconds, count = json.loads(line)
    if seconds is None:
        classifier = commit.SentimentClassifier(**classifiers[name], device="cpu")
        speed = len(texts[:count]) / commit.timed(classifier.predict_proba, texts[:count])
    else:
        speed = commit.tokens_per_s(arms[name], seconds=seconds, least_steps=count)
    print(json.dumps(speed), file=out, flush=True)
"""


class OtherCommit:
    """A process that trains and predicts by another commit (see `training_steps`)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tokens_per_s(self, name: str, *, seconds: float, least_steps: int) -> float:
        """Take steps of a loop, ``ours`` or ``ours_with_subwords``, and return useful tokens per second."""
        return self._asked(name, seconds, least_steps)

    def texts_per_s(self, name: str, count: int) -> float:
        """Predict some texts with a new classifier, and return texts per second."""
        return self._asked(name, None, count)

    def _asked(self, name: str, seconds: float | None, count: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([name, seconds, count]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            sys.exit("the process of the other commit ended; its error is above")
        return float(json.loads(line))


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Check a commit out into a new folder, with compiled kernels; the folder is removed at the end."""
    git = ["git", "-C", str(ROOT), "worktree"]
    done = subprocess.run([*git, "add", "--detach", str(folder), commit], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"--against {commit}: {done.stderr.strip()}")
    try:
        compile_kernels = [sys.executable, "-c", BUILD, "build_ext", "--inplace"]
        subprocess.run(compile_kernels, cwd=folder, check=True, capture_output=True)
        if not list(folder.glob(f"lstm_sentiment/**/*{sysconfig.get_config_var('EXT_SUFFIX')}")):
            sys.exit(f"--against {commit}: its kernels could not be compiled; is there a C compiler?")
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True, capture_output=True)


@contextlib.contextmanager
def training_steps(checkout: Path, **facts: Any) -> Iterator[OtherCommit]:
    """Start a process with a checkout's training steps.

    Args:
        checkout: from `checked_out`.
        facts: `file` of training rows, `cache` folder, `threads`, `precision`.
    """
    paths = os.pathsep.join([str(checkout), str(checkout / "scripts")])
    with subprocess.Popen(
        [sys.executable, "-c", STEPS, json.dumps(facts)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:
        try:
            yield OtherCommit(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
