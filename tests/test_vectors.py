"""Pretrained word vectors from files, and errors of mismatched ones."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import ssl
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import write_csv

from lstm_sentiment.adaptation.resolving import resolve
from lstm_sentiment.config.schema import Config
from lstm_sentiment.config.sections import DataConfig, ModelConfig, TextConfig
from lstm_sentiment.data.corpus import prepare
from lstm_sentiment.data.word_vectors import PretrainedVectors, load_vectors, vector_size, vector_words
from lstm_sentiment.errors import ConfigError
from lstm_sentiment.text.tokenizers import Vocabulary

SIZE = 6


def rows_of(count: int, size: int = SIZE, seed: int = 0) -> dict[str, list[float]]:
    randomness = random.Random(seed)
    return {
        f"w{i}": [round(randomness.gauss(place, 0.5 + place / 4), 5) for place in range(size)]
        for i in range(count)
    }


def as_lines(vectors: dict[str, list[float]]) -> str:
    return "".join(f"{word} {' '.join(map(str, values))}\n" for word, values in vectors.items())


def load(name: Path | str, words: list[str], *, size: int = SIZE, seed: int = 0) -> PretrainedVectors:
    cache = Path(name).parent / "cache"
    return load_vectors(str(name), Vocabulary(words), size=size, seed=seed, cache=cache)


def refusal(name: Path | str, *, size: int = SIZE) -> str:
    with pytest.raises(ConfigError) as caught:
        load(name, ["w1"], size=size)
    assert caught.value.key == "text.vectors"
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["glove.txt", "word2vec.vec", "glove.txt.gz", "word2vec.gz", "glove.txt.xz", "glove.txt.bz2"]
)
def test_known_words_get_the_files_vectors(tmp_path: Path, name: str) -> None:
    """GloVe files have only vector lines; word2vec and fastText files have a header with counts."""
    vectors = rows_of(30)
    content = (f"30 {SIZE}\n" if "word2vec" in name else "") + as_lines(vectors)
    file = tmp_path / name
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}.get(file.suffix, bytes)
    file.write_bytes(pack(content.encode()))
    words = ["w3", "unseen", "w29", "w0"]
    loaded = load(file, words)
    assert loaded.known == {"w3", "w29", "w0"}
    assert loaded.weight_VE.shape == (6, SIZE)
    assert loaded.weight_VE.dtype == torch.float32
    for place, word in enumerate(words, start=2):
        if word in vectors:
            assert torch.equal(loaded.weight_VE[place], torch.tensor(vectors[word]))
    assert not torch.equal(loaded.weight_VE[3], torch.zeros(SIZE))


def test_padding_is_zero_and_special_tokens_are_not_looked_up(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(as_lines({"<unk>": [9.0] * SIZE, "<pad>": [9.0] * SIZE, **rows_of(20)}), encoding="utf-8")
    loaded = load(file, ["w1"])
    assert loaded.weight_VE[0].tolist() == [0.0] * SIZE
    assert loaded.weight_VE[1].tolist() != [9.0] * SIZE
    assert loaded.known == {"w1"}


def test_unknown_words_are_drawn_with_mean_and_spread_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    vectors = rows_of(500)
    file.write_text(as_lines(vectors), encoding="utf-8")
    drawn = load(file, [f"unseen{i}" for i in range(4000)]).weight_VE[2:]
    matrix = torch.tensor(list(vectors.values()))
    for place in range(SIZE):
        assert drawn[:, place].std() == pytest.approx(matrix[:, place].std().item(), rel=0.06)
        assert drawn[:, place].mean() == pytest.approx(matrix[:, place].mean().item(), abs=0.15)
    assert len({tuple(row) for row in drawn.tolist()}) == 4000


def test_the_seed_alone_decides_what_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(as_lines(rows_of(20)), encoding="utf-8")
    words = ["w1", "unseen", "w2", "other"]
    torch.manual_seed(1)
    first = load(file, words, seed=3).weight_VE
    torch.manual_seed(2)
    assert torch.equal(load(file, words, seed=3).weight_VE, first)
    other = load(file, words, seed=4).weight_VE
    assert torch.equal(other[[2, 4]], first[[2, 4]])
    assert not torch.equal(other[[3, 5]], first[[3, 5]])


def test_reading_vectors_does_not_change_the_random_state(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(as_lines(rows_of(20)), encoding="utf-8")
    before = torch.get_rng_state()
    load(file, ["w1", "unseen"])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_vocabulary_without_known_words_is_random(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(as_lines(rows_of(20)), encoding="utf-8")
    loaded = load(file, ["unseen"])
    assert loaded.known == frozenset()
    assert loaded.weight_VE.isfinite().all()


def test_a_file_of_one_vector_gives_finite_values(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(as_lines(rows_of(1)), encoding="utf-8")
    loaded = load(file, ["w0", "unseen"])
    assert loaded.weight_VE[2].tolist() == pytest.approx(rows_of(1)["w0"])
    assert loaded.weight_VE.isfinite().all()


@pytest.mark.parametrize("header", ["", f"30 {SIZE}\n"])
def test_vectors_of_another_size_are_refused_with_the_expected_size(tmp_path: Path, header: str) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(header + as_lines(rows_of(30)), encoding="utf-8")
    message = refusal(file, size=128)
    assert message == (
        f"text.vectors: '{file}' has vectors of {SIZE} values but model.embedding_size is 128; "
        f"set model.embedding_size {SIZE}"
    )


@pytest.mark.parametrize("header", ["", f"1 {SIZE}\n"])
def test_embeddings_have_the_size_of_the_vectors_unless_it_is_set(tmp_path: Path, header: str) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(header + as_lines(rows_of(1)))
    config = Config(pretrained=None, text=TextConfig(vectors=str(file)))
    assert resolve(config, frozenset(), cache=tmp_path).config.model.embedding_size == SIZE
    given = frozenset({"model.embedding_size"})
    assert resolve(config, given, cache=tmp_path).config.model.embedding_size == ModelConfig().embedding_size


def test_the_size_of_named_vectors_is_known_without_downloading(tmp_path: Path) -> None:
    assert vector_size("glove.6B.50d", cache=tmp_path) == 50
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "7 6\n", "one\ntwo\n"])
def test_a_file_without_vectors_has_no_size(tmp_path: Path, content: str) -> None:
    (tmp_path / "vectors.txt").write_text(content)
    with pytest.raises(ConfigError, match=r"has no 'word number number \.\.\.' lines"):
        vector_size(str(tmp_path / "vectors.txt"), cache=tmp_path)


def test_the_size_of_a_name_is_checked_before_anything_is_downloaded(tmp_path: Path) -> None:
    for name, size in ("glove.6B.100d", 100), ("glove.840B.300d", 300), ("fasttext.en.300d", 300):
        with pytest.raises(ConfigError, match=f"set model.embedding_size {size}"):
            load_vectors(name, Vocabulary(["w1"]), size=64, seed=0, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


class Server:
    """Fake server of published vectors, which sends content or breaks off."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
        self.content, self.asked = content, list[str]()
        monkeypatch.setattr("urllib.request.urlopen", self.open)

    def open(self, url: str, timeout: float) -> io.BytesIO:
        assert 0 < timeout < 100
        self.asked.append(url)
        assert ssl._create_default_https_context().verify_mode == ssl.CERT_REQUIRED
        if self.content is None:
            raise OSError("connection lost")
        return io.BytesIO(self.content)


def archive(members: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in members.items():
            out.writestr(name, content)
    return packed.getvalue()


def by_name(name: str, cache: Path, size: int = 50) -> PretrainedVectors:
    return load_vectors(name, Vocabulary(["w3", "unseen"]), size=size, seed=0, cache=cache)


def test_a_named_set_is_downloaded_once_and_read_from_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members are not extracted to disk, whatever their names, and no pickle is written."""
    content = as_lines(rows_of(20, 50))
    server = Server(monkeypatch, archive({"../outside.txt": "x", "glove.6B.50d.txt": content}))
    file = tmp_path / "vectors.txt"
    file.write_text(content, encoding="utf-8")
    for _ in range(2):
        assert torch.equal(
            by_name("glove.6B.50d", tmp_path / "c").weight_VE, by_name(str(file), tmp_path).weight_VE
        )
        assert vector_words("glove.6B.50d", 2, cache=tmp_path / "c") == ["w0", "w1"]
    assert server.asked == ["https://nlp.stanford.edu/data/glove.6B.zip"]
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"vectors.txt", "c/vectors/glove.6B.zip"}


def test_vectors_of_fasttext_are_one_plain_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(monkeypatch, ("20 300\n" + as_lines(rows_of(20, 300))).encode())
    loaded = by_name("fasttext.simple.300d", tmp_path, size=300)
    assert loaded.known == {"w3"}
    assert server.asked == ["https://dl.fbaipublicfiles.com/fasttext/vectors-wiki/wiki.simple.vec"]
    assert vector_words("fasttext.simple.300d", 1, cache=tmp_path) == ["w0"]
    assert len(server.asked) == 1


@pytest.mark.parametrize("content", [None, b"PK half a file", archive({"glove.6B.99d.txt": "w3 1 2\n"})])
def test_a_failed_download_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    server = Server(monkeypatch, content)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"glove\.6B\.50d cannot be (downloaded: .*lost|read: )"):
            by_name("glove.6B.50d", tmp_path)
    assert len(server.asked) == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_pickled_cache_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchtext caches a copy as .pt and would load any file of that name."""
    Server(monkeypatch, None)
    folder = tmp_path / "vectors"
    folder.mkdir()
    for name in ("glove.6B.50d.txt.pt", "glove.6B.zip.pt", "glove.6B.50d.pt"):
        torch.save((["w3"], {"w3": 0}, torch.ones(1, 50), 50), folder / name)
    with pytest.raises(ConfigError, match="cannot be downloaded"):
        by_name("glove.6B.50d", tmp_path)
    (folder / "glove.6B.50d.txt").write_text(as_lines(rows_of(20, 50)))  # unpacked by an earlier version
    assert by_name("glove.6B.50d", tmp_path).known == {"w3"}


@pytest.mark.parametrize("name", ["glove.6B.99d", "no-such-file.txt", "glove", "charngram.100d"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    message = refusal(name)
    assert message.startswith(f"text.vectors: '{name}' is neither a file nor one of ")
    assert "glove.6B.100d" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.txt", b""),
        ("header.txt", b"2 6\n"),
        ("words.txt", b"one\ntwo\n"),
        ("binary.gz", b"w0 1 2 3 4 5 6\n"),
        ("cut.txt.gz", gzip.compress(as_lines(rows_of(3000)).encode())[:9000]),
        ("endless.txt", b"w0" + b" 1" * 600_000),
        ("cut.txt.xz", lzma.compress(as_lines(rows_of(300)).encode())[:500]),
        ("archive.zip", b"PK\x03\x04"),
        ("endless.gz", gzip.compress(b"w0 1 2 3 4 5 6\n" + b"x" * 30_000_000)),
    ],
)
def test_a_file_without_vectors_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    assert str(file) in refusal(file)


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ("w1 1 2 3", "the line of 'w1': has 3 values, those before have 6"),
        ("w1  1 2 3 4 5 6", "the line of 'w1': has 7 values, those before have 6"),
        ("", "the line of '\\n': has 0 values, those before have 6"),
        ("w\x1b1 1 2 x 4 5 6", "the line of 'w\\x1b1': 'x' is not a finite number"),
        ("w1 1 2 nan 4 5 6", "the line of 'w1': 'nan' is not a finite number"),
        ("w1 1 2 1e39 4 5 6", "the line of 'w1': '1e39' is not a finite number"),
        ("w1 1 2 3 4 5 six", "the line of 'w1': 'six' is not a finite number"),
    ],
)
@pytest.mark.parametrize("before", [1, 9000])
def test_a_line_that_is_not_a_vector_is_named(tmp_path: Path, before: int, second: str, problem: str) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text("w0 1 2 3 4 5 6\n" * before + second + "\nw2 1 2 3 4 5 6\n", encoding="utf-8")
    assert refusal(file) == f"text.vectors: {file}:{before + 1}: {problem}"


def test_a_word_that_is_not_utf_8_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_bytes(as_lines(rows_of(20)).encode() + b"caf\xe9 1 2 3 4 5 6\nlast 6 5 4 3 2 1\n")
    loaded = load(file, ["last", "w19"])
    assert loaded.known == {"last", "w19"}
    assert loaded.weight_VE[2].tolist() == [6, 5, 4, 3, 2, 1]


def test_skipped_words_do_not_affect_the_spread(tmp_path: Path) -> None:
    """A header or an invalid word must not count as a zero vector."""
    vectors = {word: [100.0 + value for value in values] for word, values in rows_of(4).items()}
    file = tmp_path / "vectors.txt"
    file.write_bytes(f"4 {SIZE}\n".encode() + as_lines(vectors).encode() + b"\xe9 100 100 100 100 100 100\n")
    drawn = load(file, [f"unseen{i}" for i in range(300)]).weight_VE[2:]
    matrix = torch.tensor(list(vectors.values()))
    assert (drawn.mean(dim=0) - matrix.mean(dim=0)).abs().max() < 1


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.txt.gz"])
def test_no_extra_files_are_left(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    content = as_lines(rows_of(20)).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    load_vectors(str(folder / name), Vocabulary(["w1"]), size=SIZE, seed=0, cache=tmp_path / "cache")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [name]


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt"
    file.write_text(as_lines(rows_of(20)), encoding="utf-8")
    load(file, ["w1"])
    changed = rows_of(20, seed=1)
    file.write_text(as_lines(changed), encoding="utf-8")
    assert load(file, ["w1"]).weight_VE[2].tolist() == pytest.approx(changed["w1"])


def test_reading_vectors_keeps_certificate_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchtext disables it for the whole process, including later downloads."""
    checked = ssl.create_default_context
    monkeypatch.setattr(ssl, "_create_default_https_context", checked)
    file = tmp_path / "vectors.txt"
    file.write_text(as_lines(rows_of(20)), encoding="utf-8")
    load(file, ["w1"])
    assert ssl._create_default_https_context is checked


@pytest.mark.parametrize("name", ["glove.txt", "word2vec.vec", "glove.txt.gz"])
@pytest.mark.parametrize("most", [0, 1, 7, 100])
def test_the_first_words_are_those_of_the_file(tmp_path: Path, name: str, most: int) -> None:
    content = ("30 6\n" if "word2vec" in name else "") + as_lines(rows_of(30))
    file = tmp_path / name
    file.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    assert vector_words(str(file), most, cache=tmp_path) == [f"w{i}" for i in range(min(most, 30))]


def test_words_of_an_unknown_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"text\.vectors: .glove\.7B\.50d. is neither a file nor one of"):
        vector_words("glove.7B.50d", 9, cache=tmp_path)
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(as_lines(rows_of(30)).encode())[:-20])
    with pytest.raises(ConfigError, match="cannot be read"):
        vector_words(str(broken), 100, cache=tmp_path)


def test_words_only_in_the_vectors_are_known(tmp_path: Path) -> None:
    """In validation texts, with their vectors, after those of the training rows, without duplicates."""
    train = [(f"w{i} w{i + 1} common", ("bad", "good")[i % 2]) for i in range(8)]
    files = [write_csv(tmp_path / "train.csv", train), write_csv(tmp_path / "v.csv", [("w20 w29 x", "bad")])]
    content = as_lines({"<unk>": [0.0] * SIZE, **rows_of(30)})
    (tmp_path / "glove.txt").write_text(content, encoding="utf-8")
    data = DataConfig(train=str(files[0]), validation=str(files[1]), test=None)
    found = {}
    for most in (0, 22):
        text = TextConfig(min_frequency=1, subwords=0, vectors=str(tmp_path / "glove.txt"), vector_words=most)
        corpus = prepare(data, text, seed=0, cache=tmp_path / "cache")
        found[most] = corpus.vocabulary.tokens
        unknown = corpus.facts.splits["validation"].unknown_tokens
        assert unknown == pytest.approx(1.0 if most == 0 else 2 / 3, abs=1e-4)
    assert found[22] == [*found[0], *(f"w{i}" for i in range(9, 21))]
    with pytest.raises(ConfigError, match=r"text\.vector_words: there are no vectors"):
        TextConfig(vector_words=5)
