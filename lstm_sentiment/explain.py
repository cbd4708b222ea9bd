"""Show which tokens a prediction comes from, and what the LSTM did with each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from lstm_sentiment.cli.characters import cells_of, visible
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import RUN, CommandParser, check_out
from lstm_sentiment.errors import ConfigError, MissingExtraError, did_you_mean
from lstm_sentiment.system.extras import need

if TYPE_CHECKING:
    from lstm_sentiment.explanation.attribution import Explanation
    from lstm_sentiment.explanation.gates import GateTrace

HALF_BAR = 10  # characters
LONGEST_TOKEN = 20
FAINT, STRONG = 0.1, 0.5  # relative to the strongest attribution: minimum for a colour, for a filled one
Line = list[tuple[str, float]]  # parts of a line, see `explanation_lines`
WIDE = 100  # columns of wrapped text
PUSH = (
    "Attributions are in nats: a token whose attribution to one class is 0.69 higher than to another "
    "doubles the odds of the first against the second."
)
READING = (
    "Probabilities of the text up to each token, and gate activity. Let in: how much the token wrote into "
    "memory, 0 to 1. Forgot: the share of the previous memory that was lost. Pooled: the token's share in "
    "pooling."
)


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    check_out(options.html, options.json)
    if options.html:
        need("jinja2", extra="report")  # fail before the work
    from lstm_sentiment.explanation.attribution import explain
    from lstm_sentiment.prediction.classifier import load  # imports torch: not for --help, not for a typo
    from lstm_sentiment.system.files import write_json

    classifier = load(options.run, device=options.device)
    if options.class_ is not None and options.class_ not in classifier.labels:
        hint = did_you_mean(options.class_, classifier.labels)
        raise ConfigError(
            f"'{options.class_}' is not one of {', '.join(classifier.labels)}.{hint}", key="--class"
        )
    # Bytes that are invalid in the terminal's encoding arrive as unpaired surrogates.
    texts = [text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in options.text]
    found = [explain(classifier, text, method=options.method) for text in texts]
    if options.json:
        write_json(Path(options.json), [as_json(explanation) for explanation in found])
    if options.html:
        _write_html(Path(options.html), found, options.class_)
    for i, explanation in enumerate(found):
        if i:
            print()
        label = options.class_ or explanation.label
        show = _printer(label)
        for line in explanation_lines(explanation, label):
            show(line)
    for file in filter(None, (options.html, options.json)):
        print(f"written to {file}")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog=program("explain"), description=__doc__)
    parser.add_argument("run", help=RUN)
    parser.add_argument("text", nargs="+", help="texts to explain")
    parser.add_argument(
        "--method",
        default="auto",
        help="integrated_gradients (needs the extra 'explain'), occlusion, or auto: the first if installed",
    )
    parser.add_argument(
        "--class", dest="class_", metavar="LABEL", help="colour for this class; default: the predicted one"
    )
    parser.add_argument(
        "--html", metavar="FILE", help="also write an HTML page with charts (needs the extra 'report')"
    )
    parser.add_argument("--json", metavar="FILE", help="also write all numbers as JSON")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    return parser.parse_intermixed_args(argv)


def explanation_lines(explanation: Explanation, label: str) -> list[Line]:
    """Return an explanation as lines of text.

    Args:
        explanation: of `explain`.
        label: the class whose attributions are coloured.

    Returns:
        lines, each of parts: a text, and its colour as the attribution relative to the strongest one, from -1
        (against the class) to 1 (for it); 0 for none.

    Example::

        for line in explanation_lines(explain(classifier, "so-so"), "positive"):
            print("".join(text for text, share in line))
    """
    from lstm_sentiment.explanation.drawing import shown_classes

    shown = shown_classes(explanation, label)
    names = [visible(explanation.labels[c], 12) for c in shown]
    probabilities = "  ".join(
        f"{name} {explanation.probabilities[c]:.3f}" for name, c in zip(names, shown, strict=True)
    )
    predicted = f"{visible(explanation.label)}  ({probabilities})"
    if not explanation.tokens:
        nothing = "no tokens: the model reads one unknown token instead, and there are no attributions"
        return _uncoloured([visible(explanation.text), predicted, nothing])
    attributions_N = explanation.pushes[:, explanation.labels.index(label)]
    shares = (attributions_N / max(float(abs(attributions_N).max()), 1e-9)).tolist()
    text = [(visible(token), share) for token, share in zip(explanation.tokens, shares, strict=True)]
    tokens = [
        visible(token, LONGEST_TOKEN) + ("" if known else " ?")
        for token, known in zip(explanation.tokens, explanation.known, strict=True)
    ]
    width = max(map(cells_of, tokens))
    tokens = [token + " " * (width - cells_of(token)) for token in tokens]
    head = "".join(f"  {name:>12}" for name in names)
    lines = [
        [part for token in text for part in (token, (" ", 0.0))],
        *_uncoloured(
            [predicted, "", f"Attributions by {explanation.method.replace('_', ' ')}", *wrap(PUSH, WIDE)]
        ),
        *_uncoloured([f"  {'':<{width}}{head}  away from | towards {visible(label)}"]),
    ]
    for n, token in enumerate(tokens):
        row = "".join(f"  {explanation.pushes[n, c]:>+12.2f}" for c in shown)
        lines.append([("  ", 0.0), (token, shares[n]), (f"{row}  {_bar(shares[n])}", 0.0)])
    read = _reading_lines(explanation, tokens, head, shown)
    trust = [line for sentence in trust_in(explanation) for line in wrap(sentence, WIDE)]
    if not all(explanation.known):
        trust.append("? marks tokens that are not in the vocabulary")
    return lines + _uncoloured(["", *read, "", *trust])


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
    for n, token in enumerate(tokens):
        row = "".join(f"  {explanation.prefixes[n, c]:>12.3f}" for c in shown)
        row += "".join(f"  {trace.let_in[n]:>6.2f}  {1 - trace.kept[n]:>6.2f}" for trace in last)
        row += "".join(f"  {share_N[n]:>9.2f}" for share_N in explanation.pooled.values())
        lines.append(f"  {token}{row}")
    return lines


def trust_in(explanation: Explanation) -> list[str]:
    """Describe the faithfulness and completeness of an explanation, in sentences.

    Example::

        trust_in(explain(classifier, "the seats were great but the crew was rude"))
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


def as_json(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON values, with all classes and gates.

    Example::

        json.dumps(as_json(explain(classifier, "so-so")), allow_nan=False)
    """
    removal = explanation.removal
    plain = {name: _plain(value) for name, value in vars(explanation).items()}
    curves = {name: _plain(value) for name, value in vars(removal).items()}
    return plain | {
        "label": explanation.label,
        "gap": _plain(explanation.gap),
        "gates": [_trace_as_json(trace) for trace in explanation.gates],
        "pooled": {kind: _plain(share_N) for kind, share_N in explanation.pooled.items()},
        "removal": {
            "faithfulness": removal.faithfulness,
            "worse": removal.worse,
            "better": removal.better,
            **curves,
        },
    }


def _write_html(path: Path, found: list[Explanation], label: str | None) -> None:
    """Write a page with a section per text."""
    from lstm_sentiment.explanation.drawing import colours, reading, removal, shown_classes
    from lstm_sentiment.reporting.page import write_page

    parts = []
    for explanation in found:
        of_class = label or explanation.label
        shown = shown_classes(explanation, of_class)
        most = max(float(abs(explanation.pushes).max(initial=0)), 1e-9)
        parts.append({
            "found": explanation,
            "text": visible(explanation.text),
            "tokens": [visible(token) for token in explanation.tokens],
            "class": of_class,
            "shown": sorted(shown, key=lambda c: explanation.labels[c] != of_class),
            "colours": colours(explanation.labels),
            "shares": explanation.pushes / most,
            "reading": reading(explanation, of_class) if explanation.tokens else None,
            "removal": removal(explanation) if explanation.removal.faithfulness is not None else None,
            "trust": trust_in(explanation),
        })  # fmt: skip
    write_page(
        path,
        "explain.html",
        title="How it was read",
        parts=parts,
        push=PUSH,
        read=READING,
    )


def _trace_as_json(trace: GateTrace) -> dict[str, Any]:
    values = {"layer": trace.layer, "direction": trace.direction} | trace.gates
    values |= {"let_in": trace.let_in, "kept": trace.kept, "shown": trace.shown}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _bar(share: float) -> str:
    """Return a bar: to the right for the class, to the left against it.

    >>> _bar(0.5), _bar(-1.0)
    ('          |+++++     ', '----------|          ')
    """
    length = round(abs(share) * HALF_BAR)
    left, right = ("", "+" * length) if share > 0 else ("-" * length, "")
    return f"{left:>{HALF_BAR}}|{right:<{HALF_BAR}}"


def _printer(label: str) -> Callable[[Line], None]:
    """Return a function that prints a line, in colours if stdout is a terminal and rich is installed."""
    if sys.stdout.isatty():
        try:
            console = need("rich.console", extra="explain").Console(highlight=False)
            styled = need("rich.text", extra="explain").Text
        except MissingExtraError:
            pass
        else:
            from lstm_sentiment.evaluation.metrics import sides

            colour = {-1: "red", 0: "magenta", 1: "blue"}[sides([label])[0]]
            return lambda line: console.print(
                styled.assemble(*((text, _style(share, colour)) for text, share in line)), soft_wrap=True
            )
    return lambda line: print("".join(text for text, _ in line).rstrip())


def _style(share: float, colour: str) -> str:
    """Return the rich style of an attribution: the class's colour if positive, else yellow; filled if strong.

    >>> _style(0.9, "red"), _style(-0.3, "red"), _style(0.01, "red")
    ('bold white on red', 'yellow', '')
    """
    if abs(share) < FAINT:
        return ""
    if abs(share) < STRONG:
        return colour if share > 0 else "yellow"
    return f"bold white on {colour}" if share > 0 else "black on yellow"


if __name__ == "__main__":
    run_command(main)
