"""Hostile files: each attack changes a copy of a valid run and re-signs its manifest.

A payload creates the canary file when it runs. `attack_runner` runs the package on the files.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import math
import os
import pickle
import runpy
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
GOOD_RUN = HERE / "fixtures" / "format-1" / "run"
SHARED = ("config.yaml", "vocabulary.json", "labels.json")
WEIGHTS = "best/model.safetensors"
STATE = "best/state.json"


@dataclass(frozen=True)
class Place:
    """Sandbox of an attack: a copy of a valid run, a folder next to it, and the canary file."""

    run: Path
    beside: Path
    canary: Path


@dataclass(frozen=True)
class Attack:
    """A modification of a valid run, how the package reads it, and the expected message.

    Args:
        name: of the case.
        make: changes the run.
        says: pattern of the message of refusal; None for what is harmless and read.
        how: one of `attack_runner.ACTS`.
    """

    name: str
    make: Callable[[Place], None]
    says: str | None
    how: str = "load"


def sign(run: Path) -> None:
    """Write a valid manifest for the current files."""
    if not (run / "best").is_dir() or not (run / "best").resolve().is_relative_to(run):
        return
    files = [file for file in (run / "best").iterdir() if file.name != "manifest.json"]
    manifest = {
        "format": 1,
        "files": {file.name: fingerprint(file) for file in files},
        "run": {name: fingerprint(run / name) for name in SHARED},
    }
    (run / "best" / "manifest.json").write_text(json.dumps(manifest) + "\n")


def fingerprint(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {"sha256": "", "bytes": 0}
    with file.open("rb") as opened:
        return {"sha256": hashlib.file_digest(opened, "sha256").hexdigest(), "bytes": file.stat().st_size}


def put(
    name: str, content: bytes | str | Callable[[], str], *, signed: bool = True
) -> Callable[[Place], None]:
    """Return an attack that replaces a file of the run; content that is slow to make is made there."""

    def make(place: Place) -> None:
        data = content() if callable(content) else content
        (place.run / name).write_bytes(data.encode() if isinstance(data, str) else data)
        if signed:
            sign(place.run)

    return make


def change(name: str, **values: Any) -> Callable[[Place], None]:
    """Return an attack that sets keys of a JSON file; dots address sections of the YAML text."""

    def make(place: Place) -> None:
        file = place.run / name
        if name.endswith(".yaml"):
            lines = file.read_text().splitlines()
            for key, value in values.items():
                found = [i for i, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
                assert len(found) == 1, (key, found)
                indent = lines[found[0]][: -len(lines[found[0]].lstrip()) or None]
                lines[found[0]] = f"{indent if lines[found[0]].startswith(' ') else ''}{key}: {value}"
            file.write_text("\n".join(lines) + "\n")
        else:
            file.write_text(json.dumps(json.loads(file.read_text()) | values))
        sign(place.run)

    return make


# -- pickles ---------------------------------------------------------------------------------------


class Runs:
    """An object whose pickle calls a function when loaded."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> Any:
        return self.call, self.args


def payloads(canary: Path, folder: Path) -> dict[str, Runs]:
    """Return pickles that create the canary, by the callable they invoke.

    Args:
        canary: file to make.
        folder: for code and pickles that some of them lead to.
    """
    name = str(canary)
    code = f"open({name!r}, 'w').close()"
    (folder / "hostile_module.py").write_text(code)
    (folder / "hubconf.py").write_text(f"def model():\n    {code}\n")
    inner = Runs(os.system, f"touch {name}")
    torch.save(inner, folder / "inner.pt")
    np.save(folder / "inner.npy", np.array([inner], object), allow_pickle=True)
    (folder / "source").write_text("")
    buffer = io.BytesIO()
    torch.save(inner, buffer)
    hub = functools.partial(torch.hub.load, str(folder), "model", source="local", trust_repo=True)
    return {
        "os.system": inner,
        "subprocess.call": Runs(subprocess.call, ["touch", name]),
        "eval": Runs(eval, code),
        "exec": Runs(exec, code),
        "open": Runs(open, name, "w"),
        "__import__": Runs(__import__, "hostile_module"),
        "runpy.run_path": Runs(runpy.run_path, str(folder / "hostile_module.py")),
        "functools.partial": Runs(functools.partial(os.system, f"touch {name}")),
        "Path.touch": Runs(Path.touch, canary),
        "shutil.copyfile": Runs(shutil.copyfile, str(folder / "source"), name),
        "pickle.loads": Runs(pickle.loads, pickle.dumps(inner)),
        "torch.load": Runs(functools.partial(torch.load, str(folder / "inner.pt"), weights_only=False)),
        "torch.storage._load_from_bytes": Runs(torch.storage._load_from_bytes, buffer.getvalue()),
        "torch.hub.load": Runs(hub),
        "numpy.load": Runs(functools.partial(np.load, str(folder / "inner.npy"), allow_pickle=True)),
    }


def containers(value: Any) -> dict[str, bytes]:
    """Return a pickle in every container format for pickles."""
    plain, zipped, legacy, packed, archive = pickle.dumps(value), *(io.BytesIO() for _ in range(4))
    torch.save(value, zipped)
    torch.save(value, legacy, _use_new_zipfile_serialization=False)
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("../outside.pkl")
        member.size = len(plain)
        tar.addfile(member, io.BytesIO(plain))
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("../outside.pkl", plain)
    return {
        "pickle": plain,
        "pickle protocol 0": pickle.dumps(value, 0),
        "torch zip": zipped.getvalue(),
        "torch legacy": legacy.getvalue(),
        "gzip": gzip.compress(plain),
        "tar": packed.getvalue(),
        "zip": archive.getvalue(),
    }


def pickled(name: str, kind: str = "torch zip", payload: str = "os.system", *, signed: bool = True) -> Any:
    """Return an attack that replaces a file of the run by a pickle."""

    def make(place: Place) -> None:
        content = containers(payloads(place.canary, place.beside)[payload])[kind]
        (place.run / name).parent.mkdir(exist_ok=True)
        (place.run / name).write_bytes(content)
        if signed:
            sign(place.run)

    return make


def run_is_a_pickle(name: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        shutil.rmtree(place.run)
        content = containers(payloads(place.canary, place.beside)["os.system"])["torch zip"]
        place.run.write_bytes(content)

    make.__name__ = name
    return make


PAYLOADS = (
    "os.system", "subprocess.call", "eval", "exec", "open", "__import__", "runpy.run_path",
    "functools.partial", "Path.touch", "shutil.copyfile", "pickle.loads", "torch.load",
    "torch.storage._load_from_bytes", "torch.hub.load", "numpy.load",
)  # fmt: skip
FOREIGN = "pickles are refused"


def pickle_attacks() -> Iterator[Attack]:
    for payload in PAYLOADS:
        yield Attack(f"weights that call {payload}", pickled(WEIGHTS, payload=payload), FOREIGN)
    for kind in ("pickle", "torch legacy", "gzip", "tar", "zip"):
        yield Attack(
            f"weights as {kind}", pickled(WEIGHTS, kind), f"{WEIGHTS}: .*(pickles are refused|header)"
        )
    yield Attack("weights as pickle protocol 0", pickled(WEIGHTS, "pickle protocol 0"), "has a header of")
    yield Attack("weights unsigned", pickled(WEIGHTS, signed=False), "damaged or was replaced")
    for name in (STATE, "vocabulary.json", "labels.json", "config.yaml"):
        yield Attack(f"{name} as pickle", pickled(name, "pickle"), f"{name}:.*(pickles are refused|not)")
    yield Attack("manifest as pickle", pickled("best/manifest.json", "pickle", signed=False), FOREIGN)
    yield Attack(
        "more weights as pickle", pickled("best/more.safetensors"), f"{FOREIGN}|a checkpoint of this kind"
    )
    yield Attack("a pickle that nobody asked for", pickled("best/pytorch_model.bin"), None)
    yield Attack("pickled optimizer", pickled("best/optimizer.safetensors", "pickle"), FOREIGN)
    for name in ("metrics.json", "log.jsonl"):
        yield Attack(f"{name} as pickle", pickled(name, "pickle"), FOREIGN, "report")
    yield Attack(
        "a run that is a .pt file", run_is_a_pickle("pt"), "is a file, not a run folder.*pickles are refused"
    )
    yield Attack("weights to start from", pickled(WEIGHTS), FOREIGN, "pretrained")
    yield Attack("a run to publish", pickled("metrics.json", "torch zip"), FOREIGN, "publish")
    yield Attack("word vectors", pickled("vectors.pt"), "has no|not a|values|cannot", "vectors")
    yield Attack("rows as parquet", pickled("rows.parquet", "pickle"), "rows.parquet", "rows")
    yield Attack("rows as csv", pickled("rows.csv", "pickle"), "rows.csv", "rows")
    yield Attack("tokens of a cache", cached_pickle, None, "cache")


def cached_pickle(place: Place) -> None:
    """Replace cached tokens by object arrays, for `attack_runner`."""
    np.savez(
        place.run / "rows.npz",
        allow_pickle=True,
        **{
            name: np.array([Runs(os.system, f"touch {place.canary}")], object)
            for name in ("offsets", "labels")
        },
    )


# -- safetensors -----------------------------------------------------------------------------------


def tensors_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def weights_with(edit: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Place], None]:
    """Return an attack that edits valid weights."""

    def make(place: Place) -> None:
        import safetensors.torch

        tensors = {name: t.clone() for name, t in safetensors.torch.load_file(place.run / WEIGHTS).items()}
        edit(tensors)
        safetensors.torch.save_file(tensors, place.run / WEIGHTS)
        sign(place.run)

    return make


def tensor_attacks() -> Iterator[Attack]:
    eight = b"\0" * 8
    many = {f"t{i}": one(shape=(0,), offsets=(0, 0)) for i in range(10_000)}
    files = {
        "length of 2^64 - 1": (tensors_file({"a": one()}, eight, 2**64 - 1), "has a header of"),
        "length of 100 MB and one": (tensors_file({"a": one()}, eight, 100_000_001), "has a header of"),
        "length beyond the file": (tensors_file({"a": one()}, eight, 5000), "has a header of"),
        "length of nothing": (tensors_file(b"", eight), "not JSON"),
        "an empty file": (b"", "not JSON"),
        "four bytes": (b"\1\0\0\0", "has a header of"),
        "overlapping tensors": (tensors_file({"a": one(), "b": one()}, eight), "does not match its content"),
        "a hole": (
            tensors_file({"a": one(), "b": one(offsets=(16, 24))}, eight * 3),
            "does not match its content",
        ),
        "negative offsets": (tensors_file({"a": one(offsets=(-8, 0))}, eight), "invalid tensor header"),
        "a negative shape": (tensors_file({"a": one(shape=(-1, -2))}, eight), "invalid tensor header"),
        "a shape that overflows": (
            tensors_file({"a": one(shape=(2**62, 4))}, eight),
            "invalid tensor header",
        ),
        "a shape of 1e308": (tensors_file({"a": one(shape=(1e308,))}, eight), "invalid tensor header"),
        "a shape of other bytes": (tensors_file({"a": one(shape=(3,))}, eight), "invalid tensor header"),
        "bytes at the end": (tensors_file({"a": one()}, eight * 2), "does not match its content"),
        "a name twice": (tensors_file(b'{"a": 1, "a": 2}', eight), "duplicate"),
        "a header that is no text": (tensors_file(b"\xff\xfe\xfd", eight), "not JSON"),
        "a header of 300,000 brackets": (tensors_file(b"[" * 300_000), "lists and maps"),
        "a header of 90,000 brackets": (tensors_file(b"[" * 90_000), "not JSON"),
        "a header of two million bytes": (
            tensors_file({"__metadata__": {"a": "x" * 2_000_000}, "a": one()}, eight),
            "has a header of",
        ),
        "a header that is a list": (tensors_file([1, 2]), "does not list at most"),
        "10,000 empty tensors": (tensors_file(many), "does not list at most 1,000|header"),
        "a header of lists in lists": (
            tensors_file(b"[" + b"[]," * 340_000 + b"[]]"),
            "lists and maps",
        ),
        "metadata that is no text": (
            tensors_file({"__metadata__": {"a": {"b": [1]}}, "a": one()}, eight),
            "model.safetensors|missing or added",
        ),
        "a type that is none": (tensors_file({"a": one("OBJ")}, eight), "invalid tensor header"),
        "a name that leads out": (tensors_file({"../../etc/x": one()}, eight), "missing|do not fit"),
        "a zip at the end": (
            tensors_file({"a": one()}, eight + b"PK\x05\x06" + b"\0" * 18),
            "does not match its",
        ),
    }
    for name, (content, says) in files.items():
        yield Attack(name, put(WEIGHTS, content), says)
    edits: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
        "weights that are not numbers": (lambda t: t["lstm.head.bias"].fill_(torch.nan), "non-finite"),
        "weights without end": (lambda t: t["lstm.embedding.weight"].fill_(torch.inf), "non-finite"),
        "weights of 3e38": (
            lambda t: t["lstm.head.bias"].fill_(3e38),
            "non-finite predictions for 1 of 1 texts",
        ),
        "a weight less": (lambda t: t.pop("lstm.head.bias"), "missing or added"),
        "a weight more": (lambda t: t.update(evil=torch.zeros(2)), "missing or added"),
        "weights of another type": (
            lambda t: t.update({"lstm.head.bias": torch.zeros(3, dtype=torch.int64)}),
            "holds torch.int64",
        ),
        "weights of another shape": (
            lambda t: t.update({"lstm.head.bias": torch.zeros(1)}),
            r"shape \(1,\), and config.yaml asks for \(3,\)",
        ),
    }
    for name, (edit, says) in edits.items():
        yield Attack(name, weights_with(edit), says)
    table, scales = "lstm.embedding.weight", "lstm.embedding.weight.scales"
    int8, longer = {table: "int8"}, "at most 100,000,000"
    packed: dict[str, tuple[Any, Callable[[dict[str, torch.Tensor]], Any], str]] = {
        "packed as a list": ([table], lambda t: None, "'packed' must map names"),
        "packed as what it is not": (
            int8,
            lambda t: t.update({scales: torch.ones(1)}),
            "holds torch.float32",
        ),
        "packed without scales": (int8, lambda t: t.update({table: t[table].to(torch.int8)}), "missing"),
        "packed for a model of another size": (int8, packed_table(600_000), "holds 18 of the"),
        "packed beyond all bounds": (int8, packed_table(1_010_000), f"{longer}|holds 18 of the"),
        "packed beyond all numbers": (int8, packed_table(20, 1e38, columns=8), "negative or too large"),
    }
    for name, (kinds, edit, says) in packed.items():
        yield Attack(name, in_turn(weights_with(edit), change(STATE, packed=kinds)), says)


def packed_table(
    rows: int, scale: float = 1.0, columns: int = 100
) -> Callable[[dict[str, torch.Tensor]], None]:
    """Return an edit that packs the table of word embeddings."""
    groups = -(-rows // max(1, 64 // columns))  # rows that share a scale

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lstm.embedding.weight"] = torch.ones(rows, columns, dtype=torch.int8)
        tensors["lstm.embedding.weight.scales"] = torch.full((groups,), scale)

    return edit


def in_turn(*makes: Callable[[Place], None]) -> Callable[[Place], None]:
    """Return an attack of several steps."""

    def make(place: Place) -> None:
        for step in makes:
            step(place)

    return make


# -- JSON and YAML ---------------------------------------------------------------------------------


def sparse(name: str, size: int) -> Callable[[Place], None]:
    """Return an attack that extends a file as a sparse file."""

    def make(place: Place) -> None:
        with (place.run / name).open("ab") as file:
            file.truncate(size)

    return make


def many_tokens() -> str:
    return "[\n" + ",\n".join(f'"{i}"' for i in range(2_000_000)) + "\n]\n"


def text_attacks() -> Iterator[Attack]:
    yield Attack("state of 1 GB", sparse(STATE, 10**9), "larger than")
    yield Attack("manifest of 1 GB", sparse("best/manifest.json", 10**9), "larger than")
    yield Attack("metrics of 1 GB", sparse("metrics.json", 10**9), "larger than", "report")
    yield Attack("monitoring of 1 GB", sparse("monitoring.json", 10**9), "larger than", "label")
    yield Attack("log of 1 GB", sparse("log.jsonl", 10**9), "larger than", "report")
    yield Attack("state of lists in lists", put(STATE, "[" + "[]," * 1_390_000 + "[]]"), "lists and maps")
    yield Attack("state of maps", put(STATE, "[" + "{}," * 1_390_000 + "{}]"), "lists and maps")
    yield Attack("state of numbers", put(STATE, "[" + "9e9," * 1_000_000 + "1]"), "not a JSON object")
    yield Attack("state of brackets", put(STATE, "[" * 90_000), "not JSON")
    yield Attack("state of a huge number", put(STATE, '{"epoch": ' + "9" * 1_000_000 + "}"), "not JSON")
    yield Attack("state with a key twice", put(STATE, '{"a": 1, "a": 2}'), "duplicate")
    for value in ("x", {"a": 1}, -1, float("nan")):
        made = change(STATE, calibration={"temperature": value, "thresholds": []})
        yield Attack(f"temperature {value!r}", made, r"do not fit|calibration\.temperature is")
    yield Attack("thresholds of text", change(STATE, calibration={"thresholds": ["a"]}), "calibration")
    call = {"__reduce__": ["os.system", "touch x"], "cls": "os.system", "_target_": "os.system"}
    yield Attack("keys that call", change(STATE, **call, calibration=call), "calibration")
    yield Attack(
        "half a million proofs", change(STATE, proof={"texts": ["a"] * 500_000, "logits": []}), "self-test"
    )
    long = {"texts": ["a " * 1_000_000], "logits": [[0, 0, 0]]}
    yield Attack("a proof without end", change(STATE, proof=long), "self-test")
    yield Attack("a proof that is none", change(STATE, proof=[1]), "self-test")
    lists = "[\n" + "[],\n" * 3_000_000 + "[]\n]"
    some = "[\n" + "[],\n" * 20 + "[]\n]"
    yield Attack("vocabulary of lists", put("vocabulary.json", lists), "lists and maps")
    yield Attack("vocabulary of some lists", put("vocabulary.json", some), "not a string")
    yield Attack("vocabulary of numbers", put("vocabulary.json", '[\n"so",\n1\n]'), "not a string")
    yield Attack("vocabulary on one line", put("vocabulary.json", lists.replace("\n", "")), "a line of")
    yield Attack("vocabulary of too many", put("vocabulary.json", many_tokens), "holds more than the")
    token = '[\n"' + "a" * 9_000_000 + '"\n]'
    yield Attack("vocabulary of one token", put("vocabulary.json", token), "a line of")
    yield Attack("vocabulary of too few", put("vocabulary.json", '[\n"a"\n]\n'), "tokens of the weights")
    yield Attack("vocabulary with a token twice", put("vocabulary.json", json.dumps(["a"] * 18)), "duplicate")
    yield Attack("vocabulary that is a map", put("vocabulary.json", '{"a": 1}'), "not a list of tokens")
    yield Attack("labels that are a list", put("labels.json", "[]"), "names of up to")
    yield Attack(
        "labels that are numbers", put("labels.json", '{"labels": [1, 2, 3], "map": {}}'), "names of"
    )
    many = json.dumps({"labels": list(map(str, range(100_000))), "map": {}})
    yield Attack("100,000 labels", put("labels.json", many), "names of up to 100 classes")
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    configs = {
        "python/object/apply": ('out: !!python/object/apply:os.system ["touch CANARY"]\n', "is not|not YAML"),
        "python/name": ("seed: !!python/name:os.system\n", "is not|not YAML"),
        "python/module": ("seed: !!python/module:hostile_module\n", "is not|not YAML"),
        "a tag": ("seed: !evil 1\n", "is not|not YAML"),
        "an anchor bomb": (bomb, r"an alias|no such key"),
        "an anchor in itself": ("data: &a {train: *a}\n", "an alias"),
        "20,000 brackets": ("seed: " + "[" * 20_000, "nested deeper than"),
        "200,000 brackets": ("seed: " + "[" * 200_000, "nested deeper than"),
        "dashes in dashes": ("seed:\n" + "".join(" " * i + "-\n" for i in range(400)), "nested deeper than"),
        "questions in questions": ("? " * 50_000, "nested deeper than"),
        "more than a configuration": ("seed: 0 #" + "x" * 300_000, "more than|larger"),
        "a huge number": ("seed: " + "9" * 200_000, "a whole number|between"),
        "a key that is long": ("x" * 200_000 + ": 1", "no such key|not YAML"),
        "two documents": ("seed: 0\n---\nseed: 1\n", "a second document"),
        "NUL": ("seed: 0\n\0", "not YAML|special"),
    }
    for name, (content, says) in configs.items():
        for how in ("resume", "config"):
            reported = "damaged; cannot resume|run has" if how == "resume" else says
            yield Attack(f"{how}: YAML with {name}", yaml_with(content), reported, how)


def yaml_with(content: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        payloads(place.canary, place.beside)
        put("config.yaml", content.replace("CANARY", str(place.canary)))(place)

    return make


# -- sizes -----------------------------------------------------------------------------------------


UNASKED = "best: unexpected files for a checkpoint of this kind"


def sparse_tensors(name: str, tensor: str | None = None) -> Callable[[Place], None]:
    """Return an attack that puts 512 MiB of zeros into a tensor file, as a sparse file.

    Args:
        name: of the file.
        tensor: of the good file that becomes large; None for one that no model has, and no other.
    """

    def make(place: Place) -> None:
        shapes: dict[str, tuple[str, list[int]]] = {}
        if tensor is not None:
            with (place.run / name).open("rb") as opened:
                header = json.loads(opened.read(struct.unpack("<Q", opened.read(8))[0]))
            header.pop("__metadata__", None)
            shapes = {key: (of["dtype"], of["shape"]) for key, of in header.items()}
        found = shapes.get(tensor or "", ("F32", [1]))[1]
        shapes[tensor or "extra"] = ("F32", [(1 << 27) // math.prod(found[1:]), *found[1:]])
        described, start = {}, 0
        for key, (kind, shape) in shapes.items():
            size = math.prod(shape) * {"F32": 4}.get(kind, 8)
            described[key] = one(kind, shape, (start, start + size))
            start += size
        content = tensors_file(described)
        (place.run / name).write_bytes(content)
        with (place.run / name).open("ab") as file:
            file.truncate(len(content) + start)
        sign(place.run)

    return make


def size_attacks() -> Iterator[Attack]:
    config = "config.yaml"
    fits = "do not fit"
    sizes: dict[str, dict[str, Any]] = {
        "4096 hidden in 16 layers": {"hidden_size": 4096, "layers": 16},
        "embeddings of 4096": {"embedding_size": 4096},
        "sixteen million n-grams": {"ngrams": 1 << 24},
        "four million sub-words": {"subwords": 1 << 22},
        "all of it": {"hidden_size": 4096, "layers": 16, "ngrams": 1 << 24, "subwords": 1 << 22},
        "one direction": {"bidirectional": "false"},
        "another pooling": {"pooling": "mean"},
    }
    for name, values in sizes.items():
        yield Attack(f"a configuration with {name}", change(config, **values), fits)
    ranges: dict[str, dict[str, Any]] = {
        "10^12 hidden": {"hidden_size": 10**12},
        "a million layers": {"layers": 10**6},
        "10^12 tokens": {"max_tokens": 10**12},
        "a million threads": {"threads": 10**6},
        "10^12 rows in a batch": {"batch_size": 10**12},
        "10^12 epochs": {"epochs": 10**12},
        "a tokenizer to import": {"tokenizer": "hostile_module.tokenize"},
        "a device to import": {"device": "hostile_module:0"},
        "an encoding to import": {"encoding": "hostile_module"},
    }
    for name, values in ranges.items():
        yield Attack(
            f"a configuration with {name}", change(config, **values), "config.yaml|text.tokenizer|data"
        )
    train = {"hidden_size": 4096, "layers": 16}
    yield Attack("training with 4096 hidden in 16 layers", change(config, **train), "parameters", "train")
    wide = {"embedding_size": 4096, "subwords": 1 << 22}
    yield Attack(
        "training with four million sub-words of 4096", change(config, **wide), "parameters", "train"
    )
    yield Attack("a file of tensors that no model has", sparse_tensors("best/extra.safetensors"), UNASKED)
    yield Attack(
        "an optimizer beside the best weights", sparse_tensors("best/optimizer.safetensors"), UNASKED
    )
    yield Attack("weights that are not the configuration's", sparse_tensors(WEIGHTS), "missing or added")
    large = "asks for|do not fit|holds .* of the"
    for name in ("lstm.embedding.weight", "lstm.head.bias"):
        yield Attack(f"{name} of 512 MiB", sparse_tensors(WEIGHTS, name), large)
        yield Attack(f"{name} of 512 MiB to start from", sparse_tensors(WEIGHTS, name), large, "pretrained")
    big = tensors_file({"a": one(shape=(2**31,), offsets=(0, 2**33))})
    yield Attack("weights of 8 GB that are not there", put(WEIGHTS, big), "does not match its content")


# -- paths -----------------------------------------------------------------------------------------


def manifest_with(**files: Any) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        file = place.run / "best" / "manifest.json"
        manifest = json.loads(file.read_text())
        manifest["files"] |= {name.replace("BESIDE", str(place.beside)): of for name, of in files.items()}
        file.write_text(json.dumps(manifest) + "\n")

    return make


def linked(name: str, *, hard: bool = False, secret: str | None = None) -> Callable[[Place], None]:
    """Return an attack that replaces a file of the run by a link to a file outside."""

    def make(place: Place) -> None:
        outside, file = place.beside / "outside", place.run / name
        if secret is None:
            shutil.move(file, outside)
        else:
            outside.write_text(secret)
            file.unlink(missing_ok=True)
        file.hardlink_to(outside) if hard else file.symlink_to(outside)
        sign(place.run)

    return make


def special(name: str, kind: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        (place.run / name).unlink()
        if kind == "pipe":
            os.mkfifo(place.run / name)
        else:
            (place.run / name).symlink_to("/dev/zero")

    return make


def linked_folder(place: Place) -> None:
    shutil.move(place.run / "best", place.beside / "best")
    (place.run / "best").symlink_to(place.beside / "best")


def guessed(*names: str) -> Callable[[Place], None]:
    """Return an attack that links guessed temporary names to a file outside the run."""

    def make(place: Place) -> None:
        (place.beside / "outside").write_text("mine")
        for name in names:
            place_of = (place.run / name).with_name(f".{Path(name).name}.{os.getpid()}.tmp")
            place_of.symlink_to(place.beside / "outside")

    return make


def leads_to_a_folder(name: str) -> Callable[[Place], None]:
    """Return an attack that replaces a folder of the run by a link to a folder outside."""

    def make(place: Place) -> None:
        (place.beside / "elsewhere").mkdir()
        (place.run / name).parent.mkdir(exist_ok=True)
        (place.run / name).symlink_to(place.beside / "elsewhere")

    return make


SECRET_ROWS = "text,label\n" + "".join(
    f"hunter2 {word} {i},{word}\n" for i in range(60) for word in ("good", "bad")
)


def names_secret_rows(key: str) -> Callable[[Place], None]:
    """Return an attack whose configuration names a local file of rows with a secret."""

    def make(place: Place) -> None:
        secret = place.beside / "secret.csv"
        secret.write_text(SECRET_ROWS)
        change("config.yaml", **{key: secret})(place)

    return make


def names_a(key: str, value: str) -> Callable[[Place], None]:
    return change("config.yaml", **{key: value})


GUESSED = {  # act of `attack_runner` -> files and folders that it creates
    "report": ("report.html",),
    "evaluate": ("evaluation.json",),
    "save": ("best", "last", "log.jsonl", "metrics.json", "status.json", ".lock"),
    "label": ("out.csv", "out.parquet", "out.jsonl", "out.csv.gz", "out.csv.zst"),
    "export": ("onnx",),
    "publish": ("published",),
    "curves": ("tensorboard",),
}


def path_attacks() -> Iterator[Attack]:
    vouched = {"sha256": "", "bytes": 0}
    for name in ("../../outside", "BESIDE/outside", "a/../../../x", "", "."):
        yield Attack(f"a manifest that names {name!r}", manifest_with(**{name: vouched}), "missing or added")
    for name in (WEIGHTS, STATE, "best/manifest.json", "config.yaml", "vocabulary.json", "labels.json"):
        yield Attack(f"a link for {name}", linked(name), "points outside the run folder")
    for name in ("metrics.json", "log.jsonl"):
        made = linked(name, secret='{"password": "hunter2"}')
        yield Attack(f"a link for {name}", made, "points outside the run folder", "report")
    made = linked("monitoring.json", secret="{}")
    yield Attack("a link for monitoring.json", made, "points outside the run folder", "label")
    yield Attack("a link to publish", linked("data.json", secret="{}"), "points outside the run", "publish")
    yield Attack("a folder that is a link", linked_folder, "points outside the run folder")
    yield Attack("a hard link", linked(STATE, hard=True), None)
    yield Attack("a report over a link", linked("report.html", secret="mine"), None, "report")
    yield Attack("a report over a hard link", linked("report.html", secret="mine", hard=True), None, "report")
    yield Attack("scores over a link", linked("evaluation.json", secret="mine"), None, "evaluate")
    for name in ("best/manifest.json", "config.yaml", "vocabulary.json", WEIGHTS):
        for kind in ("pipe", "device"):
            yield Attack(
                f"a {kind} for {name}", special(name, kind), "not a run folder|regular|points outside|damaged"
            )
    for name in ("metrics.json", "log.jsonl"):
        yield Attack(f"a pipe for {name}", special(name, "pipe"), "regular file|has no metrics", "report")
    for how, names in GUESSED.items():
        yield Attack(f"guessed names of unfinished files: {how}", guessed(*names), None, how)
    out = "points outside the run folder"
    yield Attack("curves in a linked folder", leads_to_a_folder("tensorboard"), out, "curves")
    yield Attack("a linked folder of a seed", leads_to_a_folder("seeds/seed-0"), out, "seeds")
    yield Attack("a linked folder for an export", leads_to_a_folder("onnx"), "is not an export", "export")
    yield Attack("a linked folder to publish to", leads_to_a_folder("published"), "is a link", "publish")
    yield Attack("a lock that is a hard link", linked(".lock", secret="mine", hard=True), None, "save")
    yield Attack("a lock that is a link", linked(".lock", secret="mine"), "is a link", "save")
    yield Attack("a report on rows of the user", names_secret_rows("train"), None, "report")
    unread = "was not trained here.*secret.csv"
    for key in ("train", "validation", "vectors"):
        yield Attack(f"resuming with {key} of the user", names_secret_rows(key), unread, "resume command")
    yield Attack("a doctor for rows of the user", names_secret_rows("train"), None, "doctor")
    yield Attack("an address for rows", names_a("train", "http://127.0.0.1:9/a.csv"), None, "report")
    yield Attack(
        "a pipe command for rows", names_a("train", "simplecache::file:///etc/passwd"), None, "report"
    )
    yield Attack("a package for rows", names_a("train", "package:__main__/../../x.csv"), None, "report")
    yield Attack("a folder for out", names_a("out", "../../../outside"), None)
    yield Attack("a folder for pretrained", names_a("pretrained", "../../../outside"), None)


GROUPS = (pickle_attacks, tensor_attacks, text_attacks, size_attacks, path_attacks)
