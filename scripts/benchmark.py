"""Measure the speed of this package on the CPU, against a textbook training loop.

    python scripts/benchmark.py
    python scripts/benchmark.py --tweets tweets.parquet --reviews reviews.csv --json speed.json
    python scripts/benchmark.py --precision fp32 --threads 1 --against 3bec329

All loops train on the same token ids, in one process and interleaved (A B, B A, A B, ...), so that a busy
machine slows all of them; the ratio within a block is what counts. They share no model, optimizer or row
order. With ``--against`` the loops and bulk prediction of another commit take turns with them, in a process
of their own (see `other_commit`).
Without files the texts are synthetic: words drawn from a Zipf law, lengths as in tweets and film reviews. If
other programs use the same cores, OpenMP threads lose much time waiting for each other;
OMP_WAIT_POLICY=PASSIVE in the environment reduces this.

Legend: R rows, B texts of a batch, T padded length, E embedding size, H hidden size, F = 2·H, C classes.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import string
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from other_commit import OtherCommit, checked_out, training_steps
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader

from lstm_sentiment.checkpoints.run_folder import RunFolder
from lstm_sentiment.config.schema import Config, TrainerConfig
from lstm_sentiment.config.sections import DataConfig, ModelConfig, TextConfig
from lstm_sentiment.data.corpus import Corpus, prepare
from lstm_sentiment.data.dataset import TextDataset, padded_length, plan_epoch
from lstm_sentiment.data.formats.readers import CHUNK_ROWS, TEXT_COLUMNS, as_text, pick_column, read_chunks
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.models.network import new_network
from lstm_sentiment.models.precision import set_precision
from lstm_sentiment.prediction.classifier import SentimentClassifier
from lstm_sentiment.system.devices import DTYPES, describe_machine, pick_precision, set_up_cpu
from lstm_sentiment.system.distributed import Processes
from lstm_sentiment.text.tokenization import PAD
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer
from lstm_sentiment.training.classification import Classification
from lstm_sentiment.training.losses import cross_entropy
from lstm_sentiment.training.trainer import Trainer

SEED = 0
# "ours" has the embeddings of the textbook: one per word. The default adds subword embeddings.
PLAIN, SPELT = (TextConfig(max_tokens=400, truncate="tail", subwords=n) for n in (0, TextConfig().subwords))
MODEL, TRAINER = ModelConfig(), TrainerConfig()
CPU = torch.device("cpu")
GEMM_SIZE = 2048  # rows and columns of the square matrices whose product shows the machine's peak
SAMPLE_BYTES = 30_000_000  # of text that is tokenized and predicted
REPEATS = 5  # of tokenization and of bulk prediction; the first one is a warm-up
BULK_TEXTS = {"tweets": 20_000, "reviews": 2_000}
LATENCY_TEXTS, LATENCY_WARM_UPS = 300, 100
# Forward and two products of the same size backward; two directions; four gates of 2·H·(E + H).
TRAINING_FLOP_PER_TOKEN = 3 * 2 * 4 * 2 * MODEL.hidden_size * (MODEL.embedding_size + MODEL.hidden_size)
ZIPF_WORDS = 40_000
OURS = ("ours", "ours_with_subwords")
Metrics = dict[str, Any]  # name with unit -> number, or median, p10 and p90


class TextbookLSTM(nn.Module):
    """Textbook model: embedding, packed bidirectional LSTM, its two final states, linear head."""

    def __init__(self, vocabulary_size: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, MODEL.embedding_size, padding_idx=PAD)
        self.lstm = nn.LSTM(MODEL.embedding_size, MODEL.hidden_size, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * MODEL.hidden_size, classes)

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Return logits (B, C)."""
        packed = pack_padded_sequence(
            self.embedding(tokens_BT), lengths_B, batch_first=True, enforce_sorted=False
        )
        _, (last_2BH, _) = self.lstm(packed)
        features_BF = torch.cat([last_2BH[0], last_2BH[1]], dim=1)
        logits_BC: Tensor = self.head(features_BF)
        return logits_BC


def textbook_steps(corpus: Corpus) -> Iterator[int]:
    """Run a textbook training loop forever; yield the number of real tokens of each step."""

    def collate(pairs: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
        texts, labels = zip(*pairs, strict=True)
        lengths_B = torch.tensor([len(text) for text in texts])
        return pad_sequence(list(texts), batch_first=True, padding_value=PAD), lengths_B, torch.tensor(labels)

    torch.manual_seed(SEED)
    model = TextbookLSTM(len(corpus.vocabulary), len(corpus.labels))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    pairs: Any = list(zip(token_rows(corpus.train), corpus.train.labels.tolist(), strict=True))
    order = torch.Generator().manual_seed(SEED)
    loader = DataLoader(pairs, TRAINER.batch_size, shuffle=True, collate_fn=collate, generator=order)
    model.train()
    running_loss = 0.0
    while True:
        for tokens_BT, lengths_B, labels_B in loader:
            optimizer.zero_grad()
            loss = criterion(model(tokens_BT, lengths_B), labels_B)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
            yield int(lengths_B.sum())


def our_steps(corpus: Corpus, text: TextConfig, precision: str) -> Iterator[int]:
    """Run the training loop of the package forever; yield the number of real tokens of each step."""
    torch.manual_seed(SEED)
    trainer = Trainer(
        new_network(corpus.vocabulary, len(corpus.labels), subwords=text.subwords, **asdict(MODEL)),
        corpus.train,
        Classification(
            corpus.validation,
            corpus.labels,
            loss=cross_entropy(None, TRAINER.label_smoothing),
            device=CPU,
            batch_size=TRAINER.batch_size,
            processes=Processes(),
        ),
        config=TRAINER,
        seed=SEED,
        device=CPU,
        precision=precision,
        processes=Processes(),
        store=RunFolder("unused"),  # a step writes no checkpoint
        facts={},
    )
    trainer.model.train()
    for epoch in itertools.count():
        trainer.state.epoch = epoch
        for batches in trainer._plan(epoch):
            trainer._step(batches)
            yield sum(int(corpus.train.lengths[rows].sum()) for rows in batches)


def token_rows(dataset: TextDataset) -> list[Tensor]:
    """Return the token ids of each row as the model reads them, int64 (tokens of the row,)."""
    rows: list[Tensor] = []
    for places in np.array_split(np.arange(len(dataset)), 1 + len(dataset) // 256):
        tokens_BT = dataset.batch(places).tokens_BT
        rows += [tokens_BT[i, :length].clone() for i, length in enumerate(dataset.lengths[places])]
    return rows


def tokens_per_s(steps: Iterator[int], *, seconds: float, least_steps: int) -> float:
    """Take steps for some seconds, at least a few, and return useful tokens per second."""
    tokens, started = 0, time.perf_counter()
    for done in itertools.count(1):
        tokens += next(steps)
        elapsed_s = time.perf_counter() - started
        if elapsed_s >= seconds and done >= least_steps:
            break
    return tokens / elapsed_s


def gemm_gflop_per_s(precision: str) -> float:
    """Return the speed of a large matrix product: the peak for a network of such products."""
    a, b = (torch.randn(GEMM_SIZE, GEMM_SIZE).to(DTYPES[precision]) for _ in range(2))
    times_s = [timed(torch.mm, a, b) for _ in range(4)]
    return float(2 * GEMM_SIZE**3 / np.median(times_s[1:]) / 1e9)


def measure_training(
    corpus: Corpus,
    spelt: Corpus,
    *,
    precision: str,
    blocks: int,
    seconds: float,
    other: OtherCommit | None,
) -> Metrics:
    """Run the loops interleaved, and those of another commit; every value has one sample per block."""
    loops = {
        "textbook": textbook_steps(corpus),
        "ours": our_steps(corpus, PLAIN, precision),
        "ours_with_subwords": our_steps(spelt, SPELT, precision),
    }
    arms = [*loops, *((f"before: {name}" for name in OURS) if other is not None else ())]
    peaks = list(dict.fromkeys(["fp32", precision]))
    samples: dict[str, list[float]] = {name: [] for name in (*arms, *peaks)}
    for block in range(-1, blocks):  # block -1 warms up
        for arm in arms if block % 2 == 0 else reversed(arms):
            least_steps = 1 if arm == "textbook" else 3  # the textbook may need many seconds for a step
            if arm in loops:
                speed = tokens_per_s(loops[arm], seconds=seconds, least_steps=least_steps)
            else:
                assert other is not None
                name = arm.removeprefix("before: ")
                speed = other.tokens_per_s(name, seconds=seconds, least_steps=least_steps)
            samples[arm] += [speed] * (block >= 0)
        for peak in peaks:
            samples[peak] += [gemm_gflop_per_s(peak)] * (block >= 0)
    values = {name: np.array(of_blocks) for name, of_blocks in samples.items()}
    metrics = {
        "textbook_useful_tokens_per_s": spread(values["textbook"]),
        "our_useful_tokens_per_s": spread(values["ours"]),
        "ours_over_textbook": spread(values["ours"] / values["textbook"]),
        "ours_with_subwords_over_textbook": spread(values["ours_with_subwords"] / values["textbook"]),
        "ours_with_subwords_over_ours": spread(values["ours_with_subwords"] / values["ours"]),
    }
    for name in OURS if other is not None else ():
        before = values[f"before: {name}"]
        metrics[f"{name}_before_over_textbook"] = spread(before / values["textbook"])
        metrics[f"{name}_over_before"] = spread(values[name] / before)
    gflop_per_s = values["ours"] * TRAINING_FLOP_PER_TOKEN / 1e9
    metrics["our_lstm_gflop_per_s"] = spread(gflop_per_s)
    for name in peaks:
        metrics[f"{name}_gemm_peak_gflop_per_s"] = spread(values[name])
        metrics[f"our_share_of_{name}_gemm_peak"] = spread(gflop_per_s / values[name])
    return metrics


def spread(values: Any) -> dict[str, float]:
    """Return the median and the 10th and 90th percentile."""
    return {name: float(np.percentile(values, q)) for name, q in (("median", 50), ("p10", 10), ("p90", 90))}


def padding_efficiencies(lengths: Any) -> Metrics:
    """Return useful / padded tokens over an epoch, with random batches and with our plan."""
    size, useful = TRAINER.batch_size, float(lengths.sum())
    order_R = np.random.default_rng(SEED).permutation(len(lengths))
    random = [lengths[order_R[i : i + size]] for i in range(0, len(lengths), size)]
    plan = plan_epoch(lengths, batch_size=size, accumulate=1, seed=SEED, epoch=0)
    ours = [lengths[rows] for (rows,) in plan]
    return {
        "textbook_useful_per_padded_token": useful / sum(len(n_B) * n_B.max() for n_B in random),
        "our_useful_per_token_read": useful / sum(len(n_B) * n_B.max() for n_B in ours),
        "our_useful_per_padded_token": useful / sum(len(n_B) * padded_length(int(n_B.max())) for n_B in ours),
    }


def measure_tokenising(texts: list[str]) -> Metrics:
    """Return MB of UTF-8 text tokenized per second, with an empty lexicon."""
    batches = [texts[i : i + CHUNK_ROWS] for i in range(0, len(texts), CHUNK_ROWS)]
    megabytes = sum(len(text.encode("utf-8", "replace")) for text in texts) / 1e6

    def tokenise() -> None:
        lexicon = Lexicon(Tokenizer(PLAIN.tokenizer, lowercase=PLAIN.lowercase))
        for _encoded in lexicon.encode_all(batches):
            pass

    times_s = [timed(tokenise) for _ in range(REPEATS)]
    return {"tokenising_mb_per_s": spread(megabytes / np.array(times_s[1:]))}


def measure_prediction(
    corpus: Corpus,
    text_config: TextConfig,
    texts: list[str],
    *,
    bulk_texts: int,
    precision: str,
    other: OtherCommit | None,
) -> Metrics:
    """Return texts per second in bulk, and the latency of one text alone in milliseconds.

    Bulk prediction is interleaved: in fp32, in bf16 if that is `precision`, and by another commit. Each
    repeat, and the latency, has a new classifier: it remembers no word from the one before.
    """

    def classifier(precision: str = "fp32") -> SentimentClassifier:
        config, vocabulary = Config(text=text_config, model=MODEL), corpus.vocabulary
        new = SentimentClassifier(labels=corpus.labels, vocabulary=vocabulary, config=config, device="cpu")
        set_precision(new.model, precision, CPU)
        return new

    texts = [texts[i] for i in np.random.default_rng(SEED).permutation(len(texts))]
    arms = dict.fromkeys(["fp32", precision, *(["before"] if other is not None else [])])
    samples: dict[str, list[float]] = {arm: [] for arm in arms}
    for repeat in range(REPEATS):
        for arm in arms if repeat % 2 == 0 else reversed(arms):
            if arm == "before":
                assert other is not None
                speed = other.texts_per_s(OURS[text_config is SPELT], bulk_texts)
            else:
                speed = len(texts[:bulk_texts]) / timed(classifier(arm).predict_proba, texts[:bulk_texts])
            samples[arm] += [speed] * (repeat > 0)
    values = {arm: np.array(of_repeats) for arm, of_repeats in samples.items()}
    in_bulk = {}
    for arm in values.keys() - {"before"}:
        name = "prediction_in_bulk" + ("" if arm == "fp32" else f"_in_{arm}")
        in_bulk[f"{name}_texts_per_s"] = spread(values[arm])
        if other is not None:
            in_bulk[f"{name}_over_before"] = spread(values[arm] / values["before"])
    predict = classifier().predict
    for text in texts[-LATENCY_WARM_UPS:]:
        predict(text)
    times_ms = [1e3 * timed(predict, text) for text in texts[:LATENCY_TEXTS]]
    return {
        **dict(sorted(in_bulk.items())),
        "prediction_of_one_text_p50_ms": float(np.percentile(times_ms, 50)),
        "prediction_of_one_text_p99_ms": float(np.percentile(times_ms, 99)),
    }


def timed(function: Callable[..., object], *args: object) -> float:
    """Call a function and return its duration in seconds."""
    started = time.perf_counter()
    function(*args)
    return time.perf_counter() - started


def make_up(kind: str, folder: Path) -> str:
    """Write synthetic labelled texts and return the file's name.

    Tweets have about 20 tokens (normal); reviews 240 on average, half of them under 180 (lognormal).
    """
    random = np.random.default_rng(SEED)
    if kind == "tweets":
        lengths_R = random.normal(20, 6.5, 20_000)
    else:
        lengths_R = random.lognormal(np.log(180), 0.76, 5_000)
    lengths_R = np.clip(lengths_R / 1.15, 2, 2_000).astype(int)  # punctuation marks are tokens too
    letters = random.choice(list(string.ascii_lowercase), (ZIPF_WORDS, 8))
    words = np.array(["".join(row[: 2 + len(str(rank))]) for rank, row in enumerate(letters, start=1)])
    odds = 1 / np.arange(2.0, ZIPF_WORDS + 2)
    drawn = words[random.choice(ZIPF_WORDS, lengths_R.sum(), p=odds / odds.sum())]
    marks = random.choice(["", ",", ".", "!"], len(drawn), p=[0.85, 0.06, 0.07, 0.02])
    texts = np.split(np.char.add(drawn, marks), np.cumsum(lengths_R)[:-1])
    path = folder / f"{kind}.jsonl"
    with path.open("w", encoding="utf-8") as out:
        for text in texts:
            label = random.choice(["negative", "positive"])
            out.write(json.dumps({"text": " ".join(text), "label": str(label)}) + "\n")
    return str(path)


def read_texts(name: str) -> list[str]:
    """Return a file's first texts, about 30 MB at most."""
    texts: list[str] = []
    size = 0
    with open_source(name) as source:
        for chunk in read_chunks(source):
            columns = [str(c) for c in chunk.frame.columns]
            column = pick_column("auto", columns, candidates=TEXT_COLUMNS, key="data.text_column", file=name)
            texts += map(as_text, chunk.frame[column])
            size += sum(len(text.encode("utf-8", "replace")) for text in texts[-len(chunk.frame) :])
            if size > SAMPLE_BYTES:
                break
    return texts


def measure(
    kind: str, file: str | None, args: argparse.Namespace, precision: str, checkout: Path | None
) -> Metrics:
    """Return everything measured on one kind of text; `checkout` is of the other commit, if any."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as stack:
        name = str(Path(file).resolve()) if file else make_up(kind, Path(folder))
        other = None
        if checkout is not None:
            facts = {"file": name, "cache": str(Path(folder) / "other"), "precision": precision}
            other = stack.enter_context(training_steps(checkout, threads=torch.get_num_threads(), **facts))
        data = DataConfig(train=name, validation=0.1, test=None)
        corpus, spelt = (prepare(data, text, seed=SEED, cache=Path(folder)) for text in (PLAIN, SPELT))
        texts, lengths = read_texts(name), corpus.train.lengths
        how: dict[str, Any] = {"bulk_texts": BULK_TEXTS[kind], "precision": precision, "other": other}
        return {
            "training_rows": len(corpus.train),
            "tokens_per_row": float(lengths.mean()),
            "vocabulary": len(corpus.vocabulary),
            **measure_training(
                corpus,
                spelt,
                precision=precision,
                blocks=args.blocks,
                seconds=args.seconds,
                other=other,
            ),
            **padding_efficiencies(lengths),
            **measure_tokenising(texts),
            **measure_prediction(corpus, PLAIN, texts, **how),
            **{
                f"with_subwords_{name}": value
                for name, value in measure_prediction(spelt, SPELT, texts, **how).items()
            },
        }


def table(results: dict[str, Metrics]) -> str:
    """Return the results as a Markdown table; p10–p90 over blocks or repeats are in brackets."""

    def shown(value: Any) -> str:
        if isinstance(value, dict):
            return f"{shown(value['median'])} ({shown(value['p10'])}–{shown(value['p90'])})"
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"

    lines = [f"| metric | {' | '.join(results)} |", "|--|" + "--:|" * len(results)]
    for name in next(iter(results.values())):
        cells = [shown(metrics[name]) for metrics in results.values()]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tweets", metavar="FILE", help="labelled short texts; synthetic if omitted")
    parser.add_argument("--reviews", metavar="FILE", help="labelled long texts; synthetic if omitted")
    parser.add_argument("--blocks", type=int, default=7, help="timed blocks per kind of text (%(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help="per loop and block (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 for all cores")
    parser.add_argument(
        "--precision",
        choices=["auto", "fp32", "bf16"],
        default=TRAINER.precision,
        help="of our loops; auto takes the fastest of this CPU (%(default)s)",
    )
    parser.add_argument(
        "--against", metavar="COMMIT", help="also run training and bulk prediction of this commit, from git"
    )
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write the results to this file")
    args = parser.parse_args()
    if args.blocks < 1:
        parser.error("--blocks must be at least 1")
    return args


def main() -> None:
    """Measure and report."""
    args = parse_args()
    threads = set_up_cpu(args.threads)  # first, so that neither loop suffers from denormals
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        precision = pick_precision(args.precision, CPU)
    except ConfigError as error:
        sys.exit(f"--precision {args.precision}: {error}")
    machine = describe_machine(CPU)
    print(
        f"{machine['cpu']}, {cores} cores; torch {machine['torch']}, {threads} threads, ours in {precision}; "
        f"load average at start {load:.2f}; {args.blocks} blocks of {args.seconds:g} s per loop, "
        "median (p10–p90)"
    )
    if load > cores + 0.3:
        print(f"WARNING: {cores} cores and a load average of {load:.2f}: other load distorts these numbers")
    results = {}
    with contextlib.ExitStack() as stack:
        checkout = None
        if args.against:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "commit"
            checkout = stack.enter_context(checked_out(args.against, folder))
        for kind, file in (("tweets", args.tweets), ("reviews", args.reviews)):
            print(f"measuring {kind} ...", file=sys.stderr, flush=True)
            results[kind] = measure(kind, file, args, precision, checkout)
    print(f"\n{table(results)}")
    if args.json:
        facts = {"machine": machine, "cores": cores, "threads": threads, "precision": precision}
        facts["omp_wait_policy"] = os.environ.get("OMP_WAIT_POLICY", "default")
        facts |= {"load_average": load, "blocks": args.blocks, "seconds": args.seconds, "seed": SEED}
        facts |= {"against": args.against}
        facts |= {"sources": {"tweets": args.tweets or "made up", "reviews": args.reviews or "made up"}}
        args.json.write_text(json.dumps(facts | results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
