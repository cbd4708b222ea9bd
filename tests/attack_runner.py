"""``python attack_runner.py all|control SANDBOX``: runs the package on each hostile file and measures.

Writes ``results.json`` next to the sandbox: name -> message, CPU time, memory, whether the canary exists, and
changes outside of the run. One process for all attacks, since starting one takes seconds.
With ``control`` the same payloads are read unsafely, and those that work are listed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attacks
import torch
import yaml
from attacks import GOOD_RUN, GROUPS, PAYLOADS, Attack, Place
from hostile_rows import row_attacks

from lstm_sentiment import load
from lstm_sentiment.adaptation.pretrained import load_pretrained
from lstm_sentiment.adaptation.start import load_start
from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.config.command_line import parse_config
from lstm_sentiment.config.schema import Config, TrainerConfig
from lstm_sentiment.config.sections import DataConfig, TextConfig
from lstm_sentiment.data.corpus import prepare
from lstm_sentiment.data.word_vectors import load_vectors
from lstm_sentiment.deployment.exporter import export
from lstm_sentiment.diagnostics.diagnose import diagnose_run
from lstm_sentiment.errors import SentimentError
from lstm_sentiment.evaluate import main as evaluate
from lstm_sentiment.experiment.resume import check_folder
from lstm_sentiment.experiment.seeds import run_seeds
from lstm_sentiment.experiment.session import new_curves
from lstm_sentiment.models.network import new_network
from lstm_sentiment.predict import main as predict
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.system.files import write_json
from lstm_sentiment.system.lock import held
from lstm_sentiment.text.tokenizers import Vocabulary
from lstm_sentiment.train import main as train

LIMIT_S = 30  # wall time per case, since reading a pipe would block forever
GIGABYTE = 1 << 30


def act_report(run: Path) -> None:
    from lstm_sentiment.reporting.report import write_report

    page = write_report(run).read_text("utf-8")
    assert "hunter2" not in page, "a page shows a file of the user"


def act_train(run: Path) -> None:
    """Create the network of a configuration with its own vocabulary."""
    config = parse_config(["--config", str(run / "config.yaml")], program="", description="")
    sizes = {"subwords": config.text.subwords, **vars(config.model)}
    new_network(Vocabulary(["so", "good"]), 3, **sizes)


def act_cache(run: Path) -> None:
    """Read rows whose cached tokens were replaced."""
    rows, cache = run / "rows.csv", run / "cache"
    rows.write_text(
        "text,label\n" + "".join(f"so {word} {i},{word}\n" for word in ("good", "bad") for i in "abcdef")
    )
    data = DataConfig(train=str(rows), validation=0.5, test=None)
    before = prepare(data, TextConfig(), seed=0, cache=cache)
    for folder in cache.iterdir():
        shutil.copy(run / "rows.npz", folder / "rows.npz")
    assert prepare(data, TextConfig(), seed=0, cache=cache).fingerprint == before.fingerprint


def act_rows(run: Path) -> None:
    [rows] = run.glob("rows.*")
    prepare(DataConfig(train=str(rows), encoding_errors="strict"), TextConfig(), seed=0, cache=run / "cache")


def act_evaluate(run: Path) -> None:
    rows = run / "rows.csv"
    rows.write_text("text,label\ngreat,positive\nawful,negative\nusual,neutral\n")
    with contextlib.redirect_stdout(None):
        evaluate([str(run), str(rows)])


def act_doctor(run: Path) -> None:
    found = json.dumps(diagnose_run(run).as_json())
    assert "not trained here" in found
    assert "hunter2" not in found


def act_save(run: Path) -> None:
    """Write everything that training writes into an existing run folder."""
    folder = RunFolder(run)
    with held(run):
        checkpoint = folder.load("best")
        for name in ("best", "last"):
            folder.save(name, checkpoint.tensors, checkpoint.facts)
        folder.write_log([{}])
        for name in ("metrics.json", "status.json"):
            write_json(run / name, {})


def act_label(run: Path) -> None:
    rows = run / "rows.csv"
    rows.write_text("text\ngreat\n")
    for ending in ("csv", "parquet", "jsonl", "csv.gz", "csv.zst"):
        predict([str(run), "--file", str(rows), "--out", str(run / f"out.{ending}")])


def act_curves(run: Path) -> None:
    trainer = TrainerConfig(tensorboard=True)
    curves = new_curves(RunFolder(run), Config(out=str(run), trainer=trainer), Processes())
    assert curves is not None
    with curves:
        curves.add(1, {"train/loss": 1.0})


ACTS: dict[str, Callable[[Path], Any]] = {
    "load": lambda run: load(run).predict(["great"], coverage=0.9),
    "resume": lambda run: check_folder(RunFolder(run), Config(out=str(run), resume=True)),
    "config": lambda run: parse_config(["--config", str(run / "config.yaml")], program="", description=""),
    "pretrained": lambda run: load_start(str(run)) or load_pretrained(Config(pretrained=str(run))),
    "resume command": lambda run: train([f"--out={run}", "--resume=true"]),
    "doctor": act_doctor,
    "publish": lambda run: load(run).save_pretrained(run / "published"),
    "vectors": lambda run: load_vectors(
        str(run / "vectors.pt"), Vocabulary(["so"]), size=8, seed=0, cache=run / "cache"
    ),
    "report": act_report,
    "train": act_train,
    "cache": act_cache,
    "rows": act_rows,
    "evaluate": act_evaluate,
    "save": act_save,
    "label": act_label,
    "curves": act_curves,
    "export": lambda run: export(load(run, device="cpu"), run, run / "onnx"),
    "seeds": lambda run: run_seeds(Config(out=str(run / "seeds"), seeds=2)),
}


class TooSlow(BaseException):
    """A case exceeded the time limit."""


def too_slow(*_: Any) -> None:
    raise TooSlow


def memory(field: str) -> int:
    """Return a memory field of the process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])


def tree_of(folder: Path, but: Path) -> dict[str, Any]:
    """Return the files of a folder with their content, except for one subfolder."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_relative_to(but):
            continue
        content = path.read_bytes() if path.is_file() and path.stat().st_size < 10**7 else b""
        found[str(path.relative_to(folder))] = content.hex()
    return found


def run_attack(attack: Attack, sandbox: Path) -> dict[str, Any]:
    """Run the package on the files of an attack and return the outcome."""
    place = Place(sandbox / "run", sandbox / "beside", sandbox / "canary")
    for path in sandbox.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    place.beside.mkdir()
    shutil.copytree(GOOD_RUN, place.run)
    sys.path.insert(0, str(place.beside))
    attack.make(place)
    before = tree_of(sandbox, place.run)
    size = sum(
        f.stat().st_blocks * 512
        for f in [*place.run.rglob("*"), place.run]
        if f.is_file() and not f.is_symlink()
    )
    Path("/proc/self/clear_refs").write_text("5")  # resets peak memory
    used, started = memory("VmRSS"), time.process_time()
    signal.alarm(LIMIT_S)
    said, code = None, 0
    try:
        ACTS[attack.how](place.run)
    except SentimentError as error:
        said, code = str(error), error.exit_code
    except BaseException as error:
        said, code = f"{type(error).__name__}: {error}"[:2000], -1
    signal.alarm(0)
    sys.path.remove(str(place.beside))
    return {
        "said": said,
        "exit_code": code,
        "seconds": time.process_time() - started,
        "grown": max(0, memory("VmHWM") - used),
        "size": size,
        "canary": place.canary.exists(),
        "changed": sorted(dict(set(before.items()) ^ set(tree_of(sandbox, place.run).items()))),
    }


def control(sandbox: Path) -> list[str]:
    """Return the payloads and tags that create the canary in an unsafe reader."""
    canary, beside, works = sandbox / "canary", sandbox / "beside", []
    beside.mkdir(exist_ok=True)
    sys.path.insert(0, str(beside))
    made = attacks.payloads(canary, beside)

    def read(name: str, reader: Callable[[], Any]) -> None:
        sys.modules.pop("hostile_module", None)
        with contextlib.suppress(Exception):
            reader()
        if canary.exists():
            works.append(name)
            canary.unlink()

    for name, payload in made.items():
        content = pickle.dumps(payload)
        read(f"pickle.loads {name}", lambda content=content: pickle.loads(content))
    for name in PAYLOADS:
        file = beside / "control.pt"
        torch.save(made[name], file)
        read(f"torch.load {name}", lambda file=file: torch.load(file, weights_only=False))
    tag = f'!!python/object/apply:os.system ["touch {canary}"]'
    read("yaml.unsafe_load", lambda: yaml.unsafe_load(tag))
    module = "!!python/module:hostile_module"
    read("yaml.unsafe_load module", lambda: yaml.unsafe_load(module))
    sys.path.remove(str(beside))
    return works


def main(what: str, sandbox: Path) -> None:
    os.chdir(sandbox.parent)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, too_slow)
    if what == "control":
        results: Any = control(sandbox)
    else:
        shutil.copytree(GOOD_RUN, sandbox / "warm")  # warm-up: imports are not counted
        for act in (act_report, act_label, act_curves, ACTS["export"]):
            act(sandbox / "warm")
        limit = memory("VmSize") + 3 * GIGABYTE  # a real bomb must not take the machine with it
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        cases = [attack for group in (*GROUPS, row_attacks) for attack in group()]
        results = {attack.name: run_attack(attack, sandbox) for attack in cases}
    (sandbox.parent / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
