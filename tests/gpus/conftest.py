"""Machines with GPUs that are not there: a stand-in for NVML, and the files that a kernel shows."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nvml_stand_in import NvmlStandIn


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has chosen GPUs, nor the CPU (as tests/conftest.py does for all others)."""
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """machine(stand-in or None, "dev/nvidiactl", ...) -> the root of a file system with these (device) files."""

    def make(nvml: Any, *files: str) -> Path:
        if nvml is not None:
            assert isinstance(nvml, NvmlStandIn)
            monkeypatch.setitem(sys.modules, "pynvml", nvml)  # type: ignore[arg-type]
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make
