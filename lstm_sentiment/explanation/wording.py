"""An explanation in words and tables, for the terminal and the page."""

from __future__ import annotations

from textwrap import wrap

from lstm_sentiment.cli.characters import cells_of, visible
from lstm_sentiment.explanation.attribution import Explanation

HALF_BAR = 10  # characters
LONGEST_TOKEN = 20
Line = list[tuple[str, float]]  # parts of a line, see `explanation_lines`
WIDE = 100  # columns of wrapped text
ATTRIBUTIONS = (
    "Attributions are in nats: a token whose attribution to one class is 0.69 higher than to another "
    "doubles the odds of the first against the second."
)
READING = (
    "Probabilities of the text up to each token, and gate activity. Let in: how much the token wrote into "
    "memory, 0 to 1. Forgot: the share of the previous memory that was lost. Pooled: the token's share in "
    "pooling."
)


def explanation_lines(explanation: Explanation, label: str) -> list[Line]:
    """Return an explanation as lines of text.

    Args:
        explanation: of `explain`.
        label: the class whose attributions are coloured.

    Returns:
        lines, each of parts: a text, and its colour as the attribution relative to the strongest one, from -1
        (against the class) to 1 (for it); 0 for none.

    Example::

        for line in explanation_lines(classifier.explain("so-so"), "positive"):
            print("".join(text for text, share in line))
    """
    shown = explanation.shown_classes(label)
    names = [visible(explanation.labels[c], 12) for c in shown]
    probabilities = "  ".join(
        f"{name} {explanation.probabilities[c]:.3f}" for name, c in zip(names, shown, strict=True)
    )
    predicted = f"{visible(explanation.label)}  ({probabilities})"
    if not explanation.tokens:
        nothing = "no tokens: the model reads one unknown token instead, and there are no attributions"
        return _uncoloured([visible(explanation.text), predicted, nothing])
    attributions_N = explanation.attributions[:, explanation.labels.index(label)]
    shares = (attributions_N / max(float(abs(attributions_N).max()), 1e-9)).tolist()
    text = [(visible(token), share) for token, share in zip(explanation.tokens, shares, strict=True)]
    if explanation.cut_at is not None:
        text.insert(explanation.cut_at, (cut_mark(explanation), 0.0))
    tokens, width = _padded(explanation)
    head = "".join(f"  {name:>12}" for name in names)
    lines = [
        [part for token in text for part in (token, (" ", 0.0))],
        *_uncoloured(
            [
                predicted,
                "",
                f"Attributions by {explanation.method.replace('_', ' ')}",
                *wrap(ATTRIBUTIONS, WIDE),
            ]
        ),
        *_uncoloured([f"  {'':<{width}}{head}  away from | towards {visible(label)}"]),
    ]
    table = list[Line]()
    for n, token in enumerate(tokens):
        row = "".join(f"  {explanation.attributions[n, c]:>+12.2f}" for c in shown)
        table.append([("  ", 0.0), (token, shares[n]), (f"{row}  {_bar(shares[n])}", 0.0)])
    if explanation.cut_at is not None:
        table.insert(explanation.cut_at, [(f"  {cut_mark(explanation)}", 0.0)])
    lines += table
    read = _reading_lines(explanation, tokens, head, shown)
    trust = [line for sentence in trust_in(explanation) for line in wrap(sentence, WIDE)]
    if not all(explanation.known):
        trust.append("? marks tokens that are not in the vocabulary")
    return lines + _uncoloured(["", *read, "", *trust])


def cut_mark(explanation: Explanation) -> str:
    """Return the mark of the truncated tokens, to be shown before the token `cut_at`; empty without any.

    Example::

        cut_mark(classifier.explain("so-so " * 1000))  # '[600 tokens not read]'
    """
    return f"[{explanation.cut_tokens:,} tokens not read]" if explanation.cut_tokens else ""


def _padded(explanation: Explanation) -> tuple[list[str], int]:
    """Return the tokens as the first column of a table, marked if unknown, and its width."""
    tokens = [
        visible(token, LONGEST_TOKEN) + ("" if known else " ?")
        for token, known in zip(explanation.tokens, explanation.known, strict=True)
    ]
    width = max(map(cells_of, tokens))
    return [token + " " * (width - cells_of(token)) for token in tokens], width


def _uncoloured(lines: list[str]) -> list[Line]:
    return [[(line, 0.0)] for line in lines]


def _reading_lines(explanation: Explanation, tokens: list[str], head: str, shown: list[int]) -> list[str]:
    """Return a table of the probabilities after each token, the last layer's gates and pooling."""
    last = [trace for trace in explanation.gates if trace.layer == explanation.gates[-1].layer]
    indent = " " * (2 + cells_of(tokens[0]))
    over = "".join(f"  {trace.direction:>14}" for trace in last) + f"  {'pooled':>9}"
    kinds = "".join(f"  {kind:>9}" for kind in explanation.pooled)
    lines = [
        "How it was read",
        *wrap(READING, WIDE),
        f"{indent}{'':<{len(head)}}{over}",
        f"{indent}{head}{'  let in  forgot' * len(last)}{kinds}",
    ]
    rows = []
    for n, token in enumerate(tokens):
        row = "".join(f"  {explanation.prefixes[n, c]:>12.3f}" for c in shown)
        row += "".join(f"  {trace.let_in[n]:>6.2f}  {1 - trace.kept[n]:>6.2f}" for trace in last)
        row += "".join(f"  {share_N[n]:>9.2f}" for share_N in explanation.pooled.values())
        rows.append(f"  {token}{row}")
    if explanation.cut_at is not None:
        rows.insert(explanation.cut_at, f"  {cut_mark(explanation)}")
    return lines + rows


def trust_in(explanation: Explanation) -> list[str]:
    """Describe the faithfulness and completeness of an explanation, in sentences.

    Example::

        trust_in(classifier.explain("the seats were great but the crew was rude"))
    """
    removal, explained_C = explanation.removal, explanation.scores - explanation.baseline
    if removal.faithfulness is None:
        sentences = ["Faithfulness cannot be measured with fewer than two tokens."]
    else:
        sentences = [
            f"Faithfulness {removal.faithfulness:+.3f}: deleting tokens by attribution lowers "
            f"p({visible(explanation.label)}) by this much more on average than deleting them at random. 0 "
            f"is chance level; of {len(removal.random)} random orders {removal.worse} were worse, "
            f"{removal.better} better."
        ]
    gap, most = float(abs(explanation.gap).max()), float(abs(explained_C).max())
    of = f" ({100 * gap / most:.1f} %)" if most > 0 else ""
    numeric = explanation.method == "integrated_gradients"
    why = f"the error of {explanation.steps} steps" if numeric else "interactions between tokens"
    sentences.append(
        f"Completeness gap {gap:.3f} of {most:.3f} nats{of}: the sum of the attributions minus the score "
        f"difference to as many unknown tokens; {why}."
    )
    if explanation.cut_tokens:
        sentences.append(f"The text was truncated: {explanation.cut_tokens:,} tokens were not read.")
    return sentences


def _bar(share: float) -> str:
    """Return a bar: to the right for the class, to the left against it.

    >>> _bar(0.5), _bar(-1.0)
    ('          |+++++     ', '----------|          ')
    """
    length = round(abs(share) * HALF_BAR)
    left, right = ("", "+" * length) if share > 0 else ("-" * length, "")
    return f"{left:>{HALF_BAR}}|{right:<{HALF_BAR}}"
