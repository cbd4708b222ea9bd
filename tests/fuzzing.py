"""Fuzz targets: every parser of external input, each as a function of bytes that must pass for any input.

An input is read, or refused with an error of this package that names the file and can be shown on a terminal.
Nothing else may happen, and the result must equal that of a plain reader of the same bytes. Targets are used
by the tests, by `scripts/fuzz` (guided by coverage, see `guided`) and by `scripts/soak`.

The first byte of an input selects how the rest is read.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import functools
import gzip
import io
import itertools
import json
import lzma
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
import torch
from hypothesis import strategies as st
from pyarrow import feather

from lstm_sentiment.checkpoints.manifest import MANIFEST, write_manifest
from lstm_sentiment.checkpoints.run_folder import BEST, SHARED_FILES, RunFolder
from lstm_sentiment.checkpoints.untrusted_files import classes_of_run, vocabulary_of, yaml_of
from lstm_sentiment.config.command_line import config_yaml, parse_config
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.yaml_files import read_file
from lstm_sentiment.data import token_store as tokens
from lstm_sentiment.data.cache_entry import IDS, META, ROWS, SUMS
from lstm_sentiment.data.formats.readers import as_text, read_chunks
from lstm_sentiment.data.formats.writers import to_json_line
from lstm_sentiment.data.sources.names import COMPRESSIONS
from lstm_sentiment.data.sources.sources import open_source
from lstm_sentiment.data.token_store import Columns, tokenize_source
from lstm_sentiment.data.word_vectors import load_vectors
from lstm_sentiment.errors import CheckpointError, ConfigError, DataError, SentimentError
from lstm_sentiment.system import lock as locking
from lstm_sentiment.system.files import write_json
from lstm_sentiment.text.encoder import Encoder
from lstm_sentiment.text.tokenization import SPECIAL_TOKENS, UNKNOWN
from lstm_sentiment.text.tokenizers import Tokenizer, Vocabulary

CORPUS = Path(__file__).parent / "corpus"
Check = Callable[[bytes, Path], None]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A parser to fuzz.

    Args:
        check: passes if an input (bytes, and an empty folder to work in) is dealt with as it should be.
        seeds: inputs to begin with, as files of `CORPUS` or as bytes: first byte -> what follows it.
        words: pieces that mean something to the parser.
        count: inputs that the tests try.
        guided: whether `scripts/fuzz` tries it too; the others are too slow for that, or not in Python.
    """

    check: Check
    seeds: Callable[[], list[bytes]]
    words: Sequence[bytes]
    count: int = 200
    guided: bool = True

    @property
    def says(self) -> str:
        """Description in one line."""
        return (self.check.__doc__ or "").splitlines()[0]


@contextlib.contextmanager
def refused_only_by(*errors: type[SentimentError], naming: str = "") -> Iterator[None]:
    """Accept these errors from a block if the message names a file and is safe on a terminal."""
    try:
        yield
    except errors as error:
        reported = str(error)
        assert is_harmless(reported), f"a terminal would obey {reported!r}"
        assert naming in reported, f"{naming} is not named in {reported!r}"


def is_harmless(reported: str) -> bool:
    """Whether a message has no terminal control characters; U+200D joins parts of an emoji."""
    return reported.replace("\n", "").replace("\u200d", "").isprintable()


def chosen(data: bytes, among: Sequence[Any]) -> tuple[Any, bytes]:
    """Return the choice of the first byte and the remaining bytes."""
    return among[(data[0] if data else 0) % len(among)], data[1:]


def corpus_files(pattern: str, *first: int) -> list[bytes]:
    files = [file.read_bytes() for file in sorted(CORPUS.glob(pattern))]
    assert files, pattern
    return [bytes([byte]) + content for byte in first for content in files]


# -- rows ------------------------------------------------------------------------------------------

ENCODINGS = ("utf-8", "utf-16", "latin-1", "utf-7", "shift_jis")
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
            cells = [row for frame in found for row in frame.to_numpy().tolist()]
            table = ([list(frame.columns) for frame in found], cells, lines)
            delimiter = "\t" if ending == ".tsv" else ","
            assert any(
                table
                == (
                    [expected[0][1]] * len(found),
                    [row for _, row in expected[1:]],
                    [line for line, _ in expected[1:]],
                )
                for expected in plain_tables(content, encoding, errors, delimiter)
            )


HELD_RETURN = "\ue00d"
QUOTES: tuple[dict[str, Any], ...] = (
    {},
    {"quoting": csv.QUOTE_NONE},
    {"doublequote": False, "escapechar": "\\"},
)


def plain_tables(
    content: bytes, encoding: str, errors: str, delimiter: str
) -> Iterator[list[tuple[int, list[str]]]]:
    """Yield the records of a table with their first lines, for each quoting dialect.

    Header first, blank lines left out; what they mean may be guessed (see `data.formats.dialects`).
    """
    text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding, errors)
    kept = re.sub(r"\r(?!\n|\Z)", HELD_RETURN, text)  # a carriage return that is a part of a field
    for written, quotes in itertools.product(dict.fromkeys((text, kept)), QUOTES):
        with contextlib.suppress(csv.Error):
            lines = io.StringIO(written, newline="")
            found = records(csv.reader(lines, delimiter=delimiter, strict=True, **quotes))
            yield [(line, [cell.replace(HELD_RETURN, "\r") for cell in row]) for line, row in found]


def records(reader: Any) -> list[tuple[int, list[str]]]:
    """Return the records of a `csv.reader` with their first lines."""
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
            numbered = enumerate(re.split("\r\n|\r|\n", content.decode("utf-8-sig")), start=1)
            expected = [(line, json.loads(text)) for line, text in numbered if text.strip()]
            assert [int(line) for chunk in chunks for line in chunk.lines] == [line for line, _ in expected]
            if b"\\ud" not in content.lower():  # halves of characters are replaced
                for found, (_, record) in zip(records, expected, strict=True):
                    assert same({key: found[key] for key in record}, record)


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


def documents(data: bytes, folder: Path) -> None:
    """JSON arrays and files of lines: what `json` finds, or the lines of a text, or a `DataError`."""
    kind, content = chosen(data, ["json", "json", "labelled.txt", "plain.txt"])
    file = folder / f"rows.{kind}"
    file.write_bytes(content)
    with refused_only_by(DataError, naming=str(file)), open_source(str(file)) as source:
        chunks = list(read_chunks(source, labelled=kind != "plain.txt"))
        records = [record for chunk in chunks for record in chunk.frame.to_dict("records")]
        for record in records:
            json.loads(to_json_line(record).encode())
        if (
            kind == "json"
            and content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
            and b"\\ud" not in content.lower()
        ):
            for found, expected in zip(records, json.loads(content.decode("utf-8-sig")), strict=True):
                if not isinstance(expected.get("data"), dict):
                    assert same({key: found[key] for key in expected}, expected)


def packed(data: bytes, folder: Path) -> None:
    """Zip archives, workbooks and Feather: rows, or a `DataError`."""
    kind, content = chosen(data, ["zip", "xlsx", "feather"])
    file = folder / f"rows.{kind}"
    file.write_bytes(content)
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
    """The phrases of a tree consist of words of its sentence, and every non-empty line is one tree."""
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
    """Word vectors: each known word has the values of its line, or a `ConfigError` names a line."""
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
    """A YAML file or a command line gives settings that round-trip."""
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


def small_run(folder: Path) -> RunFolder:
    """Return a run with a checkpoint, recreated if an input may have changed it."""
    run = RunFolder(folder / "run")
    run.begin(config_yaml="seed: 0\n", vocabulary=["so", "é"], labels=["neg", "pos"], label_map={"0": "neg"})
    run.save(BEST, {"model": RUN_TENSORS}, {"step": 3, "training": {"best_epoch": 1}, "data": "x"})
    return run


def checkpoint(data: bytes, folder: Path) -> None:
    """A run with one file replaced and a matching manifest: read, or a `CheckpointError`."""
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
    """Replace the content of a file of a run, with a matching manifest, for the block."""
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

TEXT_WAYS: list[dict[str, Any]] = [
    {"lowercase": lowercase, "normalize": normalize}
    for lowercase in (True, False)
    for normalize in ("none", "escapes+negation")
]


@functools.cache
def _encoders() -> list[tuple[Tokenizer, Encoder, Encoder]]:
    def encoder(way: dict[str, Any], subwords: int) -> Encoder:
        return Encoder(ids, **way, max_tokens=50, truncate="middle", subwords=subwords)

    ids = Vocabulary(["good", "n't", "é", "<url>"]).ids
    return [(Tokenizer("words", **way), encoder(way, 0), encoder(way, 9)) for way in TEXT_WAYS]


def text(data: bytes, folder: Path) -> None:
    """Any text becomes encodable tokens and token ids, deterministically."""
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
    """The content of a lock file is only used in a message."""
    file = folder / locking.LOCK
    file.write_bytes(data[1:])
    reported = locking._in_use(file, os.open(file, os.O_RDONLY), "--out")
    assert is_harmless(reported)


CACHE_FILES = [META, ROWS, IDS, SUMS]


def cache(data: bytes, folder: Path) -> None:
    """A damaged token cache is intact or rejected, and then rebuilt."""
    name, content = chosen(data, CACHE_FILES)
    if not (folder / "kept").exists():
        rows = folder / "rows.csv"
        rows.write_text("text,label\nso good,pos\nbad,neg\n", "utf-8")
        columns = Columns(text="text", label="label", group=None, filter={}, classes=None)
        with open_source(str(rows)) as source:
            made = tokenize_source(source, columns, Tokenizer("words", lowercase=True), folder / "made")
        shutil.copytree(folder / "made" / made.fingerprint, folder / "kept")
    shutil.copytree(folder / "kept", folder / "tried", dirs_exist_ok=True)
    (folder / "tried" / name).write_bytes(content)
    if name != SUMS:  # otherwise only the checksum would be tested
        sums = {part: zlib.crc32((folder / "tried" / part).read_bytes()) for part in (IDS, ROWS, META)}
        (folder / "tried" / SUMS).write_text(json.dumps(sums))
    with open_source(str(folder / "rows.csv")) as source:
        tokens._opened(folder / "tried", source)


# -- all of them -----------------------------------------------------------------------------------


def seeds_made_by(check: Check, *parts: str) -> list[bytes]:
    """Return generated seed files of a target."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(AssertionError):
            check(b"\0", Path(folder))
        files = [Path(folder) / part for part in parts]
        return [bytes([i]) + file.read_bytes() for i, file in enumerate(files)]


def _line_seeds() -> list[bytes]:
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


def _table_seeds() -> list[bytes]:
    packed = [gzip.compress, bz2.compress, lzma.compress]  # as in TABLE_WAYS
    first = len(TABLE_WAYS) - len(COMPRESSIONS)
    return [
        *corpus_files("*/*.csv", 0),
        *corpus_files("tables/*", 1, 2),
        *(bytes([first + i]) + pack(b"text,label\nso,a\n") for i, pack in enumerate(packed)),
        b"\4" + "text,label\né,a\n".encode("utf-16"),
    ]


def _packed_seeds() -> list[bytes]:
    """Return archives with uncompressed members, so that mutations reach their content."""
    book, archive, stored, columns = (io.BytesIO() for _ in range(4))
    rows = openpyxl.Workbook()
    for row in (["text", "label"], ["so", "a"], ["no", 1]):
        rows.active.append(row)
    rows.save(book)
    with zipfile.ZipFile(book) as old, zipfile.ZipFile(stored, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with zipfile.ZipFile(archive, "w") as new:
        new.writestr("rows.csv", "text,label\nso,a\n")
    feather.write_feather(pa.table({"text": ["so", None], "label": ["a", "b"]}), columns, "uncompressed")
    return [bytes([kind]) + of.getvalue() for kind, of in enumerate((archive, stored, columns))]


def _config_seeds() -> list[bytes]:
    return [*corpus_files("config/*", 0), b"\1--trainer.epochs=3\0--data.labels\0{0: no, 1: null}"]


def _text_seeds() -> list[bytes]:
    return [b"\3I can't say it's bad, but @you &amp; http://x.org :-( \\u2019", *corpus_files("texts/*", 0)]


def _words(text: str) -> list[bytes]:
    return [word.encode() for word in text.split(" ")]


JSON_WORDS = [*_words('{ } [ ] " , : null NaN -0 1e999 "\\ud800"'), b"[" * 200]
RUN_WORDS = [*JSON_WORDS, *_words("true -1 0 F32 F64 U8 shape data_offsets !!int &a *a"), b"9" * 30]
TABLE_WORDS = [*_words(', \t " "" \n \r \r\n \0 \ufeff \x1a +2AA- aaaaaaaaaaaaaaaa'), b"\xff", b" "]
YAML_WORDS = [
    *_words("{ } [ ] &a *a !!int ! ' | > # --- ... %YAML null trainer epochs 1e3 0o7"),
    b": ",
    b"\n- ",
]
YAML_WORDS += [b'"\\UFFFFFFFF"', b"? ", b"<<: ", b"\n  ", b'"\\0"']
TEXT_WORDS = _words("n't ’ &amp; <br /> \\u2019 \\ud83d 😀 @me http:// \u200d \u0301 !!! :-) İ \ufeff")
LINE_WORDS = [*_words("( ) \t \n 1e39 nan -1 -LRB-"), b" ", b"\xff"]

TARGETS = {
    "delimited": Target(check=delimited, seeds=_table_seeds, words=TABLE_WORDS),
    "json_lines": Target(check=json_lines, seeds=lambda: corpus_files("json_lines/*", 0), words=JSON_WORDS),
    "documents": Target(
        check=documents,
        seeds=lambda: [*corpus_files("formats/*.json", 0), *corpus_files("formats/*.txt", 2, 3)],
        words=[*JSON_WORDS, b"__label__", b'"data"', b'"annotations"', b'"choices"'],
    ),
    "packed": Target(check=packed, seeds=_packed_seeds, words=[b"PK", b"<row", b"ARROW1"], guided=False),
    "lines": Target(check=lines, seeds=_line_seeds, words=LINE_WORDS),
    "config": Target(check=config, seeds=_config_seeds, words=YAML_WORDS, count=25),
    "checkpoint": Target(
        check=checkpoint,
        seeds=lambda: seeds_made_by(checkpoint, *(f"whole/{name}" for name in RUN_FILES)),
        words=RUN_WORDS,
    ),
    "text": Target(check=text, seeds=_text_seeds, words=TEXT_WORDS),
    "parquet": Target(check=parquet, seeds=_parquet_seeds, words=[b"PAR1", b"\0", b"\xff"], guided=False),
    "cache": Target(
        check=cache,
        seeds=lambda: seeds_made_by(cache, *(f"kept/{name}" for name in CACHE_FILES)),
        words=JSON_WORDS,
        guided=False,
    ),
    "holder": Target(
        check=holder,
        seeds=lambda: [b'\0{"pid": 1, "host": "a", "since": "b"}'],
        words=JSON_WORDS,
        guided=False,
    ),
}
GUIDED = [name for name, target in TARGETS.items() if target.guided]


def hidden(data: bytes, folder: Path) -> None:
    """A bug behind four comparisons: random inputs would need 2**32 tries, coverage guidance finds it."""
    if data[1:2] == b"f" and data[2:3] == b"u" and data[3:4] == b"z" and data[4:5] == b"z":
        raise LookupError("found")


CONTROLS = {"hidden": Target(check=hidden, seeds=lambda: [b"\0....."], words=[b"."])}


def inputs_of(target: Target) -> st.SearchStrategy[bytes]:
    """Return inputs: mutated good and bad files, and sometimes random bytes."""
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
    """Return a mutated input; the first byte is kept."""
    for name, one, other, word in edits:
        start, end = sorted((_at(data, one), _at(data, other)))
        data = EDITS[name](data, start, end, word)
    return data


def _at(data: bytes, place: float) -> int:
    return 1 + round(place * (len(data) - 1)) if data else 0
