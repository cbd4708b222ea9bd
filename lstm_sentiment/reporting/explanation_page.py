"""Writes explanations as a page, with pictures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lstm_sentiment.cli.characters import cells_of, visible
from lstm_sentiment.explanation.attribution import Explanation
from lstm_sentiment.explanation.sentence import sentence
from lstm_sentiment.explanation.wording import ATTRIBUTIONS, READING, cut_mark, trust_in
from lstm_sentiment.reporting.drawing import colours, readings, removal
from lstm_sentiment.reporting.page import write_page
from lstm_sentiment.reporting.run_facts import RunFacts

MOST_COLUMNS, LONGEST_WORD = 15, 9  # of a table that fits on a printed page; letters of its head


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A section of the page.

    Args:
        explanation: of a text.
        source: where the text is from, such as ``reviews.csv, row 17``; empty for none.
        given: label of the row; None without one.
    """

    explanation: Explanation
    source: str = ""
    given: str | None = None


def write_explanations(
    path: Path, explained: Sequence[Explained], facts: RunFacts, *, label: str | None = None
) -> None:
    """Write a page with a section per text.

    Args:
        path: of the page, ``.html``.
        explained: the texts.
        facts: of the run.
        label: class that is drawn; None for the predicted one.

    Raises:
        MissingExtraError: Jinja2 is not installed.

    Example::

        found = Explained(explanation=classifier.explain("so-so"))
        write_explanations(Path("page.html"), [found], facts_of(classifier.run, classifier.labels))
    """
    parts = []
    for part in explained:
        found = part.explanation
        of_class = label or found.label
        shown = found.shown_classes(of_class)
        most = max(float(abs(found.attributions).max(initial=0)), 1e-9)
        parts.append({
            "found": found,
            "source": visible(part.source),
            "given": part.given,
            "sentence": sentence(found, marks=("“", "”")),
            "text": visible(found.text),
            "tokens": [visible(token) for token in found.tokens],
            "class": of_class,
            "shown": sorted(shown, key=lambda c: found.labels[c] != of_class),
            "colours": colours(found.labels),
            "shares": found.attributions / most,
            "readings": readings(found, of_class) if found.tokens else [],
            "removal": removal(found) if found.faithfulness is not None else None,
            "trust": trust_in(found),
            "cut": cut_mark(found),
            "one_table": _fits(found, shown),
            "layers": sorted({trace.layer for trace in found.gates}),
        })  # fmt: skip
    write_page(
        path,
        "explain.html",
        title="How it was read",
        facts=facts,
        today=datetime.datetime.now(datetime.timezone.utc).date(),
        parts=parts,
        attributions=ATTRIBUTIONS,
        read=READING,
    )


def _fits(found: Explanation, shown: Sequence[int]) -> bool:
    """Whether all numbers fit into one table of a printed page."""
    columns = 1 + 2 * len(shown) + len(found.pooled) + 3 * len(found.gates)
    words = " ".join(found.labels[c] for c in shown).split()
    return columns <= MOST_COLUMNS and max(map(cells_of, words), default=0) <= LONGEST_WORD
