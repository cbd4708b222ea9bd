"""Suspect rows as a table for a person to review, and as a summary."""

from __future__ import annotations

from collections.abc import Iterator

from lstm_sentiment.cleaning.search import REASONS, Found
from lstm_sentiment.data.formats.readers import text_hash
from lstm_sentiment.data.formats.writers import open_table
from lstm_sentiment.data.review.decisions import COLUMNS, hash_cell

ROWS_AT_ONCE = 5_000
MOST_PAIRS = 5  # pairs of classes in the summary


def write_suspects(found: Found, out: str, *, spreadsheet_safe: bool = False) -> None:
    """Write suspect rows to a table, with an empty column for decisions.

    Args:
        found: from `search.find_suspects`.
        out: a table, in the format of its name.
        spreadsheet_safe: put ' before text in CSV or TSV that a spreadsheet would treat as a formula.

    Raises:
        DataError: unsupported format, or no such folder.
        DiskError: it cannot be written.

    Example::

        write_suspects(find_suspects(config), "suspects.csv")
    """
    import pandas as pd

    with open_table(out, spreadsheet_safe=spreadsheet_safe) as write:
        records = list(_records(found))
        for start in range(0, max(1, len(records)), ROWS_AT_ONCE):
            part = records[start : start + ROWS_AT_ONCE]
            write(pd.DataFrame(part, columns=list(COLUMNS), dtype=object))


def _records(found: Found) -> Iterator[tuple[object, ...]]:
    for row in found.suspects:
        yield (
            row.source,
            row.line,
            row.text,
            row.label,
            row.prediction,
            round(row.probability, 4),
            round(row.label_probability, 4),
            "; ".join(row.reasons),
            row.other,
            round(row.score, 4),
            hash_cell(text_hash(row.text)),
            "",
        )


def summary_lines(found: Found) -> list[str]:
    """Return the number of rows by reason, and the most frequent estimated label errors, as lines.

    Example::

        print("\\n".join(summary_lines(find_suspects(config))))
    """
    lines = [f"{len(found.suspects):,} of {found.rows:,} rows are suspect; predicted by {found.model}"]
    for reason in REASONS:
        count = sum(reason in row.reasons for row in found.suspects)
        lines += [f"  {reason:<34}{count:>7,}"] if count else []
    classes = range(len(found.labels))
    pairs = [(found.joint_CC[i, j], i, j) for i in classes for j in classes if i != j]
    pairs = [pair for pair in sorted(pairs, reverse=True)[:MOST_PAIRS] if pair[0] >= 1]
    if pairs:
        lines.append("estimated label errors:")
    for count, label, other in pairs:
        share = count / found.joint_CC[label].sum()
        names = f"{found.labels[label]}, should be {found.labels[other]}"
        lines.append(f"  {names:<34}{round(count):>7,}  {share:.1%} of {found.labels[label]}")
    return lines
