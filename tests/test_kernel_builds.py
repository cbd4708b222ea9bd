"""The kernels' source, compiled for other processors and with sanitizers, outside Python.

A program (`kernels/lstm_main.c` and others there) reads sizes and arrays from a file, each into a
block of memory of its own size, calls the kernel, and writes the results. Builds that this machine cannot run
or compile are skipped: NEON needs aarch64-linux-gnu-gcc and qemu-aarch64-static.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from test_recurrence import make_layer, packed, packed_in_bf16, real
from test_token_vectors import KNOWN, UNKNOWN_TOKENS, make, one_by_one
from torch import Tensor

import lstm_sentiment.kernels.lstm as recurrence
from lstm_sentiment.kernels.library import CAPABLE, _available
from lstm_sentiment.models.network import HASH, NgramBranch
from lstm_sentiment.text.tokenization import bounded, spell

SOURCES, MAINS = Path(recurrence.__file__).parent, Path(__file__).parent / "kernels"
FLAGS = ("-O2", "-ffp-contract=fast", "-fno-trapping-math", "-fno-math-errno", "-Wall", "-Wextra", "-Werror")
UNUSED = "-Wno-unknown-pragmas"  # one thread: OpenMP's are ignored
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ON_X86 = platform.machine() == "x86_64"
CAPABILITY = torch.backends.cpu.get_cpu_capability()


@dataclass(frozen=True)
class Build:
    """A compiler with flags, and what runs its programs; `here` is whether this machine can.

    Its states differ from those of the same arithmetic in PyTorch by at most `states`, and its gradients
    from PyTorch's in fp32 by at most `gradients`, as parts of the largest number, or of 1 if that is less.
    """

    compiler: tuple[str, ...]
    runner: tuple[str, ...] = ()
    here: bool = True
    only_lstm: bool = False  # whether the package compiles only the LSTM so
    bf16: bool = False  # products
    states: float = 3e-6
    gradients: float = 3e-6

    def missing(self) -> str:
        """Return what this machine lacks for it, or nothing."""
        programs = (self.compiler[0], *self.runner[:1])
        lacking = [name for name in programs if shutil.which(name) is None]
        return " and ".join(lacking) or ("" if self.here else "instructions of this CPU")


def with_bf16(*compiler: str) -> Build:
    """Some states are rounded to the next bf16 number; numbers in a gradient's products, by up to 2^-9."""
    here = ON_X86 and "AVX512-BF16" in _available()
    return Build(
        (*compiler, "-DWITH_BF16"), here=here, only_lstm=True, bf16=True, states=3e-4, gradients=1e-2
    )


AVX2 = ("-mavx2", "-mfma")  # which Clang takes from the command line, GCC from the source
BF16 = (*AVX2, "-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx512bf16")
BUILDS = {
    "sanitizers": Build(("gcc", *SANITIZERS), here=ON_X86 and CAPABILITY in CAPABLE),
    "clang": Build(("clang", *AVX2), here=ON_X86 and CAPABILITY in CAPABLE),
    "AVX-512": Build(("gcc", "-DWITH_AVX512"), here=ON_X86 and CAPABILITY == "AVX512", only_lstm=True),
    "AVX512-BF16": with_bf16("gcc"),
    "clang AVX512-BF16": with_bf16("clang", *BF16),
    "sanitizers bf16": with_bf16("gcc", *SANITIZERS),
    "NEON": Build(("aarch64-linux-gnu-gcc", "-static"), runner=("qemu-aarch64-static",)),
}
OF_ALL_KERNELS = [name for name, build in BUILDS.items() if not build.only_lstm]
SANITIZED = [name for name, build in BUILDS.items() if "-g" in build.compiler]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def run_build(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs a build on an input file; it compiles each build once.

    Its `main` is the program; `without` are parts of the kernel's source that are left out.
    """
    folder = tmp_path_factory.mktemp("builds")

    def run(
        name: str, arguments: Path, main: str = "lstm", without: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        build, program = BUILDS[name], folder / f"{name} {main}{' without checks' if without else ''}"
        if lacking := build.missing():
            pytest.skip(f"needs {lacking}")
        if not program.exists():
            source = (MAINS / f"{main}_main.c").read_text(encoding="utf-8")
            if without:
                kernel = (SOURCES / f"{main}.c").read_text(encoding="utf-8")
                assert all(kernel.count(part) == 1 for part in without)
                for part in without:
                    kernel = kernel.replace(part, "")
                source = source.replace(f'#include "{main}.c"', kernel)
            (folder / "main.c").write_text(source, encoding="utf-8")
            files = [f"-I{SOURCES}", str(folder / "main.c"), "-o", str(program)]
            command = [*build.compiler, *FLAGS, UNUSED, *files, "-lm"]
            subprocess.run(command, check=True, timeout=300)
        command = [*build.runner, str(program), str(arguments), str(arguments.with_suffix(".out"))]
        quiet = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}  # it ends without freeing
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=quiet)

    return run


def write(path: Path, numbers: Sequence[int], arrays: Sequence[Tensor]) -> None:
    """Write the program's input: D, T, B, X, H, threads and R, then arrays in the order it reads them."""
    with path.open("wb") as file:
        file.write(np.array(numbers, np.int64).tobytes())
        for array in arrays:
            file.write(array.detach().contiguous().numpy().tobytes())


def weights_of(lstms: Sequence[torch.nn.LSTM]) -> list[Tensor]:
    return [getattr(lstm, name) for name in recurrence.WEIGHTS for lstm in lstms]


SHAPES = pytest.mark.parametrize(("inputs", "hidden"), [(7, 16), (33, 48), (100, 32)])


@pytest.mark.parametrize("build", BUILDS)
@SHAPES
def test_each_build_equals_pytorch(
    build: str, inputs: int, hidden: int, run_build: Run, tmp_path: Path
) -> None:
    """States and all gradients, of more texts than are computed at once; also the steps after the first."""
    lstms, lengths_B = make_layer(inputs, hidden, 2), torch.tensor([5, 1, 9, 2, 9, 3, 7] * 10)
    steps, batch = 11, len(lengths_B)
    values_TBX = torch.randn(steps, batch, inputs, requires_grad=True)
    expected, real_TB1 = packed(values_TBX, lengths_B, lstms), real(lengths_B, steps)
    upstream = [torch.randn_like(states_TBH) * real_TB1 for states_TBH in expected]
    weights = weights_of(lstms)
    write(
        tmp_path / "in",
        [2, steps, batch, inputs, hidden, 1, 0],
        [lengths_B, values_TBX, *weights, *upstream],
    )
    done = run_build(build, tmp_path / "in")
    assert done.returncode == 0, done.stderr
    found = torch.from_numpy(np.fromfile(tmp_path / "in.out", np.float32))
    of_values, *of_weights = torch.autograd.grad(expected, [values_TBX, *weights], upstream)
    wanted = [*expected, of_values, *of_weights[:6]]  # of either bias only once
    if BUILDS[build].bf16:
        wanted[:2] = packed_in_bf16(values_TBX, lengths_B, lstms)
    allowed = [BUILDS[build].states] * 2 + [BUILDS[build].gradients] * 7
    parts = found.split([of.numel() for of in wanted])
    for part, one, most in zip(parts, wanted, allowed, strict=True):
        scale = max(1.0, float(one.detach().abs().max()))
        torch.testing.assert_close(part.view_as(one) / scale, one.detach() / scale, atol=most, rtol=0)


@pytest.mark.parametrize("build", BUILDS)
def test_each_build_is_exact_in_any_batch(build: str, run_build: Run, tmp_path: Path) -> None:
    """A text alone has the same bits as among others, and as rows of a table."""
    lstms, steps, batch = make_layer(20, 32, 2), 9, 80
    lengths_B = torch.tensor([9, 1, 4, 9, 7, 2, 8, 5, 3, 6] * 8)
    values_RX, places_TB = torch.randn(50, 20), torch.randint(50, (steps, batch))
    values_TBX, weights = values_RX[places_TB], weights_of(lstms)
    nothing = [torch.zeros(steps, batch, 32)] * 2
    sizes = [2, steps, batch, 20, 32, 1]
    write(tmp_path / "whole", [*sizes, 0], [lengths_B, values_TBX, *weights, *nothing])
    write(tmp_path / "rows", [*sizes, 50], [lengths_B, values_RX, places_TB, *weights])
    states = {}
    for name in ("whole", "rows"):
        assert run_build(build, tmp_path / name).returncode == 0
        found = np.fromfile(tmp_path / f"{name}.out", np.float32, count=2 * steps * batch * 32)
        states[name] = found.reshape(2, steps, batch, 32)
    assert np.array_equal(states["whole"], states["rows"])
    for text in (0, 1, 65, 66, 79):
        length = int(lengths_B[text])
        alone = [lengths_B[text : text + 1], values_TBX[:length, text], *weights]
        write(tmp_path / "alone", [2, length, 1, 20, 32, 1, 0], [*alone, *(of[:length, 0] for of in nothing)])
        assert run_build(build, tmp_path / "alone").returncode == 0
        found = np.fromfile(tmp_path / "alone.out", np.float32, count=2 * length * 32)
        assert np.array_equal(found.reshape(2, length, 32), states["whole"][:, :length, text])


@pytest.mark.parametrize("build", SANITIZED)
@pytest.mark.parametrize("fault", ["a text longer than its batch", "a row beyond the table"])
def test_the_sanitizer_finds_what_the_checks_prevent(
    build: str, fault: str, run_build: Run, tmp_path: Path
) -> None:
    """The control: these are the arguments that `lstm.py` refuses."""
    lstms, lengths_B, places_TB = make_layer(8, 16, 2), torch.tensor([5, 3]), torch.randint(4, (5, 2))
    if fault == "a text longer than its batch":
        lengths_B[0] = 900
    else:
        places_TB[2, 1] = 4
    write(
        tmp_path / "in",
        [2, 5, 2, 8, 16, 1, 4],
        [lengths_B, torch.randn(4, 8), places_TB, *weights_of(lstms)],
    )
    done = run_build(build, tmp_path / "in")
    assert done.returncode not in (0, 3)
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


def token_arrays(size: int) -> list[Tensor]:
    """Return what `subwords_main.c` reads: ids, buckets of known and unknown tokens, tables, gradient."""
    words, subwords, spelling_XK = make(size)
    assert subwords is not None
    assert subwords.spelling_VK is not None
    subwords.spelling_VK[1] = 0  # the unknown token has no n-grams of its own
    ids_N = torch.randint(KNOWN + UNKNOWN_TOKENS, (50,))
    tables = [words.weight, subwords.table.weight]
    return [ids_N, subwords.spelling_VK, spelling_XK, *tables, torch.randn(50, size)]


def write_tokens(path: Path, arrays: Sequence[Tensor]) -> None:
    ids_N, spelling_VK, spelling_XK, _, table_RE, _ = arrays
    shape = [len(ids_N), len(spelling_VK), len(spelling_XK), spelling_VK.shape[1], *table_RE.shape]
    write(path, [*shape, 1], arrays)


@pytest.mark.parametrize("build", OF_ALL_KERNELS)
@pytest.mark.parametrize("size", [5, 128])
def test_each_build_adds_vectors_of_ngrams(build: str, size: int, run_build: Run, tmp_path: Path) -> None:
    """Vectors of tokens, also kept ones, and the gradients of both tables are those of each token alone."""
    arrays = token_arrays(size)
    write_tokens(tmp_path / "in", arrays)
    done = run_build(build, tmp_path / "in", main="subwords")
    assert done.returncode == 0, done.stderr
    ids_N, *spelling, words_VE, table_RE, upstream_NE = arrays
    expected_NE = one_by_one(ids_N, words_VE, table_RE, torch.cat(spelling))
    gradients = torch.autograd.grad(expected_NE, [words_VE, table_RE], upstream_NE)
    found = torch.from_numpy(np.fromfile(tmp_path / "in.out", np.float32))
    wanted = [expected_NE.detach(), *gradients, expected_NE.detach()]
    for part, one in zip(found.split([of.numel() for of in wanted]), wanted, strict=True):
        torch.testing.assert_close(part.view_as(one), one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fault", ["a token beyond both tables", "a bucket beyond the table"])
def test_indices_of_tokens_are_checked_before_use(fault: str, run_build: Run, tmp_path: Path) -> None:
    """The control: without the checks the sanitizer finds the access."""
    arrays = token_arrays(8)
    if fault == "a token beyond both tables":
        arrays[0][7] = KNOWN + UNKNOWN_TOKENS
    else:
        arrays[1][arrays[0][arrays[0] < KNOWN][0], 0] = len(arrays[4])
    write_tokens(tmp_path / "in", arrays)
    assert run_build("sanitizers", tmp_path / "in", main="subwords").returncode == 4
    checks = (
        "if (bags->ids[n] < 0 || bags->ids[n] >= limit) return;",
        "if (spelling[k] < 0 || spelling[k] >= bags->buckets) return 0;",
    )
    done = run_build("sanitizers", tmp_path / "in", main="subwords", without=checks)
    assert done.returncode not in (0, 3, 4)
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr


@pytest.mark.parametrize("build", OF_ALL_KERNELS)
def test_each_build_hashes_ngrams(build: str, run_build: Run, tmp_path: Path) -> None:
    """The buckets of tokens with no n-gram, a few, and more than are kept."""
    tokens = ["so", "<url>", "", "naïve", "😀", "pneumonoultramicroscopicsilicovolcanoconiosis", "good"]
    words = bounded(tokens)
    codes = torch.tensor([ord(character) for character in "".join(words)], dtype=torch.int32)
    for buckets in (2, 50, 32_768):
        expected = spell(tokens, buckets)
        lengths = torch.tensor([len(word) for word in words])
        write(tmp_path / "in", [*expected.shape, buckets, len(codes)], [lengths, codes])
        done = run_build(build, tmp_path / "in", main="spelling")
        assert done.returncode == 0, done.stderr
        found = np.fromfile(tmp_path / "in.out", np.int32)
        assert np.array_equal(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("build", OF_ALL_KERNELS)
@pytest.mark.parametrize("features", [5, 64])
def test_each_build_computes_logits(build: str, features: int, run_build: Run, tmp_path: Path) -> None:
    """Of a linear layer, and of words and word pairs with unknown tokens."""
    branch, linear = NgramBranch(12, 3, buckets=30), torch.nn.Linear(features, 3)
    torch.nn.init.normal_(branch.weights.weight)
    with torch.no_grad():
        branch.weights.weight[0], linear.bias[:] = 0.0, branch.bias.normal_()
    tokens_BT, lengths_B, values_BP = (
        torch.randint(1, 16, (7, 9)),
        torch.randint(1, 10, (7,)),
        torch.randn(7, features),
    )
    arrays = [tokens_BT, lengths_B, branch.weights.weight, values_BP, linear.weight, linear.bias]
    write(tmp_path / "in", [7, 9, 3, 12, 42, features, *HASH], arrays)
    done = run_build(build, tmp_path / "in", main="sums")
    assert done.returncode == 0, done.stderr
    expected = torch.stack([branch(tokens_BT, lengths_B), linear(values_BP)]).detach()
    found = torch.from_numpy(np.fromfile(tmp_path / "in.out", np.float32)).view(2, 7, 3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    tokens_BT[2, 0] = -1
    write(tmp_path / "in", [7, 9, 3, 12, 42, features, *HASH], arrays)
    assert run_build(build, tmp_path / "in", main="sums").returncode == 4
