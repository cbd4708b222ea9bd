"""Checks of the data before training: overlap, lengths, unknown words, class shift.

Validation and test rows are counted and compared, but never predicted.

Legend: R rows of a split, C classes, S splits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2_contingency

from lstm_sentiment.data.corpus import Corpus
from lstm_sentiment.data.dataset import TextDataset
from lstm_sentiment.diagnostics.findings import NOTE, WARNING, Finding
from lstm_sentiment.errors import shown
from lstm_sentiment.provenance.near_duplicates import LEAST, SHORTEST, near_duplicates
from lstm_sentiment.records.json_values import to_json

PERCENTILES = (50, 90, 99, 100)
EXAMPLES = 3  # of each pair of splits
SIMILAR_SHARE = 0.01  # of a split's rows; more near-duplicates affect its score
UNKNOWN_SHARE = 0.3  # of a split's tokens
CUT_SHARE = 0.1  # of a split's texts
MAJORITY_SHARE = 0.9  # of the training rows
SHIFT = 0.05  # total variation distance between the classes of two splits
CHANCE = 0.001  # largest p-value of a class shift
CONFLICT_SHARE = 0.01  # of all rows
Array = npt.NDArray[Any]


def examine_data(corpus: Corpus) -> tuple[dict[str, Any], list[Finding]]:
    """Return facts about the splits, and findings.

    Returns:
        `splits`: name -> rows, classes, shares of unknown and truncated tokens, `length` (percentile ->
        tokens, before truncation), `cut_texts` (share); `shift`: name -> `distance` (total variation, 0 to
        1) and `p` (chi-square) of its classes against those of the training rows; `similar`: two names
        -> `rows`, `examined`, `other_label` and `examples` of near-duplicates (see `near_duplicates`);
        `duplicates`, `conflicting_labels` and `shared_texts` as `corpus.prepare` counts them.

    Example::

        facts, findings = examine_data(prepare(config.data, config.text, seed=0, cache=cache_folder()))
    """
    splits = corpus.splits
    sentences = {**splits, "train": corpus.train.sentences()}  # other splits have no phrases
    facts: dict[str, Any] = {
        "splits": {
            name: to_json(corpus.facts.splits[name]) | _lengths(split, corpus)
            for name, split in splits.items()
        },
        "shift": {
            name: class_shift(sentences["train"].labels, split.labels, len(corpus.labels))
            for name, split in splits.items()
            if name != "train"
        },
        "similar": _all_similar(sentences),
        "duplicates": corpus.facts.duplicates,
        "conflicting_labels": corpus.facts.conflicting_labels,
        "shared_texts": corpus.facts.shared_texts,
    }
    findings = [
        *_repeated(facts, splits),
        *_similar_findings(facts),
        *_unknown_and_cut(facts, corpus),
        *_class_findings(facts, corpus),
    ]
    return facts, findings


def class_shift(labels_R: Array, other_labels_R: Array, classes: int) -> dict[str, float]:
    """Return the total variation distance between two class distributions, and its chi-square p-value.

    >>> class_shift(np.array([0, 1] * 50), np.array([0] * 75 + [1] * 25), 2)["distance"]
    0.25
    """
    counts_2C = np.stack([np.bincount(labels, minlength=classes) for labels in (labels_R, other_labels_R)])
    counts_2C = counts_2C[:, counts_2C.sum(axis=0) > 0]
    shares_2C = counts_2C / counts_2C.sum(axis=1, keepdims=True)
    return {
        "distance": float(np.abs(shares_2C[0] - shares_2C[1]).sum() / 2),
        "p": float(chi2_contingency(counts_2C).pvalue),
    }


def data_lines(facts: dict[str, Any]) -> list[str]:
    """Format the facts as a table."""
    lines = [
        f"{'split':<11}{'rows':>9} {'unknown':>8}  {'length: ' + ' '.join(f'{p} %' for p in PERCENTILES):<30}"
        f"{'truncated':>9}  classes"
    ]
    for name, of in facts["splits"].items():
        length = " ".join(f"{n:,}" for n in of["length"].values())
        classes = ", ".join(
            f"{shown(label)[1:-1]} {n / of['rows']:.1%}" for label, n in of["classes"].items()
        )
        lines.append(
            f"{name:<11}{of['rows']:>9,} {of['unknown_tokens']:>8.1%}  {length:<30}{of['cut_texts']:>9.1%}  "
            f"{classes}"
        )
    for pair, similar in facts["similar"].items():
        if similar["rows"]:
            lines.append(
                f"near-duplicates between {pair} (Jaccard index of tokens {LEAST} or more, at least "
                f"{SHORTEST} tokens):"
            )
        for example in similar["examples"]:
            for name in pair.split(", "):
                place = example[name]
                where = f"{shown(Path(place['file']).name, 40)[1:-1]}:{place['line']}"
                lines.append(f"  {name:<11}{where} {shown(place['text'], 50)}")
    return lines


def _lengths(split: TextDataset, corpus: Corpus) -> dict[str, Any]:
    full_R = split.store.offsets[split.rows + 1] - split.store.offsets[split.rows]
    length = {str(p): int(np.percentile(full_R, p, method="higher")) for p in PERCENTILES}
    return {"length": length, "cut_texts": float((full_R > split.lengths).mean())} | (
        {"vocabulary": len(corpus.vocabulary)} if split is corpus.train else {}
    )


def _all_similar(splits: dict[str, TextDataset]) -> dict[str, Any]:
    """Compare each split with those before it, except for exact duplicates, which are counted elsewhere."""
    found = {}
    names = list(splits)
    for i, name in enumerate(names):
        for other in names[:i]:
            split, others = splits[name], splits[other]
            shared_R = np.isin(split.store.hashes[split.rows], others.store.hashes[others.rows])
            similar = near_duplicates(split, others, rows=np.flatnonzero(~shared_R))
            unlike = split.labels[similar.rows] != others.labels[similar.others]
            nearest = np.argsort(-similar.jaccard, kind="stable")[:EXAMPLES]
            found[f"{name}, {other}"] = {
                "rows": len(similar.rows),
                "examined": similar.examined,
                "other_label": int(unlike.sum()),
                "examples": [
                    {
                        "jaccard": round(float(similar.jaccard[n]), 3),
                        name: _place(split, similar.rows[n]),
                        other: _place(others, similar.others[n]),
                    }
                    for n in nearest
                ],
            }
    return found


def _place(split: TextDataset, row: int) -> dict[str, Any]:
    store = split.store
    text = " ".join(store.tokens[n] for n in split.token_ids(row))
    file, line = store.place(int(split.rows[row]))
    return {"file": file, "line": line, "text": text[:200]}


def _repeated(facts: dict[str, Any], splits: dict[str, TextDataset]) -> list[Finding]:
    findings = []
    for name, shared in facts["shared_texts"].items():
        if shared:
            findings.append(
                Finding(
                    severity=WARNING,
                    what=f"{shared:,} of {len(splits[name]):,} {name} texts are also in the training rows",
                    why="their score measures memorisation; set data.deduplicate, or remove them",
                    key="data.deduplicate",
                )
            )
    conflicting = facts["conflicting_labels"]
    if conflicting:
        rows = sum(len(split) for split in splits.values())
        findings.append(
            Finding(
                severity=WARNING if conflicting > CONFLICT_SHARE * rows else NOTE,
                what=f"{conflicting:,} texts have more than one label",
                why="no model can predict all of them; check how they were labelled",
                key="data.label_column",
            )
        )
    return findings


def _similar_findings(facts: dict[str, Any]) -> list[Finding]:
    findings = []
    for pair, of in facts["similar"].items():
        if not of["rows"]:
            continue
        name, other = pair.split(", ")
        share = of["rows"] / of["examined"]
        findings.append(
            Finding(
                severity=WARNING if other == "train" and share > SIMILAR_SHARE else NOTE,
                what=f"{of['rows']:,} of {of['examined']:,} {name} texts ({share:.1%}) have a near-duplicate "
                f"among the {other} rows, {of['other_label']:,} of them with another label",
                why="near-duplicates inflate scores; give rows of one origin the same value in a column, and "
                "split by it",
                key="data.group_column",
            )
        )
    return findings


def _unknown_and_cut(facts: dict[str, Any], corpus: Corpus) -> list[Finding]:
    findings = []
    if len(corpus.vocabulary) <= 2:
        findings.append(
            Finding(
                severity=WARNING,
                what="no word of the training rows is frequent enough for the vocabulary",
                why="all words share the vector of the unknown token",
                key="text.min_frequency",
            )
        )
    covered = corpus.facts.vectors.tokens if corpus.facts.vectors else 1.0
    if covered < 1 - UNKNOWN_SHARE:
        findings.append(
            Finding(
                severity=WARNING,
                what=f"{covered:.0%} of the training rows' tokens have a pretrained vector",
                why="the others start at random; are the vectors of another language, or another tokenizer "
                "(text.tokenizer, text.lowercase)?",
                key="text.vectors",
            )
        )
    splits = facts["splits"]
    unknown = [name for name in splits if splits[name]["unknown_tokens"] > UNKNOWN_SHARE]
    if unknown and len(corpus.vocabulary) > 2:
        shares = _of_splits(splits, "unknown_tokens", unknown)
        findings.append(
            Finding(
                severity=WARNING,
                what=f"unknown tokens: {shares}",
                why="they are read as subwords at best; lower text.min_frequency, raise "
                "text.max_vocabulary, or is this another language or domain?",
                key="text.min_frequency",
            )
        )
    cut = [name for name in splits if splits[name]["cut_texts"] > CUT_SHARE]
    if cut:
        findings.append(
            Finding(
                severity=WARNING,
                what=f"truncated texts: {_of_splits(splits, 'cut_texts', cut)}; "
                f"lost tokens: {_of_splits(splits, 'cut_tokens', cut)}",
                why="raise text.max_tokens, or choose text.truncate well",
                key="text.max_tokens",
            )
        )
    return findings


def _of_splits(splits: dict[str, Any], share: str, names: list[str]) -> str:
    """Format a share of each split, for one finding about all of them: ``35% of train, 33% of test``."""
    return ", ".join(f"{splits[name][share]:.0%} of {name}" for name in names)


def _class_findings(facts: dict[str, Any], corpus: Corpus) -> list[Finding]:
    findings = []
    counts_C = np.bincount(corpus.train.labels, minlength=len(corpus.labels))
    share = counts_C.max() / counts_C.sum()
    if share > MAJORITY_SHARE:
        findings.append(
            Finding(
                severity=WARNING,
                what=f"{share:.0%} of the training rows are {shown(corpus.labels[int(counts_C.argmax())])}",
                why="always predicting it gives a high accuracy; balance the classes, and use macro-F1",
                key="trainer.class_weights",
            )
        )
    for name, of in facts["shift"].items():
        if of["distance"] > SHIFT and of["p"] < CHANCE:
            findings.append(
                Finding(
                    severity=WARNING,
                    what=f"the class frequencies of {name} differ from those of the training rows: "
                    f"distance {of['distance']:.2f}, p = {of['p']:.1g}",
                    why="predicted probabilities follow the training rows; split one file, or train on rows "
                    "like those to predict",
                    key=f"data.{name}",
                )
            )
    return findings
