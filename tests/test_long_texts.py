"""Long texts and texts without spaces: the same tokens in bounded memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from attacks import GOOD_RUN

from lstm_sentiment import load, predict
from lstm_sentiment.data.sources.sources import MAX_LINE
from lstm_sentiment.errors import DataError
from lstm_sentiment.text import encoder
from lstm_sentiment.text import tokenizers as text
from lstm_sentiment.text.encoder import REMEMBERED_BYTES, Encoder, cut
from lstm_sentiment.text.tokenization import LONGEST_PIECE, TOKEN, clean, words
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer, Vocabulary, count_unknown

MEGABYTE = 10**6
ALPHABETS = ["ab ", "aé 好!", "x", "好", "a\u0301 ", "😀a", "…! ", "'a", "é", "#é"]


def long_texts() -> Iterator[str]:
    randomness = random.Random(0)
    for alphabet in ALPHABETS:
        for length in (0, 7, 9_999, 10_001, 30_000):
            yield "".join(randomness.choices(alphabet, k=length))


def test_lexicon_and_encoder_give_the_tokens_of_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PIECES_AT_ONCE", 1000)
    monkeypatch.setattr(text, "CHARACTERS_AT_ONCE", 5000)
    monkeypatch.setattr(encoder, "LONG_TEXT", 5000)
    texts, tokenizer = list(long_texts()), Tokenizer("words", lowercase=True)
    lexicon = Lexicon(tokenizer)
    numbers_N, lengths_R = lexicon.encode(texts)
    ends, tokens = np.cumsum(lengths_R), lexicon.tokens
    ids = {token: i + 2 for i, token in enumerate(tokens[::2])}
    encoders = [
        Encoder(ids, lowercase=True, max_tokens=most, truncate=truncate, subwords=0)
        for truncate in ("head", "tail", "middle")
        for most in (1, 7, 512)
    ]
    for one, end, length in zip(texts, ends, lengths_R, strict=True):
        expected = tokenizer(one)
        assert [tokens[i] for i in numbers_N[end - length : end]] == expected == words(one.lower())
        row = [ids.get(token, 1) for token in expected]
        for encode in encoders:
            assert encode(one) == (cut(row, encode._max_tokens, encode._truncate) or [1])


@pytest.mark.parametrize("length", [1, 2, 5, 6, 20])
def test_truncation_is_equal_for_lists_and_streams(length: int) -> None:
    items = list(range(length))
    for most in (1, 2, 5, 6):
        over = max(0, length - most)
        kept = {"head": items[:most], "tail": items[over:]}
        half = (most + 1) // 2
        kept["middle"] = items if not over else items[:half] + items[length - (most - half) :]
        for truncate, expected in kept.items():
            assert cut(items, most, truncate) == cut(iter(items), most, truncate) == expected


def test_ten_thousand_characters_without_white_space_end_a_chunk() -> None:
    assert words("x" * LONGEST_PIECE) == ["x" * 64]
    assert words("x" * (LONGEST_PIECE + 1)) == ["x" * 64, "x"]
    assert words("so " + "x" * 3 * LONGEST_PIECE + " so") == ["so", *["x" * 64] * 3, "so"]
    assert words("好" * (LONGEST_PIECE + 1)) == ["好"] * (LONGEST_PIECE + 1)


def test_pieces_are_as_long_as_the_pattern_says_whatever_separates_them() -> None:
    """Texts with enough spaces are not searched; the others are, also for other white space."""
    randomness, cut_texts = random.Random(0), 0
    for _ in range(100):
        lengths = randomness.choices((1, 500, LONGEST_PIECE - 1, LONGEST_PIECE, LONGEST_PIECE + 1), k=4)
        one = "".join("x" * length + randomness.choice("  \n") for length in lengths)
        expected = max(lengths) > LONGEST_PIECE
        assert (clean(one) != one) == expected
        assert max(map(len, clean(one).split())) <= LONGEST_PIECE
        cut_texts += expected
    assert 20 < cut_texts < 80


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_for_an_endless_word_is_bounded() -> None:
    """And the control: without chunks the pattern takes a hundred bytes per character."""

    def most_taken(split: str) -> int:
        code = f"from lstm_sentiment.text.tokenization import *; {split}"
        code += "; print(open('/proc/self/status').read())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return 1024 * int(done.stdout.partition("VmHWM:")[2].split()[0])

    assert TOKEN.findall("é" * 100) == ["é" * 100]
    base, whole, pieces = map(most_taken, ("0", "TOKEN.findall('é' * 10**6)", "words('é' * 10**6)"))
    assert pieces - base < 20 * MEGABYTE
    assert whole - base > 70 * MEGABYTE
    assert len(words("é" * MEGABYTE)) == 100


def remembered(encode: Encoder) -> int:
    """Return the bytes of the cached pieces and their rows."""
    rows = encode._rows
    return sum(sys.getsizeof(piece) + sys.getsizeof(row) for piece, row in rows.items()) + sys.getsizeof(rows)


def test_the_cache_of_an_encoder_is_bounded_by_bytes() -> None:
    encode = Encoder({}, lowercase=True, max_tokens=64, truncate="tail", subwords=50)
    for i in range(10):
        encode(f"{i}x" * 100_000)  # a megabyte a call, once remembered whole
    assert remembered(encode) < MEGABYTE
    randomness = random.Random(0)
    most = 0
    for _ in range(15):
        encode(" ".join("".join(randomness.choices("aé好!", k=40)) for _ in range(2_000)))
        assert remembered(encode) < REMEMBERED_BYTES // 2  # without those that rows and pieces share
        most = max(most, len(encode._rows))
    assert most > 5_000
    assert encode("so so") == ["so", "so"]


def test_cached_pieces_count_by_their_length() -> None:
    """The control: a bound of a hundred thousand pieces does not bound memory."""
    import functools

    encode = Encoder({}, lowercase=True, max_tokens=64, truncate="head", subwords=50)
    row_of = functools.lru_cache(100_000)(encode._split_row)
    tracemalloc.start()
    for i in range(20):
        row_of(f"{i}" + "x" * MEGABYTE)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken > 20 * MEGABYTE


def test_the_cache_of_a_lexicon_is_bounded_by_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MEMO_CHARACTERS", 100_000)
    tokenizer = Tokenizer("words", lowercase=True)
    lexicon, forgetful = Lexicon(tokenizer), Lexicon(tokenizer)
    for i in range(30):
        forgetful.encode([f"so {i}{'x' * 9_000} good"])
        assert len(forgetful._pieces) <= 40
    monkeypatch.undo()
    for i in range(30):
        lexicon.encode([f"so {i}{'x' * 9_000} good"])
    assert lexicon.tokens == forgetful.tokens


def test_unknown_tokens_of_long_texts_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer, vocabulary = Tokenizer("words", lowercase=True), Vocabulary(["so", "good"])
    one = "so good, so Odd! " * 50
    whole = count_unknown(one, tokenizer, vocabulary)
    monkeypatch.setattr(text, "LONG_TEXT", 10)
    assert count_unknown(one, tokenizer, vocabulary) == whole == (300, 150)


def test_buffered_texts_of_a_generator_are_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = load(GOOD_RUN, device="cpu")
    held: list[int] = []
    real = type(classifier)._read_few

    def read_few(self: Any, texts: list[str], counted: bool) -> Any:
        held.append(len(texts))
        return real(self, texts, counted)

    monkeypatch.setattr(type(classifier), "_read_few", read_few)
    many = classifier.predict_proba("good " * 100_000 for _ in range(30))
    assert len(many) == 30
    assert max(held) <= 9
    assert np.allclose(many, classifier.predict_proba("good " * 100_000), atol=1e-6)


# -- whole commands --------------------------------------------------------------------------------


ROWS: dict[str, list[tuple[str, int]]] = {  # texts, each a number of times; short words take longest
    "texts of a megabyte": [("word " * 200_000, 5), (f"{'w' * 60} " * 16_400, 95)],
    "words without end": [("é" * (MAX_LINE - 100), 2)],
    "emoji": [("😀 " * (MAX_LINE // 2 - 100), 2)],
}
MOST_GROWN = {  # the texts of a megabyte would take 100 more
    "texts of a megabyte": 150 * MEGABYTE,
    "words without end": 280 * MEGABYTE,
    "emoji": 280 * MEGABYTE,
}
MEASURE = """
import json, sys
from memory_runner import measured
from lstm_sentiment import predict
run, out, *files = sys.argv[1:]
def label(file):
    predict.main([run, f"--file={file}", f"--out={file}.csv.gz", "--details", "--device=cpu"])
label(files.pop(0))  # imports are not counted
with open(out, "w") as results:
    json.dump([measured(lambda: label(file)) for file in files], results)
"""


def write_rows(file: Path, rows: list[tuple[str, int]]) -> Path:
    """Write texts, each a number of times; return the file."""
    with pa.output_stream(file, compression="zstd") as out:
        out.write(b"text,label\n")
        for text, times in rows:
            for _ in range(times):
                out.write(f"{text},positive\n".encode())
    assert file.stat().st_size < MEGABYTE
    return file


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How much memory grows while `predict` labels a file of each kind, in one process."""
    folder = tmp_path_factory.mktemp("rows")
    kinds = {"short": [("so good", 2)], **ROWS}
    files = [write_rows(folder / f"{kind}.csv.zst", rows) for kind, rows in kinds.items()]
    paths = os.pathsep.join(map(str, [Path(__file__).parents[1], Path(__file__).parent]))
    command = [sys.executable, "-c", MEASURE, str(GOOD_RUN), str(folder / "results"), *map(str, files)]
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads((folder / "results").read_text())
    return {kind: found["grown"] for kind, found in zip(ROWS, results, strict=True)}


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted as Linux does")
@pytest.mark.parametrize("kind", ROWS)
def test_predict_labels_any_file_in_280_megabytes_more(grown: dict[str, int], kind: str) -> None:
    assert grown[kind] < MOST_GROWN[kind]


@pytest.mark.parametrize("made", [b"x" * (MAX_LINE + 1), "é".encode() * (MAX_LINE + 1) + b"\nso\n"])
def test_an_endless_line_of_stdin_is_refused(
    made: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import io

    stdin = io.TextIOWrapper(io.BytesIO(b"so good\n" + made), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(DataError) as caught:
        predict.main([str(GOOD_RUN)])
    assert str(caught.value) == (
        "stdin:2: the line is longer than 4,194,304 characters; end each text with a line break, or cut it"
    )
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] in ([], ["so good"])
    assert encoder.LONG_TEXT < MAX_LINE
