"""Every parser of what comes from outside, each as a target: a function of bytes that any input must pass.

An input is read, or refused with an error of this package that names the file and can be shown on a terminal.
Nothing else may come out, and what is read must be what a plain reader of the same bytes finds. Targets are
used by the tests, by `scripts/fuzz` (guided by coverage, see `guided`) and by `scripts/soak`.

A target's first byte chooses among the ways to read the rest.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import csv
import functools
import gzip
import hashlib
import io
import json
import lzma
import math
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_sentiment import locking, predict
from lstm_sentiment.bounds import classes_of_run, vocabulary_of, yaml_of
from lstm_sentiment.checkpoint import BEST, SHARED_FILES, RunFolder
from lstm_sentiment.classifier import SentimentClassifier, load
from lstm_sentiment.config import Config
from lstm_sentiment.config_files import read_file
from lstm_sentiment.deployment import runtime
from lstm_sentiment.deployment.onnx_graph import build_graph
from lstm_sentiment.errors import CheckpointError, ConfigError, DataError, RunError, SentimentError
from lstm_sentiment.files import write_json
from lstm_sentiment.manifest import MANIFEST, write_manifest
from lstm_sentiment.options import config_yaml, parse_config
from lstm_sentiment.reading import tokens
from lstm_sentiment.reading.readers import as_text, read_chunks
from lstm_sentiment.reading.sources import COMPRESSIONS, open_source
from lstm_sentiment.reading.tables import to_json_line
from lstm_sentiment.reading.text import Tokenizer, Vocabulary
from lstm_sentiment.reading.tokenizing import SPECIAL_TOKENS, UNKNOWN, Encoder
from lstm_sentiment.reading.tokens import Columns, tokenize_source
from lstm_sentiment.reading.vectors import load_vectors

CORPUS = Path(__file__).parent / "corpus"
Check = Callable[[bytes, Path], None]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A parser to be tried.

    Args:
        check: passes if an input (bytes, and an empty folder to work in) is dealt with as it should be.
        seeds: inputs to begin with, as files of `CORPUS` or as bytes: first byte -> what follows it.
        words: pieces that mean something to the parser.
        guided: whether `scripts/fuzz` tries it too; the others are too slow for that, or not in Python.
    """

    check: Check
    seeds: Callable[[], list[bytes]]
    words: Sequence[bytes]
    guided: bool = True


@contextlib.contextmanager
def refused_only_by(*errors: type[SentimentError], naming: str = "") -> Iterator[None]:
    """Let a block refuse its input with such errors, in words that name a file and harm no terminal."""
    try:
        yield
    except errors as error:
        told = str(error)
        assert told.replace("\n", "").isprintable(), f"a terminal would obey {told!r}"
        assert naming in told, f"{naming} is not named in {told!r}"


def chosen(data: bytes, among: Sequence[Any]) -> tuple[Any, bytes]:
    """Return what the first byte chooses, and the bytes behind it."""
    return among[(data[0] if data else 0) % len(among)], data[1:]


def corpus_files(pattern: str, *first: int) -> list[bytes]:
    files = [file.read_bytes() for file in sorted(CORPUS.glob(pattern))]
    assert files, pattern
    return [bytes([byte]) + content for byte in first for content in files]


# -- rows ------------------------------------------------------------------------------------------

ENCODINGS = ("utf-8", "utf-16", "latin-1", "utf-7", "punycode")
TABLE_WAYS = [
    (ending, encoding, errors)
    for encoding, errors in (
        ("utf-8", "strict"),
        ("utf-8", "replace"),
        *((e, "strict") for e in ENCODINGS[1:]),
    )
    for ending in (".csv", ".tsv")
] + [(f".csv{compression}", "utf-8", "strict") for compression in COMPRESSIONS]


def delimited(data: bytes, folder: Path) -> None:
    """CSV and TSV: the rows and lines of the standard library's `csv`, or a `DataError`."""
    (ending, encoding, errors), content = chosen(data, TABLE_WAYS)
    file = folder / f"rows{ending}"
    file.write_bytes(content)
    with (
        refused_only_by(DataError, naming=str(file)),
        open_source(str(file), encoding=encoding, encoding_errors=errors) as source,
    ):
        found = [chunk.frame for chunk in read_chunks(source)]
        lines = [int(line) for chunk in read_chunks(source) for line in chunk.lines]
        if not ending.endswith(COMPRESSIONS):
            expected = plain_rows(content, encoding, errors, "\t" if ending == ".tsv" else ",")
            assert [list(frame.columns) for frame in found] == [expected[0][1]] * len(found)
            assert [row for frame in found for row in frame.to_numpy().tolist()] == [
                r for _, r in expected[1:]
            ]
            assert lines == [line for line, _ in expected[1:]]


def plain_rows(content: bytes, encoding: str, errors: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """Return the records of a table with the line that each begins at, header first, blank ones left out."""
    text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding, errors)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, start = [], 1
    for row in reader:
        blank = not row or (rows and len(rows[0][1]) > len(row) == 1 and row[0].isspace())
        rows += [] if blank else [(start, row)]
        start = reader.line_num + 1
    return rows


def json_lines(data: bytes, folder: Path) -> None:
    """JSON lines: the objects that `json` finds on the same lines, or a `DataError`; they can be written."""
    ending, content = chosen(data, ["", "", *COMPRESSIONS])
    file = folder / f"rows.jsonl{ending}"
    file.write_bytes(content)
    with refused_only_by(DataError, naming=str(file)), open_source(str(file)) as source:
        chunks = list(read_chunks(source))
        records = [record for chunk in chunks for record in chunk.frame.to_dict("records")]
        for record in records:
            json.loads(to_json_line(record).encode())
            for value in record.values():
                as_text(value).encode()
        if not ending:
            numbered = enumerate(content.decode("utf-8-sig").split("\n"), start=1)
            expected = [(line, json.loads(text)) for line, text in numbered if text.strip()]
            assert [int(line) for chunk in chunks for line in chunk.lines] == [line for line, _ in expected]
            for found, (_, record) in zip(records, expected, strict=True):
                assert same({key: found[key] for key in record}, record) or b"\\ud" in content.lower()


def same(found: Any, expected: Any) -> bool:
    """Whether two values of JSON are equal, NaN to NaN, and 1 neither to true nor to 1.0."""
    return json.dumps(found) == json.dumps(expected)


def parquet(data: bytes, folder: Path) -> None:
    """Parquet: rows, or a `DataError`."""
    file = folder / "rows.parquet"
    file.write_bytes(data[1:])
    with refused_only_by(DataError, naming=str(file)), open_source(str(file)) as source:
        for chunk in read_chunks(source):
            for record in chunk.frame.to_dict("records"):
                json.loads(to_json_line(record).encode())


def lines(data: bytes, folder: Path) -> None:
    """Files of trees, and of words with their vectors, plain and compressed."""
    kind, content = chosen(data, ["trees", "vectors", "vectors.gz"])
    if kind == "trees":
        trees(content, folder)
    else:
        vectors(content, folder, ".gz" if kind.endswith("gz") else "")


def trees(content: bytes, folder: Path) -> None:
    """A tree's phrases are words that stand in its sentence, and every line of words is one tree."""
    file = folder / "rows.ptb"
    file.write_bytes(content)
    with refused_only_by(DataError, naming=str(file)), open_source(str(file)) as source:
        chunks = list(read_chunks(source, phrases=True))
        rows = [row for chunk in chunks for row in chunk.frame.itertuples(index=False)]
        sentence = ""
        for text, label, phrase in rows:
            sentence = sentence if phrase else text
            assert text
            assert f" {text} " in f" {sentence} "
            assert label.lstrip("-").isdigit()
        whole = [line for line in content.decode("utf-8-sig").split("\n") if line.strip()]
        if "\r" not in content.decode("utf-8-sig"):
            assert sum(not phrase for *_, phrase in rows) == len(whole)


def vectors(content: bytes, folder: Path, ending: str) -> None:
    """Word vectors: each known word has the numbers of its own line, or a `ConfigError` tells of a line."""
    file = folder / f"vectors.txt{ending}"
    file.write_bytes(content)
    vocabulary = Vocabulary(["good", "bad", "so", "é"])
    with refused_only_by(ConfigError, naming=file.name):
        loaded = load_vectors(str(file), vocabulary, size=2, seed=0, cache=folder)
        assert loaded.weight_VE.isfinite().all()
        expected: dict[str, list[float]] = {}
        for line in (content if not ending else gzip.decompress(content)).split(b"\n"):
            word, *numbers = line.rstrip().split(b" ")
            with contextlib.suppress(UnicodeDecodeError):
                expected |= (
                    {word.decode(): [float(number) for number in numbers]} if len(numbers) == 2 else {}
                )
        for token, row in zip(vocabulary.tokens[len(SPECIAL_TOKENS) :], loaded.weight_VE[2:], strict=True):
            assert (token in loaded.known) == (token in expected)
            if token in expected:
                assert row.tolist() == torch.tensor(expected[token], dtype=torch.float32).tolist()


# -- settings --------------------------------------------------------------------------------------


def config(data: bytes, folder: Path) -> None:
    """A YAML file or a command line to settings that are the same when written and read again."""
    kind, content = chosen(data, ["file", "command line"])
    file = folder / "config.yaml"
    if kind == "file":
        file.write_bytes(content)
        argv = [f"--config={file}"]
        with refused_only_by(ConfigError, naming=str(file)):
            _, problems = read_file(Config, str(file))
            for problem in problems:
                with refused_only_by(ConfigError, naming=str(file)):
                    raise problem
            if problems:
                return
    else:  # a command line is text that the system gives, and holds no NUL
        argv = [os.fsdecode(word) for word in content.split(b"\0")]
        if any(word.split("=")[0] in ("--config", "--print_config", "--help", "-h") for word in argv):
            return
    found = None
    with refused_only_by(ConfigError):
        found = parse_config(argv, program="train", description="")
    if found is not None:
        with contextlib.suppress(UnicodeEncodeError):  # bytes that no text holds, in a file's name
            file.write_text(config_yaml(found), "utf-8")
            assert parse_config([f"--config={file}"], program="train", description="") == found


# -- run folders -----------------------------------------------------------------------------------

RUN_FILES = [f"{BEST}/{MANIFEST}", f"{BEST}/model.safetensors", f"{BEST}/state.json"]
RUN_FILES += ["labels.json", "vocabulary.json", "config.yaml"]
RUN_TENSORS = {"w": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2]), "h": torch.ones(2).bfloat16()}


RUN_FACTS = {"step": 3, "calibration": {"temperature": 1.5, "thresholds": []}}


def small_run(folder: Path) -> RunFolder:
    """Return a run with a checkpoint, made anew where an input may have changed it."""
    run = RunFolder(folder / "run")
    run.begin(config_yaml="seed: 0\n", vocabulary=["so", "é"], labels=["neg", "pos"], label_map={"0": "neg"})
    run.save(BEST, {"model": RUN_TENSORS}, {"step": 3, "training": {"best_epoch": 1}, "data": "x"})
    return run


def checkpoint(data: bytes, folder: Path) -> None:
    """A run with one file replaced, and a manifest that says so: read as it is, or a `CheckpointError`."""
    name, content = chosen(data, RUN_FILES)
    run = RunFolder(folder / "run")
    if not run.path.exists():
        small_run(folder)
        shutil.copytree(run.path, folder / "whole")
    with replaced(run, folder / "whole", name, content):
        with refused_only_by(CheckpointError, naming=str(run.path)):
            loaded = run.load(BEST)
            expected = safetensors.torch.load((run.path / BEST / "model.safetensors").read_bytes())
            assert loaded.tensors["model"].keys() == expected.keys()
            for key, tensor in loaded.tensors["model"].items():
                assert tensor.dtype == expected[key].dtype
                assert torch.equal(tensor, expected[key])
                assert not tensor.is_floating_point() or tensor.isfinite().all()
            json.dumps(loaded.facts, ensure_ascii=False).encode()
        with refused_only_by(CheckpointError, naming=str(run.path)):
            labels, label_map = classes_of_run(run.path / "labels.json")
            assert set(label_map.values()) <= {*labels, None}
            "".join(labels).encode()
        with refused_only_by(CheckpointError, naming=str(run.path)):
            tokens = vocabulary_of(run.path / "vocabulary.json", 2)
            assert tokens == json.loads((run.path / "vocabulary.json").read_bytes())
        with refused_only_by(CheckpointError, naming=str(run.path)):
            repr(yaml_of(run.path / "config.yaml")).encode()


@contextlib.contextmanager
def replaced(run: RunFolder, whole: Path, name: str, content: bytes) -> Iterator[None]:
    """Put other content into a file of a run for as long as a block runs, and a manifest that fits it."""
    file, manifest = run.path / name, run.path / BEST / MANIFEST
    file.write_bytes(content)
    if file != manifest:
        manifest.unlink()
        write_manifest(run.path / BEST, depends_on=[run.path / shared for shared in SHARED_FILES])
    try:
        yield
    finally:
        shutil.copyfile(whole / name, file)
        shutil.copyfile(whole / BEST / MANIFEST, manifest)


# -- text ------------------------------------------------------------------------------------------

TEXT_WAYS = [
    {"lowercase": lowercase, "normalize": normalize}
    for lowercase in (True, False)
    for normalize in ("none", "escapes+negation")
]


@functools.cache
def _encoders() -> list[tuple[Tokenizer, Encoder, Encoder]]:
    ids = Vocabulary(["good", "n't", "é", "<url>"]).ids
    common = {"max_tokens": 50, "truncate": "middle"}
    return [
        (Tokenizer("words", **way), Encoder(ids, **way, **common, subwords=0), Encoder(ids, **way, **common, subwords=9))
        for way in TEXT_WAYS
    ]  # fmt: skip


def text(data: bytes, folder: Path) -> None:
    """Any text becomes tokens that can be written, and numbers of the vocabulary, the same every time."""
    (tokenizer, encode, spell), content = chosen(data, _encoders())
    words = content.decode("utf-8", "surrogateescape")  # other bytes become half characters
    tokens = tokenizer(words)
    assert tokens == tokenizer(words)
    for token in tokens:
        assert token
        assert not any(map(str.isspace, token))
        token.encode()
    row = encode(words)
    assert row == encode(words)
    assert 1 <= len(row) <= 50
    assert set(row) <= set(range(1, 6))
    assert row == [i if isinstance(i, int) else UNKNOWN for i in spell(words)]
    known = list(dict.fromkeys(tokens))
    file = folder / "vocabulary.json"
    write_json(file, known, indent=0)
    assert vocabulary_of(file, len(known)) == known


def holder(data: bytes, folder: Path) -> None:
    """What stands in a lock is for a message alone."""
    file = folder / locking.LOCK
    file.write_bytes(data[1:])
    told = locking._in_use(file, os.open(file, os.O_RDONLY))
    assert told.isprintable()


def answers(data: bytes, folder: Path) -> None:
    """Lines on stdin: an answer for each, with the line and probabilities that add up to one."""
    (coverage, details), content = chosen(data, [(None, False), (None, True)])
    given, told = io.TextIOWrapper(io.BytesIO(content)), io.TextIOWrapper(io.BytesIO(), "utf-8")
    options = argparse.Namespace(coverage=coverage, abstain_below=0.0, details=details)
    stdin, sys.stdin = sys.stdin, given
    try:
        with contextlib.redirect_stdout(told):
            predict._predict_lines(untrained(), options)
    finally:
        sys.stdin = stdin
    told.seek(0)
    found = [json.loads(line) for line in told.read().split("\n")[:-1]]
    expected = io.StringIO(content.decode("utf-8", "replace"), newline=None).read().split("\n")
    assert [answer["text"] for answer in found] == (expected if expected[-1] else expected[:-1])
    for answer in found:
        assert math.isclose(sum(answer["probabilities"].values()), 1, abs_tol=1e-6)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)


@functools.cache
def untrained() -> SentimentClassifier:
    torch.manual_seed(0)
    argv = ["--model.embedding_size=8", "--model.hidden_size=8", "--text.subwords=50", "--text.max_tokens=30"]
    tiny = parse_config(argv, program="train", description="")
    vocabulary = Vocabulary(["good", "bad", "so", "é"])
    return SentimentClassifier(labels=["neg", "pos"], vocabulary=vocabulary, config=tiny, device="cpu")


def classifier(data: bytes, folder: Path) -> None:
    """A run of a classifier with one file replaced, its manifest too: it answers, or is refused."""
    name, content = chosen(data, RUN_FILES)
    run = RunFolder(folder / "run")
    if not run.path.exists():
        of = untrained()
        words = of.vocabulary.tokens[len(SPECIAL_TOKENS) :]
        run.begin(config_yaml=config_yaml(of.config), vocabulary=words, labels=of.labels, label_map={})
        run.save(BEST, {"model": of.model.state_dict()}, RUN_FACTS)
        shutil.copytree(run.path, folder / "whole")
    with replaced(run, folder / "whole", name, content):
        with refused_only_by(CheckpointError, RunError, ConfigError, naming=str(run.path)):
            loaded = load(run.path, device="cpu")
            for answer in loaded.predict(["so good", ""], details=True):
                assert answer.label in loaded.labels
                assert math.isclose(sum(answer.probabilities.values()), 1, abs_tol=1e-6)
                to_json_line(answer.probabilities).encode()


def exported(data: bytes, folder: Path) -> None:
    """An export with another model.json: it is taken, or refused with one of the errors that are announced."""
    model = folder / runtime.MODEL
    if not model.exists():
        model.write_bytes(_graph())
    (folder / runtime.FACTS).write_bytes(data[1:])
    with contextlib.suppress(OSError, ValueError):
        runtime.Classifier(folder, threads=1)


@functools.cache
def _graph() -> bytes:
    built: bytes = build_graph(untrained().model, temperature=1.0).SerializeToString()
    return built


def model_facts() -> dict[str, Any]:
    """Return what stands in the model.json of `exported`."""
    names = ("lowercase", "normalize", "max_tokens", "truncate", "subwords")
    of_text = {name: getattr(untrained().config.text, name) for name in names}
    facts = {"format": runtime.FORMAT, "sha256": hashlib.sha256(_graph()).hexdigest(), "text": of_text}
    return {**facts, "labels": ["neg", "pos"], "thresholds": [], "vocabulary": untrained().vocabulary.tokens}


def cache(data: bytes, folder: Path) -> None:
    """A damaged cache of tokens is whole, or none: then it is made anew."""
    name, content = chosen(data, ["meta.json", "rows.npz", "ids.bin"])
    if not (folder / "kept").exists():
        rows = folder / "rows.csv"
        rows.write_text("text,label\nso good,pos\nbad,neg\n", "utf-8")
        columns = Columns(text="text", label="label", group=None, filter={}, classes=None)
        with open_source(str(rows)) as source:
            made = tokenize_source(source, columns, Tokenizer("words", lowercase=True), folder / "made")
        shutil.copytree(folder / "made" / made.fingerprint, folder / "kept")
    shutil.copytree(folder / "kept", folder / "tried", dirs_exist_ok=True)
    (folder / "tried" / name).write_bytes(content)
    tokens._open(folder / "tried", "rows.csv")


# -- all of them -----------------------------------------------------------------------------------


def run_seeds(run: RunFolder) -> list[bytes]:
    return [bytes([i]) + (run.path / name).read_bytes() for i, name in enumerate(RUN_FILES)]


def _made(check: Check, *parts: str) -> list[bytes]:
    """Return the files that a target makes for itself as its seeds."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(AssertionError):
            check(b"\0", Path(folder))
        files = [Path(folder) / part for part in parts]
        return [bytes([i]) + file.read_bytes() for i, file in enumerate(files)]


def _vectors_seeds() -> list[bytes]:
    plain = "good 0.5 -1e-3\nbad 2 3\né -4 .5\n".encode()
    found = [b"\1" + plain, b"\0013 2\n" + plain, b"\2" + gzip.compress(plain)]
    trees = b"(3 (2 -LRB-) (4 (4 so) (3 good)))\n\n(0 bad)\n"
    return [*found, b"\0" + trees]


def _parquet_seeds() -> list[bytes]:
    def written(columns: dict[str, Any]) -> bytes:
        out = io.BytesIO()
        pq.write_table(pa.table(columns), out)
        return b"\0" + out.getvalue()

    return [
        written({"text": ["so", None, "é"], "label": [1, 2, None]}),
        written({"text": pa.array([[1.5], []]), "at": pa.array([2**62, -(2**62)], pa.timestamp("us"))}),
        written({"d": pa.array([2**31 - 1], pa.date32()), "n": pa.array([2**62], pa.duration("s"))}),
    ]


JSON_WORDS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"null",
    b"NaN",
    b"-0",
    b"1e999",
    b'"\\ud800"',
    b"[" * 200,
]
RUN_WORDS = [
    *JSON_WORDS,
    b"true",
    b"-1",
    b"0",
    b"F32",
    b"F64",
    b"U8",
    b'"shape"',
    b'"data_offsets"',
    b"!!int ",
    b"9" * 30,
]
TABLE_WORDS = [
    b",",
    b"\t",
    b'"',
    b'""',
    b"\n",
    b"\r",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b" ",
    b"+2AA-",
    b"\x1a",
]
YAML_WORDS = [
    b": ",
    b"- ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"&a ",
    b"*a",
    b"!!int ",
    b"!",
    b"'",
    b'"',
    b"|",
    b">",
    b"#",
    b"\n  ",
]
YAML_WORDS += [
    b"---",
    b"...",
    b"%YAML 1.1",
    b"? ",
    b"<<: ",
    b'"\\UFFFFFFFF"',
    b"null",
    b"trainer",
    b"epochs",
    b"1e3",
    b"0o7",
]
TEXT_WORDS = [
    "n't",
    "’",
    "&amp;",
    "<br />",
    "\\u2019",
    "\\ud83d",
    "😀",
    "@me",
    "http://",
    "\u200d",
    "́",
    "!!!",
    ":-)",
    "İ",
]
ANSWER_SEEDS = [b"\0so good\nbad\r\n\n\xff\xc3\x1b[31m", "\1é\u2028x\r".encode()]

TARGETS = {
    "delimited": Target(
        check=delimited,
        seeds=lambda: [
            *corpus_files("*/*.csv", 0), *corpus_files("tables/*", 1, 2),
            *(bytes([10 + i]) + pack(b"text,label\nso,a\n") for i, pack in enumerate((gzip.compress, bz2.compress, lzma.compress))),
            b"\4" + "text,label\né,a\n".encode("utf-16"),
        ],
        words=TABLE_WORDS,
    ),
    "json_lines": Target(check=json_lines, seeds=lambda: corpus_files("json_lines/*", 0), words=JSON_WORDS),
    "lines": Target(check=lines, seeds=_vectors_seeds, words=[b"(", b")", b" ", b"\t", b"\n", b"1e39", b"nan", b"\xff"]),
    "config": Target(
        check=config,
        seeds=lambda: [*corpus_files("config/*", 0), b"\1--trainer.epochs=3\0--data.labels\0{0: no, 1: null}"],
        words=YAML_WORDS,
    ),
    "checkpoint": Target(
        check=checkpoint,
        seeds=lambda: _made(checkpoint, *(f"whole/{name}" for name in RUN_FILES)),
        words=RUN_WORDS,
    ),
    "text": Target(
        check=text,
        seeds=lambda: [b"\3I can't say it's bad, but @you &amp; http://x.org :-( \\u2019", *corpus_files("texts/*", 0)],
        words=[word.encode() for word in TEXT_WORDS],
    ),
    "answers": Target(check=answers, seeds=lambda: ANSWER_SEEDS, words=[b"\n", b"\r", b"\0", b"\xff"], guided=False),
    "classifier": Target(
        check=classifier,
        seeds=lambda: _made(classifier, *(f"whole/{name}" for name in RUN_FILES)),
        words=RUN_WORDS,
        guided=False,
    ),
    "exported": Target(
        check=exported, seeds=lambda: [b"\0" + json.dumps(model_facts()).encode()], words=JSON_WORDS, guided=False
    ),
    "parquet": Target(check=parquet, seeds=_parquet_seeds, words=[b"PAR1", b"\0", b"\xff"], guided=False),
    "cache": Target(
        check=cache,
        seeds=lambda: _made(cache, *(f"kept/{name}" for name in ("meta.json", "rows.npz", "ids.bin"))),
        words=JSON_WORDS,
        guided=False,
    ),
    "holder": Target(
        check=holder, seeds=lambda: [b'\0{"pid": 1, "host": "a", "since": "b"}'], words=JSON_WORDS, guided=False
    ),
}  # fmt: skip


def inputs_of(target: Target) -> st.SearchStrategy[bytes]:
    """Return inputs: good and bad files with some places changed, and now and then any bytes."""
    seeds = target.seeds()
    words = st.sampled_from(target.words) | st.binary(max_size=4)
    edits = st.lists(st.tuples(st.sampled_from(list(EDITS)), PLACES, PLACES, words), max_size=4)
    changed = st.tuples(st.sampled_from(seeds), edits).map(lambda drawn: edited(*drawn))
    spliced = st.tuples(st.sampled_from(seeds), st.sampled_from(seeds), PLACES, PLACES).map(
        lambda drawn: drawn[0][: _at(drawn[0], drawn[2])] + drawn[1][_at(drawn[1], drawn[3]) :]
    )
    made = st.tuples(st.binary(min_size=1, max_size=1), st.lists(words, max_size=20)).map(
        lambda drawn: drawn[0] + b"".join(drawn[1])
    )
    return changed | changed | changed | spliced | made | st.binary(max_size=60)


PLACES = st.floats(0, 1)
EDITS: dict[str, Callable[[bytes, int, int, bytes], bytes]] = {
    "insert": lambda data, start, end, word: data[:start] + word + data[start:],
    "overwrite": lambda data, start, end, word: data[:start] + word + data[start + len(word) :],
    "replace": lambda data, start, end, word: data[:start] + word + data[end:],
    "remove": lambda data, start, end, word: data[:start] + data[end:],
    "repeat": lambda data, start, end, word: data[:end] + data[start:end] + data[end:],
    "cut": lambda data, start, end, word: data[:start],
}


def edited(data: bytes, edits: list[tuple[str, float, float, bytes]]) -> bytes:
    """Return an input with places changed; the first byte, which chooses, stays."""
    for name, one, other, word in edits:
        start, end = sorted((_at(data, one), _at(data, other)))
        data = EDITS[name](data, start, end, word)
    return data


def _at(data: bytes, place: float) -> int:
    return 1 + round(place * (len(data) - 1)) if data else 0


def try_inputs(name: str, count: int, folder: Path) -> None:
    """Give a target so many inputs; the smallest that it falls over is in the error's notes."""
    target = TARGETS[name]

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs_of(target))
    def check(data: bytes) -> None:
        target.check(data, folder)

    check()


def inputs(count: int, folder: Path) -> dict[str, int]:
    """Give each target so many inputs, for `scripts/soak`.

    Returns:
        `inputs`; and `lost`: targets that fell over one, which stderr tells.
    """
    counts = {"inputs": 0, "lost": 0}
    for name in TARGETS:
        (folder / name).mkdir()
        try:
            try_inputs(name, count, folder / name)
        except Exception:  # whatever came out that should not
            traceback.print_exc()
            counts["lost"] += 1
        counts["inputs"] += count
    return counts
