"""The compiled library is used only if it matches."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lstm_sentiment.kernels import library as module
from lstm_sentiment.kernels.library import applies_to, library

needs_kernel = pytest.mark.skipif(library() is None, reason="no compiled kernels on this machine")


@pytest.fixture(autouse=True)
def _fresh_search() -> Iterator[None]:
    library.cache_clear()
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
    name = f"_kernels{module.sysconfig.get_config_var('EXT_SUFFIX')}"
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
    assert (module.instructions() is None) == (wanted == "off")
    assert ("is 'fast', not auto, on or off" in caplog.text) == (wanted == "fast")


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
