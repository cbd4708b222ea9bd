"""A compiled library is used only if it matches, and the fastest of them for the LSTM."""

from __future__ import annotations

import ctypes
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lstm_sentiment.kernels import library as module
from lstm_sentiment.kernels.library import applies_to, instructions, library, lstm_library

needs_kernel = pytest.mark.skipif(library() is None, reason="no compiled kernels on this machine")
needs_avx512 = pytest.mark.skipif(
    library("_lstm_avx512") is None, reason="no LSTM compiled for AVX-512, or another CPU"
)
needs_bf16 = pytest.mark.skipif(
    lstm_library("bf16") is None, reason="no compiled LSTM with bf16 products, or no AVX512-BF16"
)
SUFFIX = module.sysconfig.get_config_var("EXT_SUFFIX")


@pytest.fixture(autouse=True)
def _fresh_search() -> Iterator[None]:
    library.cache_clear()
    module._checked.cache_clear()
    yield
    library.cache_clear()


@needs_kernel
def test_a_library_of_another_version_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An older one would misread its arguments and write out of bounds."""
    monkeypatch.setattr(module, "INTERFACE", module.INTERFACE + 1)
    with caplog.at_level(logging.WARNING):
        assert library() is None
    assert "is of another version and not used: reinstall the package" in caplog.text
    assert not applies_to(torch.zeros(2))


@pytest.mark.parametrize("case", ["missing", "broken", "another program's"])
def test_without_a_library_pytorch_is_used(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "__file__", str(tmp_path / "library.py"))
    name = f"_kernels{SUFFIX}"
    if case == "broken":
        (tmp_path / name).write_bytes(b"\x7fELF, but no more")
    elif case == "another program's":
        monkeypatch.setattr(ctypes, "CDLL", lambda path: ctypes.PyDLL(None))
        (tmp_path / name).touch()
    assert library() is None
    assert not applies_to(torch.zeros(2))


@needs_kernel
def test_only_contiguous_arrays_of_one_type_are_accepted() -> None:
    assert applies_to(torch.zeros(2), torch.zeros(3, 4))
    assert not applies_to(torch.zeros(2), torch.zeros(2).double())
    assert not applies_to(torch.zeros(2), torch.zeros(0))
    assert not applies_to(torch.zeros(2, device="meta"))


@needs_kernel
@pytest.mark.parametrize("wanted", ["", "auto", "on", "off", "fast"])
def test_the_environment_variable_chooses_the_kernels(
    wanted: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(module.VARIABLE, wanted)
    assert (instructions() is None) == (wanted == "off")
    assert (instructions("bf16") is None) or wanted != "off"
    assert library("_kernels") is None or wanted != "off"
    assert caplog.text.count("is 'fast', not auto, on or off") == (wanted == "fast")


@needs_kernel
@pytest.mark.parametrize(("wanted", "used"), [("auto", False), ("on", True)])
def test_kernels_whose_speed_was_not_measured_are_used_on_request(
    wanted: str, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(module.VARIABLE, wanted)
    monkeypatch.setattr(module, "MEASURED", ())
    assert (library() is not None) == used


@needs_kernel
def test_kernels_for_instructions_that_the_cpu_lacks_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.VARIABLE, "on")
    monkeypatch.setattr(module, "_available", lambda: ("NEON",))
    assert library() is None


def test_the_libraries_are_those_that_are_compiled() -> None:
    """Each file that a format is computed with; another format has none."""
    assert {name for names in module.LSTM_FILES.values() for name in names} == set(module.FILES)
    assert lstm_library("fp16") is None
    assert instructions("fp16") is None


@needs_kernel
def test_fp32_has_the_fastest_library_of_this_cpu() -> None:
    assert lstm_library() is (library("_lstm_avx512") or library("_kernels"))
    assert instructions() in (module._available()[0], "AVX512")


@needs_avx512
def test_avx512_is_preferred_to_avx2() -> None:
    assert lstm_library() is library("_lstm_avx512")
    assert (instructions(), library().kernels_instructions()) == ("AVX512", 1)  # type: ignore[union-attr]


@needs_bf16
def test_bf16_has_its_own_library() -> None:
    """Another one would take its buffers for longer ones and write out of bounds."""
    assert lstm_library("bf16") is library("_lstm_bf16")
    assert instructions("bf16") == "AVX512-BF16"
    assert lstm_library("bf16") is not lstm_library("fp32")


@needs_avx512
@pytest.mark.parametrize("lacking", ["AVX512-BF16", "AVX512", "AVX2"])
def test_a_cpu_without_the_instructions_has_the_next_library(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or none: there is no other one for bf16."""
    available = ("AVX2", "AVX512", "AVX512-BF16")
    here = available[: available.index(lacking)]
    monkeypatch.setattr(module, "_available", lambda: here)
    assert instructions("bf16") is None
    assert instructions() == (here[-1] if here else None)


@pytest.mark.parametrize(
    ("capability", "supported", "expected"),
    [
        ("AVX512", True, ("AVX2", "AVX512", "AVX512-BF16")),
        ("AVX512", False, ("AVX2", "AVX512")),
        ("AVX512", None, ("AVX2", "AVX512")),
        ("AVX2", True, ("AVX2",)),
        ("DEFAULT", True, ()),
    ],
)
def test_instructions_of_the_cpu(
    capability: str, supported: bool | None, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PyTorch reports them; an older version does not report bf16."""
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    if supported is not None:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False)
    assert module._available() == expected


@needs_bf16
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_no_library_is_used_if_kernels_are_off(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.VARIABLE, "off")
    assert lstm_library(precision) is None
    library.cache_clear()
    monkeypatch.setenv(module.VARIABLE, "on")
    assert lstm_library(precision) is not None


@needs_bf16
@pytest.mark.parametrize(
    ("wanted", "fp32", "bf16"), [("auto", "AVX2", None), ("on", "AVX512", "AVX512-BF16")]
)
def test_instructions_whose_speed_was_not_measured_are_used_on_request(
    wanted: str, fp32: str, bf16: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(module.VARIABLE, wanted)
    monkeypatch.setattr(module, "MEASURED", ("AVX2",))
    assert (instructions("fp32"), instructions("bf16")) == (fp32, bf16)


@needs_avx512
@pytest.mark.parametrize("fault", ["missing", "broken", "another library"])
def test_without_the_library_for_avx512_that_of_all_kernels_is_used(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiling it is optional."""
    folder = Path(module.__file__).parent
    shutil.copy(folder / f"_kernels{SUFFIX}", tmp_path)
    if fault == "broken":
        (tmp_path / f"_lstm_avx512{SUFFIX}").write_bytes(b"\x7fELF, but no more")
    elif fault == "another library":
        shutil.copy(folder / f"_tokens{SUFFIX}", tmp_path / f"_lstm_avx512{SUFFIX}")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "library.py"))
    assert library("_lstm_avx512") is None
    assert lstm_library() is library("_kernels")
    assert (instructions(), instructions("bf16")) == ("AVX2", None)
