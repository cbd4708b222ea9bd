"""Charts as inline SVG with the colours and fonts of the page, light or dark.

Drawn by Matplotlib; its colours are replaced by the page's CSS variables.
"""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Iterator
from typing import Any

from lstm_sentiment.system.extras import need

# Placeholder colours, replaced by those of the page.
INK, SOFT, LINE, ACCENT, WARM = "#010101", "#020202", "#030303", "#040404", "#050505"
_OF_PAGE = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    WARM: "var(--warm)",
}
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "lstm_sentiment",  # deterministic ids
    "svg.fonttype": "none",  # accessible and searchable text
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "font.size": 9,
    "legend.frameon": False,
}
WIDTH, HEIGHT = 5.2, 3.2  # inches of 72 points; narrow pages scale it down


def learning_curves(log: list[dict[str, float]], metric: str, best_epoch: int) -> str:
    """Return a chart of the losses and of the selection metric, as SVG.

    Args:
        log: one entry per epoch, as in ``log.jsonl``.
        metric: of the validation score.
        best_epoch: 1-based.

    >>> log = [{"epoch": 1, "train_loss": 1.0, "validation_loss": 0.9, "validation_macro_f1": 0.7}]
    >>> learning_curves(log, "macro_f1", 1).startswith('<svg role="img" aria-label="Learning curves over 1')
    True
    """
    epochs = [entry["epoch"] for entry in log]
    scores = [entry[f"validation_{metric}"] for entry in log]
    with drawing(2 * WIDTH) as figure:
        losses, score = figure.subplots(1, 2)
        for name, colour in (("train", SOFT), ("validation", ACCENT)):
            losses.plot(
                epochs, [entry[f"{name}_loss"] for entry in log], color=colour, marker="o", label=name
            )
        score.plot(epochs, scores, color=ACCENT, marker="o")
        score.axvline(best_epoch, color=WARM, linestyle=":", label="best")
        for axes, title in ((losses, "loss, nats"), (score, f"validation {metric}")):
            axes.set(title=title, xlabel="epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend()
        description = (
            f"Learning curves over {len(log)} epochs: validation {metric} from {scores[0]:.3f} to "
            f"{scores[-1]:.3f}, best in epoch {best_epoch}"
        )
        return to_svg(figure, "learning", description)


def reliability(before: list[dict[str, float]], after: list[dict[str, float]]) -> str:
    """Return a reliability diagram as SVG: accuracy by confidence, before and after calibration.

    Args:
        before: see `metrics.reliability_bins`.
        after: likewise.

    >>> bins = [{"rows": 9, "accuracy": 0.7, "confidence": 0.8}]
    >>> "confidence 0.80, accuracy 0.70" in reliability(bins, bins)
    True
    """
    with drawing() as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle="--", label="calibrated")
        for bins, colour, name in ((before, WARM, "before"), (after, ACCENT, "after")):
            axes.plot(
                [of["confidence"] for of in bins],
                [of["accuracy"] for of in bins],
                color=colour, marker="o", label=f"{name} calibration",
            )  # fmt: skip
        lowest = min(min(of["confidence"], of["accuracy"]) for of in (*before, *after))
        axes.set(
            xlabel="predicted probability", ylabel="accuracy",
            xlim=(max(0, lowest - 0.05), 1.01), ylim=(max(0, lowest - 0.05), 1.01),
        )  # fmt: skip
        axes.legend()
        description = "Reliability diagram: " + "; ".join(
            f"confidence {of['confidence']:.2f}, accuracy {of['accuracy']:.2f}" for of in after
        )
        return to_svg(figure, "reliability", description)


def by_length(bins: list[dict[str, float]]) -> str:
    """Return a chart of accuracy by text length, as SVG.

    Args:
        bins: see `error_analysis.accuracy_by_length`.

    >>> bins = [{"shortest": 1, "longest": 9, "rows": 4, "accuracy": 0.5, "low": 0.2, "high": 0.8}]
    >>> "1–9 tokens 0.50" in by_length(bins)
    True
    """
    names = [_span(of["shortest"], of["longest"]) for of in bins]
    accuracies = [of["accuracy"] for of in bins]
    with drawing() as figure:
        axes = figure.subplots()
        errors = [
            [of["accuracy"] - of["low"] for of in bins],
            [of["high"] - of["accuracy"] for of in bins],
        ]
        places = range(len(bins))
        axes.errorbar(places, accuracies, yerr=errors, color=ACCENT, marker="o", linestyle="none", capsize=3)
        axes.set_xticks(places, names)
        axes.set(xlabel="tokens of the text", ylabel="accuracy")
        description = "Accuracy by length: " + "; ".join(
            f"{name} tokens {value:.2f}" for name, value in zip(names, accuracies, strict=True)
        )
        return to_svg(figure, "length", description)


def to_svg(figure: Any, name: str, alternative: str) -> str:
    """Return a matplotlib figure as an ``<svg>`` element for a page.

    Args:
        figure: drawn in the colours of this module.
        name: unique prefix of the ids in the page.
        alternative: alternative text for screen readers.

    >>> with drawing() as figure:
    ...     _ = figure.subplots().plot([1, 2], color=INK)
    ...     svg = to_svg(figure, "rise", "It rises <fast>")
    >>> 'aria-label="It rises &lt;fast&gt;"' in svg, "stroke: currentColor" in svg
    (True, True)
    """
    out = io.StringIO()
    figure.savefig(
        out, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    for drawn, of_page in _OF_PAGE.items():
        svg = svg.replace(drawn, of_page)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)  # unique ids in the page
    svg = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", svg)
    description = html.escape(alternative)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1)


@contextlib.contextmanager
def drawing(width: float = WIDTH) -> Iterator[Any]:
    """Context with an empty figure in this module's style; draw and save it inside.

    Args:
        width: inches.

    Raises:
        MissingExtraError: Matplotlib is not installed.

    >>> with drawing(7) as figure:
    ...     float(figure.get_figwidth())
    7.0
    """
    matplotlib = need("matplotlib", extra="report")
    figures = need("matplotlib.figure", extra="report")
    with matplotlib.rc_context(_STYLE):
        yield figures.Figure(figsize=(width, HEIGHT), layout="constrained")


def _span(first: float, last: float) -> str:
    return f"{first:.0f}" if first == last else f"{first:.0f}–{last:.0f}"
