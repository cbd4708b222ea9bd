"""Pictures of an explanation, as SVG: attributions, reading trace and gates of each token, and removal.

A picture is a list of boxes, lines and words with coordinates; `templates/picture.html` writes them
down. Colours are the variables of `templates/base.html`, so that a picture follows light and dark.

Legend: N tokens, C classes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_sentiment.cli.characters import cells_of, visible
from lstm_sentiment.evaluation.metrics import sides
from lstm_sentiment.explanation.attribution import Explanation
from lstm_sentiment.reporting.page import filled
from lstm_sentiment.system.files import write_atomically

PAGE = 900  # pixels of a row of tokens; on a printed page its letters are four fifths of their size
LEFT, RIGHT, GAP = 96, 92, 34  # pixels: beside the tokens' columns, and between panels
TITLE = 330  # pixels that the title of a panel needs
NARROW, WIDE, LETTER = 40, 86, 7.5  # of a column, and of a letter
FEW, LONGEST = 24, 16  # tokens that get wide columns, characters of a token that are drawn
WIDE_LETTERS = frozenset("mwMWQO@%&—")
BARS, CURVES, ROW = 96, 120, 24  # heights
LOW_BARS, LOW_CURVES = 60, 72  # of texts of more than `FEW` tokens: two rows of them on a printed page
PANELS = ("attributions", "trace", "gates")
INK, SOFT = "var(--ink)", "var(--soft)"
_SVG = "http://www.w3.org/2000/svg"
_MORE_COLOURS = ("150, 110, 200", "190, 130, 40", "60, 150, 95", "200, 90, 150", "90, 140, 200")
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Box:
    """A filled rectangle; `tip` is shown where the pointer rests on it."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    opacity: float = 1.0
    tip: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through points (x, y)."""

    points: list[tuple[float, float]]
    colour: str
    opacity: float = 1.0
    width: float = 2.0
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Words:
    """A line of text; `anchor` is start, middle or end, `turn` in degrees."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    colour: str = SOFT
    turn: int = 0


@dataclass(kw_only=True)
class Picture:
    """What is drawn, in pixels; `title` says it in words to those who cannot see it."""

    width: float
    height: float = 0.0
    title: str = ""
    boxes: list[Box] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write a file of its own, readable on light and dark pages.

        Raises:
            MissingExtraError: Jinja2 is not installed.
        """
        write_atomically(path, filled("picture_file.html", picture=self, namespace=_SVG).encode())


def colours(labels: list[str]) -> list[str]:
    """Return a colour per class, as ``r, g, b`` or a variable of that: by the side that its name takes.

    >>> colours(["negative", "neutral", "positive"])
    ['var(--negative)', 'var(--neutral)', 'var(--positive)']
    >>> colours(["sport", "politics"])
    ['150, 110, 200', '190, 130, 40']
    """
    of_side = {-1: "var(--negative)", 1: "var(--positive)"}
    polar = {-1, 1} <= set(sides(labels))
    found: list[str] = []
    for side in sides(labels):
        colour = of_side.get(side, "var(--neutral)") if polar else ""
        if not colour or colour in found:
            colour = _MORE_COLOURS[len(found) % len(_MORE_COLOURS)]
        found.append(colour)
    return found


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """The tokens of a picture, a column each.

    Args:
        places: of the tokens in the text.
        width: of a column.
        bars: height of all bars.
        curves: height of a probability of 1.
    """

    places: range
    width: float
    bars: int
    curves: int

    @property
    def centres(self) -> list[float]:
        """The middle of each column."""
        return [LEFT + self.width * (n + 0.5) for n in range(len(self.places))]

    @property
    def edge(self) -> float:
        """The end of the last column."""
        return LEFT + self.width * len(self.places)

    def of(self, values_N: Array) -> Array:
        """Return the values of these tokens."""
        return values_N[self.places.start : self.places.stop]


def readings(explanation: Explanation, label: str) -> list[Picture]:
    """Draw what happened at each token, in as many pictures as it takes for a page's width; of equal length.

    Args:
        explanation: of a text with at least one token.
        label: the class whose attributions are drawn.

    Example::

        readings(classifier.explain("so-so " * 100), "positive")
    """
    tokens = len(explanation.tokens)
    pictures = math.ceil(tokens * _width(explanation) / (PAGE - LEFT - RIGHT))
    ends = [tokens * n // pictures for n in range(pictures + 1)]
    return [reading(explanation, label, places=range(*ends_2)) for ends_2 in itertools.pairwise(ends)]


def reading(
    explanation: Explanation, label: str, *, panels: tuple[str, ...] = PANELS, places: range | None = None
) -> Picture:
    """Draw what happened at each token, one column a token.

    Args:
        explanation: of a text with at least one token.
        label: the class whose attributions are drawn.
        panels: of `PANELS`: attributions to the class; probabilities of the text up to each token; gates.
        places: of the tokens that are drawn, next to each other; None for all. The scales are those of all.

    Example::

        reading(classifier.explain("so-so"), "positive").write(Path("so-so.svg"))
    """
    places = range(len(explanation.tokens)) if places is None else places
    bars, curves = (BARS, CURVES) if len(explanation.tokens) <= FEW else (LOW_BARS, LOW_CURVES)
    columns = _Columns(places=places, width=_width(explanation), bars=bars, curves=curves)
    picture = Picture(width=max(columns.edge + RIGHT, LEFT + TITLE))
    described = []
    for panel, draw in (("attributions", _attributions), ("trace", _trace), ("gates", _gates)):
        if panel in panels:
            described.append(draw(picture, explanation, label, columns))
            if panel in ("attributions", panels[-1]):
                _tokens(picture, explanation, columns)
    part = ""
    if len(places) < len(explanation.tokens):
        part = f", tokens {places.start + 1} to {places.stop} of {len(explanation.tokens)}"
    picture.title = f"{visible(explanation.text, 200)}{part}: " + "; ".join(described)
    return picture


def removal(explanation: Explanation) -> Picture:
    """Draw how the predicted class's probability falls as tokens are deleted.

    Example::

        removal(classifier.explain("so-so good")).write(Path("removal.svg"))
    """
    found = explanation.removal
    picture = Picture(width=LEFT + 360 + RIGHT + 60)
    bottom = _frame(picture, f"p({visible(explanation.label, 24)}) without the tokens", 360)
    x_K = LEFT + 360 * found.removed / max(1, found.removed[-1])

    def line(chances_K: Array, **look: Any) -> None:
        heights = bottom - CURVES * chances_K
        picture.lines.append(Line(points=list(zip(x_K.tolist(), heights.tolist(), strict=True)), **look))

    for chances_K in found.random:
        line(chances_K, colour=SOFT, opacity=0.25, width=1)
    mean_K = found.random.mean(axis=0)
    line(mean_K, colour=SOFT, dashed=True)
    line(found.guided, colour=f"rgb({_colour(explanation, explanation.label)})")
    middle = len(found.removed) // 2
    ends = [float(bottom - CURVES * chances_K[middle]) for chances_K in (found.guided, mean_K)]
    names = ["highest attribution first", "in random orders (mean)"]
    for name, y, dashed in zip(names, (picture.height + 42, picture.height + 60), (False, True), strict=True):
        colour = SOFT if dashed else f"rgb({_colour(explanation, explanation.label)})"
        picture.lines.append(Line(points=[(LEFT, y - 4), (LEFT + 28, y - 4)], colour=colour, dashed=dashed))
        picture.words.append(Words(x=LEFT + 36, y=y, text=name))
    for k, x in zip(found.removed.tolist(), x_K.tolist(), strict=True):
        if len(found.removed) <= 12 or k in (0, found.removed[-1]):
            picture.words.append(Words(x=x, y=bottom + 16, text=str(k), anchor="middle"))
    picture.words.append(Words(x=LEFT + 372, y=bottom + 16, text="tokens deleted"))
    picture.height += 72
    at = f"without {found.removed[middle]} of {found.removed[-1]} tokens"
    levels = [1 - (y - bottom + CURVES) / CURVES for y in ends]
    picture.title = (
        f"Probability of {explanation.label} as tokens are deleted; {at}: {levels[0]:.2f} if those of the "
        f"highest attribution are deleted, {levels[1]:.2f} on average if random ones are"
    )
    return picture


def _colour(explanation: Explanation, label: str) -> str:
    return colours(explanation.labels)[explanation.labels.index(label)]


def _space(explanation: Explanation) -> float:
    """Return the pixels that the longest token takes."""
    return max(_pixels(_drawn(token)) for token in explanation.tokens) + 8


def _drawn(token: str) -> str:
    """Return a token, truncated to the width of 16 usual letters.

    >>> _drawn("so"), _drawn("incomprehensible"), _drawn("w" * 99)
    ('so', 'incomprehensible', 'wwwwwwwwww…')
    """
    longest = LONGEST
    while longest > 1 and _pixels(visible(token, longest)) > LONGEST * LETTER + 4:
        longest -= 1
    return visible(token, longest)


def _pixels(text: str) -> float:
    return LETTER * (cells_of(text) + 0.45 * sum(c in WIDE_LETTERS for c in text))


def _width(explanation: Explanation) -> float:
    """Return the width of a column."""
    return min(max(_space(explanation), NARROW), WIDE) if len(explanation.tokens) <= FEW else NARROW


def _tokens(picture: Picture, explanation: Explanation, columns: _Columns) -> None:
    """Write the tokens below what is drawn, aslant where they have no space."""
    space = _space(explanation)
    anchor, turn, height = ("middle", 0, 20.0) if space <= columns.width else ("end", -40, 20 + 0.65 * space)
    for x, n in zip(columns.centres, columns.places, strict=True):
        text = _drawn(explanation.tokens[n])
        picture.words.append(
            Words(x=x, y=picture.height + 8, text=text, anchor=anchor, colour=INK, turn=turn)
        )
    picture.height += height


def _frame(picture: Picture, title: str, width: float, height: int = CURVES) -> float:
    """Draw a panel for probabilities from 0 to 1 below what is drawn; return the place of its 0."""
    top = picture.height + GAP
    picture.words.append(Words(x=LEFT, y=top - 14, text=title, colour=INK))
    for share in (0.0, 0.5, 1.0):
        y = top + height * (1 - share)
        picture.lines.append(Line(points=[(LEFT, y), (LEFT + width, y)], colour=SOFT, opacity=0.35, width=1))
        picture.words.append(Words(x=LEFT - 8, y=y + 4, text=f"{share:g}", anchor="end"))
    picture.height = top + height
    return picture.height


def _attributions(picture: Picture, explanation: Explanation, label: str, columns: _Columns) -> str:
    """Draw bars: upwards for the class, downwards against it."""
    attributions_N = explanation.attributions[:, explanation.labels.index(label)]
    up, down = max(float(attributions_N.max()), 0.0), max(float(-attributions_N.min()), 0.0)
    scale = columns.bars / max(up + down, 1e-9)
    top = picture.height + GAP + 14
    zero = top + up * scale
    name = visible(label, 24)
    picture.words.append(Words(x=LEFT, y=top - 30, text=f"attribution to {name}, nats", colour=INK))
    picture.words.append(Words(x=LEFT - 8, y=zero - 6, text="for", anchor="end"))
    picture.words.append(Words(x=LEFT - 8, y=zero + 14, text="against", anchor="end"))
    picture.lines.append(Line(points=[(LEFT, zero), (columns.edge, zero)], colour=SOFT, width=1))
    for x, n in zip(columns.centres, columns.places, strict=True):
        value = float(attributions_N[n])
        size = abs(value) * scale
        picture.boxes.append(
            Box(
                x=x - columns.width * 0.3,
                y=zero - size if value > 0 else zero,
                width=columns.width * 0.6,
                height=size,
                colour=f"rgb({_colour(explanation, label)})",
                opacity=0.9 if value > 0 else 0.4,
                tip=f"{visible(explanation.tokens[n])}: {value:+.3f}",
            )
        )
        y = zero - size - 4 if value > 0 else zero + size + 13
        picture.words.append(Words(x=x, y=y, text=f"{value:+.2f}", anchor="middle"))
    picture.height = top + columns.bars + 24
    most = columns.places[int(np.abs(columns.of(attributions_N)).argmax())]
    token = visible(explanation.tokens[most])
    return f"strongest attribution to {name}: {token} {attributions_N[most]:+.2f} nats"


def _trace(picture: Picture, explanation: Explanation, label: str, columns: _Columns) -> str:
    """Draw the probability of each class after each token."""
    bottom = _frame(picture, "probability of the text up to each token", columns.edge - LEFT, columns.curves)
    of_classes = colours(explanation.labels)
    ends = []
    for c in explanation.shown_classes(label):
        chances = columns.of(explanation.prefixes[:, c]).tolist()
        points = [(x, bottom - columns.curves * p) for x, p in zip(columns.centres, chances, strict=True)]
        picture.lines.append(Line(points=points, colour=f"rgb({of_classes[c]})"))
        picture.boxes += [
            Box(x=x - 3, y=y - 3, width=6, height=6, colour=f"rgb({of_classes[c]})") for x, y in points
        ]
        ends.append((points[-1][1], c))
    y = -np.inf
    for end, c in sorted(ends):  # names next to the lines' ends, none over another
        y = max(end + 4, y + 14)
        name = visible(explanation.labels[c], 12)
        colour = f"rgb({of_classes[c]})"
        x = columns.edge + 4 - columns.width * 0.3
        picture.words.append(Words(x=x, y=float(y), text=name, colour=colour))
    picture.height += 8
    of_label = columns.of(explanation.prefixes[:, explanation.labels.index(label)])
    return f"probability of {visible(label, 24)} after each token: " + ", ".join(f"{p:.2f}" for p in of_label)


def _gates(
    picture: Picture,
    explanation: Explanation,
    label: str,  # noqa: ARG001 - the same for every class
    columns: _Columns,
) -> str:
    """Draw a strip of cells for what each direction let in and forgot, and for what pooling took."""
    layers = len({trace.layer for trace in explanation.gates})
    strips: list[tuple[str, list[tuple[str, Array]]]] = []
    for trace in explanation.gates:
        of_layer = f", layer {trace.layer}" if layers > 1 else ""
        rows = [("let in", trace.let_in), ("forgot", 1 - trace.kept)]
        strips.append((f"the LSTM that reads {trace.direction}s{of_layer}", rows))
    strips.append(("share in pooling", list(explanation.pooled.items())))
    for title, rows in strips:
        picture.words.append(Words(x=LEFT, y=picture.height + GAP - 10, text=title, colour=INK))
        picture.height += GAP - 4
        for name, values_N in rows:
            _strip(picture, explanation, name, values_N, columns)
    picture.height += 12
    first = explanation.gates[0]
    most = columns.places[int(columns.of(first.let_in).argmax())]
    return f"read {first.direction}s, most was let in at {visible(explanation.tokens[most])}"


def _strip(picture: Picture, explanation: Explanation, name: str, values_N: Array, columns: _Columns) -> None:
    """Draw a cell per token, darker for larger values."""
    picture.words.append(Words(x=LEFT - 8, y=picture.height + 16, text=name, anchor="end"))
    most = max(float(values_N.max()), 1e-9)
    for x, n in zip(columns.centres, columns.places, strict=True):
        value = float(values_N[n])
        picture.boxes.append(
            Box(
                x=x - columns.width / 2 + 1,
                y=picture.height + 1,
                width=columns.width - 2,
                height=ROW - 2,
                colour="var(--accent)",
                opacity=round(0.06 + 0.5 * value / most, 3),
                tip=f"{visible(explanation.tokens[n])}: {name} {value:.3f}",
            )
        )
        y = picture.height + 16
        picture.words.append(Words(x=x, y=y, text=f"{value:.2f}", anchor="middle", colour=INK))
    picture.height += ROW
