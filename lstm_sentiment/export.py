"""Write an ONNX model and a runtime that needs no PyTorch.

The runtime is one file, runtime.py, which needs only numpy and onnxruntime.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstm_sentiment.checkpoints.run_paths import output_path
from lstm_sentiment.cli.exits import run_command
from lstm_sentiment.cli.terminal import say
from lstm_sentiment.cli.usage import program
from lstm_sentiment.config.command_line import (
    RUN,
    CommandParser,
    add_branch_option,
    add_file_options,
    how_to_read,
)
from lstm_sentiment.errors import ConfigError

if TYPE_CHECKING:
    from lstm_sentiment.prediction.classifier import SentimentClassifier


def main(argv: list[str]) -> None:
    """Run the command; see `--help`."""
    options = _parse(argv)
    if options.file and not (options.int8 or options.benchmark):
        raise ConfigError("--file needs --int8 or --benchmark")
    if options.threads < 1:
        raise ConfigError(f"--threads must be at least 1, not {options.threads}")
    from lstm_sentiment.checkpoints.run_folder import (
        EXPORTED,
    )  # imports torch: not for --help, not for a typo
    from lstm_sentiment.deployment.exporter import export
    from lstm_sentiment.prediction.classifier import load

    classifier = load(options.run, device="cpu")
    if options.branch:
        classifier.keep_branch(options.branch)
    assert classifier.run is not None, "loaded from a folder"
    out = Path(options.out) if options.out else output_path(options.run, EXPORTED)
    facts = export(
        classifier,
        classifier.run,
        out,
        int8=options.int8,
        stream=options.stream,
        overwrite=options.overwrite,
        file=options.file,
        **how_to_read(options),
    )
    say("\n".join(_lines(facts, options.file)))
    models = "model.onnx, stream.onnx" if options.stream else "model.onnx"
    print(f"written to {out}: {models}, model.json, runtime.py")
    if options.benchmark:
        print("\n".join(_benchmark(classifier, out, options)))


def _lines(facts: dict[str, Any], file: str | None) -> list[str]:
    """Format the facts of an export."""
    megabytes, check = {kind: size / 1e6 for kind, size in facts["bytes"].items()}, facts["check"]
    lines = [
        f"onnx: {megabytes['float32']:.1f} MB; {check['texts']} texts compared with PyTorch, alone and in "
        f"batches: probabilities differ by at most {check['largest_difference']:.1e}"
    ]
    if facts["int8"]:
        lost = facts["int8"]
        lines.append(
            f"int8: {megabytes['float32']:.1f} -> {megabytes['int8']:.1f} MB; probabilities differ by "
            f"at most {lost['largest_difference']:.4f}, on average by {lost['mean_difference']:.4f}; "
            f"{100 * lost['changed_labels']:.1f} % of the texts get another label"
        )
        if "scores" in lost:
            scores = [
                f"{metric.replace('_f1', '-F1')} {lost['scores']['before'][metric]:.4f} -> {after:.4f}"
                for metric, after in lost["scores"]["after"].items()
            ]
            lines.append(f"  {file}: {', '.join(scores)}")
    return lines


def _benchmark(classifier: SentimentClassifier, out: Path, options: argparse.Namespace) -> list[str]:
    """Benchmark an export against its run; return lines of text."""
    import torch

    from lstm_sentiment.deployment.benchmark import compare_speed, speed_lines, synthetic_texts, texts_of_file
    from lstm_sentiment.deployment.exporter import load_runtime
    from lstm_sentiment.text.tokenization import SPECIAL_TOKENS

    torch.set_num_threads(options.threads)
    runtime = load_runtime(out, threads=options.threads)
    if options.file:
        trained = classifier.config.data.text_column
        names = ("text_column", "encoding", "quoting", "header", "sheet")
        how = {"trained": trained} | {name: getattr(options, name) for name in names}
        texts, what = texts_of_file(options.file, **how), f"texts of {options.file}"
    else:
        texts = synthetic_texts(classifier.vocabulary.tokens[len(SPECIAL_TOKENS) :])
        what = "synthetic texts of 20 words"
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    title = f"speed: {what}; threads: {options.threads}{load}; median (p10 to p90)"
    return [title, *speed_lines(compare_speed(classifier.predict_proba, runtime.predict_proba, texts))]


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = CommandParser(prog=program("export"), description=__doc__)
    parser.add_argument("run", help=RUN)
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="of the network")
    parser.add_argument("--out", help="folder to write; default RUN/onnx, or ./starter-onnx")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing export")
    add_branch_option(parser)
    parser.add_argument(
        "--int8",
        action="store_true",
        help="quantize weights to 8 bits, a quarter of the size; reports the loss",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="also a model that reads a text in pieces; not for bidirectional ones",
    )
    parser.add_argument(
        "--benchmark", action="store_true", help="compare speed with PyTorch, one text and 64 at a time"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of --benchmark; default 1")
    parser.add_argument("--file", help="labelled rows: scores for --int8, texts for --benchmark")
    add_file_options(parser, device=False)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
