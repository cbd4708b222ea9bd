"""Bracketed sentiment trees, one per line, as in the Stanford Sentiment Treebank.

    (4 (2 a) (4 (4 great) (2 film)))

Each node has a label and either one word or child nodes. The root is a sentence; the spans of the other nodes
are its phrases, each with its own label (Socher et al. 2013).
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from lstm_sentiment.errors import DataError, shown

EXAMPLE = "a tree is written (4 (2 so) (4 good))"
# Only these separate: a word may contain other white space, such as the no-break space of "2 1/2".
_PIECE = re.compile(r"[()]|[^() \t\r\n]+")
MOST_NODES = 100_000
MOST_SPANNED = 1 << 22  # total characters of all spans, which are nested
_LABEL = re.compile(r"-?[0-9]+")
_ESCAPED = {
    "-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}", "``": '"', "''": '"',
}  # fmt: skip


class Span(NamedTuple):
    """Span of a node: its words joined by spaces, and its label as written."""

    text: str
    label: str


def read_tree(line: str) -> list[Span]:
    """Parse a tree to its spans: the sentence first, then its phrases.

    Args:
        line: one tree.

    Raises:
        DataError: it is not a tree; without file and line, which the caller adds.

    Source: escapes as in the Penn Treebank (Marcus et al. 1993).

    >>> read_tree("(3 (2 -LRB-) (4 (4 so) (3 good)))")  # doctest: +NORMALIZE_WHITESPACE
    [Span(text='( so good', label='3'), Span(text='so good', label='4'), Span(text='good', label='3'),
     Span(text='so', label='4'), Span(text='(', label='2')]
    >>> read_tree("(3 (2 so) (4 good)")
    Traceback (most recent call last):
        ...
    lstm_sentiment.errors.DataError: the bracket at character 1 is never closed; a tree is written ...
    """
    if line.count("(") > MOST_NODES:
        raise DataError(f"a tree of more than {MOST_NODES:,} nodes; write one sentence per line")
    words: list[str] = []
    opened: list[tuple[int, str, int]] = []  # position in the line, label, index of the first word
    closed: list[tuple[str, int, int]] = []  # label, range of words
    pieces = _PIECE.finditer(line)
    before = ""  # kind of the previous token: label, word, or end of a node
    for found in pieces:
        piece, place = found[0], found.start() + 1
        if not opened and (closed or piece != "("):
            text = shown(line[place - 1 :].strip(), 20)
            if closed:
                raise DataError(f"{text} follows the tree's last bracket; {EXAMPLE}")
            raise DataError(
                f"{text} found where a tree should begin; {EXAMPLE}, and rows of other kinds go into "
                "a .csv, .tsv, .jsonl or .parquet file"
            )
        if piece == "(" and before != "word":
            label = next(pieces, None)
            if label is None or not _LABEL.fullmatch(label[0]):
                what = (
                    f"has the label {shown(label[0])}, which is not an integer" if label else "has no label"
                )
                raise DataError(f"the node at character {place} {what}; {EXAMPLE}")
            opened.append((place, label[0], len(words)))
            before = "label"
        elif piece == ")":
            place, label_text, first = opened.pop()
            if before == "label":
                raise DataError(f"the node at character {place} has no word; {EXAMPLE}")
            closed.append((label_text, first, len(words)))
            before = "end"
        elif piece != "(" and before == "label":
            words.append(_ESCAPED.get(piece) or piece.replace("\\/", "/").replace("\\*", "*"))
            before = "word"
        else:
            problem = f"{shown(piece)} at character {place}: a node has one word or child nodes"
            raise DataError(f"{problem}; {EXAMPLE}")
    if opened:
        raise DataError(f"the bracket at character {opened[-1][0]} is never closed; {EXAMPLE}")
    return _spans(closed, words)


def _spans(nodes: list[tuple[str, int, int]], words: list[str]) -> list[Span]:
    """Return the spans of nodes, with a limit on their total size, since spans are nested."""
    ends = [0, *itertools.accumulate(len(word) + 1 for word in words)]
    if sum(ends[end] - ends[first] for _, first, end in nodes) > MOST_SPANNED:
        raise DataError(
            f"the nodes of the tree span more than {MOST_SPANNED:,} characters; write one sentence per line"
        )
    return [Span(" ".join(words[first:end]), label) for label, first, end in reversed(nodes)]
