"""Trains with several seeds and reports mean and spread."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lstm_sentiment.checkpoints.run_paths import SEEDS
from lstm_sentiment.checkpoints.untrusted_files import check_place
from lstm_sentiment.config.command_line import config_yaml
from lstm_sentiment.config.schema import METRICS, Config
from lstm_sentiment.errors import RunError
from lstm_sentiment.evaluation.metrics import LOWER_IS_BETTER
from lstm_sentiment.experiment.train import run
from lstm_sentiment.system.devices import pick_device
from lstm_sentiment.system.distributed import process_environment, process_group
from lstm_sentiment.system.files import write_atomically, write_json

log = logging.getLogger(__name__)


def run_seeds(config: Config, *, given: Collection[str] = ()) -> dict[str, Any]:
    """Train with `seed`, `seed` + 1, ..., each in its own folder below ``config.out``.

    Args:
        config: of the runs.
        given: as in `train.run`.

    Returns:
        the content of seeds.json: `runs` (folder, seed and scores of each), `metric` (of the validation
        scores), `best_run` and `median_run` (the folders of the runs with the best validation score, which
        commands use, and with the median one), and `scores`: name -> `mean`, `spread` (standard deviation),
        `lowest` and `highest` on the test rows, or else on the validation rows.

    Raises:
        SentimentError: as `train.run`.
    """
    folder = Path(config.out)
    if (folder / "labels.json").exists():
        raise RunError(f"{folder}: contains a single run; choose another --out for {config.seeds} seeds")
    processes, summaries = process_environment(), []
    device = pick_device(config.trainer.device, local_rank=processes.local_rank)
    with process_group(processes, device, timeout_s=config.trainer.timeout):
        for seed in range(config.seed, config.seed + config.seeds):
            out = folder / f"seed-{seed}"
            check_place(out, folder)
            log.info("seed %d", seed)
            metrics = run(dataclasses.replace(config, out=str(out), seed=seed, seeds=1), given=given)
            held_out = "test" if "test" in metrics else "validation"
            scores = {name: metrics[held_out][name] for name in METRICS if name in metrics[held_out]}
            summaries.append(
                {
                    "out": str(out),
                    "seed": seed,
                    "picked_by": metrics["validation"][config.trainer.metric],
                    held_out: scores,
                }
            )
            if processes.is_main:
                write_atomically(folder / "config.yaml", config_yaml(config).encode())
    summary = _summary(summaries, held_out, config.trainer.metric)
    if processes.is_main:
        write_json(folder / SEEDS, summary)
        for line in _lines(summary, held_out, config.trainer.metric):
            log.info("%s", line)
    return summary


def _summary(runs: list[dict[str, Any]], held_out: str, metric: str) -> dict[str, Any]:
    worst_first = sorted(runs, key=lambda of: of["picked_by"], reverse=metric in LOWER_IS_BETTER)
    scores = {}
    for name in runs[0][held_out]:
        values = [of[held_out][name] for of in runs]
        scores[name] = {
            "mean": statistics.fmean(values),
            "spread": statistics.stdev(values),
            "lowest": min(values),
            "highest": max(values),
        }
    return {
        "runs": runs,
        "metric": metric,
        "best_run": worst_first[-1]["out"],
        "median_run": worst_first[(len(runs) - 1) // 2]["out"],
        "scores": scores,
    }


def _lines(summary: dict[str, Any], held_out: str, metric: str) -> list[str]:
    lines = [f"{len(summary['runs'])} seeds, {held_out}: mean ± standard deviation (lowest to highest)"]
    for name, of in summary["scores"].items():
        lines.append(
            f"  {name:<14} {of['mean']:.4f} ± {of['spread']:.4f} ({of['lowest']:.4f} to {of['highest']:.4f})"
        )
    return [
        *lines,
        f"best run by validation {metric}: {summary['best_run']}; median run: {summary['median_run']}",
    ]
