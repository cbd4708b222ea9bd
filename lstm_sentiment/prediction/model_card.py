"""Model cards: README.md in the format of the Hugging Face Hub, with the scores of the run.

Names of classes and files are untrusted and escaped for Markdown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from lstm_sentiment.config.public import last_part
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import ModelConfig, name_of
from lstm_sentiment.evaluation.against_linear import verdict_sentence
from lstm_sentiment.provenance.known_texts import known_rows_sentence
from lstm_sentiment.records.data_facts import DataFacts, rows_by_split
from lstm_sentiment.records.environment import Environment
from lstm_sentiment.records.run_metrics import RunMetrics
from lstm_sentiment.records.run_reports import RunReports

SCORES = {  # name -> (name on the Hub, title)
    "accuracy": ("accuracy", "Accuracy"),
    "macro_f1": ("f1", "Macro-F1"),
    "macro_recall": ("recall", "Macro recall"),
    "loss": ("loss", "Cross-entropy"),
    "ece": ("ece", "Calibration error"),
}
TAGS = ("sentiment-analysis", "text-classification", "lstm", "pytorch", "safetensors")
_MARKS = re.compile(r"[\\`*_{}\[\]<>#|~&$@]|(?<=www)\.|:(?=//)", re.IGNORECASE)


def model_card(
    *,
    name: str,
    config: Config,
    reports: RunReports,
    merged: str = "",
    license: str | None = None,  # noqa: A002 - the Hub's word
    language: str | Sequence[str] | None = None,
) -> str:
    """Return a model card.

    Args:
        name: of the model, as in the Hub's USER/NAME, or of its folder.
        config: of the run, without local paths.
        reports: results, data and environment of the run.
        merged: classes that were merged after training, with their members, in words; empty if none were.
        license: such as ``mit``; left out when None.
        language: ISO codes such as ``en``; left out when None.
    """
    metrics, data, environment = reports.metrics, reports.data, reports.environment
    facts = _front_matter(name, name_of(config.data.train), metrics)
    facts |= {key: value for key, value in (("license", license), ("language", language)) if value}
    parts = [
        "---\n" + yaml.safe_dump(facts, sort_keys=False, allow_unicode=True) + "---",
        f"# {_text(name.rpartition('/')[2])}",
        _introduction(config.model, metrics.labels, environment.lstm_sentiment)
        + (f" Classes were merged after training: {_text(merged)}." if merged else ""),
        _use(name),
        _results(metrics, data),
        _calibration(metrics),
        _training_data(config, data),
        _training(config, metrics, environment),
        _limits(config, metrics),
    ]
    return "\n\n".join(parts) + "\n"


def packed_card(
    *,
    name: str,
    config: Config,
    labels: list[str],
    version: str,
    corpora: Sequence[Mapping[str, Any]],
    notes: str,
    license: str | None,  # noqa: A002 - the Hub's word
) -> str:
    """Return the model card of a packed run (see `starter.packing`).

    Args:
        name: of the model.
        config: without paths and data sources.
        labels: class names.
        version: of lstm_sentiment that trained it.
        corpora: what it was trained on: maps with ``name``, ``rows``, ``terms``, ``source``.
        notes: Markdown, put between the use and the data.
        license: of the weights; left out when None.
    """
    facts: dict[str, Any] = {
        "library_name": "lstm_sentiment",
        "pipeline_tag": "text-classification",
        "tags": list(TAGS),
    }
    facts |= {"license": license} if license else {}
    parts = [
        "---\n" + yaml.safe_dump(facts, sort_keys=False, allow_unicode=True) + "---",
        f"# {_text(name)}",
        _introduction(config.model, labels, version),
        "## Use\n\n```python\nimport lstm_sentiment\n\n"
        f"classifier = lstm_sentiment.load({json.dumps(name)})\n"
        'classifier.predict(["Unbelievable service"], coverage=0.9)\n```',
        notes.strip(),
        _statement(corpora),
        "## Limits\n\n- Evaluate it before use on texts unlike its training texts: other domains, times or "
        "languages.\n"
        "- It does not understand irony or background knowledge; biases of the texts and of their annotators "
        "are learned.\n"
        "- `vocabulary.json` lists words of the training texts; the texts are not included.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _statement(corpora: Sequence[Mapping[str, Any]]) -> str:
    """Return the data statement: each corpus with its rows and terms."""
    if not corpora:
        return ""
    columns = ("name", "rows", "terms", "source")
    rows = [
        [f"{of[c]:,}" if isinstance(of.get(c), int) else _text(str(of.get(c, ""))) for c in columns]
        for of in corpora
    ]
    table = _table(["corpus", *columns[1:]], rows, texts=2)
    return f"## Data\n\nNo text of these corpora is included.\n\n{table}"


def _front_matter(name: str, dataset: str, metrics: RunMetrics) -> dict[str, Any]:
    results = [
        {"type": kind, "name": shown_as, "value": round(metrics.held_out[score], 4)}
        for score, (kind, shown_as) in SCORES.items()
    ]
    slug = re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-") or "data"
    result = {
        "task": {"type": "text-classification", "name": "Text classification"},
        "dataset": {"type": slug, "name": dataset, "split": metrics.split},
        "metrics": results,
    }
    return {
        "library_name": "lstm_sentiment",
        "pipeline_tag": "text-classification",
        "tags": list(TAGS),
        "metrics": ["accuracy", "f1", "recall"],
        "model-index": [{"name": name.rpartition("/")[2], "results": [result]}],
    }


def _introduction(model: ModelConfig, labels: list[str], version: str) -> str:
    return (
        f"A {'bidirectional ' if model.bidirectional else ''}LSTM classifier with {len(labels)} classes: "
        f"{', '.join(map(_text, labels))}. Trained with lstm_sentiment "
        f"{_text(version)}."
    )


def _use(name: str) -> str:
    return (
        "## Use\n\n```python\nfrom lstm_sentiment import SentimentClassifier\n\n"
        f"classifier = SentimentClassifier.from_pretrained({name!r})\n"
        'classifier.predict(["Unbelievable service"], coverage=0.9)\n```\n\n'
        "Weights are safetensors, other files JSON and YAML, and each file is checked by its sha256: no "
        "downloaded code is executed."
    )


def _results(metrics: RunMetrics, data: DataFacts) -> str:
    scores, shared = metrics.held_out, data.shared_texts.get(metrics.split, 0)
    lines = [f"## Results\n\nOn {scores.rows:,} {metrics.split} held-out rows."]
    if metrics.split == "validation" and (metrics.kept or metrics).cross_validated:
        lines = [
            f"## Results\n\nOn the {scores.rows:,} training rows, cross-validated. They also "
            "selected and calibrated the model: new texts will score a little lower."
        ]
    elif metrics.split == "validation":
        lines[0] += " They also selected the best epoch and calibrated the model: new texts will score lower."
    if shared:
        lines[0] += f" {shared:,} of their texts are also in the training rows."
    if known := known_rows_sentence(metrics.known_to_starter, rows_by_split(data)):
        lines.append(f"{known[0].upper()}{known[1:]}.")
    columns = metrics.compared()
    rows = ([title, *(f"{of[key]:.4f}" for of in columns.values())] for key, (_, title) in SCORES.items())
    lines.append(_table(["", *map(_text, columns)], rows))
    if metrics.against_linear is not None:
        sentence = verdict_sentence(metrics.against_linear)
        lines.append(f"{sentence[0].upper()}{sentence[1:]}.")
    of_classes = (
        [_text(label), *(f"{value:.4f}" for value in (of.precision, of.recall, of.f1)), f"{of.rows:,}"]
        for label, of in scores.per_class.items()
    )
    lines.append(_table(["class", "precision", "recall", "F1", "rows"], of_classes))
    return "\n\n".join(lines)


def _calibration(metrics: RunMetrics) -> str:
    calibrated = metrics.calibrated
    sets = (
        [f"{float(wanted):.0%}", f"{found.coverage:.1%}", f"{found.labels:.2f}"]
        for wanted, found in calibrated.label_sets.items()
    )
    temperature, bf16 = metrics.calibration.temperature, metrics.bf16
    in_bf16 = (
        f"\n\nWith bf16 products (`--precision bf16`), {bf16.same_labels:.2%} of {bf16.rows:,} of these rows "
        "get the same label as in fp32, and their calibration error is "
        f"{bf16.ece:.4f} instead of {bf16.ece_fp32:.4f}."
        if bf16
        else ""
    )
    return (
        f"## Calibration\n\nProbabilities are scaled on the {metrics.validated_on} (temperature "
        f"{temperature:.2f}): on the {metrics.split} rows the calibration error goes from "
        f"{calibrated.ece_before:.4f} to {calibrated.ece_after:.4f}. Label sets, on the same rows:\n\n"
        + _table(["requested coverage", "coverage", "mean size"], sets)
        + in_bf16
    )


def _training_data(config: Config, data: DataFacts) -> str:
    labels = list(data.splits["train"].classes)
    rows = [
        [
            split,
            *(f"{count:,}" for count in (of.rows, *of.classes.values())),
            f"{of.unknown_tokens:.1%}",
        ]
        for split, of in data.splits.items()
    ]
    repeated = "removed before the split" if config.data.deduplicate else "kept"
    phrases, left_out = data.phrases, data.counts["train"].left_out
    suspect = data.excluded_rows
    notes = f"; {left_out:,} rows of excluded classes" if left_out else ""
    notes += f"; {suspect:,} suspect rows left out of the training rows" if suspect else ""
    if phrases:
        notes += f"; {phrases:,} training rows are phrases, with a weight of {config.data.phrases:g}"
    if data.conflicting_labels is not None:
        notes = f", {data.conflicting_labels:,} texts with more than one label{notes}"
    return (
        f"## Data\n\nRows of {_text(name_of(config.data.train))}: "
        f"{data.duplicates:,} repeated texts ({repeated}){notes}.\n\n"
        + _table(["split", "rows", *map(_text, labels), "unknown tokens"], rows)
    )


def _course(config: Config, metrics: RunMetrics) -> str:
    """Describe training: its epochs, or the cross-validation over a frozen LSTM."""
    began = metrics.kept.start if metrics.kept else None
    start = f" Training started from {_text(last_part(began))}." if began else ""
    if not metrics.epochs:
        return f"{start} The LSTM was frozen; head and linear model were fitted with cross-validation, in"
    return f"{start} {metrics.epochs:d} epochs of batches of {config.trainer.batch_size},"


def _training(config: Config, metrics: RunMetrics, environment: Environment) -> str:
    model = config.model
    linear = ", and a linear model of words and word pairs" if model.ngrams else ""
    best = f"; epoch {metrics.best_epoch:d} was the best by validation {_text(metrics.metric)}"
    best = best if metrics.epochs else ""
    return (
        f"## Training\n\n{metrics.parameters:,} parameters: embeddings of {model.embedding_size}, "
        f"{model.layers} LSTM layer{'s' if model.layers > 1 else ''} of {model.hidden_size} per direction, "
        f"{_text(model.pooling)} pooling{linear}.{_course(config, metrics)} "
        f"{metrics.training_s:,.0f} s on {_text(environment.cpu)} ({_text(environment.device)}), "
        f"seed {config.seed}{best}. All settings are in `config.yaml`."
    )


def _limits(config: Config, metrics: RunMetrics) -> str:
    words, others = "the training rows", []
    if config.pretrained:
        began = _text(last_part(config.pretrained))
        words += f" and of the texts that {began} was trained on"
        others.append(
            f"{began}, which training started from, has read other texts: if held-out rows are among these, "
            "the scores above are too high."
        )
    if config.data.unlabelled is not None:
        words += "" if config.pretrained else " and of unlabelled texts"
        others.append("Unlabelled texts were used, too.")
    if config.text.vectors is not None:
        words += " and of these vectors" if config.text.vector_words and not config.pretrained else ""
        others.append(f"It started from word vectors: {_text(config.text.vectors)}.")
    read = " ".join(["It was trained on its training rows.", *others])
    read = read if others else "It was trained on its training rows only."
    held_out = "" if metrics.split == "test" else " There was no test split: the scores above are optimistic."
    return (
        "## Limits\n\n"
        "- Evaluate it before use on texts unlike its training texts: other domains, times or languages."
        f"{held_out}\n"
        f"- {read} It does not understand irony or background knowledge; biases of the rows and of their "
        "annotators are learned.\n"
        f"- `vocabulary.json` lists words of {words}; the texts are not included."
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 0) -> str:
    """Return a table of Markdown cells; all but the first and the last `texts` columns are numbers."""
    numbers = len(header) - 1 - texts
    lines = ["| " + " | ".join(header) + " |", "| --- " + "| --: " * numbers + "| --- " * texts + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _text(text: str) -> str:
    """Escape text for Markdown, including tables.

    >>> print(_text("<b> a|b [x](http://y) 0.5"))
    \\<b\\> a\\|b \\[x\\](http\\://y) 0.5
    """
    printable = "".join(c if c.isprintable() else " " for c in text)
    return _MARKS.sub(lambda found: "\\" + found[0], printable)
