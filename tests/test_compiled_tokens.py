"""The compiled tokenizer equals the one in Python, stays within its buffers, and is never needed."""

from __future__ import annotations

import ctypes
import itertools
import logging
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_sentiment.kernels import tokens as module
from lstm_sentiment.kernels.tokens import TokenTable, library
from lstm_sentiment.text import tokenizers
from lstm_sentiment.text.tokenizers import Lexicon, Tokenizer

SOURCE = Path(module.__file__).with_name("tokens.c")
COMPILER = shutil.which("cc") or shutil.which("gcc")
NORMALIZE = ("none", "negation")
needs_library = pytest.mark.skipif(library() is None, reason="the package was built without a C compiler")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
quick = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))

SIGNS = "don'tNxX8D3:;=-o*)(][/\\|pP<>^_.T@#!?,`w\x01é’ "  # all that the pattern distinguishes
PLAIN = (
    "can't DON'T n't n'tn't an'tn't isn't't don't's http://a.b https:// https://x www. www.x.de HTTP://a "
    "@ @bob @@bob #good # #1 <3 </3 <<33 <3x 3.5 1,000.5 10:30 1. 1.a 8) x3 xD dd: d': (-: :-)) :d)x :* "
    "o.O O_o -_- -_-x ^_^ ^.^ T_T >.< '90s ''s so-so so--so rock'n'roll `x ... .. . ?! !!!! -- _ a_b "
    "&amp; &#128512; <br/> <br /> \\u2019 naïve it’s 😀 👍🏽 日本語 ไทย e\u0301 ÀB a\u00a0b a\u2003b \u200d"
)
LONG = ["x" * 64, "x" * 65, "é" * 70, "!" * 70, "a-" * 70]
WORDS = [*PLAIN.split(" "), *LONG, "\ud800", "\ud83d", "\x00", "\x7f", "\x85", "\ufeff"]
TEXTS = st.lists(
    st.one_of(
        st.text(st.sampled_from(SIGNS), max_size=12),
        st.text(max_size=12),
        st.lists(st.sampled_from(WORDS), max_size=6).map("".join),
        st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join),
    ),
    max_size=6,
)


def tokens_of(lexicon: Lexicon, texts: list[str]) -> list[list[str]]:
    numbers_N, lengths_R = lexicon.encode(texts)
    assert (numbers_N.dtype, lengths_R.dtype, int(lengths_R.sum())) == (np.int32, np.int64, len(numbers_N))
    known, ends = lexicon.tokens, np.cumsum(lengths_R)
    return [
        [known[number] for number in numbers_N[end - length : end].tolist()]
        for end, length in zip(ends, lengths_R, strict=True)
    ]


def in_order(texts: list[list[str]]) -> list[str]:
    return list(dict.fromkeys(itertools.chain.from_iterable(texts)))


def compare(texts: list[str]) -> None:
    """Against the tokenizer in Python: the tokens of each text, and the order of their numbers."""
    for normalize, lowercase in itertools.product(NORMALIZE, (False, True)):
        tokenizer = Tokenizer("words", lowercase=lowercase, normalize=normalize)
        lexicon = Lexicon(tokenizer)
        expected = [tokenizer(text) for text in texts]
        assert tokens_of(lexicon, texts) == expected
        assert lexicon.tokens == in_order(expected)
        assert tokens_of(lexicon, texts[::-1]) == expected[::-1], "known items"
        assert lexicon.tokens == in_order(expected)


@pytest.fixture(params=["compiled", "without"])
def _either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without":
        monkeypatch.setattr(tokenizers, "library", lambda: None)
    elif library() is None:
        pytest.skip("the package was built without a C compiler")


@pytest.mark.usefixtures("_either")
@given(TEXTS)
@quick
def test_any_texts_have_the_same_tokens(texts: list[str]) -> None:
    compare(texts)


@needs_library
def test_all_short_pieces_have_the_same_tokens() -> None:
    """All of up to three signs; and a sample of longer ones."""
    pieces = ["".join(of) for size in (1, 2, 3) for of in itertools.product(SIGNS[:-1], repeat=size)]
    draw = random.Random(0)
    pieces += ["".join(draw.choices(SIGNS[:-1], k=draw.randint(4, 9))) for _ in range(20_000)]
    for normalize in NORMALIZE:
        tokenizer = Tokenizer("words", lowercase=False, normalize=normalize)
        expected = [tokenizer(piece) for piece in pieces]
        assert tokens_of(Lexicon(tokenizer), pieces) == expected


@needs_library
def test_every_ascii_character_between_others() -> None:
    characters = [chr(code) for code in range(128)]
    compare([f"{a}{b}" for a in characters for b in characters])
    compare([f"a{b}a {b} 1{b}1 {b}a" for b in characters])


@pytest.mark.usefixtures("_either")
def test_forgetting_items_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["good, bad, naïve? good", "bad! worse 日本 :)", "good good! so-so", ""] * 3
    tokenizer = Tokenizer("words", lowercase=True)
    expected = [tokenizer(text) for text in texts]
    monkeypatch.setattr(tokenizers, "MEMO_LIMIT", 2)
    lexicon = Lexicon(tokenizer)
    assert [tokens_of(lexicon, [text])[0] for text in texts] == expected
    assert lexicon.tokens == in_order(expected)


@needs_library
@pytest.mark.parametrize("entries", [1, 4])
def test_a_table_grows(monkeypatch: pytest.MonkeyPatch, entries: int) -> None:
    monkeypatch.setattr(module, "FIRST_ENTRIES", entries)
    monkeypatch.setattr(module, "FIRST_BYTES", entries)
    table = TokenTable(negation=False)
    texts = [f"{'x' * size} @{size} {size}é {'!,' * size}" for size in range(60)]
    found_N, counts_R = table.split(texts)
    items = table.take_new()
    assert (len(table), table.size) == (len(items), sum(len(item.encode()) + 1 for item in items))
    whole = TokenTable(negation=False)
    one_by_one = [whole.split([text])[0].tolist() for text in texts]
    assert np.split(found_N, np.cumsum(counts_R)[:-1])[7].tolist() == one_by_one[7]
    assert found_N.tolist() == list(itertools.chain.from_iterable(one_by_one))
    assert whole.take_new() == items
    assert table.take_new() == []


@needs_library
def test_no_texts_and_empty_texts() -> None:
    table = TokenTable(negation=True)
    assert [of.tolist() for of in table.split([])] == [[], []]
    assert [of.tolist() for of in table.split(["", " \n"])] == [[], [0, 0]]


# -- which library ---------------------------------------------------------------------------------


@pytest.fixture
def _fresh_search() -> Iterator[None]:
    library.cache_clear()
    yield
    library.cache_clear()


@needs_library
@pytest.mark.usefixtures("_fresh_search")
def test_a_library_of_another_version_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "INTERFACE", module.INTERFACE + 1)
    with caplog.at_level(logging.WARNING):
        assert library() is None
    assert "is of another version and not used: reinstall the package" in caplog.text
    compare(["so good, naïve!"])


@pytest.mark.usefixtures("_fresh_search")
@pytest.mark.parametrize("case", ["missing", "broken", "another program's"])
def test_without_a_library_texts_are_split_in_python(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "tokens.py"))
    name = f"_tokens{module.sysconfig.get_config_var('EXT_SUFFIX')}"
    if case == "broken":
        (tmp_path / name).write_bytes(b"\x7fELF, but no more")
    elif case == "another program's":
        monkeypatch.setattr(ctypes, "CDLL", lambda path: ctypes.PyDLL(None))
        (tmp_path / name).touch()
    assert library() is None
    compare(["so good, naïve!"])


# -- the source ------------------------------------------------------------------------------------

HARNESS = """
#include "SOURCE"
#include <stdio.h>
#include <stdlib.h>

/* Splits texts, each in a buffer of its size, with a table that is as small as it may be. */
int main(void) {
    int64_t size, needed = 0, entries = 0, taken = 0;
    tokens_begin();
    while (fread(&size, sizeof size, 1, stdin) == 1) {
        uint8_t *bytes = malloc((size_t)size);
        if (size && fread(bytes, 1, (size_t)size, stdin) != (size_t)size) return 2;
        int32_t *found = malloc(sizeof *found * (size_t)size);
        int64_t counts = 0;
        for (int negation = 0; negation < 2; negation++) {
            Tokens of = {.texts = 1, .negation = negation, .slot_count = 1, .item_room = size, .bytes = bytes,
                         .ends = &size, .found = found, .counts = &counts, .seed = 7};
            of.slots = calloc(1, sizeof *of.slots);
            of.hashes = malloc(0);
            of.starts = calloc(1, sizeof *of.starts);
            of.arena = malloc(0);
            while (tokens_split(&of, &needed)) {
                of.entry_room = of.entries + needed;
                of.arena_room = of.starts[of.entries] + 7 * needed;
                while (of.slot_count < 2 * of.entry_room) of.slot_count *= 2;
                of.hashes = realloc(of.hashes, sizeof *of.hashes * (size_t)of.entry_room);
                of.starts = realloc(of.starts, sizeof *of.starts * (size_t)(of.entry_room + 1));
                of.arena = realloc(of.arena, (size_t)of.arena_room);
                free(of.slots);
                of.slots = calloc((size_t)of.slot_count, sizeof *of.slots);
                tokens_rehash(&of);
            }
            entries += of.entries;
            taken += of.items;
            free(of.slots), free(of.hashes), free(of.starts), free(of.arena);
        }
        free(bytes), free(found);
    }
    printf("%lld %lld\\n", (long long)entries, (long long)taken);
    return 0;
}
"""
SANITIZED = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compiled(source: str, out: Path, *flags: str, main: str = "") -> Path:
    """Compile a version of the source, and a program around it."""
    assert COMPILER is not None
    file = out.with_suffix(".of.c")
    file.write_text(source)
    if main:
        out.with_suffix(".main.c").write_text(main.replace("SOURCE", file.name))
        file = out.with_suffix(".main.c")
    done = subprocess.run(
        [COMPILER, *flags, str(file), "-o", str(out)], capture_output=True, text=True, check=False
    )
    if "sanitize" in done.stderr or "cannot find -lasan" in done.stderr or "-lubsan" in done.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert done.returncode == 0, done.stderr
    return out


def hostile_texts() -> bytes:
    draw = random.Random(1)
    texts = [*WORDS, *(word[:size] for word in WORDS for size in range(min(len(word), 9)))]
    texts += ["".join(draw.choices(SIGNS, k=draw.randint(1, 40))) for _ in range(3_000)]
    encoded = [text.encode("utf-8", "replace") for text in texts]
    return b"".join(len(text).to_bytes(8, "little") + text for text in encoded)


def run_sanitized(program: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(program)], input=hostile_texts(), capture_output=True, check=False)


@needs_compiler
def test_nothing_is_read_or_written_beyond_a_buffer(tmp_path: Path) -> None:
    done = run_sanitized(compiled(SOURCE.read_text(), tmp_path / "whole", *SANITIZED, main=HARNESS))
    assert done.returncode == 0, done.stderr.decode()[:2000]
    entries, items = map(int, done.stdout.split())
    assert 10_000 < entries < items


@needs_compiler
@pytest.mark.parametrize(
    ("find", "replace"),
    [
        ("return at == end || !IS(*at, WORD);", "return !IS(*at, WORD);"),
        ("int64_t slot = hashed & mask, entry = -1;", "int64_t slot = (hashed & mask) + 1, entry = -1;"),
    ],
)
def test_the_sanitizers_notice_a_fault(tmp_path: Path, find: str, replace: str) -> None:
    """The control of the test above."""
    source = SOURCE.read_text()
    assert source.count(find) == 1
    done = run_sanitized(
        compiled(source.replace(find, replace), tmp_path / "faulty", *SANITIZED, main=HARNESS)
    )
    assert b"AddressSanitizer" in done.stderr


FAULTS = {
    "a token may be longer": ("enum { LONGEST = 64", "enum { LONGEST = 65"),
    "a run of marks is not shortened": ("SHORTENED = 3", "SHORTENED = 4"),
    "x begins words only": ('mark("abcefgijklmnpqrstuvyzABC', 'mark("abcefgijklmnpqrstuvxyzABC'),
    "an emoticon may end within a word": ("if (no_word_at(last, end)) return last;", "return last;"),
    "a negation may be within a word": ("no_word_at(at + 3, end)) {", "1) {"),
    "a negation follows a negation": (" && !(at - start >= 3 && is_negation(at - 3))", ""),
    "a unit separator is no space": ("\\x1e\\x1f ", "\\x1e "),
    "equal hashes are equal items": ("memcmp(of->arena + start, at, (size_t)size) == 0", "1"),
}


@needs_library
@needs_compiler
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_source_is_noticed(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutants of the source, and the whole one as their control, against the tokenizer in Python."""
    find, replace = FAULTS[fault]
    source = SOURCE.read_text()
    assert source.count(find) == 1
    if fault == "equal hashes are equal items":  # which needs items of equal hashes
        source = source.replace("return (uint32_t)(hashed ^ hashed >> 32);", "return 0;")
    texts = [*WORDS, *(f"w{number}" for number in range(300)), "a\x1fb", "x) xD)", "don'ts n'tn't xn'tn't"]
    monkeypatch.setattr(module, "FIRST_ENTRIES", 64)
    for of, is_whole in ((source, True), (source.replace(find, replace), False)):
        made = compiled(of, tmp_path / f"library{is_whole}.so", "-O1", "-shared", "-fPIC")
        monkeypatch.setattr(module, "library", lambda made=made: loaded(made))
        if is_whole:
            compare(texts)
        else:
            with pytest.raises((AssertionError, IndexError)):
                compare(texts)


def loaded(made: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(made))
    found.tokens_split.restype = ctypes.c_int64
    found.tokens_begin()
    return found
