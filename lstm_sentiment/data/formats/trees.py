"""Sentiment trees in brackets, one on a line, as the Stanford Sentiment Treebank has them.

    (4 (2 a) (4 (4 great) (2 film)))

Each node holds a label and either one word or further nodes. The whole is a sentence; what the nodes below
it span are its phrases, each with a label of its own (Socher et al. 2013).
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

from lstm_sentiment.errors import DataError, shown

EXAMPLE = "a tree is written (4 (2 so) (4 good))"
# Only these separate: a word may hold other white space, such as the no-break space of "2 1/2".
_PIECE = re.compile(r"[()]|[^() \t\r\n]+")
MOST_NODES = 100_000
MOST_SPANNED = 1 << 22  # characters of all nodes together: each holds the words of those below it
_LABEL = re.compile(r"-?[0-9]+")
_ESCAPED = {
    "-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}", "``": '"', "''": '"',
}  # fmt: skip


class Span(NamedTuple):
    """What a node spans: its words with spaces between, and its label as it is written."""

    text: str
    label: str


def read_tree(line: str) -> list[Span]:
    """Return a tree's spans: the sentence first, its phrases behind it.

    Args:
        line: one tree.

    Raises:
        DataError: it is none; without file and line, which the caller knows.

    Source: the escapes are those of the Penn Treebank (Marcus et al. 1993).

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
    opened: list[tuple[int, str, int]] = []  # where in the line, label, number of its first word
    closed: list[tuple[str, int, int]] = []  # label, its words
    pieces = _PIECE.finditer(line)
    before = ""  # kind of the piece before: label, word, or the end of a node
    for found in pieces:
        piece, place = found[0], found.start() + 1
        if not opened and (closed or piece != "("):
            text = shown(line[place - 1 :].strip(), 20)
            if closed:
                raise DataError(f"{text} follows the tree's last bracket; {EXAMPLE}")
            raise DataError(
                f"{text} stands where a tree should begin; {EXAMPLE}, and rows of other kinds go into "
                "a .csv, .tsv, .jsonl or .parquet file"
            )
        if piece == "(" and before != "word":
            label = next(pieces, None)
            if label is None or not _LABEL.fullmatch(label[0]):
                what = (
                    f"has the label {shown(label[0])}, which is no whole number" if label else "has no label"
                )
                raise DataError(f"the node at character {place} {what}; {EXAMPLE}")
            opened.append((place, label[0], len(words)))
            before = "label"
        elif piece == ")":
            place, label_text, first = opened.pop()
            if before == "label":
                raise DataError(f"the node at character {place} holds no word; {EXAMPLE}")
            closed.append((label_text, first, len(words)))
            before = "end"
        elif piece != "(" and before == "label":
            words.append(_ESCAPED.get(piece) or piece.replace("\\/", "/").replace("\\*", "*"))
            before = "word"
        else:
            raise DataError(f"{shown(piece)} at character {place}: a node holds one word or nodes; {EXAMPLE}")
    if opened:
        raise DataError(f"the bracket at character {opened[-1][0]} is never closed; {EXAMPLE}")
    return _spans(closed, words)


def _spans(nodes: list[tuple[str, int, int]], words: list[str]) -> list[Span]:
    """Return what nodes span, in bounds: a node holds the words of all those below it."""
    ends = [0, *itertools.accumulate(len(word) + 1 for word in words)]
    if sum(ends[end] - ends[first] for _, first, end in nodes) > MOST_SPANNED:
        raise DataError(
            f"the nodes of the tree span more than {MOST_SPANNED:,} characters; write one sentence per line"
        )
    return [Span(" ".join(words[first:end]), label) for label, first, end in reversed(nodes)]
