"""A comparison as tables to paste: Markdown, LaTeX or HTML. Names are untrusted and escaped for each."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lstm_sentiment.comparison.slices import mark, slice_notes
from lstm_sentiment.comparison.verdicts import Compared, about_of, notes_of, p_text
from lstm_sentiment.errors import escaped, without_secrets
from lstm_sentiment.evaluation.metrics import title_of
from lstm_sentiment.evaluation.significance import RESAMPLES, Difference

NONE = "-"  # a cell without content
_MARKDOWN = re.compile(r"[\\`*_{}\[\]<>#|~&$@!]|(?<=www)\.|:(?=//)", re.IGNORECASE)
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    "-": "-{}",  # -- and --- are dashes
    **{character: f"\\{character}" for character in "{}#$%&_"},
    **{character: f"{{{character}}}" for character in "[]*'`"},  # \\[ and \\* have other meanings in a table
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text.

    Args:
        caption: what it shows.
        head: of the columns.
        rows: cells.
        notes: sentences below it.
    """

    caption: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str]


def tables_of(found: Compared) -> list[Table]:
    """Return a comparison as tables: the systems, then the slices."""
    return [_systems(found), *(_slices(by, found) for by in found.slices)]


def markdown(tables: Sequence[Table]) -> str:
    """Return tables as Markdown.

    >>> table = Table(caption="All rows", head=["system", "p"], rows=[["a|b_c", "0.1"]], notes=["A leads"])
    >>> print(markdown([table]))
    All rows
    <BLANKLINE>
    | system | p |
    | --- | ---: |
    | a\\|b\\_c | 0.1 |
    <BLANKLINE>
    - A leads
    """
    parts = []
    for table in tables:
        rule = ["---", *["---:"] * (len(table.head) - 1)]
        lines = [[_markdown(cell) for cell in row] for row in (table.head, *table.rows)]
        lines.insert(1, rule)
        parts += [_markdown(table.caption), "\n".join(f"| {' | '.join(line)} |" for line in lines)]
        if table.notes:
            parts.append("\n".join(f"- {_markdown(note)}" for note in table.notes))
    return "\n\n".join(parts)


def latex(tables: Sequence[Table]) -> str:
    r"""Return tables as LaTeX, without any package.

    >>> table = Table(caption="All rows", head=["system", "p"], rows=[["50%_a", "0.1"]], notes=["A leads"])
    >>> print(latex([table]))
    \begin{table}
      \caption{All rows}
      \begin{tabular}{lr}
        \hline
        system & p \\
        \hline
        50\%\_a & 0.1 \\
        \hline
      \end{tabular}
    \end{table}
    <BLANKLINE>
    A leads.
    """
    parts = []
    for table in tables:
        head, *rows = (
            f"    {' & '.join(_latex(cell) for cell in row)} \\\\" for row in (table.head, *table.rows)
        )
        lines = ["\\begin{table}", f"  \\caption{{{_latex(table.caption)}}}"]
        lines += [f"  \\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}", "    \\hline", head]
        lines += ["    \\hline", *rows, "    \\hline", "  \\end{tabular}", "\\end{table}"]
        parts.append("\n".join(lines))
        if table.notes:
            parts.append("\n".join(f"{_latex(note)}." for note in table.notes))
    return "\n\n".join(parts)


def as_html(tables: Sequence[Table]) -> str:
    """Return tables as HTML, to be put into a page.

    >>> table = Table(caption="All rows", head=["system", "p"], rows=[["<b>", "0.1"]], notes=[])
    >>> print(as_html([table]))
    <table>
      <caption>All rows</caption>
      <thead><tr><th>system</th><th>p</th></tr></thead>
      <tbody>
        <tr><td>&lt;b&gt;</td><td>0.1</td></tr>
      </tbody>
    </table>
    """
    parts = []
    for table in tables:
        head = "".join(f"<th>{_html(cell)}</th>" for cell in table.head)
        lines = ["<table>", f"  <caption>{_html(table.caption)}</caption>"]
        lines += [f"  <thead><tr>{head}</tr></thead>", "  <tbody>"]
        for row in table.rows:
            lines.append(f"    <tr>{''.join(f'<td>{_html(cell)}</td>' for cell in row)}</tr>")
        parts += [*lines, "  </tbody>", "</table>", *(f"<p>{_html(note)}.</p>" for note in table.notes)]
    return "\n".join(parts)


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "html": as_html,
}


def _systems(found: Compared) -> Table:
    """Return the table of all systems."""
    head = ["system"]
    for metric in found.metrics:
        head += [title_of(metric), "difference to A", "p"]
    pairs = {pair.letter: pair for pair in found.pairs}
    rows = []
    for letter, title in found.titles.items():
        row = [f"{letter}: {title}"]
        for i, metric in enumerate(found.metrics):
            of = found.scores[letter][metric]
            row.append(f"{of['value']:.4f} ({of['low']:.4f} to {of['high']:.4f})")
            if letter in pairs:
                p = p_text(pairs[letter].verdicts[i].p).removeprefix("p ").removeprefix("= ")
                row += [_difference(pairs[letter].compared.scores[metric]), p]
            else:
                row += [NONE, NONE]
        rows.append(row)
    trained = f", with {found.seen:,} that some system was trained on" if found.seen else ""
    caption = (
        f"{found.rows:,} rows of {without_secrets(found.file)}{trained}; in brackets 95 % intervals "
        f"of {RESAMPLES:,} paired bootstrap resamples"
    )
    about = about_of(found)
    verdicts = [
        f"{about}: {verdict.sentence}" if about else verdict.sentence
        for pair in found.pairs
        for verdict in pair.verdicts
    ]
    return Table(caption=caption, head=head, rows=rows, notes=[*verdicts, *notes_of(found)])


def _slices(by: str, found: Compared) -> Table:
    """Return the table of the slices by one column."""
    of_letters = found.slices[by]
    head = [by, "rows", "A"]
    for pair in found.pairs:
        head += [pair.letter, f"{pair.letter} - A"]
    rows = []
    for i, of in enumerate(of_letters["A"]):
        row = [f"{of.name} {mark(of)}".rstrip(), f"{of.rows:,}", f"{of.scores[found.metric]['value']:.4f}"]
        for pair in found.pairs:
            on = pair.slices[by][i].scores[found.metric]
            row += [f"{on.second:.4f}", _difference(on)]
        rows.append(row)
    caption = f"{title_of(found.metric)} by {by}, with 95 % intervals of the differences"
    return Table(caption=caption, head=head, rows=rows, notes=slice_notes(of_letters["A"]))


def _difference(of: Difference) -> str:
    return f"{of.difference:+.4f} ({of.low:+.4f} to {of.high:+.4f})"


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(lambda found: f"\\{found[0]}", escaped(text))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in escaped(text))


def _html(text: str) -> str:
    return html.escape(escaped(text))
