"""A comparison as lines of text and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from lstm_sentiment.comparison.slices import mark, slice_notes
from lstm_sentiment.comparison.verdicts import Compared, Pair, about_of, notes_of
from lstm_sentiment.errors import escaped
from lstm_sentiment.evaluation.metrics import title_of


def compared_lines(found: Compared) -> list[str]:
    """Return a comparison as lines of text, with the verdicts at the end."""
    lines = [f"{letter}: {escaped(title)}" for letter, title in found.titles.items()]
    for pair in found.pairs:
        lines += _pair_lines(pair)
    for letter, scores in found.scores.items():
        found_spread = [(name, scores[name]["spread"]) for name in found.metrics if "spread" in scores[name]]
        spread = [f"{title_of(name)} {value:.4f}" for name, value in found_spread]
        if spread:
            lines.append(f"  standard deviation over the seeds of {letter}: {', '.join(spread)}")
    for by in found.slices:
        lines += _slice_lines(by, found)
    lines += [f"{about}:"] if (about := about_of(found)) else []
    lines += [verdict.sentence for pair in found.pairs for verdict in pair.verdicts]
    return [*lines, *notes_of(found)]


def as_json(found: Compared) -> dict[str, Any]:
    """Return a comparison as JSON values."""
    pairs = [_pair_json(pair, found) for pair in found.pairs]
    of_two = {**pairs[0], "first": found.titles["A"], "second": found.titles["B"]} if len(pairs) == 1 else {}
    return {
        "file": found.file,
        "rows": found.rows,
        "trained_on": {"rows": found.seen, "systems": list(found.training)} if found.seen else None,
        "verdicts_about": about_of(found) or "all rows",
        "metric": found.metric,
        "correction": "holm" if len(pairs) > 1 else None,
        "systems": [
            {"letter": letter, "name": title, "seeds": found.seeds[letter], "scores": found.scores[letter]}
            | {"slices": {
                by: [dataclasses.asdict(of) for of in of_letters[letter]]
                for by, of_letters in found.slices.items()
            }}
            for letter, title in found.titles.items()
        ],
        "comparisons": pairs,
        **of_two,
    }  # fmt: skip


def _pair_lines(pair: Pair) -> list[str]:
    """Return the scores of a pair, and which rows only one of them gets right."""
    found, letter = pair.compared, pair.letter
    lines = [f"{f'{found.rows:,} rows':<16} {'A':>8} {letter:>8} {letter + ' - A':>9}   95 % of resamples"]
    for name, of in found.scores.items():
        lines.append(
            f"  {name:<14} {of.first:>8.4f} {of.second:>8.4f} {of.difference:>+9.4f}   "
            f"{of.low:+.4f} to {of.high:+.4f}"
        )
    if found.mcnemar_p is not None:
        lines.append(
            f"  only A right: {found.only_first_right:,}; only {letter} right: {found.only_second_right:,}; "
            f"McNemar p = {found.mcnemar_p:.3g}"
        )
    return lines


def _slice_lines(by: str, found: Compared) -> list[str]:
    """Return the difference of the metric on each slice."""
    lines, of_first = [], found.slices[by]["A"]
    names = [escaped(of.name, 40) for of in of_first]
    width = max(14, *map(len, names))
    for pair in found.pairs:
        head = f"{title_of(found.metric)} by {escaped(by, 40)}"
        columns = f"{'rows':>8} {'A':>8} {pair.letter:>8} {pair.letter + ' - A':>9}   95 % of resamples"
        lines.append(f"{head:<{width + 2}} {columns}")
        for name, of_slice, on in zip(names, of_first, pair.slices[by], strict=True):
            of = on.scores[found.metric]
            scores = f"{of.first:>8.4f} {of.second:>8.4f} {of.difference:>+9.4f}"
            interval = f"{of.low:+.4f} to {of.high:+.4f}"
            lines.append(f"  {name:<{width}} {on.rows:>8,} {scores}   {interval}  {mark(of_slice)}".rstrip())
    return lines + [f"  {note}" for note in slice_notes(of_first)]


def _pair_json(pair: Pair, found: Compared) -> dict[str, Any]:
    return {
        "first": "A",
        "second": pair.letter,
        "verdicts": [dataclasses.asdict(verdict) for verdict in pair.verdicts],
        **dataclasses.asdict(pair.compared),
        "slices": {
            by: [
                {"name": of.name, **dataclasses.asdict(on)}
                for of, on in zip(found.slices[by]["A"], of_slices, strict=True)
            ]
            for by, of_slices in pair.slices.items()
        },
    }
